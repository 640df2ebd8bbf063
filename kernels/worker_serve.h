/* The worker's side of the protocol in worker_wire.h. Private to weir-worker. */
#ifndef KERNELS_WORKER_SERVE_H
#define KERNELS_WORKER_SERVE_H

#include "kernels/gpu.h"
#include "kernels/worker.h"

struct server;

/* Maps the memory that the node handed over; to be called before the sandbox is entered. NULL, with a line on
 * stderr, if there is none. */
struct server *worker_serve_open(void);
/* Runs bundles from descriptor 3 in memory 4 until the node's end closes. Returns the exit status. `gpu` is
 * NULL for a CPU worker. */
int worker_serve(struct server *server, const struct worker_device *device, struct gpu *gpu,
                 const struct sandbox_report *sandbox);

/* Prints one JSON line: how long a worker takes to start, and a shard that does nothing. Returns the exit status. */
int worker_measure(const char *device);

/* The worker's box: enters the profile for that device, everything that will be needed being opened before or
 * shown inside. `*device_name` becomes what the device is called inside. */
void worker_box(const char **device_name, uint64_t memory_bytes, bool unboxed, struct sandbox_report *report);

/* Finds a device by its name on the command line ("cpu:0", "cuda:1") and opens a GPU. A CPU worker may run on any core:
 * the number only tells slots apart. Fills `message` and returns false on failure. */
bool worker_device_open(const char *name, struct worker_device *device, struct gpu **gpu,
                        char message[MANIFEST_ERROR_BYTES]);
/* The i-th device of this machine; false after the last. CPU cores come first. */
bool worker_device_each(uint32_t index, struct worker_device *device);

#endif
