#include "node/federation_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- The set of revoked keys and serials */

static struct revoked_entry entry_of(const struct revocation_target *target, int64_t kept_until_s)
{
    struct revoked_entry entry = {.type = (uint8_t)target->type, .kept_until_s = kept_until_s};
    memcpy(entry.bytes, target->bytes, sizeof entry.bytes);
    return entry;
}

/* Keys and serials are random, or made by somebody who already had the right to revoke: no hash is needed. */
static struct revoked_entry *find_slot(const struct revoked_set *set, uint8_t type, const uint8_t bytes[32])
{
    uint32_t start;
    memcpy(&start, bytes, sizeof start);
    for (uint32_t i = 0;; i++) {
        struct revoked_entry *entry = &set->entries[(start + i) & (set->capacity - 1)];
        if (!entry->type || (entry->type == type && memcmp(entry->bytes, bytes, sizeof entry->bytes) == 0))
            return entry;
    }
}

static bool set_has(const struct revoked_set *set, uint8_t type, const uint8_t bytes[32])
{
    return set->capacity && find_slot(set, type, bytes)->type;
}

/* Makes room for `more` entries, leaving out those that need not be kept. */
static bool set_reserve(struct revoked_set *set, uint32_t more, int64_t wall_s)
{
    if (set->capacity && set->count + more <= set->capacity / 2)
        return true;
    uint32_t live = 0;
    for (uint32_t i = 0; i < set->capacity; i++)
        live += set->entries[i].type && set->entries[i].kept_until_s >= wall_s - RECORD_TOLERANCE_S;
    if (live + more > FEDERATION_REVOKED_MAX)
        return false;
    struct revoked_set grown = {.capacity = 64};
    while (grown.capacity / 2 < live + more)
        grown.capacity *= 2;
    grown.entries = calloc(grown.capacity, sizeof *grown.entries);
    if (!grown.entries)
        return false;
    for (uint32_t i = 0; i < set->capacity; i++) {
        const struct revoked_entry *entry = &set->entries[i];
        if (entry->type && entry->kept_until_s >= wall_s - RECORD_TOLERANCE_S) {
            *find_slot(&grown, entry->type, entry->bytes) = *entry;
            grown.count++;
        }
    }
    free(set->entries);
    *set = grown;
    return true;
}

static void set_add(struct revoked_set *set, const struct revoked_entry *entry)
{
    struct revoked_entry *slot = find_slot(set, entry->type, entry->bytes);
    if (!slot->type) {
        *slot = *entry;
        set->count++;
    } else if (slot->kept_until_s < entry->kept_until_s) {
        slot->kept_until_s = entry->kept_until_s;
    }
}

bool federation_revoked(void *context, const struct certificate *certificate)
{
    const struct federation *federation = context;
    uint8_t serial[32] = {0};
    memcpy(serial, certificate->serial, sizeof certificate->serial);
    return set_has(&federation->revoked, REVOCATION_NODE_KEY, certificate->node.bytes) ||
           set_has(&federation->revoked, REVOCATION_SERIAL, serial);
}

enum crypto_error federation_verify_chain(const struct federation *federation, const uint8_t *chain,
                                          size_t chain_bytes, int64_t wall_s, struct certificate *leaf)
{
    return chain_verify(&federation->genesis, chain, chain_bytes, wall_s, federation_revoked,
                        (void *)federation, leaf);
}

uint32_t federation_revocation_count(const struct federation *federation)
{
    return federation->revoked.count;
}

enum crypto_error federation_revocation_add(struct federation *federation, const uint8_t *bytes, size_t count,
                                            int64_t wall_s, struct federation_revocation *out)
{
    struct federation_revocation found = {.digest = record_digest(bytes, count)};
    const enum crypto_error error =
        revocation_verify(&federation->genesis, bytes, count, wall_s, &found.revocation);
    if (error != CRYPTO_OK)
        return error;
    const struct revocation *revocation = &found.revocation;
    if (!set_reserve(&federation->revoked, revocation->target_count, wall_s))
        return CRYPTO_NO_SPACE;
    for (uint8_t i = 0; i < revocation->target_count; i++) {
        const struct revoked_entry entry = entry_of(&revocation->targets[i], revocation->kept_until_s);
        if (!set_has(&federation->revoked, entry.type, entry.bytes))
            found.fresh[found.fresh_count++] = revocation->targets[i];
        set_add(&federation->revoked, &entry);
    }
    *out = found;
    return CRYPTO_OK;
}

enum store_error federation_revocation_save(struct store_batch *batch, const uint8_t *bytes, size_t count)
{
    const struct digest digest = record_digest(bytes, count);
    return store_batch_put(batch, STORE_REVOCATIONS, digest.bytes, sizeof digest.bytes, bytes, count);
}

