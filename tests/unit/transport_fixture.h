/*
 * A node's transport for tests over real sockets: its own context, keys, admission table and loop thread. The
 * test's thread gives it work with fixture_call and waits on what it saw with WAIT_UNTIL.
 */
#ifndef TESTS_TRANSPORT_FIXTURE_H
#define TESTS_TRANSPORT_FIXTURE_H

#include "node/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define FIXTURE_DEADLINE_MS 60000
#define FIXTURE_FAR_FUTURE_S INT64_C(4000000000)

struct node;
typedef void node_call(struct node *node, void *argument);

struct node {
    void *zmq;
    struct loop *loop;
    struct admission *admission;
    struct zap *zap;
    struct transport *transport;
    struct mesh_id id;
    struct curve_public curve;
    struct curve_secret curve_secret;
    uint32_t protocol_min; /* what it speaks; both 0: what this build does */
    uint32_t protocol_max;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t called;
    node_call *call;
    void *call_argument;
    /* What it saw. */
    _Atomic uint32_t messages;
    _Atomic uint32_t out_of_order;
    _Atomic uint64_t last_stamp;
    _Atomic uint32_t ups;
    _Atomic uint32_t protocol; /* of the latest link up */
    _Atomic uint32_t downs;
    _Atomic bool last_reset;
    _Atomic int64_t down_at_ms;
    _Atomic uint32_t lines;
    char line[512]; /* the latest one it logged, once `lines` says so */
    /* What it does with messages. */
    _Atomic bool echo;
    _Atomic bool punish;
    _Atomic uint64_t newest; /* incarnation of the peer that it knows; an older one is answered with a PUSH */
};

