/*
 * Code of users' kernels for this node's devices: compiled in a process of its own, in a sandbox, and kept.
 *
 * A kernel's code for one kind of device is named by a digest over source, manifest, language, compiler, options and our
 * headers. It lies in DATA/compiled under that name, so that it outlives the node; the latest are open in memory.
 * What a compiler refused is remembered while the node runs. At most COMPILE_PROCESSES compilers run at a time.
 */
#ifndef NODE_COMPILE_H
#define NODE_COMPILE_H

#include "kernels/worker.h"
#include "node/user_kernels.h"

#define COMPILE_KNOWN_MAX 64   /* open at a time */
#define COMPILE_FILES_MAX 1024 /* kept in DATA/compiled; beyond that the oldest go at the next start */
#define COMPILE_PROCESSES 2
#define COMPILE_MEMORY_BYTES (UINT64_C(3) << 30) /* of a compiler's sandbox, its /tmp included */
#define COMPILE_DEADLINE_MS 60000                /* its own limit is shorter, see kernels/user_compile.h */

struct node;

enum compile_state {
    COMPILE_READY, /* `code` is filled; its descriptor is ours, good until the next call */
    COMPILE_WAITS, /* a compiler is at it, or all are busy: `ready` of compile_open is called when to ask again */
    COMPILE_NO_SOURCE, /* the source is needed and not in the store */
    COMPILE_REFUSED,   /* the source is at fault: `message` */
    COMPILE_UNABLE,    /* this node can't: `message` */
};

/* `ready` is called on the loop's thread whenever a compiler has ended. */
void compile_open(struct node *node, void (*ready)(struct node *node));
void compile_close(struct node *node);

/* Asks for a kernel's code for a device class; starts a compiler if need be. */
enum compile_state compile_want(struct node *node, const struct user_kernel *kernel, uint32_t class,
                                struct worker_blob *code, char message[WORKER_MESSAGE_BYTES]);

/* What the compiler here said against that kernel, where it compiled for no class of device; NULL where it did, or was not
 * tried since the node's start. Borrowed until the next call. */
const char *compile_refused(const struct user_kernel *kernel);

/* The device classes, a bit each, for which this node compiles users' kernels; and why not, for people. */
uint16_t compile_classes(const struct node *node);
uint16_t compile_lacks(
    uint32_t class); /* in the bits of struct capacity_devices; 0 where there is no such device */
const char *compile_why_not(const struct node *node, uint32_t class); /* "" if it does */

#endif
