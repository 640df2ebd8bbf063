/*
 * Blobs that clients count on: what a connection uploaded for the job that it is about to submit, and what is being sent
 * to one. Each is pinned while anybody holds it. All holds are pins of one owner, counted in memory, so that what an
 * earlier run of this node left behind is found at the start.
 */
#include "node/log.h"
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

/* Born with a blob's first hold, dies with its last. There are few: one per large blob that is being sent, and those of
 * the API's connections. */
struct hold {
    struct hold *next;
    struct digest blob;
    uint32_t count;
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
    while (node->holds) {
        struct hold *hold = node->holds;
        node->holds = hold->next;
        free(hold);
    }
}

static struct hold **find_hold(struct node *node, const struct digest *blob)
{
    struct hold **link = &node->holds;
    while (*link && !digest_equal(&(*link)->blob, blob))
        link = &(*link)->next;
    return link;
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
void hold_release(struct node *node, const struct digest *blob)
{
    struct hold **link = find_hold(node, blob);
    struct hold *hold = *link;
    if (--hold->count > 0)
        return;
    *link = hold->next;
    free(hold);
    if (node->stopping)
        return; /* the next start does it */
    struct store_batch *batch = node_batch(node);
    store_batch_unpin(batch, blob->bytes, owner.bytes);
    node_commit(node, batch, NULL, NULL);
}

/* ---- Uploads */

void uploads_add(struct node *node, struct uploads **uploads, const struct digest *blob, uint64_t bytes)
{
    if (!*uploads) {
        *uploads = calloc(1, sizeof **uploads);
        must(*uploads);
    }
    struct uploads *held = *uploads;
    for (uint32_t i = 0; i < held->count; i++)
        if (digest_equal(&held->blob[i], blob)) {
            hold_release(node, blob);
            return;
        }
    held->blob[held->count++] = *blob;
    held->bytes += bytes;
}

void uploads_release(struct node *node, struct uploads *uploads)
{
    for (uint32_t i = 0; uploads && i < uploads->count; i++)
        hold_release(node, &uploads->blob[i]);
    if (uploads)
        *uploads = (struct uploads){0};
}
