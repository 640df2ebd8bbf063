/* A large site and what is beyond it, as one of its nodes sees them (mesh/tiers.h). */
#include "mesh/internal.h"

#include "mesh_fixture.h"

#define OWN_SITE 1u
#define FAR_SITE 20u
#define GUEST_SITE 900u
#define UPPER 0
#define INTERIOR 1

static struct fixture *open_alone(uint32_t members)
{
    const struct mesh_limits limits = {
        .members = members, .jobs = 1, .shards = 16, .bundles = 1, .attempts = 1, .demands = 1};
    struct fixture *const f = fixture_open_limits(0, &limits, NULL);
    f->gossip = true;
    return f;
}

static struct mesh_id numbered(uint32_t number)
{
    struct mesh_id id = {.bytes = {(uint8_t)(number * 37), (uint8_t)number, (uint8_t)(number >> 8), 0x77}};
    return id;
}

static struct mesh_record member_record(const struct mesh_id *id, uint64_t version, uint64_t site,
                                        bool interior)
{
    return (struct mesh_record){.kind = MESH_RECORD_MEMBER,
                                .origin = *id,
                                .incarnation = 1,
                                .version = version,
                                .body.member = {.session = 5, .site = site, .interior = interior}};
}

static void give(struct fixture *f, const struct mesh_id *from, struct mesh_record record)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = *from;
    record.handle = fixture_handle(f);
    event.body.record.record = record;
    fixture_step(f, &event);
}

/* One more peer, who introduces itself. */
static uint32_t add(struct fixture *f, const struct mesh_id *id, uint64_t site, bool interior)
{
    assert_true(f->peers < FIXTURE_PEERS);
    const uint32_t peer = f->peers++;
    f->peer[peer] = *id;
    f->incarnation[peer] = 1;
    f->version[peer] = 1;
    give(f, id, member_record(id, 1, site, interior));
    return peer;
}

/* As fixture_run(), where nobody looks at what was said meanwhile. */
static void pass(struct fixture *f, int64_t for_ms)
{
    const int64_t until_ms = f->now_ms + for_ms;
    while (f->now_ms < until_ms) {
        fixture_run(f, until_ms - f->now_ms < 10000 ? until_ms - f->now_ms : 10000);
        fixture_clear(f);
    }
}

static void set_interior(struct fixture *f, uint32_t peer, uint64_t site, bool interior)
{
    give(f, &f->peer[peer], member_record(&f->peer[peer], ++f->version[peer], site, interior));
}

static void leave(struct fixture *f, uint32_t peer, uint64_t site)
{
    struct mesh_record record = member_record(&f->peer[peer], ++f->version[peer], site, false);
    record.body.member.leaving = true;
    give(f, &f->peer[peer], record);
    f->silent[peer] = true;
}

/* Adds so many peers of our site that would report before us, and after us. */
static void add_near(struct fixture *f, uint32_t before, uint32_t after, bool interior_after)
{
    for (uint32_t number = 1; before > 0 || after > 0; number++) {
        const struct mesh_id id = numbered(number);
        const bool first = mesh_reports_before(&id, &f->self);
        if (members_find(f->mesh, &id) != MESH_NONE || (first ? before : after) == 0)
            continue;
        *(first ? &before : &after) -= 1;
        add(f, &id, OWN_SITE, !first && interior_after);
    }
}

static bool interior(const struct fixture *f)
{
    return f->mesh->members.slot[f->mesh->members.self].interior;
}

static uint32_t slot_of(const struct fixture *f, uint32_t peer)
{
    return members_find(f->mesh, &f->peer[peer]);
}

static bool knows(const struct fixture *f, const struct mesh_id *id)
{
    return members_find(f->mesh, id) != MESH_NONE;
}

static void link_all(struct fixture *f)
{
    for (uint32_t i = 0; i < f->peers; i++) {
        struct mesh_event event = {.kind = MESH_LINK_UP};
        event.body.link.peer = f->peer[i];
        event.body.link.protocol = MESH_PROTOCOL_TREES;
        fixture_step(f, &event);
        f->silent[i] = !links_find(f->mesh, members_find(f->mesh, &f->peer[i])); /* which nobody minds */
    }
}

/* We report for a site of 71: peers 0 and 1 too, peers 2 to 69 are its interior; 70 to 75 are of small sites elsewhere. */
#define NEAR_INTERIOR 2u
#define FAR 70u
#define FARS 6u
static struct fixture *open_reporter(void)
{
    struct fixture *const f = open_alone(512);
    add_near(f, 2, 0, false);
    add_near(f, 0, 68, true);
    for (uint32_t i = 0; i < FARS; i++) {
        const struct mesh_id id = numbered(3000 + i);
        add(f, &id, FAR_SITE + i, false);
    }
    link_all(f);
    fixture_run(f, 8000);
    assert_false(interior(f));
    assert_true(f->mesh->tiers.split);
    fixture_clear(f);
    return f;
}

/* We are in the interior of a site of 70, for which peers 0, 1 and 2 report. */
static struct fixture *open_interior(void)
{
    struct fixture *const f = open_alone(512);
    add_near(f, 3, 0, false);
    add_near(f, 0, 66, true);
    link_all(f);
    fixture_run(f, 8000);
    assert_true(interior(f));
    fixture_clear(f);
    return f;
}

static const struct mesh_message *message_at(const struct fixture *f, uint32_t i, enum mesh_message_kind kind)
{
    return f->send[i].message.kind == kind ? &f->send[i].message : NULL;
}

static uint32_t peer_to(const struct fixture *f, uint32_t i)
{
    uint32_t peer = 0;
    while (peer < f->peers && !id_equal(&f->peer[peer], &f->send[i].to))
        peer++;
    return peer;
}

