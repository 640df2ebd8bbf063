/* Runs users' kernels that were compiled for this kind of device (kernels/user_compile.h).
 *
 * The code is foreign. On a CPU it runs in the worker's own process, which is one tenant's and in its sandbox; what
 * it does wrong is caught as a signal, described, told to whoever set user_faults, and ends the process, since nobody
 * knows what it spoiled. Every buffer ends at a page's end in a room of its own, where nothing else can be touched, so
 * that a read past it is such a fault, however far: to USER_APART_BYTES. */
#ifndef KERNELS_USER_RUN_H
#define KERNELS_USER_RUN_H

#include "kernels/kernel.h"
#include "kernels/manifest_user.h"

#define USER_PAGE_BYTES MANIFEST_PAGE_BYTES
#define USER_APART_BYTES                                                                                     \
    (16ull << 30) /* an index of 32 bits goes so far, in elements of 4 bytes or, if signed, 8 */
#define USER_STACK_BYTES (64u << 10) /* of a fibre, its guard page included */

struct user_image;

/* Maps the code that `fd` holds; `fd` stays the caller's. NULL with a message. `gpu` NULL: for the CPU. */
struct user_image *user_image_open(int fd, uint64_t bytes, struct gpu *gpu,
                                   char message[MANIFEST_ERROR_BYTES]);
void user_image_close(struct user_image *image);

/* What happens at a fault, in a signal handler: says it and ends the process. Set once, before a sandbox is entered. */
void user_faults(void (*tell)(const char *message));

/* Addresses for `bytes` of memory, with USER_APART_BYTES on both sides, that can't be touched; they cost nothing. NULL
 * without room. Whoever wants memory there maps it over them. */
uint8_t *user_room_open(uint64_t bytes);
void user_room_close(uint8_t *room, uint64_t bytes); /* and what was mapped there; NULL: nothing */
/* What may be done (PROT_READ...) with the pages of a buffer that manifest_user_place placed. */
bool user_access(const void *data, uint64_t bytes, int protection);

/* One shard; outputs are zeroed first. */
kernel_function user_run;
kernel_launch_function user_launch;

#endif
