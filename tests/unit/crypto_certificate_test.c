// Genesis, certificates, chains and revocations: what the library issues verifies, and what it would never
// issue is refused when somebody forges it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/revocation.h"
#include "crypto_fixture.h"

static struct genesis river;
static uint8_t river_bytes[GENESIS_BYTES_MAX];
static size_t river_count;

static enum crypto_error verify(const struct fixture_chain *chain, struct certificate *leaf)
{
    return chain_verify(&river, chain->bytes, chain->count, FIXTURE_NOW_S, NULL, NULL, leaf);
}

static void extend(struct fixture_chain *chain, enum fixture_player issuer,
                   const struct certificate *certificate)
{
    fixture_prepend(chain, &river.federation, issuer, certificate);
}

// authority -> alice (all rights)
static struct fixture_chain chain_of_alice(void)
{
    struct fixture_chain chain = {0};
    const struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, RIGHTS_ALL);
    extend(&chain, FIXTURE_AUTHORITY, &alice);
    return chain;
}

static void assert_error_name(enum crypto_error found, enum crypto_error expected)
{
    assert_string_equal(crypto_error_name(found), crypto_error_name(expected));
}

// ---- Genesis

static void a_genesis_keeps_its_fields_and_sorts_its_keys(void **state)
{
    (void)state;
    struct genesis genesis = {
        .name = "river", .created_s = 5, .threshold = 1, .key_count = AUTHORITY_KEYS_MAX};
    for (int i = 0; i < (int)AUTHORITY_KEYS_MAX; i++) {
        memset(genesis.keys[i].bytes, 200 - i, 32);
    }
    uint8_t bytes[GENESIS_BYTES_MAX];
    size_t count;
    assert_int_equal(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_OK);
    struct genesis back;
    assert_int_equal(genesis_decode(bytes, count, &back), CRYPTO_OK);
    assert_string_equal(back.name, "river");
    assert_int_equal(back.key_count, AUTHORITY_KEYS_MAX);
    assert_true(digest_equal(&back.federation, &genesis.federation));
    for (int i = 0; i < (int)AUTHORITY_KEYS_MAX; i++) {
        assert_int_equal(back.keys[i].bytes[0], 193 + i);
        assert_true(genesis_has_key(&back, &genesis.keys[i]));
    }
    const struct public_key stranger = fixture_key(FIXTURE_STRANGER);
    assert_false(genesis_has_key(&back, &stranger));
    assert_int_equal(genesis_encode(&genesis, bytes, count - 1, &count), CRYPTO_NO_SPACE);
}

// The value was computed in Python from the layout in certificate.h.
static void the_federation_id_is_fixed(void **state)
{
    (void)state;
    char text[DIGEST_HEX_BYTES];
    digest_to_hex(&river.federation, text);
    assert_string_equal(text, "af6a4fa2ba73f44d6feb37a04626ac6b5a7f82112664896155bf29fcd73cc94a");
}

static void a_genesis_that_is_cut_or_wrong_is_refused(void **state)
{
    (void)state;
    struct genesis out;
    for (size_t cut = 0; cut < river_count; cut++) {
        assert_error_name(genesis_decode(river_bytes, cut, &out), CRYPTO_TRUNCATED);
    }
    uint8_t bytes[GENESIS_BYTES_MAX + 1] = {0};
    memcpy(bytes, river_bytes, river_count);
    assert_error_name(genesis_decode(bytes, river_count + 1, &out), CRYPTO_TRAILING);
    bytes[13] = '2';
    assert_error_name(genesis_decode(bytes, river_count, &out), CRYPTO_WRONG_MAGIC);
    bytes[13] = river_bytes[13];
    bytes[25] = AUTHORITY_KEYS_MAX + 1;
    assert_error_name(genesis_decode(bytes, river_count, &out), CRYPTO_TOO_LARGE);
    bytes[25] = 1;
    bytes[24] = 0; // threshold
    assert_error_name(genesis_decode(bytes, river_count, &out), CRYPTO_MALFORMED);
    bytes[24] = 2; // more than there are keys
    assert_error_name(genesis_decode(bytes, river_count, &out), CRYPTO_MALFORMED);
    bytes[24] = 1;
    bytes[river_count - 1] = 'R'; // name
    assert_error_name(genesis_decode(bytes, river_count, &out), CRYPTO_MALFORMED);

    struct genesis genesis = river;
    size_t count;
    genesis.key_count = 2;
    genesis.keys[1] = genesis.keys[0];
    assert_error_name(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_MALFORMED);
    genesis.key_count = 0;
    assert_error_name(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_MALFORMED);
    genesis.key_count = AUTHORITY_KEYS_MAX + 1;
    assert_error_name(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_MALFORMED);
}

