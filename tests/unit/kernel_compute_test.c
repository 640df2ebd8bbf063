/* Each kernel on a CPU against a slow, obvious reference, on fresh random input. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/builtin.h"
#include "kernels/dot8.h"
#include "kernels/kernel.h"

static const char *const dot8_variants[] = {"avx512vnni", "avx2", "portable"};

kernel_function montecarlo_run_portable, nbody_run_portable;

static int8_t any_byte(void)
{
    /* The extremes come often: they are what saturates. */
    return (int8_t)(rand() % 4 == 0 ? (rand() % 2 ? 127 : -128) : rand() % 256 - 128);
}

static int8_t *random_bytes(size_t count)
{
    int8_t *bytes = malloc(count ? count : 1);
    for (size_t i = 0; i < count; i++)
        bytes[i] = any_byte();
    return bytes;
}

static struct manifest_params params_of(const char *kernel, const char *const *settings, size_t count)
{
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    assert_int_equal(manifest_params_parse(manifest_find(kernel), settings, count, &params, error),
                     MANIFEST_OK);
    return params;
}

static void dot8_variants_agree_with_a_plain_loop(void **state)
{
    (void)state;
    static const struct {
        size_t rows, columns, depth;
    } shapes[] = {{1, 1, 1},    {1, 16, 4},     {3, 17, 5},      {8, 48, 64},   {9, 49, 63},
                  {5, 31, 255}, {13, 100, 256}, {4, 64, 4096},   {16, 48, 130}, {2, 3, 100},
                  {8, 16, 3},   {67, 33, 515},  {135, 16, 1030}, {62, 16, 12},  {7, 17, 516}};
    for (size_t v = 0; v < sizeof dot8_variants / sizeof *dot8_variants; v++) {
        if (!dot8_select(dot8_variants[v])) {
            printf("not on this CPU: %s\n", dot8_variants[v]);
            continue;
        }
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const size_t rows = shapes[s].rows, columns = shapes[s].columns, depth = shapes[s].depth;
            const size_t stride = dot8_stride(depth), out_stride = (columns + 15) / 16 * 16;
            int8_t *a = random_bytes(rows * stride), *b = random_bytes(columns * depth);
            int8_t *transposed = malloc(columns * depth);
            uint8_t *packed = dot8_alloc(dot8_packed_bytes(columns, depth));
            uint8_t *packed_too = dot8_alloc(dot8_packed_bytes(columns, depth));
            int32_t *out = dot8_alloc(rows * out_stride * sizeof *out);
            for (size_t c = 0; c < columns; c++)
                for (size_t j = 0; j < depth; j++)
                    transposed[j * columns + c] = b[c * depth + j];
            dot8_pack_rows(b, depth, columns, depth, packed);
            dot8_pack_columns(transposed, columns, columns, depth, packed_too);
            assert_memory_equal(packed, packed_too, dot8_packed_bytes(columns, depth));
            dot8_product(a, rows, packed, columns, depth, out, out_stride);
            for (size_t r = 0; r < rows; r++)
                for (size_t c = 0; c < columns; c++) {
                    int32_t sum = 0;
                    for (size_t j = 0; j < depth; j++)
                        sum += a[r * stride + j] * b[c * depth + j];
                    assert_int_equal(out[r * out_stride + c], sum);
                }
            free(a), free(b), free(transposed), free(packed), free(packed_too), free(out);
        }
    }
    dot8_select(NULL);
}

struct candidate {
    int64_t distance;
    int32_t row;
};

static int by_distance_then_row(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    return a->distance != b->distance ? (a->distance > b->distance) - (a->distance < b->distance)
                                      : a->row - b->row;
}

