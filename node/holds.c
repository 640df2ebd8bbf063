/*
 * Blobs that somebody counts on for a while: what a connection uploaded for the job that it is about to submit, what a
 * job that is being submitted is of, what is being sent to a client, and what was computed here and its home has not
 * fetched yet. Each is pinned while anybody holds it. All holds are pins of one owner, counted in memory, so that what an
 * earlier run of this node left behind is found at the start.
 */
#include "node/log.h"
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

/* Born with a blob's first hold, dies with its last. */
struct hold {
    struct hold *next; /* in the same bucket */
    struct digest blob;
    uint32_t count;
    uint64_t upload_bytes; /* as they count among all that clients uploaded; 0: nobody did */
};

/* A bundle's results, from its end until the core drops the handle under which it knows them. */
struct results {
    struct results *next; /* in the same bucket */
    uint64_t handle;
    struct mesh_id home;
    struct mesh_members others; /* of the job's journal */
    struct held held;           /* large outputs */
};

/* No digest looks like this, so it is no job's. */
static const struct digest owner = {.bytes = "weir: held for a client"};

const struct digest *holds_owner(void)
{
    return &owner;
}

enum store_error holds_open(struct node *node)
{
    enum store_error error = STORE_MORE;
    while (error == STORE_MORE) {
        struct store_batch *batch = node_batch(node);
        store_batch_unpin_all(batch, owner.bytes);
        error = store_commit_wait(node->store, batch);
    }
    return error;
}

void holds_close(struct node *node)
{
    for (uint32_t b = 0; b < HOLDS_BUCKETS; b++) {
        for (struct hold *hold = node->holds.bucket[b], *next; hold; hold = next) {
            next = hold->next;
            free(hold);
        }
        for (struct results *results = node->holds.results[b], *next; results; results = next) {
            next = results->next;
            free(results->held.blob);
            free(results);
        }
    }
}

/* Digests are as good as random. */
static struct hold **find_hold(struct node *node, const struct digest *blob)
{
    struct hold **link = &node->holds.bucket[blob->bytes[0] % HOLDS_BUCKETS];
    while (*link && !digest_equal(&(*link)->blob, blob))
        link = &(*link)->next;
    return link;
}

bool hold_is(struct node *node, const struct digest *blob)
{
    return *find_hold(node, blob) != NULL;
}

void hold_take(struct node *node, const struct digest *blob, struct store_batch *batch)
{
    struct hold **link = find_hold(node, blob);
    if (!*link) {
        *link = calloc(1, sizeof **link);
        must(*link);
        (*link)->blob = *blob;
    }
    (*link)->count++;
    if (batch)
        store_batch_pin(batch, blob->bytes, owner.bytes);
}

/* Commits are made in the order in which they were asked for: a pin that follows stays. */
void holds_release(struct node *node, const struct digest *blobs, uint32_t count)
{
    struct store_batch *batch = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct hold **link = find_hold(node, &blobs[i]);
        struct hold *hold = *link;
        if (--hold->count > 0)
            continue;
        *link = hold->next;
        node->holds.upload_bytes -= hold->upload_bytes;
        free(hold);
        if (node->stopping)
            continue; /* the next start does it */
        if (!batch)
            batch = node_batch(node);
        store_batch_unpin(batch, blobs[i].bytes, owner.bytes);
    }
    if (batch)
        node_commit(node, batch, NULL, NULL);
}

void hold_release(struct node *node, const struct digest *blob)
{
    holds_release(node, blob, 1);
}

void held_add(struct node *node, struct held *held, const struct digest *blob, uint64_t bytes)
{
    for (uint32_t i = 0; i < held->count; i++)
        if (digest_equal(&held->blob[i], blob)) {
            hold_release(node, blob);
            return;
        }
    if (held->count == held->room) {
        held->room = held->room ? 2 * held->room : 4;
        held->blob = must(realloc(held->blob, held->room * sizeof *held->blob));
    }
    held->blob[held->count++] = *blob;
    held->bytes += bytes;
}

void held_release(struct node *node, struct held *held)
{
    holds_release(node, held->blob, held->count);
    free(held->blob);
    *held = (struct held){0};
}

/* ---- Results */

bool results_add(struct node *node, struct held *held, const struct digest *blob, uint64_t bytes,
                 struct store_batch *batch)
{
    const uint64_t before = held->bytes, others = node->holds.result_bytes - before;
    if (others > 0 && others + before + bytes > HOLDS_CACHES * node->config.cache_bytes)
        return false;
    hold_take(node, blob, batch);
    held_add(node, held, blob, bytes);
    node->holds.result_bytes += held->bytes - before;
    return true;
}

void results_release(struct node *node, struct held *held)
{
    node->holds.result_bytes -= held->bytes;
    held_release(node, held);
}

static struct results **results_of(struct node *node, uint64_t handle)
{
    struct results **link = &node->holds.results[handle % HOLDS_BUCKETS];
    while (*link && (*link)->handle != handle)
        link = &(*link)->next;
    return link;
}

void results_keep(struct node *node, struct held *held, uint64_t handle, const struct mesh_id *home,
                  const struct mesh_members *others)
{
    struct results **link = results_of(node, handle);
    *link = must(calloc(1, sizeof **link));
    **link = (struct results){.handle = handle, .home = *home, .others = *others, .held = *held};
    *held = (struct held){0};
}

static bool is_there(const struct node *node, const struct mesh_id *id)
{
    struct mesh_member_view view;
    return mesh_member_find(node->host.mesh, id, &view) && view.state <= MESH_SUSPECT;
}

bool results_awaited(const struct node *node)
{
    for (uint32_t b = 0; b < HOLDS_BUCKETS; b++)
        for (const struct results *results = node->holds.results[b]; results; results = results->next) {
            if (is_there(node, &results->home))
                return true;
            for (uint32_t i = 0; i < results->others.count; i++)
                if (memcmp(&results->others.id[i], &node->self, sizeof node->self) != 0 &&
                    is_there(node, &results->others.id[i]))
                    return true;
        }
    return false;
}

void results_dropped(struct node *node, uint64_t handle)
{
    struct results **link = results_of(node, handle);
    struct results *results = *link;
    if (!results)
        return;
    *link = results->next;
    results_release(node, &results->held);
    free(results);
}

/* ---- Uploads */

bool upload_take(struct node *node, const struct digest *blob, uint64_t bytes, struct store_batch *batch)
{
    const struct hold *known = *find_hold(node, blob);
    const uint64_t more = known && known->upload_bytes > 0 ? 0 : bytes;
    if (node->holds.upload_bytes + more > HOLDS_CACHES * node->config.cache_bytes)
        return false;
    hold_take(node, blob, batch);
    (*find_hold(node, blob))->upload_bytes += more;
    node->holds.upload_bytes += more;
    return true;
}

void uploads_add(struct node *node, struct uploads **uploads, const struct digest *blob, uint64_t bytes)
{
    if (!*uploads)
        *uploads = must(calloc(1, sizeof **uploads));
    held_add(node, &(*uploads)->held, blob, bytes);
}

void uploads_release(struct node *node, struct uploads *uploads)
{
    if (!uploads)
        return;
    held_release(node, &uploads->held);
    uploads->submitted = false;
}
