/*
 * How records travel: along a spanning tree of links per origin, with word of them on all other links (Leitao, Pereira
 * and Rodrigues, "Epidemic Broadcast Trees", SRDS 2007), and with one tree per origin instead of one for all.
 *
 * A tree is made by its origin's first record of an incarnation, which goes over every link. Who gets a copy that it
 * holds already answers PRUNE: from then on that link is lazy for this origin, and carries HAVE, a record's name,
 * instead of the record. Of two links over which copies come, the one with fewer hops behind it stays; a HAVE that
 * tells of a shorter way is answered with GRAFT, so the trees become those of fewest hops. A HAVE of a record that has
 * not come MESH_GRAFT_MS later is answered with GRAFT too: that mends a tree when a link or a node of it fails. A MEMBER
 * record that was asked for, or that came a longer way than those before it, is told of and not copied: so a lost copy
 * makes nobody's way longer than from the nearest that has the record.
 *
 * Nothing queues. MEMBER records go at once; of all else a member has a bit per link that says what is owed there (a
 * capacity, a HAVE, a PRUNE), and every MESH_BATCH_MS what is owed is sent as it is then; HAVEs of capacities, which only mend
 * what the trees lost, every MESH_TELL_MS. So a newer capacity takes the
 * place of an earlier one that has not left yet, and what can wait is bounded by the table of members.
 *
 * What may not be late, ALERTs and revocations, and a member's new incarnation, is flooded over every link.
 */
#ifndef MESH_TREE_H
#define MESH_TREE_H

#include "mesh/members.h"

/* More hops than any path has: what came outside the trees. */
#define TREE_FAR 200

/* A record that a neighbour has told of and that has not come. */
struct missing {
    uint64_t origin; /* as in struct mesh_word */
    uint32_t kind;
    struct stamp stamp;
    uint16_t holders; /* a bit per link over which it was told, and not yet asked for */
    uint8_t hops;     /* the fewest that were told, */
    uint8_t nearest;  /* over the link at that place */
    bool asked;       /* of anybody */
    int64_t graft_at_ms;
};

struct tree {
    /* [owing_count] members of whom something but word of a capacity is owed to some neighbour; as the next, see members.c */
    uint32_t *owing;
    uint32_t owing_count;
    int64_t flush_at_ms; /* while something is owed */
    uint32_t *telling;   /* [telling_count] members of whose capacity word is */
    uint32_t telling_count;
    int64_t tell_at_ms; /* while there are any */
    struct missing missing[MESH_MISSING_MAX];
    uint32_t missing_count;
};

void tree_check(const struct mesh *mesh);

/*
 * Sends on a MEMBER or CAPACITY record of a known member that was just taken in: our own (`from` is ourselves), or one
 * that came from a peer over `hops` links (0: outside the tree, by a repair). `everywhere` makes the tree anew.
 */
void tree_spread(struct step *step, const struct mesh_id *from, const struct mesh_record *record,
                 uint8_t hops, bool everywhere);
/* A copy of the very record that we hold of that member came over a tree. */
void tree_duplicate(struct step *step, const struct mesh_id *from, uint32_t member, uint8_t hops);

void tree_have(struct step *step, uint32_t from, const struct mesh_message *message);
void tree_graft(struct step *step, uint32_t from, const struct mesh_message *message);
void tree_prune(struct step *step, uint32_t from, const struct mesh_message *message);

/* The link at that place ended: its bits mean another neighbour from now on. O(members). */
void tree_unlinked(struct mesh *mesh, uint32_t place);
/* The member is about to be forgotten. */
void tree_forget(struct mesh *mesh, uint32_t member);

void tree_tick(struct step *step);

#endif
