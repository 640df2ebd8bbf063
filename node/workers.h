/*
 * The supervisor of this node's workers: one slot per device, one `weir-worker` process per slot while it has
 * work.
 *
 * A slot's process serves one tenant; when another tenant's bundle comes and the slot is idle, the process is
 * replaced. A process that dies, or shows no progress for `hang_ms`, costs the shard it was at one attempt
 * (CRASHED); the shards behind it were not run (RETURNED). A device whose worker fails three times in a row
 * without finishing a shard, while it ran built-in kernels, is at fault: its slot is withdrawn and `devices` is told.
 *
 * A user's kernel runs only in the whole sandbox (kernels/sandbox.h). Each of its shards must end within three times
 * what its manifest declares, or `hang_ms` if that is longer. When it fails its worker twice it is quarantined
 * (faulty.h); the device is not blamed.
 * A device that its owner claims
 * gets no bundle, and its worker ends: devices.c decides.
 *
 * Runs on the loop's thread and never blocks after workers_open.
 */
#ifndef NODE_WORKERS_H
#define NODE_WORKERS_H

#include "kernels/worker.h"
#include "mesh/message.h"
#include "node/faulty.h"
#include "node/loop.h"

struct workers;

/* What happened to one shard of a bundle. `outputs` are borrowed for the call. */
struct workers_shard {
    uint64_t bundle;
    uint32_t shard; /* index in the bundle */
    enum mesh_outcome outcome;
    uint64_t device_us;
    const struct worker_output *outputs; /* MESH_DONE */
    uint32_t output_count;
    const char *message; /* not MESH_DONE */
};

struct workers_options {
    struct loop *loop;
    const char *path; /* of weir-worker */
    int cpu_slots;    /* -1 = one per core this process may use */
    int cuda_devices; /* -1 = all that are found */
    int64_t hang_ms;
    /* Each shard of a submitted bundle is reported once, then the bundle ends once. */
    void (*shard)(void *context, const struct workers_shard *shard);
    void (*done)(void *context, uint64_t bundle);
    void (*devices)(void *context); /* the number of lendable slots changed */
    void *context;
};

/* Finds the devices (runs `weir-worker --list`). On failure returns false with one line in `error`. */
bool workers_open(struct workers **workers, const struct workers_options *options, char *error,
                  size_t error_bytes);
void workers_close(struct workers *workers); /* kills what runs */

uint16_t workers_slots(const struct workers *workers, uint32_t class);
const char *workers_path(const struct workers *workers); /* of weir-worker */

enum workers_answer {
    WORKERS_TAKEN,
    WORKERS_NO_PLACE, /* every slot of the class has two bundles in hand, or serves another tenant */
    WORKERS_BAD,      /* `message` says why; no worker would take it */
    WORKERS_REFUSED,  /* `message` says why; another node may take it */
};

/* Starts a bundle on the slot of `class` with the least in hand. The bundle is borrowed for the call. */
enum workers_answer workers_submit(struct workers *workers, uint32_t class, const char *tenant,
                                   const struct worker_bundle *bundle, char message[WORKER_MESSAGE_BYTES]);
/* Starts no further shard of that bundle: those not run are reported RETURNED. A shard that is running goes
 * on for `grace_ms`, then its worker is killed. */
void workers_stop(struct workers *workers, uint64_t bundle, int64_t grace_ms);

/* The owner has the device: nothing starts there any more; what runs there is told to stop, has `grace_ms`, and its
 * worker is killed then, or as soon as it has ended. Shards not done are reported RETURNED. */
void workers_claim(struct workers *workers, uint32_t index, int64_t grace_ms);
/* It may be used again. */
void workers_lend(struct workers *workers, uint32_t index);
/* While held, nothing new is started there; what runs goes on. */
void workers_hold_back(struct workers *workers, uint32_t index, bool held);
/* The bundles that a device has in hand; returns how many. */
uint32_t workers_bundles(const struct workers *workers, uint32_t index, uint64_t bundle[WORKER_BUNDLES_MAX]);

/* Whether the slot that would take that tenant's next bundle has a worker that maps this broadcast blob. */
bool workers_hold(const struct workers *workers, uint32_t class, const char *tenant,
                  const uint8_t id[WORKER_ID_BYTES]);

struct workers_resident {
    uint8_t id[WORKER_ID_BYTES];
    uint64_t bytes;
};
/* The largest blobs of at least `bytes_min` that some worker maps, the largest first; returns how many, at most `max`. */
uint32_t workers_residents(const struct workers *workers, uint64_t bytes_min, struct workers_resident *out,
                           uint32_t max);

/* The turn function for the loop: kills hung workers and those whose grace is over. */
int64_t workers_turn(void *workers, int64_t now_ms);

struct workers_view {
    const char *device; /* "cpu:0" */
    uint32_t class;
    uint32_t compute; /* ten times the compute capability; 0 = a CPU, or unknown */
    char name[WORKER_NAME_BYTES];
    int pid; /* 0 = not running */
    uint32_t in_hand;
    bool fault;
    const char *reason; /* of the fault; NULL: none */
    uint64_t shards;
    uint64_t restarts;
    uint64_t busy_us;
};
/* The layers of the sandbox that workers of that class are in; NULL before the first has started (CPU workers: known
 * from the start). Borrowed until the next one starts. */
const struct sandbox_report *workers_sandbox(const struct workers *workers, uint32_t class);
const struct faulty *workers_faulty(const struct workers *workers);
/* How long a worker took to be ready, sandbox included, when the node started. */
int64_t workers_start_us(const struct workers *workers);
bool workers_view(const struct workers *workers, uint32_t index, struct workers_view *view);

#endif
