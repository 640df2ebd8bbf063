/*
 * Jobs at their home: from a submit to durable outputs. See node/job.h for a job's life.
 *
 * Blobs that a result names are in our store and pinned by the job before the core hears of the result; so
 * what the journal names can't be evicted. When the outputs stand, those pins give way to pins on inputs and
 * outputs.
 */
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/user_kernels.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRUNE_EVERY_MS 60000
#define FORGET_AFTER_MS 10000
#define ASSEMBLE_AGAIN_MS 5000
#define GO_ON_AGAIN_MS 5000
#define TELL_AFTER_MS 2000 /* a submit that is not acknowledged by then is told what it waits for */
#define TELL_EVERY_MS 1000
#define JOBS_TENDED_MAX 1024 /* finished jobs that the core keeps because a member of their journal is away */
#define OUTPUT_ON_LOOP_BYTES                                                                                 \
    (1u << 20) /* outputs up to this size, together, are put together on the loop's thread */

/* ---- The table */

static struct job **bucket_of(struct node *node, const struct mesh_id *id)
{
    return &node->jobs.bucket[jobs_bucket(id)];
}

struct job *jobs_find(struct node *node, const struct mesh_id *id)
{
    struct job *job = *bucket_of(node, id);
    while (job && memcmp(&job->spec.id, id, sizeof *id) != 0)
        job = job->chain;
    return job;
}

static void add(struct node *node, struct job *job)
{
    struct job **bucket = bucket_of(node, &job->spec.id);
    job->chain = *bucket;
    *bucket = job;
    *node->jobs.tail = job;
    node->jobs.tail = &job->next;
    node->jobs.count++;
}

static void take_out(struct node *node, struct job *job)
{
    struct job **link = bucket_of(node, &job->spec.id);
    while (*link != job)
        link = &(*link)->chain;
    *link = job->chain;
    link = &node->jobs.head;
    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    if (!*link)
        node->jobs.tail = link;
    node->jobs.count--;
}

void jobs_open(struct node *node)
{
    node->jobs.tail = &node->jobs.head;
}

void jobs_close(struct node *node)
{
    while (node->jobs.head) {
        struct job *job = node->jobs.head;
        node->jobs.head = job->next;
        job_free(job);
    }
}

/* ---- Submit */

struct preparing {
    struct background_task task; /* first */
    struct node *node;
    struct job *job;
    struct job_wish wish;
    struct store_batch *inputs; /* blobs that rode in its journal, to be stored first; NULL = none */
    bool good;
    int exit_code;
};

static void run_prepare(struct background_task *task)
{
    struct preparing *preparing = (struct preparing *)task;
    struct job *job = preparing->job;
    const enum store_error error =
        preparing->inputs ? store_commit_wait(preparing->node->store, preparing->inputs) : STORE_OK;
    if (error != STORE_OK) {
        snprintf(job->error, sizeof job->error, "an input cannot be stored at %s: %s", preparing->wish.home,
                 store_error_text(error));
        return;
    }
    preparing->good = job_prepare(preparing->job, &preparing->wish, preparing->node->store,
                                  preparing->node->scratch, &preparing->exit_code);
}

/* As the core names it; users' kernels are told from ours by it. */
static uint64_t kernel_hash(const struct job *job)
{
    const uint64_t hash = digest_hash(&job->spec.kernel);
    return job->spec.manifest->user ? mesh_user_kernel(hash) : hash;
}

static void add_broadcast(struct mesh_job_spec *spec, const struct job_input *input)
{
    if (input->role != MANIFEST_BROADCAST)
        return;
    spec->memory_bytes += input->data_bytes;
    if (input->data_bytes <= spec->broadcast_bytes)
        return;
    spec->broadcast_bytes = input->data_bytes;
    spec->broadcast = capacity_resident_name(input->blob.bytes);
}

static struct mesh_job_spec core_spec(const struct job *job)
{
    const struct job_spec *spec = &job->spec;
    struct mesh_job_spec out = {.id = spec->id,
                                .epoch = job->epoch,
                                .tenant = name_hash(spec->tenant),
                                .kernel = kernel_hash(job),
                                .shard_count = spec->shard_count,
                                .bundle_shards_max = job_bundle_shards(job),
                                .shard_us_guess = job->shard_us_guess,
                                .classes = (1u << MESH_DEVICE_CLASSES) - 1,
                                .copies = (uint8_t)job->copies,
                                .copies_min = (uint8_t)job->copies_min,
                                .lookup_shards_max = job->copies > 1 ? job_lookup_shards(job) : 0,
                                .lookup = spec->cache != JOB_CACHE_OFF,
                                .local_only = spec->local_only,
                                .speculate = true,
                                .verify = (uint8_t)spec->verify,
                                .verify_permille = (uint16_t)spec->verify_permille,
                                .tolerant = verify_compares(job)};
    const struct user_kernel *user = user_kernel_of(spec->manifest);
    if (user && user->language == MANIFEST_PTX)
        out.classes = (uint16_t)(out.classes & ~1u); /* for no CPU */
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        add_broadcast(&out, &spec->inputs[i]);
    return out;
}

static void add_submitter(struct node *node, struct job *job, struct api_call *call, bool existing)
{
    struct job_submitter *submitter = malloc(sizeof *submitter);
    must(submitter);
    *submitter = (struct job_submitter){
        .call = call, .existing = existing, .tell_at_ms = clock_now_ms() + TELL_AFTER_MS};
    node->jobs.submitters++;
    struct job_submitter **link = &job->submitters;
    while (*link)
        link = &(*link)->next;
    *link = submitter;
}

