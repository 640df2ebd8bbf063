#include "crypto/pack.h"

#include <assert.h>
#include <string.h>

struct pack_writer pack_writer_of(uint8_t *bytes, size_t capacity)
{
    return (struct pack_writer){.bytes = bytes, .capacity = capacity};
}

void pack_bytes(struct pack_writer *writer, const void *data, size_t bytes)
{
    if (writer->error == CRYPTO_OK && bytes > writer->capacity - writer->count) {
        writer->error = CRYPTO_NO_SPACE;
    }
    if (writer->error != CRYPTO_OK || bytes == 0) {
        return;
    }
    memcpy(writer->bytes + writer->count, data, bytes);
    writer->count += bytes;
}

static void pack_little(struct pack_writer *writer, uint64_t value, size_t bytes)
{
    uint8_t little[8];
    for (size_t i = 0; i < bytes; i++) {
        little[i] = (uint8_t)(value >> (8 * i));
    }
    pack_bytes(writer, little, bytes);
}

void pack_u8(struct pack_writer *writer, uint8_t value)
{
    pack_little(writer, value, 1);
}

void pack_u16(struct pack_writer *writer, uint16_t value)
{
    pack_little(writer, value, 2);
}

void pack_u32(struct pack_writer *writer, uint32_t value)
{
    pack_little(writer, value, 4);
}

void pack_u64(struct pack_writer *writer, uint64_t value)
{
    pack_little(writer, value, 8);
}

void pack_i64(struct pack_writer *writer, int64_t value)
{
    pack_little(writer, (uint64_t)value, 8);
}

void pack_magic(struct pack_writer *writer, const char *magic)
{
    uint8_t padded[PACK_MAGIC_BYTES] = {0};
    const size_t bytes = strlen(magic);
    assert(bytes <= sizeof padded);
    memcpy(padded, magic, bytes);
    pack_bytes(writer, padded, sizeof padded);
}

void pack_text(struct pack_writer *writer, const char *text, size_t bytes_max)
{
    assert(bytes_max <= UINT8_MAX);
    const size_t bytes = strlen(text);
    if (bytes > bytes_max) {
        writer->error = writer->error != CRYPTO_OK ? writer->error : CRYPTO_TOO_LARGE;
        return;
    }
    pack_u8(writer, (uint8_t)bytes);
    pack_bytes(writer, text, bytes);
}

struct pack_reader pack_reader_of(const uint8_t *bytes, size_t count)
{
    return (struct pack_reader){.at = bytes, .left = count};
}

const uint8_t *unpack_span(struct pack_reader *reader, size_t bytes)
{
    unpack_require(reader, bytes <= reader->left, CRYPTO_TRUNCATED);
    if (reader->error != CRYPTO_OK) {
        return NULL;
    }
    const uint8_t *span = reader->at;
    reader->at += bytes;
    reader->left -= bytes;
    return span;
}

void unpack_bytes(struct pack_reader *reader, void *out, size_t bytes)
{
    const uint8_t *span = unpack_span(reader, bytes);
    if (span == NULL) {
        memset(out, 0, bytes);
    } else {
        memcpy(out, span, bytes);
    }
}

static uint64_t unpack_little(struct pack_reader *reader, size_t bytes)
{
    uint8_t little[8];
    unpack_bytes(reader, little, bytes);
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value |= (uint64_t)little[i] << (8 * i);
    }
    return value;
}

uint8_t unpack_u8(struct pack_reader *reader)
{
    return (uint8_t)unpack_little(reader, 1);
}

uint16_t unpack_u16(struct pack_reader *reader)
{
    return (uint16_t)unpack_little(reader, 2);
}

uint32_t unpack_u32(struct pack_reader *reader)
{
    return (uint32_t)unpack_little(reader, 4);
}

uint64_t unpack_u64(struct pack_reader *reader)
{
    return unpack_little(reader, 8);
}

int64_t unpack_i64(struct pack_reader *reader)
{
    return (int64_t)unpack_little(reader, 8);
}

void unpack_magic(struct pack_reader *reader, const char *magic)
{
    uint8_t expected[PACK_MAGIC_BYTES] = {0};
    const size_t bytes = strlen(magic);
    assert(bytes <= sizeof expected);
    memcpy(expected, magic, bytes);
    const uint8_t *found = unpack_span(reader, sizeof expected);
    if (found != NULL) {
        unpack_require(reader, memcmp(found, expected, sizeof expected) == 0, CRYPTO_WRONG_MAGIC);
    }
}

void unpack_text(struct pack_reader *reader, char *out, size_t bytes_max)
{
    const size_t bytes = unpack_u8(reader);
    unpack_require(reader, bytes <= bytes_max, CRYPTO_TOO_LARGE);
    const uint8_t *text = unpack_span(reader, bytes);
    out[0] = '\0';
    if (text == NULL) {
        return;
    }
    unpack_require(reader, memchr(text, '\0', bytes) == NULL, CRYPTO_MALFORMED);
    memcpy(out, text, bytes);
    out[bytes] = '\0';
}

void unpack_require(struct pack_reader *reader, bool holds, enum crypto_error error)
{
    if (reader->error == CRYPTO_OK && !holds) {
        reader->error = error;
    }
}

enum crypto_error unpack_end(const struct pack_reader *reader)
{
    if (reader->error != CRYPTO_OK) {
        return reader->error;
    }
    return reader->left == 0 ? CRYPTO_OK : CRYPTO_TRAILING;
}

// The length of the well-formed UTF-8 sequence at `text` (RFC 3629: no overlong form, no surrogate), its code
// point in `point`; 0 when there is none. A NUL inside a sequence is no continuation byte, so this never
// reads past the end.
static size_t utf8_next(const unsigned char *text, uint32_t *point)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char lead = text[0];
    const size_t bytes = lead < 0x80   ? 1
                         : lead < 0xc0 ? 0
                         : lead < 0xe0 ? 2
                         : lead < 0xf0 ? 3
                         : lead < 0xf8 ? 4
                                       : 0;
    *point = bytes <= 1 ? lead : lead & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
        *point = *point << 6 | (text[i] & 0x3fu);
    }
    if (*point < smallest[bytes] || *point > 0x10ffff || (*point >= 0xd800 && *point <= 0xdfff)) {
        return 0;
    }
    return bytes;
}

bool pack_text_printable(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    while (*at != '\0') {
        uint32_t point;
        const size_t bytes = utf8_next(at, &point);
        if (bytes == 0 || point < 0x20 || (point >= 0x7f && point <= 0x9f)) {
            return false;
        }
        at += bytes;
    }
    return true;
}
