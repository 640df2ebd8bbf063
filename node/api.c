/*
 * The server of the local API. A connection reads whole frames into a buffer, hands a J frame to its op's handler, and
 * takes no further call until the handler has answered. Output waits in a queue; bytes of blobs are asked for only while
 * little waits.
 */
#include "node/api.h"

#include "node/log.h"

#include <assert.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define HEAD_BYTES 5u
#define GROUPS_MAX 256
#define READ_BYTES 65536u

struct connection;

struct api_call {
    struct api *api;
    struct connection *connection; /* NULL: a remote call */
    struct api_remote remote;
    json_t *body;
    api_gone *gone;
    void *gone_context;
    /* Data that the client was asked for. */
    api_data *data;
    void *data_context;
    uint64_t data_left;
    /* Data that the client is being sent. */
    api_fill *fill;
    api_filled *filled;
    void *fill_context;
    uint64_t fill_offset;
    uint64_t fill_bytes;
    bool cut;      /* an error was queued in place of the rest */
    bool answered; /* the final J frame was queued; only `fill` may still keep the call alive */
};

/* Born at accept; dies when the client or a fault ends it. Its one call, if any, dies first. */
struct connection {
    struct connection *next;
    struct api *api;
    int fd;
    uid_t uid;
    unsigned rights; /* of enum api_right */
    struct api_call *call;
    void *state; /* of the ops */
    uint8_t *in;
    size_t in_count;
    size_t in_capacity;
    uint8_t *out;
    size_t out_begin;
    size_t out_count; /* from out_begin */
    size_t out_capacity;
    bool dead; /* to be closed in the next turn: never inside a handler */
};

struct api {
    struct api_options options;
    const struct api_op *ops;
    void *ops_context;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int fd;
    struct connection *connections;
    uint32_t count;
    struct api_counters counters;
};

/* ---- Output */

static void kill_connection(struct connection *connection)
{
    connection->dead = true;
    loop_wake(connection->api->options.loop);
}

static void put(struct connection *connection, const void *bytes, size_t count)
{
    if (connection->out_begin > 0 &&
        connection->out_begin + connection->out_count + count > connection->out_capacity) {
        memmove(connection->out, connection->out + connection->out_begin, connection->out_count);
        connection->out_begin = 0;
    }
    if (connection->out_count + count > connection->out_capacity) {
        size_t capacity = connection->out_capacity ? connection->out_capacity : 4096;
        while (capacity < connection->out_count + count)
            capacity *= 2;
        uint8_t *grown = realloc(connection->out, capacity);
        if (!grown)
            abort();
        connection->out = grown;
        connection->out_capacity = capacity;
    }
    memcpy(connection->out + connection->out_begin + connection->out_count, bytes, count);
    connection->out_count += count;
}

static void put_frame(struct connection *connection, char kind, const void *bytes, size_t count)
{
    const uint8_t head[HEAD_BYTES] = {(uint8_t)count, (uint8_t)(count >> 8), (uint8_t)(count >> 16),
                                      (uint8_t)(count >> 24), (uint8_t)kind};
    put(connection, head, sizeof head);
    put(connection, bytes, count);
}

static void watch(struct connection *connection);

static void flush(struct connection *connection)
{
    while (connection->out_count > 0) {
        const ssize_t sent = send(connection->fd, connection->out + connection->out_begin,
                                  connection->out_count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (sent < 0) {
            kill_connection(connection);
            return;
        }
        connection->out_begin += (size_t)sent;
        connection->out_count -= (size_t)sent;
    }
    if (connection->out_count == 0) {
        connection->out_begin = 0;
        if (connection->out_capacity > READ_BYTES) { /* a listing was large; most are not */
            free(connection->out);
            connection->out = NULL;
            connection->out_capacity = 0;
        }
    }
    watch(connection);
}

/* Takes the object. One that could not be built (its text was no UTF-8), or that no client would take, becomes an
 * error in its place. */
static void put_json(struct api_call *call, json_t *object, bool final)
{
    struct connection *connection = call->connection;
    static const char unfit[] =
        "{\"ok\":false,\"error\":\"the answer holds text that is not UTF-8\",\"exit\":1}";
    static const char large[] =
        "{\"ok\":false,\"error\":\"the answer is too large; ask for less (--limit)\",\"exit\":1}";
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text || strlen(text) > API_JSON_BYTES_MAX) {
        const char *instead = text ? large : unfit;
        free(text);
        text = strdup(instead);
        if (!text)
            abort();
    }
    if (!connection) {
        call->remote.answer(call->remote.context, text, strlen(text), final);
        free(text);
        return;
    }
    if (connection->out_count > API_PENDING_BYTES_MAX) {
        connection->api->counters.slow++;
        kill_connection(connection); /* it does not read what it asked for */
    } else {
        put_frame(connection, 'J', text, strlen(text));
    }
    free(text);
    flush(connection);
}

