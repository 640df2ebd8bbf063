/* Demands and grants: who gets the next free place. */
#include "mesh/internal.h"

/*
 * Tokens: 20 bits of the session, 34 bits of a counter, 10 bits of the grant's slot. A token comes again
 * after 17 thousand million grants of one session.
 */
enum {
    TOKEN_SLOT_BITS = 10,
    TOKEN_COUNT_BITS = 34,
};
static_assert(MESH_GRANTS_MAX <= 1u << TOKEN_SLOT_BITS, "a grant's slot fits its token");

static uint64_t token_make(const struct mesh *mesh, uint64_t count, uint32_t slot)
{
    const uint64_t session = mesh->config.session << (TOKEN_COUNT_BITS + TOKEN_SLOT_BITS);
    const uint64_t number = (count & ((UINT64_C(1) << TOKEN_COUNT_BITS) - 1)) << TOKEN_SLOT_BITS;
    return session | number | slot;
}

static struct grant *grant_find(struct executor *executor, uint64_t token)
{
    const uint32_t slot = (uint32_t)(token & ((1u << TOKEN_SLOT_BITS) - 1));
    if (slot >= executor->grant_pool.fresh || executor->grant[slot].token != token || token == 0)
        return NULL;
    return &executor->grant[slot];
}

static void grant_free(struct executor *executor, struct grant *grant)
{
    const uint32_t slot = (uint32_t)(grant - executor->grant);
    executor->class[grant->class].granted -= grant->unused;
    executor->home[grant->home].granted -= grant->unused;
    list_remove(&executor->grants, executor->grant_link, slot);
    pool_give(&executor->grant_pool, executor->grant_link, slot);
    grant->token = 0;
}

static void demand_free(struct executor *executor, uint32_t slot)
{
    executor->wanted -= executor->demand[slot].wanted;
    list_remove(&executor->demands, executor->demand_link, slot);
    pool_give(&executor->demand_pool, executor->demand_link, slot);
    executor->demand[slot].live = false;
}

static uint32_t demand_find(const struct executor *executor, uint32_t home, const struct mesh_id *job)
{
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;
         slot = list_next(executor->demand_link, slot)) {
        const struct demand *const demand = &executor->demand[slot];
        if (demand->home == home && id_equal(&demand->job, job))
            return slot;
    }
    return MESH_NONE;
}

static bool demand_affords(const struct executor *executor, const struct demand *demand)
{
    return demand->price_limit_micro == 0 || executor->price_micro <= demand->price_limit_micro;
}

static uint32_t demand_offered(const struct demand *demand)
{
    uint32_t sum = 0;
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++)
        sum += demand->offer[index];
    return sum;
}

/* Whether its home would hold more than half of the class's slots with one place more. */
static bool demand_beyond_half(const struct executor *executor, const struct demand *demand, uint32_t class)
{
    const struct executor_home *const home = &executor->home[demand->home];
    const uint32_t held = home->live + home->granted + demand_offered(demand);
    return held + 1 > (executor->class[class].slots + 1) / 2;
}

/* Whether `one` goes before `other`. Who has waited longest, goes first; but homes that hold half of the slots come
 * after all others, and take turns: the one whose party, and then whose job, was served longest ago. */
static bool demand_before(const struct executor *executor, const struct demand *one,
                          const struct demand *other, uint32_t class)
{
    const bool beyond = demand_beyond_half(executor, one, class);
    if (beyond != demand_beyond_half(executor, other, class))
        return !beyond;
    if (!beyond)
        return one->born_ms != other->born_ms ? one->born_ms < other->born_ms : one->came < other->came;
    if (one->party_served != other->party_served)
        return one->party_served < other->party_served;
    return one->served < other->served;
}

static uint32_t demand_next(const struct executor *executor, uint32_t class)
{
    uint32_t best = MESH_NONE;
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;
         slot = list_next(executor->demand_link, slot)) {
        const struct demand *const demand = &executor->demand[slot];
        if (!(demand->classes >> class & 1) || !demand_affords(executor, demand) ||
            demand_offered(demand) >= demand->wanted)
            continue;
        if (best == MESH_NONE || demand_before(executor, demand, &executor->demand[best], class))
            best = slot;
    }
    return best;
}

/* It is the others' turn now: the job's, and its home's and tenant's. */
static void demand_served(struct executor *executor, uint32_t served)
{
    const struct demand *const one = &executor->demand[served];
    const uint64_t turn = ++executor->turn;
    const uint32_t home = one->home;
    const uint64_t tenant = one->tenant;
    executor->demand[served].served = turn;
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;
         slot = list_next(executor->demand_link, slot)) {
        struct demand *const demand = &executor->demand[slot];
        if (demand->home == home && demand->tenant == tenant)
            demand->party_served = turn;
    }
}

