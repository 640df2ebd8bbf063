/* Arrays: shapes, .npy headers from friend and foe, lines. */
#include "kernels/array.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static unsigned seed;

/* A version 1.0 file with this dictionary; returns its header's bytes. */
static size_t make_npy(uint8_t *out, const char *dictionary)
{
    const size_t length = strlen(dictionary);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (uint8_t)(length & 0xff);
    out[9] = (uint8_t)(length >> 8);
    memcpy(out + 10, dictionary, length);
    return 10 + length;
}

static void npy_header_as_numpy_writes_it_is_read(void **state)
{
    (void)state;
    uint8_t file[512];
    struct array_type type;
    uint64_t offset;
    const size_t head =
        make_npy(file, "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 5), }                    \n");
    assert_int_equal(array_npy_decode(file, head, head + 120, &type, &offset), ARRAY_OK);
    assert_int_equal(type.dtype, ARRAY_FLOAT64);
    assert_int_equal(type.rank, 2);
    assert_int_equal(type.shape[0], 3);
    assert_int_equal(type.shape[1], 5);
    assert_int_equal(type.shape[2], 0);
    assert_int_equal(offset, head);
}

static void npy_headers_that_lie_are_refused_with_their_reason(void **state)
{
    (void)state;
    static const struct {
        const char *dictionary;
        uint64_t data_bytes;
        enum array_error error;
    } cases[] = {
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_OK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': ()}", 8, ARRAY_OK},
        {"{'shape': (2,), 'fortran_order': False, 'descr': '<i4',}\n", 8, ARRAY_OK},
        {"{\"shape\": (2,), \"fortran_order\": False, \"descr\": \"<i4\"}", 8, ARRAY_OK},
        {"{'descr': '|i1', 'fortran_order': True, 'shape': (2,)}", 2, ARRAY_OK}, /* one axis: no order */
        {"{'descr': '>i1', 'fortran_order': False, 'shape': (2,)}", 2, ARRAY_OK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4)}", 0, ARRAY_OK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 15, ARRAY_TRUNCATED},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 17, ARRAY_SURPLUS},
        {"{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2)}", 32, ARRAY_FORTRAN_ORDER},
        {"{'descr': '>f8', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_BIG_ENDIAN},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_OBJECT_DTYPE},
        {"{'descr': '<f2', 'fortran_order': False, 'shape': (2,)}", 4, ARRAY_UNKNOWN_DTYPE},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", 2, ARRAY_UNKNOWN_DTYPE},
        {"{'descr': '<U4', 'fortran_order': False, 'shape': (2,)}", 32, ARRAY_UNKNOWN_DTYPE},
        {"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_UNKNOWN_DTYPE},
        {"{'descr': '', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': 'f8', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'fortran_order': False, 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'extra': 1}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': 0, 'shape': (2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (-2,)}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,}", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)} x", 16, ARRAY_BAD_HEADER},
        {"", 16, ARRAY_BAD_HEADER},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1)}", 8, ARRAY_OK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", 8, ARRAY_BAD_RANK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 16,
         ARRAY_SHAPE_OVERFLOW},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}", 16,
         ARRAY_SHAPE_OVERFLOW},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,)}", 16,
         ARRAY_SHAPE_OVERFLOW},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999)}", 0,
         ARRAY_SHAPE_OVERFLOW},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t file[512];
        struct array_type type;
        uint64_t offset;
        const size_t head = make_npy(file, cases[i].dictionary);
        const enum array_error error =
            array_npy_decode(file, head, head + cases[i].data_bytes, &type, &offset);
        if (error != cases[i].error)
            print_error("%s: %s\n", cases[i].dictionary, array_error_text(error));
        assert_int_equal(error, cases[i].error);
    }
}

