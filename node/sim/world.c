/* The world: nodes, jobs and time. */
#include "node/sim/world.h"

#include <stdio.h>

struct mesh_id sim_id(uint64_t seed, uint32_t index)
{
    struct mesh_id id;
    for (uint32_t word = 0; word < 4; word++) {
        const uint64_t bits = sim_mix(sim_mix(seed, index), word);
        for (uint32_t byte = 0; byte < 8; byte++) {
            id.bytes[word * 8 + byte] = (uint8_t)(bits >> (8 * byte));
        }
    }
    for (uint32_t byte = 0; byte < 4; byte++) {
        id.bytes[28 + byte] = (uint8_t)(index >> (8 * byte));
    }
    return id;
}

/* An id carries its index in its last bytes, so that looking it up costs a comparison. */
static uint32_t id_index(const struct mesh_id *id)
{
    return (uint32_t)id->bytes[28] | (uint32_t)id->bytes[29] << 8 | (uint32_t)id->bytes[30] << 16 |
           (uint32_t)id->bytes[31] << 24;
}

uint32_t sim_world_identity(const struct world *world, const struct mesh_id *id)
{
    const uint32_t index = id_index(id);
    if (index >= world->host_count || memcmp(&world->host[index].id, id, sizeof *id) != 0) {
        return SIM_NONE;
    }
    return index;
}

uint32_t sim_world_bearer(const struct world *world, uint32_t identity, uint32_t after)
{
    if (world->doubles == 0) {
        return after == SIM_NONE ? identity : SIM_NONE;
    }
    for (uint32_t i = after + 1; i < world->host_count; i++) { /* SIM_NONE + 1 is 0 */
        if (world->host[i].identity == identity) {
            return i;
        }
    }
    return SIM_NONE;
}

#define JOB_IDS 0x40000000u /* job ids carry their number from here on */

uint32_t sim_world_job(const struct world *world, const struct mesh_id *id)
{
    const uint32_t index = id_index(id) - JOB_IDS;
    if (index >= world->job_count || memcmp(&world->job[index].spec.id, id, sizeof *id) != 0) {
        return SIM_NONE;
    }
    return index;
}

struct event sim_world_event(const struct world *world, int64_t in_us, enum happening what, uint32_t node)
{
    return (struct event){.at_us = world->now_us + in_us,
                          .what = what,
                          .node = node,
                          .life = node != SIM_NONE ? world->host[node].life : 0};
}

void sim_world_push(struct world *world, struct event event)
{
    sim_heap_push(&world->heap, event);
}

bool sim_world_plant(struct world *world, enum sim_plant plant)
{
    if (world->options.plant != plant) {
        return false;
    }
    world->planted++;
    return true;
}

/* ---- Jobs. */

/* Device time of one job at most, so that a run's jobs can end in its last third even on a single slot. */
#define JOB_DEVICE_US_MAX (30 * SECOND_US)

/* A full check of one core takes time with what it holds, which is much there. */
#define CROWDED_CHECK_EVERY 64

/* With more nodes than 128 a node would hardly take so many steps as such a check costs. */
#define CHECK_EVERY_MOST 4096

/* A job that fills hundreds of slots with bundles of a shard or two. */
static void crowd_job(struct world *world, struct sim_job *job)
{
    job->spec.shard_count = 300 + sim_below(&world->random, 600);
    job->spec.bundle_shards_max = 1 + sim_below(&world->random, 2);
    job->spec.classes = 1;
    job->spec.local_only = false;
    job->shard_us = (uint32_t)sim_between(&world->random, SECOND_US / 2, 3 * SECOND_US);
    free(job->crashes);
    job->crashes = sim_alloc(job->spec.shard_count, 1);
}

/*
 * Most have three copies; a few insist on what they ask for. While some node's program knows no journals, its operators
 * ask for one.
 */
static void draw_copies(const struct world *world, struct mesh_job_spec *spec, uint32_t number)
{
    struct sim_random own = {sim_mix(sim_mix(world->options.seed, number), 0x6c616e72756f6a)};
    const uint32_t draw = sim_below(&own, 100);
    spec->copies = draw < 60 ? 3 : draw < 75 ? 1 : draw < 90 ? 2 : 5;
    spec->copies_min = sim_chance(&own, 100) ? spec->copies : 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (sim_host_program(world, &world->host[i]) < mesh_message_since(MESH_APPEND) ||
            world->options.plant == SIM_PLANT_OLD_EPOCH) { /* which only a single copy's restart shows */
            spec->copies = 1;
            spec->copies_min = 0;
        }
    }
}