/* Deals places of the class to demands, one at a time. A demand that must have a whole slot makes the others
 * wait for it when it is its turn: otherwise short bundles, which take places behind running ones, would keep
 * it out for ever. */
static uint32_t deal(struct step *step, uint32_t index)
{
    struct executor *const executor = &step->mesh->executor;
    struct executor_class *const class = &executor->class[index];
    uint32_t dealt = 0;
    uint32_t promised = 0;
    for (uint32_t other = 0; other < MESH_DEVICE_CLASSES; other++)
        promised += executor->class[other].granted;
    const uint32_t ahead = executor_ahead(executor, index, step->now_ms);
    while (executor_places(class, class->slots) > 0) {
        const uint32_t slot = demand_next(executor, index);
        if (slot == MESH_NONE ||
            executor_places(class, executor->demand[slot].deep ? class->slots : ahead) == 0)
            break;
        if (promised + pool_in_use(&executor->attempt_pool) >= executor->attempt_pool.capacity) {
            step->mesh->counters.bound_attempts++;
            if (!executor_make_room(step))
                break;
        }
        executor->demand[slot].offer[index]++;
        class->granted++;
        promised++;
        dealt++;
        demand_served(executor, slot);
    }
    return dealt;
}

/* Sends what was dealt to one demand in one class. Returns false when the output or the grant table is full.
 */
static bool send_grants(struct step *step, struct demand *demand, uint16_t class)
{
    struct mesh *const mesh = step->mesh;
    struct executor *const executor = &mesh->executor;
    while (demand->offer[class] > 0) {
        if (!out_has_room(step->out, 0, 1, 0))
            return false;
        const uint32_t slot = pool_take(&executor->grant_pool, executor->grant_link);
        if (slot == MESH_NONE)
            return false;
        const uint16_t places = demand->offer[class] < EXECUTOR_GRANT_PLACES_MAX
                                    ? (uint16_t)demand->offer[class]
                                    : EXECUTOR_GRANT_PLACES_MAX;
        struct grant *const grant = &executor->grant[slot];
        *grant = (struct grant){
            .token = token_make(mesh, ++executor->grants_made, slot),
            .home = demand->home,
            .job = demand->job,
            .expires_at_ms = step->now_ms + EXECUTOR_GRANT_KEPT_MS,
            .class = class,
            .places = places,
            .unused = places,
        };
        list_append(&executor->grants, executor->grant_link, slot);
        executor->home[demand->home].granted += places;
        demand->offer[class] -= places;
        demand->wanted -= places;
        executor->wanted -= places;
        struct mesh_message *const message = out_send(step, &mesh->members.slot[demand->home].id, MESH_GRANT);
        message->body.grant.job = demand->job;
        message->body.grant.token = grant->token;
        message->body.grant.places = places;
        message->body.grant.class = class;
        message->body.grant.valid_ms = EXECUTOR_GRANT_VALID_MS;
        mesh->counters.grants++;
    }
    return true;
}

void grants_offer(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct executor *const executor = &mesh->executor;
    if (!executor_serves(mesh, mesh->members.self) || executor->demands.count == 0)
        return;
    uint32_t dealt = 0;
    /* The scarcer class first: a demand that takes either leaves the common one to others. */
    for (uint32_t index = MESH_DEVICE_CLASSES; index-- > 0;)
        dealt += deal(step, index);
    if (dealt == 0)
        return;
    bool room = true;
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;) {
        struct demand *const demand = &executor->demand[slot];
        const uint32_t next = list_next(executor->demand_link, slot);
        for (uint16_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
            room = room && send_grants(step, demand, index);
            /* What could not be sent is taken back and dealt again in the next step. */
            executor->class[index].granted -= demand->offer[index];
            demand->offer[index] = 0;
        }
        if (demand->wanted == 0)
            demand_free(executor, slot);
        slot = next;
    }
    if (!room) {
        mesh->counters.bound_out++;
        out_wake(step, step->now_ms);
    }
    gossip_capacity_changed(step);
}

static void send_wait(struct step *step, uint32_t to, const struct mesh_id *job)
{
    out_send(step, &step->mesh->members.slot[to].id, MESH_WAIT)->body.wait.job = *job;
    step->mesh->counters.waits++;
}

/* The device classes of `classes` on which that kernel runs here. */
static uint16_t classes_here(const struct mesh *mesh, uint64_t kernel, uint16_t classes)
{
    if (mesh_is_user_kernel(kernel) && mesh->config.kernel_count > 0)
        return classes & mesh->config.user_classes;
    for (uint32_t i = 0; i < mesh->config.kernel_count; i++) {
        if (mesh->config.kernels[i] == kernel)
            return classes;
    }
    return mesh->config.kernel_count == 0 ? classes : 0;
}