/* Copies and pushes of that record that went to peers of these numbers. */
static uint32_t sent_to(const struct fixture *f, const struct mesh_id *origin, uint32_t first, uint32_t count)
{
    uint32_t sent = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_message *const message = &f->send[i].message;
        const uint32_t to = peer_to(f, i);
        sent += (message->kind == MESH_PUSH || message->kind == MESH_SPREAD) &&
                message->body.push.record.kind == MESH_RECORD_MEMBER &&
                id_equal(&message->body.push.record.origin, origin) && to >= first && to < first + count;
    }
    return sent;
}

static uint32_t links_to(const struct fixture *f, uint32_t first, uint32_t count)
{
    uint32_t links = 0;
    for (uint32_t i = first; i < first + count; i++)
        links += links_find(f->mesh, slot_of(f, i)) != NULL;
    return links;
}

/* -------------------------------------------------------------------- deciding */

static void a_site_splits_beyond_its_bound(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(128);
    add_near(f, 3, MESH_SITE_SPLIT - 4, false);
    fixture_run(f, 3 * MESH_SETTLE_MS);
    assert_false(interior(f));
    assert_int_equal(f->mesh->tiers.near_live, MESH_SITE_SPLIT);
    add_near(f, 0, 1, false);
    fixture_run(f, MESH_SETTLE_MS - 1);
    assert_false(interior(f)); /* not before it is content with that */
    fixture_run(f, 1);
    assert_true(interior(f));
    assert_true(f->mesh->tiers.split);
    fixture_close(f);
}

static void it_is_one_again_below_a_lower_bound(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(128);
    add_near(f, 3, MESH_SITE_SPLIT - 3, false);
    fixture_run(f, 2 * MESH_SETTLE_MS);
    assert_true(interior(f));
    uint32_t last = f->peers;
    while (f->mesh->tiers.near_live > MESH_SITE_MERGE)
        leave(f, --last, OWN_SITE);
    fixture_run(f, 2 * MESH_SETTLE_MS);
    assert_true(interior(f));
    leave(f, --last, OWN_SITE);
    assert_false(interior(f)); /* who is needed says so at once */
    fixture_run(f, 2 * MESH_SETTLE_MS);
    assert_false(interior(f));
    assert_false(f->mesh->tiers.split);
    assert_int_equal(f->mesh->overlay.count[TIER_SITE], 0);
    fixture_close(f);
}

static void the_rings_of_a_site_are_kept_from_the_lower_bound_on(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(128);
    add_near(f, 3, MESH_SITE_MERGE - 5, false);
    assert_int_equal(f->mesh->overlay.count[TIER_SITE], 0);
    add_near(f, 0, 1, false);
    assert_int_equal(f->mesh->overlay.count[TIER_SITE], MESH_SITE_MERGE);
    assert_int_equal(f->mesh->overlay.count[TIER_UPPER], MESH_SITE_MERGE);
    fixture_close(f);
}

static void three_stand_for_the_site(void **state)
{
    (void)state;
    for (uint32_t before = 0; before <= MESH_REPORTERS; before++) {
        struct fixture *const f = open_alone(128);
        add_near(f, before, 80 - before, false);
        fixture_run(f, 2 * MESH_SETTLE_MS);
        assert_int_equal(interior(f), before >= MESH_REPORTERS);
        uint32_t reporters = 0;
        for (uint32_t i = 0; i < f->peers; i++)
            reporters += overlay_reports(f->mesh, slot_of(f, i));
        assert_int_equal(reporters, before >= MESH_REPORTERS ? MESH_REPORTERS : MESH_REPORTERS - 1);
        fixture_close(f);
    }
}

static void the_next_one_takes_a_lost_reporters_place_at_once(void **state)
{
    (void)state;
    struct fixture *const f = open_interior();
    leave(f, 1, OWN_SITE);
    assert_false(interior(f));
    fixture_run(f, 2 * MESH_SETTLE_MS);
    assert_false(interior(f));
    assert_int_equal(f->mesh->members.slot[0].record.incarnation, 1);
    /* It comes back: we wait whether it stays. */
    f->silent[1] = false;
    give(f, &f->peer[1],
         (struct mesh_record){.kind = MESH_RECORD_MEMBER,
                              .origin = f->peer[1],
                              .incarnation = 2,
                              .version = 1,
                              .body.member = {.session = 6, .site = OWN_SITE}});
    f->incarnation[1] = 2;
    fixture_run(f, MESH_SETTLE_MS - 1);
    assert_false(interior(f));
    fixture_run(f, 1);
    assert_true(interior(f));
    fixture_close(f);
}

static void a_site_that_shrinks_meanwhile_begins_to_settle_anew(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(128);
    add_near(f, 3, MESH_SITE_SPLIT - 3, false);
    fixture_run(f, MESH_SETTLE_MS - 100);
    leave(f, f->peers - 1, OWN_SITE);
    fixture_run(f, 50);
    add_near(f, 0, 1, false);
    fixture_run(f, MESH_SETTLE_MS - 1);
    assert_false(interior(f));
    fixture_run(f, 1);
    assert_true(interior(f));
    fixture_close(f);
}

/* ------------------------------------------------------------------ who is where */

