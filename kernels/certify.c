/*
 * Certificates: Freivalds' check of matrix products ("Probabilistic machines can use less running time", 1977). c = a b is
 * tested as c r = a (b r) for a vector r that the seed draws, in n^2 rather than n^3 steps.
 *
 * Integers: r below 2^31, sums modulo 2^64. A row that is wrong anywhere passes with a chance of 2^-31.
 *
 * Floats: r within (-1, 1), sums in doubles. Every element may be off by the tolerance times the sum of the sizes of its
 * products, so a row passes if it is off by no more than what all its elements may be together. What is within the
 * tolerance always passes; an error that is larger than a row's allowance passes only if r weighs it down by chance.
 */
#include "kernels/builtin.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t drawn(uint64_t seed, uint64_t j)
{
    uint64_t z = seed + (j + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static float float_at(const void *data, uint64_t index)
{
    float value;
    memcpy(&value, (const uint8_t *)data + index * sizeof value, sizeof value);
    return value;
}

/* An element of an input as it is multiplied: rounded first, if the precision asked for says so. */
static double factor_at(const struct manifest_evidence *evidence, uint32_t input, uint64_t index)
{
    const float value = float_at(evidence->inputs[input], index);
    return (double)(manifest_param_integer(evidence->params, MATMUL_PRECISION) ? matmul_bfloat(value)
                                                                               : value);
}

static uint64_t weight_int(uint64_t seed, uint64_t j)
{
    return drawn(seed, j) >> 33;
}

static double weight_float(uint64_t seed, uint64_t j)
{
    return (double)(int64_t)drawn(seed, j) / 9223372036854775808.0;
}

/* b r, and |b| |r|: for each row of b. */
struct products {
    double sum;
    double size;
};

static struct products *float_products(const struct manifest_evidence *evidence, uint64_t seed)
{
    const uint64_t depth = evidence->types[1].shape[0], columns = evidence->types[1].shape[1];
    struct products *products = calloc(depth, sizeof *products);
    for (uint64_t k = 0; products && k < depth; k++)
        for (uint64_t j = 0; j < columns; j++) {
            const double term = factor_at(evidence, 1, k * columns + j) * weight_float(seed, j);
            products[k].sum += term;
            products[k].size += fabs(term);
        }
    return products;
}

static bool float_row(const struct manifest_evidence *evidence, uint64_t seed, uint64_t row, double tolerance)
{
    const struct products *products = *evidence->memo;
    const uint64_t depth = evidence->types[1].shape[0], columns = evidence->types[1].shape[1];
    double expected = 0, size = 0, found = 0;
    for (uint64_t k = 0; k < depth; k++) {
        const double a = factor_at(evidence, 0, row * depth + k);
        expected += a * products[k].sum;
        size += fabs(a) * products[k].size;
    }
    for (uint64_t j = 0; j < columns; j++)
        found += (double)float_at(evidence->outputs[0], row * columns + j) * weight_float(seed, j);
    return fabs(found - expected) <= tolerance * size; /* false where c holds NaN */
}

static uint64_t *int_products(const struct manifest_evidence *evidence, uint64_t seed)
{
    const uint64_t depth = evidence->types[1].shape[0], columns = evidence->types[1].shape[1];
    const int8_t *b = evidence->inputs[1];
    uint64_t *products = calloc(depth, sizeof *products);
    for (uint64_t k = 0; products && k < depth; k++)
        for (uint64_t j = 0; j < columns; j++)
            products[k] += (uint64_t)(int64_t)b[k * columns + j] * weight_int(seed, j);
    return products;
}

static bool int_row(const struct manifest_evidence *evidence, uint64_t seed, uint64_t row)
{
    const uint64_t *products = *evidence->memo;
    const uint64_t depth = evidence->types[1].shape[0], columns = evidence->types[1].shape[1];
    const int8_t *a = (const int8_t *)evidence->inputs[0] + row * depth;
    uint64_t expected = 0, found = 0;
    for (uint64_t k = 0; k < depth; k++)
        expected += (uint64_t)(int64_t)a[k] * products[k];
    for (uint64_t j = 0; j < columns; j++) {
        int32_t c;
        memcpy(&c, (const uint8_t *)evidence->outputs[0] + (row * columns + j) * sizeof c, sizeof c);
        found += (uint64_t)(int64_t)c * weight_int(seed, j);
    }
    return expected == found;
}

bool matmul_certify(const struct manifest_evidence *evidence, uint64_t seed)
{
    const bool integers = evidence->types[0].dtype == ARRAY_INT8;
    if (!*evidence->memo)
        *evidence->memo =
            integers ? (void *)int_products(evidence, seed) : (void *)float_products(evidence, seed);
    bool good = *evidence->memo != NULL;
    for (uint64_t row = 0; good && row < evidence->items; row++)
        good = integers ? int_row(evidence, seed, row)
                        : float_row(evidence, seed, row, manifest_find("matmul")->tolerance);
    return good;
}
