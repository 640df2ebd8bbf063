/* Nearest neighbours on a CPU.
 *
 * The base is packed once and kept with the broadcast input. It is then walked in blocks that fit the
 * second-level cache beside the block's products; every query of the shard meets a block before the next
 * block is touched. |q - b|^2 = |q|^2 + |b|^2 - 2 q.b, all in int32 for up to 4096 dimensions of int8 (at
 * most 255^2 * 4096 = 2.7e8).
 *
 * Each query keeps its k best so far in a max-heap of (distance << 32 | row). Rows come in ascending order,
 * so a row as far as the worst kept one is never better: one comparison throws out nearly every row. */
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/builtin.h"
#include "kernels/dot8.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

#define BLOCK_BYTES (96u << 10) /* of packed base */

struct packed_base {
    uint8_t *panels;
    int32_t *squares; /* |b|^2 of each row, INT32_MAX / 2 in the padding of the last panel */
};

struct neighbours {
    size_t k;
    uint64_t *heap;  /* k keys per query */
    int32_t *limits; /* distance of the worst kept, per query; INT32_MAX while not full */
    uint32_t *sizes;
};

/* One query's products with a block of the base. */
struct products {
    size_t query;
    int32_t square; /* of the query */
    size_t first_row, count;
    const int32_t *squares, *products; /* of each row of the block, in whole panels */
};
typedef void look_function(const struct neighbours *found, const struct products *of);

static struct packed_base *base_pack(const struct kernel_input *base);
static void base_release(void *memory);
static look_function *look_best(void);
static void write_sorted(const struct neighbours *found, size_t query, int32_t *index, int32_t *distance);

static int32_t square_of(const int8_t *row, size_t dimensions)
{
    int32_t sum = 0;
    for (size_t j = 0; j < dimensions; j++)
        sum += row[j] * row[j];
    return sum;
}

enum kernel_error knn_run(struct kernel_call *call)
{
    const struct kernel_input *base = &call->inputs[0], *query = &call->inputs[1];
    const size_t rows = (size_t)base->type.shape[0], dimensions = (size_t)base->type.shape[1];
    const size_t stride = dot8_stride(dimensions), items = (size_t)call->items;
    const size_t batch = dot8_batch().rows; /* of queries, whose products are made and then looked through */
    const size_t k = (size_t)manifest_param_integer(call->params, KNN_K);
    size_t block = BLOCK_BYTES / stride / DOT8_PANEL * DOT8_PANEL;
    block = block < 3 * DOT8_PANEL ? 3 * DOT8_PANEL : block / (3 * DOT8_PANEL) * (3 * DOT8_PANEL);

    look_function *const look_through = look_best();
    enum kernel_error result = KERNEL_OK;
    struct packed_base *packed = base->keep ? base->keep->memory : NULL;
    const bool kept = packed != NULL;
    if (!packed)
        packed = base_pack(base);
    struct neighbours found = {
        .k = k,
        .heap = malloc(items * k * sizeof *found.heap),
        .limits = malloc(items * sizeof *found.limits),
        .sizes = calloc(items, sizeof *found.sizes),
    };
    int8_t *queries = dot8_alloc(items * stride);
    int32_t *squares = malloc(items * sizeof *squares),
            *products = dot8_alloc(batch * block * sizeof *products);
    if (!packed || !found.heap || !found.limits || !found.sizes || !queries || !squares || !products) {
        result = kernel_fail(call, KERNEL_FAILED, "knn: out of memory for %zu queries", items);
        goto done;
    }
    for (size_t q = 0; q < items; q++) {
        const int8_t *row = (const int8_t *)query->data + q * dimensions;
        memset(queries + (q + 1) * stride - 4, 0, 4);
        memcpy(queries + q * stride, row, dimensions);
        squares[q] = square_of(row, dimensions);
        found.limits[q] = INT32_MAX;
    }
    for (size_t first = 0; first < rows; first += block) {
        const size_t count = rows - first < block ? rows - first : block;
        for (size_t q = 0; q < items; q += batch) {
            const size_t height = items - q < batch ? items - q : batch;
            dot8_product(queries + q * stride, height, packed->panels + first * stride, count, dimensions,
                         products, block);
            for (size_t i = 0; i < height; i++)
                look_through(&found, &(struct products){.query = q + i,
                                                        .square = squares[q + i],
                                                        .first_row = first,
                                                        .count = count,
                                                        .squares = packed->squares + first,
                                                        .products = products + i * block});
            if (kernel_pulse(call)) {
                result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
                goto done;
            }
        }
    }
    int32_t *index = call->outputs[0].data, *distance = call->output_count > 1 ? call->outputs[1].data : NULL;
    for (size_t q = 0; q < items; q++)
        write_sorted(&found, q, index + q * k, distance ? distance + q * k : NULL);

done:
    if (packed && !kept) {
        if (base->keep) {
            base->keep->memory = packed;
            base->keep->release = base_release;
        } else {
            base_release(packed);
        }
    }
    free(products);
    free(squares);
    free(queries);
    free(found.sizes);
    free(found.limits);
    free(found.heap);
    return result;
}

