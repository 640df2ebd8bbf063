#include "node/join_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zmq.h>

#include "node/little_endian.h"

/*
 * The process that strangers talk to. One thread of ours (and libzmq's two): it answers the ZAP questions of
 * its own context, takes messages off the ROUTER, drops those of a wrong shape or over the rate, and passes
 * one at a time to the node.
 *
 * It ends when the node does (the socketpair closes), when memory is over its limit (libzmq aborts), or by
 * itself when connections have used up its descriptors, since there is no other way to close them all. The
 * node starts another one.
 */
#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define ZAP_DOMAIN_OPTION 93 /* ZMQ_ZAP_ENFORCE_DOMAIN, in the draft section of zmq.h */
#define DATA_BYTES_MAX                                                                                       \
    (UINT64_C(64)                                                                                            \
     << 20) /* 30 MiB of it are libzmq's buffers with all connections busy                      \
                          */
#define DESCRIPTORS_MAX 512
#define DESCRIPTORS_SHED 400 /* look every LOOK_MS; 100 more can come meanwhile */
#define LOOK_MS 100
#define COUNTS_MS 1000
#define STACK_BYTES (256u << 10)
#define NICE 10

/* Handshakes and requests a second, from all and from one address. */
#define HANDSHAKES_PER_S 200
#define HANDSHAKES_PER_ADDRESS_S 50
#define REQUESTS_PER_S 20
#define REQUESTS_PER_ADDRESS_S 10
#define ADDRESSES 256 /* buckets, by a keyed hash of the address: some share one */
#define ROUTING_ID_BYTES_MAX 255
#define FRAME_DRAIN 256 /* messages taken in one go, so that the node's answers are looked at in between */

enum count { COUNT_CONNECTIONS, COUNT_HANDSHAKES_OVER, COUNT_RATE, COUNT_SHAPE, COUNT_SHEDS };

struct child {
    void *zmq;
    void *zap;
    void *router;
    DIR *descriptors;
    uint64_t hash_key[2];
    struct join_bucket handshakes;
    struct join_bucket requests;
    struct join_bucket handshakes_by_address[ADDRESSES];
    struct join_bucket requests_by_address[ADDRESSES];
    uint64_t counts[LINK_COUNTS_COUNT];
    uint32_t number; /* of the newest request */
    bool waiting;    /* for its answer */
    int64_t waiting_until_ms;
    uint8_t asker[ROUTING_ID_BYTES_MAX];
    size_t asker_bytes;
    int64_t look_at_ms;
    int64_t counts_at_ms;
};

/* ---- Before any thread and any connection: give up what is not needed */

static void limit(int resource, rlim_t value)
{
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)resource, &now) == 0 && now.rlim_max > value)
        now.rlim_max = value;
    now.rlim_cur = value < now.rlim_max ? value : now.rlim_max;
    setrlimit((__rlimit_resource_t)resource, &now);
}

/* No file can be opened from here on. Kernels without Landlock leave it at the limits. */
static void forbid_files(void)
{
    const struct landlock_ruleset_attr all = {.handled_access_fs = (UINT64_C(1) << 13) - 1};
    const int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (rules < 0)
        return;
    syscall(SYS_landlock_restrict_self, rules, 0);
    close(rules);
}

static void confine(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    signal(SIGINT, SIG_IGN); /* the node decides when this process ends */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    setpriority(PRIO_PROCESS, 0, NICE);
    mallopt(M_ARENA_MAX, 1);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (!SANITIZED) { /* sanitizers map terabytes */
        pthread_setattr_default_np(&attributes);
        limit(RLIMIT_DATA, DATA_BYTES_MAX);
    }
    pthread_attr_destroy(&attributes);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_NOFILE, DESCRIPTORS_MAX);
    forbid_files();
}

