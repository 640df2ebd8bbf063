/* Jobs at their home: what the core asks to be saved of them, and what follows once it is on the disk. */
#include "node/jobs_internal.h"

struct bytes *jobs_describe(struct node *node, const struct mesh_save *save)
{
    static uint8_t row[JOB_ROW_BYTES_MAX], out[FIRST_ENTRY_BYTES_MAX];
    static uint8_t input[MANIFEST_INPUTS_MAX][JOB_INLINE_BYTES_MAX];
    struct job *job = jobs_find(node, &save->body.job.id);
    assert(job && job->state == JOB_PREPARING); /* it was submitted, and nothing has answered for it yet */
    job->epoch = save->body.job.epoch;
    job->copies = save->body.job.members.count;
    struct first_entry entry = {.row = row, .row_bytes = job_row_encode(job, row, sizeof row)};
    assert(entry.row_bytes > 0);
    for (uint32_t i = 0; i < job->spec.manifest->input_count; i++) {
        size_t count;
        if (!job->spec.inputs[i].role ||
            store_blob_get(node->store, job->spec.inputs[i].blob.bytes, input[i], sizeof input[i], &count))
            continue; /* too large; or damaged, which whoever needs it will find */
        entry.input[i] = (struct result_item){.bytes = input[i], .count = count};
        entry.input_count = job->spec.manifest->input_count;
    }
    if (entry.input_count == 0)
        return bytes_make(row, entry.row_bytes);
    const size_t count = first_entry_encode(&entry, out, sizeof out);
    assert(count > 0);
    return bytes_make(out, count);
}

void jobs_put_row(struct store_batch *batch, const struct job *job)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    const size_t count = job_row_encode(job, row, sizeof row);
    assert(count > 0);
    store_batch_put(batch, STORE_JOBS, job->spec.id.bytes, sizeof job->spec.id.bytes, row, count);
}

uint32_t jobs_blobs(const struct job *job, struct digest blobs[JOB_BLOBS_MAX])
{
    uint32_t count = 0;
    const struct user_kernel *user = user_kernel_of(job->spec.manifest);
    if (user)
        blobs[count++] = user->source;
    for (uint32_t i = 0; i < job->spec.manifest->input_count; i++)
        if (job->spec.inputs[i].role)
            blobs[count++] = job->spec.inputs[i].blob;
    return count;
}

void jobs_pin_inputs(struct store_batch *batch, const struct job *job)
{
    struct digest blobs[JOB_BLOBS_MAX];
    const uint32_t count = jobs_blobs(job, blobs);
    for (uint32_t i = 0; i < count; i++)
        store_batch_pin(batch, blobs[i].bytes, job->spec.id.bytes);
}

static void put_journal_row(struct store_batch *batch, const struct job *job, const struct journal_row *row)
{
    static uint8_t buffer[JOURNAL_ROW_BYTES_MAX + 64 * 1024];
    const size_t count = journal_row_encode(row, buffer, sizeof buffer);
    assert(count > 0);
    uint8_t key[36];
    memcpy(key, job->spec.id.bytes, 32);
    /* Shards that were disputed stand behind all that were committed. */
    const uint32_t first = row->item[0].shard | (row->disputes ? 1u << 31 : 0);
    const uint8_t order[4] = {(uint8_t)(first >> 24), (uint8_t)(first >> 16), (uint8_t)(first >> 8),
                              (uint8_t)first};
    memcpy(key + 32, order, 4);
    store_batch_put(batch, STORE_JOURNAL, key, sizeof key, buffer, count);
}

