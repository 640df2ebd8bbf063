/* What a GPU does, through the runtime that the worker uses: prints one JSON object. tests/gpu/gpu.py holds it against what the
 * device could do. "small": sizes that an emulated device can bear, whose figures mean nothing.
 *
 * Operations are counted as the kernels' manifests do, a multiply-add as two where the unit is operations; time is the
 * device's own, between events around launches, so that copies over the host link don't count, except in busy shares. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/gpu_driver.h"
#include "kernels/kernel.h"
#include "tests/gpu/emulator.h"

#define ROUNDS 5
#define STOPS 200

static struct gpu *gpu;
static bool small;
static unsigned figures;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void figure(const char *name, double value)
{
    printf("%s\n  \"%s\": %.6g", figures++ ? "," : "", name, value);
    fflush(stdout);
}

static struct manifest_params params_of(const char *kernel, const char *const *settings, size_t count)
{
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    if (manifest_params_parse(manifest_find(kernel), settings, count, &params, error)) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    return params;
}

static void *random_bytes(uint64_t bytes)
{
    uint32_t *data = malloc(bytes + 4), state = 12345;
    if (!data) {
        fprintf(stderr, "out of memory for %llu bytes\n", (unsigned long long)bytes);
        exit(1);
    }
    for (uint64_t i = 0; i < bytes / 4 + 1; i++)
        data[i] = state = state * 1664525u + 1013904223u;
    return data;
}

static float *random_floats(uint64_t count)
{
    float *data = random_bytes(count * 4);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &data[i], sizeof bits);
        data[i] = (float)(bits >> 8) * 0x1p-24f - 0.5f;
    }
    return data;
}

/* The least device time of one call, in seconds; the first round makes what is kept. */
static double best_time(struct kernel_call *call)
{
    double best = INFINITY;
    for (int round = 0; round < (small ? 2 : ROUNDS); round++) {
        struct kernel_call *done;
        uint32_t count;
        uint64_t device_ns;
        gpu_submit(gpu, call, 1);
        if (gpu_collect(gpu, &done, &count, &device_ns)) {
            fprintf(stderr, "%s\n", call->message);
            exit(1);
        }
        if (round > 0 && (double)device_ns < best)
            best = (double)device_ns;
    }
    return best * 1e-9;
}

static struct kernel_input matrix(const void *data, enum array_dtype dtype, uint64_t rows, uint64_t columns,
                                  struct kernel_keep *keep)
{
    return (struct kernel_input){.data = data,
                                 .bytes = rows * columns * array_dtype_bytes(dtype),
                                 .type = {(uint8_t)dtype, 2, {rows, columns}},
                                 .broadcast = keep != NULL,
                                 .keep = keep};
}

static void output(struct kernel_call *call, uint32_t index, uint64_t bytes)
{
    call->outputs[index] = (struct kernel_output){.data = malloc(bytes), .bytes = bytes};
    call->output_count = index + 1;
}

static void release(struct kernel_call *call, struct kernel_keep *keep)
{
    if (keep)
        kernel_keep_release(keep);
    for (uint32_t i = 0; i < call->output_count; i++)
        free(call->outputs[i].data);
}

static void measure_matmul(void)
{
    const uint64_t side = small ? 64 : 8192;
    static const struct {
        const char *name, *setting;
        enum array_dtype dtype;
    } kinds[] = {{"matmul_bfloat16_tops", "precision=bfloat16", ARRAY_FLOAT32},
                 {"matmul_float32_tops", "precision=float32", ARRAY_FLOAT32},
                 {"matmul_int8_tops", "precision=float32", ARRAY_INT8}};
    for (int i = 0; i < 3; i++) {
        struct kernel_keep keep = {0};
        const struct manifest_params params = params_of("matmul", &kinds[i].setting, 1);
        struct kernel_call call = {.manifest = manifest_find("matmul"), .params = &params, .items = side};
        void *a =
            kinds[i].dtype == ARRAY_INT8 ? random_bytes(side * side) : (void *)random_floats(side * side);
        call.inputs[0] = matrix(a, kinds[i].dtype, side, side, NULL);
        call.inputs[1] = matrix(a, kinds[i].dtype, side, side, &keep);
        output(&call, 0, side * side * 4);
        figure(kinds[i].name, 2 * pow((double)side, 3) / best_time(&call) * 1e-12);
        release(&call, &keep);
        free(a);
    }
}

