/*
 * The result cache across nodes. Who computed a result keeps it; two owners per key, chosen by rendezvous
 * hashing, know who keeps it. A lookup of a range of shards goes: our own cache; the owners of what is
 * missing (FIND); the holders that they name (GET); the blobs that the entries need (bulk). Whatever does not
 * come in time is a miss and costs only work.
 */
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"

#include <stdlib.h>
#include <string.h>

#define FIND_TIMEOUT_MS 200
#define GET_TIMEOUT_MS 2000
#define ENTRIES_FRAME_BYTES (192u * 1024u) /* of one answer, below a control message's limit */

enum stage { FINDING, GETTING, FETCHING, KEEPING };

/* One question to one node about some of a lookup's shards. */
struct question {
    struct question *next;
    uint64_t request;
    struct mesh_id to;
    uint32_t count;
    bool full;       /* takes no more keys */
    uint32_t *index; /* places in the lookup */
};

struct cache_lookup {
    struct cache_lookup *next;
    struct node *node;
    struct mesh_id job;
    bool whole; /* one key for all of the job's outputs, rather than one per shard */
    uint64_t epoch;
    uint32_t first;
    uint32_t count;
    enum stage stage;
    int64_t until_ms;
    struct question *questions;
    uint32_t fetching;
    struct bytes **entry; /* [count]; NULL = a miss so far */
    struct mesh_id
        *holder;  /* [count]; of entries that came, or are to come, from elsewhere; zero = our own */
    bool *remote; /* [count]; a holder is known */
};

static void must(void *memory)
{
    if (!memory)
        abort();
}

static bool is_self(const struct node *node, const struct mesh_id *id)
{
    return memcmp(id, &node->self, sizeof *id) == 0;
}

/* The keys that are looked up, `lookup->count` of them; NULL once the job is gone. */
static const struct digest *keys_of(const struct cache_lookup *lookup)
{
    const struct job *job = jobs_find(lookup->node, &lookup->job);
    if (!job || !job->keys)
        return NULL;
    return lookup->whole ? &job->whole_key : job->keys + lookup->first;
}

/* Whether an entry can be what its key stands for. */
static bool fits(const struct cache_lookup *lookup, uint32_t index, const struct entry *entry)
{
    const struct job *job = jobs_find(lookup->node, &lookup->job);
    if (!job)
        return false;
    return lookup->whole ? job_whole_fits(job, entry) : job_entry_fits(job, lookup->first + index, entry);
}

/* Who pins the blobs of a hit. */
static struct digest owner_of(const struct cache_lookup *lookup)
{
    struct digest owner;
    memcpy(owner.bytes, lookup->job.bytes, sizeof owner.bytes);
    return lookup->whole ? owner : job_results_owner(&lookup->job);
}

/* ---- Questions */

static struct question *question_for(struct cache_lookup *lookup, const struct mesh_id *to)
{
    for (struct question *question = lookup->questions; question; question = question->next)
        if (!question->full && memcmp(&question->to, to, sizeof *to) == 0)
            return question;
    struct question *question = calloc(1, sizeof *question);
    must(question);
    question->to = *to;
    question->request = ++lookup->node->cache.next_request;
    question->index = malloc(lookup->count * sizeof *question->index);
    must(question->index);
    question->next = lookup->questions;
    lookup->questions = question;
    return question;
}

static void question_free(struct cache_lookup *lookup, struct question *question)
{
    struct question **link = &lookup->questions;
    while (*link != question)
        link = &(*link)->next;
    *link = question->next;
    free(question->index);
    free(question);
}

static void question_send(struct cache_lookup *lookup, const struct question *question, enum wire_kind kind,
                          const struct digest *keys)
{
    static struct wire_frame frame;
    static uint8_t names[WIRE_CACHE_KEYS_MAX][32];
    for (uint32_t i = 0; i < question->count; i++)
        memcpy(names[i], keys[question->index[i]].bytes, 32);
    frame.kind = kind;
    frame.body.cache_keys.request = question->request;
    frame.body.cache_keys.keys.name = (const uint8_t(*)[32])names;
    frame.body.cache_keys.keys.count = question->count;
    transport_send(lookup->node->transport, &question->to, &frame);
}

