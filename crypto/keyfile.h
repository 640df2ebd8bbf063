// Secret files: written whole or not at all, read only when nobody else can; internal to crypto/.
//
//     16  magic
//      n  payload
//     32  digest("weir key file 1", magic | payload)
//
// See identity.h for what is refused and why. Every function fills `advice` on failure unless it is NULL.
#ifndef WEIR_CRYPTO_KEYFILE_H
#define WEIR_CRYPTO_KEYFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/error.h"

#define KEYFILE_PAYLOAD_BYTES_MAX 128u

// An open data folder that was found to be ours alone.
struct keyfile_folder {
    int fd;
    const char *path; // borrowed, for advice
};

// With `create`, makes the folder (0700) when it is missing, and syncs its parent.
enum crypto_error keyfile_folder_open(const char *path, bool create, struct keyfile_folder *out,
                                      struct crypto_advice *advice);
void keyfile_folder_close(struct keyfile_folder *folder);

// Reads a payload of exactly `bytes`.
enum crypto_error keyfile_read(const struct keyfile_folder *folder, const char *name, const char *magic,
                               uint8_t *payload, size_t bytes, struct crypto_advice *advice);

// Writes a temporary file, syncs it, renames it into place and syncs the folder. Without `replace` an
// existing file is CRYPTO_KEY_EXISTS and stays as it was.
enum crypto_error keyfile_write(const struct keyfile_folder *folder, const char *name, const char *magic,
                                const uint8_t *payload, size_t bytes, bool replace,
                                struct crypto_advice *advice);

bool keyfile_exists(const struct keyfile_folder *folder, const char *name);

#endif
