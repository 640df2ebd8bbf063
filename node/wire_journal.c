/* The messages about journals of several copies, see mesh/journal.h; their fields are in docs/protocol.md. */
#include "node/wire_fields.h"

#include <assert.h>
#include <string.h>

static void put_nodes(struct field_writer *w, const struct mesh_members *members)
{
    assert(members->count <= MESH_COPIES_MAX);
    field_put_bin(w, members->id, members->count * sizeof members->id[0]);
}

static void get_nodes(struct field_reader *r, struct mesh_members *members)
{
    size_t count = 0;
    const uint8_t *const bytes = field_get_bin(r, 0, MESH_COPIES_MAX * sizeof members->id[0], &count);
    *members = (struct mesh_members){0};
    if (count % sizeof members->id[0])
        field_fail(r, FIELD_RANGE);
    if (r->error)
        return;
    members->count = (uint32_t)(count / sizeof members->id[0]);
    memcpy(members->id, bytes, count);
}

/* An empty array where there are none. */
void wire_put_members(struct field_writer *w, const struct mesh_members *members)
{
    assert(members->count <= MESH_COPIES_MAX + 1);
    if (members->count == 0) {
        field_put_array(w, 0);
        return;
    }
    field_put_array(w, 3 + 2 * members->count);
    field_put_uint(w, members->number);
    field_put_uint(w, members->joining);
    field_put_uint(w, members->leaving);
    for (uint32_t i = 0; i < members->count; i++) {
        put_id(w, &members->id[i]);
        field_put_uint(w, members->storage[i]);
    }
}

void wire_get_members(struct field_reader *r, struct mesh_members *members)
{
    const uint32_t items = field_get_array(r, 0, 3 + 2 * (MESH_COPIES_MAX + 1));
    *members = (struct mesh_members){0};
    if (items == 0)
        return;
    if (items < 5 || items % 2 == 0)
        field_fail(r, FIELD_RANGE);
    if (r->error)
        return;
    const uint32_t count = (items - 3) / 2;
    members->number = (uint32_t)field_get_uint(r, ANY_U32);
    members->joining = (uint32_t)field_get_uint(r, count);
    members->leaving = (uint32_t)field_get_uint(r, count);
    for (uint32_t i = 0; i < count && !r->error; i++) {
        get_id(r, &members->id[i]);
        members->storage[i] = field_get_uint(r, ANY_U64);
    }
    members->count = r->error ? 0 : count;
}

static void put_shards(struct field_writer *w, const uint32_t *shard, uint32_t count)
{
    assert(count > 0 && count <= MESH_BUNDLE_SHARDS_MAX);
    field_put_array(w, count);
    for (uint32_t i = 0; i < count; i++)
        field_put_uint(w, shard[i]);
}

static uint32_t get_shards(struct field_reader *r, uint32_t *shard)
{
    const uint32_t count = field_get_array(r, 1, MESH_BUNDLE_SHARDS_MAX);
    for (uint32_t i = 0; i < count && !r->error; i++)
        shard[i] = (uint32_t)field_get_uint(r, ANY_U32);
    return count;
}

static void encode_assign_kept(struct field_writer *w, const struct mesh_message *m,
                               struct wire_bytes payload)
{
    begin_message(w, MESH_ASSIGN_KEPT, 10);
    put_bundle(w, &m->body.assign.name);
    put_id(w, &m->body.assign.job);
    field_put_uint(w, m->body.assign.epoch);
    field_put_uint(w, m->body.assign.tenant);
    field_put_uint(w, m->body.assign.kernel);
    field_put_uint(w, m->body.assign.class);
    put_nodes(w, &m->body.assign.others);
    put_shards(w, m->body.assign.shard, m->body.assign.count);
    field_put_bin(w, payload.bytes, payload.count);
}

static void decode_assign_kept(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload)
{
    get_bundle(r, &m->body.assign.name);
    get_id(r, &m->body.assign.job);
    m->body.assign.epoch = field_get_uint(r, ANY_U64);
    m->body.assign.tenant = field_get_uint(r, ANY_U64);
    m->body.assign.kernel = field_get_uint(r, ANY_U64);
    m->body.assign.handle = 0;
    m->body.assign.class = get_class(r);
    get_nodes(r, &m->body.assign.others);
    m->body.assign.count = get_shards(r, m->body.assign.shard);
    get_payload(r, 0, WIRE_PAYLOAD_BYTES_MAX, payload);
}

