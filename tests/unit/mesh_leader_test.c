/* The home of a job with a journal: what it sends the members, when it counts something as settled, and its election. */
#include "mesh/internal.h"

#include "mesh_journal_fixture.h"

enum { PEERS = 4, FIRST = 0, SECOND = 1 };

/* The job's home, and which peers are the journal's other members. */
struct reign {
    struct fixture *f;
    uint32_t member[2];
};

static uint32_t peer_of(const struct fixture *f, const struct mesh_id *id)
{
    for (uint32_t peer = 0; peer < f->peers; peer++) {
        if (!memcmp(&f->peer[peer], id, sizeof *id))
            return peer;
    }
    return UINT32_MAX;
}

static struct mesh_journal_view journal_of(const struct fixture *f)
{
    struct mesh_journal_view journal = {0};
    const struct mesh_id id = fixture_job(1);
    mesh_journal_find(f->mesh, &id, &journal);
    return journal;
}

/* What we send to ourselves comes back once it is durable. */
static void own_words_come(struct fixture *f)
{
    struct mesh_message message;
    while (fixture_sent(f, UINT32_MAX, MESH_APPENDED, &message) ||
           fixture_sent(f, UINT32_MAX, MESH_VOTED, &message))
        fixture_message(f, UINT32_MAX, &message);
}

static struct mesh_message appended(uint64_t epoch, uint32_t last, bool held)
{
    struct mesh_message message = {.kind = MESH_APPENDED};
    message.body.appended.job = fixture_job(1);
    message.body.appended.epoch = epoch;
    message.body.appended.last = last;
    message.body.appended.held = held;
    return message;
}

static void says(struct fixture *f, uint32_t from, uint64_t epoch, uint32_t last, bool held)
{
    const struct mesh_message message = appended(epoch, last, held);
    fixture_message(f, from, &message);
}

static struct reign open_reign(uint32_t shards)
{
    struct reign reign = {.f = open_member(PEERS, 8)};
    struct fixture *const f = reign.f;
    for (uint32_t peer = 0; peer < PEERS; peer++)
        fixture_capacity(f, peer, 2, 2, 0);
    struct mesh_job_spec spec = spec_of(1, shards);
    spec.copies = 3;
    spec.bundle_shards_max = 1;
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = spec;
    fixture_clear(f);
    fixture_step(f, &event);
    for (uint32_t i = 0; i < 2; i++)
        reign.member[i] = peer_of(f, &journal_of(f).members.id[1 + i]);
    return reign;
}

/* The home of a job with one other copy, whose own is durable. */
static struct fixture *open_pair(void)
{
    struct fixture *const f = open_member(1, 8);
    struct mesh_job_spec spec = spec_of(1, 4);
    spec.copies = 2;
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = spec;
    fixture_step(f, &event);
    own_words_come(f);
    return f;
}

/* Both hold all that there is. */
static void both_hold(const struct reign *reign)
{
    own_words_come(reign->f);
    for (uint32_t i = 0; i < 2; i++)
        says(reign->f, reign->member[i], journal_of(reign->f).epoch, journal_of(reign->f).last, true);
}

static bool told(struct fixture *f, enum mesh_job_state state)
{
    struct mesh_effect effect;
    return fixture_did(f, MESH_JOB, &effect) && effect.body.job.state == state;
}

static struct mesh_journal_image image_of(bool was_home)
{
    return (struct mesh_journal_image){.job = fixture_job(1),
                                       .members_at = 1,
                                       .promised = 2,
                                       .last = 9,
                                       .settled = 5,
                                       .home = was_home,
                                       .run_count = 2,
                                       .run = {{.epoch = 1, .first = 1}, {.epoch = 2, .first = 8}}};
}

static void restore(struct fixture *f, const struct mesh_journal_image *image)
{
    fixture_step(f, &(struct mesh_event){.kind = MESH_RESTORE_JOURNAL, .body.journal = *image});
}

static struct fixture *open_heir(bool was_home)
{
    struct fixture *const f = open_member(PEERS, 8);
    struct mesh_journal_image image = image_of(was_home);
    image.members = (struct mesh_members){
        .number = 1, .count = 3, .id = {f->peer[0], f->self, f->peer[1]}, .storage = {1, 1, 1}};
    restore(f, &image);
    return f;
}

/* That peer is the job's home, and everything is settled. */
static void hear_home(struct fixture *f, uint32_t from)
{
    struct mesh_message beat = {.kind = MESH_BEAT};
    beat.body.beat.count = 1;
    beat.body.beat.journal[0].job = fixture_job(1);
    beat.body.beat.journal[0].epoch = 2;
    beat.body.beat.journal[0].last = beat.body.beat.journal[0].settled = 9;
    fixture_message(f, from, &beat);
}

static void a_submit_is_told_once_a_majority_holds_it(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_JOB, &save));
    assert_int_equal(save.body.job.place.index, 1);
    assert_int_equal(save.body.job.place.entry_epoch, 1);
    assert_int_equal(save.body.job.members.count, 3);
    assert_int_equal(save.sequence, 1);
    for (uint32_t i = 0; i < f->send_count; i++)
        assert_int_equal(f->send[i].early, f->send[i].message.kind == MESH_APPEND);
    for (uint32_t i = 0; i < 2; i++) {
        struct mesh_message append;
        assert_true(fixture_sent(f, reign.member[i], MESH_APPEND, &append));
        assert_int_equal(append.body.append.epoch, 1);
        assert_int_equal(append.body.append.entry_epoch, 1);
        assert_int_equal(append.body.append.before_epoch, 0);
        assert_int_equal(append.body.append.index, 1);
        assert_int_equal(append.body.append.settled, 0);
        assert_int_equal(append.body.append.sequence, 0);
        assert_int_equal(append.body.append.kind, MESH_ENTRY_SUBMIT);
        assert_int_equal(append.body.append.members.count, 3);
        for (uint32_t k = 0; k < 3; k++)
            assert_int_equal(append.body.append.members.storage[k], 1);
    }
    says(f, reign.member[FIRST], 1, 1, true);
    assert_false(told(f, MESH_JOB_RUNNING)); /* our own copy is not durable yet */
    own_words_come(f);
    assert_true(told(f, MESH_JOB_RUNNING));
    assert_int_equal(view(f, 1).copies, 3);
    assert_false(view(f, 1).changing);
    assert_int_equal(f->mesh->disk.durable, 1);
    says(f, reign.member[SECOND], 1, 1, true);
    assert_false(told(f, MESH_JOB_RUNNING));
    assert_int_equal(mesh_counters(f->mesh)->entries, 1);
    fixture_close(f);
}

/* What a member can't mean counts for nothing. */
static void what_members_say_is_counted_if_it_can_be_so(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    own_words_come(f);
    uint32_t stranger = 0;
    while (stranger == reign.member[FIRST] || stranger == reign.member[SECOND])
        stranger++;
    says(f, stranger, 1, 1, true);
    says(f, reign.member[FIRST], 0, 1, true);
    says(f, reign.member[FIRST], 1, 2, true);
    says(f, reign.member[FIRST], 1, 0, true);
    struct mesh_message lost = appended(1, 1, true);
    lost.body.appended.storage = 2; /* its disk is another than the one that was chosen */
    fixture_message(f, reign.member[FIRST], &lost);
    assert_false(told(f, MESH_JOB_RUNNING));
    lost.body.appended.storage = 1;
    fixture_message(f, reign.member[SECOND], &lost);
    assert_true(told(f, MESH_JOB_RUNNING));
    says(f, reign.member[SECOND], 2, 0, false); /* somebody was promised more: we are it no longer */
    assert_true(told(f, MESH_JOB_MOVED));
    assert_false(journal_of(f).leads);
    assert_int_equal(mesh_counters(f->mesh)->step_downs, 1);
    fixture_close(f);
}

