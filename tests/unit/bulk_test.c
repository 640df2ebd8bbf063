/*
 * Blobs between nodes over real sockets: whole ones and ranges, holders that lack them, lie or are not there.
 * A liar is a store whose digest function flips back a byte that its content has wrong: it lists the right
 * digests and serves the wrong bytes.
 */
#include "transport_fixture.h"

#include "node/bulk.h"

#include <ftw.h>

#define BLOB_BYTES ((size_t)30 * 1024 * 1024 + 12345)
#define DONE_MAX 256

struct holder {
    struct node node; /* identity, admission, loop and thread */
    char folder[64];
    struct store *store;
    struct bulk *bulk;
    pthread_mutex_t lock;
    struct bulk_done done[DONE_MAX];
    _Atomic uint32_t done_count;
};

static void chunk_digest(const void *bytes, size_t count, uint8_t out[STORE_ID_BYTES])
{
    const struct digest digest = blob_chunk_digest(bytes, count);
    memcpy(out, digest.bytes, DIGEST_BYTES);
}

static void lying_chunk_digest(const void *bytes, size_t count, uint8_t out[STORE_ID_BYTES])
{
    uint8_t *right = malloc(count);
    assert_non_null(right);
    memcpy(right, bytes, count);
    right[0] ^= 1;
    chunk_digest(right, count, out);
    free(right);
}

static void root_digest(uint64_t bytes, const uint8_t (*chunks)[STORE_ID_BYTES], size_t count,
                        uint8_t id[STORE_ID_BYTES])
{
    struct digest_stream stream;
    digest_init(&stream, "weir blob 1");
    digest_update(&stream, chunks, count * STORE_ID_BYTES);
    digest_update_u64(&stream, bytes);
    const struct digest digest = digest_final(&stream);
    memcpy(id, digest.bytes, DIGEST_BYTES);
}

static void sum_digest(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                       uint8_t out[STORE_ID_BYTES])
{
    struct digest_stream stream;
    digest_init(&stream, "weir cache row 1");
    digest_update_u64(&stream, key_bytes);
    digest_update(&stream, key, key_bytes);
    digest_update(&stream, value, value_bytes);
    const struct digest digest = digest_final(&stream);
    memcpy(out, digest.bytes, DIGEST_BYTES);
}

static void on_done(void *context, const struct bulk_done *done)
{
    struct holder *holder = context;
    assert_true(holder->done_count < DONE_MAX);
    holder->done[holder->done_count] = *done;
    holder->done_count++;
}

