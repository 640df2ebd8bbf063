/*
 * The node's HTTP side, for monitoring: /metrics (OpenMetrics), /healthz (the process serves), /readyz (it takes work).
 *
 * libmicrohttpd without a thread of its own: its epoll descriptor is one more watch in the loop. Loopback unless the
 * operator says otherwise; it changes nothing and shows no secret.
 */
#ifndef NODE_HTTP_H
#define NODE_HTTP_H

#include "node/loop.h"

#include <stdio.h>

struct http;

struct http_options {
    struct loop *loop;
    const char *bind; /* an IPv4 or IPv6 address */
    uint16_t port;    /* 0 = any free one */
    void (*metrics)(void *context, FILE *out);
    const char *(*ready)(void *context); /* NULL: it takes work; else a line that says why not; static */
    void *context;
};

/* On failure returns false with one line in `error`. */
bool http_open(struct http **http, const struct http_options *options, char *error, size_t error_bytes);
void http_close(struct http *http);          /* NULL is allowed; the loop must not run again */
unsigned http_port(const struct http *http); /* the real one; 0 for NULL */

#endif
