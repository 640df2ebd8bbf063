#include "kernels/builtin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/render_scene.h"

#define DTYPE(name) (1u << ARRAY_##name)

static const char *text_of(const struct array_type *type, char *out)
{
    return array_type_text(type, out);
}

static struct array_type vector_of(enum array_dtype dtype, uint64_t rows)
{
    return (struct array_type){.dtype = (uint8_t)dtype, .rank = 1, .shape = {rows}};
}

static struct array_type matrix_of(enum array_dtype dtype, uint64_t rows, uint64_t columns)
{
    return (struct array_type){.dtype = (uint8_t)dtype, .rank = 2, .shape = {rows, columns}};
}

/* embed: the line's bytes are all it needs, so there is nothing to check between inputs. */

static enum manifest_error embed_shape(const struct manifest_shapes *shapes,
                                       const struct manifest_params *params,
                                       struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                       uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    (void)params, (void)error;
    outputs[0] = matrix_of(ARRAY_INT8, shapes->items, EMBED_DIMENSIONS);
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost embed_cost(const struct manifest_shapes *shapes,
                                       const struct manifest_params *params)
{
    (void)params;
    const double line_bytes = shapes->items ? (double)shapes->split_bytes / (double)shapes->items : 0;
    return (struct manifest_cost){
        .operations = 20 * line_bytes + 4 * EMBED_DIMENSIONS,
        .bytes = line_bytes + EMBED_DIMENSIONS,
        .cpu_ns = 500 + 40 * line_bytes,
    };
}

static const struct manifest embed = {
    .name = "embed",
    .version = 1,
    .help = "text lines to normalised, hashed character-n-gram vectors (256 x int8)",
    .class = MANIFEST_EXACT,
    .input_count = 1,
    .inputs =
        {{.name = "text",
          .help = "lines of text; ASCII letters are folded to lower case, other bytes are taken as they are",
          .dtypes = DTYPE(TEXT),
          .rank_min = 1,
          .rank_max = 1,
          .roles = MANIFEST_SPLIT}},
    .output_count = 1,
    .outputs = {{.name = "vectors", .help = "int8 [lines, 256]"}},
    .shape = embed_shape,
    .cost = embed_cost,
    .cost_help = "operations on the line's features, 20 per byte",
};

/* kmeans: a centre is the sum and the count of its points, so that the outputs of one round are inputs of the next. */

static enum manifest_error kmeans_shape(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params,
                                        struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                        uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    (void)params;
    const struct array_type *point = &shapes->inputs[KMEANS_POINT], *sum = &shapes->inputs[KMEANS_SUM],
                            *count = &shapes->inputs[KMEANS_COUNT];
    char a[ARRAY_TYPE_TEXT_BYTES], b[ARRAY_TYPE_TEXT_BYTES];
    if (point->shape[1] != sum->shape[1] || point->shape[1] == 0 || point->shape[1] > KNN_DIMENSIONS_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "kmeans: point is %s and sum is %s; give both the same second axis, 1 to %d",
                 text_of(point, a), text_of(sum, b), KNN_DIMENSIONS_MAX);
        return MANIFEST_BAD_INPUT;
    }
    if (sum->shape[0] != count->shape[0]) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "kmeans: sum is %s and count is %s; give a count for each row of sum", text_of(sum, a),
                 text_of(count, b));
        return MANIFEST_BAD_INPUT;
    }
    if (sum->shape[0] > KMEANS_CENTRES_MAX || sum->shape[0] * sum->shape[1] > KMEANS_CELLS_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES, "kmeans: sum is %s; give at most %d centres, and %d numbers",
                 text_of(sum, a), KMEANS_CENTRES_MAX, KMEANS_CELLS_MAX);
        return MANIFEST_BAD_INPUT;
    }
    outputs[KMEANS_LABEL] = vector_of(ARRAY_INT32, shapes->items);
    outputs[KMEANS_NEW_SUM] = matrix_of(ARRAY_INT64, sum->shape[0], sum->shape[1]);
    outputs[KMEANS_NEW_COUNT] = vector_of(ARRAY_INT64, sum->shape[0]);
    outputs[KMEANS_SPREAD] = vector_of(ARRAY_INT64, 1);
    *output_count = 4;
    return MANIFEST_OK;
}

