/* The executor's side, one core with homes that the test plays. */
#include "mesh/internal.h"

#include "mesh_fixture.h"

static void reserve(struct fixture *f, uint32_t home, uint8_t job, uint64_t tenant, uint16_t wanted,
                    bool deep)
{
    struct mesh_message message = {.kind = MESH_RESERVE};
    message.body.reserve.job = fixture_job(job);
    message.body.reserve.epoch = 1;
    message.body.reserve.tenant = tenant;
    message.body.reserve.classes = 1;
    message.body.reserve.wanted = wanted;
    message.body.reserve.deep = deep;
    fixture_message(f, home, &message);
}

static void wish(struct fixture *f, uint32_t home, uint8_t job, uint16_t wanted, uint32_t waited_ms,
                 bool patient)
{
    struct mesh_message message = {.kind = MESH_WISH};
    message.body.reserve.job = fixture_job(job);
    message.body.reserve.epoch = 1;
    message.body.reserve.tenant = job;
    message.body.reserve.classes = 1;
    message.body.reserve.wanted = wanted;
    message.body.reserve.waited_ms = waited_ms;
    message.body.reserve.patient = patient;
    fixture_message(f, home, &message);
}

static void assign(struct fixture *f, uint32_t home, uint8_t job, uint64_t token, uint32_t index)
{
    struct mesh_message message = {.kind = MESH_ASSIGN};
    message.body.assign.name = (struct mesh_bundle_name){token, index};
    message.body.assign.job = fixture_job(job);
    message.body.assign.epoch = 1;
    message.body.assign.count = 2;
    message.body.assign.shard[0] = 10 * index;
    message.body.assign.shard[1] = 10 * index + 1;
    message.body.assign.handle = fixture_handle(f);
    fixture_message(f, home, &message);
}

static void ran(struct fixture *f, uint32_t attempt, uint8_t outcome)
{
    struct mesh_event event = {.kind = MESH_RAN};
    event.body.ran.attempt = attempt;
    event.body.ran.count = 2;
    event.body.ran.outcome[0] = event.body.ran.outcome[1] = outcome;
    event.body.ran.handle = outcome == MESH_DONE ? fixture_handle(f) : 0;
    fixture_step(f, &event);
}

static void name_message(struct fixture *f, uint32_t home, enum mesh_message_kind kind, uint64_t token,
                         uint32_t index)
{
    struct mesh_message message = {.kind = kind};
    if (kind == MESH_RESULT_ACK) {
        message.body.result_ack.name = (struct mesh_bundle_name){token, index};
    } else {
        message.body.renew.count = 1;
        message.body.renew.name[0] = (struct mesh_bundle_name){token, index};
    }
    fixture_message(f, home, &message);
}

static void cancel(struct fixture *f, uint32_t home, uint8_t job, uint64_t epoch)
{
    struct mesh_message message = {.kind = MESH_CANCEL};
    message.body.cancel.job = fixture_job(job);
    message.body.cancel.epoch = epoch;
    fixture_message(f, home, &message);
}

static void release(struct fixture *f, uint32_t home, uint64_t token, uint16_t places)
{
    struct mesh_message message = {.kind = MESH_RELEASE};
    message.body.release.token = token;
    message.body.release.places = places;
    fixture_message(f, home, &message);
}

static uint32_t granted(struct fixture *f, uint32_t home, uint64_t *token)
{
    struct mesh_message message;
    if (!fixture_sent(f, home, MESH_GRANT, &message))
        return 0;
    *token = message.body.grant.token;
    assert_int_equal(message.body.grant.valid_ms, 2000);
    return message.body.grant.places;
}

static bool sent(struct fixture *f, uint32_t home, enum mesh_message_kind kind)
{
    struct mesh_message message;
    return fixture_sent(f, home, kind, &message);
}

static bool did(struct fixture *f, enum mesh_effect_kind kind)
{
    struct mesh_effect effect;
    return fixture_did(f, kind, &effect);
}

static uint32_t run_of(struct fixture *f)
{
    struct mesh_effect effect;
    assert_true(fixture_did(f, MESH_RUN, &effect));
    return effect.body.run.attempt;
}

static struct mesh_executor_view view(const struct fixture *f)
{
    struct mesh_executor_view view;
    mesh_executor_view(f->mesh, &view);
    return view;
}

/* A job of one home with `bundles` of them running or waiting; returns the token. */
static uint64_t occupy(struct fixture *f, uint32_t home, uint8_t job, uint16_t bundles)
{
    uint64_t token = 0;
    reserve(f, home, job, job, bundles, true);
    assert_int_equal(granted(f, home, &token), bundles);
    for (uint32_t i = 0; i < bundles; i++)
        assign(f, home, job, token, i);
    return token;
}

static void grants_reach_the_slots_and_not_beyond(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    reserve(f, 0, 1, 1, 5, false);
    assert_int_equal(granted(f, 0, &token), 2);
    assert_false(sent(f, 0, MESH_WAIT));
    reserve(f, 0, 2, 1, 5, true);               /* deep: the places behind the slots */
    assert_int_equal(granted(f, 0, &token), 0); /* the first one, which needs a whole slot, is waited for */
    assert_true(sent(f, 0, MESH_WAIT));
    reserve(f, 0, 1, 1, 0, false);
    reserve(f, 0, 2, 1, 5, true);
    assert_int_equal(granted(f, 0, &token), 2);
    assert_int_equal(view(f).granted, 4);
    reserve(f, 0, 3, 1, 1, true);
    assert_int_equal(granted(f, 0, &token), 0);
    assert_true(sent(f, 0, MESH_WAIT));
    fixture_close(f);
}

static void a_kernel_that_does_not_run_here_is_refused_and_takes_no_place(void **state)
{
    (void)state;
    const uint64_t kernels[2] = {5, 7}; /* reserve() asks for kernel 0 */
    struct fixture *const f = fixture_open_kernel(1, kernels);
    f->mesh->config.kernel_count = 2;
    fixture_devices(f, 2, 0);
    fixture_clear(f);
    uint64_t token = 1;
    reserve(f, 0, 1, 1, 2, false);
    struct mesh_message message;
    assert_true(fixture_sent(f, 0, MESH_GRANT, &message));
    assert_true(message.body.grant.places == 0 && message.body.grant.token == 0);
    assert_int_equal(mesh_counters(f->mesh)->refusals, 1);
    assert_int_equal(view(f).demands, 0);
    assert_int_equal(view(f).granted, 0);
    for (uint8_t i = 0; i < 2; i++) {
        message = (struct mesh_message){.kind = MESH_RESERVE};
        message.body.reserve.job = fixture_job(2 + i);
        message.body.reserve.epoch = 1;
        message.body.reserve.kernel = kernels[i];
        message.body.reserve.classes = 1;
        message.body.reserve.wanted = 1;
        fixture_message(f, 0, &message);
        assert_int_equal(granted(f, 0, &token), 1);
    }
    fixture_close(f);
}

/* Users' kernels run on some device classes of a node, or on none; no list names them. */
static void users_kernels_are_granted_on_the_classes_that_take_them(void **state)
{
    (void)state;
    const uint64_t kernel = 5, users = mesh_user_kernel(0x123456789abcdef0);
    static const struct {
        uint16_t takes, asked;
        uint32_t places; /* 0: refused */
        uint16_t class;
    } cases[] = {{0, 3, 0, 0}, {1, 3, 2, 0}, {2, 3, 1, 1}, {1, 2, 0, 0}, {2, 2, 1, 1}};
    assert_true(mesh_is_user_kernel(users));
    assert_false(mesh_is_user_kernel(kernel));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_user_classes = cases[i].takes;
        struct fixture *const f = fixture_open_kernel(1, &kernel);
        fixture_devices(f, 2, 1);
        fixture_clear(f);
        struct mesh_message message = {.kind = MESH_RESERVE};
        message.body.reserve.job = fixture_job(1);
        message.body.reserve.epoch = 1;
        message.body.reserve.kernel = users;
        message.body.reserve.classes = cases[i].asked;
        message.body.reserve.wanted = 2;
        fixture_message(f, 0, &message);
        assert_true(fixture_sent(f, 0, MESH_GRANT, &message));
        assert_int_equal(message.body.grant.places, cases[i].places);
        if (cases[i].places > 0)
            assert_int_equal(message.body.grant.class, cases[i].class);
        assert_int_equal(mesh_counters(f->mesh)->refusals, cases[i].places == 0);
        fixture_close(f);
    }
    fixture_user_classes = 0;
}

