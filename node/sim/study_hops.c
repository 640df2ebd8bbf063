/*
 * How many links the record of one node crosses until all have it, and how many copies arrive in vain.
 *
 * Some nodes, drawn from the seed, announce themselves anew one after the other in a settled mesh, each four times; where
 * sites are large, nodes of the upper tier, whose records go furthest: to all reporters and to their own site. The
 * first time is in a higher incarnation, whose record is flooded and makes the origin's tree, whatever it was before; the
 * next ones shorten it (mesh/tree.h). What is counted is the last, and as `hops_at_first` the first. The hops of a node are those of the first copy that its tree brought. Now and then a
 * round of anti-entropy overtakes the tree; that makes the record come sooner, and its copy from the tree late.
 */
#include "node/sim/study.h"

#include "node/sim/world.h"

#include <stdio.h>

#define ORIGINS 20
#define ANNOUNCEMENTS 4 /* of each; the last one counts */
#define STEP_US (SECOND_US / 2)
#define MOST_US (12 * SECOND_US) /* two rounds of anti-entropy, for what every tree and word missed */
#define AFTER_US SECOND_US       /* for copies in vain, and for the trees to come to rest */

struct hops {
    uint32_t origin;    /* host that announces now */
    uint64_t version;   /* of its member record, which it has yet to sign; 0 = none under way */
    uint32_t *of;       /* [nodes] hops of the first copy along the tree; SIM_NONE = none yet */
    int64_t *at_us;     /* [nodes] when it came first, whichever way; 0 = not yet */
    uint32_t concerned; /* hosts whom the record is for, the origin included */
    uint32_t reached;   /* of them */
    uint32_t most;      /* over all announcements */
    uint64_t first_copies;
    uint64_t hops_sum;
    uint64_t late_copies;
};

static void received(void *context, const struct world *world, const struct flight *flight)
{
    struct hops *const hops = context;
    const struct mesh_message *const message = flight->message;
    if (hops->version == 0 || (message->kind != MESH_PUSH && message->kind != MESH_SPREAD)) {
        return;
    }
    const struct mesh_record *const record = &message->body.push.record;
    if (record->kind != MESH_RECORD_MEMBER || record->version != hops->version ||
        memcmp(&record->origin, &world->host[hops->origin].id, sizeof record->origin) != 0 ||
        flight->to == hops->origin || !study_concerns(&world->host[hops->origin], &world->host[flight->to])) {
        return;
    }
    if (hops->at_us[flight->to] != 0) {
        hops->late_copies++;
    } else {
        hops->at_us[flight->to] = world->now_us;
        hops->reached++;
    }
    if (message->kind == MESH_SPREAD && hops->of[flight->to] == SIM_NONE) {
        hops->of[flight->to] = message->body.push.hops;
        hops->first_copies++;
        hops->hops_sum += hops->of[flight->to];
        hops->most = hops->of[flight->to] > hops->most ? hops->of[flight->to] : hops->most;
    }
}

static void forget_counts(struct hops *hops)
{
    hops->most = 0;
    hops->first_copies = hops->hops_sum = hops->late_copies = 0;
}

/* `anew`: in a higher incarnation, whose first record is flooded and makes the origin's tree anew. */
static bool announce(struct world *world, struct hops *hops, struct host *origin, bool anew,
                     struct study_report *report)
{
    hops->concerned = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        hops->of[i] = SIM_NONE;
        hops->at_us[i] = 0;
        hops->concerned += study_concerns(origin, &world->host[i]);
    }
    hops->of[origin->index] = 0;
    hops->origin = origin->index;
    hops->reached = 1;
    hops->version = origin->signed_version + 1;
    struct mesh_event event = {.kind = anew ? MESH_FORGOT : MESH_ANNOUNCE};
    event.body.forgot = anew ? UINT32_MAX : 0;
    sim_host_step(world, origin, &event);
    for (int64_t ran_us = 0; ran_us < MOST_US && hops->reached < hops->concerned; ran_us += STEP_US) {
        if (!study_run(world, STEP_US, report)) {
            return false;
        }
    }
    if (!study_run(world, AFTER_US, report)) {
        return false;
    }
    if (hops->reached != hops->concerned) {
        snprintf(report->failure, sizeof report->failure, "%u of %u nodes had the record after %lld s",
                 hops->reached, hops->concerned, (long long)(MOST_US / SECOND_US));
        return false;
    }
    return true;
}