static void encode_append(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload)
{
    begin_message(w, MESH_APPEND, 10);
    put_id(w, &m->body.append.job);
    field_put_uint(w, m->body.append.epoch);
    field_put_uint(w, m->body.append.entry_epoch);
    field_put_uint(w, m->body.append.before_epoch);
    field_put_uint(w, m->body.append.index);
    field_put_uint(w, m->body.append.settled);
    field_put_uint(w, m->body.append.sequence);
    field_put_uint(w, m->body.append.kind);
    wire_put_members(w, &m->body.append.members);
    field_put_bin(w, payload.bytes, payload.count);
}

static void decode_append(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload)
{
    get_id(r, &m->body.append.job);
    m->body.append.epoch = field_get_uint(r, ANY_U64);
    m->body.append.entry_epoch = field_get_uint(r, ANY_U64);
    m->body.append.before_epoch = field_get_uint(r, ANY_U64);
    m->body.append.index = (uint32_t)field_get_uint(r, ANY_U32);
    m->body.append.settled = (uint32_t)field_get_uint(r, ANY_U32);
    m->body.append.sequence = field_get_uint(r, ANY_U64);
    m->body.append.kind = (uint32_t)field_get_uint(r, MESH_ENTRY_DISPUTE);
    m->body.append.handle = 0;
    wire_get_members(r, &m->body.append.members);
    get_payload(r, 0, WIRE_ENTRY_BYTES_MAX, payload);
}

static void encode_beat(struct field_writer *w, const struct mesh_message *m)
{
    begin_message(w, MESH_BEAT, 2);
    field_put_uint(w, m->body.beat.sequence);
    field_put_array(w, m->body.beat.count);
    for (uint32_t i = 0; i < m->body.beat.count; i++) {
        field_put_array(w, 5);
        put_id(w, &m->body.beat.journal[i].job);
        field_put_uint(w, m->body.beat.journal[i].epoch);
        field_put_uint(w, m->body.beat.journal[i].last);
        field_put_uint(w, m->body.beat.journal[i].settled);
        field_put_bool(w, m->body.beat.journal[i].over);
    }
}

static void decode_beat(struct field_reader *r, struct mesh_message *m)
{
    m->body.beat.sequence = field_get_uint(r, ANY_U64);
    m->body.beat.count = field_get_array(r, 1, MESH_BEATS_MAX);
    for (uint32_t i = 0; i < m->body.beat.count && !r->error; i++) {
        field_get_array(r, 5, 5);
        get_id(r, &m->body.beat.journal[i].job);
        m->body.beat.journal[i].epoch = field_get_uint(r, ANY_U64);
        m->body.beat.journal[i].last = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.beat.journal[i].settled = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.beat.journal[i].over = field_get_bool(r);
    }
}

