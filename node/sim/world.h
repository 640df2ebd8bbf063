/*
 * What the parts of the simulator share. One struct world holds everything; time is its own, in microseconds.
 *
 *     bytes.c     what messages cost on the wire
 *     heap.c      the events to come
 *     payload.c   bytes behind handles, and each host's table of handles
 *     network.c   links, their queues, partitions
 *     known.c     whom a host has met
 *     host.c      a node: its core, and what it does with a step's output
 *     disk.c      what a node finds again after its process died
 *     journal.c   its copies of journals: what they hold, replaying and sending it
 *     truth.c     what was promised of each journal, over all its copies
 *     device.c    attempts and cache look-ups
 *     faults.c    what goes wrong; plan.c draws it from the seed, script.c reads and writes it, minimise.c cuts it down
 *     check.c     what must hold
 *     drill.c     what is tried once everything healed
 *     oracle.c    a second opinion on each core, from what goes in and comes out
 *     trace.c     the hash, the story and the last lines of each node
 *     world.c     the loop
 *     study.c     measurements, each in a file study_*.c; layout.c makes the worlds that they begin with
 */
#ifndef NODE_SIM_WORLD_H
#define NODE_SIM_WORLD_H

#include "node/sim/faults.h"
#include "node/sim/sim.h"
#include "node/sim/study.h"

#include <stdlib.h>
#include <string.h>

#define SIM_NONE UINT32_MAX
#define SIM_NODES_MAX 100000 /* fits the identities of struct known_member */
#define SIM_NODES_SMALL 64
/* Events kept per node for a failure's report, and in a large world, whose nodes would fill the caches with them. */
#define SIM_TRACE_LINES 32
#define SIM_TRACE_LINES_LARGE 4
#define SECOND_US INT64_C(1000000)
/* After the lent slots shrank: stopped attempts end and promised places expire (2 s, plus the executor's 25
 * %). */
#define SHRINK_US (4 * SECOND_US)

