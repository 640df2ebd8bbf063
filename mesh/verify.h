/*
 * Verification: what other sites compute is computed a second time elsewhere, and compared.
 *
 * A *check* is some shards of one job of which one member has brought results, the first *opinion*, and another one is to
 * bring them too. It is born when such results come: by chance (MESH_VERIFY_SPOT: its shards are committed already), always
 * (MESH_VERIFY_QUORUM: its shards are HELD), or when a member was caught, for what it brought before and nobody has
 * confirmed. It is
 *
 *     wanted -> out -> ended        wanted: placement.c looks for a place at a site of which it has no opinion yet;
 *       ^        |                  out: that member has its shards as a bundle, which owns none of them, as a copy of a
 *       +--------+                  slow bundle doesn't; it is bound in the same way (bundles.c)
 *
 * It is wanted again when that bundle was lost, and once more when the two opinions differ: then a third site decides about
 * the shards that are still *open*. Two of three are right, and whoever is not is *caught*; of who was caught
 * before a second opinion is enough. Where the three differ, a held
 * shard is queued again, and a committed one is as good as wrong. A check of committed shards is given up when nobody has a
 * place for it in time; if there are two opinions by then and one is of our own site, that one counts. Held shards wait on,
 * since nobody's word alone makes a quorum; they are queued again where all checks are taken, and where a third site failed
 * too often. A job is not done before its checks have ended.
 *
 * How often a member is checked is told by how many of its results others confirmed in a row: always until
 * MESH_TRUSTED_RESULTS, then one in that many, MESH_VERIFY_PERMILLE or what the job asks for at least. This is BOINC's
 * adaptive replication (Anderson, https://github.com/BOINC/boinc/wiki/AdaptiveReplication), and that floor.
 *
 * A member that was caught is in *quarantine* here, until an operator lifts that: it gets no work of our jobs, what it has
 * of them is queued again, results that it still brings are thrown away, those that are held are computed anew, and those
 * that were committed unchecked are checked, also if this node became the job's home since. A committed result never changes:
 * if it was wrong its job is *disputed*, which is saved, and stands in its journal.
 *
 * Results are compared by the digests that came with them. The core never sees the results themselves.
 */
#ifndef MESH_VERIFY_H
#define MESH_VERIFY_H

#include "mesh/list.h"
#include "mesh/mesh.h"

struct carve;
struct home;
struct job;
struct step;

enum check_state {
    CHECK_WANTED = 1,
    CHECK_OUT,
    CHECK_CLOSING, /* ended: the results that it holds are dropped as the output has room */
};

/* What has been found out about one shard of a check. */
enum finding {
    FINDING_OPEN = 0,
    FINDING_SAME,         /* the second opinion is the first */
    FINDING_FIRST_WRONG,  /* the third is the second */
    FINDING_SECOND_WRONG, /* the third is the first */
    FINDING_NONE,         /* all three differ */
    FINDING_TAKEN,        /* what follows from it was done */
};

struct opinion {
    struct mesh_id member;
    uint64_t site;
    uint64_t handle;    /* of a check that holds: the results; otherwise 0 */
    uint64_t device_us; /* and what they took */
    uint32_t digest[MESH_BUNDLE_SHARDS_MAX];
    uint8_t place[MESH_BUNDLE_SHARDS_MAX]; /* of each in the results */
};

struct check {
    uint8_t state;    /* enum check_state; 0 = free slot */
    uint8_t tries;    /* opinions that did not come */
    bool holds;       /* its shards are HELD, not committed */
    uint32_t job;     /* slot */
    uint32_t classes; /* of devices, bits: another opinion may come from these */
    int64_t until_ms;
    uint32_t opinions; /* 1, or 2 where they differ */
    uint32_t count;
    struct opinion opinion[2];
    uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
    uint8_t finding[MESH_BUNDLE_SHARDS_MAX];
};

/*
 * A member whose results of a user's kernel were wrong, or whose submitter wrote one that gives what it likes: nobody can tell.
 * It gets no more of that kernel, until it is caught with another tenant's or with a kernel of ours.
 */
