/* Speculation at the home: when a bundle counts as slow, what a copy may cost, and what becomes of the two attempts. */
#include "mesh_home_fixture.h"

#define SECOND_US 1000000u

static struct mesh_job_spec slow_spec(uint8_t job, uint32_t shards)
{
    struct mesh_job_spec spec = spec_of(job, shards);
    spec.bundle_shards_max = 1;
    spec.speculate = true;
    return spec;
}

static void submit_slow(struct fixture *f, uint8_t job, uint32_t shards)
{
    const struct mesh_job_spec spec = slow_spec(job, shards);
    submit_spec(f, &spec);
}

static uint32_t decided_of(struct fixture *f, enum mesh_reason why, uint32_t peer)
{
    struct mesh_effect effect;
    while (fixture_did(f, MESH_DECISION, &effect)) {
        if (effect.body.decision.why == why &&
            memcmp(&effect.body.decision.member, &f->peer[peer], sizeof f->self) == 0)
            return effect.body.decision.count;
    }
    return 0;
}

static void renew(struct fixture *f, uint32_t from, const struct mesh_message *assign)
{
    struct mesh_message message = {.kind = MESH_RENEW};
    message.body.renew.count = 1;
    message.body.renew.name[0] = assign->body.assign.name;
    fixture_message(f, from, &message);
}

/* A job of so many shards of the kernel, each of which takes so long; peer 0 runs them all. */
static void train(struct fixture *f, uint8_t job, uint16_t shards, uint32_t guess_us, uint64_t device_us)
{
    struct mesh_job_spec spec = slow_spec(job, shards);
    spec.shard_us_guess = guess_us;
    submit_spec(f, &spec);
    grant(f, 0, job, 1000 + job, shards);
    for (uint32_t i = 0; i < shards; i++) {
        const struct mesh_message bundle = assigned(f, 0);
        result_after(f, 0, &bundle, MESH_DONE, device_us);
    }
    assert_int_equal(view(f, job).state, MESH_JOB_DONE);
    fixture_clear(f);
}

/* Two attempts at the only shard of job 1, which shards of its kernel usually bring in a second: peer 0 has had it for
 * too long, and peer 1 has the copy. */
struct pair {
    struct fixture *f;
    struct mesh_message first, copy;
};

static struct pair open_pair(void)
{
    struct pair pair = {.f = open_home(3)};
    train(pair.f, 9, 8, 0, SECOND_US);
    submit_slow(pair.f, 1, 1);
    grant(pair.f, 0, 1, 7, 1);
    pair.first = assigned(pair.f, 0);
    fixture_run(pair.f, 4000);
    grant(pair.f, 1, 1, 8, 1);
    pair.copy = assigned(pair.f, 1);
    assert_int_equal(pair.copy.body.assign.count, 1);
    assert_int_equal(pair.copy.body.assign.shard[0], pair.first.body.assign.shard[0]);
    assert_int_equal(mesh_counters(pair.f->mesh)->copies, 1);
    return pair;
}

static void a_place_for_a_slow_bundle_is_asked_for_elsewhere(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, SECOND_US);
    submit_slow(f, 1, 1);
    grant(f, 0, 1, 7, 1);
    assigned(f, 0);
    fixture_clear(f);
    fixture_run(f, 2000); /* half as long again, and a second for messages and a place ahead */
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_run(f, 1500);
    assert_false(sent(f, 0, MESH_RESERVE));
    struct mesh_message reserve;
    assert_true(fixture_sent(f, 1, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 1);
    grant(f, 0, 1, 8, 1); /* the slow member itself is no help */
    assert_int_equal(released(f, 0), 1);
    grant(f, 1, 1, 8, 3);
    assigned(f, 1);
    assert_int_equal(released(f, 1), 2);
    assert_int_equal(decided_of(f, MESH_WHY_SPECULATED, 1), 1);
    assert_int_equal(view(f, 1).assigned, 1);
    fixture_close(f);
}

