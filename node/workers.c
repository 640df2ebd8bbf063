#include "node/workers.h"

#include "node/log.h"

#include <assert.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX 256
#define FAULTS_MAX 3
#define TENANT_BYTES 64

/* A bundle in hand. Born in workers_submit; dies when its worker reports it done or exits. */
struct hand {
    uint64_t bundle; /* valid if shard_count > 0 */
    uint32_t shard_count;
    uint32_t reported;
    bool foreign;       /* a user's kernel: what goes wrong is no fault of the device */
    int64_t kill_at_ms; /* a stop was asked for; INT64_MAX otherwise */
    uint8_t seen[WORKER_SHARDS_MAX];
};

struct slot {
    struct workers *workers;
    char device[24];
    char name[WORKER_NAME_BYTES];
    uint32_t class;
    char tenant[TENANT_BYTES];
    struct worker *worker; /* NULL while nothing was asked of it, and after an exit */
    struct hand hand[WORKER_BUNDLES_MAX];
    uint32_t faults; /* exits in a row without a finished shard */
    bool fault;
    bool hung;        /* killed by us for that */
    bool stopped;     /* killed by us because a stop was asked for: no shard is to blame */
    uint32_t compute; /* ten times the compute capability; 0 = a CPU, or unknown */
    bool claimed;     /* its owner has it */
    bool held;        /* nothing new is to start there for now */
    uint64_t shards;
    uint64_t restarts;
    uint64_t busy_us;
};

struct workers {
    struct workers_options options;
    char *path;
    struct slot *slots;
    uint32_t slot_count;
};

static void on_readable(void *context, uint32_t events);

static struct slot *add_slot(struct workers *workers, uint32_t class, uint32_t index, const char *name)
{
    if (workers->slot_count == SLOTS_MAX)
        return NULL;
    struct slot *slot = &workers->slots[workers->slot_count++];
    slot->workers = workers;
    slot->class = class;
    snprintf(slot->device, sizeof slot->device, "%s:%u", class == 0 ? "cpu" : "cuda", index);
    snprintf(slot->name, sizeof slot->name, "%s", name);
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++)
        slot->hand[i].kill_at_ms = INT64_MAX;
    return slot;
}

/* Reads `weir-worker --list`: one JSON object per device. */
static bool find_devices(struct workers *workers, char *error, size_t error_bytes)
{
    char command[4200];
    snprintf(command, sizeof command, "'%s' --list", workers->path);
    FILE *list = popen(command, "re");
    if (!list) {
        snprintf(error, error_bytes, "cannot run %s: %m", workers->path);
        return false;
    }
    int cpu_left = workers->options.cpu_slots;
    int cuda_left = workers->options.cuda_devices;
    cpu_set_t cores;
    if (cpu_left < 0)
        cpu_left = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    if (cuda_left < 0)
        cuda_left = SLOTS_MAX;
    char cpu_name[WORKER_NAME_BYTES] = "";
    uint32_t cpu_listed = 0;
    char line[1024];
    while (fgets(line, sizeof line, list)) {
        json_t *device = json_loads(line, 0, NULL);
        const char *kind = json_string_value(json_object_get(device, "kind"));
        const char *name = json_string_value(json_object_get(device, "name"));
        const uint32_t index = (uint32_t)json_integer_value(json_object_get(device, "index"));
        if (kind && name && strcmp(kind, "cpu") == 0) {
            snprintf(cpu_name, sizeof cpu_name, "%s", name);
            cpu_listed++;
        } else if (kind && name && strcmp(kind, "cuda") == 0 && cuda_left > 0) {
            struct slot *slot = add_slot(workers, 1, index, name);
            const char *compute = json_string_value(json_object_get(device, "compute"));
            unsigned major = 0, minor = 0;
            if (slot && compute && sscanf(compute, "%u.%u", &major, &minor) == 2 && major < 1000 &&
                minor < 10)
                slot->compute = 10 * major + minor;
            cuda_left--;
        }
        json_decref(device);
    }
    const int status = pclose(list);
    if (status != 0 || cpu_listed == 0) {
        snprintf(error, error_bytes,
                 "%s --list failed; is it the weir-worker of this build? (set work.worker)", workers->path);
        return false;
    }
    for (int i = 0; i < cpu_left; i++)
        add_slot(workers, 0, (uint32_t)i, cpu_name);
    return true;
}

