#include "crypto/certificate.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/pack.h"

#define GENESIS_MAGIC "weir genesis 1"
#define FEDERATION_DOMAIN "weir federation 1"

// One certificate of a chain that has been read: its fields and the record's bytes, borrowed from the chain.
struct link {
    struct certificate certificate;
    struct digest federation;
    const uint8_t *bytes;
    size_t count;
};

// ---- Genesis

static int compare_keys(const void *a, const void *b)
{
    return public_key_compare(a, b);
}

// What both encode and decode insist on, apart from the threshold that this version can check.
static bool genesis_valid(const struct genesis *genesis)
{
    if (!name_valid(genesis->name) || genesis->created_s < 0 || genesis->created_s > RECORD_TIME_MAX_S ||
        genesis->key_count < 1 || genesis->key_count > AUTHORITY_KEYS_MAX || genesis->threshold < 1 ||
        genesis->threshold > genesis->key_count) {
        return false;
    }
    for (uint8_t i = 1; i < genesis->key_count; i++) {
        if (public_key_compare(&genesis->keys[i - 1], &genesis->keys[i]) >= 0) {
            return false;
        }
    }
    return true;
}

enum crypto_error genesis_encode(struct genesis *genesis, uint8_t *out, size_t capacity, size_t *out_bytes)
{
    if (genesis->key_count <= AUTHORITY_KEYS_MAX) {
        qsort(genesis->keys, genesis->key_count, sizeof genesis->keys[0], compare_keys);
    }
    if (!genesis_valid(genesis)) {
        return CRYPTO_MALFORMED;
    }
    if (genesis->threshold != 1) {
        return CRYPTO_THRESHOLD_UNHANDLED;
    }
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_magic(&writer, GENESIS_MAGIC);
    pack_i64(&writer, genesis->created_s);
    pack_u8(&writer, genesis->threshold);
    pack_u8(&writer, genesis->key_count);
    pack_bytes(&writer, genesis->keys, genesis->key_count * sizeof genesis->keys[0]);
    pack_text(&writer, genesis->name, NAME_BYTES_MAX);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    genesis->federation = digest_of(FEDERATION_DOMAIN, out, writer.count);
    *out_bytes = writer.count;
    return CRYPTO_OK;
}

enum crypto_error genesis_decode(const uint8_t *bytes, size_t count, struct genesis *out)
{
    struct genesis genesis = {0};
    struct pack_reader reader = pack_reader_of(bytes, count);
    unpack_magic(&reader, GENESIS_MAGIC);
    genesis.created_s = unpack_i64(&reader);
    genesis.threshold = unpack_u8(&reader);
    genesis.key_count = unpack_u8(&reader);
    unpack_require(&reader, genesis.key_count <= AUTHORITY_KEYS_MAX, CRYPTO_TOO_LARGE);
    if (reader.error == CRYPTO_OK) {
        unpack_bytes(&reader, genesis.keys, genesis.key_count * sizeof genesis.keys[0]);
    }
    unpack_text(&reader, genesis.name, NAME_BYTES_MAX);
    const enum crypto_error error = unpack_end(&reader);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (!genesis_valid(&genesis)) {
        return CRYPTO_MALFORMED;
    }
    genesis.federation = digest_of(FEDERATION_DOMAIN, bytes, count);
    *out = genesis;
    return CRYPTO_OK;
}

bool genesis_has_key(const struct genesis *genesis, const struct public_key *key)
{
    for (uint8_t i = 0; i < genesis->key_count; i++) {
        if (public_key_equal(&genesis->keys[i], key)) {
            return true;
        }
    }
    return false;
}

// ---- One certificate

uint32_t certificate_rights_to_hand_on(uint32_t rights)
{
    if ((rights & RIGHT_INVITE) == 0) {
        return 0;
    }
    return (rights & RIGHT_AUTHORITY) != 0 ? rights : rights & (uint32_t)(RIGHT_NODE | RIGHT_SUBMIT);
}

int64_t certificate_renew_at_s(const struct certificate *certificate)
{
    return certificate->not_before_s + (certificate->not_after_s - certificate->not_before_s) / 3 * 2;
}

static bool certificate_valid(const struct certificate *certificate)
{
    return certificate->rights != 0 && (certificate->rights & ~RIGHTS_ALL) == 0 &&
           name_valid(certificate->site) && name_valid(certificate->name);
}

