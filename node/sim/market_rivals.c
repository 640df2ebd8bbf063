/*
 * The omniscient scheduler and the policies that were rejected, each in its simplest honest form. They see the same
 * arrivals, device times, delays and ages of views as the core does, and keep what a home knows for itself: how much
 * it has sent to a site since its view of it was renewed.
 */
#include "node/sim/market.h"

#include "node/sim/world.h"

#define SNAP_US (MARKET_SECOND_US / 4) /* views are as old as they are to within this */
#define SNAPS 64
#define STEAL_AGAIN_US (MARKET_SECOND_US / 10)
#define NOTHING UINT32_MAX

enum rival_event {
    ARRIVES = 1, /* a: job */
    REACHES,     /* a shard reaches a site: a site, b task */
    PROBED,      /* a probe reaches a site: a site, b job */
    ASKED,       /* a site asks a home for a shard of a job: a site, b job */
    ANSWERED,    /* the home's answer: a site, b task or NOTHING */
    ENDS,        /* a slot is free: a site, b slot */
    STEALS,      /* a site looks for work elsewhere: a site */
    BEGGED,      /* its request is at the victim: a site, b victim, life shards wanted */
    SPARED,      /* what the victim gave: a site, b first task of a chain or NOTHING */
    SNAPSHOT,
};

/* A queue of tasks (shards) or of jobs (probes), chained through `next`. */
struct rival_queue {
    uint32_t first, last, count;
};

struct rival_site {
    uint64_t busy; /* bit per slot; 64 slots at most */
    uint32_t idle;
    struct rival_queue queue;
    bool stealing;
};

struct rivals {
    const struct market_load *load;
    enum market_policy policy;
    struct market_tally *tally;
    struct sim_random random;
    struct heap heap;
    int64_t now_us;
    struct rival_site *site;
    uint32_t *job_of;    /* per shard */
    uint32_t *next;      /* per shard: behind it in a queue, or NOTHING */
    uint32_t *unbound;   /* per job: shards not bound, the last ones; for probes */
    uint32_t *probe_job; /* per probe in a queue, and its chain; slots are reused */
    uint32_t *probe_next;
    uint32_t probe_free, probe_count, probe_room;
    uint32_t snapped;
    int32_t *seen;         /* [SNAPS][sites]: idle slots less the queue */
    int32_t *sent;         /* [home][site] since the view was renewed */
    uint32_t *sent_at;     /* [home][site] which renewal that is about */
    uint32_t waiting_site; /* omniscient: sites are looked at from here on */
    struct rival_queue all;
    uint32_t started; /* shards so far; when all have, the rest is known */
};

static void later(struct rivals *rivals, int64_t in_us, enum rival_event what, uint32_t a, uint32_t b,
                  uint32_t more)
{
    const struct event event = {
        .at_us = rivals->now_us + in_us, .what = (enum happening)what, .a = a, .b = b, .life = more};
    sim_heap_push(&rivals->heap, event);
}

static void queue_put(struct rival_queue *queue, uint32_t *next, uint32_t item)
{
    next[item] = NOTHING;
    if (queue->count++ == 0) {
        queue->first = item;
    } else {
        next[queue->last] = item;
    }
    queue->last = item;
}

static uint32_t queue_take(struct rival_queue *queue, const uint32_t *next)
{
    const uint32_t item = queue->first;
    queue->first = next[item];
    queue->count--;
    return item;
}

static void message(struct rivals *rivals, uint32_t from, uint32_t to)
{
    if (from != to) {
        market_message(rivals->tally, rivals->now_us);
    }
}

static int64_t delay(uint32_t from, uint32_t to)
{
    return from == to ? 0 : MARKET_ONE_WAY_US;
}

/* ---- Devices. */

static uint32_t slot_take(struct rivals *rivals, uint32_t site)
{
    struct rival_site *const at = &rivals->site[site];
    const uint32_t slot = (uint32_t)__builtin_ctzll(~at->busy);
    at->busy |= UINT64_C(1) << slot;
    at->idle--;
    return slot;
}

static void slot_start(struct rivals *rivals, uint32_t site, uint32_t slot, uint32_t task)
{
    const uint32_t job = rivals->job_of[task];
    const struct market_load *const load = rivals->load;
    int64_t took_us = market_shard_us(load, task, load->job[job].kernel);
    took_us *= market_slow(load, site, slot) ? MARKET_SLOW : 1;
    rivals->started++;
    market_started(rivals->tally, job, task, rivals->now_us);
    market_ran(rivals->tally, rivals->now_us, rivals->now_us + took_us, true);
    /* The result and its acknowledgement. */
    message(rivals, site, load->job[job].site);
    message(rivals, load->job[job].site, site);
    market_done(rivals->tally, job, 1, rivals->now_us + took_us + delay(site, load->job[job].site));
    later(rivals, took_us, ENDS, site, slot, 0);
}

