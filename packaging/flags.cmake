# Compiler and linker flags for every C target. kernels/ includes this file too when it is built alone.
add_compile_options(-Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wvla -fno-common)
add_compile_definitions(_GNU_SOURCE)
if(WEIR_WERROR)
    add_compile_options(-Werror)
endif()

if(WEIR_SANITIZE)
    add_compile_options($<$<COMPILE_LANGUAGE:C>:-fsanitize=${WEIR_SANITIZE}> -fno-omit-frame-pointer)
    add_link_options(-fsanitize=${WEIR_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" OR CMAKE_BUILD_TYPE STREQUAL "Release")
    add_compile_options($<$<COMPILE_LANGUAGE:C>:-fstack-protector-strong>
                        $<$<COMPILE_LANGUAGE:C>:-fstack-clash-protection> -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
    add_link_options(-Wl,-z,relro,-z,now)
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# Assertions stay on in release builds: an optimised build that keeps them is RelWithDebInfo without NDEBUG.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_RELEASE "-O2")
