/*
 * store/backup.c - a copy of a store that is in use, and a store made of such a copy.
 *
 * Both environments are read as of one moment between two commits: the writer stands still while a read transaction is
 * begun on each and while large blobs get a second name (a hard link in tmp/, whatever becomes of the first), which takes
 * milliseconds. The rows are copied afterwards, in order of their keys into new environments, so that the copy is compact and
 * every page of it is written anew; meanwhile the store works, and only its free pages are not used again.
 */
#include "store/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (1 << 20)         /* read and written at once */
#define COPIED_BYTES_MAX (16u << 20) /* rows in one transaction of the copy */
#define LINK_NAME "backup-" /* in tmp/, before the blob's id: removed by the next open if we are killed */

/* What a backup holds while it goes on. */
struct backup {
    struct store *store;
    MDB_txn *txn[SIDES]; /* as of one moment */
    int folder_fd;       /* the new store's */
    uint8_t (*linked)[STORE_ID_BYTES];
    size_t linked_count, linked_room;
    char *buffer; /* of COPY_BYTES */
    struct store_failure *failure;
    const char *path;
};

static enum store_error complain(struct backup *backup, const char *what, int code)
{
    store_failure_set(backup->failure, store_from_system(code), code, "cannot %s %.140s: %s", what,
                      backup->path, mdb_strerror(code));
    return store_from_system(code);
}

static void link_name(const uint8_t id[STORE_ID_BYTES], char name[sizeof LINK_NAME + FILE_NAME_BYTES])
{
    char file[FILE_NAME_BYTES];
    store_file_name(id, file);
    snprintf(name, sizeof LINK_NAME + FILE_NAME_BYTES, LINK_NAME "%s", file + 3);
}

/* ---- One moment. */

static enum store_error link_file(struct backup *backup, const uint8_t id[STORE_ID_BYTES])
{
    char from[FILE_NAME_BYTES], to[sizeof LINK_NAME + FILE_NAME_BYTES];
    if (backup->linked_count == backup->linked_room) {
        const size_t room = backup->linked_room ? 2 * backup->linked_room : 256;
        void *const grown = realloc(backup->linked, room * sizeof *backup->linked);
        if (grown == NULL)
            return STORE_MEMORY;
        backup->linked = grown;
        backup->linked_room = room;
    }
    store_file_name(id, from);
    link_name(id, to);
    if (linkat(backup->store->files_fd, from, backup->store->tmp_fd, to, 0) != 0 && errno != EEXIST)
        return errno == ENOENT ? STORE_OK : store_from_system(errno); /* lost: the copy lacks it as we do */
    memcpy(backup->linked[backup->linked_count++], id, STORE_ID_BYTES);
    return STORE_OK;
}

static enum store_error link_files(struct backup *backup)
{
    const struct environment *blobs = &backup->store->environments[SIDE_BLOBS];
    MDB_cursor *cursor;
    MDB_val key, value;
    int code = mdb_cursor_open(backup->txn[SIDE_BLOBS], blobs->tables[BLOB_INDEX], &cursor);
    if (code != 0)
        return store_from_system(code);
    enum store_error error = STORE_OK;
    for (code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); code == 0 && error == STORE_OK;
         code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct blob_row row;
        error = store_blob_row_get(backup->store, backup->txn[SIDE_BLOBS], key.mv_data, &row);
        if (error == STORE_OK && row.in_file)
            error = link_file(backup, key.mv_data);
    }
    mdb_cursor_close(cursor);
    return error != STORE_OK || code == 0 || code == MDB_NOTFOUND ? error : store_from_system(code);
}

static enum store_error hold_moment(struct backup *backup)
{
    struct store *store = backup->store;
    pthread_mutex_lock(&store->calm);
    enum store_error error = STORE_OK;
    for (int side = 0; side < SIDES && error == STORE_OK; side++)
        error = store_read_begin(&store->environments[side], &backup->txn[side]);
    if (error == STORE_OK)
        error = link_files(backup);
    pthread_mutex_unlock(&store->calm);
    if (error != STORE_OK)
        store_failure_set(backup->failure, error, 0, "cannot read the store at %.140s: %s", store->path,
                          store_error_text(error));
    return error;
}

