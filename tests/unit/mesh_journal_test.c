/*
 * Journals of several copies: jobs outlive their homes. Cores over a network that loses and delays, nodes that die
 * and come back, disks that keep what was saved. Prints its seed and takes it as its first argument.
 *
 * What the test knows for itself, and holds the cores to: an acknowledged job ends; its shards are committed once,
 * by what the copies of its log say in the end; no two copies disagree about what was settled; an end that was told
 * is the end that the log holds.
 */
#include "mesh_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NODES 5
#define JOBS 24
#define SHARDS 40
#define ENTRIES 400
#define RUNS 512
#define CONTENTS 20000

static uint64_t seed = 20261124;

struct entry {
    uint64_t epoch;
    uint32_t settled;
    enum mesh_entry_kind kind;
    uint64_t content;            /* index into `content` */
    struct mesh_members members; /* SUBMIT, CHANGE */
};

/* One node's copy of one job's journal. */
struct log {
    bool there;
    struct mesh_members members; /* while it has no entry */
    uint64_t promised;
    struct mesh_id voted;
    bool own; /* the last entry is of this node's own reign */
    bool over;
    bool whole;
    uint32_t last;
    struct entry entry[ENTRIES + 1]; /* from 1 on */
};

struct content {
    enum mesh_job_state state; /* END */
    uint32_t count;            /* COMMIT */
    uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
};

struct run {
    bool busy;
    uint32_t node, attempt, count;
    uint64_t session;
    int64_t ends_at_ms;
};

struct cluster {
    struct log log[NODES][JOBS];
    struct content content[CONTENTS];
    uint64_t contents;
    struct run run[RUNS];
    uint32_t jobs;
    struct mesh_job_spec spec[JOBS];
    bool accepted[JOBS];
    enum mesh_job_state told[JOBS];
    uint32_t refused;
    uint32_t attempts; /* shards run, over all */
    uint32_t moved;
    uint32_t drained[NODES];
    uint32_t handed;                /* of nodes that drained */
    struct mesh_bundle_name result; /* of the latest that arrived from another node */
    uint32_t sends_max; /* entries of a log that a host sends in one go; 0: as many as it is asked for */
    uint32_t run_ms;    /* a bundle takes once to twice that; default 2000 */
    bool speculate; /* of jobs from now on; since devices report a millisecond, every bundle is soon slow */
};

static struct cluster *cluster;

static uint32_t node_of(const struct net *net, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < net->count; i++) {
        if (!memcmp(&net->node[i].id, id, sizeof *id))
            return i;
    }
    return UINT32_MAX;
}

static uint32_t job_of(const struct mesh_id *id)
{
    return id->bytes[1];
}

/* ---- The disk. */

static void log_cut(struct log *log, uint32_t last)
{
    for (uint32_t i = 1; i <= log->last; i++) /* what was settled here is never replaced */
        assert_true(log->entry[i].settled <= last);
    log->last = last;
}

static void log_put(uint32_t node, const struct mesh_id *job, const struct mesh_place *place,
                    enum mesh_entry_kind kind, uint64_t content, const struct mesh_members *members)
{
    struct log *const log = &cluster->log[node][job_of(job)];
    assert_true(place->index >= 1 && place->index <= ENTRIES && place->index <= log->last + 1);
    if (place->index == 1)
        log->there = true;
    assert_true(log->there);
    assert_true((members && members->count > 0) == (kind == MESH_ENTRY_SUBMIT || kind == MESH_ENTRY_CHANGE));
    if (place->index <= log->last) /* once more */
        assert_true(log->entry[place->index].epoch == place->entry_epoch &&
                    log->entry[place->index].content == content);
    else
        log->last = place->index;
    log->entry[place->index] = (struct entry){
        .epoch = place->entry_epoch, .settled = place->settled, .kind = kind, .content = content};
    if (members)
        log->entry[place->index].members = *members;
}

/* The last entry up to `index` that says who keeps the journal; 0 = none. */
static uint32_t members_at(const struct log *log, uint32_t index)
{
    while (index > 0 && log->entry[index].members.count == 0)
        index--;
    return index;
}

static const struct mesh_members *members_of(const struct log *log)
{
    return &log->entry[members_at(log, log->last)].members;
}

static uint64_t content_of(struct net *net, uint32_t node, uint64_t handle)
{
    return handle == 0 ? 0 : net->node[node].handle[handle - 1].payload;
}

static void on_save(struct net *net, uint32_t node, const struct mesh_save *save)
{
    struct content *fresh = &cluster->content[cluster->contents + 1];
    assert_true(cluster->contents + 1 < CONTENTS);
    struct log *log;
    switch (save->kind) {
    case MESH_SAVE_JOB:
        assert_int_equal(save->body.job.place.index, 1);
        log_put(node, &save->body.job.id, &save->body.job.place, MESH_ENTRY_SUBMIT, 0,
                &save->body.job.members);
        cluster->log[node][job_of(&save->body.job.id)].own = true;
        break;
    case MESH_SAVE_COMMIT:
        fresh->count = save->body.commit.count;
        for (uint32_t i = 0; i < fresh->count; i++)
            fresh->shard[i] = save->body.commit.shard[i].shard;
        log_put(node, &save->body.commit.job, &save->body.commit.place, MESH_ENTRY_COMMIT,
                ++cluster->contents, NULL);
        break;
    case MESH_SAVE_JOB_STATE:
        fresh->state = save->body.job.state;
        log_put(node, &save->body.job.id, &save->body.job.place, MESH_ENTRY_END, ++cluster->contents, NULL);
        break;
    case MESH_SAVE_ENTRY:
        if (save->body.entry.cut)
            log_cut(&cluster->log[node][job_of(&save->body.entry.job)], save->body.entry.place.index - 1);
        log_put(node, &save->body.entry.job, &save->body.entry.place, save->body.entry.kind,
                content_of(net, node, save->body.entry.handle), &save->body.entry.members);
        cluster->log[node][job_of(&save->body.entry.job)].own = save->body.entry.own;
        break;
    case MESH_SAVE_PROMISE:
        log = &cluster->log[node][job_of(&save->body.promise.job)];
        assert_true(log->last > 0 || save->body.promise.members.count > 0);
        if (log->last == 0) {
            log->there = true;
            log->members = save->body.promise.members;
        }
        assert_true(log->there && save->body.promise.epoch >= log->promised);
        /* One vote per epoch. */
        assert_true(save->body.promise.epoch > log->promised ||
                    !memcmp(&save->body.promise.candidate, &log->voted, sizeof log->voted));
        log->promised = save->body.promise.epoch;
        log->voted = save->body.promise.candidate;
        break;
    default:
        break;
    }
}

static uint64_t entry_of(struct net *net, uint32_t node, const struct mesh_message *append)
{
    (void)net;
    const struct log *const log = &cluster->log[node][job_of(&append->body.append.job)];
    assert_true(append->body.append.index <= log->last);
    return log->entry[append->body.append.index].content;
}

static void send_log(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    const uint32_t job = job_of(&effect->body.send_log.job);
    const struct log *const log = &cluster->log[node][job];
    for (uint32_t i = 0; i < effect->body.send_log.count; i++) {
        const uint32_t index = effect->body.send_log.first + i;
        if (cluster->sends_max && i == cluster->sends_max) {
            struct mesh_event event = {.kind = MESH_LOG_SENT};
            event.body.log_sent.job = effect->body.send_log.job;
            event.body.log_sent.to = effect->body.send_log.to;
            event.body.log_sent.epoch = effect->body.send_log.epoch;
            event.body.log_sent.last = index - 1;
            net_step(net, node, &event);
            return;
        }
        assert_true(index <= log->last);
        struct mesh_send send = {.to = effect->body.send_log.to, .message.kind = MESH_APPEND};
        send.message.body.append.job = effect->body.send_log.job;
        send.message.body.append.epoch = effect->body.send_log.epoch;
        send.message.body.append.settled = effect->body.send_log.settled;
        send.message.body.append.index = index;
        send.message.body.append.entry_epoch = log->entry[index].epoch;
        send.message.body.append.before_epoch = index > 1 ? log->entry[index - 1].epoch : 0;
        send.message.body.append.kind = (uint32_t)log->entry[index].kind;
        send.message.body.append.members = log->entry[index].members;
        net_send(net, node, &send);
    }
}

static void restore_journals(struct net *net, uint32_t node)
{
    for (uint32_t job = 0; job < cluster->jobs; job++) {
        struct log *const log = &cluster->log[node][job];
        if (!log->there || log->over)
            continue;
        struct mesh_event event = {.kind = MESH_RESTORE_JOURNAL};
        struct mesh_journal_image *const image = &event.body.journal;
        image->job = cluster->spec[job].id;
        image->members = log->last > 0 ? *members_of(log) : log->members;
        image->members_at = members_at(log, log->last);
        image->before_at = image->members_at > 0 ? members_at(log, image->members_at - 1) : 0;
        image->before = log->entry[image->before_at].members;
        image->promised = log->promised;
        image->voted = log->voted;
        image->last = log->last;
        image->settled = log->last > 0 ? log->entry[log->last].settled : 0;
        image->home = log->own;
        for (uint32_t i = 1; i <= log->last; i++) {
            if (log->entry[i].settled > image->settled)
                image->settled = log->entry[i].settled;
            if (log->entry[i].kind == MESH_ENTRY_END)
                image->end = i;
            if (i > 1 && log->entry[i].epoch == log->entry[i - 1].epoch)
                continue;
            if (image->run_count == MESH_RUNS_MAX) {
                memmove(&image->run[0], &image->run[1], (MESH_RUNS_MAX - 1) * sizeof image->run[0]);
                image->run_count--;
            }
            image->run[image->run_count].epoch = log->entry[i].epoch;
            image->run[image->run_count++].first = i;
        }
        net_step(net, node, &event);
    }
}

