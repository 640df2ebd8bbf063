/* Leading a journal: appending, sending what members lack, settling, and what waited for that. */
#include "mesh/internal.h"

void journal_lead(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    journal->role = JOURNAL_LEADER;
    journal->home = step->mesh->config.self;
    journal->reigns = journal->stalled = journal->due = false;
    journal->first = journal->last + 1;
    journal->moved_at_ms = journal->beat_at_ms = journal->led_at_ms = step->now_ms;
    journal->asking = 0;
    journal->learning = journal->handing = false;
    journal->handed_at_ms = step->now_ms - JOURNAL_HAND_MS;
    /* Of our own log, what is there was durable before we were voted for; the others tell. */
    for (uint32_t i = 0; i < journal->members.count; i++)
        journal->peer[i] = (struct journal_peer){.sent = journal->last, .sent_at_ms = step->now_ms};
}

void journal_unlead(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (journal->role == JOURNAL_LEADER) {
        journal_waiters_free(&step->mesh->journals, journal);
        home_job_moved(step, &journal->job);
        step->mesh->counters.step_downs++;
    }
    journal->role = JOURNAL_FOLLOWER;
    journal->home = (struct mesh_id){0};
}

bool journal_has_room(const struct mesh *mesh, uint32_t slot)
{
    const struct pool *const pool = &mesh->journals.waiter_pool;
    const struct journal *const journal = &mesh->journals.journal[slot];
    const uint32_t left = pool->capacity - pool_in_use(pool);
    const uint32_t ends = mesh->config.limits.jobs; /* every job of ours may still end */
    const bool stalled = journal->role == JOURNAL_LEADER && journal->stalled;
    return left > ends && (!stalled || left - ends > (pool->capacity - ends) / 2);
}

/* No majority holds what these wait for, and others need the room: who waits to be acknowledged sends its result again. */
static void commits_drop(struct journals *journals, struct journal *journal)
{
    for (uint32_t at = list_first(&journal->waiters), next; at != MESH_NONE; at = next) {
        next = list_next(journals->waiter_link, at);
        if (journals->waiter[at].kind != MESH_ENTRY_COMMIT)
            continue;
        list_remove(&journal->waiters, journals->waiter_link, at);
        pool_give(&journals->waiter_pool, journals->waiter_link, at);
    }
}

bool journal_hands_over(const struct mesh *mesh, uint32_t slot)
{
    return mesh->journals.journal[slot].handing;
}

/* Whose peer that is: a member's, or the newcomer's behind them. */
static const struct mesh_id *peer_id(const struct journal *journal, uint32_t which)
{
    return which < journal->members.count ? &journal->members.id[which] : &journal->learner;
}

static uint32_t peers(const struct journal *journal)
{
    return journal->members.count + journal->learning;
}

static uint32_t peer_find(const struct journal *journal, const struct mesh_id *id)
{
    if (journal->learning && id_equal(id, &journal->learner))
        return journal->members.count;
    return members_place(&journal->members, id);
}

/* Of a node that is replaced by its own new copy, only that is sent anything. */
static bool shadowed(const struct journal *journal, uint32_t which)
{
    return peer_find(journal, peer_id(journal, which)) != which;
}

static void send_entry(struct step *step, const struct journal *journal, uint32_t peer,
                       enum mesh_entry_kind kind)
{
    struct mesh_message *const message = out_send(step, peer_id(journal, peer), MESH_APPEND);
    step->out->send[step->out->send_count - 1].early = true;
    message->body.append.job = journal->job;
    message->body.append.epoch = journal->promised;
    message->body.append.entry_epoch = journal->promised;
    message->body.append.before_epoch = journal_epoch_of(journal, journal->last - 1);
    message->body.append.index = journal->last;
    message->body.append.settled = journal->settled;
    message->body.append.sequence = step->mesh->disk.durable;
    message->body.append.kind = kind;
    if (journal->last == journal->members_at)
        message->body.append.members = journal->members;
}

