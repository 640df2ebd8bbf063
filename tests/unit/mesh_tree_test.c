/* How one node passes records on: copies, words of them, and how a tree is mended and made shorter (mesh/tree.h). */
#include "mesh/internal.h"

#include "mesh_fixture.h"

#define PEER(number) (1u << (number))
#define NONE 0u

static struct fixture *open_linked(uint32_t peers)
{
    const struct mesh_limits limits = {
        .members = 128, .jobs = 1, .shards = 1, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(peers, &limits, NULL);
    for (uint32_t i = 0; i < peers; i++) {
        struct mesh_event event = {.kind = MESH_LINK_UP};
        event.body.link.peer = f->peer[i];
        event.body.link.protocol = MESH_PROTOCOL_TREES;
        fixture_step(f, &event);
    }
    fixture_run(f, 2100); /* our own records are out */
    fixture_clear(f);
    return f;
}

static void relink(struct fixture *f, uint32_t peer, uint32_t protocol)
{
    struct mesh_event event = {.kind = MESH_LINK_UP};
    event.body.link.peer = f->peer[peer];
    event.body.link.protocol = protocol;
    fixture_step(f, &event);
    fixture_clear(f);
}

/* A record of the peer `origin` comes from the peer `from` over so many links. */
static void copy(struct fixture *f, uint32_t from, uint32_t origin, enum mesh_record_kind kind,
                 struct stamp stamp, uint8_t hops)
{
    struct mesh_message message = {.kind = MESH_SPREAD};
    message.body.push.hops = hops;
    message.body.push.record = (struct mesh_record){.kind = kind,
                                                    .origin = f->peer[origin],
                                                    .incarnation = stamp.incarnation,
                                                    .version = stamp.version,
                                                    .handle = fixture_handle(f)};
    if (kind == MESH_RECORD_MEMBER) {
        message.body.push.record.body.member.session = 100 + origin;
        message.body.push.record.body.member.site = 2 + origin;
    }
    fixture_message(f, from, &message);
}

static void say(struct fixture *f, uint32_t from, enum mesh_message_kind kind, struct mesh_word word)
{
    struct mesh_message message = {.kind = kind};
    message.body.words.count = 1;
    message.body.words.word[0] = word;
    fixture_message(f, from, &message);
}

static struct mesh_word word_of(const struct fixture *f, uint32_t origin, uint64_t version, uint8_t hops)
{
    return (struct mesh_word){.origin = members_prefix(&f->peer[origin]),
                              .kind = MESH_RECORD_MEMBER,
                              .hops = hops,
                              .incarnation = 1,
                              .version = version};
}

static struct stamp first(uint64_t version)
{
    return (struct stamp){.incarnation = 1, .version = version};
}

static uint32_t peer_of(const struct fixture *f, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < f->peers; i++) {
        if (id_equal(&f->peer[i], id))
            return i;
    }
    fail_msg("something went to nobody whom we know");
    return 0;
}

/* To whom copies of that origin's record went, each once, and all of that version and so many hops; they are taken out. */
static uint32_t copies(struct fixture *f, uint32_t origin, enum mesh_record_kind kind, uint64_t version,
                       uint8_t hops)
{
    uint32_t to = 0;
    uint32_t left = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_message *const message = &f->send[i].message;
        if (message->kind != MESH_SPREAD || message->body.push.record.kind != kind ||
            !id_equal(&message->body.push.record.origin, &f->peer[origin])) {
            f->send[left++] = f->send[i];
            continue;
        }
        const uint32_t bit = PEER(peer_of(f, &f->send[i].to));
        assert_int_equal(to & bit, 0);
        assert_int_equal(message->body.push.record.version, version);
        assert_int_equal(message->body.push.hops, hops);
        to |= bit;
    }
    f->send_count = left;
    return to;
}

/* The same for words in messages of that kind. The hops of a GRAFT or PRUNE say nothing. */
static uint32_t words(struct fixture *f, enum mesh_message_kind kind, struct mesh_word word)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_message *const message = &f->send[i].message;
        for (uint32_t j = 0; message->kind == kind && j < message->body.words.count; j++) {
            const struct mesh_word *const said = &message->body.words.word[j];
            if (said->origin != word.origin || said->kind != word.kind)
                continue;
            const uint32_t bit = PEER(peer_of(f, &f->send[i].to));
            assert_int_equal(to & bit, 0);
            assert_int_equal(said->incarnation, word.incarnation);
            assert_int_equal(said->version, word.version);
            if (kind == MESH_HAVE)
                assert_int_equal(said->hops, word.hops);
            to |= bit;
        }
    }
    return to;
}

static void advance(struct fixture *f, int64_t by_ms)
{
    f->now_ms += by_ms;
    fixture_tick(f);
}

