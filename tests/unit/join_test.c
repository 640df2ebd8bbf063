/* The join socket over real sockets on loopback: who gets in, who is refused and why, and what strangers
 * can't do to the node. Run as `join_test flood ...` it is such a stranger; as `join_test join-child ...` the
 * child. */
#include "join_fixture.h"

#include "node/renewal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <zmq.h>

static int setup(void **state)
{
    struct member *member = malloc(sizeof *member);
    member_open(member, "testing");
    *state = member;
    return 0;
}

static int teardown(void **state)
{
    member_close(*state);
    free(*state);
    return 0;
}

/* ---- Who gets in */

static void a_guest_gets_a_certificate_for_the_token_s_site(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){.site = "berlin"}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_string_equal(guest.response.certificate.site, "berlin");
    assert_string_equal(guest.response.certificate.name, "second");
    assert_int_equal(guest.response.certificate.rights, RIGHT_NODE | RIGHT_SUBMIT);
    struct federation_peers peers;
    assert_true(federation_peers_decode(guest.result.peers, guest.result.peers_count, &peers));
    assert_int_equal(peers.count, 1);
    struct invite invite;
    invites_at(member->invites, 0, wall_s(), &invite);
    assert_int_equal(invite.state, INVITE_IS_USED);
    assert_true(public_key_equal(&invite.used_by, &guest.identity.node));
}

static void a_user_gets_a_certificate_to_submit_only(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){.site = "berlin", .user = "ada"}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED); /* it came as a node */
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_MISMATCH);
    memset(&guest.identity.join_curve, 0, sizeof guest.identity.join_curve);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_string_equal(guest.response.certificate.name, "ada");
    assert_int_equal(guest.response.certificate.rights, RIGHT_SUBMIT);
}

static void the_same_guest_gets_the_same_answer_again(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    const struct certificate first = guest.response.certificate;
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_memory_equal(first.serial, guest.response.certificate.serial, sizeof first.serial);

    /* Also after the inviter started again. */
    assert_int_equal(invites_reload(member->invites), STORE_OK);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_memory_equal(first.serial, guest.response.certificate.serial, sizeof first.serial);
}

/* ---- Who is refused */

static void another_guest_can_t_use_a_token_again(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_USED);
    assert_true(guest.result.when_s > 0);
}

static void an_expired_token_is_refused_with_its_time(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    const struct invite invite = member_invite(member, (struct invite_request){.expires_s = 1}, &guest.token);
    guest_keys(&guest.identity);
    while (wall_s() <= invite.expires_s)
        usleep(50000);
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_EXPIRED);
    assert_int_equal(guest.result.when_s, invite.expires_s);
}

static void a_cancelled_token_is_refused(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    const struct invite invite = member_invite(member, (struct invite_request){0}, &guest.token);
    char hex[DIGEST_HEX_BYTES];
    digest_to_hex(&invite.id, hex);
    hex[8] = '\0';
    struct store_batch *batch;
    struct invite cancelled;
    assert_int_equal(store_batch_open(member->store, &batch), STORE_OK);
    assert_int_equal(invites_cancel(member->invites, hex, wall_s(), batch, &cancelled), INVITE_OK);
    assert_int_equal(store_commit_wait(member->store, batch), STORE_OK);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_CANCELLED);
}

static void tokens_of_other_federations_and_made_up_ones_are_refused(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    guest.token.secret[0] ^= 1;
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_TOKEN);
    guest.token.secret[0] ^= 1;
    guest.token.federation.bytes[0] ^= 1;
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_FEDERATION);
    guest.token.federation.bytes[0] ^= 1;
    guest.token.inviter.bytes[0] ^= 1;
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_INVITER);
}

static void a_certificate_leaves_only_once_the_token_is_marked_used(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    member->commit_fails = true;
    assert_int_equal(guest_join(&guest, member), JOIN_REFUSED);
    assert_int_equal(guest.result.refusal, JOIN_REFUSED_LOCAL);
}

static void a_guest_that_dials_nobody_or_a_stranger_gives_up(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    guest.token.join_curve.bytes[3] ^= 1; /* somebody else listens there */
    assert_int_equal(guest_join(&guest, member), JOIN_UNREACHABLE);
}

/* ---- Presentations and renewal */

