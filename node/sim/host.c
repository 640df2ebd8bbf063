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
#define STEPS_AT_ONCE_MAX 5000
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

/* The bytes that go with a message; the inputs of a bundle are the host's own, made from the job's
 * description. */
static struct payload *message_payload(struct world *world, struct host *host,
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
    case MESH_ASSIGN: {
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
    default:
        return NULL;
    }
}

static struct flight *flight_new(struct world *world, struct host *host, const struct mesh_send *send)
{
    const uint32_t to = sim_world_identity(world, &send->to);
    if (to == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a message to somebody who never was");
        return NULL;
    }
    struct flight *const flight = sim_alloc(1, sizeof *flight);
    flight->from = host->index;
    flight->from_life = host->life;
    flight->to = to;
    flight->bytes = mesh_message_bytes(&send->message);
    flight->message = malloc(flight->bytes);
    if (flight->message == NULL) {
        exit(1);
    }
    memcpy(flight->message, &send->message, flight->bytes);
    flight->payload = message_payload(world, host, &send->message);
    if (carries_record(&send->message) && flight->payload != NULL &&
        flight->payload->record.kind == MESH_RECORD_MEMBER &&
        sim_world_plant(world, SIM_PLANT_FORGED_RECORD)) {
        flight->message->body.push.record.incarnation++;
    }
    return flight;
}

/* Which record a PUSH carries, in one word for the trace: kind, origin, incarnation, version. */
static uint64_t push_detail(const struct world *world, const struct mesh_message *message)
{
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

/*
 * The transport, through which what a node says to itself does not go, sends no kind to a peer whose version lacks it. What goes along the trees the core itself must not send
 * there: it knows its links.
 */
static bool is_held_back(struct world *world, struct host *host, const struct flight *flight)
{
    const enum mesh_message_kind kind = flight->message->kind;
    if (flight->to == host->index || mesh_message_since(kind) <= MESH_PROTOCOL_MIN ||
        mesh_message_since(kind) <= agreed_protocol(world, host, flight->to)) {
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
        if (i == flight->to || flight->to == host->index || world->host[i].identity != flight->to) {
            continue;
        }
        struct flight *const copy = sim_alloc(1, sizeof *copy);
        *copy = *flight;
        copy->to = i;
        copy->message = malloc(flight->bytes);
        if (copy->message == NULL) {
            exit(1);
        }
        memcpy(copy->message, message, flight->bytes);
        if (copy->payload != NULL) {
            sim_payload_keep(copy->payload);
        }
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
    }
    struct event event =
        sim_world_event(world, sim_between(&world->random, 0, 300), HAPPEN_SIGNED, host->index);
    event.item = payload;
    sim_world_push(world, event);
}

/* Who belongs to no tier of the host's is known for as long as they share work, and introduces itself again. */
static bool is_guest(const struct host *host, const struct host *peer)
{
    return host->site != peer->site && (host->interior || peer->interior);
}

static void effect_admit(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t peer = sim_world_identity(world, &effect->body.admit.id);
    if (peer != SIM_NONE && !is_guest(host, &world->host[peer]) &&
        !sim_disk_has_record(host, MESH_RECORD_MEMBER, &effect->body.admit.id)) {
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
    if (!sim_disk_has_record(host, MESH_RECORD_REVOCATION, &effect->body.peer)) {
        sim_check_fail(world, host, SIM_RECORDS_KEPT, "%s is barred and its revocation isn't on the disk",
                       world->host[peer].name);
    }
    sim_known_meet(&host->known, peer)->admission = ADMISSION_BARRED;
    sim_network_bar(world, host, peer);
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
    if (effect->body.job.refusal != MESH_ACCEPTED) {
        job->refused = true;
        count->jobs_refused++;
        return;
    }
    const struct disk_job *const saved = sim_disk_find(host, number);
    if (saved == NULL) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE,
                       "job %u was acknowledged and isn't on the disk of its home", number);
        return;
    }
    job->told = effect->body.job.state;
    if (effect->body.job.state == MESH_JOB_RUNNING) {
        count->jobs_accepted += job->acknowledged ? 0 : 1;
        job->acknowledged = true;
        return;
    }
    if (saved->state != effect->body.job.state) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE, "job %u was told to be %s; its disk says %s",
                       number, sim_trace_job_state(effect->body.job.state),
                       sim_trace_job_state(saved->state));
    }
    if (effect->body.job.state == MESH_JOB_DONE && saved->committed_count != job->spec.shard_count) {
        sim_check_fail(world, host, SIM_SHARDS_ADD_UP, "job %u is done with %u of %u shards committed",
                       number, saved->committed_count, job->spec.shard_count);
    }
    if (effect->body.job.state == MESH_JOB_CANCELLED && !job->cancel_asked) {
        sim_check_fail(world, host, SIM_JOBS_FINISH, "job %u was cancelled and nobody asked for that",
                       number);
    }
    if (effect->body.job.state == MESH_JOB_FAILED && saved->failed_shard != job->rejects &&
        (saved->failed_shard >= job->spec.shard_count ||
         job->crashes[saved->failed_shard] < MESH_ATTEMPTS_PER_SHARD)) {
        sim_check_fail(world, host, SIM_JOBS_FINISH,
                       "job %u failed for shard %u, which neither was refused nor crashed", number,
                       saved->failed_shard);
    }
    count->jobs_done += effect->body.job.state == MESH_JOB_DONE;
    count->jobs_failed += effect->body.job.state == MESH_JOB_FAILED;
    count->jobs_cancelled += effect->body.job.state == MESH_JOB_CANCELLED;
    job->finished = true;
    struct event event = sim_world_event(world, sim_between(&world->random, SECOND_US / 100, 20 * SECOND_US),
                                         HAPPEN_FORGET, host->index);
    event.a = number;
    sim_world_push(world, event);
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
    case MESH_SEND_LOG:
    case MESH_JOURNAL_OVER:
    case MESH_JOURNAL_ASKED:
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a journal of several copies, where each job has one");
        break;
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
        uint64_t detail = 0;
        if (save->kind == MESH_SAVE_INCARNATION) {
            detail = save->body.incarnation;
        } else if (save->kind == MESH_SAVE_COMMIT) {
            detail = (uint64_t)sim_world_job(world, &save->body.commit.job) << 32 | save->body.commit.count;
        } else if (save->kind != MESH_SAVE_RECORD) {
            detail =
                (uint64_t)sim_world_job(world, &save->body.job.id) << 32 | (uint32_t)save->body.job.state;
        }
        sim_trace(world, host, TRACE_SAVE, (uint32_t)save->kind, SIM_NONE, detail, 0);
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

