#include "mesh_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIAL_AGAIN_MS 1000
#define WALL_START_MS 1700000000000ll
/* Steps of one node within one virtual millisecond beyond which it is going round in circles. */
#define STEPS_AT_ONCE_MAX 20000
/* Every so often that time goes on, one node is called though it did not ask for it. */
#define CALL_EARLY 8

enum flight_kind { FLIGHT_MESSAGE, FLIGHT_SIGNED, FLIGHT_LINK_UP, FLIGHT_LINK_DOWN };

struct net_flight {
    enum flight_kind kind;
    int64_t at_ms;
    uint64_t number; /* order among those of one time */
    uint32_t from;
    uint32_t to;
    uint64_t session; /* of the receiver when it was scheduled for its own ears; 0 = any */
    bool reset;
    int64_t sent_at_ms;
    struct mesh_record record; /* SIGNED */
    uint64_t payload;
    struct mesh_message *message; /* MESSAGE; owned */
};

/* --------------------------------------------------------------- little helpers */

static uint64_t random_u64(struct net *net)
{
    net->random += 0x9e3779b97f4a7c15u;
    uint64_t z = net->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t net_random(struct net *net, uint32_t bound)
{
    return (uint32_t)(random_u64(net) % bound);
}

static uint32_t find_node(const struct net *net, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < net->count; i++) {
        if (memcmp(net->node[i].id.bytes, id->bytes, sizeof id->bytes) == 0)
            return i;
    }
    return UINT32_MAX;
}

static struct net_flight *launch(struct net *net, enum flight_kind kind, uint32_t from, uint32_t to,
                                 int64_t after_ms)
{
    if (net->flight_count == net->flight_capacity) {
        net->flight_capacity = net->flight_capacity ? 2 * net->flight_capacity : 256;
        net->flight = realloc(net->flight, net->flight_capacity * sizeof *net->flight);
        assert_non_null(net->flight);
    }
    struct net_flight *const flight = &net->flight[net->flight_count++];
    static uint64_t number;
    *flight = (struct net_flight){.kind = kind,
                                  .at_ms = net->now_ms + after_ms,
                                  .number = ++number,
                                  .from = from,
                                  .to = to,
                                  .sent_at_ms = net->now_ms};
    return flight;
}

/* ------------------------------------------------------------------- handles */

uint64_t net_handle(struct net *net, uint32_t node, const struct mesh_record *record, uint64_t payload)
{
    struct net_node *const n = &net->node[node];
    if (n->handle_count == n->handle_capacity) {
        n->handle_capacity = n->handle_capacity ? 2 * n->handle_capacity : 256;
        n->handle = realloc(n->handle, n->handle_capacity * sizeof *n->handle);
        assert_non_null(n->handle);
    }
    struct net_handle *const handle = &n->handle[n->handle_count++];
    *handle = (struct net_handle){.live = true, .payload = payload};
    if (record)
        handle->record = *record;
    n->handles_live++;
    return n->handle_count; /* handle h is entry h - 1, so that 0 is none */
}

static struct net_handle *live_handle(struct net *net, uint32_t node, uint64_t handle)
{
    struct net_node *const n = &net->node[node];
    if (handle == 0 || handle > n->handle_count || !n->handle[handle - 1].live)
        fail_msg("node %u at %lld ms: handle %llu is not live", node, (long long)net->now_ms,
                 (unsigned long long)handle);
    return &n->handle[handle - 1];
}

/* ------------------------------------------------------------- saves, sends, effects */

