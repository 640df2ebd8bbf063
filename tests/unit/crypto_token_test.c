// Join tokens, the join request and response, and the presentation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/join.h"
#include "crypto_fixture.h"

static struct genesis river;
static uint8_t river_bytes[GENESIS_BYTES_MAX];
static size_t river_count;

static void assert_error_name(enum crypto_error found, enum crypto_error expected)
{
    assert_string_equal(crypto_error_name(found), crypto_error_name(expected));
}

static struct token example(void)
{
    struct token token = {
        .federation = river.federation,
        .inviter = fixture_key(FIXTURE_ALICE),
        .expires_s = FIXTURE_NOW_S + FIXTURE_DAY_S,
        .site = "lisbon",
        .address_count = 2,
        .addresses = {"gpu.ashburn.example:7702", "[2001:db8::7]:7702"},
    };
    memset(token.join_curve.bytes, 0x77, sizeof token.join_curve.bytes);
    memset(token.secret, 0x99, sizeof token.secret);
    return token;
}

static void assert_same_token(const struct token *a, const struct token *b)
{
    assert_true(digest_equal(&a->federation, &b->federation));
    assert_true(public_key_equal(&a->inviter, &b->inviter));
    assert_true(curve_public_equal(&a->join_curve, &b->join_curve));
    assert_memory_equal(a->secret, b->secret, TOKEN_SECRET_BYTES);
    assert_true(a->expires_s == b->expires_s);
    assert_string_equal(a->site, b->site);
    assert_int_equal(a->address_count, b->address_count);
    for (uint8_t i = 0; i < a->address_count; i++) {
        assert_string_equal(a->addresses[i], b->addresses[i]);
    }
}

// ---- Tokens

static void a_token_is_read_back_as_it_was(void **state)
{
    (void)state;
    const struct token token = example();
    char text[TOKEN_TEXT_BYTES_MAX];
    struct token back;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_OK);
    assert_error_name(token_parse(text, strlen(text), &back), CRYPTO_OK);
    assert_same_token(&token, &back);
    for (size_t capacity = 0; capacity <= strlen(text); capacity += 17) {
        assert_error_name(token_format(&token, text, capacity), CRYPTO_NO_SPACE);
    }
}

// Computed in Python: base64.b32encode of the layout in token.h.
static void the_text_is_fixed(void **state)
{
    (void)state;
    const struct token token = example();
    char text[TOKEN_TEXT_BYTES_MAX];
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_OK);
    assert_string_equal(
        text,
        "weir-join-1-v5ve7iv2op2e237lg6qemjvmnnnh7aqrezsisykvx4u7zvz4zffehjzoofcac5rn6zvwrqtn7ppsnavk5sps"
        "i5hmurqt4qskb65p2pdxo53xo53xo53xo53xo53xo53xo53xo53xo53xo53xo53xo53xo6mztgmztgmztgmztgmztgmztgmz"
        "tgmztgmztgmztgmztgmztgmztabdjnvqaaaaaadgy2ltmjxw4aqym5yhkltbonuge5lsnyxgk6dbnvygyzj2g43tamqslmzd"
        "ambrhjsgeob2hi3v2orxg4ydfpq4gfwq");
}

static void the_longest_token_fits_and_parses(void **state)
{
    (void)state;
    struct token token = example();
    memset(token.site, 's', NAME_BYTES_MAX);
    token.site[NAME_BYTES_MAX] = '\0';
    token.address_count = TOKEN_ADDRESSES_MAX;
    for (size_t i = 0; i < TOKEN_ADDRESSES_MAX; i++) {
        memset(token.addresses[i], 'h', TOKEN_ADDRESS_BYTES_MAX);
        memcpy(token.addresses[i] + TOKEN_ADDRESS_BYTES_MAX - 6, ":65535", 7);
    }
    char text[TOKEN_TEXT_BYTES_MAX];
    struct token back;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_OK);
    assert_int_equal(strlen(text), TOKEN_TEXT_BYTES_MAX - 1);
    assert_error_name(token_parse(text, strlen(text), &back), CRYPTO_OK);
    assert_same_token(&token, &back);
    // One character more than any token has.
    char longer[TOKEN_TEXT_BYTES_MAX + 16];
    snprintf(longer, sizeof longer, "%saaaaaaaa", text);
    assert_error_name(token_parse(longer, strlen(longer), &back), CRYPTO_TOO_LARGE);
    token.address_count++;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_MALFORMED);
}

