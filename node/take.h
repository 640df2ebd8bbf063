/*
 * A finished job that another node keeps, taken from there: its row, its outputs, and its inputs if they can be had. This
 * node is a home of it then, as is whoever puts outputs together for a home that is lost.
 *
 *     {"op": "finished", "job"} -> {"row", "head"}   rows of STORE_JOBS and STORE_COPIES, in base64
 *                               -> {"later": true}   its outputs are being put together, or will be
 *
 * What a member tells of a job that it kept is believed, as everywhere (docs/security.md); that the row fits its kernel and
 * names the job of that id, and that the head names us and the teller as members of its journal, is checked.
 */
#ifndef NODE_TAKE_H
#define NODE_TAKE_H

#include "node/node.h"

enum take_state { TAKE_KEPT, TAKE_LACKED, TAKE_COMES, TAKE_UNDER_WAY };

/* Whether this node has the finished job or lacks it; comes: it is being taken; under way: it goes on here, or what is left of it
 * goes. */
enum take_state take_state(struct node *node, const struct mesh_id *job);

enum take_result {
    TAKE_DONE, /* row and outputs are durable here */
    TAKE_LATER, /* its outputs are being put together there, it gave no answer, or the job came otherwise meanwhile */
    TAKE_FAILED,  /* it did not come */
    TAKE_STRANGE, /* what it tells makes no sense here; it would say the same again */
};

/* Called once; when the node closes, too, after the API and resync have. */
typedef void take_ended(struct node *node, void *context, enum take_result result);
/* Takes that job, which this node lacks. False: the question was not sent, and `ended` will not be called. */
bool take_begin(struct node *node, const struct mesh_id *from, const struct mesh_id *job, take_ended *ended,
                void *context);
/* Outputs that came before a death, for jobs that did not, go. At the start. */
void take_restore(struct node *node);
void take_close(struct node *node);

#endif
