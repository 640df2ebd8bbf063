/* Jobs at their home: read back at the start, or taken over from a home that is gone. */
#include "node/jobs_internal.h"

#define GO_ON_AGAIN_MS 5000
#define ENDED_PREFIX "ended " /* of keys in STORE_META: the job's id follows, the row is as in STORE_JOBS */
#define ENDED_PREFIX_BYTES (sizeof ENDED_PREFIX - 1)

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
    jobs_share_of(job, &row->executor);
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
        if (!jobs_place_entry(replay->node, job, shard, &row.item[i].entry)) {
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
        jobs_count_share(job, &row.executor, fresh, row.device_us);
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
                                         .body.restore = {.spec = jobs_core_spec(job),
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
        jobs_turn_away(node, job, EXIT_FAILED, store_error_text(error));
        return;
    }
    job->state = JOB_RUNNING;
    jobs_acknowledge(node, job);
    post_restore(node, job);
}

/* A disk lost something, or is full: what was acknowledged waits until it has it again. */
void jobs_go_on_later(struct node *node, struct job *job, const char *why)
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

/* Ends the preparation: returns its job, and whether its inputs are here and good. */
static struct job *prepared(struct background_task *task, struct node **node, bool *good)
{
    struct job_preparing *preparing = (struct job_preparing *)task;
    struct job *job = preparing->job;
    *node = preparing->node;
    *good = preparing->good;
    free(preparing);
    job->preparing = false;
    return job;
}

static void on_restored(struct background_task *task)
{
    struct node *node;
    bool good;
    struct job *job = prepared(task, &node, &good);
    if (!good) {
        jobs_go_on_later(node, job, job->error);
        return;
    }
    replay_journal(node, job);
    job->damaged = false; /* nobody else has what was lost: it is computed again */
    job->epoch++;
    log_info("job", "job=%s state=restored shards=%u committed=%u epoch=%llu", peer_name(node, &job->spec.id),
             job->spec.shard_count, job->committed, (unsigned long long)job->epoch);
    struct store_batch *batch = node_batch(node);
    jobs_put_row(batch, job);
    node_commit(node, batch, on_epoch_saved, job);
}

/* ---- Takeover */

static void on_taken_over(struct background_task *task)
{
    struct node *node;
    bool good;
    struct job *job = prepared(task, &node, &good);
    if (job->moved) {
        jobs_take_out(node, job);
        job_free(job);
        return;
    }
    if (good)
        replay_journal(node, job);
    if (!good || job->damaged) { /* others have it too, and it may get room */
        jobs_go_on_later(node, job, good ? "a committed output cannot be read" : job->error);
        return;
    }
    job->first_assign = true;
    log_info("job", "job=%s state=taken_over shards=%u committed=%u epoch=%llu",
             peer_name(node, &job->spec.id), job->spec.shard_count, job->committed,
             (unsigned long long)job->epoch);
    const struct copy *copy = copies_find(node, &job->spec.id);
    if (copy && (copy->end || copy->over)) {
        jobs_acknowledge(node, job);
        jobs_assemble(node, job);
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
    if (job &&
        job->undecided) { /* a submit of its key: that is told of the job first, and then we go on here */
        if (!job->preparing)
            jobs_claimed(node, id, true);
        return;
    }
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
    jobs_add(node, job);
    if (copy->end && copy->end_state != MESH_JOB_DONE) {
        struct journal_end end = {0};
        copies_read(node, id, copy->end, read_end, &end);
        snprintf(job->last_error, sizeof job->last_error, "%s", end.error);
        jobs_on_state(node, id, MESH_ACCEPTED, copy->end_state);
        return;
    }
    const struct job_wish wish = jobs_wish(job);
    jobs_prepare(node, job, &wish, on_taken_over);
}

static void on_refetched(struct node *node, const struct mesh_id *id)
{
    struct job *job = jobs_find(node, id);
    if (!job || job->state != JOB_PREPARING || job->preparing)
        return;
    job_release(job);
    job->damaged = false;
    const struct job_wish wish = jobs_wish(job);
    jobs_prepare(node, job, &wish, on_taken_over);
}

/* Jobs that found something missing here, or no room. */
int64_t jobs_go_on_again(struct node *node, int64_t now_ms)
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
            jobs_prepare(node, job, &wish, on_restored);
        }
    }
    return wake_at_ms;
}

/* ---- Jobs that did not end well, at the other members of their journals */

struct ended_key {
    uint8_t bytes[ENDED_PREFIX_BYTES + 32];
};

static struct ended_key ended_key_of(const struct mesh_id *id)
{
    struct ended_key key;
    memcpy(key.bytes, ENDED_PREFIX, ENDED_PREFIX_BYTES);
    memcpy(key.bytes + ENDED_PREFIX_BYTES, id->bytes, sizeof id->bytes);
    return key;
}

void jobs_put_ended(struct node *node, struct store_batch *batch, const struct copy *copy)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    struct journal_end end = {0};
    struct job *job = NULL;
    copies_read(node, &copy->job, 1, read_description, &job);
    if (!job)
        return;
    copies_read(node, &copy->job, copy->end, read_end, &end);
    snprintf(job->last_error, sizeof job->last_error, "%s", end.error);
    jobs_set_ended(job, copy->end_state);
    job->finished_at_ms = copy->ended_at_ms;
    job->epoch = copy->last_epoch;
    job->copies = copy->members.count;
    const size_t count = job_row_encode(job, row, sizeof row);
    job_free(job);
    assert(count > 0);
    const struct ended_key key = ended_key_of(&copy->job);
    store_batch_put(batch, STORE_META, key.bytes, sizeof key.bytes, row, count);
}

void jobs_drop_ended(struct store_batch *batch, const struct mesh_id *id)
{
    const struct ended_key key = ended_key_of(id);
    store_batch_delete(batch, STORE_META, key.bytes, sizeof key.bytes);
}

struct job *jobs_ended(struct node *node, const struct mesh_id *id)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    const struct ended_key key = ended_key_of(id);
    size_t count;
    const bool there =
        store_get(node->store, STORE_META, key.bytes, sizeof key.bytes, row, sizeof row, &count) == STORE_OK;
    return there ? job_row_decode(row, count) : NULL;
}

bool jobs_tell(struct node *node, const struct copy *copy)
{
    const struct ended_key key = ended_key_of(&copy->job);
    size_t count;
    return copy->over && copy->whole &&
           (copy->end_state == MESH_JOB_DONE ||
            store_get(node->store, STORE_META, key.bytes, sizeof key.bytes, NULL, 0, &count) == STORE_SMALL);
}

/* ---- A finished job that is asked for */

void jobs_revive(struct node *node, const struct mesh_id *id)
{
    const struct copy *copy = copies_find(node, id);
    if (!copy || !copy->over || !copy->whole || jobs_find(node, id))
        return;
    if (copy->end_state == MESH_JOB_DONE) {
        jobs_take_over(node, id, copy->last_epoch);
        return;
    }
    struct job *job = jobs_ended(node, id);
    if (!job)
        return;
    job->read_back = true;
    jobs_add(node, job);
    struct store_batch *batch = node_batch(node);
    jobs_put_row(batch, job);
    node_commit(node, batch, NULL, NULL);
}

/* ---- At the start */

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
        node->rechecks_wanted = node->rechecks_wanted || job->doubted;
        jobs_add(node, job);
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
        jobs_prepare(node, job, &wish, on_restored);
    }
}
