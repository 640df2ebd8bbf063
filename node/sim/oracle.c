/*
 * A second opinion on each core, from nothing but what goes in and comes out of it: small models of what an executor
 * holds, what a home has out, and what was said about whom. Each is a few lines where the core has pages, since it need
 * not be quick, bounded or complete; where the two disagree, one of them is wrong.
 *
 *     what it keeps       born of                      ends with
 *     held     (executor) RUN                          RESULT_ACK, RAN once nobody wants the result, or room made at the
 *                                                      bound; ADOPTED: another home
 *     promise  (executor) GRANT sent                   2.5 s
 *     out      (home)     ASSIGN or ADOPTED sent       RESULT or EXPIRED received, RESULT_ACK or CANCEL sent,
 *                                                      executor restarted, job moved
 *     owed     (home)     RESULT received              RESULT_ACK sent, executor restarted, job moved
 *     word     (anyone)   ALERT received               a newer one by the same accuser about the same member
 *
 * Words and notes are of those who spoke, so that a large world costs what happens in it. A study of a large world measures,
 * and goes without.
 */
#include "node/sim/world.h"

/* The protocol's times, from docs/protocol.md: said again here, so that a mistake in the core's is noticed. */
enum {
    GRANT_KEPT_MS = 2500,
    RENEW_MS = 2500,
    RENEW_LEFT_MS = 7500,
    LEASE_MS = 20000,
    HOME_LEASE_MS = 25000,
    KEPT_MS =
        600000, /* an attempt whose job has several homes to come waits for one of them, and so does its result */
    RESEND_MS = 2000,
    OFFERS_DUE =
        32, /* times that a result is due, of which one at least is used where others keep the journal */
    ROUND_LATE_MS = 100,    /* and by so much one of these times may be late */
    RESEND_LONG_MS = 8000,  /* of a bundle of ACK_LATER_US */
    ACK_LATER_US = 4000000, /* the acknowledgement of a longer bundle may wait for company */
    LOST_MS = 6000, /* a home that is silent for so long is taken for lost, where others may have its job */
    ALERT_TTL_MS = 20000,
    ALERT_REPEAT_MS = 5000,
};

/* What may be late, because a step's output is bounded and the rest follows. */
#define LATE_MS 1000
/* After a pause a node has more to say than fits one step. */
#define PAUSED_MS 1000
/* The newest grants of others that a home is known to have had, so that a repeated one is told. */
#define TOKENS_KEPT 4096
/* Of one member those that are surely told. */
#define TOKENS_TOLD 16
/* From so many on those that count no more are forgotten: more than the pairs of a small world. */
#define WORDS_MANY 6144
/* Accusations are new together if they come within so long. */
#define AT_ONCE_MS 2000
/* A link is silent after 6 s, and doubt lasts 15 s: within 12 s nobody has doubted for long enough. */
#define HEARD_LATELY_MS 12000

struct held {
    uint32_t attempt;
    uint32_t home;
    uint32_t job;
    uint64_t epoch;
    struct mesh_bundle_name name;
    bool kept; /* others keep the job's journal too */
    uint32_t count;
    uint32_t *shard; /* those that were done, once it is finished */
    bool stopped;
    bool finished;
    bool took_long;
    bool unwanted;
    uint64_t handle; /* of the results */
    int64_t finished_ms;
    int64_t stop_by_ms;
    int64_t renewed_ms; /* by its home */
    int64_t told_ms;    /* RENEW, or RESULT once it is finished */
};

struct promise {
    uint64_t token;
    uint32_t home;
    uint32_t job;
    uint16_t class;
    uint16_t places;
    uint16_t given_back;
    uint64_t used;
    int64_t made_ms;
};

struct out_bundle {
    struct mesh_bundle_name name;
    uint32_t executor;
    uint32_t job;
    bool lost;      /* its shards were queued again */
    bool ever_lost; /* and so some may be somebody else's */
    bool check;     /* a further opinion on results that are here */
    int64_t renewed_ms;
    int64_t cancel_by_ms;
    uint32_t count;
    uint32_t left; /* shards not committed since */
    uint32_t *shard;
};

/*
 * A result that was taken and is acknowledged once that is settled. Meanwhile a grant repeated late may bind its name
 * anew: then the acknowledgement is of the first use, and the second is still out.
 */
struct owed {
    struct mesh_bundle_name name;
    uint32_t executor;
    uint32_t job;
};

/* How often each shard of a job crashed in a bundle that was never lost, in this life of its home, until it was
 * committed. */
struct crashes {
    uint32_t job;
    uint8_t *of_shard;
};
#define COMMITTED UINT8_MAX

/* What one node said about another: its newest accusation, and its newest withdrawal that surely counted here. */
struct said {
    uint64_t incarnation; /* of the accuser's record; 0 = none */
    uint64_t version;
    uint64_t about; /* the incarnation it speaks of */
    int64_t at_ms;
};

struct word {
    uint64_t key; /* the accuser and the subject, hosts */
    struct said accusation;
    struct said withdrawal;
};

struct peer_note {
    uint64_t key; /* the host */
    uint64_t session;
    bool neighbour;
    int64_t heard_ms;
    int64_t accused_ms;      /* by this node, anew */
    uint64_t accused_before; /* the incarnation */
};

/* Rows by key, open addressing; a row begins with its key + 1, and 0 is a free one. */
struct table {
    void *row;
    uint32_t count;
    uint32_t room; /* a power of two */
};

struct oracle {
    int64_t now_ms;
    int64_t strict_from_ms; /* not before: it was paused */
    bool draining;
    bool released;           /* a link, in this step */
    struct crashes *crashes; /* per job of which a shard crashed */
    uint32_t crashes_count;
    struct held *held;
    uint32_t held_count;
    int64_t held_due_ms; /* before then nothing is due of any of them, and the core need not be called */
    uint64_t freed;      /* the core's count of results that made room */
    struct promise *promise;
    uint32_t promise_count;
    struct out_bundle *out;
    uint32_t out_count;
    struct owed *owed;
    uint32_t owed_count;
    struct mesh_bundle_name token[TOKENS_KEPT]; /* the index is the executor */
    uint32_t tokens;
    struct table notes; /* struct peer_note */
    struct table words; /* struct word */
};

static bool same_name(const struct mesh_bundle_name *a, const struct mesh_bundle_name *b)
{
    return a->token == b->token && a->index == b->index;
}

static void *table_row(const struct table *table, size_t bytes, uint32_t place)
{
    return (char *)table->row + place * bytes;
}

static uint64_t *table_place(const struct table *table, size_t bytes, uint64_t key)
{
    uint32_t at = (uint32_t)sim_mix(key, 0) & (table->room - 1);
    uint64_t *row = table_row(table, bytes, at);
    while (*row != 0 && *row != key + 1) {
        at = (at + 1) & (table->room - 1);
        row = table_row(table, bytes, at);
    }
    return row;
}

/* Its rows but those that are not worth keeping move to another room. */
static void table_move(struct table *table, size_t bytes, uint32_t room,
                       bool (*worth)(const struct oracle *oracle, const void *row),
                       const struct oracle *oracle)
{
    const struct table old = *table;
    *table = (struct table){.row = sim_alloc(room, bytes), .room = room};
    for (uint32_t i = 0; i < old.room; i++) {
        const uint64_t *const row = table_row(&old, bytes, i);
        if (*row != 0 && (worth == NULL || worth(oracle, row))) {
            memcpy(table_place(table, bytes, *row - 1), row, bytes);
            table->count++;
        }
    }
    free(old.row);
}

