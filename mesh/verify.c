/* Verification: see verify.h. */
#include "mesh/internal.h"

enum {
    CONFIRMED_MAX = 1000000, /* results that are counted */
    LOOK_MS = 500,           /* between two looks at who waits for too long */
    GIVEN_BACK_MS = 5000,    /* before shards that were held in vain are bound again */
};

/* ---- Whom to believe. */

static uint64_t site_of(const struct mesh *mesh, uint32_t member)
{
    return member == mesh->members.self ? mesh->config.site : mesh->members.slot[member].record.site;
}

static bool is_foreign(const struct mesh *mesh, uint32_t member)
{
    return site_of(mesh, member) != mesh->config.site;
}

bool verify_bars(const struct mesh *mesh, uint32_t member)
{
    return members_notes(&mesh->members, member)->quarantined;
}

static uint32_t doubt_find(const struct verify *verify, const struct mesh_id *id, uint64_t kernel)
{
    uint32_t at = 0;
    while (at < verify->doubt_count &&
           (verify->doubt[at].kernel != kernel || !id_equal(&verify->doubt[at].id, id)))
        at++;
    return at;
}

bool verify_bars_of_job(const struct mesh *mesh, const struct job *job, uint32_t member)
{
    const struct verify *const verify = &mesh->home.verify;
    return verify_bars(mesh, member) ||
           doubt_find(verify, &mesh->members.slot[member].id, job->spec.kernel) < verify->doubt_count;
}

bool mesh_doubted(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *member)
{
    const uint32_t slot = home_job_find(&mesh->home, job);
    const struct verify *const verify = &mesh->home.verify;
    return slot != MESH_NONE &&
           doubt_find(verify, member, mesh->home.job[slot].spec.kernel) < verify->doubt_count;
}

static uint32_t permille_of(const struct mesh *mesh, uint32_t member, uint32_t floor)
{
    const uint32_t confirmed = members_notes(&mesh->members, member)->confirmed;
    if (!is_foreign(mesh, member))
        return 0;
    if (confirmed < MESH_TRUSTED_RESULTS)
        return 1000;
    return 1000 / confirmed > floor ? 1000 / confirmed : floor;
}

static uint32_t floor_of(uint32_t permille)
{
    return permille == 0 ? MESH_VERIFY_PERMILLE : permille;
}

uint32_t mesh_verify_permille(const struct mesh *mesh, const struct mesh_id *id, uint32_t permille)
{
    const uint32_t member = members_find(mesh, id);
    return member == MESH_NONE || verify_bars(mesh, member) ? 1000
                                                            : permille_of(mesh, member, floor_of(permille));
}

static void confirm(struct mesh *mesh, const struct mesh_id *id, uint32_t count)
{
    const uint32_t member = members_find(mesh, id);
    if (member == MESH_NONE)
        return;
    uint32_t *const confirmed = &members_edit_notes(mesh, member)->confirmed;
    *confirmed = *confirmed + count < CONFIRMED_MAX ? *confirmed + count : CONFIRMED_MAX;
}

uint32_t verify_digest(const struct step *step, uint32_t place)
{
    return step->digest ? step->digest[place] : MESH_DIGEST_WRONG;
}

/* ---- A check's birth and end. */

void verify_layout(struct verify *verify, const struct mesh_limits *limits, struct carve *from)
{
    verify->pool.capacity = limits->bundles / MESH_CHECKS_PART;
    verify->check = carve(from, verify->pool.capacity, sizeof *verify->check);
    verify->link = carve(from, verify->pool.capacity, sizeof *verify->link);
    verify->of_job_link = carve(from, verify->pool.capacity, sizeof *verify->of_job_link);
    verify->quarantined = carve(from, MESH_QUARANTINED_MAX, sizeof *verify->quarantined);
    verify->doubt = carve(from, MESH_DOUBTS_MAX, sizeof *verify->doubt);
}

bool verify_holds(const struct job *job)
{
    return job->spec.verify == MESH_VERIFY_QUORUM;
}

bool verify_has_room(const struct home *home)
{
    return pool_in_use(&home->verify.pool) < home->verify.pool.capacity;
}

uint32_t verify_permits(const struct home *home, const struct job *job, uint32_t bundles)
{
    const struct verify *const verify = &home->verify;
    const uint32_t taken = pool_in_use(&verify->pool) + verify->promised;
    if (!verify_holds(job))
        return bundles;
    if (taken >= verify->pool.capacity)
        return 0;
    return bundles < verify->pool.capacity - taken ? bundles : verify->pool.capacity - taken;
}

