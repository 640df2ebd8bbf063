/*
 * A large site loses all its reporters at one stroke, silently, and then its owners claim every device of it.
 *
 * Measured is how long it takes until the site has new reporters and every node of the upper tier sees them up and the lost
 * ones down; and how long a job of an interior node takes whose every shard must run in other sites, which only referrals
 * can name.
 */
#include "node/sim/study.h"

#include "node/sim/world.h"

#include <stdio.h>

#define STEP_US (SECOND_US / 10)
#define PATIENCE_US (180 * SECOND_US)
#define SHARDS 200

static bool in_first_site(const struct world *world, const struct host *host)
{
    return host->site == world->host[0].site;
}

static uint32_t count_reporters(const struct world *world)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        count += host->alive && in_first_site(world, host) && !host->interior;
    }
    return count;
}

/* Whether everybody in the upper tier of the other sites sees the first site's new reporters, and the lost ones down. */
static bool replaced(const struct world *world)
{
    if (count_reporters(world) != MESH_REPORTERS) {
        return false;
    }
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        for (uint32_t j = 0; j < world->host_count && !host->interior && !in_first_site(world, host); j++) {
            const struct host *const peer = &world->host[j];
            if (in_first_site(world, peer) && !peer->interior &&
                (sim_known_see(&host->known, j).state == MESH_UP) != peer->alive) {
                return false;
            }
        }
    }
    return true;
}

static bool wait_for(struct world *world, bool (*met)(const struct world *world), struct study_report *report,
                     const char *what, int64_t *took_us)
{
    const int64_t began_us = world->now_us;
    while (!met(world)) {
        if (world->now_us - began_us > PATIENCE_US) {
            snprintf(report->failure, sizeof report->failure, "after %lld s still not: %s",
                     (long long)(PATIENCE_US / SECOND_US), what);
            return false;
        }
        if (!study_run(world, STEP_US, report)) {
            return false;
        }
    }
    *took_us = world->now_us - began_us;
    return true;
}

static void lose_reporters(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (in_first_site(world, host) && !host->interior) {
            host->gone = true;
            sim_host_crash(world, host, true);
        }
    }
}

static void claim_devices(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (host->alive && in_first_site(world, host)) {
            memset(host->lent, 0, sizeof host->lent);
            sim_host_devices(world, host);
        }
    }
}

static bool job_over(const struct world *world)
{
    return world->job[world->job_count - 1].finished;
}

static void submit(struct world *world, uint32_t shards)
{
    const uint32_t number = sim_world_new_job(world);
    struct sim_job *const job = &world->job[number];
    job->spec.shard_count = shards;
    job->spec.bundle_shards_max = 4;
    job->spec.classes = 1;
    job->spec.lookup = false;
    job->spec.local_only = false;
    job->rejects = SIM_NONE;
    job->shard_us = (uint32_t)SECOND_US;
    job->spec.shard_us_guess = job->shard_us;
    free(job->crashes);
    job->crashes = sim_alloc(shards, 1);
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (host->alive && in_first_site(world, host) && host->interior && host->limits.shards >= shards) {
            sim_host_submit(world, host, number);
            return;
        }
    }
}

static bool measure(const struct study_options *options, struct world *world, struct study_report *report)
{
    int64_t took_us = 0;
    if (options->site_nodes <= MESH_SITE_SPLIT || options->nodes < 2 * options->site_nodes) {
        snprintf(report->failure, sizeof report->failure,
                 "it takes two sites of more than %d nodes: try --nodes 300 "
                 "--site-nodes 100",
                 MESH_SITE_SPLIT);
        return false;
    }
    if (!study_run(world, 30 * SECOND_US, report)) {
        return false;
    }
    lose_reporters(world);
    if (!wait_for(world, replaced, report, "three new reporters whom all of the upper tier sees", &took_us)) {
        return false;
    }
    study_add(report, "reporters_replaced_ms", "ms", took_us / 1000, 0);
    claim_devices(world);
    if (!study_run(world, 10 * SECOND_US, report)) {
        return false;
    }
    submit(world, SHARDS);
    if (!wait_for(world, job_over, report, "a job whose shards must all run in other sites is done",
                  &took_us)) {
        return false;
    }
    study_add(report, "job_elsewhere_ms", "ms", took_us / 1000, 0);
    study_add(report, "job_shards", "", SHARDS, 0);
    return true;
}

static bool run(const struct study_options *options, struct study_report *report)
{
    struct world *const world = study_open(options, 5 * SECOND_US, NULL, report);
    const bool measured = world != NULL && measure(options, world, report);
    study_close(world, report);
    return measured;
}

const struct sim_study study_tiers = {
    .name = "tiers",
    .meaning = "a large site loses its reporters, then its devices: new reporters, work elsewhere",
    .nodes = 300,
    .nodes_least = 2 * (MESH_SITE_SPLIT + 1),
    .site_nodes = 100,
    .from_rest = true,
    .run = run,
};