/* Keeps the step's output until its saves are durable. Batches become durable in the order of their steps. */
static void batch_hold(struct world *world, struct host *host, const struct mesh_out *out)
{
    struct batch *const batch = sim_alloc(1, sizeof *batch);
    batch->save_count = out->save_count;
    batch->save = sim_alloc(out->save_count, sizeof *batch->save);
    batch->save_payload = sim_alloc(out->save_count, sizeof *batch->save_payload);
    for (uint32_t i = 0; i < out->save_count; i++) {
        const struct mesh_save *const save = &out->save[i];
        batch->save[i] = *save;
        const uint64_t handle = save->kind == MESH_SAVE_RECORD   ? save->body.record.handle
                                : save->kind == MESH_SAVE_COMMIT ? save->body.commit.handle
                                                                 : 0;
        if (handle != 0) {
            batch->save_payload[i] = see_or_fail(world, host, handle, "a save");
        }
    }
    batch->flight = sim_alloc(out->send_count, sizeof(struct flight *));
    for (uint32_t i = 0; i < out->send_count; i++) {
        struct flight *const flight = flight_new(world, host, &out->send[i]);
        if (flight != NULL) {
            batch->flight[batch->flight_count++] = flight;
        }
    }
    batch->effect = sim_alloc(out->effect_count, sizeof *batch->effect);
    batch->effect_count = out->effect_count;
    if (out->effect_count != 0) {
        memcpy(batch->effect, out->effect, out->effect_count * sizeof *batch->effect);
    }
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
    sim_world_push(world, sim_world_event(world, at_us - world->now_us, HAPPEN_SYNCED, host->index));
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
        const uint32_t boundary = SIM_BOUNDARY_SEND + (uint32_t)flight->message->kind;
        batch->flight[i] = NULL;
        flight_release(world, host, flight);
        if (sim_faults_dies(world, host, boundary)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < batch->effect_count; i++) {
        effect_do(world, host, &batch->effect[i]);
        if (sim_faults_dies(world, host, SIM_BOUNDARY_EFFECT + (uint32_t)batch->effect[i].kind)) {
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
    batch_let_go(world, host, batch);
    sim_batch_free(batch);
    heed_clone(world, host);
}

/* Returns false if the process died on the way. */
static bool out_take(struct world *world, struct host *host, const struct mesh_out *out)
{
    if (out->save_count != 0) {
        batch_hold(world, host, out);
    }
    for (uint32_t i = 0; i < out->send_count && out->save_count == 0; i++) {
        struct flight *const flight = flight_new(world, host, &out->send[i]);
        if (flight == NULL) {
            continue;
        }
        flight_release(world, host, flight);
        if (sim_faults_dies(world, host, SIM_BOUNDARY_SEND + (uint32_t)out->send[i].message.kind)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        effect_note(world, host, &out->effect[i]);
        if (out->save_count != 0) {
            continue;
        }
        effect_do(world, host, &out->effect[i]);
        if (sim_faults_dies(world, host, SIM_BOUNDARY_EFFECT + (uint32_t)out->effect[i].kind)) {
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

bool sim_host_view(const struct host *host, const struct mesh_id *id, struct mesh_member_view *view)
{
    for (uint32_t i = 0; mesh_member_view(host->mesh, i, view); i++) {
        if (memcmp(&view->id, id, sizeof *id) == 0) {
            return true;
        }
    }
    return false;
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
    struct mesh_event event = {.kind = MESH_FORGET_JOB};
    event.body.job.id = world->job[number].spec.id;
    sim_host_step(world, host, &event);
}

void sim_host_receive(struct world *world, struct host *host, struct flight *flight)
{
    const struct host *const from = &world->host[flight->from];
    struct mesh_message *const message = flight->message;
    if (from->index != host->index &&
        (sim_known_see(&host->known, from->identity).admission != ADMISSION_ADMITTED ||
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
    if (flight->payload != NULL) {
        const uint64_t handle = sim_handle_give(&host->handles, sim_payload_keep(flight->payload));
        if (carries_record(message)) {
            message->body.push.record.handle = handle;
        } else if (message->kind == MESH_ASSIGN) {
            message->body.assign.handle = handle;
        } else {
            message->body.result.handle = handle;
        }
    }
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = from->id;
    event.body.received.message = message;
    if (message->kind == MESH_PONG) {
        const int64_t rtt_us = sim_host_local_us(world, host) - (int64_t)message->body.ping.stamp_us;
        event.body.received.rtt_us = rtt_us > 1 ? (uint32_t)rtt_us : 1;
    }
    sim_host_step(world, host, &event);
    sim_flight_free(flight);
}

/* ---- Birth and death. */

static void host_restore_jobs(struct world *world, struct host *host)
{
    for (uint32_t i = 0; i < host->disk.job_count && host->alive && !world->failed; i++) {
        struct disk_job *const saved = &host->disk.job[i];
        struct sim_job *const job = &world->job[saved->job];
        if (saved->state != MESH_JOB_RUNNING) {
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
        struct mesh_event event = {.kind = MESH_RESTORE};
        event.body.restore.spec = job->spec;
        event.body.restore.spec.epoch = saved->epoch;
        event.body.restore.committed = saved->committed;
        sim_host_step(world, host, &event);
        world->result->world.jobs_restored++;
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
static uint32_t program_protocol(const struct world *world, const struct host *host)
{
    const bool mixed = world->options.seed % 4 == 3 && world->story == NULL && world->watch == NULL;
    return mixed && host->index % 2 == 1 && host->life == 1 ? MESH_PROTOCOL_MAX - 1 : MESH_PROTOCOL_MAX;
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
    host->protocol = program_protocol(world, host);
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
        .seed = {seed, sim_mix(seed, session)},
        .now_ms = sim_host_local_us(world, host) / 1000,
        .wall_ms = host_wall_ms(world, host),
    };
    host->mesh = mesh_init(host->memory, &config);
    sim_network_host_born(world, host);
    host_wake_up(world, host);
    if (host->alive && !host_knows_others(host)) {
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
    host->own_record = NULL;
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
