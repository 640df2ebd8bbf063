/* How a home puts reduced outputs together: every type, every way, in one order; and how jobs and their ends are told. */
#include "node/job.h"
#include "node/payload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SHARDS_MAX 37

/* A job of which only what job_combine looks at is set. `parts` holds `shards` arrays of `bytes` bytes. */
static struct job *job_of(struct manifest *manifest, enum manifest_combine how, enum array_dtype dtype,
                          uint32_t shards, uint64_t bytes, void *parts)
{
    struct job *job = job_make();
    assert_non_null(job);
    *manifest = (struct manifest){.output_count = 1, .outputs = {{.combine = how}}};
    job->spec.manifest = manifest;
    job->spec.shard_count = shards;
    job->spec.outputs[0].dtype = (uint8_t)dtype;
    job->spec.output_item_bytes[0] = bytes;
    job->assembly[0] = parts;
    return job;
}

static void job_drop(struct job *job)
{
    job->assembly[0] = NULL; /* it is the test's */
    job_free(job);
}

/* For each type: combines `shards` rows of three values and compares with a loop in double, which is exact for
 * values this small. */
#define CHECK(type, dtype)                                                                                   \
    static void check_##type(enum manifest_combine how, uint32_t shards)                                     \
    {                                                                                                        \
        struct manifest manifest;                                                                            \
        type parts[SHARDS_MAX][3];                                                                           \
        double expected[3];                                                                                  \
        for (uint32_t s = 0; s < shards; s++)                                                                \
            for (int i = 0; i < 3; i++) {                                                                    \
                parts[s][i] = (type)(rand() % 1000);                                                         \
                const double value = (double)parts[s][i];                                                    \
                if (s == 0)                                                                                  \
                    expected[i] = value;                                                                     \
                else if (how == MANIFEST_SUM)                                                                \
                    expected[i] += value;                                                                    \
                else if (how == MANIFEST_MIN ? value < expected[i] : value > expected[i])                    \
                    expected[i] = value;                                                                     \
            }                                                                                                \
        struct job *job = job_of(&manifest, how, dtype, shards, sizeof parts[0], parts);                     \
        for (int times = 0; times < 2; times++) { /* storing it may fail and be tried again */               \
            job_combine(job, 0);                                                                             \
            for (int i = 0; i < 3; i++)                                                                      \
                assert_true((double)parts[0][i] == expected[i]);                                             \
        }                                                                                                    \
        job_drop(job);                                                                                       \
    }
CHECK(int32_t, ARRAY_INT32)
CHECK(uint32_t, ARRAY_UINT32)
CHECK(int64_t, ARRAY_INT64)
CHECK(uint64_t, ARRAY_UINT64)
CHECK(float, ARRAY_FLOAT32)
CHECK(double, ARRAY_FLOAT64)

static void outputs_are_reduced_once_in_every_type_and_way(void **state)
{
    (void)state;
    static const enum manifest_combine ways[] = {MANIFEST_SUM, MANIFEST_MIN, MANIFEST_MAX};
    for (int w = 0; w < 3; w++)
        for (uint32_t shards = 1; shards <= SHARDS_MAX; shards++) {
            check_int32_t(ways[w], shards);
            check_uint32_t(ways[w], shards);
            check_int64_t(ways[w], shards);
            check_uint64_t(ways[w], shards);
            check_float(ways[w], shards);
            check_double(ways[w], shards);
        }
}

/* (a + b) + (c + d), then e: nothing else gives these bits. */
static void floats_are_added_by_pairs_of_neighbours(void **state)
{
    (void)state;
    struct manifest manifest;
    double parts[5] = {1e16, 1.0, -1e16, 1.0, 3.0};
    struct job *job = job_of(&manifest, MANIFEST_SUM, ARRAY_FLOAT64, 5, sizeof parts[0], parts);
    volatile double left = 1e16, right = -1e16;
    left += 1.0;
    right += 1.0;
    job_combine(job, 0);
    assert_true(parts[0] == left + right + 3.0);
    job_drop(job);
}

/* A job as a home describes it to the other members of its journal. */
static struct job *described_job(void)
{
    struct job *job = job_make();
    assert_non_null(job);
    job->spec.manifest = manifest_find("spin");
    job->spec.kernel = job_kernel_digest(job->spec.manifest);
    snprintf(job->spec.tenant, sizeof job->spec.tenant, "geology");
    snprintf(job->spec.key, sizeof job->spec.key, "monday");
    snprintf(job->spec.origin, sizeof job->spec.origin, "ashburn");
    job->spec.id = job_id(job->spec.tenant, job->spec.key);
    char error[MANIFEST_ERROR_BYTES];
    assert_int_equal(manifest_params_parse(job->spec.manifest, NULL, 0, &job->spec.params, error),
                     MANIFEST_OK);
    job->spec.items = 40;
    job->spec.shard_items = 1;
    job->spec.shard_count = 40;
    job->copies = 3;
    return job;
}