static void measure_knn(void)
{
    const uint64_t rows = small ? 500 : 1000000, queries = small ? 10 : 10000;
    struct kernel_keep keep = {0};
    const struct manifest_params params = params_of("knn", NULL, 0);
    struct kernel_call call = {.manifest = manifest_find("knn"), .params = &params, .items = queries};
    void *base = random_bytes(rows * 256), *query = random_bytes(queries * 256);
    call.inputs[0] = matrix(base, ARRAY_INT8, rows, 256, &keep);
    call.inputs[1] = matrix(query, ARRAY_INT8, queries, 256, NULL);
    output(&call, 0, queries * 10 * 4);
    figure("knn_tops", 2.0 * (double)rows * 256 * (double)queries / best_time(&call) * 1e-12);
    call.items = 1;
    call.inputs[1] = matrix(query, ARRAY_INT8, 1, 256, NULL);
    call.outputs[0].bytes = 40;
    figure("knn_small_gb_per_s", (double)rows * 256 / best_time(&call) * 1e-9);
    release(&call, &keep);
    free(base);
    free(query);
}

static void measure_montecarlo(void)
{
    static const double row[5] = {100, 100, 0.03, 0.2, 1};
    const uint64_t options = small ? 2 : 264;
    const struct manifest_params params =
        params_of("montecarlo", (const char *[]){small ? "paths=256" : "paths=67108864"}, 1);
    struct kernel_call call = {.manifest = manifest_find("montecarlo"), .params = &params, .items = options};
    double *rows = malloc(options * sizeof row);
    for (uint64_t i = 0; i < options; i++)
        memcpy(rows + 5 * i, row, sizeof row);
    call.inputs[0] = matrix(rows, ARRAY_FLOAT64, options, 5, NULL);
    output(&call, 0, options * 8);
    output(&call, 1, options * 8);
    figure("montecarlo_draws_per_s", (double)options * (small ? 256 : 67108864) / best_time(&call));
    release(&call, NULL);
    free(rows);
}

static void measure_nbody(void)
{
    const uint64_t bodies = small ? 300 : 262144;
    struct kernel_keep keep = {0};
    const struct manifest_params params = params_of("nbody", NULL, 0);
    struct kernel_call call = {.manifest = manifest_find("nbody"), .params = &params, .items = bodies};
    float *rows = random_floats(bodies * NBODY_COLUMNS);
    call.inputs[0] = matrix(rows, ARRAY_FLOAT32, bodies, NBODY_COLUMNS, &keep);
    output(&call, 0, bodies * NBODY_COLUMNS * 4);
    figure("nbody_tops", 34.0 * (double)bodies * (double)bodies / best_time(&call) * 1e-12);
    release(&call, &keep);
    free(rows);
}

static void measure_render(void)
{
    static const char scene[] =
        "plane 0 0 0 0 1 0 checker .8 .8 .8 .2 .2 .2 1\nsphere 0 1 0 1 glass 1 1 1 1.5\n"
        "sphere 2 1 0 1 metal .9 .8 .7 .1\nsphere -2 1 0 1 diffuse .8 .2 .2\n"
        "sphere 3 5 3 1 light 12 12 12\n";
    struct kernel_keep keep = {0};
    const struct manifest_params params = params_of(
        "render", (const char *[]){small ? "width=16" : "width=1920", small ? "height=9" : "height=1080"}, 2);
    const uint64_t width = small ? 16 : 1920, height = small ? 9 : 1080;
    struct kernel_call call = {.manifest = manifest_find("render"), .params = &params, .items = height};
    call.inputs[0] = (struct kernel_input){.data = scene,
                                           .bytes = sizeof scene - 1,
                                           .type = {ARRAY_TEXT, 1, {5}},
                                           .broadcast = true,
                                           .keep = &keep};
    output(&call, 0, width * height * 3);
    figure("render_paths_per_s", (double)(width * height) * 64 / best_time(&call));
    release(&call, &keep);
}

/* Shards of one spinning item each, as a worker passes them on: the share of the time in which a launch ran. */
static void measure_busy(const char *name, const char *setting, uint32_t shards)
{
    const struct manifest_params params = params_of("spin", &setting, 1);
    struct kernel_call *calls = calloc(shards, sizeof *calls), *done;
    uint32_t *marks = calloc(shards, sizeof *marks), submitted = 0, settled = 0, count;
    uint64_t device_ns, busy_ns = 0;
    for (uint32_t i = 0; i < shards; i++) {
        calls[i] = (struct kernel_call){.manifest = manifest_find("spin"),
                                        .params = &params,
                                        .first_item = i,
                                        .items = 1,
                                        .output_count = 1};
        calls[i].outputs[0] = (struct kernel_output){.data = &marks[i], .bytes = 4};
    }
    const double begin = now_s();
    while (settled < shards) {
        while (submitted < shards && gpu_room(gpu)) {
            const uint32_t batch = gpu_batch(gpu, calls + submitted, shards - submitted);
            gpu_submit(gpu, calls + submitted, batch);
            submitted += batch;
        }
        if (gpu_collect(gpu, &done, &count, &device_ns))
            exit(1);
        settled += count;
        busy_ns += device_ns;
    }
    figure(name, (double)busy_ns * 1e-9 / (now_s() - begin));
    free(calls);
    free(marks);
}

