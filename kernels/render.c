/* Pictures on a CPU: pixel by pixel, with the spheres in vectors. The same body is compiled for AVX-512, AVX2 and the
 * baseline; all give the same bits. */
#include "kernels/render_core.h"

#include <stdlib.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/kernel.h"

/* For the test that all variants agree. */
kernel_function render_run_portable;

typedef void pixel_function(const struct render_scene *scene, const struct render_settings *settings,
                            uint32_t column, uint32_t row, uint8_t out[3]);

static void pixel_portable(const struct render_scene *scene, const struct render_settings *settings,
                           uint32_t column, uint32_t row, uint8_t out[3])
{
    render_pixel(scene, settings, column, row, out);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void pixel_avx2(const struct render_scene *scene,
                                                       const struct render_settings *settings,
                                                       uint32_t column, uint32_t row, uint8_t out[3])
{
    render_pixel(scene, settings, column, row, out);
}

#if defined(__clang__)
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw")))
#else
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512")))
#endif
AVX512 static void pixel_avx512(const struct render_scene *scene, const struct render_settings *settings,
                                uint32_t column, uint32_t row, uint8_t out[3])
{
    render_pixel(scene, settings, column, row, out);
}
#endif

static pixel_function *pixel_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        return pixel_avx512;
    if (__builtin_cpu_supports("avx2"))
        return pixel_avx2;
#endif
    return pixel_portable;
}

static struct render_settings settings_of(const struct manifest_params *params)
{
    return (struct render_settings){
        .seed = (uint64_t)manifest_param_integer(params, RENDER_SEED),
        .width = (uint32_t)manifest_param_integer(params, RENDER_WIDTH),
        .height = (uint32_t)manifest_param_integer(params, RENDER_HEIGHT),
        .samples = (uint32_t)manifest_param_integer(params, RENDER_SAMPLES),
        .depth = (uint32_t)manifest_param_integer(params, RENDER_DEPTH),
        .exposure = (float)manifest_param_real(params, RENDER_EXPOSURE),
        .clamp = (float)manifest_param_real(params, RENDER_CLAMP),
    };
}

static enum kernel_error run_with(struct kernel_call *call, pixel_function *pixel)
{
    const struct kernel_input *input = &call->inputs[0];
    const struct render_settings settings = settings_of(call->params);
    uint8_t *out = call->outputs[0].data;
    char error[MANIFEST_ERROR_BYTES - 16];
    if (call->first_item + call->items > settings.height)
        return kernel_fail(call, KERNEL_REJECTED, "render: rows to %llu of a picture of %u",
                           (unsigned long long)(call->first_item + call->items), settings.height);
    struct render_scene *scene = aligned_alloc(64, (sizeof *scene + 63) / 64 * 64);
    if (!scene)
        return kernel_fail(call, KERNEL_FAILED, "render: out of memory");
    enum kernel_error result = KERNEL_OK;
    if (!render_parse(scene, input->data, input->bytes, error, sizeof error))
        result = kernel_fail(call, KERNEL_REJECTED, "render: %s", error);
    for (uint64_t row = 0; row < call->items && !result; row++)
        for (uint32_t column = 0; column < settings.width && !result; column++, out += 3) {
            pixel(scene, &settings, column, (uint32_t)(call->first_item + row), out);
            if (kernel_pulse(call))
                result = kernel_fail(call, KERNEL_CANCELLED, "cancelled");
        }
    free(scene);
    return result;
}

enum kernel_error render_run(struct kernel_call *call)
{
    return run_with(call, pixel_best());
}

enum kernel_error render_run_portable(struct kernel_call *call)
{
    return run_with(call, pixel_portable);
}

/* The scene as the device wants it, made once and kept with the text. */
static uint64_t scene_on_gpu(struct gpu_work *work)
{
    const struct kernel_input *input = &work->calls[0].inputs[0];
    char error[MANIFEST_ERROR_BYTES - 32];
    bool fresh;
    const uint64_t address = gpu_keep(work, 0, sizeof(struct render_scene), &fresh);
    if (!address || !fresh)
        return address;
    struct render_scene *scene = malloc(sizeof *scene);
    bool good = scene != NULL;
    if (!good)
        gpu_refuse(work, KERNEL_FAILED, "out of memory");
    else if (!render_parse(scene, input->data, input->bytes, error, sizeof error))
        good = gpu_refuse(work, KERNEL_REJECTED, "%s", error);
    else
        good = gpu_put(work, address, scene, sizeof *scene);
    free(scene);
    return good ? address : 0;
}

bool render_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    struct render_settings settings = settings_of(work->calls[0].params);
    uint32_t row = (uint32_t)(work->first_item + first), rows = (uint32_t)count;
    if (work->first_item + first + count > settings.height)
        return gpu_refuse(work, KERNEL_REJECTED, "rows to %llu of a picture of %u",
                          (unsigned long long)(work->first_item + first + count), settings.height);
    uint64_t scene = scene_on_gpu(work), picture = work->outputs[0] + first * settings.width * 3;
    return scene && gpu_launch(work, "render", "render_rows",
                               (struct gpu_grid){.x = (uint32_t)((count * settings.width + 127) / 128),
                                                 .threads = 128},
                               (void *[]){&scene, &settings, &row, &rows, &picture});
}
