/*
 * Control messages between nodes: encrypted, admitted, bounded.
 *
 *     zap_open(zmq, admission, &zap);
 *     transport_open(&options, &failure, &transport);
 *     transport_peer_set(transport, &id, &curve_key, "host:7700");
 *     transport_keep(transport, &id, true);
 *     transport_send(transport, &id, &frame);
 *
 * One ROUTER is bound for those who dial us, one DEALER is opened per peer that we dial; each side sends on
 * the DEALER that it opened, so both learn at once from their own connection that the other is gone. To a
 * peer that has no address or does not answer there, messages go back over the connection that it opened.
 * CURVE is always on, and the server's key is pinned to the peer's certificate; nothing here can turn that
 * off.
 *
 * Both ends say in HELLO which versions of the protocol they speak; a link uses the highest that both do, and frames
 * of a later one are not sent on it. Where there is none, both ends say so in the log, with the side that must be
 * upgraded, and stay apart.
 *
 * A link's life. Dialled (kept by the overlay, or because something is to be sent) -> connected and encrypted
 * -> HELLO sent, HELLO answered with the same session -> up (on_link_up): only now do messages flow. When the
 * connection ends, the link is dialled again within 200 ms; if that fails the link is down (on_link_down,
 * reset true) and what was queued for it is dropped. A link that gets no answer for TRANSPORT_HELLO_MS is
 * down with reset false. A kept link goes on dialling with a growing pause; another one is closed, and the
 * next transport_send dials anew, at most once a second. Every new session is a new on_link_up: the owner
 * resynchronises then.
 *
 * Frames sent within one turn of the loop to one peer travel as one message (BATCH) of up to
 * TRANSPORT_BATCH_BYTES. Delivery is at most once and in order within a session; there is no promise across
 * sessions.
 *
 * What a peer may not do: speak before HELLO (dropped, asked for HELLO), speak without admission (dropped),
 * send several frames as one multipart message, garbage, or a frame that does not belong here (dropped, and
 * its key is shut out for ADMISSION_PENALTY_MS), send more than WIRE_CONTROL_BYTES_MAX (libzmq ends the
 * connection). Each has a counter. Received messages are taken fairly, one by one from each connection in
 * turn, and a bounded number per turn.
 *
 * All functions belong to the loop's thread, except transport_counters_read. No callback runs inside a call
 * of these functions: all come from the loop, and from any of them every function but transport_close may be
 * called.
 */
#ifndef NODE_TRANSPORT_H
#define NODE_TRANSPORT_H

#include "node/admission.h"
#include "node/loop.h"
#include "node/wire.h"
#include "node/zap.h"

#define TRANSPORT_LINKS_MAX 64 /* links dialled on demand; the one idle longest makes room */
#define TRANSPORT_QUEUE_BYTES_MAX (4u * 1024u * 1024u) /* waiting for one peer, before ZeroMQ's own queue */
#define TRANSPORT_BATCH_BYTES (64u * 1024u) /* a message of several frames; a larger frame goes alone */
#define TRANSPORT_HWM 64                    /* messages in ZeroMQ's queue per connection and direction */
#define TRANSPORT_HELLO_MS 5000             /* from dialling to the answered HELLO */
#define TRANSPORT_RECONNECT_MS 100          /* first pause before dialling again, then doubling to ... */
#define TRANSPORT_RECONNECT_MAX_MS 10000
#define TRANSPORT_TURN_MESSAGES 512     /* taken from the ROUTER in one turn of the loop */
#define TRANSPORT_ADDRESS_BYTES_MAX 255 /* host:port, or [v6]:port */

enum transport_error {
    TRANSPORT_OK = 0,
    TRANSPORT_BAD_ADDRESS, /* class LOCAL, all of them */
    TRANSPORT_IN_USE,
    TRANSPORT_DENIED,
    TRANSPORT_SYSTEM,
};

/* Why an open failed, in words that name the address, the setting and the remedy. */
struct transport_failure {
    enum transport_error error;
    char text[400];
};

struct transport;

struct transport_options {
    void *zmq;                   /* the node's context; borrowed */
    struct loop *loop;           /* borrowed */
    struct admission *admission; /* borrowed */
    const struct zap *zap;       /* must be open in the same context: see node/zap.h */
    const char *bind;            /* "0.0.0.0:7700", "[::]:7700", "*:7700", "127.0.0.1:*" for any free port */
    const char *bind_setting;    /* the setting's name, for the error's text: "control_bind" */
    struct curve_public curve;
    struct curve_secret curve_secret; /* copied; wiped by transport_close */
    struct mesh_id self;
    uint64_t incarnation;  /* durable: see transport_set_incarnation */
    uint64_t process;      /* the session of our MEMBER record */
    uint32_t protocol_min; /* what we speak; both 0: what this build does, WIRE_PROTOCOL_MIN and _MAX */
    uint32_t protocol_max;
    const char *software; /* at most WIRE_SOFTWARE_BYTES_MAX, for HELLO */

    /* `frame` and what it points to are borrowed until the callback returns. Never a HELLO, BATCH or bulk
     * frame. */
    void (*on_message)(void *context, const struct mesh_id *peer, const struct wire_frame *frame);
    void (*on_link_up)(void *context, const struct mesh_id *peer, uint32_t protocol);
    void (*on_link_down)(void *context, const struct mesh_id *peer, bool reset);
    /*
     * The peer's identity speaks, as this incarnation of this process. True: take its messages. False: another
     * process of that identity is known to be newer, this one is not heard; `answer` goes back to it on the
     * very connection it came by unless its kind is left 0, so that it can learn of the other.
     */
    bool (*on_hello)(void *context, const struct mesh_id *peer, uint64_t incarnation, uint64_t process,
                     struct wire_frame *answer);
    void (*on_log)(
        void *context,
        const char *line); /* rare, for people: "peer 1a2b3c4d speaks protocol 7 ..."; may be NULL */
    void *context;
};