static void fill_more(struct connection *connection)
{
    struct api_call *call = connection->call;
    static uint8_t buffer[API_DATA_BYTES_MAX];
    while (call->fill_offset < call->fill_bytes && connection->out_count < API_DATA_BYTES_MAX &&
           !connection->dead) {
        const uint64_t left = call->fill_bytes - call->fill_offset;
        const size_t wanted = left < sizeof buffer ? (size_t)left : sizeof buffer;
        const ssize_t got = call->fill(call->fill_context, call->fill_offset, buffer, wanted);
        if (got <= 0) {
            if (!call->cut)
                kill_connection(connection);
            return;
        }
        call->fill_offset += (uint64_t)got;
        put_frame(connection, 'D', buffer, (size_t)got);
        flush(connection);
    }
}

/* ---- Calls */

static void call_free(struct api_call *call)
{
    if (call->connection)
        call->connection->call = NULL;
    if (call->filled)
        call->filled(call->fill_context);
    json_decref(call->body);
    free(call);
}

static void take_frames(struct connection *connection);

static void end_call(struct api_call *call)
{
    struct api *api = call->api;
    call_free(call);
    loop_wake(api->options.loop); /* the next call may wait in the buffer already */
}

const json_t *api_body(const struct api_call *call)
{
    return call->body;
}

const char *api_tenant(const struct api_call *call)
{
    if (!call->connection)
        return call->remote.tenant;
    const struct api_options *options = &call->api->options;
    return options->tenant(options->context, call->connection->uid);
}

bool api_may(const struct api_call *call, enum api_right right)
{
    const unsigned rights = call->connection ? call->connection->rights : call->remote.rights;
    return (rights & (unsigned)right) != 0;
}

const char *api_remote_site(const struct api_call *call)
{
    return call->connection ? NULL : call->remote.site;
}

void api_on_gone(struct api_call *call, api_gone *gone, void *context)
{
    call->gone = gone;
    call->gone_context = context;
}

void **api_state(struct api_call *call)
{
    return call->connection ? &call->connection->state : NULL;
}

void api_more(struct api_call *call, json_t *object)
{
    json_object_set_new(object, "more", json_true());
    put_json(call, object, false);
}

void api_reply(struct api_call *call, json_t *object)
{
    if (!object)
        object = json_object();
    json_object_set_new(object, "ok", json_true());
    put_json(call, object, true);
    end_call(call);
}

/* What users and peers wrote may stand in the text, cut anywhere: bytes that are not UTF-8 become '?'. */
static void make_utf8(char *text)
{
    for (char *c = text; *c;) {
        const unsigned char first = (unsigned char)*c;
        const size_t bytes = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
        json_t *whole = strnlen(c, bytes) == bytes ? json_stringn(c, bytes) : NULL;
        if (whole)
            c += bytes;
        else
            *c++ = '?';
        json_decref(whole);
    }
}

static void put_error(struct api_call *call, enum exit_code code, const char *format, va_list arguments)
{
    char text[1000];
    vsnprintf(text, sizeof text, format, arguments);
    make_utf8(text);
    put_json(call, json_pack("{s:b, s:s, s:i}", "ok", 0, "error", text, "exit", (int)code), true);
}

void api_cut(struct api_call *call, enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    put_error(call, code, format, arguments);
    va_end(arguments);
    call->cut = true;
    call->fill_bytes = call->fill_offset;
}

void api_error(struct api_call *call, enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    put_error(call, code, format, arguments);
    va_end(arguments);
    if (call->data_left > 0)
        kill_connection(call->connection); /* its data is on the way and means nothing now */
    call->gone = NULL;
    end_call(call);
}

