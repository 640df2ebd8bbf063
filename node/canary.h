/*
 * Measures this node's devices: `weir-worker --canary DEVICE` at the start, once a day, and soon after a change, one at a
 * time, while the device has no work. All cores count as the one that is measured. What comes of it is advertised by score.h.
 *
 * On the loop's thread.
 */
#ifndef NODE_CANARY_H
#define NODE_CANARY_H

#include "node/loop.h"
#include "node/score.h"

struct canary;

typedef void canary_measured(void *context, uint32_t index, const struct score *score);

/* `path` of weir-worker is borrowed. */
struct canary *canary_open(struct loop *loop, const char *path, canary_measured *measured, void *context);
void canary_close(struct canary *canary);
bool canary_busy(const struct canary *canary);
/* Starts a measurement; `index` comes back with it. One that fails, or takes over a minute, is logged and comes back with
 * all zero. */
void canary_start(struct canary *canary, const char *device, uint32_t index);
int64_t canary_turn(struct canary *canary, int64_t now_ms);

#endif
