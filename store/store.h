/*
 * store/store.h - what a node keeps on disk: durable state, blobs, the result cache and pointers.
 *
 * What it is for. Three kinds of data with three promises:
 *   tables    small ordered rows (jobs, journal, records, counters). An acknowledged row survives any crash.
 *   blobs     immutable bytes named by their digest. Pinned ones stay; the others live within a byte budget.
 *             Bytes handed out under a name were checked against that name on the way out.
 *   cache     results by key, and pointers (who else holds a key). Losing an entry costs work, never
 * correctness.
 *
 * What it never does. It knows nothing of jobs, peers or cryptography: keys and values are bytes, and the
 * digest functions are handed in when it is opened. It never acknowledges what is not on the disk, never
 * opens a folder that another process uses, and never keeps a read transaction open after a call has
 * returned.
 *
 * How to use it.
 *     struct store_options options = {.digest = {...}, .storage_id = {16 random bytes}};
 *     store_open("/var/lib/weir/store", &options, &failure, &store);
 *     store_batch_open(store, &batch);
 *     store_batch_put(batch, STORE_JOBS, id, 32, row, row_bytes);
 *     store_batch_blob(batch, bytes, count, blob_id);
 *     store_batch_pin(batch, blob_id, job_id);
 *     store_commit(store, batch, ticket);              // the batch is the store's now
 *     ... poll store_fd(store), then
 *     while (store_next_completion(store, &done)) ...  // done.ticket is on disk if done.error is STORE_OK
 *
 * One writer thread takes all batches that wait (up to 512 operations), writes them in one transaction and
 * pays for one sync; what arrives meanwhile is the next group. A batch is all or nothing within its tables,
 * and all or nothing within its blobs, cache and pointers; the second kind is durable first, so a row never
 * names a blob that a crash could take away. Batches take effect in the order in which they were committed.
 *
 * Threads. Every function may be called from any thread, except that a batch or an upload belongs to one
 * thread at a time. Callbacks run inside a read transaction: copy what you need and return; what they are
 * shown is borrowed until they return. No fork() while a store is open, except one followed at once by exec.
 *
 * On disk, below the folder (0700): lock, state/ and blobs/ (LMDB), files/ab/abcd... (blobs over 1 MiB), parts/abcd...
 * (blobs of which only some chunks have come), tmp/.
 */
#ifndef WEIR_STORE_STORE_H
#define WEIR_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/limits.h"

/* ---- Errors ----------------------------------------------------------------------------------------------
 */

enum store_error {
    STORE_OK = 0,
    STORE_NONE,     /* no such row, blob or entry */
    STORE_EXISTS,   /* put-if-absent found a row: nothing of the batch's tables was written */
    STORE_MORE,     /* done in part and durable: the range was over STORE_SWEEP_ROWS rows, submit it again */
    STORE_BUSY,     /* the queue of the writer is full: drain completions and try again */
    STORE_IN_USE,   /* another process has this folder open */
    STORE_FULL,     /* the map or the disk is full: nothing of the batch was written */
    STORE_SMALL,    /* the caller's buffer is smaller than the value */
    STORE_LIMIT,    /* a key, value, batch or blob is over its limit in store/limits.h */
    STORE_CORRUPT,  /* bytes do not match their digest or sum: counted; a blob or an entry is dropped */
    STORE_MISMATCH, /* an upload's digest is not the expected one: nothing was kept */
    STORE_SCHEMA,   /* the folder was written by another version, or its parts do not belong together */
    STORE_DENIED,   /* no permission, or a folder that others may enter */
    STORE_FAILED,   /* an earlier write error: the store is read-only until it is opened again */
    STORE_SYSTEM,   /* any other error of the system, see the failure's text */
    STORE_MEMORY,   /* out of memory */
    STORE_ERRORS    /* how many there are */
};

/* What to do: report it to the operator or submitter, come back later, or forget the thing. */
enum store_class { STORE_CLASS_NONE, STORE_CLASS_LOCAL, STORE_CLASS_BUSY, STORE_CLASS_GONE };

enum store_class store_error_class(enum store_error error);
const char *store_error_name(enum store_error error); /* "full"; static */
const char *store_error_text(enum store_error error); /* "the disk or the map is full"; static */

/* Why an open failed, or what made an open store STORE_FAILED, in words that name the file and the remedy. */
struct store_failure {
    enum store_error error;
    int system; /* errno, or an LMDB code, or 0 */
    char text[512];
};

/* ---- Open and close ---------------------------------------------------------------------------------------
 */

