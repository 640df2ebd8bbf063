/*
 * Whether our disk still holds what others saw on it. A disk that was put back to an earlier state, or emptied, has
 * forgotten promises and entries that others count on; whoever goes on with it as if nothing had happened may have two
 * homes of one epoch voted, or an acknowledged result lost.
 *
 * Every save of a journal bears a *sequence*, one more than the save before, for the life of the node over all its
 * processes. What others hear of us that depends on such a save, bears it too, and they remember the highest. A process
 * that starts knows the sequence on its disk, and before it votes or acknowledges with any copy it asks each of the
 * copy's other members (DISK) how far they have seen us, once for its life. Further than we are: the disk has forgotten.
 * So it has too if a signed record of ours turns up that we did not make in this process: see detector_foreign().
 *
 * Then the incarnation rises, and the *storage* becomes that incarnation: all copies that were chosen earlier are lost.
 * They bear the incarnation of their choosing (struct mesh_members), our words bear the storage, and so no home counts
 * them; it replaces them, perhaps by a new copy of ours.
 *
 * A home's words are copies of what it is only saving; they bear what was durable before, and within half a second of the
 * last entry a BEAT says that it is.
 *
 * What this can't see: a disk put back to what it was in that half second, or put back while nobody who saw it further is there to say so. Who is down is not waited for,
 * and who is silent for DISK_PROOF_MS only, so that a mesh of which all processes start at once goes on.
 */
#ifndef MESH_DISK_H
#define MESH_DISK_H

#include "mesh/mesh.h"

struct step;
struct mesh;

enum {
    DISK_ASK_MS = 1000,    /* a question not answered is repeated after so long */
    DISK_PROOF_MS = 15000, /* who doesn't answer is waited for so long; most are known down by then */
};

struct disk {
    uint64_t storage;
    uint64_t sequence; /* of the latest save; it need not be durable yet */
    uint64_t durable;  /* this one is: what we sent to ourselves behind it has come */
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
/* A neighbour has a session: it is asked before the first journal that we have in common. */
void disk_linked(struct step *step, uint32_t member);
/* A member's own word of its disk, or ours to ourselves. */
void disk_seen(struct mesh *mesh, uint32_t member, uint64_t sequence);
/*
 * The same of what it says behind a save of its own. False if we have seen its disk further: it has forgotten something,
 * and is told so, for it asks only those whom its own log names.
 */
bool disk_trusted(struct step *step, uint32_t member, uint64_t sequence);
void disk_on_disk(struct step *step, uint32_t from, const struct mesh_message *message);
/* A record of ours turned up that our disk knows nothing of; the incarnation has been raised. */
void disk_forgot(struct step *step);

#endif
