/* Following: taking entries from a job's home, and hearing how far it is. */
#include "mesh/internal.h"

/* Whether entry `index` may follow what is there; if not, *hint is where to go on. */
static bool log_fits(const struct journal *journal, const struct mesh_message *message, uint32_t *hint)
{
    const uint32_t before = message->body.append.index - 1;
    if (before > journal->last) {
        *hint = journal->last;
        return false;
    }
    if (before <= journal->settled || journal_epoch_of(journal, before) == message->body.append.before_epoch)
        return true;
    *hint = journal->settled;
    return false;
}

static void take_entry(struct step *step, struct journal *journal, const struct mesh_message *message)
{
    const uint32_t index = message->body.append.index;
    const bool cut =
        index <= journal->last && journal_epoch_of(journal, index) != message->body.append.entry_epoch;
    if (cut) {
        step->mesh->counters.entries_void += journal->last - index + 1;
        journal_cut(journal, index - 1);
    }
    if (journal->last == 0) { /* a candidate's question may have named later ones */
        journal->members = message->body.append.members;
        journal->members_at = 1;
    }
    if (index > journal->last)
        journal_add(journal, message->body.append.entry_epoch,
                    (enum mesh_entry_kind)message->body.append.kind, &message->body.append.members);
    if (message->body.append.settled > journal->settled)
        journal->settled = message->body.append.settled < index ? message->body.append.settled : index;
    /* One that is there is saved again: the answer must not be ahead of the first save. */
    struct mesh_save *const save = journal_save(step, MESH_SAVE_ENTRY);
    save->body.entry.job = journal->job;
    save->body.entry.place = (struct mesh_place){
        .entry_epoch = message->body.append.entry_epoch, .index = index, .settled = journal->settled};
    save->body.entry.kind = (enum mesh_entry_kind)message->body.append.kind;
    save->body.entry.handle = message->body.append.handle;
    save->body.entry.cut = cut;
    save->body.entry.members = message->body.append.members;
    step->mesh->counters.entries_taken++;
}

static bool append_makes_sense(const struct mesh *mesh, uint32_t from, const struct mesh_message *message)
{
    const struct mesh_members *const members = &message->body.append.members;
    if (message->body.append.index == 0 || message->body.append.index == UINT32_MAX ||
        message->body.append.epoch == 0 || message->body.append.epoch == UINT64_MAX ||
        message->body.append.entry_epoch == 0 ||
        message->body.append.entry_epoch > message->body.append.epoch ||
        message->body.append.kind < MESH_ENTRY_SUBMIT || message->body.append.kind > MESH_ENTRY_DISPUTE ||
        from == mesh->members.self)
        return false;
    if (message->body.append.kind == MESH_ENTRY_CHANGE)
        return message->body.append.index > 1 && change_makes_sense(members);
    if (message->body.append.index > 1)
        return members->count == 0 && message->body.append.kind != MESH_ENTRY_SUBMIT;
    return message->body.append.kind == MESH_ENTRY_SUBMIT && message->body.append.entry_epoch == 1 &&
           members->joining == 0 && change_makes_sense(members);
}

/*
 * Who sends may be a member that we haven't heard of: the entry that says so may be the very one that we lack. The
 * epoch tells: nobody has it but by a majority's votes. The first epoch, which nobody votes for, is of the member
 * that stands first.
 */
static bool is_rival(const struct journal *journal, const struct mesh_id *sender, uint64_t epoch)
{
    const struct mesh_id nobody = {0};
    if (epoch == 1 && journal->members.number == 1)
        return !id_equal(&journal->members.id[0], sender);
    return epoch == journal->promised && !id_equal(&journal->home, &nobody) &&
           !id_equal(&journal->home, sender);
}

/* A first entry makes the journal; a later one of a journal that is not here is answered, so that all of it comes. */
static uint32_t journal_for(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.append.job);
    if (slot != MESH_NONE)
        return slot;
    if (message->body.append.index == 1) {
        struct journal first = {.members = message->body.append.members};
        const uint32_t made = journal_proven(step, &first)
                                  ? journal_make(step, &message->body.append.job, &first.members)
                                  : MESH_NONE; /* it comes again */
        if (made != MESH_NONE)
            mesh->journals.journal[made].proven = true;
        return made;
    }
    const struct journal none = {.job = message->body.append.job, .promised = message->body.append.epoch};
    journal_send_appended(step, &none, from, 0, false);
    return MESH_NONE;
}

