/*
 * Bundles that this node runs, for other homes and for its own jobs.
 *
 * An attempt is born with MESH_RUN. It gathers what the payload only names (broadcast blobs into the store,
 * rows that were too large to ride along), waits for a place at a worker, runs, makes its large outputs
 * durable as blobs, and ends with MESH_RAN. MESH_STOP ends it earlier with what was done. The core decides
 * how many there may be; here is no queue of its own beyond those attempts.
 */
#include "node/compile.h"
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STOP_GRACE_MS 1000
#define RETRY_MS 250
#define SHARED_INPUT_BYTES (UINT64_C(8) << 20) /* from here on it is worth to ask who else has an input */
#define RESIDENTS_MAX 32                       /* verified broadcast blobs kept open */
#define INLINE_ENTRY_BYTES                                                                                   \
    (40u * 1024u) /* of all inline outputs of a shard: an entry stays below ENTRY_BYTES_MAX */

/* WAITING is for inputs and for a place at a worker: which inputs are needed depends on the worker. */
enum phase { WAITING, RUNNING, STORING };

struct attempt {
    struct attempt *next;
    struct node *node;
    uint32_t number; /* the core's */
    uint64_t bundle; /* the workers' */
    enum phase phase;
    bool stopped;
    char why[64]; /* its shards go back; "" = the core knows */
    struct mesh_id home;
    struct mesh_members others; /* of the job's journal */
    uint16_t class;
    struct bytes *payload; /* the inline rows lie in it */
    struct assign assign;
    uint32_t fetching;               /* fetches under way; the attempt may not be freed before they end */
    bool dead;                       /* reported already, waits only for `fetching` */
    uint8_t **rows;                  /* [shard * MANIFEST_INPUTS_MAX + input], fetched; owned */
    bool asked[MANIFEST_INPUTS_MAX]; /* the broadcast blob was asked for */
    bool asked_source;               /* and a user's kernel's source */
    struct worker_blob code;         /* of a user's kernel, for this class */
    uint64_t device_us;
    uint8_t outcome[MESH_BUNDLE_SHARDS_MAX];
    struct bytes *item[MESH_BUNDLE_SHARDS_MAX]; /* entry, or message */
    struct store_batch *batch;                  /* blobs of large outputs, */
    struct held held;                           /* which are held for its home */
    bool told;                                  /* that one could not be */
};

/* A broadcast blob, opened and verified once for all attempts that use it. */
struct resident {
    struct background_task task; /* first: the task's address is the resident's */
    struct node *node;
    struct digest blob;
    int fd;
    enum { RESIDENT_NONE, RESIDENT_OPENING, RESIDENT_OPEN } state;
    enum store_error error;
    int64_t used_at_ms;
};

static struct resident residents[RESIDENTS_MAX];

static void advance_all(struct node *node);

/* ---- End of an attempt */

static struct attempt *find_bundle(struct node *node, uint64_t bundle)
{
    struct attempt *attempt = node->execute.attempts;
    while (attempt && attempt->bundle != bundle)
        attempt = attempt->next;
    return attempt;
}

static void attempt_free(struct attempt *attempt)
{
    if (attempt->fetching > 0) {
        attempt->dead = true;
        return;
    }
    if (attempt->rows)
        for (uint32_t i = 0; i < attempt->assign.shard_count * MANIFEST_INPUTS_MAX; i++)
            free(attempt->rows[i]);
    free(attempt->rows);
    for (uint32_t s = 0; s < MESH_BUNDLE_SHARDS_MAX; s++)
        bytes_drop(attempt->item[s]);
    store_batch_close(attempt->batch);
    results_release(attempt->node, &attempt->held);
    assign_deinit(&attempt->assign);
    bytes_drop(attempt->payload);
    free(attempt);
}

static void unlink_attempt(struct attempt *attempt)
{
    struct attempt **link = &attempt->node->execute.attempts;
    while (*link && *link != attempt)
        link = &(*link)->next;
    if (*link)
        *link = attempt->next;
}

