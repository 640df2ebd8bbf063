#include "node/wire.h"

#include "node/wire_fields.h"

#include <assert.h>
#include <string.h>

/* Entry bytes that the cache may send; the store's own bound for an inline result. */
#define CACHE_ENTRY_BYTES_MAX (64u * 1024u)
struct kind_row {
    const char *name;
    uint8_t version;
    uint8_t since;
    uint8_t socket; /* enum wire_socket; 0: no such kind */
};

#define WIRE_KIND_COUNT 128 /* kinds are one byte as msgpack writes them */

static const struct kind_row KINDS[WIRE_KIND_COUNT] = {
#define WIRE_KIND_ROW(kind_name, number, kind_version, kind_since, kind_socket)                              \
    [number] = {.name = #kind_name,                                                                          \
                .version = kind_version,                                                                     \
                .since = kind_since,                                                                         \
                .socket = WIRE_SOCKET_##kind_socket},
    WIRE_KINDS(WIRE_KIND_ROW)
#undef WIRE_KIND_ROW
};

/* Which message of the core travels as which kind. */
static const uint8_t KIND_OF_MESSAGE[MESH_MESSAGE_KINDS] = {
    [MESH_PING] = WIRE_PING,       [MESH_PONG] = WIRE_PONG,
    [MESH_PUSH] = WIRE_PUSH,       [MESH_SUMMARY] = WIRE_SUMMARY,
    [MESH_ENTRIES] = WIRE_ENTRIES, [MESH_WANT] = WIRE_WANT,
    [MESH_RESERVE] = WIRE_RESERVE, [MESH_GRANT] = WIRE_GRANT,
    [MESH_WAIT] = WIRE_WAIT,       [MESH_RELEASE] = WIRE_RELEASE,
    [MESH_ASSIGN] = WIRE_ASSIGN,   [MESH_EXPIRED] = WIRE_EXPIRED,
    [MESH_RESULT] = WIRE_RESULT,   [MESH_RENEW] = WIRE_RENEW,
    [MESH_RENEWED] = WIRE_RENEWED, [MESH_RESULT_ACK] = WIRE_RESULT_ACK,
    [MESH_CANCEL] = WIRE_CANCEL,   [MESH_SPREAD] = WIRE_SPREAD,
    [MESH_HAVE] = WIRE_HAVE,       [MESH_GRAFT] = WIRE_GRAFT,
    [MESH_PRUNE] = WIRE_PRUNE,     [MESH_ASSIGN_KEPT] = WIRE_ASSIGN_KEPT,
    [MESH_APPEND] = WIRE_APPEND,   [MESH_APPENDED] = WIRE_APPENDED,
    [MESH_VOTE] = WIRE_VOTE,       [MESH_VOTED] = WIRE_VOTED,
    [MESH_BEAT] = WIRE_BEAT,       [MESH_REPORT] = WIRE_REPORT,
    [MESH_ADOPTED] = WIRE_ADOPTED, [MESH_AWAIT] = WIRE_AWAIT,
    [MESH_ECHO] = WIRE_ECHO,       [MESH_HAND_OVER] = WIRE_HAND_OVER,
    [MESH_DISK] = WIRE_DISK,       [MESH_WISH] = WIRE_WISH,
};

enum wire_kind wire_kind_of(enum mesh_message_kind kind)
{
    assert(kind > 0 && kind < MESH_MESSAGE_KINDS && KIND_OF_MESSAGE[kind]);
    return KIND_OF_MESSAGE[kind];
}

static enum mesh_message_kind message_of_kind(enum wire_kind kind)
{
    for (int i = 1; i < MESH_MESSAGE_KINDS; i++) {
        if (KIND_OF_MESSAGE[i] == (uint8_t)kind)
            return (enum mesh_message_kind)i;
    }
    return 0;
}

void wire_message(struct wire_frame *frame, const struct mesh_message *message, struct wire_bytes payload)
{
    frame->kind = wire_kind_of(message->kind);
    memcpy(&frame->body.mesh.message, message, mesh_message_bytes(message));
    frame->body.mesh.payload = payload;
}

static void put_names(struct field_writer *w, struct wire_names names, uint32_t max)
{
    assert(names.count <= max);
    (void)max;
    field_put_bin(w, names.name, (size_t)names.count * 32);
}

static void get_names(struct field_reader *r, uint32_t min, uint32_t max, struct wire_names *names)
{
    size_t count;
    const uint8_t *bytes = field_get_bin(r, (size_t)min * 32, (size_t)max * 32, &count);
    if (count % 32)
        field_fail(r, FIELD_RANGE);
    *names = (struct wire_names){0};
    if (!r->error)
        *names = (struct wire_names){.name = (const uint8_t(*)[32])bytes, .count = (uint32_t)(count / 32)};
}

/* ---- Messages of the core --------------------------------------------------------------------------------
 */

static void encode_entries(struct field_writer *w, const struct mesh_message *m)
{
    assert(m->body.entries.count <= MESH_ENTRIES_MAX);
    begin_message(w, m->kind, 2);
    field_put_uint(w, m->body.entries.buckets);
    field_put_array(w, m->body.entries.count);
    for (uint32_t i = 0; i < m->body.entries.count; i++) {
        const struct mesh_entry *entry = &m->body.entries.entry[i];
        field_put_array(w, 5);
        put_id(w, &entry->origin);
        field_put_uint(w, entry->kind);
        put_id(w, &entry->subject);
        field_put_uint(w, entry->incarnation);
        field_put_uint(w, entry->version);
    }
}

static void decode_entries(struct field_reader *r, struct mesh_message *m)
{
    m->body.entries.buckets = field_get_uint(r, ANY_U64);
    m->body.entries.count = field_get_array(r, 0, MESH_ENTRIES_MAX);
    for (uint32_t i = 0; i < m->body.entries.count && !r->error; i++) {
        struct mesh_entry *entry = &m->body.entries.entry[i];
        field_get_array(r, 5, 5);
        get_id(r, &entry->origin);
        entry->kind = (uint32_t)field_get_uint(r, MESH_RECORD_REVOCATION);
        get_id(r, &entry->subject);
        entry->incarnation = field_get_uint(r, ANY_U64);
        entry->version = field_get_uint(r, ANY_U64);
        if (entry->kind < MESH_RECORD_MEMBER)
            field_fail(r, FIELD_RANGE);
    }
}

static void encode_words(struct field_writer *w, const struct mesh_message *m)
{
    assert(m->body.words.count <= MESH_WORDS_MAX);
    begin_message(w, m->kind, 1);
    field_put_array(w, m->body.words.count);
    for (uint32_t i = 0; i < m->body.words.count; i++) {
        const struct mesh_word *word = &m->body.words.word[i];
        if (m->kind == MESH_PRUNE) {
            field_put_uint(w, word->origin);
            continue;
        }
        field_put_array(w, 5);
        field_put_uint(w, word->origin);
        field_put_uint(w, word->kind);
        field_put_uint(w, word->hops);
        field_put_uint(w, word->incarnation);
        field_put_uint(w, word->version);
    }
}

static void decode_words(struct field_reader *r, struct mesh_message *m)
{
    m->body.words.count = field_get_array(r, 0, MESH_WORDS_MAX);
    for (uint32_t i = 0; i < m->body.words.count && !r->error; i++) {
        struct mesh_word *word = &m->body.words.word[i];
        *word = (struct mesh_word){0};
        if (m->kind == MESH_PRUNE) {
            word->origin = field_get_uint(r, ANY_U64);
            continue;
        }
        field_get_array(r, 5, 5);
        word->origin = field_get_uint(r, ANY_U64);
        word->kind = (uint32_t)field_get_uint(r, MESH_RECORD_CAPACITY);
        word->hops = (uint8_t)field_get_uint(r, UINT8_MAX);
        word->incarnation = field_get_uint(r, ANY_U64);
        word->version = field_get_uint(r, ANY_U64);
        if (word->kind < MESH_RECORD_MEMBER)
            field_fail(r, FIELD_RANGE);
    }
}

static void encode_reserve(struct field_writer *w, const struct mesh_message *m)
{
    const bool wish = m->kind == MESH_WISH;
    field_put_array(w, wish ? 13 : 11);
    field_put_uint(w, wish ? WIRE_WISH : WIRE_RESERVE);
    field_put_uint(w, 1);
    put_id(w, &m->body.reserve.job);
    field_put_uint(w, m->body.reserve.epoch);
    field_put_uint(w, m->body.reserve.tenant);
    field_put_uint(w, m->body.reserve.kernel);
    field_put_uint(w, m->body.reserve.memory_bytes);
    field_put_uint(w, m->body.reserve.price_limit_micro);
    field_put_uint(w, m->body.reserve.classes);
    field_put_uint(w, m->body.reserve.wanted);
    field_put_bool(w, m->body.reserve.deep);
    if (wish) {
        field_put_uint(w, m->body.reserve.waited_ms);
        field_put_bool(w, m->body.reserve.patient);
    }
}

static void decode_reserve(struct field_reader *r, struct mesh_message *m)
{
    get_id(r, &m->body.reserve.job);
    m->body.reserve.epoch = field_get_uint(r, ANY_U64);
    m->body.reserve.tenant = field_get_uint(r, ANY_U64);
    m->body.reserve.kernel = field_get_uint(r, ANY_U64);
    m->body.reserve.memory_bytes = field_get_uint(r, ANY_U64);
    m->body.reserve.price_limit_micro = (uint32_t)field_get_uint(r, ANY_U32);
    m->body.reserve.classes = (uint16_t)field_get_uint(r, ANY_U16);
    m->body.reserve.wanted = (uint16_t)field_get_uint(r, ANY_U16);
    m->body.reserve.deep = field_get_bool(r);
    if (m->kind == MESH_WISH) {
        m->body.reserve.waited_ms = (uint32_t)field_get_uint(r, ANY_U32);
        m->body.reserve.patient = field_get_bool(r);
    }
}

static void encode_grant(struct field_writer *w, const struct mesh_message *m)
{
    field_put_array(w, 7);
    field_put_uint(w, WIRE_GRANT);
    field_put_uint(w, 1);
    put_id(w, &m->body.grant.job);
    field_put_uint(w, m->body.grant.token);
    field_put_uint(w, m->body.grant.places);
    field_put_uint(w, m->body.grant.class);
    field_put_uint(w, m->body.grant.valid_ms);
}

static void decode_grant(struct field_reader *r, struct mesh_message *m)
{
    get_id(r, &m->body.grant.job);
    m->body.grant.token = field_get_uint(r, ANY_U64);
    m->body.grant.places = (uint16_t)field_get_uint(r, ANY_U16);
    m->body.grant.class = get_class(r);
    m->body.grant.valid_ms = (uint32_t)field_get_uint(r, ANY_U32);
}

static void encode_assign(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload)
{
    assert(m->body.assign.count > 0 && m->body.assign.count <= MESH_BUNDLE_SHARDS_MAX);
    field_put_array(w, 11);
    field_put_uint(w, WIRE_ASSIGN);
    field_put_uint(w, 1);
    put_bundle(w, &m->body.assign.name);
    put_id(w, &m->body.assign.job);
    field_put_uint(w, m->body.assign.epoch);
    field_put_uint(w, m->body.assign.tenant);
    field_put_uint(w, m->body.assign.kernel);
    field_put_uint(w, m->body.assign.class);
    field_put_array(w, m->body.assign.count);
    for (uint32_t i = 0; i < m->body.assign.count; i++)
        field_put_uint(w, m->body.assign.shard[i]);
    field_put_bin(w, payload.bytes, payload.count);
}

static void decode_assign(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload)
{
    get_bundle(r, &m->body.assign.name);
    get_id(r, &m->body.assign.job);
    m->body.assign.epoch = field_get_uint(r, ANY_U64);
    m->body.assign.tenant = field_get_uint(r, ANY_U64);
    m->body.assign.kernel = field_get_uint(r, ANY_U64);
    m->body.assign.handle = 0;
    m->body.assign.class = get_class(r);
    m->body.assign.others.count = 0;
    m->body.assign.count = field_get_array(r, 1, MESH_BUNDLE_SHARDS_MAX);
    for (uint32_t i = 0; i < m->body.assign.count; i++)
        m->body.assign.shard[i] = (uint32_t)field_get_uint(r, ANY_U32);
    get_payload(r, 0, WIRE_PAYLOAD_BYTES_MAX, payload);
}

static void encode_expired(struct field_writer *w, const struct mesh_message *m)
{
    field_put_array(w, 6);
    field_put_uint(w, WIRE_EXPIRED);
    field_put_uint(w, 1);
    put_bundle(w, &m->body.expired.name);
    put_id(w, &m->body.expired.job);
    field_put_uint(w, m->body.expired.epoch);
}

static void decode_expired(struct field_reader *r, struct mesh_message *m)
{
    get_bundle(r, &m->body.expired.name);
    get_id(r, &m->body.expired.job);
    m->body.expired.epoch = field_get_uint(r, ANY_U64);
}

static void encode_result(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload)
{
    const uint32_t count = m->body.result.count;
    assert(count > 0 && count <= MESH_BUNDLE_SHARDS_MAX);
    field_put_array(w, 10);
    field_put_uint(w, WIRE_RESULT);
    field_put_uint(w, 1);
    put_bundle(w, &m->body.result.name);
    put_id(w, &m->body.result.job);
    field_put_uint(w, m->body.result.epoch);
    field_put_uint(w, m->body.result.device_us);
    field_put_array(w, count);
    uint8_t outcome[MESH_BUNDLE_SHARDS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        field_put_uint(w, m->body.result.shard[i].shard);
        outcome[i] = (uint8_t)m->body.result.shard[i].outcome;
    }
    field_put_bin(w, outcome, count);
    field_put_bin(w, payload.bytes, payload.count);
}

static void decode_result(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload)
{
    get_bundle(r, &m->body.result.name);
    get_id(r, &m->body.result.job);
    m->body.result.epoch = field_get_uint(r, ANY_U64);
    m->body.result.handle = 0;
    m->body.result.device_us = field_get_uint(r, ANY_U64);
    const uint32_t count = field_get_array(r, 1, MESH_BUNDLE_SHARDS_MAX);
    m->body.result.count = count;
    for (uint32_t i = 0; i < count; i++)
        m->body.result.shard[i].shard = (uint32_t)field_get_uint(r, ANY_U32);
    size_t outcomes;
    const uint8_t *outcome = field_get_bin(r, count, count, &outcomes);
    for (size_t i = 0; i < outcomes; i++) {
        if (outcome[i] < MESH_DONE || outcome[i] > MESH_REJECTED)
            field_fail(r, FIELD_RANGE);
        m->body.result.shard[i].outcome = outcome[i];
    }
    get_payload(r, 0, WIRE_PAYLOAD_BYTES_MAX, payload);
}

static void encode_renew(struct field_writer *w, const struct mesh_message *m)
{
    assert(m->body.renew.count > 0 && m->body.renew.count <= MESH_RENEW_MAX);
    begin_message(w, m->kind, 1);
    field_put_array(w, m->body.renew.count);
    for (uint32_t i = 0; i < m->body.renew.count; i++) {
        field_put_array(w, 2);
        put_bundle(w, &m->body.renew.name[i]);
    }
}

static void decode_renew(struct field_reader *r, struct mesh_message *m)
{
    m->body.renew.count = field_get_array(r, 1, MESH_RENEW_MAX);
    for (uint32_t i = 0; i < m->body.renew.count && !r->error; i++) {
        field_get_array(r, 2, 2);
        get_bundle(r, &m->body.renew.name[i]);
    }
}

/* The short messages whose fields stand here in one line each. */
static void encode_mesh(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload)
{
    switch (m->kind) {
    case MESH_PING:
    case MESH_PONG:
        begin_message(w, m->kind, 1);
        field_put_uint(w, m->body.ping.stamp_us);
        return;
    case MESH_PUSH:
        begin_message(w, m->kind, 1);
        field_put_bin(w, payload.bytes, payload.count);
        return;
    case MESH_SPREAD:
        begin_message(w, m->kind, 2);
        field_put_uint(w, m->body.push.hops);
        field_put_bin(w, payload.bytes, payload.count);
        return;
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        encode_words(w, m);
        return;
    case MESH_AWAIT:
    case MESH_ECHO:
        begin_message(w, m->kind, 2);
        field_put_uint(w, m->body.echo.incarnation);
        field_put_uint(w, m->body.echo.version);
        return;
    case MESH_SUMMARY:
        begin_message(w, m->kind, 1);
        field_put_array(w, MESH_BUCKETS);
        for (int i = 0; i < MESH_BUCKETS; i++)
            field_put_uint(w, m->body.summary.bucket_hash[i]);
        return;
    case MESH_ENTRIES:
    case MESH_WANT:
        encode_entries(w, m);
        return;
    case MESH_RESERVE:
    case MESH_WISH:
        encode_reserve(w, m);
        return;
    case MESH_GRANT:
        encode_grant(w, m);
        return;
    case MESH_WAIT:
        begin_message(w, m->kind, 1);
        put_id(w, &m->body.wait.job);
        return;
    case MESH_RELEASE:
        begin_message(w, m->kind, 2);
        field_put_uint(w, m->body.release.token);
        field_put_uint(w, m->body.release.places);
        return;
    case MESH_ASSIGN:
        encode_assign(w, m, payload);
        return;
    case MESH_EXPIRED:
        encode_expired(w, m);
        return;
    case MESH_RESULT:
        encode_result(w, m, payload);
        return;
    case MESH_RESULT_ACK:
        begin_message(w, m->kind, 2);
        put_bundle(w, &m->body.result_ack.name);
        return;
    case MESH_RENEW:
    case MESH_RENEWED:
        encode_renew(w, m);
        return;
    case MESH_CANCEL:
        begin_message(w, m->kind, 2);
        put_id(w, &m->body.cancel.job);
        field_put_uint(w, m->body.cancel.epoch);
        return;
    case MESH_ASSIGN_KEPT:
    case MESH_APPEND:
    case MESH_APPENDED:
    case MESH_VOTE:
    case MESH_VOTED:
    case MESH_BEAT:
    case MESH_REPORT:
    case MESH_ADOPTED:
    case MESH_HAND_OVER:
    case MESH_DISK:
        wire_encode_journal(w, m, payload);
        return;
    case MESH_MESSAGE_KINDS:
        break;
    }
    assert(0 && "a message without a kind");
}

/* `items` is what the outer array still holds; each kind states how many it wants. */
static void decode_mesh(struct field_reader *r, enum wire_kind kind, struct mesh_message *m,
                        struct wire_bytes *payload)
{
    m->kind = message_of_kind(kind);
    *payload = (struct wire_bytes){0};
    switch (m->kind) {
    case MESH_PING:
    case MESH_PONG:
        m->body.ping.stamp_us = field_get_uint(r, ANY_U64);
        return;
    case MESH_PUSH:
        memset(&m->body.push, 0, sizeof m->body.push);
        get_payload(r, RECORD_OVERHEAD_BYTES, RECORD_BYTES_MAX, payload);
        return;
    case MESH_SPREAD:
        memset(&m->body.push, 0, sizeof m->body.push);
        m->body.push.hops = (uint8_t)field_get_uint(r, UINT8_MAX);
        if (m->body.push.hops == 0)
            field_fail(r, FIELD_RANGE);
        get_payload(r, RECORD_OVERHEAD_BYTES, RECORD_BYTES_MAX, payload);
        return;
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        decode_words(r, m);
        return;
    case MESH_AWAIT:
    case MESH_ECHO:
        m->body.echo.incarnation = field_get_uint(r, ANY_U64);
        m->body.echo.version = field_get_uint(r, ANY_U64);
        return;
    case MESH_SUMMARY:
        field_get_array(r, MESH_BUCKETS, MESH_BUCKETS);
        for (int i = 0; i < MESH_BUCKETS; i++)
            m->body.summary.bucket_hash[i] = field_get_uint(r, ANY_U64);
        return;
    case MESH_ENTRIES:
    case MESH_WANT:
        decode_entries(r, m);
        return;
    case MESH_RESERVE:
    case MESH_WISH:
        decode_reserve(r, m);
        return;
    case MESH_GRANT:
        decode_grant(r, m);
        return;
    case MESH_WAIT:
        get_id(r, &m->body.wait.job);
        return;
    case MESH_RELEASE:
        m->body.release.token = field_get_uint(r, ANY_U64);
        m->body.release.places = (uint16_t)field_get_uint(r, ANY_U16);
        return;
    case MESH_ASSIGN:
        decode_assign(r, m, payload);
        return;
    case MESH_EXPIRED:
        decode_expired(r, m);
        return;
    case MESH_RESULT:
        decode_result(r, m, payload);
        return;
    case MESH_RESULT_ACK:
        get_bundle(r, &m->body.result_ack.name);
        return;
    case MESH_RENEW:
    case MESH_RENEWED:
        decode_renew(r, m);
        return;
    case MESH_CANCEL:
        get_id(r, &m->body.cancel.job);
        m->body.cancel.epoch = field_get_uint(r, ANY_U64);
        return;
    case MESH_ASSIGN_KEPT:
    case MESH_APPEND:
    case MESH_APPENDED:
    case MESH_VOTE:
    case MESH_VOTED:
    case MESH_BEAT:
    case MESH_REPORT:
    case MESH_ADOPTED:
    case MESH_HAND_OVER:
    case MESH_DISK:
        wire_decode_journal(r, m, payload);
        return;
    case MESH_MESSAGE_KINDS:
        break;
    }
    assert(0 && "a kind of the core without a message");
}

/* ---- The transport's own frames -------------------------------------------------------------------------
 */

static void encode_hello(struct field_writer *w, const struct wire_hello *hello)
{
    field_put_uint(w, hello->protocol_min);
    field_put_uint(w, hello->protocol_max);
    field_put_uint(w, hello->session);
    field_put_bool(w, hello->answer);
    put_id(w, &hello->node);
    field_put_uint(w, hello->incarnation);
    field_put_uint(w, hello->process);
    field_put_text(w, hello->software);
}

static void decode_hello(struct field_reader *r, struct wire_hello *hello)
{
    hello->protocol_min = (uint32_t)field_get_uint(r, ANY_U32);
    hello->protocol_max = (uint32_t)field_get_uint(r, ANY_U32);
    hello->session = field_get_uint(r, ANY_U64);
    hello->answer = field_get_bool(r);
    get_id(r, &hello->node);
    hello->incarnation = field_get_uint(r, ANY_U64);
    hello->process = field_get_uint(r, ANY_U64);
    field_get_text(r, hello->software, sizeof hello->software);
    if (hello->protocol_min > hello->protocol_max)
        field_fail(r, FIELD_RANGE);
}

static void decode_batch(struct field_reader *r, struct wire_frame *frame)
{
    frame->body.batch.count = field_get_array(r, 1, WIRE_BATCH_FRAMES_MAX);
    for (uint32_t i = 0; i < frame->body.batch.count && !r->error; i++) {
        struct wire_bytes *inner = &frame->body.batch.frame[i];
        inner->bytes = field_get_bin(r, 1, WIRE_CONTROL_BYTES_MAX, &inner->count);
        if (r->error)
            return;
        struct field_reader peek;
        field_reader_init(&peek, inner->bytes, inner->count);
        field_get_array(&peek, 2, 16);
        const uint64_t kind = field_get_uint(&peek, WIRE_KIND_COUNT - 1);
        if (peek.error || kind == WIRE_BATCH || kind == WIRE_HELLO)
            field_fail(r, peek.error ? peek.error : FIELD_RANGE);
    }
}

/* ---- The cache service -----------------------------------------------------------------------------------
 */

static uint32_t holder_sum(const uint8_t *holders, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += holders[i] == WIRE_CACHE_LEASED ? 0 : holders[i];
    return sum;
}

static void decode_cache_found(struct field_reader *r, struct wire_frame *frame)
{
    frame->body.cache_found.request = field_get_uint(r, ANY_U64);
    size_t count;
    const uint8_t *holders = field_get_bin(r, 0, WIRE_CACHE_KEYS_MAX, &count);
    for (size_t i = 0; i < count; i++) {
        const bool leased = holders[i] == WIRE_CACHE_LEASED && frame->kind == WIRE_CACHE_CLAIMED;
        if (holders[i] > WIRE_CACHE_HOLDERS_MAX && !leased)
            field_fail(r, FIELD_RANGE);
    }
    if (r->error)
        return;
    const uint32_t nodes = holder_sum(holders, (uint32_t)count);
    get_names(r, nodes, nodes, &frame->body.cache_found.nodes);
    frame->body.cache_found.holders = holders;
    frame->body.cache_found.count = (uint32_t)count;
}

static void encode_cache_entries(struct field_writer *w, const struct wire_frame *frame)
{
    assert(frame->body.cache_entries.count <= WIRE_CACHE_ENTRIES_MAX);
    field_put_uint(w, frame->body.cache_entries.request);
    field_put_uint(w, frame->body.cache_entries.first);
    field_put_array(w, frame->body.cache_entries.count);
    for (uint32_t i = 0; i < frame->body.cache_entries.count; i++) {
        const struct wire_cache_entry *entry = &frame->body.cache_entries.entry[i];
        field_put_array(w, entry->present ? 2 : 0);
        if (!entry->present)
            continue;
        assert(entry->entry.count <= CACHE_ENTRY_BYTES_MAX);
        field_put_bin(w, entry->entry.bytes, entry->entry.count);
        put_names(w, entry->blobs, WIRE_CACHE_BLOBS_MAX);
    }
}

static void decode_cache_entries(struct field_reader *r, struct wire_frame *frame)
{
    frame->body.cache_entries.request = field_get_uint(r, ANY_U64);
    frame->body.cache_entries.first = (uint32_t)field_get_uint(r, WIRE_CACHE_KEYS_MAX - 1);
    frame->body.cache_entries.count = field_get_array(r, 0, WIRE_CACHE_ENTRIES_MAX);
    for (uint32_t i = 0; i < frame->body.cache_entries.count && !r->error; i++) {
        struct wire_cache_entry *entry = &frame->body.cache_entries.entry[i];
        *entry = (struct wire_cache_entry){0};
        const uint32_t fields = field_get_array(r, 0, 2);
        entry->present = fields == 2;
        if (fields == 1)
            field_fail(r, FIELD_RANGE);
        if (!entry->present)
            continue;
        get_payload(r, 0, CACHE_ENTRY_BYTES_MAX, &entry->entry);
        get_names(r, 0, WIRE_CACHE_BLOBS_MAX, &entry->blobs);
    }
}

/* ---- Bulk
 * -------------------------------------------------------------------------------------------------- */

static void decode_bulk_chunks(struct field_reader *r, struct wire_frame *frame)
{
    frame->body.bulk_chunks.request = field_get_uint(r, ANY_U64);
    frame->body.bulk_chunks.total_bytes = field_get_uint(r, BLOB_BYTES_MAX);
    frame->body.bulk_chunks.first = field_get_uint(r, BLOB_BYTES_MAX / BLOB_CHUNK_BYTES);
    get_names(r, 0, WIRE_BULK_LIST_MAX, &frame->body.bulk_chunks.chunks);
}

static void decode_bulk_get(struct field_reader *r, struct wire_frame *frame)
{
    frame->body.bulk_get.request = field_get_uint(r, ANY_U64);
    field_get_fixed(r, frame->body.bulk_get.blob.bytes, DIGEST_BYTES);
    frame->body.bulk_get.offset = field_get_uint(r, BLOB_BYTES_MAX);
    frame->body.bulk_get.bytes = (uint32_t)field_get_uint(r, BLOB_CHUNK_BYTES);
    if (!r->error && frame->body.bulk_get.bytes == 0)
        field_fail(r, FIELD_RANGE);
}

/* ---- The table: how many fields each kind has beside kind and version, and who reads and writes them
 * ------- */

static uint32_t field_count(enum wire_kind kind)
{
    switch (kind) {
    case WIRE_HELLO:
        return 8;
    case WIRE_BATCH:
    case WIRE_PING:
    case WIRE_PONG:
    case WIRE_PUSH:
    case WIRE_HAVE:
    case WIRE_GRAFT:
    case WIRE_PRUNE:
    case WIRE_SUMMARY:
    case WIRE_WAIT:
    case WIRE_RENEW:
    case WIRE_RENEWED:
    case WIRE_CACHE_PUBLISH:
    case WIRE_UNASK:
    case WIRE_CACHE_OVER:
        return 1;
    case WIRE_ANSWER:
        return 3;
    case WIRE_ASK:
    case WIRE_BEAT:
    case WIRE_SPREAD:
    case WIRE_AWAIT:
    case WIRE_ECHO:
    case WIRE_ENTRIES:
    case WIRE_WANT:
    case WIRE_RELEASE:
    case WIRE_RESULT_ACK:
    case WIRE_CANCEL:
    case WIRE_CACHE_FIND:
    case WIRE_CACHE_GET:
    case WIRE_CACHE_GONE:
    case WIRE_BULK_NONE:
        return 2;
    case WIRE_CACHE_CLAIM:
    case WIRE_CACHE_CLAIMED:
    case WIRE_CACHE_FOUND:
    case WIRE_CACHE_ENTRIES:
    case WIRE_BULK_LIST:
    case WIRE_BULK_DATA:
    case WIRE_ADOPTED:
    case WIRE_DISK:
        return 3;
    case WIRE_HAND_OVER:
        return 4;
    case WIRE_EXPIRED:
    case WIRE_BULK_CHUNKS:
    case WIRE_BULK_GET:
        return 4;
    case WIRE_GRANT:
        return 5;
    case WIRE_REPORT:
        return 6;
    case WIRE_VOTED:
        return 7;
    case WIRE_RESULT:
    case WIRE_VOTE:
    case WIRE_APPENDED:
        return 8;
    case WIRE_RESERVE:
    case WIRE_ASSIGN:
        return 9;
    case WIRE_APPEND:
    case WIRE_ASSIGN_KEPT:
        return 10;
    case WIRE_WISH:
        return 11;
    }
    return 0;
}

static void encode_own(struct field_writer *w, const struct wire_frame *frame)
{
    field_put_array(w, 2 + field_count(frame->kind));
    field_put_uint(w, frame->kind);
    field_put_uint(w, KINDS[frame->kind].version);
    switch (frame->kind) {
    case WIRE_HELLO:
        encode_hello(w, &frame->body.hello);
        return;
    case WIRE_BATCH:
        assert(frame->body.batch.count > 0 && frame->body.batch.count <= WIRE_BATCH_FRAMES_MAX);
        field_put_array(w, frame->body.batch.count);
        for (uint32_t i = 0; i < frame->body.batch.count; i++)
            field_put_bin(w, frame->body.batch.frame[i].bytes, frame->body.batch.frame[i].count);
        return;
    case WIRE_CACHE_PUBLISH:
        put_names(w, frame->body.cache_publish.keys, WIRE_CACHE_KEYS_MAX);
        return;
    case WIRE_CACHE_FIND:
    case WIRE_CACHE_GET:
        field_put_uint(w, frame->body.cache_keys.request);
        put_names(w, frame->body.cache_keys.keys,
                  frame->kind == WIRE_CACHE_GET ? WIRE_CACHE_ENTRIES_MAX : WIRE_CACHE_KEYS_MAX);
        return;
    case WIRE_CACHE_CLAIM:
        field_put_uint(w, frame->body.cache_claim.request);
        field_put_bin(w, frame->body.cache_claim.job.bytes, sizeof frame->body.cache_claim.job.bytes);
        put_names(w, frame->body.cache_claim.keys, WIRE_CACHE_KEYS_MAX);
        return;
    case WIRE_CACHE_GONE:
        field_put_bin(w, frame->body.cache_gone.holder.bytes, sizeof frame->body.cache_gone.holder.bytes);
        put_names(w, frame->body.cache_gone.keys, WIRE_CACHE_KEYS_MAX);
        return;
    case WIRE_CACHE_OVER:
        field_put_bin(w, frame->body.cache_over.job.bytes, sizeof frame->body.cache_over.job.bytes);
        return;
    case WIRE_CACHE_FOUND:
    case WIRE_CACHE_CLAIMED:
        assert(frame->body.cache_found.nodes.count ==
               holder_sum(frame->body.cache_found.holders, frame->body.cache_found.count));
        field_put_uint(w, frame->body.cache_found.request);
        field_put_bin(w, frame->body.cache_found.holders, frame->body.cache_found.count);
        put_names(w, frame->body.cache_found.nodes, WIRE_CACHE_KEYS_MAX * WIRE_CACHE_HOLDERS_MAX);
        return;
    case WIRE_CACHE_ENTRIES:
        encode_cache_entries(w, frame);
        return;
    case WIRE_ASK:
    case WIRE_ANSWER:
        field_put_uint(w, frame->body.ask.request);
        if (frame->kind == WIRE_ANSWER)
            field_put_bool(w, frame->body.ask.final);
        field_put_bin(w, frame->body.ask.body.bytes, frame->body.ask.body.count);
        return;
    case WIRE_UNASK:
        field_put_uint(w, frame->body.ask.request);
        return;
    case WIRE_BULK_LIST:
        field_put_uint(w, frame->body.bulk_list.request);
        field_put_bin(w, frame->body.bulk_list.blob.bytes, DIGEST_BYTES);
        field_put_uint(w, frame->body.bulk_list.first);
        return;
    case WIRE_BULK_CHUNKS:
        field_put_uint(w, frame->body.bulk_chunks.request);
        field_put_uint(w, frame->body.bulk_chunks.total_bytes);
        field_put_uint(w, frame->body.bulk_chunks.first);
        put_names(w, frame->body.bulk_chunks.chunks, WIRE_BULK_LIST_MAX);
        return;
    case WIRE_BULK_GET:
        field_put_uint(w, frame->body.bulk_get.request);
        field_put_bin(w, frame->body.bulk_get.blob.bytes, DIGEST_BYTES);
        field_put_uint(w, frame->body.bulk_get.offset);
        field_put_uint(w, frame->body.bulk_get.bytes);
        return;
    case WIRE_BULK_DATA:
        field_put_uint(w, frame->body.bulk_data.request);
        field_put_uint(w, frame->body.bulk_data.offset);
        field_put_bin(w, frame->body.bulk_data.data.bytes, frame->body.bulk_data.data.count);
        return;
    case WIRE_BULK_NONE:
        field_put_uint(w, frame->body.bulk_none.request);
        field_put_uint(w, frame->body.bulk_none.why);
        return;
    default:
        assert(0 && "a frame without a kind");
    }
}

size_t wire_encode(const struct wire_frame *frame, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    if (message_of_kind(frame->kind) != 0)
        encode_mesh(&writer, &frame->body.mesh.message, frame->body.mesh.payload);
    else
        encode_own(&writer, frame);
    return writer.full ? 0 : writer.count;
}

size_t wire_encode_data_head(const struct wire_frame *frame, uint8_t *out, size_t capacity)
{
    assert(frame->kind == WIRE_BULK_DATA);
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, 2 + field_count(frame->kind));
    field_put_uint(&writer, frame->kind);
    field_put_uint(&writer, KINDS[frame->kind].version);
    field_put_uint(&writer, frame->body.bulk_data.request);
    field_put_uint(&writer, frame->body.bulk_data.offset);
    field_put_bin_head(&writer, frame->body.bulk_data.data.count);
    return writer.full ? 0 : writer.count;
}

