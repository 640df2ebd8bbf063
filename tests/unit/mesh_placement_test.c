/* Where a home asks for places: what a place costs, how many it asks for, and how much work one gets. */
#include "mesh/internal.h"

#include "mesh_home_fixture.h"

enum { SUBJECT, YARDSTICK }; /* at the same price the first one is asked */

#define LIMIT_MICRO 1000

/* What a member says of itself, and what we know of it. */
struct place {
    uint16_t slots, vacant, waiting;
    uint32_t price_micro;
    int64_t ends_in_ms; /* its owner takes it back; 0 = never */
    bool resident;      /* it holds the job's largest input */
    uint32_t rtt_us;    /* 0 = not measured */
    uint32_t delivered; /* of a thousand places promised; 0 = nothing is known */
};

static struct member_notes *notes_of(struct fixture *f, uint32_t peer)
{
    return members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[peer]));
}

static void describe(struct fixture *f, uint32_t peer, const struct place *place)
{
    struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.class[0] =
        (struct mesh_class_capacity){.slots = place->slots, .free = place->vacant, .waiting = place->waiting};
    record.body.capacity.price_micro = place->price_micro;
    record.body.capacity.available_until_ms =
        place->ends_in_ms == 0 ? 0 : FIXTURE_WALL_MS + f->now_ms + place->ends_in_ms;
    record.body.capacity.resident_count = place->resident;
    record.body.capacity.resident[0] = 77;
    fixture_record(f, peer, record);
    notes_of(f, peer)->rtt_us = place->rtt_us;
    notes_of(f, peer)->delivered_permille = place->delivered;
}

struct work {
    uint32_t shards, shard_us;
    uint64_t input_bytes;
};

/* Whether the subject is asked before a member that has one free slot at that distance. */
static bool goes_before(const struct place *place, const struct work *work, uint32_t yard_us)
{
    struct fixture *const f = fixture_open(2);
    const struct place yard = {.slots = 1, .vacant = 1, .rtt_us = yard_us};
    describe(f, SUBJECT, place);
    describe(f, YARDSTICK, &yard);
    fixture_clear(f);
    struct mesh_job_spec spec = spec_of(1, work->shards);
    spec.shard_us_guess = work->shard_us;
    spec.memory_bytes = work->input_bytes;
    spec.broadcast_bytes = work->input_bytes / 2;
    spec.broadcast = 77;
    spec.price_limit_micro = LIMIT_MICRO;
    submit_spec(f, &spec);
    bool first = false;
    for (uint32_t i = f->send_count; i-- > 0;) {
        if (f->send[i].message.kind == MESH_RESERVE)
            first = !memcmp(&f->send[i].to, &f->peer[SUBJECT], sizeof f->peer[0]);
    }
    fixture_close(f);
    return first;
}

/*
 * Each term by itself: `worth_ms` is how far away a member with one free slot may be to cost as much. Asking is 200 ms,
 * shared by the places that are free and needed; where none is free, a bundle's time for each that waits, by the slots.
 */
