/*
 * What the parts of the core share. Nothing outside mesh/ includes this.
 *
 * The state is one struct of parts; each part is a file with a header, owns its own tables and is called by name:
 *
 *     mesh.c       init, the step's dispatch, views, counters
 *     out.c        bounded appending to the step's output
 *     message.c    names and sizes of messages
 *     members.c    who is known, in which state; sorted by id
 *     tiers.c      sites with an interior, their reporters, guests
 *     overlay.c    the rings: who is whose neighbour and observer
 *     links.c      pings, round trips, silence
 *     detector.c   accusations, self-doubt, refutation, down
 *     gossip.c     signed records: which are taken in, and flooding them
 *     tree.c       spanning trees: who is sent a copy, who only word of it
 *     echo.c       how soon our news reach the others
 *     rounds.c     anti-entropy with one neighbour at a time
 *     executor.c   attempts and leases on this node's slots
 *     grants.c     who gets the next free place
 *     home.c       jobs this node is home of
 *     shards.c     their queues
 *     bundles.c    shards bound to places: results, leases, orphans
 *     speculation.c  bundles that take too long
 *     verify.c     results that are computed a second time elsewhere
 *     placement.c  where to ask for places
 *     journal.c    what is said of a job, at a majority of the nodes that keep it
 *     change.c     which nodes those are
 *     disk.c       whether ours still has what was on it
 *     leader.c     as its home
 *     follower.c   as one of the others
 *     election.c   which of them is the job's home
 *     adopt.c      attempts that outlive their home
 */
#ifndef MESH_INTERNAL_H
#define MESH_INTERNAL_H

#include "mesh/mesh.h"

#include <assert.h>
#include <string.h>

#define MESH_NONE UINT32_MAX

/* One step: the event's clocks and the output, passed to every function that may act. */
struct step {
    struct mesh *mesh;
    struct mesh_out *out;
    int64_t now_ms;
    int64_t wall_ms;
    const uint32_t *digest; /* of the RESULT that is being taken; see struct mesh_event */
};

/* out.c. Appending asserts that there is room; ask first wherever the amount depends on peers or on table sizes. */
bool out_has_room(const struct mesh_out *out, uint32_t saves, uint32_t sends, uint32_t effects);
struct mesh_save *out_save(struct step *step, enum mesh_save_kind kind);
/* The message's kind is set and its fixed part is zero; lists have no entries yet. */
struct mesh_message *out_send(struct step *step, const struct mesh_id *to, enum mesh_message_kind kind);
struct mesh_effect *out_effect(struct step *step, enum mesh_effect_kind kind);
void out_drop(struct step *step, uint64_t handle); /* nothing for handle 0 */
void out_wake(struct step *step, int64_t at_ms);   /* wake_at_ms = the least of all asked for */

/*
 * Memory. Each part lays its tables out in the host's block: X_layout() sets the part's pointers by carve() calls and
 * touches nothing else. mesh_size() runs the same calls with `base` NULL, where carve() only counts and returns NULL.
 * The block is zeroed, and X_init() runs once afterwards; it should leave large tables untouched. What it does touch, and
 * what is filled in every core, comes first.
 */
struct carve {
    unsigned char *base;
    size_t used;
};
void *carve(struct carve *from, size_t count, size_t size);

/* random.c: the state's own generator (xoshiro256**, Blackman and Vigna 2018, seeded by splitmix64). */
struct mesh_random {
    uint64_t s[4];
};
void random_seed(struct mesh_random *random, const uint64_t seed[2]);
uint64_t random_next(struct mesh_random *random);
uint32_t random_below(struct mesh_random *random, uint32_t bound); /* 0 <= result < bound; bound >= 1 */

/* hash.c: SipHash-2-4 (Aumasson and Bernstein 2012) with a fixed key per use; for rings, buckets and rendezvous. */
uint64_t mesh_hash(uint64_t key0, uint64_t key1, const void *bytes, size_t count);

