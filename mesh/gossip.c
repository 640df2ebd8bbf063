#include "mesh/internal.h"

void gossip_layout(struct gossip *gossip, const struct mesh_limits *limits, struct carve *from)
{
    gossip->revocation_capacity = limits->members;
    gossip->revocation = carve(from, limits->members, sizeof *gossip->revocation);
}

void gossip_init(struct mesh *mesh)
{
    mesh->gossip.capacity_at_ms = mesh->now_ms - MESH_CAPACITY_MIN_MS;
    mesh->gossip.capacity_risen = true;
    mesh->gossip.capacity_version = mesh->config.session;
}

static void push(struct step *step, const struct mesh_id *to, const struct mesh_record *record)
{
    out_send(step, to, MESH_PUSH)->body.push.record = *record;
}

/* Sends an alert or a revocation on to every neighbour whose link is up, but not back to where it came from. */
static void flood(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    const struct mesh *const mesh = step->mesh;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        const struct mesh_id *const peer = &mesh->members.slot[link->member].id;
        if (!link->up || id_equal(peer, from) || id_equal(peer, &record->origin) ||
            !tiers_record_concerns(mesh, link->member, record))
            continue;
        push(step, peer, record);
    }
}

static bool is_self(const struct mesh *mesh, const struct mesh_id *id)
{
    return id_equal(id, &mesh->config.self);
}

static void save_record(struct step *step, const struct mesh_record *record)
{
    struct mesh_save *const save = out_save(step, MESH_SAVE_RECORD);
    save->body.record.kind = record->kind;
    save->body.record.origin = record->origin;
    save->body.record.handle = record->handle;
}

/* What is saved is found again after a restart. */
static void admit(struct step *step, const struct mesh_record *record, bool save)
{
    if (save)
        save_record(step, record);
    struct mesh_effect *const effect = out_effect(step, MESH_ADMIT);
    effect->body.admit.id = record->origin;
    effect->body.admit.handle = record->handle;
}

/* Who accuses us may not be our neighbour any more, and no flood would bring it our refutation. */
static void answer_accusers(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_record own = members_record(&mesh->members.slot[mesh->members.self]);
    const struct accused *const said = detector_said(mesh, mesh->members.self);
    for (uint32_t i = 0; said && i < said->count; i++) {
        const uint32_t accuser = said->accusation[i].accuser;
        const struct link *const link = links_find(mesh, accuser);
        if (!link || !link->up)
            push(step, &mesh->members.slot[accuser].id, &own);
    }
}

/* Our own record: as we asked for it, from an earlier life, or from another process with our identity. */
static bool accept_own_member(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct member *const self = &mesh->members.slot[mesh->members.self];
    if (record->body.member.session != mesh->config.session) {
        if (record->incarnation >= mesh->incarnation)
            detector_foreign(step, record);
        return false;
    }
    /* Somebody holds an old word of ours, which may place us where we no longer are. */
    if (!is_self(mesh, from) && self->record.handle != 0 && self->interior != record->body.member.interior &&
        stamp_newer(STAMP(&self->record), STAMP(record))) {
        const struct mesh_record own = members_record(self);
        push(step, from, &own);
        return false;
    }
    if (!is_self(mesh, from) || record->incarnation != mesh->incarnation ||
        (self->record.handle != 0 && !stamp_newer(STAMP(record), STAMP(&self->record))))
        return false;
    const bool risen = record->incarnation > self->record.incarnation;
    const bool moved = record->body.member.interior != self->interior;
    overlay_remove(mesh, mesh->members.self);
    members_keep_record(step, mesh->members.self, record);
    overlay_insert(mesh, mesh->members.self);
    rounds_list(mesh, mesh->members.self);
    if (moved) {
        if (self->interior)
            tiers_left_upper(step, &mesh->config.self, mesh->members.self);
        tiers_rebuild(step);
    }
    answer_accusers(step);
    detector_clear(mesh, mesh->members.self);
    mesh->links.stale = true;
    save_record(step, record);
    if (risen)
        mesh->gossip.capacity_risen = true;
    return true;
}

