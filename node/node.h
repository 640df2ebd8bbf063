/*
 * The node: what `weir node` runs. One struct holds its parts; each part is a file and is called by name:
 *
 *     node.c      opens the parts in order, runs the loop, closes them in reverse
 *     host.c      drives the core: events in, saves made durable, sends and effects let go
 *     records.c   signed records: verify what comes in, sign what the core asks for, know the peers' names
 *                 and addresses
 *     jobs.c      jobs at home: submit, commit, outputs, restart, takeover
 *     copies*.c   journals of several copies: what is kept here of them, for our own jobs and for others'
 *     resync*.c   finished jobs that a disk that was put back forgot
 *     take.c      one finished job, from another node that keeps it
 *     keep*.c     finished jobs that others are asked to keep: what was done at once,
 *     handover.c  and what too few others keep, or would when this node leaves
 *     execute.c   bundles of others (and our own) on this node's workers
 *     disk.c      lends nothing while the disk is full
 *     cache*.c    the result cache across nodes: the side that asks, and the one that answers
 *     holders.c   who holds a blob
 *     holds.c     blobs kept for clients and homes that are about to need them
 *     ops*.c      the local API's calls
 *     relay*.c    and those about jobs whose home is elsewhere
 *     calls.c     what nodes ask each other, and how it is answered
 *     metrics.c   what /metrics says
 *
 * All of it runs on the loop's thread; threads of its own have the store, bulk, ZAP and the background tasks,
 * and each hands its results to the loop.
 */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "mesh/mesh.h"
#include "node/admission.h"
#include "node/api.h"
#include "node/background.h"
#include "node/bulk.h"
#include "node/bytes.h"
#include "node/canary.h"
#include "node/claims.h"
#include "node/config.h"
#include "node/cores.h"
#include "node/duration.h"
#include "node/federation.h"
#include "node/job.h"
#include "node/join.h"
#include "node/leases.h"
#include "node/loop.h"
#include "node/owner.h"
#include "node/record_body.h"
#include "node/renewal.h"
#include "node/samples.h"
#include "node/sighting.h"
#include "node/transport.h"
#include "node/watch.h"
#include "node/workers.h"
#include "store/store.h"

#include <string.h>

#define NODE_SOFTWARE "0.2.0"

struct node;
struct node_commit;

/* Called on the loop once a batch is durable, or could not be made so. */
typedef void node_committed(struct node *node, void *context, enum store_error error);

/* ---- host.c */

struct host_event;
struct host_release;

struct host {
    struct mesh *mesh;
    void *memory;
    uint64_t *kernels; /* those that run here, for the core */
    struct handles handles;
    struct host_event *head; /* events not yet stepped */
    struct host_event **tail;
    int64_t wake_at_ms;
    struct mesh_out *out;
    uint32_t saving; /* steps whose saves are on their way to the disk, and their sends not let go for that */
};

/* ---- records.c */

/* What a member's newest record says, for dialling and for people. One that was revoked before this node
 * started is here for people only: the core is never told of it. */
