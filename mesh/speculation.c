/*
 * Speculation: which bundles take too long, and whether a second attempt may be paid for.
 *
 * What is usual is learnt per kernel, as a histogram of what its shards took, against the manifest's guess where there
 * is one: parameters and sizes are in the guess, the machines are in the ratio. A bundle is slow that is out for longer
 * than one and a half times what 95 of 100 take, or, in the last twentieth of its job, longer than they take. Then a
 * place is looked for elsewhere (placement.c), and bundles.c makes the copy.
 */
#include "mesh/internal.h"

enum {
    LAST_PART = 20,      /* a job's last twentieth */
    RTT_US_MAX = 1000000 /* a peer that answers pings late is not waited for longer */
};

/* A share of the guess or microseconds, as they are counted; and a shard's device time that is believed, an hour. */
#define SHARE_MAX ((UINT64_C(1) << 33) - 1)
#define SHARD_US_MAX UINT64_C(3600000000)

/* ---- What is usual. */

/* Eight buckets to a power of two, so that a bucket's end is within an eighth of all that is in it. */
static uint32_t bucket_of(uint64_t share)
{
    uint32_t octave = 0;
    while (share >> octave >= 16)
        octave++;
    return octave * 8 + (uint32_t)(share >> octave);
}

static uint64_t bucket_end(uint32_t bucket)
{
    return bucket < 16 ? bucket : ((uint64_t)(bucket % 8 + 9) << (bucket / 8 - 1)) - 1;
}

static struct usual *usual_find(const struct speculation *speculation, const struct job *job)
{
    const bool guessed = job->spec.shard_us_guess > 0;
    for (uint32_t i = 0; i < MESH_USUAL_KERNELS; i++) {
        struct usual *const usual = &speculation->usual[i];
        if (usual->used_at != 0 && usual->kernel == job->spec.kernel && usual->guessed == guessed)
            return usual;
    }
    return NULL;
}

/* Where all are taken, the one that was used longest ago. */
static struct usual *usual_take(struct speculation *speculation, const struct job *job)
{
    struct usual *usual = usual_find(speculation, job);
    if (!usual) {
        usual = &speculation->usual[0];
        for (uint32_t i = 1; i < MESH_USUAL_KERNELS; i++) {
            if (speculation->usual[i].used_at < usual->used_at)
                usual = &speculation->usual[i];
        }
        *usual = (struct usual){.kernel = job->spec.kernel, .guessed = job->spec.shard_us_guess > 0};
    }
    usual->used_at = ++speculation->turn;
    return usual;
}

static void usual_halve(struct usual *usual)
{
    usual->samples = 0;
    for (uint32_t i = 0; i < SPECULATION_BUCKETS; i++) {
        usual->count[i] /= 2;
        usual->samples += usual->count[i];
    }
}

/* The end of the bucket with the 95th percentile. */
static uint64_t usual_most(const struct usual *usual)
{
    uint32_t above = usual->samples / 20;
    uint32_t at = SPECULATION_BUCKETS - 1;
    while (at > 0 && usual->count[at] <= above)
        above -= usual->count[at--];
    return bucket_end(at);
}

void speculation_learn(struct home *home, const struct job *job, uint64_t device_us, uint32_t count)
{
    struct usual *const usual = usual_take(&home->speculation, job);
    const uint64_t us = device_us / count < SHARD_US_MAX ? device_us / count : SHARD_US_MAX;
    const uint64_t share = usual->guessed ? us * 1024 / job->spec.shard_us_guess : us;
    usual->count[bucket_of(share < SHARE_MAX ? share : SHARE_MAX)]++;
    if (++usual->samples >= MESH_USUAL_SAMPLES_MAX)
        usual_halve(usual);
    usual->most = usual->samples < MESH_USUAL_SAMPLES_MIN ? 0 : usual_most(usual);
}

/* What 95 of 100 shards of the job take at most; 0 = not known. */
static uint64_t usual_us(const struct home *home, const struct job *job)
{
    const struct usual *const usual = usual_find(&home->speculation, job);
    if (!usual || usual->most == 0)
        return 0;
    const uint64_t us = usual->guessed ? usual->most * job->spec.shard_us_guess / 1024 + 1 : usual->most;
    return us < SHARD_US_MAX ? us : SHARD_US_MAX;
}

/* ---- The budget. */

static void credit_add(struct home *home, uint64_t us)
{
    home->speculation.credit_us += (int64_t)us;
    if (home->speculation.credit_us > MESH_COPIES_CREDIT_MAX_US)
        home->speculation.credit_us = MESH_COPIES_CREDIT_MAX_US;
}

uint64_t speculation_believed(uint64_t device_us, uint32_t shards)
{
    return device_us < shards * SHARD_US_MAX ? device_us : shards * SHARD_US_MAX;
}

void speculation_earn(struct mesh *mesh, uint64_t device_us, uint32_t count)
{
    const uint64_t us = speculation_believed(device_us, count);
    mesh->counters.delivered_us += us;
    credit_add(&mesh->home, us * MESH_COPIES_PERCENT / 100);
}

void speculation_settle(struct mesh *mesh, struct bundle *copy, uint64_t device_us)
{
    const uint64_t us = speculation_believed(device_us, copy->count);
    mesh->counters.copies_us += us;
    credit_add(&mesh->home, copy->charge_us);
    copy->charge_us = 0;
    mesh->home.speculation.credit_us -= (int64_t)us;
}

void speculation_withdraw(struct home *home, struct bundle *bundle)
{
    credit_add(home, bundle->charge_us);
    bundle->charge_us = 0;
    if (bundle->slow && home->job[bundle->job].state == MESH_JOB_RUNNING)
        home->job[bundle->job].slow--;
    bundle->slow = false;
}

