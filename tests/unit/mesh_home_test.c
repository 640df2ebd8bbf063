/* The home's side, one core with executors that the test plays. */
#include "mesh_home_fixture.h"

static void a_submit_is_acknowledged_with_its_save(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    struct mesh_save save;
    assert_int_equal(submit(f, 1, 8), MESH_ACCEPTED);
    assert_true(fixture_saved(f, MESH_SAVE_JOB, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_RUNNING);
    assert_int_equal(submit(f, 1, 8), MESH_ACCEPTED); /* again: the same job */
    assert_false(fixture_saved(f, MESH_SAVE_JOB, &save));
    assert_int_equal(view(f, 1).queued, 8);
    fixture_close(f);
}

static void a_submit_beyond_a_bound_is_refused(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 100, .bundles = 4, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(0, &limits, NULL);
    assert_int_equal(submit(f, 1, 0), MESH_REFUSED_EMPTY);
    assert_int_equal(submit(f, 1, 101), MESH_REFUSED_TOO_LARGE);
    assert_int_equal(submit(f, 1, 60), MESH_ACCEPTED);
    assert_int_equal(submit(f, 2, 41), MESH_REFUSED_BUSY);
    assert_int_equal(mesh_counters(f->mesh)->bound_shards, 1);
    assert_int_equal(submit(f, 2, 40), MESH_ACCEPTED);
    assert_int_equal(submit(f, 3, 1), MESH_REFUSED_BUSY);
    assert_int_equal(mesh_counters(f->mesh)->bound_jobs, 1);
    about_job(f, MESH_FORGET_JOB, 1); /* runs: not forgotten */
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    about_job(f, MESH_CANCEL_JOB, 1);
    about_job(f, MESH_FORGET_JOB, 1);
    fixture_clear(f);
    assert_int_equal(submit(f, 3, 60), MESH_ACCEPTED);
    fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
    about_job(f, MESH_CANCEL_JOB, 2);
    about_job(f, MESH_FORGET_JOB, 2);
    fixture_clear(f);
    assert_int_equal(submit(f, 4, 1), MESH_REFUSED_DRAINING);
    assert_int_equal(submit(f, 3, 60), MESH_ACCEPTED); /* known: the same answer */
    fixture_close(f);
}

static void ranges_are_used_again_in_any_order(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 16, .shards = 160, .bundles = 4, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(0, &limits, NULL);
    uint32_t random = 7;
    bool there[16] = {false};
    for (uint32_t i = 0; i < 2000; i++) {
        random = random * 1664525 + 1013904223;
        const uint8_t job = random >> 16 & 15;
        if (there[job]) {
            about_job(f, MESH_CANCEL_JOB, job);
            about_job(f, MESH_FORGET_JOB, job);
            there[job] = false;
        } else {
            there[job] = submit(f, job, 1 + (random >> 8) % 30) == MESH_ACCEPTED;
        }
        fixture_clear(f);
    }
    for (uint8_t job = 0; job < 16; job++) {
        about_job(f, MESH_CANCEL_JOB, job);
        about_job(f, MESH_FORGET_JOB, job);
    }
    fixture_clear(f);
    assert_int_equal(submit(f, 1, 160), MESH_ACCEPTED);
    fixture_close(f);
}

static void look_up_as(struct fixture *f, const struct mesh_effect *ask, uint64_t epoch, uint8_t pattern,
                       uint8_t later)
{
    struct mesh_event event = {.kind = MESH_LOOKED_UP};
    event.body.looked_up.job = ask->body.lookup.job;
    event.body.looked_up.epoch = epoch;
    event.body.looked_up.first = ask->body.lookup.first;
    event.body.looked_up.count = ask->body.lookup.count;
    event.body.looked_up.handle = fixture_handle(f);
    memset(event.body.looked_up.hit, pattern, sizeof event.body.looked_up.hit);
    memset(event.body.looked_up.later, later, sizeof event.body.looked_up.later);
    fixture_step(f, &event);
}

static void look_up(struct fixture *f, const struct mesh_effect *ask, uint64_t epoch, uint8_t pattern)
{
    look_up_as(f, ask, epoch, pattern, 0);
}

static void look_up_part(struct fixture *f, const struct mesh_effect *ask, uint8_t pattern, uint8_t later)
{
    look_up_as(f, ask, 1, pattern, later);
}

/* Some shards' results are being computed elsewhere: the others need not wait for them. */
static void a_look_up_may_be_answered_in_parts(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    struct mesh_job_spec spec = spec_of(1, 2000);
    spec.lookup = true;
    assert_int_equal(submit_spec(f, &spec), MESH_ACCEPTED);
    struct mesh_effect ask[4];
    assert_true(fixture_did(f, MESH_LOOKUP, &ask[0]));
    assert_true(fixture_did(f, MESH_LOOKUP, &ask[1]));
    const uint32_t handles = f->live_count;
    look_up_part(f, &ask[0], 0xaa, 0x55); /* every second is told, and a hit; what is both is later */
    assert_int_equal(saved_commits(f), 512);
    assert_int_equal(view(f, 1).looking_up, 2000 - 512);
    look_up_part(f, &ask[0], 0xff, 0x01); /* what was told is passed over; of eight one is still to come */
    assert_int_equal(saved_commits(f), 384);
    assert_int_equal(view(f, 1).looking_up, 2000 - 512 - 384);
    fixture_clear(f);
    look_up_part(f, &ask[0], 0x00, 0x00); /* the rest was not to be had */
    assert_false(decided(f, MESH_WHY_CACHED));
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(view(f, 1).looking_up, 2000 - 1024);
    assert_int_equal(view(f, 1).cached, 896);
    assert_int_equal(view(f, 1).queued, 128);
    look_up_part(f, &ask[1], 0xff, 0x00);
    assert_int_equal(view(f, 1).looking_up, 0);
    assert_int_equal(view(f, 1).cached, 896 + 976);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

static void look_ups_are_bounded_and_their_hits_committed(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    struct mesh_job_spec spec = spec_of(1, 5000);
    spec.lookup = true;
    assert_int_equal(submit_spec(f, &spec), MESH_ACCEPTED);
    struct mesh_effect ask[8];
    uint32_t asks = 0;
    while (fixture_did(f, MESH_LOOKUP, &ask[asks]))
        asks++;
    assert_int_equal(asks, MESH_LOOKUPS_IN_FLIGHT);
    for (uint32_t i = 0; i < asks; i++)
        assert_int_equal(ask[i].body.lookup.count, MESH_LOOKUP_SHARDS_MAX);
    const uint32_t handles = f->live_count;
    look_up(f, &ask[0], 2, 0xff); /* another epoch */
    assert_int_equal(saved_commits(f), 0);
    look_up(f, &ask[0], 1, 0x55);
    assert_int_equal(saved_commits(f), 512);
    look_up(f, &ask[0], 1, 0xff); /* answered before */
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(view(f, 1).queued, 512);
    assert_int_equal(view(f, 1).cached, 512);
    look_up(f, &ask[1], 1, 0xff);
    look_up(f, &ask[2], 1, 0xff);
    look_up(f, &ask[3], 1, 0);
    assert_true(fixture_did(f, MESH_LOOKUP, &ask[4]));
    assert_int_equal(ask[4].body.lookup.count, 5000 - 4096);
    look_up(f, &ask[4], 1, 0xff);
    assert_false(fixture_did(f, MESH_LOOKUP, &ask[5]));
    assert_int_equal(view(f, 1).looking_up, 0);
    assert_int_equal(view(f, 1).committed, 512 + 2048 + 904);
    assert_int_equal(f->live_count, handles);
    about_job(f, MESH_CANCEL_JOB, 1);
    look_up(f, &ask[4], 1, 0xff);
    fixture_close(f);
}

static void a_job_all_cached_is_done_at_once(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    struct mesh_job_spec spec = spec_of(1, 10);
    struct mesh_effect ask;
    struct mesh_save save;
    spec.lookup = true;
    submit_spec(f, &spec);
    assert_true(fixture_did(f, MESH_LOOKUP, &ask));
    look_up(f, &ask, 1, 0xff);
    assert_true(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_true(save.body.commit.cached);
    assert_int_equal(save.body.commit.count, 10);
    assert_memory_equal(&save.body.commit.job, &spec.id, sizeof spec.id);
    assert_memory_equal(&save.body.commit.executor, &f->self, sizeof f->self);
    assert_int_equal(save.body.commit.epoch, 1);
    assert_int_equal(save.body.commit.handle, f->handles); /* what came with the answer */
    assert_int_equal(save.body.commit.place.index, 0);
    assert_int_equal(save.sequence, 0);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(save.body.commit.shard[i].shard, i);
        assert_int_equal(save.body.commit.shard[i].place, i);
    }
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_memory_equal(&save.body.job.id, &spec.id, sizeof spec.id);
    assert_int_equal(save.body.job.epoch, 1);
    assert_int_equal(save.body.job.state, MESH_JOB_DONE);
    assert_int_equal(mesh_counters(f->mesh)->cache_hits, 10);
    assert_int_equal(mesh_counters(f->mesh)->commits, 10);
    struct mesh_effect told;
    assert_true(fixture_did(f, MESH_DECISION, &told));
    assert_int_equal(told.body.decision.why, MESH_WHY_CACHED);
    assert_int_equal(told.body.decision.count, 10);
    assert_memory_equal(&told.body.decision.member, &f->self, sizeof f->self);
    assert_true(fixture_did(f, MESH_JOB, &ask));
    fixture_close(f);
}

static void shards_bind_only_on_a_grant_and_the_rest_is_released(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_message message;
    submit(f, 1, 3);
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &message));
    assert_int_equal(message.body.reserve.wanted, 3);
    assert_false(message.body.reserve.deep); /* nothing is known of the shards */
    assert_false(sent(f, 0, MESH_ASSIGN));
    grant(f, 0, 1, 77, 2);
    assert_int_equal(assigned(f, 0).body.assign.name.index, 0);
    const struct mesh_message second = assigned(f, 0);
    assert_int_equal(second.body.assign.name.index, 1);
    assert_int_equal(second.body.assign.count, 1);
    assert_int_equal(released(f, 0), 0);
    grant(f, 0, 1, 78, 4);
    assert_int_equal(assigned(f, 0).body.assign.shard[0], 2);
    assert_int_equal(released(f, 0), 3);
    grant(f, 0, 9, 79, 2); /* a job that nobody knows */
    assert_int_equal(released(f, 0), 2);
    grant(f, 0, 1, 80, UINT16_MAX);
    assert_int_equal(released(f, 0), UINT16_MAX);
    message = (struct mesh_message){.kind = MESH_GRANT};
    message.body.grant.places = 1;
    message.body.grant.class = MESH_DEVICE_CLASSES;
    fixture_message(f, 0, &message);
    message.body.grant.class = 0;
    message.body.grant.places = 0;
    message.body.grant.token = 83;
    fixture_message(f, 0, &message);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 2);
    about_job(f, MESH_CANCEL_JOB, 1);
    grant(f, 0, 1, 81, 2);
    assert_int_equal(released(f, 0), 2);
    fixture_close(f);
}

