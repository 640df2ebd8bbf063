/*
 * Compute leases: which job computes the result of which key, as the key's owner was told. So two homes that are asked
 * for the same shard at once compute it once. A lease is advice: who finds one waits a while for the result; whoever
 * disregards it, or finds none because it was lost, only works twice.
 *
 *     if (!leases_take(leases, key, &who, now_ms, &other)) ... // `other` computes it
 *
 * A lease begins with the first claim and is the job's until LEASES_KEPT_MS after the job's last claim here, or until the
 * job is said to be over, or its node to be gone. A result's owner looks for holders first, so that a lease whose result
 * has come needs no end of its own. In memory only.
 */
#ifndef NODE_LEASES_H
#define NODE_LEASES_H

#include "mesh/message.h"

#define LEASES_MAX (UINT32_C(1) << 18) /* keys: 6 MiB; what comes then is not remembered */
#define LEASES_JOBS_MAX 1024u /* then the one that claimed nothing for the longest time loses its leases */
#define LEASES_KEPT_MS (10 * 60 * 1000)

struct leases;

struct lessee {
    struct mesh_id node;
    struct mesh_id job;
};

struct leases *leases_open(void); /* NULL: out of memory */
void leases_close(struct leases *leases);
/* True: the lease is now `who`'s, or was already. False: `*other` has it. */
bool leases_take(struct leases *leases, const uint8_t key[32], const struct lessee *who, int64_t now_ms,
                 struct lessee *other);
void leases_end_job(struct leases *leases, const struct lessee *who);
void leases_end_node(struct leases *leases, const struct mesh_id *node);
uint32_t leases_count(const struct leases *leases, int64_t now_ms); /* those in force; O(all) */

#endif
