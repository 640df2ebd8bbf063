// How often each byte occurs. Each block counts in shared memory and adds what it has: integers, so order is no matter.
#include "weir_kernel.h"

extern "C" __global__ void histogram(weir_items items, const uint8_t *bytes, uint32_t *counts)
{
    __shared__ uint32_t own[256];
    own[threadIdx.x] = 0;
    __syncthreads();
    const uint64_t i = weir_item();
    if (i < items.count)
        atomicAdd(&own[bytes[i]], 1);
    __syncthreads();
    if (own[threadIdx.x])
        atomicAdd(&counts[threadIdx.x], own[threadIdx.x]);
}
