/* Attempts that outlive their home: the executor tells the journal's members of them, the new home takes them over. */
#include "mesh/internal.h"

/* ---- The executor. */

bool adopt_seems_lost(const struct attempt *attempt, int64_t now_ms)
{
    return attempt->others.count > 0 && now_ms - attempt->renewed_at_ms >= EXECUTOR_LOST_MS;
}

/* The next of the journal's members to be told, from `*at` on, or NULL. */
static const struct mesh_id *next_member(const struct step *step, const struct attempt *attempt, uint32_t *at)
{
    const struct mesh *const mesh = step->mesh;
    while (*at < attempt->others.count) {
        const struct mesh_id *const id = &attempt->others.id[(*at)++];
        const uint32_t member = members_find(mesh, id);
        if (member != MESH_NONE && members_live(mesh, member) && member != attempt->home &&
            out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 4, 0))
            return id;
    }
    return NULL;
}

void adopt_report(struct step *step, const struct attempt *attempt)
{
    uint32_t at = 0;
    for (const struct mesh_id *id = next_member(step, attempt, &at); id;
         id = next_member(step, attempt, &at)) {
        struct mesh_message *const message = out_send(step, id, MESH_REPORT);
        message->body.report.name = attempt->name;
        message->body.report.job = attempt->job;
        message->body.report.epoch = attempt->epoch;
        message->body.report.class = attempt->class;
        message->body.report.count = attempt->count;
        memcpy(message->body.report.shard, attempt->shard, attempt->count * sizeof attempt->shard[0]);
    }
}

/* A result of a job whose home is lost, which waits here for another one. */
static bool is_orphan(const struct attempt *attempt, const struct mesh_id *job, int64_t now_ms)
{
    return attempt->state == ATTEMPT_FINISHED && !attempt->discard && id_equal(&attempt->job, job) &&
           adopt_seems_lost(attempt, now_ms);
}

/* One result of each job goes on asking; the others would bring the same answer. */
static bool asks_for_all(const struct step *step, uint32_t slot)
{
    const struct executor *const executor = &step->mesh->executor;
    for (uint32_t i = 0; i < slot; i++) {
        if (is_orphan(&executor->attempt[i], &executor->attempt[slot].job, step->now_ms))
            return false;
    }
    return true;
}

void adopt_offer_result(struct step *step, uint32_t slot)
{
    struct attempt *const attempt = &step->mesh->executor.attempt[slot];
    if (attempt->passes > 0 && !asks_for_all(step, slot)) {
        attempt->passes--;
        return;
    }
    if (attempt->offers < EXECUTOR_OFFERS_DOUBLED)
        attempt->offers++;
    attempt->passes = (uint8_t)((1u << attempt->offers) - 1);
    executor_fill_result(attempt, out_send(step, &step->mesh->members.slot[attempt->home].id, MESH_RESULT));
    uint32_t at = 0;
    for (const struct mesh_id *id = next_member(step, attempt, &at); id; id = next_member(step, attempt, &at))
        executor_fill_result(attempt, out_send(step, id, MESH_RESULT));
}

/* Who is the job's home was said: all that waits for it goes there. Said again and not taken, it goes more and more seldom. */
static void offer_to_named(struct step *step, const struct mesh_id *job, const struct mesh_id *home)
{
    struct executor *const executor = &step->mesh->executor;
    for (uint32_t slot = 0; slot < executor->attempt_pool.fresh; slot++) {
        struct attempt *const attempt = &executor->attempt[slot];
        if (!is_orphan(attempt, job, step->now_ms) || members_place(&attempt->others, home) == MESH_NONE ||
            (attempt->named > 0 && step->now_ms - attempt->named_at_ms < (int64_t)EXECUTOR_RESEND_MS
                                                                             << attempt->named) ||
            !out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 4, 0))
            continue;
        attempt->named_at_ms = step->now_ms;
        if (attempt->named < EXECUTOR_OFFERS_DOUBLED)
            attempt->named++;
        executor_fill_result(attempt, out_send(step, home, MESH_RESULT));
    }
}

/* Its home said so itself. */
static void look_for_home(struct step *step, struct attempt *attempt)
{
    if (attempt->renewed_at_ms > step->now_ms - EXECUTOR_LOST_MS)
        attempt->renewed_at_ms = step->now_ms - EXECUTOR_LOST_MS;
    if (attempt->state == ATTEMPT_WAITING || attempt->state == ATTEMPT_RUNNING)
        adopt_report(step, attempt);
}