/* The row of that key, made if there was none. Borrowed until the next call. */
static void *table_meet(struct table *table, size_t bytes, uint64_t key)
{
    if (4 * table->count >= 3 * table->room) {
        table_move(table, bytes, table->room != 0 ? 2 * table->room : 16, NULL, NULL);
    }
    uint64_t *const row = table_place(table, bytes, key);
    table->count += *row == 0;
    *row = key + 1;
    return row;
}

static struct peer_note *note_of(struct oracle *oracle, uint32_t peer)
{
    return table_meet(&oracle->notes, sizeof(struct peer_note), peer);
}

static struct oracle *oracle_of(struct host *host)
{
    if (host->oracle == NULL) {
        host->oracle = sim_alloc(1, sizeof *host->oracle);
    }
    return host->oracle;
}

void sim_oracle_free(struct host *host)
{
    if (host->oracle == NULL) {
        return;
    }
    for (uint32_t i = 0; i < host->oracle->out_count; i++) {
        free(host->oracle->out[i].shard);
    }
    for (uint32_t i = 0; i < host->oracle->crashes_count; i++) {
        free(host->oracle->crashes[i].of_shard);
    }
    for (uint32_t i = 0; i < host->oracle->held_count; i++) {
        free(host->oracle->held[i].shard);
    }
    free(host->oracle->crashes);
    free(host->oracle->held);
    free(host->oracle->promise);
    free(host->oracle->out);
    free(host->oracle->owed);
    free(host->oracle->notes.row);
    free(host->oracle->words.row);
    free(host->oracle);
    host->oracle = NULL;
}

/* ---- The executor: attempts. */

static struct held *held_find(struct oracle *oracle, uint32_t home, const struct mesh_bundle_name *name)
{
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        if (oracle->held[i].home == home && same_name(&oracle->held[i].name, name)) {
            return &oracle->held[i];
        }
    }
    return NULL;
}

static struct held *held_attempt(struct oracle *oracle, uint32_t attempt)
{
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        if (oracle->held[i].attempt == attempt && !oracle->held[i].finished) {
            return &oracle->held[i];
        }
    }
    return NULL;
}

static void held_forget(struct oracle *oracle, struct held *held)
{
    free(held->shard);
    *held = oracle->held[--oracle->held_count];
}

/* The lease of an attempt, after which it is stopped; that of a kept one is looked at once a lease. */
static int64_t held_lease_ms(const struct held *held)
{
    return held->renewed_ms + (held->kept ? KEPT_MS + LEASE_MS : LEASE_MS);
}

/*
 * Of results whose home is silent one of each job goes on asking, and the others more and more seldom. Each time that one might
 * be told is counted from the one before, and where many are due at once some wait for the next steps.
 */
static int64_t result_due_ms(const struct held *held)
{
    const int64_t resend_ms = held->took_long ? RESEND_LONG_MS : RESEND_MS;
    const int64_t due_ms =
        held->told_ms + (held->kept ? OFFERS_DUE * (resend_ms + ROUND_LATE_MS) : resend_ms);
    /* One that waited for so long is thrown away, which shows only of those with bytes. */
    return held->kept && due_ms >= held->finished_ms + KEPT_MS ? INT64_MAX : due_ms;
}

/* Of a kept result the times are counted that it might have been told, and those of a pause are one. */
static void held_paused(struct oracle *oracle, int64_t for_ms)
{
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        if (oracle->held[i].finished && oracle->held[i].kept) {
            oracle->held[i].told_ms += for_ms;
        }
    }
}

/* When the core must do something about this attempt by itself; it has to have asked to be called by then. */
static int64_t held_due_ms(const struct held *held)
{
    if (held->finished) {
        return result_due_ms(held);
    }
    if (held->stopped) {
        return INT64_MAX;
    }
    const int64_t lease_ms = held_lease_ms(held);
    /* Looked at every RENEW_MS, and said once no more than RENEW_LEFT_MS are left. */
    const int64_t first_ms = held->renewed_ms + LEASE_MS - RENEW_LEFT_MS + RENEW_MS;
    const int64_t again_ms = held->told_ms + RENEW_MS;
    const int64_t renewal_ms = again_ms > first_ms ? again_ms : first_ms;
    return lease_ms < renewal_ms ? lease_ms : renewal_ms;
}

static void held_due_by(struct oracle *oracle, int64_t due_ms)
{
    oracle->held_due_ms = due_ms < oracle->held_due_ms ? due_ms : oracle->held_due_ms;
}

static void held_must_stop(struct oracle *oracle, struct held *held)
{
    if (!held->finished && !held->stopped && held->stop_by_ms == INT64_MAX) {
        held->stop_by_ms = oracle->now_ms + LATE_MS;
        held_due_by(oracle, held->stop_by_ms);
    }
    held->unwanted = true;
}

static void executor_cancelled(struct oracle *oracle, uint32_t home, uint32_t job, uint64_t epoch)
{
    for (uint32_t i = oracle->held_count; i-- > 0;) {
        struct held *const held = &oracle->held[i];
        if (held->home != home || held->job != job || held->epoch > epoch) {
            continue;
        }
        held_must_stop(oracle, held);
        if (held->finished) {
            held_forget(oracle, held);
        }
    }
}

static void executor_home_revoked(struct oracle *oracle, uint32_t home)
{
    for (uint32_t i = oracle->held_count; i-- > 0;) {
        struct held *const held = &oracle->held[i];
        if (held->home != home) {
            continue;
        }
        held_must_stop(oracle, held);
        if (held->finished) {
            held_forget(oracle, held);
        }
    }
}

static void executor_renewed(struct oracle *oracle, uint32_t home, const struct mesh_message *message)
{
    for (uint32_t i = 0; i < message->body.renew.count; i++) {
        struct held *const held = held_find(oracle, home, &message->body.renew.name[i]);
        if (held != NULL && !held->stopped && !held->finished && !held->unwanted) {
            held->renewed_ms = oracle->now_ms;
        }
    }
}

/* The new home of an attempt's job takes it over. */
static void executor_adopted(struct oracle *oracle, uint32_t home, const struct mesh_message *message)
{
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        struct held *const held = &oracle->held[i];
        if (same_name(&held->name, &message->body.adopted.name) && held->kept &&
            (!held->stopped || held->finished) && held->home != home &&
            message->body.adopted.epoch > held->epoch) {
            held->home = home;
            held->epoch = message->body.adopted.epoch;
            held->renewed_ms = oracle->now_ms;
            held->told_ms = held->finished ? held->told_ms : oracle->now_ms;
        }
    }
}

/* It is let go: what it did is durable. */
static void executor_let_go(struct world *world, struct host *host, struct oracle *oracle, struct held *held)
{
    for (uint32_t i = 0; i < held->count && !held->unwanted; i++) {
        sim_truth_acked(world, host, &world->host[held->home], held->job, held->shard[i], &held->name);
    }
    held_forget(oracle, held);
}

static void executor_ran(struct oracle *oracle, const struct mesh_event *event)
{
    struct held *const held = held_attempt(oracle, event->body.ran.attempt);
    if (held == NULL) {
        return;
    }
    uint32_t done = 0;
    for (uint32_t i = 0; i < held->count && i < event->body.ran.count; i++) {
        held->shard[done] = held->shard[i];
        done += event->body.ran.outcome[i] == MESH_DONE;
    }
    held->count = done;
    held->finished = true;
    held->took_long = event->body.ran.device_us >= ACK_LATER_US;
    held->handle = event->body.ran.handle;
    held->finished_ms = held->told_ms = oracle->now_ms;
    held_due_by(oracle, held_due_ms(held));
    if (held->unwanted) {
        held_forget(oracle, held);
    }
}

static bool drops(const struct mesh_out *out, uint64_t handle)
{
    for (uint32_t i = 0; i < out->effect_count; i++) {
        if (out->effect[i].kind == MESH_DROP && out->effect[i].body.handle == handle) {
            return true;
        }
    }
    return false;
}

