#include "kernels/array.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
    const char *npy; /* descr without the byte-order mark; NULL: not a .npy type of its own */
} dtypes[ARRAY_DTYPES] = {
    [ARRAY_RAW] = {"raw", 1, NULL},         [ARRAY_TEXT] = {"text", 1, NULL},
    [ARRAY_INT8] = {"int8", 1, "i1"},       [ARRAY_UINT8] = {"uint8", 1, "u1"},
    [ARRAY_INT32] = {"int32", 4, "i4"},     [ARRAY_UINT32] = {"uint32", 4, "u4"},
    [ARRAY_INT64] = {"int64", 8, "i8"},     [ARRAY_UINT64] = {"uint64", 8, "u8"},
    [ARRAY_FLOAT32] = {"float32", 4, "f4"}, [ARRAY_FLOAT64] = {"float64", 8, "f8"},
};

static const struct {
    enum array_class class;
    const char *text;
} errors[ARRAY_ERRORS] = {
    [ARRAY_OK] = {ARRAY_CLASS_NONE, "ok"},
    [ARRAY_EMPTY] = {ARRAY_CLASS_PEER, "the file is empty; give one that holds data"},
    [ARRAY_NOT_NPY] = {ARRAY_CLASS_PEER, "not a .npy file; write it with numpy.save"},
    [ARRAY_BAD_VERSION] = {ARRAY_CLASS_PEER,
                           ".npy format version is not 1.0, 2.0 or 3.0; write it with numpy.save"},
    [ARRAY_TRUNCATED] = {ARRAY_CLASS_PEER,
                         "the .npy file is shorter than its header says; copy or write it again"},
    [ARRAY_SURPLUS] =
        {ARRAY_CLASS_PEER,
         "the .npy file is longer than its header says; one array per file, written with numpy.save"},
    [ARRAY_BAD_HEADER] = {ARRAY_CLASS_PEER, "the .npy header is malformed; write it with numpy.save"},
    [ARRAY_FORTRAN_ORDER] = {ARRAY_CLASS_PEER,
                             "the array is in Fortran order; save numpy.ascontiguousarray(array) instead"},
    [ARRAY_BIG_ENDIAN] =
        {ARRAY_CLASS_PEER,
         "the array is big-endian; save array.astype(array.dtype.newbyteorder('<')) instead"},
    [ARRAY_OBJECT_DTYPE] = {ARRAY_CLASS_PEER,
                            "the array holds Python objects; convert it to a numeric dtype"},
    [ARRAY_UNKNOWN_DTYPE] = {ARRAY_CLASS_PEER,
                             "the dtype is none of int8 uint8 int32 uint32 int64 uint64 float32 "
                             "float64; convert it with array.astype"},
    [ARRAY_BAD_RANK] = {ARRAY_CLASS_PEER, "the array has more than 8 axes; reshape it"},
    [ARRAY_SHAPE_OVERFLOW] = {ARRAY_CLASS_PEER, "the shape is too large: its bytes do not fit 63 bits"},
    [ARRAY_NOT_ROWS] = {ARRAY_CLASS_PEER,
                        "the raw file's size is no multiple of the row size; check the row size"},
    [ARRAY_NO_SPACE] = {ARRAY_CLASS_LOCAL, "the buffer given is too small"},
};

/* A bounded cursor over the header's dictionary. */
struct cursor {
    const char *at, *end;
};

static enum array_error header_dictionary(struct cursor *cursor, struct array_type *type);
static enum array_error header_descr(struct cursor *cursor, struct array_type *type);
static enum array_error header_order(struct cursor *cursor);
static enum array_error header_shape(struct cursor *cursor, struct array_type *type);

const char *array_error_text(enum array_error error)
{
    return (unsigned)error < ARRAY_ERRORS ? errors[error].text : "unknown array error";
}

enum array_class array_error_class(enum array_error error)
{
    return (unsigned)error < ARRAY_ERRORS ? errors[error].class : ARRAY_CLASS_LOCAL;
}

size_t array_dtype_bytes(enum array_dtype dtype)
{
    return (unsigned)dtype < ARRAY_DTYPES ? dtypes[dtype].bytes : 0;
}

