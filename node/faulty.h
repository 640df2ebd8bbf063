/*
 * Users' kernels that this node runs no more: those whose worker failed twice. A worker that dies or hangs costs its
 * device a restart and its home an attempt; a kernel that does it again would do it all day.
 *
 * In memory: a restarted node gives every kernel two tries again. Remembers FAULTY_MAX kernels with faults; the one
 * whose last fault is the oldest makes room.
 */
#ifndef NODE_FAULTY_H
#define NODE_FAULTY_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/worker.h"

#define FAULTY_LIMIT 2
#define FAULTY_MAX 64

struct faulty_kernel {
    uint8_t code[WORKER_ID_BYTES]; /* identity of the compiled kernel */
    char kernel[MANIFEST_NAME_BYTES];
    uint32_t faults;
    int64_t last_ms;                   /* of the last fault; entries without faults are free */
    char reason[WORKER_MESSAGE_BYTES]; /* of the last fault */
};

/* Zeroed: empty. */
struct faulty {
    struct faulty_kernel entries[FAULTY_MAX];
};

/* A worker failed while it ran that kernel. True if the kernel is quarantined from now on. */
bool faulty_add(struct faulty *faulty, const uint8_t code[WORKER_ID_BYTES], const char *kernel,
                const char *reason, int64_t now_ms);
/* NULL if that kernel may run. Borrowed until the next fault. */
const struct faulty_kernel *faulty_find(const struct faulty *faulty, const uint8_t code[WORKER_ID_BYTES]);
/* The index-th kernel that may not run, NULL after the last. */
const struct faulty_kernel *faulty_each(const struct faulty *faulty, uint32_t index);

#endif