static void a_grant_is_for_its_home_job_class_and_index_only(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    reserve(f, 0, 1, 1, 2, false);
    assert_int_equal(granted(f, 0, &token), 2);
    assign(f, 1, 1, token, 0);
    assert_true(sent(f, 1, MESH_EXPIRED));
    assign(f, 0, 2, token, 0);
    assert_true(sent(f, 0, MESH_EXPIRED));
    assign(f, 0, 1, token, 2);
    assert_true(sent(f, 0, MESH_EXPIRED));
    assign(f, 0, 1, token, UINT32_MAX);
    assert_true(sent(f, 0, MESH_EXPIRED));
    assign(f, 0, 1, token ^ 1, 0);
    assert_true(sent(f, 0, MESH_EXPIRED));
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 4);
    assert_int_equal(mesh_counters(f->mesh)->assigns_expired, 5);
    assert_false(did(f, MESH_RUN));
    assign(f, 0, 1, token, 1);
    assert_true(did(f, MESH_RUN));
    fixture_close(f);
}

static void nonsense_is_counted_and_changes_nothing(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    reserve(f, 0, 1, 1, 1, false);
    assert_int_equal(granted(f, 0, &token), 1);
    const uint32_t counts[] = {0, MESH_BUNDLE_SHARDS_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct mesh_message message = {.kind = MESH_ASSIGN};
        message.body.assign.name.token = token;
        message.body.assign.job = fixture_job(1);
        message.body.assign.count = counts[i];
        message.body.assign.handle = fixture_handle(f);
        fixture_message(f, 0, &message);
    }
    struct mesh_message message = {.kind = MESH_ASSIGN};
    message.body.assign.count = 1;
    message.body.assign.class = MESH_DEVICE_CLASSES;
    fixture_message(f, 0, &message);
    message = (struct mesh_message){.kind = MESH_RESERVE};
    message.body.reserve.wanted = 1;
    message.body.reserve.classes = 0xfffc;
    fixture_message(f, 0, &message);
    message = (struct mesh_message){.kind = MESH_RENEWED};
    message.body.renew.count = MESH_RENEW_MAX + 1;
    fixture_message(f, 0, &message);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 6);
    release(f, 0, token + 1, 9);
    release(f, 0, UINT64_MAX, 9);
    name_message(f, 0, MESH_RESULT_ACK, 7, 7);
    name_message(f, 0, MESH_RENEWED, 7, 7);
    cancel(f, 0, 9, UINT64_MAX);
    ran(f, 0, MESH_DONE);
    ran(f, UINT32_MAX, MESH_DONE);
    assert_int_equal(view(f).granted, 1);
    fixture_close(f);
}

static void an_assign_is_idempotent_by_name(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 1, 0);
    const uint64_t token = occupy(f, 0, 1, 1);
    const uint32_t attempt = run_of(f);
    assign(f, 0, 1, token, 0);
    assert_false(did(f, MESH_RUN));
    assert_false(sent(f, 0, MESH_EXPIRED));
    ran(f, attempt, MESH_DONE);
    assert_true(sent(f, 0, MESH_RESULT));
    assign(f, 0, 1, token, 0); /* known and finished: the result again */
    assert_true(sent(f, 0, MESH_RESULT));
    assert_false(did(f, MESH_RUN));
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    assign(f, 0, 1, token, 0); /* come and gone: never run twice under one name */
    assert_true(sent(f, 0, MESH_EXPIRED));
    assert_false(did(f, MESH_RUN));
    assert_int_equal(view(f).unacked, 0);
    fixture_close(f);
}

static void a_grant_expires_after_2500_ms(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    reserve(f, 0, 1, 1, 2, true);
    assert_int_equal(granted(f, 0, &token), 2);
    fixture_run(f, 2499);
    assign(f, 0, 1, token, 0);
    assert_true(did(f, MESH_RUN));
    fixture_run(f, 1);
    assert_int_equal(mesh_counters(f->mesh)->grants_expired, 1);
    assign(f, 0, 1, token, 1);
    assert_true(sent(f, 0, MESH_EXPIRED));
    assert_int_equal(view(f).granted, 0);
    fixture_close(f);
}

/* What changed by the clock alone was announced when something else happened, and not when it was due. */
static void a_place_that_is_free_again_is_announced_in_time(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(0);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    reserve(f, UINT32_MAX, 1, 1, 2, true);
    assert_int_equal(granted(f, UINT32_MAX, &token), 2);
    fixture_run(f, 2499);
    f->now_ms++; /* nobody says anything any more */
    fixture_tick(f);
    assert_int_equal(mesh_counters(f->mesh)->grants_expired, 1);
    assert_in_range(f->wake_at_ms, f->now_ms, f->now_ms + MESH_CAPACITY_MIN_MS);
    fixture_close(f);
}

static void released_places_go_to_who_waits(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint64_t token = 0;
    uint64_t other = 0;
    fixture_devices(f, 2, 0);
    reserve(f, 0, 1, 1, 4, true);
    assert_int_equal(granted(f, 0, &token), 4);
    reserve(f, 1, 2, 2, 3, true);
    assert_true(sent(f, 1, MESH_WAIT));
    release(f, 1, token, 4); /* not its own */
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    release(f, 0, token, 1);
    assert_int_equal(granted(f, 1, &other), 1);
    release(f, 0, token, UINT16_MAX);
    assert_int_equal(granted(f, 1, &other), 2);
    assert_int_equal(mesh_counters(f->mesh)->grants_released, 4);
    fixture_close(f);
}

static void a_freed_place_goes_to_who_waits(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 2);
    const uint32_t attempt = run_of(f);
    reserve(f, 1, 2, 2, 1, false);
    assert_true(sent(f, 1, MESH_WAIT));
    ran(f, attempt, MESH_DONE);
    assert_int_equal(granted(f, 1, &token), 0); /* the waiting one runs now */
    assert_int_equal(view(f).running, 1);
    ran(f, run_of(f), MESH_DONE);
    assert_int_equal(granted(f, 1, &token), 1);
    fixture_close(f);
}

static void turns_are_by_home_and_tenant(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    const uint64_t first = occupy(f, 0, 1, 2);
    /* Home 0 has three jobs of one tenant, home 1 has one: they still get every other place. */
    for (uint8_t job = 2; job < 5; job++)
        reserve(f, 0, job, 1, 50, true);
    reserve(f, 1, 9, 2, 50, true);
    uint32_t places[2] = {0, 0};
    uint32_t attempt = run_of(f);
    for (uint32_t i = 0; i < 20; i++) {
        ran(f, attempt, MESH_DONE);
        struct mesh_message grant;
        const uint32_t home = fixture_sent(f, 0, MESH_GRANT, &grant) ? 0 : 1;
        if (home == 1)
            assert_true(fixture_sent(f, 1, MESH_GRANT, &grant));
        places[home] += grant.body.grant.places;
        assign(f, home, grant.body.grant.job.bytes[1], grant.body.grant.token, 0);
        attempt = run_of(f);
    }
    (void)first;
    (void)token;
    assert_int_equal(places[0], 10);
    assert_int_equal(places[1], 10);
    fixture_close(f);
}

/* Its home had the shards from elsewhere. */
static void an_attempt_acknowledged_before_its_end_is_stopped_and_forgotten(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    fixture_devices(f, 1, 0);
    const uint32_t handles = f->live_count;
    const uint64_t token = occupy(f, 0, 1, 2);
    const uint32_t running = run_of(f);
    const uint32_t waiting = run_of(f);
    struct mesh_effect effect;
    name_message(f, 1, MESH_RESULT_ACK, token, 0); /* not its home */
    assert_false(did(f, MESH_STOP));
    name_message(f, 0, MESH_RESULT_ACK, token, 1);
    assert_true(fixture_did(f, MESH_STOP, &effect));
    assert_int_equal(effect.body.stop.attempt, waiting);
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    name_message(f, 0, MESH_RESULT_ACK, token, 0); /* said again */
    assert_true(fixture_did(f, MESH_STOP, &effect));
    assert_int_equal(effect.body.stop.attempt, running);
    assert_false(did(f, MESH_STOP));
    ran(f, waiting, MESH_RETURNED);
    ran(f, running, MESH_DONE); /* just in time, and in vain */
    assert_false(sent(f, 0, MESH_RESULT));
    assert_int_equal(mesh_counters(f->mesh)->overtaken, 2);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 0);
    assert_int_equal(f->live_count, handles);
    fixture_close(f);
}

