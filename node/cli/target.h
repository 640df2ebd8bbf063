/*
 * The outputs of a `weir submit`: `--output NAME=FILE`, or `NAME=-` for standard output; FILE alone where there is one.
 *
 * A path is checked before any work is done: its folder must take a new file, it must be no folder and no
 * input. What comes is written beside it under a temporary name and renamed when it is whole and on disk, so
 * an old file stays until the new one is complete. The bytes are those of the blob, a .npy file; a FILE that ends in .png
 * gets them as a picture (picture.h).
 */
#ifndef NODE_CLI_TARGET_H
#define NODE_CLI_TARGET_H

#include "node/cli/cli.h"
#include "node/cli/source.h"

#include <limits.h>

struct target {
    char name[SOURCE_NAME_BYTES]; /* "" until it is known, where FILE was given alone */
    const char *given;            /* the path as the user wrote it; borrowed */
    char path[PATH_MAX];          /* links resolved */
    char temporary[PATH_MAX];     /* "" when there is none */
    int fd;                       /* -1 = closed */
    bool standard;                /* "-" */
    bool direct;                  /* a device or a pipe: written as it is */
    bool picture;                 /* a PNG */
};

/* All of them print what is wrong and return an exit code; EXIT_DONE is success. */
int target_parse(struct target *target, const struct cli *cli, const char *given);
int target_open(struct target *target, const struct target *others, int other_count,
                const struct source *sources, int source_count);
/* Downloads the blob and puts it in place. */
int target_fetch(struct target *target, struct cli *cli, const char *blob);
/* Removes the temporary file if the result did not get to its place. */
void target_close(struct target *target);

#endif
