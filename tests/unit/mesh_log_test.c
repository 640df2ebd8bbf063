/* A journal's log, the sets that keep it, and what a follower takes from a home that the test plays. */
#include "mesh/internal.h"

#include "mesh_journal_fixture.h"

enum { HOME, OTHER, STRANGER, PEERS };

static uint64_t bad_messages(const struct fixture *f)
{
    return mesh_counters(f->mesh)->bad_messages;
}

static struct mesh_members three(const struct fixture *f)
{
    return (struct mesh_members){
        .number = 1, .count = 3, .id = {f->peer[HOME], f->self, f->peer[OTHER]}, .storage = {1, 1, 1}};
}

/* ---- Sets. */

static void a_majority_is_one_of_both_sets(void **state)
{
    (void)state;
    static const struct {
        uint32_t count, joining, leaving, bits, lost;
        bool enough;
    } cases[] = {
        {3, 0, 0, 3, 0, true},  {3, 0, 0, 1, 0, false}, {3, 0, 0, 7, 0, true},   {3, 0, 0, 1, 6, false},
        {2, 0, 0, 1, 0, false}, {2, 0, 0, 1, 2, true},  {2, 0, 0, 3, 0, true},   {2, 0, 0, 1, 1, false},
        {4, 0, 0, 3, 0, false}, {4, 0, 0, 3, 12, true}, {4, 0, 0, 3, 4, false},  {4, 0, 0, 7, 0, true},
        {4, 0, 0, 7, 4, false}, {5, 0, 0, 7, 0, true},  {5, 0, 0, 3, 28, false}, {5, 0, 0, 19, 0, true},
        {4, 4, 0, 3, 0, false}, {4, 4, 0, 7, 0, true},  {4, 4, 0, 9, 0, false},  {4, 4, 0, 11, 0, true},
        {4, 4, 1, 14, 0, true}, {4, 4, 1, 6, 0, true},  {4, 4, 1, 12, 0, false}, {4, 4, 1, 3, 0, false},
        {4, 4, 1, 11, 0, true}, {4, 4, 1, 9, 0, false}, {3, 3, 1, 6, 1, true},   {3, 3, 1, 2, 1, false},
        {3, 3, 1, 2, 5, true},  {3, 3, 2, 4, 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct mesh_members members = {
            .count = cases[i].count, .joining = cases[i].joining, .leaving = cases[i].leaving};
        if (change_majority(&members, cases[i].bits, cases[i].lost) != cases[i].enough)
            fail_msg("case %zu", i);
    }
}

static void members_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t number, count, joining, leaving;
        bool sane;
    } cases[] = {
        {1, 2, 0, 0, true},
        {1, 1, 0, 0, false},
        {0, 2, 0, 0, false},
        {9, MESH_COPIES_MAX, 0, 0, true},
        {9, MESH_COPIES_MAX + 1, 0, 0, false},
        {9, MESH_COPIES_MAX + 1, 1, 0, true},
        {9, MESH_COPIES_MAX + 2, 1, 0, false},
        {2, 3, 3, 0, true},
        {2, 3, 4, 0, false},
        {2, 3, 3, 3, false},
        {2, 3, 2, 3, true},
        {2, 3, 2, 4, false},
        {2, 3, 0, 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mesh_members members = {.number = cases[i].number,
                                       .count = cases[i].count,
                                       .joining = cases[i].joining,
                                       .leaving = cases[i].leaving};
        if (change_makes_sense(&members) != cases[i].sane)
            fail_msg("case %zu", i);
        if (!cases[i].sane)
            continue;
        members.storage[members.count - 1] = UINT64_MAX;
        assert_false(change_makes_sense(&members));
    }
}

/* Of a node that is replaced by its own new copy, the new one speaks. */
static void a_member_has_the_last_of_its_places(void **state)
{
    (void)state;
    const struct mesh_id a = {{1}}, b = {{2}}, c = {{3}};
    const struct mesh_members members = {.count = 3, .id = {a, b, a, c}};
    assert_int_equal(members_place(&members, &a), 2);
    assert_int_equal(members_place(&members, &b), 1);
    assert_true(members_place(&members, &c) == MESH_NONE);
}