static void the_copy_wins_and_the_first_attempt_is_stopped(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    struct mesh_member_view slow;
    fixture_clear(f);
    result_after(f, 1, &pair.copy, MESH_DONE, SECOND_US);
    assert_int_equal(saved_commits(f), 1);
    assert_true(sent(f, 1, MESH_RESULT_ACK));
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(decided_of(f, MESH_WHY_OVERTAKEN, 0), 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(mesh_counters(f->mesh)->copies_first, 1);
    assert_true(mesh_member_find(f->mesh, &f->peer[0], &slow));
    assert_in_range(slow.delivered_permille, 800, 900); /* its slots count for less from now on */
    assert_int_equal(mesh_counters(f->mesh)->copies_us, SECOND_US);
    assert_int_equal(mesh_counters(f->mesh)->delivered_us, 9 * SECOND_US);
    /* The acknowledgement crossed its result. */
    result_after(f, 0, &pair.first, MESH_DONE, 3 * SECOND_US);
    assert_int_equal(saved_commits(f), 0);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    fixture_close(f);
}

static void the_first_attempt_wins_and_the_copy_is_stopped(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    fixture_clear(f);
    result_after(f, 0, &pair.first, MESH_DONE, 5 * SECOND_US);
    assert_int_equal(saved_commits(f), 1);
    assert_true(sent(f, 1, MESH_RESULT_ACK));
    assert_int_equal(decided_of(f, MESH_WHY_OVERTAKEN, 1), 1);
    assert_int_equal(mesh_counters(f->mesh)->copies_late, 1);
    result_after(f, 1, &pair.copy, MESH_DONE, SECOND_US);
    assert_int_equal(saved_commits(f), 0);
    assert_true(sent(f, 1, MESH_RESULT_ACK));
    fixture_close(f);
}

static void who_did_not_hear_that_it_was_overtaken_is_told_when_it_renews(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, SECOND_US);
    submit_slow(f, 1, 2);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    fixture_run(f, 4000);
    grant(f, 1, 1, 8, 1);
    const struct mesh_message copy = assigned(f, 1);
    assert_int_equal(copy.body.assign.shard[0], first.body.assign.shard[0]);
    result_after(f, 1, &copy, MESH_DONE, SECOND_US);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    fixture_clear(f);
    renew(f, 0, &first);
    assert_false(sent(f, 0, MESH_RENEWED));
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    renew(f, 0, &second);
    assert_true(sent(f, 0, MESH_RENEWED));
    assert_false(sent(f, 0, MESH_RESULT_ACK));
    fixture_close(f);
}

static void nothing_is_copied_before_the_kernel_is_known(void **state)
{
    (void)state;
    for (uint16_t samples = MESH_USUAL_SAMPLES_MIN - 1; samples <= MESH_USUAL_SAMPLES_MIN; samples++) {
        struct fixture *const f = open_home(2);
        train(f, 9, samples, 0, SECOND_US);
        submit_slow(f, 1, 1);
        grant(f, 0, 1, 7, 1);
        fixture_clear(f);
        fixture_run(f, 5000);
        assert_int_equal(sent(f, 1, MESH_RESERVE), samples == MESH_USUAL_SAMPLES_MIN);
        fixture_close(f);
    }
}

static void a_job_that_opts_out_is_not_copied(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, SECOND_US);
    struct mesh_job_spec spec = slow_spec(1, 1);
    spec.speculate = false;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    fixture_clear(f);
    fixture_run(f, 10000);
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_close(f);
}

/* Parameters and sizes are in the manifest's guess: what is learnt is how the machines compare to it. */
static void larger_shards_of_a_known_kernel_are_not_slow(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, SECOND_US / 2, SECOND_US);
    struct mesh_job_spec spec = slow_spec(1, 1);
    spec.shard_us_guess = 5 * SECOND_US;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    fixture_clear(f);
    fixture_run(f, 15000);
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_run(f, 4000);
    assert_true(sent(f, 1, MESH_RESERVE));
    fixture_close(f);
}

/* One of twenty is longer: the 95th percentile is what the others take. With one in ten it is what those take. */
static void what_is_usual_is_the_95th_percentile(void **state)
{
    (void)state;
    for (uint32_t longer = 1; longer <= 2; longer++) {
        struct fixture *const f = open_home(2);
        train(f, 9, 20, 0, SECOND_US);
        train(f, 8, (uint16_t)longer, 0, 4 * SECOND_US);
        submit_slow(f, 1, 1);
        grant(f, 0, 1, 7, 1);
        fixture_clear(f);
        fixture_run(f, 4000);
        assert_int_equal(sent(f, 1, MESH_RESERVE), longer == 1);
        fixture_run(f, 5000);
        assert_true(longer == 1 || sent(f, 1, MESH_RESERVE));
        fixture_close(f);
    }
}