void wire_encode_journal(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload)
{
    switch (m->kind) {
    case MESH_ASSIGN_KEPT:
        encode_assign_kept(w, m, payload);
        return;
    case MESH_APPEND:
        encode_append(w, m, payload);
        return;
    case MESH_APPENDED:
        begin_message(w, m->kind, 8);
        put_id(w, &m->body.appended.job);
        field_put_uint(w, m->body.appended.epoch);
        field_put_uint(w, m->body.appended.last);
        field_put_uint(w, m->body.appended.last_epoch);
        field_put_bool(w, m->body.appended.held);
        field_put_bool(w, m->body.appended.over);
        field_put_uint(w, m->body.appended.storage);
        field_put_uint(w, m->body.appended.sequence);
        return;
    case MESH_VOTE:
        begin_message(w, m->kind, 8);
        put_id(w, &m->body.vote.job);
        field_put_uint(w, m->body.vote.epoch);
        field_put_uint(w, m->body.vote.last_epoch);
        field_put_uint(w, m->body.vote.last);
        field_put_bool(w, m->body.vote.asks);
        field_put_bool(w, m->body.vote.handed);
        field_put_uint(w, m->body.vote.sequence);
        wire_put_members(w, &m->body.vote.members);
        return;
    case MESH_VOTED:
        begin_message(w, m->kind, 7);
        put_id(w, &m->body.voted.job);
        field_put_uint(w, m->body.voted.epoch);
        field_put_bool(w, m->body.voted.granted);
        field_put_bool(w, m->body.voted.asks);
        field_put_uint(w, m->body.voted.number);
        field_put_uint(w, m->body.voted.storage);
        field_put_uint(w, m->body.voted.sequence);
        return;
    case MESH_BEAT:
        encode_beat(w, m);
        return;
    case MESH_REPORT:
        begin_message(w, m->kind, 6);
        put_bundle(w, &m->body.report.name);
        put_id(w, &m->body.report.job);
        field_put_uint(w, m->body.report.epoch);
        field_put_uint(w, m->body.report.class);
        put_shards(w, m->body.report.shard, m->body.report.count);
        return;
    case MESH_ADOPTED:
        begin_message(w, m->kind, 3);
        put_bundle(w, &m->body.adopted.name);
        field_put_uint(w, m->body.adopted.epoch);
        return;
    case MESH_HAND_OVER:
        begin_message(w, m->kind, 4);
        put_id(w, &m->body.hand_over.job);
        field_put_uint(w, m->body.hand_over.epoch);
        field_put_bool(w, m->body.hand_over.done);
        put_id(w, &m->body.hand_over.home);
        return;
    case MESH_DISK:
        begin_message(w, m->kind, 3);
        field_put_uint(w, m->body.disk.sequence);
        field_put_uint(w, m->body.disk.seen);
        field_put_bool(w, m->body.disk.asks);
        return;
    default:
        assert(0 && "no message about journals");
    }
}

void wire_decode_journal(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload)
{
    switch (m->kind) {
    case MESH_ASSIGN_KEPT:
        decode_assign_kept(r, m, payload);
        return;
    case MESH_APPEND:
        decode_append(r, m, payload);
        return;
    case MESH_APPENDED:
        get_id(r, &m->body.appended.job);
        m->body.appended.epoch = field_get_uint(r, ANY_U64);
        m->body.appended.last = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.appended.last_epoch = field_get_uint(r, ANY_U64);
        m->body.appended.held = field_get_bool(r);
        m->body.appended.over = field_get_bool(r);
        m->body.appended.storage = field_get_uint(r, ANY_U64);
        m->body.appended.sequence = field_get_uint(r, ANY_U64);
        return;
    case MESH_VOTE:
        get_id(r, &m->body.vote.job);
        m->body.vote.epoch = field_get_uint(r, ANY_U64);
        m->body.vote.last_epoch = field_get_uint(r, ANY_U64);
        m->body.vote.last = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.vote.asks = field_get_bool(r);
        m->body.vote.handed = field_get_bool(r);
        m->body.vote.sequence = field_get_uint(r, ANY_U64);
        wire_get_members(r, &m->body.vote.members);
        return;
    case MESH_VOTED:
        get_id(r, &m->body.voted.job);
        m->body.voted.epoch = field_get_uint(r, ANY_U64);
        m->body.voted.granted = field_get_bool(r);
        m->body.voted.asks = field_get_bool(r);
        m->body.voted.number = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.voted.storage = field_get_uint(r, ANY_U64);
        m->body.voted.sequence = field_get_uint(r, ANY_U64);
        return;
    case MESH_BEAT:
        decode_beat(r, m);
        return;
    case MESH_REPORT:
        get_bundle(r, &m->body.report.name);
        get_id(r, &m->body.report.job);
        m->body.report.epoch = field_get_uint(r, ANY_U64);
        m->body.report.class = get_class(r);
        m->body.report.count = get_shards(r, m->body.report.shard);
        return;
    case MESH_ADOPTED:
        get_bundle(r, &m->body.adopted.name);
        m->body.adopted.epoch = field_get_uint(r, ANY_U64);
        return;
    case MESH_HAND_OVER:
        get_id(r, &m->body.hand_over.job);
        m->body.hand_over.epoch = field_get_uint(r, ANY_U64);
        m->body.hand_over.done = field_get_bool(r);
        get_id(r, &m->body.hand_over.home);
        return;
    case MESH_DISK:
        m->body.disk.sequence = field_get_uint(r, ANY_U64);
        m->body.disk.seen = field_get_uint(r, ANY_U64);
        m->body.disk.asks = field_get_bool(r);
        return;
    default:
        assert(0 && "no message about journals");
    }
}
