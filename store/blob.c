#include "store/internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct environment *blobs_of(const struct store *store)
{
    return &store->environments[SIDE_BLOBS];
}

/* ---- The index
 * ------------------------------------------------------------------------------------------------ */

enum store_error store_blob_row_get(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES],
                                    struct blob_row *row)
{
    MDB_val value;
    const enum store_error error =
        store_row_get(txn, blobs_of(store)->tables[BLOB_INDEX], id, STORE_ID_BYTES, &value);
    if (error != STORE_OK)
        return error;
    if (value.mv_size != BLOB_ROW_BYTES)
        return STORE_CORRUPT;
    const uint8_t *bytes = value.mv_data;
    *row = (struct blob_row){.bytes = store_number_decode(bytes, 8),
                             .born = store_number_decode(bytes + 8, 8),
                             .in_file = bytes[16] != 0};
    return STORE_OK;
}

static enum store_error blob_row_put(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES],
                                     const struct blob_row *row)
{
    uint8_t bytes[BLOB_ROW_BYTES];
    store_number_encode(bytes, row->bytes, 8);
    store_number_encode(bytes + 8, row->born, 8);
    bytes[16] = row->in_file;
    return store_row_put(txn, blobs_of(store)->tables[BLOB_INDEX], id, STORE_ID_BYTES, bytes, sizeof bytes);
}

bool store_blob_pinned(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES])
{
    uint8_t pin[PAIR_BYTES];
    size_t count = 0;
    bool more;
    /* An error counts as a pin: what can't be read is not evicted. */
    return store_keys_collect(txn, blobs_of(store)->tables[BLOB_PINS], id, STORE_ID_BYTES, pin, sizeof pin, 1,
                              &count, &more) != STORE_OK ||
           count > 0;
}

static void chunk_page_key(const uint8_t id[STORE_ID_BYTES], uint32_t page, uint8_t key[CHUNK_KEY_BYTES])
{
    memcpy(key, id, STORE_ID_BYTES);
    for (int i = 0; i < 4; i++)
        key[STORE_ID_BYTES + i] = (uint8_t)(page >> (24 - 8 * i));
}

