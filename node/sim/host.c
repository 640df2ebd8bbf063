/*
 * A simulated host: what node/ is to the core.
 *
 * A host is born with HAPPEN_START, reads its disk back into a fresh core, and lives until it crashes; then
 * its core, its handles, its attempts and its unsynced batches are gone, and only the disk stays.
 */
#include "node/sim/world.h"

#include <stdio.h>

/* Steps of one host at one instant, its messages to itself included. More is a loop that would burn a core
 * for ever. */
#define STEPS_AT_ONCE_MAX 20000
/* As node/host.c does. */
#define STALLED_RETRY_US SECOND_US

int64_t sim_host_local_us(const struct world *world, const struct host *host)
{
    const int64_t passed = world->now_us - host->base_us;
    return host->base_local_us + passed + passed * host->drift_ppm / 1000000;
}

static int64_t host_global_us(const struct world *world, const struct host *host, int64_t local_us)
{
    const int64_t left = local_us - sim_host_local_us(world, host);
    if (left <= 0) {
        return world->now_us;
    }
    return world->now_us + left * 1000000 / (1000000 + host->drift_ppm) + 1;
}

static int64_t host_wall_ms(const struct world *world, struct host *host)
{
    const int64_t wall_ms = INT64_C(1700000000000) + world->now_us / 1000 + host->wall_offset_ms;
    if (wall_ms > host->wall_told_ms) {
        host->wall_told_ms = wall_ms;
    }
    return host->wall_told_ms;
}

/* ---- What a step puts out. */

static bool record_equal(const struct mesh_record *a, const struct mesh_record *b)
{
    if (a->kind != b->kind || memcmp(&a->origin, &b->origin, sizeof a->origin) != 0 ||
        a->incarnation != b->incarnation || a->version != b->version) {
        return false;
    }
    switch (a->kind) {
    case MESH_RECORD_MEMBER:
        return a->body.member.session == b->body.member.session &&
               a->body.member.leaving == b->body.member.leaving &&
               a->body.member.interior == b->body.member.interior &&
               a->body.member.site == b->body.member.site && a->body.member.region == b->body.member.region;
    case MESH_RECORD_CAPACITY:
        for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
            if (a->body.capacity.class[i].slots != b->body.capacity.class[i].slots ||
                a->body.capacity.class[i].free != b->body.capacity.class[i].free) {
                return false;
            }
        }
        return a->body.capacity.draining == b->body.capacity.draining &&
               memcmp(&a->body.capacity.site, &b->body.capacity.site, sizeof a->body.capacity.site) == 0;
    case MESH_RECORD_ALERT:
        return memcmp(&a->body.alert.subject, &b->body.alert.subject, sizeof a->origin) == 0 &&
               a->body.alert.subject_incarnation == b->body.alert.subject_incarnation &&
               a->body.alert.accuses == b->body.alert.accuses;
    case MESH_RECORD_REVOCATION:
        return memcmp(&a->body.revocation.subject, &b->body.revocation.subject, sizeof a->origin) == 0;
    }
    return false;
}

static struct payload *see_or_fail(struct world *world, struct host *host, uint64_t handle, const char *where)
{
    struct payload *const payload = sim_handle_see(&host->handles, handle);
    if (payload == NULL) {
        sim_check_fail(world, host, SIM_HANDLES_RETURN, "%s names a handle that isn't live", where);
        return NULL;
    }
    return sim_payload_keep(payload);
}

static bool carries_record(const struct mesh_message *message)
{
    return message->kind == MESH_PUSH || message->kind == MESH_SPREAD;
}

/* An entry that is sent was written in the same step: its bytes are those of the save. */
static struct payload *entry_payload(struct world *world, struct host *host, const struct batch *batch,
                                     const struct mesh_message *message)
{
    for (uint32_t i = 0; batch != NULL && i < batch->save_count; i++) {
        const struct mesh_save *const save = &batch->save[i];
        const struct mesh_place *const place = sim_journal_place(save);
        if (place != NULL && place->index == message->body.append.index &&
            memcmp(sim_journal_job(save), &message->body.append.job, sizeof(struct mesh_id)) == 0) {
            struct payload *const bytes = batch->save_payload[i];
            return bytes != NULL ? sim_payload_keep(bytes) : NULL;
        }
    }
    sim_check_fail(world, host, SIM_ANSWERS_FIT, "entry %u is sent and not saved",
                   message->body.append.index);
    return NULL;
}

/* The bytes that go with a message; the inputs of a bundle are the host's own, made from the job's
 * description. `batch` is that of the same step, if it has saves. */
static struct payload *message_payload(struct world *world, struct host *host, const struct batch *batch,
                                       const struct mesh_message *message)
{
    switch (message->kind) {
    case MESH_PUSH:
    case MESH_SPREAD: {
        struct payload *const payload = see_or_fail(world, host, message->body.push.record.handle, "a PUSH");
        if (payload != NULL && (payload->kind != PAYLOAD_RECORD ||
                                !record_equal(&payload->record, &message->body.push.record))) {
            sim_check_fail(world, host, SIM_ORIGIN_ADVANCES,
                           "a relayed record differs from what its origin signed");
        }
        return payload;
    }
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT: {
        const uint32_t job = sim_world_job(world, &message->body.assign.job);
        struct payload *const payload = sim_payload_new(PAYLOAD_INPUT, job, message->body.assign.count);
        for (uint32_t i = 0; i < payload->count; i++) {
            payload->value[i] = message->body.assign.shard[i];
        }
        payload->value[0] += sim_world_plant(world, SIM_PLANT_WILD_ATTEMPT);
        return payload;
    }
    case MESH_RESULT:
        if (message->body.result.handle == 0) {
            return NULL;
        }
        return see_or_fail(world, host, message->body.result.handle, "a RESULT");
    case MESH_APPEND:
        return entry_payload(world, host, batch, message);
    default:
        return NULL;
    }
}

struct flight *sim_host_flight(struct world *world, struct host *host, const struct mesh_send *send,
                               struct payload *payload)
{
    const uint32_t to = sim_world_identity(world, &send->to);
    if (to == SIM_NONE) {
        sim_payload_drop(payload);
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a message to somebody who never was");
        return NULL;
    }
    struct flight *const flight = sim_flight_new(&send->message);
    flight->from = host->index;
    flight->from_life = host->life;
    flight->to = to;
    flight->early = send->early;
    flight->payload = payload;
    if (carries_record(&send->message) && flight->payload != NULL &&
        flight->payload->record.kind == MESH_RECORD_MEMBER &&
        sim_world_plant(world, SIM_PLANT_FORGED_RECORD)) {
        flight->message->body.push.record.incarnation++;
    }
    return flight;
}