/*
 * The digest functions of the host. `chunk` digests one chunk of a blob (at most STORE_CHUNK_BYTES; all but
 * the last of a blob are exactly that). `root` makes the blob's id from its length and its chunks' digests;
 * an empty blob has none. `sum` guards a cache row: a digest over two byte strings, bound to where the first
 * one ends.
 */
struct store_digest {
    void (*chunk)(const void *bytes, size_t count, uint8_t digest[STORE_ID_BYTES]);
    void (*root)(uint64_t blob_bytes, const uint8_t (*chunks)[STORE_ID_BYTES], size_t count,
                 uint8_t id[STORE_ID_BYTES]);
    void (*sum)(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                uint8_t digest[STORE_ID_BYTES]);
};

struct store_options {
    struct store_digest digest;
    uint8_t storage_id[STORE_STORAGE_ID_BYTES]; /* random; becomes the store's id only if it is created now */
    uint64_t state_map_bytes;                   /* address space for state; 0 = 4 GiB */
    uint64_t blobs_map_bytes;                   /* address space for blobs; 0 = 16 GiB */
    uint64_t cache_budget_bytes;                /* blobs, large ones too, and cache entries; 0 = 8 GiB */
    uint64_t pointer_budget_bytes;              /* pointers; 0 = 64 MiB */
    /* Told of each blob whose bytes were found not to match its name, before it is dropped; on the reader's thread. May
     * be NULL. `pinned`: somebody counts on it. */
    void (*damaged)(void *context, const uint8_t id[STORE_ID_BYTES], bool pinned);
    void *context;
    bool
        backup; /* the folder is a backup, to be looked at or adopted; without this such a folder is not opened */
};

struct store;

/*
 * For a program's main: a damaged data file of an open store (cut short, unreadable, with links that lead nowhere) ends the
 * process with one line on standard error and exit code 1, instead of SIGBUS or SIGSEGV; other faults go where they went.
 */
void store_guard_install(void);

/* Opens or creates the store in folder `path` (created if its parent exists). Leftovers of a crash are
 * removed. The structure of its data files is checked first (STORE_CORRUPT: `failure` says what is damaged), but for the pages of
 * blobs' and results' rows. `failure` may be NULL. On STORE_OK *store is to be closed with store_close. */
enum store_error store_open(const char *path, const struct store_options *options,
                            struct store_failure *failure, struct store **store);

/* Writes what is queued, then closes. Undrained completions are discarded. NULL is allowed. No other call may
 * be running, and the caller's batches and uploads must have been committed or closed. */
void store_close(struct store *store);

void store_storage_id(const struct store *store, uint8_t storage_id[STORE_STORAGE_ID_BYTES]);
bool store_created(const struct store *store); /* this open made it: its storage id is new */

/* STORE_OK, or STORE_FAILED with the reason in `failure` (may be NULL). */
enum store_error store_health(struct store *store, struct store_failure *failure);

/* ---- Batches: every change
 * ---------------------------------------------------------------------------------- */

/* To add a table, append it here and in table.c. */
enum store_table {
    STORE_META,        /* single values of the host */
    STORE_COUNTERS,    /* incarnations, sequences: what must never go back */
    STORE_RECORDS,     /* signed records by origin */
    STORE_TOKENS,      /* join tokens */
    STORE_REVOCATIONS, /* revocations */
    STORE_JOBS,        /* job descriptions and states */
    STORE_SHARDS,      /* committed shards of jobs */
    STORE_JOURNAL,     /* journal entries */
    STORE_RECEIPTS,    /* signed receipts */
    STORE_DECISIONS,   /* why shards went where they went */
    STORE_COPIES, /* journals of several copies of which one is here: who keeps the others, what was promised */
    STORE_ENTRIES, /* and their entries */
    STORE_TABLES   /* how many there are */
};

struct store_batch;

/* A batch collects copies of what it is given. The first error in building it sticks: later calls return it
 * and so does store_commit. Freed by store_batch_close or taken over by a commit that returns STORE_OK. */
enum store_error store_batch_open(struct store *store, struct store_batch **batch);
void store_batch_close(struct store_batch *batch); /* NULL is allowed */
size_t store_batch_operations(const struct store_batch *batch);

/* Tables: keys of 1 to STORE_KEY_BYTES_MAX bytes, values of 0 to STORE_VALUE_BYTES_MAX. */
enum store_error store_batch_put(struct store_batch *batch, enum store_table table, const void *key,
                                 size_t key_bytes, const void *value, size_t value_bytes);