static void set_message(struct attempt *attempt, uint32_t shard, enum mesh_outcome outcome,
                        const char *message)
{
    attempt->outcome[shard] = (uint8_t)outcome;
    bytes_drop(attempt->item[shard]);
    attempt->item[shard] = bytes_make(message, strlen(message));
}

/* Reports to the core. Shards without an outcome yet were not run. */
static void finish(struct attempt *attempt)
{
    struct node *node = attempt->node;
    const uint32_t count = attempt->assign.shard_count;
    struct result_item items[MESH_BUNDLE_SHARDS_MAX] = {0};
    for (uint32_t s = 0; s < count; s++) {
        if (attempt->outcome[s] == 0)
            set_message(attempt, s, MESH_RETURNED, attempt->why[0] ? attempt->why : "not run");
        items[s] = (struct result_item){.bytes = attempt->item[s]->data, .count = attempt->item[s]->count};
    }
    struct bytes *payload = result_encode(items, count);
    if (payload->count > WIRE_PAYLOAD_BYTES_MAX) {
        bytes_drop(payload);
        for (uint32_t s = 0; s < count; s++) {
            set_message(attempt, s, MESH_CRASHED, "the bundle's results do not fit a message");
            items[s] =
                (struct result_item){.bytes = attempt->item[s]->data, .count = attempt->item[s]->count};
        }
        payload = result_encode(items, count);
    }
    struct mesh_event event = {.kind = MESH_RAN,
                               .body.ran = {.attempt = attempt->number,
                                            .handle = handles_put(&node->host.handles, payload),
                                            .device_us = attempt->device_us,
                                            .count = count}};
    memcpy(event.body.ran.outcome, attempt->outcome, count);
    results_keep(node, &attempt->held, event.body.ran.handle, &attempt->home, &attempt->others);
    unlink_attempt(attempt);
    attempt_free(attempt);
    host_post(node, &event);
}

/*
 * What our own store could not do is no fault of the shards: they go back without blame, to run elsewhere, and this node
 * lends nothing until its disk is mended. What is too large for any store, or gone, is not mended by another node.
 */
static enum mesh_outcome outcome_of(struct node *node, enum store_error error)
{
    if (error == STORE_LIMIT || store_error_class(error) != STORE_CLASS_LOCAL)
        return MESH_CRASHED;
    disk_failed(node, error);
    return MESH_RETURNED;
}

static void fail_all(struct attempt *attempt, enum mesh_outcome outcome, const char *message)
{
    for (uint32_t s = 0; s < attempt->assign.shard_count; s++)
        set_message(attempt, s, outcome, message);
    char quoted[WORKER_MESSAGE_BYTES];
    log_warn("attempt", "home=%s error=%s", peer_name(attempt->node, &attempt->home),
             log_quote(message, quoted, sizeof quoted));
    finish(attempt);
}

/* ---- Gathering */

static void open_resident(struct background_task *task)
{
    struct resident *resident = (struct resident *)task;
    uint64_t bytes;
    resident->error =
        store_blob_open(resident->node->store, resident->blob.bytes, true, &resident->fd, &bytes);
}

static void resident_opened(struct background_task *task)
{
    struct resident *resident = (struct resident *)task;
    resident->state = resident->error == STORE_OK ? RESIDENT_OPEN : RESIDENT_NONE;
    advance_all(resident->node);
}

static struct resident *find_resident(const struct digest *blob)
{
    for (int i = 0; i < RESIDENTS_MAX; i++)
        if (residents[i].state != RESIDENT_NONE && digest_equal(&residents[i].blob, blob))
            return &residents[i];
    return NULL;
}