static void save(struct net *net, uint32_t node, const struct mesh_save *what)
{
    struct net_node *const n = &net->node[node];
    assert_true(what->sequence == 0 || what->sequence >= n->sequence);
    n->sequence = what->sequence > n->sequence ? what->sequence : n->sequence;
    if (what->kind == MESH_SAVE_STORAGE)
        n->storage = what->body.storage;
    if (what->kind == MESH_SAVE_INCARNATION) {
        assert_true(what->body.incarnation > n->incarnation);
        n->incarnation = what->body.incarnation;
        return;
    }
    if (what->kind != MESH_SAVE_RECORD)
        return;
    const struct mesh_record *const record = &live_handle(net, node, what->body.record.handle)->record;
    assert_int_equal(record->kind, what->body.record.kind);
    assert_memory_equal(&record->origin, &what->body.record.origin, sizeof record->origin);
    for (uint32_t i = 0; i < n->saved_count; i++) {
        struct mesh_record *const old = &n->saved[i];
        const bool same = old->kind == record->kind && !memcmp(&old->origin, &record->origin, 32) &&
                          (old->kind != MESH_RECORD_REVOCATION ||
                           !memcmp(&old->body.revocation.subject, &record->body.revocation.subject, 32));
        if (same) {
            *old = *record;
            return;
        }
    }
    assert_true(n->saved_count < NET_SAVED_MAX);
    n->saved[n->saved_count++] = *record;
}

void net_send(struct net *net, uint32_t node, const struct mesh_send *sent)
{
    const uint32_t to = find_node(net, &sent->to);
    struct mesh_record record = {0};
    uint64_t payload = 0;
    uint64_t handle = 0;
    if (sent->message.kind == MESH_PUSH || sent->message.kind == MESH_SPREAD)
        handle = sent->message.body.push.record.handle;
    else if (sent->message.kind == MESH_ASSIGN || sent->message.kind == MESH_ASSIGN_KEPT)
        handle = sent->message.body.assign.handle;
    else if (sent->message.kind == MESH_RESULT)
        handle = sent->message.body.result.handle;
    if (handle != 0) {
        record = live_handle(net, node, handle)->record;
        payload = live_handle(net, node, handle)->payload;
    }
    if (sent->message.kind == MESH_APPEND && net->entry_of)
        payload = net->entry_of(net, node, &sent->message);
    net->sent++;
    if (to == UINT32_MAX)
        return;
    const bool lost = to != node && (net->cut[node][to] || net->node[node].mute || net->node[to].deaf ||
                                     net_random(net, 1000) < net->drop_permille);
    if (lost) {
        net->dropped++;
        return;
    }
    int64_t after_ms = to == node ? 0 : 1 + net_random(net, net->latency_ms);
    int64_t *const latest_ms = &net->latest_ms[node][to];
    if (!net->reorder && net->now_ms + after_ms < *latest_ms)
        after_ms = *latest_ms - net->now_ms;
    *latest_ms = net->now_ms + after_ms;
    struct net_flight *const flight = launch(net, FLIGHT_MESSAGE, node, to, after_ms);
    const size_t bytes = mesh_message_bytes(&sent->message);
    flight->record = record;
    flight->payload = payload;
    flight->message = calloc(1, sizeof *flight->message);
    assert_non_null(flight->message);
    memcpy(flight->message, &sent->message, bytes);
}

static void dial(struct net *net, uint32_t node, uint32_t peer)
{
    struct net_node *const n = &net->node[node];
    struct net_node *const p = &net->node[peer];
    n->dial_at_ms[peer] = net->now_ms + DIAL_AGAIN_MS;
    if (net->cut[node][peer] || net->cut[peer][node] || p->paused || n->mute || n->deaf || p->mute || p->deaf)
        return;
    if (!p->mesh || p->barred[node]) {
        if (!p->vanished)
            launch(net, FLIGHT_LINK_DOWN, peer, node, 1)->reset = true;
        return;
    }
    launch(net, FLIGHT_LINK_UP, peer, node, 2);
    launch(net, FLIGHT_LINK_UP, node, peer, 2);
}

static void take_place(struct net_node *n, const struct mesh_record *record)
{
    if (record->kind != MESH_RECORD_MEMBER)
        return;
    for (uint32_t i = 0; i < n->place_count; i++)
        assert_false(n->place[i].incarnation == record->incarnation &&
                     n->place[i].version == record->version);
    assert_true(n->place_count < NET_PLACES_MAX);
    n->place[n->place_count++] =
        (struct net_place){.incarnation = record->incarnation, .version = record->version};
}