/* What was learnt long ago counts for less: 40 of the last 1,100 are more than a twentieth by weight. */
static void a_kernel_that_became_slower_is_learnt_anew(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 8, .jobs = 64, .shards = 8192, .bundles = 64, .attempts = 8, .demands = 8};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    fixture_capacity(f, 0, 2, 2, 0);
    fixture_capacity(f, 1, 2, 2, 0);
    for (uint8_t i = 0; i < 18; i++)
        train(f, (uint8_t)(100 + i), 60, 0, SECOND_US);
    train(f, 90, 40, 0, 4 * SECOND_US);
    submit_slow(f, 1, 1);
    grant(f, 0, 1, 7, 1);
    fixture_clear(f);
    fixture_run(f, 6000);
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_run(f, 3000);
    assert_true(sent(f, 1, MESH_RESERVE));
    fixture_close(f);
}

/* Behind a slot that runs short bundles one more waits. */
static void a_short_bundle_may_have_waited_behind_another(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, 800000);
    submit_slow(f, 1, 1);
    grant(f, 0, 1, 7, 1);
    fixture_clear(f);
    fixture_run(f, 2700);
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_run(f, 1300);
    assert_true(sent(f, 1, MESH_RESERVE));
    fixture_close(f);
}

static void the_last_twentieth_of_a_job_is_waited_for_less(void **state)
{
    (void)state;
    for (uint16_t shards = 19; shards <= 20; shards++) {
        struct fixture *const f = open_home(2);
        train(f, 9, 8, 0, 4 * SECOND_US);
        submit_slow(f, 1, shards);
        grant(f, 0, 1, 7, shards);
        const struct mesh_message last = assigned(f, 0);
        for (uint16_t i = 1; i < shards; i++) {
            const struct mesh_message bundle = assigned(f, 0);
            result_after(f, 0, &bundle, MESH_DONE, 4 * SECOND_US);
        }
        fixture_clear(f);
        fixture_run(f, 6000);
        assert_int_equal(sent(f, 1, MESH_RESERVE), shards == 20);
        fixture_run(f, 2000);
        assert_true(shards == 20 || sent(f, 1, MESH_RESERVE));
        result_after(f, 0, &last, MESH_DONE, 4 * SECOND_US);
        fixture_close(f);
    }
}

/* The allowance is 10 s: while anything is left of it a copy is made, however long; then two percent of what comes. */
static void copies_stay_within_their_budget(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 6, 0, 8 * SECOND_US); /* adds 0.96 s */
    submit_slow(f, 1, 4);
    grant(f, 0, 1, 7, 4);
    struct mesh_message slow[4], copy[2];
    for (uint32_t i = 0; i < 4; i++)
        slow[i] = assigned(f, 0);
    fixture_run(f, 15000);
    grant(f, 1, 1, 8, 4);
    assert_int_equal(released(f, 1), 2); /* the second overdraws it */
    copy[0] = assigned(f, 1);
    copy[1] = assigned(f, 1);
    assert_true(mesh_counters(f->mesh)->copies_withheld > 0);
    result_after(f, 1, &copy[0], MESH_DONE, 8 * SECOND_US);
    result_after(f, 1, &copy[1], MESH_DONE, 8 * SECOND_US);
    fixture_run(f, 2000);
    assert_int_equal(mesh_counters(f->mesh)->copies, 2);
    /* 16 s were spent, 11.3 s were there: another 235 s delivered bring the rest. */
    train(f, 8, 28, 0, 8 * SECOND_US);
    fixture_run(f, 1000);
    grant(f, 1, 1, 9, 4);
    assert_int_equal(released(f, 1), 4);
    train(f, 10, 2, 0, 8 * SECOND_US);
    fixture_run(f, 1000);
    grant(f, 1, 1, 10, 4);
    assert_int_equal(released(f, 1), 3);
    (void)slow;
    fixture_close(f);
}

