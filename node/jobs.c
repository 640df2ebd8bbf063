/* Jobs at their home: the table, submits, and what the core decides. See node/job.h for a job's life. */
#include "node/jobs_internal.h"
#include "node/keys.h"

#define PRUNE_EVERY_MS 60000
#define FORGET_AFTER_MS 10000
#define TELL_AFTER_MS 2000 /* a submit that is not acknowledged by then is told what it waits for */
#define TELL_EVERY_MS 1000

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

void jobs_add(struct node *node, struct job *job)
{
    struct job **bucket = bucket_of(node, &job->spec.id);
    job->chain = *bucket;
    *bucket = job;
    *node->jobs.tail = job;
    node->jobs.tail = &job->next;
    node->jobs.count++;
}

void jobs_take_out(struct node *node, struct job *job)
{
    jobs_let_inputs_go(node, job);
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

void jobs_hold_inputs(struct node *node, struct job *job)
{
    struct digest blobs[JOB_BLOBS_MAX];
    const uint32_t count = jobs_blobs(job, blobs);
    struct store_batch *batch = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const bool pinned = hold_is(node, &blobs[i]); /* it was uploaded for this job */
        if (!pinned && !batch)
            batch = node_batch(node);
        hold_take(node, &blobs[i], pinned ? NULL : batch);
    }
    if (batch)
        node_commit(node, batch, NULL, NULL); /* one that is not here is missed when they are read */
    job->holds_inputs = true;
}

void jobs_let_inputs_go(struct node *node, struct job *job)
{
    struct digest blobs[JOB_BLOBS_MAX];
    if (job->holds_inputs)
        holds_release(node, blobs, jobs_blobs(job, blobs));
    job->holds_inputs = false;
}

