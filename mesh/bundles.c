/* Bundles: binding shards to granted places, results, leases, and what happens when an executor is lost. */
#include "mesh/internal.h"

/* Bundles by executor and name. */

static uint32_t *name_bucket(struct home *home, uint32_t member, const struct mesh_bundle_name *name)
{
    const uint64_t mixed = (name->token ^ ((uint64_t)name->index << 40) ^ ((uint64_t)member << 20)) *
                           UINT64_C(0x9E3779B97F4A7C15);
    return &home->bucket[(mixed >> 32) & (home->bucket_count - 1)];
}

static uint32_t bundle_find(struct home *home, uint32_t member, const struct mesh_bundle_name *name)
{
    for (uint32_t at = *name_bucket(home, member, name); at != 0; at = home->bundle[at - 1].hash_next) {
        const struct bundle *const bundle = &home->bundle[at - 1];
        if (bundle->member == member && bundle->name.token == name->token &&
            bundle->name.index == name->index)
            return at - 1;
    }
    return MESH_NONE;
}

uint32_t bundles_room(const struct home *home)
{
    return home->bundle_pool.capacity - home->leases.count;
}

/*
 * It is no longer one of two attempts, nor an opinion that a check waits for. Where it was the first, the second is now a
 * bundle like any other, and no extra work: it is not charged.
 */
static void bundle_part(struct home *home, uint32_t slot)
{
    struct bundle *const bundle = &home->bundle[slot];
    if (bundle->check != 0)
        verify_lost(home, bundle->check - 1);
    bundle->check = 0;
    if (bundle->slow)
        speculation_withdraw(home, bundle);
    if (bundle->other == 0)
        return;
    struct bundle *const other = &home->bundle[bundle->other - 1];
    if (other->copy)
        speculation_withdraw(home, other);
    bundle->charge_us = 0;
    bundle->other = other->other = 0;
    bundle->copy = other->copy = false;
}

/* The copy ends without a report: it has cost at most the time that it was out. */
static void copy_settle(struct step *step, struct bundle *copy)
{
    speculation_settle(step->mesh, copy, (uint64_t)(step->now_ms - copy->assigned_at_ms) * 1000);
}

/* Takes a bundle off the list it is on. If the table was full, who waited longest for room looks at it now. */
static void bundle_unlist(struct home *home, uint32_t slot)
{
    if (bundles_room(home) == 0 && home->timed.count > 0)
        home_job_ready(home, list_first(&home->timed));
    home->verify.promised -= home->bundle[slot].promised;
    home->bundle[slot].promised = false;
    list_remove(home->bundle[slot].orphan ? &home->orphans : &home->leases, home->bundle_link, slot);
}

static void bundle_free(struct home *home, uint32_t slot)
{
    struct bundle *const bundle = &home->bundle[slot];
    bundle_part(home, slot);
    uint32_t *at = name_bucket(home, bundle->member, &bundle->name);
    while (*at != slot + 1)
        at = &home->bundle[*at - 1].hash_next;
    *at = bundle->hash_next;
    bundle_unlist(home, slot);
    list_remove(&home->member[bundle->member].bundles, home->member_link, slot);
    list_remove(&home->job[bundle->job].bundles, home->of_job_link, slot);
    bundle->count = 0;
    pool_give(&home->bundle_pool, home->bundle_link, slot);
}

/* A free slot; the oldest orphan makes room. MESH_NONE if all bundles have their leases. */
static uint32_t bundle_take(struct home *home)
{
    const uint32_t slot = pool_take(&home->bundle_pool, home->bundle_link);
    if (slot != MESH_NONE || home->orphans.count == 0)
        return slot;
    bundle_free(home, list_first(&home->orphans));
    return pool_take(&home->bundle_pool, home->bundle_link);
}

/* Whether the shard is this bundle's to decide about, or has gone on without it. */
static bool shard_is_of(const struct shard *shard, uint32_t bundle)
{
    return shard->state == SHARD_ASSIGNED && shard->at == bundle;
}

/* Whether anything of it is still to be brought. */
static bool bundle_of_use(const struct home *home, uint32_t slot)
{
    const struct bundle *const bundle = &home->bundle[slot];
    const struct shard *const shard = shards_of(home, &home->job[bundle->job]);
    for (uint32_t i = 0; i < bundle->count; i++) {
        if (shard[bundle->shard[i]].state < SHARD_HELD)
            return true;
    }
    return bundle->check != 0;
}

/* Shards that its executor is believed to bring. */
static uint32_t bundle_holds(const struct home *home, uint32_t slot)
{
    const struct bundle *const bundle = &home->bundle[slot];
    const struct job *const job = &home->job[bundle->job];
    if (bundle->orphan || job->state != MESH_JOB_RUNNING)
        return 0;
    if (bundle->check != 0)
        return bundle->count;
    const struct shard *const shard = shards_of(home, job);
    const uint32_t owner = bundle->copy ? bundle->other - 1 : slot;
    uint32_t count = 0;
    for (uint32_t i = 0; i < bundle->count; i++)
        count += shard_is_of(&shard[bundle->shard[i]], owner);
    return count;
}

/* A shard that the bundle owns goes to the other attempt if there is one, otherwise to the front of the queue: then
 * true. */
static bool shard_give_up(struct home *home, uint32_t slot, uint32_t index)
{
    const struct bundle *const bundle = &home->bundle[slot];
    struct job *const job = &home->job[bundle->job];
    struct shard *const shard = shards_of(home, job);
    if (bundle->other != 0) {
        shard[index].at = bundle->other - 1;
        return false;
    }
    shards_push_front(shard, job, index);
    job->assigned--;
    job->reassigned++;
    return true;
}

/* Gives up what the bundle still owns, backwards, so that the front of the queue keeps the order. Returns how many
 * shards are queued. */
