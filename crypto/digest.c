#include "crypto/digest.h"

#include <assert.h>
#include <string.h>

#define CHUNK_DOMAIN "weir chunk 1"
#define BLOB_DOMAIN "weir blob 1"

void digest_init(struct digest_stream *stream, const char *domain)
{
    const size_t domain_bytes = strlen(domain);
    assert(domain_bytes >= 1 && domain_bytes <= UINT8_MAX);
    const uint8_t length = (uint8_t)domain_bytes;
    crypto_generichash_blake2b_init(&stream->state, NULL, 0, DIGEST_BYTES);
    digest_update(stream, &length, sizeof length);
    digest_update(stream, domain, domain_bytes);
}

void digest_update(struct digest_stream *stream, const void *data, size_t bytes)
{
    if (bytes > 0) {
        crypto_generichash_blake2b_update(&stream->state, data, bytes);
    }
}

void digest_update_u64(struct digest_stream *stream, uint64_t value)
{
    uint8_t little[8];
    for (size_t i = 0; i < sizeof little; i++) {
        little[i] = (uint8_t)(value >> (8 * i));
    }
    digest_update(stream, little, sizeof little);
}

struct digest digest_final(struct digest_stream *stream)
{
    struct digest digest;
    crypto_generichash_blake2b_final(&stream->state, digest.bytes, sizeof digest.bytes);
    return digest;
}

struct digest digest_of(const char *domain, const void *data, size_t bytes)
{
    struct digest_stream stream;
    digest_init(&stream, domain);
    digest_update(&stream, data, bytes);
    return digest_final(&stream);
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return memcmp(a->bytes, b->bytes, DIGEST_BYTES) == 0;
}

int digest_compare(const struct digest *a, const struct digest *b)
{
    return memcmp(a->bytes, b->bytes, DIGEST_BYTES);
}

void hex_encode(const void *data, size_t bytes, char *text)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = data;
    for (size_t i = 0; i < bytes; i++) {
        text[2 * i] = digits[at[i] >> 4];
        text[2 * i + 1] = digits[at[i] & 15];
    }
    text[2 * bytes] = '\0';
}

void digest_to_hex(const struct digest *digest, char text[DIGEST_HEX_BYTES])
{
    hex_encode(digest->bytes, DIGEST_BYTES, text);
}

// The value of a hex digit, -1 for any other character, the NUL included.
static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

enum crypto_error digest_from_hex(const char *text, struct digest *out)
{
    struct digest digest;
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        const int high = hex_value(text[2 * i]);
        const int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0) {
            return CRYPTO_MALFORMED;
        }
        digest.bytes[i] = (uint8_t)(high << 4 | low);
    }
    if (text[DIGEST_HEX_BYTES - 1] != '\0') {
        return CRYPTO_MALFORMED;
    }
    *out = digest;
    return CRYPTO_OK;
}

void blob_digest_init(struct blob_digest *blob, blob_chunk_done *chunk_done, void *context)
{
    *blob = (struct blob_digest){.chunk_done = chunk_done, .context = context};
    digest_init(&blob->root, BLOB_DOMAIN);
}

static void finish_chunk(struct blob_digest *blob)
{
    const struct digest chunk = digest_final(&blob->chunk);
    const uint64_t index = (blob->total_bytes - 1) / BLOB_CHUNK_BYTES;
    digest_update(&blob->root, chunk.bytes, DIGEST_BYTES);
    blob->chunk_bytes = 0;
    if (blob->chunk_done != NULL) {
        blob->chunk_done(blob->context, index, &chunk);
    }
}

enum crypto_error blob_digest_update(struct blob_digest *blob, const void *data, size_t bytes)
{
    if (bytes > BLOB_BYTES_MAX - blob->total_bytes) {
        return CRYPTO_TOO_LARGE;
    }
    const uint8_t *at = data;
    while (bytes > 0) {
        if (blob->chunk_bytes == 0) {
            digest_init(&blob->chunk, CHUNK_DOMAIN);
        }
        const size_t room = BLOB_CHUNK_BYTES - blob->chunk_bytes;
        const size_t taken = bytes < room ? bytes : room;
        digest_update(&blob->chunk, at, taken);
        at += taken;
        bytes -= taken;
        blob->chunk_bytes += (uint32_t)taken;
        blob->total_bytes += taken;
        if (blob->chunk_bytes == BLOB_CHUNK_BYTES) {
            finish_chunk(blob);
        }
    }
    return CRYPTO_OK;
}

struct digest blob_digest_final(struct blob_digest *blob)
{
    if (blob->chunk_bytes > 0) {
        finish_chunk(blob);
    }
    digest_update_u64(&blob->root, blob->total_bytes);
    return digest_final(&blob->root);
}

struct digest blob_id(const void *data, size_t bytes)
{
    struct blob_digest blob;
    blob_digest_init(&blob, NULL, NULL);
    const enum crypto_error error = blob_digest_update(&blob, data, bytes);
    assert(error == CRYPTO_OK);
    return blob_digest_final(&blob);
}

uint64_t blob_chunk_count(uint64_t total_bytes)
{
    return total_bytes / BLOB_CHUNK_BYTES + (total_bytes % BLOB_CHUNK_BYTES != 0);
}

uint32_t blob_chunk_length(uint64_t total_bytes, uint64_t index)
{
    assert(index < blob_chunk_count(total_bytes));
    const uint64_t left = total_bytes - index * BLOB_CHUNK_BYTES;
    return left < BLOB_CHUNK_BYTES ? (uint32_t)left : BLOB_CHUNK_BYTES;
}

struct digest blob_chunk_digest(const void *data, size_t bytes)
{
    return digest_of(CHUNK_DOMAIN, data, bytes);
}

enum crypto_error blob_list_verify(const struct digest *id, uint64_t total_bytes, const struct digest *chunks,
                                   uint64_t count)
{
    if (total_bytes > BLOB_BYTES_MAX) {
        return CRYPTO_TOO_LARGE;
    }
    if (count != blob_chunk_count(total_bytes)) {
        return CRYPTO_MALFORMED;
    }
    struct digest_stream root;
    digest_init(&root, BLOB_DOMAIN);
    for (uint64_t i = 0; i < count; i++) {
        digest_update(&root, chunks[i].bytes, DIGEST_BYTES);
    }
    digest_update_u64(&root, total_bytes);
    const struct digest found = digest_final(&root);
    return digest_equal(&found, id) ? CRYPTO_OK : CRYPTO_DIGEST_DIFFER;
}

enum crypto_error blob_chunk_verify(const struct digest *chunk, uint64_t total_bytes, uint64_t index,
                                    const void *data, size_t bytes)
{
    if (index >= blob_chunk_count(total_bytes)) {
        return CRYPTO_MALFORMED;
    }
    const uint32_t expected = blob_chunk_length(total_bytes, index);
    if (bytes != expected) {
        return bytes < expected ? CRYPTO_TRUNCATED : CRYPTO_TRAILING;
    }
    const struct digest found = blob_chunk_digest(data, bytes);
    return digest_equal(&found, chunk) ? CRYPTO_OK : CRYPTO_DIGEST_DIFFER;
}
