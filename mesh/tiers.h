/*
 * The two tiers. In a mesh of small sites everyone knows everyone. A site that has grown beyond MESH_SITE_SPLIT nodes keeps
 * its interior to itself: its nodes know each other, and three of them, the *reporters*, stand for it in the *upper tier*,
 * where all reporters and all nodes of small sites know each other. Each tier has rings, observers, trees and rounds of its
 * own; a reporter is in both.
 *
 * A node says in its MEMBER record whether it is `interior`. It decides that for itself, by what it sees of its own site:
 * the reporters are the three live ones that stand last on the site's first ring, so all agree as soon as their views do.
 * Nothing flips for the mesh as a whole.
 *
 * A record goes to a peer whom it concerns: to those of the same site, and within the upper tier. A reporter therefore
 * relays its site's records inwards and the upper tier's among reporters; revocations concern everybody.
 *
 * Whoever is known and belongs to no tier of ours is a *guest*: a contact in the upper tier that an interior node keeps
 * should its reporters all be lost, or a node of another site's interior with which we share work. A guest stands on no
 * ring, is not listed or sent on, has no observers, and is forgotten when nothing was heard of it for a while; what it holds of
 * ours is got back by its lease. We learn of guests by asking (MESH_WANT with no origin, answered by pushes) or because they
 * introduce themselves. A reporter's capacity sums up its site, so that a home knows which reporter to ask for places.
 */
#ifndef MESH_TIERS_H
#define MESH_TIERS_H

#include "mesh/members.h"

enum {
    TIER_UPPER, /* and the only one, where no site is split */
    TIER_SITE,
    TIERS,
};
#define TIER_BIT(tier) ((uint8_t)(1u << (tier)))

struct tiers {
    uint32_t near_live;     /* live members of our site, ourselves included */
    uint32_t near_interior; /* of them, how many say that they are interior */
    bool split;             /* our site has an interior: the tier of our site is in use */
    bool ringed;            /* its rings are kept */
    bool dirty;             /* our site changed: decide again */
    bool interior;          /* what we last decided to say */
    int64_t settled_at_ms;  /* since when we would rather be interior; 0 = we would not */
    int64_t seek_at_ms;     /* of the next question for places, and for contacts */
    int64_t contact_at_ms;
    int64_t sought_until_ms; /* answers to such questions are taken in until then */
    int64_t introduce_at_ms; /* when reporters next tell their site of a contact */
    int64_t digest_at_ms;    /* when our capacity last summed up the site */
    bool digest_due;         /* and whether it should again */
};

void tiers_init(struct mesh *mesh);
void tiers_check(const struct mesh *mesh);

/* The tiers of ours in which a member stands, as TIER_BITs; 0 for a guest. Ourselves: all that are in use. */
uint8_t tiers_of(const struct mesh *mesh, uint32_t member);
bool tiers_guest(const struct mesh *mesh, uint32_t member);
/* Whether it is among those of whom we choose the owners of a key: our site within it, else the upper tier. */
bool tiers_owns(const struct mesh *mesh, uint32_t member);
/* The tier in which a peer and we compare what we hold; TIERS if there is none. */
uint32_t tiers_shared(const struct mesh *mesh, uint32_t peer);
/* The tier whose members observe that member, as far as we are told of it. */
uint32_t tiers_watched_in(const struct mesh *mesh, uint32_t member);
/* Whether records of that origin are for the peer; `record` may be newer than what we hold of its origin. */
bool tiers_concerns(const struct mesh *mesh, uint32_t peer, uint32_t origin);
bool tiers_record_concerns(const struct mesh *mesh, uint32_t peer, const struct mesh_record *record);
/* Whether a member of whom we have not heard may come in: into a tier, or as a guest, for whom room is made. */
bool tiers_welcomes(struct step *step, const struct mesh_id *from, const struct mesh_record *record);

/* A member came to life, ended, or is about to change its record: keeps the counts. */
void tiers_count(struct mesh *mesh, uint32_t member, int change);
/* A member's newer record moved it out of the upper tier, or ours did: tells those whom it no longer concerns. */
void tiers_left_upper(struct step *step, const struct mesh_id *from, uint32_t member);
/* Interior nodes of our site are told of a contact in the upper tier. */
void tiers_pass_on(struct step *step, const struct mesh_id *from, uint32_t member);
/* Our own record changed its tier: rings, lists and links are made anew. */
void tiers_rebuild(struct step *step);
/* A capacity of somebody in our site advanced. */
void tiers_capacity(struct step *step, uint32_t member);
/* Sums up our site into a reporter's capacity. */
void tiers_digest(const struct mesh *mesh, struct mesh_capacity *capacity);

/* An entry of a WANT that names no origin: any contact, or members with free places. */
void tiers_wanted(struct step *step, const struct mesh_id *from, const struct mesh_entry *entry);
/* A job could use more places, on these classes, than all whom we know have: asks beyond. */
void tiers_seek(struct step *step, uint16_t classes, uint32_t wanted);

void tiers_tick(struct step *step);
/* Forgets guests of whom nothing was heard for long. Called by the detector's sweep. */
void tiers_sweep(struct step *step);

#endif