/* A check with nothing in it yet, or MESH_NONE. */
static uint32_t check_make(struct step *step, uint32_t job, uint32_t classes, bool holds)
{
    struct home *const home = &step->mesh->home;
    struct verify *const verify = &home->verify;
    const uint32_t slot = pool_take(&verify->pool, verify->link);
    if (slot == MESH_NONE) {
        step->mesh->counters.bound_checks++;
        return MESH_NONE;
    }
    struct check *const check = &verify->check[slot];
    check->state = CHECK_WANTED;
    check->tries = 0;
    check->holds = holds;
    check->job = job;
    check->classes = home->job[job].spec.tolerant ? classes : MESH_ANY_CLASS;
    check->until_ms = step->now_ms + MESH_CHECK_PATIENCE_MS;
    check->opinions = 1;
    check->count = 0;
    check->opinion[0].handle = check->opinion[1].handle = 0;
    list_append(&verify->live, verify->link, slot);
    list_append(&home->job[job].checks, verify->of_job_link, slot);
    home->job[job].wanting++;
    home_job_ready(home, job);
    return slot;
}

static void opinion_by(const struct mesh *mesh, struct opinion *opinion, uint32_t member)
{
    opinion->member = mesh->members.slot[member].id;
    opinion->site = site_of(mesh, member);
}

static void check_add(struct check *check, uint32_t shard, uint32_t digest, uint32_t place)
{
    check->finding[check->count] = FINDING_OPEN;
    check->opinion[0].digest[check->count] = digest;
    check->opinion[0].place[check->count] = (uint8_t)place;
    check->shard[check->count++] = shard;
}

/* Its shards are no concern of it any more. What it holds is dropped later in the step, or in the next. */
static void check_end(struct home *home, uint32_t slot)
{
    struct verify *const verify = &home->verify;
    struct check *const check = &verify->check[slot];
    struct job *const job = &home->job[check->job];
    struct shard *const shard = shards_of(home, job);
    for (uint32_t k = 0; k < check->count && !check->holds; k++)
        shard[check->shard[k]].checked = false;
    job->wanting -= check->state == CHECK_WANTED;
    check->state = CHECK_CLOSING;
    list_remove(&job->checks, verify->of_job_link, slot);
    list_remove(&verify->live, verify->link, slot);
    list_append(&verify->closing, verify->link, slot);
}

void verify_sample(struct step *step, uint32_t job_slot, uint32_t from, uint32_t classes,
                   const struct mesh_message *result, uint32_t place, uint32_t *slot)
{
    struct mesh *const mesh = step->mesh;
    struct job *const job = &mesh->home.job[job_slot];
    const uint32_t index = result->body.result.shard[place].shard;
    struct shard *const shard = &shards_of(&mesh->home, job)[index];
    shard->at = mesh->members.self;
    if (job->spec.verify != MESH_VERIFY_SPOT || !is_foreign(mesh, from))
        return;
    shard->at = from;
    shard->next = verify_digest(step, place);
    if (random_below(&mesh->random, 1000) >= permille_of(mesh, from, floor_of(job->spec.verify_permille)))
        return;
    if (*slot == MESH_NONE)
        *slot = check_make(step, job_slot, classes, false);
    if (*slot == MESH_NONE) {
        mesh->counters.checks_skipped++;
        return;
    }
    struct check *const check = &mesh->home.verify.check[*slot];
    opinion_by(mesh, &check->opinion[0], from);
    check_add(check, index, shard->next, place);
    shard->checked = true;
}

void verify_hold(struct step *step, uint32_t job_slot, uint32_t from, uint32_t classes,
                 const struct mesh_message *result, uint32_t place, uint32_t *slot)
{
    struct mesh *const mesh = step->mesh;
    struct job *const job = &mesh->home.job[job_slot];
    const uint32_t index = result->body.result.shard[place].shard;
    struct shard *const shard = &shards_of(&mesh->home, job)[index];
    if (*slot == MESH_NONE)
        *slot = check_make(step, job_slot, classes, true);
    assert(*slot != MESH_NONE); /* verify_has_room */
    struct check *const check = &mesh->home.verify.check[*slot];
    if (check->count == 0) {
        opinion_by(mesh, &check->opinion[0], from);
        check->opinion[0].handle = result->body.result.handle;
        check->opinion[0].device_us = result->body.result.device_us;
    }
    check_add(check, index, verify_digest(step, place), place);
    shard->state = SHARD_HELD;
    shard->at = *slot;
    job->held++;
}

/* ---- The way of a check. */

uint32_t verify_pick(const struct mesh *mesh, const struct job *job, uint32_t member, uint32_t classes)
{
    const struct verify *const verify = &mesh->home.verify;
    const uint64_t site = site_of(mesh, member);
    uint32_t slot = job->wanting > 0 ? list_first(&job->checks) : MESH_NONE;
    for (; slot != MESH_NONE; slot = list_next(verify->of_job_link, slot)) {
        const struct check *const check = &verify->check[slot];
        if (check->state == CHECK_WANTED && (check->classes & classes) && check->opinion[0].site != site &&
            (check->opinions < 2 || check->opinion[1].site != site))
            return slot;
    }
    return MESH_NONE;
}

uint32_t verify_send(struct home *home, uint32_t slot, uint32_t shard[MESH_BUNDLE_SHARDS_MAX])
{
    struct check *const check = &home->verify.check[slot];
    uint32_t count = 0;
    for (uint32_t k = 0; k < check->count; k++) {
        if (check->finding[k] == FINDING_OPEN)
            shard[count++] = check->shard[k];
    }
    check->state = CHECK_OUT;
    home->job[check->job].wanting--;
    return count;
}

