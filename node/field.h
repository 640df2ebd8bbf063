/*
 * Bounded msgpack, both ways. Used for the frames between nodes and the bodies of signed records.
 *
 * Writing goes through msgpack-c into a buffer of the caller's that never grows: what does not fit sets
 * `full`, and one check at the end is enough. Reading is done here, by a cursor that looks at a type, a range
 * and a length before it moves, allocates nothing and never believes a count. A reader that met an error
 * stays failed; later reads return zeros, so that a decoder reads straight through and asks once. Peers'
 * bytes must not be given to msgpack-c's own decoder, which reserves memory for whatever count five bytes
 * claim.
 *
 * Integers are accepted in any width that msgpack allows and are checked against the range asked for.
 */
#ifndef NODE_FIELD_H
#define NODE_FIELD_H

#include <msgpack/pack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_error {
    FIELD_OK = 0,
    FIELD_TRUNCATED, /* the bytes end too early, or a length points past their end */
    FIELD_TRAILING,  /* bytes are left over */
    FIELD_TYPE,      /* another type than the one expected here */
    FIELD_RANGE,     /* a number or a length outside its limits */
};

struct field_writer {
    msgpack_packer packer;
    uint8_t *bytes; /* borrowed until the writing is done */
    size_t capacity;
    size_t count;
    bool full;
};

void field_writer_init(struct field_writer *writer, uint8_t *bytes, size_t capacity);
void field_put_array(struct field_writer *writer, size_t items);
void field_put_uint(struct field_writer *writer, uint64_t value);
void field_put_int(struct field_writer *writer, int64_t value);
void field_put_bool(struct field_writer *writer, bool value);
void field_put_bin(struct field_writer *writer, const void *bytes, size_t count);
void field_put_bin_head(struct field_writer *writer, size_t count); /* its bytes follow by other means */
void field_put_text(struct field_writer *writer, const char *text); /* without its NUL */

struct field_reader {
    const uint8_t *at;
    const uint8_t *end;
    enum field_error error; /* the first one */
};

void field_reader_init(struct field_reader *reader, const uint8_t *bytes, size_t count);
/* The number of items, between `min` and `max` and no more than bytes are left; otherwise 0 and an error. */
uint32_t field_get_array(struct field_reader *reader, uint32_t min, uint32_t max);
uint64_t field_get_uint(struct field_reader *reader, uint64_t max);
int64_t field_get_int(struct field_reader *reader, int64_t min, int64_t max);
bool field_get_bool(struct field_reader *reader);
/* Borrowed from the bytes that are read; NULL and *count 0 on error. */
const uint8_t *field_get_bin(struct field_reader *reader, size_t min, size_t max, size_t *count);
/* Exactly `count` bytes, copied; zeros on error. */
void field_get_fixed(struct field_reader *reader, void *out, size_t count);
/* A string of at most `capacity` - 1 bytes, printable ASCII only, with a NUL; empty on error. */
void field_get_text(struct field_reader *reader, char *out, size_t capacity);
/* True when everything was read without an error and nothing is left over. */
bool field_get_end(struct field_reader *reader);
void field_fail(struct field_reader *reader, enum field_error error);

#endif
