/*
 * Every frame that nodes exchange on the control and bulk sockets: one table, one encoder, one decoder.
 *
 *     size_t bytes = wire_encode(&frame, buffer, sizeof buffer);       // 0: does not fit
 *     enum wire_error error = wire_decode(bytes, count, &frame);       // borrowed from `bytes`
 *
 * A frame is one msgpack array `[kind, version, fields...]` with fixed fields in fixed order;
 * docs/protocol.md lists them. A ZeroMQ message holds exactly one frame; BATCH is a frame that holds several.
 *
 * The decoder refuses anything that is not exactly the format: a wrong type, a number out of range, a count
 * over its limit, a byte too few or too many. What it lets through is well formed, not true: whether the
 * sender may say it, and whether a record is signed, is judged elsewhere.
 *
 * `struct wire_frame` is some 16 KiB; only the members of its kind are written. Kinds are numbers for ever.
 */
#ifndef NODE_WIRE_H
#define NODE_WIRE_H

#include "crypto/digest.h"
#include "crypto/record.h"
#include "mesh/message.h"

/*
 * The versions of the protocol that this build speaks; a HELLO carries both, and a link uses the highest that both ends
 * speak. A kind is sent only on links of the version in which it began, or of a later one. What a kind's fields are
 * never changes: other fields are another kind.
 */
#define WIRE_PROTOCOL_MIN ((uint32_t)MESH_PROTOCOL_MIN)
#define WIRE_PROTOCOL_MAX ((uint32_t)MESH_PROTOCOL_MAX)

#define WIRE_CONTROL_BYTES_MAX (256u * 1024u)      /* a message on the control socket */
#define WIRE_BULK_BYTES_MAX ((1024u + 4u) * 1024u) /* on the bulk socket: one chunk and its header */
#define WIRE_BULK_REQUEST_BYTES_MAX 4096u          /* what a bulk server takes: requests are small */
#define WIRE_PAYLOAD_BYTES_MAX                                                                               \
    (WIRE_CONTROL_BYTES_MAX - 8192u) /* of ASSIGN and RESULT: leaves room for the fields */
#define WIRE_ENTRY_BYTES_MAX                                                                                 \
    (WIRE_CONTROL_BYTES_MAX - 4096u) /* of APPEND: what a RESULT brought, and a number for each shard */
#define WIRE_ASK_BYTES_MAX 4096u     /* of a call as JSON */
#define WIRE_SOFTWARE_BYTES_MAX 32u  /* "0.1.0" */
#define WIRE_HELLO_MORE_MAX 6u       /* fields of a HELLO that a later version may add */
#define WIRE_BATCH_FRAMES_MAX 1024u  /* frames in a BATCH; its bytes are bounded anyway */
#define WIRE_CACHE_KEYS_MAX MESH_LOOKUP_SHARDS_MAX /* keys in a PUBLISH or FIND: 32 KiB */
#define WIRE_CACHE_ENTRIES_MAX 256u                /* keys in a GET, entries in one ENTRIES */
#define WIRE_CACHE_HOLDERS_MAX 4u                  /* holders of one key, as the store keeps */
#define WIRE_CACHE_LEASED 255u    /* in place of a number of holders: somebody else computes it */
#define WIRE_CACHE_BLOBS_MAX 16u  /* blobs that one entry needs, as the store keeps */
#define WIRE_BULK_LIST_MAX 16384u /* chunk digests in one answer: 512 KiB */