static void act(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    struct net_node *const n = &net->node[node];
    uint32_t peer;
    switch (effect->kind) {
    case MESH_DROP:
        live_handle(net, node, effect->body.handle)->live = false;
        n->handles_live--;
        break;
    case MESH_SIGN: {
        const struct mesh_record *const record = &effect->body.record;
        assert_true(record->incarnation <= n->incarnation); /* nothing is said before it is saved */
        take_place(n, record);
        struct net_flight *const flight = launch(net, FLIGHT_SIGNED, node, node, 0);
        flight->record = *record;
        flight->session = n->config.session;
        break;
    }
    case MESH_LINK_KEEP:
        peer = find_node(net, &effect->body.peer);
        if (peer != UINT32_MAX) {
            n->keeps[peer] = true;
            n->session[peer] = false; /* the host says again which protocol its session speaks */
            dial(net, node, peer);
        }
        break;
    case MESH_LINK_RELEASE:
        peer = find_node(net, &effect->body.peer);
        if (peer != UINT32_MAX)
            n->keeps[peer] = false;
        break;
    case MESH_LINK_REDIAL:
        peer = find_node(net, &effect->body.peer);
        if (peer != UINT32_MAX)
            dial(net, node, peer);
        break;
    case MESH_ADMIT:
        live_handle(net, node, effect->body.admit.handle);
        break;
    case MESH_BAR:
        peer = find_node(net, &effect->body.peer);
        if (peer != UINT32_MAX) {
            n->barred[peer] = true;
            n->keeps[peer] = false;
        }
        break;
    case MESH_CLONED:
        n->cloned += effect->body.cloned.meetings > 1;
        n->cloned_fatal += effect->body.cloned.fatal;
        break;
    default:
        break;
    }
}

void net_step(struct net *net, uint32_t node, struct mesh_event *event)
{
    struct net_node *const n = &net->node[node];
    struct mesh_out *const out = net->out;
    event->now_ms = net->now_ms;
    event->wall_ms = WALL_START_MS + net->now_ms;
    mesh_step(n->mesh, event, out);
    n->steps++;
    mesh_check(n->mesh);
    n->wake_at_ms = out->wake_at_ms;
    for (uint32_t i = 0; i < out->save_count; i++) {
        if (net->on_save)
            net->on_save(net, node, &out->save[i]);
        save(net, node, &out->save[i]);
    }
    for (uint32_t i = 0; i < out->send_count; i++)
        net_send(net, node, &out->send[i]);
    /* The hook may feed events, which overwrite the output: work on a copy of the effects. */
    const uint32_t count = out->effect_count;
    struct mesh_effect *const effect = malloc((count ? count : 1) * sizeof *effect);
    assert_non_null(effect);
    memcpy(effect, out->effect, count * sizeof *effect);
    for (uint32_t i = 0; i < count; i++) {
        if (net->on_effect)
            net->on_effect(net, node, &effect[i]);
        act(net, node, &effect[i]);
    }
    free(effect);
}

/* -------------------------------------------------------------------- delivery */

static void give_record(struct net *net, uint32_t node, uint32_t from, const struct mesh_record *record)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = net->node[from].id;
    event.body.record.record = *record;
    event.body.record.record.handle = net_handle(net, node, record, 0);
    net_step(net, node, &event);
}

