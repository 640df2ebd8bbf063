/* Option pricing on a CPU. The same body is compiled for AVX-512, AVX2 and the baseline; since every lane
 * does the same IEEE operations in the same order, all give the same bits. */
#include "kernels/montecarlo_core.h"

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

#define W MONTECARLO_WIDTH
#define INLINE static inline __attribute__((always_inline))

/* For the test that all variants agree. */
kernel_function montecarlo_run_portable;

_Static_assert(MONTECARLO_WIDTH == MONTECARLO_LANES, "the manifest and the code differ");

struct sums {
    double sum[W], squares[W];
};

struct key {
    uint32_t low, high;
};

/* Adds `blocks` blocks of 256 paths to the lanes. `steps` is 0 for a European option. */
typedef void blocks_function(const struct montecarlo_option *option, struct key key, uint64_t first,
                             uint64_t blocks, uint64_t steps, struct sums *sums);

INLINE void add_payoffs(const struct montecarlo_option *option, const double *prices, struct sums *sums)
{
    for (unsigned lane = 0; lane < W; lane++) {
        const double payoff = montecarlo_payoff(option, prices[lane]);
        sums->sum[lane] += payoff;
        sums->squares[lane] += payoff * payoff;
    }
}

INLINE void european_blocks(const struct montecarlo_option *option, struct key key, uint64_t first,
                            uint64_t blocks, struct sums *sums)
{
    for (uint64_t block = first; block < first + blocks; block++) {
        uint32_t words[4][MONTECARLO_COUNTERS];
        double normals[W];
        for (uint32_t j = 0; j < MONTECARLO_COUNTERS; j++) {
            const uint64_t counter = block * MONTECARLO_COUNTERS + j;
            uint32_t four[4];
            weir_philox((uint32_t)counter, (uint32_t)(counter >> 32), 0, 0, key.low, key.high, four);
            words[0][j] = four[0];
            words[1][j] = four[1];
            words[2][j] = four[2];
            words[3][j] = four[3];
        }
        for (uint32_t j = 0; j < MONTECARLO_COUNTERS; j++)
            weir_normals(words[0][j], words[1][j], &normals[j], &normals[64 + j]);
        for (uint32_t j = 0; j < MONTECARLO_COUNTERS; j++)
            weir_normals(words[2][j], words[3][j], &normals[128 + j], &normals[192 + j]);
        for (unsigned lane = 0; lane < W; lane++)
            normals[lane] = option->spot * montecarlo_growth(option->drift + option->spread * normals[lane]);
        add_payoffs(option, normals, sums);
    }
}

INLINE void asian_blocks(const struct montecarlo_option *option, struct key key, uint64_t first,
                         uint64_t blocks, uint64_t steps, struct sums *sums)
{
    for (uint64_t block = first; block < first + blocks; block++) {
        double logarithms[W], totals[W];
        uint32_t low[W], high[W], words[4][W];
        for (unsigned lane = 0; lane < W; lane++) {
            const uint64_t path = block * W + lane;
            low[lane] = (uint32_t)path;
            high[lane] = (uint32_t)(path >> 32);
            logarithms[lane] = totals[lane] = 0.0;
        }
        for (uint64_t step = 0; step < steps; step += 4) {
            double normals[4][W];
            for (unsigned lane = 0; lane < W; lane++) {
                uint32_t four[4];
                weir_philox(low[lane], high[lane], (uint32_t)(step / 4), 1, key.low, key.high, four);
                words[0][lane] = four[0];
                words[1][lane] = four[1];
                words[2][lane] = four[2];
                words[3][lane] = four[3];
            }
            for (unsigned lane = 0; lane < W; lane++)
                weir_normals(words[0][lane], words[1][lane], &normals[0][lane], &normals[1][lane]);
            for (unsigned lane = 0; lane < W; lane++)
                weir_normals(words[2][lane], words[3][lane], &normals[2][lane], &normals[3][lane]);
            for (uint64_t part = 0; part < 4 && step + part < steps; part++)
                for (unsigned lane = 0; lane < W; lane++) {
                    logarithms[lane] += option->drift + option->spread * normals[part][lane];
                    totals[lane] += option->spot * montecarlo_growth(logarithms[lane]);
                }
        }
        for (unsigned lane = 0; lane < W; lane++)
            totals[lane] = totals[lane] / (double)steps;
        add_payoffs(option, totals, sums);
    }
}

INLINE void blocks_body(const struct montecarlo_option *option, struct key key, uint64_t first,
                        uint64_t blocks, uint64_t steps, struct sums *sums)
{
    if (steps == 0)
        european_blocks(option, key, first, blocks, sums);
    else
        asian_blocks(option, key, first, blocks, steps, sums);
}

