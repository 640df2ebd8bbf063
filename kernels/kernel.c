#include "kernels/kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/gpu.h"
#include "kernels/user_run.h"

static const struct {
    const char *name;
    kernel_function *run;
    kernel_gpu_function *run_gpu;
} kernels[] = {
    {"embed", embed_run, embed_gpu},    {"knn", knn_run, knn_gpu},
    {"matmul", matmul_run, matmul_gpu}, {"montecarlo", montecarlo_run, montecarlo_gpu},
    {"noop", noop_run, noop_gpu},       {"spin", spin_run, spin_gpu},
};

enum kernel_error kernel_run(struct kernel_call *call, struct gpu *gpu)
{
    if (call->manifest->user)
        return gpu ? user_run_gpu(call, gpu) : user_run(call);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, call->manifest->name) == 0)
            return gpu ? kernels[i].run_gpu(call, gpu) : kernels[i].run(call);
    return kernel_fail(call, KERNEL_FAILED, "this worker has no code for kernel %s", call->manifest->name);
}

void kernel_prepare(void)
{
    matmul_prepare();
}

bool kernel_pulse(const struct kernel_call *call)
{
    if (call->watch.stamp)
        atomic_fetch_add_explicit(call->watch.stamp, 1, memory_order_relaxed);
    return call->watch.cancel && atomic_load_explicit(call->watch.cancel, memory_order_relaxed) != 0;
}

enum kernel_error kernel_fail(struct kernel_call *call, enum kernel_error error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call->message, sizeof call->message, format, arguments);
    va_end(arguments);
    return error;
}

void kernel_keep_release(struct kernel_keep *keep)
{
    if (keep->memory && keep->release)
        keep->release(keep->memory);
    if (keep->device)
        gpu_free(keep->device_of, keep->device);
    *keep = (struct kernel_keep){0};
}
