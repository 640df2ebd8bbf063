#include "kernels/worker_serve.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/user_run.h"
#include "kernels/worker_wire.h"

#define REPORT_EVERY_US 4000 /* small shards are reported together, but not later than this */
#define IMAGES_MAX 16        /* users' kernels that stay loaded */

/* A broadcast input, mapped when the node first sends it, unmapped when the node says so. */
struct mapping {
    bool used;
    uint8_t id[WORKER_ID_BYTES];
    uint8_t *room; /* begins on the page boundary below the data */
    uint64_t room_bytes;
    const uint8_t *data;
    uint64_t bytes;
    struct kernel_keep keep;
};

/* A user's kernel, loaded when its first bundle comes; the one that was not used longest makes room. */
struct loaded {
    uint8_t id[WORKER_ID_BYTES];
    uint64_t used; /* 0: none; counts bundles */
    struct user_image *image;
    struct manifest_user *user;
};

/* What a user's kernel sees on a CPU: each buffer in a room of its own (kernels/user_run.h), in which all of the memory is
 * mapped and nothing can be touched but that buffer, while its shard runs. Opened as they are needed; mapped so, the pages
 * stay known to the processor from shard to shard. */
struct rooms {
    int fd; /* of the memory */
    uint64_t bytes;
    uint8_t *inputs[MANIFEST_INPUTS_MAX], *outputs[MANIFEST_OUTPUTS_MAX];
};

struct server {
    struct gpu *gpu;
    uint8_t *memory;
    struct rooms rooms; /* of that memory */
    struct wire_control *control;
    struct mapping mappings[WORKER_RESIDENTS_MAX];
    struct wire_result result; /* outcomes not yet sent */
    uint64_t sent_us;          /* when the last ones were */
    struct loaded loaded[IMAGES_MAX];
    uint64_t bundles;
    uint32_t shard, shard_count; /* of the bundle that runs: a foreign kernel's fault is told of that shard */
};

static struct server *faulty; /* whom a fault is told of: a signal handler has no other way to know */

static bool serve_bundle(struct server *server, const struct wire_bundle *bundle, const int *fds,
                         uint32_t fd_count);
static bool run_shards(struct server *server, const struct wire_bundle *bundle, uint8_t *memory,
                       const struct loaded *loaded, struct rooms *rooms);
static bool report(struct server *server, const char *text);
static void tell_fault(const char *message);
static bool map_blob(struct server *server, const struct wire_blob *blob, int fd);
static void unmap_blob(struct mapping *mapping);
static void close_rooms(struct rooms *rooms);
static struct mapping *find_mapping(struct server *server, const uint8_t *id);

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Receives one bundle with its descriptors. 1: got one, 0: the node's end has closed, -1: it makes no sense.
 */
static int receive(struct wire_bundle *bundle, int fds[WIRE_FDS_MAX], uint32_t *fd_count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = bundle, .iov_len = sizeof *bundle};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;
    do
        got = recvmsg(WIRE_SOCKET_FD, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    *fd_count = 0;
    if (got <= 0)
        return 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            *fd_count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(header), *fd_count * sizeof(int));
        }
    const bool sound =
        got == sizeof *bundle && bundle->kind == WIRE_BUNDLE && bundle->region < WORKER_BUNDLES_MAX &&
        bundle->blob_count <= MANIFEST_INPUTS_MAX && bundle->evict_count <= WORKER_RESIDENTS_MAX &&
        *fd_count == bundle->blob_count + (bundle->own_bytes ? 1 : 0) + (bundle->code.bytes ? 1 : 0) &&
        !(message.msg_flags & MSG_CTRUNC);
    return sound ? 1 : -1;
}

struct server *worker_serve_open(void)
{
    struct stat status;
    if (fstat(WIRE_MEMORY_FD, &status) != 0 || (uint64_t)status.st_size != WIRE_MEMORY_BYTES) {
        fprintf(stderr, "weir-worker: --serve is for the node, which hands over a socket and memory\n");
        return NULL;
    }
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->memory = mmap(NULL, WIRE_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, WIRE_MEMORY_FD, 0);
    if (server->memory == MAP_FAILED) {
        perror("weir-worker: mmap");
        free(server);
        return NULL;
    }
    server->control = (struct wire_control *)(void *)server->memory;
    server->rooms = (struct rooms){.fd = WIRE_MEMORY_FD, .bytes = WIRE_MEMORY_BYTES};
    faulty = server;
    user_faults(tell_fault);
    return server;
}

