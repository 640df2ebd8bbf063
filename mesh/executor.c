#include "mesh/internal.h"

static void attempt_stop(struct executor *executor, uint32_t slot, bool discard);
static void closing_flush(struct step *step);

/* Layout, views and checks. */

void executor_layout(struct executor *executor, const struct mesh_limits *limits, struct carve *from)
{
    uint32_t buckets = 64;
    while (buckets < limits->attempts)
        buckets *= 2;
    executor->bucket_count = buckets;
    executor->bucket = carve(from, buckets, sizeof *executor->bucket);
    /* One more is held while it is answered, see executor_reserve(). */
    executor->demand_pool.capacity = limits->demands + 1;
    executor->demand = carve(from, limits->demands + 1, sizeof *executor->demand);
    executor->demand_link = carve(from, limits->demands + 1, sizeof *executor->demand_link);
    executor->grant_pool.capacity = MESH_GRANTS_MAX;
    executor->grant = carve(from, MESH_GRANTS_MAX, sizeof *executor->grant);
    executor->grant_link = carve(from, MESH_GRANTS_MAX, sizeof *executor->grant_link);
    executor->attempt_pool.capacity = limits->attempts;
    executor->attempt = carve(from, limits->attempts, sizeof *executor->attempt);
    executor->attempt_link = carve(from, limits->attempts, sizeof *executor->attempt_link);
    executor->home_link = carve(from, limits->attempts, sizeof *executor->home_link);
    executor->class_link = carve(from, limits->attempts, sizeof *executor->class_link);
    executor->closing_link = carve(from, limits->attempts, sizeof *executor->closing_link);
    executor->home = carve(from, limits->members, sizeof *executor->home);
    executor->renew_link = carve(from, limits->members, sizeof *executor->renew_link);
}

void executor_init(struct mesh *mesh)
{
    (void)mesh; /* zeroed tables are empty tables */
}

static uint32_t class_busy(const struct executor_class *class)
{
    return class->running.count + class->waiting.count + class->stopping + class->granted;
}

/*
 * The chance, in thousandths, that a running attempt ends within EXECUTOR_AHEAD_MS. Shards are taken to end at any moment
 * within twice the spread around the mean alike, which is so for what varies evenly; of one that is late nothing is known
 * but what bundles take here.
 */
static uint64_t ends_soon(const struct executor *executor, const struct executor_class *class,
                          const struct attempt *attempt, int64_t now_ms)
{
    const struct pace *const pace = &executor->pace[attempt->kernel % EXECUTOR_PACES];
    const uint64_t ahead_us = (uint64_t)EXECUTOR_AHEAD_MS * 1000;
    const uint64_t ran_us = (uint64_t)(now_ms - attempt->began_at_ms) * 1000;
    const uint64_t mean_us = pace->mean_us * attempt->count;
    const uint64_t spread_us = 2 * pace->spread_us * attempt->count;
    const uint64_t first_us = mean_us > spread_us ? mean_us - spread_us : 0;
    const uint64_t last_us = mean_us + spread_us + 1;
    if (pace->kernel != attempt->kernel || ran_us >= last_us)
        return (uint64_t)EXECUTOR_AHEAD_MS * 1000 / class->bundle_ms;
    const uint64_t from_us = ran_us > first_us ? ran_us : first_us;
    const uint64_t to_us = ran_us + ahead_us < last_us ? ran_us + ahead_us : last_us;
    return to_us > from_us ? (to_us - from_us) * 1000 / (last_us - from_us) : 0;
}

uint32_t executor_ahead(const struct executor *executor, uint32_t index, int64_t now_ms)
{
    const struct executor_class *const class = &executor->class[index];
    /* All at once or none, so that a message is about several; of long bundles, with a slot that is free. */
    const bool is_long = (uint64_t) class->bundle_ms * 1000 >= (uint64_t)HOME_ACK_LATER_US;
    if (class->bundle_ms < EXECUTOR_AHEAD_MS || class_busy(class) + is_long > class->slots)
        return 0;
    if (!is_long)
        return class->slots * EXECUTOR_AHEAD_MS / class->bundle_ms;
    uint64_t permille = 0;
    for (uint32_t slot = list_first(&class->running); slot != MESH_NONE;
         slot = list_next(executor->class_link, slot))
        permille += ends_soon(executor, class, &executor->attempt[slot], now_ms);
    return (uint32_t)(permille / 1000);
}

