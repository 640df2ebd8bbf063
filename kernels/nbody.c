/* Gravity among bodies on a CPU: 32 or 16 bodies in registers meet all others one by one. The vectors do per lane what
 * nbody_core.h says, operation by operation. */
#include "kernels/nbody_core.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

#define GROUP_MAX 32

/* For the test that all variants agree. */
kernel_function nbody_run_portable;

/* All bodies, a field after the other, so that a group's lanes lie side by side; kept with the input. */
struct bodies {
    uint64_t count;
    float *x, *y, *z, *mass;
    float memory[];
};

/* Sums what `height` bodies from `from` on pull at the group's bodies. */
typedef void tile_function(const struct bodies *bodies, uint64_t group, uint64_t from, uint64_t height,
                           float softening2, float *x, float *y, float *z);

static struct bodies *lay_out(const struct kernel_input *input)
{
    const uint64_t count = input->type.shape[0], room = count + GROUP_MAX;
    struct bodies *bodies = calloc(1, sizeof *bodies + 4 * room * sizeof(float));
    if (!bodies)
        return NULL;
    bodies->count = count;
    bodies->x = bodies->memory;
    bodies->y = bodies->x + room;
    bodies->z = bodies->y + room;
    bodies->mass = bodies->z + room;
    const float *row = input->data;
    for (uint64_t i = 0; i < count; i++, row += NBODY_FIELDS) {
        bodies->x[i] = row[0];
        bodies->y[i] = row[1];
        bodies->z[i] = row[2];
        bodies->mass[i] = row[6];
    }
    return bodies;
}

#define PORTABLE_GROUP 1
static void tile_portable(const struct bodies *bodies, uint64_t group, uint64_t from, uint64_t height,
                          float softening2, float *x, float *y, float *z)
{
    struct nbody_pull sum = {0, 0, 0};
    for (uint64_t j = from; j < from + height; j++)
        nbody_add(&sum, bodies->x[group], bodies->y[group], bodies->z[group], bodies->x[j], bodies->y[j],
                  bodies->z[j], bodies->mass[j], softening2);
    *x = sum.x;
    *y = sum.y;
    *z = sum.z;
}

/* The same body of code for both widths: V is a vector, N vectors make a group. */
#define TILE(V, N, SET, LOAD, STORE, SUB, MUL, FMA, FNMA, RSQRT)                                             \
    V at_x[N], at_y[N], at_z[N], sum_x[N], sum_y[N], sum_z[N];                                               \
    const uint64_t lanes = sizeof(V) / sizeof(float);                                                        \
    const V soft = SET(softening2), half = SET(0.5f);                                                        \
    for (unsigned n = 0; n < N; n++) {                                                                       \
        at_x[n] = LOAD(bodies->x + group + n * lanes);                                                       \
        at_y[n] = LOAD(bodies->y + group + n * lanes);                                                       \
        at_z[n] = LOAD(bodies->z + group + n * lanes);                                                       \
        sum_x[n] = sum_y[n] = sum_z[n] = SET(0.0f);                                                          \
    }                                                                                                        \
    for (uint64_t j = from; j < from + height; j++) {                                                        \
        const V from_x = SET(bodies->x[j]), from_y = SET(bodies->y[j]), from_z = SET(bodies->z[j]);          \
        const V mass = SET(bodies->mass[j]);                                                                 \
        _Pragma("GCC unroll 4") for (unsigned n = 0; n < N; n++)                                             \
        {                                                                                                    \
            const V dx = SUB(from_x, at_x[n]), dy = SUB(from_y, at_y[n]), dz = SUB(from_z, at_z[n]);         \
            const V square = FMA(dz, dz, FMA(dy, dy, FMA(dx, dx, soft)));                                    \
            const V minus = MUL(half, square);                                                               \
            V r = RSQRT(square);                                                                             \
            r = FMA(r, FNMA(MUL(minus, r), r, half), r);                                                     \
            r = FMA(r, FNMA(MUL(minus, r), r, half), r);                                                     \
            r = FMA(r, FNMA(MUL(minus, r), r, half), r);                                                     \
            const V pull = MUL(MUL(mass, r), MUL(r, r));                                                     \
            sum_x[n] = FMA(pull, dx, sum_x[n]);                                                              \
            sum_y[n] = FMA(pull, dy, sum_y[n]);                                                              \
            sum_z[n] = FMA(pull, dz, sum_z[n]);                                                              \
        }                                                                                                    \
    }                                                                                                        \
    for (unsigned n = 0; n < N; n++) {                                                                       \
        STORE(x + n * lanes, sum_x[n]);                                                                      \
        STORE(y + n * lanes, sum_y[n]);                                                                      \
        STORE(z + n * lanes, sum_z[n]);                                                                      \
    }

#if defined(__x86_64__)
#define FIRST_GUESS_512(v)                                                                                   \
    _mm512_castsi512_ps(                                                                                     \
        _mm512_sub_epi32(_mm512_set1_epi32(0x5f375a86), _mm512_srli_epi32(_mm512_castps_si512(v), 1)))
