// Every limit of the crypto library, with its unit and its reason. A format never holds more than these say;
// a decoder refuses what does before it looks at the content.
#ifndef WEIR_CRYPTO_LIMITS_H
#define WEIR_CRYPTO_LIMITS_H

// Blobs are hashed in chunks of 1 MiB: one bulk message carries one chunk.
#define BLOB_CHUNK_BYTES (1u << 20)
// 1 TiB: the chunk list of the largest blob is 32 MiB, which a receiver can hold in memory while it verifies.
#define BLOB_BYTES_MAX (UINT64_C(1) << 40)

// A record must fit a control message (256 KiB) several times over.
#define RECORD_BODY_BYTES_MAX (64u * 1024u)
// Clocks of honest sites may be this far apart before validity is judged wrongly.
#define RECORD_TOLERANCE_S 300
// The last second of the year 9999; keeps all sums of times far from overflow.
#define RECORD_TIME_MAX_S INT64_C(253402300799)

// Names of federations, sites and nodes: 1 to 63 of [a-z0-9-], what a DNS label may hold.
#define NAME_BYTES_MAX 63u

// Authority keys in a genesis; a committee larger than this is not a committee.
#define AUTHORITY_KEYS_MAX 8u
// Certificates in a chain, leaf included: authority -> inviter -> inviter -> node.
#define CHAIN_CERTIFICATES_MAX 3u

// Keys and serials named by one revocation; a larger site is revoked with several records.
#define REVOCATION_TARGETS_MAX 32u
#define REVOCATION_REASON_BYTES_MAX 200u
// A revocation outlives the certificates that it names by 30 days, so that a late clock can't miss it.
#define REVOCATION_KEPT_S (INT64_C(30) * 24 * 3600)

// Places where an inviter can be reached; more than four would not fit a line that people paste.
#define TOKEN_ADDRESSES_MAX 4u
// host:port; a DNS name is 253 characters at most.
#define TOKEN_ADDRESS_BYTES_MAX 255u

#endif