/* Not send(), which is another call: the sandbox knows one way to speak. */
static bool say(const void *bytes, size_t count)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return sendmsg(WIRE_SOCKET_FD, &message, MSG_NOSIGNAL) == (ssize_t)count;
}

int worker_serve(struct server *server, const struct worker_device *device, struct gpu *gpu,
                 const struct sandbox_report *sandbox)
{
    struct wire_hello hello = {
        .kind = WIRE_HELLO, .version = WIRE_VERSION, .device = *device, .sandbox = *sandbox};
    wire_build(hello.build);
    server->gpu = gpu;
    int result = say(&hello, sizeof hello) ? -1 : 0;
    while (result < 0) {
        struct wire_bundle bundle;
        int fds[WIRE_FDS_MAX];
        uint32_t fd_count;
        const int got = receive(&bundle, fds, &fd_count);
        if (got <= 0)
            result = got == 0 ? 0 : 1;
        else if (!serve_bundle(server, &bundle, fds, fd_count))
            result = 1;
        for (uint32_t i = 0; i < fd_count; i++)
            close(fds[i]);
    }
    for (unsigned i = 0; i < WORKER_RESIDENTS_MAX; i++)
        if (server->mappings[i].used)
            unmap_blob(&server->mappings[i]);
    close_rooms(&server->rooms);
    munmap(server->memory, WIRE_MEMORY_BYTES);
    free(server);
    return result;
}

/* ---- Users' kernels */

static void unload(struct loaded *loaded)
{
    user_image_close(loaded->image);
    free(loaded->user);
    *loaded = (struct loaded){0};
}

/* The kernel of a bundle, mapped already or now. NULL with a message. */
static struct loaded *load_code(struct server *server, const struct wire_bundle *bundle,
                                const uint8_t *memory, int fd, char message[MANIFEST_ERROR_BYTES])
{
    const struct wire_job *job = (const struct wire_job *)(const void *)memory;
    struct loaded *oldest = server->loaded;
    server->bundles++;
    for (struct loaded *each = server->loaded; each < server->loaded + IMAGES_MAX; each++) {
        if (each->used && memcmp(each->id, bundle->code.id, WORKER_ID_BYTES) == 0) {
            each->used = server->bundles;
            return each;
        }
        oldest = each->used < oldest->used ? each : oldest;
    }
    unload(oldest);
    oldest->user = malloc(sizeof *oldest->user);
    snprintf(message, MANIFEST_ERROR_BYTES, "out of memory");
    if (oldest->user && manifest_user_parse("manifest", (const char *)memory + job->manifest.offset,
                                            job->manifest.bytes, oldest->user, message))
        oldest->image = user_image_open(fd, bundle->code.bytes, server->gpu, message);
    if (!oldest->image) {
        unload(oldest);
        return NULL;
    }
    memcpy(oldest->id, bundle->code.id, WORKER_ID_BYTES);
    oldest->used = server->bundles;
    return oldest;
}

/* ---- What a user's kernel sees */

static void *find_room(const struct rooms *rooms, uint8_t **room, uint64_t offset)
{
    if (!*room) {
        uint8_t *fresh = user_room_open(rooms->bytes);
        if (fresh &&
            mmap(fresh, rooms->bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, rooms->fd, 0) == MAP_FAILED) {
            user_room_close(fresh, rooms->bytes);
            return NULL;
        }
        *room = fresh;
    }
    return *room ? *room + offset : NULL;
}

static void close_rooms(struct rooms *rooms)
{
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        user_room_close(rooms->inputs[i], rooms->bytes);
    for (uint32_t i = 0; i < MANIFEST_OUTPUTS_MAX; i++)
        user_room_close(rooms->outputs[i], rooms->bytes);
}

