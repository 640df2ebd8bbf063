/*
 * The serving side. Requests are read as they come and parked by connection; answers are made in turn, one of each
 * connection that has credit left, and go out without another copy: the store reads and verifies a chunk right behind
 * the head of its frame, and libzmq gives the buffer back once it is encrypted. So many buffers as there are bound the
 * memory, whoever asks for how much.
 */
#include "node/bulk_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROUND_REQUESTS 64      /* taken between two looks at everything else */
#define ROUTE_BYTES_MAX 255    /* libzmq's own bound */
#define BUFFERS_FREED_MS 10000 /* without a request, buffers go back to the system */

/* A buffer: on the pool's list, or with libzmq. */
struct answer {
    struct answer *next;
    struct pool *pool;
    uint32_t asker;  /* who it is for, and */
    uint64_t serial; /* which life of that place */
    uint8_t bytes[WIRE_DATA_HEAD_BYTES + WIRE_BULK_BYTES_MAX];
};

/* Outlives the server while libzmq holds buffers of it: they come back on an I/O thread, after the socket was closed. */
struct pool {
    pthread_mutex_t lock;
    struct answer *free;
    struct answer *returned; /* since the server last looked */
    uint32_t made;           /* all there are */
    bool closed;
    int returned_fd;
};

/* What is to be answered. */
struct parked {
    enum wire_kind kind;
    uint64_t request;
    struct digest blob;
    uint64_t offset; /* GET; LIST: the first chunk */
    uint32_t bytes;
};

/* A connection with requests. Its place is free when nothing is parked and no answer is with libzmq. */
struct asker {
    uint8_t route[ROUTE_BYTES_MAX];
    size_t route_bytes; /* 0: the place is free */
    uint64_t serial;
    uint32_t in_flight;
    uint32_t first; /* of the ring */
    uint32_t count;
    struct parked *parked; /* [BULK_PARKED_MAX] */
};

struct bulk_server {
    struct bulk *bulk;
    void *router;
    int stop_fd;
    bool started;
    pthread_t thread;
    struct pool *pool;
    struct asker askers[BULK_ASKERS_MAX];
    uint32_t turn; /* whose turn it is */
    uint64_t next_serial;
    int64_t asked_at_ms;
    struct wire_frame request;
    struct wire_frame answer;
    uint8_t list[WIRE_BULK_LIST_MAX * DIGEST_BYTES];
};

/* ---- Buffers ----------------------------------------------------------------------------------------------
 */

static void signal_fd(int fd)
{
    const uint64_t one = 1;
    const ssize_t written = write(fd, &one, sizeof one);
    (void)written;
}

static struct pool *pool_open(void)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pool->returned_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return pool;
}

static void pool_free(struct pool *pool)
{
    pthread_mutex_destroy(&pool->lock);
    if (pool->returned_fd >= 0)
        close(pool->returned_fd);
    free(pool);
}

/* With the lock held. */
static void free_answers(struct pool *pool, struct answer **list)
{
    while (*list) {
        struct answer *answer = *list;
        *list = answer->next;
        free(answer);
        pool->made--;
    }
}

static void pool_close(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closed = true;
    free_answers(pool, &pool->free);
    free_answers(pool, &pool->returned);
    const bool last = pool->made == 0;
    pthread_mutex_unlock(&pool->lock);
    if (last)
        pool_free(pool);
}

/* On one of libzmq's threads, or on ours: it is done with the bytes. */
static void give_back(void *bytes, void *hint)
{
    (void)bytes;
    struct answer *answer = hint;
    struct pool *pool = answer->pool;
    pthread_mutex_lock(&pool->lock);
    answer->next = pool->returned;
    pool->returned = answer;
    if (pool->closed)
        free_answers(pool, &pool->returned);
    else
        signal_fd(pool->returned_fd);
    const bool last = pool->closed && pool->made == 0;
    pthread_mutex_unlock(&pool->lock);
    if (last)
        pool_free(pool);
}

static struct answer *take_buffer(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct answer *answer = pool->free;
    if (answer)
        pool->free = answer->next;
    else if (pool->made < BULK_ANSWERS_MAX && (answer = malloc(sizeof *answer)) != NULL)
        pool->made++;
    pthread_mutex_unlock(&pool->lock);
    if (answer)
        answer->pool = pool;
    return answer;
}

