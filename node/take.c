#include "node/take.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"

#include <sodium.h>

#define ASK_MS 2000 /* for an answer */
#define INPUTS_COMING_MAX                                                                                    \
    4u /* at once, and those of one job more: fewer than come at all (BULK_ACTIVE_MAX) */

/* One job on its way here. */
struct taking {
    struct taking *next;
    struct node *node;
    struct mesh_id from;
    struct mesh_id id;
    take_ended *ended;
    void *context;
    struct job *job; /* NULL until it was told */
    struct copy head;
    uint32_t fetching;
    bool failed;
    struct bulk_request request;
};

/* ---- What is here */

static bool comes(const struct node *node, const struct mesh_id *id)
{
    const struct taking *taking = node->takings;
    while (taking && memcmp(&taking->id, id, sizeof *id) != 0)
        taking = taking->next;
    return taking != NULL;
}

/* Apart from what is being taken. */
static enum take_state state_of(struct node *node, const struct mesh_id *id)
{
    struct mesh_journal_view view;
    const struct job *job = jobs_find(node, id);
    const struct copy *copy = copies_find(node, id);
    if (job)
        return job->state >= JOB_DONE ? TAKE_KEPT : TAKE_UNDER_WAY;
    if (mesh_journal_find(node->host.mesh, id, &view) || (copy && !copy->over && !copy->damaged))
        return TAKE_UNDER_WAY; /* its home brings it up, or says that it is over */
    if (copy && copy->sweeps > 0)
        return TAKE_UNDER_WAY; /* pins of what is left of it go */
    return copy && copy->over && copy->whole ? TAKE_KEPT : TAKE_LACKED;
}

enum take_state take_state(struct node *node, const struct mesh_id *id)
{
    return comes(node, id) ? TAKE_COMES : state_of(node, id);
}

static void add_holders(const struct node *node, struct bulk_request *request,
                        const struct mesh_members *members)
{
    for (uint32_t i = 0; i < members->count && request->holder_count < BULK_HOLDERS_MAX; i++)
        if (memcmp(&members->id[i], &node->self, sizeof members->id[i]) != 0 &&
            (request->holder_count == 0 ||
             memcmp(&members->id[i], &request->holders[0], sizeof members->id[i]) != 0))
            request->holders[request->holder_count++] = members->id[i];
}

/* Who pins outputs while they come: apart from their jobs' own pins, which a journal that turns up meanwhile has. */
static struct digest comer(void)
{
    return digest_of("weir resync 1", "", 0);
}

static uint32_t output_count(const struct job *job)
{
    return job->state == JOB_DONE ? job->spec.output_count : 0;
}

static void unpin(struct store_batch *batch, const struct job *job)
{
    const struct digest pin = comer();
    for (uint32_t o = 0; o < output_count(job); o++)
        store_batch_unpin(batch, job->output_blob[o].bytes, pin.bytes);
}

static void end(struct taking *taking, enum take_result result)
{
    struct node *node = taking->node;
    struct taking **link = &node->takings;
    while (*link != taking)
        link = &(*link)->next;
    *link = taking->next;
    node->taking_count--;
    if (taking->job) {
        struct store_batch *batch = node_batch(node);
        unpin(batch, taking->job);
        node_commit(node, batch, NULL, NULL);
        job_free(taking->job);
    }
    taking->ended(node, taking->context, result);
    free(taking);
}

/* ---- Inputs: what jobs were made of, in case they are to be computed again. Outputs don't wait for them. */

struct input_wait {
    struct input_wait *next;
    struct mesh_id job;
};

static void fetch_inputs(struct node *node);

/* The job may be forgotten meanwhile. */
static void on_input(struct node *node, void *context, const struct bulk_done *done)
{
    struct mesh_id *id = context;
    node->jobs.inputs_coming--;
    if (done->error != BULK_OK)
        log_debug("take", "job=%s error=\"an input was not had: %s\"", peer_name(node, id),
                  bulk_error_text(done->error));
    if (!jobs_find(node, id)) {
        struct store_batch *batch = node_batch(node);
        store_batch_unpin_all(batch, id->bytes);
        node_commit(node, batch, NULL, NULL);
    }
    free(id);
    fetch_inputs(node);
}

static void fetch_inputs_of(struct node *node, const struct job *job, const struct copy *copy)
{
    struct digest blobs[JOB_BLOBS_MAX], pin;
    struct bulk_request request = {.pin = &pin};
    const uint32_t count = jobs_blobs(job, blobs);
    memcpy(pin.bytes, job->spec.id.bytes, sizeof pin.bytes);
    add_holders(node, &request, &copy->members);
    for (uint32_t i = 0; i < count && request.holder_count > 0; i++) {
        struct mesh_id *id = must(malloc(sizeof *id));
        *id = job->spec.id;
        request.blob = blobs[i];
        if (fetch_start(node, &request, on_input, id))
            node->jobs.inputs_coming++;
        else
            free(id);
    }
}

