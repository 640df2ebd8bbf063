#include "node/duration.h"

#include <inttypes.h>
#include <stdio.h>

#define MINUTE_S INT64_C(60)
#define HOUR_S (60 * MINUTE_S)
#define DAY_S (24 * HOUR_S)
#define CENTURY_S (36525 * DAY_S)

bool duration_parse(const char *text, int64_t *seconds)
{
    int64_t number = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        number = number * 10 + (*at - '0');
        if (number > CENTURY_S)
            return false;
    }
    if (at == text)
        return false;
    int64_t unit = 1;
    switch (*at) {
    case '\0':
        break;
    case 's':
        at++;
        break;
    case 'm':
        unit = MINUTE_S;
        at++;
        break;
    case 'h':
        unit = HOUR_S;
        at++;
        break;
    case 'd':
        unit = DAY_S;
        at++;
        break;
    case 'w':
        unit = 7 * DAY_S;
        at++;
        break;
    default:
        return false;
    }
    if (*at != '\0' || number > CENTURY_S / unit)
        return false;
    *seconds = number * unit;
    return true;
}

const char *duration_text(int64_t seconds, char text[DURATION_BYTES])
{
    if (seconds < 0)
        seconds = 0;
    if (seconds < 2 * MINUTE_S)
        snprintf(text, DURATION_BYTES, "%" PRId64 " s", seconds);
    else if (seconds < 2 * HOUR_S)
        snprintf(text, DURATION_BYTES, "%" PRId64 " min", seconds / MINUTE_S);
    else if (seconds < 2 * DAY_S)
        snprintf(text, DURATION_BYTES, "%" PRId64 " h", seconds / HOUR_S);
    else
        snprintf(text, DURATION_BYTES, "%" PRId64 " days", seconds / DAY_S);
    return text;
}
