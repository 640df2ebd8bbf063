/* Blobs: small and large, verified on read, pinned, uploaded, damaged, lost. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static uint8_t *bytes_make(size_t count, uint64_t seed)
{
    uint8_t *bytes = malloc(count > 0 ? count : 1);
    assert_non_null(bytes);
    test_fill(bytes, count, seed);
    return bytes;
}

/* Uploads `count` bytes in pieces of `piece` and commits. */
static enum store_error blob_upload(struct store *store, const uint8_t *bytes, size_t count, size_t piece,
                                    const uint8_t *expected, uint8_t id[STORE_ID_BYTES])
{
    struct store_upload *upload;
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    for (size_t at = 0; at < count; at += piece)
        assert_int_equal(store_upload_append(upload, bytes + at, count - at < piece ? count - at : piece),
                         STORE_OK);
    const enum store_error error = store_upload_finish(upload, expected, batch, id);
    if (error != STORE_OK) {
        store_batch_close(batch);
        return error;
    }
    return store_commit_wait(store, batch);
}

static void file_path(const char *folder, const uint8_t *id, char path[600])
{
    char hex[65];
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", id[i]);
    snprintf(path, 600, "%s/files/%.2s/%s", folder, hex, hex);
}

static unsigned files_below(const char *folder, const char *name)
{
    char command[700], line[32] = "";
    snprintf(command, sizeof command, "find '%s/%s' -type f | wc -l", folder, name);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    pclose(pipe);
    return (unsigned)atoi(line);
}

static void every_size_comes_back_the_same(void **state)
{
    struct store *store = test_open(*state, NULL);
    static const size_t sizes[] = {0,
                                   1,
                                   4095,
                                   4097,
                                   STORE_SMALL_BYTES - 1,
                                   STORE_SMALL_BYTES,
                                   STORE_SMALL_BYTES + 1,
                                   2 * STORE_CHUNK_BYTES,
                                   5 * STORE_CHUNK_BYTES + 12345};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    static const size_t pieces[] = {1 << 20, 65537, (1 << 20) + 1};
    uint8_t ids[SIZES][STORE_ID_BYTES];
    for (size_t i = 0; i < SIZES; i++) {
        uint8_t *bytes = bytes_make(sizes[i], i);
        assert_int_equal(blob_upload(store, bytes, sizes[i], pieces[i % 3], NULL, ids[i]), STORE_OK);
        if (sizes[i] <= STORE_SMALL_BYTES) {
            /* The short way gives the same name. */
            uint8_t id[STORE_ID_BYTES];
            struct store_batch *batch = test_batch(store);
            assert_int_equal(store_batch_blob(batch, bytes, sizes[i], id), STORE_OK);
            assert_memory_equal(id, ids[i], sizeof id);
            assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        }
        free(bytes);
    }
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < SIZES; i++) {
            uint8_t *bytes = bytes_make(sizes[i], i), *copy = malloc(sizes[i] + 1);
            size_t count;
            struct store_blob_info info;
            assert_int_equal(store_blob_stat(store, ids[i], &info), STORE_OK);
            assert_int_equal(info.bytes, sizes[i]);
            assert_int_equal(info.in_file, sizes[i] > STORE_SMALL_BYTES);
            assert_int_equal(store_blob_get(store, ids[i], copy, sizes[i], &count), STORE_OK);
            assert_int_equal(count, sizes[i]);
            assert_memory_equal(copy, bytes, sizes[i]);
            if (sizes[i] > 0) {
                assert_int_equal(store_blob_get(store, ids[i], copy, sizes[i] - 1, &count), STORE_SMALL);
                assert_int_equal(count, sizes[i]);
            }
            free(bytes);
            free(copy);
        }
        struct store_stats stats;
        store_stats(store, &stats);
        assert_int_equal(stats.blobs, SIZES);
        assert_int_equal(stats.files, 3);
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
        store_close(store);
        store = test_open(*state, NULL);
    }
    assert_int_equal(files_below(*state, "tmp"), 0);
    store_close(store);
}

