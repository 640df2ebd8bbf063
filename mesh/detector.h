/*
 * The failure detector. An observer whose link to a member is silent accuses it in a signed ALERT, which is
 * flooded and repeated while it holds. Two accusers make it SUSPECT (one, under MESH_SMALL members); when
 * MESH_DOWN_PERCENT of its observers accuse it, it is DOWN. Observers that we accuse ourselves do not count, nor,
 * for DOWN, do those that are suspect: the two sides of a split each see the other go down. An accused node
 * refutes with a higher incarnation.
 *
 * Doubt comes before accusation: a node most of whose links fail at once keeps its accusations to itself for
 * a while. DOWN is this node's own view. It never makes anything permanent, and the member's own word in a
 * higher incarnation ends it.
 */
#ifndef MESH_DETECTOR_H
#define MESH_DETECTOR_H

#include "mesh/members.h"

/*
 * What one observer last said about a member: born with its first ALERT, replaced by its newer ones,
 * forgotten MESH_ALERT_TTL_MS after the last. A withdrawal is kept as long as an accusation, so that a late
 * copy of the accusation is known to be old.
 */
struct accusation {
    uint32_t accuser; /* member slot */
    bool accuses;
    uint64_t incarnation; /* of the accuser's record */
    uint64_t version;
    int64_t at_ms;
};

/* What was said about one member's present incarnation. Few members are accused at a time. */
struct accused {
    uint32_t member; /* slot */
    uint32_t count;
    uint32_t accusers; /* how many of them stand */
    struct accusation accusation[MESH_ACCUSATIONS_MAX];
    /* Its observers, as they were at so many changes of the overlay and in that tier: each of them accuses it, and has it judged
     * again. */
    uint64_t changes;
    uint32_t tier;
    uint32_t observers;
    uint32_t observer[MESH_NEIGHBOURS_MAX];
};

struct detector {
    struct accused *accused; /* [accused_count], in no particular order; member.accused is the way in */
    uint32_t accused_count;
    /* [accused_count], by its rows: when each is judged next, since a verdict may fall then, an accusation ends, or something
     * changed on which the verdict rests. Apart from the rows, since all are looked at whenever one is due. */
    int64_t *due_at_ms;
    uint64_t alert_version;
    int64_t next_at_ms;  /* the earliest of these, or earlier */
    int64_t swept_at_ms; /* of the latest walk over all members: retries and tombstones */

    bool doubting; /* most of our own links failed at once: it is probably us */
    int64_t doubt_until_ms;

    struct believed {
        uint32_t member;
        int64_t accuse_at_ms;
    } believed[MESH_BELIEVED_MAX]; /* in by a peer, and down here; in the order of their times */
    uint32_t believed_count;

    /* Refutation and clones. */
    bool announce; /* a raised incarnation is to be announced, at announce_at_ms at the earliest */
    int64_t announce_at_ms;
    uint32_t meetings; /* with other processes of our identity: see MESH_CLONE_MEETINGS */
    uint32_t elders;   /* of those, with processes that started before us */
    bool met;          /* the raised incarnation answers such a meeting */
};

void detector_layout(struct detector *detector, const struct mesh_limits *limits, struct carve *from);
void detector_init(struct mesh *mesh);
void detector_check(const struct mesh *mesh);

/* Takes an ALERT of a known origin. Returns whether it was new, and so must be flooded. */
bool detector_alert(struct step *step, uint32_t origin, const struct mesh_record *record);
/*
 * Whether our latest accusation of a member need not be flooded: it is down and was just heard, for the first time since, so
 * it lives and need only hear of it to refute it. All members of a mesh that was split say this of each other at once when
 * it heals. Who does not refute it is accused aloud the next time: perhaps it can't hear us.
 */
bool detector_tells_alone(const struct mesh *mesh, uint32_t member);
/* A record with our own id and another process' session, of at least our own incarnation. */
void detector_foreign(struct step *step, const struct mesh_record *record);

/* Goes above our own incarnation, whatever others said of it. */
void detector_raise(struct step *step);

/* A member was heard: a standing accusation of ours is withdrawn; one that is down is told so. */
void detector_heard(struct step *step, uint32_t member);
/*
 * A peer still believes in this incarnation of the member: it started, or joined, after the accusations went
 * round. If the member is still down here a little later we accuse it again, and its observers join in, so that the peer
 * can conclude.
 */
void detector_believed(struct step *step, uint32_t member);
/* A link fell silent: perhaps it is us. */
void detector_silent(struct step *step);
/* The member is no longer our neighbour. */
void detector_unlinked(struct step *step, uint32_t member);
/* The member's present incarnation is over, or the member is: what was said about it is void. */
void detector_clear(struct mesh *mesh, uint32_t member);
/* A live member came with a higher incarnation: what was said about it is void, and it is UP. */
void detector_refuted(struct step *step, uint32_t member, bool restarted);
/* The slot is about to be given up: what it said, and what was said about it, is void. O(n). */
void detector_forget(struct mesh *mesh, uint32_t member);
/* What was said about a member, or NULL. Borrowed until the next call that may change it. */
struct accused *detector_said(const struct mesh *mesh, uint32_t member);
/* How many accuse it now. */
uint32_t detector_accusers(const struct mesh *mesh, uint32_t member);
/* How many members it accuses now. */
uint32_t detector_accuses(const struct mesh *mesh, uint32_t member);

/*
 * Something changed on which verdicts rest: that on a member alone; those on all whom it observes too, as its state, its place
 * or our accusation of it does; or all of them. They are given again in this step or the next. In a split half of the mesh is
 * accused, so whoever had all judged at each alert would pay with the cube of its nodes.
 */
void detector_judge(struct mesh *mesh, uint32_t member);
void detector_judge_around(struct mesh *mesh, uint32_t member);
void detector_judge_all(struct mesh *mesh);

void detector_tick(struct step *step);

#endif
