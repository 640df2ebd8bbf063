/*
 * What goes wrong. A run's faults are drawn from its seed and its profile's table of weights, spread over the
 * first two thirds of the run; each lasts for a while and is taken back; then everything heals, so that the
 * last third can demand progress. What stays: nodes lost for good and nodes revoked, a quarter of the mesh at
 * most.
 */
#include "node/sim/world.h"

enum fault {
    FAULT_CRASH = 0,
    FAULT_SILENT,
    FAULT_LOSE,
    FAULT_RESTART_ALL,
    FAULT_PAUSE,
    FAULT_PARTITION,
    FAULT_ONE_WAY,
    FAULT_FLAP,
    FAULT_DELAY,
    FAULT_DRIFT,
    FAULT_WALL,
    FAULT_RESET,
    FAULT_DRAIN,
    FAULT_LEAVE,
    FAULT_OWNER,
    FAULT_REVOKE,
    FAULT_CANCEL,
    FAULT_DEVICE,
    FAULT_DISK,
    FAULTS,
};

struct profile {
    const char *name;
    uint32_t adversarial_permille; /* of seeds that use the adversarial network */
    uint32_t loss_permille;
    uint8_t weight[FAULTS];
};

const struct sim_profile_name sim_profiles[] = {
    {"mixed", "everything, on either network (the default)"},
    {"none", "a calm mesh"},
    {"crash", "processes and machines die and come back"},
    {"partition", "cuts, one-way cuts, flapping, delay"},
    {"lossy", "the adversarial network: loss, duplicates, reordering"},
    {"owner", "owners claim devices, workers crash and hang, nodes drain"},
    {NULL, NULL},
};

static const struct profile profiles[] = {
    {"mixed",
     500,
     20,
     {[FAULT_CRASH] = 12,
      [FAULT_SILENT] = 8,
      [FAULT_LOSE] = 3,
      [FAULT_RESTART_ALL] = 1,
      [FAULT_PAUSE] = 10,
      [FAULT_PARTITION] = 8,
      [FAULT_ONE_WAY] = 6,
      [FAULT_FLAP] = 3,
      [FAULT_DELAY] = 6,
      [FAULT_DRIFT] = 4,
      [FAULT_WALL] = 4,
      [FAULT_RESET] = 8,
      [FAULT_DRAIN] = 4,
      [FAULT_LEAVE] = 3,
      [FAULT_OWNER] = 10,
      [FAULT_REVOKE] = 2,
      [FAULT_CANCEL] = 8,
      [FAULT_DEVICE] = 8,
      [FAULT_DISK] = 5}},
    {"none", 0, 0, {[FAULT_CANCEL] = 1}},
    {"crash",
     0,
     0,
     {[FAULT_CRASH] = 4, [FAULT_SILENT] = 4, [FAULT_LOSE] = 1, [FAULT_RESTART_ALL] = 1, [FAULT_DISK] = 2}},
    {"partition",
     200,
     10,
     {[FAULT_PARTITION] = 4, [FAULT_ONE_WAY] = 3, [FAULT_FLAP] = 2, [FAULT_DELAY] = 3, [FAULT_RESET] = 2}},
    {"lossy", 1000, 80, {[FAULT_DELAY] = 1, [FAULT_CANCEL] = 1, [FAULT_CRASH] = 1}},
    {"owner",
     0,
     5,
     {[FAULT_OWNER] = 4, [FAULT_DEVICE] = 4, [FAULT_DRAIN] = 2, [FAULT_LEAVE] = 1, [FAULT_CANCEL] = 2}},
};

static const char *const names[FAULTS] = {
    "crash",       "machine lost", "lost for good", "restart of all", "pause",     "partition", "one-way cut",
    "flapping",    "delay",        "clock drift",   "wall clock",     "reset",     "drain",     "leave",
    "owner claim", "revocation",   "cancel",        "bad device",     "slow disk",
};

const char *sim_fault_name(uint32_t fault)
{
    return fault < FAULTS ? names[fault] : "end of a fault";
}

static const struct profile *profile_find(const char *name)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++) {
        if (strcmp(profiles[i].name, name) == 0) {
            return &profiles[i];
        }
    }
    return &profiles[0];
}

