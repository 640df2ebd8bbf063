/*
 * The jobs this node is home of: their shards, where each is, and what is committed.
 *
 * A *job* is born of a SUBMIT (or read back at start), runs until all its shards are committed, until one
 * fails it, or until it is cancelled, and is forgotten when the host prunes it. When it ends, its shard table
 * is free for others at once; bundles still out are called back.
 *
 * A *shard* is in exactly one state:
 *
 *     looking up -> queued -> assigned -> (held ->) committed
 *                     ^          |           |
 *                     +----------+-----------+   returned, crashed, expired, lease ended, executor lost or caught
 *
 * It is held where a quorum is asked for: a result is here, and waits for another site's. See verify.h.
 *
 * The queue is a doubly linked list through the shards of a job, so that a late result takes its shard out at
 * once.
 *
 * A *bundle* is shards bound to one place of a grant. It is born with its ASSIGN and ends with its RESULT.
 * When its lease ends or its executor is thought lost, its shards are queued again and the bundle stays as an
 * *orphan*: should its result come after all, whatever of it is not committed yet is committed, and the first
 * writer wins. Orphans are forgotten after 10 min (by then the executor has forgotten the results too), or
 * when the table needs room.
 *
 * A bundle that takes much longer than its kernel usually does gets a *copy*: a second bundle of the same shards
 * at another member. The shards stay the first one's; whichever reports first is committed, and the other, which
 * has nothing left to bring, is acknowledged unasked and thereby stopped. When the first one is lost the copy
 * takes its shards over and is a bundle like any other. See speculation.c.
 *
 * An *ask* is this node's memory of a RESERVE: what was wanted and what it may still expect. See placement.c.
 */
#ifndef MESH_HOME_H
#define MESH_HOME_H

#include "mesh/list.h"
#include "mesh/mesh.h"
#include "mesh/verify.h"

enum {
    HOME_LEASE_MS = 25000, /* the executor's 20 s and 25 % */
    HOME_ORPHAN_MS = 10 * 60 * 1000,
    HOME_SERVICE_MS = 1000,      /* a job with queued shards looks for places at least so often */
    HOME_ASK_REFRESH_MS = 15000, /* standing demands are repeated; the executor forgets after 40 s */
    HOME_REFUSED_MS = 60000,     /* who has not the kernel is asked again; at once after a restart */
    HOME_NOBODY_MS = 1000,       /* between two NOBODY decisions of a job */
    HOME_TOKENS = 16,            /* grants of one member remembered */
    HOME_ASKS_PER_JOB = 256,     /* members asked for one job at a time */
    HOME_ASKS_PER_TURN = 32,     /* of them in one turn of the job */
    HOME_JOBS_PER_STEP = 16,     /* jobs served in one step */
    HOME_LEASES_PER_STEP = 64,   /* leases ended in one step */
    HOME_BUNDLE_US = 20000,      /* work in a bundle: 20 ms, or two round trips where that is more */
    HOME_DEEP_US = 1000000,      /* bundles shorter than this may wait behind another */
    HOME_ACK_MS = 5000, /* acknowledgements wait so long for company, well within the 8 s of a resend, */
    HOME_ACK_LATER_US =
        4000000, /* if the bundle was so long that its place in a table is not needed meanwhile */
    HOME_ADOPT_MS =
        5000, /* after a takeover executors are listened to for so long before anything is bound */
    SPECULATION_BUCKETS = 8 * 31, /* eight to a power of two, up to 2^33 */
};

enum shard_state {
    SHARD_LOOKING_UP = 1,
    SHARD_QUEUED,
    SHARD_ASSIGNED,
    SHARD_HELD,
    SHARD_COMMITTED,
};

struct shard {
    uint32_t next; /* QUEUED: the next in the queue, index in the job + 1; COMMITTED: its digest, see `at` */
    uint32_t at;   /* QUEUED: the one before, index + 1; ASSIGNED: the bundle's slot; HELD: the check's;
                         COMMITTED: the member whose word alone it is; our own slot, 0: nothing to be checked */
    uint8_t state; /* enum shard_state */
    uint8_t attempts; /* that ended in a crash */
    bool checked;     /* COMMITTED: by a check that is open */
};

/* shards.c: one pool of shards, dealt to jobs in contiguous ranges. */
struct range {
    uint32_t first, count;
};

