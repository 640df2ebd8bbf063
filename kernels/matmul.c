/* Matrix products on a CPU: float32 through OpenBLAS (opened at the first use; a plain blocked loop where it
 * is absent), int8 through the exact dot products of dot8.h. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/builtin.h"
#include "kernels/dot8.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

#define ROWS_AT_ONCE 256   /* between two pulses */
#define DEPTH_AT_ONCE 2048 /* int8: three panels, 96 KiB, stay in the second-level cache */

/* The constants of cblas.h, whose ABI has been fixed since 1998. */
enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANSPOSE = 111 };
typedef void sgemm_function(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                            const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

static enum kernel_error run_float(struct kernel_call *call);
static enum kernel_error run_int8(struct kernel_call *call);

enum kernel_error matmul_run(struct kernel_call *call)
{
    return call->inputs[0].type.dtype == ARRAY_INT8 ? run_int8(call) : run_float(call);
}

/* One thread: the node counts slots, and a worker that takes all cores would break its promise. */
static sgemm_function *find_sgemm(void)
{
    static sgemm_function *found;
    static bool tried;
    if (tried)
        return found;
    tried = true;
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return NULL;
    void (*set_threads)(int) = (void (*)(int))dlsym(library, "openblas_set_num_threads");
    if (set_threads)
        set_threads(1);
    found = (sgemm_function *)dlsym(library, "cblas_sgemm");
    return found;
}

/* Opens the library and lets it take its memory, while files can still be opened and memory be bound. It takes none for small
 * products (up to a million multiplications on some processors), so this one is larger. */
void matmul_prepare(void)
{
    enum { SIDE = 128 };
    sgemm_function *sgemm = find_sgemm();
    float *matrix = sgemm ? calloc(3, SIDE * SIDE * sizeof *matrix) : NULL;
    if (matrix)
        sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_NO_TRANSPOSE, SIDE, SIDE, SIDE, 1.0f, matrix, SIDE,
              matrix + SIDE * SIDE, SIDE, 0.0f, matrix + 2 * SIDE * SIDE, SIDE);
    free(matrix);
}

static void plain_sgemm(const float *a, const float *b, float *c, size_t m, size_t n, size_t k)
{
    memset(c, 0, m * n * sizeof *c);
    for (size_t block = 0; block < k; block += 64)
        for (size_t i = 0; i < m; i++)
            for (size_t j = block; j < k && j < block + 64; j++) {
                const float factor = a[i * k + j];
                for (size_t column = 0; column < n; column++)
                    c[i * n + column] += factor * b[j * n + column];
            }
}

static void round_to_bfloat(const float *from, float *to, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = matmul_bfloat(from[i]);
}

/* The inputs as the precision asked for has them: b is rounded once and kept with it. False without memory. */
static bool with_precision(struct kernel_call *call, const float **b, float **rows, size_t k, size_t n)
{
    struct kernel_keep *keep = call->inputs[1].keep;
    if (manifest_param_integer(call->params, MATMUL_PRECISION) == 0)
        return true;
    float *rounded = keep ? keep->memory : NULL;
    if (!rounded) {
        rounded = malloc(k * n * sizeof *rounded);
        if (rounded)
            round_to_bfloat(*b, rounded, k * n);
    }
    *rows = malloc(ROWS_AT_ONCE * k * sizeof **rows);
    if (keep && rounded) {
        keep->memory = rounded;
        keep->release = free;
    }
    *b = rounded;
    return rounded && *rows;
}

static enum kernel_error run_float(struct kernel_call *call)
{
    const float *a = call->inputs[0].data, *b = call->inputs[1].data;
    float *c = call->outputs[0].data, *rounded_rows = NULL;
    const size_t m = (size_t)call->items, k = (size_t)call->inputs[1].type.shape[0];
    const size_t n = (size_t)call->inputs[1].type.shape[1];
    sgemm_function *sgemm = find_sgemm();
    enum kernel_error result = KERNEL_OK;
    if (!with_precision(call, &b, &rounded_rows, k, n))
        result = kernel_fail(call, KERNEL_FAILED, "matmul: out of memory for %zu rows", m);
    for (size_t row = 0; row < m && !result; row += ROWS_AT_ONCE) {
        const size_t rows = m - row < ROWS_AT_ONCE ? m - row : ROWS_AT_ONCE;
        const float *from = a + row * k;
        if (rounded_rows) {
            round_to_bfloat(from, rounded_rows, rows * k);
            from = rounded_rows;
        }
        if (sgemm)
            sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_NO_TRANSPOSE, (int)rows, (int)n, (int)k, 1.0f,
                  from, (int)k, b, (int)n, 0.0f, c + row * n, (int)n);
        else
            plain_sgemm(from, b, c + row * n, rows, n, k);
        if (kernel_pulse(call))
            result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
    }
    if (rounded_rows && !call->inputs[1].keep)
        free((float *)(uintptr_t)b);
    free(rounded_rows);
    return result;
}

