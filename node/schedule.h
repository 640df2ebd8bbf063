/*
 * The hours in which the owner has its devices, as the settings state them, in local time:
 *
 *     mon-fri 08:00-18:00, sat 22:00-06:00, sun
 *
 * Each item names days (one, or a range, which may pass the end of the week; none: every day) and hours (none: the
 * whole day). Hours that end before they begin go on into the next day. Items are joined by commas, in any order, and may overlap.
 *
 * Pure: the caller says what minute of the local week it is, so summer time is what the system says it is then.
 */
#ifndef NODE_SCHEDULE_H
#define NODE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#define SCHEDULE_ITEMS_MAX 16
#define SCHEDULE_WEEK_MINUTES (7 * 24 * 60)

/* From minute `begin` of the day on, for `minutes` (up to a day), on days whose bit is set: bit 0 is Sunday. */
struct schedule_item {
    uint8_t days;
    uint16_t begin;
    uint16_t minutes;
};

struct schedule {
    uint32_t count;
    struct schedule_item item[SCHEDULE_ITEMS_MAX];
};

/* "" is no hours at all. False if it can't be parsed; the schedule is then unchanged. */
bool schedule_parse(const char *text, struct schedule *schedule);
/* `week_minute`: since Sunday 00:00. */
bool schedule_active(const struct schedule *schedule, uint32_t week_minute);
/* Minutes from then on until that is no longer so; 0 if it is so always. */
uint32_t schedule_minutes_left(const struct schedule *schedule, uint32_t week_minute);
/* Of that time, in the zone of this process. */
uint32_t schedule_week_minute(int64_t wall_ms);

#endif
