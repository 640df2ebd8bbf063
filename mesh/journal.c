/* Journals: the table, appending, and settling. Who becomes a job's home is election.c. */
#include "mesh/internal.h"

#define CHOICE_KEY 0x6c616e72756f6au /* reads as "journal" */
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

uint32_t journal_member(const struct journal *journal, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < journal->members.count; i++) {
        if (id_equal(&journal->members.id[i], id))
            return i;
    }
    return MESH_NONE;
}

static void waiters_free(struct journals *journals, struct journal *journal)
{
    while (journal->waiters.count > 0) {
        const uint32_t slot = list_first(&journal->waiters);
        list_remove(&journal->waiters, journals->waiter_link, slot);
        pool_give(&journals->waiter_pool, journals->waiter_link, slot);
    }
}

static void journal_free(struct journals *journals, uint32_t slot)
{
    struct journal *const journal = &journals->journal[slot];
    waiters_free(journals, journal);
    uint32_t *at = bucket_of(journals, &journal->job);
    while (*at != slot + 1)
        at = &journals->chain[*at - 1];
    *at = journals->chain[slot];
    journal->role = JOURNAL_FREE;
    pool_give(&journals->pool, journals->link, slot);
}

/* The job's end is settled: what is left is to tell those who don't know yet. */
static bool journal_is_over(const struct journal *journal)
{
    return journal->end > 0 && journal->settled == journal->last && journal->waiters.count == 0;
}

/* At the bound one that is over makes room, if there is one. */
static uint32_t journal_take(struct journals *journals)
{
    const uint32_t slot = pool_take(&journals->pool, journals->link);
    for (uint32_t i = 0; slot == MESH_NONE && i < journals->pool.fresh; i++) {
        if (journals->journal[i].role == JOURNAL_LEADER && journal_is_over(&journals->journal[i])) {
            journal_free(journals, i);
            return pool_take(&journals->pool, journals->link);
        }
    }
    return slot;
}

static uint32_t journal_make(struct mesh *mesh, const struct mesh_id *job, const struct mesh_members *members)
{
    struct journals *const journals = &mesh->journals;
    const uint32_t slot = journal_take(journals);
    if (slot == MESH_NONE) {
        mesh->counters.bound_journals++;
        return MESH_NONE;
    }
    journals->journal[slot] = (struct journal){
        .job = *job, .role = JOURNAL_FOLLOWER, .members = *members, .stand_at_ms = INT64_MAX};
    uint32_t *const bucket = bucket_of(journals, job);
    journals->chain[slot] = *bucket;
    *bucket = slot + 1;
    return slot;
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

/* Cuts the log back to `last`. */
static void log_cut(struct journal *journal, uint32_t last)
{
    assert(last >= journal->settled);
    journal->last = last;
    while (journal->run_count > 0 && journal->run[journal->run_count - 1].first > last)
        journal->run_count--;
    if (journal->end > last)
        journal->end = 0;
}

static void log_add(struct journal *journal, uint64_t epoch, enum mesh_entry_kind kind)
{
    const uint32_t index = ++journal->last;
    if (kind == MESH_ENTRY_END)
        journal->end = index;
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
        if (mesh->members.slot[other].record.site == mesh->members.slot[slot].record.site)
            return true;
    }
    return false;
}

/* The member that is up and of the highest rank for the job (rendezvous hashing), or MESH_NONE. */
static uint32_t choose_one(const struct mesh *mesh, const struct mesh_id *job,
                           const struct mesh_members *chosen, bool other_sites)
{
    uint32_t best = MESH_NONE;
    uint64_t best_rank = 0;
    for (uint32_t i = 0; i < mesh->members.count; i++) {
        const uint32_t slot = mesh->members.sorted[i];
        const struct member *const member = &mesh->members.slot[slot];
        bool fits = slot != mesh->members.self && members_takes_work(mesh, slot) &&
                    !(other_sites && site_taken(mesh, chosen, slot));
        for (uint32_t k = 0; k < chosen->count; k++)
            fits = fits && !id_equal(&chosen->id[k], &member->id);
        const uint64_t rank = fits ? choice_rank(job, &member->id) : 0;
        if (fits && (best == MESH_NONE || rank > best_rank)) {
            best = slot;
            best_rank = rank;
        }
    }
    return best;
}

