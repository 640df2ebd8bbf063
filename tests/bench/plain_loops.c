/* The loops of some example kernels as one would write them in C, for scale: plain_loops NAME ITEMS RUNS prints the
 * median milliseconds. Compiled for this machine, with the same rules for floating point as users' kernels. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static float *numbers(size_t count)
{
    float *out = malloc(count * sizeof *out);
    for (size_t i = 0; out && i < count; i++)
        out[i] = (float)rand() / (float)RAND_MAX * 4 - 2;
    return out;
}

/* Outputs begin as zeros, as a kernel's do. */
__attribute__((noinline)) static void saxpy(const float *x, const float *y, float *out, size_t items, float a)
{
    memset(out, 0, items * sizeof *out);
    for (size_t i = 0; i < items; i++)
        out[i] = a * x[i] + y[i];
}

__attribute__((noinline)) static void mandelbrot(uint32_t *steps, size_t items)
{
    const int width = 640, height = 480, most = 256;
    memset(steps, 0, items * sizeof *steps);
    for (size_t pixel = 0; pixel < items; pixel++) {
        const double scale = 3.0 / width;
        const double a = -0.5 + ((double)(pixel % width) - 0.5 * width) * scale;
        const double b = ((double)(pixel / width) - 0.5 * height) * scale;
        double re = 0, im = 0;
        uint32_t n = 0;
        while (n < (uint32_t)most && re * re + im * im <= 4.0) {
            const double next = re * re - im * im + a;
            im = 2.0 * re * im + b;
            re = next;
            n++;
        }
        steps[pixel] = n;
    }
}

__attribute__((noinline)) static double reduction(const float *x, size_t items, float *lowest, float *highest)
{
    double sum = 0;
    float low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < items; i++) {
        sum += (double)x[i];
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *lowest = low;
    *highest = high;
    return sum;
}

__attribute__((noinline)) static void gravity(const float *bodies, const float *own, float *pull,
                                              size_t items)
{
    for (size_t i = 0; i < items; i++) {
        const float x = own[3 * i], y = own[3 * i + 1], z = own[3 * i + 2];
        float ax = 0, ay = 0, az = 0;
        for (size_t j = 0; j < items; j++) {
            const float dx = bodies[4 * j] - x, dy = bodies[4 * j + 1] - y, dz = bodies[4 * j + 2] - z;
            const float square = fmaf(dz, dz, fmaf(dy, dy, fmaf(dx, dx, 0.0001f)));
            const float inverse = 1.0f / sqrtf(square);
            const float force = bodies[4 * j + 3] * (inverse * inverse * inverse);
            ax = fmaf(force, dx, ax);
            ay = fmaf(force, dy, ay);
            az = fmaf(force, dz, az);
        }
        pull[3 * i] = ax;
        pull[3 * i + 1] = ay;
        pull[3 * i + 2] = az;
    }
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    const size_t items = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    const int runs = argc > 3 ? atoi(argv[3]) : 0;
    float *x = numbers(4 * items), *y = numbers(3 * items), *out = calloc(3 * items, sizeof *out), low, high;
    double *times = calloc((size_t)runs + 1, sizeof *times), sink = 0;
    if (items == 0 || runs <= 0 || !x || !y || !out || !times) {
        fprintf(stderr, "usage: plain_loops saxpy|mandelbrot|reduction|gravity ITEMS RUNS\n");
        return 2;
    }
    for (int run = 0; run < runs; run++) {
        const double begin = now_ms();
        if (strcmp(name, "saxpy") == 0)
            saxpy(x, y, out, items, 2);
        else if (strcmp(name, "mandelbrot") == 0)
            mandelbrot((uint32_t *)(void *)out, items);
        else if (strcmp(name, "reduction") == 0)
            sink += reduction(x, items, &low, &high);
        else if (strcmp(name, "gravity") == 0)
            gravity(x, y, out, items);
        else
            return 2;
        times[run] = now_ms() - begin;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    printf("%.6f\n", times[runs / 2]);
    return sink == 0.123 ? 1 : 0;
}
