/*
 * Gossip: accepting signed records, flooding what is new to our neighbours, and comparing what we hold with
 * one of them now and then (anti-entropy), so that what a flood missed arrives too.
 *
 * MEMBER and REVOCATION records are compared. CAPACITY records are not: they are overwritten every 30 s at
 * the latest by their origin. A peer whose link comes up is sent all of them at once, and each round asks for
 * those that are missing or of an earlier incarnation. ALERTs are repeated while they hold. Members that are DOWN are not listed, and those that LEFT only
 * for an hour, so that a tombstone that one node has dropped is not planted again by another.
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
    uint64_t bucket_hash[MESH_BUCKETS];
    struct revocation *revocation; /* [revocation_count], kept for ever */
    uint32_t revocation_count;
    uint32_t revocation_capacity;

    bool capacity_changed;
    uint64_t capacity_version;
    int64_t capacity_at_ms; /* when ours was last announced */

    int64_t round_at_ms; /* of the next anti-entropy round */
    bool round_fast;     /* the next round follows one that brought something, with the same peer */
    uint32_t round_peer;
    uint64_t round_mark; /* records_new when that was arranged */
};

void gossip_layout(struct gossip *gossip, const struct mesh_limits *limits, struct carve *from);
void gossip_init(struct mesh *mesh);
void gossip_check(const struct mesh *mesh);

/* Takes a record that the host has verified; its handle is ours from now on, or given back in this step. */
void gossip_record(struct step *step, const struct mesh_id *from, const struct mesh_record *record);
void gossip_summary(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
void gossip_entries(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
void gossip_want(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
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
/* Whether that identity has been revoked. O(revocations). */
bool gossip_revoked(const struct mesh *mesh, const struct mesh_id *id);
/* Counts a member in or out of the summary, by its present state and record. */
void gossip_list(struct mesh *mesh, uint32_t member);

void gossip_tick(struct step *step);

#endif