static struct resident *make_resident(struct node *node, const struct digest *blob)
{
    struct resident *oldest = NULL;
    for (int i = 0; i < RESIDENTS_MAX; i++) {
        struct resident *resident = &residents[i];
        if (resident->state == RESIDENT_OPENING)
            continue;
        if (!oldest || (oldest->state != RESIDENT_NONE &&
                        (resident->state == RESIDENT_NONE || resident->used_at_ms < oldest->used_at_ms)))
            oldest = resident;
    }
    if (!oldest)
        return NULL; /* all are being opened: the next one that is opens the way */
    if (oldest->state == RESIDENT_OPEN)
        close(oldest->fd);
    *oldest = (struct resident){.task = {.run = open_resident, .done = resident_opened},
                                .node = node,
                                .blob = *blob,
                                .fd = -1,
                                .state = RESIDENT_OPENING,
                                .used_at_ms = clock_now_ms()};
    background_add(node->background, &oldest->task);
    return oldest;
}

static void on_blob(struct node *node, void *context, const struct bulk_done *done)
{
    struct attempt *attempt = context;
    attempt->fetching--;
    if (attempt->dead) {
        attempt_free(attempt);
        return;
    }
    if (done->error != BULK_OK) {
        char message[WORKER_MESSAGE_BYTES];
        const bool here = done->error == BULK_STORE;
        snprintf(message, sizeof message, "an input could not be %s: %s",
                 here ? "stored" : "fetched from its home",
                 here ? store_error_text(done->store) : bulk_error_text(done->error));
        fail_all(attempt, here ? outcome_of(node, done->store) : MESH_CRASHED, message);
        return;
    }
    advance_all(node);
}

struct rows_wait {
    struct attempt *attempt;
    uint32_t place; /* in attempt->rows */
};

static void on_rows(struct node *node, void *context, const struct bulk_done *done)
{
    struct rows_wait wait = *(struct rows_wait *)context;
    free(context);
    if (done->error == BULK_OK)
        wait.attempt->rows[wait.place] = done->bytes;
    on_blob(node, wait.attempt, done);
}

/* The home has a job's inputs, and so have the others that keep its journal, the large ones. */
static void add_holders(const struct attempt *attempt, struct bulk_request *request)
{
    const struct mesh_id *self = &attempt->node->self;
    if (memcmp(&attempt->home, self, sizeof *self) != 0)
        request->holders[request->holder_count++] = attempt->home;
    for (uint32_t i = 0; i < attempt->others.count && request->holder_count < BULK_HOLDERS_MAX; i++)
        if (memcmp(&attempt->others.id[i], self, sizeof *self) != 0)
            request->holders[request->holder_count++] = attempt->others.id[i];
}

/* What others that hold a large input can give joins the fetch from its home. Nobody waits for this: if it comes too late,
 * the blob is here already. */
static void on_more(struct node *node, void *context, const struct bulk_done *done)
{
    struct digest *blob = context;
    if (done->error == BULK_OK)
        cache_publish(node, blob, 1); /* now we are one of them */
    free(blob);
}

static void on_holders(struct node *node, void *context, const struct mesh_id *holders, uint32_t count)
{
    struct digest *blob = context;
    struct bulk_request request = {.holder_count = count, .blob = *blob};
    memcpy(request.holders, holders, count * sizeof *holders);
    if (count == 0 || !fetch_start(node, &request, on_more, blob))
        free(blob);
}

static void ask_for_more(struct node *node, const struct digest *blob)
{
    struct digest *copy = malloc(sizeof *copy);
    if (!copy)
        return;
    *copy = *blob;
    holders_search(node, copy, HOLDERS_TOLD, on_holders, copy);
}

static bool fetch_blob(struct attempt *attempt, uint32_t input)
{
    struct bulk_request request = {.blob = attempt->assign.inputs[input].blob};
    add_holders(attempt, &request);
    if (request.holder_count == 0)
        return false;
    attempt->asked[input] = fetch_start(attempt->node, &request, on_blob, attempt);
    attempt->fetching += attempt->asked[input];
    if (attempt->asked[input] && attempt->assign.inputs[input].data_bytes >= SHARED_INPUT_BYTES)
        ask_for_more(attempt->node, &request.blob);
    return attempt->asked[input];
}