static void lookup_free(struct cache_lookup *lookup)
{
    struct cache_lookup **link = &lookup->node->cache.lookups;
    while (*link && *link != lookup)
        link = &(*link)->next;
    if (*link)
        *link = lookup->next;
    while (lookup->questions)
        question_free(lookup, lookup->questions);
    for (uint32_t i = 0; i < lookup->count; i++)
        bytes_drop(lookup->entry[i]);
    free(lookup->entry);
    free(lookup->holder);
    free(lookup->remote);
    free(lookup);
}

/* ---- The end of a lookup */

static void answer(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    if (lookup->whole) {
        struct entry entry;
        const bool hit =
            lookup->entry[0] && entry_decode(lookup->entry[0]->data, lookup->entry[0]->count, &entry);
        jobs_on_whole(node, &lookup->job, hit ? &entry : NULL);
        lookup_free(lookup);
        return;
    }
    struct mesh_event event = {
        .kind = MESH_LOOKED_UP,
        .body.looked_up = {
            .job = lookup->job, .epoch = lookup->epoch, .first = lookup->first, .count = lookup->count}};
    struct result_item *items = calloc(lookup->count, sizeof *items);
    must(items);
    uint32_t hits = 0;
    for (uint32_t i = 0; i < lookup->count; i++) {
        items[i].bytes = (const uint8_t *)"";
        if (!lookup->entry[i])
            continue;
        items[i] = (struct result_item){.bytes = lookup->entry[i]->data, .count = lookup->entry[i]->count};
        event.body.looked_up.hit[i / 8] = (uint8_t)(event.body.looked_up.hit[i / 8] | 1u << i % 8);
        hits++;
    }
    if (hits > 0)
        event.body.looked_up.handle = handles_put(&node->host.handles, result_encode(items, lookup->count));
    free(items);
    host_post(node, &event);
    lookup_free(lookup);
}

static void on_kept(struct node *node, void *context, enum store_error error)
{
    (void)node;
    struct cache_lookup *lookup = context;
    if (error != STORE_OK) /* a blob was evicted meanwhile, or there is no room: compute instead */
        for (uint32_t i = 0; i < lookup->count; i++) {
            bytes_drop(lookup->entry[i]);
            lookup->entry[i] = NULL;
        }
    answer(lookup);
}

/* Everything that will come has come: pin the blobs of the hits, keep what came from elsewhere, then tell the
 * core. */
static void keep(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    lookup->stage = KEEPING; /* nothing that comes late, and no time-out, concerns it any more */
    lookup->until_ms = INT64_MAX;
    const struct digest *keys = keys_of(lookup);
    log_debug("lookup", "job=%s first=%u stage=keeping", peer_name(node, &lookup->job), lookup->first);
    struct store_batch *batch = node_batch(node);
    const struct digest owner = owner_of(lookup);
    for (uint32_t i = 0; i < lookup->count; i++) {
        if (!lookup->entry[i] || !keys)
            continue;
        struct entry entry;
        uint8_t blobs[MANIFEST_OUTPUTS_MAX][32];
        if (!entry_decode(lookup->entry[i]->data, lookup->entry[i]->count, &entry))
            continue;
        const uint32_t blob_count = entry_blobs(&entry, blobs);
        for (uint32_t b = 0; b < blob_count; b++)
            store_batch_pin(batch, blobs[b], owner.bytes);
        if (!lookup->remote[i])
            continue;
        const struct store_entry row = {.bytes = lookup->entry[i]->data,
                                        .count = lookup->entry[i]->count,
                                        .blobs = (const uint8_t(*)[32])blobs,
                                        .blob_count = blob_count};
        store_batch_cache(batch, keys[i].bytes, &row);
    }
    if (store_batch_operations(batch) == 0) {
        store_batch_close(batch);
        answer(lookup);
    } else {
        node_commit(node, batch, on_kept, lookup);
    }
}

/* ---- Stage three: blobs */

struct blob_wait {
    struct cache_lookup *lookup;
    uint32_t index;
};

static void on_blob(struct node *node, void *context, const struct bulk_done *done)
{
    (void)node;
    const struct blob_wait wait = *(struct blob_wait *)context;
    free(context);
    if (done->error != BULK_OK) {
        bytes_drop(wait.lookup->entry[wait.index]);
        wait.lookup->entry[wait.index] = NULL;
    }
    if (--wait.lookup->fetching == 0)
        keep(wait.lookup);
}