/* b in panels, slice of depth after slice; kept with it, since packing it takes as long as some 20 rows. */
static uint8_t *packed_b(const struct kernel_input *b, size_t k, size_t n)
{
    uint8_t *packed = b->keep ? b->keep->memory : NULL;
    if (packed)
        return packed;
    packed = dot8_alloc(dot8_packed_bytes(n, k));
    for (size_t first = 0; packed && first < k; first += DEPTH_AT_ONCE)
        dot8_pack_columns((const int8_t *)b->data + first * n, n, n,
                          k - first < DEPTH_AT_ONCE ? k - first : DEPTH_AT_ONCE,
                          packed + dot8_packed_bytes(n, first));
    if (b->keep && packed) {
        b->keep->memory = packed;
        b->keep->release = free;
    }
    return packed;
}

/* What the products of one slice of depth are made with, and into. */
struct slice {
    size_t first, depth; /* of k */
    const uint8_t *packed;
    int8_t *rows;      /* ROWS_AT_ONCE */
    int32_t *products; /* as many rows by `columns` */
    size_t columns;    /* of c at once, in whole panels */
};

/* Some columns of c: the sums of one slice. */
static void add_products(int32_t *c, size_t stride, const struct slice *slice, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            c[i * stride + j] =
                (slice->first == 0 ? 0 : c[i * stride + j]) + slice->products[i * slice->columns + j];
}

/* The rows are laid out once, and each group of columns meets them all. False when cancelled. */
static bool add_slice(const struct kernel_call *call, const struct slice *slice, const int8_t *a, int32_t *c,
                      size_t rows)
{
    const size_t k = (size_t)call->inputs[1].type.shape[0], n = (size_t)call->inputs[1].type.shape[1];
    const size_t stride = dot8_stride(slice->depth);
    for (size_t i = 0; i < rows; i++) {
        memset(slice->rows + (i + 1) * stride - 4, 0, 4);
        memcpy(slice->rows + i * stride, a + i * k + slice->first, slice->depth);
    }
    for (size_t column = 0; column < n; column += slice->columns) {
        const size_t columns = n - column < slice->columns ? n - column : slice->columns;
        /* Nothing to add, nothing beyond. */
        const bool direct = slice->first == 0 && columns % DOT8_PANEL == 0;
        dot8_product(slice->rows, rows, slice->packed + column * stride, columns, slice->depth,
                     direct ? c + column : slice->products, direct ? n : slice->columns);
        if (!direct)
            add_products(c + column, n, slice, rows, columns);
        if (kernel_pulse(call))
            return false;
    }
    return true;
}

static enum kernel_error run_int8(struct kernel_call *call)
{
    const int8_t *a = call->inputs[0].data;
    int32_t *c = call->outputs[0].data;
    const size_t m = (size_t)call->items, k = (size_t)call->inputs[1].type.shape[0];
    const size_t n = (size_t)call->inputs[1].type.shape[1];
    const size_t rows_max = m < ROWS_AT_ONCE ? m : ROWS_AT_ONCE, columns = dot8_batch().columns;
    uint8_t *packed = packed_b(&call->inputs[1], k, n);
    int8_t *rows = dot8_alloc(rows_max * dot8_stride(k < DEPTH_AT_ONCE ? k : DEPTH_AT_ONCE));
    int32_t *products = dot8_alloc(rows_max * columns * sizeof *products);
    enum kernel_error result = KERNEL_OK;
    if (!rows || !packed || !products)
        result = kernel_fail(call, KERNEL_FAILED, "matmul: out of memory for %zu rows", rows_max);
    for (size_t row = 0; row < m && !result; row += ROWS_AT_ONCE)
        for (size_t first = 0; first < k && !result; first += DEPTH_AT_ONCE) {
            const struct slice slice = {.first = first,
                                        .depth = k - first < DEPTH_AT_ONCE ? k - first : DEPTH_AT_ONCE,
                                        .packed = packed + dot8_packed_bytes(n, first),
                                        .rows = rows,
                                        .products = products,
                                        .columns = columns};
            if (!add_slice(call, &slice, a + row * k, c + row * n,
                           m - row < ROWS_AT_ONCE ? m - row : ROWS_AT_ONCE))
                result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
        }
    if (!call->inputs[1].keep)
        free(packed);
    free(products);
    free(rows);
    return result;
}

