#include "node/workers.h"

#include "node/faulty.h"
#include "node/log.h"

#include <assert.h>
#include <jansson.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS_MAX 256
#define FAULTS_MAX 3
#define TENANT_BYTES 64
#define DECLARED_TIMES 3 /* a shard of a user's kernel may take this often what it declares */
#define MEMORY_LEAST (UINT64_C(512) << 20) /* of a worker, however many there are */
#define PROBE_MS 10000                     /* for the first worker to start */

/* A bundle in hand. Born in workers_submit; dies when its worker reports it done or exits. */
struct hand {
    uint64_t bundle; /* valid if shard_count > 0 */
    uint32_t shard_count;
    uint32_t reported;
    bool foreign;       /* a user's kernel: what goes wrong is no fault of the device. Then: */
    int64_t kill_at_ms; /* a stop was asked for; INT64_MAX otherwise */
    uint8_t code[WORKER_ID_BYTES];
    char kernel[MANIFEST_NAME_BYTES];
    int64_t declared_ms; /* of its longest shard */
    int64_t moved_at_ms; /* the bundle was begun, or a shard of it ended */
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
    char reason[WORKER_MESSAGE_BYTES]; /* of the fault */
    struct hand spoiler;               /* a user's kernel of which a shard was rejected, and why: */
    char spoiled[WORKER_MESSAGE_BYTES];
    bool unboxed;     /* its driver does not start inside the whole sandbox */
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
    uint64_t memory_bytes; /* of a worker */
    struct {
        bool known;
        struct sandbox_report report; /* of the last worker that became ready */
    } sandbox[MESH_DEVICE_CLASSES];
    int64_t start_us; /* how long the first worker took to become ready */
    struct faulty faulty;
};

static void on_readable(void *context, uint32_t events);
static struct hand *older_hand(struct slot *slot);

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

/* Every worker may take an even share of this machine's memory, and one share is left for everything else. */
static uint64_t share_of_memory(uint32_t workers)
{
    const uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t share = all / (workers + 1);
    return share > MEMORY_LEAST ? share : MEMORY_LEAST;
}

static void keep_report(struct workers *workers, uint32_t class, const struct sandbox_report *report)
{
    workers->sandbox[class].known = true;
    workers->sandbox[class].report = *report;
}