/* ---- The log. */

static void the_log_remembers_its_latest_epochs(void **state)
{
    (void)state;
    struct journal journal = {.members_at = 1};
    for (uint64_t epoch = 1; epoch <= MESH_RUNS_MAX + 2; epoch++) { /* two entries of each */
        journal_add(&journal, 10 * epoch, MESH_ENTRY_COMMIT, NULL);
        journal_add(&journal, 10 * epoch, MESH_ENTRY_COMMIT, NULL);
    }
    assert_int_equal(journal.run_count, MESH_RUNS_MAX);
    assert_int_equal(journal.last, 2 * (MESH_RUNS_MAX + 2));
    for (uint32_t index = 0; index <= journal.last; index++)
        assert_int_equal(journal_epoch_of(&journal, index), index < 5 ? 0 : 10 * ((index + 1) / 2));
    journal_cut(&journal, 15); /* in the middle of a run */
    assert_int_equal(journal.last, 15);
    assert_int_equal(journal_epoch_of(&journal, 15), 80);
    journal_add(&journal, 80, MESH_ENTRY_END, NULL);
    assert_int_equal(journal.run_count, 6);
    assert_int_equal(journal.end, 16);
    journal_cut(&journal, 16);
    assert_int_equal(journal.end, 16);
    journal_cut(&journal, 14);
    assert_int_equal(journal.end, 0);
    assert_int_equal(journal.run_count, 5);
    assert_int_equal(journal_epoch_of(&journal, 14), 70);
}

static void members_go_back_with_the_entry_that_is_cut(void **state)
{
    (void)state;
    const struct mesh_members first = {.number = 1, .count = 2}, second = {.number = 2, .count = 3};
    struct journal journal = {.members = first, .members_at = 1};
    for (uint32_t i = 0; i < 3; i++)
        journal_add(&journal, 1, MESH_ENTRY_COMMIT, NULL);
    journal_add(&journal, 1, MESH_ENTRY_CHANGE, &second);
    assert_int_equal(journal.members.number, 2);
    assert_int_equal(journal.members_at, 4);
    assert_int_equal(journal.before.number, 1);
    assert_int_equal(journal.before_at, 1);
    assert_int_equal(journal.settled, 1); /* whoever begins a change has settled the one before */
    journal_add(&journal, 1, MESH_ENTRY_COMMIT, NULL);
    journal_cut(&journal, 4);
    assert_int_equal(journal.members.number, 2);
    journal_cut(&journal, 3);
    assert_int_equal(journal.members.number, 1);
    assert_int_equal(journal.members_at, 1);
    assert_int_equal(journal.before.count, 0);
    journal_add(&journal, 2, MESH_ENTRY_COMMIT, NULL);
    assert_int_equal(journal.members.number, 1);
}

/* ---- Following. */

static struct mesh_message entry(struct fixture *f, uint32_t index, uint64_t epoch)
{
    struct mesh_message message = {.kind = MESH_APPEND};
    message.body.append.job = fixture_job(1);
    message.body.append.epoch = message.body.append.entry_epoch = epoch;
    message.body.append.before_epoch = index > 1 ? epoch : 0;
    message.body.append.index = index;
    message.body.append.sequence = index;
    message.body.append.kind = index == 1 ? MESH_ENTRY_SUBMIT : MESH_ENTRY_COMMIT;
    if (index == 1)
        message.body.append.members = three(f);
    return message;
}

static void send_entry(struct fixture *f, uint32_t from, struct mesh_message message)
{
    message.body.append.handle = fixture_handle(f);
    const uint32_t live = f->live_count;
    fixture_message(f, from, &message);
    assert_int_equal(f->live_count, live - 1);
}

/* The answer says how far we are, by `held` that it is durable. */
static void assert_answer(struct fixture *f, uint32_t to, uint32_t last, bool held)
{
    struct mesh_message answer;
    assert_true(fixture_sent(f, to, MESH_APPENDED, &answer));
    assert_int_equal(answer.body.appended.last, last);
    assert_int_equal(answer.body.appended.held, held);
    assert_false(answer.body.appended.over);
    assert_int_equal(answer.body.appended.storage, 0);
}

