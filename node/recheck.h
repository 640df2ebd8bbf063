/* Computes again what is done and was brought by a member that was caught since: see recheck.c. On the loop's thread. */
#ifndef NODE_RECHECK_H
#define NODE_RECHECK_H

#include "mesh/mesh.h"

#include <stdint.h>

/* The keys of such jobs begin so; the first 16 digits of the first job's id, and the time, follow. */
#define RECHECK_KEY "recheck-"

struct node;
struct store_batch;

/* The member was caught, which `batch` saves: jobs verified by chance that are done, and of which it brought something, are
 * computed again. */
void recheck_caught(struct node *node, struct store_batch *batch, const struct mesh_id *id);
int64_t recheck_turn(struct node *node, int64_t now_ms);
void recheck_close(struct node *node);

#endif
