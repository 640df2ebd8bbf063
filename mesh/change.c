/*
 * The members of a journal: choosing them, and replacing one.
 *
 * A change is two entries of the log. The first names the set before and the set after: from there on nothing is settled,
 * and nobody elected, without a majority of each. Once that is settled, the second names the set after alone. Every member
 * goes by the latest such entry in its log, settled or not, and back to the one before if it is replaced by a later home's.
 * (Joint consensus: Ongaro and Ousterhout 2014, section 6.) A home begins a change only when an entry of its own epoch
 * and the change before are settled, so that at most one is under way in any log that can win.
 *
 * Before the first entry the newcomer is sent the log, as one that doesn't count yet: a change never waits for that.
 */
#include "mesh/internal.h"

#define CHOICE_KEY 0x6c616e72756f6au /* reads as "journal" */

/* ---- Sets. */

uint32_t members_place(const struct mesh_members *members, const struct mesh_id *id)
{
    /* From the end: of a node that is replaced by its own new copy, the new one speaks. */
    for (uint32_t i = members->count; i-- > 0;) {
        if (id_equal(&members->id[i], id))
            return i;
    }
    return MESH_NONE;
}

/* Of an even number half is enough if the others are lost: no majority ever was without one of that half. */
static bool enough(uint32_t size, uint32_t has, uint32_t lost)
{
    return 2 * has > size || (2 * has == size && has + lost == size);
}

bool change_majority(const struct mesh_members *members, uint32_t bits, uint32_t lost)
{
    struct {
        uint32_t size, has, lost;
    } before = {0}, after = {0};
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t has = bits >> i & ~(lost >> i) & 1;
        if (i + 1 != members->joining) {
            before.size++;
            before.has += has;
            before.lost += lost >> i & 1;
        }
        if (i + 1 != members->leaving) {
            after.size++;
            after.has += has;
            after.lost += lost >> i & 1;
        }
    }
    return enough(before.size, before.has, before.lost) && enough(after.size, after.has, after.lost);
}

uint32_t change_lost(const struct mesh_members *members, const struct mesh_id *id, uint64_t storage)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < members->count; i++)
        bits |= (uint32_t)(id_equal(&members->id[i], id) && storage > members->storage[i]) << i;
    return bits;
}

bool change_makes_sense(const struct mesh_members *members)
{
    const uint32_t most = MESH_COPIES_MAX + (members->joining != 0);
    if (members->count < 2 || members->count > most || members->number == 0 ||
        members->joining > members->count || members->leaving > members->count)
        return false;
    for (uint32_t i = 0; i < members->count; i++) {
        if (members->storage[i] == UINT64_MAX)
            return false;
    }
    return members->joining == 0 ? members->leaving == 0 : members->joining != members->leaving;
}

/* ---- Choosing. */

static uint64_t choice_rank(const struct mesh_id *job, const struct mesh_id *member)
{
    uint8_t both[2 * sizeof job->bytes];
    memcpy(both, job->bytes, sizeof job->bytes);
    memcpy(both + sizeof job->bytes, member->bytes, sizeof member->bytes);
    return mesh_hash(CHOICE_KEY, 0, both, sizeof both);
}

/* Whether a member's site holds a copy already. */
static bool site_taken(const struct mesh *mesh, const struct mesh_members *chosen, uint32_t slot)
{
    for (uint32_t i = 0; i < chosen->count; i++) {
        const uint32_t other = members_find(mesh, &chosen->id[i]);
        if (other != MESH_NONE &&
            mesh->members.slot[other].record.site == mesh->members.slot[slot].record.site)
            return true;
    }
    return false;
}

/* Whether a copy may be put there: the node is up, speaks of journals, and has room on its disk. */
static bool may_keep(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    return slot != mesh->members.self && members_takes_work(mesh, slot) &&
           (member->protocol == 0 || member->protocol >= mesh_message_since(MESH_APPEND)) &&
           !(member->has_capacity && member->fault == MESH_FAULT_DISK);
}

/* The member that is up and of the highest rank for the job (rendezvous hashing), below that of `after` if there is one, or
 * MESH_NONE. */
