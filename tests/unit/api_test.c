/* The local API over real sockets: a server on a loop of its own thread, the client, and clients that misbehave. */
#include "node/api.h"
#include "node/client.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534
#define DEADLINE_MS 10000

static _Atomic int gone_count, released_count;
static struct api *server; /* for the op that counts */

/* ---- The ops of the server under test */

static void op_echo(void *context, struct api_call *call)
{
    assert_ptr_equal(context, &gone_count);
    json_t *reply = json_object();
    json_object_set(reply, "said", json_object_get(api_body(call), "say"));
    json_object_set_new(reply, "tenant", json_string(api_tenant(call)));
    json_object_set_new(reply, "operator", json_boolean(api_may(call, API_OPERATE)));
    api_reply(call, reply);
}

static void op_count(void *context, struct api_call *call)
{
    (void)context;
    struct api_counters counters;
    api_count(server, &counters);
    api_reply(call,
              json_pack("{s:I, s:I, s:I, s:I, s:I}", "connections", (json_int_t)counters.connections,
                        "denied", (json_int_t)counters.denied, "malformed", (json_int_t)counters.malformed,
                        "slow", (json_int_t)counters.slow, "turned_away", (json_int_t)counters.turned_away));
}

static void op_stream(void *context, struct api_call *call)
{
    (void)context;
    for (int i = 0; i < 3; i++)
        api_more(call, json_pack("{s:i}", "i", i));
    api_reply(call, NULL);
}

static void op_flood(void *context, struct api_call *call)
{
    (void)context;
    char *text = malloc(65537);
    memset(text, 'x', 65536);
    text[65536] = '\0';
    for (int i = 0; i < 400; i++) /* 25 MiB for a client that does not read */
        api_more(call, json_pack("{s:s}", "text", text));
    free(text);
    api_reply(call, NULL);
}

static void op_large(void *context, struct api_call *call)
{
    (void)context;
    char *text = malloc(API_JSON_BYTES_MAX + 1);
    memset(text, 'x', API_JSON_BYTES_MAX);
    text[API_JSON_BYTES_MAX] = '\0';
    json_t *reply = json_pack("{s:s}", "text", text);
    free(text);
    api_reply(call, reply);
}

static void op_fail(void *context, struct api_call *call)
{
    (void)context;
    api_error(call, EXIT_NONE, "no '%s' here", json_string_value(json_object_get(api_body(call), "say")));
}

static void op_unfit(void *context, struct api_call *call)
{
    (void)context;
    api_more(call, json_pack("{s:s}", "text", "\xff"));
    api_reply(call, NULL);
}

static void on_gone(void *context, struct api_call *call)
{
    (void)context;
    (void)call;
    gone_count++;
}

static void op_hold(void *context, struct api_call *call)
{
    (void)context;
    api_on_gone(call, on_gone, NULL);
}

struct upload {
    uint64_t sum;
    uint64_t bytes;
    bool refuse;
};

static void on_data(void *context, struct api_call *call, const void *bytes, size_t count, bool last)
{
    struct upload *upload = context;
    for (size_t i = 0; i < count; i++)
        upload->sum += ((const uint8_t *)bytes)[i];
    upload->bytes += count;
    if (upload->refuse) {
        api_error(call, EXIT_FAILED, "the disk is full");
        free(upload);
    } else if (last) {
        api_reply(call, json_pack("{s:I, s:I}", "sum", (json_int_t)upload->sum, "bytes",
                                  (json_int_t)upload->bytes));
        free(upload);
    }
}

static void upload_gone(void *context, struct api_call *call)
{
    (void)call;
    free(context);
}

static void op_put(void *context, struct api_call *call)
{
    (void)context;
    struct upload *upload = calloc(1, sizeof *upload);
    upload->refuse = json_is_true(json_object_get(api_body(call), "refuse"));
    api_on_gone(call, upload_gone, upload);
    api_receive(call, (uint64_t)json_integer_value(json_object_get(api_body(call), "bytes")), on_data,
                upload);
}

static ssize_t fill(void *context, uint64_t offset, void *buffer, size_t capacity)
{
    const uint64_t break_at = *(const uint64_t *)context;
    if (break_at && offset >= break_at)
        return -1;
    for (size_t i = 0; i < capacity; i++)
        ((uint8_t *)buffer)[i] = (uint8_t)((offset + i) % 251);
    return (ssize_t)capacity;
}

static void filled(void *context)
{
    free(context);
    released_count++;
}

