#include "node/backup.h"

#include "crypto/identity.h"
#include "node/store_digests.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define COPY_BYTES (64 << 10) /* on the stack */

struct text {
    char *out;
    size_t bytes;
};

static bool fail(struct text error, const char *what, const char *path, int code)
{
    snprintf(error.out, error.bytes, "cannot %s %s: %s", what, path, strerror(code));
    return false;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info, (void)at;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* `folder` and `name` joined; false if that is too long. */
static bool join(char path[PATH_BYTES], const char *folder, const char *name)
{
    return snprintf(path, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES;
}

/* ---- Copying what is not in use. */

static int write_bytes(int out, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        const ssize_t written = write(out, bytes, count);
        if (written < 0 && errno != EINTR)
            return errno;
        if (written > 0) {
            bytes += written;
            count -= (size_t)written;
        }
    }
    return 0;
}

/* By hand: copy_file_range refuses to go from one kind of file system to another, as backups do. */
static int copy_bytes(int in, int out)
{
    uint8_t bytes[COPY_BYTES];
    for (;;) {
        const ssize_t count = read(in, bytes, sizeof bytes);
        if (count == 0)
            return 0;
        if (count < 0 && errno != EINTR)
            return errno;
        const int code = count > 0 ? write_bytes(out, bytes, (size_t)count) : 0;
        if (code != 0)
            return code;
    }
}

static bool copy_file(const char *from, const char *to, struct text error)
{
    const int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0)
        return fail(error, "read", from, errno);
    const int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int code = out < 0 ? errno : copy_bytes(in, out);
    if (code == 0 && fsync(out) != 0)
        code = errno;
    if (out >= 0)
        close(out);
    close(in);
    return code == 0 || fail(error, "write", to, code);
}

static bool sync_folder(const char *path, struct text error)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int code = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return code == 0 || fail(error, "write", path, code);
}

/* A folder of ours holds plain files and folders, three deep at most; anything else is none of ours and is left out. */
static bool copy_tree(const char *from, const char *to, struct text error)
{
    DIR *const folder = opendir(from);
    if (!folder)
        return fail(error, "read", from, errno);
    bool good = mkdir(to, 0700) == 0 || fail(error, "make", to, errno);
    for (struct dirent *entry; good && (entry = readdir(folder));) {
        char source[PATH_BYTES], target[PATH_BYTES];
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (!join(source, from, entry->d_name) || !join(target, to, entry->d_name))
            good = fail(error, "copy", from, ENAMETOOLONG);
        else if (lstat(source, &info) != 0)
            good = fail(error, "read", source, errno);
        else if (S_ISDIR(info.st_mode))
            good = copy_tree(source, target, error);
        else if (S_ISREG(info.st_mode))
            good = copy_file(source, target, error);
    }
    closedir(folder);
    return good && sync_folder(to, error);
}

/* ---- Making one. */

static bool fill(const char *data, struct store *store, const char *partial, struct text error)
{
    static const char *const folders[] = {"keys", "federation"};
    char from[PATH_BYTES], to[PATH_BYTES];
    struct store_failure failure;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (!join(from, data, folders[i]) || !join(to, partial, folders[i]))
            return fail(error, "copy", data, ENAMETOOLONG);
        else if (!copy_tree(from, to, error))
            return false;
    if (!join(to, partial, "store"))
        return fail(error, "write", partial, ENAMETOOLONG);
    if (store_backup(store, to, &failure) == STORE_OK)
        return sync_folder(partial, error);
    snprintf(error.out, error.bytes, "%s", failure.text);
    return false;
}

/* The folder that a path is in. */
static void parent_of(const char *path, char parent[PATH_BYTES])
{
    snprintf(parent, PATH_BYTES, "%s", path);
    char *const slash = strrchr(parent, '/');
    if (!slash)
        strcpy(parent, ".");
    else
        slash[slash == parent] = '\0';
}

bool backup_make(const char *data, struct store *store, const char *path, char *error, size_t error_bytes)
{
    const struct text text = {error, error_bytes};
    char partial[PATH_BYTES], parent[PATH_BYTES];
    if (access(path, F_OK) == 0)
        return fail(text, "write the backup to", path, EEXIST);
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= PATH_BYTES)
        return fail(text, "write the backup to", path, ENAMETOOLONG);
    parent_of(path, parent);
    remove_tree(partial); /* of one that was cut short */
    if (mkdir(partial, 0700) != 0)
        return fail(text, "make", partial, errno);
    if (fill(data, store, partial, text) && (rename(partial, path) == 0 || fail(text, "make", path, errno)))
        return sync_folder(parent, text);
    remove_tree(partial);
    return false;
}

/* ---- Taking one back. */

