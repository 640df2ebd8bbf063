/* The worker's side of the protocol in worker_wire.h. Private to weir-worker. */
#ifndef KERNELS_WORKER_SERVE_H
#define KERNELS_WORKER_SERVE_H

#include "kernels/gpu.h"
#include "kernels/worker.h"

/* Runs bundles from descriptor 3 in memory 4 until the node's end closes. Returns the exit status. `gpu` is
 * NULL for a CPU worker. */
int worker_serve(const struct worker_device *device, struct gpu *gpu);

/* Finds a device by its name on the command line ("cpu:0", "cuda:1") and opens a GPU. A CPU worker may run on any core:
 * the number only tells slots apart. Fills `message` and returns false on failure. */
bool worker_device_open(const char *name, struct worker_device *device, struct gpu **gpu,
                        char message[MANIFEST_ERROR_BYTES]);
/* The i-th device of this machine; false after the last. CPU cores come first. */
bool worker_device_each(uint32_t index, struct worker_device *device);

#endif
