/* What is asked of us: which finished jobs are here that another node ought to keep too, and one of them. */
#include "node/resync.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"

#include <sodium.h>

#define PAGE_ROWS_MAX 512u  /* jobs in one answer, of 100 bytes each */
#define PAGE_LOOKS_MAX 4096 /* journals looked at for it */
#define LOGS_READ_MAX 16    /* for one page, of journals whose head rows don't name their members */
#define ROW_TEXT_BYTES(count) (((count) + 2) / 3 * 4 + 1) /* in base64 */

static bool is_here(struct node *node, const struct mesh_id *id)
{
    const struct job *job = jobs_find(node, id);
    return job && job->state >= JOB_DONE;
}

/* Whether that member is to have the job that this is the journal of, and it may be had here. */
static bool keeps_for(struct node *node, struct copy *copy, const struct mesh_id *asker)
{
    const bool here = is_here(node, &copy->job);
    return (here || (copy->over && copy->whole)) && copies_member(copies_members(node, copy), asker) &&
           (here || jobs_tell(node, copy));
}

struct looks {
    struct mesh_id id[PAGE_LOOKS_MAX];
    uint32_t count;
};

static bool look(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct looks *looks = context;
    (void)value;
    (void)value_bytes;
    if (key_bytes == sizeof looks->id[0])
        memcpy(&looks->id[looks->count++], key, key_bytes);
    return looks->count < PAGE_LOOKS_MAX;
}

static void refuse(struct api_call *call)
{
    api_error(call, EXIT_USAGE, "nodes ask each other so");
}

void op_kept(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, after;
    if (!calls_asker(call, &asker)) {
        refuse(call);
        return;
    }
    const bool later = id_from_hex(body_text(call, "after"), &after);
    const struct store_range range = {.after = after.bytes, .after_bytes = later ? sizeof after : 0};
    struct looks *looks = must(calloc(1, sizeof *looks));
    store_each(node->store, STORE_COPIES, &range, look, looks);
    json_t *rows = json_array();
    uint32_t i = 0, logs_read = 0;
    for (; i < looks->count && json_array_size(rows) < PAGE_ROWS_MAX && logs_read < LOGS_READ_MAX; i++) {
        struct copy *copy = copies_find(node, &looks->id[i]);
        const bool unnamed = copy && copy->members.count == 0;
        const bool keeps = copy && keeps_for(node, copy, &asker);
        logs_read += unnamed && copy->members.count > 0;
        if (!keeps)
            continue;
        const struct job *job = jobs_find(node, &copy->job);
        json_t *row = json_pack("{s:b, s:I}", "here", is_here(node, &copy->job), "finished_at",
                                (json_int_t)(job ? job->finished_at_ms : copy->ended_at_ms));
        json_put(row, "id", json_hex(copy->job.bytes, sizeof copy->job.bytes));
        json_array_append_new(rows, row);
    }
    const bool ends = i == looks->count && looks->count < PAGE_LOOKS_MAX;
    json_t *reply = json_pack("{s:o}", "jobs", rows);
    json_put(reply, "next", ends ? json_null() : json_hex(looks->id[i - 1].bytes, sizeof looks->id[0]));
    free(looks);
    api_reply(call, reply);
}

static json_t *base64(const uint8_t *bytes, size_t count)
{
    char text[ROW_TEXT_BYTES(JOB_ROW_BYTES_MAX)];
    return json_string(sodium_bin2base64(text, sizeof text, bytes, count, sodium_base64_VARIANT_ORIGINAL));
}

/* Puts the outputs of a job together, unless many others of that kind are under way. */
static void revive(struct node *node, const struct mesh_id *id)
{
    struct mesh_id *free_place = NULL;
    if (jobs_find(node, id))
        return; /* it is one of them */
    for (uint32_t i = 0; i < REVIVED_MAX; i++) {
        const struct job *job = jobs_find(node, &node->revived[i]);
        if (!job || job->state >= JOB_DONE)
            free_place = &node->revived[i];
    }
    if (!free_place)
        return;
    *free_place = *id;
    jobs_revive(node, id);
}

void op_finished(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, id;
    if (!calls_asker(call, &asker)) {
        refuse(call);
        return;
    }
    struct copy *copy = id_from_hex(body_text(call, "job"), &id) ? copies_find(node, &id) : NULL;
    if (!copy || !keeps_for(node, copy, &asker)) {
        api_error(call, EXIT_NONE, "no finished job of whose journal you are a member");
        return;
    }
    if (!is_here(node, &id))
        revive(node, &id);
    if (!is_here(node, &id)) {
        api_reply(call, json_pack("{s:b}", "later", 1));
        return;
    }
    uint8_t row[JOB_ROW_BYTES_MAX], head[COPIES_HEAD_BYTES_MAX];
    const size_t row_bytes = job_row_encode(jobs_find(node, &id), row, sizeof row);
    const size_t head_bytes = copies_head_encode(copy, head, sizeof head);
    json_t *reply = json_object();
    json_put(reply, "row", base64(row, row_bytes));
    json_put(reply, "head", base64(head, head_bytes));
    api_reply(call, reply);
}