/* ---- Connections with requests ----------------------------------------------------------------------------
 */

static void asker_settle(struct asker *asker)
{
    if (asker->count > 0 || asker->in_flight > 0)
        return;
    asker->route_bytes = 0;
    free(asker->parked);
    asker->parked = NULL;
}

static struct asker *asker_find(struct bulk_server *server, const void *route, size_t route_bytes)
{
    struct asker *place = NULL;
    for (uint32_t i = 0; i < BULK_ASKERS_MAX; i++) {
        struct asker *asker = &server->askers[i];
        if (asker->route_bytes == route_bytes && memcmp(asker->route, route, route_bytes) == 0)
            return asker;
        if (!place && asker->route_bytes == 0)
            place = asker;
    }
    if (!place || route_bytes == 0 || route_bytes > sizeof place->route)
        return NULL;
    struct parked *parked = malloc(BULK_PARKED_MAX * sizeof *parked);
    if (!parked)
        return NULL;
    *place = (struct asker){.route_bytes = route_bytes, .serial = ++server->next_serial, .parked = parked};
    memcpy(place->route, route, route_bytes);
    return place;
}

/* Buffers that libzmq is done with are their askers' credit again. */
static void take_returned(struct bulk_server *server)
{
    uint64_t ignored;
    const ssize_t got = read(server->pool->returned_fd, &ignored, sizeof ignored);
    (void)got;
    pthread_mutex_lock(&server->pool->lock);
    struct answer *next = server->pool->returned;
    server->pool->returned = NULL;
    pthread_mutex_unlock(&server->pool->lock);
    while (next) {
        struct answer *answer = next;
        next = answer->next;
        struct asker *asker = &server->askers[answer->asker];
        if (asker->serial == answer->serial && asker->in_flight > 0) {
            asker->in_flight--;
            asker_settle(asker);
        }
        pthread_mutex_lock(&server->pool->lock);
        answer->next = server->pool->free;
        server->pool->free = answer;
        pthread_mutex_unlock(&server->pool->lock);
    }
}

/* ---- Answers ----------------------------------------------------------------------------------------------
 */

static void refuse(struct bulk_server *server, uint64_t request, enum store_error error)
{
    server->answer.kind = WIRE_BULK_NONE;
    server->answer.body.bulk_none.request = request;
    server->answer.body.bulk_none.why = error == STORE_NONE    ? WIRE_BULK_ABSENT
                                        : error == STORE_LIMIT ? WIRE_BULK_BEYOND
                                                               : WIRE_BULK_FAILED;
    BULK_COUNT(server->bulk, served_none, 1);
}

static void answer_list(struct bulk_server *server, const struct parked *wanted)
{
    const uint64_t first = wanted->offset;
    struct store *store = server->bulk->options.store;
    struct store_blob_info info;
    enum store_error error = store_blob_stat(store, wanted->blob.bytes, &info);
    if (!error && first > info.chunks)
        error = STORE_LIMIT;
    uint32_t count = 0;
    if (!error)
        count = info.chunks - (uint32_t)first < WIRE_BULK_LIST_MAX ? info.chunks - (uint32_t)first
                                                                   : WIRE_BULK_LIST_MAX;
    for (uint32_t i = 0; i < count && !error; i++)
        error =
            store_blob_chunk(store, wanted->blob.bytes, (uint32_t)first + i, server->list + i * DIGEST_BYTES);
    if (error) {
        refuse(server, wanted->request, error);
        return;
    }
    server->answer.kind = WIRE_BULK_CHUNKS;
    server->answer.body.bulk_chunks.request = wanted->request;
    server->answer.body.bulk_chunks.total_bytes = info.bytes;
    server->answer.body.bulk_chunks.first = first;
    server->answer.body.bulk_chunks.chunks =
        (struct wire_names){.name = (const uint8_t(*)[32])server->list, .count = count};
    BULK_COUNT(server->bulk, served_requests, 1);
}