struct outcome {
    bool done;
    struct join_result result;
};

static void keep_outcome(void *context, const struct join_result *result)
{
    struct outcome *outcome = context;
    outcome->result = *result;
    outcome->done = true;
}

static bool outcome_done(void *context)
{
    return ((struct outcome *)context)->done;
}

/* A second node, in a folder, joined at `member`. */
static struct federation *second_node(struct member *member, const struct invite_request *request,
                                      char folder[64], char data[96])
{
    folder_make(folder);
    snprintf(data, 96, "%s/data", folder);
    struct federation_lock lock;
    struct federation_failure failure = {0};
    struct guest guest = {0};
    member_invite(member, *request, &guest.token);
    if (federation_guest_open(data, wall_s(), &guest.identity, &lock, &failure) != FEDERATION_OK)
        fail_msg("%s", failure.text);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_int_equal(federation_guest_finish(data, guest.response.genesis_bytes, guest.response.genesis_count,
                                             guest.result.peers, guest.result.peers_count,
                                             guest.response.chain_bytes, guest.response.chain_count,
                                             &failure),
                     FEDERATION_OK);
    federation_guest_close(&lock);
    identity_wipe(&guest.identity);
    return load(data);
}

static void contact_of(const struct member *member, struct federation_contact *contact)
{
    const struct identity *identity = federation_identity(member->federation);
    *contact = (struct federation_contact){
        .node = identity->node, .join_curve = identity->join_curve, .address_count = 1};
    snprintf(contact->addresses[0], sizeof contact->addresses[0], "127.0.0.1:%u",
             join_server_port(member->server));
}

static void a_member_presents_itself_and_is_renewed(void **state)
{
    struct member *member = *state;
    char folder[64], data[96];
    struct federation *second =
        second_node(member, &(struct invite_request){.lifetime_s = 4000}, folder, data);
    const int64_t before_s = federation_certificate(second)->not_after_s;
    void *zmq = zmq_ctx_new();
    struct join_client *client;
    assert_true(join_client_open(member->loop, zmq, second, &client));
    struct federation_contact contact;
    contact_of(member, &contact);

    struct outcome shown = {0};
    assert_true(join_present(client, &contact, keep_outcome, &shown));
    assert_true(member_serve(member, outcome_done, &shown, 20000));
    assert_int_equal(shown.result.error, JOIN_OK);
    assert_int_equal(member->admitted, 2); /* with its certificate, then by showing it */
    assert_true(public_key_equal(&member->admitted_last.node, &federation_identity(second)->node));

    assert_false(federation_renew_due(second, wall_s()));
    assert_true(federation_renew_due(second, wall_s() + 3000));
    sleep(1);
    struct outcome renewed = {0};
    assert_true(join_renew(client, &contact, keep_outcome, &renewed));
    assert_true(member_serve(member, outcome_done, &renewed, 20000));
    assert_int_equal(renewed.result.error, JOIN_OK);
    assert_true(federation_certificate(second)->not_after_s > before_s);
    struct federation *again = load(data); /* and it is on the disk */
    assert_int_equal(federation_certificate(again)->not_after_s, federation_certificate(second)->not_after_s);
    federation_close(again);

    /* Once revoked, it is neither admitted nor renewed. */
    uint8_t record[REVOCATION_BYTES_MAX];
    size_t bytes;
    const struct federation_revoke revoke = {
        .nodes = &federation_identity(second)->node, .node_count = 1, .who = "ops", .reason = "lost"};
    assert_int_equal(federation_revoke(member->federation, &revoke, wall_s(), record, sizeof record, &bytes),
                     CRYPTO_OK);
    struct federation_revocation added;
    assert_int_equal(federation_revocation_add(member->federation, record, bytes, wall_s(), &added),
                     CRYPTO_OK);
    struct outcome refused = {0};
    assert_true(join_present(client, &contact, keep_outcome, &refused));
    assert_true(member_serve(member, outcome_done, &refused, 20000));
    assert_int_equal(refused.result.error, JOIN_REFUSED);
    assert_int_equal(refused.result.refusal, JOIN_REFUSED_REVOKED);
    assert_int_equal(member->admitted, 2);

    member_stop(member);
    join_client_close(client);
    zmq_ctx_term(zmq);
    federation_close(second);
    folder_remove(folder);
}

