/* The local API's calls about blobs. What is not here is fetched from who has it. */
#include "node/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_EVERY_MS 200

/* ---- put */

struct put {
    struct node *node;
    struct store_upload *upload;
    struct api_call *call; /* NULL once the client has gone */
    uint64_t bytes;
    struct digest id;
    bool hold;       /* for the job that the connection submits next */
    bool kept;       /* something else pins it already */
    bool committing; /* all its data has come: it ends in put_committed */
};

static void put_gone(void *context, struct api_call *call)
{
    (void)call;
    struct put *put = context;
    put->call = NULL;
    if (!put->committing) { /* in the middle of the data: nothing else knows of it */
        store_upload_close(put->upload);
        free(put);
    }
}

/* What is larger than all that may stay would be evicted before anybody can ask for it, or push the others of its job
 * out: refuses it, unless something keeps it in any case. */
static bool put_fits(struct put *put)
{
    const struct uploads *uploads = put->hold ? *api_state(put->call) : NULL;
    const uint64_t before = uploads ? uploads->held.bytes : 0;
    struct store_blob_info info;
    put->kept = store_blob_stat(put->node->store, put->id.bytes, &info) == STORE_OK && info.pinned;
    if (put->kept || put->bytes + before <= put->node->config.cache_bytes)
        return true;
    const double mib = 1 << 20;
    char together[96] = "";
    if (before > 0)
        snprintf(together, sizeof together, " (%.1f MiB with what was uploaded before it for the same job)",
                 (double)(put->bytes + before) / mib);
    api_error(put->call, EXIT_FAILED,
              "the blob was not kept: it has %.1f MiB%s, and store.cache of %s is %.1f MiB; raise that",
              (double)put->bytes / mib, together, peer_name(put->node, &put->node->self),
              (double)put->node->config.cache_bytes / mib);
    return false;
}

/* However many connections there are, they leave room on the disk. */
static bool put_hold(struct put *put, struct store_batch *batch)
{
    struct node *node = put->node;
    if (upload_take(node, &put->id, put->kept ? 0 : put->bytes, batch))
        return true;
    api_error(
        put->call, EXIT_FAILED,
        "the blob was not kept: what clients uploaded for jobs that are not submitted yet fills %u times "
        "store.cache of %s, %.1f MiB; try again when they are, or raise that",
        HOLDS_CACHES, peer_name(node, &node->self), (double)node->config.cache_bytes / (1 << 20));
    return false;
}

static void put_committed(struct node *node, void *context, enum store_error error)
{
    struct put *put = context;
    if (put->hold && put->call && error == STORE_OK)
        uploads_add(node, (struct uploads **)api_state(put->call), &put->id, put->kept ? 0 : put->bytes);
    else if (put->hold)
        hold_release(node, &put->id);
    if (error == STORE_OK && put->bytes > STORE_SMALL_BYTES)
        cache_publish(node, &put->id,
                      1); /* so that it is found, and served by several once others have fetched it */
    if (put->call && error == STORE_OK) {
        json_t *reply = json_pack("{s:I}", "bytes", (json_int_t)put->bytes);
        json_put(reply, "blob", json_hex(put->id.bytes, 32));
        api_reply(put->call, reply);
    } else if (put->call) {
        api_error(put->call, EXIT_FAILED, "the blob was not stored: %s", store_error_text(error));
    }
    free(put);
}

static void put_fail(struct put *put, enum store_error error)
{
    store_upload_close(put->upload);
    api_error(put->call, EXIT_FAILED, "the blob was not stored: %s", store_error_text(error));
    free(put);
}

/* All its data has come, and is in the batch. */
static void put_commit(struct put *put, struct store_batch *batch)
{
    if (!put_fits(put) || (put->hold && !put_hold(put, batch))) {
        store_batch_close(batch);
        free(put);
        return;
    }
    put->committing = true;
    node_commit(put->node, batch, put_committed, put);
}

