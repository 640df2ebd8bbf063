/*
 * The market served by the production core: one per site, on a network without faults.
 *
 * This is a host in short, for the work of the core alone. Membership is given (every core is handed all records
 * at the start, and its pings are answered); capacity records travel outside the overlay, so that a view has the
 * age that the market says; a disk takes a millisecond. Devices run what the core tells them to, and commits are
 * checked: each shard once, and only by an attempt that ran to its end.
 */
#include "node/sim/market.h"

#include "mesh/mesh.h"
#include "node/sim/world.h"

#include <assert.h>

#define SYNC_US 1000
#define PRUNE_US (10 * MARKET_SECOND_US)
#define SETTLE_US (2 * MARKET_SECOND_US) /* from the start until jobs come */
#define CHECK_STEPS 20000                /* between full checks of one core */
#define DRAIN_US (1200 * MARKET_SECOND_US)
#define JOB_IDS 0x40000000u
#define NOTHING UINT32_MAX

enum core_event {
    CORE_WAKES = 1, /* node; a: serial */
    CORE_HEARS,     /* node; a: from; item: message */
    CORE_RECORD,    /* node; item: its own record, signed */
    CORE_LINKED,    /* node; a: peer */
    CORE_PONG,      /* node; a: peer; b: stamp, in short */
    CORE_VIEW,      /* node: renews its view of the next peer */
    CORE_ARRIVES,   /* a: job */
    CORE_ENDS,      /* node; a: slot; b: serial */
    CORE_STOPPED,   /* node; a: attempt; b: serial */
    CORE_FORGETS,   /* node; a: job */
    CORE_CLAIMED,   /* node; a: slot */
    CORE_RETURNED,  /* node; a: slot */
};

struct core_attempt {
    uint32_t serial; /* of its life; 0 = free */
    uint32_t job;
    uint32_t count;
    uint32_t slot; /* NOTHING: waits */
    int64_t began_us;
    bool stopped;
    uint32_t shard[MESH_BUNDLE_SHARDS_MAX];
};

struct core_slot {
    uint32_t attempt; /* NOTHING: free */
    bool claimed;
};

struct core_site {
    struct mesh *mesh;
    void *memory;
    int64_t wake_us;
    uint32_t wake_serial;
    uint32_t steps;
    uint32_t viewed;
    struct mesh_record capacity; /* the newest */
    struct core_attempt *attempt;
    struct core_slot *slot;
    uint32_t *queue; /* attempts that wait for a slot, in order */
    uint32_t queued;
};

struct core_market {
    const struct market_load *load;
    struct market_tally *tally;
    struct heap heap;
    struct sim_random random;
    int64_t now_us;
    uint32_t sites;
    uint32_t serial;
    uint32_t jobs_left;
    struct core_site *site;
    int64_t *sent_us; /* [from][to] the latest message */
    uint32_t (*ran_at)
        [2]; /* per shard: the sites of the first and the latest attempt that ran it to its end, + 1 */
    uint8_t *committed; /* per shard */
    struct mesh_out *out;
    struct mesh_event *event;
};

static const struct mesh_limits market_limits = {
    .jobs = 1024,
    .shards = 1u << 17,
    .bundles = MESH_BUNDLES_MAX,
    .attempts = 256,
    .demands = MESH_DEMANDS_MAX,
};

static uint32_t id_number(const struct mesh_id *id)
{
    return (uint32_t)id->bytes[28] | (uint32_t)id->bytes[29] << 8 | (uint32_t)id->bytes[30] << 16 |
           (uint32_t)id->bytes[31] << 24;
}

static struct mesh_id site_id(const struct core_market *market, uint32_t site)
{
    return sim_id(market->load->setting.seed, site);
}

static struct event event_in(const struct core_market *market, int64_t in_us, enum core_event what,
                             uint32_t node)
{
    return (struct event){.at_us = market->now_us + in_us, .what = (enum happening)what, .node = node};
}