/* The seeded generator: splitmix64 (Steele, Lea and Flood 2014). */
struct sim_random {
    uint64_t state;
};
uint64_t sim_random_next(struct sim_random *random);
uint32_t sim_below(struct sim_random *random, uint32_t bound);               /* 0 <= result < bound */
int64_t sim_between(struct sim_random *random, int64_t least, int64_t most); /* both included */
bool sim_chance(struct sim_random *random, uint32_t permille);
static inline uint64_t sim_mix(uint64_t a, uint64_t b)
{
    uint64_t z =
        (a ^ (b + UINT64_C(0x9e3779b97f4a7c15) + (a << 6) + (a >> 2))) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- Events. */
enum happening {
    HAPPEN_WAKE = 1,  /* a core asked to be called */
    HAPPEN_DELIVER,   /* the head of one direction of a link arrives */
    HAPPEN_FLIGHT,    /* a message that travels alone arrives */
    HAPPEN_DIAL,      /* a dial ends */
    HAPPEN_STALL,     /* a link has been stuck for too long */
    HAPPEN_SYNCED,    /* a host's oldest batch of saves is durable */
    HAPPEN_SIGNED,    /* a record comes back signed */
    HAPPEN_INTRODUCE, /* a newcomer and the node it joins through learn of each other */
    HAPPEN_RAN,       /* an attempt ends */
    HAPPEN_LOOKED_UP, /* the cache answers */
    HAPPEN_FORGET,    /* a finished job is pruned */
    HAPPEN_TAKE_OVER, /* a copy of a journal has been read back by its new home */
    HAPPEN_LOG_SENT,  /* less of a journal was sent than was asked for, and its core hears how much */
    HAPPEN_TELL_OVER, /* a host looked up whether a journal that it was asked about is over */
    HAPPEN_START,     /* a node starts or starts again */
    HAPPEN_SUBMIT,    /* a user submits */
    HAPPEN_FAULT,
    HAPPEN_FAULT_END,
    HAPPEN_HEAL,   /* all faults end */
    HAPPEN_SURVEY, /* once a second: liveness */
    HAPPEN_STORY,  /* a scenario's line */
};

struct event {
    int64_t at_us;
    enum happening what;
    uint32_t node; /* SIM_NONE: of no node */
    uint32_t life; /* of the node; the event dies with it */
    uint32_t a;
    uint32_t b;
    void *item; /* owned: a flight, payload reference or request, see event_discard */
};

#define HEAP_BUCKETS 65 /* one per bit of a time, and one for what is due */
struct heap_bucket {
    struct event *event;
    uint32_t count;
    uint32_t room;
};
struct heap {
    uint32_t count;
    int64_t next_us;    /* when the next one is due, if there is any */
    int64_t taken_us;   /* when the latest one taken was due; an earlier one is due then too */
    uint32_t due_taken; /* of bucket 0 */
    struct heap_bucket bucket[HEAP_BUCKETS];
};
/* Events of one time come out in the order in which they were pushed. */
void sim_heap_push(struct heap *heap, struct event event);
struct event sim_heap_pop(struct heap *heap);
void sim_heap_free(struct heap *heap);

/* ---- Bytes behind handles. */
enum payload_kind { PAYLOAD_RECORD = 1, PAYLOAD_INPUT, PAYLOAD_RESULT, PAYLOAD_ENTRY };

struct payload {
    uint32_t references;
    enum payload_kind kind;
    struct mesh_record record; /* RECORD: as its origin signed it; the handle is zero */
    uint32_t job;              /* otherwise */
    uint32_t count;
    /*
     * INPUT: shard numbers; RESULT: the bytes of each place, in short. ENTRY, of a submit: nothing; of a commit: the
     * executor, then each shard and its bytes; of an end: the state, then the shard at fault.
     */
    uint64_t value[];
};
struct payload *sim_payload_new(enum payload_kind kind, uint32_t job, uint32_t count);
struct payload *sim_payload_of_record(const struct mesh_record *record);
struct payload *sim_payload_keep(struct payload *payload);
void sim_payload_drop(struct payload *payload); /* NULL is fine */

struct handles {
    struct payload **payload; /* [room] NULL: free */
    uint32_t *use;            /* [room] makes a stale handle differ */
    uint32_t count;
    uint32_t room;
    uint32_t free_count;
    uint32_t free_room;
    uint32_t *free; /* [free_room] */
};
uint64_t sim_handle_give(struct handles *handles, struct payload *payload); /* takes over one reference */
struct payload *sim_handle_see(const struct handles *handles,
                               uint64_t handle); /* borrowed; NULL if not live */
bool sim_handle_drop(struct handles *handles, uint64_t handle);
void sim_handles_clear(struct handles *handles);

/* ---- Jobs as their users know them. */
struct sim_job {
    struct mesh_job_spec spec;
    uint32_t home;
    uint32_t shard_us;
    uint32_t hit_permille; /* of look-ups */
    uint32_t rejects;      /* the shard the kernel refuses, or SIM_NONE */
    bool acknowledged;
    bool refused;
    bool cancel_asked;
    bool finished; /* told to the user */
    bool forgone;  /* its home's disk was lost or rolled back since it was acknowledged */
    enum mesh_job_state told;
    uint64_t epoch_used;  /* the highest that any life of the home ran it with */
    uint8_t *crashes;     /* per shard, reported */
    bool restore_refused; /* by who takes it over, for want of room */
    struct truth *truth;  /* of its journal; NULL: a single copy, or not submitted */
};

/* ---- A host. */
#define SIM_NEAR 16 /* a power of two; most of what a host says is for its eight or sixteen neighbours */

struct disk_entry {
    uint64_t epoch;
    uint32_t settled; /* as it was known when the entry was saved */
    enum mesh_entry_kind kind;
    struct payload *payload;      /* NULL: no bytes */
    struct mesh_members *members; /* of the journal from here on; NULL: as before */
};

/* One copy of a journal of several. */
struct disk_log {
    uint64_t promised;
    struct mesh_id voted;
    struct mesh_members members; /* while there is no entry: as the promise named them */
    bool own;                    /* the last entry is of this host's own reign */
    bool over;                   /* its end is settled: it is not given to the core any more */
    bool whole;                  /* over: and everything settled is here */
    uint32_t last;
    struct disk_entry *entry; /* from 1 on: entry i is entry[i - 1] */
};

struct disk_job {
    uint32_t job;
    struct disk_log *log; /* NULL: this is the only copy. Else what follows is what the log says */
    uint64_t epoch;
    enum mesh_job_state state;
    uint32_t failed_shard;
    uint32_t committed_count;
    uint8_t *committed; /* bit per shard */
    uint64_t *value;    /* per shard */
    uint32_t *by; /* per shard: whose result it is, a host's index + 1; 0: nobody's, or it proved wrong */
};

struct disk_record {
    struct payload *payload;
};

struct disk {
    uint64_t incarnation;
    uint64_t storage;      /* see struct mesh_config, as for the next */
    uint64_t sequence;     /* the highest that a save here bore */
    uint32_t *quarantined; /* identities */
    uint32_t quarantined_count;
    struct disk_job *job;
    uint32_t job_count;
    struct disk_record *record;
    uint32_t record_count;
    uint32_t found; /* where one was found latest */
};

/* A step's output that waits for its saves; handles are resolved when the step is taken, since later steps
 * may drop them. */
struct batch {
    struct batch *next;
    int64_t durable_at_us;
    bool refused; /* the job in it, for want of room */
    struct {
        uint32_t job; /* SIM_NONE: of none */
        bool whole;
    } over; /* the host's own note that a journal is over; such a batch has nothing else */
    uint32_t save_count;
    struct mesh_save *save;
    struct payload **save_payload;
    uint32_t flight_count;
    struct flight **flight;
    uint32_t effect_count;
    struct mesh_effect *effect;
};

struct flight {
    struct flight *next;
    int64_t at_us;
    uint32_t from; /* hosts */
    uint32_t to;
    uint32_t from_life;
    bool early;
    bool admitted;           /* by the receiver: its link knows */
    struct payload *payload; /* what the message's handle stands for, or NULL */
    size_t bytes;
    struct mesh_message *message; /* only the prefix that is in use */
};

enum attempt_plan { ATTEMPT_RUNS = 1, ATTEMPT_CRASHES, ATTEMPT_HANGS, ATTEMPT_RETURNS, ATTEMPT_STICKS };

enum device_fault { DEVICE_FINE = 0, DEVICE_BAD, DEVICE_SLOW, DEVICE_STUCK, DEVICE_GARBLES, DEVICE_LIES };

struct attempt {
    uint32_t id;
    bool used;
    bool started; /* the host queues what it was told to run behind what runs */
    bool stopping;
    enum attempt_plan plan;
    uint32_t turning; /* the shard's place at which the plan shows */
    int64_t began_us;
    int64_t ends_us;
    uint32_t order; /* of the RUN */
    uint32_t serial;
    uint32_t job;
    uint16_t class;
    uint32_t count;
    uint32_t *shard;
};

enum admission { ADMISSION_NONE = 0, ADMISSION_ADMITTED, ADMISSION_BARRED };
struct known_member {
    uint32_t identity : 24; /* + 1; 0 = free */
    uint32_t admission : 4;
    uint32_t state : 4;   /* enum mesh_member_state, as last told by the core; 0 = never */
    uint32_t incarnation; /* then */
    uint32_t record;      /* where on the disk its MEMBER record was seen, + 1; a hint */
};
struct known {
    struct known_member *member; /* [room] */
    uint32_t count;
    uint32_t room; /* a power of two */
};
/* Borrowed until the next call. */
struct known_member *sim_known_meet(struct known *known, uint32_t identity);
struct known_member sim_known_see(const struct known *known, uint32_t identity); /* zeros if never met */
void sim_known_clear(struct known *known);

struct trace_line {
    int64_t at_us;
    uint8_t what;
    uint8_t kind;
    uint32_t peer;
    uint64_t a;
    uint64_t b;
};

/* In the order of one origin's member records. */
struct place {
    uint64_t incarnation;
    uint64_t version;
};

struct host {
    uint32_t index;
    char name[16];
    struct mesh_id id;
    uint32_t identity; /* the index that its id carries; differs from index for a clone */
    uint64_t site;
    uint64_t region;
    uint16_t slots[MESH_DEVICE_CLASSES]; /* what it owns */
    uint16_t lent[MESH_DEVICE_CLASSES];  /* what it lends now */
    int64_t lent_less_at_us;             /* when that last shrank */
    uint32_t price_micro;                /* what it asks */
    struct mesh_limits limits;

    bool alive;
    bool joined; /* has been introduced once, or founded the mesh: others may join through it */
    bool gone;   /* never comes back */
    bool revoked;
    bool draining;
    bool leaving;
    bool drained; /* MESH_DRAINED came */
    bool silent;  /* dead machine: packets vanish rather than bounce */
    uint32_t life;
    uint32_t protocol; /* the latest version that its program speaks; it starts again as a newer program */
    int64_t born_us;
    int64_t paused_until_us;

    void *memory;
    struct mesh *mesh;
    const struct mesh_event *event; /* of the step that is being taken; borrowed */
    struct handles handles;
    struct known known;
    uint32_t first_link;         /* number + 1 */
    uint32_t near[SIM_NEAR];     /* the link used latest to a host of that number modulo, + 1; a hint */
    bool interior;               /* as it last said of itself, see mesh/tiers.h */
    uint64_t signed_incarnation; /* of the newest own member record over all lives, and its version */
    uint64_t signed_version;
    struct place *place; /* all that member records of its identity ever took, see node/sim/check.c */
    uint32_t place_count;
    struct payload *own_record; /* newest own member record of this life */
    struct payload *own_capacity;
    struct oracle *oracle; /* of this life; NULL without world.opinions */
    struct disk disk;
    struct batch *first_batch;
    struct batch *last_batch;
    struct attempt *attempt;
    uint32_t attempt_count;
    uint32_t attempt_serial;
    uint32_t running[MESH_DEVICE_CLASSES];      /* of them, started */
    uint32_t unstarted_of[MESH_DEVICE_CLASSES]; /* and those that wait for a slot, or to be stopped */
    uint32_t unstarted_stops;                   /* attempts told to stop before their RUN was let go */
    uint32_t unstarted[16];
    bool must_stop; /* MESH_CLONED said so */
    bool left_out;  /* of the journals on its disk some found no room in the core when it started */

    /* Clocks: local = base_local + (now - base) x (1 + ppm / 10^6). */
    int64_t base_us;
    int64_t base_local_us;
    int64_t drift_ppm;
    int64_t wall_offset_ms;
    int64_t wall_told_ms;
    int64_t
        wake_us; /* of the latest HAPPEN_WAKE pushed, which is the earliest; INT64_MAX if none is under way */
    uint32_t wake_serial;
    int64_t wants_wake_us;
    int64_t stepped_us; /* when the latest step was, and how many were taken at that instant */
    uint32_t steps_at_once;

    /* Faults in force. */
    uint32_t group; /* hosts in different groups can't reach each other */
    bool mute;      /* nothing it sends arrives */
    bool deaf;      /* nothing arrives at it */
    uint32_t delay_ms;
    uint32_t bytes_per_s;   /* all it can send; 0 = as much as it likes */
    int64_t sends_until_us; /* it is busy with what it was given to send */
    uint32_t shuts_out;     /* the identity whose messages it refuses */
    int64_t shuts_out_until_us;
    enum device_fault device_fault;
    uint32_t device_slowness; /* DEVICE_SLOW: times */
    uint32_t lie_permille;    /* DEVICE_LIES: of shards */
    uint16_t lies_of_slots;   /* what it advertises instead of what it has; 0 = the truth */
    uint32_t sync_most_ms;    /* 0: a good disk */
    bool disk_full;
    bool sync_fails;       /* the next one */
    bool rolled_back;      /* its disk was lost or replaced: peers know more of it than itself */
    struct disk *snapshot; /* to be restored */
    int64_t dead_for_us;   /* once its sync failed */

    uint32_t steps_to_check;
    int64_t idle_since_us;   /* liveness: has a free slot that queued work could use; -1 = no */
    struct trace_line *line; /* [world.trace_lines] a ring; a power of two */
    uint64_t lines;
};

/* ---- Links: one per pair that ever talked. Side 0 is the lower host. */
struct link_side {
    bool kept; /* the core wants it */
    bool dialing;
    bool tell_down; /* report a failed dial */
    bool told_down;
    uint32_t dials; /* numbers dials, so that a superseded one is ignored */
    uint32_t failures;
    uint32_t admitted_in; /* the session in which it was seen to admit the other; 0 = none */
    struct flight *first; /* waits for the dial */
    struct flight *last;
    uint32_t waiting;
};

struct link_direction { /* 0: from the lower to the higher host */
    struct flight *first;
    struct flight *last;
    bool scheduled;
    bool stuck;
    int64_t last_at_us;
};

struct link {
    uint32_t host[2];
    uint32_t next[2]; /* each side's next link, number + 1 */
    int64_t latency_us;
    int64_t ordered_at_us[2]; /* on the adversarial network: what keeps its order */
    bool up;
    uint32_t session;
    struct link_side side[2];
    struct link_direction direction[2];
};

struct network {
    struct link *link;
    uint32_t count;
    uint32_t room;
    uint32_t *table; /* open addressing by pair: link number + 1 */
    uint32_t table_size;
    bool adversarial;
    uint32_t loss_permille;
    uint32_t double_permille;
    uint32_t reorder_permille;
    uint32_t corrupt_permille;
    uint64_t tangle; /* chooses the pairs that are cut */
    uint32_t tangle_permille;
    struct flight *captured[SIM_CAPTURED]; /* copies of old messages, to be replayed */
    uint32_t captured_count;
    uint32_t passed; /* since the latest was captured */
};

/* drill.c: what is tried in the calm, and how far that is. */
enum drill_step {
    DRILL_NONE = 0,
    DRILL_ANNOUNCED,
    DRILL_REVOKED,
    DRILL_CLAIMED,
    DRILL_RETURNED,
};

/* What was done last, whose news it is, and since when others may be asked for it. */
struct trial {
    enum drill_step step;
    int64_t at_us;
    uint32_t about;
    uint32_t unlucky; /* no push of the news reaches it at once; SIM_NONE = all are lucky */
};

struct drill {
    struct sim_random random; /* of its own, so that the faults of a seed do not depend on it */
    struct trial news;        /* announced, revoked */
    struct trial owner;       /* claimed, returned */
    uint64_t incarnation;     /* of what was announced */
    uint64_t version;
};

/* check.c: what nodes sent to each other in a spell. */
struct spell {
    uint64_t node_seconds;
    uint64_t words;    /* of gossip */
    uint64_t messages; /* of any kind */
};

struct story; /* scenario.c */

struct world {
    struct sim_options options;
    uint32_t check_every;  /* steps between full checks of one core */
    struct sim_plan *plan; /* owned */
    struct sim_result *result;
    struct sim_random random;
    int64_t now_us;
    int64_t heal_at_us;
    int64_t end_us;
    bool healed;
    bool captures; /* keeps old messages, for the plan has replays */
    bool failed;
    uint32_t trace_lines;
    bool crowded; /* few nodes with very many slots, so that one step has more to say than fits */
    struct heap heap;
    struct host *host;
    uint32_t host_count;
    uint32_t host_room;
    uint32_t lost_for_good;
    uint64_t lying_site; /* the only one that ever brings wrong results; 0 = none */
    uint32_t dies_at;    /* the boundary at which the next process dies, see SIM_BOUNDARIES; 0 = none */
    int64_t dead_for_us; /* after which it starts again */
    struct network network;
    struct sim_job *job;
    uint32_t job_count;
    uint64_t revocations;
    struct mesh_out *out;
    struct mesh_id authority;
    uint64_t hash;
    uint32_t planted;   /* times the plant took effect */
    uint32_t doubles;   /* hosts that bear an identity of another one */
    bool opinions;      /* a second one of each core: always, but for studies of large worlds */
    bool views_changed; /* somebody's view changed since all were compared */
    bool
        laying; /* a mesh is laid out: nobody dials or asks to be introduced, and what is saved is durable at once */
    struct story *story;
    const uint8_t
        *cut; /* [hosts x hosts] of a study: nothing passes from the first to the second; NULL: no such cut */
    struct drill drill;
    struct spell before;             /* the first fault */
    struct spell after;              /* everything healed, at the end */
    const struct study_watch *watch; /* borrowed; NULL: nobody measures */
};

/* world.c */
struct sim_plan *
sim_world_plan(struct sim_options *options); /* sets what the seed draws; owned by the caller */
bool sim_world_init(struct world *world, const struct sim_options *options, struct sim_result *result);
void sim_world_loop(struct world *world);
void sim_world_finish(struct world *world);
struct host *sim_world_add_host(struct world *world, const char *name, uint32_t identity);
uint32_t sim_world_identity(const struct world *world,
                            const struct mesh_id *id); /* host index, or SIM_NONE */
/* The first host that bears an identity, or the next after `after`; SIM_NONE at the end. */
uint32_t sim_world_bearer(const struct world *world, uint32_t identity, uint32_t after);
uint32_t sim_world_job(const struct world *world, const struct mesh_id *id);
struct event sim_world_event(const struct world *world, int64_t in_us, enum happening what, uint32_t node);
void sim_world_push(struct world *world, struct event event);
uint32_t sim_world_new_job(struct world *world);
struct mesh_id sim_id(uint64_t seed, uint32_t index);
bool sim_world_plant(struct world *world, enum sim_plant plant); /* true if this run plants it; counts */

/* host.c */
void sim_host_start(struct world *world, struct host *host);
void sim_host_crash(struct world *world, struct host *host, bool silent);
void sim_host_step(struct world *world, struct host *host, struct mesh_event *event);
void sim_host_wake(struct world *world, struct host *host);
void sim_host_synced(struct world *world, struct host *host);
void sim_host_receive(struct world *world, struct host *host, struct flight *flight);
void sim_host_record(struct world *world, struct host *host, const struct mesh_id *from,
                     struct payload *payload);
void sim_host_link(struct world *world, struct host *host, const struct mesh_id *peer, bool up, bool reset);
void sim_host_devices(struct world *world, struct host *host);
void sim_host_simple(struct world *world, struct host *host, enum mesh_event_kind kind);
void sim_host_submit(struct world *world, struct host *host, uint32_t job);
void sim_host_cancel(struct world *world, struct host *host, uint32_t job);
void sim_host_forget(struct world *world, struct host *host, uint32_t job);
void sim_host_free(struct host *host);
/* Whether it belongs to no tier of the host's, as far as the host knows: it is known while they share work, and introduces
 * itself again. */
bool sim_host_has_guest(const struct host *host, const struct mesh_id *id);
int64_t sim_host_local_us(const struct world *world, const struct host *host);
/* A message with its bytes, of which it takes over one reference; NULL if nobody is there to get it. */
struct flight *sim_host_flight(struct world *world, struct host *host, const struct mesh_send *send,
                               struct payload *payload);
/* Lets it go. False if the process died of that. */
bool sim_host_let_go(struct world *world, struct host *host, struct flight *flight);
/* The user hears how the job ended. */
/* The core is told of a job that is on the disk, at a start or after a takeover. */
void sim_host_restore(struct world *world, struct host *host, const struct disk_job *saved, uint64_t epoch);
void sim_host_told(struct world *world, struct host *host, uint32_t job, enum mesh_job_state state);
/* Makes a note durable, behind what is under way: a journal is over. */
void sim_host_note_over(struct world *world, struct host *host, uint32_t job, bool whole);
/* The latest version that its program speaks, of this life or, before the first one, of that. */
uint32_t sim_host_program(const struct world *world, const struct host *host);
void sim_batch_free(struct batch *batch);

/* disk.c */
struct disk_job *sim_disk_find(struct host *host, uint32_t job);
struct disk_job *sim_disk_add_job(const struct world *world, struct host *host, uint32_t job);
/* Forgets a job, as if it had never been saved. */
void sim_disk_remove_job(struct host *host, struct disk_job *job);
/* Whether a restart would find the record: of that kind, about that member. */
bool sim_disk_has_record(const struct world *world, struct host *host, enum mesh_record_kind kind,
                         const struct mesh_id *subject);
void sim_disk_apply(struct world *world, struct host *host, const struct batch *batch, uint32_t saves);
void sim_disk_crash(struct world *world,
                    struct host *host); /* what was under way is lost, but for some of it */
void sim_disk_rot(struct world *world, struct host *host, uint32_t permille, struct sim_random *random);
void sim_disk_replace(struct world *world, struct host *host, const struct disk *older); /* copies */
struct disk *sim_disk_copy(const struct world *world, const struct disk *disk);
void sim_disk_copy_records(struct disk *to, const struct disk *from);
void sim_disk_free(struct disk *disk); /* what it holds; NULL is fine */
bool sim_disk_quarantines(const struct host *host, uint32_t identity);

/* journal.c */
/* The place of a save in a journal of several copies, or NULL. */
const struct mesh_place *sim_journal_place(const struct mesh_save *save);
const struct mesh_id *sim_journal_job(const struct mesh_save *save);
enum mesh_entry_kind sim_journal_kind(const struct mesh_save *save);
/* The entry's bytes as the host makes them of a save with a place; the caller's to drop, may be NULL. */
struct payload *sim_journal_bytes(struct world *world, struct host *host, const struct mesh_save *save);
bool sim_journal_same(const struct payload *one, const struct payload *other);
/* Whether the host has that entry of that job, on its disk or on the way there. Borrowed. */
bool sim_journal_entry(struct host *host, uint32_t job, const struct mesh_id *id, uint32_t index,
                       struct disk_entry *entry);
void sim_journal_save(struct world *world, struct host *host, const struct mesh_save *save,
                      struct payload *payload);
void sim_journal_over(struct world *world, struct host *host, uint32_t job, bool whole);
void sim_journal_send_log(struct world *world, struct host *host, const struct mesh_effect *effect);
void sim_journal_take_over(struct world *world, struct host *host, uint32_t job, uint64_t epoch);
bool sim_journal_is_over(struct host *host, uint32_t job);
/* Answers MESH_JOURNAL_ASKED if nothing of it was ever on this disk, and somebody wants our voice. */
void sim_journal_tell_new(struct world *world, struct host *host, const struct mesh_effect *asked);
void sim_journal_tell_over(struct world *world, struct host *host, uint32_t job, const struct mesh_id *to);
/* Gives the copies that are not over to a core that has just started. */
void sim_journal_restore(struct world *world, struct host *host);
struct disk_log *sim_journal_copy(const struct disk_log *log);
void sim_journal_free(struct disk_log *log);

/* truth.c */
/* A home's own entry, as its step is taken. */
void sim_truth_written(struct world *world, struct host *host, const struct mesh_save *save,
                       struct payload *payload);
/* An entry is durable at a member; its log is cut; its promise is durable. */
void sim_truth_held(struct world *world, struct host *host, uint32_t job, uint32_t index,
                    const struct disk_entry *entry);
void sim_truth_cut(struct world *world, struct host *host, uint32_t job, uint32_t last);
void sim_truth_promised(struct world *world, struct host *host, uint32_t job, uint64_t epoch,
                        const struct mesh_id *candidate);
/* A home says or shows that entries up to that one are settled. */
void sim_truth_settled(struct world *world, struct host *host, uint32_t job, uint32_t index);
void sim_truth_step(struct world *world, struct host *host, const struct mesh_out *out);
/* The claim is broken for that job, unless its journal was harmed. */
void sim_truth_broken(struct world *world, const struct host *host, uint32_t job, enum sim_claim claim,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));
/* A message leaves the host. */
void sim_truth_sent(struct world *world, struct host *host, const struct flight *flight);
/* An acknowledgement lets an executor forget a shard's result. */
void sim_truth_acked(struct world *world, struct host *host, struct host *home, uint32_t job, uint32_t shard,
                     const struct mesh_bundle_name *name);