/* Found by the soak: the second use of a name was reported with the shards of the first. */
static void a_repeated_grant_binds_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 4);
    grant(f, 0, 1, 7, 2);
    assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    grant(f, 0, 1, 7, 2);
    assert_false(sent(f, 0, MESH_ASSIGN));
    assert_int_equal(released(f, 0), 0);
    result(f, 0, &second, MESH_DONE);
    grant(f, 0, 1, 7, 2); /* also when the name is free again */
    assert_false(sent(f, 0, MESH_ASSIGN));
    assert_int_equal(view(f, 1).queued, 2);
    fixture_close(f);
}

/* A copy that comes after more grants than are remembered once bound the place still in use to a second bundle. */
static void a_grant_repeated_late_spares_the_places_in_use(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_job_spec spec = spec_of(1, 100);
    spec.bundle_shards_max = 1;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    assigned(f, 0);
    result(f, 0, &first, MESH_DONE);
    for (uint64_t token = 100; token < 120; token++) {
        grant(f, 0, 1, token, 1);
        const struct mesh_message later = assigned(f, 0);
        result(f, 0, &later, MESH_DONE);
    }
    assert_true(view(f, 1).queued > 0);
    grant(f, 0, 1, 7, 2);
    assert_false(sent(f, 0, MESH_ASSIGN));
    assert_int_equal(released(f, 0), 0);
    fixture_close(f);
}

static void a_result_is_committed_and_acknowledged_in_one_step(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 2);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    const uint32_t handles = f->live_count;
    result(f, 0, &first, MESH_DONE);
    assert_int_equal(saved_commits(f), 1);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    result(f, 0, &first, MESH_DONE); /* the acknowledgement was lost */
    assert_int_equal(saved_commits(f), 0);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(mesh_counters(f->mesh)->results_duplicate, 1);
    struct mesh_message old = second;
    old.body.assign.job = fixture_job(9);
    result(f, 0, &old, MESH_DONE);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 1);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    result(f, 0, &second, MESH_DONE);
    assert_int_equal(saved_commits(f), 1);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_DONE);
    assert_int_equal(view(f, 1).committed, 2);
    assert_int_equal(f->live_count, handles);
    result(f, 0, &second, MESH_DONE);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 2);
    about_job(f, MESH_FORGET_JOB, 1);
    result(f, 0, &second, MESH_DONE);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 3);
    fixture_close(f);
}

