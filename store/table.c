#include "store/internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const state_tables[STORE_TABLES] = {
    [STORE_META] = "meta",           [STORE_COUNTERS] = "counters",       [STORE_RECORDS] = "records",
    [STORE_TOKENS] = "tokens",       [STORE_REVOCATIONS] = "revocations", [STORE_JOBS] = "jobs",
    [STORE_SHARDS] = "shards",       [STORE_JOURNAL] = "journal",         [STORE_RECEIPTS] = "receipts",
    [STORE_DECISIONS] = "decisions", [STORE_COPIES] = "copies",           [STORE_ENTRIES] = "entries",
};

static const char *const blob_tables[BLOB_TABLES] = {
    [BLOB_INDEX] = "index",  [BLOB_VALUES] = "values",  [BLOB_CHUNKS] = "chunks",
    [BLOB_PINS] = "pins",    [BLOB_OWNERS] = "owners",  [CACHE_ENTRIES] = "entries",
    [POINTERS] = "pointers", [POINTER_NODES] = "nodes",
};

static_assert((int)STORE_TABLES <= (int)ENVIRONMENT_TABLES_MAX, "tables of state");
static_assert((int)BLOB_TABLES <= (int)ENVIRONMENT_TABLES_MAX, "tables of blobs");

static enum store_error tables_open(struct store *store, enum side side, struct store_failure *failure);
static void totals_load(struct store *store, MDB_txn *txn);

/* ---- Environments
 * -------------------------------------------------------------------------------------------- */

const char *store_table_name(enum side side, unsigned table)
{
    return side == SIDE_STATE ? state_tables[table] : blob_tables[table];
}

int store_lmdb_open(struct environment *environment, const char *path, size_t map_bytes, unsigned flags)
{
    int code = mdb_env_create(&environment->lmdb);
    if (code == 0)
        code = mdb_env_set_maxdbs(environment->lmdb, ENVIRONMENT_TABLES_MAX + 1);
    if (code == 0)
        code = mdb_env_set_maxreaders(environment->lmdb, STORE_READERS_MAX);
    if (code == 0)
        code = mdb_env_set_mapsize(environment->lmdb, map_bytes);
    if (code == 0)
        code = mdb_env_open(environment->lmdb, path, MDB_NOTLS | flags, 0600);
    return code;
}

static int unlink_if_there(int folder_fd, const char *name)
{
    return unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT ? 0 : errno;
}

/*
 * Makes an environment that is not there yet, beside its place, and moves it there once it is durable. LMDB
 * writes a new file's first pages without a sync: a crash in between would leave one that it refuses for ever.
 */
static int environment_make(struct store *store, struct environment *environment, const char *path)
{
    char data[32], lock[32], fresh[32], fresh_data[48], fresh_lock[48], fresh_path[sizeof store->path + 16];
    snprintf(data, sizeof data, "%s/data.mdb", environment->name);
    snprintf(lock, sizeof lock, "%s/lock.mdb", environment->name);
    snprintf(fresh, sizeof fresh, "%s.new", environment->name);
    snprintf(fresh_data, sizeof fresh_data, "%s/data.mdb", fresh);
    snprintf(fresh_lock, sizeof fresh_lock, "%s/lock.mdb", fresh);
    snprintf(fresh_path, sizeof fresh_path, "%s.new", path);
    if (faccessat(store->folder_fd, data, F_OK, 0) == 0)
        return 0;
    int code = mkdirat(store->folder_fd, fresh, 0700) == 0 || errno == EEXIST ? 0 : errno;
    if (code == 0)
        code = unlink_if_there(store->folder_fd, fresh_data);
    if (code == 0)
        code = store_lmdb_open(environment, fresh_path, 16 * environment->page_bytes, 0);
    if (code == 0)
        code = mdb_env_sync(environment->lmdb, 1);
    store_environment_close(environment);
    if (code == 0)
        code = unlink_if_there(store->folder_fd, fresh_lock);
    if (code == 0)
        code = faccessat(store->folder_fd, environment->name, F_OK, 0) != 0
                   ? 0
                   : unlink_if_there(store->folder_fd, lock);
    if (code == 0 && renameat(store->folder_fd, fresh, store->folder_fd, environment->name) != 0)
        code = errno;
    return code == 0 && fsync(store->folder_fd) != 0 ? errno : code;
}

