/*
 * This node's devices, and their owner, who comes first (owner.h has the states).
 *
 * On a claim, in this order and within one turn of the loop: the worker's stop word is set and nothing new starts
 * there; the core hears which attempts lose their device and that a slot is gone, and tells the others. What runs has
 * the grace of the settings, then its worker is killed. When no process of ours is left and the memory was seen free,
 * the time that took is kept: the p99 of it is published.
 *
 * What `weir reclaim` asked for is kept in the store, with its end: a node that was restarted doesn't lend what its owner
 * has.
 */
#include "node/compile.h"
#include "node/little_endian.h"
#include "node/log.h"
#include "node/node.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CLAIM_KEY "claim "
#define CLAIM_KEY_BYTES 96
#define MINUTE_MS 60000
#define LOCK_EVERY_MS 10000
#define DAY_MS (24 * 60 * INT64_C(60000))
#define FIRST_MEASURE_MS 2000 /* a start is busy enough */
#define AGAIN_MS 600000       /* what a measurement changed, or would, may come from a busy moment */
#define FIRST_LOOK_MS 10000   /* a driver may take seconds to start */
#define UNSEEN_MS                                                                                            \
    4000 /* a watched GPU that was not seen for so long may be its owner's: nothing new starts there */

/* ---- What was asked for, kept */

/* "claim cpu:0" is the operator's, "claim cpu:0 slurm-17" that of a named one. */
static size_t claim_key(const struct device *device, const char *by, char key[CLAIM_KEY_BYTES])
{
    return (size_t)snprintf(key, CLAIM_KEY_BYTES, CLAIM_KEY "%s%s%s", device->name, by[0] ? " " : "", by);
}

void devices_claim(struct node *node, uint32_t index, const char *by, int64_t until_ms,
                   struct store_batch *batch)
{
    struct device *device = &node->devices.device[index];
    char key[CLAIM_KEY_BYTES];
    uint8_t until[8];
    claims_set(&device->claims, by, until_ms);
    le64_put(until, (uint64_t)until_ms);
    store_batch_put(batch, STORE_META, key, claim_key(device, by, key), until, sizeof until);
}

void devices_release(struct node *node, uint32_t index, const char *by, struct store_batch *batch)
{
    struct device *device = &node->devices.device[index];
    char key[CLAIM_KEY_BYTES];
    store_batch_delete(batch, STORE_META, key, claim_key(device, by, key)); /* `by` may be the claim's own */
    claims_end(&device->claims, by);
}

static bool restore_claim(void *context, const void *key, size_t key_bytes, const void *value,
                          size_t value_bytes)
{
    struct device *device = context;
    char text[CLAIM_KEY_BYTES] = "";
    if (key_bytes >= sizeof text || value_bytes != 8)
        return true;
    memcpy(text, key, key_bytes);
    const char *const behind = text + strlen(CLAIM_KEY) + strlen(device->name);
    const char *const by = *behind == ' ' ? behind + 1 : "";
    /* "claim cpu:1" begins as one of cpu:10 does. */
    if ((*behind == ' ' || *behind == '\0') && claims_name_is_good(by) &&
        claims_have_room(&device->claims, by))
        claims_set(&device->claims, by, (int64_t)le64_get(value));
    return true;
}

static void restore(struct node *node, struct device *device)
{
    char key[CLAIM_KEY_BYTES];
    const struct store_range range = {.prefix = key, .prefix_bytes = claim_key(device, "", key)};
    store_each(node->store, STORE_META, &range, restore_claim, device);
}

/* ---- One node of a machine lends a GPU */

static bool is_gpu(const struct device *device)
{
    return strncmp(device->name, "cuda:", 5) == 0;
}

/* What the GPU is called beyond this process: cuda:N is the Nth entry of CUDA_VISIBLE_DEVICES, where that is set. Two
 * nodes that name one GPU differently, by its number and by its id, are not told apart from two GPUs. */
static void gpu_identity(const struct device *device, char *text, size_t text_bytes)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    unsigned long number = strtoul(device->name + strlen("cuda:"), NULL, 10);
    snprintf(text, text_bytes, "%lu", number);
    for (; visible && *visible; number--) {
        const size_t count = strcspn(visible, ",");
        if (number == 0) {
            snprintf(text, text_bytes, "%.*s", (int)count, visible);
            return;
        }
        visible += count + (visible[count] == ',');
    }
}

