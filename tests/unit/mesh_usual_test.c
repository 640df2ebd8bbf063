/* What is usual for a kernel, when a bundle is slow by that, and what copies of slow ones may cost: the figures. */
#include "mesh/internal.h"

#include "mesh_home_fixture.h"

#define HOUR_US UINT64_C(3600000000)

static void learn(struct fixture *f, uint32_t guess_us, uint64_t device_us, uint32_t count, uint32_t times)
{
    const struct job job = {.spec.kernel = 1, .spec.shard_us_guess = guess_us};
    for (uint32_t i = 0; i < times; i++)
        speculation_learn(&f->mesh->home, &job, device_us, count);
}

/* The figures of the only kernel that was seen. */
static struct usual *usual_of(struct fixture *f)
{
    return &f->mesh->home.speculation.usual[0];
}

static void forget_usual(struct fixture *f)
{
    memset(usual_of(f), 0, MESH_USUAL_KERNELS * sizeof *usual_of(f));
}

/* Times are known to an eighth: up to 15 each has a bucket of its own, from there on eight have a power of two. */
static void times_are_counted_within_an_eighth(void **state)
{
    (void)state;
    static const struct {
        uint32_t guess_us;
        uint64_t device_us;
        uint32_t count;
        uint64_t most;
    } cases[] = {
        {0, 1, 1, 1},
        {0, 15, 1, 15},
        {0, 16, 1, 17},
        {0, 17, 1, 17},
        {0, 18, 1, 19},
        {0, 31, 1, 31},
        {0, 32, 1, 35},
        {0, 36, 1, 39},
        {0, 1000, 1, 1023},
        {0, 1024, 1, 1151},
        {0, 3000, 3, 1023},
        {0, HOUR_US * 7, 2, 3758096383}, /* an hour is believed, no more */
        {0, HOUR_US - 1, 1, 3758096383},
        {1000, 1000, 1, 1151}, /* in 1,024ths of what was guessed */
        {1000, 1500, 1, 1663},
        {1000, 500, 1, 575},
        {1, HOUR_US, 1, (UINT64_C(1) << 33) - 1},
    };
    struct fixture *const f = fixture_open(0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        forget_usual(f);
        learn(f, cases[i].guess_us, cases[i].device_us, cases[i].count, MESH_USUAL_SAMPLES_MIN - 1);
        assert_int_equal(usual_of(f)->most, 0); /* too few yet */
        learn(f, cases[i].guess_us, cases[i].device_us, cases[i].count, 1);
        if (usual_of(f)->most != cases[i].most)
            fail_msg("case %zu: %llu", i, (unsigned long long)usual_of(f)->most);
        assert_int_equal(usual_of(f)->guessed, cases[i].guess_us > 0);
    }
    fixture_close(f);
}

static void one_in_twenty_may_take_longer(void **state)
{
    (void)state;
    static const struct {
        uint32_t low, high;
        bool counts;
    } cases[] = {{18, 1, true}, {19, 1, false}, {38, 2, false},
                 {37, 2, true}, {37, 3, true},  {199, 10, false}};
    struct fixture *const f = fixture_open(0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        forget_usual(f);
        learn(f, 0, 1000, 1, cases[i].low);
        learn(f, 0, 9000, 1, cases[i].high);
        assert_int_equal(usual_of(f)->samples, cases[i].low + cases[i].high);
        assert_int_equal(usual_of(f)->most, cases[i].counts ? 9215 : 1023);
    }
    fixture_close(f);
}

static void what_was_learnt_long_ago_counts_half(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    learn(f, 0, 10, 1, 501);
    learn(f, 0, 12, 1, MESH_USUAL_SAMPLES_MAX - 501 - 1);
    assert_int_equal(usual_of(f)->samples, MESH_USUAL_SAMPLES_MAX - 1);
    learn(f, 0, 0, 1, 1);
    assert_int_equal(usual_of(f)->count[10], 250);
    assert_int_equal(usual_of(f)->count[12], 261);
    assert_int_equal(usual_of(f)->count[0], 0);
    assert_int_equal(usual_of(f)->samples, 511);
    fixture_close(f);
}