/* name, number, version of its fields, protocol version in which it began, socket */
#define WIRE_KINDS(X)                                                                                        \
    X(HELLO, 1, 1, 1, CONTROL) /* who speaks on this connection, and in which protocol */                    \
    X(BATCH, 2, 1, 1, CONTROL) /* several frames in one message */                                           \
    X(PING, 16, 1, 1, CONTROL) /* the messages of the core, see mesh/message.h */                            \
    X(PONG, 17, 1, 1, CONTROL)                                                                               \
    X(PUSH, 18, 1, 1, CONTROL)                                                                               \
    X(SUMMARY, 19, 1, 1, CONTROL)                                                                            \
    X(ENTRIES, 20, 1, 1, CONTROL)                                                                            \
    X(WANT, 21, 1, 1, CONTROL)                                                                               \
    X(RESERVE, 22, 1, 1, CONTROL)                                                                            \
    X(GRANT, 23, 1, 1, CONTROL)                                                                              \
    X(WAIT, 24, 1, 1, CONTROL)                                                                               \
    X(RELEASE, 25, 1, 1, CONTROL)                                                                            \
    X(ASSIGN, 26, 1, 1, CONTROL)                                                                             \
    X(EXPIRED, 27, 1, 1, CONTROL)                                                                            \
    X(RESULT, 28, 1, 1, CONTROL)                                                                             \
    X(RESULT_ACK, 29, 1, 1, CONTROL)                                                                         \
    X(RENEW, 30, 1, 1, CONTROL)                                                                              \
    X(RENEWED, 31, 1, 1, CONTROL)                                                                            \
    X(CANCEL, 32, 1, 1, CONTROL)                                                                             \
    X(SPREAD, 33, 1, 2, CONTROL)                                                                             \
    X(HAVE, 34, 1, 2, CONTROL)                                                                               \
    X(GRAFT, 35, 1, 2, CONTROL)                                                                              \
    X(PRUNE, 36, 1, 2, CONTROL)                                                                              \
    X(ASSIGN_KEPT, 37, 1, 2, CONTROL)                                                                        \
    X(APPEND, 38, 1, 2, CONTROL)                                                                             \
    X(APPENDED, 39, 1, 2, CONTROL)                                                                           \
    X(VOTE, 40, 1, 2, CONTROL)                                                                               \
    X(VOTED, 41, 1, 2, CONTROL)                                                                              \
    X(BEAT, 42, 1, 2, CONTROL)                                                                               \
    X(REPORT, 43, 1, 2, CONTROL)                                                                             \
    X(ADOPTED, 44, 1, 2, CONTROL)                                                                            \
    X(AWAIT, 45, 1, 2, CONTROL)                                                                              \
    X(ECHO, 46, 1, 2, CONTROL)                                                                               \
    X(HAND_OVER, 47, 1, 2, CONTROL)                                                                          \
    X(DISK, 53, 1, 2, CONTROL)                                                                               \
    X(WISH, 54, 1, 2, CONTROL)                                                                               \
    X(CACHE_PUBLISH, 48, 1, 1, CONTROL) /* the sender holds the results of these keys */                     \
    X(CACHE_FIND, 49, 1, 1, CONTROL)    /* who holds these keys? asked of their owners */                    \
    X(CACHE_FOUND, 50, 1, 1, CONTROL)                                                                        \
    X(CACHE_GET, 51, 1, 1, CONTROL) /* give me the entries of these keys; asked of a holder */               \
    X(CACHE_ENTRIES, 52, 1, 1, CONTROL)                                                                      \
    X(ASK, 56, 1, 2, CONTROL) /* a client's call that this node can't answer, see node/relay.c */            \
    X(ANSWER, 57, 1, 2, CONTROL)                                                                             \
    X(UNASK, 58, 1, 2, CONTROL)       /* its client has left */                                              \
    X(CACHE_CLAIM, 60, 1, 2, CONTROL) /* as FIND; of what nobody holds, the sender wants the lease */        \
    X(CACHE_CLAIMED, 61, 1, 2, CONTROL)                                                                      \
    X(CACHE_GONE, 62, 1, 2, CONTROL) /* that holder does not have these, or lied about them */               \
    X(CACHE_OVER, 63, 1, 2, CONTROL) /* the sender's leases for this job end */                              \
    X(BULK_LIST, 64, 1, 1, BULK)     /* the chunk digests of a blob, from chunk `first` on */                \
    X(BULK_CHUNKS, 65, 1, 1, BULK)                                                                           \
    X(BULK_GET, 66, 1, 1, BULK) /* bytes of a blob */                                                        \
    X(BULK_DATA, 67, 1, 1, BULK)                                                                             \
    X(BULK_NONE, 68, 1, 1, BULK) /* the answer to LIST or GET that can't be served */

