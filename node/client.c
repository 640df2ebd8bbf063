/* The client end of the local API: blocking sends and receives with a limit on the node's silence. */
#include "node/client.h"

#include "node/loop.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define HEAD_BYTES 5u

struct client {
    int fd;
    int wake_fd;
    int64_t timeout_ms;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    uint8_t *frame; /* the last one received */
    size_t frame_capacity;
};

struct frame {
    char kind;
    const uint8_t *bytes; /* borrowed until the next receive */
    size_t count;
};

__attribute__((format(printf, 3, 4))) static enum exit_code fail(struct client_failure *failure,
                                                                 enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    failure->exit = code;
    vsnprintf(failure->text, sizeof failure->text, format, arguments);
    va_end(arguments);
    return code;
}

/* ---- Finding the socket */

/* errno tells why not, 0 if what is there is no socket. */
static bool find_at(const char *place, char *path, size_t path_bytes)
{
    struct stat status;
    errno = 0;
    if (!place || !place[0] || stat(place, &status) != 0)
        return false;
    if (S_ISDIR(status.st_mode)) {
        snprintf(path, path_bytes, "%s/api.sock", place);
        return stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
    }
    snprintf(path, path_bytes, "%s", place);
    return S_ISSOCK(status.st_mode);
}

enum exit_code client_find(const char *node, const char *socket, char *path, size_t path_bytes,
                           struct client_failure *failure)
{
    const char *named = node ? node : getenv("WEIR_NODE");
    if (named && named[0]) {
        if (find_at(named, path, path_bytes))
            return EXIT_DONE;
        if (errno == EACCES)
            return fail(failure, EXIT_DENIED,
                        "this user may not enter %s; ask as root or as the node's own user", named);
        return fail(failure, EXIT_UNREACHABLE,
                    "no node's socket at %s (from %s); name a running node's API socket or its data folder",
                    named, node ? "--node" : "$WEIR_NODE");
    }
    char runtime[300] = "";
    const char *folder = getenv("XDG_RUNTIME_DIR");
    if (folder)
        snprintf(runtime, sizeof runtime, "%s/weir/api.sock", folder);
    const char *const places[] = {socket, "/run/weir/api.sock", runtime, "/var/lib/weir/api.sock"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (find_at(places[i], path, path_bytes))
            return EXIT_DONE;
    return fail(failure, EXIT_UNREACHABLE,
                "no node is running here (looked at /run/weir/api.sock%s%s and /var/lib/weir/api.sock); "
                "start one with "
                "`weir node`, or name one with --node or $WEIR_NODE",
                runtime[0] ? ", " : "", runtime);
}

/* ---- Connection */

enum exit_code client_open(struct client **out, const char *path, struct client_failure *failure)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return fail(failure, EXIT_USAGE, "the socket's path is too long: %s", path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        const int reason = errno;
        if (fd >= 0)
            close(fd);
        if (reason == EACCES || reason == EPERM)
            return fail(failure, EXIT_DENIED,
                        "%s is not for you: join group weir (and weir-admin, to operate), or ask an operator",
                        path);
        return fail(failure, EXIT_UNREACHABLE, "no node answers at %s: %s; is `weir node` running?", path,
                    strerror(reason));
    }
    struct client *client = calloc(1, sizeof *client);
    if (!client)
        abort();
    *client = (struct client){.fd = fd, .wake_fd = -1, .timeout_ms = CLIENT_TIMEOUT_MS};
    snprintf(client->path, sizeof client->path, "%s", path);
    *out = client;
    return EXIT_DONE;
}

void client_close(struct client *client)
{
    if (!client)
        return;
    close(client->fd);
    free(client->frame);
    free(client);
}

void client_set_timeout(struct client *client, int64_t timeout_ms)
{
    client->timeout_ms = timeout_ms;
}

void client_wake_on(struct client *client, int fd)
{
    client->wake_fd = fd;
}

static enum exit_code lost(const struct client *client, struct client_failure *failure)
{
    return fail(failure, EXIT_UNREACHABLE, "the node at %s went away; is it still running?", client->path);
}

/* Waits until the socket is ready for `events`. */
static enum exit_code wait_for(const struct client *client, short events, struct client_failure *failure)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = client->fd, .events = events},
                                {.fd = client->wake_fd, .events = POLLIN}};
        const int timeout = client->timeout_ms > 0 ? (int)client->timeout_ms : -1;
        const int ready = poll(fds, client->wake_fd >= 0 ? 2 : 1, timeout);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0)
            return lost(client, failure);
        if (ready == 0)
            return fail(failure, EXIT_PARTIAL, "the node at %s did not answer for %lld s", client->path,
                        (long long)(client->timeout_ms / 1000));
        if (fds[1].revents)
            return fail(failure, EXIT_INTERRUPTED, "interrupted");
        return EXIT_DONE;
    }
}

