#include "node/invite.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/little_endian.h"

/*
 * A row of STORE_TOKENS. Key: the digest of the secret. Value, little-endian:
 *
 *       1  version, 1
 *       1  state: 0 open, 1 used, 2 cancelled
 *       4  rights
 *      32  created, expires, lifetime, used: 8 bytes each, seconds
 *     192  site, user, name of the guest: 64 bytes each, with NULs
 *      32  the guest's node key
 *       n  the chain that it was given; empty unless used
 */
#define ROW_VERSION 1u
#define ROW_HEAD_BYTES (2u + 4u + 32u + 3u * 64u + 32u)
#define ROW_BYTES_MAX (ROW_HEAD_BYTES + CHAIN_BYTES_MAX)
#define PREFIX_MIN 4u

struct entry {
    struct invite invite; /* its state is never INVITE_IS_EXPIRED: that is a matter of the clock */
    uint16_t chain_bytes;
    uint8_t chain[CHAIN_BYTES_MAX];
};

struct invites {
    struct federation *federation;
    struct store *store;
    struct entry *entries; /* oldest first */
    uint32_t count;
    uint32_t capacity;
};

const char *invite_error_text(enum invite_error error)
{
    switch (error) {
    case INVITE_OK:
        return "done";
    case INVITE_FULL:
        return "there are 1,024 invitations already; old ones are forgotten a week after they end";
    case INVITE_INVALID:
        return "a site or user is 1 to 63 of a-z, 0-9 and '-'; an invitation lasts 1 second to 30 days, a "
               "certificate 10 seconds to 5 years; the node needs an address that others can dial";
    case INVITE_FORBIDDEN:
        return "this node's certificate does not let it invite; ask a node that may, such as the "
               "federation's "
               "first";
    case INVITE_UNKNOWN:
        return "no such invitation; see weir invite --list";
    case INVITE_AMBIGUOUS:
        return "several invitations begin with this id; give more of its digits";
    case INVITE_USED:
        return "the invitation was used; to shut the node out, run weir revoke";
    case INVITE_EXPIRED:
        return "the invitation has expired";
    case INVITE_CANCELLED:
        return "the invitation was cancelled";
    case INVITE_MISMATCH:
        return "a user's token makes no node, nor a node's token a user";
    case INVITE_UNISSUABLE:
        return "this node could not issue the certificate; see weir key show for how long its own lasts";
    case INVITE_STORE:
        return "the store took no more changes";
    }
    return "unknown";
}

const char *invite_state_name(enum invite_state state)
{
    static const char *const names[] = {"open", "used", "cancelled", "expired"};
    return names[state];
}

/* ---- Rows */

static void row_encode(const struct entry *entry, uint8_t row[ROW_BYTES_MAX], size_t *bytes)
{
    const struct invite *invite = &entry->invite;
    memset(row, 0, ROW_HEAD_BYTES);
    row[0] = ROW_VERSION;
    row[1] = (uint8_t)invite->state;
    le32_put(row + 2, invite->rights);
    le64_put(row + 6, (uint64_t)invite->created_s);
    le64_put(row + 14, (uint64_t)invite->expires_s);
    le64_put(row + 22, (uint64_t)invite->lifetime_s);
    le64_put(row + 30, (uint64_t)invite->used_s);
    memcpy(row + 38, invite->site, sizeof invite->site);
    memcpy(row + 102, invite->user, sizeof invite->user);
    memcpy(row + 166, invite->used_name, sizeof invite->used_name);
    memcpy(row + 230, invite->used_by.bytes, 32);
    memcpy(row + ROW_HEAD_BYTES, entry->chain, entry->chain_bytes);
    *bytes = ROW_HEAD_BYTES + entry->chain_bytes;
}

static bool row_decode(const uint8_t *row, size_t bytes, struct entry *entry)
{
    if (bytes < ROW_HEAD_BYTES || bytes > ROW_BYTES_MAX || row[0] != ROW_VERSION ||
        row[1] > INVITE_IS_CANCELLED)
        return false;
    struct invite *invite = &entry->invite;
    invite->state = (enum invite_state)row[1];
    invite->rights = le32_get(row + 2);
    invite->created_s = (int64_t)le64_get(row + 6);
    invite->expires_s = (int64_t)le64_get(row + 14);
    invite->lifetime_s = (int64_t)le64_get(row + 22);
    invite->used_s = (int64_t)le64_get(row + 30);
    memcpy(invite->site, row + 38, sizeof invite->site - 1);
    memcpy(invite->user, row + 102, sizeof invite->user - 1);
    memcpy(invite->used_name, row + 166, sizeof invite->used_name - 1);
    memcpy(invite->used_by.bytes, row + 230, 32);
    entry->chain_bytes = (uint16_t)(bytes - ROW_HEAD_BYTES);
    memcpy(entry->chain, row + ROW_HEAD_BYTES, entry->chain_bytes);
    return true;
}