/* Nothing leaves before the time is over; the core asks to be called then. */
static void end_wait(struct fixture *f, int64_t wait_ms)
{
    assert_true(f->wake_at_ms <= f->now_ms + wait_ms);
    advance(f, wait_ms - 1);
    for (uint32_t i = 0; i < f->send_count; i++)
        assert_true(f->send[i].message.kind != MESH_HAVE && f->send[i].message.kind != MESH_PRUNE);
    advance(f, 1);
}

static void end_batch(struct fixture *f)
{
    end_wait(f, MESH_BATCH_MS);
}

static struct member *member_of(const struct fixture *f, uint32_t peer)
{
    return &f->mesh->members.slot[members_find(f->mesh, &f->peer[peer])];
}

static const struct link *link_to(const struct fixture *f, uint32_t peer)
{
    return links_find(f->mesh, members_find(f->mesh, &f->peer[peer]));
}

static uint32_t missing(const struct fixture *f)
{
    return f->mesh->tree.missing_count;
}

static const struct mesh_counters *counters(const struct fixture *f)
{
    return mesh_counters(f->mesh);
}

/* ---------------------------------------------------------------------- copies */

static void first_record_of_an_incarnation_goes_over_every_other_link(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0)); /* of the tree before */
    copy(f, 1, 0, MESH_RECORD_MEMBER, (struct stamp){2, 1}, 2);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 1, 3), PEER(0) | PEER(2) | PEER(3));
    assert_int_equal(member_of(f, 0)->hops, 2);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 1)->place + 1);
    copy(f, 1, 0, MESH_RECORD_MEMBER, (struct stamp){2, 2}, 2);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 3), PEER(2) | PEER(3)); /* its origin knows it */
    advance(f, MESH_BATCH_MS);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 2)), NONE);
    fixture_close(f);
}

static void our_own_record_crosses_its_first_link(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_event event = {.kind = MESH_ANNOUNCE};
    fixture_step(f, &event);
    uint32_t to = 0;
    struct mesh_message message;
    for (uint32_t i = 0; i < 3; i++) {
        while (fixture_sent(f, i, MESH_SPREAD, &message)) {
            assert_true(id_equal(&message.body.push.record.origin, &f->self));
            assert_int_equal(message.body.push.hops, 1);
            to |= PEER(i);
        }
    }
    assert_int_equal(to, PEER(0) | PEER(1) | PEER(2));
    fixture_close(f);
}

static void hops_end_at_their_bound(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), UINT8_MAX);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, UINT8_MAX), PEER(2));
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(3), UINT8_MAX - 1);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 3, UINT8_MAX), PEER(2));
    fixture_close(f);
}

static void what_came_outside_the_tree_is_far_from_its_origin(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    fixture_member(f, 0, 100, 2); /* a repair */
    assert_int_equal(member_of(f, 0)->hops, TREE_FAR);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, TREE_FAR + 1), PEER(1) | PEER(2));
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(3), 2);
    fixture_clear(f);
    f->version[0] = 3;
    fixture_member(f, 0, 100, 2); /* the tree that it has stays as far as it was */
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 4, 3), PEER(1) | PEER(2));
    fixture_close(f);
}

static void whoever_holds_the_record_is_pruned(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 2);
    fixture_clear(f);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 2); /* by the tree itself, after a reconnect */
    assert_int_equal(counters(f)->copies_redundant, 0);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(1), 1); /* older: no copy of what we hold */
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(2), 0); /* by a round */
    assert_int_equal(counters(f)->copies_redundant, 0);
    assert_int_equal(f->mesh->tree.owing_count, 0);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(2), 2);
    assert_int_equal(counters(f)->copies_redundant, 1);
    copy(f, 3, 0, MESH_RECORD_MEMBER, first(2), 9);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), PEER(2) | PEER(3));
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 2)), NONE);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 1)->place + 1);
    fixture_clear(f);
    advance(f, 10 * MESH_BATCH_MS);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), NONE); /* once */
    fixture_close(f);
}

static void our_own_record_that_comes_back_is_pruned(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_message message = {.kind = MESH_SPREAD};
    message.body.push.hops = 1;
    message.body.push.record = members_record(&f->mesh->members.slot[f->mesh->members.self]);
    message.body.push.record.handle = fixture_handle(f);
    fixture_message(f, 1, &message);
    end_batch(f);
    const struct mesh_word own = {.origin = members_prefix(&f->self),
                                  .kind = MESH_RECORD_MEMBER,
                                  .incarnation = message.body.push.record.incarnation,
                                  .version = message.body.push.record.version};
    assert_int_equal(words(f, MESH_PRUNE, own), PEER(1));
    assert_int_equal(words(f, MESH_HAVE, own), NONE);
    assert_int_equal(f->mesh->members.slot[f->mesh->members.self].comes_from, 0);
    fixture_close(f);
}

