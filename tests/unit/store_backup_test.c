/* Backups: taken while others write, whole, and not to be worked on until they are adopted. */
#include "tests/unit/store_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define LARGE_BYTES (3 * TEST_MIB + 17) /* a blob that is kept in a file */

static const uint8_t fresh_id[STORE_STORAGE_ID_BYTES] = "fedcba987654321";

/* Where a test's store and its copy lie. */
struct folders {
    char store[300], copy[300];
};

static struct folders folders_of(void **state)
{
    struct folders folders;
    snprintf(folders.store, sizeof folders.store, "%s/store", (const char *)*state);
    snprintf(folders.copy, sizeof folders.copy, "%s/copy", (const char *)*state);
    return folders;
}

static struct store *open_backup(const char *path)
{
    struct store_options options = test_options();
    options.backup = true;
    return test_open(path, &options);
}

static void add_large(struct store *store, uint64_t seed, uint8_t id[STORE_ID_BYTES])
{
    uint8_t *const bytes = malloc(LARGE_BYTES);
    struct store_upload *upload;
    struct store_batch *batch = test_batch(store);
    test_fill(bytes, LARGE_BYTES, seed);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, LARGE_BYTES), STORE_OK);
    assert_int_equal(store_upload_finish(upload, NULL, batch, id), STORE_OK);
    uint8_t owner[STORE_ID_BYTES];
    test_key(seed, owner);
    assert_int_equal(store_batch_pin(batch, id, owner), STORE_OK);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    free(bytes);
}

/* ---- */

static void a_copy_holds_everything_and_is_refused_until_it_is_adopted(void **state)
{
    const struct folders folders = folders_of(state);
    struct store *store = test_open(folders.store, NULL);
    uint8_t large[STORE_ID_BYTES], small[STORE_ID_BYTES];
    add_large(store, 1, large);
    struct store_batch *batch = test_batch(store);
    store_batch_blob(batch, "few bytes", 9, small);
    store_batch_cache(batch, large, &(struct store_entry){.bytes = "entry", .count = 5});
    store_batch_pointer(batch, small, &(struct store_holder){.wall_ms = 5});
    store_batch_put(batch, STORE_JOBS, "job", 3, "row", 3);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    struct store_failure failure;
    assert_int_equal(store_backup(store, folders.copy, &failure), STORE_OK);
    assert_int_equal(store_backup(store, folders.copy, &failure), STORE_SYSTEM); /* it is there */

    /* What comes later, or goes, is none of the copy's. */
    batch = test_batch(store);
    store_batch_put(batch, STORE_JOBS, "later", 5, "row", 3);
    store_batch_blob_remove(batch, large);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);

    struct store_options options = test_options();
    assert_int_equal(store_open(folders.copy, &options, &failure, &store), STORE_SCHEMA);
    assert_non_null(strstr(failure.text, "backup"));

    store = open_backup(folders.copy);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    struct store_blob_info info;
    char row[8];
    size_t bytes;
    assert_int_equal(store_blob_stat(store, large, &info), STORE_OK);
    assert_true(info.pinned && info.in_file);
    assert_int_equal(store_blob_stat(store, small, &info), STORE_OK);
    assert_int_equal(store_get(store, STORE_JOBS, "job", 3, row, sizeof row, &bytes), STORE_OK);
    assert_int_equal(store_get(store, STORE_JOBS, "later", 5, row, sizeof row, &bytes), STORE_NONE);
    assert_int_equal(store_adopt(store, fresh_id), STORE_OK);
    store_close(store);

    store = test_open(folders.copy, NULL);
    uint8_t id[STORE_STORAGE_ID_BYTES];
    store_storage_id(store, id);
    assert_memory_equal(id, fresh_id, sizeof id);
    assert_false(store_created(store));
    assert_int_equal(test_put(store, STORE_JOBS, "again", "x", 1), STORE_OK);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

/* Row n and the blob that it names are one batch; a thread writes and removes them until it is told to stop. */
struct work {
    struct store *store;
    atomic_bool stop;
    atomic_uint written;
};