static uint32_t bundle_requeue(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    const struct job *const job = &home->job[bundle->job];
    if (job->state != MESH_JOB_RUNNING)
        return 0;
    const struct shard *const shard = shards_of(home, job);
    uint32_t count = 0;
    for (uint32_t i = bundle->count; i-- > 0;) {
        if (shard_is_of(&shard[bundle->shard[i]], slot))
            count += shard_give_up(home, slot, bundle->shard[i]);
    }
    step->mesh->counters.copies_needed += bundle->other != 0 && !bundle->copy;
    if (bundle->copy)
        copy_settle(step, bundle);
    bundle_part(home, slot);
    if (count > 0)
        home_job_ready(home, bundle->job);
    return count;
}

/* Nobody waits for it any more, yet its result is welcome. */
static void bundle_orphan(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    bundle_part(home, slot);
    bundle_unlist(home, slot);
    list_append(&home->orphans, home->bundle_link, slot);
    bundle->orphan = true;
    bundle->due_at_ms = step->now_ms + HOME_ORPHAN_MS;
}

/* Its results are perhaps to be held. */
static void bundle_promise(struct home *home, struct bundle *bundle)
{
    bundle->promised = verify_holds(&home->job[bundle->job]) && bundle->check == 0;
    home->verify.promised += bundle->promised;
}

/* Its executor came back with it: takes back what nobody else was given meanwhile. False if nothing is left
 * of it. */
static bool bundle_adopt(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    struct job *const job = &home->job[bundle->job];
    struct shard *const shard = shards_of(home, job);
    uint32_t count = 0;
    for (uint32_t i = 0; i < bundle->count; i++) {
        const uint32_t index = bundle->shard[i];
        if (shard[index].state != SHARD_QUEUED)
            continue;
        shards_unlink(shard, job, index);
        shard[index].state = SHARD_ASSIGNED;
        shard[index].at = slot;
        count++;
    }
    job->assigned += count;
    if (count == 0)
        return false;
    list_remove(&home->orphans, home->bundle_link, slot);
    list_append(&home->leases, home->bundle_link, slot);
    bundle_promise(home, bundle);
    bundle->orphan = false;
    return true;
}

/* Grants. */

static void send_release(struct step *step, uint32_t to, uint64_t token, uint32_t places)
{
    struct mesh_message *const message = out_send(step, &step->mesh->members.slot[to].id, MESH_RELEASE);
    message->body.release.token = token;
    message->body.release.places = (uint16_t)places;
}

/* Moves shards from the queue into the bundle. One that was in a crash travels alone, so that the next one
 * tells. */
static void bundle_fill(struct home *home, uint32_t slot, uint32_t count)
{
    struct bundle *const bundle = &home->bundle[slot];
    struct job *const job = &home->job[bundle->job];
    struct shard *const shard = shards_of(home, job);
    while (bundle->count < count && job->queue_head != 0) {
        const bool suspect = shard[job->queue_head - 1].attempts > 0;
        if (suspect && bundle->count > 0)
            break;
        const uint32_t index = shards_pop(shard, job);
        shard[index].state = SHARD_ASSIGNED;
        shard[index].at = slot;
        bundle->shard[bundle->count++] = index;
        if (suspect)
            break;
    }
    job->assigned += bundle->count;
}

static void send_assign(struct step *step, const struct bundle *bundle)
{
    const struct mesh *const mesh = step->mesh;
    const struct job *const job = &mesh->home.job[bundle->job];
    const uint32_t journal = journal_led(mesh, &job->spec.id);
    struct mesh_message *const message = out_send(step, &mesh->members.slot[bundle->member].id,
                                                  journal == MESH_NONE ? MESH_ASSIGN : MESH_ASSIGN_KEPT);
    message->body.assign.name = bundle->name;
    message->body.assign.job = job->spec.id;
    message->body.assign.epoch = job->spec.epoch;
    message->body.assign.tenant = job->spec.tenant;
    message->body.assign.kernel = job->spec.kernel;
    message->body.assign.class = bundle->class;
    if (journal != MESH_NONE)
        journal_others(mesh, journal, &message->body.assign.others);
    message->body.assign.count = bundle->count;
    memcpy(message->body.assign.shard, bundle->shard, bundle->count * sizeof bundle->shard[0]);
    step->mesh->counters.assigns++;
}

/* A bundle with all that says what it is begins its lease. */
static void bundle_list(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    uint32_t *const bucket = name_bucket(home, bundle->member, &bundle->name);
    bundle->hash_next = *bucket;
    *bucket = slot + 1;
    bundle->assigned_at_ms = step->now_ms;
    bundle->due_at_ms = step->now_ms + HOME_LEASE_MS;
    bundle_promise(home, bundle);
    list_append(&home->leases, home->bundle_link, slot);
    list_append(&home->member[bundle->member].bundles, home->member_link, slot);
    list_append(&home->job[bundle->job].bundles, home->of_job_link, slot);
}

/* A bundle for place `index` of the grant that has no shards yet, or MESH_NONE if the table is full. */
static uint32_t bundle_make(struct home *home, uint32_t job, uint32_t from, const struct mesh_message *grant,
                            uint32_t index)
{
    const uint32_t slot = bundle_take(home);
    if (slot == MESH_NONE)
        return MESH_NONE;
    struct bundle *const bundle = &home->bundle[slot];
    bundle->name = (struct mesh_bundle_name){.token = grant->body.grant.token, .index = index};
    bundle->job = job;
    bundle->member = from;
    bundle->orphan = bundle->called_back = false;
    bundle->class = grant->body.grant.class;
    bundle->charge_us = 0;
    bundle->count = 0;
    return slot;
}

/* Binds shards of the queue. Returns the bundle's slot, or MESH_NONE if there is none, or no room. */
static uint32_t bundle_bind(struct step *step, uint32_t job, uint32_t from, const struct mesh_message *grant,
                            uint32_t index)
{
    struct home *const home = &step->mesh->home;
    const bool some = home->job[job].queued > 0 && verify_permits(home, &home->job[job], 1) > 0;
    const uint32_t slot = some ? bundle_make(home, job, from, grant, index) : MESH_NONE;
    if (slot == MESH_NONE)
        return MESH_NONE;
    bundle_fill(home, slot,
                placement_bundle_shards(home, &home->job[job],
                                        members_notes(&step->mesh->members, from)->rtt_us,
                                        grant->body.grant.places - index));
    bundle_list(step, slot);
    send_assign(step, &home->bundle[slot]);
    return slot;
}

