#include "node/federation_internal.h"

#include <string.h>

#include "node/little_endian.h"

#define MAGIC "weir peers 1\0\0\0"
#define MAGIC_BYTES 16u

_Static_assert(sizeof MAGIC == MAGIC_BYTES, "the magic fills its field");

/* ---- The list */

bool federation_peers_decode(const uint8_t *bytes, size_t count, struct federation_peers *peers)
{
    peers->count = 0;
    if (count < 2 || count > sizeof peers->buffer)
        return false;
    memmove(peers->buffer, bytes, count);
    const uint32_t records = le16_get(peers->buffer);
    if (records > FEDERATION_PEERS_MAX)
        return false;
    size_t at = 2;
    for (uint32_t i = 0; i < records; i++) {
        if (count - at < 4)
            return false;
        const uint32_t record_bytes = le32_get(peers->buffer + at);
        at += 4;
        if (record_bytes > count - at)
            return false;
        peers->records[i].bytes = peers->buffer + at;
        peers->records[i].count = record_bytes;
        at += record_bytes;
    }
    if (at != count)
        return false;
    peers->count = records;
    return true;
}

size_t federation_peers_begin(uint8_t *out, size_t capacity)
{
    if (capacity < 2)
        return 0;
    le16_put(out, 0);
    return 2;
}

bool federation_peers_append(uint8_t *out, size_t capacity, size_t *out_bytes, const uint8_t *record,
                             size_t record_bytes)
{
    const uint16_t records = *out_bytes >= 2 ? le16_get(out) : FEDERATION_PEERS_MAX;
    const size_t limit = capacity < FEDERATION_PEERS_BYTES_MAX ? capacity : FEDERATION_PEERS_BYTES_MAX;
    if (records >= FEDERATION_PEERS_MAX || record_bytes > RECORD_BYTES_MAX || limit < *out_bytes ||
        limit - *out_bytes < 4 + record_bytes)
        return false;
    le32_put(out + *out_bytes, (uint32_t)record_bytes);
    memcpy(out + *out_bytes + 4, record, record_bytes);
    *out_bytes += 4 + record_bytes;
    le16_put(out, (uint16_t)(records + 1));
    return true;
}

/* ---- The file */

static size_t contact_encode(const struct federation_contact *contact, uint8_t *out)
{
    memcpy(out, contact->node.bytes, 32);
    memcpy(out + 32, contact->join_curve.bytes, 32);
    out[64] = contact->address_count;
    size_t at = 65;
    for (uint8_t i = 0; i < contact->address_count; i++) {
        const size_t length = strlen(contact->addresses[i]);
        out[at] = (uint8_t)length;
        memcpy(out + at + 1, contact->addresses[i], length);
        at += 1 + length;
    }
    return at;
}

/* Returns how many bytes it took, 0 if it is not a contact. */
static size_t contact_decode(const uint8_t *bytes, size_t count, struct federation_contact *contact)
{
    *contact = (struct federation_contact){0};
    if (count < 65 || bytes[64] > TOKEN_ADDRESSES_MAX)
        return 0;
    memcpy(contact->node.bytes, bytes, 32);
    memcpy(contact->join_curve.bytes, bytes + 32, 32);
    size_t at = 65;
    for (uint8_t i = 0; i < bytes[64]; i++) {
        if (at >= count || bytes[at] > count - at - 1)
            return 0;
        memcpy(contact->addresses[i], bytes + at + 1, bytes[at]);
        if (!token_address_valid(contact->addresses[i]))
            return 0;
        at += 1u + bytes[at];
    }
    contact->address_count = bytes[64];
    return at;
}

void federation_peers_load(const struct federation *federation, struct federation_peers *peers)
{
    *peers = (struct federation_peers){0};
    uint8_t file[FEDERATION_PEERS_FILE_BYTES_MAX];
    size_t count;
    if (!federation_file_read(federation->data, FEDERATION_PEERS, file, sizeof file, &count) ||
        count < MAGIC_BYTES || memcmp(file, MAGIC, MAGIC_BYTES) != 0)
        return;
    const size_t contact = contact_decode(file + MAGIC_BYTES, count - MAGIC_BYTES, &peers->inviter);
    if (!contact) {
        peers->inviter = (struct federation_contact){0};
        return;
    }
    federation_peers_decode(file + MAGIC_BYTES + contact, count - MAGIC_BYTES - contact, peers);
}

size_t federation_peers_encode(const struct federation_peers *peers, uint8_t *out, size_t capacity)
{
    if (capacity < FEDERATION_PEERS_FILE_BYTES_MAX)
        return 0;
    memcpy(out, MAGIC, MAGIC_BYTES);
    const size_t head = MAGIC_BYTES + contact_encode(&peers->inviter, out + MAGIC_BYTES);
    size_t count = federation_peers_begin(out + head, capacity - head);
    for (uint32_t i = 0; i < peers->count; i++)
        federation_peers_append(out + head, capacity - head, &count, peers->records[i].bytes,
                                peers->records[i].count);
    return head + count;
}

bool federation_peers_save(const struct federation *federation, const struct federation_peers *peers)
{
    uint8_t file[FEDERATION_PEERS_FILE_BYTES_MAX];
    const size_t count = federation_peers_encode(peers, file, sizeof file);
    return federation_file_write(federation->data, FEDERATION_PEERS, file, count);
}
