#include "mesh/internal.h"

#include <stdalign.h>

/* Reads as "mesh." and "owners"; the same on every node. */
#define OWNERS_KEY0 0x2e6873656du
#define OWNERS_KEY1 0x7372656e776fu

/* ------------------------------------------------------------------ memory */

void *carve(struct carve *from, size_t count, size_t size)
{
    const size_t align = alignof(max_align_t);
    const size_t at = (from->used + align - 1) / align * align;
    from->used = at + count * size;
    return from->base ? from->base + at : NULL;
}

static void lay_out(struct mesh *mesh, const struct mesh_limits *limits, struct carve *from)
{
    home_layout(&mesh->home, limits, from);
    members_layout(&mesh->members, limits, from);
    detector_layout(&mesh->detector, limits, from);
    gossip_layout(&mesh->gossip, limits, from);
    executor_layout(&mesh->executor, limits, from);
    journals_layout(&mesh->journals, limits, from);
}

size_t mesh_size(const struct mesh_limits *limits)
{
    struct mesh measured = {0};
    struct carve from = {0};
    carve(&from, 1, sizeof measured);
    lay_out(&measured, limits, &from);
    return from.used;
}

struct mesh *mesh_init(void *memory, const struct mesh_config *config)
{
    const struct mesh_limits *const limits = &config->limits;
    assert(limits->members >= 1 && limits->members <= MESH_MEMBERS_MAX);
    assert(limits->jobs <= MESH_JOBS_MAX && limits->shards <= MESH_SHARDS_MAX);
    assert(limits->bundles <= MESH_BUNDLES_MAX && limits->attempts <= MESH_ATTEMPTS_MAX);
    assert(limits->demands <= MESH_DEMANDS_MAX);
    assert(config->session != 0);

    struct carve from = {.base = memory};
    struct mesh *const mesh = carve(&from, 1, sizeof *mesh);
    mesh->config = *config;
    mesh->now_ms = config->now_ms;
    /* A process that saved its storage may have ended before it announced that incarnation. */
    mesh->incarnation = config->incarnation > config->storage ? config->incarnation : config->storage;
    mesh->record_version = config->session;
    disk_init(mesh);
    random_seed(&mesh->random, config->seed);
    lay_out(mesh, limits, &from);

    tiers_init(mesh);
    members_init(mesh);
    links_init(mesh);
    detector_init(mesh);
    gossip_init(mesh);
    rounds_init(mesh);
    executor_init(mesh);
    home_init(mesh);
    return mesh;
}

/* -------------------------------------------------------------------- step */

static void drop_handles(struct step *step, const struct mesh_message *message)
{
    switch (message->kind) {
    case MESH_PUSH:
    case MESH_SPREAD:
        out_drop(step, message->body.push.record.handle);
        break;
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        out_drop(step, message->body.assign.handle);
        break;
    case MESH_RESULT:
        out_drop(step, message->body.result.handle);
        break;
    case MESH_APPEND:
        out_drop(step, message->body.append.handle);
        break;
    default:
        break;
    }
}

static void refuse(struct step *step, const struct mesh_message *message)
{
    step->mesh->counters.bad_messages++;
    drop_handles(step, message);
}

/* What a peer may say before it is known: the words by which it becomes known. Returns false for all others.
 */
static bool receive_gossip(struct step *step, const struct mesh_event *event, uint32_t member)
{
    const struct mesh_message *const message = event->body.received.message;
    const struct mesh_id *const from = &event->body.received.from;
    switch (message->kind) {
    case MESH_PING:
        links_ping(step, from, message);
        return true;
    case MESH_PONG:
        if (member != MESH_NONE)
            links_pong(step, member, event->body.received.rtt_us);
        return true;
    case MESH_PUSH:
    case MESH_SPREAD:
        gossip_record(step, from, &message->body.push.record, message->body.push.hops);
        return true;
    case MESH_SUMMARY:
        rounds_summary(step, from, message);
        return true;
    case MESH_ENTRIES:
        rounds_entries(step, from, message);
        return true;
    case MESH_WANT:
        rounds_want(step, from, message);
        return true;
    default:
        return false;
    }
}

/* Words between members about records and their way. Returns false for all others. */
static bool receive_words(struct step *step, uint32_t from, const struct mesh_message *message)
{
    switch (message->kind) {
    case MESH_HAVE:
        tree_have(step, from, message);
        return true;
    case MESH_GRAFT:
        tree_graft(step, from, message);
        return true;
    case MESH_PRUNE:
        tree_prune(step, from, message);
        return true;
    case MESH_AWAIT:
        echo_await(step, from, message);
        return true;
    case MESH_ECHO:
        echo_heard(step, from, message);
        return true;
    default:
        return false;
    }
}

