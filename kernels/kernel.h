/* The compute side of a kernel, linked by weir-worker and its tests only.
 *
 * A kernel is a function from one shard's inputs to its outputs. The caller has checked types and sizes
 * against the manifest, so a kernel trusts them; it may still reject values. It runs on one thread and calls
 * kernel_pulse every few tens of milliseconds. */
#ifndef KERNELS_KERNEL_H
#define KERNELS_KERNEL_H

#include <stdatomic.h>

#include "kernels/manifest.h"

struct gpu;
struct gpu_work;
struct user_image;

enum kernel_error {
    KERNEL_OK,
    KERNEL_REJECTED,  /* the input is bad; `message` says why */
    KERNEL_FAILED,    /* this device could not: memory, driver */
    KERNEL_CANCELLED, /* kernel_pulse said so */
};

/* What a kernel has made of a broadcast input and wants to find again at the next shard. Born empty with the
 * input, filled by the first run, freed with the input. */
struct kernel_keep {
    void *memory;
    void (*release)(void *memory);
    struct gpu *device_of; /* a GPU that may hold a copy, and what was made of it; NULL: none does */
};

struct kernel_input {
    const void *data; /* NULL: absent */
    uint64_t bytes;
    struct array_type type;
    bool broadcast;
    struct kernel_keep *keep; /* of a broadcast input that comes again; else NULL */
};

struct kernel_output {
    void *data;
    uint64_t bytes;
    struct array_type type;
};

/* Shared with the node: a counter that moves while work moves, and the id of the bundle to be given up. */
struct kernel_watch {
    _Atomic uint64_t *stamp;
    const _Atomic uint32_t *cancel; /* nonzero: give up */
};

struct kernel_call {
    const struct manifest *manifest;
    const struct manifest_params *params;
    uint64_t first_item; /* absolute, in the job */
    uint64_t items;
    struct kernel_input inputs[MANIFEST_INPUTS_MAX];
    struct kernel_output outputs[MANIFEST_OUTPUTS_MAX];
    uint32_t output_count;
    struct kernel_watch watch;
    const struct user_image *image;     /* a user's kernel: its code (kernels/user_run.h) */
    bool every_thread;                  /* of a user's kernel on a CPU, even those past the last item */
    char message[MANIFEST_ERROR_BYTES]; /* set unless KERNEL_OK */
};

typedef enum kernel_error kernel_function(struct kernel_call *call);
/* Queues what computes `count` items from `first` on, counted in the batch: see gpu.h. */
typedef bool kernel_launch_function(struct gpu_work *work, uint64_t first, uint64_t count);
/* What is left to do on the host once the outputs of a call are there. */
typedef void kernel_finish_function(struct kernel_call *call);

struct kernel_code {
    const char *name;
    kernel_function *run;
    kernel_launch_function *launch;
    kernel_finish_function *finish; /* NULL: nothing */
};
/* NULL if this worker has none. */
const struct kernel_code *kernel_code_of(const struct manifest *manifest);

/* Runs one shard: on the GPU, or on the CPU where `gpu` is NULL. */
enum kernel_error kernel_run(struct kernel_call *call, struct gpu *gpu);
/* Opens the libraries that CPU kernels use, before a sandbox shuts the files away. */
void kernel_prepare(void);
/* Shows progress; true if the call should end with KERNEL_CANCELLED. */
bool kernel_pulse(const struct kernel_call *call);
/* Says why in call->message and returns `error`. */
enum kernel_error kernel_fail(struct kernel_call *call, enum kernel_error error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void kernel_keep_release(struct kernel_keep *keep);

void matmul_prepare(void);
kernel_function embed_run, kmeans_run, knn_run, matmul_run, montecarlo_run, nbody_run, noop_run, render_run,
    spin_run;
kernel_launch_function embed_launch, kmeans_launch, knn_launch, matmul_launch, montecarlo_launch,
    nbody_launch, noop_launch, render_launch, spin_launch;
kernel_finish_function montecarlo_finish_gpu;

#endif
