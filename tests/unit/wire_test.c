/* Every frame: there and back, every truncation, trailing bytes, and each limit plus one. */
#include "node/wire.h"

#include "node/field.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct wire_frame frame;
static struct wire_frame back;
static uint8_t bytes[WIRE_BULK_BYTES_MAX];
static uint8_t again[WIRE_BULK_BYTES_MAX];
static uint8_t data[BLOB_CHUNK_BYTES];
static uint8_t names[WIRE_CACHE_KEYS_MAX * WIRE_CACHE_HOLDERS_MAX][32];

static const uint8_t KINDS[] = {
#define KIND(name, number, version, since, socket) number,
    WIRE_KINDS(KIND)
#undef KIND
};

static const enum mesh_message_kind MESH_KINDS[] = {
    MESH_PING,        MESH_PONG,    MESH_PUSH,     MESH_SUMMARY,   MESH_ENTRIES, MESH_WANT,   MESH_RESERVE,
    MESH_GRANT,       MESH_WAIT,    MESH_RELEASE,  MESH_ASSIGN,    MESH_EXPIRED, MESH_RESULT, MESH_RESULT_ACK,
    MESH_RENEW,       MESH_RENEWED, MESH_CANCEL,   MESH_SPREAD,    MESH_HAVE,    MESH_GRAFT,  MESH_PRUNE,
    MESH_ASSIGN_KEPT, MESH_APPEND,  MESH_APPENDED, MESH_VOTE,      MESH_VOTED,   MESH_BEAT,   MESH_REPORT,
    MESH_ADOPTED,     MESH_AWAIT,   MESH_ECHO,     MESH_HAND_OVER, MESH_DISK,    MESH_WISH,
};

/* A core message with every number of `count` entries set; `large` fills it to its limits. */
static void fill_mesh(enum mesh_message_kind kind, bool large)
{
    struct mesh_message *m = &frame.body.mesh.message;
    memset(m, large ? 0xff : 0, sizeof *m);
    m->kind = kind;
    const uint32_t shards = large ? MESH_BUNDLE_SHARDS_MAX : 1;
    switch (kind) {
    case MESH_SPREAD:
        m->body.push.hops = large ? UINT8_MAX : 1;
        frame.body.mesh.payload = (struct wire_bytes){data, large ? RECORD_BYTES_MAX : RECORD_OVERHEAD_BYTES};
        break;
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        m->body.words.count = large ? MESH_WORDS_MAX : 0;
        for (uint32_t i = 0; i < m->body.words.count; i++) {
            m->body.words.word[i].kind = MESH_RECORD_CAPACITY;
            m->body.words.word[i].hops = kind == MESH_GRAFT ? 0 : UINT8_MAX;
        }
        break;
    case MESH_PUSH:
        frame.body.mesh.payload = (struct wire_bytes){data, large ? RECORD_BYTES_MAX : RECORD_OVERHEAD_BYTES};
        break;
    case MESH_ENTRIES:
    case MESH_WANT:
        m->body.entries.count = large ? MESH_ENTRIES_MAX : 0;
        for (uint32_t i = 0; i < m->body.entries.count; i++)
            m->body.entries.entry[i].kind = MESH_RECORD_REVOCATION;
        break;
    case MESH_RESERVE:
    case MESH_WISH:
        m->body.reserve.deep = m->body.reserve.patient = large;
        break;
    case MESH_GRANT:
        m->body.grant.class = MESH_DEVICE_CLASSES - 1;
        break;
    case MESH_ASSIGN:
        m->body.assign.class = 0;
        m->body.assign.count = shards;
        frame.body.mesh.payload = (struct wire_bytes){data, large ? WIRE_PAYLOAD_BYTES_MAX : 0};
        break;
    case MESH_RESULT:
        m->body.result.count = shards;
        for (uint32_t i = 0; i < shards; i++)
            m->body.result.shard[i].outcome = large ? MESH_REJECTED : MESH_DONE;
        frame.body.mesh.payload = (struct wire_bytes){data, large ? WIRE_PAYLOAD_BYTES_MAX : 0};
        break;
    case MESH_ASSIGN_KEPT:
        m->body.assign.class = 0;
        m->body.assign.others.count = large ? MESH_COPIES_MAX : 1;
        m->body.assign.count = shards;
        frame.body.mesh.payload = (struct wire_bytes){data, large ? WIRE_PAYLOAD_BYTES_MAX : 0};
        break;
    case MESH_APPEND:
        m->body.append.kind = large ? MESH_ENTRY_CHANGE : MESH_ENTRY_SUBMIT;
        m->body.append.members.count = large ? MESH_COPIES_MAX + 1 : 0;
        m->body.append.members.joining = m->body.append.members.leaving = m->body.append.members.count;
        frame.body.mesh.payload = (struct wire_bytes){data, large ? WIRE_ENTRY_BYTES_MAX : 0};
        break;
    case MESH_BEAT:
        m->body.beat.count = large ? MESH_BEATS_MAX : 1;
        for (uint32_t i = 0; i < m->body.beat.count; i++)
            m->body.beat.journal[i].over = large;
        break;
    case MESH_APPENDED:
        m->body.appended.held = m->body.appended.over = large;
        break;
    case MESH_VOTED:
        m->body.voted.granted = m->body.voted.asks = large;
        break;
    case MESH_VOTE:
        m->body.vote.asks = m->body.vote.handed = large;
        m->body.vote.members.count = large ? MESH_COPIES_MAX + 1 : 0;
        m->body.vote.members.joining = m->body.vote.members.leaving = m->body.vote.members.count;
        break;
    case MESH_HAND_OVER:
        m->body.hand_over.done = large;
        break;
    case MESH_DISK:
        m->body.disk.asks = large;
        break;
    case MESH_REPORT:
        m->body.report.class = 0;
        m->body.report.count = shards;
        break;
    case MESH_RENEW:
    case MESH_RENEWED:
        m->body.renew.count = large ? MESH_RENEW_MAX : 1;
        break;
    default:
        break;
    }
}