static void results_are_sent_until_acknowledged_and_held_ten_minutes(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 1, 0);
    const uint64_t token = occupy(f, 0, 1, 1);
    const uint32_t handles = f->live_count;
    ran(f, run_of(f), MESH_DONE);
    assert_int_equal(f->live_count, handles); /* the inputs went, the results came */
    assert_true(sent(f, 0, MESH_RESULT));
    fixture_run(f, 1999);
    assert_false(sent(f, 0, MESH_RESULT));
    fixture_run(f, 1);
    assert_true(sent(f, 0, MESH_RESULT));
    fixture_run(f, 597999);
    assert_int_equal(view(f).unacked, 1);
    fixture_run(f, 1);
    assert_int_equal(view(f).unacked, 0);
    assert_int_equal(f->live_count, handles - 1);
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    fixture_close(f);
}

static void a_lease_ends_20_s_after_the_last_renewal(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 1, 0);
    const uint64_t token = occupy(f, 0, 1, 2);
    struct mesh_message renew;
    fixture_run(f, 12499);
    assert_false(fixture_sent(f, 0, MESH_RENEW, &renew)); /* more than 7.5 s of it are left */
    fixture_run(f, 1);
    assert_true(fixture_sent(f, 0, MESH_RENEW, &renew));
    assert_int_equal(renew.body.renew.count, 2);
    name_message(f, 0, MESH_RENEWED, token, 0);
    fixture_run(f, 7499);
    assert_false(did(f, MESH_STOP));
    fixture_run(f, 1);
    struct mesh_effect stop;
    assert_true(fixture_did(f, MESH_STOP, &stop));
    assert_int_equal(mesh_counters(f->mesh)->leases_lost, 1);
    assert_int_equal(stop.body.stop.attempt, 1);
    fixture_run(f, 12499);
    assert_false(did(f, MESH_STOP));
    fixture_run(f, 1);
    assert_true(did(f, MESH_STOP));
    fixture_clear(f);
    ran(f, 0, MESH_DONE);
    ran(f, 1, MESH_RETURNED);
    assert_false(sent(f, 0, MESH_RESULT)); /* forgotten */
    assert_int_equal(view(f).running + view(f).waiting + view(f).unacked, 0);
    fixture_close(f);
}

static void renewals_are_split_at_64(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 128, .demands = 2};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    fixture_devices(f, 64, 0);
    for (uint8_t job = 1; job <= 65; job++)
        occupy(f, 0, job, 1);
    fixture_run(f, 12500);
    struct mesh_message renew;
    assert_true(fixture_sent(f, 0, MESH_RENEW, &renew));
    assert_int_equal(renew.body.renew.count, MESH_RENEW_MAX);
    assert_true(fixture_sent(f, 0, MESH_RENEW, &renew));
    assert_int_equal(renew.body.renew.count, 1);
    fixture_close(f);
}

static void a_cancel_stops_and_nothing_comes_back(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    fixture_devices(f, 2, 0);
    const uint64_t token = occupy(f, 0, 1, 3);
    const uint32_t first = run_of(f);
    const uint32_t handles = f->live_count;
    reserve(f, 0, 1, 1, 9, true);
    ran(f, first, MESH_DONE); /* the result crosses the cancel */
    fixture_clear(f);
    cancel(f, 1, 1, 1); /* not its job */
    cancel(f, 0, 1, 0); /* an older epoch */
    assert_false(did(f, MESH_STOP));
    cancel(f, 0, 1, 1);
    assert_true(did(f, MESH_STOP));
    assert_true(did(f, MESH_STOP));
    assert_false(did(f, MESH_STOP));
    cancel(f, 0, 1, 1);
    assert_false(did(f, MESH_STOP));
    assert_int_equal(view(f).unacked, 0);
    assert_int_equal(view(f).demands, 0);
    assert_int_equal(view(f).granted, 0);
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    ran(f, 1, MESH_DONE);
    ran(f, 2, MESH_RETURNED);
    assert_false(sent(f, 0, MESH_RESULT));
    assert_int_equal(f->live_count, handles - 3);
    fixture_close(f);
}

static void a_draining_node_has_places_for_its_own_jobs_alone(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    const uint32_t running = run_of(f);
    reserve(f, 0, 2, 1, 1, false); /* stands: of no use to it any more */
    struct mesh_event drain = {.kind = MESH_DRAIN};
    fixture_step(f, &drain);
    fixture_clear(f);
    reserve(f, 0, 3, 1, 1, false);
    assert_true(sent(f, 0, MESH_WAIT));
    reserve(f, UINT32_MAX, 4, 1, 1, false);
    ran(f, running, MESH_DONE);
    assert_int_equal(granted(f, 0, &token), 0);
    assert_int_equal(granted(f, UINT32_MAX, &token), 1);
    drain.body.drain.stops = true;
    fixture_step(f, &drain);
    fixture_clear(f);
    reserve(f, UINT32_MAX, 4, 1, 1, false);
    assert_int_equal(granted(f, UINT32_MAX, &token), 0);
    fixture_close(f);
}

static void draining_gives_back_what_waits(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    occupy(f, 0, 1, 3);
    reserve(f, 0, 2, 1, 1, true);
    assert_int_equal(granted(f, 0, &token), 1);
    const uint32_t first = run_of(f);
    fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
    struct mesh_effect stop;
    assert_true(fixture_did(f, MESH_STOP, &stop));
    assert_int_equal(stop.body.stop.attempt, 2); /* the one that waits */
    assert_false(did(f, MESH_STOP));
    assign(f, 0, 2, token, 0);
    assert_true(sent(f, 0, MESH_EXPIRED));
    reserve(f, 0, 3, 1, 1, true);
    assert_true(sent(f, 0, MESH_WAIT));
    fixture_clear(f);
    ran(f, 2, MESH_RETURNED);
    struct mesh_message result;
    assert_true(fixture_sent(f, 0, MESH_RESULT, &result));
    assert_int_equal(result.body.result.shard[1].outcome, MESH_RETURNED);
    name_message(f, 0, MESH_RESULT_ACK, result.body.result.name.token, result.body.result.name.index);
    ran(f, first, MESH_DONE);
    ran(f, 1, MESH_DONE);
    assert_false(did(f, MESH_DRAINED));
    while (fixture_sent(f, 0, MESH_RESULT, &result))
        name_message(f, 0, MESH_RESULT_ACK, result.body.result.name.token, result.body.result.name.index);
    assert_true(did(f, MESH_DRAINED));
    fixture_run(f, 60000);
    assert_false(did(f, MESH_DRAINED));
    fixture_close(f);
}

static void the_owner_takes_slots_back(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 4, 0);
    occupy(f, 0, 1, 6);
    reserve(f, 0, 2, 1, 2, true);
    assert_int_equal(granted(f, 0, &token), 2);
    fixture_devices(f, 1, 0);
    assert_int_equal(view(f).running, 1);
    assert_int_equal(view(f).waiting, 1);
    assert_int_equal(view(f).granted, 0);
    for (uint32_t i = 0; i < 4; i++)
        assert_true(did(f, MESH_STOP));
    assert_false(did(f, MESH_STOP));
    assign(f, 0, 2, token, 0);
    assert_true(sent(f, 0, MESH_EXPIRED));
    fixture_devices(f, 0, 0);
    assert_int_equal(view(f).running + view(f).waiting, 0);
    reserve(f, 0, 3, 1, 1, true);
    assert_true(sent(f, 0, MESH_WAIT));
    for (uint32_t i = 0; i < 6; i++)
        ran(f, i, MESH_RETURNED);
    assert_int_equal(view(f).unacked, 6);
    fixture_devices(f, 1, 0); /* the demand stood all the while */
    assert_int_equal(granted(f, 0, &token), 1);
    fixture_close(f);
}

