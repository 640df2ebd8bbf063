// Key types. Public keys are values to copy and compare; secret keys are fixed arrays that whoever holds one
// wipes on every way out.
#ifndef WEIR_CRYPTO_KEY_H
#define WEIR_CRYPTO_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/error.h"

#define KEY_SHORT_BYTES 9u // 8 hex digits and a NUL

// Ed25519: a node, an authority, or a user. A node's public key is its id.
struct public_key {
    uint8_t bytes[32];
};
// libsodium's form: seed and public key.
struct secret_key {
    uint8_t bytes[64];
};

// X25519, as CurveZMQ takes them: raw 32 bytes.
struct curve_public {
    uint8_t bytes[32];
};
struct curve_secret {
    uint8_t bytes[32];
};

// Starts libsodium; call once before anything else in this library. CRYPTO_UNAVAILABLE means that the system
// gives no randomness, and nothing here may be used.
enum crypto_error crypto_init(void);

// Fresh random pairs.
void key_pair_create(struct public_key *public_out, struct secret_key *secret_out);
void curve_pair_create(struct curve_public *public_out, struct curve_secret *secret_out);

// The public half of a secret.
struct public_key key_public(const struct secret_key *secret);
struct curve_public curve_public_of(const struct curve_secret *secret);

void secret_key_wipe(struct secret_key *secret);
void curve_secret_wipe(struct curve_secret *secret);

bool public_key_equal(const struct public_key *a, const struct public_key *b);
int public_key_compare(const struct public_key *a, const struct public_key *b); // order by bytes
bool curve_public_equal(const struct curve_public *a, const struct curve_public *b);

// The first 8 hex digits, as people see a node's id.
void key_short(const struct public_key *key, char text[KEY_SHORT_BYTES]);

// Is this 1 to NAME_BYTES_MAX of [a-z0-9-], neither first nor last a hyphen? The rule for the names of
// federations, sites and nodes. `text` ends with a NUL.
bool name_valid(const char *text);

#endif