static void blocks_portable(const struct montecarlo_option *option, struct key key, uint64_t first,
                            uint64_t blocks, uint64_t steps, struct sums *sums)
{
    blocks_body(option, key, first, blocks, steps, sums);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void blocks_avx2(const struct montecarlo_option *option,
                                                        struct key key, uint64_t first, uint64_t blocks,
                                                        uint64_t steps, struct sums *sums)
{
    blocks_body(option, key, first, blocks, steps, sums);
}

#if defined(__clang__)
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl")))
#else
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
AVX512 static void blocks_avx512(const struct montecarlo_option *option, struct key key, uint64_t first,
                                 uint64_t blocks, uint64_t steps, struct sums *sums)
{
    blocks_body(option, key, first, blocks, steps, sums);
}
#endif

static blocks_function *blocks_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return blocks_avx512;
    if (__builtin_cpu_supports("avx2"))
        return blocks_avx2;
#endif
    return blocks_portable;
}

static double fold_lanes(double *lanes)
{
    for (unsigned half = W / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

/* Pairs of neighbours, then pairs of pairs, as partial sums of shards are added too: shards of any power of
 * two give the same total. */
static double sum_of(const double *values, uint64_t count)
{
    if (count == 1)
        return values[0];
    uint64_t left = 1;
    while (2 * left < count)
        left *= 2;
    return sum_of(values, left) + sum_of(values + left, count - left);
}

static void value_book(struct kernel_call *call)
{
    if (call->output_count <= MONTECARLO_TOTAL)
        return;
    const double *errors = call->outputs[MONTECARLO_ERROR].data;
    double *worst = call->outputs[MONTECARLO_WORST].data, *total = call->outputs[MONTECARLO_TOTAL].data;
    *total = sum_of(call->outputs[MONTECARLO_PRICE].data, call->items);
    *worst = errors[0];
    for (uint64_t item = 1; item < call->items; item++)
        *worst = errors[item] > *worst ? errors[item] : *worst;
}

static enum kernel_error run_with(struct kernel_call *call, blocks_function *add_blocks)
{
    const double *rows = call->inputs[0].data;
    double *prices = call->outputs[MONTECARLO_PRICE].data, *errors = call->outputs[MONTECARLO_ERROR].data;
    const uint64_t paths = (uint64_t)manifest_param_integer(call->params, MONTECARLO_PATHS);
    const bool asian = manifest_param_integer(call->params, MONTECARLO_STYLE) != 0;
    const uint64_t steps = asian ? (uint64_t)manifest_param_integer(call->params, MONTECARLO_STEPS) : 1;
    const int put = manifest_param_integer(call->params, MONTECARLO_SIDE) != 0;
    const uint64_t seed = (uint64_t)manifest_param_integer(call->params, MONTECARLO_SEED);
    const struct key key = {.low = (uint32_t)seed, .high = (uint32_t)(seed >> 32)};
    const uint64_t blocks = paths / W, blocks_at_once = 1 + 4096 / steps;
    for (uint64_t item = 0; item < call->items; item++) {
        const double *row = rows + item * OPTION_COLUMNS;
        const struct montecarlo_option option =
            montecarlo_prepare(row[OPTION_SPOT], row[OPTION_STRIKE], row[OPTION_RATE], row[OPTION_VOLATILITY],
                               row[OPTION_MATURITY], (double)steps, put);
        struct sums sums = {0};
        for (uint64_t block = 0; block < blocks; block += blocks_at_once) {
            add_blocks(&option, key, block, blocks - block < blocks_at_once ? blocks - block : blocks_at_once,
                       asian ? steps : 0, &sums);
            if (kernel_pulse(call))
                return kernel_fail(call, KERNEL_CANCELLED, "cancelled");
        }
        montecarlo_finish(&option, fold_lanes(sums.sum), fold_lanes(sums.squares), (double)paths,
                          &prices[item], &errors[item]);
    }
    value_book(call);
    return KERNEL_OK;
}

enum kernel_error montecarlo_run(struct kernel_call *call)
{
    return run_with(call, blocks_best());
}

enum kernel_error montecarlo_run_portable(struct kernel_call *call)
{
    return run_with(call, blocks_portable);
}

bool montecarlo_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct manifest_params *params = work->calls[0].params;
    int asian = manifest_param_integer(params, MONTECARLO_STYLE) != 0;
    int put = manifest_param_integer(params, MONTECARLO_SIDE) != 0;
    uint64_t paths = (uint64_t)manifest_param_integer(params, MONTECARLO_PATHS);
    uint64_t steps = (uint64_t)manifest_param_integer(params, MONTECARLO_STEPS);
    uint64_t seed = (uint64_t)manifest_param_integer(params, MONTECARLO_SEED);
    uint64_t rows = work->inputs[0] + 8 * OPTION_COLUMNS * first;
    uint64_t prices = work->outputs[MONTECARLO_PRICE] + 8 * first;
    uint64_t errors = work->outputs[MONTECARLO_ERROR] + 8 * first;
    return gpu_launch(work, "montecarlo", "montecarlo_price",
                      (struct gpu_grid){.x = (uint32_t)count, .threads = W},
                      (void *[]){&rows, &asian, &put, &paths, &steps, &seed, &prices, &errors});
}

void montecarlo_finish_gpu(struct kernel_call *call)
{
    value_book(call);
}
