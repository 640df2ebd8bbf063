#include "store/internal.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES = STORE_ID_BYTES + 1 };

/* Checks a row's digest, then takes it apart; the entry points into the row. */
bool store_cache_row_read(struct store *store, const uint8_t *key, const MDB_val *row,
                          struct store_entry *entry)
{
    const uint8_t *bytes = row->mv_data;
    uint8_t digest[STORE_ID_BYTES];
    if (row->mv_size < HEAD_BYTES)
        return false;
    const uint8_t *body = bytes + STORE_ID_BYTES;
    const size_t body_bytes = row->mv_size - STORE_ID_BYTES, ids_bytes = (size_t)body[0] * STORE_ID_BYTES;
    store->digest.sum(key, STORE_ID_BYTES, body, body_bytes, digest);
    if (memcmp(digest, bytes, sizeof digest) != 0 || 1 + ids_bytes > body_bytes)
        return false;
    *entry = (struct store_entry){.bytes = body + 1 + ids_bytes,
                                  .count = body_bytes - 1 - ids_bytes,
                                  .blobs = (const uint8_t(*)[STORE_ID_BYTES])(body + 1),
                                  .blob_count = body[0]};
    return true;
}

static bool blobs_present(struct store *store, MDB_txn *txn, const struct store_entry *entry)
{
    struct blob_row row;
    for (size_t i = 0; i < entry->blob_count; i++)
        if (store_blob_row_get(store, txn, entry->blobs[i], &row) != STORE_OK)
            return false;
    return true;
}

enum store_error store_cache_get_many(struct store *store, const uint8_t (*keys)[STORE_ID_BYTES],
                                      size_t count, store_entry_fn *found, void *context)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    const struct operation drop = {.kind = OP_CACHE_REMOVE};
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    uint64_t hits = 0;
    for (size_t i = 0; i < count && error == STORE_OK; i++) {
        MDB_val row;
        struct store_entry entry;
        error = store_row_get(txn, environment->tables[CACHE_ENTRIES], keys[i], STORE_ID_BYTES, &row);
        if (error != STORE_OK) {
            error = error == STORE_NONE ? STORE_OK : error;
            continue;
        }
        if (!store_cache_row_read(store, keys[i], &row, &entry)) {
            atomic_fetch_add(&store->corrupt, 1);
            store_writer_suggest(store, &drop, keys[i]);
            continue;
        }
        if (!blobs_present(store, txn, &entry)) {
            store_writer_suggest(store, &drop, keys[i]);
            continue;
        }
        store_touch(store, keys[i]);
        for (size_t j = 0; j < entry.blob_count; j++)
            store_touch(store, entry.blobs[j]);
        hits++;
        found(context, i, &entry);
    }
    store_read_end(environment, txn);
    atomic_fetch_add(&store->hits, hits);
    atomic_fetch_add(&store->misses, count - hits);
    return error;
}

enum store_error store_cache_erase(struct change *change, const uint8_t key[STORE_ID_BYTES])
{
    const MDB_dbi dbi = change->store->environments[SIDE_BLOBS].tables[CACHE_ENTRIES];
    MDB_txn *txn;
    MDB_val row;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    if (error == STORE_OK)
        error = store_row_get(txn, dbi, key, STORE_ID_BYTES, &row);
    if (error != STORE_OK)
        return error == STORE_NONE ? STORE_OK : error;
    change->totals.entries--;
    change->totals.entry_bytes -= row.mv_size + ROW_COST;
    return store_row_delete(txn, dbi, key, STORE_ID_BYTES);
}

static enum store_error cache_clear(struct change *change)
{
    MDB_txn *txn;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    uint8_t *keys = malloc((size_t)STORE_SWEEP_ROWS * STORE_ID_BYTES);
    if (keys == NULL)
        return STORE_MEMORY;
    size_t count = 0;
    bool more = false;
    if (error == STORE_OK)
        error = store_keys_collect(txn, change->store->environments[SIDE_BLOBS].tables[CACHE_ENTRIES], NULL,
                                   0, keys, STORE_ID_BYTES, STORE_SWEEP_ROWS, &count, &more);
    for (size_t i = 0; i < count && error == STORE_OK; i++)
        error = store_cache_erase(change, keys + i * STORE_ID_BYTES);
    free(keys);
    return error == STORE_OK && more ? STORE_MORE : error;
}

enum store_error store_cache_apply(struct change *change, const struct operation *operation)
{
    const MDB_dbi dbi = change->store->environments[SIDE_BLOBS].tables[CACHE_ENTRIES];
    if (operation->kind == OP_CACHE_CLEAR)
        return cache_clear(change);
    MDB_txn *txn;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    if (error == STORE_OK)
        error = store_cache_erase(change, operation->data);
    if (error != STORE_OK || operation->kind == OP_CACHE_REMOVE)
        return error;
    if (store_cache_must_refuse(change)) {
        change->refused++;
        return STORE_OK;
    }
    change->grows[SIDE_BLOBS] = true;
    change->totals.entries++;
    change->totals.entry_bytes += operation->value_bytes + ROW_COST;
    store_touch(change->store, operation->data);
    return store_row_put(txn, dbi, operation->data, STORE_ID_BYTES, operation->value, operation->value_bytes);
}
