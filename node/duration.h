/*
 * Spans of time as people write and read them: "90s", "24h", "30d" in; "3 h", "2 days" out.
 */
#ifndef NODE_DURATION_H
#define NODE_DURATION_H

#include <stdbool.h>
#include <stdint.h>

#define DURATION_BYTES 32

/* A whole number and a unit: s, m, h, d or w; without a unit, seconds. False if it is not one, or over 100
 * years. */
bool duration_parse(const char *text, int64_t *seconds);
/* The largest unit that fits, rounded down: "45 s", "3 min", "5 h", "2 days". Returns `text`. */
const char *duration_text(int64_t seconds, char text[DURATION_BYTES]);

#endif
