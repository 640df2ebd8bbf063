/*
 * The control transport over real sockets on 127.0.0.1: who gets through, who does not and what is counted;
 * sessions, resets, reconnects. Hostile peers are bare DEALER sockets with keys of their own.
 */
#include "transport_fixture.h"

#include "node/socket.h"

#include <signal.h>
#include <sys/wait.h>

/* ---- A peer that keeps no rules ---------------------------------------------------------------------------
 */

struct stranger {
    void *zmq;
    void *dealer;
    struct mesh_id id;
    struct curve_public curve;
    struct curve_secret curve_secret;
};

static void stranger_open(struct stranger *stranger)
{
    stranger->zmq = zmq_ctx_new();
    stranger->dealer = NULL;
    randombytes_buf(&stranger->id, sizeof stranger->id);
    curve_pair_create(&stranger->curve, &stranger->curve_secret);
}

static void stranger_admit(const struct stranger *stranger, struct node *node)
{
    struct peer_setting setting = {stranger->id, stranger->curve, ""};
    fixture_call(node, call_peer_set, &setting);
}

/* Dials with the server key that it is told; no limit of ours binds it. */
static void stranger_dial(struct stranger *stranger, const struct node *node,
                          const struct curve_public *server)
{
    const struct socket_options options = {.zmq = stranger->zmq,
                                           .curve = &stranger->curve,
                                           .curve_secret = &stranger->curve_secret,
                                           .message_bytes_max = 1 << 30,
                                           .hwm = 1000};
    stranger->dealer = socket_open_dealer(&options, server);
    const int wait_ms = 3000;
    zmq_setsockopt(stranger->dealer, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    zmq_setsockopt(stranger->dealer, ZMQ_SNDTIMEO, &wait_ms, sizeof wait_ms);
    assert_true(socket_connect(stranger->dealer, transport_bound(node->transport)));
}

static bool stranger_send(struct stranger *stranger, const struct wire_frame *frame)
{
    static uint8_t bytes[WIRE_CONTROL_BYTES_MAX];
    const size_t count = wire_encode(frame, bytes, sizeof bytes);
    return zmq_send(stranger->dealer, bytes, count, 0) == (int)count;
}

static struct wire_frame hello_of(const struct mesh_id *id, uint64_t session)
{
    struct wire_frame frame = {.kind = WIRE_HELLO};
    frame.body.hello =
        (struct wire_hello){.protocol_min = 1, .protocol_max = 1, .session = session, .node = *id};
    return frame;
}

static struct wire_frame ping_frame(void)
{
    struct wire_frame frame = {.kind = WIRE_PING};
    frame.body.mesh.message.kind = MESH_PING;
    return frame;
}

/* Dials, greets and waits for the answer. */
static void stranger_greet(struct stranger *stranger, const struct node *node)
{
    stranger_dial(stranger, node, &node->curve);
    const struct wire_frame hello = hello_of(&stranger->id, 99);
    assert_true(stranger_send(stranger, &hello));
    uint8_t answer[512];
    const int count = zmq_recv(stranger->dealer, answer, sizeof answer, 0);
    assert_true(count > 0);
    static struct wire_frame frame;
    assert_int_equal(wire_decode(answer, (size_t)count, &frame), WIRE_OK);
    assert_int_equal(frame.kind, WIRE_HELLO);
    assert_true(frame.body.hello.answer);
    assert_true(frame.body.hello.session == 99);
}

static void stranger_close(struct stranger *stranger)
{
    if (stranger->dealer)
        zmq_close(stranger->dealer);
    zmq_ctx_term(stranger->zmq);
}

/* ---- Those who belong -------------------------------------------------------------------------------------
 */

static void a_known_peer_gets_through_both_ways(void **state)
{
    (void)state;
    struct node a, b;
    fixture_open(&a);
    fixture_open(&b);
    fixture_introduce(&a, &b, true);
    fixture_introduce(&b, &a, true);
    b.echo = true;
    assert_int_equal(fixture_ping(&a, &b, 2000), 2000);
    WAIT_UNTIL(b.messages == 2000);
    WAIT_UNTIL(a.messages == 2000);
    assert_int_equal(a.out_of_order + b.out_of_order, 0);
    assert_int_equal(a.ups, 1);
    assert_int_equal(b.ups, 1);
    assert_int_equal(a.downs + b.downs, 0);
    assert_true(COUNTER(&a, frames_sent) == 2000);
    assert_true(COUNTER(&a, messages_sent) < 200); /* batched */
    fixture_close(&a);
    fixture_close(&b);
}

static void a_peer_without_address_is_answered_on_its_own_connection(void **state)
{
    (void)state;
    struct node a, b;
    fixture_open(&a);
    fixture_open(&b);
    fixture_introduce(&a, &b, true);
    fixture_introduce(&b, &a, false);
    b.echo = true;
    fixture_call(&a, call_keep, &b.id);
    WAIT_UNTIL(a.ups == 1 && b.ups == 1);
    fixture_ping(&a, &b, 500);
    WAIT_UNTIL(a.messages == 500);
    assert_int_equal(COUNTER(&b, dials), 0);
    fixture_call(&b, call_redial, &a.id); /* asks on that connection: a session again */
    WAIT_UNTIL(b.ups == 2);
    fixture_close(&a);
    fixture_call(&b, call_redial, &a.id);
    WAIT_UNTIL(b.downs >= 1);
    fixture_close(&b);
}

struct one_frame {
    const struct mesh_id *to;
    const struct wire_frame *frame;
    uint32_t sent;
};

static void send_one(struct node *node, void *argument)
{
    struct one_frame *one = argument;
    one->sent += transport_send(node->transport, one->to, one->frame);
}

static void a_full_message_passes_and_a_longer_one_is_not_sent(void **state)
{
    (void)state;
    struct node a, b;
    fixture_open(&a);
    fixture_open(&b);
    fixture_introduce(&a, &b, true);
    fixture_introduce(&b, &a, true);
    static uint8_t payload[WIRE_CONTROL_BYTES_MAX];
    struct wire_frame frame = {.kind = WIRE_ASSIGN};
    frame.body.mesh.message.kind = MESH_ASSIGN;
    frame.body.mesh.message.body.assign.count = 1;
    frame.body.mesh.payload = (struct wire_bytes){payload, WIRE_PAYLOAD_BYTES_MAX};
    struct one_frame one = {&b.id, &frame, 0};
    fixture_call(&a, send_one, &one);
    assert_int_equal(one.sent, 1);
    WAIT_UNTIL(b.messages == 1);
    frame.body.mesh.payload.count = sizeof payload;
    fixture_call(&a, send_one, &one);
    assert_int_equal(one.sent, 1);
    assert_int_equal(COUNTER(&a, dropped_too_long), 1);
    fixture_close(&a);
    fixture_close(&b);
}

/* ---- Those who do not -------------------------------------------------------------------------------------
 */

static void an_unknown_key_is_refused(void **state)
{
    (void)state;
    struct node a;
    struct stranger mallory;
    fixture_open(&a);
    stranger_open(&mallory);
    stranger_dial(&mallory, &a, &a.curve);
    struct zap_counters zap;
    WAIT_UNTIL((zap_counters(a.zap, &zap), zap.refused[ADMISSION_UNKNOWN] > 0));
    WAIT_UNTIL(COUNTER(&a, handshakes_refused) > 0);
    assert_true(COUNTER(&a, messages_received) == 0);
    stranger_close(&mallory);
    fixture_close(&a);
}

static void an_expired_certificate_is_refused(void **state)
{
    (void)state;
    struct node a;
    struct stranger late;
    fixture_open(&a);
    stranger_open(&late);
    admission_admit(a.admission, &late.curve, &late.id, clock_wall_ms() / 1000 - RECORD_TOLERANCE_S - 1);
    stranger_dial(&late, &a, &a.curve);
    struct zap_counters zap;
    WAIT_UNTIL((zap_counters(a.zap, &zap), zap.refused[ADMISSION_EXPIRED] > 0));
    WAIT_UNTIL(COUNTER(&a, handshakes_refused) > 0);
    stranger_close(&late);
    fixture_close(&a);
}

static void a_revoked_peer_is_refused(void **state)
{
    (void)state;
    struct node a;
    struct stranger out;
    fixture_open(&a);
    stranger_open(&out);
    stranger_admit(&out, &a);
    admission_bar(a.admission, &out.id);
    stranger_dial(&out, &a, &a.curve);
    struct zap_counters zap;
    WAIT_UNTIL((zap_counters(a.zap, &zap), zap.refused[ADMISSION_REVOKED] > 0));
    stranger_close(&out);
    fixture_close(&a);
}

static void a_wrong_server_key_breaks_the_handshake(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    struct curve_public other;
    struct curve_secret secret;
    curve_pair_create(&other, &secret);
    stranger_dial(&peer, &a, &other);
    WAIT_UNTIL(COUNTER(&a, handshakes_failed) > 0);
    stranger_close(&peer);
    fixture_close(&a);
}

static void plain_text_is_refused(void **state)
{
    (void)state;
    struct node a;
    fixture_open(&a);
    void *zmq = zmq_ctx_new();
    void *dealer = zmq_socket(zmq, ZMQ_DEALER);
    const int no_linger = 0;
    zmq_setsockopt(dealer, ZMQ_LINGER, &no_linger, sizeof no_linger);
    char endpoint[400];
    snprintf(endpoint, sizeof endpoint, "tcp://%s", transport_bound(a.transport));
    zmq_connect(dealer, endpoint);
    WAIT_UNTIL(COUNTER(&a, handshakes_failed) > 0);
    zmq_close(dealer);
    zmq_ctx_term(zmq);
    fixture_close(&a);
}

static void a_peer_revoked_in_mid_session_is_not_heard_any_more(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    const struct wire_frame ping = ping_frame();
    stranger_send(&peer, &ping);
    WAIT_UNTIL(a.messages == 1);
    admission_bar(a.admission, &peer.id);
    stranger_send(&peer, &ping);
    WAIT_UNTIL(COUNTER(&a, refused_unadmitted) == 1);
    assert_int_equal(a.messages, 1);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_message_before_hello_is_dropped_and_hello_is_asked_for(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_dial(&peer, &a, &a.curve);
    const struct wire_frame ping = ping_frame();
    stranger_send(&peer, &ping);
    WAIT_UNTIL(COUNTER(&a, refused_before_hello) == 1);
    uint8_t asked[512];
    const int count = zmq_recv(peer.dealer, asked, sizeof asked, 0);
    static struct wire_frame frame;
    assert_true(count > 0 && wire_decode(asked, (size_t)count, &frame) == WIRE_OK);
    assert_true(frame.kind == WIRE_HELLO && !frame.body.hello.answer);
    assert_int_equal(a.messages, 0);
    stranger_close(&peer);
    fixture_close(&a);
}

static void assert_shut_out(struct node *node, struct stranger *peer)
{
    struct mesh_id id;
    assert_int_equal(admission_check(node->admission, &peer->curve, clock_wall_ms(), &id), ADMISSION_PENALTY);
    const uint64_t refused = COUNTER(node, refused_unadmitted);
    const struct wire_frame ping = ping_frame();
    stranger_send(peer, &ping);
    WAIT_UNTIL(COUNTER(node, refused_unadmitted) > refused);
    assert_int_equal(node->messages, 0);
}

static void a_multi_frame_message_is_dropped_and_shut_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    for (int i = 0; i < 20; i++)
        zmq_send(peer.dealer, "part", 4, ZMQ_SNDMORE);
    zmq_send(peer.dealer, "last", 4, 0);
    WAIT_UNTIL(COUNTER(&a, refused_multi_frame) == 1);
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void garbage_is_dropped_and_shut_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    const uint8_t claims_4_giga_items[] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    zmq_send(peer.dealer, claims_4_giga_items, sizeof claims_4_giga_items, 0);
    WAIT_UNTIL(COUNTER(&a, refused_bad_frame) == 1);
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_bulk_frame_on_control_is_dropped_and_shut_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    const struct wire_frame frame = {.kind = WIRE_BULK_LIST};
    stranger_send(&peer, &frame);
    WAIT_UNTIL(COUNTER(&a, refused_wrong_socket) == 1);
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_message_just_over_the_limit_is_counted_and_shut_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    static uint8_t bytes[WIRE_CONTROL_BYTES_MAX + 1];
    zmq_send(peer.dealer, bytes, sizeof bytes, 0);
    WAIT_UNTIL(COUNTER(&a, oversized) == 1);
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_huge_message_ends_its_connection(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    static uint8_t bytes[4 * WIRE_CONTROL_BYTES_MAX];
    zmq_send(peer.dealer, bytes, sizeof bytes, 0);
    WAIT_UNTIL(COUNTER(&a, inbound_ended) >= 1);
    assert_int_equal(a.messages, 0);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_hello_in_anothers_name_is_shut_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_dial(&peer, &a, &a.curve);
    struct mesh_id other = peer.id;
    other.bytes[0] ^= 1;
    const struct wire_frame hello = hello_of(&other, 5);
    stranger_send(&peer, &hello);
    WAIT_UNTIL(COUNTER(&a, refused_wrong_identity) == 1);
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void a_link_uses_the_highest_protocol_that_both_speak(void **state)
{
    (void)state;
    static const struct {
        uint32_t a_min, a_max, b_min, b_max, agreed;
    } cases[] = {{1, 1, 1, 2, 1}, {1, 3, 2, 4, 3}, {2, 2, 1, 2, 2}, {1, 5, 1, 5, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct node a;
        struct node b;
        fixture_open_speaking(&a, cases[i].a_min, cases[i].a_max);
        fixture_open_speaking(&b, cases[i].b_min, cases[i].b_max);
        fixture_introduce(&a, &b, true);
        fixture_introduce(&b, &a, true);
        assert_int_equal(fixture_ping(&a, &b, 1), 1);
        assert_int_equal(fixture_ping(&b, &a, 1), 1);
        WAIT_UNTIL(a.messages == 1 && b.messages == 1);
        assert_int_equal(a.protocol, cases[i].agreed);
        assert_int_equal(b.protocol, cases[i].agreed);
        fixture_close(&b);
        fixture_close(&a);
    }
}

static void read_protocol(struct node *node, void *argument)
{
    struct transport_protocol *protocol = argument;
    const struct mesh_id *peer = (const struct mesh_id *)(protocol + 1);
    transport_protocol(node->transport, peer, protocol);
}

static struct transport_protocol protocol_at(struct node *node, const struct node *peer)
{
    struct {
        struct transport_protocol protocol;
        struct mesh_id peer;
    } question = {.peer = peer->id};
    fixture_call(node, read_protocol, &question);
    return question.protocol;
}

static void without_a_common_protocol_both_sides_say_who_must_be_upgraded(void **state)
{
    (void)state;
    struct node older;
    struct node newer;
    fixture_open_speaking(&older, 1, 2);
    fixture_open_speaking(&newer, 3, 4);
    fixture_introduce(&older, &newer, true);
    fixture_introduce(&newer, &older, false); /* it does not even dial, and is told */
    fixture_ping(&older, &newer, 1);
    WAIT_UNTIL(older.lines == 1 && newer.lines == 1);
    assert_non_null(strstr(older.line, "speaks protocol 3 to 4 (weir 0.1.0-test), this node 1 to 2"));
    assert_non_null(strstr(older.line, "upgrade this node"));
    assert_non_null(strstr(newer.line, "speaks protocol 1 to 2 (weir 0.1.0-test), this node 3 to 4"));
    assert_non_null(strstr(newer.line, "upgrade that peer"));
    assert_true(COUNTER(&older, refused_protocol) >= 1 && COUNTER(&newer, refused_protocol) >= 1);
    const struct transport_protocol seen = protocol_at(&older, &newer);
    assert_true(seen.min == 3 && seen.max == 4 && seen.agreed == 0);
    assert_int_equal(older.ups + newer.ups, 0);
    assert_int_equal(older.messages + newer.messages, 0);
    fixture_close(&newer);
    fixture_close(&older);
}

static void send_later(struct node *node, void *argument)
{
    static struct wire_frame frame; /* of a kind that began in version 2 */
    const struct mesh_message message = {.kind = MESH_AWAIT};
    wire_message(&frame, &message, (struct wire_bytes){0});
    *(bool *)((struct mesh_id *)argument + 1) = transport_send(node->transport, argument, &frame);
}

static bool sends_later(struct node *from, const struct node *to)
{
    struct {
        struct mesh_id to;
        bool queued;
    } question = {.to = to->id};
    fixture_call(from, send_later, &question);
    return question.queued;
}

static void a_kind_of_a_later_protocol_is_not_sent_to_an_older_peer(void **state)
{
    (void)state;
    struct node newer;
    struct node older;
    fixture_open_speaking(&newer, 1, 2);
    fixture_open_speaking(&older, 1, 1);
    fixture_introduce(&newer, &older, true);
    fixture_introduce(&older, &newer, true);
    assert_true(
        sends_later(&newer, &older)); /* nothing is known of it yet: what was queued goes when it greets */
    WAIT_UNTIL(newer.ups == 1);
    assert_int_equal(newer.protocol, 1);
    assert_false(sends_later(&newer, &older));
    assert_int_equal(COUNTER(&newer, dropped_protocol), 1);
    assert_int_equal(fixture_ping(&newer, &older, 1), 1);
    WAIT_UNTIL(older.messages == 1);
    assert_int_equal(COUNTER(&older, refused_bad_frame), 0);
    fixture_close(&older);
    fixture_close(&newer);
}

static void another_protocol_is_counted_and_not_heard(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_dial(&peer, &a, &a.curve);
    struct wire_frame hello = hello_of(&peer.id, 5);
    hello.body.hello.protocol_min = WIRE_PROTOCOL_MAX + 1;
    hello.body.hello.protocol_max = WIRE_PROTOCOL_MAX + 2;
    stranger_send(&peer, &hello);
    const struct wire_frame ping = ping_frame();
    stranger_send(&peer, &ping);
    WAIT_UNTIL(COUNTER(&a, refused_protocol) == 1);
    WAIT_UNTIL(COUNTER(&a, refused_before_hello) == 1);
    assert_int_equal(a.messages, 0);
    stranger_close(&peer);
    fixture_close(&a);
}

static void an_older_process_of_a_peer_is_answered_with_the_news_and_not_heard(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    a.newest = 5;
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_dial(&peer, &a, &a.curve);
    struct wire_frame hello = hello_of(&peer.id, 5);
    hello.body.hello.incarnation = 4;
    stranger_send(&peer, &hello);
    uint8_t bytes[512];
    const int count = zmq_recv(peer.dealer, bytes, sizeof bytes, 0);
    static struct wire_frame frame;
    assert_true(count > 0);
    assert_int_equal(wire_decode(bytes, (size_t)count, &frame), WIRE_OK);
    assert_int_equal(frame.kind, WIRE_PUSH);
    const struct wire_frame ping = ping_frame();
    stranger_send(&peer, &ping);
    WAIT_UNTIL(COUNTER(&a, refused_before_hello) == 1);
    assert_int_equal(COUNTER(&a, refused_process), 1);
    assert_int_equal(a.messages, 0);
    /* Once it has gone above the other, it is heard. */
    hello.body.hello.incarnation = 6;
    stranger_send(&peer, &hello);
    stranger_send(&peer, &ping);
    WAIT_UNTIL(a.messages == 1);
    stranger_close(&peer);
    fixture_close(&a);
}

static void greet_again(struct node *node, void *argument)
{
    transport_set_incarnation(node->transport, *(const uint64_t *)argument);
    transport_greet(node->transport);
}

static void a_raised_incarnation_is_greeted_with_on_links_that_are_up(void **state)
{
    (void)state;
    struct node a;
    struct node b;
    fixture_open(&a);
    fixture_open(&b);
    fixture_introduce(&a, &b, true);
    fixture_introduce(&b, &a, true);
    b.echo = true;
    assert_int_equal(fixture_ping(&a, &b, 1), 1);
    WAIT_UNTIL(a.messages == 1);
    uint64_t raised = 8;
    b.newest = raised;
    fixture_call(&a, greet_again, &raised);
    WAIT_UNTIL(a.ups == 2);
    assert_int_equal(COUNTER(&b, refused_process), 0);
    raised = 7;
    fixture_call(&a, greet_again, &raised);
    WAIT_UNTIL(COUNTER(&b, refused_process) == 1);
    fixture_close(&b);
    fixture_close(&a);
}

static void a_refused_greeting_is_followed_by_one_of_the_raised_incarnation(void **state)
{
    (void)state;
    struct node a;
    struct node b;
    fixture_open(&a);
    fixture_open(&b);
    uint64_t raised = 8;
    b.newest = raised;
    fixture_introduce(&b, &a, false);
    fixture_introduce(&a, &b, true);
    assert_int_equal(fixture_ping(&a, &b, 1), 1);
    WAIT_UNTIL(COUNTER(&b, refused_process) == 1);
    WAIT_UNTIL(a.messages == 1); /* the newer record that it answers with */
    assert_int_equal(a.ups, 0);
    fixture_call(&a, greet_again, &raised);
    WAIT_UNTIL(a.ups == 1);
    assert_int_equal(COUNTER(&a, dials), 1); /* it did not wait for the first to be given up */
    fixture_close(&b);
    fixture_close(&a);
}

static void what_the_owner_finds_wrong_shuts_out(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    stranger_greet(&peer, &a);
    a.punish = true;
    const struct wire_frame ping = ping_frame();
    stranger_send(&peer, &ping);
    WAIT_UNTIL(COUNTER(&a, refused_by_owner) == 1);
    a.messages = 0;
    assert_shut_out(&a, &peer);
    stranger_close(&peer);
    fixture_close(&a);
}

static void an_admitted_key_of_no_known_peer_is_counted(void **state)
{
    (void)state;
    struct node a;
    struct stranger peer;
    fixture_open(&a);
    stranger_open(&peer);
    stranger_admit(&peer, &a);
    fixture_call(&a, call_remove, &peer.id);
    stranger_dial(&peer, &a, &a.curve);
    const struct wire_frame hello = hello_of(&peer.id, 1);
    stranger_send(&peer, &hello);
    WAIT_UNTIL(COUNTER(&a, refused_unknown_sender) == 1);
    stranger_close(&peer);
    fixture_close(&a);
}

/* ---- Sessions ---------------------------------------------------------------------------------------------
 */

/* A child process that is a node with fixed keys and port, known to `known`. */
struct child_setting {
    struct mesh_id id;
    struct curve_public curve;
    struct curve_secret curve_secret;
    char bind[64];
};

static pid_t child_start(const struct child_setting *setting, const struct node *known)
{
    const struct mesh_id known_id = known->id;
    const struct curve_public known_curve = known->curve;
    char address[SOCKET_BOUND_BYTES];
    snprintf(address, sizeof address, "%s", transport_bound(known->transport));
    const pid_t pid = fork();
    if (pid != 0)
        return pid;
    static struct node node;
    struct transport_failure failure;
    fixture_prepare(&node);
    node.id = setting->id;
    node.curve = setting->curve;
    node.curve_secret = setting->curve_secret;
    for (int i = 0; fixture_bind(&node, setting->bind, &failure) != TRANSPORT_OK; i++) {
        if (i == 200)
            _exit(3);
        usleep(10000);
    }
    admission_admit(node.admission, &known_curve, &known_id, FIXTURE_FAR_FUTURE_S);
    transport_peer_set(node.transport, &known_id, &known_curve, address);
    transport_keep(node.transport, &known_id, true);
    loop_run(node.loop);
    _exit(0);
}

static void child_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void a_killed_peer_is_noticed_and_a_restarted_one_is_a_new_session(void **state)
{
    (void)state;
    struct node a;
    struct child_setting child;
    struct node port; /* to find a free port */
    fixture_open(&port);
    snprintf(child.bind, sizeof child.bind, "%s", transport_bound(port.transport));
    fixture_close(&port);
    randombytes_buf(&child.id, sizeof child.id);
    curve_pair_create(&child.curve, &child.curve_secret);

    fixture_open(&a);
    const pid_t first = child_start(&child, &a);
    struct peer_setting setting = {child.id, child.curve, child.bind};
    fixture_call(&a, call_peer_set, &setting);
    fixture_call(&a, call_keep, &child.id);
    WAIT_UNTIL(a.ups >= 1);
    const uint32_t downs = a.downs; /* a first dial may have come before the child was there */
    const int64_t killed_at_ms = clock_now_ms();
    child_kill(first);
    WAIT_UNTIL(a.downs == downs + 1);
    print_message("    reset reported %lld ms after SIGKILL\n", (long long)(a.down_at_ms - killed_at_ms));
    assert_true(a.last_reset);
    assert_true(a.down_at_ms - killed_at_ms < 2000);
    const uint32_t ups = a.ups;
    const pid_t second = child_start(&child, &a);
    WAIT_UNTIL(a.ups == ups + 1);
    child_kill(second);
    fixture_close(&a);
}

static void redialling_nobody_reports_down_with_reset(void **state)
{
    (void)state;
    struct node a, gone;
    fixture_open(&a);
    fixture_open(&gone);
    char address[SOCKET_BOUND_BYTES];
    snprintf(address, sizeof address, "%s", transport_bound(gone.transport));
    fixture_close(&gone);
    struct peer_setting setting = {gone.id, gone.curve, address};
    fixture_call(&a, call_peer_set, &setting);
    fixture_call(&a, call_redial, &gone.id);
    WAIT_UNTIL(a.downs == 1);
    assert_true(a.last_reset);
    assert_int_equal(fixture_ping(&a, &gone, 1), 0); /* not dialled again within a second */
    assert_int_equal(COUNTER(&a, dropped_down), 1);
    fixture_close(&a);
}

static void a_full_queue_drops_and_counts(void **state)
{
    (void)state;
    struct node a, b;
    fixture_open(&a);
    fixture_open(&b);
    fixture_introduce(&a, &b, true); /* b does not admit a: the link never comes up */
    const uint32_t queued = fixture_ping(&a, &b, 1000000);
    assert_true(queued < 1000000);
    assert_int_equal(COUNTER(&a, dropped_queue_full), 1000000 - queued);
    WAIT_UNTIL(a.downs == 1);
    assert_int_equal(COUNTER(&a, dropped_down), queued);
    fixture_close(&a);
    fixture_close(&b);
}

static void many_senders_are_all_heard(void **state)
{
    (void)state;
    enum { SENDERS = 6, EACH = 3000 };
    static struct node a, sender[SENDERS];
    fixture_open(&a);
    for (int i = 0; i < SENDERS; i++) {
        fixture_open(&sender[i]);
        fixture_introduce(&a, &sender[i], true);
        fixture_introduce(&sender[i], &a, true);
        a.last_stamp = 0;
    }
    a.echo = true;
    for (int i = 0; i < SENDERS; i++)
        assert_int_equal(fixture_ping(&sender[i], &a, EACH), EACH);
    for (int i = 0; i < SENDERS; i++)
        WAIT_UNTIL(sender[i].messages == EACH);
    for (int i = 0; i < SENDERS; i++)
        fixture_close(&sender[i]);
    fixture_close(&a);
}

/* ---- Binding ----------------------------------------------------------------------------------------------
 */

static void a_port_in_use_is_named(void **state)
{
    (void)state;
    struct node a, b;
    struct transport_failure failure;
    fixture_open(&a);
    fixture_prepare(&b);
    assert_int_equal(fixture_bind(&b, transport_bound(a.transport), &failure), TRANSPORT_IN_USE);
    print_message("    %s\n", failure.text);
    assert_non_null(strstr(failure.text, transport_bound(a.transport)));
    assert_non_null(strstr(failure.text, "control_bind"));
    assert_int_equal(fixture_bind(&b, "here and there", &failure), TRANSPORT_BAD_ADDRESS);
    print_message("    %s\n", failure.text);
    assert_int_equal(fixture_bind(&b, "192.0.2.1:7700", &failure), TRANSPORT_BAD_ADDRESS);
    print_message("    %s\n", failure.text);
    assert_int_equal(fixture_bind(&b, "[::1]:*", &failure), TRANSPORT_OK);
    print_message("    bound %s\n", transport_bound(b.transport));
    fixture_start(&b);
    fixture_close(&b);
    fixture_prepare(&b);
    assert_int_equal(fixture_bind(&b, "*:*", &failure), TRANSPORT_OK);
    print_message("    bound %s\n", transport_bound(b.transport));
    fixture_start(&b);
    fixture_close(&b);
    fixture_close(&a);
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_known_peer_gets_through_both_ways),
        cmocka_unit_test(a_peer_without_address_is_answered_on_its_own_connection),
        cmocka_unit_test(a_full_message_passes_and_a_longer_one_is_not_sent),
        cmocka_unit_test(an_unknown_key_is_refused),
        cmocka_unit_test(an_expired_certificate_is_refused),
        cmocka_unit_test(a_revoked_peer_is_refused),
        cmocka_unit_test(a_wrong_server_key_breaks_the_handshake),
        cmocka_unit_test(plain_text_is_refused),
        cmocka_unit_test(a_peer_revoked_in_mid_session_is_not_heard_any_more),
        cmocka_unit_test(a_message_before_hello_is_dropped_and_hello_is_asked_for),
        cmocka_unit_test(a_multi_frame_message_is_dropped_and_shut_out),
        cmocka_unit_test(garbage_is_dropped_and_shut_out),
        cmocka_unit_test(a_bulk_frame_on_control_is_dropped_and_shut_out),
        cmocka_unit_test(a_message_just_over_the_limit_is_counted_and_shut_out),
        cmocka_unit_test(a_huge_message_ends_its_connection),
        cmocka_unit_test(a_hello_in_anothers_name_is_shut_out),
        cmocka_unit_test(a_link_uses_the_highest_protocol_that_both_speak),
        cmocka_unit_test(without_a_common_protocol_both_sides_say_who_must_be_upgraded),
        cmocka_unit_test(a_kind_of_a_later_protocol_is_not_sent_to_an_older_peer),
        cmocka_unit_test(another_protocol_is_counted_and_not_heard),
        cmocka_unit_test(an_older_process_of_a_peer_is_answered_with_the_news_and_not_heard),
        cmocka_unit_test(a_raised_incarnation_is_greeted_with_on_links_that_are_up),
        cmocka_unit_test(a_refused_greeting_is_followed_by_one_of_the_raised_incarnation),
        cmocka_unit_test(what_the_owner_finds_wrong_shuts_out),
        cmocka_unit_test(an_admitted_key_of_no_known_peer_is_counted),
        cmocka_unit_test(a_killed_peer_is_noticed_and_a_restarted_one_is_a_new_session),
        cmocka_unit_test(redialling_nobody_reports_down_with_reset),
        cmocka_unit_test(a_full_queue_drops_and_counts),
        cmocka_unit_test(many_senders_are_all_heard),
        cmocka_unit_test(a_port_in_use_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