static bool accept_new_member(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (gossip_revoked(mesh, &record->origin) || !tiers_welcomes(step, from, record))
        return false;
    const uint32_t slot = members_add(step, record);
    if (slot == MESH_NONE) {
        mesh->counters.records_full++;
        return false;
    }
    admit(step, record, !tiers_guest(mesh, slot) || !record->body.member.interior);
    members_set_state(step, slot, record->body.member.leaving ? MESH_LEFT : MESH_UP);
    if (tiers_guest(mesh, slot) && !record->body.member.interior)
        tiers_pass_on(step, from, slot);
    return true;
}

static void accept_known_member(struct step *step, const struct mesh_id *from, uint32_t slot,
                                const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[slot];
    const bool risen = record->incarnation > member->record.incarnation;
    const bool restarted = record->body.member.session != member->record.session;
    const bool live = members_live(mesh, slot);
    const bool left_upper = record->body.member.interior && !member->interior;
    const bool was_guest = tiers_guest(mesh, slot);

    const bool moves = live && (record->body.member.region != member->record.region ||
                                record->body.member.site != member->record.site ||
                                record->body.member.interior != member->interior);
    if (moves)
        overlay_remove(mesh, slot);
    members_keep_record(step, slot, record);
    if (moves) {
        overlay_insert(mesh, slot);
        mesh->links.stale = true;
    }
    rounds_list(mesh, slot);
    admit(step, record, !was_guest || !tiers_guest(mesh, slot));
    if (left_upper)
        tiers_left_upper(step, from, slot);
    if (tiers_guest(mesh, slot) && !was_guest) {
        member->state_at_ms = step->now_ms;
        detector_clear(mesh, slot);
    }

    /* The process behind the member is another one: what the earlier one could run is no longer known. */
    if (restarted) {
        members_forget_capacity(step, slot);
        home_member_restarted(step, slot);
        journal_member_restarted(step, slot);
    }
    if (record->body.member.leaving) {
        if (member->state != MESH_LEFT)
            members_set_state(step, slot, MESH_LEFT);
    } else if (risen) {
        detector_refuted(step, slot, restarted);
    }
}

static bool accept_member(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (is_self(mesh, &record->origin))
        return accept_own_member(step, from, record);
    const uint32_t slot = members_find(mesh, &record->origin);
    if (slot == MESH_NONE)
        return accept_new_member(step, from, record);
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED)
        return false;
    /* Who changes its process does so in a new incarnation. */
    const bool other_process = record->body.member.session != member->record.session;
    const bool same_incarnation = record->incarnation == member->record.incarnation;
    if (!stamp_newer(STAMP(record), STAMP(&member->record)) || (other_process && same_incarnation)) {
        /* A node that has lost count of its incarnations learns from us where it was. */
        const bool lost_count = other_process && id_equal(from, &record->origin);
        if (!is_self(mesh, from) && (lost_count || rounds_overtaken(mesh, slot, STAMP(record)))) {
            const struct mesh_record ours = members_record(member);
            push(step, from, &ours);
        } else if (same_incarnation) {
            detector_believed(step, slot);
        }
        return false;
    }
    if (same_incarnation && member->state == MESH_LEFT) /* it comes back in a new one */
        return false;
    accept_known_member(step, from, slot, record);
    return true;
}

bool gossip_of_process(uint64_t version, uint64_t session)
{
    return version < MESH_CAPACITIES_MAX || version - session < MESH_CAPACITIES_MAX;
}