static void a_place_costs_what_it_lets_wait(void **state)
{
    (void)state;
    const struct work one = {1, 2000000, 0}, four = {4, 2000000, 0}, two = {2, 2000000, 0},
                      unknown = {1, 0, 0}, fed = {1, 2000000, 30000000}, well_fed = {3, 2000000, 30000000};
    const struct {
        struct place place;
        const struct work *work;
        uint32_t worth_ms;
    } cases[] = {
        {{.slots = 4, .vacant = 2, .rtt_us = 40000}, &one, 40},
        {{.slots = 4, .vacant = 2, .rtt_us = 40999}, &one, 40},
        {{.slots = 4, .vacant = 2}, &one, 100}, /* not measured */
        {{.slots = 4, .vacant = 2, .rtt_us = 990000}, &one, 990},
        {{.slots = 4, .vacant = 4, .rtt_us = 300000}, &four, 150}, /* 50 + 300 */
        {{.slots = 4, .vacant = 4, .rtt_us = 300000}, &two, 200},  /* no more than are needed */
        {{.slots = 4, .vacant = 0, .rtt_us = 1000}, &one, 501},    /* 2,001 / 4 */
        {{.slots = 8, .vacant = 0, .waiting = 2, .rtt_us = 1000}, &one, 751},
        {{.slots = 4, .vacant = 0, .rtt_us = 1000}, &unknown, 251}, /* a second is guessed */
        {{.slots = 1, .vacant = 1, .rtt_us = 250000}, &fed, 250},   /* both are sent 300 ms of inputs */
        {{.slots = 1, .vacant = 1, .rtt_us = 250000, .resident = true}, &fed, 100}, /* half of them */
        {{.slots = 3, .vacant = 3, .rtt_us = 600000}, &well_fed, 266},              /* 500 / 3 + 600 - 500 */
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .price_micro = 500}, &one, 250},
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .price_micro = LIMIT_MICRO}, &one, 400},
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .delivered = 500}, &one, 400},
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .delivered = 250}, &one, 1000},
        {{.slots = 4, .vacant = 4, .rtt_us = 1000, .delivered = 50}, &four, 820},
        {{.slots = 4, .vacant = 4, .rtt_us = 1000, .delivered = 1},
         &four,
         820}, /* it is tried now and then */
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .ends_in_ms = 2001}, &one, 100},
        {{.slots = 1, .vacant = 1, .rtt_us = 100000, .ends_in_ms = 2000}, &one, 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bool dear = goes_before(&cases[i].place, cases[i].work, (cases[i].worth_ms - 1) * 1000 + 999);
        const bool even = goes_before(&cases[i].place, cases[i].work, cases[i].worth_ms * 1000);
        if (dear || !even)
            fail_msg("case %zu costs %s than %u ms", i, dear ? "less" : "more", cases[i].worth_ms);
    }
}

static void a_member_of_no_use_is_not_asked(void **state)
{
    (void)state;
    const struct work one = {1, 2000000, 0};
    const struct place useless[] = {
        {.slots = 1, .vacant = 1, .price_micro = LIMIT_MICRO + 1},
        {.slots = 0, .vacant = 0},
    };
    for (size_t i = 0; i < sizeof useless / sizeof useless[0]; i++)
        assert_false(goes_before(&useless[i], &one, 1000000));
}

