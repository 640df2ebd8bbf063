/* One thread per pixel. */
#include "kernels/render_core.h"

extern "C" __global__ void render_rows(const render_scene *scene, render_settings settings,
                                       uint32_t first_row, uint32_t rows, uint8_t *picture)
{
    const uint64_t pixel = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= (uint64_t)rows * settings.width)
        return;
    render_pixel(scene, &settings, (uint32_t)(pixel % settings.width),
                 first_row + (uint32_t)(pixel / settings.width), picture + pixel * 3);
}
