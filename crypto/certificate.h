// Who belongs to a federation: the genesis, certificates, and chains of them.
//
// The genesis is where trust starts. Its layout, little-endian:
//
//     16  "weir genesis 1" and NULs
//      8  created, seconds since 1970
//      1  threshold: how many authority signatures an authority's act needs
//      1  number of authority keys, 1 to AUTHORITY_KEYS_MAX
//   32 n  the keys, ascending, without repetition
//    1+n  federation name, length first
//
// The federation id is digest("weir federation 1", these bytes). Nobody signs a genesis: whoever knows the id
// knows the whole of it. This version checks a threshold of 1 (any one authority key acts alone); a genesis
// with a higher one can be read, and is refused by everything that verifies, with CRYPTO_THRESHOLD_UNHANDLED.
//
// A certificate is a signed record of kind RECORD_CERTIFICATE whose origin is the issuer and whose validity
// is the certificate's; incarnation and sequence are 0. Its body:
//
//     16  serial, random
//     32  node key (Ed25519)
//     32  CURVE key of the node's control and bulk sockets
//     32  CURVE key of its join socket; all zero for a user, who has none
//      4  rights
//    1+n  site name
//    1+n  node name
//
// A chain is what a node presents: its own certificate first, then its issuer's, and so on; the last one was
// issued by an authority key. Layout: u8 number of certificates (1 to CHAIN_CERTIFICATES_MAX), then for each
// u16 length and the record. A chain is good when every certificate verifies now, each was issued by the key
// of the next, every issuer holds RIGHT_INVITE, rights only narrow (see certificate_rights_to_hand_on), each
// validity lies within the issuer's, no key occurs twice, and none is revoked. It follows that revoking an
// inviter also cuts off those whom it invited, until somebody else renews them: a stolen inviter's key can
// back-date, so nothing that it signed can be told apart as older and honest.
#ifndef WEIR_CRYPTO_CERTIFICATE_H
#define WEIR_CRYPTO_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/digest.h"
#include "crypto/key.h"
#include "crypto/record.h"

#define GENESIS_BYTES_MAX (16u + 8u + 1u + 1u + 32u * AUTHORITY_KEYS_MAX + 1u + NAME_BYTES_MAX)
#define CERTIFICATE_SERIAL_BYTES 16u
#define CERTIFICATE_BODY_BYTES_MAX (CERTIFICATE_SERIAL_BYTES + 3u * 32u + 4u + 2u * (1u + NAME_BYTES_MAX))
#define CERTIFICATE_BYTES_MAX (RECORD_OVERHEAD_BYTES + CERTIFICATE_BODY_BYTES_MAX)
#define CHAIN_BYTES_MAX (1u + CHAIN_CERTIFICATES_MAX * (2u + CERTIFICATE_BYTES_MAX)) // 1,285

// What the holder of a certificate may do. Bits; numbers are forever.
enum right {
    RIGHT_NODE = 1u << 0,      // run a node: be admitted on control and bulk
    RIGHT_SUBMIT = 1u << 1,    // submit jobs
    RIGHT_INVITE = 1u << 2,    // issue and renew certificates; renewal is no right of its own, because a
                               // verifier can't tell a renewed certificate from a new one
    RIGHT_REVOKE = 1u << 3,    // sign revocations
    RIGHT_AUTHORITY = 1u << 4, // hand on INVITE, REVOKE and AUTHORITY; without it an inviter makes plain
                               // nodes and users only
};
#define RIGHTS_ALL ((uint32_t)(RIGHT_NODE | RIGHT_SUBMIT | RIGHT_INVITE | RIGHT_REVOKE | RIGHT_AUTHORITY))

struct genesis {
    char name[NAME_BYTES_MAX + 1];
    int64_t created_s;
    uint8_t threshold;
    uint8_t key_count;
    struct public_key keys[AUTHORITY_KEYS_MAX]; // ascending
    struct digest federation;                   // the id; filled by encode and decode
};

// Encodes and fills genesis->federation; sorts genesis->keys. CRYPTO_MALFORMED for a bad name, time, count or
// a repeated key; CRYPTO_THRESHOLD_UNHANDLED for a threshold other than 1, so that no federation is made that
// nobody can use; CRYPTO_NO_SPACE.
enum crypto_error genesis_encode(struct genesis *genesis, uint8_t *out, size_t capacity, size_t *out_bytes);
// Exact: every byte accounted for. Compare out->federation with the id that is expected.
enum crypto_error genesis_decode(const uint8_t *bytes, size_t count, struct genesis *out);
bool genesis_has_key(const struct genesis *genesis, const struct public_key *key);

struct certificate {
    uint8_t serial[CERTIFICATE_SERIAL_BYTES];
    struct public_key node;
    struct curve_public curve;
    struct curve_public join_curve;
    uint32_t rights; // of enum right
    char site[NAME_BYTES_MAX + 1];
    char name[NAME_BYTES_MAX + 1];
    int64_t not_before_s;
    int64_t not_after_s;
    struct public_key issuer;
};

// Who signs a certificate: an authority (no chain) or a node with RIGHT_INVITE (its own chain). Borrowed.
struct issuer {
    const struct secret_key *secret;
    const uint8_t *chain; // NULL for an authority
    size_t chain_bytes;
};

// The host's answer to "do you hold a revocation for this certificate?" (its key or its serial).
typedef bool certificate_revoked(void *context, const struct certificate *certificate);

// The rights that a certificate with `rights` can give to those it issues: none without RIGHT_INVITE; NODE
// and SUBMIT of its own with it; all of its own with RIGHT_AUTHORITY too.
uint32_t certificate_rights_to_hand_on(uint32_t rights);

// Signs a new certificate with the keys, rights, names and validity in `fields` (serial and issuer are
// ignored: the serial is drawn fresh) and writes its chain: the new certificate followed by the issuer's
// chain. The result is verified before it is handed out, with `revoked` if not NULL, so what this refuses,
// others would: the errors of chain_verify.
enum crypto_error certificate_issue(const struct genesis *genesis, const struct issuer *issuer,
                                    const struct certificate *fields, int64_t wall_s,
                                    certificate_revoked *revoked, void *context, uint8_t *out,
                                    size_t capacity, size_t *out_bytes);

// Issues again what `chain` (which must verify now, unrevoked) certifies: same keys, names and rights; valid
// from now for `lifetime_s`, cut to the end of the issuer's own certificate; new serial.
// CRYPTO_RIGHTS_WIDER when the issuer can't hand on all of those rights: ask one closer to the authority.
enum crypto_error certificate_renew(const struct genesis *genesis, const struct issuer *issuer,
                                    const uint8_t *chain, size_t chain_bytes, int64_t lifetime_s,
                                    int64_t wall_s, certificate_revoked *revoked, void *context, uint8_t *out,
                                    size_t capacity, size_t *out_bytes);

// Verifies a whole chain as described above. `leaf` gets the first certificate. `revoked` may be NULL only
// where revocation is judged elsewhere.
enum crypto_error chain_verify(const struct genesis *genesis, const uint8_t *chain, size_t chain_bytes,
                               int64_t wall_s, certificate_revoked *revoked, void *context,
                               struct certificate *leaf);

// Reads a chain that was verified before, without verifying it again: `certificates` gets up to
// CHAIN_CERTIFICATES_MAX, leaf first. Shape is checked.
enum crypto_error chain_view(const uint8_t *chain, size_t chain_bytes,
                             struct certificate certificates[CHAIN_CERTIFICATES_MAX], uint32_t *count);

// When to renew: at two thirds of the certificate's life.
int64_t certificate_renew_at_s(const struct certificate *certificate);

#endif