/* The only member, by what it has, and what it is asked for. */
static void as_many_places_are_asked_for_as_come_in_good_time(void **state)
{
    (void)state;
    static const struct {
        struct place place;
        struct work work;
        uint16_t wanted;
        bool deep;
    } cases[] = {
        {{.slots = 4, .vacant = 4}, {3, 2000000, 0}, 3, false},
        {{.slots = 4, .vacant = 4}, {100, 20000000, 0}, 4, false}, /* what is free */
        {{.slots = 4, .vacant = 1}, {100, 2000000, 0}, 6, false},  /* three times what ends within a second */
        {{.slots = 4, .vacant = 0}, {100, 20000000, 0}, 2, false}, /* or within a tenth of a bundle's time */
        {{.slots = 4, .vacant = 0}, {100, 9000000, 0}, 2, false},
        {{.slots = 4, .vacant = 0}, {100, 0, 0}, 12, false}, /* a second is guessed */
        {{.slots = 4, .vacant = 0}, {5, 0, 0}, 5, false},    /* no more than are needed */
        {{.slots = 4, .vacant = 4}, {100, 999999, 0}, 12, true},
        {{.slots = 4, .vacant = 4}, {100, 1000000, 0}, 12, false},
        {{.slots = 40, .vacant = 4, .waiting = 10}, {60, 900000, 0}, 60, true}, /* 4 and 30 behind others */
        {{.slots = 90, .vacant = 0}, {64, 0, 0}, 64, false},
        {{.slots = 2, .vacant = 2}, {50, 1000, 0}, 3, true}, /* bundles of 20 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = fixture_open(1);
        describe(f, 0, &cases[i].place);
        fixture_clear(f);
        struct mesh_job_spec spec = spec_of(1, cases[i].work.shards);
        spec.shard_us_guess = cases[i].work.shard_us;
        submit_spec(f, &spec);
        struct mesh_message reserve;
        assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
        if (reserve.body.reserve.wanted != cases[i].wanted || reserve.body.reserve.deep != cases[i].deep)
            fail_msg("case %zu: %u, deep %d", i, reserve.body.reserve.wanted, reserve.body.reserve.deep);
        fixture_close(f);
    }
}

static struct job job_of(uint32_t guess_us, uint32_t most)
{
    struct job job = {.spec.shard_us_guess = guess_us, .spec.bundle_shards_max = most};
    placement_guess(&job);
    return job;
}

static void a_bundle_is_guessed_to_be_20_ms(void **state)
{
    (void)state;
    static const struct {
        uint32_t guess_us, most, cap;
    } cases[] = {{0, 256, 1},     {1, 256, 256},   {100, 150, 150}, {100, 200, 200}, {100, 256, 200},
                 {1000, 256, 20}, {20000, 256, 1}, {20001, 256, 1}, {9999, 256, 2},  {10001, 256, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct job job = job_of(cases[i].guess_us, cases[i].most);
        assert_int_equal(job.shard_ns, cases[i].guess_us * 1000u);
        assert_int_equal(job.bundle_cap, cases[i].cap);
    }
}

static void what_shards_take_is_a_moving_average(void **state)
{
    (void)state;
    struct job job = job_of(0, 6);
    placement_learn(&job, 1000, 2);
    assert_int_equal(job.shard_ns, 500001);
    assert_int_equal(job.bundle_cap, 2);
    placement_learn(&job, 4000, 1);
    assert_int_equal(job.shard_ns, (3 * 500001 + 4000001) / 4);
    assert_int_equal(job.bundle_cap, 4);
    placement_learn(&job, 4000, 1);
    assert_int_equal(job.bundle_cap, 6);
    const uint64_t hour_ns = 3600ull * 1000 * 1000 * 1000;
    job.shard_ns = 0;
    placement_learn(&job, UINT64_MAX, 3); /* an hour is believed, no more */
    assert_true(job.shard_ns == hour_ns + 1);
    job.shard_ns = 0;
    placement_learn(&job, 3600000000u - 1, 1);
    assert_true(job.shard_ns == hour_ns - 1000 + 1);
}

/* By the time that they take, and two round trips at least; near the end in halves of what is left for each place. */
static void a_bundle_has_so_many_shards(void **state)
{
    (void)state;
    static const struct {
        uint32_t guess_us, cap, rtt_us, queued, places, out, expected, shards;
    } cases[] = {
        {0, 256, 0, 100, 1, 0, 0, 1},
        {1000, 256, 0, 1000, 1, 0, 0, 20},
        {1000, 256, 10000, 1000, 1, 0, 0, 20},
        {1000, 256, 10500, 1000, 1, 0, 0, 21},
        {1000, 256, 30000, 1000, 1, 0, 0, 60},
        {1000, 50, 30000, 1000, 1, 0, 0, 50},
        {10000, 256, 1000000, 1000, 1, 0, 0, 200},
        {10000, 256, 2000000, 1000, 1, 0, 0, 200},
        {50000, 256, 0, 1000, 1, 0, 0, 1},
        {1000, 256, 0, 30, 1, 0, 0, 15},
        {1000, 256, 0, 31, 1, 0, 0, 16},
        {1000, 256, 0, 30, 3, 0, 0, 5},
        {1000, 256, 0, 30, 1, 2, 0, 5},
        {1000, 256, 0, 30, 1, 1, 3, 3},
        {1000, 256, 0, 1, 4, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct job job = job_of(cases[i].guess_us, 256);
        job.bundle_cap = cases[i].cap;
        job.queued = cases[i].queued;
        job.bundles.count = cases[i].out;
        job.expected = cases[i].expected;
        const uint32_t shards = placement_bundle_shards(NULL, &job, cases[i].rtt_us, cases[i].places);
        if (shards != cases[i].shards)
            fail_msg("case %zu: %u", i, shards);
    }
}

static void what_a_member_delivers_is_an_average_of_eight(void **state)
{
    (void)state;
    static const struct {
        uint32_t before, got, promised, after;
    } cases[] = {{0, 0, 4, 875},   {0, 4, 4, 1000}, {0, 1, 4, 906}, {800, 0, 1, 700},
                 {800, 1, 1, 825}, {50, 0, 1, 43},  {10, 0, 1, 43}, {49, 1, 1, 168}};
    struct fixture *const f = fixture_open(1);
    struct step step = {.mesh = f->mesh};
    const uint32_t member = members_find(f->mesh, &f->peer[0]);
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &f->peer[0], &view));
    assert_int_equal(view.delivered_permille, 1000); /* of whom nothing is known, all is expected */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        notes_of(f, 0)->delivered_permille = cases[i].before;
        placement_delivered(&step, member, cases[i].got, cases[i].promised);
        assert_int_equal(notes_of(f, 0)->delivered_permille, cases[i].after);
    }
    fixture_close(f);
}