static void deliver_message(struct net *net, struct net_flight *flight)
{
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[flight->from].id;
    event.body.received.message = flight->message;
    struct mesh_message *const message = flight->message;
    if (net->answers && net->answers(net, flight->to, flight->from, message))
        return;
    if (message->kind == MESH_PING)
        message->body.ping.stamp_us = (uint64_t)flight->sent_at_ms * 1000 + 1;
    else if (message->kind == MESH_PONG)
        event.body.received.rtt_us =
            (uint32_t)((uint64_t)net->now_ms * 1000 + 2 - message->body.ping.stamp_us);
    else if (message->kind == MESH_PUSH || message->kind == MESH_SPREAD)
        message->body.push.record.handle = net_handle(net, flight->to, &flight->record, 0);
    else if ((message->kind == MESH_ASSIGN || message->kind == MESH_ASSIGN_KEPT) &&
             message->body.assign.handle != 0)
        message->body.assign.handle = net_handle(net, flight->to, NULL, flight->payload);
    else if (message->kind == MESH_RESULT && message->body.result.handle != 0)
        message->body.result.handle = net_handle(net, flight->to, NULL, flight->payload);
    else if (message->kind == MESH_APPEND && flight->payload != 0)
        message->body.append.handle = net_handle(net, flight->to, NULL, flight->payload);
    net_step(net, flight->to, &event);
}

static void deliver(struct net *net, struct net_flight *flight)
{
    struct net_node *const n = &net->node[flight->to];
    const bool gone =
        !n->mesh || n->barred[flight->from] || (flight->session != 0 && flight->session != n->config.session);
    struct mesh_event event = {0};
    if (gone)
        return;
    switch (flight->kind) {
    case FLIGHT_MESSAGE:
        if (!net->cut[flight->from][flight->to] || flight->from == flight->to)
            deliver_message(net, flight);
        break;
    case FLIGHT_SIGNED:
        give_record(net, flight->to, flight->to, &flight->record);
        break;
    case FLIGHT_LINK_UP:
        if (!net->node[flight->from].mesh)
            break;
        n->session[flight->from] = true;
        event.kind = MESH_LINK_UP;
        event.body.link.peer = net->node[flight->from].id;
        event.body.link.protocol = MESH_PROTOCOL_MAX;
        net_step(net, flight->to, &event);
        break;
    case FLIGHT_LINK_DOWN:
        n->session[flight->from] = false;
        event.kind = MESH_LINK_DOWN;
        event.body.link.peer = net->node[flight->from].id;
        event.body.link.reset = flight->reset;
        net_step(net, flight->to, &event);
        break;
    }
}

static uint32_t next_flight(const struct net *net)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < net->flight_count; i++) {
        const struct net_flight *const f = &net->flight[i];
        if (net->node[f->to].paused)
            continue;
        if (best == UINT32_MAX || f->at_ms < net->flight[best].at_ms ||
            (f->at_ms == net->flight[best].at_ms && f->number < net->flight[best].number))
            best = i;
    }
    return best;
}

static int64_t next_dial(const struct net *net, uint32_t *node, uint32_t *peer)
{
    int64_t at_ms = INT64_MAX;
    for (uint32_t i = 0; i < net->count; i++) {
        const struct net_node *const n = &net->node[i];
        for (uint32_t j = 0; j < net->count && n->mesh && !n->paused; j++) {
            if (n->keeps[j] && !n->session[j] && n->dial_at_ms[j] < at_ms) {
                at_ms = n->dial_at_ms[j];
                *node = i;
                *peer = j;
            }
        }
    }
    return at_ms;
}

/* A node that is called before it asked to be has nothing to do: all that is due wakes it. Now and then, each in turn. */
static void call_early(struct net *net)
{
    if (++net->advances % CALL_EARLY != 0)
        return;
    const uint32_t node = net->advances / CALL_EARLY % net->count;
    struct net_node *const n = &net->node[node];
    if (!n->mesh || n->paused || n->wake_at_ms <= net->now_ms)
        return;
    const int64_t wake_at_ms = n->wake_at_ms;
    net_step(net, node, &(struct mesh_event){.kind = MESH_TICK});
    if (net->out->save_count + net->out->send_count + net->out->effect_count > 0)
        fail_msg("seed %llu: something was due at node %u at %lld ms, to be called at %lld",
                 (unsigned long long)net->seed, node, (long long)net->now_ms, (long long)wake_at_ms);
}

