#include "store/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Below this much free space an I/O error of a commit is taken for what it is: LMDB reports a short write,
 * which is how a disk fills up, as EIO. */
#define NEARLY_FULL_BYTES (UINT64_C(4) << 20)

static size_t group_take(struct store *store, struct store_batch **group);
static void group_commit(struct store *store, struct store_batch **group, size_t count);
static void group_finish(struct store *store, struct store_batch **group, size_t count);

/* ---- The queue
 * ------------------------------------------------------------------------------------------------ */

static void list_append(struct batch_list *list, struct store_batch *batch)
{
    batch->next = NULL;
    if (list->last != NULL)
        list->last->next = batch;
    else
        list->first = batch;
    list->last = batch;
}

static struct store_batch *list_take(struct batch_list *list)
{
    struct store_batch *batch = list->first;
    if (batch != NULL) {
        list->first = batch->next;
        if (list->first == NULL)
            list->last = NULL;
        batch->next = NULL;
    }
    return batch;
}

/* With the gate held. */
static enum store_error enqueue(struct store *store, struct store_batch *batch)
{
    if (batch->error != STORE_OK)
        return batch->error;
    if (store->failure.error != STORE_OK)
        return STORE_FAILED;
    if (store->held == STORE_QUEUE_BATCHES_MAX || batch->bytes > STORE_QUEUE_BYTES_MAX - store->held_bytes)
        return STORE_BUSY;
    store->held++;
    store->held_bytes += batch->bytes;
    list_append(&store->queue, batch);
    pthread_cond_signal(&store->work);
    return STORE_OK;
}

enum store_error store_commit(struct store *store, struct store_batch *batch, uint64_t ticket)
{
    assert(batch->store == store);
    pthread_mutex_lock(&store->gate);
    batch->ticket = ticket;
    const enum store_error error = enqueue(store, batch);
    pthread_mutex_unlock(&store->gate);
    return error;
}

enum store_error store_commit_wait(struct store *store, struct store_batch *batch)
{
    assert(batch->store == store);
    pthread_mutex_lock(&store->gate);
    batch->waited = true;
    enum store_error error;
    while ((error = enqueue(store, batch)) == STORE_BUSY)
        pthread_cond_wait(&store->ended, &store->gate);
    if (error == STORE_OK) {
        while (!batch->finished)
            pthread_cond_wait(&store->ended, &store->gate);
        error = batch->error;
    }
    pthread_mutex_unlock(&store->gate);
    store_batch_close(batch);
    return error;
}

void store_writer_suggest(struct store *store, const struct operation *like,
                          const uint8_t key[STORE_ID_BYTES])
{
    struct store_batch *batch;
    if (store_batch_open(store, &batch) != STORE_OK)
        return;
    batch->internal = true;
    enum store_error error = store_batch_add(batch, like, key, STORE_ID_BYTES, NULL, 0);
    pthread_mutex_lock(&store->gate);
    if (error == STORE_OK)
        error = enqueue(store, batch);
    pthread_mutex_unlock(&store->gate);
    if (error != STORE_OK)
        store_batch_close(batch);
}

int store_fd(const struct store *store)
{
    return store->event_fd;
}

/* The descriptor is readable exactly while the list is not empty: both change with the gate held. */
bool store_next_completion(struct store *store, struct store_completion *completion)
{
    pthread_mutex_lock(&store->gate);
    struct store_batch *batch = list_take(&store->done);
    if (batch != NULL) {
        store->held--;
        pthread_cond_broadcast(&store->ended);
        if (store->done.first == NULL) {
            eventfd_t count;
            eventfd_read(store->event_fd, &count);
        }
    }
    pthread_mutex_unlock(&store->gate);
    if (batch == NULL)
        return false;
    *completion = (struct store_completion){.ticket = batch->ticket, .error = batch->error};
    store_batch_close(batch);
    return true;
}

/* ---- The writer
 * ------------------------------------------------------------------------------------------------ */