/* ---- Views. */

static int32_t looks(const struct rivals *rivals, uint32_t site)
{
    return (int32_t)rivals->site[site].idle - (int32_t)rivals->site[site].queue.count;
}

static void snapshot(struct rivals *rivals)
{
    int32_t *const row = &rivals->seen[(size_t)(rivals->snapped++ % SNAPS) * rivals->load->setting.sites];
    for (uint32_t site = 0; site < rivals->load->setting.sites; site++) {
        row[site] = looks(rivals, site);
    }
    later(rivals, SNAP_US, SNAPSHOT, 0, 0, 0);
}

/* What `home` believes of `site`: as it was when its view was last renewed, less what it has sent there since. */
static int32_t believed(struct rivals *rivals, uint32_t home, uint32_t site)
{
    if (home == site) {
        return looks(rivals, site);
    }
    const uint32_t sites = rivals->load->setting.sites;
    const size_t pair = (size_t)home * sites + site;
    const uint32_t every = (uint32_t)(MARKET_VIEW_US / SNAP_US);
    const uint32_t latest = rivals->snapped - 1;
    const uint32_t age = (latest + (uint32_t)(sim_mix(home, site) % every)) % every;
    const uint32_t renewed = latest > age ? latest - age : 0;
    if (rivals->sent_at[pair] != renewed) {
        rivals->sent_at[pair] = renewed;
        rivals->sent[pair] = 0;
    }
    return rivals->seen[(size_t)(renewed % SNAPS) * sites + site] - rivals->sent[pair];
}

static uint32_t choose_best(struct rivals *rivals, uint32_t home)
{
    const uint32_t sites = rivals->load->setting.sites;
    const uint32_t from = sim_below(&rivals->random, sites);
    uint32_t best = home;
    int32_t most = believed(rivals, home, home);
    for (uint32_t i = 0; i < sites && most < (int32_t)rivals->load->setting.slots; i++) {
        const uint32_t site = (from + i) % sites;
        const int32_t here = believed(rivals, home, site);
        if (here > most) {
            most = here;
            best = site;
        }
    }
    return best;
}

static uint32_t choose_two(struct rivals *rivals, uint32_t home)
{
    const uint32_t one = sim_below(&rivals->random, rivals->load->setting.sites);
    const uint32_t other = sim_below(&rivals->random, rivals->load->setting.sites);
    return believed(rivals, home, other) > believed(rivals, home, one) ? other : one;
}

/* ---- Each shard is sent to a site and waits there. */

static void site_serve(struct rivals *rivals, uint32_t site)
{
    struct rival_site *const at = &rivals->site[site];
    while (at->idle > 0 && at->queue.count > 0) {
        const uint32_t slot = slot_take(rivals, site);
        slot_start(rivals, site, slot, queue_take(&at->queue, rivals->next));
    }
}

static void push_job(struct rivals *rivals, const struct market_job *job)
{
    uint32_t last = NOTHING; /* shards of one instant to one site in a row are one message */
    for (uint32_t task = job->first; task < job->first + job->shards; task++) {
        const uint32_t site =
            rivals->policy == MARKET_PUSH ? choose_best(rivals, job->site) : choose_two(rivals, job->site);
        rivals->sent[(size_t)job->site * rivals->load->setting.sites + site]++;
        if (site != last) {
            message(rivals, job->site, site);
        }
        last = site;
        if (site == job->site) {
            queue_put(&rivals->site[site].queue, rivals->next, task);
            site_serve(rivals, site);
        } else {
            later(rivals, MARKET_ONE_WAY_US, REACHES, site, task, 0);
        }
    }
}

/* ---- Probes. */

static uint32_t probe_new(struct rivals *rivals, uint32_t job)
{
    uint32_t probe = rivals->probe_free;
    if (probe != NOTHING) {
        rivals->probe_free = rivals->probe_next[probe];
    } else {
        if (rivals->probe_count == rivals->probe_room) {
            rivals->probe_room = rivals->probe_room != 0 ? rivals->probe_room * 2 : 1024;
            rivals->probe_job = sim_grow(rivals->probe_job, rivals->probe_room, sizeof *rivals->probe_job);
            rivals->probe_next = sim_grow(rivals->probe_next, rivals->probe_room, sizeof *rivals->probe_next);
        }
        probe = rivals->probe_count++;
    }
    rivals->probe_job[probe] = job;
    return probe;
}