static void every_typing_error_is_noticed(void **state)
{
    (void)state;
    const struct token token = example();
    static const char others[] = "abcdefghijklmnopqrstuvwxyz0123456789ABZ-_= \n\xc3";
    char text[TOKEN_TEXT_BYTES_MAX];
    struct token back;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_OK);
    const size_t count = strlen(text);
    for (size_t i = 0; i < count; i++) {
        const char right = text[i];
        for (size_t j = 0; j < sizeof others; j++) { // the NUL too
            text[i] = others[j];
            if (text[i] != right) {
                assert_int_not_equal(token_parse(text, count, &back), CRYPTO_OK);
            }
        }
        text[i] = right;
    }
    for (size_t i = 0; i + 1 < count; i++) { // two neighbours swapped
        if (text[i] != text[i + 1]) {
            const char first = text[i];
            text[i] = text[i + 1];
            text[i + 1] = first;
            assert_int_not_equal(token_parse(text, count, &back), CRYPTO_OK);
            text[i + 1] = text[i];
            text[i] = first;
        }
    }
    assert_error_name(token_parse(text, count, &back), CRYPTO_OK);
}

static void every_cut_and_every_addition_is_refused(void **state)
{
    (void)state;
    const struct token token = example();
    char text[TOKEN_TEXT_BYTES_MAX];
    struct token back;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_OK);
    const size_t count = strlen(text);
    for (size_t cut = 0; cut < count; cut++) {
        char *shorter = malloc(cut == 0 ? 1 : cut);
        assert_non_null(shorter);
        memcpy(shorter, text, cut);
        assert_int_not_equal(token_parse(shorter, cut, &back), CRYPTO_OK);
        free(shorter);
    }
    static const char *tails[] = {"a", "aa", "\n", " ", "=", "aaaaaaaa"};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        char longer[TOKEN_TEXT_BYTES_MAX + 16];
        snprintf(longer, sizeof longer, "%s%s", text, tails[i]);
        assert_int_not_equal(token_parse(longer, strlen(longer), &back), CRYPTO_OK);
    }
    assert_error_name(token_parse("weir-join-1-", 12, &back), CRYPTO_TRUNCATED);
    assert_error_name(token_parse("weir-join-2-aaaa", 16, &back), CRYPTO_WRONG_MAGIC);
    text[count / 2] = text[count / 2] == 'a' ? 'b' : 'a';
    assert_error_name(token_parse(text, count, &back), CRYPTO_BAD_CHECKSUM);
}

static void a_token_ends_at_its_expiry(void **state)
{
    (void)state;
    const struct token token = example();
    assert_error_name(token_time_check(&token, token.expires_s), CRYPTO_OK);
    assert_error_name(token_time_check(&token, token.expires_s + 1), CRYPTO_EXPIRED);
}

static void bad_fields_make_no_token(void **state)
{
    (void)state;
    char text[TOKEN_TEXT_BYTES_MAX];
    struct token token = example();
    strcpy(token.site, "Lisbon");
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_MALFORMED);
    token = example();
    token.address_count = 0;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_MALFORMED);
    token = example();
    token.expires_s = -1;
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_MALFORMED);
    token = example();
    strcpy(token.addresses[1], "nowhere");
    assert_error_name(token_format(&token, text, sizeof text), CRYPTO_MALFORMED);
}

static void addresses_are_host_and_port(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"host:1", true},
        {"10.0.0.1:65535", true},
        {"[::1]:7702", true},
        {"a.b-c.example:7702", true},
        {"", false},
        {":7702", false},
        {"host", false},
        {"host:", false},
        {"host:0", false},
        {"host:65536", false},
        {"host:99999", false},
        {"host:100000", false},
        {"host:07702", false},
        {"host:7702 ", false},
        {"host:+1", false},
        {"::1:7702", false},
        {"[::1]", false},
        {"[::1:7702", false},
        {"[]:7702", false},
        {"[fe80::1%eth0]:1", false},
        {"[host]:7702", false},
        {"ho st:7702", false},
        {"host\n:7702", false},
        {"-host:7702", false},
        {".host:1", false},
        {"[:1", false},
        {"tcp://host:1", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (token_address_valid(cases[i].text) != cases[i].valid) {
            fail_msg("%s", cases[i].text);
        }
    }
}