// A federation that asks for two signatures must not be served by code that checks one.
static void a_threshold_above_one_is_read_but_verifies_nothing(void **state)
{
    (void)state;
    struct genesis genesis = river;
    genesis.key_count = 2;
    genesis.keys[1] = fixture_key(FIXTURE_STRANGER);
    uint8_t bytes[GENESIS_BYTES_MAX];
    size_t count;
    assert_int_equal(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_OK);
    bytes[24] = 2;
    struct genesis two;
    assert_int_equal(genesis_decode(bytes, count, &two), CRYPTO_OK);
    genesis.threshold = 2;
    assert_error_name(genesis_encode(&genesis, bytes, sizeof bytes, &count), CRYPTO_THRESHOLD_UNHANDLED);

    struct fixture_chain chain = {0};
    const struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, RIGHTS_ALL);
    fixture_prepend(&chain, &two.federation, FIXTURE_AUTHORITY, &alice);
    struct certificate leaf;
    assert_error_name(chain_verify(&two, chain.bytes, chain.count, FIXTURE_NOW_S, NULL, NULL, &leaf),
                      CRYPTO_THRESHOLD_UNHANDLED);
    const struct secret_key secret = fixture_secret(FIXTURE_AUTHORITY);
    const struct issuer issuer = {.secret = &secret};
    struct revocation fields = {.who = "ops", .revoked_s = FIXTURE_NOW_S, .kept_until_s = FIXTURE_NOW_S + 9};
    fields.target_count = 1;
    fields.targets[0].type = REVOCATION_NODE_KEY;
    uint8_t record[REVOCATION_BYTES_MAX];
    assert_error_name(revocation_sign(&two, &issuer, &fields, record, sizeof record, &count),
                      CRYPTO_THRESHOLD_UNHANDLED);
}

// ---- Issuing and chains

static void assert_same_certificate(const struct certificate *a, const struct certificate *b)
{
    assert_true(public_key_equal(&a->node, &b->node));
    assert_true(curve_public_equal(&a->curve, &b->curve));
    assert_true(curve_public_equal(&a->join_curve, &b->join_curve));
    assert_int_equal(a->rights, b->rights);
    assert_string_equal(a->site, b->site);
    assert_string_equal(a->name, b->name);
    assert_true(a->not_before_s == b->not_before_s);
    assert_true(a->not_after_s == b->not_after_s);
    assert_true(public_key_equal(&a->issuer, &b->issuer));
}

