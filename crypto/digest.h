// BLAKE2b-256 digests with domain separation, and the ids of blobs.
//
// Every digest begins with a domain string, so that bytes hashed for one purpose can never pass as bytes
// hashed for another:
//
//     digest = BLAKE2b-256( u8 length of domain | domain | data )
//
// The length makes the domain prefix-free. Domains are string constants such as "weir shard 1"; the trailing
// number is the version of whatever layout follows.
//
// A blob's id is the root of a two-level Merkle tree over its chunks of 1 MiB (the last may be shorter):
//
//     leaf(i) = digest("weir chunk 1", chunk i)
//     id      = digest("weir blob 1", leaf(0) | leaf(1) | ... | u64 little-endian total bytes)
//
// Two levels are enough: whoever fetches a blob needs every leaf anyway to check chunks from several holders
// as they arrive, the list is 1/32768 of the blob, and deeper trees would only serve proofs about single
// chunks. The total closes the list, so that two blobs of different length never share an id, and it stands
// last so that a blob of unknown length can be hashed as it streams by. The empty blob has no chunk and an id
// like any other.
//
// No function here allocates or fails, except where one returns an error. Nothing is secret.
#ifndef WEIR_CRYPTO_DIGEST_H
#define WEIR_CRYPTO_DIGEST_H

#include <sodium.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/error.h"
#include "crypto/limits.h"

#define DIGEST_BYTES 32u
#define DIGEST_HEX_BYTES (2u * DIGEST_BYTES + 1u) // with the final NUL

struct digest {
    uint8_t bytes[DIGEST_BYTES];
};

// A digest in the making; copyable, so that a common prefix can be hashed once.
struct digest_stream {
    crypto_generichash_blake2b_state state;
};

// `domain` is a constant of 1 to 255 characters, asserted.
void digest_init(struct digest_stream *stream, const char *domain);
void digest_update(struct digest_stream *stream, const void *data, size_t bytes);
// The same as updating with the little-endian bytes of the value; used for lengths and counts.
void digest_update_u64(struct digest_stream *stream, uint64_t value);
struct digest digest_final(struct digest_stream *stream);

// All at once.
struct digest digest_of(const char *domain, const void *data, size_t bytes);

bool digest_equal(const struct digest *a, const struct digest *b);
// Order by bytes, as memcmp; for sorting.
int digest_compare(const struct digest *a, const struct digest *b);

// 64 lower-case hex digits and a NUL.
void digest_to_hex(const struct digest *digest, char text[DIGEST_HEX_BYTES]);
// Exactly 64 hex digits of either case and the NUL; else CRYPTO_MALFORMED.
enum crypto_error digest_from_hex(const char *text, struct digest *out);
// The same for any bytes: writes 2 * bytes + 1 characters.
void hex_encode(const void *data, size_t bytes, char *text);

// ---- Blob ids

// Called once for each chunk, in order, as soon as the chunk is complete.
typedef void blob_chunk_done(void *context, uint64_t index, const struct digest *chunk);

// Hashes a blob that streams by in pieces of any size.
struct blob_digest {
    struct digest_stream root;
    struct digest_stream chunk;
    uint64_t total_bytes;
    uint32_t chunk_bytes; // in the chunk being hashed; 0 at a chunk's border
    blob_chunk_done *chunk_done;
    void *context;
};

// `chunk_done` may be NULL when the list of chunks is not wanted.
void blob_digest_init(struct blob_digest *blob, blob_chunk_done *chunk_done, void *context);
// CRYPTO_TOO_LARGE once the total would pass BLOB_BYTES_MAX; nothing is hashed then.
enum crypto_error blob_digest_update(struct blob_digest *blob, const void *data, size_t bytes);
// The id. The stream is finished and must be initialised before it is used again.
struct digest blob_digest_final(struct blob_digest *blob);

// The id of bytes in memory; `bytes` <= BLOB_BYTES_MAX, asserted.
struct digest blob_id(const void *data, size_t bytes);

// How many chunks a blob of this length has; 0 for the empty blob.
uint64_t blob_chunk_count(uint64_t total_bytes);
// The length of chunk `index` (< the count, asserted) of a blob of `total_bytes`.
uint32_t blob_chunk_length(uint64_t total_bytes, uint64_t index);

// The digest of one chunk: leaf(i) above.
struct digest blob_chunk_digest(const void *data, size_t bytes);

// Does this list of chunk digests, for this total, belong to the id? A peer may claim anything here:
// CRYPTO_TOO_LARGE for a total over the limit, CRYPTO_MALFORMED for a count that does not fit the total,
// CRYPTO_DIGEST_DIFFER otherwise.
enum crypto_error blob_list_verify(const struct digest *id, uint64_t total_bytes, const struct digest *chunks,
                                   uint64_t count);

// Is this chunk `index` of a blob whose verified list names `chunk` there? A peer may claim any index and any
// length: CRYPTO_MALFORMED for an index that the blob has not, CRYPTO_TRUNCATED or CRYPTO_TRAILING for a
// wrong length, CRYPTO_DIGEST_DIFFER for other content.
enum crypto_error blob_chunk_verify(const struct digest *chunk, uint64_t total_bytes, uint64_t index,
                                    const void *data, size_t bytes);

#endif