static struct mesh_journal_view journal_of(const struct fixture *f)
{
    struct mesh_journal_view journal = {0};
    const struct mesh_id id = fixture_job(1);
    mesh_journal_find(f->mesh, &id, &journal);
    return journal;
}

static struct fixture *open_follower(uint32_t entries)
{
    struct fixture *const f = open_member(PEERS, 4);
    for (uint32_t index = 1; index <= entries; index++) {
        send_entry(f, HOME, entry(f, index, 1));
        assert_answer(f, HOME, index, true);
    }
    return f;
}

/* Each field that makes no sense by itself; false when there is no more. */
static bool spoil_entry(struct mesh_message *message, uint32_t which)
{
    const bool first = message->body.append.index == 1;
    switch (which) {
    case 0:
        message->body.append.index = 0;
        return true;
    case 1:
        message->body.append.index = UINT32_MAX;
        return true;
    case 2:
        message->body.append.epoch = message->body.append.entry_epoch = 0;
        return true;
    case 3:
        message->body.append.epoch = UINT64_MAX;
        return true;
    case 4:
        message->body.append.entry_epoch = 0;
        return true;
    case 5:
        message->body.append.entry_epoch = message->body.append.epoch + 1;
        return true;
    case 6:
        message->body.append.kind = 0;
        return true;
    case 7:
        message->body.append.kind = MESH_ENTRY_DISPUTE + 1;
        return true;
    case 8:
        message->body.append.kind = first ? MESH_ENTRY_COMMIT : MESH_ENTRY_SUBMIT;
        return true;
    case 9:
        message->body.append.members.count = first ? 0 : 1;
        return true;
    case 10:
        message->body.append.kind = MESH_ENTRY_CHANGE;
        return true;
    case 11:
        message->body.append.members.joining = first ? 3 : 0;
        return first;
    case 12:
        message->body.append.epoch = message->body.append.entry_epoch = 2;
        return first;
    default:
        return false;
    }
}

static void an_entry_with_a_field_that_makes_no_sense_is_counted_and_dropped(void **state)
{
    (void)state;
    for (uint32_t index = 1; index <= 2; index++) {
        struct fixture *const f = open_follower(index - 1);
        struct mesh_message bad = entry(f, index, 1);
        uint32_t which = 0;
        for (; spoil_entry(&bad, which); bad = entry(f, index, 1), which++) {
            send_entry(f, HOME, bad);
            if (bad_messages(f) != which + 1)
                fail_msg("entry %u, field %u", index, which);
            assert_int_equal(f->send_count + f->out->save_count, 0);
        }
        send_entry(f, UINT32_MAX, entry(f, index, 1));
        assert_int_equal(bad_messages(f), which + 1);
        assert_int_equal(journal_of(f).last, index - 1);
        send_entry(f, HOME, entry(f, index, 1));
        assert_answer(f, HOME, index, true);
        assert_int_equal(bad_messages(f), which + 1);
        fixture_close(f);
    }
}

static void entries_are_taken_in_order_and_saved(void **state)
{
    (void)state;
    struct fixture *const f = open_follower(2);
    send_entry(f, HOME, entry(f, 5, 1)); /* two are missing: from where to go on */
    assert_answer(f, HOME, 2, false);
    struct mesh_message third = entry(f, 3, 1);
    third.body.append.before_epoch = 2; /* not what stands here: from what is settled on */
    third.body.append.epoch = 2;
    send_entry(f, OTHER, third);
    assert_answer(f, OTHER, 0, false);
    third = entry(f, 3, 2);
    third.body.append.before_epoch = 1;
    third.body.append.settled = 2;
    send_entry(f, OTHER, third);
    assert_answer(f, OTHER, 3, true);
    const struct mesh_save *const save = &f->out->save[f->out->save_count - 1];
    assert_int_equal(save->kind, MESH_SAVE_ENTRY);
    assert_int_equal(save->body.entry.place.index, 3);
    assert_int_equal(save->body.entry.place.entry_epoch, 2);
    assert_int_equal(save->body.entry.place.settled, 2);
    assert_int_equal(save->body.entry.kind, MESH_ENTRY_COMMIT);
    assert_true(save->sequence > 0);
    assert_false(save->body.entry.cut);
    assert_false(save->body.entry.own);
    assert_int_equal(journal_of(f).settled, 2);
    assert_int_equal(journal_of(f).epoch, 2);
    send_entry(f, HOME, entry(f, 4, 1)); /* a home of the time before */
    assert_answer(f, HOME, 3, false);
    assert_int_equal(mesh_counters(f->mesh)->entries_fenced, 1);
    send_entry(f, OTHER, entry(f, 2, 2)); /* settled: it stays what it is */
    assert_answer(f, OTHER, 2, true);
    assert_int_equal(mesh_counters(f->mesh)->entries_taken, 3);
    third = entry(f, 4, 2);
    third.body.append.settled = 9; /* no further than what is here */
    send_entry(f, OTHER, third);
    assert_answer(f, OTHER, 4, true);
    assert_int_equal(journal_of(f).settled, 4);
    fixture_close(f);
}