/* Moves a shard's buffers to their rooms; `memory` is where they lie in ours, `base` where that is in the rooms. */
static enum kernel_error move_in(struct rooms *rooms, const uint8_t *memory, uint64_t base,
                                 struct kernel_call *call)
{
    bool good = true;
    for (uint32_t i = 0; good && i < call->manifest->input_count; i++) {
        struct kernel_input *input = &call->inputs[i];
        if (!input->data || input->broadcast)
            continue;
        input->data =
            find_room(rooms, &rooms->inputs[i], base + (uint64_t)((const uint8_t *)input->data - memory));
        good = input->data && user_access(input->data, input->bytes, PROT_READ);
    }
    for (uint32_t i = 0; good && i < call->output_count; i++) {
        struct kernel_output *output = &call->outputs[i];
        output->data =
            find_room(rooms, &rooms->outputs[i], base + (uint64_t)((const uint8_t *)output->data - memory));
        good = output->data && user_access(output->data, output->bytes, PROT_READ | PROT_WRITE);
    }
    return good ? KERNEL_OK
                : kernel_fail(call, KERNEL_FAILED, "no room for the kernel's buffers: %s", strerror(errno));
}

static void move_out(const struct kernel_call *call)
{
    for (uint32_t i = 0; i < call->manifest->input_count; i++)
        if (call->inputs[i].data && !call->inputs[i].broadcast)
            user_access(call->inputs[i].data, call->inputs[i].bytes, PROT_NONE);
    for (uint32_t i = 0; i < call->output_count; i++)
        user_access(call->outputs[i].data, call->outputs[i].bytes, PROT_NONE);
}

static void begin_result(struct server *server, const struct wire_bundle *bundle)
{
    server->result.kind = WIRE_RESULT;
    server->result.region = bundle->region;
    server->result.sequence = bundle->sequence;
}

/* One shard's outcome with its text, then the rest as not run. */
static bool report_rest(struct server *server, uint32_t shard, uint32_t shard_count, const char *message)
{
    struct wire_result *result = &server->result;
    bool good = result->count < WIRE_RESULTS_MAX || report(server, "");
    result->outcomes[result->count++] =
        (struct wire_outcome){.shard = shard, .outcome = WORKER_SHARD_REJECTED};
    good = good && report(server, message);
    for (uint32_t i = shard + 1; good && i < shard_count; i++) {
        result->outcomes[result->count++] =
            (struct wire_outcome){.shard = i, .outcome = WORKER_SHARD_CANCELLED};
        if (result->count == WIRE_RESULTS_MAX || i + 1 == shard_count)
            good = report(server, "");
    }
    return good;
}

static bool reject_all(struct server *server, const struct wire_bundle *bundle, const uint8_t *memory,
                       const char *message)
{
    begin_result(server, bundle);
    return report_rest(server, 0, ((const struct wire_job *)(const void *)memory)->shard_count, message);
}

static void tell_fault(const char *message)
{
    report_rest(faulty, faulty->shard, faulty->shard_count, message);
}

/* The first shard fails with the reason, since there is no other way to tell it. */
static bool give_up(struct server *server, const struct wire_bundle *bundle, const char *what, uint64_t bytes)
{
    char text[WORKER_MESSAGE_BYTES];
    snprintf(text, sizeof text, "%s (%llu bytes): %s", what, (unsigned long long)bytes, strerror(errno));
    begin_result(server, bundle);
    server->result.outcomes[server->result.count++] = (struct wire_outcome){.outcome = WORKER_SHARD_FAILED};
    report(server, text);
    return false;
}