static bool fetch_rows(struct attempt *attempt, uint32_t input, uint32_t shard)
{
    const struct assign_rows *rows = &attempt->assign.shards[shard].rows[input];
    const uint32_t place = shard * MANIFEST_INPUTS_MAX + input;
    struct store_blob_info info;
    if (store_blob_stat(attempt->node->store, attempt->assign.inputs[input].blob.bytes, &info) == STORE_OK) {
        attempt->rows[place] = malloc(rows->count);
        if (attempt->rows[place] &&
            store_blob_read(attempt->node->store, attempt->assign.inputs[input].blob.bytes, rows->offset,
                            rows->count, attempt->rows[place]) == STORE_OK)
            return true;
        free(attempt->rows[place]);
        attempt->rows[place] = NULL;
    }
    struct bulk_request request = {.blob = attempt->assign.inputs[input].blob,
                                   .offset = rows->offset,
                                   .bytes = rows->count,
                                   .digest = &rows->digest};
    add_holders(attempt, &request);
    if (request.holder_count == 0)
        return false;
    struct rows_wait *wait = malloc(sizeof *wait);
    if (!wait)
        return false;
    *wait = (struct rows_wait){.attempt = attempt, .place = place};
    if (!fetch_start(attempt->node, &request, on_rows, wait)) {
        free(wait);
        return false;
    }
    attempt->fetching++;
    return true;
}

/* Asks once for all rows that did not come inline. */
static bool gather_rows(struct attempt *attempt)
{
    const struct manifest *manifest = attempt->assign.manifest;
    for (uint32_t s = 0; s < attempt->assign.shard_count; s++)
        for (uint32_t i = 0; i < manifest->input_count; i++) {
            const bool split = attempt->assign.inputs[i].role == MANIFEST_SPLIT;
            if (split && !attempt->assign.shards[s].rows[i].bytes && !fetch_rows(attempt, i, s))
                return false;
        }
    return true;
}

/* Returns true when every broadcast input is in the store and, where a worker will need it, open. */
static bool gather_blobs(struct attempt *attempt, bool *failed)
{
    struct node *node = attempt->node;
    bool ready = true;
    for (uint32_t i = 0; i < attempt->assign.manifest->input_count; i++) {
        const struct job_input *input = &attempt->assign.inputs[i];
        if (input->role != MANIFEST_BROADCAST ||
            workers_hold(node->workers, attempt->class, attempt->assign.tenant, input->blob.bytes))
            continue;
        struct resident *resident = find_resident(&input->blob);
        if (resident && resident->state == RESIDENT_OPEN) {
            resident->used_at_ms = clock_now_ms();
            continue;
        }
        ready = false;
        if (resident || attempt->fetching > 0)
            continue;
        struct store_blob_info info;
        if (store_blob_stat(node->store, input->blob.bytes, &info) == STORE_OK)
            make_resident(node, &input->blob);
        else if (attempt->asked[i] || !fetch_blob(attempt, i))
            *failed = true;
    }
    return ready;
}

/* Returns true when a user's kernel is compiled for the attempt's device class, or no code is needed. May end the attempt,
 * and says so. */
static bool gather_code(struct attempt *attempt, bool *ended)
{
    const struct user_kernel *kernel = user_kernel_of(attempt->assign.manifest);
    char message[WORKER_MESSAGE_BYTES];
    if (!kernel)
        return true;
    switch (compile_want(attempt->node, kernel, attempt->class, &attempt->code, message)) {
    case COMPILE_READY:
        return true;
    case COMPILE_WAITS:
        return false;
    case COMPILE_NO_SOURCE: {
        struct bulk_request request = {.blob = kernel->source};
        if (attempt->fetching > 0)
            return false;
        add_holders(attempt, &request);
        if (!attempt->asked_source && request.holder_count > 0 &&
            fetch_start(attempt->node, &request, on_blob, attempt)) {
            attempt->asked_source = true;
            attempt->fetching++;
            return false;
        }
        snprintf(message, sizeof message, "the kernel's source is not to be had from its home");
        break;
    }
    case COMPILE_REFUSED: /* it would be anywhere */
        *ended = true;
        fail_all(attempt, MESH_REJECTED, message);
        return false;
    case COMPILE_UNABLE:
        break;
    }
    *ended = true;
    fail_all(attempt, MESH_CRASHED, message);
    return false;
}