static void of_two_ways_the_shorter_one_stays(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 3);
    fixture_clear(f);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(2), 2);
    assert_int_equal(counters(f)->copies_redundant, 1);
    assert_int_equal(member_of(f, 0)->hops, 2);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 2)->place + 1);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), PEER(1));
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 2)),
                     PEER(0) | PEER(1) | PEER(3)); /* theirs may be shorter now */
    assert_int_equal(f->mesh->tree.owing_count, 0);
    fixture_close(f);
}

/* It was to be pruned, and then became the way by which the tree comes. */
static void a_parent_is_not_pruned(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 3);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(2), 3);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(3), 2);
    fixture_clear(f);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 3, 0)), NONE);
    fixture_close(f);
}

/* ----------------------------------------------------------------------- words */

static void pruned_neighbours_get_word_of_it(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0));
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 4);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 5), PEER(3));
    end_batch(f);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 4)), PEER(2));
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 5), NONE);
    /* Two within a batch: word of the newest, once. */
    fixture_clear(f);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(3), 4);
    advance(f, MESH_BATCH_MS / 2);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(4), 4);
    advance(f, MESH_BATCH_MS / 2);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 4, 4)), PEER(2));
    /* Pruned for one origin, not for another. */
    fixture_clear(f);
    copy(f, 0, 1, MESH_RECORD_MEMBER, first(2), 1);
    assert_int_equal(copies(f, 1, MESH_RECORD_MEMBER, 2, 2), PEER(2) | PEER(3));
    fixture_close(f);
}

/* Its copy was lost: others are nearer to those behind us than we are now. */
static void what_came_a_longer_way_is_told_of_and_not_copied(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 2);
    fixture_clear(f);
    copy(f, 3, 0, MESH_RECORD_MEMBER, first(3), 3); /* one more may be the tree's own doing */
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 3, 4), PEER(1) | PEER(2));
    fixture_clear(f);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(4), 5);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 4, 6), NONE);
    end_batch(f);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 4, 5)), PEER(2) | PEER(3));
    /* Its next one of that length is what is usual now; and a new incarnation goes everywhere. */
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(5), 5);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 5, 6), PEER(2) | PEER(3));
    copy(f, 1, 0, MESH_RECORD_MEMBER, (struct stamp){.incarnation = 2, .version = 1}, 9);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 1, 10), PEER(0) | PEER(2) | PEER(3));
    fixture_close(f);
}

static void graft_makes_a_link_part_of_the_tree_again(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0));
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 4);
    fixture_clear(f);
    say(f, 2, MESH_GRAFT, word_of(f, 0, 1, 0)); /* it holds the one before */
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 5), PEER(2));
    assert_int_equal(counters(f)->repairs, 1);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(3), 4);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 3, 5), PEER(2) | PEER(3));
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0));
    say(f, 2, MESH_GRAFT, word_of(f, 0, 3, 0)); /* it holds what we hold: for the next ones */
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 3, 5), NONE);
    assert_int_equal(counters(f)->repairs, 1);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(4), 4);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 4, 5), PEER(2) | PEER(3));
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 1)->place + 1);
    /* Who wants them from us brings us none. */
    say(f, 1, MESH_GRAFT, word_of(f, 0, 4, 0));
    assert_int_equal(member_of(f, 0)->comes_from, 0);
    fixture_close(f);
}

static void graft_of_a_capacity_is_answered_with_it(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_word word = word_of(f, 0, 0, 0);
    word.kind = MESH_RECORD_CAPACITY;
    say(f, 2, MESH_GRAFT, word); /* we hold none */
    assert_int_equal(f->send_count, 0);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(7), 2);
    advance(f, MESH_BATCH_MS);
    fixture_clear(f);
    word.version = 6;
    say(f, 2, MESH_GRAFT, word);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 7, 3), PEER(2));
    word.version = 7;
    say(f, 2, MESH_GRAFT, word);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 7, 3), NONE);
    fixture_close(f);
}

static void a_record_that_was_told_of_and_does_not_come_is_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_HAVE, word_of(f, 0, 9, 3));
    say(f, 3, MESH_HAVE, word_of(f, 0, 9, 5));
    say(f, 3, MESH_HAVE, word_of(f, 0, 8, 1)); /* an older one */
    assert_int_equal(missing(f), 1);
    assert_true(f->wake_at_ms <= f->now_ms + MESH_GRAFT_MS);
    uint32_t asked = 0;
    for (int i = 0; i < 2; i++) {
        advance(f, MESH_GRAFT_MS - 1);
        assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 1, 0)), NONE);
        advance(f, 1);
        const uint32_t now = words(f, MESH_GRAFT, word_of(f, 0, 1, 0));
        assert_true(now == PEER(2) || now == PEER(3));
        assert_int_equal(asked & now, 0); /* the next one each time */
        asked |= now;
        fixture_clear(f);
    }
    assert_int_equal(counters(f)->grafts_missing, 2);
    assert_int_equal(missing(f), 1);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 1, 0)), NONE); /* all have been asked */
    assert_int_equal(missing(f), 0);
    fixture_close(f);
}

