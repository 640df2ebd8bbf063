#include "crypto/token.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <string.h>

#include "crypto/pack.h"

#define CHECKSUM_BYTES 4u

static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";

void token_secret_create(struct token *token)
{
    randombytes_buf(token->secret, sizeof token->secret);
}

struct digest token_secret_digest(const uint8_t secret[TOKEN_SECRET_BYTES])
{
    return digest_of("weir token secret 1", secret, TOKEN_SECRET_BYTES);
}

void token_wipe(struct token *token)
{
    sodium_memzero(token, sizeof *token);
}

enum crypto_error token_time_check(const struct token *token, int64_t wall_s)
{
    return wall_s > token->expires_s ? CRYPTO_EXPIRED : CRYPTO_OK;
}

// ---- Addresses

static bool port_valid(const char *text)
{
    const size_t digits = strspn(text, "0123456789");
    if (digits < 1 || digits > 5 || text[digits] != '\0' || text[0] == '0') {
        return false;
    }
    uint32_t port = 0;
    for (size_t i = 0; i < digits; i++) {
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    return port <= UINT16_MAX;
}

static bool host_valid(const char *host, size_t bytes)
{
    char copy[TOKEN_ADDRESS_BYTES_MAX + 1];
    if (bytes == 0 || bytes >= sizeof copy) {
        return false;
    }
    memcpy(copy, host, bytes);
    copy[bytes] = '\0';
    if (copy[0] == '[') {
        struct in6_addr address;
        const bool closed = copy[bytes - 1] == ']';
        copy[bytes - 1] = '\0';
        return closed && inet_pton(AF_INET6, copy + 1, &address) == 1;
    }
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    return strspn(copy, letters) == bytes && copy[0] != '.' && copy[0] != '-';
}

bool token_address_valid(const char *text)
{
    const char *colon = strrchr(text, ':');
    return strnlen(text, TOKEN_ADDRESS_BYTES_MAX + 1) <= TOKEN_ADDRESS_BYTES_MAX && colon != NULL &&
           host_valid(text, (size_t)(colon - text)) && port_valid(colon + 1);
}

// ---- Base32

// Writes ceil(8 * count / 5) characters and a NUL.
static void base32_encode(const uint8_t *bytes, size_t count, char *text)
{
    uint32_t held = 0; // bits not yet written, in the low end
    unsigned held_bits = 0;
    for (size_t i = 0; i < count; i++) {
        held = held << 8 | bytes[i];
        held_bits += 8;
        while (held_bits >= 5) {
            held_bits -= 5;
            *text++ = alphabet[held >> held_bits & 31];
        }
    }
    if (held_bits > 0) {
        *text++ = alphabet[held << (5 - held_bits) & 31];
    }
    *text = '\0';
}

// Accepts only what base32_encode writes: no character too many, no bit set in the padding.
static enum crypto_error base32_decode(const char *text, size_t count, uint8_t *out, size_t capacity,
                                       size_t *out_bytes)
{
    uint32_t held = 0;
    unsigned held_bits = 0;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const char *letter = text[i] == '\0' ? NULL : strchr(alphabet, text[i]);
        if (letter == NULL) {
            return CRYPTO_MALFORMED;
        }
        held = (held << 5 | (uint32_t)(letter - alphabet)) & 0xfff;
        held_bits += 5;
        if (held_bits >= 8) {
            if (used == capacity) {
                return CRYPTO_TOO_LARGE;
            }
            held_bits -= 8;
            out[used++] = (uint8_t)(held >> held_bits);
        }
    }
    if (held_bits >= 5 || (held & ((1u << held_bits) - 1)) != 0) {
        return CRYPTO_MALFORMED;
    }
    *out_bytes = used;
    return CRYPTO_OK;
}

// ---- Tokens

static bool token_valid(const struct token *token)
{
    if (!name_valid(token->site) || token->expires_s < 0 || token->expires_s > RECORD_TIME_MAX_S ||
        token->address_count < 1 || token->address_count > TOKEN_ADDRESSES_MAX) {
        return false;
    }
    for (uint8_t i = 0; i < token->address_count; i++) {
        if (!token_address_valid(token->addresses[i])) {
            return false;
        }
    }
    return true;
}

static struct digest checksum_of(const uint8_t *payload, size_t bytes)
{
    return digest_of("weir token 1", payload, bytes);
}

