/*
 * Placement without a centre, beside a scheduler that knows everything at once and the policies that were rejected:
 * the same arrivals, device times, delays and ages of views for all. See market.h for the setting.
 */
#include "node/sim/market.h"

#include "mesh/mesh.h"
#include "node/sim/study.h"
#include "node/sim/world.h"

#include <stdio.h>

enum { SLOTS = 25 }; /* per site */

/* The policies, as market.h lists them, and what Weir does. */
static const char *const columns[] = {"omniscient", "push_best", "two_choices", "batch_probes",
                                      "stealing",   "weir",      NULL};

/* Names of figures must outlive the report. */
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
                     struct market_figures *figures, struct mesh_counters *counters)
{
    struct market_tally *const tally = market_core(load, counters);
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
        add_policy(report, columns[policy], percent, &figures, &omniscient);
        report->virtual_us += load->end_us;
    }
    struct market_figures core;
    run_core(load, report, &core, NULL);
    add_policy(report, columns[MARKET_POLICIES], percent, &core, &omniscient);
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
    run_core(load, report, &core, NULL);
    study_add(report, "owner_interrupted", "", (int64_t)core.interrupted, 0);
    study_add(report, "owner_lost", "", (int64_t)core.lost, 0);
    study_add(report, "owner_billed", "", (int64_t)core.billed, 0);
    market_load_free(load);
}

/* Of all device time, in hundredths of a percent. */
static int64_t share(int64_t part_us, int64_t whole_us)
{
    return part_us * 10 / (whole_us / 1000);
}

static void add_speculation(struct study_report *report, const char *mode, const struct market_figures *one)
{
    study_add(report, name("job_p50_ms_%s", mode, 0), "ms", one->job_p50_ms, 0);
    study_add(report, name("job_p999_ms_%s", mode, 0), "ms", one->job_p999_ms, 0);
    study_add(report, name("wait_p99_ms_%s", mode, 0), "ms", one->wait_p99_ms, 0);
    study_add(report, name("messages_per_shard_%s", mode, 0), "", (int64_t)one->messages_centi, 2);
    study_add(report, name("unused_%s", mode, 0), "", share(one->unused_us, one->busy_us), 4);
}

/*
 * One device in a hundred takes ten times as long, and does not say so. What speculation costs is the device time of
 * attempts whose result came to nothing, be they copies or first attempts; that the slow devices are free sooner and
 * take more shards is part of it. Beside it, by how much the devices were busier in all.
 */
static bool run_speculation(const struct study_options *options, struct study_report *report)
{
    struct market_setting setting = {.seed = options->seed,
                                     .sites = options->nodes,
                                     .slots = SLOTS,
                                     .load_permille = 900,
                                     .minutes = options->minutes,
                                     .slow_permille = 10};
    struct market_figures figures[2];
    struct mesh_counters counters = {0};
    for (int on = 0; on <= 1; on++) {
        setting.speculate = on != 0;
        struct market_load *const load = market_load(&setting);
        run_core(load, report, &figures[on], on ? &counters : NULL);
        market_load_free(load);
    }
    const struct market_figures *const off = &figures[0];
    const struct market_figures *const on = &figures[1];
    if (off->lost + off->billed + on->lost + on->billed > 0) {
        snprintf(report->failure, sizeof report->failure,
                 "%llu shards were lost, committed twice or billed unrun",
                 (unsigned long long)(off->lost + off->billed + on->lost + on->billed));
        return false;
    }
    const int64_t saved_ms = (int64_t)off->job_p999_ms - on->job_p999_ms;
    study_add(report, "speculation_gain", "", saved_ms * 10000 / off->job_p999_ms, 4);
    study_add(report, "speculation_extra", "", share(on->unused_us, on->busy_us), 4);
    study_add(report, "busier", "", share(on->busy_us - off->busy_us, off->busy_us), 4);
    add_speculation(report, "off", off);
    add_speculation(report, "on", on);
    study_add(report, "shards", "", (int64_t)on->shards, 0);
    study_add(report, "copies", "", (int64_t)counters.copies, 0);
    study_add(report, "copies_first", "", (int64_t)counters.copies_first, 0);
    study_add(report, "copies_late", "", (int64_t)counters.copies_late, 0);
    study_add(report, "copies_share", "", share((int64_t)counters.copies_us, (int64_t)counters.delivered_us),
              4);
    study_add(report, "copies_withheld", "", (int64_t)counters.copies_withheld, 0);
    return true;
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
    .meaning = "bursts of jobs at nodes of 25 devices: beside an omniscient scheduler and other policies",
    .nodes = 200,
    .nodes_least = 4,
    .columns = columns,
    .minutes = 20,
    .run = run_placement,
};

const struct sim_study study_owner = {
    .name = "owner",
    .meaning = "bursts of jobs at nodes of 25 devices, while owners claim a tenth of them each hour",
    .nodes = 200,
    .nodes_least = 4,
    .minutes = 20,
    .run = run_owner,
};

const struct sim_study study_speculation = {
    .name = "speculation",
    .meaning = "bursts of jobs at nodes of 25 devices, one device in a hundred ten times slower: with copies "
               "and without",
    .nodes = 200,
    .nodes_least = 4,
    .minutes = 20,
    .run = run_speculation,
};
