/*
 * The result cache across nodes, the asking side (cache_serve.c is the other). Who computed a result keeps it; two owners
 * per key, chosen by rendezvous hashing, know who keeps it and who computes it now. A lookup of a range of shards goes in
 * rounds: our own cache; the owners of what is missing (CLAIM, which leases what nobody holds, or FIND); the holders that
 * they name, one after another (GET); the blobs that the entries need (bulk); then what is known is told to the core.
 * What somebody else computes is looked for again a little later, in another round, as long as that makes progress.
 * Whatever does not come in time is a miss and costs only work.
 *
 * The first owner's word counts; the second is asked at the same time and stands in for one that is silent. A holder that
 * lacks what it is said to have is passed over, and the owners are told; one that sends what can't be the result is
 * marked, too, and all that it was said to hold is void here.
 */
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"

#include <stdlib.h>
#include <string.h>

#define FIND_TIMEOUT_MS 200
#define GET_TIMEOUT_MS 1000    /* of one holder; then the next is asked */
#define WAIT_FIRST_MS 100      /* until a result that is being computed is looked for again, */
#define WAIT_MAX_MS 1000       /* doubling up to this */
#define WAIT_PATIENCE_MS 30000 /* without any of them coming: then we compute them, too */
#define OURS_ROUNDS 3          /* that we look for what we are said to hold */
#define OVER_AFTER_MS 2000     /* its last results are in the owners' stores by then */
#define CLAIM_OWNERS_MAX 64    /* told of a job's end; the leases at others end by themselves */
#define CLAIMS_MAX 1024        /* jobs; likewise */

enum stage { FINDING, GETTING, FETCHING, KEEPING, WAITING };

enum key_state {
    KEY_OPEN,  /* looked for in this round */
    KEY_LATER, /* somebody computes it: the next round will tell */
    KEY_TOLD,  /* the core knows */
};

enum word { SAID_NOTHING, SAID_FREE, SAID_LEASED };

/* One shard of a lookup. */
struct sought {
    enum key_state state;
    uint8_t word[2]; /* what each owner said of it, in this round */
    uint32_t owners;
    struct mesh_id owner[2];
    bool ours;           /* they say that we hold it: then it came while we asked */
    uint8_t ours_rounds; /* in so many rounds now */
    uint32_t holders;
    uint32_t tried; /* of them; the entry, if there is one and it is not our own, came from the last */
    struct mesh_id holder[WIRE_CACHE_HOLDERS_MAX];
    struct bytes *entry; /* NULL = a miss so far */
    bool remote;         /* the entry is not our own */
};

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
    struct sought *sought; /* [count] */
    int64_t pause_ms;      /* before the next round */
    int64_t came_at_ms;    /* when a round last told the core of something that was being computed */
};

/* The owners that leased keys to a job of ours. */
struct cache_claim {
    struct cache_claim *next;
    struct mesh_id job;
    uint32_t owners;
    int64_t over_at_ms; /* the job has ended: told to the owners then; 0 = it goes on */
    struct mesh_id owner[CLAIM_OWNERS_MAX];
};

static bool is_self(const struct node *node, const struct mesh_id *id)
{
    return memcmp(id, &node->self, sizeof *id) == 0;
}

/* The job, while it is of use to look its keys up. */
static const struct job *job_of(const struct cache_lookup *lookup)
{
    const struct job *job = jobs_find(lookup->node, &lookup->job);
    return job && job->keys ? job : NULL;
}

/* The keys that are looked up, `lookup->count` of them; NULL once the job is gone. */
static const struct digest *keys_of(const struct cache_lookup *lookup)
{
    const struct job *job = job_of(lookup);
    return !job ? NULL : lookup->whole ? &job->whole_key : job->keys + lookup->first;
}