/* Of a later home's log what differs replaces what stood there, and all that followed. */
static void entries_of_an_older_epoch_give_way(void **state)
{
    (void)state;
    struct fixture *const f = open_follower(4);
    struct mesh_message again = entry(f, 3, 1);
    again.body.append.epoch = 2; /* the same entry, by the next home */
    send_entry(f, OTHER, again);
    assert_answer(f, OTHER, 3, true);
    assert_int_equal(journal_of(f).last, 4);
    assert_int_equal(mesh_counters(f->mesh)->entries_void, 0);
    struct mesh_message third = entry(f, 3, 2);
    third.body.append.before_epoch = 1;
    send_entry(f, OTHER, third);
    assert_answer(f, OTHER, 3, true);
    assert_true(f->out->save[f->out->save_count - 1].body.entry.cut);
    assert_int_equal(mesh_counters(f->mesh)->entries_void, 2);
    assert_int_equal(journal_of(f).last, 3);
    fixture_close(f);
}

/* The first home is the member that stands first; of another epoch, whoever leads in it. */
static void a_second_home_of_an_epoch_is_not_heard(void **state)
{
    (void)state;
    struct fixture *const f = open_follower(2);
    send_entry(f, OTHER, entry(f, 3, 1));
    assert_int_equal(bad_messages(f), 1);
    struct mesh_message third = entry(f, 3, 2);
    third.body.append.before_epoch = 1;
    send_entry(f, OTHER, third);
    assert_answer(f, OTHER, 3, true);
    send_entry(f, HOME, third);
    assert_int_equal(bad_messages(f), 2);
    assert_int_equal(f->send_count, 0);
    const struct mesh_journal_view journal = journal_of(f);
    assert_memory_equal(&journal.home, &f->peer[OTHER], sizeof f->self);
    fixture_close(f);
}

static struct mesh_message beat(uint64_t epoch, uint32_t last, uint32_t settled)
{
    struct mesh_message message = {.kind = MESH_BEAT};
    message.body.beat.count = 1;
    message.body.beat.journal[0].job = fixture_job(1);
    message.body.beat.journal[0].epoch = epoch;
    message.body.beat.journal[0].last = last;
    message.body.beat.journal[0].settled = settled;
    return message;
}

