/* Membership, failure detection and gossip of the core, over a small network in virtual time. */
#include "mesh/internal.h"

#include "mesh_net.h"

#include "mesh_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint64_t base_seed = 1;

static struct net *make_mesh(uint32_t count)
{
    struct net *const net = net_open(base_seed);
    for (uint32_t i = 0; i < count; i++)
        net_add(net);
    net_introduce_all(net);
    net_run(net, 12000);
    assert_true(net_whole(net));
    return net;
}

static void end(struct net *net)
{
    net_run(net, 1000);
    net_check_handles(net);
    net_close(net);
}

static const struct mesh_counters *counters(const struct net *net, uint32_t node)
{
    return mesh_counters(net->node[node].mesh);
}

static uint64_t incarnation(const struct net *net, uint32_t viewer, uint32_t subject)
{
    struct mesh_member_view view;
    assert_true(net_view(net, viewer, subject, &view));
    return view.incarnation;
}

/* Runs until the viewer sees the subject so, and returns how long that took. */
static int64_t run_until(struct net *net, uint32_t viewer, uint32_t subject, enum mesh_member_state state,
                         int64_t most_ms)
{
    const int64_t from_ms = net->now_ms;
    while (net_state(net, viewer, subject) != state) {
        if (net->now_ms - from_ms >= most_ms)
            fail_msg("node %u sees node %u in state %d after %lld ms, not %d", viewer, subject,
                     net_state(net, viewer, subject), (long long)most_ms, state);
        net_run(net, 100);
    }
    return net->now_ms - from_ms;
}

static void check_whole(const struct net *net)
{
    for (uint32_t i = 0; i < net->count; i++) {
        for (uint32_t j = 0; j < net->count; j++) {
            if (net->node[i].mesh && net->node[j].mesh && net_state(net, i, j) != MESH_UP)
                fail_msg("seed %llu, %u nodes, at %lld ms: node %u sees node %u in state %d",
                         (unsigned long long)net->seed, net->count, (long long)net->now_ms, i, j,
                         net_state(net, i, j));
        }
    }
}

static void give(struct net *net, uint32_t node, uint32_t from, struct mesh_record record)
{
    struct mesh_event event = {.kind = MESH_RECORD};
    event.body.record.from = net->node[from].id;
    record.handle = net_handle(net, node, &record, 0);
    event.body.record.record = record;
    net_step(net, node, &event);
}

static struct mesh_record member_record(const struct mesh_id *id, uint64_t number, uint64_t session)
{
    return (struct mesh_record){.kind = MESH_RECORD_MEMBER,
                                .origin = *id,
                                .incarnation = number,
                                .version = 1,
                                .body.member = {.session = session, .site = 7, .region = 7}};
}

static struct mesh_record revocation_of(const struct mesh_id *issuer, const struct mesh_id *subject)
{
    return (struct mesh_record){.kind = MESH_RECORD_REVOCATION,
                                .origin = *issuer,
                                .incarnation = 1,
                                .version = 1,
                                .body.revocation.subject = *subject};
}

static struct mesh_id stranger(uint32_t number)
{
    struct mesh_id id = {{0xee}};
    memcpy(id.bytes + 1, &number, sizeof number);
    return id;
}

/* ------------------------------------------------------------------ trees */

static uint64_t redundant_copies(const struct net *net)
{
    uint64_t copies = 0;
    for (uint32_t i = 0; i < net->count; i++)
        copies += mesh_counters(net->node[i].mesh)->copies_redundant;
    return copies;
}

/* The version of the MEMBER record that a node holds of another. */
static uint64_t version_of(const struct net *net, uint32_t viewer, uint32_t subject)
{
    struct mesh_member_view view;
    assert_true(net_view(net, viewer, subject, &view));
    return net->node[viewer].handle[view.record_handle - 1].record.version;
}

static void announce(struct net *net, uint32_t node, int64_t for_ms)
{
    struct mesh_event event = {.kind = MESH_ANNOUNCE};
    net_step(net, node, &event);
    net_run(net, for_ms);
}

static void records_travel_along_a_tree_of_their_origin(void **state)
{
    (void)state;
    struct net *const net = make_mesh(14);
    for (uint32_t i = 0; i < 4; i++)
        announce(net, 3, 2000);
    const uint64_t before = redundant_copies(net);
    announce(net, 3, 1000);
    assert_true(redundant_copies(net) - before <= 2); /* as many copies as nodes, or hardly more */
    for (uint32_t viewer = 0; viewer < net->count; viewer++) {
        assert_int_equal(version_of(net, viewer, 3), version_of(net, 3, 3));
        uint32_t come = 0;
        uint32_t told = 0;
        uint32_t copies = 0;
        uint32_t links = 0;
        for (uint32_t other = 0; other < net->count; other++) {
            struct mesh_link_view view;
            if (!mesh_link_view(net->node[viewer].mesh, &net->node[other].id, &view))
                continue;
            assert_int_equal(view.protocol, MESH_PROTOCOL_MAX);
            come += view.trees_from;
            told += view.lazy;
            copies += view.trees_to;
            links++;
            /* Of each origin but the neighbour itself; its own records come from it, or not. */
            assert_in_range(view.trees_from + view.lazy + view.trees_to, net->count - 1, net->count);
        }
        assert_true(come >= 1 && come < net->count && told >= 1);
        assert_true(copies >= links); /* our own records at least go over all */
    }
    end(net);
}

static void a_record_whose_branch_is_cut_is_asked_for(void **state)
{
    (void)state;
    struct net *const net = make_mesh(14);
    for (uint32_t i = 0; i < 4; i++)
        announce(net, 3, 2000);
    /* Five of its links carry nothing any more, and nobody has noticed yet. */
    struct mesh_member_view view;
    uint32_t cut = 0;
    for (uint32_t other = 0; other < net->count && cut < 5; other++) {
        if (net_view(net, 3, other, &view) && view.neighbour) {
            net->cut[3][other] = net->cut[other][3] = true;
            cut++;
        }
    }
    announce(net, 3, 6 * MESH_GRAFT_MS + 500); /* who told of it may have to ask for it first */
    for (uint32_t viewer = 0; viewer < net->count; viewer++)
        assert_int_equal(version_of(net, viewer, 3), version_of(net, 3, 3));
    uint64_t grafts = 0;
    for (uint32_t i = 0; i < net->count; i++)
        grafts += mesh_counters(net->node[i].mesh)->grafts_missing;
    assert_true(grafts >= 1);
    memset(net->cut, 0, sizeof net->cut);
    end(net);
}

/* ------------------------------------------------------------------ joining */

static void joiner_learns_all_members_from_one(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {2, 3, 9, 12};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct net *const net = make_mesh(sizes[i]);
        for (uint32_t viewer = 0; viewer < sizes[i]; viewer++) {
            for (uint32_t other = 0; other < sizes[i]; other++) {
                struct mesh_member_view view;
                assert_true(net_view(net, viewer, other, &view));
                assert_true(view.capacity_at_ms > 0);
                assert_true(view.self || !view.neighbour || (view.link_up && view.rtt_us > 0));
                assert_true(sizes[i] > MESH_FULL_MESH || view.self || view.neighbour);
            }
        }
        end(net);
    }
}

