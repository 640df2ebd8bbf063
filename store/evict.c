/*
 * CLOCK over three tables. A row that was used since the hand last passed is spared once. The marks live in
 * memory, a million bits by hash of the key, so that reading costs no write; two rows that share a bit merely
 * spare each other, and after a restart everything counts as unused. Keys are digests, so walking them in
 * order is walking at random.
 *
 * What sets it going: blobs and entries over their budget, pointers over theirs, or the map half full; in the
 * last case blobs in files are left alone, for they don't fill the map. Pinned blobs are always left alone.
 */
#include "store/internal.h"

#include <string.h>

enum {
    SCAN_ROWS = 1024,                   /* looked at per transaction: about a millisecond */
    TURNS_IN_VAIN = 2 * EVICTABLES + 1, /* each table seen twice, the second time with all marks gone */
    REST_US = 1000000                   /* after that: everything is pinned, so look again in a second */
};

static const enum blob_table tables[EVICTABLES] = {
    [EVICT_ENTRIES] = CACHE_ENTRIES, [EVICT_BLOBS] = BLOB_INDEX, [EVICT_POINTERS] = POINTERS};

/* ---- Marks
 * ---------------------------------------------------------------------------------------------------------
 */

static uint32_t mark_of(const uint8_t key[STORE_ID_BYTES])
{
    return (uint32_t)((store_number_decode(key, 8) ^ store_number_decode(key + 24, 8)) *
                          UINT64_C(0x9e3779b97f4a7c15) >>
                      44);
}

void store_touch(struct store *store, const uint8_t key[STORE_ID_BYTES])
{
    const uint32_t mark = mark_of(key), bit = UINT32_C(1) << (mark & 31);
    _Atomic uint32_t *word = &store->touched[mark >> 5];
    if ((atomic_load_explicit(word, memory_order_relaxed) & bit) == 0)
        atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

bool store_untouch(struct store *store, const uint8_t key[STORE_ID_BYTES])
{
    const uint32_t mark = mark_of(key), bit = UINT32_C(1) << (mark & 31);
    return (atomic_fetch_and_explicit(&store->touched[mark >> 5], ~bit, memory_order_relaxed) & bit) != 0;
}

/* ---- Pressure
 * ------------------------------------------------------------------------------------------------------ */

bool store_cache_must_refuse(struct change *change)
{
    MDB_txn *txn;
    const struct environment *environment = &change->store->environments[SIDE_BLOBS];
    return store_change_txn(change, SIDE_BLOBS, &txn) != STORE_OK ||
           store_environment_used_pages(environment, txn) * 100 >
               environment->map_pages * STORE_REFUSE_PERCENT;
}

struct pressure {
    bool on[EVICTABLES];
    bool files; /* blobs in files count, too */
};

static struct pressure pressure_now(const struct store *store)
{
    const struct environment *environment = &store->environments[SIDE_BLOBS];
    const bool map =
        atomic_load(&environment->used_pages) * 100 > environment->map_pages * STORE_EVICT_PERCENT;
    const bool budget = store->totals.blob_bytes + store->totals.entry_bytes > store->cache_budget_bytes;
    const bool pointers = store->totals.pointer_bytes > store->pointer_budget_bytes;
    return (struct pressure){.on = {[EVICT_ENTRIES] = map || budget,
                                    [EVICT_BLOBS] = map || budget,
                                    [EVICT_POINTERS] = map || pointers},
                             .files = budget};
}

/* ---- The hand
 * ------------------------------------------------------------------------------------------------------ */

static bool may_go(struct store *store, MDB_txn *txn, enum evictable which, const uint8_t *key, bool files)
{
    struct blob_row row;
    if (which == EVICT_BLOBS && (store_blob_row_get(store, txn, key, &row) != STORE_OK ||
                                 (row.in_file && !files) || store_blob_pinned(store, txn, key)))
        return false;
    return !store_untouch(store, key);
}

/* Moves the hand of one table on until enough rows are found, enough were looked at, or the table ends, which
 * passes the turn on. */
static int victims_find(struct store *store, MDB_txn *txn, bool files,
                        uint8_t victims[STORE_EVICTIONS_MAX][STORE_ID_BYTES], size_t *count)
{
    const enum evictable which = store->turn;
    struct clock_hand *hand = &store->hands[which];
    MDB_cursor *cursor;
    int code = mdb_cursor_open(txn, store->environments[SIDE_BLOBS].tables[tables[which]], &cursor);
    if (code != 0)
        return code;
    MDB_val key = {.mv_size = STORE_ID_BYTES, .mv_data = hand->key}, value;
    code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (int looked = 0; code == 0 && looked < SCAN_ROWS && *count < STORE_EVICTIONS_MAX; looked++) {
        if (key.mv_size == STORE_ID_BYTES && may_go(store, txn, which, key.mv_data, files))
            memcpy(victims[(*count)++], key.mv_data, STORE_ID_BYTES);
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (code == 0)
        memcpy(hand->key, key.mv_data, STORE_ID_BYTES);
    mdb_cursor_close(cursor);
    if (code == MDB_NOTFOUND) {
        *hand = (struct clock_hand){0};
        store->turn = (enum evictable)((store->turn + 1) % EVICTABLES);
        store->turns_in_vain++;
        code = 0;
    }
    return code;
}

static bool evict_turn(struct store *store, bool files)
{
    uint8_t victims[STORE_EVICTIONS_MAX][STORE_ID_BYTES];
    size_t count = 0;
    const enum evictable which = store->turn;
    struct environment *environment = &store->environments[SIDE_BLOBS];
    MDB_txn *txn;
    if (store_read_begin(environment, &txn) != STORE_OK)
        return false;
    const int code = victims_find(store, txn, files, victims, &count);
    store_read_end(environment, txn);
    if (code != 0)
        return false;
    if (count == 0)
        return true;

    struct change change = {.store = store, .totals = store->totals};
    enum store_error error = STORE_OK;
    for (size_t i = 0; i < count && error == STORE_OK; i++)
        error = which == EVICT_ENTRIES ? store_cache_erase(&change, victims[i])
                : which == EVICT_BLOBS ? store_blob_erase(&change, victims[i])
                                       : store_pointer_erase(&change, victims[i]);
    if (error == STORE_OK)
        error = store_change_commit(&change);
    else
        store_change_abort(&change);
    if (error != STORE_OK)
        return false;
    store->turns_in_vain = 0;
    pthread_mutex_lock(&store->gate);
    store->stats.evictions += count;
    pthread_mutex_unlock(&store->gate);
    return true;
}

bool store_evict_some(struct store *store)
{
    const struct pressure pressure = pressure_now(store);
    if (!pressure.on[EVICT_ENTRIES] && !pressure.on[EVICT_BLOBS] && !pressure.on[EVICT_POINTERS]) {
        store->turns_in_vain = 0;
        return false;
    }
    if (store_health(store, NULL) != STORE_OK || store_now_us() < store->evict_again_at_us)
        return false;
    while (!pressure.on[store->turn])
        store->turn = (enum evictable)((store->turn + 1) % EVICTABLES);
    if (evict_turn(store, pressure.files) && store->turns_in_vain < TURNS_IN_VAIN)
        return true;
    store->turns_in_vain = 0;
    store->evict_again_at_us = store_now_us() + REST_US;
    return false;
}