void verify_lost(struct home *home, uint32_t slot)
{
    struct check *const check = &home->verify.check[slot];
    check->state = CHECK_WANTED;
    home->job[check->job].wanting++;
    home_job_ready(home, check->job);
}

/* ---- What follows. */

/* How many shards have that finding, and in `*first` one of them. */
static uint32_t count_of(const struct check *check, enum finding finding, uint32_t *first)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < check->count; k++) {
        if (check->finding[k] == finding && count++ == 0)
            *first = check->shard[k];
    }
    return count;
}

static void decide(struct step *step, const struct check *check, const struct mesh_id *member,
                   enum mesh_reason why, enum finding finding)
{
    uint32_t first = 0;
    const uint32_t count = count_of(check, finding, &first);
    if (count > 0)
        home_decide(step, &step->mesh->home.job[check->job], members_find(step->mesh, member), why, first,
                    count);
}

static bool is_wrong(uint8_t finding)
{
    return finding == FINDING_NONE || finding == FINDING_FIRST_WRONG;
}

/* Committed shards of the check that are found to be wrong. */
static void dispute(struct step *step, const struct check *check)
{
    const struct job *const job = &step->mesh->home.job[check->job];
    struct mesh_save *save = NULL;
    for (uint32_t k = 0; k < check->count; k++) {
        if (!is_wrong(check->finding[k]))
            continue;
        if (!save) {
            save = out_save(step, MESH_SAVE_DISPUTE);
            save->body.dispute.job = job->spec.id;
            save->body.dispute.epoch = job->spec.epoch;
            save->body.dispute.place = home_append(step, job, MESH_ENTRY_DISPUTE, NULL);
            save->sequence = home_sequence(step, &save->body.dispute.place);
        }
        save->body.dispute.shard[save->body.dispute.count++] = check->shard[k];
    }
    if (!save)
        return;
    step->mesh->counters.disputed += save->body.dispute.count;
    struct mesh_effect *const effect = out_effect(step, MESH_DISPUTED);
    effect->body.disputed.job = job->spec.id;
    effect->body.disputed.shard = save->body.dispute.shard[0];
    effect->body.disputed.count = save->body.dispute.count;
}

/* Commits the held shards of that finding, as that opinion has them. */
static void commit_held(struct step *step, uint32_t slot, uint32_t opinion, enum finding finding)
{
    struct home *const home = &step->mesh->home;
    struct check *const check = &home->verify.check[slot];
    struct job *const job = &home->job[check->job];
    struct shard *const shard = shards_of(home, job);
    struct mesh_save *save = NULL;
    for (uint32_t k = 0; k < check->count; k++) {
        if (check->finding[k] != finding)
            continue;
        check->finding[k] = FINDING_TAKEN;
        if (!save) {
            save = out_save(step, MESH_SAVE_COMMIT);
            save->body.commit.job = job->spec.id;
            save->body.commit.epoch = job->spec.epoch;
            save->body.commit.executor = check->opinion[opinion].member;
            save->body.commit.handle = check->opinion[opinion].handle;
            save->body.commit.device_us = check->opinion[opinion].device_us;
            save->body.commit.place = home_append(step, job, MESH_ENTRY_COMMIT, NULL);
            save->sequence = home_sequence(step, &save->body.commit.place);
        }
        save->body.commit.shard[save->body.commit.count].shard = check->shard[k];
        save->body.commit.shard[save->body.commit.count++].place = check->opinion[opinion].place[k];
        shard[check->shard[k]].state = SHARD_COMMITTED;
        shard[check->shard[k]].at = step->mesh->members.self;
        job->held--;
        job->committed++;
        step->mesh->counters.commits++;
    }
}

/* Held shards of that finding are queued again, backwards, so that the front of the queue keeps the order. Returns the
 * shard that has failed too often to be tried once more, or MESH_NONE. */
static uint32_t requeue_held(struct home *home, uint32_t slot, enum finding finding, bool failed)
{
    struct check *const check = &home->verify.check[slot];
    struct job *const job = &home->job[check->job];
    struct shard *const shard = shards_of(home, job);
    uint32_t hopeless = MESH_NONE;
    for (uint32_t k = check->count; k-- > 0;) {
        const uint32_t index = check->shard[k];
        if (check->finding[k] != finding)
            continue;
        check->finding[k] = FINDING_TAKEN;
        shards_push_front(shard, job, index);
        job->held--;
        job->reassigned++;
        if (failed && ++shard[index].attempts >= MESH_ATTEMPTS_PER_SHARD)
            hopeless = index;
    }
    home_job_ready(home, check->job);
    return hopeless;
}

/* Committed shards of that finding are as they should be, or are known not to be. */
static void close_committed(struct home *home, struct check *check, enum finding finding)
{
    struct shard *const shard = shards_of(home, &home->job[check->job]);
    for (uint32_t k = 0; k < check->count; k++) {
        if (check->finding[k] != finding)
            continue;
        check->finding[k] = FINDING_TAKEN;
        shard[check->shard[k]].at = 0;
        shard[check->shard[k]].checked = false;
    }
}