static void mesh_at_rest_sends_little(void **state)
{
    (void)state;
    struct net *const net = make_mesh(9);
    const uint64_t sent = net->sent;
    const uint32_t steps = net->node[0].steps;
    net_run(net, 60000);
    /* 36 links with a ping and a pong per second, a summary per node every 5 s, a capacity per node every 30
     * s. */
    assert_true(net->sent - sent < 60 * (36 * 3 + 9 + 9 * 8));
    assert_true(net->node[0].steps - steps < 60 * 60);
    assert_int_equal(counters(net, 0)->alerts_sent, 0);
    end(net);
}

/* -------------------------------------------------------------------- death */

static void dead_member_is_down_everywhere(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {2, 3, 5, 12};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct net *const net = make_mesh(sizes[i]);
        net_kill(net, 1, false);
        assert_true(run_until(net, 0, 1, MESH_DOWN, 12000) >= MESH_LINK_SILENT_MS - MESH_PING_MS);
        net_run(net, 1000);
        for (uint32_t viewer = 2; viewer < sizes[i]; viewer++)
            assert_int_equal(net_state(net, viewer, 1), MESH_DOWN);
        end(net);
    }
}

static void reset_link_makes_death_known_sooner(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net_kill(net, 2, true);
    assert_true(run_until(net, 0, 2, MESH_DOWN, 3000) >= MESH_SUSPECT_PLAIN_MS);
    end(net);
}

static void restarted_member_is_up_in_a_new_incarnation(void **state)
{
    (void)state;
    struct net *const net = make_mesh(5);
    const uint64_t before = incarnation(net, 0, 4);
    net_kill(net, 4, false);
    run_until(net, 0, 4, MESH_DOWN, 12000);
    net_start(net, 4, false);
    run_until(net, 0, 4, MESH_UP, 35000);
    assert_true(incarnation(net, 0, 4) > before);
    assert_true(counters(net, 0)->resurrections == 1);
    net_run(net, 10000);
    assert_true(net_whole(net));
    end(net);
}

static void quick_restart_is_no_death(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net_kill(net, 2, false);
    net_run(net, 500);
    net_start(net, 2, false);
    net_run(net, 15000);
    assert_true(net_whole(net));
    assert_int_equal(counters(net, 0)->downs, 0);
    end(net);
}

/* A joiner that is given the record of a dead member must not take it for living for ever. */
static void joiner_finds_out_about_the_dead(void **state)
{
    (void)state;
    struct net *const net = make_mesh(5);
    struct mesh_member_view view;
    assert_true(net_view(net, 0, 4, &view));
    const struct mesh_record record = net->node[0].handle[view.record_handle - 1].record;
    net_kill(net, 4, false);
    net_run(net, 40000);
    const uint32_t joiner = net_add(net);
    net_introduce(net, joiner, 0);
    give(net, joiner, 0, record);
    assert_int_equal(net_state(net, joiner, 4), MESH_UP);
    run_until(net, joiner, 4, MESH_DOWN, 20000);
    assert_int_equal(net_state(net, 0, joiner), MESH_UP);
    end(net);
}

/* Verdicts about observers of each other once turned each other over within one instant, without end. */
static void verdicts_come_to_rest_whoever_accuses_whom(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 64;
    net_add(net);
    net_run(net, 10);
    struct mesh_id id[24];
    for (uint32_t i = 0; i < 24; i++) {
        id[i] = stranger(i);
        give(net, 0, 0, member_record(&id[i], 1, 9));
    }
    for (uint64_t version = 1; version < 3000; version++) {
        struct mesh_record alert = {.kind = MESH_RECORD_ALERT,
                                    .origin = id[net_random(net, 24)],
                                    .incarnation = 1,
                                    .version = version};
        alert.body.alert.subject = id[net_random(net, 24)];
        alert.body.alert.subject_incarnation = 1;
        alert.body.alert.accuses = net_random(net, 3) > 0;
        give(net, 0, 0, alert);
        for (uint32_t ticks = 0; net->node[0].wake_at_ms <= net->now_ms; ticks++) {
            assert_true(ticks < 100);
            net_step(net, 0, &(struct mesh_event){.kind = MESH_TICK});
        }
    }
    net_close(net);
}

/* More accusers than are remembered: none may displace another that may displace it, or copies go round for ever. */
static void copies_of_many_accusations_are_old(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 64;
    net_add(net);
    net_run(net, 10);
    struct mesh_id id[40];
    for (uint32_t i = 0; i < 40; i++) {
        id[i] = stranger(i);
        give(net, 0, 0, member_record(&id[i], 1, 9));
    }
    for (int round = 0; round < 4; round++) {
        const uint64_t before = counters(net, 0)->records_new;
        for (uint32_t i = 1; i < 40; i++) {
            struct mesh_record alert = {
                .kind = MESH_RECORD_ALERT, .origin = id[i], .incarnation = 1, .version = 1};
            alert.body.alert.subject = id[0];
            alert.body.alert.subject_incarnation = 1;
            alert.body.alert.accuses = true;
            give(net, 0, 0, alert);
        }
        if (round > 0)
            assert_int_equal(counters(net, 0)->records_new, before);
    }
    end(net);
}

/* Who comes back after the accusations went round, and is no observer, learns them all the same. */
static void late_starter_finds_out_about_the_dead(void **state)
{
    (void)state;
    struct net *const net = make_mesh(14);
    const uint32_t dead = 13;
    uint32_t near[MESH_NEIGHBOURS_MAX];
    const uint32_t slot = members_find(net->node[0].mesh, &net->node[dead].id);
    const uint32_t count = overlay_neighbours(net->node[0].mesh, slot, near);
    uint32_t late = 1; /* neither node 0 nor an observer */
    for (bool observes = true; observes; late += observes) {
        observes = false;
        for (uint32_t i = 0; i < count; i++)
            observes |= near[i] == members_find(net->node[0].mesh, &net->node[late].id);
    }
    assert_true(late < dead);
    net_kill(net, late, true);
    net_run(net, 1000);
    /* It knows an earlier incarnation than the one that died. */
    net_kill(net, dead, true);
    net_run(net, 500);
    net_start(net, dead, false);
    net_run(net, 20000);
    assert_int_equal(net_state(net, 0, dead), MESH_UP);
    net_kill(net, dead, false);
    run_until(net, 0, dead, MESH_DOWN, 20000);
    net_run(net, 60000);
    net_start(net, late, false);
    run_until(net, 0, late, MESH_UP, 60000);
    run_until(net, late, dead, MESH_DOWN, 40000);
    end(net);
}

/* ---------------------------------------------------------------- refutation */

static void member_that_one_link_fails_is_not_down(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net->cut[0][1] = net->cut[1][0] = true;
    net_run(net, 120000);
    assert_int_equal(counters(net, 0)->downs, 0);
    assert_int_equal(counters(net, 1)->downs, 0);
    assert_int_equal(counters(net, 2)->downs, 0);
    assert_true(counters(net, 0)->refutations + counters(net, 1)->refutations >= 2);
    /* The accuser backs off: some accusations in two minutes, not one every five seconds. */
    assert_true(counters(net, 0)->refutations <= 12);
    net->cut[0][1] = net->cut[1][0] = false;
    net_run(net, 10000);
    assert_true(net_whole(net));
    end(net);
}