/* Binds what a slow bundle has still to bring a second time. Returns the copy's slot, or MESH_NONE if none may go to
 * that member, or no room. */
static uint32_t copy_bind(struct step *step, uint32_t job, uint32_t from, const struct mesh_message *grant,
                          uint32_t index)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slow = speculation_pick(home, &home->job[job], from);
    if (slow == MESH_NONE)
        return MESH_NONE;
    if (bundle_holds(home, slow) == 0) { /* late results of others have come meanwhile */
        speculation_withdraw(home, &home->bundle[slow]);
        return MESH_NONE;
    }
    const uint32_t slot = bundle_make(home, job, from, grant, index);
    if (slot == MESH_NONE)
        return MESH_NONE;
    struct bundle *const first = &home->bundle[slow];
    struct bundle *const copy = &home->bundle[slot];
    const struct shard *const shard = shards_of(home, &home->job[job]);
    for (uint32_t i = 0; i < first->count; i++) {
        if (shard_is_of(&shard[first->shard[i]], slow))
            copy->shard[copy->count++] = first->shard[i];
    }
    copy->charge_us = first->charge_us;
    first->charge_us = 0;
    speculation_withdraw(home, first);
    copy->copy = true;
    copy->other = slow + 1;
    first->other = slot + 1;
    bundle_list(step, slot);
    send_assign(step, copy);
    step->mesh->counters.copies++;
    home_decide(step, &home->job[job], from, MESH_WHY_SPECULATED, copy->shard[0], copy->count);
    return slot;
}

/* Binds the shards of a check that may go to that member. Returns the bundle's slot, or MESH_NONE if there is none, or no
 * room. */
static uint32_t check_bind(struct step *step, uint32_t job, uint32_t from, const struct mesh_message *grant,
                           uint32_t index)
{
    struct home *const home = &step->mesh->home;
    const uint32_t check = verify_pick(step->mesh, &home->job[job], from, 1u << grant->body.grant.class);
    const uint32_t slot = check == MESH_NONE ? MESH_NONE : bundle_make(home, job, from, grant, index);
    if (slot == MESH_NONE)
        return MESH_NONE;
    struct bundle *const bundle = &home->bundle[slot];
    bundle->count = verify_send(home, check, bundle->shard);
    bundle->check = check + 1;
    bundle_list(step, slot);
    send_assign(step, bundle);
    step->mesh->counters.checks++;
    home_decide(step, &home->job[job], from, MESH_WHY_CHECKING, bundle->shard[0], bundle->count);
    return slot;
}

/*
 * Whether that GRANT came before: its names are spent, and releasing them would take them from their first use. Later than
 * the ring remembers, a name in use still gives it away, and one whose result is not settled: what would be said of its
 * second use, that it is overtaken, would let the first result go. Any other one that is spent is answered EXPIRED, or with
 * its first RESULT as long as that is not acknowledged.
 */
static bool grant_repeated(struct mesh *mesh, uint32_t from, const struct mesh_message *grant)
{
    struct home *const home = &mesh->home;
    struct home_member *const member = &home->member[from];
    const uint64_t token = grant->body.grant.token;
    for (uint32_t i = 0; i < HOME_TOKENS; i++) {
        if (member->token[i] == token)
            return true;
    }
    for (uint32_t i = 0; i < grant->body.grant.places && i < EXECUTOR_GRANT_PLACES_MAX; i++) {
        if (bundle_find(home, from, &(struct mesh_bundle_name){.token = token, .index = i}) != MESH_NONE)
            return true;
    }
    if (journal_owes(mesh, &grant->body.grant.job, &mesh->members.slot[from].id, token))
        return true;
    member->token[member->token_next++ % HOME_TOKENS] = token;
    return false;
}

/* Whether a grant may be used: by a live job, in a class that it can run on, at a member where it may go. */
static bool grant_fits(const struct mesh *mesh, const struct job *job, uint32_t from,
                       const struct mesh_message *grant)
{
    return job && job->state == MESH_JOB_RUNNING && (job->spec.classes >> grant->body.grant.class & 1) &&
           placement_permits(mesh, job, from) && !home_job_moves(mesh, job);
}

static void take_refusal(struct step *step, uint32_t from, const struct mesh_id *id)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = home_job_find(home, id);
    if (slot == MESH_NONE || home->job[slot].state != MESH_JOB_RUNNING)
        return;
    placement_refused(step, slot, from);
    home_decide(step, &home->job[slot], from, MESH_WHY_NO_KERNEL, 0, home->job[slot].queued);
    if (home->job[slot].asks.count < HOME_ASKS_PER_JOB)
        home_job_ready(
            home, slot); /* otherwise in its turn: a large mesh of such members must not be asked in a loop */
}

void home_grant(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    const uint32_t places = message->body.grant.places;
    if (places == 0 && message->body.grant.token == 0) {
        take_refusal(step, from, &message->body.grant.job);
        return;
    }
    if (places == 0 || message->body.grant.token == 0 || message->body.grant.class >= MESH_DEVICE_CLASSES) {
        mesh->counters.bad_messages++;
        return;
    }
    if (grant_repeated(mesh, from, message))
        return;
    const uint32_t slot = home_job_find(home, &message->body.grant.job);
    struct job *const job = slot == MESH_NONE ? NULL : &home->job[slot];
    uint32_t bound = 0;
    if (job)
        placement_answered(step, slot, from, places);
    if (grant_fits(mesh, job, from, message)) {
        uint32_t shards = 0;
        uint32_t first = 0;
        /* What is found out soon spares checks. */
        while (bound < places && job->wanting > 0 && out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0) &&
               check_bind(step, slot, from, message, bound) != MESH_NONE)
            bound++;
        while (bound < places && job->queued > 0 && out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0)) {
            const uint32_t bundle = bundle_bind(step, slot, from, message, bound);
            if (bundle == MESH_NONE) {
                mesh->counters.bound_bundles++;
                break;
            }
            bound++;
            if (shards == 0)
                first = home->bundle[bundle].shard[0];
            shards += home->bundle[bundle].count;
        }
        if (shards > 0)
            home_decide(step, job, from, MESH_WHY_ASSIGNED, first, shards);
        while (bound < places && job->slow > 0 && out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0) &&
               copy_bind(step, slot, from, message, bound) != MESH_NONE)
            bound++;
        if (bound > 0)
            placement_go_on(step, slot, from);
        if (placement_due(step->mesh, job))
            home_job_ready(home, slot);
    }
    if (bound < places) {
        send_release(step, from, message->body.grant.token, places - bound);
        placement_returned(step, from, message->body.grant.class, places - bound);
    }
}

