#include "mesh/internal.h"

/* Layout, views and checks. */

void home_layout(struct home *home, const struct mesh_limits *limits, struct carve *from)
{
    home->shards.free = carve(from, (size_t)limits->jobs + 1, sizeof *home->shards.free);
    home->job_pool.capacity = limits->jobs;
    home->job = carve(from, limits->jobs, sizeof *home->job);
    home->job_link = carve(from, limits->jobs, sizeof *home->job_link);
    home->service_link = carve(from, limits->jobs, sizeof *home->service_link);
    home->sorted = carve(from, limits->jobs, sizeof *home->sorted);

    home->shards.capacity = limits->shards;
    home->shards.shard = carve(from, limits->shards, sizeof *home->shards.shard);

    uint32_t buckets = 64;
    while (buckets < limits->bundles)
        buckets *= 2;
    home->bucket_count = buckets;
    home->bucket = carve(from, buckets, sizeof *home->bucket);
    home->bundle_pool.capacity = limits->bundles;
    home->bundle = carve(from, limits->bundles, sizeof *home->bundle);
    home->bundle_link = carve(from, limits->bundles, sizeof *home->bundle_link);
    home->member_link = carve(from, limits->bundles, sizeof *home->member_link);
    home->of_job_link = carve(from, limits->bundles, sizeof *home->of_job_link);

    /* No more asks than bundles: each ask is for one bundle at least. */
    home->ask_pool.capacity = limits->bundles;
    home->ask = carve(from, limits->bundles, sizeof *home->ask);
    home->ask_link = carve(from, limits->bundles, sizeof *home->ask_link);
    home->member = carve(from, limits->members, sizeof *home->member);

    home->speculation.usual = carve(from, MESH_USUAL_KERNELS, sizeof *home->speculation.usual);

    verify_layout(&home->verify, limits, from);

    home->ack_pool.capacity = limits->bundles;
    home->ack = carve(from, limits->bundles, sizeof *home->ack);
    home->ack_link = carve(from, limits->bundles, sizeof *home->ack_link);
}

void home_init(struct mesh *mesh)
{
    shards_init(&mesh->home.shards);
    mesh->home.speculation.credit_us = MESH_COPIES_ALLOWANCE_US;
}

/* Where `id` is or would be in the order of ids. */
static uint32_t sorted_place(const struct home *home, const struct mesh_id *id)
{
    uint32_t at = 0;
    for (uint32_t end = home->job_count; at < end;) {
        const uint32_t middle = at + (end - at) / 2;
        if (id_compare(&home->job[home->sorted[middle]].spec.id, id) < 0)
            at = middle + 1;
        else
            end = middle;
    }
    return at;
}

uint32_t home_job_find(const struct home *home, const struct mesh_id *id)
{
    const uint32_t at = sorted_place(home, id);
    if (at < home->job_count && id_equal(&home->job[home->sorted[at]].spec.id, id))
        return home->sorted[at];
    return MESH_NONE;
}

static void job_view(const struct mesh *mesh, const struct job *job, struct mesh_job_view *view)
{
    const uint32_t journal = journal_led(mesh, &job->spec.id);
    *view = (struct mesh_job_view){
        .id = job->spec.id,
        .epoch = job->spec.epoch,
        .state = job->state,
        .shards = job->spec.shard_count,
        .looking_up = job->looking_up,
        .queued = job->queued,
        .assigned = job->assigned,
        .held = job->held,
        .committed = job->committed,
        .checks = job->checks.count,
        .cached = job->cached,
        .reassigned = job->reassigned,
        .copies = journal == MESH_NONE ? 1 : mesh->journals.journal[journal].members.count,
        .stalled = journal != MESH_NONE && mesh->journals.journal[journal].stalled,
        .changing = journal != MESH_NONE && (mesh->journals.journal[journal].learning ||
                                             mesh->journals.journal[journal].members.joining != 0),
        .bind_in_ms = job->bind_at_ms > mesh->now_ms ? job->bind_at_ms - mesh->now_ms : 0,
    };
}

bool mesh_job_view(const struct mesh *mesh, uint32_t index, struct mesh_job_view *view)
{
    if (index >= mesh->home.job_count)
        return false;
    job_view(mesh, &mesh->home.job[mesh->home.sorted[index]], view);
    return true;
}