/* Every third is checked by chance, or insists on a quorum where there are sites enough. */
static void draw_verify(const struct world *world, struct mesh_job_spec *spec, uint32_t number)
{
    struct sim_random own = {sim_mix(sim_mix(world->options.seed, number), 0x766572696679)};
    const uint32_t draw = sim_below(&own, 100);
    spec->verify_permille = (uint16_t)(sim_chance(&own, 500) ? sim_below(&own, 1001) : 0);
    if (draw < 25) {
        spec->verify = MESH_VERIFY_SPOT;
    } else if (draw < 35 && world->options.nodes >= 3 * world->options.site_nodes && !spec->local_only) {
        spec->verify = MESH_VERIFY_QUORUM;
    }
}

uint32_t sim_world_new_job(struct world *world)
{
    struct sim_random *const random = &world->random;
    world->job = sim_grow(world->job, world->job_count + 1, sizeof *world->job);
    const uint32_t number = world->job_count;
    struct sim_job *const job = &world->job[number];
    const uint32_t shards = sim_chance(random, 700) ? 1 + sim_below(random, 16) : 1 + sim_below(random, 150);
    /* One draw per statement: the order within an initialiser is the compiler's. */
    *job = (struct sim_job){.home = SIM_NONE, .rejects = SIM_NONE, .crashes = sim_alloc(shards, 1)};
    job->spec.id = sim_id(world->options.seed, JOB_IDS + number);
    job->spec.epoch = 1;
    job->spec.tenant = 1 + sim_below(random, 4);
    const uint64_t kernel = 1 + sim_below(random, 8);
    job->spec.kernel = kernel > 5 ? mesh_user_kernel(kernel) : kernel;
    job->spec.shard_count = shards;
    job->spec.bundle_shards_max = 1 + sim_below(random, 24);
    const uint32_t kind = sim_below(random, 10);
    job->spec.classes = kind < 7 ? 1 : kind < 9 ? 3 : 2;
    job->spec.lookup = sim_chance(random, 400);
    job->spec.local_only = sim_chance(random, 50);
    job->spec.speculate = number % 8 != 7;
    const bool slow = sim_chance(random, 200);
    job->shard_us = (uint32_t)sim_between(random, 2000, slow ? 1500000 : 150000);
    job->hit_permille = sim_below(random, 3) * 450;
    if (world->crowded) {
        crowd_job(world, job);
    } else if ((int64_t)job->shard_us * shards > JOB_DEVICE_US_MAX) {
        job->shard_us = (uint32_t)(JOB_DEVICE_US_MAX / shards);
    }
    job->spec.shard_us_guess = sim_chance(random, 700) ? job->shard_us : 0;
    draw_copies(world, &job->spec, number);
    draw_verify(world, &job->spec, number);
    if (number % 7 == 3) {
        job->spec.price_limit_micro = 40;
    }
    if (sim_chance(random, 30)) {
        job->rejects = sim_below(random, job->spec.shard_count);
    }
    world->job_count++;
    return number;
}

static void world_submit(struct world *world, struct event *event)
{
    const uint32_t from = sim_below(&world->random, world->host_count);
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[(from + i) % world->host_count];
        if (host->alive && !host->revoked && !host->draining && !host->leaving &&
            host->identity == host->index && host->paused_until_us <= world->now_us) {
            sim_host_submit(world, host, sim_world_new_job(world));
            return;
        }
    }
    struct event again = *event;
    again.at_us = world->now_us + SECOND_US;
    sim_world_push(world, again);
}

/* ---- Nodes. */

