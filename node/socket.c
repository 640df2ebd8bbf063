#include "node/socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* In the draft section of zmq.h; Debian's build honours it. */
#ifndef ZMQ_ZAP_ENFORCE_DOMAIN
#define ZMQ_ZAP_ENFORCE_DOMAIN 93
#endif

/* What encryption adds to a message on the wire (CurveZMQ's MESSAGE command), so that a frame of exactly the
 * limit passes; a little more lets us see, count and answer for what is just over it. */
#define CURVE_OVERHEAD_BYTES 1024
#define HANDSHAKE_MS 5000
#define CONNECT_TIMEOUT_MS (TRANSPORT_HELLO_MS + 1000) /* our own deadline comes first */
#define TCP_KEEPALIVE_IDLE_S 60 /* the system clears away connections of peers that vanished */

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* Says of bulk packets that throughput is what matters for them: Linux queues them behind others (its band for
 * TC_PRIO_BULK), and switches that look at the field may. */
#define BULK_TOS 0x08 /* IPTOS_THROUGHPUT */
/* Ends a bulk connection whose other end takes nothing: its answers would stay in our memory. */
#define BULK_STALLED_MS 20000

/* The first I/O thread is for control, the others, if any, for bulk. */
static uint64_t affinity(void *zmq, bool bulk)
{
    const int threads = zmq_ctx_get(zmq, ZMQ_IO_THREADS);
    if (threads < 2)
        return 0;
    const uint64_t all = threads >= 64 ? UINT64_MAX : (UINT64_C(1) << threads) - 1;
    return bulk ? all & ~UINT64_C(1) : 1;
}

static bool set_common(void *socket, const struct socket_options *options)
{
    const int64_t bytes_max = options->message_bytes_max + CURVE_OVERHEAD_BYTES;
    const uint64_t threads = affinity(options->zmq, options->bulk);
    return set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_SNDHWM, options->hwm) &&
           set_int(socket, ZMQ_RCVHWM, options->hwm) && set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
           set_int(socket, ZMQ_RECONNECT_IVL, TRANSPORT_RECONNECT_MS) &&
           set_int(socket, ZMQ_RECONNECT_IVL_MAX, TRANSPORT_RECONNECT_MAX_MS) &&
           set_int(socket, ZMQ_TCP_KEEPALIVE, 1) &&
           set_int(socket, ZMQ_TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_IDLE_S) &&
           zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) == 0 &&
           zmq_setsockopt(socket, ZMQ_AFFINITY, &threads, sizeof threads) == 0 &&
           (!options->bulk ||
            (set_int(socket, ZMQ_TOS, BULK_TOS) && set_int(socket, ZMQ_TCP_MAXRT, BULK_STALLED_MS))) &&
           zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, options->curve_secret, 32) == 0;
}

static bool set_server(void *socket, const struct socket_options *options, const char *domain)
{
    return set_common(socket, options) && set_int(socket, ZMQ_CURVE_SERVER, 1) &&
           set_int(socket, ZMQ_ZAP_ENFORCE_DOMAIN, 1) &&
           zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) == 0 &&
           set_int(socket, ZMQ_ROUTER_MANDATORY, 1) && set_int(socket, ZMQ_ROUTER_HANDOVER, 0);
}

static enum transport_error explain(struct transport_failure *failure, const char *bind, const char *setting,
                                    int error)
{
    const char *why = zmq_strerror(error);
    const char *remedy = "see the system's log";
    enum transport_error result = TRANSPORT_SYSTEM;
    switch (error) {
    case EADDRINUSE:
        result = TRANSPORT_IN_USE;
        why = "the port is in use";
        remedy = "stop the other program, or choose another port there";
        break;
    case EACCES:
        result = TRANSPORT_DENIED;
        why = "not permitted";
        remedy = "choose a port of 1024 or more there";
        break;
    case EADDRNOTAVAIL:
    case ENODEV:
        result = TRANSPORT_BAD_ADDRESS;
        why = "this machine has no such address";
        remedy = "name one of its addresses there, or * for all";
        break;
    case EINVAL:
    case EPROTONOSUPPORT:
        result = TRANSPORT_BAD_ADDRESS;
        why = "that is not an address and a port";
        remedy = "write it as 0.0.0.0:7700, [::]:7700 or *:7700";
        break;
    case EMFILE:
    case ENFILE:
        why = "out of file descriptors";
        remedy = "raise the limit (LimitNOFILE)";
        break;
    }
    failure->error = result;
    snprintf(failure->text, sizeof failure->text, "cannot listen on %.160s (setting %.40s): %.60s; %s", bind,
             setting, why, remedy);
    return result;
}

