#include "node/leases.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_FIRST 1024u
#define FULL_MS 1000

/* Half of a key is enough to tell digests apart. */
struct lease {
    uint64_t key[2];
    uint32_t lessee; /* its place, and */
    uint32_t serial; /* which life of that place: 0 = this slot was never used */
};

struct lessee_row {
    struct lessee who;
    uint32_t serial; /* grows whenever the place changes hands: all leases of an earlier life end with it */
    int64_t until_ms;
};

/* Leases in a table with open addressing. One that has ended stays where it is until its key comes again, or the table
 * is made anew because it is two thirds full. */
struct leases {
    struct lease *slot;
    uint32_t slots; /* a power of two */
    uint32_t used;
    int64_t full_until_ms; /* there was no room, and it is not looked for again before */
    struct lessee_row lessee[LEASES_JOBS_MAX];
};

struct leases *leases_open(void)
{
    struct leases *leases = calloc(1, sizeof *leases);
    if (!leases)
        return NULL;
    leases->slots = SLOTS_FIRST;
    leases->slot = calloc(leases->slots, sizeof *leases->slot);
    if (leases->slot)
        return leases;
    free(leases);
    return NULL;
}

void leases_close(struct leases *leases)
{
    if (!leases)
        return;
    free(leases->slot);
    free(leases);
}

static bool same(const struct lessee *a, const struct lessee *b)
{
    return memcmp(&a->node, &b->node, sizeof a->node) == 0 && memcmp(&a->job, &b->job, sizeof a->job) == 0;
}

static bool in_force(const struct leases *leases, const struct lease *lease, int64_t now_ms)
{
    const struct lessee_row *row = &leases->lessee[lease->lessee];
    return lease->serial != 0 && row->serial == lease->serial && now_ms < row->until_ms;
}

/* The slot of a key, or the free one where it would be. */
static struct lease *find(struct leases *leases, const uint64_t key[2])
{
    uint32_t at = (uint32_t)key[0] & (leases->slots - 1);
    while (leases->slot[at].serial != 0 &&
           memcmp(leases->slot[at].key, key, sizeof leases->slot[at].key) != 0)
        at = (at + 1) & (leases->slots - 1);
    return &leases->slot[at];
}

/* Makes the table anew without what has ended, larger if that is not enough. False: no room. */
static bool make_room(struct leases *leases, int64_t now_ms)
{
    if (leases->used < leases->slots / 3 * 2)
        return true;
    if (now_ms < leases->full_until_ms)
        return false;
    const uint32_t live = leases_count(leases, now_ms);
    if (live >= LEASES_MAX) {
        leases->full_until_ms = now_ms + FULL_MS;
        return false;
    }
    struct lease *old = leases->slot;
    const uint32_t old_slots = leases->slots;
    const uint32_t slots = live > old_slots / 3 ? 2 * old_slots : old_slots;
    struct lease *made = calloc(slots, sizeof *made);
    if (!made)
        return false;
    leases->slot = made;
    leases->slots = slots;
    leases->used = 0;
    for (uint32_t i = 0; i < old_slots; i++) {
        if (!in_force(leases, &old[i], now_ms))
            continue;
        *find(leases, old[i].key) = old[i];
        leases->used++;
    }
    free(old);
    return true;
}

static uint32_t lessee_place(struct leases *leases, const struct lessee *who, int64_t now_ms)
{
    uint32_t place = 0;
    for (uint32_t i = 0; i < LEASES_JOBS_MAX; i++) {
        struct lessee_row *row = &leases->lessee[i];
        if (now_ms < row->until_ms && same(&row->who, who)) {
            row->until_ms = now_ms + LEASES_KEPT_MS;
            return i;
        }
        if (row->until_ms < leases->lessee[place].until_ms)
            place = i;
    }
    struct lessee_row *row = &leases->lessee[place];
    row->who = *who;
    row->serial = row->serial == UINT32_MAX ? 1 : row->serial + 1;
    row->until_ms = now_ms + LEASES_KEPT_MS;
    return place;
}

bool leases_take(struct leases *leases, const uint8_t key[32], const struct lessee *who, int64_t now_ms,
                 struct lessee *other)
{
    uint64_t half[2];
    memcpy(half, key, sizeof half);
    struct lease *lease = find(leases, half);
    if (in_force(leases, lease, now_ms) && !same(&leases->lessee[lease->lessee].who, who)) {
        *other = leases->lessee[lease->lessee].who;
        return false;
    }
    if (lease->serial == 0) {
        if (!make_room(leases, now_ms))
            return true;
        lease = find(leases, half);
        leases->used++;
    }
    memcpy(lease->key, half, sizeof half);
    lease->lessee = lessee_place(leases, who, now_ms);
    lease->serial = leases->lessee[lease->lessee].serial;
    return true;
}

void leases_end_job(struct leases *leases, const struct lessee *who)
{
    for (uint32_t i = 0; i < LEASES_JOBS_MAX; i++)
        if (same(&leases->lessee[i].who, who))
            leases->lessee[i].until_ms = 0;
}

void leases_end_node(struct leases *leases, const struct mesh_id *node)
{
    for (uint32_t i = 0; i < LEASES_JOBS_MAX; i++)
        if (memcmp(&leases->lessee[i].who.node, node, sizeof *node) == 0)
            leases->lessee[i].until_ms = 0;
}

uint32_t leases_count(const struct leases *leases, int64_t now_ms)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < leases->slots; i++)
        count += in_force(leases, &leases->slot[i], now_ms);
    return count;
}