static struct packed_base *base_pack(const struct kernel_input *base)
{
    const size_t rows = (size_t)base->type.shape[0], dimensions = (size_t)base->type.shape[1];
    const size_t padded = (rows + DOT8_PANEL - 1) / DOT8_PANEL * DOT8_PANEL;
    struct packed_base *packed = calloc(1, sizeof *packed);
    if (!packed)
        return NULL;
    packed->panels = dot8_alloc(dot8_packed_bytes(rows, dimensions));
    packed->squares = malloc(padded * sizeof *packed->squares);
    if (!packed->panels || !packed->squares) {
        base_release(packed);
        return NULL;
    }
    dot8_pack_rows(base->data, dimensions, rows, dimensions, packed->panels);
    for (size_t row = 0; row < rows; row++)
        packed->squares[row] = square_of((const int8_t *)base->data + row * dimensions, dimensions);
    for (size_t row = rows; row < padded; row++)
        packed->squares[row] = INT32_MAX / 2;
    return packed;
}

static void base_release(void *memory)
{
    struct packed_base *packed = memory;
    free(packed->panels);
    free(packed->squares);
    free(packed);
}

static void sift_down(uint64_t *heap, size_t size, size_t at)
{
    const uint64_t key = heap[at];
    for (size_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && heap[child + 1] > heap[child])
            child++;
        if (heap[child] <= key)
            break;
        heap[at] = heap[child];
    }
    heap[at] = key;
}

static void keep(const struct neighbours *found, size_t query, uint64_t key)
{
    uint64_t *heap = found->heap + query * found->k;
    if (found->sizes[query] < found->k) {
        heap[found->sizes[query]++] = key;
        if (found->sizes[query] < found->k)
            return;
        for (size_t at = found->k / 2; at-- > 0;)
            sift_down(heap, found->k, at);
    } else {
        heap[0] = key;
        sift_down(heap, found->k, 0);
    }
    found->limits[query] = (int32_t)(heap[0] >> 32);
}

/* How far a row may be from the query, less the query's square. Padding rows lie far beyond any real distance, so a group of
 * rows may be judged whole. */
static inline int32_t limit_of(const struct neighbours *found, const struct products *of)
{
    const int32_t limit = found->limits[of->query];
    return limit == INT32_MAX ? INT32_MAX / 4 : limit - of->square;
}

/* `nearer` has a bit for each row from `group` on that seemed near enough; since then the limit may have become less. */
static inline void keep_nearer(const struct neighbours *found, const struct products *of, size_t group,
                               uint64_t nearer)
{
    for (; nearer; nearer &= nearer - 1) {
        const size_t row = group + (size_t)__builtin_ctzll(nearer);
        const int32_t distance = of->square + of->squares[row] - 2 * of->products[row];
        if (row < of->count && distance < found->limits[of->query])
            keep(found, of->query, (uint64_t)(uint32_t)distance << 32 | (of->first_row + row));
    }
}

static void look_portable(const struct neighbours *found, const struct products *of)
{
    for (size_t group = 0; group < of->count; group += DOT8_PANEL) {
        const int32_t limit = limit_of(found, of);
        uint64_t nearer = 0;
        for (size_t row = 0; row < DOT8_PANEL; row++) {
            const int32_t gap = of->squares[group + row] - 2 * of->products[group + row];
            nearer |= (uint64_t)(gap < limit) << row;
        }
        keep_nearer(found, of, group, nearer);
    }
}

#if defined(__x86_64__)
/* By hand: what compilers make of the loop above costs a third of the products' time. */
__attribute__((target("avx2"))) static void look_avx2(const struct neighbours *found,
                                                      const struct products *of)
{
    for (size_t group = 0; group < of->count; group += DOT8_PANEL) {
        const __m256i limit = _mm256_set1_epi32(limit_of(found, of));
        const __m256i *squares = (const __m256i *)(const void *)(of->squares + group);
        const __m256i *products = (const __m256i *)(const void *)(of->products + group);
        uint64_t nearer = 0;
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            const __m256i product = _mm256_loadu_si256(products + half);
            const __m256i gap =
                _mm256_sub_epi32(_mm256_loadu_si256(squares + half), _mm256_slli_epi32(product, 1));
            const __m256i less = _mm256_cmpgt_epi32(limit, gap);
            nearer |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(less)) << (8 * half);
        }
        keep_nearer(found, of, group, nearer);
    }
}

