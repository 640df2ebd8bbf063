/*
 * Draws a run's faults from its seed and its profile's table of weights, spread over the first two thirds of the run;
 * each lasts for a while and is taken back; then everything heals, so that the last third can demand progress. What
 * stays: nodes lost for good and nodes revoked, a quarter of the mesh at most.
 */
#include "node/sim/faults.h"
#include "node/sim/world.h"

/* Before the first fault everybody has joined, and what is sent without any is counted: see check.c. */
#define FIRST_FAULT_US (20 * SECOND_US)
#define LAST_FAULT_US (5 * SECOND_US) /* before everything heals */

struct profile {
    const char *name;
    uint32_t adversarial_permille; /* of seeds that use the adversarial network */
    uint32_t loss_permille;
    bool through_one;
    uint8_t weight[SIM_FAULT_KIND_COUNT];
};

const struct sim_profile_name sim_profiles[] = {
    {"mixed", "everything, on either network (the default)"},
    {"none", "a calm mesh"},
    {"crash", "processes and machines die and come back, at every boundary of a step's output"},
    {"partition", "cuts, one-way cuts, pairs cut, flapping, delay, narrow links"},
    {"lossy", "the adversarial network: loss, duplicates, reordering, corruption, replays"},
    {"owner", "owners claim devices, workers crash and hang, nodes drain"},
    {"disk", "disks that are slow, full, failing, rotten, wiped or rolled back"},
    {"byzantine", "clones, liars, garbage, replays, executors that never finish"},
    {"wrong", "all nodes of one site bring wrong results; some die, drain, or are claimed"},
    {"crowd", "everybody joins through one node at once; otherwise calm"},
    {NULL, NULL},
};

static const struct profile profiles[] = {
    {.name = "mixed",
     .adversarial_permille = 500,
     .loss_permille = 20,
     .weight = {[SIM_FAULT_CRASH] = 16,     [SIM_FAULT_SILENT] = 8,      [SIM_FAULT_LOSE] = 3,
                [SIM_FAULT_SITE] = 3,       [SIM_FAULT_RESTART_ALL] = 1, [SIM_FAULT_PAUSE] = 10,
                [SIM_FAULT_PARTITION] = 8,  [SIM_FAULT_TANGLE] = 4,      [SIM_FAULT_ONE_WAY] = 6,
                [SIM_FAULT_FLAP] = 3,       [SIM_FAULT_DELAY] = 6,       [SIM_FAULT_NARROW] = 4,
                [SIM_FAULT_DRIFT] = 4,      [SIM_FAULT_WALL] = 4,        [SIM_FAULT_RESET] = 8,
                [SIM_FAULT_GARBAGE] = 3,    [SIM_FAULT_REPLAY] = 5,      [SIM_FAULT_DRAIN] = 4,
                [SIM_FAULT_LEAVE] = 3,      [SIM_FAULT_OWNER] = 10,      [SIM_FAULT_REVOKE] = 2,
                [SIM_FAULT_CANCEL] = 8,     [SIM_FAULT_CLONE] = 2,       [SIM_FAULT_LIAR] = 3,
                [SIM_FAULT_BAD_DEVICE] = 6, [SIM_FAULT_SLOW_DEVICE] = 4, [SIM_FAULT_STUCK_DEVICE] = 4,
                [SIM_FAULT_GARBLED] = 3,    [SIM_FAULT_WRONG] = 3,       [SIM_FAULT_SLOW_DISK] = 4,
                [SIM_FAULT_FULL_DISK] = 4,  [SIM_FAULT_FAILED_SYNC] = 3, [SIM_FAULT_ROT] = 3,
                [SIM_FAULT_WIPED] = 2,      [SIM_FAULT_ROLLBACK] = 3}},
    {.name = "none", .weight = {[SIM_FAULT_CANCEL] = 1}},
    {.name = "crash",
     .weight = {[SIM_FAULT_CRASH] = 8,
                [SIM_FAULT_SILENT] = 4,
                [SIM_FAULT_LOSE] = 1,
                [SIM_FAULT_SITE] = 1,
                [SIM_FAULT_RESTART_ALL] = 1,
                [SIM_FAULT_SLOW_DISK] = 2}},
    {.name = "partition",
     .adversarial_permille = 200,
     .loss_permille = 10,
     .weight = {[SIM_FAULT_PARTITION] = 4,
                [SIM_FAULT_TANGLE] = 3,
                [SIM_FAULT_ONE_WAY] = 3,
                [SIM_FAULT_FLAP] = 2,
                [SIM_FAULT_DELAY] = 3,
                [SIM_FAULT_NARROW] = 2,
                [SIM_FAULT_RESET] = 2}},
    {.name = "lossy",
     .adversarial_permille = 1000,
     .loss_permille = 80,
     .weight =
         {[SIM_FAULT_DELAY] = 1, [SIM_FAULT_CANCEL] = 1, [SIM_FAULT_CRASH] = 1, [SIM_FAULT_REPLAY] = 1}},
    {.name = "owner",
     .loss_permille = 5,
     .weight = {[SIM_FAULT_OWNER] = 4,
                [SIM_FAULT_BAD_DEVICE] = 2,
                [SIM_FAULT_SLOW_DEVICE] = 2,
                [SIM_FAULT_STUCK_DEVICE] = 2,
                [SIM_FAULT_GARBLED] = 1,
                [SIM_FAULT_DRAIN] = 2,
                [SIM_FAULT_LEAVE] = 1,
                [SIM_FAULT_CANCEL] = 2}},
    {.name = "disk",
     .weight = {[SIM_FAULT_CRASH] = 2,
                [SIM_FAULT_SLOW_DISK] = 2,
                [SIM_FAULT_FULL_DISK] = 3,
                [SIM_FAULT_FAILED_SYNC] = 2,
                [SIM_FAULT_ROT] = 2,
                [SIM_FAULT_WIPED] = 1,
                [SIM_FAULT_ROLLBACK] = 2}},
    {.name = "byzantine",
     .adversarial_permille = 300,
     .loss_permille = 5,
     .weight = {[SIM_FAULT_CLONE] = 2,
                [SIM_FAULT_LIAR] = 3,
                [SIM_FAULT_GARBAGE] = 3,
                [SIM_FAULT_REPLAY] = 4,
                [SIM_FAULT_STUCK_DEVICE] = 3,
                [SIM_FAULT_GARBLED] = 2,
                [SIM_FAULT_CRASH] = 2}},
    {.name = "wrong",
     .loss_permille = 5,
     .weight = {[SIM_FAULT_WRONG] = 6,
                [SIM_FAULT_OWNER] = 1,
                [SIM_FAULT_BAD_DEVICE] = 1,
                [SIM_FAULT_CRASH] = 3,
                [SIM_FAULT_SILENT] = 1,
                [SIM_FAULT_PARTITION] = 1,
                [SIM_FAULT_DRAIN] = 1,
                [SIM_FAULT_CANCEL] = 1}},
    {.name = "crowd", .through_one = true, .weight = {[SIM_FAULT_CANCEL] = 1}},
};