static void later(struct core_market *market, int64_t in_us, enum core_event what, uint32_t node, uint32_t a,
                  uint32_t b)
{
    struct event event = event_in(market, in_us, what, node);
    event.a = a;
    event.b = b;
    sim_heap_push(&market->heap, event);
}

/* ---- Devices. */

static int64_t shard_us(const struct core_market *market, uint32_t site, uint32_t slot, uint32_t job,
                        uint32_t index)
{
    const struct market_job *const of = &market->load->job[job];
    const int64_t us = market_shard_us(market->load, of->first + index, of->kernel);
    return us * (market_slow(market->load, site, slot) ? MARKET_SLOW : 1);
}

static void slots_serve(struct core_market *market, uint32_t number)
{
    struct core_site *const site = &market->site[number];
    for (uint32_t i = 0; i < market->load->setting.slots && site->queued > 0; i++) {
        if (site->slot[i].claimed || site->slot[i].attempt != NOTHING) {
            continue;
        }
        const uint32_t id = site->queue[0];
        memmove(site->queue, site->queue + 1, --site->queued * sizeof site->queue[0]);
        struct core_attempt *const attempt = &site->attempt[id];
        site->slot[i].attempt = id;
        attempt->slot = i;
        attempt->began_us = market->now_us;
        int64_t took_us = 0;
        for (uint32_t place = 0; place < attempt->count; place++) {
            const uint32_t shard = market->load->job[attempt->job].first + attempt->shard[place];
            market_started(market->tally, attempt->job, shard, market->now_us + took_us);
            took_us += shard_us(market, number, i, attempt->job, attempt->shard[place]);
        }
        later(market, took_us, CORE_ENDS, number, i, attempt->serial);
    }
}

static void core_step(struct core_market *market, uint32_t number);

/* The attempt is over; what of it was done by now is, unless the owner or the home wanted it stopped before. */
static void attempt_over(struct core_market *market, uint32_t number, uint32_t id)
{
    struct core_site *const site = &market->site[number];
    struct core_attempt *const attempt = &site->attempt[id];
    struct mesh_event *const event = market->event;
    event->kind = MESH_RAN;
    event->body.ran.attempt = id;
    event->body.ran.handle = 0;
    event->body.ran.device_us = 0;
    event->body.ran.count = attempt->count;
    bool whole = attempt->slot != NOTHING;
    bool first = false; /* of two attempts at a shard the other's result comes to nothing */
    int64_t done_us = 0;
    for (uint32_t i = 0; i < attempt->count; i++) {
        const uint32_t shard = market->load->job[attempt->job].first + attempt->shard[i];
        if (whole) {
            done_us += shard_us(market, number, attempt->slot, attempt->job, attempt->shard[i]);
            whole = attempt->began_us + done_us <= market->now_us;
        }
        event->body.ran.outcome[i] = whole ? MESH_DONE : MESH_RETURNED;
        if (whole) {
            uint32_t *const ran_at = market->ran_at[shard];
            event->body.ran.device_us = (uint64_t)done_us;
            first = first || ran_at[0] == 0;
            ran_at[ran_at[0] != 0] = number + 1;
        }
    }
    if (attempt->slot != NOTHING) {
        market_ran(market->tally, attempt->began_us, market->now_us, whole && first);
        site->slot[attempt->slot].attempt = NOTHING;
    }
    attempt->serial = 0;
    core_step(market, number);
    slots_serve(market, number);
}

static void device_run(struct core_market *market, uint32_t number, const struct mesh_effect *effect)
{
    struct core_site *const site = &market->site[number];
    struct core_attempt *const attempt = &site->attempt[effect->body.run.attempt];
    attempt->serial = ++market->serial;
    attempt->job = id_number(&effect->body.run.job) - JOB_IDS;
    attempt->count = effect->body.run.count;
    attempt->slot = NOTHING;
    attempt->stopped = false;
    memcpy(attempt->shard, effect->body.run.shard, attempt->count * sizeof attempt->shard[0]);
    site->queue[site->queued++] = effect->body.run.attempt;
    slots_serve(market, number);
}