_Static_assert(sizeof((struct invite *)0)->site == 64, "names fill their fields");

static enum invite_error row_save(const struct entry *entry, struct store_batch *batch)
{
    uint8_t row[ROW_BYTES_MAX];
    size_t bytes;
    row_encode(entry, row, &bytes);
    const enum store_error error =
        store_batch_put(batch, STORE_TOKENS, entry->invite.id.bytes, DIGEST_BYTES, row, bytes);
    return error == STORE_OK ? INVITE_OK : INVITE_STORE;
}

/* ---- The table */

static struct entry *add(struct invites *invites)
{
    if (invites->count == invites->capacity) {
        const uint32_t capacity = invites->capacity ? invites->capacity * 2 : 16;
        struct entry *grown = realloc(invites->entries, capacity * sizeof *grown);
        if (!grown)
            return NULL;
        invites->entries = grown;
        invites->capacity = capacity;
    }
    struct entry *entry = &invites->entries[invites->count++];
    *entry = (struct entry){0};
    return entry;
}

static bool load_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct invites *invites = context;
    if (key_bytes != DIGEST_BYTES || invites->count >= INVITES_MAX)
        return invites->count < INVITES_MAX;
    struct entry *entry = add(invites);
    if (!entry)
        return false;
    memcpy(entry->invite.id.bytes, key, DIGEST_BYTES);
    if (!row_decode(value, value_bytes, entry))
        invites->count--;
    return true;
}

static int compare_age(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->invite.created_s != b->invite.created_s)
        return a->invite.created_s < b->invite.created_s ? -1 : 1;
    return digest_compare(&a->invite.id, &b->invite.id);
}

enum store_error invites_reload(struct invites *invites)
{
    invites->count = 0;
    const enum store_error error = store_each(invites->store, STORE_TOKENS, NULL, load_row, invites);
    if (invites->count)
        qsort(invites->entries, invites->count, sizeof *invites->entries, compare_age);
    return error;
}

enum store_error invites_open(struct invites **out, struct federation *federation, struct store *store)
{
    struct invites *invites = calloc(1, sizeof *invites);
    if (!invites)
        return STORE_MEMORY;
    invites->federation = federation;
    invites->store = store;
    const enum store_error error = invites_reload(invites);
    if (error == STORE_OK)
        *out = invites;
    else
        invites_close(invites);
    return error;
}

void invites_close(struct invites *invites)
{
    if (!invites)
        return;
    free(invites->entries);
    free(invites);
}

static struct entry *find(const struct invites *invites, const struct digest *id)
{
    for (uint32_t i = 0; i < invites->count; i++) {
        if (digest_equal(&invites->entries[i].invite.id, id))
            return &invites->entries[i];
    }
    return NULL;
}

/* Forgets those whose time is long over; their rows go with the caller's batch. */
static void forget_old(struct invites *invites, int64_t wall_s, struct store_batch *batch)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < invites->count; i++) {
        struct entry *entry = &invites->entries[i];
        if (entry->invite.expires_s + INVITE_KEPT_S < wall_s)
            store_batch_delete(batch, STORE_TOKENS, entry->invite.id.bytes, DIGEST_BYTES);
        else if (kept++ != i)
            invites->entries[kept - 1] = *entry;
    }
    invites->count = kept;
}

static struct invite shown(const struct entry *entry, int64_t wall_s)
{
    struct invite invite = entry->invite;
    if (invite.state == INVITE_OPEN && wall_s > invite.expires_s)
        invite.state = INVITE_IS_EXPIRED;
    return invite;
}

uint32_t invites_count(const struct invites *invites)
{
    return invites->count;
}

void invites_at(const struct invites *invites, uint32_t index, int64_t wall_s, struct invite *out)
{
    assert(index < invites->count);
    *out = shown(&invites->entries[index], wall_s);
}

