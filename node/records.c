/*
 * Signed records between the wire and the core: verify what comes in, sign what the core asks for, and know
 * from the members' records who they are and where they listen.
 */
#include "node/log.h"
#include "node/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTRODUCE_AGAIN_MS 10000
#define LOOK_MS 30000       /* between looks for members out of reach */
#define LOOK_SOON_MS 10000  /* the same after one went, and while no other member is up */
#define CAPACITY_LIFE_S 600 /* a capacity older than this says nothing */
#define ALERT_LIFE_S 120    /* an accuser repeats itself every few seconds */

static int64_t wall_s(void)
{
    return clock_wall_ms() / 1000;
}

static const struct digest *federation_id(const struct node *node)
{
    return &federation_genesis(node->federation)->federation;
}

/* ---- The table of peers */

static uint32_t peers_place(const struct peers *peers, const struct mesh_id *id, bool *found)
{
    uint32_t low = 0, high = peers->count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        const int order = memcmp(&peers->peer[middle].id, id, sizeof *id);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = false;
    return low;
}

struct peer *peers_find(struct node *node, const struct mesh_id *id)
{
    bool found;
    const uint32_t place = peers_place(&node->peers, id, &found);
    return found ? &node->peers.peer[place] : NULL;
}

void peers_measured(struct node *node, const struct mesh_id *id, uint32_t rtt_us)
{
    struct peer *peer = peers_find(node, id);
    if (!peer)
        return;
    if (!peer->round_trips && !(peer->round_trips = calloc(1, sizeof *peer->round_trips)))
        abort();
    samples_add(peer->round_trips, rtt_us);
}

void peers_close(struct node *node)
{
    for (uint32_t i = 0; i < node->peers.count; i++) {
        free(node->peers.peer[i].round_trips);
        free(node->peers.peer[i].devices);
        free(node->peers.peer[i].revoked_why);
    }
    free(node->peers.peer);
}

static struct peer *peers_add(struct node *node, const struct mesh_id *id)
{
    struct peers *peers = &node->peers;
    bool found;
    const uint32_t place = peers_place(peers, id, &found);
    if (found)
        return &peers->peer[place];
    if (peers->count == peers->capacity) {
        const uint32_t capacity = peers->capacity ? 2 * peers->capacity : 16;
        struct peer *grown = realloc(peers->peer, capacity * sizeof *grown);
        if (!grown)
            abort();
        peers->peer = grown;
        peers->capacity = capacity;
    }
    memmove(&peers->peer[place + 1], &peers->peer[place], (peers->count - place) * sizeof *peers->peer);
    peers->peer[place] = (struct peer){.id = *id};
    peers->count++;
    return &peers->peer[place];
}

const char *peer_name(struct node *node, const struct mesh_id *id)
{
    static char texts[8][64];
    static unsigned turn;
    const struct peer *peer = peers_find(node, id);
    if (peer && peer->name[0])
        return peer->name;
    char *text = texts[turn++ % 8];
    hex_encode(id->bytes, 4, text);
    return text;
}

const char *peer_site(struct node *node, const struct mesh_id *id)
{
    const struct peer *peer = peers_find(node, id);
    return peer && peer->site[0] ? peer->site : "-";
}

/* ---- Verifying */

static struct mesh_id id_of(const struct public_key *key)
{
    struct mesh_id id;
    memcpy(id.bytes, key->bytes, sizeof id.bytes);
    return id;
}

static void post_record(struct node *node, const struct mesh_id *from, struct mesh_record *record,
                        const uint8_t *bytes, size_t count, uint8_t hops)
{
    record->handle = handles_put(&node->host.handles, bytes_make(bytes, count));
    host_post(node, &(struct mesh_event){.kind = MESH_RECORD,
                                         .body.record = {.from = *from, .record = *record, .hops = hops}});
}

