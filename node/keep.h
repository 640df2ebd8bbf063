/*
 * A job whose outputs were in the cache as a whole is done at once and has no journal: nothing of it was ever under way. So that it is
 * not lost with its home's disk, others are asked to keep it, as members of a journal keep a job that is over, and it is
 * acknowledged when a majority does: home and whoever of the others says so.
 *
 *     {"op": "keep", "job"} -> {}                when that member has taken the job from who asks (node/take.h): it is durable there
 *                           -> {"later": true}  it is being taken, or there is no room for it now: to be asked again
 *
 * Who is asked: first the node that the outputs came from, which has them already, then by rendezvous hashing among those that are
 * up, other sites first. Who refuses, or goes down meanwhile, is replaced by the next; if nobody is left the job is kept by
 * its home alone, and says so. Until a majority keeps it, its row here says that it has one copy: so does who asks again under its
 * key after a crash. Heads (STORE_COPIES) name home and them as members, so that each of them that loses its disk asks the others
 * for the job back (node/resync.h); the head of one that took it before another was replaced still names that one.
 */
#ifndef NODE_KEEP_H
#define NODE_KEEP_H

#include "node/node.h"

/*
 * For a job that has ended and is durable here: asks others until there are as many copies as are wished, ours and those that others
 * have already included. A job that is `is_handed_out` ends (jobs_end) once a majority has it, perhaps before this returns.
 * `holder`: which node gave the outputs; NULL: none did.
 */
void keep_begin(struct node *node, struct job *job, uint32_t wished, const struct mesh_id *holder);
bool keep_goes_on(const struct node *node, const struct mesh_id *job);
/* How many others keep what our copy is of, as far as we know: those that have left don't. */
uint32_t keep_others(struct node *node, struct copy *copy);
int64_t keep_turn(struct node *node, int64_t now_ms);
void keep_close(struct node *node);

#endif
