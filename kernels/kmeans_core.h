/* One round of k-means in integers, shared by the CPU and the CUDA code.
 *
 * A centre is given as the sum and the count of its points, as the round before gave them, and is their mean rounded to
 * 1/128: c = round(128 sum / count), clamped to what points can have. It is split as c = 128 high + low, high an int8 and
 * low 0 to 127, so that its product with a point is two exact int8 products: p.c = 128 p.high + p.low.
 *
 * |128 p - c|^2 = 16384 |p|^2 + |c|^2 - 256 p.c, all below 2^43; what differs between centres is the *score* |c|^2 - 256 p.c.
 * The least score wins, a tie the lower number. A centre without points takes none. */
#ifndef KERNELS_KMEANS_CORE_H
#define KERNELS_KMEANS_CORE_H

#include <stdint.h>

#ifdef __CUDACC__
#define KMEANS_INLINE static __device__ __forceinline__
#else
#define KMEANS_INLINE static inline
#endif

#define KMEANS_SCORE_NONE (INT64_MAX / 2)

KMEANS_INLINE int32_t kmeans_centre(int64_t sum, int64_t count)
{
    if (count <= 0)
        return 0;
    const int64_t size = sum < 0 ? -sum : sum;
    if (size / 128 > count) /* no mean of int8; and 256 size may not fit */
        return sum < 0 ? -16384 : 16256;
    const int64_t rounded = (256 * size + count) / (2 * count);
    const int32_t centre = (int32_t)(sum < 0 ? -rounded : rounded);
    return centre < -16384 ? -16384 : centre > 16256 ? 16256 : centre;
}

KMEANS_INLINE int8_t kmeans_high(int32_t centre)
{
    return (int8_t)((centre + 16384) / 128 - 128); /* floor(centre / 128) */
}

KMEANS_INLINE int8_t kmeans_low(int32_t centre)
{
    return (int8_t)((centre + 16384) % 128);
}

KMEANS_INLINE int64_t kmeans_score(int64_t square, int32_t high, int32_t low)
{
    return square - 256 * (128 * (int64_t)high + low);
}

/* The squared distance in whole units of the points. */
KMEANS_INLINE int64_t kmeans_distance(int32_t point_square, int64_t score)
{
    return (16384 * (int64_t)point_square + score + 8192) / 16384;
}

#endif
