/*
 * What runs bundles: a device takes its time over each shard and brings forth the one right result, a hash of
 * job and shard, so that a wrong commit can't hide. It may crash, hang until it is stopped or a watchdog ends
 * it or for as long as a fault lasts, be slow, hand back results that don't fit the kernel (which a host counts as a
 * crash), hand the rest back, or, at all nodes of one site, bring results that fit and are wrong. And the result cache, which remembers as much as the job's hit rate says.
 */
#include "node/sim/world.h"

/* A worker that is silent for this long is killed by its host; the attempt then counts as crashed. */
#define WATCHDOG_US (20 * SECOND_US)

uint64_t sim_device_result(const struct world *world, uint32_t job, uint32_t shard)
{
    return sim_mix(sim_mix(world->options.seed, job), shard);
}

/* All nodes of a site tell the same lie, about the same shards. */
static uint64_t lie_of(const struct world *world, uint32_t job, uint32_t shard, uint64_t site)
{
    return sim_mix(sim_mix(sim_device_result(world, job, shard), site), 0x6c6965);
}

bool sim_device_excused(struct world *world, const struct mesh_save *commit, uint32_t job, uint32_t shard,
                        uint64_t value)
{
    if (value == sim_device_result(world, job, shard)) {
        return true;
    }
    const uint32_t executor = sim_world_identity(world, &commit->body.commit.executor);
    if (executor == SIM_NONE || world->lying_site == 0 || world->host[executor].site != world->lying_site ||
        commit->body.commit.cached || value != lie_of(world, job, shard, world->lying_site) ||
        world->job[job].spec.verify == MESH_VERIFY_QUORUM) {
        return false;
    }
    world->result->world.wrong_committed++;
    return true;
}

static uint32_t attempt_slot(struct host *host)
{
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        if (!host->attempt[i].used) {
            return i;
        }
    }
    host->attempt = sim_grow(host->attempt, host->attempt_count + 1, sizeof *host->attempt);
    host->attempt[host->attempt_count] = (struct attempt){0};
    return host->attempt_count++;
}

static void attempt_plan_end(struct world *world, struct host *host, uint32_t slot, int64_t in_us)
{
    struct attempt *const attempt = &host->attempt[slot];
    attempt->ends_us = world->now_us + in_us;
    attempt->serial = ++host->attempt_serial;
    struct event event = sim_world_event(world, in_us, HAPPEN_RAN, host->index);
    event.a = slot;
    event.b = attempt->serial;
    sim_world_push(world, event);
}

static enum attempt_plan attempt_draw(struct world *world, const struct host *host)
{
    const uint32_t draw = sim_below(&world->random, 10);
    if (host->device_fault == DEVICE_FINE || host->device_fault == DEVICE_SLOW ||
        host->device_fault == DEVICE_LIES) {
        return sim_chance(&world->random, 2) ? ATTEMPT_CRASHES : ATTEMPT_RUNS;
    }
    if (host->device_fault == DEVICE_STUCK) {
        return draw < 8 ? ATTEMPT_STICKS : ATTEMPT_RUNS;
    }
    if (host->device_fault == DEVICE_GARBLES) {
        return draw < 5 ? ATTEMPT_CRASHES : ATTEMPT_RUNS;
    }
    return draw < 5 ? ATTEMPT_RUNS : draw < 7 ? ATTEMPT_CRASHES : draw < 8 ? ATTEMPT_HANGS : ATTEMPT_RETURNS;
}

static void attempt_start(struct world *world, struct host *host, uint32_t slot)
{
    struct attempt *const attempt = &host->attempt[slot];
    attempt->started = true;
    host->unstarted_of[attempt->class]--;
    host->running[attempt->class]++;
    attempt->began_us = world->now_us;
    attempt->ends_us = world->now_us;
    if (sim_world_plant(world, SIM_PLANT_STUCK_RUN) || attempt->plan == ATTEMPT_STICKS) {
        return;
    }
    const uint32_t guess_us = world->job[attempt->job].shard_us;
    const int64_t slowness = host->device_fault == DEVICE_SLOW ? host->device_slowness : 1;
    const int64_t shard_us = slowness * sim_between(&world->random, guess_us / 2, guess_us * 2);
    const int64_t count = attempt->plan == ATTEMPT_RUNS ? attempt->count : attempt->turning + 1;
    attempt_plan_end(world, host, slot,
                     count * shard_us + (attempt->plan == ATTEMPT_HANGS ? WATCHDOG_US : 0));
}

/* Starts what has waited longest while there are slots: one bundle runs per slot, in the order of the RUNs.
 */
