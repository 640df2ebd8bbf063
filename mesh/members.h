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

/* Of two records of one name the later one in this order is the newer. */
struct stamp {
    uint64_t incarnation;
    uint64_t version;
};
#define STAMP(of) ((struct stamp){.incarnation = (of)->incarnation, .version = (of)->version})

/* What is kept of a member's MEMBER record; members_record() makes the whole record of it again. */
struct member_record {
    uint64_t incarnation;
    uint64_t version;
    uint64_t site;
    uint64_t region;
    uint64_t session;
    uint64_t handle; /* ours; 0 for our own until the host has signed it */
};

/* What is kept of its CAPACITY record; members_capacity() makes the whole record of it again. */
struct member_capacity {
    uint64_t incarnation;
    uint64_t version;
    uint64_t handle; /* ours */
    int64_t at_ms;   /* when it came; 0 = never */
    struct mesh_class_capacity class[MESH_DEVICE_CLASSES];
    uint32_t price_micro;
};

/*
 * One for each member that we know of: a node holds thousands of these, so they are small, and what most never have is in
 * struct member_notes. What is looked at most comes first.
 */
struct member {
    struct mesh_id id;
    uint8_t state;         /* enum mesh_member_state; 0 = free slot */
    uint8_t rings;         /* the tiers on whose rings it stands */
    uint8_t listed;        /* the tiers in whose summaries it is */
    bool leaving : 1;      /* its record says so */
    bool interior : 1;     /* and this, see tiers.h */
    bool alerted : 1;      /* our own accusation of it stands */
    bool owing : 1;        /* something is owed to some neighbour soon, */
    bool telling : 1;      /* or word of its capacity, which has time; */
    bool told : 1;         /* and some was given, at word_at_ms */
    bool has_capacity : 1; /* one came in its present life, */
    bool more : 1;         /* and tells of more, which is in its notes */

    /* How its records travel through us, see tree.c: bits by the place of a link. */
    uint16_t lazy;      /* these neighbours are given word of them only */
    uint8_t comes_from; /* place + 1 of the link over which they come; 0 = none, or our own */
    uint8_t hops;       /* links that the newest one crossed on its way to us */
    struct member_record record;
    uint16_t owes_capacity;      /* a copy of its capacity */
    uint16_t owes_word;          /* word of its record */
    uint16_t owes_capacity_word; /* word of its capacity */
    uint16_t owes_prune;

    struct member_capacity capacity;
    uint16_t no_users; /* as its capacity says, as the next two */
    uint8_t fault;
    bool draining;
    uint32_t
        word_at_ms; /* when word of its capacity was given latest; the lower half is enough to tell minutes */
    int64_t state_at_ms;
    int64_t up_since_ms; /* since when it is not down; a suspicion that was withdrawn does not count */

    /* Where it stands on each ring (overlay.c), and how anti-entropy counts it (rounds.c; hash 0 = not
     * listed). */
    uint32_t ring_hash[MESH_RINGS];
    uint64_t listed_hash;
    uint8_t bucket;

    uint8_t protocol; /* agreed on at its latest session, though it was no neighbour then; 0 = none */
    uint16_t notes;   /* index of what is noted of it; 0 = nothing, see members_edit_notes() */
    uint16_t accused; /* what others say about it: index + 1 in the detector's table, 0 = nothing */
};

/*
 * What is noted of the few members with whom we have to do: neighbours, those who work for us or keep journals with us, and
 * reporters of large sites. Of all others it is zero.
 */
struct member_notes {
    uint32_t member;     /* slot */
    int64_t spoke_at_ms; /* when anything last came from it; 0 = never */
    uint32_t rtt_us;     /* smoothed as RFC 6298; 0 = not measured */
    uint32_t rtt_var_us;
    int64_t alerted_at_ms; /* when our own accusation was last signed; 0 = never */
    bool told_alone;       /* and it was for its ears only, see detector_tells_alone() */