void home_wait(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = home_job_find(home, &message->body.wait.job);
    if (slot == MESH_NONE || home->job[slot].state != MESH_JOB_RUNNING)
        return;
    placement_answered(step, slot, from, 0);
    home_decide(step, &home->job[slot], from, MESH_WHY_WAITS, 0, home->job[slot].queued);
    if (placement_due(step->mesh, &home->job[slot]))
        home_job_ready(home, slot);
}

/* Results. */

struct tally {
    uint32_t done;
    uint32_t duplicate;
    uint32_t returned;
    uint32_t crashed;
    uint32_t held;   /* of those done: not committed yet */
    uint32_t wrong;  /* proved so */
    uint32_t failed; /* the shard that fails the job, or MESH_NONE */
    bool rejected;
};

static void send_ack(struct step *step, uint32_t to, const struct mesh_bundle_name *name)
{
    out_send(step, &step->mesh->members.slot[to].id, MESH_RESULT_ACK)->body.result_ack.name = *name;
}

/* The acknowledgement of a long bundle waits a little for company: messages of one step to one member travel as
 * one. Whoever speaks the first version would repeat its result meanwhile. */
static void ack_later(struct step *step, uint32_t to, const struct mesh_bundle_name *name, uint64_t device_us)
{
    struct home *const home = &step->mesh->home;
    uint32_t slot = MESH_NONE;
    if (placement_speaks_wishes(step->mesh, to) && to != step->mesh->members.self &&
        device_us >= (uint64_t)HOME_ACK_LATER_US)
        slot = pool_take(&home->ack_pool, home->ack_link);
    if (slot == MESH_NONE) {
        send_ack(step, to, name);
        return;
    }
    home->ack[slot] = (struct ack){.name = *name, .member = to, .due_at_ms = step->now_ms + HOME_ACK_MS};
    list_append(&home->acks, home->ack_link, slot);
    home->member[to].acks++;
}

/* Sends the acknowledgements that are due, and all that go to whom something is sent in this step anyway. */
void acks_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    if (home->acks.count == 0)
        return;
    bool some = home->ack[list_first(&home->acks)].due_at_ms <= step->now_ms;
    for (uint32_t i = 0; i < step->out->send_count; i++) {
        const uint32_t to = members_find(mesh, &step->out->send[i].to);
        if (to != MESH_NONE && home->member[to].acks > 0)
            some = home->member[to].acks_now = true;
    }
    for (uint32_t slot = list_first(&home->acks), next; some && slot != MESH_NONE; slot = next) {
        next = list_next(home->ack_link, slot);
        const struct ack *const ack = &home->ack[slot];
        struct home_member *const member = &home->member[ack->member];
        member->acks_now |= ack->due_at_ms <= step->now_ms;
        if (!member->acks_now)
            continue;
        if (!out_has_room(step->out, 0, 1, 0)) {
            out_wake(step, step->now_ms);
            return;
        }
        send_ack(step, ack->member, &ack->name);
        member->acks_now = --member->acks > 0;
        list_remove(&home->acks, home->ack_link, slot);
        pool_give(&home->ack_pool, home->ack_link, slot);
    }
    if (home->acks.count > 0)
        out_wake(step, home->ack[list_first(&home->acks)].due_at_ms);
}

/*
 * If whatever it would bring is committed already, by bundle `by` and others, its executor need not go on. Where there
 * is no room to say so, that is said when it renews its lease.
 */
static void bundle_overtaken(struct step *step, uint32_t slot, uint32_t by)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    if (bundle->orphan || bundle_of_use(home, slot))
        return;
    const bool paired = bundle->other != 0 && bundle->other - 1 == by;
    if (bundle->copy)
        copy_settle(step, bundle);
    else if (paired)
        speculation_blame(step->mesh, bundle->member);
    step->mesh->counters.copies_late += paired && bundle->copy;
    step->mesh->counters.copies_first += paired && !bundle->copy;
    if (out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0))
        send_ack(step, bundle->member, &bundle->name);
    home_decide(step, &home->job[bundle->job], bundle->member, MESH_WHY_OVERTAKEN, bundle->shard[0],
                bundle->count);
    placement_returned(step, bundle->member, bundle->class, 1);
    const uint32_t other = bundle->other;
    bundle_orphan(step, slot);
    if (other != 0 && !paired)
        bundle_overtaken(step, other - 1, MESH_NONE);
}

/* Whether the report is about exactly what was assigned under that name. */
static bool result_matches(const struct bundle *bundle, const struct mesh_message *result)
{
    if (result->body.result.count != bundle->count)
        return false;
    for (uint32_t i = 0; i < bundle->count; i++) {
        if (result->body.result.shard[i].shard != bundle->shard[i])
            return false;
        const uint32_t outcome = result->body.result.shard[i].outcome;
        if (outcome < MESH_DONE || outcome > MESH_REJECTED)
            return false;
    }
    return true;
}

/*
 * Commits what is done and was not committed before, wherever it stands; one save for the bundle, which is
 * acknowledged when that is settled: at once if the job has a single copy. `bundle` is the one that brings it, or
 * MESH_NONE; others at which the same shards are come too late. Where a quorum is asked for they are held instead.
 */