static bool ask_is(struct fixture *f, uint8_t job, uint32_t peer, struct mesh_ask_view *view)
{
    const struct mesh_id id = fixture_job(job);
    return mesh_job_ask(f->mesh, &id, &f->peer[peer], view);
}

static void wait_for(struct fixture *f, uint32_t from, uint8_t job)
{
    struct mesh_message wait = {.kind = MESH_WAIT};
    wait.body.wait.job = fixture_job(job);
    fixture_message(f, from, &wait);
}

/* What was asked for counts as taken there until an answer tells, and so does what was granted until it is used. */
static void what_is_asked_for_is_remembered_until_it_is_answered(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_ask_view ask;
    struct mesh_job_spec spec = spec_of(1, 8);
    spec.shard_us_guess = 2000000;
    submit_spec(f, &spec);
    const uint32_t *const debit = &notes_of(f, 0)->debit[0];
    assert_int_equal(*debit, 2);
    f->now_ms += 300;
    fixture_tick(f);
    assert_true(ask_is(f, 1, 0, &ask));
    assert_int_equal(ask.wanted, 3); /* two are free, and a second's worth of two slots */
    assert_int_equal(ask.for_ms, 300);
    assert_false(ask.refused);
    assert_false(ask_is(f, 2, 0, &ask)); /* another job */
    grant(f, 0, 1, 7, 1);
    assert_int_equal(*debit, 1); /* one was used, the other is not to be had */
    const struct mesh_message first = assigned(f, 0);
    assert_true(ask_is(f, 1, 0, &ask));
    assert_int_equal(ask.wanted, 2);
    wait_for(f, 0, 1);
    assert_int_equal(*debit, 1);
    result(f, 0, &first, MESH_DONE);
    assert_int_equal(*debit, 0);
    grant(f, 0, 1, 0, 0);
    assert_true(ask_is(f, 1, 0, &ask));
    assert_true(ask.refused);
    assert_int_equal(ask.for_ms, 0);
    about_job(f, MESH_CANCEL_JOB, 1);
    assert_false(ask_is(f, 1, 0, &ask));
    fixture_close(f);
}

/* A capacity may be older than our asks: half of what they took off is believed. */
static void news_of_a_member_halve_what_was_asked_for_there(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    fixture_capacity(f, 0, 16, 8, 0);
    struct mesh_job_spec spec = spec_of(1, 8);
    spec.shard_us_guess = 2000000;
    submit_spec(f, &spec);
    assert_int_equal(notes_of(f, 0)->debit[0], 8);
    for (uint32_t left = 4; left > 0; left /= 2) {
        fixture_capacity(f, 0, 16, 0, 0);
        assert_int_equal(notes_of(f, 0)->debit[0], left);
    }
    fixture_capacity(f, 0, 16, 0, 0);
    assert_int_equal(notes_of(f, 0)->debit[0], 0);
    fixture_close(f);
}

static void what_is_asked_says_all_of_its_job(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_job_spec spec = spec_of(1, 2);
    spec.epoch = 4;
    spec.tenant = 5;
    spec.kernel = 6;
    spec.memory_bytes = 7;
    spec.price_limit_micro = 8;
    spec.classes = 3;
    submit_spec(f, &spec);
    struct mesh_message reserve;
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
    assert_memory_equal(&reserve.body.reserve.job, &spec.id, sizeof spec.id);
    assert_int_equal(reserve.body.reserve.epoch, spec.epoch);
    assert_int_equal(reserve.body.reserve.tenant, spec.tenant);
    assert_int_equal(reserve.body.reserve.kernel, spec.kernel);
    assert_int_equal(reserve.body.reserve.memory_bytes, spec.memory_bytes);
    assert_int_equal(reserve.body.reserve.price_limit_micro, spec.price_limit_micro);
    assert_int_equal(reserve.body.reserve.classes, spec.classes);
    assert_int_equal(reserve.body.reserve.wanted, 2);
    struct mesh_effect effect;
    assert_true(fixture_did(f, MESH_DECISION, &effect));
    assert_int_equal(effect.body.decision.why, MESH_WHY_RESERVED);
    assert_memory_equal(&effect.body.decision.member, &f->peer[0], sizeof f->self);
    assert_int_equal(effect.body.decision.count, 2);
    fixture_close(f);
}

