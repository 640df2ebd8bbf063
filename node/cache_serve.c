/*
 * The result cache across nodes, the serving side: who holds a key, as its owner knows; who computes it, as its owner was
 * told; the entries themselves; and telling owners what we hold. cache.c is the side that asks.
 */
#include "node/node.h"
#include "node/payload.h"

#include <stdlib.h>
#include <string.h>

#define ENTRIES_FRAME_BYTES (192u * 1024u) /* of one answer, below a control message's limit */

static bool is_self(const struct node *node, const struct mesh_id *id)
{
    return memcmp(id, &node->self, sizeof *id) == 0;
}

/* ---- Pointers */

/* The answer that is being put together. */
static struct found {
    uint8_t holders[WIRE_CACHE_KEYS_MAX];
    uint8_t nodes[WIRE_CACHE_KEYS_MAX * WIRE_CACHE_HOLDERS_MAX][32];
    uint32_t node_count;
} found;

static void add_found(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    (void)context;
    found.holders[index] = (uint8_t)count;
    for (size_t h = 0; h < count; h++)
        memcpy(found.nodes[found.node_count++], holders[h].node, 32);
}

/* A question about one name alone is a search for its holders, see holders.c: we answer for ourselves, too. */
static bool holds(struct node *node, const uint8_t name[32])
{
    struct store_blob_info info;
    return store_blob_stat(node->store, name, &info) == STORE_OK;
}

static void look_for(struct node *node, struct wire_names keys)
{
    memset(found.holders, 0, keys.count);
    found.node_count = 0;
    store_pointer_get_many(node->store, keys.name, keys.count, add_found, NULL);
}

static void send_found(struct node *node, const struct mesh_id *to, enum wire_kind kind, uint64_t request,
                       uint32_t count)
{
    static struct wire_frame reply;
    reply.kind = kind;
    reply.body.cache_found.request = request;
    reply.body.cache_found.count = count;
    reply.body.cache_found.holders = found.holders;
    reply.body.cache_found.nodes.name = (const uint8_t(*)[32])found.nodes;
    reply.body.cache_found.nodes.count = found.node_count;
    transport_send(node->transport, to, &reply);
}

static void on_find(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    const struct wire_names keys = frame->body.cache_keys.keys;
    look_for(node, keys);
    if (keys.count == 1 && found.node_count < WIRE_CACHE_HOLDERS_MAX && holds(node, keys.name[0])) {
        memcpy(found.nodes[found.node_count++], node->self.bytes, 32);
        found.holders[0]++;
    }
    send_found(node, from, WIRE_CACHE_FOUND, frame->body.cache_keys.request, keys.count);
}

/* ---- Leases */

bool cache_claim(struct node *node, const uint8_t key[32], const struct lessee *who)
{
    struct lessee other;
    if (leases_take(node->cache.leases, key, who, clock_now_ms(), &other))
        return true;
    struct mesh_member_view view;
    if (memcmp(&other.node, &node->self, sizeof other.node) == 0)
        return false; /* a job of our own, which tells us when it is over */
    if (mesh_member_find(node->host.mesh, &other.node, &view) && view.state <= MESH_SUSPECT)
        return false;
    leases_end_node(node->cache.leases,
                    &other.node); /* its home is gone, and with it who would have told us */
    return leases_take(node->cache.leases, key, who, clock_now_ms(), &other);
}

static void on_claim(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    const struct wire_names keys = frame->body.cache_claim.keys;
    const struct lessee who = {.node = *from, .job = frame->body.cache_claim.job};
    look_for(node, keys);
    for (uint32_t i = 0; i < keys.count; i++)
        if (found.holders[i] == 0 && !cache_claim(node, keys.name[i], &who))
            found.holders[i] = WIRE_CACHE_LEASED;
    send_found(node, from, WIRE_CACHE_CLAIMED, frame->body.cache_claim.request, keys.count);
}

/* ---- Entries */

struct given {
    const struct node *node;
    struct bytes *entry[WIRE_CACHE_ENTRIES_MAX];
    uint8_t blobs[WIRE_CACHE_ENTRIES_MAX][WIRE_CACHE_BLOBS_MAX][32];
    uint32_t blob_count[WIRE_CACHE_ENTRIES_MAX];
};

static void add_given(void *context, size_t index, const struct store_entry *entry)
{
    struct given *given = context;
    struct provenance provenance;
    const size_t head = provenance_decode(entry->bytes, entry->count, &provenance);
    if (entry->blob_count > WIRE_CACHE_BLOBS_MAX || !verify_sound(given->node, &provenance))
        return;
    given->entry[index] = bytes_make((const uint8_t *)entry->bytes + head, entry->count - head);
    given->blob_count[index] = (uint32_t)entry->blob_count;
    for (size_t b = 0; b < entry->blob_count; b++)
        memcpy(given->blobs[index][b], entry->blobs[b], 32);
}