static struct wire_names some_names(uint32_t count)
{
    return (struct wire_names){.name = (const uint8_t(*)[32])names, .count = count};
}

static void fill_cache(bool large)
{
    static uint8_t holders[WIRE_CACHE_KEYS_MAX];
    switch (frame.kind) {
    case WIRE_CACHE_PUBLISH:
        frame.body.cache_publish.keys = some_names(large ? WIRE_CACHE_KEYS_MAX : 1);
        break;
    case WIRE_CACHE_FOUND:
        memset(holders, large ? WIRE_CACHE_HOLDERS_MAX : 0, sizeof holders);
        frame.body.cache_found.count = large ? WIRE_CACHE_KEYS_MAX : 1;
        frame.body.cache_found.holders = holders;
        frame.body.cache_found.nodes = some_names(large ? WIRE_CACHE_KEYS_MAX * WIRE_CACHE_HOLDERS_MAX : 0);
        break;
    case WIRE_CACHE_CLAIMED: /* the last one is leased */
        memset(holders, large ? WIRE_CACHE_HOLDERS_MAX : 0, sizeof holders);
        holders[large ? WIRE_CACHE_KEYS_MAX - 1 : 0] = WIRE_CACHE_LEASED;
        frame.body.cache_found.count = large ? WIRE_CACHE_KEYS_MAX : 1;
        frame.body.cache_found.holders = holders;
        frame.body.cache_found.nodes =
            some_names(large ? (WIRE_CACHE_KEYS_MAX - 1) * WIRE_CACHE_HOLDERS_MAX : 0);
        break;
    case WIRE_CACHE_CLAIM:
        frame.body.cache_claim.keys = some_names(large ? WIRE_CACHE_KEYS_MAX : 1);
        break;
    case WIRE_CACHE_GONE:
        frame.body.cache_gone.keys = some_names(large ? WIRE_CACHE_KEYS_MAX : 1);
        break;
    case WIRE_CACHE_OVER:
        break;
    case WIRE_CACHE_ENTRIES:
        frame.body.cache_entries.count = large ? WIRE_CACHE_ENTRIES_MAX : 1;
        for (uint32_t i = 0; large && i < frame.body.cache_entries.count; i += 2) {
            frame.body.cache_entries.entry[i] = (struct wire_cache_entry){
                .present = true, .entry = {data, 100}, .blobs = some_names(WIRE_CACHE_BLOBS_MAX)};
        }
        break;
    default:
        frame.body.cache_keys.keys = some_names(!large                         ? 1
                                                : frame.kind == WIRE_CACHE_GET ? WIRE_CACHE_ENTRIES_MAX
                                                                               : WIRE_CACHE_KEYS_MAX);
    }
}

