/* Journals: the table, the log, opening and reading back. */
#include "mesh/internal.h"

#define BUCKET_KEY 0x746b6275u

void journals_layout(struct journals *journals, const struct mesh_limits *limits, struct carve *from)
{
    uint32_t buckets = 64;
    while (buckets < limits->journals)
        buckets *= 2;
    journals->bucket_count = buckets;
    journals->bucket = carve(from, buckets, sizeof *journals->bucket);
    journals->pool.capacity = limits->journals;
    journals->journal = carve(from, limits->journals, sizeof *journals->journal);
    journals->link = carve(from, limits->journals, sizeof *journals->link);
    journals->chain = carve(from, limits->journals, sizeof *journals->chain);
    journals->waiter_pool.capacity = limits->waiters;
    journals->waiter = carve(from, limits->waiters, sizeof *journals->waiter);
    journals->waiter_link = carve(from, limits->waiters, sizeof *journals->waiter_link);
}

/* The table. */

static uint32_t *bucket_of(struct journals *journals, const struct mesh_id *job)
{
    const uint64_t hash = mesh_hash(BUCKET_KEY, 0, job->bytes, sizeof job->bytes);
    return &journals->bucket[hash & (journals->bucket_count - 1)];
}

uint32_t journal_find(const struct mesh *mesh, const struct mesh_id *job)
{
    const struct journals *const journals = &mesh->journals;
    const uint64_t hash = mesh_hash(BUCKET_KEY, 0, job->bytes, sizeof job->bytes);
    uint32_t at = journals->bucket[hash & (journals->bucket_count - 1)];
    while (at != 0 && !id_equal(&journals->journal[at - 1].job, job))
        at = journals->chain[at - 1];
    return at - 1;
}

uint32_t journal_led(const struct mesh *mesh, const struct mesh_id *job)
{
    const uint32_t slot = journal_find(mesh, job);
    return slot != MESH_NONE && mesh->journals.journal[slot].role == JOURNAL_LEADER ? slot : MESH_NONE;
}

void journal_waiters_free(struct journals *journals, struct journal *journal)
{
    while (journal->waiters.count > 0) {
        const uint32_t slot = list_first(&journal->waiters);
        list_remove(&journal->waiters, journals->waiter_link, slot);
        pool_give(&journals->waiter_pool, journals->waiter_link, slot);
    }
}

void journal_free(struct journals *journals, uint32_t slot)
{
    struct journal *const journal = &journals->journal[slot];
    journal_waiters_free(journals, journal);
    uint32_t *at = bucket_of(journals, &journal->job);
    while (*at != slot + 1)
        at = &journals->chain[*at - 1];
    *at = journals->chain[slot];
    journal->role = JOURNAL_FREE;
    pool_give(&journals->pool, journals->link, slot);
}

bool journal_is_over(const struct journal *journal)
{
    return journal->end > 0 && journal->settled == journal->last && journal->waiters.count == 0;
}

/* At the bound one that is over makes room, if there is one: the host is told, and tells members that don't know it yet. */
static uint32_t journal_take(struct step *step)
{
    struct journals *const journals = &step->mesh->journals;
    const uint32_t slot = pool_take(&journals->pool, journals->link);
    for (uint32_t i = 0; slot == MESH_NONE && i < journals->pool.fresh; i++) {
        if (journals->journal[i].role == JOURNAL_LEADER && journal_is_over(&journals->journal[i])) {
            journal_end(step, i, true);
            return pool_take(&journals->pool, journals->link);
        }
    }
    return slot;
}

uint32_t journal_make(struct step *step, const struct mesh_id *job, const struct mesh_members *members)
{
    struct journals *const journals = &step->mesh->journals;
    const uint32_t slot = journal_take(step);
    if (slot == MESH_NONE) {
        step->mesh->counters.bound_journals++;
        return MESH_NONE;
    }
    journals->journal[slot] = (struct journal){.job = *job,
                                               .role = JOURNAL_FOLLOWER,
                                               .members = *members,
                                               .members_at = 1,
                                               .stand_at_ms = INT64_MAX};
    uint32_t *const bucket = bucket_of(journals, job);
    journals->chain[slot] = *bucket;
    *bucket = slot + 1;
    return slot;
}

