/* Exact int8 products in 64 x 64 tiles of 4-byte dot products, and a plain float32 product for machines without
 * cuBLASLt. */
#include <stdint.h>

#define TILE 64
#define STEP 8 /* words of 4 steps of depth per round */
#define THREADS 256

extern "C" __global__ void matmul_int8(const int8_t *a, const int8_t *b, int32_t *c, uint32_t m, uint32_t n,
                                       uint32_t k)
{
    __shared__ int32_t a_tile[STEP][TILE + 1], b_tile[STEP][TILE + 1];
    const uint32_t row_first = blockIdx.y * TILE, column_first = blockIdx.x * TILE;
    const uint32_t across = threadIdx.x % 16, down = threadIdx.x / 16;
    int32_t sums[4][4] = {};
    for (uint32_t first = 0; first < k; first += 4 * STEP) {
        for (uint32_t i = threadIdx.x; i < STEP * TILE; i += THREADS) {
            const uint32_t word = i / TILE, lane = i % TILE;
            uint32_t left = 0, right = 0;
            for (uint32_t j = 0; j < 4; j++) {
                const uint32_t depth = first + 4 * word + j;
                if (depth >= k)
                    break;
                if (row_first + lane < m)
                    left |= (uint32_t)(uint8_t)a[(uint64_t)(row_first + lane) * k + depth] << (8 * j);
                if (column_first + lane < n)
                    right |= (uint32_t)(uint8_t)b[(uint64_t)depth * n + column_first + lane] << (8 * j);
            }
            a_tile[word][lane] = (int32_t)left;
            b_tile[word][lane] = (int32_t)right;
        }
        __syncthreads();
        for (uint32_t word = 0; word < STEP; word++)
            for (uint32_t i = 0; i < 4; i++)
                for (uint32_t j = 0; j < 4; j++)
                    sums[i][j] = __dp4a((int)a_tile[word][down + 16 * i], (int)b_tile[word][across + 16 * j],
                                        sums[i][j]);
        __syncthreads();
    }
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t row = row_first + down + 16 * i, column = column_first + across + 16 * j;
            if (row < m && column < n)
                c[(uint64_t)row * n + column] = sums[i][j];
        }
}

__device__ static uint32_t to_bfloat(float value)
{
    const uint32_t bits = __float_as_uint(value), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (rounded & 0x7f80u) == 0x7f80u ? rounded - 1u : rounded;
}

/* float32 to bfloat16, as matmul.c rounds. */
extern "C" __global__ void matmul_narrow(const float *from, uint64_t count, uint16_t *to)
{
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        to[i] = (uint16_t)to_bfloat(from[i]);
}

/* b [rows, columns] to its transpose, as cuBLASLt's int8 products want it: once per b. */
extern "C" __global__ void matmul_transpose(const int8_t *b, uint32_t rows, uint32_t columns, int8_t *to)
{
    const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (uint64_t)rows * columns)
        to[i] = b[i % rows * columns + i / rows];
}

/* 16 x 16 tiles. */
extern "C" __global__ void matmul_float(const float *a, const float *b, float *c, uint32_t m, uint32_t n,
                                        uint32_t k, uint32_t rounded)
{
    __shared__ float a_tile[16][17], b_tile[16][17];
    const uint32_t across = threadIdx.x % 16, down = threadIdx.x / 16;
    const uint32_t row = blockIdx.y * 16 + down, column = blockIdx.x * 16 + across;
    float sum = 0;
    for (uint32_t first = 0; first < k; first += 16) {
        float left = row < m && first + across < k ? a[(uint64_t)row * k + first + across] : 0;
        float right = column < n && first + down < k ? b[(uint64_t)(first + down) * n + column] : 0;
        a_tile[down][across] = rounded ? __uint_as_float(to_bfloat(left) << 16) : left;
        b_tile[down][across] = rounded ? __uint_as_float(to_bfloat(right) << 16) : right;
        __syncthreads();
        for (uint32_t j = 0; j < 16; j++)
            sum += a_tile[down][j] * b_tile[j][across];
        __syncthreads();
    }
    if (row < m && column < n)
        c[(uint64_t)row * n + column] = sum;
}