/* ---- Running */

static void fill_bundle(struct attempt *attempt, struct worker_bundle *bundle, struct worker_shard *shards)
{
    const struct assign *assign = &attempt->assign;
    *bundle = (struct worker_bundle){.id = attempt->bundle,
                                     .manifest = assign->manifest,
                                     .params = assign->params,
                                     .shards = shards,
                                     .shard_count = assign->shard_count,
                                     .code = attempt->code};
    for (uint32_t i = 0; i < assign->manifest->input_count; i++) {
        const struct job_input *input = &assign->inputs[i];
        bundle->roles[i] = (uint8_t)input->role;
        if (input->role != MANIFEST_BROADCAST)
            continue;
        const struct resident *resident = find_resident(&input->blob);
        struct worker_blob *blob = &bundle->blobs[i];
        *blob = (struct worker_blob){.fd = resident ? resident->fd : -1,
                                     .offset = input->data_offset,
                                     .bytes = input->data_bytes,
                                     .type = input->type};
        memcpy(blob->id, input->blob.bytes, sizeof blob->id);
    }
    for (uint32_t s = 0; s < assign->shard_count; s++) {
        const struct assign_shard *from = &assign->shards[s];
        shards[s] = (struct worker_shard){.first_item = from->first_item, .items = from->items};
        for (uint32_t i = 0; i < assign->manifest->input_count; i++) {
            if (assign->inputs[i].role != MANIFEST_SPLIT)
                continue;
            const uint8_t *fetched = attempt->rows[s * MANIFEST_INPUTS_MAX + i];
            shards[s].rows[i] =
                (struct worker_rows){.data = from->rows[i].bytes ? from->rows[i].bytes : fetched,
                                     .bytes = from->rows[i].count,
                                     .type = from->rows[i].type};
        }
    }
}

static void start(struct attempt *attempt)
{
    static struct worker_shard shards[MESH_BUNDLE_SHARDS_MAX];
    static struct worker_bundle bundle;
    fill_bundle(attempt, &bundle, shards);
    char message[WORKER_MESSAGE_BYTES] = "";
    switch (
        workers_submit(attempt->node->workers, attempt->class, attempt->assign.tenant, &bundle, message)) {
    case WORKERS_TAKEN:
        attempt->phase = RUNNING;
        break;
    case WORKERS_NO_PLACE:
        break;
    case WORKERS_BAD:
        fail_all(attempt, MESH_REJECTED, message);
        break;
    case WORKERS_REFUSED:
        fail_all(attempt, MESH_CRASHED, message);
        break;
    }
}

/* Does the next thing that can be done. May end the attempt. */
static void advance(struct attempt *attempt)
{
    bool failed = false, ended = false;
    const bool ready = gather_blobs(attempt, &failed);
    if (failed) {
        fail_all(attempt, MESH_CRASHED, "an input is not to be had from its home");
        return;
    }
    const bool compiled = gather_code(attempt, &ended);
    if (!ended && ready && compiled && attempt->fetching == 0)
        start(attempt);
}

static void advance_all(struct node *node)
{
    for (struct attempt *attempt = node->execute.attempts; attempt;) {
        struct attempt *next = attempt->next;
        if (attempt->phase == WAITING)
            advance(attempt);
        attempt = next;
    }
}