static enum exit_code send_all(const struct client *client, const void *bytes, size_t count,
                               struct client_failure *failure)
{
    const uint8_t *at = bytes;
    while (count > 0) {
        const ssize_t sent = send(client->fd, at, count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            at += sent;
            count -= (size_t)sent;
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return lost(client, failure);
        const enum exit_code code = wait_for(client, POLLOUT, failure);
        if (code != EXIT_DONE)
            return code;
    }
    return EXIT_DONE;
}

static enum exit_code send_frame(const struct client *client, char kind, const void *bytes, size_t count,
                                 struct client_failure *failure)
{
    const uint8_t head[HEAD_BYTES] = {(uint8_t)count, (uint8_t)(count >> 8), (uint8_t)(count >> 16),
                                      (uint8_t)(count >> 24), (uint8_t)kind};
    const enum exit_code code = send_all(client, head, sizeof head, failure);
    return code == EXIT_DONE ? send_all(client, bytes, count, failure) : code;
}

static enum exit_code receive_all(const struct client *client, uint8_t *bytes, size_t count,
                                  struct client_failure *failure)
{
    while (count > 0) {
        const ssize_t got = recv(client->fd, bytes, count, MSG_DONTWAIT);
        if (got > 0) {
            bytes += got;
            count -= (size_t)got;
            continue;
        }
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            return lost(client, failure);
        const enum exit_code code = wait_for(client, POLLIN, failure);
        if (code != EXIT_DONE)
            return code;
    }
    return EXIT_DONE;
}

static enum exit_code receive_frame(struct client *client, struct frame *frame,
                                    struct client_failure *failure)
{
    uint8_t head[HEAD_BYTES];
    enum exit_code code = receive_all(client, head, sizeof head, failure);
    if (code != EXIT_DONE)
        return code;
    const size_t count = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    if (count > API_JSON_BYTES_MAX)
        return fail(failure, EXIT_FAILED, "the node at %s speaks another version of the API", client->path);
    if (count > client->frame_capacity) {
        uint8_t *grown = realloc(client->frame, count);
        if (!grown)
            abort();
        client->frame = grown;
        client->frame_capacity = count;
    }
    code = receive_all(client, client->frame, count, failure);
    *frame = (struct frame){.kind = (char)head[4], .bytes = client->frame, .count = count};
    return code;
}

static enum exit_code send_request(const struct client *client, json_t *request,
                                   struct client_failure *failure)
{
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!text)
        return fail(failure, EXIT_USAGE, "the request holds text that is not UTF-8");
    const enum exit_code code = send_frame(client, 'J', text, strlen(text), failure);
    free(text);
    return code;
}

static enum exit_code receive_json(struct client *client, json_t **object, struct client_failure *failure)
{
    struct frame frame;
    const enum exit_code code = receive_frame(client, &frame, failure);
    if (code != EXIT_DONE)
        return code;
    json_t *parsed = frame.kind == 'J' ? json_loadb((const char *)frame.bytes, frame.count, 0, NULL) : NULL;
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return fail(failure, EXIT_FAILED, "the node at %s sent an answer that is none", client->path);
    }
    *object = parsed;
    return EXIT_DONE;
}

/* ---- Calls */

/* A node that turns a client away has answered before it was asked, and closed: then sending fails, but the answer
 * waits for client_next, or its absence is found there. */
enum exit_code client_begin(struct client *client, json_t *request, struct client_failure *failure)
{
    const enum exit_code code = send_request(client, request, failure);
    return code == EXIT_UNREACHABLE ? EXIT_DONE : code;
}

/* Takes the node's error. */
static enum exit_code refused(json_t *error, struct client_failure *failure)
{
    const int64_t exit = client_number(error, "exit");
    fail(failure, exit > 0 && exit < 256 ? (enum exit_code)exit : EXIT_FAILED, "%s",
         client_text(error, "error"));
    json_decref(error);
    return failure->exit;
}

enum exit_code client_next(struct client *client, json_t **object, bool *final,
                           struct client_failure *failure)
{
    json_t *got = NULL;
    const enum exit_code code = receive_json(client, &got, failure);
    if (code != EXIT_DONE)
        return code;
    *final = !client_flag(got, "more");
    if (*final && !client_flag(got, "ok"))
        return refused(got, failure);
    *object = got;
    return EXIT_DONE;
}

