#include "node/zap.h"

#include "crypto/digest.h"
#include "node/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"
#define STOP_ENDPOINT "inproc://weir.zap.stop"
#define ZAP_REQUEST_PARTS 7 /* version, request id, domain, address, identity, mechanism, key */
#define ZAP_PART_BYTES_MAX 255

struct zap {
    struct admission *admission;
    void *requests; /* REP, the thread's once it runs */
    void *stopped;  /* PAIR, the thread's end */
    void *stop;     /* PAIR, the owner's end */
    pthread_t thread;
    pthread_mutex_t lock;
    struct zap_counters counters;
};

struct part {
    size_t bytes;
    uint8_t data[ZAP_PART_BYTES_MAX];
};

/* Reads one request whole. False if it is not made of ZAP_REQUEST_PARTS short parts. */
static bool receive_request(void *socket, struct part parts[ZAP_REQUEST_PARTS])
{
    bool fits = true;
    for (int i = 0;; i++) {
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, socket, 0) < 0)
            return false;
        const size_t bytes = zmq_msg_size(&message);
        if (i < ZAP_REQUEST_PARTS && bytes <= ZAP_PART_BYTES_MAX) {
            parts[i].bytes = bytes;
            memcpy(parts[i].data, zmq_msg_data(&message), bytes);
        } else {
            fits = false;
        }
        const bool more = zmq_msg_more(&message);
        zmq_msg_close(&message);
        if (!more)
            return fits && i == ZAP_REQUEST_PARTS - 1;
    }
}

static bool part_is(const struct part *part, const char *text)
{
    return part->bytes == strlen(text) && memcmp(part->data, text, part->bytes) == 0;
}

static void reply(void *socket, const struct part *request_id, const char *status, const char *text,
                  const char *user)
{
    zmq_send(socket, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(socket, request_id->data, request_id->bytes, ZMQ_SNDMORE);
    zmq_send(socket, status, strlen(status), ZMQ_SNDMORE);
    zmq_send(socket, text, strlen(text), ZMQ_SNDMORE);
    zmq_send(socket, user, strlen(user), ZMQ_SNDMORE);
    zmq_send(socket, "", 0, 0);
}

static void answer_request(struct zap *zap)
{
    struct part parts[ZAP_REQUEST_PARTS] = {0};
    const bool whole = receive_request(zap->requests, parts);
    struct curve_public key;
    const struct part *domain = &parts[2];
    if (!whole || !part_is(&parts[0], "1.0") || !part_is(&parts[5], "CURVE") ||
        parts[6].bytes != sizeof key ||
        !(part_is(domain, ZAP_DOMAIN_CONTROL) || part_is(domain, ZAP_DOMAIN_BULK))) {
        pthread_mutex_lock(&zap->lock);
        zap->counters.malformed++;
        pthread_mutex_unlock(&zap->lock);
        reply(zap->requests, &parts[1], "400", "not a CURVE request for a domain of this node", "");
        return;
    }
    memcpy(&key, parts[6].data, sizeof key);
    const enum admission_verdict verdict = admission_check(zap->admission, &key, clock_wall_ms(), NULL);
    pthread_mutex_lock(&zap->lock);
    if (verdict == ADMISSION_ADMITTED)
        zap->counters.admitted++;
    else
        zap->counters.refused[verdict]++;
    pthread_mutex_unlock(&zap->lock);
    if (verdict == ADMISSION_ADMITTED) {
        char user[ZAP_USER_ID_BYTES + 1];
        hex_encode(&key, sizeof key, user);
        reply(zap->requests, &parts[1], "200", "", user);
    } else {
        reply(zap->requests, &parts[1], "400", admission_verdict_text(verdict), "");
    }
}

static void *run(void *context)
{
    struct zap *zap = context;
    for (;;) {
        zmq_pollitem_t items[] = {
            {.socket = zap->requests, .events = ZMQ_POLLIN},
            {.socket = zap->stopped, .events = ZMQ_POLLIN},
        };
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            break; /* the context is ending */
        if (items[1].revents)
            break;
        if (items[0].revents)
            answer_request(zap);
    }
    zmq_close(zap->requests);
    zmq_close(zap->stopped);
    return NULL;
}

static void *pair(void *zmq, bool bind)
{
    void *socket = zmq_socket(zmq, ZMQ_PAIR);
    const int no_linger = 0;
    if (socket) {
        zmq_setsockopt(socket, ZMQ_LINGER, &no_linger, sizeof no_linger);
        if ((bind ? zmq_bind(socket, STOP_ENDPOINT) : zmq_connect(socket, STOP_ENDPOINT)) == 0)
            return socket;
        zmq_close(socket);
    }
    return NULL;
}

bool zap_open(void *zmq, struct admission *admission, struct zap **out)
{
    struct zap *zap = calloc(1, sizeof *zap);
    if (!zap)
        return false;
    zap->admission = admission;
    pthread_mutex_init(&zap->lock, NULL);
    const int no_linger = 0;
    zap->requests = zmq_socket(zmq, ZMQ_REP);
    zap->stopped = pair(zmq, true);
    zap->stop = pair(zmq, false);
    if (zap->requests && zap->stopped && zap->stop &&
        zmq_setsockopt(zap->requests, ZMQ_LINGER, &no_linger, sizeof no_linger) == 0 &&
        zmq_bind(zap->requests, ZAP_ENDPOINT) == 0) {
        const int error = pthread_create(&zap->thread, NULL, run, zap);
        if (error == 0) {
            *out = zap;
            return true;
        }
        errno = error;
    }
    const int saved = errno;
    if (zap->requests)
        zmq_close(zap->requests);
    if (zap->stopped)
        zmq_close(zap->stopped);
    if (zap->stop)
        zmq_close(zap->stop);
    pthread_mutex_destroy(&zap->lock);
    free(zap);
    errno = saved;
    return false;
}

void zap_close(struct zap *zap)
{
    if (!zap)
        return;
    zmq_send(zap->stop, "", 0, 0);
    pthread_join(zap->thread, NULL);
    zmq_close(zap->stop);
    pthread_mutex_destroy(&zap->lock);
    free(zap);
}

void zap_counters(struct zap *zap, struct zap_counters *counters)
{
    pthread_mutex_lock(&zap->lock);
    *counters = zap->counters;
    pthread_mutex_unlock(&zap->lock);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

bool zap_user_key(const char *user_id, struct curve_public *key)
{
    if (!user_id)
        return false;
    for (size_t i = 0; i < sizeof key->bytes; i++) {
        const int high = hex_digit(user_id[2 * i]);
        const int low = high < 0 ? -1 : hex_digit(user_id[2 * i + 1]);
        if (low < 0)
            return false;
        key->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return user_id[ZAP_USER_ID_BYTES] == 0;
}
