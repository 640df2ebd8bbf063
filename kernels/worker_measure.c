/* What a worker costs, measured from the node's end: how long one takes to start, sandbox included, and how long a
 * shard takes that does nothing, there and back. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/worker_serve.h"

#define STARTS 21
#define ROUNDS 4000
#define WARM_UP 200
#define PATIENCE_MS 10000

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int by_size(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* The next event, waiting for it as a node's loop does. */
static enum worker_event_kind next(struct worker *worker, struct worker_event *event)
{
    struct pollfd wait = {.fd = worker_fd(worker), .events = POLLIN};
    worker_next(worker, event);
    while (event->kind == WORKER_NONE && poll(&wait, 1, PATIENCE_MS) > 0)
        worker_next(worker, event);
    return event->kind;
}

/* NULL if it doesn't start. */
static struct worker *start(const char *device, double *us)
{
    struct worker *worker;
    struct worker_event event;
    const struct worker_options options = {
        .path = "/proc/self/exe", .device = device, .memory_bytes = 1u << 30};
    const double began_us = now_us();
    if (worker_open(&worker, &options) != WORKER_OK)
        return NULL;
    const bool ready = next(worker, &event) == WORKER_READY;
    *us = now_us() - began_us;
    if (ready)
        return worker;
    worker_close(worker);
    return NULL;
}

static bool round_trip(struct worker *worker, uint64_t id, double *us)
{
    static const uint64_t row = 1;
    const struct worker_shard shard = {
        .items = 1, .rows = {{.data = &row, .bytes = sizeof row, .type = {ARRAY_RAW, 2, {1, sizeof row}}}}};
    const struct worker_bundle bundle = {.id = id,
                                         .manifest = manifest_find("noop"),
                                         .roles = {MANIFEST_SPLIT},
                                         .shards = &shard,
                                         .shard_count = 1};
    char message[WORKER_MESSAGE_BYTES];
    struct worker_event event;
    const double began_us = now_us();
    bool good = worker_submit(worker, &bundle, message) == WORKER_OK &&
                next(worker, &event) == WORKER_SHARD && event.outcome == WORKER_SHARD_OK;
    *us = now_us() - began_us;
    good = good && next(worker, &event) == WORKER_DONE;
    worker_release(worker, id);
    return good;
}

int worker_measure(const char *device)
{
    static double starts[STARTS], rounds[ROUNDS];
    struct worker *worker = NULL;
    for (int i = 0; i < STARTS; i++) {
        worker_close(worker);
        worker = start(device, &starts[i]);
        if (!worker) {
            fprintf(stderr, "weir-worker: no worker starts for %s\n", device);
            return 1;
        }
    }
    bool good = true;
    for (int i = -WARM_UP; good && i < ROUNDS; i++)
        good = round_trip(worker, (uint64_t)(i + WARM_UP + 1), &rounds[i < 0 ? 0 : i]);
    worker_close(worker);
    if (!good) {
        fprintf(stderr, "weir-worker: the worker ended while it was measured\n");
        return 1;
    }
    qsort(starts, STARTS, sizeof *starts, by_size);
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    printf("{\"worker_start_ms\":%.2f,\"worker_start_max_ms\":%.2f,\"worker_roundtrip_us\":%.1f,"
           "\"worker_roundtrip_p99_us\":%.1f}\n",
           starts[STARTS / 2] / 1e3, starts[STARTS - 1] / 1e3, rounds[ROUNDS / 2], rounds[ROUNDS * 99 / 100]);
    return 0;
}
