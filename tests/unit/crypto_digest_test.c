// Digests and blob ids. The golden values come from Python's hashlib.blake2b over the layouts that digest.h
// states, so they hold the format still; the script stands beside each.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/digest.h"
#include "crypto/key.h"

struct chunk_list {
    struct digest chunks[8];
    uint64_t count;
};

static void keep_chunk(void *context, uint64_t index, const struct digest *chunk)
{
    struct chunk_list *list = context;
    assert_int_equal(index, list->count);
    assert_true(list->count < 8);
    list->chunks[list->count++] = *chunk;
}

// The byte at each place of the test blobs.
static uint8_t *pattern(size_t bytes)
{
    uint8_t *data = malloc(bytes + 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)(i * 7 + (i >> 8) * 13 + (i >> 16));
    }
    return data;
}

static struct digest list_of(const uint8_t *data, size_t bytes, size_t piece, struct chunk_list *list)
{
    struct blob_digest blob;
    list->count = 0;
    blob_digest_init(&blob, keep_chunk, list);
    for (size_t at = 0; at < bytes; at += piece) {
        const size_t left = bytes - at;
        assert_int_equal(blob_digest_update(&blob, data + at, left < piece ? left : piece), CRYPTO_OK);
    }
    return blob_digest_final(&blob);
}

static void assert_hex(const struct digest *digest, const char *expected)
{
    char text[DIGEST_HEX_BYTES];
    digest_to_hex(digest, text);
    assert_string_equal(text, expected);
}

// blake2b(bytes([len(d)]) + d + data, digest_size=32)
static void digest_is_blake2b_of_length_domain_and_data(void **state)
{
    (void)state;
    const struct digest abc = digest_of("weir test 1", "abc", 3);
    assert_hex(&abc, "b4690d5f3d7324d116595ca287bc38a6e585c51c141507d962bdb20fa8b94795");
    const struct digest empty = digest_of("weir test 1", NULL, 0);
    assert_hex(&empty, "47df5d9c98e0f2a8374277fb6eb790bdab898853598b12a5a26f8d4b99985a47");
}

static void domain_and_data_never_run_together(void **state)
{
    (void)state;
    const struct digest a = digest_of("weir", " test", 5);
    const struct digest b = digest_of("weir ", "test", 4);
    const struct digest c = digest_of("weir test", "", 0);
    assert_false(digest_equal(&a, &b));
    assert_false(digest_equal(&b, &c));
    assert_false(digest_equal(&a, &c));
}

static void streaming_in_any_pieces_gives_the_same_digest(void **state)
{
    (void)state;
    uint8_t *data = pattern(1000);
    const struct digest whole = digest_of("weir test 1", data, 1000);
    for (size_t piece = 1; piece <= 1000; piece += 37) {
        struct digest_stream stream;
        digest_init(&stream, "weir test 1");
        for (size_t at = 0; at < 1000; at += piece) {
            digest_update(&stream, data + at, 1000 - at < piece ? 1000 - at : piece);
        }
        const struct digest pieces = digest_final(&stream);
        assert_true(digest_equal(&whole, &pieces));
    }
    free(data);
}

static void hex_takes_both_cases_and_nothing_else(void **state)
{
    (void)state;
    const struct digest digest = digest_of("weir test 1", "abc", 3);
    char text[DIGEST_HEX_BYTES + 1] = {0};
    struct digest back;
    digest_to_hex(&digest, text);
    assert_int_equal(digest_from_hex(text, &back), CRYPTO_OK);
    assert_true(digest_equal(&digest, &back));
    for (size_t i = 0; i < 64; i++) {
        text[i] = (char)(text[i] >= 'a' ? text[i] - 'a' + 'A' : text[i]);
    }
    assert_int_equal(digest_from_hex(text, &back), CRYPTO_OK);
    assert_true(digest_equal(&digest, &back));
    for (size_t i = 0; i <= 64; i++) {
        char wrong[DIGEST_HEX_BYTES + 1];
        memcpy(wrong, text, sizeof wrong);
        wrong[i] = i == 64 ? '0' : 'g';
        assert_int_equal(digest_from_hex(wrong, &back), CRYPTO_MALFORMED);
        if (i < 64) {
            wrong[i] = '\0';
            assert_int_equal(digest_from_hex(wrong, &back), CRYPTO_MALFORMED);
        }
    }
}

