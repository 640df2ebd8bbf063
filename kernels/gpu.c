#include "kernels/gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_images.h"

/* The part of the driver API that is used, as published in cuda.h; the suffixes _v2 are part of the symbols.
 */
typedef int cu_result;
typedef int cu_device;
enum { CU_MULTIPROCESSORS = 16, CU_COMPUTE_MAJOR = 75, CU_COMPUTE_MINOR = 76 };

#define DRIVER_FUNCTIONS(F)                                                                                  \
    F(cuInit, (unsigned))                                                                                    \
    F(cuDeviceGetCount, (int *))                                                                             \
    F(cuDeviceGet, (cu_device *, int))                                                                       \
    F(cuDeviceGetName, (char *, int, cu_device))                                                             \
    F(cuDeviceTotalMem_v2, (size_t *, cu_device))                                                            \
    F(cuDeviceGetAttribute, (int *, int, cu_device))                                                         \
    F(cuDevicePrimaryCtxRetain, (void **, cu_device))                                                        \
    F(cuDevicePrimaryCtxRelease_v2, (cu_device))                                                             \
    F(cuCtxSetCurrent, (void *))                                                                             \
    F(cuCtxSynchronize, (void))                                                                              \
    F(cuModuleLoadData, (void **, const void *))                                                             \
    F(cuModuleGetFunction, (void **, void *, const char *))                                                  \
    F(cuMemAlloc_v2, (uint64_t *, size_t))                                                                   \
    F(cuMemFree_v2, (uint64_t))                                                                              \
    F(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))                                                     \
    F(cuMemcpyDtoH_v2, (void *, uint64_t, size_t))                                                           \
    F(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, \
                       void **, void **))                                                                    \
    F(cuGetErrorString, (cu_result, const char **))

static struct {
    bool tried, loaded;
#define FIELD(name, parameters) cu_result(*name) parameters;
    DRIVER_FUNCTIONS(FIELD)
#undef FIELD
} driver;

/* The part of cuBLASLt that is used, as published in cublasLt.h. */
enum { CUBLAS_COMPUTE_32F = 68, CUDA_R_32F = 0 };

struct blas {
    bool tried;
    void *handle;
    int (*create)(void **handle);
    int (*desc_create)(void **desc, int compute, int scale);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t leading);
    int (*desc_destroy)(void *desc);
    int (*layout_destroy)(void *layout);
    int (*matmul)(void *handle, void *desc, const void *alpha, uint64_t a, void *a_layout, uint64_t b,
                  void *b_layout, const void *beta, uint64_t c, void *c_layout, uint64_t d, void *d_layout,
                  const void *algorithm, uint64_t workspace, size_t workspace_bytes, void *stream);
};

#define MODULES_MAX 8

struct gpu {
    cu_device device;
    void *context;
    void *modules[MODULES_MAX]; /* in the order of gpu_images */
    bool broken;
    char message[MANIFEST_ERROR_BYTES];
    struct blas blas;
};

static bool driver_load(void);
static bool check(struct gpu *gpu, cu_result result, const char *what);

bool gpu_built(void)
{
    return gpu_image_count > 0;
}

unsigned gpu_count(void)
{
    int count = 0;
    return driver_load() && driver.cuDeviceGetCount(&count) == 0 && count > 0 ? (unsigned)count : 0;
}

bool gpu_describe(unsigned index, struct gpu_info *info, char message[MANIFEST_ERROR_BYTES])
{
    cu_device device;
    size_t memory = 0;
    int major = 0, minor = 0, processors = 0;
    *info = (struct gpu_info){0};
    if (!driver_load()) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u: no CUDA driver (libcuda.so.1) works here", index);
        return false;
    }
    if (driver.cuDeviceGet(&device, (int)index) != 0 ||
        driver.cuDeviceGetName(info->name, (int)sizeof info->name, device) != 0 ||
        driver.cuDeviceTotalMem_v2(&memory, device) != 0 ||
        driver.cuDeviceGetAttribute(&major, CU_COMPUTE_MAJOR, device) != 0 ||
        driver.cuDeviceGetAttribute(&minor, CU_COMPUTE_MINOR, device) != 0 ||
        driver.cuDeviceGetAttribute(&processors, CU_MULTIPROCESSORS, device) != 0) {
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "cuda:%u: this machine has %u GPUs; `weir-worker --list` shows them", index, gpu_count());
        return false;
    }
    info->memory_bytes = memory;
    info->compute_major = (uint32_t)major;
    info->compute_minor = (uint32_t)minor;
    info->processors = (uint32_t)processors;
    return true;
}

