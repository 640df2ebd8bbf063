/*
 * One core between peers that the test plays itself: it feeds events and reads what comes out. After every
 * step mesh_check() runs and each dropped handle must have been live. Peers stay up because the fixture pings
 * for them.
 */
#ifndef TESTS_UNIT_MESH_FIXTURE_H
#define TESTS_UNIT_MESH_FIXTURE_H

#include "mesh/mesh.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURE_PEERS 127 /* one byte, repeated, makes the id of each; ourselves are 0x80 */
#define FIXTURE_KEPT 8192
#define FIXTURE_HANDLES 65536
#define FIXTURE_WALL_MS 1700000000000ll

struct fixture {
    struct mesh *mesh;
    struct mesh_out *out;
    struct mesh_id self;
    struct mesh_id peer[FIXTURE_PEERS];
    uint64_t incarnation[FIXTURE_PEERS];
    uint64_t version[FIXTURE_PEERS];
    bool silent[FIXTURE_PEERS];
    uint32_t peers;
    int64_t now_ms;
    int64_t wake_at_ms;
    bool gossip; /* keep what is said about membership too */
    /* What came out and was not taken yet: messages of work and of the trees, and effects and saves about work. */
    struct mesh_send *send;
    uint32_t send_count;
    struct mesh_effect *effect;
    uint32_t effect_count;
    struct mesh_save *save;
    uint32_t save_count;
    uint64_t handles;
    bool live[FIXTURE_HANDLES];
    uint32_t live_count;
};

static inline uint64_t fixture_handle(struct fixture *f)
{
    assert_true(f->handles + 1 < FIXTURE_HANDLES);
    f->live[++f->handles] = true;
    f->live_count++;
    return f->handles;
}

static inline void fixture_step(struct fixture *f, struct mesh_event *event);

static inline void fixture_sign(struct fixture *f, const struct mesh_record *record)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = f->self;
    event.body.record.record = *record;
    event.body.record.record.handle = fixture_handle(f);
    fixture_step(f, &event);
}

static inline void fixture_keep(struct fixture *f, const struct mesh_effect *effect, struct mesh_record *sign,
                                uint32_t *signs)
{
    switch (effect->kind) {
    case MESH_DROP:
        assert_true(effect->body.handle > 0 && effect->body.handle <= f->handles &&
                    f->live[effect->body.handle]);
        f->live[effect->body.handle] = false;
        f->live_count--;
        break;
    case MESH_SIGN:
        sign[(*signs)++] = effect->body.record;
        break;
    case MESH_DECISION: /* tells of a job and why */
        assert_memory_not_equal(&effect->body.decision.job, &(struct mesh_id){0},
                                sizeof effect->body.decision.job);
        assert_in_range(effect->body.decision.why, MESH_WHY_RESERVED, 64);
        assert_true(f->effect_count < FIXTURE_KEPT);
        f->effect[f->effect_count++] = *effect;
        break;
    case MESH_LOOKUP:
    case MESH_RUN:
    case MESH_STOP:
    case MESH_JOB:
    case MESH_DRAINED:
    case MESH_QUARANTINED:
    case MESH_DISPUTED:
    case MESH_TAKE_OVER:
    case MESH_SEND_LOG:
    case MESH_JOURNAL_OVER:
    case MESH_JOURNAL_ASKED:
        assert_true(f->effect_count < FIXTURE_KEPT);
        f->effect[f->effect_count++] = *effect;
        break;
    default:
        break;
    }
}

