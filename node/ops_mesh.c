/* The local API: the health of the mesh as this node sees it. */
#include "node/log.h"
#include "node/ops.h"
#include "node/resync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PING_EVERY_MS 200
#define PING_LOST_MS 3000
#define PINGS_MAX 1000

static const char *const class_names[MESH_DEVICE_CLASSES] = {"cpu", "cuda"};
static const char *const state_words[] = {"", "up", "suspect", "down", "left", "revoked"};

static json_t *view_json(struct node *node)
{
    return json_pack("{s:s, s:I, s:I}", "node", peer_name(node, &node->self), "at",
                     (json_int_t)clock_wall_ms(), "age_ms", (json_int_t)0);
}

/* ---- nodes */

/* What that node speaks, and what is spoken with it; all zero for one that never greeted us. */
static struct transport_protocol protocol_of(struct node *node, const struct mesh_member_view *view)
{
    struct transport_protocol protocol;
    if (view->self)
        return (struct transport_protocol){
            .min = WIRE_PROTOCOL_MIN, .max = WIRE_PROTOCOL_MAX, .agreed = WIRE_PROTOCOL_MAX};
    transport_protocol(node->transport, &view->id, &protocol);
    return protocol;
}

static void put_protocol(json_t *row, const struct transport_protocol *protocol)
{
    const bool greeted = protocol->max > 0;
    json_put(row, "protocol", protocol->agreed ? json_integer(protocol->agreed) : json_null());
    json_put(row, "protocol_min", greeted ? json_integer(protocol->min) : json_null());
    json_put(row, "protocol_max", greeted ? json_integer(protocol->max) : json_null());
}

static enum mesh_fault fault_of(const struct node *node, const struct mesh_member_view *view)
{
    return view->self ? execute_fault(node) : (enum mesh_fault)view->capacity.fault;
}

/* "job 1a2b3c4d", which it was wrong about: short, since the word quarantined takes room in 80 columns */
static const char *wrong_text(struct node *node, const struct mesh_id *id, char text[SKEW_TEXT_BYTES])
{
    const struct caught *caught = quarantine_find(node, id);
    snprintf(text, SKEW_TEXT_BYTES, "job %.8s", caught ? peer_name(node, &caught->job) : "");
    return text;
}

const struct capacity_devices *devices_of(struct node *node, const struct mesh_member_view *view,
                                          struct capacity_devices *own)
{
    const struct peer *peer = peers_find(node, &view->id);
    if (!view->self)
        return peer ? peer->devices : NULL;
    devices_describe(node, own);
    return own;
}

const char *layers_text(uint16_t lacks, char text[LACKS_TEXT_BYTES])
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < SANDBOX_LAYERS; i++)
        if (lacks & CAPACITY_NO_LAYER(i))
            used += (size_t)snprintf(text + used, LACKS_TEXT_BYTES - used, "%s %s", used ? "," : "no",
                                     sandbox_layer_name((enum sandbox_layer)i));
    return text;
}

/* Of each class of devices that it has: "yes", or what users' kernels lack there. */
static json_t *users_kernels_json(const struct capacity_devices *devices)
{
    json_t *classes = json_object();
    for (uint32_t i = 0; i < devices->count; i++) {
        char layers[LACKS_TEXT_BYTES];
        const uint16_t lacks = devices->lacks[devices->row[i].class];
        layers_text(lacks, layers);
        json_put(classes, class_names[devices->row[i].class],
                 json_sprintf("%s%s%s%s", lacks == 0 ? "yes" : "",
                              lacks & CAPACITY_NO_COMPILER ? "no compiler" : "",
                              lacks & CAPACITY_NO_COMPILER && layers[0] ? ", " : "",
                              layers[0] ? "sandbox not whole" : ""));
    }
    return classes;
}

/* What its record says of strangers' kernels, and of blobs that its workers hold; null for a program that says nothing
 * of them. */
