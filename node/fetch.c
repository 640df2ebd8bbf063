/* Blobs asked of other nodes: the ticket of a fetch is the address of who waits for it. */
#include "node/log.h"
#include "node/node.h"

#include <stdlib.h>

struct waiter {
    fetch_done *done;
    void *context;
};

bool fetch_start(struct node *node, const struct bulk_request *request, fetch_done *done, void *context)
{
    struct waiter *waiter = malloc(sizeof *waiter);
    if (!waiter)
        return false;
    *waiter = (struct waiter){.done = done, .context = context};
    if (bulk_fetch(node->bulk, request, (uint64_t)(uintptr_t)waiter) == BULK_OK)
        return true;
    free(waiter);
    return false;
}

void fetch_on_done(void *context, const struct bulk_done *done)
{
    struct node *node = context;
    struct waiter *waiter = (struct waiter *)(uintptr_t)done->ticket;
    const struct waiter copy = *waiter;
    free(waiter);
    copy.done(node, copy.context, done);
}

void fetch_on_liar(void *context, const struct mesh_id *holder, const struct digest *blob)
{
    struct node *node = context;
    char hex[DIGEST_HEX_BYTES];
    digest_to_hex(blob, hex);
    log_warn("bulk",
             "holder=%s blob=%.16s error=\"what it serves is not that blob; it is asked last from now on\"",
             peer_name(node, holder), hex);
    cache_void(node, holder);
}