static uint32_t chunks_in(uint64_t bytes)
{
    return (uint32_t)((bytes + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
}

static enum store_error chunk_digest_get(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES],
                                         uint32_t chunk, uint8_t digest[STORE_ID_BYTES])
{
    uint8_t key[CHUNK_KEY_BYTES];
    chunk_page_key(id, chunk / CHUNKS_PER_PAGE, key);
    MDB_val page;
    const enum store_error error =
        store_row_get(txn, blobs_of(store)->tables[BLOB_CHUNKS], key, sizeof key, &page);
    const size_t offset = (size_t)(chunk % CHUNKS_PER_PAGE) * STORE_ID_BYTES;
    if (error != STORE_OK || offset + STORE_ID_BYTES > page.mv_size)
        return error == STORE_OK || error == STORE_NONE ? STORE_CORRUPT : error;
    memcpy(digest, (const uint8_t *)page.mv_data + offset, STORE_ID_BYTES);
    return STORE_OK;
}

/* ---- Changes: on the writer's thread
 * -------------------------------------------------------------------------- */

static enum store_error file_move(struct store *store, struct operation *operation)
{
    if (operation->moved)
        return STORE_OK;
    char from[24], to[FILE_NAME_BYTES], folder[3];
    snprintf(from, sizeof from, "%llu", (unsigned long long)operation->file);
    store_file_name(operation->data, to);
    memcpy(folder, to, 2);
    folder[2] = '\0';
    if (mkdirat(store->files_fd, folder, 0700) == 0) {
        if (fsync(store->files_fd) != 0)
            return store_from_system(errno);
    } else if (errno != EEXIST) {
        return store_from_system(errno);
    }
    if (renameat(store->tmp_fd, from, store->files_fd, to) != 0)
        return errno == ENOENT ? STORE_SYSTEM : store_from_system(errno);
    operation->moved = true;
    const int fd = openat(store->files_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int code = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return store_from_system(code);
}

enum store_error store_blob_erase(struct change *change, const uint8_t id[STORE_ID_BYTES])
{
    struct store *store = change->store;
    MDB_txn *txn;
    struct blob_row row;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    if (error == STORE_OK)
        error = store_blob_row_get(store, txn, id, &row);
    if (error != STORE_OK)
        return error == STORE_NONE ? STORE_OK : error;
    if (row.in_file) {
        if (change->removed_count == change->removed_room) {
            const size_t room = change->removed_room ? 2 * change->removed_room : 64;
            void *grown = realloc(change->removed, room * STORE_ID_BYTES);
            if (grown == NULL)
                return STORE_MEMORY;
            change->removed = grown;
            change->removed_room = room;
        }
        memcpy(change->removed[change->removed_count++], id, STORE_ID_BYTES);
        const uint32_t pages = (chunks_in(row.bytes) + CHUNKS_PER_PAGE - 1) / CHUNKS_PER_PAGE;
        for (uint32_t page = 0; page < pages && error == STORE_OK; page++) {
            uint8_t key[CHUNK_KEY_BYTES];
            chunk_page_key(id, page, key);
            error = store_row_delete(txn, blobs_of(store)->tables[BLOB_CHUNKS], key, sizeof key);
        }
        change->totals.files--;
        change->totals.file_bytes -= row.bytes;
    } else {
        error = store_row_delete(txn, blobs_of(store)->tables[BLOB_VALUES], id, STORE_ID_BYTES);
    }
    if (error == STORE_OK)
        error = store_row_delete(txn, blobs_of(store)->tables[BLOB_INDEX], id, STORE_ID_BYTES);
    change->totals.blobs--;
    change->totals.blob_bytes -= row.bytes;
    return error;
}

static enum store_error blob_put(struct change *change, MDB_txn *txn, struct operation *operation)
{
    struct store *store = change->store;
    const struct environment *environment = blobs_of(store);
    const uint8_t *id = operation->data;
    const bool in_file = operation->kind == OP_BLOB_FILE;
    const uint64_t bytes = in_file ? operation->number : operation->value_bytes;
    store_touch(store, id);

    /* A file is moved over one that may be there, which also heals one that was damaged. */
    enum store_error error = in_file ? file_move(store, operation) : STORE_OK;
    struct blob_row row;
    MDB_val old;
    if (error == STORE_OK)
        error = store_blob_row_get(store, txn, id, &row);
    if (error == STORE_OK && !in_file && !row.in_file &&
        store_row_get(txn, environment->tables[BLOB_VALUES], id, STORE_ID_BYTES, &old) == STORE_OK &&
        old.mv_size == operation->value_bytes &&
        (old.mv_size == 0 || memcmp(old.mv_data, operation->value, old.mv_size) == 0))
        return STORE_OK;
    if (error == STORE_OK)
        error = store_blob_erase(change, id);
    if (error != STORE_OK && error != STORE_NONE)
        return error;

    change->grows[SIDE_BLOBS] = true;
    row = (struct blob_row){.bytes = bytes, .born = mdb_txn_id(txn), .in_file = in_file};
    error = blob_row_put(store, txn, id, &row);
    if (error == STORE_OK && !in_file)
        error = store_row_put(txn, environment->tables[BLOB_VALUES], id, STORE_ID_BYTES, operation->value,
                              operation->value_bytes);
    const size_t page_bytes = (size_t)CHUNKS_PER_PAGE * STORE_ID_BYTES;
    for (size_t at = 0; in_file && error == STORE_OK && at < operation->value_bytes; at += page_bytes) {
        uint8_t key[CHUNK_KEY_BYTES];
        chunk_page_key(id, (uint32_t)(at / page_bytes), key);
        const size_t left = operation->value_bytes - at;
        error = store_row_put(txn, environment->tables[BLOB_CHUNKS], key, sizeof key, operation->value + at,
                              left < page_bytes ? left : page_bytes);
    }
    change->totals.blobs++;
    change->totals.blob_bytes += bytes;
    if (in_file) {
        change->totals.files++;
        change->totals.file_bytes += bytes;
    }
    return error;
}

static void pair_swap(const uint8_t *pair, uint8_t *swapped)
{
    memcpy(swapped, pair + STORE_ID_BYTES, STORE_ID_BYTES);
    memcpy(swapped + STORE_ID_BYTES, pair, STORE_ID_BYTES);
}

static enum store_error pin_apply(struct store *store, MDB_txn *txn, const uint8_t *pin, bool put)
{
    const MDB_dbi pins = blobs_of(store)->tables[BLOB_PINS], owners = blobs_of(store)->tables[BLOB_OWNERS];
    uint8_t swapped[PAIR_BYTES];
    pair_swap(pin, swapped);
    enum store_error error =
        put ? store_row_put(txn, pins, pin, PAIR_BYTES, "", 0) : store_row_delete(txn, pins, pin, PAIR_BYTES);
    if (error == STORE_OK)
        error = put ? store_row_put(txn, owners, swapped, PAIR_BYTES, "", 0)
                    : store_row_delete(txn, owners, swapped, PAIR_BYTES);
    return error;
}

static enum store_error unpin_all(struct store *store, MDB_txn *txn, const uint8_t *owner)
{
    uint8_t *keys = malloc((size_t)STORE_SWEEP_ROWS * PAIR_BYTES);
    if (keys == NULL)
        return STORE_MEMORY;
    size_t count;
    bool more;
    enum store_error error =
        store_keys_collect(txn, blobs_of(store)->tables[BLOB_OWNERS], owner, STORE_ID_BYTES, keys, PAIR_BYTES,
                           STORE_SWEEP_ROWS, &count, &more);
    for (size_t i = 0; i < count && error == STORE_OK; i++) {
        uint8_t pin[PAIR_BYTES];
        pair_swap(keys + i * PAIR_BYTES, pin);
        error = pin_apply(store, txn, pin, false);
    }
    free(keys);
    return error == STORE_OK && more ? STORE_MORE : error;
}

static enum store_error blob_drop(struct change *change, MDB_txn *txn, const struct operation *operation)
{
    struct blob_row row;
    const enum store_error error = store_blob_row_get(change->store, txn, operation->data, &row);
    if (error != STORE_OK || row.born != operation->number)
        return error == STORE_NONE ? STORE_OK : error;
    return store_blob_erase(change, operation->data);
}

enum store_error store_blob_apply(struct change *change, struct operation *operation)
{
    struct store *store = change->store;
    MDB_txn *txn;
    const enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    if (error != STORE_OK)
        return error;
    switch (operation->kind) {
    case OP_BLOB:
    case OP_BLOB_FILE:
        return blob_put(change, txn, operation);
    case OP_BLOB_REMOVE:
        return store_blob_erase(change, operation->data);
    case OP_BLOB_DROP:
        return blob_drop(change, txn, operation);
    case OP_PIN:
        change->grows[SIDE_BLOBS] = true;
        return pin_apply(store, txn, operation->data, true);
    case OP_UNPIN:
        return pin_apply(store, txn, operation->data, false);
    case OP_UNPIN_ALL:
        return unpin_all(store, txn, operation->data);
    default:
        assert(false && "not an operation on blobs");
        return STORE_LIMIT;
    }
}

/* ---- Reading: on any thread
 * -------------------------------------------------------------------------------------- */

/* Notes that a blob's bytes are not what its name says and has it dropped, unless a new copy has come
 * meanwhile. */
static enum store_error blob_damaged(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                     const struct blob_row *row)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    bool pinned = false;
    if (store->damaged && store_read_begin(environment, &txn) == STORE_OK) {
        pinned = store_blob_pinned(store, txn, id);
        store_read_end(environment, txn);
    }
    atomic_fetch_add(&store->corrupt, 1);
    if (store->damaged)
        store->damaged(store->damaged_context, id, pinned);
    const struct operation like = {.kind = OP_BLOB_DROP, .number = row->born};
    store_writer_suggest(store, &like, id);
    return STORE_CORRUPT;
}

static enum store_error row_read(struct store *store, const uint8_t id[STORE_ID_BYTES], struct blob_row *row)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    error = store_blob_row_get(store, txn, id, row);
    store_read_end(environment, txn);
    return error;
}

