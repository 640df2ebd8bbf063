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

/* What becomes of a piece: WANTED, then asked of so many holders, then HERE. */
enum { PIECE_WANTED = 0, PIECE_HERE = UINT8_MAX };

struct asked {
    uint32_t piece;
    int64_t at_ms;
};

/*
 * One holder's part in a fetch. Rests until there is more to ask for than the holders at work have credits for; then it
 * has a link, and credits that grow while that makes it faster. Left when it is silent, lacks the blob or serves wrong
 * bytes: what was asked of it is wanted again. One that was silent may be tried again while the fetch has patience.
 */
struct lane {
    struct mesh_id holder;
    struct link *link; /* NULL: rests, or was left */
    bool left;
    enum bulk_error error; /* left: why */
    int64_t again_at_ms;   /* left, and silent: when it may be tried again */
    uint64_t request_id;   /* of this turn: late answers to an earlier one are not ours */
    int64_t deadline_ms;
    bool asked_list;
    bool blocked; /* its connection took no request: it is down, perhaps for good */
    uint32_t credits;
    uint32_t asked_count;
    struct asked asked[BULK_CREDITS_MAX]; /* oldest first */
    uint32_t round_pieces; /* answered since round_at_us; a round is as many as there are credits */
    int64_t round_at_us;
    double round_rate; /* pieces per microsecond, of the fastest round */
};

/*
 * A fetch. Born by a request, waits in `queue` until fewer than BULK_ACTIVE_MAX are under way. Then it gets the chunk
 * list from one holder (unless a range has its own digest), verifies it against the blob's id, looks at what an earlier
 * life left of the blob (`checking`), and asks all holders for pieces of a chunk each: who answers sooner is asked for
 * more. A range with its own digest can only be verified as a whole, so it comes from one holder at a time. What was
 * verified by chunk stays, whoever is left; of a large blob it stays on disk even if the fetch fails or the node dies.
 * Ends in `finish`, or in the next store commit if it is a whole blob.
 */
struct fetch {
    struct fetch *next;
    struct bulk_request request;
    struct digest digest;
    struct ticket *tickets;
    bool whole;
    bool by_chunks;
    bool listed; /* the chunk list is complete and verified */
    bool checking;
    uint64_t total_bytes;
    struct digest *chunks;
    uint64_t chunk_count; /* received so far; all of them once listed */
    uint64_t start;       /* of piece 0, in the blob */
    uint64_t end;
    uint8_t *piece; /* [piece_count]; NULL until the length is known */
    uint32_t piece_count;
    uint32_t pieces_here;
    uint32_t first_wanted; /* no piece before it is wanted */
    uint8_t *memory;       /* a range, or a whole blob of at most STORE_SMALL_BYTES */
    struct store_partial *partial;
    struct lane lane[BULK_HOLDERS_MAX];
    uint32_t lane_count;
    int64_t came_at_ms; /* the latest piece; 0 = none did */
    struct mesh_id served_by;
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
    uint32_t asked_count; /* pieces asked for and not yet answered, of all fetches */
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
    store_partial_close(fetch->partial);
    free(fetch->memory);
    free(fetch->chunks);
    free(fetch->piece);
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
        completion->done = (struct bulk_done){.ticket = ticket->number,
                                              .error = error,
                                              .store = fetch->store_error,
                                              .holder = fetch->served_by};
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

static void leave_link(struct bulk_fetcher *fetcher, struct lane *lane)
{
    if (lane->link)
        lane->link->users--;
    lane->link = NULL;
    fetcher->asked_count -= lane->asked_count;
    lane->asked_count = 0;
}

static void remove_active(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    struct fetch **at = &fetcher->active;
    while (*at != fetch)
        at = &(*at)->next;
    *at = fetch->next;
    fetch->next = NULL;
    fetcher->active_count--;
    for (uint32_t i = 0; i < fetch->lane_count; i++)
        leave_link(fetcher, &fetch->lane[i]);
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

/* ---- Holders ----------------------------------------------------------------------------------------------
 */

static void lane_leave(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane,
                       enum bulk_error why)
{
    for (uint32_t i = 0; i < lane->asked_count; i++) {
        const uint32_t piece = lane->asked[i].piece;
        if (fetch->piece[piece] == PIECE_HERE || --fetch->piece[piece] != PIECE_WANTED)
            continue;
        if (piece < fetch->first_wanted)
            fetch->first_wanted = piece;
    }
    struct link *link = lane->link;
    leave_link(fetcher, lane);
    if (why == BULK_UNREACHABLE && link && link->users == 0)
        close_dealer(link); /* dialled afresh when it is needed again */
    lane->left = true;
    lane->error = why;
    lane->again_at_ms = clock_now_ms() + BULK_AGAIN_MS;
    if (!fetch->by_chunks && fetch->piece) { /* nothing of it is verified: the next holder begins anew */
        memset(fetch->piece, PIECE_WANTED, fetch->piece_count);
        fetch->pieces_here = fetch->first_wanted = 0;
    }
    if (!fetch->listed)
        fetch->chunk_count = 0;
    if (why == BULK_CORRUPT) {
        BULK_COUNT(fetcher->bulk, fetch_corrupt, 1);
        bulk_report_liar(fetcher->bulk, &lane->holder, &fetch->request.blob);
    }
    if (why == BULK_UNREACHABLE && link)
        BULK_COUNT(fetcher->bulk, fetch_timeouts, 1);
}

static void lane_begin(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    lane->left = false;
    lane->link = link_to(fetcher, &lane->holder);
    if (!lane->link) {
        lane_leave(fetcher, fetch, lane, BULK_UNREACHABLE);
        return;
    }
    lane->link->users++;
    lane->request_id = ++fetcher->next_request_id;
    lane->asked_list = lane->blocked = false;
    lane->credits = BULK_CREDITS;
    lane->round_pieces = 0;
    lane->round_at_us = clock_now_us();
    lane->round_rate = 0;
    lane->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
}

static uint32_t lanes_at_work(const struct fetch *fetch)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < fetch->lane_count; i++)
        count += fetch->lane[i].link != NULL;
    return count;
}

