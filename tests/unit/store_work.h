/*
 * Work for a store of which it can be told afterwards whether any of it was lost: batch after batch, each a row
 * that names a blob, which it pins and caches. Every so often the blob is one that lives in a file. What a batch
 * holds follows from its number.
 */
#ifndef WEIR_TESTS_STORE_WORK_H
#define WEIR_TESTS_STORE_WORK_H

#include "tests/unit/store_fixture.h"

enum { WORK_LARGE_BYTES = (1 << 20) + 1000, WORK_SMALL_BYTES = 300, WORK_LARGE_EVERY = 40 };

static inline size_t work_bytes(uint64_t number)
{
    return number % WORK_LARGE_EVERY == WORK_LARGE_EVERY - 1 ? WORK_LARGE_BYTES : WORK_SMALL_BYTES;
}

/* Commits batch `number`, whose completion has that ticket. */
static inline enum store_error work_commit(struct store *store, uint64_t number)
{
    static uint8_t bytes[WORK_LARGE_BYTES];
    const uint8_t owner[STORE_ID_BYTES] = {1};
    const size_t count = work_bytes(number);
    uint8_t id[STORE_ID_BYTES];
    struct store_batch *batch;
    enum store_error error = store_batch_open(store, &batch);
    if (error != STORE_OK)
        return error;
    test_fill(bytes, count, number);
    if (count == WORK_LARGE_BYTES) {
        struct store_upload *upload;
        error = store_upload_open(store, &upload);
        if (error == STORE_OK)
            store_upload_append(upload, bytes, count);
        if (error == STORE_OK)
            error = store_upload_finish(upload, NULL, batch, id);
    } else {
        error = store_batch_blob(batch, bytes, count, id);
    }
    store_batch_pin(batch, id, owner);
    const struct store_entry entry = {
        .bytes = bytes, .count = 100, .blobs = (const uint8_t(*)[STORE_ID_BYTES]) & id, .blob_count = 1};
    store_batch_cache(batch, id, &entry);
    store_batch_put_absent(batch, STORE_SHARDS, &number, sizeof number, id, sizeof id);
    if (error == STORE_OK)
        error = store_commit(store, batch, number);
    if (error != STORE_OK)
        store_batch_close(batch);
    return error;
}

/*
 * Each row up to `acknowledged` must be there with its blob; so must every later row that happens to be there, and
 * none after the first that is not. Returns how many there are; `failure` is empty if all holds.
 */
static inline uint64_t work_verify(struct store *store, uint64_t acknowledged, char failure[160])
{
    static uint8_t bytes[WORK_LARGE_BYTES], copy[WORK_LARGE_BYTES];
    uint64_t rows = 0, number = 0;
    failure[0] = 0;
    store_count(store, STORE_SHARDS, &rows);
    for (; number < rows || number < acknowledged; number++) {
        uint8_t id[STORE_ID_BYTES];
        size_t got = 0;
        enum store_error error = store_get(store, STORE_SHARDS, &number, sizeof number, id, sizeof id, &got);
        if (error != STORE_OK) {
            snprintf(failure, 160, "row %llu of %llu, %llu acknowledged: %s", (unsigned long long)number,
                     (unsigned long long)rows, (unsigned long long)acknowledged, store_error_name(error));
            return number;
        }
        const size_t count = work_bytes(number);
        test_fill(bytes, count, number);
        error = store_blob_get(store, id, copy, sizeof copy, &got);
        if (error != STORE_OK || got != count || memcmp(copy, bytes, count) != 0) {
            snprintf(failure, 160, "the blob of row %llu, %llu acknowledged: %s", (unsigned long long)number,
                     (unsigned long long)acknowledged,
                     error != STORE_OK ? store_error_name(error) : "other bytes");
            return number;
        }
    }
    return number;
}

#endif