static void each_tier_has_its_own_rings_observers_and_rounds(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh *const mesh = f->mesh;
    const uint8_t upper = TIER_BIT(TIER_UPPER);
    const uint8_t site = TIER_BIT(TIER_SITE);
    assert_int_equal(tiers_of(mesh, mesh->members.self), upper | site);
    assert_int_equal(tiers_of(mesh, slot_of(f, 0)), upper | site);
    assert_int_equal(tiers_of(mesh, slot_of(f, NEAR_INTERIOR)), site);
    assert_int_equal(tiers_of(mesh, slot_of(f, FAR)), upper);
    assert_int_equal(mesh->overlay.count[TIER_UPPER], 3 + FARS);
    assert_int_equal(mesh->overlay.count[TIER_SITE], 71);
    assert_int_equal(overlay_count(mesh, slot_of(f, NEAR_INTERIOR)), 71);
    assert_int_equal(overlay_count(mesh, slot_of(f, 0)), 71); /* a reporter is observed in its site */
    assert_int_equal(overlay_count(mesh, slot_of(f, FAR)), 3 + FARS);
    assert_int_equal(tiers_shared(mesh, slot_of(f, NEAR_INTERIOR)), TIER_SITE);
    assert_int_equal(tiers_shared(mesh, slot_of(f, FAR)), TIER_UPPER);
    assert_int_equal(tiers_shared(mesh, MESH_NONE), TIER_UPPER);
    assert_int_equal(links_to(f, FAR, FARS),
                     FARS); /* nine in the upper tier: everyone is everyone's neighbour */
    assert_in_range(mesh->links.count, FARS + 2 + 4, MESH_LINKS_MAX);
    for (uint32_t i = 0; i < f->peers; i++)
        assert_false(tiers_guest(mesh, slot_of(f, i)));
    fixture_close(f);
}

static void the_interior_knows_its_site_and_guests(void **state)
{
    (void)state;
    struct fixture *const f = open_interior();
    const struct mesh_id id = numbered(5000);
    const uint32_t contact = add(f, &id, FAR_SITE, false);
    assert_int_equal(tiers_of(f->mesh, f->mesh->members.self), TIER_BIT(TIER_SITE));
    assert_int_equal(tiers_of(f->mesh, slot_of(f, 0)), TIER_BIT(TIER_SITE));
    assert_int_equal(tiers_of(f->mesh, slot_of(f, contact)), 0);
    assert_true(tiers_guest(f->mesh, slot_of(f, contact)));
    assert_int_equal(tiers_shared(f->mesh, slot_of(f, contact)), TIERS);
    assert_int_equal(tiers_shared(f->mesh, MESH_NONE), TIERS);
    assert_int_equal(f->mesh->overlay.count[TIER_UPPER], 0);
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &id, &view));
    assert_true(view.guest && !view.neighbour && !view.interior);
    fixture_close(f);
}

static void a_key_is_owned_within_its_tier(void **state)
{
    (void)state;
    for (uint32_t in = UPPER; in <= INTERIOR; in++) {
        struct fixture *const f = in == INTERIOR ? open_interior() : open_reporter();
        if (in == INTERIOR)
            add(f, &(struct mesh_id){{0x55}}, FAR_SITE, false);
        for (uint32_t k = 0; k < 200; k++) {
            const struct mesh_id key = numbered(7000 + k);
            struct mesh_id owner[2];
            struct mesh_member_view view;
            assert_int_equal(mesh_owners(f->mesh, &key, owner), 2);
            for (uint32_t i = 0; i < 2; i++) {
                assert_true(mesh_member_find(f->mesh, &owner[i], &view));
                assert_true(in == INTERIOR ? view.site == OWN_SITE : !view.interior);
            }
        }
        fixture_close(f);
    }
}

static void records_stay_in_their_tier(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const uint32_t near_links = links_to(f, 0, FAR);
    const uint32_t inside = links_to(f, NEAR_INTERIOR, FAR - NEAR_INTERIOR);
    const uint32_t reporters = links_to(f, 0, 2);
    /* Of our interior: inwards only. */
    uint32_t neighbour = NEAR_INTERIOR;
    while (!links_find(f->mesh, slot_of(f, neighbour)))
        neighbour++;
    set_interior(f, neighbour, OWN_SITE, true);
    assert_int_equal(sent_to(f, &f->peer[neighbour], 0, FAR), near_links - 1);
    assert_int_equal(sent_to(f, &f->peer[neighbour], FAR, FARS), 0);
    fixture_clear(f);
    /* Of the upper tier: to all that stand there. */
    set_interior(f, FAR, FAR_SITE, false);
    assert_int_equal(sent_to(f, &f->peer[FAR], 0, 2), reporters);
    assert_int_equal(sent_to(f, &f->peer[FAR], NEAR_INTERIOR, FAR - NEAR_INTERIOR), 0);
    assert_int_equal(sent_to(f, &f->peer[FAR], FAR, FARS), FARS - 1);
    fixture_clear(f);
    /* Of ourselves: to both. */
    fixture_step(f, &(struct mesh_event){.kind = MESH_ANNOUNCE});
    assert_int_equal(sent_to(f, &f->self, 0, 2), reporters);
    assert_int_equal(sent_to(f, &f->self, NEAR_INTERIOR, FAR - NEAR_INTERIOR), inside);
    assert_int_equal(sent_to(f, &f->self, FAR, FARS), FARS);
    fixture_close(f);
}

static void accusations_stay_where_their_subject_is(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    struct mesh_record alert = {
        .kind = MESH_RECORD_ALERT, .origin = f->peer[0], .incarnation = 1, .version = 1};
    alert.body.alert.subject = f->peer[NEAR_INTERIOR];
    alert.body.alert.subject_incarnation = 1;
    alert.body.alert.accuses = true;
    give(f, &f->peer[0], alert); /* a reporter is known everywhere, whom it accuses is not */
    uint32_t near = 0;
    uint32_t far = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        if (!message_at(f, i, MESH_PUSH) || f->send[i].message.body.push.record.kind != MESH_RECORD_ALERT)
            continue;
        *(peer_to(f, i) < FAR ? &near : &far) += 1;
    }
    assert_int_equal(far, 0);
    assert_int_equal(near, links_to(f, 0, FAR) - links_to(f, 0, 1));
    fixture_close(f);
}

static void whoever_leaves_the_upper_tier_is_told_of_there_once_more(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    set_interior(f, 0, OWN_SITE, true); /* one of our reporters */
    assert_int_equal(sent_to(f, &f->peer[0], FAR, FARS), FARS);
    fixture_clear(f);
    set_interior(f, FAR, FAR_SITE, true); /* one of another site, which thereby becomes a guest */
    assert_int_equal(sent_to(f, &f->peer[FAR], FAR, FARS), FARS - 1);
    assert_int_equal(sent_to(f, &f->peer[FAR], NEAR_INTERIOR, FAR - NEAR_INTERIOR), 0);
    assert_true(tiers_guest(f->mesh, slot_of(f, FAR)));
    fixture_close(f);
}