static struct manifest_cost kmeans_cost(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params)
{
    (void)params;
    const double centres = (double)shapes->inputs[KMEANS_SUM].shape[0];
    const double dimensions = (double)shapes->inputs[KMEANS_SUM].shape[1];
    return (struct manifest_cost){
        .operations = 2 * centres * dimensions + dimensions,
        .bytes = dimensions + 4,
        .cpu_ns = centres * (dimensions * 0.02 + 1.2) + dimensions * 0.6 + 20,
    };
}

static enum manifest_error kmeans_values(uint32_t input, const struct array_type *type, const void *rows,
                                         uint64_t bytes, uint64_t count, uint64_t first_row,
                                         char error[MANIFEST_ERROR_BYTES])
{
    static const int64_t sum_max = (int64_t)1 << 47, count_max = (int64_t)1 << 40;
    if (input == KMEANS_POINT)
        return MANIFEST_OK;
    const int64_t low = input == KMEANS_SUM ? -sum_max : 0, high = input == KMEANS_SUM ? sum_max : count_max;
    bool any = false;
    (void)type;
    for (uint64_t at = 0; at + 8 <= bytes; at += 8) {
        int64_t value;
        memcpy(&value, (const char *)rows + at, sizeof value);
        any |= value > 0;
        if (value >= low && value <= high)
            continue;
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "kmeans: row %llu of %s has %lld; it must be between %lld and %lld",
                 (unsigned long long)(first_row + at / (bytes / count)),
                 input == KMEANS_SUM ? "sum" : "count", (long long)value, (long long)low, (long long)high);
        return MANIFEST_BAD_VALUE;
    }
    if (input == KMEANS_COUNT && !any) {
        snprintf(error, MANIFEST_ERROR_BYTES, "kmeans: count is all 0; give at least one centre a point");
        return MANIFEST_BAD_VALUE;
    }
    return MANIFEST_OK;
}

static const struct manifest kmeans = {
    .name = "kmeans",
    .version = 1,
    .help = "one round of k-means over int8 points: labels, and the sums and counts that are the next "
            "round's centres",
    .class = MANIFEST_EXACT,
    .input_count = 3,
    .inputs = {[KMEANS_POINT] = {.name = "point",
                                 .help = "int8 [n, d]; d to 4096",
                                 .dtypes = DTYPE(INT8),
                                 .rank_min = 2,
                                 .rank_max = 2,
                                 .roles = MANIFEST_SPLIT},
               [KMEANS_SUM] = {.name = "sum",
                               .help = "int64 [k, d]: centre = sum / count; k to 4096, k d to 262144",
                               .dtypes = DTYPE(INT64),
                               .rank_min = 2,
                               .rank_max = 2,
                               .roles = MANIFEST_BROADCAST},
               [KMEANS_COUNT] =
                   {.name = "count",
                    .help = "int64 [k]; a centre of count 0 takes no points; 1 with a point as its sum "
                            "begins",
                    .dtypes = DTYPE(INT64),
                    .rank_min = 1,
                    .rank_max = 1,
                    .roles = MANIFEST_BROADCAST}},
    .output_count = 4,
    .outputs = {[KMEANS_LABEL] = {.name = "label",
                                  .help = "int32 [n]: the nearest centre, ties by lower number"},
                [KMEANS_NEW_SUM] = {.name = "sum",
                                    .help = "int64 [k, d]: of the points of each label",
                                    .combine = MANIFEST_SUM},
                [KMEANS_NEW_COUNT] = {.name = "count",
                                      .help = "int64 [k]: how many they are",
                                      .combine = MANIFEST_SUM},
                [KMEANS_SPREAD] = {.name = "spread",
                                   .help = "int64 [1]: the squared distances to the centres given, added up",
                                   .combine = MANIFEST_SUM}},
    .shape = kmeans_shape,
    .cost = kmeans_cost,
    .values = kmeans_values,
    .cost_help = "multiply-adds of a point with every centre, in two halves: 2 k d",
};

/* knn */

