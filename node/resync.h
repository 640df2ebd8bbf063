/*
 * Finished jobs that this node ought to keep and doesn't have, asked back from those that keep them too.
 *
 * The journal of a job that goes on is brought up anew by its home, on a disk that forgot it. When the job is over the core
 * knows nothing of it any more: what its members keep until `store.keep_jobs` are rows and blobs of the node alone. So a node
 * whose disk was put back (mesh/disk.h), or that hears of a job's end without having all of its journal, asks each other member which
 * finished jobs it keeps of whose journal we were a member too, and takes those that it lacks (node/take.h).
 *
 *     {"op": "kept", "after"} -> {"jobs": [{"id", "here", "finished_at"}], "next"}  page by page; "here": its outputs stand there
 *
 * Who has the outputs is asked first of all; only for what is still missing then, those that have no more than the journal
 * are asked to put them together, a few at a time. A mark on the disk stays for `store.keep_jobs`, so that who dies in the middle
 * goes on with the next start, and whoever was away tells when it is back. Each process of a member is asked once, until it
 * has told all; one of an earlier version refuses, and is asked again when it was upgraded.
 *
 * What can't be had again: jobs that all others who kept them have forgotten before they were asked, and jobs that ended under a
 * version whose head rows do not name their members, where their journal is gone.
 */
#ifndef NODE_RESYNC_H
#define NODE_RESYNC_H

#include "node/node.h"

/* Adds the mark to a batch: the disk was put back. */
void resync_mark(struct store_batch *batch);
/* Does so if the core has found that since the last time. */
void resync_save(const struct node *node, struct store_batch *batch);
/* That is durable. */
void resync_begin(struct node *node);
/* A job is over of whose journal we are a member, and we have not all of it. */
void resync_want(struct node *node);
/* Whether something may be had yet of members that are up, or only of `*away` others, that are not there (0: of the former). */
bool resync_goes_on(const struct node *node, uint32_t *away);
/* At the start, after the jobs were read. */
void resync_restore(struct node *node);
int64_t resync_turn(struct node *node, int64_t now_ms);
void resync_close(struct node *node);

#endif