static bool asked_for_log(struct fixture *f, uint32_t to, uint32_t first, uint32_t count)
{
    struct mesh_effect effect;
    if (!fixture_did(f, MESH_SEND_LOG, &effect))
        return false;
    assert_memory_equal(&effect.body.send_log.to, &f->peer[to], sizeof f->self);
    assert_int_equal(effect.body.send_log.epoch, 1);
    assert_int_equal(effect.body.send_log.first, first);
    assert_int_equal(effect.body.send_log.count, count);
    return true;
}

static void a_member_that_lacks_entries_is_sent_them_from_the_disk(void **state)
{
    (void)state;
    const struct reign reign = open_reign(90);
    struct fixture *const f = reign.f;
    own_words_come(f);
    says(f, reign.member[FIRST], 1, 1, true);
    for (uint64_t i = 0; i < 79; i++) { /* 80 entries */
        grant(f, 0, 1, 100 + i, 1);
        struct mesh_message bundle;
        assert_true(fixture_sent(f, 0, MESH_ASSIGN_KEPT, &bundle));
        assert_int_equal(bundle.body.assign.others.count, 2);
        result(f, 0, &bundle, MESH_DONE);
        own_words_come(f);
        says(f, reign.member[FIRST], 1, (uint32_t)i + 2, true);
    }
    assert_int_equal(journal_of(f).last, 80);
    assert_int_equal(journal_of(f).settled, 80);
    fixture_clear(f);
    const uint32_t second = reign.member[SECOND];
    says(f, second, 1, 3, false); /* a window at a time */
    assert_true(asked_for_log(f, second, 4, 64));
    says(f, second, 1, 4, false); /* it is under way */
    assert_false(asked_for_log(f, second, 0, 0));
    struct mesh_event part = {.kind = MESH_LOG_SENT};
    part.body.log_sent.job = fixture_job(1);
    part.body.log_sent.to = f->peer[second];
    part.body.log_sent.epoch = 2; /* of another reign */
    part.body.log_sent.last = 10;
    fixture_step(f, &part);
    part.body.log_sent.epoch = 1;
    part.body.log_sent.to = f->peer[reign.member[FIRST]]; /* lacks nothing */
    fixture_step(f, &part);
    part.body.log_sent.to = f->peer[second];
    for (part.body.log_sent.last = 67; part.body.log_sent.last < 69; part.body.log_sent.last++)
        fixture_step(f, &part); /* all that was asked for, and more */
    assert_int_equal(mesh_counters(f->mesh)->entries_resent, 64);
    part.body.log_sent.last = 10; /* no more could be sent at once */
    fixture_step(f, &part);
    assert_int_equal(mesh_counters(f->mesh)->entries_resent, 7);
    says(f, second, 1, 9, true);
    assert_false(asked_for_log(f, second, 0, 0));
    says(f, second, 1, 10, true);
    assert_true(asked_for_log(f, second, 11, 64));
    says(f, second, 1, 74, true);
    assert_true(asked_for_log(f, second, 75, 6));
    says(f, second, 1, 80, true);
    assert_false(asked_for_log(f, second, 0, 0));
    assert_int_equal(mesh_counters(f->mesh)->entries_resent, 77);
    says(f, second, 1, 5, false); /* it has lost what it held */
    assert_true(asked_for_log(f, second, 6, 64));
    fixture_close(f);
}

/* The first entry after half a second, for its taker may have to ask about its disk; later ones after two. */
static void an_entry_that_is_not_held_is_sent_again(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    own_words_come(f);
    says(f, reign.member[FIRST], 1, 1, true);
    fixture_run(f, 499);
    assert_false(asked_for_log(f, 0, 0, 0));
    fixture_run(f, 501);
    assert_true(asked_for_log(f, reign.member[SECOND], 1, 1));
    says(f, reign.member[SECOND], 1, 1, true);
    fixture_run(f, 1000);
    fixture_clear(f);
    grant(f, 0, 1, 7, 1);
    struct mesh_message bundle;
    assert_true(fixture_sent(f, 0, MESH_ASSIGN_KEPT, &bundle));
    result(f, 0, &bundle, MESH_DONE);
    own_words_come(f);
    says(f, reign.member[FIRST], 1, 2, true);
    fixture_run(f, 1999);
    assert_false(asked_for_log(f, 0, 0, 0));
    fixture_run(f, 501);
    assert_true(asked_for_log(f, reign.member[SECOND], 2, 1));
    fixture_close(f);
}

static void a_home_beats_every_three_seconds(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    fixture_run(f, 500);
    struct mesh_message beat;
    assert_true(fixture_sent(f, reign.member[FIRST], MESH_BEAT, &beat)); /* what is settled is said at once */
    assert_int_equal(beat.body.beat.count, 1);
    assert_int_equal(beat.body.beat.sequence, 1);
    assert_int_equal(beat.body.beat.journal[0].epoch, 1);
    assert_int_equal(beat.body.beat.journal[0].last, 1);
    assert_int_equal(beat.body.beat.journal[0].settled, 1);
    assert_false(beat.body.beat.journal[0].over);
    fixture_clear(f);
    const int64_t beat_at_ms = f->mesh->journals.journal[0].beat_at_ms;
    for (uint32_t i = 1; i <= 3; i++) {
        fixture_run(f, beat_at_ms + i * JOURNAL_BEAT_MS - 1 - f->now_ms);
        assert_false(fixture_sent(f, reign.member[FIRST], MESH_BEAT, &beat));
        fixture_run(f, 1);
        assert_true(fixture_sent(f, reign.member[FIRST], MESH_BEAT, &beat));
        assert_true(fixture_sent(f, reign.member[SECOND], MESH_BEAT, &beat));
    }
    fixture_close(f);
}

/* For something that is not settled, and without it when a majority was not heard for so long. */
static void a_job_is_stalled_after_eight_seconds(void **state)
{
    (void)state;
    for (uint32_t silent = 0; silent < 2; silent++) {
        const struct reign reign = open_reign(4);
        struct fixture *const f = reign.f;
        if (silent) {
            both_hold(&reign);
            f->silent[reign.member[FIRST]] = f->silent[reign.member[SECOND]] = true;
        } else {
            own_words_come(f);
        }
        fixture_run(f, JOURNAL_STALL_MS - 1);
        assert_false(view(f, 1).stalled);
        fixture_run(f, JOURNAL_SCAN_MS + 1000);
        assert_true(view(f, 1).stalled);
        assert_true(journal_of(f).stalled);
        assert_int_equal(mesh_counters(f->mesh)->stalls, 1);
        both_hold(&reign);
        fixture_run(f, JOURNAL_SCAN_MS);
        assert_false(view(f, 1).stalled);
        assert_int_equal(mesh_counters(f->mesh)->stalls, 1);
        fixture_close(f);
    }
}

/* The time counts from when something began to wait. */
static void a_job_is_not_stalled_by_what_it_did_not_wait_for(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    fixture_run(f, 2 * JOURNAL_STALL_MS);
    fixture_clear(f);
    grant(f, 3, 1, 7, 1);
    struct mesh_message bundle;
    assert_true(fixture_sent(f, 3, MESH_ASSIGN_KEPT, &bundle));
    result(f, 3, &bundle, MESH_DONE);
    fixture_run(f, JOURNAL_STALL_MS - 1);
    assert_false(view(f, 1).stalled);
    fixture_run(f, JOURNAL_SCAN_MS);
    assert_true(view(f, 1).stalled);
    fixture_close(f);
}

