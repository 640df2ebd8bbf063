/*
 * What a site that lies gets away with: sites of one node each, five unless another number is chosen, one of which brings wrong results for a tenth of its shards; jobs of a
 * hundred shards, one after another, at one of the others. Over many seeds: how many wrong results were committed until it
 * was caught, if it lies from the beginning, and if it was honest long enough to be trusted; and what checking costs.
 */
#include "node/sim/study.h"

#include "node/sim/world.h"

#define SHARDS 100
#define SHARD_US 20000
#define LIE_PERMILLE 100
#define SEEDS 40
#define JOBS_TRUSTED 40 /* before it begins to lie */
#define JOBS_MOST 200
#define JOB_US (10 * SECOND_US)

struct outcome {
    int64_t wrong; /* committed */
    int64_t jobs;  /* since it lies */
    bool caught;
    uint64_t delivered_us;
    uint64_t checks_us;
};

static void submit(struct world *world, enum mesh_verify verify)
{
    const uint32_t number = sim_world_new_job(world);
    struct sim_job *const job = &world->job[number];
    free(job->crashes);
    job->crashes = sim_alloc(SHARDS, 1);
    job->shard_us = SHARD_US;
    job->rejects = SIM_NONE;
    job->spec.shard_count = SHARDS;
    job->spec.shard_us_guess = SHARD_US;
    job->spec.bundle_shards_max = 8;
    job->spec.classes = 1;
    job->spec.lookup = job->spec.local_only = job->spec.speculate = false;
    job->spec.copies = 1;
    job->spec.copies_min = 0;
    job->spec.price_limit_micro = 0;
    job->spec.verify = (uint8_t)verify;
    job->spec.verify_permille = 0;
    sim_host_submit(world, &world->host[0], number);
}

/* One seed: the second site lies after so many jobs. */
static bool play(const struct study_options *options, enum mesh_verify verify, uint32_t honest_jobs,
                 struct outcome *outcome, struct study_report *report)
{
    struct study_options own = *options;
    own.site_nodes = 1;
    struct world *const world = study_open(&own, SECOND_US, NULL, report);
    bool good = world != NULL && study_run(world, 10 * SECOND_US, report);
    struct host *const liar = good ? &world->host[1] : NULL;
    *outcome = (struct outcome){0};
    for (uint32_t i = 0; good && i < honest_jobs + JOBS_MOST && !outcome->caught; i++) {
        if (i == honest_jobs) {
            world->lying_site = liar->site;
            liar->device_fault = DEVICE_LIES;
            liar->lie_permille = LIE_PERMILLE;
        }
        submit(world, verify);
        good = study_run(world, JOB_US, report);
        outcome->jobs += i >= honest_jobs;
        outcome->caught = good && mesh_counters(world->host[0].mesh)->caught > 0;
    }
    if (good) {
        outcome->wrong = (int64_t)world->result->world.wrong_committed;
        outcome->delivered_us = mesh_counters(world->host[0].mesh)->delivered_us;
        outcome->checks_us = mesh_counters(world->host[0].mesh)->checks_us;
    }
    study_close(world, report);
    return good;
}

struct names {
    const char *caught, *wrong_p50, *wrong_max, *jobs_p50, *jobs_max;
};

static bool measure(const struct study_options *options, uint32_t honest_jobs, const struct names *names,
                    struct study_report *report)
{
    int64_t wrong[SEEDS], jobs[SEEDS];
    uint64_t caught = 0;
    for (uint32_t i = 0; i < SEEDS; i++) {
        struct study_options one = *options;
        struct outcome outcome;
        one.seed = options->seed + i;
        if (!play(&one, MESH_VERIFY_SPOT, honest_jobs, &outcome, report)) {
            return false;
        }
        wrong[i] = outcome.wrong;
        jobs[i] = outcome.jobs;
        caught += outcome.caught;
    }
    study_add_ratio(report, names->caught, caught, SEEDS);
    study_add(report, names->wrong_p50, "shards", study_quantile(wrong, SEEDS, 500), 0);
    study_add(report, names->wrong_max, "shards", study_quantile(wrong, SEEDS, 1000), 0);
    study_add(report, names->jobs_p50, "jobs", study_quantile(jobs, SEEDS, 500), 0);
    study_add(report, names->jobs_max, "jobs", study_quantile(jobs, SEEDS, 1000), 0);
    return true;
}

/* Nobody lies: what is computed a second time, of what was delivered. */
static bool cost(const struct study_options *options, enum mesh_verify verify, const char *name,
                 struct study_report *report)
{
    struct outcome outcome;
    if (!play(options, verify, JOBS_MOST, &outcome, report)) {
        return false;
    }
    study_add_ratio(report, name, outcome.checks_us, outcome.delivered_us + (outcome.delivered_us == 0));
    return true;
}

static bool run(const struct study_options *options, struct study_report *report)
{
    static const struct names new = {"new_caught", "new_wrong_p50", "new_wrong_max", "new_jobs_p50",
                                     "new_jobs_max"};
    static const struct names trusted = {"trusted_caught", "trusted_wrong_p50", "trusted_wrong_max",
                                         "trusted_jobs_p50", "trusted_jobs_max"};
    return measure(options, 0, &new, report) && measure(options, JOBS_TRUSTED, &trusted, report) &&
           cost(options, MESH_VERIFY_SPOT, "spot_extra", report);
}

const struct sim_study study_verify = {
    .name = "verify",
    .meaning = "one node lies about a tenth of its shards: what is committed until it is caught",
    .nodes = 5,
    .nodes_least = 3,
    .run = run,
};