static bool accept_capacity(struct step *step, const struct mesh_id *from, uint32_t slot,
                            const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (slot == MESH_NONE || (slot == mesh->members.self && !is_self(mesh, from)))
        return false;
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED || record->incarnation < member->record.incarnation)
        return false;
    /* Of two processes with one identity we hear the one whose MEMBER record we hold. */
    if (!gossip_of_process(record->version, member->record.session))
        return false;
    if (member->has_capacity && !stamp_newer(STAMP(record), STAMP(&member->capacity)))
        return false;
    members_keep_capacity(step, slot, record);
    tiers_capacity(step, slot);
    if (slot == mesh->members.self)
        echo_announced(step, STAMP(record));
    else
        echo_arrived(step, slot);
    if (members_live(mesh, slot))
        home_member_capacity(step, slot);
    return true;
}

static bool accept_alert(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t origin = members_find(mesh, &record->origin);
    if (origin == MESH_NONE || (origin == mesh->members.self && !is_self(mesh, from)))
        return false;
    if (!detector_alert(step, origin, record))
        return false;
    /* The accused hears it from the accuser, whoever its neighbours are; what is flooded may not reach it. */
    const struct mesh_id *const subject = &record->body.alert.subject;
    if (origin == mesh->members.self) {
        const uint32_t slot = members_find(mesh, subject);
        const struct link *const link = links_find(mesh, slot);
        const bool alone = detector_tells_alone(mesh, slot);
        if (alone || !link || !link->up)
            push(step, subject, record);
        return !alone;
    }
    return true;
}

struct revocation *gossip_find_revocation(const struct mesh *mesh, const struct mesh_id *origin,
                                          const struct mesh_id *subject)
{
    for (uint32_t i = 0; i < mesh->gossip.revocation_count; i++) {
        struct revocation *const known = &mesh->gossip.revocation[i];
        if (id_equal(&known->record.body.revocation.subject, subject) &&
            id_equal(&known->record.origin, origin))
            return known;
    }
    return NULL;
}

bool gossip_revoked(const struct mesh *mesh, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < mesh->gossip.revocation_count; i++) {
        if (id_equal(&mesh->gossip.revocation[i].record.body.revocation.subject, id))
            return true;
    }
    return false;
}

/* Ourselves we can't bar; the host is told and decides. */
static void revoke(struct step *step, const struct mesh_id *subject)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = members_find(mesh, subject);
    if (is_self(mesh, subject)) {
        struct mesh_effect *const effect = out_effect(step, MESH_MEMBER);
        effect->body.member.id = *subject;
        effect->body.member.state = MESH_REVOKED;
        effect->body.member.incarnation = mesh->incarnation;
        return;
    }
    out_effect(step, MESH_BAR)->body.peer = *subject;
    if (slot != MESH_NONE && mesh->members.slot[slot].state != MESH_REVOKED)
        members_set_state(step, slot, MESH_REVOKED);
}

/* Returns whether the record was kept, and so is to be flooded. At the bound it acts, but only on whom we
 * know. */
static bool accept_revocation(struct step *step, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct gossip *const gossip = &mesh->gossip;
    const struct mesh_id *const subject = &record->body.revocation.subject;
    struct revocation *known = gossip_find_revocation(mesh, &record->origin, subject);
    if (known && !stamp_newer(STAMP(record), STAMP(&known->record)))
        return false;
    if (!known && gossip->revocation_count == gossip->revocation_capacity) {
        mesh->counters.records_full++;
        revoke(step, subject);
        return false;
    }
    if (!known)
        known = &gossip->revocation[gossip->revocation_count++];
    out_drop(step, known->record.handle);
    known->record = *record;
    rounds_list_revocation(mesh, known);
    save_record(step, record);
    return true;
}

/*
 * The origin gets its own MEMBER record back while it is new to everybody, because that is how two processes with one
 * identity meet.
 */
static void send_on(struct step *step, const struct mesh_id *from, const struct mesh_record *record,
                    uint8_t hops, uint64_t known_incarnation)
{
    if (record->kind == MESH_RECORD_MEMBER)
        tree_spread(step, from, record, hops, record->incarnation > known_incarnation);
    else if (record->kind == MESH_RECORD_CAPACITY)
        tree_spread(step, from, record, hops, false);
    else
        flood(step, from, record);
}

