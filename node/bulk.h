/*
 * Blobs between nodes: a server thread that gives out what this node's store holds, and a fetch thread that
 * gets what it lacks. Nothing that was fetched is used before it has been verified.
 *
 *     bulk_open(&options, &failure, &bulk);
 *     bulk_peer_set(bulk, &id, &curve_key, "host:7701");
 *     bulk_fetch(bulk, &request, ticket);      // later, on the loop: on_done(context, &done)
 *
 * A whole blob is fetched by its chunk list, which must hash to the blob's id, and then chunk by chunk, each
 * checked against the list before it is kept; it ends in the store, committed, and pinned if asked. All holders
 * that are named are asked, each for so much as it answers. What has come of a blob over STORE_SMALL_BYTES is on
 * disk: if the fetch fails, or this process dies, the next fetch of that blob goes on from there. A range
 * with a digest is fetched as it is and checked as a whole; a range without one is cut from chunks that are
 * checked one by one. A range ends in memory.
 *
 * The receiver sets the pace: BULK_CREDITS requests of up to 1 MiB are unanswered per holder at first, up to
 * BULK_CREDITS_MAX if that makes it faster, and BULK_CREDITS_ALL for all fetches together. The server gives each
 * peer its turn and holds BULK_ANSWERS_MAX answers in memory at most; a peer that does not take its answers holds
 * up no other. Both threads stand back behind the loop's when the processor is short, and the packets behind those
 * of the control socket where the network tells them apart.
 *
 * A holder that does not answer for BULK_TIMEOUT_MS is left for the others; if something of a whole blob had come, it is
 * tried again for BULK_PATIENCE_MS. Whoever serves wrong bytes is left for the other holders, counted, told of
 * (on_liar), and for BULK_LIAR_MS asked only after all others. Requests for the same whole blob, or for the same range
 * and digest, are joined into one fetch, which asks the holders that any of them named and completes for each ticket.
 *
 * Admission on the server is that of the control socket: at the handshake and for every message. Requests
 * over WIRE_BULK_REQUEST_BYTES_MAX end the connection, multipart messages and garbage shut the key out for a
 * while.
 *
 * bulk_open, bulk_close and bulk_fetch belong to the loop's thread; the others may be called from any.
 */
#ifndef NODE_BULK_H
#define NODE_BULK_H

#include "crypto/digest.h"
#include "node/admission.h"
#include "node/loop.h"
#include "node/transport.h"
#include "node/zap.h"
#include "store/store.h"

#define BULK_HOLDERS_MAX 4u
#define BULK_QUEUE_MAX 4096u /* tickets open at a time; then BULK_BUSY */
#define BULK_ACTIVE_MAX 16u  /* fetches in progress; the others wait in order */
#define BULK_CREDITS 4u      /* requests unanswered per holder and fetch, at first */
#define BULK_CREDITS_MAX 8u  /* what a death of either end can cost: 8 MiB */
#define BULK_CREDITS_ALL                                                                                     \
    32u                  /* of all fetches, and one more for each holder: what can wait in memory for us */
#define BULK_FASTER 1.25 /* a round with more credits must be so much faster to be worth them */
#define BULK_ANSWERS_MAX 32u   /* of 1 MiB, read and not yet sent */
#define BULK_ANSWERS_EACH 16u  /* of which so many are for one peer */
#define BULK_PARKED_MAX 128u   /* requests of one peer that wait; what comes then is dropped, and counted */
#define BULK_ASKERS_MAX 256u   /* peers with requests under way; likewise */
#define BULK_TIMEOUT_MS 5000   /* without any answer from a holder, dialling included */
#define BULK_AGAIN_MS 1000     /* until one that was silent is tried again */
#define BULK_PATIENCE_MS 60000 /* since the latest piece came: as long as a node takes to be restarted */
#define BULK_HEDGE_MS                                                                                        \
    1000 /* a piece that one holder owes for longer is asked of another, if that has nothing to do */
#define BULK_NICE 5 /* of both threads: the loop gets three times their share of a busy processor */
#define BULK_LIAR_MS (10 * 60 * 1000)
#define BULK_RANGE_BYTES_MAX (UINT64_C(256) * 1024 * 1024) /* a range ends in memory */
#define BULK_LINKS_MAX 64u                                 /* connections kept open to holders */

enum bulk_error {
    BULK_OK = 0,
    BULK_ABSENT,      /* GONE: every holder said that it does not have it, or not that range */
    BULK_UNREACHABLE, /* BUSY: no holder is known, or one did not answer and the others were of no use */
    BULK_CORRUPT,     /* PEER: a holder served bytes that do not match the digest, and no other has it */
    BULK_STORE,       /* LOCAL: the own store refused; see `store` */
    BULK_MEMORY,      /* LOCAL */
    BULK_TOO_LARGE,   /* LOCAL: a range over BULK_RANGE_BYTES_MAX */
    BULK_BUSY,        /* BUSY: BULK_QUEUE_MAX tickets are open; nothing was queued */
    BULK_CANCELLED,   /* the node is closing */
    BULK_ERRORS
};
const char *bulk_error_text(enum bulk_error error);

