/*
 * A market: sites with device slots, bursts of jobs, and ways to bring the one to the other.
 *
 * The setting is that of a federation at work: many sites, each its own home for the jobs that come to it, a round
 * trip between any two, and views of each other's capacity that are seconds old. market_load() draws the arrivals
 * and every shard's device time from the seed alone, so that all policies are given the very same work:
 *
 *     market_core.c     the production core, one per site
 *     market_rivals.c   an omniscient scheduler, which nobody can have, and the policies that were rejected
 *
 * Nothing fails in a market but devices (slow ones) and owners (who claim some); faults of networks, disks and
 * processes are the business of the other simulations. Times are in microseconds of the market's own clock.
 */
#ifndef NODE_SIM_MARKET_H
#define NODE_SIM_MARKET_H

#include <stdbool.h>
#include <stdint.h>

struct market_setting {
    uint64_t seed;
    uint32_t sites; /* one node each */
    uint32_t slots; /* of each: devices that run one shard at a time */
    uint32_t load_permille;
    uint32_t minutes;        /* measured, after MARKET_WARM_US */
    uint32_t slow_permille;  /* devices that take MARKET_SLOW times as long */
    uint32_t claim_permille; /* devices whose owners take them once an hour, for ten minutes */
    bool speculate;
};

#define MARKET_SECOND_US INT64_C(1000000)
#define MARKET_WARM_US (120 * MARKET_SECOND_US) /* not measured: the market starts empty */
#define MARKET_SHARD_US (10 * MARKET_SECOND_US) /* mean device time of a shard */
#define MARKET_ONE_WAY_US INT64_C(40000)        /* half a round trip */
#define MARKET_VIEW_US (7 * MARKET_SECOND_US)   /* a site's view of another is renewed so often */
#define MARKET_JOB_SHARDS_MAX 250               /* sizes are Zipf: P(n) ~ 1 / n up to here */
#define MARKET_KERNELS 8
#define MARKET_SLOW 10
#define MARKET_CLAIM_US (600 * MARKET_SECOND_US)

struct market_job {
    int64_t at_us;
    uint32_t site;
    uint32_t kernel;
    uint32_t shards;
    uint32_t first; /* number of its first shard among all */
};

struct market_load {
    struct market_setting setting;
    int64_t end_us; /* of what is measured; arrivals go on a little, so that the last are treated like all */
    uint32_t job_count;
    struct market_job *job; /* in the order of arrival */
    uint32_t shard_count;
};

struct market_load *market_load(const struct market_setting *setting);
void market_load_free(struct market_load *load);
/* Device time of a shard on a device that is not slow: within 30 % of its kernel's mean. */
int64_t market_shard_us(const struct market_load *load, uint32_t shard, uint32_t kernel);
bool market_slow(const struct market_load *load, uint32_t site, uint32_t slot);

/* What a policy made of a load. */
struct market_tally {
    const struct market_load *load;
    uint32_t *wait_ms;    /* per shard: arrival to its first start; UINT32_MAX while it waits */
    uint32_t *left;       /* per job: shards not done */
    int64_t *done_us;     /* per job */
    int64_t busy_us;      /* device time within the measured hours */
    int64_t unused_us;    /* of it, for attempts whose result came to nothing */
    uint64_t starts;      /* attempts of shards */
    uint64_t messages;    /* between sites; what one node sends another at one instant is one */
    uint64_t interrupted; /* shards whose device an owner took */
    uint64_t lost;        /* shards never committed, or committed twice */
    uint64_t billed;      /* interrupted attempts that a home was told device time of as if done */
};

struct market_figures {
    uint32_t wait_mean_ms, wait_p50_ms, wait_p99_ms, wait_p999_ms;
    uint32_t job_p50_ms, job_p999_ms;
    uint32_t busy_permyriad; /* of all device time there was */
    int64_t busy_us;
    int64_t unused_us;
    uint64_t messages_centi; /* per shard, in hundredths */
    uint64_t shards;
    uint64_t lost, billed, interrupted;
};

struct market_tally *market_tally(const struct market_load *load);
void market_tally_free(struct market_tally *tally);
void market_started(struct market_tally *tally, uint32_t job, uint32_t shard, int64_t now_us);
void market_ran(struct market_tally *tally, int64_t from_us, int64_t to_us, bool used);
void market_done(struct market_tally *tally, uint32_t job, uint32_t shards, int64_t now_us);
void market_message(struct market_tally *tally, int64_t now_us);
void market_figures(const struct market_tally *tally, struct market_figures *figures);

enum market_policy {
    MARKET_OMNISCIENT, /* one queue, served in order, no delay */
    MARKET_PUSH,       /* each shard to the site that looks best */
    MARKET_TWO,        /* each shard to the better of two sites drawn */
    MARKET_PROBES,     /* Sparrow: two probes per shard, bound when a probe reaches the head of a queue */
    MARKET_STEAL,      /* each shard waits at its home; idle sites ask others for work */
    MARKET_POLICIES,
};

struct market_tally *market_rival(const struct market_load *load, enum market_policy policy);
struct mesh_counters;
/* `counters` gets the sum over all cores, or is NULL. */
struct market_tally *market_core(const struct market_load *load, struct mesh_counters *counters);

#endif