/* A copy that was stopped has cost what it ran, not what it was thought to. */
static void a_copy_that_is_stopped_at_once_costs_next_to_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, 8 * SECOND_US);
    for (uint8_t job = 1; job <= 5; job++) {
        submit_slow(f, job, 1);
        grant(f, 0, job, 20 + job, 1);
        const struct mesh_message first = assigned(f, 0);
        for (int i = 0; i < 15; i++) {
            fixture_run(f, 1000);
            renew(f, 0, &first);
        }
        grant(f, 1, job, 20 + job, 1);
        assigned(f, 1);
        result_after(f, 0, &first, MESH_DONE, 8 * SECOND_US);
        assert_int_equal(mesh_counters(f->mesh)->copies_late, job);
    }
    assert_int_equal(mesh_counters(f->mesh)->copies_withheld, 0);
    fixture_close(f);
}

static void the_copy_takes_over_when_the_first_attempt_is_given_back(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    result_after(f, 0, &pair.first, MESH_RETURNED, 0);
    assert_int_equal(view(f, 1).queued, 0);
    assert_int_equal(view(f, 1).assigned, 1);
    assert_int_equal(mesh_counters(f->mesh)->copies_needed, 1);
    result_after(f, 1, &pair.copy, MESH_RETURNED, 0);
    assert_int_equal(view(f, 1).queued, 1);
    fixture_close(f);
}

static void the_copy_takes_over_when_the_first_executor_is_lost(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    f->incarnation[0] = 2;
    fixture_member(f, 0, 555, 2);
    assert_int_equal(view(f, 1).assigned, 1);
    assert_int_equal(mesh_counters(f->mesh)->requeued_restart, 0);
    assert_int_equal(decided_of(f, MESH_WHY_RESTARTED, 0), 1);
    f->incarnation[1] = 2;
    fixture_member(f, 1, 555, 3);
    assert_int_equal(view(f, 1).queued, 1);
    fixture_close(f);
}

