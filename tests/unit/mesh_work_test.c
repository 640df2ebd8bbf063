/*
 * Home and executors together: one home and three executors over a network that loses, repeats and reorders,
 * with crashes, reclaims, silences and restarts. Every step checks the invariants; at the end every shard is
 * committed once. Prints its seed and takes it as its first argument. Also prints what a bundle costs the
 * core.
 */
#include "mesh_net.h"

#include "mesh_fixture.h"

#include <time.h>

#define NODES 4
#define JOBS 6
#define SHARDS 600
#define RUNS_MAX 512
#define REPEATS_MAX 256

static uint64_t seed = 20261124;

struct run {
    bool busy;
    uint32_t node;
    uint32_t attempt;
    uint32_t count;
    uint64_t session;
    int64_t ends_at_ms;
    bool stopped;
};

struct repeat {
    uint32_t from, to;
    uint64_t payload;
    struct mesh_message message;
};

struct soak {
    struct run run[RUNS_MAX];
    struct repeat repeat[REPEATS_MAX];
    uint32_t repeats;
    uint64_t repeated;
    uint32_t step_seen; /* of the node whose output was looked at last */
    uint32_t node_seen;
    uint8_t committed[JOBS][SHARDS];
    uint32_t done;
    bool faults;
    uint16_t slots[NODES];
};

static uint32_t node_of(const struct net *net, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < net->count; i++) {
        if (!memcmp(&net->node[i].id, id, sizeof *id))
            return i;
    }
    return NODES;
}

/* Keeps a copy of some messages of the step, to be delivered once more later. */
static void repeat_some(struct net *net, uint32_t node)
{
    struct soak *const soak = net->hook_data;
    if (!soak->faults || (soak->node_seen == node && soak->step_seen == net->node[node].steps))
        return;
    soak->node_seen = node;
    soak->step_seen = net->node[node].steps;
    for (uint32_t i = 0; i < net->out->send_count && soak->repeats < REPEATS_MAX; i++) {
        const struct mesh_send *const send = &net->out->send[i];
        const uint32_t to = node_of(net, &send->to);
        if (send->message.kind < MESH_RESERVE || send->message.kind > MESH_CANCEL || to == NODES ||
            net_random(net, 10) != 0)
            continue;
        struct repeat *const repeat = &soak->repeat[soak->repeats++];
        *repeat = (struct repeat){.from = node, .to = to};
        memcpy(&repeat->message, &send->message, mesh_message_bytes(&send->message));
    }
}

static void on_save(struct net *net, uint32_t node, const struct mesh_save *save)
{
    struct soak *const soak = net->hook_data;
    repeat_some(net, node);
    if (save->kind != MESH_SAVE_COMMIT)
        return;
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        uint8_t *const committed =
            &soak->committed[save->body.commit.job.bytes[1]][save->body.commit.shard[i].shard];
        assert_int_equal(*committed, 0); /* at most one committed result per shard */
        *committed = 1;
        soak->done++;
    }
}

static void on_effect(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    struct soak *const soak = net->hook_data;
    repeat_some(net, node);
    if (effect->kind == MESH_STOP) {
        for (uint32_t i = 0; i < RUNS_MAX; i++) {
            struct run *const run = &soak->run[i];
            if (run->busy && run->node == node && run->attempt == effect->body.stop.attempt) {
                run->ends_at_ms = net->now_ms + 5;
                run->stopped = true;
            }
        }
    }
    if (effect->kind != MESH_RUN)
        return;
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        struct run *const run = &soak->run[i];
        if (run->busy)
            continue;
        const uint32_t long_one = net_random(net, 40) == 0 && soak->faults;
        *run = (struct run){.busy = true,
                            .node = node,
                            .attempt = effect->body.run.attempt,
                            .count = effect->body.run.count,
                            .session = net->node[node].config.session,
                            .ends_at_ms = net->now_ms + 1 + net_random(net, long_one ? 60000 : 200)};
        return;
    }
    fail_msg("more attempts than places");
}