static void decode_own(struct field_reader *r, struct wire_frame *frame)
{
    switch (frame->kind) {
    case WIRE_HELLO:
        decode_hello(r, &frame->body.hello);
        return;
    case WIRE_BATCH:
        decode_batch(r, frame);
        return;
    case WIRE_CACHE_PUBLISH:
        get_names(r, 1, WIRE_CACHE_KEYS_MAX, &frame->body.cache_publish.keys);
        return;
    case WIRE_CACHE_FIND:
    case WIRE_CACHE_GET:
        frame->body.cache_keys.request = field_get_uint(r, ANY_U64);
        get_names(r, 1, frame->kind == WIRE_CACHE_GET ? WIRE_CACHE_ENTRIES_MAX : WIRE_CACHE_KEYS_MAX,
                  &frame->body.cache_keys.keys);
        return;
    case WIRE_CACHE_CLAIM:
        frame->body.cache_claim.request = field_get_uint(r, ANY_U64);
        field_get_fixed(r, frame->body.cache_claim.job.bytes, sizeof frame->body.cache_claim.job.bytes);
        get_names(r, 1, WIRE_CACHE_KEYS_MAX, &frame->body.cache_claim.keys);
        return;
    case WIRE_CACHE_GONE:
        field_get_fixed(r, frame->body.cache_gone.holder.bytes, sizeof frame->body.cache_gone.holder.bytes);
        get_names(r, 1, WIRE_CACHE_KEYS_MAX, &frame->body.cache_gone.keys);
        return;
    case WIRE_CACHE_OVER:
        field_get_fixed(r, frame->body.cache_over.job.bytes, sizeof frame->body.cache_over.job.bytes);
        return;
    case WIRE_CACHE_FOUND:
    case WIRE_CACHE_CLAIMED:
        decode_cache_found(r, frame);
        return;
    case WIRE_CACHE_ENTRIES:
        decode_cache_entries(r, frame);
        return;
    case WIRE_ASK:
    case WIRE_ANSWER:
        frame->body.ask.request = field_get_uint(r, ANY_U64);
        frame->body.ask.final = frame->kind == WIRE_ANSWER && field_get_bool(r);
        get_payload(r, 1, frame->kind == WIRE_ASK ? WIRE_ASK_BYTES_MAX : WIRE_PAYLOAD_BYTES_MAX,
                    &frame->body.ask.body);
        return;
    case WIRE_UNASK:
        frame->body.ask.request = field_get_uint(r, ANY_U64);
        return;
    case WIRE_BULK_LIST:
        frame->body.bulk_list.request = field_get_uint(r, ANY_U64);
        field_get_fixed(r, frame->body.bulk_list.blob.bytes, DIGEST_BYTES);
        frame->body.bulk_list.first = field_get_uint(r, BLOB_BYTES_MAX / BLOB_CHUNK_BYTES);
        return;
    case WIRE_BULK_CHUNKS:
        decode_bulk_chunks(r, frame);
        return;
    case WIRE_BULK_GET:
        decode_bulk_get(r, frame);
        return;
    case WIRE_BULK_DATA:
        frame->body.bulk_data.request = field_get_uint(r, ANY_U64);
        frame->body.bulk_data.offset = field_get_uint(r, BLOB_BYTES_MAX);
        get_payload(r, 1, BLOB_CHUNK_BYTES, &frame->body.bulk_data.data);
        return;
    case WIRE_BULK_NONE:
        frame->body.bulk_none.request = field_get_uint(r, ANY_U64);
        frame->body.bulk_none.why = (enum wire_bulk_refusal)field_get_uint(r, WIRE_BULK_FAILED);
        if (!r->error && frame->body.bulk_none.why < WIRE_BULK_ABSENT)
            field_fail(r, FIELD_RANGE);
        return;
    default:
        field_fail(r, FIELD_RANGE);
    }
}