const uint8_t *invites_given(const struct invites *invites, uint32_t index, size_t *chain_bytes)
{
    assert(index < invites->count);
    const struct entry *entry = &invites->entries[index];
    *chain_bytes = entry->chain_bytes;
    return entry->invite.state == INVITE_IS_USED && entry->chain_bytes > 0 ? entry->chain : NULL;
}

/* ---- Create */

static enum invite_error check_request(const struct invites *invites, const struct invite_request *request,
                                       uint32_t *rights)
{
    const bool user = request->user && *request->user;
    if (!request->site || !name_valid(request->site) || (user && !name_valid(request->user)) ||
        request->expires_s < 0 || request->expires_s > INVITE_EXPIRY_MAX_S || request->address_count < 1 ||
        request->address_count > TOKEN_ADDRESSES_MAX || (user && request->may_invite))
        return INVITE_INVALID;
    if (request->lifetime_s &&
        (request->lifetime_s < FEDERATION_LIFETIME_MIN_S || request->lifetime_s > FEDERATION_LIFETIME_MAX_S))
        return INVITE_INVALID;
    *rights = user ? RIGHT_SUBMIT : (uint32_t)(RIGHT_NODE | RIGHT_SUBMIT);
    if (request->may_invite)
        *rights |= (uint32_t)(RIGHT_INVITE | RIGHT_REVOKE);
    const uint32_t can = certificate_rights_to_hand_on(federation_certificate(invites->federation)->rights);
    return (*rights & ~can) ? INVITE_FORBIDDEN : INVITE_OK;
}

static enum invite_error fill_token(const struct invites *invites, const struct invite_request *request,
                                    int64_t expires_s, struct token *token)
{
    const struct identity *identity = federation_identity(invites->federation);
    token_secret_create(token);
    token->federation = federation_genesis(invites->federation)->federation;
    token->inviter = identity->node;
    token->join_curve = identity->join_curve;
    token->expires_s = expires_s;
    snprintf(token->site, sizeof token->site, "%s", request->site);
    token->address_count = request->address_count;
    for (uint8_t i = 0; i < request->address_count; i++) {
        if (!token_address_valid(request->addresses[i]))
            return INVITE_INVALID;
        memcpy(token->addresses[i], request->addresses[i], sizeof token->addresses[i]);
    }
    return INVITE_OK;
}

enum invite_error invites_create(struct invites *invites, const struct invite_request *request,
                                 int64_t wall_s, struct store_batch *batch, char text[TOKEN_TEXT_BYTES_MAX],
                                 struct invite *out)
{
    uint32_t rights;
    enum invite_error error = check_request(invites, request, &rights);
    if (error != INVITE_OK)
        return error;
    forget_old(invites, wall_s, batch);
    if (invites->count >= INVITES_MAX)
        return INVITE_FULL;
    const struct certificate *own = federation_certificate(invites->federation);
    const int64_t expires_s = wall_s + (request->expires_s ? request->expires_s : INVITE_EXPIRY_S);
    struct token token = {0};
    error = fill_token(invites, request, expires_s, &token);
    if (error == INVITE_OK && token_format(&token, text, TOKEN_TEXT_BYTES_MAX) != CRYPTO_OK)
        error = INVITE_INVALID;
    struct entry *entry = error == INVITE_OK ? add(invites) : NULL;
    if (entry) {
        entry->invite = (struct invite){
            .id = token_secret_digest(token.secret),
            .created_s = wall_s,
            .expires_s = expires_s,
            .lifetime_s = request->lifetime_s ? request->lifetime_s : own->not_after_s - own->not_before_s,
            .rights = rights,
        };
        snprintf(entry->invite.site, sizeof entry->invite.site, "%s", request->site);
        snprintf(entry->invite.user, sizeof entry->invite.user, "%s", request->user ? request->user : "");
        error = row_save(entry, batch);
        *out = entry->invite;
        if (error != INVITE_OK)
            invites->count--;
    } else if (error == INVITE_OK) {
        error = INVITE_STORE;
    }
    if (error != INVITE_OK)
        sodium_memzero(text, TOKEN_TEXT_BYTES_MAX);
    token_wipe(&token);
    return error;
}

/* ---- Cancel */