static void fetch_inputs(struct node *node)
{
    while (node->inputs_wanted && node->jobs.inputs_coming < INPUTS_COMING_MAX) {
        struct input_wait *wait = node->inputs_wanted;
        const struct job *job = jobs_find(node, &wait->job);
        const struct copy *copy = copies_find(node, &wait->job);
        node->inputs_wanted = wait->next;
        if (job && job->state == JOB_DONE && copy)
            fetch_inputs_of(node, job, copy);
        free(wait);
    }
}

static void want_inputs(struct node *node, const struct mesh_id *job)
{
    struct input_wait *wait = must(malloc(sizeof *wait));
    *wait = (struct input_wait){.next = node->inputs_wanted, .job = *job};
    node->inputs_wanted = wait;
    fetch_inputs(node);
}

/* ---- Row and outputs */

/* Its journal came while this was written: what that says counts. */
static void take_back(struct node *node, const struct mesh_id *id)
{
    const struct copy *copy = copies_find(node, id);
    const struct job *job = jobs_find(node, id);
    struct store_batch *batch = node_batch(node);
    if (job && job->state >= JOB_DONE)
        jobs_put_row(batch, job);
    else
        store_batch_delete(batch, STORE_JOBS, id->bytes, sizeof id->bytes);
    if (copy)
        copies_put_head(batch, copy);
    else
        store_batch_delete(batch, STORE_COPIES, id->bytes, sizeof id->bytes);
    node_commit(node, batch, NULL, NULL);
}

static void on_kept(struct node *node, void *context, enum store_error error)
{
    struct taking *taking = context;
    if (error != STORE_OK)
        disk_failed(node, error);
    if (error == STORE_OK && state_of(node, &taking->id) != TAKE_LACKED)
        take_back(node, &taking->id);
    if (error != STORE_OK || state_of(node, &taking->id) != TAKE_LACKED) {
        end(taking, error != STORE_OK ? TAKE_FAILED : TAKE_LATER);
        return;
    }
    struct job *job = taking->job;
    taking->job = NULL;
    copies_adopt(node, &taking->head);
    copies_sweep(node, &taking->id, false); /* what a part of its journal may have left */
    job->read_back = true;
    jobs_add(node, job);
    log_debug("take", "job=%s from=%s", peer_name(node, &taking->id), peer_name(node, &taking->from));
    want_inputs(node, &taking->id);
    end(taking, TAKE_DONE);
}

/* Its outputs are here. */
static void keep(struct taking *taking)
{
    struct node *node = taking->node;
    const struct job *job = taking->job;
    if (state_of(node, &taking->id) != TAKE_LACKED) {
        end(taking, TAKE_LATER);
        return;
    }
    struct store_batch *batch = node_batch(node);
    for (uint32_t o = 0; o < output_count(job); o++)
        store_batch_pin(batch, job->output_blob[o].bytes, taking->id.bytes);
    unpin(batch, job);
    jobs_put_row(batch, job);
    copies_put_head(batch, &taking->head);
    node_commit(node, batch, on_kept, taking);
}

static void advance(struct taking *taking)
{
    if (--taking->fetching > 0)
        return;
    if (taking->failed)
        end(taking, TAKE_FAILED);
    else
        keep(taking);
}

static void on_output(struct node *node, void *context, const struct bulk_done *done)
{
    struct taking *taking = context;
    if (done->error == BULK_STORE)
        disk_failed(node, done->store);
    if (done->error != BULK_OK) {
        taking->failed = true;
        log_info("take", "job=%s from=%s error=\"cannot fetch an output: %s\"", peer_name(node, &taking->id),
                 peer_name(node, &taking->from),
                 done->error == BULK_STORE ? store_error_text(done->store) : bulk_error_text(done->error));
    }
    advance(taking);
}

static void fetch_outputs(struct taking *taking)
{
    const struct digest pin = comer();
    taking->request = (struct bulk_request){.holders = {taking->from}, .holder_count = 1, .pin = &pin};
    add_holders(taking->node, &taking->request, &taking->head.members);
    taking->fetching = 1; /* ours, until all were asked for */
    for (uint32_t o = 0; o < output_count(taking->job); o++) {
        taking->request.blob = taking->job->output_blob[o];
        if (fetch_start(taking->node, &taking->request, on_output, taking))
            taking->fetching++;
        else
            taking->failed = true;
    }
    advance(taking);
}

