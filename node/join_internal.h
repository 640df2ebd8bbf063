/*
 * What the two ends of the socketpair between a node and its join child agree on, and the kinds of frames on
 * the join socket.
 *
 * Each message on the socketpair (SOCK_SEQPACKET) is a byte of enum link_kind and a body:
 *
 *     LINK_READY    child to node   u16 port: the socket is bound
 *     LINK_FAILED   child to node   text: why it can't be bound; the child ends
 *     LINK_REQUEST  child to node   u32 number, 32 CURVE key of the connection, frame
 *     LINK_COUNTS   child to node   u64 each: connections, handshakes over, dropped for rate, for shape,
 * sheds LINK_ANSWER   node to child   u32 number, frame; without a frame, no answer is sent
 *
 * The child waits for the answer of one request before it hands over the next, LINK_ANSWER_MS at most.
 */
#ifndef NODE_JOIN_INTERNAL_H
#define NODE_JOIN_INTERNAL_H

#include "node/join.h"

enum link_kind {
    LINK_READY = 'R',
    LINK_FAILED = 'F',
    LINK_REQUEST = 'Q',
    LINK_COUNTS = 'C',
    LINK_ANSWER = 'A',
};

#define LINK_FD 3
#define LINK_COUNTS_COUNT 5
#define LINK_BYTES_MAX (1u + 4u + 32u + JOIN_FRAME_BYTES_MAX)
#define LINK_ANSWER_MS 5000

enum join_kind {
    JOIN_KIND_JOIN = 1,
    JOIN_KIND_HELLO = 2,
    JOIN_KIND_PRESENT = 3,
    JOIN_KIND_RENEW = 4,
    JOIN_KIND_JOINED = 129,
    JOIN_KIND_NONCE = 130,
    JOIN_KIND_ADMITTED = 131,
    JOIN_KIND_RENEWED = 132,
    JOIN_KIND_REFUSED = 255,
};

#define JOIN_HEAD_BYTES 2u

/* How many a second, with a burst of twice as many. `milli` is thousandths of one. */
struct join_bucket {
    int64_t milli;
    int64_t at_ms;
};

static inline bool join_bucket_take(struct join_bucket *bucket, int64_t per_s, int64_t now_ms)
{
    const int64_t full = 2 * per_s * 1000;
    if (bucket->at_ms == 0 || now_ms - bucket->at_ms > 2000)
        bucket->milli = full; /* milliseconds times a rate per second are thousandths */
    else
        bucket->milli += (now_ms - bucket->at_ms) * per_s;
    if (bucket->milli > full)
        bucket->milli = full;
    bucket->at_ms = now_ms;
    if (bucket->milli < 1000)
        return false;
    bucket->milli -= 1000;
    return true;
}

#endif
