/*
 * Living nodes that others took for dead: where every tenth message is lost and nodes pause, and where links carry one
 * direction only. A false eviction is a member shown DOWN by some node while its process runs; suspicions are counted
 * beside them, since those are what refutations have to undo.
 */
#include "node/sim/study.h"
#include "node/sim/world.h"

#include <stdio.h>

struct evictions {
    uint64_t down;
    uint64_t suspect;
};

static void member(void *context, const struct world *world, const struct host *host,
                   const struct mesh_effect *effect)
{
    (void)host;
    struct evictions *const evictions = context;
    const uint32_t subject = sim_world_identity(world, &effect->body.member.id);
    if (subject == SIM_NONE || !world->host[subject].alive) {
        return;
    }
    evictions->down += effect->body.member.state == MESH_DOWN;
    evictions->suspect += effect->body.member.state == MESH_SUSPECT;
}

static bool finish(struct world *world, const struct evictions *evictions, struct study_report *report,
                   int64_t from_us)
{
    study_add(report, "false_evictions", "", (int64_t)evictions->down, 0);
    study_add(report, "false_suspicions", "", (int64_t)evictions->suspect, 0);
    study_add(report, "virtual_minutes", "", (world->now_us - from_us) / SECOND_US / 6, 1);
    study_add(report, "node_hours", "", (world->now_us - from_us) / SECOND_US * world->host_count / 36, 2);
    return true;
}

/*
 * Each second every node that has run for 5 s stops with such a chance that one in twenty is stopped at a time, for up to
 * 4 s. Without the 5 s two pauses with a moment between them would be one of up to 8 s.
 */
static void pause_some(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        if (host->paused_until_us + 5 * SECOND_US <= world->now_us && sim_chance(&world->random, 30)) {
            host->paused_until_us =
                world->now_us + sim_between(&world->random, SECOND_US / 10, 4 * SECOND_US);
        }
    }
}

static bool run_loss10(const struct study_options *options, struct study_report *report)
{
    struct evictions evictions = {0};
    const struct study_watch watch = {.context = &evictions, .member = member};
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report);
    if (ok) {
        const int64_t from_us = world->now_us;
        study_lose(world, 100);
        evictions = (struct evictions){0};
        for (uint32_t second = 0; ok && second < 60 * options->minutes; second++) {
            pause_some(world);
            ok = study_run(world, SECOND_US, report);
            sim_network_changed(world);
        }
        ok = (ok || study_stopped()) && finish(world, &evictions, report, from_us);
    }
    study_close(world, report);
    return ok;
}

#define ONE_WAY_NODES 20     /* one in so many has such links */
#define ONE_WAY_PERMILLE 400 /* of its links */

/* Cuts one direction, drawn anew for each, of four in ten of the links that some nodes keep. */
static uint32_t cut_directions(struct world *world, uint8_t *cut)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->host_count; i += ONE_WAY_NODES) {
        struct mesh_member_view view;
        uint32_t links = 0;
        uint32_t peers[MESH_LINKS_MAX];
        for (uint32_t index = 0; mesh_member_view(world->host[i].mesh, index, &view); index++) {
            if (view.neighbour) {
                peers[links++] = sim_world_identity(world, &view.id);
            }
        }
        const uint32_t chosen = links * ONE_WAY_PERMILLE / 1000;
        for (uint32_t k = 0; k < chosen; k++) {
            const bool out = sim_chance(&world->random, 500);
            cut[(size_t)(out ? i : peers[k]) * world->host_count + (out ? peers[k] : i)] = 1;
            count++;
        }
    }
    return count;
}

static bool run_oneway(const struct study_options *options, struct study_report *report)
{
    struct evictions evictions = {0};
    const struct study_watch watch = {.context = &evictions, .member = member};
    uint8_t *const cut = sim_alloc((size_t)options->nodes * options->nodes, 1);
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report);
    if (ok) {
        const int64_t from_us = world->now_us;
        evictions = (struct evictions){0};
        const uint32_t count = cut_directions(world, cut);
        world->cut = cut;
        ok = study_run(world, (int64_t)options->minutes * 60 * SECOND_US, report);
        ok = (ok || study_stopped()) && finish(world, &evictions, report, from_us);
        study_add(report, "links_one_way", "", count, 0);
    }
    study_close(world, report);
    free(cut);
    return ok;
}

const struct sim_study study_evictions_loss10 = {
    .name = "evictions-loss10",
    .meaning = "living nodes taken for dead where messages are lost and nodes pause",
    .nodes = 1000,
    .nodes_least = 3,
    .minutes = 120,
    .from_rest = true,
    .run = run_loss10,
};
const struct sim_study study_evictions_oneway = {
    .name = "evictions-oneway",
    .meaning = "living nodes taken for dead where two fifths of some nodes' links carry one direction only",
    .nodes = 1000,
    .nodes_least = 4, /* four tenths of three links are one */
    .minutes = 10,
    .from_rest = true,
    .run = run_oneway,
};