void sim_faults_plan(struct world *world)
{
    const struct profile *const profile = profile_find(world->options.profile);
    struct network *const network = &world->network;
    network->adversarial = sim_chance(&world->random, profile->adversarial_permille);
    network->loss_permille =
        profile->loss_permille != 0 ? sim_below(&world->random, profile->loss_permille + 1) : 0;
    network->double_permille = network->adversarial ? 30 : 0;
    network->reorder_permille = network->adversarial ? 100 : 0;
    uint32_t total = 0;
    for (uint32_t i = 0; i < FAULTS; i++) {
        total += profile->weight[i];
    }
    for (uint32_t i = 0; i < world->options.faults; i++) {
        uint32_t draw = sim_below(&world->random, total);
        uint32_t fault = 0;
        while (draw >= profile->weight[fault]) {
            draw -= profile->weight[fault++];
        }
        const int64_t at_us = sim_between(&world->random, 20 * SECOND_US, world->heal_at_us - 5 * SECOND_US);
        struct event event = sim_world_event(world, at_us, HAPPEN_FAULT, SIM_NONE);
        event.a = fault;
        sim_world_push(world, event);
    }
}

static struct host *pick_live(struct world *world)
{
    const uint32_t from = sim_below(&world->random, world->host_count);
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[(from + i) % world->host_count];
        if (host->alive && !host->revoked) {
            return host;
        }
    }
    return NULL;
}

static bool may_lose_one(const struct world *world)
{
    return (world->lost_for_good + 1) * 4 <= world->host_count;
}

static void end_later(struct world *world, uint32_t fault, const struct host *host, int64_t least_us,
                      int64_t most_us)
{
    struct event event =
        sim_world_event(world, sim_between(&world->random, least_us, most_us), HAPPEN_FAULT_END, SIM_NONE);
    event.a = fault;
    event.b = host != NULL ? host->index : SIM_NONE;
    sim_world_push(world, event);
}

static void start_later(struct world *world, struct host *host, int64_t least_us, int64_t most_us)
{
    struct event event =
        sim_world_event(world, sim_between(&world->random, least_us, most_us), HAPPEN_START, SIM_NONE);
    event.a = host->index;
    sim_world_push(world, event);
}

static void strike_crash(struct world *world, struct host *host, bool silent)
{
    sim_host_crash(world, host, silent);
    start_later(world, host, SECOND_US / 10,
                sim_chance(&world->random, 300) ? 90 * SECOND_US : 15 * SECOND_US);
}

static void strike_restart_all(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (world->host[i].alive) {
            strike_crash(world, &world->host[i], false);
        }
    }
}

static void strike_partition(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        world->host[i].group = sim_below(&world->random, 2);
    }
    sim_network_changed(world);
    end_later(world, FAULT_PARTITION, NULL, 2 * SECOND_US, 60 * SECOND_US);
}

static void strike_one_way(struct world *world, struct host *host, uint32_t fault, int64_t most_us)
{
    host->mute = sim_chance(&world->random, 500);
    host->deaf = !host->mute;
    end_later(world, fault, host, SECOND_US / 2, most_us);
}

static void strike_reset(struct world *world)
{
    const uint32_t count = world->network.count;
    for (uint32_t i = 0; count != 0 && i < 3; i++) {
        sim_network_reset(world, sim_below(&world->random, count));
    }
}

static void issue_revocation(struct world *world, struct host *subject)
{
    struct host *const issuer = pick_live(world);
    if (issuer == NULL || issuer == subject) {
        end_later(world, FAULT_REVOKE, subject, 2 * SECOND_US, 5 * SECOND_US);
        return;
    }
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION,
                                 .origin = world->authority,
                                 .incarnation = 1,
                                 .version = ++world->revocations};
    record.body.revocation.subject = subject->id;
    sim_host_record(world, issuer, &issuer->id, sim_payload_of_record(&record));
    end_later(world, FAULT_REVOKE, subject, 2 * SECOND_US, 5 * SECOND_US);
}

/* An issuer that died before its disk had the revocation told its operator nothing: it is issued again elsewhere. */
static void revoke_again(struct world *world, struct host *subject)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        if (host->alive && host != subject &&
            sim_known_see(&host->known, subject->index).state == MESH_REVOKED) {
            return;
        }
    }
    issue_revocation(world, subject);
}

