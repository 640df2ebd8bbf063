/* How long a mesh that was cut in two takes, once the cut ends, until every node shows every other up again. */
#include "node/sim/study.h"
#include "node/sim/world.h"

#include <stdio.h>

#define CUT_US (120 * SECOND_US)
#define HEAL_MOST_US (600 * SECOND_US)

static bool run(const struct study_options *options, struct study_report *report)
{
    struct world *const world = study_open(options, 5 * SECOND_US, NULL, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report);
    if (ok) {
        for (uint32_t i = 0; i < world->host_count; i++) {
            world->host[i].group = sim_below(&world->random, 2);
        }
        sim_network_changed(world);
        ok = study_run(world, CUT_US, report);
    }
    if (ok) {
        uint32_t down = 0;
        struct mesh_member_view view;
        for (uint32_t index = 0; mesh_member_view(world->host[0].mesh, index, &view); index++) {
            down += view.state == MESH_DOWN;
        }
        study_add(report, "down_during_cut", "members", down, 0);
        for (uint32_t i = 0; i < world->host_count; i++) {
            world->host[i].group = 0;
        }
        sim_network_changed(world);
        const int64_t healed_us = world->now_us;
        ok = study_settle(world, HEAL_MOST_US, report);
        study_add(report, "one_view_ms", "ms", (world->now_us - healed_us) / 1000, 0);
    }
    study_close(world, report);
    return ok;
}

const struct sim_study study_heal = {
    .name = "heal",
    .meaning = "how long the halves of a mesh that was cut take to be one again",
    .nodes = 1000,
    .nodes_least = 8, /* of fewer a half might be nobody */
    .from_rest = true,
    .run = run,
};