static void accused_member_refutes_with_a_saved_incarnation(void **state)
{
    (void)state;
    struct net *const net = make_mesh(5);
    const uint64_t before = incarnation(net, 1, 1);
    struct mesh_record alert = {
        .kind = MESH_RECORD_ALERT,
        .origin = net->node[0].id,
        .incarnation = incarnation(net, 0, 0),
        .version = 1000,
        .body.alert = {.subject = net->node[1].id, .subject_incarnation = before, .accuses = true}};
    give(net, 2, 0, alert);
    assert_int_equal(net_state(net, 2, 1), MESH_UP); /* one accuser of five is not enough */
    alert.origin = net->node[3].id;
    alert.incarnation = incarnation(net, 3, 3);
    give(net, 2, 3, alert);
    assert_int_equal(net_state(net, 2, 1), MESH_SUSPECT);
    net_run(net, 100);
    for (uint32_t viewer = 0; viewer < 5; viewer++) {
        assert_int_equal(net_state(net, viewer, 1), MESH_UP);
        assert_int_equal(incarnation(net, viewer, 1), before + 1);
    }
    assert_int_equal(net->node[1].incarnation, before + 1);
    give(net, 2, 3, alert); /* of the incarnation that is over */
    assert_int_equal(net_state(net, 2, 1), MESH_UP);
    end(net);
}

/* What a step asks to sign, of that kind; NULL if nothing. */
static const struct mesh_record *signs(const struct mesh_out *out, enum mesh_record_kind kind)
{
    for (uint32_t i = 0; i < out->effect_count; i++) {
        if (out->effect[i].kind == MESH_SIGN && out->effect[i].body.record.kind == kind)
            return &out->effect[i].body.record;
    }
    return NULL;
}

static bool saves_incarnation(const struct mesh_out *out, uint64_t saved)
{
    for (uint32_t i = 0; i < out->save_count; i++) {
        if (out->save[i].kind == MESH_SAVE_INCARNATION && out->save[i].body.incarnation == saved)
            return true;
    }
    return false;
}

/* A step without saves goes ahead at once, so nothing in it may rest on an incarnation that an earlier step saves. */
static void incarnation_is_used_only_once_it_is_durable(void **state)
{
    (void)state;
    struct fixture *const f = fixture_open(2);
    fixture_run(f, 3000);
    struct mesh_record alert = {
        .kind = MESH_RECORD_ALERT, .origin = f->peer[0], .incarnation = 1, .version = 9};
    alert.body.alert.subject = f->self;
    alert.body.alert.subject_incarnation = 1;
    alert.body.alert.accuses = true;
    alert.handle = fixture_handle(f);
    struct mesh_event event = {.kind = MESH_RECORD, .now_ms = f->now_ms, .wall_ms = FIXTURE_WALL_MS};
    event.body.record.from = f->peer[0];
    event.body.record.record = alert;
    mesh_step(f->mesh, &event, f->out);
    assert_true(saves_incarnation(f->out, 2));
    assert_int_equal(signs(f->out, MESH_RECORD_MEMBER)->incarnation, 2);
    /* The disk is slow: that record has not come back. What is signed meanwhile waits for the save, or bears the old. */
    event.kind = MESH_ANNOUNCE;
    mesh_step(f->mesh, &event, f->out);
    assert_true(saves_incarnation(f->out, 2));
    assert_int_equal(signs(f->out, MESH_RECORD_MEMBER)->incarnation, 2);
    event.kind = MESH_TICK;
    bool accused = false;
    bool announced = false;
    for (int i = 0; i < 31000; i += 100) {
        event.now_ms += 100;
        mesh_step(f->mesh, &event, f->out);
        if (signs(f->out, MESH_RECORD_ALERT)) {
            assert_int_equal(signs(f->out, MESH_RECORD_ALERT)->incarnation, 1);
            accused = true;
        }
        if (signs(f->out, MESH_RECORD_CAPACITY)) {
            assert_int_equal(signs(f->out, MESH_RECORD_CAPACITY)->incarnation, 1);
            announced = true;
        }
    }
    assert_true(accused && announced);
    fixture_close(f);
}

static void withdrawn_accusation_lifts_the_suspicion(void **state)
{
    (void)state;
    struct net *const net = make_mesh(4);
    net->cut[1][0] = true; /* node 0 hears no more of node 1, */
    net_run(net, MESH_LINK_SILENT_MS - MESH_PING_MS - 100);
    net->cut[1][2] = net->cut[1][3] =
        true; /* and the others not for so long that they accuse it, but no refutation */
    run_until(net, 2, 1, MESH_SUSPECT, 10000);
    net->cut[1][0] = net->cut[1][2] = net->cut[1][3] = false;
    run_until(net, 2, 1, MESH_UP, 2000);
    assert_int_equal(counters(net, 2)->downs, 0);
    end(net);
}

static void opinions_tell_who_accuses_and_which_observers_do_not(void **state)
{
    (void)state;
    struct net *const net = make_mesh(5);
    struct mesh_opinion opinion[MESH_OPINIONS_MAX];
    const struct mesh_id unknown = {{0xee}};
    assert_int_equal(mesh_opinions(net->node[2].mesh, &unknown, opinion), 0);
    for (uint32_t i = 0; i < 5; i++)
        net->cut[1][i] = i != 1;
    run_until(net, 2, 1, MESH_SUSPECT, 10000);
    const uint32_t count = mesh_opinions(net->node[2].mesh, &net->node[1].id, opinion);
    struct mesh_member_view view;
    assert_true(net_view(net, 2, 1, &view));
    assert_int_equal(count, 4); /* each of the others once, and not itself */
    uint32_t accusers = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(opinion[i].observer);
        assert_memory_not_equal(&opinion[i].who, &net->node[1].id, sizeof opinion[i].who);
        assert_true(!opinion[i].accuses || opinion[i].said_at_ms > 0);
        assert_true(opinion[i].accuses || i >= view.accusers); /* accusers first */
        accusers += opinion[i].accuses;
        for (uint32_t j = 0; j < i; j++)
            assert_memory_not_equal(&opinion[i].who, &opinion[j].who, sizeof opinion[i].who);
    }
    assert_int_equal(accusers, view.accusers);
    end(net);
}

struct echoes {
    uint32_t of[NET_NODES_MAX]; /* by the node that told */
    uint32_t longest_ms;
};

static void note_echo(struct net *net, uint32_t node, const struct mesh_effect *effect)
{
    struct echoes *const echoes = net->hook_data;
    if (effect->kind != MESH_ECHOED || node != 0)
        return;
    echoes->of[effect->body.echoed.id.bytes[0] - 1]++;
    if (effect->body.echoed.after_ms > echoes->longest_ms)
        echoes->longest_ms = effect->body.echoed.after_ms;
}

