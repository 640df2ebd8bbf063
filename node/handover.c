#include "node/handover.h"

#include "node/jobs_internal.h"
#include "node/keep.h"

#define ACTIVE_MAX 8u
#define REVIVE_MS 60000 /* until outputs must have been put together of which only the journal is here */
#define ENOUGH 2u       /* others that keep a job */

struct active {
    struct mesh_id id;
    int64_t until_ms; /* its outputs stand */
    bool asked;       /* others, to keep it */
};

struct handover {
    struct mesh_id *left; /* the first `count` */
    uint32_t count, room;
    struct active active[ACTIVE_MAX];
    uint32_t active_count;
    uint32_t handed, alone;
};

/* ---- Which */

/* How many others ought to keep it: of what we keep alone, one. */
static uint32_t enough(struct node *node, struct copy *copy)
{
    return copy && copies_members(node, copy)->count > 1 ? ENOUGH : 1;
}

static uint32_t others(struct node *node, const struct mesh_id *id)
{
    struct copy *copy = copies_find(node, id);
    return copy ? keep_others(node, copy) : 0;
}

static void add(struct handover *handover, const struct mesh_id *id)
{
    if (handover->count == handover->room) {
        handover->room = 2 * handover->room + 64;
        handover->left = must(realloc(handover->left, handover->room * sizeof *handover->left));
    }
    handover->left[handover->count++] = *id;
}

static struct handover *begin(struct node *node)
{
    struct handover *handover = must(calloc(1, sizeof *handover));
    for (const struct job *job = node->jobs.head; job; job = job->next)
        if (job->state >= JOB_DONE && !copies_find(node, &job->spec.id))
            add(handover, &job->spec.id);
    for (uint32_t b = 0; b < JOBS_BUCKETS; b++)
        for (struct copy *copy = node->copies.bucket[b]; copy; copy = copy->chain) {
            const bool here = jobs_find(node, &copy->job) || (copy->whole && jobs_tell(node, copy));
            if (copy->over && here && keep_others(node, copy) < enough(node, copy))
                add(handover, &copy->job);
        }
    if (handover->count > 0)
        log_info("drain", "state=handing_over jobs=%u", handover->count);
    return handover;
}

/* ---- To whom */

/* False: it is done with, whatever came of it. */
static bool goes_on(struct node *node, struct handover *handover, struct active *active, int64_t now_ms)
{
    struct job *job = jobs_find(node, &active->id);
    if (keep_goes_on(node, &active->id))
        return true;
    if (active->asked || now_ms >= active->until_ms) {
        const bool kept = others(node, &active->id) > 0;
        handover->handed += kept;
        handover->alone += !kept;
        return false;
    }
    if (job && job->state >= JOB_DONE) {
        active->asked = true;
        keep_begin(node, job, 1 + enough(node, copies_find(node, &active->id)), NULL);
    } else if (!job) {
        jobs_revive(node, &active->id);
    }
    return true;
}

bool handover_step(struct node *node, int64_t now_ms)
{
    if (!node->handover)
        node->handover = begin(node);
    struct handover *handover = node->handover;
    while (handover->active_count < ACTIVE_MAX && handover->count > 0)
        handover->active[handover->active_count++] =
            (struct active){.id = handover->left[--handover->count], .until_ms = now_ms + REVIVE_MS};
    for (uint32_t i = handover->active_count; i-- > 0;)
        if (!goes_on(node, handover, &handover->active[i], now_ms))
            handover->active[i] = handover->active[--handover->active_count];
    if (handover_left(node) > 0)
        return false;
    if (handover->handed + handover->alone > 0) {
        log_info("drain", "state=handed_over jobs=%u kept_by_nobody_else=%u", handover->handed,
                 handover->alone);
        handover->handed = handover->alone = 0;
    }
    return true;
}

uint32_t handover_left(const struct node *node)
{
    return node->handover ? node->handover->count + node->handover->active_count : 0;
}

void handover_close(struct node *node)
{
    if (node->handover)
        free(node->handover->left);
    free(node->handover);
    node->handover = NULL;
}