/* Reads the bytes behind the place for the head; returns where the frame begins in the buffer, and its length. */
static uint8_t *answer_get(struct bulk_server *server, const struct parked *wanted, uint8_t *bytes,
                           size_t *count)
{
    const enum store_error error =
        store_blob_read(server->bulk->options.store, wanted->blob.bytes, wanted->offset, wanted->bytes,
                        bytes + WIRE_DATA_HEAD_BYTES);
    if (error) {
        refuse(server, wanted->request, error);
        return NULL;
    }
    server->answer.kind = WIRE_BULK_DATA;
    server->answer.body.bulk_data.request = wanted->request;
    server->answer.body.bulk_data.offset = wanted->offset;
    server->answer.body.bulk_data.data = (struct wire_bytes){.count = wanted->bytes};
    uint8_t head[WIRE_DATA_HEAD_BYTES];
    const size_t head_bytes = wire_encode_data_head(&server->answer, head, sizeof head);
    assert(head_bytes > 0);
    memcpy(bytes + WIRE_DATA_HEAD_BYTES - head_bytes, head, head_bytes);
    *count = head_bytes + wanted->bytes;
    BULK_COUNT(server->bulk, served_requests, 1);
    BULK_COUNT(server->bulk, served_bytes, wanted->bytes);
    return bytes + WIRE_DATA_HEAD_BYTES - head_bytes;
}