static void a_result_is_acknowledged_once_it_is_settled(void **state)
{
    (void)state;
    const struct reign reign = open_reign(2);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    fixture_clear(f);
    grant(f, 3, 1, 7, 2);
    struct mesh_message bundle[2], append;
    for (uint32_t i = 0; i < 2; i++)
        assert_true(fixture_sent(f, 3, MESH_ASSIGN_KEPT, &bundle[i]));
    result(f, 3, &bundle[0], MESH_DONE);
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_COMMIT, &save));
    assert_int_equal(save.body.commit.place.index, 2);
    assert_int_equal(save.body.commit.place.settled, 1);
    assert_int_equal(save.sequence, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(fixture_sent(f, reign.member[i], MESH_APPEND, &append));
        assert_int_equal(append.body.append.index, 2);
        assert_int_equal(append.body.append.before_epoch, 1);
        assert_int_equal(append.body.append.settled, 1);
        assert_int_equal(append.body.append.sequence, 1);
        assert_int_equal(append.body.append.kind, MESH_ENTRY_COMMIT);
        assert_int_equal(append.body.append.members.count, 0);
    }
    result(f, 3, &bundle[0], MESH_DONE); /* it comes again: that is no other entry */
    assert_int_equal(journal_of(f).last, 2);
    assert_false(sent(f, 3, MESH_RESULT_ACK));
    grant(f, 3, 1, 7, 2); /* under a token that is owed an answer nothing is bound */
    assert_false(sent(f, 3, MESH_ASSIGN_KEPT));
    both_hold(&reign);
    assert_true(sent(f, 3, MESH_RESULT_ACK));
    assert_false(sent(f, 3, MESH_RESULT_ACK));
    result(f, 3, &bundle[0], MESH_DONE);
    assert_true(sent(f, 3, MESH_RESULT_ACK));

    /* And so is the job's end: the members are told to forget it when all of them hold it. */
    result(f, 3, &bundle[1], MESH_DONE);
    assert_int_equal(journal_of(f).last, 4);
    own_words_come(f);
    assert_false(told(f, MESH_JOB_DONE));
    says(f, reign.member[FIRST], 1, 4, true);
    assert_true(told(f, MESH_JOB_DONE));
    fixture_clear(f);
    fixture_run(f, 1000);
    struct mesh_message beat;
    assert_true(fixture_sent(f, reign.member[FIRST], MESH_BEAT, &beat));
    assert_false(beat.body.beat.journal[0].over);
    says(f, reign.member[SECOND], 1, 4, true);
    fixture_clear(f);
    fixture_run(f, 500);
    struct mesh_effect effect;
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(fixture_sent(f, reign.member[i], MESH_BEAT, &beat));
        assert_true(beat.body.beat.journal[0].over);
        assert_int_equal(beat.body.beat.journal[0].settled, 4);
        assert_false(fixture_did(f, MESH_JOURNAL_OVER, &effect));
        struct mesh_message over = appended(1, 4, true);
        over.body.appended.over = true;
        fixture_message(f, reign.member[i], &over);
    }
    fixture_run(f, 500);
    assert_true(fixture_did(f, MESH_JOURNAL_OVER, &effect));
    assert_true(effect.body.over.whole);
    assert_int_equal(journal_of(f).last, 0);
    fixture_close(f);
}

/* More than one output has room for. */
static void results_that_are_settled_together_are_acknowledged_in_turn(void **state)
{
    (void)state;
    enum { RESULTS = MESH_OUT_SENDS_MAX };
    struct mesh_limits limits = limits_of_journals(1);
    limits.bundles = RESULTS + 1;
    limits.waiters = 2 * RESULTS; /* some are kept free for the ends of jobs */
    struct fixture *const f = fixture_open_limits(2, &limits, NULL);
    for (uint32_t peer = 0; peer < 2; peer++)
        fixture_message(f, peer, &(struct mesh_message){.kind = MESH_DISK, .body.disk.sequence = 1});
    struct mesh_job_spec spec = spec_of(1, RESULTS + 1);
    spec.copies = 3;
    spec.bundle_shards_max = 1;
    fixture_step(f, &(struct mesh_event){.kind = MESH_SUBMIT, .body.submit = spec});
    own_words_come(f);
    for (uint32_t peer = 0; peer < 2; peer++)
        says(f, peer, 1, 1, true);
    for (uint64_t token = 0; token < RESULTS / 64; token++) {
        grant(f, 0, 1, 7 + token, 64);
        struct mesh_message bundle;
        while (fixture_sent(f, 0, MESH_ASSIGN_KEPT, &bundle))
            result(f, 0, &bundle, MESH_DONE);
        fixture_clear(f);
    }
    assert_int_equal(journal_of(f).last, 1 + RESULTS);
    for (uint32_t peer = 0; peer < 2; peer++)
        says(f, peer, 1, 1 + RESULTS, true);
    assert_int_equal(journal_of(f).settled, 1 + RESULTS);
    uint32_t acknowledged = 0;
    while (sent(f, 0, MESH_RESULT_ACK))
        acknowledged++;
    assert_in_range(acknowledged, 1, RESULTS - 1);
    assert_int_equal(f->wake_at_ms, f->now_ms);
    fixture_tick(f);
    while (sent(f, 0, MESH_RESULT_ACK))
        acknowledged++;
    assert_int_equal(acknowledged, RESULTS);
    fixture_close(f);
}

/* A home that drains asks a member that has everything to stand, and takes no results meanwhile. */
static void a_home_that_drains_asks_who_has_everything(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    grant(f, 3, 1, 7, 2);
    struct mesh_message bundle[2], message;
    for (uint32_t i = 0; i < 2; i++)
        assert_true(fixture_sent(f, 3, MESH_ASSIGN_KEPT, &bundle[i]));
    result(f, 3, &bundle[0], MESH_DONE);
    own_words_come(f);
    says(f, reign.member[SECOND], 1, 2, true); /* the first one lacks this */
    fixture_step(f, &(struct mesh_event){.kind = MESH_DRAIN});
    fixture_clear(f);
    fixture_run(f, JOURNAL_SCAN_MS);
    assert_false(sent(f, reign.member[FIRST], MESH_HAND_OVER));
    assert_true(fixture_sent(f, reign.member[SECOND], MESH_HAND_OVER, &message));
    assert_int_equal(message.body.hand_over.epoch, 1);
    assert_false(message.body.hand_over.done);
    const uint32_t last = journal_of(f).last;
    result(f, 3, &bundle[1], MESH_DONE);
    assert_int_equal(journal_of(f).last, last);
    assert_false(sent(f, 3, MESH_RESULT_ACK));
    assert_int_equal(mesh_counters(f->mesh)->handovers, 1);
    assert_int_equal(mesh_counters(f->mesh)->bound_waiters, 0);
    for (uint32_t i = 0; i < 3; i++) {
        fixture_run(f, JOURNAL_SCAN_MS);
        result(f, 3, &bundle[1], MESH_DONE);
        assert_int_equal(journal_of(f).last, last);
    }
    fixture_run(f, JOURNAL_SCAN_MS); /* nobody stood: they are taken again, for as long */
    result(f, 3, &bundle[1], MESH_DONE);
    assert_int_equal(journal_of(f).last, last + 1);
    fixture_close(f);
}

/* Waiters are for ends as well; half of the rest is left to others where nothing is settled. */
static void there_is_room_for_results_beside_all_ends(void **state)
{
    (void)state;
    static const struct {
        uint32_t used;
        bool stalled, room;
    } cases[] = {{23, false, true}, {24, false, false}, {11, true, true}, {12, true, false}};
    const struct reign reign = open_reign(1);
    struct journals *const journals = &reign.f->mesh->journals;
    const uint32_t fresh = journals->waiter_pool.fresh;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        journals->waiter_pool.fresh = cases[i].used; /* of 32, for 8 jobs */
        journals->journal[0].stalled = cases[i].stalled;
        if (journal_has_room(reign.f->mesh, 0) != cases[i].room)
            fail_msg("case %zu", i);
    }
    journals->waiter_pool.fresh = fresh;
    fixture_close(reign.f);
}

/* A job of two copies that nobody was told of ends with its cancel; one that was settled ends as any other. */
static void a_cancel_waits_if_another_may_have_the_job(void **state)
{
    (void)state;
    for (uint32_t settled = 0; settled < 2; settled++) {
        struct fixture *const f = open_pair();
        if (settled)
            says(f, 0, 1, 1, true);
        fixture_clear(f);
        about_job(f, MESH_CANCEL_JOB, 1);
        assert_int_equal(mesh_counters(f->mesh)->cancels, 1);
        struct mesh_effect effect;
        assert_int_equal(fixture_did(f, MESH_JOURNAL_OVER, &effect), !settled);
        assert_int_equal(told(f, MESH_JOB_CANCELLED), !settled);
        own_words_come(f);
        says(f, 0, 1, 2, true);
        assert_int_equal(told(f, MESH_JOB_CANCELLED), settled);
        fixture_close(f);
    }
}