/* The body of a member's record, and the certificate in it, if both are good. */
static bool read_member(struct node *node, const struct record *record, struct member_body *body,
                        struct certificate *leaf)
{
    if (member_body_decode(record->body, record->body_bytes, body) != WIRE_OK)
        return false;
    if (federation_verify_chain(node->federation, body->chain.bytes, body->chain.count, wall_s(), leaf) !=
        CRYPTO_OK)
        return false;
    return public_key_equal(&leaf->node, &record->origin) && (leaf->rights & RIGHT_NODE) &&
           strcmp(leaf->site, body->site) == 0;
}

static bool member_received(struct node *node, const struct record *record, struct mesh_record *out)
{
    struct member_body body;
    struct certificate leaf;
    if (!read_member(node, record, &body, &leaf))
        return false;
    out->kind = MESH_RECORD_MEMBER;
    out->body.member.session = body.session;
    out->body.member.site = name_hash(body.site);
    out->body.member.region = name_hash(body.region[0] ? body.region : body.site);
    out->body.member.leaving = body.leaving;
    out->body.member.interior = body.interior;
    return true;
}

/* For listings; the core has no use for them. An older record may come after a newer one, by another way. */
static void note_devices(struct peer *peer, const struct capacity_devices *devices, uint64_t incarnation,
                         uint64_t sequence)
{
    if (incarnation < peer->devices_incarnation ||
        (incarnation == peer->devices_incarnation && sequence < peer->devices_sequence))
        return;
    peer->devices_incarnation = incarnation;
    peer->devices_sequence = sequence;
    if (devices->count == 0 && !peer->devices)
        return;
    if (!peer->devices)
        peer->devices = malloc(sizeof *peer->devices);
    if (peer->devices)
        *peer->devices = *devices;
}

static bool capacity_received(struct node *node, const struct record *record, struct mesh_record *out)
{
    struct capacity_devices devices;
    struct peer *peer = peers_find(node, &out->origin);
    out->kind = MESH_RECORD_CAPACITY;
    if (!peer ||
        capacity_record_decode(record->body, record->body_bytes, &out->body.capacity, &devices) != WIRE_OK)
        return false;
    note_devices(peer, &devices, record->incarnation, record->sequence);
    return true;
}

static bool alert_received(struct node *node, const struct record *record, struct mesh_record *out)
{
    struct alert_body body;
    if (!peers_find(node, &out->origin) ||
        alert_body_decode(record->body, record->body_bytes, &body) != WIRE_OK)
        return false;
    out->kind = MESH_RECORD_ALERT;
    out->body.alert.subject = body.subject;
    out->body.alert.subject_incarnation = body.subject_incarnation;
    out->body.alert.accuses = body.accuses;
    return true;
}

/* ---- Revocations: one record may hit several members, each a record to the core */

struct hit {
    struct node *node;
    const struct mesh_id *from;
    const struct revocation *revocation;
    const uint8_t *bytes;
    size_t count;
};

static void post_hit(const struct hit *hit, const struct mesh_id *subject)
{
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION,
                                 .origin = id_of(&hit->revocation->issuer),
                                 .incarnation = 1,
                                 .version = (uint64_t)hit->revocation->revoked_s,
                                 .body.revocation.subject = *subject};
    post_record(hit->node, hit->from, &record, hit->bytes, hit->count, 0);
}

/* Whether this member's chain still verifies; a revoked inviter takes those whom it invited along. */
static bool still_good(struct node *node, const struct mesh_id *id)
{
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (memcmp(&view.id, id, sizeof *id) != 0 || !view.record_handle)
            continue;
        const struct bytes *bytes = handles_get(&node->host.handles, view.record_handle);
        struct record record;
        struct member_body body;
        struct certificate leaf;
        return record_view(bytes->data, bytes->count, &record) == CRYPTO_OK &&
               read_member(node, &record, &body, &leaf);
    }
    return true;
}

/* What a revocation can name of a peer. */
static struct certificate named_by(const struct peer *peer)
{
    struct certificate certificate = {.node = {{0}}};
    memcpy(certificate.node.bytes, peer->id.bytes, sizeof certificate.node.bytes);
    memcpy(certificate.serial, peer->serial, sizeof certificate.serial);
    return certificate;
}

