/* Who is a job's home: promises, votes, and standing for it. */
#include "mesh/internal.h"

/* A candidate's place among the members: they stand one after the other, not all at once. */
static int64_t stand_after_ms(struct mesh *mesh, const struct journal *journal)
{
    /* One that drains, or is no member, comes after all others: it may still be the only one that has everything. */
    const uint32_t place = members_place(&journal->members, &mesh->config.self);
    const uint32_t rank = place == MESH_NONE || mesh->draining ? MESH_COPIES_MAX + 1 : place;
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
    journal->asking = 0;
    journal->heard_at_ms = step->now_ms;
    journal->stand_at_ms =
        step->now_ms + JOURNAL_QUIET_MS + random_below(&mesh->random, JOURNAL_QUIET_MS / 2);
    return true;
}

void journal_save_promise(struct step *step, const struct journal *journal)
{
    struct mesh_save *const save = journal_save(step, MESH_SAVE_PROMISE);
    save->body.promise.job = journal->job;
    save->body.promise.epoch = journal->promised;
    save->body.promise.candidate = journal->voted;
    if (journal->last == 0)
        save->body.promise.members = journal->members;
}

static struct mesh_message *send_voted(struct step *step, const struct journal *journal,
                                       const struct mesh_id *to, bool granted)
{
    struct mesh_message *const message = out_send(step, to, MESH_VOTED);
    message->body.voted.job = journal->job;
    message->body.voted.epoch = granted ? journal->promised : journal->seen;
    message->body.voted.granted = granted;
    message->body.voted.storage = journal_storage(step->mesh, journal);
    message->body.voted.sequence = disk_saved(step);
    return message;
}

static void send_votes(struct step *step, const struct journal *journal, uint64_t epoch, bool asks,
                       bool handed)
{
    for (uint32_t i = 0; i < journal->members.count; i++) {
        if (id_equal(&journal->members.id[i], &step->mesh->config.self))
            continue;
        struct mesh_message *const message = out_send(step, &journal->members.id[i], MESH_VOTE);
        message->body.vote.job = journal->job;
        message->body.vote.epoch = epoch;
        message->body.vote.last = journal->last;
        message->body.vote.last_epoch = journal_epoch_of(journal, journal->last);
        message->body.vote.asks = asks;
        message->body.vote.handed = handed;
        message->body.vote.sequence = disk_saved(step);
        if (journal->last > 0)
            message->body.vote.members = journal->members;
    }
}

/* Asks whether we would be voted for. A copy that doesn't count asks as well: it hears that it may go. */
static void ask(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    const bool counts = journal_counts(mesh, journal);
    const uint32_t self = members_place(&journal->members, &mesh->config.self);
    journal->role = JOURNAL_FOLLOWER;
    journal->asking = journal->seen + 1;
    journal->votes = counts ? 1u << self : 0;
    journal->lost = 0;
    journal->stand_at_ms =
        step->now_ms + (counts ? JOURNAL_VOTE_MS : JOURNAL_OUT_MS) + stand_after_ms(mesh, journal);
    send_votes(step, journal, journal->asking, true, false);
}

/* Votes are counted when they are durable: our own comes back to us as a message. */
static void stand(struct step *step, uint32_t slot, bool handed)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    assert(journal->role != JOURNAL_LEADER);
    mesh->counters.elections++;
    journal->role = JOURNAL_CANDIDATE;
    journal->promised = journal->seen = journal->seen + 1;
    journal->voted = mesh->config.self;
    journal->home = (struct mesh_id){0};
    journal->votes = journal->lost = 0;
    journal->asking = 0;
    journal->stand_at_ms = step->now_ms + JOURNAL_VOTE_MS + stand_after_ms(mesh, journal);
    journal_save_promise(step, journal);
    send_voted(step, journal, &mesh->config.self, true);
    send_votes(step, journal, journal->promised, false, handed);
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

/* Our place among members as they came, or MESH_NONE. */
static uint32_t our_place(const struct mesh *mesh, const struct mesh_members *members)
{
    return change_makes_sense(members) ? members_place(members, &mesh->config.self) : MESH_NONE;
}

/* Whether these make us one of them, by a copy that may be on this disk. */
static bool names_us(const struct mesh *mesh, const struct mesh_members *members)
{
    const uint32_t which = our_place(mesh, members);
    return which != MESH_NONE && disk_holds(mesh, members->storage[which]);
}

/*
 * Whether our vote may be heard at all. A member that hasn't heard yet that it is one has a vote: its copy is named by the
 * candidate, not by its own log, and so may one be that is chosen anew after it was lost. One that knows its copy to be
 * lost, and is named by no other, has none.
 */