static void a_beat_is_checked_and_says_what_is_settled(void **state)
{
    (void)state;
    struct fixture *const f = open_follower(3);
    const struct mesh_message bad[] = {beat(1, 3, 4), beat(0, 3, 3), beat(UINT64_MAX, 3, 3)};
    for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fixture_message(f, HOME, &bad[i]);
        assert_int_equal(bad_messages(f), i + 1);
    }
    struct mesh_message message = beat(1, 3, 3);
    fixture_message(f, OTHER, &message); /* not the home */
    fixture_message(f, UINT32_MAX, &message);
    message.body.beat.count = MESH_BEATS_MAX + 1;
    fixture_message(f, HOME, &message);
    assert_int_equal(bad_messages(f), 6);
    assert_int_equal(f->send_count, 0);
    assert_int_equal(journal_of(f).settled, 0);
    message = beat(1, 3, 2);
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 0, true); /* that we are there */
    assert_int_equal(journal_of(f).settled, 2);
    message = beat(1, 3, 1); /* an older one */
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 0, true);
    assert_int_equal(journal_of(f).settled, 2);
    message = beat(1, 5, 2); /* we lack two */
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 3, false);
    message = beat(1, 2, 2); /* or have one that nobody knows */
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 2, false);
    message = beat(2, 3, 3); /* of the same length, and of another epoch */
    fixture_message(f, OTHER, &message);
    assert_answer(f, OTHER, 2, false);
    assert_int_equal(journal_of(f).settled, 2);
    message = beat(1, 3, 3);
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 3, false);
    assert_int_equal(mesh_counters(f->mesh)->entries_fenced, 1);
    message = beat(1, 3, 3);
    message.body.beat.journal[0].job = fixture_job(2); /* one that is not here */
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 0, false);
    assert_int_equal(bad_messages(f), 6);
    fixture_close(f);
}

/* Once all hold the end the copy is forgotten, and its host told. */
static void a_journal_is_over_when_its_home_says_so_of_what_is_here(void **state)
{
    (void)state;
    struct fixture *const f = open_follower(2);
    struct mesh_message end = entry(f, 3, 1);
    end.body.append.kind = MESH_ENTRY_END;
    send_entry(f, HOME, end);
    assert_answer(f, HOME, 3, true);
    struct mesh_message message = beat(1, 3, 2);
    message.body.beat.journal[0].over = true; /* not all of it is settled yet */
    fixture_message(f, HOME, &message);
    assert_answer(f, HOME, 0, true);
    assert_int_equal(journal_of(f).last, 3);
    message.body.beat.journal[0].settled = 3;
    fixture_message(f, HOME, &message);
    struct mesh_message answer;
    assert_true(fixture_sent(f, HOME, MESH_APPENDED, &answer));
    assert_true(answer.body.appended.over && answer.body.appended.held);
    assert_int_equal(answer.body.appended.last, 3);
    assert_int_equal(f->out->effect[f->out->effect_count - 1].kind, MESH_JOURNAL_OVER);
    assert_true(f->out->effect[f->out->effect_count - 1].body.over.whole);
    assert_int_equal(journal_of(f).last, 0);
    fixture_message(f, HOME, &message); /* the answer was lost */
    assert_true(fixture_sent(f, HOME, MESH_APPENDED, &answer));
    assert_true(answer.body.appended.over);
    assert_int_equal(answer.body.appended.last, 0);
    fixture_close(f);
}

static void a_full_table_of_journals_takes_none(void **state)
{
    (void)state;
    struct fixture *const f = open_member(PEERS, 2);
    for (uint8_t job = 1; job <= 3; job++) {
        struct mesh_message first = entry(f, 1, 1);
        first.body.append.job = fixture_job(job);
        send_entry(f, HOME, first);
        struct mesh_message answer;
        assert_int_equal(fixture_sent(f, HOME, MESH_APPENDED, &answer), job <= 2);
    }
    assert_int_equal(mesh_counters(f->mesh)->bound_journals, 1);
    fixture_close(f);
}

/* More than there are buckets for without any two in one. */
static void each_of_many_journals_is_found_by_its_job(void **state)
{
    (void)state;
    enum { JOURNALS = 200 };
    struct fixture *const f = open_member(PEERS, JOURNALS);
    for (uint32_t job = 0; job < JOURNALS; job++) {
        struct mesh_message first = entry(f, 1, 1);
        first.body.append.job = fixture_job((uint8_t)job);
        send_entry(f, HOME, first);
    }
    for (uint32_t gone = 0; gone <= JOURNALS; gone++) {
        for (uint32_t job = 0; job < JOURNALS; job++) {
            const struct mesh_id id = fixture_job((uint8_t)job);
            const uint32_t slot = journal_find(f->mesh, &id);
            /* The odd ones go first, and from both ends. */
            const uint32_t turn = job % 2 ? job / 2 : JOURNALS - 1 - job / 2;
            assert_int_equal(slot == MESH_NONE, turn < gone);
            assert_true(slot == MESH_NONE || id_equal(&f->mesh->journals.journal[slot].job, &id));
            if (turn == gone)
                journal_free(&f->mesh->journals, slot);
        }
        mesh_check(f->mesh);
    }
    fixture_close(f);
}