/* Returns false for what is no message about work. */
static bool receive_work(struct step *step, uint32_t from, const struct mesh_message *message)
{
    switch (message->kind) {
    case MESH_RESERVE:
    case MESH_WISH:
        executor_reserve(step, from, message);
        return true;
    case MESH_GRANT:
        home_grant(step, from, message);
        return true;
    case MESH_WAIT:
        home_wait(step, from, message);
        return true;
    case MESH_RELEASE:
        executor_release(step, from, message);
        return true;
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        executor_assign(step, from, message);
        return true;
    case MESH_EXPIRED:
        home_expired(step, from, message);
        return true;
    case MESH_RESULT:
        home_result(step, from, message);
        return true;
    case MESH_RESULT_ACK:
        executor_result_ack(step, from, message);
        return true;
    case MESH_RENEW:
        home_renew(step, from, message);
        return true;
    case MESH_RENEWED:
        executor_renewed(step, from, message);
        return true;
    case MESH_CANCEL:
        executor_cancel(step, from, message);
        return true;
    case MESH_APPEND:
        journal_on_append(step, from, message);
        return true;
    case MESH_APPENDED:
        journal_on_appended(step, from, message);
        return true;
    case MESH_VOTE:
        journal_on_vote(step, from, message);
        return true;
    case MESH_VOTED:
        journal_on_voted(step, from, message);
        return true;
    case MESH_BEAT:
        journal_on_beat(step, from, message);
        return true;
    case MESH_REPORT:
        adopt_on_report(step, from, message);
        return true;
    case MESH_ADOPTED:
        adopt_on_adopted(step, from, message);
        return true;
    case MESH_HAND_OVER:
        journal_on_hand_over(step, from, message);
        return true;
    case MESH_DISK:
        disk_on_disk(step, from, message);
        return true;
    default:
        return false;
    }
}

static void receive(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_message *const message = event->body.received.message;
    const uint32_t from = members_find(mesh, &event->body.received.from);
    const bool known = from != MESH_NONE;
    const bool revoked = known ? mesh->members.slot[from].state == MESH_REVOKED
                               : gossip_revoked(mesh, &event->body.received.from);
    if (revoked) {
        refuse(step, message);
        return;
    }
    if (known && from != mesh->members.self) {
        members_edit_notes(mesh, from)->spoke_at_ms = step->now_ms;
        links_heard(step, from);
    }
    if (from != mesh->members.self && receive_gossip(step, event, from))
        return;
    if (known && (receive_words(step, from, message) || receive_work(step, from, message)))
        return;
    refuse(step, message);
}

/* Over a tree it came from the neighbour itself, who is heard thereby. */
static void receive_record(struct step *step, const struct mesh_event *event)
{
    const struct mesh_id *const from = &event->body.record.from;
    const uint32_t member = members_find(step->mesh, from);
    if (event->body.record.hops > 0 && member != MESH_NONE && member != step->mesh->members.self)
        links_heard(step, member);
    gossip_record(step, from, &event->body.record.record, event->body.record.hops);
}

static void dispatch(struct step *step, const struct mesh_event *event)
{
    switch (event->kind) {
    case MESH_TICK:
        break;
    case MESH_RECEIVED:
        receive(step, event);
        break;
    case MESH_RECORD:
        receive_record(step, event);
        break;
    case MESH_LINK_UP:
        links_up(step, event);
        break;
    case MESH_LINK_DOWN:
        links_down(step, event);
        break;
    case MESH_DEVICES:
        executor_devices(step, event);
        break;
    case MESH_DRAIN:
        step->mesh->draining = true;
        step->mesh->stopping = event->body.drain.stops;
        executor_drain(step);
        break;
    case MESH_LEAVE:
        step->mesh->leaving = true;
        gossip_announce(step);
        break;
    case MESH_ANNOUNCE:
        gossip_announce(step);
        break;
    case MESH_SUBMIT:
        home_submit(step, event);
        break;
    case MESH_RESTORE:
        home_restore(step, event);
        break;
    case MESH_JOB_IS_OVER:
        journal_told_over(step, event);
        break;
    case MESH_LOG_SENT:
        journal_log_sent(step, event);
        break;
    case MESH_JOURNAL_NEW:
        journal_begin(step, event);
        break;
    case MESH_FORGOT:
        if (event->body.forgot >= step->mesh->incarnation)
            detector_raise(step);
        break;
    case MESH_RESTORE_JOURNAL:
        journal_restore(step, event);
        break;
    case MESH_CANCEL_JOB:
        home_cancel(step, event);
        break;
    case MESH_LOOKED_UP:
        home_looked_up(step, event);
        break;
    case MESH_RAN:
        executor_ran(step, event);
        break;
    case MESH_FORGET_JOB:
        home_forget(step, event);
        break;
    case MESH_QUARANTINE:
        verify_quarantine(step, event);
        break;
    case MESH_TRUST:
        verify_trust(step, event);
        break;
    }
}

