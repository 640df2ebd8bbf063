/* One round of k-means on a CPU: scores by the exact dot products of dot8.h, some points and all centres at a time. */
#include "kernels/kmeans_core.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/builtin.h"
#include "kernels/dot8.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

struct centres {
    size_t count, dimensions;
    uint8_t *high, *low; /* packed by dot8 */
    int64_t *squares;    /* KMEANS_SCORE_NONE: takes no point */
};

static void centres_free(struct centres *centres)
{
    free(centres->high);
    free(centres->low);
    free(centres->squares);
}

/* From sums and counts, in a time that is small beside a shard's: nothing is kept. */
static bool centres_make(struct centres *centres, const int64_t *sums, const int64_t *counts, size_t count,
                         size_t dimensions)
{
    *centres = (struct centres){.count = count,
                                .dimensions = dimensions,
                                .high = dot8_alloc(dot8_packed_bytes(count, dimensions)),
                                .low = dot8_alloc(dot8_packed_bytes(count, dimensions)),
                                .squares = malloc(count * sizeof *centres->squares)};
    int8_t *high = malloc(count * dimensions), *low = malloc(count * dimensions);
    const bool good = centres->high && centres->low && centres->squares && high && low;
    for (size_t k = 0; good && k < count; k++) {
        int64_t square = 0;
        for (size_t j = 0; j < dimensions; j++) {
            const int32_t centre = kmeans_centre(sums[k * dimensions + j], counts[k]);
            high[k * dimensions + j] = kmeans_high(centre);
            low[k * dimensions + j] = kmeans_low(centre);
            square += (int64_t)centre * centre;
        }
        centres->squares[k] = counts[k] > 0 ? square : KMEANS_SCORE_NONE;
    }
    if (good) {
        dot8_pack_rows(high, dimensions, count, dimensions, centres->high);
        dot8_pack_rows(low, dimensions, count, dimensions, centres->low);
    }
    free(high);
    free(low);
    return good;
}

static int32_t nearest(const struct centres *centres, const int32_t *high, const int32_t *low, int64_t *score)
{
    int32_t best = 0;
    *score = INT64_MAX;
    for (size_t k = 0; k < centres->count; k++) {
        const int64_t each = kmeans_score(centres->squares[k], high[k], low[k]);
        if (each < *score) {
            *score = each;
            best = (int32_t)k;
        }
    }
    return best;
}

enum kernel_error kmeans_run(struct kernel_call *call)
{
    const int8_t *points = call->inputs[KMEANS_POINT].data;
    const struct array_type *type = &call->inputs[KMEANS_SUM].type;
    const size_t dimensions = (size_t)type->shape[1], stride = dot8_stride(dimensions),
                 count = (size_t)type->shape[0];
    const size_t width = (count + DOT8_PANEL - 1) / DOT8_PANEL * DOT8_PANEL, batch = dot8_batch().rows;
    int32_t *labels = call->outputs[KMEANS_LABEL].data;
    int64_t *sums = call->outputs[KMEANS_NEW_SUM].data, *counts = call->outputs[KMEANS_NEW_COUNT].data;
    int64_t *spread = call->outputs[KMEANS_SPREAD].data;
    struct centres centres;
    int8_t *rows = dot8_alloc(batch * stride);
    int32_t *high = dot8_alloc(batch * width * sizeof *high);
    int32_t *low = dot8_alloc(batch * width * sizeof *low);
    enum kernel_error result = KERNEL_OK;
    if (!centres_make(&centres, call->inputs[KMEANS_SUM].data, call->inputs[KMEANS_COUNT].data, count,
                      dimensions) ||
        !rows || !high || !low) {
        result = kernel_fail(call, KERNEL_FAILED, "kmeans: out of memory for %zu centres", count);
        goto done;
    }
    memset(sums, 0, count * dimensions * sizeof *sums);
    memset(counts, 0, count * sizeof *counts);
    *spread = 0;
    for (uint64_t first = 0; first < call->items; first += batch) {
        const size_t height = call->items - first < batch ? (size_t)(call->items - first) : batch;
        for (size_t i = 0; i < height; i++) {
            memset(rows + (i + 1) * stride - 4, 0, 4);
            memcpy(rows + i * stride, points + (first + i) * dimensions, dimensions);
        }
        dot8_product(rows, height, centres.high, count, dimensions, high, width);
        dot8_product(rows, height, centres.low, count, dimensions, low, width);
        for (size_t i = 0; i < height; i++) {
            const int8_t *point = points + (first + i) * dimensions;
            int64_t score, *sum;
            const int32_t label = nearest(&centres, high + i * width, low + i * width, &score);
            int32_t square = 0;
            labels[first + i] = label;
            counts[label]++;
            sum = sums + (size_t)label * dimensions;
            for (size_t j = 0; j < dimensions; j++) {
                sum[j] += point[j];
                square += point[j] * point[j];
            }
            *spread += kmeans_distance(square, score);
        }
        if (kernel_pulse(call)) {
            result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
            goto done;
        }
    }
done:
    centres_free(&centres);
    free(rows);
    free(high);
    free(low);
    return result;
}