void net_run(struct net *net, int64_t for_ms)
{
    const int64_t until_ms = net->now_ms + for_ms;
    uint32_t at_once = 0;
    for (;;) {
        const uint32_t f = next_flight(net);
        uint32_t dialler = 0;
        uint32_t dialled = 0;
        const int64_t dial_ms = next_dial(net, &dialler, &dialled);
        const int64_t flight_ms = f == UINT32_MAX ? INT64_MAX : net->flight[f].at_ms;
        uint32_t woken = UINT32_MAX;
        int64_t next_ms = flight_ms < dial_ms ? flight_ms : dial_ms;
        for (uint32_t i = 0; i < net->count; i++) {
            const struct net_node *const n = &net->node[i];
            if (n->mesh && !n->paused && n->wake_at_ms < next_ms) {
                next_ms = n->wake_at_ms;
                woken = i;
            }
        }
        if (next_ms > until_ms)
            break;
        at_once = next_ms <= net->now_ms ? at_once + 1 : 0;
        if (at_once > STEPS_AT_ONCE_MAX)
            fail_msg("seed %llu: no end of work at %lld ms", (unsigned long long)net->seed,
                     (long long)net->now_ms);
        if (next_ms > net->now_ms) {
            net->now_ms = next_ms;
            call_early(net);
        }
        if (woken != UINT32_MAX) {
            net_step(net, woken, &(struct mesh_event){.kind = MESH_TICK});
        } else if (flight_ms <= dial_ms) {
            struct net_flight flight = net->flight[f];
            net->flight[f] = net->flight[--net->flight_count];
            deliver(net, &flight);
            free(flight.message);
        } else {
            dial(net, dialler, dialled);
        }
    }
    net->now_ms = until_ms;
}

/* ------------------------------------------------------------------ life of nodes */

struct net *net_open(uint64_t seed)
{
    struct net *const net = calloc(1, sizeof *net);
    assert_non_null(net);
    net->seed = net->random = seed;
    net->now_ms = 1000;
    net->latency_ms = 5;
    net->members_limit = 64;
    net->out = calloc(1, sizeof *net->out);
    assert_non_null(net->out);
    return net;
}

void net_close(struct net *net)
{
    for (uint32_t i = 0; i < net->count; i++) {
        free(net->node[i].mesh);
        free(net->node[i].handle);
    }
    for (uint32_t i = 0; i < net->flight_count; i++)
        free(net->flight[i].message);
    free(net->flight);
    free(net->out);
    free(net);
}

static void start(struct net *net, uint32_t node)
{
    struct net_node *const n = &net->node[node];
    n->config = (struct mesh_config){
        .limits = {.members = net->members_limit,
                   .jobs = 16,
                   .shards = 4096,
                   .bundles = 64,
                   .attempts = 64,
                   .demands = 16,
                   .journals = net->journals_limit,
                   .waiters = net->journals_limit > 0 ? 64 : 0},
        .self = n->id,
        .site = node,
        .region = node % 3,
        .incarnation = ++n->incarnation,
        .storage = n->storage,
        .sequence = n->sequence,
        .session = (uint64_t)(WALL_START_MS + net->now_ms) << 20 | random_u64(net) >> 44,
        .seed = {random_u64(net), random_u64(net)},
        .now_ms = net->now_ms,
        .wall_ms = WALL_START_MS + net->now_ms,
    };
    void *const memory = calloc(1, mesh_size(&n->config.limits));
    assert_non_null(memory);
    n->mesh = mesh_init(memory, &n->config);
    n->handle_count = n->handles_live = 0;
    memset(n->keeps, 0, sizeof n->keeps);
    memset(n->session, 0, sizeof n->session);
    memset(n->barred, 0, sizeof n->barred);
    net_step(net, node, &(struct mesh_event){.kind = MESH_TICK});
    struct mesh_record saved[NET_SAVED_MAX];
    const uint32_t saved_count = n->saved_count;
    memcpy(saved, n->saved, saved_count * sizeof *saved);
    for (uint32_t i = 0; i < saved_count; i++)
        give_record(net, node, node, &saved[i]);
}

