/*
 * How long until all nodes show a node down that died: its process (its machine resets the connections), or its machine.
 *
 * Nodes drawn from the seed die one after the other, for good. For each death: when the first node showed it down, when
 * the last of the living did. A member that was shown down and lives is counted as a false eviction.
 */
#include "node/sim/study.h"
#include "node/sim/world.h"

#include <stdio.h>

#define DEATHS 12
#define LEFT 3 /* who tell of the last death: a member is suspect when two accuse it */
#define APART_US (25 * SECOND_US)

struct deaths {
    uint32_t victim;
    int64_t died_us;
    int64_t *seen_us; /* [nodes] when the host showed the victim down; 0 = not yet */
    uint64_t false_evictions;
};

static void member(void *context, const struct world *world, const struct host *host,
                   const struct mesh_effect *effect)
{
    struct deaths *const deaths = context;
    if (effect->body.member.state != MESH_DOWN) {
        return;
    }
    const uint32_t subject = sim_world_identity(world, &effect->body.member.id);
    if (subject == SIM_NONE || world->host[subject].alive) {
        deaths->false_evictions++;
    } else if (subject == deaths->victim && deaths->seen_us[host->index] == 0) {
        deaths->seen_us[host->index] = world->now_us;
    }
}

struct times {
    int64_t all_us[DEATHS]; /* until all had seen it */
    int64_t *each_us;       /* [DEATHS x nodes] until each had */
    uint32_t each_count;
};

static bool kill_one(struct world *world, struct deaths *deaths, bool silent, uint32_t number,
                     struct times *times, struct study_report *report)
{
    struct host *victim;
    do {
        victim = &world->host[sim_below(&world->random, world->host_count)];
    } while (!victim->alive);
    memset(deaths->seen_us, 0, world->host_count * sizeof *deaths->seen_us);
    deaths->victim = victim->index;
    deaths->died_us = world->now_us;
    sim_host_crash(world, victim, silent);
    if (!study_run(world, APART_US, report)) {
        return false;
    }
    times->all_us[number] = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (!world->host[i].alive) {
            continue;
        }
        if (deaths->seen_us[i] == 0) {
            snprintf(report->failure, sizeof report->failure, "%s did not show %s down within %lld s",
                     world->host[i].name, victim->name, (long long)(APART_US / SECOND_US));
            return false;
        }
        const int64_t took_us = deaths->seen_us[i] - deaths->died_us;
        times->each_us[times->each_count++] = took_us;
        times->all_us[number] = took_us > times->all_us[number] ? took_us : times->all_us[number];
    }
    return true;
}

static bool run(const struct study_options *options, bool silent, uint32_t loss_permille,
                struct study_report *report)
{
    const uint32_t most = options->nodes - LEFT < DEATHS ? options->nodes - LEFT : DEATHS;
    const uint32_t count = options->samples != 0 && options->samples < most ? options->samples : most;
    struct deaths deaths = {.victim = SIM_NONE, .seen_us = sim_alloc(options->nodes, sizeof *deaths.seen_us)};
    struct times times = {.each_us = sim_alloc((size_t)options->nodes * DEATHS, sizeof *times.each_us)};
    const struct study_watch watch = {.context = &deaths, .member = member};
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report);
    if (ok) {
        study_lose(world, loss_permille);
        ok = study_run(world, 10 * SECOND_US, report);
    }
    uint32_t seen = 0;
    while (ok && seen < count) {
        ok = kill_one(world, &deaths, silent, seen, &times, report);
        seen += ok;
    }
    ok = ok || (study_stopped() && seen > 0);
    if (ok) {
        study_add(report, "seen_p99_ms", "ms", study_quantile(times.all_us, seen, 990) / 1000, 0);
        study_add(report, "seen_p50_ms", "ms", study_quantile(times.all_us, seen, 500) / 1000, 0);
        study_add(report, "each_p50_ms", "ms", study_quantile(times.each_us, times.each_count, 500) / 1000,
                  0);
        study_add(report, "each_p99_ms", "ms", study_quantile(times.each_us, times.each_count, 990) / 1000,
                  0);
        study_add(report, "false_evictions", "", (int64_t)deaths.false_evictions, 0);
        study_add(report, "samples", "deaths", seen, 0);
    }
    study_close(world, report);
    free(deaths.seen_us);
    free(times.each_us);
    return ok;
}

static bool run_reset(const struct study_options *options, struct study_report *report)
{
    return run(options, false, 0, report);
}

static bool run_silent(const struct study_options *options, struct study_report *report)
{
    return run(options, true, 0, report);
}

static bool run_silent_loss10(const struct study_options *options, struct study_report *report)
{
    return run(options, true, 100, report);
}

const struct sim_study study_detect_reset = {
    .name = "detect-reset",
    .meaning = "how long until all nodes show a process down that was killed",
    .nodes = 1000,
    .nodes_least = LEFT + 1,
    .samples = true,
    .from_rest = true,
    .run = run_reset,
};
const struct sim_study study_detect_silent = {
    .name = "detect-silent",
    .meaning = "how long until all nodes show a machine down that is gone, so that nothing is reset",
    .nodes = 1000,
    .nodes_least = LEFT + 1,
    .samples = true,
    .from_rest = true,
    .run = run_silent,
};
const struct sim_study study_detect_silent_loss10 = {
    .name = "detect-silent-loss10",
    .meaning = "how long until all nodes show a machine down that is gone, where every tenth message is lost",
    .nodes = 1000,
    .nodes_least = LEFT + 1,
    .samples = true,
    .from_rest = true,
    .run = run_silent_loss10,
};