/* A grant that came before home restarted, and again after: the executor answers the name with what it ran under it
 * first. That is no result of the new epoch, and nobody runs the bundle; its shards once waited for the lease to end. */
static void a_result_of_an_earlier_epoch_gives_its_shards_to_others(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 2);
    grant(f, 0, 1, 7, 2);
    struct mesh_message old = assigned(f, 0);
    const uint32_t count = old.body.assign.count;
    old.body.assign.epoch = 0;
    const uint32_t queued = view(f, 1).queued;
    result(f, 0, &old, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 1);
    assert_int_equal(view(f, 1).queued, queued + count);
    assert_int_equal(view(f, 1).committed, 0);
    fixture_close(f);
}

static void a_result_must_be_what_was_assigned_to_who_reports_it(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 3);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message mine = assigned(f, 0);
    result(f, 1, &mine, MESH_DONE); /* another member with that name */
    assert_int_equal(saved_commits(f), 0);
    struct mesh_message forged = mine;
    forged.body.assign.shard[0] = 2;
    result(f, 0, &forged, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    assert_int_equal(view(f, 1).queued, 3);
    grant(f, 0, 1, 8, 1);
    forged = assigned(f, 0);
    result(f, 0, &forged, MESH_REJECTED + 1);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 2);
    forged.body.assign.shard[0] = UINT32_MAX;
    result(f, 0, &forged, MESH_DONE);
    struct mesh_message huge = {.kind = MESH_RESULT};
    huge.body.result.count = MESH_BUNDLE_SHARDS_MAX + 1;
    fixture_message(f, 0, &huge);
    huge.body.result.count = 0;
    fixture_message(f, 0, &huge);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 4);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(view(f, 1).queued, 3);
    fixture_close(f);
}

static void returned_shards_come_next_and_are_not_blamed(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 5);
    for (uint64_t i = 0; i < 10; i++) {
        grant(f, 0, 1, 100 + i, 1);
        const struct mesh_message bundle = assigned(f, 0);
        assert_int_equal(bundle.body.assign.shard[0], 0);
        result(f, 0, &bundle, MESH_RETURNED);
    }
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    assert_int_equal(view(f, 1).reassigned, 10);
    assert_int_equal(mesh_counters(f->mesh)->requeued_returned, 10);
    fixture_close(f);
}

static uint32_t delivered_permille(struct fixture *f)
{
    struct mesh_member_view member;
    assert_true(mesh_member_find(f->mesh, &f->peer[0], &member));
    return member.delivered_permille;
}

/* Its slots count for less where owners take them back again and again, and for more with each bundle that it ends. */
static void a_member_that_gives_shards_back_delivers_less(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 5);
    grant(f, 0, 1, 100, 1);
    const struct mesh_message bundle = assigned(f, 0);
    const uint32_t before = delivered_permille(f);
    result(f, 0, &bundle, MESH_RETURNED);
    assert_int_equal(delivered_permille(f), before * 7 / 8);
    for (uint64_t i = 0; i < 50; i++) {
        grant(f, 0, 1, 101 + i, 1);
        const struct mesh_message again = assigned(f, 0);
        result(f, 0, &again, MESH_RETURNED);
    }
    assert_true(delivered_permille(f) < 50 &&
                view(f, 1).state == MESH_JOB_RUNNING); /* the least is asked still */
    fixture_close(f);
}

static void the_story_tells_how_a_bundle_ended(void **state)
{
    (void)state;
    static const struct {
        uint32_t outcome;
        enum mesh_reason why;
    } cases[] = {{MESH_DONE, MESH_WHY_DONE},
                 {MESH_RETURNED, MESH_WHY_RETURNED},
                 {MESH_CRASHED, MESH_WHY_CRASHED},
                 {MESH_REJECTED, MESH_WHY_REJECTED}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture *const f = open_home(1);
        submit(f, 1, 5);
        grant(f, 0, 1, 100, 1);
        const struct mesh_message bundle = assigned(f, 0);
        fixture_clear(f);
        result(f, 0, &bundle, cases[i].outcome);
        struct mesh_effect effect;
        uint32_t told = 0;
        while (fixture_did(f, MESH_DECISION, &effect)) {
            const enum mesh_reason why = effect.body.decision.why;
            for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
                if (why != cases[j].why)
                    continue;
                assert_int_equal(why, cases[i].why);
                assert_int_equal(effect.body.decision.count, 1);
                assert_int_equal(effect.body.decision.shard, bundle.body.assign.shard[0]);
                assert_memory_equal(&effect.body.decision.member, &f->peer[0], sizeof f->self);
                told++;
            }
        }
        assert_int_equal(told, 1);
        fixture_close(f);
    }
}

static void the_third_crash_of_a_shard_fails_its_job(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_job_spec spec = spec_of(1, 8);
    spec.shard_us_guess = 1000; /* several shards per bundle */
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    assert_true(bundle.body.assign.count > 1);
    result(f, 0, &bundle, MESH_CRASHED);
    grant(f, 0, 1, 8, 1);
    const struct mesh_message alone = assigned(f, 0);
    assert_int_equal(alone.body.assign.count, 1); /* suspects travel alone */
    assert_int_equal(alone.body.assign.shard[0], 0);
    result(f, 0, &alone, MESH_CRASHED);
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    grant(f, 0, 1, 9, 1);
    struct mesh_message last = assigned(f, 0);
    fixture_clear(f);
    result(f, 0, &last, MESH_CRASHED);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_FAILED);
    assert_int_equal(save.body.job.failed_shard, 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_FAILED);
    fixture_close(f);
}

static void a_rejection_fails_the_job_with_its_reason(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 4);
    fixture_clear(f);
    grant(f, 0, 1, 7, 1);
    grant(f, 1, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    const struct mesh_message other = assigned(f, 1);
    result(f, 0, &bundle, MESH_REJECTED);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_FAILED);
    assert_int_equal(save.body.job.handle, f->handles);
    assert_true(sent(f, 1, MESH_CANCEL));
    result(f, 1, &other, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 1);
    fixture_close(f);
}

