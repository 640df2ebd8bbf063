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

/* One launch per 10 ms or less, so that progress shows and a cancel is heard. */
enum kernel_error spin_gpu(struct kernel_call *call, struct gpu *gpu)
{
    const uint64_t item_ns = (uint64_t)manifest_param_integer(call->params, SPIN_US) * 1000;
    const uint64_t at_once = item_ns ? 1 + 10000000 / item_ns : call->items;
    uint64_t marks = gpu_alloc(gpu, call->outputs[0].bytes);
    bool good = marks != 0;
    for (uint64_t item = 0; good && item < call->items; item += at_once) {
        uint64_t items = call->items - item < at_once ? call->items - item : at_once;
        uint64_t ns = items * item_ns, first = call->first_item + item, to = marks + 4 * item;
        good = gpu_launch(gpu, "spin", "spin_items", (struct gpu_grid){.x = 1, .threads = 1},
                          (void *[]){&ns, &first, &items, &to}) &&
               gpu_wait(gpu);
        if (kernel_pulse(call)) {
            gpu_free(gpu, marks);
            return kernel_fail(call, KERNEL_CANCELLED, "cancelled");
        }
    }
    good = good && gpu_download(gpu, call->outputs[0].data, marks, call->outputs[0].bytes);
    gpu_free(gpu, marks);
    return good ? KERNEL_OK : kernel_fail(call, KERNEL_FAILED, "spin: %s", gpu_message(gpu));
}
