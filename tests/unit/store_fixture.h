/* tests/unit/store_fixture.h - what the tests of store/ share: a digest that is quick and not cryptographic,
 * a fresh folder for each test, and short forms of common steps. */
#ifndef WEIR_TESTS_STORE_FIXTURE_H
#define WEIR_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"

#define TEST_MIB (UINT64_C(1) << 20)

static inline void test_mix(uint64_t lanes[4], const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    for (size_t i = 0; i < count; i += 8) {
        uint64_t word = 0;
        memcpy(&word, from + i, count - i < 8 ? count - i : 8);
        for (int lane = 0; lane < 4; lane++) {
            lanes[lane] = (lanes[lane] ^ word) * (UINT64_C(0x100000001b3) + 2 * (uint64_t)lane);
            lanes[lane] ^= lanes[lane] >> 29;
        }
    }
    for (int lane = 0; lane < 4; lane++)
        lanes[lane] = (lanes[lane] ^ count) * UINT64_C(0x9e3779b97f4a7c15);
}

static inline void test_chunk(const void *bytes, size_t count, uint8_t digest[STORE_ID_BYTES])
{
    uint64_t lanes[4] = {1, 2, 3, 4};
    test_mix(lanes, bytes, count);
    memcpy(digest, lanes, STORE_ID_BYTES);
}

static inline void test_root(uint64_t bytes, const uint8_t (*chunks)[STORE_ID_BYTES], size_t count,
                             uint8_t id[STORE_ID_BYTES])
{
    uint64_t lanes[4] = {5, 6, 7, bytes};
    test_mix(lanes, chunks, count * STORE_ID_BYTES);
    memcpy(id, lanes, STORE_ID_BYTES);
}

static inline void test_sum(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                            uint8_t digest[STORE_ID_BYTES])
{
    uint64_t lanes[4] = {8, 9, 10, 11};
    test_mix(lanes, key, key_bytes);
    test_mix(lanes, value, value_bytes);
    memcpy(digest, lanes, STORE_ID_BYTES);
}

static inline struct store_options test_options(void)
{
    return (struct store_options){.digest = {.chunk = test_chunk, .root = test_root, .sum = test_sum},
                                  .storage_id = "0123456789abcde",
                                  .state_map_bytes = 64 * TEST_MIB,
                                  .blobs_map_bytes = 256 * TEST_MIB};
}

/* A folder per test, its path in *state. */
static inline int test_setup(void **state)
{
    const char *base = getenv("TMPDIR");
    char *path = malloc(256);
    snprintf(path, 256, "%s/weir-store-XXXXXX", base != NULL ? base : "/tmp");
    *state = mkdtemp(path);
    return *state == NULL;
}

static inline int test_unlink(const char *path, const struct stat *stat, int type, struct FTW *where)
{
    (void)stat, (void)type, (void)where;
    return remove(path);
}

static inline int test_teardown(void **state)
{
    nftw(*state, test_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

static inline struct store *test_open(const char *path, const struct store_options *options)
{
    struct store *store;
    struct store_failure failure;
    const struct store_options plain = test_options();
    if (store_open(path, options != NULL ? options : &plain, &failure, &store) != STORE_OK)
        fail_msg("%s", failure.text);
    return store;
}

static inline struct store_batch *test_batch(struct store *store)
{
    struct store_batch *batch;
    assert_int_equal(store_batch_open(store, &batch), STORE_OK);
    return batch;
}

static inline enum store_error test_put(struct store *store, enum store_table table, const char *key,
                                        const void *value, size_t value_bytes)
{
    struct store_batch *batch = test_batch(store);
    store_batch_put(batch, table, key, strlen(key), value, value_bytes);
    return store_commit_wait(store, batch);
}

static inline uint64_t test_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static inline void test_fill(void *bytes, size_t count, uint64_t seed)
{
    seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    uint8_t *to = bytes;
    for (size_t i = 0; i < count; i += 8) {
        const uint64_t word = test_random(&seed);
        memcpy(to + i, &word, count - i < 8 ? count - i : 8);
    }
}

/* A key or id made of a number. */
static inline void test_key(uint64_t number, uint8_t key[STORE_ID_BYTES])
{
    test_fill(key, STORE_ID_BYTES, number + 77);
}

static inline void test_report(void *context, const char *finding)
{
    (void)context;
    print_message("store_check: %s\n", finding);
}

static inline void test_quiet(void *context, const char *finding)
{
    (void)finding;
    ++*(unsigned *)context;
}

/* Waits until the store has something to say. */
static inline struct store_completion test_completion(struct store *store)
{
    struct store_completion completion;
    struct pollfd readable = {.fd = store_fd(store), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 20000), 1);
    assert_true(store_next_completion(store, &completion));
    return completion;
}

#endif