static void put_journal(struct store_batch *batch, const struct job *job, const struct mesh_save *save,
                        const struct bytes *payload)
{
    static struct result_item items[MESH_LOOKUP_SHARDS_MAX];
    static struct journal_row row;
    const int item_count = result_decode(payload, items, MESH_LOOKUP_SHARDS_MAX);
    assert(item_count >= 0); /* checked when it came */
    row = (struct journal_row){.epoch = save->body.commit.epoch,
                               .executor = save->body.commit.executor,
                               .device_us = save->body.commit.device_us,
                               .cached = save->body.commit.cached};
    size_t row_bytes = 0;
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t place = save->body.commit.shard[i].place;
        assert(place < (uint32_t)item_count);
        if (row.count > 0 && row_bytes + items[place].count > JOURNAL_ROW_BYTES_MAX) {
            put_journal_row(batch, job, &row);
            row.count = 0;
            row.device_us = 0;
            row_bytes = 0;
        }
        row.item[row.count].shard = save->body.commit.shard[i].shard;
        row.item[row.count++].entry = items[place];
        row_bytes += items[place].count + 16;
    }
    if (row.count > 0)
        put_journal_row(batch, job, &row);
}

static void put_dispute(struct store_batch *batch, const struct job *job, const struct mesh_save *save)
{
    static struct journal_row row;
    row = (struct journal_row){.disputes = true, .count = save->body.dispute.count};
    for (uint32_t i = 0; i < row.count; i++)
        row.item[i].shard = save->body.dispute.shard[i];
    put_journal_row(batch, job, &row);
}

void jobs_set_ended(struct job *job, enum mesh_job_state state)
{
    job->state = state == MESH_JOB_FAILED ? JOB_FAILED : JOB_CANCELLED;
    job->finished_at_ms = clock_wall_ms();
    if (job->state == JOB_FAILED)
        snprintf(job->error, sizeof job->error, "%s",
                 job->last_error[0] ? job->last_error : "a shard failed");
}

void jobs_save(struct node *node, struct store_batch *batch, const struct mesh_save *save,
               const struct bytes *bytes)
{
    const struct mesh_id *id = save->kind == MESH_SAVE_COMMIT    ? &save->body.commit.job
                               : save->kind == MESH_SAVE_DISPUTE ? &save->body.dispute.job
                                                                 : &save->body.job.id;
    struct job *job = jobs_find(node, id);
    if (!job)
        return; /* refused: the core forgets it next */
    switch (save->kind) {
    case MESH_SAVE_JOB:
        jobs_pin_inputs(batch, job);
        if (save->body.job.place.index)
            break; /* the first entry of its journal holds the row */
        job->state = JOB_PREPARING;
        job->epoch = save->body.job.epoch;
        job->copies = 1;
        jobs_put_row(batch, job);
        break;
    case MESH_SAVE_COMMIT:
        if (!save->body.commit.place.index)
            put_journal(batch, job, save, bytes);
        break;
    case MESH_SAVE_DISPUTE:
        if (!save->body.dispute.place.index)
            put_dispute(batch, job, save);
        break;
    case MESH_SAVE_JOB_STATE:
        /* DONE is saved with the outputs; until then the journal says it. An end of several copies is one when settled. */
        if (save->body.job.state == MESH_JOB_DONE || job->state > JOB_ASSEMBLING ||
            save->body.job.place.index)
            break;
        jobs_set_ended(job, save->body.job.state);
        jobs_put_row(batch, job);
        break;
    default:
        break;
    }
}

struct job_node_share *jobs_share_of(struct job *job, const struct mesh_id *member)
{
    static struct job_node_share unseen;
    for (uint32_t i = 0; i < job->share_count; i++)
        if (memcmp(&job->share[i].node, member, sizeof *member) == 0)
            return &job->share[i];
    if (job->share_count == JOB_NODES_MAX)
        return &unseen;
    struct job_node_share *share = &job->share[job->share_count++];
    *share = (struct job_node_share){.node = *member};
    return share;
}

void jobs_count_share(struct job *job, const struct mesh_id *executor, uint32_t shards, uint64_t device_us)
{
    struct job_node_share *share = jobs_share_of(job, executor);
    share->shards += shards;
    share->device_us += device_us;
}