static void of_what_nobody_knows_the_first_record_is_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    const struct mesh_word stranger = {
        .origin = 0xeeee, .kind = MESH_RECORD_MEMBER, .hops = 1, .incarnation = 4, .version = 4};
    say(f, 2, MESH_HAVE, stranger);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(words(f, MESH_GRAFT, (struct mesh_word){.origin = 0xeeee, .kind = MESH_RECORD_MEMBER}),
                     PEER(2));
    fixture_close(f);
}

static void the_newest_that_was_told_of_is_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_HAVE, word_of(f, 0, 9, 1));
    say(f, 3, MESH_HAVE, word_of(f, 0, 10, 3)); /* of the newer one only this neighbour told */
    assert_int_equal(missing(f), 1);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 1, 0)), PEER(3));
    fixture_clear(f);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(missing(f), 0);
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 1, 0)), NONE);
    fixture_close(f);
}

static void a_record_that_comes_is_not_asked_for(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    for (uint64_t newer = 0; newer < 2; newer++) {
        const uint64_t told = 9 + 3 * newer;
        say(f, 2, MESH_HAVE, word_of(f, 0, told, 3));
        copy(f, 1, 0, MESH_RECORD_MEMBER, first(told - 1), 4);
        assert_int_equal(missing(f), 1);
        copy(f, 1, 0, MESH_RECORD_MEMBER, first(told + newer), 4); /* that one, or a newer one */
        assert_int_equal(missing(f), 0);
    }
    /* A capacity is none of its member records. */
    say(f, 2, MESH_HAVE, word_of(f, 0, 30, 3));
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(40), 4);
    copy(f, 0, 1, MESH_RECORD_MEMBER, first(40), 1);
    assert_int_equal(missing(f), 1);
    fixture_clear(f);
    /* What came by a round counts too; the time for the question may have come by then. */
    f->version[0] = 29;
    fixture_member(f, 0, 100, 2);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(missing(f), 0);
    assert_int_equal(counters(f)->grafts_missing, 0);
    fixture_close(f);
}

static void a_word_of_a_shorter_way_makes_the_tree_shorter(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 4);
    fixture_clear(f);
    say(f, 2, MESH_HAVE, word_of(f, 0, 2, 3)); /* as long as ours */
    say(f, 2, MESH_HAVE, word_of(f, 0, 1, 0)); /* of an older record */
    assert_int_equal(f->send_count, 0);
    say(f, 2, MESH_HAVE, word_of(f, 0, 2, 2));
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 2, 0)), PEER(2));
    assert_int_equal(counters(f)->grafts_shorter, 1);
    assert_int_equal(member_of(f, 0)->hops, 3);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 2)->place + 1);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), PEER(1));
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 3)), PEER(0) | PEER(1) | PEER(3));
    /* Our parent got nearer: there is nothing to graft or prune. */
    fixture_clear(f);
    say(f, 2, MESH_HAVE, word_of(f, 0, 2, 0));
    assert_int_equal(f->send_count, 0);
    assert_int_equal(member_of(f, 0)->hops, 1);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), NONE);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 1)), PEER(0) | PEER(1) | PEER(3));
    assert_int_equal(counters(f)->grafts_shorter, 1);
    fixture_close(f);
}

/* Whichever place its link has. */
static void whoever_was_the_parent_is_pruned(void **state)
{
    (void)state;
    for (uint32_t parent = 0; parent < 4; parent++) {
        struct fixture *const f = open_linked(4);
        const uint32_t origin = (parent + 1) % 4;
        copy(f, parent, origin, MESH_RECORD_MEMBER, first(2), 4);
        advance(f, MESH_BATCH_MS);
        fixture_clear(f);
        say(f, (parent + 2) % 4, MESH_HAVE, word_of(f, origin, 2, 1));
        advance(f, MESH_BATCH_MS);
        assert_int_equal(words(f, MESH_PRUNE, word_of(f, origin, 2, 0)), PEER(parent));
        fixture_close(f);
    }
}

/* Word came first, over fewer links than the record itself. */
static void what_came_by_a_detour_is_grafted_where_word_was_nearer(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 3, MESH_HAVE, word_of(f, 0, 2, 4));
    say(f, 2, MESH_HAVE, word_of(f, 0, 2, 2));
    say(f, 3, MESH_HAVE, word_of(f, 0, 2, 3));
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 4);
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 2, 0)), PEER(2));
    assert_int_equal(counters(f)->grafts_shorter, 1);
    assert_int_equal(member_of(f, 0)->hops, 3);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 2)->place + 1);
    end_batch(f);
    assert_int_equal(words(f, MESH_PRUNE, word_of(f, 0, 2, 0)), PEER(1));
    fixture_clear(f);
    /* No nearer, or of an older record: the tree is as good. */
    say(f, 3, MESH_HAVE, word_of(f, 0, 3, 2));
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(3), 3);
    say(f, 3, MESH_HAVE, word_of(f, 0, 4, 0));
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(5), 3);
    assert_int_equal(counters(f)->grafts_shorter, 1);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 2)->place + 1);
    fixture_close(f);
}