/* Ourselves first, then other sites', each site once; where there are too few, whoever is up. */
static void choose_members(const struct mesh *mesh, const struct mesh_job_spec *spec,
                           struct mesh_members *chosen)
{
    const uint32_t copies = spec->copies < MESH_COPIES_MAX ? spec->copies : MESH_COPIES_MAX;
    *chosen = (struct mesh_members){.count = 1, .id = {mesh->config.self}};
    for (int other_sites = 1; other_sites >= 0; other_sites--) {
        while (chosen->count < copies) {
            const uint32_t slot = choose_one(mesh, &spec->id, chosen, other_sites);
            if (slot == MESH_NONE)
                break;
            chosen->id[chosen->count++] = mesh->members.slot[slot].id;
        }
    }
}

uint32_t journal_open(struct step *step, const struct mesh_job_spec *spec, enum mesh_refusal *refusal)
{
    struct mesh *const mesh = step->mesh;
    struct mesh_members members;
    *refusal = MESH_ACCEPTED;
    choose_members(mesh, spec, &members);
    if (members.count < spec->copies_min) {
        *refusal = MESH_REFUSED_COPIES;
        return MESH_NONE;
    }
    if (members.count == 1)
        return MESH_NONE;
    const uint32_t slot =
        journal_find(mesh, &spec->id) == MESH_NONE ? journal_make(mesh, &spec->id, &members) : MESH_NONE;
    if (slot == MESH_NONE) {
        *refusal = MESH_REFUSED_BUSY;
        return MESH_NONE;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    journal->promised = journal->seen = 1;
    journal->voted = mesh->config.self;
    journal_lead(step, slot);
    journal->reigns = true;
    return slot;
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

/* Leading. */

void journal_lead(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    journal->role = JOURNAL_LEADER;
    journal->home = step->mesh->config.self;
    journal->reigns = journal->stalled = journal->due = false;
    journal->first = journal->last + 1;
    journal->moved_at_ms = journal->beat_at_ms = step->now_ms;
    /* Of our own log, what is there was durable before we were voted for; the others tell. */
    for (uint32_t i = 0; i < journal->members.count; i++)
        journal->peer[i] = (struct journal_peer){.sent = journal->last, .sent_at_ms = step->now_ms};
}

void journal_unlead(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (journal->role == JOURNAL_LEADER) {
        waiters_free(&step->mesh->journals, journal);
        home_job_moved(step, &journal->job);
        step->mesh->counters.step_downs++;
    }
    journal->role = JOURNAL_FOLLOWER;
    journal->home = (struct mesh_id){0};
}

bool journal_has_room(const struct mesh *mesh)
{
    const struct pool *const pool = &mesh->journals.waiter_pool;
    /* Every job of ours may still end. */
    return pool->capacity - pool_in_use(pool) > mesh->config.limits.jobs;
}

static void send_entry(struct step *step, const struct journal *journal, uint32_t peer,
                       enum mesh_entry_kind kind)
{
    struct mesh_message *const message = out_send(step, &journal->members.id[peer], MESH_APPEND);
    step->out->send[step->out->send_count - 1].early = true;
    message->body.append.job = journal->job;
    message->body.append.epoch = journal->promised;
    message->body.append.entry_epoch = journal->promised;
    message->body.append.before_epoch = journal_epoch_of(journal, journal->last - 1);
    message->body.append.index = journal->last;
    message->body.append.settled = journal->settled;
    message->body.append.kind = kind;
    if (journal->last == 1)
        message->body.append.members = journal->members;
}

static struct mesh_message *send_appended(struct step *step, const struct journal *journal,
                                          const struct mesh_id *to, uint32_t last, bool held)
{
    struct mesh_message *const message = out_send(step, to, MESH_APPENDED);
    message->body.appended.job = journal->job;
    message->body.appended.epoch = journal->promised;
    message->body.appended.last = last;
    message->body.appended.held = held;
    return message;
}

struct mesh_place journal_append(struct step *step, uint32_t slot, enum mesh_entry_kind kind,
                                 const struct journal_waiter *waiter)
{
    struct mesh *const mesh = step->mesh;
    struct journals *const journals = &mesh->journals;
    struct journal *const journal = &journals->journal[slot];
    assert(journal->role == JOURNAL_LEADER);
    if (journal->settled == journal->last)
        journal->moved_at_ms = step->now_ms;
    log_add(journal, journal->promised, kind);
    mesh->counters.entries++;
    if (waiter) {
        const uint32_t at = pool_take(&journals->waiter_pool, journals->waiter_link);
        assert(at != MESH_NONE); /* journal_has_room */
        journals->waiter[at] = *waiter;
        journals->waiter[at].kind = kind;
        journals->waiter[at].index = journal->last;
        list_append(&journal->waiters, journals->waiter_link, at);
    }
    for (uint32_t i = 0; i < journal->members.count; i++) {
        struct journal_peer *const peer = &journal->peer[i];
        if (id_equal(&journal->members.id[i], &mesh->config.self)) {
            /* To ourselves, delivered once the save is durable. */
            send_appended(step, journal, &mesh->config.self, journal->last, true);
            continue;
        }
        if (peer->behind)
            continue;
        if (peer->held == peer->sent)
            peer->sent_at_ms = step->now_ms;
        peer->sent = journal->last;
        send_entry(step, journal, i, kind);
    }
    return (struct mesh_place){
        .entry_epoch = journal->promised, .index = journal->last, .settled = journal->settled};
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
    effect->body.send_log.to = journal->members.id[which];
    effect->body.send_log.epoch = journal->promised;
    effect->body.send_log.settled = journal->settled;
    effect->body.send_log.first = peer->sent + 1;
    effect->body.send_log.count = count;
    if (peer->sent == 0)
        effect->body.send_log.members = journal->members;
    peer->sent += count;
    peer->sent_at_ms = step->now_ms;
    step->mesh->counters.entries_resent += count;
}

/* The highest entry that a majority holds. */
static uint32_t majority_holds(const struct journal *journal)
{
    uint32_t held[MESH_COPIES_MAX];
    for (uint32_t i = 0; i < journal->members.count; i++) {
        uint32_t at = i;
        for (; at > 0 && held[at - 1] < journal->peer[i].held; at--)
            held[at] = held[at - 1];
        held[at] = journal->peer[i].held;
    }
    return held[journal->members.count / 2];
}

/* Does what waited for an entry. False if the output is full. */
static bool serve_waiter(struct step *step, uint32_t slot, const struct journal_waiter *waiter)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (!out_has_room(step->out, 0, 1, MESH_OUT_EFFECTS_MAX / 8))
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
    journal->stalled = false;
    serve_waiters(step, slot);
}

static void journal_end(struct step *step, uint32_t slot, bool whole)
{
    struct mesh_effect *const effect = out_effect(step, MESH_JOURNAL_OVER);
    effect->body.over.job = step->mesh->journals.journal[slot].job;
    effect->body.over.whole = whole;
    journal_free(&step->mesh->journals, slot);
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

void journal_on_appended(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.appended.job);
    if (slot == MESH_NONE)
        return; /* it is over */
    struct journal *const journal = &mesh->journals.journal[slot];
    const uint32_t which = journal_member(journal, &mesh->members.slot[from].id);
    if (which == MESH_NONE) {
        mesh->counters.bad_messages++;
        return;
    }
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
        settle(step, slot);
    } else if (!peer->behind || step->now_ms - peer->sent_at_ms >= JOURNAL_RESEND_MS) {
        peer->behind = true;
        peer->sent = message->body.appended.last; /* it may have lost what it held */
        peer->held = peer->sent < peer->held ? peer->sent : peer->held;
        send_log(step, journal, which);
    }
}