static void commit_done(struct step *step, uint32_t from, uint32_t job_slot, uint32_t bundle,
                        const struct mesh_message *result, struct tally *tally)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    struct shard *const shard = shards_of(home, job);
    struct mesh_save *save = NULL;
    uint32_t check = MESH_NONE;
    const uint32_t classes = bundle == MESH_NONE ? MESH_ANY_CLASS : 1u << home->bundle[bundle].class;
    for (uint32_t i = 0; i < result->body.result.count; i++) {
        const uint32_t index = result->body.result.shard[i].shard;
        if (result->body.result.shard[i].outcome != MESH_DONE || index >= job->spec.shard_count)
            continue;
        if (shard[index].state >= SHARD_HELD) {
            tally->duplicate++;
            continue;
        }
        if (job->spec.verify == MESH_VERIFY_CERTIFICATE && verify_digest(step, i) == MESH_DIGEST_WRONG) {
            tally->wrong++;
            continue; /* it is queued again with what is not done */
        }
        const uint32_t owner = shard[index].state == SHARD_ASSIGNED ? shard[index].at : bundle;
        if (shard[index].state == SHARD_QUEUED)
            shards_unlink(shard, job, index);
        else if (shard[index].state == SHARD_ASSIGNED)
            job->assigned--;
        else
            job->looking_up--;
        shard[index].state = SHARD_COMMITTED;
        tally->done++;
        if (verify_holds(job)) {
            verify_hold(step, job_slot, from, classes, result, i, &check);
            tally->held++;
        } else {
            verify_sample(step, job_slot, from, classes, result, i, &check);
        }
        if (owner != bundle)
            bundle_overtaken(step, owner, bundle);
        if (verify_holds(job))
            continue;
        if (!save) {
            save = out_save(step, MESH_SAVE_COMMIT);
            save->body.commit.job = job->spec.id;
            save->body.commit.epoch = job->spec.epoch;
            save->body.commit.executor = step->mesh->members.slot[from].id;
            save->body.commit.handle = result->body.result.handle;
            save->body.commit.device_us = result->body.result.device_us;
            const struct journal_waiter waiter = {.executor = save->body.commit.executor,
                                                  .name = result->body.result.name};
            save->body.commit.place = home_append(step, job, MESH_ENTRY_COMMIT, &waiter);
            save->sequence = home_sequence(step, &save->body.commit.place);
        }
        save->body.commit.shard[save->body.commit.count].shard = index;
        save->body.commit.shard[save->body.commit.count++].place = i;
    }
    job->committed += tally->done - tally->held;
    if (tally->done > 0)
        speculation_earn(step->mesh, result->body.result.device_us, result->body.result.count);
}

/* Gives up what is not done and this bundle still owns. Backwards, so that the front of the queue keeps the order. A
 * crash of a copy counts as well. */
static void requeue_undone(struct home *home, uint32_t slot, const struct mesh_message *result,
                           struct tally *tally)
{
    const struct bundle *const bundle = &home->bundle[slot];
    struct job *const job = &home->job[bundle->job];
    struct shard *const shard = shards_of(home, job);
    for (uint32_t i = bundle->count; i-- > 0;) {
        const uint32_t index = bundle->shard[i];
        const uint32_t outcome = result->body.result.shard[i].outcome;
        if (outcome == MESH_REJECTED && shard[index].state < SHARD_HELD) {
            tally->failed = index;
            tally->rejected = true;
        }
        const bool owned = shard_is_of(&shard[index], slot);
        if (!owned && !(bundle->copy && shard_is_of(&shard[index], bundle->other - 1)))
            continue;
        if (owned)
            shard_give_up(home, slot, index);
        if (outcome == MESH_CRASHED) {
            tally->crashed++;
            if (++shard[index].attempts >= MESH_ATTEMPTS_PER_SHARD && !tally->rejected)
                tally->failed = index;
        } else {
            tally->returned++;
        }
    }
}

static void tell_result(struct step *step, uint32_t from, const struct job *job, uint32_t first,
                        const struct tally *tally)
{
    step->mesh->counters.commits += tally->done - tally->held;
    step->mesh->counters.results_duplicate += tally->duplicate;
    step->mesh->counters.requeued_returned += tally->returned;
    step->mesh->counters.requeued_crashed += tally->crashed;
    if (tally->rejected)
        home_decide(step, job, from, MESH_WHY_REJECTED, tally->failed, 1);
    else if (tally->crashed > 0)
        home_decide(step, job, from, MESH_WHY_CRASHED, first, tally->crashed);
    else if (tally->returned > 0)
        home_decide(step, job, from, MESH_WHY_RETURNED, first, tally->returned);
    else if (tally->done > 0)
        home_decide(step, job, from, MESH_WHY_DONE, first, tally->done);
}

/* Returns whether the handle is kept, as those below do. */
static bool take_result(struct step *step, uint32_t from, uint32_t slot, const struct mesh_message *message)
{
    struct home *const home = &step->mesh->home;
    const uint32_t job_slot = home->bundle[slot].job;
    struct job *const job = &home->job[job_slot];
    struct bundle *const bundle = &home->bundle[slot];
    struct tally tally = {.failed = MESH_NONE};
    if (bundle->copy)
        speculation_settle(step->mesh, bundle, message->body.result.device_us);
    commit_done(step, from, job_slot, slot, message, &tally);
    requeue_undone(home, slot, message, &tally);
    tell_result(step, from, job, bundle->shard[0], &tally);
    if (tally.returned > 0) /* where owners often take their devices back, work goes later */
        placement_delivered(step, from, bundle->count - tally.returned, bundle->count);
    if (tally.done + tally.duplicate == bundle->count)
        placement_learn(job, message->body.result.device_us, bundle->count);
    if (tally.done == bundle->count)
        speculation_learn(home, job, message->body.result.device_us, bundle->count);
    placement_returned(step, from, bundle->class, 1);
    if (bundle->other != 0 && !bundle->copy && tally.done > 0)
        bundle_overtaken(step, bundle->other - 1, slot);
    step->mesh->counters.copies_needed += bundle->other != 0 && !bundle->copy;
    const uint32_t first = bundle->shard[0];
    bundle_free(home, slot);
    if (tally.wrong > 0) {
        home_decide(step, job, from, MESH_WHY_WRONG, first, tally.wrong);
        verify_caught(step, from, job_slot, first);
    }
    if (tally.failed != MESH_NONE) {
        home_job_end(step, job_slot, MESH_JOB_FAILED, tally.failed, message->body.result.handle);
        return tally.held > 0;
    }
    home_job_settle(step, job_slot);
    if (job->state == MESH_JOB_RUNNING &&
        (tally.crashed + tally.returned > 0 || placement_due(step->mesh, job)))
        home_job_ready(home, job_slot);
    return tally.held > 0;
}