/* Both stand where a commit does; which it is shows in the row itself. */
static void a_dispute_is_read_back_and_told_from_a_commit(void **state)
{
    (void)state;
    static struct journal_row row, back;
    static uint8_t bytes[64 + 5 * MESH_BUNDLE_SHARDS_MAX];
    row = (struct journal_row){.disputes = true, .count = MESH_BUNDLE_SHARDS_MAX};
    for (uint32_t i = 0; i < row.count; i++)
        row.item[i].shard = UINT32_MAX - i;
    size_t count = journal_row_encode(&row, bytes, sizeof bytes);
    assert_true(count > 0);
    assert_true(journal_row_decode(bytes, count, &back));
    assert_true(back.disputes);
    assert_int_equal(back.count, MESH_BUNDLE_SHARDS_MAX);
    assert_int_equal(back.item[MESH_BUNDLE_SHARDS_MAX - 1].shard, UINT32_MAX - MESH_BUNDLE_SHARDS_MAX + 1);
    for (size_t cut = 0; cut < count; cut++)
        assert_false(journal_row_decode(bytes, cut, &back));
    row.count = 0; /* of nothing */
    count = journal_row_encode(&row, bytes, sizeof bytes);
    assert_false(journal_row_decode(bytes, count, &back));
    row = (struct journal_row){.epoch = 3, .cached = true};
    count = journal_row_encode(&row, bytes, sizeof bytes);
    assert_true(journal_row_decode(bytes, count, &back));
    assert_false(back.disputes);
    assert_true(back.cached && back.epoch == 3);
}

static void rows_of_jobs_are_read_by_later_versions_and_not_when_cut(void **state)
{
    (void)state;
    struct job *job = described_job();
    job->spec.verify = MESH_VERIFY_SPOT;
    job->spec.verify_permille = 50;
    job->disputed = 7;
    static uint8_t row[JOB_ROW_BYTES_MAX];
    const size_t count = job_row_encode(job, row, sizeof row);
    assert_true(count > 0);
    struct job *back = job_row_decode(row, count);
    assert_non_null(back);
    assert_int_equal(back->copies, 3);
    assert_string_equal(back->spec.origin, "ashburn");
    assert_int_equal(back->spec.verify, MESH_VERIFY_SPOT);
    assert_int_equal(back->spec.verify_permille, 50);
    assert_int_equal(back->disputed, 7);
    const struct digest one = job_request(job), other = job_request(back);
    assert_true(digest_equal(&one, &other));
    job_free(back);
    for (size_t cut = 0; cut < count; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, row, cut);
        assert_null(job_row_decode(exact, cut));
        free(exact);
    }
    /* A row of the second version: 25 fields, without the last three, which take a byte each. */
    assert_int_equal(row[0], 0xdc);
    assert_int_equal(row[2], 28);
    row[2] = 25;
    back = job_row_decode(row, count - 3);
    assert_non_null(back);
    assert_int_equal(back->copies, 3);
    assert_int_equal(back->spec.verify, MESH_VERIFY_NONE);
    job_free(back);
    /* One of the first: 23 fields, without copies and origin. */
    row[2] = 23;
    back = job_row_decode(row, count - 3 - 1 - 8);
    assert_non_null(back);
    assert_int_equal(back->copies, 1);
    assert_string_equal(back->spec.origin, "");
    job_free(back);
    row[2] = 24;
    assert_null(job_row_decode(row, count - 3 - 8));
    row[2] = 26;
    assert_null(job_row_decode(row, count - 2));
    /* One that is to be computed again, since a member was caught. */
    job->doubted = true;
    memset(job->doubt.bytes, 0x5a, sizeof job->doubt.bytes);
    const size_t longer = job_row_encode(job, row, sizeof row);
    assert_int_equal(row[2], 29);
    back = job_row_decode(row, longer);
    assert_non_null(back);
    assert_true(back->doubted);
    assert_memory_equal(back->doubt.bytes, job->doubt.bytes, sizeof job->doubt.bytes);
    assert_int_equal(back->disputed, 7);
    job_free(back);
    assert_null(job_row_decode(row, longer - 1));
    job_free(job);
}

/* A job as its home keeps it once it is done. */
static struct job *finished_job(void)
{
    struct job *job = described_job();
    uint8_t head[ARRAY_NPY_WRITTEN_BYTES_MAX];
    size_t head_bytes;
    job->state = JOB_DONE;
    job->committed = job->spec.shard_count;
    job->spec.output_count = job->spec.manifest->output_count;
    assert_int_equal(job->spec.output_count, 1);
    job->spec.outputs[0] = (struct array_type){.dtype = ARRAY_UINT32, .rank = 1, .shape = {40}};
    job->spec.output_item_bytes[0] = 4;
    assert_int_equal(array_npy_encode(&job->spec.outputs[0], head, &head_bytes), ARRAY_OK);
    job->output_bytes[0] = head_bytes + 160;
    return job;
}

