/* The program's half: sandbox_enter puts the layers on, each by one function that says how it went. */
#include "kernels/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/sandbox_calls.h"
#include "kernels/sandbox_cgroup.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* a sanitizer maps terabytes and makes calls of its own: two layers can't be put on */
#endif

#define NOFILE 256 /* descriptors: a driver's, or a few blobs */
#define ROOT_BYTES "size=1m,nr_inodes=512,mode=755"

/* What a newer kernel's headers call these; 0 in older ones would leave rights unhandled. */
#define FS_TRUNCATE (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define NET_TCP 3ull
#define SCOPES 3ull

struct entering {
    const struct sandbox_profile *profile;
    struct sandbox_report *report;
    bool own_mounts, in_root;
};

/* RLIMIT_NPROC doesn't bind root. */
static bool root_outside(void)
{
    unsigned inside = 0, outside = 0;
    FILE *file = fopen("/proc/self/uid_map", "re");
    if (!file)
        return geteuid() == 0;
    const bool mapped = fscanf(file, "%u %u", &inside, &outside) == 2;
    fclose(file);
    return geteuid() == 0 && (!mapped || outside == 0);
}

static void enter_limits(struct entering *entering);
static void enter_namespaces(struct entering *entering);
static void enter_root(struct entering *entering);
static void enter_privileges(struct entering *entering);
static void enter_landlock(struct entering *entering);
static void enter_seccomp(struct entering *entering);

void sandbox_enter(const struct sandbox_profile *profile, struct sandbox_report *report)
{
    struct entering entering = {.profile = profile, .report = report};
    *report = (struct sandbox_report){0};
    enter_limits(&entering);
    enter_namespaces(&entering);
    enter_root(&entering);
    enter_privileges(&entering);
    enter_landlock(&entering);
    enter_seccomp(&entering);
}

/* True unless the profile leaves that layer out. */
static bool wanted(struct entering *entering, enum sandbox_layer layer)
{
    if (!(entering->profile->off & 1u << layer))
        return true;
    snprintf(entering->report->layers[layer].detail, SANDBOX_DETAIL_BYTES, "left out");
    return false;
}

static void say_on(struct entering *entering, enum sandbox_layer layer, const char *how)
{
    entering->report->layers[layer].on = true;
    snprintf(entering->report->layers[layer].detail, SANDBOX_DETAIL_BYTES, "%s", how);
}

/* Says why a layer is off, with errno. The first reason counts. */
static void say_off(struct entering *entering, enum sandbox_layer layer, const char *what)
{
    struct sandbox_state *state = &entering->report->layers[layer];
    const int error = errno;
    state->on = false;
    if (!state->detail[0])
        snprintf(state->detail, SANDBOX_DETAIL_BYTES, error ? "%s: %s" : "%s", what, strerror(error));
}

/* ---- Limits */

static bool limit(__rlimit_resource_t resource, uint64_t value)
{
    struct rlimit now;
    if (getrlimit(resource, &now) != 0)
        return false;
    if (now.rlim_max != RLIM_INFINITY && value > now.rlim_max)
        value = now.rlim_max;
    return setrlimit(resource, &(struct rlimit){value, value}) == 0;
}

/* The version of the cgroup made for this process that holds `controller`; NULL: it is in none. */
static const char *own_cgroup(const char *controller)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return NULL;
    const char *version = NULL;
    char line[512];
    while (!version && fgets(line, sizeof line, file)) {
        const char *names = strchr(line, ':'), *last = strrchr(line, '/');
        if (!names || !last || strncmp(last + 1, CGROUP_PREFIX, strlen(CGROUP_PREFIX)) != 0)
            continue;
        if (strncmp(names, "::", 2) == 0)
            version = "cgroup v2";
        else if (strncmp(names + 1, controller, strlen(controller)) == 0 || strstr(names, controller))
            version = "cgroup v1";
    }
    fclose(file);
    return version;
}

static void enter_limits(struct entering *entering)
{
    const struct sandbox_profile *profile = entering->profile;
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, NOFILE);
    if (profile->file_bytes || profile->kind != SANDBOX_GPU)
        limit(RLIMIT_FSIZE, profile->file_bytes);
    limit(RLIMIT_MSGQUEUE, 0);
    if (profile->cpu_seconds)
        limit(RLIMIT_CPU, profile->cpu_seconds);
    if (wanted(entering, SANDBOX_MEMORY)) {
        const char *cgroup = own_cgroup("memory");
        /* Beside a cgroup as well, since malloc's NULL is a better end than SIGKILL; but a driver asks for
         * far more than it uses. */
        const bool data = profile->memory_bytes && !SANITIZED && (!cgroup || profile->kind != SANDBOX_GPU) &&
                          limit(RLIMIT_DATA, profile->memory_bytes);
        errno = 0;
        if (cgroup || data)
            say_on(entering, SANDBOX_MEMORY, cgroup ? cgroup : "RLIMIT_DATA");
        else
            say_off(entering, SANDBOX_MEMORY, "no cgroup to be had, and no RLIMIT_DATA");
    }
    if (wanted(entering, SANDBOX_PROCESSES)) {
        const char *cgroup = own_cgroup("pids");
        const bool set = profile->processes && limit(RLIMIT_NPROC, profile->processes) && !root_outside();
        errno = 0;
        if (cgroup || set)
            say_on(entering, SANDBOX_PROCESSES, cgroup ? cgroup : "RLIMIT_NPROC");
        else
            say_off(entering, SANDBOX_PROCESSES, "no cgroup to be had, and no RLIMIT_NPROC");
    }
}