/* The host's user hears of it. */
void sim_truth_told(struct world *world, struct host *host, uint32_t job, enum mesh_job_state state);
/* A member's copy may have lost what was held or promised there. */
enum sim_harm { SIM_HARM_WIPED = 1, SIM_HARM_ROLLED_BACK, SIM_HARM_ROTTEN, SIM_HARM_CLONED };
void sim_truth_harmed(struct world *world, const struct host *host, uint32_t job, enum sim_harm harm);
void sim_truth_cloned(struct world *world); /* a clone has started */
void sim_truth_end(struct world *world, uint32_t job);
/* The shard at fault, by the latest end that was written. */
uint32_t sim_truth_failed_shard(const struct truth *truth);
void sim_truth_free(struct truth *truth);

/* layout.c: all hosts of a world that has not begun start within that time, and know all others from their disks; */
void sim_layout_disks(struct world *world, int64_t spread_us);
/* or they have just started, know all others, and have links and trees. False if a claim broke. */
bool sim_layout(struct world *world);

/* network.c */
struct flight *sim_flight_new(const struct mesh_message *message);
struct flight *sim_flight_copy(const struct flight *flight);
void sim_flight_free(struct flight *flight);
void sim_network_send(struct world *world, struct flight *flight);
void sim_network_deliver(struct world *world, struct event *event);
void sim_network_dialed(struct world *world, struct event *event);
void sim_network_stalled(struct world *world, struct event *event);
void sim_network_keep(struct world *world, struct host *host, const struct mesh_id *peer, bool keep);
/* They are connected, without a dial, and the core wants it. */
void sim_network_join(struct world *world, struct host *host, const struct mesh_id *peer);
void sim_network_redial(struct world *world, struct host *host, const struct mesh_id *peer);
void sim_network_host_died(struct world *world, struct host *host);
void sim_network_host_born(struct world *world, struct host *host);
void sim_network_reset(struct world *world, uint32_t link);
void sim_network_bar(struct world *world, const struct host *host, uint32_t peer);
bool sim_network_shut_out(const struct world *world, const struct host *by, const struct host *whom);
void sim_network_changed(struct world *world); /* after partitions or pauses changed */
void sim_network_capture(struct world *world, const struct flight *flight);
bool sim_network_replay(struct world *world, uint32_t place, const struct host *by, const struct host *to,
                        int64_t in_us);
