#include "node/handover.h"

#include "node/jobs_internal.h"
#include "node/keep.h"

#define ACTIVE_MAX 8u /* at once, when this node drains, */
#define CALM_MAX 2u   /* and else: owners' and customers' work goes before */
#define LOOK_MS 60000
#define SOON_MS 2000 /* after somebody was revoked: others may be with it */
#define STEP_MS 100
#define ENOUGH 2u                  /* others that keep a job */
#define NOBODY_MS (15 * 60 * 1000) /* after nobody took it */

struct active {
    struct mesh_id id;
    bool revived; /* its outputs are being put together, of which only the journal was here */
    bool asked;   /* others, to keep it */
};

struct handover {
    bool leaves;          /* this node does */
    struct mesh_id *left; /* the first `count` */
    uint32_t count, room;
    struct active active[ACTIVE_MAX];
    uint32_t active_count;
    uint32_t handed, alone;
};

/* ---- Which */

/* How many others ought to keep it: a job that was asked for in two copies, or kept alone, has one. */
static uint32_t enough(struct node *node, struct copy *copy)
{
    return copy && copies_members(node, copy)->count > 2 ? ENOUGH : 1;
}

static void add(struct handover *handover, const struct mesh_id *id)
{
    if (handover->count == handover->room) {
        handover->room = 2 * handover->room + 64;
        handover->left = must(realloc(handover->left, handover->room * sizeof *handover->left));
    }
    handover->left[handover->count++] = *id;
}

static bool is_here(struct node *node, const struct copy *copy)
{
    const struct job *job = jobs_find(node, &copy->job);
    return job ? job->state >= JOB_DONE && !job->is_handed_out : copy->whole && jobs_tell(node, copy);
}

/* Of those that are left the first does it at each look, the next at each second, and so on: whoever is before us may not be able to.
 * What a node keeps alone was meant so, or nobody was there. The members of journals of an earlier version have to be read, which is
 * not worth it each minute. */
static bool is_ours_to_hand(struct node *node, struct copy *copy, int64_t now_ms)
{
    return copy->over && copy->members.count > 1 && now_ms >= copy->hand_at_ms &&
           keep_others(node, copy) < enough(node, copy) && is_here(node, copy) &&
           node->handover_looks % (keep_place(node, copy) + 1) == 0 && keep_may_have_more(node, copy);
}

/* As above; when we leave it is ours. */
static bool would_be_short(struct node *node, struct copy *copy, int64_t now_ms)
{
    return copy->over && now_ms >= copy->hand_at_ms && keep_others(node, copy) < enough(node, copy) &&
           is_here(node, copy);
}

static struct handover *begin(struct node *node, bool leaves)
{
    const int64_t now_ms = clock_now_ms();
    struct handover *handover = must(calloc(1, sizeof *handover));
    handover->leaves = leaves;
    for (const struct job *job = leaves ? node->jobs.head : NULL; job; job = job->next)
        if (job->state >= JOB_DONE && !job->is_handed_out && !copies_find(node, &job->spec.id))
            add(handover, &job->spec.id);
    for (uint32_t b = 0; b < JOBS_BUCKETS; b++)
        for (struct copy *copy = node->copies.bucket[b]; copy; copy = copy->chain)
            if (leaves ? would_be_short(node, copy, now_ms) : is_ours_to_hand(node, copy, now_ms))
                add(handover, &copy->job);
    if (handover->count > 0)
        log_info("handover", "state=begun jobs=%u", handover->count);
    return handover;
}

/* ---- To whom */

static void count(struct node *node, struct handover *handover, struct copy *copy)
{
    const bool kept = copy && keep_others(node, copy) > 0;
    handover->handed += kept;
    handover->alone += !kept;
    if (copy && keep_others(node, copy) < enough(node, copy))
        copy->hand_at_ms = clock_now_ms() + NOBODY_MS;
}

/* False: it is done with, whatever came of it. */
static bool goes_on(struct node *node, struct handover *handover, struct active *active)
{
    struct copy *copy = copies_find(node, &active->id);
    if (keep_goes_on(node, &active->id))
        return true;
    if (!jobs_find(node, &active->id) && copy && !active->revived) {
        active->revived = true;
        jobs_revive(node, &active->id);
    }
    struct job *job = jobs_find(node, &active->id);
    if (job && job->state < JOB_DONE && !job->again_at_ms)
        return true; /* its outputs are being put together */
    if (!job && !copy)
        return false; /* forgotten meanwhile */
    if (active->asked || !job || job->state < JOB_DONE) {
        count(node, handover, copy);
        return false;
    }
    active->asked = true;
    keep_begin(node, job, 1 + enough(node, copy), NULL);
    return true;
}

static uint32_t left(const struct handover *handover)
{
    return handover->count + handover->active_count;
}

/* True: nothing is left. */
static bool step(struct node *node, struct handover *handover)
{
    const uint32_t most = handover->leaves ? ACTIVE_MAX : CALM_MAX;
    while (handover->active_count < most && handover->count > 0)
        handover->active[handover->active_count++] = (struct active){.id = handover->left[--handover->count]};
    for (uint32_t i = handover->active_count; i-- > 0;)
        if (!goes_on(node, handover, &handover->active[i]))
            handover->active[i] = handover->active[--handover->active_count];
    if (left(handover) > 0)
        return false;
    if (handover->alone > 0)
        log_warn("handover", "state=done jobs=%u kept_by_nobody_else=%u", handover->handed, handover->alone);
    else if (handover->handed > 0)
        log_info("handover", "state=done jobs=%u kept_by_nobody_else=0", handover->handed);
    return true;
}

bool handover_step(struct node *node)
{
    if (node->handover && !node->handover->leaves)
        handover_close(node);
    if (!node->handover)
        node->handover = begin(node, true);
    if (!step(node, node->handover))
        return false;
    const bool again = node->handover->handed > 0; /* somebody else may leave meanwhile */
    node->handed += node->handover->handed;
    node->handed_to_nobody = node->handover->alone > 0 ? node->handover->alone : node->handed_to_nobody;
    node->handover->handed = node->handover->alone = 0;
    if (again)
        handover_close(node);
    return !again;
}

uint32_t handover_left(const struct node *node)
{
    return node->handover ? left(node->handover) : 0;
}

/* ---- Time */

void handover_look_soon(struct node *node)
{
    const int64_t soon_ms = clock_now_ms() + SOON_MS;
    node->handover_at_ms = soon_ms < node->handover_at_ms ? soon_ms : node->handover_at_ms;
}

int64_t handover_turn(struct node *node, int64_t now_ms)
{
    if (node->draining)
        return INT64_MAX;
    if (!node->handover && now_ms < node->handover_at_ms)
        return node->handover_at_ms;
    if (!node->handover) {
        node->handover_looks++;
        node->handover = begin(node, false);
        node->handover_at_ms = now_ms + LOOK_MS;
    }
    if (!step(node, node->handover))
        return now_ms + STEP_MS;
    handover_close(node);
    return node->handover_at_ms;
}

void handover_close(struct node *node)
{
    if (node->handover)
        free(node->handover->left);
    free(node->handover);
    node->handover = NULL;
}