static void class_start(struct world *world, struct host *host, uint16_t class)
{
    while (host->unstarted_of[class] != 0 && host->running[class] < host->lent[class]) {
        uint32_t next = SIM_NONE;
        for (uint32_t i = 0; i < host->attempt_count; i++) {
            const struct attempt *const attempt = &host->attempt[i];
            if (attempt->used && !attempt->started && !attempt->stopping && attempt->class == class &&
                (next == SIM_NONE || attempt->order < host->attempt[next].order)) {
                next = i;
            }
        }
        if (next == SIM_NONE) {
            return;
        }
        attempt_start(world, host, next);
    }
}

/* Of a class of which nothing is lent nothing begins, from the owner's claim on; of one that shrank once what ran has ended. */
static void check_places(struct world *world, struct host *host, const struct attempt *given)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        held += host->attempt[i].used && host->attempt[i].class == given->class;
    }
    if (host->lent[given->class] == 0) {
        sim_check_fail(world, host, SIM_SLOTS_HOLD, "attempt %u begins on a class of which nothing is lent",
                       given->id);
    }
    if (held > 2u * host->lent[given->class] && world->now_us - host->lent_less_at_us > SHRINK_US) {
        sim_check_fail(world, host, SIM_SLOTS_HOLD, "attempt %u is number %u on %u slots", given->id, held,
                       host->lent[given->class]);
    }
}

static bool stop_came_first(struct host *host, uint32_t id)
{
    for (uint32_t i = 0; i < host->unstarted_stops; i++) {
        if (host->unstarted[i] == id) {
            host->unstarted[i] = host->unstarted[--host->unstarted_stops];
            return true;
        }
    }
    return false;
}

void sim_device_run(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    world->result->world.attempts++;
    const uint32_t slot = attempt_slot(host);
    struct attempt *const attempt = &host->attempt[slot];
    const uint32_t job = sim_world_job(world, &effect->body.run.job);
    *attempt = (struct attempt){.id = effect->body.run.attempt,
                                .used = true,
                                .plan = attempt_draw(world, host),
                                .order = ++host->attempt_serial,
                                .job = job,
                                .class = effect->body.run.class,
                                .count = effect->body.run.count,
                                .shard = sim_alloc(effect->body.run.count, sizeof(uint32_t))};
    memcpy(attempt->shard, effect->body.run.shard, attempt->count * sizeof(uint32_t));
    attempt->turning = sim_below(&world->random, attempt->count);
    host->unstarted_of[attempt->class]++;
    if (stop_came_first(host, attempt->id)) {
        attempt->stopping = true;
        attempt->turning = 0;
        attempt_plan_end(world, host, slot, 0);
        return;
    }
    check_places(world, host, attempt);
    class_start(world, host, attempt->class);
}

/* What was done by now stays done; the rest goes back. */
void sim_device_stop(struct world *world, struct host *host, uint32_t id)
{
    world->result->world.stops++;
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        struct attempt *const attempt = &host->attempt[i];
        if (!attempt->used || attempt->id != id) {
            continue;
        }
        if (attempt->stopping) {
            return;
        }
        attempt->stopping = true;
        const int64_t span_us = attempt->started ? attempt->ends_us - attempt->began_us : 0;
        const int64_t passed_us = world->now_us - attempt->began_us;
        uint32_t done = span_us > 0 ? (uint32_t)(attempt->count * passed_us / span_us) : 0;
        if (attempt->plan != ATTEMPT_RUNS && done > attempt->turning) {
            done = attempt->turning;
        }
        attempt->plan = ATTEMPT_RETURNS;
        attempt->turning = done < attempt->count ? done : attempt->count;
        attempt_plan_end(world, host, i, sim_between(&world->random, 1000, 60000));
        return;
    }
    if (host->unstarted_stops < sizeof host->unstarted / sizeof host->unstarted[0]) {
        host->unstarted[host->unstarted_stops++] = id;
    }
}

void sim_device_unstick(struct world *world, struct host *host)
{
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        struct attempt *const attempt = &host->attempt[i];
        if (attempt->used && attempt->started && attempt->plan == ATTEMPT_STICKS && !attempt->stopping) {
            attempt->plan = ATTEMPT_HANGS;
            attempt_plan_end(world, host, i, 0);
        } else if (attempt->used && !attempt->started && attempt->plan == ATTEMPT_STICKS) {
            attempt->plan = ATTEMPT_RUNS;
        }
    }
}

static uint8_t attempt_outcome(const struct world *world, const struct attempt *attempt, uint32_t place)
{
    const uint32_t turning = attempt->plan == ATTEMPT_RUNS ? attempt->count : attempt->turning;
    if (attempt->stopping && place >= attempt->turning) {
        return MESH_RETURNED;
    }
    if (place < turning) {
        return attempt->shard[place] == world->job[attempt->job].rejects ? MESH_REJECTED : MESH_DONE;
    }
    const bool crashed = attempt->plan == ATTEMPT_CRASHES || attempt->plan == ATTEMPT_HANGS;
    return crashed && place == turning ? MESH_CRASHED : MESH_RETURNED;
}