static void put_data(void *context, struct api_call *call, const void *bytes, size_t count, bool last)
{
    (void)call;
    struct put *put = context;
    enum store_error error = STORE_OK;
    if (count > 0)
        error = store_upload_append(put->upload, bytes, count);
    if (error != STORE_OK) {
        put_fail(put, error);
        return;
    }
    if (!last)
        return;
    struct store_batch *batch = node_batch(put->node);
    struct store_upload *upload = put->upload;
    put->upload = NULL;
    error = store_upload_finish(upload, NULL, batch, put->id.bytes);
    if (error != STORE_OK) {
        store_batch_close(batch);
        put_fail(put, error);
        return;
    }
    put_commit(put, batch);
}

/* One small blob that came in one piece: no file in between. */
static void put_small(void *context, struct api_call *call, const void *bytes, size_t count, bool last)
{
    struct put *put = context;
    if (!last || count != put->bytes) {
        /* It came in pieces after all. */
        if (!put->upload && store_upload_open(put->node->store, &put->upload) != STORE_OK) {
            api_error(call, EXIT_FAILED, "the blob was not stored: no room for its file");
            free(put);
            return;
        }
        put_data(context, call, bytes, count, last);
        return;
    }
    struct store_batch *batch = node_batch(put->node);
    const enum store_error error = store_batch_blob(batch, bytes, count, put->id.bytes);
    if (error != STORE_OK) {
        store_batch_close(batch);
        put_fail(put, error);
        return;
    }
    put_commit(put, batch);
}

/* Whether the connection may hold one more upload. What it held for an earlier job has served: that was refused. */
static bool may_hold(struct node *node, struct uploads *uploads)
{
    if (uploads && uploads->submitted)
        uploads_release(node, uploads);
    return !uploads || uploads->held.count < JOB_BLOBS_MAX;
}

void op_blob_put(void *context, struct api_call *call)
{
    struct node *node = context;
    const int64_t bytes = body_integer(call, "bytes", -1);
    if (bytes < 0 || (uint64_t)bytes > STORE_BLOB_BYTES_MAX) {
        api_error(call, EXIT_USAGE, "'bytes' must say how long the blob is, at most %llu",
                  (unsigned long long)STORE_BLOB_BYTES_MAX);
        return;
    }
    const bool hold = api_state(call) && json_is_true(json_object_get(api_body(call), "hold"));
    if (hold && !may_hold(node, *api_state(call))) {
        api_error(call, EXIT_USAGE, "a job has no more than %u inputs and a kernel; submit it first",
                  MANIFEST_INPUTS_MAX);
        return;
    }
    struct put *put = calloc(1, sizeof *put);
    if (!put)
        abort();
    *put = (struct put){.node = node, .call = call, .bytes = (uint64_t)bytes, .hold = hold};
    const bool small = bytes <= STORE_SMALL_BYTES;
    if (!small && store_upload_open(node->store, &put->upload) != STORE_OK) {
        free(put);
        api_error(call, EXIT_FAILED, "the blob was not stored: no room for its file");
        return;
    }
    api_on_gone(call, put_gone, put);
    api_receive(call, (uint64_t)bytes, small ? put_small : put_data, put);
}

/* ---- get */

/* A client that wants a blob, which is held until all of it is sent; but one that is here and small is sent at once. */
struct get {
    struct node *node;
    struct api_call *call; /* NULL: the client has gone */
    struct digest blob;
    uint64_t offset;
    bool held;
};

static void get_free(void *context)
{
    struct get *get = context;
    if (get->held)
        hold_release(get->node, &get->blob);
    free(get);
}

#define GET_FAILURE_BYTES 160

static void get_failure(const struct get *get, enum store_error error, char why[GET_FAILURE_BYTES])
{
    char hex[DIGEST_HEX_BYTES];
    digest_to_hex(&get->blob, hex);
    snprintf(why, GET_FAILURE_BYTES, "blob %.16s: %s; put it again from where it came", hex,
             store_error_text(error));
}

static ssize_t get_fill(void *context, uint64_t offset, void *buffer, size_t capacity)
{
    struct get *get = context;
    const enum store_error error =
        store_blob_read(get->node->store, get->blob.bytes, get->offset + offset, capacity, buffer);
    if (error == STORE_OK)
        return (ssize_t)capacity;
    char why[GET_FAILURE_BYTES];
    get_failure(get, error, why);
    api_cut(get->call, EXIT_FAILED, "%s", why);
    return -1;
}