// leaf = H("weir chunk 1", chunk); id = H("weir blob 1", leaves + struct.pack("<Q", total))
static void blob_ids_are_fixed(void **state)
{
    (void)state;
    static const struct {
        size_t bytes;
        const char *id;
    } cases[] = {
        {0, "69cc30c08ba858ac8798a78c6e8e51d6e599512023b538b9a361d2b286873142"},
        {1, "5e8d774af8cfd28e21f80b83a5f8f660221b60f3bf032a7e980b7fc8cec94a42"},
        {BLOB_CHUNK_BYTES - 1, "35cf24d77ca6f97f81f7da7fdb613e5d25a06bfee810374149797bae95dcefe5"},
        {BLOB_CHUNK_BYTES, "04e910d333f573dd483a0e2ec06e4a996ea5c114a33452442a3468fc9f0c51c8"},
        {BLOB_CHUNK_BYTES + 1, "16fea6438234715e7d7ca7093fa0633f579ce3b35e0da85202ee5c7d89cfbfab"},
        {3 * BLOB_CHUNK_BYTES + 12345, "f69473376651e8e70d373c520d0cdfb30755f8feeebbf0cc993031005e9ea08a"},
    };
    uint8_t *data = pattern(3 * BLOB_CHUNK_BYTES + 12345);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct digest id = blob_id(data, cases[i].bytes);
        assert_hex(&id, cases[i].id);
    }
    free(data);
}

static void blob_id_does_not_depend_on_the_pieces(void **state)
{
    (void)state;
    const size_t bytes = 2 * BLOB_CHUNK_BYTES + 77;
    uint8_t *data = pattern(bytes);
    const struct digest whole = blob_id(data, bytes);
    static const size_t pieces[] = {
        1000, 65536, BLOB_CHUNK_BYTES - 1, BLOB_CHUNK_BYTES, BLOB_CHUNK_BYTES + 1, 3 * BLOB_CHUNK_BYTES};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct chunk_list list;
        const struct digest id = list_of(data, bytes, pieces[i], &list);
        assert_true(digest_equal(&whole, &id));
        assert_int_equal(list.count, 3);
        assert_int_equal(blob_list_verify(&id, bytes, list.chunks, list.count), CRYPTO_OK);
    }
    free(data);
}

// A chunk is no blob, a list of digests is no chunk, and trailing zeros count.
static void blobs_of_other_length_or_level_have_other_ids(void **state)
{
    (void)state;
    uint8_t zeros[64] = {0};
    struct digest seen[65];
    for (size_t bytes = 0; bytes <= 64; bytes++) {
        seen[bytes] = blob_id(zeros, bytes);
        for (size_t other = 0; other < bytes; other++) {
            assert_false(digest_equal(&seen[bytes], &seen[other]));
        }
    }
    const struct digest chunk = blob_chunk_digest(zeros, 64);
    assert_false(digest_equal(&chunk, &seen[64]));
    const struct digest of_list = blob_id(chunk.bytes, DIGEST_BYTES);
    assert_false(digest_equal(&of_list, &seen[64]));
}

static void lying_chunk_lists_are_refused(void **state)
{
    (void)state;
    const size_t bytes = 2 * BLOB_CHUNK_BYTES + 77;
    uint8_t *data = pattern(bytes);
    struct chunk_list list;
    const struct digest id = list_of(data, bytes, bytes, &list);
    assert_int_equal(blob_list_verify(&id, bytes, list.chunks, 2), CRYPTO_MALFORMED);
    assert_int_equal(blob_list_verify(&id, bytes, list.chunks, 4), CRYPTO_MALFORMED);
    assert_int_equal(blob_list_verify(&id, bytes - 1, list.chunks, 3), CRYPTO_DIGEST_DIFFER);
    assert_int_equal(blob_list_verify(&id, 0, list.chunks, 0), CRYPTO_DIGEST_DIFFER);
    assert_int_equal(blob_list_verify(&id, BLOB_BYTES_MAX + 1, list.chunks, 3), CRYPTO_TOO_LARGE);
    assert_int_equal(blob_list_verify(&id, UINT64_MAX, list.chunks, 3), CRYPTO_TOO_LARGE);
    const struct digest first = list.chunks[0];
    list.chunks[0] = list.chunks[1];
    list.chunks[1] = first;
    assert_int_equal(blob_list_verify(&id, bytes, list.chunks, 3), CRYPTO_DIGEST_DIFFER);
    list.chunks[1] = list.chunks[0];
    list.chunks[0] = first;
    assert_int_equal(blob_list_verify(&id, bytes, list.chunks, 3), CRYPTO_OK);
    list.chunks[2].bytes[31] ^= 1;
    assert_int_equal(blob_list_verify(&id, bytes, list.chunks, 3), CRYPTO_DIGEST_DIFFER);
    free(data);
}

