/*
 * What the runtime adds to the core's ASSIGN and RESULT: the inputs of a bundle, and its results. Each is a
 * msgpack array read with the bounded cursor of node/field.h, since a peer wrote it. docs/protocol.md lists
 * the fields.
 *
 * An *entry* is the result of one shard: its outputs in the manifest's order, each inline or as a blob. It is
 * the same bytes in a RESULT, in a journal row and in the result cache.
 */
#ifndef NODE_PAYLOAD_H
#define NODE_PAYLOAD_H

#include "node/job.h"
#include "node/wire.h"

#define ENTRY_BYTES_MAX (48u * 1024u) /* the store's bound for a cache entry is 64 KiB */

/* ---- Entries */

struct entry_output {
    const uint8_t *bytes; /* inline; NULL when it is a blob */
    uint64_t count;       /* of the output, in both cases */
    struct digest blob;
};

struct entry {
    uint32_t output_count;
    struct entry_output output[MANIFEST_OUTPUTS_MAX];
};

/* Returns the length, or 0 if it does not fit. */
size_t entry_encode(const struct entry *entry, uint8_t *out, size_t capacity);
bool entry_decode(const uint8_t *bytes, size_t count, struct entry *entry); /* borrows from `bytes` */
/* The blobs that an entry names; returns how many. */
uint32_t entry_blobs(const struct entry *entry, uint8_t blobs[MANIFEST_OUTPUTS_MAX][32]);

/*
 * What the result cache keeps with an entry, before its bytes: whose word it is. A row without it is of an earlier build,
 * and nobody's. It stays in our store; what we give to others is the entry, and our word.
 */
#define PROVENANCE_BYTES 44u
struct provenance {
    struct mesh_id
        executor; /* or who gave it to us; zero: of a whole job, whose shards are many nodes', or not known */
    enum mesh_verify level; /* what it has passed */
    enum manifest_class class;
    bool whole;
    int64_t at_ms; /* wall; 0 = not known */
};
/* Writes both into `out`, of PROVENANCE_BYTES + count bytes. */
void provenance_encode(const struct provenance *provenance, const uint8_t *entry, size_t count, uint8_t *out);
/* Returns where the entry begins. */
size_t provenance_decode(const uint8_t *bytes, size_t count, struct provenance *provenance);

/* Does an entry hold what the job's manifest says for that shard? For the whole job, whose outputs are blobs: .npy files? */
bool job_whole_fits(const struct job *job, const struct entry *entry);
bool job_entry_fits(const struct job *job, uint32_t shard, const struct entry *entry);
/* Could its home have a job of that row, which another node tells of as finished? The rest of us trusts its own disk. */
bool job_ended_fits(const struct job *job);

/* ---- ASSIGN */

struct assign_rows {
    const uint8_t
        *bytes; /* inline; NULL: [offset, offset + count) of the input's blob, which hash to `digest` */
    uint64_t count;
    uint64_t offset;
    struct digest digest;
    struct array_type type;
};

struct assign_shard {
    uint64_t first_item;
    uint64_t items;
    struct assign_rows rows[MANIFEST_INPUTS_MAX];
};

struct assign {
    const struct manifest *manifest;
    struct digest kernel;
    char tenant[JOB_TENANT_BYTES];
    struct manifest_params params;
    struct job_input inputs[MANIFEST_INPUTS_MAX];
    uint32_t shard_count;
    struct assign_shard *shards; /* owned: freed by assign_deinit */
};

/* Writes the payload for these shards of a job. Returns NULL if it would not fit a control message. */
struct bytes *assign_encode(const struct job *job, const uint32_t *shards, uint32_t count);
enum assign_error {
    ASSIGN_OK = 0,
    ASSIGN_MALFORMED,      /* class PEER */
    ASSIGN_UNKNOWN_KERNEL, /* this node has no such kernel, or another version of it */
};
/* Reads a payload; the inline rows are borrowed from `bytes`. assign_deinit whatever comes of it. */
enum assign_error assign_decode(const struct bytes *bytes, struct assign *assign);
void assign_deinit(struct assign *assign);

/* ---- RESULT */

/* One entry or message per shard of the bundle, in order. */
struct result_item {
    const uint8_t *bytes; /* an entry if the shard is done, else a message for people */
    size_t count;
};
/* Any size; a RESULT on the wire must not be over WIRE_PAYLOAD_BYTES_MAX, which the sender checks. */
struct bytes *result_encode(const struct result_item *items, uint32_t count);
/* Fills up to `capacity` items, borrowed from `bytes`. Returns how many, or -1 if malformed. */
int result_decode(const struct bytes *bytes, struct result_item *items, uint32_t capacity);

/* ---- Rows of STORE_JOBS and STORE_JOURNAL */

#define JOB_ROW_BYTES_MAX 16384u /* a user's manifest is in it */
size_t job_row_encode(const struct job *job, uint8_t *out, size_t capacity);
/* Makes a job from its row; NULL if the row is damaged or names a kernel that this build lacks. */
struct job *job_row_decode(const uint8_t *bytes, size_t count);

/*
 * The first entry of a job's journal: [row, input, ...], an input being the whole blob if it is small (up to
 * JOB_INLINE_BYTES_MAX), so that it is held with the entry and need not be fetched, or empty. The row alone stands for an
 * entry in which nothing rides.
 */
#define FIRST_ENTRY_BYTES_MAX (JOB_ROW_BYTES_MAX + MANIFEST_INPUTS_MAX * (JOB_INLINE_BYTES_MAX + 8u))
struct first_entry {
    const uint8_t *row;
    size_t row_bytes;
    uint32_t input_count;                          /* as the manifest's; 0 where nothing rides */
    struct result_item input[MANIFEST_INPUTS_MAX]; /* manifest order; bytes NULL: it does not ride along */
};
size_t first_entry_encode(const struct first_entry *entry, uint8_t *out, size_t capacity);
/* Returns the job as job_row_decode does, and what rides along, borrowed from `bytes`: each input is the blob that the
 * row names, else the entry makes no sense (NULL). */
struct job *first_entry_decode(const uint8_t *bytes, size_t count, struct first_entry *entry);

/* A part of one commit: as many of its shards as fit JOURNAL_ROW_BYTES_MAX. Its key is the job's id and its
 * first shard, big-endian: a shard is committed once, so the key is unique. */
#define JOURNAL_ROW_BYTES_MAX (512u * 1024u)
struct journal_row {
    bool
        disputes; /* nothing is committed: these shards, which were before, proved wrong. Of an item its shard counts */
    uint64_t epoch;
    struct mesh_id executor;
    uint64_t device_us; /* of the whole bundle, in its first row; 0 in the others */
    bool cached;
    uint32_t count;
    struct {
        uint32_t shard;
        struct result_item entry;
    } item[MESH_LOOKUP_SHARDS_MAX];
};
/* The end of a job, as its journal of several copies tells it. */
struct journal_end {
    enum mesh_job_state state; /* DONE, FAILED, CANCELLED */
    int64_t at_ms;             /* wall */
    char error[JOB_ERROR_BYTES];
};
size_t journal_end_encode(const struct journal_end *end, uint8_t *out, size_t capacity);
bool journal_end_decode(const uint8_t *bytes, size_t count, struct journal_end *end);

size_t journal_row_encode(const struct journal_row *row, uint8_t *out, size_t capacity);
bool journal_row_decode(const uint8_t *bytes, size_t count, struct journal_row *row);

#endif
