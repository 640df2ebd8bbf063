/*
 * Jobs at their home: results, from their arrival until the core hears of them.
 *
 * Blobs that a result names are in our store and pinned by the job before the core hears of the result; so
 * what the journal names can't be evicted. When the outputs stand, those pins give way to pins on inputs and
 * outputs.
 */
#include "node/jobs_internal.h"

struct result_wait {
    struct result_wait *next;
    struct mesh_id from;
    struct mesh_message *message;
    struct bytes *payload;
    uint32_t fetching;
    bool failed;
    bool gone;                 /* some blob is not at the executor any more */
    struct store_batch *batch; /* pins on blobs that are here already */
};

static void result_free(struct node *node, struct result_wait *wait)
{
    struct result_wait **link = &node->jobs.results;
    while (*link && *link != wait)
        link = &(*link)->next;
    if (*link)
        *link = wait->next;
    store_batch_close(wait->batch);
    bytes_drop(wait->payload);
    free(wait->message);
    free(wait);
}

/* The executor sends it again; until one can be kept, the job is stalled. */
static void not_kept(struct node *node, const struct result_wait *wait, enum store_error error)
{
    struct job *job = jobs_find(node, &wait->message->body.result.job);
    if (job && store_error_class(error) == STORE_CLASS_LOCAL)
        job->keep_error = error;
    disk_failed(node, error);
}

static void tell_core(struct node *node, void *context, uint32_t *digests)
{
    struct result_wait *wait = context;
    host_result(node, &wait->from, wait->message, bytes_keep(wait->payload), digests);
    result_free(node, wait);
}

/* What is to be proved first takes its time, on another thread. */
static void deliver(struct node *node, struct result_wait *wait)
{
    if (!verify_prove(node, wait->message, wait->payload, tell_core, wait))
        tell_core(node, wait, NULL);
}

static void on_pinned(struct node *node, void *context, enum store_error error)
{
    struct result_wait *wait = context;
    if (error == STORE_OK) {
        deliver(node, wait);
        return;
    }
    not_kept(node, wait, error);
    result_free(node, wait); /* the executor sends the result again */
}

/* Whether an output that the entry only names is not here. */
static bool lacks_blob(struct node *node, const struct entry *entry)
{
    struct store_blob_info info;
    for (uint32_t o = 0; o < entry->output_count; o++)
        if (!entry->output[o].bytes &&
            store_blob_stat(node->store, entry->output[o].blob.bytes, &info) != STORE_OK)
            return true;
    return false;
}

/* No later try would bring them: those shards go back, to be computed again. */
static void return_gone(struct node *node, struct result_wait *wait)
{
    struct result_item items[MESH_BUNDLE_SHARDS_MAX];
    struct entry entry;
    struct job *job = jobs_find(node, &wait->message->body.result.job);
    const int count = result_decode(wait->payload, items, MESH_BUNDLE_SHARDS_MAX);
    for (int i = 0; i < count; i++) {
        uint32_t *outcome = &wait->message->body.result.shard[i].outcome;
        if (*outcome == MESH_DONE && entry_decode(items[i].bytes, items[i].count, &entry) &&
            lacks_blob(node, &entry))
            *outcome = MESH_RETURNED;
    }
    if (job)
        snprintf(job->last_return, sizeof job->last_return, "a result is not there any more");
}

static void result_advance(struct node *node, struct result_wait *wait)
{
    if (wait->fetching > 0)
        return;
    if (wait->failed) {
        result_free(node, wait);
        return;
    }
    if (wait->gone)
        return_gone(node, wait);
    struct store_batch *batch = wait->batch;
    wait->batch = NULL;
    node_commit(node, batch, on_pinned, wait);
}

static void on_blob(struct node *node, void *context, const struct bulk_done *done)
{
    struct result_wait *wait = context;
    wait->fetching--;
    if (done->error != BULK_OK) {
        wait->gone = wait->gone || done->error == BULK_ABSENT;
        wait->failed = wait->failed || done->error != BULK_ABSENT;
        log_warn("result", "from=%s error=\"cannot fetch an output: %s\"", peer_name(node, &wait->from),
                 bulk_error_text(done->error));
        if (done->error == BULK_STORE)
            not_kept(node, wait, done->store);
    }
    result_advance(node, wait);
}