static void what_another_node_tells_of_a_finished_job_must_fit(void **state)
{
    (void)state;
    struct job *job = finished_job();
    assert_true(job_ended_fits(job));
#define REFUSED_WITH(field, value)                                                                           \
    do {                                                                                                     \
        const uint64_t was = (uint64_t)(field);                                                              \
        (field) = (value);                                                                                   \
        assert_false(job_ended_fits(job));                                                                   \
        *(&(field)) = (__typeof__(field))was;                                                                \
        assert_true(job_ended_fits(job));                                                                    \
    } while (0)
    REFUSED_WITH(job->state, JOB_RUNNING);
    REFUSED_WITH(job->spec.shard_items, 0);
    REFUSED_WITH(job->spec.shard_count, 0);
    REFUSED_WITH(job->spec.shard_count, 39);
    REFUSED_WITH(job->spec.items, 41);
    REFUSED_WITH(job->committed, 41);
    REFUSED_WITH(job->spec.output_count, 0);
    REFUSED_WITH(job->spec.output_item_bytes[0], 0);
    REFUSED_WITH(job->output_bytes[0], 159);
    REFUSED_WITH(job->output_bytes[0], UINT64_MAX);
    job->spec.items = job->spec.shard_count = MESH_SHARDS_MAX + 1u;
    assert_false(job_ended_fits(job));
    job_free(job);
    job = described_job(); /* one that failed has no outputs */
    job->state = JOB_FAILED;
    job->spec.output_count = job->spec.manifest->output_count;
    job->spec.output_item_bytes[0] = 4;
    assert_true(job_ended_fits(job));
    job_free(job);
}

/* A first entry with an input of so many bytes. Returns how long it is; 0: it does not fit, or can't be written. */
static size_t first_entry_of(struct job *job, const uint8_t *input, size_t bytes, uint8_t *out,
                             size_t capacity)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    job->spec.inputs[0] = (struct job_input){.role = MANIFEST_SPLIT, .blob = blob_id(input, bytes)};
    struct first_entry entry = {
        .row = row, .row_bytes = job_row_encode(job, row, sizeof row), .input_count = 1};
    entry.input[0] = (struct result_item){.bytes = input, .count = bytes};
    return first_entry_encode(&entry, out, capacity);
}

static void small_inputs_ride_in_the_first_entry_if_they_are_what_it_names(void **state)
{
    (void)state;
    static uint8_t input[JOB_INLINE_BYTES_MAX + 1], out[FIRST_ENTRY_BYTES_MAX + 64];
    struct first_entry entry;
    struct job *job = described_job();
    job->spec.manifest = manifest_find("noop");
    job->spec.kernel = job_kernel_digest(job->spec.manifest);
    memset(input, 7, sizeof input);

    size_t count = first_entry_of(job, input, JOB_INLINE_BYTES_MAX, out, sizeof out);
    assert_true(count > JOB_INLINE_BYTES_MAX && count <= FIRST_ENTRY_BYTES_MAX);
    struct job *back = first_entry_decode(out, count, &entry);
    assert_non_null(back);
    assert_memory_equal(&back->spec.id, &job->spec.id, sizeof back->spec.id);
    assert_int_equal(entry.input_count, 1);
    assert_int_equal(entry.input[0].count, JOB_INLINE_BYTES_MAX);
    assert_memory_equal(entry.input[0].bytes, input, JOB_INLINE_BYTES_MAX);
    job_free(back);
    assert_null(first_entry_decode(out, count - 1, &entry));
    assert_null(first_entry_decode(out, count + 1, &entry));
    out[count - 1] ^= 1; /* no longer the blob that the row names */
    assert_null(first_entry_decode(out, count, &entry));
    count = first_entry_of(job, input, JOB_INLINE_BYTES_MAX + 1, out, sizeof out);
    assert_null(first_entry_decode(out, count, &entry));

    count = first_entry_of(job, input, 100, out, sizeof out);
    for (size_t cut = 0; cut < count; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, out, cut);
        assert_null(first_entry_decode(exact, cut, &entry));
        free(exact);
    }
    /* An input that nobody asked for. */
    job->spec.inputs[0].role = 0;
    static uint8_t row[JOB_ROW_BYTES_MAX];
    struct first_entry odd = {
        .row = row, .row_bytes = job_row_encode(job, row, sizeof row), .input_count = 1};
    odd.input[0] = (struct result_item){.bytes = input, .count = 100};
    count = first_entry_encode(&odd, out, sizeof out);
    assert_null(first_entry_decode(out, count, &entry));
    /* Large inputs only: the row stands for itself. */
    back = first_entry_decode(row, odd.row_bytes, &entry);
    assert_non_null(back);
    assert_int_equal(entry.input_count, 0);
    job_free(back);
    job_free(job);
}