struct mesh_place journal_append(struct step *step, uint32_t slot, enum mesh_entry_kind kind,
                                 const struct mesh_members *members, const struct journal_waiter *waiter)
{
    struct mesh *const mesh = step->mesh;
    struct journals *const journals = &mesh->journals;
    struct journal *const journal = &journals->journal[slot];
    assert(journal->role == JOURNAL_LEADER);
    if (journal->settled == journal->last)
        journal->moved_at_ms = step->now_ms;
    journal_add(journal, journal->promised, kind, members);
    mesh->counters.entries++;
    if (waiter) {
        const uint32_t at = pool_take(&journals->waiter_pool, journals->waiter_link);
        assert(at != MESH_NONE); /* journal_has_room */
        journals->waiter[at] = *waiter;
        journals->waiter[at].kind = kind;
        journals->waiter[at].index = journal->last;
        list_append(&journal->waiters, journals->waiter_link, at);
    }
    for (uint32_t i = 0; i < peers(journal); i++) {
        struct journal_peer *const peer = &journal->peer[i];
        if (id_equal(peer_id(journal, i), &mesh->config.self)) {
            /* To ourselves, delivered once the save is durable. */
            journal_send_appended(step, journal, &mesh->config.self, journal->last, true)
                ->body.appended.sequence =
                mesh->disk.sequence + 1; /* of the save that comes with the entry */
            continue;
        }
        if (peer->behind || shadowed(journal, i))
            continue;
        if (peer->held == peer->sent)
            peer->sent_at_ms = step->now_ms;
        peer->sent = journal->last;
        send_entry(step, journal, i, kind);
    }
    return (struct mesh_place){
        .entry_epoch = journal->promised, .index = journal->last, .settled = journal->settled};
}

bool journal_await(struct step *step, uint32_t slot, const struct journal_waiter *waiter)
{
    struct journals *const journals = &step->mesh->journals;
    struct journal *const journal = &journals->journal[slot];
    if (journal->settled == journal->last)
        return false;
    for (uint32_t at = list_first(&journal->waiters); at != MESH_NONE;
         at = list_next(journals->waiter_link, at)) {
        const struct journal_waiter *const other = &journals->waiter[at];
        if (other->kind == MESH_ENTRY_COMMIT && id_equal(&other->executor, &waiter->executor) &&
            other->name.token == waiter->name.token && other->name.index == waiter->name.index)
            return true;
    }
    const uint32_t at = pool_take(&journals->waiter_pool, journals->waiter_link);
    assert(at != MESH_NONE);
    journals->waiter[at] = *waiter;
    journals->waiter[at].kind = MESH_ENTRY_COMMIT;
    journals->waiter[at].index = journal->last;
    list_append(&journal->waiters, journals->waiter_link, at);
    return true;
}

bool journal_owes(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *executor,
                  uint64_t token)
{
    const uint32_t slot = journal_led(mesh, job);
    if (slot == MESH_NONE)
        return false;
    const struct journals *const journals = &mesh->journals;
    for (uint32_t at = list_first(&journals->journal[slot].waiters); at != MESH_NONE;
         at = list_next(journals->waiter_link, at)) {
        const struct journal_waiter *const waiter = &journals->waiter[at];
        if (waiter->kind == MESH_ENTRY_COMMIT && waiter->name.token == token &&
            id_equal(&waiter->executor, executor))
            return true;
    }
    return false;
}

void journal_cancel(struct step *step, const struct mesh_id *job)
{
    const uint32_t slot = journal_led(step->mesh, job);
    if (slot == MESH_NONE)
        return;
    const struct journal *const journal = &step->mesh->journals.journal[slot];
    const uint32_t self = members_place(&journal->members, &step->mesh->config.self);
    const uint32_t others = ((1u << journal->members.count) - 1) & ~(1u << self);
    if (journal->promised > 1 || journal->settled > 0 || change_majority(&journal->members, others, 0))
        return;
    home_job_settled(step, job, MESH_JOB_CANCELLED);
    journal_end(step, slot, true);
}

