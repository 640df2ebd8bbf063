/*
 * Who holds a blob, or a result: a search by its name. The two owners of the name know those that told them (see
 * node/cache.c), and whoever is asked about a few names answers for itself, too. So a blob that was never told of is
 * found by asking all members, some at a time.
 */
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

#define OWNERS_TIMEOUT_MS 200
#define WAVE_TIMEOUT_MS 500
#define WAVE_NODES 32 /* asked at a time: links on demand are few */

struct holder_search {
    struct holder_search *next;
    struct digest key;
    enum holders_asked asked;
    uint64_t request;
    int64_t until_ms;
    uint32_t waiting;                        /* for so many answers */
    bool everybody;                          /* the owners knew of nobody */
    uint32_t next_member;                    /* to be asked */
    struct mesh_id holder[BULK_HOLDERS_MAX]; /* nearest first */
    uint32_t rtt_us[BULK_HOLDERS_MAX];
    uint32_t count;
    holders_found *found;
    void *context;
};

static void search_free(struct node *node, struct holder_search *search)
{
    struct holder_search **link = &node->searches;
    while (*link != search)
        link = &(*link)->next;
    *link = search->next;
    free(search);
}

static void end(struct node *node, struct holder_search *search)
{
    struct holder_search copy = *search;
    search_free(node, search);
    copy.found(node, copy.context, copy.holder, copy.count);
}

static void note(struct node *node, struct holder_search *search, const uint8_t id[32])
{
    struct mesh_id holder;
    memcpy(holder.bytes, id, sizeof holder.bytes);
    struct mesh_member_view view;
    if (memcmp(&holder, &node->self, sizeof holder) == 0 ||
        !mesh_member_find(node->host.mesh, &holder, &view) || view.state > MESH_SUSPECT)
        return;
    for (uint32_t i = 0; i < search->count; i++)
        if (memcmp(&search->holder[i], &holder, sizeof holder) == 0)
            return;
    const uint32_t rtt_us = view.rtt_us ? view.rtt_us : UINT32_MAX;
    uint32_t place = search->count;
    if (place == BULK_HOLDERS_MAX && search->rtt_us[--place] <= rtt_us)
        return;
    for (; place > 0 && search->rtt_us[place - 1] > rtt_us; place--) {
        search->holder[place] = search->holder[place - 1];
        search->rtt_us[place] = search->rtt_us[place - 1];
    }
    search->holder[place] = holder;
    search->rtt_us[place] = rtt_us;
    search->count += search->count < BULK_HOLDERS_MAX;
}

struct own {
    struct node *node;
    struct holder_search *search;
};

static void note_own(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    (void)index;
    const struct own *own = context;
    for (size_t i = 0; i < count; i++)
        note(own->node, own->search, holders[i].node);
}

static void ask(struct node *node, struct holder_search *search, const struct mesh_id *whom)
{
    static struct wire_frame frame;
    frame.kind = WIRE_CACHE_FIND;
    frame.body.cache_keys.request = search->request;
    frame.body.cache_keys.keys.name = (const uint8_t(*)[32])search->key.bytes;
    frame.body.cache_keys.keys.count = 1;
    if (transport_send(node->transport, whom, &frame))
        search->waiting++;
}

/* The next members, or the end. */
static void wave(struct node *node, struct holder_search *search, int64_t now_ms)
{
    search->everybody = true;
    search->request =
        ++node->cache.next_request; /* who answers later than this wave is no longer waited for */
    search->until_ms = now_ms + WAVE_TIMEOUT_MS;
    search->waiting = 0;
    struct mesh_member_view view;
    while (search->waiting < WAVE_NODES && mesh_member_view(node->host.mesh, search->next_member, &view)) {
        search->next_member++;
        if (!view.self && view.state == MESH_UP)
            ask(node, search, &view.id);
    }
    if (search->waiting == 0)
        end(node, search);
}

struct holder_search *holders_search(struct node *node, const struct digest *key, enum holders_asked asked,
                                     holders_found *found, void *context)
{
    struct holder_search *search = calloc(1, sizeof *search);
    if (!search)
        abort();
    *search = (struct holder_search){.next = node->searches,
                                     .key = *key,
                                     .asked = asked,
                                     .request = ++node->cache.next_request,
                                     .until_ms = clock_now_ms() + OWNERS_TIMEOUT_MS,
                                     .found = found,
                                     .context = context};
    node->searches = search;
    struct own own = {node, search};
    store_pointer_get_many(node->store, (const uint8_t(*)[32])key->bytes, 1, note_own, &own);
    struct mesh_id id, owner[2];
    memcpy(id.bytes, key->bytes, sizeof id.bytes);
    const uint32_t owners = mesh_owners(node->host.mesh, &id, owner);
    for (uint32_t o = 0; o < owners; o++)
        if (memcmp(&owner[o], &node->self, sizeof owner[o]) != 0)
            ask(node, search, &owner[o]);
    if (search->waiting == 0)
        search->until_ms = 0; /* in the next turn: the caller hears nothing before this returns */
    return search;
}

void holders_cancel(struct node *node, struct holder_search *search)
{
    search_free(node, search);
}

bool holders_on_found(struct node *node, const struct wire_frame *frame)
{
    struct holder_search *search = node->searches;
    while (search && search->request != frame->body.cache_found.request)
        search = search->next;
    if (!search)
        return false;
    if (frame->body.cache_found.count == 1)
        for (uint32_t i = 0; i < frame->body.cache_found.nodes.count; i++)
            note(node, search, frame->body.cache_found.nodes.name[i]);
    if (search->waiting > 0 && --search->waiting == 0)
        search->until_ms = 0;
    return true;
}

int64_t holders_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct holder_search *search = node->searches; search; search = search->next) {
        if (now_ms < search->until_ms) {
            wake_at_ms = search->until_ms < wake_at_ms ? search->until_ms : wake_at_ms;
            continue;
        }
        if ((search->count > 0 && (search->asked != HOLDERS_BOTH || search->everybody)) ||
            search->asked == HOLDERS_TOLD)
            end(node, search);
        else
            wave(node, search, now_ms);
        return now_ms; /* the list may have changed */
    }
    return wake_at_ms;
}