static void put_lacks(json_t *row, const struct capacity_devices *devices)
{
    const bool told = devices && devices->lacks_told;
    uint16_t lacks = 0;
    char text[LACKS_TEXT_BYTES];
    json_t *residents = told ? json_array() : json_null();
    for (uint32_t c = 0; told && c < MESH_DEVICE_CLASSES; c++)
        lacks |= devices->lacks[c];
    for (uint32_t i = 0; told && i < devices->resident_count; i++)
        json_array_append_new(residents, json_sprintf("%08x", devices->resident[i]));
    layers_text(lacks, text);
    json_put(row, "sandbox", told ? json_string(text[0] ? text : "whole") : json_null());
    json_put(row, "users_kernels", told ? users_kernels_json(devices) : json_null());
    json_put(row, "residents", residents);
}

/* What its capacity record says of its devices; null for a program that says nothing of them. */
static void put_devices(struct node *node, json_t *row, const struct mesh_member_view *view)
{
    struct capacity_devices own;
    const struct capacity_devices *devices = devices_of(node, view, &own);
    json_t *list = devices && devices->count > 0 ? json_array() : json_null();
    for (uint32_t i = 0; devices && i < devices->count; i++) {
        const struct capacity_device *device = &devices->row[i];
        json_t *kind = json_pack(
            "{s:s, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I}", "kind", class_names[device->class],
            "count", device->count, "spare", device->spare, "owned", device->owned, "cooling",
            device->cooling, "fault", device->fault, "memory_bytes", (json_int_t)device->memory_mib << 20,
            "mflops", (json_int_t)device->mflops, "memory_mbps", (json_int_t)device->memory_mbps, "link_mbps",
            (json_int_t)device->link_mbps, "measured_at", (json_int_t)device->measured_at_s * 1000);
        json_put(kind, "compute",
                 device->compute ? json_sprintf("%u.%u", device->compute / 10, device->compute % 10)
                                 : json_null());
        json_array_append_new(list, kind);
    }
    json_put(row, "devices", list);
    put_lacks(row, devices);
    json_put(row, "reclaim_p99_ms",
             devices && devices->reclaim_p99_ms ? json_integer(devices->reclaim_p99_ms) : json_null());
    if (view->self)
        json_put(row, "own_devices", devices_json(node));
}

/* "owner has 2 of 4 devices", as its record says; "" if all are lent. Static: one at a time. */
static const char *owner_note(struct node *node, const struct mesh_member_view *view)
{
    static char text[40];
    struct capacity_devices own;
    const struct capacity_devices *devices = devices_of(node, view, &own);
    unsigned owned = 0, count = 0;
    for (uint32_t i = 0; devices && i < devices->count; i++) {
        owned += devices->row[i].owned;
        count += devices->row[i].count;
    }
    if (owned == 0)
        return "";
    snprintf(text, sizeof text, "owner has %u of %u", owned, count);
    return text;
}

/* Static: one at a time. */
static const char *away_text(uint32_t away)
{
    static char text[32];
    snprintf(text, sizeof text, "jobs back: %u away", away);
    return text;
}

/* What an operator should know of this row, or do, in the 21 characters that 80 columns leave; a reason for a
 * revocation may be longer. Borrowed until the peer changes. */
static const char *note_of(struct node *node, const struct mesh_member_view *view, const struct peer *peer,
                           const struct transport_protocol *protocol, int64_t clock_ahead_s,
                           char clock[SKEW_TEXT_BYTES])
{
    uint32_t away;
    const int64_t left_s = peer ? peer->certificate_ends_s - clock_wall_ms() / 1000 : INT64_MAX;
    if (view->state == MESH_REVOKED)
        return peer && peer->revoked_why ? peer->revoked_why : "revoked";
    if (left_s < 0)
        return "join again: cert ended";
    if (peer && peer->says_revoked)
        return "says we are revoked";
    if (view->self && records_revoked_by(node) > 0)
        return "revoked, others say";
    if (protocol->max > 0 && protocol->agreed == 0)
        return protocol->max < WIRE_PROTOCOL_MIN ? "upgrade it: protocol" : "upgrade this node";
    if (clock_ahead_s != 0)
        return skew_text(clock_ahead_s, clock);
    if (view->quarantined)
        return wrong_text(node, &view->id, clock);
    switch (view->state) {
    case MESH_DOWN:
        return "start it, check ports";
    case MESH_SUSPECT:
        return "silent, no new work";
    case MESH_LEFT:
        return "left on purpose";
    default:
        break;
    }
    if (view->capacity.draining || (view->self && node->draining))
        return "takes no new work";
    switch (fault_of(node, view)) {
    case MESH_FAULT_DISK:
        return "disk full: make room";
    case MESH_FAULT_DEVICE:
        return "device failed: log";
    case MESH_FAULT_NONE:
        break;
    }
    if (view->self && resync_goes_on(node, &away))
        return away > 0 ? away_text(away) : "asking jobs back";
    const char *owner = owner_note(node, view);
    if (owner[0])
        return owner;
    if (left_s < (int64_t)3 * 86400)
        return "cert ends soon";
    if (view->neighbour && !view->self && !view->link_up)
        return "no link from here";
    return "";
}