void mesh_step(struct mesh *mesh, const struct mesh_event *event, struct mesh_out *out)
{
    if (event->now_ms > mesh->now_ms)
        mesh->now_ms = event->now_ms;
    out->wake_at_ms = INT64_MAX;
    out->save_count = 0;
    out->send_count = 0;
    out->effect_count = 0;
    struct step step = {.mesh = mesh, .out = out, .now_ms = mesh->now_ms, .wall_ms = event->wall_ms};
    if (event->kind == MESH_RECEIVED)
        step.digest = event->body.received.digest;

    /* What we knew before we were started comes first: it may tell how we stand in our site. */
    const bool stored = event->kind == MESH_RECORD && id_equal(&event->body.record.from, &mesh->config.self);
    if (!mesh->booted && !stored) {
        mesh->booted = true;
        gossip_announce(&step);
    }
    dispatch(&step, event);
    tiers_tick(&step);
    links_tick(&step);
    detector_tick(&step);
    gossip_tick(&step);
    tree_tick(&step);
    echo_tick(&step);
    rounds_tick(&step);
    executor_tick(&step);
    home_tick(&step);
    journals_tick(&step);
    gossip_wake(&step);
    if (out->wake_at_ms < mesh->now_ms)
        out->wake_at_ms = mesh->now_ms;
}

void mesh_check(const struct mesh *mesh)
{
    members_check(mesh);
    tiers_check(mesh);
    overlay_check(mesh);
    links_check(mesh);
    detector_check(mesh);
    gossip_check(mesh);
    tree_check(mesh);
    echo_check(mesh);
    rounds_check(mesh);
    executor_check(mesh);
    home_check(mesh);
    journals_check(mesh);
}

/* ------------------------------------------------------------------- views */

static uint64_t owner_rank(const struct mesh_id *key, const struct mesh_id *member)
{
    uint8_t both[2 * sizeof key->bytes];
    memcpy(both, key->bytes, sizeof key->bytes);
    memcpy(both + sizeof key->bytes, member->bytes, sizeof member->bytes);
    return mesh_hash(OWNERS_KEY0, OWNERS_KEY1, both, sizeof both);
}

/* The highest two ranks among members that have been up since `up_before_ms`; `*eligible` is how many those
 * are. */
static uint32_t choose_owners(const struct mesh *mesh, const struct mesh_id *key, int64_t up_before_ms,
                              struct mesh_id owner[2], uint32_t *eligible)
{
    uint64_t rank[2] = {0, 0};
    uint32_t count = 0;
    *eligible = 0;
    for (uint32_t i = 0; i < mesh->members.count; i++) {
        const struct member *const member = &mesh->members.slot[mesh->members.sorted[i]];
        if (member->state != MESH_UP || member->up_since_ms > up_before_ms ||
            !tiers_owns(mesh, mesh->members.sorted[i]))
            continue;
        ++*eligible;
        const uint64_t r = owner_rank(key, &member->id);
        if (count == 0 || r > rank[0]) {
            rank[1] = rank[0];
            owner[1] = owner[0];
            rank[0] = r;
            owner[0] = member->id;
        } else if (count == 1 || r > rank[1]) {
            rank[1] = r;
            owner[1] = member->id;
        }
        if (count < 2)
            count++;
    }
    return count;
}

uint32_t mesh_owners(const struct mesh *mesh, const struct mesh_id *key, struct mesh_id owner[2])
{
    uint32_t eligible;
    const uint32_t count = choose_owners(mesh, key, mesh->now_ms - MESH_STABLE_MS, owner, &eligible);
    if (eligible >= MESH_STABLE_MEMBERS_MIN)
        return count;
    return choose_owners(mesh, key, INT64_MAX, owner, &eligible);
}