bool gpu_open(struct gpu **out, unsigned index, char message[MANIFEST_ERROR_BYTES])
{
    *out = NULL;
    if (!gpu_built()) {
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "cuda:%u: this weir-worker was built without a CUDA compiler; build it where nvcc is found",
                 index);
        return false;
    }
    struct gpu_info info;
    if (!gpu_describe(index, &info, message))
        return false;
    struct gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u: out of memory", index);
        return false;
    }
    bool good = check(gpu, driver.cuDeviceGet(&gpu->device, (int)index), "find the device") &&
                check(gpu, driver.cuDevicePrimaryCtxRetain(&gpu->context, gpu->device), "make a context") &&
                check(gpu, driver.cuCtxSetCurrent(gpu->context), "set the context");
    for (size_t i = 0; good && i < gpu_image_count && i < MODULES_MAX; i++)
        good = check(gpu, driver.cuModuleLoadData(&gpu->modules[i], gpu_images[i].image), "load the kernels");
    if (!good) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u (%s): %.200s", index, info.name, gpu->message);
        gpu_close(gpu);
        return false;
    }
    *out = gpu;
    return true;
}

void gpu_close(struct gpu *gpu)
{
    if (!gpu)
        return;
    if (gpu->context)
        driver.cuDevicePrimaryCtxRelease_v2(gpu->device);
    free(gpu);
}

bool gpu_broken(const struct gpu *gpu)
{
    return gpu->broken;
}

const char *gpu_message(const struct gpu *gpu)
{
    return gpu->message;
}

uint64_t gpu_alloc(struct gpu *gpu, uint64_t bytes)
{
    uint64_t memory = 0;
    if (gpu->broken)
        return 0;
    /* Out of memory is no fault of the device: the shard fails, the worker lives. */
    const cu_result result = driver.cuMemAlloc_v2(&memory, bytes ? bytes : 1);
    if (result == 2) {
        snprintf(gpu->message, sizeof gpu->message, "the GPU has no %llu bytes free",
                 (unsigned long long)bytes);
        return 0;
    }
    return check(gpu, result, "allocate memory") ? memory : 0;
}

void gpu_free(struct gpu *gpu, uint64_t memory)
{
    if (memory && !gpu->broken)
        check(gpu, driver.cuMemFree_v2(memory), "free memory");
}

bool gpu_upload(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes)
{
    return !gpu->broken && check(gpu, driver.cuMemcpyHtoD_v2(to, from, bytes), "copy to the GPU");
}

bool gpu_download(struct gpu *gpu, void *to, uint64_t from, uint64_t bytes)
{
    return !gpu->broken && check(gpu, driver.cuMemcpyDtoH_v2(to, from, bytes), "copy from the GPU");
}

uint64_t gpu_input(struct gpu *gpu, const struct kernel_input *input, bool *kept)
{
    *kept = input->keep != NULL;
    if (input->keep && input->keep->device)
        return input->keep->device;
    const uint64_t memory = gpu_alloc(gpu, input->bytes);
    if (!memory)
        return 0;
    if (!gpu_upload(gpu, memory, input->data, input->bytes)) {
        gpu_free(gpu, memory);
        return 0;
    }
    if (input->keep) {
        input->keep->device = memory;
        input->keep->device_of = gpu;
    }
    return memory;
}