struct doubt {
    struct mesh_id id;
    uint64_t kernel;
    uint64_t tenant;
};

struct verify {
    struct check *check;
    struct pool pool;
    struct list_link *link;        /* free, `live` or `closing` */
    struct list_link *of_job_link; /* job.checks */
    struct list live;
    struct list closing;
    int64_t look_at_ms;
    struct mesh_id *quarantined; /* [quarantined_count] in the order in which they were caught */
    uint32_t quarantined_count;
    struct doubt *doubt; /* [doubt_count], the oldest first */
    uint32_t doubt_count;
    uint32_t promised; /* bundles with leases whose results are to be held */
    uint32_t rechecks; /* jobs whose committed shards are being looked through */
};

void verify_layout(struct verify *verify, const struct mesh_limits *limits, struct carve *from);
void verify_check(const struct mesh *mesh);

/* Whether results of the job are held until two sites agree; and whether there is room for one more bundle of them. */
bool verify_holds(const struct job *job);
bool verify_has_room(const struct home *home);
/*
 * Of so many bundles of queued shards those that may be bound: of what is to be held no more than there are checks for, since
 * the places in the bundles' table that others wait in are needed to check it.
 */
uint32_t verify_permits(const struct home *home, const struct job *job, uint32_t bundles);
/* The digest of place `place` of the RESULT that is being taken. */
uint32_t verify_digest(const struct step *step, uint32_t place);
/* Whether the member is in quarantine; and whether it is, or its results of this job's kernel are doubted. */
bool verify_bars(const struct mesh *mesh, uint32_t member);
bool verify_bars_of_job(const struct mesh *mesh, const struct job *job, uint32_t member);

#define MESH_ANY_CLASS UINT32_MAX
/*
 * For bundles.c, while it takes a RESULT. `classes`: that of the devices that it comes from, as a bit. `*check` is MESH_NONE before its first shard, and the check that they make
 * afterwards, if any. A shard that was committed is perhaps checked; one that is to be held is.
 */
void verify_sample(struct step *step, uint32_t job, uint32_t from, uint32_t classes,
                   const struct mesh_message *result, uint32_t place, uint32_t *check);
void verify_hold(struct step *step, uint32_t job, uint32_t from, uint32_t classes,
                 const struct mesh_message *result, uint32_t place, uint32_t *check);

/* A check that may go to that member, to a device of those classes, or MESH_NONE. */
uint32_t verify_pick(const struct mesh *mesh, const struct job *job, uint32_t member, uint32_t classes);
/* It goes there: its open shards are written to `shard`; returns how many. */
uint32_t verify_send(struct home *home, uint32_t check, uint32_t shard[MESH_BUNDLE_SHARDS_MAX]);
/* It does not come back. */
void verify_lost(struct home *home, uint32_t check);
/* It came back. Returns whether the message's handle is kept. */
bool verify_opinion(struct step *step, uint32_t check, uint32_t from, const struct mesh_message *result);

/* The member was proved wrong about a shard of the job. Those of our own site are believed all the same. */
void verify_caught(struct step *step, uint32_t member, uint32_t job, uint32_t shard);
/* Events of the host. */
void verify_quarantine(struct step *step, const struct mesh_event *event);
void verify_trust(struct step *step, const struct mesh_event *event);
/* The job was read back: what a member brought of it that is in quarantine, or will be, is checked as if this process had
 * seen it come. */
void verify_restored(struct step *step, uint32_t job, const struct mesh_event *event);
/* Whether the job may not end yet. */
bool verify_awaited(const struct job *job);
/* The job is over: so are its checks. */
void verify_job_over(struct home *home, uint32_t job);
/* The member's slot is about to be another's; a member has taken one. */
void verify_member_removed(struct mesh *mesh, uint32_t member);
void verify_member_added(struct mesh *mesh, uint32_t member);
void verify_tick(struct step *step);

#endif
