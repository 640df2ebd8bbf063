/*
 * The deterministic simulator behind `weir sim`: many cores of mesh/ in one process, with a virtual clock,
 * network, disks and devices, faults drawn from a seed, and the protocol's invariants checked as it goes.
 *
 *     struct sim_options options = sim_options_default();
 *     options.seed = 7;
 *     struct sim_result result;
 *     if (!sim_run(&options, &result)) puts(result.failure);
 *
 * The same options give the same trace hash with every compiler and build type: there is no wall clock, no
 * thread, no order by address and no floating point in here. It runs the very code that `weir node` runs and
 * none of its sockets.
 */
#ifndef NODE_SIM_SIM_H
#define NODE_SIM_SIM_H

#include "mesh/mesh.h"

#include <stdio.h>

/* What the simulator makes happen or sees, beside the cores' own counters. A run of many seeds must see each.
 */
#define SIM_COUNTERS(X)                                                                                      \
    X(crashes)          /* processes killed; the machine answers, so links are reset */                      \
    X(boundary_crashes) /* of these, right after a save, send or effect of a chosen kind */                  \
    X(silent_deaths)    /* machines lost; nothing is reset */                                                \
    X(restarts)                                                                                              \
    X(older_programs)  /* starts as the program of the protocol's version before */                          \
    X(older_links)     /* sessions in which that version is agreed on, at one of their ends */               \
    X(losses)          /* nodes that never come back */                                                      \
    X(sites_lost)      /* all machines of a site for a while */                                              \
    X(restarts_of_all) /* every node at once */                                                              \
    X(pauses)                                                                                                \
    X(partitions)                                                                                            \
    X(tangles)  /* some pairs can't reach each other, all others can */                                      \
    X(one_ways) /* a node that hears but isn't heard, or the other way round */                              \
    X(flaps)                                                                                                 \
    X(delay_spikes)                                                                                          \
    X(bandwidth_caps)                                                                                        \
    X(clock_drifts)                                                                                          \
    X(wall_jumps)                                                                                            \
    X(link_resets)                                                                                           \
    X(shut_outs) /* a node sends garbage, and those that it reaches shut it out */                           \
    X(replays)   /* spells in which old messages come once more */                                           \
    X(clones)    /* second processes with a copied identity */                                               \
    X(liars)     /* nodes that advertise places they don't have */                                           \
    X(drains)                                                                                                \
    X(leaves)                                                                                                \
    X(owner_claims)                                                                                          \
    X(revocations)                                                                                           \
    X(cancelled)   /* cancels asked for by users */                                                          \
    X(withdrawn)   /* of them, of jobs of two copies of which nobody had been told */                        \
    X(bad_devices) /* spells in which attempts crash, hang or are returned */                                \
    X(slow_devices)                                                                                          \
    X(stuck_devices)   /* they accept and never finish */                                                    \
    X(garbled_devices) /* results come back that don't fit their kernel: the host counts a crash */          \
    X(lying_sites)     /* spells in which all devices of a site bring wrong results that fit */              \
    X(wrong_committed) /* of those: taken for right. They must never be by a quorum */                       \
    X(quarantines)     /* members caught */                                                                  \
    X(slow_disks)                                                                                            \
    X(full_disks)                                                                                            \
    X(failed_syncs)  /* an fsync failed: the node stops, and its last saves may be durable or not */         \
    X(rotten_disks)  /* bytes read at a start don't match their digest and are left out */                   \
    X(wiped_disks)   /* all state lost, the keys kept */                                                     \
    X(rollbacks)     /* an old snapshot of the disk restored */                                              \
    X(saves_lost)    /* not yet durable when the process died */                                             \
    X(saves_torn)    /* durable in part when it died */                                                      \
    X(saves_unsent)  /* durable, but the process died before it could say so */                              \
    X(saves_stalled) /* found no room, and waited */                                                         \
    X(rows_rotten)                                                                                           \
    X(jobs_forgone)        /* acknowledged, and their loss is no fault, since: */                            \
    X(forgone_single)      /* the disk of their only copy was lost or rolled back */                         \
    X(forgone_minority)    /* too few of their journal's nodes are left */                                   \
    X(forgone_wiped)       /* a disk of their journal was wiped, */                                          \
    X(forgone_rolled_back) /* or replaced by an old copy of itself, */                                       \
    X(forgone_rotten)      /* or lost a journal to rot, */                                                   \
    X(forgone_cloned)      /* or another process spoke in its node's name */                                 \
    X(forgone_one_disk)    /* of these: only one of three disks or more had forgotten anything */            \
    X(promises_unheard)    /* by a member of which the journal's first entry had not come */                 \
    X(promises)            /* votes made durable */                                                          \
    X(votes_refused)                                                                                         \
    X(tails_cut)         /* of a log, by a later home's entries */                                           \
    X(logs_sent)         /* stretches of a journal read from a disk for a member */                          \
    X(logs_cut_short)    /* of them: more than is sent at a time */                                          \
    X(journals_restored) /* at a start */                                                                    \
    X(journals_over)                                                                                         \
    X(results_thrown)    /* acknowledged and not committed: their bundle was forgotten */                    \
    X(takeovers_refused) /* the new home had no room, and tried again */                                     \
    X(messages)                                                                                              \
    X(messages_lost)                                                                                         \
    X(messages_doubled)                                                                                      \
    X(messages_reordered) /* held up, so that later ones overtake them */                                    \
    X(messages_corrupted)                                                                                    \
    X(messages_overflowed) /* found the queue to their peer full */                                          \
    X(messages_replayed)                                                                                     \
    X(messages_refused) /* the receiver hadn't admitted the sender, or had barred it */                      \
    X(jobs_accepted)                                                                                         \
    X(jobs_refused)                                                                                          \
    X(jobs_done)                                                                                             \
    X(jobs_failed)                                                                                           \
    X(jobs_cancelled)                                                                                        \
    X(jobs_restored)                                                                                         \
    X(attempts)                                                                                              \
    X(stops)                                                                                                 \
    X(steps)

