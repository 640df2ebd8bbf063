/* Who has a device: the states of node/owner.h, under a scripted clock. */
#include "node/owner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define S 1000
#define MIN (60 * S)

/* What is seen from then on, and what must come of it. */
struct line {
    int64_t at_ms;
    struct owner_facts facts;
    uint32_t acts;
    enum owner_state state;
};

#define IDLE .gone = true, .memory_free = true
#define BUSY .working = true

static void play(const struct line *lines, size_t count)
{
    struct owner owner;
    owner_init(&owner, 0);
    for (size_t i = 0; i < count; i++) {
        const uint32_t acts = owner_step(&owner, &lines[i].facts, lines[i].at_ms);
        if (acts != lines[i].acts || owner.state != lines[i].state)
            fail_msg("at %lld ms: acts %u and state %s, not %u and %s", (long long)lines[i].at_ms, acts,
                     owner_state_word(owner.state), lines[i].acts, owner_state_word(lines[i].state));
    }
}
#define PLAY(...)                                                                                            \
    do {                                                                                                     \
        const struct line lines[] = {__VA_ARGS__};                                                           \
        play(lines, sizeof lines / sizeof lines[0]);                                                         \
    } while (0)

static void work_is_lent_and_a_claim_takes_it_back(void **state)
{
    (void)state;
    PLAY({0, {IDLE}, 0, OWNER_SPARE}, {10, {BUSY}, OWNER_CHANGED, OWNER_LENT},
         {20, {BUSY, .claim = OWNER_COMMAND}, OWNER_STOP | OWNER_CHANGED, OWNER_RECLAIM},
         {30, {BUSY, .claim = OWNER_COMMAND}, 0, OWNER_RECLAIM},
         /* The process is gone, and its memory is not seen free yet. */
         {40, {.gone = true, .claim = OWNER_COMMAND}, 0, OWNER_RECLAIM},
         {50, {IDLE, .claim = OWNER_COMMAND}, OWNER_RECLAIMED | OWNER_CHANGED, OWNER_OWNED},
         {60, {IDLE}, OWNER_CHANGED, OWNER_COOLING}, {60 + MIN - 1, {IDLE}, 0, OWNER_COOLING},
         {60 + MIN, {IDLE}, OWNER_LEND | OWNER_CHANGED, OWNER_SPARE});
}

static void an_idle_device_is_the_owners_at_once(void **state)
{
    (void)state;
    PLAY({5, {IDLE, .claim = OWNER_SCHEDULE}, OWNER_STOP | OWNER_RECLAIMED | OWNER_CHANGED, OWNER_OWNED});
}

static void a_claim_that_ends_while_work_is_stopped_still_frees_the_device_first(void **state)
{
    (void)state;
    PLAY({0, {BUSY}, OWNER_CHANGED, OWNER_LENT},
         {10, {BUSY, .claim = OWNER_PROCESS}, OWNER_STOP | OWNER_CHANGED, OWNER_RECLAIM},
         {20, {BUSY}, 0, OWNER_RECLAIM}, {30, {IDLE}, OWNER_RECLAIMED | OWNER_CHANGED, OWNER_OWNED},
         {30, {IDLE}, OWNER_CHANGED, OWNER_COOLING});
}

static void the_time_until_it_is_free_is_told(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    owner_step(&owner, &(struct owner_facts){BUSY}, 100);
    owner_step(&owner, &(struct owner_facts){BUSY, .claim = OWNER_COMMAND}, 200);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_COMMAND}, 263);
    assert_int_equal(owner.reclaim_ms, 63);
    assert_int_equal(owner.cause, OWNER_COMMAND);
}

/* Claims and gives back at once, `pause_ms` after it was lent again; returns how long it cools down then. */
static int64_t flap(struct owner *owner, int64_t *now_ms, int64_t pause_ms)
{
    *now_ms += pause_ms;
    owner_step(owner, &(struct owner_facts){IDLE, .claim = OWNER_COMMAND}, *now_ms);
    owner_step(owner, &(struct owner_facts){IDLE}, *now_ms);
    assert_int_equal(owner->state, OWNER_COOLING);
    const int64_t cool_ms = owner->cool_until_ms - *now_ms;
    *now_ms = owner->cool_until_ms;
    owner_step(owner, &(struct owner_facts){IDLE}, *now_ms);
    assert_int_equal(owner->state, OWNER_SPARE);
    return cool_ms;
}

static void each_flap_doubles_the_cool_down_up_to_fifteen_minutes(void **state)
{
    (void)state;
    static const int64_t minutes[] = {1, 2, 4, 8, 15, 15, 15};
    struct owner owner;
    int64_t now_ms = 0;
    owner_init(&owner, now_ms);
    for (size_t i = 0; i < sizeof minutes / sizeof minutes[0]; i++)
        assert_int_equal(flap(&owner, &now_ms, OWNER_COOL_MS_MAX - 1), minutes[i] * MIN);
    assert_int_equal(flap(&owner, &now_ms, OWNER_COOL_MS_MAX), MIN); /* not soon any more */
    for (uint32_t i = 0; i < 100; i++)
        assert_true(flap(&owner, &now_ms, 0) <= OWNER_COOL_MS_MAX);
}

static void a_claim_while_it_cools_down_is_a_flap(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_PROCESS}, 0);
    owner_step(&owner, &(struct owner_facts){IDLE}, 1 * S);
    assert_int_equal(owner_wake_ms(&owner, 1 * S), 1 * S + MIN);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_PROCESS}, 30 * S);
    assert_int_equal(owner.state, OWNER_OWNED);
    owner_step(&owner, &(struct owner_facts){IDLE}, 31 * S);
    assert_int_equal(owner_wake_ms(&owner, 31 * S), 31 * S + 2 * MIN);
}

