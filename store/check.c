/* store/check.c - reads and verifies everything, for tests and for an operator who doubts a disk. Changes
 * nothing. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct inspection {
    struct store *store;
    MDB_txn *txn;
    store_report_fn *report;
    void *context;
    struct totals totals; /* counted anew */
    uint64_t pins, pointer_marks;
    uint8_t *chunk;
    uint64_t findings;
};

typedef void inspect_fn(struct inspection *inspection, const MDB_val *key, const MDB_val *value);

__attribute__((format(printf, 3, 4))) static void finding(struct inspection *inspection, const uint8_t *id,
                                                          const char *format, ...)
{
    char text[200], name[FILE_NAME_BYTES], whole[320];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    inspection->findings++;
    if (id != NULL) {
        store_file_name(id, name);
        snprintf(whole, sizeof whole, "%.16s: %s", name + 3, text);
    } else {
        snprintf(whole, sizeof whole, "%s", text);
    }
    inspection->report(inspection->context, whole);
}

static MDB_dbi table_of(const struct inspection *inspection, enum blob_table table)
{
    return inspection->store->environments[SIDE_BLOBS].tables[table];
}

static bool row_there(const struct inspection *inspection, enum blob_table table, const void *key,
                      size_t key_bytes)
{
    MDB_val value;
    return store_row_get(inspection->txn, table_of(inspection, table), key, key_bytes, &value) == STORE_OK;
}

static void table_inspect(struct inspection *inspection, enum blob_table table, size_t key_bytes,
                          inspect_fn *inspect)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int code = mdb_cursor_open(inspection->txn, table_of(inspection, table), &cursor);
    if (code == 0) {
        for (code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); code == 0;
             code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            if (key.mv_size == key_bytes)
                inspect(inspection, &key, &value);
            else
                finding(inspection, NULL, "table %d has a key of %zu bytes", (int)table, key.mv_size);
        }
        mdb_cursor_close(cursor);
    }
    if (code != MDB_NOTFOUND)
        finding(inspection, NULL, "table %d cannot be read: %s", (int)table, mdb_strerror(code));
}

/* ---- Blobs
 * ---------------------------------------------------------------------------------------------------------
 */

static void value_inspect(struct inspection *inspection, const uint8_t *id, const struct blob_row *row)
{
    MDB_val value;
    uint8_t chunk[1][STORE_ID_BYTES], root[STORE_ID_BYTES];
    if (store_row_get(inspection->txn, table_of(inspection, BLOB_VALUES), id, STORE_ID_BYTES, &value) !=
            STORE_OK ||
        value.mv_size != row->bytes) {
        finding(inspection, id, "the value of the blob is missing or has another size");
        return;
    }
    if (value.mv_size > 0)
        inspection->store->digest.chunk(value.mv_data, value.mv_size, chunk[0]);
    inspection->store->digest.root(value.mv_size, chunk, value.mv_size > 0, root);
    if (memcmp(root, id, STORE_ID_BYTES) != 0)
        finding(inspection, id, "the bytes of the blob do not match its id");
}

static bool file_digest(struct inspection *inspection, int fd, const struct blob_row *row,
                        uint8_t (*digests)[STORE_ID_BYTES], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t at = (uint64_t)i * STORE_CHUNK_BYTES, left = row->bytes - at;
        const size_t want = left < STORE_CHUNK_BYTES ? (size_t)left : STORE_CHUNK_BYTES;
        size_t got = 0;
        while (got < want) {
            const ssize_t part = pread(fd, inspection->chunk + got, want - got, (off_t)(at + got));
            if (part < 0 && errno == EINTR)
                continue;
            if (part <= 0)
                return false;
            got += (size_t)part;
        }
        inspection->store->digest.chunk(inspection->chunk, want, digests[i]);
    }
    return true;
}

