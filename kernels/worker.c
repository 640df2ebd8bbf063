#include "kernels/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/worker_wire.h"

extern char **environ;

/* Where one shard's outputs lie, as the node's end laid them out. */
struct shard_record {
    bool reported;
    uint64_t items;
    uint64_t offsets[MANIFEST_OUTPUTS_MAX];
};

/* A region's life: free; in hand from worker_submit; done when all its shards are reported; free at
 * worker_release. */
struct region {
    bool in_hand;
    bool done_told; /* WORKER_DONE has been given */
    uint64_t bundle, sequence;
    uint32_t shard_count, reported_count, output_count;
    const struct manifest *manifest;
    struct array_type outputs[MANIFEST_OUTPUTS_MAX]; /* of one item */
    struct shard_record *shards;
    uint8_t *own_memory; /* NULL: the resident one */
    uint64_t own_bytes;
    uint64_t bytes; /* of all that lies in it */
};

struct resident {
    uint8_t id[WORKER_ID_BYTES];
    uint64_t bytes, used; /* used: number of the last bundle that needed it */
};

/* What the worker holds once it has read everything sent to it. */
struct resident_table {
    uint32_t count, evict_count;
    struct resident residents[WORKER_RESIDENTS_MAX];
    uint8_t evict[WORKER_RESIDENTS_MAX][WORKER_ID_BYTES]; /* to be told with the next bundle */
};

struct worker {
    struct sandbox_process process;
    struct sandbox_report sandbox; /* this end's half, from the hello on the whole */
    int socket, epoll;
    bool socket_open, exited_told;
    uint8_t *memory; /* WIRE_MEMORY_BYTES */
    struct region regions[WORKER_BUNDLES_MAX];
    struct resident_table table;
    uint64_t resident_bytes_max, sequence;
    uint64_t stamp_seen;
    int64_t stamp_seen_ms; /* -1: not looked yet */
    bool ready;
    struct wire_result result; /* being handed out, one outcome per worker_next */
    uint32_t result_next;
    struct region *finished; /* its last shard was just handed out: WORKER_DONE is next */
    char reason[WORKER_MESSAGE_BYTES];
};

/* The layout of a bundle, before anything is copied. */
struct layout {
    uint64_t bytes;
    uint32_t output_count;
    struct array_type outputs[MANIFEST_OUTPUTS_MAX];
};

static const struct {
    enum worker_class class;
    const char *text;
} errors[WORKER_ERRORS] = {
    [WORKER_OK] = {WORKER_CLASS_NONE, "ok"},
    [WORKER_BUSY] = {WORKER_CLASS_BUSY, "two bundles are in hand; release one first"},
    [WORKER_TOO_MANY] = {WORKER_CLASS_LOCAL, "a bundle holds 1 to 512 shards"},
    [WORKER_TOO_LARGE] = {WORKER_CLASS_PEER, "the bundle or a broadcast input is larger than a worker takes"},
    [WORKER_BAD_BUNDLE] = {WORKER_CLASS_PEER, "the bundle does not fit the kernel's manifest"},
    [WORKER_BAD_BLOB] = {WORKER_CLASS_LOCAL,
                         "a broadcast input's file is shorter than stated, or was not given"},
    [WORKER_GONE] = {WORKER_CLASS_GONE, "the worker process has ended"},
    [WORKER_SYSTEM] = {WORKER_CLASS_LOCAL, "a system call failed"},
};

static enum worker_error start(struct worker *worker, const struct worker_options *options, int socket,
                               int memory);
static void break_off(struct worker *worker, const char *reason);
static bool receive(struct worker *worker, struct worker_event *event);
static bool reap(struct worker *worker, struct worker_event *event);
static void hand_out(struct worker *worker, struct worker_event *event);
static enum worker_error check_bundle(const struct worker_bundle *bundle, struct shard_record *shards,
                                      struct layout *layout, char message[WORKER_MESSAGE_BYTES]);
static void copy_bundle(const struct worker_bundle *bundle, const struct region *region, uint8_t *memory);
static enum worker_error plan_residents(const struct worker *worker, const struct worker_bundle *bundle,
                                        struct resident_table *table, struct wire_bundle *wire,
                                        int fds[WIRE_FDS_MAX], uint32_t *fd_count);