/* The worker is killed; that takes a moment. */
static void device_stop(struct core_market *market, uint32_t number, uint32_t id)
{
    struct core_site *const site = &market->site[number];
    struct core_attempt *const attempt = &site->attempt[id];
    if (attempt->serial == 0 || attempt->stopped) {
        return;
    }
    attempt->stopped = true;
    for (uint32_t i = 0; i < site->queued; i++) {
        if (site->queue[i] == id) {
            memmove(&site->queue[i], &site->queue[i + 1], (--site->queued - i) * sizeof site->queue[0]);
            break;
        }
    }
    later(market, 50000, CORE_STOPPED, number, id, attempt->serial);
}

static void devices_told(struct core_market *market, uint32_t number)
{
    uint16_t slots = 0;
    for (uint32_t i = 0; i < market->load->setting.slots; i++) {
        slots = (uint16_t)(slots + !market->site[number].slot[i].claimed);
    }
    *market->event = (struct mesh_event){.kind = MESH_DEVICES};
    market->event->body.devices.class[0].slots = slots;
    core_step(market, number);
}

/* What runs there goes back to its home; nothing else starts there before the owner is done. */
static void claimed(struct core_market *market, uint32_t number, uint32_t slot)
{
    struct core_slot *const at = &market->site[number].slot[slot];
    at->claimed = true;
    if (at->attempt != NOTHING) {
        market->tally->interrupted += market->site[number].attempt[at->attempt].count;
        attempt_over(market, number, at->attempt);
    }
    devices_told(market, number);
    later(market, MARKET_CLAIM_US, CORE_RETURNED, number, slot, 0);
}

/* ---- What a step puts out. */

static bool is_work(enum mesh_message_kind kind)
{
    return (kind >= MESH_RESERVE && kind <= MESH_CANCEL) || kind == MESH_WISH;
}

static void send(struct core_market *market, uint32_t from, const struct mesh_send *send, int64_t delay_us)
{
    const uint32_t to = id_number(&send->to);
    if (send->message.kind == MESH_PING) {
        later(market, 2 * MARKET_ONE_WAY_US, CORE_PONG, from, to, 0);
        return;
    }
    if (!is_work(send->message.kind)) {
        return;
    }
    struct event event = event_in(market, delay_us, CORE_HEARS, to);
    event.a = from;
    const size_t bytes = mesh_message_bytes(&send->message);
    event.item = malloc(bytes);
    if (event.item == NULL) {
        exit(1);
    }
    memcpy(event.item, &send->message, bytes);
    if (from != to) {
        int64_t *const latest_us = &market->sent_us[(size_t)from * market->sites + to];
        if (*latest_us != market->now_us + delay_us) {
            market_message(market->tally, market->now_us + delay_us);
        }
        *latest_us = market->now_us + delay_us;
        event.at_us += MARKET_ONE_WAY_US;
    }
    sim_heap_push(&market->heap, event);
}

static void commit(struct core_market *market, const struct mesh_save *save)
{
    const uint32_t job = id_number(&save->body.commit.job) - JOB_IDS;
    const uint32_t executor = id_number(&save->body.commit.executor);
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t shard = market->load->job[job].first + save->body.commit.shard[i].shard;
        market->tally->lost += market->committed[shard];
        market->committed[shard] = 1;
        const uint32_t *const ran_at = market->ran_at[shard];
        market->tally->billed += ran_at[0] != executor + 1 && ran_at[1] != executor + 1;
    }
    market_done(market->tally, job, save->body.commit.count, market->now_us + SYNC_US);
    if (market->tally->left[job] == 0) {
        market->jobs_left--;
    }
}