enum exit_code client_call(struct client *client, json_t *request, json_t **reply,
                           struct client_failure *failure)
{
    enum exit_code code = client_begin(client, request, failure);
    while (code == EXIT_DONE) {
        json_t *object;
        bool final;
        code = client_next(client, &object, &final, failure);
        if (code != EXIT_DONE)
            break;
        if (!final) {
            json_decref(object);
            continue;
        }
        if (reply)
            *reply = object;
        else
            json_decref(object);
        return EXIT_DONE;
    }
    return code;
}

enum exit_code client_put(struct client *client, json_t *request, uint64_t bytes, client_source *source,
                          void *context, json_t **reply, struct client_failure *failure)
{
    json_object_set_new(request, "bytes", json_integer((json_int_t)bytes));
    enum exit_code code = client_begin(client, request, failure);
    json_t *object = NULL;
    bool final = false;
    if (code == EXIT_DONE)
        code = client_next(client, &object, &final, failure); /* the go-ahead, or a refusal */
    if (code != EXIT_DONE)
        return code;
    json_decref(object);
    if (final)
        return fail(failure, EXIT_FAILED, "the node at %s did not ask for the data", client->path);
    uint8_t *buffer = malloc(API_DATA_BYTES_MAX);
    if (!buffer)
        abort();
    for (uint64_t sent = 0; sent < bytes && code == EXIT_DONE;) {
        const uint64_t left = bytes - sent;
        const ssize_t got =
            source(context, buffer, left < API_DATA_BYTES_MAX ? (size_t)left : API_DATA_BYTES_MAX);
        if (got <= 0) {
            code = fail(failure, EXIT_FAILED, "the input ended after %llu of %llu bytes",
                        (unsigned long long)sent, (unsigned long long)bytes);
            break;
        }
        code = send_frame(client, 'D', buffer, (size_t)got, failure);
        sent += (uint64_t)got;
        /* The node may have given up, a full disk say: then its reason waits to be read. */
        struct pollfd answer = {.fd = client->fd, .events = POLLIN};
        if (sent < bytes && poll(&answer, 1, 0) == 1)
            break;
    }
    free(buffer);
    if (code != EXIT_DONE && code != EXIT_UNREACHABLE)
        return code;
    enum exit_code answered = client_next(client, &object, &final, failure);
    if (answered != EXIT_DONE)
        return answered;
    if (reply)
        *reply = object;
    else
        json_decref(object);
    return EXIT_DONE;
}

enum exit_code client_get(struct client *client, json_t *request, const struct client_receiver *receiver,
                          json_t **reply, struct client_failure *failure)
{
    enum exit_code code = client_begin(client, request, failure);
    json_t *object = NULL;
    bool final = false;
    while (code == EXIT_DONE && !final) {
        json_decref(object);
        object = NULL;
        code = client_next(client, &object, &final, failure);
        if (code == EXIT_DONE && receiver->object)
            receiver->object(receiver->context, object);
    }
    if (code != EXIT_DONE)
        return code;
    uint64_t left = (uint64_t)client_number(object, "bytes");
    if (reply)
        *reply = object;
    else
        json_decref(object);
    while (left > 0) {
        struct frame frame;
        code = receive_frame(client, &frame, failure);
        if (code != EXIT_DONE)
            return code;
        json_t *cut = frame.kind == 'J' ? json_loadb((const char *)frame.bytes, frame.count, 0, NULL) : NULL;
        if (cut) /* the node cannot go on, and says why */
            return refused(cut, failure);
        if (frame.kind != 'D' || frame.count == 0 || frame.count > left)
            return fail(failure, EXIT_FAILED, "the node at %s sent other data than it announced",
                        client->path);
        left -= frame.count;
        if (!receiver->data(receiver->context, frame.bytes, frame.count))
            return fail(failure, EXIT_FAILED, "the data could not be written");
    }
    return EXIT_DONE;
}

/* ---- Reading replies */

const char *client_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

int64_t client_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? json_integer_value(value) : (int64_t)json_real_value(value);
}

bool client_flag(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

const json_t *client_member(const json_t *object, const char *key)
{
    static json_t *empty;
    const json_t *member = json_object_get(object, key);
    if (json_is_array(member) || json_is_object(member))
        return member;
    if (!empty)
        empty = json_array();
    return empty;
}
