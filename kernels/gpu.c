#include "kernels/gpu.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu_images.h"
#include "kernels/gpu_state.h"

#define FIRST_GUESS                                                                                          \
    0.25 /* of one CPU core's time, until a launch has been measured: no GPU is slower than four */

static bool open_streams(struct gpu *gpu);

const struct gpu_driver *gpu_driver(void)
{
    static struct gpu_driver driver;
    static bool tried, loaded;
    if (tried)
        return loaded ? &driver : NULL;
    tried = true;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return NULL;
    bool complete = true;
#define FIND(name, parameters)                                                                               \
    *(void **)&driver.name = dlsym(library, #name);                                                          \
    complete = complete && driver.name;
    DRIVER_FUNCTIONS(FIND)
#undef FIND
    loaded = complete && driver.cuInit(0) == 0;
    return loaded ? &driver : NULL;
}

bool gpu_built(void)
{
    return gpu_image_count > 0;
}

unsigned gpu_count(void)
{
    int count = 0;
    const struct gpu_driver *driver = gpu_driver();
    return driver && driver->cuDeviceGetCount(&count) == 0 && count > 0 ? (unsigned)count : 0;
}

bool gpu_describe(unsigned index, struct gpu_info *info, char message[MANIFEST_ERROR_BYTES])
{
    const struct gpu_driver *driver = gpu_driver();
    cu_device device;
    size_t memory = 0;
    int major = 0, minor = 0, processors = 0;
    *info = (struct gpu_info){0};
    if (!driver) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u: no CUDA driver (libcuda.so.1) works here", index);
        return false;
    }
    if (driver->cuDeviceGet(&device, (int)index) != 0 ||
        driver->cuDeviceGetName(info->name, (int)sizeof info->name, device) != 0 ||
        driver->cuDeviceTotalMem_v2(&memory, device) != 0 ||
        driver->cuDeviceGetAttribute(&major, CU_COMPUTE_MAJOR, device) != 0 ||
        driver->cuDeviceGetAttribute(&minor, CU_COMPUTE_MINOR, device) != 0 ||
        driver->cuDeviceGetAttribute(&processors, CU_MULTIPROCESSORS, device) != 0) {
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "cuda:%u: this machine has %u GPUs; `weir-worker --list` shows them", index, gpu_count());
        return false;
    }
    info->memory_bytes = memory;
    info->compute_major = (uint32_t)major;
    info->compute_minor = (uint32_t)minor;
    info->processors = (uint32_t)processors;
    return true;
}

bool gpu_open(struct gpu **out, unsigned index, char message[MANIFEST_ERROR_BYTES])
{
    *out = NULL;
    if (!gpu_built()) {
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "cuda:%u: this weir-worker was built without a CUDA compiler; build it where nvcc is found",
                 index);
        return false;
    }
    struct gpu_info info;
    if (!gpu_describe(index, &info, message))
        return false;
    struct gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u: out of memory", index);
        return false;
    }
    gpu->driver = gpu_driver();
    gpu->processors = info.processors;
    bool good =
        gpu_check(gpu, gpu->driver->cuDeviceGet(&gpu->device, (int)index), "find the device") &&
        gpu_check(gpu, gpu->driver->cuDevicePrimaryCtxRetain(&gpu->context, gpu->device), "make a context") &&
        gpu_check(gpu, gpu->driver->cuCtxSetCurrent(gpu->context), "set the context");
    for (size_t i = 0; good && i < gpu_image_count && i < GPU_MODULES_MAX; i++)
        good = gpu_check(gpu, gpu->driver->cuModuleLoadData(&gpu->modules[i], gpu_images[i].image),
                         "load the kernels");
    good = good && open_streams(gpu) && gpu_memory_open(gpu);
    if (!good) {
        snprintf(message, MANIFEST_ERROR_BYTES, "cuda:%u (%s): %.200s", index, info.name, gpu->message);
        gpu_close(gpu);
        return false;
    }
    *out = gpu;
    return true;
}

static bool open_streams(struct gpu *gpu)
{
    void **const streams[] = {&gpu->up, &gpu->compute, &gpu->down};
    bool good = true;
    for (int i = 0; good && i < 3; i++)
        good =
            gpu_check(gpu, gpu->driver->cuStreamCreate(streams[i], CU_STREAM_NON_BLOCKING), "make a stream");
    void **const events[] = {&gpu->uploaded, &gpu->steps[0].begin, &gpu->steps[0].end, &gpu->steps[1].begin,
                             &gpu->steps[1].end};
    for (int i = 0; good && i < 5; i++)
        good = gpu_check(gpu, gpu->driver->cuEventCreate(events[i], CU_EVENT_BLOCKING_SYNC), "make an event");
    return good;
}