/* The owner takes one of two devices: what has it in hand is stopped, not the newest, and nothing else. */
static void a_device_that_goes_takes_its_own_attempts_along(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 2, 0);
    occupy(f, 0, 1, 4); /* 0 and 1 run, 2 and 3 wait behind them */
    struct mesh_event event = {.kind = MESH_DEVICES};
    event.body.devices.class[0].slots = 1;
    event.body.devices.stop_count = 2;
    event.body.devices.stop[0] = 0;
    event.body.devices.stop[1] = 2;
    fixture_step(f, &event);
    struct mesh_effect effect;
    assert_true(fixture_did(f, MESH_STOP, &effect));
    assert_int_equal(effect.body.stop.attempt, 0);
    assert_true(fixture_did(f, MESH_STOP, &effect));
    assert_int_equal(effect.body.stop.attempt, 2);
    assert_false(did(f, MESH_STOP));
    assert_int_equal(view(f).running, 1);
    assert_int_equal(view(f).waiting, 1);
    struct mesh_message result;
    ran(f, 0, MESH_RETURNED);
    assert_true(fixture_sent(f, 0, MESH_RESULT, &result)); /* in the same step */
    assert_int_equal(result.body.result.shard[0].outcome, MESH_RETURNED);
    /* Attempts that have ended, or never were, are passed over. */
    event.body.devices.stop[1] = 99999;
    fixture_step(f, &event);
    assert_false(did(f, MESH_STOP));
    ran(f, 2, MESH_RETURNED);
    fixture_close(f);
}

static void bounds_of_demands_and_attempts_hold(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 3, .demands = 2};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    uint64_t token = 0;
    reserve(f, 0, 1, 1, 1, true);
    reserve(f, 0, 2, 1, 1, true);
    assert_int_equal(mesh_counters(f->mesh)->bound_demands, 0);
    reserve(f, 0, 3, 1, 1, true);
    assert_int_equal(mesh_counters(f->mesh)->bound_demands, 1);
    assert_int_equal(view(f).demands, 2);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(sent(f, 0, MESH_WAIT));
    reserve(f, 0, 1, 1, 0, true);
    reserve(f, 0, 2, 1, 0, true);
    fixture_devices(f, 8, 0);
    reserve(f, 0, 4, 1, 8, true);
    assert_int_equal(granted(f, 0, &token), 3);
    assert_true(mesh_counters(f->mesh)->bound_attempts > 0);
    for (uint32_t i = 0; i < 3; i++)
        assign(f, 0, 4, token, i);
    ran(f, 0, MESH_DONE); /* held, so still in the table */
    uint64_t next = 0;
    assert_int_equal(granted(f, 0, &next), 0);
    name_message(f, 0, MESH_RESULT_ACK, token, 0);
    assert_int_equal(granted(f, 0, &next), 1);
    fixture_close(f);
}

/* Demands for a class that is not to be had fill the table: what is free of another is granted past them. */
static void demand_beyond_the_bound_is_granted_what_is_free(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 8, .demands = 1};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    fixture_devices(f, 2, 0);
    struct mesh_message other = {.kind = MESH_RESERVE};
    other.body.reserve.job = fixture_job(1);
    other.body.reserve.epoch = 1;
    other.body.reserve.classes = 2;
    other.body.reserve.wanted = 1;
    fixture_message(f, 0, &other);
    assert_true(sent(f, 0, MESH_WAIT));
    uint64_t token = 0;
    reserve(f, 0, 2, 1, 2, true);
    assert_int_equal(granted(f, 0, &token), 2);
    assert_false(sent(f, 0, MESH_WAIT)); /* all that it wanted */
    assert_int_equal(mesh_counters(f->mesh)->bound_demands, 0);
    reserve(f, 0, 3, 1, 4, true);
    assert_int_equal(granted(f, 0, &token), 2);
    assert_true(sent(f, 0, MESH_WAIT));
    assert_int_equal(mesh_counters(f->mesh)->bound_demands, 1);
    assert_int_equal(view(f).demands, 1);
    fixture_close(f);
}

/* Assigns a bundle of a job whose journal `other` keeps as well. */
static void assign_shared(struct fixture *f, uint32_t home, uint8_t job, uint64_t token, uint32_t index,
                          uint32_t other)
{
    struct mesh_message message = {.kind = MESH_ASSIGN};
    message.body.assign.name = (struct mesh_bundle_name){token, index};
    message.body.assign.job = fixture_job(job);
    message.body.assign.epoch = 1;
    message.body.assign.count = 2;
    message.body.assign.shard[1] = 1;
    message.body.assign.others = (struct mesh_members){.count = 1, .id[0] = f->peer[other]};
    message.body.assign.handle = fixture_handle(f);
    fixture_message(f, home, &message);
}

/* Whether the result of an attempt is still held: an ASSIGN that comes again is answered with it. */
static bool holds_result(struct fixture *f, uint32_t home, uint8_t job, uint64_t token, uint32_t index)
{
    while (sent(f, home, MESH_RESULT) || sent(f, home, MESH_EXPIRED))
        ;
    assign(f, home, job, token, index);
    return sent(f, home, MESH_RESULT);
}

/* Who could run work is not kept from it for 10 min by results that nobody may ask for; what runs is spared. */
static void the_oldest_result_of_a_lost_home_makes_room_at_the_bound(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 4, .demands = 2};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    uint64_t token = 0;
    uint64_t next = 0;
    fixture_devices(f, 8, 0);
    reserve(f, 0, 1, 1, 4, true);
    assert_int_equal(granted(f, 0, &token), 4);
    for (uint32_t i = 0; i < 4; i++)
        assign_shared(f, 0, 1, token, i, 1);
    const uint32_t order[] = {1, 3, 0}; /* and 2 goes on */
    for (uint32_t i = 0; i < 3; i++) {
        fixture_run(f, 1000);
        ran(f, order[i], MESH_DONE);
    }
    reserve(f, 1, 2, 2, 1, true);
    assert_true(sent(f, 1, MESH_WAIT));
    fixture_run(f, 3999); /* their home may yet answer */
    assert_int_equal(granted(f, 1, &next), 0);
    assert_int_equal(mesh_counters(f->mesh)->orphans_freed, 0);
    const uint32_t handles = f->live_count;
    fixture_run(f, 1);
    assert_int_equal(granted(f, 1, &next), 1);
    assert_int_equal(f->live_count, handles - 1);
    assert_false(holds_result(f, 0, 1, token, 1));
    assign(f, 1, 2, next, 0);

    fixture_run(f, 2000); /* all are its orphans now, and stay while nobody asks */
    assert_int_equal(mesh_counters(f->mesh)->orphans_freed, 1);
    reserve(f, 1, 2, 2, 1, true);
    assert_int_equal(granted(f, 1, &next), 1);
    assert_false(holds_result(f, 0, 1, token, 3));
    assert_true(holds_result(f, 0, 1, token, 0));
    assign(f, 1, 2, next, 0);

    reserve(f, 1, 2, 2, 2, true); /* one more, and then all four run */
    assert_int_equal(granted(f, 1, &next), 1);
    assign(f, 1, 2, next, 0);
    fixture_run(f, 10000);
    assert_int_equal(granted(f, 1, &next), 0);
    assert_int_equal(view(f).running, 4);
    assert_false(did(f, MESH_STOP));
    assert_int_equal(mesh_counters(f->mesh)->orphans_freed, 3);
    fixture_close(f);
}

/* A job of a single copy has nobody else to ask for its results: while its home is there they are its own. */
static void results_of_a_home_that_is_down_make_room_too(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 1, .demands = 2};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    const uint64_t held = occupy(f, 0, 1, 1);
    ran(f, run_of(f), MESH_DONE);
    reserve(f, 1, 2, 2, 1, true);
    f->silent[0] = true;
    fixture_run(f, 11000);
    assert_int_equal(granted(f, 1, &token), 0);
    assert_int_equal(view(f).unacked, 1);
    struct mesh_record alert = {.kind = MESH_RECORD_ALERT};
    alert.body.alert.subject = f->peer[0];
    alert.body.alert.subject_incarnation = 1;
    alert.body.alert.accuses = true;
    fixture_record(f, 1, alert);
    fixture_run(f, 4000);
    assert_int_equal(mesh_counters(f->mesh)->downs, 1);
    assert_int_equal(granted(f, 1, &token), 1);
    assert_int_equal(view(f).unacked, 0);
    assert_false(holds_result(f, 0, 1, held, 0));
    fixture_close(f);
}

