#include "node/bulk_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROUND_MESSAGES 32                 /* taken from one holder between two looks at everything else */
#define COMMIT_BYTES (8u * 1024u * 1024u) /* of small blobs in one store batch */

/* One who asked. A fetch has one or more. */
struct ticket {
    struct ticket *next;
    uint64_t number;
    bool pinned;
    struct digest pin;
};

/* A connection to a holder, shared by the fetches that use it. */
struct link {
    void *dealer; /* NULL: the place is free */
    struct mesh_id id;
    uint32_t users;
    bool wants_room; /* a request waits until the connection is up, or takes more */
    int64_t used_at_ms;
};

/*
 * A fetch. Born by a request, waits in `queue` until fewer than BULK_ACTIVE_MAX are under way. Then, for each
 * holder in turn: asks for the chunk list (unless a range has its own digest), verifies it against the blob's
 * id, and asks for the bytes from `have` on in pieces; `at` is what was asked for. Pieces come back in order;
 * one that is wrong, late or missing ends this holder's turn. What was verified by chunk stays. Ends in
 * `finish`, or in the next store commit if it is a whole blob.
 */
struct fetch {
    struct fetch *next;
    struct bulk_request request;
    struct digest digest;
    struct ticket *tickets;
    bool whole;
    bool by_chunks;
    bool listed; /* the chunk list is complete and verified */
    bool asked_list;
    uint64_t total_bytes;
    struct digest *chunks;
    uint64_t chunk_count; /* received so far; all of them once listed */
    uint64_t have;        /* bytes of the blob before this offset are there, from `start` on */
    uint64_t at;
    uint64_t end;
    uint8_t *memory; /* a range, or a whole blob of at most STORE_SMALL_BYTES */
    struct store_upload *upload;
    uint32_t holder; /* index into request.holders */
    struct link *link;
    uint64_t request_id; /* of this holder's turn: late answers to an earlier one are not ours */
    int64_t deadline_ms;
    enum bulk_error error; /* what the last holder failed with */
    enum store_error store_error;
};

struct submission {
    struct submission *next;
    struct bulk_request request;
    struct digest digest;
    struct digest pin;
    uint64_t ticket;
};

struct bulk_fetcher {
    struct bulk *bulk;
    pthread_t thread;
    bool started;
    int wake_fd;
    pthread_mutex_t lock; /* guards what follows */
    struct submission *submitted_first;
    struct submission *submitted_last;
    bool stop;
    /* The thread's own. */
    struct fetch *queue;
    struct fetch *active;
    struct fetch *fetched; /* whole blobs that wait for the store */
    uint32_t active_count;
    uint64_t next_request_id;
    struct link links[BULK_LINKS_MAX];
    struct wire_frame frame;
};

/* ---- Ending a fetch ---------------------------------------------------------------------------------------
 */

static void free_fetch(struct fetch *fetch)
{
    while (fetch->tickets) {
        struct ticket *ticket = fetch->tickets;
        fetch->tickets = ticket->next;
        free(ticket);
    }
    store_upload_close(fetch->upload);
    free(fetch->memory);
    free(fetch->chunks);
    free(fetch);
}

/* Tells everybody who asked, and frees the fetch. The first ticket gets the range's bytes, the others copies.
 */
static void finish(struct bulk_fetcher *fetcher, struct fetch *fetch, enum bulk_error error)
{
    if (error)
        BULK_COUNT(fetcher->bulk, fetch_failures, 1);
    const uint64_t range_bytes = fetch->request.bytes;
    for (struct ticket *ticket = fetch->tickets; ticket; ticket = ticket->next) {
        struct bulk_completion *completion = calloc(1, sizeof *completion);
        if (!completion)
            abort(); /* a ticket that never completes would hang its job */
        completion->done =
            (struct bulk_done){.ticket = ticket->number, .error = error, .store = fetch->store_error};
        completion->done.holder =
            fetch->request.holders[fetch->holder < fetch->request.holder_count ? fetch->holder : 0];
        if (!error && fetch->whole)
            completion->done.count = fetch->total_bytes;
        if (!error && !fetch->whole) {
            completion->done.count = range_bytes;
            if (!ticket->next) {
                completion->done.bytes = fetch->memory;
                fetch->memory = NULL;
            } else if ((completion->done.bytes = malloc(range_bytes)) != NULL) {
                memcpy(completion->done.bytes, fetch->memory, range_bytes);
            } else {
                completion->done.error = BULK_MEMORY;
            }
        }
        bulk_complete(fetcher->bulk, completion);
    }
    free_fetch(fetch);
}