static void op_get(void *context, struct api_call *call)
{
    (void)context;
    uint64_t *break_at = malloc(sizeof *break_at);
    *break_at = (uint64_t)json_integer_value(json_object_get(api_body(call), "break_at"));
    api_send(call, json_pack("{s:s}", "name", "pattern"),
             (uint64_t)json_integer_value(json_object_get(api_body(call), "bytes")), fill, filled, break_at);
}

static const struct api_op ops[] = {
    {"echo", API_LOOK, op_echo},   {"count", API_LOOK, op_count},     {"stream", API_LOOK, op_stream},
    {"flood", API_LOOK, op_flood}, {"large", API_LOOK, op_large},     {"fail", API_LOOK, op_fail},
    {"unfit", API_LOOK, op_unfit}, {"hold", API_LOOK, op_hold},       {"put", API_SUBMIT, op_put},
    {"get", API_SUBMIT, op_get},   {"operate", API_OPERATE, op_echo}, {0},
};

static const char *tenant_of(void *context, uid_t uid)
{
    (void)context;
    return uid == NOBODY ? "guests" : "site";
}

/* ---- The fixture */

struct fixture {
    char folder[64];
    char path[96];
    struct loop *loop;
    struct api *api;
    pthread_t thread;
};

static void *run_loop(void *loop)
{
    loop_run(loop);
    return NULL;
}

static bool try_open(struct fixture *f, const char *group, char *error, size_t error_bytes)
{
    const struct api_options options = {
        .loop = f->loop, .path = f->path, .group = group, .admin_group = "", .tenant = tenant_of};
    return api_open(&f->api, &options, ops, &gone_count, error, error_bytes);
}

static void start(struct fixture *f, const char *group)
{
    char error[512] = "";
    snprintf(f->folder, sizeof f->folder, "/tmp/weir-api-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    assert_int_equal(chmod(f->folder, 0755), 0); /* others may come in; the socket decides */
    snprintf(f->path, sizeof f->path, "%s/api.sock", f->folder);
    assert_true(loop_open(&f->loop));
    if (!try_open(f, group, error, sizeof error))
        fail_msg("%s", error);
    server = f->api;
    gone_count = released_count = 0;
    assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f->loop), 0);
}

static void stop(struct fixture *f)
{
    loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    api_close(f->api);
    assert_int_equal(access(f->path, F_OK), -1); /* the socket goes with its server */
    loop_close(f->loop);
    rmdir(f->folder);
}

static struct client *connect_client(const struct fixture *f)
{
    struct client *client = NULL;
    struct client_failure failure = {0};
    if (client_open(&client, f->path, &failure) != EXIT_DONE)
        fail_msg("%s", failure.text);
    client_set_timeout(client, DEADLINE_MS);
    return client;
}

static int64_t counter(const struct fixture *f, const char *name)
{
    struct client *client = connect_client(f);
    struct client_failure failure;
    json_t *reply = NULL;
    assert_int_equal(client_call(client, json_pack("{s:s}", "op", "count"), &reply, &failure), EXIT_DONE);
    const int64_t value = client_number(reply, name);
    json_decref(reply);
    client_close(client);
    return value;
}

static bool serves(const struct fixture *f)
{
    struct client *client = connect_client(f);
    struct client_failure failure;
    const bool good = client_call(client, json_pack("{s:s}", "op", "echo"), NULL, &failure) == EXIT_DONE;
    client_close(client);
    return good;
}

/* A client without the client's manners. */
static int connect_raw(const struct fixture *f)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", f->path);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    const struct timeval limit = {.tv_sec = DEADLINE_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static size_t frame(uint8_t *out, char kind, const void *bytes, size_t count)
{
    const uint8_t head[5] = {(uint8_t)count, (uint8_t)(count >> 8), (uint8_t)(count >> 16),
                             (uint8_t)(count >> 24), (uint8_t)kind};
    memcpy(out, head, 5);
    memcpy(out + 5, bytes, count);
    return count + 5;
}

static size_t call_frame(uint8_t *out, const char *text)
{
    return frame(out, 'J', text, strlen(text));
}

/* Whatever comes until the server ends the connection; fails after the deadline. */
static void expect_end(int fd)
{
    uint8_t buffer[65536];
    ssize_t got;
    while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0)
        ;
    assert_true(got == 0 || errno == ECONNRESET);
    close(fd);
}

