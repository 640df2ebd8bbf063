// The signed record. The golden bytes were assembled by a Python script from the layout in record.h and
// signed by OpenSSL, so they hold the format still and check it against another implementation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crypto_fixture.h"

static const char body_text[] = "spare: 3";

static struct record example(void)
{
    struct record record = {
        .kind = RECORD_CAPACITY,
        .origin = fixture_key(FIXTURE_ALICE),
        .incarnation = 0x0102030405060708,
        .sequence = 0x1112131415161718,
        .not_before_s = FIXTURE_NOW_S,
        .not_after_s = FIXTURE_NOW_S + 60,
        .body = (const uint8_t *)body_text,
        .body_bytes = sizeof body_text - 1,
    };
    memset(record.federation.bytes, 0xfe, DIGEST_BYTES);
    return record;
}

static size_t sign_example(const struct record *record, uint8_t *out, size_t capacity)
{
    const struct secret_key secret = fixture_secret(FIXTURE_ALICE);
    size_t count = 0;
    assert_int_equal(record_sign(record, &secret, out, capacity, &count), CRYPTO_OK);
    return count;
}

static void a_record_keeps_its_fields(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    assert_int_equal(count, RECORD_OVERHEAD_BYTES + record.body_bytes);
    struct record back;
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &back), CRYPTO_OK);
    assert_true(digest_equal(&back.federation, &record.federation));
    assert_int_equal(back.kind, record.kind);
    assert_true(public_key_equal(&back.origin, &record.origin));
    assert_true(back.incarnation == record.incarnation);
    assert_true(back.sequence == record.sequence);
    assert_true(back.not_before_s == record.not_before_s);
    assert_true(back.not_after_s == record.not_after_s);
    assert_int_equal(back.body_bytes, record.body_bytes);
    assert_ptr_equal(back.body, bytes + RECORD_HEADER_BYTES);
    assert_memory_equal(back.body, body_text, back.body_bytes);
}

static void the_layout_is_fixed(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    char text[2 * sizeof bytes + 1];
    hex_encode(bytes, count, text);
    assert_string_equal(
        text,
        "77656972207265636f72642031000000fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe"
        "040043a72e714401762df66b68c26dfbdf2682aaec9f2474eca4613e424a0fbafd3c0807060504030201181716151413"
        "121100d2496b000000003cd2496b000000000800000073706172653a203321601ad77778fba5d79bb9ea7edd0bb544df"
        "36ad0dcef9b562a6dc1fa27c17b238b05a40619e00fb1489fe162032f2ffc0015280c54ea3b253695a2aaf87f00e");
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    for (size_t cut = 0; cut < count; cut++) {
        // A fresh allocation of the exact size lets the address sanitizer see any read past the end.
        uint8_t *shorter = malloc(cut == 0 ? 1 : cut);
        assert_non_null(shorter);
        memcpy(shorter, bytes, cut);
        struct record out;
        assert_int_equal(record_verify(shorter, cut, &record.federation, FIXTURE_NOW_S, &out),
                         CRYPTO_TRUNCATED);
        free(shorter);
    }
    struct record out;
    bytes[count] = 0;
    assert_int_equal(record_verify(bytes, count + 1, &record.federation, FIXTURE_NOW_S, &out),
                     CRYPTO_TRAILING);
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct record out;
        assert_int_not_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out), CRYPTO_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    struct record out;
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out), CRYPTO_OK);
}

static void each_cause_has_its_own_error(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    struct record out;
    struct digest other = record.federation;
    other.bytes[0] ^= 1;
    assert_int_equal(record_verify(bytes, count, &other, FIXTURE_NOW_S, &out), CRYPTO_WRONG_FEDERATION);
    bytes[12] = '2'; // version
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out),
                     CRYPTO_WRONG_MAGIC);
    bytes[12] = '1';
    bytes[RECORD_HEADER_BYTES] ^= 1; // body
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out),
                     CRYPTO_BAD_SIGNATURE);
    assert_int_equal(record_view(bytes, count, &out), CRYPTO_OK); // shape only
}

