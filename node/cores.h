/*
 * How many of this machine's cores others leave free. Pure; node/devices.c reads /proc/stat.
 *
 * A node told how many cores to lend lends so many. Told nothing (work.cpu_slots = auto), it lends those that the other
 * programs of the machine do not use: the average of the last half minute, each core that they use for more than a tenth
 * counted whole. Its own work, and that of its workers, is not theirs.
 */
#ifndef NODE_CORES_H
#define NODE_CORES_H

#include <stdbool.h>
#include <stdint.h>

#define CORES_LOOK_MS 5000
#define CORES_LOOKS 6
#define CORES_SPARE_PERMILLE 100 /* of a core that others may use of one that is lent */

/* Counters that only grow, in ticks: of all programs on the cores this process may use, and of the node with its workers. */
struct cores_look {
    int64_t at_ms;
    uint64_t busy, own;
};

struct cores {
    struct cores_look look[CORES_LOOKS + 1]; /* the oldest first */
    uint32_t count;
    uint32_t others_permille; /* of a core, as of the latest look */
};

/* Takes a look; `ticks_per_s` of one core. Returns how many of `cores` others leave; all of them until half a minute is
 * known. */
uint32_t cores_see(struct cores *cores, const struct cores_look *look, uint32_t ticks_per_s, uint32_t online);

/* Reads the counters of this machine and of this process with its children. False if the system does not tell. */
bool cores_read(struct cores_look *look, uint32_t *online);

#endif
