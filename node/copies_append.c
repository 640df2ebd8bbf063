/* Journals of several copies: entries of other homes, which wait here until the blobs that they name have come. */
#include "node/copies_internal.h"
#include "node/log.h"
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

/* Entries that wait for blobs. One more is not taken; its home sends it again. */
#define WAITS_MAX 1024u

/* ---- Taking what a home sends */

/* An APPEND whose blobs are on their way. */
struct append_wait {
    struct append_wait *next;
    struct node *node;
    struct mesh_id from;
    struct mesh_message *message;
    struct bytes *payload;
    struct store_batch *batch; /* pins on blobs that are here already */
    uint32_t fetching;
    bool failed;
    bool ready;
    struct bulk_request request; /* for those that are not */
};

static void wait_free(struct append_wait *wait)
{
    store_batch_close(wait->batch);
    bytes_drop(wait->payload);
    free(wait->message);
    free(wait);
}

/* A job that ended here and whose journal the core has forgotten. */
static bool knows_end(struct node *node, const struct mesh_id *id)
{
    const struct copy *copy = copies_find(node, id);
    const struct job *job = jobs_find(node, id);
    return copy ? copy->over : job && job->state >= JOB_DONE;
}

static void tell_over(struct node *node, const struct mesh_id *job, const struct mesh_id *to)
{
    const struct copy *copy = copies_find(node, job);
    struct mesh_event event = {.kind = MESH_JOB_IS_OVER, .body.is_over = {.job = *job, .to = *to}};
    if (copy && copy->whole) {
        event.body.is_over.last = copy->last;
        event.body.is_over.last_epoch = copy->last_epoch;
    }
    host_post(node, &event);
}

/* Entries of that job go on, as far as they are ready. Those that failed are sent again by their home. */
static void pass_on(struct node *node, const struct mesh_id *job)
{
    struct append_wait **link = &node->copies.waits;
    while (*link) {
        struct append_wait *wait = *link;
        if (memcmp(&wait->message->body.append.job, job, sizeof *job) != 0) {
            link = &wait->next;
            continue;
        }
        if (!wait->ready || wait->fetching > 0)
            return;
        *link = wait->next;
        node->copies.wait_count--;
        if (!wait->failed && wait->message->body.append.index == 1 && knows_end(node, job))
            tell_over(node, job, &wait->from); /* it came otherwise meanwhile: resync.c */
        else if (!wait->failed)
            host_received(node, &wait->from, wait->message, bytes_keep(wait->payload));
        wait_free(wait);
    }
}

static void on_pinned(struct node *node, void *context, enum store_error error)
{
    struct append_wait *wait = context;
    const struct mesh_id job = wait->message->body.append.job;
    wait->ready = true;
    if (error != STORE_OK) {
        wait->failed = true;
        disk_failed(node, error);
    }
    pass_on(node, &job);
}

static void advance(struct append_wait *wait)
{
    if (wait->fetching > 0)
        return;
    struct node *node = wait->node;
    if (!wait->failed && store_batch_operations(wait->batch) > 0) {
        struct store_batch *batch = wait->batch;
        wait->batch = NULL;
        node_commit(node, batch, on_pinned, wait);
        return;
    }
    const struct mesh_id job = wait->message->body.append.job;
    wait->ready = true;
    pass_on(node, &job);
}

static void on_blob(struct node *node, void *context, const struct bulk_done *done)
{
    struct append_wait *wait = context;
    wait->fetching--;
    if (done->error != BULK_OK) {
        wait->failed = true;
        node->copies.blobs_missed++;
        log_warn("journal", "job=%s from=%s entry=%u error=\"cannot fetch what it names: %s\"",
                 peer_name(node, &wait->message->body.append.job), peer_name(node, &wait->from),
                 wait->message->body.append.index,
                 done->error == BULK_STORE ? store_error_text(done->store) : bulk_error_text(done->error));
        if (done->error == BULK_STORE)
            disk_failed(node, done->store);
    } else {
        node->copies.blobs_fetched++;
        node->copies.blob_bytes += done->count;
    }
    advance(wait);
}

static void want_blob(void *context, const uint8_t blob[32], const struct digest *pin)
{
    struct append_wait *wait = context;
    struct node *node = wait->node;
    struct store_blob_info info;
    if (store_blob_stat(node->store, blob, &info) == STORE_OK) {
        store_batch_pin(wait->batch, blob, pin->bytes);
        return;
    }
    memcpy(wait->request.blob.bytes, blob, sizeof wait->request.blob.bytes);
    wait->request.pin = pin;
    if (fetch_start(node, &wait->request, on_blob, wait))
        wait->fetching++;
    else
        wait->failed = true;
}

static void count_blob(void *context, const uint8_t blob[32], const struct digest *pin)
{
    (void)blob;
    (void)pin;
    ++*(uint32_t *)context;
}

/* Who may have them: the sender, then the other members. */
static void holders_of(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                       struct bulk_request *request)
{
    struct mesh_journal_view view;
    const struct mesh_members *members = &message->body.append.members;
    if (members->count == 0 && mesh_journal_find(node->host.mesh, &message->body.append.job, &view))
        members = &view.members;
    *request = (struct bulk_request){.holders = {*from}, .holder_count = 1};
    for (uint32_t i = 0; i < members->count && request->holder_count < BULK_HOLDERS_MAX; i++)
        if (memcmp(&members->id[i], from, sizeof *from) != 0 &&
            memcmp(&members->id[i], &node->self, sizeof node->self) != 0)
            request->holders[request->holder_count++] = members->id[i];
}