static bool surely_orphaned(const struct oracle *oracle, const struct held *held)
{
    const int64_t heard_ms = held->renewed_ms > held->finished_ms ? held->renewed_ms : held->finished_ms;
    return held->finished && held->kept && oracle->now_ms - heard_ms >= LOST_MS;
}

/* This result made room: its home is lost, and no older one had to go first. */
static void check_freed(struct world *world, struct host *host, const struct oracle *oracle,
                        const struct held *freed, const struct mesh_out *out)
{
    struct mesh_member_view view;
    const char *const home = world->host[freed->home].name;
    if (!freed->kept && mesh_member_find(host->mesh, &world->host[freed->home].id, &view) &&
        (view.state == MESH_UP || view.state == MESH_SUSPECT)) {
        sim_check_fail(world, host, SIM_LEASES_HOLD, "a RESULT for %s, which lives, is thrown away", home);
    }
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        const struct held *const held = &oracle->held[i];
        if (surely_orphaned(oracle, held) && held->finished_ms < freed->finished_ms && held->handle != 0 &&
            !drops(out, held->handle)) {
            sim_check_fail(world, host, SIM_LEASES_HOLD,
                           "a RESULT for %s is thrown away before one that is %lld ms older", home,
                           (long long)(freed->finished_ms - held->finished_ms));
        }
    }
}

/* At the bound of its table a core throws results of lost homes away. Which of those without bytes is not seen: of them
 * nothing is demanded any more. */
static void executor_frees(struct world *world, struct host *host, struct oracle *oracle,
                           const struct mesh_out *out)
{
    if (mesh_counters(host->mesh)->orphans_freed == oracle->freed) {
        return;
    }
    oracle->freed = mesh_counters(host->mesh)->orphans_freed;
    for (uint32_t i = oracle->held_count; i-- > 0;) {
        struct held *const held = &oracle->held[i];
        if (!held->finished || (held->handle != 0 && !drops(out, held->handle))) {
            continue;
        }
        if (held->handle != 0) {
            check_freed(world, host, oracle, held, out);
        }
        held_forget(oracle, held);
    }
}

/* ---- The executor: promises. */

static struct promise *promise_find(struct oracle *oracle, uint64_t token)
{
    for (uint32_t i = 0; i < oracle->promise_count; i++) {
        if (oracle->promise[i].token == token) {
            return &oracle->promise[i];
        }
    }
    return NULL;
}

static void promises_end(struct oracle *oracle)
{
    for (uint32_t i = oracle->promise_count; i-- > 0;) {
        if (oracle->now_ms - oracle->promise[i].made_ms >= GRANT_KEPT_MS) {
            oracle->promise[i] = oracle->promise[--oracle->promise_count];
        }
    }
}

static void promise_made(struct world *world, struct host *host, struct oracle *oracle, uint32_t home,
                         const struct mesh_message *grant)
{
    if (oracle->draining && &world->host[home] != host) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "it drains and grants %u places to %s",
                       grant->body.grant.places, world->host[home].name);
    }
    oracle->promise = sim_grow(oracle->promise, oracle->promise_count + 1, sizeof *oracle->promise);
    oracle->promise[oracle->promise_count++] =
        (struct promise){.token = grant->body.grant.token,
                         .home = home,
                         .job = sim_world_job(world, &grant->body.grant.job),
                         .class = grant->body.grant.class,
                         .places = grant->body.grant.places,
                         .made_ms = oracle->now_ms};
}

static void executor_runs(struct world *world, struct host *host, struct oracle *oracle, uint32_t home,
                          const struct mesh_effect *effect, const struct mesh_message *assign)
{
    const struct mesh_bundle_name *const name = &assign->body.assign.name;
    struct promise *const promise = promise_find(oracle, name->token);
    if (oracle->draining && &world->host[home] != host) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "it drains and runs a bundle of %s",
                       world->host[home].name);
    } else if (promise == NULL || promise->home != home || name->index >= promise->places ||
               promise->class != assign->body.assign.class ||
               promise->job != sim_world_job(world, &assign->body.assign.job)) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "it runs a bundle of %s without a promise of now",
                       world->host[home].name);
    } else if (promise->used >> name->index & 1) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "it runs place %u of a grant of %s a second time",
                       name->index, world->host[home].name);
    } else {
        promise->used |= UINT64_C(1) << name->index;
    }
    oracle->held = sim_grow(oracle->held, oracle->held_count + 1, sizeof *oracle->held);
    oracle->held[oracle->held_count++] =
        (struct held){.attempt = effect->body.run.attempt,
                      .home = home,
                      .job = sim_world_job(world, &effect->body.run.job),
                      .epoch = effect->body.run.epoch,
                      .name = *name,
                      .kept = assign->kind == MESH_ASSIGN_KEPT,
                      .count = effect->body.run.count,
                      .shard = sim_alloc(effect->body.run.count, sizeof(uint32_t)),
                      .stop_by_ms = INT64_MAX,
                      .renewed_ms = oracle->now_ms,
                      .told_ms = oracle->now_ms};
    memcpy(oracle->held[oracle->held_count - 1].shard, effect->body.run.shard,
           effect->body.run.count * sizeof(uint32_t));
    held_due_by(oracle, held_due_ms(&oracle->held[oracle->held_count - 1]));
}

static void executor_stops(struct oracle *oracle, uint32_t attempt)
{
    struct held *const held = held_attempt(oracle, attempt);
    if (held != NULL) {
        held->stopped = true;
        held->unwanted = held->unwanted || oracle->now_ms >= held_lease_ms(held);
    }
}

/* At the end of a step: whose lease has ended is not wanted any more, also if the order to stop it must wait for room. */
static void executor_leases_end(struct oracle *oracle)
{
    if (oracle->now_ms < oracle->held_due_ms) {
        return;
    }
    for (uint32_t i = 0; i < oracle->held_count; i++) {
        struct held *const held = &oracle->held[i];
        if (!held->finished && !held->stopped && oracle->now_ms >= held_lease_ms(held)) {
            held_must_stop(oracle, held);
        }
    }
}

static void check_held(struct world *world, struct host *host, struct oracle *oracle,
                       const struct mesh_out *out)
{
    if (oracle->now_ms < oracle->held_due_ms && out->wake_at_ms <= oracle->held_due_ms) {
        return;
    }
    oracle->held_due_ms = INT64_MAX;
    for (uint32_t i = 0; i < oracle->held_count && !world->failed; i++) {
        const struct held *const held = &oracle->held[i];
        const char *const home = world->host[held->home].name;
        const int64_t now_ms = oracle->now_ms - LATE_MS;
        const int64_t due_ms = held_due_ms(held);
        held_due_by(oracle, due_ms);
        held_due_by(oracle, held->finished || held->stopped ? INT64_MAX : held->stop_by_ms);
        if (out->wake_at_ms > due_ms && out->wake_at_ms > oracle->now_ms) {
            sim_check_fail(world, host, SIM_WAKES_IN_TIME, "it asks to be called %lld ms too late",
                           (long long)(out->wake_at_ms - due_ms));
        }
        if (now_ms < oracle->strict_from_ms || held->stopped) {
            continue;
        }
        if (!held->finished && (held->stop_by_ms < now_ms || now_ms > held_lease_ms(held))) {
            sim_check_fail(world, host, SIM_LEASES_HOLD, "an attempt for %s runs on although %s", home,
                           held->stop_by_ms < now_ms ? "it was cancelled" : "its lease has ended");
        } else if (now_ms > due_ms) {
            sim_check_fail(world, host, SIM_LEASES_HOLD, "%s for %s is overdue",
                           held->finished ? "a RESULT" : "a RENEW", home);
        }
    }
}