enum wire_kind {
#define WIRE_KIND_NUMBER(name, number, version, since, socket) WIRE_##name = number,
    WIRE_KINDS(WIRE_KIND_NUMBER)
#undef WIRE_KIND_NUMBER
};

enum wire_socket { WIRE_SOCKET_CONTROL = 1, WIRE_SOCKET_BULK };

enum wire_error {
    WIRE_OK = 0,
    WIRE_TRUNCATED, /* all below: class PEER, drop and count */
    WIRE_TRAILING,
    WIRE_TYPE,
    WIRE_RANGE,
    WIRE_UNKNOWN_KIND,
    WIRE_UNKNOWN_VERSION,
    WIRE_ERRORS
};
const char *wire_error_text(enum wire_error error);

/* Borrowed bytes. After a decode they lie in what was decoded. */
struct wire_bytes {
    const uint8_t *bytes;
    size_t count;
};

/* Borrowed 32-byte names (keys, blob ids, node ids, digests), one after the other. */
struct wire_names {
    const uint8_t (*name)[32];
    uint32_t count;
};

/*
 * Sent first on every new connection by the side that dialled, and answered; see node/transport.h. It is read before a
 * version is agreed on, so its fields stay for ever; later versions may add up to WIRE_HELLO_MORE_MAX numbers behind
 * them, which are passed over here.
 */
struct wire_hello {
    uint32_t protocol_min;
    uint32_t protocol_max;
    uint64_t session; /* drawn by the dialling side for each connection; the answer repeats it */
    bool answer;
    struct mesh_id node;
    uint64_t incarnation; /* of the process that speaks, and */
    uint64_t process; /* the session of its MEMBER record: which of two processes with one identity it is */
    char software[WIRE_SOFTWARE_BYTES_MAX + 1];
};

struct wire_cache_entry {
    bool present;
    struct wire_bytes entry; /* opaque, at most 64 KiB; empty if absent */
    struct wire_names blobs;
};

enum wire_bulk_refusal {
    WIRE_BULK_ABSENT = 1, /* no such blob here */
    WIRE_BULK_BEYOND,     /* the range reaches past the blob's end */
    WIRE_BULK_FAILED,     /* the server's store has an error */
};

