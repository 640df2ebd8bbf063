/*
 * A job whose outputs were in the cache as a whole is done at once and has no journal: nothing of it was ever under way. So that it is
 * not lost with its home's disk, others are asked to keep it, as members of a journal keep a job that is over, and it is
 * acknowledged when a majority does: home and whoever of the others says so.
 *
 *     {"op": "keep", "job", "finished_at"} -> {}               that member has taken the job from who asks (node/take.h): it is durable there
 *                                          -> {"later": true}  it is being taken, or others are: to be asked again
 *
 * Who is asked: first the node that the outputs came from, if it is of another site, as it has them already; then by rendezvous hashing
 * among those that are up, other sites first. Who takes long says so, and is waited for; who could not take it is asked again;
 * who refuses, goes down or is silent for long is replaced by the next. If nobody is left the job is kept by its home alone, and
 * says so. What home's disk says of copies is what there are: one until a majority of those asked has the job, then as many as said so.
 * Heads (STORE_COPIES) name home and them as members, so that each of them that loses its disk asks the others for the job back
 * (node/resync.h); the head of one that took it before another was replaced still names that one.
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
/* Whether a submit waits for others to keep its job. */
bool keep_holds_up(struct node *node);
/* "berlin, cairo": those that have yet to say whether they keep that job. */
void keep_names(struct node *node, const struct mesh_id *job, char *out, size_t out_bytes);
/* How many others keep what our copy is of, as far as we know: not those that were revoked, or have been
 * down or away for long; nor, when we leave ourselves, those that have left, or drain. */
uint32_t keep_others(struct node *node, struct copy *copy);
/* The home of a job that was done at once there and that we keep for it: it is up, lists the job and is told of as its home. NULL: the
 * job is ours, or as good as ours. */
const struct mesh_id *keep_home(struct node *node, const struct job *job);
/* How many of those stand before us in its head. */
uint32_t keep_place(struct node *node, struct copy *copy);
/* Whether there is a node that could be asked to keep it. */
bool keep_may_have_more(struct node *node, struct copy *copy);
int64_t keep_turn(struct node *node, int64_t now_ms);
void keep_close(struct node *node);

#endif