static void leave_link(struct fetch *fetch)
{
    if (fetch->link)
        fetch->link->users--;
    fetch->link = NULL;
}

static void remove_active(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    struct fetch **at = &fetcher->active;
    while (*at != fetch)
        at = &(*at)->next;
    *at = fetch->next;
    fetch->next = NULL;
    fetcher->active_count--;
    leave_link(fetch);
}

static void end_active(struct bulk_fetcher *fetcher, struct fetch *fetch, enum bulk_error error)
{
    remove_active(fetcher, fetch);
    finish(fetcher, fetch, error);
}

/* ---- Links ------------------------------------------------------------------------------------------------
 */

static void close_dealer(struct link *link)
{
    if (link->dealer)
        zmq_close(link->dealer);
    *link = (struct link){0};
}

/* The link to a holder, opened if there is none. NULL if it can't be dialled now. */
static struct link *link_to(struct bulk_fetcher *fetcher, const struct mesh_id *id)
{
    struct link *place = NULL;
    for (uint32_t i = 0; i < BULK_LINKS_MAX; i++) {
        struct link *link = &fetcher->links[i];
        if (link->dealer && memcmp(&link->id, id, sizeof *id) == 0)
            return link;
        if (!place || !link->dealer ||
            (place->dealer && link->users == 0 && (place->users > 0 || link->used_at_ms < place->used_at_ms)))
            place = link;
    }
    struct bulk_peer peer;
    if (!bulk_peer_find(fetcher->bulk, id, &peer) || peer.address[0] == 0 || place->users > 0 ||
        admission_check(fetcher->bulk->options.admission, &peer.curve, clock_wall_ms(), NULL) !=
            ADMISSION_ADMITTED)
        return NULL;
    close_dealer(place);
    const struct socket_options options = bulk_socket_options(fetcher->bulk, WIRE_BULK_BYTES_MAX);
    void *dealer = socket_open_dealer(&options, &peer.curve);
    if (!dealer)
        return NULL;
    if (!socket_connect(dealer, peer.address)) {
        zmq_close(dealer);
        return NULL;
    }
    *place = (struct link){.dealer = dealer, .id = *id};
    return place;
}

/* ---- A holder's turn --------------------------------------------------------------------------------------
 */

/* Starts with `holder` or the first one after it that can be dialled; ends the fetch when there is none. */
static void begin_holder(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    leave_link(fetch);
    for (; fetch->holder < fetch->request.holder_count; fetch->holder++) {
        fetch->link = link_to(fetcher, &fetch->request.holders[fetch->holder]);
        if (!fetch->link)
            continue;
        fetch->link->users++;
        fetch->request_id = ++fetcher->next_request_id;
        fetch->asked_list = false;
        if (!fetch->by_chunks)
            fetch->have = fetch->request.offset; /* a range with its own digest is verified as a whole */
        fetch->at = fetch->have;
        if (fetch->by_chunks && !fetch->listed)
            fetch->chunk_count = 0;
        fetch->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
        return;
    }
    end_active(fetcher, fetch, fetch->error);
}

static void next_holder(struct bulk_fetcher *fetcher, struct fetch *fetch, enum bulk_error why)
{
    fetch->error = why;
    if (why == BULK_CORRUPT)
        BULK_COUNT(fetcher->bulk, fetch_corrupt, 1);
    if (why == BULK_UNREACHABLE)
        BULK_COUNT(fetcher->bulk, fetch_timeouts, 1);
    fetch->holder++;
    begin_holder(fetcher, fetch);
}

static bool send_frame(struct fetch *fetch, const struct wire_frame *frame)
{
    uint8_t bytes[128];
    const size_t count = wire_encode(frame, bytes, sizeof bytes);
    assert(count > 0);
    const bool sent = zmq_send(fetch->link->dealer, bytes, count, ZMQ_DONTWAIT) >= 0;
    fetch->link->wants_room |= !sent;
    return sent;
}

