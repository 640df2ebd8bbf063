#include "node/bulk_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROUND_REQUESTS 64 /* taken between two looks at the stop signal */

struct bulk_server {
    struct bulk *bulk;
    void *router;
    int stop_fd;
    bool started;
    pthread_t thread;
    struct wire_frame request;
    struct wire_frame answer;
    uint8_t data[BLOB_CHUNK_BYTES]; /* what the answer carries: bytes of a blob, or chunk digests */
    uint8_t out[WIRE_BULK_BYTES_MAX];
};

static_assert(WIRE_BULK_LIST_MAX * DIGEST_BYTES <= BLOB_CHUNK_BYTES, "a page of digests fits the buffer");

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

static void answer_list(struct bulk_server *server)
{
    const uint64_t request = server->request.body.bulk_list.request;
    const uint8_t *blob = server->request.body.bulk_list.blob.bytes;
    const uint64_t first = server->request.body.bulk_list.first;
    struct store *store = server->bulk->options.store;
    struct store_blob_info info;
    enum store_error error = store_blob_stat(store, blob, &info);
    if (!error && first > info.chunks)
        error = STORE_LIMIT;
    uint32_t count = 0;
    if (!error)
        count = info.chunks - (uint32_t)first < WIRE_BULK_LIST_MAX ? info.chunks - (uint32_t)first
                                                                   : WIRE_BULK_LIST_MAX;
    for (uint32_t i = 0; i < count && !error; i++)
        error = store_blob_chunk(store, blob, (uint32_t)first + i, server->data + i * DIGEST_BYTES);
    if (error) {
        refuse(server, request, error);
        return;
    }
    server->answer.kind = WIRE_BULK_CHUNKS;
    server->answer.body.bulk_chunks.request = request;
    server->answer.body.bulk_chunks.total_bytes = info.bytes;
    server->answer.body.bulk_chunks.first = first;
    server->answer.body.bulk_chunks.chunks =
        (struct wire_names){.name = (const uint8_t(*)[32])server->data, .count = count};
    BULK_COUNT(server->bulk, served_requests, 1);
}

static void answer_get(struct bulk_server *server)
{
    const uint64_t request = server->request.body.bulk_get.request;
    const uint64_t offset = server->request.body.bulk_get.offset;
    const uint32_t bytes = server->request.body.bulk_get.bytes;
    const enum store_error error = store_blob_read(
        server->bulk->options.store, server->request.body.bulk_get.blob.bytes, offset, bytes, server->data);
    if (error) {
        refuse(server, request, error);
        return;
    }
    server->answer.kind = WIRE_BULK_DATA;
    server->answer.body.bulk_data.request = request;
    server->answer.body.bulk_data.offset = offset;
    server->answer.body.bulk_data.data = (struct wire_bytes){.bytes = server->data, .count = bytes};
    BULK_COUNT(server->bulk, served_requests, 1);
    BULK_COUNT(server->bulk, served_bytes, bytes);
}

/* Never waits: a peer that asks for more than it takes loses answers, not others. */
static void send_answer(struct bulk_server *server, zmq_msg_t *route)
{
    const size_t count = wire_encode(&server->answer, server->out, sizeof server->out);
    assert(count > 0);
    if (zmq_msg_send(route, server->router, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(server->router, server->out, count, ZMQ_DONTWAIT) < 0)
        BULK_COUNT(server->bulk, dropped_slow, 1);
}

/* ---- Requests ---------------------------------------------------------------------------------------------
 */

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
    if (good && server->request.kind == WIRE_BULK_LIST) {
        answer_list(server);
    } else if (good && server->request.kind == WIRE_BULK_GET) {
        answer_get(server);
    } else {
        BULK_COUNT(bulk, refused_bad_frame, 1);
        admission_penalise(bulk->options.admission, &key, ADMISSION_PENALTY_MS);
        return;
    }
    send_answer(server, route);
}

static void take_requests(struct bulk_server *server)
{
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

static void *run(void *context)
{
    struct bulk_server *server = context;
    for (;;) {
        zmq_pollitem_t items[] = {
            {.socket = server->router, .events = ZMQ_POLLIN},
            {.fd = server->stop_fd, .events = ZMQ_POLLIN},
        };
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (items[1].revents)
            return NULL;
        if (items[0].revents)
            take_requests(server);
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
    server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->started = server->stop_fd >= 0 && pthread_create(&server->thread, NULL, run, server) == 0;
    *out = server;
    return server->started;
}

void bulk_server_close(struct bulk_server *server)
{
    if (!server)
        return;
    if (server->started) {
        const uint64_t one = 1;
        const ssize_t written = write(server->stop_fd, &one, sizeof one);
        (void)written;
        pthread_join(server->thread, NULL);
    }
    zmq_close(server->router);
    if (server->stop_fd >= 0)
        close(server->stop_fd);
    free(server);
}