static void strike_cancel(struct world *world)
{
    const uint32_t from = sim_below(&world->random, world->job_count + 1);
    for (uint32_t i = 0; i < world->job_count; i++) {
        const uint32_t number = (from + i) % world->job_count;
        struct sim_job *const job = &world->job[number];
        if (job->acknowledged && !job->finished && world->host[job->home].alive) {
            world->result->world.cancelled++;
            sim_host_cancel(world, &world->host[job->home], number);
            return;
        }
    }
}

static void set_drift(struct world *world, struct host *host, int64_t ppm)
{
    host->base_local_us = sim_host_local_us(world, host);
    host->base_us = world->now_us;
    host->drift_ppm = ppm;
}

static void strike_owner(struct world *world, struct host *host)
{
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        host->lent[i] = sim_chance(&world->random, 700) ? 0 : host->slots[i] / 2;
    }
    host->lent_less_at_us = world->now_us;
    sim_host_devices(world, host);
    end_later(world, FAULT_OWNER, host, SECOND_US, 60 * SECOND_US);
}

static void strike_leave(struct world *world, struct host *host)
{
    host->leaving = true;
    sim_host_simple(world, host, MESH_LEAVE);
    end_later(world, FAULT_LEAVE, host, 2 * SECOND_US, 5 * SECOND_US);
}

static void strike_drain(struct world *world, struct host *host)
{
    host->draining = true;
    host->lent_less_at_us = world->now_us;
    sim_host_simple(world, host, MESH_DRAIN);
    end_later(world, FAULT_DRAIN, host, 10 * SECOND_US, 60 * SECOND_US);
}

void sim_faults_strike(struct world *world, const struct event *event)
{
    struct host *const host = pick_live(world);
    if (host == NULL) {
        return;
    }
    sim_trace(world, host, TRACE_FAULT, event->a, SIM_NONE, 0, 0);
    struct sim_counters *const count = &world->result->world;
    if (host->paused_until_us > world->now_us && event->a >= FAULT_DRAIN) {
        return; /* the core of a stopped process can't be told anything */
    }
    switch ((enum fault)event->a) {
    case FAULT_CRASH:
        count->crashes++;
        if (sim_chance(&world->random, 600)) {
            host->doomed = true;
        } else {
            strike_crash(world, host, false);
        }
        break;
    case FAULT_SILENT:
        count->silent_deaths++;
        strike_crash(world, host, true);
        break;
    case FAULT_LOSE:
        if (may_lose_one(world)) {
            count->losses++;
            world->lost_for_good++;
            host->gone = true;
            sim_host_crash(world, host, sim_chance(&world->random, 500));
        }
        break;
    case FAULT_RESTART_ALL:
        count->restarts_of_all++;
        strike_restart_all(world);
        break;
    case FAULT_PAUSE:
        count->pauses++;
        host->paused_until_us =
            world->now_us + sim_between(&world->random, SECOND_US / 10,
                                        sim_chance(&world->random, 500) ? 4 * SECOND_US : 30 * SECOND_US);
        end_later(world, FAULT_PAUSE, host, host->paused_until_us - world->now_us,
                  host->paused_until_us - world->now_us);
        break;
    case FAULT_PARTITION:
        count->partitions++;
        strike_partition(world);
        break;
    case FAULT_ONE_WAY:
        count->one_ways++;
        strike_one_way(world, host, FAULT_ONE_WAY, 40 * SECOND_US);
        break;
    case FAULT_FLAP:
        count->flaps++;
        strike_one_way(world, host, FAULT_FLAP, 3 * SECOND_US);
        break;
    case FAULT_DELAY:
        count->delay_spikes++;
        host->delay_ms = (uint32_t)sim_between(&world->random, 50, 3000);
        end_later(world, FAULT_DELAY, host, SECOND_US, 20 * SECOND_US);
        break;
    case FAULT_DRIFT:
        count->clock_drifts++;
        set_drift(world, host, sim_between(&world->random, -50000, 50000));
        break;
    case FAULT_WALL:
        count->wall_jumps++;
        host->wall_offset_ms += sim_between(&world->random, -3600000, 3600000);
        break;
    case FAULT_RESET:
        count->link_resets++;
        strike_reset(world);
        break;
    case FAULT_DRAIN:
        count->drains++;
        strike_drain(world, host);
        break;
    case FAULT_LEAVE:
        count->leaves++;
        strike_leave(world, host);
        break;
    case FAULT_OWNER:
        count->owner_claims++;
        strike_owner(world, host);
        break;
    case FAULT_REVOKE:
        if (may_lose_one(world)) {
            host->revoked = true;
            world->lost_for_good++;
            count->revocations++;
            issue_revocation(world, host);
        }
        break;
    case FAULT_CANCEL:
        strike_cancel(world);
        break;
    case FAULT_DEVICE:
        count->bad_devices++;
        host->bad_device = true;
        end_later(world, FAULT_DEVICE, host, 5 * SECOND_US, 60 * SECOND_US);
        break;
    case FAULT_DISK:
        count->slow_disks++;
        host->slow_disk = true;
        end_later(world, FAULT_DISK, host, 5 * SECOND_US, 60 * SECOND_US);
        break;
    case FAULTS:
        break;
    }
}