void journal_on_append(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const sender = &mesh->members.slot[from].id;
    const bool sane = append_makes_sense(mesh, from, message);
    disk_seen(mesh, from, message->body.append.sequence);
    mesh->counters.bad_messages += !sane;
    const uint32_t slot = sane ? journal_for(step, sender, message) : MESH_NONE;
    struct journal *const journal = slot == MESH_NONE ? NULL : &mesh->journals.journal[slot];
    const bool proven = journal && journal_proven(step, journal);
    if (journal && is_rival(journal, sender, message->body.append.epoch)) {
        mesh->counters.bad_messages++;
    } else if (journal && !proven) {
        journal->heard_at_ms = step->now_ms; /* it comes again */
    } else if (journal && message->body.append.epoch < journal->promised) {
        mesh->counters.entries_fenced++;
        journal_send_appended(step, journal, sender, journal->last, false);
    } else if (journal && journal_follow(step, slot, sender, message->body.append.epoch)) {
        uint32_t hint = 0;
        const bool fits = log_fits(journal, message, &hint);
        if (fits && message->body.append.index > journal->settled)
            take_entry(step, journal, message);
        else if (fits) /* it came before, and its save may be under way still */
            journal_save_promise(step, journal);
        journal_send_appended(step, journal, sender,
                              !fits                                           ? hint
                              : message->body.append.index > journal->settled ? message->body.append.index
                                                                              : journal->settled,
                              fits);
    }
    out_drop(step, message->body.append.handle);
}

static void beat_take(struct step *step, uint32_t from, const struct mesh_message *message, uint32_t which)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const sender = &mesh->members.slot[from].id;
    const uint32_t slot = journal_find(mesh, &message->body.beat.journal[which].job);
    const uint64_t epoch = message->body.beat.journal[which].epoch;
    const uint32_t last = message->body.beat.journal[which].last;
    const uint32_t settled = message->body.beat.journal[which].settled;
    if (slot == MESH_NONE) {
        const struct journal none = {.job = message->body.beat.journal[which].job, .promised = epoch};
        journal_send_appended(step, &none, sender, 0, false)->body.appended.over =
            message->body.beat.journal[which].over;
        return;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    if (from == mesh->members.self || settled > last || epoch == 0 || epoch == UINT64_MAX ||
        is_rival(journal, sender, epoch)) {
        mesh->counters.bad_messages++;
        return;
    }
    if (!journal_proven(step, journal)) {
        journal->heard_at_ms = step->now_ms;
        return;
    }
    if (epoch < journal->promised) {
        mesh->counters.entries_fenced++;
        journal_send_appended(step, journal, sender, journal->last, false);
        return;
    }
    if (!journal_follow(step, slot, sender, epoch))
        return;
    /* Of an entry that is there but of another epoch, `settled` is not about ours. */
    if (journal->last == last && journal_epoch_of(journal, last) == epoch) {
        journal->settled = settled > journal->settled ? settled : journal->settled;
        if (message->body.beat.journal[which].over && journal->settled == last) {
            /* A copy that counts was waited for; of another some may be on its way to the disk. */
            if (!journal_counts(mesh, journal))
                journal_save_promise(step, journal);
            journal_send_appended(step, journal, sender, last, true)->body.appended.over = true;
            journal_end(step, slot, true);
        } else if (which == 0) {
            /* Once for the whole BEAT, and of no entry: that we are there. What is held was said when it was durable. */
            journal_send_appended(step, journal, sender, 0, true);
        }
    } else {
        journal_send_appended(step, journal, sender, journal->last < last ? journal->last : journal->settled,
                              false);
    }
}

void journal_on_beat(struct step *step, uint32_t from, const struct mesh_message *message)
{
    if (message->body.beat.count > MESH_BEATS_MAX) {
        step->mesh->counters.bad_messages++;
        return;
    }
    disk_seen(step->mesh, from, message->body.beat.sequence);
    for (uint32_t i = 0; i < message->body.beat.count; i++)
        beat_take(step, from, message, i);
}

void journal_told_over(struct step *step, const struct mesh_event *event)
{
    const struct journal none = {.job = event->body.is_over.job};
    if (journal_find(step->mesh, &none.job) != MESH_NONE)
        return;
    struct mesh_message *const message =
        journal_send_appended(step, &none, &event->body.is_over.to, event->body.is_over.last, false);
    message->body.appended.over = true;
    message->body.appended.last_epoch = event->body.is_over.last_epoch;
}
