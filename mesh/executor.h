/*
 * This node's slots: who waits for a place, who was promised one, and which bundles run.
 *
 * A *demand* is a home's standing wish for places for one job. It is born of a RESERVE, counts down by what
 * is granted, and ends when it is satisfied, withdrawn, cancelled, or not repeated for 40 s. When a place
 * frees, the demand of the job that has waited longest gets it, whoever of them came first: as if all members
 * served one queue. Waiting counts for 10 s at most, so that a large job does not keep later ones out, and a
 * home that holds half of the slots comes after all others.
 *
 * A *grant* promises places to one job of one home. The home believes in it for 2 s, this node for 2.5 s.
 * Each place is used by one ASSIGN, released, or lost when the grant expires.
 *
 * An *attempt* is one bundle. It is born of an ASSIGN within a grant, waits or runs, and ends with MESH_RAN.
 * Its results are then held, and sent every 2 s (8 s if it was long), until the home acknowledges them or 10 min have passed;
 * or, where the table of attempts is full and a place is asked for, its home is lost and no result of a lost home is older: who
 * can run work isn't kept from it by what nobody may ever ask for. The shards are computed again should they be missed.
 * While it lives its lease is renewed by its home; when it is not for 20 s, when the home cancels, or when it
 * acknowledges what it has not got yet, having had it from elsewhere, it is stopped and forgotten without a result. Where the job has a journal of several copies it goes on for 10 min: once
 * its home answers no more the journal's other members are told of it, and one that has become the job's home
 * adopts it, or takes its results.
 *
 * Places: per class, every attempt that the host has not yet reported back and every place promised counts,
 * at most twice the slots, so that one bundle runs and one waits per slot.
 */
#ifndef MESH_EXECUTOR_H
#define MESH_EXECUTOR_H

#include "mesh/list.h"
#include "mesh/message.h"

enum {
    EXECUTOR_GRANT_VALID_MS = 2000, /* at the home, from receipt */
    EXECUTOR_GRANT_KEPT_MS = 2500,  /* here: 25 % more */
    EXECUTOR_DEMAND_MS = 40000,     /* a demand not repeated for so long is forgotten */
    EXECUTOR_WAITED_MS = 10000,     /* a job's waiting counts for so long at most */
    EXECUTOR_AHEAD_MS = 1000,       /* places are promised that are free within so long */
    EXECUTOR_PACES = 32,            /* kernels whose pace is remembered */
    EXECUTOR_RENEW_MS = 2500,       /* between looks at what one home must renew */
    EXECUTOR_LEASE_MS = 20000,      /* from the last RENEWED */
    EXECUTOR_DUE_MS = 7500,         /* left of a lease that is to be renewed: three looks before it ends */
    EXECUTOR_RESEND_MS = 2000,      /* between RESULTs of one bundle */
    EXECUTOR_RESEND_LONG_MS = 8000, /* of one that took HOME_ACK_LATER_US: its acknowledgement waits, too */
    EXECUTOR_HELD_MS = 10 * 60 * 1000, /* results kept for a home that is silent */
    EXECUTOR_GRANT_PLACES_MAX = 64,    /* places in one grant: a bit each in grant.used */
    EXECUTOR_RESENDS_PER_STEP = 32,
    EXECUTOR_OFFERS_DOUBLED =
        5, /* the time between offers of a result whose home is lost is doubled so often */
    EXECUTOR_LOST_MS =
        6000, /* a home that answers nothing for so long, a renewal and a bit, may be another node now */
};

struct demand {
    bool live;
    uint32_t home; /* member slot */
    struct mesh_id job;
    uint64_t tenant;
    int64_t born_ms;       /* when its job began to wait, as far as that counts */
    uint64_t came;         /* turn at which it came */
    uint64_t served;       /* turn at which this job last got a place here */
    uint64_t party_served; /* turn at which any job of this (home, tenant) did */
    int64_t expires_at_ms;
    uint32_t price_limit_micro;
    uint32_t offer[MESH_DEVICE_CLASSES]; /* being given within one step */
    uint32_t wanted;
    uint16_t classes;
    bool deep;
};

struct grant {
    uint64_t token; /* 0 = free slot */
    uint32_t home;  /* member slot */
    struct mesh_id job;
    int64_t expires_at_ms;
    uint64_t used; /* bit per index that an ASSIGN took */
    uint16_t class;
    uint16_t places;
    uint16_t unused; /* places still promised */
};

enum attempt_state {
    ATTEMPT_FREE = 0,
    ATTEMPT_WAITING, /* behind a running one; the host has it already */
    ATTEMPT_RUNNING,
    ATTEMPT_STOPPING, /* the host was told to stop, or is about to be; still in the way until it reports */
    ATTEMPT_FINISHED, /* results held until acknowledged */
};

struct attempt {
    enum attempt_state state;
    bool discard;  /* STOPPING: nobody wants the results; FINISHED: about to be freed */
    bool stop_due; /* on the closing list */
    uint16_t class;
    uint32_t home; /* member slot */
    struct mesh_bundle_name name;
    struct mesh_id job;
    uint64_t epoch;
    uint64_t kernel;
    uint64_t handle; /* inputs until it ended, then results */
    uint64_t device_us;
    int64_t due_at_ms;          /* live: end of the lease; FINISHED: next RESULT */
    int64_t renewed_at_ms;      /* or assigned, or adopted */
    int64_t began_at_ms;        /* RUNNING, FINISHED */
    struct mesh_members others; /* of the job's journal, beside its home */
    int64_t finished_at_ms;
    /* FINISHED, and its home seems lost: how often its result was offered to the members since, and how many times that it
       is due are passed over; how often to a home that was named, and when that was last. */
    uint8_t offers;
    uint8_t passes;
    uint8_t named;
    int64_t named_at_ms;
    uint32_t hash_next; /* index + 1 */
    uint32_t count;
    uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
    uint8_t outcome[MESH_BUNDLE_SHARDS_MAX];
};