bool gpu_launch(struct gpu *gpu, const char *module, const char *function, struct gpu_grid grid,
                void **arguments)
{
    void *handle = NULL;
    if (gpu->broken)
        return false;
    for (size_t i = 0; i < gpu_image_count && i < MODULES_MAX; i++)
        if (strcmp(gpu_images[i].name, module) == 0) {
            return check(gpu, driver.cuModuleGetFunction(&handle, gpu->modules[i], function), function) &&
                   check(gpu,
                         driver.cuLaunchKernel(handle, grid.x, grid.y ? grid.y : 1, grid.z ? grid.z : 1,
                                               grid.threads, 1, 1, grid.shared_bytes, NULL, arguments, NULL),
                         function);
        }
    snprintf(gpu->message, sizeof gpu->message, "this worker has no CUDA code for %s", module);
    return false;
}

bool gpu_wait(struct gpu *gpu)
{
    return !gpu->broken && check(gpu, driver.cuCtxSynchronize(), "run a kernel");
}

static struct blas *blas_open(struct gpu *gpu)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    struct blas *blas = &gpu->blas;
    if (blas->tried)
        return blas->handle ? blas : NULL;
    blas->tried = true;
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return NULL;
    *(void **)&blas->create = dlsym(library, "cublasLtCreate");
    *(void **)&blas->desc_create = dlsym(library, "cublasLtMatmulDescCreate");
    *(void **)&blas->layout_create = dlsym(library, "cublasLtMatrixLayoutCreate");
    *(void **)&blas->desc_destroy = dlsym(library, "cublasLtMatmulDescDestroy");
    *(void **)&blas->layout_destroy = dlsym(library, "cublasLtMatrixLayoutDestroy");
    *(void **)&blas->matmul = dlsym(library, "cublasLtMatmul");
    if (!blas->create || !blas->desc_create || !blas->layout_create || !blas->desc_destroy ||
        !blas->layout_destroy || !blas->matmul || blas->create(&blas->handle) != 0)
        blas->handle = NULL;
    return blas->handle ? blas : NULL;
}

/* cuBLASLt is column-major, in which our row-major c is c^T [n, m] = b^T [n, k] a^T [k, m]. */
bool gpu_blas_sgemm(struct gpu *gpu, uint64_t a, uint64_t b, uint64_t c, uint64_t m, uint64_t n, uint64_t k)
{
    const float one = 1, zero = 0;
    void *desc = NULL, *left = NULL, *right = NULL, *result = NULL;
    struct blas *blas = gpu->broken ? NULL : blas_open(gpu);
    if (!blas) {
        snprintf(gpu->message, sizeof gpu->message, "cuBLASLt (libcublasLt.so) is not here");
        return false;
    }
    const bool good = blas->desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
                      blas->layout_create(&left, CUDA_R_32F, n, k, (int64_t)n) == 0 &&
                      blas->layout_create(&right, CUDA_R_32F, k, m, (int64_t)k) == 0 &&
                      blas->layout_create(&result, CUDA_R_32F, n, m, (int64_t)n) == 0 &&
                      blas->matmul(blas->handle, desc, &one, b, left, a, right, &zero, c, result, c, result,
                                   NULL, 0, 0, NULL) == 0;
    if (result)
        blas->layout_destroy(result);
    if (right)
        blas->layout_destroy(right);
    if (left)
        blas->layout_destroy(left);
    if (desc)
        blas->desc_destroy(desc);
    if (!good)
        snprintf(gpu->message, sizeof gpu->message, "cuBLASLt refuses a product of %llu x %llu x %llu",
                 (unsigned long long)m, (unsigned long long)n, (unsigned long long)k);
    return good;
}

static bool driver_load(void)
{
    if (driver.tried)
        return driver.loaded;
    driver.tried = true;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    bool complete = true;
#define FIND(name, parameters)                                                                               \
    *(void **)&driver.name = dlsym(library, #name);                                                          \
    complete = complete && driver.name;
    DRIVER_FUNCTIONS(FIND)
#undef FIND
    driver.loaded = complete && driver.cuInit(0) == 0;
    return driver.loaded;
}

static bool check(struct gpu *gpu, cu_result result, const char *what)
{
    const char *text = NULL;
    if (result == 0)
        return true;
    if (driver.cuGetErrorString(result, &text) != 0 || !text)
        text = "unknown error";
    snprintf(gpu->message, sizeof gpu->message, "could not %s: %s (CUDA error %d)", what, text, result);
    gpu->broken = true;
    return false;
}