static uint32_t piece_bytes(const struct fetch *fetch, uint64_t offset)
{
    const uint64_t left = fetch->end - offset;
    return left < BLOB_CHUNK_BYTES ? (uint32_t)left : BLOB_CHUNK_BYTES;
}

/* Asks for as much as the credits allow. */
static void ask(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    struct wire_frame *frame = &fetcher->frame;
    if (fetch->by_chunks && !fetch->listed) {
        if (fetch->asked_list)
            return;
        frame->kind = WIRE_BULK_LIST;
        frame->body.bulk_list.request = fetch->request_id;
        frame->body.bulk_list.blob = fetch->request.blob;
        frame->body.bulk_list.first = fetch->chunk_count;
        fetch->asked_list = send_frame(fetch, frame);
        return;
    }
    while (fetch->at < fetch->end && fetch->at - fetch->have < (uint64_t)BULK_CREDITS * BLOB_CHUNK_BYTES) {
        frame->kind = WIRE_BULK_GET;
        frame->body.bulk_get.request = fetch->request_id;
        frame->body.bulk_get.blob = fetch->request.blob;
        frame->body.bulk_get.offset = fetch->at;
        frame->body.bulk_get.bytes = piece_bytes(fetch, fetch->at);
        if (!send_frame(fetch, frame))
            return;
        fetch->at += piece_bytes(fetch, fetch->at);
    }
}

/* ---- Answers ----------------------------------------------------------------------------------------------
 */

/* All bytes are there and verified, but for a range's own digest. */
static void completed(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    if (!fetch->whole && !fetch->by_chunks) {
        const struct digest digest = blob_id(fetch->memory, fetch->request.bytes);
        if (!digest_equal(&digest, &fetch->digest)) {
            next_holder(fetcher, fetch, BULK_CORRUPT);
            return;
        }
    }
    if (!fetch->whole) {
        end_active(fetcher, fetch, BULK_OK);
        return;
    }
    remove_active(fetcher, fetch);
    fetch->next = fetcher->fetched;
    fetcher->fetched = fetch;
}

/* The list is verified, so the length is the blob's own: makes the place for the bytes. */
static void prepare_bytes(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    if (fetch->whole) {
        fetch->have = 0;
        fetch->end = fetch->total_bytes;
    } else {
        if (fetch->request.offset > fetch->total_bytes ||
            fetch->request.bytes > fetch->total_bytes - fetch->request.offset) {
            end_active(fetcher, fetch, BULK_ABSENT);
            return;
        }
        const uint64_t last = fetch->request.offset + fetch->request.bytes + BLOB_CHUNK_BYTES - 1;
        fetch->have = fetch->request.offset / BLOB_CHUNK_BYTES * BLOB_CHUNK_BYTES;
        fetch->end = last / BLOB_CHUNK_BYTES * BLOB_CHUNK_BYTES;
        if (fetch->end > fetch->total_bytes)
            fetch->end = fetch->total_bytes;
    }
    fetch->at = fetch->have;
    if (fetch->whole && fetch->total_bytes > STORE_SMALL_BYTES) {
        fetch->store_error = store_upload_open(fetcher->bulk->options.store, &fetch->upload);
        if (fetch->store_error) {
            end_active(fetcher, fetch, BULK_STORE);
            return;
        }
    } else if (fetch->whole) {
        fetch->memory = malloc(fetch->total_bytes ? (size_t)fetch->total_bytes : 1);
        if (!fetch->memory) {
            end_active(fetcher, fetch, BULK_MEMORY);
            return;
        }
    }
    if (fetch->have == fetch->end)
        completed(fetcher, fetch);
}