static void fill(uint8_t kind, bool large)
{
    memset(&frame, 0, sizeof frame);
    frame.kind = (enum wire_kind)kind;
    for (size_t i = 0; i < sizeof MESH_KINDS / sizeof MESH_KINDS[0]; i++) {
        if (wire_kind_of(MESH_KINDS[i]) == frame.kind) {
            fill_mesh(MESH_KINDS[i], large);
            return;
        }
    }
    if ((kind >= WIRE_CACHE_PUBLISH && kind <= WIRE_CACHE_ENTRIES) ||
        (kind >= WIRE_CACHE_CLAIM && kind <= WIRE_CACHE_OVER)) {
        fill_cache(large);
        return;
    }
    static const uint8_t PING[] = {0x93, WIRE_PING, 1, 5};
    switch (frame.kind) {
    case WIRE_HELLO:
        frame.body.hello = (struct wire_hello){.protocol_min = 1, .protocol_max = large ? UINT32_MAX : 1};
        memset(frame.body.hello.software, 'x', large ? WIRE_SOFTWARE_BYTES_MAX : 0);
        break;
    case WIRE_BATCH:
        frame.body.batch.count = large ? WIRE_BATCH_FRAMES_MAX : 1;
        for (uint32_t i = 0; i < frame.body.batch.count; i++)
            frame.body.batch.frame[i] = (struct wire_bytes){PING, sizeof PING};
        break;
    case WIRE_ASK:
        frame.body.ask.body = (struct wire_bytes){data, large ? WIRE_ASK_BYTES_MAX : 1};
        break;
    case WIRE_ANSWER:
        frame.body.ask.body = (struct wire_bytes){data, large ? WIRE_PAYLOAD_BYTES_MAX : 1};
        frame.body.ask.final = large;
        break;
    case WIRE_BULK_CHUNKS:
        frame.body.bulk_chunks.chunks =
            (struct wire_names){(const uint8_t(*)[32])data, large ? WIRE_BULK_LIST_MAX : 0};
        break;
    case WIRE_BULK_GET:
        frame.body.bulk_get.bytes = large ? BLOB_CHUNK_BYTES : 1;
        break;
    case WIRE_BULK_DATA:
        frame.body.bulk_data.data = (struct wire_bytes){data, large ? BLOB_CHUNK_BYTES : 1};
        break;
    case WIRE_BULK_NONE:
        frame.body.bulk_none.why = large ? WIRE_BULK_FAILED : WIRE_BULK_ABSENT;
        break;
    default:
        break;
    }
}

static void every_frame_comes_back_as_it_went(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof KINDS; i++) {
        for (int large = 0; large < 2; large++) {
            fill(KINDS[i], large);
            const size_t limit = wire_kind_socket(frame.kind) == WIRE_SOCKET_CONTROL ? WIRE_CONTROL_BYTES_MAX
                                                                                     : WIRE_BULK_BYTES_MAX;
            const size_t count = wire_encode(&frame, bytes, limit);
            if (count == 0)
                fail_msg("%s does not fit", wire_kind_name(KINDS[i]));
            assert_int_equal(wire_encode(&frame, again, count - 1), 0);
            const enum wire_error error = wire_decode(bytes, count, &back);
            if (error)
                fail_msg("%s: %s", wire_kind_name(KINDS[i]), wire_error_text(error));
            assert_int_equal(back.kind, frame.kind);
            assert_int_equal(wire_encode(&back, again, limit), count);
            assert_memory_equal(bytes, again, count);
        }
    }
}

