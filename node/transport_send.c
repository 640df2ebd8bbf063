/* Writing: what waits for a peer, and by which way it goes. */
#include "node/transport_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_ROUTE_MS 5        /* a full connection of a peer that can't be dialled: look again */
#define QUEUE_FIRST_BYTES 1024u /* a fresh message buffer; grows up to TRANSPORT_BATCH_BYTES */

void transport_queue_drop(struct transport *transport, struct peer *peer)
{
    if (peer->head_sealed) {
        peer->head_sealed = false;
        COUNT(transport, dropped_down, peer->head_frames);
        zmq_msg_close(&peer->head);
    }
    while (peer->first) {
        struct outgoing *message = peer->first;
        peer->first = message->next;
        COUNT(transport, dropped_down, message->batch.frames);
        free(message);
    }
    peer->last = NULL;
    peer->queued_bytes = 0;
    peer->queued_since = 0;
}

static void free_outgoing(void *data, void *hint)
{
    (void)data;
    free(hint);
}

int transport_send_route(struct transport *transport, const struct inbound *inbound, zmq_msg_t *message)
{
    transport->look_router = true; /* sending may eat the signal that something has arrived */
    if (zmq_send(transport->router, inbound->route, inbound->route_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return -1;
    return zmq_msg_send(message, transport->router, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

int transport_send_link(struct link *link, zmq_msg_t *message)
{
    link->look = true;
    return zmq_msg_send(message, link->dealer, ZMQ_DONTWAIT) < 0 ? -1 : 0;
}

int transport_send_hello(struct transport *transport, struct peer *peer, bool own_link, uint64_t session,
                         bool answer)
{
    struct wire_frame frame;
    frame.kind = WIRE_HELLO;
    frame.body.hello = (struct wire_hello){
        .protocol_min = transport->options.protocol_min,
        .protocol_max = transport->options.protocol_max,
        .session = session,
        .answer = answer,
        .node = transport->options.self,
        .incarnation = transport->options.incarnation,
        .process = transport->options.process,
    };
    memcpy(frame.body.hello.software, transport->software, sizeof transport->software);
    uint8_t bytes[256];
    const size_t count = wire_encode(&frame, bytes, sizeof bytes);
    assert(count > 0);
    zmq_msg_t message;
    zmq_msg_init_size(&message, count);
    memcpy(zmq_msg_data(&message), bytes, count);
    const int result = own_link ? transport_send_link(&peer->link, &message)
                                : transport_send_route(transport, &peer->inbound, &message);
    const int saved = errno;
    zmq_msg_close(&message);
    errno = saved;
    return result;
}

enum path transport_path(const struct peer *peer)
{
    if (peer->link.state == LINK_UP)
        return PATH_LINK;
    if (peer->inbound.greeted && (peer->address[0] == 0 || peer->link.reported_down))
        return PATH_ROUTE;
    return PATH_NONE;
}

/* Makes the oldest message of the queue ready to be sent. */
static void seal_head(struct peer *peer)
{
    struct outgoing *outgoing = peer->first;
    peer->first = outgoing->next;
    if (!peer->first)
        peer->last = NULL;
    const struct wire_bytes bytes = wire_batch_finish(&outgoing->batch);
    peer->queued_bytes -= outgoing->batch.count - bytes.count; /* what a lone frame does without */
    peer->head_frames = outgoing->batch.frames;
    peer->head_sealed = true;
    zmq_msg_init_data(&peer->head, (void *)(uintptr_t)bytes.bytes, bytes.count, free_outgoing, outgoing);
}

bool transport_may_read(void *socket)
{
    int events = 0;
    size_t bytes = sizeof events;
    zmq_getsockopt(socket, ZMQ_EVENTS, &events, &bytes);
    return events & ZMQ_POLLIN;
}

int64_t transport_flush(struct transport *transport, struct peer *peer, int64_t now_ms)
{
    const enum path path = transport_path(peer);
    if (path == PATH_NONE || (!peer->first && !peer->head_sealed))
        return INT64_MAX;
    if (now_ms < peer->blocked_until_ms)
        return peer->blocked_until_ms;
    peer->blocked_until_ms = 0;
    if (!transport_admitted(transport, peer)) {
        transport_queue_drop(transport, peer);
        return INT64_MAX;
    }
    while (peer->first || peer->head_sealed) {
        if (!peer->head_sealed)
            seal_head(peer);
        const size_t bytes = zmq_msg_size(&peer->head);
        const int result = path == PATH_LINK ? transport_send_link(&peer->link, &peer->head)
                                             : transport_send_route(transport, &peer->inbound, &peer->head);
        if (result != 0 && path == PATH_LINK) {
            peer->blocked_until_ms = INT64_MAX;
            peer->link.look = transport_may_read(peer->link.dealer);
            return INT64_MAX;
        }
        if (result != 0 && errno == EAGAIN) {
            peer->blocked_until_ms = now_ms + RETRY_ROUTE_MS;
            return peer->blocked_until_ms;
        }
        if (result != 0) {
            peer->inbound.greeted = false;
            peer->inbound.probe_deadline_ms = 0;
            transport_queue_drop(transport, peer);
            transport_report_down(transport, peer, true);
            return INT64_MAX;
        }
        peer->head_sealed = false;
        peer->queued_bytes -= bytes;
        COUNT(transport, frames_sent, peer->head_frames);
        COUNT(transport, messages_sent, 1);
        COUNT(transport, bytes_sent, bytes);
    }
    return INT64_MAX;
}

/* The message that has room for a frame of `bytes`: the last of the queue, grown if need be, or a fresh one.
 */
static struct outgoing *open_message(struct peer *peer, size_t bytes)
{
    const size_t need = WIRE_BATCH_FRAME_BYTES + bytes;
    struct outgoing *last = peer->last;
    if (last && last->batch.frames < WIRE_BATCH_FRAMES_MAX &&
        last->batch.count + need <= TRANSPORT_BATCH_BYTES) {
        if (last->batch.count + need <= last->batch.capacity)
            return last;
        size_t capacity = last->batch.capacity * 4;
        if (capacity < last->batch.count + need)
            capacity = last->batch.count + need;
        struct outgoing *grown = realloc(last, sizeof *grown + capacity);
        if (!grown)
            return NULL;
        grown->batch.bytes = grown->data;
        grown->batch.capacity = capacity;
        if (peer->first == last) {
            peer->first = grown;
        } else {
            struct outgoing *before = peer->first;
            while (before->next != last)
                before = before->next;
            before->next = grown;
        }
        peer->last = grown;
        return grown;
    }
    size_t capacity = WIRE_BATCH_HEADER_BYTES + need;
    if (capacity < QUEUE_FIRST_BYTES)
        capacity = QUEUE_FIRST_BYTES;
    struct outgoing *fresh = malloc(sizeof *fresh + capacity);
    if (!fresh)
        return NULL;
    fresh->next = NULL;
    wire_batch_init(&fresh->batch, fresh->data, capacity);
    if (last)
        last->next = fresh;
    else
        peer->first = fresh;
    peer->last = fresh;
    peer->queued_bytes += WIRE_BATCH_HEADER_BYTES;
    return fresh;
}

/* What may be queued for a peer: what was agreed, or all that we speak as long as it has not greeted. */
static uint32_t protocol_of(const struct transport *transport, const struct peer *peer)
{
    return peer->protocol.agreed ? peer->protocol.agreed : transport->options.protocol_max;
}

bool transport_send(struct transport *transport, const struct mesh_id *id, const struct wire_frame *frame)
{
    assert(memcmp(id, &transport->options.self, sizeof *id) != 0);
    struct peer *peer = transport_find(transport, id);
    if (!peer) {
        COUNT(transport, dropped_unknown_peer, 1);
        return false;
    }
    const size_t bytes = wire_encode(frame, transport->scratch, sizeof transport->scratch);
    if (bytes == 0) {
        COUNT(transport, dropped_too_long, 1);
        return false;
    }
    const int64_t now_ms = clock_now_ms();
    const uint32_t since = wire_kind_since(frame->kind);
    if (since > protocol_of(transport, peer)) {
        COUNT(transport, dropped_protocol, 1);
        return false;
    }
    if (transport_path(peer) == PATH_NONE && !peer->link.dealer &&
        (now_ms < peer->link.retry_at_ms || !transport_link_dial(transport, peer, now_ms))) {
        if (transport_admitted(transport, peer))
            COUNT(transport, dropped_down, 1);
        else
            COUNT(transport, dropped_unadmitted, 1);
        return false;
    }
    if (peer->link.state == LINK_DOWN && transport_path(peer) == PATH_NONE) {
        COUNT(transport, dropped_down, 1);
        return false;
    }
    if (peer->queued_bytes + WIRE_BATCH_FRAME_BYTES + bytes > TRANSPORT_QUEUE_BYTES_MAX) {
        COUNT(transport, dropped_queue_full, 1);
        return false;
    }
    struct outgoing *outgoing = open_message(peer, bytes);
    if (!outgoing) {
        COUNT(transport, dropped_queue_full, 1);
        return false;
    }
    const bool added = wire_batch_add(&outgoing->batch, (struct wire_bytes){transport->scratch, bytes});
    assert(added);
    (void)added;
    if (peer->queued_bytes == 0)
        peer->queued_since = 0;
    peer->queued_bytes += WIRE_BATCH_FRAME_BYTES + bytes;
    if (since > peer->queued_since)
        peer->queued_since = since;
    peer->link.used_at_ms = now_ms;
    transport_activate(transport, peer);
    return true;
}
