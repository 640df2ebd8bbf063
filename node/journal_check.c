#include "node/journal_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 160

struct journal_check {
    struct store *store;
    journal_check_report *report;
    void *context;
    struct mesh_id job; /* whose rows are being shown */
    bool begun;
    bool several;    /* it is of several copies */
    uint32_t shards; /* the job's; MESH_SHARDS_MAX where that is not known */
    uint32_t first, last, settled;
    uint64_t epoch; /* of the last entry */
    bool ended;
    enum mesh_job_state end_state;
    uint8_t committed[MESH_SHARDS_MAX / 8];
};

static void say(const struct journal_check *check, const char *text)
{
    check->report(check->context, &check->job, text);
}

struct journal_check *journal_check_open(struct store *store, journal_check_report *report, void *context)
{
    struct journal_check *check = calloc(1, sizeof *check);
    if (!check)
        abort();
    check->store = store;
    check->report = report;
    check->context = context;
    return check;
}

void journal_check_close(struct journal_check *check)
{
    free(check);
}

/* ---- The head row */

static bool read_head(const struct journal_check *check, const struct mesh_id *job, struct copy *head)
{
    uint8_t row[4096];
    size_t bytes;
    return store_get(check->store, STORE_COPIES, job->bytes, sizeof job->bytes, row, sizeof row, &bytes) ==
               STORE_OK &&
           copies_head_decode(row, bytes, head);
}

/* A journal of which all that was settled is here has ended: nothing comes any more. */
static void compare_end(const struct journal_check *check, const struct copy *head)
{
    char text[TEXT_BYTES];
    if (check->last < head->last) {
        snprintf(text, sizeof text, "its head row tells of %u entries, and it ends with entry %u", head->last,
                 check->last);
        say(check, text);
    } else if (check->last == head->last && check->epoch != head->last_epoch) {
        snprintf(text, sizeof text,
                 "its head row says that it ends with epoch %" PRIu64 ", and entry %u is of epoch %" PRIu64,
                 head->last_epoch, check->last, check->epoch);
        say(check, text);
    }
    if (check->ended && check->end_state != head->end_state)
        say(check, "its head row tells of another end of the job than its entries");
}

static void compare_head(const struct journal_check *check)
{
    struct copy head = {0};
    const bool there = read_head(check, &check->job, &head);
    if (!there && check->first == 1)
        say(check, "its head row is missing");
    if (there && !head.over && check->first != 1)
        say(check, "its first entries are missing");
    if (there && head.over && head.whole)
        compare_end(check, &head);
}

static bool is_there(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    (void)value;
    (void)value_bytes;
    *(bool *)context = true;
    return false;
}

void journal_check_head(struct journal_check *check, const struct mesh_id *job, const struct copy *head)
{
    const struct store_range range = {.prefix = job->bytes, .prefix_bytes = sizeof job->bytes};
    bool some = false;
    if (head->over || head->last == 0)
        return;
    store_each(check->store, STORE_ENTRIES, &range, is_there, &some);
    if (!some)
        check->report(check->context, job, "its head row tells of entries, and there is none");
}

/* ---- From job to job */

void journal_check_end(struct journal_check *check)
{
    if (check->begun && check->several) {
        compare_head(check);
        if (check->settled > check->last)
            say(check, "it ends before what most of its members had: data of an earlier time, or a bad disk");
    }
    check->begun = false;
}

/* Whether this is the first row of another job than before. */
static bool turn_to(struct journal_check *check, const struct mesh_id *job)
{
    if (check->begun && memcmp(&check->job, job, sizeof *job) == 0)
        return false;
    journal_check_end(check);
    *check = (struct journal_check){.store = check->store,
                                    .report = check->report,
                                    .context = check->context,
                                    .job = *job,
                                    .begun = true,
                                    .shards = MESH_SHARDS_MAX};
    return true;
}

/* ---- Results */