/* The class with the most free places, of those that will do; where none is free, the one with the shortest queue. */
static void places_are_counted_in_the_class_that_has_the_most(void **state)
{
    (void)state;
    static const struct {
        struct mesh_class_capacity cpu, cuda;
        uint16_t classes;
        uint32_t class;
    } cases[] = {
        {{.slots = 4, .free = 2}, {.slots = 4, .free = 3}, 3, 1},
        {{.slots = 4, .free = 3}, {.slots = 4, .free = 2}, 3, 0},
        {{.slots = 4, .free = 2}, {.slots = 4, .free = 2}, 3, 0},
        {{.slots = 4, .free = 2}, {.slots = 4, .free = 3}, 1, 0},
        {{.slots = 0, .free = 0}, {.slots = 4, .free = 1}, 3, 1},
        {{.slots = 4, .free = 2, .waiting = 9}, {.slots = 4, .free = 2, .waiting = 3}, 3, 1},
        {{.slots = 4, .free = 2, .waiting = 3}, {.slots = 4, .free = 2, .waiting = 9}, 3, 0},
        {{.slots = 4, .free = 3, .waiting = 3}, {.slots = 4, .free = 2, .waiting = 2}, 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = fixture_open(1);
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        record.body.capacity.class[0] = cases[i].cpu;
        record.body.capacity.class[1] = cases[i].cuda;
        fixture_record(f, 0, record);
        struct mesh_job_spec spec = spec_of(1, 1);
        spec.classes = cases[i].classes;
        submit_spec(f, &spec);
        for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
            if (notes_of(f, 0)->debit[class] != (class == cases[i].class))
                fail_msg("case %zu", i);
        }
        wait_for(f, 0, 1); /* and are given back to it */
        assert_int_equal(notes_of(f, 0)->debit[0] + notes_of(f, 0)->debit[1], 0);
        fixture_close(f);
    }
}

/* What the next member is asked for: what the one before is not going to bring. Of wishes that is a part. */
static void what_wishes_bring_is_less_than_what_was_wished_for(void **state)
{
    (void)state;
    static const struct {
        struct place place; /* of the one that is asked first */
        uint32_t shard_us;
        uint16_t first, second;
    } cases[] = {
        {{.slots = 4, .vacant = 4, .rtt_us = 1}, 0, 12, 14}, /* 4, and 4,000 / 1.85 of 8,000 thousandths */
        {{.slots = 2, .vacant = 2, .rtt_us = 1}, 0, 6, 17},  /* 2, and 1,081 */
        {{.slots = 9, .vacant = 9, .rtt_us = 1}, 0, 20, 7},  /* 9, and 4,864 */
        {{.slots = 4, .vacant = 4, .rtt_us = 1}, 20000000, 4, 16}, /* no wishes */
        {{.slots = 40, .vacant = 0, .rtt_us = 1}, 20000000, 12, 18},
        {{.slots = 20, .vacant = 19, .rtt_us = 1}, 0, 20, 1}, /* one wish: 540 */
        {{.slots = 20, .vacant = 20, .rtt_us = 1}, 0, 20, 0},
    };
    const struct place far = {.slots = 40, .vacant = 40, .rtt_us = 1000000};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = fixture_open(2);
        describe(f, 0, &cases[i].place);
        describe(f, 1, &far);
        fixture_clear(f);
        struct mesh_job_spec spec = spec_of(1, 20);
        spec.shard_us_guess = cases[i].shard_us;
        submit_spec(f, &spec);
        struct mesh_message first, second;
        fixture_sent(f, 0, MESH_RESERVE, &first);
        fixture_sent(f, 1, MESH_RESERVE, &second);
        if (first.body.reserve.wanted != cases[i].first || second.body.reserve.wanted != cases[i].second)
            fail_msg("case %zu: %u and %u", i, first.body.reserve.wanted, second.body.reserve.wanted);
        fixture_close(f);
    }
}

/* Peers that were asked, as bits. */
static uint32_t asked(struct fixture *f)
{
    uint32_t bits = 0;
    for (uint32_t peer = 0; peer < f->peers; peer++)
        bits |= (uint32_t)sent(f, peer, MESH_RESERVE) << peer;
    return bits;
}