/* A place would be of no use, and no waiting helps. */
static void send_refusal(struct step *step, uint32_t to, const struct mesh_id *job)
{
    out_send(step, &step->mesh->members.slot[to].id, MESH_GRANT)->body.grant.job = *job;
    step->mesh->counters.refusals++;
}

/* The turn of a home and tenant that have no demand here is the last: whoever waits already goes first. */
static uint64_t party_turn(struct executor *executor, uint32_t home, uint64_t tenant)
{
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;
         slot = list_next(executor->demand_link, slot)) {
        const struct demand *const demand = &executor->demand[slot];
        if (demand->home == home && demand->tenant == tenant)
            return demand->party_served;
    }
    return ++executor->turn;
}

/* Since when its job waits, as far as that counts. */
static int64_t waits_since(const struct step *step, const struct mesh_message *message)
{
    const uint32_t waited_ms = message->kind == MESH_WISH ? message->body.reserve.waited_ms : 0;
    return step->now_ms - (waited_ms < EXECUTOR_WAITED_MS ? waited_ms : EXECUTOR_WAITED_MS);
}

/* Finds or makes the demand that a RESERVE or WISH speaks of. */
static uint32_t demand_take(struct executor *executor, uint32_t from, const struct mesh_message *message)
{
    uint32_t slot = demand_find(executor, from, &message->body.reserve.job);
    if (slot != MESH_NONE)
        return slot;
    slot = pool_take(&executor->demand_pool, executor->demand_link);
    assert(slot != MESH_NONE);
    const uint64_t turn = party_turn(executor, from, message->body.reserve.tenant);
    executor->demand[slot] = (struct demand){
        .live = true,
        .home = from,
        .job = message->body.reserve.job,
        .tenant = message->body.reserve.tenant,
        .came = ++executor->turn,
        .served = executor->turn,
        .party_served = turn,
    };
    list_append(&executor->demands, executor->demand_link, slot);
    return slot;
}

void executor_reserve(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    struct executor *const executor = &mesh->executor;
    const struct mesh_id *const job = &message->body.reserve.job;
    if (message->body.reserve.wanted == 0) {
        const uint32_t known = demand_find(executor, from, job);
        if (known != MESH_NONE)
            demand_free(executor, known);
        return;
    }
    if ((message->body.reserve.classes & ((1u << MESH_DEVICE_CLASSES) - 1)) == 0) {
        mesh->counters.bad_messages++;
        return;
    }
    const uint16_t classes = classes_here(mesh, message->body.reserve.kernel, message->body.reserve.classes);
    if (classes == 0) {
        send_refusal(step, from, job);
        return;
    }
    if (!executor_serves(mesh, from)) {
        send_wait(step, from, job);
        return;
    }
    const uint32_t slot = demand_take(executor, from, message);
    const bool beyond = executor->demands.count == executor->demand_pool.capacity;
    struct demand *const demand = &executor->demand[slot];
    demand->tenant = message->body.reserve.tenant;
    demand->price_limit_micro = message->body.reserve.price_limit_micro;
    demand->classes = classes;
    const bool grows = message->kind == MESH_WISH && message->body.reserve.wanted > demand->wanted;
    if (demand->wanted == 0 || grows)
        demand->born_ms = waits_since(step, message);
    executor->wanted += message->body.reserve.wanted - demand->wanted;
    demand->wanted = message->body.reserve.wanted;
    demand->deep = message->body.reserve.deep;
    demand->expires_at_ms = step->now_ms + EXECUTOR_DEMAND_MS;
    list_refresh(&executor->demands, executor->demand_link, slot);
    grants_offer(step);
    /* At the bound it is given what is free now, which the others may have no use for, and forgotten. */
    if (beyond && demand->live) {
        demand_free(executor, slot);
        mesh->counters.bound_demands++;
        send_wait(step, from, job);
        return;
    }
    const bool patient = message->kind == MESH_WISH && message->body.reserve.patient;
    if (!patient && demand->live && demand->wanted == message->body.reserve.wanted)
        send_wait(step, from, job);
}

void executor_release(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    struct grant *const grant = grant_find(executor, message->body.release.token);
    if (!grant)
        return; /* expired meanwhile */
    if (grant->home != from) {
        step->mesh->counters.bad_messages++;
        return;
    }
    const uint16_t places =
        message->body.release.places < grant->unused ? message->body.release.places : grant->unused;
    grant->unused = (uint16_t)(grant->unused - places);
    executor->class[grant->class].granted -= places;
    executor->home[from].granted -= places;
    step->mesh->counters.grants_released += places;
    if (grant->unused == 0)
        grant_free(executor, grant);
    gossip_capacity_changed(step);
    grants_offer(step);
}