static enum manifest_error knn_shape(const struct manifest_shapes *shapes,
                                     const struct manifest_params *params,
                                     struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                     char error[MANIFEST_ERROR_BYTES])
{
    const struct array_type *base = &shapes->inputs[0], *query = &shapes->inputs[1];
    const int64_t k = manifest_param_integer(params, KNN_K);
    char a[ARRAY_TYPE_TEXT_BYTES], b[ARRAY_TYPE_TEXT_BYTES];
    if (base->shape[1] != query->shape[1]) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "knn: base is %s and query is %s; give both the same second axis", text_of(base, a),
                 text_of(query, b));
        return MANIFEST_BAD_INPUT;
    }
    if (base->shape[1] == 0 || base->shape[1] > KNN_DIMENSIONS_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES, "knn: base is %s; the second axis must be 1 to %d",
                 text_of(base, a), KNN_DIMENSIONS_MAX);
        return MANIFEST_BAD_INPUT;
    }
    if (base->shape[0] > INT32_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "knn: base is %s; row numbers are int32, so give at most %d rows", text_of(base, a),
                 INT32_MAX);
        return MANIFEST_BAD_INPUT;
    }
    if ((uint64_t)k > base->shape[0]) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "knn: k = %lld is more than the %llu rows of base; give a smaller k", (long long)k,
                 (unsigned long long)base->shape[0]);
        return MANIFEST_BAD_PARAM;
    }
    outputs[0] = outputs[1] = matrix_of(ARRAY_INT32, shapes->items, (uint64_t)k);
    *output_count = manifest_param_integer(params, KNN_DISTANCES) ? 2 : 1;
    return MANIFEST_OK;
}

static struct manifest_cost knn_cost(const struct manifest_shapes *shapes,
                                     const struct manifest_params *params)
{
    const double rows = (double)shapes->inputs[0].shape[0], dimensions = (double)shapes->inputs[0].shape[1];
    const double k = (double)manifest_param_integer(params, KNN_K);
    return (struct manifest_cost){
        .operations = rows * dimensions,
        .bytes = dimensions + 8 * k,
        .cpu_ns = rows * (dimensions * 0.01 + 0.2) + 100 * k,
    };
}

static const struct manifest knn = {
    .name = "knn",
    .version = 1,
    .help = "exact nearest neighbours of int8 vectors by squared L2, ties by lower row number",
    .class = MANIFEST_EXACT,
    .input_count = 2,
    .inputs = {{.name = "base",
                .help = "int8 [n, d], searched; d to 4096",
                .dtypes = DTYPE(INT8),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_BROADCAST},
               {.name = "query",
                .help = "int8 [q, d]",
                .dtypes = DTYPE(INT8),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_SPLIT}},
    .output_count = 2,
    .outputs = {{.name = "index", .help = "int32 [q, k]: row numbers in base, nearest first"},
                {.name = "distance", .help = "int32 [q, k]: their squared distances (with distances=yes)"}},
    .param_count = 2,
    .params = {[KNN_K] = {.name = "k",
                          .help = "neighbours per query",
                          .type = MANIFEST_INTEGER,
                          .range = {.minimum = 1, .maximum = KNN_NEIGHBOURS_MAX, .fallback = 10}},
               [KNN_DISTANCES] = {.name = "distances",
                                  .help = "give the distances too",
                                  .type = MANIFEST_CHOICE,
                                  .choices = {"no", "yes"}}},
    .shape = knn_shape,
    .cost = knn_cost,
    .cost_help = "multiply-adds of a query with every row of base: n d",
};

/* matmul */

