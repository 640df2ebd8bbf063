/* `weir-worker --run`: one kernel on files, without any node. Private to weir-worker. */
#ifndef KERNELS_WORKER_RUN_H
#define KERNELS_WORKER_RUN_H

#include "kernels/gpu.h"

#define RUN_ARGUMENTS_MAX 16

struct worker_run {
    const char *kernel;
    const char *inputs[RUN_ARGUMENTS_MAX]; /* NAME=FILE[:split] */
    const char *params[RUN_ARGUMENTS_MAX];
    const char *outputs[RUN_ARGUMENTS_MAX]; /* NAME=FILE.npy */
    size_t input_count, param_count, output_count;
    uint64_t items; /* for a kernel without split inputs */
};

/* Runs the job in shards as a mesh would. Errors go to stderr; returns the exit status: 0, 1 (failed), 2 (bad
 * use). */
int worker_run(const struct worker_run *run, struct gpu *gpu);

#endif
