/* How far apart two words are, for "did you mean". */
#ifndef NODE_WORD_H
#define NODE_WORD_H

#include <stddef.h>

/* Levenshtein's distance: the fewest letters to insert, remove or change. Of `to`, only the first
 * WORD_BYTES_MAX bytes count. */
#define WORD_BYTES_MAX 63
size_t word_distance(const char *from, const char *to);

#endif
