/*
 * What a node that drains still keeps when everything else is done: finished jobs. It leaves, for good as far as it knows, so those
 * that fewer than two others would keep then are handed to others first (node/keep.h). Of jobs that it keeps alone, one more is
 * enough. Others that keep a job and are down count, those that have left don't.
 */
#ifndef NODE_HANDOVER_H
#define NODE_HANDOVER_H

#include "node/node.h"

/* Goes on with it; true once nothing is left to hand over, or nobody is there to take it. Call it again soon else. */
bool handover_step(struct node *node, int64_t now_ms);
/* How many jobs are left, once it has begun. */
uint32_t handover_left(const struct node *node);
void handover_close(struct node *node);

#endif