void *store_writer_main(void *context)
{
    struct store *store = context;
    struct store_batch *group[STORE_GROUP_OPERATIONS];
    bool tidy = true; /* there may be something to evict */
    for (;;) {
        pthread_mutex_lock(&store->gate);
        while (store->queue.first == NULL && !store->stopping && !tidy)
            pthread_cond_wait(&store->work, &store->gate);
        const bool stop = store->stopping && store->queue.first == NULL;
        const size_t count = group_take(store, group);
        pthread_mutex_unlock(&store->gate);
        if (stop)
            return NULL;
        pthread_mutex_lock(&store->calm);
        if (count > 0) {
            group_commit(store, group, count);
            group_finish(store, group, count);
            if (++store->groups_checked % STORE_READER_CHECK_GROUPS == 0)
                for (int side = 0; side < SIDES; side++) {
                    int dead;
                    mdb_reader_check(store->environments[side].lmdb, &dead);
                }
        }
        /* As many evictions as there were puts, then the queue has its turn again. */
        tidy = true;
        for (int round = 0; tidy && round < STORE_GROUP_OPERATIONS / STORE_EVICTIONS_MAX; round++)
            tidy = store_evict_some(store);
        pthread_mutex_unlock(&store->calm);
    }
}

static size_t group_take(struct store *store, struct store_batch **group)
{
    size_t count = 0, operations = 0;
    uint64_t bytes = 0;
    while (store->queue.first != NULL && count < STORE_GROUP_OPERATIONS) {
        const struct store_batch *next = store->queue.first;
        if (count > 0 && (operations + next->operations > STORE_GROUP_OPERATIONS ||
                          bytes + next->bytes > STORE_GROUP_BYTES))
            break;
        operations += next->operations;
        bytes += next->bytes;
        group[count++] = list_take(&store->queue);
    }
    return count;
}

/* ---- A change
 * ---------------------------------------------------------------------------------------------------- */

enum store_error store_change_txn(struct change *change, enum side side, MDB_txn **txn)
{
    store_guard_mark(&change->store->environments[side]);
    if (change->txn[side] == NULL) {
        const int code = mdb_txn_begin(change->store->environments[side].lmdb, NULL, 0, &change->txn[side]);
        if (code != 0) {
            change->txn[side] = NULL;
            return store_from_system(code);
        }
    }
    *txn = change->txn[side];
    return STORE_OK;
}

void store_change_abort(struct change *change)
{
    for (int side = 0; side < SIDES; side++)
        if (change->txn[side] != NULL)
            mdb_txn_abort(change->txn[side]);
    store_guard_mark(NULL);
    free(change->removed);
    *change = (struct change){.store = change->store};
}

/* A change that puts something must leave room for later deletes, which copy pages too. */
static bool change_fits(const struct change *change, enum side side)
{
    const struct environment *environment = &change->store->environments[side];
    uint64_t reserve = environment->map_pages * STORE_RESERVE_PERCENT / 100;
    if (reserve < STORE_RESERVE_PAGES)
        reserve = STORE_RESERVE_PAGES;
    return !change->grows[side] ||
           store_environment_used_pages(environment, change->txn[side]) + reserve <= environment->map_pages;
}

static enum store_error totals_save(const struct change *change)
{
    if (memcmp(&change->totals, &change->store->totals, sizeof change->totals) == 0)
        return STORE_OK;
    const uint64_t *const fields = (const uint64_t *)&change->totals;
    uint8_t row[sizeof change->totals];
    for (size_t i = 0; i < sizeof change->totals / 8; i++)
        store_number_encode(row + 8 * i, fields[i], 8);
    return store_row_put(change->txn[SIDE_BLOBS], change->store->environments[SIDE_BLOBS].own, "totals", 6,
                         row, sizeof row);
}

static enum store_error side_commit(struct change *change, enum side side)
{
    struct store *store = change->store;
    struct environment *environment = &store->environments[side];
    const uint64_t used = store_environment_used_pages(environment, change->txn[side]);
    const int code = mdb_txn_commit(change->txn[side]);
    change->txn[side] = NULL;
    if (code == 0) {
        atomic_store(&environment->used_pages, used);
        return STORE_OK;
    }
    enum store_error error = store_from_system(code);
    struct statvfs disk;
    if (code == EIO && fstatvfs(store->folder_fd, &disk) == 0 &&
        (uint64_t)disk.f_bavail * disk.f_frsize < NEARLY_FULL_BYTES)
        error = STORE_FULL;
    if (error != STORE_FULL && error != STORE_MEMORY) {
        store_fail(store, environment->name, code);
        error = STORE_FAILED;
    }
    return error;
}

/* Files go only after the row that named them is gone for good, and only if no later change of the group has
 * brought the same blob back. */
