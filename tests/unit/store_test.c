/* Opening, tables, batches, the queue and groups. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- Open
 * -------------------------------------------------------------------------------------------------- */

static void a_new_store_takes_the_storage_id_and_keeps_it(void **state)
{
    struct store_options options = test_options();
    uint8_t id[STORE_STORAGE_ID_BYTES];
    struct store *store = test_open(*state, &options);
    assert_true(store_created(store));
    store_close(store);
    memset(options.storage_id, 'x', sizeof options.storage_id);
    store = test_open(*state, &options);
    assert_false(store_created(store));
    store_storage_id(store, id);
    assert_memory_equal(id, "0123456789abcde", sizeof id);
    store_close(store);
}

static void folders_are_private(void **state)
{
    char path[400];
    snprintf(path, sizeof path, "%s/new", (char *)*state);
    store_close(test_open(path, NULL));
    struct stat folder;
    assert_int_equal(stat(path, &folder), 0);
    assert_int_equal(folder.st_mode & 0777, 0700);
    chmod(path, 0750);
    struct store_failure failure;
    struct store *store;
    const struct store_options options = test_options();
    assert_int_equal(store_open(path, &options, &failure, &store), STORE_DENIED);
    assert_non_null(strstr(failure.text, "chmod 700"));
    assert_null(store);
}

static void a_missing_parent_is_a_clear_error(void **state)
{
    char path[400];
    snprintf(path, sizeof path, "%s/no/such", (char *)*state);
    struct store_failure failure;
    struct store *store;
    const struct store_options options = test_options();
    assert_int_equal(store_open(path, &options, &failure, &store), STORE_NONE);
    assert_non_null(strstr(failure.text, path));
    assert_int_equal(store_open("", &options, NULL, &store), STORE_NONE);
}

static void two_processes_on_one_folder_are_refused(void **state)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        struct store *store = test_open(*state, NULL);
        (void)!write(ready[1], "1", 1);
        for (;;)
            pause();
        store_close(store);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct store_failure failure;
    struct store *store;
    const struct store_options options = test_options();
    assert_int_equal(store_open(*state, &options, &failure, &store), STORE_IN_USE);
    char expected[64];
    snprintf(expected, sizeof expected, "in use by process %d", (int)child);
    assert_non_null(strstr(failure.text, expected));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    store_close(test_open(*state, NULL)); /* the lock died with its process */
}

static void blobs_of_another_store_are_refused(void **state)
{
    char first[400], second[400], from[500], to[500];
    snprintf(first, sizeof first, "%s/first", (char *)*state);
    snprintf(second, sizeof second, "%s/second", (char *)*state);
    struct store_options options = test_options();
    store_close(test_open(first, &options));
    options.storage_id[0] = 'x';
    store_close(test_open(second, &options));
    snprintf(from, sizeof from, "%s/blobs/data.mdb", first);
    snprintf(to, sizeof to, "%s/blobs/data.mdb", second);
    assert_int_equal(rename(from, to), 0);
    struct store_failure failure;
    struct store *store;
    assert_int_equal(store_open(second, &options, &failure, &store), STORE_SCHEMA);
    assert_non_null(strstr(failure.text, "another store"));
    /* Blobs that are gone altogether are a loss, not a contradiction. */
    assert_int_equal(unlink(to), 0);
    store_close(test_open(second, &options));
}

static void garbage_instead_of_a_database_is_a_clear_error(void **state)
{
    char path[500];
    store_close(test_open(*state, NULL));
    snprintf(path, sizeof path, "%s/state/data.mdb", (char *)*state);
    const int fd = open(path, O_WRONLY | O_TRUNC);
    uint8_t garbage[8192];
    test_fill(garbage, sizeof garbage, 1);
    assert_int_equal(write(fd, garbage, sizeof garbage), sizeof garbage);
    close(fd);
    struct store_failure failure;
    struct store *store;
    const struct store_options options = test_options();
    assert_int_equal(store_open(*state, &options, &failure, &store), STORE_SCHEMA);
    assert_non_null(strstr(failure.text, "state"));
}