struct bulk_done {
    uint64_t ticket;
    enum bulk_error error;
    enum store_error store; /* with BULK_STORE */
    /* A range: its bytes, the receiver's to free(). A whole blob: NULL; it is in the store, `count` bytes
     * long. */
    uint8_t *bytes;
    uint64_t count;
    struct mesh_id holder; /* who served the last of it; zeros = it was here */
};

struct bulk_request {
    struct mesh_id holders[BULK_HOLDERS_MAX]; /* begun with in this order */
    uint32_t holder_count;                    /* 1 to BULK_HOLDERS_MAX, asserted */
    struct digest blob;
    uint64_t offset; /* of a range; 0 with bytes 0: the whole blob */
    uint64_t bytes;
    const struct digest
        *digest;              /* blob_id of the range's bytes, or NULL: check by the blob's chunks. Copied. */
    const struct digest *pin; /* whole blobs: pinned for this owner in the same commit, or NULL. Copied. */
};

struct bulk;

struct bulk_options {
    void *zmq; /* the node's context; borrowed, as all pointers here */
    struct loop *loop;
    struct admission *admission;
    const struct zap *zap;
    struct store *store;
    const char *bind; /* as in transport_options */
    const char *bind_setting;
    struct curve_public curve;
    struct curve_secret curve_secret;
    void (*on_done)(void *context, const struct bulk_done *done); /* on the loop's thread, as all of them */
    /* A holder served bytes or a list that do not match this blob's id. May be NULL. */
    void (*on_liar)(void *context, const struct mesh_id *holder, const struct digest *blob);
    void *context;
};

enum transport_error bulk_open(const struct bulk_options *options, struct transport_failure *failure,
                               struct bulk **bulk);
/* Ends both threads. Open tickets get no on_done any more; ranges not yet handed over are freed. */
void bulk_close(struct bulk *bulk);
const char *bulk_bound(const struct bulk *bulk);

/* Where a node's bulk socket is. Unknown holders of a request are skipped. */
bool bulk_peer_set(struct bulk *bulk, const struct mesh_id *id, const struct curve_public *curve,
                   const char *address);
void bulk_peer_remove(struct bulk *bulk, const struct mesh_id *id);

/* BULK_OK: on_done will be called once with this ticket. BULK_BUSY, BULK_TOO_LARGE, BULK_MEMORY: it will not.
 */
enum bulk_error bulk_fetch(struct bulk *bulk, const struct bulk_request *request, uint64_t ticket);

/* How far the fetch of a large whole blob is. False: none is under way. */
struct bulk_progress {
    struct digest blob;
    uint64_t have_bytes;
    uint64_t total_bytes;
};
bool bulk_progress(struct bulk *bulk, const struct digest *blob, struct bulk_progress *progress);
/* A holder lied in another way: it is asked last, too. */
void bulk_mark_liar(struct bulk *bulk, const struct mesh_id *id);
/* Whether it served wrong bytes, or was marked, within BULK_LIAR_MS. */
bool bulk_is_liar(struct bulk *bulk, const struct mesh_id *id);

#define BULK_COUNTERS(X)                                                                                     \
    X(served_requests, "requests answered with data or a list")                                              \
    X(served_bytes, "bytes of blobs given out")                                                              \
    X(served_none, "requests for what this node does not have")                                              \
    X(dropped_slow, "answers dropped: the asking peer did not take them, or asked for too much at once")     \
    X(refused_multi_frame, "messages of several frames")                                                     \
    X(refused_bad_frame, "messages that are no well-formed bulk frame")                                      \
    X(refused_unadmitted, "messages from keys that are not admitted (any more)")                             \
    X(fetches, "fetches begun")                                                                              \
    X(fetches_joined, "requests that joined a fetch under way")                                              \
    X(fetched_bytes, "verified bytes received")                                                              \
    X(fetched_twice_bytes, "bytes received that had come from another holder already, or too late")          \
    X(fetch_resumed_bytes, "bytes that an interrupted fetch had left and that were not fetched again")       \
    X(fetch_timeouts, "holders left because they did not answer")                                            \
    X(fetch_corrupt, "holders left because their bytes were wrong")                                          \
    X(fetch_failures, "fetches that failed with every holder")

struct bulk_counters {
#define BULK_COUNTER_FIELD(name, text) uint64_t name;
    BULK_COUNTERS(BULK_COUNTER_FIELD)
#undef BULK_COUNTER_FIELD
};
void bulk_counters_read(const struct bulk *bulk, struct bulk_counters *counters);

#endif