/* The next one to be answered; NULL = none. */
static struct api_call *next_submitter(struct node *node, struct job *job, bool *existing)
{
    struct job_submitter *submitter = job->submitters;
    if (!submitter)
        return NULL;
    struct api_call *call = submitter->call;
    *existing = submitter->existing;
    job->submitters = submitter->next;
    node->jobs.submitters--;
    free(submitter);
    return call;
}

/* The job is durable. */
static void acknowledge(struct node *node, struct job *job)
{
    bool existing;
    struct api_call *call;
    while ((call = next_submitter(node, job, &existing)))
        submit_accepted(node, call, job, existing);
}

void jobs_submitter_gone(struct node *node, const struct api_call *call)
{
    for (struct job *job = node->jobs.head; job; job = job->next)
        for (struct job_submitter **link = &job->submitters; *link; link = &(*link)->next)
            if ((*link)->call == call) {
                struct job_submitter *submitter = *link;
                *link = submitter->next;
                node->jobs.submitters--;
                free(submitter);
                return;
            }
}

static void turn_away(struct node *node, struct job *job, enum exit_code code, const char *text)
{
    bool existing;
    struct api_call *call;
    while ((call = next_submitter(node, job, &existing)))
        api_error(call, code, "%s", text);
}

static void refuse(struct node *node, struct job *job, enum exit_code code, const char *text)
{
    turn_away(node, job, code, text);
    take_out(node, job);
    job_free(job);
}

static void to_core(struct node *node, struct job *job)
{
    host_post(node, &(struct mesh_event){.kind = MESH_SUBMIT, .body.submit = core_spec(job)});
}

static void begin(struct node *node, struct job *job);

static void on_prepared(struct background_task *task)
{
    struct preparing *preparing = (struct preparing *)task;
    struct node *node = preparing->node;
    struct job *job = preparing->job;
    job->preparing = false;
    if (!preparing->good) {
        refuse(node, job, (enum exit_code)preparing->exit_code, job->error);
    } else if (!job->keyed) {
        begin(node, job);
    } else {
        if (!relay_claim(node, &job->spec.id))
            refuse(node, job, EXIT_FAILED, "too many calls about jobs of other nodes at once; try again");
    }
    free(preparing);
}

static void begin(struct node *node, struct job *job)
{
    if (job->keys && job->spec.shard_count > 1 && /* one shard's own key is as good */
        job->copies_min < 2)                      /* such a job is kept here alone */
        cache_lookup_whole(node, &job->spec.id);
    else
        to_core(node, job);
}

void jobs_claimed(struct node *node, const struct mesh_id *id, bool taken)
{
    struct job *job = jobs_find(node, id);
    if (!job || !job->undecided)
        return;
    job->undecided = false;
    const struct copy *copy = copies_find(node, id);
    if (!taken && !job->yields && !copy) {
        begin(node, job);
        return;
    }
    const struct digest request = job_request(job);
    bool existing;
    take_out(node, job);
    struct api_call *call;
    while ((call = next_submitter(node, job, &existing)))
        if (api_remote_site(call))
            api_error(call, EXIT_UNREACHABLE, "another node takes the job");
        else
            relay_accept(node, call, id, &request);
    job_free(job);
}

/* Inputs that ride in its journal become blobs of this store before the job is prepared, as at its first home. */
static bool unpack_inputs(void *context, const struct copies_entry_view *view)
{
    struct preparing *const preparing = context;
    struct first_entry entry;
    struct store_blob_info info;
    struct digest id;
    struct job *const described = first_entry_decode(view->bytes, view->count, &entry);
    if (!described)
        return false;
    job_free(described);
    for (uint32_t i = 0; i < entry.input_count; i++) {
        const struct digest *const blob = &preparing->job->spec.inputs[i].blob;
        if (!entry.input[i].bytes ||
            (store_blob_stat(preparing->node->store, blob->bytes, &info) == STORE_OK && info.pinned))
            continue;
        if (!preparing->inputs)
            preparing->inputs = node_batch(preparing->node);
        store_batch_blob(preparing->inputs, entry.input[i].bytes, entry.input[i].count, id.bytes);
        store_batch_pin(preparing->inputs, id.bytes, preparing->job->spec.id.bytes);
    }
    return false;
}

static void prepare(struct node *node, struct job *job, const struct job_wish *wish,
                    void (*done)(struct background_task *task))
{
    struct preparing *preparing = calloc(1, sizeof *preparing);
    must(preparing);
    *preparing = (struct preparing){.node = node, .job = job, .wish = *wish};
    snprintf(preparing->wish.home, sizeof preparing->wish.home, "%s", peer_name(node, &node->self));
    preparing->task.run = run_prepare;
    preparing->task.done = done;
    job->preparing = true;
    if (copies_find(node, &job->spec.id))
        copies_read(node, &job->spec.id, 1, unpack_inputs, preparing);
    background_add(node->background, &preparing->task);
}

/* Not at once: whoever waits for its end is told first. */
static bool may_forget(const struct job *job)
{
    return job->state >= JOB_DONE && job->finished_at_ms < clock_wall_ms() - FORGET_AFTER_MS;
}

/* A finished job's row and its pins go, and with them its outputs once the cache needs their room. */
static void forget(struct node *node, struct job *job)
{
    struct store_batch *batch = node_batch(node);
    store_batch_delete(batch, STORE_JOBS, job->spec.id.bytes, sizeof job->spec.id.bytes);
    node_commit(node, batch, NULL, NULL);
    node->jobs.tended -= job->tended;
    copies_sweep(node, &job->spec.id, true);
    copies_forget(node, &job->spec.id);
    take_out(node, job);
    job_free(job);
}