static void one_that_changes_its_tier_itself_says_so_to_both(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(512);
    add_near(f, 3, 0, false);
    add_near(f, 0, 66, true);
    for (uint32_t i = 0; i < FARS; i++) {
        const struct mesh_id id = numbered(3000 + i);
        add(f, &id, FAR_SITE + i, false);
    }
    link_all(f);
    fixture_clear(f);
    fixture_run(f, MESH_SETTLE_MS);
    assert_true(interior(f));
    assert_true(sent_to(f, &f->self, 69, FARS) >= 1); /* those beyond hear that we are gone from there */
    fixture_close(f);
}

/* ------------------------------------------------------------------------ guests */

static void guests_are_let_in_by_those_who_may(void **state)
{
    (void)state;
    struct fixture *const f = open_interior();
    const struct mesh_id contact = numbered(5000);
    const struct mesh_id worker = numbered(5001);
    const struct mesh_id third = numbered(5002);
    f->mesh->tiers.sought_until_ms = f->now_ms; /* it asked for contacts before it knew its reporters */
    struct mesh_record leaving = member_record(&contact, 1, GUEST_SITE, false);
    leaving.body.member.leaving = true;
    give(f, &contact, leaving);
    assert_false(knows(f, &contact));
    give(f, &contact, member_record(&contact, 1, GUEST_SITE, false)); /* introduces itself */
    assert_true(knows(f, &contact));
    give(f, &contact, member_record(&third, 1, GUEST_SITE, false)); /* a guest brings no others */
    assert_false(knows(f, &third));
    give(f, &f->peer[5], member_record(&third, 1, GUEST_SITE, false)); /* told by one of our site */
    assert_true(knows(f, &third));
    give(f, &f->peer[5],
         member_record(&worker, 1, GUEST_SITE, true)); /* the interior of another site is nobody's news */
    assert_false(knows(f, &worker));
    f->mesh->tiers.sought_until_ms = f->now_ms + 1;
    give(f, &contact, member_record(&worker, 1, GUEST_SITE, true)); /* an answer to our question */
    assert_true(knows(f, &worker));
    const struct mesh_id late = numbered(5003);
    f->mesh->tiers.sought_until_ms = f->now_ms;
    give(f, &contact, member_record(&late, 1, GUEST_SITE, true)); /* too late */
    assert_false(knows(f, &late));
    fixture_close(f);
}

/* Others may tell of the time before its latest record, of which only our disk knows. */
static void what_our_disk_knows_of_another_interior_is_kept_for_a_while(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh_id worker = numbered(5001);
    f->mesh->tiers.sought_until_ms = f->now_ms;
    give(f, &f->self, member_record(&worker, 2, GUEST_SITE, true));
    assert_true(tiers_guest(f->mesh, members_find(f->mesh, &worker)));
    struct mesh_save save;
    while (fixture_saved(f, MESH_SAVE_RECORD, &save))
        continue;
    give(f, &f->peer[FAR], member_record(&worker, 1, GUEST_SITE, false));
    assert_true(tiers_guest(f->mesh, members_find(f->mesh, &worker)));
    assert_false(fixture_saved(f, MESH_SAVE_RECORD, &save));
    fixture_close(f);
}

static void the_upper_tier_takes_its_own_from_anybody(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh_id contact = numbered(5000);
    const struct mesh_id worker = numbered(5001);
    f->mesh->tiers.sought_until_ms = f->now_ms;
    give(f, &f->peer[FAR], member_record(&contact, 1, GUEST_SITE, false));
    assert_true(knows(f, &contact));
    assert_false(tiers_guest(f->mesh, members_find(f->mesh, &contact)));
    give(f, &f->peer[FAR], member_record(&worker, 1, GUEST_SITE, true));
    assert_false(knows(f, &worker));
    give(f, &worker, member_record(&worker, 1, GUEST_SITE, true));
    assert_true(tiers_guest(f->mesh, members_find(f->mesh, &worker)));
    const struct mesh_id near = numbered(5002);
    give(f, &f->peer[FAR], member_record(&near, 1, OWN_SITE, true)); /* whoever tells of our own */
    assert_true(knows(f, &near));
    fixture_close(f);
}

static void the_guest_of_whom_nothing_was_heard_for_longest_gives_way(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    for (uint32_t i = 0; i < MESH_GUESTS_MAX; i++) {
        const struct mesh_id id = numbered(10000 + i);
        f->now_ms++;
        give(f, &id, member_record(&id, 1, GUEST_SITE, true));
        assert_true(knows(f, &id));
    }
    const uint32_t members = f->mesh->members.count;
    const struct mesh_id first = numbered(10000);
    const struct mesh_id second = numbered(10001);
    assert_true(knows(f, &first));
    f->now_ms++;
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = first; /* it says something */
    event.body.received.message = &(struct mesh_message){.kind = MESH_PING};
    fixture_step(f, &event);
    const struct mesh_id more = numbered(20000);
    give(f, &more, member_record(&more, 1, GUEST_SITE, true));
    assert_true(knows(f, &more) && knows(f, &first));
    assert_false(knows(f, &second));
    assert_int_equal(f->mesh->members.count, members);
    /* Whoever comes and goes, all others are found: each step checks that. */
    for (uint32_t i = 1; i < 600; i++) {
        const struct mesh_id next = numbered(20000 + i);
        f->now_ms++;
        give(f, &next, member_record(&next, 1, GUEST_SITE, true));
        assert_true(knows(f, &next));
        fixture_clear(f);
    }
    assert_int_equal(f->mesh->members.count, members);
    fixture_close(f);
}