bool mesh_journal_find(const struct mesh *mesh, const struct mesh_id *job, struct mesh_journal_view *view)
{
    const uint32_t slot = journal_find(mesh, job);
    if (slot == MESH_NONE)
        return false;
    const struct journal *const journal = &mesh->journals.journal[slot];
    *view = (struct mesh_journal_view){
        .members = journal->members,
        .home = journal->home,
        .epoch = journal->promised,
        .last = journal->last,
        .settled = journal->settled,
        .leads = journal->role == JOURNAL_LEADER,
        .reigns = journal->role == JOURNAL_LEADER && journal->reigns,
        .stalled = journal->role == JOURNAL_LEADER && journal->stalled,
    };
    return true;
}

uint32_t mesh_journal_copies(const struct mesh *mesh, uint32_t wished)
{
    struct mesh_members members;
    change_choose(mesh, &(struct mesh_job_spec){.copies = (uint8_t)wished}, &members);
    return members.count;
}

/* The log. */

uint64_t journal_epoch_of(const struct journal *journal, uint32_t index)
{
    for (uint32_t i = journal->run_count; i-- > 0;) {
        if (journal->run[i].first <= index)
            return index == 0 ? 0 : journal->run[i].epoch;
    }
    return 0;
}

void journal_cut(struct journal *journal, uint32_t last)
{
    assert(last >= journal->settled);
    journal->last = last;
    while (journal->run_count > 0 && journal->run[journal->run_count - 1].first > last)
        journal->run_count--;
    if (journal->end > last)
        journal->end = 0;
    if (journal->members_at > last && journal->before.count > 0) {
        journal->members = journal->before;
        journal->members_at = journal->before_at;
        journal->before.count = 0;
    }
    assert(journal->members_at <= last || last == 0);
}

/* Nobody begins a change before the one before is settled: that one is, and is never cut. */
static void change_members(struct journal *journal, const struct mesh_members *members)
{
    journal->before = journal->members;
    journal->before_at = journal->members_at;
    journal->members = *members;
    journal->members_at = journal->last;
    if (journal->settled < journal->before_at)
        journal->settled = journal->before_at;
}

void journal_add(struct journal *journal, uint64_t epoch, enum mesh_entry_kind kind,
                 const struct mesh_members *members)
{
    const uint32_t index = ++journal->last;
    if (kind == MESH_ENTRY_END)
        journal->end = index;
    if (kind == MESH_ENTRY_CHANGE)
        change_members(journal, members);
    if (journal->run_count > 0 && journal->run[journal->run_count - 1].epoch == epoch)
        return;
    if (journal->run_count == MESH_RUNS_MAX) {
        memmove(&journal->run[0], &journal->run[1], (MESH_RUNS_MAX - 1) * sizeof journal->run[0]);
        journal->run_count--;
    }
    journal->run[journal->run_count].epoch = epoch;
    journal->run[journal->run_count++].first = index;
}

/* Opening. */

