/*
 * store/internal.h - what the files of this folder share. Not for the rest of the program.
 *
 * store.c    open, close, health, statistics        table.c   LMDB environments, tables, reading them
 * batch.c    building batches                       writer.c  the queue, groups, commits
 * blob.c     blobs and pins                         upload.c  streaming uploads
 * partial.c  blobs that arrive in chunks
 * cache.c    entries                                pointer.c pointers
 * evict.c    CLOCK                                  check.c   verification of everything
 * backup.c   copies of a store in use               schema.c  formats, and steps from one to the next
 * guard.c    words for a damaged data file          pages.c   its pages, before LMDB follows them
 */
#ifndef WEIR_STORE_INTERNAL_H
#define WEIR_STORE_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#include "store/store.h"

/* The two LMDB environments, in the order in which they are committed. */
enum side { SIDE_BLOBS, SIDE_STATE, SIDES };

/* Tables of the blobs environment. Integers in rows are little-endian, in keys big-endian. */
enum blob_table {
    BLOB_INDEX,    /* blob id -> struct blob_row */
    BLOB_VALUES,   /* blob id -> bytes, if they are not in a file */
    BLOB_CHUNKS,   /* blob id, page number -> up to CHUNKS_PER_PAGE chunk digests, if it is in a file */
    BLOB_PINS,     /* blob id, owner -> nothing */
    BLOB_OWNERS,   /* owner, blob id -> nothing: the same pins the other way */
    CACHE_ENTRIES, /* key -> digest of the rest, blob count, blob ids, bytes */
    POINTERS,      /* key -> holders, newest first */
    POINTER_NODES, /* node, key -> nothing: the same pointers the other way */
    BLOB_TABLES
};

enum {
    ENVIRONMENT_TABLES_MAX = 16,
    CHUNKS_PER_PAGE = 1024, /* 32 KiB of digests: 1 GiB of blob */
    PAIR_BYTES = 2 * STORE_ID_BYTES,
    CHUNK_KEY_BYTES = STORE_ID_BYTES + 4,
    HOLDER_BYTES = STORE_ID_BYTES + 8,
    FILE_NAME_BYTES = 3 + 2 * STORE_ID_BYTES + 1, /* "ab/abcd..." */
    ROW_SUM_BYTES = 8,    /* behind each value of the state: the first of its digest with its key */
    ROW_COST = 64,        /* what a row costs beside its value, for budgets */
    TOUCH_WORDS = 1 << 15 /* one million CLOCK bits */
};

struct environment {
    const char *name; /* folder below the store's */
    MDB_env *lmdb;
    MDB_dbi own; /* the store's own rows: schema, storage id, totals */
    MDB_dbi tables[ENVIRONMENT_TABLES_MAX];
    unsigned table_count;
    size_t page_bytes;
    uint64_t map_pages;
    _Atomic uint64_t used_pages;       /* after the last commit */
    pthread_mutex_t gate;              /* guards the two below */
    MDB_txn *kept[STORE_READERS_KEPT]; /* reset read transactions */
    unsigned kept_count;
    struct guarded *guarded; /* see guard.c; NULL if it isn't */
};

/* What is in the blobs environment. Written in every transaction that changes it, so it is never out of step.
 */
struct totals {
    uint64_t blobs, blob_bytes;
    uint64_t files, file_bytes;
    uint64_t entries, entry_bytes;
    uint64_t pointers, pointer_bytes;
};

/* A blob's row in the index. `born` tells a blob that was dropped from one that came again under the same id.
 */
struct blob_row {
    uint64_t bytes;
    uint64_t born;
    bool in_file;
};
enum { BLOB_ROW_BYTES = 17 };

enum operation_kind {
    OP_PUT,
    OP_PUT_ABSENT,
    OP_DELETE,
    OP_DELETE_PREFIX,
    OP_BLOB,        /* key: id, value: bytes */
    OP_BLOB_FILE,   /* key: id, value: chunk digests, name: file in tmp/ */
    OP_BLOB_REMOVE, /* key: id */
    OP_BLOB_DROP,   /* key: id, number: born */
    OP_PIN,         /* key: id, owner */
    OP_UNPIN,       /* key: id, owner */
    OP_UNPIN_ALL,   /* key: owner */
    OP_CACHE,       /* key, value: the row */
    OP_CACHE_REMOVE,
    OP_CACHE_CLEAR,
    OP_POINTER,             /* key, value: node, number: wall_ms */
    OP_POINTER_REMOVE,      /* key, value: node */
    OP_POINTER_REMOVE_NODE, /* key: node */
};

/* One change, made by batch.c or upload.c, applied by the writer (perhaps more than once, if a group is
 * split), freed with its batch. */
