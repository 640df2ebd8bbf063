#include "mesh/internal.h"

/* Reads as "rings"; the same on every node. */
#define RINGS_KEY 0x73676e6972u
/* The ring whose first order is the region. */
#define REGION_RING (MESH_RINGS - 1)

static uint32_t ring_hash(uint32_t ring, const struct mesh_id *id)
{
    return (uint32_t)(mesh_hash(RINGS_KEY, ring, id->bytes, sizeof id->bytes) >> 32);
}

void overlay_place(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    mesh->overlay.changes++;
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++)
        member->ring_hash[ring] = ring_hash(ring, &member->id);
}

bool mesh_reports_before(const struct mesh_id *one, const struct mesh_id *other)
{
    const uint32_t a = ring_hash(0, one);
    const uint32_t b = ring_hash(0, other);
    return a != b ? a > b : id_compare(one, other) > 0;
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int ring_compare(const struct mesh *mesh, uint32_t ring, uint32_t a, uint32_t b)
{
    const struct member *const left = &mesh->members.slot[a];
    const struct member *const right = &mesh->members.slot[b];
    int order = 0;
    if (ring == REGION_RING)
        order = compare(left->record.region, right->record.region);
    if (order == 0)
        order = compare(left->ring_hash[ring], right->ring_hash[ring]);
    return order != 0 ? order : id_compare(&left->id, &right->id);
}

static uint32_t ring_place(const struct mesh *mesh, uint32_t tier, uint32_t ring, uint32_t slot)
{
    const uint32_t *const order = mesh->overlay.ring[tier][ring];
    uint32_t low = 0;
    uint32_t high = mesh->overlay.count[tier];
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (ring_compare(mesh, ring, order[middle], slot) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void ring_insert(struct mesh *mesh, uint32_t tier, uint32_t slot)
{
    const uint32_t count = mesh->overlay.count[tier];
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        const uint32_t place = ring_place(mesh, tier, ring, slot);
        uint32_t *const at = mesh->overlay.ring[tier][ring] + place;
        memmove(at + 1, at, (count - place) * sizeof *at);
        *at = slot;
    }
    mesh->overlay.count[tier]++;
}

static void ring_remove(struct mesh *mesh, uint32_t tier, uint32_t slot)
{
    const uint32_t count = mesh->overlay.count[tier];
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        const uint32_t place = ring_place(mesh, tier, ring, slot);
        uint32_t *const at = mesh->overlay.ring[tier][ring] + place;
        assert(place < count && *at == slot);
        memmove(at, at + 1, (count - 1 - place) * sizeof *at);
    }
    mesh->overlay.count[tier]--;
}

/* Who stands beside a member on a ring has other observers without it; where all see all, or nearly, everybody has. */
static void observers_changed(struct mesh *mesh, uint32_t slot)
{
    mesh->overlay.changes++;
    bool all = false;
    for (uint32_t tier = 0; tier < TIERS; tier++)
        all |=
            (mesh->members.slot[slot].rings >> tier & 1) && mesh->overlay.count[tier] <= MESH_FULL_MESH + 1;
    if (all)
        detector_judge_all(mesh);
    else
        detector_judge_around(mesh, slot);
}

void overlay_insert(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    tiers_count(mesh, slot, 1);
    member->rings = tiers_of(mesh, slot);
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        if (member->rings & TIER_BIT(tier))
            ring_insert(mesh, tier, slot);
    }
    observers_changed(mesh, slot);
}

void overlay_remove(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    observers_changed(mesh, slot);
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        if (member->rings & TIER_BIT(tier))
            ring_remove(mesh, tier, slot);
    }
    member->rings = 0;
    tiers_count(mesh, slot, -1);
}

static uint32_t add_once(uint32_t *list, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == slot)
            return count;
    }
    list[count] = slot;
    return count + 1;
}

/* Adds the member's neighbours on the rings of one tier to `count` others. */
static uint32_t add_neighbours(const struct mesh *mesh, uint32_t tier, uint32_t slot, uint32_t *neighbour,
                               uint32_t count)
{
    uint32_t *const *const ring_of = mesh->overlay.ring[tier];
    const uint32_t n = mesh->overlay.count[tier];
    const uint32_t others = n - (mesh->members.slot[slot].rings >> tier & 1);
    if (others < MESH_FULL_MESH) {
        for (uint32_t i = 0; i < n; i++) {
            if (ring_of[0][i] != slot)
                count = add_once(neighbour, count, ring_of[0][i]);
        }
        return count;
    }
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        const uint32_t place = ring_place(mesh, tier, ring, slot);
        const bool stands = place < n && ring_of[ring][place] == slot;
        count = add_once(neighbour, count, ring_of[ring][(place + n - 1) % n]);
        count = add_once(neighbour, count, ring_of[ring][(place + (stands ? 1 : 0)) % n]);
    }
    return count;
}

uint32_t overlay_neighbours(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_NEIGHBOURS_MAX])
{
    return add_neighbours(mesh, tiers_watched_in(mesh, slot), slot, neighbour, 0);
}

uint32_t overlay_links(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_LINKS_MAX])
{
    uint32_t count = 0;
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        if (mesh->members.slot[slot].rings & TIER_BIT(tier))
            count = add_neighbours(mesh, tier, slot, neighbour, count);
    }
    return count;
}

uint32_t overlay_count(const struct mesh *mesh, uint32_t slot)
{
    return mesh->overlay.count[tiers_watched_in(mesh, slot)];
}

bool overlay_reports(const struct mesh *mesh, uint32_t slot)
{
    const uint32_t count = mesh->overlay.count[TIER_SITE];
    for (uint32_t i = 0; i < MESH_REPORTERS && i < count; i++) {
        if (mesh->overlay.ring[TIER_SITE][0][count - 1 - i] == slot)
            return true;
    }
    return false;
}

void overlay_check(const struct mesh *mesh)
{
    uint32_t standing[TIERS] = {0};
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const uint8_t rings = mesh->members.slot[slot].rings;
        assert(rings == (members_live(mesh, slot) ? tiers_of(mesh, slot) : 0));
        for (uint32_t tier = 0; tier < TIERS; tier++)
            standing[tier] += rings >> tier & 1;
    }
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        assert(standing[tier] == mesh->overlay.count[tier]);
        for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
            const uint32_t *const order = mesh->overlay.ring[tier][ring];
            for (uint32_t i = 0; i < mesh->overlay.count[tier]; i++) {
                assert(mesh->members.slot[order[i]].rings & TIER_BIT(tier));
                assert(i == 0 || ring_compare(mesh, ring, order[i - 1], order[i]) < 0);
            }
        }
    }
}