static void fresh_secrets_differ_and_wiping_leaves_nothing(void **state)
{
    (void)state;
    struct token a = example();
    struct token b = example();
    token_secret_create(&a);
    token_secret_create(&b);
    const struct digest first = token_secret_digest(a.secret);
    const struct digest second = token_secret_digest(b.secret);
    assert_false(digest_equal(&first, &second));
    token_wipe(&a);
    const struct token zero = {0};
    assert_memory_equal(&a, &zero, sizeof zero);
}

// ---- The request

static struct identity identity_of(enum fixture_player player)
{
    struct identity identity = {.node = fixture_key(player), .node_secret = fixture_secret(player)};
    memset(identity.curve_secret.bytes, (int)player, 32);
    identity.curve = curve_public_of(&identity.curve_secret);
    memset(identity.join_curve.bytes, (int)player + 1, 32);
    return identity;
}

static size_t ask(uint8_t out[JOIN_REQUEST_BYTES_MAX])
{
    const struct token token = example();
    const struct identity bob = identity_of(FIXTURE_BOB);
    size_t count = 0;
    assert_error_name(join_request_sign(&token, &bob, "node-1", out, JOIN_REQUEST_BYTES_MAX, &count),
                      CRYPTO_OK);
    return count;
}

static void a_request_says_who_asks_and_with_which_secret(void **state)
{
    (void)state;
    const struct token token = example();
    const struct identity bob = identity_of(FIXTURE_BOB);
    uint8_t bytes[JOIN_REQUEST_BYTES_MAX];
    const size_t count = ask(bytes);
    struct join_request request;
    assert_error_name(join_request_verify(bytes, count, &river.federation, &token.inviter, &request),
                      CRYPTO_OK);
    assert_memory_equal(request.secret, token.secret, TOKEN_SECRET_BYTES);
    assert_true(public_key_equal(&request.node, &bob.node));
    assert_true(curve_public_equal(&request.curve, &bob.curve));
    assert_true(curve_public_equal(&request.join_curve, &bob.join_curve));
    assert_string_equal(request.name, "node-1");
    assert_error_name(join_request_sign(&token, &bob, "Node 1", bytes, sizeof bytes, &(size_t){0}),
                      CRYPTO_MALFORMED);
    assert_error_name(join_request_sign(&token, &bob, "node-1", bytes, count - 1, &(size_t){0}),
                      CRYPTO_NO_SPACE);
}