/* The next holder to begin with: in the order of the request, those that lied lately after the others. */
static struct lane *lane_next(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    struct lane *second = NULL;
    for (uint32_t i = 0; i < fetch->lane_count; i++) {
        struct lane *lane = &fetch->lane[i];
        if (lane->link || lane->left)
            continue;
        if (!bulk_is_liar(fetcher->bulk, &lane->holder))
            return lane;
        if (!second)
            second = lane;
    }
    return second;
}

static bool has_wanted(struct fetch *fetch)
{
    while (fetch->first_wanted < fetch->piece_count && fetch->piece[fetch->first_wanted] != PIECE_WANTED)
        fetch->first_wanted++;
    return fetch->first_wanted < fetch->piece_count;
}

static bool owes(const struct fetch *fetch, const struct lane *lane)
{
    return lane->asked_count > 0 || lane->asked_list || lane->blocked || !fetch->listed;
}

/* Whether a further holder would have something to do: those at work are silent, or have no credits for all of it. */
static bool wants_lane(struct fetch *fetch, int64_t now_ms)
{
    if (!fetch->by_chunks)
        return lanes_at_work(fetch) == 0;
    bool lively = false;
    for (uint32_t i = 0; i < fetch->lane_count; i++) {
        const struct lane *lane = &fetch->lane[i];
        lively = lively || (lane->link && (!owes(fetch, lane) ||
                                           now_ms < lane->deadline_ms - BULK_TIMEOUT_MS + BULK_HEDGE_MS));
    }
    return !lively || (fetch->listed && has_wanted(fetch));
}

/* ---- Asking -----------------------------------------------------------------------------------------------
 */

static bool send_frame(struct lane *lane, const struct wire_frame *frame)
{
    uint8_t bytes[128];
    const size_t count = wire_encode(frame, bytes, sizeof bytes);
    assert(count > 0);
    const bool sent = zmq_send(lane->link->dealer, bytes, count, ZMQ_DONTWAIT) >= 0;
    lane->link->wants_room |= !sent;
    if (!sent && !lane->blocked && lane->asked_count == 0)
        lane->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
    lane->blocked = !sent;
    return sent;
}

static uint64_t piece_offset(const struct fetch *fetch, uint32_t piece)
{
    return fetch->start + (uint64_t)piece * BLOB_CHUNK_BYTES;
}