bool peer_revoked(const struct node *node, const struct peer *peer)
{
    const struct certificate certificate = named_by(peer);
    return peer->barred || federation_revoked(node->federation, &certificate);
}

/* The first reason stays: of several that revoke a member, each node keeps what it heard first. */
static void keep_reason(struct peer *peer, const struct revocation *revocation)
{
    if (!peer->revoked_why && revocation->reason[0])
        peer->revoked_why = strdup(revocation->reason);
}

static void revocation_apply(const struct hit *hit)
{
    struct node *node = hit->node;
    for (uint32_t t = 0; t < hit->revocation->target_count; t++) {
        const struct revocation_target *target = &hit->revocation->targets[t];
        if (target->type == REVOCATION_NODE_KEY) {
            struct mesh_id id;
            memcpy(id.bytes, target->bytes, sizeof id.bytes);
            post_hit(hit, &id);
        }
    }
    for (uint32_t i = 0; i < node->peers.count; i++) {
        struct peer *peer = &node->peers.peer[i];
        const struct certificate certificate = named_by(peer);
        const bool by_key = federation_revoked(node->federation, &certificate) &&
                            revocation_names(hit->revocation, &certificate);
        if (by_key)
            keep_reason(peer, hit->revocation);
        if (by_key || !still_good(node, &peer->id))
            post_hit(hit, &peer->id);
    }
}

/* Counts it by its reason; false, for the caller to return. */
static bool refused(struct node *node, const struct mesh_id *from, enum crypto_error error)
{
    struct record_refusals *count = &node->record_refusals;
    switch (error) {
    case CRYPTO_BAD_SIGNATURE:
        count->bad_signature++;
        break;
    case CRYPTO_WRONG_FEDERATION:
        count->other_federation++;
        break;
    case CRYPTO_NOT_YET_VALID:
        count->not_yet_valid++;
        break;
    case CRYPTO_EXPIRED:
        count->expired++;
        break;
    case CRYPTO_TOO_LARGE:
        count->too_long++;
        break;
    case CRYPTO_TRUNCATED:
    case CRYPTO_TRAILING:
    case CRYPTO_WRONG_MAGIC:
    case CRYPTO_MALFORMED:
    case CRYPTO_WRONG_KIND:
        count->malformed++;
        break;
    default:
        count->untrusted++;
        break;
    }
    log_debug("record", "from=%s refused=\"%s\"", peer_name(node, from), crypto_error_text(error));
    return false;
}

static bool revocation_received(struct node *node, const struct mesh_id *from, const uint8_t *bytes,
                                size_t count)
{
    struct federation_revocation added;
    const enum crypto_error error =
        federation_revocation_add(node->federation, bytes, count, wall_s(), &added);
    if (error != CRYPTO_OK)
        return refused(node, from, error);
    if (added.fresh_count == 0)
        return true;
    char quoted[2 * REVOCATION_REASON_BYTES_MAX + 3];
    log_warn("revocation", "by=%s targets=%u reason=%s", added.revocation.who, added.revocation.target_count,
             log_quote(added.revocation.reason, quoted, sizeof quoted));
    revocation_apply(&(struct hit){
        .node = node, .from = from, .revocation = &added.revocation, .bytes = bytes, .count = count});
    return true;
}