static void end_runs(struct net *net)
{
    struct soak *const soak = net->hook_data;
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        struct run *const run = &soak->run[i];
        if (!run->busy || run->ends_at_ms > net->now_ms)
            continue;
        run->busy = false;
        if (!net->node[run->node].mesh || net->node[run->node].config.session != run->session)
            continue;
        struct mesh_event event = {.kind = MESH_RAN};
        event.body.ran.attempt = run->attempt;
        event.body.ran.count = run->count;
        event.body.ran.device_us = 1 + net_random(net, 30000);
        const bool returns = run->stopped || (soak->faults && net_random(net, 20) == 0);
        bool any = false;
        for (uint32_t s = 0; s < run->count; s++) {
            const bool done = !returns || net_random(net, 2) == 0;
            event.body.ran.outcome[s] = done ? MESH_DONE : MESH_RETURNED;
            any = any || done;
        }
        if (any)
            event.body.ran.handle = net_handle(net, run->node, NULL, 1);
        net_step(net, run->node, &event);
    }
}

static void repeat_now(struct net *net)
{
    struct soak *const soak = net->hook_data;
    for (uint32_t i = 0; i < soak->repeats; i++) {
        struct repeat *const repeat = &soak->repeat[i];
        if (!net->node[repeat->to].mesh || net->node[repeat->to].paused)
            continue;
        if (repeat->message.kind == MESH_RESULT && repeat->message.body.result.handle != 0)
            repeat->message.body.result.handle = net_handle(net, repeat->to, NULL, 1);
        struct mesh_event event = {.kind = MESH_RECEIVED};
        event.body.received.from = net->node[repeat->from].id;
        event.body.received.message = &repeat->message;
        net_step(net, repeat->to, &event);
        soak->repeated++;
    }
    soak->repeats = 0;
}

static void devices(struct net *net, uint32_t node, uint16_t slots)
{
    struct soak *const soak = net->hook_data;
    struct mesh_event event = {.kind = MESH_DEVICES};
    soak->slots[node] = slots;
    event.body.devices.class[0].slots = slots;
    net_step(net, node, &event);
}

/* One fault now and then: a reclaim, a silence, a pause, a restart. */
static void some_fault(struct net *net)
{
    struct soak *const soak = net->hook_data;
    const uint32_t node = 1 + net_random(net, NODES - 1);
    struct net_node *const n = &net->node[node];
    switch (net_random(net, 8)) {
    case 0:
        if (n->mesh && !n->paused)
            devices(net, node, (uint16_t)net_random(net, 4));
        break;
    case 1:
        n->mute = !n->mute;
        break;
    case 2:
        n->deaf = !n->deaf;
        break;
    case 3:
        n->paused = n->mesh && !n->paused;
        break;
    case 4:
        if (n->mesh) {
            net_kill(net, node, net_random(net, 2));
        } else {
            net_start(net, node, false);
            devices(net, node, soak->slots[node]);
        }
        break;
    default:
        n->mute = n->deaf = n->paused = false;
        break;
    }
}

static void heal(struct net *net)
{
    struct soak *const soak = net->hook_data;
    soak->faults = false;
    net->drop_permille = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        struct net_node *const n = &net->node[i];
        n->mute = n->deaf = n->paused = false;
        if (!n->mesh)
            net_start(net, i, false);
        if (i > 0)
            devices(net, i, 2);
    }
}

static void submit_job(struct net *net, uint8_t job)
{
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = (struct mesh_job_spec){.id = {.bytes = {0x4a, job}},
                                               .epoch = 1,
                                               .tenant = job % 3u,
                                               .shard_count = SHARDS,
                                               .bundle_shards_max = 64,
                                               .shard_us_guess = job % 2u ? 3000 : 0,
                                               .classes = 1};
    net_step(net, 0, &event);
}