static enum manifest_error matmul_shape(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params,
                                        struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                        uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    const struct array_type *a = &shapes->inputs[0], *b = &shapes->inputs[1];
    char left[ARRAY_TYPE_TEXT_BYTES], right[ARRAY_TYPE_TEXT_BYTES];
    if (a->dtype != b->dtype || a->shape[1] != b->shape[0] || a->shape[1] == 0 || b->shape[1] == 0) {
        snprintf(
            error, MANIFEST_ERROR_BYTES,
            "matmul: a is %s and b is %s; give one dtype, and b as many rows as a has columns (at least 1)",
            text_of(a, left), text_of(b, right));
        return MANIFEST_BAD_INPUT;
    }
    if (b->shape[0] > INT32_MAX || b->shape[1] > INT32_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES, "matmul: b is %s; each axis must be below 2^31",
                 text_of(b, right));
        return MANIFEST_BAD_INPUT;
    }
    if (a->dtype == ARRAY_INT8 && a->shape[1] > MATMUL_INT8_DEPTH_MAX) {
        snprintf(
            error, MANIFEST_ERROR_BYTES,
            "matmul: a is %s; int8 products of more than %d columns could pass int32, so split that axis",
            text_of(a, left), MATMUL_INT8_DEPTH_MAX);
        return MANIFEST_BAD_INPUT;
    }
    if (a->dtype == ARRAY_INT8 && manifest_param_integer(params, MATMUL_PRECISION)) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "matmul: precision=bfloat16 is for float32 inputs, and a is %s; leave it out",
                 text_of(a, left));
        return MANIFEST_BAD_PARAM;
    }
    outputs[0] = matrix_of(a->dtype == ARRAY_INT8 ? ARRAY_INT32 : ARRAY_FLOAT32, shapes->items, b->shape[1]);
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost matmul_cost(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params)
{
    (void)params;
    const double depth = (double)shapes->inputs[1].shape[0], columns = (double)shapes->inputs[1].shape[1];
    const bool integers = shapes->inputs[0].dtype == ARRAY_INT8;
    return (struct manifest_cost){
        .operations = depth * columns,
        .bytes = depth * (integers ? 1 : 4) + columns * 4,
        .cpu_ns = depth * columns * (integers ? 0.01 : 0.02),
    };
}

static const struct manifest matmul = {
    .name = "matmul",
    .version = 1,
    .help = "matrix product c = a b: float32 within its tolerance, int8 to int32 exactly",
    .class = MANIFEST_TOLERANT,
    .tolerance = 1e-5,
    .input_count = 2,
    .inputs = {{.name = "a",
                .help = "float32 or int8 [m, k]",
                .dtypes = DTYPE(FLOAT32) | DTYPE(INT8),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_SPLIT,
                .finite = true},
               {.name = "b",
                .help = "the same dtype [k, n]",
                .dtypes = DTYPE(FLOAT32) | DTYPE(INT8),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_BROADCAST,
                .finite = true}},
    .output_count = 1,
    .outputs = {{.name = "c", .help = "float32 [m, n], or int32 of int8 inputs"}},
    .param_count = 1,
    .params =
        {[MATMUL_PRECISION] = {.name = "precision",
                               .help = "of float32 inputs: as they are (never TF32), or rounded to bfloat16 "
                                       "first, which GPUs multiply faster; sums are float32",
                               .type = MANIFEST_CHOICE,
                               .choices = {"float32", "bfloat16"}}},
    .shape = matmul_shape,
    .cost = matmul_cost,
    .certify = matmul_certify,
    .cost_help = "multiply-adds of a row of a with b: k n",
};

/* montecarlo: every option is priced on the same paths (common random numbers), so that prices along a
 * surface differ smoothly and a row's result doesn't depend on its place. */

static enum manifest_error montecarlo_shape(const struct manifest_shapes *shapes,
                                            const struct manifest_params *params,
                                            struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                            uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    const struct array_type *option = &shapes->inputs[0];
    char a[ARRAY_TYPE_TEXT_BYTES];
    if (option->shape[1] != OPTION_COLUMNS) {
        snprintf(
            error, MANIFEST_ERROR_BYTES,
            "montecarlo: option is %s; give rows of 5: spot, strike, rate, volatility, maturity in years",
            text_of(option, a));
        return MANIFEST_BAD_INPUT;
    }
    if (manifest_param_integer(params, MONTECARLO_PATHS) % MONTECARLO_LANES != 0) {
        snprintf(error, MANIFEST_ERROR_BYTES, "montecarlo: paths = %lld is no multiple of %d; give %lld",
                 (long long)manifest_param_integer(params, MONTECARLO_PATHS), MONTECARLO_LANES,
                 (long long)((manifest_param_integer(params, MONTECARLO_PATHS) / MONTECARLO_LANES + 1) *
                             MONTECARLO_LANES));
        return MANIFEST_BAD_PARAM;
    }
    outputs[MONTECARLO_PRICE] = outputs[MONTECARLO_ERROR] = vector_of(ARRAY_FLOAT64, shapes->items);
    outputs[MONTECARLO_TOTAL] = outputs[MONTECARLO_WORST] = vector_of(ARRAY_FLOAT64, 1);
    *output_count = manifest_param_integer(params, MONTECARLO_BOOK) ? 4 : 2;
    return MANIFEST_OK;
}