struct loading {
    struct federation *federation;
    int64_t wall_s;
    uint32_t dropped;
};

static bool load_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    struct loading *loading = context;
    struct federation_revocation found;
    const enum crypto_error error =
        federation_revocation_add(loading->federation, value, value_bytes, loading->wall_s, &found);
    if (error != CRYPTO_OK && error != CRYPTO_EXPIRED)
        loading->dropped++;
    return true;
}

enum store_error federation_revocations_load(struct federation *federation, struct store *store,
                                             int64_t wall_s, uint32_t *dropped)
{
    struct loading loading = {.federation = federation, .wall_s = wall_s};
    const enum store_error error = store_each(store, STORE_REVOCATIONS, NULL, load_row, &loading);
    if (dropped)
        *dropped = loading.dropped;
    return error;
}

/* ---- Signing for others */

/* Calls for a signature by ourselves or by the authority, whose key is in memory only meanwhile. */
struct signer {
    struct issuer issuer;
    struct authority authority;
};

static enum crypto_error signer_open(const struct federation *federation, enum right right,
                                     struct signer *signer)
{
    *signer = (struct signer){0};
    if (federation->certificate.rights & right) {
        signer->issuer = (struct issuer){.secret = &federation->identity.node_secret,
                                         .chain = federation->chain,
                                         .chain_bytes = federation->chain_count};
        return CRYPTO_OK;
    }
    const enum crypto_error error = authority_load(federation->keys, &signer->authority, NULL);
    signer->issuer.secret = &signer->authority.secret;
    return error == CRYPTO_KEY_MISSING ? CRYPTO_ISSUER_RIGHT_LACKS : error;
}

static void signer_close(struct signer *signer)
{
    authority_wipe(&signer->authority);
}

enum crypto_error federation_revoke(const struct federation *federation,
                                    const struct federation_revoke *fields, int64_t wall_s, uint8_t *out,
                                    size_t capacity, size_t *out_bytes)
{
    if (fields->node_count < 1 || fields->node_count > REVOCATION_TARGETS_MAX)
        return CRYPTO_MALFORMED;
    /* Without knowing when a certificate ends, take the longest that one of today may live. */
    const int64_t end_s =
        fields->certificates_end_s > 0 ? fields->certificates_end_s : wall_s + FEDERATION_LIFETIME_MAX_S;
    struct revocation revocation = {
        .revoked_s = wall_s,
        .kept_until_s = (end_s > wall_s ? end_s : wall_s) + REVOCATION_KEPT_S,
        .target_count = fields->node_count,
    };
    const size_t who_bytes = strlen(fields->who), reason_bytes = strlen(fields->reason);
    if (who_bytes >= sizeof revocation.who || reason_bytes >= sizeof revocation.reason)
        return CRYPTO_TOO_LARGE;
    memcpy(revocation.who, fields->who, who_bytes);
    memcpy(revocation.reason, fields->reason, reason_bytes);
    for (uint8_t i = 0; i < fields->node_count; i++) {
        revocation.targets[i].type = REVOCATION_NODE_KEY;
        memcpy(revocation.targets[i].bytes, fields->nodes[i].bytes, sizeof fields->nodes[i].bytes);
    }
    struct signer signer;
    enum crypto_error error = signer_open(federation, RIGHT_REVOKE, &signer);
    if (error == CRYPTO_OK)
        error = revocation_sign(&federation->genesis, &signer.issuer, &revocation, out, capacity, out_bytes);
    signer_close(&signer);
    return error;
}

bool federation_may_issue(const struct certificate *certificate)
{
    return certificate_rights_to_hand_on(certificate->rights) & RIGHT_NODE;
}

enum crypto_error federation_issue(const struct federation *federation, const struct certificate *fields,
                                   int64_t lifetime_s, int64_t wall_s, uint8_t *out, size_t capacity,
                                   size_t *out_bytes)
{
    struct signer signer;
    enum crypto_error error = signer_open(federation, RIGHT_INVITE, &signer);
    if (error == CRYPTO_OK) {
        struct certificate certificate = *fields;
        const struct certificate *own = &federation->certificate;
        certificate.not_before_s = wall_s;
        certificate.not_after_s = wall_s + lifetime_s;
        if (signer.issuer.chain && certificate.not_before_s < own->not_before_s)
            certificate.not_before_s = own->not_before_s; /* our clock was set back */
        if (signer.issuer.chain && certificate.not_after_s > own->not_after_s)
            certificate.not_after_s = own->not_after_s;
        error = certificate_issue(&federation->genesis, &signer.issuer, &certificate, wall_s,
                                  federation_revoked, (void *)federation, out, capacity, out_bytes);
    }
    signer_close(&signer);
    return error;
}