static enum invite_error find_prefix(const struct invites *invites, const char *prefix, struct entry **found)
{
    const size_t length = strlen(prefix);
    if (length < PREFIX_MIN || length >= DIGEST_HEX_BYTES)
        return INVITE_UNKNOWN;
    *found = NULL;
    for (uint32_t i = 0; i < invites->count; i++) {
        char hex[DIGEST_HEX_BYTES];
        digest_to_hex(&invites->entries[i].invite.id, hex);
        if (strncmp(hex, prefix, length) != 0)
            continue;
        if (*found)
            return INVITE_AMBIGUOUS;
        *found = &invites->entries[i];
    }
    return *found ? INVITE_OK : INVITE_UNKNOWN;
}

enum invite_error invites_cancel(struct invites *invites, const char *prefix, int64_t wall_s,
                                 struct store_batch *batch, struct invite *out)
{
    struct entry *entry;
    const enum invite_error error = find_prefix(invites, prefix, &entry);
    if (error != INVITE_OK)
        return error;
    if (entry->invite.state == INVITE_OPEN)
        entry->invite.state = INVITE_IS_CANCELLED;
    *out = shown(entry, wall_s);
    if (entry->invite.state == INVITE_IS_USED)
        return INVITE_USED;
    return row_save(entry, batch);
}

/* ---- Redeem */

static enum invite_error issue(const struct invites *invites, const struct join_request *request,
                               int64_t wall_s, struct entry *entry)
{
    struct certificate fields = {
        .node = request->node,
        .curve = request->curve,
        .join_curve = request->join_curve,
        .rights = entry->invite.rights,
    };
    memcpy(fields.site, entry->invite.site, sizeof fields.site);
    memcpy(fields.name, *entry->invite.user ? entry->invite.user : request->name, sizeof fields.name);
    size_t bytes;
    const enum crypto_error error = federation_issue(invites->federation, &fields, entry->invite.lifetime_s,
                                                     wall_s, entry->chain, sizeof entry->chain, &bytes);
    if (error != CRYPTO_OK)
        return INVITE_UNISSUABLE;
    entry->chain_bytes = (uint16_t)bytes;
    return INVITE_OK;
}

static enum invite_error judge(const struct entry *entry, const struct join_request *request, int64_t wall_s,
                               struct invite_redeemed *out)
{
    const struct invite *invite = &entry->invite;
    const bool comes_as_user = sodium_is_zero(request->join_curve.bytes, sizeof request->join_curve.bytes);
    switch (invite->state) {
    case INVITE_IS_CANCELLED:
        return INVITE_CANCELLED;
    case INVITE_IS_USED: {
        struct certificate given[CHAIN_CERTIFICATES_MAX];
        uint32_t count;
        out->again = chain_view(entry->chain, entry->chain_bytes, given, &count) == CRYPTO_OK &&
                     public_key_equal(&given[0].node, &request->node) &&
                     curve_public_equal(&given[0].curve, &request->curve) &&
                     curve_public_equal(&given[0].join_curve, &request->join_curve);
        out->when_s = out->again ? 0 : invite->used_s;
        return out->again ? INVITE_OK : INVITE_USED;
    }
    default:
        break;
    }
    if (wall_s > invite->expires_s) {
        out->when_s = invite->expires_s;
        return INVITE_EXPIRED;
    }
    return comes_as_user == (*invite->user != '\0') ? INVITE_OK : INVITE_MISMATCH;
}

enum invite_error invites_redeem(struct invites *invites, const struct join_request *request, int64_t wall_s,
                                 struct store_batch *batch, struct invite_redeemed *out)
{
    *out = (struct invite_redeemed){0};
    const struct digest id = token_secret_digest(request->secret);
    struct entry *entry = find(invites, &id);
    if (!entry)
        return INVITE_UNKNOWN;
    enum invite_error error = judge(entry, request, wall_s, out);
    if (error == INVITE_OK && !out->again) {
        struct entry used = *entry;
        used.invite.state = INVITE_IS_USED;
        used.invite.used_s = wall_s;
        used.invite.used_by = request->node;
        memcpy(used.invite.used_name, request->name, sizeof used.invite.used_name);
        error = issue(invites, request, wall_s, &used);
        if (error == INVITE_OK)
            error = row_save(&used, batch);
        if (error == INVITE_OK)
            *entry = used;
    }
    out->invite = shown(entry, wall_s);
    if (error == INVITE_OK) {
        memcpy(out->chain, entry->chain, entry->chain_bytes);
        out->chain_bytes = entry->chain_bytes;
    }
    return error;
}
