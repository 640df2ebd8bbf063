// One step of heat spreading over a plate whose border stays as it is. Every shard sees the whole plate and computes
// some of its rows, a block per row; the row and its neighbours pass through shared memory.
#include "weir_kernel.h"

extern "C" __global__ void stencil(weir_items items, const float *plate, float *next, double rate, uint64_t h,
                                   uint64_t w)
{
    __shared__ float row[130];
    const uint64_t y = items.first + blockIdx.x;
    for (uint64_t from = 0; from < w; from += 128) {
        const uint64_t x = from + threadIdx.x;
        if (x < w)
            row[threadIdx.x + 1] = plate[y * w + x];
        if (threadIdx.x == 0 && from > 0)
            row[0] = plate[y * w + from - 1];
        if (threadIdx.x == 127 && x + 1 < w)
            row[129] = plate[y * w + x + 1];
        __syncthreads();
        if (x < w) {
            const float here = row[threadIdx.x + 1];
            float out = here;
            if (y > 0 && y + 1 < h && x > 0 && x + 1 < w) {
                const float around = (row[threadIdx.x] + row[threadIdx.x + 2]) +
                                     (plate[(y - 1) * w + x] + plate[(y + 1) * w + x]);
                out = fmaf((float)rate, around - 4.0f * here, here);
            }
            next[(y - items.first) * w + x] = out;
        }
        __syncthreads();
    }
}