uint32_t executor_places(const struct executor_class *class, uint32_t behind)
{
    const uint32_t busy = class_busy(class);
    const uint32_t places = class->slots + behind;
    return busy < places ? places - busy : 0;
}

static void pace_learn(struct executor *executor, uint64_t kernel, uint64_t us)
{
    struct pace *const pace = &executor->pace[kernel % EXECUTOR_PACES];
    if (pace->kernel != kernel || pace->mean_us == 0) {
        *pace = (struct pace){.kernel = kernel, .mean_us = us + 1, .spread_us = us / 8};
        return;
    }
    const uint64_t off_us = us > pace->mean_us ? us - pace->mean_us : pace->mean_us - us;
    pace->spread_us = (pace->spread_us * 15 + off_us) / 16;
    pace->mean_us = (pace->mean_us * 15 + us) / 16 + 1;
}

/* What a bundle takes here, as a moving average. */
static void class_learn(struct executor_class *class, uint64_t device_us)
{
    const uint32_t ms = (uint32_t)(device_us / 1000 < INT32_MAX / 8 ? device_us / 1000 : INT32_MAX / 8);
    class->bundle_ms = class->bundle_ms == 0 ? ms : (class->bundle_ms * 7 + ms) / 8;
}

bool executor_idle(const struct executor *executor)
{
    return pool_in_use(&executor->attempt_pool) == 0 && executor->grants.count == 0;
}

void executor_capacity(const struct mesh *mesh, struct mesh_capacity *capacity)
{
    const struct executor *const executor = &mesh->executor;
    *capacity = (struct mesh_capacity){
        .price_micro = executor->price_micro,
        .available_until_ms = executor->available_until_ms,
        .draining = mesh->draining || mesh->leaving,
        .fault = executor->fault,
        .details = executor->details,
        .no_users = mesh->config.kernel_count > 0 ? (uint16_t)~mesh->config.user_classes : 0,
    };
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        const struct executor_class *const class = &executor->class[index];
        const uint32_t waiting = class->waiting.count + executor->wanted;
        capacity->class[index] = (struct mesh_class_capacity){
            .slots = (uint16_t) class->slots,
            .free = executor_serves(mesh, mesh->members.self) ? (uint16_t)executor_places(class, 0) : 0,
            .waiting = (uint16_t)(waiting < UINT16_MAX ? waiting : UINT16_MAX),
        };
    }
}

void mesh_executor_view(const struct mesh *mesh, struct mesh_executor_view *view)
{
    const struct executor *const executor = &mesh->executor;
    struct mesh_capacity capacity;
    executor_capacity(mesh, &capacity);
    *view = (struct mesh_executor_view){
        .unacked = executor->results.count + executor->long_results.count,
        .demands = executor->demands.count,
        .draining = mesh->draining,
    };
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        view->class[index] = capacity.class[index];
        view->running += executor->class[index].running.count;
        view->waiting += executor->class[index].waiting.count;
        view->granted += executor->class[index].granted;
    }
}

/* Attempts by name. */

static uint32_t *name_bucket(struct executor *executor, const struct mesh_bundle_name *name)
{
    const uint64_t mixed = (name->token ^ ((uint64_t)name->index << 40)) * UINT64_C(0x9E3779B97F4A7C15);
    return &executor->bucket[(mixed >> 32) & (executor->bucket_count - 1)];
}

static uint32_t attempt_find(struct executor *executor, uint32_t home, const struct mesh_bundle_name *name)
{
    for (uint32_t at = *name_bucket(executor, name); at != 0; at = executor->attempt[at - 1].hash_next) {
        const struct attempt *const attempt = &executor->attempt[at - 1];
        if (attempt->home == home && attempt->name.token == name->token && attempt->name.index == name->index)
            return at - 1;
    }
    return MESH_NONE;
}

static bool attempt_live(const struct attempt *attempt)
{
    return attempt->state == ATTEMPT_WAITING || attempt->state == ATTEMPT_RUNNING;
}

/* One attempt's life. */