static void file_inspect(struct inspection *inspection, const uint8_t *id, const struct blob_row *row)
{
    char name[FILE_NAME_BYTES];
    store_file_name(id, name);
    struct stat file;
    const int fd = openat(inspection->store->files_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const size_t count = (size_t)((row->bytes + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
    uint8_t(*digests)[STORE_ID_BYTES] = malloc(count * STORE_ID_BYTES);
    uint8_t root[STORE_ID_BYTES];
    if (fd < 0 || digests == NULL || fstat(fd, &file) != 0 || (uint64_t)file.st_size != row->bytes ||
        !file_digest(inspection, fd, row, digests, count)) {
        finding(inspection, id, "the file of the blob is missing or has another size");
    } else {
        inspection->store->digest.root(row->bytes, (const uint8_t(*)[STORE_ID_BYTES])digests, count, root);
        if (memcmp(root, id, STORE_ID_BYTES) != 0)
            finding(inspection, id, "the file of the blob does not match its id");
        for (size_t page = 0; page * CHUNKS_PER_PAGE < count; page++) {
            uint8_t key[CHUNK_KEY_BYTES];
            memcpy(key, id, STORE_ID_BYTES);
            for (int i = 0; i < 4; i++)
                key[STORE_ID_BYTES + i] = (uint8_t)(page >> (24 - 8 * i));
            const size_t left = count - page * CHUNKS_PER_PAGE;
            const size_t bytes = (left < CHUNKS_PER_PAGE ? left : CHUNKS_PER_PAGE) * STORE_ID_BYTES;
            MDB_val value;
            if (store_row_get(inspection->txn, table_of(inspection, BLOB_CHUNKS), key, sizeof key, &value) !=
                    STORE_OK ||
                value.mv_size != bytes || memcmp(value.mv_data, digests[page * CHUNKS_PER_PAGE], bytes) != 0)
                finding(inspection, id, "page %zu of its chunk digests is wrong", page);
        }
    }
    free(digests);
    if (fd >= 0)
        close(fd);
}

static void blob_inspect(struct inspection *inspection, const MDB_val *key, const MDB_val *value)
{
    struct blob_row row;
    (void)value;
    const uint8_t *id = key->mv_data;
    if (store_blob_row_get(inspection->store, inspection->txn, id, &row) != STORE_OK) {
        finding(inspection, id, "the index row cannot be read");
        return;
    }
    inspection->totals.blobs++;
    inspection->totals.blob_bytes += row.bytes;
    if (row.in_file) {
        inspection->totals.files++;
        inspection->totals.file_bytes += row.bytes;
        file_inspect(inspection, id, &row);
    } else {
        value_inspect(inspection, id, &row);
    }
}

static void orphan_inspect(struct inspection *inspection, const MDB_val *key, const MDB_val *value)
{
    (void)value;
    if (!row_there(inspection, BLOB_INDEX, key->mv_data, STORE_ID_BYTES))
        finding(inspection, key->mv_data, "bytes or chunk digests of a blob that is not in the index");
}

/* A pin may outlive its blob if the blob was damaged: it waits for a new copy. */
static void pin_inspect(struct inspection *inspection, const MDB_val *key, const MDB_val *value)
{
    uint8_t swapped[PAIR_BYTES];
    const uint8_t *pair = key->mv_data;
    (void)value;
    memcpy(swapped, pair + STORE_ID_BYTES, STORE_ID_BYTES);
    memcpy(swapped + STORE_ID_BYTES, pair, STORE_ID_BYTES);
    inspection->pins++;
    if (!row_there(inspection, BLOB_OWNERS, swapped, sizeof swapped))
        finding(inspection, pair, "a pin that its owner does not know");
}

/* ---- Entries and pointers
 * -------------------------------------------------------------------------------------------- */

static void entry_inspect(struct inspection *inspection, const MDB_val *key, const MDB_val *value)
{
    struct store_entry entry;
    inspection->totals.entries++;
    inspection->totals.entry_bytes += value->mv_size + ROW_COST;
    if (!store_cache_row_read(inspection->store, key->mv_data, value, &entry))
        finding(inspection, key->mv_data, "the cache entry does not match its digest");
}

static void pointer_inspect(struct inspection *inspection, const MDB_val *key, const MDB_val *value)
{
    struct store_holder holders[STORE_HOLDERS_MAX];
    const size_t count = store_pointer_row_read(value, holders);
    if (count == 0 || value->mv_size != count * HOLDER_BYTES)
        finding(inspection, key->mv_data, "the pointer row has %zu bytes", value->mv_size);
    inspection->totals.pointers++;
    inspection->totals.pointer_bytes += count * (HOLDER_BYTES + PAIR_BYTES) + ROW_COST;
    for (size_t i = 0; i < count; i++) {
        uint8_t pair[PAIR_BYTES];
        memcpy(pair, holders[i].node, STORE_ID_BYTES);
        memcpy(pair + STORE_ID_BYTES, key->mv_data, STORE_ID_BYTES);
        if (!row_there(inspection, POINTER_NODES, pair, sizeof pair))
            finding(inspection, key->mv_data, "a holder that its node's list lacks");
    }
    inspection->pointer_marks += count;
}

static void count_compare(struct inspection *inspection, enum blob_table table, uint64_t expected,
                          const char *what)
{
    MDB_stat stat;
    if (mdb_stat(inspection->txn, table_of(inspection, table), &stat) != 0 || stat.ms_entries != expected)
        finding(inspection, NULL, "%s", what);
}

static void found_in_state(void *context, const char *text)
{
    finding(context, NULL, "%s", text);
}

enum store_error store_check(struct store *store, store_report_fn *report, void *context)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    struct inspection inspection = {.store = store, .report = report, .context = context};
    inspection.chunk = malloc(STORE_CHUNK_BYTES);
    if (inspection.chunk == NULL)
        return STORE_MEMORY;
    char text[200];
    enum store_error error = store_pages_check(store, SIDE_BLOBS, true, text, sizeof text);
    if (error == STORE_CORRUPT) {
        finding(&inspection, NULL, "blobs/data.mdb: %s", text);
        error = STORE_OK;
    }
    if (error == STORE_OK)
        error = store_read_begin(environment, &inspection.txn);
    if (error == STORE_OK) {
        store_guard_mark(environment);
        table_inspect(&inspection, BLOB_INDEX, STORE_ID_BYTES, blob_inspect);
        table_inspect(&inspection, BLOB_VALUES, STORE_ID_BYTES, orphan_inspect);
        table_inspect(&inspection, BLOB_CHUNKS, CHUNK_KEY_BYTES, orphan_inspect);
        table_inspect(&inspection, BLOB_PINS, PAIR_BYTES, pin_inspect);
        count_compare(&inspection, BLOB_OWNERS, inspection.pins, "an owner lists pins that do not exist");
        table_inspect(&inspection, CACHE_ENTRIES, STORE_ID_BYTES, entry_inspect);
        table_inspect(&inspection, POINTERS, STORE_ID_BYTES, pointer_inspect);
        count_compare(&inspection, POINTER_NODES, inspection.pointer_marks,
                      "a node lists pointers that do not exist");
        pthread_mutex_lock(&store->gate);
        const bool agree = memcmp(&store->totals, &inspection.totals, sizeof store->totals) == 0;
        pthread_mutex_unlock(&store->gate);
        if (!agree)
            finding(&inspection, NULL, "the totals do not match what is there");
        store_guard_mark(NULL);
        store_read_end(environment, inspection.txn);
        error = store_verify_state(store, found_in_state, &inspection);
        if (error == STORE_CORRUPT)
            error = STORE_OK; /* reported */
    }
    free(inspection.chunk);
    if (error != STORE_OK)
        return error;
    return inspection.findings == 0 ? STORE_OK : STORE_CORRUPT;
}