enum store_error store_blob_stat(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                 struct store_blob_info *info)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    struct blob_row row;
    error = store_blob_row_get(store, txn, id, &row);
    if (error == STORE_OK)
        *info = (struct store_blob_info){.bytes = row.bytes,
                                         .chunks = chunks_in(row.bytes),
                                         .in_file = row.in_file,
                                         .pinned = store_blob_pinned(store, txn, id)};
    store_read_end(environment, txn);
    return error;
}

static bool small_matches(const struct store *store, const void *bytes, size_t count, const uint8_t *id)
{
    uint8_t chunk[1][STORE_ID_BYTES], root[STORE_ID_BYTES];
    if (count > 0)
        store->digest.chunk(bytes, count, chunk[0]);
    store->digest.root(count, chunk, count > 0, root);
    return memcmp(root, id, STORE_ID_BYTES) == 0;
}

/* Copies a small blob that is known to be `row->bytes` long and verifies the copy. */
static enum store_error small_get(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                  const struct blob_row *row, void *buffer)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    MDB_val value;
    error = store_row_get(txn, environment->tables[BLOB_VALUES], id, STORE_ID_BYTES, &value);
    const bool fits = error == STORE_OK && value.mv_size == row->bytes;
    if (fits && value.mv_size > 0)
        memcpy(buffer, value.mv_data, value.mv_size);
    struct blob_row now;
    const bool stays = store_blob_row_get(store, txn, id, &now) == STORE_OK && now.born == row->born;
    store_read_end(environment, txn);
    if (!stays)
        return STORE_NONE;
    if (!fits || !small_matches(store, buffer, (size_t)row->bytes, id))
        return blob_damaged(store, id, row);
    store_touch(store, id);
    return STORE_OK;
}

