/*
 * The two kinds of ZeroMQ socket that nodes talk through, with every option that safety rests on set in one
 * place: a bound ROUTER that takes admitted CURVE clients only, and a DEALER pinned to one server's CURVE
 * key. Used by transport.c and bulk.c.
 *
 * No routing id is ever set (a peer could then abort this process), handover is off, and a server socket
 * refuses to be opened without its ZAP domain enforced.
 */
#ifndef NODE_SOCKET_H
#define NODE_SOCKET_H

#include "node/transport.h"

#include <zmq.h>

#define SOCKET_BOUND_BYTES 300 /* host:port as bound */

struct socket_options {
    void *zmq;
    const struct curve_public *curve; /* own keys */
    const struct curve_secret *curve_secret;
    int64_t message_bytes_max; /* a longer one ends its connection */
    int hwm;                   /* messages queued per connection and direction */
    bool bulk; /* I/O threads other than the first, if there are others; packets that may wait */
};

/* Opens and binds. On failure the text names address, setting and remedy. */
enum transport_error socket_bind_router(const struct socket_options *options, const char *domain,
                                        const char *bind, const char *setting,
                                        struct transport_failure *failure, char bound[SOCKET_BOUND_BYTES],
                                        void **router);

/* Opens without connecting, so that a monitor can be attached first. NULL with errno set. */
void *socket_open_dealer(const struct socket_options *options, const struct curve_public *server);
/* `address` is host:port. False if it can't be one. */
bool socket_connect(void *dealer, const char *address);

/* Closes a message's remaining parts. Returns whether there were any: the message was not one frame. */
bool socket_discard_rest(void *socket, zmq_msg_t *first);

#endif
