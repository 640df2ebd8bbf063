#include "crypto/keyfile.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/digest.h"
#include "crypto/pack.h"

#define FILE_BYTES_MAX (PACK_MAGIC_BYTES + KEYFILE_PAYLOAD_BYTES_MAX + DIGEST_BYTES)
#define NAME_TEXT_BYTES 64u
#define PATH_TEXT_BYTES 900u // advice holds two of them and a sentence

static enum crypto_error refuse(struct crypto_advice *advice, enum crypto_error error, const char *format,
                                ...) __attribute__((format(printf, 3, 4)));

static enum crypto_error refuse(struct crypto_advice *advice, enum crypto_error error, const char *format,
                                ...)
{
    if (advice != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(advice->text, sizeof advice->text, format, arguments);
        va_end(arguments);
    }
    return error;
}

// The path FOLDER or FOLDER/NAME as a shell takes it: quoted only where it must be. A path that does not fit
// is never cut, since a command with a shortened path would name something else; a placeholder stands for it.
static const char *shell_path(const char *folder, const char *name, char text[PATH_TEXT_BYTES])
{
    char path[PATH_TEXT_BYTES];
    const int length =
        snprintf(path, sizeof path, "%s%s%s", folder, name == NULL ? "" : "/", name == NULL ? "" : name);
    size_t quotes = 0;
    for (const char *at = path; *at != '\0'; at++) {
        quotes += *at == '\'';
    }
    if ((size_t)length + 3 * quotes + sizeof "''" > PATH_TEXT_BYTES) {
        snprintf(text, PATH_TEXT_BYTES, "DATA_FOLDER%s%.64s", name == NULL ? "" : "/",
                 name == NULL ? "" : name);
        return text;
    }
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@,";
    if (path[strspn(path, plain)] == '\0') {
        memcpy(text, path, (size_t)length + 1);
        return text;
    }
    char *end = text;
    *end++ = '\'';
    for (const char *at = path; *at != '\0'; at++) {
        if (*at == '\'') {
            memcpy(end, "'\\''", 4);
            end += 4;
        } else {
            *end++ = *at;
        }
    }
    *end++ = '\'';
    *end = '\0';
    return text;
}

static enum crypto_error refuse_io(struct crypto_advice *advice, const char *what, const char *folder,
                                   const char *name)
{
    const char *reason = strerror(errno);
    char path[PATH_TEXT_BYTES];
    return refuse(advice, CRYPTO_IO, "cannot %s %s: %s", what, shell_path(folder, name, path), reason);
}

// Is the thing behind the open descriptor ours, and closed to everybody else?
static enum crypto_error check_private(const struct stat *found, const char *folder, const char *name,
                                       struct crypto_advice *advice)
{
    char path[PATH_TEXT_BYTES];
    shell_path(folder, name, path);
    if (found->st_uid != geteuid()) {
        return refuse(advice, CRYPTO_KEY_EXPOSED, "%s belongs to user %u; run: chown %u %s", path,
                      (unsigned)found->st_uid, (unsigned)geteuid(), path);
    }
    if ((found->st_mode & 077) != 0) {
        return refuse(advice, CRYPTO_KEY_EXPOSED, "%s is open to other users (mode %04o); run: chmod %s %s",
                      path, (unsigned)(found->st_mode & 07777), name == NULL ? "700" : "600", path);
    }
    return CRYPTO_OK;
}

// ---- The folder

static enum crypto_error folder_make(const char *path, struct crypto_advice *advice)
{
    if (mkdir(path, 0700) != 0) {
        return errno == EEXIST ? CRYPTO_OK : refuse_io(advice, "create folder", path, NULL);
    }
    const int parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int above = parent < 0 ? -1 : openat(parent, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum crypto_error error = CRYPTO_OK;
    if (above < 0 || fsync(above) != 0) {
        error = refuse_io(advice, "sync the folder above", path, NULL);
    }
    if (above >= 0) {
        close(above);
    }
    if (parent >= 0) {
        close(parent);
    }
    return error;
}

enum crypto_error keyfile_folder_open(const char *path, bool create, struct keyfile_folder *out,
                                      struct crypto_advice *advice)
{
    enum crypto_error error = create ? folder_make(path, advice) : CRYPTO_OK;
    if (error != CRYPTO_OK) {
        return error;
    }
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        char shown[PATH_TEXT_BYTES];
        return refuse(advice, CRYPTO_KEY_MISSING, "there is no folder %s; weir init or weir join makes it",
                      shell_path(path, NULL, shown));
    }
    if (fd < 0) {
        return refuse_io(advice, "open folder", path, NULL);
    }
    struct stat found;
    error = fstat(fd, &found) != 0 ? refuse_io(advice, "look at", path, NULL)
                                   : check_private(&found, path, NULL, advice);
    if (error != CRYPTO_OK) {
        close(fd);
        return error;
    }
    *out = (struct keyfile_folder){.fd = fd, .path = path};
    return CRYPTO_OK;
}

