/* weir-worker --watch: tells the node what happens on this machine's GPUs, one line of JSON each, until its standard
 * input is closed or the node is gone.
 *
 *     {"watch": "nvml", "driver": "580.65", "devices": 2, "opens": true}           first, or {"error": "..."} and the end
 *     {"opens": false, "why": "..."}                                               instead of opens: true
 *     {"device": 0, "uuid": "GPU-...", "memory_total": N, "memory_used": N, "utilisation": 7, "xid": 0,
 *      "processes": [{"pid": 4711, "name": "python3", "memory": N}]}               each device, four times a second
 *     {"device": 0, "error": "the GPU has vanished: ..."}                          instead
 *     {"opened": 0, "pid": 4711}                                                   somebody opened its device file (0: who is not told)
 *
 * `device` is the number that CUDA gives it here, by PCI bus and under CUDA_VISIBLE_DEVICES; others are passed over. After
 * an open, or a byte on its standard input, all devices are looked at every 50 ms for half a second. Numbers that the driver doesn't tell are -1. */
#ifndef KERNELS_WATCH_H
#define KERNELS_WATCH_H

#include <stdint.h>

/* `listeners`: so many fanotify groups, one per device, were handed over as descriptors 3, 4, ...; 0: it makes its own. */
int worker_watch(uint32_t listeners);

#endif
