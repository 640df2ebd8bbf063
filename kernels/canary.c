#include "kernels/canary.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"
#include "kernels/worker_serve.h"

#define CPU_ORDER 512u /* of the matrices: 0.27 GFLOP a product */
#define PROBE_ORDER 64u
#define GPU_MFLOPS_MIN 500 /* at that order, where a GPU mostly waits */
#define GPU_ORDER 4096u
#define COPY_BYTES (UINT64_C(32) << 20) /* more than caches hold */
#define MEASURE_NS 100000000            /* and at least twice */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

typedef bool once_fn(void *context);

/* The shortest of several runs, in nanoseconds; 0 if one fails. The first one warms up and does not count. */
static int64_t best_ns(once_fn *once, void *context)
{
    int64_t best = INT64_MAX;
    if (!once(context))
        return 0;
    const int64_t began = now_ns();
    for (int run = 0; run < 2 || now_ns() - began < MEASURE_NS; run++) {
        const int64_t from = now_ns();
        if (!once(context))
            return 0;
        const int64_t took = now_ns() - from;
        best = took < best ? took : best;
    }
    return best > 0 ? best : 1;
}

/* ---- Products */

struct product {
    struct kernel_call call;
    struct manifest_params params;
    struct kernel_keep keep;
    struct gpu *gpu;
};

static bool multiply(void *context)
{
    struct product *product = context;
    return kernel_run(&product->call, product->gpu) == KERNEL_OK;
}

static struct array_type square(uint32_t order)
{
    return (struct array_type){.dtype = ARRAY_FLOAT32, .rank = 2, .shape = {order, order}};
}

static uint64_t measure_products(struct gpu *gpu, uint32_t order)
{
    static _Atomic uint64_t stamp;
    static const _Atomic uint32_t cancel;
    const uint64_t count = (uint64_t)order * order, bytes = count * sizeof(float);
    float *matrix = malloc(3 * bytes);
    struct product product = {.gpu = gpu};
    char error[MANIFEST_ERROR_BYTES];
    const struct manifest *manifest = manifest_find("matmul");
    if (!matrix || !manifest || manifest_params_parse(manifest, NULL, 0, &product.params, error)) {
        free(matrix);
        return 0;
    }
    for (uint64_t i = 0; i < 3 * count; i++)
        matrix[i] = (float)(i % 17) * 0.25f;
    product.call = (struct kernel_call){
        .manifest = manifest,
        .params = &product.params,
        .items = order,
        .inputs = {{.data = matrix, .bytes = bytes, .type = square(order)},
                   {.data = matrix + count, .bytes = bytes, .type = square(order), .keep = &product.keep}},
        .outputs = {{.data = matrix + 2 * count, .bytes = bytes, .type = square(order)}},
        .output_count = 1,
        .watch = {.stamp = &stamp, .cancel = &cancel},
    };
    const int64_t best = best_ns(multiply, &product);
    kernel_keep_release(&product.keep);
    free(matrix);
    return best > 0 ? 2 * count * order * 1000 / (uint64_t)best : 0;
}

/* Large ones fill a GPU, if small ones show that it is one: a driver that plays a GPU on a core would be at it for minutes. */
static uint64_t measure_mflops(struct gpu *gpu)
{
    if (!gpu)
        return measure_products(NULL, CPU_ORDER);
    const uint64_t mflops = measure_products(gpu, PROBE_ORDER);
    return mflops > GPU_MFLOPS_MIN ? measure_products(gpu, GPU_ORDER) : mflops;
}

/* ---- Copies */

/* Host memory; on a GPU, with the few calls of the driver that this takes, in the context that gpu_open made current. */
struct copy {
    uint8_t *from, *to;
    uint64_t device_from, device_to;
    int (*cuMemAlloc_v2)(uint64_t *, size_t);
    int (*cuMemFree_v2)(uint64_t);
    int (*cuMemAllocHost_v2)(void **, size_t);
    int (*cuMemFreeHost)(void *);
    int (*cuMemcpyHtoD_v2)(uint64_t, const void *, size_t);
    int (*cuMemcpyDtoD_v2)(uint64_t, uint64_t, size_t);
    int (*cuCtxSynchronize)(void);
};