static void our_news_are_echoed_by_each_member_in_its_turn(void **state)
{
    (void)state;
    struct net *const net = make_mesh(12); /* not everyone is everyone's neighbour */
    struct echoes echoes = {0};
    net->hook_data = &echoes;
    net->on_effect = note_echo;
    net_run(net, 11 * 40000);
    assert_int_equal(echoes.of[0], 0);
    for (uint32_t i = 1; i < 12; i++)
        assert_in_range(echoes.of[i], 1, 2);
    assert_in_range(echoes.longest_ms, 1, 1000); /* a few hops, each after a batch of 50 ms */
    assert_int_equal(counters(net, 0)->echoes_lost, 0);
    end(net);
}

static void send_await(struct net *net, uint32_t node, uint32_t from, uint64_t version)
{
    const struct mesh_message await = {.kind = MESH_AWAIT,
                                       .body.echo = {.incarnation = 1, .version = version}};
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[from].id;
    event.body.received.message = &await;
    net_step(net, node, &event);
}

static uint32_t echoes_sent(const struct net *net)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < net->out->send_count; i++)
        count += net->out->send[i].message.kind == MESH_ECHO;
    return count;
}

static void an_echo_waits_for_the_record_and_not_for_ever(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    const uint64_t first = net->node[1].config.session + 1;
    struct mesh_record capacity = {
        .kind = MESH_RECORD_CAPACITY, .origin = net->node[1].id, .incarnation = 1, .version = first + 100};
    send_await(net, 0, 1, first); /* it came long ago */
    assert_int_equal(echoes_sent(net), 1);
    send_await(net, 0, 1, first + 101);
    assert_int_equal(echoes_sent(net), 0);
    give(net, 0, 2, capacity); /* not yet that one */
    assert_int_equal(echoes_sent(net), 0);
    capacity.version = first + 102;
    give(net, 0, 2, capacity); /* a newer one will do */
    assert_int_equal(echoes_sent(net), 1);
    capacity.version = first + 103;
    give(net, 0, 2, capacity); /* once */
    assert_int_equal(echoes_sent(net), 0);
    send_await(net, 0, 1, first + 104);
    net_run(net, MESH_ECHO_LOST_MS + 1000);
    capacity.version = first + 200;
    give(net, 0, 2, capacity); /* who asked has given up */
    assert_int_equal(echoes_sent(net), 0);
    end(net);
}

static void accusation_expires_when_not_repeated(void **state)
{
    (void)state;
    struct net *const net = make_mesh(5);
    net->node[1].deaf = true; /* it can't hear that it is accused, and has no time to be found silent */
    const struct mesh_record alert = {.kind = MESH_RECORD_ALERT,
                                      .origin = net->node[0].id,
                                      .incarnation = incarnation(net, 0, 0),
                                      .version = 1000,
                                      .body.alert = {.subject = net->node[1].id,
                                                     .subject_incarnation = incarnation(net, 0, 1),
                                                     .accuses = true}};
    give(net, 2, 0, alert);
    struct mesh_member_view view;
    assert_true(net_view(net, 2, 1, &view));
    assert_int_equal(view.accusers, 1);
    net_run(net, 100);
    net->node[1].deaf = false;
    net_run(net, MESH_ALERT_TTL_MS);
    assert_true(net_view(net, 2, 1, &view));
    assert_int_equal(view.accusers, 0);
    assert_int_equal(view.state, MESH_UP);
    end(net);
}

/* --------------------------------------------------------- self-doubt, splits */

static void deaf_node_doubts_itself_first(void **state)
{
    (void)state;
    struct net *const net = make_mesh(6);
    net->node[0].deaf = net->node[0].mute = true;
    net_run(net, MESH_LINK_SILENT_MS + MESH_DOUBT_MS - 2000);
    assert_int_equal(counters(net, 0)->alerts_sent, 0);
    assert_true(counters(net, 0)->alerts_withheld > 0);
    assert_int_equal(net_state(net, 1, 0), MESH_DOWN);
    assert_int_equal(net_state(net, 0, 1), MESH_UP);
    net_run(net, 10000);
    assert_int_equal(net_state(net, 0, 1), MESH_DOWN); /* in the end it believes its ears */
    net->node[0].deaf = net->node[0].mute = false;
    net_run(net, 90000);
    assert_true(net_whole(net));
    end(net);
}

static void node_that_only_hears_nothing_brings_nobody_down(void **state)
{
    (void)state;
    struct net *const net = make_mesh(6);
    net->node[0].deaf = true;
    net_run(net, 60000);
    for (uint32_t viewer = 1; viewer < 6; viewer++) {
        for (uint32_t other = 1; other < 6; other++)
            assert_int_equal(net_state(net, viewer, other), MESH_UP);
        assert_int_equal(counters(net, viewer)->downs <= 1, 1);
    }
    end(net);
}

static void paused_process_accuses_nobody(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net->node[0].paused = true;
    net_run(net, 4500);
    net->node[0].paused = false;
    net_run(net, 10000);
    assert_int_equal(counters(net, 0)->alerts_sent, 0);
    assert_true(net_whole(net));
    end(net);
}

static void both_sides_of_a_split_go_on_and_heal(void **state)
{
    (void)state;
    static const struct {
        uint32_t count;
        uint32_t mask;
    } cases[] = {{2, 1}, {3, 1}, {5, 3}, {8, 15}, {12, 63}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t count = cases[i].count;
        const uint32_t mask = cases[i].mask;
        struct net *const net = make_mesh(count);
        net_split(net, mask, true);
        net_run(net, 120000);
        for (uint32_t viewer = 0; viewer < count; viewer++) {
            for (uint32_t other = 0; other < count; other++) {
                const bool together = ((mask >> viewer) & 1) == ((mask >> other) & 1);
                if (net_state(net, viewer, other) != (together ? MESH_UP : MESH_DOWN))
                    fail_msg("%u nodes, mask %x: %u sees %u in state %d", count, mask, viewer, other,
                             net_state(net, viewer, other));
            }
        }
        net_split(net, mask, false);
        net_run(net, 150000);
        check_whole(net);
        end(net);
    }
}

/* ---------------------------------------------------------- incarnations, clones */

static void node_that_forgot_its_incarnation_climbs_above_what_peers_hold(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    for (int i = 0; i < 4; i++) {
        net_kill(net, 2, true);
        net_run(net, 5000);
        net_start(net, 2, false);
        net_run(net, 5000);
    }
    const uint64_t before = incarnation(net, 0, 2);
    assert_true(before >= 5);
    net_kill(net, 2, true);
    run_until(net, 0, 2, MESH_DOWN, 12000);
    net_start(net, 2, true);
    net_introduce(net, 2, 0);
    net_run(net, 40000);
    assert_true(net_whole(net));
    assert_true(incarnation(net, 0, 2) > before);
    assert_true(net->node[2].incarnation > before);
    assert_int_equal(net->node[2].cloned, 0);
    end(net);
}

/* Its second start since, and its second one from the old copy, bear the same incarnation: the host sees that no two
 * records of them claim one place in their order. */
