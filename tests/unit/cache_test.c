/*
 * The result cache of one node among scripted peers: what it asks whom, what it believes, and what it answers. The peers,
 * the clock and the core are this file's; the store is real.
 */
#include "node/node.h"
#include "node/payload.h"
#include "node/store_digests.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 3u
#define OUTPUT_BYTES 4u
#define SENT_MAX 64

struct sent {
    struct mesh_id to;
    enum wire_kind kind;
    uint64_t request;
    uint32_t keys;
    uint8_t first[32]; /* the first key that it names */
    struct mesh_id holder;
    /* ANSWER to a peer's FIND or CLAIM */
    uint8_t holders[8];
};

static struct node node;
static struct job job;
static struct digest keys[KEYS];
static struct sent sent[SENT_MAX];
static uint32_t sent_count;
static struct mesh_event posted[8];
static uint32_t posted_count;
static bool liar[256], down[256];
static int64_t now_ms;
static char folder[64];

static struct mesh_id peer(uint8_t number)
{
    return (struct mesh_id){.bytes = {number}};
}

/* ---- The rest of the node, as this test has it */

int64_t __wrap_clock_now_ms(void);
int64_t __wrap_clock_now_ms(void)
{
    return now_ms;
}

bool __wrap_transport_send(struct transport *transport, const struct mesh_id *to,
                           const struct wire_frame *frame);
bool __wrap_transport_send(struct transport *transport, const struct mesh_id *to,
                           const struct wire_frame *frame)
{
    (void)transport;
    assert_true(sent_count < SENT_MAX);
    struct sent *one = &sent[sent_count++];
    *one = (struct sent){.to = *to, .kind = frame->kind};
    struct wire_names named = {0};
    if (frame->kind == WIRE_CACHE_CLAIM) {
        one->request = frame->body.cache_claim.request;
        named = frame->body.cache_claim.keys;
    } else if (frame->kind == WIRE_CACHE_GONE) {
        one->holder = frame->body.cache_gone.holder;
        named = frame->body.cache_gone.keys;
    } else if (frame->kind == WIRE_CACHE_FIND || frame->kind == WIRE_CACHE_GET) {
        one->request = frame->body.cache_keys.request;
        named = frame->body.cache_keys.keys;
    } else if (frame->kind == WIRE_CACHE_FOUND || frame->kind == WIRE_CACHE_CLAIMED) {
        one->request = frame->body.cache_found.request;
        one->keys = frame->body.cache_found.count;
        memcpy(one->holders, frame->body.cache_found.holders, one->keys < 8 ? one->keys : 8);
    }
    if (named.count > 0) {
        one->keys = named.count;
        memcpy(one->first, named.name[0], 32);
    }
    return true;
}

void __wrap_transport_protocol(const struct transport *transport, const struct mesh_id *id,
                               struct transport_protocol *protocol);
void __wrap_transport_protocol(const struct transport *transport, const struct mesh_id *id,
                               struct transport_protocol *protocol)
{
    (void)transport;
    *protocol = (struct transport_protocol){
        .agreed = id->bytes[0] == 9 ? 1 : 2}; /* peer 9 is of the version before */
}

static uint8_t owners[2] = {1, 2};
uint32_t __wrap_mesh_owners(const struct mesh *mesh, const struct mesh_id *key, struct mesh_id owner[2]);
uint32_t __wrap_mesh_owners(const struct mesh *mesh, const struct mesh_id *key, struct mesh_id owner[2])
{
    (void)mesh;
    (void)key;
    owner[0] = peer(owners[0]);
    owner[1] = peer(owners[1]);
    return 2;
}

bool __wrap_mesh_member_find(const struct mesh *mesh, const struct mesh_id *id,
                             struct mesh_member_view *view);
bool __wrap_mesh_member_find(const struct mesh *mesh, const struct mesh_id *id, struct mesh_member_view *view)
{
    (void)mesh;
    *view = (struct mesh_member_view){.id = *id, .state = down[id->bytes[0]] ? MESH_DOWN : MESH_UP};
    return true;
}

bool __wrap_mesh_member_view(const struct mesh *mesh, uint32_t index, struct mesh_member_view *view);
bool __wrap_mesh_member_view(const struct mesh *mesh, uint32_t index, struct mesh_member_view *view)
{
    (void)mesh;
    (void)index;
    (void)view;
    return false;
}

