/* Bundles at their home: acknowledgements, leases, what a commit says, and attempts that are taken over. */
#include "mesh/internal.h"

#include "mesh_home_fixture.h"

static uint32_t bundles_of(const struct fixture *f)
{
    return pool_in_use(&f->mesh->home.bundle_pool);
}

static struct mesh_message bind_one(struct fixture *f, uint32_t to, uint8_t job, uint64_t token)
{
    grant(f, to, job, token, 1);
    return assigned(f, to);
}

static uint32_t acks_to(struct fixture *f, uint32_t to)
{
    uint32_t count = 0;
    while (sent(f, to, MESH_RESULT_ACK))
        count++;
    return count;
}

static struct fixture *open_with_job(uint32_t peers, uint32_t shards)
{
    struct fixture *const f = open_home(peers);
    struct mesh_job_spec spec = spec_of(1, shards);
    spec.bundle_shards_max = 1;
    for (uint32_t peer = 0; peer < peers; peer++)
        speaks(f, peer, MESH_PROTOCOL_MAX);
    submit_spec(f, &spec);
    return f;
}

static void a_short_bundle_is_acknowledged_at_once_and_a_long_one_later(void **state)
{
    (void)state;
    static const struct {
        uint32_t protocol;
        uint64_t device_us;
        bool later;
    } cases[] = {{2, 10, false}, {2, 3999999, false}, {2, 4000000, true}, {1, 4000000, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_with_job(1, 1);
        speaks(f, 0, cases[i].protocol);
        const struct mesh_message bundle = bind_one(f, 0, 1, 7);
        result_after(f, 0, &bundle, MESH_DONE, cases[i].device_us);
        assert_int_equal(acks_to(f, 0), !cases[i].later);
        struct step step = {.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms + HOME_ACK_MS - 1};
        for (uint32_t due = 0; due < 2; due++, step.now_ms++) { /* and nothing else is sent */
            f->out->send_count = 0;
            acks_tick(&step);
            assert_int_equal(f->out->send_count, due && cases[i].later);
        }
        assert_int_equal(pool_in_use(&f->mesh->home.ack_pool), 0);
        fixture_close(f);
    }
}

/* With whatever goes to a member anyway go all that wait for it, and no other's. */
static void acknowledgements_go_with_company(void **state)
{
    (void)state;
    struct fixture *const f = open_with_job(2, 9);
    struct mesh_message bundle[4];
    for (uint32_t i = 0; i < 4; i++)
        bundle[i] = bind_one(f, i / 2, 1, 10 + i);
    for (uint32_t i = 0; i < 4; i++) {
        fixture_run(f, 100);
        result_after(f, i / 2, &bundle[i], MESH_DONE, HOME_ACK_LATER_US);
    }
    fixture_run(f, 500);
    fixture_clear(f);
    fixture_message(f, 1, &(struct mesh_message){.kind = MESH_PING});
    assert_int_equal(acks_to(f, 1), 2);
    assert_int_equal(acks_to(f, 0), 0);
    assert_int_equal(pool_in_use(&f->mesh->home.ack_pool), 2);
    fixture_message(f, 0, &(struct mesh_message){.kind = MESH_PING});
    assert_int_equal(acks_to(f, 0), 2);
    assert_int_equal(pool_in_use(&f->mesh->home.ack_pool), 0);
    fixture_close(f);
}

static void a_commit_says_whose_results_it_keeps(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_job_spec spec = spec_of(1, 60);
    spec.epoch = 3;
    submit_spec(f, &spec);
    struct job *const job = &f->mesh->home.job[0];
    job->bundle_cap = 3;
    job->shard_ns = 1000000;
    const struct mesh_message bundle = bind_one(f, 1, 1, 7);
    assert_int_equal(bundle.body.assign.count, 3);
    assert_int_equal(bundle.body.assign.epoch, 3);
    assert_int_equal(bundle.body.assign.tenant, spec.tenant);
    assert_int_equal(bundle.body.assign.kernel, spec.kernel);
    struct mesh_message report = {.kind = MESH_RESULT};
    report.body.result.name = bundle.body.assign.name;
    report.body.result.job = spec.id;
    report.body.result.epoch = 3;
    report.body.result.handle = fixture_handle(f);
    report.body.result.device_us = 777;
    report.body.result.count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        report.body.result.shard[i].shard = bundle.body.assign.shard[i];
        report.body.result.shard[i].outcome = i == 1 ? MESH_RETURNED : MESH_DONE;
    }
    fixture_message(f, 1, &report);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_memory_equal(&save.body.commit.job, &spec.id, sizeof spec.id);
    assert_memory_equal(&save.body.commit.executor, &f->peer[1], sizeof f->self);
    assert_int_equal(save.body.commit.epoch, 3);
    assert_int_equal(save.body.commit.device_us, 777);
    assert_int_equal(save.body.commit.handle, report.body.result.handle);
    assert_false(save.body.commit.cached);
    assert_int_equal(save.body.commit.place.index, 0);
    assert_int_equal(save.sequence, 0);
    assert_int_equal(save.body.commit.count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(save.body.commit.shard[i].shard, bundle.body.assign.shard[2 * i]);
        assert_int_equal(save.body.commit.shard[i].place, 2 * i);
    }
    assert_int_equal(mesh_counters(f->mesh)->commits, 2);
    assert_int_equal(mesh_counters(f->mesh)->requeued_returned, 1);
    assert_int_equal(mesh_counters(f->mesh)->assigns, 1);
    assert_int_equal(mesh_counters(f->mesh)->results, 1);
    fixture_close(f);
}