static uint32_t piece_bytes(const struct fetch *fetch, uint32_t piece)
{
    const uint64_t left = fetch->end - piece_offset(fetch, piece);
    return left < BLOB_CHUNK_BYTES ? (uint32_t)left : BLOB_CHUNK_BYTES;
}

static void ask_list(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    if (lane->asked_list)
        return;
    struct wire_frame *frame = &fetcher->frame;
    frame->kind = WIRE_BULK_LIST;
    frame->body.bulk_list.request = lane->request_id;
    frame->body.bulk_list.blob = fetch->request.blob;
    frame->body.bulk_list.first = fetch->chunk_count;
    lane->asked_list = send_frame(lane, frame);
}

static bool ask_piece(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane, uint32_t piece)
{
    struct wire_frame *frame = &fetcher->frame;
    frame->kind = WIRE_BULK_GET;
    frame->body.bulk_get.request = lane->request_id;
    frame->body.bulk_get.blob = fetch->request.blob;
    frame->body.bulk_get.offset = piece_offset(fetch, piece);
    frame->body.bulk_get.bytes = piece_bytes(fetch, piece);
    if (!send_frame(lane, frame))
        return false;
    if (lane->asked_count == 0)
        lane->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
    lane->asked[lane->asked_count++] = (struct asked){.piece = piece, .at_ms = clock_now_ms()};
    fetcher->asked_count++;
    fetch->piece[piece]++;
    return true;
}

/* A credit that may be used now: one per fetch in any case, the others out of what all fetches share. */
static bool has_credit(const struct bulk_fetcher *fetcher, const struct lane *lane)
{
    return lane->asked_count < lane->credits &&
           (lane->asked_count == 0 || fetcher->asked_count < BULK_CREDITS_ALL);
}

static bool lane_asked(const struct lane *lane, uint32_t piece)
{
    for (uint32_t i = 0; i < lane->asked_count; i++)
        if (lane->asked[i].piece == piece)
            return true;
    return false;
}

/* Near the end: a piece that another holder has owed for long. */
static bool overdue_piece(const struct fetch *fetch, const struct lane *lane, uint32_t *piece)
{
    const int64_t before_ms = clock_now_ms() - BULK_HEDGE_MS;
    for (uint32_t i = 0; i < fetch->lane_count; i++) {
        const struct lane *slow = &fetch->lane[i];
        for (uint32_t a = 0; slow != lane && a < slow->asked_count && slow->asked[a].at_ms < before_ms; a++) {
            *piece = slow->asked[a].piece;
            if (fetch->piece[*piece] != PIECE_HERE && fetch->piece[*piece] < 2 && !lane_asked(lane, *piece))
                return true;
        }
    }
    return false;
}

/* Asks for as much as the credits allow. */
static void ask(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    if (fetch->by_chunks && !fetch->listed) {
        ask_list(fetcher, fetch, lane);
        return;
    }
    uint32_t piece;
    while (has_credit(fetcher, lane)) {
        if (has_wanted(fetch))
            piece = fetch->first_wanted;
        else if (!fetch->by_chunks || !overdue_piece(fetch, lane, &piece))
            return;
        if (!ask_piece(fetcher, fetch, lane, piece))
            return;
    }
}

/* ---- Answers ----------------------------------------------------------------------------------------------
 */