static void expect_error(struct client *client, json_t *request, enum exit_code code, const char *part)
{
    struct client_failure failure = {0};
    assert_int_equal(client_call(client, request, NULL, &failure), code);
    if (!strstr(failure.text, part))
        fail_msg("'%s' is not in '%s'", part, failure.text);
}

/* ---- Calls */

static void calls_follow_each_other_on_one_connection(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    struct client_failure failure;
    for (int i = 0; i < 100; i++) {
        json_t *reply = NULL;
        assert_int_equal(
            client_call(client, json_pack("{s:s, s:i}", "op", "echo", "say", i), &reply, &failure),
            EXIT_DONE);
        assert_int_equal(client_number(reply, "said"), i);
        assert_string_equal(client_text(reply, "tenant"), "site");
        assert_true(client_flag(reply, "operator"));
        json_decref(reply);
    }
    client_close(client);
    stop(&f);
}

static void an_error_carries_text_and_exit_code(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    expect_error(client, json_pack("{s:s, s:s}", "op", "fail", "say", "job"), EXIT_NONE, "no 'job' here");
    expect_error(client, json_pack("{s:s}", "op", "nonsense"), EXIT_USAGE, "knows no call 'nonsense'");
    expect_error(client, json_pack("{s:i}", "op", 7), EXIT_USAGE, "'op'");
    expect_error(client, json_pack("{}"), EXIT_USAGE, "'op'");
    expect_error(client, json_pack("[i]", 1), EXIT_USAGE, "'op'");
    expect_error(client, json_pack("{s:s}", "op", "large"), EXIT_FAILED, "too large");
    expect_error(client, json_pack("{s:s}", "op", "unfit"), EXIT_FAILED, "UTF-8");
    client_close(client);
    client = connect_client(&f); /* `unfit` answered twice */
    expect_error(client, json_pack("{s:s, s:s}", "op", "fail", "say", "again"), EXIT_NONE, "again");
    client_close(client);
    stop(&f);
}

static void text_cut_within_a_character_still_answers(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    char name[64], long_text[1200];
    memset(name, 'a', 39);
    strcpy(name + 39, "é"); /* the server shows 40 bytes of the name of an op */
    expect_error(client, json_pack("{s:s}", "op", name), EXIT_USAGE, "knows no call");
    for (int shift = 0; shift < 4; shift++) { /* and 999 of any text */
        memset(long_text, 'a', (size_t)shift);
        long_text[shift] = '\0';
        while (strlen(long_text) < 1100)
            strcat(long_text, "😀");
        expect_error(client, json_pack("{s:s, s:s}", "op", "fail", "say", long_text), EXIT_NONE, "😀");
    }
    client_close(client);
    stop(&f);
}

static void a_stream_ends_with_its_answer(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    struct client_failure failure;
    assert_int_equal(client_begin(client, json_pack("{s:s}", "op", "stream"), &failure), EXIT_DONE);
    for (int i = 0; i <= 3; i++) {
        json_t *object = NULL;
        bool final = false;
        assert_int_equal(client_next(client, &object, &final, &failure), EXIT_DONE);
        assert_int_equal(final, i == 3);
        assert_int_equal(client_number(object, "i"), i < 3 ? i : 0);
        json_decref(object);
    }
    client_close(client);
    stop(&f);
}

static void frames_may_come_in_pieces_and_together(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    uint8_t bytes[4096];
    size_t count = 0;
    for (int i = 0; i < 8; i++)
        count += call_frame(bytes + count, "{\"op\":\"echo\",\"say\":\"piece\"}");
    int fd = connect_raw(&f);
    assert_int_equal(send(fd, bytes, count, 0), count); /* eight calls at once */
    size_t answers = 0;
    char text[8192];
    size_t have = 0;
    while (answers < 8) {
        const ssize_t got = recv(fd, text + have, sizeof text - have, 0);
        assert_true(got > 0);
        have += (size_t)got;
        answers = 0;
        for (size_t i = 0; i + 7 <= have; i++)
            answers += memcmp(text + i, "\"piece\"", 7) == 0;
    }
    count = call_frame(bytes, "{\"op\":\"echo\",\"say\":\"piece\"}");
    for (size_t i = 0; i < count; i++)
        assert_int_equal(send(fd, bytes + i, 1, 0), 1);
    assert_true(recv(fd, text, sizeof text, 0) > 0);
    close(fd);
    stop(&f);
}

/* ---- Data */

static ssize_t ones(void *context, void *buffer, size_t capacity)
{
    uint64_t *left = context;
    const size_t count = *left < capacity ? (size_t)*left : capacity;
    memset(buffer, 1, count);
    *left -= count;
    return count > 0 ? (ssize_t)count : -1;
}

