/* Hashed character-n-gram vectors on a CPU: see embed_core.h for what they are. */
#include "kernels/embed_core.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

_Static_assert(EMBED_PLACES == EMBED_DIMENSIONS, "the manifest and the code differ");

static const int32_t weights[] = {EMBED_WEIGHTS};

static void add(int32_t *sums, uint32_t kind, uint32_t bytes)
{
    const uint32_t hash = embed_hash(kind, bytes);
    sums[embed_place(hash)] += embed_sign(hash) * weights[kind];
}

/* `c` steps over boundary, line, boundary; b, a and z are the bytes before it, nearest first. */
static void embed_line(const uint8_t *line, uint64_t bytes, int8_t *vector)
{
    int32_t sums[EMBED_PLACES] = {0};
    uint32_t b = EMBED_BOUNDARY, a = 0, z = 0;
    for (uint64_t i = 0; i <= bytes; i++) {
        const uint32_t c = i < bytes ? embed_fold(line[i]) : EMBED_BOUNDARY;
        if (i < bytes)
            add(sums, EMBED_ONE, c);
        add(sums, EMBED_TWO, b << 8 | c);
        if (i >= 1) {
            add(sums, EMBED_THREE, a << 16 | b << 8 | c);
            add(sums, EMBED_GAP_ONE, a << 8 | c);
        }
        if (i >= 2)
            add(sums, EMBED_GAP_TWO, z << 8 | c);
        if (i % 65536 == 65535) /* a very long line could pass int32 otherwise */
            for (unsigned j = 0; j < EMBED_PLACES; j++)
                sums[j] = embed_clamp_sum(sums[j]);
        z = a;
        a = b;
        b = c;
    }
    uint64_t squares = 0;
    for (unsigned j = 0; j < EMBED_PLACES; j++) {
        sums[j] = embed_clamp_sum(sums[j]);
        squares += (uint64_t)((int64_t)sums[j] * sums[j]);
    }
    uint32_t shift;
    const uint64_t norm = embed_norm(squares, &shift);
    for (unsigned j = 0; j < EMBED_PLACES; j++)
        vector[j] = embed_scale(sums[j], norm, shift);
}

enum kernel_error embed_run(struct kernel_call *call)
{
    const struct kernel_input *text = &call->inputs[0];
    const uint8_t *at = text->data, *const end = at + text->bytes;
    int8_t *vectors = call->outputs[0].data;
    for (uint64_t item = 0; item < call->items; item++) {
        if (at >= end)
            return kernel_fail(call, KERNEL_REJECTED, "embed: text holds %llu lines, not %llu",
                               (unsigned long long)item, (unsigned long long)call->items);
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        embed_line(at, (uint64_t)((stop ? stop : end) - at), vectors + item * EMBED_PLACES);
        at = stop ? stop + 1 : end;
        if (item % 4096 == 0 && kernel_pulse(call))
            return kernel_fail(call, KERNEL_CANCELLED, "cancelled");
    }
    if (at != end)
        return kernel_fail(call, KERNEL_REJECTED, "embed: text holds more than %llu lines",
                           (unsigned long long)call->items);
    return KERNEL_OK;
}

bool embed_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    uint64_t starts = work->lines[0] + 8 * first, vectors = work->outputs[0] + EMBED_PLACES * first;
    return gpu_launch(work, "embed", "embed_lines",
                      (struct gpu_grid){.x = (uint32_t)count, .threads = EMBED_PLACES},
                      (void *[]){&work->inputs[0], &starts, &vectors});
}
