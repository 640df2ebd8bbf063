#include "store/internal.h"

#include <stdlib.h>
#include <string.h>

size_t store_pointer_row_read(const MDB_val *row, struct store_holder holders[STORE_HOLDERS_MAX])
{
    const uint8_t *bytes = row->mv_data;
    size_t count = row->mv_size / HOLDER_BYTES;
    count = count < STORE_HOLDERS_MAX ? count : STORE_HOLDERS_MAX;
    for (size_t i = 0; i < count; i++, bytes += HOLDER_BYTES) {
        memcpy(holders[i].node, bytes, STORE_ID_BYTES);
        holders[i].wall_ms = (int64_t)store_number_decode(bytes + STORE_ID_BYTES, 8);
    }
    return count;
}

enum store_error store_pointer_get_many(struct store *store, const uint8_t (*keys)[STORE_ID_BYTES],
                                        size_t count, store_holders_fn *found, void *context)
{
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    for (size_t i = 0; i < count && error == STORE_OK; i++) {
        MDB_val row;
        struct store_holder holders[STORE_HOLDERS_MAX];
        error = store_row_get(txn, environment->tables[POINTERS], keys[i], STORE_ID_BYTES, &row);
        const size_t holder_count = error == STORE_OK ? store_pointer_row_read(&row, holders) : 0;
        error = error == STORE_NONE ? STORE_OK : error;
        if (holder_count > 0) {
            store_touch(store, keys[i]);
            found(context, i, holders, holder_count);
        }
    }
    store_read_end(environment, txn);
    return error;
}

/* ---- Changes: on the writer's thread
 * ----------------------------------------------------------------------------- */

static enum store_error holders_get(struct change *change, const uint8_t *key, MDB_txn **txn,
                                    struct store_holder holders[STORE_HOLDERS_MAX], size_t *count)
{
    MDB_val row;
    *count = 0;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, txn);
    if (error == STORE_OK)
        error = store_row_get(*txn, change->store->environments[SIDE_BLOBS].tables[POINTERS], key,
                              STORE_ID_BYTES, &row);
    if (error == STORE_OK)
        *count = store_pointer_row_read(&row, holders);
    return error == STORE_NONE ? STORE_OK : error;
}

static uint64_t pointer_cost(size_t holders)
{
    return holders * (HOLDER_BYTES + PAIR_BYTES) + ROW_COST;
}

/* Replaces a key's row of `before` holders; none deletes it. */
static enum store_error holders_put(struct change *change, MDB_txn *txn, const uint8_t *key, size_t before,
                                    const struct store_holder *holders, size_t count)
{
    const MDB_dbi dbi = change->store->environments[SIDE_BLOBS].tables[POINTERS];
    if (before > 0) {
        change->totals.pointers--;
        change->totals.pointer_bytes -= pointer_cost(before);
    }
    if (count == 0)
        return store_row_delete(txn, dbi, key, STORE_ID_BYTES);
    change->totals.pointers++;
    change->totals.pointer_bytes += pointer_cost(count);
    uint8_t row[STORE_HOLDERS_MAX * HOLDER_BYTES];
    for (size_t i = 0; i < count; i++) {
        memcpy(row + i * HOLDER_BYTES, holders[i].node, STORE_ID_BYTES);
        store_number_encode(row + i * HOLDER_BYTES + STORE_ID_BYTES, (uint64_t)holders[i].wall_ms, 8);
    }
    return store_row_put(txn, dbi, key, STORE_ID_BYTES, row, count * HOLDER_BYTES);
}

static enum store_error node_mark(struct change *change, MDB_txn *txn, const uint8_t *node,
                                  const uint8_t *key, bool put)
{
    const MDB_dbi dbi = change->store->environments[SIDE_BLOBS].tables[POINTER_NODES];
    uint8_t pair[PAIR_BYTES];
    memcpy(pair, node, STORE_ID_BYTES);
    memcpy(pair + STORE_ID_BYTES, key, STORE_ID_BYTES);
    return put ? store_row_put(txn, dbi, pair, sizeof pair, "", 0)
               : store_row_delete(txn, dbi, pair, sizeof pair);
}

