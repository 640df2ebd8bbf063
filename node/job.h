/*
 * A job at its home: what was asked for, where its bytes are, and what has become of it.
 *
 * The life of a job. A client's submit makes a `struct job` in state PREPARING; the background thread opens
 * its inputs, checks them against the kernel's manifest, cuts the items into shards and computes the shards'
 * keys (job_prepare). Then the core takes it (RUNNING): the row in STORE_JOBS is durable before the client
 * hears of it. Each bundle of results that the core commits is one row in STORE_JOURNAL and is copied into
 * the outputs' assembly files. When the last shard is committed the outputs become blobs, pinned by the job,
 * the journal rows go, and the job is DONE. FAILED and CANCELLED jobs lose their journal as well. Finished
 * jobs are kept for `store.keep_jobs`, then forgotten everywhere.
 *
 * After a restart a job is read back from its row and its journal, prepared again from the same inputs (the
 * cut depends on nothing else, so it is the same) and handed to the core with the next epoch.
 *
 * Who decides: the core decides the states of shards and whether the job is done; this module holds bytes and
 * names.
 */
#ifndef NODE_JOB_H
#define NODE_JOB_H

#include "crypto/digest.h"
#include "kernels/manifest.h"
#include "mesh/mesh.h"
#include "node/bytes.h"
#include "store/store.h"

#define JOB_TENANT_BYTES 64
#define JOB_KEY_BYTES 65
#define JOB_ERROR_BYTES 400
#define JOB_RETURN_BYTES 96
#define JOB_INLINE_BYTES_MAX                                                                                 \
    (16u * 1024u) /* rows and outputs of a shard up to this size ride in ASSIGN and RESULT */

enum job_cache { JOB_CACHE_OFF, JOB_CACHE_SITE, JOB_CACHE_MESH };

enum job_state {
    JOB_PREPARING = 1,
    JOB_RUNNING,
    JOB_ASSEMBLING, /* every shard is committed; the outputs are being put together. Shown as running. */
    JOB_DONE,
    JOB_FAILED,
    JOB_CANCELLED,
};

struct job_input {
    enum manifest_role role; /* 0 = this input of the manifest is absent */
    struct digest blob;
    struct array_type type;
    uint64_t data_offset; /* of the first row in the blob: the length of a .npy header, else 0 */
    uint64_t data_bytes;
    uint64_t row_bytes; /* of a raw input, as the submit says; 0: it is one axis of bytes, or not raw */
};

/* What the row in STORE_JOBS holds of a job for ever. */
struct job_spec {
    struct mesh_id id; /* digest of tenant and key */
    char tenant[JOB_TENANT_BYTES];
    char key[JOB_KEY_BYTES];         /* the submitter's idempotency key, or random */
    const struct manifest *manifest; /* a user's is held: see node/user_kernels.h */
    struct digest kernel;            /* digest of the manifest and its sources */
    struct manifest_params params;
    struct job_input inputs[MANIFEST_INPUTS_MAX]; /* manifest order */
    uint64_t items;
    uint64_t shard_items;
    uint32_t shard_count;
    enum job_cache cache;
    bool local_only;
    enum mesh_verify verify;  /* what its results must pass */
    uint32_t verify_permille; /* SPOT: of a trusted node's; 0: MESH_VERIFY_PERMILLE */
    char
        origin[NAME_BYTES_MAX + 1]; /* the site where it was submitted: its people may cancel it from there */
    int64_t created_at_ms;          /* wall */
    uint32_t output_count;
    struct array_type outputs[MANIFEST_OUTPUTS_MAX]; /* of the whole job */
    uint64_t output_item_bytes[MANIFEST_OUTPUTS_MAX];
};

/* One split input's rows for one shard, as a range of the input's blob. */
struct job_slice {
    uint64_t offset; /* in the blob */
    uint64_t bytes;
};

struct job_node_share {
    struct mesh_id node;
    uint32_t shards;  /* committed */
    uint32_t in_hand; /* assigned and not yet heard of again, as far as decisions tell */
    uint64_t device_us;
};

#define JOB_COPIES_DEFAULT 3 /* of a job's journal: one node, or one site, may be lost */
#define JOB_NODES_MAX 64
#define JOB_BLOBS_MAX (MANIFEST_INPUTS_MAX + 1) /* its inputs, and a user's kernel */
#define JOB_DECISIONS_MAX 128

/*
 * What happened alike at one node within JOB_DECISION_GROUP_MS, as one row: a job of a thousand shards is told in a
 * few. When the rows are full, older ones are put together over ever longer spans, so a job's beginning is never
 * forgotten, only told more coarsely; nothing is merged into a row that is older than JOB_DECISION_GROUP_MS otherwise,
 * so that followers of the log may tell it then.
 */