/* A name in the abstract namespace of Unix sockets: nobody has to clean up behind a node that was killed. */
static void try_lock(struct device *device, int64_t now_ms)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char identity[64];
    if (!is_gpu(device) || device->lock >= 0 || now_ms < device->lock_at_ms)
        return;
    const bool first = device->lock_at_ms == 0;
    device->lock_at_ms = now_ms + LOCK_EVERY_MS;
    gpu_identity(device, identity, sizeof identity);
    const int count =
        snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "weir lends GPU %s", identity);
    const socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)count);
    const int lock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (lock >= 0 && bind(lock, (const struct sockaddr *)&address, bytes) == 0) {
        device->lock = lock;
        return;
    }
    if (lock >= 0)
        close(lock);
    if (first)
        log_error(
            "device",
            "device=%s state=owned reason=\"another node of this machine lends it: give each its own with "
            "work.cuda_devices, or CUDA_VISIBLE_DEVICES\"",
            device->name);
}

/* ---- Looking */

/* The N of "cpu:N": of those that others leave, the first are lent. */
static uint32_t core_of(const struct device *device)
{
    return (uint32_t)strtoul(device->name + strlen("cpu:"), NULL, 10);
}

/* A node that was told how many cores to lend takes that as the owner's word. */
static int64_t look_at_cores(struct node *node, int64_t now_ms)
{
    struct devices *devices = &node->devices;
    if (node->config.cpu_slots >= 0 || devices->count == 0)
        return INT64_MAX;
    if (now_ms < devices->cores_at_ms)
        return devices->cores_at_ms;
    struct cores_look look = {.at_ms = now_ms};
    uint32_t online;
    if (cores_read(&look, &online)) {
        const uint32_t left = cores_see(&devices->cores, &look, (uint32_t)sysconf(_SC_CLK_TCK), online);
        if (left != devices->cores_left && devices->cores_left != UINT32_MAX)
            log_info("cores", "others_use=%u.%02u left=%u", devices->cores.others_permille / 1000,
                     devices->cores.others_permille % 1000 / 10, left);
        devices->cores_left = left;
    }
    devices->cores_at_ms = now_ms + CORES_LOOK_MS;
    return devices->cores_at_ms;
}

static enum owner_cause claim_of(const struct node *node, const struct device *device, int64_t wall_ms)
{
    if (claims_last(&device->claims, wall_ms))
        return OWNER_COMMAND;
    if (node->config.owner_hours.count > 0 &&
        schedule_active(&node->config.owner_hours, schedule_week_minute(wall_ms)))
        return OWNER_SCHEDULE;
    if (is_gpu(device) && device->lock < 0)
        return OWNER_ELSEWHERE;
    if (!is_gpu(device) && core_of(device) >= node->devices.cores_left)
        return OWNER_LOAD;
    return device->witness.cause;
}

/* Not only the process must be gone: a driver may take its time with the memory, and the watcher must have seen it since. */
static bool memory_is_free(const struct device *device, int64_t now_ms)
{
    if (device->gone_at_ms == 0)
        return false;
    const int64_t until_ms = device->owner.state == OWNER_RECLAIM ? device->owner.claimed_at_ms : now_ms;
    if (until_ms - device->gone_at_ms >= SIGHTING_REST_MS)
        return true; /* nothing of ours was there when it was claimed: what is used is its owner's */
    return device->seen_at_ms == 0 ||
           (device->seen_at_ms > device->gone_at_ms && device->witness.memory_free);
}

/* A GPU that is to be watched, and is not: it may be its owner's by now, so nothing new starts there. */
static bool is_unseen(const struct node *node, const struct device *device, int64_t now_ms)
{
    if (!node->devices.watch || !is_gpu(device))
        return false;
    if (device->seen_at_ms)
        return now_ms - device->seen_at_ms >= UNSEEN_MS;
    struct watch_view view;
    watch_view(node->devices.watch, &view);
    return !view.why[0] && now_ms - node->started_at_ms < FIRST_LOOK_MS;
}

static struct owner_facts look(const struct node *node, const struct device *device,
                               const struct workers_view *view, int64_t wall_ms)
{
    return (struct owner_facts){.claim = claim_of(node, device, wall_ms),
                                .working = view->in_hand > 0,
                                .gone = view->pid == 0,
                                .memory_free = memory_is_free(device, clock_now_ms()),
                                .fault = view->fault || device->vanished[0]};
}