/* One more attempt of that home runs or waits, and is to be renewed. */
static void home_gains_live(struct step *step, uint32_t member)
{
    struct executor *const executor = &step->mesh->executor;
    struct executor_home *const home = &executor->home[member];
    if (home->live++ > 0)
        return;
    home->renew_at_ms = step->now_ms + EXECUTOR_RENEW_MS;
    list_append(&executor->renewals, executor->renew_link, member);
}

static void home_loses_live(struct executor *executor, uint32_t member)
{
    if (--executor->home[member].live == 0)
        list_remove(&executor->renewals, executor->renew_link, member);
}

static void attempt_born(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const uint32_t slot = pool_take(&executor->attempt_pool, executor->attempt_link);
    assert(slot != MESH_NONE); /* a promised place holds a slot of the table free */
    struct attempt *const attempt = &executor->attempt[slot];
    struct executor_class *const class = &executor->class[message->body.assign.class];
    const bool runs = class->running.count + class->stopping < class->slots;
    attempt->state = runs ? ATTEMPT_RUNNING : ATTEMPT_WAITING;
    attempt->discard = false;
    attempt->stop_due = false;
    attempt->class = message->body.assign.class;
    attempt->home = from;
    attempt->name = message->body.assign.name;
    attempt->job = message->body.assign.job;
    attempt->epoch = message->body.assign.epoch;
    attempt->kernel = message->body.assign.kernel;
    attempt->began_at_ms = step->now_ms;
    attempt->handle = message->body.assign.handle;
    attempt->due_at_ms = step->now_ms + EXECUTOR_LEASE_MS;
    attempt->renewed_at_ms = step->now_ms;
    attempt->others = message->body.assign.others;
    attempt->count = message->body.assign.count;
    memcpy(attempt->shard, message->body.assign.shard, attempt->count * sizeof attempt->shard[0]);

    uint32_t *const bucket = name_bucket(executor, &attempt->name);
    attempt->hash_next = *bucket;
    *bucket = slot + 1;
    list_append(runs ? &class->running : &class->waiting, executor->class_link, slot);
    list_append(&executor->leases, executor->attempt_link, slot);
    list_append(&executor->home[from].attempts, executor->home_link, slot);
    home_gains_live(step, from);

    struct mesh_effect *const effect = out_effect(step, MESH_RUN);
    effect->body.run.attempt = slot;
    effect->body.run.home = step->mesh->members.slot[from].id;
    effect->body.run.job = attempt->job;
    effect->body.run.epoch = attempt->epoch;
    effect->body.run.tenant = message->body.assign.tenant;
    effect->body.run.handle = attempt->handle;
    effect->body.run.class = attempt->class;
    effect->body.run.others = attempt->others;
    effect->body.run.count = attempt->count;
    memcpy(effect->body.run.shard, attempt->shard, attempt->count * sizeof attempt->shard[0]);
    gossip_capacity_changed(step);
}

/* It no longer needs its home's lease. */
static void attempt_off_lease(struct executor *executor, uint32_t slot)
{
    list_remove(&executor->leases, executor->attempt_link, slot);
    home_loses_live(executor, executor->attempt[slot].home);
}

/* A slot is free: what has waited longest runs. The host runs bundles in the order it was given them. */
static void class_promote(struct step *step, struct executor_class *class)
{
    struct executor *const executor = &step->mesh->executor;
    while (class->waiting.count > 0 && class->running.count + class->stopping < class->slots) {
        const uint32_t slot = list_first(&class->waiting);
        list_remove(&class->waiting, executor->class_link, slot);
        list_append(&class->running, executor->class_link, slot);
        executor->attempt[slot].state = ATTEMPT_RUNNING;
        executor->attempt[slot].began_at_ms = step->now_ms;
    }
}

static void attempt_free(struct executor *executor, uint32_t slot)
{
    struct attempt *const attempt = &executor->attempt[slot];
    uint32_t *at = name_bucket(executor, &attempt->name);
    while (*at != slot + 1)
        at = &executor->attempt[*at - 1].hash_next;
    *at = attempt->hash_next;
    list_remove(&executor->home[attempt->home].attempts, executor->home_link, slot);
    if (attempt->stop_due)
        list_remove(&executor->closing, executor->closing_link, slot);
    attempt->state = ATTEMPT_FREE;
    attempt->stop_due = false;
    pool_give(&executor->attempt_pool, executor->attempt_link, slot);
}

