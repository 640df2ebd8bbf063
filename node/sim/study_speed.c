/*
 * How fast the simulator is and how much memory it takes: a mesh is laid out, or started from its disks, settles, and
 * then runs on with a few jobs and nothing else. The start is stated apart, but for the memory, which is the most of both; the
 * speed is of the calm time after it.
 */
#include "node/sim/study.h"

#include "node/sim/world.h"

#include <sys/resource.h>
#include <time.h>

#define START_US (10 * SECOND_US)
/* The reporters of large sites have said what these lend: at 100,000 nodes 25 s later (MESH_CAPACITY_MIN_MS_EACH). */
#define SETTLE_US (30 * SECOND_US)
/* Of a very large mesh a shorter time tells as much. */
#define NODE_SECONDS_MAX 1200000
#define JOBS_PER_MINUTE 10

static int64_t cpu_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static uint32_t count_interior(const struct world *world)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        count += world->host[i].interior;
    }
    return count;
}

static bool measure(const struct study_options *options, struct world *world, int64_t began_us,
                    struct study_report *report)
{
    if (!study_run(world, SETTLE_US, report)) {
        return false;
    }
    const int64_t started_us = cpu_us();
    const int64_t start_virtual_us = world->now_us;
    const uint64_t messages = world->result->world.messages;
    const uint64_t steps = world->result->world.steps;
    const uint32_t most_s = NODE_SECONDS_MAX / options->nodes;
    const uint32_t calm_s = options->minutes < most_s / 60 ? 60 * options->minutes : most_s;
    const int64_t calm_us = calm_s * SECOND_US;
    for (uint32_t i = 0; i < calm_s * JOBS_PER_MINUTE / 60; i++) {
        sim_world_push(
            world, sim_world_event(world, sim_between(&world->random, 0, calm_us), HAPPEN_SUBMIT, SIM_NONE));
    }
    const bool ran = study_run(world, calm_us, report);
    const int64_t ran_us = world->now_us - start_virtual_us;
    if (!ran && (!study_stopped() || ran_us < SECOND_US)) {
        return false;
    }
    const int64_t spent_us = cpu_us() - started_us;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    const long rss_mb = used.ru_maxrss / 1024;
    study_add(report, "speed", "x real time", ran_us * 100 / (spent_us > 0 ? spent_us : 1), 2);
    study_add(report, "rss_mb", "MB", rss_mb > options->rested_rss_mb ? rss_mb : options->rested_rss_mb, 0);
    study_add(report, "start_cpu_ms", "ms", options->rested_cpu_ms + (started_us - began_us) / 1000, 0);
    study_add(report, "start_virtual_ms", "ms", start_virtual_us / 1000, 0);
    study_add(report, "calm_virtual_ms", "ms", ran_us / 1000, 0);
    study_add(report, "interior", "nodes", count_interior(world), 0);
    const int64_t node_s = ran_us / SECOND_US * options->nodes;
    study_add(report, "messages_per_node_s", "/s",
              (int64_t)(world->result->world.messages - messages) * 1000 / node_s, 3);
    study_add(report, "steps_per_node_s", "/s", (int64_t)(world->result->world.steps - steps) * 1000 / node_s,
              3);
    return true;
}

static bool run(const struct study_options *options, struct study_report *report)
{
    const int64_t began_us = cpu_us();
    struct world *const world = study_open(options, START_US, NULL, report);
    const bool measured = world != NULL && measure(options, world, began_us, report);
    study_close(world, report);
    return measured;
}

const struct sim_study study_speed = {
    .name = "speed",
    .meaning = "the simulator itself: virtual seconds per second of processor time, and memory",
    .nodes = 1000,
    .nodes_least = 1,
    .minutes = 2,
    .from_rest = true,
    .run = run,
};