static size_t holder_find(const struct store_holder *holders, size_t count, const uint8_t *node)
{
    size_t i = 0;
    while (i < count && memcmp(holders[i].node, node, STORE_ID_BYTES) != 0)
        i++;
    return i;
}

static enum store_error holder_add(struct change *change, const uint8_t *key,
                                   const struct store_holder *holder)
{
    if (store_cache_must_refuse(change)) {
        change->refused++;
        return STORE_OK;
    }
    struct store_holder holders[STORE_HOLDERS_MAX + 1];
    size_t before;
    MDB_txn *txn;
    enum store_error error = holders_get(change, key, &txn, holders, &before);
    if (error != STORE_OK)
        return error;
    size_t count = before;
    const size_t known = holder_find(holders, count, holder->node);
    if (known < count) {
        if (holders[known].wall_ms >= holder->wall_ms)
            return STORE_OK;
        memmove(holders + known, holders + known + 1, (count - known - 1) * sizeof *holders);
        count--;
    }
    size_t at = 0;
    while (at < count && holders[at].wall_ms > holder->wall_ms)
        at++;
    memmove(holders + at + 1, holders + at, (count - at) * sizeof *holders);
    holders[at] = *holder;
    count++;
    error = node_mark(change, txn, holder->node, key, true);
    if (error == STORE_OK && count > STORE_HOLDERS_MAX)
        error = node_mark(change, txn, holders[--count].node, key, false);
    change->grows[SIDE_BLOBS] = true;
    store_touch(change->store, key);
    return error == STORE_OK ? holders_put(change, txn, key, before, holders, count) : error;
}

static enum store_error holder_remove(struct change *change, const uint8_t *key, const uint8_t *node)
{
    struct store_holder holders[STORE_HOLDERS_MAX];
    size_t count;
    MDB_txn *txn;
    enum store_error error = holders_get(change, key, &txn, holders, &count);
    const size_t known = error == STORE_OK ? holder_find(holders, count, node) : 0;
    if (error == STORE_OK)
        error = node_mark(change, txn, node, key, false);
    if (error != STORE_OK || known == count)
        return error;
    memmove(holders + known, holders + known + 1, (count - known - 1) * sizeof *holders);
    return holders_put(change, txn, key, count, holders, count - 1);
}

static enum store_error node_remove(struct change *change, const uint8_t *node)
{
    MDB_txn *txn;
    enum store_error error = store_change_txn(change, SIDE_BLOBS, &txn);
    uint8_t *pairs = malloc((size_t)STORE_SWEEP_ROWS * PAIR_BYTES);
    if (pairs == NULL)
        return STORE_MEMORY;
    size_t count = 0;
    bool more = false;
    if (error == STORE_OK)
        error = store_keys_collect(txn, change->store->environments[SIDE_BLOBS].tables[POINTER_NODES], node,
                                   STORE_ID_BYTES, pairs, PAIR_BYTES, STORE_SWEEP_ROWS, &count, &more);
    for (size_t i = 0; i < count && error == STORE_OK; i++)
        error = holder_remove(change, pairs + i * PAIR_BYTES + STORE_ID_BYTES, node);
    free(pairs);
    return error == STORE_OK && more ? STORE_MORE : error;
}

enum store_error store_pointer_erase(struct change *change, const uint8_t key[STORE_ID_BYTES])
{
    struct store_holder holders[STORE_HOLDERS_MAX];
    size_t count;
    MDB_txn *txn;
    enum store_error error = holders_get(change, key, &txn, holders, &count);
    for (size_t i = 0; i < count && error == STORE_OK; i++)
        error = node_mark(change, txn, holders[i].node, key, false);
    return error == STORE_OK ? holders_put(change, txn, key, count, NULL, 0) : error;
}

enum store_error store_pointer_apply(struct change *change, const struct operation *operation)
{
    if (operation->kind == OP_POINTER_REMOVE)
        return holder_remove(change, operation->data, operation->value);
    if (operation->kind == OP_POINTER_REMOVE_NODE)
        return node_remove(change, operation->data);
    struct store_holder holder = {.wall_ms = (int64_t)operation->number};
    memcpy(holder.node, operation->value, STORE_ID_BYTES);
    return holder_add(change, operation->data, &holder);
}
