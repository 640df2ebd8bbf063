/*
 * The other end of the local API (node/api.h): one blocking connection to one node, for commands, tests and
 * benchmarks. It never starts, finds out or guesses anything about the mesh; it carries calls.
 *
 *     struct client *client;
 *     struct client_failure failure;
 *     if (client_open(&client, path, &failure) != EXIT_DONE) ...            // failure.text: what, where,
 * what to do json_t *reply; if (client_call(client, json_pack("{s:s}", "op", "status"), &reply, &failure) !=
 * EXIT_DONE) ... json_decref(reply); client_close(client);
 *
 * Every function that can fail returns the exit code that a command should end with; EXIT_DONE (0) is
 * success. After EXIT_UNREACHABLE, EXIT_PARTIAL (timed out) or EXIT_INTERRUPTED the connection is spent:
 * close it. An answer that says no (any other code) leaves it usable. One thread at a time.
 */
#ifndef NODE_CLIENT_H
#define NODE_CLIENT_H

#include "node/api.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CLIENT_TIMEOUT_MS 30000 /* of silence; a node answers every call at once, or streams */

struct client;

struct client_failure {
    enum exit_code exit;
    char text[1024]; /* without "weir: " and without a newline */
};

/*
 * Where the node's socket is. `node` is what --node was given, or NULL: then $WEIR_NODE counts, then `socket`
 * (from a config file; may be NULL or ""), then the usual places: /run/weir/api.sock,
 * XDG_RUNTIME_DIR/weir/api.sock, /var/lib/weir/api.sock. A name may be a socket, or a folder that holds
 * api.sock. Nothing is tried out but whether the file exists; without one, EXIT_UNREACHABLE says where it was
 * looked for.
 */
enum exit_code client_find(const char *node, const char *socket, char *path, size_t path_bytes,
                           struct client_failure *failure);

enum exit_code client_open(struct client **client, const char *path, struct client_failure *failure);
void client_close(struct client *client); /* NULL is allowed */

/* The longest silence of the node in any one wait; 0 = none is too long. CLIENT_TIMEOUT_MS at first. */
void client_set_timeout(struct client *client, int64_t timeout_ms);
/* A descriptor whose becoming readable ends every wait with EXIT_INTERRUPTED; -1 = none. Never read from. */
void client_wake_on(struct client *client, int fd);

/* One call, one answer. Takes `request`. The reply (never NULL after EXIT_DONE) is the caller's to
 * json_decref; `reply` may be NULL if only success is of interest. Objects streamed before the answer are
 * dropped. */
enum exit_code client_call(struct client *client, json_t *request, json_t **reply,
                           struct client_failure *failure);

/* A streaming call: client_begin, then client_next until `final`. Every object is the caller's. */
enum exit_code client_begin(struct client *client, json_t *request, struct client_failure *failure);
enum exit_code client_next(struct client *client, json_t **object, bool *final,
                           struct client_failure *failure);

/*
 * A call with data. client_put sends `bytes` bytes, asking `source` for the next piece: it writes up to
 * `capacity` bytes and returns how many (> 0), or -1 to give up (then EXIT_FAILED, and the connection is
 * spent). "bytes" is added to the request. If the node gives up first, its error is returned and the rest is
 * not sent.
 *
 * client_get hands every object that comes to receiver->object, unless NULL: those streamed before the answer, then the
 * answer, which holds "bytes", the count in all. Then every piece goes to receiver->data, which returns false to give
 * up (EXIT_FAILED, spent). `reply` gets the answer if it is not NULL.
 */
typedef ssize_t client_source(void *context, void *buffer, size_t capacity);
struct client_receiver {
    void (*object)(void *context, const json_t *object);
    bool (*data)(void *context, const void *bytes, size_t count);
    void *context;
};
enum exit_code client_put(struct client *client, json_t *request, uint64_t bytes, client_source *source,
                          void *context, json_t **reply, struct client_failure *failure);
enum exit_code client_get(struct client *client, json_t *request, const struct client_receiver *receiver,
                          json_t **reply, struct client_failure *failure);

/* Reading replies: a missing or odd member is "", 0, false, or an empty array (borrowed, never NULL). */
const char *client_text(const json_t *object, const char *key);
int64_t client_number(const json_t *object, const char *key);
bool client_flag(const json_t *object, const char *key);
const json_t *client_member(const json_t *object, const char *key); /* an object or array */

#endif