/* A copy that came over a tree in vain, if it is of what we hold and not of something older. */
static void not_accepted(struct step *step, const struct mesh_id *from, uint32_t slot,
                         const struct mesh_record *record, uint8_t hops)
{
    if (hops == 0 || slot == MESH_NONE)
        return;
    const struct member *const member = &step->mesh->members.slot[slot];
    const struct stamp ours =
        record->kind == MESH_RECORD_MEMBER ? STAMP(&member->record) : STAMP(&member->capacity);
    if (ours.incarnation == record->incarnation && ours.version == record->version)
        tree_duplicate(step, from, slot, hops);
}

void gossip_record(struct step *step, const struct mesh_id *from, const struct mesh_record *record,
                   uint8_t hops)
{
    struct mesh_counters *const counters = &step->mesh->counters;
    const uint32_t slot = members_find(step->mesh, &record->origin);
    const struct member *const origin = slot != MESH_NONE ? &step->mesh->members.slot[slot] : NULL;
    /* Our own record as it stands before the host has signed it is known to nobody. */
    const uint64_t known_incarnation = origin && origin->record.handle != 0 ? origin->record.incarnation : 0;
    bool accepted = false;
    bool keeps = true; /* the table holds the handle of an accepted record */
    switch (record->kind) {
    case MESH_RECORD_MEMBER:
        accepted = accept_member(step, from, record);
        break;
    case MESH_RECORD_CAPACITY:
        accepted = accept_capacity(step, from, slot, record);
        break;
    case MESH_RECORD_ALERT:
        accepted = accept_alert(step, from, record);
        keeps = false;
        break;
    case MESH_RECORD_REVOCATION:
        accepted = accept_revocation(step, record);
        break;
    default:
        counters->bad_messages++;
        out_drop(step, record->handle);
        return;
    }
    if (accepted) {
        counters->records_new++;
        send_on(step, from, record, hops, known_incarnation);
        /* A revoked neighbour is told of it too; only then is it barred. */
        if (record->kind == MESH_RECORD_REVOCATION)
            revoke(step, &record->body.revocation.subject);
    } else {
        counters->records_old++;
        not_accepted(step, from, slot, record, hops);
    }
    if (!accepted || !keeps)
        out_drop(step, record->handle);
}

/* ------------------------------------------------------------- our own records */

uint64_t gossip_incarnation(const struct mesh *mesh)
{
    return mesh->members.slot[mesh->members.self].record.incarnation;
}

void gossip_announce(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    /* A step waits for its own saves only, so each one that uses an incarnation not known to be durable saves
     * it. */
    if (mesh->incarnation != gossip_incarnation(mesh))
        out_save(step, MESH_SAVE_INCARNATION)->body.incarnation = mesh->incarnation;
    struct mesh_record *const record = &out_effect(step, MESH_SIGN)->body.record;
    record->kind = MESH_RECORD_MEMBER;
    record->origin = mesh->config.self;
    record->incarnation = mesh->incarnation;
    record->version = ++mesh->record_version;
    record->body.member.session = mesh->config.session;
    record->body.member.site = mesh->config.site;
    record->body.member.region = mesh->config.region;
    record->body.member.leaving = mesh->leaving;
    record->body.member.interior = mesh->tiers.interior;
}

void gossip_capacity_changed(struct step *step)
{
    step->mesh->gossip.capacity_changed = true;
}

