/* Checks of several shards at once: what each finding leads to, where results are held and where they are committed. */
#include "mesh/internal.h"

#include "mesh_home_fixture.h"

enum { SHARDS = 4 }; /* in the bundle that is looked at; as many wait */

static struct fixture *open_checked(enum mesh_verify verify)
{
    struct fixture *const f = open_home(4);
    struct mesh_job_spec spec = spec_of(1, 2 * SHARDS);
    spec.verify = (uint8_t)verify;
    submit_spec(f, &spec);
    struct job *const job = &f->mesh->home.job[0];
    job->bundle_cap = SHARDS;
    job->shard_ns = 1000;
    return f;
}

/* What the peer is assigned for one place, as if no other place were expected. */
static struct mesh_message assigned_to(struct fixture *f, uint32_t peer, uint64_t token, uint32_t count)
{
    f->mesh->home.job[0].expected = 0;
    for (uint32_t slot = 0; slot < f->mesh->home.ask_pool.fresh; slot++)
        f->mesh->home.ask[slot].expected = 0;
    grant(f, peer, 1, token, 1);
    const struct mesh_message bundle = assigned(f, peer);
    assert_int_equal(bundle.body.assign.count, count);
    return bundle;
}

static uint64_t brings(struct fixture *f, uint32_t from, const struct mesh_message *bundle,
                       const uint32_t *digest)
{
    struct mesh_message message = {.kind = MESH_RESULT};
    message.body.result.name = bundle->body.assign.name;
    message.body.result.job = bundle->body.assign.job;
    message.body.result.epoch = 1;
    message.body.result.handle = fixture_handle(f);
    message.body.result.device_us = 1000 + from;
    message.body.result.count = bundle->body.assign.count;
    for (uint32_t i = 0; i < bundle->body.assign.count; i++) {
        message.body.result.shard[i].shard = bundle->body.assign.shard[i];
        message.body.result.shard[i].outcome = MESH_DONE;
    }
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = f->peer[from];
    event.body.received.message = &message;
    event.body.received.digest = digest;
    fixture_step(f, &event);
    return message.body.result.handle;
}

static void assert_commit(struct fixture *f, uint32_t by, uint64_t handle, uint32_t shard, uint32_t place)
{
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_int_equal(save.body.commit.count, 1);
    assert_memory_equal(&save.body.commit.executor, &f->peer[by], sizeof f->self);
    assert_int_equal(save.body.commit.epoch, 1);
    assert_int_equal(save.body.commit.handle, handle);
    assert_int_equal(save.body.commit.device_us, 1000 + by);
    assert_int_equal(save.body.commit.shard[0].shard, shard);
    assert_int_equal(save.body.commit.shard[0].place, place);
}

static uint32_t shard_of(struct fixture *f, enum mesh_reason why, uint32_t peer)
{
    for (uint32_t i = 0; i < f->effect_count; i++) {
        const struct mesh_effect *const effect = &f->effect[i];
        if (effect->kind == MESH_DECISION && effect->body.decision.why == why &&
            id_equal(&effect->body.decision.member, &f->peer[peer]))
            return 100 * effect->body.decision.count + effect->body.decision.shard;
    }
    return 0;
}

/* The first and the second agree about shard 0; of the others one each is the third's, the first's and nobody's. */
static const uint32_t first_digest[SHARDS] = {11, 12, 13, 14};
static const uint32_t second_digest[SHARDS] = {11, 22, 23, 24};
static const uint32_t third_digest[SHARDS - 1] = {22, 13, 34};

