#include "node/field.h"

#include <string.h>

/* ---- Writing ------------------------------------------------------------------------------------------- */

static int append(void *context, const char *bytes, size_t count)
{
    struct field_writer *writer = context;
    if (writer->full || count > writer->capacity - writer->count) {
        writer->full = true;
        return -1;
    }
    memcpy(writer->bytes + writer->count, bytes, count);
    writer->count += count;
    return 0;
}

void field_writer_init(struct field_writer *writer, uint8_t *bytes, size_t capacity)
{
    *writer = (struct field_writer){.bytes = bytes, .capacity = capacity};
    msgpack_packer_init(&writer->packer, writer, append);
}

void field_put_array(struct field_writer *writer, size_t items)
{
    msgpack_pack_array(&writer->packer, items);
}

void field_put_uint(struct field_writer *writer, uint64_t value)
{
    msgpack_pack_uint64(&writer->packer, value);
}

void field_put_int(struct field_writer *writer, int64_t value)
{
    msgpack_pack_int64(&writer->packer, value);
}

void field_put_bool(struct field_writer *writer, bool value)
{
    if (value)
        msgpack_pack_true(&writer->packer);
    else
        msgpack_pack_false(&writer->packer);
}

void field_put_bin(struct field_writer *writer, const void *bytes, size_t count)
{
    msgpack_pack_bin(&writer->packer, count);
    if (count)
        append(writer, bytes, count);
}

void field_put_bin_head(struct field_writer *writer, size_t count)
{
    msgpack_pack_bin(&writer->packer, count);
}

void field_put_text(struct field_writer *writer, const char *text)
{
    const size_t count = strlen(text);
    msgpack_pack_str(&writer->packer, count);
    if (count)
        append(writer, text, count);
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

void field_reader_init(struct field_reader *reader, const uint8_t *bytes, size_t count)
{
    *reader = (struct field_reader){.at = bytes, .end = bytes + count};
}

void field_fail(struct field_reader *reader, enum field_error error)
{
    if (reader->error == FIELD_OK)
        reader->error = error;
    reader->at = reader->end;
}

static size_t left(const struct field_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* The next `count` bytes, at most 8, as one big-endian number; 0 on error. */
static uint64_t take_number(struct field_reader *reader, unsigned count)
{
    if (left(reader) < count) {
        field_fail(reader, FIELD_TRUNCATED);
        return 0;
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < count; i++)
        value = value << 8 | *reader->at++;
    return value;
}

static const uint8_t *take_bytes(struct field_reader *reader, size_t count)
{
    if (left(reader) < count) {
        field_fail(reader, FIELD_TRUNCATED);
        return NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += count;
    return bytes;
}

static uint8_t take_type(struct field_reader *reader)
{
    return (uint8_t)take_number(reader, 1);
}

uint32_t field_get_array(struct field_reader *reader, uint32_t min, uint32_t max)
{
    const uint8_t type = take_type(reader);
    uint64_t items = 0;
    if ((type & 0xf0) == 0x90)
        items = type & 0x0f;
    else if (type == 0xdc)
        items = take_number(reader, 2);
    else if (type == 0xdd)
        items = take_number(reader, 4);
    else
        field_fail(reader, FIELD_TYPE);
    if (reader->error)
        return 0;
    if (items < min || items > max) {
        field_fail(reader, FIELD_RANGE);
        return 0;
    }
    if (items > left(reader)) { /* every item takes a byte at least */
        field_fail(reader, FIELD_TRUNCATED);
        return 0;
    }
    return (uint32_t)items;
}

/* An unsigned number of any width; a type that is none leaves the reader failed. */
static uint64_t unsigned_of_type(struct field_reader *reader, uint8_t type)
{
    if (type < 0x80)
        return type;
    if (type >= 0xcc && type <= 0xcf)
        return take_number(reader, 1u << (type - 0xcc));
    field_fail(reader, FIELD_TYPE);
    return 0;
}

uint64_t field_get_uint(struct field_reader *reader, uint64_t max)
{
    const uint64_t value = unsigned_of_type(reader, take_type(reader));
    if (!reader->error && value > max)
        field_fail(reader, FIELD_RANGE);
    return reader->error ? 0 : value;
}

/* Sign-extends a big-endian two's complement number of `count` bytes. */
static int64_t take_signed(struct field_reader *reader, unsigned count)
{
    const uint64_t value = take_number(reader, count);
    const uint64_t sign = UINT64_C(1) << (8 * count - 1);
    return (int64_t)((value ^ sign) - sign);
}

int64_t field_get_int(struct field_reader *reader, int64_t min, int64_t max)
{
    const uint8_t type = take_type(reader);
    int64_t value = 0;
    if (type >= 0xe0) {
        value = (int64_t)type - 0x100;
    } else if (type >= 0xd0 && type <= 0xd3) {
        value = take_signed(reader, 1u << (type - 0xd0));
    } else {
        const uint64_t positive = unsigned_of_type(reader, type);
        if (positive > INT64_MAX)
            field_fail(reader, FIELD_RANGE);
        else
            value = (int64_t)positive;
    }
    if (!reader->error && (value < min || value > max))
        field_fail(reader, FIELD_RANGE);
    return reader->error ? 0 : value;
}

bool field_get_bool(struct field_reader *reader)
{
    const uint8_t type = take_type(reader);
    if (type != 0xc2 && type != 0xc3)
        field_fail(reader, FIELD_TYPE);
    return !reader->error && type == 0xc3;
}

const uint8_t *field_get_bin(struct field_reader *reader, size_t min, size_t max, size_t *count)
{
    *count = 0;
    const uint8_t type = take_type(reader);
    if (type < 0xc4 || type > 0xc6) {
        field_fail(reader, FIELD_TYPE);
        return NULL;
    }
    const uint64_t bytes = take_number(reader, 1u << (type - 0xc4));
    if (!reader->error && (bytes < min || bytes > max))
        field_fail(reader, FIELD_RANGE);
    if (reader->error)
        return NULL;
    const uint8_t *at = take_bytes(reader, (size_t)bytes);
    if (at)
        *count = (size_t)bytes;
    return at;
}

void field_get_fixed(struct field_reader *reader, void *out, size_t count)
{
    size_t got;
    const uint8_t *bytes = field_get_bin(reader, count, count, &got);
    if (bytes)
        memcpy(out, bytes, count);
    else
        memset(out, 0, count);
}

void field_get_text(struct field_reader *reader, char *out, size_t capacity)
{
    out[0] = 0;
    const uint8_t type = take_type(reader);
    uint64_t count = 0;
    if ((type & 0xe0) == 0xa0)
        count = type & 0x1f;
    else if (type >= 0xd9 && type <= 0xdb)
        count = take_number(reader, 1u << (type - 0xd9));
    else
        field_fail(reader, FIELD_TYPE);
    if (!reader->error && count >= capacity)
        field_fail(reader, FIELD_RANGE);
    if (reader->error)
        return;
    const uint8_t *bytes = take_bytes(reader, (size_t)count);
    if (!bytes)
        return;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] < 0x20 || bytes[i] > 0x7e) {
            field_fail(reader, FIELD_RANGE);
            return;
        }
    }
    memcpy(out, bytes, (size_t)count);
    out[count] = 0;
}

bool field_get_end(struct field_reader *reader)
{
    if (!reader->error && reader->at != reader->end)
        field_fail(reader, FIELD_TRAILING);
    return reader->error == FIELD_OK;
}