/* Starts one CPU worker to see which layers of the sandbox there are. Blocks for the milliseconds that it takes. */
static void probe_sandbox(struct workers *workers)
{
    struct worker *worker;
    struct worker_event event = {.kind = WORKER_NONE};
    const struct worker_options options = {
        .path = workers->path, .device = "cpu:0", .memory_bytes = workers->memory_bytes};
    const int64_t began_us = clock_now_us();
    if (worker_open(&worker, &options) != WORKER_OK)
        return;
    struct pollfd wait = {.fd = worker_fd(worker), .events = POLLIN};
    while (event.kind == WORKER_NONE && poll(&wait, 1, PROBE_MS) > 0)
        worker_next(worker, &event);
    if (event.kind == WORKER_READY) {
        workers->start_us = clock_now_us() - began_us;
        keep_report(workers, 0, worker_sandbox(worker));
    }
    worker_close(worker);
    const enum sandbox_layer missing = sandbox_missing(&workers->sandbox[0].report);
    if (missing != SANDBOX_LAYERS)
        log_warn("sandbox", "missing=%s reason=\"%s\" effect=\"users' kernels are refused\"",
                 sandbox_layer_name(missing), workers->sandbox[0].report.layers[missing].detail);
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
    workers->memory_bytes = share_of_memory(workers->slot_count);
    probe_sandbox(workers);
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
    const struct worker_options options = {.path = slot->workers->path,
                                           .device = slot->device,
                                           .tenant = slot->tenant,
                                           .memory_bytes = slot->workers->memory_bytes,
                                           .unboxed = slot->unboxed};
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

/* What the longest shard of a bundle should take, by its manifest. */
static int64_t declared_ms(const struct worker_bundle *bundle)
{
    const struct manifest *manifest = bundle->manifest;
    double longest_ns = 0;
    for (uint32_t s = 0; s < bundle->shard_count; s++) {
        const struct worker_shard *shard = &bundle->shards[s];
        struct manifest_shapes shapes = {.items = shard->items};
        for (uint32_t i = 0; i < manifest->input_count; i++) {
            shapes.roles[i] = bundle->roles[i];
            shapes.inputs[i] =
                bundle->roles[i] == MANIFEST_SPLIT ? shard->rows[i].type : bundle->blobs[i].type;
            if (bundle->roles[i] == MANIFEST_SPLIT)
                shapes.split_bytes += shard->rows[i].bytes;
        }
        const double ns =
            manifest_item_cost(manifest, &shapes, &bundle->params).cpu_ns * (double)shard->items;
        longest_ns = ns > longest_ns ? ns : longest_ns;
    }
    return longest_ns < 1e6 * INT32_MAX ? (int64_t)(longest_ns / 1e6) : INT32_MAX;
}

/* A stranger's code runs in the whole sandbox or not at all, and not after it failed here twice. */
static enum workers_answer may_run(const struct workers *workers, uint32_t class,
                                   const struct worker_bundle *bundle, char message[WORKER_MESSAGE_BYTES])
{
    const struct faulty_kernel *entry = faulty_find(&workers->faulty, bundle->code.id);
    if (entry) {
        snprintf(message, WORKER_MESSAGE_BYTES,
                 "kernel %s is quarantined on this node, where it failed %u times: %.180s", entry->kernel,
                 entry->faults, entry->reason);
        return WORKERS_REFUSED;
    }
    const struct sandbox_report *report = &workers->sandbox[class].report;
    const enum sandbox_layer missing = sandbox_missing(report);
    if (!workers->sandbox[class].known || missing == SANDBOX_LAYERS)
        return WORKERS_TAKEN;
    snprintf(message, WORKER_MESSAGE_BYTES,
             "this node runs no users' kernels: its sandbox is without layer %s (%s); `weir doctor` there "
             "tells more",
             sandbox_layer_name(missing), report->layers[missing].detail);
    return WORKERS_REFUSED;
}

enum workers_answer workers_submit(struct workers *workers, uint32_t class, const char *tenant,
                                   const struct worker_bundle *bundle, char message[WORKER_MESSAGE_BYTES])
{
    const bool foreign = bundle->manifest->user != NULL;
    if (foreign && may_run(workers, class, bundle, message) != WORKERS_TAKEN)
        return WORKERS_REFUSED;
    struct slot *slot = choose(workers, class, tenant);
    if (!slot || !start_process(slot, tenant))
        return WORKERS_NO_PLACE;
    if (foreign && !workers->sandbox[class].known)
        return WORKERS_NO_PLACE; /* until that worker has told its layers */
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
        hand->kill_at_ms = INT64_MAX;
        memset(hand->seen, 0, bundle->shard_count);
        hand->foreign = foreign;
        memcpy(hand->code, bundle->code.id, sizeof hand->code);
        snprintf(hand->kernel, sizeof hand->kernel, "%s", bundle->manifest->name);
        hand->declared_ms = foreign ? declared_ms(bundle) : 0;
        hand->moved_at_ms = clock_now_ms();
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

/* Keeps the largest `max` in order, each once. Returns the new count. */
static uint32_t rank_resident(struct workers_resident *out, uint32_t count, uint32_t max, const uint8_t *id,
                              uint64_t bytes)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (memcmp(out[i].id, id, WORKER_ID_BYTES) == 0)
            return count;
        at += out[i].bytes >= bytes;
    }
    if (at == max)
        return count;
    count += count < max;
    memmove(&out[at + 1], &out[at], (count - 1 - at) * sizeof *out);
    memcpy(out[at].id, id, WORKER_ID_BYTES);
    out[at].bytes = bytes;
    return count;
}

uint32_t workers_residents(const struct workers *workers, uint64_t bytes_min, struct workers_resident *out,
                           uint32_t max)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < workers->slot_count; i++) {
        const struct worker *worker = workers->slots[i].worker;
        const uint8_t *id = NULL;
        uint64_t bytes;
        for (uint32_t r = 0; worker && (bytes = worker_resident(worker, r, &id)) > 0; r++)
            if (bytes >= bytes_min)
                count = rank_resident(out, count, max, id, bytes);
    }
    return count;
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
    hand->moved_at_ms = clock_now_ms();
    if (hand->foreign && event->outcome == WORKER_SHARD_REJECTED) {
        slot->spoiler = *hand;
        snprintf(slot->spoiled, sizeof slot->spoiled, "%s", event->message);
    }
    report(slot, hand, &shard);
}