static enum wire_error error_of(enum field_error error)
{
    static const enum wire_error ERRORS[] = {
        [FIELD_OK] = WIRE_OK,     [FIELD_TRUNCATED] = WIRE_TRUNCATED, [FIELD_TRAILING] = WIRE_TRAILING,
        [FIELD_TYPE] = WIRE_TYPE, [FIELD_RANGE] = WIRE_RANGE,
    };
    return ERRORS[error];
}

enum wire_error wire_decode(const uint8_t *bytes, size_t count, struct wire_frame *frame)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    const uint32_t items = field_get_array(&reader, 2, 16);
    const uint64_t kind = field_get_uint(&reader, UINT64_MAX);
    const uint64_t version = field_get_uint(&reader, UINT64_MAX);
    if (reader.error)
        return error_of(reader.error);
    if (kind >= WIRE_KIND_COUNT || !KINDS[kind].name)
        return WIRE_UNKNOWN_KIND;
    if (version != KINDS[kind].version)
        return WIRE_UNKNOWN_VERSION;
    frame->kind = (enum wire_kind)kind;
    const uint32_t fields = items - 2;
    const uint32_t fields_known = field_count(frame->kind);
    const uint32_t more_max = kind == WIRE_HELLO ? WIRE_HELLO_MORE_MAX : 0;
    if (fields < fields_known || fields > fields_known + more_max)
        return WIRE_RANGE;
    if (message_of_kind(frame->kind) != 0)
        decode_mesh(&reader, frame->kind, &frame->body.mesh.message, &frame->body.mesh.payload);
    else
        decode_own(&reader, frame);
    for (uint32_t i = fields_known; i < fields; i++)
        field_get_uint(&reader, ANY_U64);
    return field_get_end(&reader) ? WIRE_OK : error_of(reader.error);
}