// Issues through the library, three deep.
static void a_chain_of_three_issues_and_verifies(void **state)
{
    (void)state;
    static const enum fixture_player players[] = {FIXTURE_AUTHORITY, FIXTURE_ALICE, FIXTURE_BOB,
                                                  FIXTURE_CAROL, FIXTURE_DAVE};
    uint8_t chains[4][CHAIN_BYTES_MAX + CERTIFICATE_BYTES_MAX];
    size_t counts[4] = {0};
    for (size_t i = 0; i < 4; i++) {
        const struct secret_key secret = fixture_secret(players[i]);
        const struct issuer issuer = {.secret = &secret,
                                      .chain = i == 0 ? NULL : chains[i - 1],
                                      .chain_bytes = i == 0 ? 0 : counts[i - 1]};
        const struct certificate fields = fixture_certificate(players[i], players[i + 1], RIGHTS_ALL);
        const enum crypto_error error = certificate_issue(&river, &issuer, &fields, FIXTURE_NOW_S, NULL, NULL,
                                                          chains[i], sizeof chains[i], &counts[i]);
        if (i == 3) {
            assert_error_name(error, CRYPTO_CHAIN_TOO_LONG);
            break;
        }
        assert_error_name(error, CRYPTO_OK);
        struct certificate leaf;
        assert_error_name(chain_verify(&river, chains[i], counts[i], FIXTURE_NOW_S, NULL, NULL, &leaf),
                          CRYPTO_OK);
        assert_same_certificate(&leaf, &fields);
        assert_memory_not_equal(leaf.serial, fields.serial, sizeof leaf.serial); // drawn fresh
    }
    struct certificate viewed[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    assert_error_name(chain_view(chains[2], counts[2], viewed, &count), CRYPTO_OK);
    assert_int_equal(count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        const struct public_key holder = fixture_key(players[3 - i]);
        assert_true(public_key_equal(&viewed[i].node, &holder));
    }
}

static void the_longest_chain_fits_its_limit(void **state)
{
    (void)state;
    struct fixture_chain chain = {0};
    static const enum fixture_player players[] = {FIXTURE_AUTHORITY, FIXTURE_ALICE, FIXTURE_BOB,
                                                  FIXTURE_CAROL};
    for (size_t i = 0; i < 3; i++) {
        struct certificate fields = fixture_certificate(players[i], players[i + 1], RIGHTS_ALL);
        memset(fields.site, 's', NAME_BYTES_MAX);
        memset(fields.name, 'n', NAME_BYTES_MAX);
        fields.site[NAME_BYTES_MAX] = fields.name[NAME_BYTES_MAX] = '\0';
        extend(&chain, players[i], &fields);
    }
    struct certificate leaf;
    assert_int_equal(chain.count, CHAIN_BYTES_MAX);
    assert_error_name(verify(&chain, &leaf), CRYPTO_OK);
}

static void a_forged_chain_of_four_is_refused(void **state)
{
    (void)state;
    struct fixture_chain chain = {0};
    static const enum fixture_player players[] = {FIXTURE_AUTHORITY, FIXTURE_ALICE, FIXTURE_BOB,
                                                  FIXTURE_CAROL, FIXTURE_DAVE};
    for (size_t i = 0; i < 4; i++) {
        const struct certificate fields = fixture_certificate(players[i], players[i + 1], RIGHTS_ALL);
        extend(&chain, players[i], &fields);
    }
    struct certificate leaf;
    assert_error_name(verify(&chain, &leaf), CRYPTO_CHAIN_TOO_LONG);
    chain.bytes[0] = 3; // and the fourth rides along
    assert_error_name(verify(&chain, &leaf), CRYPTO_TRAILING);
    chain.bytes[0] = 0;
    assert_error_name(verify(&chain, &leaf), CRYPTO_MALFORMED);
}

static void rights_only_narrow(void **state)
{
    (void)state;
    static const struct {
        uint32_t issuer;
        uint32_t child;
        enum crypto_error error;
    } cases[] = {
        {RIGHTS_ALL, RIGHTS_ALL, CRYPTO_OK},
        {RIGHT_INVITE | RIGHT_NODE, RIGHT_NODE, CRYPTO_OK},
        {RIGHT_INVITE | RIGHT_NODE, RIGHT_NODE | RIGHT_SUBMIT, CRYPTO_RIGHTS_WIDER},
        {RIGHT_INVITE | RIGHT_NODE, RIGHT_REVOKE, CRYPTO_RIGHTS_WIDER},
        // An inviter without AUTHORITY makes no inviters and no revokers, though it is one itself.
        {RIGHT_INVITE | RIGHT_REVOKE | RIGHT_NODE | RIGHT_SUBMIT, RIGHT_INVITE, CRYPTO_RIGHTS_WIDER},
        {RIGHT_INVITE | RIGHT_REVOKE | RIGHT_NODE | RIGHT_SUBMIT, RIGHT_REVOKE, CRYPTO_RIGHTS_WIDER},
        {RIGHT_INVITE | RIGHT_REVOKE | RIGHT_NODE | RIGHT_SUBMIT, RIGHT_NODE | RIGHT_SUBMIT, CRYPTO_OK},
        {RIGHT_INVITE | RIGHT_AUTHORITY, RIGHT_INVITE, CRYPTO_OK},
        {RIGHT_INVITE | RIGHT_AUTHORITY, RIGHT_NODE, CRYPTO_RIGHTS_WIDER},
        {RIGHTS_ALL & ~(uint32_t)RIGHT_INVITE, RIGHT_NODE, CRYPTO_ISSUER_RIGHT_LACKS},
        {RIGHT_SUBMIT, RIGHT_SUBMIT, CRYPTO_ISSUER_RIGHT_LACKS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture_chain chain = {0};
        const struct certificate alice =
            fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, cases[i].issuer);
        const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, cases[i].child);
        extend(&chain, FIXTURE_AUTHORITY, &alice);
        struct certificate leaf;
        assert_error_name(verify(&chain, &leaf), CRYPTO_OK);

        const struct secret_key secret = fixture_secret(FIXTURE_ALICE);
        const struct issuer issuer = {.secret = &secret, .chain = chain.bytes, .chain_bytes = chain.count};
        uint8_t out[CHAIN_BYTES_MAX];
        size_t count;
        assert_error_name(
            certificate_issue(&river, &issuer, &bob, FIXTURE_NOW_S, NULL, NULL, out, sizeof out, &count),
            cases[i].error);
        extend(&chain, FIXTURE_ALICE, &bob);
        assert_error_name(verify(&chain, &leaf), cases[i].error);
    }
}

// A right of the middle does not come back in the leaf.
static void rights_lost_in_the_middle_stay_lost(void **state)
{
    (void)state;
    struct fixture_chain chain = chain_of_alice();
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE | RIGHT_INVITE);
    const struct certificate carol =
        fixture_certificate(FIXTURE_BOB, FIXTURE_CAROL, RIGHT_NODE | RIGHT_SUBMIT);
    extend(&chain, FIXTURE_ALICE, &bob);
    extend(&chain, FIXTURE_BOB, &carol);
    struct certificate leaf;
    assert_error_name(verify(&chain, &leaf), CRYPTO_RIGHTS_WIDER);
}

static void unknown_rights_and_bad_names_are_refused(void **state)
{
    (void)state;
    struct certificate leaf;
    static const uint32_t rights[] = {0, 1u << 5, RIGHTS_ALL + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++) {
        struct fixture_chain chain = {0};
        const struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, rights[i]);
        extend(&chain, FIXTURE_AUTHORITY, &alice);
        assert_error_name(verify(&chain, &leaf), CRYPTO_MALFORMED);
    }
    static const char *names[] = {"", "Upper", "a b", "-a", "\x1b[2J"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct fixture_chain by_site = {0};
        struct fixture_chain by_name = {0};
        struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, RIGHT_NODE);
        strcpy(alice.site, names[i]);
        extend(&by_site, FIXTURE_AUTHORITY, &alice);
        strcpy(alice.site, "ashburn");
        strcpy(alice.name, names[i]);
        extend(&by_name, FIXTURE_AUTHORITY, &alice);
        assert_error_name(verify(&by_site, &leaf), CRYPTO_MALFORMED);
        assert_error_name(verify(&by_name, &leaf), CRYPTO_MALFORMED);
    }
}

