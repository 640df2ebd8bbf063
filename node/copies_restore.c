/* Journals of several copies: what is on the disk at the start. */
#include "node/copies_internal.h"
#include "node/log.h"
#include "node/node.h"

#include <string.h>

static bool restore_entry(void *context, const struct copies_entry_view *view)
{
    struct mesh_journal_image *image = context;
    image->last = view->index;
    image->settled = view->settled > image->settled ? view->settled : image->settled;
    if (view->kind == MESH_ENTRY_END)
        image->end = view->index;
    if (view->members.count > 0) {
        image->before = image->members;
        image->before_at = image->members_at;
        image->members = view->members;
        image->members_at = view->index;
    }
    if (image->run_count > 0 && image->run[image->run_count - 1].epoch == view->epoch)
        return true;
    if (image->run_count == MESH_RUNS_MAX) {
        memmove(&image->run[0], &image->run[1], (MESH_RUNS_MAX - 1) * sizeof image->run[0]);
        image->run_count--;
    }
    image->run[image->run_count].epoch = view->epoch;
    image->run[image->run_count++].first = view->index;
    return true;
}

static bool restore_end(void *context, const struct copies_entry_view *view)
{
    copies_note_end(context, view->index, view->bytes, view->count);
    return false;
}

/* Returns whether it can be offered to the core, which takes it if it has room. */
static bool restore_copy(struct node *node, struct copy *copy)
{
    struct mesh_event event = {.kind = MESH_RESTORE_JOURNAL};
    struct mesh_journal_image *image = &event.body.journal;
    copies_read(node, &copy->job, 1, restore_entry, image);
    if (image->last == 0 && copy->last == 0)
        image->members = copy->members;
    if (image->members.count == 0) {
        log_error("journal", "job=%s error=\"the entries of its copy here are gone: it is left out\"",
                  peer_name(node, &copy->job));
        copy->damaged = true;
        return false;
    }
    copy->last = image->last;
    copy->last_epoch = image->run_count > 0 ? image->run[image->run_count - 1].epoch : 0;
    if (image->settled >
        image->last) { /* entries that a majority held are gone: this disk was rolled back, or is bad */
        log_error("journal", "job=%s error=\"its copy here ends before what is settled: it is left out\"",
                  peer_name(node, &copy->job));
        copy->damaged = true;
        return false;
    }
    if (image->end)
        copies_read(node, &copy->job, image->end, restore_end, copy);
    image->job = copy->job;
    image->promised = copy->promised;
    image->voted = copy->voted;
    image->home = image->last > 0 && copy->reign == copy->last_epoch;
    host_post(node, &event);
    return true;
}

/* Offers the core all that it doesn't have; returns how many these were. */
static uint32_t restore_copies(struct node *node)
{
    struct mesh_journal_view view;
    uint32_t count = 0;
    for (uint32_t b = 0; b < JOBS_BUCKETS; b++)
        for (struct copy *copy = node->copies.bucket[b]; copy; copy = copy->chain)
            count += !copy->over && !mesh_journal_find(node->host.mesh, &copy->job, &view) &&
                     restore_copy(node, copy);
    return count;
}

static bool restore_head(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct node *node = context;
    struct mesh_id id;
    if (key_bytes != sizeof id)
        return true;
    memcpy(id.bytes, key, sizeof id.bytes);
    struct copy *copy = copies_make(node, &id);
    if (copies_head_decode(value, value_bytes, copy)) {
        copy->chosen = copy->chosen < node->incarnation ? copy->chosen : node->incarnation;
        return true;
    }
    log_error("journal", "job=%s error=\"the row of its copy is damaged\"", peer_name(node, &id));
    copies_take_out(node, copy);
    return true;
}

void copies_restore(struct node *node)
{
    size_t bytes;
    store_get(node->store, STORE_COUNTERS, "forgotten", 9, &node->copies.forgotten,
              sizeof node->copies.forgotten, &bytes);
    store_each(node->store, STORE_COPIES, NULL, restore_head, node);
    const uint32_t count = restore_copies(node);
    node->copies.left_out = count > MESH_JOURNALS_MAX;
    if (node->copies.left_out)
        log_warn("journal",
                 "left_out=%u reason=\"more journals are on this disk than a node keeps: these wait until "
                 "others are over\"",
                 count - MESH_JOURNALS_MAX);
}

static bool first_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    (void)value;
    (void)value_bytes;
    struct copies_key *first = context;
    if (key_bytes == sizeof *first)
        memcpy(first, key, sizeof *first);
    return key_bytes != sizeof *first;
}

/* Whether the entries that are left of it are of no use: what swept them was cut short by this node's death. */
static bool is_rest(struct node *node, const struct mesh_id *id)
{
    const struct copy *copy = copies_find(node, id);
    const struct job *job = jobs_find(node, id);
    size_t bytes;
    if (!copy) /* nor a head row that only a later version understands */
        return store_get(node->store, STORE_COPIES, id->bytes, sizeof id->bytes, NULL, 0, &bytes) ==
               STORE_NONE;
    return copy->over &&
           (!copy->whole || copy->end_state != MESH_JOB_DONE || (job && job->state >= JOB_DONE));
}

void copies_sweep_rests(struct node *node)
{
    struct copies_key last = {0};
    for (;;) {
        struct copies_key first = {0};
        struct mesh_id id;
        const struct store_range range = {.after = last.bytes, .after_bytes = sizeof last};
        store_each(node->store, STORE_ENTRIES, &range, first_row, &first);
        memcpy(id.bytes, first.bytes, sizeof id.bytes);
        last = copies_key_of(&id, UINT32_MAX);
        if (memcmp(first.bytes, (struct copies_key){0}.bytes, sizeof first) == 0)
            return;
        if (is_rest(node, &id))
            copies_sweep(node, &id, false);
    }
}

/*
 * A journal that is over makes room for another in the step that saves that one, and the mark that it is over comes after:
 * a node that dies in between has one journal more on its disk than the core takes.
 */
void copies_made_room(struct node *node)
{
    if (node->copies.left_out)
        node->copies.left_out = restore_copies(node) > 0;
}