/* Who was asked may be busy for longer than anybody knew. */
static void one_more_than_seems_needed_is_asked_each_second(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(4);
    for (uint32_t peer = 0; peer < 4; peer++) {
        const struct place place = {.slots = 4, .vacant = 4, .rtt_us = 1000 * (1 + peer)};
        describe(f, peer, &place);
    }
    fixture_clear(f);
    struct mesh_job_spec spec = spec_of(1, 4);
    spec.shard_us_guess = 20000000;
    submit_spec(f, &spec);
    assert_int_equal(asked(f), 1);
    fixture_run(f, 999);
    assert_int_equal(asked(f), 0);
    fixture_run(f, 1);
    assert_int_equal(asked(f), 2);
    fixture_run(f, 500);
    fixture_capacity(f, 3, 4, 4, 0); /* it has a turn, and had one before */
    assert_int_equal(asked(f), 0);
    fixture_run(f, 1499);
    assert_int_equal(asked(f) & ~1u, 4);
    fixture_close(f);
}

static void give_turn(struct fixture *f, uint8_t job)
{
    const struct mesh_id id = fixture_job(job);
    home_job_ready(&f->mesh->home, home_job_find(&f->mesh->home, &id));
    fixture_tick(f);
}

/* A member that has said since that it has places free would have offered them. */
static void an_ask_that_seems_lost_is_repeated(void **state)
{
    (void)state;
    static const struct {
        int64_t after_ms;
        uint16_t free, class;
        bool repeated;
    } cases[] = {{999, 1, 0, false}, {1000, 1, 0, true}, {1000, 0, 0, false}, {1000, 1, 1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_home(1);
        submit(f, 1, 1);
        assert_int_equal(asked(f), 1);
        f->now_ms += cases[i].after_ms;
        struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
        record.body.capacity.class[0].slots = record.body.capacity.class[1].slots = 4;
        record.body.capacity.class[cases[i].class].free = cases[i].free;
        fixture_record(f, 0, record);
        give_turn(f, 1);
        if (asked(f) != cases[i].repeated)
            fail_msg("case %zu", i);
        fixture_close(f);
    }
}

static void who_refused_is_asked_again_after_a_minute(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    struct mesh_ask_view ask;
    submit(f, 1, 1);
    grant(f, 0, 1, 0, 0);
    const int64_t until_ms = f->now_ms + HOME_REFUSED_MS;
    for (f->now_ms = until_ms - 1; f->now_ms <= until_ms; f->now_ms++) {
        fixture_clear(f);
        give_turn(f, 1);
        assert_true(ask_is(f, 1, 0, &ask));
        assert_int_equal(ask.refused, f->now_ms < until_ms);
        assert_int_equal(asked(f), f->now_ms == until_ms);
    }
    fixture_close(f);
}

static void who_begins_to_drain_is_not_asked_again(void **state)
{
    (void)state;
    struct fixture *const f = open_home(2);
    struct mesh_message reserve;
    fixture_capacity(f, 0, 4, 0, 0);
    fixture_capacity(f, 1, 4, 0, 0);
    submit(f, 1, 20);
    assert_int_equal(asked(f), 3);
    struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.class[0].slots = 4;
    record.body.capacity.draining = true;
    fixture_record(f, 0, record);
    fixture_run(f, 14999);
    assert_int_equal(asked(f), 0);
    fixture_run(f, 1);
    assert_true(fixture_sent(f, 0, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 0);
    assert_true(fixture_sent(f, 1, MESH_RESERVE, &reserve));
    assert_int_equal(reserve.body.reserve.wanted, 12);
    submit(f, 2, 20);
    assert_false(sent(f, 0, MESH_RESERVE));
    fixture_close(f);
}

static void a_home_that_drains_runs_its_own_jobs_itself(void **state)
{
    (void)state;
    struct fixture *const f = open_home(1);
    submit(f, 1, 4);
    fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
    fixture_clear(f);
    fixture_devices(f, 2, 0);
    fixture_run(f, 1000);
    assert_true(sent(f, UINT32_MAX, MESH_WISH));
    fixture_close(f);
}

/* Who is busy after all is not waited for. */
static void after_a_wait_another_is_asked_at_once(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    for (uint32_t peer = 0; peer < 2; peer++) {
        const struct place place = {.slots = 2, .vacant = 2, .rtt_us = 1000 * (1 + peer)};
        describe(f, peer, &place);
    }
    fixture_clear(f);
    struct mesh_job_spec spec = spec_of(1, 2);
    spec.shard_us_guess = 20000000;
    submit_spec(f, &spec);
    assert_int_equal(asked(f), 1);
    wait_for(f, 0, 1);
    assert_int_equal(asked(f), 2);
    wait_for(f, 1, 1); /* then there is nobody else */
    assert_int_equal(asked(f), 0);
    fixture_close(f);
}

/* News of free places are used at once, and not when it is the job's turn again. */
static void a_job_that_waits_looks_at_news_of_places(void **state)
{
    (void)state;
    for (uint16_t vacant = 0; vacant < 2; vacant++) {
        struct fixture *const f = fixture_open(2);
        fixture_capacity(f, 0, 1, 1, 0);
        fixture_capacity(f, 1, 0, 0, 0);
        submit(f, 1, 9);
        assert_int_equal(asked(f), 1);
        fixture_capacity(f, 1, 4, vacant, 0);
        assert_int_equal(asked(f), 2 * vacant);
        fixture_close(f);
    }
}

/* What stands at home is raised where it is for less than half of what is needed. */
static void an_own_wish_stands_while_it_is_for_half(void **state)
{
    (void)state;
    for (uint32_t left = 4; left <= 5; left++) {
        struct fixture *const f = fixture_open(0);
        fixture_devices(f, 1, 0);
        submit(f, 1, 10);
        struct mesh_message wish;
        assert_true(fixture_sent(f, UINT32_MAX, MESH_WISH, &wish));
        assert_int_equal(wish.body.reserve.wanted, 10);
        f->mesh->home.ask[0].left = left;
        give_turn(f, 1);
        assert_int_equal(fixture_sent(f, UINT32_MAX, MESH_WISH, &wish), left == 4);
        assert_int_equal(wish.body.reserve.wanted, left == 4 ? 10 : 0);
        fixture_close(f);
    }
}

/* Something is sent to the member anyway: it is asked for more with that, if little stands there and more is needed. */
static void who_granted_is_asked_for_more_at_once(void **state)
{
    (void)state;
    static const struct {
        uint32_t shards;
        uint16_t places, more;
    } cases[] = {{3, 2, 0}, {20, 4, 0}, {20, 6, 0}, {20, 7, 12}, {20, 12, 8}, {13, 12, 1}, {12, 12, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = fixture_open(1);
        const struct place place = {.slots = 4, .vacant = 0, .rtt_us = 1000};
        describe(f, 0, &place);
        struct mesh_job_spec spec = spec_of(1, cases[i].shards);
        spec.bundle_shards_max = 1;
        submit_spec(f, &spec);
        assert_int_equal(asked(f), 1);
        fixture_clear(f);
        grant(f, 0, 1, 7, cases[i].places);
        struct mesh_message reserve;
        fixture_sent(f, 0, MESH_RESERVE, &reserve);
        if (reserve.body.reserve.wanted != cases[i].more)
            fail_msg("case %zu: %u", i, reserve.body.reserve.wanted);
        fixture_close(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_costs_what_it_lets_wait),
        cmocka_unit_test(a_member_of_no_use_is_not_asked),
        cmocka_unit_test(as_many_places_are_asked_for_as_come_in_good_time),
        cmocka_unit_test(a_bundle_is_guessed_to_be_20_ms),
        cmocka_unit_test(what_shards_take_is_a_moving_average),
        cmocka_unit_test(a_bundle_has_so_many_shards),
        cmocka_unit_test(what_a_member_delivers_is_an_average_of_eight),
        cmocka_unit_test(what_is_asked_for_is_remembered_until_it_is_answered),
        cmocka_unit_test(news_of_a_member_halve_what_was_asked_for_there),
        cmocka_unit_test(what_is_asked_says_all_of_its_job),
        cmocka_unit_test(places_are_counted_in_the_class_that_has_the_most),
        cmocka_unit_test(what_wishes_bring_is_less_than_what_was_wished_for),
        cmocka_unit_test(one_more_than_seems_needed_is_asked_each_second),
        cmocka_unit_test(an_ask_that_seems_lost_is_repeated),
        cmocka_unit_test(who_refused_is_asked_again_after_a_minute),
        cmocka_unit_test(who_begins_to_drain_is_not_asked_again),
        cmocka_unit_test(a_home_that_drains_runs_its_own_jobs_itself),
        cmocka_unit_test(after_a_wait_another_is_asked_at_once),
        cmocka_unit_test(a_job_that_waits_looks_at_news_of_places),
        cmocka_unit_test(an_own_wish_stands_while_it_is_for_half),
        cmocka_unit_test(who_granted_is_asked_for_more_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
