/* What the files of the local API's handlers share. Nothing else includes this. */
#ifndef NODE_OPS_H
#define NODE_OPS_H

#include "node/node.h"

#define OP(name) void op_##name(void *context, struct api_call *call)
OP(status);
OP(nodes);
OP(forgive);
OP(gossip);
OP(ping);
OP(kernels);
OP(replicas);
OP(submit);
OP(job);
OP(jobs);
OP(watch);
OP(logs);
OP(explain);
OP(cancel);
OP(where);
OP(accepted);
OP(register);
OP(kept);
OP(finished);
OP(keep);
OP(blob_put);
OP(blob_get);
OP(blob_stat);
OP(blob_list);
OP(blob_remove);
OP(cache_stat);
OP(cache_clear);
OP(drain);
OP(reclaim);
OP(release);
OP(devices);
OP(doctor);
OP(config);
OP(invite_create);
OP(invite_list);
OP(invite_cancel);
OP(revoke);
OP(store_backup);
#undef OP

json_t *json_hex(const void *bytes, size_t count);
/* Of 64 hex digits; false if it is not that, or NULL. */
bool id_from_hex(const char *text, struct mesh_id *id);
/* Sets, taking over `value`. */
void json_put(json_t *object, const char *name, json_t *value);
const char *body_text(const struct api_call *call, const char *name); /* NULL if absent */
int64_t body_integer(const struct api_call *call, const char *name, int64_t otherwise);

/* What a member says of its devices; of this node it is put into `*own`. NULL: nothing is known. Borrowed until the peer
 * changes. */
const struct capacity_devices *devices_of(struct node *node, const struct mesh_member_view *view,
                                          struct capacity_devices *own);
#define LACKS_TEXT_BYTES 128
/* The layers of the sandbox that are off: "no user, net"; "" if none is. */
const char *layers_text(uint16_t lacks, char text[LACKS_TEXT_BYTES]);

/* Resolves what the caller wrote; on failure the call was answered and false is returned. */
bool find_node(struct node *node, struct api_call *call, const char *text, struct mesh_id *id);
/* If the job is another node's the whole call is passed on to that one; the other function refuses. */
struct job *find_job(struct node *node, struct api_call *call, const char *text);
struct job *find_own_job(struct node *node, struct api_call *call, const char *text);
#define AWAY_TEXT_BYTES 160
/* What nobody who answers has may be at members that don't: "; cairo, which does not answer, may have it". False, and "":
 * there are none. */
bool away_may_have_it(struct node *node, char text[AWAY_TEXT_BYTES]);
/* Answers with `reply`, which it takes over, once the batch is on disk. */
void reply_when_durable(struct node *node, struct api_call *call, struct store_batch *batch, json_t *reply);
bool find_blob(struct node *node, struct api_call *call, const char *text, struct digest *id);

/* ---- ops_jobs.c, for ops_list.c and ops_story.c */

const char *job_state_word(enum job_state state);
/* The job as the API tells of it; `whole`: with its inputs, outputs and nodes. */
json_t *job_json(struct node *node, const struct job *job, bool whole);
#define JOB_STALL_BYTES 256
/* Why a job gets no further: "" if nothing is in the way that its home knows of. */
const char *job_stall_text(struct node *node, const struct job *job, char text[JOB_STALL_BYTES]);

#endif
