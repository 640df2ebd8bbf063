/* Placement: where to ask for places, for how many, and how much work one place gets. */
#include "mesh/internal.h"

enum {
    RTT_US_MAX = 1000000,       /* a peer that answers pings late gets no larger bundles for it */
    SHARD_US_MAX = 3600000000u, /* one shard's device time that is believed */
    CHOICES = 4,                /* power of four choices */
    SOON_MS = 1000, /* a place within so long, or within a tenth of a bundle's time, is in good time */
    SOON_PART = 10,
    PACE_MAX = 64 * 1000,  /* thousandths of places in one grant */
    WISHES_PACE = 3,       /* wishes that stand at one member: for so many times what it frees in good time */
    OVER_PERMILLE = 1850,  /* members asked free so much of what is needed: others are served there, too */
    ASKING_MS = 200,       /* what asking a member is worth in time, shared by its places */
    RTT_UNKNOWN_MS = 100,  /* of a member whose distance was not measured */
    DELIVERED_MIN = 50,    /* a member that never delivers is still tried now and then */
    MOVED_PER_MS = 100000, /* bytes of inputs that a member fetches: 100 MB/s */
};

/* A member as a place for one job. */
struct candidate {
    uint32_t member;
    uint32_t believed; /* places free there now, less what we have asked for already */
    uint32_t queue;    /* bundles and wishes that were there before, as far as they find no free place */
    uint32_t slots;
    uint16_t class; /* with the most places of those that will do */
    uint64_t cost;
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* How much work goes into one bundle. */

void placement_guess(struct job *job)
{
    job->shard_ns = (uint64_t)job->spec.shard_us_guess * 1000;
    job->bundle_cap = 1;
    if (job->shard_ns == 0)
        return;
    const uint64_t shards = (uint64_t)HOME_BUNDLE_US * 1000 / job->shard_ns;
    job->bundle_cap = shards < 1 ? 1 : least((uint32_t)shards, job->spec.bundle_shards_max);
}

void placement_learn(struct job *job, uint64_t device_us, uint32_t count)
{
    const uint64_t us = device_us / count < SHARD_US_MAX ? device_us : (uint64_t)SHARD_US_MAX * count;
    const uint64_t ns = us * 1000 / count + 1;
    job->shard_ns = job->shard_ns == 0 ? ns : (job->shard_ns * 3 + ns) / 4;
    job->bundle_cap = least(job->bundle_cap * 2, job->spec.bundle_shards_max);
}

/* Shards that make up the target work at the present estimate. */
static uint32_t shards_by_time(const struct job *job, uint32_t rtt_us)
{
    if (job->shard_ns == 0)
        return 1;
    const uint64_t trips_us = 2 * (uint64_t)least(rtt_us, RTT_US_MAX);
    const uint64_t target_us = trips_us > HOME_BUNDLE_US ? trips_us : HOME_BUNDLE_US;
    const uint64_t shards = target_us * 1000 / job->shard_ns;
    return shards < 1 ? 1 : shards < job->bundle_cap ? (uint32_t)shards : job->bundle_cap;
}

uint32_t placement_bundle_shards(const struct home *home, const struct job *job, uint32_t rtt_us,
                                 uint32_t places)
{
    (void)home;
    const uint32_t by_time = shards_by_time(job, rtt_us);
    /* Near the end smaller bundles, so that all places finish at about the same time. */
    const uint32_t known = 2 * (places + job->bundles.count + job->expected);
    const uint32_t even = (job->queued + known - 1) / known;
    return by_time < even ? by_time : even;
}

/* Bundles that the queue will need, and that the table has room for: a grant beyond it would only go back. */
static uint32_t job_need(const struct home *home, const struct job *job)
{
    const uint32_t shards = shards_by_time(job, 0);
    const uint32_t queued = verify_permits(home, job, (job->queued + shards - 1) / shards);
    const uint32_t bundles = queued + job->slow + job->wanting;
    return least(least(bundles, bundles_room(home)), UINT16_MAX);
}

static bool job_deep(const struct job *job)
{
    return job->shard_ns > 0 && job->shard_ns * shards_by_time(job, 0) < (uint64_t)HOME_DEEP_US * 1000;
}

/* Who can help. */

bool placement_permits(const struct mesh *mesh, const struct job *job, uint32_t member)
{
    if (verify_bars_of_job(mesh, job, member))
        return false;
    if (member == mesh->members.self)
        return executor_serves(mesh, member);
    return members_takes_work(mesh, member) &&
           (!job->spec.local_only || mesh->members.slot[member].record.site == mesh->config.site);
}

/* The member's capacity as last heard; our own as it is. */
static bool capacity_of(const struct mesh *mesh, uint32_t member, struct mesh_capacity *capacity)
{
    if (member == mesh->members.self) {
        executor_capacity(mesh, capacity);
        return true;
    }
    if (!mesh->members.slot[member].has_capacity)
        return false;
    *capacity = members_offer(mesh, member);
    return true;
}

static uint32_t delivered(const struct member_notes *notes)
{
    const uint32_t permille = notes->delivered_permille;
    return permille == 0 ? 1000 : permille < DELIVERED_MIN ? DELIVERED_MIN : permille;
}

/* Whether bundles of the job are there, and so the inputs that all of them need. */
static bool has_inputs(const struct home *home, const struct job *job, uint32_t member)
{
    for (uint32_t slot = list_first(&home->member[member].bundles); slot != MESH_NONE;
         slot = list_next(home->member_link, slot)) {
        if (&home->job[home->bundle[slot].job] == job)
            return true;
    }
    return false;
}

/* Bytes of inputs that have to go there; to our own workers nothing travels. */
static uint64_t moved_bytes(const struct mesh *mesh, const struct job *job, uint32_t member,
                            const struct mesh_capacity *capacity)
{
    if (member == mesh->members.self || has_inputs(&mesh->home, job, member))
        return 0;
    for (uint32_t i = 0; i < capacity->resident_count && job->spec.broadcast_bytes > 0; i++) {
        if (capacity->resident[i] == job->spec.broadcast)
            return job->spec.memory_bytes - job->spec.broadcast_bytes;
    }
    return job->spec.memory_bytes;
}

/*
 * What a place there costs, in milliseconds of waiting: the queue it was seen with, at the pace of our own shards; the
 * way there and back; and asking, and inputs to be moved there, which many places share. All of it grows by what the
 * member failed to deliver of its promises, by its price (at the limit it doubles), and if its owner wants it back before
 * a bundle could end.
 */
static uint64_t cost_of(const struct step *step, const struct job *job, const struct candidate *one,
                        const struct mesh_capacity *capacity)
{
    const struct home *const home = &step->mesh->home;
    const struct member_notes *const notes = members_notes(&step->mesh->members, one->member);
    const uint64_t bundle_ms =
        job->shard_ns == 0 ? 1000 : job->shard_ns * shards_by_time(job, 0) / 1000000 + 1;
    const uint32_t places = least(one->believed, job_need(home, job));
    const bool own = one->member == step->mesh->members.self;
    const uint64_t moved_ms = moved_bytes(step->mesh, job, one->member, capacity) / MOVED_PER_MS;
    uint64_t cost = ASKING_MS + (moved_ms < UINT32_MAX ? moved_ms : UINT32_MAX);
    cost = places > 0 ? cost / places : cost + (one->queue + 1) * bundle_ms / one->slots;
    if (!own)
        cost += notes->rtt_us == 0 ? RTT_UNKNOWN_MS : least(notes->rtt_us, RTT_US_MAX) / 1000;
    cost = cost * 1000000 / delivered(notes);
    if (job->spec.price_limit_micro > 0)
        cost += cost * capacity->price_micro / job->spec.price_limit_micro;
    const int64_t until_ms = capacity->available_until_ms;
    if (until_ms > 0 && until_ms < step->wall_ms + (int64_t)bundle_ms)
        cost *= 2;
    return cost;
}

static uint32_t ask_find(const struct home *home, const struct job *job, uint32_t member)
{
    for (uint32_t slot = list_first(&job->asks); slot != MESH_NONE; slot = list_next(home->ask_link, slot)) {
        if (home->ask[slot].member == member)
            return slot;
    }
    return MESH_NONE;
}

bool mesh_job_ask(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *member,
                  struct mesh_ask_view *view)
{
    const uint32_t job_slot = home_job_find(&mesh->home, job);
    const uint32_t slot = job_slot == MESH_NONE
                              ? MESH_NONE
                              : ask_find(&mesh->home, &mesh->home.job[job_slot], members_find(mesh, member));
    if (slot == MESH_NONE)
        return false;
    const struct ask *const ask = &mesh->home.ask[slot];
    *view = (struct mesh_ask_view){
        .wanted = ask->left, .for_ms = mesh->now_ms - ask->sent_at_ms, .refused = ask->refused};
    return true;
}

/* Whether it said lately that the job's kernel does not run there. */
static bool has_refused(const struct mesh *mesh, const struct job *job, uint32_t member)
{
    const uint32_t slot = ask_find(&mesh->home, job, member);
    return slot != MESH_NONE && mesh->home.ask[slot].refused;
}

/* Whether shards of the queue may be bound now, wherever. */
static bool has_queued(const struct home *home, const struct job *job)
{
    return job->queued > 0 && verify_permits(home, job, 1) > 0;
}

/* Whether something may be computed there a second time: a slow bundle, or what is to be checked. */
static bool may_repeat(const struct mesh *mesh, const struct job *job, uint32_t member)
{
    struct mesh_capacity capacity;
    uint32_t classes = 0;
    for (uint32_t index = 0; capacity_of(mesh, member, &capacity) && index < MESH_DEVICE_CLASSES; index++)
        classes |= (uint32_t)(capacity.class[index].slots > 0) << index;
    return speculation_pick(&mesh->home, job, member) != MESH_NONE ||
           verify_pick(mesh, job, member, classes) != MESH_NONE;
}

/* Returns false if the member is of no use to the job. */
static bool weigh(const struct step *step, const struct job *job, uint32_t member, struct candidate *one)
{
    const struct mesh *const mesh = step->mesh;
    struct mesh_capacity capacity;
    if (!placement_permits(mesh, job, member) || !capacity_of(mesh, member, &capacity) ||
        (capacity.draining && member != mesh->members.self))
        return false;
    if (has_refused(mesh, job, member))
        return false;
    if (!has_queued(&mesh->home, job) && !may_repeat(mesh, job, member))
        return false;
    if (job->spec.price_limit_micro > 0 && capacity.price_micro > job->spec.price_limit_micro)
        return false;
    const bool deep = job_deep(job);
    const bool users = mesh_is_user_kernel(job->spec.kernel);
    const uint32_t classes = users ? job->spec.classes & ~(uint32_t)capacity.no_users : job->spec.classes;
    *one = (struct candidate){.member = member};
    for (uint16_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        const struct mesh_class_capacity *const class = &capacity.class[index];
        if (!(classes >> index & 1) || class->slots == 0)
            continue;
        const uint32_t debit = members_notes(&mesh->members, member)->debit[index];
        uint32_t places = class->free;
        if (deep)
            places += class->slots - least(class->waiting, class->slots);
        const uint32_t queue = class->waiting + (debit > places ? debit - places : 0);
        places -= least(places, debit);
        if (one->slots == 0 || places > one->believed || (places == one->believed && queue < one->queue)) {
            one->class = index;
            one->believed = places;
            one->queue = queue;
        }
        one->slots += class->slots;
    }
    if (one->slots == 0)
        return false;
    one->cost = cost_of(step, job, one, &capacity);
    return true;
}

/* Asks. */

/* Nothing more is expected from it at once: `places` were used, the rest was wishful. */
static void ask_settle(struct step *step, struct job *job, struct ask *ask, uint32_t places)
{
    if (ask->expected > places)
        placement_returned(step, ask->member, ask->class, ask->expected - places);
    job->expected -= ask->expected;
    ask->expected = 0;
}

void placement_drop(struct step *step, uint32_t job, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct ask *const ask = &home->ask[slot];
    ask_settle(step, &home->job[job], ask, 0);
    ask->member = MESH_NONE;
    list_remove(&home->job[job].asks, home->ask_link, slot);
    pool_give(&home->ask_pool, home->ask_link, slot);
}

bool placement_speaks_wishes(const struct mesh *mesh, uint32_t member)
{
    return member == mesh->members.self ||
           mesh->members.slot[member].protocol >= mesh_message_since(MESH_WISH);
}

/* `expected` of the places are believed to be free: an answer is waited for. */
static void send_reserve(struct step *step, const struct job *job, uint32_t to, uint32_t wanted,
                         uint32_t expected)
{
    const bool wish = placement_speaks_wishes(step->mesh, to);
    struct mesh_message *const message =
        out_send(step, &step->mesh->members.slot[to].id, wish ? MESH_WISH : MESH_RESERVE);
    message->body.reserve.job = job->spec.id;
    message->body.reserve.epoch = job->spec.epoch;
    message->body.reserve.tenant = job->spec.tenant;
    message->body.reserve.kernel = job->spec.kernel;
    message->body.reserve.memory_bytes = job->spec.memory_bytes;
    message->body.reserve.price_limit_micro = job->spec.price_limit_micro;
    message->body.reserve.classes = job->spec.classes;
    message->body.reserve.wanted = (uint16_t)wanted;
    message->body.reserve.deep = job_deep(job);
    const int64_t waited_ms = step->now_ms - job->born_ms;
    message->body.reserve.waited_ms = waited_ms < UINT32_MAX ? (uint32_t)waited_ms : UINT32_MAX;
    message->body.reserve.patient = expected == 0;
    step->mesh->counters.reserves++;
}

/* What the member frees in good time for the job, by its slots and the time that the job's bundles take. */
static uint32_t pace_of(const struct job *job, uint32_t slots)
{
    const uint64_t bundle_ms =
        job->shard_ns == 0 ? SOON_MS : job->shard_ns * shards_by_time(job, 0) / 1000000 + 1;
    const uint64_t soon_ms = bundle_ms / SOON_PART > SOON_MS ? bundle_ms / SOON_PART : SOON_MS;
    const uint64_t pace = slots * soon_ms * 1000 / bundle_ms;
    return pace < PACE_MAX ? (uint32_t)pace : PACE_MAX;
}

/* Sends the ask, or sends it again: it replaces what stood there. */
static void ask_send(struct step *step, struct job *job, struct ask *ask, const struct candidate *one,
                     uint32_t wanted)
{
    ask_settle(step, job, ask, 0);
    ask->class = one->class;
    ask->pace = pace_of(job, one->slots);
    ask->left = wanted;
    ask->expected = least(one->believed, wanted);
    ask->sent_at_ms = step->now_ms;
    job->expected += ask->expected;
    members_edit_notes(step->mesh, ask->member)->debit[one->class] += ask->expected;
    send_reserve(step, job, ask->member, wanted, ask->expected);
}

/* Where all asks of a job are taken, one that was refused some time ago makes room. */
static void forget_refusal(struct step *step, uint32_t job_slot)
{
    struct home *const home = &step->mesh->home;
    for (uint32_t slot = list_first(&home->job[job_slot].asks); slot != MESH_NONE;
         slot = list_next(home->ask_link, slot)) {
        if (home->ask[slot].refused && step->now_ms - home->ask[slot].sent_at_ms >= HOME_ASK_REFRESH_MS) {
            placement_drop(step, job_slot, slot);
            return;
        }
    }
}

/* Asks a member that was not asked yet. Returns the ask's slot, or MESH_NONE when no more can be asked. */
static uint32_t ask_make(struct step *step, uint32_t job_slot, const struct candidate *one, uint32_t wanted)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    if (job->asks.count >= HOME_ASKS_PER_JOB)
        forget_refusal(step, job_slot);
    if (job->asks.count >= HOME_ASKS_PER_JOB || !out_has_room(step->out, 0, 1, 0))
        return MESH_NONE;
    const uint32_t slot = pool_take(&home->ask_pool, home->ask_link);
    if (slot == MESH_NONE) {
        step->mesh->counters.bound_demands++;
        return MESH_NONE;
    }
    home->ask[slot] = (struct ask){.job = job_slot, .member = one->member};
    home->member[one->member].asked = home->turn;
    list_append(&job->asks, home->ask_link, slot);
    ask_send(step, job, &home->ask[slot], one, wanted);
    home_decide(step, job, one->member, MESH_WHY_RESERVED, 0, wanted);
    return slot;
}

