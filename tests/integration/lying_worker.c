/* Wraps kernel_run in a weir-worker of its own: about one shard in ten gets a result that fits its kernel and is wrong. The
 * same shards lie each time, wherever this worker runs. */
#include "kernels/kernel.h"

enum kernel_error __real_kernel_run(struct kernel_call *call, struct gpu *gpu);
enum kernel_error __wrap_kernel_run(struct kernel_call *call, struct gpu *gpu);

enum kernel_error __wrap_kernel_run(struct kernel_call *call, struct gpu *gpu)
{
    const enum kernel_error error = __real_kernel_run(call, gpu);
    const uint64_t draw = (call->first_item + 1) * UINT64_C(0x9e3779b97f4a7c15);
    if (error == KERNEL_OK && (draw >> 32) % 10 == 3 && call->outputs[0].bytes > 0)
        ((unsigned char *)call->outputs[0].data)[0] ^= 1;
    return error;
}