static uint32_t choose_one(const struct mesh *mesh, const struct mesh_id *job,
                           const struct mesh_members *chosen, const struct mesh_id *after, bool other_sites)
{
    const uint64_t bound = after ? choice_rank(job, after) : UINT64_MAX;
    uint32_t best = MESH_NONE;
    uint64_t best_rank = 0;
    for (uint32_t i = 0; i < mesh->members.count; i++) {
        const uint32_t slot = mesh->members.sorted[i];
        const struct mesh_id *const id = &mesh->members.slot[slot].id;
        if (!may_keep(mesh, slot) || (other_sites && site_taken(mesh, chosen, slot)) ||
            members_place(chosen, id) != MESH_NONE)
            continue;
        const uint64_t rank = choice_rank(job, id);
        if (rank < bound && (best == MESH_NONE || rank > best_rank)) {
            best = slot;
            best_rank = rank;
        }
    }
    return best;
}

/* Another site's, each site once; where there is none, whoever is up. One that had no room is passed over, for the next or, at
 * the end, the first again. */
static uint32_t choose(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_members *chosen,
                       const struct mesh_id *after)
{
    uint32_t slot = choose_one(mesh, job, chosen, after, true);
    if (slot == MESH_NONE)
        slot = choose_one(mesh, job, chosen, after, false);
    return slot == MESH_NONE && after ? choose(mesh, job, chosen, NULL) : slot;
}

void change_choose(const struct mesh *mesh, const struct mesh_job_spec *spec, struct mesh_members *chosen)
{
    const uint32_t copies = spec->copies < MESH_COPIES_MAX ? spec->copies : MESH_COPIES_MAX;
    *chosen = (struct mesh_members){
        .number = 1, .count = 1, .id = {mesh->config.self}, .storage = {mesh->incarnation}};
    while (chosen->count < copies) {
        const uint32_t slot = choose(mesh, &spec->id, chosen, NULL);
        if (slot == MESH_NONE)
            break;
        chosen->storage[chosen->count] = mesh->members.slot[slot].record.incarnation;
        chosen->id[chosen->count++] = mesh->members.slot[slot].id;
    }
}

/* ---- Replacing. */

bool change_is_gone(const struct step *step, const struct journal *journal, uint32_t which)
{
    const struct mesh *const mesh = step->mesh;
    const uint32_t slot = members_find(mesh, &journal->members.id[which]);
    if (slot == mesh->members.self)
        return false;
    if (journal->peer[which].lost)
        return true;
    if (slot == MESH_NONE) /* a tombstone that was forgotten, or we have just started */
        return step->now_ms - journal->led_at_ms >= MESH_REPLACE_MS;
    const struct member *const member = &mesh->members.slot[slot];
    switch (member->state) {
    case MESH_LEFT:
    case MESH_REVOKED:
        return true;
    case MESH_DOWN:
        return step->now_ms - member->state_at_ms >= MESH_REPLACE_MS;
    default:
        return false;
    }
}

static bool drains(const struct mesh *mesh, const struct mesh_id *id)
{
    const uint32_t slot = members_find(mesh, id);
    return slot != MESH_NONE && slot != mesh->members.self && mesh->members.slot[slot].has_capacity &&
           mesh->members.slot[slot].draining;
}

static uint32_t who_must_go(const struct step *step, const struct journal *journal)
{
    for (uint32_t i = 0; i < journal->members.count; i++) {
        if (change_is_gone(step, journal, i) || drains(step->mesh, &journal->members.id[i]))
            return i;
    }
    return MESH_NONE;
}

/* Whether the job would have more copies than there were nodes for when it was submitted. */
static bool is_short(const struct mesh *mesh, const struct journal *journal)
{
    const uint32_t slot = home_job_find(&mesh->home, &journal->job);
    const uint32_t copies = slot == MESH_NONE ? 0 : mesh->home.job[slot].spec.copies;
    return journal->members.count < (copies < MESH_COPIES_MAX ? copies : MESH_COPIES_MAX);
}

static void members_drop(struct mesh_members *members, uint32_t which)
{
    members->count--;
    memmove(&members->id[which], &members->id[which + 1], (members->count - which) * sizeof members->id[0]);
    memmove(&members->storage[which], &members->storage[which + 1],
            (members->count - which) * sizeof members->storage[0]);
}