struct job *__wrap_jobs_find(struct node *of, const struct mesh_id *id);
struct job *__wrap_jobs_find(struct node *of, const struct mesh_id *id)
{
    (void)of;
    return memcmp(id, &job.spec.id, sizeof *id) == 0 ? &job : NULL;
}

void __wrap_jobs_on_whole(struct node *of, const struct mesh_id *id, const struct entry *outputs);
void __wrap_jobs_on_whole(struct node *of, const struct mesh_id *id, const struct entry *outputs)
{
    (void)of;
    (void)id;
    (void)outputs;
}

uint64_t __wrap_job_output_bytes(const struct job *of, uint32_t output, uint32_t shard);
uint64_t __wrap_job_output_bytes(const struct job *of, uint32_t output, uint32_t shard)
{
    (void)of;
    (void)output;
    (void)shard;
    return OUTPUT_BYTES;
}

void __wrap_host_post(struct node *of, const struct mesh_event *event);
void __wrap_host_post(struct node *of, const struct mesh_event *event)
{
    assert_true(posted_count < 8);
    posted[posted_count++] = *event;
    if (event->body.looked_up.handle)
        handles_drop(&of->host.handles, event->body.looked_up.handle);
}

struct store_batch *__wrap_node_batch(struct node *of);
struct store_batch *__wrap_node_batch(struct node *of)
{
    struct store_batch *batch;
    assert_int_equal(store_batch_open(of->store, &batch), STORE_OK);
    return batch;
}

void __wrap_node_commit(struct node *of, struct store_batch *batch, node_committed *committed, void *context);
void __wrap_node_commit(struct node *of, struct store_batch *batch, node_committed *committed, void *context)
{
    committed(of, context, store_commit_wait(of->store, batch));
}

const char *__wrap_peer_name(struct node *of, const struct mesh_id *id);
const char *__wrap_peer_name(struct node *of, const struct mesh_id *id)
{
    (void)of;
    (void)id;
    return "peer";
}

const char *__wrap_peer_site(struct node *of, const struct mesh_id *id);
const char *__wrap_peer_site(struct node *of, const struct mesh_id *id)
{
    (void)of;
    return id->bytes[0] == 3 ? "cairo" : "berlin";
}

bool __wrap_fetch_start(struct node *of, const struct bulk_request *request, fetch_done *done, void *context);
bool __wrap_fetch_start(struct node *of, const struct bulk_request *request, fetch_done *done, void *context)
{
    (void)of;
    (void)request;
    (void)done;
    (void)context;
    return false;
}

bool __wrap_bulk_is_liar(struct bulk *bulk, const struct mesh_id *id);
bool __wrap_bulk_is_liar(struct bulk *bulk, const struct mesh_id *id)
{
    (void)bulk;
    return liar[id->bytes[0]];
}

void __wrap_bulk_mark_liar(struct bulk *bulk, const struct mesh_id *id);
void __wrap_bulk_mark_liar(struct bulk *bulk, const struct mesh_id *id)
{
    (void)bulk;
    liar[id->bytes[0]] = true;
}

void __wrap_loop_wake(struct loop *loop);
void __wrap_loop_wake(struct loop *loop)
{
    (void)loop;
}

/* ---- Scripts */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int setup(void **state)
{
    (void)state;
    memset(&node, 0, sizeof node);
    memset(&job, 0, sizeof job);
    memset(liar, 0, sizeof liar);
    memset(down, 0, sizeof down);
    sent_count = posted_count = 0;
    now_ms = 100000;
    owners[0] = 1;
    owners[1] = 2;
    node.self = peer(100);
    snprintf(folder, sizeof folder, "/tmp/weir-cache-XXXXXX");
    const struct store_options options = {.digest = *store_digests(), .storage_id = {1}};
    struct store_failure failure;
    if (!mkdtemp(folder) || store_open(folder, &options, &failure, &node.store))
        return 1;
    cache_open(&node);
    job.spec.id = peer(50);
    job.spec.shard_count = KEYS;
    job.spec.output_count = 1;
    job.spec.cache = JOB_CACHE_MESH;
    job.spec.manifest = manifest_find("noop");
    job.keys = keys;
    for (uint32_t k = 0; k < KEYS; k++)
        memset(keys[k].bytes, (int)(0xa0 + k), sizeof keys[k].bytes);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cache_close(&node);
    handles_deinit(&node.host.handles);
    store_close(node.store);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

/* The latest message of a kind to a peer; fails if there is none. */
static const struct sent *last(enum wire_kind kind, uint8_t to)
{
    for (uint32_t i = sent_count; i-- > 0;)
        if (sent[i].kind == kind && sent[i].to.bytes[0] == to)
            return &sent[i];
    fail_msg("no %s to %u", wire_kind_name(kind), to);
    return NULL;
}

static uint32_t count_sent(enum wire_kind kind, uint8_t to)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sent_count; i++)
        count += sent[i].kind == kind && sent[i].to.bytes[0] == to;
    return count;
}