void keyfile_folder_close(struct keyfile_folder *folder)
{
    close(folder->fd);
    folder->fd = -1;
}

bool keyfile_exists(const struct keyfile_folder *folder, const char *name)
{
    struct stat found;
    return fstatat(folder->fd, name, &found, AT_SYMLINK_NOFOLLOW) == 0;
}

// ---- Reading

// Opens a regular file that is ours alone. O_NONBLOCK keeps a FIFO in its place from holding us up.
static enum crypto_error open_private(const struct keyfile_folder *folder, const char *name, int *out,
                                      struct crypto_advice *advice)
{
    char path[PATH_TEXT_BYTES];
    shell_path(folder->path, name, path);
    const int fd = openat(folder->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        return refuse(advice, CRYPTO_KEY_MISSING, "there is no key file %s", path);
    }
    if (fd < 0 && errno == ELOOP) {
        return refuse(advice, CRYPTO_KEY_EXPOSED, "%s is a symbolic link; put the key file itself there",
                      path);
    }
    if (fd < 0) {
        return refuse_io(advice, "open", folder->path, name);
    }
    struct stat found;
    enum crypto_error error = CRYPTO_OK;
    if (fstat(fd, &found) != 0) {
        error = refuse_io(advice, "look at", folder->path, name);
    } else if (!S_ISREG(found.st_mode)) {
        error = refuse(advice, CRYPTO_KEY_EXPOSED, "%s is not a regular file", path);
    } else {
        error = check_private(&found, folder->path, name, advice);
    }
    if (error != CRYPTO_OK) {
        close(fd);
        return error;
    }
    *out = fd;
    return CRYPTO_OK;
}

// Reads until the end or until the buffer is full; -1 on an error.
static ssize_t read_up_to(int fd, uint8_t *out, size_t capacity)
{
    size_t used = 0;
    while (used < capacity) {
        const ssize_t got = read(fd, out + used, capacity - used);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        used += (size_t)got;
    }
    return (ssize_t)used;
}

static struct digest file_digest(const uint8_t *file, size_t bytes)
{
    return digest_of("weir key file 1", file, bytes);
}

static enum crypto_error parse_file(const uint8_t *file, size_t file_bytes, const char *magic,
                                    uint8_t *payload, size_t bytes)
{
    uint8_t checksum[DIGEST_BYTES];
    struct pack_reader reader = pack_reader_of(file, file_bytes);
    unpack_magic(&reader, magic);
    const uint8_t *body = unpack_span(&reader, bytes);
    unpack_bytes(&reader, checksum, sizeof checksum);
    const enum crypto_error error = unpack_end(&reader);
    if (error != CRYPTO_OK) {
        return error;
    }
    const struct digest expected = file_digest(file, PACK_MAGIC_BYTES + bytes);
    if (memcmp(expected.bytes, checksum, sizeof checksum) != 0) {
        return CRYPTO_BAD_CHECKSUM;
    }
    memcpy(payload, body, bytes);
    return CRYPTO_OK;
}

