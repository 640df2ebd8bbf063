#include "mesh/internal.h"

void tiers_init(struct mesh *mesh)
{
    mesh->tiers.introduce_at_ms = mesh->now_ms + MESH_SETTLE_MS;
}

/* ------------------------------------------------------------------ who is where */

static bool is_near(const struct mesh *mesh, uint32_t slot)
{
    return mesh->members.slot[slot].record.site == mesh->config.site;
}

static bool self_interior(const struct mesh *mesh)
{
    return mesh->members.slot[mesh->members.self].interior;
}

/* Our site's interior relies on us. */
static bool self_reports(const struct mesh *mesh)
{
    return mesh->tiers.split && !self_interior(mesh);
}

uint8_t tiers_of(const struct mesh *mesh, uint32_t slot)
{
    uint8_t tiers = 0;
    if (!mesh->members.slot[slot].interior && !self_interior(mesh))
        tiers |= TIER_BIT(TIER_UPPER);
    if (mesh->tiers.ringed && is_near(mesh, slot))
        tiers |= TIER_BIT(TIER_SITE);
    return tiers;
}

bool tiers_guest(const struct mesh *mesh, uint32_t slot)
{
    return !is_near(mesh, slot) && (mesh->members.slot[slot].interior || self_interior(mesh));
}

uint32_t tiers_watched_in(const struct mesh *mesh, uint32_t slot)
{
    return mesh->tiers.split && is_near(mesh, slot) ? TIER_SITE : TIER_UPPER;
}

uint32_t tiers_shared(const struct mesh *mesh, uint32_t peer)
{
    const bool upper = !self_interior(mesh);
    if (peer == MESH_NONE)
        return upper ? TIER_UPPER : TIERS;
    if (mesh->tiers.split && is_near(mesh, peer))
        return TIER_SITE;
    return upper && !mesh->members.slot[peer].interior ? TIER_UPPER : TIERS;
}

bool tiers_owns(const struct mesh *mesh, uint32_t slot)
{
    return self_interior(mesh) ? is_near(mesh, slot) : !mesh->members.slot[slot].interior;
}

/* Whether what (site, interior) says is for the peer. */
static bool concerns(const struct member *peer, uint64_t site, bool interior)
{
    return peer->record.site == site || (!peer->interior && !interior);
}

bool tiers_concerns(const struct mesh *mesh, uint32_t peer, uint32_t origin)
{
    const struct member *const of = &mesh->members.slot[origin];
    return concerns(&mesh->members.slot[peer], of->record.site, of->interior);
}

bool tiers_record_concerns(const struct mesh *mesh, uint32_t peer, const struct mesh_record *record)
{
    if (record->kind == MESH_RECORD_REVOCATION)
        return true;
    if (record->kind == MESH_RECORD_MEMBER)
        return concerns(&mesh->members.slot[peer], record->body.member.site, record->body.member.interior);
    const uint32_t origin = members_find(mesh, &record->origin);
    if (origin == MESH_NONE || !tiers_concerns(mesh, peer, origin))
        return false;
    if (record->kind != MESH_RECORD_ALERT)
        return true;
    const uint32_t subject = members_find(mesh, &record->body.alert.subject);
    return subject != MESH_NONE && tiers_concerns(mesh, peer, subject);
}

void tiers_count(struct mesh *mesh, uint32_t slot, int change)
{
    struct tiers *const tiers = &mesh->tiers;
    if (!is_near(mesh, slot))
        return;
    tiers->near_live += (uint32_t)change;
    if (mesh->members.slot[slot].interior)
        tiers->near_interior += (uint32_t)change;
    tiers->dirty = true;
}

/* Members of the upper tier in other sites. */
static uint32_t far_members(const struct mesh *mesh)
{
    if (self_interior(mesh))
        return 0;
    return mesh->overlay.count[TIER_UPPER] - (mesh->tiers.near_live - mesh->tiers.near_interior);
}

/* ------------------------------------------------------------------------ guests */

static bool holds_work(const struct mesh *mesh, uint32_t slot)
{
    return mesh->home.member[slot].bundles.count > 0 || mesh->executor.home[slot].attempts.count > 0;
}

static void forget_guest(struct step *step, uint32_t slot)
{
    placement_forget(step, slot);
    executor_member_gone(step, slot);
    step->mesh->home.member[slot] = (struct home_member){0};
    members_remove(step, slot);
}

