/* Who is a job's home: promises, votes, and standing for it. */
#include "mesh/internal.h"

/* A candidate's place among the members: they stand one after the other, not all at once. */
static int64_t stand_after_ms(struct mesh *mesh, const struct journal *journal)
{
    const uint32_t rank = journal_member(journal, &mesh->config.self);
    return JOURNAL_STAND_MS * (int64_t)(1 + rank) + random_below(&mesh->random, JOURNAL_STAND_MS);
}

void journal_seen(struct step *step, uint32_t slot, uint64_t epoch)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (epoch <= journal->seen || epoch == UINT64_MAX)
        return;
    journal->seen = epoch;
    if (journal->role == JOURNAL_FOLLOWER)
        return;
    /* Somebody promised more than we have: our reign, or our candidacy, can't go on. */
    journal_unlead(step, slot);
    journal->heard_at_ms = step->now_ms;
    journal->stand_at_ms = step->now_ms + JOURNAL_VOTE_MS + stand_after_ms(step->mesh, journal);
}

bool journal_follow(struct step *step, uint32_t slot, const struct mesh_id *home, uint64_t epoch)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    const bool known = epoch == journal->promised && id_equal(&journal->home, home);
    if (epoch == journal->promised && !known && journal->role == JOURNAL_LEADER) {
        mesh->counters.bad_messages++; /* two homes of one epoch: the other one lies */
        return false;
    }
    if (!known) {
        journal_unlead(step, slot);
        if (epoch > journal->promised)
            journal->voted = (struct mesh_id){0};
        journal->promised = epoch;
        journal->seen = epoch > journal->seen ? epoch : journal->seen;
        journal->home = *home;
    }
    journal->heard_at_ms = step->now_ms;
    journal->stand_at_ms =
        step->now_ms + JOURNAL_QUIET_MS + random_below(&mesh->random, JOURNAL_QUIET_MS / 2);
    return true;
}

static void save_promise(struct step *step, const struct journal *journal)
{
    struct mesh_save *const save = out_save(step, MESH_SAVE_PROMISE);
    save->body.promise.job = journal->job;
    save->body.promise.epoch = journal->promised;
    save->body.promise.candidate = journal->voted;
}

static void send_voted(struct step *step, const struct journal *journal, const struct mesh_id *to,
                       bool granted)
{
    struct mesh_message *const message = out_send(step, to, MESH_VOTED);
    message->body.voted.job = journal->job;
    message->body.voted.epoch = granted ? journal->promised : journal->seen;
    message->body.voted.granted = granted;
}

/* Votes are counted when they are durable: our own comes back to us as a message. */
static void stand(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    assert(journal->role != JOURNAL_LEADER);
    mesh->counters.elections++;
    journal->role = JOURNAL_CANDIDATE;
    journal->promised = journal->seen = journal->seen + 1;
    journal->voted = mesh->config.self;
    journal->home = (struct mesh_id){0};
    journal->votes = 0;
    journal->stand_at_ms = step->now_ms + JOURNAL_VOTE_MS + stand_after_ms(mesh, journal);
    save_promise(step, journal);
    send_voted(step, journal, &mesh->config.self, true);
    for (uint32_t i = 0; i < journal->members.count; i++) {
        if (id_equal(&journal->members.id[i], &mesh->config.self))
            continue;
        struct mesh_message *const message = out_send(step, &journal->members.id[i], MESH_VOTE);
        message->body.vote.job = journal->job;
        message->body.vote.epoch = journal->promised;
        message->body.vote.last = journal->last;
        message->body.vote.last_epoch = journal_epoch_of(journal, journal->last);
    }
}

/* Whether the candidate's log has everything that ours has. */
static bool log_suffices(const struct journal *journal, const struct mesh_message *vote)
{
    const uint64_t ours = journal_epoch_of(journal, journal->last);
    return vote->body.vote.last_epoch > ours ||
           (vote->body.vote.last_epoch == ours && vote->body.vote.last >= journal->last);
}

/* A home that we hear is not replaced, unless it asks itself: it has restarted. */
static bool home_is_well(const struct step *step, const struct journal *journal,
                         const struct mesh_id *candidate)
{
    const struct mesh *const mesh = step->mesh;
    if (id_equal(&journal->home, candidate))
        return false;
    if (journal->role == JOURNAL_LEADER)
        return journal->reigns && !journal->stalled;
    const uint32_t home = members_find(mesh, &journal->home);
    return home != MESH_NONE && members_live(mesh, home) &&
           step->now_ms - journal->heard_at_ms < JOURNAL_FRESH_MS;
}

