#include "mesh/internal.h"

/* Reads as "rings"; the same on every node. */
#define RINGS_KEY 0x73676e6972u
/* The ring whose first order is the region. */
#define REGION_RING (MESH_RINGS - 1)

void overlay_layout(struct overlay *overlay, const struct mesh_limits *limits, struct carve *from)
{
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++)
        overlay->order[ring] = carve(from, limits->members, sizeof *overlay->order[ring]);
}

void overlay_place(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++)
        member->ring_hash[ring] =
            (uint32_t)(mesh_hash(RINGS_KEY, ring, member->id.bytes, sizeof member->id.bytes) >> 32);
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

static uint32_t ring_place(const struct mesh *mesh, uint32_t ring, uint32_t slot)
{
    const struct overlay *const overlay = &mesh->overlay;
    uint32_t low = 0;
    uint32_t high = overlay->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (ring_compare(mesh, ring, overlay->order[ring][middle], slot) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void overlay_insert(struct mesh *mesh, uint32_t slot)
{
    struct overlay *const overlay = &mesh->overlay;
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        uint32_t *const order = overlay->order[ring];
        const uint32_t place = ring_place(mesh, ring, slot);
        memmove(&order[place + 1], &order[place], (overlay->count - place) * sizeof *order);
        order[place] = slot;
    }
    overlay->count++;
}

void overlay_remove(struct mesh *mesh, uint32_t slot)
{
    struct overlay *const overlay = &mesh->overlay;
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        uint32_t *const order = overlay->order[ring];
        const uint32_t place = ring_place(mesh, ring, slot);
        assert(place < overlay->count && order[place] == slot);
        memmove(&order[place], &order[place + 1], (overlay->count - place - 1) * sizeof *order);
    }
    overlay->count--;
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

uint32_t overlay_neighbours(const struct mesh *mesh, uint32_t slot, uint32_t neighbour[MESH_NEIGHBOURS_MAX])
{
    const struct overlay *const overlay = &mesh->overlay;
    const uint32_t n = overlay->count;
    const uint32_t others = n - (members_live(mesh, slot) ? 1 : 0);
    uint32_t count = 0;
    if (others < MESH_FULL_MESH) {
        for (uint32_t i = 0; i < n; i++) {
            if (overlay->order[0][i] != slot)
                neighbour[count++] = overlay->order[0][i];
        }
        return count;
    }
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        const uint32_t *const order = overlay->order[ring];
        const uint32_t place = ring_place(mesh, ring, slot);
        const bool stands = place < n && order[place] == slot;
        count = add_once(neighbour, count, order[(place + n - 1) % n]);
        count = add_once(neighbour, count, order[(place + (stands ? 1 : 0)) % n]);
    }
    return count;
}

void overlay_check(const struct mesh *mesh)
{
    const struct overlay *const overlay = &mesh->overlay;
    uint32_t live = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++)
        live += members_live(mesh, slot);
    assert(live == overlay->count);
    for (uint32_t ring = 0; ring < MESH_RINGS; ring++) {
        for (uint32_t i = 0; i < overlay->count; i++) {
            assert(members_live(mesh, overlay->order[ring][i]));
            assert(i == 0 ||
                   ring_compare(mesh, ring, overlay->order[ring][i - 1], overlay->order[ring][i]) < 0);
        }
    }
}
