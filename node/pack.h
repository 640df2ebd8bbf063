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
#ifndef NODE_PACK_H
#define NODE_PACK_H

#include <msgpack/pack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pack_error {
    PACK_OK = 0,
    PACK_TRUNCATED, /* the bytes end too early, or a length points past their end */
    PACK_TRAILING,  /* bytes are left over */
    PACK_TYPE,      /* another type than the one expected here */
    PACK_RANGE,     /* a number or a length outside its limits */
};

struct pack_writer {
    msgpack_packer packer;
    uint8_t *bytes; /* borrowed until the writing is done */
    size_t capacity;
    size_t count;
    bool full;
};

void pack_init(struct pack_writer *writer, uint8_t *bytes, size_t capacity);
void pack_array(struct pack_writer *writer, size_t items);
void pack_uint(struct pack_writer *writer, uint64_t value);
void pack_int(struct pack_writer *writer, int64_t value);
void pack_bool(struct pack_writer *writer, bool value);
void pack_bin(struct pack_writer *writer, const void *bytes, size_t count);
void pack_text(struct pack_writer *writer, const char *text); /* without its NUL */

struct pack_reader {
    const uint8_t *at;
    const uint8_t *end;
    enum pack_error error; /* the first one */
};

void unpack_init(struct pack_reader *reader, const uint8_t *bytes, size_t count);
/* The number of items, between `min` and `max` and no more than bytes are left; otherwise 0 and an error. */
uint32_t unpack_array(struct pack_reader *reader, uint32_t min, uint32_t max);
uint64_t unpack_uint(struct pack_reader *reader, uint64_t max);
int64_t unpack_int(struct pack_reader *reader, int64_t min, int64_t max);
bool unpack_bool(struct pack_reader *reader);
/* Borrowed from the bytes that are read; NULL and *count 0 on error. */
const uint8_t *unpack_bin(struct pack_reader *reader, size_t min, size_t max, size_t *count);
/* Exactly `count` bytes, copied; zeros on error. */
void unpack_fixed(struct pack_reader *reader, void *out, size_t count);
/* A string of at most `capacity` - 1 bytes, printable ASCII only, with a NUL; empty on error. */
void unpack_text(struct pack_reader *reader, char *out, size_t capacity);
/* True when everything was read without an error and nothing is left over. */
bool unpack_end(struct pack_reader *reader);
void unpack_fail(struct pack_reader *reader, enum pack_error error);

#endif
