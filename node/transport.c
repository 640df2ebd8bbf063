#include "node/transport_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Peers ------------------------------------------------------------------------------------------------
 */

static uint32_t bucket_of(const struct mesh_id *id)
{
    uint32_t hash;
    memcpy(&hash, id->bytes, sizeof hash);
    return hash % PEER_BUCKETS;
}

struct peer *transport_find(const struct transport *transport, const struct mesh_id *id)
{
    struct peer *peer = transport->bucket[bucket_of(id)];
    while (peer && memcmp(&peer->id, id, sizeof *id) != 0)
        peer = peer->bucket_next;
    return peer;
}

void transport_activate(struct transport *transport, struct peer *peer)
{
    if (!peer->active) {
        peer->active = true;
        peer->active_next = transport->active;
        transport->active = peer;
    }
    transport->touched = true;
    if (!transport->in_turn && !transport->woken) {
        transport->woken = true;
        loop_wake(transport->options.loop);
    }
}

bool transport_admitted(struct transport *transport, const struct peer *peer)
{
    struct mesh_id id;
    return admission_check(transport->options.admission, &peer->curve, clock_wall_ms(), &id) ==
               ADMISSION_ADMITTED &&
           memcmp(&id, &peer->id, sizeof id) == 0;
}

void transport_report_down(struct transport *transport, struct peer *peer, bool reset)
{
    peer->report_down = true;
    peer->report_reset = reset;
    transport_activate(transport, peer);
}

/* ---- The turn ---------------------------------------------------------------------------------------------
 */

/* Deadlines, and links that are to be dialled. Returns when to look again. */
static int64_t keep_time(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    if (link->deadline_ms && now_ms >= link->deadline_ms) {
        COUNT(transport, hello_timeouts, 1);
        transport_link_failed(transport, peer, false, now_ms);
    }
    if (peer->inbound.probe_deadline_ms && now_ms >= peer->inbound.probe_deadline_ms) {
        peer->inbound.probe_deadline_ms = 0;
        peer->inbound.greeted = false;
        transport_queue_drop(transport, peer);
        transport_report_down(transport, peer, false);
    }
    if (peer->inbound.probe_deadline_ms && now_ms >= peer->inbound.probe_again_ms &&
        !transport_route_probe(transport, peer, now_ms)) {
        transport_queue_drop(transport, peer);
        transport_report_down(transport, peer, true);
    }
    if (link->keep && !link->dealer && peer->address[0] && now_ms >= link->retry_at_ms && !peer->removed &&
        !transport_link_dial(transport, peer, now_ms) && !link->reported_down) {
        link->reported_down = true;
        transport_report_down(transport, peer, false);
    }
    if (peer->report_down && !peer->removed) {
        peer->report_down = false;
        COUNT(transport, links_down, 1);
        transport->options.on_link_down(transport->options.context, &peer->id, peer->report_reset);
    }
    int64_t wake_at_ms = link->deadline_ms ? link->deadline_ms : INT64_MAX;
    if (link->keep && !link->dealer && peer->address[0] && link->retry_at_ms < wake_at_ms)
        wake_at_ms = link->retry_at_ms;
    if (peer->inbound.probe_deadline_ms && peer->inbound.probe_again_ms < wake_at_ms)
        wake_at_ms = peer->inbound.probe_again_ms;
    return wake_at_ms;
}

static bool has_business(const struct peer *peer)
{
    return peer->link.dealer || peer->first || peer->head_sealed || peer->report_down ||
           peer->inbound.probe_deadline_ms || (peer->link.keep && peer->address[0]);
}

static void free_peer(struct transport *transport, struct peer *peer)
{
    transport_link_close(transport, peer);
    transport_queue_drop(transport, peer);
    free(peer);
}

/* Takes peers without business off the list, and frees those that were removed. */
static void sweep(struct transport *transport)
{
    struct peer **at = &transport->active;
    while (*at) {
        struct peer *peer = *at;
        if (!peer->removed && has_business(peer)) {
            at = &peer->active_next;
            continue;
        }
        *at = peer->active_next;
        peer->active = false;
        if (peer->removed)
            free_peer(transport, peer);
    }
}