/* ---- The home. A bundle that was lost may be forgotten at any time: of such a one nothing is demanded. */

static struct out_bundle *out_find(struct oracle *oracle, uint32_t executor,
                                   const struct mesh_bundle_name *name)
{
    for (uint32_t i = 0; i < oracle->out_count; i++) {
        if (oracle->out[i].executor == executor && same_name(&oracle->out[i].name, name)) {
            return &oracle->out[i];
        }
    }
    return NULL;
}

static void out_forget(struct oracle *oracle, struct out_bundle *bundle)
{
    free(bundle->shard);
    *bundle = oracle->out[--oracle->out_count];
}

static bool out_has(const struct out_bundle *bundle, uint32_t job, uint32_t shard)
{
    for (uint32_t i = 0; bundle->job == job && i < bundle->count; i++) {
        if (bundle->shard[i] == shard) {
            return true;
        }
    }
    return false;
}

/* Whether the step says so of what it assigns to the member. */
static bool is_check(const struct mesh_out *out, const struct mesh_id *to, const struct mesh_message *assign)
{
    for (uint32_t i = 0; i < out->effect_count; i++) {
        const struct mesh_effect *const effect = &out->effect[i];
        if (effect->kind == MESH_DECISION && effect->body.decision.why == MESH_WHY_CHECKING &&
            effect->body.decision.shard == assign->body.assign.shard[0] &&
            memcmp(&effect->body.decision.member, to, sizeof *to) == 0 &&
            memcmp(&effect->body.decision.job, &assign->body.assign.job, sizeof *to) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * A shard is tried twice at a time at most, and at two members. It may be checked meanwhile: a copy of which something is
 * still wanted runs on with what others brought.
 */
static void check_attempts(struct world *world, struct host *host, const struct oracle *oracle,
                           uint32_t executor, const struct mesh_message *assign, bool check)
{
    const uint32_t job = sim_world_job(world, &assign->body.assign.job);
    for (uint32_t i = 0; i < assign->body.assign.count && !world->failed; i++) {
        const uint32_t shard = assign->body.assign.shard[i];
        uint32_t attempts = 0;
        bool there = false;
        for (uint32_t j = 0; j < oracle->out_count; j++) {
            const struct out_bundle *const bundle = &oracle->out[j];
            const bool lives = !bundle->ever_lost && oracle->now_ms < bundle->renewed_ms + HOME_LEASE_MS;
            if (lives && bundle->check == check && out_has(bundle, job, shard)) {
                attempts++;
                there = there || bundle->executor == executor;
            }
        }
        if (there || attempts > !check) {
            sim_check_fail(world, host, SIM_PROMISES_HOLD, "shard %u of job %u goes to %s %s", shard, job,
                           world->host[executor].name, there ? "twice" : "and is at two members already");
        }
    }
}

static void out_add(struct oracle *oracle, uint32_t executor, uint32_t job,
                    const struct mesh_bundle_name *name, uint32_t count, const uint32_t *shard)
{
    oracle->out = sim_grow(oracle->out, oracle->out_count + 1, sizeof *oracle->out);
    struct out_bundle *const bundle = &oracle->out[oracle->out_count++];
    *bundle = (struct out_bundle){.name = *name,
                                  .executor = executor,
                                  .job = job,
                                  .renewed_ms = oracle->now_ms,
                                  .cancel_by_ms = INT64_MAX,
                                  .count = count,
                                  .left = count,
                                  .shard = sim_alloc(count, sizeof(uint32_t))};
    memcpy(bundle->shard, shard, count * sizeof(uint32_t));
}

static void home_assigns(struct world *world, struct host *host, struct oracle *oracle, uint32_t executor,
                         const struct mesh_message *assign, bool check)
{
    const uint32_t job = sim_world_job(world, &assign->body.assign.job);
    struct out_bundle *const before = out_find(oracle, executor, &assign->body.assign.name);
    const bool lives =
        before != NULL && !before->ever_lost && oracle->now_ms < before->renewed_ms + HOME_LEASE_MS;
    if (lives) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "a place at %s is used a second time",
                       world->host[executor].name);
        return;
    }
    /* A lost one, or one whose lease ran out, may have been forgotten, and its grant repeated later than a home
     * remembers. */
    if (before != NULL) {
        out_forget(oracle, before);
    }
    if (world->job[job].spec.local_only && world->host[executor].site != host->site) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "job %u must not leave its site and goes to %s", job,
                       world->host[executor].name);
        return;
    }
    struct mesh_member_view view;
    if (mesh_member_find(host->mesh, &world->host[executor].id, &view) && view.quarantined) {
        sim_check_fail(world, host, SIM_WRONG_IS_CAUGHT, "%s is quarantined and is given a bundle",
                       world->host[executor].name);
        return;
    }
    if (mesh_doubted(host->mesh, &assign->body.assign.job, &world->host[executor].id)) {
        sim_check_fail(world, host, SIM_WRONG_IS_CAUGHT, "%s is doubted and is given a bundle of job %u",
                       world->host[executor].name, job);
        return;
    }
    check_attempts(world, host, oracle, executor, assign, check);
    out_add(oracle, executor, job, &assign->body.assign.name, assign->body.assign.count,
            assign->body.assign.shard);
    oracle->out[oracle->out_count - 1].check = check;
}

/* What a lost home had out is the new home's, some of it perhaps somebody else's by now. */
static void home_adopts(struct oracle *oracle, uint32_t executor, uint32_t job,
                        const struct mesh_message *report)
{
    if (out_find(oracle, executor, &report->body.report.name) == NULL) {
        out_add(oracle, executor, job, &report->body.report.name, report->body.report.count,
                report->body.report.shard);
        oracle->out[oracle->out_count - 1].ever_lost = true;
    }
}

/* A repeated result is owed no second acknowledgement. */
static void home_owes(struct oracle *oracle, uint32_t executor, uint32_t job,
                      const struct mesh_bundle_name *name)
{
    for (uint32_t i = 0; i < oracle->owed_count; i++) {
        if (oracle->owed[i].executor == executor && same_name(&oracle->owed[i].name, name)) {
            return;
        }
    }
    oracle->owed = sim_grow(oracle->owed, oracle->owed_count + 1, sizeof *oracle->owed);
    oracle->owed[oracle->owed_count++] = (struct owed){.name = *name, .executor = executor, .job = job};
}

/* Of a bundle that is still out it says that others were faster. */
static void home_acknowledges(struct oracle *oracle, uint32_t executor, const struct mesh_bundle_name *name)
{
    for (uint32_t i = 0; i < oracle->owed_count; i++) {
        if (oracle->owed[i].executor == executor && same_name(&oracle->owed[i].name, name)) {
            oracle->owed[i] = oracle->owed[--oracle->owed_count];
            break;
        }
    }
    struct out_bundle *const bundle = out_find(oracle, executor, name);
    if (bundle != NULL) {
        out_forget(oracle, bundle);
    }
}

static void home_owes_nothing(struct oracle *oracle, uint32_t executor, uint32_t job)
{
    for (uint32_t i = oracle->owed_count; i-- > 0;) {
        if ((executor == SIM_NONE || oracle->owed[i].executor == executor) &&
            (job == SIM_NONE || oracle->owed[i].job == job)) {
            oracle->owed[i] = oracle->owed[--oracle->owed_count];
        }
    }
}

/* Another node is the job's home. */
static void home_moved(struct oracle *oracle, uint32_t job)
{
    home_owes_nothing(oracle, SIM_NONE, job);
    for (uint32_t i = oracle->out_count; i-- > 0;) {
        if (oracle->out[i].job == job) {
            out_forget(oracle, &oracle->out[i]);
        }
    }
}

