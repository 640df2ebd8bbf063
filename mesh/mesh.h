/*
 * The protocol core: membership, gossip, placement, leases and the state of jobs, as one pure function.
 *
 *     struct mesh *mesh = mesh_init(calloc(1, mesh_size(&limits)), &config);
 *     mesh_step(mesh, &event, &out);
 *     // make out.saves durable, then do out.sends, then out.effects; call again at out.wake_at_ms with a MESH_TICK
 *
 * The core never opens a socket or a file, reads a clock, allocates, blocks, or uses floating point or an address as an
 * order. Time and randomness come in with the event and the configuration: the same events give the same outputs, byte
 * for byte, which is what the simulator relies on. The host (the real node, or the simulator) owns sockets, disks,
 * devices and signatures. It verifies a signed record before it hands it in, and nothing a peer sends may reach an
 * assertion in here.
 *
 * Two clocks come with every event: `now_ms` is monotonic and is used for every duration; `wall_ms` (since the epoch) is
 * used for nothing but validity. Neither may go back between two steps; the core clamps `now_ms` if it does.
 *
 * Ordering. The saves of one step must be durable before its sends and effects are let go. A step without saves may go
 * ahead at once: nothing in it depends on an earlier save. The host need not wait for one step's saves before it feeds
 * the next event. A send to the node itself is delivered by the host as a MESH_RECEIVED event from itself. Sends that
 * are marked `early` need not wait for anything: copies of what is being saved are on their way while it is.
 *
 * Handles. A handle is a number by which the host knows some bytes. One that enters with an event belongs to the core
 * until the core gives it back, once, with a MESH_DROP effect, or passes it on in a save (MESH_SAVE_COMMIT,
 * MESH_SAVE_RECORD keep what they name as long as the host likes; the handle itself is still dropped by MESH_DROP).
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include "mesh/limits.h"
#include "mesh/message.h"

struct mesh;

struct mesh_limits {
    uint32_t members;  /* <= MESH_MEMBERS_MAX */
    uint32_t jobs;     /* <= MESH_JOBS_MAX */
    uint32_t shards;   /* <= MESH_SHARDS_MAX */
    uint32_t bundles;  /* <= MESH_BUNDLES_MAX */
    uint32_t attempts; /* <= MESH_ATTEMPTS_MAX */
    uint32_t demands;  /* <= MESH_DEMANDS_MAX */
    uint32_t journals; /* <= MESH_JOURNALS_MAX; 0: every job has a single copy, and none is kept for others */
    uint32_t waiters;  /* <= MESH_WAITERS_MAX, and more than jobs where there are journals */
};

struct mesh_config {
    struct mesh_limits limits;
    struct mesh_id self;
    uint64_t site;        /* hash of the own site's name */
    uint64_t region;      /* hash of the own region's name */
    uint64_t incarnation; /* the highest ever saved, plus one; the host has saved it before this call */
    /*
     * Of this process, never zero: see body.member.session of struct mesh_record. The versions of its records go on from
     * here, so the host makes it of the time at which it starts and of chance: then a life that the disk has forgotten,
     * because an old copy of it was put back, is no reason to give one (incarnation, version) to two records.
     */
    uint64_t session;
    uint64_t
        storage; /* of the latest MESH_SAVE_STORAGE; the incarnation at which the disk was restored from a
                             backup, if that was later; 0 = neither */
    uint64_t sequence; /* the highest that any save bore that is on the disk; 0 = none */
    uint64_t seed[2];  /* of the core's own generator */
    int64_t now_ms;
    int64_t wall_ms;
    /* The kernels that run here, named as in mesh_job_spec; borrowed for the core's life. None given: any. */
    const uint64_t *kernels;
    uint32_t kernel_count;
    uint16_t
        user_classes; /* bit per device class on which users' kernels run here; counts where kernels are given */
};

/* The name of a user's kernel in the core, from a hash of its digest: such kernels are known by none in advance, and a
 * node takes all of them or none, per device class. */
#define MESH_USER_KERNEL UINT64_C(0x7573657200000000)
static inline uint64_t mesh_user_kernel(uint64_t hash)
{
    return MESH_USER_KERNEL | (hash & UINT32_MAX);
}
static inline bool mesh_is_user_kernel(uint64_t kernel)
{
    return (kernel & ~(uint64_t)UINT32_MAX) == MESH_USER_KERNEL;
}