static void node_whose_old_disk_was_put_back_signs_nothing_twice(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    const uint64_t old = net->node[2].incarnation;
    for (int i = 0; i < 2; i++) {
        net_kill(net, 2, true);
        net_run(net, 3000);
        net_start(net, 2, false);
        net_run(net, 15000);
    }
    const uint64_t latest = incarnation(net, 0, 2);
    for (uint32_t starts = 1; starts <= 3; starts++) {
        net_kill(net, 2, true);
        net_run(net, 3000);
        net->node[2].incarnation = old;
        net_start(net, 2, false);
        net_run(net, 15000);
        assert_true(net_whole(net));
        assert_in_range(incarnation(net, 0, 2), latest + starts, latest + starts + 1);
    }
    assert_int_equal(net->node[2].cloned_fatal, 0);
    end(net);
}

/* Our host was told of it, by one that is no link; nobody is there to be answered. */
static void old_record_of_one_that_is_down_is_not_answered_to_ourselves(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net_kill(net, 2, true);
    run_until(net, 0, 2, MESH_DOWN, 12000);
    net_start(net, 2, false);
    run_until(net, 0, 2, MESH_UP, 12000);
    net_kill(net, 2, true);
    run_until(net, 0, 2, MESH_DOWN, 12000);
    assert_int_equal(incarnation(net, 0, 2), 2);
    give(net, 0, 0, member_record(&net->node[2].id, 1, 99));
    assert_int_equal(net->out->send_count, 0);
    give(net, 0, 1, member_record(&net->node[2].id, 1, 99));
    assert_int_equal(net->out->send_count, 1);
    assert_int_equal(net->out->send[0].message.kind, MESH_PUSH);
    end(net);
}

/* Another process of our identity answers every announcement of ours: it lives. The younger one stops. */
static void clone_is_told_from_lost_state(void **state)
{
    (void)state;
    static const struct {
        uint64_t session;
        uint32_t fatal;
    } cases[] = {{1, 1}, {UINT64_MAX, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net *const net = make_mesh(2);
        uint64_t theirs = incarnation(net, 0, 0) + 3;
        for (uint32_t meeting = 1; meeting <= MESH_CLONE_MEETINGS; meeting++) {
            assert_int_equal(net->node[0].cloned_fatal, 0);
            give(net, 0, 1, member_record(&net->node[0].id, theirs, cases[i].session));
            give(net, 0, 1, member_record(&net->node[0].id, theirs, cases[i].session)); /* by another way */
            net_run(net, 2000);
            assert_int_equal(net->node[0].cloned_fatal > 0, meeting == MESH_CLONE_MEETINGS && cases[i].fatal);
            if (net->node[0].cloned_fatal)
                break;
            assert_int_equal(incarnation(net, 1, 0), theirs + 1);
            assert_int_equal(net->node[0].cloned, meeting - 1);
            theirs += 2;
        }
        end(net);
    }
}

static struct mesh_record capacity_record(const struct mesh_id *id, uint64_t number, uint64_t version,
                                          uint32_t price)
{
    return (struct mesh_record){.kind = MESH_RECORD_CAPACITY,
                                .origin = *id,
                                .incarnation = number,
                                .version = version,
                                .body.capacity.price_micro = price};
}

static uint32_t price_of(const struct net *net, uint32_t viewer, const struct mesh_id *id)
{
    return members_offer(net->node[viewer].mesh, members_find(net->node[viewer].mesh, id)).price_micro;
}

/* A copy of its folder ran, had used the same incarnation, started later and so counted further; now it is gone. */
static void what_a_clone_said_last_is_not_believed_of_the_node(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    net_run(net, MESH_CAPACITY_MIN_MS);
    const struct mesh_id *const id = &net->node[1].id;
    const uint64_t later = net->node[1].config.session + (UINT64_C(2000) << 20);
    give(net, 0, 2, capacity_record(id, incarnation(net, 0, 1), later + 5, 77));
    give(net, 0, 2,
         capacity_record(id, incarnation(net, 0, 1) + 1, later + 6, 77)); /* which hasn't come itself */
    net_run(net, 3 * MESH_CAPACITY_MAX_MS);
    for (uint32_t viewer = 0; viewer < 3; viewer += 2) {
        assert_int_equal(price_of(net, viewer, id), 0);
        struct mesh_member_view view;
        assert_true(net_view(net, viewer, 1, &view));
        assert_true(view.capacity_at_ms > net->now_ms - 2 * MESH_CAPACITY_MAX_MS); /* its own are taken */
    }
    end(net);
}

/* Whose MEMBER record we hold, from its first capacity on; builds before 0.2 count from zero, and theirs may be anybody's. */
static void a_capacity_is_of_the_process_that_we_know(void **state)
{
    (void)state;
    static const uint64_t elder = UINT64_C(1700000000000) << 20;
    static const uint64_t younger = UINT64_C(1700000002000) << 20;
    static const struct {
        uint64_t session;
        uint64_t version;
        bool taken;
    } cases[] = {
        {elder, elder + 1, true},
        {elder, elder + MESH_CAPACITIES_MAX - 1, true},
        {elder, younger + 1, false},
        {elder, elder + MESH_CAPACITIES_MAX, false},
        {elder, elder - 1, false},
        {younger, elder + 1, false},
        {younger, younger + 1, true},
        {elder, 1, true},
        {elder, MESH_CAPACITIES_MAX - 1, true},
        {elder, MESH_CAPACITIES_MAX, false},
    };
    struct net *const net = make_mesh(2);
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 1, member_record(&id, 3, cases[i].session));
        give(net, 0, 1, capacity_record(&id, 3, cases[i].version, 77));
        assert_int_equal(price_of(net, 0, &id), cases[i].taken ? 77 : 0);
    }
    /* Of its next process what the earlier one said is nothing any more. */
    const struct mesh_id id = stranger(0);
    give(net, 0, 1, member_record(&id, 4, younger));
    assert_int_equal(price_of(net, 0, &id), 0);
    give(net, 0, 1, capacity_record(&id, 4, elder + 9, 77));
    assert_int_equal(price_of(net, 0, &id), 0);
    give(net, 0, 1, capacity_record(&id, 4, younger + 1, 78));
    assert_int_equal(price_of(net, 0, &id), 78);
    end(net);
}

/* --------------------------------------------------------- leaving, revocation */

static void leaving_member_is_left_and_not_accused(void **state)
{
    (void)state;
    struct net *const net = make_mesh(4);
    net_step(net, 3, &(struct mesh_event){.kind = MESH_LEAVE});
    net_run(net, 100);
    for (uint32_t viewer = 0; viewer < 3; viewer++)
        assert_int_equal(net_state(net, viewer, 3), MESH_LEFT);
    net_kill(net, 3, true);
    net_run(net, 20000);
    assert_int_equal(counters(net, 0)->alerts_sent, 0);
    net_start(net, 3, false);
    run_until(net, 0, 3, MESH_UP, 35000);
    end(net);
}

static void revoked_member_stays_out(void **state)
{
    (void)state;
    struct net *const net = make_mesh(4);
    give(net, 0, 0, revocation_of(&net->node[0].id, &net->node[3].id));
    net_run(net, 100);
    for (uint32_t viewer = 0; viewer < 3; viewer++) {
        assert_int_equal(net_state(net, viewer, 3), MESH_REVOKED);
        assert_true(net->node[viewer].barred[3]);
    }
    give(net, 1, 1, member_record(&net->node[3].id, 100, 5));
    assert_int_equal(net_state(net, 1, 3), MESH_REVOKED);
    /* What it says goes nowhere, and the handle comes back. */
    struct mesh_message push = {.kind = MESH_PUSH};
    push.body.push.record = member_record(&net->node[3].id, 101, 5);
    push.body.push.record.handle = net_handle(net, 1, NULL, 0);
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[3].id;
    event.body.received.message = &push;
    net_step(net, 1, &event);
    assert_int_equal(counters(net, 1)->bad_messages, 1);
    net_kill(net, 3, true);
    end(net);
}