/* ---- Disks. */

static struct mesh_message disk(uint64_t sequence, uint64_t seen, bool asks)
{
    struct mesh_message message = {.kind = MESH_DISK};
    message.body.disk.sequence = sequence;
    message.body.disk.seen = seen;
    message.body.disk.asks = asks;
    return message;
}

static bool asks_about_our_disk(struct fixture *f, uint32_t to)
{
    struct mesh_message message;
    return fixture_sent(f, to, MESH_DISK, &message) && message.body.disk.asks;
}

/* Before it takes a first entry, a member asks the others how far they have seen its disk: again after a second, and who says
 * nothing is waited for for so long. */
static void a_member_asks_about_its_disk_before_it_has_a_voice(void **state)
{
    (void)state;
    enum { TOLD, OLD, SILENT, UNKNOWN };
    for (uint32_t other = TOLD; other <= UNKNOWN; other++) {
        const struct mesh_limits limits = limits_of_journals(4);
        struct fixture *const f = fixture_open_limits(PEERS, &limits, NULL);
        const struct mesh_message said = disk(1, 0, false);
        fixture_message(f, HOME, &said);
        if (other == OLD)
            speaks(f, OTHER, 1); /* it knows nothing of journals */
        fixture_clear(f);
        struct mesh_message first = entry(f, 1, 1), answer;
        if (other == UNKNOWN)
            first.body.append.members.id[2] = (struct mesh_id){{0xee}};
        send_entry(f, HOME, first);
        assert_int_equal(fixture_sent(f, HOME, MESH_APPENDED, &answer), other == OLD);
        assert_int_equal(asks_about_our_disk(f, OTHER), other == TOLD || other == SILENT);
        assert_false(asks_about_our_disk(f, HOME));
        if (other == TOLD) {
            fixture_message(f, OTHER, &said);
            send_entry(f, HOME, first);
            assert_answer(f, HOME, 1, true);
        }
        if (other == SILENT || other == UNKNOWN) {
            fixture_run(f, DISK_ASK_MS - 1);
            send_entry(f, HOME, first);
            assert_false(asks_about_our_disk(f, OTHER));
            fixture_run(f, 1);
            send_entry(f, HOME, first);
            assert_int_equal(asks_about_our_disk(f, OTHER), other == SILENT);
            fixture_run(f, DISK_PROOF_MS - DISK_ASK_MS - 1);
            send_entry(f, HOME, first);
            assert_false(fixture_sent(f, HOME, MESH_APPENDED, &answer));
            fixture_run(f, 1);
            send_entry(f, HOME, first);
            assert_answer(f, HOME, 1, true);
        }
        fixture_close(f);
    }
}

/* A neighbour is asked before the first journal that we have in common. */
static void a_neighbour_with_a_session_is_asked_about_our_disk(void **state)
{
    (void)state;
    for (uint32_t journals = 0; journals < 2; journals++) {
        const struct mesh_limits limits = limits_of_journals(journals);
        struct fixture *const f = fixture_open_limits(1, &limits, NULL);
        fixture_clear(f);
        speaks(f, 0, MESH_PROTOCOL_MAX);
        assert_int_equal(asks_about_our_disk(f, 0), journals);
        const struct mesh_message said = disk(1, 0, false);
        fixture_message(f, 0, &said);
        f->now_ms += DISK_ASK_MS;
        speaks(f, 0, MESH_PROTOCOL_MAX); /* it has said so: once for our life */
        assert_false(asks_about_our_disk(f, 0));
        fixture_close(f);
    }
}

