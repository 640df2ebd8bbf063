/* Blobs that arrive in chunks: in any order, over several lives, with what a crash may leave of them. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

enum { CHUNKS = 21, LAST_BYTES = 777 };
#define BLOB_BYTES ((CHUNKS - 1) * (size_t)STORE_CHUNK_BYTES + LAST_BYTES)

struct blob {
    uint8_t *bytes;
    uint8_t chunks[CHUNKS][STORE_ID_BYTES];
    uint8_t id[STORE_ID_BYTES];
};

static size_t length_of(uint32_t chunk)
{
    return chunk == CHUNKS - 1 ? LAST_BYTES : STORE_CHUNK_BYTES;
}

static void blob_make(struct blob *blob, uint64_t seed)
{
    blob->bytes = malloc(BLOB_BYTES);
    assert_non_null(blob->bytes);
    test_fill(blob->bytes, BLOB_BYTES, seed);
    for (uint32_t i = 0; i < CHUNKS; i++)
        test_chunk(blob->bytes + (size_t)i * STORE_CHUNK_BYTES, length_of(i), blob->chunks[i]);
    test_root(BLOB_BYTES, (const uint8_t(*)[STORE_ID_BYTES])blob->chunks, CHUNKS, blob->id);
}

static enum store_error open_partial(struct store *store, const struct blob *blob,
                                     struct store_partial **partial)
{
    const struct store_partial_blob wanted = {
        .id = blob->id, .bytes = BLOB_BYTES, .chunks = (const uint8_t(*)[STORE_ID_BYTES])blob->chunks};
    return store_partial_open(store, &wanted, partial);
}

static struct store_partial *take_up(struct store *store, const struct blob *blob)
{
    struct store_partial *partial;
    assert_int_equal(open_partial(store, blob, &partial), STORE_OK);
    while (!store_partial_check(partial))
        ;
    return partial;
}

static enum store_error write_chunk(struct store_partial *partial, const struct blob *blob, uint32_t chunk)
{
    return store_partial_write(partial, chunk, blob->bytes + (size_t)chunk * STORE_CHUNK_BYTES,
                               length_of(chunk));
}

static enum store_error finish(struct store *store, struct store_partial *partial)
{
    struct store_batch *batch = test_batch(store);
    const enum store_error error = store_partial_finish(partial, batch);
    if (error) {
        store_batch_close(batch);
        return error;
    }
    return store_commit_wait(store, batch);
}

static void part_path(const char *folder, const struct blob *blob, char path[600])
{
    const int end = snprintf(path, 600, "%s/parts/", folder);
    for (int i = 0; i < STORE_ID_BYTES; i++)
        snprintf(path + end + 2 * i, 3, "%02x", blob->id[i]);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void expect_whole(struct store *store, const struct blob *blob)
{
    uint8_t *back = malloc(BLOB_BYTES);
    size_t count;
    assert_int_equal(store_blob_get(store, blob->id, back, BLOB_BYTES, &count), STORE_OK);
    assert_memory_equal(back, blob->bytes, BLOB_BYTES);
    free(back);
}

static void chunks_in_any_order_make_the_blob(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct blob blob;
    blob_make(&blob, 1);
    struct store_partial *partial = take_up(store, &blob);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        const uint32_t chunk = (i * 8 + 3) % CHUNKS;
        assert_false(store_partial_has(partial, chunk));
        assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK);
        assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK); /* again changes nothing */
        assert_true(store_partial_has(partial, chunk));
    }
    assert_true(store_partial_bytes(partial) == BLOB_BYTES);
    assert_int_equal(finish(store, partial), STORE_OK);
    expect_whole(store, &blob);
    char path[600];
    part_path(*state, &blob, path);
    assert_false(exists(path));
    store_close(store);
    free(blob.bytes);
}

static void what_has_come_is_taken_up_by_the_next_life(void **state)
{
    struct blob blob;
    blob_make(&blob, 2);
    struct store *store = test_open(*state, NULL);
    struct store_partial *partial = take_up(store, &blob);
    for (uint32_t chunk = 1; chunk < CHUNKS; chunk += 2)
        assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK);
    store_partial_close(partial);
    store_close(store);

    store = test_open(*state, NULL);
    partial = take_up(store, &blob);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        assert_int_equal(store_partial_has(partial, chunk), chunk % 2);
        if (chunk % 2 == 0)
            assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK);
    }
    assert_int_equal(finish(store, partial), STORE_OK);
    expect_whole(store, &blob);
    store_close(store);
    free(blob.bytes);
}

static void a_torn_chunk_is_not_taken_up(void **state)
{
    struct blob blob;
    blob_make(&blob, 3);
    struct store *store = test_open(*state, NULL);
    struct store_partial *partial = take_up(store, &blob);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK);
    store_partial_close(partial);
    store_close(store);
    char path[600];
    part_path(*state, &blob, path);
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "torn", 4, 5 * STORE_CHUNK_BYTES + 100), 4); /* a bit here and there */
    assert_int_equal(ftruncate(fd, (off_t)BLOB_BYTES - 1), 0);               /* and the end is missing */
    close(fd);
    store = test_open(*state, NULL);
    partial = take_up(store, &blob);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        assert_int_equal(store_partial_has(partial, chunk), chunk != 5 && chunk != CHUNKS - 1);
    assert_int_equal(write_chunk(partial, &blob, 5), STORE_OK);
    assert_int_equal(write_chunk(partial, &blob, CHUNKS - 1), STORE_OK);
    assert_int_equal(finish(store, partial), STORE_OK);
    expect_whole(store, &blob);
    store_close(store);
    free(blob.bytes);
}

