/* Device memory, pinned memory, and what stays on the device between batches. */
#include <stdio.h>
#include <string.h>

#include "kernels/gpu_state.h"

#define BLOCK_BYTES_MIN 4096

/* ---- Blocks */

/* To the next quarter between two powers of two: blocks of like sizes are taken again. */
static uint64_t rounded(uint64_t bytes)
{
    uint64_t power = BLOCK_BYTES_MIN;
    while (power * 2 <= bytes)
        power *= 2;
    const uint64_t quarter = power / 4;
    return bytes <= power ? power : (bytes + quarter - 1) / quarter * quarter;
}

static bool zero(struct gpu *gpu, const struct gpu_block *block)
{
    return gpu_check(gpu, gpu->driver->cuMemsetD8Async(block->address, 0, block->bytes, gpu->up),
                     "zero memory") &&
           gpu_check(gpu, gpu->driver->cuStreamSynchronize(gpu->up), "zero memory");
}

static void return_block(struct gpu *gpu, uint32_t index)
{
    struct gpu_block *block = &gpu->blocks[index];
    if (!gpu->broken && zero(gpu, block))
        gpu_check(gpu, gpu->driver->cuMemFree_v2(block->address), "free memory");
    gpu->held_bytes -= block->bytes;
    *block = gpu->blocks[--gpu->block_count];
}

static uint64_t take_kept_block(struct gpu *gpu, uint64_t bytes)
{
    struct gpu_block *best = NULL;
    for (uint32_t i = 0; i < gpu->block_count; i++) {
        struct gpu_block *block = &gpu->blocks[i];
        if (!block->taken && block->bytes >= bytes && block->bytes <= 2 * bytes &&
            (!best || block->bytes < best->bytes))
            best = block;
    }
    if (!best)
        return 0;
    best->taken = true;
    return best->address;
}

static uint64_t take_new_block(struct gpu *gpu, uint64_t bytes)
{
    struct gpu_block block = {.bytes = bytes, .taken = true};
    if (gpu->block_count == GPU_BLOCKS_MAX || bytes > gpu->limit_bytes - gpu->held_bytes)
        return 0;
    const cu_result result = gpu->driver->cuMemAlloc_v2(&block.address, bytes);
    if (result == CU_OUT_OF_MEMORY || !gpu_check(gpu, result, "allocate memory"))
        return 0;
    gpu->blocks[gpu->block_count++] = block;
    gpu->held_bytes += bytes;
    return zero(gpu, &block) ? block.address : 0;
}

static bool return_an_idle_block(struct gpu *gpu)
{
    for (uint32_t i = 0; i < gpu->block_count; i++)
        if (!gpu->blocks[i].taken) {
            return_block(gpu, i);
            return true;
        }
    return false;
}

static void drop(struct gpu *gpu, struct gpu_resident *resident)
{
    gpu_give_back(gpu, resident->address);
    *resident = (struct gpu_resident){0};
}

/* The least recently used of those that no batch in hand may still read. */
static bool drop_a_resident(struct gpu *gpu)
{
    struct gpu_resident *oldest = NULL;
    uint64_t finished = gpu->number;
    for (uint32_t i = gpu->batch_count; i-- > 0;)
        if (!gpu->batches[i]->finished)
            finished = gpu->batches[i]->number - 1;
    for (unsigned i = 0; i < GPU_RESIDENTS_MAX; i++) {
        struct gpu_resident *resident = &gpu->residents[i];
        if (resident->input && resident->used <= finished && (!oldest || resident->used < oldest->used))
            oldest = resident;
    }
    if (oldest)
        drop(gpu, oldest);
    return oldest != NULL;
}

/* Finishes the oldest batch that is still at work, whose memory is then free. */
static bool finish_a_batch(struct gpu *gpu)
{
    for (uint32_t i = 0; i + 1 < gpu->batch_count; i++) /* the last one is the one that wants memory */
        if (!gpu->batches[i]->finished) {
            gpu_finish(gpu, gpu->batches[i]);
            return true;
        }
    return false;
}

uint64_t gpu_take(struct gpu *gpu, uint64_t bytes)
{
    const uint64_t wanted = rounded(bytes ? bytes : 1);
    while (!gpu->broken) {
        uint64_t address = take_kept_block(gpu, wanted);
        if (!address)
            address = take_new_block(gpu, wanted);
        if (address)
            return address;
        if (gpu->broken || return_an_idle_block(gpu) || drop_a_resident(gpu) || finish_a_batch(gpu))
            continue;
        snprintf(gpu->message, sizeof gpu->message, "the GPU has no %llu bytes free",
                 (unsigned long long)bytes);
        return 0;
    }
    return 0;
}