static enum crypto_error certificate_sign(const struct digest *federation, const struct secret_key *secret,
                                          const struct certificate *fields, uint8_t *out, size_t capacity,
                                          size_t *out_bytes)
{
    if (!certificate_valid(fields)) {
        return CRYPTO_MALFORMED;
    }
    uint8_t serial[CERTIFICATE_SERIAL_BYTES];
    randombytes_buf(serial, sizeof serial);
    uint8_t body[CERTIFICATE_BODY_BYTES_MAX];
    struct pack_writer writer = pack_writer_of(body, sizeof body);
    pack_bytes(&writer, serial, sizeof serial);
    pack_bytes(&writer, fields->node.bytes, sizeof fields->node.bytes);
    pack_bytes(&writer, fields->curve.bytes, sizeof fields->curve.bytes);
    pack_bytes(&writer, fields->join_curve.bytes, sizeof fields->join_curve.bytes);
    pack_u32(&writer, fields->rights);
    pack_text(&writer, fields->site, NAME_BYTES_MAX);
    pack_text(&writer, fields->name, NAME_BYTES_MAX);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    const struct record record = {
        .federation = *federation,
        .kind = RECORD_CERTIFICATE,
        .origin = key_public(secret),
        .not_before_s = fields->not_before_s,
        .not_after_s = fields->not_after_s,
        .body = body,
        .body_bytes = (uint32_t)writer.count,
    };
    return record_sign(&record, secret, out, capacity, out_bytes);
}

static enum crypto_error certificate_read(const uint8_t *bytes, size_t count, struct link *out)
{
    struct record record;
    enum crypto_error error = record_view(bytes, count, &record);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (record.kind != RECORD_CERTIFICATE) {
        return CRYPTO_WRONG_KIND;
    }
    if (record.incarnation != 0 || record.sequence != 0) {
        return CRYPTO_MALFORMED;
    }
    struct certificate *certificate = &out->certificate;
    *certificate = (struct certificate){
        .not_before_s = record.not_before_s, .not_after_s = record.not_after_s, .issuer = record.origin};
    struct pack_reader reader = pack_reader_of(record.body, record.body_bytes);
    unpack_bytes(&reader, certificate->serial, sizeof certificate->serial);
    unpack_bytes(&reader, certificate->node.bytes, sizeof certificate->node.bytes);
    unpack_bytes(&reader, certificate->curve.bytes, sizeof certificate->curve.bytes);
    unpack_bytes(&reader, certificate->join_curve.bytes, sizeof certificate->join_curve.bytes);
    certificate->rights = unpack_u32(&reader);
    unpack_text(&reader, certificate->site, NAME_BYTES_MAX);
    unpack_text(&reader, certificate->name, NAME_BYTES_MAX);
    error = unpack_end(&reader);
    if (error != CRYPTO_OK) {
        return error;
    }
    if (!certificate_valid(certificate)) {
        return CRYPTO_MALFORMED;
    }
    out->federation = record.federation;
    out->bytes = bytes;
    out->count = count;
    return CRYPTO_OK;
}

// ---- Chains

static enum crypto_error chain_read(const uint8_t *chain, size_t chain_bytes,
                                    struct link links[CHAIN_CERTIFICATES_MAX], uint32_t *count)
{
    struct pack_reader reader = pack_reader_of(chain, chain_bytes);
    const uint32_t claimed = unpack_u8(&reader);
    unpack_require(&reader, claimed <= CHAIN_CERTIFICATES_MAX, CRYPTO_CHAIN_TOO_LONG);
    unpack_require(&reader, claimed >= 1, CRYPTO_MALFORMED);
    for (uint32_t i = 0; i < claimed && reader.error == CRYPTO_OK; i++) {
        const size_t bytes = unpack_u16(&reader);
        unpack_require(&reader, bytes <= CERTIFICATE_BYTES_MAX, CRYPTO_TOO_LARGE);
        const uint8_t *record = unpack_span(&reader, bytes);
        if (record != NULL) {
            reader.error = certificate_read(record, bytes, &links[i]);
        }
    }
    const enum crypto_error error = unpack_end(&reader);
    if (error == CRYPTO_OK) {
        *count = claimed;
    }
    return error;
}

// May `issuer` have issued `child`, apart from the signature?
static enum crypto_error check_issued(const struct certificate *child, const struct certificate *issuer)
{
    if (!public_key_equal(&child->issuer, &issuer->node)) {
        return CRYPTO_CHAIN_BROKEN;
    }
    if ((issuer->rights & RIGHT_INVITE) == 0) {
        return CRYPTO_ISSUER_RIGHT_LACKS;
    }
    if ((child->rights & ~certificate_rights_to_hand_on(issuer->rights)) != 0) {
        return CRYPTO_RIGHTS_WIDER;
    }
    if (child->not_before_s < issuer->not_before_s || child->not_after_s > issuer->not_after_s) {
        return CRYPTO_VALIDITY_WIDER;
    }
    return CRYPTO_OK;
}

static bool key_repeats(const struct link *links, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = i + 1; j < count; j++) {
            if (public_key_equal(&links[i].certificate.node, &links[j].certificate.node)) {
                return true;
            }
        }
    }
    return false;
}

