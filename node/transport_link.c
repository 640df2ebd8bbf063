/* A link's life: dialling, greeting, and what the sockets' monitors tell. See enum link_state. */
#include "node/transport_internal.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MONITOR_TURN_EVENTS 64
#define DIAL_AGAIN_MS 1000 /* on-demand links: from a failure to the next dial */
#define PROBE_AGAIN_MS 100 /* a connection that is just ending may take one more message */

int transport_descriptor(void *socket)
{
    int fd = -1;
    size_t bytes = sizeof fd;
    zmq_getsockopt(socket, ZMQ_FD, &fd, &bytes);
    return fd;
}

void *transport_monitor_open(struct transport *transport, void *socket)
{
    static atomic_ullong serial; /* a name stays taken for a moment after its socket is closed */
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "inproc://weir.control.%llu",
             (unsigned long long)atomic_fetch_add(&serial, 1));
    const int events = ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                       ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                       ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    if (zmq_socket_monitor(socket, endpoint, events) != 0)
        return NULL;
    void *monitor = zmq_socket(transport->options.zmq, ZMQ_PAIR);
    const int no_linger = 0;
    if (monitor && zmq_setsockopt(monitor, ZMQ_LINGER, &no_linger, sizeof no_linger) == 0 &&
        zmq_connect(monitor, endpoint) == 0)
        return monitor;
    const int saved = errno;
    if (monitor)
        zmq_close(monitor);
    errno = saved;
    return NULL;
}

unsigned transport_monitor_next(void *monitor)
{
    zmq_msg_t message;
    zmq_msg_init(&message);
    uint16_t event = 0;
    if (zmq_msg_recv(&message, monitor, ZMQ_DONTWAIT) >= (int)sizeof event) {
        memcpy(&event, zmq_msg_data(&message), sizeof event);
        socket_discard_rest(monitor, &message); /* the endpoint's text */
    }
    zmq_msg_close(&message);
    return event;
}

void transport_log(struct transport *transport, const char *line)
{
    if (transport->options.on_log)
        transport->options.on_log(transport->options.context, line);
}

struct socket_options transport_socket_options(const struct transport *transport)
{
    return (struct socket_options){
        .zmq = transport->options.zmq,
        .curve = &transport->options.curve,
        .curve_secret = &transport->options.curve_secret,
        .message_bytes_max = WIRE_CONTROL_BYTES_MAX,
        .hwm = TRANSPORT_HWM,
    };
}

void transport_link_close(struct transport *transport, struct peer *peer)
{
    struct link *link = &peer->link;
    peer->blocked_until_ms = 0;
    if (link->dealer) {
        loop_unwatch(transport->options.loop, transport_descriptor(link->dealer));
        loop_unwatch(transport->options.loop, transport_descriptor(link->monitor));
        zmq_socket_monitor(link->dealer, NULL, 0);
        zmq_close(link->monitor);
        zmq_close(link->dealer);
        link->dealer = NULL;
        link->monitor = NULL;
        transport->link_count--;
    }
    link->state = LINK_CLOSED;
    link->deadline_ms = 0;
    link->hello_due = false;
}

/* Closes the on-demand link that was idle longest when there are too many. */
static void make_room(struct transport *transport, const struct peer *except)
{
    uint32_t on_demand = 0;
    struct peer *idle = NULL;
    for (struct peer *peer = transport->active; peer; peer = peer->active_next) {
        if (!peer->link.dealer || peer->link.keep || peer == except)
            continue;
        on_demand++;
        if (!idle || peer->link.used_at_ms < idle->link.used_at_ms)
            idle = peer;
    }
    if (on_demand < TRANSPORT_LINKS_MAX)
        return;
    COUNT(transport, links_evicted, 1);
    transport_queue_drop(transport, idle);
    transport_link_close(transport, idle);
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    struct peer *peer = context;
    peer->link.look = true; /* a peer with an open link is always active, so the turn will see it */
}