static void effect(struct core_market *market, uint32_t number, const struct mesh_effect *effect)
{
    struct event event;
    switch (effect->kind) {
    case MESH_SIGN:
        event = event_in(market, 0, CORE_RECORD, number);
        event.item = malloc(sizeof effect->body.record);
        if (event.item == NULL) {
            exit(1);
        }
        memcpy(event.item, &effect->body.record, sizeof effect->body.record);
        sim_heap_push(&market->heap, event);
        break;
    case MESH_LINK_KEEP:
        later(market, 4 * MARKET_ONE_WAY_US, CORE_LINKED, number, id_number(&effect->body.peer), 0);
        break;
    case MESH_RUN:
        device_run(market, number, effect);
        break;
    case MESH_STOP:
        device_stop(market, number, effect->body.stop.attempt);
        break;
    case MESH_JOB:
        assert(effect->body.job.refusal == MESH_ACCEPTED);
        if (effect->body.job.state == MESH_JOB_DONE) {
            later(market, PRUNE_US, CORE_FORGETS, number, id_number(&effect->body.job.id) - JOB_IDS, 0);
        }
        break;
    default:
        break;
    }
}

static void plan_wake(struct core_market *market, uint32_t number, int64_t wake_at_ms)
{
    struct core_site *const site = &market->site[number];
    const int64_t at_us = wake_at_ms * 1000 > market->now_us ? wake_at_ms * 1000 : market->now_us;
    if (at_us < site->wake_us) {
        site->wake_us = at_us;
        later(market, at_us - market->now_us, CORE_WAKES, number, ++site->wake_serial, 0);
    }
}

/* Gives market->event to the core and does what it says. Effects may lead to further steps only by way of the heap. */
static void core_step(struct core_market *market, uint32_t number)
{
    struct core_site *const site = &market->site[number];
    market->event->now_ms = market->now_us / 1000;
    market->event->wall_ms = market->now_us / 1000;
    struct mesh_out *const out = market->out;
    mesh_step(site->mesh, market->event, out);
    const int64_t delay_us = out->save_count > 0 ? SYNC_US : 0;
    for (uint32_t i = 0; i < out->save_count; i++) {
        if (out->save[i].kind == MESH_SAVE_COMMIT) {
            commit(market, &out->save[i]);
        }
    }
    for (uint32_t i = 0; i < out->send_count; i++) {
        send(market, number, &out->send[i], delay_us);
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        effect(market, number, &out->effect[i]);
    }
    plan_wake(market, number, out->wake_at_ms);
    if (++site->steps % CHECK_STEPS == 0) {
        mesh_check(site->mesh);
    }
}

/* ---- Events. */

static void hears(struct core_market *market, uint32_t number, uint32_t from,
                  const struct mesh_message *message)
{
    market->event->kind = MESH_RECEIVED;
    market->event->body.received.from = site_id(market, from);
    market->event->body.received.message = message;
    market->event->body.received.rtt_us = message->kind == MESH_PONG ? 2 * (uint32_t)MARKET_ONE_WAY_US : 0;
    core_step(market, number);
}

static void linked(struct core_market *market, uint32_t number, uint32_t peer)
{
    market->event->kind = MESH_LINK_UP;
    market->event->body.link.peer = site_id(market, peer);
    market->event->body.link.protocol = MESH_PROTOCOL_MAX;
    market->event->body.link.reset = false;
    core_step(market, number);
}

static void record(struct core_market *market, uint32_t number, const struct mesh_id *from,
                   const struct mesh_record *record)
{
    market->event->kind = MESH_RECORD;
    market->event->body.record.from = *from;
    market->event->body.record.record = *record;
    market->event->body.record.record.handle = 1;
    core_step(market, number);
}

static void own_record(struct core_market *market, uint32_t number, const struct mesh_record *signed_record)
{
    if (signed_record->kind == MESH_RECORD_CAPACITY) {
        market->site[number].capacity = *signed_record;
    }
    record(market, number, &signed_record->origin, signed_record);
}