/* Takes the ask back. Returns false when there is no room to say so. */
static bool withdraw(struct step *step, uint32_t job_slot, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    if (home->ask[slot].left > 0) {
        if (!out_has_room(step->out, 0, 1, 0))
            return false;
        send_reserve(step, &home->job[job_slot], home->ask[slot].member, 0, 0);
    }
    placement_drop(step, job_slot, slot);
    return true;
}

/*
 * What an ask may bring, in thousandths of places. A wish is no promise, and others' are served before ours: what counts
 * is what a member frees in good time rather than how many wishes stand there, and of that a part only. What stands at
 * home costs no message and is a chance only.
 */
static uint64_t ask_brings(const struct mesh *mesh, const struct ask *ask)
{
    const uint64_t expected = (uint64_t)ask->expected * 1000;
    const uint64_t wishes = ask->left > ask->expected ? (uint64_t)(ask->left - ask->expected) * 1000 : 0;
    if (ask->member == mesh->members.self)
        return expected;
    return expected + (wishes < ask->pace ? wishes : ask->pace) * 1000 / OVER_PERMILLE;
}

/* Of what is needed, the places that nobody asked so far is going to bring. */
static uint32_t short_of(const struct mesh *mesh, const struct job *job, uint32_t need)
{
    uint64_t brings = 0;
    for (uint32_t slot = list_first(&job->asks); slot != MESH_NONE;
         slot = list_next(mesh->home.ask_link, slot))
        brings += ask_brings(mesh, &mesh->home.ask[slot]);
    return brings >= (uint64_t)need * 1000 ? 0 : need - (uint32_t)(brings / 1000);
}