const char *array_dtype_name(enum array_dtype dtype)
{
    return (unsigned)dtype < ARRAY_DTYPES ? dtypes[dtype].name : "unknown";
}

bool array_dtype_find(const char *name, enum array_dtype *dtype)
{
    for (unsigned i = 0; i < ARRAY_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = (enum array_dtype)i;
            return true;
        }
    return false;
}

bool array_type_equal(const struct array_type *a, const struct array_type *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank)
        return false;
    for (unsigned i = 0; i < a->rank && i < ARRAY_RANK_MAX; i++)
        if (a->shape[i] != b->shape[i])
            return false;
    return true;
}

enum array_error array_row_bytes(const struct array_type *type, uint64_t *bytes)
{
    if (type->dtype >= ARRAY_DTYPES)
        return ARRAY_UNKNOWN_DTYPE;
    if (type->rank > ARRAY_RANK_MAX)
        return ARRAY_BAD_RANK;
    uint64_t product = dtypes[type->dtype].bytes;
    for (unsigned i = 1; i < type->rank; i++)
        if (__builtin_mul_overflow(product, type->shape[i], &product) || product > INT64_MAX)
            return ARRAY_SHAPE_OVERFLOW;
    *bytes = product;
    return ARRAY_OK;
}

enum array_error array_bytes(const struct array_type *type, uint64_t *bytes)
{
    uint64_t row;
    enum array_error error = array_row_bytes(type, &row);
    if (error)
        return error;
    uint64_t product = row;
    if (type->rank > 0 && (__builtin_mul_overflow(row, type->shape[0], &product) || product > INT64_MAX))
        return ARRAY_SHAPE_OVERFLOW;
    *bytes = product;
    return ARRAY_OK;
}

const char *array_type_text(const struct array_type *type, char out[ARRAY_TYPE_TEXT_BYTES])
{
    int used = snprintf(out, ARRAY_TYPE_TEXT_BYTES, "%s [", array_dtype_name((enum array_dtype)type->dtype));
    for (unsigned i = 0; i < type->rank && i < ARRAY_RANK_MAX; i++)
        used += snprintf(out + used, ARRAY_TYPE_TEXT_BYTES - (size_t)used, "%s%llu", i ? ", " : "",
                         (unsigned long long)type->shape[i]);
    snprintf(out + used, ARRAY_TYPE_TEXT_BYTES - (size_t)used, "]");
    return out;
}

enum array_error array_raw_type(uint64_t bytes, uint64_t row_bytes, struct array_type *type)
{
    *type = (struct array_type){.dtype = ARRAY_RAW, .rank = row_bytes ? 2 : 1};
    if (bytes == 0)
        return ARRAY_EMPTY;
    if (row_bytes == 0) {
        type->shape[0] = bytes;
        return ARRAY_OK;
    }
    if (bytes % row_bytes != 0)
        return ARRAY_NOT_ROWS;
    type->shape[0] = bytes / row_bytes;
    type->shape[1] = row_bytes;
    return ARRAY_OK;
}

enum array_error array_npy_decode(const void *head, size_t head_bytes, uint64_t file_bytes,
                                  struct array_type *type, uint64_t *data_offset)
{
    static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    const uint8_t *bytes = head;
    if (file_bytes == 0)
        return ARRAY_EMPTY;
    if (head_bytes > file_bytes)
        head_bytes = (size_t)file_bytes;
    if (memcmp(bytes, magic, head_bytes < 6 ? head_bytes : 6) != 0)
        return ARRAY_NOT_NPY;
    if (head_bytes < 10)
        return ARRAY_TRUNCATED;
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0)
        return ARRAY_BAD_VERSION;

    size_t length = (size_t)bytes[8] | (size_t)bytes[9] << 8, begin = 10;
    if (bytes[6] > 1) {
        if (head_bytes < 12)
            return ARRAY_TRUNCATED;
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
        begin = 12;
    }
    if (length > ARRAY_NPY_HEADER_MAX)
        return ARRAY_BAD_HEADER;
    if (length > head_bytes - begin)
        return ARRAY_TRUNCATED;

    struct cursor cursor = {.at = (const char *)bytes + begin, .end = (const char *)bytes + begin + length};
    struct array_type read = {0};
    enum array_error error = header_dictionary(&cursor, &read);
    uint64_t data_bytes = 0;
    if (!error)
        error = array_bytes(&read, &data_bytes);
    if (error)
        return error;
    const uint64_t stored = file_bytes - begin - length;
    if (stored < data_bytes)
        return ARRAY_TRUNCATED;
    if (stored > data_bytes)
        return ARRAY_SURPLUS;
    *type = read;
    *data_offset = begin + length;
    return ARRAY_OK;
}

