// The three signed bodies by which a stranger becomes, or shows itself to be, a member: the join request, the
// join response, and the presentation. They travel over CURVE to a join socket whose key is pinned; the frame
// around them is the host's.
//
//     request       16  "weir join ask 1" and a NUL
//                   32  federation id, as in the token
//                   32  the inviter's node key, as in the token
//                   32  secret of the token
//                   32  node key
//                   32  CURVE key
//                   32  join CURVE key
//                  1+n  node name
//                   64  signature by the node key over all before
//
//     response      16  "weir join yes 1" and a NUL
//                  2+n  genesis
//                  2+n  certificate chain, the new certificate first
//
//     presentation  16  "weir present 1" and NULs
//                  2+n  certificate chain
//                   64  signature by the chain's leaf key over
//                       digest("weir presentation 1", federation | receiver's key | nonce | chain)
//
// A request proves possession of the node key, not of the CURVE key: the host compares the CURVE key with the
// one that the sender's connection used, so that nobody gets a certificate for another's CURVE key.
#ifndef WEIR_CRYPTO_JOIN_H
#define WEIR_CRYPTO_JOIN_H

#include "crypto/certificate.h"
#include "crypto/identity.h"
#include "crypto/token.h"

#define JOIN_REQUEST_BYTES_MAX (16u + 6u * 32u + 1u + NAME_BYTES_MAX + 64u)
#define JOIN_RESPONSE_BYTES_MAX (16u + 2u + GENESIS_BYTES_MAX + 2u + CHAIN_BYTES_MAX)
#define PRESENTATION_NONCE_BYTES 32u
#define PRESENTATION_BYTES_MAX (16u + 2u + CHAIN_BYTES_MAX + 64u)

struct join_request {
    struct digest federation;
    struct public_key inviter;
    uint8_t secret[TOKEN_SECRET_BYTES];
    struct public_key node;
    struct curve_public curve;
    struct curve_public join_curve;
    char name[NAME_BYTES_MAX + 1];
};

// The guest's side: asks with the token's secret for a certificate of these keys under this name.
enum crypto_error join_request_sign(const struct token *token, const struct identity *identity,
                                    const char *name, uint8_t *out, size_t capacity, size_t *out_bytes);

// The inviter's side: shape, federation, that `inviter` (our own key) was asked, and the signature. Whether
// the secret is known, unused and in time is the host's to judge, by token_secret_digest(out->secret). Wipe
// the request when done.
enum crypto_error join_request_verify(const uint8_t *bytes, size_t count, const struct digest *federation,
                                      const struct public_key *inviter, struct join_request *out);
void join_request_wipe(struct join_request *request);

enum crypto_error join_response_encode(const uint8_t *genesis, size_t genesis_bytes, const uint8_t *chain,
                                       size_t chain_bytes, uint8_t *out, size_t capacity, size_t *out_bytes);

// What a guest keeps of a response; the two byte ranges are borrowed from the response.
struct join_response {
    const uint8_t *genesis_bytes;
    size_t genesis_count;
    const uint8_t *chain_bytes;
    size_t chain_count;
    struct genesis genesis;
    struct certificate certificate; // ours
};

// Accepts only what the token promised: a genesis with the pinned federation id (CRYPTO_WRONG_FEDERATION), a
// chain that verifies now, whose leaf was issued by the pinned inviter for our keys and the token's site
// (CRYPTO_NOT_OURS).
enum crypto_error join_response_verify(const uint8_t *bytes, size_t count, const struct token *token,
                                       const struct identity *identity, int64_t wall_s,
                                       struct join_response *out);

// A node whose certificate the receiver has not heard of shows it, signing the receiver's fresh nonce.
enum crypto_error presentation_sign(const struct digest *federation, const struct public_key *receiver,
                                    const uint8_t nonce[PRESENTATION_NONCE_BYTES], const uint8_t *chain,
                                    size_t chain_bytes, const struct secret_key *secret, uint8_t *out,
                                    size_t capacity, size_t *out_bytes);

// `receiver` is our own key and `nonce` the one that we gave to this peer, once. `chain` and `chain_bytes`
// get the chain, borrowed from `bytes`; `leaf` who it is. Errors as chain_verify, or CRYPTO_BAD_SIGNATURE.
enum crypto_error presentation_verify(const uint8_t *bytes, size_t count, const struct genesis *genesis,
                                      const struct public_key *receiver,
                                      const uint8_t nonce[PRESENTATION_NONCE_BYTES], int64_t wall_s,
                                      certificate_revoked *revoked, void *context, const uint8_t **chain,
                                      size_t *chain_bytes, struct certificate *leaf);

#endif
