/*
 * The messages that cores exchange, as typed values. The host encodes them for the wire (node/wire.h lists the frames)
 * and hands received ones in after it has checked types, ranges and counts, admission and signatures.
 *
 * Variable-length parts stand last in each struct, so that mesh_message_bytes() is a prefix which may be copied alone.
 * A `handle` names bytes that the host holds: a signed record, the inputs of a bundle, its results. Zero is none.
 */
#ifndef MESH_MESSAGE_H
#define MESH_MESSAGE_H

#include "mesh/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mesh_id {
    uint8_t bytes[32];
};

/*
 * A signed record as the core sees it. Only its origin advances a record: the greatest (incarnation, version) of one
 * (kind, origin) wins, and for alerts and revocations of one (kind, origin, subject). The host keeps the signed bytes
 * under `handle` and relays exactly those.
 */
enum mesh_record_kind {
    MESH_RECORD_MEMBER = 1, /* who and where a node is */
    MESH_RECORD_CAPACITY,   /* what it can run now; overwritten in place, never queued */
    MESH_RECORD_ALERT,      /* an observer accuses a member of silence, or withdraws that */
    MESH_RECORD_REVOCATION, /* an issuer withdrew a node's certificate */
};

/* Why a node lends less than it has, for people; placement goes by the slots alone. */
enum mesh_fault {
    MESH_FAULT_NONE,
    MESH_FAULT_DEVICE, /* a device's workers failed again and again: its slots are withdrawn */
    MESH_FAULT_DISK,   /* no room, or no luck, on its disk: all slots are withdrawn until that is mended */
};

struct mesh_class_capacity {
    uint16_t slots;   /* lendable places for one shard at a time */
    uint16_t free;    /* slots neither running nor granted */
    uint16_t waiting; /* bundles accepted and not yet running, and places that homes wait for */
};

/* All devices of a site's interior. */
struct mesh_site_capacity {
    uint32_t members;
    uint32_t slots[MESH_DEVICE_CLASSES];
    uint32_t free[MESH_DEVICE_CLASSES];
};

struct mesh_capacity {
    struct mesh_class_capacity class[MESH_DEVICE_CLASSES]; /* [0] CPU, [1] CUDA */
    uint32_t price_micro; /* asked price, millionths of the federation's unit per device-second */
    int64_t
        available_until_ms; /* wall time until which the slots are expected to be lendable; 0 = open-ended */
    bool draining;          /* takes no new work, still returns results */
    uint8_t fault;          /* enum mesh_fault */
    uint64_t details; /* own record only: stands for what the host adds to it, which is announced with it */
    uint16_t
        no_users; /* bit per device class on which users' kernels do not run, for want of a compiler or a sandbox */
    uint8_t resident_count;
    uint32_t resident[MESH_RESIDENTS_MAX]; /* others' records only: names of blobs that its workers hold */
    /* Of a reporter: what its site has behind it, see tiers.h; no members where the site has no interior. */
    struct mesh_site_capacity site;
};

struct mesh_record {
    enum mesh_record_kind kind;
    struct mesh_id origin;
    uint64_t incarnation;
    uint64_t version;
    uint64_t handle;
    union {
        struct {
            uint64_t
                session;   /* one per process start: wall ms in the upper 44 bits, then 20 random ones; of two
                                 processes with one identity the lower session is the elder */
            uint64_t site; /* hash of the site's name */
            uint64_t region; /* hash of the region's name; the fourth ring is ordered by it */
            bool leaving;    /* the last record of a node that goes on purpose */
            bool interior;   /* its site keeps it to itself, see tiers.h */
        } member;
        struct mesh_capacity capacity;
        struct {
            struct mesh_id subject;
            uint64_t subject_incarnation;
            bool accuses; /* false: the accuser withdraws */
        } alert;
        struct {
            struct mesh_id subject;
        } revocation;
    } body;
};

