// One-time join tokens: what an inviter prints and a new node is given, by a channel that the operator
// trusts.
//
//     weir-join-1-<base32>
//
// The base32 (RFC 4648 alphabet, lower case, no padding) holds, little-endian:
//
//      32  federation id            pins which federation is joined
//      32  the inviter's node key   pins who signs the certificate
//      32  the inviter's join CURVE key   pins who is spoken to
//      32  secret                   proves that the holder was invited
//       8  expiry, seconds since 1970
//     1+n  site name
//       1  number of addresses, 1 to TOKEN_ADDRESSES_MAX; each 1+n bytes host:port
//       4  first bytes of digest("weir token 1", all before), against mistyping
//
// A token has exactly one spelling; a parser that is given any other refuses it. The inviter keeps only the
// digest of the secret (token_secret_digest), with what it decided for the guest, and forgets it once used.
#ifndef WEIR_CRYPTO_TOKEN_H
#define WEIR_CRYPTO_TOKEN_H

#include "crypto/certificate.h"

#define TOKEN_PREFIX "weir-join-1-"
#define TOKEN_SECRET_BYTES 32u
#define TOKEN_PAYLOAD_BYTES_MAX                                                                              \
    (4u * 32u + 8u + 1u + NAME_BYTES_MAX + 1u + TOKEN_ADDRESSES_MAX * (1u + TOKEN_ADDRESS_BYTES_MAX) + 4u)
// Text with its NUL: 8 characters for 5 bytes, rounded up.
#define TOKEN_TEXT_BYTES_MAX (sizeof TOKEN_PREFIX + (TOKEN_PAYLOAD_BYTES_MAX * 8u + 4u) / 5u)

struct token {
    struct digest federation;
    struct public_key inviter;
    struct curve_public join_curve;
    uint8_t secret[TOKEN_SECRET_BYTES];
    int64_t expires_s;
    char site[NAME_BYTES_MAX + 1];
    uint8_t address_count;
    char addresses[TOKEN_ADDRESSES_MAX][TOKEN_ADDRESS_BYTES_MAX + 1];
};

// Draws the secret. The caller fills the rest.
void token_secret_create(struct token *token);

// CRYPTO_MALFORMED for a bad name, address, time or count; CRYPTO_NO_SPACE below the needed size, for which
// TOKEN_TEXT_BYTES_MAX always suffices. `text` gets a NUL.
enum crypto_error token_format(const struct token *token, char *text, size_t capacity);

// `count` characters, without white space around them. CRYPTO_WRONG_MAGIC for another prefix,
// CRYPTO_MALFORMED for a character outside the alphabet or a bad field, CRYPTO_BAD_CHECKSUM for a typing
// error, CRYPTO_TRUNCATED, CRYPTO_TRAILING, CRYPTO_TOO_LARGE. Expiry is not judged here: see
// token_time_check.
enum crypto_error token_parse(const char *text, size_t count, struct token *out);

// CRYPTO_EXPIRED once wall_s is past the expiry; no tolerance, since the inviter judges by the same clock
// that set it. A guest with another clock only warns.
enum crypto_error token_time_check(const struct token *token, int64_t wall_s);

// What the inviter stores: digest("weir token secret 1", secret).
struct digest token_secret_digest(const uint8_t secret[TOKEN_SECRET_BYTES]);
void token_wipe(struct token *token);

// host:port with a port of 1 to 65535; host is a name, an IPv4 address, or an IPv6 address in brackets.
bool token_address_valid(const char *text);

#endif