bool mesh_job_find(const struct mesh *mesh, const struct mesh_id *id, struct mesh_job_view *view)
{
    const uint32_t slot = home_job_find(&mesh->home, id);
    if (slot == MESH_NONE)
        return false;
    job_view(mesh, &mesh->home.job[slot], view);
    return true;
}

void home_decide(struct step *step, const struct job *job, uint32_t member, enum mesh_reason why,
                 uint32_t shard, uint32_t count)
{
    /* The last quarter of the output is for what must be said. */
    if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 4))
        return;
    struct mesh_effect *const effect = out_effect(step, MESH_DECISION);
    effect->body.decision.job = job->spec.id;
    if (member != MESH_NONE)
        effect->body.decision.member = step->mesh->members.slot[member].id;
    effect->body.decision.why = why;
    effect->body.decision.shard = shard;
    effect->body.decision.count = count;
}

/* A job's birth. */

static void tell_host(struct step *step, const struct mesh_id *id, enum mesh_refusal refusal,
                      enum mesh_job_state state)
{
    struct mesh_effect *const effect = out_effect(step, MESH_JOB);
    effect->body.job.id = *id;
    effect->body.job.refusal = refusal;
    effect->body.job.state = state;
}

static struct mesh_save *save_job(struct step *step, enum mesh_save_kind kind, const struct job *job)
{
    struct mesh_save *const save = out_save(step, kind);
    save->body.job.id = job->spec.id;
    save->body.job.epoch = job->spec.epoch;
    save->body.job.state = job->state;
    return save;
}

static void job_drop(struct step *step, uint32_t slot);
static void job_free(struct home *home, uint32_t slot);

static enum mesh_refusal job_make(struct mesh *mesh, const struct mesh_job_spec *spec, uint32_t *made)
{
    struct home *const home = &mesh->home;
    if (spec->shard_count == 0)
        return MESH_REFUSED_EMPTY;
    if (spec->shard_count > home->shards.capacity)
        return MESH_REFUSED_TOO_LARGE;
    const uint32_t slot = pool_take(&home->job_pool, home->job_link);
    if (slot == MESH_NONE) {
        mesh->counters.bound_jobs++;
        return MESH_REFUSED_BUSY;
    }
    const uint32_t first = shards_take(&home->shards, spec->shard_count);
    if (first == MESH_NONE) {
        pool_give(&home->job_pool, home->job_link, slot);
        mesh->counters.bound_shards++;
        return MESH_REFUSED_BUSY;
    }
    struct job *const job = &home->job[slot];
    *job = (struct job){.spec = *spec,
                        .state = MESH_JOB_RUNNING,
                        .first = first,
                        .born_ms = mesh->now_ms,
                        .wider_at_ms = mesh->now_ms};
    if (job->spec.bundle_shards_max < 1)
        job->spec.bundle_shards_max = 1;
    if (job->spec.bundle_shards_max > MESH_BUNDLE_SHARDS_MAX)
        job->spec.bundle_shards_max = MESH_BUNDLE_SHARDS_MAX;
    if (job->spec.lookup_shards_max < 1 || job->spec.lookup_shards_max > MESH_LOOKUP_SHARDS_MAX)
        job->spec.lookup_shards_max = MESH_LOOKUP_SHARDS_MAX;
    placement_guess(job);
    const uint32_t at = sorted_place(home, &spec->id);
    memmove(&home->sorted[at + 1], &home->sorted[at], (home->job_count - at) * sizeof home->sorted[0]);
    home->sorted[at] = slot;
    home->job_count++;
    home->live++;
    *made = slot;
    return MESH_ACCEPTED;
}

/* Puts every shard in its first state. `committed` is a bitmap, or NULL for none. */
static void job_fill(struct home *home, struct job *job, const uint8_t *committed)
{
    struct shard *const shard = shards_of(home, job);
    for (uint32_t i = 0; i < job->spec.shard_count; i++) {
        shard[i] = (struct shard){.state = SHARD_LOOKING_UP};
        if (committed && (committed[i / 8] >> (i % 8) & 1)) {
            shard[i].state = SHARD_COMMITTED;
            job->committed++;
        } else if (job->spec.lookup) {
            job->looking_up++;
        } else {
            shards_push_back(shard, job, i);
        }
    }
}