enum mesh_event_kind {
    MESH_TICK = 1,  /* time passed */
    MESH_RECEIVED,  /* a message from an admitted peer */
    MESH_RECORD,    /* a verified record: at start from the store, from a join, or the answer to MESH_SIGN */
    MESH_LINK_UP,   /* a link to the peer has a new session: resync */
    MESH_LINK_DOWN, /* a link was reset and one re-dial failed */
    MESH_DEVICES,   /* the own devices changed, or the owner claimed some */
    MESH_DRAIN,     /* take no new work, give back what is not running; own jobs go on until done, or wait */
    MESH_LEAVE,     /* announce that this node goes on purpose */
    MESH_ANNOUNCE,  /* what the host says in our MEMBER record changed: sign and spread it anew */
    MESH_SUBMIT,    /* a job for which this node becomes home */
    MESH_RESTORE,   /* a job read back from the store: at start, or after MESH_TAKE_OVER */
    MESH_JOB_IS_OVER,     /* answer to MESH_JOURNAL_ASKED, or to the first entry of a journal that was over */
    MESH_LOG_SENT,        /* answer to MESH_SEND_LOG, where not all of it could be sent for now */
    MESH_JOURNAL_NEW,     /* answer to MESH_JOURNAL_ASKED with members: nothing of it was ever on this disk */
    MESH_FORGOT,          /* the host has forgotten that there was a journal, for its job is long over */
    MESH_RESTORE_JOURNAL, /* at start: a journal of several copies, before any MESH_RESTORE */
    MESH_CANCEL_JOB,      /* the user cancels */
    MESH_LOOKED_UP, /* answer to MESH_LOOKUP; each is answered, also when its job is over; in parts if need be */
    MESH_RAN,       /* an attempt ended: answer to MESH_RUN or MESH_STOP */
    MESH_FORGET_JOB, /* the host pruned a finished job: its slot may be used again once its look-ups are answered */
    MESH_QUARANTINE, /* at start: a member that was caught before; later: an operator forgives one */
    MESH_TRUST,      /* at start: how many results of a member others had confirmed; before MESH_QUARANTINE */
};

/* See mesh/verify.h. The own site's results are believed, except by a quorum. */
enum mesh_verify {
    MESH_VERIFY_NONE = 0,
    MESH_VERIFY_SPOT,   /* some are computed again at another site, once they are committed */
    MESH_VERIFY_QUORUM, /* none is committed before two sites agree on it, of three if need be */
    MESH_VERIFY_CERTIFICATE, /* the host proves each when it comes, and says MESH_DIGEST_WRONG of one that isn't right */
};

/* Of a result: proved wrong. No other one has this digest. */
#define MESH_DIGEST_WRONG 0u

struct mesh_job_spec {
    struct mesh_id id;
    uint64_t epoch;        /* 1 for a new job; the saved epoch plus one on restore */
    uint64_t tenant;       /* hash of the tenant's name */
    uint64_t kernel;       /* hash of the kernel's digest */
    uint64_t memory_bytes; /* of inputs that every bundle needs */
    uint64_t
        broadcast_bytes; /* of the largest of them; `broadcast` is its name in capacities, see MESH_RESIDENTS_MAX */
    uint32_t broadcast;
    uint32_t shard_count;
    uint32_t price_limit_micro; /* 0 = none */
    uint32_t bundle_shards_max; /* 1..MESH_BUNDLE_SHARDS_MAX: what the host says fits MESH_BUNDLE_BYTES_MAX */
    uint32_t
        lookup_shards_max; /* whose results fit one entry of a journal, up to MESH_LOOKUP_SHARDS_MAX; 0: so many */
    uint8_t copies;     /* of the job's journal, ours included, up to MESH_COPIES_MAX; 0 or 1: ours alone */
    uint8_t copies_min; /* refuse the job where fewer can be had; 0: be content with what there is */
    uint32_t shard_us_guess;  /* the manifest's estimate of one shard's device time; 0 = unknown */
    uint16_t classes;         /* bit per device class that will do */
    uint16_t verify_permille; /* SPOT: of the shards of a member that is trusted; 0: MESH_VERIFY_PERMILLE */
    uint8_t verify;           /* enum mesh_verify: what its results must pass */
    bool lookup;              /* ask the result cache before binding */
    bool local_only;          /* never leaves this node's site */
    bool speculate;           /* shards that take too long are also given to another member */
    bool
        tolerant; /* results of one class of devices are compared with each other only, if that can be told */
};

/* Whose word a committed shard of a job that is read back is. */
struct mesh_brought {
    uint32_t by; /* in restore.bringer, + 1; 0: nobody's that may have to be checked, or known to be wrong */
    uint32_t digest;
};

/* A journal of several copies as it stands on the disk. */
struct mesh_journal_image {
    struct mesh_id job;
    struct mesh_members
        members;         /* of the last entry that was saved with some, or of the promise before the first */
    uint32_t members_at; /* which that is; 0: the first */
    struct mesh_members before; /* of the last such entry before that one, where there are two */
    uint32_t before_at;
    uint64_t promised;    /* of the latest MESH_SAVE_PROMISE; 0 = none */
    uint32_t last;        /* entries 1 to last are there */
    uint32_t settled;     /* the highest that was saved with one */
    struct mesh_id voted; /* its candidate */
    bool home;            /* the last entry was saved with `own`, or as the home's: it was the job's home */
    uint32_t end;         /* the entry that is MESH_ENTRY_END; 0 = none */
    /* The epochs of the entries: those from `first` on, up to the next run. The latest MESH_RUNS_MAX. */
    uint32_t run_count;
    struct {
        uint64_t epoch;
        uint32_t first;
    } run[MESH_RUNS_MAX];
};

