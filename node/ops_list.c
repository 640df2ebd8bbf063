/*
 * The local API: which jobs there are. A listing has the unfinished jobs first, then the newest, each part from the newest
 * on; `limit` cuts it.
 *
 * Another node that gathers the jobs of all (relay_list.c) takes them page by page, since an answer to it is one message: up to
 * 200 jobs of ours and 64 *lost* ones, jobs of other homes that are out of reach, of which our copies of their journals
 * tell. What comes after a page is named by the place of its last row, and not by a number of rows: between two pages jobs
 * come, end and are forgotten. `next` says where to go on, {"jobs": PLACE, "lost": PLACE}, or null at the end; it comes
 * back as `after`. A node of before knows neither, and sends its first page without a `next`.
 */
#include "node/keep.h"
#include "node/ops.h"
#include "node/payload.h"
#include "node/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_ROWS_MAX 200
#define PAGE_LOST_MAX 64
#define PAGE_BYTES_MAX (WIRE_PAYLOAD_BYTES_MAX - 16u * 1024u) /* of rows; one has 3 KiB at most */
#define JOBS_LISTED_MAX 10000

/* Where a row stands in a listing. */
struct place {
    bool over;
    int64_t at_ms; /* when it was made; of a lost one, when it ended */
    struct mesh_id id;
};

/* What is listed in order: struct job or struct copy. */
struct listed {
    struct place place;
    const void *what;
    struct mesh_id home; /* of a lost one */
};

/* One answer, as it is filled. */
struct page {
    struct node *node;
    const char *state; /* NULL = any */
    uint32_t limit;
    bool remote; /* it goes to another node */
    size_t bytes;
};

/* ---- Places */

static int compare_places(const void *a, const void *b)
{
    const struct place *const one = a, *const other = b;
    if (one->over != other->over)
        return one->over - other->over;
    if (one->at_ms != other->at_ms)
        return one->at_ms < other->at_ms ? 1 : -1;
    return memcmp(&one->id, &other->id, sizeof one->id);
}

static json_t *place_json(const struct place *place)
{
    char hex[65];
    hex_encode(place->id.bytes, sizeof place->id.bytes, hex);
    return json_sprintf("%d.%" PRId64 ".%s", place->over, place->at_ms, hex);
}

/* Whether `text` is one; NULL is none. */
static bool read_place(const char *text, struct place *place)
{
    char hex[65];
    int over;
    if (!text || sscanf(text, "%d.%" SCNd64 ".%64s", &over, &place->at_ms, hex) != 3 ||
        !id_from_hex(hex, &place->id))
        return false;
    place->over = over != 0;
    return true;
}

/* Whether a page begins before this row. */
static bool is_after(const struct place *place, const struct place *after)
{
    return !after || compare_places(place, after) > 0;
}

/* ---- Whose they are */

static bool is_there(struct node *node, const struct mesh_id *home)
{
    struct mesh_member_view view;
    return mesh_member_find(node->host.mesh, home, &view) && view.state <= MESH_SUSPECT;
}

/* Whose job it was as far as this copy knows. False: it tells of none. */
static bool home_of(struct node *node, const struct copy *copy, struct mesh_id *home)
{
    struct mesh_journal_view journal;
    if (copy->over) {
        *home = copy->voted;
        return copy->whole && copy->promised == copy->last_epoch;
    }
    if (copy->last == 0 || !mesh_journal_find(node->host.mesh, &copy->job, &journal))
        return false;
    *home = journal.home;
    return true;
}

/* ---- Jobs of this node */

static uint32_t own_jobs(const struct page *page, const struct place *after, struct listed *out,
                         uint32_t *matching)
{
    uint32_t count = 0;
    for (const struct job *job = page->node->jobs.head; job; job = job->next) {
        if ((page->state && strcmp(job_state_word(job->state), page->state) != 0) ||
            keep_home(page->node, job))
            continue;
        ++*matching;
        out[count] = (struct listed){
            .place = {.over = job->state >= JOB_DONE, .at_ms = job->spec.created_at_ms, .id = job->spec.id},
            .what = job};
        count += is_after(&out[count].place, after);
    }
    qsort(out, count, sizeof *out, compare_places);
    return count;
}