static struct flight *flight_new(struct world *world, struct host *host, const struct batch *batch,
                                 const struct mesh_send *send)
{
    return sim_host_flight(world, host, send, message_payload(world, host, batch, &send->message));
}

/* Which entry of which job an APPEND or APPENDED is about. */
static uint64_t entry_detail(const struct world *world, const struct mesh_message *message)
{
    const bool append = message->kind == MESH_APPEND;
    const uint32_t job =
        sim_world_job(world, append ? &message->body.append.job : &message->body.appended.job);
    const uint32_t index = append ? message->body.append.index : message->body.appended.last;
    return (uint64_t)job << 32 | (uint64_t)(!append && message->body.appended.held) << 31 | index;
}

/* Which record a PUSH carries, in one word for the trace: kind, origin, incarnation, version. */
static uint64_t push_detail(const struct world *world, const struct mesh_message *message)
{
    if (message->kind == MESH_APPEND || message->kind == MESH_APPENDED) {
        return entry_detail(world, message);
    }
    if (!carries_record(message)) {
        return 0;
    }
    const struct mesh_record *const record = &message->body.push.record;
    return (uint64_t)record->kind << 56 |
           (uint64_t)(sim_world_identity(world, &record->origin) & 0xffff) << 40 |
           (record->incarnation & 0xffff) << 24 | (record->version & 0xffffff);
}

/* What the two agree on, as node/transport.c works it out from what both say in HELLO. */
static uint32_t agreed_protocol(const struct world *world, const struct host *host, uint32_t identity)
{
    const uint32_t theirs = world->host[identity].protocol;
    return theirs < host->protocol ? theirs : host->protocol;
}

/* The transport, through which what a node says to itself does not go, sends no kind over a link whose version lacks it. */
static bool is_understood(const struct world *world, const struct host *host, uint32_t to,
                          enum mesh_message_kind kind)
{
    return to == host->index || mesh_message_since(kind) <= MESH_PROTOCOL_MIN ||
           mesh_message_since(kind) <= agreed_protocol(world, host, to);
}

/* What goes along the trees the core itself must not send to who lacks it: it knows its links. */
static bool is_held_back(struct world *world, struct host *host, const struct flight *flight)
{
    const enum mesh_message_kind kind = flight->message->kind;
    if (is_understood(world, host, flight->to, kind)) {
        return false;
    }
    if (kind == MESH_SPREAD || kind == MESH_HAVE || kind == MESH_GRAFT || kind == MESH_PRUNE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a %s to %s, whose protocol has none",
                       mesh_message_name(kind), world->host[flight->to].name);
    }
    return true;
}

/* To a node, and to its clone if it has one; a clone's own messages to its id stay with itself. */
static void flight_release(struct world *world, struct host *host, struct flight *flight)
{
    struct mesh_message *const message = flight->message;
    if (message->kind == MESH_PING) {
        message->body.ping.stamp_us = (uint64_t)sim_host_local_us(world, host);
    }
    if (flight->to == host->identity) {
        flight->to = host->index;
    }
    sim_trace(world, host, TRACE_SENT, (uint32_t)message->kind, flight->to, flight->bytes,
              push_detail(world, message));
    sim_truth_sent(world, host, flight);
    if (is_held_back(world, host, flight)) {
        sim_flight_free(flight);
        return;
    }
    const bool asks = message->kind == MESH_RESERVE || message->kind == MESH_WISH;
    if (sim_drill_drops(world, flight) ||
        (asks && world->healed && sim_world_plant(world, SIM_PLANT_DEAF_EXECUTOR))) {
        sim_flight_free(flight);
        return;
    }
    for (uint32_t i = 0; world->doubles != 0 && i < world->host_count; i++) {
        if (i == flight->to || flight->to == host->index || world->host[i].identity != flight->to ||
            !is_understood(world, host, i, message->kind)) {
            continue; /* a clone's program may be an older one, and its link is its own */
        }
        struct flight *const copy = sim_flight_copy(flight);
        copy->to = i;
        sim_network_send(world, copy);
    }
    if (world->story != NULL) {
        sim_story_message(world, host->index, flight->to, message->kind);
    }
    if (world->watch != NULL && world->watch->sent != NULL) {
        world->watch->sent(world->watch->context, world, flight);
    }
    sim_network_send(world, flight);
}

bool sim_host_let_go(struct world *world, struct host *host, struct flight *flight)
{
    const uint32_t boundary = SIM_BOUNDARY_SEND + (uint32_t)flight->message->kind;
    flight_release(world, host, flight);
    return !sim_faults_dies(world, host, boundary);
}

static void effect_sign(struct world *world, struct host *host, const struct mesh_record *record)
{
    sim_check_signed(world, host, record);
    struct payload *const payload = sim_payload_of_record(record);
    if (record->kind == MESH_RECORD_CAPACITY && host->lies_of_slots != 0 &&
        record->body.capacity.class[0].slots != 0) {
        payload->record.body.capacity.class[0].slots = host->lies_of_slots;
        payload->record.body.capacity.class[0].free = host->lies_of_slots;
    }
    if (record->kind == MESH_RECORD_MEMBER) {
        sim_payload_drop(host->own_record);
        host->own_record = sim_payload_keep(payload);
        host->interior = record->body.member.interior;
    } else if (record->kind == MESH_RECORD_CAPACITY) {
        sim_payload_drop(host->own_capacity);
        host->own_capacity = sim_payload_keep(payload);
    }
    struct event event =
        sim_world_event(world, sim_between(&world->random, 0, 300), HAPPEN_SIGNED, host->index);
    event.item = payload;
    sim_world_push(world, event);
}

static void effect_admit(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t peer = sim_world_identity(world, &effect->body.admit.id);
    if (peer != SIM_NONE && !sim_host_has_guest(host, &effect->body.admit.id) &&
        !sim_disk_has_record(world, host, MESH_RECORD_MEMBER, &effect->body.admit.id)) {
        sim_check_fail(world, host, SIM_RECORDS_KEPT, "somebody is admitted whose record isn't on the disk");
    }
    if (peer == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "somebody who never was is admitted");
        return;
    }
    struct known_member *const member = sim_known_meet(&host->known, peer);
    if (member->admission == ADMISSION_NONE) {
        member->admission = ADMISSION_ADMITTED;
    }
}