static void take_chunks(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    const struct wire_names page = fetcher->frame.body.bulk_chunks.chunks;
    const uint64_t total_bytes = fetcher->frame.body.bulk_chunks.total_bytes;
    const uint64_t count = blob_chunk_count(total_bytes);
    if (!fetch->by_chunks || fetch->listed || total_bytes > STORE_BLOB_BYTES_MAX ||
        fetcher->frame.body.bulk_chunks.first != fetch->chunk_count ||
        (fetch->chunk_count > 0 && total_bytes != fetch->total_bytes) ||
        page.count > count - fetch->chunk_count || (page.count == 0 && fetch->chunk_count < count)) {
        next_holder(fetcher, fetch, BULK_CORRUPT);
        return;
    }
    if (page.count > 0) {
        struct digest *chunks = realloc(fetch->chunks, (fetch->chunk_count + page.count) * sizeof *chunks);
        if (!chunks) {
            end_active(fetcher, fetch, BULK_MEMORY);
            return;
        }
        memcpy(chunks + fetch->chunk_count, page.name, page.count * sizeof *chunks);
        fetch->chunks = chunks;
    }
    fetch->total_bytes = total_bytes;
    fetch->chunk_count += page.count;
    fetch->asked_list = false;
    if (fetch->chunk_count < count)
        return;
    if (blob_list_verify(&fetch->request.blob, total_bytes, fetch->chunks, count) != CRYPTO_OK) {
        next_holder(fetcher, fetch, BULK_CORRUPT);
        return;
    }
    fetch->listed = true;
    prepare_bytes(fetcher, fetch);
}

/* Copies what of a verified piece belongs to the range. */
static void keep_range(struct fetch *fetch, uint64_t offset, struct wire_bytes data)
{
    const uint64_t from = offset > fetch->request.offset ? offset : fetch->request.offset;
    const uint64_t range_end = fetch->request.offset + fetch->request.bytes;
    const uint64_t to = offset + data.count < range_end ? offset + data.count : range_end;
    if (from < to)
        memcpy(fetch->memory + (from - fetch->request.offset), data.bytes + (from - offset), to - from);
}

static void take_data(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    const uint64_t offset = fetcher->frame.body.bulk_data.offset;
    const struct wire_bytes data = fetcher->frame.body.bulk_data.data;
    const uint64_t index = offset / BLOB_CHUNK_BYTES;
    const bool expected = (fetch->listed || !fetch->by_chunks) && offset == fetch->have &&
                          fetch->at > fetch->have && data.count == piece_bytes(fetch, offset);
    if (!expected || (fetch->by_chunks && blob_chunk_verify(&fetch->chunks[index], fetch->total_bytes, index,
                                                            data.bytes, data.count) != CRYPTO_OK)) {
        next_holder(fetcher, fetch, BULK_CORRUPT);
        return;
    }
    if (fetch->upload) {
        fetch->store_error = store_upload_append(fetch->upload, data.bytes, data.count);
        if (fetch->store_error) {
            end_active(fetcher, fetch, BULK_STORE);
            return;
        }
    } else if (fetch->whole) {
        memcpy(fetch->memory + offset, data.bytes, data.count);
    } else {
        keep_range(fetch, offset, data);
    }
    BULK_COUNT(fetcher->bulk, fetched_bytes, data.count);
    fetch->have += data.count;
    if (fetch->have == fetch->end)
        completed(fetcher, fetch);
}

static void take_none(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    next_holder(fetcher, fetch,
                fetcher->frame.body.bulk_none.why == WIRE_BULK_FAILED ? BULK_UNREACHABLE : BULK_ABSENT);
}

static uint64_t request_of(const struct wire_frame *frame)
{
    switch (frame->kind) {
    case WIRE_BULK_CHUNKS:
        return frame->body.bulk_chunks.request;
    case WIRE_BULK_DATA:
        return frame->body.bulk_data.request;
    case WIRE_BULK_NONE:
        return frame->body.bulk_none.request;
    default:
        return 0;
    }
}

static void take_answer(struct bulk_fetcher *fetcher, const struct link *link)
{
    const uint64_t request_id = request_of(&fetcher->frame);
    struct fetch *fetch = fetcher->active;
    while (fetch && !(fetch->request_id == request_id && fetch->link == link))
        fetch = fetch->next;
    if (!fetch)
        return; /* late: the fetch has gone on without it */
    fetch->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
    if (fetcher->frame.kind == WIRE_BULK_CHUNKS)
        take_chunks(fetcher, fetch);
    else if (fetcher->frame.kind == WIRE_BULK_DATA)
        take_data(fetcher, fetch);
    else
        take_none(fetcher, fetch);
}

