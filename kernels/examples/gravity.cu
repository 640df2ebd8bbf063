// What all bodies pull at each one (n-body): bodies pass through shared memory, a block's worth at a time. Every thread
// adds them in the same order, and 1 / sqrt is a division of a correctly rounded root: the same bits everywhere.
#include "weir_kernel.h"

extern "C" __global__ void gravity(weir_items items, const float *bodies, const float *own, float *pull,
                                   double soft, uint64_t n)
{
    __shared__ float tile[128][4];
    const uint64_t i = weir_item();
    const bool mine = i < items.count;
    const float x = mine ? own[3 * i] : 0, y = mine ? own[3 * i + 1] : 0, z = mine ? own[3 * i + 2] : 0;
    const float softening = (float)soft * (float)soft;
    float ax = 0, ay = 0, az = 0;
    for (uint64_t from = 0; from < n; from += blockDim.x) {
        const uint64_t load = from + threadIdx.x;
        __syncthreads();
        for (int k = 0; k < 4; k++)
            tile[threadIdx.x][k] = load < n ? bodies[4 * load + k] : 0;
        __syncthreads();
        const uint32_t count = (uint32_t)min((uint64_t)blockDim.x, n - from);
        for (uint32_t j = 0; j < count; j++) {
            const float dx = tile[j][0] - x, dy = tile[j][1] - y, dz = tile[j][2] - z;
            const float square = fmaf(dz, dz, fmaf(dy, dy, fmaf(dx, dx, softening)));
            const float inverse = 1.0f / sqrtf(square);
            const float force = tile[j][3] * (inverse * inverse * inverse);
            ax = fmaf(force, dx, ax);
            ay = fmaf(force, dy, ay);
            az = fmaf(force, dz, az);
        }
    }
    if (mine) {
        pull[3 * i] = ax;
        pull[3 * i + 1] = ay;
        pull[3 * i + 2] = az;
    }
}