static void on_forgotten(struct node *node, void *context, enum store_error error)
{
    (void)node;
    (void)context;
    (void)error; /* its end is past: it claims nothing after a restart either */
}

/* `weir reclaim --for` is over. */
static void end_claims(struct node *node, uint32_t index, int64_t wall_ms)
{
    const struct claims *const claims = &node->devices.device[index].claims;
    if (!claims_over(claims, wall_ms))
        return;
    struct store_batch *batch = node_batch(node);
    for (const struct claim *over; (over = claims_over(claims, wall_ms));)
        devices_release(node, index, over->by, batch);
    node_commit(node, batch, on_forgotten, NULL);
}

/* ---- Acting */

static void why_text(const struct device *device, char *text, size_t text_bytes)
{
    if (device->owner.state == OWNER_FAULT) {
        snprintf(text, text_bytes, "%s is at fault there", device->name);
        return;
    }
    snprintf(text, text_bytes, "its owner claimed %s (%s)", device->name,
             owner_cause_word(device->owner.cause));
}

static bool is_claimed(const struct device *device)
{
    return device->owner.state == OWNER_RECLAIM || device->owner.state == OWNER_OWNED;
}

void devices_why(const struct node *node, uint32_t class, char *text, size_t text_bytes)
{
    struct workers_view view;
    text[0] = '\0';
    for (uint32_t i = 0; i < node->devices.count && workers_view(node->workers, i, &view); i++) {
        const struct device *device = &node->devices.device[i];
        if (view.class == class && is_claimed(device))
            why_text(device, text, text_bytes);
    }
}

/* What the capacity record says beside the slots; it is announced anew when this changes. */
static uint64_t details_of(const struct node *node)
{
    uint64_t details = 1;
    for (uint32_t i = 0; i < node->devices.count; i++)
        details = (details * 31 + node->devices.device[i].owner.state) * 31 +
                  node->devices.device[i].scores.advertised.mflops;
    return details * 31 + samples_quantile(&node->devices.reclaim_ms, 990);
}

/* When the owner's hours begin: what can't end before is better placed elsewhere. 0 = never, or they are now. */
static int64_t available_until_ms(const struct node *node)
{
    if (node->config.owner_hours.count == 0)
        return 0;
    const int64_t wall_ms = clock_wall_ms();
    const uint32_t minute = schedule_week_minute(wall_ms);
    const uint32_t left = schedule_minutes_left(&node->config.owner_hours, minute);
    if (left == 0 || schedule_active(&node->config.owner_hours, minute))
        return 0;
    return (wall_ms / MINUTE_MS + left) * MINUTE_MS;
}

static void tell(struct node *node, const uint32_t *stopped, uint32_t count)
{
    struct mesh_event event = {.kind = MESH_DEVICES,
                               .body.devices = {.price_micro = node->config.price_micro,
                                                .fault = (uint8_t)execute_fault(node),
                                                .available_until_ms = available_until_ms(node),
                                                .details = details_of(node),
                                                .stop_count = count}};
    assert(count <= MESH_DEVICE_STOPS_MAX);
    memcpy(event.body.devices.stop, stopped, count * sizeof *stopped);
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES && !node->disk.error; class ++)
        event.body.devices.class[class].slots = workers_slots(node->workers, class);
    host_post(node, &event);
}

void devices_tell(void *node)
{
    tell(node, &(uint32_t){0}, 0);
}

/* The bundles there are named before the stop word is set: those that it ends are named for certain. */
static void stop(struct node *node, uint32_t index)
{
    struct device *device = &node->devices.device[index];
    uint64_t bundle[WORKER_BUNDLES_MAX];
    uint32_t attempt[WORKER_BUNDLES_MAX];
    char why[64];
    why_text(device, why, sizeof why);
    const uint32_t bundles = workers_bundles(node->workers, index, bundle);
    workers_claim(node->workers, index, node->config.owner_grace_ms);
    const uint32_t count = execute_claimed(node, bundle, bundles, why, attempt);
    tell(node, attempt, count);
}

static void note_reclaim(struct node *node, struct device *device)
{
    samples_add(&node->devices.reclaim_ms, device->owner.reclaim_ms);
    node->devices.reclaims++;
    device->reclaims++;
}