/* Following. */

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
        log_cut(journal, index - 1);
    }
    if (index > journal->last)
        log_add(journal, message->body.append.entry_epoch, (enum mesh_entry_kind)message->body.append.kind);
    if (message->body.append.settled > journal->settled)
        journal->settled = message->body.append.settled < index ? message->body.append.settled : index;
    /* One that is there is saved again: the answer must not be ahead of the first save. */
    struct mesh_save *const save = out_save(step, MESH_SAVE_ENTRY);
    save->body.entry.job = journal->job;
    save->body.entry.place = (struct mesh_place){
        .entry_epoch = message->body.append.entry_epoch, .index = index, .settled = journal->settled};
    save->body.entry.kind = (enum mesh_entry_kind)message->body.append.kind;
    save->body.entry.handle = message->body.append.handle;
    save->body.entry.cut = cut;
    if (index == 1)
        save->body.entry.members = journal->members;
    step->mesh->counters.entries_taken++;
}

static bool append_makes_sense(const struct mesh *mesh, uint32_t from, const struct mesh_message *message)
{
    const struct mesh_members *const members = &message->body.append.members;
    if (message->body.append.index == 0 || message->body.append.index == UINT32_MAX ||
        message->body.append.epoch == 0 || message->body.append.epoch == UINT64_MAX ||
        message->body.append.entry_epoch == 0 ||
        message->body.append.entry_epoch > message->body.append.epoch ||
        message->body.append.kind < MESH_ENTRY_SUBMIT || message->body.append.kind > MESH_ENTRY_TAKEOVER ||
        from == mesh->members.self)
        return false;
    if (message->body.append.index > 1)
        return true;
    if (members->count < 2 || members->count > MESH_COPIES_MAX ||
        message->body.append.kind != MESH_ENTRY_SUBMIT)
        return false;
    const struct journal named = {.members = *members};
    return journal_member(&named, &mesh->config.self) != MESH_NONE &&
           journal_member(&named, &mesh->members.slot[from].id) != MESH_NONE;
}

