/*
 * Blobs between nodes over real sockets: whole ones and ranges, holders that lack them, lie or are not there.
 * A liar is a store whose digest function flips back a byte that its content has wrong: it lists the right
 * digests and serves the wrong bytes.
 */
#include "transport_fixture.h"

#include "node/bulk.h"

#include <ftw.h>

/* Megabytes through libzmq under ThreadSanitizer take longer than the time-outs that some tests are about. */
static void skip_where_slow(void)
{
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    skip();
#endif
#endif
}

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
    struct mesh_id liar; /* the latest one that was told of */
    _Atomic uint32_t liars;
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

static void on_liar(void *context, const struct mesh_id *holder, const struct digest *blob)
{
    (void)blob;
    struct holder *asker = context;
    asker->liar = *holder;
    asker->liars++;
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
        .on_liar = on_liar,
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
    /* Its lie is remembered: it was not asked again while another has the blob. */
    assert_int_equal(counters(&b).fetch_corrupt, 1);
    WAIT_UNTIL(b.liars == 1);
    assert_memory_equal(&b.liar, &liar.node.id, sizeof b.liar);
    free(bytes);
    holder_close(&liar);
    holder_close(&honest);
    holder_close(&b);
}

static void several_holders_share_a_blob(void **state)
{
    skip_where_slow();
    (void)state;
    static struct holder a[3], b;
    holder_open(&b, false);
    uint8_t *bytes = random_bytes(BLOB_BYTES);
    struct bulk_request request = {.holder_count = 3};
    for (int i = 0; i < 3; i++) {
        holder_open(&a[i], false);
        acquaint(&b, &a[i]);
        request.blob = put_blob(&a[i], bytes, BLOB_BYTES);
        request.holders[i] = a[i].node.id;
    }
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_OK);
    assert_true(counters(&b).fetched_bytes == BLOB_BYTES);
    uint64_t served = 0;
    int givers = 0; /* one that gets no processor time for a moment may come too late */
    for (int i = 0; i < 3; i++) {
        print_message("    holder %d gave %llu chunks\n", i,
                      (unsigned long long)counters(&a[i]).served_bytes >> 20);
        givers += counters(&a[i]).served_bytes > 0;
        served += counters(&a[i]).served_bytes;
    }
    assert_true(givers >= 2);
    assert_true(served == BLOB_BYTES + counters(&b).fetched_twice_bytes);
    free(bytes);
    holder_close(&b);
    for (int i = 0; i < 3; i++)
        holder_close(&a[i]);
}

/* The liar has one byte in three wrong chunks; it is left at the first of them, and the others do the rest. */
static void one_that_garbles_among_several_costs_no_wrong_byte(void **state)
{
    (void)state;
    static struct holder liar, honest, b;
    holder_open(&liar, true);
    holder_open(&honest, false);
    holder_open(&b, false);
    acquaint(&b, &liar);
    acquaint(&b, &honest);
    const size_t total = 20 * BLOB_CHUNK_BYTES;
    uint8_t *bytes = random_bytes(total), *wrong = malloc(total);
    assert_non_null(wrong);
    memcpy(wrong, bytes, total);
    for (size_t i = 0; i < total; i += BLOB_CHUNK_BYTES)
        wrong[i] ^= 1;
    const struct digest id = put_blob(&honest, bytes, total);
    const struct digest claimed = put_blob(&liar, wrong, total);
    assert_memory_equal(&claimed, &id, sizeof id);
    const struct bulk_request request = {
        .holders = {liar.node.id, honest.node.id}, .holder_count = 2, .blob = id};
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1 && b.liars == 1);
    assert_int_equal(b.done[0].error, BULK_OK);
    assert_int_equal(counters(&b).fetch_corrupt, 1);
    assert_true(counters(&b).fetched_bytes == total);
    assert_true(counters(&honest).served_bytes == total);
    assert_true(bulk_is_liar(b.bulk, &liar.node.id) && !bulk_is_liar(b.bulk, &honest.node.id));
    size_t count;
    assert_int_equal(store_blob_get(b.store, id.bytes, wrong, total, &count), STORE_OK);
    assert_memory_equal(wrong, bytes, total);
    free(bytes);
    free(wrong);
    holder_close(&liar);
    holder_close(&honest);
    holder_close(&b);
}