uint32_t journal_open(struct step *step, const struct mesh_job_spec *spec, enum mesh_refusal *refusal)
{
    struct mesh *const mesh = step->mesh;
    struct mesh_members members;
    *refusal = MESH_ACCEPTED;
    change_choose(mesh, spec, &members);
    if (members.count < spec->copies_min) {
        *refusal = MESH_REFUSED_COPIES;
        return MESH_NONE;
    }
    if (members.count == 1)
        return MESH_NONE;
    const uint32_t slot =
        journal_find(mesh, &spec->id) == MESH_NONE ? journal_make(step, &spec->id, &members) : MESH_NONE;
    if (slot == MESH_NONE) {
        *refusal = MESH_REFUSED_BUSY;
        return MESH_NONE;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    journal->promised = journal->seen = 1;
    journal->voted = mesh->config.self;
    journal->proven = true;
    journal_lead(step, slot);
    journal->reigns = true;
    return slot;
}

bool journal_counts(const struct mesh *mesh, const struct journal *journal)
{
    const uint32_t which = members_place(&journal->members, &mesh->config.self);
    return journal->last > 0 && which != MESH_NONE && disk_holds(mesh, journal->members.storage[which]);
}

bool journal_proven(struct step *step, struct journal *journal)
{
    if (!journal->proven)
        journal->proven = disk_proven(step, &journal->members);
    return journal->proven;
}

uint64_t journal_storage(const struct mesh *mesh, const struct journal *journal)
{
    const uint32_t which = members_place(&journal->members, &mesh->config.self);
    const uint64_t chosen = which == MESH_NONE ? 0 : journal->members.storage[which];
    /* One of a time that we don't remember is lost, too. */
    return chosen > mesh->incarnation ? chosen + 1 : mesh->disk.storage;
}

struct mesh_save *journal_save(struct step *step, enum mesh_save_kind kind)
{
    struct mesh_save *const save = out_save(step, kind);
    save->sequence = disk_next(step->mesh);
    return save;
}

bool journal_waits(const struct mesh *mesh, const struct mesh_id *job)
{
    const uint32_t slot = journal_led(mesh, job);
    if (slot == MESH_NONE)
        return false;
    const struct journal *const journal = &mesh->journals.journal[slot];
    for (uint32_t at = list_first(&journal->waiters); at != MESH_NONE;
         at = list_next(mesh->journals.waiter_link, at)) {
        if (mesh->journals.waiter[at].kind != MESH_ENTRY_COMMIT)
            return true;
    }
    return false;
}

bool journal_permits(const struct mesh *mesh, const struct mesh_job_spec *spec)
{
    const uint32_t slot = journal_find(mesh, &spec->id);
    if (slot == MESH_NONE)
        return true;
    const struct journal *const journal = &mesh->journals.journal[slot];
    return journal->role == JOURNAL_LEADER && journal->reigns && journal->promised == spec->epoch;
}

const struct mesh_members *journal_members(const struct mesh *mesh, uint32_t slot)
{
    return &mesh->journals.journal[slot].members;
}

void journal_others(const struct mesh *mesh, uint32_t slot, struct mesh_members *others)
{
    const struct journal *const journal = &mesh->journals.journal[slot];
    others->count = 0;
    for (uint32_t i = 0; i < journal->members.count; i++) {
        if (!id_equal(&journal->members.id[i], &mesh->config.self))
            others->id[others->count++] = journal->members.id[i];
    }
}

struct mesh_message *journal_send_appended(struct step *step, const struct journal *journal,
                                           const struct mesh_id *to, uint32_t last, bool held)
{
    struct mesh_message *const message = out_send(step, to, MESH_APPENDED);
    message->body.appended.job = journal->job;
    message->body.appended.epoch = journal->promised;
    message->body.appended.last = last;
    message->body.appended.held = held;
    message->body.appended.storage = journal_storage(step->mesh, journal);
    message->body.appended.sequence = disk_saved(step);
    return message;
}

void journal_end(struct step *step, uint32_t slot, bool whole)
{
    struct mesh_effect *const effect = out_effect(step, MESH_JOURNAL_OVER);
    effect->body.over.job = step->mesh->journals.journal[slot].job;
    effect->body.over.whole = whole;
    journal_free(&step->mesh->journals, slot);
}

void journal_forget(struct step *step, const struct mesh_id *job)
{
    const uint32_t slot = journal_find(step->mesh, job);
    if (slot != MESH_NONE)
        journal_free(&step->mesh->journals, slot);
}

/* At start. */

void journal_restore(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_journal_image *const image = &event->body.journal;
    assert(change_makes_sense(&image->members) && image->members_at <= image->last);
    assert(image->run_count <= MESH_RUNS_MAX && image->settled <= image->last);
    if (journal_find(mesh, &image->job) != MESH_NONE)
        return;
    const uint32_t slot = journal_make(step, &image->job, &image->members);
    if (slot == MESH_NONE)
        return;
    struct journal *const journal = &mesh->journals.journal[slot];
    journal->last = image->last;
    journal->settled = image->settled;
    if (image->members_at > 1) {
        assert(change_makes_sense(&image->before));
        journal->members_at = image->members_at;
        journal->before = image->before;
        journal->before_at = image->before_at;
        if (journal->settled < journal->before_at)
            journal->settled = journal->before_at;
    }
    journal->run_count = image->run_count;
    for (uint32_t i = 0; i < image->run_count; i++) {
        journal->run[i].epoch = image->run[i].epoch;
        journal->run[i].first = image->run[i].first;
    }
    journal->end = image->end;
    const uint64_t epoch = journal_epoch_of(journal, journal->last);
    journal->promised = journal->seen = image->promised > epoch ? image->promised : epoch;
    journal->voted = image->voted;
    journal->heard_at_ms = step->now_ms;
    /* Who was the home may have been followed by another meanwhile; the votes tell. */
    journal->stand_at_ms = image->home ? step->now_ms : step->now_ms + JOURNAL_QUIET_MS;
    mesh->journals.scan_at_ms = step->now_ms;
    out_wake(step, step->now_ms);
}

void journals_hurry(struct step *step)
{
    struct journals *const journals = &step->mesh->journals;
    if (pool_in_use(&journals->pool) == 0)
        return;
    journals->scan_at_ms = step->now_ms;
    out_wake(step, step->now_ms);
}

/* Time. */

void journals_tick(struct step *step)
{
    struct journals *const journals = &step->mesh->journals;
    if (pool_in_use(&journals->pool) == 0)
        return;
    if (step->now_ms >= journals->scan_at_ms) {
        if (journals->scan_next == 0)
            journals->changes_left = JOURNAL_CHANGES;
        for (; journals->scan_next < journals->pool.fresh; journals->scan_next++) {
            if (!out_has_room(step->out, 4, JOURNAL_SENDS, MESH_OUT_EFFECTS_MAX / 2)) {
                out_wake(step, step->now_ms);
                return;
            }
            const uint32_t slot = journals->scan_next;
            struct journal *const journal = &journals->journal[slot];
            if (journal->role > JOURNAL_FOLLOWER && !journal_counts(step->mesh, journal))
                journal_unlead(step, slot); /* our disk has forgotten some of it */
            if (journal->role == JOURNAL_LEADER)
                journal_tick_leader(step, slot);
            else if (journal->role != JOURNAL_FREE)
                journal_tick_election(step, slot);
        }
        journals->scan_next = 0;
        journals->scan_at_ms = step->now_ms + JOURNAL_SCAN_MS;
    }
    out_wake(step, journals->scan_at_ms);
}

/* Invariants. */

static void check_journal(const struct journal *journal)
{
    assert(change_makes_sense(&journal->members) && journal->members_at >= 1);
    assert(journal->last == 0 || journal->members_at <= journal->last);
    assert(journal->before.count == 0 ||
           (journal->before_at < journal->members_at && journal->before_at <= journal->settled));
    assert(journal->settled <= journal->last && journal->promised <= journal->seen);
    assert(journal->run_count <= MESH_RUNS_MAX && journal->end <= journal->last);
    for (uint32_t i = 0; i < journal->run_count; i++) {
        assert(journal->run[i].first <= journal->last && journal->run[i].epoch <= journal->promised);
        assert(i == 0 || (journal->run[i - 1].first < journal->run[i].first &&
                          journal->run[i - 1].epoch < journal->run[i].epoch));
    }
    if (journal->role != JOURNAL_LEADER) {
        assert(journal->waiters.count == 0);
        return;
    }
    assert(!journal->learning || journal->members.joining == 0);
    for (uint32_t i = 0; i < journal->members.count + journal->learning; i++)
        assert(journal->peer[i].held <= journal->last && journal->peer[i].sent <= journal->last);
}

void journals_check(const struct mesh *mesh)
{
    const struct journals *const journals = &mesh->journals;
    uint32_t used = 0;
    uint32_t waiters = 0;
    for (uint32_t slot = 0; slot < journals->pool.fresh; slot++) {
        const struct journal *const journal = &journals->journal[slot];
        if (journal->role == JOURNAL_FREE)
            continue;
        used++;
        waiters += journal->waiters.count;
        assert(journal_find(mesh, &journal->job) == slot);
        check_journal(journal);
    }
    assert(mesh->disk.storage <= mesh->incarnation);
    assert(used == pool_in_use(&journals->pool) && waiters == pool_in_use(&journals->waiter_pool));
}