static void a_lease_ends_after_25_s_and_a_late_result_still_counts(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 2);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    fixture_run(f, 20000);
    struct mesh_message renew = {.kind = MESH_RENEW};
    renew.body.renew.count = 2;
    renew.body.renew.name[0] = second.body.assign.name;
    renew.body.renew.name[1].token = 99; /* unknown: left out */
    fixture_message(f, 0, &renew);
    struct mesh_message renewed;
    assert_true(fixture_sent(f, 0, MESH_RENEWED, &renewed));
    assert_int_equal(renewed.body.renew.count, 1);
    fixture_run(f, 4999);
    assert_int_equal(view(f, 1).queued, 0);
    fixture_run(f, 1);
    assert_int_equal(view(f, 1).queued, 1);
    assert_int_equal(mesh_counters(f->mesh)->requeued_lease, 1);
    grant(f, 1, 1, 7, 1);
    const struct mesh_message again = assigned(f, 1);
    assert_int_equal(again.body.assign.shard[0], first.body.assign.shard[0]);
    result(f, 0, &first, MESH_DONE); /* first writer wins */
    assert_int_equal(saved_commits(f), 1);
    result(f, 1, &again, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(mesh_counters(f->mesh)->results_duplicate, 1);
    result(f, 0, &second, MESH_DONE);
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    renew.body.renew.count = MESH_RENEW_MAX + 1;
    fixture_message(f, 0, &renew);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    fixture_close(f);
}

static void a_late_result_takes_its_shards_out_of_the_queue(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 3);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message first = assigned(f, 0);
    const struct mesh_message second = assigned(f, 0);
    fixture_run(f, 25000);
    assert_int_equal(view(f, 1).queued, 3);
    result(f, 0, &second, MESH_DONE);
    assert_int_equal(view(f, 1).queued, 2);
    result(f, 0, &first, MESH_CRASHED); /* no longer its to fail */
    assert_int_equal(view(f, 1).queued, 2);
    grant(f, 0, 1, 8, 1);
    assert_int_equal(assigned(f, 0).body.assign.shard[0], 0);
    fixture_close(f);
}

static void an_orphan_that_renews_is_adopted(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 1);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    fixture_run(f, 25000);
    assert_int_equal(view(f, 1).queued, 1);
    struct mesh_message renew = {.kind = MESH_RENEW};
    renew.body.renew.count = 1;
    renew.body.renew.name[0] = bundle.body.assign.name;
    fixture_message(f, 0, &renew);
    assert_true(sent(f, 0, MESH_RENEWED));
    assert_int_equal(view(f, 1).queued, 0);
    assert_int_equal(view(f, 1).assigned, 1);
    fixture_run(f, 24999);
    assert_int_equal(view(f, 1).assigned, 1);
    fixture_run(f, 1);
    assert_int_equal(view(f, 1).queued, 1);
    fixture_close(f);
}

static void an_expired_grant_queues_its_shards_again(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 1);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    struct mesh_message expired = {.kind = MESH_EXPIRED};
    expired.body.expired.name = bundle.body.assign.name;
    expired.body.expired.job = bundle.body.assign.job;
    expired.body.expired.epoch = 1;
    fixture_message(f, 1, &expired); /* not its bundle */
    assert_int_equal(view(f, 1).queued, 0);
    expired.body.expired.epoch = 2;
    fixture_message(f, 0, &expired);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    expired.body.expired.epoch = 1;
    fixture_message(f, 0, &expired);
    fixture_message(f, 0, &expired);
    assert_int_equal(view(f, 1).queued, 1);
    assert_int_equal(mesh_counters(f->mesh)->requeued_expired, 1);
    fixture_close(f);
}

static void a_restarted_executor_lost_its_attempts(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 2);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    f->incarnation[0] = 2;
    fixture_member(f, 0, 555, 2);
    assert_int_equal(view(f, 1).queued, 2);
    assert_int_equal(mesh_counters(f->mesh)->requeued_restart, 1);
    assert_true(decided(f, MESH_WHY_RESTARTED));
    result(f, 0, &bundle, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    fixture_close(f);
}

static void a_dead_executor_gives_up_its_shards(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 2);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    f->silent[0] = true;
    fixture_run(f, 8000);
    struct mesh_record alert = {.kind = MESH_RECORD_ALERT}; /* the other observer has lost it, too */
    alert.body.alert.subject = f->peer[0];
    alert.body.alert.subject_incarnation = 1;
    alert.body.alert.accuses = true;
    fixture_record(f, 1, alert);
    fixture_run(f, 4000);
    assert_int_equal(mesh_counters(f->mesh)->requeued_down, 1);
    assert_int_equal(view(f, 1).queued, 2);
    assert_true(decided(f, MESH_WHY_MEMBER_DOWN));
    fixture_clear(f);
    fixture_run(f, 20000);
    assert_false(sent(f, 0, MESH_RESERVE)); /* nothing new goes there */
    assert_true(sent(f, 1, MESH_RESERVE));
    result(f, 0, &bundle, MESH_DONE);
    assert_int_equal(saved_commits(f), 1);
    fixture_close(f);
}

static void a_cancelled_job_is_called_back_everywhere(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 9);
    grant(f, 0, 1, 7, 2);
    grant(f, 1, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    about_job(f, MESH_CANCEL_JOB, 1);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_CANCELLED);
    assert_true(sent(f, 0, MESH_CANCEL));
    assert_true(sent(f, 1, MESH_CANCEL));
    assert_false(sent(f, 0, MESH_CANCEL));
    about_job(f, MESH_CANCEL_JOB, 1);
    assert_false(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    result(f, 0, &bundle, MESH_DONE);
    assert_true(sent(f, 0, MESH_RESULT_ACK));
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 1);
    about_job(f, MESH_FORGET_JOB, 1);
    struct mesh_job_view none;
    assert_false(mesh_job_view(f->mesh, 0, &none));
    fixture_close(f);
}

/* A lost CANCEL is made good by the next RENEW, rather than by the end of the lease. */
static void a_renewal_for_a_job_that_is_over_is_answered_with_cancel(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    submit(f, 1, 9);
    grant(f, 0, 1, 7, 2);
    const struct mesh_message one = assigned(f, 0);
    const struct mesh_message two = assigned(f, 0);
    about_job(f, MESH_CANCEL_JOB, 1);
    assert_true(sent(f, 0, MESH_CANCEL)); /* lost */
    fixture_clear(f);
    struct mesh_message renew = {.kind = MESH_RENEW, .body.renew.count = 2};
    renew.body.renew.name[0] = one.body.assign.name;
    renew.body.renew.name[1] = two.body.assign.name;
    fixture_message(f, 1, &renew); /* not its bundles */
    assert_false(sent(f, 1, MESH_CANCEL));
    fixture_message(f, 0, &renew);
    struct mesh_message cancel;
    assert_true(fixture_sent(f, 0, MESH_CANCEL, &cancel));
    assert_memory_equal(&cancel.body.cancel.job, &one.body.assign.job, sizeof cancel.body.cancel.job);
    assert_int_equal(cancel.body.cancel.epoch, 1);
    assert_false(sent(f, 0, MESH_CANCEL)); /* one for both */
    assert_false(sent(f, 0, MESH_RENEWED));
    about_job(f, MESH_FORGET_JOB, 1);
    fixture_message(f, 0, &renew);
    assert_false(sent(f, 0, MESH_CANCEL)); /* forgotten: the lease ends it */
    fixture_close(f);
}