/* ---- Namespaces */

static void enter_namespaces(struct entering *entering)
{
    if (wanted(entering, SANDBOX_MOUNT)) {
        entering->own_mounts = unshare(CLONE_NEWNS) == 0;
        if (!entering->own_mounts)
            say_off(entering, SANDBOX_MOUNT, "unshare");
    }
    if (wanted(entering, SANDBOX_NET)) {
        if (unshare(CLONE_NEWNET) == 0)
            say_on(entering, SANDBOX_NET, "");
        else
            say_off(entering, SANDBOX_NET, "unshare");
    }
    if (wanted(entering, SANDBOX_IPC)) {
        if (unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) == 0 && sethostname("sandbox", 7) == 0)
            say_on(entering, SANDBOX_IPC, "");
        else
            say_off(entering, SANDBOX_IPC, "unshare");
    }
}

/* ---- The small root */

/* Makes the folders above `path`, and itself as a folder or an empty file to mount over. */
static bool make_place(const char *path, bool folder)
{
    char part[512];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return false;
    }
    if (folder)
        return mkdir(path, 0755) == 0 || errno == EEXIST;
    const int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (file >= 0)
        close(file);
    return file >= 0;
}

/* Shows the host's `path` at the same place below the current directory, with `attributes` for it and all
 * that is mounted in it. What doesn't exist is left out. */
static bool show(const char *path, uint64_t attributes)
{
    char below[512];
    struct stat status;
    if (lstat(path, &status) != 0)
        return true;
    snprintf(below, sizeof below, ".%s", path);
    if (S_ISLNK(status.st_mode)) {
        char target[256];
        const ssize_t got = readlink(path, target, sizeof target - 1);
        target[got > 0 ? got : 0] = '\0';
        /* A link at the root is copied; any other place is shown for what it leads to. */
        if (!strchr(path + 1, '/'))
            return symlink(target, below) == 0 || errno == EEXIST;
        if (stat(path, &status) != 0)
            return true;
    }
    struct mount_attr attr = {.attr_set = attributes};
    return make_place(below, S_ISDIR(status.st_mode)) &&
           mount(path, below, NULL, MS_BIND | MS_REC, NULL) == 0 &&
           syscall(SYS_mount_setattr, AT_FDCWD, below, AT_RECURSIVE, &attr, sizeof attr) == 0;
}

static bool fill_root(struct entering *entering)
{
    const struct sandbox_profile *profile = entering->profile;
    const uint64_t plain = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                           (profile->kind == SANDBOX_CPU ? MOUNT_ATTR_NOEXEC : 0);
    for (const char *const *path = profile->readable; path && *path; path++)
        if (!show(*path, plain))
            return false;
    if (wanted(entering, SANDBOX_DEV)) {
        for (const char *const *path = profile->devices; path && *path; path++)
            if (!show(*path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC))
                return false;
        say_on(entering, SANDBOX_DEV, "");
    } else if (!show("/dev", MOUNT_ATTR_NOSUID)) {
        return false;
    }
    if (profile->kind == SANDBOX_GPU) {
        /* A driver reads /proc; where a container hides parts of its own, a fresh one is refused. */
        mkdir("./proc", 0555);
        mount("proc", "./proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    }
    if (profile->tmp_bytes) {
        char options[64];
        snprintf(options, sizeof options, "size=%llu,nr_inodes=1024,mode=700",
                 (unsigned long long)profile->tmp_bytes);
        return mkdir("./tmp", 0700) == 0 &&
               mount("tmpfs", "./tmp", "tmpfs", MS_NOSUID | MS_NODEV, options) == 0;
    }
    return true;
}

/* The new root is mounted over /mnt of the own mount namespace, filled from the old one, and the old one is
 * let go. On failure what was mounted stays, which hides /mnt (or /tmp) and nothing else. */
static void enter_root(struct entering *entering)
{
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    const char *what = NULL;
    if (!entering->own_mounts) {
        if (wanted(entering, SANDBOX_DEV)) {
            errno = 0;
            say_off(entering, SANDBOX_DEV, "needs layer mount");
        }
        return;
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        what = "mount --make-private";
    else if ((mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID, ROOT_BYTES) != 0 || chdir("/mnt") != 0) &&
             (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID, ROOT_BYTES) != 0 || chdir("/tmp") != 0))
        what = "mount of a tmpfs";
    else if (!fill_root(entering))
        what = "filling the root";
    else if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        what = "pivot_root";
    else if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &read_only, sizeof read_only) != 0)
        what = "making the root read-only";
    if (what) {
        say_off(entering, SANDBOX_MOUNT, what);
        say_off(entering, SANDBOX_DEV, what);
        return;
    }
    say_on(entering, SANDBOX_MOUNT, "");
}