static bool forget_oldest(struct node *node)
{
    struct job *job = node->jobs.head;
    while (job && !may_forget(job))
        job = job->next;
    if (job)
        forget(node, job);
    return job != NULL;
}

/* Whether two submits under one key ask for the same. */
static bool same_request(const struct job *a, const struct job *b)
{
    const struct digest one = job_request(a), other = job_request(b);
    return digest_equal(&one, &other);
}

static void refuse_key(struct node *node, const struct job *known, struct api_call *call)
{
    api_error(call, EXIT_USAGE, "key '%s' names another job already, %.8s; give this one a key of its own",
              known->spec.key, peer_name(node, &known->spec.id));
}

static void accept_again(struct node *node, struct job *known, struct api_call *call)
{
    if (known->state == JOB_PREPARING ||
        known->submitters) /* not durable yet: it shares the first one's fate */
        add_submitter(node, known, call, true);
    else
        submit_accepted(node, call, known, true);
}

void jobs_accepted(struct node *node, struct job *job, const char *request, struct api_call *call)
{
    const struct digest ours = job_request(job);
    struct digest theirs;
    if (request && digest_from_hex(request, &theirs) == CRYPTO_OK && digest_equal(&ours, &theirs))
        accept_again(node, job, call);
    else
        refuse_key(node, job, call);
}

void jobs_submit(struct node *node, struct job *job, const struct job_wish *wish, struct api_call *call)
{
    struct job *known = jobs_find(node, &job->spec.id);
    if (known) {
        if (call && !same_request(job, known))
            refuse_key(node, known, call);
        else if (call)
            accept_again(node, known, call);
        job_free(job);
        return;
    }
    if (node->jobs.count >= JOBS_KEPT_MAX && !forget_oldest(node)) {
        if (call)
            api_error(call, EXIT_FAILED, "this node drives %u jobs already; submit at another one",
                      JOBS_KEPT_MAX);
        job_free(job);
        return;
    }
    job->state = JOB_PREPARING;
    job->epoch = 1;
    job->undecided = job->keyed;
    if (call)
        add_submitter(node, job, call, false);
    add(node, job);
    prepare(node, job, wish, on_prepared);
}

void jobs_refuse(struct node *node, const struct mesh_id *id, enum store_error error)
{
    struct job *job = jobs_find(node, id);
    if (!job || job->state != JOB_PREPARING)
        return;
    char text[JOB_ERROR_BYTES];
    snprintf(text, sizeof text, "the job was not taken: %s at %s; free some space and submit it again",
             store_error_text(error), peer_name(node, &node->self));
    refuse(node, job, EXIT_FAILED, text);
    host_post(node, &(struct mesh_event){.kind = MESH_CANCEL_JOB, .body.job.id = *id});
    host_post(node, &(struct mesh_event){.kind = MESH_FORGET_JOB, .body.job.id = *id});
}

bool jobs_cancel(struct node *node, struct job *job)
{
    if (job->again_at_ms) { /* the core doesn't have it yet */
        if (copies_find(node, &job->spec.id))
            return false;
        node->jobs.again--;
        job->again_at_ms = 0;
        jobs_on_state(node, &job->spec.id, MESH_ACCEPTED, MESH_JOB_CANCELLED);
        return true;
    }
    host_post(node, &(struct mesh_event){.kind = MESH_CANCEL_JOB, .body.job.id = job->spec.id});
    return true;
}

/* ---- What the core saves */

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

static void put_row(struct store_batch *batch, const struct job *job)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    const size_t count = job_row_encode(job, row, sizeof row);
    assert(count > 0);
    store_batch_put(batch, STORE_JOBS, job->spec.id.bytes, sizeof job->spec.id.bytes, row, count);
}

static void pin_inputs(struct store_batch *batch, const struct job *job)
{
    const struct user_kernel *user = user_kernel_of(job->spec.manifest);
    if (user)
        store_batch_pin(batch, user->source.bytes, job->spec.id.bytes);
    for (uint32_t i = 0; i < job->spec.manifest->input_count; i++)
        if (job->spec.inputs[i].role)
            store_batch_pin(batch, job->spec.inputs[i].blob.bytes, job->spec.id.bytes);
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

/* FAILED or CANCELLED. */
static void set_ended(struct job *job, enum mesh_job_state state)
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
        pin_inputs(batch, job);
        if (save->body.job.place.index)
            break; /* the first entry of its journal holds the row */
        job->state = JOB_PREPARING;
        job->epoch = save->body.job.epoch;
        job->copies = 1;
        put_row(batch, job);
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
        set_ended(job, save->body.job.state);
        put_row(batch, job);
        break;
    default:
        break;
    }
}

/* A node's row of a job; those beyond JOB_NODES_MAX share one that nobody sees. */
static struct job_node_share *share_of(struct job *job, const struct mesh_id *member)
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

static void count_share(struct job *job, const struct mesh_id *executor, uint32_t shards, uint64_t device_us)
{
    struct job_node_share *share = share_of(job, executor);
    share->shards += shards;
    share->device_us += device_us;
}

/* Copies one committed shard's outputs to their places; false if one of them can't be read back. */
static bool place_entry(struct node *node, struct job *job, uint32_t shard, const struct result_item *item)
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

static void assemble(struct node *node, struct job *job);

