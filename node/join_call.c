#include "node/join_call.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "node/little_endian.h"

#define RECONNECT_MS 200
#define RECONNECT_MAX_MS 2000
#define HANDSHAKE_MS 5000
#define BUSY_PAUSE_MS 500

/*
 * What a call waits for. A PRESENT or RENEW begins with a HELLO and goes on with the nonce that comes back; a
 * refused nonce begins again. All ends with an answer, or with the last address' time.
 */
enum phase { WAIT_NONCE, WAIT_ANSWER };

struct join_call {
    struct join_call_options options;
    struct federation_contact contact;
    enum phase phase;
    void *socket;
    uint8_t address;
    int64_t give_up_at_ms; /* of this address */
    int64_t send_at_ms;
    bool was_refused; /* busy, by this address */
    struct join_result result;
    size_t request_bytes;
    uint8_t request[JOIN_REQUEST_FRAME_BYTES_MAX];
    uint8_t frame[JOIN_FRAME_BYTES_MAX];
};

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static void hang_up(struct join_call *call)
{
    if (call->socket)
        zmq_close(call->socket);
    call->socket = NULL;
}

static bool dial(struct join_call *call, int64_t now_ms)
{
    const struct identity *identity = call->options.identity;
    const char *address = call->contact.addresses[call->address];
    const int64_t bytes_max = JOIN_FRAME_BYTES_MAX;
    char endpoint[TOKEN_ADDRESS_BYTES_MAX + 8];
    snprintf(endpoint, sizeof endpoint, "tcp://%s", address);
    if (call->options.progress)
        call->options.progress(call->options.context, address, false);
    call->give_up_at_ms = now_ms + JOIN_ADDRESS_MS;
    call->send_at_ms = now_ms;
    call->was_refused = false;
    void *socket = call->socket = zmq_socket(call->options.zmq, ZMQ_DEALER);
    if (!socket)
        return false;
    /* An address that does not resolve makes the connect fail; it then simply runs out of time. */
    (void)(set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_IMMEDIATE, 1) &&
           set_int(socket, ZMQ_IPV6, 1) && set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
           set_int(socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
           set_int(socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) && set_int(socket, ZMQ_RCVHWM, 4) &&
           zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, call->contact.join_curve.bytes, 32) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, identity->curve.bytes, 32) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, identity->curve_secret.bytes, 32) == 0 &&
           zmq_connect(socket, endpoint) == 0);
    return true;
}

bool join_call_open(const struct join_call_options *options, struct join_call **out)
{
    struct join_call *call = calloc(1, sizeof *call);
    if (!call)
        return false;
    call->options = *options;
    call->contact = *options->contact;
    call->phase = options->kind == JOIN_KIND_JOIN ? WAIT_ANSWER : WAIT_NONCE;
    call->request[0] = JOIN_VERSION;
    call->request[1] = options->kind == JOIN_KIND_JOIN ? JOIN_KIND_JOIN : JOIN_KIND_HELLO;
    call->request_bytes = JOIN_HEAD_BYTES;
    if (options->body && options->count <= sizeof call->request - JOIN_HEAD_BYTES) {
        memcpy(call->request + JOIN_HEAD_BYTES, options->body, options->count);
        call->request_bytes += options->count;
    }
    *out = call;
    return true;
}

void join_call_close(struct join_call *call)
{
    if (!call)
        return;
    hang_up(call);
    sodium_memzero(call, sizeof *call); /* a JOIN holds the token's secret */
    free(call);
}

void *join_call_socket(const struct join_call *call)
{
    return call->socket;
}

static bool end(struct join_call *call, enum join_error error)
{
    call->result.error = error;
    call->result.address = call->address;
    return true;
}

/* ---- Answers: each returns true when the call has ended */

static void say_hello(struct join_call *call, int64_t at_ms)
{
    call->phase = WAIT_NONCE;
    call->request[1] = JOIN_KIND_HELLO;
    call->request_bytes = JOIN_HEAD_BYTES;
    call->send_at_ms = at_ms;
}

static bool on_nonce(struct join_call *call, const uint8_t *body, size_t count, int64_t now_ms)
{
    if (call->phase != WAIT_NONCE)
        return false; /* the answer to a repeated HELLO */
    if (count != PRESENTATION_NONCE_BYTES + 32)
        return end(call, JOIN_BAD_ANSWER);
    struct public_key receiver;
    memcpy(receiver.bytes, body + PRESENTATION_NONCE_BYTES, 32);
    if (!public_key_equal(&receiver, &call->contact.node))
        return end(call, JOIN_BAD_ANSWER);
    size_t chain_bytes, bytes;
    const uint8_t *chain = federation_chain(call->options.federation, &chain_bytes);
    uint8_t *at = call->request + JOIN_HEAD_BYTES;
    memcpy(at, body, PRESENTATION_NONCE_BYTES);
    call->result.crypto =
        presentation_sign(&federation_genesis(call->options.federation)->federation, &receiver, body, chain,
                          chain_bytes, &call->options.identity->node_secret, at + PRESENTATION_NONCE_BYTES,
                          sizeof call->request - JOIN_HEAD_BYTES - PRESENTATION_NONCE_BYTES, &bytes);
    if (call->result.crypto != CRYPTO_OK)
        return end(call, JOIN_SYSTEM);
    call->request[1] = (uint8_t)call->options.kind;
    call->request_bytes = JOIN_HEAD_BYTES + PRESENTATION_NONCE_BYTES + bytes;
    call->phase = WAIT_ANSWER;
    call->send_at_ms = now_ms;
    return false;
}

