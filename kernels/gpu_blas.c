/* Matrix products by cuBLASLt, opened at the first use: it is half a gigabyte. */
#include <dlfcn.h>
#include <stdlib.h>

#include "kernels/gpu_state.h"

#define WORKSPACE_BYTES (32u << 20) /* as NVIDIA advises for Hopper */
#define WORKSPACE 0                 /* which scratch memory holds it */

/* As published in cublasLt.h, cublas_api.h and library_types.h. */
enum { COMPUTE_32F = 68, COMPUTE_32I = 72 };
enum { R_32F = 0, R_8I = 3, R_32I = 10, R_16BF = 14 };
enum { DESC_TRANSA = 3 };
enum { PREFERENCE_WORKSPACE_BYTES = 1 };

struct algorithm { /* cublasLtMatmulHeuristicResult_t */
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

struct gpu_blas {
    void *handle;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*desc_create)(void **desc, int compute, int scale);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*desc_destroy)(void *desc);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t leading);
    int (*layout_destroy)(void *layout);
    int (*preference_create)(void **preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*preference_destroy)(void *preference);
    int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                     int wanted, struct algorithm *found, int *count);
    int (*matmul)(void *handle, void *desc, const void *alpha, uint64_t a, void *a_layout, uint64_t b,
                  void *b_layout, const void *beta, uint64_t c, void *c_layout, uint64_t d, void *d_layout,
                  const void *algorithm, uint64_t workspace, size_t workspace_bytes, void *stream);
};

static bool find_all(struct gpu_blas *blas, void *library)
{
    const struct {
        void *place;
        const char *name;
    } functions[] = {
        {&blas->create, "cublasLtCreate"},
        {&blas->destroy, "cublasLtDestroy"},
        {&blas->desc_create, "cublasLtMatmulDescCreate"},
        {&blas->desc_set, "cublasLtMatmulDescSetAttribute"},
        {&blas->desc_destroy, "cublasLtMatmulDescDestroy"},
        {&blas->layout_create, "cublasLtMatrixLayoutCreate"},
        {&blas->layout_destroy, "cublasLtMatrixLayoutDestroy"},
        {&blas->preference_create, "cublasLtMatmulPreferenceCreate"},
        {&blas->preference_set, "cublasLtMatmulPreferenceSetAttribute"},
        {&blas->preference_destroy, "cublasLtMatmulPreferenceDestroy"},
        {&blas->heuristic, "cublasLtMatmulAlgoGetHeuristic"},
        {&blas->matmul, "cublasLtMatmul"},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        *(void **)functions[i].place = dlsym(library, functions[i].name);
        if (!*(void **)functions[i].place)
            return false;
    }
    return true;
}

static struct gpu_blas *blas_open(struct gpu *gpu)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    if (gpu->blas)
        return gpu->blas->handle ? gpu->blas : NULL;
    gpu->blas = calloc(1, sizeof *gpu->blas);
    if (!gpu->blas)
        return NULL;
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library || !find_all(gpu->blas, library) || gpu->blas->create(&gpu->blas->handle) != 0)
        gpu->blas->handle = NULL;
    return gpu->blas->handle ? gpu->blas : NULL;
}

void gpu_blas_close(struct gpu *gpu)
{
    if (gpu->blas && gpu->blas->handle && !gpu->broken)
        gpu->blas->destroy(gpu->blas->handle);
    free(gpu->blas);
    gpu->blas = NULL;
}

bool gpu_products(struct gpu *gpu)
{
    return !gpu->broken && blas_open(gpu) != NULL;
}

static const struct {
    int compute, scale, in, out;
    int transpose_left;
} kinds[] = {
    [GPU_PRODUCT_FLOAT] = {COMPUTE_32F, R_32F, R_32F, R_32F, 0}, /* COMPUTE_32F never takes TF32 */
    [GPU_PRODUCT_BFLOAT] = {COMPUTE_32F, R_32F, R_16BF, R_32F, 0},
    [GPU_PRODUCT_INT8] = {COMPUTE_32I, R_32I, R_8I, R_32I, 1},
};

/* Column-major, as cuBLASLt is, our row-major c is c^T [n, m] = b^T [n, k] a^T [k, m]. */
bool gpu_product(struct gpu_work *work, enum gpu_product kind, uint64_t a, uint64_t b, uint64_t c, uint64_t m,
                 uint64_t n, uint64_t k)
{
    struct gpu *gpu = work->gpu;
    struct gpu_blas *blas = gpu->broken ? NULL : blas_open(gpu);
    if (!blas)
        return false;
    const float one = 1, zero = 0;
    const int32_t whole_one = 1, whole_zero = 0;
    const bool whole = kind == GPU_PRODUCT_INT8;
    const int transpose = kinds[kind].transpose_left, in = kinds[kind].in, out = kinds[kind].out;
    const size_t workspace_bytes = WORKSPACE_BYTES;
    const uint64_t workspace = gpu_scratch(work, WORKSPACE, WORKSPACE_BYTES);
    void *desc = NULL, *left = NULL, *right = NULL, *result = NULL, *preference = NULL;
    struct algorithm algorithm;
    int found = 0;
    const bool good = workspace && blas->desc_create(&desc, kinds[kind].compute, kinds[kind].scale) == 0 &&
                      blas->desc_set(desc, DESC_TRANSA, &transpose, sizeof transpose) == 0 &&
                      blas->layout_create(&left, in, transpose ? k : n, transpose ? n : k,
                                          (int64_t)(transpose ? k : n)) == 0 &&
                      blas->layout_create(&right, in, k, m, (int64_t)k) == 0 &&
                      blas->layout_create(&result, out, n, m, (int64_t)n) == 0 &&
                      blas->preference_create(&preference) == 0 &&
                      blas->preference_set(preference, PREFERENCE_WORKSPACE_BYTES, &workspace_bytes,
                                           sizeof workspace_bytes) == 0 &&
                      blas->heuristic(blas->handle, desc, left, right, result, result, preference, 1,
                                      &algorithm, &found) == 0 &&
                      found == 1 && gpu_await_uploads(gpu) &&
                      blas->matmul(blas->handle, desc, whole ? (const void *)&whole_one : &one, b, left, a,
                                   right, whole ? (const void *)&whole_zero : &zero, c, result, c, result,
                                   &algorithm, workspace, WORKSPACE_BYTES, gpu->compute) == 0;
    if (preference)
        blas->preference_destroy(preference);
    if (result)
        blas->layout_destroy(result);
    if (right)
        blas->layout_destroy(right);
    if (left)
        blas->layout_destroy(left);
    if (desc)
        blas->desc_destroy(desc);
    return good;
}
