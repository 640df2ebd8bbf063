#include "crypto/join.h"

#include <sodium.h>
#include <string.h>

#include "crypto/pack.h"

#define REQUEST_MAGIC "weir join ask 1"
#define RESPONSE_MAGIC "weir join yes 1"
#define PRESENTATION_MAGIC "weir present 1"
#define SIGNATURE_BYTES 64u

_Static_assert(SIGNATURE_BYTES == crypto_sign_BYTES, "Ed25519 signature");

// ---- The request

enum crypto_error join_request_sign(const struct token *token, const struct identity *identity,
                                    const char *name, uint8_t *out, size_t capacity, size_t *out_bytes)
{
    if (!name_valid(name)) {
        return CRYPTO_MALFORMED;
    }
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_magic(&writer, REQUEST_MAGIC);
    pack_bytes(&writer, token->federation.bytes, DIGEST_BYTES);
    pack_bytes(&writer, token->inviter.bytes, sizeof token->inviter.bytes);
    pack_bytes(&writer, token->secret, sizeof token->secret);
    pack_bytes(&writer, identity->node.bytes, sizeof identity->node.bytes);
    pack_bytes(&writer, identity->curve.bytes, sizeof identity->curve.bytes);
    pack_bytes(&writer, identity->join_curve.bytes, sizeof identity->join_curve.bytes);
    pack_text(&writer, name, NAME_BYTES_MAX);
    if (writer.error != CRYPTO_OK) {
        return writer.error;
    }
    uint8_t signature[SIGNATURE_BYTES];
    crypto_sign_detached(signature, NULL, out, writer.count, identity->node_secret.bytes);
    pack_bytes(&writer, signature, sizeof signature);
    if (writer.error == CRYPTO_OK) {
        *out_bytes = writer.count;
    }
    return writer.error;
}

static enum crypto_error request_read(const uint8_t *bytes, size_t count, struct join_request *request)
{
    struct pack_reader reader = pack_reader_of(bytes, count);
    unpack_magic(&reader, REQUEST_MAGIC);
    unpack_bytes(&reader, request->federation.bytes, DIGEST_BYTES);
    unpack_bytes(&reader, request->inviter.bytes, sizeof request->inviter.bytes);
    unpack_bytes(&reader, request->secret, sizeof request->secret);
    unpack_bytes(&reader, request->node.bytes, sizeof request->node.bytes);
    unpack_bytes(&reader, request->curve.bytes, sizeof request->curve.bytes);
    unpack_bytes(&reader, request->join_curve.bytes, sizeof request->join_curve.bytes);
    unpack_text(&reader, request->name, NAME_BYTES_MAX);
    unpack_require(&reader, name_valid(request->name), CRYPTO_MALFORMED);
    unpack_span(&reader, SIGNATURE_BYTES);
    return unpack_end(&reader);
}

enum crypto_error join_request_verify(const uint8_t *bytes, size_t count, const struct digest *federation,
                                      const struct public_key *inviter, struct join_request *out)
{
    struct join_request request;
    enum crypto_error error = request_read(bytes, count, &request);
    if (error == CRYPTO_OK && !digest_equal(&request.federation, federation)) {
        error = CRYPTO_WRONG_FEDERATION;
    }
    if (error == CRYPTO_OK && !public_key_equal(&request.inviter, inviter)) {
        error = CRYPTO_NOT_OURS;
    }
    if (error == CRYPTO_OK) {
        const size_t signed_bytes = count - SIGNATURE_BYTES;
        if (crypto_sign_verify_detached(bytes + signed_bytes, bytes, signed_bytes, request.node.bytes) != 0) {
            error = CRYPTO_BAD_SIGNATURE;
        }
    }
    if (error == CRYPTO_OK) {
        *out = request;
    }
    join_request_wipe(&request);
    return error;
}

void join_request_wipe(struct join_request *request)
{
    sodium_memzero(request, sizeof *request);
}

// ---- The response

enum crypto_error join_response_encode(const uint8_t *genesis, size_t genesis_bytes, const uint8_t *chain,
                                       size_t chain_bytes, uint8_t *out, size_t capacity, size_t *out_bytes)
{
    if (genesis_bytes > GENESIS_BYTES_MAX || chain_bytes > CHAIN_BYTES_MAX) {
        return CRYPTO_TOO_LARGE;
    }
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_magic(&writer, RESPONSE_MAGIC);
    pack_u16(&writer, (uint16_t)genesis_bytes);
    pack_bytes(&writer, genesis, genesis_bytes);
    pack_u16(&writer, (uint16_t)chain_bytes);
    pack_bytes(&writer, chain, chain_bytes);
    if (writer.error == CRYPTO_OK) {
        *out_bytes = writer.count;
    }
    return writer.error;
}

// u16 length, at most `bytes_max`, and that many bytes in place.
static const uint8_t *unpack_block(struct pack_reader *reader, size_t bytes_max, size_t *bytes)
{
    *bytes = unpack_u16(reader);
    unpack_require(reader, *bytes <= bytes_max, CRYPTO_TOO_LARGE);
    return unpack_span(reader, *bytes);
}

