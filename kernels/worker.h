/* The node's end of a worker: one `weir-worker` process per (device, tenant), which alone runs kernels.
 *
 * The two share a SOCK_SEQPACKET socketpair for short messages and memory for everything else. A bundle is up
 * to 512 shards of one job; it occupies one *region* of shared memory that holds its description, the split
 * inputs and the places of the outputs. There are two resident regions (one bundle runs, one waits); a bundle
 * too large for a region brings its own memory. The node's end lays everything out, so the worker is told
 * where to write and its word is never taken for an offset, a length or a type: a broken worker can spoil its
 * own bundles and nothing else. Memory is sealed against resizing, so it can't make the node fault either.
 * (It can write to an output after reporting it: whoever needs stable bytes copies first, then digests the
 * copy.)
 *
 * Nothing blocks. One thread at a time.
 *
 *   worker_open(&worker, &options)              poll worker_fd(worker) for reading, then
 *   worker_next(worker, &event) until WORKER_NONE:
 *       WORKER_READY   the device; bundles may be submitted (also before)
 *       WORKER_SHARD   one shard's outcome; outputs are borrowed until worker_release of its bundle
 *       WORKER_DONE    every shard of a bundle has been reported
 *       WORKER_EXITED  the process is gone and reaped; unreported shards of bundles in hand are lost attempts
 *   worker_release(worker, bundle)              after DONE: its region may be used again
 *   worker_stalled_ms(worker, now)              a hang is for the node to judge: worker_kill, then EXITED
 * follows worker_close(worker)                        kills what still runs
 *
 * A worker ends by itself when the node's end of the socket closes or the node dies. It is sandboxed before it
 * says that it is ready (kernels/sandbox.h); how far, worker_sandbox tells. */
#ifndef KERNELS_WORKER_H
#define KERNELS_WORKER_H

#include "kernels/manifest.h"
#include "kernels/sandbox.h"

#define WORKER_BUNDLES_MAX 2                 /* in hand: one runs, one waits */
#define WORKER_SHARDS_MAX 512                /* of a bundle */
#define WORKER_REGION_BYTES (32u << 20)      /* a resident region; touched pages only count */
#define WORKER_BUNDLE_BYTES_MAX (4ull << 30) /* a bundle with memory of its own */
#define WORKER_RESIDENTS_MAX 16              /* broadcast inputs a worker keeps mapped */
#define WORKER_RESIDENT_BYTES (8ull << 30)   /* and their bytes together, unless the options say otherwise */
#define WORKER_NAME_BYTES 96
#define WORKER_EXIT_SPOILED 97 /* exit status: a user's kernel spoiled the process; which, was reported */
#define WORKER_ID_BYTES 32
#define WORKER_MESSAGE_BYTES 320
#define WORKER_PROCESSES 64  /* threads of a GPU's driver; the program starts none */
#define WORKER_EXIT_DEVICE 4 /* exit status: its device doesn't open inside the sandbox; unboxed it may */

enum worker_error {
    WORKER_OK,
    WORKER_BUSY,       /* two bundles in hand: release one first */
    WORKER_TOO_MANY,   /* no shard, or more than WORKER_SHARDS_MAX */
    WORKER_TOO_LARGE,  /* more than WORKER_BUNDLE_BYTES_MAX, or a broadcast over the resident limit */
    WORKER_BAD_BUNDLE, /* unknown kernel, or shapes its manifest refuses: `message` says why */
    WORKER_BAD_BLOB,   /* a broadcast's descriptor holds fewer bytes than stated */
    WORKER_GONE,       /* the process has exited or was killed */
    WORKER_SYSTEM,     /* a system call failed; errno tells */
    WORKER_ERRORS      /* count */
};
enum worker_class {
    WORKER_CLASS_NONE,
    WORKER_CLASS_PEER,
    WORKER_CLASS_LOCAL,
    WORKER_CLASS_BUSY,
    WORKER_CLASS_GONE
};
const char *worker_error_text(enum worker_error error);
enum worker_class worker_error_class(enum worker_error error);

struct worker_options {
    const char *path;            /* the weir-worker program */
    const char *device;          /* "cpu:0", "cuda:1" */
    const char *tenant;          /* shown in the process list; NULL: none */
    uint64_t resident_bytes_max; /* 0: WORKER_RESIDENT_BYTES */
    uint64_t memory_bytes;       /* of its own, beside shared memory and mapped files; 0: no limit */
    bool unboxed; /* without the layers about files and calls: for a driver that doesn't start inside them */
};

struct worker_device {
    char kind[8]; /* "cpu" or "cuda" */
    uint32_t index;
    char name[WORKER_NAME_BYTES];
    uint64_t memory_bytes;
    uint32_t compute_major, compute_minor; /* 0 on a CPU */
    uint32_t processors;                   /* multiprocessors; 1 on a CPU worker */
};

/* One split input of one shard: its rows (or lines), copied by worker_submit. */
struct worker_rows {
    const void *data;
    uint64_t bytes;
    struct array_type type; /* shape[0] = items of the shard */
};

