/* One cgroup per sandboxed process, for its memory and processes: version 2 where it is delegated to us, else
 * version 1 where its folders may be written. Private to kernels/. */
#ifndef KERNELS_SANDBOX_CGROUP_H
#define KERNELS_SANDBOX_CGROUP_H

#include "kernels/sandbox.h"

#define CGROUP_PREFIX "weir-" /* of the folders' names; sandbox_enter knows its own by it */

struct cgroup_place {
    char folders[2][SANDBOX_CGROUP_BYTES]; /* made; empty: none */
    int procs[2];                          /* their cgroup.procs, to which the process writes "0"; -1: none */
};

/* Makes the folders with their limits, where there is a way to. `memory` and `processes` are left out where 0. */
void cgroup_make(struct cgroup_place *place, uint64_t memory_bytes, uint32_t processes);
/* Closes the descriptors; the folders stay until cgroup_remove. */
void cgroup_close(struct cgroup_place *place);
void cgroup_remove(char folders[2][SANDBOX_CGROUP_BYTES]);

#endif