static int bind_socket(void *router, const char *bind)
{
    char endpoint[SOCKET_BOUND_BYTES + 8];
    if (strlen(bind) > TRANSPORT_ADDRESS_BYTES_MAX) {
        errno = EINVAL;
        return -1;
    }
    snprintf(endpoint, sizeof endpoint, "tcp://%s", bind);
    /* A wildcard takes IPv6 and IPv4 where the machine has both. */
    if ((bind[0] == '[' || bind[0] == '*') && set_int(router, ZMQ_IPV6, 1) && zmq_bind(router, endpoint) == 0)
        return 0;
    if (bind[0] == '[' || (bind[0] == '*' && errno == EADDRINUSE))
        return -1;
    set_int(router, ZMQ_IPV6, 0);
    return zmq_bind(router, endpoint);
}

enum transport_error socket_bind_router(const struct socket_options *options, const char *domain,
                                        const char *bind, const char *setting,
                                        struct transport_failure *failure, char bound[SOCKET_BOUND_BYTES],
                                        void **out)
{
    void *router = zmq_socket(options->zmq, ZMQ_ROUTER);
    if (!router)
        return explain(failure, bind, setting, errno);
    char endpoint[SOCKET_BOUND_BYTES] = "";
    size_t endpoint_bytes = sizeof endpoint;
    if (!set_server(router, options, domain) || bind_socket(router, bind) != 0 ||
        zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &endpoint_bytes) != 0) {
        const int error = errno;
        zmq_close(router);
        return explain(failure, bind, setting, error);
    }
    const char *host = strstr(endpoint, "://");
    snprintf(bound, SOCKET_BOUND_BYTES, "%s", host ? host + 3 : endpoint);
    *out = router;
    return TRANSPORT_OK;
}

void *socket_open_dealer(const struct socket_options *options, const struct curve_public *server)
{
    void *dealer = zmq_socket(options->zmq, ZMQ_DEALER);
    if (!dealer)
        return NULL;
    if (set_common(dealer, options) && set_int(dealer, ZMQ_IPV6, 1) && set_int(dealer, ZMQ_IMMEDIATE, 1) &&
        set_int(dealer, ZMQ_CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS) &&
        zmq_setsockopt(dealer, ZMQ_CURVE_PUBLICKEY, options->curve, 32) == 0 &&
        zmq_setsockopt(dealer, ZMQ_CURVE_SERVERKEY, server, 32) == 0)
        return dealer;
    const int saved = errno;
    zmq_close(dealer);
    errno = saved;
    return NULL;
}

bool socket_connect(void *dealer, const char *address)
{
    char endpoint[TRANSPORT_ADDRESS_BYTES_MAX + 8];
    if (strlen(address) > TRANSPORT_ADDRESS_BYTES_MAX)
        return false;
    snprintf(endpoint, sizeof endpoint, "tcp://%s", address);
    return zmq_connect(dealer, endpoint) == 0;
}

bool socket_discard_rest(void *socket, zmq_msg_t *first)
{
    bool more = zmq_msg_more(first);
    const bool any = more;
    while (more) {
        zmq_msg_t rest;
        zmq_msg_init(&rest);
        if (zmq_msg_recv(&rest, socket, ZMQ_DONTWAIT) < 0)
            more = false;
        else
            more = zmq_msg_more(&rest);
        zmq_msg_close(&rest);
    }
    return any;
}
