/* Links, accusations and rounds as one node lives them: timers to the millisecond, and what is said to whom. */
#include "mesh/internal.h"

#include "mesh_fixture.h"

static struct fixture *open_members(uint32_t peers)
{
    const struct mesh_limits limits = {
        .members = 128, .jobs = 1, .shards = 1, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(peers, &limits, NULL);
    f->gossip = true;
    fixture_tick(f);
    return f;
}

static void link_up(struct fixture *f, uint32_t peer)
{
    struct mesh_event event = {.kind = MESH_LINK_UP};
    event.body.link.peer = f->peer[peer];
    event.body.link.protocol = MESH_PROTOCOL_MAX;
    fixture_step(f, &event);
}

static void link_down(struct fixture *f, uint32_t peer, bool reset)
{
    struct mesh_event event = {.kind = MESH_LINK_DOWN};
    event.body.link.peer = f->peer[peer];
    event.body.link.reset = reset;
    fixture_step(f, &event);
}

/* All links are up and have been heard, in a mesh at rest. */
static struct fixture *open_linked(uint32_t peers)
{
    struct fixture *const f = open_members(peers);
    for (uint32_t i = 0; i < peers; i++)
        link_up(f, i);
    fixture_run(f, 3000);
    f->now_ms = (f->now_ms / 1000 + 1) * 1000;
    for (uint32_t i = 0; i < peers; i++)
        fixture_message(f, i, &(struct mesh_message){.kind = MESH_PING});
    fixture_clear(f);
    return f;
}

static struct mesh_member_view view_of(const struct fixture *f, uint32_t peer)
{
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &f->peer[peer], &view));
    return view;
}

static const struct mesh_counters *counters(const struct fixture *f)
{
    return mesh_counters(f->mesh);
}

static struct link *link_to(const struct fixture *f, uint32_t peer)
{
    return links_find(f->mesh, members_find(f->mesh, &f->peer[peer]));
}

static uint32_t said(const struct fixture *f, uint32_t peer, enum mesh_message_kind kind)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->send_count; i++)
        count += f->send[i].message.kind == kind && id_equal(&f->send[i].to, &f->peer[peer]);
    return count;
}

/* Effects of the latest step that the fixture does not keep. */
static uint32_t effects(const struct fixture *f, enum mesh_effect_kind kind)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->out->effect_count; i++)
        count += f->out->effect[i].kind == kind;
    return count;
}

static void tick_at(struct fixture *f, int64_t at_ms)
{
    f->now_ms = at_ms;
    fixture_tick(f);
}

static void hear(struct fixture *f, uint32_t peer)
{
    fixture_message(f, peer, &(struct mesh_message){.kind = MESH_PING});
}

static void alert(struct fixture *f, uint32_t from, const struct mesh_id *subject, uint64_t incarnation,
                  bool accuses)
{
    struct mesh_record record = {.kind = MESH_RECORD_ALERT};
    record.body.alert.subject = *subject;
    record.body.alert.subject_incarnation = incarnation;
    record.body.alert.accuses = accuses;
    fixture_record(f, from, record);
}

/* ------------------------------------------------------------------------ links */

static void a_quiet_link_is_pinged_each_second_and_a_busy_one_for_its_round_trip(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(2);
    uint32_t quiet = 0;
    uint32_t busy = 0;
    for (uint32_t i = 0; i < 80; i++) {
        f->now_ms += 250;
        if (i % 2 == 0)
            hear(f, 1);
        if (i % 12 == 11)
            hear(f, 0); /* seldom, but soon enough to be no silence */
        fixture_tick(f);
        quiet += said(f, 0, MESH_PING);
        busy += said(f, 1, MESH_PING);
        fixture_clear(f);
    }
    assert_in_range(quiet, 13, 14); /* twice between two words of its own */
    assert_int_equal(busy, 2);
    fixture_close(f);
}

static void a_ping_is_answered_with_its_stamp(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(1);
    fixture_message(f, 0, &(struct mesh_message){.kind = MESH_PING, .body.ping.stamp_us = 4711});
    struct mesh_message pong;
    assert_true(fixture_sent(f, 0, MESH_PONG, &pong));
    assert_int_equal(pong.body.ping.stamp_us, 4711);
    fixture_close(f);
}

/* RFC 6298, 2.2 and 2.3. */
static void round_trips_are_smoothed(void **state)
{
    (void)state;
    static const struct {
        uint32_t sample_us;
        uint32_t rtt_us;
        uint32_t var_us;
    } cases[] = {
        {0, 0, 0},                       /* no measurement */
        {80000, 80000, 40000},           /* the first */
        {0, 80000, 40000},               /**/
        {40000, 75000, 40000},           /* 7/8 and 1/8; 3/4 and 1/4 of an error of 40 ms */
        {155000, 85000, 50000},          /* an error of 80 ms the other way */
        {UINT32_MAX, 7574375, 15016250}, /* 60 s is as bad as it gets */
    };
    struct fixture *const f = open_linked(2);
    struct member_notes *const notes = members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[0]));
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mesh_event event = {.kind = MESH_RECEIVED};
        event.body.received.from = f->peer[0];
        event.body.received.message = &(struct mesh_message){.kind = MESH_PONG};
        event.body.received.rtt_us = cases[i].sample_us;
        fixture_step(f, &event);
        assert_int_equal(notes->rtt_us, cases[i].rtt_us);
        assert_int_equal(notes->rtt_var_us, cases[i].var_us);
    }
    assert_int_equal(view_of(f, 1).rtt_us, 0);
    notes->rtt_us = 1; /* and never so short as to be none */
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = f->peer[0];
    event.body.received.message = &(struct mesh_message){.kind = MESH_PONG};
    event.body.received.rtt_us = 1;
    fixture_step(f, &event);
    assert_int_equal(notes->rtt_us, 1);
    fixture_close(f);
}

static void a_link_that_falls_silent_is_dialled_once_and_then_suspected(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(5);
    const int64_t heard_ms = f->now_ms;
    f->silent[4] = true;
    fixture_run(f, MESH_LINK_REDIAL_MS - 1);
    assert_false(link_to(f, 4)->redialed);
    tick_at(f, heard_ms + MESH_LINK_REDIAL_MS);
    assert_int_equal(effects(f, MESH_LINK_REDIAL), 1);
    assert_true(f->wake_at_ms <= heard_ms + MESH_LINK_SILENT_MS);
    fixture_tick(f);
    assert_int_equal(effects(f, MESH_LINK_REDIAL), 0);
    fixture_run(f, heard_ms + MESH_LINK_SILENT_MS - 1 - f->now_ms);
    assert_false(view_of(f, 4).link_silent);
    assert_int_equal(counters(f)->alerts_sent, 0);
    fixture_run(f, 1);
    assert_true(view_of(f, 4).link_silent);
    assert_int_equal(counters(f)->alerts_sent, 1);
    /* Heard again, it is as before, also the next time. */
    hear(f, 4);
    assert_false(view_of(f, 4).link_silent);
    assert_false(link_to(f, 4)->redialed);
    assert_int_equal(link_to(f, 4)->refuted, 0);
    const int64_t again_ms = f->now_ms;
    fixture_run(f, MESH_LINK_SILENT_MS - 1);
    assert_int_equal(counters(f)->alerts_sent, 1);
    fixture_run(f, again_ms + MESH_LINK_SILENT_MS - f->now_ms);
    assert_int_equal(counters(f)->alerts_sent, 2);
    fixture_close(f);
}

static void a_link_that_was_never_up_has_longer(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(5);
    memset(f->peer[5].bytes, 6, sizeof f->peer[5].bytes);
    f->incarnation[5] = 1;
    f->peers++;
    fixture_member(f, 5, 105, 7);
    f->silent[5] = true;
    fixture_tick(f);
    const int64_t born_ms = f->now_ms;
    fixture_run(f, MESH_LINK_FIRST_MS - 1);
    assert_false(view_of(f, 5).link_silent);
    assert_int_equal(view_of(f, 5).heard_at_ms, 0);
    fixture_run(f, born_ms + MESH_LINK_FIRST_MS - f->now_ms);
    assert_true(view_of(f, 5).link_silent);
    fixture_close(f);
}