bool workers_open(struct workers **out, const struct workers_options *options, char *error,
                  size_t error_bytes)
{
    struct workers *workers = calloc(1, sizeof *workers);
    struct slot *slots = calloc(SLOTS_MAX, sizeof *slots);
    char *path = strdup(options->path);
    if (!workers || !slots || !path) {
        free(workers);
        free(slots);
        free(path);
        snprintf(error, error_bytes, "out of memory");
        return false;
    }
    *workers = (struct workers){.options = *options, .path = path, .slots = slots};
    if (!find_devices(workers, error, error_bytes)) {
        workers_close(workers);
        return false;
    }
    *out = workers;
    return true;
}

static void stop_process(struct slot *slot)
{
    if (!slot->worker)
        return;
    loop_unwatch(slot->workers->options.loop, worker_fd(slot->worker));
    worker_close(slot->worker);
    slot->worker = NULL;
}

void workers_close(struct workers *workers)
{
    if (!workers)
        return;
    for (uint32_t i = 0; i < workers->slot_count; i++)
        stop_process(&workers->slots[i]);
    free(workers->slots);
    free(workers->path);
    free(workers);
}

uint16_t workers_slots(const struct workers *workers, uint32_t class)
{
    uint16_t count = 0;
    for (uint32_t i = 0; i < workers->slot_count; i++)
        count = (uint16_t)(count + (workers->slots[i].class == class && !workers->slots[i].fault &&
                                    !workers->slots[i].claimed));
    return count;
}

const char *workers_path(const struct workers *workers)
{
    return workers->path;
}

static uint32_t in_hand(const struct slot *slot)
{
    uint32_t count = 0;
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++)
        count += slot->hand[i].shard_count > 0;
    return count;
}

static struct slot *choose(const struct workers *workers, uint32_t class, const char *tenant)
{
    struct slot *best = NULL;
    for (uint32_t i = 0; i < workers->slot_count; i++) {
        struct slot *slot = &workers->slots[i];
        const uint32_t count = in_hand(slot);
        if (slot->class != class || slot->fault || slot->claimed || slot->held || count == WORKER_BUNDLES_MAX)
            continue;
        if (count > 0 && strcmp(slot->tenant, tenant) != 0)
            continue;
        if (!best || count < in_hand(best) || (count == in_hand(best) && slot->worker && !best->worker))
            best = slot;
    }
    return best;
}

static bool start_process(struct slot *slot, const char *tenant)
{
    if (slot->worker && strcmp(slot->tenant, tenant) == 0)
        return true;
    stop_process(slot);
    snprintf(slot->tenant, sizeof slot->tenant, "%s", tenant);
    const struct worker_options options = {
        .path = slot->workers->path, .device = slot->device, .tenant = slot->tenant};
    const enum worker_error error = worker_open(&slot->worker, &options);
    if (error != WORKER_OK) {
        log_error("worker", "device=%s error=\"%s: %m\"", slot->device, worker_error_text(error));
        slot->worker = NULL;
        return false;
    }
    slot->restarts++;
    slot->hung = slot->stopped = false;
    loop_watch(slot->workers->options.loop, worker_fd(slot->worker), EPOLLIN, on_readable, slot);
    return true;
}

enum workers_answer workers_submit(struct workers *workers, uint32_t class, const char *tenant,
                                   const struct worker_bundle *bundle, char message[WORKER_MESSAGE_BYTES])
{
    struct slot *slot = choose(workers, class, tenant);
    if (!slot || !start_process(slot, tenant))
        return WORKERS_NO_PLACE;
    switch (worker_submit(slot->worker, bundle, message)) {
    case WORKER_OK:
        break;
    case WORKER_BAD_BUNDLE:
        return WORKERS_BAD;
    case WORKER_BAD_BLOB:
        snprintf(message, WORKER_MESSAGE_BYTES, "a broadcast input is shorter than its job says");
        return WORKERS_BAD;
    case WORKER_TOO_LARGE:
        snprintf(message, WORKER_MESSAGE_BYTES,
                 "the shard's inputs and outputs are larger than a worker takes");
        return WORKERS_BAD;
    default:
        return WORKERS_NO_PLACE;
    }
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++) {
        struct hand *hand = &slot->hand[i];
        if (hand->shard_count > 0)
            continue;
        hand->bundle = bundle->id;
        hand->shard_count = bundle->shard_count;
        hand->reported = 0;
        hand->foreign = bundle->manifest->user != NULL;
        hand->kill_at_ms = INT64_MAX;
        memset(hand->seen, 0, bundle->shard_count);
        return WORKERS_TAKEN;
    }
    assert(false && "the worker took a third bundle");
    return WORKERS_NO_PLACE;
}

