/*
 * How many links the record of one node crosses until all have it, and how many copies arrive in vain.
 *
 * Some nodes, drawn from the seed, announce themselves anew one after the other in a settled mesh. The hops of a copy
 * are those of the copy that its sender took in, plus one; of a node, those of the first copy that reached it.
 */
#include "node/sim/study.h"

#include "node/sim/world.h"

#include <stdio.h>

#define ANNOUNCEMENTS 20
#define APART_US (3 * SECOND_US)

struct hops {
    uint32_t origin;  /* host that announces now */
    uint64_t version; /* of its member record, which it has yet to sign; 0 = none under way */
    uint32_t *of;     /* [nodes] hops of the first copy; SIM_NONE = none yet */
    int64_t *at_us;   /* [nodes] when it came */
    uint32_t reached;
    uint32_t most; /* over all announcements */
    uint64_t first_copies;
    uint64_t hops_sum;
    uint64_t late_copies;
};

static void received(void *context, const struct world *world, const struct flight *flight)
{
    struct hops *const hops = context;
    if (hops->version == 0 || flight->message->kind != MESH_PUSH || flight->payload == NULL) {
        return;
    }
    const struct mesh_record *const record = &flight->payload->record;
    if (record->kind != MESH_RECORD_MEMBER || record->version != hops->version ||
        memcmp(&record->origin, &world->host[hops->origin].id, sizeof record->origin) != 0 ||
        flight->to == hops->origin) {
        return;
    }
    if (hops->of[flight->to] != SIM_NONE) {
        hops->late_copies++;
        return;
    }
    hops->of[flight->to] = hops->of[flight->from] + 1;
    hops->at_us[flight->to] = world->now_us;
    hops->reached++;
    hops->first_copies++;
    hops->hops_sum += hops->of[flight->to];
    hops->most = hops->of[flight->to] > hops->most ? hops->of[flight->to] : hops->most;
}

static bool announce(struct world *world, struct hops *hops, struct study_report *report)
{
    struct host *const origin = &world->host[sim_below(&world->random, world->host_count)];
    for (uint32_t i = 0; i < world->host_count; i++) {
        hops->of[i] = SIM_NONE;
    }
    hops->of[origin->index] = 0;
    hops->origin = origin->index;
    hops->reached = 1;
    hops->version = origin->signed_version + 1;
    sim_host_simple(world, origin, MESH_ANNOUNCE);
    if (!study_run(world, APART_US, report)) {
        return false;
    }
    if (hops->reached != world->host_count) {
        snprintf(report->failure, sizeof report->failure, "%u of %u nodes had the record after %lld s",
                 hops->reached, world->host_count, (long long)(APART_US / SECOND_US));
        return false;
    }
    return true;
}

static bool run(const struct study_options *options, struct study_report *report)
{
    struct hops hops = {.of = sim_alloc(options->nodes, sizeof *hops.of),
                        .at_us = sim_alloc(options->nodes, sizeof *hops.at_us)};
    const struct study_watch watch = {.context = &hops, .received = received};
    int64_t latest_us[ANNOUNCEMENTS];
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report) &&
              study_run(world, 10 * SECOND_US, report);
    for (uint32_t i = 0; ok && i < ANNOUNCEMENTS; i++) {
        const int64_t began_us = world->now_us;
        ok = announce(world, &hops, report);
        latest_us[i] = 0;
        for (uint32_t j = 0; ok && j < world->host_count; j++) {
            const int64_t took_us = hops.of[j] == 0 ? 0 : hops.at_us[j] - began_us;
            latest_us[i] = took_us > latest_us[i] ? took_us : latest_us[i];
        }
    }
    if (ok) {
        study_add(report, "hops", "", hops.most, 0);
        study_add(report, "hops_mean", "", (int64_t)(hops.hops_sum * 100 / hops.first_copies), 2);
        study_add_ratio(report, "redundancy", hops.late_copies, hops.first_copies);
        study_add(report, "all_reached_p50_ms", "ms", study_quantile(latest_us, ANNOUNCEMENTS, 500) / 1000,
                  0);
        study_add(report, "all_reached_most_ms", "ms", study_quantile(latest_us, ANNOUNCEMENTS, 1000) / 1000,
                  0);
    }
    study_close(world, report);
    free(hops.of);
    free(hops.at_us);
    return ok;
}

const struct sim_study study_hops = {
    .name = "hops",
    .meaning = "links that one update crosses until all have it, and copies that came in vain",
    .nodes = 1000,
    .minutes = 1,
    .run = run,
};