/* A holder that sends what is no answer: everybody leaves it, and the connection is closed. */
static void abandon_link(struct bulk_fetcher *fetcher, struct link *link)
{
    const struct mesh_id id = link->id;
    struct bulk_peer peer;
    if (bulk_peer_find(fetcher->bulk, &id, &peer))
        admission_penalise(fetcher->bulk->options.admission, &peer.curve, ADMISSION_PENALTY_MS);
    struct fetch *next;
    for (struct fetch *fetch = fetcher->active; fetch; fetch = next) {
        next = fetch->next;
        if (fetch->link == link)
            next_holder(fetcher, fetch, BULK_CORRUPT);
    }
    if (memcmp(&link->id, &id, sizeof id) == 0 && link->users == 0)
        close_dealer(link);
}

static void read_link(struct bulk_fetcher *fetcher, struct link *link)
{
    for (int i = 0; i < ROUND_MESSAGES && link->dealer; i++) {
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, link->dealer, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&message);
            return;
        }
        link->used_at_ms = clock_now_ms();
        const bool several = socket_discard_rest(link->dealer, &message);
        if (several)
            BULK_COUNT(fetcher->bulk, refused_multi_frame, 1);
        if (!several &&
            wire_decode(zmq_msg_data(&message), zmq_msg_size(&message), &fetcher->frame) == WIRE_OK &&
            request_of(&fetcher->frame) != 0) {
            take_answer(fetcher, link);
        } else {
            if (!several)
                BULK_COUNT(fetcher->bulk, refused_bad_frame, 1);
            abandon_link(fetcher, link);
        }
        zmq_msg_close(&message);
    }
}

/* ---- Into the store ---------------------------------------------------------------------------------------
 */

static enum store_error add_blob(struct store_batch *batch, struct fetch *fetch)
{
    enum store_error error = STORE_OK;
    uint8_t id[STORE_ID_BYTES];
    if (fetch->upload) {
        error = store_upload_finish(fetch->upload, fetch->request.blob.bytes, batch, id);
        fetch->upload = NULL;
    } else if (fetch->memory) {
        error = store_batch_blob(batch, fetch->memory, (size_t)fetch->total_bytes, id);
    }
    for (struct ticket *ticket = fetch->tickets; ticket && !error; ticket = ticket->next) {
        if (ticket->pinned)
            error = store_batch_pin(batch, fetch->request.blob.bytes, ticket->pin.bytes);
    }
    return error;
}

/* One commit for whole blobs that were completed in this round, up to COMMIT_BYTES of small ones. */
static void commit_some(struct bulk_fetcher *fetcher)
{
    struct store_batch *batch = NULL;
    enum store_error error = store_batch_open(fetcher->bulk->options.store, &batch);
    struct fetch *members = NULL;
    uint64_t bytes = 0;
    while (fetcher->fetched && bytes < COMMIT_BYTES && !error) {
        struct fetch *fetch = fetcher->fetched;
        fetcher->fetched = fetch->next;
        bytes += fetch->memory ? fetch->total_bytes : 0;
        error = add_blob(batch, fetch);
        fetch->next = members;
        members = fetch;
    }
    if (error)
        store_batch_close(batch);
    else
        error = store_commit_wait(fetcher->bulk->options.store, batch);
    if (!members && fetcher->fetched) { /* not even a batch could be had */
        members = fetcher->fetched;
        fetcher->fetched = members->next;
        members->next = NULL;
    }
    while (members) {
        struct fetch *fetch = members;
        members = fetch->next;
        fetch->store_error = error;
        finish(fetcher, fetch, error ? BULK_STORE : BULK_OK);
    }
}

/* ---- Requests ---------------------------------------------------------------------------------------------
 */

static bool same_work(const struct fetch *fetch, const struct submission *submission)
{
    return digest_equal(&fetch->request.blob, &submission->request.blob) &&
           fetch->request.offset == submission->request.offset &&
           fetch->request.bytes == submission->request.bytes &&
           !fetch->request.digest == !submission->request.digest &&
           (!fetch->request.digest || digest_equal(&fetch->digest, &submission->digest));
}

