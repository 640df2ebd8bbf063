/* What is advertised of a device, by measurements in a row; and how many cores others leave. */
#include "node/cores.h"
#include "node/score.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static uint32_t take(struct scores *scores, uint32_t mflops)
{
    const struct score measured = {.mflops = mflops, .memory_mbps = 100, .link_mbps = 0};
    score_take(scores, &measured, 1);
    return scores->advertised.mflops;
}

static void what_drifts_down_is_advertised_lower_at_once(void **state)
{
    (void)state;
    struct scores scores = {0};
    assert_int_equal(take(&scores, 1000), 1000);
    assert_int_equal(take(&scores, 900), 1000); /* a tenth is no drift */
    assert_int_equal(take(&scores, 899), 899);
    assert_int_equal(take(&scores, 0), 0);
    assert_int_equal(scores.advertised.memory_mbps, 100);
}

static void what_rises_is_believed_the_second_time(void **state)
{
    (void)state;
    struct scores scores = {0};
    take(&scores, 1000);
    assert_int_equal(take(&scores, 1300), 1000);
    assert_int_equal(take(&scores, 1050), 1000); /* not in a row */
    assert_int_equal(take(&scores, 1300), 1000);
    assert_int_equal(take(&scores, 1200), 1200); /* the lower of both */
    assert_int_equal(take(&scores, 1319), 1200);
    assert_int_equal(take(&scores, 1320), 1200); /* a tenth above is none */
}

static void one_measurement_off_asks_for_another(void **state)
{
    (void)state;
    struct scores scores = {0};
    take(&scores, 1000);
    assert_true(score_settled(&scores));
    take(&scores, 1100);
    assert_true(score_settled(&scores));
    take(&scores, 1101);
    assert_false(score_settled(&scores));
    take(&scores, 1300);
    assert_false(score_settled(&scores)); /* the lower of both is advertised */
    take(&scores, 1110);
    assert_true(score_settled(&scores));
}

static void a_change_is_told_once(void **state)
{
    (void)state;
    struct scores scores = {0};
    const struct score measured = {.mflops = 5, .memory_mbps = 6, .link_mbps = 7};
    assert_true(score_take(&scores, &measured, 10));
    assert_false(score_take(&scores, &measured, 20));
    assert_int_equal(scores.measured_at_s, 20);
}

/* Looks every five seconds at a machine of four cores; `others` and `own` are thousandths of a core in between. */
static uint32_t look(struct cores *cores, struct cores_look *at, uint32_t others, uint32_t own)
{
    at->at_ms += CORES_LOOK_MS;
    at->busy += (others + own) * (uint64_t)CORES_LOOK_MS / 1000 * 100 / 1000;
    at->own += own * (uint64_t)CORES_LOOK_MS / 1000 * 100 / 1000;
    return cores_see(cores, at, 100, 4);
}

static void cores_that_others_use_are_not_lent(void **state)
{
    (void)state;
    static const struct {
        uint32_t others, own, left;
    } cases[] = {{0, 0, 4},   {0, 4000, 4}, {60, 0, 4},      {1000, 3000, 3}, {1200, 0, 2},
                 {900, 0, 3}, {4000, 0, 0}, {2000, 2000, 2}, {9000, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cores cores = {0};
        struct cores_look at = {.at_ms = 1000, .busy = 77777, .own = 555};
        uint32_t left = 0;
        for (int n = 0; n < CORES_LOOKS + 5; n++)
            left = look(&cores, &at, cases[i].others, cases[i].own);
        if (left != cases[i].left)
            fail_msg("others %u, own %u: %u are left, not %u", cases[i].others, cases[i].own, left,
                     cases[i].left);
    }
}

/* A burst of some seconds takes nothing; half a minute of it does, and as long passes until it is forgotten. */
static void a_burst_is_averaged_out(void **state)
{
    (void)state;
    struct cores cores = {0};
    struct cores_look at = {0};
    for (int n = 0; n < 20; n++)
        assert_int_equal(look(&cores, &at, 0, 0), 4);
    assert_int_equal(look(&cores, &at, 600, 0), 4);
    assert_int_equal(look(&cores, &at, 0, 0), 4);
    uint32_t left = 4;
    for (int n = 0; n < CORES_LOOKS; n++)
        left = look(&cores, &at, 2000, 0);
    assert_int_equal(left, 2);
    for (int n = 0; n < CORES_LOOKS; n++)
        left = look(&cores, &at, 0, 0);
    assert_int_equal(left, 4);
}

static void counters_that_fall_back_say_nothing(void **state)
{
    (void)state;
    struct cores cores = {0};
    struct cores_look at = {.busy = 1000000, .own = 1000000};
    for (int n = 0; n < 10; n++)
        look(&cores, &at, 4000, 0);
    at.busy = 0;
    assert_int_equal(look(&cores, &at, 0, 0), 4);
}

static void this_machine_tells(void **state)
{
    (void)state;
    struct cores_look first = {0}, second = {0};
    uint32_t online = 0;
    assert_true(cores_read(&first, &online));
    assert_true(online >= 1 && first.busy > 0);
    for (volatile uint64_t i = 0; i < 300000000; i++)
        ;
    assert_true(cores_read(&second, &online));
    assert_true(second.own > first.own && second.busy > first.busy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_drifts_down_is_advertised_lower_at_once),
        cmocka_unit_test(what_rises_is_believed_the_second_time),
        cmocka_unit_test(one_measurement_off_asks_for_another),
        cmocka_unit_test(a_change_is_told_once),
        cmocka_unit_test(cores_that_others_use_are_not_lent),
        cmocka_unit_test(a_burst_is_averaged_out),
        cmocka_unit_test(counters_that_fall_back_say_nothing),
        cmocka_unit_test(this_machine_tells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