static void effect_bar(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t peer = sim_world_identity(world, &effect->body.peer);
    if (peer == SIM_NONE) {
        return;
    }
    if (!sim_disk_has_record(world, host, MESH_RECORD_REVOCATION, &effect->body.peer)) {
        sim_check_fail(world, host, SIM_RECORDS_KEPT, "%s is barred and its revocation isn't on the disk",
                       world->host[peer].name);
    }
    sim_known_meet(&host->known, peer)->admission = ADMISSION_BARRED;
    sim_network_bar(world, host, peer);
}

/* What is told of a job of a single copy is what its home's disk says. False if it isn't there at all. */
static bool check_only_copy(struct world *world, struct host *host, uint32_t number,
                            const struct disk_job *saved, enum mesh_job_state told)
{
    if (saved == NULL) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE,
                       "job %u was acknowledged and isn't on the disk of its home", number);
        return false;
    }
    if (told != MESH_JOB_RUNNING && saved->state != told) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE, "job %u was told to be %s; its disk says %s",
                       number, sim_trace_job_state(told), sim_trace_job_state(saved->state));
    }
    if (told == MESH_JOB_DONE && saved->committed_count != world->job[number].spec.shard_count) {
        sim_check_fail(world, host, SIM_SHARDS_ADD_UP, "job %u is done with %u of %u shards committed",
                       number, saved->committed_count, world->job[number].spec.shard_count);
    }
    return true;
}

static void effect_job(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t number = sim_world_job(world, &effect->body.job.id);
    if (number == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "word of a job that nobody submitted");
        return;
    }
    struct sim_job *const job = &world->job[number];
    struct sim_counters *const count = &world->result->world;
    const struct disk_job *const saved = sim_disk_find(host, number);
    if (effect->body.job.refusal != MESH_ACCEPTED && saved != NULL && saved->log != NULL) {
        job->restore_refused = true;
        count->takeovers_refused++;
        return;
    }
    if (effect->body.job.refusal != MESH_ACCEPTED) {
        job->refused = true;
        count->jobs_refused++;
        return;
    }
    if (effect->body.job.state == MESH_JOB_MOVED) {
        return;
    }
    if (job->truth == NULL && !check_only_copy(world, host, number, saved, effect->body.job.state)) {
        return;
    }
    if (effect->body.job.state == MESH_JOB_RUNNING) {
        sim_truth_told(world, host, number, MESH_JOB_RUNNING);
        count->jobs_accepted += job->acknowledged ? 0 : 1;
        job->acknowledged = true;
        job->told = job->finished ? job->told : MESH_JOB_RUNNING;
        job->home = host->index;
        return;
    }
    const uint32_t failed = job->truth == NULL ? saved->failed_shard : sim_truth_failed_shard(job->truth);
    if (effect->body.job.state == MESH_JOB_CANCELLED && !job->cancel_asked) {
        sim_check_fail(world, host, SIM_JOBS_FINISH, "job %u was cancelled and nobody asked for that",
                       number);
    }
    if (effect->body.job.state == MESH_JOB_FAILED && !job->forgone && failed != job->rejects &&
        (failed >= job->spec.shard_count || job->crashes[failed] < MESH_ATTEMPTS_PER_SHARD)) {
        sim_check_fail(world, host, SIM_JOBS_FINISH,
                       "job %u failed for shard %u, which neither was refused nor crashed", number, failed);
    }
    sim_host_told(world, host, number, effect->body.job.state);
}

void sim_host_told(struct world *world, struct host *host, uint32_t number, enum mesh_job_state state)
{
    struct sim_job *const job = &world->job[number];
    struct sim_counters *const count = &world->result->world;
    sim_truth_told(world, host, number, state);
    if (job->finished && job->told != state && !job->forgone) {
        sim_check_fail(world, host, SIM_COMMIT_IS_FINAL, "job %u was told to be %s, and now %s", number,
                       sim_trace_job_state(job->told), sim_trace_job_state(state));
    }
    count->jobs_done += !job->finished && state == MESH_JOB_DONE;
    count->jobs_failed += !job->finished && state == MESH_JOB_FAILED;
    count->jobs_cancelled += !job->finished && state == MESH_JOB_CANCELLED;
    job->finished = true;
    job->told = state;
    struct event event = sim_world_event(world, sim_between(&world->random, SECOND_US / 100, 20 * SECOND_US),
                                         HAPPEN_FORGET, host->index);
    event.a = number;
    sim_world_push(world, event);
}

/* Reading a journal back takes a while. */
static void effect_take_over(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    struct event event =
        sim_world_event(world, sim_between(&world->random, 200, 20000), HAPPEN_TAKE_OVER, host->index);
    event.a = sim_world_job(world, &effect->body.take_over.job);
    event.b = (uint32_t)effect->body.take_over.epoch;
    sim_world_push(world, event);
}

static void effect_asked(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    struct event event =
        sim_world_event(world, sim_between(&world->random, 200, 2000), HAPPEN_TELL_OVER, host->index);
    event.a = sim_world_job(world, &effect->body.asked.job);
    event.b = sim_world_identity(world, &effect->body.asked.from);
    struct mesh_effect *const asked = sim_alloc(1, sizeof *asked);
    *asked = *effect;
    event.item = asked;
    sim_world_push(world, event);
}

/* Of honest homes nobody who is honest is caught. */
static void effect_quarantined(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t whom = sim_world_identity(world, &effect->body.quarantined.id);
    world->result->world.quarantines += effect->body.quarantined.on;
    if (effect->body.quarantined.on && host->site != world->lying_site &&
        (whom == SIM_NONE || world->host[whom].site != world->lying_site)) {
        sim_check_fail(world, host, SIM_WRONG_IS_CAUGHT, "%s is quarantined and brought nothing wrong",
                       whom == SIM_NONE ? "nobody" : world->host[whom].name);
    }
}

