/* Runs users' kernels that were compiled for this kind of device (kernels/user_compile.h).
 *
 * The code is foreign. On a CPU it runs in the worker's own process, which is one tenant's and in its sandbox; what
 * it does wrong is caught as a signal, described, told to whoever set user_faults, and ends the process, since nobody
 * knows what it spoiled. Every buffer ends at a page that can't be touched (user_guard), so reading past an end is
 * such a fault. */
#ifndef KERNELS_USER_RUN_H
#define KERNELS_USER_RUN_H

#include "kernels/kernel.h"
#include "kernels/manifest_user.h"

#define USER_PAGE_BYTES MANIFEST_PAGE_BYTES
#define USER_STACK_BYTES (64u << 10) /* of a fibre, its guard page included */

struct user_image;

/* Maps the code that `fd` holds; `fd` stays the caller's. NULL with a message. `gpu` NULL: for the CPU. */
struct user_image *user_image_open(int fd, uint64_t bytes, struct gpu *gpu,
                                   char message[MANIFEST_ERROR_BYTES]);
void user_image_close(struct user_image *image);

/* What happens at a fault, in a signal handler: says it and ends the process. Set once, before a sandbox is entered. */
void user_faults(void (*tell)(const char *message));

/* Takes away the page behind a buffer that manifest_user_place placed. */
bool user_guard(uint8_t *memory, uint64_t offset, uint64_t bytes);

/* One shard; outputs are zeroed first. */
kernel_function user_run;
kernel_launch_function user_launch;

#endif
