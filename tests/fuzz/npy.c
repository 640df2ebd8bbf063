/* .npy headers from strangers. What is accepted must hold what it says, and be read again after it is
 * written. */
#include <stdlib.h>
#include <string.h>

#include "kernels/array.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void demand(bool condition)
{
    if (!condition)
        abort();
}

static void decode_file(const uint8_t *bytes, size_t head_bytes, uint64_t file_bytes)
{
    struct array_type type, again;
    uint64_t offset, data_bytes, again_offset;
    uint8_t header[ARRAY_NPY_WRITTEN_BYTES_MAX];
    size_t written;
    if (array_npy_decode(bytes, head_bytes, file_bytes, &type, &offset) != ARRAY_OK)
        return;
    demand(type.rank <= ARRAY_RANK_MAX && type.dtype < ARRAY_DTYPES);
    demand(array_bytes(&type, &data_bytes) == ARRAY_OK);
    demand(offset <= head_bytes && offset + data_bytes == file_bytes);
    demand(array_npy_encode(&type, header, &written) == ARRAY_OK);
    demand(array_npy_decode(header, written, written + data_bytes, &again, &again_offset) == ARRAY_OK);
    demand(array_type_equal(&type, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    decode_file(bytes, count, count);
    /* The size as the last eight bytes state it, so that large shapes can be met. */
    if (count >= 8) {
        uint64_t file_bytes;
        memcpy(&file_bytes, bytes + count - 8, 8);
        decode_file(bytes, count - 8, file_bytes);
    }
    uint64_t offsets[64], lines;
    if (array_line_index(bytes, count, offsets, 64, &lines) == ARRAY_OK) {
        demand(lines == array_line_count(bytes, count) && offsets[lines] == count);
        for (uint64_t i = 0; i < lines; i++)
            demand(offsets[i] < offsets[i + 1]);
    }
    return 0;
}
