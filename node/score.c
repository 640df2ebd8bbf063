#include "node/score.h"

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool is_above(uint32_t value, uint32_t reference)
{
    return (uint64_t)value * 100 > (uint64_t)reference * (100 + SCORE_DRIFT_PERCENT);
}

static bool is_below(uint32_t value, uint32_t reference)
{
    return (uint64_t)value * 100 < (uint64_t)reference * (100 - SCORE_DRIFT_PERCENT);
}

static uint32_t next(uint32_t advertised, uint32_t before, uint32_t measured)
{
    if (advertised == 0 || is_below(measured, advertised))
        return measured;
    return is_above(measured, advertised) && is_above(before, advertised) ? least(before, measured)
                                                                          : advertised;
}

bool score_take(struct scores *scores, const struct score *measured, int64_t wall_s)
{
    const struct score was = scores->advertised, before = scores->before;
    struct score *now = &scores->advertised;
    now->mflops = next(was.mflops, before.mflops, measured->mflops);
    now->memory_mbps = next(was.memory_mbps, before.memory_mbps, measured->memory_mbps);
    now->link_mbps = next(was.link_mbps, before.link_mbps, measured->link_mbps);
    scores->before = *measured;
    scores->measured_at_s = wall_s;
    return now->mflops != was.mflops || now->memory_mbps != was.memory_mbps ||
           now->link_mbps != was.link_mbps;
}

static bool is_near(uint32_t value, uint32_t reference)
{
    return !is_above(value, reference) && !is_below(value, reference);
}

bool score_settled(const struct scores *scores)
{
    const struct score *before = &scores->before, *now = &scores->advertised;
    return is_near(before->mflops, now->mflops) && is_near(before->memory_mbps, now->memory_mbps) &&
           is_near(before->link_mbps, now->link_mbps);
}