static void site_ask(struct rivals *rivals, uint32_t site)
{
    struct rival_site *const at = &rivals->site[site];
    while (at->idle > 0 && at->queue.count > 0) {
        const uint32_t probe = queue_take(&at->queue, rivals->probe_next);
        const uint32_t job = rivals->probe_job[probe];
        rivals->probe_next[probe] = rivals->probe_free;
        rivals->probe_free = probe;
        const uint32_t slot = slot_take(rivals, site); /* held until the answer */
        message(rivals, site, rivals->load->job[job].site);
        later(rivals, delay(site, rivals->load->job[job].site), ASKED, site, job, slot);
    }
}

static void probe_job(struct rivals *rivals, uint32_t number)
{
    const struct market_job *const job = &rivals->load->job[number];
    const uint32_t sites = rivals->load->setting.sites;
    rivals->unbound[number] = job->shards;
    /* Distinct sites, as long as there are any: a stretch of a permutation by a step without common divisor. */
    uint32_t step = 1 + 2 * sim_below(&rivals->random, sites / 2);
    step += step % 5 == 0 ? 2 : 0;
    uint32_t site = sim_below(&rivals->random, sites);
    for (uint32_t i = 0; i < 2 * job->shards; i++) {
        if (i < sites) {
            message(rivals, job->site, site); /* later ones ride along */
        }
        later(rivals, delay(job->site, site), PROBED, site, number, 0);
        site = (site + step) % sites;
    }
}

static void probe_answer(struct rivals *rivals, uint32_t site, uint32_t number, uint32_t slot)
{
    const struct market_job *const job = &rivals->load->job[number];
    uint32_t task = NOTHING;
    if (rivals->unbound[number] > 0) {
        task = job->first + job->shards - rivals->unbound[number]--;
    }
    message(rivals, job->site, site);
    later(rivals, delay(job->site, site), ANSWERED, site, task, slot);
}

static void probe_answered(struct rivals *rivals, uint32_t site, uint32_t task, uint32_t slot)
{
    if (task != NOTHING) {
        slot_start(rivals, site, slot, task);
        return;
    }
    rivals->site[site].busy &= ~(UINT64_C(1) << slot);
    rivals->site[site].idle++;
    site_ask(rivals, site);
}

/* ---- Stealing. */

static void steal(struct rivals *rivals, uint32_t site)
{
    struct rival_site *const at = &rivals->site[site];
    at->stealing = at->idle > 0 && at->queue.count == 0;
    if (!at->stealing) {
        return;
    }
    uint32_t victim = sim_below(&rivals->random, rivals->load->setting.sites);
    const uint32_t other = sim_below(&rivals->random, rivals->load->setting.sites);
    victim = believed(rivals, site, other) < believed(rivals, site, victim) ? other : victim;
    message(rivals, site, victim);
    later(rivals, delay(site, victim), BEGGED, site, victim, at->idle);
}

static void steal_give(struct rivals *rivals, uint32_t site, uint32_t victim, uint32_t wanted)
{
    struct rival_site *const at = &rivals->site[victim];
    struct rival_queue given = {0};
    while (given.count < wanted && at->queue.count > 0) {
        const uint32_t task = queue_take(&at->queue, rivals->next);
        queue_put(&given, rivals->next, task);
    }
    message(rivals, victim, site);
    later(rivals, delay(victim, site), SPARED, site, given.count > 0 ? given.first : NOTHING, 0);
}

static void steal_got(struct rivals *rivals, uint32_t site, uint32_t first)
{
    for (uint32_t task = first, next; task != NOTHING; task = next) {
        next = rivals->next[task];
        queue_put(&rivals->site[site].queue, rivals->next, task);
    }
    site_serve(rivals, site);
    later(rivals, first == NOTHING ? STEAL_AGAIN_US : 0, STEALS, site, 0, 0);
}

/* ---- All of it. */

/* One queue in the order of arrival, and every idle slot at once; at home where that is possible. */
static void serve_all(struct rivals *rivals)
{
    const uint32_t sites = rivals->load->setting.sites;
    for (uint32_t seen = 0; rivals->all.count > 0 && seen < sites;) {
        const uint32_t home = rivals->load->job[rivals->job_of[rivals->all.first]].site;
        uint32_t site = home;
        if (rivals->site[home].idle == 0) {
            site = rivals->waiting_site;
            if (rivals->site[site].idle == 0) {
                rivals->waiting_site = (site + 1) % sites;
                seen++;
                continue;
            }
        }
        const uint32_t slot = slot_take(rivals, site);
        slot_start(rivals, site, slot, queue_take(&rivals->all, rivals->next));
    }
}

