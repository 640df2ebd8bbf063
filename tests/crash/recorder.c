/*
 * Preloaded into a program, writes down what it does to the files below WEIR_RECORD_ROOT, in order, to the file
 * WEIR_RECORD_LOG, so that replay.py can make the disk as it may be found after a crash at any point in between.
 *
 * A record is a struct record, the path, for a rename the second path, and for a write its bytes. Paths are
 * relative to the root; those of open files are as they are named at that time. What is mapped is not seen: LMDB
 * maps its data for reading only.
 *
 * With WEIR_RECORD_NOSYNC set, syncs are not written down, as of a program that never asks for one: calls of fsync
 * and fdatasync if it is "calls", writes through a descriptor with O_DSYNC too if it is "all".
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OP_WRITE = 1, OP_TRUNCATE, OP_SYNC, OP_CREATE, OP_RENAME, OP_UNLINK, OP_FOLDER, OP_ACKNOWLEDGED };

struct record {
    uint32_t op;
    uint32_t durable; /* a write through a descriptor with O_DSYNC or O_SYNC */
    uint32_t path_bytes;
    uint32_t second_path_bytes;
    uint64_t offset; /* of a write, or the length of a truncate, or the number of an acknowledgement */
    uint64_t bytes;
};

struct path {
    bool below; /* the root */
    char text[512];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *root;
static bool no_sync; /* calls */
static bool no_sync_write;

__attribute__((constructor)) static void begin(void)
{
    root = getenv("WEIR_RECORD_ROOT");
    const char *without = getenv("WEIR_RECORD_NOSYNC");
    no_sync = without != NULL;
    no_sync_write = without && strcmp(without, "all") == 0;
    const char *log = getenv("WEIR_RECORD_LOG");
    if (root && log)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static void put(const void *bytes, size_t count)
{
    const char *from = bytes;
    while (count > 0) {
        const long wrote = syscall(SYS_write, log_fd, from, count);
        if (wrote <= 0)
            abort();
        from += wrote;
        count -= (size_t)wrote;
    }
}

static void note(struct record record, const struct path *path, const struct path *second, const void *bytes)
{
    record.path_bytes = path ? (uint32_t)strlen(path->text) : 0;
    record.second_path_bytes = second ? (uint32_t)strlen(second->text) : 0;
    put(&record, sizeof record);
    put(path ? path->text : "", record.path_bytes);
    put(second ? second->text : "", record.second_path_bytes);
    if (record.op == OP_WRITE)
        put(bytes, record.bytes);
}

static struct path below_root(const char *whole)
{
    struct path path = {0};
    const size_t count = root ? strlen(root) : 0;
    if (log_fd >= 0 && strncmp(whole, root, count) == 0 && (whole[count] == '/' || whole[count] == 0)) {
        path.below = true;
        snprintf(path.text, sizeof path.text, "%s", whole[count] ? whole + count + 1 : "");
    }
    return path;
}

static struct path path_of(int fd)
{
    char link[64], whole[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t count = log_fd >= 0 ? readlink(link, whole, sizeof whole - 1) : -1;
    if (count <= 0)
        return (struct path){0};
    whole[count] = 0;
    return below_root(whole);
}

static struct path path_at(int folder, const char *name)
{
    if (name[0] == '/')
        return below_root(name);
    char whole[1200];
    if (folder == AT_FDCWD) {
        char here[512];
        if (!getcwd(here, sizeof here))
            return (struct path){0};
        snprintf(whole, sizeof whole, "%s/%s", here, name);
        return below_root(whole);
    }
    struct path path = path_of(folder);
    if (path.below) {
        snprintf(whole, sizeof whole, "%s%s%s", path.text, path.text[0] ? "/" : "", name);
        snprintf(path.text, sizeof path.text, "%.511s", whole);
    }
    return path;
}

static int open_noted(int folder, const char *name, int flags, mode_t mode)
{
    pthread_mutex_lock(&lock);
    const struct path path = flags & O_CREAT ? path_at(folder, name) : (struct path){0};
    struct stat stat;
    const bool fresh = path.below && fstatat(folder, name, &stat, AT_SYMLINK_NOFOLLOW) != 0;
    const int fd = (int)syscall(SYS_openat, folder, name, flags, mode);
    const int saved = errno;
    if (fd >= 0 && fresh)
        note((struct record){.op = OP_CREATE}, &path, NULL, NULL);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return fd;
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & O_CREAT ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                                                           \
    int name(const char *path, int flags, ...)                                                               \
    {                                                                                                        \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        const mode_t mode = mode_of(flags, rest);                                                            \
        va_end(rest);                                                                                        \
        return open_noted(AT_FDCWD, path, flags, mode);                                                      \
    }
#define OPENAT(name)                                                                                         \
    int name(int folder, const char *path, int flags, ...)                                                   \
    {                                                                                                        \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        const mode_t mode = mode_of(flags, rest);                                                            \
        va_end(rest);                                                                                        \
        return open_noted(folder, path, flags, mode);                                                        \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static void note_write(int fd, const struct iovec *parts, int count, off_t offset, ssize_t wrote)
{
    const struct path path = wrote > 0 ? path_of(fd) : (struct path){0};
    if (!path.below)
        return;
    const bool durable = fcntl(fd, F_GETFL) & (O_DSYNC | O_SYNC);
    for (int i = 0; i < count && wrote > 0; i++) {
        const size_t bytes = parts[i].iov_len < (size_t)wrote ? parts[i].iov_len : (size_t)wrote;
        note((struct record){.op = OP_WRITE,
                             .durable = durable && !no_sync_write,
                             .offset = (uint64_t)offset,
                             .bytes = bytes},
             &path, NULL, parts[i].iov_base);
        offset += (off_t)bytes;
        wrote -= (ssize_t)bytes;
    }
}

/* At the descriptor's own position, which `write` and `writev` move. */
static ssize_t write_noted(int fd, const struct iovec *parts, int count)
{
    pthread_mutex_lock(&lock);
    const off_t offset = lseek(fd, 0, SEEK_CUR);
    const ssize_t wrote = syscall(SYS_writev, fd, parts, count);
    const int saved = errno;
    if (offset >= 0)
        note_write(fd, parts, count, offset, wrote);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return wrote;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    return write_noted(fd, &(struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = count}, 1);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return write_noted(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    pthread_mutex_lock(&lock);
    const ssize_t wrote = syscall(SYS_pwrite64, fd, bytes, count, offset);
    const int saved = errno;
    note_write(fd, &(struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = count}, 1, offset, wrote);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return wrote;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    return pwrite(fd, bytes, count, offset);
}

/* Whatever remains is one system call and one record of it. */
#define NOTED(call, where, second, ...)                                                                      \
    do {                                                                                                     \
        pthread_mutex_lock(&lock);                                                                           \
        const struct path noted = where;                                                                     \
        const int result = (int)(call);                                                                      \
        const int saved = errno;                                                                             \
        if (result == 0 && noted.below)                                                                      \
            note((struct record){__VA_ARGS__}, &noted, second, NULL);                                        \
        pthread_mutex_unlock(&lock);                                                                         \
        errno = saved;                                                                                       \
        return result;                                                                                       \
    } while (0)

int ftruncate(int fd, off_t bytes)
{
    NOTED(syscall(SYS_ftruncate, fd, bytes), path_of(fd), NULL, .op = OP_TRUNCATE, .offset = (uint64_t)bytes);
}

int ftruncate64(int fd, off64_t bytes)
{
    return ftruncate(fd, bytes);
}

int fsync(int fd)
{
    NOTED(syscall(SYS_fsync, fd), no_sync ? (struct path){0} : path_of(fd), NULL, .op = OP_SYNC);
}

int fdatasync(int fd)
{
    NOTED(syscall(SYS_fdatasync, fd), no_sync ? (struct path){0} : path_of(fd), NULL, .op = OP_SYNC);
}

int mkdirat(int folder, const char *name, mode_t mode)
{
    NOTED(syscall(SYS_mkdirat, folder, name, mode), path_at(folder, name), NULL, .op = OP_FOLDER);
}

int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}

int unlinkat(int folder, const char *name, int flags)
{
    NOTED(syscall(SYS_unlinkat, folder, name, flags), path_at(folder, name), NULL, .op = OP_UNLINK);
}

int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    const struct path second = path_at(to_folder, to);
    NOTED(syscall(SYS_renameat, from_folder, from, to_folder, to), path_at(from_folder, from), &second,
          .op = OP_RENAME);
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

void crash_acknowledged(uint64_t count);
void crash_acknowledged(uint64_t count)
{
    pthread_mutex_lock(&lock);
    if (log_fd >= 0)
        note((struct record){.op = OP_ACKNOWLEDGED, .offset = count}, NULL, NULL, NULL);
    pthread_mutex_unlock(&lock);
}