static void view_member(const struct mesh *mesh, uint32_t slot, struct mesh_member_view *view)
{
    const struct member *const member = &mesh->members.slot[slot];
    const struct member_notes *const notes = members_notes(&mesh->members, slot);
    const struct link *const link = links_view(mesh, slot);
    *view = (struct mesh_member_view){
        .id = member->id,
        .state = member->state,
        .self = slot == mesh->members.self,
        .interior = member->interior,
        .guest = tiers_guest(mesh, slot),
        .neighbour = link != NULL,
        .link_up = link && link->up && !link->silent,
        .link_silent = link && link->silent && !link->reset,
        .incarnation = member->record.incarnation,
        .session = member->record.session,
        .record_handle = member->record.handle,
        .site = member->record.site,
        .capacity_at_ms = member->capacity.at_ms,
        .heard_at_ms = link && link->greeted ? link->heard_at_ms : 0,
        .state_at_ms = member->state_at_ms,
        .rtt_us = notes->rtt_us,
        .accusers = detector_accusers(mesh, slot),
        .accuses = detector_accuses(mesh, slot),
        .delivered_permille = notes->delivered_permille != 0 ? notes->delivered_permille : 1000,
        .confirmed = notes->confirmed,
        .quarantined = notes->quarantined,
    };
    if (member->has_capacity)
        view->capacity = members_offer(mesh, slot);
}

bool mesh_member_view(const struct mesh *mesh, uint32_t index, struct mesh_member_view *view)
{
    if (index >= mesh->members.count)
        return false;
    view_member(mesh, mesh->members.sorted[index], view);
    return true;
}

bool mesh_member_find(const struct mesh *mesh, const struct mesh_id *id, struct mesh_member_view *view)
{
    const uint32_t slot = members_find(mesh, id);
    if (slot == MESH_NONE)
        return false;
    view_member(mesh, slot, view);
    return true;
}

bool mesh_link_view(const struct mesh *mesh, const struct mesh_id *peer, struct mesh_link_view *view)
{
    const uint32_t neighbour = members_find(mesh, peer);
    const struct link *const link = links_view(mesh, neighbour);
    if (!link)
        return false;
    *view = (struct mesh_link_view){.protocol = link->protocol};
    for (uint32_t i = 0; i < mesh->members.count; i++) {
        const uint32_t slot = mesh->members.sorted[i];
        const struct member *const member = &mesh->members.slot[slot];
        if (slot == neighbour || !members_live(mesh, slot)) {
            view->trees_from += slot == neighbour && member->comes_from == link->place + 1;
            continue;
        }
        if (member->comes_from == link->place + 1)
            view->trees_from++;
        else if (!tiers_concerns(mesh, neighbour, slot))
            continue;
        else if (member->lazy >> link->place & 1)
            view->lazy++;
        else
            view->trees_to++;
    }
    return true;
}

bool mesh_doubts_itself(const struct mesh *mesh)
{
    return mesh->detector.doubting;
}

static bool listed(const uint32_t *list, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == slot)
            return true;
    }
    return false;
}

static const struct accusation *word_of(const struct accused *said, uint32_t who)
{
    for (uint32_t i = 0; said && i < said->count; i++) {
        if (said->accusation[i].accuser == who)
            return &said->accusation[i];
    }
    return NULL;
}

uint32_t mesh_opinions(const struct mesh *mesh, const struct mesh_id *subject,
                       struct mesh_opinion opinion[MESH_OPINIONS_MAX])
{
    const uint32_t slot = members_find(mesh, subject);
    if (slot == MESH_NONE)
        return 0;
    const struct accused *const said = detector_said(mesh, slot);
    uint32_t observer[MESH_NEIGHBOURS_MAX];
    const uint32_t observers = overlay_neighbours(mesh, slot, observer);
    uint32_t count = 0;
    for (uint32_t i = 0; said && i < said->count; i++) {
        const struct accusation *const word = &said->accusation[i];
        if (word->accuses)
            opinion[count++] = (struct mesh_opinion){.who = mesh->members.slot[word->accuser].id,
                                                     .observer = listed(observer, observers, word->accuser),
                                                     .accuses = true,
                                                     .said_at_ms = word->at_ms};
    }
    for (uint32_t i = 0; i < observers; i++) {
        const struct accusation *const word = word_of(said, observer[i]);
        if (!word || !word->accuses)
            opinion[count++] = (struct mesh_opinion){.who = mesh->members.slot[observer[i]].id,
                                                     .observer = true,
                                                     .said_at_ms = word ? word->at_ms : 0};
    }
    return count;
}

const struct mesh_counters *mesh_counters(const struct mesh *mesh)
{
    return &mesh->counters;
}
