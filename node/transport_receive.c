/* Reading: who speaks, may it, is what it says well formed; HELLO. */
#include "node/transport_internal.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define LINK_TURN_MESSAGES 64  /* taken from one DEALER in one turn */
#define PROTOCOL_LOG_MS 600000 /* how often the log says that a peer speaks another protocol */

void transport_shut_out(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    admission_penalise(transport->options.admission, &peer->curve, ADMISSION_PENALTY_MS);
    const bool was_up = transport_link_is_up(transport, &peer->id);
    transport_link_close(transport, peer);
    transport_queue_drop(transport, peer);
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->link.retry_at_ms = now_ms + ADMISSION_PENALTY_MS;
    if (was_up) {
        peer->link.reported_down = true;
        transport_report_down(transport, peer, false);
    }
}

/* A peer spoke on a connection that has not greeted, or that an older session used: it is asked to greet.
 * That happens after it was shut out, or forgotten and learned of again. */
static void ask_for_hello(struct transport *transport, struct peer *peer, struct wire_bytes route,
                          int64_t now_ms)
{
    COUNT(transport, refused_before_hello, 1);
    if (now_ms - peer->inbound.asked_at_ms < ASK_HELLO_MS)
        return;
    peer->inbound.asked_at_ms = now_ms;
    const struct inbound before = peer->inbound;
    peer->inbound.route_bytes = (uint8_t)route.count;
    memcpy(peer->inbound.route, route.bytes, route.count);
    uint64_t session;
    randombytes_buf(&session, sizeof session);
    transport_send_hello(transport, peer, false, session, false);
    peer->inbound = before;
}

/* Whether the owner takes the one that greets for the peer; if not, lets it know why, where it can hear it. */
static bool is_the_process(struct transport *transport, struct peer *peer, const struct wire_hello *hello,
                           struct wire_bytes route)
{
    struct wire_frame *answer = &transport->inner;
    answer->kind = 0;
    if (transport->options.on_hello(transport->options.context, &peer->id, hello->incarnation, hello->process,
                                    answer))
        return true;
    COUNT(transport, refused_process, 1);
    const size_t count =
        answer->kind ? wire_encode(answer, transport->scratch, sizeof transport->scratch) : 0;
    if (count == 0)
        return false;
    zmq_msg_t message;
    zmq_msg_init_size(&message, count);
    memcpy(zmq_msg_data(&message), transport->scratch, count);
    if (route.count == 0) {
        transport_send_link(&peer->link, &message);
    } else {
        struct inbound inbound = {.route_bytes = (uint8_t)route.count};
        memcpy(inbound.route, route.bytes, route.count);
        transport_send_route(transport, &inbound, &message);
    }
    zmq_msg_close(&message);
    return false;
}

/* What a peer speaks, and the highest version of it that we do too. */
static struct transport_protocol common_protocol(const struct transport *transport,
                                                 const struct wire_hello *hello)
{
    const struct transport_options *own = &transport->options;
    const uint32_t max = hello->protocol_max < own->protocol_max ? hello->protocol_max : own->protocol_max;
    const bool common = max >= hello->protocol_min && max >= own->protocol_min;
    return (struct transport_protocol){
        .min = hello->protocol_min, .max = hello->protocol_max, .agreed = common ? max : 0};
}

static void log_protocol(struct transport *transport, struct peer *peer, const struct wire_hello *hello,
                         int64_t now_ms)
{
    if (peer->protocol_logged_at_ms && now_ms - peer->protocol_logged_at_ms < PROTOCOL_LOG_MS)
        return;
    peer->protocol_logged_at_ms = now_ms;
    const struct transport_options *own = &transport->options;
    char line[TRANSPORT_ADDRESS_BYTES_MAX + 256];
    snprintf(line, sizeof line,
             "peer %02x%02x%02x%02x%s%s speaks protocol %u to %u (weir %s), this node %u to %u (weir %s): no "
             "version in common; upgrade %s",
             peer->id.bytes[0], peer->id.bytes[1], peer->id.bytes[2], peer->id.bytes[3],
             peer->address[0] ? " at " : "", peer->address, hello->protocol_min, hello->protocol_max,
             hello->software, own->protocol_min, own->protocol_max, transport->software,
             hello->protocol_max < own->protocol_min ? "that peer" : "this node");
    transport_log(transport, line);
}

static void refuse_protocol(struct transport *transport, struct peer *peer, const struct wire_hello *hello,
                            struct transport_protocol protocol, int64_t now_ms)
{
    COUNT(transport, refused_protocol, 1);
    log_protocol(transport, peer, hello, now_ms);
    peer->protocol = protocol;
    const bool was_first = !peer->link.reported_down && peer->link.dealer;
    transport_link_close(transport, peer);
    transport_queue_drop(transport, peer);
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->link.retry_at_ms = now_ms + DIAL_REFUSED_MS;
    if (was_first) {
        peer->link.reported_down = true;
        transport_report_down(transport, peer, false);
    }
}