static void log_state(const struct device *device)
{
    const struct owner *owner = &device->owner;
    switch (owner->state) {
    case OWNER_RECLAIM:
        log_info("device", "device=%s state=reclaim cause=\"%s\"", device->name,
                 owner_cause_word(owner->cause));
        break;
    case OWNER_OWNED:
        log_info("device", "device=%s state=owned cause=\"%s\" reclaim_ms=%u", device->name,
                 owner_cause_word(owner->cause), owner->reclaim_ms);
        break;
    case OWNER_COOLING:
        log_info("device", "device=%s state=cooling for_s=%lld", device->name,
                 (long long)((owner->cool_until_ms - owner->since_ms) / 1000));
        break;
    default:
        log_debug("device", "device=%s state=%s", device->name, owner_state_word(owner->state));
        break;
    }
}

static void step(struct node *node, uint32_t index, int64_t now_ms)
{
    struct device *device = &node->devices.device[index];
    const int64_t wall_ms = clock_wall_ms();
    struct workers_view view;
    if (!workers_view(node->workers, index, &view))
        return;
    end_claims(node, index, wall_ms);
    if (view.pid != 0) {
        device->gone_at_ms = 0;
    } else if (device->gone_at_ms == 0) {
        device->gone_at_ms = now_ms;
        if (node->devices.watch && device->owner.state == OWNER_RECLAIM)
            watch_hurry(node->devices.watch);
    }
    try_lock(device, now_ms);
    const struct owner_facts facts = look(node, device, &view, wall_ms);
    const bool was_lendable = device->owner.state == OWNER_SPARE || device->owner.state == OWNER_LENT;
    const uint32_t acts = owner_step(&device->owner, &facts, now_ms);
    if (acts & OWNER_STOP)
        stop(node, index);
    if ((acts & OWNER_RECLAIMED) && !(acts & OWNER_STOP)) /* else nothing of ours was there */
        note_reclaim(node, device);
    if (acts & OWNER_LEND)
        workers_lend(node->workers, index);
    const bool held = is_unseen(node, device, now_ms) || !owner_lends(&device->owner, now_ms);
    if (held != device->held)
        workers_hold_back(node->workers, index, held);
    device->held = held;
    const bool lendable = device->owner.state == OWNER_SPARE || device->owner.state == OWNER_LENT;
    if (!(acts & OWNER_CHANGED) || (was_lendable && lendable))
        return;
    log_state(device);
    if (!(acts & OWNER_STOP) || device->owner.state != OWNER_RECLAIM)
        devices_tell(node);
}

static bool is_measured(const struct device *device);

/* One at a time, and only where no work is disturbed. */
static int64_t measure(struct node *node, int64_t now_ms)
{
    struct devices *devices = &node->devices;
    int64_t wake_at_ms = canary_turn(devices->canary, now_ms);
    for (uint32_t i = 0; i < devices->count && !canary_busy(devices->canary); i++) {
        struct device *device = &devices->device[i];
        if (!is_measured(device))
            continue;
        if (now_ms < device->measure_at_ms) {
            wake_at_ms = device->measure_at_ms < wake_at_ms ? device->measure_at_ms : wake_at_ms;
        } else if (device->owner.state == OWNER_SPARE && !device->held) {
            device->measure_at_ms = now_ms + DAY_MS;
            canary_start(devices->canary, device->name, i);
        }
    }
    return canary_busy(devices->canary) ? canary_turn(devices->canary, now_ms) : wake_at_ms;
}

int64_t devices_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = look_at_cores(node, now_ms);
    const int64_t wall_ms = clock_wall_ms();
    for (uint32_t i = 0; i < node->devices.count; i++) {
        const struct device *device = &node->devices.device[i];
        step(node, i, now_ms);
        int64_t at_ms = owner_wake_ms(&device->owner, now_ms);
        const int64_t end_ms = claims_next_end_ms(&device->claims);
        if (end_ms < INT64_MAX) {
            const int64_t ends_ms = now_ms + end_ms - wall_ms;
            at_ms = ends_ms < at_ms ? ends_ms : at_ms;
        }
        wake_at_ms = at_ms < wake_at_ms ? at_ms : wake_at_ms;
    }
    if (node->config.owner_hours.count > 0 && node->devices.count > 0) {
        const int64_t minute_ms = now_ms + MINUTE_MS - wall_ms % MINUTE_MS;
        wake_at_ms = minute_ms < wake_at_ms ? minute_ms : wake_at_ms;
    }
    if (node->devices.watch) {
        const int64_t watch_ms = watch_turn(node->devices.watch, now_ms);
        wake_at_ms = watch_ms < wake_at_ms ? watch_ms : wake_at_ms;
    }
    const int64_t measure_ms = measure(node, now_ms);
    wake_at_ms = measure_ms < wake_at_ms ? measure_ms : wake_at_ms;
    const int64_t waits_ms = reclaims_turn(node, now_ms);
    return waits_ms < wake_at_ms ? waits_ms : wake_at_ms;
}