void execute_run(struct node *node, const struct run_order *order)
{
    struct attempt *attempt = calloc(1, sizeof *attempt);
    if (!attempt)
        abort();
    *attempt = (struct attempt){.node = node,
                                .number = order->attempt,
                                .bundle = ++node->execute.next_bundle,
                                .home = order->home,
                                .others = order->others,
                                .class = order->class,
                                .payload = order->payload};
    struct attempt **link = &node->execute.attempts;
    while (*link)
        link = &(*link)->next;
    *link = attempt;

    switch (order->payload ? assign_decode(order->payload, &attempt->assign) : ASSIGN_MALFORMED) {
    case ASSIGN_OK:
        break;
    case ASSIGN_UNKNOWN_KERNEL:
        attempt->assign.shard_count = order->count;
        fail_all(attempt, MESH_CRASHED, "this node has no such kernel, or another version of it");
        return;
    case ASSIGN_MALFORMED:
        attempt->assign.shard_count = order->count;
        fail_all(attempt, MESH_CRASHED, "the bundle was malformed");
        return;
    }
    if (attempt->assign.shard_count != order->count) {
        attempt->assign.shard_count = order->count;
        fail_all(attempt, MESH_CRASHED, "the bundle was malformed");
        return;
    }
    attempt->rows = calloc((size_t)attempt->assign.shard_count * MANIFEST_INPUTS_MAX, sizeof *attempt->rows);
    if (!attempt->rows)
        abort();
    if (!gather_rows(attempt)) {
        fail_all(attempt, MESH_CRASHED, "its rows are not to be had from its home");
        return;
    }
    advance(attempt);
}

void execute_stop(struct node *node, uint32_t number)
{
    for (struct attempt *attempt = node->execute.attempts; attempt; attempt = attempt->next) {
        if (attempt->number != number || attempt->stopped)
            continue;
        attempt->stopped = true;
        if (attempt->phase == RUNNING)
            workers_stop(node->workers, attempt->bundle, STOP_GRACE_MS);
        else if (attempt->phase != STORING) {
            devices_why(node, attempt->class, attempt->why, sizeof attempt->why);
            finish(attempt);
        }
        return;
    }
}

uint32_t execute_claimed(struct node *node, const uint64_t *bundles, uint32_t count, const char *why,
                         uint32_t *numbers)
{
    uint32_t found = 0;
    for (uint32_t b = 0; b < count; b++) {
        struct attempt *attempt = find_bundle(node, bundles[b]);
        if (!attempt || attempt->phase != RUNNING)
            continue;
        attempt->stopped = true;
        snprintf(attempt->why, sizeof attempt->why, "%s", why);
        numbers[found++] = attempt->number;
    }
    return found;
}

/* ---- Results */

static enum store_error store_output(struct attempt *attempt, const struct worker_output *from,
                                     struct entry_output *to)
{
    if (!attempt->batch)
        attempt->batch = node_batch(attempt->node);
    to->bytes = NULL;
    if (from->bytes <= STORE_SMALL_BYTES)
        return store_batch_blob(attempt->batch, from->data, from->bytes, to->blob.bytes);
    struct store_upload *upload;
    enum store_error error = store_upload_open(attempt->node->store, &upload);
    if (error != STORE_OK)
        return error;
    error = store_upload_append(upload, from->data, from->bytes);
    if (error != STORE_OK) {
        store_upload_close(upload);
        return error;
    }
    return store_upload_finish(upload, NULL, attempt->batch, to->blob.bytes);
}

static enum store_error keep_output(struct attempt *attempt, const struct worker_output *from,
                                    struct entry_output *to)
{
    struct node *node = attempt->node;
    const enum store_error error = store_output(attempt, from, to);
    if (error != STORE_OK || results_add(node, &attempt->held, &to->blob, from->bytes, attempt->batch) ||
        attempt->told)
        return error;
    attempt->told = true;
    log_warn(
        "attempt",
        "home=%s reason=\"results that their homes have not fetched fill %u times store.cache: what comes "
        "now may be evicted, and is then computed again\"",
        peer_name(node, &attempt->home), HOLDS_CACHES);
    return STORE_OK;
}

