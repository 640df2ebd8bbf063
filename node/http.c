#include "node/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX 32
#define IDLE_S 10
#define SWEEP_MS 500

struct http {
    struct http_options options;
    struct MHD_Daemon *daemon;
    int epoll_fd;
    unsigned port;
    unsigned connections; /* before the last run */
    int64_t run_at_ms;    /* the next run, unless it has none and had none */
};

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              char *text, size_t count, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(count, text, mode);
    if (!response) {
        if (mode == MHD_RESPMEM_MUST_FREE)
            free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    const enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    return answer(connection, status, "text/plain; charset=utf-8", (char *)(uintptr_t)text, strlen(text),
                  MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result answer_metrics(const struct http *http, struct MHD_Connection *connection)
{
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    if (!out)
        return MHD_NO;
    http->options.metrics(http->options.context, out);
    fclose(out);
    return answer(connection, MHD_HTTP_OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text,
                  count, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result answer_ready(const struct http *http, struct MHD_Connection *connection)
{
    const char *why_not = http->options.ready(http->options.context);
    return answer_text(connection, why_not ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK,
                       why_not ? why_not : "ready\n");
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **state)
{
    (void)version;
    (void)upload;
    const struct http *http = context;
    static int begun;
    if (!*state) { /* the headers; libmicrohttpd calls again for the body */
        *state = &begun;
        return MHD_YES;
    }
    if (*upload_bytes > 0) {
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
    if (strcmp(url, "/metrics") == 0)
        return answer_metrics(http, connection);
    if (strcmp(url, "/healthz") == 0)
        return answer_text(connection, MHD_HTTP_OK, "ok\n");
    if (strcmp(url, "/readyz") == 0)
        return answer_ready(http, connection);
    return answer_text(connection, MHD_HTTP_NOT_FOUND, "there is /metrics, /healthz and /readyz\n");
}

static unsigned connections_of(const struct http *http)
{
    return MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)->num_connections;
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    struct http *http = context;
    http->connections = connections_of(http);
    MHD_run(http->daemon);
    http->run_at_ms = clock_now_ms() + SWEEP_MS;
}

/*
 * At CONNECTIONS_MAX libmicrohttpd stops to listen, and it takes several runs to close a connection, forget it and
 * listen again, of which it tells nobody. So it is run now and then as long as it has connections, and once after.
 */
static int64_t turn(void *context, int64_t now_ms)
{
    struct http *http = context;
    MHD_UNSIGNED_LONG_LONG left_ms;
    const bool at_once = MHD_get_timeout(http->daemon, &left_ms) == MHD_YES && left_ms == 0;
    const unsigned connections = connections_of(http);
    const bool busy = connections > 0 || http->connections > 0;
    if (!at_once && !busy)
        return INT64_MAX;
    if (!at_once && now_ms < http->run_at_ms)
        return http->run_at_ms;
    http->connections = connections;
    MHD_run(http->daemon);
    http->run_at_ms = now_ms + SWEEP_MS;
    return at_once ? now_ms + 1 : http->run_at_ms;
}

static bool make_address(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return true;
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return inet_pton(AF_INET6, text, &v6->sin6_addr) == 1;
}

bool http_open(struct http **out, const struct http_options *options, char *error, size_t error_bytes)
{
    struct sockaddr_storage address;
    if (!make_address(options->bind, options->port, &address)) {
        snprintf(error, error_bytes, "'%s' is no IP address; set http.bind", options->bind);
        return false;
    }
    struct http *http = calloc(1, sizeof *http);
    if (!http)
        abort();
    http->options = *options;
    unsigned flags = MHD_USE_EPOLL;
    if (address.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    errno = 0;
    http->daemon =
        MHD_start_daemon(flags, options->port, NULL, NULL, on_request, http, MHD_OPTION_SOCK_ADDR,
                         (struct sockaddr *)&address, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_END);
    if (!http->daemon) {
        snprintf(error, error_bytes, "cannot serve metrics on %s port %u: %s; set http.port, or 'off'",
                 options->bind, options->port, strerror(errno));
        free(http);
        return false;
    }
    http->epoll_fd = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD)->listen_fd;
    http->port = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
    loop_watch(options->loop, http->epoll_fd, EPOLLIN, on_readable, http);
    loop_on_turn(options->loop, turn, http);
    *out = http;
    return true;
}

void http_close(struct http *http)
{
    if (!http)
        return;
    loop_unwatch(http->options.loop, http->epoll_fd);
    MHD_stop_daemon(http->daemon);
    free(http);
}

unsigned http_port(const struct http *http)
{
    return http ? http->port : 0;
}