static void check_knn(size_t rows, size_t queries, size_t dimensions, int k, bool many_ties)
{
    int8_t *base = random_bytes(rows * dimensions), *query = random_bytes(queries * dimensions);
    if (many_ties)
        for (size_t i = 0; i < rows * dimensions; i++)
            base[i] = (int8_t)(base[i] & 1);
    char setting[32];
    snprintf(setting, sizeof setting, "k=%d", k);
    const struct manifest_params params = params_of("knn", (const char *[]){setting, "distances=yes"}, 2);
    int32_t *index = malloc(queries * (size_t)k * 4), *distance = malloc(queries * (size_t)k * 4);
    struct kernel_keep keep = {0};
    struct kernel_call call = {
        .manifest = manifest_find("knn"), .params = &params, .items = queries, .output_count = 2};
    call.inputs[0] = (struct kernel_input){
        .data = base, .bytes = rows * dimensions, .type = {ARRAY_INT8, 2, {rows, dimensions}}, .keep = &keep};
    call.inputs[1] = (struct kernel_input){
        .data = query, .bytes = queries * dimensions, .type = {ARRAY_INT8, 2, {queries, dimensions}}};
    call.outputs[0] = (struct kernel_output){.data = index, .bytes = queries * (size_t)k * 4};
    call.outputs[1] = (struct kernel_output){.data = distance, .bytes = queries * (size_t)k * 4};
    struct candidate *all = malloc(rows * sizeof *all);
    for (int round = 0; round < 2; round++) { /* the second finds the packed base kept */
        memset(index, 0xff, queries * (size_t)k * 4);
        assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
        assert_non_null(keep.memory);
        for (size_t q = 0; q < queries; q++) {
            for (size_t row = 0; row < rows; row++) {
                all[row] = (struct candidate){.row = (int32_t)row};
                for (size_t j = 0; j < dimensions; j++) {
                    const int64_t gap = query[q * dimensions + j] - base[row * dimensions + j];
                    all[row].distance += gap * gap;
                }
            }
            qsort(all, rows, sizeof *all, by_distance_then_row);
            for (size_t i = 0; i < (size_t)k; i++) {
                assert_int_equal(index[q * (size_t)k + i], all[i].row);
                assert_int_equal(distance[q * (size_t)k + i], all[i].distance);
            }
        }
    }
    kernel_keep_release(&keep);
    free(all), free(index), free(distance), free(base), free(query);
}

static void knn_finds_exactly_the_nearest_rows(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof dot8_variants / sizeof *dot8_variants; v++) {
        if (!dot8_select(dot8_variants[v]))
            continue;
        check_knn(1, 1, 1, 1, false);
        check_knn(1, 3, 256, 1, false);
        check_knn(17, 5, 3, 17, false);      /* k = n, dimensions no multiple of 4 */
        check_knn(1000, 11, 100, 10, false); /* nor of 64 */
        check_knn(500, 9, 256, 7, true);     /* ties by row number */
        check_knn(2000, 3, 4096, 5, false);  /* the largest distances */
        check_knn(1500, 2, 8, 1024, true);
        check_knn((size_t)(1 + rand() % 3000), (size_t)(1 + rand() % 20), (size_t)(1 + rand() % 300), 1,
                  false);
    }
    dot8_select(NULL);
}

static void knn_distances_of_extremes_fit_int32(void **state)
{
    (void)state;
    enum { D = KNN_DIMENSIONS_MAX };
    static int8_t base[2 * D], query[D];
    memset(base, -128, D);
    memset(base + D, 127, D);
    memset(query, 127, D);
    const struct manifest_params params = params_of("knn", (const char *[]){"k=2", "distances=yes"}, 2);
    int32_t index[2], distance[2];
    struct kernel_call call = {
        .manifest = manifest_find("knn"), .params = &params, .items = 1, .output_count = 2};
    call.inputs[0] = (struct kernel_input){.data = base, .bytes = 2 * D, .type = {ARRAY_INT8, 2, {2, D}}};
    call.inputs[1] = (struct kernel_input){.data = query, .bytes = D, .type = {ARRAY_INT8, 2, {1, D}}};
    call.outputs[0].data = index;
    call.outputs[1].data = distance;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    assert_int_equal(index[0], 1);
    assert_int_equal(distance[0], 0);
    assert_int_equal(distance[1], 255 * 255 * D);
}

static void matmul_int8_is_exact(void **state)
{
    (void)state;
    static const struct {
        size_t m, n, k;
    } shapes[] = {{1, 1, 1}, {3, 5, 7}, {17, 49, 64}, {9, 100, 4096}, {2, 50, 4099}, {3, 17, 9000}};
    const struct manifest_params params = params_of("matmul", NULL, 0);
    for (size_t v = 0; v < sizeof dot8_variants / sizeof *dot8_variants; v++) {
        if (!dot8_select(dot8_variants[v]))
            continue;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const size_t m = shapes[s].m, n = shapes[s].n, k = shapes[s].k;
            int8_t *a = random_bytes(m * k), *b = random_bytes(k * n);
            int32_t *c = malloc(m * n * sizeof *c);
            struct kernel_call call = {
                .manifest = manifest_find("matmul"), .params = &params, .items = m, .output_count = 1};
            call.inputs[0] =
                (struct kernel_input){.data = a, .bytes = m * k, .type = {ARRAY_INT8, 2, {m, k}}};
            call.inputs[1] =
                (struct kernel_input){.data = b, .bytes = k * n, .type = {ARRAY_INT8, 2, {k, n}}};
            call.outputs[0] = (struct kernel_output){.data = c, .bytes = m * n * 4};
            assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++) {
                    int32_t sum = 0;
                    for (size_t depth = 0; depth < k; depth++)
                        sum += a[i * k + depth] * b[depth * n + j];
                    assert_int_equal(c[i * n + j], sum);
                }
            free(a), free(b), free(c);
        }
    }
    dot8_select(NULL);
}