static void a_reset_link_is_silent_at_once_if_it_was_ever_heard(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    link_down(f, 0, false); /* no more than a closed session */
    assert_false(view_of(f, 0).link_up);
    assert_false(link_to(f, 0)->silent);
    link_down(f, 0, true);
    assert_true(link_to(f, 0)->silent && link_to(f, 0)->reset);
    assert_int_equal(counters(f)->alerts_sent, 1);
    memset(f->peer[6].bytes, 7, sizeof f->peer[6].bytes);
    f->incarnation[6] = 1;
    f->peers++;
    fixture_member(f, 6, 106, 8);
    fixture_tick(f);
    link_down(f, 6, true); /* its admission may be on its way yet */
    assert_false(link_to(f, 6)->silent);
    const struct mesh_event unknown = {
        .kind = MESH_LINK_DOWN, .body.link.peer = {{0xee}}, .body.link.reset = true};
    struct mesh_event event = unknown;
    fixture_step(f, &event);
    fixture_close(f);
}

static void a_stopped_process_gives_its_links_their_time_afresh(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(5);
    const int64_t heard_ms = f->now_ms;
    tick_at(f, heard_ms + MESH_PAUSE_MS - 1); /* no pause yet */
    assert_int_equal(link_to(f, 0)->heard_at_ms, heard_ms);
    tick_at(f, f->now_ms + MESH_PAUSE_MS);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(link_to(f, i)->heard_at_ms, f->now_ms);
    tick_at(f, f->now_ms + 60000);
    assert_int_equal(counters(f)->alerts_sent, 0);
    fixture_close(f);
}

static void a_new_session_is_told_who_we_are_and_what_we_know(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    fixture_capacity(f, 1, 3, 2, 0);
    fixture_run(f, 1000);
    link_down(f, 0, false);
    fixture_clear(f);
    link_up(f, 0);
    struct mesh_message message;
    uint32_t own = 0;
    while (fixture_sent(f, 0, MESH_SPREAD, &message)) {
        assert_memory_equal(&message.body.push.record.origin, &f->self, sizeof f->self);
        assert_int_equal(message.body.push.hops, 1);
        own |= 1u << message.body.push.record.kind;
    }
    assert_int_equal(own, 1u << MESH_RECORD_MEMBER | 1u << MESH_RECORD_CAPACITY);
    assert_int_equal(said(f, 0, MESH_SUMMARY), 1);
    assert_int_equal(said(f, 0, MESH_PING), 1);
    assert_true(fixture_sent(f, 0, MESH_WANT, &message));
    assert_int_equal(message.body.entries.count, 3); /* not its own, which it will tell */
    for (uint32_t i = 0; i < 3; i++) {
        const struct mesh_entry *const entry = &message.body.entries.entry[i];
        assert_int_equal(entry->kind, MESH_RECORD_CAPACITY);
        assert_memory_not_equal(&entry->origin, &f->peer[0], sizeof f->self);
        const bool held = id_equal(&entry->origin, &f->peer[1]);
        const uint32_t slot = members_find(f->mesh, &entry->origin);
        assert_int_equal(entry->version, f->mesh->members.slot[slot].capacity.version);
        assert_int_equal(entry->version != 0, held);
    }
    fixture_clear(f);
    fixture_run(f, 2 * MESH_ROUND_FAST_MS);
    assert_int_equal(said(f, 0, MESH_WANT), 0); /* once */
    fixture_close(f);
}

/* Its words come before we are told of the session. */
static void who_is_heard_first_is_asked_for_capacities_too(void **state)
{
    (void)state;
    struct fixture *const f = open_members(3);
    fixture_clear(f);
    hear(f, 0);
    struct mesh_message message;
    assert_true(fixture_sent(f, 0, MESH_WANT, &message));
    assert_int_equal(message.body.entries.count, 2);
    assert_int_equal(message.body.entries.entry[0].kind, MESH_RECORD_CAPACITY);
    fixture_close(f);
}

/* What the first one sends need not be sent by the second. */
static void new_sessions_are_asked_for_capacities_one_after_the_other(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    fixture_run(f, 1000);
    link_down(f, 0, false);
    link_down(f, 1, false);
    fixture_clear(f);
    link_up(f, 0);
    link_up(f, 1);
    assert_int_equal(said(f, 0, MESH_WANT) + said(f, 1, MESH_WANT), 1);
    fixture_run(f, MESH_ROUND_FAST_MS);
    assert_int_equal(said(f, 0, MESH_WANT), 1);
    assert_int_equal(said(f, 1, MESH_WANT), 1);
    fixture_close(f);
}

/* -------------------------------------------------------------------- accusations */

static void an_accusation_is_repeated_and_withdrawn(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    f->silent[5] = true;
    fixture_run(f, MESH_LINK_SILENT_MS);
    assert_int_equal(counters(f)->alerts_sent, 1);
    assert_int_equal(view_of(f, 5).accusers, 1);
    const int64_t said_ms = f->now_ms;
    fixture_run(f, MESH_ALERT_REPEAT_MS - 1);
    assert_int_equal(counters(f)->alerts_sent, 1);
    fixture_run(f, said_ms + MESH_ALERT_REPEAT_MS - f->now_ms);
    assert_int_equal(counters(f)->alerts_sent, 2);
    const uint64_t version = f->mesh->detector.alert_version;
    hear(f, 5);
    assert_int_equal(f->mesh->detector.alert_version, version + 1); /* the word that it is taken back */
    assert_int_equal(counters(f)->alerts_sent, 2);
    assert_int_equal(view_of(f, 5).accusers, 0);
    hear(f, 5);
    assert_int_equal(f->mesh->detector.alert_version, version + 1); /* once */
    fixture_close(f);
}

static void two_accusers_make_a_member_suspect_and_most_of_its_observers_end_it(void **state)
{
    (void)state;
    struct fixture *const f =
        open_linked(8); /* with us it has eight observers less itself: seven peers and us */
    alert(f, 0, &f->peer[7], 1, true);
    assert_int_equal(view_of(f, 7).state, MESH_UP);
    alert(f, 1, &f->peer[7], 1, true);
    assert_int_equal(view_of(f, 7).state, MESH_SUSPECT);
    alert(f, 2, &f->peer[7], 1, true);
    alert(f, 3, &f->peer[7], 1, true);
    fixture_run(f, MESH_SUSPECT_MS + 500);
    assert_int_equal(view_of(f, 7).state, MESH_SUSPECT); /* four of eight observers */
    alert(f, 4, &f->peer[7], 1, true);
    assert_int_equal(view_of(f, 7).state, MESH_DOWN); /* five, and time has passed */
    assert_int_equal(counters(f)->downs, 1);
    assert_int_equal(counters(f)->suspects, 1);
    fixture_close(f);
}

static void death_waits_for_a_refutation(void **state)
{
    (void)state;
    static const struct {
        bool reset; /* our own link was */
        uint32_t accusers;
        int64_t wait_ms;
    } cases[] = {
        {false, 5, MESH_SUSPECT_MS}, {true, 5, MESH_SUSPECT_PLAIN_MS}, {true, 7, MESH_SUSPECT_PLAIN_MS}};
    for (uint32_t k = 0; k < 3; k++) {
        struct fixture *const f = open_linked(8);
        if (cases[k].reset)
            link_down(f, 7, true);
        for (uint32_t i = 0; i < cases[k].accusers; i++)
            alert(f, i, &f->peer[7], 1, true);
        assert_int_equal(view_of(f, 7).state, MESH_SUSPECT);
        const int64_t suspect_ms = f->now_ms;
        assert_true(f->wake_at_ms <= suspect_ms + cases[k].wait_ms);
        fixture_run(f, cases[k].wait_ms - 1);
        assert_int_equal(view_of(f, 7).state, MESH_SUSPECT);
        fixture_run(f, suspect_ms + cases[k].wait_ms - f->now_ms);
        assert_int_equal(view_of(f, 7).state, MESH_DOWN);
        assert_int_equal(view_of(f, 7).state_at_ms, suspect_ms + cases[k].wait_ms);
        fixture_close(f);
    }
}

static void among_few_one_accuser_will_do(void **state)
{
    (void)state;
    for (uint32_t peers = 2; peers <= 5; peers++) {
        struct fixture *const f = open_linked(peers);
        alert(f, 0, &f->peer[1], 1, true);
        assert_int_equal(view_of(f, 1).state, peers + 1 < MESH_SMALL ? MESH_SUSPECT : MESH_UP);
        fixture_close(f);
    }
}