/* From live to stopping; or, with `discard`, throws finished results away. The effects follow as the output
 * has room. */
static void attempt_stop(struct executor *executor, uint32_t slot, bool discard)
{
    struct attempt *const attempt = &executor->attempt[slot];
    if (attempt->state == ATTEMPT_FINISHED) {
        if (!discard || attempt->discard)
            return;
    } else if (attempt_live(attempt)) {
        struct executor_class *const class = &executor->class[attempt->class];
        list_remove(attempt->state == ATTEMPT_RUNNING ? &class->running : &class->waiting,
                    executor->class_link, slot);
        class->stopping++;
        attempt_off_lease(executor, slot);
        attempt->state = ATTEMPT_STOPPING;
    } else {
        attempt->discard |= discard;
        return;
    }
    attempt->discard = discard;
    attempt->stop_due = true;
    list_append(&executor->closing, executor->closing_link, slot);
}

/* Where a finished attempt waits for its acknowledgement, and how long before it is sent again. */
static bool took_long(const struct attempt *attempt)
{
    return attempt->device_us >= (uint64_t)HOME_ACK_LATER_US;
}

static struct list *results_of(struct executor *executor, const struct attempt *attempt)
{
    return took_long(attempt) ? &executor->long_results : &executor->results;
}

static int64_t resend_ms(const struct attempt *attempt)
{
    return took_long(attempt) ? EXECUTOR_RESEND_LONG_MS : EXECUTOR_RESEND_MS;
}

/* Its results are no longer held. */
static void result_free(struct step *step, uint32_t slot)
{
    struct executor *const executor = &step->mesh->executor;
    struct attempt *const attempt = &executor->attempt[slot];
    out_drop(step, attempt->handle);
    list_remove(results_of(executor, attempt), executor->attempt_link, slot);
    attempt_free(executor, slot);
}

/* From when on its results are taken for those of a lost home: it is known to be down, or others may have its job, and
 * nothing of it was heard for so long. */
static int64_t orphaned_at_ms(const struct mesh *mesh, const struct attempt *attempt)
{
    if (attempt->state != ATTEMPT_FINISHED || attempt->discard ||
        (attempt->others.count == 0 && members_live(mesh, attempt->home)))
        return INT64_MAX;
    return attempt->renewed_at_ms + EXECUTOR_LOST_MS;
}

bool executor_make_room(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 4)) {
        step->mesh->counters.bound_out++;
        out_wake(step, step->now_ms);
        return false;
    }
    uint32_t oldest = MESH_NONE;
    for (uint32_t slot = 0; slot < executor->attempt_pool.fresh; slot++) {
        const struct attempt *const attempt = &executor->attempt[slot];
        const int64_t at_ms = orphaned_at_ms(step->mesh, attempt);
        if (at_ms > step->now_ms)
            out_wake(step, at_ms);
        else if (oldest == MESH_NONE || attempt->finished_at_ms < executor->attempt[oldest].finished_at_ms)
            oldest = slot;
    }
    if (oldest == MESH_NONE)
        return false;
    result_free(step, oldest);
    step->mesh->counters.orphans_freed++;
    return true;
}

static void closing_flush(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    while (executor->closing.count > 0) {
        /* The rest of the step, gossip's announcement among it, needs room as well. */
        if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 4)) {
            step->mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        const uint32_t slot = list_first(&executor->closing);
        struct attempt *const attempt = &executor->attempt[slot];
        if (attempt->state == ATTEMPT_FINISHED) {
            result_free(step, slot);
        } else {
            list_remove(&executor->closing, executor->closing_link, slot);
            attempt->stop_due = false;
            out_effect(step, MESH_STOP)->body.stop.attempt = slot;
        }
    }
}

void executor_fill_result(const struct attempt *attempt, struct mesh_message *message)
{
    message->body.result.name = attempt->name;
    message->body.result.job = attempt->job;
    message->body.result.epoch = attempt->epoch;
    message->body.result.handle = attempt->handle;
    message->body.result.device_us = attempt->device_us;
    message->body.result.count = attempt->count;
    for (uint32_t i = 0; i < attempt->count; i++) {
        message->body.result.shard[i].shard = attempt->shard[i];
        message->body.result.shard[i].outcome = attempt->outcome[i];
    }
}