static void validity_lies_within_the_issuers(void **state)
{
    (void)state;
    static const struct {
        int64_t earlier_s;
        int64_t later_s;
        enum crypto_error error;
    } cases[] = {
        {0, 0, CRYPTO_OK}, {-5, -5, CRYPTO_OK}, {1, 0, CRYPTO_VALIDITY_WIDER}, {0, 1, CRYPTO_VALIDITY_WIDER}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture_chain chain = chain_of_alice();
        struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
        bob.not_before_s -= cases[i].earlier_s;
        bob.not_after_s += cases[i].later_s;
        extend(&chain, FIXTURE_ALICE, &bob);
        struct certificate leaf;
        assert_error_name(verify(&chain, &leaf), cases[i].error);
    }
}

static void time_is_judged_for_every_certificate(void **state)
{
    (void)state;
    struct fixture_chain chain = chain_of_alice();
    struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
    bob.not_after_s = FIXTURE_NOW_S + FIXTURE_DAY_S;
    extend(&chain, FIXTURE_ALICE, &bob);
    const struct {
        int64_t wall_s;
        enum crypto_error error;
    } cases[] = {
        {bob.not_before_s - 301, CRYPTO_NOT_YET_VALID},
        {bob.not_before_s - 300, CRYPTO_OK},
        {bob.not_after_s + 300, CRYPTO_OK},
        {bob.not_after_s + 301, CRYPTO_EXPIRED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct certificate leaf;
        assert_error_name(chain_verify(&river, chain.bytes, chain.count, cases[i].wall_s, NULL, NULL, &leaf),
                          cases[i].error);
    }
}

static void a_wrong_issuer_breaks_the_chain(void **state)
{
    (void)state;
    struct certificate leaf;
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);

    // Signed by Dave, on top of Alice's chain.
    struct fixture_chain by_dave = chain_of_alice();
    extend(&by_dave, FIXTURE_DAVE, &bob);
    assert_error_name(verify(&by_dave, &leaf), CRYPTO_CHAIN_BROKEN);

    // Signed by Dave, who writes Alice's key into the origin.
    struct fixture_chain forged = chain_of_alice();
    extend(&forged, FIXTURE_DAVE, &bob);
    const struct public_key alice = fixture_key(FIXTURE_ALICE);
    memcpy(forged.bytes + 3 + 50, alice.bytes, 32);
    assert_error_name(verify(&forged, &leaf), CRYPTO_BAD_SIGNATURE);

    // The right authority of another federation, and no authority at all.
    struct fixture_chain strange = {0};
    const struct certificate guest = fixture_certificate(FIXTURE_STRANGER, FIXTURE_BOB, RIGHT_NODE);
    extend(&strange, FIXTURE_STRANGER, &guest);
    assert_error_name(verify(&strange, &leaf), CRYPTO_UNKNOWN_AUTHORITY);
    struct fixture_chain headless = {0};
    extend(&headless, FIXTURE_ALICE, &bob);
    assert_error_name(verify(&headless, &leaf), CRYPTO_UNKNOWN_AUTHORITY);

    // A node that signs for itself, on top of its own chain.
    struct fixture_chain own = chain_of_alice();
    const struct certificate again = fixture_certificate(FIXTURE_ALICE, FIXTURE_ALICE, RIGHT_NODE);
    extend(&own, FIXTURE_ALICE, &again);
    assert_error_name(verify(&own, &leaf), CRYPTO_CHAIN_BROKEN);
}

static void another_federations_certificates_are_refused(void **state)
{
    (void)state;
    struct digest other = river.federation;
    other.bytes[31] ^= 1;
    const struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, RIGHTS_ALL);
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
    struct certificate leaf;
    struct fixture_chain chain = {0};
    fixture_prepend(&chain, &other, FIXTURE_AUTHORITY, &alice);
    assert_error_name(verify(&chain, &leaf), CRYPTO_WRONG_FEDERATION);
    struct fixture_chain mixed = chain_of_alice();
    fixture_prepend(&mixed, &other, FIXTURE_ALICE, &bob);
    assert_error_name(verify(&mixed, &leaf), CRYPTO_WRONG_FEDERATION);
}