/* An owner's answer: per key a digit (holders), or L; `holders` are the peers' numbers, in order. */
static void claimed(uint8_t from, const char *words, const char *holders)
{
    static struct wire_frame frame;
    static uint8_t counts[KEYS], nodes[8][32];
    const struct sent *ask = last(WIRE_CACHE_CLAIM, from);
    assert_int_equal(strlen(words), ask->keys);
    memset(nodes, 0, sizeof nodes);
    for (uint32_t k = 0; words[k]; k++)
        counts[k] = words[k] == 'L' ? WIRE_CACHE_LEASED : (uint8_t)(words[k] - '0');
    for (uint32_t h = 0; holders[h]; h++)
        nodes[h][0] = (uint8_t)(holders[h] - '0');
    frame.kind = WIRE_CACHE_CLAIMED;
    frame.body.cache_found.request = ask->request;
    frame.body.cache_found.count = ask->keys;
    frame.body.cache_found.holders = counts;
    frame.body.cache_found.nodes =
        (struct wire_names){.name = (const uint8_t(*)[32])nodes, .count = (uint32_t)strlen(holders)};
    const struct mesh_id id = peer(from);
    cache_on_frame(&node, &id, &frame);
}

/* A holder's answer to its latest GET: for each key the output's bytes, of which there are so many; 0 = absent. */
static void entries(uint8_t from, size_t bytes)
{
    static struct wire_frame frame;
    static uint8_t encoded[256];
    const struct sent *ask = last(WIRE_CACHE_GET, from);
    struct entry entry = {.output_count = 1};
    entry.output[0].bytes = (const uint8_t *)"resultresult";
    entry.output[0].count = bytes;
    const size_t count = entry_encode(&entry, encoded, sizeof encoded);
    frame.kind = WIRE_CACHE_ENTRIES;
    frame.body.cache_entries.request = ask->request;
    frame.body.cache_entries.first = 0;
    frame.body.cache_entries.count = ask->keys;
    for (uint32_t k = 0; k < ask->keys; k++)
        frame.body.cache_entries.entry[k] =
            bytes ? (struct wire_cache_entry){.present = true, .entry = {encoded, count}}
                  : (struct wire_cache_entry){0};
    const struct mesh_id id = peer(from);
    cache_on_frame(&node, &id, &frame);
}

static void pass(int64_t ms)
{
    now_ms += ms;
    for (int i = 0; i < 8; i++)
        cache_turn(&node, now_ms);
}

static void expect_told(uint8_t hits, uint8_t later)
{
    assert_int_equal(posted_count, 1);
    assert_int_equal(posted[0].kind, MESH_LOOKED_UP);
    assert_int_equal(posted[0].body.looked_up.count, KEYS);
    assert_int_equal(posted[0].body.looked_up.hit[0], hits);
    assert_int_equal(posted[0].body.looked_up.later[0], later);
    posted_count = 0;
}

static void what_another_computes_is_told_later(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    assert_int_equal(last(WIRE_CACHE_CLAIM, 1)->keys, KEYS);
    assert_int_equal(last(WIRE_CACHE_CLAIM, 2)->keys, KEYS); /* both at once */
    claimed(1, "0L1", "3");
    assert_int_equal(last(WIRE_CACHE_GET, 3)->keys, 1); /* the first owner's word is enough */
    entries(3, OUTPUT_BYTES);
    expect_told(4, 2);
    assert_int_equal(count_sent(WIRE_CACHE_PUBLISH, 1), 1); /* there are two copies now */
    pass(99);
    assert_int_equal(count_sent(WIRE_CACHE_CLAIM, 1), 1);
    pass(1);
    assert_int_equal(count_sent(WIRE_CACHE_CLAIM, 1), 2);
    assert_int_equal(last(WIRE_CACHE_CLAIM, 1)->keys, 1);
    assert_memory_equal(last(WIRE_CACHE_CLAIM, 1)->first, keys[1].bytes, 32);
    claimed(1, "1", "3");
    entries(3, OUTPUT_BYTES);
    expect_told(2, 0);
    assert_null(node.cache.lookups);
    assert_string_equal(node.cache.site[0].name, "cairo");
    assert_int_equal(node.cache.site[0].hits, 2);
}

