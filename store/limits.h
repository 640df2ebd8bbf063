/* store/limits.h - every limit of the store, its unit and why it is what it is. */
#ifndef WEIR_STORE_LIMITS_H
#define WEIR_STORE_LIMITS_H

#define STORE_ID_BYTES 32         /* blob ids, cache keys, owners, nodes: one digest or public key */
#define STORE_STORAGE_ID_BYTES 16 /* names this disk copy in a journal's membership */

#define STORE_KEY_BYTES_MAX 511         /* LMDB's own limit for keys */
#define STORE_VALUE_BYTES_MAX (1 << 20) /* a row; larger things are blobs */
#define STORE_CHUNK_BYTES (1 << 20)     /* unit of verification and transfer of blobs */
#define STORE_SMALL_BYTES (1 << 20)     /* largest blob kept inside LMDB: one chunk */
#define STORE_BLOB_BYTES_MAX                                                                                 \
    (UINT64_C(1) << 38) /* 256 GiB: 8 MiB of chunk digests in memory while uploading */

#define STORE_PARTIAL_KEPT_S (24 * 60 * 60) /* as long as tombstones: who is away longer starts anew */
#define STORE_PARTIALS_SHARE 8              /* abandoned parts take this share of the cache budget at most */
#define STORE_PARTIAL_CHECK_CHUNKS 8        /* digested in one call: 10 ms; also written back at once */

#define STORE_ENTRY_BYTES_MAX (64 << 10) /* an inline result; larger ones are blobs */
#define STORE_ENTRY_BLOBS_MAX 16         /* blobs that one entry may need: the outputs of a shard */
#define STORE_HOLDERS_MAX 4              /* per pointer: enough to hedge, and one node may be down */

#define STORE_BATCH_OPERATIONS_MAX 4096            /* one batch */
#define STORE_BATCH_BYTES_MAX (UINT64_C(16) << 20) /* one batch; several small blobs of full size fit */
#define STORE_GROUP_OPERATIONS                                                                               \
    512 /* a group takes batches until it has this many: syncs are shared, waits stay short */
#define STORE_GROUP_BYTES (UINT64_C(8) << 20) /* or this many bytes: about 20 ms of disk time */
#define STORE_QUEUE_BATCHES_MAX 8192          /* waiting, in work or undrained; then STORE_BUSY */
#define STORE_QUEUE_BYTES_MAX (UINT64_C(64) << 20)

#define STORE_SWEEP_ROWS 4096   /* rows that one range operation touches: some 10 ms of the writer's time */
#define STORE_EVICTIONS_MAX 64  /* per transaction: deletes copy pages, and a full map needs small steps */
#define STORE_EVICT_PERCENT 50  /* of the blob map: from here on eviction runs */
#define STORE_REFUSE_PERCENT 80 /* of the blob map: from here on cache and pointer puts are left out */
#define STORE_RESERVE_PERCENT 5 /* of either map, and STORE_RESERVE_PAGES at least, is kept for deletes */
#define STORE_RESERVE_PAGES 64

#define STORE_TIMINGS 1024             /* commit times kept for the percentiles */
#define STORE_READERS_MAX 126          /* concurrent read transactions; beyond that reads are STORE_BUSY */
#define STORE_READERS_KEPT 16          /* reset transactions kept for reuse */
#define STORE_READER_CHECK_GROUPS 4096 /* how often the writer clears readers that died */

#endif
