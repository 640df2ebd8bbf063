/* Jobs at their home: outputs, put together from the committed shards or taken from the same job before. */
#include "node/jobs_internal.h"
#include "node/keep.h"

#define ASSEMBLE_AGAIN_MS 5000
#define JOBS_TENDED_MAX 1024 /* finished jobs that the core keeps because a member of their journal is away */
#define OUTPUT_ON_LOOP_BYTES                                                                                 \
    (1u << 20) /* outputs up to this size, together, are put together on the loop's thread */

struct finishing {
    struct background_task task; /* first */
    struct node *node;
    struct job *job;
    struct store_batch *batch;
    enum store_error error;
};

static enum store_error put_small(struct finishing *finishing, uint32_t output, const uint8_t *head,
                                  size_t head_bytes, uint64_t data_bytes)
{
    struct job *job = finishing->job;
    uint8_t *whole = malloc(head_bytes + data_bytes + 1);
    must(whole);
    memcpy(whole, head, head_bytes);
    if (data_bytes > 0)
        memcpy(whole + head_bytes, job->assembly[output], data_bytes);
    const enum store_error error =
        store_batch_blob(finishing->batch, whole, head_bytes + data_bytes, job->output_blob[output].bytes);
    free(whole);
    return error;
}

static enum store_error put_large(struct finishing *finishing, uint32_t output, const uint8_t *head,
                                  size_t head_bytes, uint64_t data_bytes)
{
    struct job *job = finishing->job;
    struct store_upload *upload;
    enum store_error error = store_upload_open(finishing->node->store, &upload);
    if (error != STORE_OK)
        return error;
    error = store_upload_append(upload, head, head_bytes);
    if (error == STORE_OK)
        error = store_upload_append(upload, job->assembly[output], data_bytes);
    if (error != STORE_OK) {
        store_upload_close(upload);
        return error;
    }
    return store_upload_finish(upload, NULL, finishing->batch, job->output_blob[output].bytes);
}

static enum store_error put_output(struct finishing *finishing, uint32_t output)
{
    struct job *job = finishing->job;
    if (job->spec.manifest->outputs[output].combine != MANIFEST_CONCAT)
        job_combine(job, output);
    uint64_t data_bytes = 0;
    uint8_t head[ARRAY_NPY_WRITTEN_BYTES_MAX];
    size_t head_bytes = 0;
    if (array_bytes(&job->spec.outputs[output], &data_bytes) != ARRAY_OK ||
        array_npy_encode(&job->spec.outputs[output], head, &head_bytes) != ARRAY_OK)
        return STORE_LIMIT; /* manifests have no such outputs */
    job->output_bytes[output] = head_bytes + data_bytes;
    return head_bytes + data_bytes <= STORE_SMALL_BYTES
               ? put_small(finishing, output, head, head_bytes, data_bytes)
               : put_large(finishing, output, head, head_bytes, data_bytes);
}

static void run_finish(struct background_task *task)
{
    struct finishing *finishing = (struct finishing *)task;
    for (uint32_t o = 0; o < finishing->job->spec.output_count && finishing->error == STORE_OK; o++)
        finishing->error = put_output(finishing, o);
}

/* The journal of a finished job goes, and the pins on its shards' results; if it failed, all pins. */
static void let_core_forget(struct node *node, struct job *job)
{
    node->jobs.tended -= job->tended;
    job->tended = false;
    host_post(node, &(struct mesh_event){.kind = MESH_FORGET_JOB, .body.job.id = job->spec.id});
    copies_sweep(node, &job->spec.id, job->state != JOB_DONE);
}

bool jobs_on_over(struct node *node, const struct mesh_id *id)
{
    struct job *job = jobs_find(node, id);
    if (!job || job->state == JOB_PREPARING)
        return false;
    if (job->state >= JOB_DONE)
        let_core_forget(node, job);
    return true; /* else once its outputs stand */
}

/*
 * The core keeps a finished job until all members hold its end. While one of them is away that may be long: beyond
 * so many the oldest goes, and a member that comes back later asks and is told that it is over.
 */