static struct manifest_cost montecarlo_cost(const struct manifest_shapes *shapes,
                                            const struct manifest_params *params)
{
    (void)shapes;
    const double paths = (double)manifest_param_integer(params, MONTECARLO_PATHS);
    const double steps = manifest_param_integer(params, MONTECARLO_STYLE)
                             ? (double)manifest_param_integer(params, MONTECARLO_STEPS)
                             : 1;
    return (struct manifest_cost){
        .operations = paths * steps * 100,
        .bytes = 8 * (OPTION_COLUMNS + 2),
        .cpu_ns = paths * steps * 8,
    };
}

static enum manifest_error montecarlo_values(uint32_t input, const struct array_type *type, const void *rows,
                                             uint64_t bytes, uint64_t count, uint64_t first_row,
                                             char error[MANIFEST_ERROR_BYTES])
{
    static const struct {
        const char *name;
        double minimum, maximum;
    } columns[OPTION_COLUMNS] = {
        [OPTION_SPOT] = {"spot", 1e-6, 1e12},     [OPTION_STRIKE] = {"strike", 1e-6, 1e12},
        [OPTION_RATE] = {"rate", -1, 1},          [OPTION_VOLATILITY] = {"volatility", 0, 5},
        [OPTION_MATURITY] = {"maturity", 0, 100},
    };
    (void)input, (void)bytes;
    if (type->rank != 2 || type->shape[1] != OPTION_COLUMNS)
        return MANIFEST_OK; /* the shape check speaks of it */
    for (uint64_t row = 0; row < count; row++)
        for (unsigned column = 0; column < OPTION_COLUMNS; column++) {
            double value;
            memcpy(&value, (const char *)rows + (row * OPTION_COLUMNS + column) * sizeof value, sizeof value);
            if (value >= columns[column].minimum && value <= columns[column].maximum)
                continue;
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "montecarlo: option row %llu has %s %g; it must be between %g and %g",
                     (unsigned long long)(first_row + row), columns[column].name, value,
                     columns[column].minimum, columns[column].maximum);
            return MANIFEST_BAD_VALUE;
        }
    return MANIFEST_OK;
}

static const struct manifest montecarlo = {
    .name = "montecarlo",
    .version = 1,
    .help = "European and Asian option prices by Monte Carlo, the same bits on every device",
    .class = MANIFEST_EXACT,
    .input_count = 1,
    .inputs = {{.name = "option",
                .help = "float64 [n, 5]: spot, strike, rate, volatility, maturity in years",
                .dtypes = DTYPE(FLOAT64),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_SPLIT,
                .finite = true}},
    .output_count = 4,
    .outputs = {[MONTECARLO_PRICE] = {.name = "price", .help = "float64 [n]: mean discounted payoff"},
                [MONTECARLO_ERROR] = {.name = "error", .help = "float64 [n]: its standard error"},
                [MONTECARLO_TOTAL] = {.name = "total",
                                      .help = "float64 [1]: the sum of all prices (with book=yes)",
                                      .combine = MANIFEST_SUM},
                [MONTECARLO_WORST] = {.name = "worst",
                                      .help = "float64 [1]: the largest error (with book=yes)",
                                      .combine = MANIFEST_MAX}},
    .param_count = 6,
    .params =
        {[MONTECARLO_STYLE] = {.name = "style",
                               .help = "european: payoff at maturity; asian: on the mean of `steps` dates",
                               .type = MANIFEST_CHOICE,
                               .choices = {"european", "asian"}},
         [MONTECARLO_SIDE] = {.name = "side",
                              .help = "right to buy or to sell",
                              .type = MANIFEST_CHOICE,
                              .choices = {"call", "put"}},
         [MONTECARLO_PATHS] = {.name = "paths",
                               .help = "paths per option, a multiple of 256",
                               .type = MANIFEST_INTEGER,
                               .range = {.minimum = 256, .maximum = 1 << 28, .fallback = 65536}},
         [MONTECARLO_STEPS] = {.name = "steps",
                               .help = "averaging dates of an asian option, evenly spaced, maturity the last",
                               .type = MANIFEST_INTEGER,
                               .range = {.minimum = 1, .maximum = 1024, .fallback = 64}},
         [MONTECARLO_SEED] = {.name = "seed",
                              .help = "key of the Philox generator",
                              .type = MANIFEST_INTEGER,
                              .range = {.minimum = 0, .maximum = 9007199254740991.0, .fallback = 1}},
         [MONTECARLO_BOOK] = {.name = "book",
                              .help = "give the value of all options together too",
                              .type = MANIFEST_CHOICE,
                              .choices = {"no", "yes"}}},
    .shape = montecarlo_shape,
    .cost = montecarlo_cost,
    .cost_help = "about 100 per path and step",
    .values = montecarlo_values,
};