static void guests_are_forgotten_in_time(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh_id id = numbered(5000);
    const uint32_t guest = add(f, &id, GUEST_SITE, true);
    f->silent[guest] = true;
    fixture_capacity(f, guest, 4, 4, 0);
    struct mesh_member_view view;
    const int64_t came_ms = f->now_ms;
    pass(f, MESH_SWEEP_MS - 1000);
    assert_true(mesh_member_find(f->mesh, &id, &view) && view.capacity_at_ms != 0);
    pass(f, MESH_SWEEP_MS + 1000);
    assert_true(mesh_member_find(f->mesh, &id, &view) && view.capacity_at_ms == 0); /* old news of places */
    pass(f, came_ms + MESH_GUEST_MS - 1000 - f->now_ms);
    assert_true(knows(f, &id));
    pass(f, MESH_SWEEP_MS + 1000);
    assert_false(knows(f, &id));
    assert_true(knows(f, &f->peer[FAR])); /* those of our tiers stay */
    fixture_close(f);
}

static void nobody_accuses_a_guest(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh_id id = numbered(5000);
    const uint32_t guest = add(f, &id, GUEST_SITE, true);
    for (uint32_t i = 0; i < 3; i++) {
        struct mesh_record alert = {
            .kind = MESH_RECORD_ALERT, .origin = f->peer[FAR + i], .incarnation = 1, .version = 1};
        alert.body.alert.subject = id;
        alert.body.alert.subject_incarnation = 1;
        alert.body.alert.accuses = true;
        give(f, &f->peer[FAR + i], alert);
        alert.origin = id; /* and a guest's word counts for nothing */
        alert.version = i + 1;
        alert.body.alert.subject = f->peer[FAR];
        give(f, &id, alert);
    }
    struct mesh_member_view view;
    assert_true(mesh_member_find(f->mesh, &id, &view));
    assert_int_equal(view.accusers, 0);
    assert_int_equal(view.state, MESH_UP);
    assert_true(mesh_member_find(f->mesh, &f->peer[FAR], &view));
    assert_int_equal(view.accusers, 0);
    assert_int_equal(guest, FAR + FARS);
    fixture_close(f);
}

static void our_site_hears_of_contacts(void **state)
{
    (void)state;
    /* From one that introduces itself to the interior... */
    struct fixture *f = open_interior();
    const struct mesh_id id = numbered(5000);
    const uint32_t inside = links_to(f, 3, 66);
    assert_true(inside > 0);
    add(f, &id, FAR_SITE, false);
    assert_int_equal(sent_to(f, &id, 3, 66), inside);
    assert_int_equal(sent_to(f, &id, 0, 3), links_to(f, 0, 3)); /* for them it is one of their tier */
    fixture_close(f);
    /* ... and from a reporter, now and then. */
    f = open_reporter();
    const uint32_t within = links_to(f, NEAR_INTERIOR, FAR - NEAR_INTERIOR);
    uint32_t told = 0;
    for (int64_t ms = 0; ms < 2 * MESH_INTRODUCE_MS; ms += 5000) {
        fixture_run(f, 5000);
        for (uint32_t i = 0; i < FARS; i++) {
            const uint32_t of_it = sent_to(f, &f->peer[FAR + i], NEAR_INTERIOR, FAR - NEAR_INTERIOR);
            assert_true(of_it == 0 || of_it == within);
            told += of_it > 0;
        }
        fixture_clear(f);
    }
    assert_int_equal(told, 2);
    fixture_close(f);
}

/* ------------------------------------------------------------------------ asking */

/* WANTs that name no origin; `entry` is the latest of them. */
static uint32_t questions(const struct fixture *f, enum mesh_record_kind kind, struct mesh_entry *entry)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->send_count; i++) {
        const struct mesh_message *const message = message_at(f, i, MESH_WANT);
        if (!message || message->body.entries.count != 1 ||
            !id_equal(&message->body.entries.entry[0].origin, &(struct mesh_id){0}) ||
            message->body.entries.entry[0].kind != kind)
            continue;
        *entry = message->body.entries.entry[0];
        count++;
    }
    return count;
}

static void a_reporter_without_contacts_asks_for_some(void **state)
{
    (void)state;
    struct fixture *const f = open_alone(512);
    struct mesh_entry entry;
    add_near(f, 2, 0, false);
    add_near(f, 0, 68, true);
    link_all(f);
    fixture_clear(f);
    fixture_run(f, 5 * MESH_CONTACT_MS);
    assert_int_equal(questions(f, MESH_RECORD_MEMBER, &entry), 5);
    const struct mesh_id contact = numbered(3000);
    give(f, &f->peer[20], member_record(&contact, 1, FAR_SITE, false)); /* an answer */
    fixture_clear(f);
    fixture_run(f, 5 * MESH_CONTACT_MS);
    assert_int_equal(questions(f, MESH_RECORD_MEMBER, &entry), 0);
    fixture_close(f);
    /* In a site that is whole nobody asks. */
    struct fixture *const small = open_alone(128);
    add_near(small, 3, 10, false);
    link_all(small);
    fixture_clear(small);
    fixture_run(small, 5 * MESH_CONTACT_MS);
    assert_int_equal(questions(small, MESH_RECORD_MEMBER, &entry), 0);
    fixture_close(small);
}

static void ask(struct fixture *f, uint32_t from, struct mesh_entry entry)
{
    struct mesh_message message = {.kind = MESH_WANT};
    message.body.entries.count = 1;
    message.body.entries.entry[0] = entry;
    fixture_clear(f);
    fixture_message(f, from, &message);
}

/* The peers of whom the asker was sent the member record. */
static uint32_t named(const struct fixture *f, uint32_t to, uint32_t first, uint32_t count)
{
    uint32_t of = 0;
    for (uint32_t i = first; i < first + count; i++)
        of += sent_to(f, &f->peer[i], to, 1);
    return of;
}

