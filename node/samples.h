/*
 * The latest measurements of one thing, and their quantiles. Older ones are forgotten, so that a quantile tells of now
 * and not of the whole life of a link.
 *
 *     struct samples *round_trips = calloc(1, sizeof *round_trips);
 *     samples_add(round_trips, 812);
 *     samples_quantile(round_trips, 990); // 0 as long as nothing was added
 */
#ifndef NODE_SAMPLES_H
#define NODE_SAMPLES_H

#include <stdint.h>

/* At one ping a second, two minutes of an idle link. The p99 of so many is the second largest. */
#define SAMPLES_MAX 128

struct samples {
    uint32_t count; /* of those kept */
    uint32_t next;
    uint32_t value[SAMPLES_MAX];
};

void samples_add(struct samples *samples, uint32_t value);
/* The smallest kept value that so many of a thousand do not exceed. O(SAMPLES_MAX log SAMPLES_MAX). */
uint32_t samples_quantile(const struct samples *samples, uint32_t permille);

#endif
