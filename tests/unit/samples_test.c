/* Quantiles of the latest measurements. */
#include "node/samples.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void none_is_zero_and_one_is_every_quantile(void **state)
{
    (void)state;
    struct samples samples = {0};
    assert_int_equal(samples_quantile(&samples, 500), 0);
    samples_add(&samples, 7);
    static const uint32_t permille[] = {0, 1, 500, 990, 1000};
    for (size_t i = 0; i < sizeof permille / sizeof permille[0]; i++)
        assert_int_equal(samples_quantile(&samples, permille[i]), 7);
}

static void quantiles_are_of_the_values_in_any_order(void **state)
{
    (void)state;
    struct samples samples = {0};
    for (uint32_t i = 0; i < 100; i++)
        samples_add(&samples, 1 + (37 * i) % 100); /* 1 to 100, shuffled */
    assert_int_equal(samples_quantile(&samples, 0), 1);
    assert_int_equal(samples_quantile(&samples, 500), 50);
    assert_int_equal(samples_quantile(&samples, 990), 99);
    assert_int_equal(samples_quantile(&samples, 1000), 100);
}

static void the_oldest_is_forgotten_first(void **state)
{
    (void)state;
    struct samples samples = {0};
    samples_add(&samples, UINT32_MAX);
    for (uint32_t i = 1; i < SAMPLES_MAX; i++)
        samples_add(&samples, i);
    assert_int_equal(samples_quantile(&samples, 1000), UINT32_MAX);
    samples_add(&samples, SAMPLES_MAX);
    assert_int_equal(samples_quantile(&samples, 1000), SAMPLES_MAX);
    assert_int_equal(samples_quantile(&samples, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_is_zero_and_one_is_every_quantile),
        cmocka_unit_test(quantiles_are_of_the_values_in_any_order),
        cmocka_unit_test(the_oldest_is_forgotten_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
