#include "store/internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STATE_MAP_BYTES (UINT64_C(4) << 30)
#define BLOBS_MAP_BYTES (UINT64_C(16) << 30)
#define CACHE_BUDGET_BYTES (UINT64_C(8) << 30)
#define POINTER_BUDGET_BYTES (UINT64_C(64) << 20)

static enum store_error folders_open(struct store *store, struct store_failure *failure);
static enum store_error lock_take(struct store *store, struct store_failure *failure);
static enum store_error leftovers_remove(struct store *store);
static void stray_files_remove(struct store *store, MDB_txn *txn, const char *name);

/* ---- Errors ----------------------------------------------------------------------------------------------
 */

static const struct {
    enum store_class class;
    const char *name;
    const char *text;
} errors[STORE_ERRORS] = {
    [STORE_OK] = {STORE_CLASS_NONE, "ok", "done"},
    [STORE_NONE] = {STORE_CLASS_GONE, "none", "there is no such row, blob or entry"},
    [STORE_EXISTS] = {STORE_CLASS_LOCAL, "exists", "the row exists already and the first one stays"},
    [STORE_MORE] = {STORE_CLASS_BUSY, "more", "done in part; submit it again for the rest"},
    [STORE_BUSY] = {STORE_CLASS_BUSY, "busy", "too much waits to be written; try again"},
    [STORE_IN_USE] = {STORE_CLASS_LOCAL, "in-use", "the data folder is in use by another process"},
    [STORE_FULL] = {STORE_CLASS_LOCAL, "full", "the disk or the store's map is full"},
    [STORE_SMALL] = {STORE_CLASS_LOCAL, "small", "the buffer is smaller than the value"},
    [STORE_LIMIT] = {STORE_CLASS_LOCAL, "limit", "a key, value, batch or range is over its limit"},
    [STORE_CORRUPT] = {STORE_CLASS_GONE, "corrupt",
                       "stored bytes do not match their digest and were dropped"},
    [STORE_MISMATCH] = {STORE_CLASS_GONE, "mismatch",
                        "the bytes received are not those of the expected digest"},
    [STORE_SCHEMA] = {STORE_CLASS_LOCAL, "schema", "the data folder has another format"},
    [STORE_DENIED] = {STORE_CLASS_LOCAL, "denied", "permission denied, or the folder is open to others"},
    [STORE_FAILED] = {STORE_CLASS_LOCAL, "failed", "an earlier write error made the store read-only"},
    [STORE_SYSTEM] = {STORE_CLASS_LOCAL, "system", "the system reported an error"},
    [STORE_MEMORY] = {STORE_CLASS_LOCAL, "memory", "out of memory"},
};

enum store_class store_error_class(enum store_error error)
{
    return (unsigned)error < STORE_ERRORS ? errors[error].class : STORE_CLASS_LOCAL;
}

const char *store_error_name(enum store_error error)
{
    return (unsigned)error < STORE_ERRORS ? errors[error].name : "unknown";
}

const char *store_error_text(enum store_error error)
{
    return (unsigned)error < STORE_ERRORS ? errors[error].text : "unknown error";
}

enum store_error store_from_system(int code)
{
    switch (code) {
    case 0:
        return STORE_OK;
    case MDB_NOTFOUND:
    case ENOENT:
        return STORE_NONE;
    case MDB_KEYEXIST:
        return STORE_EXISTS;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return STORE_FULL;
    case MDB_READERS_FULL:
        return STORE_BUSY;
    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
        return STORE_SCHEMA;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        return STORE_CORRUPT;
    case MDB_PANIC:
    case EIO:
        return STORE_FAILED;
    case EACCES:
    case EPERM:
    case EROFS:
        return STORE_DENIED;
    case ENOMEM:
        return STORE_MEMORY;
    default:
        return STORE_SYSTEM;
    }
}

void store_failure_set(struct store_failure *failure, enum store_error error, int system, const char *format,
                       ...)
{
    if (failure == NULL)
        return;
    failure->error = error;
    failure->system = system;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure->text, sizeof failure->text, format, arguments);
    va_end(arguments);
}