static bool journal_speaks(const struct mesh *mesh, const struct journal *journal,
                           const struct mesh_members *named)
{
    const uint32_t which = members_place(&journal->members, &mesh->config.self);
    return which == MESH_NONE || disk_holds(mesh, journal->members.storage[which]) || names_us(mesh, named);
}

/*
 * It is over, or our copy is lost and has no voice, or nothing of it came before its home was gone. The host knows, but for
 * one thing: the disk that the copy was chosen for is gone. Whoever asks may be able to do without it, and hears that.
 */
static void ask_host(struct step *step, const struct mesh_id *candidate, const struct mesh_message *message)
{
    const struct mesh_members *const members = &message->body.vote.members;
    const bool named = names_us(step->mesh, members);
    struct mesh_effect *const effect = out_effect(step, MESH_JOURNAL_ASKED);
    effect->body.asked.job = message->body.vote.job;
    effect->body.asked.from = *candidate;
    effect->body.asked.epoch = message->body.vote.epoch;
    if (named) {
        effect->body.asked.members = *members;
    } else if (our_place(step->mesh, members) != MESH_NONE) {
        const struct journal lost = {.job = message->body.vote.job, .members = *members};
        send_voted(step, &lost, candidate, false)->body.voted.asks = message->body.vote.asks;
    }
}

void journal_begin(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_members *const members = &event->body.fresh.members;
    const uint32_t from = members_find(mesh, &event->body.fresh.from);
    if (from == MESH_NONE || !names_us(mesh, members) ||
        journal_find(mesh, &event->body.fresh.job) != MESH_NONE)
        return;
    const uint32_t slot = journal_make(step, &event->body.fresh.job, members);
    if (slot == MESH_NONE)
        return;
    /* We ask seldom, and only whether it is over. */
    mesh->journals.journal[slot].stand_at_ms = step->now_ms + JOURNAL_OUT_MS;
    mesh->counters.unheard++;
    struct mesh_message vote = {.kind = MESH_VOTE};
    vote.body.vote.job = event->body.fresh.job;
    vote.body.vote.epoch = event->body.fresh.epoch;
    vote.body.vote.asks = true;
    journal_on_vote(step, from, &vote);
}

