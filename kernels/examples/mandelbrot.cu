// Steps until a point escapes: an item per pixel, numbered row by row. No input: submit it with --items WIDTH*HEIGHT.
#include "weir_kernel.h"

extern "C" __global__ void mandelbrot(weir_items items, uint32_t *steps, int64_t width, int64_t height,
                                      int64_t most, double x, double y, double across)
{
    const uint64_t i = weir_item();
    if (i >= items.count)
        return;
    const uint64_t pixel = items.first + i;
    const double scale = across / (double)width;
    const double a = x + ((double)(pixel % (uint64_t)width) - 0.5 * (double)width) * scale;
    const double b = y + ((double)(pixel / (uint64_t)width) - 0.5 * (double)height) * scale;
    double re = 0, im = 0;
    uint32_t n = 0;
    while (n < (uint32_t)most && re * re + im * im <= 4.0) {
        const double next = re * re - im * im + a;
        im = 2.0 * re * im + b;
        re = next;
        n++;
    }
    steps[i] = n;
}
