// Records from a peer. Whatever verifies must read the same way twice, and must stop verifying when a byte of
// it changes. The fuzzer can't sign, so every input is also tried re-signed with a known key: that carries it
// past the signature, to the checks of the fields.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/crypto_fixture.h"

static void check_view(const struct record *record, const uint8_t *data, size_t size)
{
    if (record->body != data + RECORD_HEADER_BYTES || record->body_bytes > RECORD_BODY_BYTES_MAX ||
        RECORD_OVERHEAD_BYTES + record->body_bytes != size || record->kind == 0 ||
        record->not_before_s > record->not_after_s) {
        abort();
    }
}

// The input with its origin and signature replaced by ones that verify.
static void verify_signed_again(const struct record *seen, const uint8_t *data, size_t size)
{
    const struct secret_key secret = fixture_secret(FIXTURE_ALICE);
    struct record record = *seen;
    record.origin = key_public(&secret);
    uint8_t *copy = malloc(size);
    size_t count;
    if (copy == NULL || record_sign(&record, &secret, copy, size, &count) != CRYPTO_OK || count != size ||
        memcmp(copy, data, 50) != 0 ||
        memcmp(copy + 82, data + 82, size - 82 - RECORD_SIGNATURE_BYTES) != 0) {
        abort(); // encoding what was read must give the bytes that were read
    }
    struct record again;
    if (record_verify(copy, count, &record.federation, record.not_before_s, &again) != CRYPTO_OK) {
        abort();
    }
    check_view(&again, copy, count);
    copy[size / 2] ^= 1;
    if (record_verify(copy, count, &record.federation, record.not_before_s, &again) == CRYPTO_OK) {
        abort();
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (crypto_init() != CRYPTO_OK) {
        abort();
    }
    struct digest federation;
    memset(federation.bytes, 0xfe, sizeof federation.bytes);
    struct record record;
    if (record_verify(data, size, &federation, FIXTURE_NOW_S, &record) == CRYPTO_OK) {
        check_view(&record, data, size);
    }
    if (record_view(data, size, &record) == CRYPTO_OK) {
        check_view(&record, data, size);
        verify_signed_again(&record, data, size);
    }
    return 0;
}