static bool on_refused(struct join_call *call, const uint8_t *body, size_t count, int64_t now_ms)
{
    if (count != 9)
        return end(call, JOIN_BAD_ANSWER);
    call->result.refusal = (enum join_refusal)body[0];
    call->result.when_s = (int64_t)le64_get(body + 1);
    if (body[0] == JOIN_REFUSED_BUSY) {
        call->was_refused = true;
        call->send_at_ms = now_ms + BUSY_PAUSE_MS;
        return false;
    }
    if (body[0] == JOIN_REFUSED_NONCE && call->options.kind != JOIN_KIND_JOIN) {
        call->was_refused = true;
        say_hello(call, now_ms + BUSY_PAUSE_MS);
        return false;
    }
    return end(call, JOIN_REFUSED);
}

static bool on_joined(struct join_call *call, const uint8_t *body, size_t count)
{
    if (count < 2 || le16_get(body) > count - 2)
        return end(call, JOIN_BAD_ANSWER);
    call->result.bytes = body + 2;
    call->result.count = le16_get(body);
    call->result.peers = body + 2 + call->result.count;
    call->result.peers_count = count - 2 - call->result.count;
    return end(call, JOIN_OK);
}

static bool on_frame(struct join_call *call, const uint8_t *frame, size_t count, int64_t now_ms)
{
    if (count < JOIN_HEAD_BYTES || frame[0] != JOIN_VERSION)
        return end(call, JOIN_BAD_ANSWER);
    const uint8_t *body = frame + JOIN_HEAD_BYTES;
    const size_t bytes = count - JOIN_HEAD_BYTES;
    const enum join_kind kind = call->options.kind;
    if (frame[1] == JOIN_KIND_REFUSED)
        return on_refused(call, body, bytes, now_ms);
    if (frame[1] == JOIN_KIND_NONCE && kind != JOIN_KIND_JOIN)
        return on_nonce(call, body, bytes, now_ms);
    if (frame[1] == JOIN_KIND_JOINED && kind == JOIN_KIND_JOIN)
        return on_joined(call, body, bytes);
    if (frame[1] == JOIN_KIND_ADMITTED && kind == JOIN_KIND_PRESENT) {
        call->result.peers = body;
        call->result.peers_count = bytes;
        return end(call, JOIN_OK);
    }
    if (frame[1] == JOIN_KIND_RENEWED && kind == JOIN_KIND_RENEW) {
        call->result.bytes = body;
        call->result.count = bytes;
        return end(call, JOIN_OK);
    }
    return end(call, JOIN_BAD_ANSWER);
}

/* ---- Steps */

static bool receive(struct join_call *call, int64_t now_ms)
{
    for (;;) {
        const int count = zmq_recv(call->socket, call->frame, sizeof call->frame, ZMQ_DONTWAIT);
        if (count < 0)
            return false;
        int more = 0;
        size_t more_bytes = sizeof more;
        zmq_getsockopt(call->socket, ZMQ_RCVMORE, &more, &more_bytes);
        if (more || (size_t)count > sizeof call->frame)
            return end(call, JOIN_BAD_ANSWER);
        if (on_frame(call, call->frame, (size_t)count, now_ms))
            return true;
    }
}

/* True when there is no further address. */
static bool next_address(struct join_call *call)
{
    hang_up(call);
    if (call->options.progress)
        call->options.progress(call->options.context, call->contact.addresses[call->address], true);
    if (call->was_refused)
        return end(call, JOIN_REFUSED);
    if (call->options.kind != JOIN_KIND_JOIN)
        say_hello(call, 0);
    if (++call->address < call->contact.address_count)
        return false;
    call->address = 0;
    return end(call, JOIN_UNREACHABLE);
}

bool join_call_step(struct join_call *call, int64_t now_ms, struct join_result *result)
{
    bool ended = false;
    if (call->contact.address_count == 0)
        ended = end(call, JOIN_UNREACHABLE);
    else if (!call->socket && !dial(call, now_ms))
        ended = end(call, JOIN_SYSTEM);
    if (!ended)
        ended = receive(call, now_ms);
    if (!ended && now_ms >= call->give_up_at_ms)
        ended = next_address(call);
    else if (!ended && now_ms >= call->send_at_ms &&
             zmq_send(call->socket, call->request, call->request_bytes, ZMQ_DONTWAIT) >= 0)
        call->send_at_ms = now_ms + JOIN_RESEND_MS;
    if (ended)
        *result = call->result;
    return ended;
}