static inline void fixture_step(struct fixture *f, struct mesh_event *event)
{
    event->now_ms = f->now_ms;
    event->wall_ms = FIXTURE_WALL_MS + f->now_ms;
    mesh_step(f->mesh, event, f->out);
    mesh_check(f->mesh);
    f->wake_at_ms = f->out->wake_at_ms;
    for (uint32_t i = 0; i < f->out->save_count; i++) {
        const enum mesh_save_kind kind = f->out->save[i].kind;
        if (kind != MESH_SAVE_JOB && kind != MESH_SAVE_COMMIT && kind != MESH_SAVE_JOB_STATE &&
            kind != MESH_SAVE_QUARANTINE && kind != MESH_SAVE_DISPUTE && kind != MESH_SAVE_ENTRY &&
            kind != MESH_SAVE_PROMISE)
            continue;
        assert_true(f->save_count < 512);
        f->save[f->save_count++] = f->out->save[i];
    }
    for (uint32_t i = 0; i < f->out->send_count; i++) {
        if (f->out->send[i].message.kind < MESH_RESERVE && !f->gossip)
            continue;
        assert_true(f->send_count < FIXTURE_KEPT);
        f->send[f->send_count++] = f->out->send[i];
    }
    struct mesh_record sign[8];
    uint32_t signs = 0;
    for (uint32_t i = 0; i < f->out->effect_count; i++)
        fixture_keep(f, &f->out->effect[i], sign, &signs);
    for (uint32_t i = 0; i < signs; i++)
        fixture_sign(f, &sign[i]);
}

static inline void fixture_tick(struct fixture *f)
{
    fixture_step(f, &(struct mesh_event){.kind = MESH_TICK});
}

static inline void fixture_message(struct fixture *f, uint32_t from, const struct mesh_message *message)
{
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = from == UINT32_MAX ? f->self : f->peer[from];
    event.body.received.message = message;
    fixture_step(f, &event);
}

/* Lets time pass; peers that are not silent say something every second. */
static inline void fixture_run(struct fixture *f, int64_t for_ms)
{
    const int64_t until_ms = f->now_ms + for_ms;
    for (uint32_t steps = 0; f->now_ms < until_ms; steps++) {
        assert_true(steps < 1000000);
        const int64_t second_ms = (f->now_ms / 1000 + 1) * 1000;
        int64_t next_ms = second_ms < until_ms ? second_ms : until_ms;
        if (f->wake_at_ms < next_ms)
            next_ms = f->wake_at_ms > f->now_ms ? f->wake_at_ms : f->now_ms;
        f->now_ms = next_ms;
        for (uint32_t i = 0; i < f->peers && next_ms == second_ms; i++) {
            if (!f->silent[i])
                fixture_message(f, i, &(struct mesh_message){.kind = MESH_PING});
        }
        const bool early = f->now_ms < f->wake_at_ms;
        fixture_tick(f);
        /* It has said when it wants to be called: nothing is due before. */
        if (early && f->out->save_count + f->out->send_count + f->out->effect_count > 0)
            fail_msg("something was due at %lld ms, to be called at %lld", (long long)f->now_ms,
                     (long long)f->wake_at_ms);
    }
}

static inline void fixture_record(struct fixture *f, uint32_t peer, struct mesh_record record)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    record.origin = f->peer[peer];
    record.incarnation = f->incarnation[peer];
    record.version = ++f->version[peer];
    record.handle = fixture_handle(f);
    event.body.record.from = f->peer[peer];
    event.body.record.record = record;
    fixture_step(f, &event);
}

/* The peer says what it can run: CPU slots, of them free, and bundles that wait. */
static inline void fixture_capacity(struct fixture *f, uint32_t peer, uint16_t slots, uint16_t vacant,
                                    uint16_t waiting)
{
    struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.class[0] =
        (struct mesh_class_capacity){.slots = slots, .free = vacant, .waiting = waiting};
    fixture_record(f, peer, record);
}

static inline void fixture_member(struct fixture *f, uint32_t peer, uint64_t session, uint64_t site)
{
    struct mesh_record record = {.kind = MESH_RECORD_MEMBER};
    record.body.member.session = session;
    record.body.member.site = site;
    fixture_record(f, peer, record);
}

static inline void fixture_devices(struct fixture *f, uint16_t cpu, uint16_t cuda)
{
    struct mesh_event event = {.kind = MESH_DEVICES};
    event.body.devices.class[0].slots = cpu;
    event.body.devices.class[1].slots = cuda;
    fixture_step(f, &event);
}

/* `kernel`: the only one that runs here, or NULL for any. */
/* The device classes on which users' kernels run, of the next fixture that is opened with a kernel. */
static uint16_t fixture_user_classes;

