#include "mesh/internal.h"

/* The packed tables start with room for so many members. */
#define ROOM_LEAST 8u

/*
 * What the packed tables have of each member; the rings' and the trees' are among them. For `room` members each table stands
 * behind `room` times what is before it here. All are filled from the front and never looked at beyond that.
 */
struct packed_row {
    uint32_t place[2];
    uint32_t sorted;
    uint32_t owing;
    uint32_t telling;
    uint32_t ring[TIERS][MESH_RINGS];
};

void members_layout(struct members *members, const struct mesh_limits *limits, struct carve *from)
{
    members->capacity = limits->members;
    members->slot = carve(from, limits->members, sizeof *members->slot);
    uint32_t room = ROOM_LEAST;
    while (room < limits->members)
        room *= 2;
    members->packed = carve(from, room, sizeof(struct packed_row));
    members->notes = carve(from, (size_t)limits->members + 1, sizeof *members->notes);
}

/* Moves a table to where it stands now. */
static void *move_rows(const struct members *members, size_t before, const void *rows, size_t bytes)
{
    unsigned char *const at = members->packed + members->room * before;
    return bytes > 0 ? memmove(at, rows, bytes) : at;
}

/* Packs the tables for so many members; the last one first, since all move towards the end. The places are left empty. */
static void widen(struct mesh *mesh, uint32_t room)
{
    struct members *const members = &mesh->members;
    struct overlay *const overlay = &mesh->overlay;
    struct tree *const tree = &mesh->tree;
    members->room = room;
    for (uint32_t i = TIERS * MESH_RINGS; i-- > 0;) {
        uint32_t **const ring = &overlay->ring[i / MESH_RINGS][i % MESH_RINGS];
        *ring = move_rows(members, offsetof(struct packed_row, ring) + i * sizeof **ring, *ring,
                          overlay->count[i / MESH_RINGS] * sizeof **ring);
    }
    tree->telling = move_rows(members, offsetof(struct packed_row, telling), tree->telling,
                              tree->telling_count * sizeof *tree->telling);
    tree->owing = move_rows(members, offsetof(struct packed_row, owing), tree->owing,
                            tree->owing_count * sizeof *tree->owing);
    members->sorted = move_rows(members, offsetof(struct packed_row, sorted), members->sorted,
                                members->count * sizeof *members->sorted);
    members->place = memset(members->packed, 0, 2 * room * sizeof *members->place);
}

/* ----------------------------------------------------------------- by id */

/* A place holds a member's slot + 1 and, above it, a tag: so a search looks at hardly any member but the one it is for. */
#define PLACE_SLOT 0x3fffu
static_assert(MESH_MEMBERS_MAX <= PLACE_SLOT, "a place has room for every slot");
static_assert(MESH_MEMBERS_MAX < UINT16_MAX, "and member.notes and member.accused for every index");

/*
 * Mixes the first bytes of an id, which is all that a word tells of it. Ids are keys, chosen by whom they name: the seed keeps
 * them from crowding.
 */
static uint64_t place_mix(const struct mesh *mesh, uint64_t prefix)
{
    uint64_t mixed = (mesh->config.seed[0] ^ prefix) * 0x9e3779b97f4a7c15u;
    return (mixed ^ mixed >> 32) * 0x9e3779b97f4a7c15u;
}

/* Where the search begins. */
static uint32_t place_home(const struct mesh *mesh, uint64_t mixed)
{
    return (uint32_t)(mixed >> 32) & (2 * mesh->members.room - 1);
}

static uint32_t place_tag(uint64_t mixed)
{
    return (uint32_t)mixed & ~PLACE_SLOT;
}

static uint32_t place_slot(uint32_t place)
{
    return (place & PLACE_SLOT) - 1;
}

/* Its place in the table, or the empty one where it would go. */
static uint32_t place_find(const struct mesh *mesh, const struct mesh_id *id)
{
    const struct members *const members = &mesh->members;
    const uint64_t mixed = place_mix(mesh, members_prefix(id));
    uint32_t at = place_home(mesh, mixed);
    for (uint32_t place; (place = members->place[at]) != 0; at = (at + 1) & (2 * members->room - 1)) {
        if ((place & ~PLACE_SLOT) == place_tag(mixed) && id_equal(&members->slot[place_slot(place)].id, id))
            break;
    }
    return at;
}

static void place_set(struct mesh *mesh, uint32_t slot)
{
    struct members *const members = &mesh->members;
    const struct mesh_id *const id = &members->slot[slot].id;
    members->place[place_find(mesh, id)] = place_tag(place_mix(mesh, members_prefix(id))) | (slot + 1);
}