static void npy_magic_version_and_length_are_checked(void **state)
{
    (void)state;
    uint8_t file[512];
    struct array_type type;
    uint64_t offset;
    const size_t head = make_npy(file, "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}");
    assert_int_equal(array_npy_decode(file, 0, 0, &type, &offset), ARRAY_EMPTY);
    for (size_t cut = 1; cut < head; cut++)
        assert_int_equal(array_npy_decode(file, cut, cut, &type, &offset), ARRAY_TRUNCATED);
    file[6] = 4;
    assert_int_equal(array_npy_decode(file, head, head + 16, &type, &offset), ARRAY_BAD_VERSION);
    file[6] = 0;
    assert_int_equal(array_npy_decode(file, head, head + 16, &type, &offset), ARRAY_BAD_VERSION);
    file[6] = 1;
    file[7] = 1;
    assert_int_equal(array_npy_decode(file, head, head + 16, &type, &offset), ARRAY_BAD_VERSION);
    file[7] = 0;
    file[0] = 'P';
    assert_int_equal(array_npy_decode(file, head, head + 16, &type, &offset), ARRAY_NOT_NPY);
    file[0] = 0x93;
    file[6] = 2; /* the length becomes four bytes, of which two are text: gigabytes */
    assert_int_equal(array_npy_decode(file, head, head + 16, &type, &offset), ARRAY_BAD_HEADER);
}

static void npy_version_2_and_3_are_read(void **state)
{
    (void)state;
    static const char dictionary[] = "{'descr': '<u8', 'fortran_order': False, 'shape': (4, 1)}";
    for (uint8_t version = 2; version <= 3; version++) {
        uint8_t file[128] = "\x93NUMPY";
        struct array_type type;
        uint64_t offset;
        file[6] = version;
        file[8] = sizeof dictionary - 1;
        memcpy(file + 12, dictionary, sizeof dictionary - 1);
        const size_t head = 12 + sizeof dictionary - 1;
        assert_int_equal(array_npy_decode(file, head, head + 32, &type, &offset), ARRAY_OK);
        assert_int_equal(offset, head);
        assert_int_equal(array_npy_decode(file, 11, 11, &type, &offset), ARRAY_TRUNCATED);
    }
}

static void written_headers_are_read_back(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct array_type type = {.dtype = (uint8_t)(ARRAY_INT8 + rand() % 8),
                                  .rank = (uint8_t)(1 + rand() % 8)};
        for (unsigned i = 0; i < type.rank; i++)
            type.shape[i] = (uint64_t)(rand() % 100);
        uint8_t header[ARRAY_NPY_WRITTEN_BYTES_MAX];
        size_t bytes;
        uint64_t data_bytes, offset;
        struct array_type read;
        assert_int_equal(array_npy_encode(&type, header, &bytes), ARRAY_OK);
        assert_int_equal(bytes % 64, 0);
        assert_int_equal(array_bytes(&type, &data_bytes), ARRAY_OK);
        assert_int_equal(array_npy_decode(header, bytes, bytes + data_bytes, &read, &offset), ARRAY_OK);
        assert_true(array_type_equal(&type, &read));
        assert_int_equal(offset, bytes);
    }
    struct array_type huge = {.dtype = ARRAY_INT8, .rank = 8, .shape = {0}};
    for (unsigned i = 1; i < 8; i++)
        huge.shape[i] = i < 4 ? UINT32_MAX / 4096 : 1;
    uint8_t header[ARRAY_NPY_WRITTEN_BYTES_MAX];
    size_t bytes;
    assert_int_equal(array_npy_encode(&huge, header, &bytes), ARRAY_OK);
    const struct array_type text = {.dtype = ARRAY_TEXT, .rank = 1, .shape = {3}};
    assert_int_equal(array_npy_encode(&text, header, &bytes), ARRAY_UNKNOWN_DTYPE);
}

