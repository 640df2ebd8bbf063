// Revocations: signed records of kind RECORD_REVOCATION that name keys or serials which are no longer good.
//
// The envelope's origin is who revokes, its not-before is when, and its not-after is until when it must be
// kept: REVOCATION_KEPT_S past the end of the last certificate that it names. Incarnation and sequence are 0;
// a revocation is known by its digest. The body, little-endian:
//
//     1+n  who: the operator who decided, for people to read
//     1+n  reason, at most REVOCATION_REASON_BYTES_MAX bytes
//       1  number of targets, 1 to REVOCATION_TARGETS_MAX
//          each: u8 type; then 32 bytes of node key, or 16 bytes of serial
//     2+n  the revoker's certificate chain; empty when an authority key signed
//
// The chain travels along, so that a revocation can be checked wherever it arrives. It is judged at the time
// of the revocation, not now: a revocation stays good when its signer's certificate ends. It is judged
// without regard to other revocations, so that every node that has seen the same records holds the same set,
// in whatever order they came: the set only grows. The price, which operators should know: a stolen key with
// RIGHT_REVOKE can revoke until its certificate ends, and what it revoked needs new keys to come back.
#ifndef WEIR_CRYPTO_REVOCATION_H
#define WEIR_CRYPTO_REVOCATION_H

#include "crypto/certificate.h"

enum revocation_type {
    REVOCATION_NODE_KEY = 1, // every certificate of this node key, whenever issued
    REVOCATION_SERIAL = 2,   // one certificate
};

struct revocation_target {
    enum revocation_type type;
    uint8_t bytes[32]; // a serial uses the first 16; the rest is zero
};

struct revocation {
    struct public_key issuer;
    int64_t revoked_s;    // when
    int64_t kept_until_s; // forget it after this
    char who[NAME_BYTES_MAX + 1];
    char reason[REVOCATION_REASON_BYTES_MAX + 1];
    uint8_t target_count;
    struct revocation_target targets[REVOCATION_TARGETS_MAX];
};

#define REVOCATION_BYTES_MAX                                                                                 \
    (RECORD_OVERHEAD_BYTES + 1u + NAME_BYTES_MAX + 1u + REVOCATION_REASON_BYTES_MAX + 1u +                   \
     REVOCATION_TARGETS_MAX * 33u + 2u + CHAIN_BYTES_MAX)

// Signs `fields` (issuer is ignored). `who` and `reason` are text without control characters; `who` may be
// any such text, not only a name. Verified before it is handed out: the errors of revocation_verify. Pass
// kept_until_s = the latest end of the certificates named + REVOCATION_KEPT_S.
enum crypto_error revocation_sign(const struct genesis *genesis, const struct issuer *issuer,
                                  const struct revocation *fields, uint8_t *out, size_t capacity,
                                  size_t *out_bytes);

// CRYPTO_EXPIRED when it need no longer be kept; CRYPTO_ISSUER_RIGHT_LACKS when its signer is neither an
// authority nor holds RIGHT_REVOKE; otherwise the errors of record_verify and chain_verify.
enum crypto_error revocation_verify(const struct genesis *genesis, const uint8_t *bytes, size_t count,
                                    int64_t wall_s, struct revocation *out);

// Does it name this certificate, by key or by serial?
bool revocation_names(const struct revocation *revocation, const struct certificate *certificate);

#endif