struct renewing {
    struct federation_contact contact;
    uint32_t renewed;
};

static bool only_issuer(void *context, uint32_t index, struct federation_contact *contact)
{
    *contact = ((struct renewing *)context)->contact;
    return index == 0;
}

static void note_renewed(void *context)
{
    ((struct renewing *)context)->renewed++;
}

static bool was_renewed_twice(void *context)
{
    return ((struct renewing *)context)->renewed >= 2;
}

static void a_node_renews_itself_again_and_again(void **state)
{
    struct member *member = *state;
    char folder[64], data[96];
    struct federation *second =
        second_node(member, &(struct invite_request){.lifetime_s = FEDERATION_LIFETIME_MIN_S}, folder, data);
    const int64_t before_s = federation_certificate(second)->not_after_s;
    void *zmq = zmq_ctx_new();
    struct join_client *client;
    struct renewal *renewal;
    struct renewing renewing = {0};
    contact_of(member, &renewing.contact);
    const struct renewal_callbacks callbacks = {
        .issuer = only_issuer, .renewed = note_renewed, .context = &renewing};
    assert_true(join_client_open(member->loop, zmq, second, &client));
    assert_true(renewal_open(member->loop, second, client, &callbacks, &renewal));
    assert_true(member_serve(member, was_renewed_twice, &renewing, 40000));
    assert_true(federation_certificate(second)->not_after_s >= before_s + 10);
    member_stop(member);
    join_client_close(client);
    renewal_close(renewal);
    zmq_ctx_term(zmq);
    federation_close(second);
    folder_remove(folder);
}

/* ---- Strangers */

static void *stranger_socket(void *zmq, const struct member *member)
{
    char public_key[41], secret_key[41], endpoint[64];
    assert_int_equal(zmq_curve_keypair(public_key, secret_key), 0);
    void *socket = zmq_socket(zmq, ZMQ_DEALER);
    const int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, federation_identity(member->federation)->join_curve.bytes,
                   32);
    zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 41);
    zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 41);
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", join_server_port(member->server));
    assert_int_equal(zmq_connect(socket, endpoint), 0);
    return socket;
}

struct answered {
    void *socket;
    uint8_t frame[JOIN_FRAME_BYTES_MAX];
    int count;
};

static bool has_answer(void *context)
{
    struct answered *answered = context;
    answered->count = zmq_recv(answered->socket, answered->frame, sizeof answered->frame, ZMQ_DONTWAIT);
    return answered->count >= 0;
}

static void malformed_requests_are_refused_or_dropped(void **state)
{
    struct member *member = *state;
    void *zmq = zmq_ctx_new();
    struct answered answered = {.socket = stranger_socket(zmq, member)};
    const struct {
        const char *frame;
        size_t count;
    } cases[] = {
        {"\x01\x01", 2},          /* an empty JOIN */
        {"\x01\x01garbage", 9},   /* */
        {"\x01\x02 surplus", 10}, /* a HELLO with a body */
        {"\x01\x03", 2},          /* an empty PRESENT */
        {"\x02\x02", 2},          /* another version */
        {"\x01\x63", 2},          /* an unknown kind */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zmq_send(answered.socket, cases[i].frame, cases[i].count, 0);
        assert_true(member_serve(member, has_answer, &answered, 5000));
        assert_int_equal(answered.count, 11);
        assert_int_equal(answered.frame[1], 255);
        assert_int_equal(answered.frame[2], JOIN_REFUSED_MALFORMED);
    }
    /* A nonce that nobody gave, with garbage behind it. */
    uint8_t forged[2 + 32 + 100] = {1, 3};
    zmq_send(answered.socket, forged, sizeof forged, 0);
    assert_true(member_serve(member, has_answer, &answered, 5000));
    assert_int_equal(answered.frame[2], JOIN_REFUSED_NONCE);

    /* Several frames, and too few bytes: no answer, but counted. */
    zmq_send(answered.socket, "\x01\x02", 2, ZMQ_SNDMORE);
    zmq_send(answered.socket, "\x01\x02", 2, 0);
    zmq_send(answered.socket, "\x01", 1, 0);
    assert_false(member_serve(member, has_answer, &answered, 2500));
    struct join_counters counters;
    join_server_counters(member->server, &counters);
    assert_int_equal(counters.dropped_shape, 2);

    /* Too long: libzmq ends the connection. */
    uint8_t *large = calloc(1, 1 << 20);
    zmq_send(answered.socket, large, 1 << 20, 0);
    free(large);
    assert_false(member_serve(member, has_answer, &answered, 1000));
    zmq_close(answered.socket);
    zmq_ctx_term(zmq);
}