static void an_expired_name_must_be_of_its_job(void **state)
{
    (void)state;
    struct fixture *const f = open_with_job(1, 2);
    const struct mesh_message bundle = bind_one(f, 0, 1, 7);
    for (uint32_t which = 0; which < 4; which++) {
        struct mesh_message expired = {.kind = MESH_EXPIRED};
        expired.body.expired.name = bundle.body.assign.name;
        expired.body.expired.job = fixture_job(which == 0 ? 2 : 1);
        expired.body.expired.epoch = which == 1 ? 2 : 1;
        expired.body.expired.name.index += which == 2; /* not known: its lease may have ended */
        fixture_message(f, 0, &expired);
        assert_int_equal(mesh_counters(f->mesh)->bad_messages, which < 2 ? which + 1 : 2);
        assert_int_equal(bundles_of(f), which < 3);
        assert_int_equal(mesh_counters(f->mesh)->requeued_expired, which == 3);
    }
    fixture_close(f);
}

static struct mesh_message renewal(const struct mesh_message *bundle, uint32_t count)
{
    struct mesh_message renew = {.kind = MESH_RENEW};
    renew.body.renew.count = count;
    for (uint32_t i = 0; i < count; i++)
        renew.body.renew.name[i] = bundle[i].body.assign.name;
    return renew;
}

static void a_renewal_gives_25_s_more_to_each_that_it_names(void **state)
{
    (void)state;
    struct fixture *const f = open_with_job(2, 5);
    struct mesh_message bundle[3], answer;
    for (uint32_t i = 0; i < 3; i++)
        bundle[i] = bind_one(f, 0, 1, 10 + i);
    f->now_ms += 5000;
    struct mesh_message renew = renewal(bundle, 2);
    renew.body.renew.name[renew.body.renew.count++] = (struct mesh_bundle_name){.token = 99};
    fixture_message(f, 0, &renew);
    assert_true(fixture_sent(f, 0, MESH_RENEWED, &answer));
    assert_int_equal(answer.body.renew.count, 2);
    assert_memory_equal(&answer.body.renew.name[1], &bundle[1].body.assign.name,
                        sizeof answer.body.renew.name[1]);
    fixture_message(f, 1, &renew); /* names are those of who runs it */
    assert_false(sent(f, 1, MESH_RENEWED));
    renew.body.renew.count = MESH_RENEW_MAX + 1;
    fixture_message(f, 0, &renew);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    assert_false(sent(f, 0, MESH_RENEWED));
    fixture_run(f, 19999);
    assert_int_equal(view(f, 1).assigned, 3);
    fixture_run(f, 1);
    assert_int_equal(view(f, 1).assigned, 2);
    fixture_run(f, 4999);
    assert_int_equal(view(f, 1).assigned, 2);
    fixture_run(f, 1);
    assert_int_equal(view(f, 1).assigned, 0);
    assert_int_equal(mesh_counters(f->mesh)->requeued_lease, 3);
    assert_int_equal(bundles_of(f), 3); /* their results are welcome for ten minutes */
    fixture_run(f, HOME_ORPHAN_MS - 5001);
    assert_int_equal(bundles_of(f), 3);
    fixture_run(f, 1);
    assert_int_equal(bundles_of(f), 2);
    fixture_run(f, 5000);
    assert_int_equal(bundles_of(f), 0);
    fixture_close(f);
}

static void who_renews_for_a_job_that_is_over_is_told_once(void **state)
{
    (void)state;
    struct fixture *const f = open_with_job(1, 3);
    struct mesh_message bundle[2], cancel;
    for (uint32_t i = 0; i < 2; i++)
        bundle[i] = bind_one(f, 0, 1, 10 + i);
    about_job(f, MESH_CANCEL_JOB, 1);
    fixture_clear(f);
    const struct mesh_message renew = renewal(bundle, 2);
    fixture_message(f, 0, &renew);
    assert_true(fixture_sent(f, 0, MESH_CANCEL, &cancel));
    assert_int_equal(cancel.body.cancel.epoch, 1);
    const struct mesh_id id = fixture_job(1);
    assert_memory_equal(&cancel.body.cancel.job, &id, sizeof id);
    assert_false(sent(f, 0, MESH_CANCEL));
    assert_false(sent(f, 0, MESH_RENEWED));
    fixture_close(f);
}

