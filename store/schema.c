/*
 * store/schema.c - which format a store has, and how an older one becomes ours.
 *
 * Format 1: as now, but rows of state are their bare values. Format 2: a sum stands behind each (ROW_SUM_BYTES).
 *
 * A format is raised by a step in the table below, which is run in the very transaction of the open: it is done as a whole or
 * not at all, and a program that knows only the older format refuses the store from then on.
 */
#include "store/internal.h"

#include <stdlib.h>
#include <string.h>

enum { SCHEMA_MIN = 1, SCHEMA = 2 };

typedef enum store_error step_fn(struct store *store, enum side side, MDB_txn *txn);

static step_fn seal_rows;

/* How format n becomes n + 1. */
static step_fn *const steps[SCHEMA] = {[1] = seal_rows};

/* Every row's value gets its sum. The cursor stays on its row while that is written anew. */
static enum store_error seal_rows(struct store *store, enum side side, MDB_txn *txn)
{
    const struct environment *environment = &store->environments[side];
    enum store_error error = STORE_OK;
    for (unsigned i = 0; side == SIDE_STATE && i < environment->table_count && error == STORE_OK; i++) {
        MDB_cursor *cursor;
        MDB_val key, value;
        int code = mdb_cursor_open(txn, environment->tables[i], &cursor);
        if (code != 0)
            return store_from_system(code);
        for (code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); code == 0 && error == STORE_OK;
             code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            uint8_t name[STORE_KEY_BYTES_MAX];
            uint8_t *const copy = malloc(value.mv_size + 1); /* the map moves under our own writes */
            if (copy == NULL) {
                error = STORE_MEMORY;
                break;
            }
            memcpy(name, key.mv_data, key.mv_size);
            memcpy(copy, value.mv_data, value.mv_size);
            const MDB_val kept = {.mv_data = name, .mv_size = key.mv_size};
            const MDB_val content = {.mv_data = copy, .mv_size = value.mv_size};
            error = store_row_seal(store, txn, environment->tables[i], &kept, &content, 0);
            free(copy);
        }
        mdb_cursor_close(cursor);
        if (error == STORE_OK && code != MDB_NOTFOUND)
            error = store_from_system(code);
    }
    return error;
}

static enum store_error migrate(struct store *store, enum side side, MDB_txn *txn, uint64_t version,
                                struct store_failure *failure)
{
    const struct environment *environment = &store->environments[side];
    enum store_error error = STORE_OK;
    uint8_t schema[4];
    if (version == SCHEMA)
        return STORE_OK;
    for (uint64_t from = version; from < SCHEMA && error == STORE_OK; from++)
        error = steps[from](store, side, txn);
    store_number_encode(schema, SCHEMA, sizeof schema);
    if (error == STORE_OK)
        error = store_row_put(txn, environment->own, "schema", 6, schema, sizeof schema);
    if (error != STORE_OK)
        store_failure_set(failure, error, 0, "cannot bring %.120s/%s from format %llu to %d: %s", store->path,
                          environment->name, (unsigned long long)version, SCHEMA, store_error_text(error));
    return error;
}

/* A new state takes the storage id that was handed in, new blobs take that of the state; blobs of another
 * store are refused, because their pins speak of another store's jobs. */
enum store_error store_schema_agree(struct store *store, enum side side, MDB_txn *txn,
                                    struct store_failure *failure)
{
    const struct environment *environment = &store->environments[side];
    uint8_t schema[4];
    MDB_val value;
    enum store_error error = store_row_get(txn, environment->own, "schema", 6, &value);
    if (error == STORE_NONE) {
        store->created = side == SIDE_STATE ? true : store->created;
        store_number_encode(schema, SCHEMA, sizeof schema);
        error = store_row_put(txn, environment->own, "schema", 6, schema, sizeof schema);
        if (error == STORE_OK)
            error =
                store_row_put(txn, environment->own, "storage", 7, store->storage_id, STORE_STORAGE_ID_BYTES);
        if (error != STORE_OK)
            store_failure_set(failure, error, 0, "cannot create %.120s/%s: %s", store->path,
                              environment->name, store_error_text(error));
        return error;
    }
    const uint64_t version = error == STORE_OK && value.mv_size == sizeof schema
                                 ? store_number_decode(value.mv_data, sizeof schema)
                                 : 0;
    if (version < SCHEMA_MIN || version > SCHEMA) {
        store_failure_set(
            failure, STORE_SCHEMA, 0,
            version > SCHEMA
                ? "%.120s/%s has format %llu, this program reads formats up to %d: it is older than the data"
                : "%.120s/%s has format %llu, this program reads format %d",
            store->path, environment->name, (unsigned long long)version, SCHEMA);
        return STORE_SCHEMA;
    }
    if (side == SIDE_STATE && !store->backup &&
        store_row_get(txn, environment->own, BACKUP_MARK, sizeof BACKUP_MARK - 1, &value) == STORE_OK) {
        store_failure_set(
            failure, STORE_SCHEMA, 0,
            "%.120s is a backup, which nobody works on; `weir store restore` makes a data folder of it",
            store->path);
        return STORE_SCHEMA;
    }
    error = store_row_get(txn, environment->own, "storage", 7, &value);
    if (error == STORE_OK && value.mv_size != STORE_STORAGE_ID_BYTES)
        error = STORE_NONE;
    if (error == STORE_OK && side == SIDE_STATE)
        memcpy(store->storage_id, value.mv_data, STORE_STORAGE_ID_BYTES);
    if (error == STORE_OK && memcmp(store->storage_id, value.mv_data, STORE_STORAGE_ID_BYTES) == 0)
        return migrate(store, side, txn, version, failure);
    store_failure_set(failure, STORE_SCHEMA, 0,
                      "%.100s/%s belongs to another store than the folder beside it, or one of them is "
                      "damaged; put the right one back, or restore a backup",
                      store->path, environment->name);
    return STORE_SCHEMA;
}