static void every_truncation_and_every_flipped_bit_of_a_chain_is_refused(void **state)
{
    (void)state;
    struct fixture_chain chain = chain_of_alice();
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
    extend(&chain, FIXTURE_ALICE, &bob);
    struct certificate leaf;
    for (size_t cut = 0; cut < chain.count; cut++) {
        uint8_t *shorter = malloc(cut == 0 ? 1 : cut);
        assert_non_null(shorter);
        memcpy(shorter, chain.bytes, cut);
        assert_int_not_equal(chain_verify(&river, shorter, cut, FIXTURE_NOW_S, NULL, NULL, &leaf), CRYPTO_OK);
        free(shorter);
    }
    for (size_t bit = 0; bit < 8 * chain.count; bit++) {
        chain.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(verify(&chain, &leaf), CRYPTO_OK);
        chain.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_error_name(verify(&chain, &leaf), CRYPTO_OK);
}

// A member record is no certificate, however its body looks.
static void a_record_of_another_kind_is_no_certificate(void **state)
{
    (void)state;
    struct fixture_chain chain = chain_of_alice();
    struct record record;
    assert_int_equal(record_view(chain.bytes + 3, chain.count - 3, &record), CRYPTO_OK);
    record.kind = RECORD_MEMBER;
    uint8_t body[CERTIFICATE_BODY_BYTES_MAX];
    memcpy(body, record.body, record.body_bytes);
    record.body = body;
    const struct secret_key secret = fixture_secret(FIXTURE_AUTHORITY);
    size_t count;
    struct certificate leaf;
    assert_int_equal(record_sign(&record, &secret, chain.bytes + 3, CERTIFICATE_BYTES_MAX, &count),
                     CRYPTO_OK);
    assert_error_name(verify(&chain, &leaf), CRYPTO_WRONG_KIND);
    record.kind = RECORD_CERTIFICATE;
    record.sequence = 1; // a second spelling of one certificate
    assert_int_equal(record_sign(&record, &secret, chain.bytes + 3, CERTIFICATE_BYTES_MAX, &count),
                     CRYPTO_OK);
    assert_error_name(verify(&chain, &leaf), CRYPTO_MALFORMED);
}

static bool holder_is(void *context, const struct certificate *certificate)
{
    return public_key_equal(context, &certificate->node);
}

static void a_revoked_link_anywhere_cuts_the_chain(void **state)
{
    (void)state;
    struct fixture_chain chain = chain_of_alice();
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
    extend(&chain, FIXTURE_ALICE, &bob);
    struct certificate leaf;
    static const struct {
        enum fixture_player revoked;
        enum crypto_error error;
    } cases[] = {{FIXTURE_ALICE, CRYPTO_REVOKED}, {FIXTURE_BOB, CRYPTO_REVOKED}, {FIXTURE_CAROL, CRYPTO_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct public_key revoked = fixture_key(cases[i].revoked);
        assert_error_name(
            chain_verify(&river, chain.bytes, chain.count, FIXTURE_NOW_S, holder_is, &revoked, &leaf),
            cases[i].error);
    }
}

// ---- Renewal

// Bob, certified by Alice, is renewed by `renewer`; the errors are certificate_renew's.
static enum crypto_error renew_bob(uint32_t bob_rights, uint32_t carol_rights, int64_t lifetime_s,
                                   int64_t wall_s, struct public_key *revoked, struct certificate *old,
                                   struct certificate *renewed)
{
    struct fixture_chain bobs = chain_of_alice();
    struct fixture_chain carols = chain_of_alice();
    struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, bob_rights);
    struct certificate carol = fixture_certificate(FIXTURE_ALICE, FIXTURE_CAROL, carol_rights);
    bob.not_after_s = FIXTURE_NOW_S + 10 * FIXTURE_DAY_S;
    carol.not_after_s = FIXTURE_NOW_S + 20 * FIXTURE_DAY_S;
    extend(&bobs, FIXTURE_ALICE, &bob);
    extend(&carols, FIXTURE_ALICE, &carol);
    const struct secret_key secret = fixture_secret(FIXTURE_CAROL);
    const struct issuer issuer = {.secret = &secret, .chain = carols.bytes, .chain_bytes = carols.count};
    uint8_t out[CHAIN_BYTES_MAX];
    size_t count;
    const enum crypto_error error =
        certificate_renew(&river, &issuer, bobs.bytes, bobs.count, lifetime_s, wall_s,
                          revoked == NULL ? NULL : holder_is, revoked, out, sizeof out, &count);
    *old = bob;
    return error == CRYPTO_OK ? chain_verify(&river, out, count, wall_s, NULL, NULL, renewed) : error;
}

static void a_renewed_certificate_keeps_keys_and_rights(void **state)
{
    (void)state;
    struct certificate old;
    struct certificate renewed;
    const uint32_t plain = RIGHT_NODE | RIGHT_SUBMIT;
    assert_error_name(renew_bob(plain, RIGHTS_ALL, 12 * FIXTURE_DAY_S, FIXTURE_NOW_S, NULL, &old, &renewed),
                      CRYPTO_OK);
    const struct public_key carol = fixture_key(FIXTURE_CAROL);
    assert_true(public_key_equal(&renewed.issuer, &carol));
    assert_memory_not_equal(renewed.serial, old.serial, sizeof old.serial);
    struct certificate expected = old;
    expected.issuer = carol;
    expected.not_before_s = FIXTURE_NOW_S;
    expected.not_after_s = FIXTURE_NOW_S + 12 * FIXTURE_DAY_S;
    assert_same_certificate(&renewed, &expected);
    // Cut to the issuer's own end.
    assert_error_name(renew_bob(plain, RIGHTS_ALL, 90 * FIXTURE_DAY_S, FIXTURE_NOW_S, NULL, &old, &renewed),
                      CRYPTO_OK);
    assert_true(renewed.not_after_s == FIXTURE_NOW_S + 20 * FIXTURE_DAY_S);
}

static void renewal_within_the_tolerance_of_clocks_stays_within_the_issuers_validity(void **state)
{
    (void)state;
    struct certificate old;
    struct certificate renewed;
    const int64_t early_s = FIXTURE_NOW_S - FIXTURE_DAY_S - 200;
    assert_error_name(renew_bob(RIGHT_NODE, RIGHTS_ALL, FIXTURE_DAY_S, early_s, NULL, &old, &renewed),
                      CRYPTO_OK);
    assert_true(renewed.not_before_s == FIXTURE_NOW_S - FIXTURE_DAY_S);
}

static void renewal_is_refused_where_issuing_would_be(void **state)
{
    (void)state;
    struct certificate old;
    struct certificate renewed;
    struct public_key bob = fixture_key(FIXTURE_BOB);
    struct public_key carol = fixture_key(FIXTURE_CAROL);
    const int64_t now_s = FIXTURE_NOW_S;
    const int64_t day_s = FIXTURE_DAY_S;
    const uint32_t inviter = RIGHT_NODE | RIGHT_SUBMIT | RIGHT_INVITE;
    assert_error_name(renew_bob(RIGHT_NODE, RIGHT_NODE, day_s, now_s, NULL, &old, &renewed),
                      CRYPTO_ISSUER_RIGHT_LACKS);
    assert_error_name(renew_bob(inviter, inviter, day_s, now_s, NULL, &old, &renewed), CRYPTO_RIGHTS_WIDER);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, day_s, now_s, &bob, &old, &renewed), CRYPTO_REVOKED);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, day_s, now_s, &carol, &old, &renewed), CRYPTO_REVOKED);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, day_s, now_s + 11 * day_s, NULL, &old, &renewed),
                      CRYPTO_EXPIRED);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, 0, now_s, NULL, &old, &renewed), CRYPTO_MALFORMED);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, INT64_MAX, now_s, NULL, &old, &renewed),
                      CRYPTO_MALFORMED);
    assert_error_name(renew_bob(RIGHT_NODE, inviter, day_s, INT64_MIN, NULL, &old, &renewed),
                      CRYPTO_MALFORMED);
}

