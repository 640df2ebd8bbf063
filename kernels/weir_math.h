/* Elementary functions and random numbers that give the same bits on every CPU and GPU.
 *
 * Only IEEE additions, multiplications, divisions, square roots and integer operations, in one fixed order;
 * the build forbids contraction to fused multiply-adds (-ffp-contract=off, --fmad=false). Everything is
 * branch-free so that compilers vectorise it. Arguments outside the stated ranges give numbers without
 * meaning, never a trap. */
#ifndef KERNELS_WEIR_MATH_H
#define KERNELS_WEIR_MATH_H

#ifndef KERNELS_WEIR_KERNEL_H /* which is compiled where there are no such headers, and has what is needed */
#include <math.h>
#include <stdint.h>
#include <string.h>
#endif

#ifdef __CUDACC__
#define WEIR_INLINE static __device__ __forceinline__
#else
#define WEIR_INLINE static inline __attribute__((always_inline))
#endif

WEIR_INLINE uint64_t weir_bits(double value)
{
#ifdef __CUDA_ARCH__
    return (uint64_t)__double_as_longlong(value);
#else
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

WEIR_INLINE double weir_double(uint64_t bits)
{
#ifdef __CUDA_ARCH__
    return __longlong_as_double((long long)bits);
#else
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

WEIR_INLINE double weir_sqrt(double value)
{
#ifdef __CUDA_ARCH__
    return __dsqrt_rn(value);
#else
    return __builtin_sqrt(value);
#endif
}

/* The double nearest an unsigned 32-bit integer, without a conversion instruction: 2^52 + value, less 2^52.
 */
WEIR_INLINE double weir_from_u32(uint32_t value)
{
    return weir_double(0x4330000000000000u | value) - 4503599627370496.0;
}

/* exp(x) for |x| <= 700: x = n ln 2 + r, |r| <= 0.35, Taylor series of degree 13 (remainder below 2^-56). */
WEIR_INLINE double weir_exp(double x)
{
    const double magic = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer in the low bits */
    const double shifted = x * 1.4426950408889634 + magic;
    const double n = shifted - magic;
    /* ln 2 in two parts; the first has 21 trailing zero bits, so that n times it is exact. */
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double sum = 1.6059043836821613e-10; /* 1/13! */
    sum = sum * r + 2.0876756987868099e-09;
    sum = sum * r + 2.5052108385441720e-08;
    sum = sum * r + 2.7557319223985893e-07;
    sum = sum * r + 2.7557319223985888e-06;
    sum = sum * r + 2.4801587301587302e-05;
    sum = sum * r + 1.9841269841269841e-04;
    sum = sum * r + 1.3888888888888889e-03;
    sum = sum * r + 8.3333333333333332e-03;
    sum = sum * r + 4.1666666666666664e-02;
    sum = sum * r + 1.6666666666666666e-01;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    /* The low bits of `shifted` hold n; adding it to the exponent multiplies by 2^n. */
    return weir_double(weir_bits(sum) + (weir_bits(shifted) << 52));
}

/* log(x) for normal x > 0: x = m 2^n with m in [sqrt(1/2), sqrt(2)), then 2 atanh((m - 1) / (m + 1)). */
WEIR_INLINE double weir_log(double x)
{
    const uint64_t bits = weir_bits(x) - 0x3fe6a09e667f3bcdu; /* the bits of sqrt(1/2) */
    /* n as a double, through 2^52 + (n + 2048), which needs no signed conversion. */
    const uint64_t biased = (bits + 0x8000000000000000u) >> 52;
    const double n = weir_double(0x4330000000000000u | biased) - (4503599627370496.0 + 2048.0);
    const double m = weir_double((bits & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double sum = 1.0 / 21.0;
    sum = sum * z + 1.0 / 19.0;
    sum = sum * z + 1.0 / 17.0;
    sum = sum * z + 1.0 / 15.0;
    sum = sum * z + 1.0 / 13.0;
    sum = sum * z + 1.0 / 11.0;
    sum = sum * z + 1.0 / 9.0;
    sum = sum * z + 1.0 / 7.0;
    sum = sum * z + 1.0 / 5.0;
    sum = sum * z + 1.0 / 3.0;
    sum = sum * z;
    return n * 6.93147180369123816490e-01 + (2.0 * s + (2.0 * s * sum + n * 1.90821492927058770002e-10));
}

/* Sine and cosine of r, |r| <= pi/4, and `quarter` quarter turns: Taylor series. */
WEIR_INLINE void weir_sincos_quarters(double r, uint64_t quarter, double *sine, double *cosine)
{
    const double z = r * r;
    double s = -7.6471637318198165e-13; /* -1/15! */
    s = s * z + 1.6059043836821613e-10;
    s = s * z - 2.5052108385441720e-08;
    s = s * z + 2.7557319223985888e-06;
    s = s * z - 1.9841269841269841e-04;
    s = s * z + 8.3333333333333332e-03;
    s = s * z - 1.6666666666666666e-01;
    s = s * z * r + r;
    double c = 4.7794773323873853e-14; /* 1/16! */
    c = c * z - 1.1470745597729725e-11;
    c = c * z + 2.0876756987868099e-09;
    c = c * z - 2.7557319223985893e-07;
    c = c * z + 2.4801587301587302e-05;
    c = c * z - 1.3888888888888889e-03;
    c = c * z + 4.1666666666666664e-02;
    c = c * z - 0.5;
    c = c * z + 1.0;
    /* Odd quarters swap the two; signs follow the quarter. By masks, so that nothing branches. */
    const uint64_t swap = (uint64_t)0 - (quarter & 1);
    const uint64_t sine_bits = (weir_bits(s) & ~swap) | (weir_bits(c) & swap);
    const uint64_t cosine_bits = (weir_bits(c) & ~swap) | (weir_bits(s) & swap);
    *sine = weir_double(sine_bits ^ ((quarter & 2) << 62));
    *cosine = weir_double(cosine_bits ^ (((quarter + 1) & 2) << 62));
}

/* cos(2 pi u) and sin(2 pi u) for u in [0, 1]. */
WEIR_INLINE void weir_sincos_turns(double u, double *sine, double *cosine)
{
    const double magic = 6755399441055744.0;
    const double shifted = u * 4.0 + magic;
    weir_sincos_quarters((u * 4.0 - (shifted - magic)) * 1.5707963267948966, weir_bits(shifted), sine,
                         cosine);
}

/* cos(x) and sin(x) for |x| <= 1e6. pi/2 is taken off in three parts; the first two have 33 bits, so that n times
 * them is exact. */
WEIR_INLINE void weir_sincos(double x, double *sine, double *cosine)
{
    const double magic = 6755399441055744.0;
    const double shifted = x * 0.63661977236758138 + magic;
    const double n = shifted - magic;
    const double r =
        ((x - n * 1.57079632673412561417) - n * 6.07710050630396597660e-11) - n * 2.02226624879595063154e-21;
    weir_sincos_quarters(r, weir_bits(shifted), sine, cosine);
}

WEIR_INLINE double weir_sin(double x)
{
    double sine, cosine;
    weir_sincos(x, &sine, &cosine);
    return sine;
}

WEIR_INLINE double weir_cos(double x)
{
    double sine, cosine;
    weir_sincos(x, &sine, &cosine);
    return cosine;
}

/* 1 / sqrt(x), rounded twice. */
WEIR_INLINE double weir_rsqrt(double x)
{
    return 1.0 / weir_sqrt(x);
}

/* The same for float32, by way of float64: as exact, and slow where float64 is. */
WEIR_INLINE float weir_expf(float x)
{
    return (float)weir_exp((double)x);
}

WEIR_INLINE float weir_logf(float x)
{
    return (float)weir_log((double)x);
}

WEIR_INLINE float weir_sinf(float x)
{
    return (float)weir_sin((double)x);
}

WEIR_INLINE float weir_cosf(float x)
{
    return (float)weir_cos((double)x);
}

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011). */
WEIR_INLINE void weir_philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1,
                             uint32_t out[4])
{
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Two standard normals from two words (Box and Muller); the first word is moved off zero by half a step. */
WEIR_INLINE void weir_normals(uint32_t a, uint32_t b, double *first, double *second)
{
    const double radius = weir_sqrt(-2.0 * weir_log((weir_from_u32(a) + 0.5) * 2.3283064365386963e-10));
    double sine, cosine;
    weir_sincos_turns(weir_from_u32(b) * 2.3283064365386963e-10, &sine, &cosine);
    *first = radius * cosine;
    *second = radius * sine;
}

/* The same in float32, where a GPU is fastest. Fused multiply-adds are written out where they are wanted: one
 * rounding is as fixed as two. */

WEIR_INLINE uint32_t weir_bitsf(float value)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

WEIR_INLINE float weir_floatf(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

WEIR_INLINE float weir_sqrtf(float value)
{
#ifdef __CUDA_ARCH__
    return __fsqrt_rn(value);
#else
    return __builtin_sqrtf(value);
#endif
}

/* a b + c, rounded once. */
WEIR_INLINE float weir_fmaf(float a, float b, float c)
{
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

/* 1 / sqrt(x) for x from 1e-30 to 1e30, within two units in the last place: the halved and negated exponent is
 * 3.5 % off at most, and each of three steps of Newton's squares that. */
WEIR_INLINE float weir_rsqrtf(float x)
{
    const float half = 0.5f * x;
    float y = weir_floatf(0x5f375a86u - (weir_bitsf(x) >> 1));
    y = weir_fmaf(y, weir_fmaf(-half * y, y, 0.5f), y);
    y = weir_fmaf(y, weir_fmaf(-half * y, y, 0.5f), y);
    return weir_fmaf(y, weir_fmaf(-half * y, y, 0.5f), y);
}

/* The float nearest to value / 2^32, below 1: the upper 24 bits. */
WEIR_INLINE float weir_unitf(uint32_t value)
{
    return (float)(int32_t)(value >> 8) * 5.9604644775390625e-08f;
}

/* cos(2 pi u) and sin(2 pi u) for u in [0, 1], within 1e-7. */
WEIR_INLINE void weir_sincos_turnsf(float u, float *sine, float *cosine)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    const float shifted = u * 4.0f + magic;
    const uint32_t quarter = weir_bitsf(shifted);
    const float r = (u * 4.0f - (shifted - magic)) * 1.57079633f, z = r * r;
    float s = 2.75573192e-06f;
    s = s * z - 1.98412698e-04f;
    s = s * z + 8.33333333e-03f;
    s = s * z - 1.66666667e-01f;
    s = s * z * r + r;
    float c = 2.48015873e-05f;
    c = c * z - 1.38888889e-03f;
    c = c * z + 4.16666667e-02f;
    c = c * z - 0.5f;
    c = c * z + 1.0f;
    const uint32_t swap = 0u - (quarter & 1u);
    const uint32_t sine_bits = (weir_bitsf(s) & ~swap) | (weir_bitsf(c) & swap);
    const uint32_t cosine_bits = (weir_bitsf(c) & ~swap) | (weir_bitsf(s) & swap);
    *sine = weir_floatf(sine_bits ^ ((quarter & 2u) << 30));
    *cosine = weir_floatf(cosine_bits ^ (((quarter + 1u) & 2u) << 30));
}

#endif
