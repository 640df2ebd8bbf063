/*
 * Strikes the faults of the plan and takes them back. Each kind has a function that begins it and says whether it
 * found something to spoil, and, unless it is over at once, one that ends it; the table at the end joins them. What
 * is random within a fault is drawn from the fault's own number.
 */
#include "node/sim/faults.h"
#include "node/sim/world.h"

#include <stddef.h>
#include <stdio.h>

/* Whoever is to die at a certain message or effect, and nobody has come to it: then the named one, after so long. */
#define BOUNDARY_WAIT_US (30 * SECOND_US)

struct strike {
    struct world *world;
    const struct sim_fault *fault;
    uint32_t number; /* of the fault in the plan */
    struct host *host;
    struct sim_random random;
};

static bool is_clone(const struct host *host)
{
    return host->identity != host->index;
}

static struct host *live_from(struct world *world, uint32_t from)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[(from + i) % world->host_count];
        if (host->alive && !host->revoked && !is_clone(host)) {
            return host;
        }
    }
    return NULL;
}

static bool may_lose_one(const struct world *world)
{
    return (world->lost_for_good + 1) * 4 <= world->options.nodes;
}

static void end_in(const struct strike *strike, const struct host *host, int64_t in_us)
{
    struct event event = sim_world_event(strike->world, in_us, HAPPEN_FAULT_END, SIM_NONE);
    event.a = strike->number;
    event.b = host != NULL ? host->index : SIM_NONE;
    sim_world_push(strike->world, event);
}

static void start_in(struct world *world, const struct host *host, int64_t in_us)
{
    struct event event = sim_world_event(world, in_us, HAPPEN_START, SIM_NONE);
    event.a = host->index;
    sim_world_push(world, event);
}

static void kill_for(struct world *world, struct host *host, int64_t for_us, bool silent)
{
    sim_host_crash(world, host, silent);
    start_in(world, host, for_us);
}

void sim_faults_kill(struct world *world, struct host *host, int64_t for_us)
{
    kill_for(world, host, for_us, false);
}

bool sim_faults_dies(struct world *world, struct host *host, uint32_t boundary)
{
    world->result->passed[boundary]++;
    if (world->dies_at != boundary || is_clone(host) || host->revoked) {
        return false;
    }
    world->dies_at = 0;
    world->result->boundary[boundary]++;
    world->result->world.boundary_crashes++;
    kill_for(world, host, world->dead_for_us, false);
    return true;
}

/* ---- Processes and machines. */

/* At a boundary it is the first to come there who dies, so that rare ones are met as well. */
static bool crash(struct strike *strike)
{
    if (strike->fault->size == 0) {
        kill_for(strike->world, strike->host, strike->fault->for_us, false);
        return true;
    }
    strike->world->dies_at = (uint32_t)strike->fault->size;
    strike->world->dead_for_us = strike->fault->for_us;
    end_in(strike, strike->host, BOUNDARY_WAIT_US);
    return true;
}

static void crash_end(struct strike *strike)
{
    if (strike->world->dies_at == (uint32_t)strike->fault->size && strike->host->alive) {
        strike->world->dies_at = 0;
        kill_for(strike->world, strike->host, strike->fault->for_us, false);
    }
}

static bool silent(struct strike *strike)
{
    kill_for(strike->world, strike->host, strike->fault->for_us, true);
    return true;
}

static bool lose(struct strike *strike)
{
    if (!may_lose_one(strike->world)) {
        return false;
    }
    strike->world->lost_for_good++;
    strike->host->gone = true;
    sim_host_crash(strike->world, strike->host, strike->fault->size == 1);
    return true;
}

static bool site(struct strike *strike)
{
    struct world *const world = strike->world;
    const uint64_t lost = strike->host->site;
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (world->host[i].alive && world->host[i].site == lost) {
            kill_for(world, &world->host[i],
                     strike->fault->for_us + sim_between(&strike->random, 0, SECOND_US), true);
        }
    }
    return true;
}

static bool restart_all(struct strike *strike)
{
    struct world *const world = strike->world;
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (world->host[i].alive) {
            kill_for(world, &world->host[i],
                     sim_between(&strike->random, SECOND_US / 10, strike->fault->for_us), false);
        }
    }
    return true;
}