static void wrong_bytes_and_wrong_lengths_are_refused(void **state)
{
    struct store *store = test_open(*state, NULL);
    struct blob blob;
    blob_make(&blob, 4);
    struct store_partial *partial = take_up(store, &blob), *second;
    assert_int_equal(open_partial(store, &blob, &second), STORE_BUSY);
    assert_int_equal(store_partial_write(partial, 0, blob.bytes + 1, STORE_CHUNK_BYTES), STORE_MISMATCH);
    assert_int_equal(store_partial_write(partial, 0, blob.bytes, STORE_CHUNK_BYTES - 1), STORE_MISMATCH);
    assert_int_equal(store_partial_write(partial, CHUNKS, blob.bytes, STORE_CHUNK_BYTES), STORE_MISMATCH);
    assert_int_equal(store_partial_write(partial, CHUNKS - 1, blob.bytes, STORE_CHUNK_BYTES), STORE_MISMATCH);
    assert_true(store_partial_bytes(partial) == 0);
    for (uint32_t chunk = 1; chunk < CHUNKS; chunk++)
        assert_int_equal(write_chunk(partial, &blob, chunk), STORE_OK);
    struct store_blob_info info;
    assert_int_equal(finish(store, partial), STORE_MISMATCH); /* one is missing */
    assert_int_equal(store_blob_stat(store, blob.id, &info), STORE_NONE);
    partial = take_up(store, &blob);
    assert_int_equal(write_chunk(partial, &blob, 0), STORE_OK);
    assert_int_equal(finish(store, partial), STORE_OK);
    const struct store_partial_blob small = {
        .id = blob.id, .bytes = STORE_SMALL_BYTES, .chunks = (const uint8_t(*)[STORE_ID_BYTES])blob.chunks};
    assert_int_equal(store_partial_open(store, &small, &partial), STORE_LIMIT);
    struct store_partial_blob large = small;
    large.bytes = STORE_BLOB_BYTES_MAX + 1;
    assert_int_equal(store_partial_open(store, &large, &partial), STORE_LIMIT);
    store_close(store);
    free(blob.bytes);
}

static void abandoned_parts_go_by_age_and_by_size(void **state)
{
    struct store_options options = test_options();
    options.cache_budget_bytes = STORE_PARTIALS_SHARE * 2 * BLOB_BYTES; /* two of them may lie about */
    struct store *store = test_open(*state, &options);
    struct blob blobs[4];
    char path[4][600];
    for (int b = 0; b < 4; b++) {
        blob_make(&blobs[b], (uint64_t)(10 + b));
        part_path(*state, &blobs[b], path[b]);
        struct store_partial *partial = take_up(store, &blobs[b]);
        for (uint32_t chunk = 0; chunk + 1 < CHUNKS; chunk++)
            assert_int_equal(write_chunk(partial, &blobs[b], chunk), STORE_OK);
        store_partial_close(partial);
        /* In order, though it all takes less than the clock's tick. */
        const time_t at = time(NULL) - 100 + b;
        const struct timespec times[2] = {{.tv_sec = at}, {.tv_sec = at}};
        assert_int_equal(utimensat(AT_FDCWD, path[b], times, 0), 0);
    }
    /* Opening the fourth one took the first one away; the one that is open counts for nothing. */
    assert_false(exists(path[0]));
    assert_true(exists(path[1]) && exists(path[2]) && exists(path[3]));
    store_close(store);
    store = test_open(*state, &options); /* now all three are abandoned */
    assert_false(exists(path[1]));
    assert_true(exists(path[2]) && exists(path[3]));
    const struct timespec old[2] = {{.tv_sec = time(NULL) - STORE_PARTIAL_KEPT_S - 5},
                                    {.tv_sec = time(NULL) - STORE_PARTIAL_KEPT_S - 5}};
    assert_int_equal(utimensat(AT_FDCWD, path[2], old, 0), 0);
    store_close(store);
    store = test_open(*state, &options);
    assert_false(exists(path[2]));
    assert_true(exists(path[3]));
    store_partial_forget(store, blobs[3].id);
    assert_false(exists(path[3]));
    store_close(store);
    for (int b = 0; b < 4; b++)
        free(blobs[b].bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(chunks_in_any_order_make_the_blob, test_setup, test_teardown),
        cmocka_unit_test_setup_teardown(what_has_come_is_taken_up_by_the_next_life, test_setup,
                                        test_teardown),
        cmocka_unit_test_setup_teardown(a_torn_chunk_is_not_taken_up, test_setup, test_teardown),
        cmocka_unit_test_setup_teardown(wrong_bytes_and_wrong_lengths_are_refused, test_setup, test_teardown),
        cmocka_unit_test_setup_teardown(abandoned_parts_go_by_age_and_by_size, test_setup, test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