static void revocation_may_come_before_the_member(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    const struct mesh_id unknown = stranger(1);
    give(net, 0, 0, revocation_of(&net->node[0].id, &unknown));
    net_run(net, 100);
    give(net, 1, 2, member_record(&unknown, 1, 9));
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(net->node[1].mesh, i, &view); i++)
        assert_int_not_equal(view.id.bytes[0], 0xee);
    /* It survives a restart, and reaches a joiner by anti-entropy. */
    net_kill(net, 1, true);
    net_start(net, 1, false);
    const uint32_t joiner = net_add(net);
    net_introduce(net, joiner, 0);
    net_run(net, 12000);
    assert_int_equal(net->node[joiner].saved[net->node[joiner].saved_count - 1].kind != 0, 1);
    assert_true(gossip_revoked(net->node[1].mesh, &unknown));
    assert_true(gossip_revoked(net->node[joiner].mesh, &unknown));
    end(net);
}

/* Without it nothing is placed there, and its origin says it again only after 30 s. */
static void missed_capacity_is_asked_for(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    const struct mesh_id id = stranger(1);
    const struct mesh_record capacity = {.kind = MESH_RECORD_CAPACITY,
                                         .origin = id,
                                         .incarnation = 1,
                                         .version = 1,
                                         .body.capacity.price_micro = 77};
    net->cut[1][0] = net->cut[2][0] = true;
    give(net, 1, 2, member_record(&id, 1, 9));
    give(net, 1, 2, capacity);
    net_run(net, 100);
    net->cut[1][0] = net->cut[2][0] = false;
    give(net, 0, 1, member_record(&id, 1, 9));
    const uint32_t slot = members_find(net->node[0].mesh, &id);
    assert_false(net->node[0].mesh->members.slot[slot].has_capacity);
    net_run(net, 12 * MESH_ROUND_MS); /* each round asks one of two, and one of them has it */
    assert_int_equal(net->node[0].mesh->members.slot[slot].capacity.price_micro, 77);
    end(net);
}

/* -------------------------------------------------------------------- bounds */

static void tombstones_end_and_are_not_planted_again(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    struct mesh_member_view view;
    net_kill(net, 2, false);
    run_until(net, 0, 2, MESH_DOWN, 12000);
    const struct mesh_record old = member_record(&net->node[2].id, incarnation(net, 0, 2), 77);
    give(net, 0, 1, old); /* stale: must not bring it back */
    assert_int_equal(net_state(net, 0, 2), MESH_DOWN);
    net_run(net, MESH_TOMBSTONE_MS - 60000);
    assert_int_equal(net_state(net, 0, 2), MESH_DOWN);
    assert_true(counters(net, 0)->retries_down > 1000);
    net_run(net, 120000);
    assert_false(net_view(net, 0, 2, &view));
    assert_false(net_view(net, 1, 2, &view));
    assert_int_equal(counters(net, 0)->tombstones_dropped, 1);
    end(net);
}

static void full_table_refuses_members_and_makes_room_from_the_revoked(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 4;
    net_add(net);
    net_run(net, 10);
    struct mesh_member_view view;
    for (uint32_t i = 0; i < 5; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 0, member_record(&id, 1, 9));
        assert_int_equal(mesh_member_view(net->node[0].mesh, i + 1, &view), i < 3);
    }
    assert_int_equal(counters(net, 0)->records_full, 2);
    const struct mesh_id first = stranger(0);
    const struct mesh_id last = stranger(4);
    give(net, 0, 0, revocation_of(&net->node[0].id, &first));
    give(net, 0, 0, member_record(&last, 1, 9));
    assert_int_not_equal(members_find(net->node[0].mesh, &last), MESH_NONE);
    assert_int_equal(members_find(net->node[0].mesh, &first), MESH_NONE);
    give(net, 0, 0, member_record(&first, 5, 9));
    assert_int_equal(members_find(net->node[0].mesh, &first), MESH_NONE);
    end(net);
}

static void notes_stay_with_their_member_when_others_are_forgotten(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net_add(net);
    net_run(net, 10);
    struct mesh *const mesh = net->node[0].mesh;
    const uint32_t count = 20;
    for (uint32_t i = 0; i < count; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 0, member_record(&id, 1, 9));
        assert_int_equal(members_notes(&mesh->members, members_find(mesh, &id))->rtt_us, 0);
        members_edit_notes(mesh, members_find(mesh, &id))->rtt_us = 100 + i;
    }
    struct step step = {.mesh = mesh, .out = net->out, .now_ms = mesh->now_ms};
    for (uint32_t i = 0; i < count; i += 2) {
        const struct mesh_id id = stranger(i);
        members_set_state(&step, members_find(mesh, &id), MESH_DOWN);
        members_remove(&step, members_find(mesh, &id));
    }
    mesh_check(mesh);
    for (uint32_t i = 0; i < count; i++) {
        const struct mesh_id id = stranger(i);
        if (i % 2 == 0)
            give(net, 0, 0, member_record(&id, 1, 9)); /* as a new one, in a slot that was another's */
        assert_int_equal(members_notes(&mesh->members, members_find(mesh, &id))->rtt_us,
                         i % 2 == 0 ? 0 : 100 + i);
    }
    net_close(net); /* the handles of those forgotten were dropped behind its back */
}

/* Ourselves among them: one set more than there are members, since the first is of all who have none. */
static void there_is_room_for_notes_of_everybody(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 4;
    net_add(net);
    net_run(net, 10);
    for (uint32_t i = 0; i < 3; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 0, member_record(&id, 1, 9));
    }
    struct mesh *const mesh = net->node[0].mesh;
    assert_int_equal(mesh->members.count, 4);
    const struct accused behind = mesh->detector.accused[0];
    for (uint32_t slot = 0; slot < 4; slot++)
        members_edit_notes(mesh, slot)->rtt_us = 100 + slot;
    for (uint32_t slot = 0; slot < 4; slot++)
        assert_int_equal(members_notes(&mesh->members, slot)->rtt_us, 100 + slot);
    assert_int_equal(mesh->members.notes_count, 5);
    assert_memory_equal(&behind, &mesh->detector.accused[0], sizeof behind);
    mesh_check(mesh);
    end(net);
}