/*
 * Where a process may die within a step's output: once the saves are under way, once they are durable and nothing
 * has been let go, and after each kind of message and effect. Zero is none of these: it dies between two steps.
 */
#define SIM_BOUNDARY_SAVES 1
#define SIM_BOUNDARY_DURABLE 2
#define SIM_BOUNDARY_SEND 2                                              /* plus enum mesh_message_kind */
#define SIM_BOUNDARY_EFFECT (SIM_BOUNDARY_SEND + MESH_MESSAGE_KINDS - 1) /* plus enum mesh_effect_kind */
#define SIM_BOUNDARIES (SIM_BOUNDARY_EFFECT + MESH_DRAINED + 1)

/* Old messages kept to be replayed. */
#define SIM_CAPTURED 64

struct sim_counters {
#define SIM_COUNTER_FIELD(name) uint64_t name;
    SIM_COUNTERS(SIM_COUNTER_FIELD)
#undef SIM_COUNTER_FIELD
};

/* What must hold. The sentence for each is in check.c; the self-test shows that each can be found broken. */
enum sim_claim {
    SIM_ACKED_IS_DURABLE = 1,
    SIM_COMMIT_IS_FINAL,
    SIM_EPOCHS_GROW,
    SIM_SLOTS_HOLD,
    SIM_SHARDS_ADD_UP,
    SIM_ORIGIN_ADVANCES,
    SIM_DOWN_STAYS_DOWN,
    SIM_BOUNDS_HOLD,
    SIM_HANDLES_RETURN,
    SIM_ANSWERS_FIT,
    SIM_VIEWS_AGREE,
    SIM_NOBODY_FALSELY_DOWN,
    SIM_JOBS_FINISH,
    SIM_NO_IDLE_DEVICE,
    SIM_RECORDS_KEPT,
    SIM_NEWS_SPREADS,
    SIM_OWNERS_LIVE,
    SIM_PROMISES_HOLD,
    SIM_LEASES_HOLD,
    SIM_WORDS_COUNT,
    SIM_WAKES_IN_TIME,
    SIM_COUNTERS_GROW,
    SIM_WRONG_IS_CAUGHT,
    SIM_QUIET_AGAIN,
    SIM_STORY_HOLDS, /* a scenario's expectation */
    SIM_CLAIMS,
};

/* Deliberately broken hosts and checker inputs: each must be caught by its claim. See tests/sim/selftest.c.
 */