static void parts_are_read_from_anywhere(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t sizes[] = {100000, 3 * STORE_CHUNK_BYTES + 777};
    uint64_t seed = 42;
    for (size_t s = 0; s < 2; s++) {
        uint8_t *bytes = bytes_make(sizes[s], s + 100), *copy = malloc(sizes[s]), id[STORE_ID_BYTES];
        assert_int_equal(blob_upload(store, bytes, sizes[s], 1 << 20, NULL, id), STORE_OK);
        for (int i = 0; i < 40; i++) {
            const size_t offset = test_random(&seed) % (sizes[s] + 1);
            const size_t count = test_random(&seed) % (sizes[s] - offset + 1);
            assert_int_equal(store_blob_read(store, id, offset, count, copy), STORE_OK);
            assert_memory_equal(copy, bytes + offset, count);
        }
        assert_int_equal(store_blob_read(store, id, sizes[s], 0, copy), STORE_OK);
        assert_int_equal(store_blob_read(store, id, sizes[s], 1, copy), STORE_LIMIT);
        assert_int_equal(store_blob_read(store, id, UINT64_MAX, 2, copy), STORE_LIMIT);
        uint8_t digest[STORE_ID_BYTES], expected[STORE_ID_BYTES];
        assert_int_equal(store_blob_chunk(store, id, 0, digest), STORE_OK);
        test_chunk(bytes, sizes[s] < STORE_CHUNK_BYTES ? sizes[s] : STORE_CHUNK_BYTES, expected);
        assert_memory_equal(digest, expected, sizeof digest);
        assert_int_equal(store_blob_chunk(store, id, 4, digest), STORE_LIMIT);
        free(bytes);
        free(copy);
    }
    uint8_t absent[STORE_ID_BYTES] = {9};
    uint8_t byte;
    assert_int_equal(store_blob_read(store, absent, 0, 1, &byte), STORE_NONE);
    store_close(store);
}

static void a_blob_opens_as_a_file_that_outlives_it(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t sizes[] = {5000, 2 * STORE_CHUNK_BYTES + 5};
    for (size_t i = 0; i < 2; i++) {
        uint8_t *bytes = bytes_make(sizes[i], i + 7), id[STORE_ID_BYTES];
        assert_int_equal(blob_upload(store, bytes, sizes[i], 1 << 20, NULL, id), STORE_OK);
        int fd;
        uint64_t count;
        assert_int_equal(store_blob_open(store, id, true, &fd, &count), STORE_OK);
        assert_int_equal(count, sizes[i]);
        struct store_batch *batch = test_batch(store);
        store_batch_blob_remove(batch, id);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        assert_int_equal(write(fd, "x", 1), -1);
        const uint8_t *mapped = mmap(NULL, sizes[i], PROT_READ, MAP_SHARED, fd, 0);
        assert_true(mapped != MAP_FAILED);
        assert_memory_equal(mapped, bytes, sizes[i]);
        munmap((void *)(uintptr_t)mapped, sizes[i]);
        close(fd);
        assert_int_equal(store_blob_open(store, id, true, &fd, &count), STORE_NONE);
        assert_int_equal(fd, -1);
        free(bytes);
    }
    assert_int_equal(files_below(*state, "files"), 0);
    store_close(store);
}