static struct mesh_word capacity_word(const struct fixture *f, uint32_t origin, struct stamp stamp)
{
    struct mesh_word word = word_of(f, origin, stamp.version, 1);
    word.kind = MESH_RECORD_CAPACITY;
    word.incarnation = stamp.incarnation;
    return word;
}

static void words_of_what_we_would_not_take_are_forgotten(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, (struct stamp){3, 5}, 1);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, (struct stamp){3, 5}, 1);
    say(f, 1, MESH_HAVE, capacity_word(f, 0, (struct stamp){3, 5})); /* held */
    say(f, 1, MESH_HAVE, capacity_word(f, 0, (struct stamp){3, 4}));
    say(f, 1, MESH_HAVE, capacity_word(f, 0, (struct stamp){2, 9})); /* of a life that is over */
    struct mesh_word word = {
        .origin = members_prefix(&f->self), .kind = MESH_RECORD_MEMBER, .incarnation = 9};
    say(f, 1, MESH_HAVE, word); /* our own */
    word = (struct mesh_word){.origin = 0xeeee, .kind = MESH_RECORD_CAPACITY, .incarnation = 1, .version = 1};
    say(f, 1, MESH_HAVE, word); /* of a stranger only the member record would do */
    assert_int_equal(missing(f), 0);
    say(f, 1, MESH_HAVE, capacity_word(f, 0, (struct stamp){3, 6}));
    assert_int_equal(missing(f), 1);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(words(f, MESH_GRAFT, capacity_word(f, 0, (struct stamp){3, 5})), PEER(1));
    fixture_close(f);
}

static void the_dead_are_missed_only_in_a_new_incarnation(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    struct mesh_record leaving = {.kind = MESH_RECORD_MEMBER};
    leaving.body.member.session = 100;
    leaving.body.member.site = 2;
    leaving.body.member.leaving = true;
    fixture_record(f, 0, leaving);
    say(f, 1, MESH_HAVE, word_of(f, 0, 99, 1));
    assert_int_equal(missing(f), 0);
    struct mesh_word word = word_of(f, 0, 1, 1);
    word.incarnation = 2;
    say(f, 1, MESH_HAVE, word);
    assert_int_equal(missing(f), 1);
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = f->peer[2];
    event.body.record.record = (struct mesh_record){.kind = MESH_RECORD_REVOCATION,
                                                    .origin = f->peer[2],
                                                    .incarnation = 1,
                                                    .version = 1,
                                                    .handle = fixture_handle(f)};
    event.body.record.record.body.revocation.subject = f->peer[0];
    fixture_step(f, &event);
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(missing(f), 0); /* nobody wants it any more */
    assert_int_equal(counters(f)->grafts_missing, 0);
    say(f, 1, MESH_HAVE, word);
    assert_int_equal(missing(f), 0);
    fixture_close(f);
}

static void words_beyond_the_bound_are_counted(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    struct mesh_message message = {.kind = MESH_HAVE};
    message.body.words.count = MESH_WORDS_MAX;
    for (uint32_t i = 0; i < MESH_WORDS_MAX; i++)
        message.body.words.word[i] = (struct mesh_word){
            .origin = 0xe000 + i, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1};
    fixture_message(f, 1, &message);
    assert_int_equal(missing(f), MESH_MISSING_MAX);
    assert_int_equal(counters(f)->bound_missing, 0);
    say(f, 2, MESH_HAVE, message.body.words.word[5]); /* one that is noted already */
    assert_int_equal(counters(f)->bound_missing, 0);
    say(f, 2, MESH_HAVE, word_of(f, 0, 9, 1));
    assert_int_equal(missing(f), MESH_MISSING_MAX);
    assert_int_equal(counters(f)->bound_missing, 1);
    fixture_close(f);
}

