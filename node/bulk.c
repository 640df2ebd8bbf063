#include "node/bulk_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct socket_options bulk_socket_options(const struct bulk *bulk, int64_t message_bytes_max)
{
    return (struct socket_options){
        .zmq = bulk->options.zmq,
        .curve = &bulk->options.curve,
        .curve_secret = &bulk->options.curve_secret,
        .message_bytes_max = message_bytes_max,
        .hwm = BULK_HWM,
        .bulk = true,
    };
}

/* ---- Completions ------------------------------------------------------------------------------------------
 */

void bulk_complete(struct bulk *bulk, struct bulk_completion *completion)
{
    completion->next = NULL;
    pthread_mutex_lock(&bulk->lock);
    if (bulk->done_last)
        bulk->done_last->next = completion;
    else
        bulk->done_first = completion;
    bulk->done_last = completion;
    pthread_mutex_unlock(&bulk->lock);
    const uint64_t one = 1;
    const ssize_t written = write(bulk->done_fd, &one, sizeof one);
    (void)written;
}

static struct bulk_completion *take_completions(struct bulk *bulk)
{
    pthread_mutex_lock(&bulk->lock);
    struct bulk_completion *first = bulk->done_first;
    bulk->done_first = bulk->done_last = NULL;
    pthread_mutex_unlock(&bulk->lock);
    return first;
}

static void on_completions(void *context, uint32_t events)
{
    (void)events;
    struct bulk *bulk = context;
    uint64_t ignored;
    const ssize_t got = read(bulk->done_fd, &ignored, sizeof ignored);
    (void)got;
    struct bulk_completion *next = take_completions(bulk);
    while (next) {
        struct bulk_completion *completion = next;
        next = completion->next;
        if (completion->liar) {
            if (bulk->options.on_liar)
                bulk->options.on_liar(bulk->options.context, &completion->done.holder, &completion->blob);
        } else {
            atomic_fetch_sub(&bulk->open_tickets, 1);
            bulk->options.on_done(bulk->options.context, &completion->done);
        }
        free(completion);
    }
}

/* ---- Peers ------------------------------------------------------------------------------------------------
 */

static struct bulk_peer *find_locked(struct bulk *bulk, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < bulk->peer_count; i++) {
        if (memcmp(&bulk->peers[i].id, id, sizeof *id) == 0)
            return &bulk->peers[i];
    }
    return NULL;
}

bool bulk_peer_find(struct bulk *bulk, const struct mesh_id *id, struct bulk_peer *peer)
{
    pthread_mutex_lock(&bulk->lock);
    const struct bulk_peer *found = find_locked(bulk, id);
    if (found)
        *peer = *found;
    pthread_mutex_unlock(&bulk->lock);
    return found != NULL;
}

/* A fresh entry, the table grown if need be. NULL at the bound. */
static struct bulk_peer *add_locked(struct bulk *bulk)
{
    if (bulk->peer_count == MESH_MEMBERS_MAX)
        return NULL;
    if (bulk->peer_count == bulk->peer_capacity) {
        const uint32_t capacity = bulk->peer_capacity ? 2 * bulk->peer_capacity : 16;
        struct bulk_peer *peers = realloc(bulk->peers, capacity * sizeof *peers);
        if (!peers)
            return NULL;
        bulk->peers = peers;
        bulk->peer_capacity = capacity;
    }
    bulk->peers[bulk->peer_count] = (struct bulk_peer){0};
    return &bulk->peers[bulk->peer_count++];
}

bool bulk_peer_set(struct bulk *bulk, const struct mesh_id *id, const struct curve_public *curve,
                   const char *address)
{
    if (!address || strlen(address) > TRANSPORT_ADDRESS_BYTES_MAX)
        address = "";
    pthread_mutex_lock(&bulk->lock);
    struct bulk_peer *peer = find_locked(bulk, id);
    if (!peer)
        peer = add_locked(bulk);
    if (peer) {
        *peer = (struct bulk_peer){.id = *id, .curve = *curve, .lied_at_ms = peer->lied_at_ms};
        memcpy(peer->address, address, strlen(address));
    }
    pthread_mutex_unlock(&bulk->lock);
    return peer != NULL;
}

void bulk_peer_remove(struct bulk *bulk, const struct mesh_id *id)
{
    pthread_mutex_lock(&bulk->lock);
    struct bulk_peer *peer = find_locked(bulk, id);
    if (peer)
        *peer = bulk->peers[--bulk->peer_count];
    pthread_mutex_unlock(&bulk->lock);
}

void bulk_mark_liar(struct bulk *bulk, const struct mesh_id *id)
{
    pthread_mutex_lock(&bulk->lock);
    struct bulk_peer *peer = find_locked(bulk, id);
    if (peer)
        peer->lied_at_ms = clock_now_ms();
    pthread_mutex_unlock(&bulk->lock);
}

void bulk_report_liar(struct bulk *bulk, const struct mesh_id *holder, const struct digest *blob)
{
    bulk_mark_liar(bulk, holder);
    struct bulk_completion *told = calloc(1, sizeof *told);
    if (!told)
        return; /* it is counted, and passed over */
    told->liar = true;
    told->blob = *blob;
    told->done.holder = *holder;
    bulk_complete(bulk, told);
}