static void a_holder_that_lies_is_marked_void_and_passed_over(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    const struct mesh_id bad = peer(3);
    struct wire_frame publish = {.kind = WIRE_CACHE_PUBLISH};
    publish.body.cache_publish.keys = (struct wire_names){.name = (const uint8_t(*)[32])keys, .count = 1};
    cache_on_frame(&node, &bad, &publish); /* we own a key that it says it holds */
    struct store_stats stats;
    store_stats(node.store, &stats);
    assert_int_equal(stats.pointers, 1);
    claimed(1, "222", "343434");
    assert_int_equal(last(WIRE_CACHE_GET, 3)->keys, KEYS);
    entries(3, OUTPUT_BYTES + 1); /* no shard of this job has such a result */
    assert_true(liar[3]);
    assert_int_equal(node.cache.lies, KEYS);
    assert_int_equal(count_sent(WIRE_CACHE_GONE, 1), KEYS); /* both owners hear of it */
    assert_int_equal(count_sent(WIRE_CACHE_GONE, 2), KEYS);
    assert_int_equal(last(WIRE_CACHE_GONE, 2)->holder.bytes[0], 3);
    store_stats(node.store, &stats);
    assert_int_equal(stats.pointers, 0);
    assert_int_equal(last(WIRE_CACHE_GET, 4)->keys, KEYS);
    entries(4, OUTPUT_BYTES);
    expect_told(7, 0);
    job.spec.id = peer(51); /* another job: it is not asked again */
    memset(keys, 0xb0, sizeof keys);
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    claimed(1, "222", "343434");
    assert_int_equal(count_sent(WIRE_CACHE_GET, 3), 1);
    assert_int_equal(count_sent(WIRE_CACHE_GET, 4), 2);
    entries(4, OUTPUT_BYTES);
    expect_told(7, 0);
}

static void what_a_holder_lacks_is_forgotten_by_the_owners_and_computed(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    claimed(1, "111", "333");
    entries(3, 0);
    assert_int_equal(count_sent(WIRE_CACHE_GONE, 1), KEYS);
    assert_false(liar[3]); /* it may have been evicted */
    expect_told(0, 0);
}

static void silent_owners_and_holders_cost_their_time_only(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    claimed(2, "LL2", "34"); /* the second owner's word stands in for the first's */
    pass(199);
    assert_int_equal(count_sent(WIRE_CACHE_GET, 3), 0);
    pass(1);
    assert_int_equal(count_sent(WIRE_CACHE_GET, 3), 1);
    pass(999);
    assert_int_equal(count_sent(WIRE_CACHE_GET, 4), 0);
    pass(1);
    assert_int_equal(count_sent(WIRE_CACHE_GET, 4), 1);
    entries(4, OUTPUT_BYTES);
    expect_told(4, 3);
    job.keys = NULL; /* the job ends meanwhile */
    cache_job_over(&node, &job.spec.id, false);
    pass(0);
    expect_told(0, 0); /* the core waits for it */
    assert_null(node.cache.lookups);
    assert_int_equal(count_sent(WIRE_CACHE_OVER, 1), 1);
    assert_int_equal(count_sent(WIRE_CACHE_OVER, 2), 1);
}

/* A job here committed it between our look at our own cache and the owner's answer. */
static void what_we_are_said_to_hold_is_looked_for_again(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    node.self = peer(8); /* as the script can name it */
    claimed(1, "111", "888");
    assert_int_equal(posted_count, 0); /* nothing to tell yet */
    struct entry entry = {.output_count = 1};
    entry.output[0].bytes = (const uint8_t *)"result";
    entry.output[0].count = OUTPUT_BYTES;
    uint8_t encoded[64];
    const struct store_entry row = {.bytes = encoded, .count = entry_encode(&entry, encoded, sizeof encoded)};
    struct store_batch *batch = node_batch(&node);
    store_batch_cache(batch, keys[0].bytes, &row);
    assert_int_equal(store_commit_wait(node.store, batch), STORE_OK);
    pass(100);
    claimed(1, "11", "88");
    expect_told(1, 6);
    for (int round = 0; round < 4 && posted_count == 0; round++) { /* the others are not here after all */
        pass(1000);
        if (posted_count == 0)
            claimed(1, "11", "88");
    }
    expect_told(0, 0);
    assert_int_equal(count_sent(WIRE_CACHE_GONE, 1), 2);
}