void journal_on_vote(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const candidate = &mesh->members.slot[from].id;
    disk_seen(mesh, from, message->body.vote.sequence);
    const uint32_t slot = journal_find(mesh, &message->body.vote.job);
    if (slot == MESH_NONE) {
        ask_host(step, candidate, message);
        return;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint64_t epoch = message->body.vote.epoch;
    if (from == mesh->members.self || epoch == UINT64_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    if (!journal_proven(step, journal))
        return; /* it asks again */
    const bool well = home_is_well(step, journal, candidate) && !message->body.vote.handed;
    const bool able =
        log_suffices(journal, message) && journal_speaks(mesh, journal, &message->body.vote.members);
    const bool asks = message->body.vote.asks;
    const bool again = !asks && epoch == journal->promised && id_equal(&journal->voted, candidate);
    const bool open = epoch > journal->promised && !well;
    if (open && !able &&
        journal->role == JOURNAL_FOLLOWER) { /* it lacks what we have: we had better stand ourselves */
        const int64_t at_ms = step->now_ms + stand_after_ms(mesh, journal);
        journal->stand_at_ms = at_ms < journal->stand_at_ms ? at_ms : journal->stand_at_ms;
    }
    if (asks || !(again || (open && able))) {
        if (open && !asks)
            journal_seen(step, slot, epoch);
        struct mesh_message *const answer = send_voted(step, journal, candidate, asks && open && able);
        answer->body.voted.asks = asks;
        if (answer->body.voted.granted)
            answer->body.voted.epoch = epoch;
        if (journal->settled >= journal->members_at &&
            members_place(&journal->members, candidate) == MESH_NONE)
            answer->body.voted.number = journal->members.number;
        return;
    }
    if (!again) {
        journal_unlead(step, slot);
        journal->promised = epoch;
        journal->seen = epoch > journal->seen ? epoch : journal->seen;
        journal->voted = *candidate;
        journal->asking = 0;
        mesh->counters.votes++;
    }
    journal->stand_at_ms = step->now_ms + 2 * JOURNAL_VOTE_MS + stand_after_ms(mesh, journal);
    journal_save_promise(step, journal);
    send_voted(step, journal, candidate, true);
}

void journal_on_hand_over(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    if (message->body.hand_over.done) {
        adopt_home_moved(step, from, message);
        return;
    }
    const uint32_t slot = journal_find(mesh, &message->body.hand_over.job);
    if (slot == MESH_NONE)
        return;
    struct journal *const journal = &mesh->journals.journal[slot];
    if (journal->role == JOURNAL_FOLLOWER && id_equal(&journal->home, &mesh->members.slot[from].id) &&
        message->body.hand_over.epoch == journal->promised && journal_counts(mesh, journal) &&
        !mesh->draining && !mesh->leaving && journal_proven(step, journal))
        stand(step, slot, true);
}

static void elected(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    journal_lead(step, slot);
    const struct journal_waiter waiter = {0};
    const struct mesh_place place = journal_append(step, slot, MESH_ENTRY_TAKEOVER, NULL, &waiter);
    struct mesh_save *const save = journal_save(step, MESH_SAVE_ENTRY);
    save->body.entry.job = journal->job;
    save->body.entry.place = place;
    save->body.entry.kind = MESH_ENTRY_TAKEOVER;
    save->body.entry.own = true;
}

/* A member said no. If we have no place among the members any more, we need not ask again soon. */
static void take_no(struct step *step, uint32_t slot, const struct mesh_message *message)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    journal_seen(step, slot, message->body.voted.epoch);
    if (message->body.voted.number > journal->members.number && journal->role == JOURNAL_FOLLOWER) {
        journal->asking = 0;
        journal->stand_at_ms = step->now_ms + JOURNAL_OUT_MS + stand_after_ms(step->mesh, journal);
    }
}

/* Whether a vote is for what we ask now, or stand for. */
static bool is_about(const struct journal *journal, const struct mesh_message *voted)
{
    if (voted->body.voted.asks)
        return journal->asking != 0 && voted->body.voted.epoch == journal->asking;
    return journal->role == JOURNAL_CANDIDATE && voted->body.voted.epoch == journal->promised;
}

static void count_votes(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    if (!change_majority(&journal->members, journal->votes, journal->lost) || !journal_counts(mesh, journal))
        return;
    /* Ours among them: then all of our own log is durable, and may be read back. */
    const uint32_t self = members_place(&journal->members, &mesh->config.self);
    if (journal->role == JOURNAL_CANDIDATE && (journal->votes >> self & 1) && journal_has_room(mesh, slot))
        elected(step, slot);
    else if (journal->role == JOURNAL_FOLLOWER && journal->asking != 0)
        stand(step, slot, false);
}

void journal_on_voted(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.voted.job);
    if (slot == MESH_NONE)
        return;
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint32_t which = members_place(&journal->members, &mesh->members.slot[from].id);
    if (!disk_trusted(step, from, message->body.voted.sequence))
        return;
    journal->lost |=
        change_lost(&journal->members, &mesh->members.slot[from].id, message->body.voted.storage);
    const bool lost = which != MESH_NONE && (journal->lost >> which & 1);
    if (!lost && !message->body.voted.granted)
        take_no(step, slot, message);
    else if (!lost && which != MESH_NONE && is_about(journal, message))
        journal->votes |= 1u << which;
    count_votes(step, slot);
}

/* Followers of that home look after so long, and each a little later than the one before it, whether to stand. */
static void hasten(struct step *step, const struct mesh_id *home, int64_t after_ms, bool unwell)
{
    struct mesh *const mesh = step->mesh;
    struct journals *const journals = &mesh->journals;
    for (uint32_t slot = 0; slot < journals->pool.fresh; slot++) {
        struct journal *const journal = &journals->journal[slot];
        if (journal->role != JOURNAL_FOLLOWER || !id_equal(&journal->home, home))
            continue;
        const int64_t at_ms = step->now_ms + after_ms + stand_after_ms(mesh, journal);
        journal->stand_at_ms = at_ms < journal->stand_at_ms ? at_ms : journal->stand_at_ms;
        if (unwell)
            journal->heard_at_ms = step->now_ms - JOURNAL_FRESH_MS;
    }
}

void journal_member_down(struct step *step, uint32_t member)
{
    hasten(step, &step->mesh->members.slot[member].id, 0, false);
}

void journal_member_restarted(struct step *step, uint32_t member)
{
    hasten(step, &step->mesh->members.slot[member].id, JOURNAL_VOTE_MS, true);
}

void journal_tick_election(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct journal *const journal = &mesh->journals.journal[slot];
    if (step->now_ms < journal->stand_at_ms)
        return;
    if (mesh->leaving || home_is_well(step, journal, &mesh->config.self)) {
        journal->stand_at_ms = step->now_ms + stand_after_ms(mesh, journal);
        return;
    }
    if (!journal_proven(step, journal)) {
        journal->stand_at_ms = step->now_ms + JOURNAL_SCAN_MS;
        return;
    }
    ask(step, slot);
}
