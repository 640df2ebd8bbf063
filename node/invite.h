/*
 * Invitations: what this node, as an inviter, has promised to whoever brings a token's secret.
 *
 * An invitation's life. Born open in invites_create, with the decisions about the guest (site, rights,
 * lifetime) and the digest of a secret that only the token holds. An open one ends as used (by the first node
 * that redeems it), cancelled (by the operator) or expired (by time, 24 h unless told otherwise). A used one
 * keeps the certificate that it gave, so that the same node, asking again because the answer was lost, gets
 * the same answer; any other node is refused. All are forgotten INVITE_KEPT_S after their expiry.
 *
 * The table lives in memory, with a row each in STORE_TOKENS. A change happens in memory at once, is added to
 * the caller's batch, and counts once that batch is durable: only then print the token or send the
 * certificate. When the commit fails, call invites_reload.
 *
 * Loop thread only.
 */
#ifndef NODE_INVITE_H
#define NODE_INVITE_H

#include "crypto/join.h"
#include "node/federation.h"
#include "store/store.h"

#define INVITES_MAX 1024u /* at most 2 MiB; a site invites a few nodes a day */
#define INVITE_EXPIRY_S (INT64_C(24) * 3600)
#define INVITE_EXPIRY_MAX_S (INT64_C(30) * 24 * 3600)
#define INVITE_KEPT_S (INT64_C(7) * 24 * 3600)

enum invite_error {
    INVITE_OK = 0,
    INVITE_FULL,      /* INVITES_MAX invitations: cancel some, or wait until some are forgotten */
    INVITE_INVALID,   /* a bad site, user, address, expiry or lifetime */
    INVITE_FORBIDDEN, /* our certificate does not let us invite */
    INVITE_UNKNOWN,   /* no such invitation, or its secret is none of ours */
    INVITE_AMBIGUOUS, /* the id's prefix fits several */
    INVITE_USED,      /* redeemed by another node, or no longer to be cancelled */
    INVITE_EXPIRED,
    INVITE_CANCELLED,
    INVITE_MISMATCH,   /* a node came with a user's token, or the other way round */
    INVITE_UNISSUABLE, /* the certificate could not be issued, say because our own ended */
    INVITE_STORE,      /* the batch could not take the row */
};
const char *invite_error_text(enum invite_error error); /* continues "weir: "; static */

enum invite_state { INVITE_OPEN, INVITE_IS_USED, INVITE_IS_CANCELLED, INVITE_IS_EXPIRED };
const char *invite_state_name(enum invite_state state); /* "open"; static */

struct invite {
    struct digest id; /* the digest of the secret; people see and type its first hex digits */
    enum invite_state state;
    int64_t created_s;
    int64_t expires_s;
    int64_t lifetime_s; /* of the certificate */
    int64_t used_s;
    uint32_t rights;
    char site[NAME_BYTES_MAX + 1];
    char user[NAME_BYTES_MAX + 1]; /* "" for a node */
    struct public_key used_by;     /* when used */
    char used_name[NAME_BYTES_MAX + 1];
};

struct invites;

/* Reads the rows. `federation` and `store` are borrowed until invites_close. */
enum store_error invites_open(struct invites **invites, struct federation *federation, struct store *store);
void invites_close(struct invites *invites);
/* Forgets what is in memory and reads the rows again, after a commit that failed. */
enum store_error invites_reload(struct invites *invites);

struct invite_request {
    const char *site;
    const char *user;   /* NULL or "" for a node */
    bool may_invite;    /* the guest may itself invite, renew and revoke; ours must allow that */
    int64_t expires_s;  /* from now; 0 = INVITE_EXPIRY_S */
    int64_t lifetime_s; /* of the certificate; 0 = as our own */
    const char (*addresses)[TOKEN_ADDRESS_BYTES_MAX + 1]; /* of our join socket, as others dial it */
    uint8_t address_count;
};

/* `text` gets the token, to be shown once the batch is durable and then wiped. */
enum invite_error invites_create(struct invites *invites, const struct invite_request *request,
                                 int64_t wall_s, struct store_batch *batch, char text[TOKEN_TEXT_BYTES_MAX],
                                 struct invite *out);

/* Oldest first. Borrowed until the next change; `state` is as of `wall_s`. */
uint32_t invites_count(const struct invites *invites);
void invites_at(const struct invites *invites, uint32_t index, int64_t wall_s, struct invite *out);

/* The certificate chain that a used one gave; NULL if it gave none. Borrowed until the next change. */
const uint8_t *invites_given(const struct invites *invites, uint32_t index, size_t *chain_bytes);

/* `prefix`: 4 hex digits or more of the id. `out` gets what was cancelled (also with INVITE_USED: by whom).
 * Cancelling twice is no error. */
enum invite_error invites_cancel(struct invites *invites, const char *prefix, int64_t wall_s,
                                 struct store_batch *batch, struct invite *out);

/* A guest's verified request (crypto/join.h). INVITE_OK: `chain` is its certificate chain, to be sent once
 * `batch` is durable; with `again` it is the one sent before and the batch was left as it was. `when_s` gets
 * the time of expiry or use for the refusals that have one, else 0. */
struct invite_redeemed {
    uint8_t chain[CHAIN_BYTES_MAX];
    size_t chain_bytes;
    bool again;
    int64_t when_s;
    struct invite invite;
};
enum invite_error invites_redeem(struct invites *invites, const struct join_request *request, int64_t wall_s,
                                 struct store_batch *batch, struct invite_redeemed *out);

#endif
