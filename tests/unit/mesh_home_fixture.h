/* A home whose executors the test plays: what it is told, and what it says. */
#ifndef TESTS_UNIT_MESH_HOME_FIXTURE_H
#define TESTS_UNIT_MESH_HOME_FIXTURE_H

#include "mesh_fixture.h"

static inline struct mesh_job_spec spec_of(uint8_t job, uint32_t shards)
{
    return (struct mesh_job_spec){.id = fixture_job(job),
                                  .epoch = 1,
                                  .tenant = 1,
                                  .kernel = 1,
                                  .shard_count = shards,
                                  .bundle_shards_max = 256,
                                  .classes = 1};
}

static inline enum mesh_refusal submit_spec(struct fixture *f, const struct mesh_job_spec *spec)
{
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = *spec;
    fixture_step(f, &event);
    struct mesh_effect effect;
    do /* others may have ended before */
        assert_true(fixture_did(f, MESH_JOB, &effect));
    while (memcmp(&effect.body.job.id, &spec->id, sizeof spec->id) != 0);
    return effect.body.job.refusal;
}

static inline enum mesh_refusal submit(struct fixture *f, uint8_t job, uint32_t shards)
{
    const struct mesh_job_spec spec = spec_of(job, shards);
    return submit_spec(f, &spec);
}

static inline void about_job(struct fixture *f, enum mesh_event_kind kind, uint8_t job)
{
    struct mesh_event event = {.kind = kind};
    event.body.job.id = fixture_job(job);
    fixture_step(f, &event);
}

static inline void grant(struct fixture *f, uint32_t from, uint8_t job, uint64_t token, uint16_t places)
{
    struct mesh_message message = {.kind = MESH_GRANT};
    message.body.grant.job = fixture_job(job);
    message.body.grant.token = token;
    message.body.grant.places = places;
    message.body.grant.valid_ms = 2000;
    fixture_message(f, from, &message);
}

/* Answers an ASSIGN with one outcome for all its shards. */
static inline void result_after(struct fixture *f, uint32_t from, const struct mesh_message *assign,
                                uint32_t outcome, uint64_t device_us)
{
    struct mesh_message message = {.kind = MESH_RESULT};
    message.body.result.name = assign->body.assign.name;
    message.body.result.job = assign->body.assign.job;
    message.body.result.epoch = assign->body.assign.epoch;
    message.body.result.handle = fixture_handle(f);
    message.body.result.device_us = device_us;
    message.body.result.count = assign->body.assign.count;
    for (uint32_t i = 0; i < assign->body.assign.count; i++) {
        message.body.result.shard[i].shard = assign->body.assign.shard[i];
        message.body.result.shard[i].outcome = outcome;
    }
    fixture_message(f, from, &message);
}

static inline void result(struct fixture *f, uint32_t from, const struct mesh_message *assign,
                          uint32_t outcome)
{
    result_after(f, from, assign, outcome, 10);
}

static inline bool sent(struct fixture *f, uint32_t to, enum mesh_message_kind kind)
{
    struct mesh_message message;
    return fixture_sent(f, to, kind, &message);
}

static inline struct mesh_message assigned(struct fixture *f, uint32_t to)
{
    struct mesh_message message;
    assert_true(fixture_sent(f, to, MESH_ASSIGN, &message));
    return message;
}

static inline uint32_t released(struct fixture *f, uint32_t to)
{
    struct mesh_message message;
    return fixture_sent(f, to, MESH_RELEASE, &message) ? message.body.release.places : 0;
}

static inline uint32_t saved_commits(struct fixture *f)
{
    struct mesh_save save;
    return fixture_saved(f, MESH_SAVE_COMMIT, &save) ? save.body.commit.count : 0;
}

static inline struct mesh_job_view view(const struct fixture *f, uint8_t job)
{
    struct mesh_job_view view;
    const struct mesh_id id = fixture_job(job);
    assert_true(mesh_job_find(f->mesh, &id, &view));
    return view;
}

static inline bool decided(struct fixture *f, enum mesh_reason why)
{
    struct mesh_effect effect;
    while (fixture_did(f, MESH_DECISION, &effect)) {
        if (effect.body.decision.why == why)
            return true;
    }
    return false;
}

/* A home with peers of two free slots each. */
static inline struct fixture *open_home(uint32_t peers)
{
    struct fixture *const f = fixture_open(peers);
    for (uint32_t i = 0; i < peers; i++)
        fixture_capacity(f, i, 2, 2, 0);
    fixture_clear(f);
    return f;
}

/* The member has a session of that version with us. */
static inline void speaks(struct fixture *f, uint32_t peer, uint32_t protocol)
{
    struct mesh_event event = {.kind = MESH_LINK_UP};
    event.body.link.peer = f->peer[peer];
    event.body.link.protocol = protocol;
    fixture_step(f, &event);
}

#endif