void home_submit(struct step *step, const struct mesh_event *event)
{
    struct home *const home = &step->mesh->home;
    const struct mesh_job_spec *const spec = &event->body.submit;
    uint32_t slot = home_job_find(home, &spec->id);
    if (slot != MESH_NONE && home->job[slot].forget) {
        tell_host(step, &spec->id, MESH_REFUSED_BUSY, MESH_JOB_FAILED); /* the one before is still going */
        return;
    }
    if (slot != MESH_NONE) {
        if (!journal_waits(step->mesh, &spec->id)) /* else it is told when that is settled */
            tell_host(step, &spec->id, MESH_ACCEPTED, home->job[slot].state);
        return;
    }
    enum mesh_refusal refusal =
        step->mesh->draining ? MESH_REFUSED_DRAINING : job_make(step->mesh, spec, &slot);
    uint32_t journal = MESH_NONE;
    if (refusal == MESH_ACCEPTED) {
        journal = journal_open(step, spec, &refusal);
        if (refusal != MESH_ACCEPTED)
            job_drop(step, slot);
    }
    if (refusal != MESH_ACCEPTED) {
        tell_host(step, &spec->id, refusal, MESH_JOB_FAILED);
        return;
    }
    job_fill(home, &home->job[slot], NULL);
    struct mesh_save *const save = save_job(step, MESH_SAVE_JOB, &home->job[slot]);
    if (journal == MESH_NONE) {
        home_job_settled(step, &spec->id, MESH_JOB_RUNNING);
        return;
    }
    const struct journal_waiter waiter = {.state = MESH_JOB_RUNNING};
    save->body.job.place = journal_append(step, journal, MESH_ENTRY_SUBMIT, NULL, &waiter);
    save->sequence = home_sequence(step, &save->body.job.place);
    save->body.job.members = *journal_members(step->mesh, journal);
}

void home_job_settled(struct step *step, const struct mesh_id *id, enum mesh_job_state state)
{
    const uint32_t slot = home_job_find(&step->mesh->home, id);
    assert(slot != MESH_NONE);
    tell_host(step, id, MESH_ACCEPTED, state);
    if (state == MESH_JOB_RUNNING)
        home_job_ready(&step->mesh->home, slot);
}

void home_job_moved(struct step *step, const struct mesh_id *id)
{
    const uint32_t slot = home_job_find(&step->mesh->home, id);
    if (slot == MESH_NONE)
        return;
    tell_host(step, id, MESH_ACCEPTED, MESH_JOB_MOVED);
    bundles_tell_home(step, slot, &(struct mesh_id){0});
    job_drop(step, slot);
}

bool home_job_moves(const struct mesh *mesh, const struct job *job)
{
    const uint32_t journal = journal_led(mesh, &job->spec.id);
    return journal != MESH_NONE &&
           (journal_hands_over(mesh, journal) || mesh->journals.journal[journal].stalled);
}

void home_restore(struct step *step, const struct mesh_event *event)
{
    struct home *const home = &step->mesh->home;
    const struct mesh_job_spec *const spec = &event->body.restore.spec;
    if (home_job_find(home, &spec->id) != MESH_NONE)
        return;
    if (!journal_permits(step->mesh, spec)) {
        tell_host(step, &spec->id, MESH_ACCEPTED, MESH_JOB_MOVED);
        return;
    }
    uint32_t slot = MESH_NONE;
    const enum mesh_refusal refusal = job_make(step->mesh, spec, &slot);
    if (refusal != MESH_ACCEPTED) {
        tell_host(step, &spec->id, refusal, MESH_JOB_FAILED);
        return;
    }
    job_fill(home, &home->job[slot], event->body.restore.committed);
    verify_restored(step, slot, event);
    /* As after a submit: the new epoch is durable before anything is sent under it, and the host is told. */
    if (journal_led(step->mesh, &spec->id) == MESH_NONE)
        save_job(step, MESH_SAVE_JOB, &home->job[slot]);
    else
        home->job[slot].bind_at_ms = step->now_ms + HOME_ADOPT_MS;
    tell_host(step, &spec->id, MESH_ACCEPTED, MESH_JOB_RUNNING);
    home_job_ready(home, slot);
    home_job_settle(step, slot);
}