static void a_quorum_commits_each_shard_as_two_of_three_have_it(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(MESH_VERIFY_QUORUM);
    const struct mesh_counters *const counters = mesh_counters(f->mesh);
    const uint32_t live = f->live_count;
    const struct mesh_message one = assigned_to(f, 0, 7, SHARDS);
    const uint64_t first = brings(f, 0, &one, first_digest);
    assert_int_equal(view(f, 1).held, SHARDS);
    assert_int_equal(view(f, 1).checks, 1);
    const struct mesh_message two = assigned_to(f, 1, 8, SHARDS);
    fixture_clear(f);
    const uint64_t second = brings(f, 1, &two, second_digest);
    assert_commit(f, 0, first, one.body.assign.shard[0], 0);
    assert_int_equal(shard_of(f, MESH_WHY_AGREES, 1), 100 + one.body.assign.shard[0]);
    assert_int_equal(shard_of(f, MESH_WHY_DIFFERS, 1), 300 + one.body.assign.shard[1]);
    assert_int_equal(view(f, 1).committed, 1);
    assert_int_equal(view(f, 1).held, 3);
    assert_int_equal(counters->checks_agreed, 1);
    assert_int_equal(counters->checks_differed, 3);
    const uint32_t confirmed[] = {1, 1};
    for (uint32_t peer = 0; peer < 2; peer++) {
        struct mesh_member_view member;
        assert_true(mesh_member_find(f->mesh, &f->peer[peer], &member));
        assert_int_equal(member.confirmed, confirmed[peer]);
    }
    const struct mesh_message three = assigned_to(f, 2, 9, 3);
    assert_memory_equal(three.body.assign.shard, &one.body.assign.shard[1], 3 * sizeof(uint32_t));
    fixture_clear(f);
    brings(f, 2, &three, third_digest);
    assert_commit(f, 0, first, one.body.assign.shard[2], 2);
    assert_commit(f, 1, second, one.body.assign.shard[1], 1);
    assert_int_equal(shard_of(f, MESH_WHY_WRONG, 0), 100 + one.body.assign.shard[1]);
    assert_int_equal(shard_of(f, MESH_WHY_WRONG, 1), 100 + one.body.assign.shard[2]);
    assert_int_equal(shard_of(f, MESH_WHY_UNDECIDED, 0), 100 + one.body.assign.shard[3]);
    assert_int_equal(counters->undecided, 1);
    assert_int_equal(counters->commits, 3);
    assert_int_equal(counters->disputed, 0);
    assert_int_equal(counters->caught, 2);
    assert_int_equal(counters->checks, 2);
    assert_int_equal(counters->checks_us, 1001 + 1002);
    assert_int_equal(view(f, 1).committed, 3);
    assert_int_equal(view(f, 1).held, 0);
    assert_int_equal(view(f, 1).queued, SHARDS + 1); /* it has failed once */
    assert_int_equal(view(f, 1).reassigned, 1);
    assert_int_equal(f->mesh->home.shards.shard[one.body.assign.shard[3]].attempts, 1);
    assert_int_equal(view(f, 1).checks, 0);
    assert_int_equal(f->live_count, live);
    struct mesh_member_view third;
    assert_true(mesh_member_find(f->mesh, &f->peer[2], &third));
    assert_int_equal(third.confirmed, 2);
    fixture_close(f);
}

