/*
 * Join sockets: where strangers ask to become members, and where members show certificates that a peer has
 * not heard of.
 *
 * The socket is open to the world and libzmq can't bound what the world sends, so it lives in a child process
 * (node/join_child.c) with its own ZeroMQ context, no key but join.key, no access to files, and small limits
 * on memory and descriptors. The child hands one bounded request at a time, and only so many a second, to the
 * node through a socketpair, and sends back what the node answers. It may die or be killed at any time; it is
 * started again, with a growing pause.
 *
 * What is spoken on it. One message = one frame:
 *
 *      1  version, 1
 *      1  kind
 *      n  body
 *
 *     guest -> member                                     member -> guest
 *     JOIN    1  join request (crypto/join.h)             JOINED   129  u16 n, join response of n bytes,
 * peers HELLO   2  (nothing)                                NONCE    130  32 nonce, 32 the member's node key
 *     PRESENT 3  32 nonce, presentation (crypto/join.h)   ADMITTED 131  peers
 *     RENEW   4  32 nonce, presentation                   RENEWED  132  certificate chain
 *                                                         REFUSED  255  u8 reason, i64 when (s since 1970; 0:
 * none)
 *
 * Peers are a list as in node/federation.h. CURVE with the member's pinned join key runs below it all; the
 * guest uses its own CURVE key, and it must be the one that its request or certificate names. A nonce is good
 * for JOIN_NONCE_MS, for the connection's CURVE key only, and for one presentation that succeeds.
 *
 * Guests repeat a request that gets no answer: all of them may be repeated.
 */
#ifndef NODE_JOIN_H
#define NODE_JOIN_H

#include "node/federation.h"
#include "node/invite.h"
#include "node/loop.h"

#define JOIN_VERSION 1u
#define JOIN_FRAME_BYTES_MAX (16u * 1024u) /* either way; a reply carries some member records */
#define JOIN_REQUEST_FRAME_BYTES_MAX 4096u /* the longest request, a presentation, has 1,401 bytes */
#define JOIN_NONCE_MS 30000
#define JOIN_ADDRESS_MS 10000 /* a guest tries each address for so long */
#define JOIN_RESEND_MS 2000
#define JOIN_CALLS_MAX 16 /* calls of a node to others' join sockets at a time; more are refused */
#define JOIN_ENDPOINT_BYTES_MAX 320u

enum join_refusal {
    JOIN_REFUSED_NOT = 0,
    JOIN_REFUSED_BUSY = 1,       /* come back in a moment */
    JOIN_REFUSED_MALFORMED = 2,  /* not a request that this version knows */
    JOIN_REFUSED_FEDERATION = 3, /* another federation's */
    JOIN_REFUSED_INVITER = 4,    /* the token names another inviter */
    JOIN_REFUSED_SIGNATURE = 5,  /* signature, or a CURVE key that is not the connection's */
    JOIN_REFUSED_TOKEN = 6,      /* no such token */
    JOIN_REFUSED_EXPIRED = 7,    /* token or certificate; when */
    JOIN_REFUSED_USED = 8,       /* by another node; when */
    JOIN_REFUSED_CANCELLED = 9,
    JOIN_REFUSED_MISMATCH = 10, /* a user's token for a node, or the other way round */
    JOIN_REFUSED_REVOKED = 11,
    JOIN_REFUSED_NONCE = 12, /* unknown, used or too old: say HELLO again */
    JOIN_REFUSED_CHAIN = 13, /* the certificate chain does not verify */
    JOIN_REFUSED_RIGHT = 14, /* this member may not issue what is asked for */
    JOIN_REFUSED_LOCAL = 15, /* something is wrong on the member's side; see its log */
};
const char *join_refusal_name(enum join_refusal refusal); /* "expired"; static */

/* ---- The member's side */

struct join_server;

struct join_options {
    struct federation *federation; /* borrowed until join_server_close */
    struct invites *invites;       /* likewise */
    struct store *store;           /* likewise: batches are opened on it */
    const char *bind;              /* an address without port: "0.0.0.0", "127.0.0.1", "::" */
    uint16_t port;                 /* 0 = any free one */
    const char *program;           /* what to run as the child; NULL = this program. Called with
                                      "join-child" ENDPOINT KEYS_FOLDER: main() must pass that to join_child_main */
};

