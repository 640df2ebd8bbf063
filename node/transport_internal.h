/*
 * What the parts of the transport share; transport.h is the manual. Nothing outside includes this.
 *
 *     transport.c          peers, the turn, what the owner calls
 *     transport_link.c     a link's life
 *     transport_send.c     writing
 *     transport_receive.c  reading, and HELLO
 */
#ifndef NODE_TRANSPORT_INTERNAL_H
#define NODE_TRANSPORT_INTERNAL_H

#include "node/socket.h"
#include "node/transport.h"

#define PEER_BUCKETS 1024u    /* chains of two at the bound of members */
#define ROUTE_BYTES_MAX 16    /* libzmq makes routing ids of 5 bytes */
#define ASK_HELLO_MS 1000     /* how often a peer that speaks before HELLO is asked for one */
#define DIAL_REFUSED_MS 10000 /* kept links: while the peer is not admitted, or speaks another protocol */

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
static inline void count_up(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

/* Where messages for a peer go now: its own link when that is up; the connection that it opened when it can't
 * be dialled. */
enum path { PATH_NONE, PATH_LINK, PATH_ROUTE };

/* transport.c */
struct peer *transport_find(const struct transport *transport, const struct mesh_id *id);
/* Has the turn look at this peer, now or soon. */
void transport_activate(struct transport *transport, struct peer *peer);
bool transport_admitted(struct transport *transport, const struct peer *peer);
void transport_report_down(struct transport *transport, struct peer *peer, bool reset);

/* transport_link.c */
int transport_descriptor(void *socket);
/* Attaches a monitor and opens its reading end. NULL with errno set. */
void *transport_monitor_open(struct transport *transport, void *socket);
/* The next event of a monitor; 0 when there is none. */
unsigned transport_monitor_next(void *monitor);
void transport_log(struct transport *transport, const char *line);
struct socket_options transport_socket_options(const struct transport *transport);
void transport_link_close(struct transport *transport, struct peer *peer);
/* Opens the socket and starts to connect. False if that is not possible now; retry_at_ms says when it may be.
 */
bool transport_link_dial(struct transport *transport, struct peer *peer, int64_t now_ms);
/* The peer's own connection to us may still carry messages: asks on it. An answer is a HELLO, and a new
 * session; none within TRANSPORT_HELLO_MS is a link that is down. False if the connection is gone. */
bool transport_route_probe(struct transport *transport, struct peer *peer, int64_t now_ms);
/* An attempt to get a session failed: by a refusal or a reset, or because nobody answered. */
void transport_link_failed(struct transport *transport, struct peer *peer, bool reset, int64_t now_ms);
void transport_link_greet(struct transport *transport, struct peer *peer, int64_t now_ms);
void transport_count_handshake(struct transport *transport, unsigned event);
void transport_link_events(struct transport *transport, struct peer *peer, int64_t now_ms);
void transport_link_came_up(struct transport *transport, struct peer *peer);

/* transport_send.c */
void transport_queue_drop(struct transport *transport, struct peer *peer);
/* On the connection that the peer opened. 0, or -1 with errno: EHOSTUNREACH when it is gone, EAGAIN when it
 * is full. */
int transport_send_route(struct transport *transport, const struct inbound *inbound, zmq_msg_t *message);
int transport_send_link(struct link *link, zmq_msg_t *message);
/* Greets, on the own link or on the connection that the peer opened. */
int transport_send_hello(struct transport *transport, struct peer *peer, bool own_link, uint64_t session,
                         bool answer);
enum path transport_path(const struct peer *peer);
/* Takes in what ZeroMQ has to say to this socket, so that its descriptor stirs for whatever comes after. */
bool transport_may_read(void *socket);
/* Sends what waits, until ZeroMQ's queue is full. Returns when to try again on its own account. */
int64_t transport_flush(struct transport *transport, struct peer *peer, int64_t now_ms);

/* transport_receive.c */
void transport_shut_out(struct transport *transport, struct peer *peer, int64_t now_ms);
void transport_read_link(struct transport *transport, struct peer *peer, int64_t now_ms);
void transport_read_router(struct transport *transport, int64_t now_ms);
void transport_router_events(struct transport *transport, int64_t now_ms);
void transport_on_router(void *context, uint32_t events);

#endif