bool records_received(struct node *node, const struct mesh_id *from, const uint8_t *bytes, size_t count,
                      uint8_t hops)
{
    struct record view;
    if (record_view(bytes, count, &view) == CRYPTO_OK && view.kind == RECORD_REVOCATION)
        return revocation_received(node, from, bytes, count);
    struct record record;
    const enum crypto_error error = record_verify(bytes, count, federation_id(node), wall_s(), &record);
    if (error != CRYPTO_OK) {
        if ((error == CRYPTO_NOT_YET_VALID || error == CRYPTO_EXPIRED) &&
            record_verify(bytes, count, federation_id(node), view.not_before_s, &record) == CRYPTO_OK)
            skew_told(node, from, &record);
        return refused(node, from, error);
    }
    skew_told(node, from, &record);
    struct mesh_record out = {
        .origin = id_of(&record.origin), .incarnation = record.incarnation, .version = record.sequence};
    bool good = false;
    switch (record.kind) {
    case RECORD_MEMBER:
        good = member_received(node, &record, &out);
        break;
    case RECORD_CAPACITY:
        good = capacity_received(node, &record, &out);
        break;
    case RECORD_ALERT:
        good = alert_received(node, &record, &out);
        break;
    default:
        break;
    }
    if (!good)
        return refused(node, from, CRYPTO_UNKNOWN_AUTHORITY);
    post_record(node, from, &out, bytes, count, hops);
    return true;
}

/* ---- Signing */

static size_t member_body_of(struct node *node, const struct mesh_record *record, uint8_t *out,
                             size_t capacity)
{
    const struct certificate *certificate = federation_certificate(node->federation);
    struct member_body body = {.session = record->body.member.session,
                               .leaving = record->body.member.leaving,
                               .interior = record->body.member.interior};
    snprintf(body.site, sizeof body.site, "%s", certificate->site);
    snprintf(body.region, sizeof body.region, "%s", node->config.region);
    snprintf(body.name, sizeof body.name, "%s", certificate->name);
    snprintf(body.control, sizeof body.control, "%s", node->control);
    snprintf(body.bulk, sizeof body.bulk, "%s", node->bulk_address);
    snprintf(body.join, sizeof body.join, "%s", node->join_address);
    snprintf(body.software, sizeof body.software, "%s", NODE_SOFTWARE);
    body.chain.bytes = federation_chain(node->federation, &body.chain.count);
    return member_body_encode(&body, out, capacity);
}

/* Programs before 0.2 don't know them and would refuse the record: while one of those is a member, they are not told. */
static bool all_read_devices(const struct node *node)
{
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        const struct peer *peer = peers_find((struct node *)(uintptr_t)node, &view.id);
        unsigned major = 0, minor = 0;
        if (view.self || view.state == MESH_LEFT || view.state == MESH_REVOKED || view.state == MESH_DOWN)
            continue;
        if (!peer || sscanf(peer->software, "%u.%u", &major, &minor) != 2 || (major == 0 && minor < 2))
            return false;
    }
    return true;
}

void records_sign(struct node *node, const struct mesh_record *record)
{
    struct capacity_devices devices = {0};
    uint8_t body[MEMBER_BODY_BYTES_MAX];
    uint8_t bytes[RECORD_OVERHEAD_BYTES + MEMBER_BODY_BYTES_MAX];
    const int64_t now_s = wall_s();
    struct federation_record fields = {
        .incarnation = record->incarnation, .sequence = record->version, .not_before_s = now_s, .body = body};
    size_t body_bytes = 0;
    switch (record->kind) {
    case MESH_RECORD_MEMBER:
        fields.kind = RECORD_MEMBER;
        fields.not_after_s = federation_certificate(node->federation)->not_after_s;
        body_bytes = member_body_of(node, record, body, sizeof body);
        break;
    case MESH_RECORD_CAPACITY:
        fields.kind = RECORD_CAPACITY;
        fields.not_after_s = now_s + CAPACITY_LIFE_S;
        if (all_read_devices(node))
            devices_describe(node, &devices);
        body_bytes = capacity_record_encode(&record->body.capacity, devices.count ? &devices : NULL, body,
                                            sizeof body);
        break;
    case MESH_RECORD_ALERT: {
        const struct alert_body alert = {.subject = record->body.alert.subject,
                                         .subject_incarnation = record->body.alert.subject_incarnation,
                                         .accuses = record->body.alert.accuses};
        fields.kind = RECORD_ALERT;
        fields.not_after_s = now_s + ALERT_LIFE_S;
        body_bytes = alert_body_encode(&alert, body, sizeof body);
        break;
    }
    case MESH_RECORD_REVOCATION:
        return; /* made by operators, not by the core */
    }
    fields.body_bytes = (uint32_t)body_bytes;
    size_t count = 0;
    const enum crypto_error error =
        federation_sign_record(node->federation, &fields, bytes, sizeof bytes, &count);
    if (body_bytes == 0 || error != CRYPTO_OK) {
        log_error("record", "error=\"cannot sign: %s\"", crypto_error_text(error));
        return;
    }
    if (record->kind ==
        MESH_RECORD_MEMBER) { /* we are in our own table of peers too: listings name us like others */
        struct bytes *own = bytes_make(bytes, count);
        records_admit(node, &node->self, own);
        bytes_drop(own);
    }
    struct mesh_record signed_record = *record;
    post_record(node, &node->self, &signed_record, bytes, count, 0);
}