void api_receive(struct api_call *call, uint64_t bytes, api_data *data, void *context)
{
    call->data = data;
    call->data_context = context;
    call->data_left = bytes;
    put_json(call, json_pack("{s:b}", "more", 1), false); /* "send" */
    if (bytes == 0) {
        call->data = NULL;
        data(context, call, "", 0, true);
    }
}

void api_send(struct api_call *call, json_t *object, uint64_t bytes, api_fill *fill, api_filled *filled,
              void *context)
{
    if (!object)
        object = json_object();
    json_object_set_new(object, "ok", json_true());
    json_object_set_new(object, "bytes", json_integer((json_int_t)bytes));
    call->fill = fill;
    call->filled = filled;
    call->fill_context = context;
    call->fill_bytes = bytes;
    call->answered = true;
    put_json(call, object, true);
    fill_more(call->connection);
    if (call->fill_offset == call->fill_bytes)
        end_call(call);
}

/* ---- Input */

static const struct api_op *find_op(const struct api *api, const char *name)
{
    const struct api_op *op = api->ops;
    while (op->name && strcmp(op->name, name) != 0)
        op++;
    return op->name ? op : NULL;
}

static void dispatch(struct api_call *call)
{
    struct api *api = call->api;
    const char *name = json_string_value(json_object_get(call->body, "op"));
    const struct api_op *op = name ? find_op(api, name) : NULL;
    if (!name)
        api_error(call, EXIT_USAGE, "a call is a JSON object with a member 'op'");
    else if (!op)
        api_error(call, EXIT_USAGE,
                  "this node knows no call '%.40s'; are weir and the node of the same version?", name);
    else if (!api_may(call, op->right)) {
        api->counters.denied++;
        api_error(call, EXIT_DENIED, "'%s' is not for user %u; ask an operator for group %s", name,
                  call->connection ? (unsigned)call->connection->uid : 0,
                  op->right == API_OPERATE ? api->options.admin_group : api->options.group);
    } else {
        api->counters.calls++;
        op->handler(api->ops_context, call);
    }
}

static void begin_call(struct connection *connection, const uint8_t *bytes, size_t count)
{
    struct api_call *call = calloc(1, sizeof *call);
    if (!call)
        abort();
    call->api = connection->api;
    call->connection = connection;
    connection->call = call;
    json_error_t error;
    call->body = json_loadb((const char *)bytes, count, JSON_REJECT_DUPLICATES, &error);
    dispatch(call);
}

void api_begin(struct api *api, json_t *body, const struct api_remote *remote, struct api_call **out)
{
    struct api_call *call = calloc(1, sizeof *call);
    if (!call)
        abort();
    *call = (struct api_call){.api = api, .body = body, .remote = *remote};
    *out = call;
    dispatch(call);
}

void api_leave(struct api_call *call)
{
    if (call->gone)
        call->gone(call->gone_context, call);
    call_free(call);
}

void api_again(struct api_call *call)
{
    call->gone = NULL;
    dispatch(call);
}

static void take_data(struct connection *connection, const uint8_t *bytes, size_t count)
{
    struct api_call *call = connection->call;
    if (!call || !call->data || count == 0 || count > call->data_left) {
        connection->api->counters.malformed++;
        kill_connection(connection);
        return;
    }
    call->data_left -= count;
    api_data *data = call->data;
    const bool last = call->data_left == 0;
    if (last)
        call->data = NULL;
    data(call->data_context, call, bytes, count, last);
}

static uint32_t frame_bytes(const uint8_t *head)
{
    return head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
}

/* Takes whole frames from the buffer, as long as the connection is ready for them. */
static void take_frames(struct connection *connection)
{
    size_t begin = 0;
    while (!connection->dead && connection->in_count - begin >= HEAD_BYTES) {
        const uint8_t *head = connection->in + begin;
        const uint32_t count = frame_bytes(head);
        const bool json = head[4] == 'J';
        if ((!json && head[4] != 'D') || count > (json ? API_JSON_BYTES_MAX : API_DATA_BYTES_MAX)) {
            connection->api->counters.malformed++;
            kill_connection(connection);
            break;
        }
        if (json && connection->call)
            break; /* one call after another */
        if (connection->in_count - begin - HEAD_BYTES < count)
            break;
        begin += HEAD_BYTES + count;
        if (json)
            begin_call(connection, head + HEAD_BYTES, count);
        else
            take_data(connection, head + HEAD_BYTES, count);
    }
    memmove(connection->in, connection->in + begin, connection->in_count - begin);
    connection->in_count -= begin;
}

