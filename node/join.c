#include "node/join_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/little_endian.h"
#include "node/log.h"

#define START_MS 5000
#define PREDECESSOR_MS 2000 /* a port in use may come free so long after the start */
#define PREDECESSOR_STEP_MS 200
#define PAUSE_MIN_MS 200
#define PAUSE_MAX_MS 3200
#define PAUSE_FORGET_MS 30000 /* a child that lived so long starts the pauses anew */
#define REQUESTS_PER_S 50     /* more than a sane child hands over */
#define TURN_REQUESTS 16
#define NONCES_MAX 512 /* used ones, each remembered for JOIN_NONCE_MS */
#define NONCE_TIME_BYTES 8u

struct used_nonce {
    uint8_t nonce[PRESENTATION_NONCE_BYTES];
    int64_t at_ms;
};

/*
 * A child's life: spawned with the endpoint to bind; READY makes it `ready`; when its end of the socketpair
 * closes it is reaped and the next one is due at restart_at_ms, on the port that the first one got.
 */
struct join_server {
    struct loop *loop;
    struct join_options options;
    struct join_callbacks callbacks;
    char bind[JOIN_ENDPOINT_BYTES_MAX];
    char program[FEDERATION_PATH_BYTES_MAX];
    char keys[FEDERATION_PATH_BYTES_MAX + 8];
    uint16_t port;

    pid_t child;
    int fd;
    bool ready;
    int64_t started_at_ms;
    int64_t restart_at_ms;
    int64_t pause_ms;

    struct join_bucket requests;
    uint8_t nonce_key[32];
    struct used_nonce used[NONCES_MAX]; /* a ring */
    uint32_t used_next;

    bool committing;          /* a JOIN waits for its batch; `reply` is its answer */
    uint32_t number;          /* of that request */
    struct certificate guest; /* whom it certifies */
    size_t reply_bytes;
    uint8_t reply[LINK_BYTES_MAX];

    struct join_counters counters;
    uint64_t child_counts[LINK_COUNTS_COUNT]; /* as the living child told last */
};

const char *join_refusal_name(enum join_refusal refusal)
{
    static const char *const names[] = {
        "not",  "busy",      "malformed", "federation", "inviter", "signature", "token", "expired",
        "used", "cancelled", "mismatch",  "revoked",    "nonce",   "chain",     "right", "local"};
    return refusal < sizeof names / sizeof names[0] ? names[refusal] : "unknown";
}

/* ---- The child */

static bool spawn(struct join_server *server, char *error, size_t error_bytes)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        snprintf(error, error_bytes, "cannot start the join socket's process: %s", strerror(errno));
        return false;
    }
    char endpoint[JOIN_ENDPOINT_BYTES_MAX + 16];
    const bool bare_v6 = strchr(server->bind, ':') && server->bind[0] != '[';
    snprintf(endpoint, sizeof endpoint, bare_v6 ? "tcp://[%s]:%s%u" : "tcp://%s:%s%u", server->bind,
             server->port ? "" : "*", server->port);
    if (!server->port)
        endpoint[strlen(endpoint) - 1] = '\0'; /* "*0" to "*": any port */
    char *arguments[] = {"weir", JOIN_CHILD_COMMAND, endpoint, server->keys, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], LINK_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, LINK_FD + 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    const int result =
        posix_spawn(&server->child, server->program, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (result != 0) {
        snprintf(error, error_bytes, "cannot start %s for the join socket: %s", server->program,
                 strerror(result));
        close(ends[0]);
        server->child = 0;
        return false;
    }
    server->fd = ends[0];
    server->ready = false;
    server->started_at_ms = clock_now_ms();
    return true;
}

