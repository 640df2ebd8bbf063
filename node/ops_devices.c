/* The local API: this node's devices, and who has them. */
#include "node/log.h"
#include "node/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECLAIM_LATEST_MS 30000 /* by then a killed worker has given everything back, or its driver hangs */

/* A call of `weir reclaim`: answered when its devices are their owner's and the claim is on disk. */
struct reclaim_wait {
    struct reclaim_wait *next;
    struct api_call *call; /* NULL: answered, or the client went away */
    char device[24];       /* as the caller named it; "" = all */
    int64_t latest_ms;
    bool committed;
    bool kept;
};

/* ---- Devices */

/* "" and the class's name stand for several. */
static bool is_meant(const struct device *device, const char *name)
{
    const size_t count = strlen(name);
    return count == 0 || strcmp(device->name, name) == 0 ||
           (strncmp(device->name, name, count) == 0 && device->name[count] == ':' && !strchr(name, ':'));
}

static bool find_devices(struct node *node, struct api_call *call, const char *name)
{
    char all[200] = "";
    for (uint32_t i = 0; i < node->devices.count; i++) {
        if (is_meant(&node->devices.device[i], name))
            return true;
        const size_t used = strlen(all);
        if (used + 32 < sizeof all)
            snprintf(all + used, sizeof all - used, "%s%s", used ? ", " : "", node->devices.device[i].name);
    }
    if (node->devices.count == 0)
        api_error(call, EXIT_NONE, "this node lends no device");
    else
        api_error(call, EXIT_NONE, "no device '%.40s' here; there are %s", name, all);
    return false;
}

static json_t *claims_json(const struct claims *claims)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < claims->count; i++) {
        json_t *row = json_pack("{s:s}", "by", claims->claim[i].by);
        const int64_t until_ms = claims->claim[i].until_ms;
        json_put(row, "until", until_ms < INT64_MAX ? json_integer(until_ms) : json_null());
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *device_json(struct node *node, uint32_t index)
{
    const struct device *device = &node->devices.device[index];
    const struct owner *owner = &device->owner;
    const int64_t now_ms = clock_now_ms();
    struct workers_view view = {0};
    workers_view(node->workers, index, &view);
    json_t *row = json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:i}", "device", device->name, "name", view.name,
                            "state", owner_state_word(owner->state), "since_ms",
                            (json_int_t)(now_ms - owner->since_ms), "in_hand", (int)view.in_hand, "reclaims",
                            (int)device->reclaims, "reclaim_ms", (int)owner->reclaim_ms);
    const char *reason = view.reason ? view.reason : device->vanished[0] ? device->vanished : NULL;
    json_put(row, "reason", reason ? json_string(reason) : json_null());
    json_put(row, "held", json_boolean(device->held));
    json_put(row, "memory_bytes",
             device->memory_bytes ? json_integer((json_int_t)device->memory_bytes) : json_null());
    const bool claimed = owner->state == OWNER_RECLAIM || owner->state == OWNER_OWNED;
    json_put(row, "cause", claimed ? json_string(owner_cause_word(owner->cause)) : json_null());
    const struct claim *const last = claims_last(&device->claims, clock_wall_ms());
    const char *const who = claimed && owner->cause == OWNER_COMMAND && last ? last->by : device->witness.who;
    json_put(row, "who", who[0] ? json_string(who) : json_null());
    json_put(row, "until", last && last->until_ms < INT64_MAX ? json_integer(last->until_ms) : json_null());
    json_put(row, "claims", claims_json(&device->claims));
    json_put(row, "lent_in_ms",
             owner->state == OWNER_COOLING ? json_integer(owner->cool_until_ms - now_ms) : json_null());
    return row;
}

json_t *devices_json(struct node *node)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < node->devices.count; i++)
        json_array_append_new(rows, device_json(node, i));
    return rows;
}

static json_t *meant_json(struct node *node, const char *name)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < node->devices.count; i++)
        if (is_meant(&node->devices.device[i], name))
            json_array_append_new(rows, device_json(node, i));
    return rows;
}

void op_devices(void *context, struct api_call *call)
{
    struct node *node = context;
    json_t *reply = json_pack("{s:o, s:I}", "devices", devices_json(node), "reclaims",
                              (json_int_t)node->devices.reclaims);
    const struct samples *samples = &node->devices.reclaim_ms;
    json_put(reply, "reclaim_p99_ms",
             samples->count ? json_integer(samples_quantile(samples, 990)) : json_null());
    if (node->devices.watch) {
        struct watch_view view;
        watch_view(node->devices.watch, &view);
        json_put(reply, "watch",
                 json_pack("{s:b, s:b, s:s, s:s}", "running", view.running, "opens", view.opens, "driver",
                           view.driver, "why", view.why));
    }
    api_reply(call, reply);
}

/* Whose claim is meant: "" is the operator's. NULL: it was answered. */
static const char *claimant_of(struct api_call *call)
{
    const char *by = body_text(call, "by");
    if (!by || claims_name_is_good(by))
        return by ? by : "";
    api_error(call, EXIT_USAGE, "'by' is a name of up to %d letters, digits, '-', '_' and '.'",
              CLAIM_BY_BYTES_MAX);
    return NULL;
}

