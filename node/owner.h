/*
 * Who has a device now: its owner, or the mesh. Pure decisions; node/devices.c looks, acts and tells.
 *
 *     OWNED -> COOLING -> SPARE <-> LENT -> RECLAIM -> OWNED        (any) -> FAULT
 *
 * A device is born SPARE, or OWNED where a claim stands from before. It is LENT while it has work of ours. A claim
 * makes it RECLAIM: the host stops what runs there, and once no process of ours is left and its memory was seen free
 * it is OWNED. When the last claim ends it cools down, and is SPARE after 60 s without another. Each time that it was
 * claimed again within 15 min the next cool-down is twice as long, up to 15 min, so that a device which its owner
 * takes every few minutes doesn't start work only to lose it.
 *
 * Somebody who opens the device (monitoring does so too) claims nothing: for 500 ms nothing new is started, and what
 * is seen there meanwhile decides.
 *
 * Times are monotonic milliseconds of one clock, which the caller gives.
 */
#ifndef NODE_OWNER_H
#define NODE_OWNER_H

#include <stdbool.h>
#include <stdint.h>

#define OWNER_COOL_MS 60000                /* of quiet, before a device is lent again */
#define OWNER_COOL_MS_MAX (15 * 60 * 1000) /* the longest, after flaps */
#define OWNER_OPEN_MS 500                  /* nothing new is started for so long after a foreign open */

enum owner_state {
    OWNER_SPARE,
    OWNER_LENT,
    OWNER_RECLAIM,
    OWNER_OWNED,
    OWNER_COOLING,
    OWNER_FAULT,
    OWNER_STATES
};
const char *owner_state_word(enum owner_state state);

/* Why the owner has it; of several the first in this order is told. */
enum owner_cause {
    OWNER_NONE,
    OWNER_COMMAND,     /* weir reclaim */
    OWNER_SCHEDULE,    /* its hours, from the settings */
    OWNER_PROCESS,     /* a program of others is on it */
    OWNER_MEMORY,      /* its memory is used, by nobody that can be named */
    OWNER_UTILISATION, /* or it computes */
    OWNER_LOAD,        /* CPU: others use the cores */
    OWNER_ELSEWHERE,   /* another node of this machine lends it */
    OWNER_CAUSES
};
const char *owner_cause_word(enum owner_cause cause);

/* What was seen of one device. */
struct owner_facts {
    enum owner_cause claim; /* OWNER_NONE: nobody's */
    bool working;           /* it has work of ours in hand */
    bool gone;              /* no process of ours is on it */
    bool memory_free;       /* and its memory was seen free */
    bool fault;             /* the device is to blame for failures, or has vanished */
};

struct owner {
    enum owner_state state;
    enum owner_cause cause; /* of the claim that stands, or the last one */
    int64_t since_ms;       /* of the state */
    int64_t claimed_at_ms;  /* RECLAIM: when it began */
    int64_t cool_until_ms;  /* COOLING */
    int64_t spare_since_ms; /* when it was last given back to the mesh */
    int64_t held_until_ms;  /* somebody opened it: nothing new is started before */
    uint32_t flaps;         /* claims that came soon after the one before */
    uint32_t claims;        /* since the start */
    uint32_t reclaim_ms;    /* what the last reclaim took, until memory was seen free */
};

/* What the host has to do, as bits. */
enum owner_act {
    OWNER_STOP = 1,      /* stop what runs there and start nothing more */
    OWNER_RECLAIMED = 2, /* it is free for its owner: `reclaim_ms` is new */
    OWNER_LEND = 4,      /* start work there again */
    OWNER_CHANGED = 8,   /* the state is another: tell */
};

void owner_init(struct owner *owner, int64_t now_ms);
/* Looks at the facts; to be called whenever one of them changed and at owner_wake_ms. */
uint32_t owner_step(struct owner *owner, const struct owner_facts *facts, int64_t now_ms);
/* A foreign process opened it. */
void owner_opened(struct owner *owner, int64_t now_ms);
/* The operator says that it may be lent now: no cool-down, if nothing else claims it. */
void owner_skip_cooling(struct owner *owner, int64_t now_ms);
/* Whether new work may be started on it. */
bool owner_lends(const struct owner *owner, int64_t now_ms);
/* When owner_step is due although no fact has changed; INT64_MAX = never. */
int64_t owner_wake_ms(const struct owner *owner, int64_t now_ms);

#endif
