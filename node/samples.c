#include "node/samples.h"

#include <stdlib.h>
#include <string.h>

void samples_add(struct samples *samples, uint32_t value)
{
    samples->value[samples->next] = value;
    samples->next = (samples->next + 1) % SAMPLES_MAX;
    if (samples->count < SAMPLES_MAX)
        samples->count++;
}

static int compare(const void *left, const void *right)
{
    const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

uint32_t samples_quantile(const struct samples *samples, uint32_t permille)
{
    uint32_t sorted[SAMPLES_MAX];
    if (samples->count == 0)
        return 0;
    memcpy(sorted, samples->value, samples->count * sizeof *sorted);
    qsort(sorted, samples->count, sizeof *sorted, compare);
    const uint32_t rank = (samples->count * permille + 999) / 1000;
    return sorted[rank > 0 ? rank - 1 : 0];
}
