/*
 * The overlay: who keeps a link to whom, and so who observes whom. In each tier (tiers.h) live members stand on four rings,
 * three ordered by a hash of (ring, id) and one by (region, hash), which keeps most links short. A member's
 * neighbours are the one before and the one after it on each ring; up to MESH_FULL_MESH live members everyone
 * is everyone's neighbour. All members of a tier compute the same rings from the same member table; where tables differ
 * for a moment, so do the rings, harmlessly.
 */
#ifndef MESH_OVERLAY_H
#define MESH_OVERLAY_H

#include "mesh/tiers.h"

struct overlay {
    uint32_t *ring[TIERS][MESH_RINGS]; /* [count] slots in their order on each ring; laid out by members.c */
    uint32_t count[TIERS];             /* live members, ourselves included where we stand there */
    uint64_t changes;                  /* of anybody's place: neighbours found since the latest still are */
};

void overlay_check(const struct mesh *mesh);

/* Computes where a member stands, from its id and the region in its record; before it is inserted. */
void overlay_place(struct mesh *mesh, uint32_t slot);
/* Into the rings of each tier in which it now stands, and out of those in which it was. O(n) moves per ring. */
void overlay_insert(struct mesh *mesh, uint32_t slot);
void overlay_remove(struct mesh *mesh, uint32_t slot);

/*
 * Writes the neighbours of a member who are also its observers, and returns their number. The member itself
 * need not be on the rings: then these are the ones between whom it would stand. O(log n).
 */
uint32_t overlay_neighbours(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_NEIGHBOURS_MAX]);
/*
 * Writes a member's neighbours in all tiers of ours in which it stands, each once: those to whom it keeps links there. Those of
 * them who are watched in that tier are the ones whom it observes.
 */
uint32_t overlay_links(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_LINKS_MAX]);
/* How many stand on the rings on which that member is observed. */
uint32_t overlay_count(const struct mesh *mesh, uint32_t slot);
/* Whether a live member of our site is one of its reporters. */
bool overlay_reports(const struct mesh *mesh, uint32_t slot);

#endif