/* Opens a blob's file. One that is gone although its row is still there is dropped and counted. */
static enum store_error file_open(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                  const struct blob_row *row, int *fd)
{
    char name[FILE_NAME_BYTES];
    store_file_name(id, name);
    *fd = openat(store->files_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0 && errno != ENOENT)
        return store_from_system(errno);
    if (*fd < 0) {
        struct blob_row now;
        if (row_read(store, id, &now) == STORE_OK && now.born == row->born) {
            atomic_fetch_add(&store->missing, 1);
            const struct operation like = {.kind = OP_BLOB_DROP, .number = row->born};
            store_writer_suggest(store, &like, id);
        }
        return STORE_NONE;
    }
    struct stat file;
    if (fstat(*fd, &file) != 0 || (uint64_t)file.st_size != row->bytes) {
        close(*fd);
        *fd = -1;
        return blob_damaged(store, id, row);
    }
    store_touch(store, id);
    return STORE_OK;
}

static bool read_fully(int fd, uint8_t *buffer, size_t count, uint64_t offset)
{
    while (count > 0) {
        const ssize_t got = pread(fd, buffer, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        buffer += got;
        offset += (uint64_t)got;
        count -= (size_t)got;
    }
    return true;
}

static size_t chunk_bytes(const struct blob_row *row, uint32_t chunk)
{
    const uint64_t left = row->bytes - (uint64_t)chunk * STORE_CHUNK_BYTES;
    return left < STORE_CHUNK_BYTES ? (size_t)left : STORE_CHUNK_BYTES;
}

/* Reads one chunk of a file into `buffer` and verifies it. */
static enum store_error chunk_read(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                   const struct blob_row *row, int fd, uint32_t chunk, uint8_t *buffer)
{
    uint8_t expected[STORE_ID_BYTES], digest[STORE_ID_BYTES];
    enum store_error error = store_blob_chunk(store, id, chunk, expected);
    if (error != STORE_OK)
        return error;
    const size_t count = chunk_bytes(row, chunk);
    if (!read_fully(fd, buffer, count, (uint64_t)chunk * STORE_CHUNK_BYTES))
        return blob_damaged(store, id, row);
    store->digest.chunk(buffer, count, digest);
    return memcmp(digest, expected, sizeof digest) == 0 ? STORE_OK : blob_damaged(store, id, row);
}

enum store_error store_blob_chunk(struct store *store, const uint8_t id[STORE_ID_BYTES], uint32_t chunk,
                                  uint8_t digest[STORE_ID_BYTES])
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    struct blob_row row;
    MDB_val value;
    error = store_blob_row_get(store, txn, id, &row);
    if (error == STORE_OK && chunk >= chunks_in(row.bytes)) {
        error = STORE_LIMIT;
    } else if (error == STORE_OK && row.in_file) {
        error = chunk_digest_get(store, txn, id, chunk, digest);
    } else if (error == STORE_OK) {
        error = store_row_get(txn, environment->tables[BLOB_VALUES], id, STORE_ID_BYTES, &value);
        if (error == STORE_OK)
            store->digest.chunk(value.mv_data, value.mv_size, digest);
    }
    store_read_end(environment, txn);
    return error;
}