static void make_room(struct mesh *mesh)
{
    const struct members *const members = &mesh->members;
    widen(mesh, 2 * members->room);
    for (uint32_t slot = 0; slot < members->used; slot++) {
        if (members->slot[slot].state != 0)
            place_set(mesh, slot);
    }
}

/* Later entries of the run move up, so that no search ends too early. */
static void place_remove(struct mesh *mesh, const struct mesh_id *id)
{
    struct members *const members = &mesh->members;
    const uint32_t mask = 2 * members->room - 1;
    uint32_t hole = place_find(mesh, id);
    assert(members->place[hole] != 0);
    for (uint32_t at = (hole + 1) & mask; members->place[at] != 0; at = (at + 1) & mask) {
        const struct mesh_id *const other = &members->slot[place_slot(members->place[at])].id;
        const uint32_t home = place_home(mesh, place_mix(mesh, members_prefix(other)));
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            members->place[hole] = members->place[at];
            hole = at;
        }
    }
    members->place[hole] = 0;
}

uint32_t members_find(const struct mesh *mesh, const struct mesh_id *id)
{
    return place_slot(mesh->members.place[place_find(mesh, id)]);
}

/* ----------------------------------------------------------------- notes */

struct member_notes *members_edit_notes(struct mesh *mesh, uint32_t slot)
{
    struct members *const members = &mesh->members;
    struct member *const member = &members->slot[slot];
    if (member->notes == 0) {
        member->notes = (uint16_t)members->notes_count++;
        members->notes[member->notes].member = slot;
    }
    return &members->notes[member->notes];
}

/* The last ones take their place. */
static void drop_notes(struct members *members, uint32_t slot)
{
    const uint16_t at = members->slot[slot].notes;
    if (at == 0)
        return;
    struct member_notes *const last = &members->notes[--members->notes_count];
    members->slot[last->member].notes = at;
    members->notes[at] = *last;
    *last = (struct member_notes){0};
}

/* --------------------------------------------------------------- records */

struct mesh_record members_record(const struct member *member)
{
    return (struct mesh_record){
        .kind = MESH_RECORD_MEMBER,
        .origin = member->id,
        .incarnation = member->record.incarnation,
        .version = member->record.version,
        .handle = member->record.handle,
        .body.member = {.session = member->record.session,
                        .site = member->record.site,
                        .region = member->record.region,
                        .leaving = member->leaving,
                        .interior = member->interior},
    };
}

struct mesh_capacity members_offer(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    const struct member_notes *const notes = members_notes(&mesh->members, slot);
    const struct member_capacity *const kept = &member->capacity;
    struct mesh_capacity offer = {
        .price_micro = kept->price_micro,
        .draining = member->draining,
        .fault = member->fault,
        .no_users = member->no_users,
    };
    memcpy(offer.class, kept->class, sizeof offer.class);
    if (!member->more)
        return offer;
    offer.available_until_ms = notes->available_until_ms;
    offer.site = notes->behind;
    offer.resident_count = notes->resident_count;
    memcpy(offer.resident, notes->resident, sizeof offer.resident);
    return offer;
}

struct mesh_record members_capacity(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    return (struct mesh_record){
        .kind = MESH_RECORD_CAPACITY,
        .origin = member->id,
        .incarnation = member->capacity.incarnation,
        .version = member->capacity.version,
        .handle = member->capacity.handle,
        .body.capacity = members_offer(mesh, slot),
    };
}

static void set_record(struct member *member, const struct mesh_record *record)
{
    member->record = (struct member_record){
        .incarnation = record->incarnation,
        .version = record->version,
        .handle = record->handle,
        .session = record->body.member.session,
        .site = record->body.member.site,
        .region = record->body.member.region,
    };
    member->leaving = record->body.member.leaving;
    member->interior = record->body.member.interior;
}

void members_keep_record(struct step *step, uint32_t slot, const struct mesh_record *record)
{
    struct member *const member = &step->mesh->members.slot[slot];
    out_drop(step, member->record.handle);
    set_record(member, record);
}

/* Most members have none of it. */
static void keep_more(struct mesh *mesh, uint32_t slot, const struct mesh_capacity *offer)
{
    static const struct mesh_site_capacity nothing;
    struct member *const member = &mesh->members.slot[slot];
    const bool some = offer->available_until_ms != 0 || offer->resident_count > 0 ||
                      memcmp(&offer->site, &nothing, sizeof nothing) != 0;
    if (some || member->more) {
        struct member_notes *const notes = members_edit_notes(mesh, slot);
        notes->available_until_ms = offer->available_until_ms;
        notes->behind = offer->site;
        notes->resident_count = offer->resident_count;
        memcpy(notes->resident, offer->resident, sizeof notes->resident);
    }
    member->more = some;
}

