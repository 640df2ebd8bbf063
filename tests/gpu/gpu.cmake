# The GPU against the CPU, bit for bit; skips with 77 where there is no GPU or no CUDA compiler was found.
add_executable(gpu_test ${CMAKE_CURRENT_LIST_DIR}/gpu_test.c)
target_link_libraries(gpu_test PRIVATE weir_compute)
set_target_properties(gpu_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
add_test(NAME gpu.kernels COMMAND gpu_test)
set_tests_properties(gpu.kernels PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77)

# What a GPU does, for tests/gpu/gpu.py.
add_executable(gpu_measure ${CMAKE_CURRENT_LIST_DIR}/measure.c)
target_link_libraries(gpu_measure PRIVATE weir_compute m)
set_target_properties(gpu_measure PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})

# The same small cases on a driver that runs the .cu sources on the CPU, so that CUDA code is checked without a GPU too.
find_program(WEIR_CXX NAMES g++ c++)
if(WEIR_CUDA AND WEIR_NVCC AND WEIR_CXX AND NOT WEIR_SANITIZE)
    cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH gpu_tests)
    cmake_path(GET gpu_tests PARENT_PATH gpu_root)
    set(emulated ${CMAKE_CURRENT_BINARY_DIR}/emulated)
    file(MAKE_DIRECTORY ${emulated})
    file(GLOB cuda_sources CONFIGURE_DEPENDS ${gpu_root}/kernels/*.cu ${gpu_root}/kernels/examples/*.cu)
    add_custom_command(
        OUTPUT ${emulated}/libcuda.so.1
        COMMAND ${WEIR_CXX} -std=c++17 -O1 -w -ffp-contract=off -fPIC -shared -I${gpu_root} -I${gpu_root}/kernels
                ${CMAKE_CURRENT_LIST_DIR}/emulator.cc -o ${emulated}/libcuda.so.1
        DEPENDS ${CMAKE_CURRENT_LIST_DIR}/emulator.cc ${cuda_sources} ${gpu_root}/kernels/embed_core.h
                ${gpu_root}/kernels/kmeans_core.h ${gpu_root}/kernels/montecarlo_core.h
                ${gpu_root}/kernels/nbody_core.h ${gpu_root}/kernels/render_core.h ${gpu_root}/kernels/render_scene.h
                ${gpu_root}/kernels/weir_math.h ${CMAKE_CURRENT_LIST_DIR}/emulator.h
        VERBATIM)
    add_custom_target(gpu_emulator ALL DEPENDS ${emulated}/libcuda.so.1)
    add_test(NAME gpu.emulated COMMAND gpu_test 1 small)
    set_tests_properties(gpu.emulated PROPERTIES LABELS gpu TIMEOUT 300 SKIP_RETURN_CODE 77
                         ENVIRONMENT "LD_LIBRARY_PATH=${emulated}")
    add_test(NAME gpu.measured COMMAND gpu_measure small)
    set_tests_properties(gpu.measured PROPERTIES LABELS gpu TIMEOUT 300 SKIP_RETURN_CODE 77
                         ENVIRONMENT "LD_LIBRARY_PATH=${emulated}")
    if(TARGET PkgConfig::CMOCKA)
        add_executable(gpu_runtime_test ${CMAKE_CURRENT_LIST_DIR}/runtime_test.c)
        target_link_libraries(gpu_runtime_test PRIVATE weir_compute PkgConfig::CMOCKA ${CMAKE_DL_LIBS})
        set_target_properties(gpu_runtime_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
        add_test(NAME gpu.runtime COMMAND gpu_runtime_test)
        set_tests_properties(gpu.runtime PROPERTIES LABELS gpu TIMEOUT 300 SKIP_RETURN_CODE 77
                             ENVIRONMENT "LD_LIBRARY_PATH=${emulated}")
    endif()
endif()

# Plays the driver's management library for the watcher, by a script (tests/integration/gpu_owner_test.py).
add_library(nvml_script MODULE ${CMAKE_CURRENT_LIST_DIR}/nvml_script.c)
set_target_properties(nvml_script PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