/* One peer after the other, so that a round takes MARKET_VIEW_US. */
static void view(struct core_market *market, uint32_t number)
{
    struct core_site *const site = &market->site[number];
    later(market, MARKET_VIEW_US / market->sites, CORE_VIEW, number, 0, 0);
    site->viewed = (site->viewed + 1) % market->sites;
    const struct core_site *const peer = &market->site[site->viewed];
    if (site->viewed != number && peer->capacity.kind == MESH_RECORD_CAPACITY) {
        const struct mesh_id from = site_id(market, site->viewed);
        record(market, number, &from, &peer->capacity);
    }
}

static void arrives(struct core_market *market, uint32_t number)
{
    const struct market_job *const job = &market->load->job[number];
    if (number + 1 < market->load->job_count) {
        const int64_t in_us = job[1].at_us - market->now_us;
        later(market, in_us > 0 ? in_us : 0, CORE_ARRIVES, 0, number + 1, 0);
    }
    *market->event = (struct mesh_event){.kind = MESH_SUBMIT};
    market->event->body.submit = (struct mesh_job_spec){
        .id = sim_id(market->load->setting.seed, JOB_IDS + number),
        .epoch = 1,
        .tenant = job->site + 1,
        .kernel = job->kernel + 1,
        .shard_count = job->shards,
        .bundle_shards_max = 16,
        .shard_us_guess = (uint32_t)MARKET_SHARD_US,
        .classes = 1,
        .speculate = market->load->setting.speculate,
    };
    core_step(market, job->site);
}

static void happen(struct core_market *market, struct event *event)
{
    const uint32_t number = event->node;
    struct core_site *const site = &market->site[number];
    switch ((enum core_event)event->what) {
    case CORE_WAKES:
        if (event->a == site->wake_serial) {
            site->wake_us = INT64_MAX;
            market->event->kind = MESH_TICK;
            core_step(market, number);
        }
        break;
    case CORE_HEARS:
        hears(market, number, event->a, event->item);
        break;
    case CORE_RECORD:
        own_record(market, number, event->item);
        break;
    case CORE_LINKED:
        linked(market, number, event->a);
        break;
    case CORE_PONG:
        hears(market, number, event->a, &(struct mesh_message){.kind = MESH_PONG});
        break;
    case CORE_VIEW:
        view(market, number);
        break;
    case CORE_ARRIVES:
        arrives(market, event->a);
        break;
    case CORE_ENDS:
        if (site->slot[event->a].attempt != NOTHING &&
            site->attempt[site->slot[event->a].attempt].serial == event->b) {
            attempt_over(market, number, site->slot[event->a].attempt);
        }
        break;
    case CORE_STOPPED:
        if (site->attempt[event->a].serial == event->b) {
            attempt_over(market, number, event->a);
        }
        break;
    case CORE_FORGETS:
        market->event->kind = MESH_FORGET_JOB;
        market->event->body.job.id = sim_id(market->load->setting.seed, JOB_IDS + event->a);
        core_step(market, number);
        break;
    case CORE_CLAIMED:
        claimed(market, number, event->a);
        break;
    case CORE_RETURNED:
        site->slot[event->a].claimed = false;
        devices_told(market, number);
        slots_serve(market, number);
        break;
    }
}

/* ---- A market's life. */