/* What a log says of its job. */
static enum mesh_job_state replay(const struct log *log, uint32_t committed[SHARDS])
{
    enum mesh_job_state state = MESH_JOB_RUNNING;
    memset(committed, 0, SHARDS * sizeof committed[0]);
    for (uint32_t i = 1; i <= log->last; i++) {
        const struct content *const content = &cluster->content[log->entry[i].content];
        if (log->entry[i].kind == MESH_ENTRY_END)
            state = content->state;
        for (uint32_t k = 0; log->entry[i].kind == MESH_ENTRY_COMMIT && k < content->count; k++)
            committed[content->shard[k]]++;
    }
    return state;
}

static void take_over(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    const uint32_t job = job_of(&effect->body.take_over.job);
    uint32_t committed[SHARDS];
    const enum mesh_job_state state = replay(&cluster->log[node][job], committed);
    if (state != MESH_JOB_RUNNING) {
        assert_true(cluster->told[job] == 0 || cluster->told[job] == state);
        cluster->told[job] = state;
        cluster->accepted[job] = true;
        return;
    }
    uint8_t bits[SHARDS / 8] = {0};
    for (uint32_t i = 0; i < SHARDS; i++) {
        assert_true(committed[i] <= 1);
        bits[i / 8] |= (uint8_t)(committed[i] << (i % 8));
    }
    struct mesh_event event = {.kind = MESH_RESTORE};
    event.body.restore.spec = cluster->spec[job];
    event.body.restore.spec.epoch = effect->body.take_over.epoch;
    event.body.restore.committed = bits;
    net_step(net, node, &event);
}

static void say_over(struct net *net, uint32_t node, const struct mesh_id *job, const struct mesh_id *to)
{
    struct mesh_event event = {.kind = MESH_JOB_IS_OVER};
    event.body.is_over.job = *job;
    event.body.is_over.to = *to;
    const struct log *const log = &cluster->log[node][job_of(job)];
    event.body.is_over.last = log->whole ? log->last : 0;
    event.body.is_over.last_epoch = log->whole ? log->entry[log->last].epoch : 0;
    net_step(net, node, &event);
}

static void say_new(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    struct mesh_event event = {.kind = MESH_JOURNAL_NEW};
    event.body.fresh.job = effect->body.asked.job;
    event.body.fresh.from = effect->body.asked.from;
    event.body.fresh.epoch = effect->body.asked.epoch;
    event.body.fresh.members = effect->body.asked.members;
    net_step(net, node, &event);
}

static bool answers(struct net *net, uint32_t node, uint32_t from, const struct mesh_message *message)
{
    if (message->kind == MESH_RESULT && from != node && message->body.result.name.index == 0)
        cluster->result = message->body.result.name;
    if (message->kind != MESH_APPEND || message->body.append.index != 1 ||
        !cluster->log[node][job_of(&message->body.append.job)].over)
        return false;
    say_over(net, node, &message->body.append.job, &net->node[from].id);
    return true;
}

static void on_effect(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    switch (effect->kind) {
    case MESH_RUN:
        for (uint32_t i = 0; i < RUNS; i++) {
            struct run *const run = &cluster->run[i];
            if (run->busy)
                continue;
            *run =
                (struct run){.busy = true,
                             .node = node,
                             .attempt = effect->body.run.attempt,
                             .count = effect->body.run.count,
                             .session = net->node[node].config.session,
                             .ends_at_ms = net->now_ms + cluster->run_ms + net_random(net, cluster->run_ms)};
            cluster->attempts += run->count;
            return;
        }
        fail();
        break;
    case MESH_STOP:
        for (uint32_t i = 0; i < RUNS; i++) {
            struct run *const run = &cluster->run[i];
            if (run->busy && run->node == node && run->attempt == effect->body.stop.attempt)
                run->ends_at_ms = net->now_ms;
        }
        break;
    case MESH_SEND_LOG:
        send_log(net, node, effect);
        break;
    case MESH_JOURNAL_OVER:
        cluster->log[node][job_of(&effect->body.over.job)].over = true;
        cluster->log[node][job_of(&effect->body.over.job)].whole = effect->body.over.whole;
        break;
    case MESH_JOURNAL_ASKED:
        if (cluster->log[node][job_of(&effect->body.asked.job)].over)
            say_over(net, node, &effect->body.asked.job, &effect->body.asked.from);
        else if (!cluster->log[node][job_of(&effect->body.asked.job)].there &&
                 effect->body.asked.members.count > 0)
            say_new(net, node, effect);
        break;
    case MESH_TAKE_OVER:
        take_over(net, node, effect);
        break;
    case MESH_DRAINED:
        cluster->drained[node]++;
        break;
    case MESH_JOB: {
        const uint32_t job = job_of(&effect->body.job.id);
        if (effect->body.job.refusal != MESH_ACCEPTED) {
            cluster->refused++;
        } else if (effect->body.job.state == MESH_JOB_MOVED) {
            cluster->moved++;
        } else {
            cluster->accepted[job] = true;
            if (effect->body.job.state != MESH_JOB_RUNNING) {
                assert_true(cluster->told[job] == 0 || cluster->told[job] == effect->body.job.state);
                cluster->told[job] = effect->body.job.state;
            }
        }
        break;
    }
    default:
        break;
    }
}

/* ---- Running. */

static void advance(struct net *net, int64_t for_ms)
{
    const int64_t until_ms = net->now_ms + for_ms;
    while (net->now_ms < until_ms) {
        net_run(net, 20);
        for (uint32_t i = 0; i < RUNS; i++) {
            struct run *const run = &cluster->run[i];
            const struct net_node *const node = &net->node[run->node];
            if (!run->busy || run->ends_at_ms > net->now_ms)
                continue;
            run->busy = false;
            if (!node->mesh || node->config.session != run->session)
                continue;
            struct mesh_event event = {.kind = MESH_RAN};
            event.body.ran.attempt = run->attempt;
            event.body.ran.count = run->count;
            event.body.ran.device_us = 1000;
            event.body.ran.handle = net_handle(net, run->node, NULL, 0);
            memset(event.body.ran.outcome, MESH_DONE, run->count);
            net_step(net, run->node, &event);
        }
    }
}

static void give_devices(struct net *net, uint32_t node)
{
    struct mesh_event event = {.kind = MESH_DEVICES};
    event.body.devices.class[0].slots = 2;
    net_step(net, node, &event);
}

static void start(struct net *net, uint32_t node)
{
    net_start(net, node, false);
    restore_journals(net, node);
    give_devices(net, node);
}

static struct net *open_cluster(uint64_t with_seed)
{
    cluster = calloc(1, sizeof *cluster);
    assert_non_null(cluster);
    cluster->run_ms = 2000;
    struct net *const net = net_open(with_seed);
    net->journals_limit = 64;
    net->on_save = on_save;
    net->on_effect = on_effect;
    net->entry_of = entry_of;
    net->answers = answers;
    for (uint32_t i = 0; i < NODES; i++)
        net_add(net);
    net_introduce_all(net);
    for (uint32_t i = 0; i < NODES; i++)
        give_devices(net, i);
    advance(net, 5000);
    assert_true(net_whole(net));
    return net;
}

static void close_cluster(struct net *net)
{
    net_close(net);
    free(cluster);
}

static uint32_t submit(struct net *net, uint32_t node, uint8_t copies)
{
    const uint32_t job = cluster->jobs++;
    assert_true(job < JOBS);
    struct mesh_job_spec *const spec = &cluster->spec[job];
    *spec = (struct mesh_job_spec){.epoch = 1,
                                   .tenant = 1,
                                   .kernel = 1,
                                   .shard_count = SHARDS,
                                   .bundle_shards_max = 4,
                                   .shard_us_guess = 500000,
                                   .classes = 1,
                                   .copies = copies,
                                   .copies_min = 2,
                                   .speculate = cluster->speculate};
    spec->id.bytes[0] = 0xee;
    spec->id.bytes[1] = (uint8_t)job;
    struct mesh_event event = {.kind = MESH_SUBMIT, .body.submit = *spec};
    net_step(net, node, &event);
    return job;
}

static uint32_t home_of(const struct net *net, uint32_t job)
{
    uint32_t home = UINT32_MAX;
    for (uint32_t i = 0; i < NODES; i++) {
        struct mesh_job_view view;
        if (net->node[i].mesh && mesh_job_find(net->node[i].mesh, &cluster->spec[job].id, &view) &&
            view.state == MESH_JOB_RUNNING)
            home = i;
    }
    return home;
}

/* The copies that are whole agree, are a majority, and hold every shard once and the end that was told. */
static void check_job(const struct net *net, uint32_t job)
{
    const struct log *first = NULL;
    uint32_t whole = 0;
    if (!cluster->accepted[job])
        return;
    if (cluster->told[job] != MESH_JOB_DONE)
        print_error("seed %llu: job %u is %d after %lld ms, home %d\n", (unsigned long long)net->seed, job,
                    (int)cluster->told[job], (long long)net->now_ms, (int)home_of(net, job));
    assert_int_equal(cluster->told[job], MESH_JOB_DONE);
    for (uint32_t i = 0; i < NODES; i++) {
        const struct log *const log = &cluster->log[i][job];
        uint32_t committed[SHARDS];
        /* Not told yet that it is over, it may still have to catch up. */
        if (!log->there || (log->over ? !log->whole : replay(log, committed) != MESH_JOB_DONE))
            continue;
        whole++;
        first = first ? first : log;
        for (uint32_t k = 1; k <= log->last && k <= first->last; k++) {
            assert_true(log->entry[k].epoch == first->entry[k].epoch);
            assert_true(log->entry[k].content == first->entry[k].content);
        }
        assert_int_equal(replay(log, committed), MESH_JOB_DONE);
        for (uint32_t shard = 0; shard < SHARDS; shard++)
            assert_int_equal(committed[shard], 1);
    }
    assert_true(whole > members_of(first)->count / 2);
}

static uint64_t counted(const struct net *net, size_t offset)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        if (net->node[i].mesh)
            sum += *(const uint64_t *)(const void *)((const char *)mesh_counters(net->node[i].mesh) + offset);
    }
    return sum;
}
#define COUNTED(net, name) counted(net, offsetof(struct mesh_counters, name))

