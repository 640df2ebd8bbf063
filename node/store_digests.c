#include "node/store_digests.h"

#include "crypto/digest.h"

#include <string.h>

static void digest_root(uint64_t blob_bytes, const uint8_t (*chunks)[32], size_t count, uint8_t id[32])
{
    struct digest_stream stream;
    digest_init(&stream, "weir blob 1");
    digest_update(&stream, chunks, count * 32);
    digest_update_u64(&stream, blob_bytes);
    const struct digest digest = digest_final(&stream);
    memcpy(id, digest.bytes, 32);
}

static void digest_chunk(const void *bytes, size_t count, uint8_t out[32])
{
    const struct digest digest = blob_chunk_digest(bytes, count);
    memcpy(out, digest.bytes, 32);
}

static void digest_sum(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                       uint8_t out[32])
{
    struct digest_stream stream;
    digest_init(&stream, "weir cache row 1");
    digest_update_u64(&stream, key_bytes);
    digest_update(&stream, key, key_bytes);
    digest_update(&stream, value, value_bytes);
    const struct digest digest = digest_final(&stream);
    memcpy(out, digest.bytes, 32);
}

const struct store_digest *store_digests(void)
{
    static const struct store_digest digests = {
        .chunk = digest_chunk, .root = digest_root, .sum = digest_sum};
    return &digests;
}