static void leases_that_end_together_end_in_a_few_steps(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 200, .bundles = 200, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    fixture_capacity(f, 0, 200, 200, 0);
    struct mesh_job_spec spec = spec_of(1, 130);
    spec.bundle_shards_max = 1;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 130);
    assert_int_equal(view(f, 1).assigned, 130);
    static const uint32_t left[] = {66, 2, 0};
    f->now_ms += HOME_LEASE_MS;
    for (uint32_t i = 0; i < 3; i++) {
        fixture_tick(f);
        assert_int_equal(view(f, 1).assigned, left[i]);
        assert_int_equal(f->wake_at_ms == f->now_ms, i < 2);
    }
    assert_int_equal(mesh_counters(f->mesh)->bound_out, 2);
    fixture_close(f);
}

/* ---- Attempts of an earlier home. */

static struct mesh_message report_of(uint64_t token, uint32_t first, uint32_t count)
{
    struct mesh_message report = {.kind = MESH_REPORT};
    report.body.report.name.token = token;
    report.body.report.job = fixture_job(1);
    report.body.report.class = 1;
    report.body.report.count = count;
    for (uint32_t i = 0; i < count; i++)
        report.body.report.shard[i] = first + i;
    return report;
}

static void an_attempt_is_taken_over_with_what_nobody_else_has(void **state)
{
    (void)state;
    struct fixture *const f = open_home(3);
    submit(f, 1, 10);
    struct step step = {.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms};
    const struct {
        uint64_t token;
        uint32_t from, first, count;
        bool taken;
        uint32_t assigned;
    } cases[] = {
        {1, 0, 0, 3, true, 3},  {1, 0, 0, 3, true, 3}, /* the answer was lost */
        {2, 0, 0, 3, false, 3},                        /* the same member */
        {3, 1, 0, 2, false, 3},                        /* some of what another brings */
        {4, 1, 0, 3, true, 3},                         /* a second attempt at the same */
        {5, 2, 0, 3, false, 3},                        /* and no third one */
        {6, 2, 2, 3, true, 5},                         /* what is left of it */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct mesh_message report = report_of(cases[i].token, cases[i].first, cases[i].count);
        const uint32_t member = members_find(f->mesh, &f->peer[cases[i].from]);
        if (bundles_adopt(&step, 0, member, &report) != cases[i].taken ||
            view(f, 1).assigned != cases[i].assigned)
            fail_msg("case %zu", i);
        mesh_check(f->mesh);
    }
    assert_int_equal(bundles_of(f), 3);
    assert_int_equal(view(f, 1).queued, 5);
    const struct bundle *const first = &f->mesh->home.bundle[0], *const copy = &f->mesh->home.bundle[1];
    assert_true(copy->copy && copy->other == 1 && first->other == 2);
    assert_int_equal(first->class, 1);
    assert_int_equal(first->due_at_ms, f->now_ms + HOME_LEASE_MS);
    /* What it brings counts as any other's. */
    struct mesh_message bundle = {.kind = MESH_ASSIGN};
    bundle.body.assign.name = copy->name;
    bundle.body.assign.job = fixture_job(1);
    bundle.body.assign.epoch = 1;
    bundle.body.assign.count = 3;
    memcpy(bundle.body.assign.shard, copy->shard, 3 * sizeof copy->shard[0]);
    result(f, 1, &bundle, MESH_DONE);
    assert_int_equal(view(f, 1).committed, 3);
    fixture_close(f);
}

static void each_executor_is_told_once_who_the_home_is(void **state)
{
    (void)state;
    struct fixture *const f = open_with_job(3, 9);
    for (uint32_t i = 0; i < 4; i++)
        bind_one(f, i / 2, 1, 10 + i);
    struct step step = {.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms};
    f->out->send_count = 0;
    bundles_tell_home(&step, 0, &f->peer[2]);
    assert_int_equal(f->out->send_count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const struct mesh_message *const message = &f->out->send[i].message;
        assert_int_equal(message->kind, MESH_HAND_OVER);
        assert_true(message->body.hand_over.done);
        assert_int_equal(message->body.hand_over.epoch, 1);
        assert_memory_equal(&message->body.hand_over.home, &f->peer[2], sizeof f->self);
        assert_memory_equal(&f->out->send[i].to, &f->peer[i], sizeof f->self);
    }
    f->out->send_count = 0;
    bundles_tell_home(&step, 0, &f->peer[0]); /* another time it is news again */
    assert_int_equal(f->out->send_count, 2);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_bundle_is_acknowledged_at_once_and_a_long_one_later),
        cmocka_unit_test(acknowledgements_go_with_company),
        cmocka_unit_test(a_commit_says_whose_results_it_keeps),
        cmocka_unit_test(an_expired_name_must_be_of_its_job),
        cmocka_unit_test(a_renewal_gives_25_s_more_to_each_that_it_names),
        cmocka_unit_test(who_renews_for_a_job_that_is_over_is_told_once),
        cmocka_unit_test(leases_that_end_together_end_in_a_few_steps),
        cmocka_unit_test(an_attempt_is_taken_over_with_what_nobody_else_has),
        cmocka_unit_test(each_executor_is_told_once_who_the_home_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