static void an_authority_renews_without_a_chain(void **state)
{
    (void)state;
    const struct fixture_chain alices = chain_of_alice();
    const struct secret_key secret = fixture_secret(FIXTURE_AUTHORITY);
    const struct issuer issuer = {.secret = &secret};
    uint8_t out[CHAIN_BYTES_MAX];
    size_t count;
    struct certificate leaf;
    assert_error_name(certificate_renew(&river, &issuer, alices.bytes, alices.count, 400 * FIXTURE_DAY_S,
                                        FIXTURE_NOW_S, NULL, NULL, out, sizeof out, &count),
                      CRYPTO_OK);
    assert_error_name(chain_verify(&river, out, count, FIXTURE_NOW_S, NULL, NULL, &leaf), CRYPTO_OK);
    assert_true(leaf.not_after_s == FIXTURE_NOW_S + 400 * FIXTURE_DAY_S);
    assert_true(certificate_renew_at_s(&leaf) > FIXTURE_NOW_S + 266 * FIXTURE_DAY_S);
    assert_true(certificate_renew_at_s(&leaf) < FIXTURE_NOW_S + 267 * FIXTURE_DAY_S);
}

// ---- Revocations

static struct revocation revocation_of_bob(void)
{
    struct revocation fields = {
        .revoked_s = FIXTURE_NOW_S,
        .kept_until_s = FIXTURE_NOW_S + 29 * FIXTURE_DAY_S + REVOCATION_KEPT_S,
        .who = "Zo\xc3\xab at the desk",
        .reason = "laptop stolen",
        .target_count = 2,
    };
    const struct public_key bob = fixture_key(FIXTURE_BOB);
    fields.targets[0].type = REVOCATION_NODE_KEY;
    memcpy(fields.targets[0].bytes, bob.bytes, 32);
    fields.targets[1].type = REVOCATION_SERIAL;
    memset(fields.targets[1].bytes, FIXTURE_CAROL, 16);
    return fields;
}

static enum crypto_error revoke(enum fixture_player player, const struct fixture_chain *chain,
                                const struct revocation *fields, uint8_t out[REVOCATION_BYTES_MAX],
                                size_t *count)
{
    const struct secret_key secret = fixture_secret(player);
    const struct issuer issuer = {.secret = &secret,
                                  .chain = chain == NULL ? NULL : chain->bytes,
                                  .chain_bytes = chain == NULL ? 0 : chain->count};
    return revocation_sign(&river, &issuer, fields, out, REVOCATION_BYTES_MAX, count);
}

