/* Every kernel on the GPU against its CPU twin: bit for bit where the class is exact, within the tolerance
 * where not. Then both are timed and the device is named. Ends with 77 where there is no GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

static struct gpu *gpu;
static unsigned failures;
static bool timed = true;

struct test_case {
    const char *kernel;
    const char *settings[6];
    struct array_type inputs[3];
    uint64_t items;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double any(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

/* Lines of 0 to 30 bytes, now and then one of kilobytes; the last has no newline. */
static char *random_text(uint64_t lines, uint64_t *bytes)
{
    char *text = malloc(lines * 6000);
    uint64_t used = 0;
    for (uint64_t line = 0; line < lines; line++) {
        const int length = rand() % 50 == 0 ? rand() % 5999 : rand() % 30;
        for (int i = 0; i < length; i++) {
            text[used] = (char)rand();
            used += text[used] != '\n';
        }
        if (line + 1 < lines)
            text[used++] = '\n';
    }
    if (used == 0 || text[used - 1] == '\n')
        text[used++] = 'x';
    *bytes = used;
    return text;
}

/* Spheres of every material at random places, so that most of the code of a path runs. */
static char *random_scene(uint64_t lines, uint64_t *bytes)
{
    static const char *const materials[] = {"diffuse .8 .5 .2",
                                            "metal .9 .8 .7 .1",
                                            "glass 1 .9 1 1.5",
                                            "metal 1 1 1 0",
                                            "checker .9 .9 .9 .1 .2 .3 .4",
                                            "light 3 2 1"};
    char *text = malloc(lines * 160 + 200);
    int used = sprintf(text, "camera 0 2 9 0 0 0 40 %s\nplane 0 -2 0 0 1 0 checker .8 .8 .8 .3 .3 .3 1\n",
                       rand() % 2 ? ".2 8" : "");
    for (uint64_t line = 2; line < lines; line++)
        used += sprintf(text + used, "sphere %.3f %.3f %.3f %.3f %s\n", any(-4, 4), any(-2, 3), any(-6, 4),
                        any(0.1, 1), materials[(line - 2) % 6]);
    *bytes = (uint64_t)used;
    return text;
}

static void *random_input(const char *kernel, const struct array_type *type, uint64_t *bytes)
{
    if (strcmp(kernel, "render") == 0)
        return random_scene(type->shape[0], bytes);
    if (type->dtype == ARRAY_TEXT)
        return random_text(type->shape[0], bytes);
    array_bytes(type, bytes);
    uint8_t *data = malloc(*bytes);
    for (uint64_t i = 0; i < *bytes; i++)
        data[i] = (uint8_t)(rand() >> 5);
    if (type->dtype == ARRAY_FLOAT32)
        for (uint64_t i = 0; i < *bytes / 4; i++)
            ((float *)(void *)data)[i] = (float)any(-1, 1);
    if (type->dtype == ARRAY_INT64) /* kmeans: the counts, some zero, or sums that are about as large */
        for (uint64_t i = 0; i < *bytes / 8; i++)
            ((int64_t *)(void *)data)[i] = type->rank == 1 ? (i ? rand() % 100 : 1) : rand() % 20000 - 10000;
    if (type->dtype == ARRAY_FLOAT64)
        for (uint64_t i = 0; i < type->shape[0]; i++) {
            double *row = (double *)(void *)data + i * OPTION_COLUMNS;
            row[OPTION_SPOT] = any(50, 150);
            row[OPTION_STRIKE] = any(50, 150);
            row[OPTION_RATE] = any(-0.02, 0.1);
            row[OPTION_VOLATILITY] = any(0, 0.8);
            row[OPTION_MATURITY] = any(0, 3);
        }
    return data;
}