enum crypto_error token_format(const struct token *token, char *text, size_t capacity)
{
    if (!token_valid(token)) {
        return CRYPTO_MALFORMED;
    }
    uint8_t payload[TOKEN_PAYLOAD_BYTES_MAX];
    struct pack_writer writer = pack_writer_of(payload, sizeof payload);
    pack_bytes(&writer, token->federation.bytes, DIGEST_BYTES);
    pack_bytes(&writer, token->inviter.bytes, sizeof token->inviter.bytes);
    pack_bytes(&writer, token->join_curve.bytes, sizeof token->join_curve.bytes);
    pack_bytes(&writer, token->secret, sizeof token->secret);
    pack_i64(&writer, token->expires_s);
    pack_text(&writer, token->site, NAME_BYTES_MAX);
    pack_u8(&writer, token->address_count);
    for (uint8_t i = 0; i < token->address_count; i++) {
        pack_text(&writer, token->addresses[i], TOKEN_ADDRESS_BYTES_MAX);
    }
    const struct digest checksum = checksum_of(payload, writer.count);
    pack_bytes(&writer, checksum.bytes, CHECKSUM_BYTES);

    enum crypto_error error = writer.error;
    const size_t text_bytes = sizeof TOKEN_PREFIX + (writer.count * 8 + 4) / 5;
    if (error == CRYPTO_OK && capacity < text_bytes) {
        error = CRYPTO_NO_SPACE;
    }
    if (error == CRYPTO_OK) {
        memcpy(text, TOKEN_PREFIX, strlen(TOKEN_PREFIX));
        base32_encode(payload, writer.count, text + strlen(TOKEN_PREFIX));
    }
    sodium_memzero(payload, sizeof payload);
    return error;
}

// The fields of a payload whose checksum has been cut off.
static enum crypto_error token_read(const uint8_t *payload, size_t bytes, struct token *token)
{
    struct pack_reader reader = pack_reader_of(payload, bytes);
    unpack_bytes(&reader, token->federation.bytes, DIGEST_BYTES);
    unpack_bytes(&reader, token->inviter.bytes, sizeof token->inviter.bytes);
    unpack_bytes(&reader, token->join_curve.bytes, sizeof token->join_curve.bytes);
    unpack_bytes(&reader, token->secret, sizeof token->secret);
    token->expires_s = unpack_i64(&reader);
    unpack_text(&reader, token->site, NAME_BYTES_MAX);
    token->address_count = unpack_u8(&reader);
    unpack_require(&reader, token->address_count <= TOKEN_ADDRESSES_MAX, CRYPTO_TOO_LARGE);
    for (uint8_t i = 0; i < token->address_count && reader.error == CRYPTO_OK; i++) {
        unpack_text(&reader, token->addresses[i], TOKEN_ADDRESS_BYTES_MAX);
    }
    const enum crypto_error error = unpack_end(&reader);
    if (error != CRYPTO_OK) {
        return error;
    }
    return token_valid(token) ? CRYPTO_OK : CRYPTO_MALFORMED;
}

enum crypto_error token_parse(const char *text, size_t count, struct token *out)
{
    const size_t prefix_bytes = strlen(TOKEN_PREFIX);
    if (count < prefix_bytes || memcmp(text, TOKEN_PREFIX, prefix_bytes) != 0) {
        return CRYPTO_WRONG_MAGIC;
    }
    uint8_t payload[TOKEN_PAYLOAD_BYTES_MAX];
    size_t bytes = 0;
    struct token token = {0};
    enum crypto_error error =
        base32_decode(text + prefix_bytes, count - prefix_bytes, payload, sizeof payload, &bytes);
    if (error == CRYPTO_OK && bytes < CHECKSUM_BYTES) {
        error = CRYPTO_TRUNCATED;
    }
    if (error == CRYPTO_OK) {
        bytes -= CHECKSUM_BYTES;
        const struct digest checksum = checksum_of(payload, bytes);
        const bool same = memcmp(checksum.bytes, payload + bytes, CHECKSUM_BYTES) == 0;
        error = same ? token_read(payload, bytes, &token) : CRYPTO_BAD_CHECKSUM;
    }
    if (error == CRYPTO_OK) {
        *out = token;
    }
    token_wipe(&token);
    sodium_memzero(payload, sizeof payload);
    return error;
}