static enum store_error damaged(const struct store *store, enum side side, const char *finding,
                                struct store_failure *failure)
{
    store_failure_set(
        failure, STORE_CORRUPT, 0,
        "%.160s/%s/data.mdb is damaged: %s; look at the disk, then restore a backup (`weir store "
        "restore`), or move the store away and start without it",
        store->path, store->environments[side].name, finding);
    return STORE_CORRUPT;
}

enum store_error store_environment_open(struct store *store, enum side side, uint64_t map_bytes,
                                        struct store_failure *failure)
{
    struct environment *environment = &store->environments[side];
    environment->name = side == SIDE_STATE ? "state" : "blobs";
    environment->table_count = side == SIDE_STATE ? (unsigned)STORE_TABLES : (unsigned)BLOB_TABLES;
    environment->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const uint64_t pages = (map_bytes + environment->page_bytes - 1) / environment->page_bytes;

    char path[sizeof store->path + 8];
    snprintf(path, sizeof path, "%s/%s", store->path, environment->name);
    int code = environment_make(store, environment, path);
    /* All rows of state will be read anyway; those of blobs and cached results may be millions. */
    char finding[200];
    if (code == 0 &&
        store_pages_check(store, side, side == SIDE_STATE, finding, sizeof finding) == STORE_CORRUPT)
        return damaged(store, side, finding, failure);
    /* Read-ahead would drag the neighbours of a large value into memory. */
    if (code == 0)
        code = store_lmdb_open(environment, path, (size_t)pages * environment->page_bytes,
                               side == SIDE_BLOBS ? MDB_NORDAHEAD : 0);
    int dead;
    if (code == 0) {
        store_guard_begin(environment, path);
        store_guard_mark(environment);
        code = mdb_reader_check(environment->lmdb, &dead);
    }
    MDB_envinfo info;
    if (code == 0)
        code = mdb_env_info(environment->lmdb, &info);
    if (code == 0) {
        environment->map_pages = info.me_mapsize / environment->page_bytes;
        const enum store_error error = tables_open(store, side, failure);
        store_guard_mark(NULL);
        return error;
    }
    store_guard_mark(NULL);
    enum store_error error = store_from_system(code);
    if (error == STORE_NONE)
        error = STORE_SYSTEM;
    store_failure_set(failure, error, code, "cannot open %.180s: %s", path, mdb_strerror(code));
    return error;
}

void store_environment_close(struct environment *environment)
{
    for (unsigned i = 0; i < environment->kept_count; i++)
        mdb_txn_abort(environment->kept[i]);
    environment->kept_count = 0;
    store_guard_end(environment);
    if (environment->lmdb != NULL)
        mdb_env_close(environment->lmdb);
    environment->lmdb = NULL;
}

/* One under another name: ours was just made in its place, empty. */
static bool tables_are_renamed(const struct environment *environment, MDB_txn *txn)
{
    const MDB_dbi main_tree = 1;
    MDB_stat stat;
    return mdb_stat(txn, main_tree, &stat) == 0 && stat.ms_entries > environment->table_count + 1;
}