static int64_t on_turn(void *context, int64_t now_ms)
{
    struct transport *transport = context;
    transport->in_turn = true;
    transport->woken = false;
    transport_router_events(transport, now_ms);
    if (transport->look_router)
        transport_read_router(transport, now_ms);
    /* Callbacks may add peers at the front of the list, which are then seen in the second pass or in the next
     * turn. */
    for (struct peer *peer = transport->active; peer; peer = peer->active_next) {
        if (peer->link.look && !peer->removed)
            transport_read_link(transport, peer, now_ms);
    }
    int64_t wake_at_ms = INT64_MAX;
    transport->touched = false;
    for (struct peer *peer = transport->active; peer; peer = peer->active_next) {
        if (peer->removed)
            continue;
        const int64_t time_ms = keep_time(transport, peer, now_ms);
        const int64_t flush_ms = peer->removed ? INT64_MAX : transport_flush(transport, peer, now_ms);
        const int64_t peer_ms = time_ms < flush_ms ? time_ms : flush_ms;
        wake_at_ms = peer_ms < wake_at_ms ? peer_ms : wake_at_ms;
        if (peer->link.look || peer->report_down)
            wake_at_ms = now_ms;
    }
    if (transport->look_router || transport->touched)
        wake_at_ms = now_ms;
    sweep(transport);
    transport->in_turn = false;
    return wake_at_ms;
}

/* ---- Peers, as the owner sees them ------------------------------------------------------------------------
 */

bool transport_peer_set(struct transport *transport, const struct mesh_id *id,
                        const struct curve_public *curve, const char *address)
{
    if (!address || strlen(address) > TRANSPORT_ADDRESS_BYTES_MAX)
        address = "";
    struct peer *peer = transport_find(transport, id);
    if (!peer) {
        if (transport->peer_count >= MESH_MEMBERS_MAX)
            return false;
        peer = calloc(1, sizeof *peer);
        if (!peer)
            return false;
        peer->id = *id;
        peer->inbound.asked_at_ms = -ASK_HELLO_MS;
        peer->bucket_next = transport->bucket[bucket_of(id)];
        transport->bucket[bucket_of(id)] = peer;
        transport->peer_count++;
    } else if (memcmp(&peer->curve, curve, sizeof *curve) == 0 && strcmp(peer->address, address) == 0) {
        return true;
    }
    transport_link_close(transport, peer);
    peer->link.retry_at_ms = 0;
    peer->link.reported_down = false;
    peer->curve = *curve;
    snprintf(peer->address, sizeof peer->address, "%s", address);
    transport_activate(transport, peer); /* a kept link is dialled in the next turn */
    return true;
}

void transport_peer_remove(struct transport *transport, const struct mesh_id *id)
{
    struct peer **at = &transport->bucket[bucket_of(id)];
    while (*at && memcmp(&(*at)->id, id, sizeof *id) != 0)
        at = &(*at)->bucket_next;
    struct peer *peer = *at;
    if (!peer)
        return;
    *at = peer->bucket_next;
    transport->peer_count--;
    transport_link_close(transport, peer);
    peer->link.keep = false;
    peer->removed = true; /* a callback of this peer may be running: the turn frees it */
    transport_activate(transport, peer);
}

void transport_keep(struct transport *transport, const struct mesh_id *id, bool keep)
{
    struct peer *peer = transport_find(transport, id);
    if (!peer || peer->link.keep == keep)
        return;
    peer->link.keep = keep;
    if (keep)
        peer->link.retry_at_ms = 0;
    else if (peer->link.state == LINK_DOWN)
        transport_link_close(transport, peer);
    transport_activate(transport, peer);
}

void transport_redial(struct transport *transport, const struct mesh_id *id)
{
    struct peer *peer = transport_find(transport, id);
    if (!peer)
        return;
    const int64_t now_ms = clock_now_ms();
    peer->link.reported_down = false;
    if (peer->address[0] == 0) { /* ask on the connection that it opened */
        if (!transport_route_probe(transport, peer, now_ms))
            transport_report_down(transport, peer, true);
        return;
    }
    transport_link_close(transport, peer);
    if (!transport_link_dial(transport, peer, now_ms)) {
        peer->link.reported_down = true;
        transport_report_down(transport, peer, false);
    }
}

bool transport_link_is_up(const struct transport *transport, const struct mesh_id *id)
{
    const struct peer *peer = transport_find(transport, id);
    return peer && transport_path(peer) != PATH_NONE;
}