struct join_callbacks {
    /* Make this batch durable and then call join_server_committed, from the loop and not from inside this
     * call. The batch is the callee's. */
    void (*commit)(void *context, struct store_batch *batch);
    /* A node showed a chain that verifies, has RIGHT_NODE and is not revoked, or was just given one (durably). */
    void (*admit)(void *context, const struct certificate *leaf);
    /* Write a list of signed MEMBER records, our own first (federation_peers_begin, _append); how many bytes.
     */
    size_t (*peers)(void *context, uint8_t *out, size_t capacity);
    void *context;
};

/* Starts the child and waits (5 s at most) until its socket is bound. On failure false, and `error` is one
 * line: port in use, no such address, ... */
bool join_server_open(struct loop *loop, const struct join_options *options,
                      const struct join_callbacks *callbacks, struct join_server **server, char *error,
                      size_t error_bytes);
/* Ends the child and waits for it; NULL is allowed. After loop_run has returned, as for the client. */
void join_server_close(struct join_server *server);
/* The outcome of the one batch that was handed to `commit`. */
void join_server_committed(struct join_server *server, enum store_error error);
uint16_t join_server_port(const struct join_server *server);
int join_server_child(const struct join_server *server); /* its process id; 0 while there is none */

/* What happened, since the server was opened. Names are stable. */
#define JOIN_COUNTERS(X)                                                                                     \
    X(requests, "handed over by the child")                                                                  \
    X(joined, "certificates given, repeats included")                                                        \
    X(admitted, "presentations accepted")                                                                    \
    X(renewed, "certificates renewed")                                                                       \
    X(refused, "requests answered REFUSED")                                                                  \
    X(restarts, "of the child")                                                                              \
    X(connections, "handshakes accepted")                                                                    \
    X(handshakes_over, "handshakes turned away because there were too many")                                 \
    X(dropped_rate, "requests dropped because there were too many")                                          \
    X(dropped_shape, "messages of several frames, or too short or long")                                     \
    X(sheds, "all connections closed because descriptors ran low")

struct join_counters {
#define X(name, text) uint64_t name;
    JOIN_COUNTERS(X)
#undef X
};
void join_server_counters(const struct join_server *server, struct join_counters *counters);

/* The hidden subcommand: `weir join-child ENDPOINT KEYS_FOLDER`, with its end of the socketpair as descriptor
 * 3. Returns the exit code. */
#define JOIN_CHILD_COMMAND "join-child"
int join_child_main(int argc, char **argv);

/* ---- The guest's side */

enum join_error {
    JOIN_OK = 0,
    JOIN_UNREACHABLE, /* no address answered */
    JOIN_REFUSED,     /* see refusal and when_s */
    JOIN_BAD_ANSWER,  /* an answer that does not verify; see crypto */
    JOIN_BUSY,        /* JOIN_CALLS_MAX calls are under way */
    JOIN_SYSTEM,      /* no memory or descriptors */
};

struct join_result {
    struct public_key member; /* who was asked */
    enum join_error error;
    enum join_refusal refusal;
    int64_t when_s;
    enum crypto_error crypto;
    uint8_t address; /* index of the one that answered */
    const uint8_t
        *bytes; /* JOINED: the join response; RENEWED: the chain; borrowed until the callback returns */
    size_t count;
    const uint8_t *peers; /* JOINED, ADMITTED: a list, may be empty; borrowed likewise */
    size_t peers_count;
};

/* Asks with a token, and waits: for `weir join`. `progress` (may be NULL) is called when an address is tried,
 * and when it is given up. JOIN_OK: `response` is verified, `frame` (JOIN_FRAME_BYTES_MAX) holds what it and
 * `result` point into. */
typedef void join_progress(void *context, const char *address, bool failed);
enum join_error join_ask(const struct token *token, const struct identity *identity, const char *name,
                         int64_t wall_s, join_progress *progress, void *context, uint8_t *frame,
                         struct join_response *response, struct join_result *result);

/* Calls of a running node, on its loop and in its one ZeroMQ context. */
struct join_client;
typedef void join_called(void *context, const struct join_result *result);

bool join_client_open(struct loop *loop, void *zmq, struct federation *federation,
                      struct join_client **client);
void join_client_close(struct join_client *client); /* calls under way are given up, without their callback */
/* Shows our certificate to this member. The callback comes later from the loop, exactly once if this returns
 * true; false when JOIN_CALLS_MAX are under way. The contact is copied. */
bool join_present(struct join_client *client, const struct federation_contact *contact, join_called *called,
                  void *context);
/* Asks this member for a renewed certificate. On JOIN_OK the chain in result->bytes has been adopted
 * (federation_adopt). */
bool join_renew(struct join_client *client, const struct federation_contact *contact, join_called *called,
                void *context);

#endif