static void contacts_are_named_to_who_asks(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    for (uint32_t i = 0; i < 6; i++) {
        const struct mesh_id id = numbered(3100 + i);
        add(f, &id, FAR_SITE + 10 + i, false);
    }
    const struct mesh_entry any = {.kind = MESH_RECORD_MEMBER};
    ask(f, NEAR_INTERIOR, any);
    assert_int_equal(named(f, NEAR_INTERIOR, 0, f->peers) + sent_to(f, &f->self, NEAR_INTERIOR, 1),
                     MESH_REFERRED_MAX);
    assert_int_equal(named(f, NEAR_INTERIOR, NEAR_INTERIOR, FAR - NEAR_INTERIOR), 0);
    for (uint32_t i = 0; i < f->peers; i++) /* each once */
        assert_in_range(named(f, NEAR_INTERIOR, i, 1), 0, 1);
    assert_in_range(sent_to(f, &f->self, NEAR_INTERIOR, 1), 0, 1);
    ask(f, FAR, any);
    assert_int_equal(sent_to(f, &f->peer[FAR], FAR, 1), 0); /* not itself */
    assert_int_equal(named(f, FAR, 0, f->peers) + sent_to(f, &f->self, FAR, 1), MESH_REFERRED_MAX);
    ask(f, FAR, (struct mesh_entry){.kind = 99});
    assert_int_equal(f->send_count, 0);
    fixture_close(f);
}

static void offer(struct fixture *f, uint32_t peer, uint16_t vacant, uint32_t behind)
{
    struct mesh_record record = {.kind = MESH_RECORD_CAPACITY};
    record.body.capacity.class[0] = (struct mesh_class_capacity){.slots = 9, .free = vacant};
    record.body.capacity.site.free[0] = behind;
    fixture_record(f, peer, record);
}

/* What a reporter says of its site changes with the site's interior alone. */
static void a_digest_is_due_when_the_interior_says_something_new(void **state)
{
    (void)state;
    static const uint32_t peers[] = {FAR, 0, NEAR_INTERIOR};
    struct fixture *const f = open_reporter();
    fixture_run(f, 2 * MESH_DIGEST_MS);
    offer(f, NEAR_INTERIOR, 1, 0); /* the next one is not told before MESH_DIGEST_MS have passed */
    assert_false(f->mesh->tiers.digest_due);
    for (uint32_t i = 0; i < 3; i++) {
        offer(f, peers[i], 3, 0);
        assert_int_equal(f->mesh->tiers.digest_due, peers[i] == NEAR_INTERIOR);
    }
    fixture_close(f);
}

static void places_are_named_to_who_asks(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    struct mesh_entry entry = {.kind = MESH_RECORD_CAPACITY, .incarnation = 1, .version = 1000};
    ask(f, NEAR_INTERIOR, entry);
    assert_int_equal(f->send_count, 0); /* nobody has any */
    offer(f, FAR, 3, 0);
    offer(f, FAR + 1, 0, 5); /* it has none, its site has */
    offer(f, FAR + 2, 0, 0);
    offer(f, NEAR_INTERIOR + 1, 4, 0);
    offer(f, 0, 0, 7);
    const uint64_t before = mesh_counters(f->mesh)->referrals;
    ask(f, NEAR_INTERIOR, entry); /* to a home of our site: others' */
    assert_int_equal(named(f, NEAR_INTERIOR, 0, f->peers), 2);
    assert_int_equal(
        sent_to(f, &f->peer[FAR], NEAR_INTERIOR, 1) + sent_to(f, &f->peer[FAR + 1], NEAR_INTERIOR, 1), 2);
    uint32_t capacities = 0;
    for (uint32_t i = 0; i < f->send_count; i++)
        capacities +=
            message_at(f, i, MESH_PUSH) && f->send[i].message.body.push.record.kind == MESH_RECORD_CAPACITY;
    assert_int_equal(capacities, 2);
    assert_int_equal(mesh_counters(f->mesh)->referrals - before, 2);
    ask(f, FAR, entry); /* to others: those of our site, and what they have themselves */
    assert_int_equal(named(f, FAR, 0, f->peers), 1);
    assert_int_equal(sent_to(f, &f->peer[NEAR_INTERIOR + 1], FAR, 1), 1);
    entry.incarnation = 2; /* a class that nobody has */
    ask(f, NEAR_INTERIOR, entry);
    assert_int_equal(f->send_count, 0);
    fixture_close(f);
}

static void no_more_places_are_named_than_are_wanted(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    struct mesh_entry entry = {.kind = MESH_RECORD_CAPACITY, .incarnation = 1};
    for (uint32_t i = 0; i < 20; i++)
        offer(f, NEAR_INTERIOR + i, 2, 0);
    static const struct {
        uint64_t wanted;
        uint32_t named;
    } cases[] = {{0, 0}, {1, 1}, {2, 1}, {3, 2}, {4, 2}, {1000, MESH_REFERRED_MAX}};
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        entry.version = cases[i].wanted;
        ask(f, FAR, entry);
        assert_int_equal(named(f, FAR, 0, f->peers), cases[i].named);
    }
    fixture_close(f);
}

static struct step step_of(struct fixture *f)
{
    f->out->save_count = f->out->send_count = f->out->effect_count = 0;
    return (struct step){.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms, .wall_ms = FIXTURE_WALL_MS};
}

/* Whom the core asks for places when a job wants more than are known; MESH_NONE if nobody. */
static uint32_t seeks(struct fixture *f)
{
    struct step step = step_of(f);
    tiers_seek(&step, 1, 12);
    if (f->out->send_count == 0)
        return MESH_NONE;
    assert_int_equal(f->out->send_count, 1);
    const struct mesh_message *const message = &f->out->send[0].message;
    assert_int_equal(message->kind, MESH_WANT);
    assert_int_equal(message->body.entries.entry[0].kind, MESH_RECORD_CAPACITY);
    assert_int_equal(message->body.entries.entry[0].incarnation, 1);
    assert_int_equal(message->body.entries.entry[0].version, 12);
    assert_int_equal(f->mesh->tiers.sought_until_ms, f->now_ms + MESH_SOUGHT_MS);
    for (uint32_t i = 0; i < f->peers; i++) {
        if (id_equal(&f->peer[i], &f->out->send[0].to))
            return i;
    }
    fail();
    return MESH_NONE;
}