static void every_truncation_and_every_surplus_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof KINDS; i++) {
        for (int large = 0; large < 2; large++) {
            fill(KINDS[i], large);
            const size_t count = wire_encode(&frame, bytes, sizeof bytes - 1);
            const size_t step = count > 20000 ? 997 : 1;
            for (size_t cut = 0; cut < count; cut += step) {
                uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees a read past the end */
                memcpy(exact, bytes, cut);
                assert_int_not_equal(wire_decode(exact, cut, &back), WIRE_OK);
                free(exact);
            }
            bytes[count] = 0;
            assert_int_not_equal(wire_decode(bytes, count + 1, &back), WIRE_OK);
        }
    }
}

/* A frame with the right head and one field of our choice, to say what the encoder would not. */
static enum wire_error decode_bin(uint8_t kind, bool request, size_t count)
{
    struct field_writer writer;
    field_writer_init(&writer, bytes, sizeof bytes);
    field_put_array(&writer, request ? 4 : 3);
    field_put_uint(&writer, kind);
    field_put_uint(&writer, 1);
    if (request)
        field_put_uint(&writer, 1);
    field_put_bin(&writer, data, count);
    assert_false(writer.full);
    return wire_decode(bytes, writer.count, &back);
}

static void a_limit_plus_one_is_refused(void **state)
{
    (void)state;
    assert_int_equal(decode_bin(WIRE_PUSH, false, RECORD_BYTES_MAX), WIRE_OK);
    assert_int_equal(decode_bin(WIRE_PUSH, false, RECORD_BYTES_MAX + 1), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_PUSH, false, RECORD_OVERHEAD_BYTES - 1), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_CACHE_PUBLISH, false, 32 * WIRE_CACHE_KEYS_MAX), WIRE_OK);
    assert_int_equal(decode_bin(WIRE_CACHE_PUBLISH, false, 32 * WIRE_CACHE_KEYS_MAX + 32), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_CACHE_PUBLISH, false, 33), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_CACHE_PUBLISH, false, 0), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_CACHE_GET, true, 32 * WIRE_CACHE_ENTRIES_MAX), WIRE_OK);
    assert_int_equal(decode_bin(WIRE_CACHE_GET, true, 32 * WIRE_CACHE_ENTRIES_MAX + 32), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_ASK, true, WIRE_ASK_BYTES_MAX), WIRE_OK);
    assert_int_equal(decode_bin(WIRE_ASK, true, WIRE_ASK_BYTES_MAX + 1), WIRE_RANGE);
    assert_int_equal(decode_bin(WIRE_ASK, true, 0), WIRE_RANGE);
    fill(WIRE_APPEND, false);
    frame.body.mesh.payload = (struct wire_bytes){data, WIRE_ENTRY_BYTES_MAX + 1};
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_CACHE_CLAIM, true); /* 32 bytes more than the encoder would say */
    const size_t claim = wire_encode(&frame, bytes, sizeof bytes);
    assert_int_equal(bytes[claim - 32 * WIRE_CACHE_KEYS_MAX - 3], 0xc5);
    bytes[claim - 32 * WIRE_CACHE_KEYS_MAX - 1] = 32;
    memset(bytes + claim, 0, 32);
    assert_int_equal(wire_decode(bytes, claim + 32, &back), WIRE_RANGE);
    fill(WIRE_CACHE_GONE, true);
    const size_t gone = wire_encode(&frame, bytes, sizeof bytes);
    bytes[gone - 32 * WIRE_CACHE_KEYS_MAX - 1] = 32;
    memset(bytes + gone, 0, 32);
    assert_int_equal(wire_decode(bytes, gone + 32, &back), WIRE_RANGE);
    const uint8_t leased[] = {0x95, WIRE_CACHE_CLAIMED, 1, 7, 0xc4, 1, WIRE_CACHE_LEASED, 0xc4, 0};
    assert_int_equal(wire_decode(leased, sizeof leased, &back), WIRE_OK);
    const uint8_t found[] = {0x95, WIRE_CACHE_FOUND, 1, 7, 0xc4, 1, WIRE_CACHE_LEASED, 0xc4, 0};
    assert_int_equal(wire_decode(found, sizeof found, &back), WIRE_RANGE);
    const uint8_t odd[] = {0x95, WIRE_CACHE_CLAIMED, 1, 7, 0xc4, 1, WIRE_CACHE_HOLDERS_MAX + 1, 0xc4, 0};
    assert_int_equal(wire_decode(odd, sizeof odd, &back), WIRE_RANGE);
    fill(WIRE_BULK_GET, true);
    frame.body.bulk_get.bytes++;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    frame.body.bulk_get.bytes = 0;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_SPREAD, false);
    frame.body.mesh.message.body.push.hops = 0;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_HAVE, true);
    frame.body.mesh.message.body.words.word[0].kind = MESH_RECORD_ALERT;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    const uint8_t many[] = {0x93, WIRE_PRUNE, 1, 0xdc, 0, MESH_WORDS_MAX + 1};
    assert_int_equal(wire_decode(many, sizeof many, &back), WIRE_RANGE);
    fill(WIRE_ASSIGN, false);
    frame.body.mesh.payload = (struct wire_bytes){data, WIRE_PAYLOAD_BYTES_MAX + 1};
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_GRANT, false);
    frame.body.mesh.message.body.grant.class = MESH_DEVICE_CLASSES;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_RESULT, false);
    frame.body.mesh.message.body.result.shard[0].outcome = MESH_REJECTED + 1;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
    fill(WIRE_HELLO, false);
    frame.body.hello.protocol_min = 2;
    assert_int_equal(wire_decode(bytes, wire_encode(&frame, bytes, sizeof bytes), &back), WIRE_RANGE);
}

