/* The embedding of one line, shared by the CPU and the CUDA code so that both give the same bits.
 *
 * A line is folded to lower case (ASCII only) and put between word-boundary marks. Its features are the 1-,
 * 2- and 3-grams and the pairs with one or two bytes between them; a space inside a line is a boundary too,
 * since it is a feature byte like any other. Each feature's hash picks one of 256 places and a sign, and its
 * weight is added there. The sums are then scaled to one common length, in integers only:
 *
 *   vector[i] = clamp(round(sum[i] * EMBED_LENGTH / |sum|), -127, 127)
 *
 * so that squared L2 ranks by angle. |sum| is taken to 8 fractional bits by an exact integer square root. */
#ifndef KERNELS_EMBED_CORE_H
#define KERNELS_EMBED_CORE_H

#include <stdint.h>

#ifdef __CUDACC__
#define EMBED_INLINE static __device__ __forceinline__
#else
#define EMBED_INLINE static inline
#endif

#define EMBED_PLACES 256
#define EMBED_LENGTH 320        /* of every vector that isn't clamped */
#define EMBED_BOUNDARY 1u       /* the mark before the first and after the last byte */
#define EMBED_SUM_MAX (1 << 27) /* sums are clamped here, so that their squares add up inside 64 bits */

/* Weights and salts of the feature kinds, found by trying: see docs/performance.md. */
enum { EMBED_ONE, EMBED_TWO, EMBED_THREE, EMBED_GAP_ONE, EMBED_GAP_TWO };
#define EMBED_WEIGHTS 10, 5, 3, 3, 2

EMBED_INLINE uint32_t embed_fold(uint32_t byte)
{
    return byte - 'A' < 26u ? byte + 32u : byte;
}

/* A 32-bit finaliser with full avalanche (the constants are those of MurmurHash3's fmix32). */
EMBED_INLINE uint32_t embed_hash(uint32_t kind, uint32_t bytes)
{
    uint32_t hash = bytes ^ (kind + 1u) * 0x9e3779b9u;
    hash ^= hash >> 16;
    hash *= 0x85ebca6bu;
    hash ^= hash >> 13;
    hash *= 0xc2b2ae35u;
    return hash ^ hash >> 16;
}

EMBED_INLINE uint32_t embed_place(uint32_t hash)
{
    return hash & (EMBED_PLACES - 1);
}

EMBED_INLINE int32_t embed_sign(uint32_t hash)
{
    return hash & 0x80000000u ? -1 : 1;
}

/* floor(sqrt(value)), bit by bit. */
EMBED_INLINE uint64_t embed_root(uint64_t value)
{
    uint64_t root = 0;
    uint64_t bit = (uint64_t)1 << 62;
    while (bit > value)
        bit >>= 2;
    for (; bit != 0; bit >>= 2) {
        if (value >= root + bit) {
            value -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return root;
}

EMBED_INLINE int32_t embed_clamp_sum(int32_t sum)
{
    return sum > EMBED_SUM_MAX ? EMBED_SUM_MAX : sum < -EMBED_SUM_MAX ? -EMBED_SUM_MAX : sum;
}

/* The root to divide by, with as many fractional bits as fit: sets *shift. 0 for a vector of zeros. */
EMBED_INLINE uint64_t embed_norm(uint64_t squares, uint32_t *shift)
{
    *shift = squares < ((uint64_t)1 << 46) ? 8 : 0;
    return embed_root(squares << (2 * *shift));
}

EMBED_INLINE int8_t embed_scale(int32_t sum, uint64_t norm, uint32_t shift)
{
    if (norm == 0)
        return 0;
    const uint64_t magnitude = (uint64_t)(sum < 0 ? -(int64_t)sum : (int64_t)sum);
    uint64_t scaled = (((magnitude * EMBED_LENGTH) << shift) + norm / 2) / norm;
    if (scaled > 127)
        scaled = 127;
    return (int8_t)(sum < 0 ? -(int32_t)scaled : (int32_t)scaled);
}

#endif