/* Returns whether there is room for one more; O(n). */
static bool make_room(struct step *step)
{
    const struct mesh *const mesh = step->mesh;
    uint32_t oldest = MESH_NONE;
    uint32_t guests = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const struct member *const member = &mesh->members.slot[slot];
        if (member->state == 0 || !members_live(mesh, slot) || !tiers_guest(mesh, slot))
            continue;
        guests++;
        if (!holds_work(mesh, slot) &&
            (oldest == MESH_NONE || member->state_at_ms < mesh->members.slot[oldest].state_at_ms))
            oldest = slot;
    }
    if (guests < MESH_GUESTS_MAX)
        return true;
    if (oldest == MESH_NONE || !out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 2, MESH_OUT_EFFECTS_MAX / 2))
        return false;
    forget_guest(step, oldest);
    return true;
}

bool tiers_welcomes(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    const struct mesh *const mesh = step->mesh;
    const bool contact = !record->body.member.interior;
    if (record->body.member.site == mesh->config.site || (contact && !self_interior(mesh)))
        return true;
    if (record->body.member.leaving)
        return false;
    const uint32_t by = members_find(mesh, from);
    /* What our disk knows of it is kept for a while, too: others may tell of the time before. */
    const bool introduced = id_equal(from, &record->origin) || id_equal(from, &mesh->config.self);
    const bool told = contact && by != MESH_NONE && is_near(mesh, by);
    return (introduced || told || step->now_ms < mesh->tiers.sought_until_ms) && make_room(step);
}

void tiers_sweep(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        struct member *const member = &mesh->members.slot[slot];
        if (member->state == 0 || !members_live(mesh, slot) || !tiers_guest(mesh, slot) ||
            holds_work(mesh, slot))
            continue;
        if (!out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 2, MESH_OUT_EFFECTS_MAX / 2))
            return;
        if (step->now_ms - member->state_at_ms >= MESH_GUEST_MS)
            forget_guest(step, slot);
        else if (member->has_capacity && step->now_ms - member->capacity.at_ms >= MESH_SWEEP_MS)
            members_forget_capacity(step, slot);
    }
}

/* ---------------------------------------------------------------- telling others */

static void push(struct step *step, const struct mesh_id *to, uint32_t slot)
{
    const struct member *const member = &step->mesh->members.slot[slot];
    if (member->record.handle != 0)
        out_send(step, to, MESH_PUSH)->body.push.record = members_record(member);
}

void tiers_left_upper(struct step *step, const struct mesh_id *from, uint32_t slot)
{
    const struct mesh *const mesh = step->mesh;
    const struct member *const member = &mesh->members.slot[slot];
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        const struct member *const peer = &mesh->members.slot[link->member];
        if (link->up && !peer->interior && peer->record.site != member->record.site &&
            !id_equal(&peer->id, from))
            push(step, &peer->id, slot);
    }
}

void tiers_pass_on(struct step *step, const struct mesh_id *from, uint32_t slot)
{
    const struct mesh *const mesh = step->mesh;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        const struct member *const peer = &mesh->members.slot[link->member];
        if (link->up && peer->interior && is_near(mesh, link->member) && !id_equal(&peer->id, from))
            push(step, &peer->id, slot);
    }
}

/* Our site is told of one more member of the upper tier, in case all its reporters are lost at once. */
static void introduce(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    if (!self_reports(mesh) || far_members(mesh) == 0)
        return;
    if (step->now_ms < mesh->tiers.introduce_at_ms) {
        out_wake(step, mesh->tiers.introduce_at_ms);
        return;
    }
    mesh->tiers.introduce_at_ms = step->now_ms + MESH_INTRODUCE_MS;
    const uint32_t count = mesh->overlay.count[TIER_UPPER];
    const uint32_t first = random_below(&mesh->random, count);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t slot = mesh->overlay.ring[TIER_UPPER][0][(first + i) % count];
        if (!is_near(mesh, slot) && mesh->members.slot[slot].state == MESH_UP) {
            tiers_pass_on(step, &mesh->members.slot[slot].id, slot);
            return;
        }
    }
}

static void ask_any(struct step *step, uint32_t to, const struct mesh_entry *entry)
{
    struct mesh_message *const want = out_send(step, &step->mesh->members.slot[to].id, MESH_WANT);
    want->body.entries.count = 1;
    want->body.entries.entry[0] = *entry;
    step->mesh->tiers.sought_until_ms = step->now_ms + MESH_SOUGHT_MS;
}