/* Before a version is agreed on, old and new must be able to read each other: these bytes are read for ever. */
static void a_hello_is_read_as_in_protocol_1_and_may_have_grown(void **state)
{
    (void)state;
    uint8_t hello[64] = {0x9a,
                         WIRE_HELLO,
                         1,
                         /* protocol_min */ 1,
                         /* protocol_max */ 2,
                         /* session */ 5,
                         /* answer */ 0xc3,
                         /* node */ 0xc4,
                         32};
    memset(hello + 9, 0x11, 32);
    memcpy(hello + 41, (const uint8_t[]){/* incarnation */ 7, /* process */ 9, /* software */ 0xa1, 'x'}, 4);
    const size_t count = 45;
    assert_int_equal(wire_decode(hello, count, &back), WIRE_OK);
    assert_true(back.body.hello.protocol_min == 1 && back.body.hello.protocol_max == 2);
    assert_true(back.body.hello.session == 5 && back.body.hello.answer);
    assert_true(back.body.hello.node.bytes[0] == 0x11 && back.body.hello.node.bytes[31] == 0x11);
    assert_true(back.body.hello.incarnation == 7 && back.body.hello.process == 9);
    assert_string_equal(back.body.hello.software, "x");
    assert_int_equal(wire_encode(&back, again, sizeof again), count);
    assert_memory_equal(again, hello, count);

    for (uint8_t more = 1; more <= 5; more++) { /* with up to 15 items the head is one byte */
        hello[0] = (uint8_t)(0x9a + more);
        hello[count + more - 1] = more;
        assert_int_equal(wire_decode(hello, count + more, &back), WIRE_OK);
        assert_string_equal(back.body.hello.software, "x");
        assert_int_equal(wire_decode(hello, count + more - 1, &back), WIRE_TRUNCATED);
    }
    hello[0] = 0x9b;
    hello[count] = 0xc0; /* nil is no number */
    assert_int_equal(wire_decode(hello, count + 1, &back), WIRE_TYPE);

    uint8_t long_head[80] = {0xdc, 0};
    memcpy(long_head + 3, hello + 1, count - 1);
    long_head[2] = 2 + 8 + WIRE_HELLO_MORE_MAX;
    assert_int_equal(wire_decode(long_head, 3 + count - 1 + WIRE_HELLO_MORE_MAX, &back), WIRE_OK);
    long_head[2]++;
    assert_int_equal(wire_decode(long_head, 3 + count + WIRE_HELLO_MORE_MAX, &back), WIRE_RANGE);
}

