/*
 * LD_PRELOAD: a disk whose syncs fail while the file named by WEIR_CHAOS_SYNC_FAULT exists.
 *
 * LMDB syncs its data with fdatasync and then writes its meta page through a descriptor opened with O_DSYNC, which is a
 * sync of its own; blobs are synced with fsync or fdatasync. All of them say EIO, as a dying disk does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

static bool faulty(void)
{
    const char *const path = getenv("WEIR_CHAOS_SYNC_FAULT");
    const int kept = errno;
    const bool found = path != NULL && access(path, F_OK) == 0;
    errno = found ? EIO : kept;
    return found;
}

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

int fdatasync(int file)
{
    static int (*next)(int);
    if (next == NULL)
        *(void **)&next = real("fdatasync");
    return faulty() ? -1 : next(file);
}

int fsync(int file)
{
    static int (*next)(int);
    if (next == NULL)
        *(void **)&next = real("fsync");
    return faulty() ? -1 : next(file);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);
    if (next == NULL)
        *(void **)&next = real("pwrite");
    if ((fcntl(file, F_GETFL) & O_DSYNC) != 0 && faulty())
        return -1;
    return next(file, bytes, count, offset);
}
