/* One thread per body; a block's threads load a tile of bodies together and each walks through it. */
#include "kernels/nbody_core.h"

extern "C" __global__ void nbody_step(const float *bodies, uint64_t all, uint64_t first, uint64_t count,
                                      float dt, float softening2, float *moved)
{
    __shared__ float tile[4][NBODY_TILE];
    const uint64_t item = (uint64_t)blockIdx.x * NBODY_TILE + threadIdx.x;
    const uint64_t mine = item < count ? first + item : first;
    const float *body = bodies + mine * NBODY_FIELDS;
    const float x = body[0], y = body[1], z = body[2];
    nbody_pull total = {0.0f, 0.0f, 0.0f};
    for (uint64_t begin = 0; begin < all; begin += NBODY_TILE) {
        const uint64_t other = begin + threadIdx.x;
        if (other < all) {
            const float *from = bodies + other * NBODY_FIELDS;
            tile[0][threadIdx.x] = from[0];
            tile[1][threadIdx.x] = from[1];
            tile[2][threadIdx.x] = from[2];
            tile[3][threadIdx.x] = from[6];
        }
        __syncthreads();
        nbody_pull part = {0.0f, 0.0f, 0.0f};
        const uint32_t height = all - begin < NBODY_TILE ? (uint32_t)(all - begin) : NBODY_TILE;
#pragma unroll 8
        for (uint32_t j = 0; j < height; j++)
            nbody_add(&part, x, y, z, tile[0][j], tile[1][j], tile[2][j], tile[3][j], softening2);
        total.x = total.x + part.x;
        total.y = total.y + part.y;
        total.z = total.z + part.z;
        __syncthreads();
    }
    if (item < count)
        nbody_move(body, total, dt, moved + item * NBODY_FIELDS);
}
