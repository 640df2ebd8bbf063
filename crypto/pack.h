// Bounded writing and reading of the library's fixed little-endian layouts; internal to crypto/.
//
// Both cursors remember their first error and then do nothing, so that a layout reads as a list of its fields
// with one check at the end. After an error a reader yields zeros. A reader never copies more than it was
// told and never trusts a length before it has compared it with its limit and with the bytes left.
#ifndef WEIR_CRYPTO_PACK_H
#define WEIR_CRYPTO_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/error.h"

#define PACK_MAGIC_BYTES 16u

struct pack_writer {
    uint8_t *bytes;
    size_t capacity;
    size_t count;
    enum crypto_error error;
};

struct pack_reader {
    const uint8_t *at;
    size_t left;
    enum crypto_error error;
};

struct pack_writer pack_writer_of(uint8_t *bytes, size_t capacity);
void pack_bytes(struct pack_writer *writer, const void *data, size_t bytes);
void pack_u8(struct pack_writer *writer, uint8_t value);
void pack_u16(struct pack_writer *writer, uint16_t value);
void pack_u32(struct pack_writer *writer, uint32_t value);
void pack_u64(struct pack_writer *writer, uint64_t value);
void pack_i64(struct pack_writer *writer, int64_t value);
// A magic of up to 16 characters, filled with NULs.
void pack_magic(struct pack_writer *writer, const char *magic);
// u8 length and the text without its NUL; CRYPTO_TOO_LARGE above `bytes_max` <= 255.
void pack_text(struct pack_writer *writer, const char *text, size_t bytes_max);

struct pack_reader pack_reader_of(const uint8_t *bytes, size_t count);
void unpack_bytes(struct pack_reader *reader, void *out, size_t bytes);
// Borrows `bytes` bytes in place; NULL after an error.
const uint8_t *unpack_span(struct pack_reader *reader, size_t bytes);
uint8_t unpack_u8(struct pack_reader *reader);
uint16_t unpack_u16(struct pack_reader *reader);
uint32_t unpack_u32(struct pack_reader *reader);
uint64_t unpack_u64(struct pack_reader *reader);
int64_t unpack_i64(struct pack_reader *reader);
// CRYPTO_WRONG_MAGIC when the bytes there differ.
void unpack_magic(struct pack_reader *reader, const char *magic);
// u8 length and text into `out`, which holds bytes_max + 1; CRYPTO_TOO_LARGE above bytes_max. A NUL inside is
// CRYPTO_MALFORMED.
void unpack_text(struct pack_reader *reader, char *out, size_t bytes_max);
// Refuses with `error` unless `holds`; for the values of fields.
void unpack_require(struct pack_reader *reader, bool holds, enum crypto_error error);
// The reader's error, or CRYPTO_TRAILING when bytes are left.
enum crypto_error unpack_end(const struct pack_reader *reader);

// UTF-8 without control characters (C0, DEL, C1), so that it can be shown on a terminal.
bool pack_text_printable(const char *text);

#endif