void sim_network_free(struct network *network);

/* device.c */
void sim_device_run(struct world *world, struct host *host, const struct mesh_effect *effect);
void sim_device_stop(struct world *world, struct host *host, uint32_t attempt);
void sim_device_ran(struct world *world, struct host *host, uint32_t slot, uint32_t serial);
void sim_device_lookup(struct world *world, struct host *host, const struct mesh_effect *effect);
void sim_device_looked_up(struct world *world, struct host *host, const struct event *event);
void sim_device_lent(struct world *world, struct host *host);
void sim_device_unstick(struct world *world, struct host *host); /* ends what never would */
void sim_device_clear(struct host *host);
uint64_t sim_device_result(const struct world *world, uint32_t job, uint32_t shard);
/* Whether a result that is committed may be what it is: the right one, or one of the lying site's that nothing showed to be wrong. */
bool sim_device_excused(struct world *world, const struct mesh_save *commit, uint32_t job, uint32_t shard,
                        uint64_t value);

/* faults.c */
void sim_faults_schedule(struct world *world);
void sim_faults_strike(struct world *world, const struct event *event);
void sim_faults_end(struct world *world, const struct event *event);
void sim_faults_kill(struct world *world, struct host *host, int64_t for_us);
/* Whether a process dies here, as a fault may have chosen: then nothing of what follows in its output is let go. */
bool sim_faults_dies(struct world *world, struct host *host, uint32_t boundary);
void sim_faults_cloned(struct world *world, struct host *host);
void sim_faults_heal(struct world *world);