static void accusations_that_are_not_repeated_end(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(8);
    alert(f, 0, &f->peer[7], 1, true);
    alert(f, 1, &f->peer[7], 1, true);
    assert_int_equal(view_of(f, 7).state, MESH_SUSPECT);
    const int64_t said_ms = f->now_ms;
    fixture_run(f, MESH_ALERT_TTL_MS - 1);
    assert_int_equal(view_of(f, 7).accusers, 2);
    assert_int_equal(view_of(f, 7).state, MESH_SUSPECT);
    fixture_run(f, said_ms + MESH_ALERT_TTL_MS - f->now_ms);
    assert_int_equal(view_of(f, 7).accusers, 0);
    fixture_tick(f);
    assert_int_equal(view_of(f, 7).state, MESH_UP);
    assert_int_equal(f->mesh->detector.accused_count, 0);
    fixture_close(f);
}

static void words_of_another_incarnation_or_of_the_dead_count_for_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(8);
    alert(f, 0, &f->peer[7], 2, true);
    alert(f, 0, &f->peer[7], 0, true);
    alert(f, 7, &f->peer[7], 1, true); /* of itself */
    const struct mesh_id unknown = {{0xee}};
    alert(f, 0, &unknown, 1, true);
    assert_int_equal(view_of(f, 7).accusers, 0);
    alert(f, 0, &f->peer[7], 1, true);
    f->version[0] -= 2; /* an older word, once more */
    alert(f, 0, &f->peer[7], 1, false);
    assert_int_equal(view_of(f, 7).accusers, 1);
    f->version[0] += 1;
    alert(f, 0, &f->peer[7], 1, false);
    assert_int_equal(view_of(f, 7).accusers, 0);
    for (uint32_t i = 0; i < 7; i++)
        alert(f, i, &f->peer[7], 1, true);
    fixture_run(f, MESH_SUSPECT_PLAIN_MS + 1000);
    assert_int_equal(view_of(f, 7).state, MESH_DOWN);
    alert(f, 7, &f->peer[0], 1, true);
    assert_int_equal(view_of(f, 0).accusers, 0);
    fixture_close(f);
}

/* Eight members and we; the last one is down here. */
static struct fixture *open_with_a_death(void)
{
    struct fixture *const f = open_linked(8);
    f->silent[7] = true;
    for (uint32_t i = 0; i < 7; i++)
        alert(f, i, &f->peer[7], 1, true);
    fixture_run(f, MESH_SUSPECT_PLAIN_MS + 1000);
    assert_int_equal(view_of(f, 7).state, MESH_DOWN);
    f->gossip = true;
    fixture_clear(f);
    return f;
}

/* The peers that were sent an accusation of ours of that one. */
static uint32_t accused_to(const struct fixture *f, uint32_t subject)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_record *const record = &f->send[i].message.body.push.record;
        for (uint32_t peer = 0; peer < 8 && f->send[i].message.kind == MESH_PUSH; peer++) {
            if (record->kind == MESH_RECORD_ALERT && id_equal(&record->origin, &f->mesh->config.self) &&
                record->body.alert.accuses && id_equal(&record->body.alert.subject, &f->peer[subject]) &&
                id_equal(&f->send[i].to, &f->peer[peer]))
                to |= 1u << peer;
        }
    }
    return to;
}

/* The halves of a mesh that heals hear of all of each other at once: flooded, that would be a storm. */
static void the_dead_who_speak_are_told_alone_at_first(void **state)
{
    (void)state;
    struct fixture *const f = open_with_a_death();
    hear(f, 7);
    assert_int_equal(accused_to(f, 7), 1u << 7);
    fixture_clear(f);
    hear(f, 7);
    fixture_run(f, MESH_ALERT_REPEAT_MS - 100);
    assert_int_equal(accused_to(f, 7), 0);
    fixture_run(f, 100);
    hear(f, 7); /* it may not hear us: others shall tell it */
    assert_int_equal(accused_to(f, 7) & 0x7f, 0x7f);
    fixture_close(f);
}

