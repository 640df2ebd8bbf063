/* `weir-worker --check`: does a user's kernel compile, and does it run? Private to weir-worker. */
#ifndef KERNELS_WORKER_CHECK_H
#define KERNELS_WORKER_CHECK_H

#include "kernels/gpu.h"

struct worker_check {
    const char *source, *manifest; /* files; the manifest's is that of the source with .ini, if NULL */
    uint64_t items;                /* of the run on random inputs; 0: a thousand */
    uint32_t compute_major, compute_minor; /* of `gpu` */
    uint64_t repeat;                       /* so often, of which the median is told; 0: once */
};

/* Where a GPU is, the bits of both kinds of device are compared. Says on standard output what was done, and on standard error what went wrong, with file:line. `gpu` may be NULL.
 * Returns the exit status: 0, 1 (the kernel is at fault), 2 (bad use). */
int worker_check(const struct worker_check *check, struct gpu *gpu);

#endif
