/*
 * Blobs that arrive in chunks, in any order, over more than one life of the process. The file in parts/ is its own
 * record of what has arrived: a chunk is there if its bytes have its digest. So nothing beside it must be kept in step,
 * no write needs a sync of its own, and a file that a crash of the machine tore is as good as what is left of it.
 */
#include "store/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 2 * STORE_ID_BYTES + 1 };

struct store_partial {
    struct store *store;
    struct store_partial *next; /* among the open ones */
    char name[NAME_BYTES];
    uint8_t id[STORE_ID_BYTES];
    int fd;
    uint64_t bytes;
    uint32_t count;
    uint32_t checked;  /* chunks before this one are known to be there or not */
    uint32_t unsynced; /* chunks written since the last write-back began */
    uint64_t have_bytes;
    uint8_t *have; /* a bit per chunk */
    uint8_t (*digests)[STORE_ID_BYTES];
    uint8_t *buffer; /* of one chunk, while the file is checked */
};

static void name_of(const uint8_t id[STORE_ID_BYTES], char name[NAME_BYTES])
{
    for (int i = 0; i < STORE_ID_BYTES; i++)
        snprintf(name + 2 * (size_t)i, 3, "%02x", id[i]);
}

static size_t length_of(const struct store_partial *partial, uint32_t chunk)
{
    const uint64_t left = partial->bytes - (uint64_t)chunk * STORE_CHUNK_BYTES;
    return left < STORE_CHUNK_BYTES ? (size_t)left : STORE_CHUNK_BYTES;
}

bool store_partial_has(const struct store_partial *partial, uint32_t chunk)
{
    return partial->have[chunk / 8] >> (chunk % 8) & 1;
}

uint64_t store_partial_bytes(const struct store_partial *partial)
{
    return partial->have_bytes;
}

static void mark(struct store_partial *partial, uint32_t chunk)
{
    partial->have[chunk / 8] = (uint8_t)(partial->have[chunk / 8] | 1u << chunk % 8);
    partial->have_bytes += length_of(partial, chunk);
}

/* ---- Those that nobody has open
 * ----------------------------------------------------------------------------- */

static bool is_open(struct store *store, const char *name)
{
    const struct store_partial *partial = store->partials;
    while (partial != NULL && strcmp(partial->name, name) != 0)
        partial = partial->next;
    return partial != NULL;
}

/* Looks at the files that nobody has open: removes those that nobody wanted for long, adds up the others and finds the
 * one that has waited longest. */
