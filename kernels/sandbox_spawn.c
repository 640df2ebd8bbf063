/* The starter's half. The child between clone and exec is a copy of one thread of a program with many, so it
 * makes system calls and nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/sandbox_cgroup.h"

#define FIRST_FD 3      /* of the program */
#define HIGH_FD 64      /* copies wait above this, so that none overwrites another's source */
#define EXEC_FAILED 127 /* exit status, as of a shell */

/* No account has this user: started by root, a sandboxed process is 2^30 + its PID outside. */
#define OUTER_USER_FIRST 1073741824u

/* All that the child needs, prepared before the clone. */
struct launch {
    const struct sandbox_spawn *spawn;
    int program, null;
    int go[2]; /* a pipe, at its end when the starter closes it: the maps are written */
    int fds[SANDBOX_FDS_MAX];
    int procs[2];
    bool change_user; /* root of its namespace is another user outside */
};

static bool open_all(struct launch *launch);
static void close_all(struct launch *launch);
static long clone_child(const struct sandbox_spawn *spawn, int *pidfd, struct sandbox_report *report);
static bool write_maps(struct launch *launch, pid_t pid);
static _Noreturn void child(const struct launch *launch);

static void say(struct sandbox_report *report, enum sandbox_layer layer, bool on, const char *detail)
{
    report->layers[layer].on = on;
    snprintf(report->layers[layer].detail, SANDBOX_DETAIL_BYTES, "%s", detail);
}

/* Others may execute the program, and it is no script, which is read by its path: a folder above may be closed. */
static bool open_to_all(const struct launch *launch)
{
    struct stat status;
    char begin[2] = "";
    const int file = open(launch->spawn->path, O_RDONLY | O_CLOEXEC);
    const bool open = file >= 0 && fstat(file, &status) == 0 && status.st_mode & S_IXOTH &&
                      read(file, begin, 2) == 2 && memcmp(begin, "#!", 2) != 0;
    if (file >= 0)
        close(file);
    return open;
}

bool sandbox_spawn(struct sandbox_process *process, const struct sandbox_spawn *spawn,
                   struct sandbox_report *report)
{
    struct launch launch = {.spawn = spawn};
    struct cgroup_place place = {.procs = {-1, -1}};
    int pidfd = -1;
    *process = (struct sandbox_process){.pid = -1, .pidfd = -1};
    *report = (struct sandbox_report){0};
    const bool good = open_all(&launch);
    if (good)
        cgroup_make(&place, spawn->off & 1u << SANDBOX_MEMORY ? 0 : spawn->memory_bytes,
                    spawn->off & 1u << SANDBOX_PROCESSES ? 0 : spawn->processes);
    memcpy(launch.procs, place.procs, sizeof launch.procs);
    memcpy(process->cgroups, place.folders, sizeof process->cgroups);

    /* Handlers of ours must not run in the child; exec gives every signal its default. */
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    /* Known before the clone, since the child has a copy: root gives the child another user. */
    launch.change_user = good && geteuid() == 0 && !(spawn->off & 1u << SANDBOX_USER) && open_to_all(&launch);
    const long pid = good ? clone_child(spawn, &pidfd, report) : -1;
    if (pid == 0)
        child(&launch);
    const int saved = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid > 0) {
        process->pid = (pid_t)pid;
        process->pidfd = pidfd;
        if (report->layers[SANDBOX_USER].on && !write_maps(&launch, (pid_t)pid))
            say(report, SANDBOX_USER, false, "its user map could not be written");
    }
    close_all(&launch);
    cgroup_close(&place);
    if (pid < 0)
        cgroup_remove(process->cgroups);
    errno = saved;
    return pid > 0;
}

void sandbox_reaped(struct sandbox_process *process)
{
    if (process->pid > 0)
        close(process->pidfd);
    cgroup_remove(process->cgroups);
    process->pid = -1;
    process->pidfd = -1;
}

static bool open_all(struct launch *launch)
{
    const struct sandbox_spawn *spawn = launch->spawn;
    launch->go[0] = launch->go[1] = -1;
    launch->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    launch->program = open(spawn->path, O_PATH | O_CLOEXEC);
    bool good = launch->program >= 0 && faccessat(AT_FDCWD, spawn->path, X_OK, AT_EACCESS) == 0 &&
                pipe2(launch->go, O_CLOEXEC) == 0;
    for (uint32_t i = 0; i < SANDBOX_FDS_MAX; i++) {
        const bool given = good && i < spawn->fd_count;
        launch->fds[i] = given ? fcntl(spawn->fds[i], F_DUPFD_CLOEXEC, HIGH_FD) : -1;
        good = good && (!given || launch->fds[i] >= 0);
    }
    if (good && spawn->fd_count > SANDBOX_FDS_MAX)
        errno = E2BIG;
    return good && spawn->fd_count <= SANDBOX_FDS_MAX;
}

