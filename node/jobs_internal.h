/*
 * What the parts of jobs at their home share: jobs.c (the table, submits, what the core decides), jobs_journal.c
 * (what the core saves), jobs_results.c, jobs_outputs.c, jobs_restore.c (start and takeover).
 */
#ifndef NODE_JOBS_INTERNAL_H
#define NODE_JOBS_INTERNAL_H

#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/user_kernels.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The table (jobs.c) */

/* Takes the job over. */
void jobs_add(struct node *node, struct job *job);
/* The job pins its inputs now, or is about to be freed: see jobs_hold_inputs. */
void jobs_let_inputs_go(struct node *node, struct job *job);
/* Where the table is full, the oldest job that ended before that time goes. False: there is none. */
bool jobs_make_room(struct node *node, int64_t before_ms);
/* Gives it back to the caller, who frees it. */
void jobs_take_out(struct node *node, struct job *job);
/* A finished job's row and its pins go, and with them its outputs once the cache needs their room. Frees it. */
void jobs_forget(struct node *node, struct job *job);

/* ---- Submit (jobs.c) */

/* What is being found out about a job's inputs, on the background thread. */
struct job_preparing {
    struct background_task task; /* first */
    struct node *node;
    struct job *job;
    struct job_wish wish;
    struct store_batch *inputs; /* blobs that rode in its journal, to be stored first; NULL = none */
    bool good;
    int exit_code;
};

/* Reads the job's inputs as `wish` says; `done` gets the struct job_preparing, which it frees, on the loop. */
void jobs_prepare(struct node *node, struct job *job, const struct job_wish *wish,
                  void (*done)(struct background_task *task));
struct mesh_job_spec jobs_core_spec(const struct job *job);
/* Hands a job that is prepared, and was not done before as a whole, to the core. */
void jobs_to_core(struct node *node, struct job *job);
/* Tells everybody who waits for the submit's answer that it is taken, or that it isn't and why. */
void jobs_acknowledge(struct node *node, struct job *job);
void jobs_turn_away(struct node *node, struct job *job, enum exit_code code, const char *text);

/* ---- What the core saves (jobs_journal.c) */

void jobs_put_row(struct store_batch *batch, const struct job *job);
/* The blobs that a job is made of; returns how many. */
uint32_t jobs_blobs(const struct job *job, struct digest blobs[JOB_BLOBS_MAX]);
void jobs_pin_inputs(struct store_batch *batch, const struct job *job);
/* `state` is FAILED or CANCELLED. */
void jobs_set_ended(struct job *job, enum mesh_job_state state);
/* A node's row of a job; those beyond JOB_NODES_MAX share one that nobody sees. */
struct job_node_share *jobs_share_of(struct job *job, const struct mesh_id *member);
void jobs_count_share(struct job *job, const struct mesh_id *executor, uint32_t shards, uint64_t device_us);
/* Copies one committed shard's outputs to their places; false if one of them can't be read back. */
bool jobs_place_entry(struct node *node, struct job *job, uint32_t shard, const struct result_item *item);

/* ---- Outputs (jobs_outputs.c) */

/* Stores the outputs of a job all of whose shards are committed; it is DONE once they are durable. */
void jobs_assemble(struct node *node, struct job *job);
/* The job's last state is durable: tells whoever waits, and lets go of what it held. */
void jobs_end(struct node *node, struct job *job);

/* ---- Start and takeover (jobs_restore.c) */

/* A job that was acknowledged and can't go on now waits for its next try. */
void jobs_go_on_later(struct node *node, struct job *job, const char *why);
/* Does so where it is time; returns when the next is due. */
int64_t jobs_go_on_again(struct node *node, int64_t now_ms);

#endif