static void effect_do(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    switch (effect->kind) {
    case MESH_SIGN:
        effect_sign(world, host, &effect->body.record);
        break;
    case MESH_LINK_KEEP:
        sim_network_keep(world, host, &effect->body.peer, true);
        break;
    case MESH_LINK_RELEASE:
        sim_network_keep(world, host, &effect->body.peer, false);
        break;
    case MESH_LINK_REDIAL:
        sim_network_redial(world, host, &effect->body.peer);
        break;
    case MESH_ADMIT:
        effect_admit(world, host, effect);
        break;
    case MESH_BAR:
        effect_bar(world, host, effect);
        break;
    case MESH_CLONED:
        host->must_stop = host->must_stop || effect->body.cloned.fatal;
        break;
    case MESH_LOOKUP:
        sim_device_lookup(world, host, effect);
        break;
    case MESH_RUN:
        sim_device_run(world, host, effect);
        break;
    case MESH_STOP:
        sim_device_stop(world, host, effect->body.stop.attempt);
        break;
    case MESH_JOB:
        effect_job(world, host, effect);
        break;
    case MESH_DRAINED:
        host->drained = true;
        break;
    case MESH_MEMBER:
        if (world->watch != NULL && world->watch->member != NULL) {
            world->watch->member(world->watch->context, world, host, effect);
        }
        break;
    case MESH_TAKE_OVER:
        effect_take_over(world, host, effect);
        break;
    case MESH_SEND_LOG:
        sim_journal_send_log(world, host, effect);
        break;
    case MESH_JOURNAL_OVER:
        sim_host_note_over(world, host, sim_world_job(world, &effect->body.over.job),
                           effect->body.over.whole);
        break;
    case MESH_JOURNAL_ASKED:
        effect_asked(world, host, effect);
        break;
    case MESH_QUARANTINED:
        effect_quarantined(world, host, effect);
        break;
    case MESH_DISPUTED:
    case MESH_DROP:
    case MESH_DECISION:
    case MESH_ECHOED:
        break;
    }
}

/* A run's payload must be what was assigned, at the moment the core asks for it. */
static void effect_check_run(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const struct payload *const payload = sim_handle_see(&host->handles, effect->body.run.handle);
    bool fits = payload != NULL && payload->kind == PAYLOAD_INPUT &&
                payload->count == effect->body.run.count &&
                payload->job == sim_world_job(world, &effect->body.run.job);
    for (uint32_t i = 0; fits && i < payload->count; i++) {
        fits = payload->value[i] == effect->body.run.shard[i];
    }
    if (!fits) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "attempt %u runs with another bundle's payload",
                       effect->body.run.attempt);
    }
}

/* What must happen when the step is taken, whatever waits for the disk. */
static void effect_note(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    if (effect->kind == MESH_DROP) {
        if (sim_world_plant(world, SIM_PLANT_LEAK)) {
            return;
        }
        if (!sim_handle_drop(&host->handles, effect->body.handle)) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "a handle was dropped that isn't live");
        } else if (sim_world_plant(world, SIM_PLANT_DOUBLE_DROP) &&
                   !sim_handle_drop(&host->handles, effect->body.handle)) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "a handle was dropped that isn't live");
        }
    } else if (effect->kind == MESH_RUN) {
        effect_check_run(world, host, effect);
    }
}

static uint64_t effect_detail(const struct world *world, const struct mesh_effect *effect, uint32_t *peer)
{
    switch (effect->kind) {
    case MESH_LINK_KEEP:
    case MESH_LINK_RELEASE:
    case MESH_LINK_REDIAL:
    case MESH_BAR:
        *peer = sim_world_identity(world, &effect->body.peer);
        return 0;
    case MESH_ADMIT:
        *peer = sim_world_identity(world, &effect->body.admit.id);
        return 0;
    case MESH_MEMBER:
        *peer = sim_world_identity(world, &effect->body.member.id);
        return (uint64_t)effect->body.member.state << 32 | effect->body.member.incarnation;
    case MESH_SIGN:
        return (uint64_t)effect->body.record.kind << 32 | effect->body.record.version;
    case MESH_RUN:
        *peer = sim_world_identity(world, &effect->body.run.home);
        return (uint64_t)sim_world_job(world, &effect->body.run.job) << 32 | effect->body.run.count;
    case MESH_STOP:
        return effect->body.stop.attempt;
    case MESH_JOB:
        return (uint64_t)sim_world_job(world, &effect->body.job.id) << 32 | (uint32_t)effect->body.job.state;
    case MESH_DECISION:
        *peer = sim_world_identity(world, &effect->body.decision.member);
        return (uint64_t)sim_world_job(world, &effect->body.decision.job) << 32 |
               (uint64_t)effect->body.decision.why << 16 | effect->body.decision.count;
    case MESH_DROP:
        return effect->body.handle;
    case MESH_TAKE_OVER:
        return (uint64_t)sim_world_job(world, &effect->body.take_over.job) << 32 |
               (uint32_t)effect->body.take_over.epoch;
    case MESH_SEND_LOG:
        *peer = sim_world_identity(world, &effect->body.send_log.to);
        return (uint64_t)sim_world_job(world, &effect->body.send_log.job) << 32 | effect->body.send_log.first;
    case MESH_JOURNAL_OVER:
        return (uint64_t)sim_world_job(world, &effect->body.over.job) << 32 | effect->body.over.whole;
    case MESH_JOURNAL_ASKED:
        *peer = sim_world_identity(world, &effect->body.asked.from);
        return (uint64_t)sim_world_job(world, &effect->body.asked.job) << 32;
    case MESH_QUARANTINED:
        *peer = sim_world_identity(world, &effect->body.quarantined.id);
        return effect->body.quarantined.on;
    case MESH_DISPUTED:
        return (uint64_t)sim_world_job(world, &effect->body.disputed.job) << 32 | effect->body.disputed.count;
    case MESH_LOOKUP:
        return (uint64_t)effect->body.lookup.first << 32 | effect->body.lookup.count;
    default:
        return 0;
    }
}