void execute_shard(void *context, const struct workers_shard *shard)
{
    struct attempt *attempt = find_bundle(context, shard->bundle);
    if (!attempt)
        return;
    if (shard->outcome == MESH_RETURNED) { /* nobody pays for it */
        set_message(attempt, shard->shard, MESH_RETURNED, attempt->why[0] ? attempt->why : "not run");
        return;
    }
    attempt->device_us += shard->device_us;
    if (shard->outcome != MESH_DONE) {
        set_message(attempt, shard->shard, shard->outcome, shard->message ? shard->message : "");
        return;
    }
    struct entry entry = {.output_count = shard->output_count};
    uint64_t inline_bytes = 0;
    for (uint32_t o = 0; o < shard->output_count; o++) {
        const struct worker_output *output = &shard->outputs[o];
        entry.output[o].count = output->bytes;
        enum store_error error;
        if (output->bytes <= JOB_INLINE_BYTES_MAX && inline_bytes + output->bytes <= INLINE_ENTRY_BYTES) {
            entry.output[o].bytes = output->data;
            inline_bytes += output->bytes;
        } else if ((error = keep_output(attempt, output, &entry.output[o])) != STORE_OK) {
            set_message(attempt, shard->shard, outcome_of(attempt->node, error), store_error_text(error));
            return;
        }
    }
    static uint8_t buffer[ENTRY_BYTES_MAX];
    const size_t count = entry_encode(&entry, buffer, sizeof buffer);
    assert(count > 0);
    attempt->outcome[shard->shard] = MESH_DONE;
    attempt->item[shard->shard] = bytes_make(buffer, count);
}

static void on_stored(struct node *node, void *context, enum store_error error)
{
    struct attempt *attempt = context;
    if (error != STORE_OK) {
        const enum mesh_outcome outcome = outcome_of(node, error);
        for (uint32_t s = 0; s < attempt->assign.shard_count; s++)
            if (attempt->outcome[s] == MESH_DONE)
                set_message(attempt, s, outcome, store_error_text(error));
    }
    finish(attempt);
}

void execute_done(void *context, uint64_t bundle)
{
    struct node *node = context;
    struct attempt *attempt = find_bundle(node, bundle);
    if (attempt && attempt->batch) {
        struct store_batch *batch = attempt->batch;
        attempt->batch = NULL;
        attempt->phase = STORING;
        node_commit(node, batch, on_stored, attempt);
    } else if (attempt) {
        finish(attempt);
    }
    advance_all(node);
}

/* A worker that could not be started is tried again, though nothing else may end here that would do so. */
int64_t execute_turn(struct node *node, int64_t now_ms)
{
    bool waiting = false;
    for (const struct attempt *attempt = node->execute.attempts; attempt; attempt = attempt->next)
        waiting = waiting || attempt->phase == WAITING;
    if (!waiting)
        return INT64_MAX;
    if (now_ms >= node->execute.retry_at_ms) {
        node->execute.retry_at_ms = now_ms + RETRY_MS;
        advance_all(node);
    }
    return node->execute.retry_at_ms;
}

enum mesh_fault execute_fault(const struct node *node)
{
    if (node->disk.error)
        return MESH_FAULT_DISK;
    struct workers_view device;
    for (uint32_t i = 0; i < node->devices.count && workers_view(node->workers, i, &device); i++)
        if (device.fault || node->devices.device[i].vanished[0])
            return MESH_FAULT_DEVICE;
    return MESH_FAULT_NONE;
}

void execute_compiled(struct node *node)
{
    advance_all(node);
}

void execute_close(struct node *node)
{
    while (node->execute.attempts) {
        struct attempt *attempt = node->execute.attempts;
        node->execute.attempts = attempt->next;
        attempt->fetching = 0;
        attempt_free(attempt);
    }
    for (int i = 0; i < RESIDENTS_MAX; i++)
        if (residents[i].state == RESIDENT_OPEN)
            close(residents[i].fd);
}
