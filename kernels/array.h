/* Arrays: element types, shapes, the .npy file format, and lines of text.
 *
 * Inside the mesh an array travels as raw rows beside a `struct array_type`; .npy exists only at the edge,
 * where a user's file comes in or a result goes out. Rows are items along the first axis, always in C order,
 * little-endian.
 *
 *   raw   bytes without meaning: rank 1 [bytes], or rank 2 [rows, bytes per row]
 *   text  lines: rank 1 [lines]; a line ends with '\n' (the last may lack it); '\r' stays part of the line
 *
 * Nothing here allocates, and every byte handed in may be hostile. */
#ifndef KERNELS_ARRAY_H
#define KERNELS_ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_RANK_MAX 8
#define ARRAY_TYPE_TEXT_BYTES 224       /* enough for the longest array_type_text() */
#define ARRAY_NPY_HEADER_MAX 65536      /* a longer header is refused; NumPy writes 128 bytes */
#define ARRAY_NPY_WRITTEN_BYTES_MAX 320 /* what array_npy_encode() writes at most */

enum array_dtype {
    ARRAY_RAW,
    ARRAY_TEXT,
    ARRAY_INT8,
    ARRAY_UINT8,
    ARRAY_INT32,
    ARRAY_UINT32,
    ARRAY_INT64,
    ARRAY_UINT64,
    ARRAY_FLOAT32,
    ARRAY_FLOAT64,
    ARRAY_DTYPES /* count */
};

/* shape[rank..] is zero, so that two types can be compared field by field. */
struct array_type {
    uint8_t dtype; /* enum array_dtype */
    uint8_t rank;  /* 1 .. ARRAY_RANK_MAX; 0 is a .npy scalar, which no kernel takes */
    uint64_t shape[ARRAY_RANK_MAX];
};

enum array_error {
    ARRAY_OK,
    ARRAY_EMPTY,         /* a file of 0 bytes */
    ARRAY_NOT_NPY,       /* the magic string is absent */
    ARRAY_BAD_VERSION,   /* .npy version other than 1.0, 2.0, 3.0 */
    ARRAY_TRUNCATED,     /* ends inside the header, or holds fewer data bytes than the header says */
    ARRAY_SURPLUS,       /* more data bytes than the header says */
    ARRAY_BAD_HEADER,    /* not the dictionary that the format demands */
    ARRAY_FORTRAN_ORDER, /* column-major */
    ARRAY_BIG_ENDIAN,
    ARRAY_OBJECT_DTYPE,   /* Python objects */
    ARRAY_UNKNOWN_DTYPE,  /* a dtype outside enum array_dtype */
    ARRAY_BAD_RANK,       /* more than ARRAY_RANK_MAX axes */
    ARRAY_SHAPE_OVERFLOW, /* the byte count does not fit 63 bits */
    ARRAY_NOT_ROWS,       /* a raw file's size is no multiple of the row size */
    ARRAY_NO_SPACE,       /* the caller's buffer is too small */
    ARRAY_ERRORS          /* count */
};

/* The class of an error says what to do. All array errors but ARRAY_NO_SPACE are the giver's fault. */
enum array_class { ARRAY_CLASS_NONE, ARRAY_CLASS_PEER, ARRAY_CLASS_LOCAL };

/* A sentence that says what is wrong and what to do; static storage. */
const char *array_error_text(enum array_error error);
enum array_class array_error_class(enum array_error error);

/* Bytes of one element; 1 for raw and text. */
size_t array_dtype_bytes(enum array_dtype dtype);
const char *array_dtype_name(enum array_dtype dtype);
/* Finds "int8", "float32", "raw", ...; false if there is none of that name. */
bool array_dtype_find(const char *name, enum array_dtype *dtype);

bool array_type_equal(const struct array_type *a, const struct array_type *b);
/* Bytes of one row (all axes but the first; 1 for text, whose rows vary) and of the whole array. */
enum array_error array_row_bytes(const struct array_type *type, uint64_t *bytes);
enum array_error array_bytes(const struct array_type *type, uint64_t *bytes);
/* Writes "int8 [104334, 256]" and returns `out`. */
const char *array_type_text(const struct array_type *type, char out[ARRAY_TYPE_TEXT_BYTES]);

/* A raw file of `bytes` seen as rows of `row_bytes` (0: one axis of bytes). */
enum array_error array_raw_type(uint64_t bytes, uint64_t row_bytes, struct array_type *type);

/* Reads a .npy header (versions 1.0, 2.0, 3.0). `head` holds the first `head_bytes` of the file; 64 KiB + 12
 * are always enough. `file_bytes` is the size of the whole file, against which the shape is checked exactly.
 * The data begins at `data_offset`. */
enum array_error array_npy_decode(const void *head, size_t head_bytes, uint64_t file_bytes,
                                  struct array_type *type, uint64_t *data_offset);
/* Writes a version 1.0 header, padded to a multiple of 64, as NumPy does. Raw is written as uint8; text is
 * refused (ARRAY_UNKNOWN_DTYPE). */
enum array_error array_npy_encode(const struct array_type *type, uint8_t out[ARRAY_NPY_WRITTEN_BYTES_MAX],
                                  size_t *bytes);

/* Lines of text: an empty buffer has none; "a\nb" and "a\nb\n" both have two. */
uint64_t array_line_count(const void *text, uint64_t bytes);
/* Fills offsets[i] with the start of line i and offsets[count] with `bytes`, so that line i is
 * [offsets[i], offsets[i + 1]) with its '\n'. `capacity` counts elements and must be at least lines + 1. */
enum array_error array_line_index(const void *text, uint64_t bytes, uint64_t *offsets, uint64_t capacity,
                                  uint64_t *count);
/* Length of the line without its '\n'. */
uint64_t array_line_bytes(const void *text, uint64_t begin, uint64_t end);

#endif