/* False ends the worker: it is then of no use, and a fresh one is cheap. */
static bool serve_bundle(struct server *server, const struct wire_bundle *bundle, const int *fds,
                         uint32_t fd_count)
{
    uint8_t *memory = server->memory + WIRE_CONTROL_BYTES + (uint64_t)bundle->region * WORKER_REGION_BYTES;
    const int *blob_fds = fds + (bundle->own_bytes ? 1 : 0);
    for (uint32_t i = 0; i < bundle->evict_count; i++) {
        struct mapping *mapping = find_mapping(server, bundle->evict[i]);
        if (mapping)
            unmap_blob(mapping);
    }
    for (uint32_t i = 0; i < bundle->blob_count; i++)
        if (!map_blob(server, &bundle->blobs[i], blob_fds[i]))
            return give_up(server, bundle, "a broadcast input could not be mapped", bundle->blobs[i].bytes);
    if (bundle->own_bytes) {
        memory = mmap(NULL, bundle->own_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
        if (memory == MAP_FAILED)
            return give_up(server, bundle, "the bundle's memory could not be mapped", bundle->own_bytes);
    }
    struct rooms own = {.fd = bundle->own_bytes ? fds[0] : -1, .bytes = bundle->own_bytes};
    struct loaded *loaded = NULL;
    char message[MANIFEST_ERROR_BYTES];
    if (bundle->code.bytes)
        loaded = load_code(server, bundle, memory, fds[fd_count - 1], message);
    const bool good = bundle->code.bytes && !loaded ? reject_all(server, bundle, memory, message)
                                                    : run_shards(server, bundle, memory, loaded,
                                                                 bundle->own_bytes ? &own : &server->rooms);
    close_rooms(&own);
    if (bundle->own_bytes)
        munmap(memory, bundle->own_bytes);
    return good;
}

/* Sends the outcomes gathered so far; text is about the last of them. False if the node's end has gone. */
static bool report(struct server *server, const char *text)
{
    struct wire_result *result = &server->result;
    const size_t head = offsetof(struct wire_result, outcomes) + result->count * sizeof *result->outcomes;
    if (result->count == 0)
        return true;
    result->message_bytes = (uint32_t)strnlen(text, WORKER_MESSAGE_BYTES - 1);
    struct iovec parts[2] = {{.iov_base = result, .iov_len = head},
                             {.iov_base = (void *)(uintptr_t)text, .iov_len = result->message_bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent;
    do
        sent = sendmsg(WIRE_SOCKET_FD, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    result->count = 0;
    server->sent_us = now_us();
    return sent == (ssize_t)(head + result->message_bytes);
}

/* Finds a shard's inputs and the places of its outputs. */
static enum kernel_error prepare(struct server *server, const struct wire_job *job,
                                 const struct wire_shard *shard, uint32_t region, uint8_t *memory,
                                 const struct loaded *loaded, struct kernel_call *call)
{
    *call = (struct kernel_call){
        .manifest = loaded ? &loaded->user->manifest : manifest_find(job->kernel),
        .image = loaded ? loaded->image : NULL,
        .params = &job->params,
        .first_item = shard->first_item,
        .items = shard->items,
        .watch = {.stamp = &server->control->stamp, .cancel = &server->control->cancel[region]},
    };
    if (!call->manifest)
        return kernel_fail(call, KERNEL_FAILED, "this worker has no kernel of that name");
    struct manifest_shapes shapes = {.items = shard->items};
    for (uint32_t i = 0; i < call->manifest->input_count; i++) {
        struct kernel_input *input = &call->inputs[i];
        shapes.roles[i] = job->roles[i];
        if (job->roles[i] == 0)
            continue;
        input->type = job->types[i];
        if (job->roles[i] == MANIFEST_SPLIT) {
            input->type.shape[0] = shard->items;
            input->data = memory + shard->inputs[i].offset;
            input->bytes = shard->inputs[i].bytes;
            shapes.split_bytes += input->bytes;
        } else {
            struct mapping *mapping = find_mapping(server, job->blobs[i]);
            if (!mapping)
                return kernel_fail(call, KERNEL_FAILED, "this worker does not hold a broadcast input");
            input->data = mapping->data;
            input->bytes = mapping->bytes;
            input->broadcast = true;
            input->keep = &mapping->keep;
        }
        shapes.inputs[i] = input->type;
    }
    struct array_type types[MANIFEST_OUTPUTS_MAX];
    if (manifest_outputs(call->manifest, call->params, &shapes, types, &call->output_count, call->message))
        return KERNEL_REJECTED;
    for (uint32_t i = 0; i < call->output_count; i++)
        call->outputs[i] = (struct kernel_output){
            .data = memory + shard->outputs[i].offset, .bytes = shard->outputs[i].bytes, .type = types[i]};
    return KERNEL_OK;
}

/* One shard's outcome, reported with others when it is time. False if the node's end has gone. */
static bool settle(struct server *server, uint32_t shard, enum kernel_error error, uint64_t device_us,
                   const char *message)
{
    static const enum worker_outcome outcomes[] = {
        [KERNEL_OK] = WORKER_SHARD_OK,
        [KERNEL_REJECTED] = WORKER_SHARD_REJECTED,
        [KERNEL_FAILED] = WORKER_SHARD_FAILED,
        [KERNEL_CANCELLED] = WORKER_SHARD_CANCELLED,
    };
    struct wire_result *result = &server->result;
    atomic_fetch_add(&server->control->stamp, 1);
    result->outcomes[result->count++] =
        (struct wire_outcome){.shard = shard, .outcome = (uint32_t)outcomes[error], .device_us = device_us};
    const bool full = result->count == WIRE_RESULTS_MAX || now_us() - server->sent_us >= REPORT_EVERY_US;
    return !(full || *message || shard + 1 == server->shard_count) || report(server, message);
}

static bool run_on_cpu(struct server *server, const struct wire_bundle *bundle, uint8_t *memory,
                       const struct loaded *loaded, struct rooms *rooms)
{
    const struct wire_job *job = (const struct wire_job *)(const void *)memory;
    const uint64_t base = bundle->own_bytes ? 0 : (uint64_t)(memory - server->memory);
    const uint32_t shard_count = server->shard_count;
    uint64_t before_us = now_us();
    for (uint32_t i = 0; i < shard_count; i++) {
        struct kernel_call call;
        enum kernel_error error = KERNEL_CANCELLED;
        call.message[0] = '\0';
        server->shard = i;
        if (atomic_load(&server->control->cancel[bundle->region]) == 0) {
            error = prepare(server, job, &job->shards[i], bundle->region, memory, loaded, &call);
            if (!error && loaded)
                error = move_in(rooms, memory, base, &call);
            if (!error) {
                error = kernel_run(&call, NULL);
                if (loaded)
                    move_out(&call);
            }
        }
        const uint64_t after_us = now_us();
        if (!settle(server, i, error, after_us - before_us, call.message))
            return false;
        before_us = after_us;
    }
    return true;
}

/* The shards of a bundle on their way through the GPU. */
struct passage {
    struct kernel_call *calls;
    enum kernel_error *errors; /* of what was found before they were submitted */
    uint32_t submitted, settled;
};

/* Each shard of a batch gets its part of the batch's time, by its items. */
static bool settle_batch(struct server *server, struct passage *passage, const struct kernel_call *calls,
                         uint32_t count, enum kernel_error error, uint64_t device_ns)
{
    uint64_t items = 0;
    for (uint32_t i = 0; i < count; i++)
        items += calls[i].items;
    for (uint32_t i = 0; i < count; i++) {
        const double us = (double)device_ns / 1000 * (double)calls[i].items / (double)items;
        if (!settle(server, passage->settled++, error, (uint64_t)us, error ? calls[i].message : ""))
            return false;
    }
    return true;
}

/* Batches that are collected give every shard an outcome. Where a batch of several fails, nobody knows which of them is to
 * blame, and each is run by itself, after what was submitted behind them has been collected. */
static bool collect(struct server *server, struct passage *passage)
{
    struct kernel_call *calls;
    uint32_t count;
    uint64_t device_ns;
    const enum kernel_error error = gpu_collect(server->gpu, &calls, &count, &device_ns);
    const bool apart = count > 1 && (error == KERNEL_FAILED || error == KERNEL_REJECTED);
    if (apart && !gpu_broken(server->gpu)) {
        struct kernel_call *later;
        uint32_t later_count;
        uint64_t later_ns;
        const enum kernel_error later_error = gpu_collect(server->gpu, &later, &later_count, &later_ns);
        /* Those behind may have failed likewise: they go the same way, one by one. */
        for (uint32_t i = 0; i < count + (later_error ? later_count : 0); i++) {
            calls[i].message[0] = '\0';
            const enum kernel_error own = kernel_run(&calls[i], server->gpu);
            if (!settle(server, passage->settled++, own, 0, calls[i].message) || gpu_broken(server->gpu))
                return false;
        }
        return later_error || settle_batch(server, passage, later, later_count, KERNEL_OK, later_ns);
    }
    return settle_batch(server, passage, calls, count, error, device_ns);
}

/* Submits what there is room for. */
static void submit(struct server *server, struct passage *passage, uint32_t region)
{
    while (passage->submitted < server->shard_count && gpu_room(server->gpu) &&
           !passage->errors[passage->submitted]) {
        if (atomic_load(&server->control->cancel[region])) {
            for (uint32_t i = passage->submitted; i < server->shard_count; i++)
                passage->errors[i] = KERNEL_CANCELLED;
            return;
        }
        uint32_t sound = passage->submitted;
        while (sound < server->shard_count && !passage->errors[sound])
            sound++;
        struct kernel_call *next = &passage->calls[passage->submitted];
        const uint32_t count = gpu_batch(server->gpu, next, sound - passage->submitted);
        gpu_submit(server->gpu, next, count);
        passage->submitted += count;
    }
}

static bool run_on_gpu(struct server *server, const struct wire_bundle *bundle, uint8_t *memory,
                       const struct loaded *loaded)
{
    const struct wire_job *job = (const struct wire_job *)(const void *)memory;
    const uint32_t shard_count = server->shard_count;
    struct passage passage = {.calls = calloc(shard_count, sizeof *passage.calls),
                              .errors = calloc(shard_count, sizeof *passage.errors)};
    bool good = passage.calls && passage.errors;
    for (uint32_t i = 0; good && i < shard_count; i++)
        passage.errors[i] =
            prepare(server, job, &job->shards[i], bundle->region, memory, loaded, &passage.calls[i]);
    while (good && passage.settled < shard_count) {
        submit(server, &passage, bundle->region);
        if (passage.settled < passage.submitted) {
            good = collect(server, &passage);
        } else {
            const uint32_t i = passage.submitted++;
            passage.settled++;
            good = settle(server, i, passage.errors[i], 0, passage.calls[i].message);
        }
        if (gpu_broken(server->gpu)) {
            report(server, gpu_message(server->gpu));
            fprintf(stderr, "weir-worker: the GPU failed: %s\n", gpu_message(server->gpu));
            good = false;
        }
    }
    free(passage.calls);
    free(passage.errors);
    return good;
}

static bool run_shards(struct server *server, const struct wire_bundle *bundle, uint8_t *memory,
                       const struct loaded *loaded, struct rooms *rooms)
{
    const struct wire_job *job = (const struct wire_job *)(const void *)memory;
    /* Read once: after the last report the node may put the next bundle there. */
    server->shard_count = job->shard_count;
    begin_result(server, bundle);
    server->sent_us = now_us();
    return server->gpu ? run_on_gpu(server, bundle, memory, loaded)
                       : run_on_cpu(server, bundle, memory, loaded, rooms);
}

static struct mapping *find_mapping(struct server *server, const uint8_t *id)
{
    for (unsigned i = 0; i < WORKER_RESIDENTS_MAX; i++)
        if (server->mappings[i].used && memcmp(server->mappings[i].id, id, WORKER_ID_BYTES) == 0)
            return &server->mappings[i];
    return NULL;
}

static bool map_blob(struct server *server, const struct wire_blob *blob, int fd)
{
    struct mapping *mapping = server->mappings;
    while (mapping < server->mappings + WORKER_RESIDENTS_MAX && mapping->used)
        mapping++;
    if (mapping == server->mappings + WORKER_RESIDENTS_MAX) {
        errno = ENOSPC;
        return false;
    }
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip = blob->offset % page;
    const uint64_t inner = (skip + blob->bytes + page - 1) / page * page;
    uint8_t *room = user_room_open(inner); /* users' kernels may look too far */
    if (!room)
        return false;
    if (inner > 0 && mmap(room, (size_t)(blob->bytes + skip), PROT_READ, MAP_SHARED | MAP_FIXED, fd,
                          (off_t)(blob->offset - skip)) == MAP_FAILED) {
        const int saved = errno;
        user_room_close(room, inner);
        errno = saved;
        return false;
    }
    *mapping = (struct mapping){
        .used = true, .room = room, .room_bytes = inner, .data = room + skip, .bytes = blob->bytes};
    memcpy(mapping->id, blob->id, WORKER_ID_BYTES);
    return true;
}

static void unmap_blob(struct mapping *mapping)
{
    kernel_keep_release(&mapping->keep);
    user_room_close(mapping->room, mapping->room_bytes);
    *mapping = (struct mapping){0};
}