static void every_error_has_a_name_a_text_and_a_class(void **state)
{
    (void)state;
    for (int error = 0; error < STORE_ERRORS; error++) {
        assert_true(strlen(store_error_name((enum store_error)error)) > 0);
        assert_true(strlen(store_error_text((enum store_error)error)) > 0);
        assert_true((error == 0) == (store_error_class((enum store_error)error) == STORE_CLASS_NONE));
    }
}

/* ---- Tables
 * -------------------------------------------------------------------------------------------------- */

static void rows_are_read_back_also_after_reopening(void **state)
{
    struct store *store = test_open(*state, NULL);
    for (int table = 0; table < STORE_TABLES; table++)
        assert_int_equal(test_put(store, (enum store_table)table, "key", &table, sizeof table), STORE_OK);
    for (int round = 0; round < 2; round++) {
        for (int table = 0; table < STORE_TABLES; table++) {
            int value;
            size_t bytes;
            uint64_t rows;
            assert_int_equal(
                store_get(store, (enum store_table)table, "key", 3, &value, sizeof value, &bytes), STORE_OK);
            assert_int_equal(value, table);
            assert_int_equal(store_count(store, (enum store_table)table, &rows), STORE_OK);
            assert_int_equal(rows, 1);
        }
        store_close(store);
        store = test_open(*state, NULL);
    }
    store_close(store);
}

static void a_small_buffer_gets_the_size_and_an_absent_row_none(void **state)
{
    struct store *store = test_open(*state, NULL);
    char buffer[4];
    size_t bytes;
    assert_int_equal(test_put(store, STORE_META, "key", "value", 5), STORE_OK);
    assert_int_equal(store_get(store, STORE_META, "key", 3, buffer, 4, &bytes), STORE_SMALL);
    assert_int_equal(bytes, 5);
    assert_int_equal(store_get(store, STORE_META, "key", 3, NULL, 0, &bytes), STORE_SMALL);
    assert_int_equal(store_get(store, STORE_META, "kez", 3, buffer, 4, &bytes), STORE_NONE);
    assert_int_equal(test_put(store, STORE_META, "empty", NULL, 0), STORE_OK);
    assert_int_equal(store_get(store, STORE_META, "empty", 5, NULL, 0, &bytes), STORE_OK);
    assert_int_equal(bytes, 0);
    store_close(store);
}