void speculation_blame(struct mesh *mesh, uint32_t member)
{
    uint32_t *const permille = &members_edit_notes(mesh, member)->delivered_permille;
    *permille = (*permille == 0 ? 1000 : *permille) * 7 / 8 + 1;
}

/* ---- Slow bundles. */

uint32_t speculation_pick(const struct home *home, const struct job *job, uint32_t member)
{
    uint32_t slot = job->slow > 0 ? list_first(&job->bundles) : MESH_NONE;
    while (slot != MESH_NONE && !(home->bundle[slot].slow && home->bundle[slot].member != member))
        slot = list_next(home->of_job_link, slot);
    return slot;
}

static bool job_nearly_done(const struct job *job)
{
    const uint64_t left = job->spec.shard_count - job->committed;
    return job->queued + job->looking_up == 0 && left * LAST_PART <= job->spec.shard_count;
}

/* Shards that it has still to bring. */
static uint32_t shards_left(const struct home *home, const struct job *job, uint32_t slot)
{
    const struct bundle *const bundle = &home->bundle[slot];
    const struct shard *const shard = shards_of(home, job);
    uint32_t count = 0;
    for (uint32_t i = 0; i < bundle->count; i++)
        count += shard[bundle->shard[i]].state == SHARD_ASSIGNED && shard[bundle->shard[i]].at == slot;
    return count;
}

/* From its ASSIGN to its RESULT, for a bundle that is not slow. */
static uint64_t patience_us(const struct mesh *mesh, const struct job *job, const struct bundle *bundle,
                            uint64_t work_us)
{
    const uint32_t rtt_us = members_notes(&mesh->members, bundle->member)->rtt_us;
    uint64_t us = job_nearly_done(job) ? work_us : work_us + work_us / 2;
    if (work_us < HOME_DEEP_US)
        us += work_us; /* it may have waited behind another */
    return us + 2 * (rtt_us < RTT_US_MAX ? rtt_us : RTT_US_MAX) + MESH_SLOW_GRACE_MS * 1000;
}

static void look_at(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    struct job *const job = &home->job[bundle->job];
    if (job->state != MESH_JOB_RUNNING || !job->spec.speculate || bundle->slow || bundle->other != 0 ||
        bundle->check != 0)
        return;
    const uint64_t shard_us = usual_us(home, job);
    const uint64_t passed_us = (uint64_t)(step->now_ms - bundle->assigned_at_ms) * 1000;
    if (shard_us == 0 || passed_us < patience_us(step->mesh, job, bundle, shard_us * bundle->count))
        return;
    const uint64_t work_us = shard_us * shards_left(home, job, slot);
    if (work_us == 0)
        return;
    if (home->speculation.credit_us <= 0) {
        step->mesh->counters.copies_withheld++;
        return;
    }
    home->speculation.credit_us -= (int64_t)work_us;
    bundle->charge_us = work_us;
    bundle->slow = true;
    job->slow++;
    home_job_ready(home, bundle->job);
}

void speculation_tick(struct step *step)
{
    struct home *const home = &step->mesh->home;
    if (home->leases.count == 0)
        return;
    if (step->now_ms >= home->speculation.look_at_ms) {
        for (uint32_t slot = list_first(&home->leases); slot != MESH_NONE;
             slot = list_next(home->bundle_link, slot))
            look_at(step, slot);
        home->speculation.look_at_ms = step->now_ms + MESH_SLOW_LOOK_MS;
    }
    out_wake(step, home->speculation.look_at_ms);
}

/* ---- Invariants. */

/* Two attempts at the same shards know each other; the second owns none of them and is not copied itself. */
static void check_pair(const struct home *home, uint32_t slot)
{
    const struct bundle *const bundle = &home->bundle[slot];
    assert(bundle->other != 0 || !bundle->copy);
    assert(!bundle->orphan || (bundle->other == 0 && !bundle->slow));
    if (bundle->other == 0)
        return;
    const struct bundle *const other = &home->bundle[bundle->other - 1];
    assert(other->count > 0 && other->other == slot + 1 && other->job == bundle->job);
    assert(other->copy != bundle->copy && other->member != bundle->member && !bundle->slow);
    if (!bundle->copy)
        return;
    const struct shard *const shard = shards_of(home, &home->job[bundle->job]);
    for (uint32_t i = 0; i < bundle->count && home->job[bundle->job].state == MESH_JOB_RUNNING; i++)
        assert(shard[bundle->shard[i]].state != SHARD_ASSIGNED || shard[bundle->shard[i]].at != slot);
}

void speculation_check(const struct mesh *mesh)
{
    const struct home *const home = &mesh->home;
    int64_t charged_us = 0;
    for (uint32_t i = 0; i < home->job_count; i++) {
        const struct job *const job = &home->job[home->sorted[i]];
        uint32_t slow = 0;
        for (uint32_t slot = list_first(&job->bundles); slot != MESH_NONE;
             slot = list_next(home->of_job_link, slot)) {
            check_pair(home, slot);
            slow += home->bundle[slot].slow;
            charged_us += (int64_t)home->bundle[slot].charge_us;
        }
        assert(job->state != MESH_JOB_RUNNING || slow == job->slow);
    }
    /* Nothing is spent that was not there. */
    assert(home->speculation.credit_us <= MESH_COPIES_CREDIT_MAX_US);
    assert(home->speculation.credit_us + charged_us + (int64_t)mesh->counters.copies_us <=
           MESH_COPIES_ALLOWANCE_US + (int64_t)(mesh->counters.delivered_us * MESH_COPIES_PERCENT / 100));
}