static bool child_is_new(void *context)
{
    const struct member *member = ((void **)context)[0];
    const int old = *(int *)((void **)context)[1];
    return join_server_child(member->server) != 0 && join_server_child(member->server) != old;
}

static void a_killed_child_is_started_again_on_its_port(void **state)
{
    struct member *member = *state;
    const uint16_t port = join_server_port(member->server);
    for (int i = 0; i < 2; i++) {
        int old = join_server_child(member->server);
        void *context[] = {member, &old};
        assert_int_equal(kill(old, SIGKILL), 0);
        assert_true(member_serve(member, child_is_new, context, 10000));
    }
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    assert_int_equal(join_server_port(member->server), port);
}

/* A child that was taken over by a stranger can read no file: the keys beside join.key are out of reach. */
static void the_child_holds_few_descriptors(void **state)
{
    const struct member *member = *state;
    char path[64], target[256];
    snprintf(path, sizeof path, "/proc/%d/fd", join_server_child(member->server));
    DIR *folder = opendir(path);
    if (!folder)
        skip(); /* not dumpable, and we are not root */
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const ssize_t count = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
        if (count <= 0)
            continue;
        target[count] = '\0';
        assert_null(strstr(target, ".key"));
        assert_null(strstr(target, "store"));
    }
    closedir(folder);
}

static void idle_strangers_are_shed_before_descriptors_run_out(void **state)
{
    struct member *member = *state;
    int sockets[480], old = join_server_child(member->server);
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(join_server_port(member->server)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int count = 0;
    for (; count < 480; count++) {
        sockets[count] = socket(AF_INET, SOCK_STREAM, 0);
        assert_true(sockets[count] >= 0);
        if (connect(sockets[count], (const struct sockaddr *)&address, sizeof address) != 0) {
            close(sockets[count]);
            assert_true(count > 300); /* on a slow machine they are shed while we are at it */
            break;
        }
    }
    void *context[] = {member, &old};
    assert_true(member_serve(member, child_is_new, context, 10000));
    struct join_counters counters;
    join_server_counters(member->server, &counters);
    assert_int_equal(counters.sheds, 1);
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK);
    for (int i = 0; i < count; i++)
        close(sockets[i]);
}

/* ---- The flood */

static int descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static long resident_kb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d %ld", &pages), 1);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

#define FLOOD_S 5

/* Connects in clear, sends garbage, keeps up to 600 connections, and beside that sends multipart messages and
 * HELLOs over CURVE as fast as it can. */
static int flood(const char *port_text, const char *key_hex)
{
    const int port = atoi(port_text);
    uint8_t key[32];
    sodium_hex2bin(key, sizeof key, key_hex, strlen(key_hex), NULL, NULL, NULL);
    void *zmq = zmq_ctx_new();
    void *sockets[20];
    for (int i = 0; i < 20; i++) {
        char public_key[41], secret_key[41], endpoint[64];
        zmq_curve_keypair(public_key, secret_key);
        sockets[i] = zmq_socket(zmq, ZMQ_DEALER);
        const int linger = 0, high_water = 100000;
        zmq_setsockopt(sockets[i], ZMQ_LINGER, &linger, sizeof linger);
        zmq_setsockopt(sockets[i], ZMQ_SNDHWM, &high_water, sizeof high_water);
        zmq_setsockopt(sockets[i], ZMQ_CURVE_SERVERKEY, key, 32);
        zmq_setsockopt(sockets[i], ZMQ_CURVE_PUBLICKEY, public_key, 41);
        zmq_setsockopt(sockets[i], ZMQ_CURVE_SECRETKEY, secret_key, 41);
        snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port);
        zmq_connect(sockets[i], endpoint);
    }
    static int kept[600];
    static uint8_t part[1000];
    const int64_t end_ms = clock_now_ms() + FLOOD_S * 1000;
    int connections = 0;
    for (int turn = 0; clock_now_ms() < end_ms; turn++) {
        if (connections % 2000 == 0)
            usleep(20000); /* so that the other side has a chance to be flooded */
        int *slot = &kept[turn % 600];
        if (*slot > 0)
            close(*slot);
        *slot = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        const struct sockaddr_in address = {.sin_family = AF_INET,
                                            .sin_port = htons((uint16_t)port),
                                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        connect(*slot, (const struct sockaddr *)&address, sizeof address);
        send(*slot, part, sizeof part, MSG_NOSIGNAL | MSG_DONTWAIT);
        connections++;
        for (int i = 0; i < 20; i++) {
            if (i % 2)
                zmq_send(sockets[i], "\x01\x02", 2, ZMQ_DONTWAIT);
            else
                zmq_send(sockets[i], part, sizeof part, ZMQ_DONTWAIT | (turn % 2000 ? ZMQ_SNDMORE : 0));
        }
    }
    printf("flood: %d connections tried\n", connections);
    fflush(stdout);
    _exit(0); /* with all that is open */
}