/* Opens the sockets and registers with the loop, which must not run any more after transport_close. */
enum transport_error transport_open(const struct transport_options *options,
                                    struct transport_failure *failure, struct transport **transport);
void transport_close(struct transport *transport);

/* host:port as bound, with the real port where "*" was asked for. Borrowed until transport_close. */
const char *transport_bound(const struct transport *transport);

/* Makes a peer known, or changes it: with another key or address its link is closed and, if kept, dialled
 * again. `address` is host:port, or NULL or "" for a peer that can't be dialled. Admission is separate: admit
 * the key first. Returns false when MESH_MEMBERS_MAX peers are known already. */
bool transport_peer_set(struct transport *transport, const struct mesh_id *id,
                        const struct curve_public *curve, const char *address);
/* Forgets a peer and closes its link, without on_link_down. Unknown ids are ignored, here and below. */
void transport_peer_remove(struct transport *transport, const struct mesh_id *id);

/* A kept link stays dialled; others live on demand. */
void transport_keep(struct transport *transport, const struct mesh_id *id, bool keep);
/* Closes the link if there is one and dials anew, now. Ends in on_link_up or on_link_down. */
void transport_redial(struct transport *transport, const struct mesh_id *id);
bool transport_link_is_up(const struct transport *transport, const struct mesh_id *id);

/* What a peer last said of itself in a HELLO; all zero before its first. */
struct transport_protocol {
    uint32_t min; /* what it speaks */
    uint32_t max;
    uint32_t agreed; /* the highest that we speak too; 0 = there is none, and its links are refused */
};
void transport_protocol(const struct transport *transport, const struct mesh_id *id,
                        struct transport_protocol *protocol);

/* Queues a frame, dialling first if need be. Returns false if it was dropped, which is counted: unknown peer,
 * peer not admitted, link down, queue full, the frame is too long, or of a later protocol than agreed. Never to oneself, asserted. */
bool transport_send(struct transport *transport, const struct mesh_id *id, const struct wire_frame *frame);

/* Our incarnation rose and is durable; call it before anything is sent that bears it. */
void transport_set_incarnation(struct transport *transport, uint64_t incarnation);
/* Greets anew on every link that is up, or was greeted and has not answered: peers who heard another process of our identity
 * hear us again. Each link answered is a new on_link_up. */
void transport_greet(struct transport *transport);

/* Something that only the owner can judge was wrong (a record with a bad signature, ...): counts it and shuts
 * the peer out for ADMISSION_PENALTY_MS. */
void transport_punish(struct transport *transport, const struct mesh_id *id);

/* Each is a metric, and a line of `weir gossip --stats`. */
#define TRANSPORT_COUNTERS(X)                                                                                \
    X(frames_sent, "frames handed to the network")                                                           \
    X(messages_sent, "messages that carried them")                                                           \
    X(bytes_sent, "their bytes")                                                                             \
    X(frames_received, "frames given to the node")                                                           \
    X(messages_received, "messages taken from the network, good or bad")                                     \
    X(bytes_received, "their bytes")                                                                         \
    X(dials, "links dialled")                                                                                \
    X(links_up, "sessions begun")                                                                            \
    X(links_down, "links reported down")                                                                     \
    X(links_evicted, "idle links closed to make room")                                                       \
    X(disconnects, "connections that ended")                                                                 \
    X(dropped_queue_full, "frames not sent: the peer's queue was full")                                      \
    X(dropped_down, "frames not sent: the link was or went down")                                            \
    X(dropped_unknown_peer, "frames not sent: no such peer")                                                 \
    X(dropped_unadmitted, "frames not sent: the peer is not admitted")                                       \
    X(dropped_too_long, "frames not sent: over the limit of a message")                                      \
    X(dropped_protocol, "frames not sent: the peer's protocol does not have them")                           \
    X(refused_multi_frame, "messages of several frames")                                                     \
    X(refused_bad_frame, "messages that are no well-formed frame")                                           \
    X(refused_wrong_socket, "frames that do not belong on this socket")                                      \
    X(refused_unadmitted, "messages from keys that are not admitted (any more)")                             \
    X(refused_unknown_sender, "messages from admitted keys of no known peer")                                \
    X(refused_before_hello, "messages before HELLO, or of an older session")                                 \
    X(refused_wrong_identity, "HELLOs that name another node than the key's")                                \
    X(refused_protocol, "HELLOs without a protocol version that is spoken here")                             \
    X(refused_process, "HELLOs of a process whose identity a newer one bears: a copied data folder")         \
    X(refused_by_owner, "frames that the node itself found wrong")                                           \
    X(oversized, "messages over the limit; libzmq itself ends connections that go far beyond it")            \
    X(inbound_ended, "connections that peers had opened to this node and that ended, for any reason")        \
    X(handshakes_refused, "handshakes that admission refused")                                               \
    X(handshakes_failed, "handshakes that broke off: not CURVE, wrong key, timed out")                       \
    X(hello_timeouts, "links that were never answered")

struct transport_counters {
#define TRANSPORT_COUNTER_FIELD(name, text) uint64_t name;
    TRANSPORT_COUNTERS(TRANSPORT_COUNTER_FIELD)
#undef TRANSPORT_COUNTER_FIELD
};
/* A copy; from any thread. */
void transport_counters_read(const struct transport *transport, struct transport_counters *counters);

#endif