void jobs_saved(struct node *node, const struct mesh_save *save, const struct bytes *bytes)
{
    if (save->kind != MESH_SAVE_COMMIT)
        return;
    struct job *job = jobs_find(node, &save->body.commit.job);
    if (!job || job->state > JOB_ASSEMBLING)
        return;
    static struct result_item items[MESH_LOOKUP_SHARDS_MAX];
    const int count = result_decode(bytes, items, MESH_LOOKUP_SHARDS_MAX);
    assert(count >= 0);
    for (uint32_t i = 0; i < save->body.commit.count; i++)
        if (!place_entry(node, job, save->body.commit.shard[i].shard,
                         &items[save->body.commit.shard[i].place]))
            job->damaged = true;
    job->committed += save->body.commit.count;
    job->keep_error = STORE_OK;
    if (save->body.commit.cached)
        job->cached += save->body.commit.count;
    else
        count_share(job, &save->body.commit.executor, save->body.commit.count, save->body.commit.device_us);
    if (job->keys && !save->body.commit.cached)
        remember(node, job, save, items);
    if (job->ends && job->committed == job->spec.shard_count)
        assemble(node, job);
}

/* ---- Outputs */

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

static void end(struct node *node, struct job *job)
{
    char quoted[2 * JOB_ERROR_BYTES];
    static const char *const words[] = {"", "preparing", "running", "running", "done", "failed", "cancelled"};
    log_info("job", "job=%s state=%s shards=%u cached=%u error=%s", peer_name(node, &job->spec.id),
             words[job->state], job->committed, job->cached, log_quote(job->error, quoted, sizeof quoted));
    acknowledge(node, job);
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
        end(node, job);
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
    job->state = JOB_DONE;
    job->finished_at_ms = clock_wall_ms();
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        store_batch_pin(finishing->batch, job->output_blob[o].bytes, job->spec.id.bytes);
    put_row(finishing->batch, job);
    job->state = JOB_ASSEMBLING; /* nobody hears of it before the row and the outputs are durable */
    struct store_batch *batch = finishing->batch;
    node_commit(node, batch, on_finished, finishing);
}

static void go_on_later(struct node *node, struct job *job, const char *why);

/* What was committed can't be read back, so the outputs would be wrong. Other members of the journal have it too; a job of
 * a single copy fails. */
static void spoilt(struct node *node, struct job *job)
{
    static const char why[] = "a committed output cannot be read back from its home's disk";
    if (copies_find(node, &job->spec.id)) {
        job->state = JOB_PREPARING;
        go_on_later(node, job, why);
        return;
    }
    snprintf(job->error, sizeof job->error, "%s: look at that disk, and submit the job again", why);
    job->state = JOB_FAILED;
    job->finished_at_ms = clock_wall_ms();
    struct store_batch *batch = node_batch(node);
    put_row(batch, job);
    store_batch_unpin_all(batch, job->spec.id.bytes);
    node_commit(node, batch, NULL, NULL);
    end(node, job);
}

static void assemble(struct node *node, struct job *job)
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

static void on_whole_saved(struct node *node, void *context, enum store_error error)
{
    struct job *job = context;
    if (error !=
        STORE_OK) { /* an input or output was evicted in between, or the disk is full: the core may do better */
        job->state = JOB_PREPARING;
        job->committed = job->cached = 0;
        to_core(node, job);
        return;
    }
    job->state = JOB_DONE;
    end(node, job);
}

void jobs_on_whole(struct node *node, const struct mesh_id *id, const struct entry *outputs)
{
    struct job *job = jobs_find(node, id);
    if (!job)
        return;
    if (!outputs) {
        to_core(node, job);
        return;
    }
    for (uint32_t o = 0; o < outputs->output_count; o++) {
        job->output_blob[o] = outputs->output[o].blob;
        job->output_bytes[o] = outputs->output[o].count;
    }
    job->committed = job->cached = job->spec.shard_count;
    job->copies = 1;
    job->state = JOB_DONE;
    job->finished_at_ms = clock_wall_ms();
    struct store_batch *batch = node_batch(node);
    pin_inputs(batch, job);
    put_row(batch, job);
    job->state = JOB_PREPARING; /* nobody hears of it before it is durable */
    node_commit(node, batch, on_whole_saved, job);
}

/* Another node is its home now; we keep our copy of the journal. What has ended stays ended. */
static void leave(struct node *node, struct job *job)
{
    if (job->state >= JOB_ASSEMBLING || job->ends)
        return;
    log_info("job", "job=%s state=moved", peer_name(node, &job->spec.id));
    turn_away(node, job, EXIT_PARTIAL, "the job has moved to another home; `weir jobs` finds it");
    if (job->preparing) {
        job->moved = true;
        return;
    }
    cache_job_over(node, &job->spec.id, false);
    node->jobs.again -= job->again_at_ms != 0;
    take_out(node, job);
    job_free(job);
}