/* The home, or a member of the journal, named a member. One that has joined since the ASSIGN is kept in mind. */
static void learn_home(struct step *step, struct attempt *attempt, const struct mesh_id *home)
{
    struct mesh_members *const others = &attempt->others;
    if (members_place(others, home) != MESH_NONE)
        return;
    const uint32_t at = others->count < MESH_COPIES_MAX ? others->count++ : 0;
    others->id[at] = *home;
    if (adopt_seems_lost(attempt, step->now_ms))
        look_for_home(step, attempt);
}

void adopt_home_moved(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const struct mesh_id *const home = &message->body.hand_over.home;
    const struct mesh_id nobody = {0};
    for (uint32_t slot = 0; slot < executor->attempt_pool.fresh; slot++) {
        struct attempt *const attempt = &executor->attempt[slot];
        if (attempt->state == ATTEMPT_FREE || attempt->state == ATTEMPT_STOPPING ||
            attempt->others.count == 0 || !id_equal(&attempt->job, &message->body.hand_over.job))
            continue;
        if (id_equal(home, &nobody) && attempt->home == from)
            look_for_home(step, attempt);
        else if (!id_equal(home, &nobody) &&
                 (attempt->home == from ||
                  members_place(&attempt->others, &step->mesh->members.slot[from].id) != MESH_NONE))
            learn_home(step, attempt, home);
    }
    if (!id_equal(home, &nobody))
        offer_to_named(step, &message->body.hand_over.job, home);
}

void adopt_on_adopted(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct executor *const executor = &step->mesh->executor;
    const uint32_t slot = executor_attempt_find(executor, &message->body.adopted.name);
    if (slot == MESH_NONE)
        return; /* it ended */
    const struct attempt *const attempt = &executor->attempt[slot];
    if (attempt->home == from)
        offer_to_named(step, &attempt->job, &step->mesh->members.slot[from].id);
    if (attempt->home == from || attempt->state == ATTEMPT_STOPPING ||
        message->body.adopted.epoch <= attempt->epoch)
        return;
    if (members_place(&attempt->others, &step->mesh->members.slot[from].id) == MESH_NONE) {
        step->mesh->counters.bad_messages++;
        return;
    }
    executor_attempt_rehome(step, slot, from, message->body.adopted.epoch);
    offer_to_named(step, &attempt->job, &step->mesh->members.slot[from].id);
}

/* ---- The home. */

static bool report_makes_sense(const struct job *job, const struct mesh_message *message)
{
    if (message->body.report.epoch >= job->spec.epoch || message->body.report.class >= MESH_DEVICE_CLASSES)
        return false;
    for (uint32_t i = 0; i < message->body.report.count; i++) {
        if (message->body.report.shard[i] >= job->spec.shard_count)
            return false;
    }
    return true;
}

void adopt_point(struct step *step, uint32_t from, const struct mesh_id *job)
{
    const struct mesh *const mesh = step->mesh;
    const uint32_t slot = journal_find(mesh, job);
    const struct journal *const journal = slot == MESH_NONE ? NULL : &mesh->journals.journal[slot];
    const uint32_t home = journal ? members_find(mesh, &journal->home) : MESH_NONE;
    if (home == MESH_NONE || home == mesh->members.self || !members_live(mesh, home))
        return;
    struct mesh_message *const message = out_send(step, &mesh->members.slot[from].id, MESH_HAND_OVER);
    message->body.hand_over.job = *job;
    message->body.hand_over.epoch = journal->promised;
    message->body.hand_over.done = true;
    message->body.hand_over.home = journal->home;
}

void adopt_on_report(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t count = message->body.report.count;
    if (count == 0 || count > MESH_BUNDLE_SHARDS_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    const uint32_t slot = home_job_find(&mesh->home, &message->body.report.job);
    if (slot == MESH_NONE || journal_led(mesh, &message->body.report.job) == MESH_NONE) {
        adopt_point(step, from, &message->body.report.job);
        return; /* somebody else's, or not ours yet: it comes again */
    }
    const struct job *const job = &mesh->home.job[slot];
    if (job->state != MESH_JOB_RUNNING || verify_bars_of_job(mesh, job, from) ||
        !report_makes_sense(job, message) || !bundles_adopt(step, slot, from, message))
        return;
    mesh->counters.adoptions++;
    adopt_answer(step, from, &message->body.report.name, job->spec.epoch);
}

void adopt_answer(struct step *step, uint32_t to, const struct mesh_bundle_name *name, uint64_t epoch)
{
    struct mesh_message *const answer = out_send(step, &step->mesh->members.slot[to].id, MESH_ADOPTED);
    answer->body.adopted.name = *name;
    answer->body.adopted.epoch = epoch;
}