// From cheap to dear: shape, links, then signatures, so that a stranger's chain costs three signature checks
// only when its last issuer claims to be an authority of this federation.
enum crypto_error chain_verify(const struct genesis *genesis, const uint8_t *chain, size_t chain_bytes,
                               int64_t wall_s, certificate_revoked *revoked, void *context,
                               struct certificate *leaf)
{
    if (genesis->threshold != 1) {
        return CRYPTO_THRESHOLD_UNHANDLED;
    }
    struct link links[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    enum crypto_error error = chain_read(chain, chain_bytes, links, &count);
    if (error != CRYPTO_OK) {
        return error;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!digest_equal(&links[i].federation, &genesis->federation)) {
            return CRYPTO_WRONG_FEDERATION;
        }
    }
    if (key_repeats(links, count)) {
        return CRYPTO_CHAIN_BROKEN;
    }
    for (uint32_t i = 0; i + 1 < count; i++) {
        error = check_issued(&links[i].certificate, &links[i + 1].certificate);
        if (error != CRYPTO_OK) {
            return error;
        }
    }
    if (!genesis_has_key(genesis, &links[count - 1].certificate.issuer)) {
        return CRYPTO_UNKNOWN_AUTHORITY;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct record record;
        error = record_verify(links[i].bytes, links[i].count, &genesis->federation, wall_s, &record);
        if (error != CRYPTO_OK) {
            return error;
        }
    }
    for (uint32_t i = 0; i < count && revoked != NULL; i++) {
        if (revoked(context, &links[i].certificate)) {
            return CRYPTO_REVOKED;
        }
    }
    *leaf = links[0].certificate;
    return CRYPTO_OK;
}

enum crypto_error chain_view(const uint8_t *chain, size_t chain_bytes,
                             struct certificate certificates[CHAIN_CERTIFICATES_MAX], uint32_t *count)
{
    struct link links[CHAIN_CERTIFICATES_MAX];
    uint32_t found;
    const enum crypto_error error = chain_read(chain, chain_bytes, links, &found);
    if (error != CRYPTO_OK) {
        return error;
    }
    for (uint32_t i = 0; i < found; i++) {
        certificates[i] = links[i].certificate;
    }
    *count = found;
    return CRYPTO_OK;
}

// ---- Issuing

enum crypto_error certificate_issue(const struct genesis *genesis, const struct issuer *issuer,
                                    const struct certificate *fields, int64_t wall_s,
                                    certificate_revoked *revoked, void *context, uint8_t *out,
                                    size_t capacity, size_t *out_bytes)
{
    uint8_t record[CERTIFICATE_BYTES_MAX];
    size_t record_bytes;
    enum crypto_error error =
        certificate_sign(&genesis->federation, issuer->secret, fields, record, sizeof record, &record_bytes);
    if (error != CRYPTO_OK) {
        return error;
    }
    uint8_t above = 0; // certificates in the issuer's chain
    struct pack_reader reader = pack_reader_of(issuer->chain, issuer->chain_bytes);
    if (issuer->chain != NULL) {
        above = unpack_u8(&reader);
        unpack_require(&reader, above < CHAIN_CERTIFICATES_MAX, CRYPTO_CHAIN_TOO_LONG);
        if (reader.error != CRYPTO_OK) {
            return reader.error;
        }
    }
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_u8(&writer, (uint8_t)(above + 1));
    pack_u16(&writer, (uint16_t)record_bytes);
    pack_bytes(&writer, record, record_bytes);
    if (issuer->chain != NULL) {
        pack_bytes(&writer, reader.at, reader.left);
    }
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    struct certificate issued;
    error = chain_verify(genesis, out, writer.count, wall_s, revoked, context, &issued);
    if (error == CRYPTO_OK) {
        *out_bytes = writer.count;
    }
    return error;
}

enum crypto_error certificate_renew(const struct genesis *genesis, const struct issuer *issuer,
                                    const uint8_t *chain, size_t chain_bytes, int64_t lifetime_s,
                                    int64_t wall_s, certificate_revoked *revoked, void *context, uint8_t *out,
                                    size_t capacity, size_t *out_bytes)
{
    if (lifetime_s <= 0 || wall_s < 0 || wall_s > RECORD_TIME_MAX_S ||
        lifetime_s > RECORD_TIME_MAX_S - wall_s) {
        return CRYPTO_MALFORMED;
    }
    struct certificate fields;
    enum crypto_error error = chain_verify(genesis, chain, chain_bytes, wall_s, revoked, context, &fields);
    if (error != CRYPTO_OK) {
        return error;
    }
    fields.not_before_s = wall_s;
    fields.not_after_s = wall_s + lifetime_s;
    if (issuer->chain != NULL) {
        struct certificate own;
        error = chain_verify(genesis, issuer->chain, issuer->chain_bytes, wall_s, revoked, context, &own);
        if (error != CRYPTO_OK) {
            return error;
        }
        // Within the tolerance of clocks, the issuer's validity may start a little later or end a little
        // earlier than this moment.
        fields.not_before_s = wall_s > own.not_before_s ? wall_s : own.not_before_s;
        fields.not_before_s = fields.not_before_s < own.not_after_s ? fields.not_before_s : own.not_after_s;
        fields.not_after_s = fields.not_after_s < own.not_after_s ? fields.not_after_s : own.not_after_s;
    }
    return certificate_issue(genesis, issuer, &fields, wall_s, revoked, context, out, capacity, out_bytes);
}