/* The cache. */

/* Asks for the next stretch of shards that are not committed; false when all have been asked for. */
static bool lookup_next(struct step *step, struct job *job)
{
    const struct shard *const shard = shards_of(&step->mesh->home, job);
    uint32_t first = job->lookup_next;
    while (first < job->spec.shard_count && shard[first].state != SHARD_LOOKING_UP)
        first++;
    job->lookup_next = first;
    if (first == job->spec.shard_count)
        return false;
    const uint32_t left = job->spec.shard_count - first;
    const uint32_t most = job->spec.lookup_shards_max;
    const uint32_t count = left < most ? left : most;
    struct mesh_effect *const effect = out_effect(step, MESH_LOOKUP);
    effect->body.lookup.job = job->spec.id;
    effect->body.lookup.epoch = job->spec.epoch;
    effect->body.lookup.first = first;
    effect->body.lookup.count = count;
    job->lookup_next = first + count;
    job->lookups_in_flight++;
    return true;
}

static void job_look_up(struct step *step, struct job *job)
{
    while (job->lookups_in_flight < MESH_LOOKUPS_IN_FLIGHT && lookup_next(step, job))
        ;
}

/* Commits the hits of one answer and queues its misses; returns the hits. */
static uint32_t take_lookup(struct step *step, struct job *job, const struct mesh_event *event)
{
    struct shard *const shard = shards_of(&step->mesh->home, job);
    struct mesh_save *save = NULL;
    for (uint32_t i = 0; i < event->body.looked_up.count; i++) {
        const uint32_t index = event->body.looked_up.first + i;
        if (shard[index].state != SHARD_LOOKING_UP || event->body.looked_up.later[i / 8] >> (i % 8) & 1)
            continue;
        job->looking_up--;
        if (!(event->body.looked_up.hit[i / 8] >> (i % 8) & 1)) {
            shards_push_back(shard, job, index);
            continue;
        }
        if (!save) {
            save = out_save(step, MESH_SAVE_COMMIT);
            save->body.commit.job = job->spec.id;
            save->body.commit.epoch = job->spec.epoch;
            save->body.commit.executor = step->mesh->config.self;
            save->body.commit.cached = true;
            save->body.commit.handle = event->body.looked_up.handle;
            save->body.commit.place = home_append(step, job, MESH_ENTRY_COMMIT, NULL);
            save->sequence = home_sequence(step, &save->body.commit.place);
        }
        save->body.commit.shard[save->body.commit.count].shard = index;
        save->body.commit.shard[save->body.commit.count++].place = i;
        shard[index].state = SHARD_COMMITTED;
        shard[index].at = step->mesh->members.self;
        job->committed++;
        job->cached++;
    }
    return save ? save->body.commit.count : 0;
}

static bool is_last_part(const struct mesh_event *event)
{
    for (uint32_t i = 0; i < (event->body.looked_up.count + 7) / 8 && i < MESH_LOOKUP_SHARDS_MAX / 8; i++)
        if (event->body.looked_up.later[i])
            return false;
    return true;
}

void home_looked_up(struct step *step, const struct mesh_event *event)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = home_job_find(home, &event->body.looked_up.job);
    struct job *const job = slot == MESH_NONE ? NULL : &home->job[slot];
    const uint32_t first = event->body.looked_up.first;
    const uint32_t count = event->body.looked_up.count;
    if (job && job->spec.epoch == event->body.looked_up.epoch) {
        if (job->lookups_in_flight > 0 && is_last_part(event))
            job->lookups_in_flight--;
        home_job_ready(home, slot);
        if (job->state == MESH_JOB_RUNNING && count <= MESH_LOOKUP_SHARDS_MAX && first <= job->lookup_next &&
            count <= job->lookup_next - first) {
            const uint32_t hits = take_lookup(step, job, event);
            step->mesh->counters.cache_hits += hits;
            step->mesh->counters.commits += hits;
            if (hits > 0)
                home_decide(step, job, step->mesh->members.self, MESH_WHY_CACHED, first, hits);
            home_job_settle(step, slot);
        }
    }
    out_drop(step, event->body.looked_up.handle);
}