void journal_on_vote(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const candidate = &mesh->members.slot[from].id;
    const uint32_t slot = journal_find(mesh, &message->body.vote.job);
    if (slot == MESH_NONE) { /* it is over, or we have lost our copy and have no voice */
        struct mesh_effect *const effect = out_effect(step, MESH_JOURNAL_ASKED);
        effect->body.asked.job = message->body.vote.job;
        effect->body.asked.from = *candidate;
        return;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint64_t epoch = message->body.vote.epoch;
    if (journal_member(journal, candidate) == MESH_NONE || from == mesh->members.self ||
        epoch == UINT64_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    const bool again = epoch == journal->promised && id_equal(&journal->voted, candidate);
    const bool open = epoch > journal->promised && !home_is_well(step, journal, candidate);
    if (!again && !(open && log_suffices(journal, message))) {
        if (open) { /* it lacks what we have: we had better stand ourselves */
            journal_seen(step, slot, epoch);
            const int64_t at_ms = step->now_ms + stand_after_ms(mesh, journal);
            journal->stand_at_ms = at_ms < journal->stand_at_ms ? at_ms : journal->stand_at_ms;
        }
        send_voted(step, journal, candidate, false);
        return;
    }
    if (!again) {
        journal_unlead(step, slot);
        journal->promised = epoch;
        journal->seen = epoch > journal->seen ? epoch : journal->seen;
        journal->voted = *candidate;
        mesh->counters.votes++;
    }
    journal->stand_at_ms = step->now_ms + 2 * JOURNAL_VOTE_MS + stand_after_ms(mesh, journal);
    save_promise(step, journal);
    send_voted(step, journal, candidate, true);
}

static void elected(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    journal_lead(step, slot);
    const struct journal_waiter waiter = {0};
    const struct mesh_place place = journal_append(step, slot, MESH_ENTRY_TAKEOVER, &waiter);
    struct mesh_save *const save = out_save(step, MESH_SAVE_ENTRY);
    save->body.entry.job = journal->job;
    save->body.entry.place = place;
    save->body.entry.kind = MESH_ENTRY_TAKEOVER;
    save->body.entry.own = true;
}

void journal_on_voted(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.voted.job);
    if (slot == MESH_NONE)
        return;
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint32_t which = journal_member(journal, &mesh->members.slot[from].id);
    if (which == MESH_NONE) {
        mesh->counters.bad_messages++;
        return;
    }
    if (!message->body.voted.granted) {
        journal_seen(step, slot, message->body.voted.epoch);
        return;
    }
    if (journal->role != JOURNAL_CANDIDATE || message->body.voted.epoch != journal->promised)
        return;
    journal->votes |= 1u << which;
    uint32_t votes = 0;
    for (uint32_t i = 0; i < journal->members.count; i++)
        votes += journal->votes >> i & 1;
    if (votes > journal->members.count / 2 && journal_has_room(mesh))
        elected(step, slot);
}

static void hasten(struct step *step, const struct mesh_id *home)
{
    struct mesh *const mesh = step->mesh;
    struct journals *const journals = &mesh->journals;
    for (uint32_t slot = 0; slot < journals->pool.fresh; slot++) {
        struct journal *const journal = &journals->journal[slot];
        if (journal->role != JOURNAL_FOLLOWER || !id_equal(&journal->home, home))
            continue;
        const int64_t at_ms = step->now_ms + stand_after_ms(mesh, journal);
        journal->stand_at_ms = at_ms < journal->stand_at_ms ? at_ms : journal->stand_at_ms;
    }
}

void journal_member_down(struct step *step, uint32_t member)
{
    hasten(step, &step->mesh->members.slot[member].id);
}

void journal_tick_election(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    if (step->now_ms < journal->stand_at_ms)
        return;
    if (mesh->draining || mesh->leaving || home_is_well(step, journal, &mesh->config.self)) {
        journal->stand_at_ms = step->now_ms + stand_after_ms(mesh, journal);
        return;
    }
    stand(step, slot);
}
