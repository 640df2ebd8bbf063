/* `weir-worker --compile`: makes a user's kernel into code for one kind of device, in a sandbox that sees the compiler
 * and nothing else.
 *
 * The node starts it with three descriptors and reads the exit status:
 *   3  the request: struct user_request, the manifest's text, the source. A memfd
 *   4  the code: a memfd to be filled. For a CPU a shared object without dependencies whose ELF entry is
 *      `int weir_entry(const struct weir_call *)`; for a GPU struct user_gpu_code, then a cubin, or PTX as it was given
 *   5  what the compiler says, to be filled: one line for people, then all of it
 * Exit status: USER_COMPILED, USER_REFUSED (the source is at fault: it fails everywhere) or USER_UNABLE.
 *
 * By hand, `weir-worker --check FILE` does the same to files and shows the errors. */
#ifndef KERNELS_USER_COMPILE_H
#define KERNELS_USER_COMPILE_H

#include "kernels/user_source.h"

#define USER_REQUEST_FD 3
#define USER_CODE_FD 4
#define USER_TEXT_FD 5
#define USER_CODE_BYTES_MAX (64u << 20) /* of the compiled object, and of its image in memory */
#define USER_COMPILE_SECONDS 20         /* of the compiler, by the processor and by the clock */
#define USER_COMPILE_BYTES (2ull << 30) /* of its memory, */
#define USER_TMP_BYTES (128u << 20)     /* of its files, */
#define USER_COMPILE_PROCESSES 32       /* and of processes */
#define USER_TOOLKIT_BYTES 96

enum user_status { USER_COMPILED = 0, USER_REFUSED = 10, USER_UNABLE = 11 };

struct user_request {
    uint32_t target;   /* enum user_target */
    uint32_t language; /* enum manifest_language */
    uint32_t compute_major, compute_minor;
    uint32_t manifest_bytes, source_bytes;
    char file[USER_FILE_BYTES];
};

/* What GPU code begins with. */
struct user_gpu_code {
    char entry[USER_ENTRY_BYTES];
};

/* The compiler for a target as it goes into cache keys: "g++ 12.2.0", "NVRTC 13.0". False where there is none, and `text`
 * says what to install. */
bool user_toolkit(enum user_target target, char text[USER_TOOLKIT_BYTES]);
/* Everything beside source, manifest and toolkit that the code hangs on: options, and this machine's instructions. */
void user_options(enum user_target target, char *out, size_t out_bytes);

/* Compiles `source` into `code_fd`. `text` gets the whole of what the compiler said, at most `text_bytes`. */
enum user_status user_compile(const struct user_source *source, const struct user_request *request,
                              int code_fd, char *text, size_t text_bytes);
/* The line of the compiler's `text` that people see first: its first error, at the place in the author's `file` that led to
 * it. `line_bytes` of at least 256. */
void user_compile_headline(const char *text, const char *file, char *line, size_t line_bytes);
/* The program's mode of that name. Returns the exit status. */
int user_compile_serve(void);

#endif