/* A member that knows the end to be settled has forgotten the journal: ours is whole if it is the same so far. */
static void a_home_of_a_job_that_was_over_hears_so(void **state)
{
    (void)state;
    static const struct {
        uint32_t last;
        uint64_t last_epoch;
        bool over, whole;
    } cases[] = {{3, 1, true, true},
                 {3, 2, true, false},
                 {4, 1, true, false},
                 {2, 1, true, false},
                 {0, 0, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct reign reign = open_reign(1);
        struct fixture *const f = reign.f;
        both_hold(&reign);
        grant(f, 3, 1, 7, 1);
        struct mesh_message bundle;
        assert_true(fixture_sent(f, 3, MESH_ASSIGN_KEPT, &bundle));
        result(f, 3, &bundle, MESH_DONE);
        assert_int_equal(journal_of(f).last, 3);
        /* A copy that is not whole may be of a later epoch, of which we hear from its home. */
        struct mesh_message over = appended(cases[i].over ? 1 : 2, cases[i].last, false);
        over.body.appended.over = true;
        over.body.appended.last_epoch = cases[i].last_epoch;
        fixture_message(f, reign.member[FIRST], &over);
        struct mesh_effect effect;
        if (fixture_did(f, MESH_JOURNAL_OVER, &effect) != cases[i].over ||
            effect.body.over.whole != cases[i].whole)
            fail_msg("case %zu", i);
        assert_int_equal(journal_of(f).last, cases[i].over ? 0 : 3);
        assert_int_equal(journal_of(f).leads, !cases[i].over);
        fixture_close(f);
    }
}

static void reports(struct fixture *f, uint32_t from, uint64_t epoch, uint16_t class, const uint32_t *shard,
                    uint32_t count)
{
    struct mesh_message report = {.kind = MESH_REPORT};
    report.body.report.name.token = 55;
    report.body.report.job = fixture_job(1);
    report.body.report.epoch = epoch;
    report.body.report.class = class;
    report.body.report.count = count;
    for (uint32_t i = 0; i < count && i < 2; i++)
        report.body.report.shard[i] = shard[i];
    fixture_message(f, from, &report);
}

/* Attempts of the reign before are taken over; what makes no sense is not, and of another job its home is named. */
static void a_report_of_an_attempt_is_checked(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    const uint32_t fits[] = {0, 3}, beyond[] = {0, 4};
    f->mesh->home.job[0].spec.epoch = 2; /* as if it had been taken over */
    struct mesh_message answer;
    fixture_clear(f);
    reports(f, 3, 1, 0, fits, 0);
    reports(f, 3, 1, 0, fits, MESH_BUNDLE_SHARDS_MAX + 1);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 2);
    reports(f, 3, 2, 0, fits, 2); /* of this very reign */
    reports(f, 3, 1, MESH_DEVICE_CLASSES, fits, 2);
    reports(f, 3, 1, 0, beyond, 2);
    assert_false(fixture_sent(f, 3, MESH_ADOPTED, &answer));
    assert_int_equal(mesh_counters(f->mesh)->adoptions, 0);
    reports(f, 3, 1, MESH_DEVICE_CLASSES - 1, fits, 2);
    assert_true(fixture_sent(f, 3, MESH_ADOPTED, &answer));
    assert_int_equal(answer.body.adopted.epoch, 2);
    assert_int_equal(answer.body.adopted.name.token, 55);
    assert_int_equal(mesh_counters(f->mesh)->adoptions, 1);
    assert_int_equal(view(f, 1).assigned, 2);
    about_job(f, MESH_CANCEL_JOB, 1);
    fixture_clear(f);
    reports(f, 3, 1, 0, fits, 2);
    assert_false(fixture_sent(f, 3, MESH_ADOPTED, &answer));
    fixture_close(f);

    struct fixture *const follower = open_heir(false);
    reports(follower, 3, 1, 0, fits, 2);
    assert_false(fixture_sent(follower, 3, MESH_HAND_OVER, &answer)); /* we know of none yet */
    hear_home(follower, 1);
    reports(follower, 3, 1, 0, fits, 2);
    assert_true(fixture_sent(follower, 3, MESH_HAND_OVER, &answer));
    assert_true(answer.body.hand_over.done);
    assert_int_equal(answer.body.hand_over.epoch, 2);
    assert_memory_equal(&answer.body.hand_over.home, &follower->peer[1], sizeof follower->self);
    fixture_close(follower);
}

/* An attempt that ends before it heard that it was adopted says so under the old epoch: that is its result all the same. */
static void a_result_of_an_adopted_attempt_counts_though_it_knows_its_old_home_only(void **state)
{
    (void)state;
    enum { AS_REPORTED, ANOTHER_SHARD, CASES };
    for (uint32_t i = 0; i < CASES; i++) {
        const struct reign reign = open_reign(4);
        struct fixture *const f = reign.f;
        both_hold(&reign);
        f->mesh->home.job[0].spec.epoch = 2; /* as if it had been taken over */
        const uint32_t shard = 3;
        reports(f, 3, 1, 0, &shard, 1);
        assert_int_equal(view(f, 1).assigned, 1);
        struct mesh_message message = {.kind = MESH_ASSIGN_KEPT};
        message.body.assign.name.token = 55;
        message.body.assign.job = fixture_job(1);
        message.body.assign.epoch = 1;
        message.body.assign.count = 1;
        message.body.assign.shard[0] = i == AS_REPORTED ? shard : 2;
        fixture_clear(f);
        result(f, 3, &message, MESH_DONE);
        assert_true(fixture_sent(f, 3, MESH_ADOPTED, &message)); /* it heeds no other's acknowledgement */
        assert_int_equal(view(f, 1).committed, i == AS_REPORTED);
        assert_int_equal(view(f, 1).assigned, 0);
        assert_int_equal(mesh_counters(f->mesh)->requeued_expired, i != AS_REPORTED);
        fixture_close(f);
    }
}

/* ---- Members. */

/* Of two copies one is lost before it ever took the first entry: nothing else need be heard. */
static void half_goes_on_once_the_other_half_is_lost(void **state)
{
    (void)state;
    struct fixture *const f = open_pair();
    says(f, 0, 1, 0, false);
    assert_int_equal(journal_of(f).settled, 0);
    struct mesh_message lost = appended(1, 0, false);
    lost.body.appended.storage = 2;
    fixture_message(f, 0, &lost);
    assert_int_equal(journal_of(f).settled, 1);
    fixture_close(f);
}

static struct mesh_save change_saved(struct fixture *f, uint32_t index, uint32_t number, uint32_t count)
{
    struct mesh_save save;
    assert_true(fixture_saved(f, MESH_SAVE_ENTRY, &save));
    assert_int_equal(save.body.entry.kind, MESH_ENTRY_CHANGE);
    assert_int_equal(save.body.entry.place.index, index);
    assert_true(save.body.entry.own);
    assert_int_equal(save.body.entry.members.number, number);
    assert_int_equal(save.body.entry.members.count, count);
    return save;
}