static void job_is_done_and_its_copies_agree(void **state)
{
    (void)state;
    for (uint8_t copies = 2; copies <= 5; copies++) {
        struct net *const net = open_cluster(seed);
        const uint32_t job = submit(net, 1, copies);
        assert_false(cluster->accepted[job]); /* not before others hold it */
        advance(net, 1000);
        assert_true(cluster->accepted[job]);
        advance(net, 60000);
        check_job(net, job);
        uint32_t held = 0;
        for (uint32_t i = 0; i < NODES; i++)
            held += cluster->log[i][job].there && cluster->log[i][job].last == cluster->log[1][job].last;
        assert_int_equal(held, copies);
        assert_int_equal(cluster->attempts, SHARDS);
        assert_int_equal(COUNTED(net, takeovers) + COUNTED(net, elections), 0);
        /* Everybody has forgotten the journal itself. */
        assert_int_equal(COUNTED(net, stalls), 0);
        net_check_handles(net);
        close_cluster(net);
    }
}

static void job_goes_on_elsewhere_when_its_home_dies(void **state)
{
    (void)state;
    for (uint32_t reset = 0; reset < 2; reset++) {
        struct net *const net = open_cluster(seed + reset);
        const uint32_t job = submit(net, 1, 3);
        advance(net, 4000);
        assert_true(cluster->accepted[job]);
        assert_int_equal(home_of(net, job), 1);
        net_kill(net, 1, reset == 1);
        int64_t waited_ms = 0;
        for (; home_of(net, job) == UINT32_MAX && waited_ms < 30000; waited_ms += 100)
            advance(net, 100);
        print_message("    home %s: taken over after %.1f s, %llu attempts adopted\n",
                      reset ? "reset" : "silent", (double)waited_ms / 1000,
                      (unsigned long long)COUNTED(net, adoptions));
        assert_true(waited_ms < 15000);
        struct mesh_job_view view; /* who still runs some of it is listened to first */
        assert_true(mesh_job_find(net->node[home_of(net, job)].mesh, &cluster->spec[job].id, &view));
        assert_true(view.bind_in_ms > 4000 && view.bind_in_ms <= 5000 && view.assigned == 0);
        advance(net, 6000);
        if (mesh_job_find(net->node[home_of(net, job)].mesh, &cluster->spec[job].id, &view))
            assert_int_equal(view.bind_in_ms, 0);
        advance(net, 54000);
        check_job(net, job);
        assert_int_equal(COUNTED(net, takeovers), 1);
        close_cluster(net);
    }
}

static void attempts_of_a_lost_home_are_adopted_and_not_run_again(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 25000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    uint32_t elsewhere = 0; /* shards that run and do not die with the home */
    for (uint32_t i = 0; i < RUNS; i++)
        elsewhere += cluster->run[i].busy && cluster->run[i].node != 1 ? cluster->run[i].count : 0;
    const uint32_t before = cluster->attempts;
    net_kill(net, 1, true);
    advance(net, 300000);
    check_job(net, job);
    assert_true(COUNTED(net, adoptions) > 0);
    assert_int_equal(cluster->attempts - before, SHARDS - elsewhere);
    close_cluster(net);
}

/* Returns how many pairs of attempts the new home saw to their end. */
static uint64_t lose_a_home_with_copies(uint64_t with_seed)
{
    struct net *const net = open_cluster(with_seed);
    submit(net, 1, 3);
    advance(net, 60000); /* what the kernel takes is known now */
    cluster->speculate = true;
    cluster->run_ms = 25000;
    const uint32_t job = submit(net, 1, 3);
    for (int i = 0; i < 600 && COUNTED(net, copies) < 6; i++) /* once nothing is queued any more */
        advance(net, 200);
    assert_true(COUNTED(net, copies) >= 6);
    advance(net, 200);
    cluster->spec[job].speculate = false; /* so that the new home has no pairs of its own */
    net_kill(net, 1, true);
    for (int i = 0; i < 300 && home_of(net, job) == UINT32_MAX; i++)
        advance(net, 100);
    const uint32_t home = home_of(net, job);
    assert_true(home < NODES);
    const struct mesh_counters *const counters = mesh_counters(net->node[home].mesh);
    advance(net, 300000);
    check_job(net, job);
    assert_int_equal(counters->copies, 0);
    const uint64_t pairs = counters->copies_first + counters->copies_late;
    close_cluster(net);
    return pairs;
}

/* The new home is told of two attempts at the same shards: it takes both over, and stops the one that is late. */
static void both_attempts_at_a_shard_are_adopted(void **state)
{
    (void)state;
    uint64_t pairs = 0;
    for (uint64_t i = 0; i < 4; i++)
        pairs += lose_a_home_with_copies(seed + i);
    assert_true(pairs > 0);
}

static void home_that_comes_back_follows_the_new_one(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    net_kill(net, 1, true);
    for (int i = 0; i < 200 && home_of(net, job) == UINT32_MAX; i++)
        advance(net, 100);
    const uint32_t home = home_of(net, job);
    assert_true(home != 1 && home < NODES);
    start(net, 1);
    advance(net, 60000);
    check_job(net, job);
    assert_int_equal(COUNTED(net, takeovers), 1);
    close_cluster(net);
}

static void restarted_home_goes_on_at_once(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    net_kill(net, 1, true);
    advance(net, 300);
    start(net, 1);
    advance(net, 5000);
    assert_int_equal(home_of(net, job), 1);
    advance(net, 60000);
    check_job(net, job);
    close_cluster(net);
}

static void minority_commits_nothing_and_says_so(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    net_split(net, 1u << 1, true);
    int64_t said_ms = -1;
    for (int64_t ms = 0; ms < 20000; ms += 100) {
        struct mesh_job_view view;
        if (said_ms < 0 && mesh_job_find(net->node[1].mesh, &cluster->spec[job].id, &view) && view.stalled)
            said_ms = ms;
        advance(net, 100);
    }
    assert_true(said_ms >= 0 && said_ms <= 10000);
    advance(net, 60000);
    /* The majority finished without it. */
    assert_int_equal(cluster->told[job], MESH_JOB_DONE);
    net_split(net, 1u << 1, false);
    advance(net, 60000);
    check_job(net, job);
    assert_int_equal(COUNTED(net, step_downs), 1);
    close_cluster(net);
}

static void two_of_three_lost_the_job_waits_for_one(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    struct log *const own = &cluster->log[1][job];
    uint32_t other[2], count = 0;
    for (uint32_t i = 0; i < members_of(own)->count; i++) {
        const uint32_t node = node_of(net, &members_of(own)->id[i]);
        if (node != 1)
            other[count++] = node;
    }
    net_kill(net, 1, true);
    net_kill(net, other[0], true);
    advance(net, 60000);
    assert_int_equal(home_of(net, job), UINT32_MAX);
    assert_int_equal(cluster->told[job], 0);
    start(net, other[0]);
    advance(net, 90000);
    check_job(net, job);
    close_cluster(net);
}

static void too_few_nodes_for_the_copies_insisted_on_is_refused(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = (struct mesh_job_spec){
        .id.bytes = {1, 0}, .epoch = 1, .shard_count = 1, .classes = 1, .copies = 5, .copies_min = 5};
    net_kill(net, 4, true);
    advance(net, 20000);
    net_step(net, 0, &event);
    assert_int_equal(cluster->refused, 1);
    for (uint32_t wished = 1; wished <= MESH_COPIES_MAX; wished++)
        assert_int_equal(mesh_journal_copies(net->node[0].mesh, wished), wished < 4 ? wished : 4);
    event.body.submit.copies = event.body.submit.copies_min = 4;
    net_step(net, 0, &event);
    assert_int_equal(cluster->refused, 1);
    close_cluster(net);
}

/* Until the job is done, however long that takes, and everybody has heard of it. */
static void finish(struct net *net, uint32_t job)
{
    for (int i = 0; i < 600 && cluster->told[job] == 0; i++)
        advance(net, 60000);
    advance(net, 60000);
}

/* The results of jobs that lost their majorities wait to be settled, more than there is room for; another job needs some of it. */
static void stalled_jobs_leave_room_to_others(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 200;
    uint32_t stalled[3];
    for (uint32_t i = 0; i < 3; i++)
        stalled[i] = submit(net, 1, 5);
    advance(net, 500);
    for (uint32_t node = 2; node < NODES; node++)
        net_kill(net, node, true);
    advance(net, 30000);
    assert_true(mesh_counters(net->node[1].mesh)->bound_waiters > 0);
    const uint32_t well = submit(net, 1, 2);
    advance(net, 60000);
    assert_int_equal(cluster->told[well], MESH_JOB_DONE);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(cluster->accepted[stalled[i]] && cluster->told[stalled[i]] == 0);
    for (uint32_t node = 2; node < NODES; node++)
        start(net, node);
    for (uint32_t i = 0; i < 3; i++) {
        finish(net, stalled[i]);
        check_job(net, stalled[i]);
    }
    check_job(net, well);
    close_cluster(net);
}

/* ---- Who keeps the copies. */

static const struct mesh_members *kept_by(uint32_t node, uint32_t job)
{
    return members_of(&cluster->log[node][job]);
}

static bool keeps(const struct net *net, uint32_t node, const struct mesh_members *members)
{
    for (uint32_t i = 0; i < members->count; i++) {
        if (node_of(net, &members->id[i]) == node)
            return true;
    }
    return false;
}

/* A member of the job's journal beside its home, the first or the second; or a node that keeps none, if `which` is 2 or 3. */
static uint32_t other_node(const struct net *net, uint32_t home, uint32_t job, uint32_t which)
{
    const bool member = which < 2;
    for (uint32_t i = 0, left = which % 2; i < NODES; i++) {
        if (i != home && keeps(net, i, kept_by(home, job)) == member && left-- == 0)
            return i;
    }
    fail();
    return 0;
}

