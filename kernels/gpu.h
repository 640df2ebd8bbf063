/* The GPU as the worker sees it: the CUDA driver, opened at run time, and our kernels' code, embedded in the
 * program.
 *
 * Nothing links CUDA. Where there is no driver, no device or no embedded code, gpu_open says so. One device,
 * one stream, one thread. A driver error is sticky (only a new process recovers), so after one every call
 * fails and the worker ends. */
#ifndef KERNELS_GPU_H
#define KERNELS_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernel.h"

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
void gpu_close(struct gpu *gpu);
/* True if this program holds device code (it was built with a CUDA compiler). */
bool gpu_built(void);
/* True once the driver has failed: nothing more will work in this process. */
bool gpu_broken(const struct gpu *gpu);
const char *gpu_message(const struct gpu *gpu);

/* Device memory; 0 on failure. */
uint64_t gpu_alloc(struct gpu *gpu, uint64_t bytes);
void gpu_free(struct gpu *gpu, uint64_t memory);
bool gpu_upload(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes);
bool gpu_download(struct gpu *gpu, void *to, uint64_t from, uint64_t bytes);
/* A broadcast input's device copy, made once and kept with it; a split input's is made anew: free it unless
 * kept. */
uint64_t gpu_input(struct gpu *gpu, const struct kernel_input *input, bool *kept);

struct gpu_grid {
    uint32_t x, y, z;      /* blocks */
    uint32_t threads;      /* per block, along x */
    uint32_t shared_bytes; /* dynamic shared memory */
};
/* Launches `function` of `module` ("knn", "knn_nearest"). `arguments` point to the values, in order. */
bool gpu_launch(struct gpu *gpu, const char *module, const char *function, struct gpu_grid grid,
                void **arguments);
/* Waits for all launches; false if one failed. */
bool gpu_wait(struct gpu *gpu);

/* c[m, n] = a[m, k] b[k, n], float32 row-major, by cuBLASLt (opened at the first use). False with a message
 * if the library isn't there or refuses. */
bool gpu_blas_sgemm(struct gpu *gpu, uint64_t a, uint64_t b, uint64_t c, uint64_t m, uint64_t n, uint64_t k);

#endif