static json_t *classes_json(const struct mesh_capacity *capacity)
{
    json_t *classes = json_object();
    for (int c = 0; c < MESH_DEVICE_CLASSES; c++)
        json_put(classes, class_names[c],
                 json_pack("{s:i, s:i, s:i}", "slots", capacity->class[c].slots, "free",
                           capacity->class[c].free, "waiting", capacity->class[c].waiting));
    return classes;
}

static json_t *age_json(int64_t at_ms)
{
    return at_ms > 0 ? json_integer(clock_now_ms() - at_ms) : json_null();
}

static json_t *member_json(struct node *node, const struct mesh_member_view *view)
{
    const struct peer *peer = peers_find(node, &view->id);
    struct mesh_capacity capacity = view->capacity;
    if (view->self) {
        struct mesh_executor_view own;
        mesh_executor_view(node->host.mesh, &own);
        memcpy(capacity.class, own.class, sizeof capacity.class);
    }
    int slots = 0, free_slots = 0, queue = 0;
    for (int c = 0; c < MESH_DEVICE_CLASSES; c++) {
        slots += capacity.class[c].slots;
        free_slots += capacity.class[c].free;
        queue += capacity.class[c].waiting;
    }
    const struct transport_protocol protocol = protocol_of(node, view);
    const int64_t clock_ahead_s = view->self ? skew_own(node) : peer ? skew_of(peer) : 0;
    char clock[SKEW_TEXT_BYTES];
    const char *link = view->self ? "self" : view->link_up ? "up" : view->neighbour ? "down" : "none";
    json_t *row = json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:s, s:i, s:i, s:i, s:o, s:i, s:i, s:s, s:s, s:I, s:i, s:s}",
        "name", peer_name(node, &view->id), "site", peer_site(node, &view->id), "region",
        peer && peer->region[0] ? peer->region : peer_site(node, &view->id), "state",
        state_words[view->state], "draining", capacity.draining || (view->self && node->draining), "self",
        view->self, "neighbour", view->neighbour, "link", link, "slots", slots, "free", free_slots, "queue",
        queue, "classes", classes_json(&capacity), "price_micro", (int)capacity.price_micro, "rtt_us",
        (int)view->rtt_us, "address", peer ? peer->control : "", "version", peer ? peer->software : "",
        "incarnation", (json_int_t)view->incarnation, "accusers", (int)view->accusers, "note",
        note_of(node, view, peer, &protocol, clock_ahead_s, clock));
    json_put(row, "quarantined", json_boolean(view->quarantined));
    json_put(row, "confirmed", json_integer(view->confirmed));
    json_put(row, "clock_ahead_s", json_integer(clock_ahead_s));
    json_put(row, "id", json_hex(view->id.bytes, 32));
    static const char *const faults[] = {
        [MESH_FAULT_NONE] = NULL, [MESH_FAULT_DEVICE] = "device", [MESH_FAULT_DISK] = "disk"};
    const char *fault = faults[fault_of(node, view)];
    json_put(row, "fault", fault ? json_string(fault) : json_null());
    json_put(row, "heard_ms", view->self ? json_integer(0) : age_json(view->heard_at_ms));
    json_put(row, "capacity_age_ms", view->self ? json_integer(0) : age_json(view->capacity_at_ms));
    json_put(row, "state_ms", age_json(view->state_at_ms));
    json_put(row, "delivered_permille", json_integer(view->delivered_permille));
    put_protocol(row, &protocol);
    put_devices(node, row, view);
    json_put(row, "certificate_ends_at", peer ? json_integer(peer->certificate_ends_s * 1000) : json_null());
    return row;
}

