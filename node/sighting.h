/*
 * What was seen on a GPU, and whether that is its owner. Pure; node/watch.c brings what the watcher tells.
 *
 *     a process that is not ours nor listed in work.owner_ignore               its owner's, at once
 *     memory in use while nothing of ours is there                             its owner's, if seen twice running
 *     computing while nothing of ours ran for 2 s                              its owner's, if seen twice running
 *
 * The last two are for programs whose processes the driver doesn't show, in another container say. A process of which this
 * machine knows nothing (no /proc entry) is taken for ours while a worker of ours is there, since ours may be shown under
 * another number too.
 */
#ifndef NODE_SIGHTING_H
#define NODE_SIGHTING_H

#include "node/owner.h"

#include <stddef.h>

#define SIGHTING_PROCESSES_MAX 64
#define SIGHTING_MEMORY_BYTES (UINT64_C(512) << 20) /* that much may be in use on a device that nobody uses */
#define SIGHTING_BUSY_PERCENT 10
#define SIGHTING_REST_MS 2000 /* after work of ours its own utilisation is still told */
#define SIGHTING_WHO_BYTES 96

struct sighting_process {
    uint32_t pid;
    uint64_t memory_bytes; /* UINT64_MAX = not told */
    char name[32];         /* "" = unknown */
    bool ours, known;
};

struct sighting {
    uint64_t memory_total, memory_used;
    int32_t utilisation_percent; /* -1 = not told */
    uint32_t xid;
    uint32_t process_count;
    struct sighting_process process[SIGHTING_PROCESSES_MAX];
};

/* What was made of one device's sightings so far. */
struct witness {
    uint32_t memory_seen, busy_seen; /* how often in a row */
    int64_t worked_at_ms;            /* when work of ours was last there; 0 = never */
    enum owner_cause cause;          /* as of the latest sighting */
    char who[SIGHTING_WHO_BYTES];    /* "python3 (4711)" */
    bool memory_free;                /* and nothing of ours is in it */
};

/* `present`: a worker of ours has the device, or had it and its memory isn't free yet; `working`: with work in hand. `ignore`: names, separated by commas. */
void witness_see(struct witness *witness, const struct sighting *sighting, bool present, bool working,
                 const char *ignore, int64_t now_ms);

#endif