static void data_is_taken_whole(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    static const uint64_t sizes[] = {0, 1, 65531, API_DATA_BYTES_MAX, 3 * API_DATA_BYTES_MAX + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t left = sizes[i];
        json_t *reply = NULL;
        struct client_failure failure = {0};
        assert_int_equal(
            client_put(client, json_pack("{s:s}", "op", "put"), sizes[i], ones, &left, &reply, &failure),
            EXIT_DONE);
        assert_int_equal(client_number(reply, "bytes"), sizes[i]);
        assert_int_equal(client_number(reply, "sum"), sizes[i]);
        json_decref(reply);
    }
    client_close(client);
    stop(&f);
}

static void the_reason_of_a_refused_upload_reaches_the_client(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    uint64_t left = 64u << 20;
    struct client_failure failure = {0};
    assert_int_equal(client_put(client, json_pack("{s:s, s:b}", "op", "put", "refuse", 1), left, ones, &left,
                                NULL, &failure),
                     EXIT_FAILED);
    assert_string_equal(failure.text, "the disk is full");
    client_close(client);
    assert_true(serves(&f));
    stop(&f);
}

struct check {
    uint64_t at;
    bool good;
};

static bool check_pattern(void *context, const void *bytes, size_t count)
{
    struct check *check = context;
    for (size_t i = 0; i < count; i++)
        check->good = check->good && ((const uint8_t *)bytes)[i] == (check->at + i) % 251;
    check->at += count;
    return true;
}

static void data_is_sent_whole_and_released(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    static const uint64_t sizes[] = {0, 1, API_DATA_BYTES_MAX + 1, 20 * API_DATA_BYTES_MAX + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct check check = {.good = true};
        const struct client_receiver receiver = {.data = check_pattern, .context = &check};
        json_t *reply = NULL;
        struct client_failure failure = {0};
        assert_int_equal(client_get(client,
                                    json_pack("{s:s, s:I}", "op", "get", "bytes", (json_int_t)sizes[i]),
                                    &receiver, &reply, &failure),
                         EXIT_DONE);
        assert_string_equal(client_text(reply, "name"), "pattern");
        assert_int_equal(check.at, sizes[i]);
        assert_true(check.good);
        json_decref(reply);
    }
    struct check check = {.good = true};
    const struct client_receiver receiver = {.data = check_pattern, .context = &check};
    struct client_failure failure = {0};
    assert_int_equal(
        client_get(client, json_pack("{s:s, s:i, s:i}", "op", "get", "bytes", 4 << 20, "break_at", 2 << 20),
                   &receiver, NULL, &failure),
        EXIT_UNREACHABLE); /* the source broke off: an end, never wrong bytes */
    assert_true(check.good);
    client_close(client);
    assert_true(serves(&f));
    stop(&f);
    assert_int_equal(released_count, 5);
}

/* ---- Clients that misbehave */

static void malformed_frames_end_the_connection_and_are_counted(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    static const uint8_t unknown_kind[] = {1, 0, 0, 0, 'X', 0};
    static const uint8_t long_json[] = {1, 0, 0, 1, 'J'};  /* 16 MiB and one */
    static const uint8_t long_data[] = {1, 0, 16, 0, 'D'}; /* 1 MiB and one */
    static const uint8_t longest[] = {255, 255, 255, 255, 'J'};
    static const uint8_t unasked[] = {1, 0, 0, 0, 'D', 0};
    static const struct {
        const uint8_t *bytes;
        size_t count;
    } cases[] = {{unknown_kind, sizeof unknown_kind},
                 {long_json, sizeof long_json},
                 {long_data, sizeof long_data},
                 {longest, sizeof longest},
                 {unasked, sizeof unasked}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int fd = connect_raw(&f);
        assert_int_equal(send(fd, cases[i].bytes, cases[i].count, 0), cases[i].count);
        expect_end(fd);
    }
    assert_int_equal(counter(&f, "malformed"), 5);
    uint8_t bytes[256];
    const int fd = connect_raw(&f); /* more data than was announced */
    size_t count = call_frame(bytes, "{\"op\":\"put\",\"bytes\":1}");
    count += frame(bytes + count, 'D', "ab", 2);
    assert_int_equal(send(fd, bytes, count, 0), count);
    expect_end(fd);
    assert_int_equal(counter(&f, "malformed"), 6);
    stop(&f);
}