static void nobody_owns_up_and_it_is_computed(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    pass(200);
    expect_told(0, 0);
}

static void patience_with_a_lease_ends(void **state)
{
    (void)state;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    uint32_t rounds = 0;
    const int64_t begun_ms = now_ms;
    while (posted_count == 0 && rounds < 1000) {
        if (count_sent(WIRE_CACHE_CLAIM, 1) > 0) {
            claimed(1, "LLL", "");
            rounds++;
        }
        sent_count = 0;
        pass(100);
    }
    expect_told(0, 0);
    assert_true(now_ms - begun_ms >= 30000 && now_ms - begun_ms < 35000);
    assert_true(rounds < 60); /* it asks less and less often */
}

static void an_owner_of_protocol_1_is_asked_in_its_words(void **state)
{
    (void)state;
    owners[0] = 9;
    cache_lookup(&node, &job.spec.id, 1, 0, KEYS);
    assert_int_equal(count_sent(WIRE_CACHE_FIND, 9), 1);
    assert_int_equal(count_sent(WIRE_CACHE_CLAIM, 9), 0);
    assert_int_equal(count_sent(WIRE_CACHE_CLAIM, 2), 1);
    pass(200);
    expect_told(0, 0);
}

static void a_lease_is_given_once_and_ends_with_its_node(void **state)
{
    (void)state;
    struct wire_frame frame = {.kind = WIRE_CACHE_CLAIM};
    frame.body.cache_claim.job = peer(60);
    frame.body.cache_claim.keys = (struct wire_names){.name = (const uint8_t(*)[32])keys, .count = KEYS};
    struct mesh_id from = peer(1);
    cache_on_frame(&node, &from, &frame);
    assert_memory_equal(last(WIRE_CACHE_CLAIMED, 1)->holders, "\0\0\0", KEYS);
    from = peer(2);
    cache_on_frame(&node, &from, &frame);
    assert_memory_equal(last(WIRE_CACHE_CLAIMED, 2)->holders, "\xff\xff\xff", KEYS);
    const struct mesh_id first = peer(1);
    struct wire_frame publish = {.kind = WIRE_CACHE_PUBLISH};
    publish.body.cache_publish.keys = (struct wire_names){.name = (const uint8_t(*)[32])keys, .count = 1};
    cache_on_frame(&node, &first, &publish);
    cache_on_frame(&node, &from, &frame);
    assert_memory_equal(last(WIRE_CACHE_CLAIMED, 2)->holders, "\x01\xff\xff", KEYS);
    down[1] = true;
    cache_on_frame(&node, &from, &frame);
    assert_memory_equal(last(WIRE_CACHE_CLAIMED, 2)->holders, "\x01\0\0", KEYS);
    struct wire_frame gone = {.kind = WIRE_CACHE_GONE};
    gone.body.cache_gone.holder = peer(1);
    gone.body.cache_gone.keys = publish.body.cache_publish.keys;
    cache_on_frame(&node, &from, &gone);
    cache_on_frame(&node, &from, &frame);
    assert_memory_equal(last(WIRE_CACHE_CLAIMED, 2)->holders, "\0\0\0", KEYS);
}

int main(void)
{
    if (sodium_init() < 0)
        return 1;
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_another_computes_is_told_later),
        TEST(a_holder_that_lies_is_marked_void_and_passed_over),
        TEST(what_a_holder_lacks_is_forgotten_by_the_owners_and_computed),
        TEST(silent_owners_and_holders_cost_their_time_only),
        TEST(what_we_are_said_to_hold_is_looked_for_again),
        TEST(nobody_owns_up_and_it_is_computed),
        TEST(patience_with_a_lease_ends),
        TEST(an_owner_of_protocol_1_is_asked_in_its_words),
        TEST(a_lease_is_given_once_and_ends_with_its_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
