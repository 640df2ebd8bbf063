/*
 * Placement without a centre, beside a scheduler that knows everything at once and the policies that were rejected:
 * the same arrivals, device times, delays and ages of views for all. See market.h for the setting.
 */
#include "node/sim/market.h"
#include "node/sim/study.h"
#include "node/sim/world.h"

#include <stdio.h>

enum { SLOTS = 25 }; /* per site */

/* Names of figures must outlive the report. */
static const char *const policies[MARKET_POLICIES] = {"omniscient", "push_best", "two_choices",
                                                      "batch_probes", "stealing"};

static const char *name(const char *format, const char *policy, uint32_t percent)
{
    static char names[STUDY_FIGURES_MAX][48];
    static uint32_t used;
    char *const text = names[used++ % STUDY_FIGURES_MAX];
    snprintf(text, sizeof names[0], format, policy, percent);
    return text;
}

static void add_policy(struct study_report *report, const char *policy, uint32_t percent,
                       const struct market_figures *one, const struct market_figures *omniscient)
{
    const int64_t mean_ms = MARKET_SHARD_US / 1000;
    const int64_t excess_ms = (int64_t)one->wait_p99_ms - omniscient->wait_p99_ms;
    study_add(report, name("%s_utilisation_%u", policy, percent), "",
              one->busy_us / (omniscient->busy_us / 10000), 4);
    study_add(report, name("%s_wait_mean_ms_%u", policy, percent), "ms", one->wait_mean_ms, 0);
    study_add(report, name("%s_wait_p99_ms_%u", policy, percent), "ms", one->wait_p99_ms, 0);
    study_add(report, name("%s_wait_excess_%u", policy, percent), "", excess_ms * 1000 / mean_ms, 3);
    study_add(report, name("%s_messages_per_shard_%u", policy, percent), "", (int64_t)one->messages_centi, 2);
}

static void run_core(const struct market_load *load, struct study_report *report,
                     struct market_figures *figures)
{
    struct market_tally *const tally = market_core(load, NULL);
    market_figures(tally, figures);
    market_tally_free(tally);
    report->virtual_us += load->end_us;
}

/* One load: everybody in turn. */
static void compare(const struct study_options *options, uint32_t percent, struct study_report *report)
{
    const struct market_setting setting = {.seed = options->seed,
                                           .sites = options->nodes,
                                           .slots = SLOTS,
                                           .load_permille = percent * 10,
                                           .minutes = options->minutes};
    struct market_load *const load = market_load(&setting);
    struct market_figures omniscient = {0};
    for (enum market_policy policy = MARKET_OMNISCIENT; policy < MARKET_POLICIES; policy++) {
        struct market_tally *const tally = market_rival(load, policy);
        struct market_figures figures;
        market_figures(tally, &figures);
        market_tally_free(tally);
        if (policy == MARKET_OMNISCIENT) {
            omniscient = figures;
        }
        add_policy(report, policies[policy], percent, &figures, &omniscient);
        report->virtual_us += load->end_us;
    }
    struct market_figures core;
    run_core(load, report, &core);
    add_policy(report, "weir", percent, &core, &omniscient);
    const int64_t excess_ms = (int64_t)core.wait_p99_ms - omniscient.wait_p99_ms;
    study_add(report, name("wait_excess_%s%u", "", percent), "", excess_ms * 10000 / (MARKET_SHARD_US / 1000),
              4);
    if (percent == 95) {
        study_add(report, "utilisation_95", "", core.busy_us / (omniscient.busy_us / 10000), 4);
        study_add(report, "messages_per_shard", "", (int64_t)core.messages_centi, 2);
    }
    market_load_free(load);
}

/* Owners claim a tenth of the devices each hour, at random. */
static void claims(const struct study_options *options, struct study_report *report)
{
    const struct market_setting setting = {.seed = options->seed,
                                           .sites = options->nodes,
                                           .slots = SLOTS,
                                           .load_permille = 900,
                                           .minutes = options->minutes,
                                           .claim_permille = 100};
    struct market_load *const load = market_load(&setting);
    struct market_figures core;
    run_core(load, report, &core);
    study_add(report, "owner_interrupted", "", (int64_t)core.interrupted, 0);
    study_add(report, "owner_lost", "", (int64_t)core.lost, 0);
    study_add(report, "owner_billed", "", (int64_t)core.billed, 0);
    market_load_free(load);
}

static bool run_placement(const struct study_options *options, struct study_report *report)
{
    compare(options, 90, report);
    compare(options, 95, report);
    return true;
}

static bool run_owner(const struct study_options *options, struct study_report *report)
{
    claims(options, report);
    return true;
}

const struct sim_study study_placement = {
    .name = "placement",
    .meaning =
        "5,000 devices at 200 sites, bursts of jobs: beside an omniscient scheduler and other policies",
    .nodes = 200,
    .minutes = 20,
    .run = run_placement,
};

const struct sim_study study_owner = {
    .name = "owner",
    .meaning = "the same, while owners claim a tenth of the devices each hour",
    .nodes = 200,
    .minutes = 20,
    .run = run_owner,
};