static void an_upload_with_another_digest_leaves_nothing(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t sizes[] = {1000, 3 * STORE_CHUNK_BYTES};
    for (size_t i = 0; i < 2; i++) {
        uint8_t *bytes = bytes_make(sizes[i], 3), id[STORE_ID_BYTES], right[STORE_ID_BYTES],
                wrong[STORE_ID_BYTES] = {1};
        assert_int_equal(blob_upload(store, bytes, sizes[i], 4096, wrong, id), STORE_MISMATCH);
        struct store_blob_info info;
        assert_int_equal(store_blob_stat(store, id, &info), STORE_NONE);
        memcpy(right, id, sizeof right);
        assert_int_equal(blob_upload(store, bytes, sizes[i], 4096, right, id), STORE_OK);
        free(bytes);
    }
    /* One that is given up, and one whose batch is. */
    uint8_t *bytes = bytes_make(2 * STORE_CHUNK_BYTES, 4), id[STORE_ID_BYTES];
    struct store_upload *upload;
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, 2 * STORE_CHUNK_BYTES), STORE_OK);
    assert_int_equal(files_below(*state, "tmp"), 1);
    store_upload_close(upload);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, 2 * STORE_CHUNK_BYTES), STORE_OK);
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_upload_finish(upload, NULL, batch, id), STORE_OK);
    store_batch_close(batch);
    assert_int_equal(files_below(*state, "tmp"), 0);
    /* One whose batch is refused. */
    assert_int_equal(test_put(store, STORE_SHARDS, "taken", "x", 1), STORE_OK);
    assert_int_equal(store_upload_open(store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, 2 * STORE_CHUNK_BYTES), STORE_OK);
    batch = test_batch(store);
    assert_int_equal(store_upload_finish(upload, NULL, batch, id), STORE_OK);
    store_batch_put_absent(batch, STORE_SHARDS, "taken", 5, "y", 1);
    assert_int_equal(store_commit_wait(store, batch), STORE_EXISTS);
    assert_int_equal(files_below(*state, "tmp"), 0);
    assert_int_equal(files_below(*state, "files"), 1);
    free(bytes);
    store_close(store);
}

static void a_small_blob_over_its_limit_is_refused(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t *bytes = bytes_make(STORE_SMALL_BYTES + 1, 1), id[STORE_ID_BYTES];
    struct store_batch *batch = test_batch(store);
    assert_int_equal(store_batch_blob(batch, bytes, STORE_SMALL_BYTES + 1, id), STORE_LIMIT);
    store_batch_close(batch);
    free(bytes);
    store_close(store);
}

/* ---- Damage
 * ---------------------------------------------------------------------------------------------------- */

static void a_flipped_bit_or_a_cut_file_is_found_and_dropped(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t count = 3 * STORE_CHUNK_BYTES + 10;
    uint8_t *bytes = bytes_make(count, 11), *copy = malloc(count), id[STORE_ID_BYTES],
            owner[STORE_ID_BYTES] = {7};
    size_t got;
    char path[600];
    for (int damage = 0; damage < 3; damage++) {
        assert_int_equal(blob_upload(store, bytes, count, 1 << 20, NULL, id), STORE_OK);
        struct store_batch *pin = test_batch(store);
        store_batch_pin(pin, id, owner);
        assert_int_equal(store_commit_wait(store, pin), STORE_OK);
        file_path(*state, id, path);
        if (damage == 0) {
            const int fd = open(path, O_RDWR);
            const uint8_t flipped = bytes[2 * STORE_CHUNK_BYTES + 5] ^ 4;
            assert_int_equal(pwrite(fd, &flipped, 1, 2 * STORE_CHUNK_BYTES + 5), 1);
            close(fd);
            /* A chunk that is not damaged still serves. */
            assert_int_equal(store_blob_read(store, id, 0, STORE_CHUNK_BYTES, copy), STORE_OK);
        } else if (damage == 1) {
            assert_int_equal(truncate(path, (off_t)count - 1), 0);
        } else {
            assert_int_equal(unlink(path), 0);
        }
        unsigned findings = 0;
        assert_int_equal(store_check(store, test_quiet, &findings), STORE_CORRUPT);
        assert_true(findings > 0);
        int fd;
        uint64_t opened;
        const enum store_error expected = damage == 2 ? STORE_NONE : STORE_CORRUPT;
        if (damage == 0)
            assert_int_equal(store_blob_open(store, id, true, &fd, &opened), expected);
        else
            assert_int_equal(store_blob_get(store, id, copy, count, &got), expected);
        assert_int_equal(store_commit_wait(store, test_batch(store)),
                         STORE_OK); /* the drop was queued before */
        struct store_blob_info info;
        assert_int_equal(store_blob_stat(store, id, &info), STORE_NONE);
        assert_int_equal(files_below(*state, "files"), 0);
        struct store_stats stats;
        store_stats(store, &stats);
        assert_int_equal(stats.corrupt, damage < 2 ? damage + 1 : 2);
        assert_int_equal(stats.missing, damage == 2);
        assert_int_equal(stats.file_bytes, 0);
    }
    /* Its pin waited for the new copy. */
    assert_int_equal(blob_upload(store, bytes, count, 1 << 20, NULL, id), STORE_OK);
    struct store_blob_info info;
    assert_int_equal(store_blob_stat(store, id, &info), STORE_OK);
    assert_true(info.pinned);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    free(bytes);
    free(copy);
    store_close(store);
}

