/*
 * Jobs that are done, and of which a member that was caught since had brought results.
 *
 * A job in progress is re-checked by the core, shard by shard. Of one that is done the core knows nothing any more, so it is
 * computed once more, as a job of its own beside it: what others brought comes from this store's cache, where the caught
 * member's word is void, so that its shards alone are computed anew (all of them, if the job used no cache). Where the outputs
 * differ the first job is disputed, and the second one is its correction. One at a time; which ones are still to come is in
 * their rows, and one that a restart cut short is begun again.
 */
#include "node/recheck.h"

#include "crypto/digest.h"
#include "node/background.h"
#include "node/jobs_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (1u << 20)

struct recheck {
    struct background_task task; /* first */
    struct node *node;
    struct store *store;
    struct mesh_id original, again;
    struct mesh_id caught;
    bool comparing;       /* the background thread has it */
    struct job_spec spec; /* of the original: what the comparison needs; its manifest is held by neither */
    struct digest blob[2][MANIFEST_OUTPUTS_MAX];
    uint64_t bytes[2][MANIFEST_OUTPUTS_MAX];
    bool parts[MANIFEST_OUTPUTS_MAX]; /* each shard has its place in that output */
    uint8_t *wrong;                   /* [spec.shard_count] */
    bool readable;
};

static bool is_of_the_kind(const struct job *job)
{
    return (job->state == JOB_DONE || job->state == JOB_ASSEMBLING) && job->spec.verify == MESH_VERIFY_SPOT &&
           job->spec.manifest->class == MANIFEST_EXACT &&
           strncmp(job->spec.key, RECHECK_KEY, strlen(RECHECK_KEY)) != 0;
}

/* The row says whether the job is still to be checked; that of one whose outputs don't stand yet is written when they do. */
static void keep(struct store_batch *batch, const struct job *job)
{
    if (job->state == JOB_DONE)
        jobs_put_row(batch, job);
}

void recheck_caught(struct node *node, struct store_batch *batch, const struct mesh_id *id)
{
    for (struct job *job = node->jobs.head; job; job = job->next)
        for (uint32_t i = 0; is_of_the_kind(job) && i < job->share_count; i++)
            if (job->share[i].shards > 0 && memcmp(&job->share[i].node, id, sizeof *id) == 0) {
                job->doubt = *id;
                job->doubted = true;
                node->rechecks_wanted = true;
                keep(batch, job);
            }
}

/* ---- Comparing */

/* Marks the shards that have bytes [from, from + count) of an output in which two pieces differ. */
static void mark(struct recheck *recheck, uint32_t output, uint64_t from, const uint8_t *one,
                 const uint8_t *other, uint64_t count)
{
    const struct job_spec *spec = &recheck->spec;
    const uint64_t item_bytes = spec->output_item_bytes[output];
    const uint64_t head = recheck->bytes[0][output] - spec->items * item_bytes;
    for (uint64_t i = 0; i < count; i++) {
        if (one[i] == other[i])
            continue;
        const uint64_t item = recheck->parts[output] && from + i >= head ? (from + i - head) / item_bytes : 0;
        const uint64_t shard = item / spec->shard_items;
        recheck->wrong[shard < spec->shard_count ? shard : 0] = 1;
    }
}

static bool compare(struct recheck *recheck, uint32_t output, uint8_t *pieces)
{
    const uint64_t bytes = recheck->bytes[0][output];
    if (recheck->bytes[1][output] != bytes) {
        recheck->wrong[0] = 1;
        return true;
    }
    for (uint64_t at = 0; at < bytes; at += PIECE_BYTES) {
        const uint64_t count = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        for (int which = 0; which < 2; which++)
            if (store_blob_read(recheck->store, recheck->blob[which][output].bytes, at, count,
                                pieces + (size_t)which * PIECE_BYTES) != STORE_OK)
                return false;
        if (memcmp(pieces, pieces + PIECE_BYTES, count) != 0)
            mark(recheck, output, at, pieces, pieces + PIECE_BYTES, count);
    }
    return true;
}

static void run_compare(struct background_task *task)
{
    struct recheck *recheck = (struct recheck *)task;
    uint8_t *pieces = malloc(2 * (size_t)PIECE_BYTES);
    recheck->readable = pieces != NULL;
    for (uint32_t o = 0; recheck->readable && o < recheck->spec.output_count; o++)
        if (!digest_equal(&recheck->blob[0][o], &recheck->blob[1][o]))
            recheck->readable = compare(recheck, o, pieces);
    free(pieces);
}

static void give_up(struct node *node, struct recheck *recheck, const char *why)
{
    log_warn("recheck", "job=%s error=\"what %s brought of it was not checked: %s\"",
             peer_name(node, &recheck->original), peer_name(node, &recheck->caught), why);
}

