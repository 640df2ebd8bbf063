/*
 * What nodes send to each other with no job in the mesh: at rest, and while every node's capacity changes each second.
 *
 * Bytes are those that a TCP connection is given: frames as node/wire.c writes them, several of one step to one peer as a
 * batch, and what CURVE and ZMTP put around each message. The transport's own HELLOs are not in it.
 */
#include "node/sim/bytes.h"
#include "node/sim/study.h"
#include "node/sim/world.h"

#define WARM_UP_S 60

struct traffic {
    bool counting;
    uint32_t nodes;
    int64_t *
        latest_us; /* [nodes x nodes] when the first last sent to the second: frames of one instant are a batch */
    uint64_t bytes;
    uint64_t messages;
    uint64_t of_kind[MESH_MESSAGE_KINDS];
};

static void sent(void *context, const struct world *world, const struct flight *flight)
{
    struct traffic *const traffic = context;
    if (!traffic->counting || flight->from == flight->to) {
        return;
    }
    int64_t *const latest_us = &traffic->latest_us[(size_t)flight->from * traffic->nodes + flight->to];
    uint64_t bytes = sim_frame_bytes(flight->message);
    if (*latest_us == world->now_us) {
        bytes += SIM_BATCH_FRAME_BYTES;
    } else {
        bytes += SIM_MESSAGE_OVERHEAD_BYTES;
        traffic->messages++;
    }
    *latest_us = world->now_us;
    traffic->bytes += bytes;
    traffic->of_kind[flight->message->kind] += bytes;
}

/* One slot is lent and taken back, every second; a tenth of the nodes at a time. */
static bool change_capacities(struct world *world, uint32_t second, struct study_report *report)
{
    for (uint32_t tenth = 0; tenth < 10; tenth++) {
        for (uint32_t i = tenth; i < world->host_count; i += 10) {
            struct host *const host = &world->host[i];
            host->lent[0] = (uint16_t)(host->slots[0] + second % 2);
            sim_host_devices(world, host);
        }
        if (!study_run(world, SECOND_US / 10, report)) {
            return false;
        }
    }
    return true;
}

/* Returns how many of the seconds passed: fewer if a claim broke or the study is stopped. */
static uint32_t pass(struct world *world, uint32_t seconds, bool busy, struct study_report *report)
{
    for (uint32_t second = 0; second < seconds; second++) {
        if (busy ? !change_capacities(world, second, report) : !study_run(world, SECOND_US, report)) {
            return second;
        }
    }
    return seconds;
}

struct copies {
    uint64_t taken;     /* records that were news */
    uint64_t redundant; /* that were not */
};

static struct copies count_copies(const struct world *world)
{
    struct copies copies = {0};
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct mesh_counters *const counters = mesh_counters(world->host[i].mesh);
        copies.taken += counters->records_new;
        copies.redundant += counters->records_old;
    }
    return copies;
}

/* How old the capacities are that nodes hold of others, in milliseconds. */
static int64_t oldest_p99_ms(const struct world *world)
{
    int64_t *const age_ms = sim_alloc((size_t)world->host_count * world->host_count, sizeof *age_ms);
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        const int64_t now_ms = sim_host_local_us(world, host) / 1000;
        struct mesh_member_view view;
        for (uint32_t index = 0; mesh_member_view(host->mesh, index, &view); index++) {
            if (!view.self && view.capacity_at_ms != 0) {
                age_ms[count++] = now_ms - view.capacity_at_ms;
            }
        }
    }
    const int64_t p99_ms = count > 0 ? study_quantile(age_ms, count, 990) : 0;
    free(age_ms);
    return p99_ms;
}

static void report_kinds(struct study_report *report, const struct traffic *traffic, uint64_t node_seconds)
{
    study_add(report, "bytes_per_s_records", "B/s",
              (int64_t)((traffic->of_kind[MESH_SPREAD] + traffic->of_kind[MESH_PUSH]) / node_seconds), 0);
    study_add(report, "bytes_per_s_words", "B/s",
              (int64_t)((traffic->of_kind[MESH_HAVE] + traffic->of_kind[MESH_GRAFT] +
                         traffic->of_kind[MESH_PRUNE]) /
                        node_seconds),
              0);
    study_add(report, "bytes_per_s_rounds", "B/s",
              (int64_t)((traffic->of_kind[MESH_SUMMARY] + traffic->of_kind[MESH_ENTRIES] +
                         traffic->of_kind[MESH_WANT]) /
                        node_seconds),
              0);
    study_add(report, "bytes_per_s_pings", "B/s",
              (int64_t)((traffic->of_kind[MESH_PING] + traffic->of_kind[MESH_PONG]) / node_seconds), 0);
}

static bool run(const struct study_options *options, bool busy, struct study_report *report)
{
    struct traffic traffic = {
        .nodes = options->nodes,
        .latest_us = sim_alloc((size_t)options->nodes * options->nodes, sizeof *traffic.latest_us)};
    const struct study_watch watch = {.context = &traffic, .sent = sent};
    struct world *const world = study_open(options, 5 * SECOND_US, &watch, report);
    bool ok = world != NULL && study_settle(world, 60 * SECOND_US, report) &&
              pass(world, WARM_UP_S, busy, report) == WARM_UP_S;
    struct copies before = {0};
    uint32_t seconds = 0;
    if (ok) {
        before = count_copies(world);
        traffic.counting = true;
        seconds = pass(world, 60 * options->minutes, busy, report);
        ok = seconds == 60 * options->minutes || (study_stopped() && seconds > 0);
    }
    if (ok) {
        const struct copies after = count_copies(world);
        const uint64_t node_seconds = (uint64_t)seconds * options->nodes;
        study_add(report, "bytes_per_s", "B/s", (int64_t)(traffic.bytes / node_seconds), 0);
        report_kinds(report, &traffic, node_seconds);
        study_add(report, "messages_per_s", "", (int64_t)(traffic.messages * 10 / node_seconds), 1);
        study_add(report, "records_per_s", "", (int64_t)((after.taken - before.taken) * 10 / node_seconds),
                  1);
        study_add_ratio(report, "redundancy", after.redundant - before.redundant, after.taken - before.taken);
        study_add(report, "samples", "seconds", seconds, 0);
        study_add(report, "capacity_age_p99_ms", "ms", oldest_p99_ms(world), 0);
    }
    study_close(world, report);
    free(traffic.latest_us);
    return ok;
}

static bool run_idle(const struct study_options *options, struct study_report *report)
{
    return run(options, false, report);
}

static bool run_busy(const struct study_options *options, struct study_report *report)
{
    return run(options, true, report);
}

const struct sim_study study_traffic_idle = {
    .name = "traffic-idle",
    .meaning = "bytes that a node sends with nothing going on",
    .nodes = 1000,
    .nodes_least = 2,
    .minutes = 1,
    .from_rest = true,
    .run = run_idle,
};
const struct sim_study study_traffic_busy = {
    .name = "traffic-busy",
    .meaning = "bytes that a node sends while every node's capacity changes each second, and copies in vain",
    .nodes = 1000,
    .nodes_least = 2,
    .minutes = 1,
    .from_rest = true,
    .run = run_busy,
};