static void limits_hold_and_limit_plus_one_is_refused(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t *big = calloc(1, STORE_VALUE_BYTES_MAX + 1);
    const struct {
        size_t key_bytes, value_bytes;
        enum store_error error;
    } cases[] = {
        {0, 1, STORE_LIMIT},
        {1, 1, STORE_OK},
        {STORE_KEY_BYTES_MAX, 1, STORE_OK},
        {STORE_KEY_BYTES_MAX + 1, 1, STORE_LIMIT},
        {1, STORE_VALUE_BYTES_MAX, STORE_OK},
        {1, STORE_VALUE_BYTES_MAX + 1, STORE_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct store_batch *batch = test_batch(store);
        const enum store_error error =
            store_batch_put(batch, STORE_META, big, cases[i].key_bytes, big, cases[i].value_bytes);
        assert_int_equal(error, cases[i].error);
        assert_int_equal(store_commit_wait(store, batch), cases[i].error);
    }
    /* The number of operations and the bytes of a batch. */
    struct store_batch *batch = test_batch(store);
    for (int i = 0; i < STORE_BATCH_OPERATIONS_MAX; i++)
        assert_int_equal(store_batch_put(batch, STORE_META, &i, sizeof i, NULL, 0), STORE_OK);
    assert_int_equal(store_batch_operations(batch), STORE_BATCH_OPERATIONS_MAX);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    batch = test_batch(store);
    for (int i = 0; i < STORE_BATCH_OPERATIONS_MAX; i++)
        store_batch_delete(batch, STORE_META, &i, sizeof i);
    assert_int_equal(store_batch_delete(batch, STORE_META, "x", 1), STORE_LIMIT);
    assert_int_equal(store_commit(store, batch, 1), STORE_LIMIT); /* sticks, and the batch is still ours */
    store_batch_close(batch);
    batch = test_batch(store);
    enum store_error error = STORE_OK;
    size_t puts = 0;
    for (; error == STORE_OK; puts++)
        error = store_batch_put(batch, STORE_META, "k", 1, big, STORE_VALUE_BYTES_MAX);
    assert_int_equal(error, STORE_LIMIT);
    assert_int_equal(puts, STORE_BATCH_BYTES_MAX / STORE_VALUE_BYTES_MAX);
    store_batch_close(batch);
    free(big);
    store_close(store);
}

static void the_first_writer_wins_and_the_loser_writes_nothing(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct store_batch *batch = test_batch(store);
    store_batch_put_absent(batch, STORE_SHARDS, "s", 1, "first", 5);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    batch = test_batch(store);
    store_batch_put(batch, STORE_JOBS, "other", 5, "x", 1);
    store_batch_put_absent(batch, STORE_SHARDS, "s", 1, "second", 6);
    assert_int_equal(store_commit_wait(store, batch), STORE_EXISTS);
    /* Twice in one batch is the same contradiction. */
    batch = test_batch(store);
    store_batch_put_absent(batch, STORE_SHARDS, "t", 1, "a", 1);
    store_batch_put_absent(batch, STORE_SHARDS, "t", 1, "b", 1);
    assert_int_equal(store_commit_wait(store, batch), STORE_EXISTS);
    char buffer[8];
    size_t bytes;
    assert_int_equal(store_get(store, STORE_SHARDS, "s", 1, buffer, sizeof buffer, &bytes), STORE_OK);
    assert_memory_equal(buffer, "first", 5);
    assert_int_equal(store_get(store, STORE_JOBS, "other", 5, buffer, sizeof buffer, &bytes), STORE_NONE);
    assert_int_equal(store_get(store, STORE_SHARDS, "t", 1, buffer, sizeof buffer, &bytes), STORE_NONE);
    store_close(store);
}

struct walked {
    char keys[64][8];
    size_t count, stop_at;
};

static bool walk_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct walked *walked = context;
    (void)value, (void)value_bytes;
    memcpy(walked->keys[walked->count], key, key_bytes);
    walked->keys[walked->count++][key_bytes] = '\0';
    return walked->count != walked->stop_at;
}