static void out_trace(struct world *world, struct host *host, const struct mesh_out *out)
{
    for (uint32_t i = 0; i < out->save_count; i++) {
        const struct mesh_save *const save = &out->save[i];
        const struct mesh_place *entry = NULL;
        uint64_t detail = 0;
        if (save->kind == MESH_SAVE_INCARNATION) {
            detail = save->body.incarnation;
        } else if (save->kind == MESH_SAVE_QUARANTINE) {
            detail = sim_world_identity(world, &save->body.quarantine.id);
        } else if (save->kind != MESH_SAVE_RECORD) {
            detail = (uint64_t)sim_world_job(world, sim_journal_job(save)) << 32;
            detail |= save->kind == MESH_SAVE_COMMIT    ? save->body.commit.count
                      : save->kind == MESH_SAVE_DISPUTE ? save->body.dispute.count
                      : save->kind == MESH_SAVE_ENTRY   ? sim_journal_kind(save)
                      : save->kind == MESH_SAVE_PROMISE ? (uint32_t)save->body.promise.epoch
                                                        : (uint32_t)save->body.job.state;
            entry = sim_journal_place(save);
        }
        const uint64_t place = entry != NULL ? entry->entry_epoch << 32 | entry->index : 0;
        sim_trace(world, host, TRACE_SAVE, (uint32_t)save->kind, SIM_NONE, detail, place);
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        uint32_t peer = SIM_NONE;
        const uint64_t detail = effect_detail(world, &out->effect[i], &peer);
        sim_trace(world, host, TRACE_EFFECT, (uint32_t)out->effect[i].kind, peer, detail, 0);
    }
}

static int64_t sync_delay_us(struct world *world, const struct host *host)
{
    if (host->sync_most_ms != 0) {
        return sim_between(&world->random, 20000, host->sync_most_ms * INT64_C(1000));
    }
    return sim_between(&world->random, 200, 3000);
}

static void batch_queue(struct world *world, struct host *host, struct batch *batch)
{
    int64_t at_us = world->now_us + sync_delay_us(world, host);
    if (host->last_batch != NULL && at_us < host->last_batch->durable_at_us) {
        at_us = host->last_batch->durable_at_us;
    }
    batch->durable_at_us = at_us;
    if (host->last_batch != NULL) {
        host->last_batch->next = batch;
    } else {
        host->first_batch = batch;
    }
    host->last_batch = batch;
    if (world->laying) {
        return; /* at the end of this step */
    }
    sim_world_push(world, sim_world_event(world, at_us - world->now_us, HAPPEN_SYNCED, host->index));
}

void sim_host_note_over(struct world *world, struct host *host, uint32_t job, bool whole)
{
    struct batch *const batch = sim_alloc(1, sizeof *batch);
    batch->over.job = job;
    batch->over.whole = whole;
    batch_queue(world, host, batch);
}

static struct payload *save_payload(struct world *world, struct host *host, const struct mesh_save *save)
{
    if (sim_journal_place(save) != NULL) {
        return sim_journal_bytes(world, host, save);
    }
    const uint64_t handle = save->kind == MESH_SAVE_RECORD   ? save->body.record.handle
                            : save->kind == MESH_SAVE_COMMIT ? save->body.commit.handle
                                                             : 0;
    return handle != 0 ? see_or_fail(world, host, handle, "a save") : NULL;
}

/* A save is as large as a whole bundle; most are of a record, and only that much of them is kept. */
static size_t save_bytes(const struct mesh_save *save)
{
    return save->kind == MESH_SAVE_RECORD ? offsetof(struct mesh_save, body) + sizeof save->body.record
                                          : sizeof *save;
}

/* Keeps the step's output until its saves are durable. Batches become durable in the order of their steps. */
static struct batch *batch_hold(struct world *world, struct host *host, const struct mesh_out *out)
{
    struct batch *const batch = sim_alloc(1, sizeof *batch);
    batch->over.job = SIM_NONE;
    batch->save_count = out->save_count;
    const size_t last_bytes = save_bytes(&out->save[out->save_count - 1]);
    batch->save = sim_grow(NULL, 1, (out->save_count - 1) * sizeof *batch->save + last_bytes);
    batch->save_payload = sim_alloc(out->save_count, sizeof *batch->save_payload);
    for (uint32_t i = 0; i < out->save_count; i++) {
        memcpy(&batch->save[i], &out->save[i], save_bytes(&out->save[i]));
        batch->save_payload[i] = save_payload(world, host, &out->save[i]);
        sim_truth_written(world, host, &out->save[i], batch->save_payload[i]);
    }
    batch->flight = sim_alloc(out->send_count, sizeof(struct flight *));
    for (uint32_t i = 0; i < out->send_count; i++) {
        struct flight *const flight = flight_new(world, host, batch, &out->send[i]);
        if (flight != NULL) {
            batch->flight[batch->flight_count++] = flight;
        }
    }
    batch->effect = sim_alloc(out->effect_count, sizeof *batch->effect);
    batch->effect_count = out->effect_count;
    if (out->effect_count != 0) {
        memcpy(batch->effect, out->effect, out->effect_count * sizeof *batch->effect);
    }
    batch_queue(world, host, batch);
    return batch;
}

/* What need not wait for the saves. Returns false if the process died on the way. */
static bool batch_hurry(struct world *world, struct host *host, struct batch *batch)
{
    for (uint32_t i = 0; i < batch->flight_count; i++) {
        struct flight *const flight = batch->flight[i];
        if (flight->early) {
            batch->flight[i] = NULL;
            if (!sim_host_let_go(world, host, flight)) {
                return false;
            }
        }
    }
    return true;
}

void sim_batch_free(struct batch *batch)
{
    for (uint32_t i = 0; i < batch->save_count; i++) {
        sim_payload_drop(batch->save_payload[i]);
    }
    for (uint32_t i = 0; i < batch->flight_count; i++) {
        if (batch->flight[i] != NULL) {
            sim_flight_free(batch->flight[i]);
        }
    }
    free(batch->save);
    free(batch->save_payload);
    free(batch->flight);
    free(batch->effect);
    free(batch);
}

/* No room: what waits for it is tried again. A job that was being submitted is refused to its user. */
static void batch_stall(struct world *world, struct host *host, struct batch *batch)
{
    world->result->world.saves_stalled++;
    sim_world_push(world, sim_world_event(world, STALLED_RETRY_US, HAPPEN_SYNCED, host->index));
    if (!batch->refused && batch->save_count == 1 && batch->save[0].kind == MESH_SAVE_JOB) {
        batch->refused = true;
        sim_host_cancel(world, host, sim_world_job(world, &batch->save[0].body.job.id));
    }
}

/* A store whose sync failed takes no more, for what the disk holds is not known: the node stops. */
static void sync_failed(struct world *world, struct host *host)
{
    world->result->world.failed_syncs++;
    host->sync_fails = false;
    struct batch *const batch = host->first_batch;
    if (sim_chance(&world->random, 500)) {
        sim_disk_apply(world, host, batch, batch->save_count);
    }
    while (host->first_batch != NULL) {
        struct batch *const lost = host->first_batch;
        host->first_batch = lost->next;
        sim_batch_free(lost);
    }
    host->last_batch = NULL;
    sim_faults_kill(world, host, host->dead_for_us);
}