/* ---- Peers come and go */

void records_admit(struct node *node, const struct mesh_id *id, struct bytes *bytes)
{
    struct record record;
    struct member_body body;
    struct certificate leaf;
    if (!bytes || record_view(bytes->data, bytes->count, &record) != CRYPTO_OK ||
        !read_member(node, &record, &body, &leaf))
        return;
    struct peer *peer = peers_add(node, id);
    const struct curve_public old_curve = peer->curve;
    const bool had_key = peer->known;
    *peer = (struct peer){.id = *id,
                          .known = true,
                          .curve = leaf.curve,
                          .join_curve = leaf.join_curve,
                          .rights = leaf.rights,
                          .certificate_ends_s = leaf.not_after_s,
                          .introduced_at_ms = peer->introduced_at_ms,
                          .round_trips = peer->round_trips,
                          .devices = peer->devices,
                          .devices_incarnation = peer->devices_incarnation,
                          .devices_sequence = peer->devices_sequence,
                          .revoked_why = peer->revoked_why};
    memcpy(peer->serial, leaf.serial, sizeof peer->serial);
    snprintf(peer->name, sizeof peer->name, "%s", body.name);
    snprintf(peer->site, sizeof peer->site, "%s", body.site);
    snprintf(peer->region, sizeof peer->region, "%s", body.region);
    snprintf(peer->control, sizeof peer->control, "%s", body.control);
    snprintf(peer->bulk, sizeof peer->bulk, "%s", body.bulk);
    snprintf(peer->join, sizeof peer->join, "%s", body.join);
    snprintf(peer->software, sizeof peer->software, "%s", body.software);
    if (memcmp(id, &node->self, sizeof *id) == 0)
        return;
    admission_admit(node->admission, &leaf.curve, id, leaf.not_after_s);
    if (had_key && !curve_public_equal(&old_curve, &leaf.curve))
        admission_forget(node->admission, id, &old_curve);
    transport_peer_set(node->transport, id, &leaf.curve, body.control);
    bulk_peer_set(node->bulk, id, &leaf.curve, body.bulk);
    if (!had_key)
        records_introduce(node, id);
}

void records_bar(struct node *node, const struct mesh_id *id)
{
    admission_bar(node->admission, id);
    transport_peer_remove(node->transport, id);
    bulk_peer_remove(node->bulk, id);
    if (memcmp(id, &node->self, sizeof *id) == 0) {
        log_error("revoked",
                  "reason=\"this node's certificate was revoked; ask an operator of the federation\"");
        node_stop(node, EXIT_DENIED);
    }
}

void records_presented(struct node *node, const struct certificate *leaf)
{
    const struct mesh_id id = id_of(&leaf->node);
    if (!admission_admit(node->admission, &leaf->curve, &id, leaf->not_after_s))
        return;
    struct peer *peer = peers_add(node, &id);
    if (peer->known && curve_public_equal(&peer->curve, &leaf->curve))
        return;
    if (!peer->known) {
        snprintf(peer->name, sizeof peer->name, "%s", leaf->name);
        snprintf(peer->site, sizeof peer->site, "%s", leaf->site);
        peer->curve = leaf->curve;
        peer->certificate_ends_s = leaf->not_after_s;
        memcpy(peer->serial, leaf->serial, sizeof peer->serial);
        /* Its addresses come with its member record, which it sends over the link that it now opens. */
        transport_peer_set(node->transport, &id, &leaf->curve, "");
    }
}