/* Takes what is found as it is. Returns the shard that fails the job, or MESH_NONE. */
static uint32_t take_findings(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct check *const check = &home->verify.check[slot];
    if (check->holds) {
        commit_held(step, slot, 0, FINDING_SAME);
        commit_held(step, slot, 0, FINDING_SECOND_WRONG);
        commit_held(step, slot, 1, FINDING_FIRST_WRONG);
        return requeue_held(home, slot, FINDING_NONE, true);
    }
    dispute(step, check);
    close_committed(home, check, FINDING_SAME);
    close_committed(home, check, FINDING_SECOND_WRONG);
    close_committed(home, check, FINDING_FIRST_WRONG);
    close_committed(home, check, FINDING_NONE);
    return MESH_NONE;
}

/* Who is to be caught once the check has ended. */
struct guilt {
    struct mesh_id member[2];
    uint32_t shard[2];
    uint32_t count;
};

static void accuse(struct step *step, struct check *check, uint32_t opinion, enum finding finding,
                   struct guilt *guilt)
{
    if (count_of(check, finding, &guilt->shard[guilt->count]) == 0)
        return;
    decide(step, check, &check->opinion[opinion].member, MESH_WHY_WRONG, finding);
    guilt->member[guilt->count++] = check->opinion[opinion].member;
}

/* Ends the check, and what rests on it. */
static void conclude(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    struct check *const check = &home->verify.check[slot];
    const uint32_t job = check->job;
    struct guilt guilt = {.count = 0};
    uint32_t none = 0;
    accuse(step, check, 0, FINDING_FIRST_WRONG, &guilt);
    accuse(step, check, 1, FINDING_SECOND_WRONG, &guilt);
    decide(step, check, &check->opinion[0].member, MESH_WHY_UNDECIDED, FINDING_NONE);
    mesh->counters.undecided += count_of(check, FINDING_NONE, &none);
    const uint32_t hopeless = take_findings(step, slot);
    check_end(home, slot);
    for (uint32_t i = 0; i < guilt.count; i++) {
        const uint32_t member = members_find(mesh, &guilt.member[i]);
        if (member != MESH_NONE)
            verify_caught(step, member, job, guilt.shard[i]);
    }
    if (hopeless != MESH_NONE && home->job[job].state == MESH_JOB_RUNNING)
        home_job_end(step, job, MESH_JOB_FAILED, hopeless, 0);
    else
        home_job_settle(step, job);
}

/*
 * What is held is in the way of others' checks, and no site brings another opinion: it is computed anew, after others had a
 * turn. A job that no two sites can run would keep all checks for itself otherwise.
 */
static void give_back(struct step *step, uint32_t slot)
{
    struct home *const home = &step->mesh->home;
    struct check *const check = &home->verify.check[slot];
    uint32_t first = 0;
    step->mesh->counters.checks_skipped += count_of(check, FINDING_OPEN, &first);
    decide(step, check, &check->opinion[0].member, MESH_WHY_UNCHECKED, FINDING_OPEN);
    home->job[check->job].bind_at_ms = step->now_ms + GIVEN_BACK_MS;
    requeue_held(home, slot, FINDING_OPEN, false);
    check_end(home, slot);
}

/* Nobody brings another opinion. The own site is right then, but not for a quorum, which takes nobody's word alone. */
static void give_up(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    struct check *const check = &home->verify.check[slot];
    enum finding finding = FINDING_NONE;
    for (uint32_t o = 0; o < check->opinions && check->opinions == 2 && !check->holds; o++) {
        if (check->opinion[o].site == mesh->config.site)
            finding = o == 0 ? FINDING_SECOND_WRONG : FINDING_FIRST_WRONG;
    }
    if (check->opinions == 2 || check->holds) {
        for (uint32_t k = 0; k < check->count; k++) {
            if (check->finding[k] == FINDING_OPEN)
                check->finding[k] = (uint8_t)finding;
        }
        conclude(step, slot);
        return;
    }
    uint32_t first = 0;
    mesh->counters.checks_skipped += count_of(check, FINDING_OPEN, &first);
    decide(step, check, &check->opinion[0].member, MESH_WHY_UNCHECKED, FINDING_OPEN);
    const uint32_t job = check->job;
    check_end(home, slot);
    home_job_settle(step, job);
}

/* ---- Opinions. */

static uint32_t quarantine_find(const struct verify *verify, const struct mesh_id *id)
{
    uint32_t at = 0;
    while (at < verify->quarantined_count && !id_equal(&verify->quarantined[at], id))
        at++;
    return at;
}

static bool is_complete(const struct mesh_message *result)
{
    for (uint32_t i = 0; i < result->body.result.count; i++) {
        if (result->body.result.shard[i].outcome != MESH_DONE)
            return false;
    }
    return true;
}