#define WAIT_UNTIL(condition)                                                                                \
    do {                                                                                                     \
        const int64_t wait_end_ms = clock_now_ms() + FIXTURE_DEADLINE_MS;                                    \
        while (!(condition)) {                                                                               \
            if (clock_now_ms() > wait_end_ms)                                                                \
                fail_msg("not within %d ms: %s", FIXTURE_DEADLINE_MS, #condition);                           \
            usleep(500);                                                                                     \
        }                                                                                                    \
    } while (0)

static inline void node_on_message(void *context, const struct mesh_id *peer, const struct wire_frame *frame)
{
    struct node *node = context;
    if (frame->kind == WIRE_PING) {
        const uint64_t stamp = frame->body.mesh.message.body.ping.stamp_us;
        if (stamp < node->last_stamp)
            node->out_of_order++;
        node->last_stamp = stamp;
    }
    if (node->echo)
        transport_send(node->transport, peer, frame);
    node->messages++; /* before what a test waits for */
    if (node->punish)
        transport_punish(node->transport, peer);
}

static inline void node_on_link_up(void *context, const struct mesh_id *peer, uint32_t protocol)
{
    (void)peer;
    struct node *node = context;
    node->protocol = protocol;
    node->ups++;
}

static inline bool node_on_hello(void *context, const struct mesh_id *peer, uint64_t incarnation,
                                 uint64_t process, struct wire_frame *answer)
{
    (void)peer;
    (void)process;
    static const uint8_t news[RECORD_OVERHEAD_BYTES + 16] = {1}; /* a record's size; nobody reads it */
    if (incarnation >= ((struct node *)context)->newest)
        return true;
    const struct mesh_message push = {.kind = MESH_PUSH};
    wire_message(answer, &push, (struct wire_bytes){.bytes = news, .count = sizeof news});
    return false;
}

static inline void node_on_log(void *context, const char *line)
{
    struct node *node = context;
    snprintf(node->line, sizeof node->line, "%s", line);
    node->lines++;
}

static inline void node_on_link_down(void *context, const struct mesh_id *peer, bool reset)
{
    (void)peer;
    struct node *node = context;
    node->last_reset = reset;
    node->down_at_ms = clock_now_ms();
    node->downs++;
}

static inline int64_t node_on_turn(void *context, int64_t now_ms)
{
    (void)now_ms;
    struct node *node = context;
    pthread_mutex_lock(&node->lock);
    if (node->call) {
        node->call(node, node->call_argument);
        node->call = NULL;
        pthread_cond_signal(&node->called);
    }
    pthread_mutex_unlock(&node->lock);
    return INT64_MAX;
}

static inline void *node_run(void *context)
{
    loop_run(((struct node *)context)->loop);
    return NULL;
}

/* Runs `call` on the node's loop thread and returns when it is done. */
static inline void fixture_call(struct node *node, node_call *call, void *argument)
{
    pthread_mutex_lock(&node->lock);
    node->call_argument = argument;
    node->call = call;
    loop_wake(node->loop);
    while (node->call)
        pthread_cond_wait(&node->called, &node->lock);
    pthread_mutex_unlock(&node->lock);
}

/* Everything but the sockets and the thread; keys stay if they were set. */
static inline void fixture_prepare(struct node *node)
{
    memset(node, 0, sizeof *node);
    randombytes_buf(&node->id, sizeof node->id);
    curve_pair_create(&node->curve, &node->curve_secret);
    pthread_mutex_init(&node->lock, NULL);
    pthread_cond_init(&node->called, NULL);
    node->zmq = zmq_ctx_new();
    if (!loop_open(&node->loop) || !admission_open(&node->admission) ||
        !zap_open(node->zmq, node->admission, &node->zap))
        abort();
}

static inline enum transport_error fixture_bind(struct node *node, const char *bind,
                                                struct transport_failure *failure)
{
    const struct transport_options options = {
        .zmq = node->zmq,
        .loop = node->loop,
        .admission = node->admission,
        .zap = node->zap,
        .bind = bind,
        .bind_setting = "control_bind",
        .curve = node->curve,
        .curve_secret = node->curve_secret,
        .self = node->id,
        .incarnation = 7,
        .protocol_min = node->protocol_min,
        .protocol_max = node->protocol_max,
        .software = "0.1.0-test",
        .on_message = node_on_message,
        .on_link_up = node_on_link_up,
        .on_link_down = node_on_link_down,
        .on_hello = node_on_hello,
        .on_log = node_on_log,
        .context = node,
    };
    return transport_open(&options, failure, &node->transport);
}

static inline void fixture_start(struct node *node)
{
    loop_on_turn(node->loop, node_on_turn, node);
    if (pthread_create(&node->thread, NULL, node_run, node) != 0)
        abort();
}

static inline void fixture_open_speaking(struct node *node, uint32_t protocol_min, uint32_t protocol_max)
{
    struct transport_failure failure;
    fixture_prepare(node);
    node->protocol_min = protocol_min;
    node->protocol_max = protocol_max;
    if (fixture_bind(node, "127.0.0.1:*", &failure)) {
        fprintf(stderr, "%s\n", failure.text);
        abort();
    }
    fixture_start(node);
}

static inline void fixture_open(struct node *node)
{
    fixture_open_speaking(node, 0, 0);
}

static inline void fixture_close(struct node *node)
{
    loop_stop(node->loop);
    pthread_join(node->thread, NULL);
    transport_close(node->transport);
    zap_close(node->zap);
    zmq_ctx_term(node->zmq);
    loop_close(node->loop);
    admission_close(node->admission);
}

/* ---- Calls
 * -------------------------------------------------------------------------------------------------- */

struct peer_setting {
    struct mesh_id id;
    struct curve_public curve;
    const char *address;
};

static inline void call_peer_set(struct node *node, void *argument)
{
    const struct peer_setting *setting = argument;
    assert_true(admission_admit(node->admission, &setting->curve, &setting->id, FIXTURE_FAR_FUTURE_S));
    assert_true(transport_peer_set(node->transport, &setting->id, &setting->curve, setting->address));
}

/* Makes `to` know `peer`, with its address or without. */
static inline void fixture_introduce(struct node *to, const struct node *peer, bool address)
{
    struct peer_setting setting = {peer->id, peer->curve, address ? transport_bound(peer->transport) : ""};
    fixture_call(to, call_peer_set, &setting);
}

struct pings {
    struct mesh_id to;
    uint32_t count;
    uint32_t queued; /* out */
};

static inline void call_pings(struct node *node, void *argument)
{
    struct pings *pings = argument;
    struct wire_frame frame = {.kind = WIRE_PING};
    pings->queued = 0;
    for (uint32_t i = 0; i < pings->count; i++) {
        frame.body.mesh.message = (struct mesh_message){.kind = MESH_PING, .body.ping.stamp_us = i};
        pings->queued += transport_send(node->transport, &pings->to, &frame);
    }
}

static inline uint32_t fixture_ping(struct node *from, const struct node *to, uint32_t count)
{
    struct pings pings = {.to = to->id, .count = count};
    fixture_call(from, call_pings, &pings);
    return pings.queued;
}

static inline void call_keep(struct node *node, void *argument)
{
    transport_keep(node->transport, argument, true);
}

static inline void call_redial(struct node *node, void *argument)
{
    transport_redial(node->transport, argument);
}

static inline void call_remove(struct node *node, void *argument)
{
    transport_peer_remove(node->transport, argument);
}

static inline struct transport_counters fixture_counters(const struct node *node)
{
    struct transport_counters counters;
    transport_counters_read(node->transport, &counters);
    return counters;
}

#define COUNTER(node, name) (fixture_counters(node).name)

#endif