static void reap(struct join_server *server)
{
    if (server->fd >= 0) {
        loop_unwatch(server->loop, server->fd);
        close(server->fd);
    }
    server->fd = -1;
    if (server->child > 0) {
        kill(server->child, SIGKILL); /* it is dead, or about to be: its end is closed */
        while (waitpid(server->child, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    server->child = 0;
    server->ready = false;
    memset(server->child_counts, 0, sizeof server->child_counts);
}

static void restart_later(struct join_server *server)
{
    const int64_t now_ms = clock_now_ms();
    if (now_ms - server->started_at_ms > PAUSE_FORGET_MS || server->pause_ms == 0)
        server->pause_ms = PAUSE_MIN_MS;
    else if (server->pause_ms < PAUSE_MAX_MS)
        server->pause_ms *= 2;
    reap(server);
    server->restart_at_ms = now_ms + server->pause_ms;
    log_warn("join_child", "state=ended restart_ms=%" PRId64, server->pause_ms);
}

static void take_counts(struct join_server *server, const uint8_t *body, size_t count)
{
    if (count != 8 * LINK_COUNTS_COUNT)
        return;
    uint64_t *const totals[LINK_COUNTS_COUNT] = {
        &server->counters.connections,   &server->counters.handshakes_over, &server->counters.dropped_rate,
        &server->counters.dropped_shape, &server->counters.sheds,
    };
    for (int i = 0; i < LINK_COUNTS_COUNT; i++) {
        const uint64_t now = le64_get(body + 8 * i);
        *totals[i] += now - server->child_counts[i];
        server->child_counts[i] = now;
    }
}

/* ---- Answers. Each is built in a buffer that begins with the link's head, which needs no second copy. */

#define LINK_HEAD_BYTES 5u

struct reply {
    uint8_t *bytes; /* LINK_BYTES_MAX */
    size_t count;   /* link head included */
};

static void reply_begin(struct reply *reply, uint32_t number, enum join_kind kind)
{
    reply->bytes[0] = LINK_ANSWER;
    le32_put(reply->bytes + 1, number);
    reply->bytes[LINK_HEAD_BYTES] = JOIN_VERSION;
    reply->bytes[LINK_HEAD_BYTES + 1] = (uint8_t)kind;
    reply->count = LINK_HEAD_BYTES + JOIN_HEAD_BYTES;
}

static void reply_add(struct reply *reply, const void *bytes, size_t count)
{
    assert(count <= LINK_HEAD_BYTES + JOIN_FRAME_BYTES_MAX - reply->count);
    memcpy(reply->bytes + reply->count, bytes, count);
    reply->count += count;
}

static void reply_peers(const struct join_server *server, struct reply *reply)
{
    uint8_t *at = reply->bytes + reply->count;
    const size_t room = LINK_HEAD_BYTES + JOIN_FRAME_BYTES_MAX - reply->count;
    const size_t capacity = room < FEDERATION_PEERS_BYTES_MAX ? room : FEDERATION_PEERS_BYTES_MAX;
    size_t count = 0;
    if (server->callbacks.peers)
        count = server->callbacks.peers(server->callbacks.context, at, capacity);
    assert(count <= capacity);
    if (count == 0)
        count = federation_peers_begin(at, capacity);
    reply->count += count;
}

static void reply_refuse(struct join_server *server, struct reply *reply, uint32_t number,
                         enum join_refusal refusal, int64_t when_s)
{
    reply_begin(reply, number, JOIN_KIND_REFUSED);
    uint8_t body[9] = {(uint8_t)refusal};
    le64_put(body + 1, (uint64_t)when_s);
    reply_add(reply, body, sizeof body);
    server->counters.refused++;
    const bool noise = refusal == JOIN_REFUSED_MALFORMED || refusal == JOIN_REFUSED_BUSY;
    log_write(noise ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "join_refused", "reason=%s",
              join_refusal_name(refusal));
}

static void reply_send(struct join_server *server, const struct reply *reply)
{
    if (server->fd >= 0)
        send(server->fd, reply->bytes, reply->count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One request, as the child handed it over. */
struct request {
    uint32_t number;
    struct curve_public key; /* of the connection */
    const uint8_t *body;
    size_t count;
};

/* ---- JOIN */

static enum join_refusal refusal_of_crypto(enum crypto_error error)
{
    switch (error) {
    case CRYPTO_OK:
        return JOIN_REFUSED_NOT;
    case CRYPTO_WRONG_FEDERATION:
    case CRYPTO_UNKNOWN_AUTHORITY:
        return JOIN_REFUSED_FEDERATION;
    case CRYPTO_NOT_OURS:
        return JOIN_REFUSED_INVITER;
    case CRYPTO_BAD_SIGNATURE:
        return JOIN_REFUSED_SIGNATURE;
    case CRYPTO_EXPIRED:
        return JOIN_REFUSED_EXPIRED;
    case CRYPTO_REVOKED:
        return JOIN_REFUSED_REVOKED;
    case CRYPTO_RIGHTS_WIDER:
    case CRYPTO_ISSUER_RIGHT_LACKS:
        return JOIN_REFUSED_RIGHT;
    case CRYPTO_TRUNCATED:
    case CRYPTO_TRAILING:
    case CRYPTO_WRONG_MAGIC:
    case CRYPTO_MALFORMED:
    case CRYPTO_TOO_LARGE:
        return JOIN_REFUSED_MALFORMED;
    default:
        return crypto_error_class(error) == CRYPTO_CLASS_PEER ? JOIN_REFUSED_CHAIN : JOIN_REFUSED_LOCAL;
    }
}

static enum join_refusal refusal_of_invite(enum invite_error error)
{
    switch (error) {
    case INVITE_OK:
        return JOIN_REFUSED_NOT;
    case INVITE_UNKNOWN:
        return JOIN_REFUSED_TOKEN;
    case INVITE_USED:
        return JOIN_REFUSED_USED;
    case INVITE_EXPIRED:
        return JOIN_REFUSED_EXPIRED;
    case INVITE_CANCELLED:
        return JOIN_REFUSED_CANCELLED;
    case INVITE_MISMATCH:
        return JOIN_REFUSED_MISMATCH;
    case INVITE_UNISSUABLE:
        return JOIN_REFUSED_RIGHT;
    default:
        return JOIN_REFUSED_LOCAL;
    }
}

static bool reply_joined(const struct join_server *server, struct reply *reply, uint32_t number,
                         const struct invite_redeemed *redeemed)
{
    size_t genesis_bytes, bytes;
    const uint8_t *genesis = federation_genesis_bytes(server->options.federation, &genesis_bytes);
    uint8_t response[JOIN_RESPONSE_BYTES_MAX];
    if (join_response_encode(genesis, genesis_bytes, redeemed->chain, redeemed->chain_bytes, response,
                             sizeof response, &bytes) != CRYPTO_OK)
        return false;
    uint8_t length[2];
    le16_put(length, (uint16_t)bytes);
    reply_begin(reply, number, JOIN_KIND_JOINED);
    reply_add(reply, length, sizeof length);
    reply_add(reply, response, bytes);
    reply_peers(server, reply);
    return true;
}

/* The verified guest's token is redeemed; true when the answer waits for the batch. */
static bool redeem(struct join_server *server, const struct join_request *join, const struct request *request,
                   struct reply *reply)
{
    struct store_batch *batch = NULL;
    if (server->committing || store_batch_open(server->options.store, &batch) != STORE_OK) {
        reply_refuse(server, reply, request->number, JOIN_REFUSED_BUSY, 0);
        return false;
    }
    struct invite_redeemed redeemed;
    const enum invite_error error =
        invites_redeem(server->options.invites, join, clock_wall_ms() / 1000, batch, &redeemed);
    struct reply later = {.bytes = server->reply};
    if (error != INVITE_OK) {
        reply_refuse(server, reply, request->number, refusal_of_invite(error), redeemed.when_s);
    } else if (!reply_joined(server, redeemed.again ? reply : &later, request->number, &redeemed)) {
        reply_refuse(server, reply, request->number, JOIN_REFUSED_LOCAL, 0);
    } else {
        char node[KEY_SHORT_BYTES];
        key_short(&join->node, node);
        log_info("joined", "node=%s name=%s site=%s again=%s", node, join->name, redeemed.invite.site,
                 redeemed.again ? "yes" : "no");
        server->counters.joined++;
        if (!redeemed.again) {
            server->committing = true;
            server->number = request->number;
            server->reply_bytes = later.count;
            struct certificate given[CHAIN_CERTIFICATES_MAX];
            uint32_t count;
            server->guest = (struct certificate){0};
            if (chain_view(redeemed.chain, redeemed.chain_bytes, given, &count) == CRYPTO_OK)
                server->guest = given[0];
            server->callbacks.commit(server->callbacks.context, batch);
            return true;
        }
    }
    store_batch_close(batch);
    return false;
}

static bool on_join(struct join_server *server, const struct request *request, struct reply *reply)
{
    const struct federation *federation = server->options.federation;
    struct join_request join;
    const enum crypto_error error =
        join_request_verify(request->body, request->count, &federation_genesis(federation)->federation,
                            &federation_identity(federation)->node, &join);
    bool later = false;
    if (error != CRYPTO_OK)
        reply_refuse(server, reply, request->number, refusal_of_crypto(error), 0);
    else if (!curve_public_equal(&join.curve, &request->key))
        reply_refuse(server, reply, request->number, JOIN_REFUSED_SIGNATURE, 0);
    else
        later = redeem(server, &join, request, reply);
    join_request_wipe(&join);
    return later;
}

void join_server_committed(struct join_server *server, enum store_error error)
{
    assert(server->committing);
    server->committing = false;
    struct reply reply = {.bytes = server->reply, .count = server->reply_bytes};
    if (error != STORE_OK) {
        log_error("join", "error=store reason=%s", store_error_name(error));
        invites_reload(server->options.invites);
        server->counters.joined--;
        reply_refuse(server, &reply, server->number, JOIN_REFUSED_LOCAL, 0);
    } else if (server->callbacks.admit && (server->guest.rights & RIGHT_NODE)) {
        server->callbacks.admit(server->callbacks.context, &server->guest);
    }
    reply_send(server, &reply);
    sodium_memzero(server->reply, sizeof server->reply);
}

/* ---- HELLO, PRESENT, RENEW */

/*
 * A nonce is the time and a keyed digest of it and of the connection's CURVE key, so that giving one costs
 * this node no memory, however many strangers ask.
 */
static void nonce_make(const struct join_server *server, int64_t at_ms, const struct curve_public *key,
                       uint8_t nonce[PRESENTATION_NONCE_BYTES])
{
    le64_put(nonce, (uint64_t)at_ms);
    crypto_generichash_state state;
    crypto_generichash_init(&state, server->nonce_key, sizeof server->nonce_key,
                            PRESENTATION_NONCE_BYTES - NONCE_TIME_BYTES);
    crypto_generichash_update(&state, nonce, NONCE_TIME_BYTES);
    crypto_generichash_update(&state, key->bytes, sizeof key->bytes);
    crypto_generichash_final(&state, nonce + NONCE_TIME_BYTES, PRESENTATION_NONCE_BYTES - NONCE_TIME_BYTES);
}

static enum join_refusal nonce_check(const struct join_server *server, const struct curve_public *key,
                                     const uint8_t nonce[PRESENTATION_NONCE_BYTES])
{
    const int64_t now_ms = clock_now_ms();
    const uint64_t at_ms = le64_get(nonce);
    if (at_ms > (uint64_t)now_ms || (uint64_t)now_ms - at_ms > JOIN_NONCE_MS)
        return JOIN_REFUSED_NONCE;
    uint8_t ours[PRESENTATION_NONCE_BYTES];
    nonce_make(server, (int64_t)at_ms, key, ours);
    if (sodium_memcmp(ours, nonce, sizeof ours) != 0)
        return JOIN_REFUSED_NONCE;
    for (uint32_t i = 0; i < NONCES_MAX; i++) {
        if (server->used[i].at_ms && memcmp(server->used[i].nonce, nonce, sizeof ours) == 0)
            return JOIN_REFUSED_NONCE;
    }
    const struct used_nonce *oldest = &server->used[server->used_next];
    return oldest->at_ms && now_ms - oldest->at_ms <= JOIN_NONCE_MS ? JOIN_REFUSED_BUSY : JOIN_REFUSED_NOT;
}

static void nonce_use(struct join_server *server, const uint8_t nonce[PRESENTATION_NONCE_BYTES])
{
    struct used_nonce *slot = &server->used[server->used_next];
    server->used_next = (server->used_next + 1) % NONCES_MAX;
    memcpy(slot->nonce, nonce, sizeof slot->nonce);
    slot->at_ms = clock_now_ms();
}

static void on_hello(const struct join_server *server, const struct request *request, struct reply *reply)
{
    uint8_t nonce[PRESENTATION_NONCE_BYTES];
    nonce_make(server, clock_now_ms(), &request->key, nonce);
    reply_begin(reply, request->number, JOIN_KIND_NONCE);
    reply_add(reply, nonce, sizeof nonce);
    reply_add(reply, federation_identity(server->options.federation)->node.bytes, 32);
}

struct shown {
    const uint8_t *chain;
    size_t chain_bytes;
    struct certificate leaf;
};

static enum join_refusal check_presentation(const struct join_server *server, const struct request *request,
                                            struct shown *shown)
{
    if (request->count < PRESENTATION_NONCE_BYTES)
        return JOIN_REFUSED_MALFORMED;
    struct federation *federation = server->options.federation;
    const uint8_t *nonce = request->body;
    enum join_refusal refusal = nonce_check(server, &request->key, nonce);
    if (refusal != JOIN_REFUSED_NOT)
        return refusal;
    const enum crypto_error error = presentation_verify(
        nonce + PRESENTATION_NONCE_BYTES, request->count - PRESENTATION_NONCE_BYTES,
        federation_genesis(federation), &federation_identity(federation)->node, nonce, clock_wall_ms() / 1000,
        federation_revoked, federation, &shown->chain, &shown->chain_bytes, &shown->leaf);
    if (error != CRYPTO_OK)
        return refusal_of_crypto(error);
    if (!curve_public_equal(&shown->leaf.curve, &request->key))
        return JOIN_REFUSED_SIGNATURE;
    return shown->leaf.rights & RIGHT_NODE ? JOIN_REFUSED_NOT : JOIN_REFUSED_RIGHT;
}

static void on_present(struct join_server *server, const struct request *request, struct reply *reply)
{
    struct shown shown;
    const enum join_refusal refusal = check_presentation(server, request, &shown);
    if (refusal != JOIN_REFUSED_NOT) {
        reply_refuse(server, reply, request->number, refusal, 0);
        return;
    }
    nonce_use(server, request->body);
    server->counters.admitted++;
    if (server->callbacks.admit)
        server->callbacks.admit(server->callbacks.context, &shown.leaf);
    reply_begin(reply, request->number, JOIN_KIND_ADMITTED);
    reply_peers(server, reply);
}

static void on_renew(struct join_server *server, const struct request *request, struct reply *reply)
{
    struct shown shown;
    enum join_refusal refusal = check_presentation(server, request, &shown);
    uint8_t chain[CHAIN_BYTES_MAX];
    size_t bytes = 0;
    if (refusal == JOIN_REFUSED_NOT) {
        nonce_use(server, request->body);
        refusal =
            refusal_of_crypto(federation_renew(server->options.federation, shown.chain, shown.chain_bytes,
                                               clock_wall_ms() / 1000, chain, sizeof chain, &bytes));
    }
    if (refusal != JOIN_REFUSED_NOT) {
        reply_refuse(server, reply, request->number, refusal, 0);
        return;
    }
    server->counters.renewed++;
    reply_begin(reply, request->number, JOIN_KIND_RENEWED);
    reply_add(reply, chain, bytes);
}

/* ---- From the child */

static void on_request(struct join_server *server, const uint8_t *body, size_t count)
{
    static uint8_t buffer[LINK_BYTES_MAX]; /* the loop's thread only */
    if (count < 4 + 32 + JOIN_HEAD_BYTES)
        return;
    struct request request = {.number = le32_get(body), .body = body + 38, .count = count - 38};
    memcpy(request.key.bytes, body + 4, 32);
    struct reply reply = {.bytes = buffer};
    server->counters.requests++;
    bool later = false;
    if (!join_bucket_take(&server->requests, REQUESTS_PER_S, clock_now_ms()))
        reply_refuse(server, &reply, request.number, JOIN_REFUSED_BUSY, 0);
    else if (body[36] != JOIN_VERSION)
        reply_refuse(server, &reply, request.number, JOIN_REFUSED_MALFORMED, 0);
    else if (body[37] == JOIN_KIND_JOIN)
        later = on_join(server, &request, &reply);
    else if (body[37] == JOIN_KIND_HELLO && request.count == 0)
        on_hello(server, &request, &reply);
    else if (body[37] == JOIN_KIND_PRESENT)
        on_present(server, &request, &reply);
    else if (body[37] == JOIN_KIND_RENEW)
        on_renew(server, &request, &reply);
    else
        reply_refuse(server, &reply, request.number, JOIN_REFUSED_MALFORMED, 0);
    if (!later)
        reply_send(server, &reply);
}

/* Returns false when the child is gone. */
static bool on_message(struct join_server *server, const uint8_t *bytes, size_t count, char *error,
                       size_t error_bytes)
{
    switch (bytes[0]) {
    case LINK_READY:
        if (count == 3) {
            server->ready = true;
            server->port = le16_get(bytes + 1);
        }
        return true;
    case LINK_FAILED:
        snprintf(error, error_bytes, "%.*s", (int)(count - 1), (const char *)bytes + 1);
        return false;
    case LINK_REQUEST:
        on_request(server, bytes + 1, count - 1);
        return true;
    case LINK_COUNTS:
        take_counts(server, bytes + 1, count - 1);
        return true;
    default:
        return true;
    }
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    struct join_server *server = context;
    static uint8_t bytes[LINK_BYTES_MAX];
    for (int i = 0; i < TURN_REQUESTS && server->fd >= 0; i++) {
        const ssize_t count = recv(server->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        char error[256] = "";
        if (count <= 0 || !on_message(server, bytes, (size_t)count, error, sizeof error)) {
            if (*error)
                log_warn("join_child", "error=\"%s\"", error);
            restart_later(server);
        }
    }
}

static int64_t on_turn(void *context, int64_t now_ms)
{
    struct join_server *server = context;
    if (server->child > 0)
        return INT64_MAX;
    if (now_ms >= server->restart_at_ms) {
        char error[512];
        server->counters.restarts++;
        if (spawn(server, error, sizeof error)) {
            loop_watch(server->loop, server->fd, EPOLLIN, on_readable, server);
            return INT64_MAX;
        }
        log_error("join_child", "error=\"%s\"", error);
        server->restart_at_ms = now_ms + PAUSE_MAX_MS;
    }
    return server->restart_at_ms;
}

/* ---- Open and close */

/* Waits for READY or FAILED. */
static bool wait_ready(struct join_server *server, char *error, size_t error_bytes)
{
    char reason[256] = "its process ended at once";
    const int64_t until_ms = clock_now_ms() + START_MS;
    while (!server->ready) {
        struct pollfd poll_fd = {.fd = server->fd, .events = POLLIN};
        const int64_t left_ms = until_ms - clock_now_ms();
        if (left_ms <= 0 || poll(&poll_fd, 1, (int)left_ms) == 0) {
            snprintf(reason, sizeof reason, "its process did not answer in %d s", START_MS / 1000);
            break;
        }
        uint8_t bytes[512];
        const ssize_t count = recv(server->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (count <= 0 || !on_message(server, bytes, (size_t)count, reason, sizeof reason))
            break;
    }
    if (!server->ready)
        snprintf(error, error_bytes,
                 "cannot bind the join socket to %s:%u: %s; set [network] bind or join_port to a free one",
                 server->bind, server->options.port, reason);
    return server->ready;
}

bool join_server_open(struct loop *loop, const struct join_options *options,
                      const struct join_callbacks *callbacks, struct join_server **out, char *error,
                      size_t error_bytes)
{
    struct join_server *server = calloc(1, sizeof *server);
    if (!server) {
        snprintf(error, error_bytes, "out of memory");
        return false;
    }
    server->loop = loop;
    server->options = *options;
    server->callbacks = *callbacks;
    server->fd = -1;
    server->port = options->port;
    snprintf(server->bind, sizeof server->bind, "%s", options->bind);
    snprintf(server->program, sizeof server->program, "%s",
             options->program ? options->program : "/proc/self/exe");
    snprintf(server->keys, sizeof server->keys, "%s/keys", federation_data(options->federation));
    randombytes_buf(server->nonce_key, sizeof server->nonce_key);
    const int64_t until_ms = clock_now_ms() + PREDECESSOR_MS;
    while (!spawn(server, error, error_bytes) || !wait_ready(server, error, error_bytes)) {
        /* The child of a node that was killed just now may hold the port for a moment longer. */
        if (clock_now_ms() >= until_ms || !strstr(error, strerror(EADDRINUSE))) {
            join_server_close(server);
            return false;
        }
        reap(server);
        poll(NULL, 0, PREDECESSOR_STEP_MS);
    }
    loop_watch(loop, server->fd, EPOLLIN, on_readable, server);
    loop_on_turn(loop, on_turn, server);
    *out = server;
    return true;
}

void join_server_close(struct join_server *server)
{
    if (!server)
        return;
    reap(server);
    sodium_memzero(server, sizeof *server);
    free(server);
}

uint16_t join_server_port(const struct join_server *server)
{
    return server->port;
}

int join_server_child(const struct join_server *server)
{
    return server->child;
}

void join_server_counters(const struct join_server *server, struct join_counters *counters)
{
    *counters = server->counters;
}