static void the_copy_takes_over_when_the_first_lease_ends(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    for (int i = 0; i < 25; i++) {
        fixture_run(f, 1000);
        renew(f, 1, &pair.copy);
    }
    assert_int_equal(mesh_counters(f->mesh)->copies_needed, 1);
    assert_int_equal(view(f, 1).assigned, 1);
    /* Its result is welcome all the same, and now the copy is late. */
    fixture_clear(f);
    result_after(f, 0, &pair.first, MESH_DONE, 30 * SECOND_US);
    assert_int_equal(saved_commits(f), 1);
    assert_true(sent(f, 1, MESH_RESULT_ACK));
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

static void the_copy_takes_over_when_the_first_grant_is_not_honoured(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    struct mesh_message expired = {.kind = MESH_EXPIRED};
    expired.body.expired.name = pair.first.body.assign.name;
    expired.body.expired.job = pair.first.body.assign.job;
    expired.body.expired.epoch = 1;
    fixture_message(f, 0, &expired);
    assert_int_equal(view(f, 1).assigned, 1);
    assert_int_equal(mesh_counters(f->mesh)->requeued_expired, 0);
    expired.body.expired.name = pair.copy.body.assign.name;
    fixture_message(f, 1, &expired);
    assert_int_equal(view(f, 1).queued, 1);
    fixture_close(f);
}

static void a_lost_copy_changes_nothing_and_another_may_be_made(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    f->incarnation[1] = 2;
    fixture_member(f, 1, 555, 3);
    assert_int_equal(view(f, 1).assigned, 1);
    assert_int_equal(view(f, 1).queued, 0);
    fixture_run(f, 1000);
    grant(f, 2, 1, 9, 1);
    const struct mesh_message again = assigned(f, 2);
    result_after(f, 1, &pair.copy, MESH_DONE, SECOND_US); /* of a life that is over */
    assert_int_equal(saved_commits(f), 0);
    result_after(f, 2, &again, MESH_DONE, SECOND_US);
    assert_int_equal(saved_commits(f), 1);
    fixture_close(f);
}

static void a_crash_of_either_attempt_counts(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    result_after(f, 1, &pair.copy, MESH_CRASHED, 0);
    assert_int_equal(view(f, 1).assigned, 1);
    fixture_run(f, 1000);
    grant(f, 2, 1, 9, 1);
    const struct mesh_message again = assigned(f, 2);
    result_after(f, 0, &pair.first, MESH_CRASHED, 0);
    assert_int_equal(view(f, 1).assigned, 1); /* the second copy has it */
    result_after(f, 2, &again, MESH_CRASHED, 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_FAILED);
    fixture_close(f);
}

static void a_rejection_by_the_copy_fails_the_job_and_calls_the_first_attempt_back(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    fixture_clear(f);
    result_after(f, 1, &pair.copy, MESH_REJECTED, 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_FAILED);
    assert_true(sent(f, 0, MESH_CANCEL));
    fixture_close(f);
}

static void a_cancelled_job_calls_both_attempts_back(void **state)
{
    (void)state;
    struct pair pair = open_pair();
    struct fixture *const f = pair.f;
    fixture_clear(f);
    struct mesh_event event = {.kind = MESH_CANCEL_JOB};
    event.body.job.id = fixture_job(1);
    fixture_step(f, &event);
    assert_true(sent(f, 0, MESH_CANCEL));
    assert_true(sent(f, 1, MESH_CANCEL));
    fixture_close(f);
}

/* Of a bundle of several shards the copy has those that are left; each side may bring a part. */
static void what_one_attempt_leaves_the_other_brings(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, SECOND_US / 100, SECOND_US / 100);
    struct mesh_job_spec spec = slow_spec(1, 64);
    spec.bundle_shards_max = 2;
    spec.shard_us_guess = SECOND_US / 100;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message first = assigned(f, 0);
    assert_int_equal(first.body.assign.count, 2);
    for (uint64_t token = 100; view(f, 1).queued > 0; token++) {
        struct mesh_message other;
        grant(f, 0, 1, token, 8);
        while (fixture_sent(f, 0, MESH_ASSIGN, &other))
            result_after(f, 0, &other, MESH_DONE, other.body.assign.count * SECOND_US / 100);
    }
    assert_int_equal(view(f, 1).assigned, 2);
    fixture_run(f, 2500);
    grant(f, 1, 1, 8, 1);
    const struct mesh_message copy = assigned(f, 1);
    assert_int_equal(copy.body.assign.count, 2);
    struct mesh_message half = {.kind = MESH_RESULT};
    half.body.result.name = copy.body.assign.name;
    half.body.result.job = copy.body.assign.job;
    half.body.result.epoch = 1;
    half.body.result.count = 2;
    half.body.result.handle = fixture_handle(f);
    half.body.result.shard[0].shard = copy.body.assign.shard[0];
    half.body.result.shard[0].outcome = MESH_DONE;
    half.body.result.shard[1].shard = copy.body.assign.shard[1];
    half.body.result.shard[1].outcome = MESH_RETURNED;
    fixture_clear(f);
    fixture_message(f, 1, &half);
    assert_int_equal(saved_commits(f), 1);
    assert_false(sent(f, 0, MESH_RESULT_ACK)); /* it has still something to bring */
    assert_int_equal(view(f, 1).assigned, 1);
    result_after(f, 0, &first, MESH_DONE, SECOND_US);
    assert_int_equal(saved_commits(f), 1);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    assert_int_equal(mesh_counters(f->mesh)->results_duplicate, 1);
    fixture_close(f);
}

/* It came before a place was found. */
static void a_slow_bundle_that_reports_needs_no_place_any_more(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, SECOND_US);
    submit_slow(f, 1, 2);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    fixture_run(f, 4000);
    fixture_clear(f);
    result_after(f, 0, &first, MESH_DONE, SECOND_US);
    result_after(f, 0, &second, MESH_DONE, SECOND_US);
    grant(f, 1, 1, 8, 2);
    assert_int_equal(released(f, 1), 2);
    assert_int_equal(mesh_counters(f->mesh)->copies, 0);
    fixture_close(f);
}

static void queued_shards_are_bound_before_copies(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 8, 0, SECOND_US);
    submit_slow(f, 1, 2);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message first = assigned(f, 0);
    fixture_run(f, 4000);
    grant(f, 1, 1, 8, 2);
    assert_int_not_equal(assigned(f, 1).body.assign.shard[0], first.body.assign.shard[0]);
    assert_int_equal(assigned(f, 1).body.assign.shard[0], first.body.assign.shard[0]);
    fixture_close(f);
}