static void a_demand_is_forgotten_after_40_s(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    reserve(f, 0, 1, 1, 1, true);
    fixture_run(f, 39999);
    assert_int_equal(view(f).demands, 1);
    reserve(f, 0, 1, 1, 1, true);
    fixture_run(f, 39999);
    assert_int_equal(view(f).demands, 1);
    fixture_run(f, 1);
    assert_int_equal(view(f).demands, 0);
    fixture_close(f);
}

/* Whatever changes what is free here is to be announced; an attempt that is being stopped is in the way still. */
static void each_change_of_what_is_free_is_announced(void **state)
{
    (void)state;
    enum { GRANT, RELEASE, AGAIN, ASSIGN, STOP, STOPPED, RUN, END, DRAIN, STEPS };
    static const uint16_t left[STEPS] = {1, 2, 1, 1, 1, 2, 1, 2, 2};
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    uint32_t attempt = 0;
    fixture_devices(f, 2, 0);
    fixture_run(f, MESH_CAPACITY_MIN_MS);
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint64_t version = f->mesh->gossip.capacity_version;
        if (step == GRANT || step == AGAIN || step == RUN) {
            reserve(f, 0, 1, 1, 1, false);
            assert_int_equal(granted(f, 0, &token), 1);
        }
        if (step == RELEASE)
            release(f, 0, token, 1);
        else if (step == ASSIGN || step == RUN)
            assign(f, 0, 1, token, 0);
        else if (step == STOP)
            cancel(f, 0, 1, 1);
        else if (step == STOPPED || step == END)
            ran(f, attempt, MESH_DONE);
        else if (step == DRAIN)
            fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
        if (step == ASSIGN || step == RUN)
            attempt = run_of(f);
        fixture_run(f, MESH_CAPACITY_MIN_MS);
        const bool changed = step == DRAIN || left[step] != (step == 0 ? 2 : left[step - 1]);
        if ((f->mesh->gossip.capacity_version != version) != changed ||
            f->mesh->gossip.announced.class[0].free != left[step])
            fail_msg("step %u: %u", step, f->mesh->gossip.announced.class[0].free);
    }
    fixture_close(f);
}

static void hand_over(struct fixture *f, uint32_t from, uint8_t job, const struct mesh_id *home)
{
    struct mesh_message message = {.kind = MESH_HAND_OVER};
    message.body.hand_over.job = fixture_job(job);
    message.body.hand_over.epoch = 1;
    message.body.hand_over.done = true;
    message.body.hand_over.home = *home;
    fixture_message(f, from, &message);
}

static void adopted(struct fixture *f, uint32_t by, uint64_t token, uint64_t epoch)
{
    struct mesh_message message = {.kind = MESH_ADOPTED};
    message.body.adopted.name = (struct mesh_bundle_name){token, 0};
    message.body.adopted.epoch = epoch;
    fixture_message(f, by, &message);
}

/* An attempt at a job of peer 0 whose journal peer 1 keeps, too. */
static struct fixture *open_shared(uint64_t *token)
{
    struct fixture *const f = fixture_open(4);
    fixture_devices(f, 2, 0);
    reserve(f, 0, 1, 1, 1, true);
    assert_int_equal(granted(f, 0, token), 1);
    assign_shared(f, 0, 1, *token, 0, 1);
    struct mesh_members *const others = &f->mesh->executor.attempt[0].others;
    others->id[others->count++] = f->peer[0]; /* nobody else's word of it is heard */
    others->id[others->count++] = (struct mesh_id){{0xee}};
    return f;
}

/* Who keeps the job's journal is told of attempts whose home answers nothing for six seconds, at the next look. */
static void an_attempt_of_a_silent_home_is_reported_to_who_keeps_its_journal(void **state)
{
    (void)state;
    uint64_t token = 0;
    struct fixture *const f = open_shared(&token);
    struct mesh_message report, message;
    fixture_run(f, 7499);
    assert_false(sent(f, 1, MESH_REPORT));
    fixture_run(f, 1);
    assert_true(fixture_sent(f, 1, MESH_REPORT, &report));
    assert_int_equal(report.body.report.name.token, token);
    assert_int_equal(report.body.report.epoch, 1);
    assert_int_equal(report.body.report.class, 0);
    assert_int_equal(report.body.report.count, 2);
    assert_int_equal(report.body.report.shard[1], 1);
    const struct mesh_id job = fixture_job(1);
    assert_memory_equal(&report.body.report.job, &job, sizeof job);
    assert_false(sent(f, 0, MESH_REPORT) || sent(f, 2, MESH_REPORT) || sent(f, 3, MESH_REPORT));

    adopted(f, 2, token, 2); /* it keeps no copy */
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    adopted(f, 1, token, 1); /* not a later reign */
    adopted(f, 1, token + 1, 2);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 1);
    fixture_clear(f);
    fixture_run(f, 2500);
    assert_true(sent(f, 1, MESH_REPORT)); /* nobody took it yet */
    adopted(f, 1, token, 2);
    fixture_clear(f);
    fixture_run(f, 7499);
    assert_false(sent(f, 1, MESH_RENEW) || sent(f, 0, MESH_RENEW));
    fixture_run(f, 1);
    assert_true(fixture_sent(f, 1, MESH_RENEW, &message));
    assert_int_equal(message.body.renew.count, 1);
    assert_false(sent(f, 0, MESH_RENEW));
    ran(f, 0, MESH_DONE);
    assert_true(fixture_sent(f, 1, MESH_RESULT, &message));
    assert_int_equal(message.body.result.epoch, 2);
    assert_false(sent(f, 0, MESH_RESULT));
    fixture_close(f);
}

/* It has a new lease, which ends after those of others. */
static void an_adopted_attempt_has_the_last_lease(void **state)
{
    (void)state;
    uint64_t token = 0;
    struct fixture *const f = open_shared(&token);
    fixture_run(f, 1000);
    reserve(f, 0, 2, 1, 1, true);
    uint64_t second = 0;
    assert_int_equal(granted(f, 0, &second), 1);
    assign(f, 0, 2, second, 0);
    const struct executor *const executor = &f->mesh->executor;
    assert_int_equal(list_first(&executor->leases), 0);
    fixture_run(f, 1000);
    adopted(f, 1, token, 2);
    assert_int_equal(list_first(&executor->leases), 1);
    assert_true(executor->attempt[0].due_at_ms > executor->attempt[1].due_at_ms);
    fixture_close(f);
}

/* The home itself says that another one has the job, or who may have it some day. */
static void a_home_that_moved_says_so(void **state)
{
    (void)state;
    const struct mesh_id nobody = {{0}};
    for (uint32_t named = 0; named < 2; named++) {
        uint64_t token = 0;
        struct fixture *const f = open_shared(&token);
        const struct mesh_id *const home = named ? &f->peer[2] : &nobody;
        hand_over(f, 3, 1, home); /* it has nothing to say about that */
        hand_over(f, 0, 2, home); /* of another job */
        fixture_run(f, 1000);
        assert_false(sent(f, 1, MESH_REPORT) || sent(f, 2, MESH_REPORT));
        hand_over(f, 0, 1, home);
        assert_int_equal(sent(f, 1, MESH_REPORT), !named); /* one that is only named is not gone */
        assert_false(sent(f, 2, MESH_REPORT));
        fixture_run(f, 6500);
        assert_true(sent(f, 1, MESH_REPORT));
        assert_int_equal(sent(f, 2, MESH_REPORT), named);
        fixture_close(f);
    }
}