struct host *sim_world_add_host(struct world *world, const char *name, uint32_t identity)
{
    struct host *const host = &world->host[world->host_count];
    struct sim_random *const random = &world->random;
    *host = (struct host){.index = world->host_count, .identity = identity};
    host->line = sim_alloc(world->trace_lines, sizeof *host->line);
    world->doubles += identity != host->index;
    snprintf(host->name, sizeof host->name, "%s", name);
    host->id = sim_id(world->options.seed, identity);
    const uint32_t site = host->index / world->options.site_nodes;
    host->site = sim_mix(1, site);
    host->region = sim_mix(2, site / 3);
    host->slots[0] = (uint16_t)(1 + sim_below(random, 4));
    host->price_micro = (uint32_t)(sim_mix(sim_mix(world->options.seed, host->index), 3) % 100);
    host->slots[1] = host->index % 3 == 1 ? (uint16_t)(1 + sim_below(random, 3)) : 0;
    host->lent_less_at_us = -SECOND_US * 1000;
    host->idle_since_us = -1;
    host->joined = host->index == 0;
    const bool tight = sim_chance(random, 250);
    host->limits = (struct mesh_limits){
        .members = world->options.nodes + 2 < MESH_MEMBERS_MAX ? world->options.nodes + 2 : MESH_MEMBERS_MAX,
        .jobs = tight ? 4 : 64,
        .shards = tight ? 150 : 4096,
        .bundles = tight ? 6 : 128,
        .attempts = tight ? 12 : 128,
        .demands = tight ? 2 : 64,
        .journals = tight ? 12 : 256,
        .waiters = tight ? 64 : 256,
    };
    if (world->crowded) {
        host->slots[0] = (uint16_t)(250 + sim_below(random, 150));
        host->limits.jobs = 64;
        host->limits.shards = 1u << 15;
        host->limits.bundles = 1024;
        host->limits.attempts = 1024;
        host->limits.demands = 64;
        host->limits.waiters = 2048;
    }
    memcpy(host->lent, host->slots, sizeof host->lent);
    world->host_count++;
    return host;
}

static uint32_t draw_nodes(struct sim_random *random)
{
    const uint32_t draw = sim_below(random, 100);
    if (draw < 75) {
        return 3 + sim_below(random, 7);
    }
    return draw < 95 ? 10 + sim_below(random, 11) : 50 + sim_below(random, 11);
}

static int64_t heal_at_us(const struct sim_options *options)
{
    return (int64_t)options->minutes * 60 * SECOND_US / 3 * 2;
}

/*
 * What is claimed of the calm takes time, however short the rest was: one view, what drill.c tries, and an end of every job,
 * of which the last is submitted 30 s after everything healed. Ten minutes have it in their last third.
 */
#define CALM_LEAST_US (200 * SECOND_US)
#define CALM_JOB_US (2 * SECOND_US) /* and more for more than 100 jobs */

static int64_t calm_end_us(const struct sim_options *options)
{
    const int64_t jobs_us = options->jobs * CALM_JOB_US;
    const int64_t least_us = heal_at_us(options) + (jobs_us > CALM_LEAST_US ? jobs_us : CALM_LEAST_US);
    const int64_t asked_us = (int64_t)options->minutes * 60 * SECOND_US;
    return asked_us > least_us ? asked_us : least_us;
}

struct sim_plan *sim_world_plan(struct sim_options *options)
{
    if (options->nodes == 0) { /* from a generator of its own: a replay names the number */
        struct sim_random own = {sim_mix(options->seed, 0x6e6f646573)};
        options->nodes = draw_nodes(&own);
    }
    return options->plan != NULL ? sim_plan_copy(options->plan) : sim_plan_draw(options, heal_at_us(options));
}

/* What the world is, before anything happens; a scenario fills it with its own nodes. */
bool sim_world_init(struct world *world, const struct sim_options *options, struct sim_result *result)
{
    *world = (struct world){.options = *options, .result = result};
    *result = (struct sim_result){0};
    world->random.state = sim_mix(options->seed, 0x77656972);
    world->hash = UINT64_C(0xcbf29ce484222325);
    world->plan = sim_world_plan(&world->options);
    world->check_every = options->check_every;
    if (world->check_every == 0) {
        const uint64_t by_size = (uint64_t)world->options.nodes * world->options.nodes / 4;
        world->check_every = world->options.nodes <= 4    ? 1
                             : by_size > CHECK_EVERY_MOST ? CHECK_EVERY_MOST
                                                          : (uint32_t)by_size;
    }
    result->nodes = world->options.nodes;
    world->end_us = calm_end_us(options);
    world->heal_at_us = heal_at_us(options);
    world->host_room = world->options.nodes;
    for (uint32_t i = 0; i < world->plan->count; i++) {
        world->host_room += world->plan->fault[i].kind == SIM_FAULT_CLONE;
        world->captures = world->captures || world->plan->fault[i].kind == SIM_FAULT_REPLAY;
    }
    world->host = sim_alloc(world->host_room, sizeof *world->host);
    world->trace_lines = world->host_room > SIM_NODES_SMALL ? SIM_TRACE_LINES_LARGE : SIM_TRACE_LINES;
    world->opinions = world->host_room <= SIM_NODES_SMALL;
    world->out = sim_alloc(1, sizeof *world->out);
    memset(world->authority.bytes, 0xaa, sizeof world->authority.bytes);
    return true;
}

