#include "node/join_call.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "node/log.h"

#define STEP_MS                                                                                              \
    50 /* between looks at a call's socket: libzmq's descriptor is not worth watching for these  \
                    */

/* ---- weir join */

enum join_error join_ask(const struct token *token, const struct identity *identity, const char *name,
                         int64_t wall_s, join_progress *progress, void *context, uint8_t *frame,
                         struct join_response *response, struct join_result *result)
{
    *result = (struct join_result){0};
    struct federation_contact contact = {
        .node = token->inviter, .join_curve = token->join_curve, .address_count = token->address_count};
    memcpy(contact.addresses, token->addresses, sizeof contact.addresses);
    uint8_t body[JOIN_REQUEST_BYTES_MAX];
    struct join_call_options options = {
        .zmq = zmq_ctx_new(),
        .identity = identity,
        .contact = &contact,
        .kind = JOIN_KIND_JOIN,
        .body = body,
        .progress = progress,
        .context = context,
    };
    result->crypto = join_request_sign(token, identity, name, body, sizeof body, &options.count);
    struct join_call *call = NULL;
    if (result->crypto != CRYPTO_OK || !options.zmq || !join_call_open(&options, &call)) {
        result->error = JOIN_SYSTEM;
    } else {
        while (!join_call_step(call, clock_now_ms(), result)) {
            zmq_pollitem_t item = {.socket = join_call_socket(call), .events = ZMQ_POLLIN};
            zmq_poll(&item, item.socket ? 1 : 0, STEP_MS);
        }
    }
    if (result->error == JOIN_OK) {
        memcpy(frame, result->bytes, result->count);
        memcpy(frame + result->count, result->peers, result->peers_count);
        result->bytes = frame;
        result->peers = frame + result->count;
        result->crypto = join_response_verify(frame, result->count, token, identity, wall_s, response);
        if (result->crypto != CRYPTO_OK)
            result->error = JOIN_BAD_ANSWER;
    }
    join_call_close(call);
    sodium_memzero(body, sizeof body);
    if (options.zmq)
        zmq_ctx_term(options.zmq);
    return result->error;
}

/* ---- A node's calls */

struct slot {
    struct join_call *call; /* NULL: free */
    enum join_kind kind;
    struct public_key member;
    join_called *called;
    void *context;
};

struct join_client {
    struct loop *loop;
    void *zmq;
    struct federation *federation;
    struct slot slots[JOIN_CALLS_MAX];
};

/* A renewed certificate is taken over before anybody hears of it. */
static void adopt(struct join_client *client, struct join_result *result)
{
    struct federation_failure failure = {0};
    result->crypto =
        federation_adopt(client->federation, result->bytes, result->count, clock_wall_ms() / 1000, &failure);
    if (result->crypto != CRYPTO_OK) {
        result->error = result->crypto == CRYPTO_IO ? JOIN_SYSTEM : JOIN_BAD_ANSWER;
        log_warn("renew", "error=\"%.200s\"", failure.text);
    }
}

static int64_t on_turn(void *context, int64_t now_ms)
{
    struct join_client *client = context;
    int64_t wake_ms = INT64_MAX;
    for (int i = 0; i < JOIN_CALLS_MAX; i++) {
        struct slot *slot = &client->slots[i];
        struct join_result result;
        if (!slot->call)
            continue;
        wake_ms = now_ms + STEP_MS;
        if (!join_call_step(slot->call, now_ms, &result))
            continue;
        if (slot->kind == JOIN_KIND_RENEW && result.error == JOIN_OK)
            adopt(client, &result);
        const struct slot ended = *slot;
        result.member = ended.member;
        *slot = (struct slot){0}; /* the callback may call again */
        ended.called(ended.context, &result);
        join_call_close(ended.call);
    }
    return wake_ms;
}

bool join_client_open(struct loop *loop, void *zmq, struct federation *federation, struct join_client **out)
{
    struct join_client *client = calloc(1, sizeof *client);
    if (!client)
        return false;
    client->loop = loop;
    client->zmq = zmq;
    client->federation = federation;
    loop_on_turn(loop, on_turn, client);
    *out = client;
    return true;
}

void join_client_close(struct join_client *client)
{
    if (!client)
        return;
    for (int i = 0; i < JOIN_CALLS_MAX; i++)
        join_call_close(client->slots[i].call);
    free(client);
}

static bool start(struct join_client *client, const struct federation_contact *contact, enum join_kind kind,
                  join_called *called, void *context)
{
    for (int i = 0; i < JOIN_CALLS_MAX; i++) {
        struct slot *slot = &client->slots[i];
        if (slot->call)
            continue;
        const struct join_call_options options = {
            .zmq = client->zmq,
            .identity = federation_identity(client->federation),
            .federation = client->federation,
            .contact = contact,
            .kind = kind,
        };
        struct join_call *call;
        if (!join_call_open(&options, &call))
            return false;
        *slot = (struct slot){
            .call = call, .kind = kind, .member = contact->node, .called = called, .context = context};
        loop_wake(client->loop);
        return true;
    }
    return false;
}

bool join_present(struct join_client *client, const struct federation_contact *contact, join_called *called,
                  void *context)
{
    return start(client, contact, JOIN_KIND_PRESENT, called, context);
}

bool join_renew(struct join_client *client, const struct federation_contact *contact, join_called *called,
                void *context)
{
    return start(client, contact, JOIN_KIND_RENEW, called, context);
}