/* One broadcast input. The worker maps [offset, offset + bytes) of `fd` the first time it sees `id` and keeps
 * it; later bundles with that id need no fd (-1 is allowed if worker_holds says so). `fd` stays the caller's.
 */
struct worker_blob {
    uint8_t id[WORKER_ID_BYTES];
    int fd;
    uint64_t offset, bytes;
    struct array_type type;
};

struct worker_shard {
    uint64_t first_item; /* absolute, in the job */
    uint64_t items;
    struct worker_rows rows[MANIFEST_INPUTS_MAX]; /* manifest order; used where roles[] says MANIFEST_SPLIT */
};

struct worker_bundle {
    uint64_t id; /* the caller's, unique among bundles in hand */
    const struct manifest *manifest;
    struct manifest_params params;
    uint8_t roles[MANIFEST_INPUTS_MAX];            /* enum manifest_role; 0 = absent */
    struct worker_blob blobs[MANIFEST_INPUTS_MAX]; /* used where roles[] says MANIFEST_BROADCAST */
    struct worker_blob
        code; /* of a user's kernel: what kernels/user_compile.h made for this kind of device */
    const struct worker_shard *shards; /* borrowed during worker_submit */
    uint32_t shard_count;
};

enum worker_outcome {
    WORKER_SHARD_OK,
    WORKER_SHARD_REJECTED,  /* the input is bad: running it elsewhere gives the same */
    WORKER_SHARD_FAILED,    /* this worker could not: another may */
    WORKER_SHARD_CANCELLED, /* worker_cancel came first */
};

enum worker_event_kind { WORKER_NONE, WORKER_READY, WORKER_SHARD, WORKER_DONE, WORKER_EXITED };

struct worker_output {
    const void *data; /* borrowed until worker_release */
    uint64_t bytes;
    struct array_type type;
};

struct worker_event {
    enum worker_event_kind kind;
    uint64_t bundle; /* SHARD, DONE */
    uint32_t shard;  /* SHARD: index in the bundle */
    enum worker_outcome outcome;
    uint64_t device_us; /* SHARD: time on the device */
    uint32_t output_count;
    struct worker_output outputs[MANIFEST_OUTPUTS_MAX]; /* SHARD with outcome OK */
    char message[WORKER_MESSAGE_BYTES];                 /* SHARD not OK, EXITED: why */
    struct worker_device device;                        /* READY */
    int exit_status, exit_signal;                       /* EXITED: one of them, the other 0 */
};

struct worker;

/* Starts the process. On success the worker is owned by the caller: worker_close. A path that can't be
 * started is WORKER_SYSTEM; a device that isn't there shows as WORKER_EXITED with its message on stderr. */
enum worker_error worker_open(struct worker **worker, const struct worker_options *options);
void worker_close(struct worker *worker); /* NULL is allowed */
/* Readable when worker_next has something. Level-triggered; owned by the worker. */
int worker_fd(const struct worker *worker);
int worker_pid(const struct worker *worker);
/* The layers in force: those of this end at once, all from WORKER_READY on. Borrowed for the worker's life. */
const struct sandbox_report *worker_sandbox(const struct worker *worker);
/* Copies the shards' rows and hands the bundle over. On WORKER_BAD_BUNDLE `message` says what is wrong. */
enum worker_error worker_submit(struct worker *worker, const struct worker_bundle *bundle,
                                char message[WORKER_MESSAGE_BYTES]);
uint32_t worker_bundles(const struct worker *worker); /* in hand, released ones excluded */
void worker_next(struct worker *worker, struct worker_event *event);
/* Gives a bundle's region back; also allowed before DONE once the worker has exited. Unknown ids are ignored.
 */
void worker_release(struct worker *worker, uint64_t bundle);
/* Asks that no further shard of the bundle be started; each is reported, those not run as CANCELLED, then
 * DONE. */
void worker_cancel(struct worker *worker, uint64_t bundle);
/* Milliseconds for which a bundle has been in hand without any sign of progress; 0 when idle. Kernels show
 * progress at least every few tens of milliseconds on a CPU, between launches on a GPU. */
int64_t worker_stalled_ms(struct worker *worker, int64_t now_ms);
/* SIGKILL. WORKER_EXITED follows. */
void worker_kill(struct worker *worker);
/* True if a broadcast of that id is mapped in the worker. */
bool worker_holds(const struct worker *worker, const uint8_t id[WORKER_ID_BYTES]);
/* The index-th broadcast that is mapped in the worker, in no order: its bytes, 0 after the last. `*id` is borrowed until the
 * next bundle. */
uint64_t worker_resident(const struct worker *worker, uint32_t index, const uint8_t **id);
/* Unmaps it once the bundles in hand are done; without effect if it isn't held. */
void worker_evict(struct worker *worker, const uint8_t id[WORKER_ID_BYTES]);
/* A sealed memfd holding a copy of `data`, for a broadcast input that has no file; -1 and errno on failure.
 */
int worker_memfd(const void *data, uint64_t bytes);

#endif