/* As put, but if the row exists the commit ends with STORE_EXISTS and none of the batch's rows are written.
 */
enum store_error store_batch_put_absent(struct store_batch *batch, enum store_table table, const void *key,
                                        size_t key_bytes, const void *value, size_t value_bytes);
/* Deleting what is not there is no error. */
enum store_error store_batch_delete(struct store_batch *batch, enum store_table table, const void *key,
                                    size_t key_bytes);
/* Deletes the rows whose keys begin with `prefix` (1 byte or more), at most STORE_SWEEP_ROWS; STORE_MORE if
 * more. */
enum store_error store_batch_delete_prefix(struct store_batch *batch, enum store_table table,
                                           const void *prefix, size_t prefix_bytes);

/* Adds a blob of at most STORE_SMALL_BYTES (larger: an upload) and gives its id. Known blobs are not written
 * again. */
enum store_error store_batch_blob(struct store_batch *batch, const void *bytes, size_t count,
                                  uint8_t id[STORE_ID_BYTES]);
/* Removes a blob, pinned or not. */
enum store_error store_batch_blob_remove(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES]);
/* A pinned blob is never evicted. Pins are durable, one per (blob, owner); an owner is 32 bytes, say a job's
 * id. A pin on a blob that is not there, nor in the batch before it, ends the commit with STORE_NONE and
 * nothing written. Releasing works on at most STORE_SWEEP_ROWS pins: STORE_MORE if the owner has more. */
enum store_error store_batch_pin(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES],
                                 const uint8_t owner[STORE_ID_BYTES]);
enum store_error store_batch_unpin(struct store_batch *batch, const uint8_t id[STORE_ID_BYTES],
                                   const uint8_t owner[STORE_ID_BYTES]);
enum store_error store_batch_unpin_all(struct store_batch *batch, const uint8_t owner[STORE_ID_BYTES]);

/* A cached result: opaque bytes (inline result and metadata, at most STORE_ENTRY_BYTES_MAX) and the blobs
 * that it needs (at most STORE_ENTRY_BLOBS_MAX). An entry one of whose blobs is gone is a miss. */
struct store_entry {
    const void *bytes;
    size_t count;
    const uint8_t (*blobs)[STORE_ID_BYTES];
    size_t blob_count;
};

/* Replaces an older entry. Best effort: with the blob map 80 % full it is left out and counted as refused. */
enum store_error store_batch_cache(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                   const struct store_entry *entry);
enum store_error store_batch_cache_remove(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES]);

/* Removes all cached results, at most STORE_SWEEP_ROWS of them: STORE_MORE if more. */
enum store_error store_batch_cache_clear(struct store_batch *batch);

/* A holder says that node `node` had the result of a key at `wall_ms`. */
struct store_holder {
    uint8_t node[STORE_ID_BYTES];
    int64_t wall_ms;
};

/* Adds or refreshes a holder; the fifth one replaces the oldest. Best effort, as the cache. */
enum store_error store_batch_pointer(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                     const struct store_holder *holder);
/* Removes one holder of a key, or a node's pointers (at most STORE_SWEEP_ROWS of them: STORE_MORE if more).
 */
enum store_error store_batch_pointer_remove(struct store_batch *batch, const uint8_t key[STORE_ID_BYTES],
                                            const uint8_t node[STORE_ID_BYTES]);
enum store_error store_batch_pointer_remove_node(struct store_batch *batch,
                                                 const uint8_t node[STORE_ID_BYTES]);

/* Queues the batch. STORE_OK: the batch is the store's and a completion with `ticket` will follow. Any other
 * error (STORE_BUSY, STORE_FAILED, the batch's own): the batch is still the caller's. Undrained completions
 * count. */
enum store_error store_commit(struct store *store, struct store_batch *batch, uint64_t ticket);

/* Commits, waits until it is durable, gives the outcome, and frees the batch in every case. For command
 * lines, start-up and tests; never in the loop thread. Waits in line where store_commit would say STORE_BUSY.
 */
enum store_error store_commit_wait(struct store *store, struct store_batch *batch);

struct store_completion {
    uint64_t ticket;
    enum store_error
        error; /* STORE_OK and STORE_MORE: durable; else nothing of the batch's tables was written */
};

int store_fd(const struct store *store); /* readable while completions wait; borrowed until store_close */
bool store_next_completion(struct store *store, struct store_completion *completion); /* false: none waits */

/* ---- Reading tables
 * ---------------------------------------------------------------------------------------- */

/* Copies a row into `buffer`. *bytes gets the row's size, also with STORE_SMALL. `buffer` may be NULL if
 * `capacity` is 0. */
