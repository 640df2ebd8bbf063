#include "crypto/key.h"

#include <sodium.h>
#include <string.h>

#include "crypto/digest.h"
#include "crypto/limits.h"

_Static_assert(sizeof(struct public_key) == crypto_sign_PUBLICKEYBYTES, "Ed25519 public key");
_Static_assert(sizeof(struct secret_key) == crypto_sign_SECRETKEYBYTES, "Ed25519 secret key");
_Static_assert(sizeof(struct curve_public) == crypto_box_PUBLICKEYBYTES, "X25519 public key");
_Static_assert(sizeof(struct curve_secret) == crypto_box_SECRETKEYBYTES, "X25519 secret key");

enum crypto_error crypto_init(void)
{
    return sodium_init() < 0 ? CRYPTO_UNAVAILABLE : CRYPTO_OK;
}

void key_pair_create(struct public_key *public_out, struct secret_key *secret_out)
{
    crypto_sign_keypair(public_out->bytes, secret_out->bytes);
}

void curve_pair_create(struct curve_public *public_out, struct curve_secret *secret_out)
{
    crypto_box_keypair(public_out->bytes, secret_out->bytes);
}

struct public_key key_public(const struct secret_key *secret)
{
    struct public_key key;
    crypto_sign_ed25519_sk_to_pk(key.bytes, secret->bytes);
    return key;
}

struct curve_public curve_public_of(const struct curve_secret *secret)
{
    struct curve_public key;
    crypto_scalarmult_base(key.bytes, secret->bytes);
    return key;
}

void secret_key_wipe(struct secret_key *secret)
{
    sodium_memzero(secret, sizeof *secret);
}

void curve_secret_wipe(struct curve_secret *secret)
{
    sodium_memzero(secret, sizeof *secret);
}

bool public_key_equal(const struct public_key *a, const struct public_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

int public_key_compare(const struct public_key *a, const struct public_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

bool curve_public_equal(const struct curve_public *a, const struct curve_public *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void key_short(const struct public_key *key, char text[KEY_SHORT_BYTES])
{
    hex_encode(key->bytes, (KEY_SHORT_BYTES - 1) / 2, text);
}

bool name_valid(const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    const size_t bytes = strnlen(text, NAME_BYTES_MAX + 1);
    return bytes >= 1 && bytes <= NAME_BYTES_MAX && strspn(text, letters) == bytes && text[0] != '-' &&
           text[bytes - 1] != '-';
}