static inline struct fixture *fixture_open_limits(uint32_t peers, const struct mesh_limits *limits,
                                                  const uint64_t *kernel)
{
    struct fixture *const f = calloc(1, sizeof *f);
    f->out = calloc(1, sizeof *f->out);
    f->send = calloc(FIXTURE_KEPT, sizeof *f->send);
    f->effect = calloc(FIXTURE_KEPT, sizeof *f->effect);
    f->save = calloc(512, sizeof *f->save);
    memset(f->self.bytes, 0x80, sizeof f->self.bytes);
    struct mesh_config config = {.limits = *limits,
                                 .self = f->self,
                                 .site = 1,
                                 .region = 1,
                                 .incarnation = 1,
                                 .session = 0xabcdef,
                                 .seed = {1, 2},
                                 .now_ms = 1000,
                                 .wall_ms = FIXTURE_WALL_MS,
                                 .kernels = kernel,
                                 .kernel_count = kernel != NULL,
                                 .user_classes = fixture_user_classes};
    f->now_ms = 1000;
    f->mesh = mesh_init(calloc(1, mesh_size(limits)), &config);
    fixture_tick(f);
    for (uint32_t i = 0; i < peers; i++) {
        memset(f->peer[i].bytes, (int)i + 1, sizeof f->peer[i].bytes);
        f->incarnation[i] = 1;
        f->peers++;
        fixture_member(f, i, 100 + i, 2 + i);
    }
    return f;
}

static inline struct fixture *fixture_open_kernel(uint32_t peers, const uint64_t *kernel)
{
    const struct mesh_limits limits = {
        .members = 16, .jobs = 16, .shards = 8192, .bundles = 64, .attempts = 64, .demands = 8};
    return fixture_open_limits(peers, &limits, kernel);
}

static inline struct fixture *fixture_open(uint32_t peers)
{
    return fixture_open_kernel(peers, NULL);
}

static inline void fixture_close(struct fixture *f)
{
    free(f->mesh);
    free(f->out);
    free(f->send);
    free(f->effect);
    free(f->save);
    free(f);
}

/* Takes the next message of the kind that went to a peer; returns false, and a zeroed one, if there was none.
 */
static inline bool fixture_sent(struct fixture *f, uint32_t peer, enum mesh_message_kind kind,
                                struct mesh_message *message)
{
    const struct mesh_id *const to = peer == UINT32_MAX ? &f->self : &f->peer[peer];
    for (uint32_t i = 0; i < f->send_count; i++) {
        if (f->send[i].message.kind != kind || memcmp(&f->send[i].to, to, sizeof *to))
            continue;
        *message = f->send[i].message;
        memmove(&f->send[i], &f->send[i + 1], (--f->send_count - i) * sizeof f->send[0]);
        return true;
    }
    memset(message, 0, sizeof *message);
    return false;
}

static inline bool fixture_did(struct fixture *f, enum mesh_effect_kind kind, struct mesh_effect *effect)
{
    for (uint32_t i = 0; i < f->effect_count; i++) {
        if (f->effect[i].kind != kind)
            continue;
        *effect = f->effect[i];
        memmove(&f->effect[i], &f->effect[i + 1], (--f->effect_count - i) * sizeof f->effect[0]);
        return true;
    }
    memset(effect, 0, sizeof *effect);
    return false;
}

static inline bool fixture_saved(struct fixture *f, enum mesh_save_kind kind, struct mesh_save *save)
{
    for (uint32_t i = 0; i < f->save_count; i++) {
        if (f->save[i].kind != kind)
            continue;
        *save = f->save[i];
        memmove(&f->save[i], &f->save[i + 1], (--f->save_count - i) * sizeof f->save[0]);
        return true;
    }
    memset(save, 0, sizeof *save);
    return false;
}

static inline void fixture_clear(struct fixture *f)
{
    f->send_count = f->effect_count = f->save_count = 0;
}

static inline struct mesh_id fixture_job(uint8_t number)
{
    struct mesh_id id = {.bytes = {0x4a, number}};
    return id;
}

#endif