static bool is_promised(const struct certificate *certificate, const struct token *token,
                        const struct identity *identity)
{
    return public_key_equal(&certificate->issuer, &token->inviter) &&
           public_key_equal(&certificate->node, &identity->node) &&
           curve_public_equal(&certificate->curve, &identity->curve) &&
           curve_public_equal(&certificate->join_curve, &identity->join_curve) &&
           strcmp(certificate->site, token->site) == 0;
}

enum crypto_error join_response_verify(const uint8_t *bytes, size_t count, const struct token *token,
                                       const struct identity *identity, int64_t wall_s,
                                       struct join_response *out)
{
    struct join_response response;
    struct pack_reader reader = pack_reader_of(bytes, count);
    unpack_magic(&reader, RESPONSE_MAGIC);
    response.genesis_bytes = unpack_block(&reader, GENESIS_BYTES_MAX, &response.genesis_count);
    response.chain_bytes = unpack_block(&reader, CHAIN_BYTES_MAX, &response.chain_count);
    enum crypto_error error = unpack_end(&reader);
    if (error == CRYPTO_OK) {
        error = genesis_decode(response.genesis_bytes, response.genesis_count, &response.genesis);
    }
    if (error == CRYPTO_OK && !digest_equal(&response.genesis.federation, &token->federation)) {
        error = CRYPTO_WRONG_FEDERATION;
    }
    if (error == CRYPTO_OK) {
        error = chain_verify(&response.genesis, response.chain_bytes, response.chain_count, wall_s, NULL,
                             NULL, &response.certificate);
    }
    if (error == CRYPTO_OK && !is_promised(&response.certificate, token, identity)) {
        error = CRYPTO_NOT_OURS;
    }
    if (error == CRYPTO_OK) {
        *out = response;
    }
    return error;
}

// ---- The presentation

static struct digest presentation_digest(const struct digest *federation, const struct public_key *receiver,
                                         const uint8_t nonce[PRESENTATION_NONCE_BYTES], const uint8_t *chain,
                                         size_t chain_bytes)
{
    struct digest_stream stream;
    digest_init(&stream, "weir presentation 1");
    digest_update(&stream, federation->bytes, DIGEST_BYTES);
    digest_update(&stream, receiver->bytes, sizeof receiver->bytes);
    digest_update(&stream, nonce, PRESENTATION_NONCE_BYTES);
    digest_update(&stream, chain, chain_bytes);
    return digest_final(&stream);
}

enum crypto_error presentation_sign(const struct digest *federation, const struct public_key *receiver,
                                    const uint8_t nonce[PRESENTATION_NONCE_BYTES], const uint8_t *chain,
                                    size_t chain_bytes, const struct secret_key *secret, uint8_t *out,
                                    size_t capacity, size_t *out_bytes)
{
    if (chain_bytes > CHAIN_BYTES_MAX) {
        return CRYPTO_TOO_LARGE;
    }
    const struct digest digest = presentation_digest(federation, receiver, nonce, chain, chain_bytes);
    uint8_t signature[SIGNATURE_BYTES];
    crypto_sign_detached(signature, NULL, digest.bytes, DIGEST_BYTES, secret->bytes);
    struct pack_writer writer = pack_writer_of(out, capacity);
    pack_magic(&writer, PRESENTATION_MAGIC);
    pack_u16(&writer, (uint16_t)chain_bytes);
    pack_bytes(&writer, chain, chain_bytes);
    pack_bytes(&writer, signature, sizeof signature);
    if (writer.error == CRYPTO_OK) {
        *out_bytes = writer.count;
    }
    return writer.error;
}

enum crypto_error presentation_verify(const uint8_t *bytes, size_t count, const struct genesis *genesis,
                                      const struct public_key *receiver,
                                      const uint8_t nonce[PRESENTATION_NONCE_BYTES], int64_t wall_s,
                                      certificate_revoked *revoked, void *context, const uint8_t **chain,
                                      size_t *chain_bytes, struct certificate *leaf)
{
    struct pack_reader reader = pack_reader_of(bytes, count);
    unpack_magic(&reader, PRESENTATION_MAGIC);
    size_t found_bytes;
    const uint8_t *found = unpack_block(&reader, CHAIN_BYTES_MAX, &found_bytes);
    const uint8_t *signature = unpack_span(&reader, SIGNATURE_BYTES);
    enum crypto_error error = unpack_end(&reader);
    if (error != CRYPTO_OK) {
        return error;
    }
    struct certificate shown;
    error = chain_verify(genesis, found, found_bytes, wall_s, revoked, context, &shown);
    if (error != CRYPTO_OK) {
        return error;
    }
    const struct digest digest =
        presentation_digest(&genesis->federation, receiver, nonce, found, found_bytes);
    if (crypto_sign_verify_detached(signature, digest.bytes, DIGEST_BYTES, shown.node.bytes) != 0) {
        return CRYPTO_BAD_SIGNATURE;
    }
    *chain = found;
    *chain_bytes = found_bytes;
    *leaf = shown;
    return CRYPTO_OK;
}
