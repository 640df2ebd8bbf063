/* The bodies of MEMBER, CAPACITY and ALERT records; the first byte chooses. What decodes must encode to what
 * decodes. */
#include "node/record_body.h"

#include <stdlib.h>

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void fuzz_member(const uint8_t *data, size_t size)
{
    struct member_body body;
    uint8_t bytes[MEMBER_BODY_BYTES_MAX];
    if (member_body_decode(data, size, &body) == WIRE_OK) {
        const size_t count = member_body_encode(&body, bytes, sizeof bytes);
        require(count > 0 && member_body_decode(bytes, count, &body) == WIRE_OK);
    }
}

static void fuzz_capacity(const uint8_t *data, size_t size)
{
    struct mesh_capacity body;
    struct capacity_devices devices;
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    if (capacity_record_decode(data, size, &body, &devices) == WIRE_OK) {
        const size_t count = capacity_record_encode(&body, &devices, bytes, sizeof bytes);
        require(count > 0 && capacity_record_decode(bytes, count, &body, &devices) == WIRE_OK);
    }
}

static void fuzz_alert(const uint8_t *data, size_t size)
{
    struct alert_body body;
    uint8_t bytes[ALERT_BODY_BYTES_MAX];
    if (alert_body_decode(data, size, &body) == WIRE_OK) {
        const size_t count = alert_body_encode(&body, bytes, sizeof bytes);
        require(count > 0 && alert_body_decode(bytes, count, &body) == WIRE_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_member(data + 1, size - 1);
    else if (data[0] % 3 == 1)
        fuzz_capacity(data + 1, size - 1);
    else
        fuzz_alert(data + 1, size - 1);
    return 0;
}