/* The member has said since that it has places free, and would have offered them: its table of wishes was full, or it
 * has restarted. */
static bool ask_seems_lost(const struct mesh *mesh, const struct job *job, const struct ask *ask)
{
    const struct member *const member = &mesh->members.slot[ask->member];
    uint32_t places = 0;
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++)
        places += job->spec.classes >> index & 1 ? member->capacity.class[index].free : 0;
    return member->has_capacity && places > 0 && member->capacity.at_ms - ask->sent_at_ms >= HOME_SERVICE_MS;
}

/* Marks who was asked, and repeats what is due. */
static void repeat_asks(struct step *step, uint32_t job_slot, uint32_t need)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    const bool some = has_queued(home, job);
    home->turn++;
    for (uint32_t slot = list_first(&job->asks), next; slot != MESH_NONE; slot = next) {
        next = list_next(home->ask_link, slot);
        struct ask *const ask = &home->ask[slot];
        if (ask->refused) {
            if (step->now_ms - ask->sent_at_ms >= HOME_REFUSED_MS)
                placement_drop(step, job_slot, slot);
            continue;
        }
        const bool own = ask->member == step->mesh->members.self;
        home->member[ask->member].asked = home->turn;
        /* The queue has run out, and what is left may not go there: nothing is to be expected from it. */
        if (!some && !may_repeat(step->mesh, job, ask->member)) {
            if (!withdraw(step, job_slot, slot))
                return;
            continue;
        }
        if (step->now_ms - ask->sent_at_ms < HOME_ASK_REFRESH_MS && !(own && ask->left * 2 < need) &&
            !ask_seems_lost(step->mesh, job, ask))
            continue;
        struct candidate one;
        if (!out_has_room(step->out, 0, 1, 0))
            return;
        if (!weigh(step, job, ask->member, &one))
            withdraw(step, job_slot, slot);
        else
            ask_send(step, job, ask, &one, own || ask->left > need ? need : ask->left);
    }
}

