#include "node/resync.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"

#include <inttypes.h>
#include <sodium.h>

#define MARK "resync" /* of STORE_META */
#define MARK_BYTES (sizeof MARK - 1)
#define PAGE_ROWS_MAX 512u  /* jobs in one answer, of 100 bytes each */
#define PAGE_LOOKS_MAX 4096 /* journals looked at for it */
#define TAKINGS_MAX 8u      /* jobs asked for at once */
#define ASK_MS 5000         /* for an answer */
#define AGAIN_MS 1000       /* before those that have not told all are asked again; it doubles, */
#define AGAIN_MS_MAX 60000  /* up to this */
#define SETTLE_MS 30000     /* members that joined since that disk are heard of by then */
#define ROW_TEXT_BYTES(count) (((count) + 2) / 3 * 4 + 1) /* in base64 */

/* One job on its way here. */
struct taking {
    struct taking *next;
    struct node *node;
    struct mesh_id from;
    struct mesh_id id;
    struct job *job; /* NULL until it was told */
    struct copy head;
    uint32_t fetching;
    bool failed;
    struct bulk_request request;
};

struct resync {
    struct mesh_id *told; /* members that told all that we lack, or know no such call */
    uint32_t told_count, told_room;
    bool puts_together; /* those with no more than the journal are asked, too */
    uint32_t next_member;
    bool busy; /* with this one: */
    struct mesh_id teller;
    json_t *page; /* its answer, NULL while that is awaited */
    size_t next_row;
    bool left; /* it has something that can't be taken yet */
    struct taking *takings;
    uint32_t taking_count;
    int64_t begun_at_ms;
    int64_t again_at_ms;
    int64_t pause_ms;
    uint32_t taken, taken_before; /* jobs; by the latest round */
    bool told_of;                 /* in the log: nothing more is to be had from who is up */
};

/* ---- What is asked of us */

static bool is_among(const struct mesh_members *members, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < members->count; i++)
        if (memcmp(&members->id[i], id, sizeof *id) == 0)
            return true;
    return false;
}

static bool is_here(struct node *node, const struct mesh_id *id)
{
    const struct job *job = jobs_find(node, id);
    return job && job->state >= JOB_DONE;
}

/* Whether that member is to have the job that this is the journal of, and it may be had here. */
static bool keeps_for(struct node *node, struct copy *copy, const struct mesh_id *asker)
{
    return (is_here(node, &copy->job) || jobs_tell(node, copy)) &&
           is_among(copies_members(node, copy), asker);
}

struct looks {
    struct mesh_id id[PAGE_LOOKS_MAX];
    uint32_t count;
};

static bool look(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct looks *looks = context;
    (void)value;
    (void)value_bytes;
    if (key_bytes == sizeof looks->id[0])
        memcpy(&looks->id[looks->count++], key, key_bytes);
    return looks->count < PAGE_LOOKS_MAX;
}

/* Another node's id, as the call that it made has it. False: the call was answered. */
static bool asker_of(struct api_call *call, struct mesh_id *asker)
{
    const char *from = body_text(call, "from");
    struct digest id;
    if (!api_remote_site(call) || !from || digest_from_hex(from, &id) != CRYPTO_OK) {
        api_error(call, EXIT_USAGE, "nodes ask each other so");
        return false;
    }
    memcpy(asker->bytes, id.bytes, sizeof asker->bytes);
    return true;
}

static bool id_of(const char *text, struct mesh_id *id)
{
    struct digest digest;
    if (!text || digest_from_hex(text, &digest) != CRYPTO_OK)
        return false;
    memcpy(id->bytes, digest.bytes, sizeof id->bytes);
    return true;
}