/* A job of the same id must not take the answers that its predecessor asked for. */
static void a_forgotten_job_goes_when_its_look_ups_are_answered(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    struct mesh_job_spec spec = spec_of(1, 1500);
    spec.lookup = true;
    submit_spec(f, &spec);
    struct mesh_effect ask[2];
    assert_true(fixture_did(f, MESH_LOOKUP, &ask[0]) && fixture_did(f, MESH_LOOKUP, &ask[1]));
    about_job(f, MESH_CANCEL_JOB, 1);
    about_job(f, MESH_FORGET_JOB, 1);
    fixture_clear(f);
    assert_int_equal(submit_spec(f, &spec), MESH_REFUSED_BUSY);
    const uint32_t handles = f->live_count;
    look_up(f, &ask[0], 1, 0xff);
    assert_int_equal(submit_spec(f, &spec), MESH_REFUSED_BUSY);
    look_up(f, &ask[1], 1, 0xff);
    assert_int_equal(f->live_count, handles);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(submit_spec(f, &spec), MESH_ACCEPTED);
    assert_int_equal(view(f, 1).looking_up, 1500);
    fixture_close(f);
}

static void a_restored_job_goes_on_under_its_new_epoch(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_event event = {.kind = MESH_RESTORE};
    const uint8_t committed[2] = {0xff, 0x01};
    event.body.restore.spec = spec_of(1, 12);
    event.body.restore.spec.epoch = 2;
    event.body.restore.committed = committed;
    fixture_step(f, &event);
    assert_int_equal(view(f, 1).committed, 9);
    assert_int_equal(view(f, 1).queued, 3);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB, &save));
    assert_int_equal(save.body.job.epoch, 2);
    struct mesh_effect told;
    assert_true(fixture_did(f, MESH_JOB, &told));
    assert_int_equal(told.body.job.state, MESH_JOB_RUNNING);
    grant(f, 0, 1, 7, 1);
    struct mesh_message bundle = assigned(f, 0);
    assert_int_equal(bundle.body.assign.epoch, 2);
    assert_int_equal(bundle.body.assign.shard[0], 9);
    bundle.body.assign.epoch = 1;
    result(f, 0, &bundle, MESH_DONE);
    assert_int_equal(saved_commits(f), 0);
    assert_int_equal(mesh_counters(f->mesh)->results_stale, 1);
    /* One that was all done when the node died ends at once; one to look up asks only for the rest. */
    const uint8_t all[2] = {0xff, 0xff};
    event.body.restore.spec = spec_of(2, 12);
    event.body.restore.spec.epoch = 2;
    event.body.restore.committed = all;
    fixture_clear(f);
    fixture_step(f, &event);
    assert_int_equal(view(f, 2).state, MESH_JOB_DONE);
    assert_true(fixture_did(f, MESH_JOB, &told) && fixture_did(f, MESH_JOB, &told));
    assert_int_equal(told.body.job.state, MESH_JOB_DONE); /* the host is told so too */
    assert_true(fixture_saved(f, MESH_SAVE_JOB_STATE, &save));
    assert_int_equal(save.body.job.state, MESH_JOB_DONE);
    event.body.restore.spec = spec_of(3, 12);
    event.body.restore.spec.lookup = true;
    event.body.restore.committed = committed;
    fixture_step(f, &event);
    struct mesh_effect ask;
    assert_true(fixture_did(f, MESH_LOOKUP, &ask));
    assert_int_equal(ask.body.lookup.first, 9);
    assert_int_equal(ask.body.lookup.count, 3);
    fixture_close(f);
}

static void bundles_grow_by_doubling_and_shrink_at_the_end(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 2000);
    uint32_t largest = 0;
    uint32_t before = 1;
    uint32_t last = 0;
    for (uint64_t i = 0; view(f, 1).state == MESH_JOB_RUNNING; i++) {
        assert_true(i < 200);
        fixture_clear(f);
        grant(f, 0, 1, 100 + i, 1);
        const struct mesh_message bundle = assigned(f, 0);
        last = bundle.body.assign.count;
        assert_true(last <= before * 2);
        before = last > before ? last : before;
        largest = last > largest ? last : largest;
        result(f, 0, &bundle, MESH_DONE);
    }
    assert_int_equal(largest, MESH_BUNDLE_SHARDS_MAX);
    assert_int_equal(last, 1);
    fixture_close(f);
}

static void long_shards_travel_alone_and_never_wait_behind_another(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_job_spec spec = spec_of(1, 100);
    struct mesh_message reserve;
    spec.shard_us_guess = 2000000;
    submit_spec(f, &spec);
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
    assert_false(reserve.body.reserve.deep);
    grant(f, 0, 1, 7, 1);
    assert_int_equal(assigned(f, 0).body.assign.count, 1);
    spec = spec_of(2, 100);
    spec.shard_us_guess = 1000;
    submit_spec(f, &spec);
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
    assert_true(reserve.body.reserve.deep);
    assert_int_equal(reserve.body.reserve.wanted, 5); /* 20 ms each */
    fixture_close(f);
}

static void a_full_bundle_table_binds_nothing_more(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 100, .bundles = 4, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    fixture_capacity(f, 0, 8, 8, 0);
    submit(f, 1, 50);
    grant(f, 0, 1, 7, 6);
    assert_int_equal(released(f, 0), 2);
    assert_int_equal(mesh_counters(f->mesh)->bound_bundles, 1);
    assert_int_equal(view(f, 1).assigned, 4);
    fixture_run(f, 25000);
    assert_int_equal(view(f, 1).assigned, 0);
    grant(f, 0, 1, 8, 6); /* orphans make room */
    assert_int_equal(view(f, 1).assigned, 4);
    fixture_close(f);
}