static void site_open(struct core_market *market, uint32_t number)
{
    struct core_site *const site = &market->site[number];
    const uint32_t slots = market->load->setting.slots;
    struct mesh_config config = {
        .limits = market_limits,
        .self = site_id(market, number),
        .site = number + 1,
        .region = number % 4 + 1,
        .incarnation = 1,
        .session = number + 1,
        .seed = {number, market->load->setting.seed},
    };
    config.limits.members = market->sites + 2;
    site->memory = sim_alloc(1, mesh_size(&config.limits));
    site->mesh = mesh_init(site->memory, &config);
    site->wake_us = INT64_MAX;
    site->attempt = sim_alloc(market_limits.attempts, sizeof *site->attempt);
    site->queue = sim_alloc(market_limits.attempts, sizeof *site->queue);
    site->slot = sim_alloc(slots, sizeof *site->slot);
    site->viewed = sim_below(&market->random, market->sites);
    for (uint32_t i = 0; i < slots; i++) {
        site->slot[i].attempt = NOTHING;
    }
    devices_told(market, number);
    for (uint32_t peer = 0; peer < market->sites; peer++) {
        const struct mesh_record member = {
            .kind = MESH_RECORD_MEMBER,
            .origin = site_id(market, peer),
            .incarnation = 1,
            .version = 1,
            .body.member = {.session = peer + 1, .site = peer + 1, .region = peer % 4 + 1},
        };
        if (peer != number) {
            record(market, number, &config.self, &member);
            linked(market, number, peer);
        }
    }
    later(market, sim_between(&market->random, 0, MARKET_VIEW_US / market->sites), CORE_VIEW, number, 0, 0);
}

/* Once an hour each device may be claimed, at a moment of its own. */
static void claims_plan(struct core_market *market)
{
    const struct market_setting *const setting = &market->load->setting;
    for (int64_t hour_us = MARKET_WARM_US; hour_us < market->load->end_us;
         hour_us += 3600 * MARKET_SECOND_US) {
        for (uint32_t device = 0; device < setting->sites * setting->slots; device++) {
            const bool taken = sim_chance(&market->random, setting->claim_permille);
            const int64_t at_us =
                hour_us + sim_between(&market->random, 0, 3600 * MARKET_SECOND_US - MARKET_CLAIM_US - 1);
            if (taken && at_us < market->load->end_us) {
                later(market, at_us, CORE_CLAIMED, device / setting->slots, device % setting->slots, 0);
            }
        }
    }
}

static void counters_add(struct mesh_counters *sum, const struct mesh_counters *more)
{
#define ADD(name) sum->name += more->name;
    MESH_COUNTERS(ADD)
#undef ADD
}

static void market_close(struct core_market *market, struct mesh_counters *counters)
{
    for (uint32_t i = 0; i < market->sites; i++) {
        struct core_site *const site = &market->site[i];
        mesh_check(site->mesh);
        if (counters != NULL) {
            counters_add(counters, mesh_counters(site->mesh));
        }
        free(site->memory);
        free(site->attempt);
        free(site->queue);
        free(site->slot);
    }
    while (market->heap.count > 0) {
        free(sim_heap_pop(&market->heap).item);
    }
    sim_heap_free(&market->heap);
    free(market->site);
    free(market->sent_us);
    free(market->ran_at);
    free(market->committed);
    free(market->out);
    free(market->event);
}

struct market_tally *market_core(const struct market_load *load, struct mesh_counters *counters)
{
    struct core_market market = {.load = load, .sites = load->setting.sites, .jobs_left = load->job_count};
    market.tally = market_tally(load);
    market.random.state = sim_mix(load->setting.seed, 0x636f7265);
    market.site = sim_alloc(market.sites, sizeof *market.site);
    market.sent_us = sim_alloc((size_t)market.sites * market.sites, sizeof *market.sent_us);
    market.ran_at = sim_alloc(load->shard_count, sizeof *market.ran_at);
    market.committed = sim_alloc(load->shard_count, 1);
    market.out = sim_alloc(1, sizeof *market.out);
    market.event = sim_alloc(1, sizeof *market.event);
    for (uint32_t i = 0; i < market.sites; i++) {
        site_open(&market, i);
    }
    claims_plan(&market);
    later(&market, load->job[0].at_us + SETTLE_US, CORE_ARRIVES, 0, 0, 0);
    while (market.jobs_left > 0 && market.now_us < load->end_us + DRAIN_US) {
        struct event event = sim_heap_pop(&market.heap);
        market.now_us = event.at_us;
        happen(&market, &event);
        free(event.item);
    }
    market_close(&market, counters);
    return market.tally;
}
