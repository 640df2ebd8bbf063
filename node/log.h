/*
 * The log: logfmt lines on standard error, for people and for journald.
 *
 *     log_info("join", "node=%s site=%s", id, site);
 *     ts=2024-05-01T12:00:00.123Z level=info event=join node=ab12cd34 site=ashburn
 *
 * One line per call, written in one write(2), any thread. Values with spaces are quoted by the caller
 * (log_quote). Under systemd (JOURNAL_STREAM is set) the time is left out and the level is the <N> prefix
 * that journald reads.
 */
#ifndef NODE_LOG_H
#define NODE_LOG_H

#include <stddef.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);
/* A word in front of every line, for many nodes on one terminal; "" for none. Copied. */
void log_set_name(const char *name);
__attribute__((format(printf, 3, 4))) void log_write(enum log_level level, const char *event,
                                                     const char *format, ...);
/* Writes `text` in quotes with escapes into `out` and returns `out`; for values that may hold spaces or
 * anything else. */
const char *log_quote(const char *text, char *out, size_t out_bytes);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