static void let_moment_go(struct backup *backup)
{
    for (int side = 0; side < SIDES; side++)
        if (backup->txn[side] != NULL)
            store_read_end(&backup->store->environments[side], backup->txn[side]);
    for (size_t i = 0; i < backup->linked_count; i++) {
        char name[sizeof LINK_NAME + FILE_NAME_BYTES];
        link_name(backup->linked[i], name);
        unlinkat(backup->store->tmp_fd, name, 0);
    }
    free(backup->linked);
}

/* ---- Rows. */

/* Rows in order, some MiB to a transaction. */
static int copy_table(MDB_txn *from, MDB_dbi from_table, MDB_env *to, const char *name)
{
    MDB_cursor *cursor;
    MDB_txn *txn = NULL;
    MDB_val key, value;
    MDB_dbi table;
    int code = mdb_cursor_open(from, from_table, &cursor);
    if (code != 0)
        return code;
    code = mdb_txn_begin(to, NULL, 0, &txn);
    if (code == 0)
        code = mdb_dbi_open(txn, name, MDB_CREATE, &table);
    size_t bytes = 0;
    int found = MDB_NOTFOUND;
    for (enum MDB_cursor_op step = MDB_FIRST;
         code == 0 && (found = mdb_cursor_get(cursor, &key, &value, step)) == 0; step = MDB_NEXT) {
        bytes += key.mv_size + value.mv_size;
        code = mdb_put(txn, table, &key, &value, MDB_APPEND);
        if (code == 0 && bytes > COPIED_BYTES_MAX) {
            code = mdb_txn_commit(txn);
            txn = NULL;
            bytes = 0;
            if (code == 0)
                code = mdb_txn_begin(to, NULL, 0, &txn);
        }
    }
    mdb_cursor_close(cursor);
    if (code == 0 && found != MDB_NOTFOUND)
        code = found;
    if (code == 0)
        return mdb_txn_commit(txn);
    if (txn != NULL)
        mdb_txn_abort(txn);
    return code;
}