/* The points of each call add to that call's sums. */
static bool launch_sums(struct gpu_work *work, uint64_t first, uint64_t count, uint32_t k,
                        uint32_t dimensions, uint64_t spreads)
{
    uint64_t begin = 0;
    for (uint32_t i = 0; i < work->count; begin += work->calls[i++].items) {
        const uint64_t from = begin > first ? begin : first, end = begin + work->calls[i].items;
        const uint64_t to = end < first + count ? end : first + count;
        if (from >= to)
            continue;
        uint64_t points = work->inputs[KMEANS_POINT] + from * dimensions,
                 labels = work->outputs[KMEANS_LABEL] + 4 * from;
        uint64_t distances = spreads + 8 * (from - first), part = to - from;
        uint64_t sums = work->outputs[KMEANS_NEW_SUM] + (uint64_t)i * k * dimensions * 8;
        uint64_t counts = work->outputs[KMEANS_NEW_COUNT] + (uint64_t)i * k * 8;
        uint64_t spread = work->outputs[KMEANS_SPREAD] + (uint64_t)i * 8;
        if (!gpu_launch(
                work, "kmeans", "kmeans_add",
                (struct gpu_grid){.x = (uint32_t)((part + 63) / 64), .threads = 256},
                (void *[]){&points, &labels, &distances, &part, &dimensions, &sums, &counts, &spread}))
            return false;
    }
    return true;
}

bool kmeans_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct array_type *type = &work->calls[0].inputs[KMEANS_SUM].type;
    uint32_t k = (uint32_t)type->shape[0], dimensions = (uint32_t)type->shape[1],
             words = (dimensions + 3) / 4;
    uint64_t sums = gpu_broadcast(work, KMEANS_SUM), counts = gpu_broadcast(work, KMEANS_COUNT);
    uint64_t squares = gpu_scratch(work, 1, k * (8 + 8ull * words)),
             distances = gpu_scratch(work, 2, 8 * count);
    if (!sums || !counts || !squares || !distances)
        return false;
    uint64_t high = squares + 8ull * k, low = high + 4ull * k * words;
    uint64_t points = work->inputs[KMEANS_POINT] + first * dimensions,
             labels = work->outputs[KMEANS_LABEL] + 4 * first;
    return gpu_launch(work, "kmeans", "kmeans_centres", (struct gpu_grid){.x = k, .threads = 128},
                      (void *[]){&sums, &counts, &dimensions, &words, &high, &low, &squares}) &&
           gpu_launch(work, "kmeans", "kmeans_label",
                      (struct gpu_grid){.x = (uint32_t)((count + 63) / 64), .threads = 256},
                      (void *[]){&points, &count, &dimensions, &words, &high, &low, &squares, &k, &labels,
                                 &distances}) &&
           launch_sums(work, first, count, k, dimensions, distances);
}