struct shards {
    struct shard *shard;
    uint32_t capacity;
    struct range *free; /* sorted, none adjacent to the next */
    uint32_t free_count;
};

enum service {
    SERVICE_NONE = 0,
    SERVICE_READY, /* on home.ready */
    SERVICE_TIMED, /* on home.timed */
};

struct job {
    struct mesh_job_spec spec;
    enum mesh_job_state state; /* 0 = free slot */
    enum service service;
    bool forget;         /* the host pruned it; it goes once executors are told and look-ups answered */
    uint32_t first;      /* of its range in the pool; while RUNNING */
    uint32_t queue_head; /* index in the job + 1 */
    uint32_t queue_tail;
    uint32_t looking_up, queued, assigned, held, committed;
    uint32_t cached, reassigned;
    uint32_t lookup_next; /* shards from here on have not been asked for yet */
    uint32_t lookups_in_flight;
    uint32_t bundle_cap;   /* bundles grow by doubling per result at most */
    uint64_t shard_ns;     /* moving average of device time; 0 = unknown */
    uint32_t expected;     /* sum over its asks */
    uint64_t ending;       /* its number among the jobs that ended, see home_member.cancelled */
    int64_t service_at_ms; /* TIMED */
    int64_t born_ms;
    int64_t nobody_after_ms; /* NOBODY is not said again before */
    int64_t wider_at_ms;     /* when it last asked one member more than seemed needed */
    int64_t bind_at_ms;      /* nothing is bound before that; 0 = at once */
    uint32_t slow;           /* bundles for whose copy a place is looked for */
    uint32_t wanting;        /* checks for which one is */
    uint32_t recheck;        /* committed shards up to here may be of a member that was caught since */
    struct list checks;
    struct list bundles; /* orphans too */
    struct list asks;
};

struct ask {
    uint32_t job;      /* slot */
    uint32_t member;   /* slot; MESH_NONE = free */
    uint32_t left;     /* wanted and not yet granted: the demand that stands there */
    uint32_t expected; /* of them believed to be granted at once; 0 once an answer came */
    uint32_t pace;     /* thousandths of places that become free there in good time, see placement.c */
    uint16_t class;    /* whose debit was taken */
    int64_t sent_at_ms;
    bool refused; /* at sent_at_ms: its kernel does not run there; it stands so that nobody asks again */
};

struct bundle {
    struct mesh_bundle_name name;
    uint32_t job;     /* slot */
    uint32_t member;  /* slot */
    bool orphan;      /* its shards were queued again, or its job is over */
    bool called_back; /* its job is over and its executor was told */
    bool slow;        /* a place for a copy of it is looked for */
    bool copy;        /* of two attempts at its shards the second: it owns none of them */
    uint16_t class;
    uint32_t other; /* the other attempt's slot + 1; 0 = none */
    bool promised;  /* counted in verify.promised */
    uint32_t
        check; /* it is a further opinion for that check, slot + 1, and owns none of its shards; 0 = it isn't */
    int64_t assigned_at_ms;
    uint64_t charge_us; /* taken from the budget beforehand: of a copy, or of a slow one that is to get it */
    int64_t due_at_ms;  /* end of the lease; orphan: when it is forgotten */
    uint32_t hash_next; /* index + 1 */
    uint32_t count;     /* 0 = free slot */
    uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
};

/* A RESULT_ACK that waits for company. */
struct ack {
    struct mesh_bundle_name name;
    uint32_t member; /* slot */
    int64_t due_at_ms;
};

/* speculation.c: how long the shards of one kernel take, against the manifest's guess where it has one. */
struct usual {
    uint64_t kernel;
    bool guessed;     /* counted in 1/1024 of the guess; otherwise in microseconds */
    uint64_t used_at; /* the turn; 0 = free */
    uint64_t most;    /* 95 of 100 take no longer; 0 = not known yet */
    uint32_t samples;
    uint16_t count[SPECULATION_BUCKETS];
};

struct speculation {
    struct usual *usual;
    uint64_t turn;
    int64_t credit_us; /* of device time for copies; the last one may overdraw it */
    int64_t look_at_ms;
};

struct home_member {
    struct list bundles; /* at that executor, orphans too */
    uint32_t acks;       /* that wait to be sent to it */
    bool acks_now;       /* within one step: they go */
    uint64_t asked;      /* the turn of placement in which it was seen to be asked for the job served */
    uint64_t cancelled;  /* the ending by which it was last told to stop; one CANCEL per member and job */
    uint64_t token[HOME_TOKENS]; /* its latest grants, so that a repeated GRANT binds nothing; a ring */
    uint32_t token_next;
};