#define FIRST_GUESS_256(v)                                                                                   \
    _mm256_castsi256_ps(                                                                                     \
        _mm256_sub_epi32(_mm256_set1_epi32(0x5f375a86), _mm256_srli_epi32(_mm256_castps_si256(v), 1)))

__attribute__((target("avx512f"))) static void tile_avx512(const struct bodies *bodies, uint64_t group,
                                                           uint64_t from, uint64_t height, float softening2,
                                                           float *x, float *y, float *z)
{
    TILE(__m512, 2, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_sub_ps, _mm512_mul_ps,
         _mm512_fmadd_ps, _mm512_fnmadd_ps, FIRST_GUESS_512)
}

__attribute__((target("avx2,fma"))) static void tile_avx2(const struct bodies *bodies, uint64_t group,
                                                          uint64_t from, uint64_t height, float softening2,
                                                          float *x, float *y, float *z)
{
    TILE(__m256, 2, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm256_mul_ps,
         _mm256_fmadd_ps, _mm256_fnmadd_ps, FIRST_GUESS_256)
}
#endif

static tile_function *tile_best(uint64_t *group)
{
#if defined(__x86_64__)
    *group = 32;
    if (__builtin_cpu_supports("avx512f"))
        return tile_avx512;
    *group = 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return tile_avx2;
#endif
    *group = PORTABLE_GROUP;
    return tile_portable;
}

static enum kernel_error run_with(struct kernel_call *call, tile_function *tile, uint64_t group)
{
    const struct kernel_input *input = &call->inputs[0];
    const float *rows = input->data;
    float *moved = call->outputs[0].data;
    const float dt = (float)manifest_param_real(call->params, NBODY_DT);
    const float softening = (float)manifest_param_real(call->params, NBODY_SOFTENING);
    if (call->first_item + call->items > input->type.shape[0])
        return kernel_fail(call, KERNEL_REJECTED, "nbody: items to %llu of %llu bodies",
                           (unsigned long long)(call->first_item + call->items),
                           (unsigned long long)input->type.shape[0]);
    struct bodies *bodies = input->keep ? input->keep->memory : NULL;
    const bool kept = bodies != NULL;
    if (!bodies)
        bodies = lay_out(input);
    if (!bodies)
        return kernel_fail(call, KERNEL_FAILED, "nbody: out of memory");
    enum kernel_error result = KERNEL_OK;
    uint64_t since_pulse = 0;
    for (uint64_t item = 0; item < call->items && !result; item += group) {
        float total[3][GROUP_MAX] = {0}, part[3][GROUP_MAX];
        for (uint64_t from = 0; from < bodies->count; from += NBODY_TILE) {
            const uint64_t left = bodies->count - from;
            tile(bodies, call->first_item + item, from, left < NBODY_TILE ? left : NBODY_TILE,
                 softening * softening, part[0], part[1], part[2]);
            for (uint64_t lane = 0; lane < group; lane++) {
                total[0][lane] += part[0][lane];
                total[1][lane] += part[1][lane];
                total[2][lane] += part[2][lane];
            }
            if (++since_pulse == 4096) { /* some 10 ms */
                since_pulse = 0;
                if (kernel_pulse(call)) {
                    result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
                    break;
                }
            }
        }
        for (uint64_t lane = 0; lane < group && item + lane < call->items; lane++)
            nbody_move(rows + (call->first_item + item + lane) * NBODY_FIELDS,
                       (struct nbody_pull){total[0][lane], total[1][lane], total[2][lane]}, dt,
                       moved + (item + lane) * NBODY_FIELDS);
    }
    if (input->keep && !kept) {
        input->keep->memory = bodies;
        input->keep->release = free;
    } else if (!kept) {
        free(bodies);
    }
    return result;
}

enum kernel_error nbody_run(struct kernel_call *call)
{
    uint64_t group;
    tile_function *const tile = tile_best(&group);
    return run_with(call, tile, group);
}

enum kernel_error nbody_run_portable(struct kernel_call *call)
{
    return run_with(call, tile_portable, PORTABLE_GROUP);
}

bool nbody_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct kernel_call *call = &work->calls[0];
    const float softening = (float)manifest_param_real(call->params, NBODY_SOFTENING);
    float dt = (float)manifest_param_real(call->params, NBODY_DT), softening2 = softening * softening;
    uint64_t all = call->inputs[0].type.shape[0], from = work->first_item + first;
    if (from + count > all)
        return gpu_refuse(work, KERNEL_REJECTED, "items to %llu of %llu bodies",
                          (unsigned long long)(from + count), (unsigned long long)all);
    uint64_t bodies = gpu_broadcast(work, 0), moved = work->outputs[0] + first * NBODY_FIELDS * 4;
    return bodies && gpu_launch(work, "nbody", "nbody_step",
                                (struct gpu_grid){.x = (uint32_t)((count + NBODY_TILE - 1) / NBODY_TILE),
                                                  .threads = NBODY_TILE},
                                (void *[]){&bodies, &all, &from, &count, &dt, &softening2, &moved});
}
