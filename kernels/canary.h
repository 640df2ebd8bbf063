/* weir-worker --canary DEVICE: a short measurement of what a device does now, as one line of JSON for the node:
 *
 *     {"device": "cpu:0", "mflops": 31250, "memory_mbps": 9800, "link_mbps": 0}
 *
 * mflops: float32 products by our own matmul kernel, as jobs run it; memory_mbps: bytes read and written in memory, the
 * device's own on a GPU; link_mbps: bytes from the host to a GPU's memory, 0 on a CPU. Each is the best of some runs, together a
 * quarter of a second on a CPU core: what is wanted is what the device can do, not what it did beside others just then. What can't be
 * measured is 0. */
#ifndef KERNELS_CANARY_H
#define KERNELS_CANARY_H

int worker_canary(const char *device);

#endif
