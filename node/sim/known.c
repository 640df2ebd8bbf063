/*
 * Whom a host has met in this life: whether the node admits its keys, and as what the core has last shown it. Most hosts meet a
 * small part of a large world, so this is a table by identity, open addressing, that grows.
 */
#include "node/sim/world.h"

static uint32_t known_place(const struct known *known, uint32_t identity)
{
    uint32_t at = (uint32_t)sim_mix(identity, 0) & (known->room - 1);
    while (known->member[at].identity != 0 && known->member[at].identity != identity + 1) {
        at = (at + 1) & (known->room - 1);
    }
    return at;
}

static void known_widen(struct known *known)
{
    const struct known old = *known;
    known->room = old.room != 0 ? old.room * 2 : 16;
    known->member = sim_alloc(known->room, sizeof *known->member);
    for (uint32_t i = 0; i < old.room; i++) {
        if (old.member[i].identity != 0) {
            known->member[known_place(known, old.member[i].identity - 1)] = old.member[i];
        }
    }
    free(old.member);
}

struct known_member *sim_known_meet(struct known *known, uint32_t identity)
{
    if (4 * known->count >= 3 * known->room) {
        known_widen(known);
    }
    struct known_member *const member = &known->member[known_place(known, identity)];
    if (member->identity == 0) {
        member->identity = (identity + 1) & 0xffffff;
        known->count++;
    }
    return member;
}

struct known_member sim_known_see(const struct known *known, uint32_t identity)
{
    return known->room != 0 ? known->member[known_place(known, identity)] : (struct known_member){0};
}

void sim_known_clear(struct known *known)
{
    free(known->member);
    *known = (struct known){0};
}