/* nbody: positional, since a shard's bodies are rows of an input that all shards need whole. */

static enum manifest_error nbody_shape(const struct manifest_shapes *shapes,
                                       const struct manifest_params *params,
                                       struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                       uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    const struct array_type *bodies = &shapes->inputs[0];
    char a[ARRAY_TYPE_TEXT_BYTES];
    (void)params;
    if (bodies->shape[1] != NBODY_COLUMNS || bodies->shape[0] > INT32_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "nbody: bodies is %s; give rows of 7: position, velocity, mass (x y z vx vy vz m)",
                 text_of(bodies, a));
        return MANIFEST_BAD_INPUT;
    }
    outputs[0] = matrix_of(ARRAY_FLOAT32, shapes->items, NBODY_COLUMNS);
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost nbody_cost(const struct manifest_shapes *shapes,
                                       const struct manifest_params *params)
{
    (void)params;
    const double bodies = (double)shapes->inputs[0].shape[0];
    return (struct manifest_cost){
        .operations = 34 * bodies,
        .bytes = 8 * NBODY_COLUMNS,
        .cpu_ns = 0.6 * bodies + 20,
    };
}

static uint64_t nbody_items(const struct manifest_shapes *shapes, const struct manifest_params *params)
{
    (void)params;
    return shapes->inputs[0].shape[0];
}

static enum manifest_error nbody_values(uint32_t input, const struct array_type *type, const void *rows,
                                        uint64_t bytes, uint64_t count, uint64_t first_row,
                                        char error[MANIFEST_ERROR_BYTES])
{
    (void)input, (void)bytes;
    if (type->rank != 2 || type->shape[1] != NBODY_COLUMNS)
        return MANIFEST_OK; /* the shape check speaks of it */
    for (uint64_t at = 0; at < count * NBODY_COLUMNS; at++) {
        float value;
        memcpy(&value, (const char *)rows + at * sizeof value, sizeof value);
        if (value >= -1e12f && value <= 1e12f)
            continue;
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "nbody: row %llu of bodies has %g; it must be between -1e12 and 1e12",
                 (unsigned long long)(first_row + at / NBODY_COLUMNS), (double)value);
        return MANIFEST_BAD_VALUE;
    }
    return MANIFEST_OK;
}

static const struct manifest nbody = {
    .name = "nbody",
    .version = 1,
    .help = "one step of bodies under their gravity, all pairs: its output is the next step's input",
    .class = MANIFEST_EXACT,
    .positional = true,
    .input_count = 1,
    .inputs = {{.name = "bodies",
                .help = "float32 [n, 7]: position, velocity, mass; G is 1",
                .dtypes = DTYPE(FLOAT32),
                .rank_min = 2,
                .rank_max = 2,
                .roles = MANIFEST_BROADCAST,
                .finite = true}},
    .output_count = 1,
    .outputs = {{.name = "bodies", .help = "float32 [n, 7]: after the step"}},
    .param_count = 2,
    .params = {[NBODY_DT] = {.name = "dt",
                             .help = "length of the step",
                             .type = MANIFEST_REAL,
                             .range = {.minimum = -1000, .maximum = 1000, .fallback = 0.01}},
               [NBODY_SOFTENING] = {.name = "softening",
                                    .help = "what keeps near encounters finite, as a distance",
                                    .type = MANIFEST_REAL,
                                    .range = {.minimum = 1e-6, .maximum = 1e6, .fallback = 0.01}}},
    .shape = nbody_shape,
    .cost = nbody_cost,
    .items = nbody_items,
    .values = nbody_values,
    .cost_help = "34 floating-point operations per other body: 34 n",
};

