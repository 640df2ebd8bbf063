#include "node/cli/progress.h"

#include "node/cli/cli.h"
#include "node/cli/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAW_EVERY_MS 100
#define BAR_COLUMNS 16 /* leaves room for three sites in 80 columns */
#define SITES_SHOWN 4

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void progress_open(struct progress *progress)
{
    const char *term = getenv("TERM");
    *progress = (struct progress){
        .shown = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0),
        .first_at_ms = -1,
    };
}

static bool due(struct progress *progress, bool last)
{
    const int64_t now = now_ms();
    if (!progress->shown || (progress->drawn && !last && now < progress->drawn_at_ms + DRAW_EVERY_MS))
        return false;
    progress->drawn_at_ms = now;
    progress->drawn = true;
    return true;
}

static void bar(uint64_t done, uint64_t all, char out[BAR_COLUMNS + 3])
{
    const unsigned filled = all ? (unsigned)((double)done / (double)all * BAR_COLUMNS) : 0;
    out[0] = '[';
    for (unsigned i = 0; i < BAR_COLUMNS; i++)
        out[1 + i] = i < filled ? '=' : i == filled ? '>' : ' ';
    out[BAR_COLUMNS + 1] = ']';
    out[BAR_COLUMNS + 2] = '\0';
}

void progress_upload(struct progress *progress, const char *name, uint64_t done, uint64_t bytes)
{
    progress_transfer(progress, "sending", name, done, bytes);
}

void progress_transfer(struct progress *progress, const char *verb, const char *name, uint64_t done,
                       uint64_t bytes)
{
    if (!due(progress, done == bytes))
        return;
    char line[BAR_COLUMNS + 3], have[FORMAT_BYTES], all[FORMAT_BYTES];
    bar(done, bytes, line);
    fprintf(stderr, "\r\033[K%s %s  %s  %s of %s", verb, name, line, format_bytes(done, have),
            format_bytes(bytes, all));
    fflush(stderr);
}

/* Adds up the nodes of each site; writes "ashburn 301, osaka 200" into `out`. */
static void sites_text(const json_t *nodes, char *out, size_t out_bytes)
{
    struct {
        const char *site;
        int64_t shards;
    } sites[SITES_SHOWN];
    int count = 0;
    int64_t others = 0;
    size_t i;
    const json_t *node;
    json_array_foreach(nodes, i, node)
    {
        const char *site = client_text(node, "site");
        int s = 0;
        while (s < count && strcmp(sites[s].site, site) != 0)
            s++;
        if (s == SITES_SHOWN) {
            others += client_number(node, "shards");
            continue;
        }
        if (s == count) {
            sites[count].site = site;
            sites[count++].shards = 0;
        }
        sites[s].shards += client_number(node, "shards");
    }
    size_t used = 0;
    out[0] = '\0';
    for (int s = 0; s < count && used < out_bytes; s++)
        used += (size_t)snprintf(out + used, out_bytes - used, "  %s %lld", sites[s].site,
                                 (long long)sites[s].shards);
    if (others && used < out_bytes)
        snprintf(out + used, out_bytes - used, "  others %lld", (long long)others);
}

void progress_job_text(const json_t *job, int64_t eta_ms, int columns, char *out, size_t out_bytes)
{
    const int64_t done = client_number(job, "done"), shards = client_number(job, "shards");
    const int64_t cached = client_number(job, "cached");
    char line[BAR_COLUMNS + 3], have[FORMAT_BYTES], all[FORMAT_BYTES], eta[FORMAT_BYTES], sites[256];
    char extra[64] = "", end[64] = "";
    bar((uint64_t)done, (uint64_t)shards, line);
    sites_text(client_member(job, "by_node"), sites, sizeof sites);
    if (cached > 0)
        snprintf(extra, sizeof extra, "  cached %lld", (long long)cached);
    if (eta_ms >= 0)
        snprintf(end, sizeof end, "  ETA %s", format_duration(eta_ms, eta));
    const int written =
        snprintf(out, out_bytes, "%s  %s  %s/%s%s%s%s", client_text(job, "kernel"), line,
                 format_count((uint64_t)done, have), format_count((uint64_t)shards, all), end, sites, extra);
    if (written >= columns && columns > 0 && (size_t)columns <= out_bytes)
        out[columns - 1] = '\0'; /* a line that wraps cannot be drawn over */
}

void progress_job(struct progress *progress, const json_t *job)
{
    const int64_t now = now_ms(), done = client_number(job, "done");
    if (progress->first_at_ms < 0) {
        progress->first_at_ms = now;
        progress->first_done = done;
    }
    const int64_t since = done - progress->first_done, left = client_number(job, "shards") - done;
    const int64_t eta_ms = since > 0 && left > 0 ? (now - progress->first_at_ms) * left / since : -1;
    if (!due(progress, left == 0))
        return;
    char text[512];
    progress_job_text(job, eta_ms, cli_columns(STDERR_FILENO), text, sizeof text);
    fprintf(stderr, "\r\033[K%s", text);
    fflush(stderr);
}

void progress_close(struct progress *progress)
{
    if (progress->shown && progress->drawn)
        fputs("\r\033[K", stderr);
    progress->drawn = false;
}