/* ---- What the canary measured */

/* Of the cores one stands for all. */
static bool is_measured(const struct device *device)
{
    return is_gpu(device) || core_of(device) == 0;
}

static void on_measured(void *context, uint32_t index, const struct score *score)
{
    struct node *node = context;
    const struct device *measured = &node->devices.device[index];
    bool changed = false;
    if (score->mflops == 0 && score->memory_mbps == 0)
        return;
    for (uint32_t i = 0; i < node->devices.count; i++) {
        struct device *device = &node->devices.device[i];
        if (i != index && (is_gpu(device) || is_gpu(measured)))
            continue;
        const bool took = score_take(&device->scores, score, clock_wall_ms() / 1000);
        if (i == index && (took || !score_settled(&device->scores)))
            device->measure_at_ms = clock_now_ms() + AGAIN_MS;
        changed = changed || took;
    }
    if (changed)
        devices_tell(node);
}

/* ---- What the record says */

static bool is_alike(const struct capacity_device *a, const struct capacity_device *b)
{
    return a->class == b->class && a->compute == b->compute && a->memory_mib == b->memory_mib &&
           a->mflops == b->mflops && a->memory_mbps == b->memory_mbps && a->link_mbps == b->link_mbps;
}

/* The row of devices like this one; where there is no room for one more, the last. */
static struct capacity_device *row_of(struct capacity_devices *devices, const struct capacity_device *like)
{
    for (uint32_t i = 0; i < devices->count; i++)
        if (is_alike(&devices->row[i], like))
            return &devices->row[i];
    if (devices->count == CAPACITY_DEVICES_MAX)
        return &devices->row[CAPACITY_DEVICES_MAX - 1];
    devices->row[devices->count] = *like;
    return &devices->row[devices->count++];
}

static void describe_residents(const struct node *node, struct capacity_devices *devices)
{
    struct workers_resident held[MESH_RESIDENTS_MAX];
    devices->resident_count =
        workers_residents(node->workers, MESH_RESIDENT_BYTES_MIN, held, MESH_RESIDENTS_MAX);
    for (uint32_t i = 0; i < devices->resident_count; i++)
        devices->resident[i] = capacity_resident_name(held[i].id);
}

void devices_describe(const struct node *node, struct capacity_devices *devices)
{
    struct workers_view view;
    *devices = (struct capacity_devices){.lacks_told = true,
                                         .reclaim_p99_ms = samples_quantile(&node->devices.reclaim_ms, 990)};
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++)
        devices->lacks[class] = compile_lacks(class);
    describe_residents(node, devices);
    for (uint32_t i = 0; i < node->devices.count && workers_view(node->workers, i, &view); i++) {
        const struct device *device = &node->devices.device[i];
        const struct capacity_device like = {.class = (uint8_t)view.class,
                                             .compute = (uint16_t)view.compute,
                                             .memory_mib = (uint32_t)(device->memory_bytes >> 20),
                                             .mflops = device->scores.advertised.mflops,
                                             .memory_mbps = device->scores.advertised.memory_mbps,
                                             .link_mbps = device->scores.advertised.link_mbps,
                                             .measured_at_s = device->scores.measured_at_s};
        struct capacity_device *row = row_of(devices, &like);
        row->count++;
        switch (device->owner.state) {
        case OWNER_SPARE:
        case OWNER_LENT:
            row->spare++;
            break;
        case OWNER_COOLING:
            row->cooling++;
            break;
        case OWNER_FAULT:
            row->fault++;
            break;
        default:
            row->owned++;
            break;
        }
    }
}

/* ---- What the watcher saw */

static struct device *find_gpu(struct node *node, uint32_t number, uint32_t *index)
{
    char name[24];
    snprintf(name, sizeof name, "cuda:%u", number);
    for (*index = 0; *index < node->devices.count; ++*index)
        if (strcmp(node->devices.device[*index].name, name) == 0)
            return &node->devices.device[*index];
    return NULL;
}

