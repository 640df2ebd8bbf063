/* When two results of a tolerant kernel count as the same. */
#include "node/tolerance.h"

#include "kernels/array.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void elements_may_be_off_by_the_tolerance_and_no_more(void **state)
{
    (void)state;
    static const struct {
        double one[2], other[2];
        bool same;
    } cases[] = {
        {{1, 1}, {1, 1}, true},
        {{1, 1}, {1, 1.0009}, true},
        {{1, 1}, {1, 1.0011}, false},
        {{1, 1}, {1.0011, 1}, false},
        {{-1, 1}, {1, 1}, false},
        {{1e-30, 1e-30}, {1e-30, 1.0009e-30}, true}, /* relative, however small they are */
        {{1e-30, 1e-30}, {1e-30, 1.0011e-30}, false},
        {{0, 1000}, {0.4, 1000}, true}, /* what cancelled: 500 on the mean */
        {{0, 1000}, {0.6, 1000}, false},
        {{0, 0}, {0, 0}, true},
        {{0, 0}, {0, 1e-300}, false},
        {{NAN, 1}, {NAN, 1}, true},
        {{NAN, 1}, {1, 1}, false},
        {{1, 1}, {NAN, 1}, false},
        {{INFINITY, 1}, {INFINITY, 1}, true},
        {{INFINITY, 1}, {-INFINITY, 1}, false},
        {{INFINITY, 1}, {1, 1}, false},
        {{INFINITY, 1}, {INFINITY, 2}, false}, /* does not make the others' allowance infinite */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(tolerance_same(ARRAY_FLOAT64, cases[i].one, cases[i].other, 16, 1e-3),
                         cases[i].same);
        assert_int_equal(tolerance_same(ARRAY_FLOAT64, cases[i].other, cases[i].one, 16, 1e-3),
                         cases[i].same);
    }
}

static void float32_is_read_as_such_and_at_any_address(void **state)
{
    (void)state;
    _Alignas(8) uint8_t one[9], other[9];
    const float values[2] = {1, 2}, near[2] = {1, 2.001F}, far[2] = {1, 2.01F};
    for (size_t i = 0; i < 8; i++)
        one[i + 1] = ((const uint8_t *)values)[i];
    for (size_t i = 0; i < 8; i++)
        other[i + 1] = ((const uint8_t *)near)[i];
    assert_true(tolerance_same(ARRAY_FLOAT32, one + 1, other + 1, 8, 1e-3));
    for (size_t i = 0; i < 8; i++)
        other[i + 1] = ((const uint8_t *)far)[i];
    assert_false(tolerance_same(ARRAY_FLOAT32, one + 1, other + 1, 8, 1e-3));
}

static void whole_numbers_are_equal_or_they_are_not(void **state)
{
    (void)state;
    const int32_t one[2] = {1000000, 1}, other[2] = {1000001, 1};
    assert_true(tolerance_same(ARRAY_INT32, one, one, 8, 0.5));
    assert_false(tolerance_same(ARRAY_INT32, one, other, 8, 0.5));
    assert_true(tolerance_same(ARRAY_INT32, NULL, NULL, 0, 0.5));
    assert_true(tolerance_same(ARRAY_FLOAT32, NULL, NULL, 0, 0.5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_may_be_off_by_the_tolerance_and_no_more),
        cmocka_unit_test(float32_is_read_as_such_and_at_any_address),
        cmocka_unit_test(whole_numbers_are_equal_or_they_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