static void home_asks(struct world *world, struct host *host, uint32_t executor,
                      const struct mesh_message *reserve)
{
    const uint32_t job = sim_world_job(world, &reserve->body.reserve.job);
    if (!sim_host_affordable(&world->host[executor], &world->job[job])) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "job %u can't pay %s and asks it for places", job,
                       world->host[executor].name);
    }
}

static void home_renews(struct oracle *oracle, uint32_t executor, const struct mesh_message *renewed)
{
    for (uint32_t i = 0; i < renewed->body.renew.count; i++) {
        struct out_bundle *const bundle = out_find(oracle, executor, &renewed->body.renew.name[i]);
        if (bundle != NULL) {
            bundle->renewed_ms = oracle->now_ms;
            bundle->lost = false;
        }
    }
}

/* Forgets what the executor was told to stop, or what it no longer has. */
static void home_forgets(struct oracle *oracle, uint32_t executor, uint32_t job)
{
    for (uint32_t i = oracle->out_count; i-- > 0;) {
        if (oracle->out[i].executor == executor && (job == SIM_NONE || oracle->out[i].job == job)) {
            out_forget(oracle, &oracle->out[i]);
        }
    }
}

/* It gets no more of that job's kernel; what it has of it is left to its leases. */
static void home_doubts(const struct world *world, const struct host *host, struct oracle *oracle,
                        uint32_t executor, uint32_t job)
{
    const struct mesh_job_spec *const spec = &world->job[job].spec;
    if (!mesh_doubted(host->mesh, &spec->id, &world->host[executor].id)) {
        return;
    }
    for (uint32_t i = oracle->out_count; i-- > 0;) {
        const struct out_bundle *const bundle = &oracle->out[i];
        if (bundle->executor == executor && world->job[bundle->job].spec.kernel == spec->kernel) {
            out_forget(oracle, &oracle->out[i]);
        }
    }
}

static void home_lost(struct oracle *oracle, uint32_t executor)
{
    for (uint32_t i = 0; i < oracle->out_count; i++) {
        if (oracle->out[i].executor == executor) {
            oracle->out[i].lost = true;
            oracle->out[i].ever_lost = true;
        }
    }
}

static void home_job_ended(struct oracle *oracle, uint32_t job)
{
    for (uint32_t i = 0; i < oracle->out_count; i++) {
        struct out_bundle *const bundle = &oracle->out[i];
        if (bundle->job == job && bundle->cancel_by_ms == INT64_MAX && !bundle->ever_lost &&
            oracle->now_ms < bundle->renewed_ms + HOME_LEASE_MS) {
            bundle->cancel_by_ms = oracle->now_ms + LATE_MS;
        }
    }
}

static uint8_t *crashes_of(struct world *world, struct oracle *oracle, uint32_t job)
{
    for (uint32_t i = 0; i < oracle->crashes_count; i++) {
        if (oracle->crashes[i].job == job) {
            return oracle->crashes[i].of_shard;
        }
    }
    oracle->crashes = sim_grow(oracle->crashes, oracle->crashes_count + 1, sizeof *oracle->crashes);
    oracle->crashes[oracle->crashes_count++] =
        (struct crashes){.job = job, .of_shard = sim_alloc(world->job[job].spec.shard_count, 1)};
    return oracle->crashes[oracle->crashes_count - 1].of_shard;
}

/* Before its bundle is forgotten: a result of an older epoch commits nothing, and enough crashes of a shard fail its job. */
static void check_result(struct world *world, struct host *host, struct oracle *oracle, uint32_t executor,
                         const struct mesh_message *result, const struct mesh_out *out)
{
    struct mesh_job_view view;
    const struct out_bundle *const bundle = out_find(oracle, executor, &result->body.result.name);
    if (!mesh_job_find(host->mesh, &result->body.result.job, &view)) {
        return;
    }
    const uint32_t job = sim_world_job(world, &view.id);
    const bool inherited = world->job[job].truth != NULL && result->body.result.epoch < view.epoch;
    for (uint32_t i = 0; i < out->save_count && view.epoch != result->body.result.epoch && !inherited; i++) {
        if (out->save[i].kind == MESH_SAVE_COMMIT) {
            sim_check_fail(world, host, SIM_EPOCHS_GROW, "job %u: a result of another epoch is committed",
                           job);
        }
    }
    if (bundle == NULL || bundle->job != job || bundle->ever_lost ||
        view.epoch != result->body.result.epoch || oracle->now_ms >= bundle->renewed_ms + HOME_LEASE_MS ||
        bundle->count != result->body.result.count) {
        return;
    }
    for (uint32_t i = 0; i < bundle->count; i++) {
        uint8_t *const crashed = &crashes_of(world, oracle, job)[bundle->shard[i]];
        if (*crashed == COMMITTED) {
            continue;
        }
        *crashed = (uint8_t)(*crashed + (result->body.result.shard[i].outcome == MESH_CRASHED));
        if (*crashed >= MESH_ATTEMPTS_PER_SHARD && view.state == MESH_JOB_RUNNING &&
            world->job[job].spec.verify != MESH_VERIFY_QUORUM) {
            sim_check_fail(world, host, SIM_JOBS_FINISH,
                           "job %u: shard %u crashed %u times and is tried again", job, bundle->shard[i],
                           *crashed);
        }
    }
}

/* Who has nothing left to bring is told so. */
static void home_commits(struct world *world, struct oracle *oracle, const struct mesh_save *save)
{
    const uint32_t job = sim_world_job(world, &save->body.commit.job);
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t shard = save->body.commit.shard[i].shard;
        crashes_of(world, oracle, job)[shard] = COMMITTED;
        for (uint32_t j = 0; j < oracle->out_count; j++) {
            struct out_bundle *const bundle = &oracle->out[j];
            if (out_has(bundle, job, shard) && --bundle->left == 0 && !bundle->ever_lost &&
                oracle->now_ms < bundle->renewed_ms + HOME_LEASE_MS) {
                bundle->cancel_by_ms = oracle->now_ms + LATE_MS;
            }
        }
    }
}

/* Whether a bundle of that grant is out, or its result isn't settled: one that was adopted, perhaps, from an earlier home. */
static bool grant_in_use(const struct oracle *oracle, uint32_t executor, uint64_t token)
{
    for (uint32_t i = 0; i < oracle->out_count; i++) {
        if (oracle->out[i].executor == executor && oracle->out[i].name.token == token) {
            return true;
        }
    }
    for (uint32_t i = 0; i < oracle->owed_count; i++) {
        if (oracle->owed[i].executor == executor && oracle->owed[i].name.token == token) {
            return true;
        }
    }
    return false;
}

/* Every place of a grant is used or given back in the step that takes it; a repeated grant does nothing. */
static void check_grant(struct world *world, struct host *host, struct oracle *oracle, uint32_t executor,
                        const struct mesh_message *grant, const struct mesh_out *out)
{
    const uint64_t token = grant->body.grant.token;
    uint32_t places = 0;
    for (uint32_t i = 0; i < out->send_count; i++) {
        const struct mesh_message *const message = &out->send[i].message;
        places += (message->kind == MESH_ASSIGN || message->kind == MESH_ASSIGN_KEPT) &&
                  message->body.assign.name.token == token;
        if (message->kind == MESH_RELEASE && message->body.release.token == token) {
            places += message->body.release.places;
        }
    }
    bool before = false;
    uint32_t newer = 0; /* grants of that member since */
    for (uint32_t i = oracle->tokens; !before && i > 0 && oracle->tokens - i < TOKENS_KEPT; i--) {
        const struct mesh_bundle_name *const one = &oracle->token[(i - 1) % TOKENS_KEPT];
        before = one->index == executor && one->token == token;
        newer += one->index == executor;
    }
    if (before && newer <= TOKENS_TOLD && places > 0) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD, "a grant of %s is used a second time",
                       world->host[executor].name);
    }
    if (places != grant->body.grant.places && !before &&
        (places > 0 || !grant_in_use(oracle, executor, token))) {
        sim_check_fail(world, host, SIM_PROMISES_HOLD,
                       "of %u places that %s granted, %u were used or given back", grant->body.grant.places,
                       world->host[executor].name, places);
    }
    if (!before || places > 0) {
        oracle->token[oracle->tokens++ % TOKENS_KEPT] =
            (struct mesh_bundle_name){.token = token, .index = executor};
    }
}