static struct fetch *find_same(struct bulk_fetcher *fetcher, const struct submission *submission)
{
    struct fetch *const lists[] = {fetcher->active, fetcher->queue, fetcher->fetched};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (struct fetch *fetch = lists[i]; fetch; fetch = fetch->next) {
            if (same_work(fetch, submission))
                return fetch;
        }
    }
    return NULL;
}

/* Adds a ticket to the fetch that does this work, making one at the queue's end if there is none. */
static void accept(struct bulk_fetcher *fetcher, const struct submission *submission)
{
    struct fetch *fetch = find_same(fetcher, submission);
    struct ticket *ticket = calloc(1, sizeof *ticket);
    if (!ticket)
        abort();
    if (fetch) {
        BULK_COUNT(fetcher->bulk, fetches_joined, 1);
    } else {
        fetch = calloc(1, sizeof *fetch);
        if (!fetch)
            abort();
        fetch->request = submission->request;
        fetch->digest = submission->digest;
        fetch->whole = submission->request.offset == 0 && submission->request.bytes == 0;
        fetch->by_chunks = fetch->whole || !submission->request.digest;
        fetch->error = BULK_UNREACHABLE;
        struct fetch **end = &fetcher->queue;
        while (*end)
            end = &(*end)->next;
        *end = fetch;
    }
    *ticket = (struct ticket){.next = fetch->tickets,
                              .number = submission->ticket,
                              .pinned = submission->request.pin != NULL,
                              .pin = submission->pin};
    fetch->tickets = ticket;
}

/* Begins one fetch that waited. */
static void begin(struct bulk_fetcher *fetcher)
{
    struct fetch *fetch = fetcher->queue;
    fetcher->queue = fetch->next;
    BULK_COUNT(fetcher->bulk, fetches, 1);
    struct store_blob_info info;
    if (fetch->whole &&
        store_blob_stat(fetcher->bulk->options.store, fetch->request.blob.bytes, &info) == STORE_OK) {
        fetch->total_bytes = info.bytes; /* it is here already: only pins are to be written */
        fetch->next = fetcher->fetched;
        fetcher->fetched = fetch;
        return;
    }
    fetch->next = fetcher->active;
    fetcher->active = fetch;
    fetcher->active_count++;
    if (!fetch->whole) {
        fetch->memory = malloc(fetch->request.bytes ? (size_t)fetch->request.bytes : 1);
        if (!fetch->memory) {
            end_active(fetcher, fetch, BULK_MEMORY);
            return;
        }
        fetch->have = fetch->request.offset;
        fetch->end = fetch->request.offset + fetch->request.bytes;
    }
    begin_holder(fetcher, fetch);
}

/* Takes over what was submitted. False when the fetcher is to stop. */
static bool take_submissions(struct bulk_fetcher *fetcher)
{
    uint64_t ignored;
    const ssize_t got = read(fetcher->wake_fd, &ignored, sizeof ignored);
    (void)got;
    pthread_mutex_lock(&fetcher->lock);
    struct submission *next = fetcher->submitted_first;
    fetcher->submitted_first = fetcher->submitted_last = NULL;
    const bool stop = fetcher->stop;
    pthread_mutex_unlock(&fetcher->lock);
    while (next) {
        struct submission *submission = next;
        next = submission->next;
        accept(fetcher, submission);
        free(submission);
    }
    return !stop;
}

/* ---- The thread -------------------------------------------------------------------------------------------
 */

