/* What comes to the market, and what became of it. */
#include "node/sim/market.h"

#include "node/sim/world.h"

/* Arrivals are drawn per millisecond: near enough to Poisson, and without a logarithm. */
#define SLICE_US 1000
#define AFTER_US (60 * MARKET_SECOND_US)

/* The sum of 2^32 / n up to n: the weights of Zipf's law with exponent 1. */
static void zipf_weights(uint64_t *sum)
{
    uint64_t total = 0;
    for (uint32_t n = 1; n <= MARKET_JOB_SHARDS_MAX; n++) {
        total += (UINT64_C(1) << 32) / n;
        sum[n] = total;
    }
}

static uint32_t zipf_draw(struct sim_random *random, const uint64_t *sum)
{
    const uint64_t at = sim_random_next(random) % sum[MARKET_JOB_SHARDS_MAX];
    uint32_t low = 1;
    uint32_t high = MARKET_JOB_SHARDS_MAX;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (sum[middle] > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static int64_t kernel_mean_us(uint32_t kernel)
{
    /* From half to one and a half times the mean of all. */
    return MARKET_SHARD_US / 2 + MARKET_SHARD_US * kernel / (MARKET_KERNELS - 1);
}

static void load_stretch(struct market_load *load);

struct market_load *market_load(const struct market_setting *setting)
{
    struct market_load *const load = sim_alloc(1, sizeof *load);
    load->setting = *setting;
    load->end_us = MARKET_WARM_US + setting->minutes * 60 * MARKET_SECOND_US;
    uint64_t sum[MARKET_JOB_SHARDS_MAX + 1];
    zipf_weights(sum);
    /* The mean of a size is MAX / sum(1 / n): jobs per slice, times 2^32. */
    const uint64_t device_us =
        (uint64_t)setting->sites * setting->slots * SLICE_US * setting->load_permille / 1000;
    const uint64_t shards_per_slice = (device_us << 32) / (uint64_t)MARKET_SHARD_US;
    const uint64_t chance =
        shards_per_slice / MARKET_JOB_SHARDS_MAX * (sum[MARKET_JOB_SHARDS_MAX] >> 16) >> 16;
    struct sim_random random = {.state = sim_mix(setting->seed, 0x6d61726b6574)};
    uint32_t room = 0;
    for (int64_t now_us = 0; now_us < load->end_us + AFTER_US; now_us += SLICE_US) {
        if (sim_random_next(&random) >> 32 >= chance) {
            continue;
        }
        if (load->job_count == room) {
            room = room != 0 ? room * 2 : 1024;
            load->job = sim_grow(load->job, room, sizeof *load->job);
        }
        struct market_job *const job = &load->job[load->job_count++];
        *job = (struct market_job){.at_us = now_us, .first = load->shard_count};
        job->site = sim_below(&random, setting->sites);
        job->kernel = sim_below(&random, MARKET_KERNELS);
        job->shards = zipf_draw(&random, sum);
        load->shard_count += job->shards;
    }
    load_stretch(load);
    return load;
}

/* Moves the arrivals apart or together so that the work drawn is exactly the load that was asked for. */
static void load_stretch(struct market_load *load)
{
    const struct market_setting *const setting = &load->setting;
    int64_t work_ms = 0;
    for (uint32_t i = 0; i < load->job_count; i++) {
        for (uint32_t shard = 0; shard < load->job[i].shards; shard++) {
            work_ms += market_shard_us(load, load->job[i].first + shard, load->job[i].kernel) / 1000;
        }
    }
    const int64_t rate_ms = (int64_t)setting->sites * setting->slots * setting->load_permille;
    const int64_t span_ppm = work_ms * 1000 / rate_ms * MARKET_SECOND_US / ((load->end_us + AFTER_US) / 1000);
    for (uint32_t i = 0; i < load->job_count; i++) {
        load->job[i].at_us = load->job[i].at_us / 1000 * span_ppm / 1000;
    }
}

void market_load_free(struct market_load *load)
{
    free(load->job);
    free(load);
}

int64_t market_shard_us(const struct market_load *load, uint32_t shard, uint32_t kernel)
{
    const uint64_t draw = sim_mix(sim_mix(load->setting.seed, 0x7368617264), shard) >> 40; /* 24 bits */
    const int64_t mean_us = kernel_mean_us(kernel);
    return mean_us * 7 / 10 + mean_us * 6 / 10 * (int64_t)draw / (1 << 24);
}

bool market_slow(const struct market_load *load, uint32_t site, uint32_t slot)
{
    const uint32_t device = site * load->setting.slots + slot;
    return sim_mix(sim_mix(load->setting.seed, 0x736c6f77), device) % 1000 < load->setting.slow_permille;
}

/* ---- The tally. */

struct market_tally *market_tally(const struct market_load *load)
{
    struct market_tally *const tally = sim_alloc(1, sizeof *tally);
    tally->load = load;
    tally->wait_ms = sim_alloc(load->shard_count, sizeof *tally->wait_ms);
    memset(tally->wait_ms, 0xff, load->shard_count * sizeof *tally->wait_ms);
    tally->left = sim_alloc(load->job_count, sizeof *tally->left);
    tally->done_us = sim_alloc(load->job_count, sizeof *tally->done_us);
    for (uint32_t i = 0; i < load->job_count; i++) {
        tally->left[i] = load->job[i].shards;
        tally->done_us[i] = INT64_MAX;
    }
    return tally;
}

void market_tally_free(struct market_tally *tally)
{
    free(tally->wait_ms);
    free(tally->left);
    free(tally->done_us);
    free(tally);
}

static bool measured(const struct market_tally *tally, int64_t at_us)
{
    return at_us >= MARKET_WARM_US && at_us < tally->load->end_us;
}

void market_started(struct market_tally *tally, uint32_t job, uint32_t shard, int64_t now_us)
{
    const int64_t at_us = tally->load->job[job].at_us;
    tally->starts += measured(tally, now_us);
    if (tally->wait_ms[shard] == UINT32_MAX) {
        tally->wait_ms[shard] = (uint32_t)((now_us - at_us) / 1000);
    }
}

void market_ran(struct market_tally *tally, int64_t from_us, int64_t to_us, bool used)
{
    const int64_t end_us = tally->load->end_us;
    from_us = from_us > MARKET_WARM_US ? from_us : MARKET_WARM_US;
    to_us = to_us < end_us ? to_us : end_us;
    if (to_us > from_us) {
        tally->busy_us += to_us - from_us;
        tally->unused_us += used ? 0 : to_us - from_us;
    }
}

void market_done(struct market_tally *tally, uint32_t job, uint32_t shards, int64_t now_us)
{
    if (shards > tally->left[job]) {
        tally->lost++;
        return;
    }
    tally->left[job] -= shards;
    if (tally->left[job] == 0) {
        tally->done_us[job] = now_us;
    }
}

void market_message(struct market_tally *tally, int64_t now_us)
{
    tally->messages += measured(tally, now_us);
}

/* ---- Figures. */

static int compare(const void *left, const void *right)
{
    const uint32_t a = *(const uint32_t *)left;
    const uint32_t b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static uint32_t quantile(const uint32_t *sorted, uint32_t count, uint32_t per_100000)
{
    const uint64_t at = (uint64_t)count * per_100000 / 100000;
    return count == 0 ? 0 : sorted[at < count ? at : count - 1];
}

void market_figures(const struct market_tally *tally, struct market_figures *figures)
{
    const struct market_load *const load = tally->load;
    uint32_t *const wait = sim_alloc(load->shard_count, sizeof *wait);
    uint32_t *const time = sim_alloc(load->job_count, sizeof *time);
    uint32_t waits = 0;
    uint32_t times = 0;
    uint64_t wait_sum = 0;
    *figures = (struct market_figures){.lost = tally->lost};
    for (uint32_t i = 0; i < load->job_count; i++) {
        const struct market_job *const job = &load->job[i];
        if (!measured(tally, job->at_us)) {
            continue;
        }
        for (uint32_t shard = job->first; shard < job->first + job->shards; shard++) {
            wait_sum += tally->wait_ms[shard];
            wait[waits++] = tally->wait_ms[shard];
        }
        figures->lost += tally->left[i];
        time[times++] =
            tally->left[i] == 0 ? (uint32_t)((tally->done_us[i] - job->at_us) / 1000) : UINT32_MAX;
    }
    qsort(wait, waits, sizeof *wait, compare);
    qsort(time, times, sizeof *time, compare);
    const int64_t there_us =
        (load->end_us - MARKET_WARM_US) * load->setting.sites * load->setting.slots / 10000;
    figures->shards = waits;
    figures->wait_mean_ms = waits > 0 ? (uint32_t)(wait_sum / waits) : 0;
    figures->wait_p50_ms = quantile(wait, waits, 50000);
    figures->wait_p99_ms = quantile(wait, waits, 99000);
    figures->wait_p999_ms = quantile(wait, waits, 99900);
    figures->job_p50_ms = quantile(time, times, 50000);
    figures->job_p999_ms = quantile(time, times, 99900);
    figures->busy_permyriad = (uint32_t)(tally->busy_us / there_us);
    figures->busy_us = tally->busy_us;
    figures->unused_us = tally->unused_us;
    figures->messages_centi = waits > 0 ? tally->messages * 100 / waits : 0;
    figures->billed = tally->billed;
    figures->interrupted = tally->interrupted;
    free(wait);
    free(time);
}