/*
 * The others tell nobody whom they have shut out: this is where one that was revoked learns of it. It goes on trying, for a
 * single member may be wrong.
 */
static void told_revoked(struct node *node, const struct mesh_id *by)
{
    struct peer *peer = peers_find(node, by);
    if (!peer || peer->says_revoked)
        return;
    peer->says_revoked = true;
    log_error(
        "revoked",
        "by=%s says=%u reason=\"that member shuts this node out: its certificate, or its inviter's, was "
        "revoked. Ask an operator there; the way back is a new token and an empty data folder\"",
        peer_name(node, by), records_revoked_by(node));
}

uint32_t records_revoked_by(const struct node *node)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < node->peers.count; i++)
        count += node->peers.peer[i].says_revoked;
    return count;
}

void records_link_up(struct node *node, const struct mesh_id *id)
{
    struct peer *peer = peers_find(node, id);
    if (peer)
        peer->says_revoked = false;
}

static void on_introduced(void *context, const struct join_result *result)
{
    struct node *node = context;
    if (result->error != JOIN_OK) {
        log_debug("introduce", "refused=%s", join_refusal_name(result->refusal));
        const struct mesh_id id = id_of(&result->member);
        if (result->error == JOIN_REFUSED && result->refusal == JOIN_REFUSED_REVOKED)
            told_revoked(node, &id);
        return;
    }
    static struct federation_peers list;
    if (!federation_peers_decode(result->peers, result->peers_count, &list))
        return;
    for (uint32_t i = 0; i < list.count; i++)
        records_received(node, &node->self, list.records[i].bytes, list.records[i].count, 0);
}

void records_introduce(struct node *node, const struct mesh_id *id)
{
    struct peer *peer = peers_find(node, id);
    const int64_t now_ms = clock_now_ms();
    if (!peer || !peer->join[0] || memcmp(id, &node->self, sizeof *id) == 0 ||
        (peer->introduced_at_ms && now_ms < peer->introduced_at_ms + INTRODUCE_AGAIN_MS))
        return;
    struct federation_contact contact = {.join_curve = peer->join_curve, .address_count = 1};
    memcpy(contact.node.bytes, id->bytes, sizeof contact.node.bytes);
    snprintf(contact.addresses[0], sizeof contact.addresses[0], "%s", peer->join);
    peer->introduced_at_ms = now_ms;
    join_present(node->join_client, &contact, on_introduced, node);
}

static void ask_inviter(struct node *node, const struct federation_peers *list)
{
    if (list->inviter.address_count > 0)
        join_present(node->join_client, &list->inviter, on_introduced, node);
}

/* The next member, from node->look_next on, that has no link to us though it should or might have one. */
static bool next_out_of_reach(struct node *node, bool *alone, struct mesh_id *id)
{
    uint32_t chosen = UINT32_MAX;
    *alone = true;
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (view.self || view.state == MESH_REVOKED)
            continue;
        *alone = *alone && view.state != MESH_UP;
        const bool gone = view.state == MESH_DOWN || view.state == MESH_LEFT;
        const struct peer *peer = peers_find(node, &view.id);
        if (!(gone || (view.neighbour && !view.link_up)) || !peer || !peer->join[0])
            continue;
        if (chosen == UINT32_MAX || (chosen < node->look_next && i >= node->look_next)) {
            chosen = i;
            *id = view.id;
        }
    }
    if (chosen != UINT32_MAX)
        node->look_next = chosen + 1;
    return chosen != UINT32_MAX;
}

/*
 * A member that came back may have forgotten us, or never have heard of us: then it can't dial us, and refuses
 * us when we dial it. Whoever left isn't dialled at all. Its answer on the join socket has its new record.
 */