static inline int id_compare(const struct mesh_id *a, const struct mesh_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

static inline bool id_equal(const struct mesh_id *a, const struct mesh_id *b)
{
    uint64_t left[4];
    uint64_t right[4];
    memcpy(left, a->bytes, sizeof left);
    memcpy(right, b->bytes, sizeof right);
    return ((left[0] ^ right[0]) | (left[1] ^ right[1]) | (left[2] ^ right[2]) | (left[3] ^ right[3])) == 0;
}

#include "mesh/detector.h"
#include "mesh/disk.h"
#include "mesh/echo.h"
#include "mesh/executor.h"
#include "mesh/gossip.h"
#include "mesh/home.h"
#include "mesh/journal.h"
#include "mesh/links.h"
#include "mesh/members.h"
#include "mesh/overlay.h"
#include "mesh/rounds.h"
#include "mesh/tiers.h"
#include "mesh/tree.h"

struct mesh {
    struct mesh_config config;
    int64_t now_ms; /* of the latest step; never goes back */
    struct mesh_random random;
    struct mesh_counters counters;
    uint64_t incarnation;    /* ours; see gossip_incarnation() */
    uint64_t record_version; /* of our latest member record; see mesh_config.session */
    bool draining;
    bool stopping; /* drains, and ends whether its own jobs are done or not */
    bool leaving;
    bool booted; /* the first step has announced us */
    struct members members;
    struct tiers tiers;
    struct overlay overlay;
    struct links links;
    struct detector detector;
    struct gossip gossip;
    struct tree tree;
    struct echo echo;
    struct rounds rounds;
    struct executor executor;
    struct home home;
    struct journals journals;
    struct disk disk;
};

/* The seam between the two halves of the core. */

/* Work's own life: see struct carve. A check asserts the part's invariants. */
void executor_layout(struct executor *executor, const struct mesh_limits *limits, struct carve *from);
void executor_init(struct mesh *mesh);
void executor_check(const struct mesh *mesh);
void home_layout(struct home *home, const struct mesh_limits *limits, struct carve *from);
void home_init(struct mesh *mesh);
void home_check(const struct mesh *mesh);

/* From membership to work: called once when it happens. */
void home_member_down(struct step *step, uint32_t member); /* down, left or revoked: requeue what it held */
void home_member_restarted(struct step *step,
                           uint32_t member); /* a new session of the same id: its attempts are gone */
void home_member_capacity(struct step *step,
                          uint32_t member); /* its capacity record advanced, or it came up */
void executor_member_gone(struct step *step,
                          uint32_t member); /* revoked: stop what runs for it. Down: leases decide */

/* From work to membership: our own capacity changed; gossip.c announces it at most once a second. */
void gossip_capacity_changed(struct step *step);
/* What gossip.c announces. */
void executor_capacity(const struct mesh *mesh, struct mesh_capacity *capacity);

/* Work's entry points, called by the dispatch in mesh.c. `from` is a member's slot, known and not revoked. */
void executor_devices(struct step *step, const struct mesh_event *event);
void executor_drain(struct step *step);
/* Whether that member's jobs get places here. A node that drains serves its own jobs: some may run nowhere else. */
bool executor_serves(const struct mesh *mesh, uint32_t home);
void executor_ran(struct step *step, const struct mesh_event *event);
void executor_reserve(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_release(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_assign(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_result_ack(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_renewed(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_cancel(struct step *step, uint32_t from, const struct mesh_message *message);
void executor_tick(struct step *step);

void home_submit(struct step *step, const struct mesh_event *event);
void home_restore(struct step *step, const struct mesh_event *event);
void home_cancel(struct step *step, const struct mesh_event *event);
void home_forget(struct step *step, const struct mesh_event *event);
void home_looked_up(struct step *step, const struct mesh_event *event);
void home_grant(struct step *step, uint32_t from, const struct mesh_message *message);
void home_wait(struct step *step, uint32_t from, const struct mesh_message *message);
void home_expired(struct step *step, uint32_t from, const struct mesh_message *message);
void home_result(struct step *step, uint32_t from, const struct mesh_message *message);
void home_renew(struct step *step, uint32_t from, const struct mesh_message *message);
void home_tick(struct step *step);

/* We keep a copy of the job's journal and aren't its home: tells an executor who is, as far as we know. */
void adopt_point(struct step *step, uint32_t from, const struct mesh_id *job);
void adopt_on_report(struct step *step, uint32_t from, const struct mesh_message *message);
void adopt_on_adopted(struct step *step, uint32_t from, const struct mesh_message *message);

#endif