enum array_error array_npy_encode(const struct array_type *type, uint8_t out[ARRAY_NPY_WRITTEN_BYTES_MAX],
                                  size_t *bytes)
{
    uint64_t data_bytes;
    enum array_error error = array_bytes(type, &data_bytes);
    if (error)
        return error;
    if (type->dtype == ARRAY_TEXT)
        return ARRAY_UNKNOWN_DTYPE;
    const char *code = type->dtype == ARRAY_RAW ? dtypes[ARRAY_UINT8].npy : dtypes[type->dtype].npy;

    char text[ARRAY_NPY_WRITTEN_BYTES_MAX];
    int used = snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                        array_dtype_bytes((enum array_dtype)type->dtype) == 1 ? '|' : '<', code);
    for (unsigned i = 0; i < type->rank; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%llu", i ? ", " : "",
                         (unsigned long long)type->shape[i]);
    used += snprintf(text + used, sizeof text - (size_t)used, "%s), }", type->rank == 1 ? "," : "");

    const size_t total = (10 + (size_t)used + 1 + 63) / 64 * 64, header = total - 10;
    if (total > ARRAY_NPY_WRITTEN_BYTES_MAX)
        return ARRAY_NO_SPACE;
    memset(out, ' ', total);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (uint8_t)(header & 0xff);
    out[9] = (uint8_t)(header >> 8);
    memcpy(out + 10, text, (size_t)used);
    out[total - 1] = '\n';
    *bytes = total;
    return ARRAY_OK;
}

uint64_t array_line_count(const void *text, uint64_t bytes)
{
    uint64_t count = 0;
    const char *at = text, *end = at + bytes;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        count++;
        at = stop ? stop + 1 : end;
    }
    return count;
}

enum array_error array_line_index(const void *text, uint64_t bytes, uint64_t *offsets, uint64_t capacity,
                                  uint64_t *count)
{
    const char *const begin = text, *at = begin, *const end = begin + bytes;
    uint64_t lines = 0;
    while (at < end) {
        if (capacity - lines <= 1 || capacity == 0)
            return ARRAY_NO_SPACE;
        offsets[lines++] = (uint64_t)(at - begin);
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        at = stop ? stop + 1 : end;
    }
    if (lines >= capacity)
        return ARRAY_NO_SPACE;
    offsets[lines] = bytes;
    *count = lines;
    return ARRAY_OK;
}

uint64_t array_line_bytes(const void *text, uint64_t begin, uint64_t end)
{
    return end > begin && ((const char *)text)[end - 1] == '\n' ? end - begin - 1 : end - begin;
}

static void skip_spaces(struct cursor *cursor)
{
    while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\n' || *cursor->at == '\t'))
        cursor->at++;
}

/* Skips spaces, then takes `symbol` if it is next. */
static bool take(struct cursor *cursor, char symbol)
{
    skip_spaces(cursor);
    if (cursor->at >= cursor->end || *cursor->at != symbol)
        return false;
    cursor->at++;
    return true;
}

/* Takes a quoted string without escapes; false if there is none. */
static bool take_string(struct cursor *cursor, char *out, size_t out_bytes)
{
    skip_spaces(cursor);
    if (cursor->at >= cursor->end || (*cursor->at != '\'' && *cursor->at != '"'))
        return false;
    const char quote = *cursor->at++;
    const char *stop = memchr(cursor->at, quote, (size_t)(cursor->end - cursor->at));
    if (!stop || (size_t)(stop - cursor->at) >= out_bytes ||
        memchr(cursor->at, '\\', (size_t)(stop - cursor->at)))
        return false;
    const size_t length = (size_t)(stop - cursor->at);
    memcpy(out, cursor->at, length);
    out[length] = '\0';
    cursor->at = stop + 1;
    return strlen(out) == length;
}