/* A first entry makes the journal; a later one of a journal that is not here is answered, so that all of it comes. */
static uint32_t journal_for(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, &message->body.append.job);
    if (slot != MESH_NONE)
        return slot;
    if (message->body.append.index == 1)
        return journal_make(mesh, &message->body.append.job, &message->body.append.members);
    const struct journal none = {.job = message->body.append.job, .promised = message->body.append.epoch};
    send_appended(step, &none, from, 0, false);
    return MESH_NONE;
}

void journal_on_append(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const sender = &mesh->members.slot[from].id;
    const bool sane = append_makes_sense(mesh, from, message);
    mesh->counters.bad_messages += !sane;
    const uint32_t slot = sane ? journal_for(step, sender, message) : MESH_NONE;
    struct journal *const journal = slot == MESH_NONE ? NULL : &mesh->journals.journal[slot];
    if (journal && journal_member(journal, sender) == MESH_NONE) {
        mesh->counters.bad_messages++;
    } else if (journal && message->body.append.epoch < journal->promised) {
        mesh->counters.entries_fenced++;
        send_appended(step, journal, sender, journal->last, false);
    } else if (journal && journal_follow(step, slot, sender, message->body.append.epoch)) {
        uint32_t hint = 0;
        const bool fits = log_fits(journal, message, &hint);
        if (fits && message->body.append.index > journal->settled)
            take_entry(step, journal, message);
        send_appended(step, journal, sender,
                      !fits                                           ? hint
                      : message->body.append.index > journal->settled ? message->body.append.index
                                                                      : journal->settled,
                      fits);
    }
    out_drop(step, message->body.append.handle);
}

/* Telling how far they are. */

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
    const uint32_t at = message->body.beat.count++;
    message->body.beat.journal[at].job = journal->job;
    message->body.beat.journal[at].epoch = journal->promised;
    message->body.beat.journal[at].last = journal->last;
    message->body.beat.journal[at].settled = journal->settled;
    message->body.beat.journal[at].over = over;
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
        send_appended(step, &none, sender, 0, false)->body.appended.over =
            message->body.beat.journal[which].over;
        return;
    }
    struct journal *const journal = &mesh->journals.journal[slot];
    if (journal_member(journal, sender) == MESH_NONE || from == mesh->members.self || settled > last) {
        mesh->counters.bad_messages++;
        return;
    }
    if (epoch < journal->promised) {
        mesh->counters.entries_fenced++;
        send_appended(step, journal, sender, journal->last, false);
        return;
    }
    if (!journal_follow(step, slot, sender, epoch))
        return;
    /* Of an entry that is there but of another epoch, `settled` is not about ours. */
    if (journal->last == last && journal_epoch_of(journal, last) == epoch) {
        journal->settled = settled > journal->settled ? settled : journal->settled;
        if (message->body.beat.journal[which].over && journal->settled == last) {
            send_appended(step, journal, sender, last, true)->body.appended.over = true;
            journal_end(step, slot, true);
        }
    } else {
        send_appended(step, journal, sender, journal->last < last ? journal->last : journal->settled, false);
    }
}

void journal_on_beat(struct step *step, uint32_t from, const struct mesh_message *message)
{
    if (message->body.beat.count > MESH_BEATS_MAX) {
        step->mesh->counters.bad_messages++;
        return;
    }
    for (uint32_t i = 0; i < message->body.beat.count; i++)
        beat_take(step, from, message, i);
}

void journal_forget(struct step *step, const struct mesh_id *job)
{
    const uint32_t slot = journal_find(step->mesh, job);
    if (slot != MESH_NONE)
        journal_free(&step->mesh->journals, slot);
}

void journal_told_over(struct step *step, const struct mesh_event *event)
{
    const struct journal none = {.job = event->body.is_over.job};
    if (journal_find(step->mesh, &none.job) != MESH_NONE)
        return;
    struct mesh_message *const message =
        send_appended(step, &none, &event->body.is_over.to, event->body.is_over.last, false);
    message->body.appended.over = true;
    message->body.appended.last_epoch = event->body.is_over.last_epoch;
}