struct wire_frame {
    enum wire_kind kind;
    union {
        struct wire_hello hello;
        /* The core's. PUSH, SPREAD: `payload` is the signed record, and body.push.record is left zero
         * by the decoder. ASSIGN, RESULT: `payload` is the host's; `handle` is not sent and decodes as 0. The
         * other kinds have no payload. wire_encode takes the kind from message.kind: see wire_message. */
        struct {
            struct mesh_message message;
            struct wire_bytes payload;
        } mesh;
        struct {
            uint32_t count;
            struct wire_bytes
                frame[WIRE_BATCH_FRAMES_MAX]; /* each to be decoded alone; none is a BATCH or HELLO */
        } batch;
        struct {
            struct wire_names keys;
        } cache_publish;
        struct {
            uint64_t request;
            struct wire_names keys;
        } cache_keys; /* CACHE_FIND, CACHE_GET */
        struct {
            uint64_t request;
            uint32_t count; /* keys of the FIND or CLAIM, in its order */
            const uint8_t
                *holders; /* of each key, how many (0 to WIRE_CACHE_HOLDERS_MAX); CLAIMED: or _LEASED */
            struct wire_names nodes; /* the holders of the first key, then those of the second, ... */
        } cache_found;               /* CACHE_FOUND, CACHE_CLAIMED */
        struct {
            uint64_t request;
            struct mesh_id job;
            struct wire_names keys; /* as many as of a FIND */
        } cache_claim;
        struct {
            struct mesh_id holder;
            struct wire_names keys; /* likewise */
        } cache_gone;
        struct {
            struct mesh_id job;
        } cache_over;
        struct {
            uint64_t request;
            uint32_t first; /* place in the GET of entry[0]; a long answer takes several frames */
            uint32_t count;
            struct wire_cache_entry entry[WIRE_CACHE_ENTRIES_MAX];
        } cache_entries;
        struct {
            uint64_t request;
            struct wire_bytes body; /* JSON */
            bool final;             /* ANSWER: nothing more comes */
        } ask;                      /* ASK, ANSWER, UNASK */
        struct {
            uint64_t request;
            struct digest blob;
            uint64_t first;
        } bulk_list;
        struct {
            uint64_t request;
            uint64_t total_bytes; /* of the blob */
            uint64_t first;
            struct wire_names chunks; /* up to WIRE_BULK_LIST_MAX; fewer only at the end */
        } bulk_chunks;
        struct {
            uint64_t request;
            struct digest blob;
            uint64_t offset;
            uint32_t bytes; /* 1 to BLOB_CHUNK_BYTES */
        } bulk_get;
        struct {
            uint64_t request;
            uint64_t offset;
            struct wire_bytes data;
        } bulk_data;
        struct {
            uint64_t request;
            enum wire_bulk_refusal why;
        } bulk_none;
    } body;
};

/* The frame's kind for a message of the core. */
enum wire_kind wire_kind_of(enum mesh_message_kind kind);

/* Fills `frame` with a core message and its payload (a signed record for PUSH; {0} where the kind has none).
 * Copies the used prefix of `message`; the payload is borrowed until the frame is encoded. */
void wire_message(struct wire_frame *frame, const struct mesh_message *message, struct wire_bytes payload);

/* Writes the frame into `out` and returns its length, or 0 if it would pass `capacity`. Asserts counts within
 * limits: what we send is ours. */
size_t wire_encode(const struct wire_frame *frame, uint8_t *out, size_t capacity);

/* What comes before the data's bytes in a BULK_DATA, which are then read right behind it. As wire_encode otherwise. */
#define WIRE_DATA_HEAD_BYTES 32u
size_t wire_encode_data_head(const struct wire_frame *frame, uint8_t *out, size_t capacity);

/* Reads exactly one frame. On an error `frame` is undefined. */
enum wire_error wire_decode(const uint8_t *bytes, size_t count, struct wire_frame *frame);

/* "assign"; NULL for a number that is no kind. */
const char *wire_kind_name(unsigned kind);
/* Which socket a kind belongs on. */
enum wire_socket wire_kind_socket(enum wire_kind kind);
/* The protocol version in which a kind began. */
uint32_t wire_kind_since(enum wire_kind kind);

/* Collects encoded frames into one message. */
#define WIRE_BATCH_HEADER_BYTES 6u /* [2, 1, array 16] */
#define WIRE_BATCH_FRAME_BYTES 5u  /* before each frame: bin 32 */

struct wire_batch {
    uint8_t *bytes; /* borrowed; may be moved to a larger place between calls */
    size_t capacity;
    size_t count;
    uint32_t frames;
};

void wire_batch_init(struct wire_batch *batch, uint8_t *bytes, size_t capacity);
/* Appends an encoded frame; false, and nothing done, if it does not fit or WIRE_BATCH_FRAMES_MAX are in. */
bool wire_batch_add(struct wire_batch *batch, struct wire_bytes frame);
/* The message, borrowed from the batch's bytes: a lone frame as it is, several as a BATCH. Asserts that there
 * is one. */
struct wire_bytes wire_batch_finish(struct wire_batch *batch);

#endif