static const struct profile *profile_find(const char *name)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++) {
        if (strcmp(profiles[i].name, name) == 0) {
            return &profiles[i];
        }
    }
    return &profiles[0];
}

static enum sim_fault_kind draw_kind(const struct profile *profile, struct sim_random *random)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < SIM_FAULT_KIND_COUNT; i++) {
        total += profile->weight[i];
    }
    uint32_t draw = sim_below(random, total);
    uint32_t kind = 0;
    while (draw >= profile->weight[kind]) {
        draw -= profile->weight[kind++];
    }
    return (enum sim_fault_kind)kind;
}

/* Short spells are as likely as long ones: half are drawn from the first eighth of the range. */
static int64_t draw_duration(const struct sim_fault_kind_info *info, struct sim_random *random)
{
    const int64_t span_us = info->most_us - info->least_us;
    const bool brief = sim_chance(random, 500);
    return info->least_us + sim_between(random, 0, brief ? span_us / 8 : span_us);
}

static struct sim_fault draw_fault(const struct profile *profile, const struct sim_options *options,
                                   struct sim_random *random, int64_t heal_at_us)
{
    struct sim_fault fault = {.kind = draw_kind(profile, random)};
    const struct sim_fault_kind_info *const info = sim_fault_info(fault.kind);
    fault.at_us = sim_between(random, FIRST_FAULT_US, heal_at_us - LAST_FAULT_US);
    fault.node = sim_below(random, options->nodes);
    fault.for_us = draw_duration(info, random);
    fault.size = (int32_t)sim_between(random, info->size_least, info->size_most);
    if (fault.kind == SIM_FAULT_CRASH && sim_chance(random, 500)) {
        fault.size = sim_chance(random, 500) ? 0 : SIM_BOUNDARY_SAVES;
    }
    fault.draw = sim_random_next(random) >> 32;
    return fault;
}

/* Chance alone leaves some boundary out of many seeds: the first crash of each plan is at the one whose turn it is. */
static void take_turn(struct sim_plan *plan, uint64_t seed)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        if (plan->fault[i].kind == SIM_FAULT_CRASH) {
            plan->fault[i].size =
                (int32_t)(SIM_BOUNDARY_SAVES + seed % (SIM_BOUNDARIES - SIM_BOUNDARY_SAVES));
            return;
        }
    }
}

static int by_time(const void *a, const void *b)
{
    const struct sim_fault *const one = a;
    const struct sim_fault *const other = b;
    if (one->at_us != other->at_us) {
        return one->at_us < other->at_us ? -1 : 1;
    }
    return one->draw < other->draw ? -1 : one->draw > other->draw;
}

struct sim_plan *sim_plan_draw(const struct sim_options *options, int64_t heal_at_us)
{
    const struct profile *const profile = profile_find(options->profile);
    struct sim_random random = {sim_mix(options->seed, 0x6661756c74)};
    struct sim_plan *const plan = sim_alloc(1, sizeof *plan);
    plan->adversarial = sim_chance(&random, profile->adversarial_permille);
    plan->through_one = profile->through_one;
    plan->loss_permille = sim_below(&random, profile->loss_permille + 1);
    plan->double_permille = plan->adversarial ? 30 : 0;
    plan->reorder_permille = plan->adversarial ? 100 : 0;
    plan->corrupt_permille = plan->adversarial ? 5 : 0;
    plan->count = heal_at_us > FIRST_FAULT_US + LAST_FAULT_US ? options->faults : 0;
    plan->fault = sim_alloc(plan->count, sizeof *plan->fault);
    for (uint32_t i = 0; i < plan->count; i++) {
        plan->fault[i] = draw_fault(profile, options, &random, heal_at_us);
    }
    take_turn(plan, options->seed);
    qsort(plan->fault, plan->count, sizeof *plan->fault, by_time);
    return plan;
}

struct sim_plan *sim_plan_copy(const struct sim_plan *plan)
{
    struct sim_plan *const copy = sim_alloc(1, sizeof *copy);
    *copy = *plan;
    copy->fault = sim_alloc(plan->count, sizeof *plan->fault);
    memcpy(copy->fault, plan->fault, plan->count * sizeof *plan->fault);
    return copy;
}

void sim_plan_free(struct sim_plan *plan)
{
    if (plan != NULL) {
        free(plan->fault);
        free(plan);
    }
}