enum store_error store_get(struct store *store, enum store_table table, const void *key, size_t key_bytes,
                           void *buffer, size_t capacity, size_t *bytes);

/* Where to walk: keys that begin with `prefix`, after key `after`; both may be empty. */
struct store_range {
    const void *prefix;
    size_t prefix_bytes;
    const void *after;
    size_t after_bytes;
};

/* Returns whether to go on. */
typedef bool store_row_fn(void *context, const void *key, size_t key_bytes, const void *value,
                          size_t value_bytes);

/* Shows rows in key order, all of one moment; damaged ones are passed over, and then the result is STORE_CORRUPT. `range` may be NULL: the whole table. Long walks: stop after
 * some thousand rows and continue with `after`, for a reader that stays keeps the file from reusing its
 * pages. */
enum store_error store_each(struct store *store, enum store_table table, const struct store_range *range,
                            store_row_fn *row, void *context);

enum store_error store_count(struct store *store, enum store_table table, uint64_t *rows);

/* ---- Blobs
 * -------------------------------------------------------------------------------------------------- */

struct store_upload;

/* Takes a blob of any size (at most STORE_BLOB_BYTES_MAX) in pieces. Until it is finished it is a file in
 * tmp/. */
enum store_error store_upload_open(struct store *store, struct store_upload **upload);
enum store_error store_upload_append(struct store_upload *upload, const void *bytes, size_t count);
/* Makes the bytes durable, compares with `expected` unless NULL, adds the blob to `batch` and gives its id.
 * Frees the upload in every case. The blob exists once the batch is committed. */
enum store_error store_upload_finish(struct store_upload *upload, const uint8_t *expected,
                                     struct store_batch *batch, uint8_t id[STORE_ID_BYTES]);
void store_upload_close(struct store_upload *upload); /* gives it up; NULL is allowed */

/*
 * A blob whose chunks come from elsewhere, in any order, their digests known. What has come survives the process in
 * parts/, and the next open takes it up: first call store_partial_check until it returns true, then write what it has
 * not. Each chunk is digested once, when it is written, and once more when it is taken up. What nobody takes up again
 * goes after STORE_PARTIAL_KEPT_S, or once all of it is over its share of the cache budget.
 */
struct store_partial;

struct store_partial_blob {
    const uint8_t *id;
    uint64_t bytes;                          /* over STORE_SMALL_BYTES */
    const uint8_t (*chunks)[STORE_ID_BYTES]; /* verified against `id` by the caller; copied */
};

/* STORE_BUSY: it is open already. */
enum store_error store_partial_open(struct store *store, const struct store_partial_blob *blob,
                                    struct store_partial **partial);
/* Looks at some more of what an earlier life left; true once it is known. Some milliseconds a call. */
bool store_partial_check(struct store_partial *partial);
bool store_partial_has(const struct store_partial *partial, uint32_t chunk);
uint64_t store_partial_bytes(const struct store_partial *partial); /* of the chunks that it has */
/* STORE_MISMATCH: these are not that chunk's bytes, and nothing was kept. */
enum store_error store_partial_write(struct store_partial *partial, uint32_t chunk, const void *bytes,
                                     size_t count);
/* With all chunks written: makes the bytes durable and adds the blob to `batch`. Frees it in every case. */
enum store_error store_partial_finish(struct store_partial *partial, struct store_batch *batch);
void store_partial_close(struct store_partial *partial); /* what has come stays in parts/; NULL is allowed */
/* Removes what of a blob lies in parts/ unless somebody has it open. */
void store_partial_forget(struct store *store, const uint8_t id[STORE_ID_BYTES]);

struct store_blob_info {
    uint64_t bytes;
    uint32_t chunks; /* of STORE_CHUNK_BYTES, the last one shorter */
    bool in_file;
    bool pinned;
};

enum store_error store_blob_stat(struct store *store, const uint8_t id[STORE_ID_BYTES],
                                 struct store_blob_info *info);

/* Copies `count` bytes from `offset`, verified; reading past the end is STORE_LIMIT. Cheapest in whole
 * chunks. */
enum store_error store_blob_read(struct store *store, const uint8_t id[STORE_ID_BYTES], uint64_t offset,
                                 size_t count, void *buffer);
/* Copies a whole blob, verified. *bytes gets its size, also with STORE_SMALL. */
enum store_error store_blob_get(struct store *store, const uint8_t id[STORE_ID_BYTES], void *buffer,
                                size_t capacity, size_t *bytes);
