/* The result cache, pointers, budgets and eviction. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

struct lookup {
    size_t found, last, bytes;
    uint8_t copy[STORE_ENTRY_BYTES_MAX];
    uint8_t blob[STORE_ID_BYTES];
    struct store_holder holders[STORE_HOLDERS_MAX];
};

static void on_entry(void *context, size_t index, const struct store_entry *entry)
{
    struct lookup *lookup = context;
    lookup->found++;
    lookup->last = index;
    lookup->bytes = entry->count;
    if (entry->count > 0)
        memcpy(lookup->copy, entry->bytes, entry->count);
    if (entry->blob_count > 0)
        memcpy(lookup->blob, entry->blobs[0], STORE_ID_BYTES);
}

static void on_holders(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    struct lookup *lookup = context;
    lookup->found++;
    lookup->last = index;
    lookup->bytes = count;
    memcpy(lookup->holders, holders, count * sizeof *holders);
}

static void cache_put(struct store_batch *batch, uint64_t number, size_t bytes)
{
    uint8_t key[STORE_ID_BYTES], *value = malloc(bytes + 1);
    test_key(number, key);
    test_fill(value, bytes, number);
    const struct store_entry entry = {.bytes = value, .count = bytes};
    assert_int_equal(store_batch_cache(batch, key, &entry), STORE_OK);
    free(value);
}

static bool cache_has(struct store *store, uint64_t number, size_t bytes)
{
    static struct lookup lookup;
    uint8_t keys[1][STORE_ID_BYTES], *value = malloc(bytes + 1);
    lookup.found = 0;
    test_key(number, keys[0]);
    assert_int_equal(
        store_cache_get_many(store, (const uint8_t(*)[STORE_ID_BYTES])keys, 1, on_entry, &lookup), STORE_OK);
    if (lookup.found > 0) {
        test_fill(value, bytes, number);
        assert_int_equal(lookup.bytes, bytes);
        assert_memory_equal(lookup.copy, value, bytes);
    }
    free(value);
    return lookup.found == 1;
}

static struct store_stats stats_of(struct store *store)
{
    struct store_stats stats;
    store_stats(store, &stats);
    return stats;
}

/* Waits until the writer has evicted down to `budget`. */
static struct store_stats settle(struct store *store, uint64_t budget)
{
    struct store_stats stats = stats_of(store);
    for (int i = 0; i < 2000 && stats.entry_bytes + stats.blob_bytes > budget; i++) {
        const struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
        stats = stats_of(store);
    }
    return stats;
}

