/*
 * The overlay: who keeps a link to whom, and so who observes whom. Live members stand on four rings, three
 * ordered by a hash of (ring, id) and one by (region, hash), which keeps most links short. A member's
 * neighbours are the one before and the one after it on each ring; up to MESH_FULL_MESH live members everyone
 * is everyone's neighbour. All members compute the same rings from the same member table; where tables differ
 * for a moment, so do the rings, harmlessly.
 */
#ifndef MESH_OVERLAY_H
#define MESH_OVERLAY_H

#include "mesh/members.h"

struct overlay {
    uint32_t count;              /* live members, ourselves included */
    uint32_t *order[MESH_RINGS]; /* [count] member slots in the order of each ring */
};

void overlay_layout(struct overlay *overlay, const struct mesh_limits *limits, struct carve *from);
void overlay_check(const struct mesh *mesh);

/* Computes where a member stands, from its id and the region in its record; before it is inserted. */
void overlay_place(struct mesh *mesh, uint32_t slot);
/* O(n) moves and O(log n) comparisons per ring. */
void overlay_insert(struct mesh *mesh, uint32_t slot);
void overlay_remove(struct mesh *mesh, uint32_t slot);

/*
 * Writes the neighbours of a member, who are also its observers, and returns their number. The member itself
 * need not be on the rings: then these are the ones between whom it would stand. O(log n).
 */
uint32_t overlay_neighbours(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_NEIGHBOURS_MAX]);

#endif
