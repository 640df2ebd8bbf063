// Sums and the extremes of a column: one block per shard; its threads wait for each other in a tree. The order of
// the additions is fixed, so the sum of floats has the same bits everywhere.
#include "weir_kernel.h"

extern "C" __global__ void reduction(weir_items items, const float *x, double *total, float *lowest,
                                     float *highest)
{
    __shared__ double sums[256];
    __shared__ float lows[256], highs[256];
    const uint32_t thread = threadIdx.x;
    double sum = 0;
    float low = WEIR_INF_F, high = -WEIR_INF_F;
    for (uint64_t i = thread; i < items.count; i += blockDim.x) {
        sum += (double)x[i];
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    sums[thread] = sum;
    lows[thread] = low;
    highs[thread] = high;
    for (uint32_t half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            sums[thread] += sums[thread + half];
            lows[thread] = fminf(lows[thread], lows[thread + half]);
            highs[thread] = fmaxf(highs[thread], highs[thread + half]);
        }
    }
    if (thread == 0) {
        *total = sums[0];
        *lowest = lows[0];
        *highest = highs[0];
    }
}
