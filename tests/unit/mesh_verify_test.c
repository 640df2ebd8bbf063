/* Verification at the home: who is checked, where, what two or three opinions lead to, and what becomes of who was wrong. */
#include "mesh_fixture.h"

enum { RIGHT = 1, WRONG = 2, ODD = 3, SELF = UINT32_MAX };

static struct mesh_job_spec spec_of(uint8_t job, uint32_t shards, enum mesh_verify verify)
{
    return (struct mesh_job_spec){.id = fixture_job(job),
                                  .epoch = 1,
                                  .tenant = 1,
                                  .kernel = 1,
                                  .shard_count = shards,
                                  .bundle_shards_max = 1,
                                  .classes = 1,
                                  .verify = (uint8_t)verify};
}

static void submit_spec(struct fixture *f, const struct mesh_job_spec *spec)
{
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = *spec;
    fixture_step(f, &event);
}

static void submit(struct fixture *f, uint8_t job, uint32_t shards, enum mesh_verify verify)
{
    const struct mesh_job_spec spec = spec_of(job, shards, verify);
    submit_spec(f, &spec);
}

static void forget(struct fixture *f, uint8_t job)
{
    struct mesh_event event = {.kind = MESH_FORGET_JOB};
    event.body.job.id = fixture_job(job);
    fixture_step(f, &event);
}

static void grant_of(struct fixture *f, uint32_t from, uint8_t job, uint16_t places, uint16_t class)
{
    static uint64_t token = 100;
    struct mesh_message message = {.kind = MESH_GRANT};
    message.body.grant.job = fixture_job(job);
    message.body.grant.class = class;
    message.body.grant.token = ++token;
    message.body.grant.places = places;
    message.body.grant.valid_ms = 2000;
    fixture_message(f, from, &message);
}

static void grant(struct fixture *f, uint32_t from, uint8_t job, uint16_t places)
{
    grant_of(f, from, job, places, 0);
}

static bool sent(struct fixture *f, uint32_t to, enum mesh_message_kind kind)
{
    struct mesh_message message;
    return fixture_sent(f, to, kind, &message);
}

/* The member has a place for the job, and gets a bundle. */
static struct mesh_message assigned(struct fixture *f, uint32_t to, uint8_t job)
{
    struct mesh_message message;
    grant(f, to, job, 1);
    assert_true(fixture_sent(f, to, MESH_ASSIGN, &message));
    return message;
}

/* The member has a place for the job, and gets nothing. */
static void spurned(struct fixture *f, uint32_t to, uint8_t job)
{
    grant(f, to, job, 1);
    assert_false(sent(f, to, MESH_ASSIGN));
    assert_true(sent(f, to, MESH_RELEASE));
}

static void report(struct fixture *f, uint32_t from, const struct mesh_message *assign, uint32_t outcome,
                   uint32_t digest)
{
    struct mesh_message message = {.kind = MESH_RESULT};
    uint32_t digests[MESH_BUNDLE_SHARDS_MAX];
    message.body.result.name = assign->body.assign.name;
    message.body.result.job = assign->body.assign.job;
    message.body.result.epoch = assign->body.assign.epoch;
    message.body.result.handle = fixture_handle(f);
    message.body.result.device_us = 1000;
    message.body.result.count = assign->body.assign.count;
    for (uint32_t i = 0; i < assign->body.assign.count; i++) {
        message.body.result.shard[i].shard = assign->body.assign.shard[i];
        message.body.result.shard[i].outcome = outcome;
        digests[i] = digest == MESH_DIGEST_WRONG ? digest : digest + 16 * assign->body.assign.shard[i];
    }
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = from == SELF ? f->self : f->peer[from];
    event.body.received.message = &message;
    event.body.received.digest = digests;
    fixture_step(f, &event);
}

static void result(struct fixture *f, uint32_t from, const struct mesh_message *assign, uint32_t digest)
{
    report(f, from, assign, MESH_DONE, digest);
}

/* Gets one bundle, and brings that. */
static void runs(struct fixture *f, uint32_t peer, uint8_t job, uint32_t digest)
{
    const struct mesh_message assign = assigned(f, peer, job);
    result(f, peer, &assign, digest);
}

static uint32_t committed(struct fixture *f, struct mesh_save *save)
{
    return fixture_saved(f, MESH_SAVE_COMMIT, save) ? save->body.commit.count : 0;
}

static struct mesh_job_view view(const struct fixture *f, uint8_t job)
{
    struct mesh_job_view view;
    const struct mesh_id id = fixture_job(job);
    assert_true(mesh_job_find(f->mesh, &id, &view));
    return view;
}

static struct mesh_member_view member(const struct fixture *f, uint32_t peer)
{
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &f->peer[peer], &view));
    return view;
}

static uint32_t disputed(struct fixture *f)
{
    struct mesh_effect effect;
    return fixture_did(f, MESH_DISPUTED, &effect) ? effect.body.disputed.count : 0;
}