/* Greets back on the connection by which a HELLO came. */
static void answer_hello(struct transport *transport, struct peer *peer, struct wire_bytes route,
                         uint64_t session)
{
    if (route.count == 0) {
        transport_send_hello(transport, peer, true, session, true);
        return;
    }
    const struct inbound before = peer->inbound;
    peer->inbound.route_bytes = (uint8_t)route.count;
    memcpy(peer->inbound.route, route.bytes, route.count);
    transport_send_hello(transport, peer, false, session, true);
    peer->inbound = before;
}

/* The other side of a connection says who it is. `route` is empty on our own link. */
static void take_hello(struct transport *transport, struct peer *peer, struct wire_bytes route,
                       int64_t now_ms)
{
    const struct wire_hello hello = transport->frame.body.hello;
    if (memcmp(&hello.node, &peer->id, sizeof hello.node) != 0) {
        COUNT(transport, refused_wrong_identity, 1);
        transport_shut_out(transport, peer, now_ms);
        return;
    }
    const struct transport_protocol protocol = common_protocol(transport, &hello);
    if (!protocol.agreed) {
        if (!hello.answer)
            answer_hello(transport, peer, route, hello.session); /* so that it can tell its people too */
        refuse_protocol(transport, peer, &hello, protocol, now_ms);
        return;
    }
    if (!is_the_process(transport, peer, &hello, route))
        return;
    if (peer->queued_since > protocol.agreed)
        transport_queue_drop(transport, peer); /* it was made for a later version than the peer has now */
    peer->protocol = protocol;
    peer->protocol_logged_at_ms = 0;
    if (route.count == 0) {
        if (!hello.answer)
            transport_send_hello(transport, peer, true, hello.session, true);
        else if (peer->link.state == LINK_GREETING && hello.session == peer->link.session)
            transport_link_came_up(transport, peer);
        return;
    }
    struct inbound *inbound = &peer->inbound;
    const bool fresh =
        !inbound->greeted || inbound->session != hello.session || inbound->probe_deadline_ms != 0;
    inbound->greeted = true;
    inbound->session = hello.session;
    inbound->route_bytes = (uint8_t)route.count;
    memcpy(inbound->route, route.bytes, route.count);
    inbound->heard_at_ms = now_ms;
    inbound->probe_deadline_ms = 0;
    if (!hello.answer)
        transport_send_hello(transport, peer, false, hello.session, true);
    /* Where we can't dial, the peer's connection is the link. */
    if (fresh && transport_path(peer) == PATH_ROUTE) {
        peer->report_down = false;
        COUNT(transport, links_up, 1);
        transport->options.on_link_up(transport->options.context, &peer->id, peer->protocol.agreed);
    }
}

/* Counts and punishes what no honest peer sends. True if the frame may be handed out. */
static bool frame_is_good(struct transport *transport, struct peer *peer, const struct wire_frame *frame,
                          enum wire_error error, int64_t now_ms)
{
    if (error == WIRE_OK && wire_kind_socket(frame->kind) == WIRE_SOCKET_CONTROL)
        return true;
    if (error == WIRE_OK)
        COUNT(transport, refused_wrong_socket, 1);
    else
        COUNT(transport, refused_bad_frame, 1);
    transport_shut_out(transport, peer, now_ms);
    return false;
}

static void hand_out(struct transport *transport, struct peer *peer, const struct wire_frame *frame)
{
    COUNT(transport, frames_received, 1);
    transport->options.on_message(transport->options.context, &peer->id, frame);
}

/* Every frame of the batch in `transport->frame`. The owner may punish or forget the peer while it reads. */
static void take_batch(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    const uint64_t punished = transport->counters.refused_by_owner;
    for (uint32_t i = 0; i < transport->frame.body.batch.count; i++) {
        const struct wire_bytes bytes = transport->frame.body.batch.frame[i];
        const enum wire_error error = wire_decode(bytes.bytes, bytes.count, &transport->inner);
        if (!frame_is_good(transport, peer, &transport->inner, error, now_ms))
            return;
        hand_out(transport, peer, &transport->inner);
        if (peer->removed || punished != transport->counters.refused_by_owner)
            return;
    }
}

/* One message of an admitted peer. `route` is empty when it came on our own link. */
static void take_message(struct transport *transport, struct peer *peer, struct wire_bytes route,
                         struct wire_bytes bytes, int64_t now_ms)
{
    if (bytes.count > WIRE_CONTROL_BYTES_MAX) {
        COUNT(transport, oversized, 1);
        transport_shut_out(transport, peer, now_ms);
        return;
    }
    struct wire_frame *frame = &transport->frame;
    const enum wire_error error = wire_decode(bytes.bytes, bytes.count, frame);
    if (!frame_is_good(transport, peer, frame, error, now_ms))
        return;
    if (frame->kind == WIRE_HELLO) {
        take_hello(transport, peer, route, now_ms);
        return;
    }
    if (route.count) {
        const struct inbound *inbound = &peer->inbound;
        if (!inbound->greeted || inbound->route_bytes != route.count ||
            memcmp(inbound->route, route.bytes, route.count) != 0) {
            ask_for_hello(transport, peer, route, now_ms);
            return;
        }
        peer->inbound.heard_at_ms = now_ms;
    } else if (peer->link.state == LINK_GREETING && frame->kind == WIRE_PUSH) {
        hand_out(transport, peer, frame); /* our greeting was refused: this says why, see on_hello */
        return;
    } else if (peer->link.state != LINK_UP) {
        COUNT(transport, refused_before_hello, 1);
        return;
    }
    peer->link.used_at_ms = now_ms;
    if (frame->kind == WIRE_BATCH)
        take_batch(transport, peer, now_ms);
    else
        hand_out(transport, peer, frame);
}