static void take_shard(struct journal_check *check, uint32_t shard, bool commits)
{
    char text[TEXT_BYTES];
    if (shard >= check->shards) {
        snprintf(text, sizeof text, "it tells of shard %u, and its job has %u", shard, check->shards);
        say(check, text);
        return;
    }
    const uint8_t bit = (uint8_t)(1u << shard % 8);
    if (commits && check->committed[shard / 8] & bit) {
        snprintf(text, sizeof text, "shard %u is committed twice", shard);
        say(check, text);
    }
    if (commits)
        check->committed[shard / 8] |= bit;
}

static void take_shards(struct journal_check *check, const struct journal_row *row)
{
    for (uint32_t i = 0; i < row->count; i++)
        take_shard(check, row->item[i].shard, !row->disputes);
}

/* ---- Journals of several copies */

static void check_order(const struct journal_check *check, const struct copies_entry_view *entry)
{
    char text[TEXT_BYTES];
    if (entry->index != check->last + 1) {
        snprintf(text, sizeof text, "entries are missing between %u and %u", check->last, entry->index);
        say(check, text);
    }
    if (entry->epoch < check->epoch) {
        snprintf(text, sizeof text, "entry %u is of epoch %" PRIu64 ", and one before it of epoch %" PRIu64,
                 entry->index, entry->epoch, check->epoch);
        say(check, text);
    }
}

static void read_submit(struct journal_check *check, const struct copies_entry_view *entry)
{
    struct first_entry first;
    struct job *job = first_entry_decode(entry->bytes, entry->count, &first);
    if (!job)
        return; /* said by who decodes each row */
    check->shards = job->spec.shard_count;
    job_free(job);
}

static void read_entry(struct journal_check *check, const struct copies_entry_view *entry)
{
    static struct journal_row row;
    struct journal_end end;
    if (entry->kind == MESH_ENTRY_SUBMIT)
        read_submit(check, entry);
    if ((entry->kind == MESH_ENTRY_SUBMIT) != (entry->index == 1))
        say(check, "the job is described elsewhere than in its first entry");
    if (entry->kind == MESH_ENTRY_END && journal_end_decode(entry->bytes, entry->count, &end)) {
        check->ended = true;
        check->end_state = end.state;
    }
    if ((entry->kind == MESH_ENTRY_COMMIT || entry->kind == MESH_ENTRY_DISPUTE) &&
        journal_row_decode(entry->bytes, entry->count, &row))
        take_shards(check, &row);
}

void journal_check_entry(struct journal_check *check, const struct mesh_id *job,
                         const struct copies_entry_view *entry)
{
    if (turn_to(check, job)) {
        check->several = true;
        check->first = entry->index;
    } else {
        check_order(check, entry);
    }
    check->last = entry->index;
    check->epoch = entry->epoch;
    check->settled = entry->settled > check->settled ? entry->settled : check->settled;
    read_entry(check, entry);
}

/* ---- Journals of a single copy */

/* A job that was forgotten may still have rows: they go in steps. */
static void read_job(struct journal_check *check)
{
    static uint8_t row[JOB_ROW_BYTES_MAX];
    size_t bytes;
    if (store_get(check->store, STORE_JOBS, check->job.bytes, sizeof check->job.bytes, row, sizeof row,
                  &bytes) != STORE_OK)
        return;
    struct job *job = job_row_decode(row, bytes);
    if (!job)
        return; /* said by who decodes each row */
    check->shards = job->spec.shard_count;
    job_free(job);
}

void journal_check_row(struct journal_check *check, const struct mesh_id *job, uint32_t order,
                       const struct journal_row *row)
{
    if (turn_to(check, job))
        read_job(check);
    if (row->count == 0 || order != (row->item[0].shard | (row->disputes ? 1u << 31 : 0)))
        say(check, "a row stands where the row of another shard belongs");
    take_shards(check, row);
}
