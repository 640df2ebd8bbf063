/*
 * Whether our disk still holds what others saw on it. A disk that was put back to an earlier state, or emptied, has
 * forgotten promises and entries that others count on; whoever goes on with it as if nothing had happened may have two
 * homes of one epoch voted, or an acknowledged result lost.
 *
 * Every save of a journal bears a *sequence*, one more than the save before, for the life of the node over all its
 * processes. What others hear of us that depends on such a save, bears it too, and they remember the highest. A process
 * that starts knows the sequence on its disk, and before it votes or acknowledges with a copy from before its start it
 * asks each of the copy's other members (DISK) how far they have seen us. Further than we are: the disk has forgotten.
 * So it has if a signed record of ours turns up that we did not make in this process: see detector_foreign().
 *
 * Then the incarnation rises, and the *storage* becomes that incarnation: all copies that were chosen earlier are lost.
 * They bear the incarnation of their choosing (struct mesh_members), our words bear the storage, and so no home counts
 * them; it replaces them, perhaps by a new copy of ours.
 *
 * What this can't see: a disk put back while nobody who saw it further is there to say so. Who is down is not waited for,
 * and who is silent for DISK_PROOF_MS only, so that a mesh of which all processes start at once goes on.
 */
#ifndef MESH_DISK_H
#define MESH_DISK_H

#include "mesh/mesh.h"

struct step;
struct mesh;

enum {
    DISK_ASK_MS = 1000, /* a question not answered is repeated after so long */
    DISK_PROOF_MS =
        15000, /* after the start those who don't answer are waited for so long; most are known down by then */
};

struct disk {
    uint64_t storage;
    uint64_t sequence; /* of the latest save; it need not be durable yet */
};

void disk_init(struct mesh *mesh);
/* The sequence of a save that is being made. */
uint64_t disk_next(struct mesh *mesh);
/* That of this step's latest save, for what waits for it; 0 if the step has none. */
uint64_t disk_saved(const struct step *step);
/* Whether a copy of ours that was chosen at that incarnation may be on this disk. */
bool disk_holds(const struct mesh *mesh, uint64_t storage);
/* Whether nobody of these knows more of our disk than we do. Asks those who have not said yet. */
bool disk_proven(struct step *step, const struct mesh_members *members);
/* A member's own word of its disk. */
void disk_seen(struct mesh *mesh, uint32_t member, uint64_t sequence);
void disk_on_disk(struct step *step, uint32_t from, const struct mesh_message *message);
/* A record of ours turned up that our disk knows nothing of; the incarnation has been raised. */
void disk_forgot(struct step *step);

#endif
