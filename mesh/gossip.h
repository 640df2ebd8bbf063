/*
 * Gossip: accepting signed records and sending what is new on: ALERTs and revocations by a flood over all links, MEMBER
 * and CAPACITY records along the trees of tree.h. What was missed arrives by the rounds of rounds.h. ALERTs are repeated
 * while they hold; CAPACITY records are overwritten in place.
 */
#ifndef MESH_GOSSIP_H
#define MESH_GOSSIP_H

#include "mesh/members.h"

struct revocation {
    struct mesh_record record; /* its handle is ours */
    uint64_t listed_hash;
    uint32_t bucket;
};

struct gossip {
    struct revocation *revocation; /* [revocation_count], kept for ever */
    uint32_t revocation_count;
    uint32_t revocation_capacity;

    bool capacity_changed; /* perhaps */
    bool capacity_risen;   /* it has yet to be announced in our present incarnation */
    uint64_t capacity_version;
    int64_t capacity_at_ms;         /* when ours was last announced, */
    struct mesh_capacity announced; /* and as what */
};

void gossip_layout(struct gossip *gossip, const struct mesh_limits *limits, struct carve *from);
void gossip_init(struct mesh *mesh);
void gossip_check(const struct mesh *mesh);

/*
 * Takes a record that the host has verified; its handle is ours from now on, or given back in this step. `hops` as
 * in a SPREAD, or 0.
 */
void gossip_record(struct step *step, const struct mesh_id *from, const struct mesh_record *record,
                   uint8_t hops);
/* The link to a peer, neighbour or not, has a new session: introduce ourselves and compare. */
void gossip_linked(struct step *step, const struct mesh_id *peer);

/* Asks the host to sign our MEMBER record as it is now; saves our incarnation first if it is a new one. */
void gossip_announce(struct step *step);
/*
 * Our incarnation as announced: that of our own signed record, which has come back, so it is durable. All
 * records but the announcement itself bear this one. mesh->incarnation may be ahead of it for as long as a
 * save takes.
 */
uint64_t gossip_incarnation(const struct mesh *mesh);
/*
 * Whether a capacity of that version may be of the process with that session. It doesn't say whose it is, but a process
 * counts on from its session; so of two with one identity (a copied data folder) what one offers is not taken for the
 * other's, if they started more than a second apart. Builds before 0.2 count from zero: theirs may be anybody's.
 */
bool gossip_of_process(uint64_t version, uint64_t session);
/* Whether that identity has been revoked. O(revocations). */
bool gossip_revoked(const struct mesh *mesh, const struct mesh_id *id);
/* Our record of that revocation, or NULL. O(revocations). */
struct revocation *gossip_find_revocation(const struct mesh *mesh, const struct mesh_id *origin,
                                          const struct mesh_id *subject);

void gossip_tick(struct step *step);
/* Once more, behind all that may change our capacity: from here on it is due. */
void gossip_wake(struct step *step);

#endif