/* Who stands in the upper tier and knows nobody there asks whom it does know. */
static void seek_contacts(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    const bool lost = mesh->tiers.split || mesh->links.count == 0;
    if (!lost || self_interior(mesh) || mesh->members.count == 1 || far_members(mesh) > 0)
        return;
    if (step->now_ms < mesh->tiers.contact_at_ms) {
        out_wake(step, mesh->tiers.contact_at_ms);
        return;
    }
    mesh->tiers.contact_at_ms = step->now_ms + MESH_CONTACT_MS;
    out_wake(step, mesh->tiers.contact_at_ms);
    const uint32_t place = random_below(&mesh->random, mesh->members.count);
    const uint32_t slot = mesh->links.count > 0
                              ? mesh->links.link[random_below(&mesh->random, mesh->links.count)].member
                              : mesh->members.sorted[place];
    if (slot != mesh->members.self && members_live(mesh, slot))
        ask_any(step, slot, &(struct mesh_entry){.kind = MESH_RECORD_MEMBER});
}

/* -------------------------------------------------------------- places elsewhere */

static uint32_t free_places(const struct mesh *mesh, uint32_t slot, uint64_t classes)
{
    const struct member *const member = &mesh->members.slot[slot];
    uint32_t places = 0;
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        if (classes >> index & 1)
            places += member->capacity.class[index].free;
    }
    return member->has_capacity ? places : 0;
}

static uint32_t free_behind(const struct mesh *mesh, uint32_t slot, uint64_t classes)
{
    uint32_t places = 0;
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        if (classes >> index & 1)
            places += members_notes(&mesh->members, slot)->behind.free[index];
    }
    return places;
}

/*
 * Names members that could help, from a random one on, so that not all homes are sent to the same ones: to homes of our own
 * site those of others, to all others our own.
 */
static void refer_places(struct step *step, const struct mesh_id *to, bool near, uint64_t classes,
                         uint64_t wanted)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t count = mesh->members.count;
    const uint32_t first = random_below(&mesh->random, count);
    uint64_t places = 0;
    uint32_t named = 0;
    for (uint32_t i = 0; i < count && named < MESH_REFERRED_MAX && places < wanted; i++) {
        const uint32_t slot = mesh->members.sorted[(first + i) % count];
        const struct member *const member = &mesh->members.slot[slot];
        if (slot == mesh->members.self || is_near(mesh, slot) == near || !members_takes_work(mesh, slot) ||
            id_equal(&member->id, to))
            continue;
        const uint32_t free =
            free_places(mesh, slot, classes) + (near ? free_behind(mesh, slot, classes) : 0);
        if (free == 0)
            continue;
        places += free;
        named++;
        push(step, to, slot);
        out_send(step, to, MESH_PUSH)->body.push.record = members_capacity(mesh, slot);
        mesh->counters.referrals++;
    }
}

static void refer_contacts(struct step *step, const struct mesh_id *to)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t count = mesh->members.count;
    const uint32_t first = random_below(&mesh->random, count);
    uint32_t named = 0;
    for (uint32_t i = 0; i < count && named < MESH_REFERRED_MAX; i++) {
        const uint32_t slot = mesh->members.sorted[(first + i) % count];
        const struct member *const member = &mesh->members.slot[slot];
        if (member->state != MESH_UP || member->interior || id_equal(&member->id, to))
            continue;
        push(step, to, slot);
        named++;
    }
}

void tiers_wanted(struct step *step, const struct mesh_id *from, const struct mesh_entry *entry)
{
    const uint32_t by = members_find(step->mesh, from);
    if (!out_has_room(step->out, 0, 2 * MESH_REFERRED_MAX, 0))
        return;
    if (entry->kind == MESH_RECORD_MEMBER)
        refer_contacts(step, from);
    else if (entry->kind == MESH_RECORD_CAPACITY)
        refer_places(step, from, by != MESH_NONE && is_near(step->mesh, by), entry->incarnation,
                     entry->version);
}

void tiers_seek(struct step *step, uint16_t classes, uint32_t wanted)
{
    struct mesh *const mesh = step->mesh;
    if (step->now_ms < mesh->tiers.seek_at_ms || !out_has_room(step->out, 0, 1, 0))
        return;
    mesh->tiers.seek_at_ms = step->now_ms + MESH_SEEK_MS;
    const bool interior = self_interior(mesh);
    uint32_t chosen = MESH_NONE;
    uint32_t reporter = MESH_NONE;
    uint32_t sites = 0;
    uint32_t reporters = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const struct member *const member = &mesh->members.slot[slot];
        if (member->state != MESH_UP || slot == mesh->members.self || member->interior)
            continue;
        if (is_near(mesh, slot)) {
            if (interior && random_below(&mesh->random, ++reporters) == 0)
                reporter = slot;
        } else if (free_behind(mesh, slot, classes) > 0 && random_below(&mesh->random, ++sites) == 0) {
            chosen = slot;
        }
    }
    /* Of the sites that we know of we ask one again, but now and then look for others. */
    if (chosen == MESH_NONE || (reporter != MESH_NONE && random_below(&mesh->random, 4) == 0))
        chosen = reporter;
    if (chosen == MESH_NONE)
        return;
    ask_any(step, chosen,
            &(struct mesh_entry){.kind = MESH_RECORD_CAPACITY, .incarnation = classes, .version = wanted});
    mesh->counters.seeks++;
}

