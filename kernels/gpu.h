/* The GPU as the worker sees it: the CUDA driver, opened at run time, and our kernels' code, embedded in the
 * program.
 *
 * Nothing links CUDA. Where there is no driver, no device or no embedded code, gpu_open says so. One device, one
 * thread of ours.
 *
 * Work is handed over in *batches*: several shards of one job, laid end to end, run by one launch, so that a small shard
 * does not pay for one of its own. Three streams carry a batch: rows go up through pinned memory, launches of 1 to 20 ms
 * follow, and outputs come down, while the batch before and the one after are at other stages. Two batches, and two
 * launches, are in hand at most: what is queued when the owner wants the device back is soon over.
 *
 *   count = gpu_batch(gpu, calls, available)        how many of the next shards belong together
 *   gpu_submit(gpu, calls, count)                   while gpu_room(gpu); the calls stay yours, and must stay
 *   gpu_collect(gpu, &calls, &count, &device_ns)    waits for the oldest batch: its result, the same for all
 *
 * Broadcast inputs stay on the device, with what kernels make of them, until the memory is wanted for something that is
 * needed more: the least recently used goes first. Memory that comes from the driver is zeroed before anything else
 * happens to it, and again before it is given back.
 *
 * A driver error is sticky (only a new process recovers), so after one every call fails and the worker ends. */
#ifndef KERNELS_GPU_H
#define KERNELS_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernel.h"

#define GPU_WORKS_MAX 2               /* batches in hand */
#define GPU_BATCH_MAX 64              /* shards of a batch */
#define GPU_STAGING_BYTES (32u << 20) /* pinned: two buffers up, two down */
#define GPU_PINNED_BYTES_MAX                                                                                 \
    (512u << 20)             /* of a worker, whatever happens: a kill takes long to give more back */
#define GPU_RESIDENTS_MAX 64 /* broadcast inputs and what was made of them */
#define GPU_SCRATCHES 4
#define GPU_LAUNCH_NS_AIM 5000000u
#define GPU_LAUNCH_NS_MAX 20000000u

struct gpu;

struct gpu_info {
    char name[96];
    uint64_t memory_bytes;
    uint32_t compute_major, compute_minor, processors;
};

/* Devices that the driver reports; 0 without a driver. */
unsigned gpu_count(void);
/* Fills `message` and returns false on failure. */
bool gpu_describe(unsigned index, struct gpu_info *info, char message[MANIFEST_ERROR_BYTES]);
bool gpu_open(struct gpu **gpu, unsigned index, char message[MANIFEST_ERROR_BYTES]);
/* Waits for what runs, zeroes all memory, gives it back. NULL is allowed. */
void gpu_close(struct gpu *gpu);
/* True if this program holds device code (it was built with a CUDA compiler). */
bool gpu_built(void);
/* True once the driver has failed: nothing more will work in this process. */
bool gpu_broken(const struct gpu *gpu);
const char *gpu_message(const struct gpu *gpu);

/* ---- For the worker */

bool gpu_room(const struct gpu *gpu);
uint32_t gpu_batch(const struct gpu *gpu, const struct kernel_call *calls, uint32_t available);
void gpu_submit(struct gpu *gpu, struct kernel_call *calls, uint32_t count);
/* KERNEL_OK with *count = 0 if nothing is in hand. Unless KERNEL_OK, each call's message says why. */
enum kernel_error gpu_collect(struct gpu *gpu, struct kernel_call **calls, uint32_t *count,
                              uint64_t *device_ns);
/* A broadcast input is gone: so is all that was kept of it. */
void gpu_forget(struct gpu *gpu, const struct kernel_keep *keep);
/* True if the input itself, or what its kernel made of it, is on the device now. */
bool gpu_holds(const struct gpu *gpu, const struct kernel_keep *keep);
/* Caps what is allocated on the device; 0: nine tenths of what was free when it was opened. */
void gpu_limit(struct gpu *gpu, uint64_t bytes);

/* ---- For kernels: all of it queues, nothing waits for the device. 0 or false is a failure that gpu_submit reports. */

struct gpu_work {
    struct gpu *gpu;
    struct kernel_call *calls;
    uint32_t count;
    uint64_t items, first_item;           /* of all calls; absolute, of the first */
    uint64_t inputs[MANIFEST_INPUTS_MAX]; /* rows of split inputs, on the device; text: see `lines` */
    uint64_t lines[MANIFEST_INPUTS_MAX];  /* of split text: where each line begins, items + 1 of uint64 */
    /* Rows, or the shards' arrays one after another; zeroed if they are reduced or the kernel is a user's. */
    uint64_t outputs[MANIFEST_OUTPUTS_MAX];
};

/* A broadcast input as it came. */
uint64_t gpu_broadcast(struct gpu_work *work, uint32_t input);
/* What the kernel makes of a broadcast input, kept with it: `*fresh` if it must be filled now, by launches or gpu_put. */
uint64_t gpu_keep(struct gpu_work *work, uint32_t input, uint64_t bytes, bool *fresh);
/* Memory between launches, with any content, shared by all launches. */
uint64_t gpu_scratch(struct gpu_work *work, unsigned index, uint64_t bytes);
/* Host to device, before the next launch; `from` may be reused at once. */
bool gpu_put(struct gpu_work *work, uint64_t to, const void *from, uint64_t bytes);

struct gpu_grid {
    uint32_t x, y, z;      /* blocks */
    uint32_t threads;      /* per block, along x */
    uint32_t shared_bytes; /* dynamic shared memory */
};
/* Launches `function` of `module` ("knn", "knn_select"). `arguments` point to the values, in order. */
bool gpu_launch(struct gpu_work *work, const char *module, const char *function, struct gpu_grid grid,
                void **arguments);
/* The same for code that was loaded at run time (PTX, cubin or fatbin), by its function's handle. */
void *gpu_load(struct gpu *gpu, const void *image, void **module);
void *gpu_function(struct gpu *gpu, void *module, const char *name);
void gpu_unload(struct gpu *gpu, void *module);
bool gpu_launch_function(struct gpu_work *work, void *function, struct gpu_grid grid, void **arguments);

/* c[m, n] = a[m, k] b[k, n], row-major, by cuBLASLt (opened at the first use). False without an error if the library
 * isn't there or refuses: the caller has a launch of its own. FLOAT: float32, never TF32; BFLOAT: a and b are bfloat16,
 * c float32; INT8: c is int32, and b is given as its transpose [n, k], rows and depth multiples of 4. */
bool gpu_products(struct gpu *gpu); /* true if it is there */
enum gpu_product { GPU_PRODUCT_FLOAT, GPU_PRODUCT_BFLOAT, GPU_PRODUCT_INT8 };
bool gpu_product(struct gpu_work *work, enum gpu_product kind, uint64_t a, uint64_t b, uint64_t c, uint64_t m,
                 uint64_t n, uint64_t k);

/* Says why in the work's message; false, so that a kernel can return it. */
bool gpu_refuse(struct gpu_work *work, enum kernel_error error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
