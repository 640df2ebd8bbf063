#include "node/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 1024

static _Atomic int level_max = LOG_LEVEL_INFO;
static char name[64];

void log_set_level(enum log_level level)
{
    level_max = (int)level;
}

void log_set_name(const char *text)
{
    snprintf(name, sizeof name, "%s", text);
}

static size_t write_head(char *line, size_t capacity, enum log_level level)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    static const int priorities[] = {3, 4, 6, 7}; /* syslog(3) */
    int count;
    if (getenv("JOURNAL_STREAM")) {
        count = snprintf(line, capacity, "<%d>level=%s", priorities[level], words[level]);
    } else {
        struct timeval now;
        gettimeofday(&now, NULL);
        struct tm utc;
        gmtime_r(&now.tv_sec, &utc);
        char stamp[32];
        strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
        count =
            snprintf(line, capacity, "ts=%s.%03dZ level=%s", stamp, (int)(now.tv_usec / 1000), words[level]);
    }
    if (name[0])
        count += snprintf(line + count, capacity - (size_t)count, " at=%s", name);
    return (size_t)count;
}

void log_write(enum log_level level, const char *event, const char *format, ...)
{
    if ((int)level > level_max)
        return;
    char line[LINE_BYTES];
    size_t bytes = write_head(line, sizeof line - 1, level);
    bytes += (size_t)snprintf(line + bytes, sizeof line - 1 - bytes, " event=%s ", event);
    va_list arguments;
    va_start(arguments, format);
    const int written = vsnprintf(line + bytes, sizeof line - 1 - bytes, format, arguments);
    va_end(arguments);
    if (written > 0)
        bytes += (size_t)written;
    if (bytes > sizeof line - 2)
        bytes = sizeof line - 2; /* cut, rather than split over two lines */
    line[bytes++] = '\n';
    const ssize_t ignored = write(STDERR_FILENO, line, bytes);
    (void)ignored; /* there is nowhere left to report it */
}

const char *log_quote(const char *text, char *out, size_t out_bytes)
{
    size_t used = 0;
    out[used++] = '"';
    for (const char *c = text; *c && used + 4 < out_bytes; c++) {
        if (*c == '"' || *c == '\\')
            out[used++] = '\\';
        out[used++] = (unsigned char)*c < 0x20 ? ' ' : *c;
    }
    out[used++] = '"';
    out[used] = '\0';
    return out;
}
