/* The part of the CUDA driver API that is used, as published in cuda.h; the suffixes _v2 are part of the symbols.
 * Private to gpu*.c. */
#ifndef KERNELS_GPU_DRIVER_H
#define KERNELS_GPU_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result;
typedef int cu_device;

enum {
    CU_INVALID_VALUE = 1,
    CU_OUT_OF_MEMORY = 2,
    CU_LAUNCH_OUT_OF_RESOURCES = 701,
    CU_MULTIPROCESSORS = 16,
    CU_COMPUTE_MAJOR = 75,
    CU_COMPUTE_MINOR = 76,
    CU_STREAM_NON_BLOCKING = 1,
    CU_EVENT_BLOCKING_SYNC = 1,
};

#define DRIVER_FUNCTIONS(F)                                                                                  \
    F(cuInit, (unsigned))                                                                                    \
    F(cuDeviceGetCount, (int *))                                                                             \
    F(cuDeviceGet, (cu_device *, int))                                                                       \
    F(cuDeviceGetName, (char *, int, cu_device))                                                             \
    F(cuDeviceTotalMem_v2, (size_t *, cu_device))                                                            \
    F(cuDeviceGetAttribute, (int *, int, cu_device))                                                         \
    F(cuDevicePrimaryCtxRetain, (void **, cu_device))                                                        \
    F(cuDevicePrimaryCtxRelease_v2, (cu_device))                                                             \
    F(cuCtxSetCurrent, (void *))                                                                             \
    F(cuCtxSynchronize, (void))                                                                              \
    F(cuModuleLoadData, (void **, const void *))                                                             \
    F(cuModuleUnload, (void *))                                                                              \
    F(cuModuleGetFunction, (void **, void *, const char *))                                                  \
    F(cuMemGetInfo_v2, (size_t *, size_t *))                                                                 \
    F(cuMemAlloc_v2, (uint64_t *, size_t))                                                                   \
    F(cuMemFree_v2, (uint64_t))                                                                              \
    F(cuMemHostAlloc, (void **, size_t, unsigned))                                                           \
    F(cuMemFreeHost, (void *))                                                                               \
    F(cuMemcpyHtoDAsync_v2, (uint64_t, const void *, size_t, void *))                                        \
    F(cuMemcpyDtoHAsync_v2, (void *, uint64_t, size_t, void *))                                              \
    F(cuMemsetD8Async, (uint64_t, unsigned char, size_t, void *))                                            \
    F(cuStreamCreate, (void **, unsigned))                                                                   \
    F(cuStreamDestroy_v2, (void *))                                                                          \
    F(cuStreamWaitEvent, (void *, void *, unsigned))                                                         \
    F(cuStreamSynchronize, (void *))                                                                         \
    F(cuEventCreate, (void **, unsigned))                                                                    \
    F(cuEventDestroy_v2, (void *))                                                                           \
    F(cuEventRecord, (void *, void *))                                                                       \
    F(cuEventSynchronize, (void *))                                                                          \
    F(cuEventElapsedTime, (float *, void *, void *))                                                         \
    F(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, \
                       void **, void **))                                                                    \
    F(cuGetErrorString, (cu_result, const char **))

struct gpu_driver {
#define FIELD(name, parameters) cu_result(*name) parameters;
    DRIVER_FUNCTIONS(FIELD)
#undef FIELD
};

/* Opened and initialised at the first call; NULL if there is none that works. */
const struct gpu_driver *gpu_driver(void);

#endif