struct mesh_event {
    enum mesh_event_kind kind;
    int64_t now_ms;
    int64_t wall_ms;
    union {
        struct {
            struct mesh_id from;
            const struct mesh_message *message; /* borrowed for the step */
            uint32_t
                rtt_us; /* of a PONG: the host's clock less the returned stamp, at least 1; otherwise 0 */
            /*
             * Of a RESULT for a job that is verified: one for each shard, the same for results that count as equal, mixed
             * with a secret of the host so that none can be aimed at. Borrowed for the step; NULL: all are MESH_DIGEST_WRONG.
             */
            const uint32_t *digest;
        } received;
        struct {
            struct mesh_id from; /* the peer that pushed it, or self */
            struct mesh_record record;
            uint8_t hops; /* as it came in a SPREAD; otherwise 0 */
        } record;
        struct {
            struct mesh_id peer;
            bool reset;        /* LINK_DOWN only: the connection was refused or reset, rather than silent */
            uint32_t protocol; /* LINK_UP only: the version agreed on */
        } link;
        struct {
            struct {
                uint16_t slots; /* lendable now; 0 while the owner has the devices */
            } class[MESH_DEVICE_CLASSES];
            uint32_t price_micro;
            int64_t available_until_ms;
            uint8_t fault; /* enum mesh_fault */
            uint64_t
                details; /* of what the host says of its devices beside this; announced anew when it changes */
            /* Attempts at devices that are gone with this event: they are stopped, rather than the newest. */
            uint32_t stop_count;
            uint32_t stop[MESH_DEVICE_STOPS_MAX];
        } devices;
        struct {
            bool stops; /* DRAIN: this node ends soon: its own jobs get no place here either */
        } drain;
        struct mesh_job_spec submit; /* SUBMIT */
        struct {
            struct mesh_job_spec spec;
            /* Bit s set: shard s is committed. (spec.shard_count + 7) / 8 bytes, borrowed for the step. */
            const uint8_t *committed;
            /* Of a job that is verified by chance, where the host can tell, borrowed for the step: [spec.shard_count] */
            const struct mesh_brought *brought;
            const struct mesh_id *bringer; /* [bringer_count] */
            uint32_t bringer_count;
        } restore;
        struct mesh_journal_image journal; /* RESTORE_JOURNAL */
        struct {
            struct mesh_id job;
            struct mesh_id to; /* who asked */
            /* The last entry of our copy and its epoch, if it was said to be whole; otherwise 0. */
            uint32_t last;
            uint64_t last_epoch;
        } is_over;
        struct {
            struct mesh_id job;
            struct mesh_id to;
            uint64_t epoch;
            uint32_t last; /* up to here it was */
        } log_sent;
        struct {
            struct mesh_id job;
            struct mesh_id from; /* this and what follows as in JOURNAL_ASKED */
            uint64_t epoch;
            struct mesh_members members;
        } fresh; /* JOURNAL_NEW */
        /*
         * FORGOT: the incarnation at which our copy was chosen. From now on the host can't tell a journal of such a
         * copy that it forgot from one that it never had, and answers MESH_JOURNAL_NEW only for copies chosen later;
         * so there is a later incarnation from here on.
         */
        uint64_t forgot;
        struct {
            struct mesh_id id;
        } job; /* CANCEL_JOB, FORGET_JOB */
        struct {
            struct mesh_id id;
            bool on; /* as it was saved; false: forgiven, and checked as one that nobody knows yet */
        } quarantine;
        struct {
            struct mesh_id id;
            uint32_t confirmed; /* as mesh_member_view told; of a member that isn't known it is passed over */
        } trust;
        struct {
            struct mesh_id job;
            uint64_t epoch;
            uint32_t first;
            uint32_t count;  /* <= MESH_LOOKUP_SHARDS_MAX */
            uint64_t handle; /* the hits' results, to be committed; 0 if there is none */
            uint8_t hit[MESH_LOOKUP_SHARDS_MAX / 8];
            /* Not known yet: another LOOKED_UP over the same shards follows. What was told before is passed over there. */
            uint8_t later[MESH_LOOKUP_SHARDS_MAX / 8];
        } looked_up;
        struct {
            uint32_t attempt; /* as in MESH_RUN */
            uint64_t handle;  /* the results; 0 if none is MESH_DONE */
            uint64_t device_us;
            uint32_t count;
            uint8_t outcome[MESH_BUNDLE_SHARDS_MAX]; /* in the order of the ASSIGN */
        } ran;
    } body;
};

enum mesh_save_kind {
    MESH_SAVE_INCARNATION = 1, /* before the refutation that uses it is sent */
    MESH_SAVE_RECORD,    /* a member's or a revocation record, so that a restarted node finds its peers */
    MESH_SAVE_JOB,       /* a submitted job, with the host's full description of it */
    MESH_SAVE_COMMIT,    /* results of shards; the first save for a (job, shard) wins for ever */
    MESH_SAVE_JOB_STATE, /* done, failed or cancelled */
    MESH_SAVE_ENTRY, /* an entry of a journal whose bytes came from the home, or one of ours that has none */
    MESH_SAVE_PROMISE, /* no entry of an older epoch is taken any more, and this one belongs to that candidate */
    MESH_SAVE_STORAGE, /* our disk was seen to have forgotten something: what was on it before counts no more */
    MESH_SAVE_QUARANTINE, /* a member was caught with a wrong result, or is forgiven */
    MESH_SAVE_DISPUTE, /* committed shards proved wrong; they stay as they are, and are never looked at again */
};