static void bound_tended(struct node *node, struct job *latest)
{
    latest->tended = true;
    if (++node->jobs.tended <= JOBS_TENDED_MAX)
        return;
    struct job *oldest = node->jobs.head;
    while (!oldest->tended)
        oldest = oldest->next;
    copies_on_over(node, &oldest->spec.id, true);
}

void jobs_end(struct node *node, struct job *job)
{
    char quoted[2 * JOB_ERROR_BYTES];
    static const char *const words[] = {"", "preparing", "running", "running", "done", "failed", "cancelled"};
    log_info("job", "job=%s state=%s shards=%u cached=%u error=%s", peer_name(node, &job->spec.id),
             words[job->state], job->committed, job->cached, log_quote(job->error, quoted, sizeof quoted));
    jobs_acknowledge(node, job);
    jobs_let_inputs_go(node, job);
    job_release(job);
    cache_job_over(node, &job->spec.id, job->state == JOB_DONE);
    const struct copy *copy = copies_find(node, &job->spec.id);
    if (!copy || copy->over)
        let_core_forget(node, job);
    else
        bound_tended(node, job); /* others may have to be sent its end yet */
}

/* Whoever asks for the very same job again gets its outputs at once. Best effort. */
static void remember_whole(struct node *node, struct job *job)
{
    struct entry entry = {.output_count = job->spec.output_count};
    uint8_t blobs[MANIFEST_OUTPUTS_MAX][32], bytes[256], outputs[256 - PROVENANCE_BYTES];
    for (uint32_t o = 0; o < entry.output_count; o++) {
        entry.output[o].blob = job->output_blob[o];
        entry.output[o].count = job->output_bytes[o];
    }
    const struct provenance provenance = {.level = job->spec.verify,
                                          .class = job->spec.manifest->class,
                                          .whole = true,
                                          .at_ms = clock_wall_ms()};
    const size_t count = entry_encode(&entry, outputs, sizeof outputs);
    provenance_encode(&provenance, outputs, count, bytes);
    const struct store_entry row = {.bytes = bytes,
                                    .count = PROVENANCE_BYTES + count,
                                    .blobs = (const uint8_t(*)[32])blobs,
                                    .blob_count = entry_blobs(&entry, blobs)};
    struct store_batch *batch = node_batch(node);
    store_batch_cache(batch, job->whole_key.bytes, &row);
    node_commit(node, batch, NULL, NULL);
    if (job->spec.cache == JOB_CACHE_MESH)
        cache_publish(node, &job->whole_key, 1);
}

static void on_finished(struct node *node, void *context, enum store_error error)
{
    struct finishing *finishing = context;
    struct job *job = finishing->job;
    free(finishing);
    if (error == STORE_OK || error == STORE_MORE) {
        job->state = JOB_DONE;
        if (job->keys && job->spec.shard_count > 1 && !job->damaged && job->disputed == 0)
            remember_whole(node, job);
        jobs_end(node, job);
        return;
    }
    /* The results are in the journal still: nothing is lost, and it is tried again with the next start or
     * turn. */
    log_error("job", "job=%s error=\"cannot store its outputs: %s\"", peer_name(node, &job->spec.id),
              store_error_text(error));
    disk_failed(node, error);
    job->finished_at_ms = 0;
    job->assemble_at_ms = clock_now_ms() + ASSEMBLE_AGAIN_MS;
    job->assemble_error = error;
    node->jobs.unstored++;
}

static void on_put(struct background_task *task)
{
    struct finishing *finishing = (struct finishing *)task;
    struct node *node = finishing->node;
    struct job *job = finishing->job;
    if (finishing->error != STORE_OK) {
        store_batch_close(finishing->batch);
        on_finished(node, finishing, finishing->error);
        return;
    }
    const struct copy *copy = copies_find(node, &job->spec.id);
    const bool anew = job->read_back && copy && copy->over && copy->ended_at_ms; /* it was done long ago */
    job->state = JOB_DONE;
    job->finished_at_ms = anew ? copy->ended_at_ms : clock_wall_ms();
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        store_batch_pin(finishing->batch, job->output_blob[o].bytes, job->spec.id.bytes);
    jobs_put_row(finishing->batch, job);
    job->state = JOB_ASSEMBLING; /* nobody hears of it before the row and the outputs are durable */
    struct store_batch *batch = finishing->batch;
    node_commit(node, batch, on_finished, finishing);
}