static void world_populate(struct world *world)
{
    world->crowded = world->options.nodes <= 6 && sim_chance(&world->random, 100);
    if (world->crowded && world->options.check_every == 0) {
        world->check_every = CROWDED_CHECK_EVERY;
    }
    for (uint32_t i = 0; i < world->options.nodes; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        const struct host *const host = sim_world_add_host(world, name, i);
        const int64_t spread_us = world->plan->through_one ? SECOND_US : 10 * SECOND_US;
        struct event event = sim_world_event(world, i == 0 ? 0 : sim_between(&world->random, 0, spread_us),
                                             HAPPEN_START, SIM_NONE);
        event.a = host->index;
        sim_world_push(world, event);
    }
    for (uint32_t i = 0; i < world->options.jobs; i++) {
        sim_world_push(world, sim_world_event(world,
                                              sim_between(&world->random, 2 * SECOND_US,
                                                          world->heal_at_us + 30 * SECOND_US),
                                              HAPPEN_SUBMIT, SIM_NONE));
    }
    sim_faults_schedule(world);
    sim_world_push(world, sim_world_event(world, world->heal_at_us, HAPPEN_HEAL, SIM_NONE));
    sim_world_push(world, sim_world_event(world, SECOND_US, HAPPEN_SURVEY, SIM_NONE));
}

/* A newcomer and some node of the mesh get each other's record, as a join does; it is tried until both have
 * one. */
static void world_introduce(struct world *world, struct host *newcomer)
{
    const uint32_t from = world->plan->through_one ? 0 : sim_below(&world->random, world->host_count);
    for (uint32_t i = 0; i < (world->plan->through_one ? 1 : world->host_count); i++) {
        struct host *const inviter = &world->host[(from + i) % world->host_count];
        if (inviter == newcomer || !inviter->joined || !inviter->alive || inviter->revoked ||
            inviter->paused_until_us > world->now_us || inviter->own_record == NULL ||
            newcomer->own_record == NULL || inviter->group != newcomer->group) {
            continue;
        }
        struct payload *const theirs = sim_payload_keep(inviter->own_record);
        sim_host_record(world, inviter, &newcomer->id, sim_payload_keep(newcomer->own_record));
        sim_host_record(world, newcomer, &inviter->id, theirs);
        newcomer->joined = true;
        return;
    }
    sim_world_push(world, sim_world_event(world, SECOND_US / 2, HAPPEN_INTRODUCE, newcomer->index));
}

/* ---- The loop. */

static void event_discard(struct event *event)
{
    if (event->item == NULL) {
        return;
    }
    if (event->what == HAPPEN_FLIGHT) {
        sim_flight_free(event->item);
    } else if (event->what == HAPPEN_SIGNED) {
        sim_payload_drop(event->item);
    } else {
        free(event->item);
    }
}

static void happen_flight(struct world *world, struct event *event)
{
    struct flight *const flight = event->item;
    struct host *const to = &world->host[flight->to];
    if (!to->alive || (flight->from == flight->to && flight->from_life != to->life)) {
        sim_flight_free(flight);
        world->result->world.messages_lost++;
    } else if (to->paused_until_us > world->now_us) {
        struct event later = *event;
        later.at_us = to->paused_until_us;
        sim_world_push(world, later);
    } else {
        sim_host_receive(world, to, flight);
    }
}

static void happen_at_host(struct world *world, struct host *host, struct event *event)
{
    switch (event->what) {
    case HAPPEN_WAKE:
        if (event->a == host->wake_serial) {
            sim_host_wake(world, host);
        }
        break;
    case HAPPEN_SYNCED:
        sim_host_synced(world, host);
        break;
    case HAPPEN_SIGNED:
        sim_host_record(world, host, &host->id, event->item);
        event->item = NULL;
        break;
    case HAPPEN_INTRODUCE:
        world_introduce(world, host);
        break;
    case HAPPEN_RAN:
        sim_device_ran(world, host, event->a, event->b);
        break;
    case HAPPEN_LOOKED_UP:
        sim_device_looked_up(world, host, event);
        break;
    case HAPPEN_FORGET:
        sim_host_forget(world, host, event->a);
        break;
    case HAPPEN_TAKE_OVER:
        sim_journal_take_over(world, host, event->a, event->b);
        break;
    case HAPPEN_LOG_SENT:
        sim_host_step(world, host, event->item);
        break;
    case HAPPEN_TELL_OVER:
        sim_journal_tell_over(world, host, event->a, &world->host[event->b].id);
        sim_journal_tell_new(world, host, event->item);
        break;
    case HAPPEN_DIAL:
        sim_network_dialed(world, event);
        break;
    default:
        break;
    }
}