/* b as the faster products want it, kept with it: int8 transposed, float32 narrowed to bfloat16. 0 on failure. */
static uint64_t prepared(struct gpu_work *work, const char *function, uint64_t bytes, uint32_t n, uint32_t k)
{
    bool fresh;
    uint64_t ready = gpu_keep(work, 1, bytes, &fresh), b = ready && fresh ? gpu_broadcast(work, 1) : 0;
    uint64_t count = (uint64_t)n * k;
    if (!ready || (fresh && !b))
        return 0;
    const bool transpose = strcmp(function, "matmul_transpose") == 0;
    if (fresh && !gpu_launch(work, "matmul", function,
                             (struct gpu_grid){.x = (uint32_t)((count + 255) / 256), .threads = 256},
                             transpose ? (void *[]){&b, &k, &n, &ready} : (void *[]){&b, &count, &ready}))
        return 0;
    return ready;
}

/* By cuBLASLt. False, without an error, if it is not there or refuses. */
static bool launch_library(struct gpu_work *work, uint64_t a, uint64_t c, uint32_t m, uint32_t n, uint32_t k)
{
    const struct kernel_call *call = &work->calls[0];
    if (!gpu_products(work->gpu))
        return false;
    if (call->inputs[0].type.dtype == ARRAY_INT8) {
        const uint64_t b = n % 4 || k % 4 ? 0 : prepared(work, "matmul_transpose", (uint64_t)n * k, n, k);
        return b && gpu_product(work, GPU_PRODUCT_INT8, a, b, c, m, n, k);
    }
    if (manifest_param_integer(call->params, MATMUL_PRECISION) == 0) {
        const uint64_t b = gpu_broadcast(work, 1);
        return b && gpu_product(work, GPU_PRODUCT_FLOAT, a, b, c, m, n, k);
    }
    const uint64_t b = prepared(work, "matmul_narrow", 2ull * n * k, n, k);
    uint64_t narrow = gpu_scratch(work, 1, 2ull * m * k), count = (uint64_t)m * k;
    return b && narrow &&
           gpu_launch(work, "matmul", "matmul_narrow",
                      (struct gpu_grid){.x = (uint32_t)((count + 255) / 256), .threads = 256},
                      (void *[]){&a, &count, &narrow}) &&
           gpu_product(work, GPU_PRODUCT_BFLOAT, narrow, b, c, m, n, k);
}

bool matmul_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct kernel_call *call = &work->calls[0];
    const bool integers = call->inputs[0].type.dtype == ARRAY_INT8;
    uint32_t n = (uint32_t)call->inputs[1].type.shape[1], k = (uint32_t)call->inputs[1].type.shape[0];
    uint32_t m = (uint32_t)count, rounded = manifest_param_integer(call->params, MATMUL_PRECISION) != 0;
    const uint32_t tile = integers ? 64 : 16;
    if (count > 1u << 19) /* the grid's second axis ends at 65,535 tiles */
        return matmul_launch(work, first, count / 2) &&
               matmul_launch(work, first + count / 2, count - count / 2);
    uint64_t a = work->inputs[0] + first * k * (integers ? 1 : 4), c = work->outputs[0] + first * n * 4;
    if (launch_library(work, a, c, m, n, k))
        return true;
    uint64_t b = gpu_broadcast(work, 1);
    const struct gpu_grid grid = {.x = (n + tile - 1) / tile, .y = (m + tile - 1) / tile, .threads = 256};
    return b && gpu_launch(work, "matmul", integers ? "matmul_int8" : "matmul_float", grid,
                           integers ? (void *[]){&a, &b, &c, &m, &n, &k}
                                    : (void *[]){&a, &b, &c, &m, &n, &k, &rounded});
}
