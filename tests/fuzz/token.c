// Tokens that people paste, and the join messages. The first byte chooses. What parses as a token must print
// as the very text it came from; a payload is also tried with its checksum put right, and a request signed
// again, so that the fuzzer reaches the fields.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/crypto_fixture.h"
#include "crypto/join.h"

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void fuzz_text(const char *text, size_t size)
{
    struct token token;
    char again[TOKEN_TEXT_BYTES_MAX];
    if (token_parse(text, size, &token) == CRYPTO_OK) {
        require(token_format(&token, again, sizeof again) == CRYPTO_OK);
        require(strlen(again) == size && memcmp(again, text, size) == 0);
    }
}

// The input as a token's payload: adds the checksum and spells it in base32.
static void fuzz_payload(const uint8_t *data, size_t size)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint8_t payload[2 * TOKEN_PAYLOAD_BYTES_MAX];
    if (size > sizeof payload - 4) {
        return;
    }
    const struct digest checksum = digest_of("weir token 1", data, size);
    memcpy(payload, data, size);
    memcpy(payload + size, checksum.bytes, 4);
    char text[sizeof TOKEN_PREFIX + 2 * sizeof payload] = TOKEN_PREFIX;
    size_t used = strlen(TOKEN_PREFIX);
    for (size_t bit = 0; bit < 8 * (size + 4); bit += 5) {
        unsigned digit = 0;
        for (size_t i = bit; i < bit + 5; i++) {
            digit = digit << 1 | (i < 8 * (size + 4) ? payload[i / 8] >> (7 - i % 8) & 1u : 0u);
        }
        text[used++] = alphabet[digit];
    }
    fuzz_text(text, used);
}

static void fuzz_request(const uint8_t *data, size_t size)
{
    const struct secret_key secret = fixture_secret(FIXTURE_BOB);
    const struct public_key alice = fixture_key(FIXTURE_ALICE);
    struct digest federation;
    struct join_request request;
    memset(federation.bytes, 0xfe, sizeof federation.bytes);
    (void)join_request_verify(data, size, &federation, &alice, &request);
    if (size < 16 + 6 * 32 + 64) {
        return;
    }
    uint8_t *copy = malloc(size);
    require(copy != NULL);
    const struct public_key bob = key_public(&secret);
    memcpy(copy, data, size);
    memcpy(copy + 16, federation.bytes, 32);
    memcpy(copy + 48, alice.bytes, 32);
    memcpy(copy + 112, bob.bytes, 32);
    crypto_sign_detached(copy + size - 64, NULL, copy, size - 64, secret.bytes);
    if (join_request_verify(copy, size, &federation, &alice, &request) == CRYPTO_OK) {
        require(size <= JOIN_REQUEST_BYTES_MAX && name_valid(request.name));
    }
    free(copy);
}

static void fuzz_response(const uint8_t *data, size_t size)
{
    const struct token token = {.site = "lisbon", .inviter = fixture_key(FIXTURE_ALICE)};
    const struct identity bob = {.node = fixture_key(FIXTURE_BOB)};
    struct join_response response;
    require(join_response_verify(data, size, &token, &bob, FIXTURE_NOW_S, &response) != CRYPTO_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    require(crypto_init() == CRYPTO_OK);
    if (size == 0) {
        return 0;
    }
    switch (data[0] % 4) {
    case 0:
        fuzz_text((const char *)data + 1, size - 1);
        break;
    case 1:
        fuzz_payload(data + 1, size - 1);
        break;
    case 2:
        fuzz_request(data + 1, size - 1);
        break;
    default:
        fuzz_response(data + 1, size - 1);
        break;
    }
    return 0;
}