static size_t unpack(const json_t *answer, const char *name, uint8_t *out, size_t capacity)
{
    const char *text = json_string_value(json_object_get(answer, name));
    size_t count;
    return text && sodium_base642bin(out, capacity, text, strlen(text), NULL, &count, NULL,
                                     sodium_base64_VARIANT_ORIGINAL) == 0
               ? count
               : 0;
}

/* Fills in what it says of the job; false if that makes no sense here. */
static bool read_told(struct taking *taking, const json_t *answer)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    uint8_t head[COPIES_HEAD_BYTES_MAX];
    const size_t row_bytes = unpack(answer, "row", row, sizeof row),
                 head_bytes = unpack(answer, "head", head, sizeof head);
    taking->head.job = taking->id;
    if (row_bytes == 0 || head_bytes == 0 || !copies_head_decode(head, head_bytes, &taking->head) ||
        !copies_member(&taking->head.members, &taking->node->self) ||
        !copies_member(&taking->head.members, &taking->from))
        return false;
    struct job *job = taking->job = job_row_decode(row, row_bytes);
    if (!job)
        return false;
    const struct mesh_id named = job_id(job->spec.tenant, job->spec.key);
    return memcmp(&named, &taking->id, sizeof named) == 0 &&
           memcmp(&job->spec.id, &taking->id, sizeof named) == 0 && job_ended_fits(job);
}

static int64_t earlier(int64_t a_ms, int64_t b_ms)
{
    return a_ms < b_ms ? a_ms : b_ms;
}

/* As we keep it. What is to be computed again is the teller's to do. */
static void make_ours(struct taking *taking)
{
    struct copy *head = &taking->head;
    struct job *job = taking->job;
    const struct node *node = taking->node;
    head->reign = head->chosen = 0;
    for (uint32_t i = 0; i < head->members.count; i++)
        if (memcmp(&head->members.id[i], &node->self, sizeof node->self) == 0)
            head->chosen =
                head->members.storage[i] < node->incarnation ? head->members.storage[i] : node->incarnation;
    const struct copy *ours = copies_find(taking->node, &taking->id);
    if (ours && ours->chosen != UINT64_MAX && ours->chosen > head->chosen)
        head->chosen = ours->chosen; /* of what is lost of its journal here */
    head->over = head->whole = true;
    head->end_state = job->state == JOB_DONE     ? MESH_JOB_DONE
                      : job->state == JOB_FAILED ? MESH_JOB_FAILED
                                                 : MESH_JOB_CANCELLED;
    job->finished_at_ms = earlier(job->finished_at_ms, clock_wall_ms());
    head->ended_at_ms = job->finished_at_ms;
    if (job->copies < head->members.count) /* as the teller hopes for */
        job->copies = head->members.count;
    job->doubted = false;
}

static void on_told(struct node *node, void *context, const json_t *answer)
{
    struct taking *taking = context;
    if (!answer || json_is_true(json_object_get(answer, "later"))) {
        end(taking, TAKE_LATER);
    } else if (!json_is_true(json_object_get(answer, "ok"))) {
        end(taking, TAKE_FAILED);
    } else if (!read_told(taking, answer)) {
        log_warn("take",
                 "job=%s from=%s error=\"what it tells of a finished job makes no sense here, or is of "
                 "a kernel that this build lacks\"",
                 peer_name(node, &taking->id), peer_name(node, &taking->from));
        end(taking, TAKE_STRANGE);
    } else {
        make_ours(taking);
        fetch_outputs(taking);
    }
}

bool take_begin(struct node *node, const struct mesh_id *from, const struct mesh_id *job, take_ended *ended,
                void *context)
{
    struct taking *taking = must(calloc(1, sizeof *taking));
    *taking = (struct taking){
        .next = node->takings, .node = node, .from = *from, .id = *job, .ended = ended, .context = context};
    json_t *question = json_pack("{s:s}", "op", "finished");
    json_put(question, "job", json_hex(job->bytes, sizeof job->bytes));
    const bool asked = calls_ask(node, from, question, ASK_MS, on_told, taking);
    json_decref(question);
    if (asked) {
        node->takings = taking;
        node->taking_count++;
    } else {
        free(taking);
    }
    return asked;
}

/* ---- Start and end */

void take_restore(struct node *node)
{
    const struct digest pin = comer();
    struct store_batch *batch = node_batch(node);
    store_batch_unpin_all(batch, pin.bytes);
    node_commit(node, batch, NULL, NULL);
}

/* The calls and fetches under way come back no more. */
void take_close(struct node *node)
{
    while (node->inputs_wanted) {
        struct input_wait *wait = node->inputs_wanted;
        node->inputs_wanted = wait->next;
        free(wait);
    }
    while (node->takings) {
        struct taking *taking = node->takings;
        node->takings = taking->next;
        if (taking->job)
            job_free(taking->job);
        taking->ended(node, taking->context, TAKE_FAILED);
        free(taking);
    }
}