static bool fetch_blobs(struct cache_lookup *lookup, uint32_t index)
{
    struct entry entry;
    uint8_t blobs[MANIFEST_OUTPUTS_MAX][32];
    if (!entry_decode(lookup->entry[index]->data, lookup->entry[index]->count, &entry))
        return false;
    const uint32_t count = entry_blobs(&entry, blobs);
    const struct digest pin = owner_of(lookup);
    for (uint32_t b = 0; b < count; b++) {
        struct store_blob_info info;
        if (store_blob_stat(lookup->node->store, blobs[b], &info) == STORE_OK)
            continue;
        struct blob_wait *wait = malloc(sizeof *wait);
        must(wait);
        *wait = (struct blob_wait){.lookup = lookup, .index = index};
        struct bulk_request request = {.holders = {lookup->holder[index]}, .holder_count = 1, .pin = &pin};
        memcpy(request.blob.bytes, blobs[b], sizeof request.blob.bytes);
        if (!fetch_start(lookup->node, &request, on_blob, wait)) {
            free(wait);
            return false;
        }
        lookup->fetching++;
    }
    return true;
}

static void start_fetching(struct cache_lookup *lookup)
{
    lookup->stage = FETCHING;
    log_debug("lookup", "job=%s first=%u stage=fetching", peer_name(lookup->node, &lookup->job),
              lookup->first);
    lookup->until_ms = INT64_MAX; /* bulk has its own time-outs */
    for (uint32_t i = 0; i < lookup->count; i++) {
        if (lookup->entry[i] && lookup->remote[i] && !fetch_blobs(lookup, i)) {
            bytes_drop(lookup->entry[i]);
            lookup->entry[i] = NULL;
        }
    }
    if (lookup->fetching == 0)
        keep(lookup);
}

/* ---- Stage two: entries from their holders */

static void start_getting(struct cache_lookup *lookup)
{
    const struct digest *keys = keys_of(lookup);
    lookup->stage = GETTING;
    log_debug("lookup", "job=%s first=%u stage=getting", peer_name(lookup->node, &lookup->job),
              lookup->first);
    lookup->until_ms = clock_now_ms() + GET_TIMEOUT_MS;
    while (lookup->questions)
        question_free(lookup, lookup->questions);
    for (uint32_t i = 0; keys && i < lookup->count; i++) {
        if (lookup->entry[i] || !lookup->remote[i] || is_self(lookup->node, &lookup->holder[i]))
            continue;
        struct question *question = question_for(lookup, &lookup->holder[i]);
        question->index[question->count++] = i;
        question->full = question->count == WIRE_CACHE_ENTRIES_MAX;
    }
    for (struct question *question = lookup->questions; question; question = question->next)
        question_send(lookup, question, WIRE_CACHE_GET, keys);
    if (!lookup->questions)
        start_fetching(lookup);
}

static void on_entries(struct cache_lookup *lookup, struct question *question, const struct wire_frame *frame)
{
    const uint32_t first = frame->body.cache_entries.first;
    const uint32_t count = frame->body.cache_entries.count;
    if (first > question->count || count > question->count - first)
        return;
    for (uint32_t e = 0; e < count; e++) {
        const struct wire_cache_entry *got = &frame->body.cache_entries.entry[e];
        const uint32_t index = question->index[first + e];
        struct entry entry;
        if (got->present && !lookup->entry[index] &&
            entry_decode(got->entry.bytes, got->entry.count, &entry) && fits(lookup, index, &entry))
            lookup->entry[index] = bytes_make(got->entry.bytes, got->entry.count);
    }
    if (first + count == question->count)
        question_free(lookup, question);
    if (!lookup->questions)
        start_fetching(lookup);
}

/* ---- Stage one: who holds what we lack */

static void note_holder(struct cache_lookup *lookup, uint32_t index, const uint8_t node[32])
{
    struct mesh_id id;
    memcpy(id.bytes, node, sizeof id.bytes);
    const struct peer *peer = peers_find(lookup->node, &id);
    if (is_self(lookup->node, &id) || !peer ||
        (lookup->remote[index] && transport_link_is_up(lookup->node->transport, &lookup->holder[index])))
        return;
    lookup->holder[index] = id;
    lookup->remote[index] = true;
}

