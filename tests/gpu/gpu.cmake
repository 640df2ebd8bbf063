# The GPU against the CPU, bit for bit; skips with 77 where there is no GPU or no CUDA compiler was found.
add_executable(gpu_test ${CMAKE_CURRENT_LIST_DIR}/gpu_test.c)
target_link_libraries(gpu_test PRIVATE weir_compute)
set_target_properties(gpu_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
add_test(NAME gpu.kernels COMMAND gpu_test)
set_tests_properties(gpu.kernels PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77)