static void a_revocation_names_by_key_and_by_serial(void **state)
{
    (void)state;
    const struct fixture_chain alices = chain_of_alice();
    const struct revocation fields = revocation_of_bob();
    uint8_t bytes[REVOCATION_BYTES_MAX];
    size_t count;
    assert_error_name(revoke(FIXTURE_ALICE, &alices, &fields, bytes, &count), CRYPTO_OK);
    struct revocation back;
    assert_error_name(revocation_verify(&river, bytes, count, FIXTURE_NOW_S, &back), CRYPTO_OK);
    const struct public_key alice = fixture_key(FIXTURE_ALICE);
    assert_true(public_key_equal(&back.issuer, &alice));
    assert_string_equal(back.who, fields.who);
    assert_string_equal(back.reason, fields.reason);
    assert_int_equal(back.target_count, 2);
    assert_true(back.revoked_s == fields.revoked_s);
    assert_true(back.kept_until_s == fields.kept_until_s);
    const struct certificate bob = fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE);
    const struct certificate carol = fixture_certificate(FIXTURE_ALICE, FIXTURE_CAROL, RIGHT_NODE);
    const struct certificate dave = fixture_certificate(FIXTURE_ALICE, FIXTURE_DAVE, RIGHT_NODE);
    assert_true(revocation_names(&back, &bob));
    assert_true(revocation_names(&back, &carol));
    assert_false(revocation_names(&back, &dave));
}

static void who_may_revoke(void **state)
{
    (void)state;
    const struct revocation fields = revocation_of_bob();
    uint8_t bytes[REVOCATION_BYTES_MAX];
    size_t count;
    const struct fixture_chain alices = chain_of_alice();
    assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), CRYPTO_OK);
    assert_error_name(revoke(FIXTURE_STRANGER, NULL, &fields, bytes, &count), CRYPTO_UNKNOWN_AUTHORITY);
    assert_error_name(revoke(FIXTURE_ALICE, NULL, &fields, bytes, &count), CRYPTO_UNKNOWN_AUTHORITY);
    assert_error_name(revoke(FIXTURE_DAVE, &alices, &fields, bytes, &count), CRYPTO_CHAIN_BROKEN);
    struct fixture_chain carols = chain_of_alice();
    const struct certificate carol =
        fixture_certificate(FIXTURE_ALICE, FIXTURE_CAROL, RIGHTS_ALL & ~(uint32_t)RIGHT_REVOKE);
    extend(&carols, FIXTURE_ALICE, &carol);
    assert_error_name(revoke(FIXTURE_CAROL, &carols, &fields, bytes, &count), CRYPTO_ISSUER_RIGHT_LACKS);
}

// The signer's certificate ends before the revocation does; that must not bring the revoked key back.
static void a_revocation_outlives_its_signers_certificate(void **state)
{
    (void)state;
    const struct fixture_chain alices = chain_of_alice();
    const struct revocation fields = revocation_of_bob();
    uint8_t bytes[REVOCATION_BYTES_MAX];
    size_t count;
    assert_error_name(revoke(FIXTURE_ALICE, &alices, &fields, bytes, &count), CRYPTO_OK);
    struct revocation back;
    struct certificate leaf;
    const int64_t later_s = FIXTURE_NOW_S + 40 * FIXTURE_DAY_S;
    assert_error_name(chain_verify(&river, alices.bytes, alices.count, later_s, NULL, NULL, &leaf),
                      CRYPTO_EXPIRED);
    assert_error_name(revocation_verify(&river, bytes, count, later_s, &back), CRYPTO_OK);
    assert_error_name(revocation_verify(&river, bytes, count, fields.kept_until_s + 301, &back),
                      CRYPTO_EXPIRED);
    // But one that is dated after its signer's end was never good.
    struct revocation late = fields;
    late.revoked_s = later_s;
    assert_error_name(revoke(FIXTURE_ALICE, &alices, &late, bytes, &count), CRYPTO_EXPIRED);
}

static void revocation_limits_plus_one_are_refused(void **state)
{
    (void)state;
    uint8_t bytes[REVOCATION_BYTES_MAX];
    size_t count;
    struct revocation fields = revocation_of_bob();
    struct revocation back;
    fields.target_count = REVOCATION_TARGETS_MAX;
    for (size_t i = 0; i < REVOCATION_TARGETS_MAX; i++) {
        fields.targets[i].type = REVOCATION_NODE_KEY;
    }
    memset(fields.reason, 'r', REVOCATION_REASON_BYTES_MAX);
    memset(fields.who, 'w', NAME_BYTES_MAX);
    fields.who[NAME_BYTES_MAX] = '\0';
    assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), CRYPTO_OK);
    assert_error_name(revocation_verify(&river, bytes, count, FIXTURE_NOW_S, &back), CRYPTO_OK);
    fields.target_count++;
    assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), CRYPTO_TOO_LARGE);
    fields.target_count = 0;
    assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), CRYPTO_MALFORMED);
    fields.target_count = 1;
    fields.targets[0].type = (enum revocation_type)3;
    assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), CRYPTO_MALFORMED);
}