/* Asks the host to send what a member lacks, a window at a time. */
static void send_log(struct step *step, struct journal *journal, uint32_t which)
{
    struct journal_peer *const peer = &journal->peer[which];
    const uint32_t left = journal->last - peer->sent;
    const uint32_t count = left < JOURNAL_WINDOW ? left : JOURNAL_WINDOW;
    if (count == 0 || !out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 4))
        return;
    struct mesh_effect *const effect = out_effect(step, MESH_SEND_LOG);
    effect->body.send_log.job = journal->job;
    effect->body.send_log.to = *peer_id(journal, which);
    effect->body.send_log.epoch = journal->promised;
    effect->body.send_log.settled = journal->settled;
    effect->body.send_log.first = peer->sent + 1;
    effect->body.send_log.count = count;
    peer->sent += count;
    peer->sent_at_ms = step->now_ms;
    step->mesh->counters.entries_resent += count;
}

/* What was left out follows when the member holds what was sent, and not only when it is due again. */
void journal_log_sent(struct step *step, const struct mesh_event *event)
{
    const uint32_t slot = journal_led(step->mesh, &event->body.log_sent.job);
    struct journal *const journal = slot == MESH_NONE ? NULL : &step->mesh->journals.journal[slot];
    const uint32_t which = journal ? peer_find(journal, &event->body.log_sent.to) : MESH_NONE;
    if (which == MESH_NONE || event->body.log_sent.epoch != journal->promised)
        return;
    struct journal_peer *const peer = &journal->peer[which];
    if (!peer->behind || event->body.log_sent.last >= peer->sent || event->body.log_sent.last < peer->held)
        return;
    step->mesh->counters.entries_resent -= peer->sent - event->body.log_sent.last;
    peer->sent = event->body.log_sent.last;
}

static uint32_t lost_peers(const struct journal *journal)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < journal->members.count; i++)
        bits |= (uint32_t)journal->peer[i].lost << i;
    return bits;
}

/*
 * The highest entry that a majority holds: it is the last that some member holds. Half of a set whose other half is lost
 * may take over and bring in new members, but acknowledges nothing by itself: it would stand on fewer copies than were
 * promised.
 */
static uint32_t majority_holds(const struct journal *journal)
{
    uint32_t highest = 0;
    for (uint32_t i = 0; i < journal->members.count; i++) {
        const uint32_t held = journal->peer[i].held;
        const bool half_will_do = journal->members.joining != 0 || held <= journal->first;
        uint32_t bits = 0;
        for (uint32_t k = 0; k < journal->members.count; k++)
            bits |= (uint32_t)(!journal->peer[k].lost && journal->peer[k].held >= held) << k;
        if (held > highest &&
            change_majority(&journal->members, bits, half_will_do ? lost_peers(journal) : 0))
            highest = held;
    }
    return highest;
}

/* Does what waited for an entry. False if the output is full. */
static bool serve_waiter(struct step *step, uint32_t slot, const struct journal_waiter *waiter)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    /* What the timers of one journal say comes behind it in the same step. */
    if (!out_has_room(step->out, 0, JOURNAL_SENDS, MESH_OUT_EFFECTS_MAX / 8))
        return false;
    switch (waiter->kind) {
    case MESH_ENTRY_SUBMIT:
        home_job_settled(step, &journal->job, MESH_JOB_RUNNING);
        break;
    case MESH_ENTRY_COMMIT:
        out_send(step, &waiter->executor, MESH_RESULT_ACK)->body.result_ack.name = waiter->name;
        break;
    case MESH_ENTRY_END:
        home_job_settled(step, &journal->job, waiter->state);
        break;
    case MESH_ENTRY_CHANGE:
    case MESH_ENTRY_DISPUTE:
        break;
    case MESH_ENTRY_TAKEOVER: {
        struct mesh_effect *const effect = out_effect(step, MESH_TAKE_OVER);
        effect->body.take_over.job = journal->job;
        effect->body.take_over.epoch = journal->promised;
        journal->reigns = true;
        step->mesh->counters.takeovers++;
        break;
    }
    }
    return true;
}