    /* Placement's, see placement.c. */
    uint32_t debit[MESH_DEVICE_CLASSES]; /* places asked for or used since its latest capacity record */
    uint32_t delivered_permille; /* moving average of places granted per place believed free; 0 = 1000 */

    /* Verification's, see verify.c. */
    uint32_t confirmed; /* results that others confirmed since one was wrong */
    bool quarantined;

    /* What we know of its disk, and it of ours, see disk.c. */
    uint64_t disk_seen;       /* the highest sequence that it named */
    int64_t disk_ask_at_ms;   /* when we may ask it again */
    int64_t disk_asked_at_ms; /* when we asked it first */
    bool disk_asked;
    bool disk_told; /* it said in this life of ours how far it has seen us */

    /* Of its capacity record. */
    int64_t available_until_ms;
    struct mesh_site_capacity behind;
    uint8_t resident_count;
    uint32_t resident[MESH_RESIDENTS_MAX];
};

struct members {
    uint32_t count;
    uint32_t capacity;
    uint32_t used;              /* slots [0, used) have been in use at some time */
    struct member *slot;        /* [capacity]; a free slot has state 0 */
    struct member_notes *notes; /* [notes_count] the first is of all who have none */
    uint32_t notes_count;
    uint32_t self; /* our own slot */

    /* Small tables of the parts side by side, see members.c: few members touch little memory. */
    unsigned char *packed;
    uint32_t room;    /* for so many members, a power of two that grows with them */
    uint32_t *sorted; /* [count] slots in the order of ids */
    uint32_t *place;  /* [2 * room] open addressing by id; 0 = empty */
};

void members_layout(struct members *members, const struct mesh_limits *limits, struct carve *from);
/* Puts ourselves into slot 0; our own record follows once the host has signed it. */
void members_init(struct mesh *mesh);
void members_check(const struct mesh *mesh);

/* What is noted of a member, to be read; and to be written, until a member is removed. */
static inline const struct member_notes *members_notes(const struct members *members, uint32_t slot)
{
    return &members->notes[members->slot[slot].notes];
}
struct member_notes *members_edit_notes(struct mesh *mesh, uint32_t slot);

/* The records of a known member, as its origin signed them. A capacity's handle is 0 if none came. */
struct mesh_record members_record(const struct member *member);
struct mesh_record members_capacity(const struct mesh *mesh, uint32_t slot);
struct mesh_capacity members_offer(const struct mesh *mesh, uint32_t slot);
/* Keeps a newer one instead; the handle of the earlier one is given back. */
void members_keep_record(struct step *step, uint32_t slot, const struct mesh_record *record);
void members_keep_capacity(struct step *step, uint32_t slot, const struct mesh_record *record);
void members_forget_capacity(struct step *step, uint32_t slot);

static inline bool stamp_newer(struct stamp stamp, struct stamp than)
{
    return stamp.incarnation > than.incarnation ||
           (stamp.incarnation == than.incarnation && stamp.version > than.version);
}

/* Returns the slot of a known id, or MESH_NONE. */
uint32_t members_find(const struct mesh *mesh, const struct mesh_id *id);
/* The first eight bytes of an id, which is how words name an origin; and a slot that they fit. */
static inline uint64_t members_prefix(const struct mesh_id *id)
{
    uint64_t prefix = 0;
    for (uint32_t i = 0; i < 8; i++)
        prefix = prefix << 8 | id->bytes[i];
    return prefix;
}
uint32_t members_find_prefix(const struct mesh *mesh, uint64_t prefix);
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
/* Forgets a member that is not live, or a guest; gives its handles back. O(n). */
void members_remove(struct step *step, uint32_t slot);

/*
 * The one place where a member changes its state: tells the rings, anti-entropy, the work half and the host.
 * A step has room for many of these but not for a table full: ask out_has_room(1, 0, 4) wherever the number
 * is unbounded.
 */
void members_set_state(struct step *step, uint32_t slot, enum mesh_member_state state);

#endif
