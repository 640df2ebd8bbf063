/*
 * The member table. A member is born when a verified MEMBER record of it is first accepted; only its origin's
 * records advance it. It is UP until observers accuse it (SUSPECT, then DOWN), until it leaves (LEFT) or is
 * revoked (REVOKED, for ever). DOWN and LEFT members are forgotten after 24 h. Slots are stable for the life
 * of a member; walk them in the order of ids through `sorted`.
 */
#ifndef MESH_MEMBERS_H
#define MESH_MEMBERS_H

#include "mesh/mesh.h"

struct carve;
struct step;

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

struct member {
    struct mesh_id id;
    enum mesh_member_state state;
    int64_t state_at_ms;
    int64_t up_since_ms;       /* since when it is not down; a suspicion that was withdrawn does not count */
    struct mesh_record record; /* MEMBER; its handle is ours */
    struct mesh_record capacity; /* CAPACITY; kind 0 until one came; its handle is ours */
    int64_t capacity_at_ms;
    uint32_t rtt_us; /* smoothed as RFC 6298; 0 = not measured */
    uint32_t rtt_var_us;

    /* Accusations of its present incarnation, and how many of them stand. Owned by detector.c. */
    uint32_t accusation_count;
    uint32_t accuser_count;
    struct accusation accusation[MESH_ACCUSATIONS_MAX];
    bool watched; /* it stands in the detector's list of the accused */
    /* Our own accusation: whether it stands, when it was last signed, and of which incarnation. */
    bool alerted;
    int64_t alerted_at_ms;
    uint64_t alerted_incarnation;

    /* Where it stands on each ring (overlay.c), and how anti-entropy counts it (gossip.c; hash 0 = not
     * listed). */
    uint64_t ring_hash[MESH_RINGS];
    uint64_t listed_hash;
    uint32_t bucket;

    /* Placement's own notes about the member, see placement.c. */
    uint32_t debit[MESH_DEVICE_CLASSES]; /* places asked for or used since its latest capacity record */
    uint32_t delivered_permille;         /* moving average of places granted per place believed free */
};

struct members {
    uint32_t count;
    uint32_t capacity;
    uint32_t used;       /* slots [0, used) have been in use at some time */
    struct member *slot; /* [capacity]; a free slot has state 0 */
    uint32_t *sorted;    /* [count] slots in the order of ids */
    uint32_t self;       /* our own slot */
};

void members_layout(struct members *members, const struct mesh_limits *limits, struct carve *from);
/* Puts ourselves into slot 0; our own record follows once the host has signed it. */
void members_init(struct mesh *mesh);
void members_check(const struct mesh *mesh);

/* Returns the slot of a known id, or MESH_NONE. O(log n). */
uint32_t members_find(const struct mesh *mesh, const struct mesh_id *id);
/* Whether new work may be placed there: UP, not draining, and not barred. */
bool members_takes_work(const struct mesh *mesh, uint32_t slot);
/* UP or SUSPECT: has its place on the rings. */
bool members_live(const struct mesh *mesh, uint32_t slot);
/* Whether the members, at their bound, could still take one in by forgetting a revoked one. */
bool members_have_room(const struct mesh *mesh);

/*
 * Takes in a member whose first record came; its state is UP but it is not yet on the rings. Returns its
 * slot, or MESH_NONE at the bound. At the bound a revoked member gives way, since its revocation is
 * remembered elsewhere. O(n).
 */
uint32_t members_add(struct step *step, const struct mesh_record *record);
/* Forgets a member that is not live; gives its handles back. O(n). */
void members_remove(struct step *step, uint32_t slot);

/*
 * The one place where a member changes its state: tells the rings, anti-entropy, the work half and the host.
 * A step has room for many of these but not for a table full: ask out_has_room(1, 0, 4) wherever the number
 * is unbounded.
 */
void members_set_state(struct step *step, uint32_t slot, enum mesh_member_state state);

#endif