static void two_requests_under_one_key_are_told_apart(void **state)
{
    (void)state;
    struct job *job = described_job();
    const struct digest one = job_request(job);
    char error[MANIFEST_ERROR_BYTES];
    const char *settings[] = {"us=7"};
    assert_int_equal(manifest_params_parse(job->spec.manifest, settings, 1, &job->spec.params, error),
                     MANIFEST_OK);
    const struct digest other = job_request(job);
    assert_false(digest_equal(&one, &other));
    job->spec.inputs[0].role = MANIFEST_SPLIT;
    const struct digest third = job_request(job);
    assert_false(digest_equal(&other, &third));
    job_free(job);
}

static void a_cached_result_says_whose_word_it_is(void **state)
{
    (void)state;
    const uint8_t entry[] = {0x91, 0xc4, 1, 7}; /* one output of one byte */
    const struct provenance given = {.executor = job_id("geology", "monday"),
                                     .level = MESH_VERIFY_QUORUM,
                                     .class = MANIFEST_TOLERANT,
                                     .whole = true,
                                     .at_ms = 1700000000000};
    uint8_t row[PROVENANCE_BYTES + sizeof entry];
    provenance_encode(&given, entry, sizeof entry, row);
    struct provenance back;
    assert_int_equal(provenance_decode(row, sizeof row, &back), PROVENANCE_BYTES);
    assert_memory_equal(row + PROVENANCE_BYTES, entry, sizeof entry);
    assert_memory_equal(&back.executor, &given.executor, sizeof given.executor);
    assert_int_equal(back.level, MESH_VERIFY_QUORUM);
    assert_int_equal(back.class, MANIFEST_TOLERANT);
    assert_true(back.whole);
    assert_int_equal(back.at_ms, given.at_ms);
    /* A row of an earlier build is all entry, and nobody's. */
    assert_int_equal(provenance_decode(entry, sizeof entry, &back), 0);
    assert_int_equal(back.at_ms, 0);
    assert_int_equal(back.level, MESH_VERIFY_NONE);
    for (size_t cut = 0; cut < PROVENANCE_BYTES; cut++)
        assert_int_equal(provenance_decode(row, cut, &back), 0);
}

static void an_end_comes_back_as_it_went_and_not_when_cut(void **state)
{
    (void)state;
    struct journal_end end = {
        .state = MESH_JOB_FAILED, .at_ms = 1700000000000, .error = "shard 3 at berlin: no"};
    uint8_t bytes[JOB_ERROR_BYTES + 64];
    size_t count = journal_end_encode(&end, bytes, sizeof bytes);
    struct journal_end back;
    assert_true(journal_end_decode(bytes, count, &back));
    assert_int_equal(back.state, MESH_JOB_FAILED);
    assert_int_equal(back.at_ms, end.at_ms);
    assert_string_equal(back.error, end.error);
    for (size_t cut = 0; cut < count; cut++)
        assert_false(journal_end_decode(bytes, cut, &back));
    bytes[count] = 0;
    assert_false(journal_end_decode(bytes, count + 1, &back));
    memset(end.error, 'x', sizeof end.error - 1); /* the longest */
    count = journal_end_encode(&end, bytes, sizeof bytes);
    assert_true(journal_end_decode(bytes, count, &back));
    assert_int_equal(strlen(back.error), JOB_ERROR_BYTES - 1);
    for (enum mesh_job_state none = 0; none < MESH_JOB_MOVED + 2;
         none++) { /* only what ends a job is an end */
        end.state = none;
        count = journal_end_encode(&end, bytes, sizeof bytes);
        assert_int_equal(journal_end_decode(bytes, count, &back),
                         none >= MESH_JOB_DONE && none <= MESH_JOB_CANCELLED);
    }
}

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_are_reduced_once_in_every_type_and_way),
        cmocka_unit_test(floats_are_added_by_pairs_of_neighbours),
        cmocka_unit_test(rows_of_jobs_are_read_by_later_versions_and_not_when_cut),
        cmocka_unit_test(a_dispute_is_read_back_and_told_from_a_commit),
        cmocka_unit_test(small_inputs_ride_in_the_first_entry_if_they_are_what_it_names),
        cmocka_unit_test(two_requests_under_one_key_are_told_apart),
        cmocka_unit_test(what_another_node_tells_of_a_finished_job_must_fit),
        cmocka_unit_test(a_cached_result_says_whose_word_it_is),
        cmocka_unit_test(an_end_comes_back_as_it_went_and_not_when_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
