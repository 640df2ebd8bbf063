#include "node/word.h"

#include <string.h>

static size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t word_distance(const char *from, const char *to)
{
    size_t row[WORD_BYTES_MAX + 1]; /* distances of the letters of `from` so far to each beginning of `to` */
    const size_t width = strnlen(to, WORD_BYTES_MAX);
    for (size_t j = 0; j <= width; j++)
        row[j] = j;
    for (size_t i = 0; from[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 1; j <= width; j++) {
            const size_t above = row[j];
            row[j] = least_of(least_of(above, row[j - 1]) + 1, diagonal + (from[i] != to[j - 1]));
            diagonal = above;
        }
    }
    return row[width];
}