static void a_full_table_misses_no_strangers(void **state)
{
    (void)state;
    const struct mesh_limits limits = {
        .members = 4, .jobs = 1, .shards = 1, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(3, &limits, NULL);
    fixture_run(f, 1000);
    say(f, 1, MESH_HAVE,
        (struct mesh_word){.origin = 0xeeee, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1});
    assert_int_equal(missing(f), 0);
    fixture_close(f);
}

static void words_that_no_message_can_hold_are_refused(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    static const enum mesh_message_kind kinds[] = {MESH_HAVE, MESH_GRAFT, MESH_PRUNE};
    for (uint32_t i = 0; i < 3; i++) {
        struct mesh_message message = {.kind = kinds[i]};
        message.body.words.count = MESH_WORDS_MAX + 1;
        message.body.words.word[0] = word_of(f, 0, 9, 1);
        fixture_message(f, 1, &message);
        assert_int_equal(counters(f)->bad_messages, i + 1);
    }
    assert_int_equal(missing(f), 0);
    assert_int_equal(member_of(f, 0)->lazy, 0);
    assert_int_equal(f->send_count, 0);
    fixture_close(f);
}

/* Words of whom we no longer have a link to were under way when it ended. */
static void words_of_no_neighbour_change_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(14);
    uint32_t other = 0;
    while (link_to(f, other))
        other++;
    const uint32_t origin = other == 0 ? 1 : 0;
    fixture_clear(f);
    say(f, other, MESH_HAVE, word_of(f, origin, 9, 1));
    say(f, other, MESH_PRUNE, word_of(f, origin, 1, 1));
    say(f, other, MESH_GRAFT, word_of(f, origin, 0, 1));
    assert_int_equal(missing(f), 0);
    assert_int_equal(member_of(f, origin)->lazy, 0);
    assert_int_equal(copies(f, origin, MESH_RECORD_MEMBER, 1, 0), NONE);
    assert_int_equal(counters(f)->bad_messages, 0);
    fixture_close(f);
}

/* ------------------------------------------------------------------ capacities */

static void a_capacity_waits_and_the_newest_takes_its_place(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(1), 2);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 1, 3), NONE);
    advance(f, MESH_BATCH_MS - 1);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(2), 2);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 2, 3), NONE);
    advance(f, 1);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 2, 3), PEER(2) | PEER(3));
    advance(f, 10 * MESH_BATCH_MS);
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 2, 3), NONE);
    fixture_close(f);
}

static void word_of_a_capacity_is_given_once_a_minute(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(3);
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0));
    const int64_t first_ms = f->now_ms;
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(1), 1);
    end_wait(f, MESH_TELL_MS);
    assert_int_equal(words(f, MESH_HAVE, capacity_word(f, 0, first(1))), PEER(2));
    fixture_run(f, first_ms + MESH_HAVE_CAPACITY_MS - 1 - f->now_ms);
    fixture_clear(f);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(2), 1);
    assert_int_equal(f->mesh->tree.telling_count, 0);
    advance(f, 1);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(3), 1);
    end_wait(f, MESH_TELL_MS);
    assert_int_equal(words(f, MESH_HAVE, capacity_word(f, 0, first(3))), PEER(2));
    assert_int_equal(copies(f, 0, MESH_RECORD_CAPACITY, 3, 2), NONE);
    fixture_close(f);
}

/* The process behind the member became another one before the batch was over. */
static void a_capacity_that_was_forgotten_is_not_sent(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 2, MESH_PRUNE, word_of(f, 0, 1, 0));
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(1), 2);
    f->incarnation[0] = 2;
    fixture_member(f, 0, 4711, 2);
    fixture_clear(f);
    advance(f, MESH_BATCH_MS);
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_message *const message = &f->send[i].message;
        assert_true(message->kind != MESH_SPREAD || message->body.push.record.kind != MESH_RECORD_CAPACITY ||
                    !id_equal(&message->body.push.record.origin, &f->peer[0]));
        assert_true(message->kind != MESH_HAVE || message->body.words.word[0].kind != MESH_RECORD_CAPACITY);
    }
    fixture_close(f);
}

/* -------------------------------------------------------- older builds, and bounds */

static uint32_t pushes(struct fixture *f, uint32_t origin, enum mesh_record_kind kind)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_record *const record = &f->send[i].message.body.push.record;
        if (f->send[i].message.kind == MESH_PUSH && record->kind == kind &&
            id_equal(&record->origin, &f->peer[origin]))
            to |= PEER(peer_of(f, &f->send[i].to));
    }
    return to;
}

/* It could not read our answer. Found by the simulator: a clone ran the older program and got words for its original. */
static void words_over_a_link_without_trees_change_nothing(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 4);
    relink(f, 3, MESH_PROTOCOL_TREES - 1);
    say(f, 3, MESH_HAVE, word_of(f, 0, 2, 1));  /* over fewer links */
    say(f, 3, MESH_HAVE, word_of(f, 0, 9, 1));  /* a newer one */
    say(f, 3, MESH_GRAFT, word_of(f, 0, 1, 0)); /* it lacks what we hold */
    say(f, 3, MESH_PRUNE, word_of(f, 0, 2, 0));
    assert_int_equal(f->send_count, 0);
    assert_int_equal(missing(f), 0);
    assert_int_equal(member_of(f, 0)->hops, 4);
    assert_int_equal(member_of(f, 0)->lazy & 1u << link_to(f, 3)->place, 0);
    assert_int_equal(member_of(f, 0)->comes_from, link_to(f, 1)->place + 1);
    relink(f, 3, MESH_PROTOCOL_TREES);
    say(f, 3, MESH_HAVE, word_of(f, 0, 2, 1));
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 2, 0)), PEER(3));
    /* Nor does what it said before, when the record comes a longer way. */
    say(f, 2, MESH_HAVE, word_of(f, 0, 3, 0));
    relink(f, 2, MESH_PROTOCOL_TREES - 1);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(3), 4);
    assert_int_equal(words(f, MESH_GRAFT, word_of(f, 0, 3, 0)), NONE);
    fixture_close(f);
}