static void walks_keep_order_prefix_and_place(void **state)
{
    struct store *store = test_open(*state, NULL);
    static const char *const keys[] = {"a", "ab", "abc", "b", "ba", "bb", "c"};
    for (size_t i = sizeof keys / sizeof *keys; i-- > 0;)
        assert_int_equal(test_put(store, STORE_JOBS, keys[i], "", 0), STORE_OK);
    const struct {
        const char *prefix, *after, *expected;
        size_t stop_at;
    } cases[] = {
        {"", "", "a ab abc b ba bb c ", 0},
        {"b", "", "b ba bb ", 0},
        {"b", "ba", "bb ", 0},
        {"b", "bb", "", 0},
        {"b", "c", "", 0},
        {"b", "a", "b ba bb ", 0},
        {"", "abc", "b ba bb c ", 0},
        {"", "", "a ab ", 2},
        {"zz", "", "", 0},
        {"", "aa", "ab abc b ba bb c ", 0},
        {"b", "b", "ba bb ", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct walked walked = {.stop_at = cases[i].stop_at};
        const struct store_range range = {.prefix = cases[i].prefix,
                                          .prefix_bytes = strlen(cases[i].prefix),
                                          .after = cases[i].after,
                                          .after_bytes = strlen(cases[i].after)};
        assert_int_equal(store_each(store, STORE_JOBS, &range, walk_row, &walked), STORE_OK);
        char got[128] = "";
        for (size_t k = 0; k < walked.count; k++)
            strcat(strcat(got, walked.keys[k]), " ");
        assert_string_equal(got, cases[i].expected);
    }
    struct walked walked = {0};
    assert_int_equal(store_each(store, STORE_RECORDS, NULL, walk_row, &walked), STORE_OK);
    assert_int_equal(walked.count, 0);
    store_close(store);
}

static void a_long_range_is_deleted_in_parts(void **state)
{
    struct store *store = test_open(*state, NULL);
    const int rows = STORE_SWEEP_ROWS + 10;
    for (int from = 0; from < rows; from += 1000) {
        struct store_batch *batch = test_batch(store);
        for (int i = from; i < from + 1000 && i < rows; i++) {
            char key[16];
            store_batch_put(batch, STORE_JOURNAL, key, (size_t)snprintf(key, sizeof key, "j%08d", i), "v", 1);
        }
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    assert_int_equal(test_put(store, STORE_JOURNAL, "k", "v", 1), STORE_OK);
    uint64_t left;
    const enum store_error expected[] = {STORE_MORE, STORE_OK, STORE_OK};
    for (int i = 0; i < 3; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_delete_prefix(batch, STORE_JOURNAL, "j", 1);
        assert_int_equal(store_commit_wait(store, batch), expected[i]);
    }
    assert_int_equal(store_count(store, STORE_JOURNAL, &left), STORE_OK);
    assert_int_equal(left, 1);
    /* The last row of a table. */
    struct store_batch *batch = test_batch(store);
    store_batch_delete_prefix(batch, STORE_JOURNAL, "k", 1);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    assert_int_equal(store_count(store, STORE_JOURNAL, &left), STORE_OK);
    assert_int_equal(left, 0);
    store_close(store);
}

/* ---- The queue and groups
 * -------------------------------------------------------------------------------------- */

static void completions_arrive_in_order_and_share_commits(void **state)
{
    struct store *store = test_open(*state, NULL);
    const uint64_t count = 4000;
    for (uint64_t i = 0; i < count; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_put(batch, STORE_JOURNAL, &i, sizeof i, &i, sizeof i);
        assert_int_equal(store_commit(store, batch, i), STORE_OK);
    }
    for (uint64_t i = 0; i < count; i++) {
        const struct store_completion completion = test_completion(store);
        assert_int_equal(completion.ticket, i);
        assert_int_equal(completion.error, STORE_OK);
    }
    struct store_completion completion;
    assert_false(store_next_completion(store, &completion));
    struct pollfd readable = {.fd = store_fd(store), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 0), 0);
    struct store_stats stats;
    store_stats(store, &stats);
    assert_int_equal(stats.batches, count);
    assert_int_equal(stats.queued, 0);
    assert_int_equal(stats.queued_bytes, 0);
    assert_true(stats.groups < count / 8);
    assert_true(stats.group_largest <= STORE_GROUP_OPERATIONS);
    store_close(store);
}

static void a_full_queue_says_busy_and_recovers(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct store_batch *batch = NULL;
    for (int i = 0; i < STORE_QUEUE_BATCHES_MAX; i++) {
        batch = test_batch(store);
        assert_int_equal(store_commit(store, batch, 1), STORE_OK);
    }
    batch = test_batch(store);
    assert_int_equal(store_commit(store, batch, 2), STORE_BUSY); /* nobody drained: all of them still count */
    test_completion(store);
    assert_int_equal(store_commit(store, batch, 2), STORE_OK);
    store_close(store);
}

static void a_full_queue_of_bytes_says_busy(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t *big = calloc(1, STORE_VALUE_BYTES_MAX);
    enum {
        BATCHES = 12,
        PUTS = 8
    }; /* 96 MiB, made beforehand: queueing them takes microseconds, writing seconds */
    struct store_batch *batches[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        batches[i] = test_batch(store);
        for (int j = 0; j < PUTS; j++)
            assert_int_equal(
                store_batch_put(batches[i], STORE_META, "same key", 8, big, STORE_VALUE_BYTES_MAX), STORE_OK);
    }
    int accepted = 0;
    while (accepted < BATCHES && store_commit(store, batches[accepted], 3) == STORE_OK)
        accepted++;
    assert_in_range(accepted, 6, BATCHES - 1);
    for (int i = accepted; i < BATCHES; i++)
        assert_int_equal(store_commit_wait(store, batches[i]), STORE_OK); /* waits for its turn */
    for (int i = 0; i < accepted; i++)
        assert_int_equal(test_completion(store).error, STORE_OK);
    free(big);
    store_close(store);
}

struct thread_work {
    struct store *store;
    int number;
    int rounds;
    unsigned errors;
};

static void *thread_writes_and_reads(void *context)
{
    struct thread_work *work = context;
    for (int i = 0; i < work->rounds; i++) {
        char key[32], value[32];
        size_t bytes;
        snprintf(key, sizeof key, "%d/%d", work->number, i);
        struct store_batch *batch;
        if (store_batch_open(work->store, &batch) != STORE_OK)
            return NULL;
        store_batch_put(batch, STORE_JOBS, key, strlen(key), key, strlen(key));
        work->errors += store_commit_wait(work->store, batch) != STORE_OK;
        work->errors +=
            store_get(work->store, STORE_JOBS, key, strlen(key), value, sizeof value, &bytes) != STORE_OK ||
            bytes != strlen(key) || memcmp(key, value, bytes) != 0;
        struct store_stats stats;
        store_stats(work->store, &stats);
    }
    return NULL;
}

static void many_threads_share_commits(void **state)
{
    struct store *store = test_open(*state, NULL);
    enum { THREADS = 16, ROUNDS = 100 };
    pthread_t threads[THREADS];
    struct thread_work work[THREADS];
    for (int i = 0; i < THREADS; i++) {
        work[i] = (struct thread_work){.store = store, .number = i, .rounds = ROUNDS};
        assert_int_equal(pthread_create(&threads[i], NULL, thread_writes_and_reads, &work[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(work[i].errors, 0);
    }
    struct store_stats stats;
    store_stats(store, &stats);
    assert_int_equal(stats.batches, THREADS * ROUNDS);
    assert_true(stats.groups <= stats.batches / 2);
    uint64_t rows;
    assert_int_equal(store_count(store, STORE_JOBS, &rows), STORE_OK);
    assert_int_equal(rows, THREADS * ROUNDS);
    store_close(store);
}

/* ---- Full
 * ------------------------------------------------------------------------------------------------------ */

/* Fills STORE_JOBS until the store refuses; returns how many rows were acknowledged. */
static uint64_t fill(struct store *store, const uint8_t *value, size_t value_bytes)
{
    for (uint64_t i = 0; i < 100000; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_put(batch, STORE_JOBS, &i, sizeof i, value, value_bytes);
        const enum store_error error = store_commit_wait(store, batch);
        if (error != STORE_OK) {
            assert_int_equal(error, STORE_FULL);
            return i;
        }
    }
    fail();
    return 0;
}

static void rows_stay(struct store *store, uint64_t count, const uint8_t *value, size_t value_bytes)
{
    uint8_t buffer[8192];
    for (uint64_t i = 0; i < count; i++) {
        size_t bytes;
        assert_int_equal(store_get(store, STORE_JOBS, &i, sizeof i, buffer, sizeof buffer, &bytes), STORE_OK);
        assert_int_equal(bytes, value_bytes);
        assert_memory_equal(buffer, value, value_bytes);
    }
}

static void a_full_map_is_told_to_the_submitter_and_deletes_help(void **state)
{
    struct store_options options = test_options();
    options.state_map_bytes = TEST_MIB;
    struct store *store = test_open(*state, &options);
    uint8_t value[1500];
    test_fill(value, sizeof value, 5);
    const uint64_t count = fill(store, value, sizeof value);
    assert_true(count > 100);
    rows_stay(store, count, value, sizeof value);
    assert_int_equal(store_health(store, NULL), STORE_OK);
    /* In one group, the batch that fits is written although another does not fit. */
    static uint8_t large[STORE_VALUE_BYTES_MAX];
    struct store_batch *fits = test_batch(store), *too_large = test_batch(store), *also = test_batch(store);
    uint64_t first = 0, second = 1;
    store_batch_delete(fits, STORE_JOBS, &first, sizeof first);
    store_batch_put(too_large, STORE_JOBS, "large", 5, large, sizeof large);
    store_batch_delete(also, STORE_JOBS, &second, sizeof second);
    assert_int_equal(store_commit(store, fits, 1), STORE_OK);
    assert_int_equal(store_commit(store, too_large, 2), STORE_OK);
    assert_int_equal(store_commit(store, also, 3), STORE_OK);
    assert_int_equal(test_completion(store).error, STORE_OK);
    assert_int_equal(test_completion(store).error, STORE_FULL);
    assert_int_equal(test_completion(store).error, STORE_OK);
    for (uint64_t i = 0; i < count; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_delete(batch, STORE_JOBS, &i, sizeof i);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    const uint64_t again = fill(store, value, sizeof value);
    assert_in_range(again, count - count / 10, count + count / 10);
    store_close(store);
    store = test_open(*state, &options);
    rows_stay(store, again, value, sizeof value);
    store_close(store);
}

static void a_full_disk_is_told_to_the_submitter(void **state)
{
    if (geteuid() != 0 || mount("weir-test", *state, "tmpfs", 0, "size=4m,mode=0700") != 0) {
        print_message("skipped: mounting a tmpfs needs root\n");
        skip();
    }
    struct store_options options = test_options();
    struct store *store = test_open(*state, &options);
    uint8_t value[4000];
    test_fill(value, sizeof value, 6);
    const uint64_t count = fill(store, value, sizeof value);
    assert_true(count > 100);
    assert_int_equal(store_health(store, NULL), STORE_OK);
    /* A node that starts on a full disk finds all it had. */
    store_close(store);
    store = test_open(*state, &options);
    rows_stay(store, count, value, sizeof value);
    /* An upload fails too, and leaves nothing behind. */
    struct store_upload *upload;
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    static uint8_t mebibyte[TEST_MIB];
    enum store_error error = STORE_OK;
    for (int i = 0; i < 5 && error == STORE_OK; i++)
        error = store_upload_append(upload, mebibyte, sizeof mebibyte);
    assert_int_equal(error, STORE_FULL);
    store_upload_close(upload);
    /* Pages freed inside the file serve again, without more disk. */
    const uint64_t gone = count / 2;
    enum store_error deleted = STORE_OK;
    for (uint64_t i = gone; i < count; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_delete(batch, STORE_JOBS, &i, sizeof i);
        if (store_commit_wait(store, batch) != STORE_OK)
            deleted = STORE_FULL;
    }
    store_close(store);
    /* With room on the disk all works as before. */
    assert_int_equal(mount("weir-test", *state, "tmpfs", MS_REMOUNT, "size=16m"), 0);
    store = test_open(*state, &options);
    rows_stay(store, gone, value, sizeof value);
    assert_int_equal(test_put(store, STORE_META, "after", "x", 1), STORE_OK);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
    assert_int_equal(umount(*state), 0);
    print_message("full disk: %llu rows acknowledged, deletes while full %s\n", (unsigned long long)count,
                  deleted == STORE_OK ? "worked" : "were refused");
}

/* Also after a failure in the middle. */
static int teardown_mounted(void **state)
{
    umount2(*state, MNT_DETACH);
    return test_teardown(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_store_takes_the_storage_id_and_keeps_it),
        TEST(folders_are_private),
        TEST(a_missing_parent_is_a_clear_error),
        TEST(two_processes_on_one_folder_are_refused),
        TEST(blobs_of_another_store_are_refused),
        TEST(garbage_instead_of_a_database_is_a_clear_error),
        TEST(every_error_has_a_name_a_text_and_a_class),
        TEST(rows_are_read_back_also_after_reopening),
        TEST(a_small_buffer_gets_the_size_and_an_absent_row_none),
        TEST(limits_hold_and_limit_plus_one_is_refused),
        TEST(the_first_writer_wins_and_the_loser_writes_nothing),
        TEST(walks_keep_order_prefix_and_place),
        TEST(a_long_range_is_deleted_in_parts),
        TEST(completions_arrive_in_order_and_share_commits),
        TEST(a_full_queue_says_busy_and_recovers),
        TEST(a_full_queue_of_bytes_says_busy),
        TEST(many_threads_share_commits),
        TEST(a_full_map_is_told_to_the_submitter_and_deletes_help),
        cmocka_unit_test_setup_teardown(a_full_disk_is_told_to_the_submitter, test_setup, teardown_mounted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