/* One of a key's two owners is enough: a dead one must not hold up the rest. */
static bool all_placed(const struct cache_lookup *lookup)
{
    for (uint32_t i = 0; i < lookup->count; i++)
        if (!lookup->entry[i] && !lookup->remote[i])
            return false;
    return true;
}

static void on_found(struct cache_lookup *lookup, struct question *question, const struct wire_frame *frame)
{
    uint32_t name = 0;
    if (frame->body.cache_found.count == question->count)
        for (uint32_t k = 0; k < question->count; k++)
            for (uint32_t h = 0; h < frame->body.cache_found.holders[k]; h++)
                note_holder(lookup, question->index[k], frame->body.cache_found.nodes.name[name++]);
    question_free(lookup, question);
    if (!lookup->questions || all_placed(lookup))
        start_getting(lookup);
}

static void own_pointer(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    struct cache_lookup *lookup = context;
    for (size_t h = 0; h < count && !lookup->entry[index]; h++)
        note_holder(lookup, (uint32_t)index, holders[h].node);
}

static void start_finding(struct cache_lookup *lookup, const struct digest *keys)
{
    struct node *node = lookup->node;
    lookup->stage = FINDING;
    lookup->until_ms = clock_now_ms() + FIND_TIMEOUT_MS;
    store_pointer_get_many(node->store, (const uint8_t(*)[32])keys, lookup->count, own_pointer, lookup);
    for (uint32_t i = 0; i < lookup->count; i++) {
        if (lookup->entry[i])
            continue;
        struct mesh_id key, owner[2];
        memcpy(key.bytes, keys[i].bytes, sizeof key.bytes);
        const uint32_t owners = mesh_owners(node->host.mesh, &key, owner);
        for (uint32_t o = 0; o < owners; o++) {
            if (is_self(node, &owner[o]))
                continue;
            struct question *question = question_for(lookup, &owner[o]);
            question->index[question->count++] = i;
        }
    }
    for (struct question *question = lookup->questions; question; question = question->next)
        question_send(lookup, question, WIRE_CACHE_FIND, keys);
    if (!lookup->questions || all_placed(lookup))
        start_getting(lookup);
}

/* ---- Our own cache first */

static void own_entry(void *context, size_t index, const struct store_entry *stored)
{
    struct cache_lookup *lookup = context;
    struct entry entry;
    if (entry_decode(stored->bytes, stored->count, &entry) && fits(lookup, (uint32_t)index, &entry))
        lookup->entry[index] = bytes_make(stored->bytes, stored->count);
}

static void look_up(struct node *node, const struct cache_lookup *wanted)
{
    struct cache_lookup *lookup = calloc(1, sizeof *lookup);
    must(lookup);
    *lookup = *wanted;
    lookup->next = node->cache.lookups;
    lookup->node = node;
    lookup->entry = calloc(lookup->count, sizeof *lookup->entry);
    lookup->holder = calloc(lookup->count, sizeof *lookup->holder);
    lookup->remote = calloc(lookup->count, sizeof *lookup->remote);
    must(lookup->entry);
    must(lookup->holder);
    must(lookup->remote);
    node->cache.lookups = lookup;
    const struct job *job = jobs_find(node, &lookup->job);
    const struct digest *keys = keys_of(lookup);
    if (!keys) {
        answer(lookup);
        return;
    }
    store_cache_get_many(node->store, (const uint8_t(*)[32])keys, lookup->count, own_entry, lookup);
    uint32_t missing = 0;
    for (uint32_t i = 0; i < lookup->count; i++)
        missing += lookup->entry[i] == NULL;
    log_debug("lookup", "job=%s first=%u count=%u missing=%u", peer_name(node, &lookup->job), lookup->first,
              lookup->count, missing);
    if (missing > 0 && job->spec.cache == JOB_CACHE_MESH)
        start_finding(lookup, keys);
    else
        keep(lookup);
}

void cache_lookup(struct node *node, const struct mesh_id *job, uint64_t epoch, uint32_t first,
                  uint32_t count)
{
    look_up(node, &(struct cache_lookup){.job = *job, .epoch = epoch, .first = first, .count = count});
}

void cache_lookup_whole(struct node *node, const struct mesh_id *job)
{
    look_up(node, &(struct cache_lookup){.job = *job, .whole = true, .count = 1});
}

/* ---- What others ask of us */