void op_kept(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, after;
    if (!asker_of(call, &asker))
        return;
    const bool later = id_of(body_text(call, "after"), &after);
    const struct store_range range = {.after = after.bytes, .after_bytes = later ? sizeof after : 0};
    struct looks *looks = must(calloc(1, sizeof *looks));
    store_each(node->store, STORE_COPIES, &range, look, looks);
    json_t *rows = json_array();
    uint32_t i = 0;
    for (; i < looks->count && json_array_size(rows) < PAGE_ROWS_MAX; i++) {
        struct copy *copy = copies_find(node, &looks->id[i]);
        if (!copy || !keeps_for(node, copy, &asker))
            continue;
        json_t *row = json_pack("{s:b}", "here", is_here(node, &copy->job));
        json_put(row, "id", json_hex(copy->job.bytes, sizeof copy->job.bytes));
        json_array_append_new(rows, row);
    }
    const bool ends = i == looks->count && looks->count < PAGE_LOOKS_MAX;
    json_t *reply = json_pack("{s:o}", "jobs", rows);
    json_put(reply, "next", ends ? json_null() : json_hex(looks->id[i - 1].bytes, sizeof looks->id[0]));
    free(looks);
    api_reply(call, reply);
}

static json_t *base64(const uint8_t *bytes, size_t count)
{
    char text[ROW_TEXT_BYTES(JOB_ROW_BYTES_MAX)];
    return json_string(sodium_bin2base64(text, sizeof text, bytes, count, sodium_base64_VARIANT_ORIGINAL));
}

void op_finished(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, id;
    if (!asker_of(call, &asker))
        return;
    struct copy *copy = id_of(body_text(call, "job"), &id) ? copies_find(node, &id) : NULL;
    if (!copy || !keeps_for(node, copy, &asker)) {
        api_error(call, EXIT_NONE, "no finished job of whose journal you are a member");
        return;
    }
    if (!is_here(node, &id))
        jobs_revive(node, &id);
    if (!is_here(node, &id)) {
        api_reply(call, json_pack("{s:b}", "later", 1));
        return;
    }
    uint8_t row[JOB_ROW_BYTES_MAX], head[COPIES_HEAD_BYTES_MAX];
    const size_t row_bytes = job_row_encode(jobs_find(node, &id), row, sizeof row);
    const size_t head_bytes = copies_head_encode(copy, head, sizeof head);
    json_t *reply = json_object();
    json_put(reply, "row", base64(row, row_bytes));
    json_put(reply, "head", base64(head, head_bytes));
    api_reply(call, reply);
}

/* ---- What is here */

enum state { KEPT, LACKED, UNDER_WAY };

static enum state state_of(struct node *node, const struct mesh_id *id)
{
    struct mesh_journal_view view;
    const struct job *job = jobs_find(node, id);
    const struct copy *copy = copies_find(node, id);
    if (job)
        return job->state >= JOB_DONE ? KEPT : UNDER_WAY;
    if (mesh_journal_find(node->host.mesh, id, &view) || (copy && !copy->over))
        return UNDER_WAY; /* its home brings it up, or says that it is over */
    return copy && copy->whole ? KEPT : LACKED;
}

/* ---- Taking one */

static void go_on(struct node *node);

static void end(struct taking *taking, bool good)
{
    struct node *node = taking->node;
    struct resync *resync = node->resync;
    struct taking **link = &resync->takings;
    while (*link != taking)
        link = &(*link)->next;
    *link = taking->next;
    resync->taking_count--;
    resync->left = resync->left || !good;
    if (!good && taking->job && state_of(node, &taking->id) == LACKED) { /* its blobs may go, for now */
        struct store_batch *batch = node_batch(node);
        store_batch_unpin_all(batch, taking->id.bytes);
        node_commit(node, batch, NULL, NULL);
    }
    if (taking->job)
        job_free(taking->job);
    free(taking);
    go_on(node);
}

/* What it was made of, in case it is to be computed again. */
static void on_input(struct node *node, void *context, const struct bulk_done *done)
{
    (void)context;
    if (done->error != BULK_OK)
        log_debug("resync", "error=\"an input of a finished job was not had: %s\"",
                  bulk_error_text(done->error));
    (void)node;
}