void op_nodes(void *context, struct api_call *call)
{
    struct node *node = context;
    json_t *rows = json_array();
    int states[6] = {0};
    json_int_t slots = 0, free_slots = 0, quarantined = 0;
    struct mesh_member_view view;
    for (uint32_t i = 0; records_barred_view(node, i, &view); i++) {
        json_array_append_new(rows, member_json(node, &view));
        states[view.state]++;
    }
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        json_t *row = member_json(node, &view);
        states[view.state]++;
        quarantined += view.quarantined;
        if (view.state == MESH_UP && !view.quarantined) { /* to one in quarantine this node gives nothing */
            slots += json_integer_value(json_object_get(row, "slots"));
            free_slots += json_integer_value(json_object_get(row, "free"));
        }
        json_array_append_new(rows, row);
    }
    json_t *summary = json_pack("{s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "up", states[MESH_UP], "suspect",
                                states[MESH_SUSPECT], "down", states[MESH_DOWN], "left", states[MESH_LEFT],
                                "revoked", states[MESH_REVOKED], "slots", slots, "free", free_slots);
    json_put(summary, "quarantined", json_integer(quarantined));
    api_reply(call, json_pack("{s:o, s:o, s:o}", "view", view_json(node), "nodes", rows, "summary", summary));
}

/* By the name or the beginning of the id of one that is in quarantine, member or not. */
void op_forgive(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *text = body_text(call, "node");
    const struct caught *found = NULL;
    uint32_t matches = 0;
    for (uint32_t i = 0; text && *text && i < node->caught_count; i++) {
        char hex[65];
        hex_encode(node->caught[i].id.bytes, 32, hex);
        if (strcmp(peer_name(node, &node->caught[i].id), text) != 0 && strncmp(hex, text, strlen(text)) != 0)
            continue;
        found = &node->caught[i];
        matches++;
    }
    if (matches != 1) {
        api_error(call, matches ? EXIT_USAGE : EXIT_NONE,
                  matches ? "'%s' names %u nodes in quarantine here; give more of the id"
                          : "no node '%s' is in quarantine here; `weir nodes` shows those that are",
                  text ? text : "", matches);
        return;
    }
    host_post(node, &(struct mesh_event){.kind = MESH_QUARANTINE, .body.quarantine = {.id = found->id}});
    json_t *reply =
        json_pack("{s:s, s:s}", "node", peer_name(node, &found->id), "at", peer_name(node, &node->self));
    json_put(reply, "id", json_hex(found->id.bytes, 32));
    api_reply(call, reply);
}

/* ---- gossip */

#define SET_COUNTER(name, ...) json_put(object, #name, json_integer((json_int_t)counters.name));

static json_t *core_json(struct node *node)
{
    const struct mesh_counters counters = *mesh_counters(node->host.mesh);
    json_t *object = json_object();
    MESH_COUNTERS(SET_COUNTER)
    return object;
}

static json_t *transport_json(struct node *node)
{
    struct transport_counters counters;
    transport_counters_read(node->transport, &counters);
    json_t *object = json_object();
    TRANSPORT_COUNTERS(SET_COUNTER)
    return object;
}

static json_t *bulk_json(struct node *node)
{
    struct bulk_counters counters;
    bulk_counters_read(node->bulk, &counters);
    json_t *object = json_object();
    BULK_COUNTERS(SET_COUNTER)
    return object;
}

static json_t *join_json(struct node *node)
{
    struct join_counters counters;
    join_server_counters(node->join, &counters);
    json_t *object = json_object();
    JOIN_COUNTERS(SET_COUNTER)
    return object;
}

static json_t *records_json(struct node *node)
{
    const struct record_refusals counters = node->record_refusals;
    json_t *object = json_object();
    RECORD_REFUSALS(SET_COUNTER)
    return object;
}