/* ---- Privileges */

static void enter_privileges(struct entering *entering)
{
    if (!wanted(entering, SANDBOX_PRIVILEGES))
        return;
    const int bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    prctl(PR_SET_SECUREBITS, bits, 0, 0, 0); /* needs a capability, which who is not root never had */
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        say_off(entering, SANDBOX_PRIVILEGES, "no_new_privs");
    else if (syscall(SYS_capset, &head, none) != 0)
        say_off(entering, SANDBOX_PRIVILEGES, "capset");
    else
        say_on(entering, SANDBOX_PRIVILEGES, "");
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* ---- Landlock */

static uint64_t rights_of(long abi)
{
    uint64_t rights = (1ull << 13) - 1;
    if (abi >= 2)
        rights |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3)
        rights |= FS_TRUNCATE;
    if (abi >= 5)
        rights |= FS_IOCTL_DEV;
    return rights;
}

static bool permit(int rules, const char *path, uint64_t rights)
{
    const uint64_t of_files = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
                              LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV;
    struct stat status;
    const int file = open(path, O_PATH | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0)
        return true; /* not there: nothing to permit */
    const struct landlock_path_beneath_attr beneath = {
        .allowed_access = S_ISDIR(status.st_mode) ? rights : rights & of_files, .parent_fd = file};
    const bool good = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0;
    close(file);
    return good;
}

static void enter_landlock(struct entering *entering)
{
    const struct sandbox_profile *profile = entering->profile;
    if (!wanted(entering, SANDBOX_LANDLOCK))
        return;
    const long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) {
        say_off(entering, SANDBOX_LANDLOCK, "landlock_create_ruleset");
        return;
    }
    const uint64_t all = rights_of(abi);
    const uint64_t attributes[3] = {all, abi >= 4 ? NET_TCP : 0, abi >= 6 ? SCOPES : 0};
    const size_t attribute_bytes = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    const int rules = (int)syscall(SYS_landlock_create_ruleset, attributes, attribute_bytes, 0);
    bool good = rules >= 0;
    const uint64_t read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                          (profile->kind == SANDBOX_COMPILE ? LANDLOCK_ACCESS_FS_EXECUTE : 0);
    for (const char *const *path = profile->readable; good && path && *path; path++)
        good = permit(rules, *path, read);
    for (const char *const *path = profile->devices; good && path && *path; path++)
        good = permit(rules, *path,
                      all & (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_IOCTL_DEV));
    if (good && profile->kind == SANDBOX_GPU)
        good = permit(rules, "/proc",
                      LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                          LANDLOCK_ACCESS_FS_WRITE_FILE);
    if (good && profile->tmp_bytes)
        good = permit(rules, "/tmp", all & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE);
    if (good && syscall(SYS_landlock_restrict_self, rules, 0) == 0) {
        char how[32];
        snprintf(how, sizeof how, "ABI %ld", abi);
        say_on(entering, SANDBOX_LANDLOCK, how);
    } else {
        say_off(entering, SANDBOX_LANDLOCK, "landlock_restrict_self");
    }
    if (rules >= 0)
        close(rules);
}

/* ---- Seccomp */

static void enter_seccomp(struct entering *entering)
{
    static const struct sandbox_calls *const lists[] = {[SANDBOX_CPU] = &sandbox_cpu_calls,
                                                        [SANDBOX_GPU] = &sandbox_gpu_calls,
                                                        [SANDBOX_COMPILE] = &sandbox_compile_calls};
    if (!wanted(entering, SANDBOX_SECCOMP))
        return;
    if (SANITIZED) {
        errno = 0;
        say_off(entering, SANDBOX_SECCOMP, "built with a sanitizer, which makes calls of its own");
        return;
    }
    const struct sandbox_calls *list = lists[entering->profile->kind];
    const int error = sandbox_load_calls(list);
    errno = -error;
    if (error == 0)
        say_on(entering, SANDBOX_SECCOMP, "");
    else
        say_off(entering, SANDBOX_SECCOMP, "seccomp");
}