/* A job's end. */

struct mesh_place home_append(struct step *step, const struct job *job, enum mesh_entry_kind kind,
                              const struct journal_waiter *waiter)
{
    const uint32_t journal = journal_led(step->mesh, &job->spec.id);
    return journal == MESH_NONE ? (struct mesh_place){0} : journal_append(step, journal, kind, NULL, waiter);
}

uint64_t home_sequence(struct step *step, const struct mesh_place *place)
{
    return place->index == 0 ? 0 : disk_next(step->mesh);
}

void home_job_end(struct step *step, uint32_t slot, enum mesh_job_state state, uint32_t shard,
                  uint64_t handle)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[slot];
    job->state = state;
    struct mesh_save *const save = out_save(step, MESH_SAVE_JOB_STATE);
    save->body.job.id = job->spec.id;
    save->body.job.epoch = job->spec.epoch;
    save->body.job.state = state;
    save->body.job.failed_shard = shard;
    save->body.job.handle = handle;
    const struct journal_waiter waiter = {.state = state};
    save->body.job.place = home_append(step, job, MESH_ENTRY_END, &waiter);
    save->sequence = home_sequence(step, &save->body.job.place);
    if (save->body.job.place.index == 0)
        tell_host(step, &job->spec.id, MESH_ACCEPTED, state);
    verify_job_over(home, slot);
    shards_give(&home->shards, job->first, job->spec.shard_count);
    job->looking_up = job->queued = job->assigned = job->slow = 0;
    job->ending = ++home->endings;
    home->live--;
    home_job_ready(home, slot);
}

void home_job_settle(struct step *step, uint32_t slot)
{
    const struct job *const job = &step->mesh->home.job[slot];
    if (job->state == MESH_JOB_RUNNING && job->committed == job->spec.shard_count && !verify_awaited(job))
        home_job_end(step, slot, MESH_JOB_DONE, 0, 0);
}

void home_cancel(struct step *step, const struct mesh_event *event)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = home_job_find(home, &event->body.job.id);
    if (slot == MESH_NONE || home->job[slot].state != MESH_JOB_RUNNING)
        return;
    step->mesh->counters.cancels++;
    home_job_end(step, slot, MESH_JOB_CANCELLED, 0, 0);
    journal_cancel(step, &event->body.job.id);
}

/* Takes a job away from wherever it stands, without a word to anybody. */
static void job_drop(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[slot];
    if (job->state == MESH_JOB_RUNNING) {
        verify_job_over(home, slot);
        shards_give(&home->shards, job->first, job->spec.shard_count);
        home->live--;
    }
    while (job->asks.count > 0)
        placement_drop(step, slot, list_first(&job->asks));
    if (job->service == SERVICE_READY)
        list_remove(&home->ready, home->service_link, slot);
    else if (job->service == SERVICE_TIMED)
        list_remove(&home->timed, home->service_link, slot);
    job->service = SERVICE_NONE;
    job_free(home, slot);
}

static void job_free(struct home *home, uint32_t slot)
{
    struct job *const job = &home->job[slot];
    bundles_forget(home, slot);
    assert(job->bundles.count == 0 && job->asks.count == 0 && job->service == SERVICE_NONE);
    const uint32_t at = sorted_place(home, &job->spec.id);
    home->job_count--;
    memmove(&home->sorted[at], &home->sorted[at + 1], (home->job_count - at) * sizeof home->sorted[0]);
    job->state = 0;
    pool_give(&home->job_pool, home->job_link, slot);
}

void home_forget(struct step *step, const struct mesh_event *event)
{
    struct home *const home = &step->mesh->home;
    const uint32_t slot = home_job_find(home, &event->body.job.id);
    if (slot == MESH_NONE || home->job[slot].state == MESH_JOB_RUNNING)
        return;
    home->job[slot].forget = true;
    home_job_ready(home, slot);
}

/* Turns. */

void home_job_ready(struct home *home, uint32_t slot)
{
    struct job *const job = &home->job[slot];
    if (job->service == SERVICE_READY)
        return;
    if (job->service == SERVICE_TIMED)
        list_remove(&home->timed, home->service_link, slot);
    job->service = SERVICE_READY;
    list_append(&home->ready, home->service_link, slot);
}