/* What all origins' last records showed. */
struct sums {
    uint32_t most;
    uint32_t most_at_first;
    uint64_t first_copies;
    uint64_t hops_sum;
    uint64_t late_copies;
    int64_t latest_us[ORIGINS]; /* until all had it */
};

static uint32_t greater(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool measure_origin(struct world *world, struct hops *hops, uint32_t number, struct sums *sums,
                           struct study_report *report)
{
    struct host *origin;
    do {
        origin = &world->host[sim_below(&world->random, world->host_count)];
    } while (origin->interior);
    for (uint32_t i = 0; i < ANNOUNCEMENTS; i++) {
        const int64_t began_us = world->now_us;
        forget_counts(hops);
        if (!announce(world, hops, origin, i == 0, report)) {
            return false;
        }
        if (i == 0) {
            sums->most_at_first = greater(sums->most_at_first, hops->most);
        }
        sums->latest_us[number] = 0;
        for (uint32_t j = 0; j < world->host_count; j++) {
            const int64_t took_us = j == origin->index ? 0 : hops->at_us[j] - began_us;
            sums->latest_us[number] = took_us > sums->latest_us[number] ? took_us : sums->latest_us[number];
        }
    }
    sums->most = greater(sums->most, hops->most);
    sums->first_copies += hops->first_copies;
    sums->hops_sum += hops->hops_sum;
    sums->late_copies += hops->late_copies;
    return true;
}

static bool run_at_loss(const struct study_options *options, uint32_t loss_permille,
                        struct study_report *report)
{
    struct hops hops = {.of = sim_alloc(options->nodes, sizeof *hops.of),
                        .at_us = sim_alloc(options->nodes, sizeof *hops.at_us)};
    const struct study_watch watch = {.context = &hops, .received = received};
    struct sums sums = {0};
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report);
    if (ok) {
        study_lose(world, loss_permille);
        ok = study_run(world, 10 * SECOND_US, report);
    }
    const uint32_t count = options->samples != 0 && options->samples < ORIGINS ? options->samples : ORIGINS;
    uint32_t done = 0;
    while (ok && done < count) {
        ok = measure_origin(world, &hops, done, &sums, report);
        done += ok;
    }
    ok = ok || (study_stopped() && done > 0);
    if (ok) {
        study_add(report, "hops", "", sums.most, 0);
        study_add(report, "hops_mean", "", (int64_t)(sums.hops_sum * 100 / sums.first_copies), 2);
        study_add(report, "hops_at_first", "", sums.most_at_first, 0);
        study_add_ratio(report, "redundancy", sums.late_copies, sums.first_copies);
        study_add(report, "all_reached_p50_ms", "ms", study_quantile(sums.latest_us, done, 500) / 1000, 0);
        study_add(report, "all_reached_most_ms", "ms", study_quantile(sums.latest_us, done, 1000) / 1000, 0);
        study_add(report, "samples", "origins", done, 0);
    }
    study_close(world, report);
    free(hops.of);
    free(hops.at_us);
    return ok;
}

static bool run(const struct study_options *options, struct study_report *report)
{
    return run_at_loss(options, 0, report);
}

static bool run_loss10(const struct study_options *options, struct study_report *report)
{
    return run_at_loss(options, 100, report);
}

const struct sim_study study_hops_loss10 = {
    .name = "hops-loss10",
    .meaning = "links that one update crosses until all have it, where every tenth message is lost",
    .nodes = 1000,
    .nodes_least = 2,
    .samples = true,
    .from_rest = true,
    .run = run_loss10,
};

const struct sim_study study_hops = {
    .name = "hops",
    .meaning = "links that one update crosses until all have it, and copies that came in vain",
    .nodes = 1000,
    .nodes_least = 2,
    .samples = true,
    .from_rest = true,
    .run = run,
};
