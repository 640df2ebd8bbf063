/*
 * What goes wrong in a run, as a list that can be drawn from a seed (plan.c), read and written (script.c), struck
 * (faults.c) and made smaller (minimise.c).
 *
 * A fault says when, what, whom, for how long and how much; what else there is to choose while it is in force it
 * draws from its own number. So a list tells a run completely, and a fault can be taken out of it without changing
 * what the others mean.
 */
#ifndef NODE_SIM_FAULTS_H
#define NODE_SIM_FAULTS_H

#include "node/sim/sim.h"

/* Faults in one list. */
#define SIM_FAULTS_MAX 100000

/* kind, name, counter in struct sim_counters, shortest and longest duration in ms, least and most size */
#define SIM_FAULT_KINDS(X)                                                                                   \
    X(CRASH, "crash", crashes, 100, 90000, 0,                                                                \
      SIM_BOUNDARIES - 1) /* size: a boundary, see sim.h; who comes to it first dies */                      \
    X(SILENT, "lose-machine", silent_deaths, 100, 90000, 0, 0)                                               \
    X(LOSE, "lose-for-good", losses, 0, 0, 0, 1) /* size 1: silently */                                      \
    X(SITE, "lose-site", sites_lost, 1000, 90000, 0, 0)                                                      \
    X(RESTART_ALL, "restart-all", restarts_of_all, 100, 15000, 0, 0)                                         \
    X(PAUSE, "pause", pauses, 100, 120000, 0, 0)                                                             \
    X(PARTITION, "partition", partitions, 2000, 60000, 2, 3) /* size: into so many groups */                 \
    X(TANGLE, "tangle", tangles, 2000, 60000, 50, 400)       /* size: per mille of pairs cut */              \
    X(ONE_WAY, "one-way", one_ways, 500, 40000, 0, 1)        /* size 0: mute, 1: deaf */                     \
    X(FLAP, "flap", flaps, 2000, 40000, 0, 0)                                                                \
    X(DELAY, "delay", delay_spikes, 1000, 20000, 50, 3000)        /* size: ms on each message */             \
    X(NARROW, "narrow", bandwidth_caps, 2000, 40000, 1000, 30000) /* size: bytes per second */               \
    X(DRIFT, "drift", clock_drifts, 0, 0, -100000, 100000)        /* size: parts per million */              \
    X(WALL, "wall-clock", wall_jumps, 0, 0, -3600000, 3600000)    /* size: ms */                             \
    X(RESET, "reset", link_resets, 0, 0, 1, 5)                    /* size: links */                          \
    X(GARBAGE, "garbage", shut_outs, 1000, 60000, 0, 0)                                                      \
    X(REPLAY, "replay", replays, 0, 0, 1, SIM_CAPTURED) /* size: messages */                                 \
    X(DRAIN, "drain", drains, 10000, 60000, 0, 0)                                                            \
    X(LEAVE, "leave", leaves, 2000, 5000, 0, 0)                                                              \
    X(OWNER, "claim", owner_claims, 1000, 60000, 0, 1) /* size 0: all, 1: half */                            \
    X(REVOKE, "revoke", revocations, 2000, 5000, 0, 0)                                                       \
    X(CANCEL, "cancel", cancelled, 0, 0, 0, 0)                                                               \
    X(CLONE, "clone", clones, 5000, 60000, 0, 0)                                                             \
    X(LIAR, "liar", liars, 10000, 60000, 1, 1000) /* size: slots it says it has */                           \
    X(BAD_DEVICE, "bad-device", bad_devices, 5000, 60000, 0, 0)                                              \
    X(SLOW_DEVICE, "slow-device", slow_devices, 5000, 60000, 2, 10) /* size: times slower */                 \
    X(STUCK_DEVICE, "stuck-device", stuck_devices, 5000, 60000, 0, 0)                                        \
    X(GARBLED, "garbled-results", garbled_devices, 5000, 60000, 0, 0)                                        \
    X(WRONG, "wrong-results", lying_sites, 20000, 240000, 20, 1000) /* size: per mille of shards */          \
    X(SLOW_DISK, "slow-disk", slow_disks, 5000, 60000, 20, 500)     /* size: ms per sync at most */          \
    X(FULL_DISK, "full-disk", full_disks, 2000, 40000, 0, 0)                                                 \
    X(FAILED_SYNC, "failed-sync", failed_syncs, 500, 15000, 0, 0)                                            \
    X(ROT, "rot", rotten_disks, 500, 15000, 10, 500) /* size: per mille of what is read */                   \
    X(WIPED, "wiped-disk", wiped_disks, 500, 15000, 0, 0)                                                    \
    X(ROLLBACK, "rollback", rollbacks, 5000, 60000, 0, 0)

enum sim_fault_kind {
#define SIM_FAULT_ENUM(kind, ...) SIM_FAULT_##kind,
    SIM_FAULT_KINDS(SIM_FAULT_ENUM)
#undef SIM_FAULT_ENUM
        SIM_FAULT_KIND_COUNT
};

struct sim_fault {
    int64_t at_us;
    enum sim_fault_kind kind;
    uint32_t node;  /* whom; if it doesn't run then, the next one that does */
    int64_t for_us; /* 0: a moment, or for good */
    int32_t size;   /* in the kind's own unit */
    uint64_t draw;  /* for what else there is to choose */
};

/* A run's network and its faults, by time. */
struct sim_plan {
    bool adversarial;
    bool through_one; /* everybody joins through the first node, at once */
    uint32_t loss_permille;
    uint32_t double_permille;
    uint32_t reorder_permille;
    uint32_t corrupt_permille;
    uint32_t count;
    struct sim_fault *fault;
};

/* What a kind is called in scripts, and its bounds. */
struct sim_fault_kind_info {
    const char *name;
    int64_t least_us;
    int64_t most_us;
    int32_t size_least;
    int32_t size_most;
};
const struct sim_fault_kind_info *sim_fault_info(enum sim_fault_kind kind);

/* plan.c: draws what the options' profile and seed say. Owned by the caller: sim_plan_free. */
struct sim_plan *sim_plan_draw(const struct sim_options *options, int64_t heal_at_us);
struct sim_plan *sim_plan_copy(const struct sim_plan *plan);
void sim_plan_free(struct sim_plan *plan); /* NULL is fine */

/*
 * script.c: a plan and the options that make it a run, in words. sim_script_read sets options->seed, nodes, minutes
 * and jobs; NULL on a mistake, which `failure` then tells with file and line.
 */
void sim_script_write(FILE *out, const struct sim_options *options, const struct sim_plan *plan);
struct sim_plan *sim_script_read(const char *path, struct sim_options *options, struct sim_result *failure);

/*
 * minimise.c: makes a failing run's plan as small as it gets while the same claim breaks (delta debugging, Zeller and
 * Hildebrandt 2002), with every try in a process of its own, for an assertion of the core ends a process. Returns the
 * smallest plan, and in `options` its number of jobs; NULL if the run doesn't fail.
 */
struct sim_plan *sim_minimise(struct sim_options *options, const struct sim_plan *plan, FILE *progress);

#endif
