/*
 * One line of progress on standard error, drawn over itself: the upload of an input, then the shards of a
 * job. Only on a terminal, without colour, at most ten times a second.
 *
 *     knn  [========>       ]  612/1,024  ETA 4.0 s  ashburn 301  osaka 200  cached 111
 */
#ifndef NODE_CLI_PROGRESS_H
#define NODE_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct progress {
    bool shown; /* standard error is a terminal */
    bool drawn; /* there is a line to take away */
    int64_t drawn_at_ms;
    int64_t first_at_ms; /* when the first state of the job came, */
    int64_t first_done;  /* and how many shards were done then: the pace since counts */
};

void progress_open(struct progress *progress);
void progress_upload(struct progress *progress, const char *name, uint64_t done, uint64_t bytes);
/* `verb`: "getting". */
void progress_transfer(struct progress *progress, const char *verb, const char *name, uint64_t done,
                       uint64_t bytes);
/* `job` as the node's `watch` gives it. */
void progress_job(struct progress *progress, const json_t *job);
void progress_close(struct progress *progress); /* takes the line away */

/* Writes the line for a job into `out` without drawing it; `eta_ms` < 0: unknown. */
void progress_job_text(const json_t *job, int64_t eta_ms, int columns, char *out, size_t out_bytes);

#endif