/* Up to MESH_FULL_MESH members the best of all, beyond that the best of four drawn; of those not asked yet. Counts in
 * `*seen` who can help. */
static bool choose(struct step *step, const struct job *job, struct candidate *best, uint32_t *seen)
{
    struct mesh *const mesh = step->mesh;
    const bool few = mesh->members.count <= MESH_FULL_MESH;
    bool found = false;
    for (uint32_t i = 0; i < (few ? mesh->members.count : (uint32_t)CHOICES); i++) {
        const uint32_t member =
            mesh->members.sorted[few ? i : random_below(&mesh->random, mesh->members.count)];
        struct candidate one;
        if (!weigh(step, job, member, &one))
            continue;
        ++*seen;
        if (mesh->home.member[member].asked == mesh->home.turn || (found && one.cost >= best->cost))
            continue;
        *best = one;
        found = true;
    }
    return found;
}

/* What is asked for at a member that has nothing free. */
static uint32_t wishes_of(const struct job *job, uint32_t slots, uint32_t need)
{
    return least((pace_of(job, slots) * WISHES_PACE + 999) / 1000, need);
}

/* Asks one more member for what is short, or for wishes where nothing is. False if there is none, or no room. */
static bool ask_one(struct step *step, uint32_t job_slot, uint32_t need, uint32_t lack, uint32_t *seen)
{
    const struct job *const job = &step->mesh->home.job[job_slot];
    struct candidate best;
    if (!choose(step, job, &best, seen))
        return false;
    const uint32_t wishes = wishes_of(job, best.slots, need);
    const uint32_t wanted = lack > 0 && best.believed >= lack ? lack
                            : best.believed > wishes          ? least(best.believed, need)
                                                              : wishes;
    return ask_make(step, job_slot, &best, wanted) != MESH_NONE;
}

