/* The node's HTTP side over real sockets: what monitoring reads, and clients that mean no good. */
#include "node/http.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define IDLE_CLIENTS 40 /* more than the node keeps */

struct served {
    struct loop *loop;
    struct http *http;
    pthread_t thread;
    atomic_bool ready;
    atomic_ulong turns;
};

static void write_metrics(void *context, FILE *out)
{
    (void)context;
    for (int i = 0; i < 20000; i++) /* more than a socket takes at once */
        fprintf(out, "weir_line %d\n", i);
    fputs("# EOF\n", out);
}

static const char *is_ready(void *context)
{
    return atomic_load(&((struct served *)context)->ready) ? NULL : "draining\n";
}

static int64_t count_turn(void *context, int64_t now_ms)
{
    (void)now_ms;
    atomic_fetch_add(&((struct served *)context)->turns, 1);
    return INT64_MAX;
}

static void *run_loop(void *context)
{
    loop_run(((struct served *)context)->loop);
    return NULL;
}

static void serve(struct served *served)
{
    memset(served, 0, sizeof *served);
    char error[300] = "";
    assert_true(loop_open(&served->loop));
    const struct http_options options = {.loop = served->loop,
                                         .bind = "127.0.0.1",
                                         .metrics = write_metrics,
                                         .ready = is_ready,
                                         .context = served};
    if (!http_open(&served->http, &options, error, sizeof error))
        fail_msg("%s", error);
    loop_on_turn(served->loop, count_turn, served);
    assert_int_equal(pthread_create(&served->thread, NULL, run_loop, served), 0);
}

static void end(struct served *served)
{
    loop_stop(served->loop);
    pthread_join(served->thread, NULL);
    http_close(served->http);
    loop_close(served->loop);
}

static int dial(const struct served *served)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)http_port(served->http)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {.tv_sec = 5};
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Sends `request` and returns all that comes until the end; to be freed. */
static char *ask(const struct served *served, const char *request)
{
    const size_t capacity = 1u << 20;
    char *answer = malloc(capacity);
    assert_non_null(answer);
    const int fd = dial(served);
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    size_t count = 0;
    for (ssize_t got = 1; got > 0 && count<capacity - 1; count += got> 0 ? (size_t)got : 0)
        got = recv(fd, answer + count, capacity - 1 - count, 0);
    answer[count] = '\0';
    close(fd);
    return answer;
}

static void assert_answers(const struct served *served, const char *request, const char *status,
                           const char *part)
{
    char *answer = ask(served, request);
    if (strncmp(answer, status, strlen(status)) != 0 || !strstr(answer, part))
        fail_msg("%.40s... answered %.100s", request, answer);
    free(answer);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void metrics_come_whole_and_as_openmetrics(void **state)
{
    (void)state;
    struct served served;
    serve(&served);
    char *answer = ask(&served, GET("/metrics"));
    assert_non_null(strstr(answer, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_non_null(strstr(answer, "weir_line 0\n"));
    assert_string_equal(answer + strlen(answer) - 6, "# EOF\n");
    free(answer);
    end(&served);
}

static void health_and_readiness_differ(void **state)
{
    (void)state;
    struct served served;
    serve(&served);
    assert_answers(&served, GET("/healthz"), "HTTP/1.1 200", "ok");
    assert_answers(&served, GET("/readyz"), "HTTP/1.1 503", "draining");
    atomic_store(&served.ready, true);
    assert_answers(&served, GET("/readyz"), "HTTP/1.1 200", "ready");
    end(&served);
}

static void nothing_else_is_served(void **state)
{
    (void)state;
    struct served served;
    serve(&served);
    assert_answers(&served, GET("/"), "HTTP/1.1 404", "/metrics");
    assert_answers(&served, GET("/metrics/../etc/passwd"), "HTTP/1.1 404", "/metrics");
    assert_answers(&served,
                   "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b",
                   "HTTP/1.1 405", "GET");
    char *answer = ask(&served, "\x16\x03\x01 this is not HTTP\r\n\r\n");
    assert_null(strstr(answer, "200 OK"));
    free(answer);
    assert_answers(&served, GET("/healthz"), "HTTP/1.1 200", "ok");
    end(&served);
}

/* The loop has better things to do than to wait for a client that said half a request. */
static void silent_clients_do_not_make_the_loop_spin(void **state)
{
    (void)state;
    struct served served;
    serve(&served);
    int fds[IDLE_CLIENTS];
    for (int i = 0; i < IDLE_CLIENTS; i++) {
        fds[i] = dial(&served);
        (void)!send(fds[i], "GET /hea", 8, MSG_NOSIGNAL);
    }
    const struct timespec settle = {.tv_nsec = 200000000};
    nanosleep(&settle, NULL);
    const unsigned long before = atomic_load(&served.turns);
    nanosleep(&settle, NULL);
    assert_true(atomic_load(&served.turns) - before < 50);
    for (int i = 0; i < IDLE_CLIENTS; i++)
        close(fds[i]);
    assert_answers(&served, GET("/healthz"), "HTTP/1.1 200", "ok");
    end(&served);
}

static void a_taken_port_and_a_bad_address_are_explained(void **state)
{
    (void)state;
    struct served served;
    struct http *second = NULL;
    char error[300] = "";
    serve(&served);
    struct http_options options = {.loop = served.loop,
                                   .bind = "127.0.0.1",
                                   .port = (uint16_t)http_port(served.http),
                                   .metrics = write_metrics,
                                   .ready = is_ready};
    assert_false(http_open(&second, &options, error, sizeof error));
    assert_non_null(strstr(error, "http.port"));
    assert_non_null(strstr(error, "in use"));
    options.bind = "localhost";
    assert_false(http_open(&second, &options, error, sizeof error));
    assert_non_null(strstr(error, "http.bind"));
    assert_int_equal(http_port(NULL), 0);
    http_close(NULL);
    end(&served);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_come_whole_and_as_openmetrics),
        cmocka_unit_test(health_and_readiness_differ),
        cmocka_unit_test(nothing_else_is_served),
        cmocka_unit_test(silent_clients_do_not_make_the_loop_spin),
        cmocka_unit_test(a_taken_port_and_a_bad_address_are_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