static uint64_t abandoned(struct store *store, char oldest[NAME_BYTES])
{
    uint64_t bytes = 0;
    time_t oldest_at = 0;
    oldest[0] = '\0';
    DIR *folder = fdopendir(openat(store->parts_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder == NULL)
        return 0;
    const time_t now = time(NULL);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        struct stat file;
        if (strlen(entry->d_name) != NAME_BYTES - 1 || is_open(store, entry->d_name) ||
            fstatat(store->parts_fd, entry->d_name, &file, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (file.st_mtime < now - STORE_PARTIAL_KEPT_S) {
            unlinkat(store->parts_fd, entry->d_name, 0);
            continue;
        }
        bytes += (uint64_t)file.st_blocks * 512;
        if (oldest[0] == '\0' || file.st_mtime < oldest_at) {
            memcpy(oldest, entry->d_name, NAME_BYTES);
            oldest_at = file.st_mtime;
        }
    }
    closedir(folder);
    return bytes;
}

void store_partials_trim(struct store *store)
{
    char oldest[NAME_BYTES];
    pthread_mutex_lock(&store->partials_gate);
    while (abandoned(store, oldest) > store->cache_budget_bytes / STORE_PARTIALS_SHARE &&
           unlinkat(store->parts_fd, oldest, 0) == 0)
        ;
    pthread_mutex_unlock(&store->partials_gate);
}

/* ---- One
 * ------------------------------------------------------------------------------------------------------ */

static void partial_free(struct store_partial *partial)
{
    if (partial->fd >= 0)
        close(partial->fd);
    free(partial->have);
    free(partial->digests);
    free(partial->buffer);
    free(partial);
}

/* Adds it to the open ones; false: it is among them already. */
static bool enter(struct store_partial *partial)
{
    struct store *store = partial->store;
    pthread_mutex_lock(&store->partials_gate);
    const bool free_now = !is_open(store, partial->name);
    if (free_now) {
        partial->next = store->partials;
        store->partials = partial;
    }
    pthread_mutex_unlock(&store->partials_gate);
    return free_now;
}

static void leave(struct store_partial *partial)
{
    struct store *store = partial->store;
    pthread_mutex_lock(&store->partials_gate);
    struct store_partial **link = &store->partials;
    while (*link != partial)
        link = &(*link)->next;
    *link = partial->next;
    pthread_mutex_unlock(&store->partials_gate);
}

enum store_error store_partial_open(struct store *store, const struct store_partial_blob *blob,
                                    struct store_partial **out)
{
    *out = NULL;
    if (blob->bytes <= STORE_SMALL_BYTES || blob->bytes > STORE_BLOB_BYTES_MAX)
        return STORE_LIMIT;
    struct store_partial *partial = calloc(1, sizeof *partial);
    if (partial == NULL)
        return STORE_MEMORY;
    partial->store = store;
    partial->fd = -1;
    partial->bytes = blob->bytes;
    partial->count = (uint32_t)((blob->bytes + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
    memcpy(partial->id, blob->id, STORE_ID_BYTES);
    name_of(blob->id, partial->name);
    partial->have = calloc((partial->count + 7) / 8, 1);
    partial->digests = malloc((size_t)partial->count * STORE_ID_BYTES);
    partial->buffer = malloc(STORE_CHUNK_BYTES);
    if (partial->have == NULL || partial->digests == NULL || partial->buffer == NULL) {
        partial_free(partial);
        return STORE_MEMORY;
    }
    memcpy(partial->digests, blob->chunks, (size_t)partial->count * STORE_ID_BYTES);
    if (!enter(partial)) {
        partial_free(partial);
        return STORE_BUSY;
    }
    store_partials_trim(store);
    partial->fd =
        openat(store->parts_fd, partial->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, (mode_t)0600);
    /* Longer than the blob it can't be of use; the length is not set before the end, so that what is missing takes no
     * room and is passed over below. */
    struct stat file;
    if (partial->fd < 0 || fstat(partial->fd, &file) != 0 ||
        ((uint64_t)file.st_size > blob->bytes && ftruncate(partial->fd, 0) != 0)) {
        const enum store_error error = store_from_system(errno);
        leave(partial);
        partial_free(partial);
        return error;
    }
    *out = partial;
    return STORE_OK;
}

static bool read_chunk(const struct store_partial *partial, uint32_t chunk)
{
    const uint64_t offset = (uint64_t)chunk * STORE_CHUNK_BYTES;
    const size_t length = length_of(partial, chunk);
    for (size_t at = 0; at < length;) {
        const ssize_t got = pread(partial->fd, partial->buffer + at, length - at, (off_t)(offset + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += (size_t)got;
    }
    return true;
}

bool store_partial_check(struct store_partial *partial)
{
    for (int looked = 0; looked < STORE_PARTIAL_CHECK_CHUNKS && partial->checked < partial->count; looked++) {
        const off_t data = lseek(partial->fd, (off_t)partial->checked * STORE_CHUNK_BYTES, SEEK_DATA);
        if (data < 0) { /* nothing behind here has ever been written */
            partial->checked = partial->count;
            break;
        }
        const uint32_t chunk = (uint32_t)(data / STORE_CHUNK_BYTES);
        partial->checked = chunk + 1;
        uint8_t digest[STORE_ID_BYTES];
        if (chunk >= partial->count || !read_chunk(partial, chunk))
            continue;
        partial->store->digest.chunk(partial->buffer, length_of(partial, chunk), digest);
        if (memcmp(digest, partial->digests[chunk], sizeof digest) == 0)
            mark(partial, chunk);
    }
    if (partial->checked < partial->count)
        return false;
    free(partial->buffer);
    partial->buffer = NULL;
    return true;
}

enum store_error store_partial_write(struct store_partial *partial, uint32_t chunk, const void *bytes,
                                     size_t count)
{
    uint8_t digest[STORE_ID_BYTES];
    if (chunk >= partial->count || count != length_of(partial, chunk))
        return STORE_MISMATCH;
    partial->store->digest.chunk(bytes, count, digest);
    if (memcmp(digest, partial->digests[chunk], sizeof digest) != 0)
        return STORE_MISMATCH;
    if (store_partial_has(partial, chunk))
        return STORE_OK;
    const uint64_t offset = (uint64_t)chunk * STORE_CHUNK_BYTES;
    for (size_t at = 0; at < count;) {
        const ssize_t wrote =
            pwrite(partial->fd, (const uint8_t *)bytes + at, count - at, (off_t)(offset + at));
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote == 0 ? STORE_FULL : store_from_system(errno);
        at += (size_t)wrote;
    }
    mark(partial, chunk);
    /* The disk works meanwhile, so that the sync at the end has little left to do. */
    if (++partial->unsynced == STORE_PARTIAL_CHECK_CHUNKS) {
        sync_file_range(partial->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        partial->unsynced = 0;
    }
    return STORE_OK;
}

enum store_error store_partial_finish(struct store_partial *partial, struct store_batch *batch)
{
    struct store *store = partial->store;
    const uint64_t file = atomic_fetch_add(&store->uploads, 1);
    char name[24];
    snprintf(name, sizeof name, "%llu", (unsigned long long)file);
    enum store_error error = partial->have_bytes == partial->bytes ? STORE_OK : STORE_MISMATCH;
    if (error == STORE_OK &&
        (fdatasync(partial->fd) != 0 || renameat(store->parts_fd, partial->name, store->tmp_fd, name) != 0))
        error = store_from_system(errno);
    if (error == STORE_OK) {
        const struct operation like = {.kind = OP_BLOB_FILE, .number = partial->bytes, .file = file};
        error = store_batch_add(batch, &like, partial->id, STORE_ID_BYTES, partial->digests,
                                (size_t)partial->count * STORE_ID_BYTES);
        if (error != STORE_OK) /* back to where it can be taken up again */
            renameat(store->tmp_fd, name, store->parts_fd, partial->name);
    }
    store_partial_close(partial);
    return error;
}

void store_partial_close(struct store_partial *partial)
{
    if (partial == NULL)
        return;
    leave(partial);
    partial_free(partial);
}

void store_partial_forget(struct store *store, const uint8_t id[STORE_ID_BYTES])
{
    char name[NAME_BYTES];
    name_of(id, name);
    pthread_mutex_lock(&store->partials_gate);
    if (!is_open(store, name))
        unlinkat(store->parts_fd, name, 0);
    pthread_mutex_unlock(&store->partials_gate);
}