static size_t wanted_capacity(const struct connection *connection)
{
    if (connection->in_count < HEAD_BYTES)
        return READ_BYTES;
    const size_t whole = HEAD_BYTES + frame_bytes(connection->in);
    return whole > READ_BYTES ? whole : READ_BYTES;
}

static void read_more(struct connection *connection, bool gone)
{
    const size_t capacity = wanted_capacity(connection);
    if (capacity > connection->in_capacity) {
        uint8_t *grown = realloc(connection->in, capacity);
        if (!grown)
            abort();
        connection->in = grown;
        connection->in_capacity = capacity;
    }
    if (connection->in_count == connection->in_capacity) { /* a call is being answered; the next one waits */
        if (gone)
            kill_connection(connection); /* for nobody: what it had sent ahead was never read to its end */
        return;
    }
    const ssize_t got = recv(connection->fd, connection->in + connection->in_count,
                             connection->in_capacity - connection->in_count, MSG_DONTWAIT);
    if (got > 0)
        connection->in_count += (size_t)got;
    else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        kill_connection(connection);
}

static void on_connection(void *context, uint32_t events)
{
    struct connection *connection = context;
    if (events & EPOLLOUT)
        flush(connection);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_more(connection, (events & (EPOLLHUP | EPOLLERR)) != 0);
    if (!connection->dead)
        take_frames(connection);
    if (connection->call && connection->call->answered && !connection->dead) {
        fill_more(connection);
        if (!connection->dead && connection->call->fill_offset == connection->call->fill_bytes)
            end_call(connection->call);
    }
    if (!connection->dead)
        watch(connection);
}

static void watch(struct connection *connection)
{
    if (connection->dead)
        return;
    const bool full = connection->in_capacity > 0 && connection->in_count == connection->in_capacity &&
                      connection->in_count >= wanted_capacity(connection);
    const uint32_t events =
        (full ? 0u : (uint32_t)EPOLLIN) | (connection->out_count > 0 ? (uint32_t)EPOLLOUT : 0u);
    loop_watch(connection->api->options.loop, connection->fd, events, on_connection, connection);
}

/* ---- Connections */

static bool in_group(gid_t wanted, gid_t primary, uid_t uid)
{
    if (primary == wanted)
        return true;
    const struct passwd *user = getpwuid(uid);
    gid_t groups[GROUPS_MAX];
    int count = GROUPS_MAX;
    if (!user || getgrouplist(user->pw_name, user->pw_gid, groups, &count) < 0)
        return false;
    for (int i = 0; i < count; i++)
        if (groups[i] == wanted)
            return true;
    return false;
}

static bool in_named_group(const char *name, const struct ucred *peer)
{
    const struct group *group = name[0] ? getgrnam(name) : NULL;
    return group && in_group(group->gr_gid, peer->gid, peer->uid);
}

static unsigned rights_of(const struct api *api, const struct ucred *peer)
{
    if (peer->uid == 0 || peer->uid == geteuid())
        return API_LOOK | API_SUBMIT | API_OPERATE;
    unsigned rights = 0;
    if (in_named_group(api->options.group, peer))
        rights |= API_LOOK | API_SUBMIT;
    if (in_named_group(api->options.admin_group, peer))
        rights |= API_LOOK | API_SUBMIT | API_OPERATE;
    return rights;
}

static void close_connection(struct connection *connection)
{
    struct api *api = connection->api;
    struct connection **link = &api->connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    api->count--;
    if (connection->call) {
        struct api_call *call = connection->call;
        if (call->gone && !call->answered)
            call->gone(call->gone_context, call);
        call_free(call);
    }
    if (connection->state)
        api->options.closed(api->options.context, connection->state);
    loop_unwatch(api->options.loop, connection->fd);
    close(connection->fd);
    free(connection->in);
    free(connection->out);
    free(connection);
}

static void turn_away(int fd)
{
    static const char text[] = "{\"ok\":false,\"error\":\"too many clients at once; try again\",\"exit\":1}";
    uint8_t frame[HEAD_BYTES + sizeof text] = {sizeof text - 1, 0, 0, 0, 'J'};
    memcpy(frame + HEAD_BYTES, text, sizeof text - 1);
    const ssize_t ignored = send(fd, frame, HEAD_BYTES + sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)ignored;
    close(fd);
}