/* What was committed can't be read back, so the outputs would be wrong. Other members of the journal have it too; a job of
 * a single copy fails. */
static void spoilt(struct node *node, struct job *job)
{
    static const char why[] = "a committed output cannot be read back from its home's disk";
    if (copies_find(node, &job->spec.id)) {
        job->state = JOB_PREPARING;
        jobs_go_on_later(node, job, why);
        return;
    }
    snprintf(job->error, sizeof job->error, "%s: look at that disk, and submit the job again", why);
    job->state = JOB_FAILED;
    job->finished_at_ms = clock_wall_ms();
    struct store_batch *batch = node_batch(node);
    jobs_put_row(batch, job);
    store_batch_unpin_all(batch, job->spec.id.bytes);
    node_commit(node, batch, NULL, NULL);
    jobs_end(node, job);
}

void jobs_assemble(struct node *node, struct job *job)
{
    if (job->damaged) {
        spoilt(node, job);
        return;
    }
    struct finishing *finishing = calloc(1, sizeof *finishing);
    must(finishing);
    *finishing = (struct finishing){.node = node, .job = job, .batch = node_batch(node)};
    finishing->task.run = run_finish;
    finishing->task.done = on_put;
    log_debug("job", "job=%s state=assembling", peer_name(node, &job->spec.id));
    job->ends = false;
    job->state = JOB_ASSEMBLING;
    node->jobs.unstored -= job->assemble_at_ms != 0;
    job->assemble_at_ms = 0;
    uint64_t bytes = 0;
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        bytes += job->assembly_bytes[o];
    if (bytes <= OUTPUT_ON_LOOP_BYTES) {
        run_finish(&finishing->task);
        on_put(&finishing->task);
    } else {
        background_add(node->background, &finishing->task);
    }
}

/* ---- A job that was done before, as a whole */

struct whole {
    struct job *job;
    struct mesh_id from; /* who gave its outputs, */
    bool given;          /* if anybody did */
};

static void on_whole_saved(struct node *node, void *context, enum store_error error)
{
    const struct whole whole = *(struct whole *)context;
    struct job *job = whole.job;
    free(context);
    if (error !=
        STORE_OK) { /* an input or output was evicted in between, or the disk is full: the core may do better */
        job->committed = job->cached = 0;
        jobs_to_core(node, job);
        return;
    }
    const uint32_t wished = job->copies;
    job->copies = 1;
    job->state = JOB_DONE; /* who keeps it too takes it from here */
    job->is_handed_out = true;
    keep_begin(node, job, wished, whole.given ? &whole.from : NULL);
}

void jobs_on_whole(struct node *node, const struct mesh_id *id, const struct entry *outputs,
                   const struct mesh_id *from)
{
    struct job *job = jobs_find(node, id);
    if (!job)
        return;
    if (!outputs) {
        jobs_to_core(node, job);
        return;
    }
    for (uint32_t o = 0; o < outputs->output_count; o++) {
        job->output_blob[o] = outputs->output[o].blob;
        job->output_bytes[o] = outputs->output[o].count;
    }
    struct whole *whole = must(calloc(1, sizeof *whole));
    *whole = (struct whole){.job = job, .given = from != NULL};
    if (from)
        whole->from = *from;
    struct store_batch *batch = node_batch(node);
    jobs_pin_inputs(batch, job);
    job->committed = job->cached = job->spec.shard_count;
    job->finished_at_ms = clock_wall_ms();
    const uint32_t wished = job->copies;
    job->copies = 1;
    job->state = JOB_DONE;
    jobs_put_row(batch, job);
    job->copies = wished;
    job->state = JOB_PREPARING; /* nobody hears of it before it is durable */
    node_commit(node, batch, on_whole_saved, whole);
}