/* To the nearest bfloat16 by arithmetic: 8 significant bits. */
static double bfloat(double value)
{
    int exponent;
    const double fraction = frexp(value, &exponent);
    return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

/* The largest error of a float product, in units of the tolerance; it is recomputed in doubles. */
static double float_error(const struct kernel_call *call)
{
    const bool rounded = manifest_param_integer(call->params, MATMUL_PRECISION) != 0;
    const float *a = call->inputs[0].data, *b = call->inputs[1].data, *c = call->outputs[0].data;
    const uint64_t k = call->inputs[1].type.shape[0], n = call->inputs[1].type.shape[1];
    double worst = 0;
    for (int sample = 0; sample < 2000; sample++) {
        const uint64_t i = (uint64_t)rand() % call->items, j = (uint64_t)rand() % n;
        double sum = 0, size = 0;
        for (uint64_t depth = 0; depth < k; depth++) {
            const double left = (double)a[i * k + depth], right = (double)b[depth * n + j];
            const double product = rounded ? bfloat(left) * bfloat(right) : left * right;
            sum += product;
            size += fabs(product);
        }
        worst = fmax(worst, fabs((double)c[i * n + j] - sum) / (size * call->manifest->tolerance));
    }
    return worst;
}

enum { CPU, GPU, DEVICES };

/* A case on both devices; they share its inputs. */
struct trial {
    const struct test_case *test;
    const struct manifest *manifest;
    struct manifest_params params;
    struct manifest_shapes shapes;
    struct kernel_call calls[DEVICES];
    struct kernel_keep keeps[DEVICES][3];
    void *data[3];
    double seconds[DEVICES];
};

static void release(struct trial *trial)
{
    for (int device = 0; device < DEVICES; device++) {
        for (int i = 0; i < 3; i++)
            kernel_keep_release(&trial->keeps[device][i]);
        for (uint32_t o = 0; o < trial->calls[device].output_count; o++)
            free(trial->calls[device].outputs[o].data);
    }
    for (int i = 0; i < 3; i++)
        free(trial->data[i]);
}

static void fill_inputs(struct trial *trial)
{
    const struct test_case *test = trial->test;
    for (uint32_t i = 0; i < trial->manifest->input_count; i++) {
        struct kernel_input *input = &trial->calls[CPU].inputs[i];
        trial->data[i] = random_input(test->kernel, &test->inputs[i], &input->bytes);
        input->data = trial->data[i];
        input->type = test->inputs[i];
        trial->shapes.inputs[i] = test->inputs[i];
        trial->shapes.roles[i] = trial->manifest->inputs[i].roles;
        trial->shapes.split_bytes += input->bytes;
    }
}

/* False after saying what the manifest has against it. */
static bool prepare(struct trial *trial)
{
    const struct test_case *test = trial->test;
    const struct manifest *manifest = trial->manifest = manifest_find(test->kernel);
    struct kernel_call *const call = &trial->calls[CPU];
    struct array_type outputs[MANIFEST_OUTPUTS_MAX];
    uint32_t output_count = 0;
    char error[MANIFEST_ERROR_BYTES];
    size_t count = 0;
    const bool parts = /* their items are parts of something */
        strcmp(test->kernel, "nbody") == 0 || strcmp(test->kernel, "render") == 0;
    *call = (struct kernel_call){.manifest = manifest,
                                 .params = &trial->params,
                                 .items = test->items,
                                 .first_item = parts ? 2 : 12345};
    trial->shapes.items = test->items;
    while (count < 6 && test->settings[count])
        count++;
    fill_inputs(trial);
    if (manifest_params_parse(manifest, test->settings, count, &trial->params, error) != MANIFEST_OK ||
        manifest_outputs(manifest, &trial->params, &trial->shapes, outputs, &output_count, error) !=
            MANIFEST_OK) {
        printf("FAIL %s: %s\n", test->kernel, error);
        return false;
    }
    call->output_count = output_count;
    trial->calls[GPU] = *call;
    for (int device = 0; device < DEVICES; device++) {
        for (uint32_t o = 0; o < output_count; o++) {
            struct kernel_output *output = &trial->calls[device].outputs[o];
            output->type = outputs[o];
            array_bytes(&outputs[o], &output->bytes);
            output->data = calloc(1, output->bytes);
        }
        for (uint32_t i = 0; i < manifest->input_count; i++)
            if (manifest->inputs[i].roles & MANIFEST_BROADCAST) {
                trial->calls[device].inputs[i].broadcast = true;
                trial->calls[device].inputs[i].keep = &trial->keeps[device][i];
            }
    }
    return true;
}

/* Later rounds find the broadcast input kept. */
static bool run(struct trial *trial, int device)
{
    for (int round = 0; round < (timed ? 3 : 2); round++) {
        const double begin = now_s();
        if (kernel_run(&trial->calls[device], device == GPU ? gpu : NULL)) {
            printf("FAIL %s on the %s: %s\n", trial->test->kernel, device == GPU ? "GPU" : "CPU",
                   trial->calls[device].message);
            return false;
        }
        trial->seconds[device] = now_s() - begin;
    }
    return true;
}

static bool compare(const struct trial *trial, char verdict[64])
{
    const struct kernel_call *const cpu = &trial->calls[CPU], *const other = &trial->calls[GPU];
    bool good = true;
    if (trial->manifest->class == MANIFEST_TOLERANT && trial->test->inputs[0].dtype == ARRAY_FLOAT32) {
        const double worst = float_error(other);
        snprintf(verdict, 64, "%.2g of the tolerance", worst);
        return worst <= 1;
    }
    for (uint32_t o = 0; o < cpu->output_count; o++)
        good = good && memcmp(cpu->outputs[o].data, other->outputs[o].data, cpu->outputs[o].bytes) == 0;
    snprintf(verdict, 64, "%s", good ? "same bits" : "DIFFERENT BITS");
    return good;
}

static void run_case(const struct test_case *test)
{
    struct trial trial = {.test = test};
    char verdict[64], first[ARRAY_TYPE_TEXT_BYTES];
    if (!prepare(&trial) || !run(&trial, CPU) || !run(&trial, GPU)) {
        failures++;
        release(&trial);
        return;
    }
    const bool good = compare(&trial, verdict);
    const double operations =
        trial.manifest->cost(&trial.shapes, &trial.params).operations * (double)test->items;
    failures += !good;
    printf("%s %-10s %-26s items %8llu  %-22s CPU %9.3f ms  GPU %9.3f ms  %8.2f Gop/s\n",
           good ? "ok  " : "FAIL", test->kernel,
           trial.manifest->input_count ? array_type_text(&test->inputs[0], first) : "",
           (unsigned long long)test->items, verdict, trial.seconds[CPU] * 1e3, trial.seconds[GPU] * 1e3,
           operations / trial.seconds[GPU] * 1e-9);
    release(&trial);
}

#define MATRIX(dtype, rows, columns)                                                                         \
    {                                                                                                        \
        dtype, 2,                                                                                            \
        {                                                                                                    \
            rows, columns                                                                                    \
        }                                                                                                    \
    }

#define VECTOR(dtype, rows)                                                                                  \
    {                                                                                                        \
        dtype, 1,                                                                                            \
        {                                                                                                    \
            rows                                                                                             \
        }                                                                                                    \
    }

static const struct test_case small_cases[] = {
    {"noop", {0}, {MATRIX(ARRAY_RAW, 100, 7)}, 100},
    {"spin", {"us=0"}, {{0}}, 10},
    {"embed", {0}, {{ARRAY_TEXT, 1, {1}}}, 1},
    {"embed", {0}, {{ARRAY_TEXT, 1, {40}}}, 40},
    {"knn", {"k=1", "distances=yes"}, {MATRIX(ARRAY_INT8, 1, 1), MATRIX(ARRAY_INT8, 1, 1)}, 1},
    {"knn", {"k=70", "distances=yes"}, {MATRIX(ARRAY_INT8, 70, 3), MATRIX(ARRAY_INT8, 5, 3)}, 5},
    {"knn", {"k=10", "distances=yes"}, {MATRIX(ARRAY_INT8, 1000, 1), MATRIX(ARRAY_INT8, 3, 1)}, 3}, /* ties */
    {"knn", {"k=5"}, {MATRIX(ARRAY_INT8, 130, 66), MATRIX(ARRAY_INT8, 67, 66)}, 67},
    {"matmul", {0}, {MATRIX(ARRAY_INT8, 3, 5), MATRIX(ARRAY_INT8, 5, 7)}, 3},
    {"matmul", {0}, {MATRIX(ARRAY_INT8, 65, 70), MATRIX(ARRAY_INT8, 70, 66)}, 65},
    {"matmul", {0}, {MATRIX(ARRAY_FLOAT32, 20, 33), MATRIX(ARRAY_FLOAT32, 33, 18)}, 20},
    {"matmul", {"precision=bfloat16"}, {MATRIX(ARRAY_FLOAT32, 20, 33), MATRIX(ARRAY_FLOAT32, 33, 18)}, 20},
    {"kmeans", {0}, {MATRIX(ARRAY_INT8, 1, 1), MATRIX(ARRAY_INT64, 1, 1), VECTOR(ARRAY_INT64, 1)}, 1},
    {"kmeans", {0}, {MATRIX(ARRAY_INT8, 150, 33), MATRIX(ARRAY_INT64, 70, 33), VECTOR(ARRAY_INT64, 70)}, 150},
    {"nbody", {"dt=0.1"}, {MATRIX(ARRAY_FLOAT32, 3, 7)}, 1},
    {"nbody", {"softening=0.05"}, {MATRIX(ARRAY_FLOAT32, 600, 7)}, 300},
    {"render", {"width=17", "height=12", "samples=4"}, {{ARRAY_TEXT, 1, {20}}}, 9},
    {"render", {"width=8", "height=6", "samples=9", "depth=3", "seed=77"}, {{ARRAY_TEXT, 1, {3}}}, 4},
    {"montecarlo", {"paths=1024"}, {MATRIX(ARRAY_FLOAT64, 3, 5)}, 3},
    {"montecarlo", {"paths=256", "book=yes"}, {MATRIX(ARRAY_FLOAT64, 7, 5)}, 7},
    {"montecarlo", {"paths=512", "style=asian", "steps=7", "side=put"}, {MATRIX(ARRAY_FLOAT64, 2, 5)}, 2},
};

static const struct test_case large_cases[] = {
    {"noop", {0}, {MATRIX(ARRAY_RAW, 5000, 200)}, 5000},
    {"embed", {0}, {{ARRAY_TEXT, 1, {4096}}}, 4096},
    {"knn", {"k=1024"}, {MATRIX(ARRAY_INT8, 5000, 64), MATRIX(ARRAY_INT8, 50, 64)}, 50},
    {"knn", {"k=3", "distances=yes"}, {MATRIX(ARRAY_INT8, 2000, 4096), MATRIX(ARRAY_INT8, 20, 4096)}, 20},
    {"knn", {"k=5"}, {MATRIX(ARRAY_INT8, 104334, 256), MATRIX(ARRAY_INT8, 10000, 256)}, 10000},
    {"matmul", {0}, {MATRIX(ARRAY_INT8, 1000, 2048), MATRIX(ARRAY_INT8, 2048, 2048)}, 1000},
    {"matmul", {0}, {MATRIX(ARRAY_FLOAT32, 4096, 4096), MATRIX(ARRAY_FLOAT32, 4096, 4096)}, 4096},
    {"matmul",
     {"precision=bfloat16"},
     {MATRIX(ARRAY_FLOAT32, 2048, 4096), MATRIX(ARRAY_FLOAT32, 4096, 4096)},
     2048},
    {"kmeans",
     {0},
     {MATRIX(ARRAY_INT8, 200000, 256), MATRIX(ARRAY_INT64, 256, 256), VECTOR(ARRAY_INT64, 256)},
     200000},
    {"nbody", {0}, {MATRIX(ARRAY_FLOAT32, 100000, 7)}, 8000},
    {"render", {"width=640", "height=360", "samples=64"}, {{ARRAY_TEXT, 1, {80}}}, 64},
    {"montecarlo", {"paths=1048576"}, {MATRIX(ARRAY_FLOAT64, 200, 5)}, 200},
    {"montecarlo", {"paths=65536", "style=asian"}, {MATRIX(ARRAY_FLOAT64, 50, 5)}, 50},
};

int main(int argc, char **argv)
{
    char message[MANIFEST_ERROR_BYTES];
    struct gpu_info info;
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    timed = argc <= 2; /* a second argument: the small cases only */
    if (!gpu_built() || gpu_count() == 0) {
        printf("skipped: %s\n", gpu_built() ? "no GPU here" : "built without a CUDA compiler");
        return 77;
    }
    if (!gpu_describe(0, &info, message) || !gpu_open(&gpu, 0, message)) {
        printf("FAIL %s\n", message);
        return 1;
    }
    printf("seed %u, %s, compute %u.%u, %u multiprocessors, %.1f GiB\n", seed, info.name, info.compute_major,
           info.compute_minor, info.processors, (double)info.memory_bytes / 1073741824.0);
    srand(seed);
    for (size_t i = 0; i < sizeof small_cases / sizeof *small_cases; i++)
        run_case(&small_cases[i]);
    for (size_t i = 0; timed && i < sizeof large_cases / sizeof *large_cases; i++)
        run_case(&large_cases[i]);
    gpu_close(gpu);
    return failures ? 1 : 0;
}