static void on_get(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    static struct given given;
    static struct wire_frame reply;
    const struct wire_names keys = frame->body.cache_keys.keys;
    memset(given.entry, 0, sizeof given.entry);
    given.node = node;
    store_cache_get_many(node->store, keys.name, keys.count, add_given, &given);
    reply.kind = WIRE_CACHE_ENTRIES;
    reply.body.cache_entries.request = frame->body.cache_keys.request;
    reply.body.cache_entries.first = 0;
    reply.body.cache_entries.count = 0;
    size_t frame_bytes = 0;
    for (uint32_t i = 0; i < keys.count; i++) {
        const size_t entry_bytes =
            given.entry[i] ? given.entry[i]->count + given.blob_count[i] * 34u + 16u : 8u;
        if (reply.body.cache_entries.count > 0 && frame_bytes + entry_bytes > ENTRIES_FRAME_BYTES) {
            transport_send(node->transport, from, &reply);
            reply.body.cache_entries.first = i;
            reply.body.cache_entries.count = 0;
            frame_bytes = 0;
        }
        struct wire_cache_entry *entry = &reply.body.cache_entries.entry[reply.body.cache_entries.count++];
        *entry = (struct wire_cache_entry){.present = given.entry[i] != NULL};
        if (given.entry[i]) {
            entry->entry = (struct wire_bytes){.bytes = given.entry[i]->data, .count = given.entry[i]->count};
            entry->blobs.name = (const uint8_t(*)[32])given.blobs[i];
            entry->blobs.count = given.blob_count[i];
        }
        frame_bytes += entry_bytes;
    }
    transport_send(node->transport, from, &reply);
    for (uint32_t i = 0; i < keys.count; i++)
        bytes_drop(given.entry[i]);
}

static void on_done(struct node *node, void *context, enum store_error error)
{
    (void)node;
    (void)context;
    (void)error; /* a pointer lost costs a computation at most */
}

/* ---- Publishing */

static void keep_pointers(struct node *node, const struct mesh_id *holder_id, const uint8_t (*keys)[32],
                          uint32_t count)
{
    struct store_holder holder = {.wall_ms = clock_wall_ms()};
    memcpy(holder.node, holder_id->bytes, sizeof holder.node);
    struct store_batch *batch = node_batch(node);
    for (uint32_t i = 0; i < count; i++)
        store_batch_pointer(batch, keys[i], &holder);
    node_commit(node, batch, on_done, NULL);
}

void cache_publish(struct node *node, const struct digest *keys, uint32_t count)
{
    static uint8_t names[WIRE_CACHE_KEYS_MAX][32];
    static struct wire_frame frame;
    struct mesh_id(*owners)[2] = calloc(count + 1, sizeof *owners);
    must(owners);
    for (uint32_t i = 0; i < count; i++) {
        struct mesh_id key;
        memcpy(key.bytes, keys[i].bytes, sizeof key.bytes);
        mesh_owners(node->host.mesh, &key, owners[i]);
    }
    const struct mesh_id nobody = {{0}};
    /* Takes one owner after another, with all the keys that are its. */
    for (uint32_t i = 0; i < count; i++)
        for (int o = 0; o < 2; o++) {
            const struct mesh_id owner = owners[i][o];
            if (memcmp(&owner, &nobody, sizeof owner) == 0)
                continue;
            uint32_t named = 0;
            for (uint32_t j = i; j < count && named < WIRE_CACHE_KEYS_MAX; j++)
                for (int p = 0; p < 2; p++)
                    if (memcmp(&owners[j][p], &owner, sizeof owner) == 0) {
                        memcpy(names[named++], keys[j].bytes, 32);
                        owners[j][p] = nobody;
                        break;
                    }
            if (is_self(node, &owner)) {
                keep_pointers(node, &node->self, (const uint8_t(*)[32])names, named);
                continue;
            }
            frame.kind = WIRE_CACHE_PUBLISH;
            frame.body.cache_publish.keys.name = (const uint8_t(*)[32])names;
            frame.body.cache_publish.keys.count = named;
            transport_send(node->transport, &owner, &frame);
        }
    free(owners);
}

/* ---- What a peer says is not so */

void cache_forget(struct node *node, const struct mesh_id *holder, const uint8_t (*keys)[32], uint32_t count)
{
    struct store_batch *batch = node_batch(node);
    for (uint32_t i = 0; i < count; i++)
        store_batch_pointer_remove(batch, keys[i], holder->bytes);
    node_commit(node, batch, on_done, NULL);
}

/* All pointers to a node that lied: it may have to be told so several times, for so many go at once. */
static void void_more(struct node *node, void *context, enum store_error error)
{
    struct mesh_id *holder = context;
    if (error != STORE_MORE) {
        free(holder);
        return;
    }
    struct store_batch *batch = node_batch(node);
    store_batch_pointer_remove_node(batch, holder->bytes);
    node_commit(node, batch, void_more, holder);
}

void cache_void(struct node *node, const struct mesh_id *holder)
{
    struct mesh_id *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = *holder;
    void_more(node, copy, STORE_MORE);
}

bool cache_serve(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    const struct lessee who = {.node = *from, .job = frame->body.cache_over.job};
    switch (frame->kind) {
    case WIRE_CACHE_PUBLISH:
        keep_pointers(node, from, frame->body.cache_publish.keys.name, frame->body.cache_publish.keys.count);
        return true;
    case WIRE_CACHE_FIND:
        on_find(node, from, frame);
        return true;
    case WIRE_CACHE_CLAIM:
        on_claim(node, from, frame);
        return true;
    case WIRE_CACHE_GET:
        on_get(node, from, frame);
        return true;
    case WIRE_CACHE_GONE:
        cache_forget(node, &frame->body.cache_gone.holder, frame->body.cache_gone.keys.name,
                     frame->body.cache_gone.keys.count);
        return true;
    case WIRE_CACHE_OVER:
        leases_end_job(node->cache.leases, &who);
        return true;
    default:
        return false;
    }
}