/* Exactly the three keys of the format, in any order, each once. */
static enum array_error header_dictionary(struct cursor *cursor, struct array_type *type)
{
    bool have_descr = false, have_order = false, have_shape = false;
    enum array_error order = ARRAY_OK, error = ARRAY_OK;
    if (!take(cursor, '{'))
        return ARRAY_BAD_HEADER;
    while (!take(cursor, '}')) {
        char key[32];
        if (!take_string(cursor, key, sizeof key) || !take(cursor, ':'))
            return ARRAY_BAD_HEADER;
        if (strcmp(key, "descr") == 0 && !have_descr) {
            have_descr = true;
            error = header_descr(cursor, type);
        } else if (strcmp(key, "fortran_order") == 0 && !have_order) {
            have_order = true;
            order = header_order(cursor);
            if (order == ARRAY_BAD_HEADER)
                return order;
        } else if (strcmp(key, "shape") == 0 && !have_shape) {
            have_shape = true;
            error = header_shape(cursor, type);
        } else {
            return ARRAY_BAD_HEADER;
        }
        if (error)
            return error;
        if (!take(cursor, ',')) {
            if (!take(cursor, '}'))
                return ARRAY_BAD_HEADER;
            break;
        }
    }
    skip_spaces(cursor);
    if (cursor->at != cursor->end || !have_descr || !have_order || !have_shape)
        return ARRAY_BAD_HEADER;
    /* One axis has the same bytes in both orders, and NumPy marks such arrays either way. */
    return type->rank <= 1 ? ARRAY_OK : order;
}

static enum array_error header_descr(struct cursor *cursor, struct array_type *type)
{
    char descr[32];
    skip_spaces(cursor);
    if (cursor->at < cursor->end && *cursor->at == '[')
        return ARRAY_UNKNOWN_DTYPE; /* a structured dtype */
    if (!take_string(cursor, descr, sizeof descr))
        return ARRAY_BAD_HEADER;
    const char order = descr[0];
    if (order != '<' && order != '>' && order != '|' && order != '=')
        return ARRAY_BAD_HEADER;
    if (descr[1] == 'O')
        return ARRAY_OBJECT_DTYPE;
    for (unsigned i = 0; i < ARRAY_DTYPES; i++)
        if (dtypes[i].npy && strcmp(dtypes[i].npy, descr + 1) == 0) {
            if (order == '>' && dtypes[i].bytes > 1)
                return ARRAY_BIG_ENDIAN;
            type->dtype = (uint8_t)i;
            return ARRAY_OK;
        }
    return ARRAY_UNKNOWN_DTYPE;
}

static enum array_error header_order(struct cursor *cursor)
{
    skip_spaces(cursor);
    const size_t left = (size_t)(cursor->end - cursor->at);
    if (left >= 5 && memcmp(cursor->at, "False", 5) == 0) {
        cursor->at += 5;
        return ARRAY_OK;
    }
    if (left >= 4 && memcmp(cursor->at, "True", 4) == 0) {
        cursor->at += 4;
        return ARRAY_FORTRAN_ORDER;
    }
    return ARRAY_BAD_HEADER;
}

static enum array_error header_shape(struct cursor *cursor, struct array_type *type)
{
    if (!take(cursor, '('))
        return ARRAY_BAD_HEADER;
    while (!take(cursor, ')')) {
        skip_spaces(cursor);
        uint64_t value = 0;
        const char *first = cursor->at;
        for (; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++)
            if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
                __builtin_add_overflow(value, (uint64_t)(*cursor->at - '0'), &value))
                return ARRAY_SHAPE_OVERFLOW;
        if (cursor->at == first)
            return ARRAY_BAD_HEADER;
        if (type->rank == ARRAY_RANK_MAX)
            return ARRAY_BAD_RANK;
        type->shape[type->rank++] = value;
        if (!take(cursor, ',')) {
            if (type->rank == 1 || !take(cursor, ')')) /* "(5)" is a number in Python, not a shape */
                return ARRAY_BAD_HEADER;
            break;
        }
    }
    return ARRAY_OK;
}