/* All bytes are there and verified, but for a range's own digest. */
static void completed(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    if (!fetch->whole && !fetch->by_chunks) {
        const struct digest digest = blob_id(fetch->memory, fetch->request.bytes);
        if (!digest_equal(&digest, &fetch->digest)) {
            lane_leave(fetcher, fetch, lane, BULK_CORRUPT);
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

/* The length is known: makes the table of pieces. */
static bool make_pieces(struct fetch *fetch)
{
    const uint64_t count = (fetch->end - fetch->start + BLOB_CHUNK_BYTES - 1) / BLOB_CHUNK_BYTES;
    fetch->piece_count = (uint32_t)count;
    fetch->piece = calloc(count ? (size_t)count : 1, 1);
    return fetch->piece != NULL;
}

/* The list is verified, so the length is the blob's own: makes the place for the bytes. */
static void prepare_bytes(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    if (fetch->whole) {
        fetch->start = 0;
        fetch->end = fetch->total_bytes;
    } else {
        if (fetch->request.offset > fetch->total_bytes ||
            fetch->request.bytes > fetch->total_bytes - fetch->request.offset) {
            end_active(fetcher, fetch, BULK_ABSENT);
            return;
        }
        const uint64_t last = fetch->request.offset + fetch->request.bytes + BLOB_CHUNK_BYTES - 1;
        fetch->start = fetch->request.offset / BLOB_CHUNK_BYTES * BLOB_CHUNK_BYTES;
        fetch->end = last / BLOB_CHUNK_BYTES * BLOB_CHUNK_BYTES;
        if (fetch->end > fetch->total_bytes)
            fetch->end = fetch->total_bytes;
    }
    bool room = make_pieces(fetch);
    if (room && fetch->whole && fetch->total_bytes > STORE_SMALL_BYTES) {
        const struct store_partial_blob blob = {.id = fetch->request.blob.bytes,
                                                .bytes = fetch->total_bytes,
                                                .chunks = (const uint8_t(*)[32])fetch->chunks};
        fetch->store_error = store_partial_open(fetcher->bulk->options.store, &blob, &fetch->partial);
        if (fetch->store_error) {
            end_active(fetcher, fetch, BULK_STORE);
            return;
        }
        free(fetch->chunks); /* the partial has them */
        fetch->chunks = NULL;
        fetch->checking = true;
    } else if (room && fetch->whole) {
        fetch->memory = malloc(fetch->total_bytes ? (size_t)fetch->total_bytes : 1);
        room = fetch->memory != NULL;
    }
    if (!room)
        end_active(fetcher, fetch, BULK_MEMORY);
    else if (fetch->piece_count == 0)
        completed(fetcher, fetch, lane);
}

/* Looks at some more of what an earlier life left; false once that is done, or all was there. */
static bool check_some(struct bulk_fetcher *fetcher, struct fetch *fetch)
{
    if (!store_partial_check(fetch->partial))
        return true;
    fetch->checking = false;
    for (uint32_t i = 0; i < fetch->piece_count; i++) {
        if (!store_partial_has(fetch->partial, i))
            continue;
        fetch->piece[i] = PIECE_HERE;
        fetch->pieces_here++;
    }
    BULK_COUNT(fetcher->bulk, fetch_resumed_bytes, store_partial_bytes(fetch->partial));
    for (uint32_t i = 0; i < fetch->lane_count; i++)
        fetch->lane[i].deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
    if (fetch->pieces_here == fetch->piece_count)
        completed(fetcher, fetch, NULL);
    return false;
}

static void take_chunks(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    const struct wire_names page = fetcher->frame.body.bulk_chunks.chunks;
    const uint64_t total_bytes = fetcher->frame.body.bulk_chunks.total_bytes;
    const uint64_t count = blob_chunk_count(total_bytes);
    const bool asked = lane->asked_list;
    lane->asked_list = false;
    if (asked && (fetch->listed || fetcher->frame.body.bulk_chunks.first != fetch->chunk_count))
        return; /* another holder was faster with this part, or was left in the middle of it */
    if (!asked || total_bytes > STORE_BLOB_BYTES_MAX ||
        (fetch->chunk_count > 0 && total_bytes != fetch->total_bytes) ||
        page.count > count - fetch->chunk_count || (page.count == 0 && fetch->chunk_count < count)) {
        lane_leave(fetcher, fetch, lane, BULK_CORRUPT);
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
    if (fetch->chunk_count < count)
        return;
    if (blob_list_verify(&fetch->request.blob, total_bytes, fetch->chunks, count) != CRYPTO_OK) {
        lane_leave(fetcher, fetch, lane, BULK_CORRUPT);
        return;
    }
    fetch->listed = true;
    fetch->served_by = lane->holder;
    prepare_bytes(fetcher, fetch, lane);
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

/* Verifies a piece, unless only the whole range can be, and puts it in its place. */
static enum bulk_error keep_piece(struct fetch *fetch, uint32_t piece, struct wire_bytes data)
{
    if (fetch->partial) {
        fetch->store_error = store_partial_write(fetch->partial, piece, data.bytes, data.count);
        return fetch->store_error == STORE_OK         ? BULK_OK
               : fetch->store_error == STORE_MISMATCH ? BULK_CORRUPT
                                                      : BULK_STORE;
    }
    const uint64_t offset = piece_offset(fetch, piece);
    const uint64_t index = offset / BLOB_CHUNK_BYTES;
    if (fetch->by_chunks && blob_chunk_verify(&fetch->chunks[index], fetch->total_bytes, index, data.bytes,
                                              data.count) != CRYPTO_OK)
        return BULK_CORRUPT;
    if (fetch->whole)
        memcpy(fetch->memory + offset, data.bytes, data.count);
    else
        keep_range(fetch, offset, data);
    return BULK_OK;
}

/* More credits, as long as the last ones made the holder faster: a distant one needs more under way, and a near one
 * would only have more of our memory. */
static void pace(struct lane *lane)
{
    if (++lane->round_pieces < lane->credits)
        return;
    const int64_t now_us = clock_now_us();
    const double rate = (double)lane->round_pieces / (double)(now_us - lane->round_at_us + 1);
    if (rate > lane->round_rate * BULK_FASTER) {
        lane->round_rate = rate;
        lane->credits = 2 * lane->credits < BULK_CREDITS_MAX ? 2 * lane->credits : BULK_CREDITS_MAX;
    }
    lane->round_pieces = 0;
    lane->round_at_us = now_us;
}

/* Crosses the answered piece off what the lane owes. False: it wasn't asked for so. */
static bool take_asked(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane, uint32_t *piece)
{
    const uint64_t offset = fetcher->frame.body.bulk_data.offset;
    for (uint32_t i = 0; i < lane->asked_count; i++) {
        if (piece_offset(fetch, lane->asked[i].piece) != offset)
            continue;
        *piece = lane->asked[i].piece;
        memmove(lane->asked + i, lane->asked + i + 1, (lane->asked_count - i - 1) * sizeof *lane->asked);
        lane->asked_count--;
        fetcher->asked_count--;
        return fetcher->frame.body.bulk_data.data.count == piece_bytes(fetch, *piece);
    }
    return false;
}

static void take_data(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    const struct wire_bytes data = fetcher->frame.body.bulk_data.data;
    uint32_t piece = UINT32_MAX;
    const bool expected = take_asked(fetcher, fetch, lane, &piece);
    if (expected && fetch->piece[piece] == PIECE_HERE) { /* two were asked, and the other was faster */
        BULK_COUNT(fetcher->bulk, fetched_twice_bytes, data.count);
        return;
    }
    const enum bulk_error error = expected ? keep_piece(fetch, piece, data) : BULK_CORRUPT;
    if (error == BULK_CORRUPT) {
        if (piece != UINT32_MAX && fetch->piece[piece] != PIECE_HERE &&
            --fetch->piece[piece] == PIECE_WANTED && piece < fetch->first_wanted)
            fetch->first_wanted = piece;
        lane_leave(fetcher, fetch, lane, BULK_CORRUPT);
        return;
    }
    if (error) {
        end_active(fetcher, fetch, error);
        return;
    }
    fetch->piece[piece] = PIECE_HERE;
    fetch->pieces_here++;
    fetch->came_at_ms = clock_now_ms();
    fetch->served_by = lane->holder;
    BULK_COUNT(fetcher->bulk, fetched_bytes, data.count);
    pace(lane);
    if (fetch->pieces_here == fetch->piece_count)
        completed(fetcher, fetch, lane);
}

static void take_none(struct bulk_fetcher *fetcher, struct fetch *fetch, struct lane *lane)
{
    lane_leave(fetcher, fetch, lane,
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

static struct lane *find_lane(struct bulk_fetcher *fetcher, const struct link *link, uint64_t request_id,
                              struct fetch **of)
{
    for (struct fetch *fetch = fetcher->active; fetch; fetch = fetch->next)
        for (uint32_t i = 0; i < fetch->lane_count; i++)
            if (fetch->lane[i].link == link && fetch->lane[i].request_id == request_id) {
                *of = fetch;
                return &fetch->lane[i];
            }
    return NULL;
}

static void take_answer(struct bulk_fetcher *fetcher, const struct link *link)
{
    struct fetch *fetch = NULL;
    struct lane *lane = find_lane(fetcher, link, request_of(&fetcher->frame), &fetch);
    if (!lane) { /* late: the fetch has gone on without it */
        if (fetcher->frame.kind == WIRE_BULK_DATA)
            BULK_COUNT(fetcher->bulk, fetched_twice_bytes, fetcher->frame.body.bulk_data.data.count);
        return;
    }
    lane->deadline_ms = clock_now_ms() + BULK_TIMEOUT_MS;
    if (fetcher->frame.kind == WIRE_BULK_CHUNKS)
        take_chunks(fetcher, fetch, lane);
    else if (fetcher->frame.kind == WIRE_BULK_DATA)
        take_data(fetcher, fetch, lane);
    else
        take_none(fetcher, fetch, lane);
}

/* A holder that sends what is no answer: everybody leaves it, and the connection is closed. */
static void abandon_link(struct bulk_fetcher *fetcher, struct link *link)
{
    struct bulk_peer peer;
    if (bulk_peer_find(fetcher->bulk, &link->id, &peer))
        admission_penalise(fetcher->bulk->options.admission, &peer.curve, ADMISSION_PENALTY_MS);
    for (struct fetch *fetch = fetcher->active; fetch; fetch = fetch->next)
        for (uint32_t i = 0; i < fetch->lane_count; i++)
            if (fetch->lane[i].link == link)
                lane_leave(fetcher, fetch, &fetch->lane[i], BULK_CORRUPT);
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
    if (fetch->partial) {
        error = store_partial_finish(fetch->partial, batch);
        fetch->partial = NULL;
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

/* Holders that the fetch doesn't know yet. */
static void add_holders(struct fetch *fetch, const struct bulk_request *request)
{
    for (uint32_t h = 0; h < request->holder_count; h++) {
        bool known = fetch->lane_count == BULK_HOLDERS_MAX;
        for (uint32_t i = 0; i < fetch->lane_count && !known; i++)
            known = memcmp(&fetch->lane[i].holder, &request->holders[h], sizeof request->holders[h]) == 0;
        if (!known)
            fetch->lane[fetch->lane_count++].holder = request->holders[h];
    }
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
    add_holders(fetch, &submission->request);
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
        fetch->start = fetch->request.offset;
        fetch->end = fetch->request.offset + fetch->request.bytes;
        if (!fetch->memory || (!fetch->by_chunks && !make_pieces(fetch)))
            end_active(fetcher, fetch, BULK_MEMORY);
    }
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

/* What to say when no holder is left: who was silent may be back later, who lied was there at least. */
static enum bulk_error fetch_error(const struct fetch *fetch)
{
    enum bulk_error error = fetch->lane_count ? BULK_ABSENT : BULK_UNREACHABLE;
    for (uint32_t i = 0; i < fetch->lane_count; i++) {
        if (fetch->lane[i].error == BULK_UNREACHABLE)
            return BULK_UNREACHABLE;
        if (fetch->lane[i].error == BULK_CORRUPT)
            error = BULK_CORRUPT;
    }
    return error;
}

/* A fetch of which something came waits for its silent holders to come back: they may have been restarted. */
static bool has_patience(const struct fetch *fetch, int64_t now_ms)
{
    return fetch->whole && fetch->came_at_ms && now_ms < fetch->came_at_ms + BULK_PATIENCE_MS &&
           fetch_error(fetch) == BULK_UNREACHABLE;
}

static void sooner(int64_t *wait_ms, int64_t in_ms)
{
    in_ms = in_ms > 0 ? in_ms : 0;
    if (*wait_ms < 0 || in_ms < *wait_ms)
        *wait_ms = in_ms;
}

/* Leaves holders that are silent and tries those again that were. */
static void look_at_lanes(struct bulk_fetcher *fetcher, struct fetch *fetch, int64_t now_ms, int64_t *wait_ms)
{
    const bool patience = has_patience(fetch, now_ms);
    for (uint32_t i = 0; i < fetch->lane_count; i++) {
        struct lane *lane = &fetch->lane[i];
        const bool waits = lane->link && owes(fetch, lane);
        if (waits && now_ms >= lane->deadline_ms)
            lane_leave(fetcher, fetch, lane, BULK_UNREACHABLE);
        else if (waits)
            sooner(wait_ms, lane->deadline_ms - now_ms);
        if (!lane->left || lane->error != BULK_UNREACHABLE || !patience)
            continue;
        if (now_ms >= lane->again_at_ms)
            lane->left = false;
        else
            sooner(wait_ms, lane->again_at_ms - now_ms);
    }
}

/* One fetch as far as it can be moved; may end it. */
static void advance(struct bulk_fetcher *fetcher, struct fetch *fetch, int64_t now_ms, int64_t *wait_ms)
{
    if (fetch->checking) {
        if (check_some(fetcher, fetch)) {
            *wait_ms = 0;
            return;
        }
        if (fetch->pieces_here == fetch->piece_count)
            return; /* it has moved on to `fetched` */
    }
    look_at_lanes(fetcher, fetch, now_ms, wait_ms);
    for (uint32_t i = 0; i < fetch->lane_count; i++)
        if (fetch->lane[i].link)
            ask(fetcher, fetch, &fetch->lane[i]);
    struct lane *lane;
    while (wants_lane(fetch, now_ms) &&
           (lanes_at_work(fetch) == 0 || fetcher->asked_count < BULK_CREDITS_ALL) &&
           (lane = lane_next(fetcher, fetch))) {
        lane_begin(fetcher, fetch, lane);
        if (lane->link)
            ask(fetcher, fetch, lane);
        if (lane->link && lane->link->wants_room)
            break; /* its connection is being made */
    }
    if (lanes_at_work(fetch) == 0 && !has_patience(fetch, now_ms) && !lane_next(fetcher, fetch))
        end_active(fetcher, fetch, fetch_error(fetch));
    else
        sooner(wait_ms, lanes_at_work(fetch) ? BULK_HEDGE_MS : BULK_AGAIN_MS);
}

/* The first one becomes the last, so that credits that all share go round. */
static void rotate(struct bulk_fetcher *fetcher)
{
    struct fetch *first = fetcher->active;
    if (!first || !first->next)
        return;
    fetcher->active = first->next;
    struct fetch **end = &fetcher->active;
    while (*end)
        end = &(*end)->next;
    *end = first;
    first->next = NULL;
}

/* While this thread waited for the disk, answers waited for it: nobody was silent. */
static void commit_all(struct bulk_fetcher *fetcher)
{
    const int64_t begun_ms = clock_now_ms();
    while (fetcher->fetched)
        commit_some(fetcher);
    const int64_t took_ms = clock_now_ms() - begun_ms;
    for (struct fetch *fetch = fetcher->active; fetch; fetch = fetch->next)
        for (uint32_t i = 0; i < fetch->lane_count; i++)
            fetch->lane[i].deadline_ms += took_ms;
}

static void show_progress(struct bulk_fetcher *fetcher)
{
    struct bulk *bulk = fetcher->bulk;
    uint32_t count = 0;
    pthread_mutex_lock(&bulk->lock);
    for (const struct fetch *fetch = fetcher->active; fetch && count < BULK_ACTIVE_MAX; fetch = fetch->next)
        if (fetch->partial)
            bulk->progress[count++] =
                (struct bulk_progress){.blob = fetch->request.blob,
                                       .have_bytes = store_partial_bytes(fetch->partial),
                                       .total_bytes = fetch->total_bytes};
    bulk->progress_count = count;
    pthread_mutex_unlock(&bulk->lock);
}

/* Moves everything on that can move. Returns the milliseconds until the next deadline, -1 for none. */
static int64_t work(struct bulk_fetcher *fetcher)
{
    while (fetcher->queue && fetcher->active_count < BULK_ACTIVE_MAX)
        begin(fetcher);
    for (uint32_t i = 0; i < BULK_LINKS_MAX; i++)
        fetcher->links[i].wants_room = false;
    const int64_t now_ms = clock_now_ms();
    int64_t wait_ms = -1;
    rotate(fetcher);
    struct fetch *next;
    for (struct fetch *fetch = fetcher->active; fetch; fetch = next) {
        next = fetch->next;
        advance(fetcher, fetch, now_ms, &wait_ms);
    }
    show_progress(fetcher);
    if (fetcher->fetched)
        commit_all(fetcher);
    return fetcher->queue && fetcher->active_count < BULK_ACTIVE_MAX ? 0 : wait_ms;
}

static void *run(void *context)
{
    struct bulk_fetcher *fetcher = context;
    bulk_stand_back();
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