static void send_result(struct step *step, const struct attempt *attempt)
{
    executor_fill_result(attempt, out_send(step, &step->mesh->members.slot[attempt->home].id, MESH_RESULT));
}

/* The name alone: tokens are this node's own, so it says all. */
uint32_t executor_attempt_find(struct executor *executor, const struct mesh_bundle_name *name)
{
    for (uint32_t at = *name_bucket(executor, name); at != 0; at = executor->attempt[at - 1].hash_next) {
        const struct attempt *const attempt = &executor->attempt[at - 1];
        if (attempt->name.token == name->token && attempt->name.index == name->index)
            return at - 1;
    }
    return MESH_NONE;
}

void executor_attempt_rehome(struct step *step, uint32_t slot, uint32_t home, uint64_t epoch)
{
    struct executor *const executor = &step->mesh->executor;
    struct attempt *const attempt = &executor->attempt[slot];
    list_remove(&executor->home[attempt->home].attempts, executor->home_link, slot);
    list_append(&executor->home[home].attempts, executor->home_link, slot);
    if (attempt_live(attempt)) {
        home_loses_live(executor, attempt->home);
        home_gains_live(step, home);
        attempt->due_at_ms = step->now_ms + EXECUTOR_LEASE_MS;
        list_refresh(&executor->leases, executor->attempt_link, slot);
    }
    attempt->home = home;
    attempt->epoch = epoch;
    attempt->renewed_at_ms = step->now_ms;
    attempt->offers = attempt->passes = attempt->named = 0;
}

/* Keeps what the host reported. A report that is short or makes no sense counts as a crash of what it leaves
 * out. */
static void attempt_outcomes(struct attempt *attempt, const struct mesh_event *event)
{
    for (uint32_t i = 0; i < attempt->count; i++) {
        const uint8_t outcome = i < event->body.ran.count ? event->body.ran.outcome[i] : 0;
        attempt->outcome[i] =
            outcome >= MESH_DONE && outcome <= MESH_REJECTED ? outcome : (uint8_t)MESH_CRASHED;
    }
}

void executor_ran(struct step *step, const struct mesh_event *event)
{
    struct executor *const executor = &step->mesh->executor;
    const uint32_t slot = event->body.ran.attempt;
    if (slot >= executor->attempt_pool.fresh || executor->attempt[slot].state == ATTEMPT_FREE ||
        executor->attempt[slot].state == ATTEMPT_FINISHED) {
        out_drop(step, event->body.ran.handle);
        return;
    }
    struct attempt *const attempt = &executor->attempt[slot];
    struct executor_class *const class = &executor->class[attempt->class];
    if (attempt->state == ATTEMPT_STOPPING) {
        class->stopping--;
        if (attempt->stop_due)
            list_remove(&executor->closing, executor->closing_link, slot);
        attempt->stop_due = false;
    } else {
        list_remove(attempt->state == ATTEMPT_RUNNING ? &class->running : &class->waiting,
                    executor->class_link, slot);
        attempt_off_lease(executor, slot);
    }
    class_promote(step, class);
    out_drop(step, attempt->handle);
    if (attempt->discard) {
        out_drop(step, event->body.ran.handle);
        attempt_free(executor, slot);
    } else {
        attempt_outcomes(attempt, event);
        attempt->state = ATTEMPT_FINISHED;
        attempt->handle = event->body.ran.handle;
        attempt->device_us = event->body.ran.device_us;
        if (attempt->outcome[attempt->count - 1] == MESH_DONE) {
            class_learn(class, attempt->device_us);
            pace_learn(executor, attempt->kernel, attempt->device_us / attempt->count);
        }
        /* Its home has time to acknowledge; one that is lost already is not waited for. */
        if (!adopt_seems_lost(attempt, step->now_ms))
            attempt->renewed_at_ms = step->now_ms;
        attempt->finished_at_ms = step->now_ms;
        attempt->due_at_ms = step->now_ms + resend_ms(attempt);
        list_append(results_of(executor, attempt), executor->attempt_link, slot);
        send_result(step, attempt);
    }
    gossip_capacity_changed(step);
    grants_offer(step);
}

/* Messages. */