static bool send_with_fds(int socket, const void *bytes, size_t count, const int *fds, uint32_t fd_count);
static int sealed_memory(const char *name, uint64_t bytes);

const char *worker_error_text(enum worker_error error)
{
    return (unsigned)error < WORKER_ERRORS ? errors[error].text : "unknown worker error";
}

enum worker_class worker_error_class(enum worker_error error)
{
    return (unsigned)error < WORKER_ERRORS ? errors[error].class : WORKER_CLASS_LOCAL;
}

enum worker_error worker_open(struct worker **out, const struct worker_options *options)
{
    int sockets[2] = {-1, -1}, memory = -1;
    enum worker_error result = WORKER_SYSTEM;
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return WORKER_SYSTEM;
    worker->process = (struct sandbox_process){.pid = -1, .pidfd = -1};
    worker->epoll = worker->socket = -1;
    worker->memory = MAP_FAILED;
    worker->resident_bytes_max =
        options->resident_bytes_max ? options->resident_bytes_max : WORKER_RESIDENT_BYTES;
    worker->stamp_seen_ms = -1;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
        goto fail;
    worker->socket = sockets[0];
    memory = sealed_memory("weir-worker", WIRE_MEMORY_BYTES);
    if (memory < 0 || fcntl(sockets[0], F_SETFL, O_NONBLOCK) != 0)
        goto fail;
    worker->memory = mmap(NULL, WIRE_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (worker->memory == MAP_FAILED)
        goto fail;
    result = start(worker, options, sockets[1], memory);
    if (result)
        goto fail;
    result = WORKER_SYSTEM;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll < 0 ||
        epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->socket, &(struct epoll_event){.events = EPOLLIN}) !=
            0 ||
        epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->process.pidfd,
                  &(struct epoll_event){.events = EPOLLIN}) != 0)
        goto fail;
    worker->socket_open = true;
    close(sockets[1]);
    close(memory);
    *out = worker;
    return WORKER_OK;

fail:;
    const int saved = errno;
    if (sockets[1] >= 0)
        close(sockets[1]);
    if (memory >= 0)
        close(memory);
    worker_close(worker);
    errno = saved;
    return result;
}

void worker_close(struct worker *worker)
{
    if (!worker)
        return;
    if (worker->process.pid > 0 && !worker->exited_told) {
        /* The kill can't be refused, so this wait is short; a process stuck in a driver is left to init. */
        kill(worker->process.pid, SIGKILL);
        for (int i = 0; i < 200 && waitpid(worker->process.pid, NULL, WNOHANG) == 0; i++)
            usleep(1000);
    }
    for (unsigned i = 0; i < WORKER_BUNDLES_MAX; i++) {
        free(worker->regions[i].shards);
        if (worker->regions[i].own_memory)
            munmap(worker->regions[i].own_memory, worker->regions[i].own_bytes);
    }
    if (worker->memory != MAP_FAILED)
        munmap(worker->memory, WIRE_MEMORY_BYTES);
    if (worker->epoll >= 0)
        close(worker->epoll);
    sandbox_reaped(&worker->process);
    if (worker->socket >= 0)
        close(worker->socket);
    free(worker);
}

int worker_fd(const struct worker *worker)
{
    return worker->epoll;
}

int worker_pid(const struct worker *worker)
{
    return worker->process.pid;
}

const struct sandbox_report *worker_sandbox(const struct worker *worker)
{
    return &worker->sandbox;
}

uint32_t worker_bundles(const struct worker *worker)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < WORKER_BUNDLES_MAX; i++)
        count += worker->regions[i].in_hand;
    return count;
}