/* Returns false if the process died on the way. */
static bool batch_let_go(struct world *world, struct host *host, struct batch *batch)
{
    if (sim_faults_dies(world, host, SIM_BOUNDARY_DURABLE)) {
        return false;
    }
    for (uint32_t i = 0; i < batch->flight_count; i++) {
        struct flight *const flight = batch->flight[i];
        batch->flight[i] = NULL;
        if (flight != NULL && !sim_host_let_go(world, host, flight)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < batch->effect_count; i++) {
        effect_do(world, host, &batch->effect[i]);
        if (!host->alive ||
            sim_faults_dies(world, host, SIM_BOUNDARY_EFFECT + (uint32_t)batch->effect[i].kind)) {
            return false;
        }
    }
    return true;
}

static void heed_clone(struct world *world, struct host *host)
{
    if (host->alive && host->must_stop) {
        host->must_stop = false;
        if (world->story != NULL) {
            host->gone = true;
            sim_host_crash(world, host, false);
        } else {
            sim_faults_cloned(world, host);
        }
    }
}

void sim_host_synced(struct world *world, struct host *host)
{
    struct batch *const batch = host->first_batch;
    if (batch == NULL) {
        return;
    }
    if (host->disk_full) {
        batch_stall(world, host, batch);
        return;
    }
    if (host->sync_fails) {
        sync_failed(world, host);
        return;
    }
    host->first_batch = batch->next;
    if (host->first_batch == NULL) {
        host->last_batch = NULL;
    }
    sim_disk_apply(world, host, batch, batch->save_count);
    const bool room = batch->over.job != SIM_NONE && host->left_out;
    if (batch_let_go(world, host, batch) && room) {
        sim_journal_restore(world, host);
    }
    sim_batch_free(batch);
    heed_clone(world, host);
}

/* Returns false if the process died on the way. */
static bool out_take(struct world *world, struct host *host, const struct mesh_out *out)
{
    if (out->save_count != 0 && !batch_hurry(world, host, batch_hold(world, host, out))) {
        return false;
    }
    for (uint32_t i = 0; i < out->send_count && out->save_count == 0; i++) {
        struct flight *const flight = flight_new(world, host, NULL, &out->send[i]);
        if (flight != NULL && !sim_host_let_go(world, host, flight)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        effect_note(world, host, &out->effect[i]);
        if (out->save_count != 0) {
            continue;
        }
        effect_do(world, host, &out->effect[i]);
        if (!host->alive ||
            sim_faults_dies(world, host, SIM_BOUNDARY_EFFECT + (uint32_t)out->effect[i].kind)) {
            return false;
        }
    }
    return out->save_count == 0 || !sim_faults_dies(world, host, SIM_BOUNDARY_SAVES);
}

/* At most one wake-up is under way per host; an earlier one supersedes it. */
static void host_push_wake(struct world *world, struct host *host)
{
    if (host->wants_wake_us < host->wake_us) {
        host->wake_us = host->wants_wake_us;
        struct event event = sim_world_event(world, host->wake_us - world->now_us, HAPPEN_WAKE, host->index);
        event.a = ++host->wake_serial;
        sim_world_push(world, event);
    }
}

static void host_plan_wake(struct world *world, struct host *host, int64_t wake_at_ms)
{
    host->wants_wake_us =
        wake_at_ms > INT64_MAX / 2000 ? INT64_MAX : host_global_us(world, host, wake_at_ms * 1000);
    host_push_wake(world, host);
}

void sim_host_step(struct world *world, struct host *host, struct mesh_event *event)
{
    if (world->failed) {
        return;
    }
    event->now_ms = sim_host_local_us(world, host) / 1000;
    event->wall_ms = host_wall_ms(world, host);
    if (event->kind != MESH_RECEIVED) {
        sim_trace(world, host, TRACE_EVENT, (uint32_t)event->kind, SIM_NONE, 0, 0);
    }
    host->steps_at_once = host->stepped_us == world->now_us ? host->steps_at_once + 1 : 0;
    host->stepped_us = world->now_us;
    if (host->steps_at_once > STEPS_AT_ONCE_MAX) {
        sim_check_fail(world, host, SIM_BOUNDS_HOLD, "the core never rests: %d steps at one instant",
                       STEPS_AT_ONCE_MAX);
        return;
    }
    struct mesh_out *const out = world->out;
    host->event = event;
    mesh_step(host->mesh, event, out);
    world->result->world.steps++;
    if (sim_world_plant(world, SIM_PLANT_OVERFLOW)) {
        out->send_count = MESH_OUT_SENDS_MAX + 1;
    }
    if (out->save_count > MESH_OUT_SAVES_MAX || out->send_count > MESH_OUT_SENDS_MAX ||
        out->effect_count > MESH_OUT_EFFECTS_MAX) {
        sim_check_fail(world, host, SIM_BOUNDS_HOLD, "a step put out %u saves, %u sends, %u effects",
                       out->save_count, out->send_count, out->effect_count);
        return;
    }
    out_trace(world, host, out);
    const int64_t wake_at_ms = out->wake_at_ms;
    sim_check_step(world, host, event);
    if (out_take(world, host, out)) {
        host_plan_wake(world, host, wake_at_ms);
        heed_clone(world, host);
    }
    while (world->laying && host->first_batch != NULL) {
        sim_host_synced(world, host);
    }
    if (world->story != NULL) {
        sim_story_look(world);
    }
}

void sim_host_wake(struct world *world, struct host *host)
{
    host->wake_us = INT64_MAX;
    if (world->now_us < host->wants_wake_us) {
        host_push_wake(world, host);
        return;
    }
    sim_host_simple(world, host, MESH_TICK);
}

bool sim_host_has_guest(const struct host *host, const struct mesh_id *id)
{
    struct mesh_member_view view;
    return mesh_member_find(host->mesh, id, &view) && view.guest;
}

/* ---- Events for the core. */

void sim_host_simple(struct world *world, struct host *host, enum mesh_event_kind kind)
{
    struct mesh_event event = {.kind = kind};
    sim_host_step(world, host, &event);
}

void sim_host_record(struct world *world, struct host *host, const struct mesh_id *from,
                     struct payload *payload)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = *from;
    event.body.record.record = payload->record;
    event.body.record.record.handle = sim_handle_give(&host->handles, payload);
    sim_host_step(world, host, &event);
}

void sim_host_link(struct world *world, struct host *host, const struct mesh_id *peer, bool up, bool reset)
{
    if (!host->alive) {
        return;
    }
    struct mesh_event event = {.kind = up ? MESH_LINK_UP : MESH_LINK_DOWN};
    event.body.link.peer = *peer;
    event.body.link.reset = reset;
    event.body.link.protocol = agreed_protocol(world, host, sim_world_identity(world, peer));
    world->result->world.older_links += up && event.body.link.protocol < MESH_PROTOCOL_MAX;
    sim_host_step(world, host, &event);
}

void sim_host_devices(struct world *world, struct host *host)
{
    struct mesh_event event = {.kind = MESH_DEVICES};
    event.body.devices.price_micro = host->price_micro;
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        event.body.devices.class[i].slots = host->lent[i];
    }
    sim_host_step(world, host, &event);
    sim_device_lent(world, host);
}

