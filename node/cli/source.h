/*
 * The inputs of a `weir submit`: `--input NAME=SOURCE` with what `--split` and `--format` say of them.
 *
 * A source is a file, an output of a job (job:ID/NAME) or a blob (blob:HEX). A file's format follows from its
 * name unless --format says otherwise: .npy, text for .txt, .jsonl and .csv; and where the name says nothing, from
 * what the kernel takes. What can be seen
 * without the node is checked first, so that a mistake costs no upload; the node checks everything again and
 * its word counts.
 *
 *     source_parse for each --input, source_set_format, source_set_roles, source_open for each (reads
 *     headers), sources_check (against the kernel's manifest), source_upload for each, source_json, and
 *     source_close in every case
 */
#ifndef NODE_CLI_SOURCE_H
#define NODE_CLI_SOURCE_H

#include "kernels/manifest.h"
#include "node/cli/cli.h"

#include <sys/stat.h>

#define SOURCE_NAME_BYTES 64

enum source_kind { SOURCE_FILE, SOURCE_JOB, SOURCE_BLOB };
enum source_format { SOURCE_NPY, SOURCE_TEXT, SOURCE_RAW };

struct source {
    char name[SOURCE_NAME_BYTES];
    char path[4096];  /* what `text` points to where ":split" was cut off */
    const char *text; /* behind "NAME=", or behind "job:" or "blob:"; borrowed */
    enum source_kind kind;
    enum source_format format;
    bool format_known;  /* by --format or by the file's name */
    uint64_t row_bytes; /* raw: 0 = one axis of bytes */
    bool split;

    /* Files only, from source_open on. */
    int fd; /* -1 = closed */
    struct stat status;
    struct array_type type;
    bool typed;    /* `type` is known: all but text, whose lines are not counted here */
    char blob[65]; /* after the upload; of a blob, the digits that were given */
};

/* All of them print what is wrong and return an exit code; EXIT_DONE is success. */
int source_parse(struct source *source, const struct cli *cli, const char *given);
/* "NAME=npy|text|raw[:ROWBYTES]"; names a source that was parsed before. */
int source_set_format(struct source *sources, int count, const struct cli *cli, const char *given);
int source_open(struct source *source);
/* --split names the inputs to cut; an input that the kernel can only cut needs none. Also settles formats that are not
 * known yet. Before source_open. */
int source_set_roles(struct source *sources, int count, const struct cli *cli,
                     const struct manifest *manifest);
/* What the job will be. Where the type of an input is known to the node alone: no items, and all outputs the kernel has. */
int sources_check(const struct source *sources, int count, const struct manifest *manifest,
                  const struct manifest_params *params, const struct manifest_wish *wish,
                  struct manifest_plan *plan);
/* A file that is given twice is sent once. Shows progress on a terminal. */
int source_upload(struct source *sources, int index, struct cli *cli);
json_t *source_json(const struct source *source);
void source_close(struct source *source);

#endif