static void append_change(struct step *step, uint32_t slot, const struct mesh_members *members)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    struct mesh_members next = *members;
    next.number = journal->members.number + 1;
    const struct mesh_place place = journal_append(step, slot, MESH_ENTRY_CHANGE, &next, NULL);
    struct mesh_save *const save = journal_save(step, MESH_SAVE_ENTRY);
    save->body.entry.job = journal->job;
    save->body.entry.place = place;
    save->body.entry.kind = MESH_ENTRY_CHANGE;
    save->body.entry.own = true;
    save->body.entry.members = next;
}

/* The change is settled in both sets: the set after is all there is. */
static void finish(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    struct mesh_members after = journal->members;
    after.joining = after.leaving = 0;
    if (journal->members.leaving != 0) {
        const uint32_t which = journal->members.leaving - 1;
        members_drop(&after, which);
        memmove(&journal->peer[which], &journal->peer[which + 1],
                (after.count - which) * sizeof journal->peer[0]);
    }
    const uint32_t job = home_job_find(&step->mesh->home, &journal->job);
    if (job != MESH_NONE) /* what runs knows the members of its ASSIGN */
        bundles_tell_home(step, job, &journal->members.id[journal->members.joining - 1]);
    step->mesh->counters.changes++;
    append_change(step, slot, &after);
}

static void begin(struct step *step, uint32_t slot, uint32_t leaving)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    struct mesh_members both = journal->members;
    both.id[both.count] = journal->learner;
    both.storage[both.count++] = journal->learner_storage;
    both.joining = both.count;
    both.leaving = leaving == MESH_NONE ? 0 : leaving + 1;
    journal->learning = false; /* its peer stands where it is a member's now */
    append_change(step, slot, &both);
}

static void learner_choose(struct step *step, uint32_t slot, uint32_t leaving, const struct mesh_id *after)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    struct mesh_members stay = journal->members;
    if (mesh->journals.changes_left == 0)
        return;
    mesh->journals.changes_left--;
    if (leaving != MESH_NONE)
        members_drop(&stay, leaving);
    const uint32_t member = choose(mesh, &journal->job, &stay, after);
    if (member == MESH_NONE)
        return;
    journal->learning = true;
    journal->learning_at_ms = step->now_ms;
    journal->learner = mesh->members.slot[member].id;
    journal->learner_storage = mesh->members.slot[member].record.incarnation;
    journal->peer[journal->members.count] =
        (struct journal_peer){.behind = true, .sent_at_ms = step->now_ms - JOURNAL_RESEND_MS};
}

/* The newcomer is of no use any more, or there is no more use for it. */
static bool learner_failed(const struct mesh *mesh, const struct journal *journal)
{
    const uint32_t member = members_find(mesh, &journal->learner);
    return member == MESH_NONE || !may_keep(mesh, member) || journal->peer[journal->members.count].lost;
}

/* It lives and takes nothing: its table of journals is full, or its disk. */
static bool learner_has_no_room(const struct step *step, const struct journal *journal)
{
    return journal->peer[journal->members.count].held == 0 &&
           step->now_ms - journal->learning_at_ms >= JOURNAL_ROOM_MS;
}

void change_tick(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    /* An end that isn't settled may wait for the very member that must be replaced. */
    const bool ended = journal->end != 0 && journal->settled >= journal->end;
    if (!journal->reigns || ended || journal->settled < journal->members_at || journal->handing)
        return;
    const uint32_t self = members_place(&journal->members, &mesh->config.self);
    if (self + 1 == journal->members.leaving)
        return; /* first another is the home */
    if (journal->members.joining != 0) {
        finish(step, slot);
        return;
    }
    const uint32_t leaving = who_must_go(step, journal);
    if (leaving == MESH_NONE && !is_short(mesh, journal)) {
        journal->learning = false;
        return;
    }
    if (journal->learning && learner_failed(mesh, journal))
        journal->learning = false;
    if (!journal->learning)
        learner_choose(step, slot, leaving, NULL);
    else if (learner_has_no_room(step, journal))
        learner_choose(step, slot, leaving, &journal->learner);
    else if (journal->peer[journal->members.count].held > 0 &&
             journal->peer[journal->members.count].held + JOURNAL_WINDOW >= journal->last)
        begin(step, slot, leaving);
}