static void deaths_that_were_missed_are_told_one_after_the_other(void **state)
{
    (void)state;
    struct fixture *const f = open_with_a_death();
    struct detector *const detector = &f->mesh->detector;
    for (uint32_t i = 0; i < 4; i++)
        detector->believed[i] = (struct believed){.member = members_find(f->mesh, &f->peer[7 - i]),
                                                  .accuse_at_ms = f->now_ms + 1 + 10 * i};
    detector->believed_count = 4;
    tick_at(f, f->now_ms + 1);
    assert_int_equal(detector->believed_count, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(detector->believed[i].member, members_find(f->mesh, &f->peer[6 - i]));
    fixture_close(f);
}

/* Its incarnation is the same, so it answers no accusation. */
static void a_new_record_takes_no_accusation_back(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(8);
    alert(f, 0, &f->peer[7], 1, true);
    assert_int_equal(view_of(f, 7).accusers, 1);
    fixture_run(f, 10);
    const int64_t since_ms = view_of(f, 7).state_at_ms;
    fixture_member(f, 7, 107, 9);
    assert_int_equal(view_of(f, 7).accusers, 1);
    assert_int_equal(view_of(f, 7).state_at_ms, since_ms);
    fixture_close(f);
}

static void who_leaves_says_so_at_once(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(2);
    const struct member *const self = &f->mesh->members.slot[f->mesh->members.self];
    assert_false(self->leaving);
    fixture_step(f, &(struct mesh_event){.kind = MESH_LEAVE});
    assert_true(self->leaving);
    fixture_close(f);
}

/* Somebody missed that death; or it is over, which will be known a moment later. */
static void a_death_that_a_peer_missed_is_told_a_little_later(void **state)
{
    (void)state;
    struct fixture *const f = open_with_a_death();
    struct mesh_message entries = {.kind = MESH_ENTRIES};
    entries.body.entries.count = 1;
    entries.body.entries.entry[0] =
        (struct mesh_entry){.origin = f->peer[7], .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1};
    fixture_message(f, 0, &entries);
    fixture_message(f, 1, &entries);
    assert_int_equal(f->mesh->detector.believed_count, 1);
    assert_true(f->wake_at_ms <= f->now_ms + MESH_BELIEVED_MS);
    fixture_run(f, MESH_BELIEVED_MS - 1);
    assert_int_equal(accused_to(f, 7), 0);
    fixture_run(f, 1);
    assert_int_equal(accused_to(f, 7) & 0x7f, 0x7f);
    assert_int_equal(f->mesh->detector.believed_count, 0);

    fixture_clear(f);
    fixture_run(f, MESH_ALERT_REPEAT_MS);
    fixture_message(f, 0, &entries);
    f->incarnation[7] = 2;
    fixture_member(f, 7, 4711, 2); /* it lives */
    fixture_run(f, MESH_BELIEVED_MS);
    assert_int_equal(accused_to(f, 7), 0);
    assert_int_equal(f->mesh->detector.believed_count, 0);
    fixture_close(f);
}

/* And so is one about which a peer pushes what we have heard of it. */
static void a_death_of_which_an_old_record_comes_is_told_a_little_later(void **state)
{
    (void)state;
    struct fixture *const f = open_with_a_death();
    f->version[7]--;
    fixture_member(f, 7, 107, 9);
    assert_int_equal(f->mesh->detector.believed_count, 1);
    fixture_run(f, MESH_BELIEVED_MS);
    assert_int_equal(accused_to(f, 7) & 0x7f, 0x7f);
    fixture_close(f);
}

static void an_accuser_that_was_refuted_waits_longer_each_time(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    f->silent[5] = true;
    fixture_run(f, MESH_LINK_SILENT_MS);
    static const int64_t waits_ms[] = {5000, 10000, 20000, 40000, 60000, 60000};
    for (uint32_t i = 0; i < sizeof waits_ms / sizeof *waits_ms; i++) {
        assert_int_equal(counters(f)->alerts_sent, i + 1);
        f->incarnation[5]++;
        fixture_member(f, 5, 105, 7);
        const int64_t refuted_ms = f->now_ms;
        assert_int_equal(view_of(f, 5).accusers, 0);
        fixture_run(f, waits_ms[i] - 1);
        assert_int_equal(counters(f)->alerts_sent, i + 1);
        fixture_run(f, refuted_ms + waits_ms[i] - f->now_ms);
    }
    /* Not alone: whoever else says so, we join in at once. */
    f->incarnation[5]++;
    fixture_member(f, 5, 105, 7);
    const uint64_t sent = counters(f)->alerts_sent;
    alert(f, 0, &f->peer[5], f->incarnation[5], true);
    fixture_tick(f);
    assert_int_equal(counters(f)->alerts_sent, sent + 1);
    fixture_close(f);
}

static void most_links_at_once_raise_doubt_of_ourselves(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    for (uint32_t i = 0; i < 4; i++)
        f->silent[i] = true;
    fixture_run(f, MESH_LINK_SILENT_MS);
    assert_true(mesh_doubts_itself(f->mesh));
    assert_int_equal(counters(f)->alerts_sent, 0);
    assert_true(counters(f)->alerts_withheld >= 1);
    const int64_t doubt_ms = f->now_ms;
    fixture_run(f, MESH_DOUBT_MS - 1);
    assert_true(mesh_doubts_itself(f->mesh));
    assert_int_equal(counters(f)->alerts_sent, 0);
    fixture_run(f, doubt_ms + MESH_DOUBT_MS - f->now_ms);
    assert_false(mesh_doubts_itself(f->mesh));
    assert_int_equal(counters(f)->alerts_sent, 4);
    fixture_close(f);
}

/* A record that comes over a tree comes from the neighbour itself; one that was asked for may be another's. */
static void who_passes_records_on_is_no_silent_neighbour(void **state)
{
    (void)state;
    for (uint32_t hops = 0; hops < 2; hops++) {
        struct fixture *const f = open_linked(3);
        f->silent[0] = true;
        const int64_t heard_ms = link_to(f, 0)->heard_at_ms;
        f->now_ms += 700;
        struct mesh_event event = {.kind = MESH_RECORD};
        event.body.record.from = f->peer[0];
        event.body.record.hops = (uint8_t)hops;
        event.body.record.record = (struct mesh_record){
            .kind = MESH_RECORD_CAPACITY, .origin = f->peer[1], .incarnation = 1, .version = 50};
        event.body.record.record.handle = fixture_handle(f);
        fixture_step(f, &event);
        assert_int_equal(link_to(f, 0)->heard_at_ms, hops == 0 ? heard_ms : f->now_ms);
        fixture_close(f);
    }
}

/* Of an only link nobody can say which end is cut off. */
static void two_links_raise_doubt_and_an_only_one_does_not(void **state)
{
    (void)state;
    for (uint32_t links = 1; links <= 2; links++) {
        struct fixture *const f = open_linked(links);
        for (uint32_t i = 0; i < links; i++)
            f->silent[i] = true;
        fixture_run(f, MESH_LINK_SILENT_MS);
        assert_int_equal(mesh_doubts_itself(f->mesh), links == 2);
        assert_int_equal(counters(f)->alerts_sent, links == 1);
        fixture_close(f);
    }
}

static void doubt_ends_when_half_of_the_links_work(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    for (uint32_t i = 0; i < 4; i++)
        f->silent[i] = true;
    fixture_run(f, MESH_LINK_SILENT_MS);
    assert_true(mesh_doubts_itself(f->mesh));
    hear(f, 0);
    assert_false(mesh_doubts_itself(f->mesh)); /* three of six */
    fixture_tick(f);
    assert_int_equal(counters(f)->alerts_sent, 3);
    fixture_close(f);
    /* Half of them raise none. */
    struct fixture *const half = open_linked(6);
    for (uint32_t i = 0; i < 3; i++)
        half->silent[i] = true;
    fixture_run(half, MESH_LINK_SILENT_MS);
    assert_false(mesh_doubts_itself(half->mesh));
    assert_int_equal(counters(half)->alerts_withheld, 0);
    assert_int_equal(counters(half)->alerts_sent, 3);
    fixture_close(half);
}

static void the_dead_are_tried_two_at_a_time(void **state)
{
    (void)state;
    for (uint32_t dead = 1; dead <= 4; dead++) {
        struct fixture *const f = open_linked(12);
        for (uint32_t i = 0; i < dead; i++) {
            for (uint32_t j = 4; j < 12; j++)
                alert(f, j, &f->peer[i], 1, true);
            f->silent[i] = true;
        }
        fixture_run(f, 4000);
        uint32_t tried = 0;
        for (uint32_t i = 0; i < dead; i++)
            assert_int_equal(view_of(f, i).state, MESH_DOWN);
        for (uint32_t round = 0; round < 12; round++) {
            const uint64_t before = counters(f)->retries_down;
            fixture_clear(f);
            fixture_run(f, MESH_SWEEP_MS);
            assert_int_equal(counters(f)->retries_down - before, dead < MESH_RETRIES ? dead : MESH_RETRIES);
            for (uint32_t i = 0; i < dead; i++) {
                assert_in_range(said(f, i, MESH_PING), 0, 1);
                tried |= said(f, i, MESH_PING) << i;
            }
        }
        assert_int_equal(tried, (1u << dead) - 1); /* each in its turn */
        fixture_close(f);
    }
}

static void tombstones_are_dropped_after_a_day(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_record leaving = {.kind = MESH_RECORD_MEMBER};
    leaving.body.member.session = 102;
    leaving.body.member.site = 4;
    leaving.body.member.leaving = true;
    fixture_record(f, 2, leaving);
    assert_int_equal(view_of(f, 2).state, MESH_LEFT);
    const int64_t left_ms = f->now_ms;
    f->silent[0] = f->silent[1] = f->silent[2] = true;
    /* The process is stopped most of the time: what is between does not matter. */
    tick_at(f, left_ms + MESH_TOMBSTONE_MS - MESH_SWEEP_MS);
    tick_at(f, left_ms + MESH_TOMBSTONE_MS - 1);
    assert_int_equal(view_of(f, 2).state, MESH_LEFT);
    tick_at(f, left_ms + MESH_TOMBSTONE_MS + MESH_SWEEP_MS);
    struct mesh_member_view view;
    assert_false(mesh_member_find(f->mesh, &f->peer[2], &view));
    assert_int_equal(counters(f)->tombstones_dropped, 1);
    fixture_close(f);
}

/* ------------------------------------------------------------- our own incarnation */

static uint64_t own_incarnation(const struct fixture *f)
{
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &f->self, &view));
    return view.incarnation;
}

static void an_accusation_of_ourselves_is_refuted_once_a_second(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    fixture_run(f, MESH_REFUTE_MS);
    alert(f, 0, &f->self, 1, true);
    assert_int_equal(own_incarnation(f), 2);
    assert_int_equal(counters(f)->refutations, 1);
    alert(f, 1, &f->self, 1, true); /* of the life that is over */
    alert(f, 1, &f->self, 3, true);
    assert_int_equal(f->mesh->incarnation, 2);
    alert(f, 1, &f->self, 2, false); /* taken back */
    assert_int_equal(f->mesh->incarnation, 2);
    alert(f, 2, &f->self, 2, true);
    assert_int_equal(f->mesh->incarnation, 3);
    assert_int_equal(own_incarnation(f), 2); /* said a little later */
    fixture_run(f, MESH_REFUTE_MS);
    assert_int_equal(own_incarnation(f), 3);
    assert_int_equal(counters(f)->refutations, 2);
    fixture_close(f);
}

static void a_record_of_ours_from_another_life_is_outdone(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_record record = {
        .kind = MESH_RECORD_MEMBER, .origin = f->self, .incarnation = 7, .version = 1};
    record.body.member.session = 99;
    record.body.member.site = 1;
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = f->peer[0];
    event.body.record.record = record;
    event.body.record.record.handle = fixture_handle(f);
    fixture_step(f, &event);
    fixture_run(f, MESH_REFUTE_MS);
    assert_int_equal(own_incarnation(f), 8);
    event.body.record.record.incarnation = UINT64_MAX; /* there is nothing above it */
    event.body.record.record.handle = fixture_handle(f);
    fixture_step(f, &event);
    event.body.record.record.incarnation = 5; /* long over */
    event.body.record.record.handle = fixture_handle(f);
    fixture_step(f, &event);
    fixture_run(f, MESH_REFUTE_MS);
    assert_int_equal(own_incarnation(f), 8);
    fixture_close(f);
}

/* ------------------------------------------------------------------------- rounds */

/* Nodes that are started together don't ask together. */
static void the_first_round_is_at_any_moment_of_the_first_five_seconds(void **state)
{
    (void)state;
    struct fixture *const f = open_members(0);
    uint32_t late = 0;
    for (uint32_t i = 0; i < 100; i++) {
        rounds_init(f->mesh);
        assert_in_range(f->mesh->rounds.at_ms, f->now_ms, f->now_ms + MESH_ROUND_MS - 1);
        late += f->mesh->rounds.at_ms >= f->now_ms + MESH_ROUND_MS / 2;
    }
    assert_in_range(late, 30, 70);
    fixture_close(f);
}

static void a_round_is_held_every_five_seconds(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    fixture_run(f, 6000);
    const uint64_t before = counters(f)->summaries;
    fixture_clear(f);
    fixture_run(f, 100000);
    assert_in_range(counters(f)->summaries - before, 18, 23);
    uint32_t peers = 0;
    for (uint32_t i = 0; i < 4; i++)
        peers += said(f, i, MESH_SUMMARY) > 0;
    assert_int_equal(peers, 4);
    fixture_close(f);
}

