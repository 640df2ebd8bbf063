/* What gpu*.c share: one device's streams, memory and batches in hand. */
#ifndef KERNELS_GPU_STATE_H
#define KERNELS_GPU_STATE_H

#include "kernels/gpu.h"
#include "kernels/gpu_driver.h"

#define GPU_MODULES_MAX 16
#define GPU_BLOCKS_MAX 1024 /* allocations of the driver's; each is taken and given back many times */

/* Device memory from the driver. Born zeroed, taken, put aside, taken again by the same tenant; given back zeroed. */
struct gpu_block {
    uint64_t address, bytes;
    bool taken;
};

/* A broadcast input, or what its kernel made of it. Born with the batch that first wants it, used by others, dropped
 * when its input is forgotten or when memory is wanted and no batch in hand uses it. */
struct gpu_resident {
    const void *input; /* the kernel_keep; NULL: free. Of an input that nobody keeps: the work itself */
    bool made;         /* by the kernel */
    uint64_t address;
    uint64_t born, used; /* numbers of works */
};

/* Pinned memory in two halves: one is filled while the other is on its way. */
struct gpu_staging {
    uint8_t *memory[2];
    void *sent[2]; /* event: the half's last copy */
    bool busy[2];
    unsigned current;
    uint64_t used; /* of the current half */
};

/* A batch in hand. Born in gpu_submit; finished when its outputs are in the calls' memory; dies in gpu_collect. */
struct gpu_batch {
    struct gpu_work work; /* first: a kernel's work is the batch */
    uint64_t number;      /* 1, 2, ... */
    uint64_t taken[2 * MANIFEST_INPUTS_MAX + MANIFEST_OUTPUTS_MAX];
    uint32_t taken_count;
    uint64_t output_bytes[MANIFEST_OUTPUTS_MAX]; /* of all calls */
    uint8_t *landing;        /* the pinned half in which outputs arrive; NULL: they come in pieces */
    void *computed, *landed; /* events */
    uint64_t device_ns;
    enum kernel_error error;
    bool finished;
    char message[MANIFEST_ERROR_BYTES];
};

/* How fast the job at hand runs: measured, so that launches take as long as they should. */
struct gpu_pace {
    const struct manifest *manifest;
    struct manifest_params params;
    struct array_type inputs[MANIFEST_INPUTS_MAX]; /* rows only: shape[0] of split inputs is 0 */
    double item_ns;
};

struct gpu_step {
    void *begin, *end; /* events */
    uint64_t items;    /* 0: not in hand */
    struct gpu_batch *batch;
};

struct gpu_blas;

struct gpu {
    const struct gpu_driver *driver;
    cu_device device;
    void *context;
    void *modules[GPU_MODULES_MAX]; /* in the order of gpu_images */
    void *up, *compute, *down;      /* streams */
    void *uploaded;                 /* event */
    bool upload_pending;            /* copies that no launch has waited for yet */
    struct gpu_staging staging;
    uint8_t *landing[2];
    uint64_t pinned_bytes;

    struct gpu_block blocks[GPU_BLOCKS_MAX];
    uint32_t block_count;
    uint64_t held_bytes, limit_bytes;
    struct gpu_resident residents[GPU_RESIDENTS_MAX];
    uint64_t scratch[GPU_SCRATCHES], scratch_bytes[GPU_SCRATCHES];

    struct gpu_batch *batches[GPU_WORKS_MAX]; /* oldest first */
    uint32_t batch_count;
    uint64_t number;
    struct gpu_step steps[2]; /* launches in hand */
    unsigned step;
    struct gpu_pace pace;
    uint32_t processors;

    bool broken;
    char message[MANIFEST_ERROR_BYTES];
    struct gpu_blas *blas;
};

/* True if `result` is success; else `what` could not be done, and the device is broken. */
bool gpu_check(struct gpu *gpu, cu_result result, const char *what);

/* Copies queued so far come before the next launch. */
bool gpu_await_uploads(struct gpu *gpu);

/* Waits until the batch's outputs are in the calls' memory. */
void gpu_finish(struct gpu *gpu, struct gpu_batch *batch);

/* gpu_memory.c */
bool gpu_memory_open(struct gpu *gpu);
void gpu_memory_close(struct gpu *gpu);
/* 0: no memory, or the device is broken; the message says which. */
uint64_t gpu_take(struct gpu *gpu, uint64_t bytes);
void gpu_give_back(struct gpu *gpu, uint64_t address);
/* Copies through the pinned halves, in the order of the calls. */
bool gpu_upload(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes);
/* Drops what a failed or unkept batch has made. */
void gpu_drop_residents(struct gpu *gpu, const struct gpu_batch *batch);

/* gpu_blas.c */
void gpu_blas_close(struct gpu *gpu);

#endif
