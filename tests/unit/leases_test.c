/* Compute leases: who has one, how they end, and what happens at the bounds. */
#include "node/leases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static struct lessee lessee(uint32_t node, uint32_t job)
{
    struct lessee who = {0};
    memcpy(who.node.bytes, &node, sizeof node);
    memcpy(who.job.bytes, &job, sizeof job);
    return who;
}

static void key_of(uint64_t number, uint8_t key[32])
{
    memset(key, 0, 32);
    number = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    memcpy(key, &number, sizeof number);
}

static bool take(struct leases *leases, uint64_t key_number, struct lessee who, int64_t now_ms)
{
    uint8_t key[32];
    struct lessee other = {0};
    key_of(key_number, key);
    const bool taken = leases_take(leases, key, &who, now_ms, &other);
    assert_true(taken || memcmp(&other, &who, sizeof who) != 0);
    return taken;
}

static void the_first_to_claim_has_it(void **state)
{
    (void)state;
    struct leases *leases = leases_open();
    assert_true(take(leases, 1, lessee(1, 1), 0));
    assert_true(take(leases, 1, lessee(1, 1), 5)); /* and still has */
    assert_false(take(leases, 1, lessee(2, 1), 5));
    assert_false(take(leases, 1, lessee(1, 2), 5)); /* another job of the same home waits too */
    assert_true(take(leases, 2, lessee(2, 1), 5));
    assert_int_equal(leases_count(leases, 5), 2);
    leases_close(leases);
}

static void a_lease_ends_with_its_job_its_node_or_its_time(void **state)
{
    (void)state;
    struct leases *leases = leases_open();
    struct lessee first = lessee(1, 1), second = lessee(2, 1);
    assert_true(take(leases, 1, first, 0));
    leases_end_job(leases, &first);
    assert_true(take(leases, 1, second, 0));
    leases_end_job(leases, &first); /* it has no more to end */
    assert_false(take(leases, 1, first, 0));
    leases_end_node(leases, &second.node);
    assert_true(take(leases, 1, first, 0));
    assert_false(take(leases, 1, second, LEASES_KEPT_MS - 1));
    assert_true(take(leases, 1, second, LEASES_KEPT_MS));
    assert_true(
        take(leases, 2, second, LEASES_KEPT_MS + 100)); /* a claim of another key keeps all of a job's */
    assert_false(take(leases, 1, first, 2 * LEASES_KEPT_MS + 99));
    assert_true(take(leases, 1, first, 2 * LEASES_KEPT_MS + 100));
    leases_close(leases);
}

static void at_the_bound_nothing_is_remembered_and_nobody_is_held_up(void **state)
{
    (void)state;
    struct leases *leases = leases_open();
    uint32_t kept = 0;
    for (uint64_t i = 0; i < LEASES_MAX + LEASES_MAX / 2; i++)
        assert_true(take(leases, i, lessee(1, 1), 0));
    kept = leases_count(leases, 0);
    assert_true(kept >= LEASES_MAX && kept <= LEASES_MAX + LEASES_MAX / 2);
    assert_false(take(leases, 0, lessee(2, 2), 0));
    struct lessee first = lessee(1, 1);
    leases_end_job(leases, &first);
    assert_int_equal(leases_count(leases, 0), 0);
    for (uint64_t i = 0; i < LEASES_MAX; i++) /* there is room again, once it is looked for */
        assert_true(take(leases, i, lessee(2, 2), 1000));
    assert_false(take(leases, LEASES_MAX - 1, first, 1000));
    leases_close(leases);
}

static void of_too_many_jobs_the_quietest_loses_its_leases(void **state)
{
    (void)state;
    struct leases *leases = leases_open();
    for (uint32_t j = 0; j < LEASES_JOBS_MAX; j++)
        assert_true(take(leases, j, lessee(1, j), j));
    assert_false(take(leases, 0, lessee(2, 0), LEASES_JOBS_MAX));
    assert_false(take(leases, 1, lessee(2, 0), LEASES_JOBS_MAX));
    assert_true(
        take(leases, LEASES_JOBS_MAX, lessee(2, 0), LEASES_JOBS_MAX)); /* one job more: the first goes */
    assert_true(take(leases, 0, lessee(2, 0), LEASES_JOBS_MAX));
    assert_false(take(leases, 1, lessee(2, 0), LEASES_JOBS_MAX));
    leases_close(leases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_to_claim_has_it),
        cmocka_unit_test(a_lease_ends_with_its_job_its_node_or_its_time),
        cmocka_unit_test(at_the_bound_nothing_is_remembered_and_nobody_is_held_up),
        cmocka_unit_test(of_too_many_jobs_the_quietest_loses_its_leases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