/* Asks more members until enough may come. Returns how many that can help were seen. */
static uint32_t ask_more(struct step *step, uint32_t job_slot, uint32_t need)
{
    struct mesh *const mesh = step->mesh;
    struct job *const job = &mesh->home.job[job_slot];
    uint32_t seen = 0;
    bool asked = false;
    uint32_t lack = short_of(mesh, job, need);
    for (uint32_t round = 0; round < HOME_ASKS_PER_TURN && lack > 0; round++) {
        asked = ask_one(step, job_slot, need, lack, &seen);
        if (!asked && mesh->members.count <= MESH_FULL_MESH)
            return seen; /* all were looked at */
        lack = short_of(mesh, job, need);
    }
    if (lack > 0 && asked)
        home_job_ready(&mesh->home, job_slot);
    /* Who was asked may be busy for longer than anybody knew. */
    if (lack == 0 && step->now_ms - job->wider_at_ms >= HOME_SERVICE_MS) {
        job->wider_at_ms = step->now_ms;
        ask_one(step, job_slot, need, 0, &seen);
    }
    return seen;
}

static uint32_t asks_standing(const struct home *home, const struct job *job)
{
    uint32_t count = 0;
    for (uint32_t slot = list_first(&job->asks); slot != MESH_NONE; slot = list_next(home->ask_link, slot))
        count += !home->ask[slot].refused;
    return count;
}