/* check.c */
void sim_check_fail(struct world *world, const struct host *host, enum sim_claim claim, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));
void sim_check_step(struct world *world, struct host *host, const struct mesh_event *event);
void sim_check_signed(struct world *world, struct host *host, const struct mesh_record *record);
void sim_check_survey(struct world *world);
void sim_check_sent(struct world *world, const struct flight *flight); /* to another host */
void sim_check_end(struct world *world);
const char *sim_check_claim(enum sim_claim claim);
/* Whether any node of the mesh as it is could run it. */
bool sim_check_can_run(const struct world *world, const struct sim_job *job);

/* drill.c */
void sim_drill_survey(struct world *world);
bool sim_drill_drops(const struct world *world, const struct flight *flight);
/* Whether so little time has passed since it was revoked in the drill that others need not know yet. */
bool sim_drill_just_revoked(const struct world *world, const struct host *host);

/* oracle.c: `whole` asks for what takes time with the state, too. */
void sim_oracle_step(struct world *world, struct host *host, const struct mesh_event *event,
                     const struct mesh_out *out, bool whole);
void sim_oracle_free(struct host *host);

/* trace.c */
enum trace_what {
    TRACE_EVENT = 1,
    TRACE_RECEIVED,
    TRACE_SENT,
    TRACE_SAVE,
    TRACE_EFFECT,
    TRACE_FAULT,
    TRACE_LIFE
};
enum trace_life { LIFE_STARTS = 1, LIFE_CRASHES, LIFE_DIES_SILENTLY, LIFE_DONE };
void sim_trace(struct world *world, struct host *host, enum trace_what what, uint32_t kind, uint32_t peer,
               uint64_t a, uint64_t b);