/* ---- The owner's stop word: how long launches go on after it, and what is queued by then */

static int (*real_launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          void *, void **, void **);
static double launched_at_s;

static int note_launch(void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                       unsigned threads_y, unsigned threads_z, unsigned shared, void *stream,
                       void **arguments, void **extra)
{
    launched_at_s = now_s();
    return real_launch(function, x, y, z, threads_x, threads_y, threads_z, shared, stream, arguments, extra);
}

struct stop {
    double after_s, at_s;
    _Atomic uint32_t word;
};

static void *say_stop(void *argument)
{
    struct stop *stop = argument;
    nanosleep(&(struct timespec){.tv_nsec = (long)(stop->after_s * 1e9)}, NULL);
    stop->at_s = now_s();
    atomic_store(&stop->word, 1);
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Work for a minute in launches of 5 ms, told to stop at any moment of its first 40 ms. */
static void measure_stop(void)
{
    struct gpu_driver *driver = (struct gpu_driver *)(uintptr_t)gpu_driver();
    const struct manifest_params params =
        params_of("spin", (const char *[]){"us=500"}, 1); /* a job of its own, whose pace is not known yet */
    const int rounds = small ? 5 : STOPS;
    double launches_ms[STOPS], idle_ms[STOPS];
    uint32_t *marks = calloc(60000, sizeof *marks);
    real_launch = driver->cuLaunchKernel;
    driver->cuLaunchKernel = note_launch;
    for (int i = 0; i < rounds; i++) {
        _Atomic uint64_t stamp = 0;
        struct stop stop = {.after_s = 0.04 * rand() / RAND_MAX};
        struct kernel_call call = {.manifest = manifest_find("spin"),
                                   .params = &params,
                                   .items = 60000,
                                   .output_count = 1,
                                   .watch = {&stamp, &stop.word}};
        pthread_t thread;
        call.outputs[0] = (struct kernel_output){.data = marks, .bytes = 60000 * sizeof *marks};
        if (pthread_create(&thread, NULL, say_stop, &stop) != 0 || kernel_run(&call, gpu) != KERNEL_CANCELLED)
            exit(1);
        pthread_join(thread, NULL);
        idle_ms[i] = (now_s() - stop.at_s) * 1e3;
        launches_ms[i] = launched_at_s > stop.at_s ? (launched_at_s - stop.at_s) * 1e3 : 0;
    }
    driver->cuLaunchKernel = real_launch;
    free(marks);
    qsort(launches_ms, (size_t)rounds, sizeof *launches_ms, compare);
    qsort(idle_ms, (size_t)rounds, sizeof *idle_ms, compare);
    figure("stops", rounds);
    figure("stop_last_launch_p99_ms", launches_ms[(rounds * 99 + 99) / 100 - 1]);
    figure("stop_device_idle_p99_ms", idle_ms[(rounds * 99 + 99) / 100 - 1]);
}

/* The emulated driver, if it is that one, tells a thousandth of the time that passed; here it is to be true. */
static void tell_true_time(bool on)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    struct emulator_report *(*look)(void);
    *(void **)&look = library ? dlsym(library, "emulator_look") : NULL;
    if (look)
        look()->speed = on ? 1 : 1000;
}

int main(int argc, char **argv)
{
    char message[MANIFEST_ERROR_BYTES];
    struct gpu_info info;
    small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (!gpu_built() || gpu_count() == 0) {
        printf("{}\n");
        return 77;
    }
    if (!gpu_describe(0, &info, message) || !gpu_open(&gpu, 0, message)) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    printf("{\"device\": \"%s\", \"compute\": \"%u.%u\", \"processors\": %u, \"memory_bytes\": %llu, "
           "\"figures\": {",
           info.name, info.compute_major, info.compute_minor, info.processors,
           (unsigned long long)info.memory_bytes);
    measure_matmul();
    measure_knn();
    measure_montecarlo();
    measure_nbody();
    measure_render();
    measure_busy("busy_share_10_ms", "us=10000", small ? 3 : 200);
    measure_busy("busy_share_1_ms", "us=1000", small ? 10 : 2000);
    tell_true_time(true);
    measure_stop();
    tell_true_time(false);
    figure("library_products", gpu_products(gpu));
    printf("\n}}\n");
    gpu_close(gpu);
    return 0;
}