void members_keep_capacity(struct step *step, uint32_t slot, const struct mesh_record *record)
{
    const struct mesh_capacity *const offer = &record->body.capacity;
    struct member *const member = &step->mesh->members.slot[slot];
    out_drop(step, member->capacity.handle);
    member->has_capacity = true;
    member->capacity = (struct member_capacity){
        .incarnation = record->incarnation,
        .version = record->version,
        .handle = record->handle,
        .at_ms = step->now_ms,
        .price_micro = offer->price_micro,
    };
    member->draining = offer->draining;
    member->fault = offer->fault;
    member->no_users = offer->no_users;
    memcpy(member->capacity.class, offer->class, sizeof offer->class);
    keep_more(step->mesh, slot, offer);
}

void members_forget_capacity(struct step *step, uint32_t slot)
{
    struct member *const member = &step->mesh->members.slot[slot];
    out_drop(step, member->capacity.handle);
    member->capacity = (struct member_capacity){0};
    member->has_capacity = member->draining = false;
    member->fault = 0;
    member->no_users = 0;
    keep_more(step->mesh, slot, &(struct mesh_capacity){0});
}

/* ----------------------------------------------------------------- table */

static void fill(struct mesh *mesh, uint32_t slot, const struct mesh_record *record)
{
    struct member *const member = &mesh->members.slot[slot];
    *member = (struct member){
        .id = record->origin,
        .state_at_ms = mesh->now_ms,
        .up_since_ms = mesh->now_ms,
    };
    set_record(member, record);
    place_set(mesh, slot);
    overlay_place(mesh, slot);
    verify_member_added(mesh, slot);
}

void members_init(struct mesh *mesh)
{
    struct members *const members = &mesh->members;
    const struct mesh_record own = {
        .kind = MESH_RECORD_MEMBER,
        .origin = mesh->config.self,
        .incarnation = mesh->config.incarnation,
        .body.member = {.session = mesh->config.session,
                        .site = mesh->config.site,
                        .region = mesh->config.region},
    };
    widen(mesh, ROOM_LEAST);
    members->count = members->used = members->notes_count = 1; /* ourselves, in slot 0 */
    fill(mesh, 0, &own);
    members->slot[0].state = MESH_UP;
    overlay_insert(mesh, 0);
}