int64_t records_turn(struct node *node, int64_t now_ms)
{
    if (now_ms < node->look_at_ms)
        return node->look_at_ms;
    const bool begun = node->look_at_ms > 0;
    bool alone;
    struct mesh_id id;
    if (next_out_of_reach(node, &alone, &id) && begun)
        records_introduce(node, &id);
    if (alone && begun) {
        static struct federation_peers list;
        federation_peers_load(node->federation, &list);
        ask_inviter(node, &list);
    }
    node->look_at_ms = now_ms + (alone ? LOOK_SOON_MS : LOOK_MS);
    return node->look_at_ms;
}

void records_look_soon(struct node *node)
{
    const int64_t soon_ms = clock_now_ms() + LOOK_SOON_MS;
    if (node->look_at_ms > soon_ms)
        node->look_at_ms = soon_ms;
}

size_t records_list(struct node *node, uint8_t *out, size_t capacity)
{
    size_t count = federation_peers_begin(out, capacity);
    struct mesh_member_view view;
    for (int own = 1; own >= 0; own--)
        for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
            if (view.self != (own == 1) || !view.record_handle || (!own && view.state != MESH_UP))
                continue;
            const struct bytes *bytes = handles_get(&node->host.handles, view.record_handle);
            if (!federation_peers_append(out, capacity, &count, bytes->data, bytes->count))
                return count;
        }
    return count;
}

/* ---- The store */

void records_save(struct node *node, struct store_batch *batch, enum mesh_record_kind kind,
                  const struct mesh_id *origin, const struct bytes *record)
{
    (void)node;
    if (kind == MESH_RECORD_REVOCATION) {
        federation_revocation_save(batch, record->data, record->count);
        return;
    }
    uint8_t key[1 + sizeof origin->bytes] = {(uint8_t)kind};
    memcpy(key + 1, origin->bytes, sizeof origin->bytes);
    store_batch_put(batch, STORE_RECORDS, key, sizeof key, record->data, record->count);
}

