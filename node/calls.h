/*
 * Calls between nodes: one asks (ASK), the other answers, once or several times (ANSWER), in JSON, as a client and its node
 * do over the local API. docs/protocol.md lists which there are. Those of clients are passed on by relay.c; here is what
 * answers calls of other nodes, and single questions of our own.
 */
#ifndef NODE_CALLS_H
#define NODE_CALLS_H

#include "node/node.h"

/* A number that no other request of this process bears, nor, but for chance, one of its earlier lives. */
uint64_t calls_request(struct node *node);
/* Sends an ASK. False: it is too long (WIRE_ASK_BYTES_MAX), or there is no way to that node; it was not sent. */
bool calls_send(struct node *node, const struct mesh_id *to, uint64_t request, const struct json_t *body);

/*
 * `answer` is the last that came, borrowed; NULL: none did in time. One that begins with {"ok": false} is a refusal. Not
 * called any more once the node closes.
 */
typedef void calls_answered(struct node *node, void *context, const struct json_t *answer);
/* Asks that node alone. False: the question was not sent, and `answered` will not be called. */
bool calls_ask(struct node *node, const struct mesh_id *to, const struct json_t *body, int64_t wait_ms,
               calls_answered *answered, void *context);

/* False: that node is known to be of a version that has no calls. */
bool calls_known(const struct node *node, const struct mesh_id *id);

/* Which node makes the call, whatever it says itself; false: it is a client's of ours. */
bool calls_asker(const struct api_call *call, struct mesh_id *asker);

/* ASK, ANSWER, UNASK. */
void calls_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame);
int64_t calls_turn(struct node *node, int64_t now_ms);
/* Clients' calls are closed before. */
void calls_close(struct node *node);

#endif