/* A device second earns 20 ms for copies, up to an hour. */
static void what_is_delivered_earns_a_share_for_copies(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    int64_t *const credit_us = &f->mesh->home.speculation.credit_us;
    uint64_t *const delivered_us = &f->mesh->counters.delivered_us;
    assert_int_equal(*credit_us, MESH_COPIES_ALLOWANCE_US);
    speculation_earn(f->mesh, 1000000, 3);
    assert_int_equal(*credit_us, MESH_COPIES_ALLOWANCE_US + 20000);
    assert_int_equal(*delivered_us, 1000000);
    speculation_earn(f->mesh, UINT64_MAX, 2); /* of two shards two hours are believed */
    assert_int_equal(*delivered_us, 1000000 + 2 * HOUR_US);
    assert_int_equal(*credit_us, MESH_COPIES_ALLOWANCE_US + 20000 + 144000000);
    *credit_us = MESH_COPIES_CREDIT_MAX_US - 20000;
    speculation_earn(f->mesh, 1000000, 1);
    assert_int_equal(*credit_us, MESH_COPIES_CREDIT_MAX_US);
    speculation_earn(f->mesh, 1000000, 1);
    assert_int_equal(*credit_us, MESH_COPIES_CREDIT_MAX_US);
    /* A copy is charged what it took instead of what was taken for it. */
    struct bundle copy = {.count = 1, .charge_us = 500};
    *credit_us = 1000;
    speculation_settle(f->mesh, &copy, 800);
    assert_int_equal(*credit_us, 700);
    assert_int_equal(copy.charge_us, 0);
    assert_int_equal(f->mesh->counters.copies_us, 800);
    speculation_settle(f->mesh, &copy, HOUR_US + 1);
    assert_int_equal(f->mesh->counters.copies_us, 800 + HOUR_US);
    assert_int_equal(*credit_us, 700 - (int64_t)HOUR_US);
    fixture_close(f);
}

static void who_was_overtaken_delivers_an_eighth_less(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    const uint32_t member = members_find(f->mesh, &f->peer[0]);
    uint32_t *const permille = &members_edit_notes(f->mesh, member)->delivered_permille;
    static const uint32_t after[] = {876, 767, 672};
    for (size_t i = 0; i < sizeof after / sizeof after[0]; i++) {
        speculation_blame(f->mesh, member);
        assert_int_equal(*permille, after[i]);
    }
    fixture_close(f);
}

static const struct job *job_at(struct fixture *f, uint8_t job)
{
    const struct mesh_id id = fixture_job(job);
    return &f->mesh->home.job[home_job_find(&f->mesh->home, &id)];
}

/* Whether job 1 has a slow bundle after so long, and none a millisecond before. */
static bool turns_slow_at(struct fixture *f, int64_t after_ms)
{
    int64_t *const look_at_ms = &f->mesh->home.speculation.look_at_ms;
    fixture_run(f, after_ms - 2);
    for (uint32_t slow = 0; slow < 2; slow++) {
        f->now_ms++;
        *look_at_ms = f->now_ms;
        fixture_tick(f);
        if (job_at(f, 1)->slow != slow)
            return false;
    }
    return true;
}

/*
 * One and a half times what is usual, twice the round trip, and a second. Short ones may have waited behind another, so
 * that time is theirs, too. In the last twentieth of a job just what is usual.
 */