/* A revoked member's record verifies no more, but tells people who it was. */
static bool restore_barred(void *context, const void *key, size_t key_bytes, const void *value,
                           size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    struct node *node = context;
    struct record record;
    struct member_body body;
    struct certificate leaf, chain[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    if (record_verify(value, value_bytes, federation_id(node), wall_s(), &record) != CRYPTO_OK ||
        record.kind != RECORD_MEMBER ||
        member_body_decode(record.body, record.body_bytes, &body) != WIRE_OK ||
        federation_verify_chain(node->federation, body.chain.bytes, body.chain.count, wall_s(), &leaf) !=
            CRYPTO_REVOKED ||
        chain_view(body.chain.bytes, body.chain.count, chain, &count) != CRYPTO_OK ||
        !public_key_equal(&chain[0].node, &record.origin))
        return true;
    const struct mesh_id id = id_of(&record.origin);
    struct peer *peer = peers_add(node, &id);
    peer->barred = true;
    peer->incarnation = record.incarnation;
    peer->certificate_ends_s = chain[0].not_after_s;
    memcpy(peer->serial, chain[0].serial, sizeof peer->serial);
    snprintf(peer->name, sizeof peer->name, "%s", body.name);
    snprintf(peer->site, sizeof peer->site, "%s", body.site);
    snprintf(peer->region, sizeof peer->region, "%s", body.region);
    snprintf(peer->control, sizeof peer->control, "%s", body.control);
    snprintf(peer->software, sizeof peer->software, "%s", body.software);
    return true;
}

static void date_barred(struct node *node, const struct revocation *revocation)
{
    for (uint32_t i = 0; i < node->peers.count; i++) {
        struct peer *peer = &node->peers.peer[i];
        const struct certificate certificate = named_by(peer);
        if (peer->barred && revocation_names(revocation, &certificate) &&
            (peer->revoked_s == 0 || revocation->revoked_s < peer->revoked_s))
            peer->revoked_s = revocation->revoked_s;
    }
}

bool records_barred_view(struct node *node, uint32_t index, struct mesh_member_view *view)
{
    for (uint32_t i = 0; i < node->peers.count; i++) {
        const struct peer *peer = &node->peers.peer[i];
        if (!peer->barred || index-- > 0)
            continue;
        const int64_t ago_ms = clock_wall_ms() - peer->revoked_s * 1000;
        *view = (struct mesh_member_view){.id = peer->id,
                                          .state = MESH_REVOKED,
                                          .incarnation = peer->incarnation,
                                          .state_at_ms = peer->revoked_s ? clock_now_ms() - ago_ms : 0};
        return true;
    }
    return false;
}

static bool restore_revocation(void *context, const void *key, size_t key_bytes, const void *value,
                               size_t value_bytes)
{
    (void)key;
    (void)key_bytes;
    struct node *node = context;
    struct revocation revocation;
    if (revocation_verify(federation_genesis(node->federation), value, value_bytes, wall_s(), &revocation) !=
        CRYPTO_OK)
        return true;
    date_barred(node, &revocation);
    revocation_apply(&(struct hit){
        .node = node, .from = &node->self, .revocation = &revocation, .bytes = value, .count = value_bytes});
    return true;
}

static bool restore_record(void *context, const void *key, size_t key_bytes, const void *value,
                           size_t value_bytes)
{
    struct node *node = context;
    /* Our own old record says nothing that we don't know better. */
    if (key_bytes == 33 && memcmp((const uint8_t *)key + 1, node->self.bytes, 32) != 0)
        records_received(node, &node->self, value, value_bytes, 0);
    return true;
}

/* Whom we certified and have not heard of since: it may dial us at any time. */
static void restore_guests(struct node *node)
{
    for (uint32_t i = 0; i < invites_count(node->invites); i++) {
        size_t chain_bytes;
        const uint8_t *chain = invites_given(node->invites, i, &chain_bytes);
        struct certificate leaf;
        if (!chain ||
            federation_verify_chain(node->federation, chain, chain_bytes, wall_s(), &leaf) != CRYPTO_OK ||
            !(leaf.rights & RIGHT_NODE))
            continue;
        uint8_t key[1 + sizeof leaf.node.bytes] = {MESH_RECORD_MEMBER};
        memcpy(key + 1, leaf.node.bytes, sizeof leaf.node.bytes);
        size_t record_bytes;
        if (store_get(node->store, STORE_RECORDS, key, sizeof key, NULL, 0, &record_bytes) == STORE_NONE)
            records_presented(node, &leaf);
    }
}

void records_restore(struct node *node)
{
    store_each(node->store, STORE_RECORDS, NULL, restore_barred, node);
    store_each(node->store, STORE_REVOCATIONS, NULL, restore_revocation, node);
    store_each(node->store, STORE_RECORDS, NULL, restore_record, node);
    static struct federation_peers list;
    federation_peers_load(node->federation, &list);
    for (uint32_t i = 0; i < list.count; i++)
        records_received(node, &node->self, list.records[i].bytes, list.records[i].count, 0);
    /* Those records may have ended since we joined; the inviter's answer brings fresh ones. */
    ask_inviter(node, &list);
    restore_guests(node);
}

/* ---- Renewal */

bool records_issuer(void *context, uint32_t index, struct federation_contact *contact)
{
    struct node *node = context;
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        const struct peer *peer = peers_find(node, &view.id);
        if (view.self || view.state != MESH_UP || !peer || !(peer->rights & RIGHT_INVITE) || !peer->join[0] ||
            index-- > 0)
            continue;
        *contact = (struct federation_contact){.join_curve = peer->join_curve, .address_count = 1};
        memcpy(contact->node.bytes, peer->id.bytes, sizeof contact->node.bytes);
        snprintf(contact->addresses[0], sizeof contact->addresses[0], "%s", peer->join);
        return true;
    }
    return false;
}

void records_renewed(void *context)
{
    struct node *node = context;
    log_info("renewal", "certificate_ends_s=%lld",
             (long long)federation_certificate(node->federation)->not_after_s);
    host_post(node, &(struct mesh_event){.kind = MESH_ANNOUNCE});
}