/* ---- The socket */

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool router_open(struct child *child, const struct join_identity *identity, const char *endpoint)
{
    child->zmq = zmq_ctx_new();
    child->zap = child->zmq ? zmq_socket(child->zmq, ZMQ_REP) : NULL;
    if (!child->zap || !set_int(child->zap, ZMQ_LINGER, 0) ||
        zmq_bind(child->zap, "inproc://zeromq.zap.01") != 0)
        return false;
    void *router = child->router = zmq_socket(child->zmq, ZMQ_ROUTER);
    const int64_t bytes_max = JOIN_REQUEST_FRAME_BYTES_MAX;
    return router && set_int(router, ZMQ_LINGER, 0) && set_int(router, ZMQ_CURVE_SERVER, 1) &&
           zmq_setsockopt(router, ZMQ_CURVE_SECRETKEY, identity->curve_secret.bytes, 32) == 0 &&
           zmq_setsockopt(router, ZMQ_ZAP_DOMAIN, "join", 4) == 0 && set_int(router, ZAP_DOMAIN_OPTION, 1) &&
           zmq_setsockopt(router, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) == 0 &&
           set_int(router, ZMQ_RCVHWM, 4) /* with 1 a CURVE ROUTER delivers nothing */ &&
           set_int(router, ZMQ_SNDHWM, 2) && set_int(router, ZMQ_ROUTER_MANDATORY, 1) &&
           set_int(router, ZMQ_ROUTER_HANDOVER, 0) && set_int(router, ZMQ_HANDSHAKE_IVL, 5000) &&
           set_int(router, ZMQ_BACKLOG, 128) && set_int(router, ZMQ_IPV6, strchr(endpoint, '[') != NULL) &&
           zmq_bind(router, endpoint) == 0;
}

static void link_send(const uint8_t *bytes, size_t count)
{
    if (send(LINK_FD, bytes, count, MSG_NOSIGNAL) < 0)
        _exit(EXIT_SUCCESS); /* the node is gone */
}

static void tell_failed(const char *reason)
{
    uint8_t message[1 + 256] = {LINK_FAILED};
    snprintf((char *)message + 1, sizeof message - 1, "%s", reason);
    link_send(message, 1 + strlen((char *)message + 1));
}

static bool tell_ready(const struct child *child)
{
    char endpoint[JOIN_ENDPOINT_BYTES_MAX];
    size_t bytes = sizeof endpoint;
    if (zmq_getsockopt(child->router, ZMQ_LAST_ENDPOINT, endpoint, &bytes) != 0)
        return false;
    const char *colon = strrchr(endpoint, ':');
    uint8_t message[3] = {LINK_READY};
    le16_put(message + 1, (uint16_t)(colon ? atoi(colon + 1) : 0));
    link_send(message, sizeof message);
    return true;
}

/* ---- Rates */

static uint32_t address_slot(const struct child *child, const void *address, size_t bytes)
{
    uint64_t hash;
    crypto_shorthash((unsigned char *)&hash, address, bytes, (const unsigned char *)child->hash_key);
    return (uint32_t)(hash % ADDRESSES);
}

_Static_assert(crypto_shorthash_BYTES == 8 && crypto_shorthash_KEYBYTES == 16, "the hash fills a uint64_t");

/* ---- ZAP: everybody may come in, so many a second; their key is noted */