void sim_device_ran(struct world *world, struct host *host, uint32_t slot, uint32_t serial)
{
    if (slot >= host->attempt_count || !host->attempt[slot].used || host->attempt[slot].serial != serial) {
        return;
    }
    struct attempt attempt = host->attempt[slot];
    host->attempt[slot].used = false;
    if (attempt.started) {
        host->running[attempt.class]--;
    } else {
        host->unstarted_of[attempt.class]--;
    }
    host->attempt[slot].shard = NULL;
    struct mesh_event event = {.kind = MESH_RAN};
    event.body.ran.attempt = attempt.id;
    event.body.ran.device_us = (uint64_t)(world->now_us - attempt.began_us);
    event.body.ran.count = attempt.count;
    struct payload *const payload = sim_payload_new(PAYLOAD_RESULT, attempt.job, attempt.count);
    bool done = false;
    for (uint32_t i = 0; i < attempt.count; i++) {
        event.body.ran.outcome[i] = attempt_outcome(world, &attempt, i);
        if (event.body.ran.outcome[i] == MESH_DONE) {
            done = true;
            payload->value[i] = sim_device_result(world, attempt.job, attempt.shard[i]);
            payload->value[i] += sim_world_plant(world, SIM_PLANT_WRONG_RESULT);
            const uint64_t lie = lie_of(world, attempt.job, attempt.shard[i], host->site);
            if (host->device_fault == DEVICE_LIES && lie % 1000 < host->lie_permille) {
                payload->value[i] = lie;
            }
        } else if (event.body.ran.outcome[i] == MESH_CRASHED) {
            uint8_t *const crashes = &world->job[attempt.job].crashes[attempt.shard[i]];
            *crashes = (uint8_t)(*crashes + (*crashes < UINT8_MAX));
        }
    }
    if (done) {
        event.body.ran.handle = sim_handle_give(&host->handles, payload);
    } else {
        sim_payload_drop(payload);
    }
    sim_host_step(world, host, &event);
    free(attempt.shard);
    if (!world->failed && host->alive) {
        class_start(world, host, attempt.class);
    }
}

/* More slots are lent: what waits may start. */
void sim_device_lent(struct world *world, struct host *host)
{
    for (uint16_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
        class_start(world, host, class);
    }
}

void sim_device_lookup(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t job = sim_world_job(world, &effect->body.lookup.job);
    const uint32_t count = effect->body.lookup.count;
    if (job == SIM_NONE || count == 0 || count > MESH_LOOKUP_SHARDS_MAX ||
        effect->body.lookup.first + count > world->job[job].spec.shard_count) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a look-up of shards that aren't there");
        return;
    }
    struct mesh_event *const event = sim_alloc(1, sizeof *event);
    event->kind = MESH_LOOKED_UP;
    event->body.looked_up.job = effect->body.lookup.job;
    event->body.looked_up.epoch = effect->body.lookup.epoch;
    event->body.looked_up.first = effect->body.lookup.first;
    event->body.looked_up.count = count;
    struct event answer =
        sim_world_event(world, sim_between(&world->random, 200, 20000), HAPPEN_LOOKED_UP, host->index);
    answer.a = job;
    answer.item = event;
    sim_world_push(world, answer);
}

void sim_device_looked_up(struct world *world, struct host *host, const struct event *answer)
{
    struct mesh_event *const event = answer->item;
    const uint32_t first = event->body.looked_up.first;
    const uint32_t count = event->body.looked_up.count;
    struct payload *const payload = sim_payload_new(PAYLOAD_RESULT, answer->a, count);
    bool any = false;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t value = sim_device_result(world, answer->a, first + i);
        if (value % 1000 < world->job[answer->a].hit_permille) {
            bit_set(event->body.looked_up.hit, i);
            payload->value[i] = value;
            any = true;
        }
    }
    if (any) {
        event->body.looked_up.handle = sim_handle_give(&host->handles, payload);
    } else {
        sim_payload_drop(payload);
    }
    sim_host_step(world, host, event);
}

void sim_device_clear(struct host *host)
{
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        free(host->attempt[i].shard);
    }
    free(host->attempt);
    host->attempt = NULL;
    host->attempt_count = 0;
    memset(host->running, 0, sizeof host->running);
    memset(host->unstarted_of, 0, sizeof host->unstarted_of);
    host->unstarted_stops = 0;
}