/*
 * An entry's place in a journal of several copies; index 0: the job has a single one. The APPENDs of the same step with the same job and index carry the
 * entry's bytes as the host makes them of the save.
 */
struct mesh_place {
    uint64_t entry_epoch;
    uint32_t index;
    uint32_t settled;
};

enum mesh_job_state {
    MESH_JOB_RUNNING = 1,
    MESH_JOB_DONE,
    MESH_JOB_FAILED,
    MESH_JOB_CANCELLED,
    MESH_JOB_MOVED, /* only told: another node is its home now, this one keeps its copy of the journal */
};

struct mesh_save {
    enum mesh_save_kind kind;
    /* Unless 0, durable together with this save: the highest so far becomes mesh_config.sequence at the next start. */
    uint64_t sequence;
    union {
        uint64_t incarnation;
        uint64_t storage;
        struct {
            enum mesh_record_kind kind;
            struct mesh_id origin;
            uint64_t handle;
        } record;
        struct {
            struct mesh_id id;
            uint64_t epoch;
            enum mesh_job_state state;
            uint32_t failed_shard; /* FAILED: the shard at fault */
            uint64_t handle;       /* FAILED: the result payload that holds the reason, or 0 */
            struct mesh_place place;
            struct mesh_members members; /* SAVE_JOB with a place: of the journal */
        } job;
        struct {
            struct mesh_id job;
            struct mesh_place place;
            enum mesh_entry_kind kind;
            bool cut; /* first goes what stands at this index and after it: a later home's replaces it */
            bool own; /* a takeover or a change by this node: it is the home from here on */
            uint64_t handle;             /* 0 = no bytes */
            struct mesh_members members; /* with index 1 and MESH_ENTRY_CHANGE; otherwise none */
        } entry;
        struct {
            struct mesh_id job;
            uint64_t epoch;
            struct mesh_id candidate;
            struct mesh_members members; /* of a journal without entries: its first save. Otherwise none */
        } promise;
        struct {
            struct mesh_id id;
            struct mesh_id job; /* in which, and */
            uint32_t shard;     /* one of the shards it was wrong about */
            bool on;            /* false: forgiven; the two above are zero */
        } quarantine;
        struct {
            struct mesh_id job;
            uint64_t epoch;
            struct mesh_place place;
            uint32_t count;
            uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
        } dispute;
        struct {
            struct mesh_id job;
            uint64_t epoch;
            struct mesh_id executor; /* self for cache hits */
            bool cached;
            uint64_t handle;    /* the payload */
            uint64_t device_us; /* of the whole bundle */
            struct mesh_place place;
            uint32_t count;
            /* Shard numbers, and the place of each in the payload (the order of the ASSIGN or of the looked-up range). */
            struct {
                uint32_t shard;
                uint32_t place;
            } shard[MESH_LOOKUP_SHARDS_MAX];
        } commit;
    } body;
};

struct mesh_send {
    struct mesh_id to;
    bool early; /* need not wait for the step's saves */
    struct mesh_message message;
};

enum mesh_effect_kind {
    MESH_DROP = 1,     /* give a handle back to the host */
    MESH_SIGN,         /* sign this record of ours and hand it in as MESH_RECORD */
    MESH_LINK_KEEP,    /* keep a link to this neighbour; one that is up already is told of again: LINK_UP */
    MESH_LINK_RELEASE, /* the link is no longer needed by the overlay; the host may keep it for data */
    MESH_LINK_REDIAL,  /* dial once now; report LINK_DOWN if that fails */
    MESH_ADMIT,  /* the member's newest record is known: admit its keys (the host checks the certificate) */
    MESH_BAR,    /* the member was revoked: un-admit its keys, close its links */
    MESH_MEMBER, /* a member's state changed, for logs and listings */
    MESH_CLONED, /* another process signs with our identity: we go above it, and peers must hear it on every
                    link; `fatal`: it lives and was there first, stop */
    MESH_LOOKUP, /* look shards [first, first + count) up in the cache */
    MESH_RUN,    /* run this bundle; its payload is under `handle` until the attempt is dropped */
    MESH_STOP,   /* stop this attempt: report MESH_RAN with what was done, the rest MESH_RETURNED */
    MESH_JOB,    /* a job of ours changed state: accepted, refused, done, failed, cancelled */
    MESH_TAKE_OVER, /* we are the job's home now: read it back from our copy of its journal, and MESH_RESTORE it */
    MESH_SEND_LOG,     /* send entries [first, first + count) of a journal to a member, each as an APPEND */
    MESH_JOURNAL_OVER, /* the end of a job is settled, and no more entries come: not to be restored any more */
    /*
     * A member asks about a journal that we don't have: answer MESH_JOB_IS_OVER if it is that. If there are members, we
     * are one: answer MESH_JOURNAL_NEW if nothing of it was ever on this disk, or is on its way there.
     */
    MESH_JOURNAL_ASKED,
    MESH_QUARANTINED, /* as saved: what the member holds is void */
    MESH_DISPUTED,    /* committed results of a job of ours proved wrong; they stay as they are */
    MESH_DECISION,    /* one line of a job's story, for `weir explain` */
    MESH_ECHOED,      /* a member holds our latest capacity, so long after it was announced */
    MESH_DRAINED,     /* nothing runs here, nothing waits to be acknowledged, and no own job is live */
};

