/* What the three parts of bulk share: bulk.c (the owner's side), bulk_server.c and bulk_fetch.c (a thread
 * each). */
#ifndef NODE_BULK_INTERNAL_H
#define NODE_BULK_INTERNAL_H

#include "node/bulk.h"
#include "node/socket.h"

#include <pthread.h>
#include <stdatomic.h>

#define BULK_HWM                                                                                             \
    64 /* messages queued per connection and direction: no more than credits allow in practice               \
        */

struct bulk_peer {
    struct mesh_id id;
    struct curve_public curve;
    int64_t lied_at_ms; /* when it last served wrong bytes; 0 = never */
    char address[TRANSPORT_ADDRESS_BYTES_MAX + 1];
};

/* What the fetch thread has to tell the loop: that a ticket is done, or that a holder lied about a blob. */
struct bulk_completion {
    struct bulk_completion *next;
    bool liar;
    struct digest blob;    /* liar */
    struct bulk_done done; /* liar: its holder alone */
};

struct bulk_fetcher;
struct bulk_server;

struct bulk {
    struct bulk_options options;
    char bound[SOCKET_BOUND_BYTES];
    struct bulk_server *server;
    struct bulk_fetcher *fetcher;
    struct bulk_counters counters; /* atomic accesses only */
    pthread_mutex_t lock;          /* guards what follows */
    struct bulk_peer *peers;
    uint32_t peer_count;
    uint32_t peer_capacity;
    struct bulk_progress progress[BULK_ACTIVE_MAX];
    uint32_t progress_count;
    struct bulk_completion *done_first;
    struct bulk_completion *done_last;
    int done_fd; /* eventfd on the loop */
    _Atomic uint32_t open_tickets;
};

#define BULK_COUNT(bulk, name, by) __atomic_fetch_add(&(bulk)->counters.name, (by), __ATOMIC_RELAXED)

/* Copies a peer's entry. */
bool bulk_peer_find(struct bulk *bulk, const struct mesh_id *id, struct bulk_peer *peer);
/* Hands a completion to the loop; takes it over. */
void bulk_complete(struct bulk *bulk, struct bulk_completion *completion);

/* Notes that a holder served wrong bytes of this blob, and tells the loop. */
void bulk_report_liar(struct bulk *bulk, const struct mesh_id *holder, const struct digest *blob);
/* The calling thread gives way to the loop's when the processor is short. */
void bulk_stand_back(void);

/* Takes the ROUTER over, in every case. */
bool bulk_server_open(struct bulk *bulk, void *router, struct bulk_server **server);
void bulk_server_close(struct bulk_server *server);

bool bulk_fetcher_open(struct bulk *bulk, struct bulk_fetcher **fetcher);
void bulk_fetcher_close(struct bulk_fetcher *fetcher);
/* False: out of memory. */
bool bulk_fetcher_submit(struct bulk_fetcher *fetcher, const struct bulk_request *request, uint64_t ticket);

struct socket_options bulk_socket_options(const struct bulk *bulk, int64_t message_bytes_max);

#endif
