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
    const char *settings[4];
    struct array_type inputs[2];
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

static void *random_input(const struct array_type *type, uint64_t *bytes)
{
    if (type->dtype == ARRAY_TEXT)
        return random_text(type->shape[0], bytes);
    array_bytes(type, bytes);
    uint8_t *data = malloc(*bytes);
    for (uint64_t i = 0; i < *bytes; i++)
        data[i] = (uint8_t)(rand() >> 5);
    if (type->dtype == ARRAY_FLOAT32)
        for (uint64_t i = 0; i < *bytes / 4; i++)
            ((float *)(void *)data)[i] = (float)any(-1, 1);
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

/* The largest error of a float product, in units of the tolerance; it is recomputed in doubles. */
static double float_error(const struct kernel_call *call)
{
    const float *a = call->inputs[0].data, *b = call->inputs[1].data, *c = call->outputs[0].data;
    const uint64_t k = call->inputs[1].type.shape[0], n = call->inputs[1].type.shape[1];
    double worst = 0;
    for (int sample = 0; sample < 2000; sample++) {
        const uint64_t i = (uint64_t)rand() % call->items, j = (uint64_t)rand() % n;
        double sum = 0, size = 0;
        for (uint64_t depth = 0; depth < k; depth++) {
            const double product = (double)a[i * k + depth] * (double)b[depth * n + j];
            sum += product;
            size += fabs(product);
        }
        worst = fmax(worst, fabs((double)c[i * n + j] - sum) / (size * call->manifest->tolerance));
    }
    return worst;
}

static void run_case(const struct test_case *test)
{
    const struct manifest *manifest = manifest_find(test->kernel);
    struct kernel_call calls[2] = {{.manifest = manifest, .items = test->items, .first_item = 12345}};
    struct manifest_params params;
    struct kernel_keep keeps[2] = {0};
    struct manifest_shapes shapes = {.items = test->items};
    struct array_type outputs[MANIFEST_OUTPUTS_MAX];
    char error[MANIFEST_ERROR_BYTES], first[ARRAY_TYPE_TEXT_BYTES];
    void *data[2] = {NULL, NULL};
    size_t count = 0;
    while (count < 4 && test->settings[count])
        count++;
    bool good = manifest_params_parse(manifest, test->settings, count, &params, error) == MANIFEST_OK;
    for (uint32_t i = 0; i < manifest->input_count; i++) {
        struct kernel_input *input = &calls[0].inputs[i];
        data[i] = random_input(&test->inputs[i], &input->bytes);
        input->data = data[i];
        input->type = test->inputs[i];
        shapes.inputs[i] = test->inputs[i];
        shapes.roles[i] = manifest->inputs[i].roles;
        shapes.split_bytes += input->bytes;
    }
    good = good && manifest_outputs(manifest, &params, &shapes, outputs, &calls[0].output_count, error) ==
                       MANIFEST_OK;
    if (!good) {
        printf("FAIL %s: %s\n", test->kernel, error);
        failures++;
        return;
    }
    calls[0].params = &params;
    calls[1] = calls[0];
    for (int device = 0; device < 2; device++)
        for (uint32_t i = 0; i < calls[0].output_count; i++) {
            struct kernel_output *output = &calls[device].outputs[i];
            output->type = outputs[i];
            array_bytes(&outputs[i], &output->bytes);
            output->data = calloc(1, output->bytes);
        }
    for (uint32_t i = 0; i < manifest->input_count; i++)
        if (manifest->inputs[i].roles & MANIFEST_BROADCAST)
            for (int device = 0; device < 2; device++)
                calls[device].inputs[i].keep = &keeps[device];

    double seconds[2] = {0, 0};
    for (int device = 0; device < 2; device++)
        for (int round = 0; round < (timed ? 3 : 2);
             round++) { /* later rounds find the broadcast input kept */
            const double begin = now_s();
            if (kernel_run(&calls[device], device ? gpu : NULL)) {
                printf("FAIL %s on the %s: %s\n", test->kernel, device ? "GPU" : "CPU",
                       calls[device].message);
                failures++;
                goto done;
            }
            seconds[device] = now_s() - begin;
        }
    const double operations = manifest->cost(&shapes, &params).operations * (double)test->items;
    const char *verdict = "same bits";
    char text[64];
    if (manifest->class == MANIFEST_TOLERANT && test->inputs[0].dtype == ARRAY_FLOAT32) {
        const double worst = float_error(&calls[1]);
        snprintf(text, sizeof text, "%.2g of the tolerance", worst);
        verdict = text;
        good = worst <= 1;
    } else {
        for (uint32_t i = 0; i < calls[0].output_count; i++)
            good = good &&
                   memcmp(calls[0].outputs[i].data, calls[1].outputs[i].data, calls[0].outputs[i].bytes) == 0;
        verdict = good ? verdict : "DIFFERENT BITS";
    }
    failures += !good;
    printf("%s %-10s %-26s items %8llu  %-22s CPU %9.3f ms  GPU %9.3f ms  %8.2f Gop/s\n",
           good ? "ok  " : "FAIL", test->kernel,
           manifest->input_count ? array_type_text(&test->inputs[0], first) : "",
           (unsigned long long)test->items, verdict, seconds[0] * 1e3, seconds[1] * 1e3,
           operations / seconds[1] * 1e-9);
done:
    for (int i = 0; i < 2; i++) {
        kernel_keep_release(&keeps[i]);
        free(data[i]);
        for (uint32_t j = 0; j < calls[0].output_count; j++)
            free(calls[i].outputs[j].data);
    }
}

#define MATRIX(dtype, rows, columns)                                                                         \
    {                                                                                                        \
        dtype, 2,                                                                                            \
        {                                                                                                    \
            rows, columns                                                                                    \
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