static void free_batch(struct gpu *gpu, struct gpu_batch *batch)
{
    if (batch->computed)
        gpu->driver->cuEventDestroy_v2(batch->computed);
    if (batch->landed)
        gpu->driver->cuEventDestroy_v2(batch->landed);
    free(batch);
}

void gpu_close(struct gpu *gpu)
{
    if (!gpu)
        return;
    struct kernel_call *calls;
    uint32_t count;
    uint64_t device_ns;
    while (gpu->batch_count)
        gpu_collect(gpu, &calls, &count, &device_ns);
    if (gpu->context) {
        if (!gpu->broken)
            gpu_check(gpu, gpu->driver->cuCtxSynchronize(), "wait for the device");
        gpu_blas_close(gpu);
        gpu_memory_close(gpu);
        void *const events[] = {gpu->uploaded, gpu->steps[0].begin, gpu->steps[0].end, gpu->steps[1].begin,
                                gpu->steps[1].end};
        for (int i = 0; i < 5; i++)
            if (events[i])
                gpu->driver->cuEventDestroy_v2(events[i]);
        void *const streams[] = {gpu->up, gpu->compute, gpu->down};
        for (int i = 0; i < 3; i++)
            if (streams[i])
                gpu->driver->cuStreamDestroy_v2(streams[i]);
        gpu->driver->cuDevicePrimaryCtxRelease_v2(gpu->device);
    }
    free(gpu);
}

bool gpu_broken(const struct gpu *gpu)
{
    return gpu->broken;
}

const char *gpu_message(const struct gpu *gpu)
{
    return gpu->message;
}

bool gpu_check(struct gpu *gpu, cu_result result, const char *what)
{
    const char *text = NULL;
    if (result == 0)
        return true;
    if (gpu->broken) /* the first error is the one that tells */
        return false;
    if (gpu->driver->cuGetErrorString(result, &text) != 0 || !text)
        text = "unknown error";
    snprintf(gpu->message, sizeof gpu->message, "could not %s: %s (CUDA error %d)", what, text, result);
    gpu->broken = true;
    return false;
}