/* Waits until the change is over in which `gone` is replaced. */
static int64_t wait_for_change(struct net *net, uint32_t home, uint32_t job, uint32_t number, int64_t most_ms)
{
    int64_t waited_ms = 0;
    while (kept_by(home, job)->number < number && waited_ms < most_ms) {
        advance(net, 100);
        waited_ms += 100;
    }
    return waited_ms;
}

static void member_that_is_down_for_ten_minutes_is_replaced(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 15 * 60 * 1000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t gone = other_node(net, 1, job, 0);
    net_kill(net, gone, true);
    advance(net, 9 * 60 * 1000);
    assert_int_equal(kept_by(1, job)->number, 1);
    wait_for_change(net, 1, job, 3, 120000);
    const struct mesh_members *const after = kept_by(1, job);
    assert_int_equal(after->number, 3);
    assert_int_equal(after->count, 3);
    assert_int_equal(after->joining + after->leaving, 0);
    assert_true(keeps(net, 1, after) && !keeps(net, gone, after));
    /* The new set is as good as the old: its home may die too. */
    net_kill(net, 1, true);
    advance(net, 60000);
    assert_true(home_of(net, job) != UINT32_MAX);
    finish(net, job);
    start(net, gone);
    start(net, 1);
    finish(net, job);
    check_job(net, job);
    assert_true(cluster->log[gone][job].over); /* it asked, and was told */
    close_cluster(net);
}