static void arrives(struct rivals *rivals, uint32_t number)
{
    const struct market_job *const job = &rivals->load->job[number];
    if (number + 1 < rivals->load->job_count) {
        later(rivals, job[1].at_us - rivals->now_us, ARRIVES, number + 1, 0, 0);
    }
    if (rivals->policy == MARKET_PROBES) {
        probe_job(rivals, number);
        return;
    }
    if (rivals->policy == MARKET_PUSH || rivals->policy == MARKET_TWO) {
        push_job(rivals, job);
        return;
    }
    struct rival_queue *const queue =
        rivals->policy == MARKET_STEAL ? &rivals->site[job->site].queue : &rivals->all;
    for (uint32_t task = job->first; task < job->first + job->shards; task++) {
        queue_put(queue, rivals->next, task);
    }
    if (rivals->policy == MARKET_STEAL) {
        site_serve(rivals, job->site);
    } else {
        serve_all(rivals);
    }
}

static void ends(struct rivals *rivals, uint32_t site, uint32_t slot)
{
    struct rival_site *const at = &rivals->site[site];
    at->busy &= ~(UINT64_C(1) << slot);
    at->idle++;
    if (rivals->policy == MARKET_PROBES) {
        site_ask(rivals, site);
    } else if (rivals->policy == MARKET_OMNISCIENT) {
        if (rivals->all.count > 0) {
            const uint32_t again = slot_take(rivals, site);
            slot_start(rivals, site, again, queue_take(&rivals->all, rivals->next));
        }
    } else {
        site_serve(rivals, site);
        if (rivals->policy == MARKET_STEAL && at->idle > 0 && !at->stealing) {
            at->stealing = true;
            later(rivals, 0, STEALS, site, 0, 0);
        }
    }
}

static void happen(struct rivals *rivals, const struct event *event)
{
    switch ((enum rival_event)event->what) {
    case ARRIVES:
        arrives(rivals, event->a);
        break;
    case REACHES:
        queue_put(&rivals->site[event->a].queue, rivals->next, event->b);
        site_serve(rivals, event->a);
        break;
    case PROBED: {
        const uint32_t probe = probe_new(rivals, event->b); /* its table may move */
        queue_put(&rivals->site[event->a].queue, rivals->probe_next, probe);
        site_ask(rivals, event->a);
        break;
    }
    case ASKED:
        probe_answer(rivals, event->a, event->b, event->life);
        break;
    case ANSWERED:
        probe_answered(rivals, event->a, event->b, event->life);
        break;
    case ENDS:
        ends(rivals, event->a, event->b);
        break;
    case STEALS:
        steal(rivals, event->a);
        break;
    case BEGGED:
        steal_give(rivals, event->a, event->b, event->life);
        break;
    case SPARED:
        steal_got(rivals, event->a, event->b);
        break;
    case SNAPSHOT:
        snapshot(rivals);
        break;
    }
}

static void rivals_init(struct rivals *rivals, const struct market_load *load, enum market_policy policy)
{
    const size_t sites = load->setting.sites;
    *rivals = (struct rivals){.load = load, .policy = policy, .probe_free = NOTHING};
    rivals->tally = market_tally(load);
    rivals->random.state = sim_mix(load->setting.seed, policy);
    rivals->site = sim_alloc(sites, sizeof *rivals->site);
    rivals->job_of = sim_alloc(load->shard_count, sizeof *rivals->job_of);
    rivals->next = sim_alloc(load->shard_count, sizeof *rivals->next);
    rivals->unbound = sim_alloc(load->job_count, sizeof *rivals->unbound);
    rivals->seen = sim_alloc(SNAPS * sites, sizeof *rivals->seen);
    rivals->sent = sim_alloc(sites * sites, sizeof *rivals->sent);
    rivals->sent_at = sim_alloc(sites * sites, sizeof *rivals->sent_at);
    for (uint32_t site = 0; site < sites; site++) {
        rivals->site[site].idle = load->setting.slots;
        rivals->site[site].busy = UINT64_MAX << load->setting.slots;
    }
    for (uint32_t i = 0; i < load->job_count; i++) {
        for (uint32_t task = 0; task < load->job[i].shards; task++) {
            rivals->job_of[load->job[i].first + task] = i;
        }
    }
}

struct market_tally *market_rival(const struct market_load *load, enum market_policy policy)
{
    struct rivals rivals;
    rivals_init(&rivals, load, policy);
    snapshot(&rivals);
    later(&rivals, load->job[0].at_us, ARRIVES, 0, 0, 0);
    while (rivals.started < load->shard_count) {
        const struct event event = sim_heap_pop(&rivals.heap);
        rivals.now_us = event.at_us;
        happen(&rivals, &event);
    }
    sim_heap_free(&rivals.heap);
    free(rivals.site);
    free(rivals.job_of);
    free(rivals.next);
    free(rivals.unbound);
    free(rivals.probe_job);
    free(rivals.probe_next);
    free(rivals.seen);
    free(rivals.sent);
    free(rivals.sent_at);
    return rivals.tally;
}
