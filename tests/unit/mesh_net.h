/*
 * A network of cores in one process and in virtual time, for unit tests: messages with latency and loss,
 * cuts, links that are dialled, records that are "signed" at once, disks that survive a kill. After every
 * step it runs mesh_check() and checks the handles: none may be dropped twice, or used after it was dropped.
 *
 *     struct net *net = net_open(seed);
 *     net_add(net), net_add(net), net_add(net);
 *     net_introduce_all(net);
 *     net_run(net, 10000);
 *     net_kill(net, 2, true);
 *     net_run(net, 10000);
 *     assert_int_equal(net_state(net, 0, 2), MESH_DOWN);
 *     net_close(net);
 *
 * Failures are asserted with cmocka and name the virtual time. What the work half of a test needs is offered
 * by the two hooks and by net_step(), which feeds any event to a node.
 */
#ifndef TESTS_UNIT_MESH_NET_H
#define TESTS_UNIT_MESH_NET_H

#include "mesh/mesh.h"

#define NET_NODES_MAX 16
#define NET_SAVED_MAX 1024  /* records on one node's disk */
#define NET_PLACES_MAX 4096 /* MEMBER records that one node signs */

struct net_handle {
    bool live;
    struct mesh_record record; /* of a record's handle */
    uint64_t payload;          /* of an ASSIGN's or RESULT's handle: what the hook or the test put there */
};

struct net_place {
    uint64_t incarnation;
    uint64_t version;
};

struct net_node {
    struct mesh_id id;
    struct mesh_config config;
    struct mesh *mesh; /* NULL while it is not running */
    int64_t wake_at_ms;
    bool paused;   /* stopped as by SIGSTOP: gets nothing until it goes on */
    bool vanished; /* killed together with its machine: not even a dial is refused */
    bool mute;     /* nothing that it sends arrives */
    bool deaf;     /* nothing that is sent to it arrives */
    /* What its disk holds. */
    uint64_t incarnation;
    uint64_t storage;
    uint64_t sequence;
    uint32_t saved_count;
    struct mesh_record saved[NET_SAVED_MAX];
    /* What the host does and saw. */
    struct net_handle *handle;
    uint32_t handle_count;
    uint32_t handle_capacity;
    uint32_t handles_live;
    bool keeps[NET_NODES_MAX];
    bool session[NET_NODES_MAX];
    bool barred[NET_NODES_MAX];
    int64_t dial_at_ms[NET_NODES_MAX];
    uint32_t cloned;
    uint32_t cloned_fatal;
    uint32_t steps;
    /* The places in their order that its MEMBER records ever took, over all its lives and disks: each one once. */
    uint32_t place_count;
    struct net_place place[NET_PLACES_MAX];
};

struct net {
    uint64_t seed;
    uint64_t random;
    int64_t now_ms;
    uint32_t advances; /* of now_ms */
    uint32_t count;
    struct net_node node[NET_NODES_MAX];
    bool cut[NET_NODES_MAX][NET_NODES_MAX]; /* nothing passes from the first to the second */
    uint32_t latency_ms;                    /* each message takes 1 .. latency_ms; default 5 */
    uint32_t drop_permille;
    bool reorder; /* messages of one pair overtake each other, which no link of the real transport does */
    int64_t latest_ms[NET_NODES_MAX][NET_NODES_MAX];
    uint32_t members_limit; /* of nodes started from now on; default 64 */
    uint64_t sent;
    uint64_t dropped;
    struct net_flight *flight;
    uint32_t flight_count;
    uint32_t flight_capacity;
    struct mesh_out *out;
    /* Optional: called for every effect and save of a step, before the net itself acts on it. */
    void (*on_effect)(struct net *net, uint32_t node, const struct mesh_effect *effect);
    void (*on_save)(struct net *net, uint32_t node, const struct mesh_save *save);
    /* Optional: what an APPEND carries, which is the host's to say; 0 = nothing. */
    uint64_t (*entry_of)(struct net *net, uint32_t node, const struct mesh_message *append);
    /* Optional: whether the host itself answers this message rather than hand it in. */
    bool (*answers)(struct net *net, uint32_t node, uint32_t from, const struct mesh_message *message);
    uint32_t journals_limit; /* of nodes started from now on; default 0 */
    void *hook_data;
};

struct net *net_open(uint64_t seed);
void net_close(struct net *net);
uint32_t net_random(struct net *net, uint32_t bound);

/* Adds a node that runs, and returns its number; node i has an id that begins with byte i + 1. */
uint32_t net_add(struct net *net);
/* Gives `node` the newest MEMBER record of `other`, as a join does. */
void net_introduce(struct net *net, uint32_t node, uint32_t other);
void net_introduce_all(struct net *net); /* everyone to node 0 */

void net_run(struct net *net, int64_t for_ms);
/* Feeds one event to a node now; its clocks are filled in. */
void net_step(struct net *net, uint32_t node, struct mesh_event *event);

/* Sends as a step's output does. */
void net_send(struct net *net, uint32_t node, const struct mesh_send *send);

/* As by SIGKILL; with `reset` its peers' links break at once, otherwise its machine is gone too. */
void net_kill(struct net *net, uint32_t node, bool reset);
/* Starts it again from its disk; with `forget` from an empty one, at incarnation 1. */
void net_start(struct net *net, uint32_t node, bool forget);
/* Cuts, or mends, the network between the nodes of `mask` and all others. */
void net_split(struct net *net, uint32_t mask, bool cut);

/* Makes a handle for a payload, or for a record, at that node. */
uint64_t net_handle(struct net *net, uint32_t node, const struct mesh_record *record, uint64_t payload);

/* The state in which one node sees another; 0 = unknown. */
enum mesh_member_state net_state(const struct net *net, uint32_t viewer, uint32_t subject);
bool net_view(const struct net *net, uint32_t viewer, uint32_t subject, struct mesh_member_view *view);
/* Whether all running nodes see all running nodes UP. */
bool net_whole(const struct net *net);
/* Asserts that each running node holds exactly the handles of its records. */
void net_check_handles(const struct net *net);

#endif
