/* Diagnostics: busy for a stated time per item. The time is that of the thread's own CPU clock, so that a
 * worker which has lost its core to others does as much work as one that hasn't. */
#include <time.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

static int64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

enum kernel_error spin_run(struct kernel_call *call)
{
    const int64_t item_ns = manifest_param_integer(call->params, SPIN_US) * 1000;
    uint32_t *marks = call->outputs[0].data;
    int64_t end_ns = cpu_ns(), pulse_ns = end_ns;
    for (uint64_t item = 0; item < call->items; item++) {
        end_ns += item_ns;
        for (int64_t now_ns; item_ns && (now_ns = cpu_ns()) < end_ns;)
            if (now_ns - pulse_ns > 5000000) {
                pulse_ns = now_ns;
                if (kernel_pulse(call))
                    return kernel_fail(call, KERNEL_CANCELLED, "cancelled");
            }
        marks[item] = (uint32_t)((call->first_item + item) * 0x9e3779b97f4a7c15u >> 32);
    }
    return KERNEL_OK;
}

bool spin_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    uint64_t ns = count * (uint64_t)manifest_param_integer(work->calls[0].params, SPIN_US) * 1000;
    uint64_t first_item = work->first_item + first, marks = work->outputs[0] + 4 * first;
    return gpu_launch(work, "spin", "spin_items", (struct gpu_grid){.x = 1, .threads = 1},
                      (void *[]){&ns, &first_item, &count, &marks});
}