// The reason is shown on operators' terminals.
static void a_reason_carries_no_control_characters(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum crypto_error error;
    } cases[] = {
        {"", CRYPTO_OK},
        {"stolen \xe2\x80\x94 na\xc3\xafve \xf0\x9f\x94\x91", CRYPTO_OK},
        {"two\nlines", CRYPTO_MALFORMED},
        {"\x1b[2J", CRYPTO_MALFORMED},
        {"\x7f", CRYPTO_MALFORMED},
        {"\xc2\x9b", CRYPTO_MALFORMED},         // CSI in UTF-8
        {"\x9b", CRYPTO_MALFORMED},             // a lone continuation byte
        {"\xc0\x8a", CRYPTO_MALFORMED},         // overlong newline
        {"\xe0\x80\x8a", CRYPTO_MALFORMED},     // the same in three bytes
        {"\xed\xa0\x80", CRYPTO_MALFORMED},     // surrogate
        {"\xf4\x90\x80\x80", CRYPTO_MALFORMED}, // above U+10FFFF
        {"\xf8\x88\x80\x80", CRYPTO_MALFORMED},
        {"cut \xe2\x80", CRYPTO_MALFORMED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[REVOCATION_BYTES_MAX];
        size_t count;
        struct revocation fields = revocation_of_bob();
        strcpy(fields.reason, cases[i].text);
        assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), cases[i].error);
        fields = revocation_of_bob();
        strcpy(fields.who, cases[i].text);
        assert_error_name(revoke(FIXTURE_AUTHORITY, NULL, &fields, bytes, &count), cases[i].error);
    }
}

static void every_truncation_and_every_flipped_byte_of_a_revocation_is_refused(void **state)
{
    (void)state;
    const struct fixture_chain alices = chain_of_alice();
    const struct revocation fields = revocation_of_bob();
    uint8_t bytes[REVOCATION_BYTES_MAX];
    size_t count;
    struct revocation back;
    assert_error_name(revoke(FIXTURE_ALICE, &alices, &fields, bytes, &count), CRYPTO_OK);
    for (size_t cut = 0; cut < count; cut++) {
        assert_int_not_equal(revocation_verify(&river, bytes, cut, FIXTURE_NOW_S, &back), CRYPTO_OK);
    }
    for (size_t i = 0; i < count; i++) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        assert_int_not_equal(revocation_verify(&river, bytes, count, FIXTURE_NOW_S, &back), CRYPTO_OK);
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    assert_error_name(revocation_verify(&river, alices.bytes + 3, alices.count - 3, FIXTURE_NOW_S, &back),
                      CRYPTO_WRONG_KIND);
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
    river = fixture_genesis(river_bytes, sizeof river_bytes, &river_count);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_genesis_keeps_its_fields_and_sorts_its_keys),
        cmocka_unit_test(the_federation_id_is_fixed),
        cmocka_unit_test(a_genesis_that_is_cut_or_wrong_is_refused),
        cmocka_unit_test(a_threshold_above_one_is_read_but_verifies_nothing),
        cmocka_unit_test(a_chain_of_three_issues_and_verifies),
        cmocka_unit_test(the_longest_chain_fits_its_limit),
        cmocka_unit_test(a_forged_chain_of_four_is_refused),
        cmocka_unit_test(rights_only_narrow),
        cmocka_unit_test(rights_lost_in_the_middle_stay_lost),
        cmocka_unit_test(unknown_rights_and_bad_names_are_refused),
        cmocka_unit_test(validity_lies_within_the_issuers),
        cmocka_unit_test(time_is_judged_for_every_certificate),
        cmocka_unit_test(a_wrong_issuer_breaks_the_chain),
        cmocka_unit_test(another_federations_certificates_are_refused),
        cmocka_unit_test(every_truncation_and_every_flipped_bit_of_a_chain_is_refused),
        cmocka_unit_test(a_record_of_another_kind_is_no_certificate),
        cmocka_unit_test(a_revoked_link_anywhere_cuts_the_chain),
        cmocka_unit_test(a_renewed_certificate_keeps_keys_and_rights),
        cmocka_unit_test(renewal_within_the_tolerance_of_clocks_stays_within_the_issuers_validity),
        cmocka_unit_test(renewal_is_refused_where_issuing_would_be),
        cmocka_unit_test(an_authority_renews_without_a_chain),
        cmocka_unit_test(a_revocation_names_by_key_and_by_serial),
        cmocka_unit_test(who_may_revoke),
        cmocka_unit_test(a_revocation_outlives_its_signers_certificate),
        cmocka_unit_test(revocation_limits_plus_one_are_refused),
        cmocka_unit_test(a_reason_carries_no_control_characters),
        cmocka_unit_test(every_truncation_and_every_flipped_byte_of_a_revocation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
