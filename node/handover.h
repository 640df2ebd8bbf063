/*
 * Finished jobs that too few nodes keep are handed to others (node/keep.h), so that nodes may go one after the other, in whatever way.
 *
 * Each minute, and soon after a member was revoked, a node looks at the finished jobs that it keeps with others: where fewer than two
 * others still do, the first of those that are left has more take them, a few at a time. Who was revoked
 * keeps nothing; who is down or has left (as a node does that is restarted) counts for MESH_REPLACE_MS.
 *
 * A node that drains leaves, for good as far as it knows: when everything else is done it hands over what fewer than two others would
 * keep then, those that have left not counted, and what it keeps alone to one.
 */
#ifndef NODE_HANDOVER_H
#define NODE_HANDOVER_H

#include "node/node.h"

/* At the end of a drain: goes on with it; true once nothing is left to hand over, or nobody is there to take it. Call it again soon
 * else. */
bool handover_step(struct node *node);
/* How many jobs are left of what is being handed over now. */
uint32_t handover_left(const struct node *node);
/* Somebody was revoked. */
void handover_look_soon(struct node *node);
int64_t handover_turn(struct node *node, int64_t now_ms);
void handover_close(struct node *node);

#endif