/* A further opinion came that a check waits for. */
static bool take_opinion(struct step *step, uint32_t from, uint32_t slot, const struct mesh_message *message)
{
    struct home *const home = &step->mesh->home;
    struct bundle *const bundle = &home->bundle[slot];
    const uint32_t check = bundle->check - 1;
    step->mesh->counters.checks_us += speculation_believed(message->body.result.device_us, bundle->count);
    placement_returned(step, from, bundle->class, 1);
    bundle->check = 0;
    bundle_free(home, slot);
    return verify_opinion(step, check, from, message);
}

/* A result of the time before we took the job over. Nobody here bound its bundle; what it brings is as good. */
static bool take_inherited(struct step *step, uint32_t from, uint32_t job_slot,
                           const struct mesh_message *message)
{
    struct tally tally = {.failed = MESH_NONE};
    struct job *const job = &step->mesh->home.job[job_slot];
    commit_done(step, from, job_slot, MESH_NONE, message, &tally);
    tell_result(step, from, job, message->body.result.shard[0].shard, &tally);
    if (tally.wrong > 0)
        verify_caught(step, from, job_slot, message->body.result.shard[0].shard);
    home_job_settle(step, job_slot);
    return tally.held > 0;
}

/* A result that nobody waits for: of a job that is over or an older epoch, or reported before. */
static void count_unwanted(struct mesh *mesh, const struct job *job, const struct mesh_message *message)
{
    uint32_t duplicate = 0;
    if (job && job->state == MESH_JOB_RUNNING && job->spec.epoch == message->body.result.epoch) {
        const struct shard *const shard = shards_of(&mesh->home, job);
        for (uint32_t i = 0; i < message->body.result.count; i++) {
            const uint32_t index = message->body.result.shard[i].shard;
            if (index < job->spec.shard_count && shard[index].state >= SHARD_HELD &&
                message->body.result.shard[i].outcome == MESH_DONE)
                duplicate++;
        }
    }
    if (duplicate > 0)
        mesh->counters.results_duplicate += duplicate;
    else
        mesh->counters.results_stale++;
}

/* What the result brought, now or before, may not be settled yet: then its acknowledgement follows that. */
static bool await_settled(struct step *step, uint32_t from, const struct mesh_message *result)
{
    const uint32_t journal = journal_led(step->mesh, &result->body.result.job);
    const struct journal_waiter waiter = {.executor = step->mesh->members.slot[from].id,
                                          .name = result->body.result.name};
    return journal != MESH_NONE && journal_await(step, journal, &waiter);
}

void home_result(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    const struct mesh_bundle_name *const name = &message->body.result.name;
    mesh->counters.results++;
    if (message->body.result.count == 0 || message->body.result.count > MESH_BUNDLE_SHARDS_MAX) {
        mesh->counters.bad_messages++;
        out_drop(step, message->body.result.handle);
        return;
    }
    const uint32_t slot = bundle_find(home, from, name);
    const uint32_t job_slot = home_job_find(home, &message->body.result.job);
    const struct job *const job = job_slot == MESH_NONE ? NULL : &home->job[job_slot];
    const bool ours = slot != MESH_NONE && home->bundle[slot].job == job_slot;
    const uint32_t journal = job ? journal_led(mesh, &job->spec.id) : MESH_NONE;
    const bool led = journal != MESH_NONE;
    if (!job && journal_find(mesh, &message->body.result.job) != MESH_NONE) {
        adopt_point(step, from, &message->body.result.job);
        out_drop(step, message->body.result.handle); /* its home is another node, or we are not yet */
        return;
    }
    const bool moves = led && journal_hands_over(mesh, journal);
    if (moves || (led && !journal_has_room(mesh, journal))) {
        mesh->counters.bound_waiters += !moves; /* it comes again */
        out_drop(step, message->body.result.handle);
        return;
    }
    const bool opinion = ours && home->bundle[slot].check != 0;
    if (job && job->state == MESH_JOB_RUNNING && verify_holds(job) && !opinion && !verify_has_room(home)) {
        mesh->counters.bound_checks++; /* it comes again */
        out_drop(step, message->body.result.handle);
        return;
    }
    bool kept = false;
    const bool barred = job && verify_bars_of_job(mesh, job, from);
    const bool running = job && job->state == MESH_JOB_RUNNING && !barred;
    const bool older = led && message->body.result.epoch < job->spec.epoch;
    /* Of a bundle that we adopted; it ended before our answer came. */
    const bool adopted = older && ours && result_matches(&home->bundle[slot], message);
    if (older) /* it heeds its home alone */
        adopt_answer(step, from, name, job->spec.epoch);
    if (older && !ours && running) {
        kept = take_inherited(step, from, job_slot, message);
    } else if (!ours || !running || (job->spec.epoch != message->body.result.epoch && !adopted)) {
        count_unwanted(mesh, job, message);
        if (ours) {
            /* No need to call it back; or the name was spent in an earlier life of ours, by which nobody runs this. */
            mesh->counters.requeued_expired += bundle_requeue(step, slot);
            bundle_free(home, slot);
        }
    } else if (!result_matches(&home->bundle[slot], message)) {
        mesh->counters.bad_messages++;
        mesh->counters.requeued_returned += bundle_requeue(step, slot);
        bundle_free(home, slot);
    } else if (opinion) {
        kept = take_opinion(step, from, slot, message);
    } else {
        kept = take_result(step, from, slot, message);
    }
    if (!await_settled(step, from, message))
        ack_later(step, from, name, message->body.result.device_us);
    if (!kept)
        out_drop(step, message->body.result.handle);
}

