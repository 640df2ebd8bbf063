#include "kernels/kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/gpu.h"
#include "kernels/user_run.h"

static const struct kernel_code kernels[] = {
    {"embed", embed_run, embed_launch, NULL},
    {"kmeans", kmeans_run, kmeans_launch, NULL},
    {"knn", knn_run, knn_launch, NULL},
    {"matmul", matmul_run, matmul_launch, NULL},
    {"montecarlo", montecarlo_run, montecarlo_launch, montecarlo_finish_gpu},
    {"nbody", nbody_run, nbody_launch, NULL},
    {"noop", noop_run, noop_launch, NULL},
    {"render", render_run, render_launch, NULL},
    {"spin", spin_run, spin_launch, NULL},
};

static const struct kernel_code users = {"", user_run, user_launch, NULL};

const struct kernel_code *kernel_code_of(const struct manifest *manifest)
{
    if (manifest->user)
        return &users;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, manifest->name) == 0)
            return &kernels[i];
    return NULL;
}

enum kernel_error kernel_run(struct kernel_call *call, struct gpu *gpu)
{
    const struct kernel_code *code = kernel_code_of(call->manifest);
    if (!code)
        return kernel_fail(call, KERNEL_FAILED, "this worker has no code for kernel %s",
                           call->manifest->name);
    if (!gpu)
        return code->run(call);
    uint32_t count;
    uint64_t device_ns;
    gpu_submit(gpu, call, 1);
    return gpu_collect(gpu, &call, &count, &device_ns);
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
    if (keep->device_of)
        gpu_forget(keep->device_of, keep);
    *keep = (struct kernel_keep){0};
}
