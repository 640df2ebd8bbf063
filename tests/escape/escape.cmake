# What a stranger's code tries from inside the sandbox. A sanitizer makes calls of its own, so it has no place here.
if(NOT WEIR_SANITIZE)
    add_executable(escape_test ${CMAKE_CURRENT_LIST_DIR}/attacks.c ${CMAKE_CURRENT_LIST_DIR}/escape_test.c)
    target_link_libraries(escape_test PRIVATE weir_sandbox PkgConfig::CMOCKA)
    set_target_properties(escape_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
    add_test(NAME escape.sandbox COMMAND escape_test)
    add_test(NAME escape.unprivileged COMMAND escape_test --unprivileged)
    set_tests_properties(escape.sandbox escape.unprivileged PROPERTIES LABELS "escape;slow" TIMEOUT 300
                         SKIP_RETURN_CODE 77)
endif()