/* The blob is here: sends what was asked for. Takes `get` over. */
static void get_serve(struct get *get)
{
    struct api_call *call = get->call;
    struct store_blob_info info;
    const enum store_error error = store_blob_stat(get->node->store, get->blob.bytes, &info);
    if (error != STORE_OK) {
        char why[GET_FAILURE_BYTES];
        get_failure(get, error, why);
        get_free(get);
        api_error(call, EXIT_FAILED, "%s", why);
        return;
    }
    const int64_t offset = body_integer(call, "offset", 0);
    const int64_t count = body_integer(call, "count", (int64_t)info.bytes - offset);
    if (offset < 0 || count < 0 || (uint64_t)offset > info.bytes ||
        (uint64_t)count > info.bytes - (uint64_t)offset) {
        get_free(get);
        api_error(call, EXIT_USAGE, "the range reaches past the blob's %llu bytes",
                  (unsigned long long)info.bytes);
        return;
    }
    get->offset = (uint64_t)offset;
    api_send(call, NULL, (uint64_t)count, get_fill, get_free, get);
}

/* ---- Blobs that are elsewhere */

/* A client that waits until a blob is here. Looks for its holders, then for the end of the fetch, and tells how far it
 * is; if the client goes, the fetch goes on without it. */
struct blob_watch {
    struct blob_watch *next;
    struct node *node;
    struct get *get;              /* NULL: the client has gone */
    struct holder_search *search; /* NULL: it has ended */
    struct digest blob;
    bool held;  /* until the fetch ends, which pins it last; then by the get */
    bool again; /* those that were found did not answer: it is the second search */
    int64_t tell_at_ms;
};

static void watch_free(struct blob_watch *watch)
{
    struct blob_watch **link = &watch->node->blob_watches;
    while (*link != watch)
        link = &(*link)->next;
    *link = watch->next;
    if (watch->held)
        hold_release(watch->node, &watch->blob);
    free(watch);
}

static void watch_gone(void *context, struct api_call *call)
{
    (void)call;
    struct blob_watch *watch = context;
    get_free(watch->get);
    watch->get = NULL;
    if (watch->search) {
        holders_cancel(watch->node, watch->search);
        watch_free(watch);
    }
}

static void watch_fail(struct blob_watch *watch, enum exit_code code, const char *why)
{
    char hex[DIGEST_HEX_BYTES];
    if (watch->get) {
        digest_to_hex(&watch->get->blob, hex);
        api_error(watch->get->call, code, "blob %.16s: %s", hex, why);
        get_free(watch->get);
    }
    watch_free(watch);
}

static void watch_found(struct node *node, void *context, const struct mesh_id *holders, uint32_t count);

/* Who was found may have gone since, or was busy, and others have it too. */
static void watch_again(struct blob_watch *watch)
{
    hold_release(watch->node, &watch->blob);
    watch->held = false;
    watch->again = true;
    watch->search = holders_search(watch->node, &watch->blob, HOLDERS_BOTH, watch_found, watch);
}

static void watch_fetched(struct node *node, void *context, const struct bulk_done *done)
{
    struct blob_watch *watch = context;
    char why[160];
    if (done->error == BULK_UNREACHABLE && watch->get && !watch->again) {
        watch_again(watch);
        return;
    }
    snprintf(why, sizeof why,
             "cannot be fetched: %s; what has come is kept, so that the next try goes on from there",
             done->error == BULK_STORE ? store_error_text(done->store) : bulk_error_text(done->error));
    if (done->error == BULK_OK && watch->get && done->count > STORE_SMALL_BYTES &&
        done->count <= node->config.cache_bytes) /* a larger one doesn't stay */
        cache_publish(node, &watch->get->blob, 1);
    if (done->error == BULK_OK && watch->get) {
        api_on_gone(watch->get->call, NULL, NULL);
        watch->get->held = true;
        watch->held = false;
        get_serve(watch->get);
        watch_free(watch);
    } else {
        watch_fail(watch, done->error == BULK_UNREACHABLE ? EXIT_PARTIAL : EXIT_FAILED, why);
    }
}