#define JOB_DECISION_GROUP_MS 1000
struct job_decision {
    uint64_t number; /* counts up; rows that were put together keep the first one's */
    int64_t at_ms;   /* wall, of the first */
    struct mesh_id node;
    enum mesh_reason why;
    uint32_t shard; /* the first */
    uint32_t count; /* shards or places, all together */
    uint32_t times; /* how many decisions */
    bool holds;     /* ASKED, ASSIGNED: the node's workers hold the job's largest input, by its last word */
    uint32_t free_slots; /* ASKED, ASSIGNED: what the node offered when it was asked, */
    uint32_t rtt_us;     /* and how far away it is; 0 = here, or not measured */
    char *reason; /* CRASHED, REJECTED, RETURNED: what the latest attempt said; owned, NULL = nothing */
};

/* A call that submitted the job, or asked for the same under the same key before it was durable. */
struct job_submitter {
    struct job_submitter *next;
    struct api_call *call;
    int64_t tell_at_ms; /* monotonic: when it is told what it waits for; INT64_MAX: it was */
    bool existing;
};

struct job {
    struct job_spec spec;
    enum job_state state;
    uint64_t epoch;
    int64_t finished_at_ms;
    char error[JOB_ERROR_BYTES];      /* FAILED: why */
    char last_error[JOB_ERROR_BYTES]; /* of the latest attempt that went wrong */
    bool
        refused; /* that attempt would fail anywhere, so it fails the job: what comes later doesn't replace it */
    char last_return[JOB_RETURN_BYTES];              /* why the latest shards that came back did */
    struct digest output_blob[MANIFEST_OUTPUTS_MAX]; /* DONE */
    uint64_t output_bytes[MANIFEST_OUTPUTS_MAX];
    uint32_t committed; /* shards; kept here for finished jobs, which the core forgets */
    uint32_t cached;
    uint32_t reassigned;
    uint32_t disputed;   /* committed shards that proved wrong; they stay as they are */
    uint32_t copies;     /* of it, ours included; until it is accepted, how many are wished for */
    uint32_t copies_min; /* while it is being submitted: fewer won't do */
    bool keyed;          /* its submitter named the key: others may be submitting it elsewhere */
    bool undecided;      /* and it isn't known yet whether they do */
    bool yields;         /* one of them goes before */
    bool cancelled;      /* while it was undecided */
    bool is_handed_out;  /* done at once, and waits for others to keep it too (node/keep.h) */
    bool holds_inputs;   /* until it pins them itself (node/holds.c) */
    bool preparing;      /* the background thread has it */
    bool first_assign;   /* nothing was assigned yet since this node became its home */
    bool moved;          /* and it is another node's meanwhile: freed when that thread gives it back */
    int64_t
        again_at_ms; /* monotonic: a takeover found something missing here and is tried again then; 0 = no */
    bool tended;     /* finished, and the core keeps it for the other members of its journal */
    bool ends;       /* its end is settled, and the last of its results are not saved here yet */

    /* From preparation until the job is finished. */
    const uint8_t *map[MANIFEST_INPUTS_MAX]; /* the inputs' blobs, mapped read-only */
    uint64_t map_bytes[MANIFEST_INPUTS_MAX];
    int broadcast_fd[MANIFEST_INPUTS_MAX];      /* -1 = none */
    struct proof *proof;                        /* proof.h; NULL = none was wanted yet */
    uint64_t *line_offset[MANIFEST_INPUTS_MAX]; /* text: [shard_count + 1], of each shard's first line */
    struct digest *keys;                        /* [shard_count]; NULL with the cache off */
    struct digest whole_key; /* over all keys: names the outputs of the whole job; valid with `keys` */
    struct digest
        *slices[MANIFEST_INPUTS_MAX];      /* [shard_count] ids of rows too large to ride inline; else NULL */
    uint8_t *committed_bits;               /* after a restart, for MESH_RESTORE, as are: */
    struct mesh_brought *brought;          /* [shard_count]; NULL: it is not verified by chance */
    struct mesh_id *bringer;               /* the nodes of `share` by then */
    int assembly_fd[MANIFEST_OUTPUTS_MAX]; /* the outputs as they grow, unlinked files; -1 = none */
    uint8_t *assembly[MANIFEST_OUTPUTS_MAX];
    uint64_t assembly_bytes[MANIFEST_OUTPUTS_MAX];
    bool combined
        [MANIFEST_OUTPUTS_MAX]; /* the assembly holds the reduced output, no longer the shards' parts */