static json_t *admission_json(struct node *node)
{
    struct admission_counters counters;
    admission_counters(node->admission, &counters);
    struct zap_counters zap;
    zap_counters(node->zap, &zap);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "keys", (json_int_t)counters.keys,
        "penalties", (json_int_t)counters.penalties, "handshakes_admitted", (json_int_t)zap.admitted,
        "handshakes_unknown_key", (json_int_t)zap.refused[ADMISSION_UNKNOWN], "handshakes_expired",
        (json_int_t)zap.refused[ADMISSION_EXPIRED], "handshakes_revoked",
        (json_int_t)zap.refused[ADMISSION_REVOKED], "handshakes_penalty",
        (json_int_t)zap.refused[ADMISSION_PENALTY], "handshakes_malformed", (json_int_t)zap.malformed,
        "refused_unknown_key", (json_int_t)counters.verdict[ADMISSION_UNKNOWN], "refused_expired",
        (json_int_t)counters.verdict[ADMISSION_EXPIRED], "refused_revoked",
        (json_int_t)counters.verdict[ADMISSION_REVOKED], "refused_penalty",
        (json_int_t)counters.verdict[ADMISSION_PENALTY]);
}

static json_t *api_json(struct node *node)
{
    struct api_counters counters;
    api_count(node->api, &counters);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "connections", (json_int_t)counters.connections,
                     "calls", (json_int_t)counters.calls, "denied", (json_int_t)counters.denied, "malformed",
                     (json_int_t)counters.malformed, "slow", (json_int_t)counters.slow, "turned_away",
                     (json_int_t)counters.turned_away);
}

static json_t *store_json(struct node *node)
{
    struct store_stats stats;
    store_stats(node->store, &stats);
    return json_pack("{s:I, s:I, s:I, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "batches",
                     (json_int_t)stats.batches, "operations", (json_int_t)stats.operations, "commits",
                     (json_int_t)stats.groups, "group_largest", (int)stats.group_largest, "commit_p50_us",
                     (int)stats.commit_p50_us, "commit_p99_us", (int)stats.commit_p99_us, "rejected",
                     (json_int_t)stats.rejected, "state_used_bytes", (json_int_t)stats.state_used_bytes,
                     "blobs_used_bytes", (json_int_t)stats.blobs_used_bytes, "cache_hits",
                     (json_int_t)stats.cache_hits, "cache_misses", (json_int_t)stats.cache_misses,
                     "evictions", (json_int_t)stats.evictions, "corrupt", (json_int_t)stats.corrupt,
                     "missing", (json_int_t)stats.missing);
}

/* Who accuses that member of silence, and which of its observers do not. */
static json_t *suspicion_json(struct node *node, const struct mesh_member_view *view)
{
    struct mesh_opinion opinion[MESH_OPINIONS_MAX];
    const uint32_t count = mesh_opinions(node->host.mesh, &view->id, opinion);
    json_t *opinions = json_array();
    for (uint32_t i = 0; i < count; i++) {
        json_t *row = json_pack("{s:s, s:b, s:b, s:b}", "name", peer_name(node, &opinion[i].who), "self",
                                memcmp(&opinion[i].who, &node->self, sizeof node->self) == 0, "observer",
                                opinion[i].observer, "accuses", opinion[i].accuses);
        json_put(row, "id", json_hex(opinion[i].who.bytes, 32));
        json_put(row, "said_ms", age_json(opinion[i].said_at_ms));
        json_array_append_new(opinions, row);
    }
    json_t *row = json_pack("{s:s, s:i, s:s, s:o}", "name", peer_name(node, &view->id), "accusers",
                            (int)view->accusers, "state", state_words[view->state], "opinions", opinions);
    json_put(row, "id", json_hex(view->id.bytes, 32));
    return row;
}

static const char *link_word(const struct mesh_member_view *view, const struct transport_protocol *protocol)
{
    if (protocol->max > 0 && protocol->agreed == 0)
        return "refused";
    return view->link_up ? "up" : view->link_silent ? "silent" : "down";
}