static void byte_counts_overflow_to_an_error(void **state)
{
    (void)state;
    uint64_t bytes;
    const struct array_type wide = {.dtype = ARRAY_FLOAT64, .rank = 3, .shape = {1, UINT32_MAX, UINT32_MAX}};
    assert_int_equal(array_row_bytes(&wide, &bytes), ARRAY_SHAPE_OVERFLOW);
    const struct array_type tall = {.dtype = ARRAY_UINT8, .rank = 1, .shape = {1ull << 63}};
    assert_int_equal(array_bytes(&tall, &bytes), ARRAY_SHAPE_OVERFLOW);
    const struct array_type odd = {.dtype = 200, .rank = 1, .shape = {1}};
    assert_int_equal(array_bytes(&odd, &bytes), ARRAY_UNKNOWN_DTYPE);
    const struct array_type deep = {.dtype = ARRAY_INT8, .rank = 9};
    assert_int_equal(array_bytes(&deep, &bytes), ARRAY_BAD_RANK);
    char text[ARRAY_TYPE_TEXT_BYTES];
    struct array_type longest = {.dtype = ARRAY_FLOAT64, .rank = 8};
    memset(longest.shape, 0xff, sizeof longest.shape);
    assert_true(strlen(array_type_text(&longest, text)) < sizeof text - 1);
    assert_int_equal(text[strlen(text) - 1], ']');
}

static void raw_files_are_rows_or_refused(void **state)
{
    (void)state;
    struct array_type type;
    assert_int_equal(array_raw_type(0, 0, &type), ARRAY_EMPTY);
    assert_int_equal(array_raw_type(10, 3, &type), ARRAY_NOT_ROWS);
    assert_int_equal(array_raw_type(9, 3, &type), ARRAY_OK);
    assert_int_equal(type.rank, 2);
    assert_int_equal(type.shape[0], 3);
    assert_int_equal(array_raw_type(9, 0, &type), ARRAY_OK);
    assert_int_equal(type.rank, 1);
}

static void lines_end_where_editors_say(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t count;
        uint64_t lengths[4];
    } cases[] = {
        {"", 0, {0}},          {"\n", 1, {0}},      {"a", 1, {1}},
        {"a\n", 1, {1}},       {"a\nb", 2, {1, 1}}, {"a\n\nb\n", 3, {1, 0, 1}},
        {"a\r\nb", 2, {2, 1}}, {"\n\n", 2, {0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t offsets[8], count;
        const size_t bytes = strlen(cases[i].text);
        assert_int_equal(array_line_count(cases[i].text, bytes), cases[i].count);
        assert_int_equal(array_line_index(cases[i].text, bytes, offsets, 8, &count), ARRAY_OK);
        assert_int_equal(count, cases[i].count);
        assert_int_equal(offsets[count], bytes);
        for (uint64_t line = 0; line < count; line++)
            assert_int_equal(array_line_bytes(cases[i].text, offsets[line], offsets[line + 1]),
                             cases[i].lengths[line]);
        assert_int_equal(array_line_index(cases[i].text, bytes, offsets, cases[i].count + 1, &count),
                         ARRAY_OK);
        assert_int_equal(array_line_index(cases[i].text, bytes, offsets, cases[i].count, &count),
                         ARRAY_NO_SPACE);
    }
}

static void every_error_has_class_and_text(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_ERRORS; i++) {
        assert_non_null(array_error_text((enum array_error)i));
        assert_true((i == 0) == (array_error_class((enum array_error)i) == ARRAY_CLASS_NONE));
    }
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_header_as_numpy_writes_it_is_read),
        cmocka_unit_test(npy_headers_that_lie_are_refused_with_their_reason),
        cmocka_unit_test(npy_magic_version_and_length_are_checked),
        cmocka_unit_test(npy_version_2_and_3_are_read),
        cmocka_unit_test(written_headers_are_read_back),
        cmocka_unit_test(byte_counts_overflow_to_an_error),
        cmocka_unit_test(raw_files_are_rows_or_refused),
        cmocka_unit_test(lines_end_where_editors_say),
        cmocka_unit_test(every_error_has_class_and_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