void home_expired(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = bundle_find(home, from, &message->body.expired.name);
    if (slot == MESH_NONE)
        return; /* its result came before, or a lease ended */
    struct job *const job = &home->job[home->bundle[slot].job];
    if (!id_equal(&job->spec.id, &message->body.expired.job) ||
        job->spec.epoch != message->body.expired.epoch) {
        step->mesh->counters.bad_messages++;
        return;
    }
    const uint32_t first = home->bundle[slot].shard[0];
    const uint32_t count = bundle_holds(home, slot);
    step->mesh->counters.requeued_expired += bundle_requeue(step, slot);
    placement_returned(step, from, home->bundle[slot].class, 1);
    bundle_free(home, slot);
    if (count > 0)
        home_decide(step, job, from, MESH_WHY_EXPIRED, first, count);
}

/* Leases. */

static void send_cancel(struct step *step, const struct job *job, uint32_t member)
{
    struct mesh_message *const message = out_send(step, &step->mesh->members.slot[member].id, MESH_CANCEL);
    message->body.cancel.job = job->spec.id;
    message->body.cancel.epoch = job->spec.epoch;
}

void home_renew(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct home *const home = &step->mesh->home;
    if (message->body.renew.count > MESH_RENEW_MAX) {
        step->mesh->counters.bad_messages++;
        return;
    }
    struct mesh_message *answer = NULL;
    const struct job *cancelled = NULL; /* the latest one told; names of one job mostly come together */
    for (uint32_t i = 0; i < message->body.renew.count; i++) {
        const uint32_t slot = bundle_find(home, from, &message->body.renew.name[i]);
        if (slot == MESH_NONE)
            continue;
        const struct job *const job = &home->job[home->bundle[slot].job];
        if (job->state != MESH_JOB_RUNNING) {
            /* The CANCEL was lost, or is on its way. */
            if (job != cancelled && out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0))
                send_cancel(step, job, from);
            cancelled = job;
            continue;
        }
        if (home->bundle[slot].orphan && !bundle_adopt(step, slot)) {
            /* Otherwise its results are still welcome; without a lease it ends by itself. */
            if (!bundle_of_use(home, slot) && out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 8, 0))
                send_ack(step, from, &home->bundle[slot].name);
            continue;
        }
        home->bundle[slot].due_at_ms = step->now_ms + HOME_LEASE_MS;
        list_refresh(&home->leases, home->bundle_link, slot);
        if (!answer)
            answer = out_send(step, &step->mesh->members.slot[from].id, MESH_RENEWED);
        answer->body.renew.name[answer->body.renew.count++] = message->body.renew.name[i];
    }
}

/* What a member held, of that kernel or, if 0, of any, is queued again: it will not report, or not soon. */
static void member_lost(struct step *step, uint32_t member, uint64_t kernel, enum mesh_reason why,
                        uint64_t *counter, bool forget)
{
    struct home *const home = &step->mesh->home;
    for (uint32_t slot = list_first(&home->member[member].bundles), next; slot != MESH_NONE; slot = next) {
        next = list_next(home->member_link, slot);
        const struct bundle *const bundle = &home->bundle[slot];
        if (kernel != 0 && home->job[bundle->job].spec.kernel != kernel)
            continue;
        const uint32_t count = bundle_holds(home, slot);
        *counter += bundle->orphan ? 0 : bundle_requeue(step, slot);
        if (count > 0)
            home_decide(step, &home->job[bundle->job], member, why, bundle->shard[0], count);
        if (forget)
            bundle_free(home, slot);
        else if (!bundle->orphan)
            bundle_orphan(step, slot);
    }
    placement_forget(step, member);
}

void home_member_down(struct step *step, uint32_t member)
{
    member_lost(step, member, 0, MESH_WHY_MEMBER_DOWN, &step->mesh->counters.requeued_down, false);
}

void home_member_restarted(struct step *step, uint32_t member)
{
    member_lost(step, member, 0, MESH_WHY_RESTARTED, &step->mesh->counters.requeued_restart, true);
}

void bundles_discard(struct step *step, uint32_t member, uint64_t kernel)
{
    member_lost(step, member, kernel, kernel == 0 ? MESH_WHY_QUARANTINED : MESH_WHY_DOUBTED,
                &step->mesh->counters.requeued_caught, true);
}

/* Once per member and ending; false when the output is full. */
static bool tell_cancelled(struct step *step, const struct job *job, uint32_t member)
{
    struct home_member *const at = &step->mesh->home.member[member];
    if (at->cancelled == job->ending)
        return true;
    if (!out_has_room(step->out, 0, 1, 0))
        return false;
    at->cancelled = job->ending;
    send_cancel(step, job, member);
    return true;
}

bool bundles_call_back(struct step *step, uint32_t job_slot)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    for (uint32_t slot = list_first(&job->bundles); slot != MESH_NONE;
         slot = list_next(home->of_job_link, slot)) {
        struct bundle *const bundle = &home->bundle[slot];
        if (bundle->called_back)
            continue;
        if (!tell_cancelled(step, job, bundle->member))
            return false;
        bundle->called_back = true;
        if (!bundle->orphan)
            bundle_orphan(step, slot);
    }
    for (uint32_t ask = list_first(&job->asks); ask != MESH_NONE; ask = list_first(&job->asks)) {
        if (home->ask[ask].left > 0 && !tell_cancelled(step, job, home->ask[ask].member))
            return false;
        placement_drop(step, job_slot, ask);
    }
    return true;
}

