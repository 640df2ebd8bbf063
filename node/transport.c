#include "node/transport.h"

#include "node/socket.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PEER_BUCKETS 1024u    /* chains of two at the bound of members */
#define LINK_TURN_MESSAGES 64 /* taken from one DEALER in one turn */
#define MONITOR_TURN_EVENTS 64
#define ROUTE_BYTES_MAX 16      /* libzmq makes routing ids of 5 bytes */
#define ASK_HELLO_MS 1000       /* how often a peer that speaks before HELLO is asked for one */
#define DIAL_AGAIN_MS 1000      /* on-demand links: from a failure to the next dial */
#define DIAL_REFUSED_MS 10000   /* kept links: while the peer is not admitted, or speaks another protocol */
#define PROTOCOL_LOG_MS 600000  /* how often the log says that a peer speaks another protocol */
#define PROBE_AGAIN_MS 100      /* a connection that is just ending may take one more message */
#define RETRY_ROUTE_MS 5        /* a full connection of a peer that can't be dialled: look again */
#define QUEUE_FIRST_BYTES 1024u /* a fresh message buffer; grows up to TRANSPORT_BATCH_BYTES */

/* One message that waits: a batch that is still being filled if it is the last of its queue. */
struct outgoing {
    struct outgoing *next;
    struct wire_batch batch; /* .bytes is `data` below */
    uint8_t data[];
};

/*
 * A link is the DEALER that we opened to a peer.
 *
 * CLOSED     no socket. A kept link is dialled again at retry_at_ms.
 * DIALLING   a socket that connects; the first attempt, or the one re-dial after a session ended.
 * GREETING   encrypted, HELLO sent, not yet answered.
 * UP         answered: messages flow.
 * DOWN       kept, reported down; libzmq goes on connecting behind it. A connection leads to GREETING.
 */
enum link_state { LINK_CLOSED, LINK_DIALLING, LINK_GREETING, LINK_UP, LINK_DOWN };

struct link {
    enum link_state state;
    void *dealer;
    void *monitor;
    bool look;          /* its sockets may have something to read */
    bool hello_due;     /* HELLO could not be written yet */
    bool reported_down; /* on_link_down was called and no session has begun since */
    bool keep;
    uint64_t session;
    int64_t deadline_ms; /* DIALLING, GREETING: down when this passes; otherwise 0 */
    int64_t dialled_at_ms;
    int64_t used_at_ms;
    int64_t retry_at_ms;
};

/* The connection that the peer opened to our ROUTER and greeted on last. */
struct inbound {
    bool greeted;
    uint8_t route_bytes;
    uint8_t route[ROUTE_BYTES_MAX];
    uint64_t session;
    int64_t heard_at_ms;
    int64_t asked_at_ms;       /* when a HELLO was last asked for */
    int64_t probe_deadline_ms; /* a peer without an address was asked whether it lives; 0: not asked */
    int64_t probe_again_ms;
};

struct peer {
    struct peer *bucket_next;
    struct peer *active_next; /* peers with anything to do in a turn; one that has nothing drops out there */
    bool active;
    bool removed;     /* forgotten by the owner; freed when the turn sweeps */
    bool report_down; /* on_link_down is due, with `report_reset` */
    bool report_reset;
    struct mesh_id id;
    struct curve_public curve;
    char address[TRANSPORT_ADDRESS_BYTES_MAX + 1]; /* empty: can't be dialled */
    struct link link;
    struct inbound inbound;
    struct transport_protocol protocol;
    int64_t protocol_logged_at_ms; /* that there is none in common; 0 = not said */
    /* The queue. Its head is sealed into a ZeroMQ message when its turn comes, and stays here until it is
     * taken. */
    struct outgoing *first;
    struct outgoing *last;
    zmq_msg_t head;
    bool head_sealed;
    uint32_t head_frames;
    size_t queued_bytes;      /* head included */
    uint32_t queued_since;    /* the latest version in which a kind that was queued began */
    int64_t blocked_until_ms; /* ZeroMQ took no more: INT64_MAX until the link's descriptor stirs */
};

