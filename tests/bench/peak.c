/* What one core can do at most, and what OpenBLAS gets: prints one JSON line, to hold the kernels' rates against, measured in
 * the same minute on the same core, by processor time.
 *
 *   int8_gmac   multiply-adds of int8 by the widest instruction that kernels/dot8.c has on this CPU, in registers
 *   fp32_gflop  fused multiply-adds of float32, each counted as two, in registers
 *   sgemm_gflop OpenBLAS, one thread, 2,048 cubed */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SUMS 24 /* as many as there are registers for, so that no instruction waits for another */
#define ROUNDS 4000000
#define SIDE 2048

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#if defined(__x86_64__)
/* The sums stay in registers, and the compiler may see neither that nobody wants them nor that what is multiplied stays the
 * same: else it multiplies once, before the loop. */
#define LOOP(V, COUNT, ZERO, STEP)                                                                           \
    V sums[COUNT];                                                                                           \
    _Pragma("GCC unroll 24") for (int i = 0; i < COUNT; i++) sums[i] = ZERO;                                 \
    for (int round = 0; round < ROUNDS; round++)                                                             \
        _Pragma("GCC unroll 24") for (int i = 0; i < COUNT; i++)                                             \
        {                                                                                                    \
            STEP;                                                                                            \
            __asm__ volatile("" : "+v"(sums[i]), "+v"(a));                                                   \
        }

__attribute__((target("avx512f,avx512vnni"))) static double int8_vnni(void)
{
    __m512i a = _mm512_set1_epi8(3);
    const __m512i b = _mm512_set1_epi8(5);
    LOOP(__m512i, SUMS, _mm512_setzero_si512(), sums[i] = _mm512_dpbusd_epi32(sums[i], a, b))
    return (double)ROUNDS * SUMS * 64;
}

/* Of 16-bit operands, as 8-bit ones can't be multiplied exactly at this rate: vpmaddubsw adds two products of an unsigned and
 * a signed byte in 16 bits, which saturate unless one of the two has 7 bits, and to make it so for any int8 takes an
 * instruction (a sign, moved to the other) in place of the one that it saves. */
__attribute__((target("avx2"))) static double int8_avx2(void)
{
    __m256i a = _mm256_set1_epi16(3);
    const __m256i b = _mm256_set1_epi16(5);
    LOOP(__m256i, 12, _mm256_setzero_si256(), sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(a, b)))
    return (double)ROUNDS * 12 * 16;
}

__attribute__((target("avx512f"))) static double fp32_avx512(void)
{
    __m512 a = _mm512_set1_ps(1.5f);
    const __m512 b = _mm512_set1_ps(0.25f);
    LOOP(__m512, SUMS, _mm512_setzero_ps(), sums[i] = _mm512_fmadd_ps(a, b, sums[i]))
    return (double)ROUNDS * SUMS * 32;
}

__attribute__((target("avx2,fma"))) static double fp32_avx2(void)
{
    __m256 a = _mm256_set1_ps(1.5f);
    const __m256 b = _mm256_set1_ps(0.25f);
    LOOP(__m256, 12, _mm256_setzero_ps(), sums[i] = _mm256_fmadd_ps(a, b, sums[i]))
    return (double)ROUNDS * 12 * 16;
}
#endif

static double rate(double (*loop)(void))
{
    if (!loop)
        return 0;
    const double begin = now_s(), done = loop();
    return done / (now_s() - begin) * 1e-9;
}

static double sgemm_rate(void)
{
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW);
    void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *,
                  int) = NULL;
    if (library)
        *(void **)&sgemm = dlsym(library, "cblas_sgemm");
    float *a = malloc(sizeof(float) * SIDE * SIDE), *b = malloc(sizeof(float) * SIDE * SIDE),
          *c = malloc(sizeof(float) * SIDE * SIDE);
    double best = 0;
    for (int i = 0; i < SIDE * SIDE; i++)
        a[i] = b[i] = (float)(i % 97) / 97.0f;
    for (int round = 0; sgemm && round < 2; round++) {
        const double begin = now_s();
        sgemm(101, 111, 111, SIDE, SIDE, SIDE, 1, a, SIDE, b, SIDE, 0, c, SIDE);
        const double got = 2.0 * SIDE * SIDE * SIDE / (now_s() - begin) * 1e-9;
        best = got > best ? got : best;
    }
    free(a), free(b), free(c);
    return best;
}

int main(void)
{
    double (*int8)(void) = NULL, (*fp32)(void) = NULL;
#if defined(__x86_64__)
    int8 = __builtin_cpu_supports("avx512vnni") ? int8_vnni
           : __builtin_cpu_supports("avx2")     ? int8_avx2
                                                : NULL;
    fp32 = __builtin_cpu_supports("avx512f") ? fp32_avx512 : __builtin_cpu_supports("fma") ? fp32_avx2 : NULL;
#endif
    printf("{\"int8_gmac\": %.2f, \"fp32_gflop\": %.2f, \"sgemm_gflop\": %.2f}\n", rate(int8), rate(fp32),
           sgemm_rate());
    return 0;
}
