/* Nearest neighbours on a GPU, in two steps over a chunk of queries: all distances (64 x 64 tiles of 4-byte dot products),
 * then for each query an exact selection. The key (distance << 32 | row) is unique, so the k-th smallest key is
 * found digit by digit (radix select), everything up to it is gathered in any order, and a sort of those k puts ties in
 * the order of rows. Nothing depends on the order in which threads run. */
#include <stdint.h>

#define TILE 64
#define STEP 16 /* words of 4 dimensions per round */
#define THREADS 256
#define SELECT_MAX 1024

/* Rows of `dimensions` bytes to rows of `words` words, padded with zeros; and each row's square. */
extern "C" __global__ void knn_prepare(const int8_t *rows, uint64_t count, uint32_t dimensions,
                                       uint32_t words, int32_t *padded, int32_t *squares)
{
    const uint64_t row = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= count)
        return;
    const int8_t *from = rows + row * dimensions;
    int32_t square = 0;
    for (uint32_t word = 0; word < words; word++) {
        uint32_t four = 0;
        for (uint32_t j = 0; j < 4 && word * 4 + j < dimensions; j++)
            four |= (uint32_t)(uint8_t)from[word * 4 + j] << (8 * j);
        padded[row * words + word] = (int32_t)four;
        square = __dp4a((int)four, (int)four, square);
    }
    squares[row] = square;
}

/* distances[q * rows + b], for 64 queries by 64 base rows per block; each thread makes 4 x 4 of them. */
extern "C" __global__ void knn_distances(const int32_t *base, const int32_t *base_squares, uint32_t rows,
                                         const int32_t *query, const int32_t *query_squares, uint32_t queries,
                                         uint32_t words, int32_t *distances)
{
    __shared__ int32_t base_tile[STEP][TILE + 1], query_tile[STEP][TILE + 1];
    const uint32_t base_first = blockIdx.x * TILE, query_first = blockIdx.y * TILE;
    const uint32_t across = threadIdx.x % 16, down = threadIdx.x / 16;
    int32_t sums[4][4] = {};
    for (uint32_t first = 0; first < words; first += STEP) {
        for (uint32_t i = threadIdx.x; i < STEP * TILE; i += THREADS) {
            const uint32_t word = i % STEP, row = i / STEP;
            const bool inside = first + word < words;
            base_tile[word][row] = inside && base_first + row < rows
                                       ? base[(uint64_t)(base_first + row) * words + first + word]
                                       : 0;
            query_tile[word][row] = inside && query_first + row < queries
                                        ? query[(uint64_t)(query_first + row) * words + first + word]
                                        : 0;
        }
        __syncthreads();
        for (uint32_t word = 0; word < STEP; word++)
            for (uint32_t i = 0; i < 4; i++)
                for (uint32_t j = 0; j < 4; j++)
                    sums[i][j] = __dp4a((int)query_tile[word][down + 16 * i],
                                        (int)base_tile[word][across + 16 * j], sums[i][j]);
        __syncthreads();
    }
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t q = query_first + down + 16 * i, b = base_first + across + 16 * j;
            if (q < queries && b < rows)
                distances[(uint64_t)q * rows + b] = query_squares[q] + base_squares[b] - 2 * sums[i][j];
        }
}

/* One block per query. `distance` may be null. */
extern "C" __global__ void knn_select(const int32_t *distances, uint32_t rows, uint32_t k, int32_t *index,
                                      int32_t *distance)
{
    __shared__ uint32_t counts[256];
    __shared__ uint64_t prefix_shared;
    __shared__ uint32_t left_shared, gathered;
    __shared__ uint64_t keys[SELECT_MAX];
    const int32_t *mine = distances + (uint64_t)blockIdx.x * rows;
    uint64_t prefix = 0;
    uint32_t left = k; /* the left-th smallest among keys that begin with `prefix` is looked for */

    for (int shift = 56; shift >= 0; shift -= 8) {
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t row = threadIdx.x; row < rows; row += THREADS) {
            const uint64_t key = (uint64_t)(uint32_t)mine[row] << 32 | row;
            if (shift == 56 || key >> (shift + 8) == prefix)
                atomicAdd(&counts[(key >> shift) & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0;
            while (counts[digit] < left) {
                left -= counts[digit];
                digit++;
            }
            prefix_shared = prefix << 8 | digit;
            left_shared = left;
        }
        __syncthreads();
        prefix = prefix_shared;
        left = left_shared;
        __syncthreads();
    }

    if (threadIdx.x == 0)
        gathered = 0;
    uint32_t width = 1;
    while (width < k)
        width *= 2;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        keys[i] = ~(uint64_t)0;
    __syncthreads();
    for (uint32_t row = threadIdx.x; row < rows; row += THREADS) {
        const uint64_t key = (uint64_t)(uint32_t)mine[row] << 32 | row;
        if (key <= prefix)
            keys[atomicAdd(&gathered, 1u)] = key;
    }
    __syncthreads();
    /* Bitonic sort. */
    for (uint32_t size = 2; size <= width; size *= 2)
        for (uint32_t gap = size / 2; gap > 0; gap /= 2) {
            for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
                const uint32_t other = i ^ gap;
                if (other > i && (keys[i] > keys[other]) == ((i & size) == 0)) {
                    const uint64_t swap = keys[i];
                    keys[i] = keys[other];
                    keys[other] = swap;
                }
            }
            __syncthreads();
        }
    for (uint32_t i = threadIdx.x; i < k; i += THREADS) {
        index[(uint64_t)blockIdx.x * k + i] = (int32_t)(uint32_t)keys[i];
        if (distance)
            distance[(uint64_t)blockIdx.x * k + i] = (int32_t)(keys[i] >> 32);
    }
}