enum mesh_member_state {
    MESH_UP = 1,
    MESH_SUSPECT,
    MESH_DOWN,
    MESH_LEFT,
    MESH_REVOKED,
};

enum mesh_refusal {
    MESH_ACCEPTED = 0,
    MESH_REFUSED_BUSY,      /* jobs or shards are at their bound now */
    MESH_REFUSED_TOO_LARGE, /* more shards than this node ever takes */
    MESH_REFUSED_DRAINING,
    MESH_REFUSED_EMPTY,  /* no shard at all */
    MESH_REFUSED_COPIES, /* not enough members are up for the copies that the job insists on */
};

/* Why something happened to shards of a job; each is one word in `weir explain`. */
enum mesh_reason {
    MESH_WHY_RESERVED = 1, /* asked `member` for `count` places */
    MESH_WHY_GRANTED,      /* `member` granted `count` places */
    MESH_WHY_WAITS,        /* `member` has no place now and will offer one */
    MESH_WHY_NOBODY,       /* no member that is up has a device class that will do */
    MESH_WHY_ASSIGNED,     /* `count` shards from `shard` on went to `member` */
    MESH_WHY_DONE,         /* `member` reported `count` of them done */
    MESH_WHY_CACHED,       /* `count` shards came from the cache */
    MESH_WHY_RETURNED,     /* `member` gave `count` back, not run */
    MESH_WHY_CRASHED,      /* the attempt of `count` shards failed at `member` */
    MESH_WHY_REJECTED,     /* the kernel refused `shard` */
    MESH_WHY_MEMBER_DOWN,  /* `member` is down: `count` shards are queued again */
    MESH_WHY_RESTARTED,    /* `member` came back without its attempts: queued again */
    MESH_WHY_EXPIRED,      /* `member` no longer honoured the grant: queued again */
    MESH_WHY_LEASE_ENDED,  /* `member` did not renew in time: queued again */
    MESH_WHY_NO_KERNEL,    /* `member` has another version of the kernel, or none */
    MESH_WHY_SPECULATED,   /* `count` shards from `shard` on take long elsewhere and went to `member` too */
    MESH_WHY_OVERTAKEN,    /* another member was faster: `member` need not finish `count` shards */
    MESH_WHY_CHECKING, /* `count` shards whose results another site brought went to `member` to be computed again */
    MESH_WHY_AGREES,  /* `member` has the same results for `count` of them */
    MESH_WHY_DIFFERS, /* `member` has others for `count` of them: a third site decides */
    MESH_WHY_WRONG, /* `member` was wrong about `count` of them, and is barred: from this kernel, or quarantined */
    MESH_WHY_QUARANTINED, /* `member` is quarantined: what it had is queued again */
    MESH_WHY_DOUBTED,     /* `member` gets no more of this user's kernel: what it had is queued again */
    MESH_WHY_UNCHECKED,   /* no other site could compute the `count` shards that `member` brought again */
    MESH_WHY_UNDECIDED,   /* no two sites agree about `count` shards that `member` brought */
};

struct mesh_effect {
    enum mesh_effect_kind kind;
    union {
        uint64_t handle; /* DROP */
        struct mesh_record
            record;          /* SIGN; the host fills in body.member's address and the like, and the handle */
        struct mesh_id peer; /* LINK_*, BAR */
        struct {
            struct mesh_id id;
            uint64_t handle; /* of the member's record */
        } admit;
        struct {
            struct mesh_id id;
            enum mesh_member_state state;
            uint64_t incarnation;
            uint32_t accusers;
        } member;
        struct {
            bool fatal;
            uint32_t meetings; /* 1 may be an earlier life of ours that an old copy of the store forgot */
        } cloned;
        struct {
            struct mesh_id id;
            uint32_t after_ms;
        } echoed;
        struct {
            struct mesh_id job;
            uint64_t epoch;
            uint32_t first;
            uint32_t count;
        } lookup;
        struct {
            uint32_t attempt;
            struct mesh_id home;
            struct mesh_id job;
            uint64_t epoch;
            uint64_t tenant;
            uint64_t handle;
            uint16_t class;
            struct mesh_members others; /* of the job's journal, beside its home: they hold the inputs too */
            uint32_t count;
            uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
        } run;
        struct {
            uint32_t attempt;
        } stop;
        struct {
            struct mesh_id job;
            uint64_t epoch;
        } take_over;
        struct {
            struct mesh_id job;
            struct mesh_id to;
            uint64_t
                epoch; /* ours, for the APPENDs; as is settled. Entries' members are those saved with them */
            uint32_t settled;
            uint32_t first;
            uint32_t count;
        } send_log;
        struct {
            struct mesh_id job;
            bool whole; /* our copy holds all that was settled; otherwise it is good for nothing any more */
        } over;
        struct {
            struct mesh_id job;
            struct mesh_id from;
            uint64_t epoch;              /* that it would be home of */
            struct mesh_members members; /* none: we have no voice in it anyway */
        } asked;
        struct {
            struct mesh_id id;
            enum mesh_refusal refusal; /* with MESH_JOB_FAILED, if it was never accepted */
            enum mesh_job_state state;
        } job;
        struct {
            struct mesh_id id;
            struct mesh_id job;
            uint32_t shard;
            bool on;
        } quarantined;
        struct {
            struct mesh_id job;
            uint32_t shard; /* one of them */
            uint32_t count; /* more than before */
        } disputed;
        struct {
            struct mesh_id job;
            struct mesh_id member;
            enum mesh_reason why;
            uint32_t shard;
            uint32_t count;
        } decision;
    } body;
};