/* Whether something of that job waits; `again`: that very entry. */
static bool waits(const struct node *node, const struct mesh_message *message, bool *again)
{
    bool some = false;
    *again = false;
    for (const struct append_wait *wait = node->copies.waits; wait; wait = wait->next) {
        const struct mesh_message *other = wait->message;
        if (memcmp(&other->body.append.job, &message->body.append.job, sizeof other->body.append.job) != 0)
            continue;
        some = true;
        *again = *again || (other->body.append.index == message->body.append.index &&
                            other->body.append.epoch == message->body.append.epoch);
    }
    return some;
}

static void wait_for_blobs(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                           struct bytes *payload)
{
    struct append_wait *wait = calloc(1, sizeof *wait);
    must(wait);
    *wait = (struct append_wait){.node = node, .from = *from, .payload = payload, .batch = node_batch(node)};
    wait->message = calloc(1, sizeof *wait->message);
    must(wait->message);
    memcpy(wait->message, message, mesh_message_bytes(message));
    holders_of(node, from, message, &wait->request);
    struct append_wait **link = &node->copies.waits;
    while (*link)
        link = &(*link)->next;
    *link = wait;
    node->copies.wait_count++;
    wait->fetching = 1; /* ours, until all were asked for */
    copies_each_blob(&message->body.append.job, (enum mesh_entry_kind)message->body.append.kind,
                     payload->data, payload->count, want_blob, wait);
    wait->fetching--;
    advance(wait);
}

/* Whether nothing of that journal, whose members these are, was ever on this disk. */
static bool never_had(struct node *node, const struct mesh_id *job, const struct mesh_members *members)
{
    struct copy asked = {0};
    copies_note_chosen(node, &asked, members);
    return !copies_find(node, job) && !jobs_find(node, job) && asked.chosen > node->copies.forgotten;
}

void copies_on_asked(struct node *node, const struct mesh_effect *effect)
{
    const struct mesh_id *job = &effect->body.asked.job;
    const struct mesh_members *members = &effect->body.asked.members;
    if (knows_end(node, job))
        tell_over(node, job, &effect->body.asked.from);
    else if (members->count > 0 && never_had(node, job, members))
        host_post(node, &(struct mesh_event){.kind = MESH_JOURNAL_NEW,
                                             .body.fresh = {.job = *job,
                                                            .from = effect->body.asked.from,
                                                            .epoch = effect->body.asked.epoch,
                                                            .members = *members}});
}

void copies_on_append(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                      struct bytes *payload)
{
    const struct mesh_id *job = &message->body.append.job;
    uint32_t blobs = 0;
    bool again;
    if (!copies_each_blob(job, (enum mesh_entry_kind)message->body.append.kind, payload->data, payload->count,
                          count_blob, &blobs)) {
        node->copies.refused++;
        log_warn("journal",
                 "job=%s from=%s entry=%u error=\"an entry that makes no sense here, or of a kernel that "
                 "this build lacks\"",
                 peer_name(node, job), peer_name(node, from), message->body.append.index);
        bytes_drop(payload);
    } else if (message->body.append.index == 1 && knows_end(node, job)) {
        tell_over(node, job, from);
        bytes_drop(payload);
    } else if (!waits(node, message, &again) && blobs == 0) {
        host_received(node, from, message, payload);
    } else if (again || node->copies.wait_count >= WAITS_MAX) {
        bytes_drop(payload);
    } else {
        wait_for_blobs(node, from, message, payload);
    }
}

/* ---- What was lost */

struct refetch {
    struct node *node;
    struct mesh_id job;
    copies_fetched *done;
    uint32_t fetching;
    struct bulk_request request;
};

static void refetch_advance(struct refetch *refetch)
{
    if (--refetch->fetching > 0)
        return;
    refetch->done(refetch->node, &refetch->job);
    free(refetch);
}

static void on_refetched(struct node *node, void *context, const struct bulk_done *done)
{
    struct refetch *refetch = context;
    log_info("journal", "job=%s refetched=%s", peer_name(node, &refetch->job),
             done->error == BULK_OK ? "yes" : bulk_error_text(done->error));
    refetch_advance(refetch);
}

static void refetch_blob(void *context, const uint8_t blob[32], const struct digest *pin)
{
    struct refetch *refetch = context;
    struct store_blob_info info;
    if (store_blob_stat(refetch->node->store, blob, &info) == STORE_OK)
        return;
    memcpy(refetch->request.blob.bytes, blob, sizeof refetch->request.blob.bytes);
    refetch->request.pin = pin;
    refetch->fetching += fetch_start(refetch->node, &refetch->request, on_refetched, refetch);
}

static bool refetch_entry(void *context, const struct copies_entry_view *view)
{
    struct refetch *refetch = context;
    copies_each_blob(&refetch->job, view->kind, view->bytes, view->count, refetch_blob, refetch);
    return true;
}

void copies_fetch_missing(struct node *node, const struct mesh_id *job, copies_fetched *done)
{
    struct refetch *refetch = calloc(1, sizeof *refetch);
    must(refetch);
    *refetch = (struct refetch){.node = node, .job = *job, .done = done, .fetching = 1};
    struct copy *copy = copies_find(node, job);
    const struct mesh_members none = {0}, *members = copy ? copies_members(node, copy) : &none;
    for (uint32_t i = 0; i < members->count && refetch->request.holder_count < BULK_HOLDERS_MAX; i++)
        if (memcmp(&members->id[i], &node->self, sizeof node->self) != 0)
            refetch->request.holders[refetch->request.holder_count++] = members->id[i];
    if (refetch->request.holder_count > 0)
        copies_read(node, job, 1, refetch_entry, refetch);
    refetch_advance(refetch);
}

void copies_append_close(struct node *node)
{
    while (node->copies.waits) {
        struct append_wait *wait = node->copies.waits;
        node->copies.waits = wait->next;
        wait_free(wait);
    }
}
