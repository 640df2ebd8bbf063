/*
 * Which node takes the job of a key: so that one key is one job, wherever it is submitted and whatever fails meanwhile.
 *
 * A job's id is the hash of (tenant, key). The id chooses three members, its registrars, by rendezvous hashing over all that have
 * not been revoked, whether they are up or not. Who is about to take the job registers with a majority of them first,
 * each of which writes down durably who it is; so of two nodes that can't reach each other one hears of the other from a registrar,
 * or reaches too few of them, and takes nothing (Gifford, "Weighted voting for replicated data", 1979, for a value that is written
 * once). Only who was registered may be replaced, after it has said that it has no such job.
 *
 * Members that one node knows and another doesn't (somebody is joining; the interior of another large site) choose other
 * registrars, and so do the same nodes once others have joined; who was one before says what it remembers all the same. A registrar
 * whose disk was put back has forgotten. Two jobs of one id are possible then: they have the same results, and relay.c tells of
 * one of them.
 */
#ifndef NODE_KEYS_H
#define NODE_KEYS_H

#include "node/node.h"

#define KEY_REGISTRARS_MAX 3

/* Who is to take a job, and by which of its claims: one that comes late replaces nothing newer. */
struct key_home {
    struct mesh_id node;
    uint64_t claim;
};

/* Fills in who they are, this node perhaps among them; returns how many: fewer than three in a mesh of fewer. */
uint32_t keys_registrars(const struct node *node, const struct mesh_id *job,
                         struct mesh_id registrar[KEY_REGISTRARS_MAX]);
/* Who is registered here, whether or not this node is a registrar of the job now. False: nobody. */
bool keys_find(const struct node *node, const struct mesh_id *job, struct key_home *home);
/* As a registrar: `claimant` is to take the job if nobody is registered, or the same node, or `instead` (NULL: nobody). Returns who
 * is now. */
struct key_home keys_register(struct node *node, const struct mesh_id *job, const struct key_home *claimant,
                              const struct key_home *instead);
/* A home as a field of a JSON object, and back; false if there is none, or it makes no sense. */
void keys_put(struct json_t *object, const char *name, const struct key_home *home);
bool keys_get(const struct json_t *object, const char *name, struct key_home *home);
/* Forgets what was registered a month before that time, which is when finished jobs are forgotten. Called often, it does so hourly. */
void keys_prune(struct node *node, int64_t before_ms);
void keys_close(struct node *node);

#endif