static void on_accept(void *context, uint32_t events)
{
    (void)events;
    struct api *api = context;
    for (;;) {
        const int fd = accept4(api->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        struct ucred peer;
        socklen_t peer_bytes = sizeof peer;
        if (api->count == API_CONNECTIONS_MAX ||
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) != 0) {
            api->counters.turned_away++;
            turn_away(fd);
            continue;
        }
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection)
            abort();
        *connection = (struct connection){
            .next = api->connections, .api = api, .fd = fd, .uid = peer.uid, .rights = rights_of(api, &peer)};
        api->connections = connection;
        api->count++;
        watch(connection);
    }
}

/* Closes what died, and takes calls that waited for the one before them. */
static int64_t turn(void *context, int64_t now_ms)
{
    (void)now_ms;
    struct api *api = context;
    for (struct connection *connection = api->connections; connection;) {
        struct connection *next = connection->next;
        if (!connection->dead && !connection->call && connection->in_count >= HEAD_BYTES)
            take_frames(connection);
        if (connection->dead) {
            flush(connection);
            close_connection(connection);
        }
        connection = next;
    }
    return INT64_MAX;
}

/* ---- Opening */

static bool is_live(const struct sockaddr_un *address)
{
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool live = probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof *address) == 0;
    if (probe >= 0)
        close(probe);
    return live;
}

/* The socket is 0660 for the group that may submit; where there is none, its owner's alone. */
static void give_to_group(const struct api *api)
{
    const char *name = api->options.group;
    const struct group *group = name[0] ? getgrnam(name) : NULL;
    if (group && chown(api->path, (uid_t)-1, group->gr_gid) == 0)
        return;
    const char *reason = group ? strerror(errno) : "there is no such group";
    chmod(api->path, 0600);
    log_info("api", "socket=%s mode=0600 group=\"%s\" reason=\"%s\"", api->path, name,
             name[0] ? reason : "none is set");
}

static bool bind_socket(struct api *api, char *error, size_t error_bytes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(api->options.path) >= sizeof address.sun_path) {
        snprintf(error, error_bytes,
                 "the API socket's path is too long (%zu of %zu bytes): %s; set api.socket",
                 strlen(api->options.path), sizeof address.sun_path - 1, api->options.path);
        return false;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", api->options.path);
    snprintf(api->path, sizeof api->path, "%s", api->options.path);
    if (is_live(&address)) {
        snprintf(error, error_bytes, "a node is already serving %s; set api.socket to another path",
                 api->path);
        api->path[0] = '\0';
        return false;
    }
    struct stat status;
    if (lstat(api->path, &status) == 0 && S_ISSOCK(status.st_mode))
        unlink(api->path);
    api->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const mode_t mask = umask(0117); /* 0660, before anyone can connect */
    const bool bound = api->fd >= 0 && bind(api->fd, (struct sockaddr *)&address, sizeof address) == 0;
    const int bind_errno = errno;
    umask(mask);
    if (bound)
        give_to_group(api);
    if (bound && listen(api->fd, 128) == 0)
        return true;
    snprintf(error, error_bytes, "cannot listen on %s: %s; set api.socket", api->path,
             strerror(bound ? errno : bind_errno));
    api->path[0] = '\0';
    return false;
}

bool api_open(struct api **out, const struct api_options *options, const struct api_op *ops,
              void *ops_context, char *error, size_t error_bytes)
{
    struct api *api = calloc(1, sizeof *api);
    if (!api)
        abort();
    *api = (struct api){.options = *options, .ops = ops, .ops_context = ops_context, .fd = -1};
    if (!bind_socket(api, error, error_bytes)) {
        if (api->fd >= 0)
            close(api->fd);
        free(api);
        return false;
    }
    loop_watch(options->loop, api->fd, EPOLLIN, on_accept, api);
    loop_on_turn(options->loop, turn, api);
    *out = api;
    return true;
}

void api_count(const struct api *api, struct api_counters *counters)
{
    *counters = api->counters;
    counters->connections = api->count;
}

/* The loop must not run again: the turn function stays registered. */
void api_close(struct api *api)
{
    if (!api)
        return;
    while (api->connections) {
        flush(api->connections);
        close_connection(api->connections);
    }
    loop_unwatch(api->options.loop, api->fd);
    close(api->fd);
    if (api->path[0])
        unlink(api->path);
    free(api);
}