struct mesh_out {
    int64_t wake_at_ms; /* call with MESH_TICK no later than this */
    uint32_t save_count;
    uint32_t send_count;
    uint32_t effect_count;
    struct mesh_save save[MESH_OUT_SAVES_MAX];
    struct mesh_send send[MESH_OUT_SENDS_MAX];
    struct mesh_effect effect[MESH_OUT_EFFECTS_MAX];
};

/* Bytes that mesh_init needs for these limits. Untouched tables cost no memory if the host passes fresh zero pages. */
size_t mesh_size(const struct mesh_limits *limits);

/*
 * Makes a core in `memory`, which must be zeroed, aligned for max_align_t, mesh_size() bytes long, and stay with the
 * caller, who frees it after the last step. Asserts that the configuration is within the limits of limits.h.
 */
struct mesh *mesh_init(void *memory, const struct mesh_config *config);

/* Takes one event and overwrites `out`. Never fails: what a peer did wrong is dropped and counted. */
void mesh_step(struct mesh *mesh, const struct mesh_event *event, struct mesh_out *out);

/* Asserts every internal invariant: counters match lists, states are legal, bounds hold. For tests; takes O(state). */
void mesh_check(const struct mesh *mesh);

/*
 * The up to two owners of the cache pointers for `key`: rendezvous hashing over members that have been up for 10 min, or
 * over all that are up where those are fewer than three. Returns how many were written.
 */
uint32_t mesh_owners(const struct mesh *mesh, const struct mesh_id *key, struct mesh_id owner[2]);

/*
 * Whether of two members of one large site the first is chosen to report before the second: see mesh/tiers.h. For hosts that
 * lay out a mesh beforehand.
 */
bool mesh_reports_before(const struct mesh_id *one, const struct mesh_id *other);

/* Views for listings. Each returns false when `index` is past the last. Order: by id, self included. */
struct mesh_member_view {
    struct mesh_id id;
    enum mesh_member_state state;
    bool self;
    bool interior; /* its site keeps it to itself; see mesh/tiers.h */
    bool guest;    /* it belongs to no tier of ours: seen while we share work */
    bool neighbour;
    bool link_up;
    bool link_silent; /* a neighbour's: it has a session or had one, and nothing has come for long */
    uint64_t incarnation;
    uint64_t session;
    uint64_t record_handle; /* of the newest member record; borrowed: valid until the next step */
    uint64_t site;
    struct mesh_capacity capacity;
    int64_t capacity_at_ms; /* when its newest capacity record came; 0 = never */
    int64_t heard_at_ms;    /* when its link last brought anything; 0 = never (not a neighbour) */
    int64_t state_at_ms;
    uint32_t rtt_us; /* smoothed (RFC 6298); 0 = not measured */
    uint32_t accusers;
    uint32_t accuses;            /* how many members it accuses now */
    uint32_t delivered_permille; /* own average of places granted, and shards kept, of those promised */
    uint32_t confirmed;          /* results that others confirmed in a row, see mesh/verify.h */
    bool quarantined;
};
bool mesh_member_view(const struct mesh *mesh, uint32_t index, struct mesh_member_view *view);

/* What a neighbour's link carries: for how many live origins. The three add up to those that concern it. */
struct mesh_link_view {
    uint32_t protocol;   /* the version agreed on; 0 before a session */
    uint32_t trees_from; /* their records come to us over it */
    uint32_t trees_to;   /* we send copies of their records on over it */
    uint32_t lazy;       /* we send word of their records only */
};
/* False if that member is no neighbour. O(members). */
bool mesh_link_view(const struct mesh *mesh, const struct mesh_id *peer, struct mesh_link_view *view);

/* Whether most of our own links failed at once, so that we keep our accusations to ourselves for a while. */
bool mesh_doubts_itself(const struct mesh *mesh);