struct operation {
    struct operation *next;
    enum operation_kind kind;
    enum store_table table;
    uint64_t number;
    uint64_t file; /* OP_BLOB_FILE: the number that names the file in tmp/ */
    bool moved;    /* OP_BLOB_FILE: it is in files/ already */
    size_t key_bytes;
    size_t value_bytes;
    uint8_t *value; /* inside data */
    uint8_t data[]; /* key, then value */
};

/* Born in store_batch_open, filled by its owner, queued by store_commit, worked on by the writer, and then
 * either waits in the list of completions, or wakes the one who waits for it, or (internal) just ends. */
struct store_batch {
    struct store *store;
    struct store_batch *next;
    struct operation *first, *last;
    size_t operations;
    uint64_t bytes;
    enum store_error error; /* while it is built: the first error; afterwards: the outcome */
    uint64_t ticket;
    bool waited;   /* somebody sits in store_commit_wait */
    bool internal; /* the store's own: nobody asks for its outcome */
    bool finished;
};

struct batch_list {
    struct store_batch *first, *last;
};

/* One transaction on one or both sides, begun as needed. */
struct change {
    struct store *store;
    MDB_txn *txn[SIDES];
    bool grows[SIDES]; /* puts something, so that it must leave the reserve for deletes alone */
    struct totals totals;
    uint64_t refused;
    uint8_t (*removed)[STORE_ID_BYTES]; /* blobs whose file goes once this is committed */
    size_t removed_count, removed_room;
};

enum evictable { EVICT_ENTRIES, EVICT_BLOBS, EVICT_POINTERS, EVICTABLES };

struct clock_hand {
    uint8_t key[STORE_ID_BYTES]; /* the next row to look at */
};

/* The name of an own row of the state that only a backup has. */
#define BACKUP_MARK "backup"

struct store {
    char path[4096];
    struct store_digest digest;
    void (*damaged)(void *context, const uint8_t id[STORE_ID_BYTES], bool pinned); /* may be NULL */
    void *damaged_context;
    uint8_t storage_id[STORE_STORAGE_ID_BYTES];
    bool created;
    bool backup; /* see struct store_options */
    uint64_t cache_budget_bytes;
    uint64_t pointer_budget_bytes;
    int folder_fd, lock_fd, files_fd, tmp_fd, parts_fd, event_fd;
    struct environment environments[SIDES];

    pthread_t writer;
    bool writer_runs;
    pthread_mutex_t calm; /* held while the disk is changed: whoever takes it sees no commit half done */
    pthread_mutex_t gate; /* guards everything down to the line of dashes */
    pthread_cond_t work;  /* the writer has something to do */
    pthread_cond_t ended; /* a waited batch is finished, or there is room in the queue */
    struct batch_list queue;
    struct batch_list done;
    uint32_t held; /* batches queued, in work, or undrained */
    uint64_t held_bytes;
    bool stopping;
    struct store_failure failure; /* error is STORE_OK while all is well */
    struct totals totals;         /* written by the writer only */
    struct store_stats stats;     /* the counters of committed work */
    uint32_t timings_us[STORE_TIMINGS];
    uint64_t timed;
    /* ------------------------------------------------------------------------------------------------------
     */
    struct clock_hand hands[EVICTABLES]; /* the writer's own, as the next four */
    enum evictable turn;
    unsigned turns_in_vain;
    int64_t evict_again_at_us; /* after all was found to be pinned: not before */
    uint64_t groups_checked;

    pthread_mutex_t
        partials_gate; /* guards the list, and keeps files in parts/ from going while they are opened */
    struct store_partial *partials;

    _Atomic uint64_t uploads; /* names files in tmp/ */
    _Atomic uint64_t corrupt, missing, hits, misses;
    _Atomic uint32_t touched[TOUCH_WORDS];
};

/* store.c */
enum store_error store_from_system(int code); /* errno or LMDB code */
void store_fail(struct store *store, const char *what, int code);
void store_failure_set(struct store_failure *failure, enum store_error error, int system, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));
int64_t store_now_us(void);
void store_number_encode(uint8_t *to, uint64_t number, size_t bytes); /* little-endian */
uint64_t store_number_decode(const uint8_t *from, size_t bytes);
void store_file_name(const uint8_t id[STORE_ID_BYTES], char name[FILE_NAME_BYTES]);

/* table.c */
/* Opens an environment with the limits that all of ours have. On an error there may be one to close. */
int store_lmdb_open(struct environment *environment, const char *path, size_t map_bytes, unsigned flags);
const char *store_table_name(enum side side, unsigned table);
enum store_error store_environment_open(struct store *store, enum side side, uint64_t map_bytes,
                                        struct store_failure *failure);