static void fetch_inputs(struct taking *taking, const struct job *job)
{
    if (job->state != JOB_DONE)
        return;
    struct digest blobs[JOB_BLOBS_MAX], pin;
    const uint32_t count = jobs_blobs(job, blobs);
    memcpy(pin.bytes, taking->id.bytes, sizeof pin.bytes);
    for (uint32_t i = 0; i < count; i++) {
        taking->request.blob = blobs[i];
        taking->request.pin = &pin;
        fetch_start(taking->node, &taking->request, on_input, NULL);
    }
}

static void on_kept(struct node *node, void *context, enum store_error error)
{
    struct taking *taking = context;
    if (error != STORE_OK)
        disk_failed(node, error);
    if (error != STORE_OK || state_of(node, &taking->id) != LACKED) {
        end(taking, false);
        return;
    }
    struct job *job = taking->job;
    taking->job = NULL;
    copies_adopt(node, &taking->head);
    job->read_back = true;
    node->rechecks_wanted = node->rechecks_wanted || job->doubted;
    jobs_add(node, job);
    node->resync->taken++;
    log_debug("resync", "job=%s from=%s", peer_name(node, &taking->id), peer_name(node, &taking->from));
    fetch_inputs(taking, job);
    end(taking, true);
}

static uint32_t output_count(const struct job *job)
{
    return job->state == JOB_DONE ? job->spec.output_count : 0;
}

/* Its outputs are here. */
static void keep(struct taking *taking)
{
    struct node *node = taking->node;
    const struct job *job = taking->job;
    struct store_batch *batch = node_batch(node);
    for (uint32_t o = 0; o < output_count(job); o++)
        store_batch_pin(batch, job->output_blob[o].bytes, taking->id.bytes);
    jobs_put_row(batch, job);
    copies_put_head(batch, &taking->head);
    node_commit(node, batch, on_kept, taking);
}

static void advance(struct taking *taking)
{
    if (--taking->fetching > 0)
        return;
    if (taking->failed)
        end(taking, false);
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
        log_info("resync", "job=%s from=%s error=\"cannot fetch an output: %s\"",
                 peer_name(node, &taking->id), peer_name(node, &taking->from),
                 done->error == BULK_STORE ? store_error_text(done->store) : bulk_error_text(done->error));
    }
    advance(taking);
}

static void fetch_outputs(struct taking *taking)
{
    struct digest pin;
    const struct mesh_members *members = &taking->head.members;
    memcpy(pin.bytes, taking->id.bytes, sizeof pin.bytes);
    taking->request = (struct bulk_request){.holders = {taking->from}, .holder_count = 1, .pin = &pin};
    for (uint32_t i = 0; i < members->count && taking->request.holder_count < BULK_HOLDERS_MAX; i++)
        if (memcmp(&members->id[i], &taking->node->self, sizeof members->id[i]) != 0 &&
            memcmp(&members->id[i], &taking->from, sizeof members->id[i]) != 0)
            taking->request.holders[taking->request.holder_count++] = members->id[i];
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
        !is_among(&taking->head.members, &taking->node->self))
        return false;
    struct job *job = taking->job = job_row_decode(row, row_bytes);
    if (!job)
        return false;
    const struct mesh_id named = job_id(job->spec.tenant, job->spec.key);
    return memcmp(&named, &taking->id, sizeof named) == 0 &&
           memcmp(&job->spec.id, &taking->id, sizeof named) == 0 && job->state >= JOB_DONE;
}

/* As we keep it. */
static void own_head(struct taking *taking)
{
    struct copy *head = &taking->head;
    const enum job_state state = taking->job->state;
    head->reign = head->chosen = 0;
    for (uint32_t i = 0; i < head->members.count; i++)
        if (memcmp(&head->members.id[i], &taking->node->self, sizeof head->members.id[i]) == 0)
            head->chosen = head->members.storage[i];
    head->over = head->whole = true;
    head->end_state = state == JOB_DONE     ? MESH_JOB_DONE
                      : state == JOB_FAILED ? MESH_JOB_FAILED
                                            : MESH_JOB_CANCELLED;
    head->ended_at_ms = head->ended_at_ms ? head->ended_at_ms : taking->job->finished_at_ms;
}

