#include "kernels/sandbox_calls.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#ifdef WEIR_SECCOMP
#include <seccomp.h>
#endif

#define SOCKET_FD 3
#define NAMESPACES                                                                                           \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |            \
     CLONE_NEWNET)

/* What computing needs, and what malloc, a lock and the end of a process are made of. */
static const char compute[] =
    "brk clock_gettime close exit exit_group futex getrandom madvise mprotect mremap munmap "
    "restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sched_yield sigaltstack";

/* Not memory that is shared and of no file: RLIMIT_DATA doesn't count it. */
static const char map[] = "mmap";

/* The worker's words with its node. */
static const char talk[] = "recvmsg sendmsg";

/* A C library asks such things in passing and copes with a no. */
static const char harmless[] =
    "fstat getpid getppid getrlimit gettid mbind newfstatat prlimit64 sched_getaffinity sysinfo tgkill "
    "uname write writev";

/* Files, descriptors, time and threads: what a driver or a compiler needs beyond computing. */
static const char ordinary[] =
    "access arch_prctl clock_getres clock_nanosleep close_range dup dup2 dup3 epoll_create1 epoll_ctl "
    "epoll_pwait epoll_wait eventfd2 faccessat faccessat2 fadvise64 fallocate fcntl fstat fstatfs "
    "fsync ftruncate futex_waitv get_mempolicy get_robust_list getcpu getcwd getdents64 getegid "
    "geteuid getgid getgroups getpid getppid getpriority getresgid getresuid getrlimit getrusage "
    "gettid gettimeofday getuid lseek lstat mbind membarrier memfd_create mincore mlock mlock2 mmap msync "
    "munlock nanosleep newfstatat open openat pipe pipe2 poll ppoll prctl pread64 prlimit64 pselect6 "
    "pwrite64 read readlink readlinkat readv rseq rt_sigaction rt_sigpending rt_sigsuspend "
    "rt_sigtimedwait sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam "
    "sched_getscheduler sched_setaffinity select set_robust_list set_tid_address sigaltstack stat "
    "statfs statx sysinfo tgkill time timerfd_create timerfd_settime times uname write writev";

static const char drive[] = "ioctl";

/* A compiler's driver starts its passes and removes their files. */
static const char compile[] =
    "chdir chmod creat execve fchmod fchmodat fork kill link linkat mkdir mkdirat rename "
    "renameat renameat2 rmdir symlink symlinkat truncate umask unlink unlinkat utimensat vfork wait4 "
    "waitid";

/* Nothing that is at peace calls these: whoever does has taken the program over. */
static const char hostile[] =
    "add_key bpf finit_module fsopen init_module io_uring_enter io_uring_register io_uring_setup "
    "kexec_load keyctl mount move_mount open_by_handle_at open_tree perf_event_open pidfd_getfd "
    "pivot_root process_vm_readv process_vm_writev ptrace request_key setns umount2 unshare "
    "userfaultfd";

const struct sandbox_calls sandbox_cpu_calls = {
    .allowed = {compute}, .map = map, .socket = talk, .refused = harmless};
const struct sandbox_calls sandbox_gpu_calls = {.allowed = {compute, ordinary, drive},
                                                .socket = talk,
                                                .fatal = hostile,
                                                .clone_mask = CLONE_THREAD,
                                                .clone_value = CLONE_THREAD};
const struct sandbox_calls sandbox_compile_calls = {
    .allowed = {compute, ordinary, compile}, .socket = talk, .fatal = hostile, .clone_mask = NAMESPACES};

#ifdef WEIR_SECCOMP
static int add(scmp_filter_ctx filter, uint32_t action, const char *names, const struct scmp_arg_cmp *test)
{
    char name[32];
    for (int used; names && sscanf(names, "%31s%n", name, &used) == 1; names += used) {
        const int call = seccomp_syscall_resolve_name(name);
        if (call == __NR_SCMP_ERROR)
            continue;
        const int error = test ? seccomp_rule_add(filter, action, call, 1, *test)
                               : seccomp_rule_add(filter, action, call, 0);
        if (error && error != -EEXIST && error != -EDOM)
            return error;
    }
    return 0;
}

static int fill(scmp_filter_ctx filter, const struct sandbox_calls *calls)
{
    const struct scmp_arg_cmp on_socket = SCMP_A0(SCMP_CMP_EQ, SOCKET_FD, 0);
    const struct scmp_arg_cmp flags = SCMP_A0(SCMP_CMP_MASKED_EQ, calls->clone_mask, calls->clone_value);
    const struct scmp_arg_cmp of_file = SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0);
    const struct scmp_arg_cmp private =
        SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS | MAP_SHARED, MAP_ANONYMOUS);
    int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (!error)
        error = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    for (size_t i = 0; !error && i < sizeof calls->allowed / sizeof *calls->allowed; i++)
        error = add(filter, SCMP_ACT_ALLOW, calls->allowed[i], NULL);
    if (!error)
        error = add(filter, SCMP_ACT_ALLOW, calls->socket, &on_socket);
    if (!error)
        error = add(filter, SCMP_ACT_ALLOW, calls->map, &of_file);
    if (!error)
        error = add(filter, SCMP_ACT_ALLOW, calls->map, &private);
    if (!error && calls->clone_mask) {
        /* clone3 hides its flags from a filter; libc falls back to clone where it isn't there. */
        error = add(filter, SCMP_ACT_ALLOW, "clone", &flags);
        if (!error)
            error = add(filter, SCMP_ACT_ERRNO(ENOSYS), "clone3", NULL);
    }
    if (!error && calls->fatal)
        error = add(filter, SCMP_ACT_KILL_PROCESS, calls->fatal, NULL);
    if (!error && calls->refused)
        error = add(filter, SCMP_ACT_ERRNO(EPERM), calls->refused, NULL);
    return error;
}

int sandbox_load_calls(const struct sandbox_calls *calls)
{
    scmp_filter_ctx filter = seccomp_init(calls->refused ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM));
    if (!filter)
        return -ENOMEM;
    int error = fill(filter, calls);
    if (!error)
        error = seccomp_load(filter);
    seccomp_release(filter);
    return error;
}
#else
int sandbox_load_calls(const struct sandbox_calls *calls)
{
    (void)calls;
    return -ENOSYS;
}
#endif