static void serve_waiters(struct step *step, uint32_t slot)
{
    struct journals *const journals = &step->mesh->journals;
    struct journal *const journal = &journals->journal[slot];
    journal->due = false;
    while (journal->waiters.count > 0) {
        const uint32_t at = list_first(&journal->waiters);
        if (journals->waiter[at].index > journal->settled)
            return;
        if (!serve_waiter(step, slot, &journals->waiter[at])) {
            journal->due = true;
            journals->scan_at_ms = step->now_ms;
            out_wake(step, step->now_ms);
            return;
        }
        list_remove(&journal->waiters, journals->waiter_link, at);
        pool_give(&journals->waiter_pool, journals->waiter_link, at);
    }
}

/* An entry of an older epoch counts only behind one of ours: a majority may hold it and still vote for a log without
 * it (section 5.4.2 of the paper). */
static void settle(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    const uint32_t held = majority_holds(journal);
    if (held < journal->first || held <= journal->settled)
        return;
    journal->settled = held;
    journal->moved_at_ms = step->now_ms;
    serve_waiters(step, slot);
}

/*
 * A member has forgotten the journal, since the job's end is settled. If we know that too, it has been told; if not, it
 * tells us: our own copy is whole if it is the same up to the member's last entry.
 */
static void appended_over(struct step *step, uint32_t slot, uint32_t which,
                          const struct mesh_message *message)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    const uint32_t last = message->body.appended.last;
    if (journal->role == JOURNAL_LEADER && journal_is_over(journal)) {
        journal->peer[which].told = true;
        return;
    }
    if (last == 0)
        return; /* its copy was not whole: others know more */
    journal_unlead(step, slot);
    journal_end(step, slot,
                journal->end > 0 && journal->end <= last && last <= journal->last &&
                    journal_epoch_of(journal, last) == message->body.appended.last_epoch);
}

static void note_lost(struct journal *journal, const struct mesh_id *id, uint64_t storage)
{
    const uint32_t lost = change_lost(&journal->members, id, storage);
    for (uint32_t i = 0; i < journal->members.count; i++)
        journal->peer[i].lost = journal->peer[i].lost || (lost >> i & 1);
    if (journal->learning && id_equal(id, &journal->learner) && storage > journal->learner_storage)
        journal->peer[journal->members.count].lost = true;
}

void journal_on_appended(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.appended.job);
    if (slot == MESH_NONE)
        return; /* it is over */
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint32_t which = peer_find(journal, &mesh->members.slot[from].id);
    if (which == MESH_NONE)
        return; /* it was a member, or may become one by a change that we don't know of yet */
    if (!disk_trusted(step, from, message->body.appended.sequence))
        return;
    if (message->body.appended.over) {
        appended_over(step, slot, which, message);
        return;
    }
    if (message->body.appended.epoch > journal->promised) {
        journal_seen(step, slot, message->body.appended.epoch);
        return;
    }
    if (journal->role != JOURNAL_LEADER || message->body.appended.epoch != journal->promised ||
        message->body.appended.last > journal->last)
        return; /* about an earlier epoch */
    note_lost(journal, &mesh->members.slot[from].id, message->body.appended.storage);
    struct journal_peer *const peer = &journal->peer[which];
    if (message->body.appended.held) {
        if (message->body.appended.last <= peer->held)
            return;
        peer->held = message->body.appended.last;
        peer->sent_at_ms = step->now_ms;
        if (peer->sent < peer->held)
            peer->sent = peer->held;
        if (peer->behind && peer->held == peer->sent) {
            peer->behind = peer->sent < journal->last;
            send_log(step, journal, which);
        }
    } else if (!peer->behind || message->body.appended.last < peer->held ||
               step->now_ms - peer->sent_at_ms >= JOURNAL_RESEND_MS) {
        peer->behind = true;
        peer->sent = message->body.appended.last; /* it may have lost what it held */
        peer->held = peer->sent < peer->held ? peer->sent : peer->held;
        send_log(step, journal, which);
    }
    settle(step, slot); /* also where it says only that its copy is lost: then half may do */
}

