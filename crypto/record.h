// The signed record: the one envelope for everything that a node states and others pass on.
//
// Layout, little-endian, without padding:
//
//     offset  bytes
//          0     16  "weir record 1" and NULs: domain and version
//         16     32  federation id
//         48      2  kind
//         50     32  origin: the Ed25519 key that signed
//         82      8  incarnation of the origin
//         90      8  sequence within the incarnation
//         98      8  not before, seconds since 1970
//        106      8  not after, seconds since 1970
//        114      4  body bytes, at most RECORD_BODY_BYTES_MAX
//        118      n  body
//      118+n     64  Ed25519 signature over all bytes before it
//
// A record is verified over the bytes as they were received, then read in place; nobody encodes it again, so
// whoever passes it on passes on the same bytes. A change of this layout takes a new magic; the old one is
// then refused with CRYPTO_WRONG_MAGIC.
//
// What this module does not decide: whether the origin may say this (its certificate, see certificate.h), and
// whether the record is newer than what is known (incarnation and sequence; the core does).
#ifndef WEIR_CRYPTO_RECORD_H
#define WEIR_CRYPTO_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/digest.h"
#include "crypto/key.h"

#define RECORD_HEADER_BYTES 118u
#define RECORD_SIGNATURE_BYTES 64u
#define RECORD_OVERHEAD_BYTES (RECORD_HEADER_BYTES + RECORD_SIGNATURE_BYTES)
#define RECORD_BYTES_MAX (RECORD_OVERHEAD_BYTES + RECORD_BODY_BYTES_MAX)

// Numbers are forever: one that is no longer used is not given out again. Bodies of CERTIFICATE and
// REVOCATION are laid down in certificate.h and revocation.h; those of the others are opaque here.
enum record_kind {
    RECORD_CERTIFICATE = 1, // who a key is and what it may do
    RECORD_REVOCATION = 2,  // keys or serials that are no longer good
    RECORD_MEMBER = 3,      // a node's addresses and state
    RECORD_CAPACITY = 4,    // what a node can lend now
    RECORD_ALERT = 5,       // an observer accuses a member of silence
    RECORD_RECEIPT = 6,     // who ran which shards, for how long, with which results
    RECORD_JOB = 7,         // what a tenant asked for
};

// The fields of a record. `body` is borrowed: from the caller when signing, from the record's bytes when
// read.
struct record {
    struct digest federation;
    uint16_t kind;
    struct public_key origin;
    uint64_t incarnation;
    uint64_t sequence;
    int64_t not_before_s;
    int64_t not_after_s;
    const uint8_t *body;
    uint32_t body_bytes;
};

// Encodes and signs. `record->origin` must be the public half of `secret`, asserted. 0 <= not before <= not
// after <= RECORD_TIME_MAX_S and a kind other than 0, else CRYPTO_MALFORMED; CRYPTO_TOO_LARGE for the body;
// CRYPTO_NO_SPACE when `capacity` < RECORD_OVERHEAD_BYTES + body bytes. `out_bytes` gets the length.
enum crypto_error record_sign(const struct record *record, const struct secret_key *secret, uint8_t *out,
                              size_t capacity, size_t *out_bytes);

// Checks shape, federation, validity at `wall_s` (give or take RECORD_TOLERANCE_S) and signature, in this
// order, which is from cheap to dear. On success `out` is the view of record_view.
enum crypto_error record_verify(const uint8_t *bytes, size_t count, const struct digest *federation,
                                int64_t wall_s, struct record *out);

// Reads the fields of bytes that were verified before (our own store, our own records). Checks shape only:
// exact length, magic, ranges. `out->body` points into `bytes`.
enum crypto_error record_view(const uint8_t *bytes, size_t count, struct record *out);

// The same judgement of time that record_verify makes: CRYPTO_OK, CRYPTO_NOT_YET_VALID or CRYPTO_EXPIRED.
enum crypto_error record_time_check(int64_t not_before_s, int64_t not_after_s, int64_t wall_s);

// digest("weir record digest 1", bytes): a name for exactly these bytes, for reconciliation.
struct digest record_digest(const uint8_t *bytes, size_t count);

#endif