static struct hand *find_hand(struct slot *slot, uint64_t bundle)
{
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++)
        if (slot->hand[i].shard_count > 0 && slot->hand[i].bundle == bundle)
            return &slot->hand[i];
    return NULL;
}

void workers_stop(struct workers *workers, uint64_t bundle, int64_t grace_ms)
{
    for (uint32_t i = 0; i < workers->slot_count; i++) {
        struct hand *hand = find_hand(&workers->slots[i], bundle);
        if (!hand)
            continue;
        worker_cancel(workers->slots[i].worker, bundle);
        hand->kill_at_ms = clock_now_ms() + grace_ms;
    }
}

void workers_claim(struct workers *workers, uint32_t index, int64_t grace_ms)
{
    struct slot *slot = &workers->slots[index];
    slot->claimed = true;
    if (!slot->worker)
        return;
    const int64_t kill_at_ms = clock_now_ms() + grace_ms;
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++) {
        struct hand *hand = &slot->hand[i];
        if (hand->shard_count == 0)
            continue;
        worker_cancel(slot->worker, hand->bundle);
        if (kill_at_ms < hand->kill_at_ms)
            hand->kill_at_ms = kill_at_ms;
    }
    if (in_hand(slot) == 0)
        worker_kill(slot->worker);
}

void workers_lend(struct workers *workers, uint32_t index)
{
    workers->slots[index].claimed = false;
}

void workers_hold_back(struct workers *workers, uint32_t index, bool held)
{
    workers->slots[index].held = held;
}

uint32_t workers_bundles(const struct workers *workers, uint32_t index, uint64_t bundle[WORKER_BUNDLES_MAX])
{
    const struct slot *slot = &workers->slots[index];
    uint32_t count = 0;
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++)
        if (slot->hand[i].shard_count > 0)
            bundle[count++] = slot->hand[i].bundle;
    return count;
}

bool workers_hold(const struct workers *workers, uint32_t class, const char *tenant,
                  const uint8_t id[WORKER_ID_BYTES])
{
    const struct slot *slot = choose(workers, class, tenant);
    return slot && slot->worker && strcmp(slot->tenant, tenant) == 0 && worker_holds(slot->worker, id);
}

static void report(struct slot *slot, struct hand *hand, const struct workers_shard *shard)
{
    hand->seen[shard->shard] = 1;
    hand->reported++;
    slot->shards++;
    slot->busy_us += shard->device_us;
    slot->workers->options.shard(slot->workers->options.context, shard);
}

static enum mesh_outcome outcome_of(enum worker_outcome outcome)
{
    switch (outcome) {
    case WORKER_SHARD_OK:
        return MESH_DONE;
    case WORKER_SHARD_REJECTED:
        return MESH_REJECTED;
    case WORKER_SHARD_CANCELLED:
        return MESH_RETURNED;
    case WORKER_SHARD_FAILED:
        break;
    }
    return MESH_CRASHED;
}

static void on_shard(struct slot *slot, const struct worker_event *event)
{
    struct hand *hand = find_hand(slot, event->bundle);
    if (!hand || event->shard >= hand->shard_count || hand->seen[event->shard])
        return;
    const struct workers_shard shard = {.bundle = event->bundle,
                                        .shard = event->shard,
                                        .outcome = outcome_of(event->outcome),
                                        .device_us = event->device_us,
                                        .outputs = event->outputs,
                                        .output_count = event->output_count,
                                        .message = event->message};
    slot->faults = 0;
    report(slot, hand, &shard);
}

static void end_hand(struct slot *slot, struct hand *hand)
{
    const uint64_t bundle = hand->bundle;
    worker_release(slot->worker, bundle);
    hand->shard_count = 0;
    hand->kill_at_ms = INT64_MAX;
    slot->workers->options.done(slot->workers->options.context, bundle);
    if (slot->claimed && slot->worker && in_hand(slot) == 0)
        worker_kill(slot->worker); /* what it keeps in memory is the owner's room */
}

/* The process is gone: the first shard without a report was being run, unless its bundle was waiting. */
static void lose_hand(struct slot *slot, struct hand *hand, bool *blamed, const char *message)
{
    for (uint32_t i = 0; i < hand->shard_count; i++) {
        if (hand->seen[i])
            continue;
        const bool stopped = slot->stopped || hand->kill_at_ms != INT64_MAX;
        const struct workers_shard shard = {.bundle = hand->bundle,
                                            .shard = i,
                                            .outcome = *blamed || stopped ? MESH_RETURNED : MESH_CRASHED,
                                            .message = message};
        *blamed = true;
        report(slot, hand, &shard);
    }
    end_hand(slot, hand);
}