static void close_all(struct launch *launch)
{
    const int saved = errno;
    const int fds[] = {launch->program, launch->null, launch->go[0], launch->go[1]};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    for (uint32_t i = 0; i < SANDBOX_FDS_MAX; i++)
        if (launch->fds[i] >= 0)
            close(launch->fds[i]);
    errno = saved;
}

/* Both namespaces if they can be had; else a PID namespace alone (root); else none. */
static long clone_child(const struct sandbox_spawn *spawn, int *pidfd, struct sandbox_report *report)
{
    const uint64_t user = spawn->off & 1u << SANDBOX_USER ? 0 : CLONE_NEWUSER;
    const uint64_t pids = spawn->off & 1u << SANDBOX_PID ? 0 : CLONE_NEWPID;
    const uint64_t tries[] = {user | pids, pids, 0};
    long pid = -1;
    int refused = 0;
    for (size_t i = 0; i < sizeof tries / sizeof *tries && pid < 0; i++) {
        struct clone_args args = {
            .flags = tries[i] | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = SIGCHLD};
        pid = syscall(SYS_clone3, &args, sizeof args);
        if (pid < 0 && !refused)
            refused = errno;
        if (pid > 0) {
            char why[SANDBOX_DETAIL_BYTES];
            snprintf(why, sizeof why, "clone: %s", strerror(refused));
            say(report, SANDBOX_USER, tries[i] & CLONE_NEWUSER,
                user ? (tries[i] & user ? "" : why) : "left out");
            say(report, SANDBOX_PID, tries[i] & CLONE_NEWPID,
                pids ? (tries[i] & pids ? "" : why) : "left out");
        }
    }
    return pid;
}

static bool write_file(pid_t pid, const char *name, const char *text)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const bool good = write(file, text, strlen(text)) == (ssize_t)strlen(text);
    close(file);
    return good;
}

/* The program is root inside. Outside it is a user of its own where we may choose, and where we may not, or
 * that user could not execute the program, it stays ours. */
static bool write_maps(struct launch *launch, pid_t pid)
{
    char user[32], group[32];
    const unsigned outer = OUTER_USER_FIRST + (unsigned)pid;
    snprintf(user, sizeof user, "0 %u 1", outer);
    if (launch->change_user && write_file(pid, "gid_map", user) && write_file(pid, "uid_map", user))
        return true;
    snprintf(user, sizeof user, "0 %u 1", geteuid());
    snprintf(group, sizeof group, "0 %u 1", getegid());
    write_file(pid, "setgroups", "deny");
    write_file(pid, "gid_map", group); /* may have been written above */
    return write_file(pid, "uid_map", user);
}

static _Noreturn void child(const struct launch *launch)
{
    const struct sandbox_spawn *spawn = launch->spawn;
    char byte;
    for (int i = 0; i < 2; i++)
        if (launch->procs[i] >= 0)
            syscall(SYS_write, launch->procs[i], "0", 1);
    syscall(SYS_close, launch->go[1]);
    syscall(SYS_read, launch->go[0], &byte, 1); /* signals are blocked: no EINTR */
    if (launch->change_user)
        syscall(SYS_setgroups, 0, NULL);
    syscall(SYS_setresgid, 0, 0, 0);
    syscall(SYS_setresuid, 0, 0, 0);
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (launch->null >= 0)
        syscall(SYS_dup3, launch->null, 0, 0);
    for (uint32_t i = 0; i < spawn->fd_count; i++)
        syscall(SYS_dup3, launch->fds[i], FIRST_FD + i, 0);
    syscall(SYS_close_range, FIRST_FD + spawn->fd_count, ~0u, CLOSE_RANGE_CLOEXEC);
    for (int number = 1; number < 65; number++) {
        const struct {
            void *handler;
            unsigned long flags;
            void *restorer;
            unsigned long mask;
        } standard = {0};
        syscall(SYS_rt_sigaction, number, &standard, NULL, 8);
    }
    const uint64_t none = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
    /* By its descriptor: the user it is now may not see the folder. A script needs its path, though. */
    syscall(SYS_execveat, launch->program, "", spawn->argv, spawn->envp, AT_EMPTY_PATH);
    syscall(SYS_execve, spawn->path, spawn->argv, spawn->envp);
    syscall(SYS_exit_group, EXEC_FAILED);
    __builtin_unreachable();
}