/* A holder that takes the connection and says nothing does not hold up the other for longer than a second or so. */
static void a_silent_holder_is_passed_over(void **state)
{
    skip_where_slow();
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    uint8_t *bytes = random_bytes(BLOB_BYTES);
    const struct digest id = put_blob(&a, bytes, BLOB_BYTES);
    struct mesh_id silent = a.node.id;
    silent.bytes[0] ^= 1;
    struct curve_public key = {{9}};
    assert_true(admission_admit(b.node.admission, &key, &silent, FIXTURE_FAR_FUTURE_S));
    assert_true(
        bulk_peer_set(b.bulk, &silent, &key, bulk_bound(a.bulk))); /* its key is not a's: no handshake ends */
    const struct bulk_request request = {.holders = {silent, a.node.id}, .holder_count = 2, .blob = id};
    const int64_t begun_ms = clock_now_ms();
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_OK);
    print_message("    after %lld ms\n", (long long)(clock_now_ms() - begun_ms));
    assert_true(clock_now_ms() - begun_ms < BULK_TIMEOUT_MS);
    free(bytes);
    holder_close(&a);
    holder_close(&b);
}

/* What a fetch had when its only holder was gone is not asked for again, from whoever has it later. */
static void a_fetch_goes_on_where_another_was_broken_off(void **state)
{
    skip_where_slow();
    (void)state;
    static struct holder half, whole, b;
    holder_open(&half, false);
    holder_open(&whole, false);
    holder_open(&b, false);
    acquaint(&b, &half);
    acquaint(&b, &whole);
    const size_t total = 20 * BLOB_CHUNK_BYTES;
    uint8_t *bytes = random_bytes(total);
    const struct digest id = put_blob(&whole, bytes, total);
    put_blob(&half, bytes, total);
    char hex[65], path[160];
    digest_to_hex(&id, hex);
    snprintf(path, sizeof path, "%s/files/%.2s/%s", half.folder, hex, hex);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, 10 * (long)BLOB_CHUNK_BYTES, SEEK_SET);
    fputc(bytes[10 * BLOB_CHUNK_BYTES] ^ 1,
          file); /* its own check finds it there, drops the blob and says that it is gone */
    fclose(file);
    struct bulk_request request = {.holders = {half.node.id}, .holder_count = 1, .blob = id};
    fetch(&b, &request, 1);
    WAIT_UNTIL(b.done_count == 1);
    assert_int_equal(b.done[0].error, BULK_ABSENT);
    const uint64_t had = counters(&b).fetched_bytes;
    assert_true(had >= 5 * BLOB_CHUNK_BYTES && had < total);
    request.holders[0] = whole.node.id;
    fetch(&b, &request, 2);
    WAIT_UNTIL(b.done_count == 2);
    assert_int_equal(b.done[1].error, BULK_OK);
    assert_true(counters(&b).fetch_resumed_bytes == had);
    assert_true(counters(&b).fetched_bytes == total);
    assert_true(counters(&whole).served_bytes == total - had);
    free(bytes);
    holder_close(&half);
    holder_close(&whole);
    holder_close(&b);
}

/* More at once than there are credits and places: each gets its turn, and nobody's answers are dropped. */
static void many_fetches_at_once_all_end(void **state)
{
    skip_where_slow();
    (void)state;
    static struct holder a, b;
    holder_open(&a, false);
    holder_open(&b, false);
    acquaint(&b, &a);
    enum { BLOBS = 3 * BULK_ACTIVE_MAX };
    const size_t total = 3 * BLOB_CHUNK_BYTES + 5;
    for (uint32_t i = 0; i < BLOBS; i++) {
        uint8_t *bytes = random_bytes(total);
        const struct bulk_request request = {
            .holders = {a.node.id}, .holder_count = 1, .blob = put_blob(&a, bytes, total)};
        free(bytes);
        fetch(&b, &request, i);
    }
    WAIT_UNTIL(b.done_count == BLOBS);
    for (uint32_t i = 0; i < BLOBS; i++)
        assert_int_equal(b.done[i].error, BULK_OK);
    assert_int_equal(counters(&a).dropped_slow, 0);
    assert_int_equal(counters(&b).fetch_timeouts, 0);
    assert_true(counters(&b).fetched_bytes == BLOBS * total);
    holder_close(&a);
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
        cmocka_unit_test(several_holders_share_a_blob),
        cmocka_unit_test(one_that_garbles_among_several_costs_no_wrong_byte),
        cmocka_unit_test(a_silent_holder_is_passed_over),
        cmocka_unit_test(a_fetch_goes_on_where_another_was_broken_off),
        cmocka_unit_test(many_fetches_at_once_all_end),
        cmocka_unit_test(an_absent_blob_and_an_absent_holder_are_told_apart),
        cmocka_unit_test(an_unadmitted_asker_gets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
