/*
 * The local API: how client commands talk to a node, over a Unix socket.
 *
 * Frames, both ways: u32 little-endian count, u8 kind, then `count` bytes.
 *     'J'  one JSON object (<= API_JSON_BYTES_MAX)
 *     'D'  raw bytes of a blob (<= API_DATA_BYTES_MAX); they follow the J frame that announced how many come
 * in all
 *
 * A connection carries one call after another. A call is {"op": NAME, ...}; the answer is {"ok": true, ...},
 * or
 * {"ok": false, "error": TEXT, "exit": CODE} with the exit code that the command should end with. A streaming
 * op sends any number of {"more": true, ...} objects first. A client that goes away ends its streams; nothing
 * else changes.
 *
 * The caller's uid is taken from the socket (SO_PEERCRED) and maps to a tenant by the config; group `weir`
 * (or root, or the node's own user) may submit and look, group `weir-admin` (or root, or the node's own user)
 * may operate.
 *
 * The server runs on the loop's thread and never blocks: a client that reads slowly is given no more than
 * API_PENDING_BYTES_MAX of waiting output and then asked for nothing until it has read.
 */
#ifndef NODE_API_H
#define NODE_API_H

#include "node/loop.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define API_JSON_BYTES_MAX (16u << 20) /* a listing of 10,000 jobs */
#define API_DATA_BYTES_MAX (1u << 20)
#define API_PENDING_BYTES_MAX (4u << 20)
#define API_CONNECTIONS_MAX 256

/* Exit codes of the command line. */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NONE = 3,        /* nothing matched */
    EXIT_UNREACHABLE = 4, /* no node answers */
    EXIT_DENIED = 5,
    EXIT_PARTIAL = 6, /* timed out, or done in part */
    EXIT_INTERRUPTED = 130,
};

/* ---- Server */

struct api;
struct api_call; /* one request being answered; lives until its final answer was queued or its client went
                    away */

struct api_options {
    struct loop *loop;
    const char
        *path; /* of the socket; created 0660, group below; a stale one is replaced, a live one is an error */
    const char *group;       /* may submit; "" = none but the node's own user */
    const char *admin_group; /* may operate */
    /* Maps a uid to its tenant's name; borrowed. */
    const char *(*tenant)(void *context, uid_t uid);
    /* A connection that has a state (api_state) has ended; its last call went before. */
    void (*closed)(void *context, void *state);
    void *context;
};

enum api_right { API_LOOK = 1, API_SUBMIT = 2, API_OPERATE = 4 };

/*
 * A handler owns `call` until it gives a final answer; it may keep it and answer later. It learns by `gone`
 * (if it set one) that the client left; the call is freed after `gone` returns, and must not be touched
 * again.
 */
typedef void api_handler(void *context, struct api_call *call);
typedef void api_gone(void *context, struct api_call *call);

struct api_op {
    const char *name;
    enum api_right right;
    api_handler *handler;
};

/* `ops` ends with a row without a name and is borrowed. On failure returns false with one line in `error`. */
bool api_open(struct api **api, const struct api_options *options, const struct api_op *ops,
              void *ops_context, char *error, size_t error_bytes);
void api_close(struct api *api);

/* Since api_open, but `connections`, which is now. */
struct api_counters {
    uint64_t connections;
    uint64_t calls;       /* handed to their handlers */
    uint64_t denied;      /* the caller lacks the right */
    uint64_t malformed;   /* frames of unknown kind or over their limit, data that nobody asked for */
    uint64_t slow;        /* connections ended because the client did not read */
    uint64_t turned_away; /* over API_CONNECTIONS_MAX */
};
void api_count(const struct api *api, struct api_counters *counters);

/*
 * A call that another node passed on for a client of its own (node/relay.c). `answer` gets every object as text, borrowed;
 * the final one frees the call. Ops that move data in frames of their own are not for such calls.
 */
struct api_remote {
    void (*answer)(void *context, const char *text, size_t bytes, bool final);
    void *context;
    char tenant[64]; /* as that node says */
    char site[64];   /* of that node */
    unsigned rights; /* of enum api_right, as that node says */
};
/* Runs the op that `body` names; takes the body. *call is set before anything is answered, and is good until the final
 * answer or api_leave. */
void api_begin(struct api *api, json_t *body, const struct api_remote *remote, struct api_call **call);
void api_leave(struct api_call *call); /* its client has left */
/* Hands the call to its op once more: what it asks for has come about. */
void api_again(struct api_call *call);
/* The site of the node that passed the call on; NULL: it came over the socket. */
const char *api_remote_site(const struct api_call *call);

const json_t *api_body(const struct api_call *call); /* borrowed until the final answer */
const char *api_tenant(const struct api_call *call); /* likewise */
bool api_may(const struct api_call *call, enum api_right right);
void api_on_gone(struct api_call *call, api_gone *gone, void *context);
/* What the ops keep for a connection from one call to the next: NULL at first, theirs until `closed` is told. NULL of a
 * remote call, which has no connection. */
void **api_state(struct api_call *call);

void api_more(struct api_call *call, json_t *object); /* takes the object; adds "more": true */
void api_reply(struct api_call *call,
               json_t *object); /* takes the object, NULL = {}; adds "ok": true; final */
__attribute__((format(printf, 3, 4))) void api_error(struct api_call *call, enum exit_code code,
                                                     const char *format, ...); /* final */

/*
 * After a handler has accepted that data follows: `data` is called for each D frame as it comes, until
 * `bytes` have come
 * (`last`); it must then answer. Data that the client sends without being asked for ends the connection.
 */
typedef void api_data(void *context, struct api_call *call, const void *bytes, size_t count, bool last);
void api_receive(struct api_call *call, uint64_t bytes, api_data *data, void *context);

/*
 * From within `fill`, before it returns -1: the caller is told why in an error's J frame, in place of the data that is
 * missing, and the connection stays.
 */
__attribute__((format(printf, 3, 4))) void api_cut(struct api_call *call, enum exit_code code,
                                                   const char *format, ...);

/*
 * Sends {"ok": true, "bytes": N, ...object} and then N bytes, asking `fill` for the next piece whenever the
 * client has room: it writes up to `capacity` bytes from `offset` and returns how many, or -1 to break the
 * connection off. Final.
 */
typedef ssize_t api_fill(void *context, uint64_t offset, void *buffer, size_t capacity);
typedef void api_filled(void *context); /* called once in every case, to release `context`; may be NULL */
void api_send(struct api_call *call, json_t *object, uint64_t bytes, api_fill *fill, api_filled *filled,
              void *context);

#endif