uint32_t net_add(struct net *net)
{
    assert_true(net->count < NET_NODES_MAX);
    const uint32_t node = net->count++;
    net->node[node].id.bytes[0] = (uint8_t)(node + 1);
    for (size_t i = 1; i < sizeof net->node[node].id.bytes; i++)
        net->node[node].id.bytes[i] = (uint8_t)net_random(net, 256);
    start(net, node);
    return node;
}

void net_kill(struct net *net, uint32_t node, bool reset)
{
    struct net_node *const n = &net->node[node];
    free(n->mesh);
    n->mesh = NULL;
    n->vanished = !reset;
    for (uint32_t i = 0; i < net->count; i++) {
        if (i == node || !net->node[i].mesh || !net->node[i].session[node])
            continue;
        if (reset)
            launch(net, FLIGHT_LINK_DOWN, node, i, 2)->reset = true;
    }
}

void net_start(struct net *net, uint32_t node, bool forget)
{
    struct net_node *const n = &net->node[node];
    assert_null(n->mesh);
    if (forget) {
        n->incarnation = 0;
        n->saved_count = 0;
    }
    for (uint32_t i = 0; i < net->count; i++)
        net->node[i].session[node] = false;
    start(net, node);
}

void net_introduce(struct net *net, uint32_t node, uint32_t other)
{
    struct mesh_member_view view;
    for (uint32_t tries = 0; tries < 3; tries++) {
        if (net_view(net, other, other, &view) && view.record_handle != 0) {
            const struct mesh_record record = live_handle(net, other, view.record_handle)->record;
            give_record(net, node, node, &record);
            return;
        }
        net_run(net, 1); /* its record is still being signed */
    }
    fail_msg("node %u has no record to introduce", other);
}

void net_introduce_all(struct net *net)
{
    for (uint32_t i = 1; i < net->count; i++)
        net_introduce(net, i, 0);
}

void net_split(struct net *net, uint32_t mask, bool cut)
{
    for (uint32_t i = 0; i < net->count; i++) {
        for (uint32_t j = 0; j < net->count; j++) {
            if (((mask >> i) & 1) != ((mask >> j) & 1)) {
                net->cut[i][j] = cut;
                /* A session does not survive a cut for long; the host dials anew. */
                net->node[i].session[j] = false;
            }
        }
    }
}

/* -------------------------------------------------------------------- looking */

bool net_view(const struct net *net, uint32_t viewer, uint32_t subject, struct mesh_member_view *view)
{
    for (uint32_t i = 0; mesh_member_view(net->node[viewer].mesh, i, view); i++) {
        if (memcmp(&view->id, &net->node[subject].id, sizeof view->id) == 0)
            return true;
    }
    return false;
}

enum mesh_member_state net_state(const struct net *net, uint32_t viewer, uint32_t subject)
{
    struct mesh_member_view view;
    return net_view(net, viewer, subject, &view) ? view.state : 0;
}

bool net_whole(const struct net *net)
{
    for (uint32_t i = 0; i < net->count; i++) {
        for (uint32_t j = 0; j < net->count; j++) {
            if (net->node[i].mesh && net->node[j].mesh && net_state(net, i, j) != MESH_UP)
                return false;
        }
    }
    return true;
}

void net_check_handles(const struct net *net)
{
    for (uint32_t i = 0; i < net->count; i++) {
        const struct net_node *const n = &net->node[i];
        if (!n->mesh)
            continue;
        uint32_t held = 0;
        struct mesh_member_view view;
        for (uint32_t k = 0; mesh_member_view(n->mesh, k, &view); k++)
            held += (view.record_handle != 0 ? 1u : 0u) + (view.capacity_at_ms != 0 ? 1u : 0u);
        for (uint32_t k = 0; k < n->saved_count; k++)
            held += n->saved[k].kind == MESH_RECORD_REVOCATION;
        if (held != n->handles_live)
            fail_msg("node %u at %lld ms: %u handles live, %u held", i, (long long)net->now_ms,
                     n->handles_live, held);
    }
}