/* A ring neighbour whose link comes up is asked for what is newer than ours of all members, some at a time. */
static void a_large_table_is_asked_for_in_several_messages(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 512;
    net_add(net);
    net_run(net, 10);
    for (uint32_t i = 0; i < 400; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 0, member_record(&id, 1, 9));
        give(
            net, 0, 0,
            (struct mesh_record){.kind = MESH_RECORD_CAPACITY, .origin = id, .incarnation = 1, .version = 1});
    }
    struct mesh_member_view view;
    uint32_t index = 0;
    while (mesh_member_view(net->node[0].mesh, index, &view) && !view.neighbour)
        index++;
    struct mesh_event event = {.kind = MESH_LINK_UP};
    event.body.link.peer = view.id;
    net_step(net, 0, &event);
    struct mesh *const mesh = net->node[0].mesh;
    const struct link *const link = links_find(mesh, members_find(mesh, &view.id));
    assert_int_equal(link->capacity_next, 1 + MESH_ENTRIES_MAX + (link->member <= MESH_ENTRIES_MAX));
    assert_true(net->node[0].wake_at_ms <= net->now_ms + MESH_BATCH_MS);
    net_run(net, 399 / MESH_ENTRIES_MAX * MESH_BATCH_MS - 1);
    assert_int_not_equal(link->capacity_next, MESH_NONE);
    net_run(net, 1);
    assert_int_equal(link->capacity_next, MESH_NONE);
    end(net);
}

static void newcomer_learns_a_large_table_in_seconds(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 512;
    net_add(net);
    net_run(net, 10);
    for (uint32_t i = 0; i < 200; i++) {
        const struct mesh_id id = stranger(i);
        give(net, 0, 0, member_record(&id, 1, 9));
    }
    struct mesh_event event = {.kind = MESH_LINK_UP};
    net_add(net);
    net_introduce(net, 1, 0);
    net_run(net, 20);
    event.body.link.peer = net->node[0].id;
    net_step(net, 1, &event);
    net_run(net, 3000);
    assert_int_equal(net->node[1].mesh->members.count, 202);
    end(net);
}

static void nonsense_is_counted_and_changes_nothing(void **state)
{
    (void)state;
    struct net *const net = make_mesh(3);
    static struct mesh_message message;
    struct mesh_event event = {.kind = MESH_RECEIVED};
    event.body.received.from = net->node[1].id;
    event.body.received.message = &message;
    static const enum mesh_message_kind lists[] = {MESH_ENTRIES, MESH_WANT};
    for (size_t i = 0; i < 2; i++) {
        message = (struct mesh_message){.kind = lists[i]};
        message.body.entries.count = UINT32_MAX;
        net_step(net, 0, &event);
    }
    assert_int_equal(counters(net, 0)->bad_messages, 2);
    message = (struct mesh_message){.kind = MESH_PUSH};
    message.body.push.record.kind = 99;
    message.body.push.record.handle = net_handle(net, 0, NULL, 0);
    net_step(net, 0, &event);
    message = (struct mesh_message){.kind = (enum mesh_message_kind)77};
    net_step(net, 0, &event);
    assert_int_equal(counters(net, 0)->bad_messages, 4);
    /* Work from somebody unknown. */
    message = (struct mesh_message){.kind = MESH_ASSIGN};
    message.body.assign.handle = net_handle(net, 0, NULL, 0);
    event.body.received.from = stranger(1);
    net_step(net, 0, &event);
    assert_int_equal(counters(net, 0)->bad_messages, 5);
    /* Entries of unknown kinds, asked for and told; a summary that differs everywhere. */
    event.body.received.from = net->node[1].id;
    message = (struct mesh_message){.kind = MESH_WANT};
    message.body.entries.count = 2;
    message.body.entries.entry[1].kind = 0xffffffff;
    net_step(net, 0, &event);
    message.kind = MESH_ENTRIES;
    message.body.entries.buckets = UINT64_MAX;
    net_step(net, 0, &event);
    message = (struct mesh_message){.kind = MESH_SUMMARY};
    net_step(net, 0, &event);
    assert_true(net_whole(net));
    end(net);
}

/* --------------------------------------------------------------------- pieces */

static void neighbours_are_mutual_and_reach_everyone(void **state)
{
    (void)state;
    struct net *const net = net_open(base_seed);
    net->members_limit = 300;
    net_add(net);
    for (uint32_t i = 0; i < 200; i++) {
        const struct mesh_id id = stranger(i);
        struct mesh_record record = member_record(&id, 1, 9);
        record.body.member.region = i % 7;
        give(net, 0, 0, record);
    }
    const struct mesh *const mesh = net->node[0].mesh;
    static bool reached[300];
    static uint32_t queue[300];
    memset(reached, 0, sizeof reached);
    uint32_t queued = 1;
    queue[0] = 0;
    reached[0] = true;
    for (uint32_t i = 0; i < queued; i++) {
        uint32_t near[MESH_NEIGHBOURS_MAX];
        const uint32_t count = overlay_neighbours(mesh, queue[i], near);
        assert_true(count >= 2);
        for (uint32_t j = 0; j < count; j++) {
            uint32_t back[MESH_NEIGHBOURS_MAX];
            const uint32_t backs = overlay_neighbours(mesh, near[j], back);
            bool mutual = false;
            for (uint32_t k = 0; k < backs; k++)
                mutual |= back[k] == queue[i];
            assert_true(mutual);
            if (!reached[near[j]]) {
                reached[near[j]] = true;
                queue[queued++] = near[j];
            }
        }
    }
    assert_int_equal(queued, 201);
    end(net);
}

static void owners_are_the_same_on_every_node_and_stable(void **state)
{
    (void)state;
    struct net *const net = make_mesh(6);
    net_run(net, MESH_STABLE_MS);
    const uint32_t late = net_add(net);
    net_introduce(net, late, 0);
    net_run(net, 10000);
    uint32_t owned[NET_NODES_MAX] = {0};
    for (uint32_t k = 0; k < 300; k++) {
        const struct mesh_id key = stranger(k);
        struct mesh_id owner[2];
        struct mesh_id other[2];
        assert_int_equal(mesh_owners(net->node[0].mesh, &key, owner), 2);
        assert_int_equal(mesh_owners(net->node[3].mesh, &key, other), 2);
        assert_memory_equal(owner, other, sizeof owner);
        assert_memory_not_equal(&owner[0], &owner[1], sizeof *owner);
        for (uint32_t i = 0; i < net->count; i++)
            owned[i] += id_equal(&owner[0], &net->node[i].id) || id_equal(&owner[1], &net->node[i].id);
    }
    assert_int_equal(owned[late], 0);
    for (uint32_t i = 0; i < 6; i++)
        assert_true(owned[i] > 60 && owned[i] < 140);
    end(net);
}

