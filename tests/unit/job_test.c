/* How a home puts reduced outputs together: every type, every way, in one order. */
#include "node/job.h"

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

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_are_reduced_once_in_every_type_and_way),
        cmocka_unit_test(floats_are_added_by_pairs_of_neighbours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