struct home {
    struct shards shards;

    struct job *job;
    struct pool job_pool;
    struct list_link *job_link;     /* free slots only */
    struct list_link *service_link; /* `ready` or `timed` */
    struct list ready;              /* jobs to serve now, in turn */
    struct list timed;              /* jobs to serve at service_at_ms, in that order */
    uint32_t *sorted;               /* job slots in the order of ids */
    uint32_t job_count;
    uint32_t live; /* jobs RUNNING */

    struct bundle *bundle;
    struct pool bundle_pool;
    struct list_link *bundle_link; /* free, `leases` or `orphans` */
    struct list leases;            /* in the order of due_at_ms */
    struct list orphans;           /* in the order of due_at_ms */
    struct list_link *member_link; /* home_member.bundles */
    struct list_link *of_job_link; /* job.bundles */
    uint32_t *bucket;              /* bundles by name: index + 1, chained by hash_next */
    uint32_t bucket_count;

    struct ack *ack;
    struct pool ack_pool;
    struct list_link *ack_link; /* free, or `acks` */
    struct list acks;           /* in the order of due_at_ms */

    struct ask *ask;
    struct pool ask_pool;
    struct list_link *ask_link; /* free, or job.asks */

    struct speculation speculation;
    struct verify verify;
    struct home_member *member; /* by member slot */
    uint64_t turn;              /* of placement; see home_member.asked */
    uint64_t endings;           /* jobs ended so far; numbers them for home_member.cancelled */
    bool drained_told;
};

struct step;
struct mesh;

/* shards.c. Indices of shards are those within the job. */
void shards_init(struct shards *shards);
uint32_t shards_take(struct shards *shards, uint32_t count); /* MESH_NONE if no free range is that long */
void shards_give(struct shards *shards, uint32_t first, uint32_t count);
struct shard *shards_of(const struct home *home, const struct job *job); /* [spec.shard_count] */
void shards_push_back(struct shard *shard, struct job *job, uint32_t index);
void shards_push_front(struct shard *shard, struct job *job, uint32_t index);
uint32_t shards_pop(struct shard *shard, struct job *job); /* MESH_NONE if none is queued */
void shards_unlink(struct shard *shard, struct job *job, uint32_t index);
void shards_check(const struct home *home, const struct job *job);
void shards_check_ranges(const struct shards *shards);

/* home.c */
uint32_t home_job_find(const struct home *home, const struct mesh_id *id);
/* Puts the job in line to look for places, to look its shards up, or to call its bundles back. */
void home_job_ready(struct home *home, uint32_t job);
/* The job is over: saves that, tells the host, frees its shards, and calls back what is still out. */
void home_job_end(struct step *step, uint32_t job, enum mesh_job_state state, uint32_t shard,
                  uint64_t handle);
/* An entry in its journal, if it has one: see journal_append. Index 0: it has none. */
struct journal_waiter;
struct mesh_place home_append(struct step *step, const struct job *job, enum mesh_entry_kind kind,
                              const struct journal_waiter *waiter);
/* What the job's journal said is settled: the submit, or the end. */
void home_job_settled(struct step *step, const struct mesh_id *id, enum mesh_job_state state);
/* The sequence of a save with that place; 0 if it has none. */
uint64_t home_sequence(struct step *step, const struct mesh_place *place);
/* Another node is the job's home now, and its executors are told. */
void home_job_moved(struct step *step, const struct mesh_id *id);
/* Whether it is about to be, or too few copies answer: nothing new is bound. */
bool home_job_moves(const struct mesh *mesh, const struct job *job);
/* Ends the job as DONE if every shard is committed and none is being checked. */
void home_job_settle(struct step *step, uint32_t job);
/* One line of the job's story; left out when the output is nearly full. */
void home_decide(struct step *step, const struct job *job, uint32_t member, enum mesh_reason why,
                 uint32_t shard, uint32_t count);

/* bundles.c */
/* Bundles that can still be bound; orphans make room. */
uint32_t bundles_room(const struct home *home);
/*
 * Calls back what an ended job still has out. Returns false when the output is full before all were told. The
 * bundles stay as orphans, so that an executor that did not hear of it and asks to renew is told again.
 */
