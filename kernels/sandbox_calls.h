/* The system calls of each profile. Private to the sandbox. */
#ifndef KERNELS_SANDBOX_CALLS_H
#define KERNELS_SANDBOX_CALLS_H

#include <stdbool.h>

/* Names of system calls, NULL-ended lists; a name that this kernel's library doesn't know is passed over. */
struct sandbox_calls {
    const char *const *allowed[3];
    const char *const *socket;  /* allowed on descriptor 3 alone */
    const char *const *refused; /* EPERM, and whatever is in no list ends the process; NULL: see fatal */
    const char *const *fatal;   /* ends the process, and whatever is in no list gets EPERM */
    bool threads;               /* clone may start threads, and nothing else */
};

extern const struct sandbox_calls sandbox_cpu_calls, sandbox_gpu_calls, sandbox_compile_calls;

/* 0, or minus an errno: the filter is in force, or nothing has changed. Needs no_new_privs, or CAP_SYS_ADMIN. */
int sandbox_load_calls(const struct sandbox_calls *calls);

#endif