static bool copy_host(void *context)
{
    struct copy *copy = context;
    memcpy(copy->to, copy->from, COPY_BYTES);
    __asm__ volatile("" : : "r"(copy->to) : "memory"); /* it is read */
    return true;
}

static bool copy_up(void *context)
{
    struct copy *copy = context;
    return copy->cuMemcpyHtoD_v2(copy->device_to, copy->from, COPY_BYTES) == 0 &&
           copy->cuCtxSynchronize() == 0;
}

static bool copy_inside(void *context)
{
    struct copy *copy = context;
    return copy->cuMemcpyDtoD_v2(copy->device_to, copy->device_from, COPY_BYTES) == 0 &&
           copy->cuCtxSynchronize() == 0;
}

static uint64_t mbps(uint64_t bytes, int64_t ns)
{
    return ns > 0 ? bytes * 1000 / (uint64_t)ns : 0;
}

static bool find_calls(void *driver, struct copy *copy)
{
#define FIND(name)                                                                                           \
    *(void **)&copy->name = dlsym(driver, #name);                                                            \
    if (!copy->name)                                                                                         \
        return false;
    FIND(cuMemAlloc_v2)
    FIND(cuMemFree_v2)
    FIND(cuMemAllocHost_v2)
    FIND(cuMemFreeHost)
    FIND(cuMemcpyHtoD_v2)
    FIND(cuMemcpyDtoD_v2)
    FIND(cuCtxSynchronize)
#undef FIND
    return true;
}

static void measure_gpu_copies(uint64_t *memory, uint64_t *link)
{
    struct copy copy = {0};
    void *pinned = NULL;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver || !find_calls(driver, &copy))
        return;
    if (copy.cuMemAlloc_v2(&copy.device_from, COPY_BYTES) == 0 &&
        copy.cuMemAlloc_v2(&copy.device_to, COPY_BYTES) == 0) {
        *memory = mbps(2 * COPY_BYTES, best_ns(copy_inside, &copy));
        if (copy.cuMemAllocHost_v2(&pinned, COPY_BYTES) == 0) {
            copy.from = pinned;
            memset(copy.from, 1, COPY_BYTES);
            *link = mbps(COPY_BYTES, best_ns(copy_up, &copy));
            copy.cuMemFreeHost(pinned);
        }
    }
    if (copy.device_from)
        copy.cuMemFree_v2(copy.device_from);
    if (copy.device_to)
        copy.cuMemFree_v2(copy.device_to);
    dlclose(driver);
}

static uint64_t measure_host_copies(void)
{
    struct copy copy = {.from = malloc(COPY_BYTES), .to = malloc(COPY_BYTES)};
    uint64_t rate = 0;
    if (copy.from && copy.to) {
        memset(copy.from, 1, COPY_BYTES);
        rate = mbps(2 * COPY_BYTES, best_ns(copy_host, &copy));
    }
    free(copy.from);
    free(copy.to);
    return rate;
}

int worker_canary(const char *name)
{
    struct worker_device device;
    struct gpu *gpu;
    char message[MANIFEST_ERROR_BYTES];
    if (!worker_device_open(name, &device, &gpu, message)) {
        fprintf(stderr, "weir-worker: %s\n", message);
        return 2;
    }
    kernel_prepare();
    uint64_t memory = 0, link = 0;
    const uint64_t mflops = measure_mflops(gpu);
    if (gpu)
        measure_gpu_copies(&memory, &link);
    else
        memory = measure_host_copies();
    gpu_close(gpu);
    printf("{\"device\":\"%s:%u\",\"mflops\":%llu,\"memory_mbps\":%llu,\"link_mbps\":%llu}\n", device.kind,
           device.index, (unsigned long long)mflops, (unsigned long long)memory, (unsigned long long)link);
    return fflush(stdout) == 0 ? 0 : 1;
}