void placement_serve(struct step *step, uint32_t job_slot)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    struct job *const job = &home->job[job_slot];
    const uint32_t need = job_need(home, job);
    if (need == 0) {
        while (job->asks.count > 0) {
            if (!withdraw(step, job_slot, list_first(&job->asks))) {
                home_job_ready(home, job_slot);
                return;
            }
        }
        return;
    }
    repeat_asks(step, job_slot, need);
    /* Our own slots first: nothing has to travel, and what is free here is known rather than believed. */
    struct candidate own;
    uint32_t helpers = asks_standing(home, job);
    if (home->member[mesh->members.self].asked != home->turn && weigh(step, job, mesh->members.self, &own)) {
        helpers++;
        ask_make(step, job_slot, &own, need);
    }
    helpers += ask_more(step, job_slot, need);
    if (short_of(mesh, job, need) > 0 && !job->spec.local_only)
        tiers_seek(step, job->spec.classes, need);
    if (helpers == 0 && job->queued > 0 && step->now_ms >= job->nobody_after_ms) {
        job->nobody_after_ms = step->now_ms + HOME_NOBODY_MS;
        home_decide(step, job, MESH_NONE, MESH_WHY_NOBODY, 0, job->queued);
    }
}

void placement_go_on(struct step *step, uint32_t job_slot, uint32_t member)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    const uint32_t need = job_need(home, job);
    struct candidate one;
    if (short_of(step->mesh, job, need) == 0 || !weigh(step, job, member, &one))
        return;
    one.believed = 0;
    const uint32_t wanted = wishes_of(job, one.slots, need);
    const uint32_t slot = ask_find(home, job, member);
    if (slot == MESH_NONE)
        ask_make(step, job_slot, &one, wanted);
    else if (home->ask[slot].left * 2 < wanted && out_has_room(step->out, 0, 1, 0))
        ask_send(step, job, &home->ask[slot], &one, wanted);
}

