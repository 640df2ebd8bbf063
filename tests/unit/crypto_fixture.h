// What the crypto tests and fuzz targets share: keys from fixed seeds, one federation, and a hand-written
// encoder of certificates and chains that checks nothing, so that tests can forge what the library refuses to
// make.
#ifndef WEIR_TESTS_CRYPTO_FIXTURE_H
#define WEIR_TESTS_CRYPTO_FIXTURE_H

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "crypto/certificate.h"

#define FIXTURE_NOW_S INT64_C(1800000000)
#define FIXTURE_DAY_S INT64_C(86400)

// Seeds of the players.
enum fixture_player {
    FIXTURE_AUTHORITY = 1,
    FIXTURE_STRANGER = 2, // an authority of some other federation
    FIXTURE_ALICE = 10,
    FIXTURE_BOB = 11,
    FIXTURE_CAROL = 12,
    FIXTURE_DAVE = 13,
};

struct fixture_chain {
    uint8_t bytes[8192]; // room for chains that are too long
    size_t count;
};

static inline struct secret_key fixture_secret(enum fixture_player player)
{
    uint8_t seed[32];
    memset(seed, (int)player, sizeof seed);
    struct public_key ignored;
    struct secret_key secret;
    crypto_sign_seed_keypair(ignored.bytes, secret.bytes, seed);
    return secret;
}

static inline struct public_key fixture_key(enum fixture_player player)
{
    const struct secret_key secret = fixture_secret(player);
    return key_public(&secret);
}

static inline struct genesis fixture_genesis(uint8_t *bytes, size_t capacity, size_t *count)
{
    struct genesis genesis = {
        .name = "river", .created_s = FIXTURE_NOW_S - 100 * FIXTURE_DAY_S, .threshold = 1};
    genesis.key_count = 1;
    genesis.keys[0] = fixture_key(FIXTURE_AUTHORITY);
    const enum crypto_error error = genesis_encode(&genesis, bytes, capacity, count);
    assert(error == CRYPTO_OK);
    return genesis;
}

// A certificate as the library would issue it, valid 30 days from a day ago; change what the test is about.
static inline struct certificate fixture_certificate(enum fixture_player issuer, enum fixture_player holder,
                                                     uint32_t rights)
{
    struct certificate certificate = {
        .node = fixture_key(holder),
        .rights = rights,
        .site = "ashburn",
        .name = "node-1",
        .not_before_s = FIXTURE_NOW_S - FIXTURE_DAY_S,
        .not_after_s = FIXTURE_NOW_S + 29 * FIXTURE_DAY_S,
        .issuer = fixture_key(issuer),
    };
    memset(certificate.serial, (int)holder, sizeof certificate.serial);
    memset(certificate.curve.bytes, (int)holder + 100, sizeof certificate.curve.bytes);
    memset(certificate.join_curve.bytes, (int)holder + 150, sizeof certificate.join_curve.bytes);
    return certificate;
}

static inline size_t fixture_put_text(uint8_t *out, const char *text)
{
    const size_t bytes = strlen(text);
    out[0] = (uint8_t)bytes;
    memcpy(out + 1, text, bytes);
    return 1 + bytes;
}

// The certificate's record, signed by `issuer`, without any check of rights or names.
static inline size_t fixture_forge(const struct digest *federation, enum fixture_player issuer,
                                   const struct certificate *certificate, uint8_t *out, size_t capacity)
{
    uint8_t body[1024];
    size_t used = 0;
    memcpy(body, certificate->serial, 16);
    memcpy(body + 16, certificate->node.bytes, 32);
    memcpy(body + 48, certificate->curve.bytes, 32);
    memcpy(body + 80, certificate->join_curve.bytes, 32);
    for (used = 112; used < 116; used++) {
        body[used] = (uint8_t)(certificate->rights >> (8 * (used - 112)));
    }
    used += fixture_put_text(body + used, certificate->site);
    used += fixture_put_text(body + used, certificate->name);
    const struct secret_key secret = fixture_secret(issuer);
    const struct record record = {
        .federation = *federation,
        .kind = RECORD_CERTIFICATE,
        .origin = key_public(&secret),
        .not_before_s = certificate->not_before_s,
        .not_after_s = certificate->not_after_s,
        .body = body,
        .body_bytes = (uint32_t)used,
    };
    size_t count;
    const enum crypto_error error = record_sign(&record, &secret, out, capacity, &count);
    assert(error == CRYPTO_OK);
    return count;
}

// Puts a forged certificate in front of a chain, which starts empty (count 0).
static inline void fixture_prepend(struct fixture_chain *chain, const struct digest *federation,
                                   enum fixture_player issuer, const struct certificate *certificate)
{
    uint8_t record[2048];
    const size_t count = fixture_forge(federation, issuer, certificate, record, sizeof record);
    struct fixture_chain longer = {.count = 1};
    longer.bytes[0] = (uint8_t)((chain->count == 0 ? 0 : chain->bytes[0]) + 1);
    longer.bytes[longer.count++] = (uint8_t)count;
    longer.bytes[longer.count++] = (uint8_t)(count >> 8);
    memcpy(longer.bytes + longer.count, record, count);
    longer.count += count;
    if (chain->count > 0) {
        memcpy(longer.bytes + longer.count, chain->bytes + 1, chain->count - 1);
        longer.count += chain->count - 1;
    }
    *chain = longer;
}

#endif