static void run_prepare(struct background_task *task)
{
    struct job_preparing *preparing = (struct job_preparing *)task;
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

struct mesh_job_spec jobs_core_spec(const struct job *job)
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
void jobs_acknowledge(struct node *node, struct job *job)
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

void jobs_turn_away(struct node *node, struct job *job, enum exit_code code, const char *text)
{
    bool existing;
    struct api_call *call;
    while ((call = next_submitter(node, job, &existing)))
        api_error(call, code, "%s", text);
}

static void refuse(struct node *node, struct job *job, enum exit_code code, const char *text)
{
    jobs_turn_away(node, job, code, text);
    jobs_take_out(node, job);
    job_free(job);
}

void jobs_to_core(struct node *node, struct job *job)
{
    host_post(node, &(struct mesh_event){.kind = MESH_SUBMIT, .body.submit = jobs_core_spec(job)});
}

static void begin(struct node *node, struct job *job);

static void on_prepared(struct background_task *task)
{
    struct job_preparing *preparing = (struct job_preparing *)task;
    struct node *node = preparing->node;
    struct job *job = preparing->job;
    job->preparing = false;
    if (!preparing->good) {
        refuse(node, job, (enum exit_code)preparing->exit_code, job->error);
    } else if (!job->keyed) {
        begin(node, job);
    } else if (copies_find(node, &job->spec.id)) {
        jobs_claimed(node, &job->spec.id, true);
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
        jobs_to_core(node, job);
}

void jobs_claimed(struct node *node, const struct mesh_id *named, bool taken)
{
    const struct mesh_id of = *named, *const id = &of; /* `named` may be the job's own */
    struct job *job = jobs_find(node, id);
    if (!job || !job->undecided)
        return;
    job->undecided = false;
    const struct copy *copy = copies_find(node, id);
    if (job->cancelled) {
        refuse(node, job, EXIT_FAILED, "it was cancelled before it was accepted");
        return;
    }
    if (!taken && !job->yields && !copy) {
        begin(node, job);
        return;
    }
    bool existing;
    jobs_take_out(node, job);
    struct api_call *call;
    while ((call = next_submitter(node, job, &existing)))
        if (api_remote_site(call))
            api_error(call, EXIT_UNREACHABLE, "another node takes the job");
        else
            relay_accept(node, call, job);
    job_free(job);
    struct mesh_journal_view journal;
    if (mesh_journal_find(node->host.mesh, id, &journal) && journal.reigns)
        jobs_take_over(node, id, journal.epoch); /* we were voted its home meanwhile */
}

void jobs_doubted(struct node *node, const struct mesh_id *id, const char *text)
{
    struct job *job = jobs_find(node, id);
    if (!job || !job->undecided)
        return;
    if (job->yields || copies_find(node, id)) {
        jobs_claimed(node, id, true);
        return;
    }
    job->undecided = false;
    refuse(node, job, EXIT_PARTIAL, text);
}

/* Inputs that ride in its journal become blobs of this store before the job is prepared, as at its first home. */
static bool unpack_inputs(void *context, const struct copies_entry_view *view)
{
    struct job_preparing *const preparing = context;
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

void jobs_prepare(struct node *node, struct job *job, const struct job_wish *wish,
                  void (*done)(struct background_task *task))
{
    struct job_preparing *preparing = calloc(1, sizeof *preparing);
    must(preparing);
    *preparing = (struct job_preparing){.node = node, .job = job, .wish = *wish};
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
    return job->state >= JOB_DONE && !job->is_handed_out &&
           job->finished_at_ms < clock_wall_ms() - FORGET_AFTER_MS;
}

void jobs_forget(struct node *node, struct job *job)
{
    struct store_batch *batch = node_batch(node);
    store_batch_delete(batch, STORE_JOBS, job->spec.id.bytes, sizeof job->spec.id.bytes);
    node_commit(node, batch, NULL, NULL);
    node->jobs.tended -= job->tended;
    copies_forget(node, &job->spec.id);
    jobs_take_out(node, job);
    job_free(job);
}

static bool forget_oldest(struct node *node, int64_t before_ms)
{
    struct job *job = node->jobs.head;
    while (job && !(may_forget(job) && job->finished_at_ms < before_ms))
        job = job->next;
    if (job)
        jobs_forget(node, job);
    return job != NULL;
}

bool jobs_make_room(struct node *node, int64_t before_ms)
{
    return node->jobs.count + node->taking_count < JOBS_KEPT_MAX || forget_oldest(node, before_ms);
}

/* Whether a submit under the job's key asks for the same. How many items is known, on either side, if they were given
 * or counted; else 0, and what makes them is in the request. */
static bool same_request(const struct job *job, const struct digest *request, const struct digest *rows,
                         uint64_t items)
{
    const struct digest ours = job_request(job), our_rows = job_rows(job);
    return digest_equal(&ours, request) && digest_equal(&our_rows, rows) &&
           (!items || !job->spec.items || items == job->spec.items);
}

static void refuse_key(struct node *node, const struct job *known, struct api_call *call)
{
    api_error(call, EXIT_USAGE, "key '%s' names another job already, %.8s; give this one a key of its own",
              known->spec.key, peer_name(node, &known->spec.id));
}

static void accept_again(struct node *node, struct job *known, struct api_call *call)
{
    if (known->state == JOB_PREPARING || known->is_handed_out ||
        known->submitters) /* not durable yet: it shares the first one's fate */
        add_submitter(node, known, call, true);
    else
        submit_accepted(node, call, known, true);
}

void jobs_accepted(struct node *node, struct job *job, const char *request, const char *rows, uint64_t items,
                   struct api_call *call)
{
    struct digest theirs, their_rows = job_rows(job); /* an earlier version doesn't say */
    if (request && digest_from_hex(request, &theirs) == CRYPTO_OK &&
        (!rows || digest_from_hex(rows, &their_rows) == CRYPTO_OK) &&
        same_request(job, &theirs, &their_rows, items))
        accept_again(node, job, call);
    else
        refuse_key(node, job, call);
}

/* A job that never was in the table. */
static void drop(struct node *node, struct job *job)
{
    jobs_let_inputs_go(node, job);
    job_free(job);
}

void jobs_submit(struct node *node, struct job *job, const struct job_wish *wish, struct api_call *call)
{
    struct job *known = jobs_find(node, &job->spec.id);
    if (known) {
        const struct digest request = job_request(job), rows = job_rows(job);
        if (call && !same_request(known, &request, &rows, job->spec.items))
            refuse_key(node, known, call);
        else if (call)
            accept_again(node, known, call);
        drop(node, job);
        return;
    }
    if (!jobs_make_room(node, INT64_MAX)) {
        if (call)
            api_error(call, EXIT_FAILED, "this node drives %u jobs already; submit at another one",
                      JOBS_KEPT_MAX);
        drop(node, job);
        return;
    }
    job->state = JOB_PREPARING;
    job->epoch = 1;
    job->undecided = job->keyed;
    if (call)
        add_submitter(node, job, call, false);
    jobs_add(node, job);
    jobs_prepare(node, job, wish, on_prepared);
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
    if (job->undecided) { /* nor does anybody know yet whose it is */
        job->cancelled = true;
        return true;
    }
    host_post(node, &(struct mesh_event){.kind = MESH_CANCEL_JOB, .body.job.id = job->spec.id});
    return true;
}

/* ---- What the core decides */

/* Another node is its home now; we keep our copy of the journal. What has ended stays ended. */
static void leave(struct node *node, struct job *job)
{
    if (job->state >= JOB_ASSEMBLING || job->ends)
        return;
    log_info("job", "job=%s state=moved", peer_name(node, &job->spec.id));
    jobs_turn_away(node, job, EXIT_PARTIAL, "the job has moved to another home; `weir jobs` finds it");
    if (job->preparing) {
        job->moved = true;
        return;
    }
    cache_job_over(node, &job->spec.id, false);
    node->jobs.again -= job->again_at_ms != 0;
    jobs_take_out(node, job);
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
        jobs_go_on_later(node, job, refusals[refusal]);
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
        jobs_acknowledge(node, job);
        break;
    case MESH_JOB_DONE:
        /* Others may hold the last results before we do. */
        job->ends = job->state <= JOB_RUNNING;
        if (job->ends && job->committed == job->spec.shard_count)
            jobs_assemble(node, job);
        break;
    case MESH_JOB_FAILED:
    case MESH_JOB_CANCELLED: {
        if (job->state <= JOB_RUNNING) {
            jobs_set_ended(job, state);
            struct store_batch *batch = node_batch(node);
            jobs_put_row(batch, job);
            node_commit(node, batch, NULL, NULL);
        }
        jobs_end(node, job);
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
    const struct mesh_job_spec spec = jobs_core_spec(job);
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
        jobs_share_of(job, member)->in_hand += count;
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
        struct job_node_share *share = jobs_share_of(job, member);
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
    jobs_put_row(batch, job);
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

/* ---- Time */

static void prune(struct node *node)
{
    const int64_t before_ms = clock_wall_ms() - (int64_t)node->config.keep_jobs_s * 1000;
    uint32_t removed = 0;
    for (struct job *job = node->jobs.head; job && removed < 256;) {
        struct job *next = job->next;
        if (job->finished_at_ms < before_ms && may_forget(job)) {
            jobs_forget(node, job);
            removed++;
        }
        job = next;
    }
    copies_prune(node, before_ms);
    keys_prune(node, before_ms);
}

/* Outputs that could not be stored. */
static int64_t assemble_again(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct job *job = node->jobs.head; node->jobs.unstored > 0 && job; job = job->next) {
        if (job->state != JOB_ASSEMBLING || !job->assemble_at_ms)
            continue;
        if (now_ms >= job->assemble_at_ms)
            jobs_assemble(node, job);
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
    int64_t (*const agains[])(struct node *, int64_t) = {assemble_again, jobs_go_on_again, tell_submitters};
    for (size_t i = 0; i < sizeof agains / sizeof agains[0]; i++) {
        const int64_t at_ms = agains[i](node, now_ms);
        wake_at_ms = at_ms < wake_at_ms ? at_ms : wake_at_ms;
    }
    return wake_at_ms;
}
