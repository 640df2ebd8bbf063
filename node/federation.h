/*
 * Who this node is and whom it believes: the identity side of the data folder.
 *
 *     DATA/                    0700, ours, no symbolic link
 *         keys/                node.key, join.key, and on the first node authority.key (crypto/identity.h)
 *         federation/genesis   where trust starts (crypto/certificate.h)
 *         federation/peers     what the inviter gave us to find the mesh with, for the first start
 *         federation/chain     our certificate and its issuers'; written last
 *         store/               opened by the running node only (store/store.h)
 *
 * A folder is a member's once federation/chain exists. Before that, `weir init` and `weir join` may be cut
 * short and run again as often as one likes: keys that are there are used again, everything else is written
 * anew, each file under a temporary name, synced, and renamed into place.
 *
 *     federation_load(data, wall_s, &federation, &failure);
 *     federation_revocations_load(federation, store, wall_s);
 *     federation_verify_chain(federation, chain, chain_bytes, wall_s, &leaf);
 *
 * One thread at a time. Nothing here blocks on the network. Secrets are wiped by federation_close; the
 * authority's is read from its file for each act that needs it and wiped at once.
 */
#ifndef NODE_FEDERATION_H
#define NODE_FEDERATION_H

#include "crypto/certificate.h"
#include "crypto/identity.h"
#include "crypto/record.h"
#include "crypto/revocation.h"
#include "crypto/token.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FEDERATION_PATH_BYTES_MAX 700u /* so that advice with two paths in it fits its text */
/* Certificates live so long unless told otherwise; renewed at two thirds, so a node may be off for a month.
 */
#define FEDERATION_LIFETIME_S (INT64_C(90) * 24 * 3600)
#define FEDERATION_LIFETIME_MIN_S 10 /* below, a node would do little but renew */
#define FEDERATION_LIFETIME_MAX_S (INT64_C(5) * 365 * 24 * 3600)
/* Keys and serials that are revoked and not yet forgotten: some 3 MiB. A further one is refused and counted.
 */
#define FEDERATION_REVOKED_MAX 65536u
/* Member records that a guest is handed: enough to find the mesh even if some of those nodes are gone. */
#define FEDERATION_PEERS_MAX 8u
#define FEDERATION_PEERS_BYTES_MAX (12u * 1024u)
#define FEDERATION_FINGERPRINT_BYTES 20u /* "1a2b 3c4d 5e6f 7081" and a NUL */

enum federation_error {
    FEDERATION_OK = 0,
    FEDERATION_MISSING, /* nothing here yet: weir init or weir join */
    FEDERATION_EXISTS,  /* already a member */
    FEDERATION_DENIED,  /* the folder or a file is not ours alone; the text has the command that fixes it */
    FEDERATION_DAMAGED, /* a file is not what it should be, or files do not belong together */
    FEDERATION_EXPIRED, /* our certificate ended, and we can't renew it ourselves */
    FEDERATION_INVALID, /* a bad name, time or path was asked for */
    FEDERATION_BUSY,    /* another weir init or join is at work in this folder */
    FEDERATION_SYSTEM,  /* the system refused a file operation */
};

struct federation_failure {
    enum federation_error error;
    char text[2048]; /* what, where, and what to do: continues "weir: " */
};

struct federation;

/* ---- Making and loading */

struct federation_new {
    const char *federation; /* names: 1 to 63 of [a-z0-9-] */
    const char *site;
    const char *node;
    int64_t lifetime_s; /* of certificates; 0 = FEDERATION_LIFETIME_S */
};

/* `weir init`: authority key, genesis, the first node's keys and its certificate with all rights. The
 * folder's parent must exist. */
enum federation_error federation_init(const char *data, const struct federation_new *fields, int64_t wall_s,
                                      struct federation_failure *failure);

/* Checks permissions, reads all files, and verifies that they belong together and are in time. A first node
 * whose certificate ended renews it here with the authority key. *federation is to be closed with
 * federation_close. */
enum federation_error federation_load(const char *data, int64_t wall_s, struct federation **federation,
                                      struct federation_failure *failure);
/* The same for looking only (`weir key show`): an expired certificate is no error, nothing is written. */
enum federation_error federation_look(const char *data, struct federation **federation,
                                      struct federation_failure *failure);
void federation_close(struct federation *federation); /* NULL is allowed */

/* ---- What a guest does (`weir join`) */