enum crypto_error keyfile_read(const struct keyfile_folder *folder, const char *name, const char *magic,
                               uint8_t *payload, size_t bytes, struct crypto_advice *advice)
{
    assert(bytes <= KEYFILE_PAYLOAD_BYTES_MAX);
    int fd;
    enum crypto_error error = open_private(folder, name, &fd, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    uint8_t file[FILE_BYTES_MAX + 1]; // one byte more than any key file, to notice a longer one
    const ssize_t got = read_up_to(fd, file, sizeof file);
    if (got < 0) {
        error = refuse_io(advice, "read", folder->path, name);
    } else {
        error = parse_file(file, (size_t)got, magic, payload, bytes);
        if (error != CRYPTO_OK) {
            char path[PATH_TEXT_BYTES];
            refuse(advice, error, "%s is not a whole key file: %s; put back a copy of it",
                   shell_path(folder->path, name, path), crypto_error_text(error));
        }
    }
    close(fd);
    sodium_memzero(file, sizeof file);
    return error;
}

// ---- Writing

// Removes what writes that were cut short have left: NAME.new-*. A concurrent write whose file vanishes under
// it fails cleanly when it renames.
static void remove_leftovers(const struct keyfile_folder *folder, const char *name)
{
    char prefix[NAME_TEXT_BYTES];
    snprintf(prefix, sizeof prefix, "%s.new-", name);
    const int fd = openat(folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (listing == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    for (const struct dirent *entry = readdir(listing); entry != NULL; entry = readdir(listing)) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
            unlinkat(folder->fd, entry->d_name, 0);
        }
    }
    closedir(listing);
}

static bool write_all(int fd, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        const ssize_t wrote = write(fd, bytes, count);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0) {
            return false;
        }
        bytes += wrote;
        count -= (size_t)wrote;
    }
    return true;
}

static bool write_synced(int folder_fd, const char *name, const uint8_t *bytes, size_t count)
{
    const int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return false;
    }
    const bool done = fchmod(fd, 0600) == 0 && write_all(fd, bytes, count) && fsync(fd) == 0;
    const int kept = errno;
    close(fd);
    errno = kept;
    return done;
}

// Gives the temporary file its name. Without `replace`, by a rename that refuses an existing name, or, on a
// file system that has none, by a link, which refuses it too.
static bool move_into_place(int folder_fd, const char *temporary, const char *name, bool replace)
{
    if (replace) {
        return renameat(folder_fd, temporary, folder_fd, name) == 0;
    }
    if (renameat2(folder_fd, temporary, folder_fd, name, RENAME_NOREPLACE) == 0) {
        return true;
    }
    return (errno == EINVAL || errno == ENOSYS) && linkat(folder_fd, temporary, folder_fd, name, 0) == 0 &&
           unlinkat(folder_fd, temporary, 0) == 0;
}

enum crypto_error keyfile_write(const struct keyfile_folder *folder, const char *name, const char *magic,
                                const uint8_t *payload, size_t bytes, bool replace,
                                struct crypto_advice *advice)
{
    assert(bytes <= KEYFILE_PAYLOAD_BYTES_MAX);
    uint8_t file[FILE_BYTES_MAX];
    struct pack_writer writer = pack_writer_of(file, sizeof file);
    pack_magic(&writer, magic);
    pack_bytes(&writer, payload, bytes);
    const struct digest checksum = file_digest(file, writer.count);
    pack_bytes(&writer, checksum.bytes, DIGEST_BYTES);
    assert(writer.error == CRYPTO_OK);

    uint8_t random[4];
    char suffix[2 * sizeof random + 1];
    char temporary[NAME_TEXT_BYTES];
    randombytes_buf(random, sizeof random);
    hex_encode(random, sizeof random, suffix);
    snprintf(temporary, sizeof temporary, "%s.new-%s", name, suffix);

    enum crypto_error error = CRYPTO_OK;
    remove_leftovers(folder, name);
    if (!write_synced(folder->fd, temporary, file, writer.count)) {
        error = refuse_io(advice, "write", folder->path, temporary);
    } else if (!move_into_place(folder->fd, temporary, name, replace)) {
        char path[PATH_TEXT_BYTES];
        error = errno == EEXIST
                    ? refuse(advice, CRYPTO_KEY_EXISTS, "%s is there already and is not overwritten",
                             shell_path(folder->path, name, path))
                    : refuse_io(advice, "rename into place", folder->path, name);
    } else if (fsync(folder->fd) != 0) {
        error = refuse_io(advice, "sync folder", folder->path, NULL);
    }
    if (error != CRYPTO_OK) {
        unlinkat(folder->fd, temporary, 0);
    }
    sodium_memzero(file, sizeof file);
    return error;
}
