#include "node/sim/bytes.h"

static size_t uint_bytes(uint64_t value)
{
    return value < 128 ? 1 : value <= UINT8_MAX ? 2 : value <= UINT16_MAX ? 3 : value <= UINT32_MAX ? 5 : 9;
}

static size_t array_bytes(uint32_t count)
{
    return count < 16 ? 1 : 3;
}

static size_t bin_bytes(size_t count)
{
    return count + (count <= UINT8_MAX ? 2 : count <= UINT16_MAX ? 3 : 5);
}

#define ID_BYTES (32 + 2)
/* [kind, version, up to 13 fields: the kinds of the core are below 128. */
#define HEAD_BYTES 3

static size_t capacity_bytes(const struct mesh_capacity *offer)
{
    size_t bytes = 3 + 1 + uint_bytes(offer->price_micro) + uint_bytes((uint64_t)offer->available_until_ms);
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        bytes += 1 + uint_bytes(offer->class[i].slots) + uint_bytes(offer->class[i].free) +
                 uint_bytes(offer->class[i].waiting);
    }
    if (offer->site.members > 0) {
        bytes += 1 + uint_bytes(offer->site.members);
        for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
            bytes += uint_bytes(offer->site.slots[i]) + uint_bytes(offer->site.free[i]);
        }
    }
    return bytes;
}

size_t sim_record_body_bytes(const struct mesh_record *record)
{
    switch (record->kind) {
    case MESH_RECORD_MEMBER:
        return SIM_MEMBER_BODY_BYTES;
    case MESH_RECORD_CAPACITY:
        return capacity_bytes(&record->body.capacity);
    case MESH_RECORD_ALERT:
        return 3 + ID_BYTES + uint_bytes(record->body.alert.subject_incarnation);
    case MESH_RECORD_REVOCATION:
        return 128;
    }
    return 0;
}

static size_t entries_bytes(const struct mesh_message *message)
{
    size_t bytes = uint_bytes(message->body.entries.buckets) + array_bytes(message->body.entries.count);
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        bytes += 1 + 2 * ID_BYTES + uint_bytes(entry->kind) + uint_bytes(entry->incarnation) +
                 uint_bytes(entry->version);
    }
    return bytes;
}

static size_t words_bytes(const struct mesh_message *message)
{
    size_t bytes = array_bytes(message->body.words.count);
    for (uint32_t i = 0; i < message->body.words.count; i++) {
        const struct mesh_word *const word = &message->body.words.word[i];
        bytes += uint_bytes(word->origin);
        if (message->kind != MESH_PRUNE) {
            bytes += 1 + uint_bytes(word->kind) + uint_bytes(word->hops) + uint_bytes(word->incarnation) +
                     uint_bytes(word->version);
        }
    }
    return bytes;
}

static size_t summary_bytes(const struct mesh_message *message)
{
    size_t bytes = array_bytes(MESH_BUCKETS);
    for (uint32_t i = 0; i < MESH_BUCKETS; i++) {
        bytes += uint_bytes(message->body.summary.bucket_hash[i]);
    }
    return bytes;
}

static size_t fields_bytes(const struct mesh_message *message)
{
    const struct mesh_record *const record = &message->body.push.record;
    switch (message->kind) {
    case MESH_PING:
    case MESH_PONG:
        return uint_bytes(message->body.ping.stamp_us);
    case MESH_PUSH:
        return bin_bytes(SIM_RECORD_OVERHEAD_BYTES + sim_record_body_bytes(record));
    case MESH_SPREAD:
        return uint_bytes(message->body.push.hops) +
               bin_bytes(SIM_RECORD_OVERHEAD_BYTES + sim_record_body_bytes(record));
    case MESH_SUMMARY:
        return summary_bytes(message);
    case MESH_ENTRIES:
    case MESH_WANT:
        return entries_bytes(message);
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        return words_bytes(message);
    default:
        return mesh_message_bytes(message);
    }
}

size_t sim_frame_bytes(const struct mesh_message *message)
{
    return HEAD_BYTES + fields_bytes(message);
}