bool transport_link_dial(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    assert(!link->dealer);
    link->retry_at_ms = now_ms + DIAL_AGAIN_MS;
    if (peer->address[0] == 0)
        return false;
    if (!transport_admitted(transport, peer)) {
        link->retry_at_ms = now_ms + DIAL_REFUSED_MS;
        return false;
    }
    if (!link->keep)
        make_room(transport, peer);
    const struct socket_options options = transport_socket_options(transport);
    link->dealer = socket_open_dealer(&options, &peer->curve);
    link->monitor = link->dealer ? transport_monitor_open(transport, link->dealer) : NULL;
    if (!link->monitor || !socket_connect(link->dealer, peer->address)) {
        char line[TRANSPORT_ADDRESS_BYTES_MAX + 128];
        snprintf(line, sizeof line, "cannot dial %s: %s", peer->address, zmq_strerror(errno));
        transport_log(transport, line);
        if (link->monitor)
            zmq_close(link->monitor);
        if (link->dealer) {
            zmq_socket_monitor(link->dealer, NULL, 0);
            zmq_close(link->dealer);
        }
        link->dealer = link->monitor = NULL;
        return false;
    }
    COUNT(transport, dials, 1);
    transport->link_count++;
    link->state = LINK_DIALLING;
    link->look = true;
    link->dialled_at_ms = now_ms;
    link->used_at_ms = now_ms;
    link->deadline_ms = now_ms + TRANSPORT_HELLO_MS;
    loop_watch(transport->options.loop, transport_descriptor(link->dealer), EPOLLIN, on_readable, peer);
    loop_watch(transport->options.loop, transport_descriptor(link->monitor), EPOLLIN, on_readable, peer);
    transport_activate(transport, peer);
    return true;
}

bool transport_route_probe(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    if (!peer->inbound.greeted)
        return false;
    transport->look_router = transport_may_read(transport->router); /* take in that it has ended, if it has */
    if (transport_send_hello(transport, peer, false, peer->inbound.session, false) == 0 || errno == EAGAIN) {
        if (peer->inbound.probe_deadline_ms == 0)
            peer->inbound.probe_deadline_ms = now_ms + TRANSPORT_HELLO_MS;
        peer->inbound.probe_again_ms = now_ms + PROBE_AGAIN_MS;
        transport_activate(transport, peer);
        return true;
    }
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    return false;
}

void transport_link_failed(struct transport *transport, struct peer *peer, bool reset, int64_t now_ms)
{
    struct link *link = &peer->link;
    const bool first = !link->reported_down;
    if (link->keep && reset) {
        link->state = LINK_DOWN; /* libzmq dials on */
        link->deadline_ms = 0;
    } else {
        transport_link_close(transport, peer);
        link->retry_at_ms = now_ms + (link->keep ? DIAL_REFUSED_MS : DIAL_AGAIN_MS);
    }
    if (!first)
        return;
    link->reported_down = true;
    /* One that can't be dialled but has dialled us stays reachable. Silence says nothing of a connection that
     * we have not heard on since. */
    const bool heard = peer->inbound.heard_at_ms >= link->dialled_at_ms;
    if ((reset || heard) && transport_route_probe(transport, peer, now_ms))
        return;
    transport_queue_drop(transport, peer);
    transport_report_down(transport, peer, reset);
}

void transport_link_greet(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    if (!link->hello_due) {
        do
            randombytes_buf(&link->session, sizeof link->session);
        while (link->session == 0);
    }
    link->state = LINK_GREETING;
    link->deadline_ms = now_ms + TRANSPORT_HELLO_MS;
    link->hello_due = transport_send_hello(transport, peer, true, link->session, false) != 0;
}

static void connection_ended(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    switch (link->state) {
    case LINK_UP: /* one re-dial, which libzmq begins by itself */
        COUNT(transport, disconnects, 1);
        link->state = LINK_DIALLING;
        link->dialled_at_ms = now_ms;
        link->deadline_ms = now_ms + TRANSPORT_HELLO_MS;
        return;
    case LINK_DIALLING:
    case LINK_GREETING:
        transport_link_failed(transport, peer, true, now_ms);
        return;
    case LINK_DOWN:
    case LINK_CLOSED:
        return;
    }
}

void transport_count_handshake(struct transport *transport, unsigned event)
{
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        COUNT(transport, handshakes_refused, 1);
    else
        COUNT(transport, handshakes_failed, 1);
}

void transport_link_events(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    for (int i = 0; i < MONITOR_TURN_EVENTS && peer->link.monitor && !peer->removed; i++) {
        const unsigned event = transport_monitor_next(peer->link.monitor);
        switch (event) {
        case 0:
            return;
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
            peer->link.hello_due = false;
            transport_link_greet(transport, peer, now_ms);
            break;
        case ZMQ_EVENT_DISCONNECTED:
        case ZMQ_EVENT_CLOSED:
            connection_ended(transport, peer, now_ms);
            break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
            transport_count_handshake(transport, event);
            break;
        }
    }
    peer->link.look = peer->link.monitor != NULL; /* the bound was reached: there may be more */
}

void transport_link_came_up(struct transport *transport, struct peer *peer)
{
    peer->link.state = LINK_UP;
    peer->link.deadline_ms = 0;
    peer->link.reported_down = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->report_down = false;
    COUNT(transport, links_up, 1);
    transport->options.on_link_up(transport->options.context, &peer->id, peer->protocol.agreed);
}
