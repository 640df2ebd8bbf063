/* What is asked of us: to take a finished job from its home and keep it. */
#include "node/keep.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"
#include "node/take.h"

#define TAKINGS_MAX 16u /* at once, those of resync.c included */
#define HELD_MS 3000    /* who asked waits for an answer still, and asks again else */

struct kept_call {
    struct mesh_id job;
    int64_t until_ms;
    struct api_call *call; /* NULL: who asked is gone, or waits no more: it asks again */
};

static void on_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct kept_call *)context)->call = NULL;
}

/* The latest that did not come, for those who ask again what has become of it; told once. */
static void note_failed(struct node *node, const struct mesh_id *job)
{
    node->takes_failed[node->takes_failed_next++ % TAKES_FAILED_MAX] = *job;
}

static bool has_failed(struct node *node, const struct mesh_id *job)
{
    for (uint32_t i = 0; i < TAKES_FAILED_MAX; i++)
        if (memcmp(&node->takes_failed[i], job, sizeof *job) == 0) {
            node->takes_failed[i] = (struct mesh_id){0};
            return true;
        }
    return false;
}

static void later(struct api_call *call)
{
    api_reply(call, json_pack("{s:b}", "later", 1));
}

static void tell_failed(struct api_call *call)
{
    api_error(call, EXIT_FAILED, "the job did not come: see the log of the node that was to keep it");
}

static void on_taken(struct node *node, void *context, enum take_result result)
{
    struct kept_call *kept = context;
    struct api_call *call = kept->call;
    const bool told = call && clock_now_ms() < kept->until_ms;
    if (result == TAKE_FAILED && !told)
        note_failed(node, &kept->job);
    if (call && result == TAKE_DONE)
        api_reply(call, NULL);
    else if (call && result == TAKE_STRANGE)
        api_error(call, EXIT_NONE, "the job makes no sense here");
    else if (told && result == TAKE_FAILED)
        tell_failed(call);
    else if (call)
        later(call);
    free(kept);
}

static void begin(struct node *node, struct api_call *call, const struct mesh_id *asker,
                  const struct mesh_id *job)
{
    struct kept_call *kept = must(calloc(1, sizeof *kept));
    *kept = (struct kept_call){.job = *job, .call = call, .until_ms = clock_now_ms() + HELD_MS};
    if (take_begin(node, asker, job, on_taken, kept)) {
        api_on_gone(call, on_gone, kept);
    } else {
        free(kept);
        later(call);
    }
}

void op_keep(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, job;
    if (!calls_asker(call, &asker) || !id_from_hex(body_text(call, "job"), &job)) {
        api_error(call, EXIT_USAGE, "nodes ask each other so, for a job's 64 hex digits");
        return;
    }
    const enum take_state state = take_state(node, &job);
    const int64_t ended_at_ms = body_integer(call, "finished_at", clock_wall_ms());
    if (state == TAKE_KEPT)
        api_reply(call, NULL);
    else if (state == TAKE_COMES)
        later(call);
    else if (state == TAKE_UNDER_WAY)
        api_error(call, EXIT_FAILED, "the job goes on here");
    else if (has_failed(node, &job))
        tell_failed(call);
    else if (node->draining)
        api_error(call, EXIT_PARTIAL, "this node is draining");
    else if (ended_at_ms < clock_wall_ms() - (int64_t)node->config.keep_jobs_s * 1000)
        api_error(call, EXIT_PARTIAL, "this node keeps no jobs that ended so long ago");
    else if (node->taking_count >= TAKINGS_MAX)
        later(call);
    else if (!jobs_make_room(node, ended_at_ms))
        api_error(call, EXIT_PARTIAL, "this node has no room for another job");
    else
        begin(node, call, &asker, &job);
}