/* A GPU that doesn't answer may answer again. One that the driver blames needs a reset, which nobody tells us of and which
 * can't be done under a running watcher: it stays out. */
static void note_vanished(struct device *device, const struct sighting *sighting, const char *error)
{
    const bool blamed = !error && sighting->xid != 0 && sighting->xid != device->xid;
    const bool before = device->vanished[0];
    if (blamed)
        device->xid = sighting->xid;
    if (device->xid)
        snprintf(device->vanished, sizeof device->vanished, "the driver blames it for error Xid %u",
                 device->xid);
    else
        snprintf(device->vanished, sizeof device->vanished, "%s", error ? error : "");
    if (blamed || (!before && device->vanished[0])) {
        char quoted[600];
        log_error("device", "device=%s state=fault reason=%s", device->name,
                  log_quote(device->vanished, quoted, sizeof quoted));
    }
}

static void on_seen(void *context, uint32_t number, const struct sighting *sighting, const char *error)
{
    struct node *node = context;
    uint32_t index;
    struct workers_view view;
    struct device *device = find_gpu(node, number, &index);
    if (!device || !workers_view(node->workers, index, &view))
        return;
    note_vanished(device, sighting, error);
    device->seen_at_ms = clock_now_ms();
    if (error)
        return;
    const enum owner_cause before = device->witness.cause;
    device->memory_bytes = sighting->memory_total;
    witness_see(&device->witness, sighting, view.pid != 0 || device->owner.state == OWNER_RECLAIM,
                view.in_hand > 0, node->config.owner_ignore, device->seen_at_ms);
    if (device->witness.cause && device->witness.cause != before)
        log_info("device", "device=%s seen=\"%s%s%s\"", device->name, owner_cause_word(device->witness.cause),
                 device->witness.who[0] ? ": " : "", device->witness.who);
}

static void on_opened(void *context, uint32_t number)
{
    struct node *node = context;
    uint32_t index;
    struct device *device = find_gpu(node, number, &index);
    if (!device)
        return;
    owner_opened(&device->owner, clock_now_ms());
    workers_hold_back(node->workers, index, true); /* at once: not even this turn starts anything there */
    device->held = true;
}

/* ---- Opening */

static bool open_watch(struct node *node)
{
    struct watch_options options = {.loop = node->loop,
                                    .path = workers_path(node->workers),
                                    .listeners = node->devices.listeners,
                                    .listener_count = node->devices.listener_count,
                                    .seen = on_seen,
                                    .opened = on_opened,
                                    .context = node};
    for (uint32_t i = 0; i < node->devices.count; i++)
        options.devices += is_gpu(&node->devices.device[i]);
    return options.devices == 0 || watch_open(&node->devices.watch, &options);
}

bool devices_open(struct node *node)
{
    struct devices *devices = &node->devices;
    struct workers_view view;
    while (workers_view(node->workers, devices->count, &view))
        devices->count++;
    devices->cores_left = UINT32_MAX;
    devices->device = calloc(devices->count + 1, sizeof *devices->device);
    if (!devices->device)
        return false;
    for (uint32_t i = 0; i < devices->count; i++) {
        struct device *device = &devices->device[i];
        workers_view(node->workers, i, &view);
        snprintf(device->name, sizeof device->name, "%s", view.device);
        device->lock = -1;
        device->measure_at_ms = clock_now_ms() + FIRST_MEASURE_MS;
        device->gone_at_ms = 1; /* nothing of ours was ever there */
        owner_init(&device->owner, clock_now_ms());
        restore(node, device);
        try_lock(device, clock_now_ms());
        if (claim_of(node, device, clock_wall_ms())) /* before anything can be started on it */
            workers_claim(node->workers, i, 0);
    }
    devices->canary = canary_open(node->loop, workers_path(node->workers), on_measured, node);
    return devices->canary && open_watch(node);
}

void devices_close(struct node *node)
{
    canary_close(node->devices.canary);
    node->devices.canary = NULL;
    watch_close(node->devices.watch);
    node->devices.watch = NULL;
    for (uint32_t i = 0; i < node->devices.count; i++) {
        claims_free(&node->devices.device[i].claims);
        if (node->devices.device[i].lock >= 0)
            close(node->devices.device[i].lock);
    }
    for (; node->devices.listener_count > 0; node->devices.listener_count--)
        close(node->devices.listeners[node->devices.listener_count - 1]);
    free(node->devices.device);
    node->devices.device = NULL;
    node->devices.count = 0;
}
