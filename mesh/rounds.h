/*
 * Rounds of anti-entropy: every 5 s we compare what we hold with one neighbour, by hashes over buckets of records,
 * and each sends the other what it lacks. This brings what a flood missed, and brings a joiner up to date.
 *
 * MEMBER and REVOCATION records are compared. ALERTs are not, nor are CAPACITY records; but a round asks for
 * capacities that are missing or of an earlier incarnation. Members that are DOWN are not listed, and those that
 * LEFT only for an hour, so that a tombstone that one node has dropped is not planted again by another. Who shows
 * that it believes in such a member is corrected.
 */
#ifndef MESH_ROUNDS_H
#define MESH_ROUNDS_H

#include "mesh/gossip.h"
#include "mesh/tiers.h"

struct rounds {
    uint64_t bucket_hash[TIERS][MESH_BUCKETS]; /* of all that is listed in a tier */
    int64_t at_ms;                             /* of the next round */
    bool fast;     /* the next round follows one that brought something, with the same peer */
    uint32_t peer; /* that one */
    uint64_t mark; /* records_new when that was arranged */
};

void rounds_init(struct mesh *mesh);
void rounds_check(const struct mesh *mesh);

/* Counts a member in or out of the summary, by its present state and record. */
void rounds_list(struct mesh *mesh, uint32_t member);
/* Counts a revocation that is new, or newer, into the summary. */
void rounds_list_revocation(struct mesh *mesh, struct revocation *revocation);
/* Whether a peer holds an earlier incarnation of a member that we no longer list, so that no round would tell it. */
bool rounds_overtaken(const struct mesh *mesh, uint32_t member, struct stamp theirs);

/* Sends the peer our bucket hashes of the tier that we share. */
void rounds_summarize(struct step *step, const struct mesh_id *peer);
void rounds_summary(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
void rounds_entries(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
void rounds_want(struct step *step, const struct mesh_id *from, const struct mesh_message *message);

/* Which capacity of a member we hold; a WANT of it asks for a newer one. */
struct mesh_entry rounds_capacity_held(const struct member *member);

void rounds_tick(struct step *step);

#endif
