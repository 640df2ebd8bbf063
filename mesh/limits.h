/*
 * Every bound of the protocol core, in one place, with its unit and the reason for its size.
 *
 * Limits that size memory are defaults: a host may choose smaller ones in struct mesh_limits. What happens at each
 * bound is said beside it and tested.
 */
#ifndef MESH_LIMITS_H
#define MESH_LIMITS_H

/* Members known to one node. Beyond this, a record of a new member is dropped and counted (records_full). */
#define MESH_MEMBERS_MAX 2048

/* Rings of the overlay, and so at most two neighbours per ring. Up to MESH_FULL_MESH members everyone is a neighbour. */
#define MESH_RINGS 4
#define MESH_NEIGHBOURS_MAX (2 * MESH_RINGS)
#define MESH_FULL_MESH 9

/* Jobs for which one node is home at a time; a submit beyond it is refused as busy. */
#define MESH_JOBS_MAX 4096
/* Shards of all live jobs of one home, and of one job. A submit beyond it is refused as busy or too large. */
#define MESH_SHARDS_MAX (1u << 20)
/* Bundles a home has out at executors. At the bound nothing more is bound until a result comes. */
#define MESH_BUNDLES_MAX 2048
/* Bundles an executor holds, running, waiting, or finished and not yet acknowledged by their home. At the bound it grants no more. */
#define MESH_ATTEMPTS_MAX 1024
/* Standing demands an executor remembers. A RESERVE beyond it is answered with WAIT and forgotten; the home asks again. */
#define MESH_DEMANDS_MAX 512
/* Grants an executor has open. They also count against its slots, so this bound is never the first to be reached. */
#define MESH_GRANTS_MAX 1024

/* Shards in one bundle: 256 x 4 bytes of indices; with 200 B inline input each it fits a 256 KiB control message. */
#define MESH_BUNDLE_SHARDS_MAX 256
/* Inline bytes (inputs, and separately results) in one bundle: leaves room for keys and framing under 256 KiB. */
#define MESH_BUNDLE_BYTES_MAX (160u * 1024u)
/* Attempts of one shard that may end in a crash before its job fails. Returns and lost executors do not count. */
#define MESH_ATTEMPTS_PER_SHARD 3

/* Shards in one LOOKUP effect: a bitmap of 128 bytes comes back. */
#define MESH_LOOKUP_SHARDS_MAX 1024
/* LOOKUP effects in flight per job. */
#define MESH_LOOKUPS_IN_FLIGHT 4

/* Anti-entropy: buckets in a summary, and entries in one answer. */
#define MESH_BUCKETS 64
#define MESH_ENTRIES_MAX 64
/* Attempts named in one RENEW message; an executor sends several when it holds more for one home. */
#define MESH_RENEW_MAX 64

/* One step's output. When a step has more to do it sets wake_at_ms to now and goes on in the next step. */
#define MESH_OUT_SAVES_MAX 64
#define MESH_OUT_SENDS_MAX 192
#define MESH_OUT_EFFECTS_MAX 256

/* Device classes that slots are counted by. */
#define MESH_DEVICE_CLASSES 2

#endif