/* That peer, and nobody else, was caught in the latest steps, durably. */
static void assert_caught(struct fixture *f, uint32_t peer)
{
    struct mesh_effect effect;
    struct mesh_save save;
    assert_true(fixture_did(f, MESH_QUARANTINED, &effect));
    assert_true(effect.body.quarantined.on);
    assert_memory_equal(&effect.body.quarantined.id, &f->peer[peer], sizeof f->self);
    assert_true(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
    assert_true(save.body.quarantine.on);
    assert_memory_equal(&save.body.quarantine.id, &f->peer[peer], sizeof f->self);
    assert_false(fixture_did(f, MESH_QUARANTINED, &effect));
    assert_true(member(f, peer).quarantined);
}

static void assert_nobody_caught(struct fixture *f)
{
    struct mesh_effect effect;
    assert_false(fixture_did(f, MESH_QUARANTINED, &effect));
    assert_int_equal(mesh_counters(f->mesh)->caught, 0);
}

static uint32_t decided(struct fixture *f, enum mesh_reason why, uint32_t peer)
{
    struct mesh_effect effect;
    while (fixture_did(f, MESH_DECISION, &effect)) {
        if (effect.body.decision.why == why &&
            memcmp(&effect.body.decision.member, &f->peer[peer], sizeof f->self) == 0)
            return effect.body.decision.count;
    }
    return 0;
}

/* Each peer is a site of its own, and none is ours. */
static struct fixture *open_home(uint32_t peers)
{
    struct fixture *const f = fixture_open(peers);
    for (uint32_t i = 0; i < peers; i++)
        fixture_capacity(f, i, 2, 2, 0);
    fixture_clear(f);
    return f;
}

/* One shard, of which peer 0 brought that. */
static struct fixture *open_checked(uint32_t peers, enum mesh_verify verify, uint32_t digest)
{
    struct fixture *const f = open_home(peers);
    submit(f, 1, 1, verify);
    runs(f, 0, 1, digest);
    return f;
}

static void nothing_is_checked_unless_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_NONE, WRONG);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(mesh_counters(f->mesh)->checks, 0);
    fixture_close(f);
}

static void the_own_sites_results_are_believed(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    fixture_member(f, 0, 100, 1);
    submit(f, 1, 1, MESH_VERIFY_SPOT);
    runs(f, 0, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void a_job_is_done_when_its_checks_have_agreed(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, RIGHT);
    struct mesh_save save;
    assert_int_equal(committed(f, &save), 1);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    assert_int_equal(view(f, 1).checks, 1);
    fixture_clear(f);
    const struct mesh_message check = assigned(f, 1, 1);
    assert_int_equal(decided(f, MESH_WHY_CHECKING, 1), 1);
    result(f, 1, &check, RIGHT);
    assert_int_equal(decided(f, MESH_WHY_AGREES, 1), 1);
    assert_true(sent(f, 1, MESH_RESULT_ACK));
    assert_int_equal(committed(f, &save), 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(member(f, 0).confirmed, 1);
    assert_int_equal(member(f, 1).confirmed, 1);
    assert_int_equal(mesh_counters(f->mesh)->checks_us, 1000);
    assert_nobody_caught(f);
    fixture_close(f);
}

static void a_check_is_asked_for_at_another_site_alone(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    fixture_member(f, 1, 101, 2); /* of peer 0's site */
    submit(f, 1, 1, MESH_VERIFY_SPOT);
    runs(f, 0, 1, RIGHT);
    spurned(f, 0, 1);
    spurned(f, 1, 1);
    fixture_clear(f);
    fixture_run(f, 1500);
    assert_false(sent(f, 0, MESH_RESERVE) || sent(f, 1, MESH_RESERVE));
    runs(f, 2, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void ten_results_that_were_confirmed_make_a_member_trusted(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    for (uint32_t i = 0; i < MESH_TRUSTED_RESULTS; i++) {
        assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), 1000);
        submit(f, (uint8_t)(1 + i), 1, MESH_VERIFY_SPOT);
        runs(f, 0, (uint8_t)(1 + i), RIGHT);
        runs(f, 1, (uint8_t)(1 + i), RIGHT);
        assert_int_equal(view(f, (uint8_t)(1 + i)).state, MESH_JOB_DONE);
        forget(f, (uint8_t)(1 + i));
    }
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), 1000 / MESH_TRUSTED_RESULTS);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 400), 400);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[2], 0), 1000);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->self, 0), 0);
    /* One in ten, and soon one in fifty: of 200 that are confirmed when they are checked, some 20. */
    submit(f, 100, 200, MESH_VERIFY_SPOT);
    const uint64_t before = mesh_counters(f->mesh)->checks;
    for (uint32_t i = 0; i < 200; i++) {
        runs(f, 0, 100, RIGHT);
        while (view(f, 100).checks > 0)
            runs(f, 1, 100, RIGHT);
        fixture_clear(f);
    }
    assert_int_equal(view(f, 100).state, MESH_JOB_DONE);
    assert_in_range(mesh_counters(f->mesh)->checks - before, 8, 40);
    fixture_close(f);
}

