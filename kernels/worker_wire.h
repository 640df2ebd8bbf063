/* What the node's end and the worker say to each other. Private to kernels/.
 *
 * Both ends come from one build and run on one machine (the worker's hello carries the build's digest and a
 * stranger is turned away), so messages and memory are plain structs. The memory is: one page of control
 * words, then two regions. A region begins with a wire_job and its wire_shards; inputs and outputs follow at
 * the offsets they state, each aligned to 64 bytes, or on pages of its own where the kernel is a user's. Only the node's end writes offsets; it keeps its own copy
 * and never reads them back. */
#ifndef KERNELS_WORKER_WIRE_H
#define KERNELS_WORKER_WIRE_H

#include <stdatomic.h>

#include "kernels/builtin.h"
#include "kernels/manifest_user.h"
#include "kernels/worker.h"

#define WIRE_SOCKET_FD 3 /* in the worker, from its start */
#define WIRE_MEMORY_FD 4
#define WIRE_VERSION 3
#define WIRE_CONTROL_BYTES 4096
#define WIRE_MEMORY_BYTES (WIRE_CONTROL_BYTES + (uint64_t)WORKER_BUNDLES_MAX * WORKER_REGION_BYTES)
#define WIRE_ALIGNMENT 64
#define WIRE_RESULTS_MAX 128 /* shards reported in one message */
#define WIRE_FDS_MAX (2 + MANIFEST_INPUTS_MAX)

enum wire_kind { WIRE_HELLO = 1, WIRE_BUNDLE, WIRE_RESULT };

/* The first page of the memory. */
struct wire_control {
    _Atomic uint64_t stamp;                      /* the worker counts up while it makes progress */
    _Atomic uint32_t cancel[WORKER_BUNDLES_MAX]; /* by region; set by the node's end, cleared before reuse */
};

/* Worker to node, once. */
struct wire_hello {
    uint32_t kind, version;
    uint8_t build[MANIFEST_DIGEST_BYTES];
    struct worker_device device;
    struct sandbox_report sandbox; /* its own half */
};

struct wire_blob {
    uint8_t id[WORKER_ID_BYTES];
    uint64_t offset, bytes;
};

/* Node to worker. Descriptors ride along: the bundle's own memory if it has one, then one per blob, then a user's code. */
struct wire_bundle {
    uint32_t kind, region;
    uint64_t sequence;  /* counts bundles, so that a result can't be taken for another bundle's */
    uint64_t own_bytes; /* of memory of its own; 0: it lies in its region */
    uint32_t blob_count, evict_count;
    struct wire_blob blobs[MANIFEST_INPUTS_MAX]; /* to be mapped, after the evictions */
    struct wire_blob code;                       /* bytes 0: the kernel is built in */
    uint8_t evict[WORKER_RESIDENTS_MAX][WORKER_ID_BYTES];
};

struct wire_place {
    uint64_t offset, bytes;
};

struct wire_shard {
    uint64_t first_item, items;
    struct wire_place inputs[MANIFEST_INPUTS_MAX];
    struct wire_place outputs[MANIFEST_OUTPUTS_MAX];
};

/* At the start of a bundle's memory. A split input's type is `types` with the shard's items as first axis. */
struct wire_job {
    char kernel[MANIFEST_NAME_BYTES];
    struct manifest_params params;
    uint8_t roles[MANIFEST_INPUTS_MAX];
    struct array_type types[MANIFEST_INPUTS_MAX];
    uint8_t blobs[MANIFEST_INPUTS_MAX][WORKER_ID_BYTES];
    struct wire_place manifest; /* text of a user's kernel; bytes 0: built in */
    uint32_t shard_count;
    struct wire_shard shards[];
};

struct wire_outcome {
    uint32_t shard, outcome; /* enum worker_outcome */
    uint64_t device_us;
};

/* Worker to node: `count` outcomes, then `message_bytes` of text about the last one. */
struct wire_result {
    uint32_t kind, region;
    uint64_t sequence;
    uint32_t count, message_bytes;
    struct wire_outcome outcomes[WIRE_RESULTS_MAX];
    char message[WORKER_MESSAGE_BYTES];
};

/* A digest of every kernel's sources and of this file's version. */
static inline void wire_build(uint8_t build[MANIFEST_DIGEST_BYTES])
{
    for (size_t i = 0; i < MANIFEST_DIGEST_BYTES; i++) {
        uint32_t mixed = WIRE_VERSION;
        for (size_t k = 0; k < builtin_manifest_count; k++)
            mixed = mixed * 31 + builtin_source_digests[k][i];
        build[i] = (uint8_t)(mixed ^ mixed >> 8);
    }
}

#endif