static void want_blob(struct node *node, struct job *job, struct result_wait *wait, const struct digest *blob)
{
    const struct digest pin = job_results_owner(&job->spec.id);
    struct store_blob_info info;
    if (store_blob_stat(node->store, blob->bytes, &info) == STORE_OK) {
        store_batch_pin(wait->batch, blob->bytes, pin.bytes);
        return;
    }
    const struct bulk_request request = {
        .holders = {wait->from}, .holder_count = 1, .blob = *blob, .pin = &pin};
    if (memcmp(&wait->from, &node->self, sizeof wait->from) != 0 &&
        fetch_start(node, &request, on_blob, wait))
        wait->fetching++;
    else
        wait->failed = true;
}

/* What a peer wrote, as it may go to terminals and logs. */
static void item_text(const struct result_item *item, char *text, size_t text_bytes)
{
    const size_t count = item->count < text_bytes - 1 ? item->count : text_bytes - 1;
    memcpy(text, item->bytes, count);
    text[count] = '\0';
    for (size_t i = 0; i < count; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            text[i] = '?';
}

static void note_failure(struct node *node, struct job *job, const struct mesh_id *from, uint32_t shard,
                         const struct result_item *item)
{
    char text[JOB_ERROR_BYTES / 2];
    item_text(item, text, sizeof text);
    snprintf(job->last_error, sizeof job->last_error, "shard %u at %s: %s", shard, peer_name(node, from),
             text);
}

static bool is_waiting(const struct node *node, const struct mesh_id *from,
                       const struct mesh_message *message)
{
    for (const struct result_wait *wait = node->jobs.results; wait; wait = wait->next) {
        const struct mesh_bundle_name *name = &wait->message->body.result.name;
        if (memcmp(&wait->from, from, sizeof *from) == 0 && name->token == message->body.result.name.token &&
            name->index == message->body.result.name.index)
            return true;
    }
    return false;
}

void jobs_on_result(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                    struct bytes *payload)
{
    struct job *job = jobs_find(node, &message->body.result.job);
    if (!job || job->state > JOB_RUNNING) {
        host_received(node, from, message, payload); /* stale; the core tells the executor to forget it */
        return;
    }
    if (is_waiting(node, from, message)) {
        bytes_drop(payload);
        return;
    }
    struct result_wait *wait = calloc(1, sizeof *wait);
    must(wait);
    *wait = (struct result_wait){.next = node->jobs.results, .from = *from, .payload = payload};
    wait->message = calloc(1, sizeof *wait->message);
    must(wait->message);
    memcpy(wait->message, message, mesh_message_bytes(message));
    node->jobs.results = wait;

    struct result_item items[MESH_BUNDLE_SHARDS_MAX];
    const int item_count = result_decode(payload, items, MESH_BUNDLE_SHARDS_MAX);
    const uint32_t count = message->body.result.count;
    bool blobs = false;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t shard = message->body.result.shard[i].shard;
        const bool there = item_count == (int)count;
        struct entry entry;
        if (message->body.result.shard[i].outcome != MESH_DONE) {
            if (there && message->body.result.shard[i].outcome == MESH_RETURNED)
                item_text(&items[i], job->last_return, sizeof job->last_return);
            else if (there && !job->refused)
                note_failure(node, job, from, shard, &items[i]);
            job->refused = job->refused || message->body.result.shard[i].outcome == MESH_REJECTED;
        } else if (!there || !entry_decode(items[i].bytes, items[i].count, &entry) ||
                   !job_entry_fits(job, shard, &entry)) {
            wait->message->body.result.shard[i].outcome = MESH_CRASHED;
            snprintf(job->last_error, sizeof job->last_error, "shard %u at %s: its result has the wrong size",
                     shard, peer_name(node, from));
        } else {
            for (uint32_t o = 0; o < entry.output_count; o++) {
                if (entry.output[o].bytes)
                    continue;
                if (!wait->batch)
                    wait->batch = node_batch(node);
                want_blob(node, job, wait, &entry.output[o].blob);
                blobs = true;
            }
        }
    }
    if (blobs)
        result_advance(node, wait);
    else
        deliver(node, wait);
}