void tiers_digest(const struct mesh *mesh, struct mesh_capacity *capacity)
{
    if (!self_reports(mesh))
        return;
    for (uint32_t i = 0; i < mesh->overlay.count[TIER_SITE]; i++) {
        const uint32_t slot = mesh->overlay.ring[TIER_SITE][0][i];
        const struct member *const member = &mesh->members.slot[slot];
        if (!member->interior)
            continue;
        capacity->site.members++;
        if (!members_takes_work(mesh, slot) || !member->has_capacity)
            continue;
        for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
            capacity->site.slots[index] += member->capacity.class[index].slots;
            capacity->site.free[index] += member->capacity.class[index].free;
        }
    }
}

void tiers_capacity(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    if (self_reports(mesh) && mesh->members.slot[slot].interior && is_near(mesh, slot))
        mesh->tiers.digest_due = true;
}

static void tick_digest(struct step *step)
{
    struct tiers *const tiers = &step->mesh->tiers;
    if (!tiers->digest_due)
        return;
    if (step->now_ms < tiers->digest_at_ms + MESH_DIGEST_MS) {
        out_wake(step, tiers->digest_at_ms + MESH_DIGEST_MS);
        return;
    }
    tiers->digest_due = false;
    tiers->digest_at_ms = step->now_ms;
    gossip_capacity_changed(step);
    out_wake(step, step->now_ms);
}

/* ---------------------------------------------------------------------- deciding */

void tiers_rebuild(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct tiers *const tiers = &mesh->tiers;
    tiers->split = tiers->near_interior > 0;
    tiers->ringed = tiers->split || tiers->near_live >= MESH_SITE_MERGE;
    tiers->near_live = tiers->near_interior = 0;
    memset(mesh->overlay.count, 0, sizeof mesh->overlay.count);
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        if (mesh->members.slot[slot].state == 0)
            continue;
        mesh->members.slot[slot].rings = 0;
        if (members_live(mesh, slot))
            overlay_insert(mesh, slot);
        rounds_list(mesh, slot);
    }
    mesh->links.stale = true;
    detector_judge_all(mesh);
}

static void say(struct step *step, bool interior)
{
    struct mesh *const mesh = step->mesh;
    mesh->tiers.interior = interior;
    mesh->tiers.settled_at_ms = 0;
    if (mesh->booted)
        gossip_announce(step);
}

/* Who is needed says so at once, who is not takes its time; before the first word there is nothing to settle. */
static void decide(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct tiers *const tiers = &mesh->tiers;
    const bool large = tiers->near_live >= (tiers->split ? MESH_SITE_MERGE : MESH_SITE_SPLIT + 1);
    const bool interior = large && !overlay_reports(mesh, mesh->members.self);
    if (interior == tiers->interior) {
        tiers->settled_at_ms = 0;
        return;
    }
    if (!interior || !mesh->booted) {
        say(step, interior);
        return;
    }
    if (tiers->settled_at_ms == 0)
        tiers->settled_at_ms = step->now_ms;
    if (step->now_ms >= tiers->settled_at_ms + MESH_SETTLE_MS)
        say(step, interior);
    else
        out_wake(step, tiers->settled_at_ms + MESH_SETTLE_MS);
}

void tiers_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct tiers *const tiers = &mesh->tiers;
    if (tiers->dirty) {
        const bool split = tiers->near_interior > 0;
        if (split != tiers->split || (split || tiers->near_live >= MESH_SITE_MERGE) != tiers->ringed)
            tiers_rebuild(step);
        tiers->dirty = false;
        decide(step);
    } else if (tiers->settled_at_ms != 0) {
        decide(step);
    }
    seek_contacts(step);
    introduce(step);
    tick_digest(step);
}

void tiers_check(const struct mesh *mesh)
{
    uint32_t live = 0;
    uint32_t interior = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        if (mesh->members.slot[slot].state == 0 || !members_live(mesh, slot) || !is_near(mesh, slot))
            continue;
        live++;
        interior += mesh->members.slot[slot].interior;
    }
    assert(live == mesh->tiers.near_live && interior == mesh->tiers.near_interior);
    assert(mesh->tiers.dirty || mesh->tiers.split == (interior > 0));
}
