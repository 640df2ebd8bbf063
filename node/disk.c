/*
 * A disk without room, or one that fails.
 *
 * What this node took on for others and could not store goes back to its home without blame, and the node stops
 * offering its devices, as it does for one whose workers fail: it would fail the same work again and again. Every
 * few seconds it tries whether a blob can be stored again, and then offers them anew. A disk with room for the
 * trial but not for the work is found out by the next shards, so the pause doubles with each such relapse.
 */
#include "node/log.h"
#include "node/node.h"

#include <sodium.h>
#include <stdlib.h>

#define PAUSE_MS 5000
#define PAUSE_MS_MAX 60000
#define RELAPSE_MS 60000           /* so soon after it had room again: the pause doubles */
#define TRIAL_BYTES (512u * 1024u) /* a small blob; what grows beyond it is tried by the work itself */

void disk_failed(struct node *node, enum store_error error)
{
    struct disk *disk = &node->disk;
    const int64_t now_ms = clock_now_ms();
    if (store_error_class(error) != STORE_CLASS_LOCAL)
        return; /* something is gone, or came too fast: that says nothing of the disk */
    disk->failures++;
    if (disk->error)
        return;
    const bool relapse = disk->room_at_ms && now_ms < disk->room_at_ms + RELAPSE_MS;
    disk->pause_ms = relapse ? 2 * disk->pause_ms : PAUSE_MS;
    if (disk->pause_ms > PAUSE_MS_MAX)
        disk->pause_ms = PAUSE_MS_MAX;
    disk->error = error;
    disk->try_at_ms = now_ms + disk->pause_ms;
    log_error(
        "disk",
        "state=%s data=%s error=\"%s\" reason=\"no device is lent until there is room: free some, lower "
        "store.cache, or raise store.state_map and store.blobs_map where the disk has room\"",
        error == STORE_FULL ? "full" : "failing", node->config.data, store_error_text(error));
    devices_tell(node);
}

static void on_removed(struct node *node, void *context, enum store_error error)
{
    (void)node;
    (void)context;
    (void)error; /* an unpinned blob more */
}

static void on_tried(struct node *node, void *context, enum store_error error)
{
    struct digest *blob = context;
    struct disk *disk = &node->disk;
    disk->trying = false;
    disk->try_at_ms = clock_now_ms() + disk->pause_ms;
    if (error == STORE_OK) {
        struct store_batch *batch = node_batch(node);
        store_batch_blob_remove(batch, blob->bytes);
        node_commit(node, batch, on_removed, NULL);
        disk->error = STORE_OK;
        disk->room_at_ms = clock_now_ms();
        log_info("disk", "state=room data=%s", node->config.data);
        devices_tell(node);
    }
    free(blob);
}

/* The bytes are random, so that they are nobody's blob. */
static void try_disk(struct node *node)
{
    uint8_t *bytes = malloc(TRIAL_BYTES);
    struct digest *blob = malloc(sizeof *blob);
    if (!bytes || !blob)
        abort();
    randombytes_buf(bytes, TRIAL_BYTES);
    struct store_batch *batch = node_batch(node);
    store_batch_blob(batch, bytes, TRIAL_BYTES, blob->bytes);
    free(bytes);
    node->disk.trying = true;
    node_commit(node, batch, on_tried, blob);
}

int64_t disk_turn(struct node *node, int64_t now_ms)
{
    struct disk *disk = &node->disk;
    if (!disk->error || disk->trying)
        return INT64_MAX;
    if (now_ms < disk->try_at_ms)
        return disk->try_at_ms;
    try_disk(node);
    return INT64_MAX;
}