/* Says that it holds so; `whole` are the buckets that it lists in full. */
static void list(struct fixture *f, uint32_t from, const struct mesh_entry *entry, uint32_t count,
                 uint64_t whole)
{
    struct mesh_message message = {.kind = MESH_ENTRIES};
    message.body.entries.buckets = whole;
    message.body.entries.count = count;
    for (uint32_t i = 0; i < count; i++)
        message.body.entries.entry[i] = entry[i];
    fixture_clear(f);
    fixture_message(f, from, &message);
}

static void what_a_peer_lacks_is_sent_and_what_we_lack_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    struct mesh_entry entry[2] = {
        {.origin = f->peer[1], .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 0},
        {.origin = {{0xee}}, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1}};
    struct mesh_message message;
    list(f, 0, entry, 2, 0);
    assert_int_equal(said(f, 0, MESH_PUSH), 1);
    assert_true(fixture_sent(f, 0, MESH_PUSH, &message));
    assert_memory_equal(&message.body.push.record.origin, &f->peer[1], sizeof f->self);
    assert_true(fixture_sent(f, 0, MESH_WANT, &message));
    assert_int_equal(message.body.entries.count, 1);
    assert_int_equal(message.body.entries.entry[0].origin.bytes[0], 0xee);
    assert_int_equal(counters(f)->repairs, 1);
    entry[0].version = 1; /* as we hold it */
    list(f, 0, entry, 1, 0);
    assert_int_equal(f->send_count, 0);
    entry[0].version = 2;
    list(f, 0, entry, 1, 0);
    assert_int_equal(said(f, 0, MESH_WANT), 1);
    assert_int_equal(said(f, 0, MESH_PUSH), 0);
    /* A capacity goes with its member. */
    fixture_capacity(f, 1, 2, 2, 0);
    entry[0].version = 0;
    list(f, 0, entry, 1, 0);
    assert_int_equal(said(f, 0, MESH_PUSH), 2);
    /* In a bucket that is listed whole it lacks what it does not name. */
    list(f, 0, entry, 0, UINT64_MAX);
    assert_int_equal(said(f, 0, MESH_PUSH), 5 + 1 + (f->mesh->members.slot[0].capacity.handle != 0));
    list(f, 0, entry, 0, 0);
    assert_int_equal(f->send_count, 0);
    fixture_close(f);
}

/* What it holds older and what it lacks, together. */
static void no_more_is_repaired_than_has_room(void **state)
{
    (void)state;
    struct fixture *const f = open_members(100);
    struct mesh_entry entry[MESH_REPAIRS_MAX - 4];
    const uint32_t count = sizeof entry / sizeof entry[0];
    for (uint32_t i = 0; i < count; i++)
        entry[i] =
            (struct mesh_entry){.origin = f->peer[1 + i], .kind = MESH_RECORD_MEMBER, .incarnation = 1};
    list(f, 0, entry, count, UINT64_MAX);
    assert_int_equal(said(f, 0, MESH_PUSH),
                     MESH_REPAIRS_MAX + (f->mesh->members.slot[0].capacity.handle != 0));
    fixture_close(f);
}

/* Of who is down only a later life is asked for, of who lives any later record. */
static void what_is_asked_for_is_newer_than_what_is_held(void **state)
{
    (void)state;
    static const struct {
        uint32_t peer;
        uint64_t incarnation, ahead;
        bool wanted;
    } cases[] = {{7, 1, 1, false}, {7, 2, 0, true}, {1, 1, 0, false}, {1, 1, 1, true}, {1, 2, 0, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_with_a_death();
        const uint32_t peer = cases[i].peer;
        const struct mesh_entry entry = {
            .origin = f->peer[peer],
            .kind = MESH_RECORD_MEMBER,
            .incarnation = cases[i].incarnation,
            .version =
                f->mesh->members.slot[members_find(f->mesh, &f->peer[peer])].record.version + cases[i].ahead};
        list(f, 0, &entry, 1, 0);
        if (said(f, 0, MESH_WANT) != cases[i].wanted)
            fail_msg("case %zu", i);
        fixture_close(f);
    }
}

static void a_round_that_brought_something_is_followed_soon_by_another(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    const struct mesh_entry entry = {
        .origin = {{0xee}}, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1};
    list(f, 2, &entry, 1, 0);
    fixture_clear(f);
    const int64_t asked_ms = f->now_ms;
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = f->peer[2];
    event.body.record.record = (struct mesh_record){.kind = MESH_RECORD_MEMBER,
                                                    .origin = entry.origin,
                                                    .incarnation = 1,
                                                    .version = 1,
                                                    .handle = fixture_handle(f),
                                                    .body.member = {.session = 3, .site = 3}};
    fixture_step(f, &event);
    tick_at(f, asked_ms + MESH_ROUND_FAST_MS - 1);
    assert_int_equal(said(f, 2, MESH_SUMMARY), 0);
    tick_at(f, asked_ms + MESH_ROUND_FAST_MS);
    assert_int_equal(said(f, 2, MESH_SUMMARY), 1);
    fixture_clear(f);
    /* One that brought nothing is not. */
    list(f, 2,
         &(struct mesh_entry){.origin = {{0xef}}, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1},
         1, 0);
    fixture_clear(f);
    tick_at(f, f->now_ms + MESH_ROUND_FAST_MS);
    assert_int_equal(said(f, 2, MESH_SUMMARY), 0);
    fixture_close(f);
}

static void capacities_that_are_missing_are_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    fixture_capacity(f, 1, 2, 2, 0);
    fixture_clear(f);
    fixture_run(f, 2 * MESH_ROUND_MS);
    struct mesh_message message;
    uint32_t asked = 0;
    for (uint32_t i = 0; i < 3; i++) {
        while (fixture_sent(f, i, MESH_WANT, &message)) {
            asked++;
            assert_int_equal(message.body.entries.count, 2); /* of peers 0 and 2 */
            for (uint32_t j = 0; j < 2; j++) {
                assert_int_equal(message.body.entries.entry[j].kind, MESH_RECORD_CAPACITY);
                assert_memory_not_equal(&message.body.entries.entry[j].origin, &f->peer[1], sizeof f->self);
            }
        }
    }
    assert_in_range(asked, 1, 3);
    /* And answered by who has them in a newer version. */
    message = (struct mesh_message){.kind = MESH_WANT};
    message.body.entries.count = 3;
    for (uint32_t i = 0; i < 3; i++)
        message.body.entries.entry[i] =
            (struct mesh_entry){.origin = f->peer[i], .kind = MESH_RECORD_CAPACITY, .incarnation = 1};
    fixture_clear(f);
    fixture_message(f, 0, &message);
    assert_int_equal(said(f, 0, MESH_PUSH), 1);
    message.body.entries.entry[1].version = f->version[1];
    fixture_clear(f);
    fixture_message(f, 0, &message);
    assert_int_equal(said(f, 0, MESH_PUSH), 0);
    fixture_close(f);
}

/* ----------------------------------------------------------------------- capacities */

static void our_capacity_is_announced_when_it_changed_and_now_and_then(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    fixture_run(f, 5000);
    uint64_t version = f->mesh->gossip.capacity_version;
    const int64_t last_ms = f->mesh->gossip.capacity_at_ms;
    fixture_run(f, last_ms + MESH_CAPACITY_MAX_MS - 1 - f->now_ms);
    assert_int_equal(f->mesh->gossip.capacity_version, version);
    fixture_run(f, 1);
    assert_int_equal(f->mesh->gossip.capacity_version, version + 1);
    fixture_run(f, 10);
    fixture_devices(f, 4, 0); /* soon after: not before a second is over */
    assert_int_equal(f->mesh->gossip.capacity_version, version + 1);
    fixture_run(f, MESH_CAPACITY_MIN_MS - 11);
    assert_int_equal(f->mesh->gossip.capacity_version, version + 1);
    fixture_run(f, 1);
    assert_int_equal(f->mesh->gossip.capacity_version, version + 2);
    assert_int_equal(f->mesh->gossip.announced.class[0].slots, 4);
    /* A change that is undone before it could be told is none. */
    fixture_run(f, 10);
    fixture_devices(f, 6, 0);
    fixture_run(f, 10);
    fixture_devices(f, 4, 0);
    fixture_run(f, 5000);
    assert_int_equal(f->mesh->gossip.capacity_version, version + 2);
    assert_int_equal(counters(f)->capacities_unchanged, 1);
    fixture_close(f);
}