static void end_hand(struct slot *slot, struct hand *hand)
{
    const uint64_t bundle = hand->bundle;
    worker_release(slot->worker, bundle);
    hand->shard_count = 0;
    hand->kill_at_ms = INT64_MAX;
    struct hand *next = older_hand(slot);
    if (next)
        next->moved_at_ms = clock_now_ms(); /* it waited until now */
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

/* How long a shard of a user's kernel may take. The least is for a busy machine, on which every figure is off. */
static int64_t patience_ms(const struct workers *workers, const struct hand *hand)
{
    const int64_t declared = DECLARED_TIMES * hand->declared_ms;
    return declared > workers->options.hang_ms ? declared : workers->options.hang_ms;
}

/* How a worker ended, for people. */
static void describe_end(const struct slot *slot, const struct hand *running,
                         const struct worker_event *event, char message[WORKER_MESSAGE_BYTES])
{
    const bool overdue = slot->hung && running && running->foreign;
    if (overdue)
        snprintf(
            message, WORKER_MESSAGE_BYTES,
            "the kernel did not end a shard within %lld ms and was killed; by its cost it needs %lld at most",
            (long long)patience_ms(slot->workers, running),
            (long long)(running->declared_ms > 0 ? running->declared_ms : 1));
    else if (slot->hung)
        snprintf(message, WORKER_MESSAGE_BYTES, "the worker made no progress for %lld s and was killed",
                 (long long)(slot->workers->options.hang_ms / 1000));
    else if (event->exit_signal == SIGSYS)
        snprintf(message, WORKER_MESSAGE_BYTES,
                 "the kernel made a system call that the sandbox does not allow, and was killed");
    else if (event->exit_signal == SIGKILL && !slot->stopped)
        snprintf(message, WORKER_MESSAGE_BYTES,
                 "the worker was killed, by an operator or because it took more than its %llu MiB of memory",
                 (unsigned long long)(slot->workers->memory_bytes >> 20));
    else if (event->exit_signal)
        snprintf(message, WORKER_MESSAGE_BYTES, "the worker died of signal %d (%s)%s%.200s",
                 event->exit_signal, strsignal(event->exit_signal), event->message[0] ? ": " : "",
                 event->message);
    else
        snprintf(message, WORKER_MESSAGE_BYTES, "the worker ended with status %d", event->exit_status);
}

/* What failed with a user's kernel is that kernel's fault. */
static void blame_kernel(struct slot *slot, const struct hand *running, const char *message)
{
    if (!faulty_add(&slot->workers->faulty, running->code, running->kernel, message, clock_now_ms()))
        return;
    char quoted[2 * WORKER_MESSAGE_BYTES];
    log_warn("kernel", "kernel=%s state=quarantined device=%s tenant=%s reason=%s", running->kernel,
             slot->device, slot->tenant, log_quote(message, quoted, sizeof quoted));
}

/* What fails again and again with our own kernels is the device's. */
static void blame_device(struct slot *slot, const char *message)
{
    if (++slot->faults != FAULTS_MAX)
        return;
    slot->fault = true;
    snprintf(slot->reason, sizeof slot->reason,
             "%d workers in a row failed without a result, the last: %.240s", FAULTS_MAX, message);
    char quoted[2 * WORKER_MESSAGE_BYTES];
    log_error("device", "device=%s state=fault reason=%s", slot->device,
              log_quote(slot->reason, quoted, sizeof quoted));
    slot->workers->options.devices(slot->workers->options.context);
}

static void on_exit_of(struct slot *slot, const struct worker_event *event)
{
    char message[WORKER_MESSAGE_BYTES], quoted[2 * WORKER_MESSAGE_BYTES];
    const struct hand *older = older_hand(slot);
    const struct hand running = older ? *older : (struct hand){0};
    const bool spoiled = event->exit_status == WORKER_EXIT_SPOILED; /* by a shard that was reported */
    const bool expected = slot->claimed || slot->stopped || spoiled;
    /* Its device did not open inside the sandbox: nobody is to blame yet. */
    const bool boxed_in = event->exit_status == WORKER_EXIT_DEVICE && !event->exit_signal && !slot->unboxed;
    describe_end(slot, older ? &running : NULL, event, message);
    slot->unboxed = slot->unboxed || boxed_in;
    bool blamed = boxed_in || spoiled;
    for (struct hand *hand = older_hand(slot); hand; hand = older_hand(slot))
        lose_hand(slot, hand, &blamed, message);
    if (!expected)
        log_warn("worker", "device=%s tenant=%s error=%s", slot->device, slot->tenant,
                 log_quote(message, quoted, sizeof quoted));
    stop_process(slot);
    if (spoiled)
        blame_kernel(slot, &slot->spoiler, slot->spoiled);
    if (expected || boxed_in || !older)
        return;
    if (running.foreign)
        blame_kernel(slot, &running, message);
    else if (blamed)
        blame_device(slot, message);
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
            keep_report(slot->workers, slot->class, worker_sandbox(slot->worker));
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

/* Our own kernels show progress while they compute. A stranger's could show it forever: its shards must end. */
static bool is_hung(struct slot *slot, int64_t now_ms)
{
    const struct hand *running = older_hand(slot);
    if (running->foreign)
        return now_ms - running->moved_at_ms > patience_ms(slot->workers, running);
    return worker_stalled_ms(slot->worker, now_ms) > slot->workers->options.hang_ms;
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
        const bool hung = is_hung(slot, now_ms);
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

const struct sandbox_report *workers_sandbox(const struct workers *workers, uint32_t class)
{
    return workers->sandbox[class].known ? &workers->sandbox[class].report : NULL;
}

const struct faulty *workers_faulty(const struct workers *workers)
{
    return &workers->faulty;
}

int64_t workers_start_us(const struct workers *workers)
{
    return workers->start_us;
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
                                  .reason = slot->fault ? slot->reason : NULL,
                                  .shards = slot->shards,
                                  .restarts = slot->restarts ? slot->restarts - 1 : 0,
                                  .busy_us = slot->busy_us};
    snprintf(view->name, sizeof view->name, "%s", slot->name);
    return true;
}