static void a_neighbour_that_knows_no_trees_is_sent_everything(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    relink(f, 3, MESH_PROTOCOL_TREES - 1);
    f->gossip = true;
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 3);
    assert_int_equal(pushes(f, 0, MESH_RECORD_MEMBER), PEER(3));
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 4), PEER(2));
    fixture_clear(f);
    copy(f, 1, 0, MESH_RECORD_CAPACITY, first(1), 3);
    assert_int_equal(pushes(f, 0, MESH_RECORD_CAPACITY), PEER(3)); /* and at once */
    fixture_clear(f);
    copy(f, 2, 0, MESH_RECORD_MEMBER, first(2), 2); /* a shorter way, of which the others are told */
    end_batch(f);
    assert_int_equal(words(f, MESH_HAVE, word_of(f, 0, 2, 2)), PEER(0) | PEER(1));
    fixture_close(f);
}

static void what_is_owed_to_a_link_ends_with_it(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(4);
    say(f, 3, MESH_PRUNE, word_of(f, 0, 1, 0));
    copy(f, 3, 1, MESH_RECORD_MEMBER, first(2), 2);
    say(f, 3, MESH_HAVE, word_of(f, 2, 9, 1));
    const uint32_t place = link_to(f, 3)->place;
    assert_int_equal(member_of(f, 0)->lazy, 1u << place);
    assert_int_equal(member_of(f, 1)->comes_from, place + 1);
    copy(f, 2, 0, MESH_RECORD_CAPACITY, first(1), 1); /* owed to it too */
    struct mesh_record leaving = {.kind = MESH_RECORD_MEMBER};
    leaving.body.member.session = 103;
    leaving.body.member.site = 5;
    leaving.body.member.leaving = true;
    fixture_record(f, 3, leaving);
    fixture_tick(f);
    assert_null(link_to(f, 3));
    assert_int_equal(member_of(f, 0)->lazy, 0);
    assert_int_equal(member_of(f, 0)->owes_capacity & (1u << place), 0);
    assert_int_equal(member_of(f, 1)->comes_from, 0);
    assert_int_equal(f->mesh->tree.missing[0].holders, 0);
    /* Who gets its place gets copies like anybody. */
    memset(f->peer[4].bytes, 5, sizeof f->peer[4].bytes);
    f->incarnation[4] = 1;
    f->peers++;
    fixture_member(f, 4, 104, 6);
    fixture_tick(f);
    assert_int_equal(link_to(f, 4)->place, place);
    relink(f, 4, MESH_PROTOCOL_TREES);
    copy(f, 1, 0, MESH_RECORD_MEMBER, first(2), 1);
    assert_int_equal(copies(f, 0, MESH_RECORD_MEMBER, 2, 2), PEER(2) | PEER(4));
    advance(f, MESH_GRAFT_MS);
    assert_int_equal(counters(f)->grafts_missing, 0);
    assert_int_equal(missing(f), 0);
    fixture_close(f);
}

/* How often each neighbour was sent each peer's capacity, in all steps until nothing is owed. */
static void flush_goes_on_in_the_next_step_when_the_output_is_full(void **state)
{
    (void)state;
    enum { PEERS = 100 };
    struct fixture *const f = open_linked(PEERS);
    fixture_clear(f);
    for (uint32_t i = 0; i < PEERS; i++)
        fixture_capacity(f, i, 1, 1, 0);
    fixture_clear(f);
    advance(f, MESH_BATCH_MS);
    assert_in_range(counters(f)->bound_out, 1, 100);
    for (uint32_t steps = 0; f->mesh->tree.owing_count > 0; steps++) {
        assert_int_equal(f->wake_at_ms, f->now_ms);
        assert_true(steps < 100);
        fixture_tick(f);
    }
    uint32_t expected = 0;
    for (uint32_t i = 0; i < PEERS; i++)
        expected += link_to(f, i) ? PEERS - 1 : 0; /* all but its own */
    uint32_t sent = 0;
    for (uint32_t i = 0; i < f->send_count; i++)
        sent += f->send[i].message.kind == MESH_SPREAD &&
                !id_equal(&f->send[i].message.body.push.record.origin, &f->self);
    assert_int_equal(sent, expected);
    fixture_close(f);
}