/* The newcomer is sent the log first; then both sets stand together, and then the set after. */
static void a_member_that_left_is_replaced_by_another(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    fixture_run(f, 1000);
    struct mesh_record record = {.kind = MESH_RECORD_MEMBER};
    record.body.member.session = 100 + reign.member[FIRST];
    record.body.member.site = 2 + reign.member[FIRST];
    record.body.member.leaving = true;
    fixture_record(f, reign.member[FIRST], record);
    f->silent[reign.member[FIRST]] = true;
    fixture_clear(f);
    fixture_run(f, 2 * JOURNAL_SCAN_MS);
    assert_true(view(f, 1).changing);
    struct mesh_effect effect;
    assert_true(fixture_did(f, MESH_SEND_LOG, &effect));
    assert_int_equal(effect.body.send_log.first, 1);
    const uint32_t newcomer = peer_of(f, &effect.body.send_log.to);
    assert_true(newcomer != reign.member[FIRST] && newcomer != reign.member[SECOND]);
    fixture_run(f, JOURNAL_SCAN_MS);
    assert_int_equal(journal_of(f).last, 1); /* nothing changes before it has the log */
    says(f, newcomer, 1, 1, true);
    fixture_clear(f);
    fixture_run(f, JOURNAL_SCAN_MS);
    const struct mesh_save both = change_saved(f, 2, 2, 4);
    assert_int_equal(both.body.entry.members.joining, 4);
    assert_int_equal(both.body.entry.members.leaving, 2); /* behind ourselves */
    assert_memory_equal(&both.body.entry.members.id[3], &f->peer[newcomer], sizeof f->self);
    assert_int_equal(both.body.entry.members.storage[3], 1);
    own_words_come(f);
    fixture_run(f, JOURNAL_SCAN_MS);
    assert_int_equal(journal_of(f).settled, 1);
    says(f, newcomer, 1, 2, true);
    says(f, reign.member[SECOND], 1, 2, true);
    fixture_clear(f);
    fixture_run(f, JOURNAL_SCAN_MS);
    const struct mesh_save after = change_saved(f, 3, 3, 3);
    assert_int_equal(after.body.entry.members.joining + after.body.entry.members.leaving, 0);
    assert_memory_equal(&after.body.entry.members.id[0], &f->self, sizeof f->self);
    assert_memory_equal(&after.body.entry.members.id[1], &f->peer[reign.member[SECOND]], sizeof f->self);
    assert_memory_equal(&after.body.entry.members.id[2], &f->peer[newcomer], sizeof f->self);
    assert_int_equal(mesh_counters(f->mesh)->changes, 1);
    own_words_come(f);
    says(f, newcomer, 1, 3, true);
    assert_int_equal(journal_of(f).settled, 3);
    fixture_run(f, JOURNAL_SCAN_MS);
    assert_false(view(f, 1).changing);
    assert_int_equal(view(f, 1).copies, 3);
    fixture_close(f);
}

static uint32_t newcomer_of(struct fixture *f)
{
    const struct journal *const journal = &f->mesh->journals.journal[0];
    assert_true(journal->learning);
    return peer_of(f, &journal->learner);
}

/* One that has no room for the journal is passed over for another, and tried again when nobody is left. */
static void a_newcomer_that_takes_nothing_is_passed_over(void **state)
{
    (void)state;
    const struct reign reign = open_reign(4);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    f->mesh->journals.journal[0].peer[1].lost = true;
    fixture_run(f, JOURNAL_SCAN_MS);
    const uint32_t first = newcomer_of(f);
    fixture_run(f, JOURNAL_ROOM_MS - JOURNAL_SCAN_MS);
    says(f, first, 1, 0, false);
    assert_int_equal(newcomer_of(f), first);
    bool seen[PEERS] = {false};
    seen[first] = seen[reign.member[SECOND]] = true;
    for (uint32_t i = 1; i < PEERS - 1; i++) { /* that whose disk was lost may keep a new copy */
        fixture_run(f, i == 1 ? 2 * JOURNAL_SCAN_MS : JOURNAL_ROOM_MS);
        assert_false(seen[newcomer_of(f)]);
        seen[newcomer_of(f)] = true;
    }
    fixture_run(f, JOURNAL_ROOM_MS);
    assert_int_equal(newcomer_of(f), first);
    says(f, first, 1, 1, true);
    fixture_run(f, JOURNAL_ROOM_MS + JOURNAL_SCAN_MS);
    assert_false(f->mesh->journals.journal[0].learning);
    assert_int_equal(journal_of(f).members.joining, 4);
    fixture_close(f);
}

/* Down for ten minutes, or for good; of one that is not known, ten minutes of our reign. Never ourselves. */
static void a_member_is_gone_if_it_will_not_come_back(void **state)
{
    (void)state;
    enum { UNKNOWN = 99, LOST };
    static const struct {
        uint32_t state;
        int64_t for_ms;
        bool gone;
    } cases[] = {
        {MESH_UP, MESH_REPLACE_MS, false},
        {MESH_SUSPECT, MESH_REPLACE_MS, false},
        {MESH_DOWN, MESH_REPLACE_MS - 1, false},
        {MESH_DOWN, MESH_REPLACE_MS, true},
        {MESH_LEFT, 0, true},
        {MESH_REVOKED, 0, true},
        {UNKNOWN, MESH_REPLACE_MS - 1, false},
        {UNKNOWN, MESH_REPLACE_MS, true},
        {LOST, 0, true},
    };
    const struct reign reign = open_reign(1);
    struct fixture *const f = reign.f;
    struct journal journal = f->mesh->journals.journal[0];
    struct member *const member =
        &f->mesh->members.slot[members_find(f->mesh, &f->peer[reign.member[FIRST]])];
    const struct member before = *member;
    const struct mesh_id id = journal.members.id[1];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct step step = {.mesh = f->mesh, .now_ms = f->now_ms + cases[i].for_ms};
        const bool told = cases[i].state != UNKNOWN && cases[i].state != LOST;
        member->state = (uint8_t)(told ? cases[i].state : MESH_UP);
        member->state_at_ms = journal.led_at_ms = f->now_ms;
        journal.peer[1].lost = cases[i].state == LOST;
        journal.members.id[1] = cases[i].state == UNKNOWN ? (struct mesh_id){{0xee}} : id;
        if (change_is_gone(&step, &journal, 1) != cases[i].gone)
            fail_msg("case %zu", i);
        journal.peer[0].lost = true;
        assert_false(change_is_gone(&step, &journal, 0));
    }
    *member = before;
    fixture_close(f);
}

/* Rendezvous hashing: every node would choose the same. */
static uint64_t rank_of(const struct mesh_id *job, const struct mesh_id *member)
{
    struct {
        struct mesh_id job, member;
    } both = {*job, *member};
    return mesh_hash(UINT64_C(0x6c616e72756f6a), 0, &both, sizeof both);
}

/* Where it stands: in how many copies, on whose disks, each site once as far as there are others. */
static void copies_are_kept_at_different_sites(void **state)
{
    (void)state;
    struct fixture *const f = open_member(4, 8);
    fixture_member(f, 1, 101, 2); /* of peer 0's site */
    fixture_member(f, 2, 102, 1); /* of ours */
    for (uint8_t job = 1; job < 20; job++) {
        struct mesh_job_spec spec = {.id = fixture_job(job), .copies = 3};
        struct mesh_members members;
        change_choose(f->mesh, &spec, &members);
        assert_int_equal(members.count, 3);
        bool site[8] = {false};
        for (uint32_t i = 1; i < 3; i++) {
            const uint32_t peer = peer_of(f, &members.id[i]);
            assert_int_not_equal(peer, 2);
            assert_int_equal(members.storage[i], 1);
            const uint64_t of = f->mesh->members.slot[members_find(f->mesh, &members.id[i])].record.site;
            assert_false(site[of]);
            site[of] = true;
        }
        for (uint32_t peer = 0; peer < 4; peer++) /* the first of all that will do */
            assert_true(peer == 2 || rank_of(&spec.id, &f->peer[peer]) <= rank_of(&spec.id, &members.id[1]));
        spec.copies = 9;
        change_choose(f->mesh, &spec, &members);
        assert_int_equal(members.count, MESH_COPIES_MAX);
        spec.copies = 4;
        change_choose(f->mesh, &spec, &members);
        assert_int_equal(members.count, 4);
        assert_int_equal(mesh_journal_copies(f->mesh, 4), 4);
    }
    fixture_close(f);
}

/* ---- Election. */

static struct mesh_message voted(uint64_t epoch, bool granted, bool asks)
{
    struct mesh_message message = {.kind = MESH_VOTED};
    message.body.voted.job = fixture_job(1);
    message.body.voted.epoch = epoch;
    message.body.voted.granted = granted;
    message.body.voted.asks = asks;
    return message;
}