/* Results go to the home and to who keeps its journal: after 2 s, 6 s, and so on, each time half as often. */
static void results_of_a_silent_home_are_offered_more_and_more_seldom(void **state)
{
    (void)state;
    uint64_t token = 0;
    struct fixture *const f = open_shared(&token);
    ran(f, run_of(f), MESH_DONE);
    fixture_run(f, 6000);
    fixture_clear(f);
    uint32_t offers = 0;
    for (uint32_t second = 0; second < 60; second++) {
        fixture_run(f, 1000);
        const bool offered = sent(f, 1, MESH_RESULT);
        assert_int_equal(sent(f, 0, MESH_RESULT), offered);
        assert_false(sent(f, 2, MESH_RESULT));
        offers += offered;
    }
    assert_int_equal(offers, 30);    /* the only one that waits asks for all of its job */
    hand_over(f, 1, 1, &f->peer[1]); /* who is the home now is told at once */
    assert_true(sent(f, 1, MESH_RESULT));
    hand_over(f, 1, 1, &f->peer[1]); /* and not each time it says so */
    assert_false(sent(f, 1, MESH_RESULT));
    fixture_close(f);
}

/* However seldom it was sent to whom it was named before: the new home is lost in its turn, and named again. */
static void a_result_that_was_taken_over_is_offered_as_at_first(void **state)
{
    (void)state;
    uint64_t token = 0;
    struct fixture *const f = open_shared(&token);
    ran(f, run_of(f), MESH_DONE);
    fixture_run(f, EXECUTOR_LOST_MS);
    for (uint32_t named = 0; named < 2; named++) { /* the next time would be 8 s later */
        fixture_run(f, 4000);
        fixture_clear(f);
        hand_over(f, 1, 1, &f->peer[1]);
        assert_true(sent(f, 1, MESH_RESULT));
    }
    adopted(f, 1, token, 2);
    fixture_run(f, EXECUTOR_LOST_MS);
    fixture_clear(f);
    hand_over(f, 1, 1, &f->peer[1]);
    assert_true(sent(f, 1, MESH_RESULT));
    fixture_close(f);
}

/* The jobs of homes 0, 1, ... in the order in which they are given the one slot. */
static void served(struct fixture *f, uint32_t homes, uint32_t *order)
{
    for (uint32_t place = 0; place < homes; place++) {
        ran(f, run_of(f), MESH_DONE);
        order[place] = UINT32_MAX;
        for (uint32_t home = 0; home < homes; home++) {
            uint64_t token = 0;
            if (granted(f, home, &token) == 0)
                continue;
            assert_int_equal(order[place], UINT32_MAX);
            order[place] = home;
            assign(f, home, (uint8_t)(home + 2), token, 0);
        }
    }
}

static void who_has_waited_longest_is_served_first(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(4);
    uint32_t order[4];
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    wish(f, 0, 2, 1, 500, true);
    wish(f, 1, 3, 1, 3000, true);  /* came later and has waited longer */
    reserve(f, 2, 4, 4, 1, false); /* does not say: waits since it came */
    fixture_run(f, 1000);
    wish(f, 3, 5, 1, 2000, true); /* between the two */
    served(f, 4, order);
    const uint32_t expected[4] = {1, 3, 0, 2};
    assert_memory_equal(order, expected, sizeof order);
    fixture_close(f);
}

/* Who would hold more than half of the slots comes after all others, however long it has waited. */
static void homes_that_hold_half_come_last(void **state)
{
    (void)state;
    for (uint16_t held = 1; held <= 2; held++) { /* of four slots */
        struct fixture *const f = fixture_open(3);
        uint64_t token = 0;
        fixture_devices(f, 4, 0);
        occupy(f, 0, 1, held);
        while (did(f, MESH_RUN))
            ;
        occupy(f, 2, 9, 4 - held);
        wish(f, 0, 2, 2, 5000, true);
        wish(f, 1, 3, 2, 0, true);
        for (uint32_t place = 0; place < 2; place++) {
            ran(f, run_of(f), MESH_DONE);
            const uint32_t next = place == 0 && held == 1 ? 0 : 1;
            assert_int_equal(granted(f, next, &token), 1);
            assert_int_equal(granted(f, 1 - next, &token), 0);
        }
        fixture_close(f);
    }
}

/* Where all hold half, homes take turns, though their jobs are of one tenant. */
static void the_turn_is_the_homes_whose_tenant_has_jobs_elsewhere(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(3);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    occupy(f, 0, 1, 1);
    occupy(f, 1, 2, 1);
    occupy(f, 2, 3, 2); /* they wait behind the others */
    reserve(f, 0, 4, 5, 1, true);
    reserve(f, 0, 5, 5, 1, true);
    reserve(f, 1, 6, 5, 1, true);
    for (uint32_t place = 0; place < 2; place++) {
        ran(f, 2 + place, MESH_RETURNED);
        assert_int_equal(granted(f, place, &token), 1);
        assert_int_equal(granted(f, 1 - place, &token), 0);
    }
    fixture_close(f);
}

static void waiting_counts_for_10_s(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(3);
    uint32_t order[3];
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    wish(f, 0, 2, 1, 9999, true);
    wish(f, 1, 3, 1, 10000, true);
    wish(f, 2, 4, 1, UINT32_MAX, true); /* as long as the one before, and came later */
    served(f, 3, order);
    const uint32_t expected[3] = {1, 2, 0};
    assert_memory_equal(order, expected, sizeof order);
    fixture_close(f);
}

/* A job that takes hours must not keep its place in line for ever. */
static void who_asks_for_more_has_waited_10_s_at_most_from_then_on(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint32_t order[2];
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    wish(f, 0, 2, 1, 10000, true);
    wish(f, 1, 3, 1, 0, true);
    fixture_run(f, 11000);
    wish(f, 0, 2, 2, 21000, true);
    served(f, 2, order);
    const uint32_t expected[2] = {1, 0};
    assert_memory_equal(order, expected, sizeof order);
    fixture_close(f);
}

static void a_patient_wish_is_answered_with_places_alone(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    wish(f, 0, 2, 1, 0, false);
    assert_true(sent(f, 0, MESH_WAIT));
    wish(f, 0, 3, 1, 0, true);
    assert_false(sent(f, 0, MESH_WAIT));
    assert_int_equal(view(f).demands, 2);
    wish(f, 0, 2, 0, 0, false);
    ran(f, run_of(f), MESH_DONE);
    assert_int_equal(granted(f, 0, &token), 1);
    fixture_close(f);
}

/* A bundle of one shard of that kernel runs to its end, `for_ms` long. */
static void learn(struct fixture *f, uint64_t kernel, int64_t for_ms)
{
    uint64_t token = 0;
    wish(f, 0, 9, 1, 0, false);
    assert_int_equal(granted(f, 0, &token), 1);
    struct mesh_message message = {.kind = MESH_ASSIGN};
    message.body.assign.name = (struct mesh_bundle_name){token, 0};
    message.body.assign.job = fixture_job(9);
    message.body.assign.epoch = 1;
    message.body.assign.kernel = kernel;
    message.body.assign.count = 1;
    message.body.assign.handle = fixture_handle(f);
    fixture_message(f, 0, &message);
    fixture_run(f, for_ms);
    struct mesh_event event = {.kind = MESH_RAN};
    event.body.ran.attempt = run_of(f);
    event.body.ran.count = 1;
    event.body.ran.outcome[0] = MESH_DONE;
    event.body.ran.device_us = (uint64_t)for_ms * 1000;
    fixture_step(f, &event);
}

/* Starts a bundle of one shard in each of `count` slots. */
static void start(struct fixture *f, uint64_t kernel, uint16_t count)
{
    uint64_t token = 0;
    wish(f, 0, 8, count, 0, false);
    assert_int_equal(granted(f, 0, &token), count);
    for (uint16_t i = 0; i < count; i++) {
        struct mesh_message message = {.kind = MESH_ASSIGN};
        message.body.assign.name = (struct mesh_bundle_name){token, i};
        message.body.assign.job = fixture_job(8);
        message.body.assign.epoch = 1;
        message.body.assign.kernel = kernel;
        message.body.assign.count = 1;
        message.body.assign.handle = fixture_handle(f);
        fixture_message(f, 0, &message);
    }
}