enum mesh_message_kind {
    /* Links. */
    MESH_PING = 1,
    MESH_PONG,
    /* Gossip. */
    MESH_PUSH,    /* one record, outside the trees: flooded, or what the receiver lacks */
    MESH_SUMMARY, /* bucket hashes over all records but alerts and capacities */
    MESH_ENTRIES, /* the records in the buckets that differ, by name and version */
    MESH_WANT, /* names of records the sender lacks or holds in an older version; of capacities its own version */
    /* Placement and execution. */
    MESH_RESERVE,
    MESH_GRANT,
    MESH_WAIT,
    MESH_RELEASE,
    MESH_ASSIGN,
    MESH_EXPIRED,
    MESH_RESULT,
    MESH_RESULT_ACK,
    MESH_RENEW,
    MESH_RENEWED,
    MESH_CANCEL,
    /* Gossip along the trees, see mesh/tree.h. */
    MESH_SPREAD, /* one record, as its origin's tree takes it */
    MESH_HAVE,   /* names of records that the sender holds */
    MESH_GRAFT,  /* send me the records of these origins, from these on; each names what the sender holds */
    MESH_PRUNE,  /* give me only word of the records of these origins */
    /* Journals, see mesh/journal.h. */
    MESH_ASSIGN_KEPT, /* an ASSIGN of a job whose journal others keep too */
    MESH_APPEND,      /* one entry for a member of the journal */
    MESH_APPENDED,    /* how far the member is */
    MESH_VOTE,        /* a candidate asks to be the job's home */
    MESH_VOTED,
    MESH_BEAT,    /* a home tells members of its journals how far they are */
    MESH_REPORT,  /* an executor whose home is lost tells the journal's members of an attempt */
    MESH_ADOPTED, /* the new home takes that attempt over */
    /* How long a record takes to a member, measured where it began, see mesh/echo.h. */
    MESH_AWAIT, /* answer once you hold this capacity of mine, or a newer one */
    MESH_ECHO,
    /* Journals again. */
    MESH_HAND_OVER, /* a home that drains: stand for election now; and to executors: somebody has */
    MESH_DISK,      /* how far our disk is, and how far we have seen yours, see mesh/disk.h */
    /* Placement, from version 2 on. */
    MESH_WISH,
    MESH_MESSAGE_KINDS,
};

/* Names one bundle: the grant that carried it and its place in that grant. Tokens are unique per executor incarnation. */
struct mesh_bundle_name {
    uint64_t token;
    uint32_t index;
};

enum mesh_outcome {
    MESH_DONE = 1, /* the result is in the payload */
    MESH_RETURNED, /* not run: drained, reclaimed, cancelled by the executor; no blame, no bill */
    MESH_CRASHED,  /* the attempt failed with the worker: crash, hang, device fault; counts as an attempt */
    MESH_REJECTED, /* the kernel says that the input is wrong: fails the job, since it would fail anywhere */
};

/* What an entry of a job's journal says. Its bytes are the host's. */
enum mesh_entry_kind {
    MESH_ENTRY_SUBMIT = 1, /* the first of every journal: the job's description */
    MESH_ENTRY_COMMIT,     /* results of shards */
    MESH_ENTRY_END,        /* done, failed or cancelled */
    MESH_ENTRY_TAKEOVER,   /* a new home's first; no bytes */
    MESH_ENTRY_CHANGE,     /* the journal's members from here on; no bytes besides */
    MESH_ENTRY_DISPUTE,    /* committed shards that proved wrong */
};

/*
 * Who keeps a journal. A copy is named by its node and the incarnation that the node had when it was chosen: what was on
 * its disk before it lost some of it is another copy, see mesh/disk.h. While one is replaced the set before and the set
 * after stand here together, and nothing is settled without a majority of each; see mesh/change.c.
 */
struct mesh_members {
    uint32_t number; /* of this configuration: 1 at the submit, one more with every change */
    uint32_t count;
    uint32_t joining; /* 1 + the place of the one that is not in the set before; 0 = none */
    uint32_t leaving; /* 1 + the place of the one that is not in the set after; 0 = none */
    struct mesh_id id[MESH_COPIES_MAX + 1];
    uint64_t storage[MESH_COPIES_MAX + 1]; /* in a list of nodes alone: 0 */
};

struct mesh_entry {
    struct mesh_id origin;
    uint32_t kind;          /* enum mesh_record_kind */
    struct mesh_id subject; /* of a revocation; otherwise zero */
    uint64_t incarnation;
    uint64_t version;
};
/*
 * In a WANT an entry with a zero origin asks for any: of kind MEMBER, for members of the upper tier; of kind CAPACITY, for
 * members with free places, `version` of them on the classes whose bits `incarnation` has.
 */