void gpu_give_back(struct gpu *gpu, uint64_t address)
{
    for (uint32_t i = 0; i < gpu->block_count; i++)
        if (gpu->blocks[i].address == address)
            gpu->blocks[i].taken = false;
}

void gpu_limit(struct gpu *gpu, uint64_t bytes)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (!bytes &&
        gpu_check(gpu, gpu->driver->cuMemGetInfo_v2(&free_bytes, &total_bytes), "ask for free memory"))
        bytes = free_bytes / 10 * 9;
    gpu->limit_bytes = bytes;
    while (gpu->held_bytes > bytes && return_an_idle_block(gpu))
        ;
    if (gpu->held_bytes > bytes)
        gpu->limit_bytes = gpu->held_bytes;
}

/* ---- Residents */

static const void *owner_of(struct gpu_work *work, uint32_t input)
{
    const struct kernel_keep *keep = work->calls[0].inputs[input].keep;
    /* What nobody keeps is kept for the batch; its address tells the inputs apart. */
    return keep ? (const void *)keep : (const void *)&work->inputs[input];
}

static uint64_t resident(struct gpu_work *work, uint32_t input, bool made, uint64_t bytes, bool *fresh)
{
    struct gpu *gpu = work->gpu;
    struct gpu_batch *batch = (struct gpu_batch *)work;
    const void *owner = owner_of(work, input);
    struct gpu_resident *place = NULL;
    *fresh = false;
    for (unsigned i = 0; i < GPU_RESIDENTS_MAX; i++) {
        struct gpu_resident *each = &gpu->residents[i];
        if (each->input == owner && each->made == made) {
            each->used = batch->number;
            return each->address;
        }
        if (!each->input)
            place = each;
    }
    if (!place && drop_a_resident(gpu))
        return resident(work, input, made, bytes, fresh);
    const uint64_t address = place ? gpu_take(gpu, bytes) : 0;
    if (!address) {
        gpu_refuse(work, KERNEL_FAILED, "%s", place ? gpu->message : "too many broadcast inputs at once");
        return 0;
    }
    *place = (struct gpu_resident){
        .input = owner, .made = made, .address = address, .born = batch->number, .used = batch->number};
    if (work->calls[0].inputs[input].keep)
        work->calls[0].inputs[input].keep->device_of = gpu;
    *fresh = true;
    return address;
}

uint64_t gpu_broadcast(struct gpu_work *work, uint32_t input)
{
    bool fresh;
    const struct kernel_input *from = &work->calls[0].inputs[input];
    const uint64_t address = resident(work, input, false, from->bytes, &fresh);
    if (!address || !fresh || gpu_upload(work->gpu, address, from->data, from->bytes))
        return address;
    gpu_refuse(work, KERNEL_FAILED, "%s", work->gpu->message);
    return 0;
}

uint64_t gpu_keep(struct gpu_work *work, uint32_t input, uint64_t bytes, bool *fresh)
{
    return resident(work, input, true, bytes, fresh);
}

void gpu_forget(struct gpu *gpu, const struct kernel_keep *keep)
{
    for (unsigned i = 0; i < GPU_RESIDENTS_MAX; i++)
        if (gpu->residents[i].input == keep) {
            for (uint32_t b = 0; b < gpu->batch_count; b++)
                if (gpu->batches[b]->number <= gpu->residents[i].used)
                    gpu_finish(gpu, gpu->batches[b]);
            drop(gpu, &gpu->residents[i]);
        }
}

bool gpu_holds(const struct gpu *gpu, const struct kernel_keep *keep)
{
    for (unsigned i = 0; i < GPU_RESIDENTS_MAX; i++)
        if (gpu->residents[i].input == keep)
            return true;
    return false;
}

void gpu_drop_residents(struct gpu *gpu, const struct gpu_batch *batch)
{
    const struct gpu_work *work = &batch->work;
    for (unsigned i = 0; i < GPU_RESIDENTS_MAX; i++) {
        struct gpu_resident *each = &gpu->residents[i];
        const bool unkept =
            (uintptr_t)each->input - (uintptr_t)work->inputs < sizeof work->inputs; /* wraps if below */
        if (each->input && (unkept || (batch->error && each->born == batch->number)))
            drop(gpu, each);
    }
}

