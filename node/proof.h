/*
 * Certificates of one job's results (manifest.h, `certify`): whether an output is what its inputs give, at a fraction of the
 * computation, which still is milliseconds.
 *
 * A proof is made of a job that runs, and lives on while somebody holds it: the job, and its maps, may go while one of its results is
 * being proved on another thread. Holders are counted on the loop's thread.
 */
#ifndef NODE_PROOF_H
#define NODE_PROOF_H

#include "node/job.h"

struct entry;
struct proof;

/* NULL: an input can't be read. Of a job whose kernel has a certificate. */
struct proof *proof_open(const struct job *job, struct store *store);
struct proof *proof_keep(struct proof *proof);
void proof_drop(struct proof *proof); /* NULL is allowed */

/* Whether the result of the shard is proved right; false too when its bytes can't be read. On any thread. */
bool proof_holds(struct proof *proof, struct store *store, uint32_t shard, const struct entry *entry);

#endif