static enum store_error tables_open(struct store *store, enum side side, struct store_failure *failure)
{
    struct environment *environment = &store->environments[side];
    MDB_txn *txn;
    int code = mdb_txn_begin(environment->lmdb, NULL, 0, &txn);
    if (code != 0) {
        store_failure_set(failure, store_from_system(code), code, "cannot read %.120s/%s: %s", store->path,
                          environment->name, mdb_strerror(code));
        return store_from_system(code);
    }
    code = mdb_dbi_open(txn, "store", MDB_CREATE, &environment->own);
    for (unsigned i = 0; code == 0 && i < environment->table_count; i++)
        code = mdb_dbi_open(txn, store_table_name(side, i), MDB_CREATE, &environment->tables[i]);
    enum store_error error = store_from_system(code);
    if (error == STORE_OK)
        error = store_schema_agree(store, side, txn, failure);
    if (error == STORE_OK && tables_are_renamed(environment, txn))
        error = damaged(store, side, "it has a table of an unknown name", failure);
    if (error == STORE_OK && side == SIDE_BLOBS)
        totals_load(store, txn);
    if (error != STORE_OK) {
        mdb_txn_abort(txn);
    } else {
        atomic_store(&environment->used_pages, store_environment_used_pages(environment, txn));
        code = mdb_txn_commit(txn);
        error = store_from_system(code);
    }
    if (code != 0)
        store_failure_set(failure, error, code, "cannot write %.120s/%s: %s", store->path, environment->name,
                          mdb_strerror(code));
    return error;
}

static void totals_load(struct store *store, MDB_txn *txn)
{
    MDB_val value;
    if (store_row_get(txn, store->environments[SIDE_BLOBS].own, "totals", 6, &value) != STORE_OK)
        return;
    uint64_t *const fields = (uint64_t *)&store->totals;
    for (size_t i = 0; i < sizeof store->totals / 8 && 8 * i + 8 <= value.mv_size; i++)
        fields[i] = store_number_decode((const uint8_t *)value.mv_data + 8 * i, 8);
}

/* Pages in trees. Free pages are not counted: they are there to be used again. */
uint64_t store_environment_used_pages(const struct environment *environment, MDB_txn *txn)
{
    uint64_t pages = 2; /* the meta pages */
    MDB_stat stat;
    const MDB_dbi free_and_main = 2;
    for (MDB_dbi dbi = 0; dbi < free_and_main; dbi++)
        if (mdb_stat(txn, dbi, &stat) == 0)
            pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    for (unsigned i = 0; i < environment->table_count; i++)
        if (mdb_stat(txn, environment->tables[i], &stat) == 0)
            pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    return pages;
}

/* ---- Read transactions
 * ----------------------------------------------------------------------------------------- */

/* A reset transaction keeps its place in the reader table but no snapshot, so that it costs others nothing.
 */
enum store_error store_read_begin(struct environment *environment, MDB_txn **txn)
{
    *txn = NULL;
    pthread_mutex_lock(&environment->gate);
    if (environment->kept_count > 0)
        *txn = environment->kept[--environment->kept_count];
    pthread_mutex_unlock(&environment->gate);
    if (*txn == NULL)
        return store_from_system(mdb_txn_begin(environment->lmdb, NULL, MDB_RDONLY, txn));
    const int code = mdb_txn_renew(*txn);
    if (code != 0)
        mdb_txn_abort(*txn);
    return store_from_system(code);
}

void store_read_end(struct environment *environment, MDB_txn *txn)
{
    mdb_txn_reset(txn);
    pthread_mutex_lock(&environment->gate);
    const bool keep = environment->kept_count < STORE_READERS_KEPT;
    if (keep)
        environment->kept[environment->kept_count++] = txn;
    pthread_mutex_unlock(&environment->gate);
    if (!keep)
        mdb_txn_abort(txn);
}

/* ---- Rows
 * -------------------------------------------------------------------------------------------------------- */

/* LMDB takes keys and values as pointers to what is not const, and doesn't write through them. */
static MDB_val bytes_of(const void *bytes, size_t count)
{
    union {
        const void *given;
        void *taken;
    } pointer = {.given = bytes};
    return (MDB_val){.mv_size = count, .mv_data = pointer.taken};
}

enum store_error store_row_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_bytes, MDB_val *value)
{
    MDB_val name = bytes_of(key, key_bytes);
    return store_from_system(mdb_get(txn, dbi, &name, value));
}