void jobs_on_state(struct node *node, const struct mesh_id *id, enum mesh_refusal refusal,
                   enum mesh_job_state state)
{
    static const char *const refusals[] = {"",
                                           "this node has too many jobs or shards in hand; try again later",
                                           "the job has more shards than a node takes; raise --shard-items",
                                           "this node is draining; submit at another one",
                                           "the job has no items",
                                           "too few nodes are up for the copies that the job insists on"};
    struct job *job = jobs_find(node, id);
    if (!job)
        return;
    if (refusal != MESH_ACCEPTED && job->read_back) { /* acknowledged long ago: it waits for room */
        go_on_later(node, job, refusals[refusal]);
        return;
    }
    if (refusal != MESH_ACCEPTED) {
        refuse(node, job, refusal == MESH_REFUSED_EMPTY ? EXIT_USAGE : EXIT_FAILED, refusals[refusal]);
        return;
    }
    switch (state) {
    case MESH_JOB_RUNNING:
        if (job->state == JOB_PREPARING)
            job->state = JOB_RUNNING;
        acknowledge(node, job);
        break;
    case MESH_JOB_DONE:
        /* Others may hold the last results before we do. */
        job->ends = job->state <= JOB_RUNNING;
        if (job->ends && job->committed == job->spec.shard_count)
            assemble(node, job);
        break;
    case MESH_JOB_FAILED:
    case MESH_JOB_CANCELLED: {
        if (job->state <= JOB_RUNNING) {
            set_ended(job, state);
            struct store_batch *batch = node_batch(node);
            put_row(batch, job);
            node_commit(node, batch, NULL, NULL);
        }
        end(node, job);
        break;
    }
    case MESH_JOB_MOVED:
        leave(node, job);
        break;
    }
}

/* Why this node: what it offered when it was asked, and how far away it is. */
static void note_choice(struct node *node, const struct job *job, struct job_decision *one)
{
    for (uint32_t d = job->decision_count; d > 0 && one->why != MESH_WHY_RESERVED; d--) {
        const struct job_decision *asked = &job->decision[d - 1];
        if (asked->why != MESH_WHY_RESERVED || memcmp(&asked->node, &one->node, sizeof one->node) != 0)
            continue;
        one->free_slots = asked->free_slots;
        one->holds = asked->holds;
        one->rtt_us = asked->rtt_us;
        return;
    }
    struct mesh_member_view view;
    if (!mesh_member_find(node->host.mesh, &one->node, &view))
        return;
    one->rtt_us = view.rtt_us;
    for (int c = 0; c < MESH_DEVICE_CLASSES; c++)
        one->free_slots += view.capacity.class[c].free;
    const struct mesh_job_spec spec = core_spec(job);
    for (uint32_t i = 0; spec.broadcast_bytes > 0 && i < view.capacity.resident_count; i++)
        one->holds = one->holds || view.capacity.resident[i] == spec.broadcast;
}

/* How many shards a node has in its hands, for `weir explain`. */
static void count_in_hand(struct job *job, const struct mesh_id *member, enum mesh_reason why, uint32_t count)
{
    switch (why) {
    case MESH_WHY_ASSIGNED:
    case MESH_WHY_SPECULATED:
    case MESH_WHY_CHECKING:
        share_of(job, member)->in_hand += count;
        break;
    case MESH_WHY_DONE:
    case MESH_WHY_RETURNED:
    case MESH_WHY_CRASHED:
    case MESH_WHY_REJECTED:
    case MESH_WHY_MEMBER_DOWN:
    case MESH_WHY_RESTARTED:
    case MESH_WHY_EXPIRED:
    case MESH_WHY_LEASE_ENDED:
    case MESH_WHY_OVERTAKEN:
    case MESH_WHY_AGREES:
    case MESH_WHY_DIFFERS:
    case MESH_WHY_QUARANTINED:
    case MESH_WHY_DOUBTED: {
        struct job_node_share *share = share_of(job, member);
        share->in_hand -= count < share->in_hand ? count : share->in_hand;
        break;
    }
    default:
        break;
    }
}

void jobs_on_disputed(struct node *node, const struct mesh_id *id, uint32_t count)
{
    struct job *job = jobs_find(node, id);
    if (!job)
        return;
    job->disputed += count;
    log_warn("job", "job=%s disputed=%u reason=\"committed results proved wrong; they stay as they are\"",
             peer_name(node, id), job->disputed);
    if (job->state == JOB_PREPARING || (job->state < JOB_DONE && copies_find(node, id)))
        return; /* its row is written when it ends */
    struct store_batch *batch = node_batch(node);
    put_row(batch, job);
    node_commit(node, batch, NULL, NULL);
}

void jobs_on_decision(struct node *node, const struct mesh_id *id, const struct mesh_id *member,
                      enum mesh_reason why, uint32_t shard, uint32_t count)
{
    struct job *job = jobs_find(node, id);
    if (!job)
        return;
    struct job_decision one = {
        .at_ms = clock_wall_ms(), .node = *member, .why = why, .shard = shard, .count = count, .times = 1};
    if (why == MESH_WHY_RESERVED || why == MESH_WHY_ASSIGNED || why == MESH_WHY_SPECULATED ||
        why == MESH_WHY_CHECKING)
        note_choice(node, job, &one);
    if (why == MESH_WHY_ASSIGNED && job->first_assign) {
        job->first_assign = false;
        log_info("job", "job=%s state=resumed node=%s", peer_name(node, id), peer_name(node, member));
    }
    if ((why == MESH_WHY_CRASHED || why == MESH_WHY_REJECTED) && job->last_error[0]) {
        const char *place =
            strstr(job->last_error, ": "); /* "shard 3 at osaka: ", which the decision says itself */
        one.reason = strdup(place ? place + 2 : job->last_error);
        must(one.reason);
    } else if (why == MESH_WHY_RETURNED && job->last_return[0]) {
        one.reason = strdup(job->last_return);
        must(one.reason);
    }
    job_decide(job, &one);
    count_in_hand(job, member, why, count);
    struct mesh_job_view view;
    /* Where the kernel refused, the job fails: what that result left undone is queued, and goes nowhere. */
    if (why != MESH_WHY_REJECTED && mesh_job_find(node->host.mesh, id, &view))
        job->reassigned = view.reassigned;
}