/* Home and executor once passed one grant back and forth for ever. */
static void a_full_bundle_table_asks_for_nothing(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 100, .bundles = 4, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    fixture_capacity(f, 0, 4, 4, 0);
    fixture_capacity(f, 1, 4, 4, 0);
    fixture_clear(f);
    submit(f, 1, 50);
    submit(f, 2, 50);
    struct mesh_message reserve;
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 4); /* not 50 */
    fixture_clear(f);
    grant(f, 0, 1, 7, 4);
    const struct mesh_message bundle = assigned(f, 0);
    fixture_run(f, 1000);
    assert_true(fixture_sent(f, 1, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted,
                     0);  /* what the other job had there is withdrawn at its turn */
    grant(f, 1, 2, 8, 1); /* it crossed the withdrawal */
    assert_int_equal(released(f, 1), 1);
    fixture_run(f, 2000);
    fixture_clear(f);
    fixture_run(f, 8000);
    assert_false(sent(f, 0, MESH_RESERVE));
    assert_false(sent(f, 1, MESH_RESERVE));
    /* A bundle is free: one asks at once. */
    result(f, 0, &bundle, MESH_DONE);
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve) || fixture_sent(f, 1, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 1);
    fixture_close(f);
}

static void a_local_job_never_leaves_its_site(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_job_spec spec = spec_of(1, 4);
    spec.local_only = true;
    submit_spec(f, &spec);
    assert_true(decided(f, MESH_WHY_NOBODY));
    fixture_run(f, 6000);
    assert_false(sent(f, 0, MESH_RESERVE));
    grant(f, 0, 1, 7, 2); /* not asked for */
    assert_int_equal(released(f, 0), 2);
    f->incarnation[0] = 2;
    fixture_member(f, 0, 100, 1); /* it moved to our site */
    fixture_capacity(f, 0, 2, 2, 0);
    fixture_run(f, 1000);
    assert_true(sent(f, 0, MESH_RESERVE));
    fixture_close(f);
}

static void demands_are_repeated_and_withdrawn(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    fixture_capacity(f, 0, 2, 0, 2);
    fixture_capacity(f, 1, 2, 0, 2);
    submit(f, 1, 2);
    assert_true(sent(f, 0, MESH_RESERVE));
    assert_true(sent(f, 1, MESH_RESERVE));
    fixture_message(f, 0, &(struct mesh_message){.kind = MESH_WAIT, .body.wait.job = fixture_job(1)});
    assert_true(decided(f, MESH_WHY_WAITS));
    fixture_run(f, 14900);
    assert_false(sent(f, 0, MESH_RESERVE));
    fixture_run(f, 1200);
    assert_true(sent(f, 0, MESH_RESERVE));
    assert_true(sent(f, 1, MESH_RESERVE));
    grant(f, 0, 1, 7, 2);
    struct mesh_message reserve;
    assert_true(fixture_sent(f, 1, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 0);
    assert_true(reserve.body.reserve.patient); /* nothing is expected of it */
    assert_false(sent(f, 0, MESH_RESERVE));    /* nothing stands there */
    fixture_run(f, 20000);
    assert_false(sent(f, 1, MESH_RESERVE));
    fixture_close(f);
}

static void who_has_not_the_kernel_is_not_asked_again_before_a_minute_or_a_restart(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_message reserve;
    submit(f, 1, 2);
    /* The one asked first has another version; the other is asked at once, and nobody is blamed. */
    const uint32_t first = fixture_sent(f, 0, MESH_RESERVE, &reserve) ? 0 : 1;
    sent(f, 1 - first, MESH_RESERVE);
    grant(f, first, 1, 0, 0);
    assert_true(decided(f, MESH_WHY_NO_KERNEL));
    fixture_run(f, 6000);
    assert_true(sent(f, 1 - first, MESH_RESERVE));
    assert_false(sent(f, first, MESH_RESERVE));
    grant(f, 1 - first, 1, 0, 0);
    assert_true(decided(f, MESH_WHY_NO_KERNEL));
    fixture_clear(f);
    fixture_run(f, 2500);
    assert_true(decided(f, MESH_WHY_NOBODY)); /* those who refused are no help */
    for (uint32_t i = 0; i < 9; i++) {
        fixture_run(f, 5000);
        fixture_capacity(f, first, 2, 2, 0); /* news of its places do not matter */
    }
    assert_false(sent(f, first, MESH_RESERVE));
    f->incarnation[first] = 2;
    fixture_member(f, first, 900, 2); /* it was upgraded: a new process */
    fixture_capacity(f, first, 2, 2, 0);
    fixture_run(f, 1100);
    assert_true(sent(f, first, MESH_RESERVE));
    fixture_run(f, 20000);
    assert_true(sent(f, 1 - first, MESH_RESERVE)); /* a minute has passed */
    grant(f, first, 1, 77, 1);
    const struct mesh_message assign = assigned(f, first);
    result(f, first, &assign, MESH_DONE);
    assert_int_equal(mesh_counters(f->mesh)->requeued_crashed, 0);
    assert_int_equal(view(f, 1).state, MESH_JOB_RUNNING);
    fixture_close(f);
}

static void own_slots_come_first(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    fixture_devices(f, 4, 0);
    submit(f, 1, 3);
    assert_true(sent(f, UINT32_MAX, MESH_WISH));
    assert_false(sent(f, 0, MESH_RESERVE)); /* three free here are enough */
    submit(f, 2, 30);
    assert_true(sent(f, UINT32_MAX, MESH_WISH));
    assert_true(sent(f, 0, MESH_RESERVE));
    fixture_close(f);
}

/* What others had comes back while a wish for less stands at home: that is raised at once, and not when it is due. */
static void an_own_wish_grows_with_what_is_needed(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    fixture_devices(f, 1, 0);
    fixture_capacity(f, 0, 16, 16, 0);
    struct mesh_job_spec spec = spec_of(1, 10);
    struct mesh_message wish;
    spec.bundle_shards_max = 1;
    assert_int_equal(submit_spec(f, &spec), MESH_ACCEPTED);
    assert_true(fixture_sent(f, UINT32_MAX, MESH_WISH, &wish));
    assert_int_equal(wish.body.reserve.wanted, 10);
    grant(f, 0, 1, 7, 9);
    fixture_run(f, 16000);
    while (fixture_sent(f, UINT32_MAX, MESH_WISH, &wish))
        assert_int_equal(wish.body.reserve.wanted, 1); /* repeated */
    f->incarnation[0] = 2;
    f->version[0] = 0;
    fixture_member(f, 0, 900, 2);
    fixture_run(f, 1100);
    assert_int_equal(view(f, 1).queued, 10);
    assert_true(fixture_sent(f, UINT32_MAX, MESH_WISH, &wish));
    assert_int_equal(wish.body.reserve.wanted, 10);
    fixture_close(f);
}

static void a_wish_says_how_long_its_job_has_waited(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_message wish;
    fixture_capacity(f, 0, 4, 0, 4);
    fixture_capacity(f, 1, 4, 3, 0);
    speaks(f, 0, MESH_PROTOCOL_MAX);
    speaks(f, 1, MESH_PROTOCOL_MAX);
    submit(f, 1, 9);
    assert_true(fixture_sent(f, 1, MESH_WISH, &wish));
    assert_false(wish.body.reserve.patient); /* what is believed to be free is waited for */
    assert_true(fixture_sent(f, 0, MESH_WISH, &wish));
    assert_true(wish.body.reserve.patient); /* nothing is free there */
    assert_int_equal(wish.body.reserve.waited_ms, 0);
    speaks(f, 0, 1); /* an older program came back under that name */
    fixture_clear(f);
    fixture_run(f, 15000); /* they are repeated */
    assert_true(sent(f, 0, MESH_RESERVE));
    assert_false(sent(f, 0, MESH_WISH));
    assert_true(fixture_sent(f, 1, MESH_WISH, &wish));
    assert_int_equal(wish.body.reserve.waited_ms, 15000);
    fixture_close(f);
}

enum worse { DEAR, FAR, ENDING, UNRELIABLE, BUSY, WORSE };

/* Two members alike but for one thing, in which `worse` is the worse one. */
static void differ(struct fixture *f, enum worse what, uint32_t worse)
{
    for (uint32_t peer = 0; peer < 2; peer++) {
        const bool bad = peer == worse;
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        record.body.capacity.class[0] = (struct mesh_class_capacity){
            .slots = 4, .free = what == BUSY && bad ? 0 : 2, .waiting = what == BUSY && bad ? 9 : 0};
        record.body.capacity.price_micro = what == DEAR && bad ? 90 : 10;
        record.body.capacity.available_until_ms = what == ENDING && bad ? f->now_ms + 100 : 0;
        fixture_record(f, peer, record);
        struct mesh_event event = {.kind = MESH_RECEIVED};
        event.body.received.from = f->peer[peer];
        event.body.received.message = &(struct mesh_message){.kind = MESH_PONG};
        event.body.received.rtt_us = what == FAR && bad ? 150000 : 20000;
        fixture_step(f, &event);
    }
    struct mesh_message reserve;
    if (what == UNRELIABLE) { /* says it has places, and then has none */
        submit(f, 1, 9);
        assert_true(fixture_sent(f, worse, MESH_RESERVE, &reserve));
        struct mesh_message wait = {.kind = MESH_WAIT};
        wait.body.wait.job = fixture_job(1);
        fixture_message(f, worse, &wait);
        about_job(f, MESH_CANCEL_JOB, 1);
        for (uint32_t peer = 0; peer < 2; peer++)
            fixture_capacity(f, peer, 4, 2, 0);
    }
    fixture_clear(f);
}

static void the_choice_weighs_price_distance_owner_reliability_and_queue(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * WORSE; i++) {
        const enum worse what = (enum worse)(i / 2);
        const uint32_t worse = i % 2;
        struct fixture *const f = open_home(2);
        differ(f, what, worse);
        struct mesh_job_spec spec = spec_of(2, 1);
        spec.price_limit_micro = 100;
        spec.shard_us_guess = 2000000;
        submit_spec(f, &spec);
        assert_true(sent(f, 1 - worse, MESH_RESERVE));
        assert_false(sent(f, worse, MESH_RESERVE));
        fixture_close(f);
    }
}