struct transport {
    struct transport_options options;
    char software[WIRE_SOFTWARE_BYTES_MAX + 1];
    char bound[SOCKET_BOUND_BYTES];
    void *router;
    void *router_monitor;
    bool look_router;
    bool in_turn;
    bool woken;   /* the loop was asked for another turn */
    bool touched; /* somebody was given work since the turn began to flush */
    uint32_t peer_count;
    uint32_t link_count; /* open sockets, kept or not */
    struct peer *bucket[PEER_BUCKETS];
    struct peer *active;
    struct transport_counters counters;
    struct wire_frame frame; /* the message being read, and the frame within it that is handed out */
    struct wire_frame inner;
    uint8_t scratch[WIRE_CONTROL_BYTES_MAX]; /* the frame being written */
};

#define COUNT(transport, name, by) count_up(&(transport)->counters.name, by)

/* The loop's thread writes, others may read. */
static void count_up(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static void on_readable(void *context, uint32_t events);

/* ---- Sockets and descriptors ------------------------------------------------------------------------------
 */

static int descriptor(void *socket)
{
    int fd = -1;
    size_t bytes = sizeof fd;
    zmq_getsockopt(socket, ZMQ_FD, &fd, &bytes);
    return fd;
}

/* Attaches a monitor and opens its reading end. NULL with errno set. */
static void *open_monitor(struct transport *transport, void *socket)
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

/* The next event of a monitor; 0 when there is none. */
static unsigned next_event(void *monitor)
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

static void log_line(struct transport *transport, const char *line)
{
    if (transport->options.on_log)
        transport->options.on_log(transport->options.context, line);
}

static struct socket_options socket_options_of(const struct transport *transport)
{
    return (struct socket_options){
        .zmq = transport->options.zmq,
        .curve = &transport->options.curve,
        .curve_secret = &transport->options.curve_secret,
        .message_bytes_max = WIRE_CONTROL_BYTES_MAX,
        .hwm = TRANSPORT_HWM,
    };
}

/* ---- Peers ------------------------------------------------------------------------------------------------
 */

static uint32_t bucket_of(const struct mesh_id *id)
{
    uint32_t hash;
    memcpy(&hash, id->bytes, sizeof hash);
    return hash % PEER_BUCKETS;
}

static struct peer *find_peer(const struct transport *transport, const struct mesh_id *id)
{
    struct peer *peer = transport->bucket[bucket_of(id)];
    while (peer && memcmp(&peer->id, id, sizeof *id) != 0)
        peer = peer->bucket_next;
    return peer;
}

/* Has the turn look at this peer, now or soon. */
static void activate(struct transport *transport, struct peer *peer)
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

static bool admitted(struct transport *transport, const struct peer *peer)
{
    struct mesh_id id;
    return admission_check(transport->options.admission, &peer->curve, clock_wall_ms(), &id) ==
               ADMISSION_ADMITTED &&
           memcmp(&id, &peer->id, sizeof id) == 0;
}

static void drop_queue(struct transport *transport, struct peer *peer)
{
    if (peer->head_sealed) {
        peer->head_sealed = false;
        COUNT(transport, dropped_down, peer->head_frames);
        zmq_msg_close(&peer->head);
    }
    while (peer->first) {
        struct outgoing *message = peer->first;
        peer->first = message->next;
        COUNT(transport, dropped_down, message->batch.frames);
        free(message);
    }
    peer->last = NULL;
    peer->queued_bytes = 0;
    peer->queued_since = 0;
}

static void close_link(struct transport *transport, struct peer *peer)
{
    struct link *link = &peer->link;
    peer->blocked_until_ms = 0;
    if (link->dealer) {
        loop_unwatch(transport->options.loop, descriptor(link->dealer));
        loop_unwatch(transport->options.loop, descriptor(link->monitor));
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

static void report_down(struct transport *transport, struct peer *peer, bool reset)
{
    peer->report_down = true;
    peer->report_reset = reset;
    activate(transport, peer);
}

/* ---- Dialling ---------------------------------------------------------------------------------------------
 */

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
    drop_queue(transport, idle);
    close_link(transport, idle);
}

/* Opens the socket and starts to connect. False if that is not possible now; retry_at_ms says when it may be.
 */
static bool dial(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    assert(!link->dealer);
    link->retry_at_ms = now_ms + DIAL_AGAIN_MS;
    if (peer->address[0] == 0)
        return false;
    if (!admitted(transport, peer)) {
        link->retry_at_ms = now_ms + DIAL_REFUSED_MS;
        return false;
    }
    if (!link->keep)
        make_room(transport, peer);
    const struct socket_options options = socket_options_of(transport);
    link->dealer = socket_open_dealer(&options, &peer->curve);
    link->monitor = link->dealer ? open_monitor(transport, link->dealer) : NULL;
    if (!link->monitor || !socket_connect(link->dealer, peer->address)) {
        char line[TRANSPORT_ADDRESS_BYTES_MAX + 128];
        snprintf(line, sizeof line, "cannot dial %s: %s", peer->address, zmq_strerror(errno));
        log_line(transport, line);
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
    loop_watch(transport->options.loop, descriptor(link->dealer), EPOLLIN, on_readable, peer);
    loop_watch(transport->options.loop, descriptor(link->monitor), EPOLLIN, on_readable, peer);
    activate(transport, peer);
    return true;
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    struct peer *peer = context;
    peer->link.look = true; /* a peer with an open link is always active, so the turn will see it */
}

/* ---- Writing ----------------------------------------------------------------------------------------------
 */

static void free_outgoing(void *data, void *hint)
{
    (void)data;
    free(hint);
}

/* On the connection that the peer opened. 0, or -1 with errno: EHOSTUNREACH when it is gone, EAGAIN when it
 * is full. */
static int send_to_route(struct transport *transport, const struct inbound *inbound, zmq_msg_t *message)
{
    transport->look_router = true; /* sending may eat the signal that something has arrived */
    if (zmq_send(transport->router, inbound->route, inbound->route_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return -1;
    return zmq_msg_send(message, transport->router, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

static int send_to_link(struct link *link, zmq_msg_t *message)
{
    link->look = true;
    return zmq_msg_send(message, link->dealer, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

/* Greets, on the own link or on the connection that the peer opened. */
static int send_hello(struct transport *transport, struct peer *peer, bool own_link, uint64_t session,
                      bool answer)
{
    struct wire_frame frame;
    frame.kind = WIRE_HELLO;
    frame.body.hello = (struct wire_hello){
        .protocol_min = transport->options.protocol_min,
        .protocol_max = transport->options.protocol_max,
        .session = session,
        .answer = answer,
        .node = transport->options.self,
        .incarnation = transport->options.incarnation,
        .process = transport->options.process,
    };
    memcpy(frame.body.hello.software, transport->software, sizeof transport->software);
    uint8_t bytes[256];
    const size_t count = wire_encode(&frame, bytes, sizeof bytes);
    assert(count > 0);
    zmq_msg_t message;
    zmq_msg_init_size(&message, count);
    memcpy(zmq_msg_data(&message), bytes, count);
    const int result =
        own_link ? send_to_link(&peer->link, &message) : send_to_route(transport, &peer->inbound, &message);
    const int saved = errno;
    zmq_msg_close(&message);
    errno = saved;
    return result;
}

/* Where messages for a peer go now: its own link when that is up; the connection that it opened when it can't
 * be dialled. */
enum path { PATH_NONE, PATH_LINK, PATH_ROUTE };

static enum path path_of(const struct peer *peer)
{
    if (peer->link.state == LINK_UP)
        return PATH_LINK;
    if (peer->inbound.greeted && (peer->address[0] == 0 || peer->link.reported_down))
        return PATH_ROUTE;
    return PATH_NONE;
}

/* Makes the oldest message of the queue ready to be sent. */
static void seal_head(struct peer *peer)
{
    struct outgoing *outgoing = peer->first;
    peer->first = outgoing->next;
    if (!peer->first)
        peer->last = NULL;
    const struct wire_bytes bytes = wire_batch_finish(&outgoing->batch);
    peer->queued_bytes -= outgoing->batch.count - bytes.count; /* what a lone frame does without */
    peer->head_frames = outgoing->batch.frames;
    peer->head_sealed = true;
    zmq_msg_init_data(&peer->head, (void *)(uintptr_t)bytes.bytes, bytes.count, free_outgoing, outgoing);
}

/* Takes in what ZeroMQ has to say to this socket, so that its descriptor stirs for whatever comes after. */
static bool may_read(void *socket)
{
    int events = 0;
    size_t bytes = sizeof events;
    zmq_getsockopt(socket, ZMQ_EVENTS, &events, &bytes);
    return events & ZMQ_POLLIN;
}

/* Sends what waits, until ZeroMQ's queue is full. Returns when to try again on its own account. */
static int64_t flush(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    const enum path path = path_of(peer);
    if (path == PATH_NONE || (!peer->first && !peer->head_sealed))
        return INT64_MAX;
    if (now_ms < peer->blocked_until_ms)
        return peer->blocked_until_ms;
    peer->blocked_until_ms = 0;
    if (!admitted(transport, peer)) {
        drop_queue(transport, peer);
        return INT64_MAX;
    }
    while (peer->first || peer->head_sealed) {
        if (!peer->head_sealed)
            seal_head(peer);
        const size_t bytes = zmq_msg_size(&peer->head);
        const int result = path == PATH_LINK ? send_to_link(&peer->link, &peer->head)
                                             : send_to_route(transport, &peer->inbound, &peer->head);
        if (result != 0 && path == PATH_LINK) {
            peer->blocked_until_ms = INT64_MAX;
            peer->link.look = may_read(peer->link.dealer);
            return INT64_MAX;
        }
        if (result != 0 && errno == EAGAIN) {
            peer->blocked_until_ms = now_ms + RETRY_ROUTE_MS;
            return peer->blocked_until_ms;
        }
        if (result != 0) {
            peer->inbound.greeted = false;
            peer->inbound.probe_deadline_ms = 0;
            drop_queue(transport, peer);
            report_down(transport, peer, true);
            return INT64_MAX;
        }
        peer->head_sealed = false;
        peer->queued_bytes -= bytes;
        COUNT(transport, frames_sent, peer->head_frames);
        COUNT(transport, messages_sent, 1);
        COUNT(transport, bytes_sent, bytes);
    }
    return INT64_MAX;
}

/* The message that has room for a frame of `bytes`: the last of the queue, grown if need be, or a fresh one.
 */
static struct outgoing *open_message(struct peer *peer, size_t bytes)
{
    const size_t need = WIRE_BATCH_FRAME_BYTES + bytes;
    struct outgoing *last = peer->last;
    if (last && last->batch.frames < WIRE_BATCH_FRAMES_MAX &&
        last->batch.count + need <= TRANSPORT_BATCH_BYTES) {
        if (last->batch.count + need <= last->batch.capacity)
            return last;
        size_t capacity = last->batch.capacity * 4;
        if (capacity < last->batch.count + need)
            capacity = last->batch.count + need;
        struct outgoing *grown = realloc(last, sizeof *grown + capacity);
        if (!grown)
            return NULL;
        grown->batch.bytes = grown->data;
        grown->batch.capacity = capacity;
        if (peer->first == last) {
            peer->first = grown;
        } else {
            struct outgoing *before = peer->first;
            while (before->next != last)
                before = before->next;
            before->next = grown;
        }
        peer->last = grown;
        return grown;
    }
    size_t capacity = WIRE_BATCH_HEADER_BYTES + need;
    if (capacity < QUEUE_FIRST_BYTES)
        capacity = QUEUE_FIRST_BYTES;
    struct outgoing *fresh = malloc(sizeof *fresh + capacity);
    if (!fresh)
        return NULL;
    fresh->next = NULL;
    wire_batch_init(&fresh->batch, fresh->data, capacity);
    if (last)
        last->next = fresh;
    else
        peer->first = fresh;
    peer->last = fresh;
    peer->queued_bytes += WIRE_BATCH_HEADER_BYTES;
    return fresh;
}

/* What may be queued for a peer: what was agreed, or all that we speak as long as it has not greeted. */
static uint32_t protocol_of(const struct transport *transport, const struct peer *peer)
{
    return peer->protocol.agreed ? peer->protocol.agreed : transport->options.protocol_max;
}

bool transport_send(struct transport *transport, const struct mesh_id *id, const struct wire_frame *frame)
{
    assert(memcmp(id, &transport->options.self, sizeof *id) != 0);
    struct peer *peer = find_peer(transport, id);
    if (!peer) {
        COUNT(transport, dropped_unknown_peer, 1);
        return false;
    }
    const size_t bytes = wire_encode(frame, transport->scratch, sizeof transport->scratch);
    if (bytes == 0) {
        COUNT(transport, dropped_too_long, 1);
        return false;
    }
    const int64_t now_ms = clock_now_ms();
    const uint32_t since = wire_kind_since(frame->kind);
    if (since > protocol_of(transport, peer)) {
        COUNT(transport, dropped_protocol, 1);
        return false;
    }
    if (path_of(peer) == PATH_NONE && !peer->link.dealer &&
        (now_ms < peer->link.retry_at_ms || !dial(transport, peer, now_ms))) {
        if (admitted(transport, peer))
            COUNT(transport, dropped_down, 1);
        else
            COUNT(transport, dropped_unadmitted, 1);
        return false;
    }
    if (peer->link.state == LINK_DOWN && path_of(peer) == PATH_NONE) {
        COUNT(transport, dropped_down, 1);
        return false;
    }
    if (peer->queued_bytes + WIRE_BATCH_FRAME_BYTES + bytes > TRANSPORT_QUEUE_BYTES_MAX) {
        COUNT(transport, dropped_queue_full, 1);
        return false;
    }
    struct outgoing *outgoing = open_message(peer, bytes);
    if (!outgoing) {
        COUNT(transport, dropped_queue_full, 1);
        return false;
    }
    const bool added = wire_batch_add(&outgoing->batch, (struct wire_bytes){transport->scratch, bytes});
    assert(added);
    (void)added;
    if (peer->queued_bytes == 0)
        peer->queued_since = 0;
    peer->queued_bytes += WIRE_BATCH_FRAME_BYTES + bytes;
    if (since > peer->queued_since)
        peer->queued_since = since;
    peer->link.used_at_ms = now_ms;
    activate(transport, peer);
    return true;
}

/* ---- A link's life ----------------------------------------------------------------------------------------
 */

/* The peer's own connection to us may still carry messages: asks on it. An answer is a HELLO, and a new
 * session; none within TRANSPORT_HELLO_MS is a link that is down. False if the connection is gone. */
static bool probe_route(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    if (!peer->inbound.greeted)
        return false;
    transport->look_router = may_read(transport->router); /* take in that it has ended, if it has */
    if (send_hello(transport, peer, false, peer->inbound.session, false) == 0 || errno == EAGAIN) {
        if (peer->inbound.probe_deadline_ms == 0)
            peer->inbound.probe_deadline_ms = now_ms + TRANSPORT_HELLO_MS;
        peer->inbound.probe_again_ms = now_ms + PROBE_AGAIN_MS;
        activate(transport, peer);
        return true;
    }
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    return false;
}

/* An attempt to get a session failed: by a refusal or a reset, or because nobody answered. */
static void attempt_failed(struct transport *transport, struct peer *peer, bool reset, int64_t now_ms)
{
    struct link *link = &peer->link;
    const bool first = !link->reported_down;
    if (link->keep && reset) {
        link->state = LINK_DOWN; /* libzmq dials on */
        link->deadline_ms = 0;
    } else {
        close_link(transport, peer);
        link->retry_at_ms = now_ms + (link->keep ? DIAL_REFUSED_MS : DIAL_AGAIN_MS);
    }
    if (!first)
        return;
    link->reported_down = true;
    /* One that can't be dialled but has dialled us stays reachable. Silence says nothing of a connection that
     * we have not heard on since. */
    const bool heard = peer->inbound.heard_at_ms >= link->dialled_at_ms;
    if ((reset || heard) && probe_route(transport, peer, now_ms))
        return;
    drop_queue(transport, peer);
    report_down(transport, peer, reset);
}

static void greet(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    if (!link->hello_due) {
        do
            randombytes_buf(&link->session, sizeof link->session);
        while (link->session == 0);
    }
    link->state = LINK_GREETING;
    link->deadline_ms = now_ms + TRANSPORT_HELLO_MS;
    link->hello_due = send_hello(transport, peer, true, link->session, false) != 0;
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
        attempt_failed(transport, peer, true, now_ms);
        return;
    case LINK_DOWN:
    case LINK_CLOSED:
        return;
    }
}

static void count_handshake_failure(struct transport *transport, unsigned event)
{
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        COUNT(transport, handshakes_refused, 1);
    else
        COUNT(transport, handshakes_failed, 1);
}

static void read_link_monitor(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    for (int i = 0; i < MONITOR_TURN_EVENTS && peer->link.monitor && !peer->removed; i++) {
        const unsigned event = next_event(peer->link.monitor);
        switch (event) {
        case 0:
            return;
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
            peer->link.hello_due = false;
            greet(transport, peer, now_ms);
            break;
        case ZMQ_EVENT_DISCONNECTED:
        case ZMQ_EVENT_CLOSED:
            connection_ended(transport, peer, now_ms);
            break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
            count_handshake_failure(transport, event);
            break;
        }
    }
    peer->link.look = peer->link.monitor != NULL; /* the bound was reached: there may be more */
}

static void link_came_up(struct transport *transport, struct peer *peer)
{
    peer->link.state = LINK_UP;
    peer->link.deadline_ms = 0;
    peer->link.reported_down = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->report_down = false;
    COUNT(transport, links_up, 1);
    transport->options.on_link_up(transport->options.context, &peer->id, peer->protocol.agreed);
}

/* ---- Reading ----------------------------------------------------------------------------------------------
 */

static void shut_out(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    admission_penalise(transport->options.admission, &peer->curve, ADMISSION_PENALTY_MS);
    const bool was_up = transport_link_is_up(transport, &peer->id);
    close_link(transport, peer);
    drop_queue(transport, peer);
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->link.retry_at_ms = now_ms + ADMISSION_PENALTY_MS;
    if (was_up) {
        peer->link.reported_down = true;
        report_down(transport, peer, false);
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
    send_hello(transport, peer, false, session, false);
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
        send_to_link(&peer->link, &message);
    } else {
        struct inbound inbound = {.route_bytes = (uint8_t)route.count};
        memcpy(inbound.route, route.bytes, route.count);
        send_to_route(transport, &inbound, &message);
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
    log_line(transport, line);
}

static void refuse_protocol(struct transport *transport, struct peer *peer, const struct wire_hello *hello,
                            struct transport_protocol protocol, int64_t now_ms)
{
    COUNT(transport, refused_protocol, 1);
    log_protocol(transport, peer, hello, now_ms);
    peer->protocol = protocol;
    const bool was_first = !peer->link.reported_down && peer->link.dealer;
    close_link(transport, peer);
    drop_queue(transport, peer);
    peer->inbound.greeted = false;
    peer->inbound.probe_deadline_ms = 0;
    peer->link.retry_at_ms = now_ms + DIAL_REFUSED_MS;
    if (was_first) {
        peer->link.reported_down = true;
        report_down(transport, peer, false);
    }
}

/* Greets back on the connection by which a HELLO came. */
static void answer_hello(struct transport *transport, struct peer *peer, struct wire_bytes route,
                         uint64_t session)
{
    if (route.count == 0) {
        send_hello(transport, peer, true, session, true);
        return;
    }
    const struct inbound before = peer->inbound;
    peer->inbound.route_bytes = (uint8_t)route.count;
    memcpy(peer->inbound.route, route.bytes, route.count);
    send_hello(transport, peer, false, session, true);
    peer->inbound = before;
}

/* The other side of a connection says who it is. `route` is empty on our own link. */
static void take_hello(struct transport *transport, struct peer *peer, struct wire_bytes route,
                       int64_t now_ms)
{
    const struct wire_hello hello = transport->frame.body.hello;
    if (memcmp(&hello.node, &peer->id, sizeof hello.node) != 0) {
        COUNT(transport, refused_wrong_identity, 1);
        shut_out(transport, peer, now_ms);
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
        drop_queue(transport, peer); /* it was made for a later version than the peer has now */
    peer->protocol = protocol;
    peer->protocol_logged_at_ms = 0;
    if (route.count == 0) {
        if (!hello.answer)
            send_hello(transport, peer, true, hello.session, true);
        else if (peer->link.state == LINK_GREETING && hello.session == peer->link.session)
            link_came_up(transport, peer);
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
        send_hello(transport, peer, false, hello.session, true);
    /* Where we can't dial, the peer's connection is the link. */
    if (fresh && path_of(peer) == PATH_ROUTE) {
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
    shut_out(transport, peer, now_ms);
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
        shut_out(transport, peer, now_ms);
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

static void read_link(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    link->look = false;
    peer->blocked_until_ms = 0; /* reading may take in that there is room again */
    read_link_monitor(transport, peer, now_ms);
    if (link->hello_due)
        greet(transport, peer, now_ms);
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
            shut_out(transport, peer, now_ms);
        } else if (!admitted(transport, peer)) {
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
    struct peer *peer = find_peer(transport, &id);
    if (several) {
        COUNT(transport, refused_multi_frame, 1);
        admission_penalise(transport->options.admission, &key, ADMISSION_PENALTY_MS);
        if (peer)
            shut_out(transport, peer, now_ms);
    } else if (!peer || zmq_msg_size(route) > ROUTE_BYTES_MAX) {
        COUNT(transport, refused_unknown_sender, 1);
    } else {
        activate(transport, peer);
        take_message(transport, peer, (struct wire_bytes){zmq_msg_data(route), zmq_msg_size(route)},
                     (struct wire_bytes){zmq_msg_data(message), zmq_msg_size(message)}, now_ms);
    }
}

static void read_router(struct transport *transport, int64_t now_ms)
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
            if (path_of(peer) != PATH_ROUTE || peer->inbound.probe_deadline_ms)
                continue;
            if (!probe_route(transport, peer, now_ms)) {
                drop_queue(transport, peer);
                report_down(transport, peer, true);
            }
        }
    }
}

static void read_router_monitor(struct transport *transport, int64_t now_ms)
{
    bool ended = false;
    unsigned event;
    while ((event = next_event(transport->router_monitor)) != 0) {
        if (event == ZMQ_EVENT_DISCONNECTED) {
            COUNT(transport, inbound_ended, 1);
            ended = true;
        } else if (event & (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                            ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)) {
            count_handshake_failure(transport, event);
        }
    }
    if (ended)
        probe_routes(transport, now_ms);
}

static void on_router_readable(void *context, uint32_t events)
{
    (void)events;
    struct transport *transport = context;
    transport->look_router = true;
}

/* ---- The turn ---------------------------------------------------------------------------------------------
 */

/* Deadlines, and links that are to be dialled. Returns when to look again. */
static int64_t keep_time(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    struct link *link = &peer->link;
    if (link->deadline_ms && now_ms >= link->deadline_ms) {
        COUNT(transport, hello_timeouts, 1);
        attempt_failed(transport, peer, false, now_ms);
    }
    if (peer->inbound.probe_deadline_ms && now_ms >= peer->inbound.probe_deadline_ms) {
        peer->inbound.probe_deadline_ms = 0;
        peer->inbound.greeted = false;
        drop_queue(transport, peer);
        report_down(transport, peer, false);
    }
    if (peer->inbound.probe_deadline_ms && now_ms >= peer->inbound.probe_again_ms &&
        !probe_route(transport, peer, now_ms)) {
        drop_queue(transport, peer);
        report_down(transport, peer, true);
    }
    if (link->keep && !link->dealer && peer->address[0] && now_ms >= link->retry_at_ms && !peer->removed &&
        !dial(transport, peer, now_ms) && !link->reported_down) {
        link->reported_down = true;
        report_down(transport, peer, false);
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
    close_link(transport, peer);
    drop_queue(transport, peer);
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
    read_router_monitor(transport, now_ms);
    if (transport->look_router)
        read_router(transport, now_ms);
    /* Callbacks may add peers at the front of the list, which are then seen in the second pass or in the next
     * turn. */
    for (struct peer *peer = transport->active; peer; peer = peer->active_next) {
        if (peer->link.look && !peer->removed)
            read_link(transport, peer, now_ms);
    }
    int64_t wake_at_ms = INT64_MAX;
    transport->touched = false;
    for (struct peer *peer = transport->active; peer; peer = peer->active_next) {
        if (peer->removed)
            continue;
        const int64_t time_ms = keep_time(transport, peer, now_ms);
        const int64_t flush_ms = peer->removed ? INT64_MAX : flush(transport, peer, now_ms);
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
    struct peer *peer = find_peer(transport, id);
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
    close_link(transport, peer);
    peer->link.retry_at_ms = 0;
    peer->link.reported_down = false;
    peer->curve = *curve;
    snprintf(peer->address, sizeof peer->address, "%s", address);
    activate(transport, peer); /* a kept link is dialled in the next turn */
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
    close_link(transport, peer);
    peer->link.keep = false;
    peer->removed = true; /* a callback of this peer may be running: the turn frees it */
    activate(transport, peer);
}

void transport_keep(struct transport *transport, const struct mesh_id *id, bool keep)
{
    struct peer *peer = find_peer(transport, id);
    if (!peer || peer->link.keep == keep)
        return;
    peer->link.keep = keep;
    if (keep)
        peer->link.retry_at_ms = 0;
    else if (peer->link.state == LINK_DOWN)
        close_link(transport, peer);
    activate(transport, peer);
}

void transport_redial(struct transport *transport, const struct mesh_id *id)
{
    struct peer *peer = find_peer(transport, id);
    if (!peer)
        return;
    const int64_t now_ms = clock_now_ms();
    peer->link.reported_down = false;
    if (peer->address[0] == 0) { /* ask on the connection that it opened */
        if (!probe_route(transport, peer, now_ms))
            report_down(transport, peer, true);
        return;
    }
    close_link(transport, peer);
    if (!dial(transport, peer, now_ms)) {
        peer->link.reported_down = true;
        report_down(transport, peer, false);
    }
}

bool transport_link_is_up(const struct transport *transport, const struct mesh_id *id)
{
    const struct peer *peer = find_peer(transport, id);
    return peer && path_of(peer) != PATH_NONE;
}

void transport_protocol(const struct transport *transport, const struct mesh_id *id,
                        struct transport_protocol *protocol)
{
    const struct peer *peer = find_peer(transport, id);
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
            if (peer->link.state != LINK_UP)
                continue;
            greet(transport, peer, now_ms);
            activate(transport, peer);
        }
    }
}

void transport_punish(struct transport *transport, const struct mesh_id *id)
{
    COUNT(transport, refused_by_owner, 1);
    struct peer *peer = find_peer(transport, id);
    if (peer)
        shut_out(transport, peer, clock_now_ms());
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
    const struct socket_options socket = socket_options_of(transport);
    const enum transport_error error =
        socket_bind_router(&socket, ZAP_DOMAIN_CONTROL, options->bind, options->bind_setting, failure,
                           transport->bound, &transport->router);
    if (error) {
        transport_close(transport);
        return error;
    }
    transport->router_monitor = open_monitor(transport, transport->router);
    if (!transport->router_monitor) {
        snprintf(failure->text, sizeof failure->text, "cannot watch the control socket: %s",
                 zmq_strerror(errno));
        transport_close(transport);
        return TRANSPORT_SYSTEM;
    }
    transport->look_router = true;
    loop_watch(options->loop, descriptor(transport->router), EPOLLIN, on_router_readable, transport);
    loop_watch(options->loop, descriptor(transport->router_monitor), EPOLLIN, on_router_readable, transport);
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
        loop_unwatch(transport->options.loop, descriptor(transport->router));
        zmq_socket_monitor(transport->router, NULL, 0);
    }
    if (transport->router_monitor) {
        loop_unwatch(transport->options.loop, descriptor(transport->router_monitor));
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