static void send_expired(struct step *step, uint32_t to, const struct mesh_message *assign)
{
    struct mesh_message *const message = out_send(step, &step->mesh->members.slot[to].id, MESH_EXPIRED);
    message->body.expired.name = assign->body.assign.name;
    message->body.expired.job = assign->body.assign.job;
    message->body.expired.epoch = assign->body.assign.epoch;
    step->mesh->counters.assigns_expired++;
}

void executor_assign(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const uint32_t count = message->body.assign.count;
    if (count == 0 || count > MESH_BUNDLE_SHARDS_MAX || message->body.assign.class >= MESH_DEVICE_CLASSES) {
        step->mesh->counters.bad_messages++;
        out_drop(step, message->body.assign.handle);
        return;
    }
    const uint32_t known = attempt_find(executor, from, &message->body.assign.name);
    if (known != MESH_NONE) {
        const struct attempt *const attempt = &executor->attempt[known];
        if (attempt->state == ATTEMPT_FINISHED && !attempt->discard)
            send_result(step, attempt);
        out_drop(step, message->body.assign.handle);
        return;
    }
    if (!grants_use(step, from, message)) {
        send_expired(step, from, message);
        out_drop(step, message->body.assign.handle);
        return;
    }
    attempt_born(step, from, message);
}

void executor_result_ack(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const uint32_t slot = attempt_find(executor, from, &message->body.result_ack.name);
    if (slot == MESH_NONE)
        return; /* a repeated acknowledgement */
    struct attempt *const attempt = &executor->attempt[slot];
    if (attempt->state != ATTEMPT_FINISHED) {
        /* Another attempt at its shards was faster. */
        step->mesh->counters.overtaken += attempt_live(attempt);
        attempt_stop(executor, slot, true);
        return;
    }
    result_free(step, slot);
}

void executor_renewed(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    if (message->body.renew.count > MESH_RENEW_MAX) {
        step->mesh->counters.bad_messages++;
        return;
    }
    for (uint32_t i = 0; i < message->body.renew.count; i++) {
        const uint32_t slot = attempt_find(executor, from, &message->body.renew.name[i]);
        if (slot == MESH_NONE || !attempt_live(&executor->attempt[slot]))
            continue; /* it ended meanwhile */
        executor->attempt[slot].due_at_ms = step->now_ms + EXECUTOR_LEASE_MS;
        executor->attempt[slot].renewed_at_ms = step->now_ms;
        list_refresh(&executor->leases, executor->attempt_link, slot);
    }
}

void executor_cancel(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const struct mesh_id *const job = &message->body.cancel.job;
    const struct executor_home *const home = &executor->home[from];
    for (uint32_t slot = list_first(&home->attempts); slot != MESH_NONE;
         slot = list_next(executor->home_link, slot)) {
        const struct attempt *const attempt = &executor->attempt[slot];
        if (id_equal(&attempt->job, job) && attempt->epoch <= message->body.cancel.epoch)
            attempt_stop(executor, slot, true);
    }
    grants_forget(step, from, job);
    closing_flush(step);
    grants_offer(step);
}

void executor_member_gone(struct step *step, uint32_t member)
{
    struct executor *const executor = &step->mesh->executor;
    const struct executor_home *const home = &executor->home[member];
    for (uint32_t slot = list_first(&home->attempts); slot != MESH_NONE;
         slot = list_next(executor->home_link, slot))
        attempt_stop(executor, slot, true);
    grants_forget(step, member, NULL);
}

/* The host's wishes. */

/* Makes what there is fit the slots: promises go first, then what waits, then what runs, the newest first. */
static void class_shrink(struct step *step, uint32_t index)
{
    struct executor *const executor = &step->mesh->executor;
    struct executor_class *const class = &executor->class[index];
    const uint32_t places = 2 * class->slots;
    while (class->running.count > class->slots)
        attempt_stop(executor, list_last(&class->running), false);
    /* What the host still has to stop keeps its place; it leaves less for what waits. */
    while (class->waiting.count > 0 && class->running.count + class->waiting.count > places)
        attempt_stop(executor, list_last(&class->waiting), false);
    const uint32_t held = class->running.count + class->waiting.count;
    grants_revoke(step, index, held < places ? places - held : 0);
}