void store_environment_close(struct environment *environment);
uint64_t store_environment_used_pages(const struct environment *environment, MDB_txn *txn);
enum store_error store_read_begin(struct environment *environment, MDB_txn **txn);
void store_read_end(struct environment *environment, MDB_txn *txn);
enum store_error store_row_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_bytes, MDB_val *value);
enum store_error store_row_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes);
enum store_error store_row_delete(MDB_txn *txn, MDB_dbi dbi, const void *key,
                                  size_t key_bytes); /* absent is OK */
bool store_row_has_prefix(const MDB_val *key, const void *prefix, size_t prefix_bytes);
/* Copies the keys that begin with `prefix`, all `key_bytes` long, into `keys`; *more tells of a further one.
 */
enum store_error store_keys_collect(MDB_txn *txn, MDB_dbi dbi, const void *prefix, size_t prefix_bytes,
                                    uint8_t *keys, size_t key_bytes, size_t room, size_t *count, bool *more);
enum store_error store_table_apply(struct change *change, const struct operation *operation);
/* Puts a row of state with its sum. `flags` as of mdb_put. */
enum store_error store_row_seal(const struct store *store, MDB_txn *txn, MDB_dbi dbi, const MDB_val *key,
                                const MDB_val *value, unsigned flags);

/* schema.c */
/* In the transaction in which the tables were opened: makes a new environment ours, brings an older one to our format, and
 * refuses what is another store's, a newer one's or a backup's. */
enum store_error store_schema_agree(struct store *store, enum side side, MDB_txn *txn,
                                    struct store_failure *failure);

/* guard.c */
/* Between these two, faults in the environment's map end the process with a sentence about the file in `folder`. */
void store_guard_begin(struct environment *environment, const char *folder);
void store_guard_end(struct environment *environment);
/* From here on this thread reads or changes that environment, so that any fault of it is taken for the file's; NULL: no more. */
void store_guard_mark(const struct environment *environment);

/* pages.c */
/* To be called while nobody writes: walks the pages of an environment's file. STORE_CORRUPT: `finding` says what was found first.
 * Without `leaves` pages of rows are not read: those of cached results may be millions. What LMDB will refuse itself is STORE_OK. */
enum store_error store_pages_check(const struct store *store, enum side side, bool leaves, char *finding,
                                   size_t room);

/* batch.c */
enum store_error store_batch_add(struct store_batch *batch, const struct operation *like, const void *key,
                                 size_t key_bytes, const void *value, size_t value_bytes);
enum store_error store_batch_stick(struct store_batch *batch, enum store_error error);
void store_batch_discard(
    struct store_batch *batch); /* frees its operations, and files that never came to be blobs */

/* writer.c */
void *store_writer_main(void *store);
enum store_error store_change_txn(struct change *change, enum side side, MDB_txn **txn);
enum store_error store_change_commit(struct change *change);
void store_change_abort(struct change *change);
/* Queues a change of the store itself; if there is no room it is left for the next one who finds the same. */
void store_writer_suggest(struct store *store, const struct operation *like,
                          const uint8_t key[STORE_ID_BYTES]);

/* blob.c */
enum store_error store_blob_row_get(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES],
                                    struct blob_row *row);
bool store_blob_pinned(struct store *store, MDB_txn *txn, const uint8_t id[STORE_ID_BYTES]);
enum store_error store_blob_apply(struct change *change, struct operation *operation);
enum store_error store_blob_erase(struct change *change, const uint8_t id[STORE_ID_BYTES]);

/* partial.c */
void store_partials_trim(
    struct store *store); /* parts that nobody has open: the old ones, and what is over the bound */

/* cache.c and pointer.c */
enum store_error store_cache_apply(struct change *change, const struct operation *operation);
enum store_error store_cache_erase(struct change *change, const uint8_t key[STORE_ID_BYTES]);
bool store_cache_row_read(struct store *store, const uint8_t *key, const MDB_val *row,
                          struct store_entry *entry);
enum store_error store_pointer_apply(struct change *change, const struct operation *operation);
enum store_error store_pointer_erase(struct change *change, const uint8_t key[STORE_ID_BYTES]);
size_t store_pointer_row_read(const MDB_val *row, struct store_holder holders[STORE_HOLDERS_MAX]);

/* evict.c */
void store_touch(struct store *store, const uint8_t key[STORE_ID_BYTES]);
bool store_untouch(struct store *store, const uint8_t key[STORE_ID_BYTES]); /* was it touched? */
bool store_cache_must_refuse(struct change *change);
bool store_evict_some(struct store *store); /* one transaction; whether there is more to do now */

#endif
