/*
 * The parts of the node that threads share, used from several at once with no socket between them: the store and its
 * writer, the background thread and the loop, the admission table. Under TSan a race is a failure; in any build the
 * results must add up.
 */
#include "crypto/digest.h"
#include "crypto/key.h"
#include "node/admission.h"
#include "node/background.h"
#include "store/store.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define THREADS 4
#define ROUNDS 50

static void chunk_digest(const void *bytes, size_t count, uint8_t digest[STORE_ID_BYTES])
{
    const struct digest leaf = digest_of("weir chunk 1", bytes, count);
    memcpy(digest, leaf.bytes, STORE_ID_BYTES);
}

static void root_digest(uint64_t bytes, const uint8_t (*chunks)[STORE_ID_BYTES], size_t count,
                        uint8_t id[STORE_ID_BYTES])
{
    struct digest_stream stream;
    digest_init(&stream, "weir blob 1");
    digest_update(&stream, chunks, count * STORE_ID_BYTES);
    digest_update_u64(&stream, bytes);
    const struct digest root = digest_final(&stream);
    memcpy(id, root.bytes, STORE_ID_BYTES);
}

static void sum_digest(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                       uint8_t digest[STORE_ID_BYTES])
{
    struct digest_stream stream;
    digest_init(&stream, "test sum 1");
    digest_update_u64(&stream, key_bytes);
    digest_update(&stream, key, key_bytes);
    digest_update(&stream, value, value_bytes);
    const struct digest sum = digest_final(&stream);
    memcpy(digest, sum.bytes, STORE_ID_BYTES);
}

/* ---- The store: writers and readers on the same rows, blobs and cache entries. */

struct user {
    struct store *store;
    uint32_t number;
    uint32_t committed;
};

static void *use_store(void *context)
{
    struct user *const user = context;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct store_batch *batch = NULL;
        if (store_batch_open(user->store, &batch) != STORE_OK) {
            return NULL;
        }
        uint8_t id[STORE_ID_BYTES];
        uint8_t value[2000];
        memset(value, (int)round, sizeof value);
        const uint32_t key = round % 7;
        store_batch_put(batch, STORE_JOBS, &key, sizeof key, value, sizeof value);
        store_batch_blob(batch, value, sizeof value, id);
        store_batch_cache(batch, id, &(struct store_entry){.bytes = value, .count = 100});
        if (store_commit_wait(user->store, batch) == STORE_OK) {
            user->committed++;
        }
        uint8_t read[2000];
        size_t bytes = 0;
        if (store_get(user->store, STORE_JOBS, &key, sizeof key, read, sizeof read, &bytes) != STORE_OK ||
            bytes != sizeof read || memcmp(read, read + 1, sizeof read - 1) != 0) {
            return NULL; /* a row of two writers' bytes */
        }
    }
    return NULL;
}

static void the_store_serves_several_threads_at_once(void **state)
{
    (void)state;
    char folder[] = "/tmp/weir-threads-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    snprintf(path, sizeof path, "%s/store", folder);
    const struct store_options options = {
        .digest = {.chunk = chunk_digest, .root = root_digest, .sum = sum_digest},
        .storage_id = {1},
        .state_map_bytes = 64u << 20,
        .blobs_map_bytes = 64u << 20,
    };
    struct store *store = NULL;
    assert_int_equal(store_open(path, &options, NULL, &store), STORE_OK);
    struct user users[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        users[i] = (struct user){.store = store, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, use_store, &users[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(users[i].committed, ROUNDS);
    }
    store_close(store);
    char remove_folder[96];
    snprintf(remove_folder, sizeof remove_folder, "rm -rf %s", folder);
    assert_int_equal(system(remove_folder), 0);
}

/* ---- The background thread: its tasks' results come back to the loop, in order. */

struct sum_task {
    struct background_task task; /* first: the task is its address */
    struct sum_line *line;
    uint32_t number;
    uint64_t square;
};

struct sum_line {
    struct loop *loop;
    uint32_t done;
    uint64_t sum;
};

static void sum_run(struct background_task *task)
{
    struct sum_task *const sum = (struct sum_task *)task;
    sum->square = (uint64_t)sum->number * sum->number;
}

static void sum_done(struct background_task *task)
{
    struct sum_task *const sum = (struct sum_task *)task;
    assert_int_equal(sum->number, sum->line->done);
    sum->line->sum += sum->square;
    if (++sum->line->done == 1000) {
        loop_stop(sum->line->loop);
    }
    free(sum);
}

static void background_tasks_come_back_in_order(void **state)
{
    (void)state;
    struct sum_line line = {0};
    struct background *background = NULL;
    assert_true(loop_open(&line.loop));
    assert_true(background_open(&background, line.loop));
    for (uint32_t i = 0; i < 1000; i++) {
        struct sum_task *const task = calloc(1, sizeof *task);
        assert_non_null(task);
        *task = (struct sum_task){.task = {.run = sum_run, .done = sum_done}, .line = &line, .number = i};
        background_add(background, &task->task);
    }
    loop_run(line.loop);
    assert_int_equal(line.sum, 332833500); /* the squares of 0 to 999 */
    background_close(background);
    loop_close(line.loop);
}

/* ---- Admission: the loop admits and bars while the ZAP thread and the bulk server ask. */

struct asker {
    struct admission *admission;
    uint64_t asked;
    uint64_t wrong;
};

static struct curve_public key_of(uint32_t number)
{
    struct curve_public key = {{0}};
    memcpy(key.bytes, &number, sizeof number);
    return key;
}

static void *ask(void *context)
{
    struct asker *const asker = context;
    for (uint32_t i = 0; i < 5000; i++) {
        const struct curve_public known = key_of(1 + i % 50);
        const struct curve_public stranger = key_of(1000 + i);
        struct mesh_id id;
        const enum admission_verdict verdict = admission_check(asker->admission, &known, 0, &id);
        asker->asked += 2;
        asker->wrong += verdict == ADMISSION_EXPIRED;
        asker->wrong += admission_check(asker->admission, &stranger, 0, &id) != ADMISSION_UNKNOWN;
    }
    return NULL;
}

static void admission_is_asked_while_it_changes(void **state)
{
    (void)state;
    struct admission *admission = NULL;
    assert_true(admission_open(&admission));
    struct asker askers[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        askers[i] = (struct asker){.admission = admission};
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
    }
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t i = 1; i <= 50; i++) {
            const struct curve_public key = key_of(i);
            struct mesh_id id = {{0}};
            memcpy(&id, &i, sizeof i);
            assert_true(admission_admit(admission, &key, &id, 1000));
            if (i % 5 == 0) {
                admission_penalise(admission, &key, 1);
            }
            if (i % 7 == 0) {
                admission_forget(admission, &id, NULL);
            }
            if (i % 11 == 0) {
                admission_bar(admission, &id);
            }
        }
    }
    uint64_t asked = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(askers[i].wrong, 0);
        asked += askers[i].asked;
    }
    struct admission_counters counters;
    admission_counters(admission, &counters);
    uint64_t counted = 0;
    for (size_t i = 0; i < ADMISSION_VERDICT_COUNT; i++) {
        counted += counters.verdict[i];
    }
    assert_int_equal(counted, asked);
    admission_close(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_store_serves_several_threads_at_once),
        cmocka_unit_test(background_tasks_come_back_in_order),
        cmocka_unit_test(admission_is_asked_while_it_changes),
    };
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