/* Who is in quarantine is not believed against another, so that no third one need decide. */
static enum finding find_second(const struct verify *verify, const struct check *check, uint32_t k,
                                uint32_t digest)
{
    if (check->opinion[0].digest[k] == digest)
        return FINDING_SAME;
    const bool known = quarantine_find(verify, &check->opinion[0].member) < verify->quarantined_count;
    return known && !check->holds ? FINDING_FIRST_WRONG : FINDING_OPEN;
}

static enum finding find_third(const struct check *check, uint32_t k, uint32_t digest)
{
    return check->opinion[1].digest[k] == digest   ? FINDING_FIRST_WRONG
           : check->opinion[0].digest[k] == digest ? FINDING_SECOND_WRONG
                                                   : FINDING_NONE;
}

/* The other opinion differs: a third one is wanted. Returns whether the handle is kept. */
static bool ask_third(struct step *step, uint32_t slot, uint32_t from, const struct mesh_message *result)
{
    struct home *const home = &step->mesh->home;
    struct check *const check = &home->verify.check[slot];
    struct opinion *const second = &check->opinion[1];
    opinion_by(step->mesh, second, from);
    out_drop(step, second->handle); /* of one that was caught since */
    second->handle = check->holds ? result->body.result.handle : 0;
    second->device_us = result->body.result.device_us;
    check->opinions = 2;
    check->tries = 0;
    check->until_ms = step->now_ms + MESH_CHECK_PATIENCE_MS;
    verify_lost(home, slot);
    return check->holds;
}

bool verify_opinion(struct step *step, uint32_t slot, uint32_t from, const struct mesh_message *result)
{
    struct mesh *const mesh = step->mesh;
    struct check *const check = &mesh->home.verify.check[slot];
    if (!is_complete(result)) {
        verify_lost(&mesh->home, slot);
        if (++check->tries >= MESH_CHECK_TRIES)
            give_up(step, slot);
        return false;
    }
    const struct mesh_id *const who = &mesh->members.slot[from].id;
    uint32_t place = 0; /* its bundle has the open ones, in that order */
    for (uint32_t k = 0; k < check->count; k++) {
        if (check->finding[k] != FINDING_OPEN)
            continue;
        const uint32_t digest = verify_digest(step, place);
        if (check->opinions == 1) {
            check->opinion[1].digest[k] = digest;
            check->opinion[1].place[k] = (uint8_t)place;
            check->finding[k] = (uint8_t)find_second(&mesh->home.verify, check, k, digest);
        } else {
            check->finding[k] = (uint8_t)find_third(check, k, digest);
        }
        place++;
    }
    uint32_t first = 0;
    const uint32_t same = count_of(check, FINDING_SAME, &first);
    const uint32_t against_second = count_of(check, FINDING_SECOND_WRONG, &first);
    const uint32_t against_first = count_of(check, FINDING_FIRST_WRONG, &first);
    const uint32_t open = count_of(check, FINDING_OPEN, &first);
    mesh->counters.checks_agreed += same;
    mesh->counters.checks_differed += open;
    confirm(mesh, who, same + against_first + against_second);
    confirm(mesh, &check->opinion[0].member, same + against_second);
    if (check->opinions == 2)
        confirm(mesh, &check->opinion[1].member, against_first);
    decide(step, check, who, MESH_WHY_AGREES, FINDING_SAME);
    decide(step, check, who, MESH_WHY_DIFFERS, FINDING_OPEN);
    if (open == 0) {
        conclude(step, slot);
        return false;
    }
    take_findings(step, slot);
    return ask_third(step, slot, from, result);
}

/* ---- Quarantine. */

bool mesh_quarantined(const struct mesh *mesh, uint32_t index, struct mesh_id *id)
{
    if (index >= mesh->home.verify.quarantined_count)
        return false;
    *id = mesh->home.verify.quarantined[index];
    return true;
}

static void mark(struct mesh *mesh, const struct mesh_id *id, bool quarantined)
{
    const uint32_t member = members_find(mesh, id);
    if (member == MESH_NONE)
        return;
    struct member_notes *const notes = members_edit_notes(mesh, member);
    notes->quarantined = quarantined;
    notes->confirmed = 0;
}

void verify_member_added(struct mesh *mesh, uint32_t member)
{
    struct verify *const verify = &mesh->home.verify;
    const struct mesh_id *const id = &mesh->members.slot[member].id;
    if (quarantine_find(verify, id) < verify->quarantined_count)
        members_edit_notes(mesh, member)->quarantined = true;
}

static void tell_quarantine(struct step *step, const struct mesh_id *id, const struct mesh_id *job,
                            uint32_t shard)
{
    struct mesh_save *const save = out_save(step, MESH_SAVE_QUARANTINE);
    save->body.quarantine.id = *id;
    save->body.quarantine.on = job != NULL;
    save->body.quarantine.shard = shard;
    struct mesh_effect *const effect = out_effect(step, MESH_QUARANTINED);
    effect->body.quarantined.id = *id;
    effect->body.quarantined.on = job != NULL;
    effect->body.quarantined.shard = shard;
    if (job)
        save->body.quarantine.job = effect->body.quarantined.job = *job;
}