void sim_trace_format(const struct world *world, const struct host *host, const struct trace_line *line,
                      char *text, size_t room);
const char *sim_trace_effect(uint32_t kind);
const char *sim_trace_state(enum mesh_member_state state);
const char *sim_trace_job_state(enum mesh_job_state state);
const char *sim_fault_name(uint32_t fault);

/* scenario.c: "300ms", "1.5s", "2m". */
bool sim_read_time(const char *word, int64_t *us);
/* Puts '?' for what a terminal would not print: words of files that others wrote stand in messages. */
void sim_make_printable(char *text);
/*
 * Reads the file line by line. A folder, a file that can't be read, and a line that is too long are mistakes, told in
 * `failure`, as are those that `read_line` tells there. Returns false on the first of them.
 */
#define SIM_LINE_BYTES 400
bool sim_read_lines(const char *path, const char *what, struct sim_result *failure,
                    bool (*read_line)(void *context, char *text, uint32_t number), void *context);
/* Tells of a mistake in a line; returns false. */
bool sim_mistake(struct sim_result *failure, const char *path, uint32_t line, const char *what,
                 const char *word);
/* Called after every step and every message when a story is told. */
void sim_story_line(struct world *world, uint32_t line);
void sim_story_look(struct world *world);
void sim_story_message(struct world *world, uint32_t from, uint32_t to, enum mesh_message_kind kind);

static inline bool sim_host_affordable(const struct host *host, const struct sim_job *job)
{
    return job->spec.price_limit_micro == 0 || host->price_micro <= job->spec.price_limit_micro;
}

static inline bool bit_get(const uint8_t *bits, uint32_t index)
{
    return (bits[index / 8] >> (index % 8)) & 1;
}

static inline void bit_set(uint8_t *bits, uint32_t index)
{
    bits[index / 8] = (uint8_t)(bits[index / 8] | (1u << (index % 8)));
}

void *sim_alloc(size_t count, size_t bytes); /* zeroed; ends the program when there is no memory */
void *sim_grow(void *memory, size_t count, size_t bytes);

#endif
