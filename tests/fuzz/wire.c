/* The frames that peers send. What decodes must encode, and decode to the same again. */
#include "node/wire.h"

#include <stdlib.h>
#include <string.h>

static struct wire_frame frame;
static struct wire_frame again;
static uint8_t first[2 * WIRE_BULK_BYTES_MAX];
static uint8_t second[2 * WIRE_BULK_BYTES_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (wire_decode(data, size, &frame) != WIRE_OK)
        return 0;
    const size_t count = wire_encode(&frame, first, sizeof first);
    if (count == 0 || wire_decode(first, count, &again) != WIRE_OK || again.kind != frame.kind ||
        wire_encode(&again, second, sizeof second) != count || memcmp(first, second, count) != 0)
        abort();
    return 0;
}