void sim_host_submit(struct world *world, struct host *host, uint32_t number)
{
    struct sim_job *const job = &world->job[number];
    job->home = host->index;
    job->epoch_used = job->spec.epoch;
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = job->spec;
    sim_host_step(world, host, &event);
}

void sim_host_cancel(struct world *world, struct host *host, uint32_t number)
{
    world->job[number].cancel_asked = true;
    struct mesh_event event = {.kind = MESH_CANCEL_JOB};
    event.body.job.id = world->job[number].spec.id;
    sim_host_step(world, host, &event);
}

void sim_host_forget(struct world *world, struct host *host, uint32_t number)
{
    const struct disk_job *const saved = sim_disk_find(host, number);
    if (saved != NULL && saved->log != NULL && saved->state == MESH_JOB_RUNNING) {
        struct event again = sim_world_event(world, SECOND_US, HAPPEN_FORGET, host->index);
        again.a = number; /* its own disk is behind the others' */
        sim_world_push(world, again);
        return;
    }
    struct mesh_event event = {.kind = MESH_FORGET_JOB};
    event.body.job.id = world->job[number].spec.id;
    sim_host_step(world, host, &event);
    if (saved != NULL && saved->log != NULL && host->alive) {
        sim_host_note_over(world, host, number, true);
    }
}

static uint32_t digest_of(struct world *world, uint64_t value)
{
    return ((uint32_t)(value >> 32) | 1) +
           2 * (uint32_t)sim_world_plant(world, SIM_PLANT_FALSE_DIGEST) * world->planted;
}

static void result_digests(struct world *world, const struct payload *payload,
                           uint32_t digest[MESH_BUNDLE_SHARDS_MAX])
{
    for (uint32_t i = 0; i < payload->count && i < MESH_BUNDLE_SHARDS_MAX; i++) {
        digest[i] = digest_of(world, payload->value[i]);
    }
}

void sim_host_receive(struct world *world, struct host *host, struct flight *flight)
{
    const struct host *const from = &world->host[flight->from];
    struct mesh_message *const message = flight->message;
    if (from->index != host->index &&
        ((!flight->admitted && sim_known_see(&host->known, from->identity).admission != ADMISSION_ADMITTED) ||
         sim_network_shut_out(world, host, from))) {
        world->result->world.messages_refused++;
        sim_flight_free(flight);
        return;
    }
    sim_trace(world, host, TRACE_RECEIVED, (uint32_t)message->kind, from->index, flight->bytes,
              push_detail(world, message));
    if (carries_record(message) && !record_equal(&flight->payload->record, &message->body.push.record)) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "%s sent a record that its origin didn't sign",
                       from->name);
        sim_flight_free(flight);
        return;
    }
    if (world->watch != NULL && world->watch->received != NULL) {
        world->watch->received(world->watch->context, world, flight);
    }
    if (message->kind == MESH_APPEND && message->body.append.index == 1 &&
        sim_journal_is_over(host, sim_world_job(world, &message->body.append.job))) {
        sim_journal_tell_over(world, host, sim_world_job(world, &message->body.append.job), &from->id);
        sim_flight_free(flight);
        return;
    }
    if (flight->payload != NULL) {
        const uint64_t handle = sim_handle_give(&host->handles, sim_payload_keep(flight->payload));
        if (carries_record(message)) {
            message->body.push.record.handle = handle;
        } else if (message->kind == MESH_ASSIGN || message->kind == MESH_ASSIGN_KEPT) {
            message->body.assign.handle = handle;
        } else if (message->kind == MESH_APPEND) {
            message->body.append.handle = handle;
        } else {
            message->body.result.handle = handle;
        }
    }
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = from->id;
    event.body.received.message = message;
    uint32_t digest[MESH_BUNDLE_SHARDS_MAX];
    if (message->kind == MESH_RESULT && flight->payload != NULL) {
        result_digests(world, flight->payload, digest);
        event.body.received.digest = digest;
    }
    if (message->kind == MESH_PONG) {
        const int64_t rtt_us = sim_host_local_us(world, host) - (int64_t)message->body.ping.stamp_us;
        event.body.received.rtt_us = rtt_us > 1 ? (uint32_t)rtt_us : 1;
    }
    sim_host_step(world, host, &event);
    sim_flight_free(flight);
}

/* ---- Birth and death. */

/* Whose word each shard is, as the disk has it, for the core of a job that is verified by chance. */
static struct mesh_brought *brought_of(struct world *world, const struct disk_job *saved)
{
    const uint32_t count = world->job[saved->job].spec.shard_count;
    struct mesh_brought *const brought = sim_alloc(count, sizeof *brought);
    for (uint32_t i = 0; i < count; i++) {
        brought[i].by = saved->by[i];
        brought[i].digest = digest_of(world, saved->value[i]);
    }
    return brought;
}

void sim_host_restore(struct world *world, struct host *host, const struct disk_job *saved, uint64_t epoch)
{
    struct mesh_event event = {.kind = MESH_RESTORE};
    struct mesh_brought *brought = NULL;
    struct mesh_id *const bringer = sim_alloc(world->host_count, sizeof *bringer);
    for (uint32_t i = 0; i < world->host_count; i++) {
        bringer[i] = world->host[i].id;
    }
    event.body.restore.spec = world->job[saved->job].spec;
    event.body.restore.spec.epoch = epoch;
    event.body.restore.committed = saved->committed;
    if (event.body.restore.spec.verify == MESH_VERIFY_SPOT) {
        brought = brought_of(world, saved);
        event.body.restore.brought = brought;
        event.body.restore.bringer = bringer;
        event.body.restore.bringer_count = world->host_count;
    }
    sim_host_step(world, host, &event);
    world->result->world.jobs_restored++;
    free(brought);
    free(bringer);
}

