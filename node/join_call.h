/*
 * One call to a member's join socket: dials each of its addresses in turn, says HELLO first if a nonce is
 * needed, repeats what gets no answer, and ends with a result.
 *
 *     join_call_open(zmq, identity, contact, kind, &call);
 *     while (!join_call_step(call, now_ms, &result)) ...  // again when its socket is ready, or 100 ms later
 *     join_call_close(call);
 */
#ifndef NODE_JOIN_CALL_H
#define NODE_JOIN_CALL_H

#include "node/join_internal.h"

struct join_call;

/* `body` of a JOIN (copied); NULL otherwise. `federation` is needed for PRESENT and RENEW, and borrowed.
 * False when the system refuses memory or a socket. */
struct join_call_options {
    void *zmq;
    const struct identity *identity; /* borrowed */
    const struct federation *federation;
    const struct federation_contact *contact; /* copied */
    enum join_kind kind;
    const uint8_t *body;
    size_t count;
    join_progress *progress;
    void *context;
};
bool join_call_open(const struct join_call_options *options, struct join_call **call);
void join_call_close(struct join_call *call);

/* True when it ended; `result` then points into the call. */
bool join_call_step(struct join_call *call, int64_t now_ms, struct join_result *result);
void *join_call_socket(const struct join_call *call); /* the present one; changes with the address */

#endif
