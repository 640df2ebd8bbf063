/* A .npy file as a PNG: uint8 [height, width] is grey, [height, width, 3] and [height, width, 4] are colours, without and
 * with opacity. */
#ifndef NODE_CLI_PICTURE_H
#define NODE_CLI_PICTURE_H

#include "kernels/array.h"

#include <stdbool.h>
#include <stddef.h>

#define PICTURE_WHY_BYTES 320

/* True for a path that ends in .png. */
bool picture_named(const char *path);
/* Whether such an array can be a picture; false with the reason. */
bool picture_fits(const struct array_type *type, char why[PICTURE_WHY_BYTES]);
/* Reads the whole of `npy` and writes to `png`, both open files that stay the caller's. False with the reason. */
bool picture_write(int npy, int png, char why[PICTURE_WHY_BYTES]);

#endif