static void soak_with(uint64_t with)
{
    struct soak *const soak = calloc(1, sizeof *soak);
    struct net *const net = net_open(with);
    net->hook_data = soak;
    net->on_effect = on_effect;
    net->on_save = on_save;
    net->latency_ms = 40;
    for (uint32_t i = 0; i < NODES; i++)
        net_add(net);
    net_introduce_all(net);
    net_run(net, 3000);
    for (uint32_t i = 1; i < NODES; i++)
        devices(net, i, 2);
    soak->faults = true;
    net->drop_permille = 50;
    for (uint32_t slice = 0; slice < 60000 && soak->done < JOBS * SHARDS; slice++) {
        if (slice < JOBS)
            submit_job(net, (uint8_t)slice);
        if (slice == 12000)
            heal(net);
        if (soak->faults && net_random(net, 100) == 0)
            some_fault(net);
        net_run(net, 10);
        end_runs(net);
        repeat_now(net);
    }
    const struct mesh_counters *const c = mesh_counters(net->node[0].mesh);
    printf("seed %llu: %lld s, down %llu restart %llu lease %llu returned %llu expired %llu duplicate %llu "
           "stale "
           "%llu repeated %llu bad %llu\n",
           (unsigned long long)with, (long long)net->now_ms / 1000, (unsigned long long)c->requeued_down,
           (unsigned long long)c->requeued_restart, (unsigned long long)c->requeued_lease,
           (unsigned long long)c->requeued_returned, (unsigned long long)c->requeued_expired,
           (unsigned long long)c->results_duplicate, (unsigned long long)c->results_stale,
           (unsigned long long)soak->repeated, (unsigned long long)c->bad_messages);
    for (uint8_t job = 0; job < JOBS; job++) {
        struct mesh_job_view view;
        const struct mesh_id id = {.bytes = {0x4a, job}};
        assert_true(mesh_job_find(net->node[0].mesh, &id, &view));
        assert_int_equal(view.state, MESH_JOB_DONE);
        assert_int_equal(view.committed, SHARDS);
    }
    /* When all is quiet nothing is left anywhere, and every handle was given back. */
    if (soak->faults)
        heal(net);
    for (uint32_t slice = 0; slice < 8000; slice++) {
        net_run(net, 10);
        end_runs(net);
        repeat_now(net);
    }
    for (uint32_t i = 0; i < NODES; i++) {
        struct mesh_executor_view view;
        mesh_executor_view(net->node[i].mesh, &view);
        /* All are honest: nothing made no sense. */
        assert_int_equal(mesh_counters(net->node[i].mesh)->bad_messages, 0);
        assert_int_equal(view.running + view.waiting + view.granted + view.unacked + view.demands, 0);
    }
    net_check_handles(net);
    net_close(net);
    free(soak);
}

static void every_shard_is_committed_once_whatever_happens(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 4; i++)
        soak_with(seed + i);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Two cores back to back, no network between them: a home and an executor that lends eight slots. */
struct pair {
    struct mesh *mesh[2];
    struct mesh_id id[2];
    struct mesh_out *out;
    struct mesh_send *queue; /* on the way; `to` says who gets it, the other one sent it */
    uint32_t head, tail;
    struct mesh_event ran[256]; /* what the executor has computed and not told yet */
    uint32_t ran_count;
    struct mesh_event tick, received;
    uint64_t handle, steps;
    uint32_t committed, bundles, ticks;
};
enum { HOME, EXECUTOR, PAIR_QUEUE = 65536 };

static struct pair *pair_open(void)
{
    const struct mesh_limits limits = {
        .members = 64, .jobs = 64, .shards = 1u << 20, .bundles = 2048, .attempts = 1024, .demands = 64};
    struct pair *const pair = calloc(1, sizeof *pair);
    pair->out = calloc(1, sizeof *pair->out);
    pair->queue = calloc(PAIR_QUEUE, sizeof *pair->queue);
    pair->tick.kind = MESH_TICK;
    pair->received.kind = MESH_RECEIVED;
    for (uint8_t i = 0; i < 2; i++) {
        pair->id[i].bytes[0] = i + 1;
        const struct mesh_config config = {.limits = limits,
                                           .self = pair->id[i],
                                           .site = i,
                                           .incarnation = 1,
                                           .session = 5 + i,
                                           .seed = {1, i}};
        pair->mesh[i] = mesh_init(calloc(1, mesh_size(&limits)), &config);
    }
    return pair;
}

static void pair_close(struct pair *pair)
{
    free(pair->mesh[HOME]);
    free(pair->mesh[EXECUTOR]);
    free(pair->out);
    free(pair->queue);
    free(pair);
}

/* A record of the one for the other. */
static struct mesh_event pair_record(struct pair *pair, uint32_t of, enum mesh_record_kind kind)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = pair->id[of];
    event.body.record.record = (struct mesh_record){
        .kind = kind, .origin = pair->id[of], .incarnation = 1, .version = 1, .handle = ++pair->handle};
    return event;
}