struct federation_lock {
    int fd;
};

/* Makes or takes over the folder and its keys. FEDERATION_EXISTS when a certificate is there that still
 * holds; a node whose certificate ended may join again with its old keys. `identity` is wiped by the caller;
 * the lock is released by federation_guest_close, also after a failure of later steps. */
enum federation_error federation_guest_open(const char *data, int64_t wall_s, struct identity *identity,
                                            struct federation_lock *lock, struct federation_failure *failure);
/* Writes genesis, peers, chain, in this order. */
enum federation_error federation_guest_finish(const char *data, const uint8_t *genesis, size_t genesis_bytes,
                                              const uint8_t *peers, size_t peers_bytes, const uint8_t *chain,
                                              size_t chain_bytes, struct federation_failure *failure);
void federation_guest_close(struct federation_lock *lock);

/* ---- Who we are; everything is borrowed until federation_close, the certificate until the next renewal */

const char *federation_data(const struct federation *federation);
const struct genesis *federation_genesis(const struct federation *federation);
const uint8_t *federation_genesis_bytes(const struct federation *federation, size_t *count);
const struct identity *federation_identity(const struct federation *federation);
const struct certificate *federation_certificate(const struct federation *federation);
const uint8_t *federation_chain(const struct federation *federation, size_t *count);
bool federation_has_authority(const struct federation *federation); /* the authority key lies in keys/ */
/* The first 16 hex digits of a federation's id, in groups of four, for people to compare. */
void federation_fingerprint(const struct digest *id, char text[FEDERATION_FINGERPRINT_BYTES]);

/* Signs a record as this node. Errors as record_sign. */
struct federation_record {
    enum record_kind kind;
    uint64_t incarnation;
    uint64_t sequence;
    int64_t not_before_s;
    int64_t not_after_s;
    const uint8_t *body;
    uint32_t body_bytes;
};
enum crypto_error federation_sign_record(const struct federation *federation,
                                         const struct federation_record *record, uint8_t *out,
                                         size_t capacity, size_t *out_bytes);

/* ---- Whom we believe */

/* As chain_verify, with our genesis and our revocations. Who is admitted as a node must also have RIGHT_NODE
 * in leaf->rights: that is the caller's to ask. */
enum crypto_error federation_verify_chain(const struct federation *federation, const uint8_t *chain,
                                          size_t chain_bytes, int64_t wall_s, struct certificate *leaf);
/* For chain_verify and its kin; `context` is the struct federation. Judges one certificate, not its issuers.
 */
bool federation_revoked(void *context, const struct certificate *certificate);

struct federation_revocation {
    struct revocation revocation;
    struct digest digest; /* of the record: its key in STORE_REVOCATIONS */
    uint8_t fresh_count;  /* targets that were not yet revoked */
    struct revocation_target fresh[REVOCATION_TARGETS_MAX];
};

/*
 * Verifies a revocation record and adds its targets to the set at once. With fresh_count 0 it was known
 * already and need not be kept or passed on. Otherwise the caller saves it (federation_revocation_save),
 * passes it on, and un-admits whom it hits: besides the targets themselves, everybody whose chain leads
 * through one of them, so verify every member's chain again. CRYPTO_NO_SPACE at FEDERATION_REVOKED_MAX:
 * nothing was added.
 */
enum crypto_error federation_revocation_add(struct federation *federation, const uint8_t *bytes, size_t count,
                                            int64_t wall_s, struct federation_revocation *out);
/* Adds the record's row to a batch. */
enum store_error federation_revocation_save(struct store_batch *batch, const uint8_t *bytes, size_t count);
/* Reads the saved ones at start-up. Those that need not be kept any more are left out; `dropped` counts rows
 * that did not verify (may be NULL). */
enum store_error federation_revocations_load(struct federation *federation, struct store *store,
                                             int64_t wall_s, uint32_t *dropped);
uint32_t federation_revocation_count(const struct federation *federation); /* targets held */

/* Makes a signed revocation of these node keys (1 to REVOCATION_TARGETS_MAX; more: call again), signed with
 * our own right to revoke, or else by the authority key if we hold it. `who` is the operator's name, `reason`
 * printable text. `kept_until_s`: the latest end of their certificates, if known, else 0. It is not added to
 * our own set yet: hand it to federation_revocation_add like any other. CRYPTO_ISSUER_RIGHT_LACKS when we may
 * not revoke. */