static void files_remove(struct change *change)
{
    struct store *store = change->store;
    MDB_txn *txn;
    if (change->removed_count == 0 || store_read_begin(&store->environments[SIDE_BLOBS], &txn) != STORE_OK)
        return;
    for (size_t i = 0; i < change->removed_count; i++) {
        struct blob_row row;
        char name[FILE_NAME_BYTES];
        store_file_name(change->removed[i], name);
        if (store_blob_row_get(store, txn, change->removed[i], &row) == STORE_NONE)
            unlinkat(store->files_fd, name, 0);
    }
    store_read_end(&store->environments[SIDE_BLOBS], txn);
}

enum store_error store_change_commit(struct change *change)
{
    struct store *store = change->store;
    enum store_error error = STORE_OK;
    for (int side = 0; side < SIDES && error == STORE_OK; side++)
        if (change->txn[side] != NULL && !change_fits(change, (enum side)side))
            error = STORE_FULL;
    if (error == STORE_OK && change->txn[SIDE_BLOBS] != NULL) {
        error = totals_save(change);
        if (error == STORE_OK)
            error = side_commit(change, SIDE_BLOBS);
        if (error == STORE_OK) {
            pthread_mutex_lock(&store->gate);
            store->totals = change->totals;
            store->stats.cache_refused += change->refused;
            pthread_mutex_unlock(&store->gate);
            files_remove(change);
        }
    }
    if (error == STORE_OK && change->txn[SIDE_STATE] != NULL)
        error = side_commit(change, SIDE_STATE);
    store_change_abort(change);
    return error;
}

/* ---- A group
 * ------------------------------------------------------------------------------------------------------- */

/* Whether `batch` adds blob `id` before `pin`. */
static bool brings_blob(const struct store_batch *batch, const struct operation *pin)
{
    for (const struct operation *operation = batch->first; operation != pin; operation = operation->next)
        if ((operation->kind == OP_BLOB || operation->kind == OP_BLOB_FILE) &&
            memcmp(operation->data, pin->data, STORE_ID_BYTES) == 0)
            return true;
    return false;
}

/* The conditions of a batch, looked at before any of it is done, so that a batch that must not happen costs
 * the others of its group nothing. */
static enum store_error batch_allowed(struct change *change, const struct store_batch *batch)
{
    struct store *store = change->store;
    for (const struct operation *operation = batch->first; operation != NULL; operation = operation->next) {
        MDB_txn *txn;
        MDB_val value;
        enum store_error error = STORE_NONE;
        if (operation->kind == OP_PUT_ABSENT) {
            error = store_change_txn(change, SIDE_STATE, &txn);
            if (error == STORE_OK)
                error = store_row_get(txn, store->environments[SIDE_STATE].tables[operation->table],
                                      operation->data, operation->key_bytes, &value);
            if (error != STORE_NONE)
                return error == STORE_OK ? STORE_EXISTS : error;
        } else if (operation->kind == OP_PIN) {
            struct blob_row row;
            error = store_change_txn(change, SIDE_BLOBS, &txn);
            if (error == STORE_OK)
                error = store_blob_row_get(store, txn, operation->data, &row);
            if (error == STORE_NONE && brings_blob(batch, operation))
                error = STORE_OK;
            if (error != STORE_OK)
                return error;
        }
    }
    return STORE_OK;
}

static enum store_error operation_apply(struct change *change, struct operation *operation)
{
    switch (operation->kind) {
    case OP_PUT:
    case OP_PUT_ABSENT:
    case OP_DELETE:
    case OP_DELETE_PREFIX:
        return store_table_apply(change, operation);
    case OP_BLOB:
    case OP_BLOB_FILE:
    case OP_BLOB_REMOVE:
    case OP_BLOB_DROP:
    case OP_PIN:
    case OP_UNPIN:
    case OP_UNPIN_ALL:
        return store_blob_apply(change, operation);
    case OP_CACHE:
    case OP_CACHE_REMOVE:
    case OP_CACHE_CLEAR:
        return store_cache_apply(change, operation);
    case OP_POINTER:
    case OP_POINTER_REMOVE:
    case OP_POINTER_REMOVE_NODE:
        return store_pointer_apply(change, operation);
    }
    assert(false && "an unknown operation");
    return STORE_LIMIT;
}