/* Names a record of a tree in few bytes. Where two origins share a prefix, one is served by anti-entropy alone. */
struct mesh_word {
    uint64_t origin; /* the first eight bytes of its id */
    uint32_t kind;   /* MESH_RECORD_MEMBER or _CAPACITY */
    uint8_t hops;    /* of HAVE: links that it crossed on its way to the sender */
    uint64_t incarnation;
    uint64_t version;
};

struct mesh_message {
    enum mesh_message_kind kind;
    union {
        /* The host stamps a PING with its own microseconds when it sends it; the core returns the stamp in the PONG. */
        struct {
            uint64_t stamp_us;
        } ping;
        struct {
            struct mesh_record record;
            uint8_t hops; /* of SPREAD: links crossed when it arrives, at least 1; of PUSH 0 */
        } push;           /* PUSH, SPREAD */
        struct {
            uint64_t incarnation;
            uint64_t version;
        } echo; /* AWAIT, ECHO */
        struct {
            uint64_t bucket_hash[MESH_BUCKETS];
        } summary;
        struct {
            uint64_t buckets; /* bit b set: bucket b is listed in full here (all of it fits) */
            uint32_t count;
            struct mesh_entry entry[MESH_ENTRIES_MAX];
        } entries; /* and MESH_WANT, where `buckets` is 0 */
        struct {
            uint32_t count;
            struct mesh_word word[MESH_WORDS_MAX]; /* of PRUNE the origin alone */
        } words;                                   /* HAVE, GRAFT, PRUNE */
        /*
         * Home asks an executor for places for bundles of one job. It replaces the home's earlier demand for that
         * job there; wanted = 0 withdraws it. The executor answers GRANT or WAIT, and a WAIT stands for 40 s.
         * A WISH is a RESERVE that says in what order it wants to be served, too. A patient one counts on nothing that
         * is free now: only places are an answer.
         */
        struct {
            struct mesh_id job;
            uint64_t epoch;
            uint64_t tenant; /* hash of the tenant's name */
            uint64_t kernel; /* hash of the kernel's digest */
            uint64_t memory_bytes;
            uint32_t price_limit_micro; /* 0 = none */
            uint16_t classes;           /* bit per device class that will do */
            uint16_t wanted;            /* bundles */
            bool deep;                  /* places behind a running bundle will do: the bundles are short */
            uint32_t waited_ms;         /* of WISH: since the job was submitted */
            bool patient;               /* of WISH */
        } reserve;                      /* RESERVE, WISH */
        struct {
            struct mesh_id job;
            uint64_t token;
            uint16_t places; /* 0, with token 0: refused, the kernel of that job does not run here */
            uint16_t class;
            uint32_t valid_ms; /* from receipt, on the receiver's clock; the executor waits 25 % longer */
        } grant;
        struct {
            struct mesh_id job;
        } wait;
        /* Home gives back places of a grant that it does not need. */
        struct {
            uint64_t token;
            uint16_t places;
        } release;
        /* Home hands over a bundle. Idempotent by name. The payload (inputs, keys, parameters) is the host's. */
        struct {
            struct mesh_bundle_name name;
            struct mesh_id job;
            uint64_t epoch;
            uint64_t tenant;
            uint64_t kernel;
            uint64_t handle;
            uint16_t class;
            struct mesh_members
                others; /* of the job's journal, beside the home: whom to tell if it is lost */
            uint32_t count;
            uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
        } assign;
        /* The executor no longer honours that name: the home binds the shards elsewhere. */
        struct {
            struct mesh_bundle_name name;
            struct mesh_id job;
            uint64_t epoch;
        } expired;
        /* The executor reports a whole bundle. Sent again every 2 s until acknowledged. */
        struct {
            struct mesh_bundle_name name;
            struct mesh_id job;
            uint64_t epoch;
            uint64_t handle;
            uint64_t device_us; /* device time of the whole bundle */
            uint32_t count;
            struct {
                uint32_t shard;
                uint32_t outcome; /* enum mesh_outcome */
            } shard[MESH_BUNDLE_SHARDS_MAX];
        } result;
        /* Home is done with that bundle (its commit is durable, or the job is no longer live): forget it. */
        struct {
            struct mesh_bundle_name name;
        } result_ack;
        /* Executor to home: these attempts live. Home to executor (RENEWED): these leases go on. */
        struct {
            uint32_t count;
            struct mesh_bundle_name name[MESH_RENEW_MAX];
        } renew;
        /* Home to executor: stop these attempts of that job with an epoch up to this one. */
        struct {
            struct mesh_id job;
            uint64_t epoch;
        } cancel;
        /*
         * Home to a member of the job's journal: entry `index`. It fits behind the entry before it if that is of
         * epoch `before_epoch` there; then it replaces whatever of another epoch stands at its place and after it.
         * A host that knows the job to be over does not hand in the first entry: it answers MESH_JOB_IS_OVER.
         */
        struct {
            struct mesh_id job;
            uint64_t epoch; /* of the home that sends it */
            uint64_t entry_epoch;
            uint64_t before_epoch;       /* 0 with index 1 */
            uint32_t index;              /* from 1 on */
            uint32_t settled;            /* entries up to here are held by a majority */
            uint64_t sequence;           /* of the home's disk, durable before this entry; 0 = not said */
            uint32_t kind;               /* enum mesh_entry_kind */
            struct mesh_members members; /* of the journal from here on; with index 1 and CHANGE, else none */
            uint64_t handle;             /* the entry's bytes; 0 = none */
        } append;
        struct {
            struct mesh_id job;
            uint64_t epoch; /* the highest that the member has promised */
            uint32_t last;
            /* The member knows the job's end to be settled and forgot the journal. `last`, unless 0, was its last
               entry, of epoch `last_epoch`. */
            bool over;
            uint64_t last_epoch;
            bool
                held; /* entries up to `last` are durable there, as the home has them; else only a hint where to go on */
            uint64_t storage;  /* its disk is whole since this incarnation: an older copy is lost */
            uint64_t sequence; /* of its disk */
        } appended;
        struct {
            struct mesh_id job;
            uint64_t epoch; /* that it wants to be home of */
            uint64_t last_epoch;
            uint32_t last;
            bool asks;                   /* would you? Nothing is promised yet, and no epoch used up */
            bool handed;                 /* the home itself wants it */
            uint64_t sequence;           /* of the candidate's disk; 0 = not said */
            struct mesh_members members; /* by the candidate's log; none where that is empty */
        } vote;
        struct {
            struct mesh_id job;
            uint64_t epoch; /* granted: that epoch; else the highest that the member knows of */
            bool granted;
            bool asks; /* as in the VOTE */
            uint32_t
                number; /* of the settled configuration that the candidate has no place in; 0 = it has one */
            uint64_t storage;  /* as in APPENDED */
            uint64_t sequence; /* of its disk */
        } voted;
        struct {
            uint64_t sequence; /* of the home's disk */
            uint32_t count;
            struct {
                struct mesh_id job;
                uint64_t epoch;
                uint32_t last;
                uint32_t settled;
                bool over; /* its end is settled: nothing more comes */
            } journal[MESH_BEATS_MAX];
        } beat;
        /* An attempt that lives, as it was assigned. Sent to the journal's members until one of them adopts it. */
        struct {
            struct mesh_bundle_name name;
            struct mesh_id job;
            uint64_t epoch;
            uint16_t class;
            uint32_t count;
            uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
        } report;
        struct {
            struct mesh_bundle_name name;
            uint64_t epoch; /* of the new home */
        } adopted;
        struct {
            struct mesh_id job;
            uint64_t epoch; /* of the home that wants to be replaced, */
            bool done;      /* or has been: to the job's executors */
            struct mesh_id
                home; /* done: who the home is now, or may be some day, though they don't know it as a member yet; zero: not the sender */
        } hand_over;
        struct {
            uint64_t sequence; /* of the sender's disk */
            uint64_t seen;     /* the highest that it ever saw of the receiver's */
            bool asks;         /* wants an answer */
        } disk;
    } body;
};

/* Returns the bytes of the prefix of `message` that is in use. */
size_t mesh_message_bytes(const struct mesh_message *message);

/* Returns the version of the protocol in which that kind began: it is not sent on links of an earlier one. */
uint32_t mesh_message_since(enum mesh_message_kind kind);

/* Returns the kind's name in lower case, for logs, metrics and transcripts; "unknown" for others. */
const char *mesh_message_name(enum mesh_message_kind kind);

#endif