static int64_t longer(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void own_capacity(const struct mesh *mesh, struct mesh_capacity *capacity)
{
    executor_capacity(mesh, capacity);
    tiers_digest(mesh, capacity);
}

static bool is_as_announced(const struct mesh *mesh)
{
    const struct mesh_capacity *const then = &mesh->gossip.announced;
    struct mesh_capacity now;
    own_capacity(mesh, &now);
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        if (now.class[i].slots != then->class[i].slots || now.class[i].free != then->class[i].free ||
            now.class[i].waiting != then->class[i].waiting || now.site.slots[i] != then->site.slots[i] ||
            now.site.free[i] != then->site.free[i])
            return false;
    }
    return now.site.members == then->site.members && now.price_micro == then->price_micro &&
           now.available_until_ms == then->available_until_ms && now.draining == then->draining &&
           now.fault == then->fault && now.details == then->details;
}

/* When ours is to be announced next; a change that was undone meanwhile is none. */
static int64_t capacity_due_ms(struct mesh *mesh, int64_t now_ms)
{
    struct gossip *const gossip = &mesh->gossip;
    const int64_t members = (int64_t)mesh->overlay.count[TIER_UPPER] + mesh->overlay.count[TIER_SITE];
    const int64_t change_ms =
        gossip->capacity_at_ms + (gossip->capacity_risen
                                      ? MESH_CAPACITY_MIN_MS
                                      : longer(MESH_CAPACITY_MIN_MS, MESH_CAPACITY_MIN_MS_EACH * members));
    if (gossip->capacity_changed && now_ms >= change_ms && !gossip->capacity_risen && is_as_announced(mesh)) {
        gossip->capacity_changed = false;
        mesh->counters.capacities_unchanged++;
    }
    if (gossip->capacity_changed || gossip->capacity_risen)
        return change_ms;
    return gossip->capacity_at_ms + longer(MESH_CAPACITY_MAX_MS, MESH_CAPACITY_MAX_MS_EACH * members);
}

void gossip_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct gossip *const gossip = &mesh->gossip;
    int64_t due_ms = capacity_due_ms(mesh, step->now_ms);
    if (step->now_ms >= due_ms) {
        own_capacity(mesh, &gossip->announced);
        gossip->capacity_changed = gossip->capacity_risen = false;
        gossip->capacity_at_ms = step->now_ms;
        struct mesh_record *const record = &out_effect(step, MESH_SIGN)->body.record;
        record->kind = MESH_RECORD_CAPACITY;
        record->origin = mesh->config.self;
        record->incarnation = gossip_incarnation(mesh);
        record->version = ++gossip->capacity_version;
        record->body.capacity = gossip->announced;
        due_ms = capacity_due_ms(mesh, step->now_ms);
    }
    out_wake(step, due_ms);
}

void gossip_wake(struct step *step)
{
    out_wake(step, capacity_due_ms(step->mesh, step->now_ms));
}

/* The first copy of a tree's first branch; whoever is no neighbour, or knows no trees, takes it as any other. */
static void send_own(struct step *step, const struct mesh_id *peer, const struct mesh_record *record)
{
    const uint32_t slot = members_find(step->mesh, peer);
    const struct link *const link = slot != MESH_NONE ? links_find(step->mesh, slot) : NULL;
    const bool tree = link && link->protocol >= MESH_PROTOCOL_TREES;
    struct mesh_message *const message = out_send(step, peer, tree ? MESH_SPREAD : MESH_PUSH);
    message->body.push.record = *record;
    message->body.push.hops = tree;
}

void gossip_linked(struct step *step, const struct mesh_id *peer)
{
    struct mesh *const mesh = step->mesh;
    const struct member *const self = &mesh->members.slot[mesh->members.self];
    if (self->record.handle != 0) {
        const struct mesh_record record = members_record(self);
        send_own(step, peer, &record);
    }
    if (self->capacity.handle != 0) {
        const struct mesh_record capacity = members_capacity(mesh, mesh->members.self);
        send_own(step, peer, &capacity);
    }
    rounds_summarize(step, peer);
}

void gossip_check(const struct mesh *mesh)
{
    assert(mesh->gossip.revocation_count <= mesh->gossip.revocation_capacity);
}