/* The digest of one chunk, as the writer of the blob computed it. */
enum store_error store_blob_chunk(struct store *store, const uint8_t id[STORE_ID_BYTES], uint32_t chunk,
                                  uint8_t digest[STORE_ID_BYTES]);

/* Opens a blob for mapping, read-only, at offset 0: a file, or for a small one a sealed memfd. *fd is the
 * caller's to close and stays good if the blob is evicted. `verify` reads all of a large file first (a small
 * one is always verified); without it, the caller checks the chunks that it uses. */
enum store_error store_blob_open(struct store *store, const uint8_t id[STORE_ID_BYTES], bool verify, int *fd,
                                 uint64_t *bytes);

typedef bool store_blob_fn(void *context, const uint8_t id[STORE_ID_BYTES],
                           const struct store_blob_info *info);

/* Shows blobs in order of id, after `after` unless NULL; or those that an owner pins. */
enum store_error store_blob_each(struct store *store, const uint8_t *after, store_blob_fn *blob,
                                 void *context);
enum store_error store_pin_each(struct store *store, const uint8_t owner[STORE_ID_BYTES], store_blob_fn *blob,
                                void *context);

/* ---- Cache and pointers
 * --------------------------------------------------------------------------------------- */

typedef void store_entry_fn(void *context, size_t index, const struct store_entry *entry);
typedef void store_holders_fn(void *context, size_t index, const struct store_holder *holders, size_t count);

/* Looks up `count` keys in one read transaction and calls back for each key found, in order, verified. */
enum store_error store_cache_get_many(struct store *store, const uint8_t (*keys)[STORE_ID_BYTES],
                                      size_t count, store_entry_fn *found, void *context);
enum store_error store_pointer_get_many(struct store *store, const uint8_t (*keys)[STORE_ID_BYTES],
                                        size_t count, store_holders_fn *found, void *context);

/* ---- Looking after it
 * ------------------------------------------------------------------------------------------ */

struct store_stats {
    uint64_t batches, operations;          /* committed since open */
    uint64_t groups;                       /* groups committed since open: one transaction and sync each */
    uint32_t group_largest;                /* operations */
    uint32_t commit_p50_us, commit_p99_us; /* of the last STORE_TIMINGS groups */
    uint64_t rejected;                     /* batches that ended with an error */
    uint32_t queued;                       /* batches now waiting, in work, or undrained */
    uint64_t queued_bytes;
    uint64_t state_used_bytes, state_map_bytes;
    uint64_t blobs_used_bytes, blobs_map_bytes;
    uint64_t blobs, blob_bytes; /* all */
    uint64_t files, file_bytes; /* of which in files */
    uint64_t entries, entry_bytes;
    uint64_t pointers, pointer_bytes;
    uint64_t evictions;     /* since open: blobs, entries and pointers */
    uint64_t cache_refused; /* since open: cache and pointer puts at the hard stop */
    uint64_t corrupt;       /* since open: values that did not match their digest */
    uint64_t missing;       /* since open: blobs whose file was gone */
    uint64_t cache_hits, cache_misses;
};

void store_stats(struct store *store, struct store_stats *stats);

/* Reports one finding of a check, as a sentence. */
typedef void store_report_fn(void *context, const char *finding);

/* Reads every row of all tables and compares it with its sum: what a host does before it relies on them. STORE_CORRUPT:
 * `report` was called. Some million rows take a second. */
enum store_error store_verify_state(struct store *store, store_report_fn *report, void *context);

/* Reads and verifies everything: the rows of all tables, blobs and entries against their digests, files
 * against the index, pins, both ways of the pointer index, the totals, the structure of the files. STORE_OK: nothing found.
 * STORE_CORRUPT: `report` was called. Changes nothing. To be called while nothing is being committed. */
enum store_error store_check(struct store *store, store_report_fn *report, void *context);

/*
 * Copies the store as of one moment, between two commits, into the folder `path`, which must not exist and whose parent
 * must; the store works on meanwhile, but large blobs are linked or copied and free pages are not used again until this
 * is done. Blocks for as long as that takes. What is there after an error is worth nothing and the caller's to remove.
 *
 * The copy is marked as one: store_open refuses it, since two stores under one storage id would speak for each other.
 * To work with it, copy the folder, open that with `backup` set, and store_adopt it under a new storage id.
 */
enum store_error store_backup(struct store *store, const char *path, struct store_failure *failure);
enum store_error store_adopt(struct store *store, const uint8_t storage_id[STORE_STORAGE_ID_BYTES]);

#endif