static void who_saw_our_disk_further_than_it_is_says_that_it_has_forgotten(void **state)
{
    (void)state;
    const uint64_t furthest = UINT64_C(1) << 40; /* nobody's word makes the numbers run out */
    static const struct {
        uint64_t ahead;
        bool bad, lost;
    } cases[] = {{0, false, false},
                 {1, false, true},
                 {UINT64_C(1) << 40, false, true},
                 {(UINT64_C(1) << 40) + 1, true, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *const f = open_follower(2);
        const uint64_t ours = f->mesh->disk.sequence;
        assert_true(ours > 0 && ours < furthest);
        const struct mesh_message message = disk(8, ours + cases[i].ahead, true);
        fixture_message(f, HOME, &message);
        assert_int_equal(bad_messages(f), cases[i].bad);
        assert_int_equal(mesh_counters(f->mesh)->disks_lost, cases[i].lost);
        struct mesh_message answer;
        assert_int_equal(fixture_sent(f, HOME, MESH_DISK, &answer), !cases[i].bad);
        assert_false(answer.body.disk.asks);
        if (!cases[i].bad) {
            assert_true(answer.body.disk.seen == 8);
            assert_true(answer.body.disk.sequence == ours + cases[i].ahead);
        }
        assert_int_equal(f->mesh->disk.storage, cases[i].lost ? f->mesh->incarnation : 0);
        fixture_close(f);
    }
}

/* A member whose disk we have seen further than it says has lost something: it is told, and what it says doesn't count. */
static void a_member_behind_what_was_seen_of_it_is_not_trusted(void **state)
{
    (void)state;
    struct fixture *const f = open_member(PEERS, 4);
    struct step step = {.mesh = f->mesh, .out = f->out};
    const uint32_t member = members_find(f->mesh, &f->peer[HOME]);
    static const struct {
        uint64_t sequence;
        bool trusted;
    } cases[] = {{7, true}, {7, true}, {6, false}, {0, true}, {8, true}, {7, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        f->out->send_count = 0;
        assert_int_equal(disk_trusted(&step, member, cases[i].sequence), cases[i].trusted);
        assert_int_equal(f->out->send_count, !cases[i].trusted);
    }
    assert_int_equal(members_notes(&f->mesh->members, member)->disk_seen, 8);
    assert_int_equal(f->out->send[0].message.body.disk.seen, 8);
    fixture_close(f);
}

/* ---- Reading back. */

static struct mesh_event image_of(const struct fixture *f)
{
    struct mesh_event event = {.kind = MESH_RESTORE_JOURNAL};
    event.body.journal =
        (struct mesh_journal_image){.job = fixture_job(1),
                                    .members = three(f),
                                    .members_at = 1,
                                    .promised = 2,
                                    .last = 9,
                                    .settled = 5,
                                    .run_count = 2,
                                    .run = {{.epoch = 1, .first = 1}, {.epoch = 3, .first = 8}}};
    return event;
}

static const struct journal *restored(struct fixture *f, struct mesh_event *event)
{
    fixture_step(f, event);
    const uint32_t slot = journal_find(f->mesh, &event->body.journal.job);
    return slot == MESH_NONE ? NULL : &f->mesh->journals.journal[slot];
}

static void a_journal_is_read_back_as_it_was(void **state)
{
    (void)state;
    struct fixture *f = open_member(PEERS, 4);
    struct mesh_event event = image_of(f);
    const struct journal *journal = restored(f, &event);
    assert_non_null(journal);
    assert_int_equal(journal->role, JOURNAL_FOLLOWER);
    assert_int_equal(journal->last, 9);
    assert_int_equal(journal->settled, 5);
    assert_int_equal(journal->promised, 3); /* its last entry's, which is later */
    assert_int_equal(journal->seen, 3);
    assert_int_equal(journal_epoch_of(journal, 7), 1);
    assert_int_equal(journal_epoch_of(journal, 8), 3);
    assert_int_equal(journal->end, 0);
    assert_true(journal->stand_at_ms >= f->now_ms + JOURNAL_QUIET_MS);
    assert_int_equal(f->mesh->journals.scan_at_ms, f->now_ms + JOURNAL_SCAN_MS);
    event.body.journal.last = 10; /* it is known: nothing changes */
    assert_int_equal(restored(f, &event)->last, 9);
    fixture_close(f);

    f = open_member(PEERS, 4);
    event = image_of(f);
    event.body.journal.promised = 7;
    event.body.journal.end = 9;
    event.body.journal.members.number = 3;
    event.body.journal.members_at = 8;
    event.body.journal.before = three(f);
    event.body.journal.before_at = 6;
    journal = restored(f, &event);
    assert_int_equal(journal->promised, 7);
    assert_int_equal(journal->end, 9);
    assert_int_equal(journal->members_at, 8);
    assert_int_equal(journal->before_at, 6);
    assert_int_equal(journal->before.number, 1);
    assert_int_equal(journal->settled, 6);
    fixture_close(f);
}

/* Nobody votes for the first home: it is the member that stands first, as long as the members are the first ones. */
static void the_home_of_the_first_epoch_is_known_by_its_place(void **state)
{
    (void)state;
    for (uint32_t number = 1; number <= 2; number++) {
        struct fixture *const f = open_member(PEERS, 4);
        struct mesh_event event = image_of(f);
        event.body.journal.promised = event.body.journal.run_count = 1;
        event.body.journal.members.number = number;
        restored(f, &event);
        fixture_clear(f);
        const struct mesh_message message = beat(1, 9, 9);
        fixture_message(f, OTHER, &message);
        assert_int_equal(bad_messages(f), number == 1);
        fixture_message(f, HOME, &message);
        assert_int_equal(bad_messages(f), 1); /* there is one home in an epoch */
        assert_int_equal(journal_of(f).settled, 9);
        fixture_close(f);
    }
}

/* Who was its home asks at once; another one waits until the home has been silent. */
static void a_home_that_restarted_asks_at_once_whether_it_is_wanted(void **state)
{
    (void)state;
    for (uint32_t home = 0; home < 2; home++) {
        struct fixture *const f = open_member(PEERS, 4);
        struct mesh_event event = image_of(f);
        event.body.journal.home = home;
        restored(f, &event);
        f->now_ms += JOURNAL_SCAN_MS;
        fixture_tick(f);
        for (uint32_t peer = HOME; peer <= OTHER; peer++) {
            struct mesh_message vote;
            assert_int_equal(fixture_sent(f, peer, MESH_VOTE, &vote), home);
            if (!home)
                continue;
            assert_true(vote.body.vote.asks && !vote.body.vote.handed);
            assert_int_equal(vote.body.vote.epoch, 4);
            assert_int_equal(vote.body.vote.last, 9);
            assert_int_equal(vote.body.vote.last_epoch, 3);
            assert_int_equal(vote.body.vote.members.number, 1);
        }
        fixture_close(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_majority_is_one_of_both_sets),
        cmocka_unit_test(members_that_make_no_sense_are_refused),
        cmocka_unit_test(a_member_has_the_last_of_its_places),
        cmocka_unit_test(the_log_remembers_its_latest_epochs),
        cmocka_unit_test(members_go_back_with_the_entry_that_is_cut),
        cmocka_unit_test(an_entry_with_a_field_that_makes_no_sense_is_counted_and_dropped),
        cmocka_unit_test(entries_are_taken_in_order_and_saved),
        cmocka_unit_test(entries_of_an_older_epoch_give_way),
        cmocka_unit_test(a_second_home_of_an_epoch_is_not_heard),
        cmocka_unit_test(a_beat_is_checked_and_says_what_is_settled),
        cmocka_unit_test(a_journal_is_over_when_its_home_says_so_of_what_is_here),
        cmocka_unit_test(a_full_table_of_journals_takes_none),
        cmocka_unit_test(each_of_many_journals_is_found_by_its_job),
        cmocka_unit_test(a_member_asks_about_its_disk_before_it_has_a_voice),
        cmocka_unit_test(a_neighbour_with_a_session_is_asked_about_our_disk),
        cmocka_unit_test(who_saw_our_disk_further_than_it_is_says_that_it_has_forgotten),
        cmocka_unit_test(a_member_behind_what_was_seen_of_it_is_not_trusted),
        cmocka_unit_test(a_journal_is_read_back_as_it_was),
        cmocka_unit_test(the_home_of_the_first_epoch_is_known_by_its_place),
        cmocka_unit_test(a_home_that_restarted_asks_at_once_whether_it_is_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