static void happen_in_world(struct world *world, struct event *event)
{
    switch (event->what) {
    case HAPPEN_DELIVER:
        sim_network_deliver(world, event);
        break;
    case HAPPEN_FLIGHT:
        happen_flight(world, event);
        event->item = NULL;
        break;
    case HAPPEN_STALL:
        sim_network_stalled(world, event);
        break;
    case HAPPEN_START:
        world->result->world.restarts += world->host[event->a].life != 0;
        sim_host_start(world, &world->host[event->a]);
        break;
    case HAPPEN_SUBMIT:
        world_submit(world, event);
        break;
    case HAPPEN_FAULT:
        sim_faults_strike(world, event);
        break;
    case HAPPEN_FAULT_END:
        sim_faults_end(world, event);
        break;
    case HAPPEN_HEAL:
        sim_faults_heal(world);
        break;
    case HAPPEN_SURVEY:
        sim_check_survey(world);
        sim_world_push(world, sim_world_event(world, SECOND_US, HAPPEN_SURVEY, SIM_NONE));
        break;
    case HAPPEN_STORY:
        sim_story_line(world, event->a);
        break;
    default:
        break;
    }
}

void sim_world_loop(struct world *world)
{
    while (!world->failed && world->heap.count != 0 && world->heap.next_us <= world->end_us) {
        struct event event = sim_heap_pop(&world->heap);
        world->now_us = event.at_us;
        if (event.node == SIM_NONE) {
            happen_in_world(world, &event);
        } else {
            struct host *const host = &world->host[event.node];
            if (!host->alive || host->life != event.life) {
                event_discard(&event);
                continue;
            }
            if (host->paused_until_us > world->now_us) {
                event.at_us = host->paused_until_us;
                sim_world_push(world, event);
                continue;
            }
            happen_at_host(world, host, &event);
        }
        event_discard(&event);
    }
    if (!world->failed) {
        world->now_us = world->end_us;
    }
}

static void counters_sum(struct mesh_counters *sum, const struct mesh_counters *more)
{
#define ADD(name) sum->name += more->name;
    MESH_COUNTERS(ADD)
#undef ADD
}

void sim_world_finish(struct world *world)
{
    struct sim_result *const result = world->result;
    result->ok = !world->failed;
    result->hash = world->hash;
    result->virtual_us = world->now_us;
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (host->alive) {
            counters_sum(&result->core, mesh_counters(host->mesh));
        }
        sim_host_free(host);
        free(host->place);
        free(host->line);
        sim_disk_free(&host->disk);
        sim_disk_free(host->snapshot);
        free(host->snapshot);
        sim_known_clear(&host->known);
    }
    while (world->heap.count != 0) {
        struct event event = sim_heap_pop(&world->heap);
        event_discard(&event);
    }
    for (uint32_t i = 0; i < world->job_count; i++) {
        free(world->job[i].crashes);
        sim_truth_free(world->job[i].truth);
    }
    sim_network_free(&world->network);
    sim_plan_free(world->plan);
    sim_heap_free(&world->heap);
    free(world->host);
    free(world->job);
    free(world->out);
}

#define FLAT_NODES_MAX 2000
#define LARGE_SITE_NODES 100

uint32_t sim_site_nodes(uint32_t nodes)
{
    return nodes > FLAT_NODES_MAX ? LARGE_SITE_NODES : SIM_SITE_NODES;
}

bool sim_sites_fit(uint32_t nodes, uint32_t site_nodes)
{
    if (site_nodes <= MESH_SITE_SPLIT) {
        return nodes <= MESH_MEMBERS_MAX;
    }
    const uint32_t own = site_nodes < nodes ? site_nodes : nodes;
    return own + (nodes - own + site_nodes - 1) / site_nodes * MESH_REPORTERS <= MESH_MEMBERS_MAX;
}

struct sim_options sim_options_default(void)
{
    return (struct sim_options){.seed = 1,
                                .site_nodes = SIM_SITE_NODES,
                                .minutes = 10,
                                .jobs = 100,
                                .faults = 20,
                                .profile = "mixed"};
}

/* The run that an assertion of the core would end; reported by the handler in command.c. */
bool sim_run(const struct sim_options *options, struct sim_result *result)
{
    struct world world;
    sim_world_init(&world, options, result);
    world.opinions = true;
    world_populate(&world);
    sim_world_loop(&world);
    if (!world.failed) {
        sim_check_end(&world);
    }
    sim_world_finish(&world);
    return result->ok;
}