bool jobs_place_entry(struct node *node, struct job *job, uint32_t shard, const struct result_item *item)
{
    struct entry entry;
    bool good = true;
    if (!entry_decode(item->bytes, item->count, &entry))
        abort(); /* was checked before it was committed */
    if (verify_compares(job))
        verify_committed(node, job, shard, &entry);
    for (uint32_t o = 0; o < entry.output_count; o++) {
        const struct entry_output *output = &entry.output[o];
        if (output->bytes) {
            job_assemble(job, o, shard, output->bytes, output->count);
            continue;
        }
        uint8_t *buffer = malloc(output->count);
        must(buffer);
        const enum store_error error =
            store_blob_read(node->store, output->blob.bytes, 0, output->count, buffer);
        if (error == STORE_OK) {
            job_assemble(job, o, shard, buffer, output->count);
        } else {
            good = false;
            log_error("job", "job=%s shard=%u error=\"a committed output cannot be read: %s\"",
                      peer_name(node, &job->spec.id), shard, store_error_text(error));
        }
        free(buffer);
    }
    return good;
}

/* Results that are being written into the cache. */
struct remembering {
    bool publish;
    uint32_t count;
    struct digest keys[];
};

/* The owners hear of them once they are here for whoever asks next. */
static void on_remembered(struct node *node, void *context, enum store_error error)
{
    struct remembering *remembering = context;
    if (error == STORE_OK && remembering->publish && remembering->count > 0)
        cache_publish(node, remembering->keys, remembering->count);
    free(remembering);
}

/* The results are worth remembering. Best effort, so nobody waits for it. */
static void remember(struct node *node, struct job *job, const struct mesh_save *save,
                     const struct result_item *items)
{
    struct store_batch *batch = node_batch(node);
    struct remembering *remembering =
        malloc(sizeof *remembering + save->body.commit.count * sizeof *remembering->keys);
    must(remembering);
    *remembering = (struct remembering){.publish = job->spec.cache == JOB_CACHE_MESH};
    const struct provenance provenance = {.executor = save->body.commit.executor,
                                          .level = job->spec.verify,
                                          .class = job->spec.manifest->class,
                                          .at_ms = clock_wall_ms()};
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const struct result_item *item = &items[save->body.commit.shard[i].place];
        struct entry entry;
        uint8_t blobs[MANIFEST_OUTPUTS_MAX][32];
        if (!entry_decode(item->bytes, item->count, &entry))
            continue;
        static uint8_t bytes[PROVENANCE_BYTES + ENTRY_BYTES_MAX];
        provenance_encode(&provenance, item->bytes, item->count, bytes);
        const struct store_entry row = {.bytes = bytes,
                                        .count = PROVENANCE_BYTES + item->count,
                                        .blobs = blobs,
                                        .blob_count = entry_blobs(&entry, blobs)};
        const struct digest *key = &job->keys[save->body.commit.shard[i].shard];
        store_batch_cache(batch, key->bytes, &row);
        remembering->keys[remembering->count++] = *key;
    }
    node_commit(node, batch, on_remembered, remembering);
}

static void committed(struct node *node, const struct mesh_save *save, const struct bytes *bytes)
{
    struct job *job = jobs_find(node, &save->body.commit.job);
    if (!job || job->state > JOB_ASSEMBLING)
        return;
    static struct result_item items[MESH_LOOKUP_SHARDS_MAX];
    const int count = result_decode(bytes, items, MESH_LOOKUP_SHARDS_MAX);
    assert(count >= 0);
    for (uint32_t i = 0; i < save->body.commit.count; i++)
        if (!jobs_place_entry(node, job, save->body.commit.shard[i].shard,
                              &items[save->body.commit.shard[i].place]))
            job->damaged = true;
    job->committed += save->body.commit.count;
    job->keep_error = STORE_OK;
    if (save->body.commit.cached)
        job->cached += save->body.commit.count;
    else
        jobs_count_share(job, &save->body.commit.executor, save->body.commit.count,
                         save->body.commit.device_us);
    if (job->keys && !save->body.commit.cached)
        remember(node, job, save, items);
    if (job->ends && job->committed == job->spec.shard_count)
        jobs_assemble(node, job);
}

void jobs_saved(struct node *node, const struct mesh_save *save, const struct bytes *bytes)
{
    struct job *job = save->kind == MESH_SAVE_JOB ? jobs_find(node, &save->body.job.id) : NULL;
    if (job)
        jobs_let_inputs_go(node, job);
    if (save->kind == MESH_SAVE_COMMIT)
        committed(node, save, bytes);
}
