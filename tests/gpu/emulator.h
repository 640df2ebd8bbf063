/* What the emulated driver counts, and how it is made to fail. Found by dlsym in libcuda.so.1: a real driver has none. */
#ifndef TESTS_GPU_EMULATOR_H
#define TESTS_GPU_EMULATOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emulator_report {
    unsigned allocations; /* of device memory, ever */
    unsigned dirty;       /* pieces of memory given back that were not all zero */
    unsigned overruns;    /* pieces behind which something was written */
    unsigned
        leaked; /* allocations, pinned pieces and streams that were there when the context was released */
    unsigned launches;
    unsigned launches_waiting, launches_waiting_max;
    uint64_t pinned_bytes, bytes_up;
    double
        speed; /* what measured time is divided by: 1000, as if the device were fast, until a test sets it */
};

struct emulator_report *emulator_look(void);
/* The `calls`-th call of `function` from now on gives `result`, and so does everything after it, unless it is 1, 2 or 701: a
 * value that can't be, out of memory, a launch without room. */
void emulator_fail(const char *function, unsigned calls, int result);
/* As a new process would find it. */
void emulator_revive(void);

#ifdef __cplusplus
}
#endif

#endif
