/* Formats: an older store is brought to ours, a newer one refused, and a flipped bit in a row is found. */
#include "tests/unit/store_fixture.h"

#include <lmdb.h>

#define SUM_BYTES 8 /* behind each value from format 2 on */

/* The state as LMDB has it, past the store. */
static MDB_env *raw_open(const char *folder)
{
    char path[300];
    MDB_env *lmdb;
    snprintf(path, sizeof path, "%s/state", folder);
    assert_int_equal(mdb_env_create(&lmdb), 0);
    mdb_env_set_maxdbs(lmdb, 32);
    mdb_env_set_mapsize(lmdb, 64 * TEST_MIB);
    assert_int_equal(mdb_env_open(lmdb, path, 0, 0600), 0);
    return lmdb;
}

static void raw_set_schema(MDB_env *lmdb, uint8_t version)
{
    MDB_txn *txn;
    MDB_dbi own;
    uint8_t row[4] = {version};
    MDB_val key = {6, "schema"}, value = {sizeof row, row};
    assert_int_equal(mdb_txn_begin(lmdb, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "store", 0, &own), 0);
    assert_int_equal(mdb_put(txn, own, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

/* As a store of format 1 had its rows: without sums. */
static void raw_take_sums_off(MDB_env *lmdb, const char *table)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, value;
    assert_int_equal(mdb_txn_begin(lmdb, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, table, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        uint8_t name[64], bytes[8192];
        const MDB_val old = {value.mv_size - SUM_BYTES, bytes};
        MDB_val kept = {key.mv_size, name}, shorter = old;
        memcpy(name, key.mv_data, key.mv_size);
        memcpy(bytes, value.mv_data, old.mv_size);
        assert_int_equal(mdb_put(txn, dbi, &kept, &shorter, 0), 0);
    }
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

enum { ROWS = 3000 };

static size_t row_make(uint32_t number, char key[16], uint8_t value[5000])
{
    const size_t bytes = number % 50 == 0 ? 5000 - number % 997 : number % 120;
    snprintf(key, 16, "%06u", number);
    test_fill(value, bytes, number);
    return bytes;
}

static void fill(struct store *store)
{
    for (uint32_t at = 0; at < ROWS;) {
        struct store_batch *batch = test_batch(store);
        for (uint32_t end = at + 500; at < end; at++) {
            char key[16];
            uint8_t value[5000];
            const size_t bytes = row_make(at, key, value);
            store_batch_put(batch, at % 2 ? STORE_JOURNAL : STORE_JOBS, key, 6, value, bytes);
        }
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
}

static void expect_all(struct store *store)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        char key[16];
        uint8_t value[5000], got[5000];
        size_t found;
        const size_t bytes = row_make(i, key, value);
        assert_int_equal(
            store_get(store, i % 2 ? STORE_JOURNAL : STORE_JOBS, key, 6, got, sizeof got, &found), STORE_OK);
        assert_int_equal(found, bytes);
        assert_memory_equal(got, value, bytes);
    }
}

static void a_store_of_format_1_is_brought_to_ours(void **state)
{
    struct store *store = test_open(*state, NULL);
    fill(store);
    store_close(store);
    MDB_env *lmdb = raw_open(*state);
    raw_take_sums_off(lmdb, "jobs");
    raw_take_sums_off(lmdb, "journal");
    raw_set_schema(lmdb, 1);
    mdb_env_close(lmdb);
    for (int round = 0; round < 2; round++) { /* and only once */
        store = test_open(*state, NULL);
        expect_all(store);
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
        store_close(store);
    }
}

static void a_newer_format_is_refused_and_left_alone(void **state)
{
    struct store *store = test_open(*state, NULL);
    assert_int_equal(test_put(store, STORE_JOBS, "a", "1", 1), STORE_OK);
    store_close(store);
    MDB_env *lmdb = raw_open(*state);
    raw_set_schema(lmdb, 3);
    mdb_env_close(lmdb);
    const struct store_options options = test_options();
    struct store_failure failure;
    assert_int_equal(store_open(*state, &options, &failure, &store), STORE_SCHEMA);
    assert_non_null(strstr(failure.text, "format 3"));
    assert_non_null(strstr(failure.text, "older than the data"));
    lmdb = raw_open(*state);
    raw_set_schema(lmdb, 2);
    mdb_env_close(lmdb);
    store = test_open(*state, NULL);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static bool count_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    (void)key, (void)key_bytes, (void)value, (void)value_bytes;
    ++*(unsigned *)context;
    return true;
}

static void a_flipped_bit_in_a_row_is_found_wherever_it_is_read(void **state)
{
    static const char marked[] = "the value whose bit will flip";
    struct store *store = test_open(*state, NULL);
    assert_int_equal(test_put(store, STORE_JOURNAL, "a", "before", 6), STORE_OK);
    assert_int_equal(test_put(store, STORE_JOURNAL, "b", marked, sizeof marked), STORE_OK);
    assert_int_equal(test_put(store, STORE_JOURNAL, "c", "after", 5), STORE_OK);
    store_close(store);

    char path[300];
    snprintf(path, sizeof path, "%s/state/data.mdb", (const char *)*state);
    FILE *const file = fopen(path, "r+b");
    static uint8_t bytes[4 * TEST_MIB];
    const size_t count = fread(bytes, 1, sizeof bytes, file);
    for (size_t at = 0; at + sizeof marked <= count; at++) /* also in pages that are free by now */
        if (memcmp(bytes + at, marked, sizeof marked) == 0) {
            bytes[at + 10] ^= 4;
            assert_int_equal(fseek(file, (long)at + 10, SEEK_SET), 0);
            fputc(bytes[at + 10], file);
        }
    fclose(file);

    store = test_open(*state, NULL);
    char value[64];
    size_t found;
    unsigned rows = 0, findings = 0;
    assert_int_equal(store_get(store, STORE_JOURNAL, "b", 1, value, sizeof value, &found), STORE_CORRUPT);
    assert_int_equal(store_get(store, STORE_JOURNAL, "c", 1, value, sizeof value, &found), STORE_OK);
    assert_int_equal(store_each(store, STORE_JOURNAL, NULL, count_row, &rows), STORE_CORRUPT);
    assert_int_equal(rows, 2);
    assert_int_equal(store_verify_state(store, test_quiet, &findings), STORE_CORRUPT);
    assert_int_equal(findings, 1);
    findings = 0;
    assert_int_equal(store_check(store, test_quiet, &findings), STORE_CORRUPT);
    assert_int_equal(findings, 1);
    struct store_stats stats;
    store_stats(store, &stats);
    assert_true(stats.corrupt >= 1);
    /* A row written anew is sound again. */
    assert_int_equal(test_put(store, STORE_JOURNAL, "b", "new", 3), STORE_OK);
    assert_int_equal(store_verify_state(store, test_report, NULL), STORE_OK);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_store_of_format_1_is_brought_to_ours),
        TEST(a_newer_format_is_refused_and_left_alone),
        TEST(a_flipped_bit_in_a_row_is_found_wherever_it_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
