#include "store/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum store_error store_batch_open(struct store *store, struct store_batch **batch)
{
    *batch = calloc(1, sizeof **batch);
    if (*batch == NULL)
        return STORE_MEMORY;
    (*batch)->store = store;
    return STORE_OK;
}

void store_batch_close(struct store_batch *batch)
{
    if (batch == NULL)
        return;
    store_batch_discard(batch);
    free(batch);
}

size_t store_batch_operations(const struct store_batch *batch)
{
    return batch->operations;
}

enum store_error store_batch_stick(struct store_batch *batch, enum store_error error)
{
    if (batch->error == STORE_OK)
        batch->error = error;
    return batch->error;
}

/* An upload that was never moved into files/ has no other owner than its batch. */
static void file_discard(struct store *store, const struct operation *operation)
{
    char name[FILE_NAME_BYTES];
    if (!operation->moved) {
        snprintf(name, sizeof name, "%llu", (unsigned long long)operation->file);
        unlinkat(store->tmp_fd, name, 0);
    }
}

void store_batch_discard(struct store_batch *batch)
{
    while (batch->first != NULL) {
        struct operation *operation = batch->first;
        batch->first = operation->next;
        if (operation->kind == OP_BLOB_FILE)
            file_discard(batch->store, operation);
        free(operation);
    }
    batch->last = NULL;
}

enum store_error store_batch_add(struct store_batch *batch, const struct operation *like, const void *key,
                                 size_t key_bytes, const void *value, size_t value_bytes)
{
    if (batch->error != STORE_OK)
        return batch->error;
    const uint64_t bytes = sizeof *like + key_bytes + value_bytes;
    if (batch->operations == STORE_BATCH_OPERATIONS_MAX || bytes > STORE_BATCH_BYTES_MAX - batch->bytes)
        return store_batch_stick(batch, STORE_LIMIT);
    struct operation *operation = malloc(sizeof *operation + key_bytes + value_bytes);
    if (operation == NULL)
        return store_batch_stick(batch, STORE_MEMORY);
    *operation = *like;
    operation->next = NULL;
    operation->key_bytes = key_bytes;
    operation->value_bytes = value_bytes;
    operation->value = operation->data + key_bytes;
    if (key_bytes > 0)
        memcpy(operation->data, key, key_bytes);
    if (value_bytes > 0)
        memcpy(operation->value, value, value_bytes);
    if (batch->last != NULL)
        batch->last->next = operation;
    else
        batch->first = operation;
    batch->last = operation;
    batch->operations++;
    batch->bytes += bytes;
    return STORE_OK;
}

/* ---- Tables
 * -------------------------------------------------------------------------------------------------- */

static enum store_error table_add(struct store_batch *batch, enum operation_kind kind, enum store_table table,
                                  const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    assert((unsigned)table < STORE_TABLES);
    if (key_bytes == 0 || key_bytes > STORE_KEY_BYTES_MAX || value_bytes > STORE_VALUE_BYTES_MAX)
        return store_batch_stick(batch, STORE_LIMIT);
    const struct operation like = {.kind = kind, .table = table};
    return store_batch_add(batch, &like, key, key_bytes, value, value_bytes);
}

enum store_error store_batch_put(struct store_batch *batch, enum store_table table, const void *key,
                                 size_t key_bytes, const void *value, size_t value_bytes)
{
    return table_add(batch, OP_PUT, table, key, key_bytes, value, value_bytes);
}

enum store_error store_batch_put_absent(struct store_batch *batch, enum store_table table, const void *key,
                                        size_t key_bytes, const void *value, size_t value_bytes)
{
    return table_add(batch, OP_PUT_ABSENT, table, key, key_bytes, value, value_bytes);
}

enum store_error store_batch_delete(struct store_batch *batch, enum store_table table, const void *key,
                                    size_t key_bytes)
{
    return table_add(batch, OP_DELETE, table, key, key_bytes, NULL, 0);
}

enum store_error store_batch_delete_prefix(struct store_batch *batch, enum store_table table,
                                           const void *prefix, size_t prefix_bytes)
{
    return table_add(batch, OP_DELETE_PREFIX, table, prefix, prefix_bytes, NULL, 0);
}