/* Whether both folders are that of one node, whatever its certificate and its CURVE key were then. */
static bool same_node(const char *a, const char *b)
{
    const char *const folder[2] = {a, b};
    struct identity identity[2];
    char keys[PATH_BYTES];
    bool good = true;
    for (int i = 0; i < 2; i++)
        good = good && join(keys, folder[i], "keys") && identity_load(keys, &identity[i], NULL) == CRYPTO_OK;
    good = good && memcmp(&identity[0].node, &identity[1].node, sizeof identity[0].node) == 0;
    for (int i = 0; i < 2; i++)
        identity_wipe(&identity[i]);
    return good;
}

/* A node at work writes while its folder is copied, and would go on beside the copy. The lock is kept in *fd. */
static bool hold(const char *store, const char *path, int *fd, struct text error)
{
    char lock[PATH_BYTES];
    if (!join(lock, store, "lock"))
        return fail(error, "read", store, ENAMETOOLONG);
    *fd = open(lock, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 || flock(*fd, LOCK_SH | LOCK_NB) == 0)
        return true;
    snprintf(error.out, error.bytes,
             "a node is at work in %s; `weir store backup` makes a copy of it meanwhile, or stop it", path);
    return false;
}

/* Whether the store holds what the node of the keys in `path` kept; one that no node worked on yet is anybody's. */
static bool store_fits_keys(struct store *store, const char *path)
{
    struct identity identity;
    char keys[PATH_BYTES];
    uint8_t id[sizeof identity.node.bytes];
    size_t bytes;
    if (store_get(store, STORE_META, "node", 4, id, sizeof id, &bytes) != STORE_OK)
        return true;
    if (!join(keys, path, "keys") || identity_load(keys, &identity, NULL) != CRYPTO_OK)
        return true; /* copying them says what is wrong */
    const bool fits = memcmp(id, identity.node.bytes, sizeof id) == 0;
    identity_wipe(&identity);
    return fits;
}

/* The copy `partial` of the store in `path` speaks for its node again. */
static bool adopt(const char *partial, const char *path, struct text error)
{
    struct store_options options = {.digest = *store_digests(), .backup = true};
    struct store_failure failure;
    struct store *store;
    uint8_t fresh[STORE_STORAGE_ID_BYTES];
    if (store_open(partial, &options, &failure, &store) != STORE_OK) {
        snprintf(error.out, error.bytes, "the copy of %s can't be used: %s", path, failure.text);
        return false;
    }
    if (!store_fits_keys(store, path)) {
        store_close(store);
        snprintf(error.out, error.bytes, "%s/store belongs to another node than the keys beside it", path);
        return false;
    }
    randombytes_buf(fresh, sizeof fresh);
    const enum store_error adopted = store_adopt(store, fresh);
    store_close(store);
    if (adopted != STORE_OK)
        snprintf(error.out, error.bytes, "cannot write %s: %s", partial, store_error_text(adopted));
    return adopted == STORE_OK;
}

/* What is in `data` already must be the same node's. */
static bool may_restore(const char *path, const char *data, struct text error)
{
    char key[PATH_BYTES];
    if (!join(key, data, "keys/node.key") || access(key, F_OK) != 0 || same_node(path, data))
        return true;
    snprintf(error.out, error.bytes, "%s is another node's folder; choose one that is empty, or move it away",
             data);
    return false;
}

/* What is missing in `data` of keys/ and federation/ comes from the backup. */
static bool identity_restore(const char *path, const char *data, struct text error)
{
    static const char *const folders[] = {"keys", "federation"};
    char from[PATH_BYTES], to[PATH_BYTES];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (!join(from, path, folders[i]) || !join(to, data, folders[i]))
            return fail(error, "copy", path, ENAMETOOLONG);
        else if (access(to, F_OK) != 0 && !copy_tree(from, to, error))
            return false;
    return true;
}

bool backup_restore(const char *path, const char *data, char *error, size_t error_bytes)
{
    const struct text text = {error, error_bytes};
    char from[PATH_BYTES], partial[PATH_BYTES], to[PATH_BYTES];
    if (!join(from, path, "store") || !join(partial, data, "store.partial") || !join(to, data, "store"))
        return fail(text, "copy", path, ENAMETOOLONG);
    if (access(from, F_OK) != 0) {
        snprintf(error, error_bytes, "%s is no backup: it has no store; `weir store backup` makes one", path);
        return false;
    }
    if (access(to, F_OK) == 0) {
        snprintf(error, error_bytes, "%s has a store already; move %s away first, it may be newer", data, to);
        return false;
    }
    if (mkdir(data, 0700) != 0 && errno != EEXIST)
        return fail(text, "make", data, errno);
    int lock = -1;
    remove_tree(partial);
    /* The keys come after all that may fail: with them and without a store the folder would be a node's that forgot. */
    bool good = may_restore(path, data, text) && hold(from, path, &lock, text) &&
                copy_tree(from, partial, text) && adopt(partial, path, text) &&
                identity_restore(path, data, text) &&
                (rename(partial, to) == 0 || fail(text, "make", to, errno));
    if (lock >= 0)
        close(lock);
    if (good)
        return sync_folder(data, text);
    remove_tree(partial);
    return false;
}