__attribute__((target("avx512f"))) static void look_avx512(const struct neighbours *found,
                                                           const struct products *of)
{
    for (size_t group = 0; group < of->count; group += 4 * DOT8_PANEL) {
        const __m512i limit = _mm512_set1_epi32(limit_of(found, of));
        const int32_t *squares = of->squares + group, *products = of->products + group;
        const size_t panels = (of->count - group + DOT8_PANEL - 1) / DOT8_PANEL;
        uint64_t nearer = 0;
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            if (p < panels) {
                const __m512i product = _mm512_loadu_si512(products + p * DOT8_PANEL);
                const __m512i gap = _mm512_sub_epi32(_mm512_loadu_si512(squares + p * DOT8_PANEL),
                                                     _mm512_slli_epi32(product, 1));
                nearer |= (uint64_t)_mm512_cmplt_epi32_mask(gap, limit) << (16 * p);
            }
        keep_nearer(found, of, group, nearer);
    }
}
#endif

static look_function *look_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return look_avx512;
    if (__builtin_cpu_supports("avx2"))
        return look_avx2;
#endif
    return look_portable;
}

static void write_sorted(const struct neighbours *found, size_t query, int32_t *index, int32_t *distance)
{
    uint64_t *heap = found->heap + query * found->k;
    for (size_t size = found->k; size > 0; size--) {
        index[size - 1] = (int32_t)(heap[0] & 0xffffffffu);
        if (distance)
            distance[size - 1] = (int32_t)(heap[0] >> 32);
        heap[0] = heap[size - 1];
        if (size > 1)
            sift_down(heap, size - 1, 0);
    }
}

#define GPU_TILE 64
#define GPU_DISTANCE_BYTES (512ull << 20) /* of one chunk of queries */

/* Padded rows and their squares: [rows * words] then [rows]. */
static bool launch_prepare(struct gpu_work *work, uint64_t raw, uint64_t rows, uint32_t dimensions,
                           uint32_t words, uint64_t ready)
{
    uint64_t squares = ready + rows * words * 4;
    return gpu_launch(work, "knn", "knn_prepare",
                      (struct gpu_grid){.x = (uint32_t)((rows + 127) / 128), .threads = 128},
                      (void *[]){&raw, &rows, &dimensions, &words, &ready, &squares});
}

/* A chunk of queries at a time, so that the distances fit. */
bool knn_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct kernel_call *call = &work->calls[0];
    const struct array_type *base = &call->inputs[0].type;
    uint32_t rows = (uint32_t)base->shape[0], dimensions = (uint32_t)base->shape[1];
    uint32_t words = (uint32_t)(dot8_stride(dimensions) / 4);
    uint32_t k = (uint32_t)manifest_param_integer(call->params, KNN_K);
    const uint64_t fitting = 1 + GPU_DISTANCE_BYTES / ((uint64_t)rows * 4);
    const uint64_t chunk = fitting < 65535ull * GPU_TILE ? fitting : 65535ull * GPU_TILE; /* of grid.y */
    bool fresh;
    uint64_t ready = gpu_keep(work, 0, rows * (words + 1ull) * 4, &fresh);
    if (ready && fresh) {
        const uint64_t raw = gpu_broadcast(work, 0);
        if (!raw || !launch_prepare(work, raw, rows, dimensions, words, ready))
            return false;
    }
    const uint64_t queries = gpu_scratch(work, 1, count * (words + 1ull) * 4);
    uint64_t distances = gpu_scratch(work, 2, (count < chunk ? count : chunk) * rows * 4);
    if (!ready || !queries || !distances ||
        !launch_prepare(work, work->inputs[1] + first * dimensions, count, dimensions, words, queries))
        return false;
    uint64_t base_squares = ready + (uint64_t)rows * words * 4;
    for (uint64_t done = 0; done < count; done += chunk) {
        uint32_t height = (uint32_t)(count - done < chunk ? count - done : chunk);
        uint64_t from = queries + done * words * 4, squares = queries + (count * words + done) * 4;
        uint64_t index = work->outputs[0] + (first + done) * k * 4;
        uint64_t distance = call->output_count > 1 ? work->outputs[1] + (first + done) * k * 4 : 0;
        if (!gpu_launch(
                work, "knn", "knn_distances",
                (struct gpu_grid){.x = (rows + GPU_TILE - 1) / GPU_TILE,
                                  .y = (height + GPU_TILE - 1) / GPU_TILE,
                                  .threads = 256},
                (void *[]){&ready, &base_squares, &rows, &from, &squares, &height, &words, &distances}) ||
            !gpu_launch(work, "knn", "knn_select", (struct gpu_grid){.x = height, .threads = 256},
                        (void *[]){&distances, &rows, &k, &index, &distance}))
            return false;
    }
    return true;
}