static void quarantine_remove(struct mesh *mesh, uint32_t at)
{
    struct verify *const verify = &mesh->home.verify;
    mark(mesh, &verify->quarantined[at], false);
    verify->quarantined_count--;
    memmove(&verify->quarantined[at], &verify->quarantined[at + 1],
            (verify->quarantined_count - at) * sizeof verify->quarantined[0]);
}

/* At the bound the one that was caught first gives way. */
static void quarantine_add(struct step *step, const struct mesh_id *id)
{
    struct verify *const verify = &step->mesh->home.verify;
    if (verify->quarantined_count == MESH_QUARANTINED_MAX) {
        const struct mesh_id oldest = verify->quarantined[0];
        quarantine_remove(step->mesh, 0);
        tell_quarantine(step, &oldest, NULL, 0);
    }
    verify->quarantined[verify->quarantined_count++] = *id;
    mark(step->mesh, id, true);
}

static void doubts_end(struct verify *verify, const struct mesh_id *id)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < verify->doubt_count; i++) {
        if (!id_equal(&verify->doubt[i].id, id))
            verify->doubt[kept++] = verify->doubt[i];
    }
    verify->doubt_count = kept;
}

void verify_quarantine(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const struct mesh_id *const id = &event->body.quarantine.id;
    const uint32_t at = quarantine_find(&mesh->home.verify, id);
    const bool there = at < mesh->home.verify.quarantined_count;
    if (!event->body.quarantine.on)
        doubts_end(&mesh->home.verify, id);
    if (event->body.quarantine.on && !there) {
        quarantine_add(step, id);
    } else if (!event->body.quarantine.on && there) {
        quarantine_remove(mesh, at);
        tell_quarantine(step, id, NULL, 0);
    }
}

void verify_trust(struct step *step, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t member = members_find(mesh, &event->body.trust.id);
    if (member != MESH_NONE && !verify_bars(mesh, member))
        members_edit_notes(mesh, member)->confirmed =
            event->body.trust.confirmed < CONFIRMED_MAX ? event->body.trust.confirmed : CONFIRMED_MAX;
}

/* What it said in checks that are open, of jobs of that kernel or, if 0, of any, is void. */
static void discard_opinions(struct home *home, const struct mesh_id *id, uint64_t kernel)
{
    struct verify *const verify = &home->verify;
    for (uint32_t slot = list_first(&verify->live), next; slot != MESH_NONE; slot = next) {
        next = list_next(verify->link, slot);
        struct check *const check = &verify->check[slot];
        if (kernel != 0 && home->job[check->job].spec.kernel != kernel)
            continue;
        if (check->opinions == 2 && id_equal(&check->opinion[1].member, id))
            check->opinions = 1;
        /* Of one that is out another site's word is on the way: then that decides. */
        if (check->holds && id_equal(&check->opinion[0].member, id) && check->state == CHECK_WANTED) {
            requeue_held(home, slot, FINDING_OPEN, false);
            check_end(home, slot);
        }
    }
}

static void recheck_begin(struct home *home, struct job *job)
{
    if (job->state != MESH_JOB_RUNNING || job->spec.verify != MESH_VERIFY_SPOT)
        return;
    home->verify.rechecks += job->recheck == 0;
    job->recheck = job->spec.shard_count;
}

/* Whether nothing speaks against the member but users' kernels of one tenant, this one among them. */
static bool is_doubt(const struct verify *verify, const struct mesh_id *id, const struct mesh_job_spec *spec)
{
    bool others = false;
    for (uint32_t i = 0; i < verify->doubt_count; i++)
        others |= id_equal(&verify->doubt[i].id, id) && verify->doubt[i].tenant != spec->tenant;
    return mesh_is_user_kernel(spec->kernel) && !others;
}

/* At the bound the oldest gives way. */
static void doubt_add(struct mesh *mesh, uint32_t member, const struct mesh_job_spec *spec)
{
    struct verify *const verify = &mesh->home.verify;
    if (verify->doubt_count == MESH_DOUBTS_MAX)
        memmove(&verify->doubt[0], &verify->doubt[1], --verify->doubt_count * sizeof verify->doubt[0]);
    verify->doubt[verify->doubt_count++] =
        (struct doubt){.id = mesh->members.slot[member].id, .kernel = spec->kernel, .tenant = spec->tenant};
    members_edit_notes(mesh, member)->confirmed = 0;
}