/* ---- Blobs, cache, pointers
 * -------------------------------------------------------------------------------------- */

static enum store_error id_add(struct store_batch *batch, enum operation_kind kind, const uint8_t *key,
                               const uint8_t *second)
{
    const struct operation like = {.kind = kind};
    return store_batch_add(batch, &like, key, STORE_ID_BYTES, second, second != NULL ? STORE_ID_BYTES : 0);
}

enum store_error store_batch_blob(struct store_batch *batch, const void *bytes, size_t count,
                                  uint8_t id[STORE_ID_BYTES])
{
    if (count > STORE_SMALL_BYTES)
        return store_batch_stick(batch, STORE_LIMIT);
    uint8_t chunk[1][STORE_ID_BYTES];
    const struct store_digest *digest = &batch->store->digest;
    if (count > 0)
        digest->chunk(bytes, count, chunk[0]);
    digest->root(count, chunk, count > 0, id);
    const struct operation like = {.kind = OP_BLOB};
    return store_batch_add(batch, &like, id, STORE_ID_BYTES, bytes, count);
}

enum store_error store_batch_blob_remove(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES])
{
    return id_add(batch, OP_BLOB_REMOVE, id, NULL);
}

enum store_error store_batch_pin(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES],
                                 const uint8_t owner[STORE_ID_BYTES])
{
    return id_add(batch, OP_PIN, id, owner);
}

enum store_error store_batch_unpin(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES],
                                   const uint8_t owner[STORE_ID_BYTES])
{
    return id_add(batch, OP_UNPIN, id, owner);
}

enum store_error store_batch_unpin_all(struct store_batch *batch, const uint8_t owner[STORE_ID_BYTES])
{
    return id_add(batch, OP_UNPIN_ALL, owner, NULL);
}

/* The row is made here, on the caller's thread: digest of what follows, blob count, blob ids, bytes. */
enum store_error store_batch_cache(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                   const struct store_entry *entry)
{
    if (entry->count > STORE_ENTRY_BYTES_MAX || entry->blob_count > STORE_ENTRY_BLOBS_MAX)
        return store_batch_stick(batch, STORE_LIMIT);
    const size_t ids_bytes = entry->blob_count * STORE_ID_BYTES;
    const size_t row_bytes = STORE_ID_BYTES + 1 + ids_bytes + entry->count;
    uint8_t *row = malloc(row_bytes);
    if (row == NULL)
        return store_batch_stick(batch, STORE_MEMORY);
    uint8_t *body = row + STORE_ID_BYTES;
    body[0] = (uint8_t)entry->blob_count;
    if (ids_bytes > 0)
        memcpy(body + 1, entry->blobs, ids_bytes);
    if (entry->count > 0)
        memcpy(body + 1 + ids_bytes, entry->bytes, entry->count);
    batch->store->digest.sum(key, STORE_ID_BYTES, body, row_bytes - STORE_ID_BYTES, row);
    const struct operation like = {.kind = OP_CACHE};
    const enum store_error error = store_batch_add(batch, &like, key, STORE_ID_BYTES, row, row_bytes);
    free(row);
    return error;
}

enum store_error store_batch_cache_remove(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES])
{
    return id_add(batch, OP_CACHE_REMOVE, key, NULL);
}

enum store_error store_batch_cache_clear(struct store_batch *batch)
{
    static const uint8_t all[STORE_ID_BYTES];
    return id_add(batch, OP_CACHE_CLEAR, all, NULL);
}

enum store_error store_batch_pointer(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                     const struct store_holder *holder)
{
    const struct operation like = {.kind = OP_POINTER, .number = (uint64_t)holder->wall_ms};
    return store_batch_add(batch, &like, key, STORE_ID_BYTES, holder->node, STORE_ID_BYTES);
}

enum store_error store_batch_pointer_remove(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                            const uint8_t node[STORE_ID_BYTES])
{
    return id_add(batch, OP_POINTER_REMOVE, key, node);
}

enum store_error store_batch_pointer_remove_node(struct store_batch *batch,
                                                 const uint8_t node[STORE_ID_BYTES])
{
    return id_add(batch, OP_POINTER_REMOVE_NODE, node, NULL);
}