static void beat_add(struct step *step, const struct journal *journal, const struct mesh_id *to, bool over)
{
    struct mesh_message *message = NULL;
    for (uint32_t i = step->out->send_count; i-- > 0 && !message;) {
        struct mesh_send *const send = &step->out->send[i];
        if (send->message.kind == MESH_BEAT && id_equal(&send->to, to) &&
            send->message.body.beat.count < MESH_BEATS_MAX)
            message = &send->message;
    }
    if (!message)
        message = out_send(step, to, MESH_BEAT);
    message->body.beat.sequence = step->mesh->disk.durable;
    const uint32_t at = message->body.beat.count++;
    message->body.beat.journal[at].job = journal->job;
    message->body.beat.journal[at].epoch = journal->promised;
    message->body.beat.journal[at].last = journal->last;
    message->body.beat.journal[at].settled = journal->settled;
    message->body.beat.journal[at].over = over;
}

/* Whether all members that are not lost hold everything, and whether all have forgotten the journal since they know that. */
static void look_around(const struct step *step, const struct journal *journal, bool *all_hold,
                        bool *all_told)
{
    *all_hold = *all_told = true;
    for (uint32_t i = 0; i < journal->members.count; i++) {
        const bool self = id_equal(&journal->members.id[i], &step->mesh->config.self);
        if (change_is_gone(step, journal, i))
            continue; /* should it come back, hosts tell it */
        *all_hold = *all_hold && (journal->peer[i].held == journal->last || journal->peer[i].told);
        *all_told = *all_told && (self || journal->peer[i].told);
    }
}

/* Sends a member what it should have by now, and tells it how far we are. */
static void tend_member(struct step *step, struct journal *journal, uint32_t which, bool beat, bool over)
{
    const struct mesh *const mesh = step->mesh;
    struct journal_peer *const peer = &journal->peer[which];
    const uint32_t member = members_find(mesh, peer_id(journal, which));
    if (member == mesh->members.self || member == MESH_NONE || !members_live(mesh, member) || peer->told ||
        shadowed(journal, which))
        return;
    /* Who takes the first entry of a new job may first have to ask about its disk. */
    const int64_t patience_ms = peer->held == 0 && journal->first == 1 ? JOURNAL_SCAN_MS : JOURNAL_RESEND_MS;
    if ((peer->held < peer->sent || peer->behind) && step->now_ms - peer->sent_at_ms >= patience_ms) {
        peer->behind = true;
        peer->sent = peer->held;
        send_log(step, journal, which);
    }
    if (beat)
        beat_add(step, journal, peer_id(journal, which), over);
}

/* Whether those whom we have heard lately are a majority: it need not have been about this journal. */
static bool majority_speaks(const struct step *step, const struct journal *journal)
{
    const struct mesh *const mesh = step->mesh;
    uint32_t bits = 0;
    for (uint32_t i = 0; i < journal->members.count; i++) {
        const uint32_t slot = members_find(mesh, &journal->members.id[i]);
        const bool speaks =
            slot == mesh->members.self ||
            (slot != MESH_NONE &&
             step->now_ms - members_notes(&mesh->members, slot)->spoke_at_ms < JOURNAL_STALL_MS);
        bits |= (uint32_t)(speaks && !journal->peer[i].lost) << i;
    }
    return change_majority(&journal->members, bits, 0);
}