static void watch_found(struct node *node, void *context, const struct mesh_id *holders, uint32_t count)
{
    struct blob_watch *watch = context;
    watch->search = NULL;
    if (count == 0 && watch->again) {
        watch_fail(watch, EXIT_PARTIAL, "cannot be fetched: none of its holders answers");
        return;
    }
    if (count == 0) {
        char away[AWAY_TEXT_BYTES], why[AWAY_TEXT_BYTES + 120];
        const bool may_be = away_may_have_it(node, away);
        snprintf(why, sizeof why, "not on this node, and no other that answers has it%s%s", away,
                 may_be ? "" : "; `weir blob put FILE` adds to this one");
        watch_fail(watch, may_be ? EXIT_PARTIAL : EXIT_NONE, why);
        return;
    }
    struct bulk_request request = {.holder_count = count, .blob = watch->blob, .pin = holds_owner()};
    memcpy(request.holders, holders, count * sizeof *holders);
    hold_take(node, &watch->blob, NULL);
    watch->held = true;
    if (!fetch_start(node, &request, watch_fetched, watch))
        watch_fail(watch, EXIT_FAILED, "too many fetches are under way; try again");
}

static void get_elsewhere(struct get *get)
{
    struct blob_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        abort();
    *watch = (struct blob_watch){
        .next = get->node->blob_watches, .node = get->node, .get = get, .blob = get->blob};
    get->node->blob_watches = watch;
    api_on_gone(get->call, watch_gone, watch);
    watch->search = holders_search(get->node, &get->blob, HOLDERS_ALL, watch_found, watch);
}

static void get_gone(void *context, struct api_call *call)
{
    (void)call;
    struct get *get = context;
    get->call = NULL;
}

/* What could not be pinned, for want of room on the disk, is sent as long as it is here. */
static void get_pinned(struct node *node, void *context, enum store_error error)
{
    (void)node;
    struct get *get = context;
    if (!get->call) {
        get_free(get);
        return;
    }
    api_on_gone(get->call, NULL, NULL);
    if (error == STORE_NONE) { /* just evicted */
        hold_release(get->node, &get->blob);
        get->held = false;
        get_elsewhere(get);
    } else {
        get_serve(get);
    }
}

static void get_here(struct get *get)
{
    struct store_blob_info info = {0};
    store_blob_stat(get->node->store, get->blob.bytes, &info);
    if (info.bytes <= STORE_SMALL_BYTES) {
        get_serve(get);
        return;
    }
    struct store_batch *batch = node_batch(get->node);
    hold_take(get->node, &get->blob, batch);
    get->held = true;
    api_on_gone(get->call, get_gone, get);
    node_commit(get->node, batch, get_pinned, get);
}

/* Tells the waiting clients how far their blobs are. */
int64_t blob_watches_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct blob_watch *watch = node->blob_watches; watch; watch = watch->next) {
        struct bulk_progress progress;
        if (now_ms >= watch->tell_at_ms) {
            watch->tell_at_ms = now_ms + TELL_EVERY_MS;
            if (watch->get && !watch->search && bulk_progress(node->bulk, &watch->get->blob, &progress))
                api_more(watch->get->call, json_pack("{s:I, s:I}", "fetched", (json_int_t)progress.have_bytes,
                                                     "bytes", (json_int_t)progress.total_bytes));
        }
        wake_at_ms = watch->tell_at_ms < wake_at_ms ? watch->tell_at_ms : wake_at_ms;
    }
    return wake_at_ms;
}

/* Named in full, and not here. */
static bool is_elsewhere(struct node *node, const char *text, struct digest *blob)
{
    struct store_blob_info info;
    return text && digest_from_hex(text, blob) == CRYPTO_OK &&
           store_blob_stat(node->store, blob->bytes, &info) == STORE_NONE;
}

void op_blob_get(void *context, struct api_call *call)
{
    struct node *node = context;
    struct get *get = calloc(1, sizeof *get);
    if (!get)
        abort();
    get->node = node;
    get->call = call;
    const char *text = body_text(call, "blob");
    if (is_elsewhere(node, text, &get->blob))
        get_elsewhere(get);
    else if (find_blob(node, call, text, &get->blob))
        get_here(get);
    else
        free(get);
}

/* ---- stat, ls, rm */