static void validity_has_five_minutes_of_tolerance(void **state)
{
    (void)state;
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    const struct {
        int64_t wall_s;
        enum crypto_error error;
    } cases[] = {
        {record.not_before_s - 301, CRYPTO_NOT_YET_VALID},
        {record.not_before_s - 300, CRYPTO_OK},
        {record.not_after_s + 300, CRYPTO_OK},
        {record.not_after_s + 301, CRYPTO_EXPIRED},
        {INT64_MIN, CRYPTO_NOT_YET_VALID},
        {INT64_MAX, CRYPTO_EXPIRED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct record out;
        assert_int_equal(record_verify(bytes, count, &record.federation, cases[i].wall_s, &out),
                         cases[i].error);
    }
}

static void limits_plus_one_are_refused(void **state)
{
    (void)state;
    const struct secret_key secret = fixture_secret(FIXTURE_ALICE);
    uint8_t *body = calloc(1, RECORD_BODY_BYTES_MAX + 1);
    uint8_t *bytes = malloc(RECORD_BYTES_MAX + 1);
    assert_non_null(body);
    assert_non_null(bytes);
    size_t count = 0;
    struct record record = example();
    struct record out;
    record.body = body;
    record.body_bytes = RECORD_BODY_BYTES_MAX;
    assert_int_equal(record_sign(&record, &secret, bytes, RECORD_BYTES_MAX - 1, &count), CRYPTO_NO_SPACE);
    assert_int_equal(record_sign(&record, &secret, bytes, RECORD_BYTES_MAX, &count), CRYPTO_OK);
    assert_int_equal(count, RECORD_BYTES_MAX);
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out), CRYPTO_OK);
    record.body_bytes++;
    assert_int_equal(record_sign(&record, &secret, bytes, RECORD_BYTES_MAX + 1, &count), CRYPTO_TOO_LARGE);
    // The same from a peer, who writes what it likes into the length.
    bytes[114] = 1;
    assert_int_equal(record_view(bytes, RECORD_BYTES_MAX + 1, &out), CRYPTO_TOO_LARGE);
    memset(bytes + 114, 0xff, 4);
    assert_int_equal(record_view(bytes, RECORD_BYTES_MAX, &out), CRYPTO_TOO_LARGE);
    free(bytes);
    free(body);
}

static void impossible_times_and_kinds_are_refused(void **state)
{
    (void)state;
    const struct secret_key secret = fixture_secret(FIXTURE_ALICE);
    static const struct {
        uint16_t kind;
        int64_t not_before_s;
        int64_t not_after_s;
        enum crypto_error error;
    } cases[] = {
        {RECORD_ALERT, 0, RECORD_TIME_MAX_S, CRYPTO_OK},
        {RECORD_ALERT, 7, 7, CRYPTO_OK},
        {0, 0, 10, CRYPTO_MALFORMED},
        {RECORD_ALERT, -1, 10, CRYPTO_MALFORMED},
        {RECORD_ALERT, 11, 10, CRYPTO_MALFORMED},
        {RECORD_ALERT, 0, RECORD_TIME_MAX_S + 1, CRYPTO_MALFORMED},
        {RECORD_ALERT, INT64_MIN, INT64_MAX, CRYPTO_MALFORMED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[256];
        size_t count;
        struct record record = example();
        record.kind = cases[i].kind;
        record.not_before_s = cases[i].not_before_s;
        record.not_after_s = cases[i].not_after_s;
        assert_int_equal(record_sign(&record, &secret, bytes, sizeof bytes, &count), cases[i].error);
    }
    // And when a peer sends them: kind 0, then a not-before with the sign bit.
    const struct record record = example();
    uint8_t bytes[256];
    struct record out;
    size_t count = sign_example(&record, bytes, sizeof bytes);
    bytes[48] = bytes[49] = 0;
    assert_int_equal(record_view(bytes, count, &out), CRYPTO_MALFORMED);
    count = sign_example(&record, bytes, sizeof bytes);
    bytes[105] |= 0x80;
    assert_int_equal(record_view(bytes, count, &out), CRYPTO_MALFORMED);
}

static void an_empty_body_is_a_body(void **state)
{
    (void)state;
    struct record record = example();
    record.body = NULL;
    record.body_bytes = 0;
    uint8_t bytes[RECORD_OVERHEAD_BYTES];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    struct record out;
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out), CRYPTO_OK);
    assert_int_equal(out.body_bytes, 0);
}

// libsodium refuses keys of small order and signatures with a scalar out of range, by which one record could
// have two spellings.
static void a_signature_has_one_spelling(void **state)
{
    (void)state;
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                      0xa2, 0xde, 0xf9, 0xde, 0x14, 0,    0,    0,    0,    0,    0,
                                      0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};
    const struct record record = example();
    uint8_t bytes[256];
    const size_t count = sign_example(&record, bytes, sizeof bytes);
    uint8_t *scalar = bytes + count - 32;
    unsigned carry = 0;
    for (size_t i = 0; i < 32; i++) {
        carry += (unsigned)scalar[i] + order[i];
        scalar[i] = (uint8_t)carry;
        carry >>= 8;
    }
    struct record out;
    assert_int_equal(record_verify(bytes, count, &record.federation, FIXTURE_NOW_S, &out),
                     CRYPTO_BAD_SIGNATURE);
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_keeps_its_fields),
        cmocka_unit_test(the_layout_is_fixed),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(each_cause_has_its_own_error),
        cmocka_unit_test(validity_has_five_minutes_of_tolerance),
        cmocka_unit_test(limits_plus_one_are_refused),
        cmocka_unit_test(impossible_times_and_kinds_are_refused),
        cmocka_unit_test(an_empty_body_is_a_body),
        cmocka_unit_test(a_signature_has_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