static bool claims_fit(struct node *node, struct api_call *call, const char *name, const char *by)
{
    for (uint32_t i = 0; i < node->devices.count; i++) {
        const struct device *device = &node->devices.device[i];
        if (!is_meant(device, name) || claims_have_room(&device->claims, by))
            continue;
        api_error(call, EXIT_FAILED, "%s has %d claims already; release those that are over", device->name,
                  CLAIMS_MAX);
        return false;
    }
    return true;
}

/* ---- reclaim */

static void wait_free(struct node *node, struct reclaim_wait *wait)
{
    struct reclaim_wait **link = &node->devices.waits;
    while (*link != wait)
        link = &(*link)->next;
    *link = wait->next;
    free(wait);
}

static void on_gone(void *wait, struct api_call *call)
{
    (void)call;
    ((struct reclaim_wait *)wait)->call = NULL; /* the claim stands */
}

static void on_saved(struct node *node, void *context, enum store_error error)
{
    struct reclaim_wait *wait = context;
    wait->committed = true;
    wait->kept = error == STORE_OK;
    loop_wake(node->loop);
}

void op_reclaim(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *name = body_text(call, "device");
    const char *by = claimant_of(call);
    const int64_t for_s = body_integer(call, "for_s", 0);
    if (!by)
        return;
    if (!name)
        name = "";
    if (for_s < 0 || for_s > INT64_C(100) * 366 * 86400) {
        api_error(call, EXIT_USAGE, "'for_s' is a number of seconds, up to 100 years");
        return;
    }
    if (!find_devices(node, call, name) || !claims_fit(node, call, name, by))
        return;
    struct reclaim_wait *wait = calloc(1, sizeof *wait);
    if (!wait)
        abort();
    *wait = (struct reclaim_wait){
        .next = node->devices.waits, .call = call, .latest_ms = clock_now_ms() + RECLAIM_LATEST_MS};
    snprintf(wait->device, sizeof wait->device, "%s", name);
    node->devices.waits = wait;
    api_on_gone(call, on_gone, wait);
    struct store_batch *batch = node_batch(node);
    const int64_t until_ms = for_s ? clock_wall_ms() + for_s * 1000 : INT64_MAX;
    for (uint32_t i = 0; i < node->devices.count; i++)
        if (is_meant(&node->devices.device[i], name))
            devices_claim(node, i, by, until_ms, batch);
    devices_turn(node, clock_now_ms()); /* the owner first: not even the rest of this turn goes before */
    node_commit(node, batch, on_saved, wait);
}

static bool is_free(const struct node *node, const struct reclaim_wait *wait, const char **busy)
{
    for (uint32_t i = 0; i < node->devices.count; i++) {
        const struct device *device = &node->devices.device[i];
        if (!is_meant(device, wait->device) || device->owner.state != OWNER_RECLAIM)
            continue;
        *busy = device->name;
        return false;
    }
    return true;
}

static void answer(struct node *node, struct reclaim_wait *wait, const char *busy)
{
    if (busy)
        api_error(
            wait->call, EXIT_PARTIAL,
            "%s is not free after %d s: its worker does not end; look for it with ps and at the driver's log",
            busy, RECLAIM_LATEST_MS / 1000);
    else
        api_reply(wait->call,
                  json_pack("{s:o, s:b}", "devices", meant_json(node, wait->device), "kept", wait->kept));
    wait->call = NULL;
}

int64_t reclaims_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct reclaim_wait *wait = node->devices.waits, *next; wait; wait = next) {
        next = wait->next;
        const char *busy = NULL;
        const bool over = is_free(node, wait, &busy) || now_ms >= wait->latest_ms;
        if (wait->call && wait->committed && over)
            answer(node, wait, busy);
        if (!wait->call && wait->committed)
            wait_free(node, wait);
        else if (wait->latest_ms < wake_at_ms)
            wake_at_ms = wait->latest_ms;
    }
    return wake_at_ms;
}

/* ---- release */

void op_release(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *name = body_text(call, "device");
    const char *by = claimant_of(call);
    const bool now = json_is_true(json_object_get(api_body(call), "now"));
    if (!by)
        return;
    if (!name)
        name = "";
    if (!find_devices(node, call, name))
        return;
    struct store_batch *batch = node_batch(node);
    for (uint32_t i = 0; i < node->devices.count; i++)
        if (is_meant(&node->devices.device[i], name))
            devices_release(node, i, by, batch);
    devices_turn(node, clock_now_ms());
    for (uint32_t i = 0; now && i < node->devices.count; i++)
        if (is_meant(&node->devices.device[i], name))
            owner_skip_cooling(&node->devices.device[i].owner, clock_now_ms());
    devices_turn(node, clock_now_ms());
    reply_when_durable(node, call, batch, json_pack("{s:o}", "devices", meant_json(node, name)));
}
