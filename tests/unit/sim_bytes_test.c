/* What the simulator says a message costs is what node/wire.c writes. */
#include "node/record_body.h"
#include "node/sim/bytes.h"
#include "node/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state = 20261124;

static uint64_t draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Of every length that msgpack writes numbers in. */
static uint64_t some_number(void)
{
    static const unsigned shifts[] = {63, 58, 50, 40, 20, 0};
    return draw() >> shifts[draw() % 6];
}

static uint8_t payload_bytes[1024];

static void fill(struct mesh_message *m, enum mesh_message_kind kind)
{
    uint8_t *const bytes = (uint8_t *)m;
    for (size_t i = 0; i + 8 <= sizeof *m; i += 8) {
        const uint64_t word = some_number();
        memcpy(bytes + i, &word, sizeof word);
    }
    m->kind = kind;
    switch (kind) {
    case MESH_PUSH:
    case MESH_SPREAD:
        memset(&m->body.push, 0, sizeof m->body.push);
        m->body.push.record.kind = MESH_RECORD_CAPACITY;
        m->body.push.record.body.capacity.price_micro = (uint32_t)some_number();
        m->body.push.hops = (uint8_t)(1 + draw() % 255);
        break;
    case MESH_ENTRIES:
    case MESH_WANT:
        m->body.entries.count = (uint32_t)(draw() % (MESH_ENTRIES_MAX + 1));
        for (uint32_t i = 0; i < MESH_ENTRIES_MAX; i++)
            m->body.entries.entry[i].kind = MESH_RECORD_MEMBER;
        break;
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        m->body.words.count = (uint32_t)(draw() % (MESH_WORDS_MAX + 1));
        for (uint32_t i = 0; i < MESH_WORDS_MAX; i++)
            m->body.words.word[i].kind = MESH_RECORD_MEMBER;
        break;
    default:
        break;
    }
}

static void a_frame_costs_what_the_wire_writes(void **state)
{
    (void)state;
    static struct wire_frame frame;
    static uint8_t out[2 * WIRE_CONTROL_BYTES_MAX];
    static struct mesh_message message;
    static const enum mesh_message_kind kinds[] = {MESH_PING,    MESH_PONG, MESH_PUSH,   MESH_SUMMARY,
                                                   MESH_ENTRIES, MESH_WANT, MESH_SPREAD, MESH_HAVE,
                                                   MESH_GRAFT,   MESH_PRUNE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const enum mesh_message_kind kind = kinds[i];
        for (uint32_t round = 0; round < 200; round++) {
            fill(&message, kind);
            struct wire_bytes payload = {0};
            if (kind == MESH_PUSH || kind == MESH_SPREAD)
                payload =
                    (struct wire_bytes){payload_bytes, SIM_RECORD_OVERHEAD_BYTES +
                                                           sim_record_body_bytes(&message.body.push.record)};
            wire_message(&frame, &message, payload);
            const size_t written = wire_encode(&frame, out, sizeof out);
            if (written != sim_frame_bytes(&message))
                fail_msg("%s: %zu bytes are written, %zu were computed", mesh_message_name(message.kind),
                         written, sim_frame_bytes(&message));
        }
    }
}

static void a_record_has_the_bodys_size_and_the_envelopes(void **state)
{
    (void)state;
    uint8_t out[CAPACITY_BODY_BYTES_MAX];
    assert_int_equal(RECORD_OVERHEAD_BYTES, SIM_RECORD_OVERHEAD_BYTES);
    for (uint32_t round = 0; round < 1000; round++) {
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        struct mesh_capacity *const offer = &record.body.capacity;
        for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
            offer->class[i].slots = (uint16_t)some_number();
            offer->class[i].free = offer->class[i].slots;
            offer->class[i].waiting = (uint16_t)some_number();
            offer->site.slots[i] = (uint32_t)some_number();
            offer->site.free[i] = offer->site.slots[i];
        }
        offer->site.members = round % 2 ? (uint32_t)some_number() : 0;
        offer->price_micro = (uint32_t)some_number();
        offer->available_until_ms = (int64_t)(some_number() >> 1);
        assert_int_equal(capacity_body_encode(offer, out, sizeof out), sim_record_body_bytes(&record));
        record = (struct mesh_record){.kind = MESH_RECORD_ALERT};
        record.body.alert.subject_incarnation = some_number();
        const struct alert_body alert = {.subject_incarnation = record.body.alert.subject_incarnation};
        assert_int_equal(alert_body_encode(&alert, out, sizeof out), sim_record_body_bytes(&record));
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        random_state = strtoull(argv[1], NULL, 10) | 1;
    printf("seed %llu\n", (unsigned long long)random_state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_costs_what_the_wire_writes),
        cmocka_unit_test(a_record_has_the_bodys_size_and_the_envelopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