static void wait_for_gone(int count)
{
    for (int64_t until_ms = clock_now_ms() + DEADLINE_MS; gone_count < count && clock_now_ms() < until_ms;)
        usleep(1000);
    assert_int_equal(gone_count, count);
}

static void a_handler_learns_that_its_client_left(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    uint8_t bytes[64];
    const size_t count = call_frame(bytes, "{\"op\":\"hold\"}");
    int fd = connect_raw(&f);
    assert_int_equal(send(fd, bytes, count, 0), count);
    close(fd);
    wait_for_gone(1);
    fd = connect_raw(&f); /* the same, with more calls sent ahead than the server will buffer */
    assert_int_equal(send(fd, bytes, count, 0), count);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int idle = 0; idle < 50;) { /* until the server takes no more */
        if (send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count) {
            idle = 0;
            continue;
        }
        usleep(1000);
        idle++;
    }
    assert_int_equal(gone_count, 1);
    close(fd);
    wait_for_gone(2);
    stop(&f);
}

static void a_client_that_does_not_read_is_let_go(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    uint8_t bytes[64];
    const size_t count = call_frame(bytes, "{\"op\":\"flood\"}");
    const int fd = connect_raw(&f);
    assert_int_equal(send(fd, bytes, count, 0), count);
    while (counter(&f, "slow") == 0)
        usleep(1000);
    close(fd);
    assert_true(serves(&f));
    stop(&f);
}

static void one_client_too_many_is_answered(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *clients[API_CONNECTIONS_MAX];
    for (int i = 0; i < API_CONNECTIONS_MAX; i++)
        clients[i] = connect_client(&f);
    struct client *surplus = connect_client(&f);
    expect_error(surplus, json_pack("{s:s}", "op", "echo"), EXIT_FAILED, "too many clients");
    client_close(surplus);
    struct client_failure failure;
    assert_int_equal(client_call(clients[0], json_pack("{s:s}", "op", "echo"), NULL, &failure), EXIT_DONE);
    for (int i = 0; i < API_CONNECTIONS_MAX; i++)
        client_close(clients[i]);
    while (counter(&f, "connections") > 1)
        usleep(1000);
    assert_int_equal(counter(&f, "turned_away"), 1);
    stop(&f);
}

/* ---- Who may */

