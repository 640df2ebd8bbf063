/* Diagnostics: 64-bit FNV-1a of each row. It reads every byte once, which shows that the rows arrived. */
#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

enum kernel_error noop_run(struct kernel_call *call)
{
    const struct kernel_input *data = &call->inputs[0];
    const uint64_t row_bytes = call->items ? data->bytes / call->items : 0;
    const uint8_t *row = data->data;
    uint64_t *sums = call->outputs[0].data;
    for (uint64_t item = 0; item < call->items; item++, row += row_bytes) {
        uint64_t hash = 0xcbf29ce484222325u;
        for (uint64_t i = 0; i < row_bytes; i++)
            hash = (hash ^ row[i]) * 0x100000001b3u;
        sums[item] = hash;
        if (item % 65536 == 65535 && kernel_pulse(call))
            return kernel_fail(call, KERNEL_CANCELLED, "cancelled");
    }
    return KERNEL_OK;
}

enum kernel_error noop_gpu(struct kernel_call *call, struct gpu *gpu)
{
    bool kept;
    uint64_t rows = gpu_input(gpu, &call->inputs[0], &kept), sums = gpu_alloc(gpu, call->outputs[0].bytes);
    uint64_t items = call->items, row_bytes = call->inputs[0].bytes / items;
    const bool good = rows && sums &&
                      gpu_launch(gpu, "noop", "noop_rows",
                                 (struct gpu_grid){.x = (uint32_t)((items + 255) / 256), .threads = 256},
                                 (void *[]){&rows, &row_bytes, &items, &sums}) &&
                      gpu_download(gpu, call->outputs[0].data, sums, call->outputs[0].bytes);
    gpu_free(gpu, sums);
    gpu_free(gpu, rows);
    kernel_pulse(call);
    return good ? KERNEL_OK : kernel_fail(call, KERNEL_FAILED, "noop: %s", gpu_message(gpu));
}