struct bytes *jobs_assign_payload(struct node *node, const struct mesh_message *message)
{
    const struct job *job = jobs_find(node, &message->body.assign.job);
    if (!job || job->state > JOB_RUNNING)
        return NULL;
    return assign_encode(job, message->body.assign.shard, message->body.assign.count);
}

/* ---- Results */

struct result_wait {
    struct result_wait *next;
    struct mesh_id from;
    struct mesh_message *message;
    struct bytes *payload;
    uint32_t fetching;
    bool failed;
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

static void result_advance(struct node *node, struct result_wait *wait)
{
    if (wait->fetching > 0)
        return;
    if (wait->failed) {
        result_free(node, wait);
        return;
    }
    struct store_batch *batch = wait->batch;
    wait->batch = NULL;
    node_commit(node, batch, on_pinned, wait);
}

static void on_blob(struct node *node, void *context, const struct bulk_done *done)
{
    struct result_wait *wait = context;
    wait->fetching--;
    if (done->error != BULK_OK) {
        wait->failed = true;
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

/* ---- Start */

struct job_wish jobs_wish(const struct job *job)
{
    struct job_wish wish = {.items = job->spec.items,
                            .shard_items = job->spec.shard_items,
                            .output_bytes_max = UINT64_MAX}; /* it was taken */
    for (uint32_t i = 0; i < job->spec.manifest->input_count; i++) {
        const struct job_input *input = &job->spec.inputs[i];
        if (input->type.dtype == ARRAY_TEXT)
            wish.format[i] = JOB_FORMAT_TEXT;
        else if (input->data_offset > 0)
            wish.format[i] = JOB_FORMAT_NPY;
        else
            wish.format[i] = JOB_FORMAT_RAW;
        if (wish.format[i] == JOB_FORMAT_RAW && input->type.rank > 1)
            wish.row_bytes[i] = input->type.shape[1];
    }
    return wish;
}

struct replay {
    struct node *node;
    struct job *job;
};

/* Whose word the shard is, for the core: if who brought it is caught, it is to be checked. */
static void note_bringer(struct replay *replay, const struct journal_row *row, uint32_t item)
{
    struct job *job = replay->job;
    if (!job->brought || row->cached)
        return;
    share_of(job, &row->executor);
    const uint32_t shard = row->item[item].shard;
    for (uint32_t i = 0; i < job->share_count; i++)
        if (memcmp(&job->share[i].node, &row->executor, sizeof row->executor) == 0)
            job->brought[shard] = (struct mesh_brought){
                .by = i + 1, .digest = verify_digest_of(replay->node, job, shard, &row->item[item].entry)};
}

static void replay_dispute(struct job *job, const struct journal_row *row)
{
    for (uint32_t i = 0; i < row->count; i++) {
        const uint32_t shard = row->item[i].shard;
        job->disputed += shard < job->spec.shard_count;
        if (job->brought && shard < job->spec.shard_count)
            job->brought[shard].by = 0;
    }
}

static void replay_commit(struct replay *replay, const void *bytes, size_t count)
{
    struct job *job = replay->job;
    static struct journal_row row;
    if (!journal_row_decode(bytes, count, &row))
        return;
    if (row.disputes) {
        replay_dispute(job, &row);
        return;
    }
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < row.count; i++) {
        const uint32_t shard = row.item[i].shard;
        if (shard >= job->spec.shard_count || (job->committed_bits[shard / 8] & 1u << shard % 8))
            continue;
        if (!place_entry(replay->node, job, shard, &row.item[i].entry)) {
            job->damaged = true; /* not committed, as far as this disk can tell */
            continue;
        }
        job->committed_bits[shard / 8] = (uint8_t)(job->committed_bits[shard / 8] | 1u << shard % 8);
        note_bringer(replay, &row, i);
        fresh++;
    }
    job->committed += fresh;
    if (row.cached)
        job->cached += fresh;
    else
        count_share(job, &row.executor, fresh, row.device_us);
}

static bool replay_row(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    replay_commit(context, value, value_bytes);
    return true;
}

static bool replay_entry(void *context, const struct copies_entry_view *view)
{
    if (view->kind == MESH_ENTRY_COMMIT || view->kind == MESH_ENTRY_DISPUTE)
        replay_commit(context, view->bytes, view->count);
    return true;
}

/* What is committed, from the journal, and the results to their places. */
static void replay_journal(struct node *node, struct job *job)
{
    job->committed = job->cached = job->share_count = job->disputed = 0;
    free(job->committed_bits);
    job->committed_bits = calloc(1, ((size_t)job->spec.shard_count + 7) / 8);
    must(job->committed_bits);
    free(job->brought);
    job->brought = NULL;
    if (job->spec.verify == MESH_VERIFY_SPOT) {
        job->brought = calloc(job->spec.shard_count, sizeof *job->brought);
        must(job->brought);
    }
    struct replay replay = {.node = node, .job = job};
    const struct store_range range = {.prefix = job->spec.id.bytes,
                                      .prefix_bytes = sizeof job->spec.id.bytes};
    if (copies_find(node, &job->spec.id))
        copies_read(node, &job->spec.id, 1, replay_entry, &replay);
    else
        store_each(node->store, STORE_JOURNAL, &range, replay_row, &replay);
}

/* What it points to is the job's, and stays until the job is released. */
static void post_restore(struct node *node, struct job *job)
{
    free(job->bringer);
    job->bringer = calloc(job->share_count + 1, sizeof *job->bringer);
    must(job->bringer);
    for (uint32_t i = 0; i < job->share_count; i++)
        job->bringer[i] = job->share[i].node;
    host_post(node, &(struct mesh_event){.kind = MESH_RESTORE,
                                         .body.restore = {.spec = core_spec(job),
                                                          .committed = job->committed_bits,
                                                          .brought = job->brought,
                                                          .bringer = job->bringer,
                                                          .bringer_count = job->share_count}});
}

static void on_epoch_saved(struct node *node, void *context, enum store_error error)
{
    struct job *job = context;
    if (error != STORE_OK) {
        log_error("job", "job=%s error=\"cannot go on: %s\"", peer_name(node, &job->spec.id),
                  store_error_text(error));
        turn_away(node, job, EXIT_FAILED, store_error_text(error));
        return;
    }
    job->state = JOB_RUNNING;
    acknowledge(node, job);
    post_restore(node, job);
}

/* A disk lost something, or is full: what was acknowledged waits until it has it again. */
static void go_on_later(struct node *node, struct job *job, const char *why)
{
    char text[sizeof job->error];
    snprintf(text, sizeof text, "%s", why);
    snprintf(job->last_error, sizeof job->last_error, "%s", text);
    job->error[0] = '\0';
    job->again_at_ms = clock_now_ms() + GO_ON_AGAIN_MS;
    node->jobs.again++;
    log_error("job", "job=%s error=\"cannot go on here, it is tried again: %s\"",
              peer_name(node, &job->spec.id), text);
}

static void on_restored(struct background_task *task)
{
    struct preparing *preparing = (struct preparing *)task;
    struct node *node = preparing->node;
    struct job *job = preparing->job;
    const bool good = preparing->good;
    free(preparing);
    job->preparing = false;
    if (!good) {
        go_on_later(node, job, job->error);
        return;
    }
    replay_journal(node, job);
    job->damaged = false; /* nobody else has what was lost: it is computed again */
    job->epoch++;
    log_info("job", "job=%s state=restored shards=%u committed=%u epoch=%llu", peer_name(node, &job->spec.id),
             job->spec.shard_count, job->committed, (unsigned long long)job->epoch);
    struct store_batch *batch = node_batch(node);
    put_row(batch, job);
    node_commit(node, batch, on_epoch_saved, job);
}

/* ---- Takeover */

static void on_taken_over(struct background_task *task)
{
    struct preparing *preparing = (struct preparing *)task;
    struct node *node = preparing->node;
    struct job *job = preparing->job;
    const bool good = preparing->good;
    free(preparing);
    job->preparing = false;
    if (job->moved) {
        take_out(node, job);
        job_free(job);
        return;
    }
    if (good)
        replay_journal(node, job);
    if (!good || job->damaged) { /* others have it too, and it may get room */
        go_on_later(node, job, good ? "a committed output cannot be read" : job->error);
        return;
    }
    job->first_assign = true;
    log_info("job", "job=%s state=taken_over shards=%u committed=%u epoch=%llu",
             peer_name(node, &job->spec.id), job->spec.shard_count, job->committed,
             (unsigned long long)job->epoch);
    const struct copy *copy = copies_find(node, &job->spec.id);
    if (copy && (copy->end || copy->over)) {
        acknowledge(node, job);
        assemble(node, job);
        return;
    }
    post_restore(node, job);
}

static bool read_description(void *context, const struct copies_entry_view *view)
{
    struct first_entry entry;
    struct job **job = context;
    *job = view->kind == MESH_ENTRY_SUBMIT ? first_entry_decode(view->bytes, view->count, &entry) : NULL;
    return false;
}

static bool read_end(void *context, const struct copies_entry_view *view)
{
    if (view->kind == MESH_ENTRY_END)
        journal_end_decode(view->bytes, view->count, context);
    return false;
}

void jobs_take_over(struct node *node, const struct mesh_id *id, uint64_t epoch)
{
    const struct copy *copy = copies_find(node, id);
    struct job *job = jobs_find(node, id);
    if (job) { /* it has ended here, or is being prepared since an earlier election */
        job->moved = false;
        job->epoch = job->state < JOB_ASSEMBLING ? epoch : job->epoch;
        return;
    }
    if (copy)
        copies_read(node, id, 1, read_description, &job);
    if (!job) {
        log_error("job", "job=%s error=\"its copy here has no description that this build understands\"",
                  peer_name(node, id));
        return;
    }
    job->epoch = epoch;
    struct mesh_journal_view journal;
    job->copies = mesh_journal_find(node->host.mesh, id, &journal) ? journal.members.count : job->copies;
    job->read_back = true;
    job->state = JOB_PREPARING;
    add(node, job);
    if (copy->end && copy->end_state != MESH_JOB_DONE) {
        struct journal_end end = {0};
        copies_read(node, id, copy->end, read_end, &end);
        snprintf(job->last_error, sizeof job->last_error, "%s", end.error);
        jobs_on_state(node, id, MESH_ACCEPTED, copy->end_state);
        return;
    }
    const struct job_wish wish = jobs_wish(job);
    prepare(node, job, &wish, on_taken_over);
}

static void on_refetched(struct node *node, const struct mesh_id *id)
{
    struct job *job = jobs_find(node, id);
    if (!job || job->state != JOB_PREPARING || job->preparing)
        return;
    job_release(job);
    job->damaged = false;
    const struct job_wish wish = jobs_wish(job);
    prepare(node, job, &wish, on_taken_over);
}

/* Jobs that found something missing here, or no room. */
static int64_t go_on_again(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct job *job = node->jobs.head; node->jobs.again > 0 && job; job = job->next) {
        if (!job->again_at_ms)
            continue;
        if (now_ms < job->again_at_ms) {
            wake_at_ms = job->again_at_ms < wake_at_ms ? job->again_at_ms : wake_at_ms;
            continue;
        }
        job->again_at_ms = 0;
        node->jobs.again--;
        if (copies_find(node, &job->spec.id)) {
            copies_fetch_missing(node, &job->spec.id, on_refetched);
        } else {
            const struct job_wish wish = jobs_wish(job);
            job_release(job);
            prepare(node, job, &wish, on_restored);
        }
    }
    return wake_at_ms;
}

void jobs_revive(struct node *node, const struct mesh_id *id)
{
    const struct copy *copy = copies_find(node, id);
    if (copy && copy->over && copy->whole && copy->end_state == MESH_JOB_DONE && !jobs_find(node, id))
        jobs_take_over(node, id, copy->last_epoch);
}

static bool restore_row(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    struct node *node = context;
    struct job *job = job_row_decode(value, value_bytes);
    if (job) {
        job->read_back = true;
        const struct copy *copy = copies_find(node, &job->spec.id);
        job->tended = copy && !copy->over && job->state >= JOB_DONE;
        node->jobs.tended += job->tended;
        add(node, job);
    } else
        log_error(
            "job",
            "error=\"a job's row is damaged or names a kernel that this build lacks; it is left alone\"");
    return true;
}

static int by_creation(const void *left, const void *right)
{
    const struct job *const a = *(const struct job *const *)left, *const b =
                                                                      *(const struct job *const *)right;
    if (a->spec.created_at_ms != b->spec.created_at_ms)
        return a->spec.created_at_ms < b->spec.created_at_ms ? -1 : 1;
    return memcmp(&a->spec.id, &b->spec.id, sizeof a->spec.id);
}

/* The rows came by id; what lists jobs, or forgets the oldest, wants them as they were created. */
static void order(struct node *node)
{
    struct job **all = calloc(node->jobs.count + 1, sizeof *all);
    must(all);
    uint32_t count = 0;
    for (struct job *job = node->jobs.head; job; job = job->next)
        all[count++] = job;
    qsort(all, count, sizeof *all, by_creation);
    node->jobs.tail = &node->jobs.head;
    for (uint32_t i = 0; i < count; i++) {
        *node->jobs.tail = all[i];
        node->jobs.tail = &all[i]->next;
    }
    *node->jobs.tail = NULL;
    free(all);
}

void jobs_restore(struct node *node)
{
    store_each(node->store, STORE_JOBS, NULL, restore_row, node);
    order(node);
    for (struct job *job = node->jobs.head; job; job = job->next) {
        if (job->state > JOB_ASSEMBLING)
            continue;
        const struct job_wish wish = jobs_wish(job);
        prepare(node, job, &wish, on_restored);
    }
}

/* ---- Time */

static void prune(struct node *node)
{
    const int64_t before_ms = clock_wall_ms() - (int64_t)node->config.keep_jobs_s * 1000;
    uint32_t removed = 0;
    for (struct job *job = node->jobs.head; job && removed < 256;) {
        struct job *next = job->next;
        if (job->finished_at_ms < before_ms && may_forget(job)) {
            forget(node, job);
            removed++;
        }
        job = next;
    }
    copies_prune(node, before_ms);
}

/* Outputs that could not be stored. */
static int64_t assemble_again(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct job *job = node->jobs.head; node->jobs.unstored > 0 && job; job = job->next) {
        if (job->state != JOB_ASSEMBLING || !job->assemble_at_ms)
            continue;
        if (now_ms >= job->assemble_at_ms)
            assemble(node, job);
        else if (job->assemble_at_ms < wake_at_ms)
            wake_at_ms = job->assemble_at_ms;
    }
    return wake_at_ms;
}