static void matmul_float_is_within_its_tolerance(void **state)
{
    (void)state;
    const size_t m = 67, n = 45, k = 300;
    float *a = malloc(m * k * 4), *b = malloc(k * n * 4), *c = malloc(m * n * 4);
    for (size_t i = 0; i < m * k; i++)
        a[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (size_t i = 0; i < k * n; i++)
        b[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    const struct manifest_params params = params_of("matmul", NULL, 0);
    struct kernel_call call = {
        .manifest = manifest_find("matmul"), .params = &params, .items = m, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = a, .bytes = m * k * 4, .type = {ARRAY_FLOAT32, 2, {m, k}}};
    call.inputs[1] = (struct kernel_input){.data = b, .bytes = k * n * 4, .type = {ARRAY_FLOAT32, 2, {k, n}}};
    call.outputs[0] = (struct kernel_output){.data = c, .bytes = m * n * 4};
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (size_t depth = 0; depth < k; depth++) {
                const double product = (double)a[i * k + depth] * (double)b[depth * n + j];
                sum += product;
                size += fabs(product);
            }
            assert_true(fabs((double)c[i * n + j] - sum) <= manifest_find("matmul")->tolerance * size);
        }
    free(a), free(b), free(c);
}

/* By several seeds: what the kernel gives passes, and with one element wrong it does not. */
static void assert_certified(struct kernel_call *call, size_t wrong_at, const void *wrong, size_t size)
{
    const struct manifest *matmul = manifest_find("matmul");
    struct manifest_evidence evidence = {.params = call->params,
                                         .types = {call->inputs[0].type, call->inputs[1].type},
                                         .inputs = {call->inputs[0].data, call->inputs[1].data},
                                         .outputs = {call->outputs[0].data},
                                         .items = call->items};
    for (uint64_t seed = 1; seed <= 20; seed++) {
        void *memo = NULL;
        uint8_t right[8];
        uint8_t *at = (uint8_t *)call->outputs[0].data + wrong_at * size;
        evidence.memo = &memo;
        assert_true(matmul->certify(&evidence, seed * UINT64_C(0x123456789abcdef)));
        memcpy(right, at, size);
        memcpy(at, wrong, size);
        assert_false(matmul->certify(&evidence, seed * UINT64_C(0x123456789abcdef)));
        memcpy(at, right, size);
        free(memo);
    }
}

static void a_certificate_tells_right_products_from_wrong_ones(void **state)
{
    (void)state;
    const size_t m = 9, n = 33, k = 150;
    static const char *const settings[] = {"precision=float32", "precision=bfloat16"};
    float *a = malloc(m * k * 4), *b = malloc(k * n * 4), *c = malloc(m * n * 4);
    for (size_t i = 0; i < m * k; i++)
        a[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (size_t i = 0; i < k * n; i++)
        b[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    struct kernel_call call = {.manifest = manifest_find("matmul"), .items = m, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = a, .bytes = m * k * 4, .type = {ARRAY_FLOAT32, 2, {m, k}}};
    call.inputs[1] = (struct kernel_input){.data = b, .bytes = k * n * 4, .type = {ARRAY_FLOAT32, 2, {k, n}}};
    call.outputs[0] = (struct kernel_output){.data = c, .bytes = m * n * 4};
    for (int s = 0; s < 2; s++) {
        const struct manifest_params params = params_of("matmul", &settings[s], 1);
        call.params = &params;
        assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
        const float off = c[100] + 100.0f, none = NAN;
        assert_certified(&call, 100, &off, sizeof off);
        assert_certified(&call, 100, &none, sizeof none);
    }
    int8_t *x = random_bytes(m * k), *y = random_bytes(k * n);
    const struct manifest_params params = params_of("matmul", NULL, 0);
    call.params = &params;
    call.inputs[0] = (struct kernel_input){.data = x, .bytes = m * k, .type = {ARRAY_INT8, 2, {m, k}}};
    call.inputs[1] = (struct kernel_input){.data = y, .bytes = k * n, .type = {ARRAY_INT8, 2, {k, n}}};
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    int32_t one;
    memcpy(&one, &c[m * n - 1], sizeof one);
    one ^= 1; /* the least that can be wrong */
    assert_certified(&call, m * n - 1, &one, sizeof one);
    free(a), free(b), free(c), free(x), free(y);
}

static void embed_text(const char *text, size_t bytes, uint64_t lines, int8_t *vectors)
{
    const struct manifest_params params = params_of("embed", NULL, 0);
    struct kernel_call call = {
        .manifest = manifest_find("embed"), .params = &params, .items = lines, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = text, .bytes = bytes, .type = {ARRAY_TEXT, 1, {lines}}};
    call.outputs[0] = (struct kernel_output){.data = vectors, .bytes = lines * 256};
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
}

static int64_t squared(const int8_t *a, const int8_t *b)
{
    int64_t sum = 0;
    for (int i = 0; i < 256; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

static void embed_brings_misspellings_near_and_keeps_lengths_alike(void **state)
{
    (void)state;
    static const char text[] = "definitely\ndefinately\nelephant\nDEFINITELY\n\nx";
    int8_t v[6][256];
    embed_text(text, sizeof text - 1, 6, v[0]);
    assert_true(squared(v[0], v[1]) * 2 < squared(v[0], v[2]));
    assert_memory_equal(v[0], v[3], 256); /* case is folded */
    static const int8_t origin[256];
    assert_true(squared(v[4], origin) > 0); /* an empty line still has its two boundaries side by side */
    for (int i = 0; i < 4; i++) {
        const double length = sqrt((double)squared(v[i], origin));
        assert_true(length > 280 && length < 340);
    }
}

/* The embedding written again, as its description says it, with doubles for the root where they are exact
 * enough. */
static void slow_embed(const uint8_t *line, size_t bytes, int8_t out[256])
{
    static const int weights[5] = {10, 5, 3, 3, 2};
    int64_t sums[256] = {0};
    uint32_t *s = malloc((bytes + 2) * sizeof *s);
    s[0] = s[bytes + 1] = 1;
    for (size_t i = 0; i < bytes; i++)
        s[i + 1] = line[i] >= 'A' && line[i] <= 'Z' ? line[i] + 32u : line[i];
    for (uint32_t kind = 0; kind < 5; kind++)
        for (size_t i = 0; i < bytes + 2; i++) {
            uint32_t feature;
            if (kind == 0 && i >= 1 && i <= bytes)
                feature = s[i];
            else if (kind == 1 && i + 1 < bytes + 2)
                feature = s[i] << 8 | s[i + 1];
            else if (kind == 2 && i + 2 < bytes + 2)
                feature = s[i] << 16 | s[i + 1] << 8 | s[i + 2];
            else if (kind == 3 && i + 2 < bytes + 2)
                feature = s[i] << 8 | s[i + 2];
            else if (kind == 4 && i + 3 < bytes + 2)
                feature = s[i] << 8 | s[i + 3];
            else
                continue;
            uint32_t h = feature ^ (kind + 1) * 0x9e3779b9u;
            h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
            sums[h % 256] += h >> 31 ? -weights[kind] : weights[kind];
        }
    int64_t squares = 0;
    for (int i = 0; i < 256; i++)
        squares += sums[i] * sums[i];
    const int64_t norm = (int64_t)floor(sqrt((double)squares * 65536.0));
    for (int i = 0; i < 256; i++) {
        int64_t scaled = norm ? (llabs(sums[i]) * 320 * 256 + norm / 2) / norm : 0;
        scaled = scaled > 127 ? 127 : scaled;
        out[i] = (int8_t)(sums[i] < 0 ? -scaled : scaled);
    }
    free(s);
}

static void embed_agrees_with_its_description(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        const size_t bytes = round < 8 ? (size_t)round : (size_t)(rand() % 300);
        uint8_t line[300];
        int8_t fast[256], slow[256];
        for (size_t i = 0; i < bytes; i++)
            do
                line[i] = (uint8_t)rand();
            while (line[i] == '\n');
        uint8_t text[301];
        memcpy(text, line, bytes);
        text[bytes] = '\n';
        embed_text((const char *)text, bytes + 1, 1, fast);
        slow_embed(line, bytes, slow);
        assert_memory_equal(fast, slow, 256);
    }
}

static void embed_takes_a_line_of_megabytes(void **state)
{
    (void)state;
    const size_t bytes = 30u << 20;
    char *text = malloc(bytes);
    memset(text, 'a', bytes);
    int8_t vector[256];
    embed_text(text, bytes, 1, vector);
    int64_t sum = 0;
    for (int i = 0; i < 256; i++)
        sum += vector[i] * vector[i];
    assert_true(sum > 0);
    free(text);
}

static double normal_distribution(double x)
{
    return 0.5 * erfc(-x / sqrt(2));
}

static void montecarlo_agrees_with_black_scholes(void **state)
{
    (void)state;
    static const double rows[4][5] = {{100, 100, 0.05, 0.2, 1},
                                      {100, 120, 0.01, 0.4, 2},
                                      {50, 40, 0.03, 0.3, 0.5},
                                      {100, 100, -0.01, 0.1, 0.25}};
    for (int put = 0; put < 2; put++) {
        char seed[32];
        snprintf(seed, sizeof seed, "seed=%d", rand() % 100000);
        const struct manifest_params params = params_of(
            "montecarlo", (const char *[]){"paths=1048576", put ? "side=put" : "side=call", seed}, 3);
        double prices[4], errors[4], plain_prices[4], plain_errors[4];
        struct kernel_call call = {
            .manifest = manifest_find("montecarlo"), .params = &params, .items = 4, .output_count = 2};
        call.inputs[0] =
            (struct kernel_input){.data = rows, .bytes = sizeof rows, .type = {ARRAY_FLOAT64, 2, {4, 5}}};
        call.outputs[0].data = prices;
        call.outputs[1].data = errors;
        assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
        call.outputs[0].data = plain_prices;
        call.outputs[1].data = plain_errors;
        assert_int_equal(montecarlo_run_portable(&call), KERNEL_OK);
        assert_memory_equal(prices, plain_prices, sizeof prices); /* the same bits from every variant */
        assert_memory_equal(errors, plain_errors, sizeof errors);
        for (int i = 0; i < 4; i++) {
            const double spot = rows[i][0], strike = rows[i][1], rate = rows[i][2], v = rows[i][3],
                         t = rows[i][4];
            const double d1 = (log(spot / strike) + (rate + v * v / 2) * t) / (v * sqrt(t)),
                         d2 = d1 - v * sqrt(t);
            const double call_price =
                spot * normal_distribution(d1) - strike * exp(-rate * t) * normal_distribution(d2);
            const double expected = put ? call_price - spot + strike * exp(-rate * t) : call_price;
            assert_true(errors[i] > 0 && errors[i] < 0.05);
            assert_true(fabs(prices[i] - expected) < 5 * errors[i]);
        }
    }
}

static void a_book_is_worth_its_prices_whatever_the_cut_in_powers_of_two(void **state)
{
    (void)state;
    double rows[13][5], prices[13], errors[13], part_prices[13], part_errors[13], total, worst, partial[13];
    for (int i = 0; i < 13; i++)
        for (int c = 0; c < 5; c++)
            rows[i][c] = (double[]){100, 90, 0.03, 0.2, 1}[c] * (1 + (rand() % 1000) / 3000.0);
    const struct manifest_params params =
        params_of("montecarlo", (const char *[]){"paths=256", "book=yes"}, 2);
    struct kernel_call call = {
        .manifest = manifest_find("montecarlo"), .params = &params, .items = 13, .output_count = 4};
    call.inputs[0] =
        (struct kernel_input){.data = rows, .bytes = sizeof rows, .type = {ARRAY_FLOAT64, 2, {13, 5}}};
    call.outputs[0].data = prices;
    call.outputs[1].data = errors;
    call.outputs[2].data = &total;
    call.outputs[3].data = &worst;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    double largest = 0;
    for (int i = 0; i < 13; i++)
        largest = errors[i] > largest ? errors[i] : largest;
    assert_true(worst == largest);
    for (unsigned cut = 1; cut <= 16; cut *= 2) {
        unsigned shards = 0;
        for (unsigned first = 0; first < 13; first += cut) {
            call.items = 13 - first < cut ? 13 - first : cut;
            call.inputs[0] = (struct kernel_input){.data = rows[first],
                                                   .bytes = call.items * sizeof rows[0],
                                                   .type = {ARRAY_FLOAT64, 2, {call.items, 5}}};
            call.outputs[0].data = part_prices;
            call.outputs[1].data = part_errors;
            call.outputs[2].data = &partial[shards++];
            assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
        }
        for (unsigned step = 1; step < shards; step *= 2) /* as a home adds its shards' sums */
            for (unsigned s = 0; s + step < shards; s += 2 * step)
                partial[s] += partial[s + step];
        assert_true(partial[0] == total);
    }
}

static void asian_options_cost_less_and_agree_in_the_limits(void **state)
{
    (void)state;
    const double row[2][5] = {{100, 100, 0.05, 0.3, 1}, {100, 90, 0.05, 0, 1}};
    double european[2], one_step[2], asian[2], plain[2], errors[2];
    struct kernel_call call = {.manifest = manifest_find("montecarlo"), .items = 2, .output_count = 2};
    call.inputs[0] =
        (struct kernel_input){.data = row, .bytes = sizeof row, .type = {ARRAY_FLOAT64, 2, {2, 5}}};
    call.outputs[1].data = errors;
    struct manifest_params params = params_of("montecarlo", (const char *[]){"paths=65536"}, 1);
    call.params = &params;
    call.outputs[0].data = european;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    params = params_of("montecarlo", (const char *[]){"paths=65536", "style=asian", "steps=1"}, 3);
    call.outputs[0].data = one_step;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    assert_true(fabs(european[0] - one_step[0]) < 8 * errors[0]); /* one date: the same option, other paths */
    params = params_of("montecarlo", (const char *[]){"paths=65536", "style=asian", "steps=50"}, 3);
    call.outputs[0].data = asian;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    assert_true(asian[0] < 0.7 * european[0]);
    double mean = 0; /* without volatility the path is known */
    for (int step = 1; step <= 50; step++)
        mean += 100 * exp(0.05 * step / 50) / 50;
    assert_true(fabs(asian[1] - exp(-0.05) * (mean - 90)) < 1e-9);
    call.outputs[0].data = plain;
    assert_int_equal(montecarlo_run_portable(&call), KERNEL_OK);
    assert_memory_equal(asian, plain, sizeof asian);
}

static void spin_marks_depend_on_the_absolute_item_only(void **state)
{
    (void)state;
    const struct manifest_params params = params_of("spin", (const char *[]){"us=0"}, 1);
    uint32_t whole[10], part[4];
    struct kernel_call call = {
        .manifest = manifest_find("spin"), .params = &params, .items = 10, .output_count = 1};
    call.first_item = 1000;
    call.outputs[0].data = whole;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    call.first_item = 1003;
    call.items = 4;
    call.outputs[0].data = part;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    assert_memory_equal(whole + 3, part, sizeof part);
}

/* One round as the manifest says it, by plain loops. */
static void slow_kmeans(const int8_t *points, size_t n, size_t d, const int64_t *sums, const int64_t *counts,
                        size_t k, int32_t *labels, int64_t *spread)
{
    *spread = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t best = INT64_MAX;
        for (size_t c = 0; c < k; c++) {
            int64_t distance = 0;
            for (size_t j = 0; j < d && counts[c]; j++) {
                int64_t centre = llround(128.0 * (double)sums[c * d + j] / (double)counts[c]);
                centre = centre < -16384 ? -16384 : centre > 16256 ? 16256 : centre;
                distance += (128 * points[i * d + j] - centre) * (128 * points[i * d + j] - centre);
            }
            if (counts[c] && distance < best) {
                best = distance;
                labels[i] = (int32_t)c;
            }
        }
        *spread += (best + 8192) / 16384;
    }
}

static void check_kmeans(size_t n, size_t d, size_t k)
{
    int8_t *points = random_bytes(n * d);
    int64_t *sums = malloc(k * d * 8), *counts = malloc(k * 8), *new_sums = malloc(k * d * 8),
            *new_counts = malloc(k * 8);
    int32_t *labels = malloc(n * 4), *expected = malloc(n * 4);
    int64_t spread, expected_spread;
    for (size_t c = 0; c < k; c++) {
        counts[c] = c == 0 ? 1 : rand() % 5 * (rand() % 100);
        for (size_t j = 0; j < d; j++) /* now and then no mean of any points */
            sums[c * d + j] = (rand() % 260 - 130) * (counts[c] + 1) + rand() % 3;
    }
    const struct manifest_params params = params_of("kmeans", NULL, 0);
    struct kernel_call call = {
        .manifest = manifest_find("kmeans"), .params = &params, .items = n, .output_count = 4};
    call.inputs[KMEANS_POINT] =
        (struct kernel_input){.data = points, .bytes = n * d, .type = {ARRAY_INT8, 2, {n, d}}};
    call.inputs[KMEANS_SUM] =
        (struct kernel_input){.data = sums, .bytes = k * d * 8, .type = {ARRAY_INT64, 2, {k, d}}};
    call.inputs[KMEANS_COUNT] =
        (struct kernel_input){.data = counts, .bytes = k * 8, .type = {ARRAY_INT64, 1, {k}}};
    call.outputs[KMEANS_LABEL].data = labels;
    call.outputs[KMEANS_NEW_SUM].data = new_sums;
    call.outputs[KMEANS_NEW_COUNT].data = new_counts;
    call.outputs[KMEANS_SPREAD].data = &spread;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    slow_kmeans(points, n, d, sums, counts, k, expected, &expected_spread);
    assert_memory_equal(labels, expected, n * 4);
    assert_int_equal(spread, expected_spread);
    for (size_t i = 0; i < n; i++) {
        new_counts[labels[i]]--;
        for (size_t j = 0; j < d; j++)
            new_sums[(size_t)labels[i] * d + j] -= points[i * d + j];
    }
    for (size_t c = 0; c < k; c++)
        assert_int_equal(new_counts[c], 0);
    for (size_t j = 0; j < k * d; j++)
        assert_int_equal(new_sums[j], 0);
    free(points), free(sums), free(counts), free(new_sums), free(new_counts), free(labels), free(expected);
}

static void kmeans_labels_and_sums_are_exact(void **state)
{
    (void)state;
    check_kmeans(1, 1, 1);
    check_kmeans(9, 3, 2);
    check_kmeans(500, 64, 17);
    check_kmeans(20, 4096, 3); /* the largest scores */
    check_kmeans(300, 1, 200); /* ties */
    check_kmeans((size_t)(1 + rand() % 400), (size_t)(1 + rand() % 100), (size_t)(1 + rand() % 60));
}

static void run_nbody(kernel_function *run, const float *bodies, size_t all, size_t first, size_t count,
                      float *out)
{
    const struct manifest_params params = params_of("nbody", (const char *[]){"dt=0.25", "softening=0.1"}, 2);
    struct kernel_call call = {.manifest = manifest_find("nbody"),
                               .params = &params,
                               .first_item = first,
                               .items = count,
                               .output_count = 1};
    call.inputs[0] = (struct kernel_input){
        .data = bodies, .bytes = all * 28, .type = {ARRAY_FLOAT32, 2, {all, 7}}, .broadcast = true};
    call.outputs[0].data = out;
    assert_int_equal(run(&call), KERNEL_OK);
}

static void nbody_moves_bodies_as_doubles_say_and_has_one_result(void **state)
{
    (void)state;
    const size_t n = 200 + (size_t)(rand() % 400);
    float *bodies = malloc(n * 28), *moved = malloc(n * 28), *portable = malloc(n * 28),
          *part = malloc(n * 28);
    for (size_t i = 0; i < n * 7; i++)
        bodies[i] = (float)rand() / (float)RAND_MAX - (i % 7 == 6 ? 0 : 0.5f);
    run_nbody(nbody_run, bodies, n, 0, n, moved);
    run_nbody(nbody_run_portable, bodies, n, 0, n, portable);
    assert_memory_equal(moved, portable, n * 28);
    run_nbody(nbody_run, bodies, n, 37, n - 50, part); /* whatever the cut */
    assert_memory_equal(moved + 37 * 7, part, (n - 50) * 28);
    for (size_t i = 0; i < n; i++) {
        double pull[3] = {0}, size[3] = {0};
        for (size_t j = 0; j < n; j++) {
            double gap[3], square = (double)0.1f * (double)0.1f;
            for (int axis = 0; axis < 3; axis++) {
                gap[axis] = (double)bodies[j * 7 + (size_t)axis] - (double)bodies[i * 7 + (size_t)axis];
                square += gap[axis] * gap[axis];
            }
            for (int axis = 0; axis < 3; axis++) {
                pull[axis] += (double)bodies[j * 7 + 6] * gap[axis] / (square * sqrt(square));
                size[axis] += fabs((double)bodies[j * 7 + 6] * gap[axis] / (square * sqrt(square)));
            }
        }
        for (size_t axis = 0; axis < 3; axis++) {
            const double v = (double)bodies[i * 7 + 3 + axis] + pull[axis] * 0.25;
            assert_true(fabs((double)moved[i * 7 + 3 + axis] - v) <= 2e-6 * (1 + size[axis]));
            assert_true(fabs((double)moved[i * 7 + axis] - ((double)bodies[i * 7 + axis] + v * 0.25)) <=
                        2e-6 * (1 + size[axis]));
        }
        assert_true(moved[i * 7 + 6] == bodies[i * 7 + 6]);
    }
    free(bodies), free(moved), free(portable), free(part);
}

static void items_beyond_the_bodies_are_refused(void **state)
{
    (void)state;
    float bodies[14] = {0}, out[14];
    const struct manifest_params params = params_of("nbody", NULL, 0);
    struct kernel_call call = {.manifest = manifest_find("nbody"),
                               .params = &params,
                               .first_item = 1,
                               .items = 2,
                               .output_count = 1};
    call.inputs[0] =
        (struct kernel_input){.data = bodies, .bytes = sizeof bodies, .type = {ARRAY_FLOAT32, 2, {2, 7}}};
    call.outputs[0].data = out;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_REJECTED);
}

static void matmul_of_bfloats_is_that_of_rounded_inputs(void **state)
{
    (void)state;
    enum { M = 70, K = 50, N = 20 };
    static float a[M * K], b[K * N], c[M * N], rounded_a[M * K], rounded_b[K * N], expected[M * N];
    for (size_t i = 0; i < M * K; i++)
        a[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (size_t i = 0; i < K * N; i++)
        b[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    a[0] = 1.00390625f; /* a tie: to the even 1 */
    a[1] = 3.3e38f;     /* finite stays finite */
    b[0] = b[N] = 0;
    for (size_t i = 0; i < M * K; i++) {
        int exponent;
        const double fraction = frexp((double)a[i], &exponent);
        rounded_a[i] = (float)ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
    }
    for (size_t i = 0; i < K * N; i++) {
        int exponent;
        const double fraction = frexp((double)b[i], &exponent);
        rounded_b[i] = (float)ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
    }
    assert_true(rounded_a[0] == 1.0f);
    struct manifest_params params = params_of("matmul", (const char *[]){"precision=bfloat16"}, 1);
    struct kernel_keep keep = {0};
    struct kernel_call call = {
        .manifest = manifest_find("matmul"), .params = &params, .items = M, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = a, .bytes = sizeof a, .type = {ARRAY_FLOAT32, 2, {M, K}}};
    call.inputs[1] = (struct kernel_input){
        .data = b, .bytes = sizeof b, .type = {ARRAY_FLOAT32, 2, {K, N}}, .keep = &keep};
    call.outputs[0].data = c;
    for (int round = 0; round < 2; round++)
        assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    kernel_keep_release(&keep);
    params = params_of("matmul", NULL, 0);
    call.inputs[0].data = rounded_a;
    call.inputs[1] =
        (struct kernel_input){.data = rounded_b, .bytes = sizeof b, .type = {ARRAY_FLOAT32, 2, {K, N}}};
    call.outputs[0].data = expected;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_OK);
    assert_memory_equal(c + N, expected + N, sizeof c - N * sizeof *c);
    for (size_t i = 0; i < N; i++)
        assert_true(isfinite(c[i]));
}

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u, int8 by %s\n", seed, dot8_variant());
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot8_variants_agree_with_a_plain_loop),
        cmocka_unit_test(knn_finds_exactly_the_nearest_rows),
        cmocka_unit_test(knn_distances_of_extremes_fit_int32),
        cmocka_unit_test(matmul_int8_is_exact),
        cmocka_unit_test(matmul_float_is_within_its_tolerance),
        cmocka_unit_test(a_certificate_tells_right_products_from_wrong_ones),
        cmocka_unit_test(embed_brings_misspellings_near_and_keeps_lengths_alike),
        cmocka_unit_test(embed_agrees_with_its_description),
        cmocka_unit_test(embed_takes_a_line_of_megabytes),
        cmocka_unit_test(montecarlo_agrees_with_black_scholes),
        cmocka_unit_test(a_book_is_worth_its_prices_whatever_the_cut_in_powers_of_two),
        cmocka_unit_test(asian_options_cost_less_and_agree_in_the_limits),
        cmocka_unit_test(kmeans_labels_and_sums_are_exact),
        cmocka_unit_test(nbody_moves_bodies_as_doubles_say_and_has_one_result),
        cmocka_unit_test(items_beyond_the_bodies_are_refused),
        cmocka_unit_test(matmul_of_bfloats_is_that_of_rounded_inputs),
        cmocka_unit_test(spin_marks_depend_on_the_absolute_item_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
