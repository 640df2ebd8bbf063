#include "crypto/revocation.h"

#include <string.h>

#include "crypto/pack.h"

static size_t target_bytes(enum revocation_type type)
{
    return type == REVOCATION_NODE_KEY ? 32 : CERTIFICATE_SERIAL_BYTES;
}

static bool target_type_known(unsigned type)
{
    return type == REVOCATION_NODE_KEY || type == REVOCATION_SERIAL;
}

static void pack_body(struct pack_writer *writer, const struct revocation *fields,
                      const struct issuer *issuer)
{
    pack_text(writer, fields->who, NAME_BYTES_MAX);
    pack_text(writer, fields->reason, REVOCATION_REASON_BYTES_MAX);
    pack_u8(writer, fields->target_count);
    for (uint8_t i = 0; i < fields->target_count; i++) {
        const struct revocation_target *target = &fields->targets[i];
        pack_u8(writer, (uint8_t)target->type);
        pack_bytes(writer, target->bytes, target_bytes(target->type));
    }
    const size_t chain_bytes = issuer->chain == NULL ? 0 : issuer->chain_bytes;
    pack_u16(writer, (uint16_t)chain_bytes);
    pack_bytes(writer, issuer->chain, chain_bytes);
}

enum crypto_error revocation_sign(const struct genesis *genesis, const struct issuer *issuer,
                                  const struct revocation *fields, uint8_t *out, size_t capacity,
                                  size_t *out_bytes)
{
    if (fields->target_count > REVOCATION_TARGETS_MAX ||
        (issuer->chain != NULL && issuer->chain_bytes > CHAIN_BYTES_MAX)) {
        return CRYPTO_TOO_LARGE;
    }
    for (uint8_t i = 0; i < fields->target_count; i++) {
        if (!target_type_known(fields->targets[i].type)) {
            return CRYPTO_MALFORMED;
        }
    }
    uint8_t body[REVOCATION_BYTES_MAX - RECORD_OVERHEAD_BYTES];
    struct pack_writer writer = pack_writer_of(body, sizeof body);
    pack_body(&writer, fields, issuer);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    const struct record record = {
        .federation = genesis->federation,
        .kind = RECORD_REVOCATION,
        .origin = key_public(issuer->secret),
        .not_before_s = fields->revoked_s,
        .not_after_s = fields->kept_until_s,
        .body = body,
        .body_bytes = (uint32_t)writer.count,
    };
    size_t count;
    enum crypto_error error = record_sign(&record, issuer->secret, out, capacity, &count);
    if (error != CRYPTO_OK) {
        return error;
    }
    struct revocation made;
    error = revocation_verify(genesis, out, count, fields->revoked_s, &made);
    if (error == CRYPTO_OK) {
        *out_bytes = count;
    }
    return error;
}

// Reads the body; the revoker's chain is borrowed from it.
static enum crypto_error read_body(const struct record *record, struct revocation *revocation,
                                   const uint8_t **chain, size_t *chain_bytes)
{
    struct pack_reader reader = pack_reader_of(record->body, record->body_bytes);
    unpack_text(&reader, revocation->who, NAME_BYTES_MAX);
    unpack_text(&reader, revocation->reason, REVOCATION_REASON_BYTES_MAX);
    unpack_require(&reader, pack_text_printable(revocation->who), CRYPTO_MALFORMED);
    unpack_require(&reader, pack_text_printable(revocation->reason), CRYPTO_MALFORMED);
    revocation->target_count = unpack_u8(&reader);
    unpack_require(&reader, revocation->target_count >= 1, CRYPTO_MALFORMED);
    unpack_require(&reader, revocation->target_count <= REVOCATION_TARGETS_MAX, CRYPTO_TOO_LARGE);
    for (uint8_t i = 0; i < revocation->target_count && reader.error == CRYPTO_OK; i++) {
        const uint8_t type = unpack_u8(&reader);
        unpack_require(&reader, target_type_known(type), CRYPTO_MALFORMED);
        revocation->targets[i].type = (enum revocation_type)type;
        unpack_bytes(&reader, revocation->targets[i].bytes, target_bytes((enum revocation_type)type));
    }
    *chain_bytes = unpack_u16(&reader);
    unpack_require(&reader, *chain_bytes <= CHAIN_BYTES_MAX, CRYPTO_TOO_LARGE);
    *chain = unpack_span(&reader, *chain_bytes);
    return unpack_end(&reader);
}

// Had the signer the right to revoke, when it did?
static enum crypto_error check_signer(const struct genesis *genesis, const struct record *record,
                                      const uint8_t *chain, size_t chain_bytes)
{
    if (genesis->threshold != 1) {
        return CRYPTO_THRESHOLD_UNHANDLED;
    }
    if (chain_bytes == 0) {
        return genesis_has_key(genesis, &record->origin) ? CRYPTO_OK : CRYPTO_UNKNOWN_AUTHORITY;
    }
    struct certificate signer;
    const enum crypto_error error =
        chain_verify(genesis, chain, chain_bytes, record->not_before_s, NULL, NULL, &signer);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (!public_key_equal(&signer.node, &record->origin)) {
        return CRYPTO_CHAIN_BROKEN;
    }
    return (signer.rights & RIGHT_REVOKE) != 0 ? CRYPTO_OK : CRYPTO_ISSUER_RIGHT_LACKS;
}

enum crypto_error revocation_verify(const struct genesis *genesis, const uint8_t *bytes, size_t count,
                                    int64_t wall_s, struct revocation *out)
{
    struct record record;
    enum crypto_error error = record_verify(bytes, count, &genesis->federation, wall_s, &record);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (record.kind != RECORD_REVOCATION) {
        return CRYPTO_WRONG_KIND;
    }
    if (record.incarnation != 0 || record.sequence != 0) {
        return CRYPTO_MALFORMED;
    }
    struct revocation revocation = {
        .issuer = record.origin, .revoked_s = record.not_before_s, .kept_until_s = record.not_after_s};
    const uint8_t *chain;
    size_t chain_bytes;
    error = read_body(&record, &revocation, &chain, &chain_bytes);
    if (error == CRYPTO_OK) {
        error = check_signer(genesis, &record, chain, chain_bytes);
    }
    if (error == CRYPTO_OK) {
        *out = revocation;
    }
    return error;
}

bool revocation_names(const struct revocation *revocation, const struct certificate *certificate)
{
    for (uint8_t i = 0; i < revocation->target_count; i++) {
        const struct revocation_target *target = &revocation->targets[i];
        const uint8_t *named =
            target->type == REVOCATION_NODE_KEY ? certificate->node.bytes : certificate->serial;
        if (memcmp(target->bytes, named, target_bytes(target->type)) == 0) {
            return true;
        }
    }
    return false;
}
