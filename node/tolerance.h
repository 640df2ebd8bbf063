/*
 * Whether two results of a tolerant kernel count as the same: where its manifest's `tolerance` says so.
 *
 * Each element may be off by the tolerance times the larger of the two sizes, or times the mean size of all elements of both
 * if that is more: a sum that cancels is as inexact as its terms are large. Whole numbers must be equal, and what is not a
 * number, or infinite, stands opposite the like.
 */
#ifndef NODE_TOLERANCE_H
#define NODE_TOLERANCE_H

#include <stdbool.h>
#include <stdint.h>

/* Of `bytes` bytes of elements of that enum array_dtype, at any address. */
bool tolerance_same(uint8_t dtype, const void *one, const void *other, uint64_t bytes, double tolerance);

#endif