enum store_error store_row_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes)
{
    MDB_val name = bytes_of(key, key_bytes), content = bytes_of(value, value_bytes);
    return store_from_system(mdb_put(txn, dbi, &name, &content, 0));
}

enum store_error store_row_delete(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_bytes)
{
    MDB_val name = bytes_of(key, key_bytes);
    const int code = mdb_del(txn, dbi, &name, NULL);
    return code == MDB_NOTFOUND ? STORE_OK : store_from_system(code);
}

bool store_row_has_prefix(const MDB_val *key, const void *prefix, size_t prefix_bytes)
{
    return key->mv_size >= prefix_bytes &&
           (prefix_bytes == 0 || memcmp(key->mv_data, prefix, prefix_bytes) == 0);
}

enum store_error store_keys_collect(MDB_txn *txn, MDB_dbi dbi, const void *prefix, size_t prefix_bytes,
                                    uint8_t *keys, size_t key_bytes, size_t room, size_t *count, bool *more)
{
    *count = 0;
    *more = false;
    MDB_cursor *cursor;
    int code = mdb_cursor_open(txn, dbi, &cursor);
    if (code != 0)
        return store_from_system(code);
    MDB_val key = bytes_of(prefix, prefix_bytes), value;
    code = mdb_cursor_get(cursor, &key, &value, prefix_bytes > 0 ? MDB_SET_RANGE : MDB_FIRST);
    while (code == 0 && store_row_has_prefix(&key, prefix, prefix_bytes)) {
        if (*count == room) {
            *more = true;
            break;
        }
        if (key.mv_size == key_bytes)
            memcpy(keys + (*count)++ * key_bytes, key.mv_data, key_bytes);
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return code == MDB_NOTFOUND ? STORE_OK : store_from_system(code);
}

/* ---- Rows of state, each with a sum behind its value: disks and memory flip bits, and LMDB doesn't look.
 * ------------------------------------------------------------------------------------------------ */

static void row_sum(const struct store *store, const MDB_val *key, const void *value, size_t value_bytes,
                    uint8_t sum[ROW_SUM_BYTES])
{
    uint8_t digest[STORE_ID_BYTES];
    store->digest.sum(key->mv_data, key->mv_size, value, value_bytes, digest);
    memcpy(sum, digest, ROW_SUM_BYTES);
}

/* Takes the sum off the value; false if it isn't that of this row. */
static bool row_open(struct store *store, const MDB_val *key, MDB_val *value)
{
    uint8_t sum[ROW_SUM_BYTES];
    bool good = value->mv_size >= ROW_SUM_BYTES;
    if (good) {
        value->mv_size -= ROW_SUM_BYTES;
        row_sum(store, key, value->mv_data, value->mv_size, sum);
        good = memcmp(sum, (const uint8_t *)value->mv_data + value->mv_size, ROW_SUM_BYTES) == 0;
    }
    if (!good)
        atomic_fetch_add(&store->corrupt, 1);
    return good;
}

enum store_error store_row_seal(const struct store *store, MDB_txn *txn, MDB_dbi dbi, const MDB_val *key,
                                const MDB_val *value, unsigned flags)
{
    MDB_val name = *key, room = {.mv_size = value->mv_size + ROW_SUM_BYTES};
    const enum store_error error = store_from_system(mdb_put(txn, dbi, &name, &room, flags | MDB_RESERVE));
    if (error == STORE_OK) {
        if (value->mv_size > 0)
            memcpy(room.mv_data, value->mv_data, value->mv_size);
        row_sum(store, key, value->mv_data, value->mv_size, (uint8_t *)room.mv_data + value->mv_size);
    }
    return error;
}

/* ---- Reading tables
 * ------------------------------------------------------------------------------------------------ */

enum store_error store_get(struct store *store, enum store_table table, const void *key, size_t key_bytes,
                           void *buffer, size_t capacity, size_t *bytes)
{
    assert((unsigned)table < STORE_TABLES);
    *bytes = 0;
    if (key_bytes == 0 || key_bytes > STORE_KEY_BYTES_MAX)
        return STORE_LIMIT;
    struct environment *environment = &store->environments[SIDE_STATE];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    MDB_val value;
    const MDB_val name = bytes_of(key, key_bytes);
    error = store_row_get(txn, environment->tables[table], key, key_bytes, &value);
    if (error == STORE_OK && !row_open(store, &name, &value))
        error = STORE_CORRUPT;
    if (error == STORE_OK) {
        *bytes = value.mv_size;
        if (value.mv_size > capacity)
            error = STORE_SMALL;
        else if (value.mv_size > 0)
            memcpy(buffer, value.mv_data, value.mv_size);
    }
    store_read_end(environment, txn);
    return error;
}

enum store_error store_each(struct store *store, enum store_table table, const struct store_range *range,
                            store_row_fn *row, void *context)
{
    assert((unsigned)table < STORE_TABLES);
    const struct store_range all = {.prefix = ""};
    if (range == NULL)
        range = &all;
    if (range->prefix_bytes > STORE_KEY_BYTES_MAX || range->after_bytes > STORE_KEY_BYTES_MAX)
        return STORE_LIMIT;
    struct environment *environment = &store->environments[SIDE_STATE];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    MDB_cursor *cursor = NULL;
    int code = mdb_cursor_open(txn, environment->tables[table], &cursor);
    MDB_val key = bytes_of(range->prefix, range->prefix_bytes), value;
    const MDB_val after = bytes_of(range->after, range->after_bytes);
    /* `after` may lie before the prefix's first key: then the walk begins with the prefix. */
    const size_t common = after.mv_size < key.mv_size ? after.mv_size : key.mv_size;
    const int order = common == 0 ? 0 : memcmp(after.mv_data, key.mv_data, common);
    const bool skip = after.mv_size > 0 && (order > 0 || (order == 0 && after.mv_size >= key.mv_size));
    if (skip)
        key = after;
    if (code == 0)
        code = mdb_cursor_get(cursor, &key, &value, key.mv_size == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (code == 0 && skip && key.mv_size == after.mv_size &&
        memcmp(key.mv_data, after.mv_data, after.mv_size) == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    bool sound = true;
    for (bool go_on = true;
         code == 0 && go_on && store_row_has_prefix(&key, range->prefix, range->prefix_bytes);
         code = go_on ? mdb_cursor_get(cursor, &key, &value, MDB_NEXT) : 0) {
        if (row_open(store, &key, &value))
            go_on = row(context, key.mv_data, key.mv_size, value.mv_data, value.mv_size);
        else
            sound = false;
    }
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    store_read_end(environment, txn);
    if (code != 0 && code != MDB_NOTFOUND)
        return store_from_system(code);
    return sound ? STORE_OK : STORE_CORRUPT;
}

/* Walks a table by itself, since store_each passes over what is damaged. */
static enum store_error table_verify(struct store *store, MDB_txn *txn, enum store_table table,
                                     store_report_fn *report, void *context)
{
    const MDB_dbi dbi = store->environments[SIDE_STATE].tables[table];
    MDB_cursor *cursor;
    MDB_val key, value;
    MDB_stat stat;
    char text[128];
    uint64_t rows = 0, damaged = 0;
    int code = mdb_cursor_open(txn, dbi, &cursor);
    if (code != 0)
        return store_from_system(code);
    for (code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); code == 0;
         code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        rows++;
        if (row_open(store, &key, &value))
            continue;
        damaged++;
        const uint8_t *const bytes = key.mv_data;
        int used = snprintf(text, sizeof text, "state table %s, row ", state_tables[table]);
        for (size_t i = 0; i < key.mv_size && i < 8; i++)
            used += snprintf(text + used, sizeof text - (size_t)used, "%02x", bytes[i]);
        snprintf(text + used, sizeof text - (size_t)used, ": its bytes do not match their sum");
        report(context, text);
    }
    mdb_cursor_close(cursor);
    if (code == MDB_NOTFOUND)
        code = mdb_stat(txn, dbi, &stat);
    if (code != 0 || stat.ms_entries != rows) {
        snprintf(text, sizeof text, "state table %s: %llu rows can be read of %llu", state_tables[table],
                 (unsigned long long)rows, code == 0 ? (unsigned long long)stat.ms_entries : 0);
        report(context, text);
        damaged++;
    }
    return damaged == 0 ? STORE_OK : STORE_CORRUPT;
}

enum store_error store_verify_state(struct store *store, store_report_fn *report, void *context)
{
    struct environment *environment = &store->environments[SIDE_STATE];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    store_guard_mark(environment);
    for (int table = 0; table < STORE_TABLES; table++) {
        const enum store_error found = table_verify(store, txn, (enum store_table)table, report, context);
        error = error == STORE_OK ? found : error;
    }
    store_guard_mark(NULL);
    store_read_end(environment, txn);
    return error;
}

enum store_error store_count(struct store *store, enum store_table table, uint64_t *rows)
{
    assert((unsigned)table < STORE_TABLES);
    struct environment *environment = &store->environments[SIDE_STATE];
    MDB_txn *txn;
    enum store_error error = store_read_begin(environment, &txn);
    if (error != STORE_OK)
        return error;
    MDB_stat stat = {0};
    error = store_from_system(mdb_stat(txn, environment->tables[table], &stat));
    *rows = stat.ms_entries;
    store_read_end(environment, txn);
    return error;
}

/* ---- Changing tables
 * ----------------------------------------------------------------------------------------------- */

static enum store_error prefix_delete(MDB_txn *txn, MDB_dbi dbi, const struct operation *operation)
{
    MDB_cursor *cursor;
    int code = mdb_cursor_open(txn, dbi, &cursor);
    if (code != 0)
        return store_from_system(code);
    MDB_val key = bytes_of(operation->data, operation->key_bytes), value;
    size_t rows = 0;
    code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (code == 0 && store_row_has_prefix(&key, operation->data, operation->key_bytes) &&
           rows < STORE_SWEEP_ROWS) {
        code = mdb_cursor_del(cursor, 0);
        rows++;
        /* The cursor now stands on the row after the deleted one. */
        if (code == 0)
            code = mdb_cursor_get(cursor, &key, &value, MDB_GET_CURRENT);
    }
    const bool more = code == 0 && rows == STORE_SWEEP_ROWS &&
                      store_row_has_prefix(&key, operation->data, operation->key_bytes);
    mdb_cursor_close(cursor);
    if (code == MDB_NOTFOUND || code == EINVAL) /* EINVAL: the last row of the table was deleted */
        return STORE_OK;
    return code == 0 && more ? STORE_MORE : store_from_system(code);
}

enum store_error store_table_apply(struct change *change, const struct operation *operation)
{
    const struct environment *environment = &change->store->environments[SIDE_STATE];
    const MDB_dbi dbi = environment->tables[operation->table];
    MDB_txn *txn;
    enum store_error error = store_change_txn(change, SIDE_STATE, &txn);
    if (error != STORE_OK)
        return error;
    if (operation->kind == OP_DELETE)
        return store_row_delete(txn, dbi, operation->data, operation->key_bytes);
    if (operation->kind == OP_DELETE_PREFIX)
        return prefix_delete(txn, dbi, operation);
    change->grows[SIDE_STATE] = true;
    const MDB_val key = bytes_of(operation->data, operation->key_bytes);
    const MDB_val value = bytes_of(operation->value, operation->value_bytes);
    return store_row_seal(change->store, txn, dbi, &key, &value,
                          operation->kind == OP_PUT_ABSENT ? MDB_NOOVERWRITE : 0);
}