/* An answer's beginning: how many of our own there are, in all and in each state. */
static json_t *counts_json(struct node *node)
{
    json_int_t counts[JOB_CANCELLED + 1] = {0}, total = 0;
    for (const struct job *job = node->jobs.head; job; job = job->next)
        if (!keep_home(node, job)) {
            counts[job->state]++;
            total++;
        }
    return json_pack("{s:I, s:{s:I, s:I, s:I, s:I, s:I}}", "total", total, "counts", "preparing",
                     counts[JOB_PREPARING], "running", counts[JOB_RUNNING] + counts[JOB_ASSEMBLING], "done",
                     counts[JOB_DONE], "failed", counts[JOB_FAILED], "cancelled", counts[JOB_CANCELLED]);
}

/* ---- Jobs whose home is out of reach, as copies of their journals tell of them */

struct lost_job {
    struct node *node;
    const struct copy *copy;
    const struct mesh_id *home;
    json_t *row;
};

/* What only its home knows of it; how far an unfinished one was, the next one does, once it has read the journal. */
static void blank(json_t *row, bool over)
{
    static const char *const unknown[] = {"cached", "reassigned", "done", "queued", "looking_up", "running"};
    for (size_t i = 0; i < (over ? 2 : sizeof unknown / sizeof *unknown); i++)
        json_put(row, unknown[i], json_null());
}

static json_t *tell_lost_job(struct node *node, struct job *job, const struct mesh_id *home)
{
    const struct mesh_id nobody = {0};
    json_t *row = job_json(node, job, false);
    json_put(row, "home",
             json_string(memcmp(home, &nobody, sizeof nobody) == 0 ? "" : peer_name(node, home)));
    blank(row, job->state == JOB_DONE);
    return row;
}

static bool read_lost_job(void *context, const struct copies_entry_view *entry)
{
    struct lost_job *lost = context;
    const struct copy *copy = lost->copy;
    struct first_entry first;
    struct job *job = first_entry_decode(entry->bytes, entry->count, &first);
    if (!job)
        return false;
    job->state = copy->over ? JOB_DONE : JOB_RUNNING;
    job->epoch = copy->last_epoch;
    job->copies = entry->members.count;
    job->committed = job->spec.shard_count;
    job->finished_at_ms = copy->ended_at_ms;
    lost->row = tell_lost_job(lost->node, job, lost->home);
    job_free(job);
    if (!copy->over)
        json_put(lost->row, "stalled",
                 json_string("its home is out of reach; it goes on by itself once a majority of those that "
                             "keep its journal meet"));
    return false;
}

/* It isn't ours, nor of another node that is there. */
static bool is_lost(struct node *node, const struct copy *copy, const struct mesh_id *home)
{
    return !jobs_find(node, &copy->job) && !is_there(node, home);
}

/* Of a copy only that it is over is in memory, and when it ended: the latest first, then by id. */
static uint32_t lost_jobs(const struct page *page, const struct place *after, struct listed *out)
{
    struct node *node = page->node;
    uint32_t count = 0;
    for (uint32_t b = 0; b < JOBS_BUCKETS; b++)
        for (const struct copy *copy = node->copies.bucket[b]; copy; copy = copy->chain) {
            struct listed *one = &out[count];
            *one = (struct listed){
                .place = {.over = copy->over, .at_ms = copy->over ? copy->ended_at_ms : 0, .id = copy->job},
                .what = copy};
            const char *state = job_state_word(!copy->over                             ? JOB_RUNNING
                                               : copy->end_state == MESH_JOB_FAILED    ? JOB_FAILED
                                               : copy->end_state == MESH_JOB_CANCELLED ? JOB_CANCELLED
                                                                                       : JOB_DONE);
            if ((!page->state || strcmp(state, page->state) == 0) && is_after(&one->place, after) &&
                home_of(node, copy, &one->home) && is_lost(node, copy, &one->home) &&
                (!copy->over || jobs_tell(node, copy)))
                count++;
        }
    qsort(out, count, sizeof *out, compare_places);
    return count;
}

/* ---- A page */