bool gpu_refuse(struct gpu_work *work, enum kernel_error error, const char *format, ...)
{
    struct gpu_batch *batch = (struct gpu_batch *)work;
    if (batch->error)
        return false;
    char text[MANIFEST_ERROR_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    batch->error = error;
    snprintf(batch->message, sizeof batch->message, "%s: %.280s", work->calls[0].manifest->name, text);
    return false;
}

static bool refuse_broken(struct gpu_work *work)
{
    return gpu_refuse(work, KERNEL_FAILED, "%s", work->gpu->message);
}

/* ---- How much at once */

/* The pace of this job; a new job begins with a guess that is too slow rather than too fast. */
static double item_ns(const struct gpu *gpu, const struct kernel_call *call, bool *measured)
{
    const struct gpu_pace *pace = &gpu->pace;
    bool same =
        pace->manifest == call->manifest && memcmp(&pace->params, call->params, sizeof pace->params) == 0;
    struct manifest_shapes shapes = {.items = call->items};
    for (uint32_t i = 0; i < call->manifest->input_count; i++) {
        const bool split = call->inputs[i].data && !call->inputs[i].broadcast;
        struct array_type type = call->inputs[i].type;
        shapes.inputs[i] = type;
        shapes.roles[i] = !call->inputs[i].data ? 0 : split ? MANIFEST_SPLIT : MANIFEST_BROADCAST;
        shapes.split_bytes += split ? call->inputs[i].bytes : 0;
        if (split)
            type.shape[0] = 0;
        same = same && array_type_equal(&pace->inputs[i], &type);
    }
    *measured = same && pace->item_ns > 0;
    return *measured ? pace->item_ns
                     : manifest_item_cost(call->manifest, &shapes, call->params).cpu_ns * FIRST_GUESS;
}

static void set_pace(struct gpu *gpu, const struct kernel_call *call, double ns)
{
    bool measured;
    const double before = item_ns(gpu, call, &measured);
    struct gpu_pace *pace = &gpu->pace;
    *pace = (struct gpu_pace){.manifest = call->manifest,
                              .params = *call->params,
                              .item_ns = measured ? 0.75 * before + 0.25 * ns : ns};
    for (uint32_t i = 0; i < call->manifest->input_count; i++) {
        pace->inputs[i] = call->inputs[i].type;
        if (call->inputs[i].data && !call->inputs[i].broadcast)
            pace->inputs[i].shape[0] = 0;
    }
}

uint32_t gpu_batch(const struct gpu *gpu, const struct kernel_call *calls, uint32_t available)
{
    bool measured;
    const double ns = item_ns(gpu, &calls[0], &measured);
    uint64_t bytes_in = 0, bytes_out = 0, items = 0;
    uint32_t count = 0;
    for (; count < available && count < GPU_BATCH_MAX; count++) {
        const struct kernel_call *call = &calls[count];
        if (count > 0 && call->manifest->positional && call->first_item != calls[0].first_item + items)
            break;
        for (uint32_t i = 0; i < call->manifest->input_count; i++)
            bytes_in += call->inputs[i].broadcast ? 0 : call->inputs[i].bytes;
        for (uint32_t i = 0; i < call->output_count; i++)
            bytes_out += call->outputs[i].bytes;
        items += call->items;
        if (count > 0 && (!measured || ns * (double)items > GPU_LAUNCH_NS_AIM ||
                          bytes_in > GPU_STAGING_BYTES || bytes_out > GPU_STAGING_BYTES))
            break;
    }
    return count;
}

static uint64_t items_at_once(const struct gpu *gpu, const struct gpu_work *work)
{
    bool measured;
    const double ns = item_ns(gpu, &work->calls[0], &measured);
    const double items = GPU_LAUNCH_NS_AIM / (ns > 1e-3 ? ns : 1e-3);
    if (items * 1.5 >= (double)work->items) /* no small remainder */
        return work->items;
    return items < 1 ? 1 : (uint64_t)items;
}

/* ---- Launches */

/* Waits for the launches of a step, if it is in hand, and learns from it. */
static bool end_step(struct gpu *gpu, struct gpu_step *step)
{
    float ms = 0;
    if (!step->items)
        return true;
    const uint64_t items = step->items;
    step->items = 0;
    if (!gpu_check(gpu, gpu->driver->cuEventSynchronize(step->end), "run a kernel") ||
        !gpu_check(gpu, gpu->driver->cuEventElapsedTime(&ms, step->begin, step->end), "time a kernel"))
        return false;
    step->batch->device_ns += (uint64_t)((double)ms * 1e6);
    set_pace(gpu, &step->batch->work.calls[0], (double)ms * 1e6 / (double)items);
    return true;
}

/* Queues one launch of some items, after waiting for the last but one. */
static bool run_step(struct gpu *gpu, struct gpu_batch *batch, uint64_t first, uint64_t count)
{
    struct gpu_step *step = &gpu->steps[gpu->step];
    struct gpu_work *work = &batch->work;
    if (!end_step(gpu, step))
        return refuse_broken(work);
    if (kernel_pulse(&work->calls[0]))
        return gpu_refuse(work, KERNEL_CANCELLED, "cancelled");
    if (!gpu_check(gpu, gpu->driver->cuEventRecord(step->begin, gpu->compute), "mark a launch"))
        return refuse_broken(work);
    const bool good = kernel_code_of(work->calls[0].manifest)->launch(work, first, count);
    if (!gpu_check(gpu, gpu->driver->cuEventRecord(step->end, gpu->compute), "mark a launch"))
        return refuse_broken(work);
    step->items = count;
    step->batch = batch;
    gpu->step ^= 1;
    return good || gpu_refuse(work, KERNEL_FAILED, "%s", gpu->message);
}

/* Copies queued since the last launch come first. */
bool gpu_await_uploads(struct gpu *gpu)
{
    if (!gpu->upload_pending)
        return true;
    gpu->upload_pending = false;
    return gpu_check(gpu, gpu->driver->cuEventRecord(gpu->uploaded, gpu->up), "mark an upload") &&
           gpu_check(gpu, gpu->driver->cuStreamWaitEvent(gpu->compute, gpu->uploaded, 0),
                     "wait for an upload");
}

void *gpu_load(struct gpu *gpu, const void *image, void **module)
{
    /* Code that the driver refuses is its author's fault, and breaks nothing. */
    *module = NULL;
    if (gpu->broken || gpu->driver->cuModuleLoadData(module, image) != 0)
        *module = NULL;
    return *module;
}

void *gpu_function(struct gpu *gpu, void *module, const char *name)
{
    void *function = NULL;
    return !gpu->broken && gpu->driver->cuModuleGetFunction(&function, module, name) == 0 ? function : NULL;
}

void gpu_unload(struct gpu *gpu, void *module)
{
    if (module && !gpu->broken)
        gpu_check(gpu, gpu->driver->cuModuleUnload(module), "unload a kernel");
}

bool gpu_launch_function(struct gpu_work *work, void *function, struct gpu_grid grid, void **arguments)
{
    struct gpu *gpu = work->gpu;
    if (gpu->broken || !gpu_await_uploads(gpu))
        return refuse_broken(work);
    const cu_result result =
        gpu->driver->cuLaunchKernel(function, grid.x, grid.y ? grid.y : 1, grid.z ? grid.z : 1, grid.threads,
                                    1, 1, grid.shared_bytes, gpu->compute, arguments, NULL);
    /* These two say, before anything has run, that the launch asks for what the device hasn't: the code's fault. */
    if (result == CU_INVALID_VALUE || result == CU_LAUNCH_OUT_OF_RESOURCES)
        return gpu_refuse(
            work, KERNEL_FAILED,
            "a block of %u threads asks for more registers or shared memory than this GPU has (CUDA "
            "error %d)",
            grid.threads, result);
    return gpu_check(gpu, result, "launch a kernel") || refuse_broken(work);
}

bool gpu_launch(struct gpu_work *work, const char *module, const char *function, struct gpu_grid grid,
                void **arguments)
{
    struct gpu *gpu = work->gpu;
    for (size_t i = 0; i < gpu_image_count && i < GPU_MODULES_MAX; i++)
        if (strcmp(gpu_images[i].name, module) == 0) {
            void *handle = gpu_function(gpu, gpu->modules[i], function);
            if (handle)
                return gpu_launch_function(work, handle, grid, arguments);
        }
    return gpu_refuse(work, KERNEL_FAILED, "this worker has no CUDA code for %s", function);
}

/* ---- Batches */

bool gpu_room(const struct gpu *gpu)
{
    return gpu->batch_count < GPU_WORKS_MAX;
}

/* Memory that the batch gives back when it is finished. */
static uint64_t take_for(struct gpu_batch *batch, uint64_t bytes)
{
    const uint64_t address = gpu_take(batch->work.gpu, bytes);
    if (address)
        batch->taken[batch->taken_count++] = address;
    else
        gpu_refuse(&batch->work, KERNEL_FAILED, "%s", batch->work.gpu->message);
    return address;
}

/* The rows of all calls, laid end to end. */
static bool upload_rows(struct gpu_batch *batch, uint32_t input)
{
    struct gpu_work *work = &batch->work;
    uint64_t bytes = 0, at = 0;
    for (uint32_t i = 0; i < work->count; i++)
        bytes += work->calls[i].inputs[input].bytes;
    work->inputs[input] = take_for(batch, bytes);
    if (!work->inputs[input])
        return false;
    for (uint32_t i = 0; i < work->count; i++) {
        const struct kernel_input *rows = &work->calls[i].inputs[input];
        if (!gpu_upload(work->gpu, work->inputs[input] + at, rows->data, rows->bytes))
            return refuse_broken(work);
        at += rows->bytes;
    }
    return true;
}

/* A shard's last line may lack its newline only at the end of the text, so that lines of neighbours never join. */
static bool upload_lines(struct gpu_batch *batch, uint32_t input)
{
    struct gpu_work *work = &batch->work;
    uint64_t *offsets = malloc((work->items + 1) * sizeof *offsets), lines = 0, base = 0;
    if (!offsets)
        return gpu_refuse(work, KERNEL_FAILED, "out of memory for %llu lines",
                          (unsigned long long)work->items);
    bool good = true;
    for (uint32_t i = 0; good && i < work->count; i++) {
        const struct kernel_input *text = &work->calls[i].inputs[input];
        uint64_t count = 0;
        good = array_line_index(text->data, text->bytes, offsets + lines, work->items + 1 - lines, &count) ==
                   0 &&
               count == work->calls[i].items;
        for (uint64_t line = 0; good && line <= count; line++)
            offsets[lines + line] += base;
        lines += count;
        base += text->bytes;
    }
    if (good) {
        work->lines[input] = take_for(batch, (work->items + 1) * sizeof *offsets);
        if (work->lines[input] &&
            !gpu_upload(work->gpu, work->lines[input], offsets, (work->items + 1) * sizeof *offsets))
            refuse_broken(work);
    } else {
        gpu_refuse(work, KERNEL_REJECTED, "the text does not hold a line for each item");
    }
    free(offsets);
    return !batch->error;
}

static bool prepare(struct gpu_batch *batch)
{
    struct gpu_work *work = &batch->work;
    struct gpu *gpu = work->gpu;
    const struct manifest *manifest = work->calls[0].manifest;
    for (uint32_t i = 0; i < manifest->input_count; i++) {
        const struct kernel_input *input = &work->calls[0].inputs[i];
        if (!input->data || input->broadcast)
            continue;
        if (!upload_rows(batch, i) || (input->type.dtype == ARRAY_TEXT && !upload_lines(batch, i)))
            return false;
    }
    for (uint32_t i = 0; i < work->calls[0].output_count; i++) {
        for (uint32_t call = 0; call < work->count; call++)
            batch->output_bytes[i] += work->calls[call].outputs[i].bytes;
        work->outputs[i] = take_for(batch, batch->output_bytes[i]);
        if (!work->outputs[i])
            return false;
        /* Taken memory holds what was there before, and users are promised zeros. Our own kernels write all rows. */
        if ((manifest->user || manifest->outputs[i].combine != MANIFEST_CONCAT) &&
            !gpu_check(
                gpu, gpu->driver->cuMemsetD8Async(work->outputs[i], 0, batch->output_bytes[i], gpu->compute),
                "clear an output"))
            return refuse_broken(work);
    }
    return gpu_check(gpu, gpu->driver->cuEventCreate(&batch->computed, CU_EVENT_BLOCKING_SYNC),
                     "make an event") &&
                   gpu_check(gpu, gpu->driver->cuEventCreate(&batch->landed, CU_EVENT_BLOCKING_SYNC),
                             "make an event")
               ? true
               : refuse_broken(work);
}

/* Outputs that fit are on their way down while the next batch computes. */
static bool queue_downloads(struct gpu_batch *batch)
{
    struct gpu_work *work = &batch->work;
    struct gpu *gpu = work->gpu;
    const struct gpu_driver *driver = gpu->driver;
    uint64_t bytes = 0, at = 0;
    const uint32_t count = work->calls[0].output_count;
    if (!gpu_check(gpu, driver->cuEventRecord(batch->computed, gpu->compute), "mark a batch") ||
        !gpu_check(gpu, driver->cuStreamWaitEvent(gpu->down, batch->computed, 0), "wait for a batch"))
        return refuse_broken(work);
    for (uint32_t i = 0; i < count; i++)
        bytes += batch->output_bytes[i];
    if (bytes <= GPU_STAGING_BYTES) {
        batch->landing = gpu->landing[batch->number % 2];
        for (uint32_t i = 0; i < count; at += batch->output_bytes[i++])
            if (!gpu_check(gpu,
                           driver->cuMemcpyDtoHAsync_v2(batch->landing + at, work->outputs[i],
                                                        batch->output_bytes[i], gpu->down),
                           "copy from the GPU"))
                return refuse_broken(work);
    }
    return gpu_check(gpu, driver->cuEventRecord(batch->landed, gpu->down), "mark a batch") ||
           refuse_broken(work);
}

void gpu_submit(struct gpu *gpu, struct kernel_call *calls, uint32_t count)
{
    struct gpu_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        abort(); /* a kilobyte: nothing else would work either */
    batch->work =
        (struct gpu_work){.gpu = gpu, .calls = calls, .count = count, .first_item = calls[0].first_item};
    batch->number = ++gpu->number;
    for (uint32_t i = 0; i < count; i++)
        batch->work.items += calls[i].items;
    gpu->batches[gpu->batch_count++] = batch;
    const struct kernel_code *code = kernel_code_of(calls[0].manifest);
    if (!code || !code->launch) {
        gpu_refuse(&batch->work, KERNEL_FAILED, "this worker has no CUDA code for it");
        return;
    }
    if (gpu->broken) {
        refuse_broken(&batch->work);
        return;
    }
    bool good = prepare(batch);
    uint64_t at_once = items_at_once(gpu, &batch->work);
    for (uint64_t first = 0; good && first < batch->work.items; first += at_once) {
        if (first > 0) /* measured by now, perhaps */
            at_once = items_at_once(gpu, &batch->work);
        const uint64_t left = batch->work.items - first;
        at_once = left < at_once ? left : at_once;
        good = run_step(gpu, batch, first, at_once);
    }
    if (good)
        queue_downloads(batch);
    /* What it left unfilled must not be found by the next one. */
    if (batch->error && !gpu->broken)
        gpu_finish(gpu, batch);
}

/* Where each call wants its part of one output. */
static void scatter(const struct gpu_batch *batch, uint32_t output, const uint8_t *from)
{
    for (uint32_t i = 0; i < batch->work.count; i++) {
        const struct kernel_output *to = &batch->work.calls[i].outputs[output];
        memcpy(to->data, from, to->bytes);
        from += to->bytes;
    }
}

/* An output larger than a pinned half comes in pieces, each call's by itself. */
static bool download(struct gpu_batch *batch, uint32_t output)
{
    struct gpu *gpu = batch->work.gpu;
    uint8_t *pinned = gpu->landing[batch->number % 2];
    uint64_t from = batch->work.outputs[output];
    for (uint32_t i = 0; i < batch->work.count; i++) {
        const struct kernel_output *to = &batch->work.calls[i].outputs[output];
        for (uint64_t at = 0, piece; at < to->bytes; at += piece, from += piece) {
            piece = to->bytes - at < GPU_STAGING_BYTES ? to->bytes - at : GPU_STAGING_BYTES;
            if (!gpu_check(gpu, gpu->driver->cuMemcpyDtoHAsync_v2(pinned, from, piece, gpu->down),
                           "copy from the GPU") ||
                !gpu_check(gpu, gpu->driver->cuStreamSynchronize(gpu->down), "copy from the GPU"))
                return refuse_broken(&batch->work);
            memcpy((uint8_t *)to->data + at, pinned, piece);
            kernel_pulse(&batch->work.calls[0]);
        }
    }
    return true;
}

static bool land(struct gpu_batch *batch)
{
    struct gpu *gpu = batch->work.gpu;
    if (!gpu_check(gpu, gpu->driver->cuEventSynchronize(batch->landed), "run a kernel"))
        return refuse_broken(&batch->work);
    const uint8_t *at = batch->landing;
    for (uint32_t i = 0; i < batch->work.calls[0].output_count; i++) {
        if (!batch->landing) {
            if (!download(batch, i))
                return false;
            continue;
        }
        scatter(batch, i, at);
        at += batch->output_bytes[i];
    }
    return true;
}

void gpu_finish(struct gpu *gpu, struct gpu_batch *batch)
{
    if (batch->finished)
        return;
    batch->finished = true;
    if (!batch->error)
        land(batch);
    else if (!gpu->broken && !gpu_check(gpu, gpu->driver->cuCtxSynchronize(), "wait for the device"))
        refuse_broken(&batch->work);
    for (int i = 0; i < 2; i++)
        if (gpu->steps[i].batch == batch && !end_step(gpu, &gpu->steps[i]))
            refuse_broken(&batch->work);
    for (uint32_t i = 0; i < batch->taken_count; i++)
        gpu_give_back(gpu, batch->taken[i]);
    gpu_drop_residents(gpu, batch);
    const struct kernel_code *code = kernel_code_of(batch->work.calls[0].manifest);
    for (uint32_t i = 0; i < batch->work.count; i++) {
        if (batch->error)
            memcpy(batch->work.calls[i].message, batch->message, sizeof batch->message);
        else if (code && code->finish)
            code->finish(&batch->work.calls[i]);
    }
    kernel_pulse(&batch->work.calls[0]);
}

enum kernel_error gpu_collect(struct gpu *gpu, struct kernel_call **calls, uint32_t *count,
                              uint64_t *device_ns)
{
    *count = 0;
    if (!gpu->batch_count)
        return KERNEL_OK;
    struct gpu_batch *batch = gpu->batches[0];
    gpu_finish(gpu, batch);
    *calls = batch->work.calls;
    *count = batch->work.count;
    *device_ns = batch->device_ns;
    const enum kernel_error error = batch->error;
    gpu->batches[0] = gpu->batches[1];
    gpu->batches[--gpu->batch_count] = NULL;
    free_batch(gpu, batch);
    return error;
}