void bundles_tell_home(struct step *step, uint32_t job_slot, const struct mesh_id *home_id)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    job->ending = ++home->endings;
    for (uint32_t slot = list_first(&job->bundles); slot != MESH_NONE;
         slot = list_next(home->of_job_link, slot)) {
        const uint32_t member = home->bundle[slot].member;
        if (home->member[member].cancelled == job->ending)
            continue;
        if (!out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 4, 0))
            return; /* the others will miss us soon enough */
        home->member[member].cancelled = job->ending;
        struct mesh_message *const message =
            out_send(step, &step->mesh->members.slot[member].id, MESH_HAND_OVER);
        message->body.hand_over.job = job->spec.id;
        message->body.hand_over.epoch = job->spec.epoch;
        message->body.hand_over.done = true;
        message->body.hand_over.home = *home_id;
    }
}

void bundles_forget(struct home *home, uint32_t job)
{
    while (home->job[job].bundles.count > 0)
        bundle_free(home, list_first(&home->job[job].bundles));
}

/* Of what a member reports nothing is left to take: the bundle at another member that it is a second attempt at, or
 * MESH_NONE. */
static uint32_t first_attempt_at(const struct home *home, const struct job *job,
                                 const struct mesh_message *report, uint32_t member)
{
    const struct shard *const shard = shards_of(home, job);
    for (uint32_t i = 0; i < report->body.report.count; i++) {
        const struct shard *const one = &shard[report->body.report.shard[i]];
        if (one->state != SHARD_ASSIGNED)
            continue;
        /* The two stand for each other, so they are of the same shards. */
        const struct bundle *const first = &home->bundle[one->at];
        const bool same =
            first->count == report->body.report.count &&
            memcmp(first->shard, report->body.report.shard, first->count * sizeof first->shard[0]) == 0;
        return same && first->other == 0 && first->member != member ? one->at : MESH_NONE;
    }
    return MESH_NONE;
}

bool bundles_adopt(struct step *step, uint32_t job_slot, uint32_t member, const struct mesh_message *report)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[job_slot];
    struct shard *const shard = shards_of(home, job);
    if (bundle_find(home, member, &report->body.report.name) != MESH_NONE)
        return true; /* the answer was lost */
    const uint32_t slot = bundle_take(home);
    if (slot == MESH_NONE)
        return false;
    struct bundle *const bundle = &home->bundle[slot];
    bundle->count = report->body.report.count;
    memcpy(bundle->shard, report->body.report.shard, bundle->count * sizeof bundle->shard[0]);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < bundle->count; i++) {
        struct shard *const one = &shard[bundle->shard[i]];
        if (one->state == SHARD_QUEUED)
            shards_unlink(shard, job, bundle->shard[i]);
        else if (one->state == SHARD_LOOKING_UP)
            job->looking_up--;
        else
            continue;
        one->state = SHARD_ASSIGNED;
        one->at = slot;
        taken++;
    }
    const uint32_t first = taken == 0 ? first_attempt_at(home, job, report, member) : MESH_NONE;
    if (taken == 0 && first == MESH_NONE) {
        bundle->count = 0;
        pool_give(&home->bundle_pool, home->bundle_link, slot);
        return false;
    }
    job->assigned += taken;
    bundle->name = report->body.report.name;
    bundle->job = job_slot;
    bundle->member = member;
    bundle->orphan = bundle->called_back = false;
    bundle->class = report->body.report.class;
    bundle->charge_us = 0;
    bundle_list(step, slot);
    if (first != MESH_NONE) {
        speculation_withdraw(home, &home->bundle[first]);
        bundle->copy = true;
        bundle->other = first + 1;
        home->bundle[first].other = slot + 1;
    }
    return true;
}

void bundles_tick(struct step *step)
{
    struct home *const home = &step->mesh->home;
    while (home->orphans.count > 0 && home->bundle[list_first(&home->orphans)].due_at_ms <= step->now_ms)
        bundle_free(home, list_first(&home->orphans));
    for (uint32_t ended = 0; home->leases.count > 0; ended++) {
        const uint32_t slot = list_first(&home->leases);
        const struct bundle *const bundle = &home->bundle[slot];
        if (bundle->due_at_ms > step->now_ms) {
            out_wake(step, bundle->due_at_ms);
            break;
        }
        if (ended == HOME_LEASES_PER_STEP) {
            step->mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            break;
        }
        const uint32_t count = bundle_holds(home, slot);
        step->mesh->counters.requeued_lease += bundle_requeue(step, slot);
        if (count > 0)
            home_decide(step, &home->job[bundle->job], bundle->member, MESH_WHY_LEASE_ENDED, bundle->shard[0],
                        count);
        bundle_orphan(step, slot);
    }
    if (home->orphans.count > 0)
        out_wake(step, home->bundle[list_first(&home->orphans)].due_at_ms);
}

static uint32_t check_list(const struct home *home, const struct list *list, bool orphan)
{
    int64_t last_ms = INT64_MIN;
    for (uint32_t slot = list_first(list); slot != MESH_NONE; slot = list_next(home->bundle_link, slot)) {
        const struct bundle *const bundle = &home->bundle[slot];
        assert(bundle->count > 0 && bundle->count <= MESH_BUNDLE_SHARDS_MAX && bundle->orphan == orphan);
        assert(bundle->due_at_ms >= last_ms && home->job[bundle->job].state != 0);
        last_ms = bundle->due_at_ms;
    }
    return list->count;
}

void bundles_check(const struct mesh *mesh)
{
    const struct home *const home = &mesh->home;
    const uint32_t all = check_list(home, &home->leases, false) + check_list(home, &home->orphans, true);
    assert(all == pool_in_use(&home->bundle_pool));
    uint32_t of_members = 0;
    for (uint32_t member = 0; member < mesh->config.limits.members; member++)
        of_members += home->member[member].bundles.count;
    uint32_t of_jobs = 0;
    for (uint32_t i = 0; i < home->job_count; i++)
        of_jobs += home->job[home->sorted[i]].bundles.count;
    assert(of_members == all && of_jobs == all);
}
