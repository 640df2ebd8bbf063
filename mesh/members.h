/*
 * The member table. A member is born when a verified MEMBER record of it is first accepted; only its origin's records
 * advance it. It is UP until observers accuse it (SUSPECT, then DOWN), until it leaves (LEFT) or is revoked (REVOKED,
 * for ever). DOWN and LEFT members are forgotten after 24 h. Slots are stable for the life of a member; walk them in
 * the order of ids through `sorted`.
 */
#ifndef MESH_MEMBERS_H
#define MESH_MEMBERS_H

#include "mesh/message.h"

struct mesh;
struct step;

struct member {
    struct mesh_id id;
    enum mesh_member_state state;
    int64_t state_at_ms;
    struct mesh_record record;   /* MEMBER; its handle is ours */
    struct mesh_record capacity; /* CAPACITY; kind 0 until one came */
    int64_t capacity_at_ms;
    uint32_t rtt_us;         /* smoothed as RFC 6298; 0 = not measured */
    uint32_t rtt_var_us;
    uint32_t accuser_count;
    uint32_t accuser[MESH_NEIGHBOURS_MAX]; /* member slots, of observers that accuse its present incarnation */
    /* Placement's own notes about the member, see placement.c. */
    uint32_t debit[MESH_DEVICE_CLASSES]; /* places asked for or used since its latest capacity record */
    uint32_t delivered_permille;         /* moving average of places granted per place believed free */
};

struct members {
    uint32_t count;
    uint32_t capacity;
    struct member *slot;   /* [capacity]; a free slot has state 0 */
    uint32_t *sorted;      /* [count] slots in the order of ids */
    uint32_t self;         /* our own slot */
};

/* Returns the slot of a known id, or MESH_NONE. O(log n). */
uint32_t members_find(const struct mesh *mesh, const struct mesh_id *id);
/* Whether new work may be placed there: UP, not draining, and not barred. */
bool members_takes_work(const struct mesh *mesh, uint32_t slot);

#endif