static void put_round_trips(struct node *node, json_t *row, const struct mesh_id *id)
{
    const struct peer *peer = peers_find(node, id);
    const struct samples *samples = peer ? peer->round_trips : NULL;
    json_put(row, "rtt_samples", json_integer(samples ? samples->count : 0));
    json_put(row, "rtt_p50_us", samples ? json_integer(samples_quantile(samples, 500)) : json_null());
    json_put(row, "rtt_p99_us", samples ? json_integer(samples_quantile(samples, 990)) : json_null());
}

static void put_trees(struct node *node, json_t *row, const struct mesh_id *id)
{
    struct mesh_link_view link;
    if (!mesh_link_view(node->host.mesh, id, &link))
        link = (struct mesh_link_view){0};
    json_put(row, "trees_from", json_integer(link.trees_from));
    json_put(row, "trees_to", json_integer(link.trees_to));
    json_put(row, "lazy", json_integer(link.lazy));
}

/* How long this node's own news took to the members that were asked in turn. */
static json_t *convergence_json(const struct node *node)
{
    const struct samples *samples = &node->convergence;
    const struct mesh_counters *counters = mesh_counters(node->host.mesh);
    json_t *object =
        json_pack("{s:i, s:I}", "samples", (int)samples->count, "lost", (json_int_t)counters->echoes_lost);
    const bool any = samples->count > 0;
    json_put(object, "p50_ms", any ? json_integer(samples_quantile(samples, 500)) : json_null());
    json_put(object, "p99_ms", any ? json_integer(samples_quantile(samples, 990)) : json_null());
    return object;
}

static json_t *neighbour_json(struct node *node, const struct mesh_member_view *view)
{
    const struct transport_protocol protocol = protocol_of(node, view);
    json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i}", "name", peer_name(node, &view->id), "site",
                            peer_site(node, &view->id), "state", state_words[view->state], "link",
                            link_word(view, &protocol), "rtt_us", (int)view->rtt_us, "accuses",
                            (int)view->accuses, "accused_by", (int)view->accusers);
    json_put(row, "id", json_hex(view->id.bytes, 32));
    json_put(row, "heard_ms", age_json(view->heard_at_ms));
    json_put(row, "record_age_ms", age_json(view->capacity_at_ms));
    put_round_trips(node, row, &view->id);
    put_protocol(row, &protocol);
    put_trees(node, row, &view->id);
    return row;
}

void op_gossip(void *context, struct api_call *call)
{
    struct node *node = context;
    json_t *neighbours = json_array();
    json_t *suspicions = json_array();
    json_int_t members = 0;
    int states[6] = {0};
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        members++;
        states[view.state]++;
        if (view.accusers > 0)
            json_array_append_new(suspicions, suspicion_json(node, &view));
        if (view.neighbour && !view.self)
            json_array_append_new(neighbours, neighbour_json(node, &view));
    }
    json_t *summary = json_object();
    for (int s = MESH_UP; s <= MESH_REVOKED; s++)
        json_put(summary, state_words[s], json_integer(states[s]));
    json_t *reply = json_pack("{s:o, s:I, s:o, s:b, s:o, s:o}", "view", view_json(node), "members", members,
                              "summary", summary, "doubts_itself", mesh_doubts_itself(node->host.mesh),
                              "neighbours", neighbours, "suspicions", suspicions);
    json_put(reply, "convergence", convergence_json(node));
    json_put(reply, "core", core_json(node));
    json_put(reply, "transport", transport_json(node));
    json_put(reply, "admission", admission_json(node));
    json_put(reply, "records", records_json(node));
    json_put(reply, "join", join_json(node));
    json_put(reply, "bulk", bulk_json(node));
    json_put(reply, "store", store_json(node));
    json_put(reply, "api", api_json(node));
    api_reply(call, reply);
}

/* ---- ping */

struct ping_wait {
    struct ping_wait *next;
    struct api_call *call;
    struct mesh_id to;
    uint32_t count;
    uint32_t sent;
    uint32_t received;
    uint64_t stamp_us; /* of the ping under way; 0 = none */
    int64_t next_at_ms;
    int64_t lost_at_ms;
    int64_t min_us, max_us, sum_us;
};

