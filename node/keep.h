/*
 * A job whose outputs were in the cache as a whole is done at once and has no journal: nothing of it was ever under way. So that it is
 * not lost with its home's disk, others are asked to keep it, as members of a journal keep a job that is over, and it is
 * acknowledged when a majority does: home and whoever of the others says so.
 *
 *     {"op": "keep", "job"} -> {}   when that member has taken the job from who asks (node/take.h) and it is durable there
 *
 * Who is asked: first the node that the outputs came from, which has them already, then by rendezvous hashing among those that are
 * up, other sites first. Who refuses, or doesn't answer, is replaced by the next; if nobody is left the job is kept by
 * its home alone, and says so. Their heads (STORE_COPIES) name home and them as members, so that each of them that loses its disk
 * asks the others for the job back (node/resync.h).
 */
#ifndef NODE_KEEP_H
#define NODE_KEEP_H

#include "node/node.h"

/*
 * For a job that is about to be done at once, in as many copies as it wishes: chooses whom to ask, and adds the head to the batch
 * that makes it durable here. `holder`: which node gave the outputs; NULL: none did. Returns how many copies that makes; 1: there
 * is nobody to ask.
 */
uint32_t keep_choose(struct node *node, const struct job *job, const struct mesh_id *holder,
                     struct store_batch *batch);
/* That batch is durable: asks them, and ends the job (jobs_end) once a majority keeps it, perhaps before this returns. */
void keep_ask(struct node *node, struct job *job);
/* It failed. */
void keep_drop(struct node *node, const struct mesh_id *job);
/* Whether too few of those who were asked have said yes so far. */
bool keep_waits(const struct node *node, const struct mesh_id *job);
void keep_close(struct node *node);

#endif