static void many_words_take_several_messages(void **state)
{
    (void)state;
    enum { PEERS = 100 };
    struct fixture *const f = open_linked(PEERS);
    uint32_t neighbour = 0;
    while (!link_to(f, neighbour))
        neighbour++;
    for (uint32_t i = 0; i < PEERS; i++)
        say(f, neighbour, MESH_PRUNE, word_of(f, i, 1, 0));
    for (uint32_t i = 0; i < PEERS; i++) {
        if (i != neighbour)
            fixture_member(f, i, 100 + i, 2 + i);
    }
    fixture_clear(f);
    f->now_ms += MESH_BATCH_MS;
    do
        fixture_tick(f);
    while (f->mesh->tree.owing_count > 0);
    uint32_t told = 0;
    uint32_t messages = 0;
    struct mesh_message message;
    while (fixture_sent(f, neighbour, MESH_HAVE, &message)) {
        assert_true(message.body.words.count <= MESH_WORDS_MAX);
        told += message.body.words.count;
        messages++;
    }
    assert_int_equal(told, PEERS - 1);
    assert_int_equal(messages, 2); /* none goes out before it is full */
    fixture_close(f);
}

/* Words name an origin by eight bytes, all of which count. */
static void origins_are_found_by_the_first_bytes_of_their_ids(void **state)
{
    (void)state;
    struct fixture *const f = open_linked(2);
    for (uint32_t i = 0; i < 9; i++) {
        struct mesh_event event = {.kind = MESH_RECORD};
        struct mesh_record *const record = &event.body.record.record;
        *record = (struct mesh_record){.kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1};
        memset(record->origin.bytes, 0x42, sizeof record->origin.bytes);
        record->origin.bytes[i] = 0x43;
        record->body.member.session = 7;
        record->handle = fixture_handle(f);
        event.body.record.from = record->origin;
        fixture_step(f, &event);
        uint32_t found = members_find_prefix(f->mesh, members_prefix(&record->origin));
        assert_int_equal(found, members_find(f->mesh, &record->origin));
        record->origin.bytes[7] ^= 0x20; /* of nobody */
        assert_int_equal(members_find_prefix(f->mesh, members_prefix(&record->origin)), MESH_NONE);
    }
    struct mesh_id shared;
    memset(shared.bytes, 0x42, sizeof shared.bytes);
    const uint32_t only =
        members_find_prefix(f->mesh, members_prefix(&shared)); /* which differs in its ninth */
    assert_int_equal(f->mesh->members.slot[only].id.bytes[8], 0x43);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_record_of_an_incarnation_goes_over_every_other_link),
        cmocka_unit_test(our_own_record_crosses_its_first_link),
        cmocka_unit_test(hops_end_at_their_bound),
        cmocka_unit_test(what_came_outside_the_tree_is_far_from_its_origin),
        cmocka_unit_test(whoever_holds_the_record_is_pruned),
        cmocka_unit_test(our_own_record_that_comes_back_is_pruned),
        cmocka_unit_test(of_two_ways_the_shorter_one_stays),
        cmocka_unit_test(a_parent_is_not_pruned),
        cmocka_unit_test(pruned_neighbours_get_word_of_it),
        cmocka_unit_test(what_came_a_longer_way_is_told_of_and_not_copied),
        cmocka_unit_test(graft_makes_a_link_part_of_the_tree_again),
        cmocka_unit_test(graft_of_a_capacity_is_answered_with_it),
        cmocka_unit_test(a_record_that_was_told_of_and_does_not_come_is_asked_for),
        cmocka_unit_test(of_what_nobody_knows_the_first_record_is_asked_for),
        cmocka_unit_test(the_newest_that_was_told_of_is_asked_for),
        cmocka_unit_test(a_record_that_comes_is_not_asked_for),
        cmocka_unit_test(a_word_of_a_shorter_way_makes_the_tree_shorter),
        cmocka_unit_test(whoever_was_the_parent_is_pruned),
        cmocka_unit_test(what_came_by_a_detour_is_grafted_where_word_was_nearer),
        cmocka_unit_test(words_of_what_we_would_not_take_are_forgotten),
        cmocka_unit_test(the_dead_are_missed_only_in_a_new_incarnation),
        cmocka_unit_test(words_beyond_the_bound_are_counted),
        cmocka_unit_test(a_full_table_misses_no_strangers),
        cmocka_unit_test(words_that_no_message_can_hold_are_refused),
        cmocka_unit_test(words_of_no_neighbour_change_nothing),
        cmocka_unit_test(a_capacity_waits_and_the_newest_takes_its_place),
        cmocka_unit_test(word_of_a_capacity_is_given_once_a_minute),
        cmocka_unit_test(a_capacity_that_was_forgotten_is_not_sent),
        cmocka_unit_test(words_over_a_link_without_trees_change_nothing),
        cmocka_unit_test(a_neighbour_that_knows_no_trees_is_sent_everything),
        cmocka_unit_test(what_is_owed_to_a_link_ends_with_it),
        cmocka_unit_test(flush_goes_on_in_the_next_step_when_the_output_is_full),
        cmocka_unit_test(many_words_take_several_messages),
        cmocka_unit_test(origins_are_found_by_the_first_bytes_of_their_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