static void the_first_was_wrong_and_its_job_is_disputed(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, WRONG);
    fixture_clear(f);
    runs(f, 1, 1, RIGHT);
    assert_int_equal(decided(f, MESH_WHY_DIFFERS, 1), 1);
    assert_nobody_caught(f);
    spurned(f, 1, 1); /* a third site decides */
    runs(f, 2, 1, RIGHT);
    struct mesh_save dispute;
    assert_true(fixture_saved(f, MESH_SAVE_DISPUTE, &dispute));
    assert_int_equal(dispute.body.dispute.count, 1);
    assert_int_equal(dispute.body.dispute.shard[0], 0);
    const struct mesh_id of = fixture_job(1);
    assert_memory_equal(&dispute.body.dispute.job, &of, sizeof of);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(decided(f, MESH_WHY_WRONG, 0), 1);
    assert_caught(f, 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(member(f, 1).confirmed, 1);
    assert_int_equal(member(f, 2).confirmed, 1);
    fixture_close(f);
}

static void the_second_was_wrong_and_what_is_committed_right(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, RIGHT);
    runs(f, 1, 1, WRONG);
    runs(f, 2, 1, RIGHT);
    assert_int_equal(disputed(f), 0);
    assert_caught(f, 1);
    assert_false(member(f, 0).quarantined);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void three_that_differ_catch_nobody(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, RIGHT);
    runs(f, 1, 1, WRONG);
    runs(f, 2, 1, ODD);
    assert_nobody_caught(f);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(mesh_counters(f->mesh)->undecided, 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void a_check_without_a_place_is_given_up(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(1, MESH_VERIFY_SPOT, WRONG);
    fixture_run(f, MESH_CHECK_PATIENCE_MS - 1000);
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    fixture_run(f, 2000);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(decided(f, MESH_WHY_UNCHECKED, 0), 1);
    assert_int_equal(mesh_counters(f->mesh)->checks_skipped, 1);
    assert_nobody_caught(f);
    fixture_close(f);
}

static void between_two_sites_our_own_word_decides(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(1, MESH_VERIFY_SPOT, WRONG);
    const struct mesh_message check = assigned(f, SELF, 1);
    result(f, SELF, &check, RIGHT);
    assert_nobody_caught(f);
    fixture_run(f, MESH_CHECK_PATIENCE_MS + 1000);
    assert_caught(f, 0);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void between_two_others_nobody_decides(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(2, MESH_VERIFY_SPOT, WRONG);
    runs(f, 1, 1, RIGHT);
    fixture_run(f, MESH_CHECK_PATIENCE_MS + 1000);
    assert_nobody_caught(f);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void a_check_that_was_lost_goes_elsewhere(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, RIGHT);
    const struct mesh_message lost = assigned(f, 1, 1);
    f->incarnation[1]++;
    fixture_member(f, 1, 555, 3); /* restarted */
    assert_int_equal(view(f, 1).checks, 1);
    const struct mesh_message returned = assigned(f, 2, 1);
    report(f, 2, &returned, MESH_RETURNED, 0);
    assert_int_equal(view(f, 1).checks, 1);
    result(f, 1, &lost, WRONG); /* of a life that nobody knows any more */
    runs(f, 2, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_nobody_caught(f);
    fixture_close(f);
}

static void a_check_that_crashes_everywhere_is_given_up(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(2, MESH_VERIFY_SPOT, RIGHT);
    for (uint32_t i = 0; i < MESH_CHECK_TRIES; i++) {
        assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
        const struct mesh_message check = assigned(f, 1, 1);
        report(f, 1, &check, MESH_CRASHED, 0);
    }
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(decided(f, MESH_WHY_UNCHECKED, 0), 1);
    fixture_close(f);
}

/* Peer 0 had two bundles, and was caught with the first; whatever it is about counts no more. */
static void who_was_caught_gets_nothing_and_brings_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit(f, 2, 1, MESH_VERIFY_NONE);
    const struct mesh_message held = assigned(f, 0, 2);
    submit(f, 1, 1, MESH_VERIFY_SPOT);
    runs(f, 0, 1, WRONG);
    runs(f, 1, 1, RIGHT);
    runs(f, 2, 1, RIGHT);
    assert_caught(f, 0);
    assert_int_equal(decided(f, MESH_WHY_QUARANTINED, 0), 1);
    assert_int_equal(view(f, 2).queued, 1);
    fixture_clear(f);
    result(f, 0, &held, RIGHT);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(view(f, 2).queued, 1);
    spurned(f, 0, 2);
    fixture_run(f, 3000);
    assert_false(sent(f, 0, MESH_RESERVE));
    fixture_close(f);
}

static void submit_users(struct fixture *f, uint8_t job, uint64_t kernel, uint64_t tenant)
{
    struct mesh_job_spec spec = spec_of(job, 1, MESH_VERIFY_SPOT);
    spec.kernel = mesh_user_kernel(kernel);
    spec.tenant = tenant;
    submit_spec(f, &spec);
}

/* Peer 0 brings another result of the job than peers 1 and 2. */
static void is_wrong_about(struct fixture *f, uint8_t job)
{
    runs(f, 0, job, WRONG);
    runs(f, 1, job, RIGHT);
    runs(f, 2, job, RIGHT);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(view(f, job).state, MESH_JOB_DONE);
}

static bool doubts(const struct fixture *f, uint8_t job, uint32_t peer)
{
    const struct mesh_id id = fixture_job(job);
    return mesh_doubted(f->mesh, &id, &f->peer[peer]);
}

/* Its author may have written one that gives what it likes, to have others expelled. */
static void a_users_kernel_bars_nobody_but_from_itself(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit(f, 9, 1, MESH_VERIFY_NONE);
    const struct mesh_message held = assigned(f, 0, 9);
    submit_users(f, 2, 70, 1);
    const struct mesh_message lost = assigned(f, 0, 2);
    submit_users(f, 1, 70, 1);
    is_wrong_about(f, 1);
    assert_nobody_caught(f);
    assert_int_equal(mesh_counters(f->mesh)->doubted, 1);
    assert_int_equal(view(f, 2).queued, 1); /* what it had of that kernel */
    result(f, 0, &lost, RIGHT);
    assert_int_equal(view(f, 2).queued, 1);
    spurned(f, 0, 2);
    assert_true(doubts(f, 2, 0) && !doubts(f, 2, 1) && !doubts(f, 9, 0));
    result(f, 0, &held, RIGHT); /* other work goes on there */
    assert_int_equal(view(f, 9).state, MESH_JOB_DONE);
    submit_users(f, 3, 71, 1); /* the same tenant may have two of them */
    is_wrong_about(f, 3);
    assert_nobody_caught(f);
    struct mesh_event event = {.kind = MESH_QUARANTINE, .body.quarantine = {.id = f->peer[0]}};
    fixture_step(f, &event); /* lifted */
    assert_false(doubts(f, 2, 0));
    fixture_close(f);
}

static void users_kernels_of_two_tenants_quarantine(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit_users(f, 1, 70, 1);
    is_wrong_about(f, 1);
    assert_nobody_caught(f);
    submit_users(f, 2, 71, 2);
    is_wrong_about(f, 2);
    assert_caught(f, 0);
    fixture_close(f);
}

static void full_doubts_let_the_first_one_go(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit_users(f, 200, 0, 1);
    for (uint32_t i = 0; i <= MESH_DOUBTS_MAX; i++) {
        const uint8_t job = (uint8_t)(1 + i % 100);
        submit_users(f, job, i, 1);
        is_wrong_about(f, job);
        assert_int_equal(doubts(f, 200, 0), i < MESH_DOUBTS_MAX);
        fixture_clear(f);
        forget(f, job);
    }
    assert_nobody_caught(f);
    fixture_close(f);
}

/* Our own machines are believed, though two others say the same. */
static void nobody_of_the_own_site_is_caught(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_SPOT, RIGHT);
    runs(f, SELF, 1, WRONG);
    runs(f, 2, 1, RIGHT);
    assert_nobody_caught(f);
    assert_int_equal(disputed(f), 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

/* It was trusted, and lied then: what nobody confirmed is computed again. */
static void what_it_brought_before_is_checked(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    for (uint8_t job = 1; job <= 12; job++) {
        submit(f, job, 1, MESH_VERIFY_SPOT);
        runs(f, 0, job, RIGHT);
        if (view(f, job).checks > 0)
            runs(f, 1, job, RIGHT);
        forget(f, job);
        fixture_clear(f);
    }
    submit(f, 100, 64, MESH_VERIFY_SPOT);
    uint32_t unchecked = 0;
    while (view(f, 100).checks == 0) {
        runs(f, 0, 100, unchecked == 0 ? WRONG : RIGHT);
        unchecked += view(f, 100).checks == 0;
    }
    assert_in_range(unchecked, 2, 16); /* by the seed; the last one is checked, and is taken for a lie */
    runs(f, 1, 100, ODD);
    runs(f, 2, 100, ODD);
    assert_caught(f, 0);
    assert_int_equal(disputed(f), 1);
    assert_int_equal(view(f, 100).checks, unchecked);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < unchecked; i++) { /* it is not believed any more: nobody need decide */
        runs(f, 1, 100, RIGHT);
        wrong += disputed(f);
    }
    assert_int_equal(wrong, 1);
    assert_int_equal(view(f, 100).checks, 0);
    struct mesh_event forgive = {.kind = MESH_QUARANTINE};
    forgive.body.quarantine.id = f->peer[0];
    fixture_step(f, &forgive);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), 1000);
    fixture_close(f);
}