/* What one member says of the silence of another. */
struct mesh_opinion {
    struct mesh_id who;
    bool observer; /* it observes the other, by our view of the rings */
    bool accuses;  /* it says that the other is silent; false: it said that it no longer is, or nothing */
    int64_t said_at_ms; /* when its latest word on that came here; 0 = none is remembered */
};
#define MESH_OPINIONS_MAX (MESH_ACCUSATIONS_MAX + MESH_NEIGHBOURS_MAX)
/* All observers of a member, and whoever else accuses it: those who accuse first. Returns how many; 0 if it is unknown. */
uint32_t mesh_opinions(const struct mesh *mesh, const struct mesh_id *subject,
                       struct mesh_opinion opinion[MESH_OPINIONS_MAX]);
bool mesh_member_find(const struct mesh *mesh, const struct mesh_id *id, struct mesh_member_view *view);

struct mesh_job_view {
    struct mesh_id id;
    uint64_t epoch;
    enum mesh_job_state state;
    uint32_t shards;
    uint32_t looking_up;
    uint32_t queued;
    uint32_t assigned;
    uint32_t held; /* its result is here, and waits for a second site's */
    uint32_t committed;
    uint32_t checks;     /* that are open: wanted, or at a member */
    uint32_t cached;     /* of those committed */
    uint32_t reassigned; /* times a shard was queued again after it had been assigned */
    uint32_t copies;     /* of its journal */
    bool stalled;        /* too few of them answer: nothing is acknowledged until more do */
    bool changing;       /* one of them is being replaced */
    int64_t
        bind_in_ms; /* nothing is bound for so long: who may still run some of it is listened to; else 0 */
};
bool mesh_job_view(const struct mesh *mesh, uint32_t index, struct mesh_job_view *view);
bool mesh_job_find(const struct mesh *mesh, const struct mesh_id *id, struct mesh_job_view *view);

/* What a job's home has asked of one member. */
struct mesh_ask_view {
    uint32_t wanted; /* places asked for there and not granted yet */
    int64_t for_ms;  /* since that was said last */
    bool refused;    /* the job's kernel does not run there */
};

/* Returns false if the job is not ours, or nothing stands at that member. */
bool mesh_job_ask(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *member,
                  struct mesh_ask_view *view);

/*
 * How many in a thousand of that member's results are computed again, with that share of a trusted member's: for results
 * of it that did not come to us in a RESULT.
 */
uint32_t mesh_verify_permille(const struct mesh *mesh, const struct mesh_id *member, uint32_t permille);
/* Those in quarantine, known as members or not. False when `index` is past the last. */
bool mesh_quarantined(const struct mesh *mesh, uint32_t index, struct mesh_id *id);
/* Whether the member gets no more of our job's kernel, a user's: its results were wrong, or it gives what it likes. */
bool mesh_doubted(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *member);

/* A journal of several copies of which this node keeps one. */
struct mesh_journal_view {
    struct mesh_members members;
    struct mesh_id home; /* as far as we know; zero: nobody since the last one was lost */
    uint64_t epoch;      /* the latest that we promised */
    uint32_t last;       /* entries */
    uint32_t settled;
    bool leads;   /* we are the home, or have just been voted it */
    bool reigns;  /* the job is ours to go on with */
    bool stalled; /* what we appended waits for a majority for long */
};
bool mesh_journal_find(const struct mesh *mesh, const struct mesh_id *job, struct mesh_journal_view *view);
/* How many nodes, this one included, would keep the journal of a job that was submitted now and wishes for so many. */
uint32_t mesh_journal_copies(const struct mesh *mesh, uint32_t wished);

struct mesh_executor_view {
    struct mesh_class_capacity class[MESH_DEVICE_CLASSES];
    uint32_t running;
    uint32_t waiting;
    uint32_t granted; /* places promised and not yet used */
    uint32_t unacked; /* finished bundles whose home has not acknowledged */
    uint32_t demands;
    bool draining;
};
void mesh_executor_view(const struct mesh *mesh, struct mesh_executor_view *view);