struct federation_revoke {
    const struct public_key *nodes;
    uint8_t node_count;
    const char *who;
    const char *reason;
    int64_t certificates_end_s;
};
enum crypto_error federation_revoke(const struct federation *federation,
                                    const struct federation_revoke *fields, int64_t wall_s, uint8_t *out,
                                    size_t capacity, size_t *out_bytes);

/* ---- Certificates for others, and renewal */

/* May the holder of this certificate invite and renew plain nodes? */
bool federation_may_issue(const struct certificate *certificate);

/* Issues a certificate under our own, or, with no right of our own, by the authority key. `fields` gives
 * keys, names and rights; validity is from now for `lifetime_s`, cut to the end of our own certificate. */
enum crypto_error federation_issue(const struct federation *federation, const struct certificate *fields,
                                   int64_t lifetime_s, int64_t wall_s, uint8_t *out, size_t capacity,
                                   size_t *out_bytes);
/* Renews a chain that was shown to us, for as long as it was first given, cut as above. */
enum crypto_error federation_renew(const struct federation *federation, const uint8_t *chain,
                                   size_t chain_bytes, int64_t wall_s, uint8_t *out, size_t capacity,
                                   size_t *out_bytes);

/* Past two thirds of our certificate's life? Ask then, about every minute (or tenth of the life, if that is
 * shorter), until it worked: first federation_renew_self, then one inviter after another (join_renew). */
bool federation_renew_due(const struct federation *federation, int64_t wall_s);
/* Renews our own certificate with the authority key, where we hold it; CRYPTO_KEY_MISSING otherwise. */
enum crypto_error federation_renew_self(struct federation *federation, int64_t wall_s,
                                        struct federation_failure *failure);
/* Takes over a renewed chain of ours: verified, for the same keys, not ending sooner than the present one;
 * saved in federation/chain. CRYPTO_NOT_OURS or an error of chain_verify otherwise. */
enum crypto_error federation_adopt(struct federation *federation, const uint8_t *chain, size_t chain_bytes,
                                   int64_t wall_s, struct federation_failure *failure);

/* ---- Peers: whom to dial first */

/* How to reach a join socket. */
struct federation_contact {
    struct public_key node;
    struct curve_public join_curve;
    uint8_t address_count;
    char addresses[TOKEN_ADDRESSES_MAX][TOKEN_ADDRESS_BYTES_MAX + 1];
};

/*
 * A list of signed MEMBER records, as it stands in federation/peers and in the answers of join sockets:
 * u16 count, then for each u32 length and the record. federation/peers begins with the 16 bytes "weir peers
 * 1" and NULs and the inviter's contact (node key, join CURVE key, u8 count, u8+n addresses).
 */
struct federation_peers {
    struct federation_contact inviter; /* address_count 0: none, we made the federation */
    uint32_t count;
    struct {
        const uint8_t *bytes; /* into `buffer`; not verified */
        size_t count;
    } records[FEDERATION_PEERS_MAX];
    uint8_t buffer[FEDERATION_PEERS_BYTES_MAX];
};

/* A missing or damaged file gives an empty list: it only helps to find the mesh. */
void federation_peers_load(const struct federation *federation, struct federation_peers *peers);
/* Replaces the file; best effort. For keeping the list fresh once members are known. */
bool federation_peers_save(const struct federation *federation, const struct federation_peers *peers);
/* Reads a list (without the file's head) into `peers->records` and `buffer`; false if it is not one. */
bool federation_peers_decode(const uint8_t *bytes, size_t count, struct federation_peers *peers);
/* The whole file: how many bytes, or 0 with less room than FEDERATION_PEERS_FILE_BYTES_MAX. */
#define FEDERATION_PEERS_FILE_BYTES_MAX                                                                      \
    (16u + 65u + TOKEN_ADDRESSES_MAX * (1u + TOKEN_ADDRESS_BYTES_MAX) + FEDERATION_PEERS_BYTES_MAX)
size_t federation_peers_encode(const struct federation_peers *peers, uint8_t *out, size_t capacity);
/* Starts an empty list in `out`, then adds records while they fit; false when full. */
size_t federation_peers_begin(uint8_t *out, size_t capacity);
bool federation_peers_append(uint8_t *out, size_t capacity, size_t *out_bytes, const uint8_t *record,
                             size_t record_bytes);

#endif
