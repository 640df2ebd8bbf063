#include "node/owner.h"

const char *owner_state_word(enum owner_state state)
{
    static const char *const words[OWNER_STATES] = {
        [OWNER_SPARE] = "spare", [OWNER_LENT] = "lent",       [OWNER_RECLAIM] = "reclaim",
        [OWNER_OWNED] = "owned", [OWNER_COOLING] = "cooling", [OWNER_FAULT] = "fault"};
    return words[state];
}

const char *owner_cause_word(enum owner_cause cause)
{
    static const char *const words[OWNER_CAUSES] = {
        [OWNER_NONE] = "",           [OWNER_COMMAND] = "command",       [OWNER_SCHEDULE] = "schedule",
        [OWNER_PROCESS] = "process", [OWNER_MEMORY] = "memory in use",  [OWNER_UTILISATION] = "it computes",
        [OWNER_LOAD] = "load",       [OWNER_ELSEWHERE] = "another node"};
    return words[cause];
}

void owner_init(struct owner *owner, int64_t now_ms)
{
    *owner = (struct owner){.since_ms = now_ms, .spare_since_ms = now_ms};
}

static uint32_t enter(struct owner *owner, enum owner_state state, int64_t now_ms)
{
    owner->state = state;
    owner->since_ms = now_ms;
    return OWNER_CHANGED;
}

static int64_t cool_ms(const struct owner *owner)
{
    int64_t ms = OWNER_COOL_MS;
    for (uint32_t i = 0; i < owner->flaps && ms < OWNER_COOL_MS_MAX; i++)
        ms *= 2;
    return ms < OWNER_COOL_MS_MAX ? ms : OWNER_COOL_MS_MAX;
}

/* Soon after the last one: it counts as a flap. */
static void count_claim(struct owner *owner, enum owner_cause cause, int64_t now_ms)
{
    const bool soon = owner->claims > 0 &&
                      (owner->state == OWNER_COOLING || now_ms - owner->spare_since_ms < OWNER_COOL_MS_MAX);
    owner->flaps = soon ? owner->flaps + 1 : 0;
    owner->claims++;
    owner->cause = cause;
    owner->claimed_at_ms = now_ms;
}

static uint32_t finish_reclaim(struct owner *owner, const struct owner_facts *facts, int64_t now_ms)
{
    if (!facts->gone || !facts->memory_free)
        return 0;
    owner->reclaim_ms = (uint32_t)(now_ms - owner->claimed_at_ms);
    return enter(owner, OWNER_OWNED, now_ms) | OWNER_RECLAIMED;
}

static uint32_t step_lendable(struct owner *owner, const struct owner_facts *facts, int64_t now_ms)
{
    if (facts->claim) {
        count_claim(owner, facts->claim, now_ms);
        return enter(owner, OWNER_RECLAIM, now_ms) | OWNER_STOP | finish_reclaim(owner, facts, now_ms);
    }
    const enum owner_state state = facts->working ? OWNER_LENT : OWNER_SPARE;
    return state == owner->state ? 0 : enter(owner, state, now_ms);
}

static uint32_t step_owned(struct owner *owner, const struct owner_facts *facts, int64_t now_ms)
{
    if (facts->claim) {
        owner->cause = facts->claim;
        return 0;
    }
    owner->cool_until_ms = now_ms + cool_ms(owner);
    return enter(owner, OWNER_COOLING, now_ms);
}

static uint32_t step_cooling(struct owner *owner, const struct owner_facts *facts, int64_t now_ms)
{
    if (facts->claim) {
        count_claim(owner, facts->claim, now_ms);
        owner->reclaim_ms = 0; /* nothing of ours was there */
        return enter(owner, OWNER_OWNED, now_ms);
    }
    if (now_ms < owner->cool_until_ms)
        return 0;
    owner->spare_since_ms = now_ms;
    return enter(owner, OWNER_SPARE, now_ms) | OWNER_LEND;
}

uint32_t owner_step(struct owner *owner, const struct owner_facts *facts, int64_t now_ms)
{
    if (facts->fault)
        return owner->state == OWNER_FAULT ? 0 : enter(owner, OWNER_FAULT, now_ms) | OWNER_STOP;
    switch (owner->state) {
    case OWNER_SPARE:
    case OWNER_LENT:
        return step_lendable(owner, facts, now_ms);
    case OWNER_RECLAIM:
        return finish_reclaim(owner, facts, now_ms);
    case OWNER_OWNED:
        return step_owned(owner, facts, now_ms);
    case OWNER_COOLING:
        return step_cooling(owner, facts, now_ms);
    case OWNER_FAULT:
        return facts->claim ? enter(owner, OWNER_OWNED, now_ms) : step_owned(owner, facts, now_ms);
    case OWNER_STATES:
        break;
    }
    return 0;
}

void owner_opened(struct owner *owner, int64_t now_ms)
{
    owner->held_until_ms = now_ms + OWNER_OPEN_MS;
}

void owner_skip_cooling(struct owner *owner, int64_t now_ms)
{
    owner->flaps = 0;
    if (owner->state == OWNER_COOLING)
        owner->cool_until_ms = now_ms;
}

bool owner_lends(const struct owner *owner, int64_t now_ms)
{
    return (owner->state == OWNER_SPARE || owner->state == OWNER_LENT) && now_ms >= owner->held_until_ms;
}

int64_t owner_wake_ms(const struct owner *owner, int64_t now_ms)
{
    if (owner->state == OWNER_COOLING)
        return owner->cool_until_ms;
    if ((owner->state == OWNER_SPARE || owner->state == OWNER_LENT) && now_ms < owner->held_until_ms)
        return owner->held_until_ms;
    return INT64_MAX;
}