static json_t *blob_json(const uint8_t id[32], const struct store_blob_info *info)
{
    json_t *row = json_pack("{s:b, s:I, s:i, s:b, s:b}", "here", 1, "bytes", (json_int_t)info->bytes,
                            "chunks", (int)info->chunks, "pinned", info->pinned, "in_file", info->in_file);
    json_put(row, "blob", json_hex(id, 32));
    return row;
}

/* A client that asked about a blob which is not here. */
struct stat_wait {
    struct api_call *call;
    struct holder_search *search;
    struct node *node;
    struct digest blob;
};

static void stat_gone(void *context, struct api_call *call)
{
    (void)call;
    struct stat_wait *wait = context;
    holders_cancel(wait->node, wait->search);
    free(wait);
}

static void stat_found(struct node *node, void *context, const struct mesh_id *holders, uint32_t count)
{
    struct stat_wait *wait = context;
    struct api_call *call = wait->call;
    char hex[DIGEST_HEX_BYTES];
    digest_to_hex(&wait->blob, hex);
    free(wait);
    api_on_gone(call, NULL, NULL);
    if (count == 0) {
        char away[AWAY_TEXT_BYTES];
        const bool may_be = away_may_have_it(node, away);
        api_error(call, may_be ? EXIT_PARTIAL : EXIT_NONE,
                  "blob %.16s: not on this node, and no other that answers has it%s", hex, away);
        return;
    }
    json_t *names = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(names, json_string(peer_name(node, &holders[i])));
    json_t *reply = json_pack("{s:s, s:b, s:o}", "blob", hex, "here", 0, "holders", names);
    api_reply(call, reply);
}

void op_blob_stat(void *context, struct api_call *call)
{
    struct node *node = context;
    struct digest id;
    struct store_blob_info info;
    const char *text = body_text(call, "blob");
    if (is_elsewhere(node, text, &id)) {
        struct stat_wait *wait = calloc(1, sizeof *wait);
        if (!wait)
            abort();
        *wait = (struct stat_wait){.call = call, .node = node, .blob = id};
        api_on_gone(call, stat_gone, wait);
        wait->search = holders_search(node, &id, HOLDERS_ALL, stat_found, wait);
        return;
    }
    if (!find_blob(node, call, text, &id))
        return;
    store_blob_stat(node->store, id.bytes, &info);
    api_reply(call, blob_json(id.bytes, &info));
}

struct listing {
    json_t *blobs;
    size_t limit;
    uint8_t last[32];
    bool more;
};

static bool list_blob(void *context, const uint8_t id[32], const struct store_blob_info *info)
{
    struct listing *listing = context;
    if (json_array_size(listing->blobs) == listing->limit) {
        listing->more = true;
        return false;
    }
    json_array_append_new(listing->blobs, blob_json(id, info));
    memcpy(listing->last, id, 32);
    return true;
}

void op_blob_list(void *context, struct api_call *call)
{
    struct node *node = context;
    const int64_t limit = body_integer(call, "limit", 1000);
    struct digest after;
    const char *text = body_text(call, "after");
    if (limit < 1 || limit > 10000 || (text && digest_from_hex(text, &after) != CRYPTO_OK)) {
        api_error(call, EXIT_USAGE, "'limit' is 1 to 10000, and 'after' a blob's 64 hex digits");
        return;
    }
    struct listing listing = {.blobs = json_array(), .limit = (size_t)limit};
    store_blob_each(node->store, text ? after.bytes : NULL, list_blob, &listing);
    json_t *reply = json_pack("{s:o}", "blobs", listing.blobs);
    if (listing.more)
        json_put(reply, "next", json_hex(listing.last, 32));
    api_reply(call, reply);
}

void op_blob_remove(void *context, struct api_call *call)
{
    struct node *node = context;
    struct digest id;
    struct store_blob_info info;
    if (!find_blob(node, call, body_text(call, "blob"), &id))
        return;
    if (store_blob_stat(node->store, id.bytes, &info) == STORE_OK && info.pinned) {
        api_error(call, EXIT_FAILED,
                  "a job needs this blob, or a client just now; cancel the job first, or wait until it is "
                  "forgotten (store.keep_jobs)");
        return;
    }
    struct store_batch *batch = node_batch(node);
    store_batch_blob_remove(batch, id.bytes);
    reply_when_durable(node, call, batch, blob_json(id.bytes, &info));
}