static void quarantine_outlives_a_restart_until_it_is_lifted(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_event event = {.kind = MESH_QUARANTINE};
    struct mesh_save save;
    struct mesh_id id;
    event.body.quarantine.id = f->peer[0];
    event.body.quarantine.on = true;
    fixture_step(f, &event);
    fixture_step(f, &event); /* twice is once */
    assert_true(member(f, 0).quarantined);
    assert_false(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
    assert_true(mesh_quarantined(f->mesh, 0, &id));
    assert_false(mesh_quarantined(f->mesh, 1, &id));
    submit(f, 1, 1, MESH_VERIFY_NONE);
    spurned(f, 0, 1);
    event.body.quarantine.on = false;
    fixture_step(f, &event);
    assert_true(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
    assert_false(save.body.quarantine.on);
    assert_false(member(f, 0).quarantined);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), 1000);
    runs(f, 0, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_step(f, &event); /* who is not in quarantine is not told of */
    assert_false(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
    fixture_close(f);
}

static void trust(struct fixture *f, uint32_t peer, uint32_t confirmed)
{
    struct mesh_event event = {.kind = MESH_TRUST};
    event.body.trust.id = f->peer[peer];
    event.body.trust.confirmed = confirmed;
    fixture_step(f, &event);
}

static void trust_comes_back_at_a_start_but_for_who_was_caught(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    trust(f, 0, 40);
    assert_int_equal(member(f, 0).confirmed, 40);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), 25);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[1], 0), 1000);
    trust(f, 0, UINT32_MAX);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], 0), MESH_VERIFY_PERMILLE);
    struct mesh_event caught = {.kind = MESH_QUARANTINE};
    caught.body.quarantine.id = f->peer[0];
    caught.body.quarantine.on = true;
    fixture_step(f, &caught);
    trust(f, 0, 40);
    assert_int_equal(member(f, 0).confirmed, 0);
    struct mesh_event stranger = {.kind = MESH_TRUST}; /* nobody knows it */
    stranger.body.trust.confirmed = 40;
    fixture_step(f, &stranger);
    fixture_close(f);
}