static void ping_unlink(struct node *node, struct ping_wait *ping)
{
    struct ping_wait **link = &node->pings;
    while (*link != ping)
        link = &(*link)->next;
    *link = ping->next;
}

static void ping_end(struct node *node, struct ping_wait *ping)
{
    ping_unlink(node, ping);
    api_reply(ping->call, json_pack("{s:i, s:i, s:I, s:I, s:I}", "sent", (int)ping->sent, "received",
                                    (int)ping->received, "min_us", (json_int_t)ping->min_us, "avg_us",
                                    (json_int_t)(ping->received ? ping->sum_us / ping->received : 0),
                                    "max_us", (json_int_t)ping->max_us));
    free(ping);
}

static void ping_gone(void *context, struct api_call *call)
{
    struct node *node = context;
    for (struct ping_wait *ping = node->pings; ping; ping = ping->next)
        if (ping->call == call) {
            ping_unlink(node, ping);
            free(ping);
            return;
        }
}

void op_ping(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id to;
    if (!find_node(node, call, body_text(call, "node"), &to))
        return;
    const int64_t count = body_integer(call, "count", 4);
    if (count < 1 || count > PINGS_MAX) {
        api_error(call, EXIT_USAGE, "'count' is 1 to %d", PINGS_MAX);
        return;
    }
    if (memcmp(&to, &node->self, sizeof to) == 0) {
        api_error(call, EXIT_USAGE, "that is this node itself; name another");
        return;
    }
    struct ping_wait *ping = calloc(1, sizeof *ping);
    if (!ping)
        abort();
    *ping = (struct ping_wait){
        .next = node->pings, .call = call, .to = to, .count = (uint32_t)count, .min_us = INT64_MAX};
    node->pings = ping;
    api_on_gone(call, ping_gone, node);
    loop_wake(node->loop);
}

static void ping_send(struct node *node, struct ping_wait *ping, int64_t now_ms)
{
    static struct wire_frame frame;
    struct mesh_message message = {.kind = MESH_PING};
    ping->stamp_us = (uint64_t)clock_now_us();
    message.body.ping.stamp_us = ping->stamp_us;
    wire_message(&frame, &message, (struct wire_bytes){0});
    transport_send(node->transport, &ping->to, &frame);
    ping->sent++;
    ping->next_at_ms = now_ms + PING_EVERY_MS;
    ping->lost_at_ms = now_ms + PING_LOST_MS;
}

bool pings_on_pong(struct node *node, const struct mesh_id *from, uint64_t stamp_us)
{
    for (struct ping_wait *ping = node->pings; ping; ping = ping->next) {
        if (!ping->stamp_us || ping->stamp_us != stamp_us || memcmp(&ping->to, from, sizeof *from) != 0)
            continue;
        const int64_t rtt_us = clock_now_us() - (int64_t)stamp_us;
        ping->received++;
        ping->sum_us += rtt_us;
        ping->min_us = rtt_us < ping->min_us ? rtt_us : ping->min_us;
        ping->max_us = rtt_us > ping->max_us ? rtt_us : ping->max_us;
        ping->stamp_us = 0;
        api_more(ping->call, json_pack("{s:i, s:I}", "seq", (int)ping->sent, "rtt_us", (json_int_t)rtt_us));
        return true;
    }
    return false;
}

int64_t pings_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct ping_wait *ping = node->pings; ping;) {
        struct ping_wait *next = ping->next;
        if (ping->stamp_us && now_ms >= ping->lost_at_ms) {
            ping->stamp_us = 0;
            api_more(ping->call, json_pack("{s:i, s:b}", "seq", (int)ping->sent, "lost", true));
        }
        if (!ping->stamp_us && ping->sent == ping->count) {
            if (ping->received == 0)
                ping->min_us = 0;
            ping_end(node, ping);
        } else {
            if (!ping->stamp_us && now_ms >= ping->next_at_ms)
                ping_send(node, ping, now_ms);
            const int64_t at_ms = ping->stamp_us ? ping->lost_at_ms : ping->next_at_ms;
            wake_at_ms = at_ms < wake_at_ms ? at_ms : wake_at_ms;
        }
        ping = next;
    }
    return wake_at_ms;
}