/* Never waits: a peer that is gone, or takes nothing, loses answers, not others. Takes the buffer over. */
static bool send_answer(struct bulk_server *server, struct asker *asker, struct answer *answer,
                        uint8_t *frame, size_t count)
{
    zmq_msg_t message;
    if (zmq_msg_init_data(&message, frame, count, give_back, answer) != 0) {
        give_back(frame, answer);
        return false;
    }
    const bool sent =
        zmq_send(server->router, asker->route, asker->route_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
        zmq_msg_send(&message, server->router, ZMQ_DONTWAIT) >= 0;
    if (!sent) {
        BULK_COUNT(server->bulk, dropped_slow, 1);
        zmq_msg_close(&message);
    }
    return sent;
}

/* Makes and sends the oldest answer that is owed to this one. */
static void answer_one(struct bulk_server *server, struct asker *asker, struct answer *answer)
{
    const struct parked wanted = asker->parked[asker->first];
    asker->first = (asker->first + 1) % BULK_PARKED_MAX;
    asker->count--;
    asker->in_flight++;
    answer->asker = (uint32_t)(asker - server->askers);
    answer->serial = asker->serial;
    uint8_t *frame = NULL;
    size_t count = 0;
    if (wanted.kind == WIRE_BULK_GET)
        frame = answer_get(server, &wanted, answer->bytes, &count);
    else
        answer_list(server, &wanted);
    if (!frame) {
        frame = answer->bytes;
        count = wire_encode(&server->answer, frame, sizeof answer->bytes);
        assert(count > 0);
    }
    if (!send_answer(server, asker, answer, frame, count))
        asker->count = 0; /* it is gone, or asks for more than it takes: it will ask again */
}

static void answer_in_turn(struct bulk_server *server)
{
    uint32_t idle = 0;
    while (idle < BULK_ASKERS_MAX) {
        struct asker *asker = &server->askers[server->turn];
        if (asker->count > 0 && asker->in_flight < BULK_ANSWERS_EACH) {
            struct answer *answer = take_buffer(server->pool);
            if (!answer)
                return; /* one that comes back wakes us */
            answer_one(server, asker, answer);
            idle = 0;
        } else {
            idle++;
        }
        server->turn = (server->turn + 1) % BULK_ASKERS_MAX;
    }
}

/* ---- Requests ---------------------------------------------------------------------------------------------
 */

static void park(struct bulk_server *server, zmq_msg_t *route)
{
    const struct wire_frame *frame = &server->request;
    struct asker *asker = asker_find(server, zmq_msg_data(route), zmq_msg_size(route));
    if (!asker || asker->count == BULK_PARKED_MAX) {
        BULK_COUNT(server->bulk, dropped_slow, 1);
        return;
    }
    struct parked *parked = &asker->parked[(asker->first + asker->count) % BULK_PARKED_MAX];
    if (frame->kind == WIRE_BULK_LIST)
        *parked = (struct parked){.kind = frame->kind,
                                  .request = frame->body.bulk_list.request,
                                  .blob = frame->body.bulk_list.blob,
                                  .offset = frame->body.bulk_list.first};
    else
        *parked = (struct parked){.kind = frame->kind,
                                  .request = frame->body.bulk_get.request,
                                  .blob = frame->body.bulk_get.blob,
                                  .offset = frame->body.bulk_get.offset,
                                  .bytes = frame->body.bulk_get.bytes};
    asker->count++;
}

static void take_request(struct bulk_server *server, zmq_msg_t *route, zmq_msg_t *message, bool several)
{
    struct bulk *bulk = server->bulk;
    struct curve_public key;
    if (!zap_user_key(zmq_msg_gets(message, "User-Id"), &key) ||
        admission_check(bulk->options.admission, &key, clock_wall_ms(), NULL) != ADMISSION_ADMITTED) {
        BULK_COUNT(bulk, refused_unadmitted, 1);
        return;
    }
    if (several) {
        BULK_COUNT(bulk, refused_multi_frame, 1);
        admission_penalise(bulk->options.admission, &key, ADMISSION_PENALTY_MS);
        return;
    }
    const size_t count = zmq_msg_size(message);
    const bool good = count <= WIRE_BULK_REQUEST_BYTES_MAX &&
                      wire_decode(zmq_msg_data(message), count, &server->request) == WIRE_OK;
    if (good && (server->request.kind == WIRE_BULK_LIST || server->request.kind == WIRE_BULK_GET)) {
        park(server, route);
        return;
    }
    BULK_COUNT(bulk, refused_bad_frame, 1);
    admission_penalise(bulk->options.admission, &key, ADMISSION_PENALTY_MS);
}

static void take_requests(struct bulk_server *server)
{
    server->asked_at_ms = clock_now_ms();
    for (int i = 0; i < ROUND_REQUESTS; i++) {
        zmq_msg_t route;
        zmq_msg_t message;
        zmq_msg_init(&route);
        zmq_msg_init(&message);
        const bool got = zmq_msg_recv(&route, server->router, ZMQ_DONTWAIT) >= 0;
        if (got && zmq_msg_more(&route) && zmq_msg_recv(&message, server->router, ZMQ_DONTWAIT) >= 0) {
            const bool several = socket_discard_rest(server->router, &message);
            take_request(server, &route, &message, several);
        }
        zmq_msg_close(&route);
        zmq_msg_close(&message);
        if (!got)
            return;
    }
}

static void free_idle_buffers(struct bulk_server *server)
{
    if (clock_now_ms() < server->asked_at_ms + BUFFERS_FREED_MS)
        return;
    pthread_mutex_lock(&server->pool->lock);
    free_answers(server->pool, &server->pool->free);
    pthread_mutex_unlock(&server->pool->lock);
}

static void *run(void *context)
{
    struct bulk_server *server = context;
    bulk_stand_back();
    for (;;) {
        zmq_pollitem_t items[] = {
            {.socket = server->router, .events = ZMQ_POLLIN},
            {.fd = server->stop_fd, .events = ZMQ_POLLIN},
            {.fd = server->pool->returned_fd, .events = ZMQ_POLLIN},
        };
        const long wait_ms = server->pool->free ? BUFFERS_FREED_MS : -1; /* only we add to that list */
        if (zmq_poll(items, 3, wait_ms) < 0 && errno != EINTR)
            return NULL;
        if (items[1].revents)
            return NULL;
        if (items[2].revents)
            take_returned(server);
        if (items[0].revents)
            take_requests(server);
        answer_in_turn(server);
        free_idle_buffers(server);
    }
}

bool bulk_server_open(struct bulk *bulk, void *router, struct bulk_server **out)
{
    struct bulk_server *server = calloc(1, sizeof *server);
    if (!server) {
        zmq_close(router);
        return false;
    }
    server->bulk = bulk;
    server->router = router;
    server->pool = pool_open();
    server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->started = server->pool && server->pool->returned_fd >= 0 && server->stop_fd >= 0 &&
                      pthread_create(&server->thread, NULL, run, server) == 0;
    *out = server;
    return server->started;
}

void bulk_server_close(struct bulk_server *server)
{
    if (!server)
        return;
    if (server->started) {
        signal_fd(server->stop_fd);
        pthread_join(server->thread, NULL);
    }
    zmq_close(server->router);
    for (uint32_t i = 0; i < BULK_ASKERS_MAX; i++)
        free(server->askers[i].parked);
    if (server->pool)
        pool_close(server->pool);
    if (server->stop_fd >= 0)
        close(server->stop_fd);
    free(server);
}