static void conclude(struct node *node, struct recheck *recheck)
{
    uint32_t wrong = 0, first = 0;
    for (uint32_t s = recheck->spec.shard_count; s-- > 0;)
        if (recheck->wrong[s]) {
            wrong++;
            first = s;
        }
    char again[9];
    snprintf(again, sizeof again, "%.8s", peer_name(node, &recheck->again));
    log_info("recheck", "job=%s again=%s wrong=%u", peer_name(node, &recheck->original), again, wrong);
    const struct job *job = jobs_find(node, &recheck->original);
    /* Those that were found wrong while it ran are among them. */
    if (!job || job->disputed >= wrong)
        return;
    const uint32_t more = wrong - job->disputed;
    jobs_on_decision(node, &recheck->original, &recheck->caught, MESH_WHY_WRONG, first, more);
    jobs_on_disputed(node, &recheck->original, more);
}

/* Its row is written anew, without the doubt unless there is another by now. */
static void finish(struct node *node, struct recheck *recheck)
{
    const struct job *job = jobs_find(node, &recheck->original);
    if (job) {
        struct store_batch *batch = node_batch(node);
        keep(batch, job);
        node_commit(node, batch, NULL, NULL);
    }
    node->recheck = NULL;
    free(recheck->wrong);
    free(recheck);
}

static void on_compared(struct background_task *task)
{
    struct recheck *recheck = (struct recheck *)task;
    struct node *node = recheck->node;
    if (recheck->readable)
        conclude(node, recheck);
    else
        give_up(node, recheck, "an output cannot be read");
    finish(node, recheck);
    loop_wake(node->loop);
}

/* ---- Computing it again */

/* The same job under another key, as if it were submitted now; NULL: there is no room for its kernel. */
static struct job *repeat(const struct job *job)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    const size_t count = job_row_encode(job, row, sizeof row);
    struct job *again = count > 0 ? job_row_decode(row, count) : NULL;
    if (!again)
        return NULL;
    char id[17];
    hex_encode(job->spec.id.bytes, 8, id);
    snprintf(again->spec.key, sizeof again->spec.key, RECHECK_KEY "%s-%" PRId64, id, clock_wall_ms());
    again->spec.id = job_id(again->spec.tenant, again->spec.key);
    again->spec.created_at_ms = clock_wall_ms();
    /* Other sites may hold what the caught member brought, as their own word. */
    again->spec.cache = job->spec.cache == JOB_CACHE_OFF ? JOB_CACHE_OFF : JOB_CACHE_SITE;
    again->state = JOB_PREPARING;
    again->committed = again->cached = again->reassigned = again->disputed = again->share_count = 0;
    again->finished_at_ms = 0;
    again->doubted = false;
    again->error[0] = '\0';
    memset(again->output_blob, 0, sizeof again->output_blob);
    memset(again->output_bytes, 0, sizeof again->output_bytes);
    return again;
}

static void start(struct node *node, struct job *job)
{
    struct job *again = repeat(job);
    struct recheck *recheck = calloc(1, sizeof *recheck);
    must(recheck);
    *recheck = (struct recheck){.task = {.run = run_compare, .done = on_compared},
                                .node = node,
                                .store = node->store,
                                .original = job->spec.id,
                                .caught = job->doubt,
                                .spec = job->spec};
    recheck->spec.manifest = NULL; /* not held */
    job->doubted = false;
    if (!again) {
        give_up(node, recheck, "no room for its kernel");
        finish(node, recheck);
        return;
    }
    recheck->again = again->spec.id;
    recheck->wrong = calloc(job->spec.shard_count, 1);
    must(recheck->wrong);
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        recheck->parts[o] = job->spec.manifest->outputs[o].combine == MANIFEST_CONCAT;
    node->recheck = recheck;
    log_info("recheck", "job=%s key=%s", peer_name(node, &recheck->original), again->spec.key);
    const struct job_wish wish = jobs_wish(job);
    jobs_submit(node, again, &wish, NULL);
}

static void look(struct node *node, struct recheck *recheck)
{
    const struct job *again = jobs_find(node, &recheck->again);
    const struct job *original = jobs_find(node, &recheck->original);
    if (again && again->state < JOB_DONE)
        return;
    if (again && again->state == JOB_DONE && original && original->state == JOB_DONE) {
        for (uint32_t o = 0; o < recheck->spec.output_count; o++) {
            recheck->blob[0][o] = original->output_blob[o];
            recheck->blob[1][o] = again->output_blob[o];
            recheck->bytes[0][o] = original->output_bytes[o];
            recheck->bytes[1][o] = again->output_bytes[o];
        }
        recheck->comparing = true;
        background_add(node->background, &recheck->task);
        return;
    }
    give_up(node, recheck,
            !again || !original ? "it is gone"
            : again->error[0]   ? again->error
                                : "it was cancelled");
    finish(node, recheck);
}

int64_t recheck_turn(struct node *node, int64_t now_ms)
{
    (void)now_ms;
    if (node->recheck && !node->recheck->comparing)
        look(node, node->recheck);
    if (node->recheck || !node->rechecks_wanted)
        return INT64_MAX;
    struct job *job = node->jobs.head;
    while (job && !job->doubted)
        job = job->next;
    node->rechecks_wanted = job != NULL;
    if (job && job->state == JOB_DONE)
        start(node, job);
    return INT64_MAX; /* what ends wakes the loop */
}

void recheck_close(struct node *node)
{
    if (!node->recheck)
        return;
    free(node->recheck->wrong);
    free(node->recheck);
    node->recheck = NULL;
}
