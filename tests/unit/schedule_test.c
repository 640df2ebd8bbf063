/* The owner's hours: what can be written, and when they are. */
#include "node/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

enum { SUN, MON, TUE, WED, THU, FRI, SAT };
#define AT(day, hour, minute) ((uint32_t)(day)*24 * 60 + (hour)*60 + (minute))

static struct schedule parsed(const char *text)
{
    struct schedule schedule;
    if (!schedule_parse(text, &schedule))
        fail_msg("'%s' is refused", text);
    return schedule;
}

static void hours_are_from_their_first_to_before_their_last_minute(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t at;
        bool active;
    } cases[] = {
        {"mon-fri 08:00-18:00", AT(MON, 8, 0), true},
        {"mon-fri 08:00-18:00", AT(MON, 7, 59), false},
        {"mon-fri 08:00-18:00", AT(FRI, 17, 59), true},
        {"mon-fri 08:00-18:00", AT(FRI, 18, 0), false},
        {"mon-fri 08:00-18:00", AT(SAT, 12, 0), false},
        {"mon-fri 08:00-18:00", AT(SUN, 12, 0), false},
        /* Overnight: into the next day, over the end of the week too. */
        {"fri 22:00-06:00", AT(FRI, 23, 0), true},
        {"fri 22:00-06:00", AT(SAT, 5, 59), true},
        {"fri 22:00-06:00", AT(SAT, 6, 0), false},
        {"fri 22:00-06:00", AT(FRI, 5, 0), false},
        {"sat 22:00-06:00", AT(SUN, 3, 0), true},
        {"sat 22:00-06:00", AT(SAT, 3, 0), false},
        {"sat 18:00-24:00", AT(SAT, 23, 59), true},
        {"sat 18:00-24:00", AT(SUN, 0, 0), false},
        {"sat 22:00-00:00", AT(SAT, 23, 59), true},
        {"sat 22:00-00:00", AT(SUN, 0, 0), false},
        /* Days alone, hours alone, ranges over the end of the week, several. */
        {"sun", AT(SUN, 0, 0), true},
        {"sun", AT(MON, 0, 0), false},
        {"12:00-13:00", AT(WED, 12, 30), true},
        {"sat-mon", AT(SUN, 12, 0), true},
        {"sat-mon", AT(MON, 23, 59), true},
        {"sat-mon", AT(TUE, 0, 0), false},
        {"mon 08:00-09:00, TUE 10:00-11:00 ,wed", AT(TUE, 10, 30), true},
        {"mon 08:00-09:00, TUE 10:00-11:00 ,wed", AT(WED, 1, 0), true},
        {"mon 08:00-09:00, TUE 10:00-11:00 ,wed", AT(TUE, 8, 30), false},
        {"", AT(MON, 12, 0), false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct schedule schedule = parsed(cases[i].text);
        if (schedule_active(&schedule, cases[i].at) != cases[i].active)
            fail_msg("'%s' at minute %u", cases[i].text, cases[i].at);
    }
}

static void what_cannot_be_parsed_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    static const char *const bad[] = {"monday",
                                      "mon-",
                                      "mon-fri 8:00-18:00",
                                      "mon 08:00",
                                      "mon 08:00-",
                                      "mon 08:00-25:00",
                                      "mon 08:60-09:00",
                                      "mon 24:00-25:00",
                                      "mon 24:00-06:00",
                                      "mon 08:00-08:00",
                                      "mon 08:00-24:01",
                                      "mon08:00-18:00",
                                      "mon,",
                                      ",mon",
                                      "mon,,tue",
                                      "mon; tue",
                                      "mon 08:00-09:00 x",
                                      "08:00",
                                      "-",
                                      "mon - fri"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct schedule schedule = parsed("sun");
        if (schedule_parse(bad[i], &schedule))
            fail_msg("'%s' is taken", bad[i]);
        assert_true(schedule.count == 1 && schedule.item[0].days == 1);
    }
}

static void sixteen_items_are_taken_and_not_one_more(void **state)
{
    (void)state;
    char text[256] = "sun";
    struct schedule schedule;
    for (int i = 1; i < SCHEDULE_ITEMS_MAX; i++)
        snprintf(text + 4 * i - 1, sizeof text - (size_t)(4 * i - 1), ",mon");
    assert_true(schedule_parse(text, &schedule));
    assert_int_equal(schedule.count, SCHEDULE_ITEMS_MAX);
    snprintf(text + 4 * SCHEDULE_ITEMS_MAX - 1, 8, ",tue");
    assert_false(schedule_parse(text, &schedule));
}

static void the_next_change_is_known(void **state)
{
    (void)state;
    const struct schedule office = parsed("mon-fri 08:00-18:00"), always = parsed("mon-sun"),
                          never = parsed("");
    assert_int_equal(schedule_minutes_left(&office, AT(MON, 7, 58)), 2);
    assert_int_equal(schedule_minutes_left(&office, AT(MON, 8, 0)), 10 * 60);
    assert_int_equal(schedule_minutes_left(&office, AT(FRI, 18, 0)), 62 * 60);
    assert_int_equal(schedule_minutes_left(&always, AT(MON, 8, 0)), 0);
    assert_int_equal(schedule_minutes_left(&never, AT(MON, 8, 0)), 0);
    const struct schedule joined = parsed("mon 08:00-12:00, mon 12:00-13:00");
    assert_int_equal(schedule_minutes_left(&joined, AT(MON, 8, 0)), 5 * 60);
}

/* The zone counts, and summer time in it. */
static void minutes_are_of_the_local_week(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    assert_int_equal(schedule_week_minute(INT64_C(0)), AT(THU, 0, 0)); /* 1 January 1970 */
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    assert_int_equal(schedule_week_minute(INT64_C(1785499200000)),
                     AT(FRI, 14, 0)); /* 31 July 2026, 12:00 UTC */
    assert_int_equal(schedule_week_minute(INT64_C(1767182400000)),
                     AT(WED, 13, 0)); /* 31 December 2025, 12:00 UTC */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hours_are_from_their_first_to_before_their_last_minute),
        cmocka_unit_test(what_cannot_be_parsed_is_refused_and_changes_nothing),
        cmocka_unit_test(sixteen_items_are_taken_and_not_one_more),
        cmocka_unit_test(the_next_change_is_known),
        cmocka_unit_test(minutes_are_of_the_local_week),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