/* A home cut off from the others says so though nothing waits: what comes next would. */
static void look_whether_stalled(struct step *step, struct journal *journal)
{
    const bool waits =
        journal->settled < journal->last && step->now_ms - journal->moved_at_ms >= JOURNAL_STALL_MS;
    const bool alone =
        step->now_ms - journal->led_at_ms >= JOURNAL_STALL_MS && !majority_speaks(step, journal);
    if ((waits || alone) && !journal->stalled)
        step->mesh->counters.stalls++;
    journal->stalled = waits || alone;
}

/* The member behind us that may be the home next and lacks no more than so many entries, or MESH_NONE. Behind us, for two that
 * have no room for the job would hand it to each other for ever, past a third. */
static uint32_t heir(const struct mesh *mesh, const struct journal *journal, uint32_t lacks)
{
    const uint32_t self = members_place(&journal->members, &mesh->config.self);
    const uint32_t first = self == MESH_NONE ? 0 : self + 1;
    for (uint32_t k = 0; k < journal->members.count; k++) {
        const uint32_t i = (first + k) % journal->members.count;
        const uint32_t slot = members_find(mesh, &journal->members.id[i]);
        if (slot != MESH_NONE && slot != mesh->members.self && i + 1 != journal->members.leaving &&
            members_takes_work(mesh, slot) && !journal->peer[i].lost &&
            journal->peer[i].held + lacks >= journal->last)
            return i;
    }
    return MESH_NONE;
}

/* It took the job over and has had no room for it since. */
static bool lacks_room(const struct step *step, const struct journal *journal)
{
    return step->now_ms - journal->led_at_ms >= JOURNAL_ROOM_MS &&
           home_job_find(&step->mesh->home, &journal->job) == MESH_NONE;
}

/*
 * A home that drains, has no room for the job, or whose own copy is being replaced, gives it to another member. Results
 * are refused meanwhile, so that one catches up; if none does in time they are taken again, for as long as that time was.
 */
static void hand_over(struct step *step, struct journal *journal)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t self = members_place(&journal->members, &mesh->config.self);
    const bool unable = mesh->draining || self + 1 == journal->members.leaving || lacks_room(step, journal);
    const bool wanted =
        journal->reigns && journal->end == 0 && unable && heir(mesh, journal, JOURNAL_WINDOW) != MESH_NONE;
    const bool long_since = step->now_ms - journal->handed_at_ms >= JOURNAL_HAND_MS;
    if (!wanted || long_since) {
        journal->handed_at_ms = wanted || journal->handing ? step->now_ms : journal->handed_at_ms;
        journal->handing = wanted && !journal->handing;
    }
    const uint32_t which = journal->handing ? heir(mesh, journal, 0) : MESH_NONE;
    if (which == MESH_NONE)
        return;
    struct mesh_message *const message = out_send(step, &journal->members.id[which], MESH_HAND_OVER);
    message->body.hand_over.job = journal->job;
    message->body.hand_over.epoch = journal->promised;
    mesh->counters.handovers++;
}

/* Nobody is told that it is over before all hold the end: so whoever comes back late finds it on any member's disk. */
void journal_tick_leader(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (journal->due)
        serve_waiters(step, slot);
    bool all_hold;
    bool all_told;
    look_around(step, journal, &all_hold, &all_told);
    const bool over = journal_is_over(journal) && all_hold;
    const bool beat = journal->beat_settled != journal->settled ||
                      step->now_ms - journal->beat_at_ms >= (over ? JOURNAL_SCAN_MS : JOURNAL_BEAT_MS);
    for (uint32_t i = 0; i < peers(journal); i++)
        tend_member(step, journal, i, beat, over);
    if (beat) {
        journal->beat_at_ms = step->now_ms;
        journal->beat_settled = journal->settled;
    }
    if (over && all_told) {
        journal_end(step, slot, true);
        return;
    }
    look_whether_stalled(step, journal);
    if (journal->stalled && !journal_has_room(step->mesh, slot))
        commits_drop(&step->mesh->journals, journal);
    hand_over(step, journal);
    change_tick(step, slot);
}