/* Job 1 is read back with five shards committed: the first two and the fifth by peer 0, the third by peer 1, the fourth by
 * this node; that the fifth is wrong is known. The sixth is queued. */
static void restore(struct fixture *f)
{
    static const uint8_t committed[] = {0x1f};
    static struct mesh_brought brought[6];
    const uint32_t by[6] = {1, 1, 2, 3, 0, 0};
    static struct mesh_id bringer[3];
    bringer[0] = f->peer[0];
    bringer[1] = f->peer[1];
    bringer[2] = f->self;
    for (uint32_t i = 0; i < 6; i++)
        brought[i] = (struct mesh_brought){.by = by[i], .digest = (i == 0 ? WRONG : RIGHT) + 16 * i};
    struct mesh_event event = {.kind = MESH_RESTORE};
    event.body.restore.spec = spec_of(1, 6, MESH_VERIFY_SPOT);
    event.body.restore.spec.epoch = 2;
    event.body.restore.committed = committed;
    event.body.restore.brought = brought;
    event.body.restore.bringer = bringer;
    event.body.restore.bringer_count = 3;
    fixture_step(f, &event);
}

/* Peer 2, and then peer 3, compute again what is to be checked. */
static void assert_two_are_checked_and_one_was_wrong(struct fixture *f)
{
    struct mesh_save save;
    assert_int_equal(view(f, 1).checks, 2);
    bool seen[6] = {false};
    uint32_t wrong = 0;
    while (fixture_saved(f, MESH_SAVE_DISPUTE, &save))
        ;
    for (uint32_t i = 0; i < 2; i++) {
        const struct mesh_message check = assigned(f, 2, 1);
        seen[check.body.assign.shard[0]] = true;
        result(f, 2, &check, RIGHT);
        if (fixture_saved(f, MESH_SAVE_DISPUTE, &save)) {
            assert_int_equal(save.body.dispute.shard[0], 0);
            wrong += save.body.dispute.count;
        }
    }
    assert_true(seen[0] && seen[1]);
    assert_int_equal(wrong, 1);
    assert_int_equal(view(f, 1).checks, 0);
}