enum worker_error worker_submit(struct worker *worker, const struct worker_bundle *bundle,
                                char message[WORKER_MESSAGE_BYTES])
{
    message[0] = '\0';
    if (!worker->socket_open)
        return WORKER_GONE;
    if (bundle->shard_count == 0 || bundle->shard_count > WORKER_SHARDS_MAX)
        return WORKER_TOO_MANY;
    uint32_t number = 0;
    while (number < WORKER_BUNDLES_MAX && worker->regions[number].in_hand)
        number++;
    if (number == WORKER_BUNDLES_MAX)
        return WORKER_BUSY;

    struct region *region = &worker->regions[number];
    struct resident_table table = worker->table;
    struct wire_bundle wire = {.kind = WIRE_BUNDLE, .region = number, .sequence = worker->sequence + 1};
    struct layout layout = {0};
    int fds[WIRE_FDS_MAX], own = -1;
    uint32_t fd_count = 1; /* place 0 is the bundle's own memory */
    uint8_t *memory = worker->memory + WIRE_CONTROL_BYTES + (uint64_t)number * WORKER_REGION_BYTES;
    uint8_t *own_memory = NULL;
    struct shard_record *shards = calloc(bundle->shard_count, sizeof *shards);
    if (!shards)
        return WORKER_SYSTEM;

    enum worker_error result = check_bundle(bundle, shards, &layout, message);
    if (!result)
        result = plan_residents(worker, bundle, &table, &wire, fds, &fd_count);
    if (result)
        goto fail;
    if (layout.bytes > WORKER_REGION_BYTES) {
        result = WORKER_SYSTEM;
        own = sealed_memory("weir-bundle", layout.bytes);
        if (own < 0)
            goto fail;
        own_memory = mmap(NULL, layout.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
        if (own_memory == MAP_FAILED) {
            own_memory = NULL;
            goto fail;
        }
        wire.own_bytes = layout.bytes;
        memory = own_memory;
        fds[0] = own;
    }

    struct region filled = {
        .in_hand = true,
        .bundle = bundle->id,
        .sequence = wire.sequence,
        .manifest = bundle->manifest,
        .shard_count = bundle->shard_count,
        .output_count = layout.output_count,
        .shards = shards,
        .own_memory = own_memory,
        .own_bytes = layout.bytes,
        .bytes = layout.bytes,
    };
    memcpy(filled.outputs, layout.outputs, sizeof filled.outputs);
    copy_bundle(bundle, &filled, memory);
    struct wire_control *control = (struct wire_control *)(void *)worker->memory;
    atomic_store(&control->cancel[number], 0);
    if (!send_with_fds(worker->socket, &wire, sizeof wire, own >= 0 ? fds : fds + 1,
                       own >= 0 ? fd_count : fd_count - 1)) {
        result = errno == EPIPE || errno == ECONNRESET ? WORKER_GONE : WORKER_SYSTEM;
        goto fail;
    }
    if (own >= 0)
        close(own);
    *region = filled;
    worker->sequence = wire.sequence;
    worker->table = table;
    worker->table.evict_count = 0;
    worker->stamp_seen_ms = -1;
    return WORKER_OK;

fail:;
    const int saved = errno;
    if (own_memory)
        munmap(own_memory, layout.bytes);
    if (own >= 0)
        close(own);
    free(shards);
    errno = saved;
    return result;
}

void worker_next(struct worker *worker, struct worker_event *event)
{
    *event = (struct worker_event){.kind = WORKER_NONE};
    if (worker->finished) {
        event->kind = WORKER_DONE;
        event->bundle = worker->finished->bundle;
        worker->finished->done_told = true;
        worker->finished = NULL;
        return;
    }
    for (;;) {
        if (worker->result_next < worker->result.count) {
            hand_out(worker, event);
            if (event->kind != WORKER_NONE)
                return;
        } else if (worker->socket_open) {
            if (!receive(worker, event) || event->kind != WORKER_NONE)
                return;
        } else {
            reap(worker, event);
            return;
        }
    }
}

void worker_release(struct worker *worker, uint64_t bundle)
{
    for (unsigned i = 0; i < WORKER_BUNDLES_MAX; i++) {
        struct region *region = &worker->regions[i];
        if (!region->in_hand || region->bundle != bundle || !(region->done_told || !worker->socket_open))
            continue;
        free(region->shards);
        if (region->own_memory)
            munmap(region->own_memory, region->own_bytes);
        if (worker->finished == region)
            worker->finished = NULL;
        *region = (struct region){0};
        return;
    }
}

void worker_cancel(struct worker *worker, uint64_t bundle)
{
    struct wire_control *control = (struct wire_control *)(void *)worker->memory;
    for (unsigned i = 0; i < WORKER_BUNDLES_MAX; i++)
        if (worker->regions[i].in_hand && worker->regions[i].bundle == bundle)
            atomic_store(&control->cancel[i], 1);
}

int64_t worker_stalled_ms(struct worker *worker, int64_t now_ms)
{
    const struct wire_control *control = (const struct wire_control *)(void *)worker->memory;
    bool waiting = false;
    for (unsigned i = 0; i < WORKER_BUNDLES_MAX; i++)
        waiting |=
            worker->regions[i].in_hand && worker->regions[i].reported_count < worker->regions[i].shard_count;
    const uint64_t stamp = atomic_load(&control->stamp);
    if (!waiting || stamp != worker->stamp_seen || worker->stamp_seen_ms < 0) {
        worker->stamp_seen = stamp;
        worker->stamp_seen_ms = now_ms;
    }
    return now_ms - worker->stamp_seen_ms;
}

void worker_kill(struct worker *worker)
{
    if (worker->process.pid > 0 && !worker->exited_told)
        kill(worker->process.pid, SIGKILL);
}

uint64_t worker_resident(const struct worker *worker, uint32_t index, const uint8_t **id)
{
    if (index >= worker->table.count)
        return 0;
    *id = worker->table.residents[index].id;
    return worker->table.residents[index].bytes;
}

bool worker_holds(const struct worker *worker, const uint8_t id[WORKER_ID_BYTES])
{
    for (uint32_t i = 0; i < worker->table.count; i++)
        if (memcmp(worker->table.residents[i].id, id, WORKER_ID_BYTES) == 0)
            return true;
    return false;
}

static void table_remove(struct resident_table *table, uint32_t index)
{
    memcpy(table->evict[table->evict_count++], table->residents[index].id, WORKER_ID_BYTES);
    table->residents[index] = table->residents[--table->count];
}

void worker_evict(struct worker *worker, const uint8_t id[WORKER_ID_BYTES])
{
    /* Held and leaving together never pass WORKER_RESIDENTS_MAX: an entry comes only with a bundle, which
     * takes the evictions along. */
    for (uint32_t i = 0; i < worker->table.count; i++)
        if (memcmp(worker->table.residents[i].id, id, WORKER_ID_BYTES) == 0) {
            table_remove(&worker->table, i);
            return;
        }
}

int worker_memfd(const void *data, uint64_t bytes)
{
    const int fd = memfd_create("weir-blob", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    for (uint64_t at = 0; at < bytes;) {
        const ssize_t written = write(fd, (const char *)data + at, (size_t)(bytes - at));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            const int saved = errno;
            close(fd);
            errno = saved;
            return -1;
        }
        at += (uint64_t)written;
    }
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    return fd;
}

static int sealed_memory(const char *name, uint64_t bytes)
{
    const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        const int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* What a worker may know of our environment: how to find its libraries and its GPU, and how a test wants it
 * checked. */
static bool env_passes(const char *entry)
{
    static const char *const prefixes[] = {
        "PATH=",         "HOME=",          "LANG=",         "LC_",
        "TMPDIR=",       "LD_LIBRARY_",    "CUDA_",         "NVIDIA_",
        "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "LLVM_PROFILE_FILE="};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(entry, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static enum worker_error start(struct worker *worker, const struct worker_options *options, int socket,
                               int memory)
{
    char *environment[64], device[WORKER_NAME_BYTES], tenant[WORKER_NAME_BYTES], memory_option[40];
    size_t used = 0;
    for (char **entry = environ; *entry && used < 63; entry++)
        if (env_passes(*entry))
            environment[used++] = *entry;
    environment[used] = NULL;
    snprintf(device, sizeof device, "--device=%s", options->device);
    snprintf(tenant, sizeof tenant, "--tenant=%s", options->tenant ? options->tenant : "");
    snprintf(memory_option, sizeof memory_option, "--memory=%llu", (unsigned long long)options->memory_bytes);
    char *arguments[8] = {"weir-worker", "--serve", device};
    size_t count = 3;
    if (options->memory_bytes)
        arguments[count++] = memory_option;
    if (options->tenant)
        arguments[count++] = tenant;
    if (options->unboxed)
        arguments[count++] = "--unboxed";
    const int fds[] = {socket, memory}; /* WIRE_SOCKET_FD, WIRE_MEMORY_FD */
    const struct sandbox_spawn spawn = {.path = options->path,
                                        .argv = arguments,
                                        .envp = environment,
                                        .fds = fds,
                                        .fd_count = 2,
                                        .memory_bytes = options->memory_bytes,
                                        .processes = WORKER_PROCESSES};
    return sandbox_spawn(&worker->process, &spawn, &worker->sandbox) ? WORKER_OK : WORKER_SYSTEM;
}

/* The type and the bytes of one output of a shard of `items`. They were checked at submit, so they don't
 * overflow. */
static struct array_type shard_output(const struct region *region, uint32_t output, uint64_t items,
                                      uint64_t *bytes)
{
    struct array_type type = region->outputs[output];
    if (region->manifest->outputs[output].combine == MANIFEST_CONCAT)
        type.shape[0] *= items;
    *bytes = 0;
    array_bytes(&type, bytes);
    return type;
}

/* Stops listening. The process is killed, since nothing it could say would be heard. */
static void break_off(struct worker *worker, const char *reason)
{
    if (!worker->socket_open)
        return;
    snprintf(worker->reason, sizeof worker->reason, "%s", reason);
    epoll_ctl(worker->epoll, EPOLL_CTL_DEL, worker->socket, NULL);
    worker->socket_open = false;
    worker->result.count = worker->result_next = 0;
    worker_kill(worker);
}

/* The message's length fits its counts, and names a region in hand. Nothing in it is used before. */
static bool result_valid(const struct worker *worker, const struct wire_result *result, size_t bytes)
{
    const size_t head = offsetof(struct wire_result, outcomes);
    if (bytes < head || result->count == 0 || result->count > WIRE_RESULTS_MAX ||
        result->message_bytes >= WORKER_MESSAGE_BYTES || result->region >= WORKER_BUNDLES_MAX)
        return false;
    const struct region *region = &worker->regions[result->region];
    return bytes == head + result->count * sizeof *result->outcomes + result->message_bytes &&
           region->in_hand && region->sequence == result->sequence;
}

/* Reads one message. False: nothing to read. A READY event may come of it; a result waits for hand_out. */
static bool receive(struct worker *worker, struct worker_event *event)
{
    union {
        uint32_t kind;
        struct wire_hello hello;
        struct wire_result result;
    } in;
    const ssize_t got = recv(worker->socket, &in, sizeof in, MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        break_off(worker, "the worker ended");
        return true;
    }
    const size_t bytes = (size_t)got;
    if (bytes == sizeof in.hello && in.kind == WIRE_HELLO && !worker->ready) {
        uint8_t build[MANIFEST_DIGEST_BYTES];
        wire_build(build);
        if (in.hello.version != WIRE_VERSION || memcmp(in.hello.build, build, sizeof build) != 0) {
            break_off(worker,
                      "weir-worker is of another build than this program; install both from one build");
            return true;
        }
        worker->ready = true;
        sandbox_merge(&worker->sandbox, &in.hello.sandbox);
        event->kind = WORKER_READY;
        event->device = in.hello.device;
        event->device.kind[sizeof event->device.kind - 1] = '\0';
        event->device.name[sizeof event->device.name - 1] = '\0';
        return true;
    }
    if (bytes <= sizeof in.result && bytes >= sizeof in.kind && in.kind == WIRE_RESULT && worker->ready &&
        result_valid(worker, &in.result, bytes)) {
        /* The text follows the last outcome; it is moved to its own place. */
        const size_t text =
            offsetof(struct wire_result, outcomes) + in.result.count * sizeof *in.result.outcomes;
        memcpy(&worker->result, &in.result, text);
        memcpy(worker->result.message, (const char *)&in.result + text, in.result.message_bytes);
        worker->result.message[in.result.message_bytes] = '\0';
        worker->result_next = 0;
        return true;
    }
    break_off(worker, "the worker sent a message that makes no sense and was stopped");
    return true;
}

/* Gives the next outcome of the result read last. */
static void hand_out(struct worker *worker, struct worker_event *event)
{
    struct region *region = &worker->regions[worker->result.region];
    const bool last = worker->result_next + 1 == worker->result.count;
    const struct wire_outcome *outcome = &worker->result.outcomes[worker->result_next++];
    if (outcome->shard >= region->shard_count || outcome->outcome > WORKER_SHARD_CANCELLED ||
        region->shards[outcome->shard].reported) {
        break_off(worker, "the worker reported a shard that it does not have and was stopped");
        return;
    }
    struct shard_record *shard = &region->shards[outcome->shard];
    shard->reported = true;
    event->kind = WORKER_SHARD;
    event->bundle = region->bundle;
    event->shard = outcome->shard;
    event->outcome = (enum worker_outcome)outcome->outcome;
    event->device_us = outcome->device_us;
    if (event->outcome == WORKER_SHARD_OK) {
        const uint8_t *memory =
            region->own_memory
                ? region->own_memory
                : worker->memory + WIRE_CONTROL_BYTES + (uint64_t)worker->result.region * WORKER_REGION_BYTES;
        event->output_count = region->output_count;
        for (uint32_t i = 0; i < region->output_count; i++) {
            struct worker_output *output = &event->outputs[i];
            output->type = shard_output(region, i, shard->items, &output->bytes);
            output->data = memory + shard->offsets[i];
        }
    } else if (last) {
        memcpy(event->message, worker->result.message, sizeof event->message);
    }
    if (++region->reported_count == region->shard_count)
        worker->finished = region;
}

static bool reap(struct worker *worker, struct worker_event *event)
{
    siginfo_t info = {0};
    if (worker->exited_told)
        return false;
    const int waited = waitid(P_PIDFD, (id_t)worker->process.pidfd, &info, WEXITED | WNOHANG);
    if (waited == 0 && info.si_pid == 0)
        return false; /* not yet */
    epoll_ctl(worker->epoll, EPOLL_CTL_DEL, worker->process.pidfd, NULL);
    worker->exited_told = true;
    event->kind = WORKER_EXITED;
    if (waited == 0 && info.si_code == CLD_EXITED)
        event->exit_status = info.si_status;
    else
        event->exit_signal = waited == 0 ? info.si_status : SIGKILL;
    snprintf(event->message, sizeof event->message, "%s", worker->reason);
    return true;
}

static uint64_t align(uint64_t bytes)
{
    return (bytes + WIRE_ALIGNMENT - 1) / WIRE_ALIGNMENT * WIRE_ALIGNMENT;
}

/* Where the buffers begin: behind the job, its shards and a user's manifest. */
static uint64_t head_bytes(const struct worker_bundle *bundle)
{
    const struct manifest_user *user = bundle->manifest->user;
    uint64_t bytes = sizeof(struct wire_job) + bundle->shard_count * sizeof(struct wire_shard);
    if (!user)
        return align(bytes);
    bytes += user->text_bytes;
    manifest_user_place(&bytes, 0);
    return bytes;
}

/* Moves *at behind a buffer that is placed there. */
static uint64_t place(const struct manifest *manifest, uint64_t *at, uint64_t bytes)
{
    if (manifest->user)
        return manifest_user_place(at, bytes);
    const uint64_t offset = *at;
    *at += align(bytes);
    return offset;
}

/* Checks every shard against the manifest and lays the bundle out: job, inputs, outputs, each shard's side by
 * side. The output types are kept for one item, since only the first axis differs between shards. */
static enum worker_error check_bundle(const struct worker_bundle *bundle, struct shard_record *shards,
                                      struct layout *layout, char message[WORKER_MESSAGE_BYTES])
{
    const struct manifest *manifest = bundle->manifest;
    uint64_t at = head_bytes(bundle), inputs_bytes = 0;
    for (uint32_t i = 0; i < bundle->shard_count; i++) {
        const struct worker_shard *shard = &bundle->shards[i];
        struct manifest_shapes shapes = {.items = shard->items};
        for (uint32_t input = 0; input < manifest->input_count; input++) {
            const uint8_t role = bundle->roles[input];
            shapes.roles[input] = role;
            if (role == 0)
                continue;
            const struct array_type *type =
                role == MANIFEST_SPLIT ? &shard->rows[input].type : &bundle->blobs[input].type;
            const uint64_t given =
                role == MANIFEST_SPLIT ? shard->rows[input].bytes : bundle->blobs[input].bytes;
            uint64_t bytes;
            if (array_bytes(type, &bytes) || (type->dtype != ARRAY_TEXT && bytes != given) || given == 0) {
                snprintf(message, WORKER_MESSAGE_BYTES,
                         "%s: shard %u has %llu bytes of input %s, not what its type says", manifest->name, i,
                         (unsigned long long)given, manifest->inputs[input].name);
                return WORKER_BAD_BUNDLE;
            }
            shapes.inputs[input] = *type;
            if (role == MANIFEST_SPLIT) {
                struct array_type first = bundle->shards[0].rows[input].type;
                first.shape[0] = type->shape[0];
                if (!array_type_equal(&first, type)) {
                    snprintf(message, WORKER_MESSAGE_BYTES,
                             "%s: shards of one bundle differ in the rows of %s", manifest->name,
                             manifest->inputs[input].name);
                    return WORKER_BAD_BUNDLE;
                }
                if (given > WORKER_BUNDLE_BYTES_MAX)
                    return WORKER_TOO_LARGE;
                place(manifest, &inputs_bytes, given);
                shapes.split_bytes += given;
            }
        }
        struct array_type outputs[MANIFEST_OUTPUTS_MAX] = {0};
        uint32_t output_count = 0;
        if (manifest_outputs(manifest, &bundle->params, &shapes, outputs, &output_count, message))
            return WORKER_BAD_BUNDLE;
        shards[i].items = shard->items;
        if (i == 0) {
            layout->output_count = output_count;
            memcpy(layout->outputs, outputs, sizeof outputs);
        }
        for (uint32_t output = 0; output < output_count; output++) {
            uint64_t bytes;
            array_bytes(&outputs[output], &bytes);
            if (bytes > WORKER_BUNDLE_BYTES_MAX)
                return WORKER_TOO_LARGE;
            shards[i].offsets[output] = place(manifest, &at, bytes);
            if (manifest->outputs[output].combine == MANIFEST_CONCAT)
                layout->outputs[output].shape[0] = outputs[output].shape[0] / shard->items;
        }
        if (at + inputs_bytes > WORKER_BUNDLE_BYTES_MAX)
            return WORKER_TOO_LARGE;
    }
    layout->bytes = at + inputs_bytes;
    return WORKER_OK;
}

/* Outputs were placed first, so inputs follow them. */
static void copy_bundle(const struct worker_bundle *bundle, const struct region *region, uint8_t *memory)
{
    struct wire_job *job = (struct wire_job *)(void *)memory;
    *job = (struct wire_job){.params = bundle->params, .shard_count = bundle->shard_count};
    snprintf(job->kernel, sizeof job->kernel, "%s", bundle->manifest->name);
    uint64_t at = head_bytes(bundle);
    const struct manifest_user *user = bundle->manifest->user;
    if (user) {
        job->manifest = (struct wire_place){.offset = sizeof *job + bundle->shard_count * sizeof *job->shards,
                                            .bytes = user->text_bytes};
        memcpy(memory + job->manifest.offset, user->text, user->text_bytes);
    }
    for (uint32_t input = 0; input < bundle->manifest->input_count; input++) {
        job->roles[input] = bundle->roles[input];
        if (bundle->roles[input] == MANIFEST_BROADCAST) {
            job->types[input] = bundle->blobs[input].type;
            memcpy(job->blobs[input], bundle->blobs[input].id, WORKER_ID_BYTES);
        } else if (bundle->roles[input] == MANIFEST_SPLIT) {
            job->types[input] = bundle->shards[0].rows[input].type;
        }
    }
    for (uint32_t i = 0; i < bundle->shard_count; i++) {
        job->shards[i] =
            (struct wire_shard){.first_item = bundle->shards[i].first_item, .items = bundle->shards[i].items};
        for (uint32_t output = 0; output < region->output_count; output++) {
            uint64_t bytes;
            shard_output(region, output, bundle->shards[i].items, &bytes);
            job->shards[i].outputs[output] =
                (struct wire_place){.offset = region->shards[i].offsets[output], .bytes = bytes};
            place(bundle->manifest, &at, bytes);
        }
    }
    for (uint32_t i = 0; i < bundle->shard_count; i++)
        for (uint32_t input = 0; input < bundle->manifest->input_count; input++) {
            if (bundle->roles[input] != MANIFEST_SPLIT)
                continue;
            const struct worker_rows *rows = &bundle->shards[i].rows[input];
            const uint64_t offset = place(bundle->manifest, &at, rows->bytes);
            memcpy(memory + offset, rows->data, rows->bytes);
            job->shards[i].inputs[input] = (struct wire_place){.offset = offset, .bytes = rows->bytes};
        }
}

static bool bundle_needs(const struct worker_bundle *bundle, const uint8_t *id)
{
    for (uint32_t input = 0; input < bundle->manifest->input_count; input++)
        if (bundle->roles[input] == MANIFEST_BROADCAST &&
            memcmp(bundle->blobs[input].id, id, WORKER_ID_BYTES) == 0)
            return true;
    return false;
}

/* Decides which broadcast inputs are new to the worker and which old ones leave for them, least recently used
 * first. Works on a copy of the table, so that a failed submit changes nothing. */
static enum worker_error plan_residents(const struct worker *worker, const struct worker_bundle *bundle,
                                        struct resident_table *table, struct wire_bundle *wire,
                                        int fds[WIRE_FDS_MAX], uint32_t *fd_count)
{
    for (uint32_t input = 0; input < bundle->manifest->input_count; input++) {
        if (bundle->roles[input] != MANIFEST_BROADCAST)
            continue;
        const struct worker_blob *blob = &bundle->blobs[input];
        struct resident *found = NULL;
        for (uint32_t i = 0; i < table->count; i++)
            if (memcmp(table->residents[i].id, blob->id, WORKER_ID_BYTES) == 0)
                found = &table->residents[i];
        if (found) {
            if (found->bytes != blob->bytes)
                return WORKER_BAD_BLOB;
            found->used = wire->sequence;
            continue;
        }
        struct stat status;
        if (blob->fd < 0 || fstat(blob->fd, &status) != 0 || status.st_size < 0 ||
            blob->offset > (uint64_t)status.st_size || blob->bytes > (uint64_t)status.st_size - blob->offset)
            return WORKER_BAD_BLOB;
        for (;;) {
            uint64_t total = 0;
            uint32_t oldest = WORKER_RESIDENTS_MAX;
            for (uint32_t i = 0; i < table->count; i++) {
                total += table->residents[i].bytes;
                if (!bundle_needs(bundle, table->residents[i].id) &&
                    (oldest == WORKER_RESIDENTS_MAX ||
                     table->residents[i].used < table->residents[oldest].used))
                    oldest = i;
            }
            if (table->count < WORKER_RESIDENTS_MAX && blob->bytes <= worker->resident_bytes_max &&
                total <= worker->resident_bytes_max - blob->bytes)
                break;
            if (oldest == WORKER_RESIDENTS_MAX || table->evict_count == WORKER_RESIDENTS_MAX)
                return WORKER_TOO_LARGE;
            table_remove(table, oldest);
        }
        struct resident *added = &table->residents[table->count++];
        *added = (struct resident){.bytes = blob->bytes, .used = wire->sequence};
        memcpy(added->id, blob->id, WORKER_ID_BYTES);
        struct wire_blob *sent = &wire->blobs[wire->blob_count++];
        sent->offset = blob->offset;
        sent->bytes = blob->bytes;
        memcpy(sent->id, blob->id, WORKER_ID_BYTES);
        fds[(*fd_count)++] = blob->fd;
    }
    if (bundle->manifest->user) { /* the worker knows which it has mapped already */
        wire->code.bytes = bundle->code.bytes;
        memcpy(wire->code.id, bundle->code.id, WORKER_ID_BYTES);
        fds[(*fd_count)++] = bundle->code.fd;
    }
    wire->evict_count = table->evict_count;
    memcpy(wire->evict, table->evict, sizeof wire->evict);
    return WORKER_OK;
}

static bool send_with_fds(int socket, const void *bytes, size_t count, const int *fds, uint32_t fd_count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (fd_count > 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)count;
}