static void sites_that_have_places_are_asked_for_them(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    assert_int_equal(seeks(f), MESH_NONE); /* nobody says that it has any */
    offer(f, 0, 4, 9);                     /* our own site's places are known */
    offer(f, FAR + 1, 4, 0);               /* and these too: it has them itself */
    f->now_ms += MESH_SEEK_MS;
    assert_int_equal(seeks(f), MESH_NONE);
    offer(f, FAR + 2, 0, 5);
    offer(f, FAR + 4, 0, 1);
    uint32_t asked = 0;
    for (uint32_t i = 0; i < 20; i++) {
        f->now_ms += MESH_SEEK_MS - 1;
        assert_int_equal(seeks(f), MESH_NONE); /* not so soon again */
        f->now_ms++;
        const uint32_t peer = seeks(f);
        assert_true(peer == FAR + 2 || peer == FAR + 4);
        asked |= 1u << (peer - FAR);
    }
    assert_int_equal(asked, 1u << 2 | 1u << 4);
    assert_int_equal(mesh_counters(f->mesh)->seeks, 20);
    fixture_close(f);
}

static void the_interior_asks_its_reporters(void **state)
{
    (void)state;
    struct fixture *const f = open_interior();
    uint32_t asked = 0;
    for (uint32_t i = 0; i < 40; i++) {
        f->now_ms += MESH_SEEK_MS;
        const uint32_t peer = seeks(f);
        assert_true(peer < 3);
        asked |= 1u << peer;
    }
    assert_int_equal(asked, 7);
    /* A site that it knows of is asked itself, mostly. */
    const struct mesh_id id = numbered(5000);
    const uint32_t contact = add(f, &id, FAR_SITE, false);
    offer(f, contact, 0, 8);
    uint32_t known = 0;
    for (uint32_t i = 0; i < 100; i++) {
        f->now_ms += MESH_SEEK_MS;
        const uint32_t peer = seeks(f);
        assert_true(peer < 3 || peer == contact);
        known += peer == contact;
    }
    assert_in_range(known, 55, 92); /* three of four */
    fixture_close(f);
}

/* ------------------------------------------------------------------ the site's sum */

static void a_reporter_sums_up_its_site(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    fixture_run(f, MESH_CAPACITY_MAX_MS + MESH_CAPACITY_MAX_MS_EACH * 81); /* nothing changes meanwhile */
    const struct mesh_capacity *const said = &f->mesh->gossip.announced;
    assert_int_equal(said->site.members, 68);
    assert_int_equal(said->site.slots[0], 0);
    fixture_capacity(f, NEAR_INTERIOR, 4, 3, 0);
    struct mesh_record priced = {.kind = MESH_RECORD_CAPACITY};
    priced.body.capacity.class[0] = (struct mesh_class_capacity){.slots = 2, .free = 1};
    priced.body.capacity.price_micro = UINT32_MAX; /* no places */
    fixture_record(f, NEAR_INTERIOR + 1, priced);
    fixture_capacity(f, 0, 8, 8, 0);     /* a reporter speaks for itself */
    fixture_capacity(f, FAR, 16, 16, 0); /* and so does another site */
    struct mesh_record draining = {.kind = MESH_RECORD_CAPACITY};
    draining.body.capacity.class[0] = (struct mesh_class_capacity){.slots = 32, .free = 32};
    draining.body.capacity.draining = true;
    fixture_record(f, NEAR_INTERIOR + 2, draining);
    fixture_run(f, MESH_DIGEST_MS + 1000);
    assert_int_equal(said->site.slots[0], 6);
    assert_int_equal(said->site.free[0], 4);
    assert_int_equal(said->site.slots[1], 0);
    assert_int_equal(said->site.members, 68);
    /* Not for each change. */
    const uint64_t version = f->mesh->gossip.capacity_version;
    for (uint32_t i = 0; i < 20; i++) {
        fixture_capacity(f, NEAR_INTERIOR, 4, i % 4, 0);
        fixture_run(f, 500);
    }
    assert_in_range(f->mesh->gossip.capacity_version - version, 1, 10000 / MESH_DIGEST_MS + 1);
    /* Who left counts no more, and nobody twice. */
    leave(f, NEAR_INTERIOR + 3, OWN_SITE);
    f->mesh->overlay.ring[TIER_SITE][0][f->mesh->overlay.count[TIER_SITE]] =
        members_find(f->mesh, &f->peer[NEAR_INTERIOR]); /* as one that left may have left it */
    fixture_capacity(f, NEAR_INTERIOR, 4, 4, 0);
    fixture_run(f, MESH_DIGEST_MS + 1000);
    assert_int_equal(said->site.members, 67);
    fixture_close(f);
    /* Who is in the interior sums up nothing. */
    struct fixture *const inside = open_interior();
    fixture_capacity(inside, 10, 4, 3, 0);
    fixture_run(inside, MESH_DIGEST_MS + 40000);
    assert_int_equal(inside->mesh->gossip.announced.site.members, 0);
    assert_int_equal(inside->mesh->gossip.announced.site.slots[0], 0);
    fixture_close(inside);
}

/* ------------------------------------------------------------------------- rounds */

static uint32_t answers(const struct fixture *f, enum mesh_message_kind kind)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->send_count; i++)
        count += message_at(f, i, kind) != NULL;
    return count;
}