/* Shards count as assigned only while some bundle that is not lost may bring them. */
static void check_assigned(struct world *world, struct host *host, const struct oracle *oracle)
{
    struct mesh_job_view view;
    for (uint32_t i = 0; mesh_job_view(host->mesh, i, &view) && !world->failed; i++) {
        const uint32_t job = sim_world_job(world, &view.id);
        uint32_t out = 0;
        for (uint32_t j = 0; j < oracle->out_count; j++) {
            const struct out_bundle *const bundle = &oracle->out[j];
            if (bundle->job == job && !bundle->lost &&
                oracle->now_ms < bundle->renewed_ms + HOME_LEASE_MS + LATE_MS) {
                out += bundle->count;
            }
        }
        if (view.assigned > out && oracle->now_ms > oracle->strict_from_ms) {
            sim_check_fail(
                world, host, SIM_SHARDS_ADD_UP,
                "job %u: %u shards count as assigned, %u are in bundles that anybody may still run", job,
                view.assigned, out);
        }
    }
    for (uint32_t i = 0; i < oracle->out_count && !world->failed; i++) {
        if (oracle->out[i].cancel_by_ms < oracle->now_ms && oracle->now_ms > oracle->strict_from_ms) {
            sim_check_fail(world, host, SIM_LEASES_HOLD,
                           "job %u needs nothing more of %s, which was not told", oracle->out[i].job,
                           world->host[oracle->out[i].executor].name);
        }
    }
}

/* ---- Words: who accuses whom. */

static bool said_before(const struct said *a, const struct said *b)
{
    return a->incarnation < b->incarnation || (a->incarnation == b->incarnation && a->version < b->version);
}

static bool is_live(enum mesh_member_state state)
{
    return state == MESH_UP || state == MESH_SUSPECT;
}

/* What is said of the present life displaces what was said of an earlier one: the accuser may have lost its disk since
 * and count from 1 again. */
static bool replaces(const struct said *said, const struct said *before)
{
    return said->about != before->about || said_before(before, said);
}

static bool said_lately(const struct oracle *oracle, const struct said *said, uint64_t about)
{
    return said->incarnation != 0 && said->about == about && oracle->now_ms < said->at_ms + ALERT_TTL_MS;
}

static bool word_counts(const struct oracle *oracle, const void *row)
{
    const struct word *const word = row;
    return oracle->now_ms < word->accusation.at_ms + ALERT_TTL_MS ||
           oracle->now_ms < word->withdrawal.at_ms + ALERT_TTL_MS;
}

static struct word *word_of(struct oracle *oracle, uint32_t accuser, uint32_t subject)
{
    struct table *const words = &oracle->words;
    if (words->count >= WORDS_MANY && 4 * words->count >= 3 * words->room) {
        table_move(words, sizeof(struct word), words->room, word_counts, oracle);
    }
    return table_meet(words, sizeof(struct word), (uint64_t)accuser << 32 | subject);
}

static bool word_about(const struct word *word, uint32_t subject)
{
    return word->key != 0 && (uint32_t)(word->key - 1) == subject;
}

/* After the step that took it: an accusation of the present life may have counted; a withdrawal did if both were live, and neither
 * was a guest. */
static void word_said(struct world *world, struct host *host, struct oracle *oracle,
                      const struct mesh_record *record)
{
    const uint32_t accuser = sim_world_identity(world, &record->origin);
    const uint32_t subject = sim_world_identity(world, &record->body.alert.subject);
    struct mesh_member_view view;
    if (accuser == SIM_NONE || subject == SIM_NONE ||
        !mesh_member_find(host->mesh, &record->body.alert.subject, &view) ||
        view.incarnation != record->body.alert.subject_incarnation) {
        return;
    }
    const struct said said = {.incarnation = record->incarnation,
                              .version = record->version,
                              .about = view.incarnation,
                              .at_ms = oracle->now_ms};
    struct word *const word = word_of(oracle, accuser, subject);
    /* What was said long ago is forgotten, and an earlier word that comes late counts again. */
    const bool forgotten = !said_lately(oracle, &word->accusation, view.incarnation) &&
                           !said_lately(oracle, &word->withdrawal, view.incarnation);
    if (record->body.alert.accuses) {
        if (forgotten || !said_before(&said, &word->accusation) || replaces(&said, &word->accusation)) {
            word->accusation = said;
        }
    } else if ((accuser == host->index || is_live(sim_known_see(&host->known, accuser).state)) &&
               is_live(view.state) && !view.guest && !sim_host_has_guest(host, &record->origin) &&
               replaces(&said, &word->withdrawal)) {
        word->withdrawal = said;
    }
}

/* What was said is void once the member is gone; if it comes back, it does so in a higher incarnation. */
static void words_void(struct oracle *oracle, uint32_t subject)
{
    for (uint32_t i = 0; i < oracle->words.room; i++) {
        struct word *const word = table_row(&oracle->words, sizeof *word, i);
        if (word_about(word, subject)) {
            word->withdrawal = (struct said){0};
        }
    }
}

/* Nobody is accused by more than those whose latest word it is; a withdrawal is remembered as long as an accusation. */
static void check_words(struct world *world, struct host *host, const struct oracle *oracle)
{
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(host->mesh, i, &view) && !world->failed; i++) {
        const uint32_t subject = sim_world_identity(world, &view.id);
        if (view.accusers == 0 || view.self || subject == SIM_NONE || view.state >= MESH_DOWN) {
            continue;
        }
        uint32_t accusers = 0;
        uint32_t speakers = 0;
        for (uint32_t j = 0; j < oracle->words.room; j++) {
            const struct word *const word = table_row(&oracle->words, sizeof *word, j);
            if (!word_about(word, subject)) {
                continue;
            }
            const bool accuses = said_lately(oracle, &word->accusation, view.incarnation);
            const bool withdrew = said_lately(oracle, &word->withdrawal, view.incarnation);
            accusers += accuses && !(withdrew && said_before(&word->accusation, &word->withdrawal));
            speakers += accuses || withdrew;
        }
        if (view.accusers > accusers && speakers < MESH_ACCUSATIONS_MAX) {
            sim_check_fail(world, host, SIM_WORDS_COUNT, "%s counts as accused by %u; %u still accuse it",
                           world->host[subject].name, view.accusers, accusers);
        }
    }
}

static bool is_life(const struct world *world, const struct host *host, uint32_t peer, uint64_t incarnation)
{
    struct mesh_member_view view;
    return mesh_member_find(host->mesh, &world->host[peer].id, &view) && view.incarnation == incarnation;
}