static void host_restore_jobs(struct world *world, struct host *host)
{
    for (uint32_t i = 0; i < host->disk.job_count && host->alive && !world->failed; i++) {
        struct disk_job *const saved = &host->disk.job[i];
        struct sim_job *const job = &world->job[saved->job];
        if (saved->state != MESH_JOB_RUNNING || saved->log != NULL) {
            continue;
        }
        if (!sim_world_plant(world, SIM_PLANT_OLD_EPOCH)) {
            saved->epoch++; /* durable before the core hears of it */
        }
        if (saved->epoch <= job->epoch_used) {
            sim_check_fail(world, host, SIM_EPOCHS_GROW,
                           "job %u starts again with epoch %llu, which was used before", saved->job,
                           (unsigned long long)saved->epoch);
            return;
        }
        job->epoch_used = saved->epoch;
        sim_host_restore(world, host, saved, saved->epoch);
    }
}

static bool host_knows_others(const struct host *host)
{
    for (uint32_t i = 0; i < host->disk.record_count; i++) {
        const struct mesh_record *const record = &host->disk.record[i].payload->record;
        if (record->kind == MESH_RECORD_MEMBER && memcmp(&record->origin, &host->id, sizeof host->id) != 0) {
            return true;
        }
    }
    return false;
}

/* The core hears of what is on the disk and of its devices; it may die of that, as of any step. */
static void host_wake_up(struct world *world, struct host *host)
{
    for (uint32_t i = 0; i < host->disk.record_count && host->alive; i++) {
        sim_host_record(world, host, &host->id, sim_payload_keep(host->disk.record[i].payload));
    }
    for (uint32_t i = 0; i < host->disk.quarantined_count && host->alive; i++) {
        struct mesh_event event = {.kind = MESH_QUARANTINE};
        event.body.quarantine.id = world->host[host->disk.quarantined[i]].id;
        event.body.quarantine.on = true;
        sim_host_step(world, host, &event);
    }
    sim_journal_restore(world, host);
    host_restore_jobs(world, host);
    if (host->alive) {
        sim_host_devices(world, host);
    }
    if (host->alive) {
        sim_host_simple(world, host, MESH_TICK);
    }
}

/*
 * In every fourth run of faults half of the nodes begin as the program of the version before, and are upgraded when they
 * start again. Nothing is drawn for it, so that other runs go on as they would.
 */
uint32_t sim_host_program(const struct world *world, const struct host *host)
{
    const bool mixed = world->options.seed % 4 == 3 && world->story == NULL && world->watch == NULL;
    return mixed && host->index % 2 == 1 && host->life <= 1 ? MESH_PROTOCOL_MAX - 1 : MESH_PROTOCOL_MAX;
}

void sim_host_start(struct world *world, struct host *host)
{
    if (host->alive || host->gone || world->failed) {
        return;
    }
    host->alive = true;
    host->silent = false;
    host->drained = false;
    host->draining = false;
    host->leaving = false;
    host->life++;
    host->protocol = sim_host_program(world, host);
    world->result->world.older_programs += host->protocol < MESH_PROTOCOL_MAX;
    host->born_us = world->now_us;
    host->paused_until_us = 0;
    host->must_stop = false;
    host->base_us = world->now_us;
    host->base_local_us = sim_between(&world->random, 0, 1000 * SECOND_US);
    host->wake_us = INT64_MAX;
    host->wants_wake_us = INT64_MAX;
    host->idle_since_us = -1;
    host->disk.incarnation++;
    sim_trace(world, host, TRACE_LIFE, LIFE_STARTS, SIM_NONE, host->disk.incarnation, 0);
    host->memory = sim_alloc(1, mesh_size(&host->limits));
    sim_known_clear(&host->known);
    /* One draw per statement: the order within an initialiser is the compiler's. */
    const uint64_t session = (uint64_t)host_wall_ms(world, host) << 20 | sim_below(&world->random, 1u << 20);
    const uint64_t seed = sim_random_next(&world->random);
    const struct mesh_config config = {
        .limits = host->limits,
        .self = host->id,
        .site = host->site,
        .region = host->region,
        .incarnation = host->disk.incarnation,
        .session = session,
        .storage = host->disk.storage,
        .sequence = host->disk.sequence,
        .seed = {seed, sim_mix(seed, session)},
        .now_ms = sim_host_local_us(world, host) / 1000,
        .wall_ms = host_wall_ms(world, host),
    };
    host->mesh = mesh_init(host->memory, &config);
    sim_network_host_born(world, host);
    host_wake_up(world, host);
    if (host->alive && !world->laying && !host_knows_others(host)) {
        sim_world_push(world, sim_world_event(world, sim_between(&world->random, 0, SECOND_US),
                                              HAPPEN_INTRODUCE, host->index));
    }
}

static void counters_add(struct mesh_counters *sum, const struct mesh_counters *more)
{
#define ADD(name) sum->name += more->name;
    MESH_COUNTERS(ADD)
#undef ADD
}

static void host_end_life(struct world *world, struct host *host)
{
    counters_add(&world->result->core, mesh_counters(host->mesh));
    sim_host_free(host);
}

/* Frees what a life holds; the disk stays. */
void sim_host_free(struct host *host)
{
    while (host->first_batch != NULL) {
        struct batch *const batch = host->first_batch;
        host->first_batch = batch->next;
        sim_batch_free(batch);
    }
    host->last_batch = NULL;
    sim_device_clear(host);
    sim_oracle_free(host);
    sim_handles_clear(&host->handles);
    sim_payload_drop(host->own_record);
    sim_payload_drop(host->own_capacity);
    host->own_record = host->own_capacity = NULL;
    free(host->memory);
    host->memory = NULL;
    host->mesh = NULL;
}

void sim_host_crash(struct world *world, struct host *host, bool silent)
{
    if (!host->alive) {
        return;
    }
    sim_trace(world, host, TRACE_LIFE, silent ? LIFE_DIES_SILENTLY : LIFE_CRASHES, SIM_NONE, 0, 0);
    sim_disk_crash(world, host);
    host->alive = false;
    host->silent = silent;
    host->life++;
    sim_network_host_died(world, host);
    host_end_life(world, host);
}