void executor_devices(struct step *step, const struct mesh_event *event)
{
    struct executor *const executor = &step->mesh->executor;
    executor->price_micro = event->body.devices.price_micro;
    executor->available_until_ms = event->body.devices.available_until_ms;
    executor->fault = event->body.devices.fault;
    executor->details = event->body.devices.details;
    for (uint32_t i = 0; i < event->body.devices.stop_count; i++) {
        const uint32_t slot = event->body.devices.stop[i];
        if (slot < executor->attempt_pool.fresh && attempt_live(&executor->attempt[slot]))
            attempt_stop(executor, slot, false);
    }
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        executor->class[index].slots = event->body.devices.class[index].slots;
        class_shrink(step, index);
        class_promote(step, &executor->class[index]);
    }
    gossip_capacity_changed(step);
    grants_offer(step);
}

bool executor_serves(const struct mesh *mesh, uint32_t home)
{
    return !mesh->draining || (home == mesh->members.self && !mesh->stopping && !mesh->leaving);
}

void executor_drain(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    grants_drain(step);
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        struct executor_class *const class = &executor->class[index];
        while (class->waiting.count > 0)
            attempt_stop(executor, list_last(&class->waiting), false);
        grants_revoke(step, index, 0);
    }
    gossip_capacity_changed(step);
}

/* Time. */

static void tick_leases(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    for (;;) {
        const uint32_t slot = list_first(&executor->leases);
        if (slot == MESH_NONE)
            return;
        if (executor->attempt[slot].due_at_ms > step->now_ms) {
            out_wake(step, executor->attempt[slot].due_at_ms);
            return;
        }
        struct attempt *const attempt = &executor->attempt[slot];
        if (attempt->others.count > 0 && step->now_ms - attempt->renewed_at_ms < EXECUTOR_HELD_MS) {
            attempt->due_at_ms = step->now_ms + EXECUTOR_LEASE_MS; /* somebody may take it over */
            list_refresh(&executor->leases, executor->attempt_link, slot);
            continue;
        }
        step->mesh->counters.leases_lost++;
        attempt_stop(executor, slot, true);
    }
}

/* Whether the lease of one of its attempts is to be renewed, or one goes on without a home. */
static bool renewal_due(const struct step *step, const struct executor_home *home)
{
    const struct executor *const executor = &step->mesh->executor;
    for (uint32_t slot = list_first(&home->attempts); slot != MESH_NONE;
         slot = list_next(executor->home_link, slot)) {
        const struct attempt *const attempt = &executor->attempt[slot];
        if (attempt_live(attempt) &&
            (attempt->due_at_ms - step->now_ms <= EXECUTOR_DUE_MS || adopt_seems_lost(attempt, step->now_ms)))
            return true;
    }
    return false;
}

static void send_renewals(struct step *step, uint32_t member)
{
    struct executor *const executor = &step->mesh->executor;
    const struct executor_home *const home = &executor->home[member];
    struct mesh_message *message = NULL;
    if (!renewal_due(step, home))
        return;
    for (uint32_t slot = list_first(&home->attempts); slot != MESH_NONE;
         slot = list_next(executor->home_link, slot)) {
        if (!attempt_live(&executor->attempt[slot]))
            continue;
        if (adopt_seems_lost(&executor->attempt[slot], step->now_ms))
            adopt_report(step, &executor->attempt[slot]);
        if (!message || message->body.renew.count == MESH_RENEW_MAX)
            message = out_send(step, &step->mesh->members.slot[member].id, MESH_RENEW);
        message->body.renew.name[message->body.renew.count++] = executor->attempt[slot].name;
    }
}