static void a_member_that_has_the_inputs_is_chosen(void **state)
{
    (void)state;
    for (uint32_t with = 0; with < 2; with++) {
        struct fixture *const f = open_home(2);
        struct mesh_job_spec spec = spec_of(1, 2);
        spec.shard_us_guess = 2000000;
        spec.memory_bytes = 100 * 1000 * 1000; /* a second on their way */
        fixture_capacity(f, 1 - with, 0, 0, 0);
        fixture_capacity(f, with, 4, 2, 0);
        submit_spec(f, &spec);
        grant(f, with, 1, 7, 2);
        const struct mesh_message first = assigned(f, with);
        assigned(f, with); /* goes on, and keeps the inputs there */
        fixture_capacity(f, 1 - with, 4, 2, 0);
        fixture_capacity(f, with, 4, 2, 0);
        fixture_capacity(f, with, 4, 2, 0);
        fixture_clear(f);
        result(f, with, &first, MESH_RETURNED);
        assert_true(sent(f, with, MESH_RESERVE));
        assert_false(sent(f, 1 - with, MESH_RESERVE));
        fixture_close(f);
    }
}

static void a_member_whose_workers_hold_the_largest_input_is_chosen(void **state)
{
    (void)state;
    for (uint32_t with = 0; with < 2; with++) {
        struct fixture *const f = open_home(2);
        struct mesh_job_spec spec = spec_of(1, 2);
        spec.shard_us_guess = 2000000;
        spec.memory_bytes = 110 * 1000 * 1000; /* a second on their way */
        spec.broadcast_bytes = 100 * 1000 * 1000;
        spec.broadcast = 0xfeedf00d;
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        record.body.capacity.class[0] = (struct mesh_class_capacity){.slots = 4, .free = 2};
        record.body.capacity.resident_count = 2;
        record.body.capacity.resident[0] = 1;
        record.body.capacity.resident[1] = spec.broadcast;
        fixture_record(f, with, record);
        record.body.capacity.resident_count = 1; /* what stands behind the count says nothing */
        fixture_record(f, 1 - with, record);
        submit_spec(f, &spec);
        assert_true(sent(f, with, MESH_RESERVE));
        assert_false(sent(f, 1 - with, MESH_RESERVE));
        fixture_close(f);
    }
}