static void lend_all(struct world *world, struct host *host)
{
    memcpy(host->lent, host->slots, sizeof host->lent);
    if (host->alive && !host->revoked) {
        sim_host_devices(world, host);
    }
}

/* A flapping node is cut again after as short a rest, until it heals for good. */
static void flap_again(struct world *world, struct host *host)
{
    const bool cut = host->mute || host->deaf;
    host->mute = false;
    host->deaf = false;
    if (!cut) {
        host->mute = sim_chance(&world->random, 500);
        host->deaf = !host->mute;
    }
    if (sim_chance(&world->random, 850)) {
        end_later(world, FAULT_FLAP, host, SECOND_US / 2, 4 * SECOND_US);
    } else {
        host->mute = false;
        host->deaf = false;
    }
}

/* The doomed host has begun to save: it dies before, while or just after that becomes durable. */
void sim_faults_doom(struct world *world, struct host *host, int64_t in_us)
{
    end_later(world, FAULT_CRASH, host, 0, in_us + 500);
}

void sim_faults_end(struct world *world, const struct event *event)
{
    if (world->healed && event->a != FAULT_PAUSE && event->a != FAULT_REVOKE) {
        return;
    }
    struct host *const host = event->b != SIM_NONE ? &world->host[event->b] : NULL;
    switch ((enum fault)event->a) {
    case FAULT_CRASH:
        if (host->doomed && host->alive) {
            host->doomed = false;
            strike_crash(world, host, false);
        }
        break;
    case FAULT_REVOKE:
        revoke_again(world, host);
        break;
    case FAULT_PARTITION:
        for (uint32_t i = 0; i < world->host_count; i++) {
            world->host[i].group = 0;
        }
        break;
    case FAULT_ONE_WAY:
        host->mute = false;
        host->deaf = false;
        break;
    case FAULT_FLAP:
        flap_again(world, host);
        break;
    case FAULT_DELAY:
        host->delay_ms = 0;
        break;
    case FAULT_DRAIN:
    case FAULT_LEAVE:
        if ((host->draining || host->leaving) && host->alive) {
            sim_host_crash(world, host, false);
            start_later(world, host, SECOND_US, 20 * SECOND_US);
        }
        break;
    case FAULT_OWNER:
        lend_all(world, host);
        break;
    case FAULT_DEVICE:
        host->bad_device = false;
        break;
    case FAULT_DISK:
        host->slow_disk = false;
        break;
    default:
        break;
    }
    sim_network_changed(world);
}

void sim_faults_heal(struct world *world)
{
    world->healed = true;
    world->network.loss_permille = 0;
    world->network.double_permille = 0;
    world->network.reorder_permille = 0;
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        struct host *const host = &world->host[i];
        if (!sim_world_plant(world, SIM_PLANT_NO_HEAL)) {
            host->group = 0;
        } else {
            host->group = i % 2;
        }
        host->mute = false;
        host->deaf = false;
        host->delay_ms = 0;
        host->bad_device = false;
        host->slow_disk = false;
        host->doomed = false;
        host->paused_until_us = 0;
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
    }
    sim_network_changed(world);
}