/* Moves everything on that can move. Returns the milliseconds until the next deadline, -1 for none. */
static int64_t work(struct bulk_fetcher *fetcher)
{
    while (fetcher->queue && fetcher->active_count < BULK_ACTIVE_MAX)
        begin(fetcher);
    for (uint32_t i = 0; i < BULK_LINKS_MAX; i++)
        fetcher->links[i].wants_room = false;
    const int64_t now_ms = clock_now_ms();
    int64_t wait_ms = -1;
    struct fetch *next;
    for (struct fetch *fetch = fetcher->active; fetch; fetch = next) {
        next = fetch->next;
        if (now_ms >= fetch->deadline_ms) {
            struct link *link = fetch->link;
            next_holder(fetcher, fetch, BULK_UNREACHABLE);
            if (link->users == 0)
                close_dealer(link); /* dialled afresh when it is needed again */
            wait_ms = 0;
            continue;
        }
        ask(fetcher, fetch);
        if (wait_ms < 0 || fetch->deadline_ms - now_ms < wait_ms)
            wait_ms = fetch->deadline_ms - now_ms;
    }
    while (fetcher->fetched)
        commit_some(fetcher);
    return fetcher->queue && fetcher->active_count < BULK_ACTIVE_MAX ? 0 : wait_ms;
}

static void *run(void *context)
{
    struct bulk_fetcher *fetcher = context;
    while (take_submissions(fetcher)) {
        const int64_t wait_ms = work(fetcher);
        zmq_pollitem_t items[BULK_LINKS_MAX + 1];
        struct link *of_item[BULK_LINKS_MAX + 1];
        int count = 0;
        items[count++] = (zmq_pollitem_t){.fd = fetcher->wake_fd, .events = ZMQ_POLLIN};
        for (uint32_t i = 0; i < BULK_LINKS_MAX; i++) {
            struct link *link = &fetcher->links[i];
            if (!link->dealer)
                continue;
            const short events = link->wants_room ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN;
            of_item[count] = link;
            items[count++] = (zmq_pollitem_t){.socket = link->dealer, .events = events};
        }
        if (zmq_poll(items, count, (long)wait_ms) < 0 && errno != EINTR)
            break;
        for (int i = 1; i < count; i++) {
            if (items[i].revents & ZMQ_POLLIN && of_item[i]->dealer == items[i].socket)
                read_link(fetcher, of_item[i]);
        }
    }
    return NULL;
}

bool bulk_fetcher_submit(struct bulk_fetcher *fetcher, const struct bulk_request *request, uint64_t ticket)
{
    struct submission *submission = calloc(1, sizeof *submission);
    if (!submission)
        return false;
    submission->request = *request;
    submission->ticket = ticket;
    if (request->digest)
        submission->digest = *request->digest;
    if (request->pin)
        submission->pin = *request->pin;
    pthread_mutex_lock(&fetcher->lock);
    if (fetcher->submitted_last)
        fetcher->submitted_last->next = submission;
    else
        fetcher->submitted_first = submission;
    fetcher->submitted_last = submission;
    pthread_mutex_unlock(&fetcher->lock);
    const uint64_t one = 1;
    const ssize_t written = write(fetcher->wake_fd, &one, sizeof one);
    (void)written;
    return true;
}

bool bulk_fetcher_open(struct bulk *bulk, struct bulk_fetcher **out)
{
    struct bulk_fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (!fetcher)
        return false;
    fetcher->bulk = bulk;
    pthread_mutex_init(&fetcher->lock, NULL);
    fetcher->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fetcher->started = fetcher->wake_fd >= 0 && pthread_create(&fetcher->thread, NULL, run, fetcher) == 0;
    *out = fetcher;
    return fetcher->started;
}

static void free_list(struct fetch *fetch)
{
    while (fetch) {
        struct fetch *next = fetch->next;
        free_fetch(fetch);
        fetch = next;
    }
}

void bulk_fetcher_close(struct bulk_fetcher *fetcher)
{
    if (!fetcher)
        return;
    if (fetcher->started) {
        pthread_mutex_lock(&fetcher->lock);
        fetcher->stop = true;
        pthread_mutex_unlock(&fetcher->lock);
        const uint64_t one = 1;
        const ssize_t written = write(fetcher->wake_fd, &one, sizeof one);
        (void)written;
        pthread_join(fetcher->thread, NULL);
    }
    free_list(fetcher->active);
    free_list(fetcher->queue);
    free_list(fetcher->fetched);
    for (uint32_t i = 0; i < BULK_LINKS_MAX; i++)
        close_dealer(&fetcher->links[i]);
    if (fetcher->wake_fd >= 0)
        close(fetcher->wake_fd);
    pthread_mutex_destroy(&fetcher->lock);
    free(fetcher);
}