static bool pause_process(struct strike *strike)
{
    strike->host->paused_until_us = strike->world->now_us + strike->fault->for_us;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void nothing_to_undo(struct strike *strike)
{
    (void)strike;
}

static bool drain(struct strike *strike)
{
    strike->host->draining = true;
    strike->host->lent_less_at_us = strike->world->now_us;
    sim_host_simple(strike->world, strike->host, MESH_DRAIN);
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static bool leave(struct strike *strike)
{
    strike->host->leaving = true;
    sim_host_simple(strike->world, strike->host, MESH_LEAVE);
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void stop_then_start(struct strike *strike)
{
    if ((strike->host->draining || strike->host->leaving) && strike->host->alive) {
        kill_for(strike->world, strike->host, sim_between(&strike->random, SECOND_US, 20 * SECOND_US), false);
    }
}

/* ---- The network. */

static bool partition(struct strike *strike)
{
    struct world *const world = strike->world;
    for (uint32_t i = 0; i < world->host_count; i++) {
        world->host[i].group = sim_below(&strike->random, (uint32_t)strike->fault->size);
    }
    sim_network_changed(world);
    end_in(strike, NULL, strike->fault->for_us);
    return true;
}

static void partition_end(struct strike *strike)
{
    for (uint32_t i = 0; i < strike->world->host_count; i++) {
        strike->world->host[i].group = 0;
    }
}

static bool tangle(struct strike *strike)
{
    strike->world->network.tangle = strike->fault->draw;
    strike->world->network.tangle_permille = (uint32_t)strike->fault->size;
    sim_network_changed(strike->world);
    end_in(strike, NULL, strike->fault->for_us);
    return true;
}

static void tangle_end(struct strike *strike)
{
    strike->world->network.tangle_permille = 0;
}

static bool one_way(struct strike *strike)
{
    strike->host->mute = strike->fault->size == 0;
    strike->host->deaf = !strike->host->mute;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void open_both_ways(struct strike *strike)
{
    strike->host->mute = false;
    strike->host->deaf = false;
}

/* A flapping node is cut one way, then open, each for a moment, until its time is over. */
static bool flap(struct strike *strike)
{
    const bool cut = strike->host->mute || strike->host->deaf;
    open_both_ways(strike);
    if (!cut) {
        strike->host->mute = sim_chance(&strike->random, 500);
        strike->host->deaf = !strike->host->mute;
    }
    end_in(strike, strike->host, sim_between(&strike->random, SECOND_US / 2, 3 * SECOND_US));
    return true;
}

static void flap_again(struct strike *strike)
{
    if (strike->world->now_us < strike->fault->at_us + strike->fault->for_us) {
        flap(strike);
    } else {
        open_both_ways(strike);
    }
}

static bool delay(struct strike *strike)
{
    strike->host->delay_ms = (uint32_t)strike->fault->size;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void delay_end(struct strike *strike)
{
    strike->host->delay_ms = 0;
}

static bool narrow(struct strike *strike)
{
    strike->host->bytes_per_s = (uint32_t)strike->fault->size;
    strike->host->sends_until_us = strike->world->now_us;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void narrow_end(struct strike *strike)
{
    strike->host->bytes_per_s = 0;
}

static bool reset(struct strike *strike)
{
    const uint32_t count = strike->world->network.count;
    for (int32_t i = 0; count != 0 && i < strike->fault->size; i++) {
        sim_network_reset(strike->world, sim_below(&strike->random, count));
    }
    return count != 0;
}

/* A node that sends garbage is shut out by everybody it reaches. */
static bool garbage(struct strike *strike)
{
    struct world *const world = strike->world;
    bool reached = false;
    for (uint32_t i = 0; i < world->network.count; i++) {
        const struct link *const link = &world->network.link[i];
        if (!link->up || (link->host[0] != strike->host->index && link->host[1] != strike->host->index)) {
            continue;
        }
        struct host *const peer = &world->host[link->host[link->host[0] == strike->host->index]];
        peer->shuts_out = strike->host->identity;
        peer->shuts_out_until_us = world->now_us + strike->fault->for_us;
        reached = true;
    }
    return reached;
}

static bool replay(struct strike *strike)
{
    bool any = false;
    for (int32_t i = 0; i < strike->fault->size; i++) {
        const struct host *const to =
            live_from(strike->world, sim_below(&strike->random, strike->world->host_count));
        /* One draw per statement: the order within a call is the compiler's. */
        const uint32_t place = sim_below(&strike->random, SIM_CAPTURED);
        const int64_t in_us = sim_between(&strike->random, 0, SECOND_US);
        any = sim_network_replay(strike->world, place, strike->host, to, in_us) || any;
    }
    return any;
}

/* ---- Clocks. */

static void set_drift(struct world *world, struct host *host, int64_t ppm)
{
    host->base_local_us = sim_host_local_us(world, host);
    host->base_us = world->now_us;
    host->drift_ppm = ppm;
}

static bool drift(struct strike *strike)
{
    set_drift(strike->world, strike->host, strike->fault->size);
    return true;
}

static bool wall_jump(struct strike *strike)
{
    strike->host->wall_offset_ms += strike->fault->size;
    return true;
}

/* ---- Devices and their owner. */

static bool claim(struct strike *strike)
{
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        strike->host->lent[i] = strike->fault->size == 0 ? 0 : strike->host->slots[i] / 2;
    }
    strike->host->lent_less_at_us = strike->world->now_us;
    sim_host_devices(strike->world, strike->host);
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void lend_all(struct world *world, struct host *host)
{
    memcpy(host->lent, host->slots, sizeof host->lent);
    if (host->alive && !host->revoked) {
        sim_host_devices(world, host);
    }
}

static void claim_end(struct strike *strike)
{
    lend_all(strike->world, strike->host);
}

static bool device(struct strike *strike, enum device_fault how)
{
    strike->host->device_fault = how;
    strike->host->device_slowness = (uint32_t)strike->fault->size;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static bool bad_device(struct strike *strike)
{
    return device(strike, DEVICE_BAD);
}

static bool slow_device(struct strike *strike)
{
    return device(strike, DEVICE_SLOW);
}

static bool stuck_device(struct strike *strike)
{
    return device(strike, DEVICE_STUCK);
}

static bool garbled(struct strike *strike)
{
    return device(strike, DEVICE_GARBLES);
}

/* Only one site ever does, so that two of three are right. */
static bool wrong_results(struct strike *strike)
{
    struct world *const world = strike->world;
    if (world->lying_site == 0) {
        world->lying_site = strike->host->site;
    }
    struct host *first = NULL;
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (host->site == world->lying_site && host->device_fault == DEVICE_FINE) {
            host->device_fault = DEVICE_LIES;
            host->lie_permille = (uint32_t)strike->fault->size;
            first = first != NULL ? first : host;
        }
    }
    if (first != NULL) {
        end_in(strike, first, strike->fault->for_us);
    }
    return first != NULL;
}

static void wrong_results_end(struct strike *strike)
{
    for (uint32_t i = 0; i < strike->world->host_count; i++) {
        struct host *const host = &strike->world->host[i];
        if (host->device_fault == DEVICE_LIES) {
            host->device_fault = DEVICE_FINE;
        }
    }
}

/* Somebody looks after the device: what was stuck there is killed. */
static void device_end(struct strike *strike)
{
    strike->host->device_fault = DEVICE_FINE;
    if (strike->host->alive) {
        sim_device_unstick(strike->world, strike->host);
    }
}

/* ---- Disks. */

static bool slow_disk(struct strike *strike)
{
    strike->host->sync_most_ms = (uint32_t)strike->fault->size;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void slow_disk_end(struct strike *strike)
{
    strike->host->sync_most_ms = 0;
}

static bool full_disk(struct strike *strike)
{
    strike->host->disk_full = true;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void full_disk_end(struct strike *strike)
{
    strike->host->disk_full = false;
}

/* Its next sync fails; sim_host_synced counts it. */
static bool failed_sync(struct strike *strike)
{
    strike->host->sync_fails = true;
    strike->host->dead_for_us = strike->fault->for_us;
    return false;
}

static bool rot(struct strike *strike)
{
    kill_for(strike->world, strike->host, strike->fault->for_us, false);
    sim_disk_rot(strike->world, strike->host, (uint32_t)strike->fault->size, &strike->random);
    return true;
}

static bool wiped(struct strike *strike)
{
    kill_for(strike->world, strike->host, strike->fault->for_us, false);
    sim_disk_replace(strike->world, strike->host, &(struct disk){0});
    return true;
}

static bool rollback(struct strike *strike)
{
    if (strike->host->snapshot != NULL) {
        return false;
    }
    strike->host->snapshot = sim_disk_copy(strike->world, &strike->host->disk);
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void rollback_end(struct strike *strike)
{
    struct host *const host = strike->host;
    if (host->alive && host->snapshot != NULL) {
        kill_for(strike->world, host, sim_between(&strike->random, SECOND_US, 5 * SECOND_US), false);
        sim_disk_replace(strike->world, host, host->snapshot);
    }
    sim_disk_free(host->snapshot);
    free(host->snapshot);
    host->snapshot = NULL;
}

/* ---- People. */

static void issue_revocation(struct strike *strike, struct host *subject)
{
    struct world *const world = strike->world;
    struct host *const issuer = live_from(world, sim_below(&strike->random, world->host_count));
    end_in(strike, subject, strike->fault->for_us);
    if (issuer == NULL || issuer == subject) {
        return;
    }
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION,
                                 .origin = world->authority,
                                 .incarnation = 1,
                                 .version = ++world->revocations};
    record.body.revocation.subject = subject->id;
    sim_host_record(world, issuer, &issuer->id, sim_payload_of_record(&record));
}

static bool revoke(struct strike *strike)
{
    if (!may_lose_one(strike->world)) {
        return false;
    }
    strike->host->revoked = true;
    strike->world->lost_for_good++;
    issue_revocation(strike, strike->host);
    return true;
}

/* An issuer that died before its disk had the revocation told its operator nothing: it is issued again elsewhere. */
static void revoke_again(struct strike *strike)
{
    for (uint32_t i = 0; i < strike->world->host_count; i++) {
        const struct host *const host = &strike->world->host[i];
        if (host->alive && !is_clone(host) && host != strike->host &&
            sim_known_see(&host->known, strike->host->index).state == MESH_REVOKED) {
            return;
        }
    }
    issue_revocation(strike, strike->host);
}

static bool cancel(struct strike *strike)
{
    struct world *const world = strike->world;
    const uint32_t from = sim_below(&strike->random, world->job_count + 1);
    for (uint32_t i = 0; i < world->job_count; i++) {
        const uint32_t number = (from + i) % world->job_count;
        const struct sim_job *const job = &world->job[number];
        struct host *const home = &world->host[job->home];
        if (job->acknowledged && !job->finished && !job->forgone && home->alive &&
            home->paused_until_us <= world->now_us) {
            sim_host_cancel(world, home, number);
            return true;
        }
    }
    return false;
}

/* A second process with a copy of its identity and of what it knew of the others, but of none of its jobs. */
static bool clone(struct strike *strike)
{
    struct world *const world = strike->world;
    const uint32_t original = strike->host->index;
    if (world->host_count == world->host_room) {
        return false;
    }
    char name[16];
    snprintf(name, sizeof name, "n%u-twin", original % 1000000);
    struct host *const twin = sim_world_add_host(world, name, original);
    const struct host *const host = &world->host[original];
    twin->site = host->site;
    twin->region = host->region;
    twin->interior = host->interior;
    twin->price_micro = host->price_micro;
    twin->limits = host->limits;
    sim_disk_copy_records(&twin->disk, &host->disk);
    sim_host_start(world, twin);
    sim_truth_cloned(world);
    end_in(strike, twin, strike->fault->for_us);
    return true;
}

/* Peers had sessions with that identity: with whom, they can't tell, so each of them is a new one now. */
static void end_clone(struct world *world, struct host *twin)
{
    if (twin->gone) {
        return;
    }
    twin->gone = true;
    sim_host_crash(world, twin, false);
    for (uint32_t i = 0; i < world->network.count; i++) {
        const struct link *const link = &world->network.link[i];
        if (link->host[0] == twin->identity || link->host[1] == twin->identity) {
            sim_network_reset(world, i);
        }
    }
}

static void clone_end(struct strike *strike)
{
    end_clone(strike->world, strike->host);
}

/* The core of `host` says that it is one of two. The operator keeps the original and ends the copy, whichever it is. */
void sim_faults_cloned(struct world *world, struct host *host)
{
    struct host *const original = &world->host[host->identity];
    bool real = original->rolled_back;
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const twin = &world->host[i];
        if (twin->identity == original->index && is_clone(twin)) {
            real = true;
            end_clone(world, twin);
        }
    }
    if (!real) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT,
                       "it says that another process has its identity: none has");
        return;
    }
    if (host == original) {
        kill_for(world, original, 3 * SECOND_US, false);
    }
}

static bool lie(struct strike *strike)
{
    strike->host->lies_of_slots = (uint16_t)strike->fault->size;
    end_in(strike, strike->host, strike->fault->for_us);
    return true;
}

static void lie_end(struct strike *strike)
{
    strike->host->lies_of_slots = 0;
}

/* ---- The table. */

static const struct {
    bool (*strike)(struct strike *strike);
    void (*end)(struct strike *strike);
    bool tells_core;  /* the core of a stopped process can't be told anything */
    bool ends_healed; /* ends in its own time although everything healed */
} acts[SIM_FAULT_KIND_COUNT] = {
    [SIM_FAULT_CRASH] = {.strike = crash, .end = crash_end},
    [SIM_FAULT_SILENT] = {.strike = silent},
    [SIM_FAULT_LOSE] = {.strike = lose},
    [SIM_FAULT_SITE] = {.strike = site},
    [SIM_FAULT_RESTART_ALL] = {.strike = restart_all},
    [SIM_FAULT_PAUSE] = {.strike = pause_process, .end = nothing_to_undo, .ends_healed = true},
    [SIM_FAULT_PARTITION] = {.strike = partition, .end = partition_end},
    [SIM_FAULT_TANGLE] = {.strike = tangle, .end = tangle_end},
    [SIM_FAULT_ONE_WAY] = {.strike = one_way, .end = open_both_ways},
    [SIM_FAULT_FLAP] = {.strike = flap, .end = flap_again},
    [SIM_FAULT_DELAY] = {.strike = delay, .end = delay_end},
    [SIM_FAULT_NARROW] = {.strike = narrow, .end = narrow_end},
    [SIM_FAULT_DRIFT] = {.strike = drift},
    [SIM_FAULT_WALL] = {.strike = wall_jump},
    [SIM_FAULT_RESET] = {.strike = reset},
    [SIM_FAULT_GARBAGE] = {.strike = garbage},
    [SIM_FAULT_REPLAY] = {.strike = replay},
    [SIM_FAULT_DRAIN] = {.strike = drain, .end = stop_then_start, .tells_core = true},
    [SIM_FAULT_LEAVE] = {.strike = leave, .end = stop_then_start, .tells_core = true},
    [SIM_FAULT_OWNER] = {.strike = claim, .end = claim_end, .tells_core = true},
    [SIM_FAULT_REVOKE] = {.strike = revoke, .end = revoke_again, .ends_healed = true},
    [SIM_FAULT_CANCEL] = {.strike = cancel},
    [SIM_FAULT_CLONE] = {.strike = clone, .end = clone_end},
    [SIM_FAULT_LIAR] = {.strike = lie, .end = lie_end},
    [SIM_FAULT_BAD_DEVICE] = {.strike = bad_device, .end = device_end},
    [SIM_FAULT_SLOW_DEVICE] = {.strike = slow_device, .end = device_end},
    [SIM_FAULT_STUCK_DEVICE] = {.strike = stuck_device, .end = device_end},
    [SIM_FAULT_GARBLED] = {.strike = garbled, .end = device_end},
    [SIM_FAULT_WRONG] = {.strike = wrong_results, .end = wrong_results_end},
    [SIM_FAULT_SLOW_DISK] = {.strike = slow_disk, .end = slow_disk_end},
    [SIM_FAULT_FULL_DISK] = {.strike = full_disk, .end = full_disk_end},
    [SIM_FAULT_FAILED_SYNC] = {.strike = failed_sync},
    [SIM_FAULT_ROT] = {.strike = rot},
    [SIM_FAULT_WIPED] = {.strike = wiped},
    [SIM_FAULT_ROLLBACK] = {.strike = rollback, .end = rollback_end},
};

static const struct sim_fault_kind_info infos[SIM_FAULT_KIND_COUNT] = {
#define SIM_FAULT_INFO(kind, name, counter, least_ms, most_ms, size_least, size_most)                        \
    {name, (least_ms)*INT64_C(1000), (most_ms)*INT64_C(1000), size_least, size_most},
    SIM_FAULT_KINDS(SIM_FAULT_INFO)
#undef SIM_FAULT_INFO
};

static const size_t counters[SIM_FAULT_KIND_COUNT] = {
#define SIM_FAULT_COUNTER(kind, name, counter, ...) offsetof(struct sim_counters, counter),
    SIM_FAULT_KINDS(SIM_FAULT_COUNTER)
#undef SIM_FAULT_COUNTER
};

const struct sim_fault_kind_info *sim_fault_info(enum sim_fault_kind kind)
{
    return &infos[kind];
}

const char *sim_fault_name(uint32_t kind)
{
    return kind < SIM_FAULT_KIND_COUNT ? infos[kind].name : "end of a fault";
}

void sim_faults_schedule(struct world *world)
{
    for (uint32_t i = 0; i < world->plan->count; i++) {
        struct event event = sim_world_event(world, world->plan->fault[i].at_us, HAPPEN_FAULT, SIM_NONE);
        event.a = i;
        sim_world_push(world, event);
    }
    struct network *const network = &world->network;
    network->adversarial = world->plan->adversarial;
    network->loss_permille = world->plan->loss_permille;
    network->double_permille = world->plan->double_permille;
    network->reorder_permille = world->plan->reorder_permille;
    network->corrupt_permille = world->plan->corrupt_permille;
}

/* Draws anew at each moment, so that what flaps doesn't always choose the same. */
static struct strike strike_of(struct world *world, uint32_t number, struct host *host)
{
    const struct sim_fault *const fault = &world->plan->fault[number];
    return (struct strike){.world = world,
                           .fault = fault,
                           .number = number,
                           .host = host,
                           .random = {sim_mix(fault->draw, (uint64_t)world->now_us)}};
}

void sim_faults_strike(struct world *world, const struct event *event)
{
    const enum sim_fault_kind kind = world->plan->fault[event->a].kind;
    struct host *const host = live_from(world, world->plan->fault[event->a].node);
    if (host == NULL || (host->paused_until_us > world->now_us && acts[kind].tells_core)) {
        return;
    }
    sim_trace(world, host, TRACE_FAULT, kind, SIM_NONE, 0, 0);
    struct strike strike = strike_of(world, event->a, host);
    if (acts[kind].strike(&strike)) {
        ++*(uint64_t *)(void *)((char *)&world->result->world + counters[kind]);
    }
}

void sim_faults_end(struct world *world, const struct event *event)
{
    if (event->a != SIM_NONE) { /* else a pause of a scenario */
        const enum sim_fault_kind kind = world->plan->fault[event->a].kind;
        if (world->healed && !acts[kind].ends_healed) {
            return;
        }
        struct strike strike =
            strike_of(world, event->a, event->b != SIM_NONE ? &world->host[event->b] : NULL);
        acts[kind].end(&strike);
    }
    sim_network_changed(world);
}

/* ---- The end of all faults. */

static void heal_network(struct world *world)
{
    struct network *const network = &world->network;
    network->adversarial = false; /* in order again, as the real transport is */
    network->loss_permille = 0;
    network->double_permille = 0;
    network->reorder_permille = 0;
    network->corrupt_permille = 0;
    network->tangle_permille = 0;
}

static void heal_faults(struct world *world, struct host *host)
{
    host->group = sim_world_plant(world, SIM_PLANT_NO_HEAL) ? host->index % 2 : 0;
    host->mute = false;
    host->deaf = false;
    host->delay_ms = 0;
    host->bytes_per_s = 0;
    host->shuts_out_until_us = 0;
    host->sync_most_ms = 0;
    host->disk_full = false;
    host->sync_fails = false;
    host->lies_of_slots = 0;
    host->paused_until_us = 0;
    host->device_fault = DEVICE_FINE;
}

static void heal_process(struct world *world, struct host *host)
{
    if (is_clone(host)) {
        end_clone(world, host);
        return;
    }
    if (host->drift_ppm != 0 && host->alive) {
        set_drift(world, host, 0);
    }
    if (host->alive && (host->draining || host->leaving)) {
        sim_host_crash(world, host, false);
    }
    if (!host->alive && !host->gone && !host->revoked) {
        sim_host_start(world, host);
    }
    if (memcmp(host->lent, host->slots, sizeof host->lent) != 0) {
        lend_all(world, host);
    }
    if (host->alive) {
        sim_device_unstick(world, host);
    }
}

void sim_faults_heal(struct world *world)
{
    world->healed = true;
    world->dies_at = 0;
    heal_network(world);
    for (uint32_t i = 0; i < world->host_count; i++) {
        heal_faults(world, &world->host[i]);
    }
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        heal_process(world, &world->host[i]);
    }
    sim_network_changed(world);
}
