/* The pull of one body on another, shared by the CPU and the CUDA code so that both give the same bits.
 *
 * Gravity with G = 1 and Plummer softening, in float32: a_i = sum over j of m_j (x_j - x_i) / (|x_j - x_i|^2 + e^2)^(3/2).
 * The sum has one order everywhere: bodies in tiles of 256, ascending, each tile from zero, then the tiles' sums in
 * ascending order; this also keeps the rounding of a long sum small. A body pulls itself with force 0, since e > 0.
 * Fused multiply-adds stand where they are written and nowhere else.
 *
 * A step kicks, then drifts: v += a dt, x += v dt. With velocities taken half a step early that is the leapfrog scheme,
 * which keeps the energy; with those of the start it is the symplectic Euler scheme. */
#ifndef KERNELS_NBODY_CORE_H
#define KERNELS_NBODY_CORE_H

#include "kernels/weir_math.h"

#define NBODY_TILE 256
#define NBODY_FIELDS 7 /* of a body's row: x y z, vx vy vz, mass */

struct nbody_pull {
    float x, y, z;
};

WEIR_INLINE void nbody_add(struct nbody_pull *sum, float x, float y, float z, float from_x, float from_y,
                           float from_z, float mass, float softening2)
{
    const float dx = from_x - x, dy = from_y - y, dz = from_z - z;
    const float square = weir_fmaf(dz, dz, weir_fmaf(dy, dy, weir_fmaf(dx, dx, softening2)));
    const float inverse = weir_rsqrtf(square);
    const float pull = mass * inverse * (inverse * inverse);
    sum->x = weir_fmaf(pull, dx, sum->x);
    sum->y = weir_fmaf(pull, dy, sum->y);
    sum->z = weir_fmaf(pull, dz, sum->z);
}

WEIR_INLINE void nbody_move(const float *body, struct nbody_pull pull, float dt, float *moved)
{
    moved[3] = weir_fmaf(pull.x, dt, body[3]);
    moved[4] = weir_fmaf(pull.y, dt, body[4]);
    moved[5] = weir_fmaf(pull.z, dt, body[5]);
    moved[0] = weir_fmaf(moved[3], dt, body[0]);
    moved[1] = weir_fmaf(moved[4], dt, body[1]);
    moved[2] = weir_fmaf(moved[5], dt, body[2]);
    moved[6] = body[6];
}

#endif