/* ---- Batches ---------------------------------------------------------------------------------------------
 */

void wire_batch_init(struct wire_batch *batch, uint8_t *bytes, size_t capacity)
{
    assert(capacity >= WIRE_BATCH_HEADER_BYTES);
    *batch = (struct wire_batch){.bytes = bytes, .capacity = capacity, .count = WIRE_BATCH_HEADER_BYTES};
}

bool wire_batch_add(struct wire_batch *batch, struct wire_bytes frame)
{
    const size_t free_bytes = batch->capacity - batch->count;
    if (batch->frames == WIRE_BATCH_FRAMES_MAX || free_bytes < WIRE_BATCH_FRAME_BYTES ||
        frame.count > free_bytes - WIRE_BATCH_FRAME_BYTES)
        return false;
    uint8_t *at = batch->bytes + batch->count;
    at[0] = 0xc6; /* bin 32 */
    for (int i = 0; i < 4; i++)
        at[1 + i] = (uint8_t)(frame.count >> (24 - 8 * i));
    memcpy(at + WIRE_BATCH_FRAME_BYTES, frame.bytes, frame.count);
    batch->count += WIRE_BATCH_FRAME_BYTES + frame.count;
    batch->frames++;
    return true;
}

struct wire_bytes wire_batch_finish(struct wire_batch *batch)
{
    assert(batch->frames > 0);
    const size_t alone = WIRE_BATCH_HEADER_BYTES + WIRE_BATCH_FRAME_BYTES;
    if (batch->frames == 1)
        return (struct wire_bytes){.bytes = batch->bytes + alone, .count = batch->count - alone};
    const uint8_t header[WIRE_BATCH_HEADER_BYTES] = {
        0x93, WIRE_BATCH, 1, 0xdc, (uint8_t)(batch->frames >> 8), (uint8_t)batch->frames,
    };
    memcpy(batch->bytes, header, sizeof header);
    return (struct wire_bytes){.bytes = batch->bytes, .count = batch->count};
}

/* ---- Names ------------------------------------------------------------------------------------------------
 */

const char *wire_kind_name(unsigned kind)
{
    return kind < WIRE_KIND_COUNT ? KINDS[kind].name : NULL;
}

enum wire_socket wire_kind_socket(enum wire_kind kind)
{
    assert((unsigned)kind < WIRE_KIND_COUNT);
    return (enum wire_socket)KINDS[kind].socket;
}

uint32_t wire_kind_since(enum wire_kind kind)
{
    assert((unsigned)kind < WIRE_KIND_COUNT);
    return KINDS[kind].since;
}

const char *wire_error_text(enum wire_error error)
{
    static const char *const TEXTS[WIRE_ERRORS] = {
        [WIRE_OK] = "well formed",
        [WIRE_TRUNCATED] = "the frame ends too early",
        [WIRE_TRAILING] = "bytes are left over after the frame",
        [WIRE_TYPE] = "a field has the wrong type",
        [WIRE_RANGE] = "a number, a length or a count is outside its limits",
        [WIRE_UNKNOWN_KIND] = "no such kind of frame",
        [WIRE_UNKNOWN_VERSION] = "a version of this frame that is not spoken here",
    };
    return error < WIRE_ERRORS ? TEXTS[error] : "unknown";
}
