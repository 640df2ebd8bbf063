/* Write errors that no test machine produces on demand: the linker puts this file's commit in place of
 * LMDB's. */
#include "tests/unit/store_fixture.h"

#include <errno.h>
#include <lmdb.h>
#include <stdatomic.h>

int __real_mdb_txn_commit(MDB_txn *txn);
int __wrap_mdb_txn_commit(MDB_txn *txn);

static atomic_int fail_after = -1; /* this many commits succeed, then one fails; -1: none fails */
static atomic_int fail_with;

int __wrap_mdb_txn_commit(MDB_txn *txn)
{
    if (atomic_load(&fail_after) >= 0 && atomic_fetch_sub(&fail_after, 1) == 0) {
        mdb_txn_abort(txn);
        return atomic_load(&fail_with);
    }
    return __real_mdb_txn_commit(txn);
}

static void fail_commit(int after, int code)
{
    atomic_store(&fail_with, code);
    atomic_store(&fail_after, after);
}

static void an_io_error_stops_all_writing_until_reopened(void **state)
{
    struct store *store = test_open(*state, NULL);
    assert_int_equal(test_put(store, STORE_JOBS, "a", "1", 1), STORE_OK);
    fail_commit(0, EIO);
    assert_int_equal(test_put(store, STORE_JOBS, "b", "2", 1), STORE_FAILED);
    /* The next commit would succeed, but the disk can't be believed any more. */
    assert_int_equal(test_put(store, STORE_JOBS, "c", "3", 1), STORE_FAILED);
    struct store_failure failure;
    assert_int_equal(store_health(store, &failure), STORE_FAILED);
    assert_int_equal(failure.system, EIO);
    assert_non_null(strstr(failure.text, "state"));
    assert_non_null(strstr(failure.text, "started again"));
    char value[4];
    size_t bytes;
    assert_int_equal(store_get(store, STORE_JOBS, "a", 1, value, sizeof value, &bytes), STORE_OK);
    assert_int_equal(store_get(store, STORE_JOBS, "b", 1, value, sizeof value, &bytes), STORE_NONE);
    store_close(store);
    store = test_open(*state, NULL);
    assert_int_equal(store_health(store, NULL), STORE_OK);
    assert_int_equal(test_put(store, STORE_JOBS, "b", "2", 1), STORE_OK);
    store_close(store);
}

static void every_ticket_of_a_failed_group_gets_its_answer(void **state)
{
    struct store *store = test_open(*state, NULL);
    enum { COUNT = 100 };
    fail_commit(1, EIO);
    unsigned accepted = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_put(batch, STORE_JOBS, &i, sizeof i, "x", 1);
        if (store_commit(store, batch, i) == STORE_OK)
            accepted++;
        else
            store_batch_close(batch);
    }
    for (uint64_t i = 0; i < accepted; i++) {
        const struct store_completion completion = test_completion(store);
        size_t bytes;
        char value;
        assert_int_equal(completion.ticket, i);
        const enum store_error there = store_get(store, STORE_JOBS, &i, sizeof i, &value, 1, &bytes);
        assert_int_equal(completion.error == STORE_OK, there == STORE_OK);
        assert_true(completion.error == STORE_OK || completion.error == STORE_FAILED);
    }
    store_close(store);
    fail_commit(-1, 0);
}

static void a_group_that_does_not_fit_is_split_and_each_part_tried(void **state)
{
    struct store *store = test_open(*state, NULL);
    enum { COUNT = 200 };
    for (int round = 0; round < 5; round++) {
        /* A few groups in, one commit finds no space; its parts do. */
        fail_commit(round, ENOSPC);
        for (uint64_t i = 0; i < COUNT; i++) {
            struct store_batch *batch = test_batch(store);
            store_batch_put(batch, STORE_JOBS, &i, sizeof i, &round, sizeof round);
            assert_int_equal(store_commit(store, batch, i), STORE_OK);
        }
        unsigned refused = 0;
        for (uint64_t i = 0; i < COUNT; i++) {
            const struct store_completion completion = test_completion(store);
            assert_int_equal(completion.ticket, i);
            refused += completion.error != STORE_OK;
        }
        assert_true(refused <= 1); /* a group of one can't be split */
        assert_int_equal(store_health(store, NULL), STORE_OK);
    }
    fail_commit(-1, 0);
    store_close(store);
}

static void a_row_is_never_there_without_its_blob(void **state)
{
    struct store *store = test_open(*state, NULL);
    const int codes[] = {ENOSPC, ENOSPC, EIO};
    for (int i = 0; i < 3; i++) {
        /* A batch on both sides makes two commits, blobs first: fail the first, the second, and the second
         * for good. */
        uint8_t id[STORE_ID_BYTES], buffer[16];
        size_t bytes;
        struct store_blob_info info;
        struct store_batch *batch = test_batch(store);
        store_batch_blob(batch, &i, sizeof i, id);
        store_batch_put(batch, STORE_JOBS, id, sizeof id, "row", 3);
        fail_commit(i == 0 ? 0 : 1, codes[i]);
        assert_int_equal(store_commit_wait(store, batch), codes[i] == EIO ? STORE_FAILED : STORE_FULL);
        assert_int_equal(store_get(store, STORE_JOBS, id, sizeof id, buffer, sizeof buffer, &bytes),
                         STORE_NONE);
        assert_int_equal(store_blob_stat(store, id, &info), i == 0 ? STORE_NONE : STORE_OK);
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    }
    store_close(store);
}

static void a_file_of_a_batch_that_failed_is_removed(void **state)
{
    struct store *store = test_open(*state, NULL);
    static uint8_t bytes[3 << 20];
    uint8_t id[STORE_ID_BYTES];
    struct store_upload *upload;
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, sizeof bytes), STORE_OK);
    assert_int_equal(store_upload_finish(upload, NULL, batch, id), STORE_OK);
    fail_commit(0, ENOSPC);
    assert_int_equal(store_commit_wait(store, batch), STORE_FULL);
    char command[400];
    snprintf(command, sizeof command, "test -z \"$(find '%s/files' '%s/tmp' -type f)\"", (char *)*state,
             (char *)*state);
    assert_int_equal(system(command), 0);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_io_error_stops_all_writing_until_reopened),
        TEST(every_ticket_of_a_failed_group_gets_its_answer),
        TEST(a_group_that_does_not_fit_is_split_and_each_part_tried),
        TEST(a_row_is_never_there_without_its_blob),
        TEST(a_file_of_a_batch_that_failed_is_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
