/*
 * Values as people read them. Every function writes into `text` and returns it, so that it can stand among
 * the arguments of a printf; a buffer serves one argument at a time.
 */
#ifndef NODE_CLI_FORMAT_H
#define NODE_CLI_FORMAT_H

#include <stdint.h>

#define FORMAT_BYTES 32

/* "812 ms", "3.4 s", "2 m 10 s", "5 h 20 m", "3 d 4 h"; negative: "-" */
const char *format_duration(int64_t ms, char text[FORMAT_BYTES]);
/* The same without blanks, for a narrow column: "812 ms", "3.4 s", "2m10s", "5h20m", "3d04h"; negative: "-" */
const char *format_elapsed(int64_t ms, char text[FORMAT_BYTES]);
/* How long ago, in a narrow column: "now", "12s", "3m", "5h", "2d"; negative: "-" */
const char *format_age(int64_t ms, char text[FORMAT_BYTES]);
/* A round trip: "0.31ms", "12.4ms", "181ms", "2.3s"; negative: "-" */
const char *format_rtt(int64_t us, char text[FORMAT_BYTES]);
/* "817 B", "1.5 KiB", "512 MiB", "2.3 GiB" */
const char *format_bytes(uint64_t bytes, char text[FORMAT_BYTES]);
/* "104,334" */
const char *format_count(uint64_t count, char text[FORMAT_BYTES]);
/* The first eight digits of an id. */
const char *format_id(const char *hex, char text[FORMAT_BYTES]);
/* A wall time: "2026-05-01 12:00:03" in the local zone; 0 or less: "-" */
const char *format_time(int64_t wall_ms, char text[FORMAT_BYTES]);

#endif