/* Says that these are a backup's rows: nobody works on them, see store_adopt. */
static int mark(MDB_env *to)
{
    MDB_txn *txn;
    MDB_dbi own;
    MDB_val key = {.mv_data = BACKUP_MARK, .mv_size = sizeof BACKUP_MARK - 1}, none = {0};
    int code = mdb_txn_begin(to, NULL, 0, &txn);
    if (code != 0)
        return code;
    code = mdb_dbi_open(txn, "store", 0, &own);
    if (code == 0)
        code = mdb_put(txn, own, &key, &none, 0);
    if (code == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return code;
}

static enum store_error copy_side(struct backup *backup, enum side side)
{
    const struct environment *from = &backup->store->environments[side];
    struct environment to = {.name = from->name};
    char path[sizeof backup->store->path + 16];
    snprintf(path, sizeof path, "%s/%s", backup->path, from->name);
    int code = mkdirat(backup->folder_fd, from->name, 0700) == 0 ? 0 : errno;
    if (code == 0)
        code = store_lmdb_open(&to, path, (size_t)from->map_pages * from->page_bytes, MDB_NOSYNC);
    if (code == 0)
        code = copy_table(backup->txn[side], from->own, to.lmdb, "store");
    for (unsigned i = 0; code == 0 && i < from->table_count; i++)
        code = copy_table(backup->txn[side], from->tables[i], to.lmdb, store_table_name(side, i));
    if (code == 0 && side == SIDE_STATE)
        code = mark(to.lmdb);
    if (code == 0)
        code = mdb_env_sync(to.lmdb, 1);
    store_environment_close(&to);
    snprintf(path, sizeof path, "%s/lock.mdb", from->name);
    unlinkat(backup->folder_fd, path, 0);
    return code == 0 ? STORE_OK : complain(backup, "write the copy in", code);
}

/* ---- Files. */

static int copy_bytes(int from, int to, char *buffer)
{
    for (;;) {
        const ssize_t got = read(from, buffer, COPY_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got == 0 ? 0 : errno;
        for (ssize_t put = 0; put < got;) {
            const ssize_t part = write(to, buffer + put, (size_t)(got - put));
            if (part < 0 && errno != EINTR)
                return errno;
            put += part > 0 ? part : 0;
        }
    }
}

/* A second name where that can be had, for blobs never change; otherwise a copy, and durable. */
static int copy_file(int from_folder, const char *from, int to_folder, const char *to, char *buffer)
{
    if (linkat(from_folder, from, to_folder, to, 0) == 0)
        return 0;
    if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != EOPNOTSUPP)
        return errno;
    const int in = openat(from_folder, from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return errno;
    const int out = openat(to_folder, to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int code = out < 0 ? errno : copy_bytes(in, out, buffer);
    if (code == 0 && fsync(out) != 0)
        code = errno;
    if (out >= 0 && close(out) != 0 && code == 0)
        code = errno;
    close(in);
    return code;
}

static enum store_error copy_files(struct backup *backup)
{
    int files = -1;
    int code = mkdirat(backup->folder_fd, "files", 0700) == 0 ? 0 : errno;
    if (code == 0 && (files = openat(backup->folder_fd, "files", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        code = errno;
    for (size_t i = 0; code == 0 && i < backup->linked_count; i++) {
        char from[sizeof LINK_NAME + FILE_NAME_BYTES], to[FILE_NAME_BYTES], folder[3];
        link_name(backup->linked[i], from);
        store_file_name(backup->linked[i], to);
        snprintf(folder, sizeof folder, "%.2s", to);
        code = mkdirat(files, folder, 0700) == 0 || errno == EEXIST ? 0 : errno;
        if (code == 0)
            code = copy_file(backup->store->tmp_fd, from, files, to, backup->buffer);
    }
    if (code == 0 && syncfs(backup->folder_fd) != 0)
        code = errno;
    if (files >= 0)
        close(files);
    return code == 0 ? STORE_OK : complain(backup, "write the copy in", code);
}

/* ---- The whole. */

enum store_error store_backup(struct store *store, const char *path, struct store_failure *failure)
{
    struct backup backup = {.store = store, .path = path, .folder_fd = -1, .failure = failure};
    backup.buffer = malloc(COPY_BYTES);
    if (backup.buffer == NULL) {
        store_failure_set(failure, STORE_MEMORY, 0, "no memory for a backup");
        return STORE_MEMORY;
    }
    enum store_error error = mkdir(path, 0700) == 0 ? STORE_OK : complain(&backup, "make", errno);
    if (error == STORE_OK) {
        backup.folder_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (backup.folder_fd < 0)
            error = complain(&backup, "open", errno);
        if (error == STORE_OK)
            error = hold_moment(&backup);
        for (int side = 0; side < SIDES && error == STORE_OK; side++)
            error = copy_side(&backup, (enum side)side);
        if (error == STORE_OK)
            error = copy_files(&backup);
        let_moment_go(&backup);
    }
    if (backup.folder_fd >= 0)
        close(backup.folder_fd);
    free(backup.buffer);
    return error;
}

/* Of one environment: the mark goes or comes, and the id is that. */
static enum store_error name_side(struct store *store, enum side side,
                                  const uint8_t storage_id[STORE_STORAGE_ID_BYTES])
{
    const struct environment *environment = &store->environments[side];
    MDB_txn *txn;
    enum store_error error = store_from_system(mdb_txn_begin(environment->lmdb, NULL, 0, &txn));
    if (error != STORE_OK)
        return error;
    error = store_row_put(txn, environment->own, "storage", 7, storage_id, STORE_STORAGE_ID_BYTES);
    if (error == STORE_OK && side == SIDE_STATE)
        error = store_row_delete(txn, environment->own, BACKUP_MARK, sizeof BACKUP_MARK - 1);
    if (error == STORE_OK)
        return store_from_system(mdb_txn_commit(txn));
    mdb_txn_abort(txn);
    return error;
}

enum store_error store_adopt(struct store *store, const uint8_t storage_id[STORE_STORAGE_ID_BYTES])
{
    pthread_mutex_lock(&store->calm);
    enum store_error error = name_side(store, SIDE_BLOBS, storage_id);
    if (error == STORE_OK)
        error = name_side(store, SIDE_STATE, storage_id);
    if (error == STORE_OK)
        memcpy(store->storage_id, storage_id, STORE_STORAGE_ID_BYTES);
    pthread_mutex_unlock(&store->calm);
    return error;
}