/* Who is forgotten has nothing to hear any more. */
static void an_echo_is_not_owed_to_who_is_forgotten(void **state)
{
    (void)state;
    struct fixture *const f = open_members(3);
    const uint32_t slot = members_find(f->mesh, &f->peer[0]);
    struct mesh_message await = {.kind = MESH_AWAIT};
    await.body.echo.incarnation = 9;
    fixture_message(f, 0, &await);
    assert_int_equal(f->mesh->echo.awaited_count, 1);
    f->out->save_count = f->out->send_count = f->out->effect_count = 0;
    struct step step = {.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms};
    members_set_state(&step, slot, MESH_DOWN);
    members_remove(&step, slot);
    assert_int_equal(f->mesh->echo.awaited_count, 0);
    fixture_close(f);
}

/* ------------------------------------------------------------------------ the start */

/* What a node knew before it was started comes first, for it may tell how the node stands; with all else it announces itself. */
static void a_node_announces_itself_behind_what_it_has_stored(void **state)
{
    (void)state;
    for (uint32_t stored = 0; stored < 2; stored++) {
        struct fixture *const f = open_members(0);
        const struct mesh_config config = f->mesh->config;
        memset(f->mesh, 0, mesh_size(&config.limits));
        mesh_init(f->mesh, &config);
        struct mesh_event event = {.kind = MESH_RECORD, .now_ms = f->now_ms, .wall_ms = FIXTURE_WALL_MS};
        event.body.record.record = (struct mesh_record){.kind = MESH_RECORD_MEMBER,
                                                        .origin = {{7}},
                                                        .incarnation = 1,
                                                        .version = 1,
                                                        .handle = fixture_handle(f),
                                                        .body.member = {.session = 5, .site = 2}};
        event.body.record.from = stored ? f->self : event.body.record.record.origin;
        mesh_step(f->mesh, &event, f->out);
        assert_int_equal(effects(f, MESH_SIGN), stored ? 1 : 2); /* its capacity, and itself */
        assert_int_equal(f->mesh->booted, !stored);
        event = (struct mesh_event){.kind = MESH_TICK, .now_ms = f->now_ms, .wall_ms = FIXTURE_WALL_MS};
        mesh_step(f->mesh, &event, f->out);
        assert_int_equal(effects(f, MESH_SIGN), stored);
        assert_true(f->mesh->booted);
        fixture_close(f);
    }
}

/* ------------------------------------------------------------------------ echoes */

static void stamp(struct fixture *f, uint32_t from, enum mesh_message_kind kind, uint64_t incarnation,
                  uint64_t version)
{
    struct mesh_message message = {.kind = kind};
    message.body.echo.incarnation = incarnation;
    message.body.echo.version = version;
    fixture_message(f, from, &message);
}