static void entries_come_back_and_limits_hold(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct store_batch *batch = test_batch(store);
    cache_put(batch, 1, 0);
    cache_put(batch, 2, 200);
    cache_put(batch, 3, STORE_ENTRY_BYTES_MAX);
    cache_put(batch, 2, 300); /* replaces */
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_true(cache_has(store, 1, 0));
    assert_true(cache_has(store, 2, 300));
    assert_true(cache_has(store, 3, STORE_ENTRY_BYTES_MAX));
    assert_false(cache_has(store, 4, 1));
    static uint8_t large[STORE_ENTRY_BYTES_MAX + 1], key[STORE_ID_BYTES];
    static uint8_t blobs[STORE_ENTRY_BLOBS_MAX + 1][STORE_ID_BYTES];
    const struct store_entry too_large = {.bytes = large, .count = sizeof large};
    const struct store_entry too_many = {.blobs = (const uint8_t(*)[STORE_ID_BYTES])blobs,
                                         .blob_count = STORE_ENTRY_BLOBS_MAX + 1};
    const struct store_entry *refused[] = {&too_large, &too_many};
    for (int i = 0; i < 2; i++) {
        batch = test_batch(store);
        assert_int_equal(store_batch_cache(batch, key, refused[i]), STORE_LIMIT);
        assert_int_equal(store_commit_wait(store, batch), STORE_LIMIT);
    }
    batch = test_batch(store);
    test_key(2, key);
    store_batch_cache_remove(batch, key);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_false(cache_has(store, 2, 300));
    assert_int_equal(stats_of(store).entries, 2);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static void clearing_takes_all_entries_in_steps(void **state)
{
    struct store *store = test_open(*state, NULL);
    const uint64_t all = STORE_SWEEP_ROWS + 10;
    for (uint64_t done = 0; done < all;) {
        struct store_batch *batch = test_batch(store);
        for (int i = 0; i < 1000 && done < all; i++)
            cache_put(batch, done++, 20);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_batch_cache_clear(batch), STORE_OK);
    assert_int_equal(store_commit_wait(store, batch), STORE_MORE);
    assert_int_equal(stats_of(store).entries, 10);
    for (int again = 0; again < 2; again++) { /* the second time there is nothing to clear */
        batch = test_batch(store);
        assert_int_equal(store_batch_cache_clear(batch), STORE_OK);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        assert_int_equal(stats_of(store).entries, 0);
    }
    store_close(store);
}

static void an_entry_whose_blob_is_gone_is_a_miss(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t key[1][STORE_ID_BYTES], ids[2][STORE_ID_BYTES];
    static struct lookup lookup;
    test_key(1, key[0]);
    struct store_batch *batch = test_batch(store);
    store_batch_blob(batch, "out0", 4, ids[0]);
    store_batch_blob(batch, "out1", 4, ids[1]);
    const struct store_entry entry = {
        .bytes = "meta", .count = 4, .blobs = (const uint8_t(*)[STORE_ID_BYTES])ids, .blob_count = 2};
    store_batch_cache(batch, key[0], &entry);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_int_equal(store_cache_get_many(store, (const uint8_t(*)[STORE_ID_BYTES])key, 1, on_entry, &lookup),
                     STORE_OK);
    assert_int_equal(lookup.found, 1);
    assert_memory_equal(lookup.blob, ids[0], STORE_ID_BYTES);
    batch = test_batch(store);
    store_batch_blob_remove(batch, ids[1]);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_int_equal(store_cache_get_many(store, (const uint8_t(*)[STORE_ID_BYTES])key, 1, on_entry, &lookup),
                     STORE_OK);
    assert_int_equal(lookup.found, 1);
    assert_int_equal(store_commit_wait(store, test_batch(store)), STORE_OK);
    const struct store_stats stats = stats_of(store);
    assert_int_equal(stats.entries, 0);
    assert_int_equal(stats.cache_hits, 1);
    assert_int_equal(stats.cache_misses, 1);
    store_close(store);
}

static void a_rotten_entry_is_a_miss_and_is_dropped(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct store_batch *batch = test_batch(store);
    cache_put(batch, 1, 5000);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    store_close(store);
    char path[600];
    snprintf(path, sizeof path, "%s/blobs/data.mdb", (char *)*state);
    const int fd = open(path, O_RDWR);
    struct stat file;
    uint8_t value[64];
    test_fill(value, sizeof value, 1);
    assert_int_equal(fstat(fd, &file), 0);
    uint8_t *map = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *found = memmem(map, (size_t)file.st_size, value, sizeof value);
    assert_non_null(found);
    found[100] ^= 32;
    munmap(map, (size_t)file.st_size);
    close(fd);
    store = test_open(*state, NULL);
    unsigned findings = 0;
    assert_int_equal(store_check(store, test_quiet, &findings), STORE_CORRUPT);
    assert_false(cache_has(store, 1, 5000));
    assert_int_equal(store_commit_wait(store, test_batch(store)), STORE_OK);
    assert_int_equal(stats_of(store).corrupt, 1);
    assert_int_equal(stats_of(store).entries, 0);
    store_close(store);
}

static void the_budget_holds_and_what_is_used_stays_longer(void **state)
{
    struct store_options options = test_options();
    options.cache_budget_bytes = TEST_MIB;
    struct store *store = test_open(*state, &options);
    enum { ENTRIES = 6000, USED = 50, BYTES = 1000 };
    for (uint64_t i = 0; i < ENTRIES; i += 100) {
        struct store_batch *batch = test_batch(store);
        for (uint64_t j = i; j < i + 100; j++)
            cache_put(batch, j, BYTES);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        for (uint64_t j = 0; j < USED; j++)
            cache_has(store, j, BYTES);
    }
    const struct store_stats stats = settle(store, TEST_MIB);
    assert_true(stats.entry_bytes <= TEST_MIB);
    assert_true(stats.entry_bytes > TEST_MIB / 2);
    assert_true(stats.evictions >= ENTRIES - stats.entries);
    unsigned used = 0, unused = 0;
    for (uint64_t j = 0; j < USED; j++) {
        used += cache_has(store, j, BYTES);
        unused += cache_has(store, j + 1000, BYTES);
    }
    /* The writer evicts while the marks are set, so some of the used may go too where threads run slowly. */
    assert_true(used >= USED / 2);
    assert_true(used > unused + USED / 4);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static void pinned_blobs_stay_and_others_go(void **state)
{
    struct store_options options = test_options();
    options.cache_budget_bytes = 4 * TEST_MIB;
    struct store *store = test_open(*state, &options);
    enum { BLOBS = 200, BYTES = 100000 };
    uint8_t ids[BLOBS][STORE_ID_BYTES], owner[STORE_ID_BYTES] = {1}, *bytes = malloc(3 * TEST_MIB),
                                        large[STORE_ID_BYTES];
    for (unsigned i = 0; i < BLOBS; i++) {
        struct store_batch *batch = test_batch(store);
        test_fill(bytes, BYTES, i);
        store_batch_blob(batch, bytes, BYTES, ids[i]);
        if (i < 20)
            store_batch_pin(batch, ids[i], owner);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    struct store_upload *upload;
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, 3 * TEST_MIB), STORE_OK);
    assert_int_equal(store_upload_finish(upload, NULL, batch, large), STORE_OK);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    struct store_stats stats = settle(store, 4 * TEST_MIB);
    assert_true(stats.blob_bytes <= 4 * TEST_MIB);
    struct store_blob_info info;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(store_blob_stat(store, ids[i], &info), STORE_OK);
    /* All pinned and over the budget: the store goes on working and gives up looking. */
    batch = test_batch(store);
    for (unsigned i = 0; i < 100; i++) {
        test_fill(bytes, BYTES, 1000 + i);
        store_batch_blob(batch, bytes, BYTES, ids[0]);
        store_batch_pin(batch, ids[0], owner);
    }
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    for (int i = 0; i < 50; i++)
        assert_int_equal(test_put(store, STORE_META, "k", &i, sizeof i), STORE_OK);
    stats = stats_of(store);
    assert_true(stats.blob_bytes >= 100 * BYTES);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    free(bytes);
    store_close(store);
}

static void a_filling_map_evicts_then_refuses_the_cache_only(void **state)
{
    struct store_options options = test_options();
    options.blobs_map_bytes = 8 * TEST_MIB;
    struct store *store = test_open(*state, &options);
    static uint8_t bytes[TEST_MIB];
    for (uint64_t i = 0; i < 3000; i += 20) {
        struct store_batch *batch = test_batch(store);
        for (uint64_t j = i; j < i + 20; j++)
            cache_put(batch, j, 8000);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    struct store_stats stats = stats_of(store);
    assert_true(stats.evictions > 1000);
    assert_true(stats.blobs_used_bytes * 100 <= stats.blobs_map_bytes * 85);
    /* Pinned blobs may fill the map up to the reserve; then cache puts are left out, and blobs are told. */
    uint8_t id[STORE_ID_BYTES], owner[STORE_ID_BYTES] = {1};
    enum store_error error = STORE_OK;
    for (uint64_t i = 0; i < 40 && error == STORE_OK; i++) {
        struct store_batch *batch = test_batch(store);
        test_fill(bytes, 400000, 5000 + i);
        store_batch_blob(batch, bytes, 400000, id);
        store_batch_pin(batch, id, owner);
        error = store_commit_wait(store, batch);
    }
    assert_int_equal(error, STORE_FULL);
    struct store_batch *batch = test_batch(store);
    cache_put(batch, 9999, 10);
    store_batch_put(batch, STORE_JOBS, "job", 3, "row", 3);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    stats = stats_of(store);
    assert_true(stats.cache_refused > 0);
    assert_false(cache_has(store, 9999, 10));
    /* Releasing the pins lets it breathe again. */
    batch = test_batch(store);
    store_batch_unpin_all(batch, owner);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    bool cached = false;
    for (int i = 0; i < 400 && !cached; i++) {
        const struct timespec pause = {.tv_nsec = 10000000};
        nanosleep(&pause, NULL);
        batch = test_batch(store);
        cache_put(batch, 9999, 10);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        cached = cache_has(store, 9999, 10);
    }
    assert_true(cached);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static void ten_thousand_keys_are_looked_up_at_once(void **state)
{
    struct store *store = test_open(*state, NULL);
    enum { KEYS = 10000 };
    for (uint64_t i = 0; i < KEYS; i += 1000) {
        struct store_batch *batch = test_batch(store);
        for (uint64_t j = i; j < i + 1000; j++)
            if (j % 10 != 0)
                cache_put(batch, j, 200);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    uint8_t(*keys)[STORE_ID_BYTES] = malloc(KEYS * STORE_ID_BYTES);
    static struct lookup lookup;
    for (uint64_t i = 0; i < KEYS; i++)
        test_key(i, keys[i]);
    assert_int_equal(
        store_cache_get_many(store, (const uint8_t(*)[STORE_ID_BYTES])keys, KEYS, on_entry, &lookup),
        STORE_OK);
    assert_int_equal(lookup.found, KEYS / 10 * 9);
    assert_int_equal(lookup.last, KEYS - 1);
    free(keys);
    store_close(store);
}

/* ---- Pointers
 * ------------------------------------------------------------------------------------------------------ */

static void pointer_put(struct store *store, uint64_t key, uint8_t node, int64_t wall_ms)
{
    struct store_batch *batch = test_batch(store);
    uint8_t name[STORE_ID_BYTES];
    test_key(key, name);
    const struct store_holder holder = {.node = {node}, .wall_ms = wall_ms};
    store_batch_pointer(batch, name, &holder);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
}

/* The holders of a key, newest first, as text. */
static const char *pointer_text(struct store *store, uint64_t key)
{
    static char text[200];
    static struct lookup lookup;
    uint8_t keys[1][STORE_ID_BYTES];
    lookup.found = 0;
    text[0] = '\0';
    test_key(key, keys[0]);
    assert_int_equal(
        store_pointer_get_many(store, (const uint8_t(*)[STORE_ID_BYTES])keys, 1, on_holders, &lookup),
        STORE_OK);
    for (size_t i = 0; lookup.found > 0 && i < lookup.bytes; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d@%lld ", lookup.holders[i].node[0],
                 (long long)lookup.holders[i].wall_ms);
    return text;
}

static void holders_are_kept_newest_first_and_four_at_most(void **state)
{
    struct store *store = test_open(*state, NULL);
    const struct {
        uint8_t node;
        int64_t wall_ms;
        const char *expected;
    } steps[] = {
        {1, 100, "1@100 "},
        {2, 50, "1@100 2@50 "},
        {3, 150, "3@150 1@100 2@50 "},
        {2, 200, "2@200 3@150 1@100 "},
        {2, 10, "2@200 3@150 1@100 "}, /* older news of the same holder */
        {4, 120, "2@200 3@150 4@120 1@100 "},
        {5, 300, "5@300 2@200 3@150 4@120 "},
        {6, 1, "5@300 2@200 3@150 4@120 "}, /* older than all four */
        {7, -5, "5@300 2@200 3@150 4@120 "},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        pointer_put(store, 1, steps[i].node, steps[i].wall_ms);
        assert_string_equal(pointer_text(store, 1), steps[i].expected);
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    }
    struct store_batch *batch = test_batch(store);
    uint8_t key[STORE_ID_BYTES], node[STORE_ID_BYTES] = {2};
    test_key(1, key);
    store_batch_pointer_remove(batch, key, node);
    store_batch_pointer_remove(batch, key, node);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_string_equal(pointer_text(store, 1), "5@300 3@150 4@120 ");
    store_close(store);
}

static void a_node_is_forgotten_everywhere(void **state)
{
    struct store *store = test_open(*state, NULL);
    const uint64_t count = STORE_SWEEP_ROWS + 3;
    for (uint64_t from = 0; from < count; from += 1000) {
        struct store_batch *batch = test_batch(store);
        for (uint64_t i = from; i < from + 1000 && i < count; i++) {
            uint8_t key[STORE_ID_BYTES];
            const struct store_holder bad = {.node = {66}, .wall_ms = 5}, good = {.node = {1}, .wall_ms = 4};
            test_key(i, key);
            store_batch_pointer(batch, key, &bad);
            if (i == 7)
                store_batch_pointer(batch, key, &good);
        }
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    assert_int_equal(stats_of(store).pointers, count);
    const enum store_error expected[] = {STORE_MORE, STORE_OK, STORE_OK};
    for (int i = 0; i < 3; i++) {
        struct store_batch *batch = test_batch(store);
        const uint8_t node[STORE_ID_BYTES] = {66};
        store_batch_pointer_remove_node(batch, node);
        assert_int_equal(store_commit_wait(store, batch), expected[i]);
    }
    assert_int_equal(stats_of(store).pointers, 1);
    assert_string_equal(pointer_text(store, 7), "1@4 ");
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static void pointers_have_a_budget_of_their_own(void **state)
{
    struct store_options options = test_options();
    options.pointer_budget_bytes = 100000;
    struct store *store = test_open(*state, &options);
    struct store_batch *batch = test_batch(store);
    cache_put(batch, 1, 10000);
    for (uint64_t i = 0; i < 4000; i++) {
        uint8_t key[STORE_ID_BYTES];
        const struct store_holder holder = {.node = {1}, .wall_ms = 1};
        test_key(i, key);
        store_batch_pointer(batch, key, &holder);
    }
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    struct store_stats stats = stats_of(store);
    for (int i = 0; i < 2000 && stats.pointer_bytes > 100000; i++) {
        const struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
        stats = stats_of(store);
    }
    assert_true(stats.pointer_bytes <= 100000);
    assert_true(stats.pointers > 300);
    assert_true(cache_has(store, 1, 10000));
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

/* ---- Threads
 * ------------------------------------------------------------------------------------------------------- */

struct reader {
    struct store *store;
    _Atomic bool *stop;
};

static void on_any_entry(void *context, size_t index, const struct store_entry *entry)
{
    (void)index;
    *(size_t *)context += entry->count;
}

static void *read_all_the_time(void *context)
{
    struct reader *reader = context;
    uint8_t keys[64][STORE_ID_BYTES], buffer[5000];
    size_t bytes, sum = 0;
    for (uint64_t i = 0; i < 64; i++)
        test_key(i, keys[i]);
    while (!*reader->stop) {
        store_cache_get_many(reader->store, (const uint8_t(*)[STORE_ID_BYTES])keys, 64, on_any_entry, &sum);
        store_blob_get(reader->store, keys[0], buffer, sizeof buffer, &bytes);
        uint8_t id[1][STORE_ID_BYTES], chunk[1][STORE_ID_BYTES];
        test_fill(buffer, 3000, 1);
        test_chunk(buffer, 3000, chunk[0]);
        test_root(3000, (const uint8_t(*)[STORE_ID_BYTES])chunk, 1, id[0]);
        store_blob_get(reader->store, id[0], buffer, sizeof buffer, &bytes);
    }
    return NULL;
}

static void readers_and_eviction_do_not_disturb_each_other(void **state)
{
    struct store_options options = test_options();
    options.cache_budget_bytes = 200000;
    struct store *store = test_open(*state, &options);
    _Atomic bool stop = false;
    struct reader reader = {.store = store, .stop = &stop};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &reader), 0);
    uint8_t bytes[3000], id[STORE_ID_BYTES];
    for (uint64_t i = 0; i < 400; i++) {
        struct store_batch *batch = test_batch(store);
        cache_put(batch, i % 64, 500 + i);
        test_fill(bytes, sizeof bytes, i % 200);
        store_batch_blob(batch, bytes, sizeof bytes, id);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    stop = true;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    const struct store_stats stats = settle(store, 200000);
    assert_true(stats.evictions > 0);
    assert_int_equal(stats.corrupt, 0);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(entries_come_back_and_limits_hold),
        TEST(clearing_takes_all_entries_in_steps),
        TEST(an_entry_whose_blob_is_gone_is_a_miss),
        TEST(a_rotten_entry_is_a_miss_and_is_dropped),
        TEST(the_budget_holds_and_what_is_used_stays_longer),
        TEST(pinned_blobs_stay_and_others_go),
        TEST(a_filling_map_evicts_then_refuses_the_cache_only),
        TEST(ten_thousand_keys_are_looked_up_at_once),
        TEST(holders_are_kept_newest_first_and_four_at_most),
        TEST(a_node_is_forgotten_everywhere),
        TEST(pointers_have_a_budget_of_their_own),
        TEST(readers_and_eviction_do_not_disturb_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