bool bulk_is_liar(struct bulk *bulk, const struct mesh_id *id)
{
    struct bulk_peer peer;
    return bulk_peer_find(bulk, id, &peer) && peer.lied_at_ms &&
           clock_now_ms() < peer.lied_at_ms + BULK_LIAR_MS;
}

bool bulk_progress(struct bulk *bulk, const struct digest *blob, struct bulk_progress *progress)
{
    bool found = false;
    pthread_mutex_lock(&bulk->lock);
    for (uint32_t i = 0; i < bulk->progress_count && !found; i++) {
        found = digest_equal(&bulk->progress[i].blob, blob);
        if (found)
            *progress = bulk->progress[i];
    }
    pthread_mutex_unlock(&bulk->lock);
    return found;
}

/* On Linux a thread has a priority of its own. */
void bulk_stand_back(void)
{
    const long thread = syscall(SYS_gettid);
    (void)setpriority(PRIO_PROCESS, (id_t)thread, BULK_NICE);
}

/* ---- The owner's side -------------------------------------------------------------------------------------
 */

enum bulk_error bulk_fetch(struct bulk *bulk, const struct bulk_request *request, uint64_t ticket)
{
    assert(request->holder_count > 0 && request->holder_count <= BULK_HOLDERS_MAX);
    if (request->bytes > BULK_RANGE_BYTES_MAX || request->offset > BLOB_BYTES_MAX)
        return BULK_TOO_LARGE;
    if (atomic_load(&bulk->open_tickets) >= BULK_QUEUE_MAX)
        return BULK_BUSY;
    atomic_fetch_add(&bulk->open_tickets, 1);
    if (bulk_fetcher_submit(bulk->fetcher, request, ticket))
        return BULK_OK;
    atomic_fetch_sub(&bulk->open_tickets, 1);
    return BULK_MEMORY;
}

enum transport_error bulk_open(const struct bulk_options *options, struct transport_failure *failure,
                               struct bulk **out)
{
    assert(options->zap && options->admission && options->loop && options->store && options->on_done);
    *failure = (struct transport_failure){.error = TRANSPORT_SYSTEM, .text = "out of memory or descriptors"};
    struct bulk *bulk = calloc(1, sizeof *bulk);
    if (!bulk)
        return TRANSPORT_SYSTEM;
    bulk->options = *options;
    pthread_mutex_init(&bulk->lock, NULL);
    bulk->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    void *router = NULL;
    const struct socket_options socket = bulk_socket_options(bulk, WIRE_BULK_REQUEST_BYTES_MAX);
    enum transport_error error =
        bulk->done_fd < 0 ? TRANSPORT_SYSTEM
                          : socket_bind_router(&socket, ZAP_DOMAIN_BULK, options->bind, options->bind_setting,
                                               failure, bulk->bound, &router);
    if (!error &&
        (!bulk_server_open(bulk, router, &bulk->server) || !bulk_fetcher_open(bulk, &bulk->fetcher)))
        error = TRANSPORT_SYSTEM;
    if (error) {
        bulk_close(bulk);
        return error;
    }
    loop_watch(options->loop, bulk->done_fd, EPOLLIN, on_completions, bulk);
    *failure = (struct transport_failure){0};
    *out = bulk;
    return TRANSPORT_OK;
}

void bulk_close(struct bulk *bulk)
{
    if (!bulk)
        return;
    bulk_fetcher_close(bulk->fetcher);
    bulk_server_close(bulk->server);
    struct bulk_completion *next = take_completions(bulk);
    while (next) {
        struct bulk_completion *completion = next;
        next = completion->next;
        free(completion->done.bytes);
        free(completion);
    }
    if (bulk->done_fd >= 0) {
        loop_unwatch(bulk->options.loop, bulk->done_fd);
        close(bulk->done_fd);
    }
    curve_secret_wipe(&bulk->options.curve_secret);
    pthread_mutex_destroy(&bulk->lock);
    free(bulk->peers);
    free(bulk);
}

const char *bulk_bound(const struct bulk *bulk)
{
    return bulk->bound;
}

void bulk_counters_read(const struct bulk *bulk, struct bulk_counters *counters)
{
#define COUNTER_READ(name, text) counters->name = __atomic_load_n(&bulk->counters.name, __ATOMIC_RELAXED);
    BULK_COUNTERS(COUNTER_READ)
#undef COUNTER_READ
}

const char *bulk_error_text(enum bulk_error error)
{
    static const char *const TEXTS[BULK_ERRORS] = {
        [BULK_OK] = "fetched",
        [BULK_ABSENT] = "no holder has it",
        [BULK_UNREACHABLE] = "no holder answered",
        [BULK_CORRUPT] = "the holder's bytes do not match the digest",
        [BULK_STORE] = "the store refused the blob",
        [BULK_MEMORY] = "out of memory",
        [BULK_TOO_LARGE] = "the range is over the limit",
        [BULK_BUSY] = "too many fetches are open",
        [BULK_CANCELLED] = "cancelled",
    };
    return error < BULK_ERRORS ? TEXTS[error] : "unknown";
}