static void a_small_blob_that_rots_in_the_map_is_found(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t *bytes = bytes_make(20000, 12), *copy = malloc(20000), id[STORE_ID_BYTES];
    size_t got;
    assert_int_equal(blob_upload(store, bytes, 20000, 1 << 20, NULL, id), STORE_OK);
    store_close(store);
    char path[600];
    snprintf(path, sizeof path, "%s/blobs/data.mdb", (char *)*state);
    const int fd = open(path, O_RDWR);
    struct stat file;
    assert_int_equal(fstat(fd, &file), 0);
    uint8_t *map = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    uint8_t *found = memmem(map, (size_t)file.st_size, bytes, 64);
    assert_non_null(found);
    found[10000] ^= 1;
    munmap(map, (size_t)file.st_size);
    close(fd);
    store = test_open(*state, NULL);
    int memfd;
    uint64_t count;
    assert_int_equal(store_blob_open(store, id, true, &memfd, &count), STORE_CORRUPT);
    assert_int_equal(store_commit_wait(store, test_batch(store)), STORE_OK);
    assert_int_equal(store_blob_get(store, id, copy, 20000, &got), STORE_NONE);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    free(bytes);
    free(copy);
    store_close(store);
}

static void a_new_copy_heals_a_damaged_file(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t count = 2 * STORE_CHUNK_BYTES;
    uint8_t *bytes = bytes_make(count, 13), *copy = malloc(count), id[STORE_ID_BYTES];
    size_t got;
    char path[600];
    assert_int_equal(blob_upload(store, bytes, count, 1 << 20, NULL, id), STORE_OK);
    file_path(*state, id, path);
    assert_int_equal(truncate(path, 5), 0);
    assert_int_equal(blob_upload(store, bytes, count, 1 << 20, NULL, id), STORE_OK);
    assert_int_equal(store_blob_get(store, id, copy, count, &got), STORE_OK);
    assert_memory_equal(copy, bytes, count);
    struct store_stats stats;
    store_stats(store, &stats);
    assert_int_equal(stats.blobs, 1);
    assert_int_equal(stats.file_bytes, count);
    free(bytes);
    free(copy);
    store_close(store);
}