bool grants_use(struct step *step, uint32_t from, const struct mesh_message *assign)
{
    struct executor *const executor = &step->mesh->executor;
    struct grant *const grant = grant_find(executor, assign->body.assign.name.token);
    if (!grant)
        return false;
    const uint32_t index = assign->body.assign.name.index;
    if (grant->home != from || !id_equal(&grant->job, &assign->body.assign.job) ||
        grant->class != assign->body.assign.class || index >= grant->places) {
        step->mesh->counters.bad_messages++;
        return false;
    }
    if (grant->used >> index & 1)
        return false; /* its attempt has come and gone */
    grant->used |= UINT64_C(1) << index;
    grant->unused--;
    executor->class[grant->class].granted--;
    executor->home[from].granted--;
    if (grant->unused == 0)
        grant_free(executor, grant);
    return true;
}

void grants_forget(struct step *step, uint32_t home, const struct mesh_id *job)
{
    struct executor *const executor = &step->mesh->executor;
    for (uint32_t slot = list_first(&executor->demands), next; slot != MESH_NONE; slot = next) {
        next = list_next(executor->demand_link, slot);
        const struct demand *const demand = &executor->demand[slot];
        if (demand->home == home && (!job || id_equal(&demand->job, job)))
            demand_free(executor, slot);
    }
    for (uint32_t slot = list_first(&executor->grants), next; slot != MESH_NONE; slot = next) {
        next = list_next(executor->grant_link, slot);
        struct grant *const grant = &executor->grant[slot];
        if (grant->home == home && (!job || id_equal(&grant->job, job)))
            grant_free(executor, grant);
    }
    gossip_capacity_changed(step);
}

void grants_drain(struct step *step)
{
    struct executor *const executor = &step->mesh->executor;
    for (uint32_t slot = list_first(&executor->demands), next; slot != MESH_NONE; slot = next) {
        next = list_next(executor->demand_link, slot);
        if (!executor_serves(step->mesh, executor->demand[slot].home))
            demand_free(executor, slot);
    }
}

void grants_revoke(struct step *step, uint32_t class, uint32_t places)
{
    struct executor *const executor = &step->mesh->executor;
    for (uint32_t slot = list_last(&executor->grants), before; slot != MESH_NONE; slot = before) {
        before = executor->grant_link[slot].prev - 1;
        if (executor->class[class].granted <= places)
            break;
        if (executor->grant[slot].class == class)
            grant_free(executor, &executor->grant[slot]);
    }
}

void grants_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct executor *const executor = &mesh->executor;
    for (;;) {
        const uint32_t slot = list_first(&executor->demands);
        if (slot == MESH_NONE)
            break;
        if (executor->demand[slot].expires_at_ms > step->now_ms) {
            out_wake(step, executor->demand[slot].expires_at_ms);
            break;
        }
        demand_free(executor, slot);
    }
    for (;;) {
        const uint32_t slot = list_first(&executor->grants);
        if (slot == MESH_NONE)
            break;
        if (executor->grant[slot].expires_at_ms > step->now_ms) {
            out_wake(step, executor->grant[slot].expires_at_ms);
            break;
        }
        mesh->counters.grants_expired++;
        grant_free(executor, &executor->grant[slot]);
        gossip_capacity_changed(step);
    }
    grants_offer(step);
}

void grants_check(const struct executor *executor)
{
    uint32_t demands = 0;
    int64_t last_ms = INT64_MIN;
    for (uint32_t slot = list_first(&executor->demands); slot != MESH_NONE;
         slot = list_next(executor->demand_link, slot)) {
        const struct demand *const demand = &executor->demand[slot];
        assert(demand->live && demand->wanted > 0 && demand_offered(demand) == 0);
        assert(demand->expires_at_ms >= last_ms);
        last_ms = demand->expires_at_ms;
        demands++;
    }
    assert(demands == executor->demands.count && demands == pool_in_use(&executor->demand_pool));
    assert(demands < executor->demand_pool.capacity);

    uint32_t granted[MESH_DEVICE_CLASSES] = {0};
    uint32_t grants = 0;
    last_ms = INT64_MIN;
    for (uint32_t slot = list_first(&executor->grants); slot != MESH_NONE;
         slot = list_next(executor->grant_link, slot)) {
        const struct grant *const grant = &executor->grant[slot];
        assert(grant->token != 0 && grant->unused > 0 && grant->unused <= grant->places);
        assert(grant->places <= EXECUTOR_GRANT_PLACES_MAX);
        assert(grant->expires_at_ms >= last_ms);
        last_ms = grant->expires_at_ms;
        granted[grant->class] += grant->unused;
        grants++;
    }
    assert(grants == executor->grants.count && grants == pool_in_use(&executor->grant_pool));
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++)
        assert(granted[index] == executor->class[index].granted);
}