static void an_operator_may_skip_the_cool_down_but_no_claim(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_SCHEDULE}, 0);
    owner_skip_cooling(&owner, 1);
    assert_int_equal(owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_SCHEDULE}, 2), 0);
    owner_step(&owner, &(struct owner_facts){IDLE}, 3);
    owner_skip_cooling(&owner, 4);
    assert_int_equal(owner_step(&owner, &(struct owner_facts){IDLE}, 4), OWNER_LEND | OWNER_CHANGED);
    assert_true(owner_lends(&owner, 4));
}

/* Monitoring opens the device once a second for ten minutes and is seen doing nothing: no reclaim, and what runs goes on. */
static void ten_minutes_of_monitoring_cause_no_reclaim(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    int64_t held_ms = 0;
    for (int64_t now_ms = 0; now_ms < 10 * MIN; now_ms += 10) {
        if (now_ms % S == 0)
            owner_opened(&owner, now_ms);
        const uint32_t acts = owner_step(&owner, &(struct owner_facts){BUSY}, now_ms);
        assert_int_equal(acts & (OWNER_STOP | OWNER_RECLAIMED), 0);
        held_ms += owner_lends(&owner, now_ms) ? 0 : 10;
    }
    assert_int_equal(owner.claims, 0);
    assert_int_equal(owner.state, OWNER_LENT);
    assert_int_equal(held_ms, 10 * 60 * OWNER_OPEN_MS); /* half of the time nothing new was started */
}

static void an_open_holds_new_work_for_half_a_second(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    assert_true(owner_lends(&owner, 0));
    owner_opened(&owner, 100);
    assert_false(owner_lends(&owner, 100 + OWNER_OPEN_MS - 1));
    assert_int_equal(owner_wake_ms(&owner, 100), 100 + OWNER_OPEN_MS);
    assert_true(owner_lends(&owner, 100 + OWNER_OPEN_MS));
    assert_int_equal(owner_wake_ms(&owner, 100 + OWNER_OPEN_MS), INT64_MAX);
}

static void a_fault_ends_all_lending_from_any_state(void **state)
{
    (void)state;
    const struct owner_facts claimed = {BUSY, .claim = OWNER_COMMAND}, idle = {IDLE},
                             owned = {IDLE, .claim = OWNER_COMMAND}, fault = {IDLE, .fault = true};
    const struct owner_facts *const way[] = {&idle, &claimed, &owned, &idle};
    for (size_t steps = 0; steps <= sizeof way / sizeof way[0]; steps++) {
        struct owner owner;
        owner_init(&owner, 0);
        for (size_t i = 0; i < steps; i++)
            owner_step(&owner, way[i], (int64_t)i);
        assert_int_equal(owner_step(&owner, &fault, 10), OWNER_STOP | OWNER_CHANGED);
        assert_int_equal(owner.state, OWNER_FAULT);
        assert_false(owner_lends(&owner, 10));
        assert_int_equal(owner_step(&owner, &fault, 11), 0);
    }
}

static void a_device_that_works_again_is_quiet_first_or_its_owners(void **state)
{
    (void)state;
    PLAY({0, {.fault = true}, OWNER_STOP | OWNER_CHANGED, OWNER_FAULT},
         {1, {IDLE}, OWNER_CHANGED, OWNER_COOLING},
         {1 + MIN, {IDLE}, OWNER_LEND | OWNER_CHANGED, OWNER_SPARE});
    PLAY({0, {.fault = true}, OWNER_STOP | OWNER_CHANGED, OWNER_FAULT},
         {1, {IDLE, .claim = OWNER_COMMAND}, OWNER_CHANGED, OWNER_OWNED});
}

static void the_cause_that_stands_is_told(void **state)
{
    (void)state;
    struct owner owner;
    owner_init(&owner, 0);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_COMMAND}, 0);
    owner_step(&owner, &(struct owner_facts){IDLE, .claim = OWNER_PROCESS}, 1); /* released, and used */
    assert_int_equal(owner.state, OWNER_OWNED);
    assert_string_equal(owner_cause_word(owner.cause), "process");
    for (int cause = OWNER_NONE + 1; cause < OWNER_CAUSES; cause++)
        assert_true(owner_cause_word((enum owner_cause)cause)[0] != '\0');
    for (int s = 0; s < OWNER_STATES; s++)
        assert_true(owner_state_word((enum owner_state)s)[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_is_lent_and_a_claim_takes_it_back),
        cmocka_unit_test(an_idle_device_is_the_owners_at_once),
        cmocka_unit_test(a_claim_that_ends_while_work_is_stopped_still_frees_the_device_first),
        cmocka_unit_test(the_time_until_it_is_free_is_told),
        cmocka_unit_test(each_flap_doubles_the_cool_down_up_to_fifteen_minutes),
        cmocka_unit_test(a_claim_while_it_cools_down_is_a_flap),
        cmocka_unit_test(an_operator_may_skip_the_cool_down_but_no_claim),
        cmocka_unit_test(ten_minutes_of_monitoring_cause_no_reclaim),
        cmocka_unit_test(an_open_holds_new_work_for_half_a_second),
        cmocka_unit_test(a_fault_ends_all_lending_from_any_state),
        cmocka_unit_test(a_device_that_works_again_is_quiet_first_or_its_owners),
        cmocka_unit_test(the_cause_that_stands_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