static void rounds_compare_what_both_are_told_of(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    const struct mesh_id id = numbered(5000);
    const uint32_t guest = add(f, &id, GUEST_SITE, true);
    const struct mesh_message summary = {.kind = MESH_SUMMARY};
    fixture_clear(f);
    fixture_message(f, guest, &summary);
    assert_int_equal(answers(f, MESH_ENTRIES), 0); /* a guest is told nothing */
    f->out->send_count = 0;
    struct step step = {.mesh = f->mesh, .out = f->out, .now_ms = f->now_ms};
    rounds_summarize(&step, &id); /* nor asked anything */
    assert_int_equal(f->out->send_count, 0);
    rounds_summarize(&step, &f->peer[FAR]);
    assert_int_equal(f->out->send_count, 1);
    static const uint32_t asker[] = {FAR, NEAR_INTERIOR};
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t near = 0;
        uint32_t far = 0;
        fixture_clear(f);
        fixture_message(f, asker[k], &summary);
        for (uint32_t i = 0; i < f->send_count; i++) {
            const struct mesh_message *const message = message_at(f, i, MESH_ENTRIES);
            for (uint32_t j = 0; message && j < message->body.entries.count; j++) {
                const struct mesh_id *const origin = &message->body.entries.entry[j].origin;
                const struct member *const member = &f->mesh->members.slot[members_find(f->mesh, origin)];
                *(member->record.site == OWN_SITE ? &near : &far) += 1;
                assert_true(k == 1 || !member->interior);
            }
        }
        assert_int_equal(far, k == 0 ? FARS : 0);
        assert_int_equal(near, k == 0 ? 3 : 71);
    }
    fixture_close(f);
}

/* A peer's list of guests in older versions once drew more answers than a step has room for. */
static void no_list_of_a_peer_overfills_a_step(void **state)
{
    (void)state;
    struct fixture *const f = open_reporter();
    struct mesh_message entries = {.kind = MESH_ENTRIES};
    struct mesh_message want = {.kind = MESH_WANT};
    entries.body.entries.count = want.body.entries.count = MESH_ENTRIES_MAX;
    for (uint32_t i = 0; i < MESH_ENTRIES_MAX; i++) {
        const struct mesh_id id = numbered(10000 + i);
        give(f, &id, member_record(&id, 9, GUEST_SITE, true));
        give(
            f, &id,
            (struct mesh_record){.kind = MESH_RECORD_CAPACITY, .origin = id, .incarnation = 1, .version = 9});
        entries.body.entries.entry[i] =
            (struct mesh_entry){.origin = id, .kind = MESH_RECORD_MEMBER, .incarnation = 1, .version = 1};
        want.body.entries.entry[i] = entries.body.entries.entry[i];
    }
    entries.body.entries.buckets = UINT64_MAX; /* whatever else we hold it lacks */
    fixture_clear(f);
    fixture_message(f, FAR, &entries);
    assert_int_equal(answers(f, MESH_PUSH), 2 * MESH_REPAIRS_MAX);
    /* Questions that each may draw several answers, and then ones for records. */
    for (uint32_t i = 0; i < 30; i++)
        offer(f, NEAR_INTERIOR + i, 2, 0);
    for (uint32_t zeros = 0; zeros <= MESH_ENTRIES_MAX; zeros++) {
        for (uint32_t i = 0; i < zeros; i++)
            want.body.entries.entry[i] =
                (struct mesh_entry){.kind = MESH_RECORD_CAPACITY, .incarnation = 1, .version = 1000};
        fixture_clear(f);
        fixture_message(f, FAR, &want);
        assert_true(answers(f, MESH_PUSH) >= 1);
    }
    assert_in_range(mesh_counters(f->mesh)->bound_out, 1, 100);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_site_splits_beyond_its_bound),
        cmocka_unit_test(it_is_one_again_below_a_lower_bound),
        cmocka_unit_test(the_rings_of_a_site_are_kept_from_the_lower_bound_on),
        cmocka_unit_test(three_stand_for_the_site),
        cmocka_unit_test(the_next_one_takes_a_lost_reporters_place_at_once),
        cmocka_unit_test(a_site_that_shrinks_meanwhile_begins_to_settle_anew),
        cmocka_unit_test(each_tier_has_its_own_rings_observers_and_rounds),
        cmocka_unit_test(the_interior_knows_its_site_and_guests),
        cmocka_unit_test(a_key_is_owned_within_its_tier),
        cmocka_unit_test(records_stay_in_their_tier),
        cmocka_unit_test(accusations_stay_where_their_subject_is),
        cmocka_unit_test(whoever_leaves_the_upper_tier_is_told_of_there_once_more),
        cmocka_unit_test(one_that_changes_its_tier_itself_says_so_to_both),
        cmocka_unit_test(guests_are_let_in_by_those_who_may),
        cmocka_unit_test(what_our_disk_knows_of_another_interior_is_kept_for_a_while),
        cmocka_unit_test(the_upper_tier_takes_its_own_from_anybody),
        cmocka_unit_test(the_guest_of_whom_nothing_was_heard_for_longest_gives_way),
        cmocka_unit_test(guests_are_forgotten_in_time),
        cmocka_unit_test(nobody_accuses_a_guest),
        cmocka_unit_test(our_site_hears_of_contacts),
        cmocka_unit_test(a_reporter_without_contacts_asks_for_some),
        cmocka_unit_test(contacts_are_named_to_who_asks),
        cmocka_unit_test(a_digest_is_due_when_the_interior_says_something_new),
        cmocka_unit_test(places_are_named_to_who_asks),
        cmocka_unit_test(no_more_places_are_named_than_are_wanted),
        cmocka_unit_test(sites_that_have_places_are_asked_for_them),
        cmocka_unit_test(the_interior_asks_its_reporters),
        cmocka_unit_test(a_reporter_sums_up_its_site),
        cmocka_unit_test(rounds_compare_what_both_are_told_of),
        cmocka_unit_test(no_list_of_a_peer_overfills_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