static bool has_exited(void *context)
{
    return waitpid(*(pid_t *)context, NULL, WNOHANG) != 0;
}

static void a_flood_leaves_the_node_as_it_was(void **state)
{
    struct member *member = *state;
    struct guest guest = {0};
    member_invite(member, (struct invite_request){0}, &guest.token);
    guest_keys(&guest.identity);
    assert_int_equal(guest_join(&guest, member), JOIN_OK); /* so that what is set up once, is */

    const int descriptors_before = descriptors();
    const long resident_before_kb = resident_kb();
    char port[16], key[65];
    snprintf(port, sizeof port, "%u", join_server_port(member->server));
    hex_encode(federation_identity(member->federation)->join_curve.bytes, 32, key);
    char *arguments[] = {"join_test", "flood", port, key, NULL};
    pid_t stranger;
    assert_int_equal(posix_spawn(&stranger, "/proc/self/exe", NULL, NULL, arguments, environ), 0);
    assert_true(member_serve(member, has_exited, &stranger, 60000));

    struct join_counters counters;
    join_server_counters(member->server, &counters);
#define X(name, text) printf("flood: " #name " %llu\n", (unsigned long long)counters.name);
    JOIN_COUNTERS(X)
#undef X
    printf("flood: resident %ld kB before, %ld kB after; descriptors %d, %d\n", resident_before_kb,
           resident_kb(), descriptors_before, descriptors());

    /* Valid joins go on; each guest tries as long as `weir join` would. */
    for (int i = 0; i < 3; i++) {
        struct guest next = {0};
        member_invite(member, (struct invite_request){0}, &next.token);
        guest_keys(&next.identity);
        assert_int_equal(guest_join(&next, member), JOIN_OK);
    }
    assert_int_equal(descriptors(), descriptors_before);
    assert_true(resident_kb() < resident_before_kb + 8 * 1024);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], JOIN_CHILD_COMMAND) == 0)
        return join_child_main(argc - 1, argv + 1);
    if (crypto_init() != CRYPTO_OK)
        return 1;
    if (argc == 4 && strcmp(argv[1], "flood") == 0)
        return flood(argv[2], argv[3]);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_guest_gets_a_certificate_for_the_token_s_site),
        TEST(a_user_gets_a_certificate_to_submit_only),
        TEST(the_same_guest_gets_the_same_answer_again),
        TEST(another_guest_can_t_use_a_token_again),
        TEST(an_expired_token_is_refused_with_its_time),
        TEST(a_cancelled_token_is_refused),
        TEST(tokens_of_other_federations_and_made_up_ones_are_refused),
        TEST(a_certificate_leaves_only_once_the_token_is_marked_used),
        TEST(a_guest_that_dials_nobody_or_a_stranger_gives_up),
        TEST(a_member_presents_itself_and_is_renewed),
        TEST(a_node_renews_itself_again_and_again),
        TEST(malformed_requests_are_refused_or_dropped),
        TEST(a_killed_child_is_started_again_on_its_port),
        TEST(the_child_holds_few_descriptors),
        TEST(idle_strangers_are_shed_before_descriptors_run_out),
        TEST(a_flood_leaves_the_node_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