/* Who has lost its own link hears nobody, and is silent about it. */
static void check_own_word(struct world *world, struct host *host, struct oracle *oracle,
                           const struct mesh_record *record)
{
    const uint32_t subject = sim_world_identity(world, &record->body.alert.subject);
    if (subject == SIM_NONE || sim_known_see(&host->known, subject).state >= MESH_DOWN) {
        return; /* the dead are told that they are dead, all of them if need be */
    }
    struct peer_note *const note = note_of(oracle, subject);
    if (!record->body.alert.accuses) {
        note->accused_before = 0;
        return;
    }
    if (note->accused_before == record->body.alert.subject_incarnation &&
        oracle->now_ms - note->accused_ms < 2 * ALERT_REPEAT_MS) {
        return;
    }
    note->accused_before = record->body.alert.subject_incarnation;
    note->accused_ms = oracle->now_ms;
    uint32_t neighbours = 0;
    uint32_t accused = 0;
    for (uint32_t i = 0; i < oracle->notes.room; i++) {
        const struct peer_note *const one = table_row(&oracle->notes, sizeof *one, i);
        neighbours += one->neighbour;
        accused += one->neighbour && one->accused_before != 0 &&
                   is_life(world, host, (uint32_t)(one->key - 1), one->accused_before) &&
                   oracle->now_ms - one->accused_ms <= AT_ONCE_MS && one->heard_ms != 0 &&
                   oracle->now_ms - one->heard_ms <= HEARD_LATELY_MS;
    }
    if (neighbours >= 3 && accused == neighbours) {
        sim_check_fail(world, host, SIM_WORDS_COUNT, "it accuses all its %u neighbours at once", neighbours);
    }
}

/* Who is no neighbour any more is not accused by us any more. Of a guest, which belongs to no tier of ours now, nothing is
 * withdrawn: those who heard of it have the same guest, or forget what we said in time. */
static void check_released(struct world *world, struct host *host, struct oracle *oracle)
{
    for (uint32_t i = 0; i < oracle->notes.room; i++) {
        struct peer_note *const note = table_row(&oracle->notes, sizeof *note, i);
        const uint32_t peer = (uint32_t)(note->key - 1); /* nobody, of a free row, in which all is 0 */
        if (note->neighbour || note->accused_before == 0 ||
            !is_live(sim_known_see(&host->known, peer).state) ||
            !is_life(world, host, peer, note->accused_before)) {
            continue;
        }
        if (sim_host_has_guest(host, &world->host[peer].id)) {
            note->accused_before = 0;
        } else {
            sim_check_fail(world, host, SIM_WORDS_COUNT, "%s is no neighbour any more and stays accused",
                           world->host[peer].name);
        }
    }
}

/* ---- One step. */

/* Whether that is decided of a result: it brought shards, or an opinion of some. */
static bool tells_result(enum mesh_reason why)
{
    return (why >= MESH_WHY_DONE && why <= MESH_WHY_REJECTED) || why == MESH_WHY_AGREES ||
           why == MESH_WHY_DIFFERS;
}

/* Of a job that others keep too, or that wants a quorum, a result may be left alone: then nothing comes of it. */
static bool result_taken(const struct world *world, const struct mesh_out *out,
                         const struct mesh_message *result, const struct mesh_id *from)
{
    const struct mesh_id *const job = &result->body.result.job;
    const struct sim_job *const about = &world->job[sim_world_job(world, job)];
    bool taken = about->truth == NULL && about->spec.verify != MESH_VERIFY_QUORUM;
    for (uint32_t i = 0; i < out->effect_count; i++) {
        const struct mesh_effect *const effect = &out->effect[i];
        const bool tells = effect->kind == MESH_DECISION && tells_result(effect->body.decision.why);
        taken = taken || (tells && memcmp(&effect->body.decision.member, from, sizeof *from) == 0 &&
                          memcmp(&effect->body.decision.job, job, sizeof *job) == 0);
    }
    for (uint32_t i = 0; i < out->save_count; i++) {
        taken = taken || out->save[i].kind == MESH_SAVE_COMMIT;
    }
    for (uint32_t i = 0; i < out->send_count; i++) {
        taken = taken || (out->send[i].message.kind == MESH_RESULT_ACK &&
                          memcmp(&out->send[i].to, from, sizeof *from) == 0);
    }
    return taken;
}

static void take_received(struct world *world, struct host *host, struct oracle *oracle,
                          const struct mesh_event *event, const struct mesh_out *out)
{
    const struct mesh_message *const message = event->body.received.message;
    const uint32_t from = sim_world_identity(world, &event->body.received.from);
    struct out_bundle *bundle = NULL;
    struct held *held = NULL;
    note_of(oracle, from)->heard_ms = oracle->now_ms;
    switch (message->kind) {
    case MESH_RENEWED:
        executor_renewed(oracle, from, message);
        break;
    case MESH_CANCEL:
        executor_cancelled(oracle, from, sim_world_job(world, &message->body.cancel.job),
                           message->body.cancel.epoch);
        break;
    case MESH_RESULT_ACK:
        held = held_find(oracle, from, &message->body.result_ack.name);
        if (held != NULL && !held->finished) {
            held_must_stop(oracle, held); /* somebody else was faster */
        } else if (held != NULL) {
            executor_let_go(world, host, oracle, held);
        }
        break;
    case MESH_ADOPTED:
        executor_adopted(oracle, from, message);
        break;
    case MESH_RESULT:
        home_owes(oracle, from, sim_world_job(world, &message->body.result.job), &message->body.result.name);
        if (!result_taken(world, out, message, &event->body.received.from)) {
            /* For want of room, or on its way to another home: it comes again. And if it was taken, which doesn't show where
             * all that it brings was there: nothing is demanded of it. */
            bundle = out_find(oracle, from, &message->body.result.name);
            if (bundle != NULL) {
                bundle->ever_lost = true;
            }
            bundle = NULL;
            break;
        }
        check_result(world, host, oracle, from, message, out);
        bundle = out_find(oracle, from, &message->body.result.name);
        break;
    case MESH_EXPIRED:
        bundle = out_find(oracle, from, &message->body.expired.name);
        break;
    default:
        break;
    }
    if (bundle != NULL) {
        out_forget(oracle, bundle);
    }
}

static void take_effect(struct world *world, struct host *host, struct oracle *oracle,
                        const struct mesh_event *event, const struct mesh_effect *effect)
{
    uint32_t peer = SIM_NONE;
    switch (effect->kind) {
    case MESH_RUN:
        if (event->kind == MESH_RECEIVED && (event->body.received.message->kind == MESH_ASSIGN ||
                                             event->body.received.message->kind == MESH_ASSIGN_KEPT)) {
            executor_runs(world, host, oracle, sim_world_identity(world, &event->body.received.from), effect,
                          event->body.received.message);
        } else {
            sim_check_fail(world, host, SIM_PROMISES_HOLD, "attempt %u runs and nobody assigned it",
                           effect->body.run.attempt);
        }
        break;
    case MESH_STOP:
        executor_stops(oracle, effect->body.stop.attempt);
        break;
    case MESH_JOB:
        if (effect->body.job.refusal == MESH_ACCEPTED && effect->body.job.state == MESH_JOB_MOVED) {
            home_moved(oracle, sim_world_job(world, &effect->body.job.id));
        } else if (effect->body.job.refusal == MESH_ACCEPTED && effect->body.job.state != MESH_JOB_RUNNING) {
            home_job_ended(oracle, sim_world_job(world, &effect->body.job.id));
        }
        break;
    case MESH_MEMBER:
        peer = sim_world_identity(world, &effect->body.member.id);
        peer = peer == host->index ? SIM_NONE : peer; /* its own revocation is the host's to act on */
        if (peer != SIM_NONE && effect->body.member.state >= MESH_DOWN) {
            words_void(oracle, peer);
            home_lost(oracle, peer);
        }
        if (peer != SIM_NONE && effect->body.member.state == MESH_REVOKED) {
            executor_home_revoked(oracle, peer);
        }
        break;
    case MESH_ADMIT: {
        const struct payload *const payload = sim_handle_see(&host->handles, effect->body.admit.handle);
        peer = sim_world_identity(world, &effect->body.admit.id);
        if (payload == NULL || peer == SIM_NONE) {
            break;
        }
        const uint64_t session = payload->record.body.member.session;
        struct peer_note *const note = note_of(oracle, peer);
        if (note->session != 0 && note->session != session) {
            home_forgets(oracle, peer, SIM_NONE);
            home_owes_nothing(oracle, peer, SIM_NONE);
        }
        note->session = session;
        break;
    }
    case MESH_QUARANTINED:
        peer = sim_world_identity(world, &effect->body.quarantined.id);
        if (peer != SIM_NONE && effect->body.quarantined.on) {
            home_forgets(oracle, peer, SIM_NONE); /* they are left to their leases */
        }
        break;
    case MESH_DECISION:
        peer = sim_world_identity(world, &effect->body.decision.member);
        if (peer != SIM_NONE && effect->body.decision.why == MESH_WHY_WRONG) {
            home_doubts(world, host, oracle, peer, sim_world_job(world, &effect->body.decision.job));
        }
        break;
    case MESH_LINK_KEEP:
    case MESH_LINK_RELEASE:
        peer = sim_world_identity(world, &effect->body.peer);
        if (peer != SIM_NONE) {
            note_of(oracle, peer)->neighbour = effect->kind == MESH_LINK_KEEP;
            oracle->released = oracle->released || effect->kind == MESH_LINK_RELEASE;
        }
        break;
    case MESH_SIGN:
        if (effect->body.record.kind == MESH_RECORD_ALERT) {
            check_own_word(world, host, oracle, &effect->body.record);
        }
        break;
    default:
        break;
    }
}