bool placement_due(const struct mesh *mesh, const struct job *job)
{
    const uint32_t need = job_need(&mesh->home, job);
    return need == 0 ? job->asks.count > 0 : short_of(mesh, job, need) > 0;
}

void placement_delivered(struct step *step, uint32_t member, uint32_t got, uint32_t promised)
{
    struct member_notes *const notes = members_edit_notes(step->mesh, member);
    notes->delivered_permille = (delivered(notes) * 7 + got * 1000 / promised) / 8;
}

void placement_answered(struct step *step, uint32_t job_slot, uint32_t from, uint32_t places)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    const uint32_t slot = ask_find(home, job, from);
    if (slot == MESH_NONE)
        return;
    struct ask *const ask = &home->ask[slot];
    if (ask->expected > 0)
        placement_delivered(step, from, least(places, ask->expected), ask->expected);
    ask_settle(step, job, ask, places);
    ask->left -= least(places, ask->left);
    if (ask->left == 0)
        placement_drop(step, job_slot, slot);
}

void placement_refused(struct step *step, uint32_t job_slot, uint32_t from)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = ask_find(home, &home->job[job_slot], from);
    if (slot == MESH_NONE)
        return;
    struct ask *const ask = &home->ask[slot];
    ask_settle(step, &home->job[job_slot], ask, 0);
    ask->left = 0;
    ask->refused = true;
    ask->sent_at_ms = step->now_ms;
}

void placement_returned(struct step *step, uint32_t member, uint16_t class, uint32_t places)
{
    uint32_t *const debit = &members_edit_notes(step->mesh, member)->debit[class];
    *debit -= least(places, *debit);
}

void placement_forget(struct step *step, uint32_t member)
{
    struct home *const home = &step->mesh->home;
    for (uint32_t slot = 0; slot < home->ask_pool.fresh; slot++) {
        if (home->ask[slot].member != member)
            continue;
        const uint32_t job = home->ask[slot].job;
        placement_drop(step, job, slot);
        home_job_ready(home, job);
    }
}

void home_member_capacity(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    const struct member *const member = &step->mesh->members.slot[slot];
    const struct member_notes *const notes = members_notes(&step->mesh->members, slot);
    uint32_t places = 0;
    for (uint32_t index = 0; index < MESH_DEVICE_CLASSES; index++) {
        /* It may be older than our latest asks: what they took off is forgotten by halves. */
        if (notes->debit[index] > 0)
            members_edit_notes(step->mesh, slot)->debit[index] /= 2;
        places += member->capacity.class[index].free;
    }
    if (!member->has_capacity || places == 0)
        return;
    /* Those that have waited longest for their turn look at it now. */
    for (uint32_t i = 0; i < HOME_JOBS_PER_STEP && home->timed.count > 0; i++)
        home_job_ready(home, list_first(&home->timed));
}

void placement_check(const struct mesh *mesh)
{
    const struct home *const home = &mesh->home;
    uint32_t asks = 0;
    for (uint32_t i = 0; i < home->job_count; i++) {
        const uint32_t job_slot = home->sorted[i];
        const struct job *const job = &home->job[job_slot];
        uint32_t expected = 0;
        for (uint32_t slot = list_first(&job->asks); slot != MESH_NONE;
             slot = list_next(home->ask_link, slot)) {
            assert(home->ask[slot].job == job_slot && home->ask[slot].member != MESH_NONE);
            expected += home->ask[slot].expected;
            assert(!home->ask[slot].refused || home->ask[slot].left + home->ask[slot].expected == 0);
        }
        assert(expected == job->expected);
        assert(job->asks.count <= HOME_ASKS_PER_JOB);
        asks += job->asks.count;
    }
    assert(asks == pool_in_use(&home->ask_pool));
}
