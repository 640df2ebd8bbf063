/*
 * What a device can do, as its canary measured it, and as it is advertised. Pure.
 *
 * A measurement beside other work says too little now and then, and one on a cool machine too much. So what is advertised
 * falls to a measurement that is more than a tenth below it at once, and rises only when two in a row were more than a tenth above, to the
 * lower of the two. In between nothing changes.
 */
#ifndef NODE_SCORE_H
#define NODE_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#define SCORE_DRIFT_PERCENT 10

struct score {
    uint32_t mflops;      /* float32 operations, by our own matmul */
    uint32_t memory_mbps; /* read and written */
    uint32_t link_mbps;   /* from the host to a GPU; 0 for a CPU */
};

struct scores {
    struct score advertised; /* all zero: nothing was measured yet */
    struct score before;     /* the last measurement */
    int64_t measured_at_s;   /* wall; 0 = never */
};

/* Returns whether what is advertised changed. */
bool score_take(struct scores *scores, const struct score *measured, int64_t wall_s);

/* Whether the last measurement is what is advertised, but for a tenth; if not, another one soon tells which is right. */
bool score_settled(const struct scores *scores);

#endif