static void what_is_committed_and_proves_wrong_is_disputed(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(MESH_VERIFY_SPOT);
    const struct mesh_message one = assigned_to(f, 0, 7, SHARDS);
    brings(f, 0, &one, first_digest);
    struct mesh_save save;
    struct mesh_effect effect;
    assert_true(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_int_equal(view(f, 1).committed, SHARDS);
    assert_int_equal(view(f, 1).checks, 1);
    const struct mesh_message two = assigned_to(f, 1, 8, SHARDS);
    brings(f, 1, &two, second_digest);
    const struct mesh_message three = assigned_to(f, 2, 9, 3);
    brings(f, 2, &three, third_digest);
    assert_false(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_true(fixture_saved(f, MESH_SAVE_DISPUTE, &save));
    assert_int_equal(save.body.dispute.count, 2);
    assert_int_equal(save.body.dispute.epoch, 1);
    assert_int_equal(save.body.dispute.shard[0], one.body.assign.shard[1]);
    assert_int_equal(save.body.dispute.shard[1], one.body.assign.shard[3]);
    assert_true(fixture_did(f, MESH_DISPUTED, &effect));
    assert_int_equal(effect.body.disputed.shard, one.body.assign.shard[1]);
    assert_int_equal(effect.body.disputed.count, 2);
    assert_int_equal(mesh_counters(f->mesh)->disputed, 2);
    assert_int_equal(mesh_counters(f->mesh)->undecided, 1);
    assert_int_equal(mesh_counters(f->mesh)->caught, 2);
    uint32_t caught = 0;
    while (fixture_did(f, MESH_QUARANTINED, &effect)) {
        assert_true(effect.body.quarantined.on);
        assert_memory_equal(&effect.body.quarantined.id, &f->peer[caught], sizeof f->self);
        assert_int_equal(effect.body.quarantined.shard, one.body.assign.shard[1 + caught]);
        assert_true(fixture_saved(f, MESH_SAVE_QUARANTINE, &save));
        assert_memory_equal(&save.body.quarantine.id, &f->peer[caught], sizeof f->self);
        assert_int_equal(save.body.quarantine.shard, one.body.assign.shard[1 + caught]);
        caught++;
    }
    assert_int_equal(caught, 2);
    assert_int_equal(view(f, 1).checks, 0);
    assert_int_equal(view(f, 1).committed, SHARDS);
    fixture_close(f);
}

/* Where no third is found nobody is right about any of the shards that differ. */
static void without_a_third_all_that_differ_are_disputed(void **state)
{
    (void)state;
    struct fixture *const f = open_checked(MESH_VERIFY_SPOT);
    const struct mesh_message one = assigned_to(f, 0, 7, SHARDS);
    brings(f, 0, &one, first_digest);
    const struct mesh_message two = assigned_to(f, 1, 8, SHARDS);
    brings(f, 1, &two, second_digest);
    fixture_run(f, MESH_CHECK_PATIENCE_MS + 1000);
    struct mesh_effect effect;
    assert_true(fixture_did(f, MESH_DISPUTED, &effect));
    assert_int_equal(effect.body.disputed.shard, one.body.assign.shard[1]);
    assert_int_equal(effect.body.disputed.count, SHARDS - 1);
    assert_int_equal(mesh_counters(f->mesh)->undecided, SHARDS - 1);
    assert_int_equal(mesh_counters(f->mesh)->caught, 0);
    fixture_close(f);
}

/* A shard about which no two agree is queued again, and a place for it looked for at once. */
static void what_nobody_agrees_about_is_computed_anew(void **state)
{
    (void)state;
    struct fixture *const f = open_home(4);
    struct mesh_job_spec spec = spec_of(1, 1);
    spec.verify = MESH_VERIFY_QUORUM;
    submit_spec(f, &spec);
    for (uint32_t peer = 0; peer < 3; peer++) {
        grant(f, peer, 1, 7 + peer, 1);
        const struct mesh_message bundle = assigned(f, peer);
        fixture_clear(f);
        brings(f, peer, &bundle, &(uint32_t){11 + peer});
        assert_int_equal(view(f, 1).queued, peer == 2);
        assert_int_equal(view(f, 1).checks, peer < 2);
        uint32_t asked = 0; /* each further opinion is looked for at once, too */
        for (uint32_t to = 0; to < 4; to++)
            asked += sent(f, to, MESH_RESERVE);
        assert_true(asked > 0);
    }
    assert_int_equal(mesh_counters(f->mesh)->undecided, 1);
    fixture_close(f);
}

/* A check took one of the places that are believed to be free at a member, as any bundle does. */
static void a_check_gives_one_place_back(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_job_spec spec = spec_of(1, 1);
    spec.verify = MESH_VERIFY_QUORUM;
    submit_spec(f, &spec);
    for (uint32_t peer = 0; peer < 2; peer++) {
        grant(f, peer, 1, 7 + peer, 1);
        const struct mesh_message bundle = assigned(f, peer);
        uint32_t *const debit = members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[peer]))->debit;
        debit[0] += 3;
        const uint32_t before = debit[0];
        brings(f, peer, &bundle, &(uint32_t){11});
        assert_int_equal(debit[0], before - 1);
    }
    assert_int_equal(view(f, 1).state, MESH_JOB_DONE);
    fixture_close(f);
}

