/* One block of 256 threads per option; a thread is a lane of montecarlo_core.h. Every thread makes its own normals: the
 * work that neighbours repeat is cheaper than sharing it. */
#include "kernels/montecarlo_core.h"

#define COLUMNS 5

__device__ static double european_price(const montecarlo_option &option, uint32_t key_low, uint32_t key_high,
                                        uint64_t block)
{
    const uint64_t counter = block * MONTECARLO_COUNTERS + threadIdx.x % MONTECARLO_COUNTERS;
    const uint32_t component = threadIdx.x / MONTECARLO_COUNTERS;
    uint32_t words[4];
    double first, second;
    weir_philox((uint32_t)counter, (uint32_t)(counter >> 32), 0, 0, key_low, key_high, words);
    if (component < 2)
        weir_normals(words[0], words[1], &first, &second);
    else
        weir_normals(words[2], words[3], &first, &second);
    const double normal = component % 2 == 0 ? first : second;
    return option.spot * montecarlo_growth(option.drift + option.spread * normal);
}

__device__ static double asian_price(const montecarlo_option &option, uint32_t key_low, uint32_t key_high,
                                     uint64_t block, uint64_t steps)
{
    const uint64_t path = block * MONTECARLO_WIDTH + threadIdx.x;
    double logarithm = 0.0, total = 0.0;
    for (uint64_t step = 0; step < steps; step += 4) {
        uint32_t words[4];
        double normals[4];
        weir_philox((uint32_t)path, (uint32_t)(path >> 32), (uint32_t)(step / 4), 1, key_low, key_high,
                    words);
        weir_normals(words[0], words[1], &normals[0], &normals[1]);
        weir_normals(words[2], words[3], &normals[2], &normals[3]);
        for (uint64_t part = 0; part < 4 && step + part < steps; part++) {
            logarithm += option.drift + option.spread * normals[part];
            total += option.spot * montecarlo_growth(logarithm);
        }
    }
    return total / (double)steps;
}

extern "C" __global__ void montecarlo_price(const double *rows, int asian, int put, uint64_t paths,
                                            uint64_t steps, uint64_t seed, double *prices, double *errors)
{
    __shared__ double sums[MONTECARLO_WIDTH], squares[MONTECARLO_WIDTH];
    const double *row = rows + (uint64_t)blockIdx.x * COLUMNS;
    const montecarlo_option option =
        montecarlo_prepare(row[0], row[1], row[2], row[3], row[4], asian ? (double)steps : 1.0, put);
    const uint32_t key_low = (uint32_t)seed, key_high = (uint32_t)(seed >> 32);
    double sum = 0.0, square = 0.0;
    for (uint64_t block = 0; block < paths / MONTECARLO_WIDTH; block++) {
        const double price = asian ? asian_price(option, key_low, key_high, block, steps)
                                   : european_price(option, key_low, key_high, block);
        const double payoff = montecarlo_payoff(&option, price);
        sum += payoff;
        square += payoff * payoff;
    }
    sums[threadIdx.x] = sum;
    squares[threadIdx.x] = square;
    __syncthreads();
    for (uint32_t half = MONTECARLO_WIDTH / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
            squares[threadIdx.x] += squares[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0)
        montecarlo_finish(&option, sums[0], squares[0], (double)paths, &prices[blockIdx.x],
                          &errors[blockIdx.x]);
}
