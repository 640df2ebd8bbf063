/* The system calls of each profile. Private to the sandbox. */
#ifndef KERNELS_SANDBOX_CALLS_H
#define KERNELS_SANDBOX_CALLS_H

/* Names of system calls with spaces between; NULL: none. A name that libseccomp doesn't know is passed over. */
struct sandbox_calls {
    const char *allowed[3];
    const char *map;     /* mmap, but for shared memory of no file */
    const char *socket;  /* allowed on descriptor 3 alone */
    const char *refused; /* EPERM, and whatever is in no list ends the process; NULL: see fatal */
    const char *fatal;   /* ends the process, and whatever is in no list gets EPERM */
    unsigned long clone_mask, clone_value; /* clone is allowed if (flags & mask) == value; mask 0: never */
};

extern const struct sandbox_calls sandbox_cpu_calls, sandbox_gpu_calls, sandbox_compile_calls;

/* 0, or minus an errno: the filter is in force, or nothing has changed. Needs no_new_privs, or CAP_SYS_ADMIN. */
int sandbox_load_calls(const struct sandbox_calls *calls);

#endif