static void holder_open(struct holder *holder, bool lies)
{
    memset(holder, 0, sizeof *holder);
    fixture_prepare(&holder->node);
    snprintf(holder->folder, sizeof holder->folder, "/tmp/weir-bulk-XXXXXX");
    assert_non_null(mkdtemp(holder->folder));
    const struct store_options store_options = {
        .digest = {lies ? lying_chunk_digest : chunk_digest, root_digest, sum_digest}, .storage_id = {1}};
    struct store_failure store_failure;
    if (store_open(holder->folder, &store_options, &store_failure, &holder->store))
        fail_msg("%s", store_failure.text);
    const struct bulk_options options = {
        .zmq = holder->node.zmq,
        .loop = holder->node.loop,
        .admission = holder->node.admission,
        .zap = holder->node.zap,
        .store = holder->store,
        .bind = "127.0.0.1:*",
        .bind_setting = "bulk_bind",
        .curve = holder->node.curve,
        .curve_secret = holder->node.curve_secret,
        .on_done = on_done,
        .context = holder,
    };
    struct transport_failure failure;
    if (bulk_open(&options, &failure, &holder->bulk))
        fail_msg("%s", failure.text);
    fixture_start(&holder->node);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static void holder_close(struct holder *holder)
{
    loop_stop(holder->node.loop);
    pthread_join(holder->node.thread, NULL);
    bulk_close(holder->bulk);
    store_close(holder->store);
    zap_close(holder->node.zap);
    zmq_ctx_term(holder->node.zmq);
    loop_close(holder->node.loop);
    admission_close(holder->node.admission);
    nftw(holder->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* `asker` knows where `holder` is, and `holder` admits `asker`. */
static void acquaint(struct holder *asker, struct holder *holder)
{
    const struct node *a = &asker->node;
    const struct node *h = &holder->node;
    assert_true(admission_admit(a->admission, &h->curve, &h->id, FIXTURE_FAR_FUTURE_S));
    assert_true(admission_admit(h->admission, &a->curve, &a->id, FIXTURE_FAR_FUTURE_S));
    assert_true(bulk_peer_set(asker->bulk, &h->id, &h->curve, bulk_bound(holder->bulk)));
}

static struct digest put_blob(struct holder *holder, const uint8_t *bytes, size_t count)
{
    struct store_upload *upload;
    struct store_batch *batch;
    struct digest id;
    assert_int_equal(store_upload_open(holder->store, &upload), STORE_OK);
    assert_int_equal(store_upload_append(upload, bytes, count), STORE_OK);
    assert_int_equal(store_batch_open(holder->store, &batch), STORE_OK);
    assert_int_equal(store_upload_finish(upload, NULL, batch, id.bytes), STORE_OK);
    assert_int_equal(store_commit_wait(holder->store, batch), STORE_OK);
    return id;
}

static uint8_t *random_bytes(size_t count)
{
    uint8_t *bytes = malloc(count);
    assert_non_null(bytes);
    randombytes_buf(bytes, count);
    return bytes;
}

struct fetch_call {
    struct holder *holder;
    const struct bulk_request *request;
    uint64_t ticket;
};

static void call_fetch(struct node *node, void *argument)
{
    (void)node;
    const struct fetch_call *call = argument;
    assert_int_equal(bulk_fetch(call->holder->bulk, call->request, call->ticket), BULK_OK);
}

static void fetch(struct holder *asker, const struct bulk_request *request, uint64_t ticket)
{
    struct fetch_call call = {asker, request, ticket};
    fixture_call(&asker->node, call_fetch, &call);
}

static struct bulk_counters counters(const struct holder *holder)
{
    struct bulk_counters counters;
    bulk_counters_read(holder->bulk, &counters);
    return counters;
}

static void a_whole_blob_arrives_verified_and_pinned(void **state)
{
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    uint8_t *bytes = random_bytes(BLOB_BYTES);
    const struct digest id = put_blob(&a, bytes, BLOB_BYTES);
    const struct digest owner = {{7}};
    const struct bulk_request request = {
        .holders = {a.node.id}, .holder_count = 1, .blob = id, .pin = &owner};
    const int64_t begun_us = clock_now_us();
    fetch(&b, &request, 1);
    fetch(&b, &request, 2); /* joined */
    WAIT_UNTIL(b.done_count == 2);
    print_message("    %.0f MB/s\n", (double)BLOB_BYTES / (double)(clock_now_us() - begun_us));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(b.done[i].error, BULK_OK);
        assert_true(b.done[i].count == BLOB_BYTES);
        assert_null(b.done[i].bytes);
    }
    struct store_blob_info info;
    assert_int_equal(store_blob_stat(b.store, id.bytes, &info), STORE_OK);
    assert_true(info.pinned && info.bytes == BLOB_BYTES);
    assert_int_equal(counters(&b).fetches_joined, 1);
    assert_true(counters(&b).fetched_bytes == BLOB_BYTES);
    fetch(&b, &request, 3); /* it is here: nothing is fetched */
    WAIT_UNTIL(b.done_count == 3);
    assert_int_equal(b.done[2].error, BULK_OK);
    assert_true(counters(&b).fetched_bytes == BLOB_BYTES);
    free(bytes);
    holder_close(&a);
    holder_close(&b);
}

static void small_and_empty_blobs_arrive(void **state)
{
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    const size_t sizes[] = {0, 1, 40000, BLOB_CHUNK_BYTES, BLOB_CHUNK_BYTES + 1};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    for (uint32_t i = 0; i < SIZES; i++) {
        uint8_t *bytes = random_bytes(sizes[i] + 1);
        const struct digest id = put_blob(&a, bytes, sizes[i]);
        const struct bulk_request request = {.holders = {a.node.id}, .holder_count = 1, .blob = id};
        fetch(&b, &request, i);
        WAIT_UNTIL(b.done_count == i + 1);
        assert_int_equal(b.done[i].error, BULK_OK);
        struct store_blob_info info;
        assert_int_equal(store_blob_stat(b.store, id.bytes, &info), STORE_OK);
        assert_true(info.bytes == sizes[i]);
        free(bytes);
    }
    holder_close(&a);
    holder_close(&b);
}

static void ranges_arrive_with_and_without_a_digest(void **state)
{
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    const size_t total = 5 * BLOB_CHUNK_BYTES + 777;
    uint8_t *bytes = random_bytes(total);
    const struct digest id = put_blob(&a, bytes, total);
    const struct {
        uint64_t offset;
        uint64_t bytes;
    } ranges[] = {
        {0, 1},
        {100, 20000},
        {BLOB_CHUNK_BYTES - 1, 2},
        {BLOB_CHUNK_BYTES, BLOB_CHUNK_BYTES},
        {3, 3 * BLOB_CHUNK_BYTES},
        {total - 1, 1},
        {0, total},
    };
    enum { RANGES = sizeof ranges / sizeof ranges[0] };
    uint32_t done = 0;
    for (uint32_t i = 0; i < 2 * RANGES; i++) {
        const uint64_t offset = ranges[i / 2].offset;
        const uint64_t count = ranges[i / 2].bytes;
        const struct digest slice = blob_id(bytes + offset, count);
        const struct bulk_request request = {.holders = {a.node.id},
                                             .holder_count = 1,
                                             .blob = id,
                                             .offset = offset,
                                             .bytes = count,
                                             .digest = i % 2 ? &slice : NULL};
        fetch(&b, &request, i);
        WAIT_UNTIL(b.done_count == done + 1);
        assert_int_equal(b.done[done].error, BULK_OK);
        assert_true(b.done[done].count == count);
        assert_memory_equal(b.done[done].bytes, bytes + offset, count);
        free(b.done[done].bytes);
        done++;
    }
    for (int with = 0; with < 2; with++) { /* past the end */
        const struct digest slice = blob_id(bytes, 10);
        const struct bulk_request request = {.holders = {a.node.id},
                                             .holder_count = 1,
                                             .blob = id,
                                             .offset = total - 5,
                                             .bytes = 10,
                                             .digest = with ? &slice : NULL};
        fetch(&b, &request, 99);
        WAIT_UNTIL(b.done_count == done + 1);
        assert_int_equal(b.done[done++].error, BULK_ABSENT);
    }
    free(bytes);
    holder_close(&a);
    holder_close(&b);
}

static void a_liar_is_left_for_an_honest_holder(void **state)
{
    (void)state;
    static struct holder liar, honest, b;
    holder_open(&liar, true);
    holder_open(&honest, false);
    holder_open(&b, false);
    acquaint(&b, &liar);
    acquaint(&b, &honest);
    const size_t total = 3 * BLOB_CHUNK_BYTES;
    uint8_t *bytes = random_bytes(total);
    const struct digest id = put_blob(&honest, bytes, total);
    for (size_t i = 0; i < 3; i++)
        bytes[i * BLOB_CHUNK_BYTES] ^= 1;
    const struct digest claimed = put_blob(&liar, bytes, total);
    assert_memory_equal(&claimed, &id, sizeof id);
    struct bulk_request request = {.holders = {liar.node.id}, .holder_count = 1, .blob = id};
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_CORRUPT);
    struct store_blob_info info;
    assert_int_equal(store_blob_stat(b.store, id.bytes, &info), STORE_NONE);
    request.holders[1] = honest.node.id;
    request.holder_count = 2;
    fetch(&b, &request, 2);
    WAIT_UNTIL(b.done_count == 2);
    assert_int_equal(b.done[1].error, BULK_OK);
    assert_memory_equal(&b.done[1].holder, &honest.node.id, sizeof honest.node.id);
    assert_int_equal(counters(&b).fetch_corrupt, 2);
    free(bytes);
    holder_close(&liar);
    holder_close(&honest);
    holder_close(&b);
}

static void an_absent_blob_and_an_absent_holder_are_told_apart(void **state)
{
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    struct bulk_request request = {.holders = {a.node.id}, .holder_count = 1, .blob = {{9}}};
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_ABSENT);
    request.holders[0].bytes[0] ^= 1; /* nobody knows such a node */
    fetch(&b, &request, 2);
    WAIT_UNTIL(b.done_count == 2);
    assert_int_equal(b.done[1].error, BULK_UNREACHABLE);
    holder_close(&a);
    holder_close(&b);
}

static void an_unadmitted_asker_gets_nothing(void **state)
{
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    admission_forget(a.node.admission, &b.node.id, NULL);
    const uint8_t bytes[] = {1, 2, 3};
    const struct bulk_request request = {
        .holders = {a.node.id}, .holder_count = 1, .blob = put_blob(&a, bytes, sizeof bytes)};
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_UNREACHABLE);
    assert_int_equal(counters(&a).served_requests, 0);
    assert_int_equal(counters(&b).fetch_timeouts, 1);
    struct zap_counters zap;
    zap_counters(a.node.zap, &zap);
    assert_true(zap.refused[ADMISSION_UNKNOWN] > 0);
    holder_close(&a);
    holder_close(&b);
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_blob_arrives_verified_and_pinned),
        cmocka_unit_test(small_and_empty_blobs_arrive),
        cmocka_unit_test(ranges_arrive_with_and_without_a_digest),
        cmocka_unit_test(a_liar_is_left_for_an_honest_holder),
        cmocka_unit_test(an_absent_blob_and_an_absent_holder_are_told_apart),
        cmocka_unit_test(an_unadmitted_asker_gets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