struct peer {
    struct mesh_id id;
    bool known;        /* a member record was accepted */
    bool barred;       /* revoked before this node started */
    bool says_revoked; /* it refused our certificate as revoked, and no link came up since */
    int64_t revoked_s; /* of a barred one, when; 0 = its inviter was */
    char *revoked_why; /* what the operator who revoked it wrote; NULL: nothing, or its inviter was revoked */
    uint64_t incarnation; /* of a barred one's record */
    char name[64];
    char site[64];
    char region[64];
    char control[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char bulk[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char join[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char software[WIRE_SOFTWARE_BYTES_MAX + 1];
    struct curve_public curve;
    struct curve_public join_curve;
    uint32_t rights;
    uint8_t serial[CERTIFICATE_SERIAL_BYTES];
    int64_t certificate_ends_s;
    int64_t clock_ahead_s;       /* of ours; 0 = near it. Behind: negative */
    int64_t clock_told_at_ms;    /* when its last capacity record said so; 0 = never */
    int64_t introduced_at_ms;    /* when we last showed it our certificate on its join socket; 0 = never */
    struct samples *round_trips; /* in microseconds; NULL until one was measured */
    struct capacity_devices *devices; /* as its newest capacity record has them; NULL = it has none */
    uint64_t devices_incarnation;
    uint64_t devices_sequence;
};

struct peers {
    struct peer *peer; /* sorted by id */
    uint32_t count;
    uint32_t capacity;
};

/* ---- jobs.c */

#define JOBS_BUCKETS 4096
#define REVIVED_MAX 16u       /* finished jobs put together at once because other members lack them */
#define KEEP_REFUSERS_MAX 64u /* nodes of an earlier version that are not asked again */
#define TAKES_FAILED_MAX 32u  /* jobs that we were to keep and that did not come, while their home may ask */
#define JOBS_KEPT_MAX 100000  /* finished ones included; the oldest finished ones go first */

/* Which bucket of the tables of jobs and of copies: ids are digests. */
static inline uint32_t jobs_bucket(const struct mesh_id *id)
{
    uint32_t hash;
    memcpy(&hash, id->bytes, sizeof hash);
    return hash % JOBS_BUCKETS;
}

struct result_wait;
struct jobs {
    struct job *head; /* oldest first */
    struct job **tail;
    struct job *bucket[JOBS_BUCKETS];
    uint32_t count;
    uint32_t tended;             /* finished ones that the core keeps for members of their journals */
    uint32_t again;              /* takeovers that are to be tried again */
    uint32_t unstored;           /* jobs whose outputs could not be stored and are tried again */
    uint32_t submitters;         /* calls that wait for their acknowledgement */
    int64_t tell_at_ms;          /* when the next of them may be told why */
    struct result_wait *results; /* RESULTs whose blobs are on their way */
    uint32_t inputs_coming;      /* of such jobs */
    uint64_t taken_back;         /* finished ones that were had from other members: resync.c */
    int64_t prune_at_ms;
};

/* ---- verify.c */

/* What a member brought until then is not used from the cache, whether it was forgiven since or not. */
#define VOIDED_MAX 512 /* one more, and everything until then is void: the row of nobody */
struct voided {
    struct mesh_id id; /* zero: everybody */
    int64_t at_ms;     /* wall */
};

/* A member in quarantine, and what it was wrong about. */
struct caught {
    struct mesh_id id;
    struct mesh_id job;
    uint32_t shard;
    int64_t at_ms; /* wall */
};

/* ---- copies.c */

/*
 * A journal of several copies, of which this node keeps one. Born of its first entry, or of a promise to a candidate that
 * asked before that came; the core decides what it says.
 */
struct copy {
    struct copy *chain; /* in the same bucket of the table */
    struct mesh_id job;
    uint64_t
        promised; /* of the latest promise, and whom to; of a journal that is over, the epoch in which it ended */
    struct mesh_id voted;        /* and the home of that epoch, where that is known */
    struct mesh_id home;         /* when it ended, as long as it isn't over; zero: not known */
    struct mesh_members members; /* the latest, as an entry or the promise before the first one named them;
                                    none: the entries have to be read (copies_members) */
    uint64_t chosen; /* the incarnation at which this node was chosen for it, the latest where it was twice */
    uint64_t reign;  /* the latest epoch of which this node is or was the home; 0 = none */
    uint32_t last;   /* entries 1 to last are saved, or in a batch that will be */
    uint64_t last_epoch;
    uint32_t end;                  /* the entry that holds the job's end; 0 = none */
    enum mesh_job_state end_state; /* with `end` */
    int64_t ended_at_ms;           /* wall */
    bool over;                     /* the core has forgotten it: all members hold the end */
    bool whole;                    /* over: our copy has all that was settled */
    bool damaged;       /* its entries here are gone, in part or all: it was not handed to the core */
    int64_t hand_at_ms; /* nobody took it when it was handed on: not before then again (handover.c) */
    uint32_t sweeps;    /* of its entries and pins, under way */
};

struct relay;    /* relay.c */
struct remote;   /* calls.c */
struct question; /* calls.c */

struct append_wait;
struct copies {
    struct copy *bucket[JOBS_BUCKETS];
    uint32_t count;
    struct append_wait *waits; /* entries of other homes that wait for blobs, as they came */
    uint32_t wait_count;
    bool left_out;      /* some found no room in the core when the node started */
    uint64_t forgotten; /* the highest incarnation at which a copy was chosen of which nothing is left here */
    uint64_t refused;   /* entries that made no sense */
    uint64_t blobs_fetched; /* that entries named */
    uint64_t blob_bytes;
    uint64_t blobs_missed;
};

/* ---- execute.c */

struct attempt;

struct execute {
    struct attempt *attempts; /* a list of those not yet reported */
    uint64_t next_bundle;
    int64_t retry_at_ms; /* attempts that wait for a worker are tried again then */
};

/* ---- devices.c: this node's devices and their owner */

struct device {
    struct owner owner;
    char name[24];        /* as workers_view has it */
    struct claims claims; /* of `weir reclaim`, kept in the store too */
    bool held;            /* nothing new is started there, as the workers were told */
    uint32_t reclaims;
    int64_t gone_at_ms; /* since when no worker of ours is there; 0 = one is */
    /* Of a GPU, as the watcher sees it. */
    struct witness witness;
    int64_t seen_at_ms;    /* when it last was; 0 = never */
    uint64_t memory_bytes; /* 0 = unknown */
    uint32_t
        xid; /* the error for which the driver blamed it last, 0 = none: stays until the node is restarted */
    char vanished[160]; /* "" = no; why the driver can't see it any more, or what it blames it for */
    int lock; /* that this node alone of this machine lends it; -1 = another does, or it is no GPU */
    int64_t lock_at_ms; /* when that is tried again */
    struct scores scores;
    int64_t measure_at_ms; /* when its canary is due */
};

struct devices {
    struct device *device; /* [count], in the workers' order */
    uint32_t count;
    struct reclaim_wait *waits; /* calls that wait for devices to be free */
    struct samples reclaim_ms;
    uint64_t reclaims;
    int listeners[WATCH_LISTENERS_MAX]; /* for opens of GPUs (node/watch.h) */
    uint32_t listener_count;
    struct watch *watch; /* NULL = no GPU is lent */
    struct canary *canary;
    struct cores cores;  /* work.cpu_slots = auto: what others leave, looked at */
    int64_t cores_at_ms; /* then */
    uint32_t cores_left;
};

/* ---- disk.c */

struct disk {
    enum store_error error; /* why nothing is lent now; STORE_OK = the disk does its work */
    bool trying;
    int64_t try_at_ms;
    int64_t pause_ms;
    int64_t room_at_ms; /* when it last had room again; 0 = never was without */
    uint64_t failures;  /* outputs, results and inputs that could not be stored */
};

/* ---- cache.c */

struct cache_lookup;
struct cache_claim;

#define CACHE_SITES_MAX 64

struct cache {
    struct cache_lookup *lookups;
    struct cache_claim *claims; /* jobs of ours that hold leases */
    struct leases *leases;      /* of the keys that we own */
    uint64_t next_request;
    uint64_t lies; /* entries that could not be the results of their keys */
    /* Results that jobs here did not have to compute, by the site they came from; our own too. */
    struct {
        char name[64];
        uint64_t hits;
    } site[CACHE_SITES_MAX];
    uint32_t site_count;
};

/* ---- holders.c, ops_blobs.c */
struct holder_search;
struct blob_watch;

/* ---- holds.c */
struct hold;
struct results;

/* Blobs that are held together; zeroed to begin with. */
struct held {
    struct digest *blob; /* [room] */
    uint32_t count;
    uint32_t room;
    uint64_t bytes; /* what counts of them against store.cache */
};

#define HOLDS_BUCKETS 256
#define HOLDS_CACHES 4 /* what may be held together, in parts as large as store.cache: beside it, not of it */
struct holds {
    struct hold *bucket[HOLDS_BUCKETS];     /* by blob */
    struct results *results[HOLDS_BUCKETS]; /* of ended bundles, by the core's handle */
    uint64_t result_bytes;                  /* held of all bundles */
    uint64_t upload_bytes;                  /* and of all connections, each blob once */
};

/* What a connection of the local API uploaded for its next job: JOB_BLOBS_MAX at most. It is held until that job holds it;
 * if the submit was refused, until the connection uploads for another; and until the connection ends. Together it is no
 * more than fits into store.cache. */
struct uploads {
    struct held held;
    bool submitted; /* and refused: what comes next is for another job */
};

/* ---- ops_mesh.c: pings that a user waits for */
struct ping_wait;

/* Why a record from a peer was dropped: it reached neither the core nor anybody else. */
#define RECORD_REFUSALS(X)                                                                                   \
    X(bad_signature)                                                                                         \
    X(other_federation)                                                                                      \
    X(not_yet_valid)                                                                                         \
    X(expired)                                                                                               \
    X(too_long)                                                                                              \
    X(malformed)                                                                                             \
    X(untrusted) /* its origin is unknown here, its certificate is not good for it, or its body is none */
struct record_refusals {
#define RECORD_REFUSAL_FIELD(name) uint64_t name;
    RECORD_REFUSALS(RECORD_REFUSAL_FIELD)
#undef RECORD_REFUSAL_FIELD
};

struct node {
    struct config config;
    struct federation *federation;
    struct mesh_id self;
    uint64_t session;
    char control[TRANSPORT_ADDRESS_BYTES_MAX + 1]; /* as advertised */
    char bulk_address[TRANSPORT_ADDRESS_BYTES_MAX + 1];
    char join_address[TRANSPORT_ADDRESS_BYTES_MAX + 1];
    char scratch[CONFIG_TEXT_BYTES + 16]; /* DATA/scratch: unlinked files of jobs in progress */
    char worker_path[CONFIG_TEXT_BYTES];  /* of weir-worker */
    int64_t started_at_ms;
    uint64_t incarnation;

    struct loop *loop;
    struct store *store;
    struct background *background;
    struct workers *workers;
    void *zmq;
    struct admission *admission;
    struct zap *zap;
    struct transport *transport;
    struct bulk *bulk;
    struct join_server *join;
    struct join_client *join_client;
    struct invites *invites;
    struct renewal *renewal;
    struct api *api;
    struct http *http;

    struct host host;
    struct peers peers;
    struct execute execute;
    struct disk disk;
    struct devices devices;
    struct cache cache;
    struct jobs jobs;
    struct caught caught[MESH_QUARANTINED_MAX];
    uint32_t caught_count;
    struct voided voided[VOIDED_MAX]; /* in no order */
    uint32_t voided_count;
    struct holder_search *searches;
    struct blob_watch *blob_watches; /* clients that wait for a blob from elsewhere */
    struct holds holds;
    struct copies copies;
    struct resync *resync;  /* finished jobs are asked back; NULL: none is missing here, as far as is known */
    struct taking *takings; /* finished jobs on their way here: take.c */
    uint32_t taking_count;
    struct input_wait *inputs_wanted; /* of jobs that were taken, the latest first: take.c */
    struct keeping *keepings;         /* finished jobs that others are asked to keep: keep.c */
    struct keep_refuser {
        struct mesh_id id;
        uint64_t session;
    } keep_refuser[KEEP_REFUSERS_MAX]; /* zero: none; keep.c */
    uint32_t keep_refuser_next;
    struct mesh_id takes_failed[TAKES_FAILED_MAX]; /* zero: none; keep_serve.c */
    uint32_t takes_failed_next;
    int64_t handover_at_ms;
    uint32_t handed, handed_to_nobody;   /* at the end of a drain: jobs, and those that nobody took */
    uint32_t handover_looks;             /* until now */
    struct handover *handover;           /* finished jobs that too few keep; NULL: enough do, as of late */
    uint64_t disks_lost;                 /* the core's counter, as far as it was heeded */
    struct mesh_id revived[REVIVED_MAX]; /* jobs last put together because a member lacks them: resync.c */
    struct key_pending *keys;            /* registrations on their way to the disk: keys.c */
    int64_t keys_prune_at_ms;
    struct relay *relays;       /* calls of our clients about jobs of other nodes */
    struct remote *remotes;     /* and calls of theirs about ours */
    struct question *questions; /* of our own to other nodes */
    uint32_t relay_count;
    uint32_t remote_count;
    uint64_t calls_request; /* the latest; 0 = none yet */
    int64_t remotes_at_ms;  /* when it is looked whether those that asked are still there */
    struct ping_wait *pings;
    struct samples convergence;  /* ms until a member, each in its turn, held a capacity that we announced */
    struct api_call *drain_call; /* who waits for the drain; NULL = nobody */
    struct background *copier;   /* makes backups; NULL until the first */
    struct store_copy *copy;     /* the one that is being made; NULL = none */
    int64_t drain_told_at_ms;
    int64_t drain_waits_at_ms; /* since when only acknowledgements are missing; 0: more is, or nothing */
    bool drain_wait_logged;
    struct job_watch *watches;
    int64_t watches_at_ms; /* when they were last told */

    /* Steps whose saves the disk had no room for, and those after them, in order: no entry of a journal is said to be held
       before those that stand before it are. */
    struct host_release *stalled;
    struct host_release **stalled_tail;
    int64_t stalled_at_ms;
    struct node_commit *queued; /* batches that the store's queue had no room for yet, in order */
    struct node_commit **queued_tail;
    int64_t clock_offset_ms; /* skew.c: of the wall clock from the monotonic one, as it was last looked at */
    int64_t clock_even_since_ms; /* and since when it has not jumped */
    uint64_t records_refused;    /* by our own verification, and why */
    struct record_refusals record_refusals;
    int64_t
        look_at_ms; /* when records_turn shows our certificate to the next one out of reach; 0 = not begun */
    uint32_t look_next;      /* and from which member on */
    struct recheck *recheck; /* recheck.c: the one in progress; NULL: none */
    bool rechecks_wanted;    /* some job is `doubted` */
    int64_t trust_at_ms;     /* monotonic: when what is known of members' results is written next */
    int signal_fd;
    bool serving;
    bool draining;
    bool drained;        /* the core says that nothing is left */
    bool stop_when_idle; /* told to stop by a signal: own jobs go on with the next start */
    bool stopping;
    int64_t stop_at_ms;  /* the latest end of a drain that SIGTERM began; 0 = none did */
    int64_t leave_at_ms; /* we said good-bye and end then; 0 = not yet */
    int64_t leave_latest_ms;
    int exit_code;
};

/* `weir node`: runs until told to stop; returns an enum exit_code. `ready_fd` (or -1) gets one line of JSON
 * when it serves. */
int node_run(const struct config *config, int ready_fd);

/* Makes a batch durable, then calls back. Takes the batch in every case. Never fails at once: a full queue
 * only delays it; a full disk is reported to `committed`, and a broken one ends the node, because nothing
 * could be acknowledged any more. `committed` may be NULL, for what nobody waits for. */
void node_commit(struct node *node, struct store_batch *batch, node_committed *committed, void *context);
struct store_batch *node_batch(struct node *node); /* an empty batch; aborts when out of memory */
/* Takes no new work, gives back what is not running, and ends when everything is done. */
void node_drain(struct node *node, bool stops); /* `stops`: its own jobs wait for the next start */
/* Ends the loop. */
void node_stop(struct node *node, int exit_code);

/* A site's, region's, tenant's or kernel's name as the core knows it. */
uint64_t name_hash(const char *name);
uint64_t digest_hash(const struct digest *digest);

/* ---- host.c */
bool host_open(struct node *node, uint64_t incarnation);
void host_close(struct node *node);
/* Queues an event for the core; clocks are filled in when it is stepped, later in this turn of the loop.
 * Handles pass to the core. */
void host_post(struct node *node, const struct mesh_event *event);
int64_t host_turn(void *node, int64_t now_ms);
/* A message from a peer or looped back from ourselves; copies the message, takes over `payload` (may be
 * NULL). */
void host_received(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                   struct bytes *payload);
/* As host_received, of a RESULT whose digests (verify.c; owned) are known already; NULL: they are taken now. */
void host_result(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                 struct bytes *payload, uint32_t *digests);
/* A message that the core sent to this node itself. Takes over `payload` (may be NULL). */
void host_on_own(struct node *node, const struct mesh_message *message, struct bytes *payload);
/* A frame from an admitted peer: to the core, or to the part that it is for. */
void host_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame);

/* ---- records.c */
struct peer *peers_find(struct node *node, const struct mesh_id *id); /* NULL if unknown */
/* A ping to it was answered after so long. */
void peers_measured(struct node *node, const struct mesh_id *id, uint32_t rtt_us);
void peers_close(struct node *node);
/* Name for people: "name" or the id's first 8 digits. Static buffers, eight of them in turn. */
const char *peer_name(struct node *node, const struct mesh_id *id);
const char *peer_site(struct node *node, const struct mesh_id *id);
/* Verifies a record and hands it to the core; `hops` as in a SPREAD, otherwise 0. False: it was refused (counted,
 * logged at debug level). */
bool records_received(struct node *node, const struct mesh_id *from, const uint8_t *bytes, size_t count,
                      uint8_t hops);
void records_sign(struct node *node, const struct mesh_record *record);
void records_admit(struct node *node, const struct mesh_id *id, struct bytes *record);
void records_bar(struct node *node, const struct mesh_id *id);
/* Listings go on behind the core's members with those that were revoked before this node started. Their
 * `view` has their id, state and incarnation. */
bool records_barred_view(struct node *node, uint32_t index, struct mesh_member_view *view);
bool peer_revoked(const struct node *node, const struct peer *peer);
/* How many members refuse this node's certificate as revoked. */
uint32_t records_revoked_by(const struct node *node);
void records_link_up(struct node *node, const struct mesh_id *id);
/* Adds a saved record to the batch. */
void records_save(struct node *node, struct store_batch *batch, enum mesh_record_kind kind,
                  const struct mesh_id *origin, const struct bytes *record);
/* Feeds the core what the store and the join left: revocations first. */
void records_restore(struct node *node);
/* A chain that was shown on our join socket: admit its keys now; its member record follows by gossip. */
void records_presented(struct node *node, const struct certificate *leaf);
/* Shows our certificate to a peer that may not have heard of it, at most every 10 s. */
void records_introduce(struct node *node, const struct mesh_id *id);
/* Now and then shows our certificate to one of those out of reach, and to our inviter when nobody is up. */
int64_t records_turn(struct node *node, int64_t now_ms);
void records_look_soon(struct node *node); /* a member went: perhaps it is back before the next look */
/* Writes the list of member records that a guest is handed, our own first. */
size_t records_list(struct node *node, uint8_t *out, size_t capacity);
/* For node/renewal.h: who may renew our certificate, and that it was renewed. `node` is a struct node. */
bool records_issuer(void *node, uint32_t index, struct federation_contact *contact);
void records_renewed(void *node);

/* ---- skew.c: whose clock is off, in seconds; ahead is positive, 0 is within the tolerance of records */
#define SKEW_TEXT_BYTES (DURATION_BYTES + 16)
/* Looks at the time of a record whose signature is good: of a capacity record that its origin itself sent. */
void skew_told(struct node *node, const struct mesh_id *from, const struct record *record);
int64_t skew_of(const struct peer *peer);
int64_t skew_own(const struct node *node); /* by most of the others, of at least two */
const char *skew_text(int64_t ahead_s, char text[SKEW_TEXT_BYTES]);
/* This clock has run evenly for some minutes and most others agree: what is old by it may be thrown away. */
bool skew_settled(struct node *node, int64_t now_ms);

/* ---- jobs.c */
struct job *jobs_find(struct node *node, const struct mesh_id *id);
/* Reads the jobs back at start and goes on with those that were running. */
void jobs_restore(struct node *node);
/* The payload of an ASSIGN; NULL when the job is gone. */
struct bytes *jobs_assign_payload(struct node *node, const struct mesh_message *message);
/* Adds a save of the core to the batch; may be called again for the same save. `bytes` is what its handle
 * named. */
void jobs_save(struct node *node, struct store_batch *batch, const struct mesh_save *save,
               const struct bytes *bytes);
/* That save is durable: results go to their places, listeners hear of it. Other kinds of saves are ignored.
 */
void jobs_saved(struct node *node, const struct mesh_save *save, const struct bytes *bytes);
void jobs_on_state(struct node *node, const struct mesh_id *id, enum mesh_refusal refusal,
                   enum mesh_job_state state);
/* The store had no room for a new job's row: tell the submitter and take the job out of the core. */
void jobs_refuse(struct node *node, const struct mesh_id *id, enum store_error error);
/* Committed results proved wrong; the job says so from now on. */
void jobs_on_disputed(struct node *node, const struct mesh_id *id, uint32_t count);
void jobs_on_decision(struct node *node, const struct mesh_id *id, const struct mesh_id *member,
                      enum mesh_reason why, uint32_t shard, uint32_t count);
/* A RESULT came: fetch what it names before the core commits it. Takes over `payload`. */
void jobs_on_result(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                    struct bytes *payload);
/*
 * Takes a new job whose inputs' roles and blobs, kernel, parameters, tenant and key are set, prepares it in
 * the background and submits it. `call` is answered once it is durable, or with what is wrong. The job belongs
 * to the table; if one with its id is there already, `job` is freed and `call` answered with that one, once
 * that is durable. NULL: nobody asks.
 */
void jobs_submit(struct node *node, struct job *job, const struct job_wish *wish, struct api_call *call);
/* Keeps a job's inputs until it pins them itself, or is freed. */
void jobs_hold_inputs(struct node *node, struct job *job);
struct job_wish jobs_wish(const struct job *job); /* as which its inputs are read again */
void jobs_submitter_gone(struct node *node, const struct api_call *call); /* the job goes on */
/* The answer to cache_lookup_whole: the outputs, which are in our store and pinned by the job, or NULL; and which node gave
 * them, NULL: they were here. */
struct entry;
void jobs_on_whole(struct node *node, const struct mesh_id *id, const struct entry *outputs,
                   const struct mesh_id *from);
/* False: it waits for its disk, and its end can't be written to all copies of its journal now. */
bool jobs_cancel(struct node *node, struct job *job);
/* What the first entry of a new job's journal says. */
struct bytes *jobs_describe(struct node *node, const struct mesh_save *save);
/* The core has made this node the job's home: reads it back from our copy of its journal and goes on with it. */
void jobs_take_over(struct node *node, const struct mesh_id *id, uint64_t epoch);
/* The outputs of a job that is over, from our copy of its journal: its home is lost. */
void jobs_revive(struct node *node, const struct mesh_id *id);
/*
 * A job that failed or was cancelled, as another member of its journal tells of it once the entries have gone: how it ended
 * is put into a row of its own before. jobs_ended makes the job of that, the caller's, in its last state; NULL: there is none.
 */
void jobs_put_ended(struct node *node, struct store_batch *batch, const struct copy *copy);
void jobs_drop_ended(struct store_batch *batch, const struct mesh_id *id);
struct job *jobs_ended(struct node *node, const struct mesh_id *id);
/* Whether our copy, which is over, is enough to tell what became of the job. */
bool jobs_tell(struct node *node, const struct copy *copy);
/* The answer to relay_claim: whether the job is another node's, or about to be. */
void jobs_claimed(struct node *node, const struct mesh_id *id, bool taken);
/* The other: it can't be told, and why. */
void jobs_doubted(struct node *node, const struct mesh_id *id, const char *text);
/* Answers with how the job was accepted, once it is; `request` (job_request in hex), `rows` (job_rows), unless NULL, and
 * `items`, if not 0, must be what it was asked for. */
void jobs_accepted(struct node *node, struct job *job, const char *request, const char *rows, uint64_t items,
                   struct api_call *call);
/* All members hold the job's end, so its journal may go. False if this node is not its home. */
bool jobs_on_over(struct node *node, const struct mesh_id *id);
void jobs_open(struct node *node);
void jobs_close(struct node *node);
int64_t jobs_turn(struct node *node, int64_t now_ms);

/* ---- verify.c */
/* The digests that go with a RESULT, see struct mesh_event; the caller's to free, NULL if its job is not verified. */
uint32_t *verify_digests(struct node *node, const struct mesh_message *message, const struct bytes *payload);
/* The same on the background thread, where certificates are to be computed: `done` gets them, owned. False: there are none, nothing
 * was begun. Message and payload are borrowed until then. */
typedef void verify_proved(struct node *node, void *context, uint32_t *digests);
bool verify_prove(struct node *node, const struct mesh_message *message, const struct bytes *payload,
                  verify_proved *done, void *context);
struct provenance; /* node/payload.h, as is: */
struct result_item;
/* Of one result of a shard of the job, which is prepared. */
uint32_t verify_digest_of(struct node *node, struct job *job, uint32_t shard, const struct result_item *item);
/* Whether results of the job are compared by its kernel's tolerance; and what is committed of it, before it is assembled. */
bool verify_compares(const struct job *job);
struct entry;
void verify_committed(struct node *node, struct job *job, uint32_t shard, const struct entry *entry);
void quarantine_save(struct node *node, struct store_batch *batch, const struct mesh_save *save);
void quarantine_restore(struct node *node); /* trust too; once members are known, before any job is */
int64_t trust_turn(struct node *node, int64_t now_ms);
void trust_last(struct node *node); /* before the node ends */
void quarantine_on(struct node *node, const struct mesh_effect *effect);

/* Whether what the cache holds may be given to anybody; and to that job, of which it is a shard, or the whole. */
bool verify_sound(const struct node *node, const struct provenance *provenance);
bool verify_accepts(struct node *node, const struct job *job, const struct provenance *provenance);
/* NULL: it is in none. */
const struct caught *quarantine_find(const struct node *node, const struct mesh_id *id);

/* ---- copies.c */
struct copy *copies_find(struct node *node, const struct mesh_id *job); /* NULL: none is kept here */
/* Reads all copies back and hands those that are not over to the core. Before jobs_restore. */
void copies_restore(struct node *node);
/* What is left of journals that were being swept when this node died goes. After jobs_restore. */
void copies_sweep_rests(struct node *node);
/* The core has forgotten a journal: another may find room that found none when the node started. */
void copies_made_room(struct node *node);
void copies_close(struct node *node);
/* The bytes of the entry that a save makes, for the disk and the APPENDs; NULL: it makes none, or it has no bytes.
 * `bytes` is what the save's handle names. */
struct bytes *copies_entry(struct node *node, const struct mesh_save *save, const struct bytes *bytes);
/* Adds an entry or a promise to the batch; `bytes` as copies_entry made them. May be called again for the same save. */
void copies_save(struct node *node, struct store_batch *batch, const struct mesh_save *save,
                 const struct bytes *bytes);
struct copies_entry_view {
    uint32_t index;
    uint64_t epoch;
    uint32_t settled;
    enum mesh_entry_kind kind;
    struct mesh_members members; /* of the journal from here on; count 0: as before */
    const uint8_t *bytes;        /* borrowed until the callback returns */
    size_t count;
};
/* Returns whether to go on. */
typedef bool copies_entry_fn(void *context, const struct copies_entry_view *view);
/* Shows the entries of a log from `first` on, as they are on the disk. */
void copies_read(struct node *node, const struct mesh_id *job, uint32_t first, copies_entry_fn *entry,
                 void *context);
/* Fetches from the other members what the entries name and is not here (any more), then calls back, however that went. */
typedef void copies_fetched(struct node *node, const struct mesh_id *job);
void copies_fetch_missing(struct node *node, const struct mesh_id *job, copies_fetched *done);
void copies_send_log(struct node *node, const struct mesh_effect *effect); /* MESH_SEND_LOG */
/* An APPEND of a peer; takes over `payload`. */
void copies_on_append(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                      struct bytes *payload);
void copies_on_asked(struct node *node, const struct mesh_effect *effect); /* MESH_JOURNAL_ASKED */
void copies_on_over(struct node *node, const struct mesh_id *job, bool whole);
/* Rows of STORE_ENTRIES and STORE_COPIES; what is decoded borrows from `value`. False: it is damaged. */
bool copies_entry_decode(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                         struct copies_entry_view *row);
bool copies_head_decode(const void *value, size_t value_bytes, struct copy *copy);
#define COPIES_HEAD_BYTES_MAX 1024u
/* The row of STORE_COPIES; returns its length. */
size_t copies_head_encode(const struct copy *copy, uint8_t *row, size_t capacity);
void copies_put_head(struct store_batch *batch, const struct copy *copy);
/* Who keeps the journal, as far as our copy knows; borrowed. Reads the whole log if the head doesn't say. */
const struct mesh_members *copies_members(struct node *node, struct copy *copy);
bool copies_member(const struct mesh_members *members,
                   const struct mesh_id *id); /* whether it is one of them */
/* A journal that is over, of which nothing but the end was here, becomes as `told`, whose row was saved. */
void copies_adopt(struct node *node, const struct copy *told);
/* For `weir store check`: what is wrong with an entry and the blobs that it names, or NULL. */
const char *copies_entry_fault(struct store *store, const struct mesh_id *job,
                               const struct copies_entry_view *entry);
/* Removes a job's journal and the pins on its shards' results, and with `inputs` all that it pins. */
void copies_sweep(struct node *node, const struct mesh_id *job, bool inputs);
/* The same, with the inputs, and that there was one. */
void copies_forget(struct node *node, const struct mesh_id *job);
void copies_prune(struct node *node, int64_t before_ms);

/* ---- execute.c */
struct run_order { /* MESH_RUN, with the payload kept */
    uint32_t attempt;
    struct mesh_id home;
    struct mesh_id job;
    struct mesh_members others; /* of its journal: they have the inputs too */
    uint16_t class;
    uint32_t count; /* shards */
    struct bytes *payload;
};
void execute_run(struct node *node,
                 const struct run_order *order); /* takes over order->payload's reference */
void execute_stop(struct node *node, uint32_t attempt);
void execute_shard(void *node, const struct workers_shard *shard);
void execute_done(void *node, uint64_t bundle);
/* The devices of these bundles are their owner's now: their shards go back for that reason. Gives the core's numbers of
 * those that run, at most `count`. */
uint32_t execute_claimed(struct node *node, const uint64_t *bundles, uint32_t count, const char *why,
                         uint32_t *numbers);
enum mesh_fault execute_fault(const struct node *node); /* why it lends less than it has */
void execute_compiled(struct node *node);               /* a compiler has ended: see node/compile.h */
int64_t execute_turn(struct node *node, int64_t now_ms);
void execute_close(struct node *node);

/* ---- devices.c */
/* After the store and the workers: claims that stood before the restart stand again. */
bool devices_open(struct node *node);
void devices_close(struct node *node);
void devices_tell(void *node); /* tells the core what is lent now */
int64_t devices_turn(struct node *node, int64_t now_ms);
/* Why a device of the class is not lent: "its owner claimed cpu:0 (command)"; "" if all are. */
void devices_why(const struct node *node, uint32_t class, char *text, size_t text_bytes);
/* What the capacity record says of them. */
void devices_describe(const struct node *node, struct capacity_devices *devices);
/* A claim of `weir reclaim` by `by` (claims.h; there is room), and its end; the batch keeps it. The next turn acts on it. */
void devices_claim(struct node *node, uint32_t index, const char *by, int64_t until_ms,
                   struct store_batch *batch);
void devices_release(struct node *node, uint32_t index, const char *by, struct store_batch *batch);

/* ---- ops_devices.c */
/* One row per device, for listings. The caller owns it. */
struct json_t *devices_json(struct node *node);
/* Answers calls whose devices are free by now, or took too long. */
int64_t reclaims_turn(struct node *node, int64_t now_ms);

/* ---- cache.c */
void cache_lookup(struct node *node, const struct mesh_id *job, uint64_t epoch, uint32_t first,
                  uint32_t count);
void cache_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame);
/* Looks for the outputs of the whole job; jobs_on_whole gets the answer, perhaps before this returns. */
void cache_lookup_whole(struct node *node, const struct mesh_id *job);
void cache_open(struct node *node);
void cache_close(struct node *node);
/* A job of ours has ended: its leases end, those of one that is done once its results are known. */
void cache_job_over(struct node *node, const struct mesh_id *job, bool done);
int64_t cache_turn(struct node *node, int64_t now_ms);

/* ---- cache_serve.c */

/* Tells the owners of these keys that we hold their results. */
void cache_publish(struct node *node, const struct digest *keys, uint32_t count);
/* A message of the serving side? Then it was dealt with. */
bool cache_serve(struct node *node, const struct mesh_id *from, const struct wire_frame *frame);
/* As the owner of the key: true if the job may compute it, false if another does. */
bool cache_claim(struct node *node, const uint8_t key[32], const struct lessee *who);
/* As their owner: that node does not hold these. */
void cache_forget(struct node *node, const struct mesh_id *holder, const uint8_t (*keys)[32], uint32_t count);
/* As their owner: nothing that this node was said to hold counts. */
void cache_void(struct node *node, const struct mesh_id *holder);

/* ---- holders.c */

/* Called once, with the nearest first; count 0: nobody who answers has it. */
typedef void holders_found(struct node *node, void *context, const struct mesh_id *holders, uint32_t count);
/* Who else holds this blob, or the result of this key? At most BULK_HOLDERS_MAX are looked for: those that told the name's
 * owners, and if there are none and ALL, whoever has it; BOTH where those that told may be gone. */
enum holders_asked { HOLDERS_TOLD, HOLDERS_ALL, HOLDERS_BOTH };
struct holder_search *holders_search(struct node *node, const struct digest *key, enum holders_asked asked,
                                     holders_found *found, void *context);
void holders_cancel(struct node *node, struct holder_search *search); /* before it called back */
bool holders_on_found(struct node *node,
                      const struct wire_frame *frame); /* false: not an answer to a search */
int64_t holders_turn(struct node *node, int64_t now_ms);

/* ---- holds.c */

/* Releases what an earlier run of the node held; before anybody can ask for more. */
enum store_error holds_open(struct node *node);
void holds_close(struct node *node);
/* Who pins what is held. */
const struct digest *holds_owner(void);
/* Keeps the blob from eviction until it is released as often as it was taken. The pin goes into `batch`, after the blob
 * if that is there, too; NULL: whoever commits the blob pins it. If the commit fails, the hold is released all the same. */
void hold_take(struct node *node, const struct digest *blob, struct store_batch *batch);
bool hold_is(struct node *node, const struct digest *blob); /* somebody holds it */
void hold_release(struct node *node, const struct digest *blob);
void holds_release(struct node *node, const struct digest *blobs, uint32_t count); /* in one commit */
/* Takes over a hold. */
void held_add(struct node *node, struct held *held, const struct digest *blob, uint64_t bytes);
void held_release(struct node *node, struct held *held);
/* Holds a large output of a bundle, which is in the batch, until its home has it. False: others wait for their homes, and
 * with this one they would be more than HOLDS_CACHES allows; it stays as long as the cache has room. */
bool results_add(struct node *node, struct held *held, const struct digest *blob, uint64_t bytes,
                 struct store_batch *batch);
void results_release(struct node *node, struct held *held);
/* The bundle has ended: what it holds lives as long as the handle of its results, which the core drops once their home has
 * acknowledged them, or nobody will ask for them. */
void results_keep(struct node *node, struct held *held, uint64_t handle, const struct mesh_id *home,
                  const struct mesh_members *others);
/* Whether somebody may come for any of them: its home, or another that keeps its job's journal and could become that. */
bool results_awaited(const struct node *node);
void results_dropped(struct node *node, uint64_t handle); /* of any handle */
/* hold_take of what a client uploads for a job. False: with it all connections would hold more than HOLDS_CACHES allows. */
bool upload_take(struct node *node, const struct digest *blob, uint64_t bytes, struct store_batch *batch);
/* Takes over a hold on what a connection uploaded; *uploads is made if it is NULL. `bytes` are what counts of it against
 * store.cache. The caller sees to the bounds. */
void uploads_add(struct node *node, struct uploads **uploads, const struct digest *blob, uint64_t bytes);
void uploads_release(struct node *node, struct uploads *uploads); /* NULL is allowed */

/* ---- disk.c */

/* The store could not keep what the mesh's work needs: if the disk is to blame, lends nothing until it can. */
void disk_failed(struct node *node, enum store_error error);
int64_t disk_turn(struct node *node, int64_t now_ms);

/* ---- fetch.c: bulk tickets and who waits for them */
typedef void fetch_done(struct node *node, void *context, const struct bulk_done *done);
/* Returns false if it could not even be queued; `done` is then not called. */
bool fetch_start(struct node *node, const struct bulk_request *request, fetch_done *done, void *context);
void fetch_on_done(void *node, const struct bulk_done *done);
void fetch_on_liar(void *node, const struct mesh_id *holder, const struct digest *blob);

/* ---- relay.c */
/* Each takes the call over: it is answered by the job's home, wherever that is, or told that there is none. */
void relay_job(struct node *node, struct api_call *call, const char *text);
void relay_moved(struct node *node, struct api_call *call, const struct mesh_id *job);
void relay_accept(struct node *node, struct api_call *call, const struct job *job);
/* Adds all members' jobs to our own, `own` as op_jobs answers, which it takes over, and answers with the first of all. */
void relay_jobs(struct node *node, struct api_call *call, struct json_t *own, uint32_t limit);
/* Asks everybody whether they have that job, or are about to, and registers that we do; jobs_claimed or jobs_doubted gets the
 * answer. False: not now. */
bool relay_claim(struct node *node, const struct mesh_id *job);
/* What answers a request of calls_request that is none of calls_ask's: `answer` is borrowed. */
void relay_on_answer(struct node *node, const struct mesh_id *from, uint64_t request, struct json_t *answer,
                     bool final);
int64_t relays_turn(struct node *node, int64_t now_ms);
void relays_close(struct node *node);

/* ---- ops_jobs.c */
/* Answers the submitter of a job that was accepted, or is known already. */
void submit_accepted(struct node *node, struct api_call *call, const struct job *job, bool existing);
/* Tells a submit what its acknowledgement waits for; false if nothing is known to be in its way. */
bool submit_waits(struct node *node, struct api_call *call, const struct job *job);

/* ---- ops_story.c */
int64_t watches_turn(struct node *node, int64_t now_ms);

/* ---- ops_blobs.c */
int64_t blob_watches_turn(struct node *node, int64_t now_ms);

/* ---- ops_mesh.c */
/* True if the stamp belongs to a ping that a user waits for; then the core need not see it. */
bool pings_on_pong(struct node *node, const struct mesh_id *from, uint64_t stamp_us);
int64_t pings_turn(struct node *node, int64_t now_ms);

/* ---- ops.c */
extern const struct api_op node_ops[];

/* ---- metrics.c */
void metrics_write(struct node *node, struct _IO_FILE *out);

#endif
