// The word of a list that is nearest to each query by Levenshtein's distance: a warp per query shares the list out and
// finds the best by shuffles; of words equally near the first wins. Words are rows of bytes, filled up with zeros.
#include "weir_kernel.h"

#define LONGEST 63

__device__ uint32_t length_of(const uint8_t *word, uint64_t w)
{
    uint32_t length = 0;
    while (length < w && word[length])
        length++;
    return length;
}

__device__ uint32_t distance_of(const uint8_t *a, const uint8_t *b, uint64_t w)
{
    uint8_t row[LONGEST + 1];
    const uint32_t a_bytes = length_of(a, w), b_bytes = length_of(b, w);
    for (uint32_t j = 0; j <= b_bytes; j++)
        row[j] = (uint8_t)j;
    for (uint32_t i = 1; i <= a_bytes; i++) {
        uint32_t diagonal = row[0];
        row[0] = (uint8_t)i;
        for (uint32_t j = 1; j <= b_bytes; j++) {
            const uint32_t above = row[j];
            uint32_t best = diagonal + (a[i - 1] != b[j - 1]);
            best = min(best, above + 1);
            best = min(best, (uint32_t)row[j - 1] + 1);
            row[j] = (uint8_t)best;
            diagonal = above;
        }
    }
    return row[b_bytes];
}

extern "C" __global__ void distance(weir_items items, const uint8_t *list, const uint8_t *query,
                                    int32_t *nearest, int32_t *away, uint64_t n, uint64_t w)
{
    if (w > LONGEST)
        return;
    const uint8_t *word = query + (uint64_t)blockIdx.x * w;
    uint64_t best = ~0ull; // distance, then row: the smaller is the better
    for (uint64_t row = threadIdx.x; row < n; row += 32) {
        const uint64_t key = (uint64_t)distance_of(word, list + row * w, w) << 32 | row;
        best = key < best ? key : best;
    }
    for (int by = 16; by > 0; by /= 2) {
        const uint64_t other = __shfl_down_sync(0xffffffff, best, by);
        best = other < best ? other : best;
    }
    if (threadIdx.x == 0) {
        nearest[blockIdx.x] = (int32_t)(best & 0xffffffff);
        away[blockIdx.x] = (int32_t)(best >> 32);
    }
}
