#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A chunk is digested and written once it is full and more follows, so that a blob of one chunk never touches
 * a file. */
struct store_upload {
    struct store *store;
    uint64_t file; /* its name in tmp/ */
    int fd;        /* -1 until the second chunk begins */
    enum store_error error;
    uint64_t bytes;
    size_t filled;
    uint8_t (*digests)[STORE_ID_BYTES];
    size_t count, room;
    uint8_t chunk[STORE_CHUNK_BYTES];
};

enum store_error store_upload_open(struct store *store, struct store_upload **upload)
{
    struct store_upload *made = malloc(sizeof *made);
    *upload = made;
    if (made == NULL)
        return STORE_MEMORY;
    made->store = store;
    made->file = atomic_fetch_add(&store->uploads, 1);
    made->fd = -1;
    made->error = STORE_OK;
    made->bytes = 0;
    made->filled = 0;
    made->digests = NULL;
    made->count = made->room = 0;
    return STORE_OK;
}

static enum store_error file_create(struct store_upload *upload)
{
    char name[24];
    snprintf(name, sizeof name, "%llu", (unsigned long long)upload->file);
    upload->fd = openat(upload->store->tmp_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return upload->fd < 0 ? store_from_system(errno) : STORE_OK;
}

static enum store_error chunk_flush(struct store_upload *upload)
{
    if (upload->count == upload->room) {
        const size_t room = upload->room ? 2 * upload->room : 16;
        void *grown = realloc(upload->digests, room * STORE_ID_BYTES);
        if (grown == NULL)
            return STORE_MEMORY;
        upload->digests = grown;
        upload->room = room;
    }
    upload->store->digest.chunk(upload->chunk, upload->filled, upload->digests[upload->count++]);
    const enum store_error error = upload->fd < 0 ? file_create(upload) : STORE_OK;
    if (error != STORE_OK)
        return error;
    for (size_t at = 0; at < upload->filled;) {
        const ssize_t wrote = write(upload->fd, upload->chunk + at, upload->filled - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote == 0 ? STORE_FULL : store_from_system(errno);
        at += (size_t)wrote;
    }
    upload->filled = 0;
    return STORE_OK;
}

enum store_error store_upload_append(struct store_upload *upload, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    if (upload->error == STORE_OK && count > STORE_BLOB_BYTES_MAX - upload->bytes)
        upload->error = STORE_LIMIT;
    while (count > 0 && upload->error == STORE_OK) {
        if (upload->filled == STORE_CHUNK_BYTES) {
            upload->error = chunk_flush(upload);
            continue;
        }
        const size_t room = STORE_CHUNK_BYTES - upload->filled, part = count < room ? count : room;
        memcpy(upload->chunk + upload->filled, from, part);
        upload->filled += part;
        upload->bytes += part;
        from += part;
        count -= part;
    }
    return upload->error;
}

static enum store_error file_finish(struct store_upload *upload, struct store_batch *batch,
                                    const uint8_t id[STORE_ID_BYTES])
{
    if (fdatasync(upload->fd) != 0)
        return store_from_system(errno);
    const struct operation like = {.kind = OP_BLOB_FILE, .number = upload->bytes, .file = upload->file};
    const enum store_error error =
        store_batch_add(batch, &like, id, STORE_ID_BYTES, upload->digests, upload->count * STORE_ID_BYTES);
    if (error == STORE_OK) {
        /* The file is the batch's now. */
        close(upload->fd);
        upload->fd = -1;
    }
    return error;
}

enum store_error store_upload_finish(struct store_upload *upload, const uint8_t *expected,
                                     struct store_batch *batch, uint8_t id[STORE_ID_BYTES])
{
    const bool small = upload->bytes <= STORE_SMALL_BYTES;
    const struct store_digest *digest = &upload->store->digest;
    uint8_t chunk[1][STORE_ID_BYTES];
    enum store_error error = upload->error;
    if (error == STORE_OK && !small)
        error = chunk_flush(upload);
    if (error == STORE_OK && small) {
        if (upload->filled > 0)
            digest->chunk(upload->chunk, upload->filled, chunk[0]);
        digest->root(upload->bytes, chunk, upload->filled > 0, id);
    } else if (error == STORE_OK) {
        digest->root(upload->bytes, upload->digests, upload->count, id);
    }
    if (error == STORE_OK && expected != NULL && memcmp(expected, id, STORE_ID_BYTES) != 0)
        error = STORE_MISMATCH;
    if (error == STORE_OK && small) {
        const struct operation like = {.kind = OP_BLOB};
        error = store_batch_add(batch, &like, id, STORE_ID_BYTES, upload->chunk, upload->filled);
    } else if (error == STORE_OK) {
        error = file_finish(upload, batch, id);
    }
    store_upload_close(upload);
    return error;
}

void store_upload_close(struct store_upload *upload)
{
    if (upload == NULL)
        return;
    if (upload->fd >= 0) {
        char name[24];
        snprintf(name, sizeof name, "%llu", (unsigned long long)upload->file);
        close(upload->fd);
        unlinkat(upload->store->tmp_fd, name, 0);
    }
    free(upload->digests);
    free(upload);
}