static void pair_introduce(struct pair *pair)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct mesh_event member = pair_record(pair, 1 - i, MESH_RECORD_MEMBER);
        member.body.record.record.body.member.session = 5 + (1 - i);
        mesh_step(pair->mesh[i], &member, pair->out);
    }
    struct mesh_event slots = {.kind = MESH_DEVICES};
    slots.body.devices.class[0].slots = 8;
    mesh_step(pair->mesh[EXECUTOR], &slots, pair->out);
    struct mesh_event capacity = pair_record(pair, EXECUTOR, MESH_RECORD_CAPACITY);
    capacity.body.record.record.body.capacity.class[0] = (struct mesh_class_capacity){.slots = 8, .free = 8};
    mesh_step(pair->mesh[HOME], &capacity, pair->out);
}

/* What is run is done at once. */
static void pair_take(struct pair *pair)
{
    const struct mesh_out *const out = pair->out;
    for (uint32_t i = 0; i < out->save_count; i++)
        if (out->save[i].kind == MESH_SAVE_COMMIT)
            pair->committed += out->save[i].body.commit.count;
    for (uint32_t i = 0; i < out->send_count; i++) {
        if (out->send[i].message.kind < MESH_RESERVE)
            continue;
        struct mesh_send *const send = &pair->queue[pair->tail++ % PAIR_QUEUE];
        send->to = out->send[i].to;
        memcpy(&send->message, &out->send[i].message, mesh_message_bytes(&out->send[i].message));
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        if (out->effect[i].kind != MESH_RUN)
            continue;
        struct mesh_event *const ran = &pair->ran[pair->ran_count++];
        ran->kind = MESH_RAN;
        ran->body.ran.attempt = out->effect[i].body.run.attempt;
        ran->body.ran.count = out->effect[i].body.run.count;
        ran->body.ran.handle = ++pair->handle;
        memset(ran->body.ran.outcome, MESH_DONE, ran->body.ran.count);
        pair->bundles++;
    }
}

/* What comes next, and to whom: what was computed, then messages, then time. Good until the next call. */
static struct mesh_event *pair_next(struct pair *pair, uint32_t *to)
{
    if (pair->ran_count > 0) {
        *to = EXECUTOR;
        return &pair->ran[--pair->ran_count];
    }
    if (pair->head != pair->tail) {
        const struct mesh_send *const send = &pair->queue[pair->head++ % PAIR_QUEUE];
        *to = memcmp(&send->to, &pair->id[HOME], sizeof send->to) ? EXECUTOR : HOME;
        pair->received.body.received.message = &send->message;
        pair->received.body.received.from = pair->id[1 - *to];
        return &pair->received;
    }
    *to = HOME;
    pair->tick.now_ms++;
    pair->ticks++;
    return &pair->tick;
}

/* In bundles of `bundle` shards. */
static void cost_of(uint32_t bundle, uint32_t shards)
{
    struct pair *const pair = pair_open();
    struct mesh_event submit = {.kind = MESH_SUBMIT};
    submit.body.submit = (struct mesh_job_spec){.id = {.bytes = {9}},
                                                .epoch = 1,
                                                .shard_count = shards,
                                                .bundle_shards_max = bundle,
                                                .shard_us_guess = 1,
                                                .classes = 1};
    pair_introduce(pair);
    const double begin = seconds();
    struct mesh_event *next = &submit;
    for (uint32_t to = HOME; pair->committed < shards && pair->ticks < 1000; next = pair_next(pair, &to)) {
        mesh_step(pair->mesh[to], next, pair->out);
        pair->steps++;
        pair_take(pair);
    }
    const double took = seconds() - begin;
    assert_int_equal(pair->committed, shards);
    printf("bundles of %3u: %.2f us per bundle on both cores together (%.1f steps), %.0f shards/s\n", bundle,
           took * 1e6 / pair->bundles, (double)pair->steps / pair->bundles, shards / took);
    pair_close(pair);
}

static void the_cost_of_a_bundle_is_printed(void **state)
{
    (void)state;
    cost_of(1, 50000);
    cost_of(16, 200000);
    cost_of(256, 1000000);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shard_is_committed_once_whatever_happens),
        cmocka_unit_test(the_cost_of_a_bundle_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