/* Bits of device classes; a user's kernel goes to no member that says it would refuse it, a built-in one does. */
static void who_says_that_users_kernels_do_not_run_there_is_not_asked_for_them(void **state)
{
    (void)state;
    static const struct {
        uint16_t lacks, classes;
        bool user, asked;
    } cases[] = {{0, 3, true, true}, {1, 1, true, false}, {1, 3, true, true}, {3, 3, true, false},
                 {2, 1, true, true}, {2, 2, true, false}, {3, 3, false, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = fixture_open(1);
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        record.body.capacity.class[0] = record.body.capacity.class[1] =
            (struct mesh_class_capacity){.slots = 4, .free = 2};
        record.body.capacity.no_users = cases[i].lacks;
        fixture_record(f, 0, record);
        struct mesh_job_spec spec = spec_of(1, 2);
        spec.classes = cases[i].classes;
        spec.kernel = cases[i].user ? mesh_user_kernel(99) : 99;
        submit_spec(f, &spec);
        assert_int_equal(sent(f, 0, MESH_RESERVE), cases[i].asked);
        fixture_close(f);
    }
}

/* The home itself knows what it lacks, too. */
static void a_node_that_runs_no_users_kernels_does_not_ask_itself(void **state)
{
    (void)state;
    const uint64_t kernel = 99;
    for (uint16_t runs = 0; runs < 2; runs++) {
        fixture_user_classes = runs;
        struct fixture *const f = fixture_open_kernel(0, &kernel);
        fixture_devices(f, 2, 0);
        struct mesh_job_spec spec = spec_of(1, 2);
        spec.kernel = mesh_user_kernel(7);
        submit_spec(f, &spec);
        assert_int_equal(sent(f, UINT32_MAX, MESH_WISH), runs);
        fixture_user_classes = 0;
        fixture_close(f);
    }
}

static void nobody_is_said_once_a_second(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    submit(f, 1, 1);
    fixture_run(f, 10000);
    uint32_t said = 0;
    struct mesh_effect effect;
    while (fixture_did(f, MESH_DECISION, &effect))
        said += effect.body.decision.why == MESH_WHY_NOBODY;
    assert_in_range(said, 10, 11);
    fixture_close(f);
}

static void a_draining_home_finishes_its_jobs(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_effect effect;
    submit(f, 1, 1);
    fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
    assert_false(fixture_did(f, MESH_DRAINED, &effect));
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    assert_false(fixture_did(f, MESH_DRAINED, &effect));
    result(f, 0, &bundle, MESH_DONE);
    assert_true(fixture_did(f, MESH_DRAINED, &effect));
    fixture_close(f);
}

/* One that says each of what brings a handle; nothing of it stays with us. */
static void refuse_all_that_is_said(struct fixture *f, const struct mesh_id *from)
{
    const enum mesh_message_kind kinds[] = {MESH_ASSIGN, MESH_ASSIGN_KEPT, MESH_RESULT, MESH_APPEND};
    for (uint32_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const uint32_t live = f->live_count;
        const uint64_t refused = mesh_counters(f->mesh)->bad_messages;
        struct mesh_message message = {.kind = kinds[i]};
        if (kinds[i] == MESH_RESULT)
            message.body.result.handle = fixture_handle(f);
        else if (kinds[i] == MESH_APPEND)
            message.body.append.handle = fixture_handle(f);
        else
            message.body.assign.handle = fixture_handle(f);
        struct mesh_event event = {.kind = MESH_RECEIVED};
        event.body.received.from = *from;
        event.body.received.message = &message;
        fixture_step(f, &event);
        assert_int_equal(f->live_count, live);
        assert_int_equal(mesh_counters(f->mesh)->bad_messages, refused + 1);
        assert_int_equal(f->send_count + f->save_count, 0);
    }
}

static void what_is_refused_gives_its_handle_back(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    const struct mesh_id stranger = {{0xee}};
    refuse_all_that_is_said(f, &stranger);
    struct mesh_record revocation = {.kind = MESH_RECORD_REVOCATION};
    revocation.body.revocation.subject = f->peer[0];
    fixture_record(f, 1, revocation);
    fixture_clear(f);
    refuse_all_that_is_said(f, &f->peer[0]);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_submit_is_acknowledged_with_its_save),
        cmocka_unit_test(a_submit_beyond_a_bound_is_refused),
        cmocka_unit_test(ranges_are_used_again_in_any_order),
        cmocka_unit_test(a_look_up_may_be_answered_in_parts),
        cmocka_unit_test(look_ups_are_bounded_and_their_hits_committed),
        cmocka_unit_test(a_job_all_cached_is_done_at_once),
        cmocka_unit_test(shards_bind_only_on_a_grant_and_the_rest_is_released),
        cmocka_unit_test(a_repeated_grant_binds_nothing),
        cmocka_unit_test(a_grant_repeated_late_spares_the_places_in_use),
        cmocka_unit_test(a_result_is_committed_and_acknowledged_in_one_step),
        cmocka_unit_test(a_result_of_an_earlier_epoch_gives_its_shards_to_others),
        cmocka_unit_test(a_result_must_be_what_was_assigned_to_who_reports_it),
        cmocka_unit_test(returned_shards_come_next_and_are_not_blamed),
        cmocka_unit_test(a_member_that_gives_shards_back_delivers_less),
        cmocka_unit_test(the_story_tells_how_a_bundle_ended),
        cmocka_unit_test(the_third_crash_of_a_shard_fails_its_job),
        cmocka_unit_test(a_rejection_fails_the_job_with_its_reason),
        cmocka_unit_test(a_lease_ends_after_25_s_and_a_late_result_still_counts),
        cmocka_unit_test(a_late_result_takes_its_shards_out_of_the_queue),
        cmocka_unit_test(an_orphan_that_renews_is_adopted),
        cmocka_unit_test(an_expired_grant_queues_its_shards_again),
        cmocka_unit_test(a_restarted_executor_lost_its_attempts),
        cmocka_unit_test(a_dead_executor_gives_up_its_shards),
        cmocka_unit_test(a_cancelled_job_is_called_back_everywhere),
        cmocka_unit_test(a_renewal_for_a_job_that_is_over_is_answered_with_cancel),
        cmocka_unit_test(a_forgotten_job_goes_when_its_look_ups_are_answered),
        cmocka_unit_test(a_restored_job_goes_on_under_its_new_epoch),
        cmocka_unit_test(bundles_grow_by_doubling_and_shrink_at_the_end),
        cmocka_unit_test(long_shards_travel_alone_and_never_wait_behind_another),
        cmocka_unit_test(a_full_bundle_table_binds_nothing_more),
        cmocka_unit_test(a_full_bundle_table_asks_for_nothing),
        cmocka_unit_test(a_local_job_never_leaves_its_site),
        cmocka_unit_test(demands_are_repeated_and_withdrawn),
        cmocka_unit_test(who_has_not_the_kernel_is_not_asked_again_before_a_minute_or_a_restart),
        cmocka_unit_test(own_slots_come_first),
        cmocka_unit_test(an_own_wish_grows_with_what_is_needed),
        cmocka_unit_test(a_wish_says_how_long_its_job_has_waited),
        cmocka_unit_test(the_choice_weighs_price_distance_owner_reliability_and_queue),
        cmocka_unit_test(a_member_that_has_the_inputs_is_chosen),
        cmocka_unit_test(a_member_whose_workers_hold_the_largest_input_is_chosen),
        cmocka_unit_test(who_says_that_users_kernels_do_not_run_there_is_not_asked_for_them),
        cmocka_unit_test(a_node_that_runs_no_users_kernels_does_not_ask_itself),
        cmocka_unit_test(nobody_is_said_once_a_second),
        cmocka_unit_test(a_draining_home_finishes_its_jobs),
        cmocka_unit_test(what_is_refused_gives_its_handle_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