/* The place in `sorted` of an id, or where it would have to stand. */
static uint32_t sorted_place(const struct members *members, const struct mesh_id *id)
{
    uint32_t low = 0;
    uint32_t high = members->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (id_compare(&members->slot[members->sorted[middle]].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t members_find_prefix(const struct mesh *mesh, uint64_t prefix)
{
    const struct members *const members = &mesh->members;
    const uint64_t mixed = place_mix(mesh, prefix);
    uint32_t at = place_home(mesh, mixed);
    for (uint32_t place; (place = members->place[at]) != 0; at = (at + 1) & (2 * members->room - 1)) {
        if ((place & ~PLACE_SLOT) == place_tag(mixed) &&
            members_prefix(&members->slot[place_slot(place)].id) == prefix)
            break;
    }
    return place_slot(members->place[at]);
}

bool members_live(const struct mesh *mesh, uint32_t slot)
{
    const enum mesh_member_state state = mesh->members.slot[slot].state;
    return state == MESH_UP || state == MESH_SUSPECT;
}

bool members_takes_work(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state != MESH_UP)
        return false;
    if (slot == mesh->members.self)
        return !mesh->draining && !mesh->leaving;
    return !member->has_capacity || !member->draining;
}

/* The revoked member that has been so for longest. */
static uint32_t find_revoked(const struct mesh *mesh)
{
    uint32_t oldest = MESH_NONE;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const struct member *const member = &mesh->members.slot[slot];
        if (member->state == MESH_REVOKED && gossip_revoked(mesh, &member->id) &&
            (oldest == MESH_NONE || member->state_at_ms < mesh->members.slot[oldest].state_at_ms))
            oldest = slot;
    }
    return oldest;
}

bool members_have_room(const struct mesh *mesh)
{
    return mesh->members.count < mesh->members.capacity || find_revoked(mesh) != MESH_NONE;
}

static uint32_t find_free(struct members *members)
{
    for (uint32_t slot = 0; slot < members->used && members->count < members->used; slot++) {
        if (members->slot[slot].state == 0)
            return slot;
    }
    return members->used++;
}

uint32_t members_add(struct step *step, const struct mesh_record *record)
{
    struct members *const members = &step->mesh->members;
    if (members->count == members->capacity) {
        const uint32_t revoked = find_revoked(step->mesh);
        if (revoked == MESH_NONE)
            return MESH_NONE;
        members_remove(step, revoked);
    }
    if (members->count == members->room)
        make_room(step->mesh);
    const uint32_t slot = find_free(members);
    const uint32_t place = sorted_place(members, &record->origin);
    memmove(&members->sorted[place + 1], &members->sorted[place],
            (members->count - place) * sizeof *members->sorted);
    members->sorted[place] = slot;
    members->count++;
    fill(step->mesh, slot, record);
    return slot;
}

void members_remove(struct step *step, uint32_t slot)
{
    struct members *const members = &step->mesh->members;
    struct member *const member = &members->slot[slot];
    assert(slot != members->self && (!members_live(step->mesh, slot) || tiers_guest(step->mesh, slot)));
    if (members_live(step->mesh, slot))
        overlay_remove(step->mesh, slot);
    detector_forget(step->mesh, slot);
    tree_forget(step->mesh, slot);
    echo_forget(step->mesh, slot);
    verify_member_removed(step->mesh, slot);
    out_drop(step, member->record.handle);
    out_drop(step, member->capacity.handle);
    const uint32_t place = sorted_place(members, &member->id);
    members->count--;
    memmove(&members->sorted[place], &members->sorted[place + 1],
            (members->count - place) * sizeof *members->sorted);
    place_remove(step->mesh, &member->id);
    member->state = 0;
    rounds_list(step->mesh, slot);
    drop_notes(members, slot);
    memset(member, 0, sizeof *member);
}

static void count_transition(struct mesh *mesh, enum mesh_member_state old, enum mesh_member_state state)
{
    if (state == MESH_SUSPECT)
        mesh->counters.suspects++;
    else if (state == MESH_DOWN)
        mesh->counters.downs++;
    else if (state == MESH_UP && old == MESH_DOWN)
        mesh->counters.resurrections++;
}

void members_set_state(struct step *step, uint32_t slot, enum mesh_member_state state)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[slot];
    const enum mesh_member_state old = member->state;
    const bool was_live = members_live(mesh, slot);
    assert(slot != mesh->members.self && old != state && old != MESH_REVOKED);

    count_transition(mesh, old, state);
    struct mesh_effect *const effect = out_effect(step, MESH_MEMBER);
    effect->body.member.id = member->id;
    effect->body.member.state = state;
    effect->body.member.incarnation = member->record.incarnation;
    effect->body.member.accusers = detector_accusers(mesh, slot);

    member->state = (uint8_t)state;
    member->state_at_ms = step->now_ms;
    const bool live = members_live(mesh, slot);
    if (live && !was_live) {
        member->up_since_ms = step->now_ms;
        overlay_insert(mesh, slot);
    } else if (was_live && !live) {
        overlay_remove(mesh, slot);
    }
    if (!live || !was_live)
        detector_clear(mesh, slot);
    if (live != was_live)
        mesh->links.stale = true;
    detector_judge_around(mesh, slot);
    rounds_list(mesh, slot);

    if (was_live && !live) {
        home_member_down(step, slot);
        journal_member_down(step, slot);
    }
    if (state == MESH_REVOKED)
        executor_member_gone(step, slot);
    if (live && !was_live && member->has_capacity)
        home_member_capacity(step, slot);
}

void members_check(const struct mesh *mesh)
{
    const struct members *const members = &mesh->members;
    uint32_t in_use = 0;
    for (uint32_t slot = 0; slot < members->used; slot++)
        in_use += members->slot[slot].state != 0;
    assert(in_use == members->count && members->count <= members->capacity);
    assert(members->used <= members->capacity);
    assert(members->count <= members->room && members->notes[0].member == 0);
    for (uint32_t i = 1; i < members->notes_count; i++)
        assert(members->slot[members->notes[i].member].notes == i);
    for (uint32_t i = 0; i < members->count; i++) {
        const struct member *const member = &members->slot[members->sorted[i]];
        assert(member->state >= MESH_UP && member->state <= MESH_REVOKED);
        assert(i == 0 || id_compare(&members->slot[members->sorted[i - 1]].id, &member->id) < 0);
        assert(members_find(mesh, &member->id) == members->sorted[i]);
        assert(!member->has_capacity || gossip_of_process(member->capacity.version, member->record.session));
    }
    assert(members->slot[members->self].state == MESH_UP);
    assert(id_equal(&members->slot[members->self].id, &mesh->config.self));
}
