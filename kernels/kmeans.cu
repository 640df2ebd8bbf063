/* A round of k-means in three launches: centres from sums, the nearest centre of each point, sums of each centre's points.
 * Additions are of integers, so their order doesn't matter. */
#include "kernels/kmeans_core.h"

#define TILE 64
#define STEP 16 /* words of 4 dimensions per round */
#define THREADS 256

/* One block of 128 threads per centre. */
extern "C" __global__ void kmeans_centres(const int64_t *sums, const int64_t *counts, uint32_t dimensions,
                                          uint32_t words, int32_t *high, int32_t *low, int64_t *squares)
{
    __shared__ unsigned long long square;
    const uint64_t k = blockIdx.x;
    if (threadIdx.x == 0)
        square = 0;
    __syncthreads();
    for (uint32_t word = threadIdx.x; word < words; word += blockDim.x) {
        uint32_t high_four = 0, low_four = 0;
        unsigned long long part = 0;
        for (uint32_t j = 0; j < 4 && 4 * word + j < dimensions; j++) {
            const int32_t centre = kmeans_centre(sums[k * dimensions + 4 * word + j], counts[k]);
            high_four |= (uint32_t)(uint8_t)kmeans_high(centre) << (8 * j);
            low_four |= (uint32_t)(uint8_t)kmeans_low(centre) << (8 * j);
            part += (unsigned long long)((int64_t)centre * centre);
        }
        high[k * words + word] = (int32_t)high_four;
        low[k * words + word] = (int32_t)low_four;
        atomicAdd(&square, part);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        squares[k] = counts[k] > 0 ? (int64_t)square : KMEANS_SCORE_NONE;
}

__device__ static uint32_t four_of(const int8_t *row, uint32_t word, uint32_t dimensions)
{
    uint32_t four = 0;
    for (uint32_t j = 0; j < 4 && 4 * word + j < dimensions; j++)
        four |= (uint32_t)(uint8_t)row[4 * word + j] << (8 * j);
    return four;
}

/* 64 points per block against all centres, 64 at a time; each thread makes 4 x 4 scores. */
extern "C" __global__ void kmeans_label(const int8_t *points, uint64_t count, uint32_t dimensions,
                                        uint32_t words, const int32_t *high, const int32_t *low,
                                        const int64_t *squares, uint32_t k, int32_t *labels,
                                        int64_t *distances)
{
    __shared__ int32_t point_tile[STEP][TILE + 1], high_tile[STEP][TILE + 1], low_tile[STEP][TILE + 1];
    __shared__ unsigned long long best[TILE]; /* score, made positive, above the centre's number */
    __shared__ int32_t norms[TILE];
    const uint64_t point_first = (uint64_t)blockIdx.x * TILE;
    const uint32_t across = threadIdx.x % 16, down = threadIdx.x / 16;
    if (threadIdx.x < TILE) {
        best[threadIdx.x] = ~0ull;
        norms[threadIdx.x] = 0;
    }
    __syncthreads();
    for (uint32_t centre_first = 0; centre_first < k; centre_first += TILE) {
        int32_t high_sums[4][4] = {}, low_sums[4][4] = {};
        for (uint32_t first = 0; first < words; first += STEP) {
            for (uint32_t i = threadIdx.x; i < STEP * TILE; i += THREADS) {
                const uint32_t word = i % STEP, row = i / STEP;
                const bool inside = first + word < words, centre = inside && centre_first + row < k;
                const uint64_t at = (uint64_t)(centre_first + row) * words + first + word;
                point_tile[word][row] = inside && point_first + row < count
                                            ? (int32_t)four_of(points + (point_first + row) * dimensions,
                                                               first + word, dimensions)
                                            : 0;
                high_tile[word][row] = centre ? high[at] : 0;
                low_tile[word][row] = centre ? low[at] : 0;
            }
            __syncthreads();
            for (uint32_t word = 0; word < STEP; word++)
                for (uint32_t i = 0; i < 4; i++)
                    for (uint32_t j = 0; j < 4; j++) {
                        const int point = point_tile[word][down + 16 * i];
                        high_sums[i][j] =
                            __dp4a(point, (int)high_tile[word][across + 16 * j], high_sums[i][j]);
                        low_sums[i][j] = __dp4a(point, (int)low_tile[word][across + 16 * j], low_sums[i][j]);
                    }
            if (centre_first == 0 && threadIdx.x < TILE)
                for (uint32_t word = 0; word < STEP; word++)
                    norms[threadIdx.x] = __dp4a((int)point_tile[word][threadIdx.x],
                                                (int)point_tile[word][threadIdx.x], norms[threadIdx.x]);
            __syncthreads();
        }
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t centre = centre_first + across + 16 * j;
            if (centre >= k || squares[centre] == KMEANS_SCORE_NONE)
                continue;
            for (uint32_t i = 0; i < 4; i++) {
                const int64_t score = kmeans_score(squares[centre], high_sums[i][j], low_sums[i][j]);
                atomicMin(&best[down + 16 * i], (unsigned long long)(score + (1ll << 44)) << 16 | centre);
            }
        }
    }
    __syncthreads();
    const uint64_t point = point_first + threadIdx.x;
    if (threadIdx.x < TILE && point < count) {
        labels[point] = (int32_t)(best[threadIdx.x] & 0xffff);
        distances[point] =
            kmeans_distance(norms[threadIdx.x], (int64_t)(best[threadIdx.x] >> 16) - (1ll << 44));
    }
}

/* 64 points per block; threads share each point's dimensions. */
extern "C" __global__ void kmeans_add(const int8_t *points, const int32_t *labels, const int64_t *distances,
                                      uint64_t count, uint32_t dimensions, int64_t *sums, int64_t *counts,
                                      int64_t *spread)
{
    const uint64_t first = (uint64_t)blockIdx.x * TILE;
    for (uint64_t point = first; point < first + TILE && point < count; point++) {
        const uint64_t label = (uint64_t)labels[point];
        for (uint32_t j = threadIdx.x; j < dimensions; j += blockDim.x)
            atomicAdd((unsigned long long *)&sums[label * dimensions + j],
                      (unsigned long long)(int64_t)points[point * dimensions + j]);
        if (threadIdx.x == 0) {
            atomicAdd((unsigned long long *)&counts[label], 1ull);
            atomicAdd((unsigned long long *)spread, (unsigned long long)distances[point]);
        }
    }
}
