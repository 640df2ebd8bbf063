#include "crypto/identity.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "crypto/keyfile.h"
#include "crypto/pack.h"

#define NODE_FILE "node.key"
#define NODE_MAGIC "weir node key 1"
#define JOIN_FILE "join.key"
#define JOIN_MAGIC "weir join key 1"
#define AUTHORITY_FILE "authority.key"
#define AUTHORITY_MAGIC "weir authority 1"

// Payloads: node.key holds the Ed25519 seed, the CURVE secret and the join key's public half; join.key the
// CURVE secret; authority.key the Ed25519 seed. Public halves are computed again when a file is loaded.
#define SEED_BYTES 32u
#define NODE_PAYLOAD_BYTES (SEED_BYTES + 32u + 32u)
#define JOIN_PAYLOAD_BYTES 32u
#define AUTHORITY_PAYLOAD_BYTES SEED_BYTES

_Static_assert(SEED_BYTES == crypto_sign_SEEDBYTES, "Ed25519 seed");

void identity_wipe(struct identity *identity)
{
    sodium_memzero(identity, sizeof *identity);
}

void join_identity_wipe(struct join_identity *identity)
{
    sodium_memzero(identity, sizeof *identity);
}

void authority_wipe(struct authority *authority)
{
    sodium_memzero(authority, sizeof *authority);
}

// ---- node.key

static enum crypto_error node_write(const struct keyfile_folder *folder, const struct identity *identity,
                                    bool replace, struct crypto_advice *advice)
{
    uint8_t payload[NODE_PAYLOAD_BYTES];
    crypto_sign_ed25519_sk_to_seed(payload, identity->node_secret.bytes);
    memcpy(payload + SEED_BYTES, identity->curve_secret.bytes, sizeof identity->curve_secret.bytes);
    memcpy(payload + SEED_BYTES + 32, identity->join_curve.bytes, sizeof identity->join_curve.bytes);
    const enum crypto_error error =
        keyfile_write(folder, NODE_FILE, NODE_MAGIC, payload, sizeof payload, replace, advice);
    sodium_memzero(payload, sizeof payload);
    return error;
}

static enum crypto_error node_read(const struct keyfile_folder *folder, struct identity *out,
                                   struct crypto_advice *advice)
{
    uint8_t payload[NODE_PAYLOAD_BYTES];
    const enum crypto_error error =
        keyfile_read(folder, NODE_FILE, NODE_MAGIC, payload, sizeof payload, advice);
    if (error == CRYPTO_OK) {
        crypto_sign_seed_keypair(out->node.bytes, out->node_secret.bytes, payload);
        memcpy(out->curve_secret.bytes, payload + SEED_BYTES, sizeof out->curve_secret.bytes);
        out->curve = curve_public_of(&out->curve_secret);
        memcpy(out->join_curve.bytes, payload + SEED_BYTES + 32, sizeof out->join_curve.bytes);
    }
    sodium_memzero(payload, sizeof payload);
    return error;
}

// ---- join.key

static enum crypto_error join_read(const struct keyfile_folder *folder, struct join_identity *out,
                                   struct crypto_advice *advice)
{
    uint8_t payload[JOIN_PAYLOAD_BYTES];
    const enum crypto_error error =
        keyfile_read(folder, JOIN_FILE, JOIN_MAGIC, payload, sizeof payload, advice);
    if (error == CRYPTO_OK) {
        memcpy(out->curve_secret.bytes, payload, sizeof payload);
        out->curve = curve_public_of(&out->curve_secret);
    }
    sodium_memzero(payload, sizeof payload);
    return error;
}

// Takes over the join key of a create that was cut short, else makes one; `out` gets its public half.
static enum crypto_error join_take_or_create(const struct keyfile_folder *folder, struct curve_public *out,
                                             struct crypto_advice *advice)
{
    struct join_identity join;
    enum crypto_error error = join_read(folder, &join, advice);
    if (error == CRYPTO_KEY_MISSING) {
        curve_pair_create(&join.curve, &join.curve_secret);
        error = keyfile_write(folder, JOIN_FILE, JOIN_MAGIC, join.curve_secret.bytes, JOIN_PAYLOAD_BYTES,
                              false, advice);
    }
    if (error == CRYPTO_OK) {
        *out = join.curve;
    }
    join_identity_wipe(&join);
    return error;
}

enum crypto_error join_identity_load(const char *folder, struct join_identity *out,
                                     struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, false, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    error = join_read(&opened, out, advice);
    keyfile_folder_close(&opened);
    return error;
}

// ---- The node's identity

enum crypto_error identity_create(const char *folder, struct identity *out, struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, true, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    struct identity identity;
    if (keyfile_exists(&opened, NODE_FILE)) {
        error = CRYPTO_KEY_EXISTS;
        if (advice != NULL) {
            snprintf(advice->text, sizeof advice->text, "%.900s already holds a node's keys (%s)", folder,
                     NODE_FILE);
        }
    }
    if (error == CRYPTO_OK) {
        error = join_take_or_create(&opened, &identity.join_curve, advice);
    }
    if (error == CRYPTO_OK) {
        key_pair_create(&identity.node, &identity.node_secret);
        curve_pair_create(&identity.curve, &identity.curve_secret);
        error = node_write(&opened, &identity, false, advice);
    }
    if (error == CRYPTO_OK) {
        *out = identity;
    }
    identity_wipe(&identity);
    keyfile_folder_close(&opened);
    return error;
}

enum crypto_error identity_load(const char *folder, struct identity *out, struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, false, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    error = node_read(&opened, out, advice);
    keyfile_folder_close(&opened);
    return error;
}

enum crypto_error identity_save(const char *folder, const struct identity *identity,
                                struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, false, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    error = node_write(&opened, identity, true, advice);
    keyfile_folder_close(&opened);
    return error;
}

// ---- The authority

enum crypto_error authority_create(const char *folder, struct authority *out, struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, true, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    struct authority authority;
    uint8_t seed[SEED_BYTES];
    randombytes_buf(seed, sizeof seed);
    crypto_sign_seed_keypair(authority.key.bytes, authority.secret.bytes, seed);
    error = keyfile_write(&opened, AUTHORITY_FILE, AUTHORITY_MAGIC, seed, sizeof seed, false, advice);
    sodium_memzero(seed, sizeof seed);
    if (error == CRYPTO_OK) {
        *out = authority;
    }
    authority_wipe(&authority);
    keyfile_folder_close(&opened);
    return error;
}

enum crypto_error authority_load(const char *folder, struct authority *out, struct crypto_advice *advice)
{
    struct keyfile_folder opened;
    enum crypto_error error = keyfile_folder_open(folder, false, &opened, advice);
    if (error != CRYPTO_OK) {
        return error;
    }
    uint8_t seed[AUTHORITY_PAYLOAD_BYTES];
    error = keyfile_read(&opened, AUTHORITY_FILE, AUTHORITY_MAGIC, seed, sizeof seed, advice);
    if (error == CRYPTO_OK) {
        crypto_sign_seed_keypair(out->key.bytes, out->secret.bytes, seed);
    }
    sodium_memzero(seed, sizeof seed);
    keyfile_folder_close(&opened);
    return error;
}