void verify_caught(struct step *step, uint32_t member, uint32_t job_slot, uint32_t shard)
{
    struct mesh *const mesh = step->mesh;
    struct home *const home = &mesh->home;
    const struct mesh_id id = mesh->members.slot[member].id;
    const struct mesh_job_spec *const spec = &home->job[job_slot].spec;
    if (verify_bars_of_job(mesh, &home->job[job_slot], member) || !is_foreign(mesh, member))
        return;
    const uint64_t kernel = is_doubt(&home->verify, &id, spec) ? spec->kernel : 0;
    if (kernel != 0) {
        mesh->counters.doubted++;
        doubt_add(mesh, member, spec);
    } else {
        mesh->counters.caught++;
        quarantine_add(step, &id);
        tell_quarantine(step, &id, &spec->id, shard);
    }
    bundles_discard(step, member, kernel);
    discard_opinions(home, &id, kernel);
    for (uint32_t i = 0; i < home->job_count; i++) {
        struct job *const job = &home->job[home->sorted[i]];
        if (kernel == 0 || job->spec.kernel == kernel)
            recheck_begin(home, job);
    }
}

/* ---- What it brought before. */

/* Whether the shard was committed on the word of a member that is barred, and nobody looks at it yet. */
static bool is_doubtful(const struct mesh *mesh, const struct job *job, const struct shard *shard)
{
    return shard->state == SHARD_COMMITTED && !shard->checked && shard->at != mesh->members.self &&
           verify_bars_of_job(mesh, job, shard->at);
}

/* Looks at the job's committed shards from its mark down, `*left` of them at most, and makes one check of those of one
 * member. */
static void recheck(struct step *step, uint32_t job_slot, uint32_t *left)
{
    struct mesh *const mesh = step->mesh;
    struct job *const job = &mesh->home.job[job_slot];
    struct shard *const shard = shards_of(&mesh->home, job);
    uint32_t slot = MESH_NONE;
    uint32_t member = MESH_NONE;
    for (; job->recheck > 0 && *left > 0; --*left, job->recheck--) {
        const uint32_t index = job->recheck - 1;
        if (!is_doubtful(mesh, job, &shard[index]))
            continue;
        if (slot == MESH_NONE) {
            slot = check_make(step, job_slot, MESH_ANY_CLASS, false);
            if (slot == MESH_NONE) {
                *left = 0;
                return;
            }
            member = shard[index].at;
            opinion_by(mesh, &mesh->home.verify.check[slot].opinion[0], member);
        }
        struct check *const check = &mesh->home.verify.check[slot];
        if (shard[index].at != member || check->count == job->spec.bundle_shards_max)
            return;
        check_add(check, index, shard[index].next, 0);
        shard[index].checked = true;
    }
}

void verify_restored(struct step *step, uint32_t job_slot, const struct mesh_event *event)
{
    struct mesh *const mesh = step->mesh;
    struct job *const job = &mesh->home.job[job_slot];
    struct shard *const shard = shards_of(&mesh->home, job);
    bool doubtful = false;
    for (uint32_t i = 0; event->body.restore.brought && i < job->spec.shard_count; i++) {
        const struct mesh_brought *const brought = &event->body.restore.brought[i];
        if (shard[i].state != SHARD_COMMITTED || brought->by == 0 ||
            brought->by > event->body.restore.bringer_count)
            continue;
        const uint32_t member = members_find(mesh, &event->body.restore.bringer[brought->by - 1]);
        if (member == MESH_NONE || !is_foreign(mesh, member))
            continue;
        shard[i].at = member;
        shard[i].next = brought->digest;
        doubtful = doubtful || verify_bars_of_job(mesh, job, member);
    }
    if (doubtful)
        recheck_begin(&mesh->home, job);
}

static void recheck_all(struct step *step)
{
    struct home *const home = &step->mesh->home;
    uint32_t left = MESH_RECHECK_SHARDS;
    for (uint32_t i = 0; i < home->job_count && home->verify.rechecks > 0 && left > 0; i++) {
        const uint32_t slot = home->sorted[i];
        struct job *const job = &home->job[slot];
        if (job->recheck == 0)
            continue;
        while (job->recheck > 0 && left > 0)
            recheck(step, slot, &left);
        if (job->recheck > 0)
            break; /* a check that ends makes room; or in the next step */
        home->verify.rechecks--;
        home_job_settle(step, slot);
        if (!out_has_room(step->out, MESH_OUT_SAVES_MAX / 2, MESH_OUT_SENDS_MAX / 8,
                          MESH_OUT_EFFECTS_MAX / 4))
            break;
    }
    if (home->verify.rechecks > 0 && verify_has_room(home))
        out_wake(step, step->now_ms);
}

/* ---- Ends. */

bool verify_awaited(const struct job *job)
{
    return job->checks.count > 0 || job->recheck > 0;
}

void verify_job_over(struct home *home, uint32_t job_slot)
{
    struct verify *const verify = &home->verify;
    struct job *const job = &home->job[job_slot];
    verify->rechecks -= job->recheck > 0;
    for (uint32_t slot = list_first(&job->bundles); slot != MESH_NONE && job->checks.count > 0;
         slot = list_next(home->of_job_link, slot))
        home->bundle[slot].check = 0;
    while (job->checks.count > 0) {
        const uint32_t slot = list_first(&job->checks);
        list_remove(&job->checks, verify->of_job_link, slot);
        list_remove(&verify->live, verify->link, slot);
        verify->check[slot].state = CHECK_CLOSING;
        list_append(&verify->closing, verify->link, slot);
    }
    job->recheck = job->wanting = job->held = 0;
}

