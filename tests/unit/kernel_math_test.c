/* The elementary functions against libm, and Philox against its authors' published vectors. */
#include "kernels/weir_math.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static double any_double(double low, double high)
{
    return low + (high - low) * ((double)rand() / RAND_MAX);
}

static bool near(double got, double expected, double ulps)
{
    return fabs(got - expected) <= ulps * 2.220446049250313e-16 * fabs(expected);
}

static void exp_is_within_three_ulps(void **state)
{
    (void)state;
    assert_true(weir_exp(0) == 1.0);
    for (int i = 0; i < 1000000; i++) {
        const double x = i % 2 ? any_double(-700, 700) : any_double(-1, 1);
        assert_true(near(weir_exp(x), exp(x), 3));
    }
}

static void log_is_within_three_ulps(void **state)
{
    (void)state;
    assert_true(weir_log(1) == 0.0);
    for (int i = 0; i < 1000000; i++) {
        const double x = i % 2 ? exp(any_double(-700, 700)) : any_double(1e-10, 2);
        assert_true(near(weir_log(x), log(x), 3));
    }
}

static void sine_and_cosine_of_turns_are_accurate(void **state)
{
    (void)state;
    for (int i = 0; i < 1000000; i++) {
        const double u = i <= 8 ? i / 8.0 : any_double(0, 1);
        double sine, cosine;
        weir_sincos_turns(u, &sine, &cosine);
        assert_true(fabs(sine - sin(2 * M_PI * u)) < 1e-15);
        assert_true(fabs(cosine - cos(2 * M_PI * u)) < 1e-15);
    }
}

static void floats_are_as_accurate_as_promised(void **state)
{
    (void)state;
    for (int i = 0; i < 1000000; i++) {
        const float u = i <= 8 ? (float)i / 8.0f : (float)any_double(0, 1);
        float sine, cosine;
        weir_sincos_turnsf(u, &sine, &cosine);
        assert_true(fabs((double)sine - sin(2 * M_PI * (double)u)) < 2e-7);
        assert_true(fabs((double)cosine - cos(2 * M_PI * (double)u)) < 2e-7);
        const float x = (float)exp(any_double(-69, 69));
        assert_true(fabs((double)weir_rsqrtf(x) * sqrt((double)x) - 1) < 2.4e-7);
    }
    assert_true(weir_unitf(0) == 0.0f && weir_unitf(UINT32_MAX) < 1.0f);
    assert_true(weir_fmaf(1.0f + 0x1p-23f, 1.0f - 0x1p-23f, -1.0f) == -0x1p-46f); /* rounded once */
}

/* kat_vectors of Random123 1.09: philox4x32, 10 rounds. */
static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        weir_philox(vectors[i].counter[0], vectors[i].counter[1], vectors[i].counter[2],
                    vectors[i].counter[3], vectors[i].key[0], vectors[i].key[1], out);
        assert_memory_equal(out, vectors[i].out, sizeof out);
    }
}

static void normals_have_the_moments_of_a_normal(void **state)
{
    (void)state;
    enum { COUNT = 1 << 20 };
    double sum = 0, squares = 0, fourth = 0;
    for (uint32_t i = 0; i < COUNT / 2; i++) {
        uint32_t words[4];
        double z[2];
        weir_philox(i, 0, 0, 0, (uint32_t)rand(), 7, words);
        weir_normals(words[0], words[1], &z[0], &z[1]);
        for (int j = 0; j < 2; j++) {
            sum += z[j];
            squares += z[j] * z[j];
            fourth += z[j] * z[j] * z[j] * z[j];
        }
    }
    assert_true(fabs(sum / COUNT) < 6 / sqrt(COUNT));
    assert_true(fabs(squares / COUNT - 1) < 6 * sqrt(2.0 / COUNT));
    assert_true(fabs(fourth / COUNT - 3) < 6 * sqrt(96.0 / COUNT));
    double first, second; /* the ends of the range stay finite */
    weir_normals(0, 0, &first, &second);
    assert_true(isfinite(first) && fabs(first) < 7);
    weir_normals(UINT32_MAX, UINT32_MAX, &first, &second);
    assert_true(isfinite(first) && fabs(first) < 1e-3);
}

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_three_ulps),
        cmocka_unit_test(log_is_within_three_ulps),
        cmocka_unit_test(sine_and_cosine_of_turns_are_accurate),
        cmocka_unit_test(floats_are_as_accurate_as_promised),
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(normals_have_the_moments_of_a_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