/* Beyond the table the kernel that was used longest ago is forgotten, and learnt again. */
static void kernels_are_remembered_within_a_bound(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 8, .jobs = 64, .shards = 8192, .bundles = 64, .attempts = 8, .demands = 8};
    for (uint32_t more = MESH_USUAL_KERNELS - 1; more <= MESH_USUAL_KERNELS; more++) {
        struct fixture *const f = fixture_open_limits(2, &limits, NULL);
        fixture_capacity(f, 0, 2, 2, 0);
        fixture_capacity(f, 1, 2, 2, 0);
        train(f, 200, 5, 0, SECOND_US);
        for (uint32_t i = 0; i < more; i++) {
            struct mesh_job_spec spec = slow_spec((uint8_t)(100 + i), 1);
            spec.kernel = 100 + i;
            submit_spec(f, &spec);
            grant(f, 0, (uint8_t)(100 + i), 500 + i, 1);
            const struct mesh_message bundle = assigned(f, 0);
            result_after(f, 0, &bundle, MESH_DONE, SECOND_US);
        }
        submit_slow(f, 1, 1);
        grant(f, 0, 1, 7, 1);
        fixture_clear(f);
        fixture_run(f, 5000);
        assert_int_equal(sent(f, 1, MESH_RESERVE), more == MESH_USUAL_KERNELS - 1);
        fixture_close(f);
    }
}

/* What a peer claims of device time is believed within bounds. */
static void absurd_device_times_do_no_harm(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    train(f, 9, 6, 1, UINT64_MAX);
    train(f, 8, 6, 1000000000, UINT64_MAX);
    train(f, 7, 6, 0, UINT64_MAX);
    train(f, 6, 6, 0, 0);
    train(f, 5, 60, 0, UINT64_MAX); /* 60 hours: no more is saved up than one */
    struct mesh_job_spec spec = slow_spec(1, 1);
    spec.shard_us_guess = 1000000000;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    fixture_run(f, 10000);
    assert_int_equal(mesh_counters(f->mesh)->copies, 0);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_for_a_slow_bundle_is_asked_for_elsewhere),
        cmocka_unit_test(the_copy_wins_and_the_first_attempt_is_stopped),
        cmocka_unit_test(the_first_attempt_wins_and_the_copy_is_stopped),
        cmocka_unit_test(who_did_not_hear_that_it_was_overtaken_is_told_when_it_renews),
        cmocka_unit_test(nothing_is_copied_before_the_kernel_is_known),
        cmocka_unit_test(a_job_that_opts_out_is_not_copied),
        cmocka_unit_test(larger_shards_of_a_known_kernel_are_not_slow),
        cmocka_unit_test(what_is_usual_is_the_95th_percentile),
        cmocka_unit_test(a_kernel_that_became_slower_is_learnt_anew),
        cmocka_unit_test(a_short_bundle_may_have_waited_behind_another),
        cmocka_unit_test(the_last_twentieth_of_a_job_is_waited_for_less),
        cmocka_unit_test(copies_stay_within_their_budget),
        cmocka_unit_test(a_copy_that_is_stopped_at_once_costs_next_to_nothing),
        cmocka_unit_test(the_copy_takes_over_when_the_first_attempt_is_given_back),
        cmocka_unit_test(the_copy_takes_over_when_the_first_executor_is_lost),
        cmocka_unit_test(the_copy_takes_over_when_the_first_lease_ends),
        cmocka_unit_test(the_copy_takes_over_when_the_first_grant_is_not_honoured),
        cmocka_unit_test(a_lost_copy_changes_nothing_and_another_may_be_made),
        cmocka_unit_test(a_crash_of_either_attempt_counts),
        cmocka_unit_test(a_rejection_by_the_copy_fails_the_job_and_calls_the_first_attempt_back),
        cmocka_unit_test(a_cancelled_job_calls_both_attempts_back),
        cmocka_unit_test(what_one_attempt_leaves_the_other_brings),
        cmocka_unit_test(a_slow_bundle_that_reports_needs_no_place_any_more),
        cmocka_unit_test(queued_shards_are_bound_before_copies),
        cmocka_unit_test(kernels_are_remembered_within_a_bound),
        cmocka_unit_test(absurd_device_times_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
