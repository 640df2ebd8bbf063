/* One block of 256 threads per line: the threads share the line's positions while they add features, then each owns one
 * of the 256 places. Additions of integers may come in any order; the clamping of very long lines happens after every
 * 65,536 positions, as on the CPU. */
#include "kernels/embed_core.h"

#define CHUNK 65536u

__device__ static void add(int32_t *sums, uint32_t kind, uint32_t bytes, int32_t weight)
{
    const uint32_t hash = embed_hash(kind, bytes);
    atomicAdd(&sums[embed_place(hash)], embed_sign(hash) * weight);
}

/* The byte at `position` of boundary, line, boundary; position 0 is the first boundary. */
__device__ static uint32_t byte_at(const uint8_t *line, uint64_t bytes, uint64_t position)
{
    return position == 0 || position > bytes ? EMBED_BOUNDARY : embed_fold(line[position - 1]);
}

extern "C" __global__ void embed_lines(const uint8_t *text, const uint64_t *offsets, int8_t *vectors)
{
    const int32_t weights[] = {EMBED_WEIGHTS};
    __shared__ int32_t sums[EMBED_PLACES];
    __shared__ unsigned long long squares;
    const uint64_t begin = offsets[blockIdx.x];
    uint64_t end = offsets[blockIdx.x + 1];
    if (end > begin && text[end - 1] == '\n')
        end--;
    const uint8_t *line = text + begin;
    const uint64_t bytes = end - begin;

    sums[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        squares = 0;
    __syncthreads();
    for (uint64_t chunk = 0; chunk <= bytes; chunk += CHUNK) {
        for (uint64_t i = chunk + threadIdx.x; i <= bytes && i < chunk + CHUNK; i += EMBED_PLACES) {
            const uint32_t c = byte_at(line, bytes, i + 1), b = byte_at(line, bytes, i);
            if (i < bytes)
                add(sums, EMBED_ONE, c, weights[EMBED_ONE]);
            add(sums, EMBED_TWO, b << 8 | c, weights[EMBED_TWO]);
            if (i >= 1) {
                const uint32_t a = byte_at(line, bytes, i - 1);
                add(sums, EMBED_THREE, a << 16 | b << 8 | c, weights[EMBED_THREE]);
                add(sums, EMBED_GAP_ONE, a << 8 | c, weights[EMBED_GAP_ONE]);
            }
            if (i >= 2)
                add(sums, EMBED_GAP_TWO, byte_at(line, bytes, i - 2) << 8 | c, weights[EMBED_GAP_TWO]);
        }
        __syncthreads();
        sums[threadIdx.x] = embed_clamp_sum(sums[threadIdx.x]);
        __syncthreads();
    }
    const int32_t sum = sums[threadIdx.x];
    atomicAdd(&squares, (unsigned long long)((int64_t)sum * sum));
    __syncthreads();
    uint32_t shift;
    const uint64_t norm = embed_norm((uint64_t)squares, &shift);
    vectors[(uint64_t)blockIdx.x * EMBED_PLACES + threadIdx.x] = embed_scale(sum, norm, shift);
}