/* What a member said in checks that are open is void once it is caught; by a user's kernel, in jobs of that kernel alone. */
static void the_opinions_of_who_was_caught_are_void(void **state)
{
    (void)state;
    const uint64_t users = mesh_user_kernel(5);
    const struct {
        uint64_t checked, caught;
        uint32_t opinions;
    } cases[] = {{1, 1, 1}, {1, 2, 1}, {users, 2, 1}, {users, users, 1}, {1, users, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_home(4);
        struct mesh_job_spec spec = spec_of(1, 1);
        spec.verify = MESH_VERIFY_SPOT;
        spec.kernel = cases[i].checked;
        submit_spec(f, &spec);
        for (uint32_t peer = 0; peer < 2; peer++) {
            grant(f, peer, 1, 7 + peer, 1);
            const struct mesh_message bundle = assigned(f, peer);
            brings(f, peer, &bundle, &(uint32_t){11 + peer});
        }
        const struct check *const check = &f->mesh->home.verify.check[0];
        assert_int_equal(check->opinions, 2);
        spec = spec_of(2, 1);
        spec.verify = MESH_VERIFY_CERTIFICATE;
        spec.kernel = cases[i].caught;
        submit_spec(f, &spec);
        grant(f, 1, 2, 9, 1);
        const struct mesh_message bundle = assigned(f, 1);
        brings(f, 1, &bundle, &(uint32_t){MESH_DIGEST_WRONG});
        if (check->opinions != cases[i].opinions)
            fail_msg("case %zu: %u", i, check->opinions);
        const bool barred = cases[i].caught != users;
        assert_int_equal(mesh_counters(f->mesh)->caught, barred);
        assert_int_equal(mesh_counters(f->mesh)->doubted, !barred);
        const struct mesh_id id = fixture_job(2);
        assert_int_equal(mesh_doubted(f->mesh, &id, &f->peer[1]), !barred);
        assert_false(mesh_doubted(f->mesh, &id, &f->peer[2]));
        fixture_close(f);
    }
}

/* Who takes the place of a member that is gone answers for nothing that it brought. */
static void what_one_that_is_gone_brought_is_nobodys(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 3, .jobs = 2, .shards = 16, .bundles = 16, .attempts = 4, .demands = 4};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    fixture_capacity(f, 0, 2, 2, 0);
    struct mesh_event trust = {.kind = MESH_TRUST};
    trust.body.trust.id = f->peer[0];
    trust.body.trust.confirmed = 1000; /* its results are hardly ever looked at */
    fixture_step(f, &trust);
    struct mesh_job_spec spec = spec_of(1, 8);
    spec.verify = MESH_VERIFY_SPOT;
    spec.bundle_shards_max = 1;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 1);
    const struct mesh_message bundle = assigned(f, 0);
    brings(f, 0, &bundle, &(uint32_t){11});
    const uint32_t member = members_find(f->mesh, &f->peer[0]);
    const struct shard *const shard = &f->mesh->home.shards.shard[bundle.body.assign.shard[0]];
    assert_false(shard->checked);
    assert_int_equal(shard->at, member);
    struct mesh_record revocation = {.kind = MESH_RECORD_REVOCATION};
    revocation.body.revocation.subject = f->peer[0];
    fixture_record(f, 1, revocation);
    assert_int_equal(shard->at, member);
    memset(f->peer[2].bytes, 0x42, sizeof f->peer[2].bytes);
    f->incarnation[2] = 1;
    fixture_member(f, 2, 100, 9);
    assert_int_equal(members_find(f->mesh, &f->peer[2]), member);
    assert_int_equal(shard->at, f->mesh->members.self);
    fixture_close(f);
}

static void who_is_trusted_is_checked_more_seldom(void **state)
{
    (void)state;
    static const struct {
        uint32_t confirmed, asked, permille;
    } cases[] = {{0, 0, 1000}, {9, 0, 1000},  {10, 0, 100},   {13, 0, 76},     {33, 0, 30}, {49, 0, 20},
                 {51, 0, 20},  {10, 99, 100}, {10, 101, 101}, {1000000, 1, 1}, {9, 5, 1000}};
    struct fixture *const f = fixture_open(1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mesh_event event = {.kind = MESH_TRUST};
        event.body.trust.id = f->peer[0];
        event.body.trust.confirmed = cases[i].confirmed;
        fixture_step(f, &event);
        assert_int_equal(mesh_verify_permille(f->mesh, &f->peer[0], cases[i].asked), cases[i].permille);
    }
    struct mesh_event event = {.kind = MESH_TRUST};
    event.body.trust.id = f->peer[0];
    event.body.trust.confirmed = UINT32_MAX;
    fixture_step(f, &event);
    assert_int_equal(members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[0]))->confirmed, 1000000);
    assert_int_equal(mesh_verify_permille(f->mesh, &f->self, 0), 0); /* our own site */
    const struct mesh_id stranger = {{0xee}};
    assert_int_equal(mesh_verify_permille(f->mesh, &stranger, 0), 1000);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quorum_commits_each_shard_as_two_of_three_have_it),
        cmocka_unit_test(what_is_committed_and_proves_wrong_is_disputed),
        cmocka_unit_test(without_a_third_all_that_differ_are_disputed),
        cmocka_unit_test(what_nobody_agrees_about_is_computed_anew),
        cmocka_unit_test(a_check_gives_one_place_back),
        cmocka_unit_test(the_opinions_of_who_was_caught_are_void),
        cmocka_unit_test(what_one_that_is_gone_brought_is_nobodys),
        cmocka_unit_test(who_is_trusted_is_checked_more_seldom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