/* Most say nothing else of themselves than their places. */
static void only_a_capacity_that_says_more_takes_notes(void **state)
{
    (void)state;
    struct fixture *const f = open_members(3);
    fixture_capacity(f, 0, 2, 2, 0);
    struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.site.members = 3;
    fixture_record(f, 1, record);
    record = (struct mesh_record){.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.available_until_ms = FIXTURE_WALL_MS + 1;
    fixture_record(f, 2, record);
    for (uint32_t i = 0; i < 3; i++) {
        const struct member *const member = &f->mesh->members.slot[members_find(f->mesh, &f->peer[i])];
        assert_int_equal(member->notes != 0, i > 0);
    }
    assert_int_equal(view_of(f, 1).capacity.site.members, 3);
    assert_int_equal(view_of(f, 2).capacity.available_until_ms, FIXTURE_WALL_MS + 1);
    fixture_close(f);
}

/* Whoever asks hears when we hold its capacity: at once, when it comes, or never if that takes too long. */
static void an_echo_is_given_when_the_capacity_is_held(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    fixture_capacity(f, 0, 1, 1, 0);
    const uint64_t held = f->version[0];
    for (uint64_t version = held - 1; version <= held; version++) {
        stamp(f, 0, MESH_AWAIT, 1, version);
        assert_int_equal(said(f, 0, MESH_ECHO), 1);
        assert_int_equal(f->send[f->send_count - 1].message.body.echo.incarnation, 1);
        assert_int_equal(f->send[f->send_count - 1].message.body.echo.version, version);
        fixture_clear(f);
    }
    stamp(f, 0, MESH_AWAIT, 1, held + 2);
    fixture_capacity(f, 0, 1, 1, 0);
    assert_int_equal(said(f, 0, MESH_ECHO), 0);
    fixture_capacity(f, 1, 1, 1, 0);
    fixture_capacity(f, 0, 1, 1, 0);
    assert_int_equal(said(f, 0, MESH_ECHO), 1);
    assert_int_equal(said(f, 1, MESH_ECHO), 0);
    fixture_clear(f);
    fixture_capacity(f, 0, 1, 1, 0);
    assert_int_equal(said(f, 0, MESH_ECHO), 0); /* once */
    for (uint32_t late = 0; late < 2; late++) {
        stamp(f, 0, MESH_AWAIT, 1, f->version[0] + 1);
        assert_int_equal(f->mesh->echo.awaited_count, 1);
        fixture_run(f, MESH_ECHO_LOST_MS - 1 + late);
        fixture_clear(f);
        fixture_capacity(f, 0, 1, 1, 0);
        assert_int_equal(said(f, 0, MESH_ECHO), !late);
    }
    fixture_close(f);
}

static void questions_for_echoes_are_bounded(void **state)
{
    (void)state;
    struct fixture *const f = open_members(MESH_AWAITED_MAX + 2);
    for (uint32_t peer = 0; peer < MESH_AWAITED_MAX + 2; peer++)
        stamp(f, peer, MESH_AWAIT, 1, 1000);
    assert_int_equal(counters(f)->bound_awaited, 2);
    stamp(f, 3, MESH_AWAIT, 1, 1001); /* in place of its own earlier one */
    assert_int_equal(counters(f)->bound_awaited, 2);
    assert_int_equal(f->mesh->echo.awaited_count, MESH_AWAITED_MAX);
    fixture_close(f);
}

/* One member after the other is asked, every ten seconds at most; what it answers is told less its way back. */
static void our_news_are_measured_with_one_member_at_a_time(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    uint32_t seen = 0;
    for (uint32_t round = 0; round < 6; round++) {
        while (f->mesh->echo.asked || f->now_ms - f->mesh->echo.asked_at_ms < MESH_ECHO_MS) {
            fixture_run(f, 100);
            fixture_clear(f);
        }
        const uint64_t echoes = counters(f)->echoes;
        const uint64_t lost = counters(f)->echoes_lost;
        fixture_devices(f, (uint16_t)(1 + round), 0);
        for (uint32_t ms = 0; ms < MESH_CAPACITY_MIN_MS && !f->mesh->echo.asked; ms++)
            fixture_run(f, 1);
        uint32_t who = 0;
        while (who < 3 && said(f, who, MESH_AWAIT) == 0)
            who++;
        assert_true(who < 3);
        seen |= 1u << who;
        assert_int_equal(said(f, 0, MESH_AWAIT) + said(f, 1, MESH_AWAIT) + said(f, 2, MESH_AWAIT), 1);
        const struct echo *const echo = &f->mesh->echo;
        assert_int_equal(echo->stamp.version, f->mesh->gossip.capacity_version);
        members_edit_notes(f->mesh, members_find(f->mesh, &f->peer[who]))->rtt_us = 40000;
        if (round == 5) { /* it never comes */
            fixture_run(f, echo->asked_at_ms + MESH_ECHO_LOST_MS - 1 - f->now_ms);
            assert_int_equal(counters(f)->echoes_lost, lost);
            fixture_run(f, 1);
            assert_int_equal(counters(f)->echoes_lost, lost + 1);
            break;
        }
        const int64_t after_ms = round == 0 ? 10 : 300;
        f->now_ms = echo->asked_at_ms + after_ms;
        stamp(f, (who + 1) % 3, MESH_ECHO, echo->stamp.incarnation, echo->stamp.version);
        stamp(f, who, MESH_ECHO, echo->stamp.incarnation + 1, echo->stamp.version);
        stamp(f, who, MESH_ECHO, echo->stamp.incarnation, echo->stamp.version - 1);
        assert_int_equal(counters(f)->echoes, echoes);
        stamp(f, who, MESH_ECHO, echo->stamp.incarnation, echo->stamp.version);
        assert_int_equal(counters(f)->echoes, echoes + 1);
        bool told = false;
        for (uint32_t i = 0; i < f->out->effect_count; i++) {
            const struct mesh_effect *const effect = &f->out->effect[i];
            if (effect->kind != MESH_ECHOED)
                continue;
            told = true;
            assert_memory_equal(&effect->body.echoed.id, &f->peer[who], sizeof f->self);
            assert_int_equal(effect->body.echoed.after_ms, after_ms > 20 ? after_ms - 20 : 0);
        }
        assert_true(told);
        stamp(f, who, MESH_ECHO, echo->stamp.incarnation, echo->stamp.version); /* again */
        assert_int_equal(counters(f)->echoes, echoes + 1);
    }
    assert_int_equal(seen, 7);
    fixture_close(f);
}

/* ------------------------------------------------------------------------ views */

/* Trees that come over a link, that go out by it, and those of which it gets word alone; ours goes out. */
static void a_link_is_seen_with_the_trees_over_it(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(5);
    const uint8_t here = link_to(f, 0)->place;
    const uint8_t there = link_to(f, 1)->place;
    for (uint32_t peer = 0; peer < 5; peer++) {
        struct member *const member = &f->mesh->members.slot[members_find(f->mesh, &f->peer[peer])];
        member->comes_from = (uint8_t)((peer < 2 ? here : there) + 1);
        member->lazy = peer == 2 || peer == 0 ? (uint16_t)(1u << here) : (uint16_t)(1u << there);
    }
    struct mesh_link_view link;
    assert_true(mesh_link_view(f->mesh, &f->peer[0], &link));
    assert_int_equal(link.protocol, MESH_PROTOCOL_MAX);
    assert_int_equal(link.trees_from, 2);
    assert_int_equal(link.lazy, 1);
    assert_int_equal(link.trees_to, 3);
    assert_true(mesh_link_view(f->mesh, &f->peer[1], &link));
    assert_int_equal(link.trees_from, 3);
    assert_int_equal(link.lazy, 0);
    assert_int_equal(link.trees_to, 2);
    assert_true(mesh_link_view(f->mesh, &f->peer[4], &link));
    assert_int_equal(link.trees_from, 0);
    assert_int_equal(link.lazy, 0);
    assert_int_equal(link.trees_to, 5);
    assert_false(mesh_link_view(f->mesh, &f->self, &link));
    const struct mesh_id stranger = {{0xee}};
    assert_false(mesh_link_view(f->mesh, &stranger, &link));
    fixture_close(f);
}

static void a_member_is_seen_with_whom_it_accuses(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(6);
    alert(f, 1, &f->peer[2], 1, true);
    alert(f, 1, &f->peer[3], 1, true);
    alert(f, 4, &f->peer[3], 1, true);
    static const struct {
        uint32_t accusers, accuses;
    } seen[] = {{0, 0}, {0, 2}, {1, 0}, {2, 0}, {0, 1}, {0, 0}};
    for (uint32_t peer = 0; peer < 6; peer++) {
        assert_int_equal(view_of(f, peer).accusers, seen[peer].accusers);
        assert_int_equal(view_of(f, peer).accuses, seen[peer].accuses);
    }
    alert(f, 1, &f->peer[3], 1, false);
    assert_int_equal(view_of(f, 1).accuses, 1);
    assert_int_equal(view_of(f, 3).accusers, 1);
    fixture_close(f);
}

/* Whether the peer owns one of a hundred keys. */
static bool owns_some(const struct fixture *f, uint32_t peer)
{
    for (uint8_t number = 0; number < 100; number++) {
        const struct mesh_id key = {{number}};
        struct mesh_id owner[2];
        const uint32_t count = mesh_owners(f->mesh, &key, owner);
        assert_int_equal(count, 2);
        assert_memory_not_equal(&owner[0], &owner[1], sizeof owner[0]);
        if (id_equal(&owner[0], &f->peer[peer]) || id_equal(&owner[1], &f->peer[peer]))
            return true;
    }
    return false;
}

/* Who has been up for ten minutes owns keys, if there are three of those; otherwise whoever is up. */
static void who_came_lately_owns_no_keys_among_three_that_are_stable(void **state)
{
    (void)state;
    for (uint32_t old = 1; old <= 2; old++) {
        struct fixture *const f = open_linked(old);
        fixture_run(f, MESH_STABLE_MS);
        memset(f->peer[old].bytes, 0x42, sizeof f->peer[old].bytes);
        f->incarnation[old] = 1;
        f->peers = old + 1;
        fixture_member(f, old, 100, 9);
        assert_int_equal(owns_some(f, old), old == 1);
        for (uint32_t peer = 0; peer < old; peer++)
            assert_true(owns_some(f, peer));
        if (old == 2) {
            fixture_run(f, MESH_STABLE_MS - 1);
            assert_false(owns_some(f, old));
            fixture_run(f, 1);
            assert_true(owns_some(f, old));
        }
        fixture_close(f);
    }
}

/* Who accuses us without being our neighbour hears our refutation from us, for no tree may bring it. */
static void an_accuser_that_is_no_neighbour_is_answered(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(30);
    uint32_t far = 0;
    while (link_to(f, far))
        far++;
    uint32_t near = 0;
    while (!link_to(f, near))
        near++;
    alert(f, near, &f->self, own_incarnation(f), true);
    alert(f, far, &f->self, own_incarnation(f), true);
    fixture_run(f, 1100);
    bool answered = false;
    for (uint32_t i = 0; i < f->send_count; i++)
        answered |= f->send[i].message.kind == MESH_PUSH && id_equal(&f->send[i].to, &f->peer[far]) &&
                    id_equal(&f->send[i].message.body.push.record.origin, &f->self) &&
                    f->send[i].message.body.push.record.incarnation > 1;
    assert_true(answered);
    fixture_close(f);
}

/* A revocation that is too many is not kept, but whom it is about is out. */
static void a_revocation_beyond_the_bound_still_acts(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 1, .shards = 1, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    struct mesh_record revocation = {.kind = MESH_RECORD_REVOCATION};
    const uint32_t kept = f->mesh->gossip.revocation_capacity;
    for (uint32_t i = 0; i < kept; i++) {
        revocation.body.revocation.subject = (struct mesh_id){{0xee, (uint8_t)i}};
        fixture_record(f, 0, revocation);
    }
    assert_int_equal(counters(f)->records_full, 0);
    revocation.body.revocation.subject = f->peer[1];
    fixture_record(f, 0, revocation);
    assert_int_equal(counters(f)->records_full, 1);
    assert_int_equal(view_of(f, 1).state, MESH_REVOKED);
    assert_int_equal(f->mesh->gossip.revocation_count, kept);
    fixture_close(f);
}

/* In a full table the one that was revoked first gives way to a newcomer. */
static void a_newcomer_takes_the_place_of_the_first_that_was_revoked(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 5, .jobs = 1, .shards = 1, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(4, &limits, NULL);
    static const uint32_t order[] = {1, 0, 2};
    for (uint32_t i = 0; i < 3; i++) {
        struct mesh_record revocation = {.kind = MESH_RECORD_REVOCATION};
        revocation.body.revocation.subject = f->peer[order[i]];
        fixture_record(f, 3, revocation);
        f->now_ms += 100;
    }
    memset(f->peer[4].bytes, 0x42, sizeof f->peer[4].bytes);
    f->incarnation[4] = 1;
    fixture_member(f, 4, 100, 9);
    assert_int_equal(view_of(f, 4).state, MESH_UP);
    assert_int_equal(view_of(f, 0).state, MESH_REVOKED);
    assert_int_equal(view_of(f, 2).state, MESH_REVOKED);
    struct mesh_member_view gone;
    assert_false(mesh_member_find(f->mesh, &f->peer[1], &gone));
    fixture_close(f);
}

/* xoshiro256** from the state 1, 2, 3, 4: the first outputs of the reference implementation. */
static void the_generator_gives_its_published_vectors(void **state)
{
    (void)state;
    struct mesh_random random = {{1, 2, 3, 4}};
    static const uint64_t outputs[] = {
        11520u, 0u, 1509978240u, 1215971899390074240u, 1216172134540287360u, 607988272756665600u};
    for (uint32_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        assert_true(random_next(&random) == outputs[i]);
}

static void dwell(struct fixture *f, uint32_t peer, uint64_t region)
{
    struct mesh_record record = {.kind = MESH_RECORD_MEMBER};
    record.body.member.session = 100 + peer;
    record.body.member.site = 2 + peer;
    record.body.member.region = region;
    fixture_record(f, peer, record);
}

/* More members than a full mesh has, of three regions. */
static struct fixture *open_regions(uint32_t peers)
{
    struct fixture *const f = open_members(peers);
    for (uint32_t i = 0; i < peers; i++)
        dwell(f, i, i % 3);
    return f;
}

static void who_moves_to_another_region_stands_there(void **state)
{
    (void)state;
    struct fixture *const f = open_regions(24);
    for (uint32_t i = 0; i < 24; i++) {
        dwell(f, i, 9); /* mesh_check() looks at the order of the rings after each step */
        assert_int_equal(f->mesh->members.slot[members_find(f->mesh, &f->peer[i])].record.region, 9);
    }
    fixture_close(f);
}

/* Who observes a member does so when it is gone from the rings: the two on either side of where it stood. */
static void a_member_that_is_gone_has_the_neighbours_that_it_had(void **state)
{
    (void)state;
    struct fixture *const f = open_regions(24);
    for (uint32_t i = 0; i < 24; i++) {
        const uint32_t slot = members_find(f->mesh, &f->peer[i]);
        uint32_t before[MESH_NEIGHBOURS_MAX], after[MESH_NEIGHBOURS_MAX];
        const uint32_t count = overlay_neighbours(f->mesh, slot, before);
        overlay_remove(f->mesh, slot);
        assert_int_equal(overlay_neighbours(f->mesh, slot, after), count);
        assert_memory_equal(after, before, count * sizeof after[0]);
        overlay_insert(f->mesh, slot);
    }
    fixture_close(f);
}

/* Adds a peer whose id is listed in that bucket. */
static void add_to_bucket(struct fixture *f, uint8_t bucket)
{
    uint8_t name[8 + 32 + 32] = {MESH_RECORD_MEMBER}; /* as rounds.c has it: kind, origin, subject */
    struct mesh_id *const id = &f->peer[f->peers];
    do {
        id->bytes[0]++;
        id->bytes[1] = (uint8_t)(id->bytes[1] + (id->bytes[0] == 0));
        id->bytes[2] = 1;
        memcpy(name + 8, id->bytes, sizeof id->bytes);
    } while (mesh_hash(0x74656b637562u, 0, name, sizeof name) % MESH_BUCKETS != bucket ||
             members_find(f->mesh, id) != MESH_NONE);
    f->incarnation[f->peers++] = 1;
    fixture_member(f, f->peers - 1, 100, 9);
    assert_int_equal(f->mesh->members.slot[members_find(f->mesh, id)].bucket, bucket);
}

/* A bucket that differs is told whole where one message has room for it, and in part beyond. */
static void a_bucket_that_fits_into_a_message_is_told_whole(void **state)
{
    (void)state;
    struct fixture *const f = open_members(1);
    const struct members *const members = &f->mesh->members;
    uint8_t bucket = 0;
    while (bucket == members->slot[members->self].bucket ||
           bucket == members->slot[members_find(f->mesh, &f->peer[0])].bucket)
        bucket++;
    for (uint32_t held = 1; held <= MESH_ENTRIES_MAX + 1; held++) {
        add_to_bucket(f, bucket);
        if (held < MESH_ENTRIES_MAX)
            continue;
        struct mesh_message summary = {.kind = MESH_SUMMARY};
        memcpy(summary.body.summary.bucket_hash, f->mesh->rounds.bucket_hash[0],
               sizeof summary.body.summary.bucket_hash);
        summary.body.summary.bucket_hash[bucket]++;
        fixture_clear(f);
        fixture_message(f, 0, &summary);
        struct mesh_message entries;
        assert_true(fixture_sent(f, 0, MESH_ENTRIES, &entries));
        assert_int_equal(entries.body.entries.count, MESH_ENTRIES_MAX);
        assert_int_equal(entries.body.entries.buckets, held == MESH_ENTRIES_MAX ? UINT64_C(1) << bucket : 0);
        assert_false(fixture_sent(f, 0, MESH_ENTRIES, &entries));
    }
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quiet_link_is_pinged_each_second_and_a_busy_one_for_its_round_trip),
        cmocka_unit_test(a_ping_is_answered_with_its_stamp),
        cmocka_unit_test(round_trips_are_smoothed),
        cmocka_unit_test(a_link_that_falls_silent_is_dialled_once_and_then_suspected),
        cmocka_unit_test(a_link_that_was_never_up_has_longer),
        cmocka_unit_test(a_reset_link_is_silent_at_once_if_it_was_ever_heard),
        cmocka_unit_test(a_stopped_process_gives_its_links_their_time_afresh),
        cmocka_unit_test(a_new_session_is_told_who_we_are_and_what_we_know),
        cmocka_unit_test(who_is_heard_first_is_asked_for_capacities_too),
        cmocka_unit_test(new_sessions_are_asked_for_capacities_one_after_the_other),
        cmocka_unit_test(an_accusation_is_repeated_and_withdrawn),
        cmocka_unit_test(two_accusers_make_a_member_suspect_and_most_of_its_observers_end_it),
        cmocka_unit_test(death_waits_for_a_refutation),
        cmocka_unit_test(among_few_one_accuser_will_do),
        cmocka_unit_test(accusations_that_are_not_repeated_end),
        cmocka_unit_test(words_of_another_incarnation_or_of_the_dead_count_for_nothing),
        cmocka_unit_test(the_dead_who_speak_are_told_alone_at_first),
        cmocka_unit_test(deaths_that_were_missed_are_told_one_after_the_other),
        cmocka_unit_test(a_new_record_takes_no_accusation_back),
        cmocka_unit_test(who_leaves_says_so_at_once),
        cmocka_unit_test(a_death_that_a_peer_missed_is_told_a_little_later),
        cmocka_unit_test(a_death_of_which_an_old_record_comes_is_told_a_little_later),
        cmocka_unit_test(an_accuser_that_was_refuted_waits_longer_each_time),
        cmocka_unit_test(most_links_at_once_raise_doubt_of_ourselves),
        cmocka_unit_test(who_passes_records_on_is_no_silent_neighbour),
        cmocka_unit_test(two_links_raise_doubt_and_an_only_one_does_not),
        cmocka_unit_test(who_moves_to_another_region_stands_there),
        cmocka_unit_test(a_member_that_is_gone_has_the_neighbours_that_it_had),
        cmocka_unit_test(a_bucket_that_fits_into_a_message_is_told_whole),
        cmocka_unit_test(doubt_ends_when_half_of_the_links_work),
        cmocka_unit_test(the_dead_are_tried_two_at_a_time),
        cmocka_unit_test(tombstones_are_dropped_after_a_day),
        cmocka_unit_test(an_accusation_of_ourselves_is_refuted_once_a_second),
        cmocka_unit_test(a_record_of_ours_from_another_life_is_outdone),
        cmocka_unit_test(the_first_round_is_at_any_moment_of_the_first_five_seconds),
        cmocka_unit_test(a_round_is_held_every_five_seconds),
        cmocka_unit_test(what_a_peer_lacks_is_sent_and_what_we_lack_asked_for),
        cmocka_unit_test(no_more_is_repaired_than_has_room),
        cmocka_unit_test(what_is_asked_for_is_newer_than_what_is_held),
        cmocka_unit_test(a_round_that_brought_something_is_followed_soon_by_another),
        cmocka_unit_test(capacities_that_are_missing_are_asked_for),
        cmocka_unit_test(our_capacity_is_announced_when_it_changed_and_now_and_then),
        cmocka_unit_test(only_a_capacity_that_says_more_takes_notes),
        cmocka_unit_test(a_node_announces_itself_behind_what_it_has_stored),
        cmocka_unit_test(an_echo_is_given_when_the_capacity_is_held),
        cmocka_unit_test(an_echo_is_not_owed_to_who_is_forgotten),
        cmocka_unit_test(questions_for_echoes_are_bounded),
        cmocka_unit_test(our_news_are_measured_with_one_member_at_a_time),
        cmocka_unit_test(a_link_is_seen_with_the_trees_over_it),
        cmocka_unit_test(a_member_is_seen_with_whom_it_accuses),
        cmocka_unit_test(who_came_lately_owns_no_keys_among_three_that_are_stable),
        cmocka_unit_test(an_accuser_that_is_no_neighbour_is_answered),
        cmocka_unit_test(a_revocation_beyond_the_bound_still_acts),
        cmocka_unit_test(a_newcomer_takes_the_place_of_the_first_that_was_revoked),
        cmocka_unit_test(the_generator_gives_its_published_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