static struct hand *older_hand(struct slot *slot)
{
    struct hand *older = NULL;
    for (int i = 0; i < WORKER_BUNDLES_MAX; i++)
        if (slot->hand[i].shard_count > 0 && (!older || slot->hand[i].bundle < older->bundle))
            older = &slot->hand[i];
    return older;
}

static void on_exit_of(struct slot *slot, const struct worker_event *event)
{
    char message[WORKER_MESSAGE_BYTES];
    if (slot->hung)
        snprintf(message, sizeof message, "the worker made no progress for %lld s and was killed",
                 (long long)(slot->workers->options.hang_ms / 1000));
    else if (event->exit_signal)
        snprintf(message, sizeof message, "the worker died of signal %d (%s)%s%.200s", event->exit_signal,
                 strsignal(event->exit_signal), event->message[0] ? ": " : "", event->message);
    else
        snprintf(message, sizeof message, "the worker ended with status %d", event->exit_status);
    const bool spoiled = event->exit_status == WORKER_EXIT_SPOILED; /* by a shard that was reported */
    const struct hand *first = older_hand(slot);
    const bool expected = slot->claimed || slot->stopped || spoiled;
    const bool foreign = first && first->foreign;
    bool blamed = spoiled;
    for (struct hand *hand = older_hand(slot); hand; hand = older_hand(slot))
        lose_hand(slot, hand, &blamed, message);
    char quoted[2 * WORKER_MESSAGE_BYTES];
    if (!expected)
        log_warn("worker", "device=%s tenant=%s error=%s", slot->device, slot->tenant,
                 log_quote(message, quoted, sizeof quoted));
    stop_process(slot);
    if (blamed && !expected && !foreign && ++slot->faults == FAULTS_MAX) {
        slot->fault = true;
        log_error("device", "device=%s state=fault reason=\"three workers in a row failed without a result\"",
                  slot->device);
        slot->workers->options.devices(slot->workers->options.context);
    }
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    struct slot *slot = context;
    while (slot->worker) {
        struct worker_event event;
        worker_next(slot->worker, &event);
        switch (event.kind) {
        case WORKER_NONE:
            return;
        case WORKER_READY:
            snprintf(slot->name, sizeof slot->name, "%s", event.device.name);
            break;
        case WORKER_SHARD:
            on_shard(slot, &event);
            break;
        case WORKER_DONE: {
            struct hand *hand = find_hand(slot, event.bundle);
            if (hand)
                end_hand(slot, hand);
            break;
        }
        case WORKER_EXITED:
            on_exit_of(slot, &event);
            break;
        }
    }
}

int64_t workers_turn(void *context, int64_t now_ms)
{
    struct workers *workers = context;
    int64_t wake_at_ms = INT64_MAX;
    for (uint32_t i = 0; i < workers->slot_count; i++) {
        struct slot *slot = &workers->slots[i];
        if (!slot->worker || in_hand(slot) == 0)
            continue;
        int64_t kill_at_ms = INT64_MAX;
        for (int h = 0; h < WORKER_BUNDLES_MAX; h++)
            if (slot->hand[h].kill_at_ms < kill_at_ms)
                kill_at_ms = slot->hand[h].kill_at_ms;
        const bool hung = worker_stalled_ms(slot->worker, now_ms) > workers->options.hang_ms;
        if (hung || now_ms >= kill_at_ms) {
            slot->hung = hung;
            slot->stopped = now_ms >= kill_at_ms;
            worker_kill(slot->worker);
        }
        const int64_t look_at_ms = now_ms + 250 < kill_at_ms ? now_ms + 250 : kill_at_ms;
        if (look_at_ms < wake_at_ms)
            wake_at_ms = look_at_ms;
    }
    return wake_at_ms > now_ms ? wake_at_ms : now_ms + 10;
}

bool workers_view(const struct workers *workers, uint32_t index, struct workers_view *view)
{
    if (index >= workers->slot_count)
        return false;
    const struct slot *slot = &workers->slots[index];
    *view = (struct workers_view){.device = slot->device,
                                  .class = slot->class,
                                  .compute = slot->compute,
                                  .pid = slot->worker ? worker_pid(slot->worker) : 0,
                                  .in_hand = in_hand(slot),
                                  .fault = slot->fault,
                                  .shards = slot->shards,
                                  .restarts = slot->restarts ? slot->restarts - 1 : 0,
                                  .busy_us = slot->busy_us};
    snprintf(view->name, sizeof view->name, "%s", slot->name);
    return true;
}