static void *work(void *context)
{
    struct work *work = context;
    for (uint32_t n = 0; !atomic_load(&work->stop); n++) {
        uint8_t id[STORE_ID_BYTES], owner[STORE_ID_BYTES];
        char key[16];
        snprintf(key, sizeof key, "%08u", n);
        test_key(n, owner);
        struct store_batch *batch = test_batch(work->store);
        if (n % 16 == 0) {
            add_large(work->store, n, id);
        } else {
            store_batch_blob(batch, key, 8, id);
            store_batch_pin(batch, id, owner);
        }
        store_batch_put(batch, STORE_JOURNAL, key, 8, id, sizeof id);
        if (n >= 64) { /* the oldest goes, row and blob */
            uint8_t old[STORE_ID_BYTES];
            size_t bytes;
            snprintf(key, sizeof key, "%08u", n - 64);
            assert_int_equal(store_get(work->store, STORE_JOURNAL, key, 8, old, sizeof old, &bytes),
                             STORE_OK);
            store_batch_delete(batch, STORE_JOURNAL, key, 8);
            store_batch_blob_remove(batch, old);
        }
        assert_int_equal(store_commit_wait(work->store, batch), STORE_OK);
        atomic_store(&work->written, n + 1);
    }
    return NULL;
}

struct rows {
    struct store *store;
    uint32_t count;
    uint32_t first, last;
};

static bool row_is_whole(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct rows *rows = context;
    char text[9] = "";
    struct store_blob_info info;
    assert_int_equal(key_bytes, 8);
    assert_int_equal(value_bytes, STORE_ID_BYTES);
    memcpy(text, key, 8);
    const uint32_t number = (uint32_t)strtoul(text, NULL, 10);
    assert_int_equal(store_blob_stat(rows->store, value, &info), STORE_OK);
    assert_true(rows->count == 0 || number == rows->last + 1);
    rows->first = rows->count++ == 0 ? number : rows->first;
    rows->last = number;
    return true;
}

static void a_copy_taken_under_load_is_of_one_moment(void **state)
{
    const struct folders folders = folders_of(state);
    struct store *store = test_open(folders.store, NULL);
    struct work shared = {.store = store};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work, &shared), 0);
    char copies[4][320];
    for (int round = 0; round < 4; round++) {
        const unsigned before = atomic_load(&shared.written);
        while (atomic_load(&shared.written) < before + 100)
            usleep(1000);
        snprintf(copies[round], sizeof copies[round], "%s%d", folders.copy, round);
        struct store_failure failure;
        if (store_backup(store, copies[round], &failure) != STORE_OK)
            fail_msg("%s", failure.text);
    }
    atomic_store(&shared.stop, true);
    pthread_join(thread, NULL);
    store_close(store);
    for (int round = 0; round < 4; round++) {
        struct rows rows = {.store = open_backup(copies[round])};
        assert_int_equal(store_check(rows.store, test_report, NULL), STORE_OK);
        assert_int_equal(store_each(rows.store, STORE_JOURNAL, NULL, row_is_whole, &rows), STORE_OK);
        assert_in_range(rows.count, 64, 65); /* a large blob is a batch before its row's */
        store_close(rows.store);
    }
}

static void what_cannot_be_written_is_said(void **state)
{
    const struct folders folders = folders_of(state);
    struct store *store = test_open(folders.store, NULL);
    struct store_failure failure;
    char nowhere[400];
    snprintf(nowhere, sizeof nowhere, "%s/missing/copy", (const char *)*state);
    assert_int_not_equal(store_backup(store, nowhere, &failure), STORE_OK);
    assert_non_null(strstr(failure.text, nowhere));
    assert_int_equal(test_put(store, STORE_JOBS, "a", "1", 1), STORE_OK);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_copy_holds_everything_and_is_refused_until_it_is_adopted),
        TEST(a_copy_taken_under_load_is_of_one_moment),
        TEST(what_cannot_be_written_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