/* noop */

static enum manifest_error noop_shape(const struct manifest_shapes *shapes,
                                      const struct manifest_params *params,
                                      struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                      char error[MANIFEST_ERROR_BYTES])
{
    (void)params, (void)error;
    outputs[0] = vector_of(ARRAY_UINT64, shapes->items);
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost noop_cost(const struct manifest_shapes *shapes,
                                      const struct manifest_params *params)
{
    (void)params;
    const double row_bytes = shapes->items ? (double)shapes->split_bytes / (double)shapes->items : 0;
    return (struct manifest_cost){.operations = row_bytes, .bytes = row_bytes + 8, .cpu_ns = 1 + row_bytes};
}

static const struct manifest noop = {
    .name = "noop",
    .version = 1,
    .help = "FNV-1a of each row: measures the mesh, not the device",
    .class = MANIFEST_EXACT,
    .diagnostic = true,
    .input_count = 1,
    .inputs = {{.name = "data",
                .help = "raw or uint8 rows",
                .dtypes = DTYPE(RAW) | DTYPE(UINT8),
                .rank_min = 1,
                .rank_max = 2,
                .roles = MANIFEST_SPLIT}},
    .output_count = 1,
    .outputs = {{.name = "sum", .help = "uint64 [rows]"}},
    .shape = noop_shape,
    .cost = noop_cost,
    .cost_help = "bytes of the row",
};

/* render: an item is a row of the picture. */

static enum manifest_error render_shape(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params,
                                        struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                        uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    const uint64_t lines = shapes->inputs[0].shape[0];
    if (lines > RENDER_LINES_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES, "render: scene has %llu lines; give at most %d",
                 (unsigned long long)lines, RENDER_LINES_MAX);
        return MANIFEST_BAD_INPUT;
    }
    outputs[0] = (struct array_type){
        .dtype = ARRAY_UINT8,
        .rank = 3,
        .shape = {shapes->items, (uint64_t)manifest_param_integer(params, RENDER_WIDTH), 3}};
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost render_cost(const struct manifest_shapes *shapes,
                                        const struct manifest_params *params)
{
    const double paths = (double)manifest_param_integer(params, RENDER_WIDTH) *
                         (double)manifest_param_integer(params, RENDER_SAMPLES);
    const double lines = (double)shapes->inputs[0].shape[0];
    return (struct manifest_cost){
        .operations = paths * 5 * (20 * lines + 200),
        .bytes = 3 * (double)manifest_param_integer(params, RENDER_WIDTH),
        .cpu_ns = paths * (600 + 10 * lines),
    };
}

static uint64_t render_items(const struct manifest_shapes *shapes, const struct manifest_params *params)
{
    (void)shapes;
    return (uint64_t)manifest_param_integer(params, RENDER_HEIGHT);
}

static enum manifest_error render_values(uint32_t input, const struct array_type *type, const void *rows,
                                         uint64_t bytes, uint64_t count, uint64_t first_row,
                                         char error[MANIFEST_ERROR_BYTES])
{
    (void)input, (void)type, (void)count, (void)first_row;
    char why[MANIFEST_ERROR_BYTES - 16];
    struct render_scene *scene = malloc(sizeof *scene);
    const bool good = scene && render_parse(scene, rows, bytes, why, sizeof why);
    if (!good)
        snprintf(error, MANIFEST_ERROR_BYTES, "render: %s", scene ? why : "out of memory");
    free(scene);
    return good ? MANIFEST_OK : MANIFEST_BAD_VALUE;
}

static const struct manifest render = {
    .name = "render",
    .version = 1,
    .help = "a picture of spheres and planes by path tracing, the same bits on every device",
    .class = MANIFEST_EXACT,
    .positional = true,
    .input_count = 1,
    .inputs = {{.name = "scene",
                .help =
                    "text, a thing a line: camera EYE AT FIELD [APERTURE FOCUS]; sky ZENITH HORIZON; "
                    "sphere CENTRE RADIUS MATERIAL; plane POINT NORMAL MATERIAL. MATERIAL: diffuse COLOUR, "
                    "checker COLOUR COLOUR SIZE, metal COLOUR ROUGHNESS, glass COLOUR INDEX, light COLOUR",
                .dtypes = DTYPE(TEXT),
                .rank_min = 1,
                .rank_max = 1,
                .roles = MANIFEST_BROADCAST}},
    .output_count = 1,
    .outputs = {{.name = "picture",
                 .help = "uint8 [height, width, 3]; to a file that ends in .png it goes as one"}},
    .param_count = 7,
    .params = {[RENDER_WIDTH] = {.name = "width",
                                 .help = "of the picture, in pixels",
                                 .type = MANIFEST_INTEGER,
                                 .range = {.minimum = 1, .maximum = 16384, .fallback = 640}},
               [RENDER_HEIGHT] = {.name = "height",
                                  .help = "of the picture; a row of pixels is an item",
                                  .type = MANIFEST_INTEGER,
                                  .range = {.minimum = 1, .maximum = 16384, .fallback = 360}},
               [RENDER_SAMPLES] = {.name = "samples",
                                   .help = "paths per pixel; four times as many halve the grain",
                                   .type = MANIFEST_INTEGER,
                                   .range = {.minimum = 1, .maximum = 16384, .fallback = 64}},
               [RENDER_DEPTH] = {.name = "depth",
                                 .help = "turns of a path at most",
                                 .type = MANIFEST_INTEGER,
                                 .range = {.minimum = 1, .maximum = 64, .fallback = 12}},
               [RENDER_SEED] = {.name = "seed",
                                .help = "key of the Philox generator",
                                .type = MANIFEST_INTEGER,
                                .range = {.minimum = 0, .maximum = 9007199254740991.0, .fallback = 1}},
               [RENDER_EXPOSURE] = {.name = "exposure",
                                    .help = "what light is multiplied by",
                                    .type = MANIFEST_REAL,
                                    .range = {.minimum = 1e-3, .maximum = 1e3, .fallback = 1}},
               [RENDER_CLAMP] = {.name = "clamp",
                                 .help = "the brightest that one path may be: less of it is less grain",
                                 .type = MANIFEST_REAL,
                                 .range = {.minimum = 1e-2, .maximum = 1e6, .fallback = 6}}},
    .shape = render_shape,
    .cost = render_cost,
    .items = render_items,
    .values = render_values,
    .cost_help = "a row of pixels: about 100 per path and line of the scene",
    .example = "weir submit render --scene scene.txt --output picture.png",
};

/* spin */

static enum manifest_error spin_shape(const struct manifest_shapes *shapes,
                                      const struct manifest_params *params,
                                      struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                      char error[MANIFEST_ERROR_BYTES])
{
    (void)params, (void)error;
    outputs[0] = vector_of(ARRAY_UINT32, shapes->items);
    *output_count = 1;
    return MANIFEST_OK;
}

static struct manifest_cost spin_cost(const struct manifest_shapes *shapes,
                                      const struct manifest_params *params)
{
    (void)shapes;
    const double us = (double)manifest_param_integer(params, SPIN_US);
    return (struct manifest_cost){.operations = us * 1000, .bytes = 4, .cpu_ns = us * 1000 + 20};
}

static const struct manifest spin = {
    .name = "spin",
    .version = 1,
    .help = "keeps the device busy for a stated time per item: measures the mesh",
    .class = MANIFEST_EXACT,
    .positional = true,
    .diagnostic = true,
    .output_count = 1,
    .outputs = {{.name = "mark", .help = "uint32 [items]: a hash of each item's number"}},
    .param_count = 1,
    .params = {[SPIN_US] = {.name = "us",
                            .help = "microseconds of busy time per item",
                            .type = MANIFEST_INTEGER,
                            .range = {.minimum = 0, .maximum = 1000000, .fallback = 1000}}},
    .shape = spin_shape,
    .cost = spin_cost,
    .cost_help = "nanoseconds that it takes",
};

const struct manifest *const builtin_manifests[] = {&embed, &kmeans, &knn,    &matmul, &montecarlo,
                                                    &nbody, &noop,   &render, &spin};
const size_t builtin_manifest_count = sizeof builtin_manifests / sizeof *builtin_manifests;