/* Runs `task` in a process of user nobody and returns its exit code. */
static int as_nobody(int (*task)(const struct fixture *), const struct fixture *f)
{
    const pid_t pid = fork();
    if (pid == 0) {
        if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0)
            _exit(99);
        _exit(task(f));
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int call_as(const struct fixture *f, const char *op)
{
    struct client *client;
    struct client_failure failure;
    json_t *reply = NULL;
    enum exit_code code = client_open(&client, f->path, &failure);
    if (code != EXIT_DONE)
        return (int)code;
    code = client_call(client, json_pack("{s:s}", "op", op), &reply, &failure);
    if (code == EXIT_DONE && strcmp(client_text(reply, "tenant"), "guests") != 0)
        return 97;
    return (int)code;
}

static int look(const struct fixture *f)
{
    return call_as(f, "echo");
}

static int operate(const struct fixture *f)
{
    return call_as(f, "operate");
}

static void rights_follow_the_group(void **state)
{
    (void)state;
    if (getuid() != 0)
        skip();
    struct fixture f;
    struct stat status;
    start(&f, "nogroup"); /* the group of user nobody */
    assert_int_equal(stat(f.path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0660);
    assert_int_equal(status.st_gid, NOBODY);
    assert_int_equal(as_nobody(look, &f), EXIT_DONE);
    assert_int_equal(as_nobody(operate, &f), EXIT_DENIED);
    assert_int_equal(counter(&f, "denied"), 1);
    assert_int_equal(chmod(f.path, 0666), 0);
    stop(&f);

    start(&f, "no-such-group-here"); /* then the socket is its owner's alone */
    assert_int_equal(stat(f.path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(as_nobody(look, &f), EXIT_DENIED);
    assert_int_equal(chmod(f.path, 0666), 0); /* and even an open door gives no right */
    assert_int_equal(as_nobody(look, &f), EXIT_DENIED);
    assert_int_equal(counter(&f, "denied"), 1);
    stop(&f);
}

/* ---- The socket's file, and the client's own limits */

static void a_stale_socket_is_replaced_and_nothing_else(void **state)
{
    (void)state;
    struct fixture f;
    struct fixture second;
    char error[512];
    start(&f, "");
    second = f;
    assert_false(try_open(&second, "", error, sizeof error));
    assert_non_null(strstr(error, "already serving"));
    assert_true(serves(&f)); /* the refused one left it alone */
    stop(&f);

    start(&f, "");
    second = f;
    snprintf(second.path, sizeof second.path, "%s/stale.sock", f.folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", second.path);
    const int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof address), 0);
    close(stale); /* as a killed node leaves it */
    struct loop *loop = f.loop;
    assert_true(loop_open(&second.loop));
    assert_true(try_open(&second, "", error, sizeof error));
    api_close(second.api);
    loop_close(second.loop);
    f.loop = loop;

    snprintf(second.path, sizeof second.path, "%s/file", f.folder);
    FILE *file = fopen(second.path, "w");
    fclose(file);
    assert_false(try_open(&second, "", error, sizeof error));
    assert_non_null(strstr(error, "api.socket"));
    assert_int_equal(access(second.path, F_OK), 0);
    unlink(second.path);
    stop(&f);
}

static void the_client_waits_no_longer_than_told(void **state)
{
    (void)state;
    struct fixture f;
    start(&f, "");
    struct client *client = connect_client(&f);
    struct client_failure failure;
    client_set_timeout(client, 50);
    assert_int_equal(client_call(client, json_pack("{s:s}", "op", "hold"), NULL, &failure), EXIT_PARTIAL);
    client_close(client);
    client = connect_client(&f);
    const int wake = eventfd(1, 0);
    client_wake_on(client, wake);
    assert_int_equal(client_call(client, json_pack("{s:s}", "op", "hold"), NULL, &failure), EXIT_INTERRUPTED);
    client_close(client);
    close(wake);
    client = connect_client(&f);
    stop(&f);
    assert_int_equal(client_call(client, json_pack("{s:s}", "op", "echo"), NULL, &failure), EXIT_UNREACHABLE);
    client_close(client);
    assert_int_equal(client_open(&client, f.path, &failure), EXIT_UNREACHABLE);
    assert_non_null(strstr(failure.text, "weir node"));
}

static void a_node_is_found_by_socket_or_folder(void **state)
{
    (void)state;
    struct fixture f;
    struct client_failure failure;
    char path[200];
    start(&f, "");
    unsetenv("WEIR_NODE");
    assert_int_equal(client_find(f.path, NULL, path, sizeof path, &failure), EXIT_DONE);
    assert_string_equal(path, f.path);
    assert_int_equal(client_find(f.folder, NULL, path, sizeof path, &failure), EXIT_DONE);
    assert_string_equal(path, f.path);
    assert_int_equal(client_find(NULL, f.path, path, sizeof path, &failure), EXIT_DONE);
    setenv("WEIR_NODE", f.folder, 1);
    assert_int_equal(client_find(NULL, NULL, path, sizeof path, &failure), EXIT_DONE);
    assert_string_equal(path, f.path);
    assert_int_equal(client_find("/nowhere", NULL, path, sizeof path, &failure), EXIT_UNREACHABLE);
    assert_non_null(strstr(failure.text, "/nowhere"));
    setenv("WEIR_NODE", "/nowhere-else", 1);
    assert_int_equal(client_find(NULL, f.path, path, sizeof path, &failure), EXIT_UNREACHABLE);
    assert_non_null(strstr(failure.text, "$WEIR_NODE"));
    unsetenv("WEIR_NODE");
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_follow_each_other_on_one_connection),
        cmocka_unit_test(an_error_carries_text_and_exit_code),
        cmocka_unit_test(text_cut_within_a_character_still_answers),
        cmocka_unit_test(a_stream_ends_with_its_answer),
        cmocka_unit_test(frames_may_come_in_pieces_and_together),
        cmocka_unit_test(data_is_taken_whole),
        cmocka_unit_test(the_reason_of_a_refused_upload_reaches_the_client),
        cmocka_unit_test(data_is_sent_whole_and_released),
        cmocka_unit_test(malformed_frames_end_the_connection_and_are_counted),
        cmocka_unit_test(a_handler_learns_that_its_client_left),
        cmocka_unit_test(a_client_that_does_not_read_is_let_go),
        cmocka_unit_test(one_client_too_many_is_answered),
        cmocka_unit_test(rights_follow_the_group),
        cmocka_unit_test(a_stale_socket_is_replaced_and_nothing_else),
        cmocka_unit_test(the_client_waits_no_longer_than_told),
        cmocka_unit_test(a_node_is_found_by_socket_or_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