void verify_member_removed(struct mesh *mesh, uint32_t member)
{
    struct home *const home = &mesh->home;
    for (uint32_t i = 0; i < home->job_count; i++) {
        struct job *const job = &home->job[home->sorted[i]];
        if (job->state != MESH_JOB_RUNNING || job->spec.verify != MESH_VERIFY_SPOT)
            continue;
        struct shard *const shard = shards_of(home, job);
        for (uint32_t s = 0; s < job->spec.shard_count; s++) {
            if (shard[s].state == SHARD_COMMITTED && shard[s].at == member)
                shard[s].at = mesh->members.self;
        }
    }
}

static void drop_closing(struct step *step)
{
    struct verify *const verify = &step->mesh->home.verify;
    while (verify->closing.count > 0) {
        if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 2)) {
            out_wake(step, step->now_ms);
            return;
        }
        const uint32_t slot = list_first(&verify->closing);
        struct check *const check = &verify->check[slot];
        for (uint32_t o = 0; o < 2; o++)
            out_drop(step, check->opinion[o].handle);
        check->state = 0;
        list_remove(&verify->closing, verify->link, slot);
        pool_give(&verify->pool, verify->link, slot);
    }
}

/* Gives up one that has waited for too long; false: there is none. */
static bool give_one_up(struct step *step)
{
    struct verify *const verify = &step->mesh->home.verify;
    for (uint32_t slot = list_first(&verify->live); slot != MESH_NONE; slot = list_next(verify->link, slot)) {
        const struct check *const check = &verify->check[slot];
        if (check->state != CHECK_WANTED || check->until_ms > step->now_ms)
            continue;
        if (!check->holds) {
            give_up(step, slot);
            return true;
        }
        if (!verify_has_room(&step->mesh->home)) {
            give_back(step, slot);
            return true;
        }
    }
    return false;
}

void verify_tick(struct step *step)
{
    struct verify *const verify = &step->mesh->home.verify;
    if (verify->rechecks > 0)
        recheck_all(step);
    if (verify->live.count > 0 && step->now_ms >= verify->look_at_ms) {
        verify->look_at_ms = step->now_ms + LOOK_MS;
        /* What follows from one may be as much as a step can say. */
        if (give_one_up(step))
            verify->look_at_ms = step->now_ms;
    }
    drop_closing(step);
    if (verify->live.count > 0)
        out_wake(step, verify->look_at_ms);
}

/* ---- Invariants. */

static void check_one(const struct home *home, uint32_t slot)
{
    const struct check *const check = &home->verify.check[slot];
    const struct job *const job = &home->job[check->job];
    const struct shard *const shard = shards_of(home, job);
    assert(job->state == MESH_JOB_RUNNING && check->count > 0 && check->opinions >= 1 &&
           check->opinions <= 2);
    assert(check->state == CHECK_WANTED || check->state == CHECK_OUT);
    uint32_t open = 0;
    for (uint32_t k = 0; k < check->count; k++) {
        const struct shard *const one = &shard[check->shard[k]];
        assert(check->finding[k] == FINDING_OPEN || check->finding[k] == FINDING_TAKEN);
        if (check->finding[k] != FINDING_OPEN)
            continue;
        open++;
        assert(check->holds ? one->state == SHARD_HELD && one->at == slot
                            : one->state == SHARD_COMMITTED && one->checked);
    }
    assert(open > 0);
    assert(check->opinions == 1 || check->opinion[0].site != check->opinion[1].site);
}

void verify_check(const struct mesh *mesh)
{
    const struct home *const home = &mesh->home;
    const struct verify *const verify = &home->verify;
    uint32_t live = 0;
    uint32_t rechecks = 0;
    for (uint32_t i = 0; i < home->job_count; i++) {
        const struct job *const job = &home->job[home->sorted[i]];
        uint32_t wanted = 0;
        uint32_t out = 0;
        for (uint32_t slot = list_first(&job->checks); slot != MESH_NONE;
             slot = list_next(verify->of_job_link, slot)) {
            assert(&home->job[verify->check[slot].job] == job);
            check_one(home, slot);
            wanted += verify->check[slot].state == CHECK_WANTED;
            live++;
        }
        for (uint32_t slot = list_first(&job->bundles); slot != MESH_NONE;
             slot = list_next(home->of_job_link, slot))
            out += home->bundle[slot].check != 0;
        assert(wanted == job->wanting && wanted + out == job->checks.count);
        rechecks += job->recheck > 0;
    }
    assert(live == verify->live.count && rechecks == verify->rechecks);
    assert(live + verify->closing.count == pool_in_use(&verify->pool));
    for (uint32_t i = 0; i < mesh->members.count; i++) {
        const struct member *const member = &mesh->members.slot[mesh->members.sorted[i]];
        const bool caught = quarantine_find(verify, &member->id) < verify->quarantined_count;
        assert(members_notes(&mesh->members, mesh->members.sorted[i])->quarantined == caught);
    }
}