enum crypto_error federation_renew(const struct federation *federation, const uint8_t *chain,
                                   size_t chain_bytes, int64_t wall_s, uint8_t *out, size_t capacity,
                                   size_t *out_bytes)
{
    struct certificate shown[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    enum crypto_error error = chain_view(chain, chain_bytes, shown, &count);
    if (error != CRYPTO_OK)
        return error;
    int64_t lifetime_s = shown[0].not_after_s - shown[0].not_before_s;
    if (lifetime_s < FEDERATION_LIFETIME_MIN_S) /* one cut short by its issuer's end */
        lifetime_s = FEDERATION_LIFETIME_MIN_S;
    struct signer signer;
    error = signer_open(federation, RIGHT_INVITE, &signer);
    if (error == CRYPTO_OK)
        error = certificate_renew(&federation->genesis, &signer.issuer, chain, chain_bytes, lifetime_s,
                                  wall_s, federation_revoked, (void *)federation, out, capacity, out_bytes);
    signer_close(&signer);
    return error;
}

/* ---- Our own certificate */

bool federation_renew_due(const struct federation *federation, int64_t wall_s)
{
    const struct certificate *own = &federation->certificate;
    return wall_s >= certificate_renew_at_s(own) ||
           wall_s < own->not_before_s - RECORD_TOLERANCE_S; /* made while this clock was ahead */
}

static enum crypto_error keep(struct federation *federation, const uint8_t *chain, size_t chain_bytes,
                              const struct certificate *leaf, struct federation_failure *failure)
{
    if (!federation_file_write(federation->data, FEDERATION_CHAIN, chain, chain_bytes)) {
        federation_fail(failure, FEDERATION_SYSTEM, "cannot write the renewed certificate to %s/federation",
                        federation->data);
        return CRYPTO_IO;
    }
    memcpy(federation->chain, chain, chain_bytes);
    federation->chain_count = chain_bytes;
    federation->certificate = *leaf;
    return CRYPTO_OK;
}

enum crypto_error federation_renew_self(struct federation *federation, int64_t wall_s,
                                        struct federation_failure *failure)
{
    struct authority authority;
    struct crypto_advice advice = {""};
    enum crypto_error error = authority_load(federation->keys, &authority, &advice);
    if (error != CRYPTO_OK) {
        federation_fail(failure, FEDERATION_MISSING, "%s", advice.text);
        return error;
    }
    struct certificate fields = federation->certificate;
    const int64_t lifetime_s = fields.not_after_s - fields.not_before_s;
    fields.not_before_s = wall_s;
    fields.not_after_s = wall_s + lifetime_s;
    const struct issuer issuer = {.secret = &authority.secret};
    uint8_t chain[CHAIN_BYTES_MAX];
    size_t chain_bytes;
    error = certificate_issue(&federation->genesis, &issuer, &fields, wall_s, federation_revoked, federation,
                              chain, sizeof chain, &chain_bytes);
    authority_wipe(&authority);
    struct certificate leaf;
    if (error == CRYPTO_OK)
        error = federation_verify_chain(federation, chain, chain_bytes, wall_s, &leaf);
    if (error != CRYPTO_OK) {
        federation_fail(failure, FEDERATION_INVALID, "cannot renew this node's certificate: %s",
                        crypto_error_text(error));
        return error;
    }
    return keep(federation, chain, chain_bytes, &leaf, failure);
}

enum crypto_error federation_adopt(struct federation *federation, const uint8_t *chain, size_t chain_bytes,
                                   int64_t wall_s, struct federation_failure *failure)
{
    struct certificate leaf;
    enum crypto_error error = federation_verify_chain(federation, chain, chain_bytes, wall_s, &leaf);
    const struct certificate *own = &federation->certificate;
    if (error == CRYPTO_OK &&
        !(public_key_equal(&leaf.node, &own->node) && curve_public_equal(&leaf.curve, &own->curve) &&
          curve_public_equal(&leaf.join_curve, &own->join_curve) && strcmp(leaf.site, own->site) == 0 &&
          strcmp(leaf.name, own->name) == 0 && leaf.rights == own->rights &&
          leaf.not_after_s >= own->not_after_s))
        error = CRYPTO_NOT_OURS;
    if (error != CRYPTO_OK) {
        federation_fail(failure, FEDERATION_INVALID, "the renewed certificate is not good: %s",
                        crypto_error_text(error));
        return error;
    }
    return keep(federation, chain, chain_bytes, &leaf, failure);
}