static void take_send(struct world *world, struct host *host, struct oracle *oracle,
                      const struct mesh_event *event, const struct mesh_out *out,
                      const struct mesh_send *send)
{
    const struct mesh_message *const message = &send->message;
    const uint32_t to = sim_world_identity(world, &send->to);
    struct held *held = NULL;
    switch (message->kind) {
    case MESH_GRANT:
        promise_made(world, host, oracle, to, message);
        break;
    case MESH_RENEW:
        for (uint32_t i = 0; i < message->body.renew.count; i++) {
            held = held_find(oracle, to, &message->body.renew.name[i]);
            if (held != NULL && !held->finished) {
                held->told_ms = oracle->now_ms;
            }
        }
        break;
    case MESH_RESULT:
        held = held_find(oracle, to, &message->body.result.name);
        if (held != NULL && held->finished) {
            held->told_ms = oracle->now_ms;
        }
        break;
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        home_assigns(world, host, oracle, to, message, is_check(out, &send->to, message));
        break;
    case MESH_RESERVE:
    case MESH_WISH:
        if (message->body.reserve.wanted != 0) {
            home_asks(world, host, to, message);
        }
        break;
    case MESH_RENEWED:
        home_renews(oracle, to, message);
        break;
    case MESH_RESULT_ACK:
        home_acknowledges(oracle, to, &message->body.result_ack.name);
        break;
    case MESH_ADOPTED:
        if (event->kind == MESH_RECEIVED && event->body.received.message->kind == MESH_REPORT) {
            home_adopts(oracle, to, sim_world_job(world, &event->body.received.message->body.report.job),
                        event->body.received.message);
        }
        break;
    case MESH_CANCEL:
        home_forgets(oracle, to, sim_world_job(world, &message->body.cancel.job));
        break;
    default:
        break;
    }
}

static bool answers(const struct mesh_out *out, const struct mesh_id *to, enum mesh_message_kind kind,
                    const struct mesh_id *job)
{
    for (uint32_t i = 0; i < out->send_count; i++) {
        const struct mesh_send *const send = &out->send[i];
        const struct mesh_id *const about =
            kind == MESH_GRANT ? &send->message.body.grant.job : &send->message.body.wait.job;
        if (send->message.kind == kind && memcmp(&send->to, to, sizeof *to) == 0 &&
            (job == NULL || memcmp(about, job, sizeof *job) == 0)) {
            return true;
        }
    }
    return false;
}

/* Who asks is answered in the same step. */
static void check_answer(struct world *world, struct host *host, struct oracle *oracle,
                         const struct mesh_event *event, const struct mesh_out *out)
{
    const struct mesh_message *const message = event->body.received.message;
    const struct mesh_id *const from = &event->body.received.from;
    const uint32_t peer = sim_world_identity(world, from);
    if (sim_known_see(&host->known, peer).state == 0 && peer != host->index) {
        return; /* it is not a member here: nothing of it counts */
    }
    if (sim_known_see(&host->known, peer).state == MESH_REVOKED) {
        return;
    }
    const struct mesh_id *const job = &message->body.reserve.job;
    bool answered = true;
    const bool asks =
        message->kind == MESH_RESERVE || (message->kind == MESH_WISH && !message->body.reserve.patient);
    if (asks && message->body.reserve.wanted != 0) {
        answered = answers(out, from, MESH_GRANT, job) || answers(out, from, MESH_WAIT, job);
    } else if (message->kind == MESH_RESULT && message->body.result.device_us < ACK_LATER_US &&
               world->job[sim_world_job(world, &message->body.result.job)].truth == NULL &&
               world->job[sim_world_job(world, &message->body.result.job)].spec.verify !=
                   MESH_VERIFY_QUORUM) {
        answered = answers(out, from, MESH_RESULT_ACK, NULL);
    } else if (message->kind == MESH_PING) {
        answered = answers(out, from, MESH_PONG, NULL);
    } else if (message->kind == MESH_GRANT) {
        check_grant(world, host, oracle, peer, message, out);
    }
    if (!answered) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a %s of %s is not answered",
                       mesh_message_name(message->kind), world->host[peer].name);
    }
}

void sim_oracle_step(struct world *world, struct host *host, const struct mesh_event *event,
                     const struct mesh_out *out, bool whole)
{
    if (!world->opinions || host->identity != host->index) {
        return;
    }
    struct oracle *const oracle = oracle_of(host);
    if (event->now_ms - oracle->now_ms > PAUSED_MS) {
        oracle->strict_from_ms = event->now_ms + LATE_MS;
        held_paused(oracle, event->now_ms - oracle->now_ms);
    }
    oracle->now_ms = event->now_ms;
    oracle->released = false;
    oracle->draining = oracle->draining || event->kind == MESH_DRAIN;
    if (event->kind == MESH_RECEIVED) {
        take_received(world, host, oracle, event, out);
    } else if (event->kind == MESH_RAN) {
        executor_ran(oracle, event);
    }
    for (uint32_t i = 0; i < out->save_count; i++) {
        if (out->save[i].kind == MESH_SAVE_COMMIT) {
            home_commits(world, oracle, &out->save[i]);
        }
    }
    for (uint32_t i = 0; i < out->effect_count && !world->failed; i++) {
        take_effect(world, host, oracle, event, &out->effect[i]);
    }
    for (uint32_t i = 0; i < out->send_count && !world->failed; i++) {
        take_send(world, host, oracle, event, out, &out->send[i]);
    }
    executor_frees(world, host, oracle, out);
    if (oracle->released && !world->failed) {
        check_released(world, host, oracle);
    }
    if (event->kind == MESH_RECORD && event->body.record.record.kind == MESH_RECORD_ALERT) {
        word_said(world, host, oracle, &event->body.record.record);
    } else if (event->kind == MESH_RECEIVED && event->body.received.message->kind == MESH_PUSH &&
               event->body.received.message->body.push.record.kind == MESH_RECORD_ALERT) {
        word_said(world, host, oracle, &event->body.received.message->body.push.record);
    }
    if (event->kind == MESH_RECEIVED && !world->failed) {
        check_answer(world, host, oracle, event, out);
    }
    executor_leases_end(oracle);
    promises_end(oracle); /* the step may still have used them: it looks at the time last */
    check_held(world, host, oracle, out);
    if (whole && !world->failed) {
        check_assigned(world, host, oracle);
        check_words(world, host, oracle);
    }
}