/* Who waits for an acknowledgement hears what for. */
static int64_t tell_submitters(struct node *node, int64_t now_ms)
{
    if (node->jobs.submitters == 0)
        return INT64_MAX;
    if (now_ms < node->jobs.tell_at_ms)
        return node->jobs.tell_at_ms;
    for (struct job *job = node->jobs.head; job; job = job->next)
        for (struct job_submitter *submitter = job->submitters; submitter; submitter = submitter->next)
            if (now_ms >= submitter->tell_at_ms && submit_waits(node, submitter->call, job))
                submitter->tell_at_ms = INT64_MAX;
    node->jobs.tell_at_ms = now_ms + TELL_EVERY_MS;
    return node->jobs.tell_at_ms;
}

int64_t jobs_turn(struct node *node, int64_t now_ms)
{
    if (now_ms >= node->jobs.prune_at_ms) {
        if (skew_settled(node, now_ms)) /* a clock that is a year fast would forget every finished job */
            prune(node);
        node->jobs.prune_at_ms = now_ms + PRUNE_EVERY_MS;
    }
    int64_t wake_at_ms = node->jobs.prune_at_ms;
    int64_t (*const agains[])(struct node *, int64_t) = {assemble_again, go_on_again, tell_submitters};
    for (size_t i = 0; i < sizeof agains / sizeof agains[0]; i++) {
        const int64_t at_ms = agains[i](node, now_ms);
        wake_at_ms = at_ms < wake_at_ms ? at_ms : wake_at_ms;
    }
    return wake_at_ms;
}