static void a_bundle_is_slow_after_so_long(void **state)
{
    (void)state;
    static const struct {
        uint32_t guess_us, usual_us, rtt_us, shards, done;
        int64_t after_ms;
    } cases[] = {
        {0, 2097151, 0, 30, 0, 4146},       {0, 1048575, 0, 30, 0, 2573},
        {0, 524287, 0, 30, 0, 2311},        {0, 2097151, 200000, 30, 0, 4546},
        {0, 2097151, 3000000, 30, 0, 6146}, {0, 2097151, 0, 20, 19, 3098},
        {0, 2097151, 0, 19, 18, 4146},      {0, 524287, 0, 20, 19, 2049},
        {2000000, 2000000, 0, 30, 0, 4373}, /* 1,151 / 1,024 of the guess */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_home(2);
        struct mesh_job_spec spec = spec_of(1, cases[i].shards);
        spec.bundle_shards_max = 1;
        spec.speculate = true;
        spec.shard_us_guess = cases[i].guess_us;
        submit_spec(f, &spec);
        for (uint32_t done = 0; done < cases[i].done; done++) {
            grant(f, 0, 1, 100 + done, 1);
            const struct mesh_message bundle = assigned(f, 0);
            result(f, 0, &bundle, MESH_DONE);
        }
        forget_usual(f);
        learn(f, cases[i].guess_us, cases[i].usual_us, 1, MESH_USUAL_SAMPLES_MIN);
        grant(f, 0, 1, 99, 1);
        assigned(f, 0);
        members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[0]))->rtt_us = cases[i].rtt_us;
        if (!turns_slow_at(f, cases[i].after_ms))
            fail_msg("case %zu: not after %lld ms", i, (long long)cases[i].after_ms);
        /* What it will take is put aside for the copy. */
        const struct bundle *const bundle = &f->mesh->home.bundle[list_first(&job_at(f, 1)->bundles)];
        const uint64_t usual_us =
            cases[i].guess_us > 0 ? 1151u * UINT64_C(2000000) / 1024 + 1 : cases[i].usual_us;
        assert_int_equal(bundle->charge_us, usual_us);
        fixture_close(f);
    }
}

/* What was put aside for a copy comes back when the first attempt is lost: then the copy is no extra work. */
static void a_copy_that_is_the_only_attempt_costs_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_job_spec spec = spec_of(1, 30);
    spec.bundle_shards_max = 1;
    spec.speculate = true;
    submit_spec(f, &spec);
    learn(f, 0, 2097151, 1, MESH_USUAL_SAMPLES_MIN);
    grant(f, 0, 1, 99, 1);
    const struct mesh_message first = assigned(f, 0);
    for (uint32_t i = 0; i < 29; i++) /* all others are out, too */
        grant(f, 0, 1, 100 + i, 1);
    const int64_t credit_us = f->mesh->home.speculation.credit_us;
    f->now_ms += 5000;
    f->mesh->home.speculation.look_at_ms = f->now_ms;
    fixture_tick(f);
    const uint32_t slow = job_at(f, 1)->slow;
    assert_true(slow > 0);
    assert_int_equal(f->mesh->home.speculation.credit_us, credit_us - (int64_t)slow * 2097151);
    grant(f, 1, 1, 7, 1);
    const struct mesh_message copy = assigned(f, 1);
    assert_int_equal(copy.body.assign.shard[0], first.body.assign.shard[0]);
    assert_int_equal(f->mesh->home.speculation.credit_us, credit_us - (int64_t)slow * 2097151);
    result(f, 0, &first, MESH_RETURNED);
    assert_int_equal(f->mesh->home.speculation.credit_us, credit_us - (int64_t)(slow - 1) * 2097151);
    assert_int_equal(mesh_counters(f->mesh)->copies_us, 0);
    assert_int_equal(mesh_counters(f->mesh)->copies_needed, 1);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_counted_within_an_eighth),
        cmocka_unit_test(one_in_twenty_may_take_longer),
        cmocka_unit_test(what_was_learnt_long_ago_counts_half),
        cmocka_unit_test(what_is_delivered_earns_a_share_for_copies),
        cmocka_unit_test(who_was_overtaken_delivers_an_eighth_less),
        cmocka_unit_test(a_bundle_is_slow_after_so_long),
        cmocka_unit_test(a_copy_that_is_the_only_attempt_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