static void every_change_of_a_request_is_refused(void **state)
{
    (void)state;
    const struct token token = example();
    uint8_t bytes[JOIN_REQUEST_BYTES_MAX];
    const size_t count = ask(bytes);
    struct join_request request;
    for (size_t cut = 0; cut < count; cut++) {
        assert_error_name(join_request_verify(bytes, cut, &river.federation, &token.inviter, &request),
                          CRYPTO_TRUNCATED);
    }
    for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(join_request_verify(bytes, count, &river.federation, &token.inviter, &request),
                             CRYPTO_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void a_request_for_another_inviter_or_federation_is_refused(void **state)
{
    (void)state;
    const struct token token = example();
    uint8_t bytes[JOIN_REQUEST_BYTES_MAX];
    const size_t count = ask(bytes);
    struct join_request request;
    const struct public_key dave = fixture_key(FIXTURE_DAVE);
    struct digest other = river.federation;
    other.bytes[5] ^= 1;
    assert_error_name(join_request_verify(bytes, count, &river.federation, &dave, &request), CRYPTO_NOT_OURS);
    assert_error_name(join_request_verify(bytes, count, &other, &token.inviter, &request),
                      CRYPTO_WRONG_FEDERATION);
}

// ---- The response

// What the inviter answers: bob's certificate as `change` left it, signed by `signer`, above alice's.
static size_t answer(const struct certificate *bob, enum fixture_player signer,
                     uint8_t out[JOIN_RESPONSE_BYTES_MAX])
{
    struct fixture_chain chain = {0};
    const struct certificate alice = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_ALICE, RIGHTS_ALL);
    if (signer == FIXTURE_ALICE) {
        fixture_prepend(&chain, &river.federation, FIXTURE_AUTHORITY, &alice);
    }
    fixture_prepend(&chain, &river.federation, signer, bob);
    size_t count = 0;
    assert_error_name(join_response_encode(river_bytes, river_count, chain.bytes, chain.count, out,
                                           JOIN_RESPONSE_BYTES_MAX, &count),
                      CRYPTO_OK);
    return count;
}

static struct certificate promised(void)
{
    const struct identity bob = identity_of(FIXTURE_BOB);
    struct certificate certificate =
        fixture_certificate(FIXTURE_ALICE, FIXTURE_BOB, RIGHT_NODE | RIGHT_SUBMIT);
    certificate.curve = bob.curve;
    certificate.join_curve = bob.join_curve;
    strcpy(certificate.site, "lisbon");
    return certificate;
}

static void a_guest_accepts_what_the_token_promised(void **state)
{
    (void)state;
    const struct token token = example();
    const struct identity bob = identity_of(FIXTURE_BOB);
    const struct certificate certificate = promised();
    uint8_t bytes[JOIN_RESPONSE_BYTES_MAX];
    const size_t count = answer(&certificate, FIXTURE_ALICE, bytes);
    struct join_response response;
    assert_error_name(join_response_verify(bytes, count, &token, &bob, FIXTURE_NOW_S, &response), CRYPTO_OK);
    assert_int_equal(response.genesis_count, river_count);
    assert_memory_equal(response.genesis_bytes, river_bytes, river_count);
    assert_string_equal(response.genesis.name, "river");
    assert_string_equal(response.certificate.site, "lisbon");
    struct certificate leaf;
    assert_error_name(chain_verify(&response.genesis, response.chain_bytes, response.chain_count,
                                   FIXTURE_NOW_S, NULL, NULL, &leaf),
                      CRYPTO_OK);
    for (size_t cut = 0; cut < count; cut++) {
        assert_int_not_equal(join_response_verify(bytes, cut, &token, &bob, FIXTURE_NOW_S, &response),
                             CRYPTO_OK);
    }
    for (size_t i = 0; i < count; i++) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        assert_int_not_equal(join_response_verify(bytes, count, &token, &bob, FIXTURE_NOW_S, &response),
                             CRYPTO_OK);
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
}

static void a_guest_refuses_everything_else(void **state)
{
    (void)state;
    const struct token token = example();
    const struct identity bob = identity_of(FIXTURE_BOB);
    uint8_t bytes[JOIN_RESPONSE_BYTES_MAX];
    struct join_response response;

    struct certificate other_site = promised();
    strcpy(other_site.site, "porto");
    struct certificate other_node = promised();
    other_node.node = fixture_key(FIXTURE_CAROL);
    struct certificate other_curve = promised();
    other_curve.curve.bytes[0] ^= 1;
    struct certificate other_join = promised();
    other_join.join_curve.bytes[0] ^= 1;
    const struct certificate by_authority = promised(); // valid, but the token pinned alice
    const struct {
        const struct certificate *certificate;
        enum fixture_player signer;
    } cases[] = {{&other_site, FIXTURE_ALICE},
                 {&other_node, FIXTURE_ALICE},
                 {&other_curve, FIXTURE_ALICE},
                 {&other_join, FIXTURE_ALICE},
                 {&by_authority, FIXTURE_AUTHORITY}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t count = answer(cases[i].certificate, cases[i].signer, bytes);
        assert_error_name(join_response_verify(bytes, count, &token, &bob, FIXTURE_NOW_S, &response),
                          CRYPTO_NOT_OURS);
    }
    const struct certificate good = promised();
    const size_t count = answer(&good, FIXTURE_ALICE, bytes);
    struct token elsewhere = token;
    elsewhere.federation.bytes[0] ^= 1;
    assert_error_name(join_response_verify(bytes, count, &elsewhere, &bob, FIXTURE_NOW_S, &response),
                      CRYPTO_WRONG_FEDERATION);
    assert_error_name(
        join_response_verify(bytes, count, &token, &bob, FIXTURE_NOW_S + 90 * FIXTURE_DAY_S, &response),
        CRYPTO_EXPIRED);
}

// ---- The presentation

static void a_presentation_proves_the_leaf_key_to_one_receiver_once(void **state)
{
    (void)state;
    struct fixture_chain shown = {0};
    const struct certificate bob = fixture_certificate(FIXTURE_AUTHORITY, FIXTURE_BOB, RIGHT_NODE);
    fixture_prepend(&shown, &river.federation, FIXTURE_AUTHORITY, &bob);
    const struct secret_key secret = fixture_secret(FIXTURE_BOB);
    const struct secret_key thief = fixture_secret(FIXTURE_DAVE);
    const struct public_key alice = fixture_key(FIXTURE_ALICE);
    const struct public_key carol = fixture_key(FIXTURE_CAROL);
    uint8_t nonce[PRESENTATION_NONCE_BYTES];
    memset(nonce, 42, sizeof nonce);
    uint8_t bytes[PRESENTATION_BYTES_MAX];
    size_t count;
    const uint8_t *chain;
    size_t chain_bytes;
    struct certificate leaf;
#define VERIFY(receiver, given)                                                                              \
    presentation_verify(bytes, given, &river, receiver, nonce, FIXTURE_NOW_S, NULL, NULL, &chain,            \
                        &chain_bytes, &leaf)
    assert_error_name(presentation_sign(&river.federation, &alice, nonce, shown.bytes, shown.count, &secret,
                                        bytes, sizeof bytes, &count),
                      CRYPTO_OK);
    assert_error_name(VERIFY(&alice, count), CRYPTO_OK);
    assert_true(public_key_equal(&leaf.node, &bob.node));
    assert_int_equal(chain_bytes, shown.count);
    assert_memory_equal(chain, shown.bytes, shown.count);
    assert_error_name(VERIFY(&carol, count), CRYPTO_BAD_SIGNATURE); // passed on to somebody else
    for (size_t cut = 0; cut < count; cut++) {
        assert_error_name(VERIFY(&alice, cut), CRYPTO_TRUNCATED);
    }
    for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(VERIFY(&alice, count), CRYPTO_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    nonce[0] ^= 1; // replayed
    assert_error_name(VERIFY(&alice, count), CRYPTO_BAD_SIGNATURE);
    assert_error_name(presentation_sign(&river.federation, &alice, nonce, shown.bytes, shown.count, &thief,
                                        bytes, sizeof bytes, &count),
                      CRYPTO_OK);
    assert_error_name(VERIFY(&alice, count), CRYPTO_BAD_SIGNATURE);
#undef VERIFY
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
    river = fixture_genesis(river_bytes, sizeof river_bytes, &river_count);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_read_back_as_it_was),
        cmocka_unit_test(the_text_is_fixed),
        cmocka_unit_test(the_longest_token_fits_and_parses),
        cmocka_unit_test(every_typing_error_is_noticed),
        cmocka_unit_test(every_cut_and_every_addition_is_refused),
        cmocka_unit_test(a_token_ends_at_its_expiry),
        cmocka_unit_test(bad_fields_make_no_token),
        cmocka_unit_test(addresses_are_host_and_port),
        cmocka_unit_test(fresh_secrets_differ_and_wiping_leaves_nothing),
        cmocka_unit_test(a_request_says_who_asks_and_with_which_secret),
        cmocka_unit_test(every_change_of_a_request_is_refused),
        cmocka_unit_test(a_request_for_another_inviter_or_federation_is_refused),
        cmocka_unit_test(a_guest_accepts_what_the_token_promised),
        cmocka_unit_test(a_guest_refuses_everything_else),
        cmocka_unit_test(a_presentation_proves_the_leaf_key_to_one_receiver_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
