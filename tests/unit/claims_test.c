/* Claims of a device by several: each ends by itself. */
#include "node/claims.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void each_claimant_has_one_claim_and_ends_only_that(void **state)
{
    (void)state;
    struct claims claims = {0};
    assert_null(claims_last(&claims, 0));
    assert_true(claims_next_end_ms(&claims) == INT64_MAX);
    claims_set(&claims, "", 500);
    claims_set(&claims, "slurm-17", INT64_MAX);
    claims_set(&claims, "slurm-17", 300); /* in the place of the earlier one */
    assert_int_equal(claims.count, 2);
    assert_int_equal(claims_next_end_ms(&claims), 300);
    assert_string_equal(claims_last(&claims, 0)->by, "");
    claims_end(&claims, "slurm-18");
    assert_int_equal(claims.count, 2);
    claims_end(&claims, "");
    assert_string_equal(claims_last(&claims, 299)->by, "slurm-17");
    assert_null(claims_over(&claims, 299));
    assert_null(claims_last(&claims, 300));
    assert_string_equal(claims_over(&claims, 300)->by, "slurm-17");
    claims_end(&claims, claims_over(&claims, 300)->by);
    assert_int_equal(claims.count, 0);
    claims_free(&claims);
}

static void at_the_bound_only_those_that_stand_may_be_renewed(void **state)
{
    (void)state;
    struct claims claims = {0};
    char by[CLAIM_BY_BYTES_MAX + 1];
    for (unsigned i = 0; i < CLAIMS_MAX; i++) {
        snprintf(by, sizeof by, "slurm-%u", i);
        assert_true(claims_have_room(&claims, by));
        claims_set(&claims, by, INT64_MAX);
    }
    assert_false(claims_have_room(&claims, ""));
    assert_true(claims_have_room(&claims, "slurm-7"));
    claims_set(&claims, "slurm-7", 70);
    assert_int_equal(claims_next_end_ms(&claims), 70);
    claims_end(&claims, "slurm-8");
    assert_true(claims_have_room(&claims, ""));
    claims_free(&claims);
}

static void names_are_words(void **state)
{
    (void)state;
    char longest[CLAIM_BY_BYTES_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[CLAIM_BY_BYTES_MAX + 1] = '\0';
    assert_false(claims_name_is_good(longest));
    longest[CLAIM_BY_BYTES_MAX] = '\0';
    assert_true(claims_name_is_good(longest));
    assert_true(claims_name_is_good("") && claims_name_is_good("slurm-17_a.B"));
    assert_false(claims_name_is_good("a job") || claims_name_is_good("a/b") ||
                 claims_name_is_good("\xc3\xa4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_claimant_has_one_claim_and_ends_only_that),
        cmocka_unit_test(at_the_bound_only_those_that_stand_may_be_renewed),
        cmocka_unit_test(names_are_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