static void an_election_asks_stands_and_takes_over(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(true);
    struct mesh_message vote, append;
    struct mesh_save save;
    struct mesh_effect effect;
    assert_true(fixture_sent(f, 0, MESH_VOTE, &vote));
    assert_true(vote.body.vote.asks);
    assert_int_equal(vote.body.vote.epoch, 3);
    assert_false(fixture_saved(f, MESH_SAVE_PROMISE, &save)); /* nothing is promised by asking */
    struct mesh_message answer = voted(3, false, true);
    fixture_message(f, 0, &answer);
    answer = voted(2, true, true); /* to what was not asked */
    fixture_message(f, 1, &answer);
    answer = voted(3, true, true);
    answer.body.voted.sequence = 1;
    struct mesh_message further = {.kind = MESH_DISK};
    further.body.disk.sequence = 2;
    fixture_message(f, 1, &further);
    fixture_message(f, 1, &answer); /* its disk has forgotten something */
    answer.body.voted.sequence = 0;
    fixture_message(f, 2, &answer); /* no member */
    assert_int_equal(mesh_counters(f->mesh)->elections, 0);
    fixture_message(f, 1, &answer);
    assert_int_equal(mesh_counters(f->mesh)->elections, 1);
    assert_true(fixture_saved(f, MESH_SAVE_PROMISE, &save));
    assert_int_equal(save.body.promise.epoch, 4); /* the highest that was named, and one */
    assert_memory_equal(&save.body.promise.candidate, &f->self, sizeof f->self);
    assert_int_equal(save.body.promise.members.count, 0);
    for (uint32_t peer = 0; peer < 2; peer++) {
        while (fixture_sent(f, peer, MESH_VOTE, &vote) && vote.body.vote.asks)
            ;
        assert_int_equal(vote.body.vote.epoch, 4);
        assert_int_equal(vote.body.vote.last, 9);
        assert_int_equal(vote.body.vote.last_epoch, 2);
        assert_int_equal(vote.body.vote.sequence, save.sequence);
        assert_false(vote.body.vote.handed);
    }
    answer = voted(4, true, false);
    fixture_message(f, 0, &answer); /* and our own is not durable yet */
    assert_false(journal_of(f).leads);
    own_words_come(f);
    assert_true(journal_of(f).leads);
    assert_false(journal_of(f).reigns);
    assert_true(fixture_saved(f, MESH_SAVE_ENTRY, &save));
    assert_int_equal(save.body.entry.kind, MESH_ENTRY_TAKEOVER);
    assert_int_equal(save.body.entry.place.index, 10);
    assert_int_equal(save.body.entry.place.entry_epoch, 4);
    assert_true(save.body.entry.own);
    assert_true(fixture_sent(f, 0, MESH_APPEND, &append));
    assert_int_equal(append.body.append.before_epoch, 2);
    own_words_come(f);
    assert_false(fixture_did(f, MESH_TAKE_OVER, &effect));
    says(f, 1, 4, 9, true); /* entries of an older epoch count behind one of ours alone */
    assert_false(fixture_did(f, MESH_TAKE_OVER, &effect));
    says(f, 1, 4, 10, true);
    assert_true(fixture_did(f, MESH_TAKE_OVER, &effect));
    assert_int_equal(effect.body.take_over.epoch, 4);
    const struct mesh_id id = fixture_job(1);
    assert_memory_equal(&effect.body.take_over.job, &id, sizeof id);
    assert_true(journal_of(f).reigns);
    assert_int_equal(mesh_counters(f->mesh)->takeovers, 1);
    fixture_clear(f);
    fixture_run(f, JOURNAL_BEAT_MS + JOURNAL_SCAN_MS);
    assert_true(sent(f, 0, MESH_BEAT) && sent(f, 1, MESH_BEAT));
    fixture_close(f);
}

/* Who says that it would vote has promised nothing, and may say so late. */
static void who_would_vote_has_not_voted(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(true);
    const struct mesh_message would = voted(3, true, true);
    const struct mesh_message does = voted(3, true, false);
    fixture_message(f, 1, &would);
    assert_int_equal(mesh_counters(f->mesh)->elections, 1);
    assert_int_equal(journal_of(f).epoch, 3);
    fixture_message(f, 0, &would);
    own_words_come(f);
    assert_false(journal_of(f).leads);
    fixture_message(f, 0, &does);
    assert_true(journal_of(f).leads);
    fixture_close(f);
}

/* Were it always the first, two that have no room would hand the job to each other past a third. */
static void a_home_without_room_asks_the_member_behind_it(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(true); /* between peers 0 and 1 */
    struct mesh_message answer = voted(3, true, true), message;
    fixture_message(f, 0, &answer);
    answer.body.voted.asks = false;
    fixture_message(f, 0, &answer);
    own_words_come(f);
    own_words_come(f);
    struct mesh_effect effect;
    for (uint32_t peer = 0; peer < 2; peer++)
        says(f, peer, 3, 10, true);
    assert_true(fixture_did(f, MESH_TAKE_OVER, &effect)); /* and it isn't restored */
    fixture_run(f, JOURNAL_ROOM_MS - JOURNAL_SCAN_MS);
    assert_false(sent(f, 0, MESH_HAND_OVER) || sent(f, 1, MESH_HAND_OVER));
    fixture_run(f, 2 * JOURNAL_SCAN_MS);
    assert_false(sent(f, 0, MESH_HAND_OVER));
    assert_true(fixture_sent(f, 1, MESH_HAND_OVER, &message));
    fixture_close(f);
}

static struct mesh_message vote_for(uint64_t epoch, uint64_t last_epoch, uint32_t last, bool asks,
                                    bool handed)
{
    struct mesh_message message = {.kind = MESH_VOTE};
    message.body.vote.job = fixture_job(1);
    message.body.vote.epoch = epoch;
    message.body.vote.last_epoch = last_epoch;
    message.body.vote.last = last;
    message.body.vote.asks = asks;
    message.body.vote.handed = handed;
    return message;
}