struct found {
    uint8_t holders[WIRE_CACHE_KEYS_MAX];
    uint8_t nodes[WIRE_CACHE_KEYS_MAX * WIRE_CACHE_HOLDERS_MAX][32];
    uint32_t node_count;
};

static void add_found(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    struct found *found = context;
    found->holders[index] = (uint8_t)count;
    for (size_t h = 0; h < count; h++)
        memcpy(found->nodes[found->node_count++], holders[h].node, 32);
}

/* A question about one name alone is a search for its holders, see holders.c: we answer for ourselves, too. */
static bool holds(struct node *node, const uint8_t name[32])
{
    struct store_blob_info info;
    return store_blob_stat(node->store, name, &info) == STORE_OK;
}

static void on_find(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    static struct found found;
    static struct wire_frame reply;
    const struct wire_names keys = frame->body.cache_keys.keys;
    memset(found.holders, 0, keys.count);
    found.node_count = 0;
    store_pointer_get_many(node->store, keys.name, keys.count, add_found, &found);
    if (keys.count == 1 && found.node_count < WIRE_CACHE_HOLDERS_MAX && holds(node, keys.name[0])) {
        memcpy(found.nodes[found.node_count++], node->self.bytes, 32);
        found.holders[0]++;
    }
    reply.kind = WIRE_CACHE_FOUND;
    reply.body.cache_found.request = frame->body.cache_keys.request;
    reply.body.cache_found.count = keys.count;
    reply.body.cache_found.holders = found.holders;
    reply.body.cache_found.nodes.name = (const uint8_t(*)[32])found.nodes;
    reply.body.cache_found.nodes.count = found.node_count;
    transport_send(node->transport, from, &reply);
}

struct given {
    struct bytes *entry[WIRE_CACHE_ENTRIES_MAX];
    uint8_t blobs[WIRE_CACHE_ENTRIES_MAX][WIRE_CACHE_BLOBS_MAX][32];
    uint32_t blob_count[WIRE_CACHE_ENTRIES_MAX];
};

static void add_given(void *context, size_t index, const struct store_entry *entry)
{
    struct given *given = context;
    if (entry->blob_count > WIRE_CACHE_BLOBS_MAX)
        return;
    given->entry[index] = bytes_make(entry->bytes, entry->count);
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

static struct question *find_question(struct node *node, const struct mesh_id *from, uint64_t request,
                                      enum stage stage, struct cache_lookup **lookup)
{
    for (*lookup = node->cache.lookups; *lookup; *lookup = (*lookup)->next) {
        if ((*lookup)->stage != stage)
            continue;
        for (struct question *question = (*lookup)->questions; question; question = question->next)
            if (question->request == request && memcmp(&question->to, from, sizeof *from) == 0)
                return question;
    }
    return NULL;
}

void cache_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    struct cache_lookup *lookup;
    struct question *question;
    switch (frame->kind) {
    case WIRE_CACHE_PUBLISH:
        keep_pointers(node, from, frame->body.cache_publish.keys.name, frame->body.cache_publish.keys.count);
        break;
    case WIRE_CACHE_FIND:
        on_find(node, from, frame);
        break;
    case WIRE_CACHE_GET:
        on_get(node, from, frame);
        break;
    case WIRE_CACHE_FOUND:
        question = find_question(node, from, frame->body.cache_found.request, FINDING, &lookup);
        if (question)
            on_found(lookup, question, frame);
        else
            holders_on_found(node, frame);
        break;
    case WIRE_CACHE_ENTRIES:
        question = find_question(node, from, frame->body.cache_entries.request, GETTING, &lookup);
        if (question)
            on_entries(lookup, question, frame);
        break;
    default:
        break;
    }
}

int64_t cache_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct cache_lookup *lookup = node->cache.lookups; lookup;) {
        struct cache_lookup *next = lookup->next;
        if (now_ms >= lookup->until_ms) {
            if (lookup->stage == FINDING) {
                start_getting(lookup);
            } else if (lookup->stage == GETTING) {
                while (lookup->questions)
                    question_free(lookup, lookup->questions);
                start_fetching(lookup);
            }
            return now_ms; /* the list may have changed */
        }
        if (lookup->until_ms < wake_at_ms)
            wake_at_ms = lookup->until_ms;
        lookup = next;
    }
    return wake_at_ms;
}