static void tick_renewals(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    for (;;) {
        const uint32_t member = list_first(&executor->renewals);
        if (member == MESH_NONE)
            return;
        struct executor_home *const home = &executor->home[member];
        if (home->renew_at_ms > step->now_ms) {
            out_wake(step, home->renew_at_ms);
            return;
        }
        if (!out_has_room(step->out, 0, (home->live + MESH_RENEW_MAX - 1) / MESH_RENEW_MAX, 0)) {
            step->mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        send_renewals(step, member);
        home->renew_at_ms = step->now_ms + EXECUTOR_RENEW_MS;
        list_refresh(&executor->renewals, executor->renew_link, member);
    }
}

static void tick_results(struct step *step, struct list *results)
{
    struct executor *const executor = &step->mesh->executor;
    for (uint32_t done = 0;; done++) {
        const uint32_t slot = list_first(results);
        if (slot == MESH_NONE)
            return;
        struct attempt *const attempt = &executor->attempt[slot];
        if (attempt->due_at_ms > step->now_ms) {
            out_wake(step, attempt->due_at_ms);
            return;
        }
        if (done == EXECUTOR_RESENDS_PER_STEP || !out_has_room(step->out, 0, 1, 0)) {
            step->mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        attempt->due_at_ms = step->now_ms + resend_ms(attempt);
        list_refresh(results, executor->attempt_link, slot);
        if (step->now_ms - attempt->finished_at_ms >= EXECUTOR_HELD_MS)
            attempt_stop(executor, slot, true);
        else if (!attempt->discard) {
            if (adopt_seems_lost(attempt, step->now_ms))
                adopt_offer_result(step, slot);
            else
                send_result(step, attempt);
        }
    }
}

void executor_tick(struct step *step)
{
    tick_leases(step);
    tick_renewals(step);
    tick_results(step, &step->mesh->executor.results);
    tick_results(step, &step->mesh->executor.long_results);
    closing_flush(step);
    grants_tick(step);
}

/* Invariants. */

static void check_classes(const struct executor *executor)
{
    uint32_t stopping[MESH_DEVICE_CLASSES] = {0};
    for (uint32_t slot = 0; slot < executor->attempt_pool.fresh; slot++) {
        if (executor->attempt[slot].state == ATTEMPT_STOPPING)
            stopping[executor->attempt[slot].class]++;
    }
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        const struct executor_class *const class = &executor->class[index];
        assert(class->stopping == stopping[index]);
        assert(class->running.count <= class->slots);
        /* None waits behind a slot that is free. */
        assert(class->waiting.count == 0 || class->running.count + class->stopping >= class->slots);
        assert(class->running.count + class->waiting.count + class->granted <= 2 * class->slots);
        for (uint32_t slot = list_first(&class->running); slot != MESH_NONE;
             slot = list_next(executor->class_link, slot))
            assert(executor->attempt[slot].state == ATTEMPT_RUNNING &&
                   executor->attempt[slot].class == index);
        for (uint32_t slot = list_first(&class->waiting); slot != MESH_NONE;
             slot = list_next(executor->class_link, slot))
            assert(executor->attempt[slot].state == ATTEMPT_WAITING &&
                   executor->attempt[slot].class == index);
    }
}

static void check_homes(const struct mesh *mesh)
{
    const struct executor *const executor = &mesh->executor;
    uint32_t attempts = 0;
    uint32_t renewing = 0;
    for (uint32_t member = 0; member < mesh->config.limits.members; member++) {
        const struct executor_home *const home = &executor->home[member];
        uint32_t live = 0;
        for (uint32_t slot = list_first(&home->attempts); slot != MESH_NONE;
             slot = list_next(executor->home_link, slot)) {
            assert(executor->attempt[slot].home == member);
            assert(executor->attempt[slot].state != ATTEMPT_FREE);
            live += attempt_live(&executor->attempt[slot]);
        }
        assert(live == home->live);
        attempts += home->attempts.count;
        renewing += live > 0;
    }
    assert(attempts == pool_in_use(&executor->attempt_pool));
    assert(renewing == executor->renewals.count);
}

void executor_check(const struct mesh *mesh)
{
    const struct executor *const executor = &mesh->executor;
    grants_check(executor);
    check_classes(executor);
    check_homes(mesh);
    uint32_t live = 0;
    uint32_t finished = 0;
    uint32_t promised = 0;
    for (uint32_t slot = 0; slot < executor->attempt_pool.fresh; slot++) {
        const struct attempt *const attempt = &executor->attempt[slot];
        if (attempt->state == ATTEMPT_FREE)
            continue;
        assert(attempt->count > 0 && attempt->count <= MESH_BUNDLE_SHARDS_MAX);
        live += attempt_live(attempt);
        finished += attempt->state == ATTEMPT_FINISHED;
    }
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++)
        promised += executor->class[index].granted;
    assert(live == executor->leases.count &&
           finished == executor->results.count + executor->long_results.count);
    assert(promised + pool_in_use(&executor->attempt_pool) <= executor->attempt_pool.capacity);
}