/* A member votes for a log that has all that its own has, once in an epoch, and for nobody while its home is well. */
static void a_vote_is_given_once_and_to_a_log_that_has_everything(void **state)
{
    (void)state;
    static const struct {
        uint64_t epoch, last_epoch;
        uint32_t last;
        bool asks, handed, home_is_well, granted;
    } cases[] = {
        {3, 2, 9, false, false, false, true},  {3, 2, 8, false, false, false, false},
        {3, 2, 10, false, false, false, true}, {3, 1, 12, false, false, false, false},
        {3, 3, 1, false, false, false, true},  {2, 2, 9, false, false, false, false},
        {3, 2, 9, false, false, true, false},  {3, 2, 9, false, true, true, true},
        {3, 2, 9, true, false, false, true},   {3, 2, 8, true, false, false, false},
        {3, 2, 9, true, false, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_heir(false);
        if (cases[i].home_is_well) {
            hear_home(f, 0);
        }
        fixture_clear(f);
        const struct mesh_message vote =
            vote_for(cases[i].epoch, cases[i].last_epoch, cases[i].last, cases[i].asks, cases[i].handed);
        fixture_message(f, 1, &vote);
        struct mesh_message answer;
        struct mesh_save save;
        assert_true(fixture_sent(f, 1, MESH_VOTED, &answer));
        if (answer.body.voted.granted != cases[i].granted)
            fail_msg("case %zu", i);
        assert_int_equal(answer.body.voted.asks, cases[i].asks);
        assert_int_equal(answer.body.voted.number, 0);
        const bool promised = cases[i].granted && !cases[i].asks;
        assert_int_equal(fixture_saved(f, MESH_SAVE_PROMISE, &save), promised);
        assert_int_equal(mesh_counters(f->mesh)->votes, promised);
        assert_int_equal(journal_of(f).epoch, promised ? 3 : 2);
        if (promised) { /* once more to the same, and to no other */
            assert_memory_equal(&save.body.promise.candidate, &f->peer[1], sizeof f->self);
            assert_int_equal(save.body.promise.epoch, 3);
            fixture_message(f, 1, &vote);
            assert_true(fixture_sent(f, 1, MESH_VOTED, &answer) && answer.body.voted.granted);
            fixture_message(f, 0, &vote);
            assert_true(fixture_sent(f, 0, MESH_VOTED, &answer) && !answer.body.voted.granted);
            assert_int_equal(answer.body.voted.epoch, 3);
            struct mesh_message older = vote;
            older.body.vote.epoch = 2;
            fixture_message(f, 1, &older);
            assert_true(fixture_sent(f, 1, MESH_VOTED, &answer) && !answer.body.voted.granted);
            assert_int_equal(mesh_counters(f->mesh)->votes, 1);
        }
        fixture_close(f);
    }
}

/* One of two copies was lost, and the change to a new one at the same node is not settled. */
static struct mesh_members made_anew(const struct mesh_id *home, const struct mesh_id *other)
{
    return (struct mesh_members){.number = 2,
                                 .count = 3,
                                 .joining = 3,
                                 .leaving = 2,
                                 .id = {*home, *other, *other},
                                 .storage = {1, 0, 1}};
}

static void a_copy_that_is_made_anew_has_a_vote(void **state)
{
    (void)state;
    for (uint32_t named = 0; named < 2; named++) {
        struct fixture *const f = open_member(PEERS, 8);
        struct mesh_journal_image image = image_of(false);
        image.members =
            (struct mesh_members){.number = 1, .count = 2, .id = {f->peer[0], f->self}, .storage = {1, 0}};
        restore(f, &image);
        f->mesh->disk.storage = 1; /* our copy is lost, as its own log tells */
        fixture_clear(f);
        struct mesh_message vote = vote_for(3, 2, 10, false, false), answer;
        vote.body.vote.members = named ? made_anew(&f->peer[0], &f->self) : image.members;
        fixture_message(f, 0, &vote);
        assert_true(fixture_sent(f, 0, MESH_VOTED, &answer));
        assert_int_equal(answer.body.voted.granted, named);
        assert_int_equal(answer.body.voted.storage, 1);
        fixture_close(f);
    }
}

/* Who is voted for by the new copy hears from that that the old one is lost, and so it does as the job's home. */
static void a_home_counts_a_copy_that_is_made_anew_for_the_lost_one(void **state)
{
    (void)state;
    struct fixture *const f = open_member(PEERS, 8);
    struct mesh_journal_image image = image_of(true);
    image.members = made_anew(&f->self, &f->peer[0]);
    image.members_at = 9;
    image.before =
        (struct mesh_members){.number = 1, .count = 2, .id = {f->self, f->peer[0]}, .storage = {1, 0}};
    image.before_at = 1;
    restore(f, &image);
    struct mesh_message answer = voted(3, true, true);
    fixture_message(f, 0,
                    &answer); /* a disk that doesn't say of which time it is is the old one's, perhaps */
    assert_int_equal(mesh_counters(f->mesh)->elections, 0);
    answer.body.voted.storage = 1;
    fixture_message(f, 0, &answer);
    assert_int_equal(mesh_counters(f->mesh)->elections, 1);
    answer.body.voted.asks = false;
    fixture_message(f, 0, &answer);
    own_words_come(f);
    assert_true(journal_of(f).leads);
    own_words_come(f);
    struct mesh_effect effect;
    struct mesh_message held = appended(3, 10, true);
    held.body.appended.storage = 1;
    fixture_message(f, 0, &held);
    assert_true(fixture_did(f, MESH_TAKE_OVER, &effect));
    fixture_close(f);
}

static void a_candidate_that_is_no_member_hears_so(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(false);
    struct mesh_message vote = vote_for(3, 2, 8, true, false), answer;
    fixture_message(f, 2, &vote);
    assert_true(fixture_sent(f, 2, MESH_VOTED, &answer));
    assert_false(answer.body.voted.granted);
    assert_int_equal(answer.body.voted.number, 1);
    assert_int_equal(answer.body.voted.epoch, 2);
    for (uint32_t settled = 0; settled < 2; settled++) { /* what is not settled may be taken back */
        f->mesh->journals.journal[0].settled = settled;
        fixture_message(f, 2, &vote);
        assert_true(fixture_sent(f, 2, MESH_VOTED, &answer));
        assert_int_equal(answer.body.voted.number, settled);
    }
    vote.body.vote.epoch = UINT64_MAX;
    fixture_message(f, 2, &vote);
    fixture_message(f, UINT32_MAX, &vote);
    assert_int_equal(mesh_counters(f->mesh)->bad_messages, 2);
    assert_int_equal(f->send_count, 0);
    fixture_close(f);
}

/* Who asks a member that has nothing of the journal is answered by its host. */
static void a_journal_that_is_not_here_is_asked_of_the_host(void **state)
{
    (void)state;
    static const struct {
        uint32_t count;
        uint64_t storage;
        bool ours, named, lost;
    } cases[] = {{0, 0, false, false, false},
                 {3, 1, true, true, false},
                 {3, 1, false, false, false},
                 {3, 2, true, false, true},
                 {1, 1, true, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_member(PEERS, 8);
        struct mesh_message vote = vote_for(3, 2, 9, true, false), answer;
        vote.body.vote.members =
            (struct mesh_members){.number = 1,
                                  .count = cases[i].count,
                                  .id = {cases[i].ours ? f->self : f->peer[3], f->peer[0], f->peer[1]},
                                  .storage = {cases[i].storage, 1, 1}};
        fixture_message(f, 0, &vote);
        struct mesh_effect effect;
        assert_true(fixture_did(f, MESH_JOURNAL_ASKED, &effect));
        assert_int_equal(effect.body.asked.epoch, 3);
        assert_memory_equal(&effect.body.asked.from, &f->peer[0], sizeof f->self);
        assert_int_equal(effect.body.asked.members.count, cases[i].named ? 3 : 0);
        assert_int_equal(fixture_sent(f, 0, MESH_VOTED, &answer), cases[i].lost);
        if (cases[i].lost)
            assert_true(!answer.body.voted.granted && answer.body.voted.asks);
        fixture_close(f);
    }
}

static bool asks_for_votes(struct fixture *f)
{
    return sent(f, 0, MESH_VOTE) || sent(f, 1, MESH_VOTE);
}

/* A home that is down is followed at once, one that came back as another process a little later, and one that says nothing
 * after half a minute. Each member waits for those before it: we are the second. */
static void who_follows_a_home_waits_for_its_turn(void **state)
{
    (void)state;
    enum { SILENT, RESTARTED, LEFT };
    static const struct {
        int64_t from_ms, to_ms;
    } cases[] = {{JOURNAL_QUIET_MS, JOURNAL_QUIET_MS * 3 / 2}, {5000, 6000}, {2000, 3000}};
    for (uint32_t what = SILENT; what <= LEFT; what++) {
        struct fixture *const f = open_heir(false);
        hear_home(f, 0);
        struct mesh_record record = {.kind = MESH_RECORD_MEMBER};
        record.body.member.site = 2;
        record.body.member.session = what == RESTARTED ? 999 : 100;
        record.body.member.leaving = what == LEFT;
        f->incarnation[0] += what == RESTARTED;
        if (what != SILENT)
            fixture_record(f, 0, record);
        fixture_run(f, cases[what].from_ms - 1); /* others of it are heard, but nothing of this */
        assert_false(asks_for_votes(f));
        fixture_run(f, cases[what].to_ms - cases[what].from_ms + JOURNAL_SCAN_MS);
        if (!asks_for_votes(f))
            fail_msg("case %u", what);
        fixture_close(f);
    }
}

/* It has no vote, but it can say who the home is. */
static void whose_copy_is_lost_follows_the_home_still(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(false);
    f->mesh->disk.storage = 1;
    f->mesh->journals.journal[0].members.storage[1] = 0; /* the copy was of the disk before */
    hear_home(f, 0);
    fixture_run(f, 2 * JOURNAL_SCAN_MS);
    const struct mesh_journal_view journal = journal_of(f);
    assert_memory_equal(&journal.home, &f->peer[0], sizeof f->self);
    fixture_close(f);
}

static void who_leaves_does_not_stand(void **state)
{
    (void)state;
    for (uint32_t leaves = 0; leaves < 2; leaves++) {
        struct fixture *const f = open_heir(false);
        hear_home(f, 0);
        if (leaves)
            fixture_step(f, &(struct mesh_event){.kind = MESH_LEAVE});
        fixture_run(f, JOURNAL_QUIET_MS * 3 / 2 + JOURNAL_SCAN_MS); /* nothing is heard of the home */
        assert_int_equal(asks_for_votes(f), !leaves);
        fixture_close(f);
    }
}

/* A majority holds the change under way, of which it says that another member leaves, or we do. */
static struct fixture *open_heir_of_change(uint32_t leaving)
{
    struct fixture *const f = open_member(PEERS, 8);
    struct mesh_journal_image image = image_of(true);
    image.members = (struct mesh_members){.number = 2,
                                          .count = 4,
                                          .id = {f->peer[0], f->self, f->peer[1], f->peer[2]},
                                          .storage = {1, 1, 1, 1},
                                          .joining = 4,
                                          .leaving = (uint8_t)leaving};
    restore(f, &image);
    struct mesh_message answer = voted(3, true, true);
    for (uint32_t asks = 2; asks-- > 0;) {
        answer.body.voted.asks = asks;
        for (uint32_t peer = 0; peer < 3; peer++)
            fixture_message(f, peer, &answer);
        own_words_come(f);
    }
    own_words_come(f);
    for (uint32_t peer = 0; peer < 3; peer++)
        says(f, peer, 3, 10, true);
    assert_true(journal_of(f).reigns);
    fixture_clear(f);
    return f;
}

/* It would be no member of the set after. Another is asked to be the home, which ends it; for a while nobody answers. */
static void a_home_that_is_to_leave_ends_no_change(void **state)
{
    (void)state;
    for (uint32_t leaving = 1; leaving <= 2; leaving++) {
        struct fixture *const f = open_heir_of_change(leaving);
        fixture_run(f, JOURNAL_HAND_MS + 3 * JOURNAL_SCAN_MS);
        struct mesh_save save;
        const bool ended = fixture_saved(f, MESH_SAVE_ENTRY, &save);
        assert_int_equal(ended, leaving == 1); /* we are the second */
        assert_false(sent(f, 0, MESH_HAND_OVER) || sent(f, 2, MESH_HAND_OVER));
        assert_int_equal(sent(f, 1, MESH_HAND_OVER), !ended); /* which is the member behind us */
        assert_int_equal(journal_of(f).last, ended ? 11 : 10);
        if (ended)
            assert_int_equal(save.body.entry.kind, MESH_ENTRY_CHANGE);
        fixture_close(f);
    }
}

static void a_journal_beyond_the_table_is_not_read_back(void **state)
{
    (void)state;
    struct fixture *const f = open_member(2, 1);
    struct mesh_journal_image image = image_of(false);
    image.members = (struct mesh_members){
        .number = 1, .count = 3, .id = {f->peer[0], f->self, f->peer[1]}, .storage = {1, 1, 1}};
    restore(f, &image);
    image.job = fixture_job(2);
    restore(f, &image);
    struct mesh_journal_view journal;
    assert_int_equal(journal_of(f).last, 9);
    assert_false(mesh_journal_find(f->mesh, &image.job, &journal));
    fixture_close(f);
}

/* The host still has a job whose journal says that another is, or may be, its home. */
static void a_job_that_another_has_is_not_read_back(void **state)
{
    (void)state;
    struct fixture *const f = open_heir(false);
    fixture_clear(f);
    struct mesh_event event = {.kind = MESH_RESTORE};
    event.body.restore.spec = spec_of(1, 2);
    fixture_step(f, &event);
    assert_true(told(f, MESH_JOB_MOVED));
    struct mesh_job_view view;
    const struct mesh_id id = fixture_job(1);
    assert_false(mesh_job_find(f->mesh, &id, &view));
    fixture_close(f);
}

/* What it said is on its disk no more: it can't say in the same breath that it is the home. */
static void a_home_whose_disk_has_forgotten_leads_no_more(void **state)
{
    (void)state;
    const struct reign reign = open_reign(1);
    struct fixture *const f = reign.f;
    both_hold(&reign);
    fixture_run(f, JOURNAL_SCAN_MS / 2);
    assert_true(journal_of(f).leads);
    struct mesh_message disk = {.kind = MESH_DISK};
    disk.body.disk.seen = f->mesh->disk.sequence + 1;
    fixture_message(f, reign.member[FIRST], &disk);
    assert_false(journal_of(f).leads);
    fixture_close(f);
}

/* A node that keeps no journals is not called for them. */
static void without_journals_nothing_is_hurried(void **state)
{
    (void)state;
    struct fixture *const f = open_member(2, 8);
    fixture_run(f, 5000);
    f->now_ms++;
    fixture_message(f, 0, &(struct mesh_message){.kind = MESH_DISK, .body.disk.sequence = 2});
    assert_true(f->wake_at_ms > f->now_ms);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_submit_is_told_once_a_majority_holds_it),
        cmocka_unit_test(what_members_say_is_counted_if_it_can_be_so),
        cmocka_unit_test(a_member_that_lacks_entries_is_sent_them_from_the_disk),
        cmocka_unit_test(an_entry_that_is_not_held_is_sent_again),
        cmocka_unit_test(a_home_beats_every_three_seconds),
        cmocka_unit_test(a_job_is_stalled_after_eight_seconds),
        cmocka_unit_test(a_job_is_not_stalled_by_what_it_did_not_wait_for),
        cmocka_unit_test(a_result_is_acknowledged_once_it_is_settled),
        cmocka_unit_test(results_that_are_settled_together_are_acknowledged_in_turn),
        cmocka_unit_test(a_home_that_drains_asks_who_has_everything),
        cmocka_unit_test(there_is_room_for_results_beside_all_ends),
        cmocka_unit_test(a_cancel_waits_if_another_may_have_the_job),
        cmocka_unit_test(a_home_of_a_job_that_was_over_hears_so),
        cmocka_unit_test(a_report_of_an_attempt_is_checked),
        cmocka_unit_test(a_result_of_an_adopted_attempt_counts_though_it_knows_its_old_home_only),
        cmocka_unit_test(half_goes_on_once_the_other_half_is_lost),
        cmocka_unit_test(a_newcomer_that_takes_nothing_is_passed_over),
        cmocka_unit_test(a_member_that_left_is_replaced_by_another),
        cmocka_unit_test(a_member_is_gone_if_it_will_not_come_back),
        cmocka_unit_test(copies_are_kept_at_different_sites),
        cmocka_unit_test(an_election_asks_stands_and_takes_over),
        cmocka_unit_test(who_would_vote_has_not_voted),
        cmocka_unit_test(a_home_without_room_asks_the_member_behind_it),
        cmocka_unit_test(a_vote_is_given_once_and_to_a_log_that_has_everything),
        cmocka_unit_test(a_copy_that_is_made_anew_has_a_vote),
        cmocka_unit_test(a_home_counts_a_copy_that_is_made_anew_for_the_lost_one),
        cmocka_unit_test(a_candidate_that_is_no_member_hears_so),
        cmocka_unit_test(a_journal_that_is_not_here_is_asked_of_the_host),
        cmocka_unit_test(who_follows_a_home_waits_for_its_turn),
        cmocka_unit_test(whose_copy_is_lost_follows_the_home_still),
        cmocka_unit_test(who_leaves_does_not_stand),
        cmocka_unit_test(a_home_that_is_to_leave_ends_no_change),
        cmocka_unit_test(a_journal_beyond_the_table_is_not_read_back),
        cmocka_unit_test(a_job_that_another_has_is_not_read_back),
        cmocka_unit_test(a_home_whose_disk_has_forgotten_leads_no_more),
        cmocka_unit_test(without_journals_nothing_is_hurried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