static void a_message_began_in_the_version_of_its_frame(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof MESH_KINDS / sizeof MESH_KINDS[0]; i++)
        assert_int_equal(mesh_message_since(MESH_KINDS[i]), wire_kind_since(wire_kind_of(MESH_KINDS[i])));
}

static void what_is_no_frame_is_told_apart(void **state)
{
    (void)state;
    const struct {
        uint8_t bytes[8];
        size_t count;
        enum wire_error error;
    } cases[] = {
        {{0}, 0, WIRE_TRUNCATED},
        {{0xdd, 0xff, 0xff, 0xff, 0xff}, 5, WIRE_RANGE},
        {{0x81, 1, 1}, 3, WIRE_TYPE},
        {{0x93, 3, 1, 0}, 4, WIRE_UNKNOWN_KIND},
        {{0x93, 0xcc, 200, 1, 0}, 5, WIRE_UNKNOWN_KIND},
        {{0x93, WIRE_PING, 2, 0}, 4, WIRE_UNKNOWN_VERSION},
        {{0x92, WIRE_PING, 1}, 3, WIRE_RANGE},
        {{0x94, WIRE_PING, 1, 0, 0}, 5, WIRE_RANGE},
        {{0x93, WIRE_PING, 1, 0xff}, 4, WIRE_TYPE},
        {{0x93, WIRE_PING, 1, 0, 0}, 5, WIRE_TRAILING},
        {{0x93, WIRE_BATCH, 1, 0x90}, 4, WIRE_RANGE},
        {{0x93, WIRE_BATCH, 1, 0x91, 0xc4, 2, 0x92, WIRE_BATCH}, 8, WIRE_TRUNCATED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(wire_decode(cases[i].bytes, cases[i].count, &back), cases[i].error);
}

static void a_batch_in_a_batch_is_refused(void **state)
{
    (void)state;
    struct wire_batch batch;
    const uint8_t ping[] = {0x93, WIRE_PING, 1, 5};
    wire_batch_init(&batch, bytes, 100);
    assert_true(wire_batch_add(&batch, (struct wire_bytes){ping, sizeof ping}));
    assert_int_equal(wire_batch_finish(&batch).count, sizeof ping); /* alone it travels as it is */
    assert_true(wire_batch_add(&batch, (struct wire_bytes){ping, sizeof ping}));
    const struct wire_bytes inner = wire_batch_finish(&batch);
    assert_int_equal(wire_decode(inner.bytes, inner.count, &back), WIRE_OK);
    assert_int_equal(back.body.batch.count, 2);
    memcpy(again, inner.bytes, inner.count);
    wire_batch_init(&batch, bytes, 100);
    assert_true(wire_batch_add(&batch, (struct wire_bytes){again, inner.count}));
    assert_true(wire_batch_add(&batch, (struct wire_bytes){again, inner.count}));
    assert_false(wire_batch_add(&batch, (struct wire_bytes){data, 100}));
    const struct wire_bytes outer = wire_batch_finish(&batch);
    assert_int_equal(wire_decode(outer.bytes, outer.count, &back), WIRE_RANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_frame_comes_back_as_it_went),
        cmocka_unit_test(every_truncation_and_every_surplus_is_refused),
        cmocka_unit_test(a_limit_plus_one_is_refused),
        cmocka_unit_test(a_hello_is_read_as_in_protocol_1_and_may_have_grown),
        cmocka_unit_test(a_message_began_in_the_version_of_its_frame),
        cmocka_unit_test(what_is_no_frame_is_told_apart),
        cmocka_unit_test(a_batch_in_a_batch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