/* Whether an entry can be what its key stands for. */
static bool fits(const struct cache_lookup *lookup, uint32_t index, const struct entry *entry)
{
    const struct job *job = job_of(lookup);
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

static bool is_missing(const struct sought *sought)
{
    return sought->state == KEY_OPEN && !sought->entry;
}

static void drop_entry(struct sought *sought)
{
    bytes_drop(sought->entry);
    sought->entry = NULL;
    sought->remote = false;
}

/* ---- Jobs with leases */

static void claim_note(struct node *node, const struct mesh_id *job, const struct mesh_id *owner)
{
    struct cache_claim *claim = node->cache.claims;
    uint32_t count = 0;
    for (; claim && memcmp(&claim->job, job, sizeof *job) != 0; claim = claim->next)
        count++;
    if (!claim) {
        if (count >= CLAIMS_MAX)
            return;
        claim = calloc(1, sizeof *claim);
        must(claim);
        claim->job = *job;
        claim->next = node->cache.claims;
        node->cache.claims = claim;
    }
    for (uint32_t i = 0; i < claim->owners; i++)
        if (memcmp(&claim->owner[i], owner, sizeof *owner) == 0)
            return;
    if (claim->owners < CLAIM_OWNERS_MAX)
        claim->owner[claim->owners++] = *owner;
}

static void claim_end(struct node *node, struct cache_claim *claim)
{
    static struct wire_frame frame;
    frame.kind = WIRE_CACHE_OVER;
    frame.body.cache_over.job = claim->job;
    const struct lessee who = {.node = node->self, .job = claim->job};
    for (uint32_t i = 0; i < claim->owners; i++) {
        if (is_self(node, &claim->owner[i]))
            leases_end_job(node->cache.leases, &who);
        else
            transport_send(node->transport, &claim->owner[i], &frame);
    }
    struct cache_claim **link = &node->cache.claims;
    while (*link != claim)
        link = &(*link)->next;
    *link = claim->next;
    free(claim);
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

static void questions_free(struct cache_lookup *lookup)
{
    while (lookup->questions)
        question_free(lookup, lookup->questions);
}

static void question_send(struct cache_lookup *lookup, const struct question *question, enum wire_kind kind,
                          const struct digest *keys)
{
    static struct wire_frame frame;
    static uint8_t names[WIRE_CACHE_KEYS_MAX][32];
    for (uint32_t i = 0; i < question->count; i++)
        memcpy(names[i], keys[question->index[i]].bytes, 32);
    const struct wire_names named = {.name = (const uint8_t(*)[32])names, .count = question->count};
    frame.kind = kind;
    if (kind == WIRE_CACHE_CLAIM) {
        frame.body.cache_claim.request = question->request;
        frame.body.cache_claim.job = lookup->job;
        frame.body.cache_claim.keys = named;
        claim_note(lookup->node, &lookup->job, &question->to);
    } else {
        frame.body.cache_keys.request = question->request;
        frame.body.cache_keys.keys = named;
    }
    transport_send(lookup->node->transport, &question->to, &frame);
}

static void lookup_free(struct cache_lookup *lookup)
{
    struct cache_lookup **link = &lookup->node->cache.lookups;
    while (*link && *link != lookup)
        link = &(*link)->next;
    if (*link)
        *link = lookup->next;
    questions_free(lookup);
    for (uint32_t i = 0; i < lookup->count; i++)
        bytes_drop(lookup->sought[i].entry);
    free(lookup->sought);
    free(lookup);
}

/* ---- Holders that are not what they are said to be */

/* Tells the key's owners that the holder doesn't have it. */
static void tell_gone(struct cache_lookup *lookup, uint32_t index, const struct mesh_id *holder)
{
    static struct wire_frame frame;
    struct node *node = lookup->node;
    const struct digest *keys = keys_of(lookup);
    const struct sought *sought = &lookup->sought[index];
    if (!keys)
        return;
    frame.kind = WIRE_CACHE_GONE;
    frame.body.cache_gone.holder = *holder;
    frame.body.cache_gone.keys =
        (struct wire_names){.name = (const uint8_t(*)[32])keys[index].bytes, .count = 1};
    for (uint32_t o = 0; o < sought->owners; o++) {
        if (is_self(node, &sought->owner[o]))
            cache_forget(node, holder, (const uint8_t(*)[32])keys[index].bytes, 1);
        else
            transport_send(node->transport, &sought->owner[o], &frame);
    }
}

/* What it sent can't be the result of that key. */
static void caught(struct cache_lookup *lookup, uint32_t index, const struct mesh_id *holder)
{
    struct node *node = lookup->node;
    node->cache.lies++;
    tell_gone(lookup, index, holder);
    if (bulk_is_liar(node->bulk, holder))
        return; /* known, and void already */
    log_warn("cache",
             "holder=%s job=%s error=\"what it sent can't be the result; what it was said to hold is void\"",
             peer_name(node, holder), peer_name(node, &lookup->job));
    bulk_mark_liar(node->bulk, holder);
    cache_void(node, holder);
}

static void count_hit(struct node *node, const char *site)
{
    struct cache *cache = &node->cache;
    uint32_t s = 0;
    while (s < cache->site_count && strcmp(cache->site[s].name, site) != 0)
        s++;
    if (s == CACHE_SITES_MAX)
        s--; /* the last one stands for all that found no place */
    if (s == cache->site_count) {
        snprintf(cache->site[s].name, sizeof cache->site[s].name, "%s", site);
        cache->site_count++;
    }
    cache->site[s].hits++;
}

/* ---- The end of a round */

static void begin_round(struct cache_lookup *lookup);

static void answer_whole(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    struct sought *sought = &lookup->sought[0];
    struct entry entry;
    const struct mesh_id *from = sought->remote ? &sought->holder[sought->tried - 1] : NULL;
    const bool hit = sought->entry && entry_decode(sought->entry->data, sought->entry->count, &entry);
    if (hit)
        count_hit(node, peer_site(node, from ? from : &node->self));
    jobs_on_whole(node, &lookup->job, hit ? &entry : NULL, from);
    lookup_free(lookup);
}

/* Tells the core what this round brought; then the lookup waits for the next one, or ends. */
static void answer(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    if (lookup->whole) {
        answer_whole(lookup);
        return;
    }
    struct mesh_event event = {
        .kind = MESH_LOOKED_UP,
        .body.looked_up = {
            .job = lookup->job, .epoch = lookup->epoch, .first = lookup->first, .count = lookup->count}};
    struct result_item *items = calloc(lookup->count, sizeof *items);
    must(items);
    uint32_t hits = 0, told = 0, later = 0;
    for (uint32_t i = 0; i < lookup->count; i++) {
        struct sought *sought = &lookup->sought[i];
        items[i].bytes = (const uint8_t *)"";
        if (sought->state == KEY_LATER) {
            event.body.looked_up.later[i / 8] = (uint8_t)(event.body.looked_up.later[i / 8] | 1u << i % 8);
            later++;
        }
        if (sought->state != KEY_OPEN)
            continue;
        sought->state = KEY_TOLD;
        told++;
        if (!sought->entry)
            continue;
        items[i] = (struct result_item){.bytes = sought->entry->data, .count = sought->entry->count};
        event.body.looked_up.hit[i / 8] = (uint8_t)(event.body.looked_up.hit[i / 8] | 1u << i % 8);
        hits++;
        count_hit(node, peer_site(node, sought->remote ? &sought->holder[sought->tried - 1] : &node->self));
    }
    if (hits > 0)
        event.body.looked_up.handle = handles_put(&node->host.handles, result_encode(items, lookup->count));
    free(items);
    if (told > 0 || later == 0)
        host_post(node, &event);
    if (later == 0) {
        lookup_free(lookup);
        return;
    }
    for (uint32_t i = 0; i < lookup->count; i++)
        drop_entry(&lookup->sought[i]);
    const int64_t now_ms = clock_now_ms();
    lookup->pause_ms = lookup->pause_ms == 0 || told > 0    ? WAIT_FIRST_MS
                       : 2 * lookup->pause_ms < WAIT_MAX_MS ? 2 * lookup->pause_ms
                                                            : WAIT_MAX_MS;
    if (told > 0)
        lookup->came_at_ms = now_ms;
    lookup->stage = WAITING;
    lookup->until_ms = now_ms + lookup->pause_ms;
}

static void on_kept(struct node *node, void *context, enum store_error error)
{
    struct cache_lookup *lookup = context;
    const struct job *job = job_of(lookup);
    const struct digest *keys = keys_of(lookup);
    if (error != STORE_OK) /* a blob was evicted meanwhile, or there is no room: compute instead */
        for (uint32_t i = 0; i < lookup->count; i++)
            if (lookup->sought[i].state == KEY_OPEN)
                drop_entry(&lookup->sought[i]);
    /* What came from elsewhere was wanted twice: it is kept in two places now, and the owners shall know of both. */
    if (keys && job->spec.cache == JOB_CACHE_MESH) {
        static struct digest copies[MESH_LOOKUP_SHARDS_MAX];
        uint32_t count = 0;
        for (uint32_t i = 0; i < lookup->count; i++)
            if (lookup->sought[i].state == KEY_OPEN && lookup->sought[i].entry && lookup->sought[i].remote)
                copies[count++] = keys[i];
        if (count > 0)
            cache_publish(node, copies, count);
    }
    answer(lookup);
}

/* Everything that will come in this round has come: pin the blobs of the hits, keep what came from elsewhere, then tell
 * the core. */
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
        const struct sought *sought = &lookup->sought[i];
        if (sought->state != KEY_OPEN || !sought->entry || !keys)
            continue;
        struct entry entry;
        uint8_t blobs[MANIFEST_OUTPUTS_MAX][32];
        if (!entry_decode(sought->entry->data, sought->entry->count, &entry))
            continue;
        const uint32_t blob_count = entry_blobs(&entry, blobs);
        for (uint32_t b = 0; b < blob_count; b++)
            store_batch_pin(batch, blobs[b], owner.bytes);
        if (!sought->remote)
            continue;
        const struct provenance provenance = {.executor = sought->holder[sought->tried - 1],
                                              .class = job_of(lookup)->spec.manifest->class,
                                              .whole = lookup->whole,
                                              .at_ms = clock_wall_ms()};
        static uint8_t bytes[PROVENANCE_BYTES + STORE_ENTRY_BYTES_MAX];
        provenance_encode(&provenance, sought->entry->data, sought->entry->count, bytes);
        const struct store_entry row = {.bytes = bytes,
                                        .count = PROVENANCE_BYTES + sought->entry->count,
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
    struct sought *sought = &wait.lookup->sought[wait.index];
    if (done->error != BULK_OK && sought->entry) {
        if (done->error == BULK_ABSENT && sought->tried > 0)
            tell_gone(wait.lookup, wait.index, &sought->holder[sought->tried - 1]);
        drop_entry(sought);
    }
    if (--wait.lookup->fetching == 0)
        keep(wait.lookup);
}

static bool fetch_blobs(struct cache_lookup *lookup, uint32_t index)
{
    const struct sought *sought = &lookup->sought[index];
    struct entry entry;
    uint8_t blobs[MANIFEST_OUTPUTS_MAX][32];
    if (!entry_decode(sought->entry->data, sought->entry->count, &entry))
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
        /* Who gave the entry first; the others that hold it as well. */
        struct bulk_request request = {
            .holders = {sought->holder[sought->tried - 1]}, .holder_count = 1, .pin = &pin};
        for (uint32_t h = 0; h < sought->holders && request.holder_count < BULK_HOLDERS_MAX; h++)
            if (h != sought->tried - 1)
                request.holders[request.holder_count++] = sought->holder[h];
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
    lookup->fetching = 1;         /* none of them ends before all have begun */
    for (uint32_t i = 0; i < lookup->count; i++) {
        struct sought *sought = &lookup->sought[i];
        if (sought->state == KEY_OPEN && sought->entry && sought->remote && !fetch_blobs(lookup, i))
            drop_entry(sought);
    }
    if (--lookup->fetching == 0)
        keep(lookup);
}

/* ---- Stage two: entries from their holders */

/* The next holder that may be asked for it; NULL = there is none. */
static const struct mesh_id *next_holder(const struct cache_lookup *lookup, struct sought *sought)
{
    while (sought->tried < sought->holders) {
        const struct mesh_id *holder = &sought->holder[sought->tried++];
        if (!bulk_is_liar(lookup->node->bulk, holder) && !quarantine_find(lookup->node, holder))
            return holder;
    }
    return NULL;
}

static void start_getting(struct cache_lookup *lookup)
{
    const struct digest *keys = keys_of(lookup);
    lookup->stage = GETTING;
    log_debug("lookup", "job=%s first=%u stage=getting", peer_name(lookup->node, &lookup->job),
              lookup->first);
    lookup->until_ms = clock_now_ms() + GET_TIMEOUT_MS;
    questions_free(lookup);
    for (uint32_t i = 0; keys && i < lookup->count; i++) {
        if (!is_missing(&lookup->sought[i]))
            continue;
        const struct mesh_id *holder = next_holder(lookup, &lookup->sought[i]);
        if (!holder)
            continue;
        struct question *question = question_for(lookup, holder);
        question->index[question->count++] = i;
        question->full = question->count == WIRE_CACHE_ENTRIES_MAX;
    }
    for (struct question *question = lookup->questions; question; question = question->next)
        question_send(lookup, question, WIRE_CACHE_GET, keys);
    if (!lookup->questions)
        start_fetching(lookup);
}

static void take_entry(struct cache_lookup *lookup, uint32_t index, const struct mesh_id *from,
                       const struct wire_cache_entry *got)
{
    struct sought *sought = &lookup->sought[index];
    struct entry entry;
    if (!is_missing(sought))
        return;
    if (!got->present) {
        tell_gone(lookup, index, from);
    } else if (entry_decode(got->entry.bytes, got->entry.count, &entry) && fits(lookup, index, &entry)) {
        /* It is the holder's word that this is the result. */
        const struct provenance provenance = {
            .executor = *from, .whole = lookup->whole, .at_ms = clock_wall_ms()};
        if (!verify_accepts(lookup->node, job_of(lookup), &provenance))
            return;
        sought->entry = bytes_make(got->entry.bytes, got->entry.count);
        sought->remote = true;
    } else if (job_of(lookup)) {
        caught(lookup, index, from);
    }
}

static void on_entries(struct cache_lookup *lookup, struct question *question, const struct wire_frame *frame)
{
    const uint32_t first = frame->body.cache_entries.first;
    const uint32_t count = frame->body.cache_entries.count;
    if (first > question->count || count > question->count - first)
        return;
    for (uint32_t e = 0; e < count; e++)
        take_entry(lookup, question->index[first + e], &question->to, &frame->body.cache_entries.entry[e]);
    if (first + count == question->count)
        question_free(lookup, question);
    if (!lookup->questions)
        start_getting(lookup); /* from the next holders, if there are some */
}

/* ---- Stage one: who holds what we lack, and who computes it */

static void note_holder(struct cache_lookup *lookup, uint32_t index, const uint8_t node[32])
{
    struct sought *sought = &lookup->sought[index];
    struct mesh_id id;
    memcpy(id.bytes, node, sizeof id.bytes);
    struct mesh_member_view view;
    sought->ours = sought->ours || is_self(lookup->node, &id);
    if (is_self(lookup->node, &id) || sought->holders == WIRE_CACHE_HOLDERS_MAX ||
        !mesh_member_find(lookup->node->host.mesh, &id, &view) || view.state > MESH_SUSPECT)
        return;
    for (uint32_t h = 0; h < sought->holders; h++)
        if (memcmp(&sought->holder[h], &id, sizeof id) == 0)
            return;
    sought->holder[sought->holders++] = id;
}

/* One owner is enough where it knows a holder, and the first one's word in any case. */
static bool all_placed(const struct cache_lookup *lookup)
{
    for (uint32_t i = 0; i < lookup->count; i++)
        if (is_missing(&lookup->sought[i]) && lookup->sought[i].holders == 0 && !lookup->sought[i].word[0])
            return false;
    return true;
}

/* What neither we nor a holder has is ours to compute, unless the owners say that somebody does. */
static void end_finding(struct cache_lookup *lookup)
{
    const bool patient = clock_now_ms() < lookup->came_at_ms + WAIT_PATIENCE_MS;
    for (uint32_t i = 0; i < lookup->count; i++) {
        struct sought *sought = &lookup->sought[i];
        const uint8_t word = sought->word[0] ? sought->word[0] : sought->word[1];
        if (!is_missing(sought) || sought->holders > 0 || lookup->whole)
            continue;
        if (sought->ours && sought->ours_rounds < OURS_ROUNDS)
            sought->state = KEY_LATER;
        else if (sought->ours)
            tell_gone(lookup, i, &lookup->node->self); /* we had it once */
        else if (word == SAID_LEASED && patient)
            sought->state = KEY_LATER;
    }
    start_getting(lookup);
}

static void note_word(struct cache_lookup *lookup, uint32_t index, const struct mesh_id *owner, bool leased)
{
    struct sought *sought = &lookup->sought[index];
    for (uint32_t o = 0; o < sought->owners; o++)
        if (memcmp(&sought->owner[o], owner, sizeof *owner) == 0)
            sought->word[o] = leased ? SAID_LEASED : SAID_FREE;
}

static void on_found(struct cache_lookup *lookup, struct question *question, const struct wire_frame *frame)
{
    uint32_t name = 0;
    for (uint32_t k = 0; frame->body.cache_found.count == question->count && k < question->count; k++) {
        const uint8_t holders = frame->body.cache_found.holders[k];
        note_word(lookup, question->index[k], &question->to, holders == WIRE_CACHE_LEASED);
        for (uint32_t h = 0; holders != WIRE_CACHE_LEASED && h < holders; h++)
            note_holder(lookup, question->index[k], frame->body.cache_found.nodes.name[name++]);
    }
    question_free(lookup, question);
    if (!lookup->questions || all_placed(lookup))
        end_finding(lookup);
}

static void own_pointer(void *context, size_t index, const struct store_holder *holders, size_t count)
{
    struct cache_lookup *lookup = context;
    for (size_t h = 0; h < count && is_missing(&lookup->sought[index]); h++)
        note_holder(lookup, (uint32_t)index, holders[h].node);
}

/* As the owner of a key of our own job. */
static void ask_ourselves(struct cache_lookup *lookup, uint32_t index, const struct digest *key)
{
    struct node *node = lookup->node;
    const struct lessee who = {.node = node->self, .job = lookup->job};
    const bool free =
        lookup->whole || lookup->sought[index].holders > 0 || cache_claim(node, key->bytes, &who);
    note_word(lookup, index, &node->self, !free);
    if (!lookup->whole)
        claim_note(node, &lookup->job, &node->self);
}

/* Peers of protocol 1 know no leases. */
static enum wire_kind kind_for(const struct cache_lookup *lookup, const struct mesh_id *owner)
{
    struct transport_protocol protocol;
    transport_protocol(lookup->node->transport, owner, &protocol);
    return !lookup->whole && protocol.agreed >= wire_kind_since(WIRE_CACHE_CLAIM) ? WIRE_CACHE_CLAIM
                                                                                  : WIRE_CACHE_FIND;
}

static void start_finding(struct cache_lookup *lookup, const struct digest *keys)
{
    struct node *node = lookup->node;
    lookup->stage = FINDING;
    lookup->until_ms = clock_now_ms() + FIND_TIMEOUT_MS;
    store_pointer_get_many(node->store, (const uint8_t(*)[32])keys, lookup->count, own_pointer, lookup);
    for (uint32_t i = 0; i < lookup->count; i++) {
        struct sought *sought = &lookup->sought[i];
        if (!is_missing(sought))
            continue;
        struct mesh_id key;
        memcpy(key.bytes, keys[i].bytes, sizeof key.bytes);
        sought->owners = mesh_owners(node->host.mesh, &key, sought->owner);
        for (uint32_t o = 0; o < sought->owners; o++) {
            if (is_self(node, &sought->owner[o])) {
                ask_ourselves(lookup, i, &keys[i]);
                continue;
            }
            struct question *question = question_for(lookup, &sought->owner[o]);
            question->index[question->count++] = i;
        }
    }
    for (struct question *question = lookup->questions; question; question = question->next)
        question_send(lookup, question, kind_for(lookup, &question->to), keys);
    if (!lookup->questions || all_placed(lookup))
        end_finding(lookup);
}

/* With --cache site nobody else is told or asked: the other nodes of the site may have it. */
static void ask_the_site(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    struct mesh_member_view self, view;
    if (mesh_member_find(node->host.mesh, &node->self, &self))
        for (uint32_t m = 0; mesh_member_view(node->host.mesh, m, &view); m++)
            for (uint32_t i = 0; view.site == self.site && !view.self && i < lookup->count; i++)
                if (is_missing(&lookup->sought[i]))
                    note_holder(lookup, i, view.id.bytes);
    start_getting(lookup);
}

/* ---- Rounds */

static void own_entry(void *context, size_t index, const struct store_entry *stored)
{
    struct cache_lookup *lookup = context;
    struct sought *sought = &lookup->sought[index];
    struct entry entry;
    struct provenance provenance;
    const size_t head = provenance_decode(stored->bytes, stored->count, &provenance);
    const uint8_t *bytes = (const uint8_t *)stored->bytes + head;
    const size_t count = stored->count - head;
    const struct job *job = job_of(lookup);
    if (is_missing(sought) && job && entry_decode(bytes, count, &entry) &&
        fits(lookup, (uint32_t)index, &entry) && verify_accepts(lookup->node, job, &provenance))
        sought->entry = bytes_make(bytes, count);
}

static void begin_round(struct cache_lookup *lookup)
{
    struct node *node = lookup->node;
    const struct job *job = job_of(lookup);
    const struct digest *keys = keys_of(lookup);
    uint32_t missing = 0;
    for (uint32_t i = 0; i < lookup->count; i++) {
        struct sought *sought = &lookup->sought[i];
        if (sought->state == KEY_LATER)
            *sought = (struct sought){.state = KEY_OPEN,
                                      .ours_rounds = (uint8_t)(sought->ours_rounds + sought->ours)};
    }
    if (!job) {
        answer(lookup);
        return;
    }
    store_cache_get_many(node->store, (const uint8_t(*)[32])keys, lookup->count, own_entry, lookup);
    for (uint32_t i = 0; i < lookup->count; i++)
        missing += is_missing(&lookup->sought[i]);
    log_debug("lookup", "job=%s first=%u count=%u missing=%u", peer_name(node, &lookup->job), lookup->first,
              lookup->count, missing);
    if (missing == 0)
        keep(lookup);
    else if (job->spec.cache == JOB_CACHE_MESH)
        start_finding(lookup, keys);
    else
        ask_the_site(lookup);
}

static void look_up(struct node *node, const struct cache_lookup *wanted)
{
    struct cache_lookup *lookup = calloc(1, sizeof *lookup);
    must(lookup);
    *lookup = *wanted;
    lookup->next = node->cache.lookups;
    lookup->node = node;
    lookup->came_at_ms = clock_now_ms();
    lookup->sought = calloc(lookup->count, sizeof *lookup->sought);
    must(lookup->sought);
    node->cache.lookups = lookup;
    begin_round(lookup);
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

void cache_job_over(struct node *node, const struct mesh_id *job, bool done)
{
    for (struct cache_claim *claim = node->cache.claims; claim; claim = claim->next)
        if (memcmp(&claim->job, job, sizeof *job) == 0)
            claim->over_at_ms = clock_now_ms() + (done ? OVER_AFTER_MS : 0);
    for (struct cache_lookup *lookup = node->cache.lookups; lookup; lookup = lookup->next)
        if (lookup->stage == WAITING && memcmp(&lookup->job, job, sizeof *job) == 0)
            lookup->until_ms = 0; /* the core waits for the end of it */
    loop_wake(node->loop);
}

void cache_open(struct node *node)
{
    node->cache.leases = leases_open();
    must(node->cache.leases);
}

void cache_close(struct node *node)
{
    while (node->cache.claims) {
        struct cache_claim *claim = node->cache.claims;
        node->cache.claims = claim->next;
        free(claim);
    }
    leases_close(node->cache.leases);
}

/* ---- Answers, and time */

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
    if (cache_serve(node, from, frame))
        return;
    struct cache_lookup *lookup;
    struct question *question;
    if (frame->kind == WIRE_CACHE_ENTRIES) {
        question = find_question(node, from, frame->body.cache_entries.request, GETTING, &lookup);
        if (question)
            on_entries(lookup, question, frame);
    } else {
        question = find_question(node, from, frame->body.cache_found.request, FINDING, &lookup);
        if (question)
            on_found(lookup, question, frame);
        else
            holders_on_found(node, frame);
    }
}

static void timed_out(struct cache_lookup *lookup)
{
    if (lookup->stage == FINDING)
        end_finding(lookup);
    else if (lookup->stage == GETTING)
        start_getting(lookup);
    else
        begin_round(lookup);
}

int64_t cache_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct cache_claim *claim = node->cache.claims; claim; claim = claim->next) {
        if (claim->over_at_ms && now_ms >= claim->over_at_ms) {
            claim_end(node, claim);
            return now_ms; /* the list has changed */
        }
        if (claim->over_at_ms && claim->over_at_ms < wake_at_ms)
            wake_at_ms = claim->over_at_ms;
    }
    for (struct cache_lookup *lookup = node->cache.lookups; lookup; lookup = lookup->next) {
        if (now_ms >= lookup->until_ms) {
            timed_out(lookup);
            return now_ms; /* likewise */
        }
        if (lookup->until_ms < wake_at_ms)
            wake_at_ms = lookup->until_ms;
    }
    return wake_at_ms;
}
