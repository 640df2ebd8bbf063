#include "crypto/record.h"

#include <assert.h>

#include "crypto/pack.h"

#define RECORD_MAGIC "weir record 1"

static bool times_valid(int64_t not_before_s, int64_t not_after_s)
{
    return not_before_s >= 0 && not_before_s <= not_after_s && not_after_s <= RECORD_TIME_MAX_S;
}

enum crypto_error record_sign(const struct record *record, const struct secret_key *secret, uint8_t *out,
                              size_t capacity, size_t *out_bytes)
{
    const struct public_key signer = key_public(secret);
    assert(public_key_equal(&signer, &record->origin));
    if (record->kind == 0 || !times_valid(record->not_before_s, record->not_after_s)) {
        return CRYPTO_MALFORMED;
    }
    if (record->body_bytes > RECORD_BODY_BYTES_MAX) {
        return CRYPTO_TOO_LARGE;
    }
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_magic(&writer, RECORD_MAGIC);
    pack_bytes(&writer, record->federation.bytes, DIGEST_BYTES);
    pack_u16(&writer, record->kind);
    pack_bytes(&writer, record->origin.bytes, sizeof record->origin.bytes);
    pack_u64(&writer, record->incarnation);
    pack_u64(&writer, record->sequence);
    pack_i64(&writer, record->not_before_s);
    pack_i64(&writer, record->not_after_s);
    pack_u32(&writer, record->body_bytes);
    pack_bytes(&writer, record->body, record->body_bytes);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    uint8_t signature[RECORD_SIGNATURE_BYTES];
    crypto_sign_detached(signature, NULL, out, writer.count, secret->bytes);
    pack_bytes(&writer, signature, sizeof signature);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    *out_bytes = writer.count;
    return CRYPTO_OK;
}

enum crypto_error record_view(const uint8_t *bytes, size_t count, struct record *out)
{
    struct record record;
    struct pack_reader reader = pack_reader_of(bytes, count);
    unpack_magic(&reader, RECORD_MAGIC);
    unpack_bytes(&reader, record.federation.bytes, DIGEST_BYTES);
    record.kind = unpack_u16(&reader);
    unpack_bytes(&reader, record.origin.bytes, sizeof record.origin.bytes);
    record.incarnation = unpack_u64(&reader);
    record.sequence = unpack_u64(&reader);
    record.not_before_s = unpack_i64(&reader);
    record.not_after_s = unpack_i64(&reader);
    record.body_bytes = unpack_u32(&reader);
    unpack_require(&reader, record.kind != 0, CRYPTO_MALFORMED);
    unpack_require(&reader, times_valid(record.not_before_s, record.not_after_s), CRYPTO_MALFORMED);
    unpack_require(&reader, record.body_bytes <= RECORD_BODY_BYTES_MAX, CRYPTO_TOO_LARGE);
    record.body = unpack_span(&reader, record.body_bytes);
    unpack_span(&reader, RECORD_SIGNATURE_BYTES);
    const enum crypto_error error = unpack_end(&reader);
    if (error == CRYPTO_OK) {
        *out = record;
    }
    return error;
}

enum crypto_error record_time_check(int64_t not_before_s, int64_t not_after_s, int64_t wall_s)
{
    assert(times_valid(not_before_s, not_after_s));
    if (wall_s < not_before_s - RECORD_TOLERANCE_S) {
        return CRYPTO_NOT_YET_VALID;
    }
    return wall_s > not_after_s + RECORD_TOLERANCE_S ? CRYPTO_EXPIRED : CRYPTO_OK;
}

enum crypto_error record_verify(const uint8_t *bytes, size_t count, const struct digest *federation,
                                int64_t wall_s, struct record *out)
{
    struct record record;
    enum crypto_error error = record_view(bytes, count, &record);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (!digest_equal(&record.federation, federation)) {
        return CRYPTO_WRONG_FEDERATION;
    }
    error = record_time_check(record.not_before_s, record.not_after_s, wall_s);
    if (error != CRYPTO_OK) {
        return error;
    }
    const size_t signed_bytes = count - RECORD_SIGNATURE_BYTES;
    if (crypto_sign_verify_detached(bytes + signed_bytes, bytes, signed_bytes, record.origin.bytes) != 0) {
        return CRYPTO_BAD_SIGNATURE;
    }
    *out = record;
    return CRYPTO_OK;
}

struct digest record_digest(const uint8_t *bytes, size_t count)
{
    return digest_of("weir record digest 1", bytes, count);
}
