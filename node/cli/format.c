/* Values as people read them. What is not shown is cut off, so that 59.99 s never reads as 60.0 s. */
#include "node/cli/format.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

const char *format_duration(int64_t ms, char text[FORMAT_BYTES])
{
    const long long s = ms / 1000;
    if (ms < 0)
        snprintf(text, FORMAT_BYTES, "-");
    else if (ms < 1000)
        snprintf(text, FORMAT_BYTES, "%lld ms", (long long)ms);
    else if (s < 60)
        snprintf(text, FORMAT_BYTES, "%lld.%lld s", s, (long long)ms / 100 % 10);
    else if (s < 3600)
        snprintf(text, FORMAT_BYTES, "%lld m %lld s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, FORMAT_BYTES, "%lld h %lld m", s / 3600, s % 3600 / 60);
    else
        snprintf(text, FORMAT_BYTES, "%lld d %lld h", s / 86400, s % 86400 / 3600);
    return text;
}

const char *format_elapsed(int64_t ms, char text[FORMAT_BYTES])
{
    const long long s = ms / 1000;
    if (ms < 60000)
        return format_duration(ms, text);
    if (s < 3600)
        snprintf(text, FORMAT_BYTES, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, FORMAT_BYTES, "%lldh%02lldm", s / 3600, s % 3600 / 60);
    else
        snprintf(text, FORMAT_BYTES, "%lldd%02lldh", s / 86400, s % 86400 / 3600);
    return text;
}

const char *format_age(int64_t ms, char text[FORMAT_BYTES])
{
    const long long s = ms / 1000;
    if (ms < 0)
        snprintf(text, FORMAT_BYTES, "-");
    else if (s < 2)
        snprintf(text, FORMAT_BYTES, "now");
    else if (s < 100)
        snprintf(text, FORMAT_BYTES, "%llds", s);
    else if (s < 6000)
        snprintf(text, FORMAT_BYTES, "%lldm", s / 60);
    else if (s < 172800)
        snprintf(text, FORMAT_BYTES, "%lldh", s / 3600);
    else
        snprintf(text, FORMAT_BYTES, "%lldd", s / 86400);
    return text;
}

const char *format_rtt(int64_t us, char text[FORMAT_BYTES])
{
    if (us < 0)
        snprintf(text, FORMAT_BYTES, "-");
    else if (us < 10000)
        snprintf(text, FORMAT_BYTES, "%lld.%02lldms", (long long)us / 1000, (long long)us / 10 % 100);
    else if (us < 100000)
        snprintf(text, FORMAT_BYTES, "%lld.%lldms", (long long)us / 1000, (long long)us / 100 % 10);
    else if (us < 1000000)
        snprintf(text, FORMAT_BYTES, "%lldms", (long long)us / 1000);
    else
        snprintf(text, FORMAT_BYTES, "%lld.%llds", (long long)us / 1000000, (long long)us / 100000 % 10);
    return text;
}

const char *format_bytes(uint64_t bytes, char text[FORMAT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= (unit > 0 ? 1023.5 : 1024) && unit < 5) { /* what would be printed as 1024 */
        value /= 1024;
        unit++;
    }
    snprintf(text, FORMAT_BYTES, unit > 0 && value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

const char *format_count(uint64_t count, char text[FORMAT_BYTES])
{
    char digits[24];
    const int all = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    int at = 0;
    for (int i = 0; i < all; i++) {
        if (i > 0 && (all - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

const char *format_id(const char *hex, char text[FORMAT_BYTES])
{
    snprintf(text, FORMAT_BYTES, "%.8s", hex);
    return text;
}

const char *format_time(int64_t wall_ms, char text[FORMAT_BYTES])
{
    const time_t seconds = (time_t)(wall_ms / 1000);
    struct tm local;
    if (wall_ms <= 0 || !localtime_r(&seconds, &local) ||
        strftime(text, FORMAT_BYTES, "%Y-%m-%d %H:%M:%S", &local) == 0)
        snprintf(text, FORMAT_BYTES, "-");
    return text;
}