/* Counters since init. Each names an event that the simulator wants to see happen and that metrics show. */
#define MESH_COUNTERS(X)                                                                                     \
    X(records_new)          /* records that advanced what we knew */                                         \
    X(records_old)          /* records already known, or older */                                            \
    X(copies_redundant)     /* of those, copies over a tree of what we held */                               \
    X(echoes)               /* members that told us when our news had come */                                \
    X(echoes_lost)          /* and that never did */                                                         \
    X(grafts_missing)       /* records asked for because they were told of and did not come */               \
    X(grafts_shorter)       /* links made part of a tree because it is shorter that way */                   \
    X(records_full)         /* dropped because the member table is full */                                   \
    X(alerts_sent)          /* accusations we signed */                                                      \
    X(alerts_withheld)      /* accusations we kept back because we doubted ourselves */                      \
    X(suspects)             /* members that became suspect */                                                \
    X(downs)                /* members that became down */                                                   \
    X(refutations)          /* accusations of ourselves that we refuted */                                   \
    X(resurrections)        /* members that came back from down by a higher incarnation */                   \
    X(retries_down)         /* links tried to members that are down */                                       \
    X(tombstones_dropped)   /* down or left members forgotten after their time */                            \
    X(seeks)                /* questions for places beyond those whom we know */                             \
    X(referrals)            /* members named in answer to such questions */                                  \
    X(capacities_unchanged) /* announcements spared: it was what it had been by the time one was due */      \
    X(summaries)            /* anti-entropy rounds begun */                                                  \
    X(repairs)              /* records sent because a summary differed */                                    \
    X(reserves)                                                                                              \
    X(grants)                                                                                                \
    X(refusals)        /* RESERVEs refused because the kernel does not run here */                           \
    X(grants_expired)  /* grants that ran out unused */                                                      \
    X(grants_released) /* places a home gave back */                                                         \
    X(waits)                                                                                                 \
    X(assigns)                                                                                               \
    X(assigns_expired) /* ASSIGNs answered EXPIRED */                                                        \
    X(results)                                                                                               \
    X(results_stale)     /* results of an older epoch or an unknown job, not committed */                    \
    X(results_duplicate) /* shards reported that were committed already */                                   \
    X(commits)           /* shards committed */                                                              \
    X(cache_hits)                                                                                            \
    X(requeued_down)     /* shards queued again because the executor was down */                             \
    X(requeued_restart)  /* because it restarted */                                                          \
    X(requeued_expired)  /* because it no longer honoured the grant */                                       \
    X(requeued_lease)    /* because the lease ended */                                                       \
    X(requeued_returned) /* because it gave them back */                                                     \
    X(requeued_crashed)                                                                                      \
    X(leases_lost)     /* attempts an executor stopped because its home fell silent */                       \
    X(copies)          /* second attempts at bundles that took too long */                                   \
    X(copies_first)    /* of them those that were faster than the first attempt */                           \
    X(copies_late)     /* of them those that the first attempt was faster than */                            \
    X(copies_needed)   /* of them those whose first attempt was lost */                                      \
    X(copies_withheld) /* looks at a slow bundle for which nothing was left in the budget */                 \
    X(delivered_us)    /* device time of results that were wanted */                                         \
    X(copies_us)       /* device time of copies: two percent of that at most, beyond an allowance */         \
    X(overtaken)       /* attempts an executor stopped because another one was faster */                     \
    X(checks)          /* bundles computed again elsewhere, to be compared */                                \
    X(checks_us)       /* device time of those */                                                            \
    X(checks_agreed)   /* shards that a second site computed to the same result */                           \
    X(checks_differed) /* and to another one: a third was asked */                                           \
    X(checks_skipped)  /* shards left unchecked: no other site had a place in time, or no check was free */  \
    X(undecided)       /* shards about which no two of three agreed */                                       \
    X(caught)          /* members caught with a wrong result */                                              \
    X(doubted)         /* times a member's results of a user's kernel were wrong: it gets no more of it */   \
    X(disputed)        /* committed shards that proved wrong */                                              \
    X(requeued_caught) /* shards queued again because their executor was caught */                           \
    X(cancels)                                                                                               \
    X(entries)        /* appended to journals as their home */                                               \
    X(entries_taken)  /* taken from another node's journal */                                                \
    X(entries_resent) /* sent from the disk, because a member lacked them */                                 \
    X(entries_fenced) /* refused: of an older epoch than we promised */                                      \
    X(entries_void)   /* replaced by a later home's */                                                       \
    X(elections)      /* times we stood */                                                                   \
    X(votes)          /* given to others */                                                                  \
    X(unheard)        /* journals of which a candidate was the first to tell us */                           \
    X(takeovers)      /* jobs that became ours */                                                            \
    X(step_downs)     /* jobs that were ours and went to another home */                                     \
    X(stalls)         /* times a journal of ours had no majority for a while */                              \
    X(changes)        /* members of our journals replaced or added */                                        \
    X(handovers)      /* times we asked another member to be a job's home */                                 \
    X(disks_lost)     /* times our disk was seen to have forgotten something */                              \
    X(adoptions)      /* attempts of a lost home taken over */                                               \
    X(orphans_freed)  /* results of lost homes that made room for new attempts */                            \
    X(bound_journals)                                                                                        \
    X(bound_waiters)                                                                                         \
    X(bound_demands) /* times each bound was reached */                                                      \
    X(bound_attempts)                                                                                        \
    X(bound_bundles)                                                                                         \
    X(bound_checks)                                                                                          \
    X(bound_jobs)                                                                                            \
    X(bound_awaited)                                                                                         \
    X(bound_missing)                                                                                         \
    X(bound_shards)                                                                                          \
    X(bound_out)    /* steps that went on in the next one because their output was full */                   \
    X(bad_messages) /* messages that were well formed and made no sense */

struct mesh_counters {
#define MESH_COUNTER_FIELD(name) uint64_t name;
    MESH_COUNTERS(MESH_COUNTER_FIELD)
#undef MESH_COUNTER_FIELD
};
const struct mesh_counters *mesh_counters(const struct mesh *mesh);

#endif