uint64_t gpu_scratch(struct gpu_work *work, unsigned index, uint64_t bytes)
{
    struct gpu *gpu = work->gpu;
    if (gpu->scratch_bytes[index] >= bytes)
        return gpu->scratch[index];
    /* Launches that still use the smaller one must have ended before anybody else takes it. */
    if (gpu->scratch[index]) {
        if (!gpu_check(gpu, gpu->driver->cuStreamSynchronize(gpu->compute), "wait for a launch"))
            return 0;
        gpu_give_back(gpu, gpu->scratch[index]);
    }
    gpu->scratch[index] = gpu_take(gpu, bytes);
    gpu->scratch_bytes[index] = gpu->scratch[index] ? bytes : 0;
    if (!gpu->scratch[index])
        gpu_refuse(work, KERNEL_FAILED, "%s", gpu->message);
    return gpu->scratch[index];
}

/* ---- Pinned memory */

static uint8_t *pin(struct gpu *gpu)
{
    void *memory = NULL;
    if (GPU_STAGING_BYTES > GPU_PINNED_BYTES_MAX - gpu->pinned_bytes ||
        !gpu_check(gpu, gpu->driver->cuMemHostAlloc(&memory, GPU_STAGING_BYTES, 0), "pin memory"))
        return NULL;
    gpu->pinned_bytes += GPU_STAGING_BYTES;
    return memory;
}

bool gpu_memory_open(struct gpu *gpu)
{
    bool good = true;
    for (int i = 0; good && i < 2; i++) {
        good = gpu_check(gpu, gpu->driver->cuEventCreate(&gpu->staging.sent[i], CU_EVENT_BLOCKING_SYNC),
                         "make an event");
        gpu->staging.memory[i] = good ? pin(gpu) : NULL;
        gpu->landing[i] = good ? pin(gpu) : NULL;
        good = gpu->staging.memory[i] && gpu->landing[i];
    }
    gpu_limit(gpu, 0);
    return good && !gpu->broken;
}

void gpu_memory_close(struct gpu *gpu)
{
    while (gpu->block_count)
        return_block(gpu, gpu->block_count - 1);
    for (int i = 0; i < 2; i++) {
        uint8_t *const pinned[] = {gpu->staging.memory[i], gpu->landing[i]};
        for (int j = 0; j < 2; j++)
            if (pinned[j] && !gpu->broken) {
                memset(pinned[j], 0, GPU_STAGING_BYTES);
                gpu->driver->cuMemFreeHost(pinned[j]);
            }
        if (gpu->staging.sent[i])
            gpu->driver->cuEventDestroy_v2(gpu->staging.sent[i]);
    }
}

/* The half that is filled now is sent off as far as it is filled; the other one is next, once its copies are done. */
static bool turn_over(struct gpu *gpu)
{
    struct gpu_staging *staging = &gpu->staging;
    if (!gpu_check(gpu, gpu->driver->cuEventRecord(staging->sent[staging->current], gpu->up),
                   "mark an upload"))
        return false;
    staging->busy[staging->current] = true;
    staging->current ^= 1;
    staging->used = 0;
    if (staging->busy[staging->current] &&
        !gpu_check(gpu, gpu->driver->cuEventSynchronize(staging->sent[staging->current]),
                   "wait for an upload"))
        return false;
    staging->busy[staging->current] = false;
    return true;
}

bool gpu_upload(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes)
{
    struct gpu_staging *staging = &gpu->staging;
    for (uint64_t done = 0; done < bytes && !gpu->broken;) {
        if (staging->used == GPU_STAGING_BYTES && !turn_over(gpu))
            return false;
        const uint64_t room = GPU_STAGING_BYTES - staging->used;
        const uint64_t piece = bytes - done < room ? bytes - done : room;
        uint8_t *pinned = staging->memory[staging->current] + staging->used;
        memcpy(pinned, (const uint8_t *)from + done, piece);
        if (!gpu_check(gpu, gpu->driver->cuMemcpyHtoDAsync_v2(to + done, pinned, piece, gpu->up),
                       "copy to the GPU"))
            return false;
        staging->used += piece;
        done += piece;
    }
    gpu->upload_pending = true;
    return !gpu->broken;
}

bool gpu_put(struct gpu_work *work, uint64_t to, const void *from, uint64_t bytes)
{
    return gpu_upload(work->gpu, to, from, bytes) ||
           gpu_refuse(work, KERNEL_FAILED, "%s", work->gpu->message);
}