/* xoshiro256** from 1, 2, 3, 4, and splitmix64 from 0, of which the first numbers make the seed. */
static void random_numbers_are_the_published_ones(void **state)
{
    (void)state;
    static const uint64_t expected[] = {11520,
                                        0,
                                        1509978240,
                                        1215971899390074240u,
                                        1216172134540287360u,
                                        607988272756665600u,
                                        16172922978634559625u,
                                        8476171486693032832u};
    struct mesh_random random = {.s = {1, 2, 3, 4}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_true(random_next(&random) == expected[i]);
    random_seed(&random, (const uint64_t[2]){0, 0});
    for (size_t i = 0; i < 4; i++)
        assert_true(random.s[i] == (i < 2 ? 0xe220a8397b1dcdafu : 0x6e789e6aa1b965f4u));
}

static void siphash_gives_its_published_vectors(void **state)
{
    (void)state;
    uint8_t input[64];
    for (uint8_t i = 0; i < sizeof input; i++)
        input[i] = i;
    /* From the reference implementation's test, key 00 .. 0f. */
    const uint64_t key0 = 0x0706050403020100u;
    const uint64_t key1 = 0x0f0e0d0c0b0a0908u;
    assert_true(mesh_hash(key0, key1, input, 0) == 0x726fdb47dd0e0e31u);
    assert_true(mesh_hash(key0, key1, input, 1) == 0x74f839c593dc67fdu);
    assert_true(mesh_hash(key0, key1, input, 15) == 0xa129ca6149be45e5u);
}

static void message_sizes_cover_their_lists(void **state)
{
    (void)state;
    static struct mesh_message message;
    for (uint32_t kind = 1; kind < MESH_MESSAGE_KINDS; kind++) {
        message = (struct mesh_message){.kind = (enum mesh_message_kind)kind};
        assert_true(mesh_message_bytes(&message) > sizeof message.kind);
        assert_true(mesh_message_bytes(&message) < 1024);
        assert_string_not_equal(mesh_message_name((enum mesh_message_kind)kind), "unknown");
    }
    assert_string_equal(mesh_message_name((enum mesh_message_kind)0), "unknown");
    assert_string_equal(mesh_message_name((enum mesh_message_kind) - 1), "unknown");
    message = (struct mesh_message){.kind = MESH_ENTRIES, .body.entries.count = UINT32_MAX};
    assert_true(mesh_message_bytes(&message) <= sizeof message);
}

/* ----------------------------------------------------------------------- chaos */

/* Drops, cuts, kills, pauses for ten minutes; then quiet, after which everybody must see everybody. */
static void chaos(uint64_t seed)
{
    struct net *const net = net_open(seed);
    const uint32_t count = 3 + net_random(net, 10);
    for (uint32_t i = 0; i < count; i++)
        net_add(net);
    net_introduce_all(net);
    net->latency_ms = 1 + net_random(net, 200);
    net->drop_permille = net_random(net, 100);
    net->reorder = net_random(net, 2) == 0;
    for (int i = 0; i < 60; i++) {
        const uint32_t node = net_random(net, count);
        const uint32_t other = net_random(net, count);
        switch (net_random(net, 7)) {
        case 0:
            if (net->node[node].mesh)
                net_kill(net, node, net_random(net, 2) == 0);
            break;
        case 1:
            if (!net->node[node].mesh)
                net_start(net, node, false);
            break;
        case 2:
            net->cut[node][other] = node != other;
            break;
        case 3:
            net_split(net, net_random(net, 1u << count), true);
            break;
        case 4:
            net_split(net, UINT32_MAX, false);
            memset(net->cut, 0, sizeof net->cut);
            break;
        case 5:
            net->node[node].paused = !net->node[node].paused;
            break;
        default:
            break;
        }
        net_run(net, net_random(net, 20000));
    }
    memset(net->cut, 0, sizeof net->cut);
    net->drop_permille = 0;
    for (uint32_t i = 0; i < count; i++) {
        net->node[i].paused = false;
        if (!net->node[i].mesh)
            net_start(net, i, false);
        memset(net->node[i].session, 0, sizeof net->node[i].session);
    }
    net_run(net, 300000);
    check_whole(net);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(net->node[i].cloned, 0);
    end(net);
}

static void everybody_sees_everybody_after_chaos(void **state)
{
    (void)state;
    print_message("seeds %llu to %llu\n", (unsigned long long)base_seed, (unsigned long long)base_seed + 14);
    for (uint64_t seed = base_seed; seed < base_seed + 15; seed++)
        chaos(seed);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        base_seed = strtoull(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_are_the_published_ones),
        cmocka_unit_test(siphash_gives_its_published_vectors),
        cmocka_unit_test(message_sizes_cover_their_lists),
        cmocka_unit_test(records_travel_along_a_tree_of_their_origin),
        cmocka_unit_test(a_record_whose_branch_is_cut_is_asked_for),
        cmocka_unit_test(joiner_learns_all_members_from_one),
        cmocka_unit_test(mesh_at_rest_sends_little),
        cmocka_unit_test(dead_member_is_down_everywhere),
        cmocka_unit_test(reset_link_makes_death_known_sooner),
        cmocka_unit_test(restarted_member_is_up_in_a_new_incarnation),
        cmocka_unit_test(quick_restart_is_no_death),
        cmocka_unit_test(joiner_finds_out_about_the_dead),
        cmocka_unit_test(verdicts_come_to_rest_whoever_accuses_whom),
        cmocka_unit_test(copies_of_many_accusations_are_old),
        cmocka_unit_test(late_starter_finds_out_about_the_dead),
        cmocka_unit_test(member_that_one_link_fails_is_not_down),
        cmocka_unit_test(accused_member_refutes_with_a_saved_incarnation),
        cmocka_unit_test(incarnation_is_used_only_once_it_is_durable),
        cmocka_unit_test(withdrawn_accusation_lifts_the_suspicion),
        cmocka_unit_test(opinions_tell_who_accuses_and_which_observers_do_not),
        cmocka_unit_test(our_news_are_echoed_by_each_member_in_its_turn),
        cmocka_unit_test(an_echo_waits_for_the_record_and_not_for_ever),
        cmocka_unit_test(accusation_expires_when_not_repeated),
        cmocka_unit_test(deaf_node_doubts_itself_first),
        cmocka_unit_test(node_that_only_hears_nothing_brings_nobody_down),
        cmocka_unit_test(paused_process_accuses_nobody),
        cmocka_unit_test(both_sides_of_a_split_go_on_and_heal),
        cmocka_unit_test(node_that_forgot_its_incarnation_climbs_above_what_peers_hold),
        cmocka_unit_test(node_whose_old_disk_was_put_back_signs_nothing_twice),
        cmocka_unit_test(old_record_of_one_that_is_down_is_not_answered_to_ourselves),
        cmocka_unit_test(clone_is_told_from_lost_state),
        cmocka_unit_test(what_a_clone_said_last_is_not_believed_of_the_node),
        cmocka_unit_test(a_capacity_is_of_the_process_that_we_know),
        cmocka_unit_test(leaving_member_is_left_and_not_accused),
        cmocka_unit_test(revoked_member_stays_out),
        cmocka_unit_test(revocation_may_come_before_the_member),
        cmocka_unit_test(missed_capacity_is_asked_for),
        cmocka_unit_test(tombstones_end_and_are_not_planted_again),
        cmocka_unit_test(full_table_refuses_members_and_makes_room_from_the_revoked),
        cmocka_unit_test(notes_stay_with_their_member_when_others_are_forgotten),
        cmocka_unit_test(there_is_room_for_notes_of_everybody),
        cmocka_unit_test(a_large_table_is_asked_for_in_several_messages),
        cmocka_unit_test(newcomer_learns_a_large_table_in_seconds),
        cmocka_unit_test(nonsense_is_counted_and_changes_nothing),
        cmocka_unit_test(neighbours_are_mutual_and_reach_everyone),
        cmocka_unit_test(owners_are_the_same_on_every_node_and_stable),
        cmocka_unit_test(everybody_sees_everybody_after_chaos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