void transport_read_link(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    link->look = false;
    peer->blocked_until_ms = 0; /* reading may take in that there is room again */
    transport_link_events(transport, peer, now_ms);
    if (link->hello_due)
        transport_link_greet(transport, peer, now_ms);
    for (int i = 0; link->dealer && !peer->removed; i++) {
        if (i == LINK_TURN_MESSAGES) {
            link->look = true;
            return;
        }
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, link->dealer, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&message);
            return;
        }
        COUNT(transport, messages_received, 1);
        COUNT(transport, bytes_received, zmq_msg_size(&message));
        if (socket_discard_rest(link->dealer, &message)) {
            COUNT(transport, refused_multi_frame, 1);
            transport_shut_out(transport, peer, now_ms);
        } else if (!transport_admitted(transport, peer)) {
            COUNT(transport, refused_unadmitted, 1);
        } else {
            take_message(transport, peer, (struct wire_bytes){0},
                         (struct wire_bytes){zmq_msg_data(&message), zmq_msg_size(&message)}, now_ms);
        }
        zmq_msg_close(&message);
    }
}

/* One message from somebody who dialled us: who is it, may it speak, then its content. */
static void take_routed(struct transport *transport, zmq_msg_t *route, zmq_msg_t *message, bool several,
                        int64_t now_ms)
{
    struct curve_public key;
    struct mesh_id id;
    if (!zap_user_key(zmq_msg_gets(message, "User-Id"), &key) ||
        admission_check(transport->options.admission, &key, clock_wall_ms(), &id) != ADMISSION_ADMITTED) {
        COUNT(transport, refused_unadmitted, 1);
        return;
    }
    struct peer *peer = transport_find(transport, &id);
    if (several) {
        COUNT(transport, refused_multi_frame, 1);
        admission_penalise(transport->options.admission, &key, ADMISSION_PENALTY_MS);
        if (peer)
            transport_shut_out(transport, peer, now_ms);
    } else if (!peer || zmq_msg_size(route) > ROUTE_BYTES_MAX) {
        COUNT(transport, refused_unknown_sender, 1);
    } else {
        transport_activate(transport, peer);
        take_message(transport, peer, (struct wire_bytes){zmq_msg_data(route), zmq_msg_size(route)},
                     (struct wire_bytes){zmq_msg_data(message), zmq_msg_size(message)}, now_ms);
    }
}

void transport_read_router(struct transport *transport, int64_t now_ms)
{
    transport->look_router = false;
    for (int i = 0;; i++) {
        if (i == TRANSPORT_TURN_MESSAGES) {
            transport->look_router = true;
            return;
        }
        zmq_msg_t route;
        zmq_msg_t message;
        zmq_msg_init(&route);
        zmq_msg_init(&message);
        const bool got = zmq_msg_recv(&route, transport->router, ZMQ_DONTWAIT) >= 0;
        if (got && zmq_msg_more(&route) && zmq_msg_recv(&message, transport->router, ZMQ_DONTWAIT) >= 0) {
            COUNT(transport, messages_received, 1);
            COUNT(transport, bytes_received, zmq_msg_size(&message));
            const bool several = socket_discard_rest(transport->router, &message);
            take_routed(transport, &route, &message, several, now_ms);
        }
        zmq_msg_close(&route);
        zmq_msg_close(&message);
        if (!got)
            return;
    }
}

/* A connection that a peer opened has ended, and libzmq does not say whose: asks those who are reached on
 * theirs. */
static void probe_routes(struct transport *transport, int64_t now_ms)
{
    for (uint32_t i = 0; i < PEER_BUCKETS; i++) {
        for (struct peer *peer = transport->bucket[i]; peer; peer = peer->bucket_next) {
            if (transport_path(peer) != PATH_ROUTE || peer->inbound.probe_deadline_ms)
                continue;
            if (!transport_route_probe(transport, peer, now_ms)) {
                transport_queue_drop(transport, peer);
                transport_report_down(transport, peer, true);
            }
        }
    }
}

void transport_router_events(struct transport *transport, int64_t now_ms)
{
    bool ended = false;
    unsigned event;
    while ((event = transport_monitor_next(transport->router_monitor)) != 0) {
        if (event == ZMQ_EVENT_DISCONNECTED) {
            COUNT(transport, inbound_ended, 1);
            ended = true;
        } else if (event & (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                            ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)) {
            transport_count_handshake(transport, event);
        }
    }
    if (ended)
        probe_routes(transport, now_ms);
}

void transport_on_router(void *context, uint32_t events)
{
    (void)events;
    struct transport *transport = context;
    transport->look_router = true;
}