static void places_behind_long_bundles_are_those_about_to_end(void **state)
{
    (void)state;
    for (int64_t after_ms = 8000; after_ms <= 8900; after_ms += 900) {
        struct fixture *const f = fixture_open(1);
        uint64_t token = 0;
        fixture_devices(f, 4, 0);
        for (int i = 0; i < 40; i++)
            learn(f, 7, 9000); /* the spread goes to nothing */
        start(f, 7, 3);
        fixture_run(f, after_ms - 500);
        wish(f, 0, 2, 9, 0, false);
        const uint32_t free_now = granted(f, 0, &token);
        assert_int_equal(free_now, after_ms == 8000 ? 1 : 4);
        fixture_close(f);
    }
}

enum { ALIKE = 1000 }; /* attempts, of which each one's chance in thousandths makes so many places */

/*
 * Places that are promised before they are free. Of bundles of a second and more as many as end within a second; of long
 * ones, while a slot is free, by how long each has run, against what bundles of its kernel take.
 */
static void places_are_promised_ahead_by_what_ends_within_a_second(void **state)
{
    (void)state;
    static const struct {
        uint32_t bundle_ms, slots, granted, running;
        uint64_t kernel; /* 7 takes 8 s, give or take half a second */
        uint32_t shards;
        int64_t ran_ms;
        uint32_t ahead;
    } cases[] = {
        {999, 40, 0, 0, 0, 1, 0, 0},
        {1000, 40, 0, 0, 0, 1, 0, 40},
        {2000, 40, 0, 0, 0, 1, 0, 20},
        {3999, 4, 0, 0, 0, 1, 0, 1},
        {2000, 40, 40, 0, 0, 1, 0, 20},
        {2000, 40, 41, 0, 0, 1, 0, 0},
        {4000, ALIKE + 1, 0, ALIKE, 5, 1, 1, 250},
        {4000, ALIKE, 0, ALIKE, 5, 1, 1, 0},
        {4000, ALIKE + 1, 1, ALIKE, 5, 1, 1, 0},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 6000, 0},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 6001, 0},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 6500, 249},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 7000, 499},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 8000, 999},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 8500, 1000},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 9000, 1000},
        {8000, ALIKE + 1, 0, ALIKE, 7, 1, 9001, 125}, /* it is late: nothing is known of it */
        {8000, ALIKE + 1, 0, ALIKE, 7, 2, 14500, 285},
        {8000, ALIKE + 1, 0, ALIKE, 39, 1, 7000, 125}, /* where 7 stands */
    };
    struct attempt *const attempt = calloc(ALIKE, sizeof *attempt);
    struct list_link *const link = calloc(ALIKE, sizeof *link);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct executor executor = {.attempt = attempt, .class_link = link};
        struct executor_class *const class = &executor.class[1];
        class->slots = cases[i].slots;
        class->granted = cases[i].granted;
        class->bundle_ms = cases[i].bundle_ms;
        executor.pace[7] = (struct pace){.kernel = 7, .mean_us = 8000000, .spread_us = 500000};
        for (uint32_t slot = 0; slot < cases[i].running; slot++) {
            attempt[slot].kernel = cases[i].kernel;
            attempt[slot].count = cases[i].shards;
            attempt[slot].began_at_ms = 50000 - cases[i].ran_ms;
            list_append(&class->running, link, slot);
        }
        const uint32_t ahead = executor_ahead(&executor, 1, 50000);
        if (ahead != cases[i].ahead)
            fail_msg("case %zu: %u", i, ahead);
    }
    free(attempt);
    free(link);
}

static void what_bundles_take_here_is_a_moving_average(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    const struct pace *const pace = &f->mesh->executor.pace[7];
    fixture_devices(f, 2, 0);
    learn(f, 7, 4000);
    assert_int_equal(f->mesh->executor.class[0].bundle_ms, 4000);
    assert_int_equal(pace->mean_us, 4000001);
    assert_int_equal(pace->spread_us, 500000);
    learn(f, 7, 8000);
    assert_int_equal(f->mesh->executor.class[0].bundle_ms, 4500);
    assert_int_equal(pace->spread_us, (500000 * 15 + 3999999) / 16);
    assert_int_equal(pace->mean_us, (4000001 * 15 + 8000000) / 16 + 1);
    learn(f, 7, 100);
    assert_int_equal(f->mesh->executor.class[0].bundle_ms, 3950);
    assert_int_equal(pace->spread_us, (718749 * 15 + 4150001) / 16);
    learn(f, 7 + EXECUTOR_PACES, 1000); /* takes its place */
    assert_int_equal(pace->kernel, 7 + EXECUTOR_PACES);
    assert_int_equal(pace->mean_us, 1000001);
    assert_int_equal(pace->spread_us, 125000);
    fixture_close(f);
}

/* Of the session, of a counter, and of the grant's slot. */
static void tokens_are_never_used_twice(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    fixture_devices(f, 20, 0);
    const uint64_t session = UINT64_C(0xabcdef) << 44;
    reserve(f, 0, 1, 1, 9, true);
    assert_int_equal(granted(f, 0, &token), 9);
    assert_true(token == (session | 1 << 10));
    reserve(f, 0, 2, 1, 1, true);
    assert_int_equal(granted(f, 0, &token), 1);
    assert_true(token == (session | 2 << 10 | 1));
    release(f, 0, token, 1);
    reserve(f, 0, 3, 1, 1, true);
    assert_int_equal(granted(f, 0, &token), 1);
    assert_true(token == (session | 3 << 10 | 1));
    fixture_close(f);
}

/* Who is told what is free counts what others wait for, too. */
static void demands_count_as_waiting(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 2);
    assert_int_equal(view(f).class[0].waiting, 1);
    wish(f, 0, 2, 5, 0, true);
    wish(f, 1, 3, 7, 0, true);
    assert_int_equal(view(f).class[0].waiting, 13);
    wish(f, 1, 3, 4, 0, true);
    assert_int_equal(view(f).class[0].waiting, 10);
    wish(f, 0, 2, 0, 0, true);
    assert_int_equal(view(f).class[0].waiting, 5);
    uint64_t token = 0;
    ran(f, run_of(f), MESH_DONE);
    assert_int_equal(granted(f, 1, &token), 0); /* the one that waited runs now */
    ran(f, run_of(f), MESH_DONE);
    assert_int_equal(granted(f, 1, &token), 1);
    assert_int_equal(view(f).class[0].waiting, 3);
    wish(f, 0, 4, UINT16_MAX, 0, true);
    assert_int_equal(view(f).class[0].waiting, UINT16_MAX);
    fixture_close(f);
}

static void results_of_long_bundles_are_sent_again_after_8_s(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 2, 0);
    learn(f, 7, 4000);
    assert_true(sent(f, 0, MESH_RESULT));
    learn(f, 7, 3999); /* ended later, and is sent again earlier */
    assert_true(sent(f, 0, MESH_RESULT));
    fixture_run(f, 1999);
    assert_false(sent(f, 0, MESH_RESULT));
    fixture_run(f, 1);
    assert_true(sent(f, 0, MESH_RESULT));
    assert_false(sent(f, 0, MESH_RESULT));
    fixture_run(f, 2001); /* 8 s after the first */
    assert_true(sent(f, 0, MESH_RESULT));
    assert_int_equal(view(f).unacked, 2);
    fixture_close(f);
}

static void a_price_above_the_limit_is_never_granted(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    uint64_t token = 0;
    struct mesh_event event = {.kind = MESH_DEVICES};
    event.body.devices.class[0].slots = 1;
    event.body.devices.price_micro = 100;
    fixture_step(f, &event);
    struct mesh_message message = {.kind = MESH_RESERVE};
    message.body.reserve.classes = 1;
    message.body.reserve.wanted = 1;
    message.body.reserve.price_limit_micro = 99;
    fixture_message(f, 0, &message);
    assert_int_equal(granted(f, 0, &token), 0);
    message.body.reserve.price_limit_micro = 100;
    fixture_message(f, 0, &message);
    assert_int_equal(granted(f, 0, &token), 1);
    fixture_close(f);
}