static void change_waits_for_a_majority_of_both_sets(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 15 * 60 * 1000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t gone = other_node(net, 1, job, 0);
    const uint32_t other = other_node(net, 1, job, 1);
    net_kill(net, gone, true);
    advance(net, 10 * 60 * 1000 - 5000);
    net->cut[1][other] = net->cut[other][1] = true;
    /* A newcomer and the home are a majority of the set after, and not of the one before. */
    assert_true(wait_for_change(net, 1, job, 2, 20000) < 20000);
    advance(net, 8000);
    assert_int_equal(kept_by(1, job)->number, 2);
    net->cut[1][other] = net->cut[other][1] = false;
    assert_true(wait_for_change(net, 1, job, 3, 60000) < 60000);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

static void drain(struct net *net, uint32_t node)
{
    net_step(net, node, &(struct mesh_event){.kind = MESH_DRAIN});
}

static void receive_grant(struct net *net, uint32_t home, uint32_t from, uint32_t job, uint64_t token)
{
    struct mesh_message grant = {.kind = MESH_GRANT};
    grant.body.grant.job = cluster->spec[job].id;
    grant.body.grant.token = token;
    grant.body.grant.places = 1;
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[from].id;
    event.body.received.message = &grant;
    net_step(net, home, &event);
}

/* Found by the simulator: the second use of a name was overtaken, and its executor let the first result go. */
static void grant_repeated_late_spares_a_result_that_is_not_settled(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    const uint32_t executor = other_node(net, 1, job, 2);
    advance(net, 1000);
    for (uint32_t i = 0; i < NODES; i++)
        net->node[i].mute = i != 1 && i != executor;
    advance(net, 100);
    cluster->result.token = 0;
    for (int i = 0; i < 250 && cluster->result.token == 0; i++)
        advance(net, 20);
    const uint64_t token = cluster->result.token;
    assert_int_not_equal(token, 0);
    for (uint64_t other = 1; other <= 16; other++)
        receive_grant(net, 1, executor, JOBS - 1, other); /* of a job that is not here */
    struct mesh_job_view view;
    assert_true(mesh_job_find(net->node[1].mesh, &cluster->spec[job].id, &view) && view.queued > 0);
    const uint64_t assigns = mesh_counters(net->node[1].mesh)->assigns;
    receive_grant(net, 1, executor, job, token);
    assert_int_equal(mesh_counters(net->node[1].mesh)->assigns, assigns);
    receive_grant(net, 1, executor, job, 17);
    assert_int_equal(mesh_counters(net->node[1].mesh)->assigns, assigns + 1);
    for (uint32_t i = 0; i < NODES; i++)
        net->node[i].mute = false;
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* One of the two members left has its table of shards full, of a job that no device can run. True if it was elected. */
static bool a_full_home(uint64_t with_seed, uint32_t which)
{
    struct net *const net = open_cluster(with_seed);
    cluster->run_ms = 10000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 2000);
    const uint32_t full = other_node(net, 1, job, which);
    const uint32_t free = other_node(net, 1, job, 1 - which);
    const uint32_t blocker = cluster->jobs++;
    cluster->spec[blocker] = cluster->spec[job];
    struct mesh_job_spec *const spec = &cluster->spec[blocker];
    spec->id.bytes[1] = (uint8_t)blocker;
    spec->copies = 2;
    spec->classes = 2;
    spec->shard_count = net->node[full].config.limits.shards;
    struct mesh_event event = {.kind = MESH_SUBMIT, .body.submit = *spec};
    net_step(net, full, &event);
    net_kill(net, 1, true);
    uint32_t home = UINT32_MAX;
    for (int i = 0; i < 1200 && home == UINT32_MAX; i++) {
        advance(net, 100);
        home = home_of(net, job);
    }
    assert_int_equal(home, free);
    for (int i = 0; i < 600 && cluster->told[job] == 0; i++)
        advance(net, 1000);
    assert_int_equal(cluster->told[job], MESH_JOB_DONE);
    const bool elected = cluster->refused > 0;
    assert_int_equal(mesh_counters(net->node[full].mesh)->handovers > 0, elected);
    close_cluster(net);
    return elected;
}

static void home_without_room_gives_the_job_to_another_member(void **state)
{
    (void)state;
    bool elected = false;
    for (uint32_t i = 0; i < 12 && !elected; i++) /* who stands first is drawn */
        elected = a_full_home(seed + i / 2, i % 2);
    assert_true(elected);
}

static void member_that_drains_is_replaced_at_once(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 60000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t gone = other_node(net, 1, job, 0);
    drain(net, gone);
    assert_true(wait_for_change(net, 1, job, 3, 20000) < 10000);
    assert_false(keeps(net, gone, kept_by(1, job)));
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

static void member_that_is_revoked_is_replaced_at_once(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 60000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t gone = other_node(net, 1, job, 0);
    const struct mesh_record revocation = {.kind = MESH_RECORD_REVOCATION,
                                           .origin = net->node[0].id,
                                           .incarnation = 1,
                                           .version = 1,
                                           .body.revocation.subject = net->node[gone].id};
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = net->node[1].id;
    event.body.record.record = revocation;
    event.body.record.record.handle = net_handle(net, 1, &revocation, 0);
    net_step(net, 1, &event);
    assert_true(wait_for_change(net, 1, job, 3, 20000) < 10000);
    assert_false(keeps(net, gone, kept_by(1, job)));
    finish(net, job);
    assert_int_equal(cluster->told[job], MESH_JOB_DONE);
    close_cluster(net);
}

static void copies_that_were_not_to_be_had_at_first_are_added(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 60000;
    for (uint32_t i = 2; i < NODES; i++)
        net_kill(net, i, true);
    advance(net, 20000);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    assert_true(cluster->accepted[job]);
    assert_int_equal(kept_by(1, job)->count, 2);
    start(net, 3);
    assert_true(wait_for_change(net, 1, job, 3, 30000) < 30000);
    assert_int_equal(kept_by(1, job)->count, 3);
    net_kill(net, 1, true);
    finish(net, job);
    start(net, 1);
    advance(net, 60000);
    check_job(net, job);
    close_cluster(net);
}

static void home_that_drains_hands_its_jobs_over_and_nothing_is_run_again(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 20000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 10000);
    drain(net, 1);
    int64_t moved_ms = 0;
    while (home_of(net, job) == 1 || home_of(net, job) == UINT32_MAX) {
        advance(net, 100);
        moved_ms += 100;
        assert_true(moved_ms < 20000);
    }
    int64_t drained_ms = moved_ms;
    while (cluster->drained[1] == 0 && drained_ms < 120000) {
        advance(net, 100);
        drained_ms += 100;
    }
    print_message("    another home after %.1f s, drained after %.1f s\n", (double)moved_ms / 1000,
                  (double)drained_ms / 1000);
    assert_true(moved_ms < 3000);
    assert_true(drained_ms < 60000);
    assert_true(cluster->told[job] == 0);
    net_step(net, 1, &(struct mesh_event){.kind = MESH_LEAVE});
    advance(net, 1000);
    net_kill(net, 1, true);
    finish(net, job);
    start(net, 1);
    advance(net, 60000);
    check_job(net, job);
    assert_int_equal(COUNTED(net, elections), COUNTED(net, takeovers));
    assert_int_equal(cluster->attempts, SHARDS);
    close_cluster(net);
}

/* ---- Minorities. */

static void home_cut_off_says_so_though_nothing_waits(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 10 * 60 * 1000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 20000);
    struct mesh_job_view view;
    assert_true(mesh_job_find(net->node[1].mesh, &cluster->spec[job].id, &view) && !view.stalled);
    net_split(net, 1u << 1, true);
    int64_t said_ms = 0;
    while (!view.stalled && said_ms < 20000) {
        advance(net, 100);
        said_ms += 100;
        assert_true(mesh_job_find(net->node[1].mesh, &cluster->spec[job].id, &view));
    }
    print_message("    said after %.1f s\n", (double)said_ms / 1000);
    assert_true(said_ms <= 10000);
    net_split(net, 1u << 1, false);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

static void member_that_was_cut_off_does_not_end_the_reign(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 5 * 60 * 1000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t other = other_node(net, 1, job, 0);
    net_split(net, 1u << other, true);
    advance(net, 120000);
    net_split(net, 1u << other, false);
    advance(net, 60000);
    assert_int_equal(home_of(net, job), 1);
    assert_int_equal(COUNTED(net, elections) + COUNTED(net, step_downs), 0);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* What ran at a home's side while it was cut off is not lost to the home on the other side. */
static void results_of_the_minority_are_taken_after_healing(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 15000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    uint32_t shards = 0;
    for (uint32_t i = 0; i < RUNS; i++)
        shards += cluster->run[i].busy && cluster->run[i].node == 1 ? cluster->run[i].count : 0;
    net_split(net, 1u << 1, true);
    advance(
        net,
        10000); /* the other side has just taken over, and listens for what runs before it binds anything */
    net_split(net, 1u << 1, false);
    finish(net, job);
    check_job(net, job);
    assert_true(shards > 0);
    assert_int_equal(cluster->attempts, SHARDS);
    close_cluster(net);
}

/* ---- Disks that were put back. */

struct snapshot {
    struct log log[JOBS];
    uint64_t incarnation, storage, sequence;
    uint32_t saved_count;
    struct mesh_record saved[NET_SAVED_MAX];
};

static struct snapshot *snapshot_take(const struct net *net, uint32_t node)
{
    struct snapshot *const snapshot = calloc(1, sizeof *snapshot);
    assert_non_null(snapshot);
    const struct net_node *const n = &net->node[node];
    memcpy(snapshot->log, cluster->log[node], sizeof snapshot->log);
    snapshot->incarnation = n->incarnation;
    snapshot->storage = n->storage;
    snapshot->sequence = n->sequence;
    snapshot->saved_count = n->saved_count;
    memcpy(snapshot->saved, n->saved, sizeof snapshot->saved);
    return snapshot;
}

static void snapshot_put_back(struct net *net, uint32_t node, struct snapshot *snapshot)
{
    struct net_node *const n = &net->node[node];
    assert_null(n->mesh);
    memcpy(cluster->log[node], snapshot->log, sizeof snapshot->log);
    n->incarnation = snapshot->incarnation;
    n->storage = snapshot->storage;
    n->sequence = snapshot->sequence;
    n->saved_count = snapshot->saved_count;
    memcpy(n->saved, snapshot->saved, sizeof snapshot->saved);
    free(snapshot);
}

static void disk_that_was_put_back_is_seen_and_its_copy_replaced(void **state)
{
    (void)state;
    for (uint32_t lives = 0; lives < 2; lives++) {
        struct net *const net = open_cluster(seed + lives);
        cluster->run_ms = 4000;
        const uint32_t job = submit(net, 1, 3);
        advance(net, 4000);
        const uint32_t other = other_node(net, 1, job, 0);
        struct snapshot *const snapshot = snapshot_take(net, other);
        const uint32_t before = cluster->log[other][job].last;
        for (uint32_t i = 0; i < lives; i++) { /* the incarnation tells, too */
            net_kill(net, other, true);
            start(net, other);
        }
        while (cluster->log[other][job].last == before)
            advance(net, 100);
        net_kill(net, other, true);
        snapshot_put_back(net, other, snapshot);
        start(net, other);
        advance(net, 4000);
        assert_true(mesh_counters(net->node[other].mesh)->disks_lost > 0);
        wait_for_change(net, 1, job, 3, 10000);
        if (cluster->told[job] == 0)
            assert_true(kept_by(1, job)->number >= 3);
        finish(net, job);
        check_job(net, job);
        close_cluster(net);
    }
}

/* A process saves its new storage, and ends before it has announced the incarnation that this is. */
static void copy_is_not_lost_for_a_storage_above_the_incarnation(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t first = submit(net, 1, 3);
    const uint32_t member = other_node(net, 1, first, 0);
    finish(net, first);
    net_kill(net, member, true);
    net->node[member].storage = net->node[member].incarnation + 2;
    start(net, member);
    advance(net, 20000);
    assert_int_equal(net->node[member].incarnation, net->node[member].storage);
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t job = submit(net, 1, 5);
        advance(net, 1000);
        assert_true(keeps(net, member, kept_by(1, job)));
        finish(net, job);
    }
    assert_int_equal(mesh_counters(net->node[1].mesh)->changes, 0);
    assert_int_equal(mesh_counters(net->node[1].mesh)->entries_resent, 0);
    close_cluster(net);
}

/* The home and one member have settled what the other lacks; that member's disk is put back, and the home dies. */
static void disk_that_was_put_back_votes_nothing_settled_away(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 3000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    const uint32_t member = other_node(net, 1, job, 0);
    const uint32_t lagging = other_node(net, 1, job, 1);
    struct snapshot *const snapshot = snapshot_take(net, member);
    const uint32_t before = cluster->log[1][job].last;
    net_split(net, 1u << lagging, true);
    for (int i = 0; i < 200 && cluster->log[1][job].last < before + 3; i++)
        advance(net, 100);
    advance(net, 2000);
    assert_true(cluster->log[member][job].last > cluster->log[lagging][job].last);
    net_kill(net, member, true);
    snapshot_put_back(net, member, snapshot);
    start(net, member);
    advance(net, 2500);
    net_kill(net, 1, true);
    net_split(net, 1u << lagging, false);
    advance(net, 120000);
    /* Neither has what was settled: the job waits for the one that does. */
    assert_int_equal(home_of(net, job), UINT32_MAX);
    start(net, 1);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* It is back before anybody has found it down, and can't lead what its disk has forgotten. */
static void home_that_restarts_with_an_old_disk_is_replaced_at_once(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 30000;
    struct snapshot *const snapshot = snapshot_take(net, 1);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    net_kill(net, 1, true);
    snapshot_put_back(net, 1, snapshot);
    start(net, 1);
    int64_t took_ms = 0;
    for (; home_of(net, job) == UINT32_MAX && took_ms < 60000; took_ms += 100)
        advance(net, 100);
    assert_in_range(took_ms, 0, 13000);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

static void member_whose_disk_is_new_is_brought_up_again(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 30000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t other = other_node(net, 1, job, 0);
    net_kill(net, other, true);
    snapshot_put_back(net, other, calloc(1, sizeof(struct snapshot)));
    net_start(net, other, false);
    net_introduce(net, other, 1);
    net_introduce(net, 1, other);
    give_devices(net, other);
    assert_true(wait_for_change(net, 1, job, 3, 60000) < 60000);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* Of two copies one is lost: the other goes on, and acknowledges nothing before there are two again. */
static void one_of_two_copies_is_lost_and_replaced(void **state)
{
    (void)state;
    for (uint32_t lost = 0; lost < 2; lost++) {
        struct net *const net = open_cluster(seed + lost);
        cluster->run_ms = 20000;
        const uint32_t job = submit(net, 1, 2);
        advance(net, 4000);
        const uint32_t member = lost == 0 ? 1 : other_node(net, 1, job, 0);
        struct snapshot *const snapshot = snapshot_take(net, member);
        for (int i = 0; i < 600 && cluster->log[1][job].last < 3; i++)
            advance(net, 100);
        advance(net, 1000);
        net_kill(net, member, true);
        snapshot_put_back(net, member, snapshot);
        start(net, member);
        finish(net, job);
        check_job(net, job);
        assert_true(COUNTED(net, changes) > 0);
        close_cluster(net);
    }
}

static void attempts_are_adopted_by_members_that_joined_since_they_began(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    cluster->run_ms = 5 * 60 * 1000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    for (uint32_t i = 0; i < 2; i++) { /* both members that they were told of are replaced */
        const uint32_t gone = other_node(net, 1, job, 0);
        drain(net, gone);
        assert_true(wait_for_change(net, 1, job, 3 + 2 * i, 20000) < 20000);
        advance(net, 2000);
        net_kill(net, gone, true);
        advance(net, 20000);
    }
    net_kill(net, 1, true);
    advance(net, 40000);
    assert_true(home_of(net, job) != UINT32_MAX);
    assert_true(COUNTED(net, adoptions) > 0);
    for (uint32_t i = 0; i < NODES; i++) {
        if (!net->node[i].mesh)
            start(net, i);
    }
    finish(net, job);
    advance(net, 15 * 60 * 1000);
    check_job(net, job);
    close_cluster(net);
}

/* Two nodes that are given the same job at once don't both become its home where they have a member in common. */
static void second_home_of_the_first_epoch_is_not_heard(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 1000);
    const uint32_t member = other_node(net, 1, job, 0);
    const uint32_t rival = other_node(net, 1, job, 2);
    struct mesh_message message = {.kind = MESH_APPEND};
    message.body.append.job = cluster->spec[job].id;
    message.body.append.epoch = message.body.append.entry_epoch = 1;
    message.body.append.index = 1;
    message.body.append.kind = MESH_ENTRY_SUBMIT;
    message.body.append.members = (struct mesh_members){
        .number = 1, .count = 2, .id = {net->node[rival].id, net->node[member].id}, .storage = {1, 1}};
    const uint64_t before = mesh_counters(net->node[member].mesh)->bad_messages;
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[rival].id;
    event.body.received.message = &message;
    net_step(net, member, &event);
    assert_int_equal(mesh_counters(net->node[member].mesh)->bad_messages, before + 1);
    assert_int_equal(net->out->save_count, 0);
    advance(net, 120000);
    check_job(net, job);
    close_cluster(net);
}

/* ---- What members take. */

/* `node` hears it from `from` at once, whoever runs. */
static void hear(struct net *net, uint32_t node, uint32_t from, const struct mesh_message *message)
{
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[from].id;
    event.body.received.message = message;
    net_step(net, node, &event);
}

static struct mesh_journal_view journal_view(const struct net *net, uint32_t node, uint32_t job)
{
    struct mesh_journal_view view;
    assert_true(mesh_journal_find(net->node[node].mesh, &cluster->spec[job].id, &view));
    return view;
}

/* An entry without bytes, of a home of that epoch, which goes behind `last`. */
static struct mesh_message append_behind(uint32_t node, uint32_t job, uint32_t last, uint64_t epoch,
                                         enum mesh_entry_kind kind)
{
    struct mesh_message message = {.kind = MESH_APPEND};
    message.body.append.job = cluster->spec[job].id;
    message.body.append.epoch = message.body.append.entry_epoch = epoch;
    message.body.append.before_epoch = cluster->log[node][job].entry[last].epoch;
    message.body.append.index = last + 1;
    message.body.append.kind = (uint32_t)kind;
    return message;
}

/* Loses the home of a job once a member of its journal knows that everything is settled. Returns that member. */
static uint32_t lose_home_when_all_is_settled(struct net *net, uint32_t job)
{
    advance(net, 3000);
    const uint32_t member = other_node(net, 1, job, 0);
    struct mesh_journal_view view = journal_view(net, member, job);
    for (int i = 0; i < 1000 && (view.settled < view.last || view.last < 3); i++) {
        advance(net, 20);
        view = journal_view(net, member, job);
    }
    assert_true(view.settled == view.last && view.last >= 3);
    assert_int_equal(view.epoch, 1);
    net_kill(net, 1, true);
    return member;
}

static void settled_stays_settled_though_the_next_home_knows_of_less(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    const uint32_t member = lose_home_when_all_is_settled(net, job);
    const uint32_t next = other_node(net, 1, job, 1);
    const uint32_t last = journal_view(net, member, job).last;
    struct mesh_message message = append_behind(member, job, last, 2, MESH_ENTRY_TAKEOVER);
    message.body.append.settled = 1;
    hear(net, member, next, &message);
    assert_int_equal(journal_view(net, member, job).last, last + 1);
    assert_int_equal(journal_view(net, member, job).settled, last);
    assert_int_equal(cluster->log[member][job].entry[last + 1].settled, last); /* so says the disk */
    /* And of what it is told, no more than it holds. */
    message = append_behind(member, job, last + 1, 2, MESH_ENTRY_COMMIT);
    message.body.append.settled = last + 9;
    hear(net, member, next, &message);
    assert_int_equal(journal_view(net, member, job).settled, last + 2);
    close_cluster(net); /* nobody else holds these */
}

/* The home dies with a change of members that only one of them has heard of, and the next home never does. */
static void change_that_was_not_settled_is_taken_back(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    const uint32_t member = lose_home_when_all_is_settled(net, job);
    const uint32_t next = other_node(net, 1, job, 1);
    const uint32_t joins = other_node(net, 1, job, 2);
    const struct mesh_journal_view before = journal_view(net, member, job);
    struct mesh_message change = append_behind(member, job, before.last, 1, MESH_ENTRY_CHANGE);
    change.body.append.settled = before.settled;
    struct mesh_members *const members = &change.body.append.members;
    *members = before.members;
    members->number++;
    members->id[members->count] = net->node[joins].id;
    members->storage[members->count] = net->node[joins].storage;
    members->joining = ++members->count;
    hear(net, member, 1, &change);
    struct mesh_journal_view after = journal_view(net, member, job);
    assert_memory_equal(&after.members, members, sizeof *members);
    struct mesh_message first = append_behind(member, job, before.last, 2, MESH_ENTRY_TAKEOVER);
    first.body.append.settled = before.settled;
    hear(net, member, next, &first);
    after = journal_view(net, member, job);
    assert_int_equal(after.last, before.last + 1);
    assert_int_equal(after.epoch, 2);
    assert_memory_equal(&after.members, &before.members, sizeof after.members);
    start(net, 1);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* The first entry that the last step of a home sent again, 0 = none. */
static uint32_t sent_again(const struct net *net)
{
    for (uint32_t i = 0; i < net->out->effect_count; i++) {
        if (net->out->effect[i].kind == MESH_SEND_LOG)
            return net->out->effect[i].body.send_log.first;
    }
    return 0;
}

/* Who turns out to lack still more than it said first doesn't wait until what it was sent is due again. */
static void member_that_lacks_what_it_held_is_sent_it_at_once(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 4000);
    const uint32_t member = other_node(net, 1, job, 0);
    struct mesh_journal_view view = journal_view(net, 1, job);
    for (int i = 0; i < 1000 && (view.settled < view.last || view.last < 4); i++) {
        advance(net, 20);
        view = journal_view(net, 1, job);
    }
    advance(net, 20); /* the other one has acknowledged it, too */
    view = journal_view(net, 1, job);
    struct mesh_message lacks = {.kind = MESH_APPENDED};
    lacks.body.appended.job = cluster->spec[job].id;
    lacks.body.appended.epoch = view.epoch;
    for (uint32_t last = view.last - 1; last > 0; last--) {
        lacks.body.appended.last = last;
        hear(net, 1, member, &lacks);
        assert_int_equal(sent_again(net), last + 1);
    }
    hear(net, 1, member, &lacks); /* the same again is no news */
    assert_int_equal(sent_again(net), 0);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

static bool answered(const struct net *net, enum mesh_message_kind kind)
{
    for (uint32_t i = 0; i < net->out->send_count; i++) {
        if (net->out->send[i].message.kind == kind)
            return true;
    }
    return false;
}

/* Until the others have said how far they saw its disk, a member that has started takes no entry and gives no vote. */
static void member_has_no_voice_before_it_knows_its_disk_to_be_whole(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    const uint32_t member = lose_home_when_all_is_settled(net, job);
    const uint32_t next = other_node(net, 1, job, 1);
    const struct mesh_journal_view before = journal_view(net, member, job);
    net_kill(net, member, true);
    start(net, member);
    struct mesh_message vote = {.kind = MESH_VOTE};
    vote.body.vote.job = cluster->spec[job].id;
    vote.body.vote.epoch = 2;
    vote.body.vote.last_epoch = 1;
    vote.body.vote.last = before.last;
    vote.body.vote.handed = true;
    hear(net, member, next, &vote);
    assert_false(answered(net, MESH_VOTED));
    assert_int_equal(journal_view(net, member, job).epoch, before.epoch);
    const struct mesh_message append = append_behind(member, job, before.last, 2, MESH_ENTRY_TAKEOVER);
    hear(net, member, next, &append);
    assert_false(answered(net, MESH_APPENDED));
    assert_int_equal(journal_view(net, member, job).last, before.last);
    advance(net, 60000); /* it has a voice again: the home is not there, and the two do without */
    assert_true(cluster->told[job] != 0 || home_of(net, job) != UINT32_MAX);
    start(net, 1);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* ---- A member of which the first entry never came. */

/* A job that is acknowledged, whose home is gone, and of which one member has heard nothing: which that is. */
static uint32_t lose_home_unheard(struct net *net, uint32_t *job)
{
    *job = submit(net, 1, 3);
    const uint32_t unheard = other_node(net, 1, *job, 0);
    net->cut[1][unheard] = true;
    advance(net, 1000);
    assert_true(cluster->accepted[*job] && !cluster->log[unheard][*job].there);
    net_kill(net, 1, true);
    net->cut[1][unheard] = false;
    return unheard;
}

static void member_that_heard_of_nothing_has_a_vote_and_takes_the_log(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    uint32_t job;
    const uint32_t unheard = lose_home_unheard(net, &job);
    int64_t waited_ms = 0;
    for (; home_of(net, job) == UINT32_MAX && waited_ms < 30000; waited_ms += 100)
        advance(net, 100);
    print_message("    taken over after %.1f s\n", (double)waited_ms / 1000);
    assert_true(waited_ms < 15000);
    assert_int_equal(mesh_counters(net->node[unheard].mesh)->unheard, 1);
    finish(net, job);
    check_job(net, job);
    assert_true(cluster->log[unheard][job].last > 0);
    close_cluster(net);
}

/* The candidate as it asks: its members, and that it has the first entry. */
static struct mesh_message vote_of(uint32_t candidate, uint32_t job, uint64_t epoch)
{
    struct mesh_message vote = {.kind = MESH_VOTE};
    vote.body.vote.job = cluster->spec[job].id;
    vote.body.vote.epoch = epoch;
    vote.body.vote.last_epoch = 1;
    vote.body.vote.last = cluster->log[candidate][job].last;
    vote.body.vote.members = *kept_by(candidate, job);
    return vote;
}

static bool grants(const struct net *net)
{
    for (uint32_t i = 0; i < net->out->send_count; i++) {
        if (net->out->send[i].message.kind == MESH_VOTED && net->out->send[i].message.body.voted.granted)
            return true;
    }
    return false;
}

static void promise_of_an_empty_journal_survives_a_restart(void **state)
{
    (void)state;
    const uint64_t promised = 7;
    struct net *net;
    uint32_t job;
    uint32_t unheard;
    uint32_t candidate;
    struct mesh_message vote;
    bool granted;
    uint64_t tried = seed;
    do { /* with some seeds its disk is not proven yet when it has just heard of the journal: then it says nothing; or it has
            the first entry by then */
        net = open_cluster(tried);
        unheard = lose_home_unheard(net, &job);
        candidate = 0;
        while (candidate == unheard || candidate == 1 || !cluster->log[candidate][job].there)
            candidate++;
        struct mesh_journal_view view;
        for (int i = 0; i < 500 && !mesh_journal_find(net->node[unheard].mesh, &cluster->spec[job].id, &view);
             i++)
            advance(net, 20);
        net_kill(net, candidate, true);
        vote = vote_of(candidate, job, promised);
        hear(net, unheard, candidate, &vote);
        granted = grants(net) && cluster->log[unheard][job].last == 0;
        if (!granted)
            close_cluster(net);
    } while (!granted && ++tried < seed + 20);
    assert_true(granted);
    const struct log *const log = &cluster->log[unheard][job];
    assert_true(log->promised == promised && log->last == 0);
    net_kill(net, unheard, true);
    start(net, unheard);
    assert_int_equal(journal_view(net, unheard, job).epoch, promised);
    assert_int_equal(journal_view(net, unheard, job).last, 0);
    advance(net, 40000); /* its disk is proven, and it never stands itself */
    assert_int_equal(home_of(net, job), UINT32_MAX);
    assert_int_equal(cluster->log[unheard][job].promised, promised);
    const uint32_t rival = other_node(net, candidate, job, 2);
    hear(net, unheard, rival, &vote);
    assert_false(grants(net));
    hear(net, unheard, candidate, &vote);
    assert_true(grants(net));
    start(net, candidate);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* Whether it would let its host say that it never had anything of that journal. */
static bool asks_host(struct net *net, uint32_t node, uint32_t from, const struct mesh_message *vote)
{
    hear(net, node, from, vote);
    for (uint32_t i = 0; i < net->out->effect_count; i++) {
        if (net->out->effect[i].kind == MESH_JOURNAL_ASKED)
            return net->out->effect[i].body.asked.members.count > 0;
    }
    fail();
    return false;
}

static void only_a_member_by_its_storage_votes_with_an_empty_log(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    uint32_t job;
    for (uint32_t i = 0; i < NODES; i++) /* so that all have seen each disk */
        finish(net, submit(net, i, 5));
    const uint32_t unheard = lose_home_unheard(net, &job);
    const uint32_t candidate = other_node(net, 1, job, 1);
    const uint32_t stranger = other_node(net, 1, job, 2);
    const struct mesh_message good = vote_of(candidate, job, 2);
    struct mesh_message vote = good;
    assert_false(asks_host(net, stranger, candidate, &good)); /* no member */
    vote.body.vote.members.count = 0;                         /* the candidate's own log is empty */
    assert_false(asks_host(net, unheard, candidate, &vote));
    vote = good;
    vote.body.vote.members.number = 0; /* makes no sense */
    assert_false(asks_host(net, unheard, candidate, &vote));
    vote = good;
    for (uint32_t i = 0; i < vote.body.vote.members.count; i++)
        vote.body.vote.members.storage[i] += 1; /* of a life that its disk doesn't know */
    assert_false(asks_host(net, unheard, candidate, &vote));
    /* Its disk is a new one: what the copy was chosen for is gone. */
    net_kill(net, unheard, true);
    snapshot_put_back(net, unheard, calloc(1, sizeof(struct snapshot)));
    net_start(net, unheard, false);
    net_introduce(net, unheard, candidate);
    net_introduce(net, candidate, unheard);
    advance(net, 60000);
    assert_true(mesh_counters(net->node[unheard].mesh)->disks_lost > 0);
    assert_false(asks_host(net, unheard, candidate, &good));
    assert_int_equal(home_of(net, job), UINT32_MAX);
    net_step(net, unheard,
             &(struct mesh_event){.kind = MESH_JOURNAL_NEW,
                                  .body.fresh = {.job = cluster->spec[job].id,
                                                 .from = net->node[candidate].id,
                                                 .epoch = 2,
                                                 .members = good.body.vote.members}});
    assert_int_equal(mesh_counters(net->node[unheard].mesh)->unheard, 0);
    start(net, 1);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* Of two copies one never took the first entry, and its disk is a new one: it says so, and the home goes on with another. */
static void home_of_a_first_entry_does_without_a_member_whose_disk_is_new(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    for (uint32_t i = 0; i < NODES; i++) /* so that all have seen each disk */
        finish(net, submit(net, i, 5));
    const uint32_t job = submit(net, 1, 2);
    const uint32_t member = other_node(net, 1, job, 0);
    net->cut[1][member] = true;
    advance(net, 1000);
    assert_true(!cluster->accepted[job] && cluster->log[1][job].last == 1 &&
                !cluster->log[member][job].there);
    net_kill(net, 1, true);
    net_kill(net, member, true);
    snapshot_put_back(net, member, calloc(1, sizeof(struct snapshot)));
    net_start(net, member, false);
    net->cut[1][member] = false;
    for (uint32_t i = 0; i < NODES; i++) {
        if (i == member || !net->node[i].mesh)
            continue;
        net_introduce(net, member, i);
        net_introduce(net, i, member);
    }
    advance(net, 60000);
    assert_true(mesh_counters(net->node[member].mesh)->disks_lost > 0);
    start(net, 1);
    advance(net, 60000);
    assert_true(cluster->accepted[job]);
    finish(net, job);
    check_job(net, job);
    assert_true(COUNTED(net, changes) > 0);
    close_cluster(net);
}

/*
 * Of two copies one never answers for the first entry: a cancel ends the job all the same, for good. A member that took
 * the entry, and whose word of that was lost, hears so when it comes back; one that is gone for ever is not waited for.
 */
static void job_of_two_copies_is_cancelled_before_the_other_has_it(void **state)
{
    (void)state;
    for (uint32_t has = 0; has < 2; has++) {
        struct net *const net = open_cluster(seed + has);
        const uint32_t job = submit(net, 1, 2);
        const uint32_t member = other_node(net, 1, job, 0);
        net->cut[1][member] = !has;
        net->cut[member][1] = true;
        advance(net, 20000);
        assert_true(!cluster->accepted[job] && cluster->log[member][job].there == has);
        struct mesh_event cancel = {.kind = MESH_CANCEL_JOB, .body.job.id = cluster->spec[job].id};
        net_step(net, 1, &cancel);
        advance(net, 1000);
        assert_true(cluster->told[job] == MESH_JOB_CANCELLED && cluster->log[1][job].over);
        struct mesh_journal_view view;
        assert_false(mesh_journal_find(net->node[1].mesh, &cluster->spec[job].id, &view));
        net_kill(net, 1, true);
        start(net, 1);
        net->cut[1][member] = net->cut[member][1] = false;
        advance(net, 120000);
        assert_true(cluster->log[member][job].over == has);
        assert_false(mesh_journal_find(net->node[member].mesh, &cluster->spec[job].id, &view));
        assert_int_equal(cluster->attempts, 0);
        net_check_handles(net);
        close_cluster(net);
    }
}

/* One that others may take up without its home is not told to be over before a majority holds that. */
static void cancel_of_three_copies_waits_for_a_majority(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    net_split(net, 1u << 1, true);
    advance(net, 500);
    struct mesh_event cancel = {.kind = MESH_CANCEL_JOB, .body.job.id = cluster->spec[job].id};
    net_step(net, 1, &cancel);
    advance(net, 5000);
    assert_true(cluster->told[job] == 0 && !cluster->accepted[job]);
    net_split(net, 1u << 1, false);
    advance(net, 60000);
    assert_int_equal(cluster->told[job], MESH_JOB_CANCELLED);
    close_cluster(net);
}

/* The table of the home is full: a job that is over makes room, and a member that was away hears of its end all the same. */
static void journal_that_makes_room_is_known_to_be_over(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    net_kill(net, 1, true);
    net->journals_limit = 1;
    start(net, 1);
    advance(net, 20000);
    const uint32_t first = submit(net, 1, 3);
    advance(net, 1000);
    assert_true(cluster->accepted[first]);
    const uint32_t member = other_node(net, 1, first, 0);
    net_kill(net, member, true);
    for (int i = 0; i < 600 && cluster->told[first] == 0; i++)
        advance(net, 100);
    advance(net, 2000);
    assert_true(cluster->told[first] == MESH_JOB_DONE && !cluster->log[1][first].over);
    const uint32_t second = submit(net, 1, 3);
    advance(net, 2000);
    assert_true(cluster->accepted[second] && cluster->log[1][first].over);
    net->journals_limit = 64;
    start(net, member);
    finish(net, second);
    advance(net, 120000);
    assert_true(cluster->log[member][first].over);
    check_job(net, first);
    check_job(net, second);
    close_cluster(net);
}

static void journals_forgotten_make_way_for_a_new_incarnation(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    struct mesh_member_view before, after;
    assert_true(net_view(net, 0, 2, &before));
    struct mesh_event forgot = {.kind = MESH_FORGOT, .body.forgot = before.incarnation - 1};
    net_step(net, 2, &forgot);
    advance(net, 5000);
    assert_true(net_view(net, 0, 2, &after) && after.incarnation == before.incarnation);
    forgot.body.forgot = before.incarnation;
    net_step(net, 2, &forgot);
    advance(net, 5000);
    assert_true(net_view(net, 0, 2, &after) && after.incarnation == before.incarnation + 1);
    const uint32_t job = submit(net, 1, 5); /* copies that are chosen from now on are later ones */
    advance(net, 1000);
    const struct mesh_members *const members = kept_by(1, job);
    for (uint32_t i = 0; i < members->count; i++)
        assert_true(node_of(net, &members->id[i]) != 2 || members->storage[i] == after.incarnation);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* A queue that takes two entries at a time doesn't make each further two wait until they are due again. */
static void log_follows_as_fast_as_its_host_can_send_it(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3000);
    const uint32_t lagging = other_node(net, 1, job, 0);
    net_split(net, 1u << lagging, true);
    for (int i = 0; i < 600 && cluster->told[job] == 0; i++)
        advance(net, 100);
    const struct log *const log = &cluster->log[lagging][job];
    const uint32_t before = log->last;
    const uint32_t all = cluster->log[1][job].last;
    assert_true(before + 6 <= all);
    cluster->sends_max = 2;
    net_split(net, 1u << lagging, false);
    for (int i = 0; i < 3000 && log->last == before; i++)
        advance(net, 20);
    int64_t took_ms = 0;
    for (; took_ms < 10000 && log->last < all; took_ms += 20)
        advance(net, 20);
    assert_true(took_ms < 1000);
    finish(net, job);
    check_job(net, job);
    close_cluster(net);
}

/* What a node has finished for a home that is gone asks about in one voice, and is there, all of it, when there is a home. */
static void results_of_a_lost_home_ask_sparingly_and_are_not_run_again(void **state)
{
    (void)state;
    struct net *const net = open_cluster(seed);
    for (uint32_t i = 2; i < NODES; i++) {
        struct mesh_event event = {.kind = MESH_DEVICES};
        event.body.devices.class[0].slots = 8;
        net_step(net, i, &event);
    }
    advance(net, 3000);
    cluster->run_ms = 4000;
    const uint32_t job = submit(net, 1, 3);
    advance(net, 3500); /* nothing is finished yet */
    const uint32_t other = other_node(net, 1, job, 0);
    uint32_t died = 0; /* shards that run there, and will have to again */
    for (uint32_t i = 0; i < RUNS; i++) {
        const struct run *const run = &cluster->run[i];
        died += run->busy && (run->node == 1 || run->node == other) ? run->count : 0;
    }
    net_kill(net, 1, true);
    net_kill(net, other, true);
    advance(net, 20000);
    assert_int_equal(home_of(net, job), UINT32_MAX);
    const uint64_t before = COUNTED(net, results);
    advance(net, 5 * 60 * 1000);
    const uint64_t asked = COUNTED(net, results) - before;
    print_message("    %llu results offered in 5 minutes\n", (unsigned long long)asked);
    assert_true(
        asked > 0 &&
        asked < 3 * 150 + SHARDS * 6); /* a node has one that asks each 2 s; the others do so now and then */
    start(net, other);
    finish(net, job);
    check_job(net, job);
    assert_int_equal(cluster->attempts, SHARDS + died);
    close_cluster(net);
}

static uint32_t unfinished(void)
{
    uint32_t count = 0;
    for (uint32_t job = 0; job < cluster->jobs; job++)
        count += cluster->accepted[job] && cluster->told[job] == 0;
    return count;
}

static uint32_t down_count(const struct net *net)
{
    uint32_t down = 0;
    for (uint32_t i = 0; i < NODES; i++)
        down += net->node[i].mesh == NULL;
    return down;
}

static void heal(struct net *net)
{
    for (uint32_t i = 0; i < NODES; i++)
        net_split(net, 1u << i, false);
}

static bool all_led(const struct net *net)
{
    for (uint32_t job = 0; job < cluster->jobs; job++) {
        if (cluster->accepted[job] && cluster->told[job] == 0 && home_of(net, job) == UINT32_MAX)
            return false;
    }
    return true;
}

/*
 * One disk goes back to what it was some time before, while all others are there and were just now; and they have time to
 * make good for it before the next one.
 */
static void put_back(struct net *net, uint32_t node)
{
    heal(net);
    advance(net, 20000);
    if (!all_led(net))
        return;
    struct snapshot *const snapshot = snapshot_take(net, node);
    advance(net, 500 + net_random(net, 10000));
    if (net_random(net, 2)) {
        net_kill(net, node, true);
        advance(net, 1000);
        start(net, node);
        advance(net, 500 + net_random(net, 10000));
    }
    net_kill(net, node, net_random(net, 2));
    snapshot_put_back(net, node, snapshot);
    start(net, node);
    advance(net, 3000);
    for (int i = 0; i < 100 && !all_led(net); i++)
        advance(net, 1000);
    advance(net, 20000);
}

static void act_out(struct net *net, uint32_t node)
{
    const bool runs = net->node[node].mesh != NULL;
    switch (net_random(net, 10)) {
    case 0:
    case 1:
    case 2:
        if (cluster->jobs < JOBS && runs)
            submit(net, node, (uint8_t)(2 + net_random(net, 4)));
        break;
    case 3:
        if (runs && down_count(net) < 3)
            net_kill(net, node, net_random(net, 2));
        break;
    case 4:
    case 5:
        if (!runs)
            start(net, node);
        break;
    case 6:
        net_split(net, 1u << node, true);
        break;
    case 7:
        heal(net);
        break;
    case 8:
        if (runs && down_count(net) < 2) {
            drain(net, node);
            advance(net, net_random(net, 20000));
            net_step(net, node, &(struct mesh_event){.kind = MESH_LEAVE});
            advance(net, net_random(net, 1000));
            cluster->handed += (uint32_t)mesh_counters(net->node[node].mesh)->handovers;
            net_kill(net, node, true);
        }
        break;
    default:
        if (down_count(net) == 0)
            put_back(net, node);
        else if (net_random(net, 4) == 0)
            advance(net, 11 * 60 * 1000); /* some have been down for long */
        break;
    }
}

/* Everything at once, then peace: what was acknowledged is done, once. */
static void soak(uint64_t with_seed)
{
    struct net *const net = open_cluster(with_seed);
    net->latency_ms = 30;
    const uint32_t run_ms[] = {2000, 12000, 120000};
    cluster->run_ms = run_ms[net_random(net, 3)];
    cluster->speculate = net_random(net, 2) != 0;
    net->drop_permille = net_random(net, 2) * 10;
    for (uint32_t round = 0; round < 60; round++) {
        act_out(net, net_random(net, NODES));
        advance(net, 500 + net_random(net, 8000));
    }
    net->drop_permille = 0;
    heal(net);
    for (uint32_t i = 0; i < NODES; i++) {
        if (!net->node[i].mesh)
            start(net, i);
    }
    advance(net, 120000);
    for (uint32_t i = 0; i < 120 && unfinished() > 0; i++) /* there may be hours of work left */
        advance(net, 120000);
    advance(net, 12 * 60 * 1000); /* copies that were replaced ask so seldom */
    for (uint32_t job = 0; job < cluster->jobs; job++) {
        check_job(net, job);
        for (uint32_t i = 0; i < NODES; i++) /* everybody knows, and nobody stands for it any more */
            assert_true(!cluster->log[i][job].there || cluster->log[i][job].over || !cluster->accepted[job]);
    }
    print_message(
        "    seed %llu: %u jobs, %llu takeovers, %llu handed over, %llu adopted, %llu changes, %llu fenced, "
        "%llu void, %llu copies, %u moved, %.2f attempts per shard\n",
        (unsigned long long)with_seed, cluster->jobs, (unsigned long long)COUNTED(net, takeovers),
        (unsigned long long)cluster->handed, (unsigned long long)COUNTED(net, adoptions),
        (unsigned long long)COUNTED(net, changes), (unsigned long long)COUNTED(net, entries_fenced),
        (unsigned long long)COUNTED(net, entries_void), (unsigned long long)COUNTED(net, copies),
        cluster->moved, (double)cluster->attempts / (cluster->jobs * SHARDS + 1));
    close_cluster(net);
}

static void nothing_acknowledged_is_lost_or_doubled(void **state)
{
    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 12; i++)
        soak(seed + i);
}

int main(int count, char **arguments)
{
    if (count > 1)
        seed = strtoull(arguments[1], NULL, 0);
    if (count > 2)
        cmocka_set_test_filter(arguments[2]);
    if (count > 3)
        cmocka_set_skip_filter(arguments[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_is_done_and_its_copies_agree),
        cmocka_unit_test(job_goes_on_elsewhere_when_its_home_dies),
        cmocka_unit_test(attempts_of_a_lost_home_are_adopted_and_not_run_again),
        cmocka_unit_test(both_attempts_at_a_shard_are_adopted),
        cmocka_unit_test(home_that_comes_back_follows_the_new_one),
        cmocka_unit_test(restarted_home_goes_on_at_once),
        cmocka_unit_test(minority_commits_nothing_and_says_so),
        cmocka_unit_test(two_of_three_lost_the_job_waits_for_one),
        cmocka_unit_test(stalled_jobs_leave_room_to_others),
        cmocka_unit_test(too_few_nodes_for_the_copies_insisted_on_is_refused),
        cmocka_unit_test(member_that_is_down_for_ten_minutes_is_replaced),
        cmocka_unit_test(change_waits_for_a_majority_of_both_sets),
        cmocka_unit_test(grant_repeated_late_spares_a_result_that_is_not_settled),
        cmocka_unit_test(home_without_room_gives_the_job_to_another_member),
        cmocka_unit_test(member_that_drains_is_replaced_at_once),
        cmocka_unit_test(member_that_is_revoked_is_replaced_at_once),
        cmocka_unit_test(copies_that_were_not_to_be_had_at_first_are_added),
        cmocka_unit_test(home_that_drains_hands_its_jobs_over_and_nothing_is_run_again),
        cmocka_unit_test(home_cut_off_says_so_though_nothing_waits),
        cmocka_unit_test(member_that_was_cut_off_does_not_end_the_reign),
        cmocka_unit_test(results_of_the_minority_are_taken_after_healing),
        cmocka_unit_test(disk_that_was_put_back_is_seen_and_its_copy_replaced),
        cmocka_unit_test(disk_that_was_put_back_votes_nothing_settled_away),
        cmocka_unit_test(home_that_restarts_with_an_old_disk_is_replaced_at_once),
        cmocka_unit_test(member_whose_disk_is_new_is_brought_up_again),
        cmocka_unit_test(one_of_two_copies_is_lost_and_replaced),
        cmocka_unit_test(attempts_are_adopted_by_members_that_joined_since_they_began),
        cmocka_unit_test(second_home_of_the_first_epoch_is_not_heard),
        cmocka_unit_test(settled_stays_settled_though_the_next_home_knows_of_less),
        cmocka_unit_test(change_that_was_not_settled_is_taken_back),
        cmocka_unit_test(member_that_lacks_what_it_held_is_sent_it_at_once),
        cmocka_unit_test(member_has_no_voice_before_it_knows_its_disk_to_be_whole),
        cmocka_unit_test(member_that_heard_of_nothing_has_a_vote_and_takes_the_log),
        cmocka_unit_test(promise_of_an_empty_journal_survives_a_restart),
        cmocka_unit_test(copy_is_not_lost_for_a_storage_above_the_incarnation),
        cmocka_unit_test(home_of_a_first_entry_does_without_a_member_whose_disk_is_new),
        cmocka_unit_test(job_of_two_copies_is_cancelled_before_the_other_has_it),
        cmocka_unit_test(cancel_of_three_copies_waits_for_a_majority),
        cmocka_unit_test(journal_that_makes_room_is_known_to_be_over),
        cmocka_unit_test(only_a_member_by_its_storage_votes_with_an_empty_log),
        cmocka_unit_test(journals_forgotten_make_way_for_a_new_incarnation),
        cmocka_unit_test(log_follows_as_fast_as_its_host_can_send_it),
        cmocka_unit_test(results_of_a_lost_home_ask_sparingly_and_are_not_run_again),
        cmocka_unit_test(nothing_acknowledged_is_lost_or_doubled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