static void job_serve(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct job *const job = &home->job[slot];
    list_remove(&home->ready, home->service_link, slot);
    job->service = SERVICE_NONE;
    if (job->state != MESH_JOB_RUNNING) {
        if (!bundles_call_back(step, slot))
            home_job_ready(home, slot);
        else if (job->forget && job->lookups_in_flight == 0) {
            journal_forget(step, &job->spec.id);
            job_free(home, slot);
        }
        return;
    }
    job_look_up(step, job);
    if (step->now_ms >= job->bind_at_ms && !home_job_moves(step->mesh, job))
        placement_serve(step, slot);
    if (job->queued + job->slow + job->wanting > 0 && job->service == SERVICE_NONE) {
        job->service = SERVICE_TIMED;
        job->service_at_ms = step->now_ms + HOME_SERVICE_MS;
        list_append(&home->timed, home->service_link, slot);
    }
}

static void serve_jobs(struct step *step)
{
    struct home *const home = &step->mesh->home;
    for (uint32_t slot = list_first(&home->timed); slot != MESH_NONE; slot = list_first(&home->timed)) {
        if (home->job[slot].service_at_ms > step->now_ms)
            break;
        home_job_ready(home, slot);
    }
    const uint32_t turns = home->ready.count < HOME_JOBS_PER_STEP ? home->ready.count : HOME_JOBS_PER_STEP;
    for (uint32_t i = 0; i < turns && out_has_room(step->out, 0, 2 * HOME_ASKS_PER_TURN, HOME_ASKS_PER_TURN);
         i++)
        job_serve(step, list_first(&home->ready));
    if (home->ready.count > 0) {
        step->mesh->counters.bound_out++;
        out_wake(step, step->now_ms);
    }
    if (home->timed.count > 0)
        out_wake(step, home->job[list_first(&home->timed)].service_at_ms);
}

void home_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    bundles_tick(step);
    speculation_tick(step);
    verify_tick(step);
    serve_jobs(step);
    acks_tick(step);
    if (mesh->draining && !home->drained_told && home->live == 0 && home->ready.count == 0 &&
        pool_in_use(&mesh->journals.waiter_pool) == 0 && executor_idle(&mesh->executor) &&
        out_has_room(step->out, 0, 0, 1)) {
        out_effect(step, MESH_DRAINED);
        home->drained_told = true;
    }
}

void home_check(const struct mesh *mesh)
{
    const struct home *const home = &mesh->home;
    assert(home->job_count == pool_in_use(&home->job_pool));
    uint32_t live = 0;
    uint32_t shards = 0;
    uint32_t ready = 0;
    uint32_t timed = 0;
    for (uint32_t i = 0; i < home->job_count; i++) {
        const struct job *const job = &home->job[home->sorted[i]];
        assert(i == 0 || id_compare(&home->job[home->sorted[i - 1]].spec.id, &job->spec.id) < 0);
        assert(job->state >= MESH_JOB_RUNNING && job->state <= MESH_JOB_CANCELLED);
        assert(job->lookups_in_flight <= MESH_LOOKUPS_IN_FLIGHT);
        ready += job->service == SERVICE_READY;
        timed += job->service == SERVICE_TIMED;
        if (job->state != MESH_JOB_RUNNING)
            continue;
        live++;
        shards += job->spec.shard_count;
        shards_check(home, job);
        assert(job->committed < job->spec.shard_count || verify_awaited(job));
        /* None is forgotten: whoever has queued shards has a turn coming. */
        assert(job->queued + job->slow + job->wanting == 0 || job->service != SERVICE_NONE ||
               journal_waits(mesh, &job->spec.id));
    }
    assert(live == home->live && ready == home->ready.count && timed == home->timed.count);
    shards_check_ranges(&home->shards);
    for (uint32_t i = 0; i < home->shards.free_count; i++)
        shards += home->shards.free[i].count;
    assert(shards == home->shards.capacity);
    bundles_check(mesh);
    speculation_check(mesh);
    verify_check(mesh);
    placement_check(mesh);
}