static void on_told(struct node *node, void *context, const json_t *answer)
{
    struct taking *taking = context;
    if (!answer || !json_is_true(json_object_get(answer, "ok")) ||
        json_is_true(json_object_get(answer, "later"))) {
        end(taking, false);
    } else if (!read_told(taking, answer)) {
        log_warn("resync",
                 "job=%s from=%s error=\"what it tells of a finished job makes no sense here, or is of "
                 "a kernel that this build lacks\"",
                 peer_name(node, &taking->id), peer_name(node, &taking->from));
        end(taking, true); /* it would say the same again */
    } else {
        own_head(taking);
        fetch_outputs(taking);
    }
}

static void take(struct node *node, const struct mesh_id *id)
{
    struct resync *resync = node->resync;
    struct taking *taking = must(calloc(1, sizeof *taking));
    *taking = (struct taking){.next = resync->takings, .node = node, .from = resync->teller, .id = *id};
    json_t *question = json_pack("{s:s}", "op", "finished");
    json_put(question, "job", json_hex(id->bytes, sizeof id->bytes));
    if (calls_ask(node, &resync->teller, question, ASK_MS, on_told, taking)) {
        resync->takings = taking;
        resync->taking_count++;
    } else {
        free(taking);
        resync->left = true;
    }
    json_decref(question);
}

/* ---- From page to page */

static void note_told(struct resync *resync, const struct mesh_id *member)
{
    if (resync->told_count == resync->told_room) {
        resync->told_room = 2 * resync->told_room + 8;
        resync->told = must(realloc(resync->told, resync->told_room * sizeof *resync->told));
    }
    resync->told[resync->told_count++] = *member;
}

static bool has_told(const struct resync *resync, const struct mesh_id *member)
{
    for (uint32_t i = 0; i < resync->told_count; i++)
        if (memcmp(&resync->told[i], member, sizeof *member) == 0)
            return true;
    return false;
}

static void leave(struct resync *resync, bool told)
{
    if (told && !resync->left)
        note_told(resync, &resync->teller);
    json_decref(resync->page);
    resync->page = NULL;
    resync->busy = false;
}

static void on_page(struct node *node, void *context, const json_t *answer)
{
    struct resync *resync = node->resync;
    (void)context;
    const bool knows = json_integer_value(json_object_get(answer, "exit")) != EXIT_USAGE;
    if (!json_is_array(json_object_get(answer, "jobs"))) {
        leave(resync, answer && !knows);
        return;
    }
    resync->page = json_deep_copy(answer);
    resync->next_row = 0;
    go_on(node);
}

static void ask_page(struct node *node, const char *after)
{
    struct resync *resync = node->resync;
    json_t *question = json_pack("{s:s, s:s*}", "op", "kept", "after", after);
    const bool asked = calls_ask(node, &resync->teller, question, ASK_MS, on_page, NULL);
    json_decref(question);
    json_decref(resync->page);
    resync->page = NULL;
    if (!asked)
        leave(resync, false);
}

static void take_row(struct node *node, const json_t *row)
{
    struct resync *resync = node->resync;
    struct mesh_id id;
    if (!id_of(json_string_value(json_object_get(row, "id")), &id))
        return;
    const enum state state = state_of(node, &id);
    const bool may_be_had = json_is_true(json_object_get(row, "here")) || resync->puts_together;
    if (state == LACKED && may_be_had && node->jobs.count + resync->taking_count < JOBS_KEPT_MAX)
        take(node, &id);
    else if (state != KEPT)
        resync->left = true;
}

/* The next of the page, as many at once as may be, and then the next page. */
static void go_on(struct node *node)
{
    struct resync *resync = node->resync;
    if (!resync->page)
        return;
    const json_t *rows = json_object_get(resync->page, "jobs");
    while (resync->taking_count < TAKINGS_MAX && resync->next_row < json_array_size(rows))
        take_row(node, json_array_get(rows, resync->next_row++));
    if (resync->taking_count > 0)
        return;
    const char *next = json_string_value(json_object_get(resync->page, "next"));
    if (next)
        ask_page(node, next);
    else
        leave(resync, true);
}