static void chunks_are_checked_for_length_and_content(void **state)
{
    (void)state;
    const size_t bytes = BLOB_CHUNK_BYTES + 5;
    uint8_t *data = pattern(bytes);
    struct chunk_list list;
    list_of(data, bytes, bytes, &list);
    const uint8_t *last = data + BLOB_CHUNK_BYTES;
    assert_int_equal(blob_chunk_length(bytes, 0), BLOB_CHUNK_BYTES);
    assert_int_equal(blob_chunk_length(bytes, 1), 5);
    assert_int_equal(blob_chunk_verify(&list.chunks[0], bytes, 0, data, BLOB_CHUNK_BYTES), CRYPTO_OK);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], bytes, 1, last, 5), CRYPTO_OK);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], bytes, 1, last, 4), CRYPTO_TRUNCATED);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], bytes, 1, last, 6), CRYPTO_TRAILING);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], bytes, 2, last, 5), CRYPTO_MALFORMED);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], bytes, UINT64_MAX, last, 5), CRYPTO_MALFORMED);
    assert_int_equal(blob_chunk_verify(&list.chunks[1], 0, 0, last, 0), CRYPTO_MALFORMED);
    data[3] ^= 4;
    assert_int_equal(blob_chunk_verify(&list.chunks[0], bytes, 0, data, BLOB_CHUNK_BYTES),
                     CRYPTO_DIGEST_DIFFER);
    free(data);
}

static void a_blob_over_the_limit_is_refused_before_it_is_hashed(void **state)
{
    (void)state;
    struct blob_digest blob;
    blob_digest_init(&blob, NULL, NULL);
    blob.total_bytes = BLOB_BYTES_MAX; // as if a full blob had gone by
    assert_int_equal(blob_digest_update(&blob, "x", 1), CRYPTO_TOO_LARGE);
    assert_int_equal(blob_digest_update(&blob, "x", 0), CRYPTO_OK);
    blob.total_bytes = 1;
    assert_int_equal(blob_digest_update(&blob, "x", SIZE_MAX), CRYPTO_TOO_LARGE);
}

static void every_error_has_a_class_a_name_and_a_text(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CRYPTO_ERROR_COUNT; i++) {
        const enum crypto_error error = (enum crypto_error)i;
        assert_non_null(crypto_error_name(error));
        assert_non_null(crypto_error_text(error));
        assert_int_equal(crypto_error_class(error) == CRYPTO_CLASS_NONE, error == CRYPTO_OK);
        for (unsigned j = 0; j < i; j++) {
            assert_string_not_equal(crypto_error_name(error), crypto_error_name((enum crypto_error)j));
        }
    }
    assert_string_equal(crypto_error_name((enum crypto_error)9999), "unknown");
}

static void names_are_dns_labels(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool valid;
    } cases[] = {
        {"ashburn", true},
        {"a", true},
        {"node-1", true},
        {"0", true},
        {"", false},
        {"-a", false},
        {"a-", false},
        {"-", false},
        {"Ashburn", false},
        {"a.b", false},
        {"a b", false},
        {"a_b", false},
        {"\xc3\xa9", false},
        {"a\n", false},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(name_valid(cases[i].name), cases[i].valid);
    }
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digest_is_blake2b_of_length_domain_and_data),
        cmocka_unit_test(domain_and_data_never_run_together),
        cmocka_unit_test(streaming_in_any_pieces_gives_the_same_digest),
        cmocka_unit_test(hex_takes_both_cases_and_nothing_else),
        cmocka_unit_test(blob_ids_are_fixed),
        cmocka_unit_test(blob_id_does_not_depend_on_the_pieces),
        cmocka_unit_test(blobs_of_other_length_or_level_have_other_ids),
        cmocka_unit_test(lying_chunk_lists_are_refused),
        cmocka_unit_test(chunks_are_checked_for_length_and_content),
        cmocka_unit_test(a_blob_over_the_limit_is_refused_before_it_is_hashed),
        cmocka_unit_test(every_error_has_a_class_a_name_and_a_text),
        cmocka_unit_test(names_are_dns_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
