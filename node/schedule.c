#include "node/schedule.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define DAY_MINUTES (24 * 60)

static void skip_spaces(const char **at)
{
    while (**at == ' ' || **at == '\t')
        ++*at;
}

static bool parse_day(const char **at, uint32_t *day)
{
    static const char *const names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
    for (uint32_t d = 0; d < 7; d++)
        if (strncasecmp(*at, names[d], 3) == 0 && !isalpha((unsigned char)(*at)[3])) {
            *day = d;
            *at += 3;
            return true;
        }
    return false;
}

static bool parse_days(const char **at, uint8_t *days)
{
    uint32_t first, last;
    if (!parse_day(at, &first))
        return false;
    last = first;
    if (**at == '-') {
        ++*at;
        if (!parse_day(at, &last))
            return false;
    }
    *days = 0;
    for (uint32_t day = first;; day = (day + 1) % 7) {
        *days |= (uint8_t)(1u << day);
        if (day == last)
            return true;
    }
}

/* HH:MM, 00:00 to 24:00. */
static bool parse_time(const char **at, uint16_t *minute)
{
    const char *t = *at;
    if (!isdigit((unsigned char)t[0]) || !isdigit((unsigned char)t[1]) || t[2] != ':' ||
        !isdigit((unsigned char)t[3]) || !isdigit((unsigned char)t[4]))
        return false;
    const int hours = (t[0] - '0') * 10 + t[1] - '0', minutes = (t[3] - '0') * 10 + t[4] - '0';
    if (minutes > 59 || hours * 60 + minutes > DAY_MINUTES)
        return false;
    *minute = (uint16_t)(hours * 60 + minutes);
    *at += 5;
    return true;
}

static bool parse_hours(const char **at, struct schedule_item *item)
{
    uint16_t end;
    if (!parse_time(at, &item->begin) || item->begin == DAY_MINUTES || **at != '-')
        return false;
    ++*at;
    if (!parse_time(at, &end) || end == item->begin)
        return false;
    item->minutes = (uint16_t)(end > item->begin ? end - item->begin : DAY_MINUTES - item->begin + end);
    return true;
}

static bool parse_item(const char **at, struct schedule_item *item)
{
    *item = (struct schedule_item){.days = 0x7f, .minutes = DAY_MINUTES};
    skip_spaces(at);
    const bool days = isalpha((unsigned char)**at);
    if (days && !parse_days(at, &item->days))
        return false;
    const char *after_days = *at;
    skip_spaces(at);
    if (**at != ',' && **at != '\0') {
        if ((days && *at == after_days) || !parse_hours(at, item))
            return false;
    } else if (!days) {
        return false;
    }
    skip_spaces(at);
    return **at == ',' || **at == '\0';
}

bool schedule_parse(const char *text, struct schedule *schedule)
{
    struct schedule parsed = {0};
    const char *at = text;
    skip_spaces(&at);
    while (*at) {
        if (parsed.count == SCHEDULE_ITEMS_MAX || !parse_item(&at, &parsed.item[parsed.count++]))
            return false;
        if (*at == ',' && at[1] == '\0')
            return false; /* something was to follow */
        at += *at == ',';
    }
    *schedule = parsed;
    return true;
}

bool schedule_active(const struct schedule *schedule, uint32_t week_minute)
{
    const uint32_t day = week_minute / DAY_MINUTES, minute = week_minute % DAY_MINUTES;
    for (uint32_t i = 0; i < schedule->count; i++) {
        const struct schedule_item *item = &schedule->item[i];
        const bool today = item->days >> day & 1, yesterday = item->days >> ((day + 6) % 7) & 1;
        if ((today && minute >= item->begin && minute - item->begin < item->minutes) ||
            (yesterday && minute + DAY_MINUTES < (uint32_t)item->begin + item->minutes))
            return true;
    }
    return false;
}

uint32_t schedule_minutes_left(const struct schedule *schedule, uint32_t week_minute)
{
    const bool now = schedule_active(schedule, week_minute);
    for (uint32_t left = 1; left < SCHEDULE_WEEK_MINUTES; left++)
        if (schedule_active(schedule, (week_minute + left) % SCHEDULE_WEEK_MINUTES) != now)
            return left;
    return 0;
}

uint32_t schedule_week_minute(int64_t wall_ms)
{
    const time_t seconds = (time_t)(wall_ms / 1000);
    struct tm local;
    if (!localtime_r(&seconds, &local))
        return 0;
    return (uint32_t)(local.tm_wday * DAY_MINUTES + local.tm_hour * 60 + local.tm_min);
}
