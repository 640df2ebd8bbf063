/*
 * Users' kernels that this node knows: by a submit here, by a journal that it keeps, by a bundle that it runs.
 *
 * A kernel is its manifest's text and its source, which is a blob. The text rides along wherever a job is described,
 * so that a job's shape never waits for a fetch; the source is fetched like an input by whoever compiles it.
 *
 * Who keeps a pointer to such a manifest holds it; those that nobody holds stay known until their room is needed, the one
 * used longest ago first. All functions belong to the loop's thread; what a held manifest points to never changes.
 */
#ifndef NODE_USER_KERNELS_H
#define NODE_USER_KERNELS_H

#include "crypto/digest.h"
#include "kernels/manifest_user.h"

#define USER_KERNELS_MAX 1024u /* of some 12 KiB each */

struct user_kernel {
    struct manifest_user user;
    struct digest kernel; /* over manifest, source and language: names it everywhere */
    struct digest source; /* blob */
    uint32_t source_bytes;
    enum manifest_language language;
    uint32_t holders;
    uint64_t used; /* counts takes */
};

struct user_kernel_given {
    const char *text; /* of the manifest */
    size_t text_bytes;
    struct digest source;
    uint32_t source_bytes;
    enum manifest_language language;
};

/* Finds or makes it, held. NULL with one line in `error`: the manifest is bad, or there is no room. `file` is what
 * errors call the manifest. */
const struct manifest *user_kernels_take(const struct user_kernel_given *given, const char *file,
                                         char error[MANIFEST_ERROR_BYTES]);
/* Lets go of a manifest; without effect on a built-in kernel's, and on NULL. */
void user_kernels_drop(const struct manifest *manifest);
/* NULL for a built-in kernel's. */
const struct user_kernel *user_kernel_of(const struct manifest *manifest);
/* The i-th that is known, in no order; NULL after the last. */
const struct user_kernel *user_kernels_each(uint32_t index);

#endif
