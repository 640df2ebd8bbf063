/* A user's CUDA C source: what can be said of it before a compiler sees it, and the text that compilers get.
 *
 * The scan finds the entry, refuses what no kernel may have (includes, assembly, memory of its own), and tells
 * whether threads wait for each other. It reads what the compiler will read: line splices are undone first. It is
 * there for clear errors; what keeps a stranger's source from harm is the sandbox of the compiler. */
#ifndef KERNELS_USER_SOURCE_H
#define KERNELS_USER_SOURCE_H

#include "kernels/manifest_user.h"

#define USER_ENTRY_BYTES 64
#define USER_FILE_BYTES 64

struct user_source {
    const struct manifest_user *user;
    char file[USER_FILE_BYTES]; /* what errors call it */
    char *text;                 /* owned: without line splices and includes, as many lines as before */
    char entry[USER_ENTRY_BYTES];
    unsigned entry_line;
    const char *bound_here; /* in `text`: where the entry's __launch_bounds__ stands, or would */
    const char *bound;      /* in `text`: the first argument of the source's own; NULL: it has none */
    size_t bound_bytes;
    bool fibres;    /* threads of a block wait for each other */
    bool by_number; /* they ask for their items by weir_item() */
};

enum user_target { USER_CPU, USER_CUDA };

/* Scans; on failure `error` begins with "file:line: ". user_source_close in both cases. */
bool user_source_open(struct user_source *source, const struct manifest_user *user, const char *file,
                      const char *text, size_t text_bytes, char error[MANIFEST_ERROR_BYTES]);
void user_source_close(struct user_source *source);
/* "void saxpy(weir_items items, const float *x, float *y, double a)" */
void user_source_signature(const struct user_source *source, char *out, size_t out_bytes);
/* The text for a compiler: our headers, the source, and what ties it to the manifest. Ends with NUL; free() it.
 * NULL without memory. */
char *user_source_join(const struct user_source *source, enum user_target target);

/* Our headers' text, NUL-ended, written by CMake; and a digest of them. */
extern const char user_kernel_header[], user_math_header[];
extern const uint8_t user_headers_digest[MANIFEST_DIGEST_BYTES];

#endif