static void zap_answer(struct child *child)
{
    enum { VERSION, ID, DOMAIN, ADDRESS, IDENTITY, MECHANISM, KEY, FRAMES };
    zmq_msg_t frames[FRAMES];
    int count = 0;
    bool more = true;
    for (; more && count < FRAMES; count++) {
        zmq_msg_init(&frames[count]);
        if (zmq_msg_recv(&frames[count], child->zap, ZMQ_DONTWAIT) < 0)
            break;
        more = zmq_msg_more(&frames[count]);
    }
    char user[65] = "";
    const bool shape = count == FRAMES && !more && zmq_msg_size(&frames[KEY]) == 32;
    if (shape)
        hex_encode(zmq_msg_data(&frames[KEY]), 32, user);
    const int64_t now_ms = clock_now_ms();
    bool admit = shape;
    if (admit) {
        const uint32_t slot =
            address_slot(child, zmq_msg_data(&frames[ADDRESS]), zmq_msg_size(&frames[ADDRESS]));
        admit = join_bucket_take(&child->handshakes_by_address[slot], HANDSHAKES_PER_ADDRESS_S, now_ms) &&
                join_bucket_take(&child->handshakes, HANDSHAKES_PER_S, now_ms);
        child->counts[admit ? COUNT_CONNECTIONS : COUNT_HANDSHAKES_OVER]++;
    }
    if (count > ID) {
        zmq_send(child->zap, "1.0", 3, ZMQ_SNDMORE);
        zmq_send(child->zap, zmq_msg_data(&frames[ID]), zmq_msg_size(&frames[ID]), ZMQ_SNDMORE);
        zmq_send(child->zap, admit ? "200" : "300", 3, ZMQ_SNDMORE);
        zmq_send(child->zap, "", 0, ZMQ_SNDMORE);
        zmq_send(child->zap, user, admit ? 64 : 0, ZMQ_SNDMORE);
        zmq_send(child->zap, "", 0, 0);
    }
    for (int i = 0; i < count; i++)
        zmq_msg_close(&frames[i]);
}

/* ---- Requests */

static bool key_of(zmq_msg_t *payload, uint8_t key[32])
{
    const char *user = zmq_msg_gets(payload, "User-Id");
    size_t bytes = 0;
    return user && strlen(user) == 64 && sodium_hex2bin(key, 32, user, 64, NULL, &bytes, NULL) == 0 &&
           bytes == 32;
}

static bool within_rate(struct child *child, zmq_msg_t *payload)
{
    const char *address = zmq_msg_gets(payload, "Peer-Address");
    const int64_t now_ms = clock_now_ms();
    const uint32_t slot = address ? address_slot(child, address, strlen(address)) : 0;
    return join_bucket_take(&child->requests_by_address[slot], REQUESTS_PER_ADDRESS_S, now_ms) &&
           join_bucket_take(&child->requests, REQUESTS_PER_S, now_ms);
}

static void hand_over(struct child *child, zmq_msg_t *sender, zmq_msg_t *payload)
{
    uint8_t message[1 + 4 + 32 + JOIN_REQUEST_FRAME_BYTES_MAX] = {LINK_REQUEST};
    const size_t bytes = zmq_msg_size(payload);
    if (bytes < JOIN_HEAD_BYTES || bytes > JOIN_REQUEST_FRAME_BYTES_MAX ||
        zmq_msg_size(sender) > sizeof child->asker || !key_of(payload, message + 5)) {
        child->counts[COUNT_SHAPE]++;
        return;
    }
    if (!within_rate(child, payload)) {
        child->counts[COUNT_RATE]++;
        return;
    }
    le32_put(message + 1, ++child->number);
    memcpy(message + 37, zmq_msg_data(payload), bytes);
    child->asker_bytes = zmq_msg_size(sender);
    memcpy(child->asker, zmq_msg_data(sender), child->asker_bytes);
    child->waiting = true;
    child->waiting_until_ms = clock_now_ms() + LINK_ANSWER_MS;
    link_send(message, 37 + bytes);
}

/* Takes one message; false when there is none. */
static bool take(struct child *child)
{
    zmq_msg_t sender, payload;
    zmq_msg_init(&sender);
    zmq_msg_init(&payload);
    const bool got = zmq_msg_recv(&sender, child->router, ZMQ_DONTWAIT) >= 0;
    if (got && zmq_msg_more(&sender) && zmq_msg_recv(&payload, child->router, ZMQ_DONTWAIT) >= 0) {
        bool single = true;
        while (zmq_msg_more(&payload)) {
            single = false;
            if (zmq_msg_recv(&payload, child->router, ZMQ_DONTWAIT) < 0)
                break;
        }
        if (single)
            hand_over(child, &sender, &payload);
        else
            child->counts[COUNT_SHAPE]++;
    }
    zmq_msg_close(&payload);
    zmq_msg_close(&sender);
    return got;
}