static enum store_error file_read(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                  const struct blob_row *row, uint64_t offset, size_t count, uint8_t *buffer)
{
    int fd;
    enum store_error error = file_open(store, id, row, &fd);
    if (error != STORE_OK)
        return error;
    uint8_t *scratch = NULL;
    while (count > 0 && error == STORE_OK) {
        const uint32_t chunk = (uint32_t)(offset / STORE_CHUNK_BYTES);
        const size_t skip = (size_t)(offset % STORE_CHUNK_BYTES), whole = chunk_bytes(row, chunk);
        const size_t part = whole - skip < count ? whole - skip : count;
        if (part == whole) {
            error = chunk_read(store, id, row, fd, chunk, buffer);
        } else {
            if (scratch == NULL)
                scratch = malloc(STORE_CHUNK_BYTES);
            error = scratch == NULL ? STORE_MEMORY : chunk_read(store, id, row, fd, chunk, scratch);
            if (error == STORE_OK)
                memcpy(buffer, scratch + skip, part);
        }
        buffer += part;
        offset += part;
        count -= part;
    }
    free(scratch);
    close(fd);
    return error;
}

static enum store_error small_read(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                   const struct blob_row *row, size_t offset, size_t count, void *buffer)
{
    if (count == row->bytes)
        return small_get(store, id, row, buffer);
    uint8_t *copy = malloc((size_t)row->bytes);
    if (copy == NULL)
        return STORE_MEMORY;
    const enum store_error error = small_get(store, id, row, copy);
    if (error == STORE_OK && count > 0)
        memcpy(buffer, copy + offset, count);
    free(copy);
    return error;
}

static enum store_error any_read(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                 const struct blob_row *row, uint64_t offset, size_t count, void *buffer)
{
    return row->in_file ? file_read(store, id, row, offset, count, buffer)
                        : small_read(store, id, row, (size_t)offset, count, buffer);
}

enum store_error store_blob_read(struct store *store, const uint8_t id[STORE_ID_BYTES], uint64_t offset,
                                 size_t count, void *buffer)
{
    struct blob_row row;
    const enum store_error error = row_read(store, id, &row);
    if (error != STORE_OK)
        return error;
    if (offset > row.bytes || count > row.bytes - offset)
        return STORE_LIMIT;
    return any_read(store, id, &row, offset, count, buffer);
}

enum store_error store_blob_get(struct store *store, const uint8_t id[STORE_ID_BYTES], void *buffer,
                                size_t capacity, size_t *bytes)
{
    *bytes = 0;
    struct blob_row row;
    const enum store_error error = row_read(store, id, &row);
    if (error != STORE_OK)
        return error;
    *bytes = (size_t)row.bytes;
    if (row.bytes > capacity)
        return STORE_SMALL;
    return any_read(store, id, &row, 0, (size_t)row.bytes, buffer);
}