void store_fail(struct store *store, const char *what, int code)
{
    pthread_mutex_lock(&store->gate);
    if (store->failure.error == STORE_OK)
        store_failure_set(
            &store->failure, STORE_FAILED, code,
            "cannot write %s in %.120s: %s; nothing more is written until the node is started again, "
            "check the disk first",
            what, store->path, mdb_strerror(code));
    pthread_mutex_unlock(&store->gate);
}

/* ---- Small helpers
 * ------------------------------------------------------------------------------------------ */

int64_t store_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void store_number_encode(uint8_t *to, uint64_t number, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(number >> (8 * i));
}

uint64_t store_number_decode(const uint8_t *from, size_t bytes)
{
    uint64_t number = 0;
    for (size_t i = 0; i < bytes; i++)
        number |= (uint64_t)from[i] << (8 * i);
    return number;
}

void store_file_name(const uint8_t id[STORE_ID_BYTES], char name[FILE_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    char *hex = name + 3;
    for (size_t i = 0; i < STORE_ID_BYTES; i++) {
        hex[2 * i] = digits[id[i] >> 4];
        hex[2 * i + 1] = digits[id[i] & 15];
    }
    name[0] = hex[0];
    name[1] = hex[1];
    name[2] = '/';
    name[FILE_NAME_BYTES - 1] = '\0';
}

/* ---- Open and close
 * ------------------------------------------------------------------------------------------ */

enum store_error store_open(const char *path, const struct store_options *options,
                            struct store_failure *failure, struct store **opened)
{
    assert(options->digest.chunk != NULL && options->digest.root != NULL && options->digest.sum != NULL);
    *opened = NULL;
    store_failure_set(failure, STORE_OK, 0, "%s", "");
    struct store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        store_failure_set(failure, STORE_MEMORY, ENOMEM, "cannot open %.160s: out of memory", path);
        return STORE_MEMORY;
    }
    pthread_mutex_init(&store->gate, NULL);
    pthread_mutex_init(&store->partials_gate, NULL);
    pthread_mutex_init(&store->calm, NULL);
    pthread_cond_init(&store->work, NULL);
    pthread_cond_init(&store->ended, NULL);
    for (int side = 0; side < SIDES; side++)
        pthread_mutex_init(&store->environments[side].gate, NULL);
    store->folder_fd = store->lock_fd = store->files_fd = store->tmp_fd = store->parts_fd = store->event_fd =
        -1;
    snprintf(store->path, sizeof store->path, "%s", path);
    store->digest = options->digest;
    store->damaged = options->damaged;
    store->damaged_context = options->context;
    store->backup = options->backup;
    memcpy(store->storage_id, options->storage_id, sizeof store->storage_id);
    store->cache_budget_bytes =
        options->cache_budget_bytes ? options->cache_budget_bytes : CACHE_BUDGET_BYTES;
    store->pointer_budget_bytes =
        options->pointer_budget_bytes ? options->pointer_budget_bytes : POINTER_BUDGET_BYTES;

    enum store_error error = folders_open(store, failure);
    if (error == STORE_OK)
        error = lock_take(store, failure);
    /* State first: it holds the storage id that the blobs must agree with. */
    if (error == STORE_OK)
        error = store_environment_open(store, SIDE_STATE,
                                       options->state_map_bytes ? options->state_map_bytes : STATE_MAP_BYTES,
                                       failure);
    if (error == STORE_OK)
        error = store_environment_open(store, SIDE_BLOBS,
                                       options->blobs_map_bytes ? options->blobs_map_bytes : BLOBS_MAP_BYTES,
                                       failure);
    if (error == STORE_OK) {
        error = leftovers_remove(store);
        if (error != STORE_OK)
            store_failure_set(failure, error, errno, "cannot tidy %.160s: %s", path, strerror(errno));
        store_partials_trim(store);
    }
    if (error == STORE_OK) {
        store->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        int code =
            store->event_fd < 0 ? errno : pthread_create(&store->writer, NULL, store_writer_main, store);
        store->writer_runs = code == 0;
        if (code != 0) {
            error = STORE_SYSTEM;
            store_failure_set(failure, error, code, "cannot start the writer of %.160s: %s", path,
                              strerror(code));
        }
    }
    if (error != STORE_OK) {
        store_close(store);
        return error;
    }
    *opened = store;
    return STORE_OK;
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    if (store->writer_runs) {
        pthread_mutex_lock(&store->gate);
        store->stopping = true;
        pthread_cond_broadcast(&store->work);
        pthread_mutex_unlock(&store->gate);
        pthread_join(store->writer, NULL);
    }
    struct store_completion completion;
    while (store->event_fd >= 0 && store_next_completion(store, &completion))
        continue;
    for (int side = 0; side < SIDES; side++) {
        store_environment_close(&store->environments[side]);
        pthread_mutex_destroy(&store->environments[side].gate);
    }
    const int descriptors[] = {store->event_fd, store->parts_fd, store->tmp_fd,
                               store->files_fd, store->lock_fd,  store->folder_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    pthread_cond_destroy(&store->ended);
    pthread_cond_destroy(&store->work);
    pthread_mutex_destroy(&store->partials_gate);
    pthread_mutex_destroy(&store->calm);
    pthread_mutex_destroy(&store->gate);
    free(store);
}

void store_storage_id(const struct store *store, uint8_t storage_id[STORE_STORAGE_ID_BYTES])
{
    memcpy(storage_id, store->storage_id, STORE_STORAGE_ID_BYTES);
}

bool store_created(const struct store *store)
{
    return store->created;
}

enum store_error store_health(struct store *store, struct store_failure *failure)
{
    pthread_mutex_lock(&store->gate);
    if (failure != NULL)
        *failure = store->failure;
    const enum store_error error = store->failure.error;
    pthread_mutex_unlock(&store->gate);
    return error;
}

static int compare_timings(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void store_stats(struct store *store, struct store_stats *stats)
{
    uint32_t timings[STORE_TIMINGS];
    pthread_mutex_lock(&store->gate);
    *stats = store->stats;
    stats->queued = store->held;
    stats->queued_bytes = store->held_bytes;
    stats->blobs = store->totals.blobs;
    stats->blob_bytes = store->totals.blob_bytes;
    stats->files = store->totals.files;
    stats->file_bytes = store->totals.file_bytes;
    stats->entries = store->totals.entries;
    stats->entry_bytes = store->totals.entry_bytes;
    stats->pointers = store->totals.pointers;
    stats->pointer_bytes = store->totals.pointer_bytes;
    const size_t timed = store->timed < STORE_TIMINGS ? (size_t)store->timed : STORE_TIMINGS;
    memcpy(timings, store->timings_us, timed * sizeof *timings);
    pthread_mutex_unlock(&store->gate);

    if (timed > 0) {
        qsort(timings, timed, sizeof *timings, compare_timings);
        stats->commit_p50_us = timings[timed / 2];
        stats->commit_p99_us = timings[timed * 99 / 100];
    }
    const struct environment *state = &store->environments[SIDE_STATE];
    const struct environment *blobs = &store->environments[SIDE_BLOBS];
    stats->state_used_bytes = atomic_load(&state->used_pages) * state->page_bytes;
    stats->state_map_bytes = state->map_pages * state->page_bytes;
    stats->blobs_used_bytes = atomic_load(&blobs->used_pages) * blobs->page_bytes;
    stats->blobs_map_bytes = blobs->map_pages * blobs->page_bytes;
    stats->corrupt = atomic_load(&store->corrupt);
    stats->missing = atomic_load(&store->missing);
    stats->cache_hits = atomic_load(&store->hits);
    stats->cache_misses = atomic_load(&store->misses);
}

/* ---- Helpers of open
 * ----------------------------------------------------------------------------------------- */

static int folder_open(int at, const char *name, int *fd)
{
    if (mkdirat(at, name, 0700) != 0 && errno != EEXIST)
        return errno;
    *fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd < 0 ? errno : 0;
}

static enum store_error folders_open(struct store *store, struct store_failure *failure)
{
    int code = strlen(store->path) + 16 < sizeof store->path ? 0 : ENAMETOOLONG;
    if (code == 0)
        code = folder_open(AT_FDCWD, store->path, &store->folder_fd);
    struct stat folder;
    if (code == 0 && fstat(store->folder_fd, &folder) != 0)
        code = errno;
    if (code == 0 && (folder.st_mode & 077) != 0) {
        store_failure_set(failure, STORE_DENIED, 0, "%.100s may be entered by others: chmod 700 %.100s",
                          store->path, store->path);
        return STORE_DENIED;
    }
    if (code == 0)
        code = folder_open(store->folder_fd, "files", &store->files_fd);
    if (code == 0)
        code = folder_open(store->folder_fd, "tmp", &store->tmp_fd);
    if (code == 0)
        code = folder_open(store->folder_fd, "parts", &store->parts_fd);
    if (code == 0)
        return STORE_OK;
    store_failure_set(failure, store_from_system(code), code, "cannot open the data folder %.160s: %s",
                      store->path, strerror(code));
    return store_from_system(code);
}

/* The lock is held by the open descriptor, so it ends with the process, however that ends. */
static enum store_error lock_take(struct store *store, struct store_failure *failure)
{
    store->lock_fd = openat(store->folder_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock_fd < 0) {
        const int code = errno;
        store_failure_set(failure, store_from_system(code), code, "cannot open %.160s/lock: %s", store->path,
                          strerror(code));
        return store_from_system(code);
    }
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        char pid[24] = "";
        if (read(store->lock_fd, pid, sizeof pid - 1) < 0)
            pid[0] = '\0';
        store_failure_set(failure, STORE_IN_USE, 0,
                          "%.160s is in use by process %ld; stop it, or choose another data folder",
                          store->path, atol(pid));
        return STORE_IN_USE;
    }
    /* The number only serves that message: a disk too full to take it must not keep the store from opening.
     */
    if (ftruncate(store->lock_fd, 0) == 0)
        (void)!dprintf(store->lock_fd, "%ld\n", (long)getpid());
    return STORE_OK;
}

/* A crash leaves files in tmp/ that nobody will finish, and in files/ that the index does not know: their row
 * was not committed yet, or was deleted just before. Nothing else is running yet, so that both are safe to
 * remove. */
static enum store_error leftovers_remove(struct store *store)
{
    DIR *tmp = fdopendir(openat(store->tmp_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (tmp == NULL)
        return store_from_system(errno);
    for (struct dirent *entry; (entry = readdir(tmp)) != NULL;)
        if (entry->d_name[0] != '.')
            unlinkat(store->tmp_fd, entry->d_name, 0);
    closedir(tmp);

    MDB_txn *txn;
    enum store_error error = store_read_begin(&store->environments[SIDE_BLOBS], &txn);
    if (error != STORE_OK)
        return error;
    DIR *files = fdopendir(openat(store->files_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (files == NULL)
        error = store_from_system(errno);
    for (struct dirent *entry; files != NULL && (entry = readdir(files)) != NULL;)
        if (entry->d_name[0] != '.')
            stray_files_remove(store, txn, entry->d_name);
    if (files != NULL)
        closedir(files);
    store_read_end(&store->environments[SIDE_BLOBS], txn);
    return error;
}

static bool name_decode(const char *hex, uint8_t id[STORE_ID_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(hex) != 2 * STORE_ID_BYTES)
        return false;
    for (size_t i = 0; i < 2 * STORE_ID_BYTES; i++) {
        const char *digit = strchr(digits, hex[i]);
        if (digit == NULL)
            return false;
        id[i / 2] = (uint8_t)(id[i / 2] << 4 | (digit - digits));
    }
    return true;
}

static void stray_files_remove(struct store *store, MDB_txn *txn, const char *name)
{
    DIR *folder = fdopendir(openat(store->files_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        uint8_t id[STORE_ID_BYTES] = {0};
        struct blob_row row;
        if (entry->d_name[0] == '.')
            continue;
        if (!name_decode(entry->d_name, id) || store_blob_row_get(store, txn, id, &row) == STORE_NONE)
            unlinkat(dirfd(folder), entry->d_name, 0);
    }
    closedir(folder);
}