static void answer(struct child *child)
{
    static uint8_t message[LINK_BYTES_MAX];
    const ssize_t count = recv(LINK_FD, message, sizeof message, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        _exit(EXIT_SUCCESS); /* the node is gone */
    if (count < 5 || message[0] != LINK_ANSWER || !child->waiting || le32_get(message + 1) != child->number)
        return; /* too late: we gave up waiting */
    child->waiting = false;
    if (count > 5 &&
        zmq_send(child->router, child->asker, child->asker_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(child->router, message + 5, (size_t)count - 5, ZMQ_DONTWAIT);
}

/* ---- The loop */

static void tell_counts(struct child *child)
{
    static uint64_t told[LINK_COUNTS_COUNT];
    if (memcmp(told, child->counts, sizeof told) == 0)
        return;
    uint8_t message[1 + 8 * LINK_COUNTS_COUNT] = {LINK_COUNTS};
    for (int i = 0; i < LINK_COUNTS_COUNT; i++)
        le64_put(message + 1 + 8 * i, child->counts[i]);
    link_send(message, sizeof message);
    memcpy(told, child->counts, sizeof told);
}

static int count_descriptors(struct child *child)
{
    int count = 0;
    rewinddir(child->descriptors);
    while (readdir(child->descriptors))
        count++;
    return count;
}

static void look_around(struct child *child, int64_t now_ms)
{
    if (now_ms >= child->look_at_ms) {
        child->look_at_ms = now_ms + LOOK_MS;
        if (count_descriptors(child) > DESCRIPTORS_SHED) {
            child->counts[COUNT_SHEDS]++;
            tell_counts(child);
            _exit(EXIT_SUCCESS);
        }
    }
    if (now_ms >= child->counts_at_ms) {
        child->counts_at_ms = now_ms + COUNTS_MS;
        tell_counts(child);
    }
    if (child->waiting && now_ms >= child->waiting_until_ms)
        child->waiting = false;
}

_Noreturn static void serve(struct child *child)
{
    for (;;) {
        zmq_pollitem_t items[] = {
            {.fd = LINK_FD, .events = ZMQ_POLLIN},
            {.socket = child->zap, .events = ZMQ_POLLIN},
            {.socket = child->router, .events = ZMQ_POLLIN},
        };
        zmq_poll(items, child->waiting ? 2 : 3, LOOK_MS);
        if (items[0].revents)
            answer(child);
        if (items[1].revents & ZMQ_POLLIN)
            zap_answer(child);
        for (int i = 0; i < FRAME_DRAIN && !child->waiting && take(child); i++) {
        }
        look_around(child, clock_now_ms());
    }
}

int join_child_main(int argc, char **argv)
{
    if (argc != 3 || fcntl(LINK_FD, F_GETFD) < 0) {
        fprintf(stderr, "weir: " JOIN_CHILD_COMMAND " is started by weir node, not by hand\n");
        return EXIT_FAILURE;
    }
    fcntl(LINK_FD, F_SETFD, FD_CLOEXEC);
    if (crypto_init() != CRYPTO_OK)
        return EXIT_FAILURE;
    static struct child child;
    struct join_identity identity;
    struct crypto_advice advice = {""};
    if (join_identity_load(argv[2], &identity, &advice) != CRYPTO_OK) {
        tell_failed(advice.text);
        return EXIT_FAILURE;
    }
    randombytes_buf(child.hash_key, sizeof child.hash_key);
    child.descriptors = opendir("/proc/self/fd");
    confine();
    const bool ready = child.descriptors && router_open(&child, &identity, argv[1]) && tell_ready(&child);
    const int reason = zmq_errno();
    join_identity_wipe(&identity);
    if (!ready) {
        tell_failed(zmq_strerror(reason));
        _exit(EXIT_FAILURE);
    }
    serve(&child);
}