/* Down is our view only; who speaks to us can be served, and its lease decides about the rest. */
static void a_home_that_is_down_here_but_heard_is_served(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    fixture_devices(f, 2, 0);
    f->silent[0] = true;
    fixture_run(f, 11000);
    struct mesh_record alert = {.kind = MESH_RECORD_ALERT};
    alert.body.alert.subject = f->peer[0];
    alert.body.alert.subject_incarnation = 1;
    alert.body.alert.accuses = true;
    fixture_record(f, 1, alert);
    fixture_run(f, 4000);
    assert_int_equal(mesh_counters(f->mesh)->downs, 1);
    struct mesh_message reserve = {.kind = MESH_RESERVE};
    reserve.body.reserve.job = fixture_job(1);
    reserve.body.reserve.epoch = 1;
    reserve.body.reserve.classes = 1;
    reserve.body.reserve.wanted = 1;
    fixture_message(f, 0, &reserve);
    struct mesh_message grant;
    assert_true(fixture_sent(f, 0, MESH_GRANT, &grant));
    assert_int_equal(grant.body.grant.places, 1);
    fixture_close(f);
}

static void a_revoked_home_loses_everything_here(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    uint64_t token = 0;
    fixture_devices(f, 2, 0);
    occupy(f, 0, 1, 2);
    reserve(f, 0, 2, 1, 9, true);
    assert_int_equal(granted(f, 0, &token), 2);
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION};
    record.body.revocation.subject = f->peer[0];
    fixture_record(f, 1, record);
    assert_true(did(f, MESH_STOP));
    assert_true(did(f, MESH_STOP));
    assert_int_equal(view(f).granted + view(f).demands, 0);
    fixture_close(f);
}

static void a_short_report_counts_as_a_crash_of_the_rest(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(1);
    fixture_devices(f, 1, 0);
    occupy(f, 0, 1, 1);
    struct mesh_event event = {.kind = MESH_RAN};
    event.body.ran.attempt = run_of(f);
    event.body.ran.count = 1;
    event.body.ran.outcome[0] = 77;
    fixture_step(f, &event);
    struct mesh_message result;
    assert_true(fixture_sent(f, 0, MESH_RESULT, &result));
    assert_int_equal(result.body.result.shard[0].outcome, MESH_CRASHED);
    assert_int_equal(result.body.result.shard[1].outcome, MESH_CRASHED);
    fixture_close(f);
}

static void stops_beyond_one_output_follow_in_the_next_steps(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 1024, .demands = 2};
    struct fixture *const f = fixture_open_limits(1, &limits, NULL);
    fixture_devices(f, 512, 0);
    uint64_t token = 0;
    uint32_t bundles = 0;
    reserve(f, 0, 1, 1, 1024, true);
    for (uint32_t places; (places = granted(f, 0, &token)) > 0;) {
        for (uint32_t i = 0; i < places; i++)
            assign(f, 0, 1, token, i);
        bundles += places;
    }
    assert_int_equal(bundles, 1024);
    cancel(f, 0, 1, 1);
    assert_in_range(mesh_counters(f->mesh)->bound_out, 1, 100);
    fixture_run(f, 1);
    for (uint32_t i = 0; i < 1024; i++)
        assert_true(did(f, MESH_STOP));
    assert_false(did(f, MESH_STOP));
    fixture_close(f);
}

static void grants_beyond_one_output_follow_in_the_next_step(void **state)
{
    (void)state;
    enum { HOMES = 8, JOBS = 30, DEMANDS = HOMES * JOBS };
    const struct mesh_limits limits = {
        .members = 16, .jobs = 2, .shards = 16, .bundles = 4, .attempts = 512, .demands = DEMANDS};
    struct fixture *const f = fixture_open_limits(HOMES, &limits, NULL);
    for (uint32_t i = 0; i < DEMANDS; i++)
        reserve(f, i % HOMES, (uint8_t)i, i, 1, false);
    assert_int_equal(view(f).demands, DEMANDS);
    fixture_clear(f);
    fixture_devices(f, DEMANDS, 0);
    const uint32_t first = view(f).granted;
    assert_in_range(first, MESH_OUT_SENDS_MAX / 2, DEMANDS - 1);
    assert_int_equal(view(f).demands, DEMANDS - first);
    assert_int_equal(mesh_counters(f->mesh)->grants, first);
    assert_in_range(mesh_counters(f->mesh)->bound_out, 1, 100);
    assert_int_equal(f->wake_at_ms, f->now_ms);
    fixture_tick(f);
    assert_int_equal(view(f).granted, DEMANDS);
    assert_int_equal(view(f).demands, 0);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grants_reach_the_slots_and_not_beyond),
        cmocka_unit_test(a_kernel_that_does_not_run_here_is_refused_and_takes_no_place),
        cmocka_unit_test(users_kernels_are_granted_on_the_classes_that_take_them),
        cmocka_unit_test(a_grant_is_for_its_home_job_class_and_index_only),
        cmocka_unit_test(nonsense_is_counted_and_changes_nothing),
        cmocka_unit_test(an_assign_is_idempotent_by_name),
        cmocka_unit_test(a_grant_expires_after_2500_ms),
        cmocka_unit_test(a_place_that_is_free_again_is_announced_in_time),
        cmocka_unit_test(released_places_go_to_who_waits),
        cmocka_unit_test(a_freed_place_goes_to_who_waits),
        cmocka_unit_test(turns_are_by_home_and_tenant),
        cmocka_unit_test(an_attempt_acknowledged_before_its_end_is_stopped_and_forgotten),
        cmocka_unit_test(results_are_sent_until_acknowledged_and_held_ten_minutes),
        cmocka_unit_test(a_lease_ends_20_s_after_the_last_renewal),
        cmocka_unit_test(renewals_are_split_at_64),
        cmocka_unit_test(a_cancel_stops_and_nothing_comes_back),
        cmocka_unit_test(a_draining_node_has_places_for_its_own_jobs_alone),
        cmocka_unit_test(draining_gives_back_what_waits),
        cmocka_unit_test(the_owner_takes_slots_back),
        cmocka_unit_test(a_device_that_goes_takes_its_own_attempts_along),
        cmocka_unit_test(bounds_of_demands_and_attempts_hold),
        cmocka_unit_test(demand_beyond_the_bound_is_granted_what_is_free),
        cmocka_unit_test(the_oldest_result_of_a_lost_home_makes_room_at_the_bound),
        cmocka_unit_test(results_of_a_home_that_is_down_make_room_too),
        cmocka_unit_test(a_demand_is_forgotten_after_40_s),
        cmocka_unit_test(each_change_of_what_is_free_is_announced),
        cmocka_unit_test(an_attempt_of_a_silent_home_is_reported_to_who_keeps_its_journal),
        cmocka_unit_test(an_adopted_attempt_has_the_last_lease),
        cmocka_unit_test(a_home_that_moved_says_so),
        cmocka_unit_test(results_of_a_silent_home_are_offered_more_and_more_seldom),
        cmocka_unit_test(a_result_that_was_taken_over_is_offered_as_at_first),
        cmocka_unit_test(who_has_waited_longest_is_served_first),
        cmocka_unit_test(homes_that_hold_half_come_last),
        cmocka_unit_test(the_turn_is_the_homes_whose_tenant_has_jobs_elsewhere),
        cmocka_unit_test(waiting_counts_for_10_s),
        cmocka_unit_test(who_asks_for_more_has_waited_10_s_at_most_from_then_on),
        cmocka_unit_test(a_patient_wish_is_answered_with_places_alone),
        cmocka_unit_test(places_behind_long_bundles_are_those_about_to_end),
        cmocka_unit_test(places_are_promised_ahead_by_what_ends_within_a_second),
        cmocka_unit_test(what_bundles_take_here_is_a_moving_average),
        cmocka_unit_test(tokens_are_never_used_twice),
        cmocka_unit_test(demands_count_as_waiting),
        cmocka_unit_test(results_of_long_bundles_are_sent_again_after_8_s),
        cmocka_unit_test(a_price_above_the_limit_is_never_granted),
        cmocka_unit_test(a_home_that_is_down_here_but_heard_is_served),
        cmocka_unit_test(a_revoked_home_loses_everything_here),
        cmocka_unit_test(a_short_report_counts_as_a_crash_of_the_rest),
        cmocka_unit_test(stops_beyond_one_output_follow_in_the_next_steps),
        cmocka_unit_test(grants_beyond_one_output_follow_in_the_next_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