static void what_was_brought_before_a_restart_is_checked_when_who_did_is_caught(void **state)
{
    (void)state;
    struct fixture *const f = open_home(4);
    restore(f);
    assert_int_equal(view(f, 1).committed, 5);
    assert_int_equal(view(f, 1).checks, 0);
    runs(f, 0, 1, WRONG);
    assert_int_equal(view(f, 1).checks, 1);
    runs(f, 2, 1, ODD);
    runs(f, 3, 1, ODD);
    assert_caught(f, 0);
    assert_two_are_checked_and_one_was_wrong(f);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void what_a_member_in_quarantine_brought_is_checked_when_its_job_is_read_back(void **state)
{
    (void)state;
    struct fixture *const f = open_home(4);
    struct mesh_event caught = {.kind = MESH_QUARANTINE};
    caught.body.quarantine.id = f->peer[0];
    caught.body.quarantine.on = true;
    fixture_step(f, &caught);
    restore(f);
    fixture_run(f, 10);
    assert_two_are_checked_and_one_was_wrong(f);
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING); /* the sixth shard is queued still */
    fixture_close(f);
}

static void a_tolerant_result_is_compared_with_one_of_the_same_class_of_devices(void **state)
{
    (void)state;
    for (uint32_t tolerant = 0; tolerant < 2; tolerant++) {
        struct fixture *const f = fixture_open(3);
        for (uint32_t i = 0; i < 3; i++) {
            struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
            record.body.capacity.class[i == 1 ? 0 : 1] = (struct mesh_class_capacity){.slots = 2, .free = 2};
            fixture_record(f, i, record);
        }
        fixture_clear(f);
        struct mesh_job_spec spec = spec_of(1, 1, MESH_VERIFY_SPOT);
        spec.classes = 3;
        spec.tolerant = tolerant == 1;
        submit_spec(f, &spec);
        struct mesh_message assign;
        grant_of(f, 0, 1, 1, 1);
        assert_true(fixture_sent(f, 0, MESH_ASSIGN, &assign));
        fixture_clear(f);
        result(f, 0, &assign, RIGHT);
        fixture_run(f, 1500);
        assert_int_equal(sent(f, 1, MESH_RESERVE), !spec.tolerant);
        assert_true(sent(f, 2, MESH_RESERVE));
        grant_of(f, 1, 1, 1, 0);
        assert_int_equal(sent(f, 1, MESH_ASSIGN), !spec.tolerant);
        if (spec.tolerant) {
            grant_of(f, 2, 1, 1, 1);
            assert_true(fixture_sent(f, 2, MESH_ASSIGN, &assign));
            result(f, 2, &assign, RIGHT);
            assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
        }
        fixture_close(f);
    }
}

static void who_is_met_later_is_in_quarantine_still(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_event event = {.kind = MESH_QUARANTINE};
    memset(event.body.quarantine.id.bytes, 2, sizeof event.body.quarantine.id.bytes);
    event.body.quarantine.on = true;
    fixture_step(f, &event);
    memset(f->peer[1].bytes, 2, sizeof f->peer[1].bytes);
    f->incarnation[1] = 1;
    f->peers = 2;
    fixture_member(f, 1, 900, 9);
    assert_true(member(f, 1).quarantined);
    fixture_close(f);
}