/* Returns an error only if it spoils the whole change; what concerns the batch alone is noted in it. */
static enum store_error batch_apply(struct change *change, struct store_batch *batch)
{
    batch->error = batch_allowed(change, batch);
    if (batch->error == STORE_EXISTS || batch->error == STORE_NONE)
        return STORE_OK;
    if (batch->error != STORE_OK)
        return batch->error;
    for (struct operation *operation = batch->first; operation != NULL; operation = operation->next) {
        const enum store_error error = operation_apply(change, operation);
        if (error == STORE_MORE)
            batch->error = STORE_MORE;
        else if (error != STORE_OK)
            return error;
    }
    return STORE_OK;
}

static bool touches_blobs(struct store_batch *const *group, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (const struct operation *operation = group[i]->first; operation != NULL;
             operation = operation->next)
            if (operation->kind > OP_DELETE_PREFIX)
                return true;
    return false;
}

static enum store_error group_try(struct store *store, struct store_batch **group, size_t count)
{
    const int64_t began_us = store_now_us();
    struct change change = {.store = store, .totals = store->totals};
    enum store_error error = store_health(store, NULL);
    MDB_txn *txn; /* blobs before state, so that LMDB's two locks are always taken in one order */
    if (error == STORE_OK && touches_blobs(group, count))
        error = store_change_txn(&change, SIDE_BLOBS, &txn);
    size_t operations = 0;
    for (size_t i = 0; i < count && error == STORE_OK; i++) {
        error = batch_apply(&change, group[i]);
        operations += group[i]->operations;
    }
    if (error != STORE_OK) {
        store_change_abort(&change);
        return error;
    }
    error = store_change_commit(&change);
    if (error != STORE_OK)
        return error;

    const int64_t took_us = store_now_us() - began_us;
    pthread_mutex_lock(&store->gate);
    store->stats.groups++;
    store->stats.batches += count;
    store->stats.operations += operations;
    if (operations > store->stats.group_largest)
        store->stats.group_largest = (uint32_t)operations;
    store->timings_us[store->timed++ % STORE_TIMINGS] = (uint32_t)(took_us > INT32_MAX ? INT32_MAX : took_us);
    pthread_mutex_unlock(&store->gate);
    return STORE_OK;
}

/* If a group can't be written as one, its halves are tried, down to the batch that is to blame: it gets the
 * error and the others are written. Order is kept. Doing a batch's blobs a second time changes nothing. */
static void group_commit(struct store *store, struct store_batch **group, size_t count)
{
    const enum store_error error = group_try(store, group, count);
    if (error == STORE_OK)
        return;
    if (count > 1) {
        group_commit(store, group, count / 2);
        group_commit(store, group + count / 2, count - count / 2);
        return;
    }
    group[0]->error = error;
}

/* A file that was moved into place for a batch that failed goes again, unless the index knows it all the
 * same. */
static void moved_files_remove(struct store *store, const struct store_batch *batch)
{
    for (const struct operation *operation = batch->first; operation != NULL; operation = operation->next) {
        struct blob_row row;
        MDB_txn *txn;
        if (operation->kind != OP_BLOB_FILE || !operation->moved ||
            store_read_begin(&store->environments[SIDE_BLOBS], &txn) != STORE_OK)
            continue;
        char name[FILE_NAME_BYTES];
        store_file_name(operation->data, name);
        if (store_blob_row_get(store, txn, operation->data, &row) == STORE_NONE)
            unlinkat(store->files_fd, name, 0);
        store_read_end(&store->environments[SIDE_BLOBS], txn);
    }
}

static void group_finish(struct store *store, struct store_batch **group, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (group[i]->error != STORE_OK && group[i]->error != STORE_MORE)
            moved_files_remove(store, group[i]);
        store_batch_discard(group[i]);
    }
    pthread_mutex_lock(&store->gate);
    for (size_t i = 0; i < count; i++) {
        struct store_batch *batch = group[i];
        store->held_bytes -= batch->bytes;
        if (batch->error != STORE_OK && batch->error != STORE_MORE && !batch->internal)
            store->stats.rejected++;
        batch->finished = true;
        if (batch->waited || batch->internal) {
            store->held--;
            if (batch->internal)
                free(batch);
            continue;
        }
        if (store->done.first == NULL)
            eventfd_write(store->event_fd, 1);
        list_append(&store->done, batch);
    }
    pthread_cond_broadcast(&store->ended);
    pthread_mutex_unlock(&store->gate);
}
