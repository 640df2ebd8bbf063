#include "node/tolerance.h"

#include "kernels/array.h"

#include <math.h>
#include <string.h>

static double at(uint8_t dtype, const void *data, uint64_t index)
{
    float small;
    double large;
    if (dtype == ARRAY_FLOAT32) {
        memcpy(&small, (const uint8_t *)data + index * sizeof small, sizeof small);
        return (double)small;
    }
    memcpy(&large, (const uint8_t *)data + index * sizeof large, sizeof large);
    return large;
}

static bool is_same(double one, double other, double allowed)
{
    if (isnan(one) || isnan(other))
        return isnan(one) && isnan(other);
    if (isinf(one) || isinf(other))
        return one == other;
    return fabs(one - other) <= allowed;
}

bool tolerance_same(uint8_t dtype, const void *one, const void *other, uint64_t bytes, double tolerance)
{
    if (dtype != ARRAY_FLOAT32 && dtype != ARRAY_FLOAT64)
        return bytes == 0 || memcmp(one, other, bytes) == 0;
    const uint64_t count = bytes / (dtype == ARRAY_FLOAT32 ? sizeof(float) : sizeof(double));
    double sum = 0;
    uint64_t finite = 0;
    for (uint64_t i = 0; i < count; i++) {
        const double size = fabs(at(dtype, one, i)) + fabs(at(dtype, other, i));
        if (isfinite(size)) {
            sum += size / 2;
            finite++;
        }
    }
    const double mean = finite > 0 ? sum / (double)finite : 0;
    for (uint64_t i = 0; i < count; i++) {
        const double a = at(dtype, one, i), b = at(dtype, other, i);
        if (!is_same(a, b, tolerance * fmax(fmax(fabs(a), fabs(b)), mean)))
            return false;
    }
    return true;
}