static void leftovers_of_a_crash_are_removed_at_open(void **state)
{
    struct store *store = test_open(*state, NULL);
    const size_t count = 2 * STORE_CHUNK_BYTES;
    uint8_t *bytes = bytes_make(count, 14), id[STORE_ID_BYTES], stray[STORE_ID_BYTES];
    assert_int_equal(blob_upload(store, bytes, count, 1 << 20, NULL, id), STORE_OK);
    store_close(store);
    char path[600];
    snprintf(path, sizeof path, "%s/tmp/17", (char *)*state);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    memcpy(stray, id, sizeof stray);
    stray[31] ^= 1; /* the same folder, no row */
    file_path(*state, stray, path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(files_below(*state, "files"), 2);
    store = test_open(*state, NULL);
    assert_int_equal(files_below(*state, "files"), 1);
    assert_int_equal(files_below(*state, "tmp"), 0);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    free(bytes);
    store_close(store);
}

/* ---- Pins
 * -------------------------------------------------------------------------------------------------------- */

static bool count_blob(void *context, const uint8_t id[STORE_ID_BYTES], const struct store_blob_info *info)
{
    (void)id;
    assert_true(info->bytes > 0);
    ++*(unsigned *)context;
    return true;
}

static void pins_need_their_blob_and_count_owners(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t id[STORE_ID_BYTES] = {1}, a[STORE_ID_BYTES] = {2}, b[STORE_ID_BYTES] = {3};
    struct store_batch *batch = test_batch(store);
    store_batch_pin(batch, id, a);
    store_batch_put(batch, STORE_JOBS, "j", 1, "", 0);
    assert_int_equal(store_commit_wait(store, batch), STORE_NONE);
    uint64_t rows;
    assert_int_equal(store_count(store, STORE_JOBS, &rows), STORE_OK);
    assert_int_equal(rows, 0);
    batch = test_batch(store);
    store_batch_blob(batch, "hello", 5, id);
    store_batch_pin(batch, id, a);
    store_batch_pin(batch, id, a); /* once more is once */
    store_batch_pin(batch, id, b);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    const struct {
        const uint8_t *owner;
        bool pinned;
    } steps[] = {{a, true}, {a, true}, {b, false}};
    for (int i = 0; i < 3; i++) {
        batch = test_batch(store);
        store_batch_unpin(batch, id, steps[i].owner);
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
        struct store_blob_info info;
        assert_int_equal(store_blob_stat(store, id, &info), STORE_OK);
        assert_int_equal(info.pinned, steps[i].pinned);
    }
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

static void an_owner_releases_all_in_parts(void **state)
{
    struct store *store = test_open(*state, NULL);
    uint8_t a[STORE_ID_BYTES] = {2}, b[STORE_ID_BYTES] = {3};
    const unsigned count = STORE_SWEEP_ROWS + 5;
    for (unsigned from = 0; from < count; from += 1000) {
        struct store_batch *batch = test_batch(store);
        for (unsigned i = from; i < from + 1000 && i < count; i++) {
            uint8_t id[STORE_ID_BYTES];
            store_batch_blob(batch, &i, sizeof i, id);
            store_batch_pin(batch, id, a);
            if (i == 3)
                store_batch_pin(batch, id, b);
        }
        assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    }
    unsigned seen = 0;
    assert_int_equal(store_pin_each(store, a, count_blob, &seen), STORE_OK);
    assert_int_equal(seen, count);
    seen = 0;
    assert_int_equal(store_blob_each(store, NULL, count_blob, &seen), STORE_OK);
    assert_int_equal(seen, count);
    const enum store_error expected[] = {STORE_MORE, STORE_OK, STORE_OK};
    for (int i = 0; i < 3; i++) {
        struct store_batch *batch = test_batch(store);
        store_batch_unpin_all(batch, a);
        assert_int_equal(store_commit_wait(store, batch), expected[i]);
    }
    seen = 0;
    assert_int_equal(store_pin_each(store, a, count_blob, &seen), STORE_OK);
    assert_int_equal(seen, 0);
    assert_int_equal(store_pin_each(store, b, count_blob, &seen), STORE_OK);
    assert_int_equal(seen, 1);
    assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_size_comes_back_the_same),
        TEST(parts_are_read_from_anywhere),
        TEST(a_blob_opens_as_a_file_that_outlives_it),
        TEST(an_upload_with_another_digest_leaves_nothing),
        TEST(a_small_blob_over_its_limit_is_refused),
        TEST(a_flipped_bit_or_a_cut_file_is_found_and_dropped),
        TEST(a_small_blob_that_rots_in_the_map_is_found),
        TEST(a_new_copy_heals_a_damaged_file),
        TEST(leftovers_of_a_crash_are_removed_at_open),
        TEST(pins_need_their_blob_and_count_owners),
        TEST(an_owner_releases_all_in_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
