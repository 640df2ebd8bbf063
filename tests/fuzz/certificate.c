// What strangers show: genesis, chains, revocations, presentations. The first byte chooses the decoder.
// Besides the input as it is, a chain's certificates and a revocation are tried signed again with known keys,
// so that the fuzzer reaches what lies behind the signatures.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/crypto_fixture.h"
#include "crypto/join.h"
#include "crypto/revocation.h"

static struct genesis river;

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void fuzz_genesis(const uint8_t *data, size_t size)
{
    struct genesis genesis;
    if (genesis_decode(data, size, &genesis) != CRYPTO_OK || genesis.threshold != 1) {
        return;
    }
    uint8_t again[GENESIS_BYTES_MAX];
    size_t count;
    require(genesis_encode(&genesis, again, sizeof again, &count) == CRYPTO_OK);
    require(count == size && memcmp(again, data, size) == 0); // one spelling only
}

static void check_certificate(const struct certificate *certificate)
{
    require(name_valid(certificate->site) && name_valid(certificate->name));
    require(certificate->rights != 0 && (certificate->rights & ~RIGHTS_ALL) == 0);
    require(certificate->not_before_s <= certificate->not_after_s);
}

static void fuzz_chain(const uint8_t *data, size_t size)
{
    struct certificate certificates[CHAIN_CERTIFICATES_MAX];
    struct certificate leaf;
    uint32_t count;
    const bool verified = chain_verify(&river, data, size, FIXTURE_NOW_S, NULL, NULL, &leaf) == CRYPTO_OK;
    if (chain_view(data, size, certificates, &count) != CRYPTO_OK) {
        require(!verified);
        return;
    }
    require(count >= 1 && count <= CHAIN_CERTIFICATES_MAX);

    // The same certificates, signed by players who hold the right keys: authority -> alice -> bob -> carol.
    static const enum fixture_player players[] = {FIXTURE_AUTHORITY, FIXTURE_ALICE, FIXTURE_BOB,
                                                  FIXTURE_CAROL};
    struct fixture_chain chain = {0};
    for (uint32_t i = count; i-- > 0;) {
        check_certificate(&certificates[i]);
        certificates[i].node = fixture_key(players[count - i]);
        fixture_prepend(&chain, &river.federation, players[count - i - 1], &certificates[i]);
    }
    if (chain_verify(&river, chain.bytes, chain.count, FIXTURE_NOW_S, NULL, NULL, &leaf) == CRYPTO_OK) {
        check_certificate(&leaf);
        for (uint32_t i = 0; i + 1 < count; i++) {
            require((certificates[i].rights & ~certificates[i + 1].rights) == 0);
            require(certificates[i].not_after_s <= certificates[i + 1].not_after_s);
        }
    }
}

static void fuzz_revocation(const uint8_t *data, size_t size)
{
    struct revocation revocation;
    struct record record;
    (void)revocation_verify(&river, data, size, FIXTURE_NOW_S, &revocation);
    if (record_view(data, size, &record) != CRYPTO_OK) {
        return;
    }
    const struct secret_key secret = fixture_secret(FIXTURE_AUTHORITY);
    record.federation = river.federation;
    record.kind = RECORD_REVOCATION;
    record.origin = key_public(&secret);
    record.incarnation = record.sequence = 0;
    uint8_t *copy = malloc(size);
    size_t count = 0;
    require(copy != NULL && record_sign(&record, &secret, copy, size, &count) == CRYPTO_OK);
    if (revocation_verify(&river, copy, count, record.not_before_s, &revocation) == CRYPTO_OK) {
        require(revocation.target_count >= 1 && revocation.target_count <= REVOCATION_TARGETS_MAX);
        require(strlen(revocation.reason) <= REVOCATION_REASON_BYTES_MAX);
        const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
        (void)revocation_names(&revocation, &bob);
    }
    free(copy);
}

static void fuzz_presentation(const uint8_t *data, size_t size)
{
    static const uint8_t nonce[PRESENTATION_NONCE_BYTES] = {42};
    const struct public_key alice = fixture_key(FIXTURE_ALICE);
    const uint8_t *chain;
    size_t chain_bytes;
    struct certificate leaf;
    if (presentation_verify(data, size, &river, &alice, nonce, FIXTURE_NOW_S, NULL, NULL, &chain,
                            &chain_bytes, &leaf) == CRYPTO_OK) {
        require(chain >= data && chain + chain_bytes <= data + size);
        check_certificate(&leaf);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t genesis[GENESIS_BYTES_MAX];
    static size_t genesis_bytes;
    if (genesis_bytes == 0) {
        require(crypto_init() == CRYPTO_OK);
        river = fixture_genesis(genesis, sizeof genesis, &genesis_bytes);
    }
    if (size == 0) {
        return 0;
    }
    switch (data[0] % 4) {
    case 0:
        fuzz_genesis(data + 1, size - 1);
        break;
    case 1:
        fuzz_chain(data + 1, size - 1);
        break;
    case 2:
        fuzz_revocation(data + 1, size - 1);
        break;
    default:
        fuzz_presentation(data + 1, size - 1);
        break;
    }
    return 0;
}