    struct job_node_share share[JOB_NODES_MAX];
    uint32_t share_count;
    struct job_decision *decision; /* [decision_count], by time; it grows to JOB_DECISIONS_MAX as needed */
    uint32_t decision_room;
    uint32_t decision_count;
    uint64_t decisions_ever;    /* the next row's number */
    uint64_t decisions_dropped; /* rows that found no room: more nodes than rows */
    int64_t decision_span_ms;   /* over which older rows were put together */
    bool read_back; /* the home was restarted since it was submitted: decisions before that are lost */
    uint32_t bundle_shards;  /* the submitter's bound on shards in a bundle; 0 = none */
    uint32_t shard_us_guess; /* the manifest's estimate of one shard's device time */
    uint32_t *
        opinion; /* [shard_count], of a tolerant job that is verified by chance: the digest of what is assembled; 0: nothing */
    bool doubted;                /* recheck.c: it is done, and is to be computed again, */
    struct mesh_id doubt;        /* since this member was caught */
    bool damaged;                /* a committed output could not be read back */
    enum store_error keep_error; /* a result could not be stored here, and none was since */
    int64_t assemble_at_ms;      /* monotonic: storing the outputs failed and is tried again then; 0 = no */
    enum store_error
        assemble_error; /* of the latest such failure; STORE_OK = none since the shards were done */
    struct job_submitter *submitters; /* wait for the acknowledgement, in order of arrival */
    struct job *next;                 /* in order of creation */
    struct job *chain;                /* in the same bucket of the table */
};

/* The digest under which a kernel is known: it covers the manifest and the sources. */
struct digest job_kernel_digest(const struct manifest *manifest);
/* Who pins the blobs of single shards' results, until the outputs stand: apart from the job's own pins, so
 * that they can all be released. */
struct digest job_results_owner(const struct mesh_id *id);
/* Of what a submit asks for, so that two under one key are told apart at any node. */
struct digest job_request(const struct job *job);
/* And of how long the rows of its raw inputs are, which nodes of earlier versions do not tell. */
struct digest job_rows(const struct job *job);
/* The id of the job that `tenant` submits under `key`. */
struct mesh_id job_id(const char *tenant, const char *key);
/* For rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): the members of the
 * highest ranks are chosen for the job. `what` for, so that each purpose has ranks of its own. */
struct digest job_rank(const char *what, const struct mesh_id *job, const struct mesh_id *member);

/*
 * Opens and checks a job's inputs and fills in everything from `inputs[].type` to `keys`. Each input's role,
 * blob and format must be set; on a restart the spec is complete and is checked to give the same cut. Takes
 * as long as the inputs are large: background thread only. Returns false with one sentence in job->error; it
 * is the submitter's fault if *denied is EXIT_USAGE (2), ours if EXIT_FAILED (1).
 */
enum job_format { JOB_FORMAT_NPY = 1, JOB_FORMAT_TEXT, JOB_FORMAT_RAW };
struct job_wish {
    char home[NAME_BYTES_MAX + 1]; /* this node's name, for what is said of it */
    enum job_format format[MANIFEST_INPUTS_MAX];
    uint64_t row_bytes[MANIFEST_INPUTS_MAX]; /* RAW */
    uint64_t items;
    uint64_t shard_items;
    uint64_t output_bytes_max; /* of all its outputs together */
};
bool job_prepare(struct job *job, const struct job_wish *wish, struct store *store, const char *scratch,
                 int *exit_code);

/* The rows of `input` that shard `shard` gets. */
struct job_slice job_slice(const struct job *job, uint32_t input, uint32_t shard);
uint64_t job_shard_items(const struct job *job, uint32_t shard);
/* How many shards fit a bundle: MESH_BUNDLE_BYTES_MAX over what one shard's inline rows and inline outputs
 * take. */
uint32_t job_bundle_shards(const struct job *job);
/* How many shards' cached results fit one entry of a journal that is sent to others. */
uint32_t job_lookup_shards(const struct job *job);

/* An empty job in state PREPARING; freed by job_free. NULL when out of memory. */
struct job *job_make(void);

/* Adds one decision to the rows, or to the row that it belongs with. What `one` owns goes over. */
void job_decide(struct job *job, const struct job_decision *one);

/* Frees what only an unfinished job needs: maps, keys, assembly. */
void job_release(struct job *job);
void job_free(struct job *job);

/* Copies one committed output of a shard to its place. Returns false when its size is not what the manifest
 * says. */
/* A shard's outputs where job_assemble put them; until they are combined. */
const uint8_t *job_assembled(const struct job *job, uint32_t output, uint32_t shard);
bool job_assemble(struct job *job, uint32_t output, uint32_t shard, const void *bytes, uint64_t count);
/* Combines the partial results of a reduced output, as a fixed tree over shard numbers, into the first one's
 * place. */
void job_combine(struct job *job, uint32_t output);
/* The bytes that output `output` takes for `shard`. */
uint64_t job_output_bytes(const struct job *job, uint32_t output, uint32_t shard);

#endif
