/* The box that strangers' code runs in: a process that has nothing but what it was given.
 *
 * Two halves. sandbox_spawn is for whoever starts the process (the node): it makes the user and PID namespaces
 * and the cgroup, which a process can't make around itself, and needs no library. sandbox_enter is for the
 * process itself, before it touches a foreign byte: mounts, network, Landlock, limits, privileges and last
 * seccomp. Each half fills its part of a report; sandbox_merge joins them.
 *
 *   node     sandbox_spawn(&process, &spawn, &report)    the program begins with descriptors 3, 4, ...
 *   program  sandbox_enter(&profile, &report)            open what is needed first: afterwards nothing can be
 *   node     waitid(P_PIDFD, process.pidfd, ...), then   kill by pidfd: what it started dies with it (PID 1)
 *            sandbox_reaped(&process)                    closes the descriptor, removes the cgroup
 *
 * Profiles:
 *   SANDBOX_CPU      runs CPU kernels. Afterwards the process may compute, take and give back memory, wait on a
 *                    futex, talk over and receive descriptors from descriptor 3, map those, and end. There is no
 *                    open, so no dlopen: libraries are opened before, foreign code comes as a descriptor and is
 *                    mapped. Any other system call ends the process with SIGSYS.
 *   SANDBOX_GPU      as far as a GPU's driver lets: its files and devices can be opened, threads started, ioctl
 *                    called. Other calls are refused with EPERM, and those that no driver needs end the process.
 *   SANDBOX_COMPILE  a compiler: sees `readable` and a /tmp of its own, may start programs that lie in `readable`.
 *                    The program writes the source to /tmp, starts the compiler and waits, reads the result from
 *                    /tmp and hands it out over a descriptor that it had before (RLIMIT_FSIZE, `file_bytes`, holds
 *                    for a memfd too). NVRTC is opened before and called inside. Other calls: EPERM.
 *
 * No layer is an error when it isn't there: the report says which, why, and what would turn it on, and the
 * caller decides. sandbox_full is the decision about foreign kernels. What none of it holds off: side channels,
 * bugs of the kernel or of a GPU's driver, and whoever runs the machine (docs/security.md). */
#ifndef KERNELS_SANDBOX_H
#define KERNELS_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* In the order in which they are put on, and shown. */
enum sandbox_layer {
    SANDBOX_USER,      /* own user namespace; where root starts it, an outer user that owns nothing */
    SANDBOX_PID,       /* own PID namespace: sees and signals nobody outside */
    SANDBOX_MEMORY,    /* a limit by cgroup v2 or v1, else RLIMIT_DATA (never RLIMIT_AS, which breaks CUDA) */
    SANDBOX_PROCESSES, /* a limit by cgroup v2 or v1, else RLIMIT_NPROC */
    SANDBOX_MOUNT,     /* own mounts: a small read-only root with what the profile shows and nothing else */
    SANDBOX_DEV,       /* a /dev with the profile's devices only */
    SANDBOX_NET,       /* own network namespace, with nothing in it, loopback down */
    SANDBOX_IPC,       /* own System V IPC, host name and cgroup view */
    SANDBOX_PRIVILEGES, /* no new privileges, no capabilities, no core file */
    SANDBOX_LANDLOCK,   /* what of the file system may be read, written or executed, once more */
    SANDBOX_SECCOMP,    /* the system calls of the profile and no other */
    SANDBOX_LAYERS      /* count */
};
#define SANDBOX_DETAIL_BYTES 96

struct sandbox_state {
    bool on;
    char detail[SANDBOX_DETAIL_BYTES]; /* on: how, where there is a choice; off: why */
};
/* Plain bytes: may be sent between processes of one build. Born zeroed: every layer off, without a reason. */
struct sandbox_report {
    struct sandbox_state layers[SANDBOX_LAYERS];
};

const char *sandbox_layer_name(enum sandbox_layer layer); /* "user", "landlock" */
const char *sandbox_layer_help(enum sandbox_layer layer); /* what it keeps from a stranger, one line */
const char *sandbox_layer_fix(enum sandbox_layer layer);  /* what turns it on where it is off, one line */
/* Every layer is on: strangers' kernels may run. Built-in kernels run under any report. */
bool sandbox_full(const struct sandbox_report *report);
/* The first layer that is off, SANDBOX_LAYERS if none. */
enum sandbox_layer sandbox_missing(const struct sandbox_report *report);
/* Adds what the other half of the sandbox reported: each half speaks of its own layers. */
void sandbox_merge(struct sandbox_report *report, const struct sandbox_report *entered);

/* ---- The starter's half */

#define SANDBOX_FDS_MAX 8
#define SANDBOX_CGROUP_BYTES 320

struct sandbox_spawn {
    const char *path;      /* the program */
    char *const *argv;     /* ends with NULL */
    char *const *envp;     /* ends with NULL */
    const int *fds;        /* become 3, 4, ... of the program; stay the caller's */
    uint32_t fd_count;     /* at most SANDBOX_FDS_MAX; nothing else is passed on, but stdin is /dev/null and
                              stdout and stderr are the caller's */
    uint64_t memory_bytes; /* the cgroup's limit; 0: none. Give the same to the profile */
    uint32_t processes;    /* and threads; 0: none */
    uint32_t off;          /* bits of layers (1u << layer) to leave out: for tests, and `weir doctor` */
};

/* Born in sandbox_spawn; dies in sandbox_reaped. */
struct sandbox_process {
    pid_t pid;
    int pidfd;                             /* readable when the process has ended */
    char cgroups[2][SANDBOX_CGROUP_BYTES]; /* folders to be removed; empty: none */
};

/* Starts the program in new user and PID namespaces and a cgroup, as far as they are there. It dies with the
 * calling thread. False with errno if it could not be started at all. Takes a few hundred microseconds. */
bool sandbox_spawn(struct sandbox_process *process, const struct sandbox_spawn *spawn,
                   struct sandbox_report *report);
/* After the process was waited for. Allowed for a zeroed process. */
void sandbox_reaped(struct sandbox_process *process);

/* ---- The program's half: needs libseccomp, so it is in a library of its own (weir_sandbox) */

enum sandbox_kind { SANDBOX_CPU, SANDBOX_GPU, SANDBOX_COMPILE };

struct sandbox_profile {
    enum sandbox_kind kind;
    const char *const *readable; /* paths shown read-only, NULL-ended; NULL: none. Those that don't exist are
                                    left out; symbolic links at the root (/lib -> usr/lib) stay links */
    const char *const *devices;  /* device nodes shown in /dev, NULL-ended; NULL: none */
    uint64_t tmp_bytes;          /* of a /tmp of its own, in memory; 0: there is none */
    uint64_t memory_bytes;       /* RLIMIT_DATA; 0: none */
    uint64_t
        file_bytes; /* of a file it writes (RLIMIT_FSIZE), stderr included; 0: none, for a GPU no limit */
    uint32_t cpu_seconds; /* RLIMIT_CPU; 0: none */
    uint32_t processes;   /* RLIMIT_NPROC, threads included; 0: none of its own */
    uint32_t off;         /* as above */
};

/* Puts on all layers of the program's half. Never fails; `report` says what is on. Descriptors that are open
 * stay open, mapped libraries stay mapped. The working directory becomes /. One thread must be all there is. */
void sandbox_enter(const struct sandbox_profile *profile, struct sandbox_report *report);

#endif