bool bundles_call_back(struct step *step, uint32_t job);
/* Tells the executors of a job who may be its home some day; zero: not us any more, and somebody else. As far as the output
 * has room. */
void bundles_tell_home(struct step *step, uint32_t job, const struct mesh_id *home_id);
/* Forgets the bundles of a job that is about to be forgotten itself. */
void bundles_forget(struct home *home, uint32_t job);
/*
 * Makes a bundle of what a member reports that it runs, under its name there. Takes the shards that are not
 * committed or at work elsewhere; where there are none, it becomes the copy of a bundle that has no other yet.
 * False if there is no use for it, or no room.
 */
bool bundles_adopt(struct step *step, uint32_t job, uint32_t member, const struct mesh_message *report);
/* The member was caught: its bundles are forgotten, and their shards queued again. */
void bundles_discard(struct step *step, uint32_t member, uint64_t kernel);
void bundles_tick(struct step *step);
/* Last in a step: sends acknowledgements that are due or have company. */
void acks_tick(struct step *step);
void bundles_check(const struct mesh *mesh);

/* speculation.c */
/* A result came that was wanted: device time of `count` shards, all of them done. */
void speculation_learn(struct home *home, const struct job *job, uint64_t device_us, uint32_t count);
/* Device time of a bundle of `count` shards was delivered: a share of it may be spent on copies. */
void speculation_earn(struct mesh *mesh, uint64_t device_us, uint32_t count);
/* Of the device time that a member says `count` shards took, what is believed. */
uint64_t speculation_believed(uint64_t device_us, uint32_t count);
/* The copy has cost so much. Until then its charge is an estimate. */
void speculation_settle(struct mesh *mesh, struct bundle *copy, uint64_t device_us);
/* No copy is made of it: it is not slow any more, or is gone. */
void speculation_withdraw(struct home *home, struct bundle *bundle);
/* A slow bundle of the job of which a copy may go to that member, or MESH_NONE. */
uint32_t speculation_pick(const struct home *home, const struct job *job, uint32_t member);
/* The copy was faster: the member delivers less than it says. */
void speculation_blame(struct mesh *mesh, uint32_t member);
/* Looks for bundles that take too long. */
void speculation_tick(struct step *step);
void speculation_check(const struct mesh *mesh);

/* placement.c */
/* Shards that one bundle of the job should hold now, for an executor at that distance. */
uint32_t placement_bundle_shards(const struct home *home, const struct job *job, uint32_t rtt_us,
                                 uint32_t places);
/* Asks members for places as the job's queue needs, repeats standing demands, withdraws what is not needed.
 */
void placement_serve(struct step *step, uint32_t job);
/* Moves the average of what the member delivers of what it promised: places granted, or shards that its owner left it. */
void placement_delivered(struct step *step, uint32_t member, uint32_t got, uint32_t promised);
/* Notes an answer: `places` granted, 0 for WAIT. */
void placement_answered(struct step *step, uint32_t job, uint32_t member, uint32_t places);
/* The job's kernel does not run there. */
void placement_refused(struct step *step, uint32_t job, uint32_t member);
/* Something is being sent to the member anyway: asks it for more with that, if the job needs more. */
void placement_go_on(struct step *step, uint32_t job, uint32_t member);
/* A place at the member is free again, or was given back. */
void placement_returned(struct step *step, uint32_t member, uint16_t class, uint32_t places);
/* Sets what a new job believes of its shards before any result: the manifest's guess. */
void placement_guess(struct job *job);
/* Whether the job should have a turn now: nothing can be bound and demands stand, or more can be than was
 * asked for. */
bool placement_due(const struct mesh *mesh, const struct job *job);
/* Learns from a result: device time of `count` shards. */
void placement_learn(struct job *job, uint64_t device_us, uint32_t count);
/* Whether the member is known to speak a version with WISH, by which acknowledgements of long bundles may take 5 s. */
bool placement_speaks_wishes(const struct mesh *mesh, uint32_t member);
/* Whether the job may go to that member at all. */
bool placement_permits(const struct mesh *mesh, const struct job *job, uint32_t member);
/* Forgets one ask of the job without a word. */
void placement_drop(struct step *step, uint32_t job, uint32_t ask);
/* Forgets what was asked of a member. */
void placement_forget(struct step *step, uint32_t member);
void placement_check(const struct mesh *mesh);

#endif