enum sim_plant {
    SIM_PLANT_NONE = 0,
    SIM_PLANT_LOST_SAVE,        /* a job's save is reported durable and isn't */
    SIM_PLANT_SECOND_COMMIT,    /* a commit is applied twice */
    SIM_PLANT_WRONG_RESULT,     /* a device returns wrong bytes */
    SIM_PLANT_FALSE_DIGEST,     /* a host tells its core that results differ which don't */
    SIM_PLANT_OLD_EPOCH,        /* a restart forgets to raise the epoch */
    SIM_PLANT_LOST_INCARNATION, /* an incarnation is used before it is durable */
    SIM_PLANT_FORGED_RECORD,    /* a relay changes a record */
    SIM_PLANT_CROWDED_SLOTS,    /* the view shows more running than there are slots */
    SIM_PLANT_LOST_SHARD,       /* the view misses a shard */
    SIM_PLANT_UNDEAD,           /* a member comes up again with its old incarnation */
    SIM_PLANT_LEAK,             /* a dropped handle stays */
    SIM_PLANT_DOUBLE_DROP,      /* a handle is dropped twice */
    SIM_PLANT_WILD_ATTEMPT,     /* a run is given another bundle's payload */
    SIM_PLANT_OVERFLOW,         /* a step puts out more than its bound */
    SIM_PLANT_NO_HEAL,          /* a partition stays */
    SIM_PLANT_LATE_ACCUSER,     /* a live member is shown down after everything healed */
    SIM_PLANT_GHOST,            /* who is gone is shown up after everything healed */
    SIM_PLANT_STUCK_RUN,        /* a device swallows its attempts */
    SIM_PLANT_DEAF_EXECUTOR,    /* nobody's RESERVE arrives anywhere */
    SIM_PLANT_COUNTS_DOWN,      /* a counter is read as what is left */
    SIM_PLANT_SECRET_CLAIM,     /* in the calm no core is told that its owner claims its devices */
    SIM_PLANT_CHATTER,          /* once everything healed, a word is repeated for ever */
    SIM_PLANTS,
};

struct sim_plan; /* node/sim/faults.h */

#define SIM_REPLAY_BYTES 8192 /* a command with a path in it, quoted */

struct sim_options {
    uint64_t seed;
    uint32_t nodes;      /* 0: drawn from the seed, 3 to 60 */
    uint32_t site_nodes; /* nodes per site */
    uint32_t minutes;    /* of virtual time */
    uint32_t jobs;
    uint32_t faults;             /* how many, spread over the first two thirds */
    const char *profile;         /* a name from sim_profiles */
    const struct sim_plan *plan; /* exactly these faults instead of drawn ones, or NULL; borrowed */
    uint32_t check_every;        /* steps between full checks of one core; 0: drawn by size */
    enum sim_plant plant;
    FILE *trace; /* every event in words, or NULL; borrowed */
    const char
        *source; /* what follows `weir sim` where the run isn't drawn from its seed, or NULL; borrowed */
};

struct sim_result {
    bool ok;
    enum sim_claim claim; /* that was broken */
    uint32_t nodes;
    uint64_t hash;
    int64_t virtual_us;
    struct mesh_counters core;
    struct sim_counters world;
    uint64_t boundary[SIM_BOUNDARIES]; /* crashes at each */
    uint64_t passed[SIM_BOUNDARIES];   /* times that each was come to */
    uint32_t met[SIM_BOUNDARIES];      /* in a sum: seeds in which it was */
    /* In words, with the last events of the node and the command that replays it. */
    char failure[8192 + SIM_REPLAY_BYTES];
};

#define SIM_SITE_NODES 3 /* nodes per site unless another number is asked for */
/* Nodes per site where nobody chose: SIM_SITE_NODES, and large sites in a mesh too large for one tier. */
uint32_t sim_site_nodes(uint32_t nodes);
/* Whether a node has room for all members that it must know in a mesh of such sites. */
bool sim_sites_fit(uint32_t nodes, uint32_t site_nodes);
#define SIM_UNFIT_TEXT                                                                                       \
    "a node would have to know more members than it has room for: choose sites of more than 64 nodes, such " \
    "as --site-nodes 100"
struct sim_options sim_options_default(void);

/* Names and one-line meanings of the fault profiles; ends with a NULL name. */
struct sim_profile_name {
    const char *name;
    const char *meaning;
};
extern const struct sim_profile_name sim_profiles[];

/* Runs one seed to its end or its first broken claim. Returns result->ok. */
bool sim_run(const struct sim_options *options, struct sim_result *result);

/* The sentence of a claim, or "nothing". */
const char *sim_check_claim(enum sim_claim claim);

/* The command that plays that run again, with its trace. */
void sim_replay(const struct sim_options *options, char command[SIM_REPLAY_BYTES]);

/* Plays a transcript (tests/scenarios/); `out` gets the story as it unfolds. A mistake in the file is in
 * `failure`. */
bool sim_scenario(const struct sim_options *options, const char *path, FILE *out, struct sim_result *result);

/* `weir sim ...`: argv[0] is the word after weir. Returns the exit code: 0 held, 1 a claim broke, 2 usage. */
int sim_main(int argc, char **argv);
/* The same where other options than sim_options_default() are meant unless others are said. */
int sim_main_with(const struct sim_options *options, int argc, char **argv);

#endif