/* ---- From member to member */

/* Those of whom something may be had some time. */
static bool counts(const struct resync *resync, const struct mesh_member_view *view)
{
    return !view->self && view->state <= MESH_DOWN && !has_told(resync, &view->id);
}

/* Begins with the next one that is up and has not told all; false: that was the last of this round. */
static bool ask_next(struct node *node)
{
    struct resync *resync = node->resync;
    struct mesh_member_view view;
    while (mesh_member_view(node->host.mesh, resync->next_member, &view)) {
        resync->next_member++;
        if (!counts(resync, &view) || view.state > MESH_SUSPECT)
            continue;
        resync->busy = true;
        resync->left = false;
        resync->teller = view.id;
        ask_page(node, NULL);
        return true;
    }
    return false;
}

static void end_resync(struct node *node)
{
    struct store_batch *batch = node_batch(node);
    store_batch_delete(batch, STORE_META, MARK, MARK_BYTES);
    node_commit(node, batch, NULL, NULL);
    resync_close(node);
}

/* All that are up were asked. */
static void end_round(struct node *node, int64_t now_ms)
{
    struct resync *resync = node->resync;
    struct mesh_member_view view;
    uint32_t up = 0, down = 0;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        up += counts(resync, &view) && view.state <= MESH_SUSPECT;
        down += counts(resync, &view) && view.state == MESH_DOWN;
    }
    const bool told_something = resync->taken > resync->taken_before;
    resync->told_of = resync->told_of && !told_something;
    if (up == 0 && resync->told_count > 0 && !resync->told_of) {
        log_info("resync", "state=done jobs=%u asked=%u down=%u", resync->taken, resync->told_count, down);
        resync->told_of = true;
    }
    if (up + down == 0 && resync->told_count > 0 && now_ms - resync->begun_at_ms >= SETTLE_MS) {
        end_resync(node);
        return;
    }
    resync->pause_ms = told_something || !resync->puts_together ? AGAIN_MS : 2 * resync->pause_ms;
    if (up == 0 || resync->pause_ms > AGAIN_MS_MAX)
        resync->pause_ms = up == 0 ? AGAIN_MS : AGAIN_MS_MAX;
    resync->puts_together = true;
    resync->taken_before = resync->taken;
    resync->next_member = 0;
    resync->again_at_ms = now_ms + resync->pause_ms;
}

int64_t resync_turn(struct node *node, int64_t now_ms)
{
    struct resync *resync = node->resync;
    if (!resync || resync->busy)
        return INT64_MAX;
    if (now_ms < resync->again_at_ms)
        return resync->again_at_ms;
    if (!ask_next(node))
        end_round(node, now_ms);
    return node->resync ? now_ms : INT64_MAX;
}

/* ---- Beginning and end */

void resync_save(const struct node *node, struct store_batch *batch)
{
    if (mesh_counters(node->host.mesh)->disks_lost > node->disks_lost)
        store_batch_put(batch, STORE_META, MARK, MARK_BYTES, "", 0);
}

void resync_begin(struct node *node)
{
    if (!node->resync) {
        node->resync = must(calloc(1, sizeof *node->resync));
        node->resync->pause_ms = AGAIN_MS;
    }
    node->resync->begun_at_ms = clock_now_ms();
    node->resync->told_count = 0;
    node->resync->told_of = false;
}

void resync_restore(struct node *node)
{
    size_t bytes;
    if (store_get(node->store, STORE_META, MARK, MARK_BYTES, NULL, 0, &bytes) == STORE_OK)
        resync_begin(node);
}

/* The calls and fetches under way come back no more: the node closes, or there are none. */
void resync_close(struct node *node)
{
    struct resync *resync = node->resync;
    node->resync = NULL;
    if (!resync)
        return;
    while (resync->takings) {
        struct taking *taking = resync->takings;
        resync->takings = taking->next;
        if (taking->job)
            job_free(taking->job);
        free(taking);
    }
    json_decref(resync->page);
    free(resync->told);
    free(resync);
}