/* A small blob as a file that nobody can change. */
static enum store_error memfd_make(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                   const struct blob_row *row, int *fd)
{
    const size_t count = (size_t)row->bytes;
    uint8_t *copy = malloc(count > 0 ? count : 1);
    if (copy == NULL)
        return STORE_MEMORY;
    enum store_error error = small_get(store, id, row, copy);
    if (error == STORE_OK) {
        *fd = memfd_create("weir-blob", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (*fd < 0 || write(*fd, copy, count) != (ssize_t)count ||
            fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
            error = store_from_system(errno);
            if (*fd >= 0)
                close(*fd);
            *fd = -1;
        }
    }
    free(copy);
    return error;
}

static enum store_error file_verify(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                    const struct blob_row *row, int fd)
{
    uint8_t *buffer = malloc(STORE_CHUNK_BYTES);
    if (buffer == NULL)
        return STORE_MEMORY;
    enum store_error error = STORE_OK;
    for (uint32_t chunk = 0; chunk < chunks_in(row->bytes) && error == STORE_OK; chunk++)
        error = chunk_read(store, id, row, fd, chunk, buffer);
    free(buffer);
    return error;
}

enum store_error store_blob_open(struct store *store, const uint8_t id[STORE_ID_BYTES], bool verify, int *fd,
                                 uint64_t *bytes)
{
    *fd = -1;
    struct blob_row row;
    enum store_error error = row_read(store, id, &row);
    if (error != STORE_OK)
        return error;
    *bytes = row.bytes;
    if (!row.in_file)
        return memfd_make(store, id, &row, fd);
    error = file_open(store, id, &row, fd);
    if (error == STORE_OK && verify)
        error = file_verify(store, id, &row, *fd);
    if (error != STORE_OK && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return error;
}

/* ---- Walking
 * ----------------------------------------------------------------------------------------------------- */

enum { WALK_IDS = 256 };

/* Walks pairs or ids in pages, so that no transaction is open while the caller is called back. */
static enum store_error walk(struct store *store, enum blob_table table, const uint8_t *owner,
                             const uint8_t *after, store_blob_fn *blob, void *context)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    const size_t prefix = owner != NULL ? STORE_ID_BYTES : 0, key_bytes = prefix + STORE_ID_BYTES;
    uint8_t from[PAIR_BYTES] = {0};
    bool from_given = after != NULL;
    if (owner != NULL)
        memcpy(from, owner, STORE_ID_BYTES);
    if (after != NULL)
        memcpy(from + prefix, after, STORE_ID_BYTES);
    for (;;) {
        uint8_t ids[WALK_IDS][STORE_ID_BYTES];
        struct store_blob_info infos[WALK_IDS];
        size_t count = 0;
        MDB_txn *txn;
        MDB_cursor *cursor;
        enum store_error error = store_read_begin(environment, &txn);
        if (error != STORE_OK)
            return error;
        int code = mdb_cursor_open(txn, environment->tables[table], &cursor);
        if (code == 0) {
            MDB_val key = {.mv_size = key_bytes, .mv_data = from}, value;
            code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
            if (code == 0 && from_given && memcmp(key.mv_data, from, key_bytes) == 0)
                code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
            while (code == 0 && count < WALK_IDS && store_row_has_prefix(&key, from, prefix)) {
                struct blob_row row;
                memcpy(ids[count], (const uint8_t *)key.mv_data + prefix, STORE_ID_BYTES);
                if (store_blob_row_get(store, txn, ids[count], &row) == STORE_OK) {
                    infos[count] = (struct store_blob_info){
                        .bytes = row.bytes,
                        .chunks = chunks_in(row.bytes),
                        .in_file = row.in_file,
                        .pinned = owner != NULL || store_blob_pinned(store, txn, ids[count])};
                    count++;
                }
                code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
            }
            mdb_cursor_close(cursor);
        }
        store_read_end(environment, txn);
        if (code != 0 && code != MDB_NOTFOUND)
            return store_from_system(code);
        for (size_t i = 0; i < count; i++)
            if (!blob(context, ids[i], &infos[i]))
                return STORE_OK;
        if (count < WALK_IDS)
            return STORE_OK;
        memcpy(from + prefix, ids[count - 1], STORE_ID_BYTES);
        from_given = true;
    }
}

enum store_error store_blob_each(struct store *store, const uint8_t *after, store_blob_fn *blob,
                                 void *context)
{
    return walk(store, BLOB_INDEX, NULL, after, blob, context);
}

enum store_error store_pin_each(struct store *store, const uint8_t owner[STORE_ID_BYTES], store_blob_fn *blob,
                                void *context)
{
    return walk(store, BLOB_OWNERS, owner, NULL, blob, context);
}