void transport_protocol(const struct transport *transport, const struct mesh_id *id,
                        struct transport_protocol *protocol)
{
    const struct peer *peer = transport_find(transport, id);
    *protocol = peer ? peer->protocol : (struct transport_protocol){0};
}

void transport_set_incarnation(struct transport *transport, uint64_t incarnation)
{
    transport->options.incarnation = incarnation;
}

void transport_greet(struct transport *transport)
{
    const int64_t now_ms = clock_now_ms();
    for (uint32_t i = 0; i < PEER_BUCKETS; i++) {
        for (struct peer *peer = transport->bucket[i]; peer; peer = peer->bucket_next) {
            if (peer->link.state != LINK_UP && peer->link.state != LINK_GREETING)
                continue;
            transport_link_greet(transport, peer, now_ms);
            transport_activate(transport, peer);
        }
    }
}

void transport_punish(struct transport *transport, const struct mesh_id *id)
{
    COUNT(transport, refused_by_owner, 1);
    struct peer *peer = transport_find(transport, id);
    if (peer)
        transport_shut_out(transport, peer, clock_now_ms());
}

void transport_counters_read(const struct transport *transport, struct transport_counters *counters)
{
#define COUNTER_READ(name, text)                                                                             \
    counters->name = __atomic_load_n(&transport->counters.name, __ATOMIC_RELAXED);
    TRANSPORT_COUNTERS(COUNTER_READ)
#undef COUNTER_READ
}

/* ---- Open and close ---------------------------------------------------------------------------------------
 */

enum transport_error transport_open(const struct transport_options *options,
                                    struct transport_failure *failure, struct transport **out)
{
    assert(options->zap && options->admission && options->loop && options->on_message &&
           options->on_link_up && options->on_link_down && options->on_hello);
    *failure = (struct transport_failure){.error = TRANSPORT_SYSTEM, .text = "out of memory"};
    struct transport *transport = calloc(1, sizeof *transport);
    if (!transport)
        return TRANSPORT_SYSTEM;
    transport->options = *options;
    if (options->protocol_max == 0) {
        transport->options.protocol_min = WIRE_PROTOCOL_MIN;
        transport->options.protocol_max = WIRE_PROTOCOL_MAX;
    }
    snprintf(transport->software, sizeof transport->software, "%s",
             options->software ? options->software : "");
    const struct socket_options socket = transport_socket_options(transport);
    const enum transport_error error =
        socket_bind_router(&socket, ZAP_DOMAIN_CONTROL, options->bind, options->bind_setting, failure,
                           transport->bound, &transport->router);
    if (error) {
        transport_close(transport);
        return error;
    }
    transport->router_monitor = transport_monitor_open(transport, transport->router);
    if (!transport->router_monitor) {
        snprintf(failure->text, sizeof failure->text, "cannot watch the control socket: %s",
                 zmq_strerror(errno));
        transport_close(transport);
        return TRANSPORT_SYSTEM;
    }
    transport->look_router = true;
    loop_watch(options->loop, transport_descriptor(transport->router), EPOLLIN, transport_on_router,
               transport);
    loop_watch(options->loop, transport_descriptor(transport->router_monitor), EPOLLIN, transport_on_router,
               transport);
    loop_on_turn(options->loop, on_turn, transport);
    *failure = (struct transport_failure){0};
    *out = transport;
    return TRANSPORT_OK;
}

void transport_close(struct transport *transport)
{
    if (!transport)
        return;
    for (uint32_t i = 0; i < PEER_BUCKETS; i++) {
        while (transport->bucket[i])
            transport_peer_remove(transport, &transport->bucket[i]->id);
    }
    sweep(transport);
    if (transport->router) {
        loop_unwatch(transport->options.loop, transport_descriptor(transport->router));
        zmq_socket_monitor(transport->router, NULL, 0);
    }
    if (transport->router_monitor) {
        loop_unwatch(transport->options.loop, transport_descriptor(transport->router_monitor));
        zmq_close(transport->router_monitor);
    }
    if (transport->router)
        zmq_close(transport->router);
    curve_secret_wipe(&transport->options.curve_secret);
    free(transport);
}

const char *transport_bound(const struct transport *transport)
{
    return transport->bound;
}