static json_t *own_row(struct node *node, const struct listed *one)
{
    return job_json(node, one->what, false);
}

/* NULL: the copy can't tell of it. */
static json_t *lost_row(struct node *node, const struct listed *one)
{
    const struct copy *copy = one->what;
    struct lost_job lost = {.node = node, .copy = copy, .home = &one->home};
    struct job *ended = copy->over && copy->end_state != MESH_JOB_DONE ? jobs_ended(node, &copy->job) : NULL;
    if (ended) {
        lost.row = tell_lost_job(node, ended, &one->home);
        job_free(ended);
    } else {
        copies_read(node, &copy->job, 1, read_lost_job, &lost);
    }
    return lost.row;
}

/* Rows until there are `limit` of them, or the message is full. Returns where to go on: true at the end. */
static json_t *fill(struct page *page, const struct listed *list, uint32_t count, uint32_t limit,
                    json_t *(*row_of)(struct node *, const struct listed *), json_t *rows)
{
    for (uint32_t i = 0; i < count; i++) {
        if (json_array_size(rows) == limit || page->bytes > PAGE_BYTES_MAX)
            return i > 0 ? place_json(&list[i - 1].place) : json_null();
        json_t *row = row_of(page->node, &list[i]);
        if (!row)
            continue;
        if (page->remote)
            page->bytes += json_dumpb(row, NULL, 0, JSON_COMPACT) + 1;
        json_array_append_new(rows, row);
    }
    return json_true();
}

/* Adds what one of the two lists has after the place that `after` tells; true there: nothing. */
static void add_rows(struct page *page, const char *name, const json_t *after, json_t *reply, json_t *next)
{
    const bool lost = strcmp(name, "lost") == 0;
    const uint32_t most = lost ? PAGE_LOST_MAX : PAGE_ROWS_MAX;
    const bool bounded = page->remote ? page->limit > most : lost && page->limit < most;
    const uint32_t limit = bounded ? most : page->limit; /* how many lost ones there are is not known else */
    const json_t *from = json_object_get(after, name);
    struct place place;
    const bool later = read_place(json_string_value(from), &place), ended = json_is_true(from);
    const uint32_t room = lost ? page->node->copies.count : page->node->jobs.count;
    struct listed *list = must(calloc(room + 1, sizeof *list));
    uint32_t matching = 0;
    json_t *rows = json_array();
    const uint32_t count = ended  ? 0
                           : lost ? lost_jobs(page, later ? &place : NULL, list)
                                  : own_jobs(page, later ? &place : NULL, list, &matching);
    json_t *end = fill(page, list, count, limit, lost ? lost_row : own_row, rows);
    free(list);
    json_put(reply, name, rows);
    json_put(next, name, json_is_null(end) && later ? json_deep_copy(from) : json_incref(end));
    json_decref(end);
    if (!lost)
        json_put(reply, "matching", json_integer(matching));
}

void op_jobs(void *context, struct api_call *call)
{
    struct node *node = context;
    const json_t *const body = api_body(call);
    const bool remote = api_remote_site(call) != NULL, mesh = json_is_true(json_object_get(body, "mesh"));
    const int64_t limit = body_integer(call, "limit", JOBS_LISTED_MAX);
    if (limit < 1 || limit > JOBS_LISTED_MAX) {
        api_error(call, EXIT_USAGE, "'limit' is 1 to %d", JOBS_LISTED_MAX);
        return;
    }
    struct page page = {
        .node = node, .state = body_text(call, "state"), .limit = (uint32_t)limit, .remote = remote};
    const json_t *after = remote ? json_object_get(body, "after") : NULL;
    json_t *reply = counts_json(node), *next = json_object();
    add_rows(&page, "jobs", after, reply, next);
    if (mesh || remote)
        add_rows(&page, "lost", after, reply, next);
    const bool ended =
        json_is_true(json_object_get(next, "jobs")) && json_is_true(json_object_get(next, "lost"));
    if (mesh || remote)
        json_put(reply, "next", ended ? json_null() : json_incref(next));
    json_decref(next);
    if (mesh && !remote)
        relay_jobs(node, call, reply, page.limit);
    else
        api_reply(call, reply);
}