struct executor_class {
    uint32_t slots;
    uint32_t stopping;
    uint32_t granted;
    uint32_t bundle_ms; /* moving average of what a bundle took; 0 = none yet */
    struct list running;
    struct list waiting;
};

/* What one shard of a kernel takes here: a moving average, and one of how far from it they are. */
struct pace {
    uint64_t kernel;
    uint64_t mean_us; /* 0 = not known */
    uint64_t spread_us;
};

/* What this node knows of one home, by member slot. */
struct executor_home {
    struct list attempts;
    uint32_t live;    /* of them not finished, not stopping; on the renewal list while not zero */
    uint32_t granted; /* places promised to it */
    int64_t renew_at_ms;
};

struct executor {
    struct executor_class class[MESH_DEVICE_CLASSES];
    struct pace pace[EXECUTOR_PACES]; /* by kernel; the latest of those that share a place */
    uint32_t price_micro;
    int64_t available_until_ms;
    uint8_t fault;        /* enum mesh_fault: as the host said, told to the others */
    uint64_t details;     /* as the host said: see struct mesh_capacity */
    uint64_t turn;        /* of serving demands */
    uint64_t grants_made; /* part of the next token */

    uint32_t wanted; /* places, over all demands */
    struct demand *demand;
    struct pool demand_pool;
    struct list_link *demand_link; /* free, or `demands` */
    struct list demands;           /* in the order of expiry */

    struct grant *grant;
    struct pool grant_pool;
    struct list_link *grant_link; /* free, or `grants` */
    struct list grants;           /* in the order of expiry */

    struct attempt *attempt;
    struct pool attempt_pool;
    struct list_link *attempt_link; /* free, `leases`, `results` or `long_results` */
    struct list leases;             /* live, in the order of expiry */
    struct list results;            /* finished, in the order of the next RESULT */
    struct list long_results;       /* the same of those that took long */
    struct list_link *home_link;    /* executor_home.attempts */
    struct list_link *class_link;   /* executor_class.running or .waiting */
    struct list_link *closing_link;
    struct list closing; /* attempts to be stopped or freed as the output has room */
    uint32_t *bucket;    /* attempts by name: index + 1 of the first, chained by hash_next */
    uint32_t bucket_count;

    struct executor_home *home;
    struct list_link *renew_link;
    struct list renewals; /* homes with live attempts, in the order of renew_at_ms */
};

struct step;

/* Places of one class neither used nor promised, with so many behind its slots. */
uint32_t executor_places(const struct executor_class *class, uint32_t behind);
/* How many behind its slots may be promised although bundles are not short: as many slots as are likely to be free
 * within EXECUTOR_AHEAD_MS. So a grant is for several, and nobody waits behind a bundle for long. Up to 4 s long they
 * are promised before a slot is free, so that none is idle while messages travel; longer ones with a slot that is free,
 * by what shards of their kernels took here: what one is idle for is nothing beside them, and promised is what is seen. */
uint32_t executor_ahead(const struct executor *executor, uint32_t class, int64_t now_ms);
/* The table of attempts is full: throws the oldest result away whose home is lost. False if there is none, or no room to say so:
 * then it is asked again in the step that it wakes for. */
bool executor_make_room(struct step *step);
/* Nothing runs here, waits, is promised, or waits to be acknowledged. */
bool executor_idle(const struct executor *executor);

/* adopt.c, for executor.c: attempts whose home is lost. */
/* Whether the home has been silent for so long that another node may be it by now. */
bool adopt_seems_lost(const struct attempt *attempt, int64_t now_ms);
/* Tells the journal's members of an attempt: that it lives, or its results. As far as the output has room. */
void adopt_report(struct step *step, const struct attempt *attempt);
/* The job has another home now: who it is, or the members known here, hear at once what runs here. */
void adopt_home_moved(struct step *step, uint32_t from, const struct mesh_message *message);
void adopt_offer_result(struct step *step, uint32_t slot);

/* For bundles.c: the new home takes a bundle over that an executor told it of. */
void adopt_answer(struct step *step, uint32_t to, const struct mesh_bundle_name *name, uint64_t epoch);

/* Between executor.c and adopt.c. */
uint32_t executor_attempt_find(struct executor *executor, const struct mesh_bundle_name *name);
void executor_attempt_rehome(struct step *step, uint32_t slot, uint32_t home, uint64_t epoch);
void executor_fill_result(const struct attempt *attempt, struct mesh_message *message);

/* grants.c, for executor.c. */
/* Gives free places to standing demands. Idempotent; ends early when the output is full and asks for another
 * step. */
void grants_offer(struct step *step);
/* Takes a promised place for an ASSIGN, or returns false: unknown, expired, foreign, or used before. */
bool grants_use(struct step *step, uint32_t from, const struct mesh_message *assign);
/* Forgets the demands and promises of a home; of one job of it where `job` is not NULL. */
void grants_forget(struct step *step, uint32_t home, const struct mesh_id *job);
/* Takes back promises of the class until no more than `places` are left, the newest first. */
/* Forgets who is no longer served. */
void grants_drain(struct step *step);
void grants_revoke(struct step *step, uint32_t class, uint32_t places);
void grants_tick(struct step *step);
void grants_check(const struct executor *executor);

#endif