/* At start. */

void journal_restore(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_journal_image *const image = &event->body.journal;
    assert(image->members.count >= 2 && image->members.count <= MESH_COPIES_MAX);
    assert(image->run_count <= MESH_RUNS_MAX && image->settled <= image->last);
    if (journal_find(mesh, &image->job) != MESH_NONE)
        return;
    const uint32_t slot = journal_make(mesh, &image->job, &image->members);
    if (slot == MESH_NONE)
        return;
    struct journal *const journal = &mesh->journals.journal[slot];
    journal->last = image->last;
    journal->settled = image->settled;
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

/* Time. */

/* Whether all members hold everything, and whether all have forgotten the journal since they know that. */
static void look_around(const struct mesh *mesh, const struct journal *journal, bool *all_hold,
                        bool *all_told)
{
    *all_hold = *all_told = true;
    for (uint32_t i = 0; i < journal->members.count; i++) {
        const bool self = id_equal(&journal->members.id[i], &mesh->config.self);
        *all_hold = *all_hold && (journal->peer[i].held == journal->last || journal->peer[i].told);
        *all_told = *all_told && (self || journal->peer[i].told);
    }
}

/* Sends a member what it should have by now, and tells it how far we are. */
static void tend_member(struct step *step, struct journal *journal, uint32_t which, bool beat, bool over)
{
    const struct mesh *const mesh = step->mesh;
    struct journal_peer *const peer = &journal->peer[which];
    const uint32_t member = members_find(mesh, &journal->members.id[which]);
    if (member == mesh->members.self || member == MESH_NONE || !members_live(mesh, member) || peer->told)
        return;
    if (peer->held < peer->sent && step->now_ms - peer->sent_at_ms >= JOURNAL_RESEND_MS) {
        peer->behind = true;
        peer->sent = peer->held;
        send_log(step, journal, which);
    }
    if (beat)
        beat_add(step, journal, &journal->members.id[which], over);
}

/* Nobody is told that it is over before all hold the end: so whoever comes back late finds it on any member's disk. */
static void tick_leader(struct step *step, uint32_t slot)
{
    struct journal *const journal = &step->mesh->journals.journal[slot];
    if (journal->due)
        serve_waiters(step, slot);
    bool all_hold;
    bool all_told;
    look_around(step->mesh, journal, &all_hold, &all_told);
    const bool over = journal_is_over(journal) && all_hold;
    const bool beat = step->now_ms - journal->beat_at_ms >= (over ? JOURNAL_SCAN_MS : JOURNAL_BEAT_MS);
    for (uint32_t i = 0; i < journal->members.count; i++)
        tend_member(step, journal, i, beat, over);
    if (beat)
        journal->beat_at_ms = step->now_ms;
    if (over && all_told) {
        journal_end(step, slot, true);
    } else if (!journal->stalled && journal->settled < journal->last &&
               step->now_ms - journal->moved_at_ms >= JOURNAL_STALL_MS) {
        journal->stalled = true;
        step->mesh->counters.stalls++;
    }
}

void journals_tick(struct step *step)
{
    struct journals *const journals = &step->mesh->journals;
    if (pool_in_use(&journals->pool) == 0)
        return;
    if (step->now_ms >= journals->scan_at_ms) {
        for (; journals->scan_next < journals->pool.fresh; journals->scan_next++) {
            if (!out_has_room(step->out, 4, 2 * MESH_COPIES_MAX, MESH_OUT_EFFECTS_MAX / 2)) {
                out_wake(step, step->now_ms);
                return;
            }
            const uint32_t slot = journals->scan_next;
            if (journals->journal[slot].role == JOURNAL_LEADER)
                tick_leader(step, slot);
            else if (journals->journal[slot].role != JOURNAL_FREE)
                journal_tick_election(step, slot);
        }
        journals->scan_next = 0;
        journals->scan_at_ms = step->now_ms + JOURNAL_SCAN_MS;
    }
    out_wake(step, journals->scan_at_ms);
}

/* Invariants. */

static void check_journal(const struct mesh *mesh, const struct journal *journal)
{
    assert(journal->members.count >= 2 && journal->members.count <= MESH_COPIES_MAX);
    assert(journal_member(journal, &mesh->config.self) != MESH_NONE);
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
    for (uint32_t i = 0; i < journal->members.count; i++)
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
        check_journal(mesh, journal);
    }
    assert(used == pool_in_use(&journals->pool) && waiters == pool_in_use(&journals->waiter_pool));
}