static void a_full_quarantine_lets_the_first_one_go(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_event event = {.kind = MESH_QUARANTINE};
    struct mesh_save save;
    struct mesh_id id;
    event.body.quarantine.on = true;
    for (uint32_t i = 0; i <= MESH_QUARANTINED_MAX; i++) {
        assert_false(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
        event.body.quarantine.id.bytes[0] = (uint8_t)i;
        event.body.quarantine.id.bytes[1] = (uint8_t)(1 + i / 256);
        fixture_step(f, &event);
    }
    assert_true(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
    assert_false(save.body.quarantine.on);
    assert_int_equal(save.body.quarantine.id.bytes[0], 0);
    assert_int_equal(save.body.quarantine.id.bytes[1], 1);
    assert_true(mesh_quarantined(f->mesh, MESH_QUARANTINED_MAX - 1, &id));
    assert_false(mesh_quarantined(f->mesh, MESH_QUARANTINED_MAX, &id));
    fixture_close(f);
}

static void a_quorum_commits_what_two_sites_agree_about(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    const uint32_t handles = f->live_count;
    submit(f, 1, 1, MESH_VERIFY_QUORUM);
    const struct mesh_message first = assigned(f, SELF, 1); /* our own word is one of the two */
    result(f, SELF, &first, RIGHT);
    struct mesh_save save;
    assert_true(sent(f, SELF, MESH_RESULT_ACK));
    assert_int_equal(committed(f, &save), 0);
    assert_int_equal(view(f, 1).held, 1);
    assert_int_equal(view(f, 1).assigned, 0);
    fixture_run(f, 2 * MESH_CHECK_PATIENCE_MS); /* it waits for as long as it takes */
    assert_int_equal(view(f, 1).held, 1);
    runs(f, 1, 1, RIGHT);
    assert_int_equal(committed(f, &save), 1);
    assert_memory_equal(&save.body.commit.executor, &f->self, sizeof f->self);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_tick(f);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

static void of_a_quorum_that_differs_the_third_decides(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(3, MESH_VERIFY_QUORUM, WRONG);
    const uint32_t handles = f->live_count - 1;
    struct mesh_save save;
    runs(f, 1, 1, RIGHT);
    assert_int_equal(committed(f, &save), 0);
    assert_int_equal(view(f, 1).held, 1);
    runs(f, 2, 1, RIGHT);
    assert_int_equal(committed(f, &save), 1);
    assert_memory_equal(&save.body.commit.executor, &f->peer[1], sizeof f->self);
    assert_caught(f, 0);
    assert_int_equal(disputed(f), 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_tick(f);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

static void a_shard_about_which_no_two_agree_fails_in_the_end(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    const uint32_t handles = f->live_count;
    submit(f, 1, 1, MESH_VERIFY_QUORUM);
    for (uint32_t i = 0; i < MESH_ATTEMPTS_PER_SHARD; i++) {
        assert_int_equal(view(f, 1).queued, 1);
        runs(f, 0, 1, RIGHT);
        runs(f, 1, 1, WRONG);
        runs(f, 2, 1, ODD);
    }
    assert_int_equal(view(f, 1).state, MESH_JOB_FAILED);
    assert_nobody_caught(f);
    fixture_tick(f);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

/* Not even its own site's, which two others may find wrong once they can run it. */
static void a_quorum_takes_nobodys_word_alone(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(2, MESH_VERIFY_QUORUM, RIGHT);
    struct mesh_save save;
    runs(f, SELF, 1, WRONG);
    for (uint32_t i = 0; i < MESH_CHECK_TRIES; i++) {
        const struct mesh_message third = assigned(f, 1, 1);
        report(f, 1, &third, MESH_CRASHED, 0);
        assert_int_equal(committed(f, &save), 0);
    }
    assert_nobody_caught(f);
    assert_int_equal(view(f, 1).queued, 1);
    runs(f, 0, 1, RIGHT);
    runs(f, 1, 1, RIGHT);
    assert_int_equal(committed(f, &save), 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

/* What was held of who was caught meanwhile is computed anew. */
static void held_results_of_who_was_caught_are_void(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit(f, 1, 1, MESH_VERIFY_QUORUM);
    submit(f, 2, 1, MESH_VERIFY_QUORUM);
    runs(f, 0, 1, RIGHT);
    runs(f, 0, 2, WRONG);
    runs(f, 1, 2, RIGHT);
    runs(f, 2, 2, RIGHT);
    assert_caught(f, 0);
    assert_int_equal(view(f, 1).held, 0);
    assert_int_equal(view(f, 1).queued, 1);
    runs(f, 1, 1, RIGHT);
    runs(f, 2, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void a_cancelled_job_gives_back_what_was_held(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    const uint32_t handles = f->live_count;
    submit(f, 1, 2, MESH_VERIFY_QUORUM);
    runs(f, 0, 1, RIGHT);
    const struct mesh_message check = assigned(f, 1, 1);
    struct mesh_event event = {.kind = MESH_CANCEL_JOB};
    event.body.job.id = fixture_job(1);
    fixture_step(f, &event);
    fixture_tick(f);
    assert_int_equal(view(f, 1).state, MESH_JOB_CANCELLED);
    assert_true(sent(f, 1, MESH_CANCEL));
    result(f, 1, &check, RIGHT);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

/* 64 bundles make 16 checks: of a quorum no more bundles are out and held. */
static void a_quorum_has_no_more_out_than_can_be_checked(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit(f, 1, 40, MESH_VERIFY_QUORUM);
    grant(f, 0, 1, 40);
    assert_int_equal(view(f, 1).assigned, 16);
    struct mesh_message bundle;
    while (fixture_sent(f, 0, MESH_ASSIGN, &bundle))
        result(f, 0, &bundle, RIGHT);
    assert_int_equal(view(f, 1).held, 16);
    assert_int_equal(view(f, 1).queued, 24);
    fixture_clear(f);
    spurned(f, 0, 1);
    runs(f, 1, 1, RIGHT);
    assert_int_equal(view(f, 1).committed, 1);
    runs(f, 0, 1, RIGHT);
    assert_int_equal(view(f, 1).held, 16);
    fixture_close(f);
}

/* Their number is bounded; what comes beyond is committed as it is, and counted. */
static void beyond_the_checks_nothing_is_checked(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 20, MESH_VERIFY_SPOT);
    grant(f, 0, 1, 20);
    struct mesh_message bundle;
    while (fixture_sent(f, 0, MESH_ASSIGN, &bundle))
        result(f, 0, &bundle, RIGHT);
    assert_int_equal(view(f, 1).committed, 20);
    assert_int_equal(view(f, 1).checks, 16);
    assert_int_equal(mesh_counters(f->mesh)->checks_skipped, 4);
    fixture_close(f);
}

/* There is only one site that could compute either job: the first must not keep all 16 checks from the second. */
static void what_nobody_can_check_gives_way_to_others(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    const uint32_t handles = f->live_count;
    submit(f, 1, 20, MESH_VERIFY_QUORUM);
    grant(f, 0, 1, 20);
    struct mesh_message bundle;
    while (fixture_sent(f, 0, MESH_ASSIGN, &bundle))
        result(f, 0, &bundle, RIGHT);
    assert_int_equal(view(f, 1).held, 16);
    fixture_clear(f);
    submit(f, 2, 1, MESH_VERIFY_QUORUM);
    spurned(f, 0, 2);
    fixture_run(f, MESH_CHECK_PATIENCE_MS + 1000);
    assert_int_equal(view(f, 1).held, 15);
    assert_int_equal(view(f, 1).queued, 5);
    assert_int_equal(decided(f, MESH_WHY_UNCHECKED, 0), 1);
    assert_int_equal(mesh_counters(f->mesh)->checks_skipped, 1);
    runs(f, 0, 2, RIGHT);
    assert_int_equal(view(f, 2).held, 1);
    fixture_tick(f);
    assert_int_equal(f->live_count, handles + 16);
    fixture_close(f);
}

static void a_certificate_that_fails_catches_at_once(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    struct mesh_job_spec spec = spec_of(1, 2, MESH_VERIFY_CERTIFICATE);
    submit_spec(f, &spec);
    runs(f, 1, 1, RIGHT);
    struct mesh_save save;
    assert_int_equal(committed(f, &save), 1);
    assert_int_equal(view(f, 1).checks, 0);
    runs(f, 0, 1, MESH_DIGEST_WRONG);
    assert_int_equal(committed(f, &save), 0);
    assert_caught(f, 0);
    assert_int_equal(view(f, 1).queued, 1);
    runs(f, 1, 1, RIGHT);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_checked_unless_asked_for),
        cmocka_unit_test(the_own_sites_results_are_believed),
        cmocka_unit_test(a_job_is_done_when_its_checks_have_agreed),
        cmocka_unit_test(a_check_is_asked_for_at_another_site_alone),
        cmocka_unit_test(ten_results_that_were_confirmed_make_a_member_trusted),
        cmocka_unit_test(the_first_was_wrong_and_its_job_is_disputed),
        cmocka_unit_test(the_second_was_wrong_and_what_is_committed_right),
        cmocka_unit_test(three_that_differ_catch_nobody),
        cmocka_unit_test(a_check_without_a_place_is_given_up),
        cmocka_unit_test(between_two_sites_our_own_word_decides),
        cmocka_unit_test(between_two_others_nobody_decides),
        cmocka_unit_test(a_check_that_was_lost_goes_elsewhere),
        cmocka_unit_test(a_check_that_crashes_everywhere_is_given_up),
        cmocka_unit_test(who_was_caught_gets_nothing_and_brings_nothing),
        cmocka_unit_test(a_users_kernel_bars_nobody_but_from_itself),
        cmocka_unit_test(users_kernels_of_two_tenants_quarantine),
        cmocka_unit_test(full_doubts_let_the_first_one_go),
        cmocka_unit_test(nobody_of_the_own_site_is_caught),
        cmocka_unit_test(what_it_brought_before_is_checked),
        cmocka_unit_test(quarantine_outlives_a_restart_until_it_is_lifted),
        cmocka_unit_test(trust_comes_back_at_a_start_but_for_who_was_caught),
        cmocka_unit_test(what_was_brought_before_a_restart_is_checked_when_who_did_is_caught),
        cmocka_unit_test(what_a_member_in_quarantine_brought_is_checked_when_its_job_is_read_back),
        cmocka_unit_test(a_tolerant_result_is_compared_with_one_of_the_same_class_of_devices),
        cmocka_unit_test(who_is_met_later_is_in_quarantine_still),
        cmocka_unit_test(a_full_quarantine_lets_the_first_one_go),
        cmocka_unit_test(a_quorum_commits_what_two_sites_agree_about),
        cmocka_unit_test(of_a_quorum_that_differs_the_third_decides),
        cmocka_unit_test(a_shard_about_which_no_two_agree_fails_in_the_end),
        cmocka_unit_test(a_quorum_takes_nobodys_word_alone),
        cmocka_unit_test(held_results_of_who_was_caught_are_void),
        cmocka_unit_test(a_cancelled_job_gives_back_what_was_held),
        cmocka_unit_test(a_quorum_has_no_more_out_than_can_be_checked),
        cmocka_unit_test(beyond_the_checks_nothing_is_checked),
        cmocka_unit_test(what_nobody_can_check_gives_way_to_others),
        cmocka_unit_test(a_certificate_that_fails_catches_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
