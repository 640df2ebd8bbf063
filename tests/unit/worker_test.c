/* The node's end against the real weir-worker process, and against impostors. */
#include "kernels/worker.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/worker_wire.h"

#define DEADLINE_MS 20000

static char self_path[4096];

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct worker *open_worker(void)
{
    struct worker *worker = NULL;
    const struct worker_options options = {.path = WORKER_PATH, .device = "cpu:0", .tenant = "test"};
    assert_int_equal(worker_open(&worker, &options), WORKER_OK);
    return worker;
}

/* The next event, waiting for it; fails the test at the deadline. */
static struct worker_event wait_event(struct worker *worker)
{
    const int64_t deadline = now_ms() + DEADLINE_MS;
    struct worker_event event;
    for (;;) {
        worker_next(worker, &event);
        if (event.kind != WORKER_NONE)
            return event;
        assert_true(now_ms() < deadline);
        struct pollfd wait = {.fd = worker_fd(worker), .events = POLLIN};
        poll(&wait, 1, 100);
    }
}

static void wait_ready(struct worker *worker)
{
    const struct worker_event event = wait_event(worker);
    assert_int_equal(event.kind, WORKER_READY);
    assert_string_equal(event.device.kind, "cpu");
    assert_true(event.device.memory_bytes > 0);
}

static struct manifest_params params_of(const char *kernel, const char *setting)
{
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    assert_int_equal(manifest_params_parse(manifest_find(kernel), &setting, setting ? 1 : 0, &params, error),
                     MANIFEST_OK);
    return params;
}

/* A bundle of `count` spin shards of one item each. */
static enum worker_error submit_spin(struct worker *worker, uint64_t id, uint32_t count, const char *us)
{
    char message[WORKER_MESSAGE_BYTES];
    struct worker_shard *shards = calloc(count ? count : 1, sizeof *shards);
    for (uint32_t i = 0; i < count; i++)
        shards[i] = (struct worker_shard){.first_item = i, .items = 1};
    const struct worker_bundle bundle = {.id = id,
                                         .manifest = manifest_find("spin"),
                                         .params = params_of("spin", us),
                                         .shards = shards,
                                         .shard_count = count};
    const enum worker_error error = worker_submit(worker, &bundle, message);
    free(shards);
    return error;
}

/* Collects shard events until the bundle is done; returns how many were OK. */
static uint32_t finish(struct worker *worker, uint64_t id)
{
    uint32_t good = 0;
    for (;;) {
        const struct worker_event event = wait_event(worker);
        if (event.kind == WORKER_SHARD && event.bundle == id)
            good += event.outcome == WORKER_SHARD_OK;
        else if (event.kind == WORKER_DONE && event.bundle == id)
            return good;
        else
            assert_int_not_equal(event.kind, WORKER_EXITED);
    }
}

static uint64_t fnv(const uint8_t *bytes, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static void bundle_of_512_shards_gives_each_its_own_result(void **state)
{
    (void)state;
    enum { SHARDS = WORKER_SHARDS_MAX, ROW = 200 };
    struct worker *worker = open_worker();
    wait_ready(worker);
    uint8_t(*rows)[ROW] = malloc(SHARDS * sizeof *rows);
    struct worker_shard *shards = calloc(SHARDS, sizeof *shards);
    for (int i = 0; i < SHARDS; i++) {
        for (int j = 0; j < ROW; j++)
            rows[i][j] = (uint8_t)rand();
        shards[i].first_item = (uint64_t)i;
        shards[i].items = 1;
        shards[i].rows[0] = (struct worker_rows){
            .data = rows[i], .bytes = ROW, .type = {.dtype = ARRAY_RAW, .rank = 2, .shape = {1, ROW}}};
    }
    struct worker_bundle bundle = {.id = 7,
                                   .manifest = manifest_find("noop"),
                                   .roles = {MANIFEST_SPLIT},
                                   .shards = shards,
                                   .shard_count = SHARDS};
    char message[WORKER_MESSAGE_BYTES];
    assert_int_equal(worker_submit(worker, &bundle, message), WORKER_OK);
    bool seen[SHARDS] = {0};
    for (int i = 0; i < SHARDS; i++) {
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.kind, WORKER_SHARD);
        assert_int_equal(event.bundle, 7);
        assert_int_equal(event.outcome, WORKER_SHARD_OK);
        assert_false(seen[event.shard]);
        seen[event.shard] = true;
        assert_int_equal(event.output_count, 1);
        assert_int_equal(event.outputs[0].bytes, 8);
        uint64_t sum;
        memcpy(&sum, event.outputs[0].data, 8);
        assert_true(sum == fnv(rows[event.shard], ROW));
    }
    const struct worker_event done = wait_event(worker);
    assert_int_equal(done.kind, WORKER_DONE);
    assert_int_equal(worker_bundles(worker), 1);
    worker_release(worker, 7);
    assert_int_equal(worker_bundles(worker), 0);
    assert_int_equal(submit_spin(worker, 8, 513, "us=0"), WORKER_TOO_MANY);
    assert_int_equal(submit_spin(worker, 8, 0, "us=0"), WORKER_TOO_MANY);
    free(shards);
    free(rows);
    worker_close(worker);
}

static void third_bundle_is_busy_until_one_is_released(void **state)
{
    (void)state;
    struct worker *worker = open_worker(); /* not ready yet: submitting is allowed */
    assert_int_equal(submit_spin(worker, 1, 3, "us=1000"), WORKER_OK);
    assert_int_equal(submit_spin(worker, 2, 3, "us=1000"), WORKER_OK);
    assert_int_equal(submit_spin(worker, 3, 3, "us=1000"), WORKER_BUSY);
    wait_ready(worker);
    assert_int_equal(finish(worker, 1), 3);
    assert_int_equal(submit_spin(worker, 3, 3, "us=1000"), WORKER_BUSY);
    worker_release(worker, 1);
    assert_int_equal(submit_spin(worker, 3, 3, "us=1000"), WORKER_OK);
    assert_int_equal(finish(worker, 2), 3);
    assert_int_equal(finish(worker, 3), 3);
    worker_close(worker);
}

static void killed_worker_keeps_reported_shards_and_loses_the_rest(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    assert_int_equal(submit_spin(worker, 1, 200, "us=10000"), WORKER_OK);
    uint32_t reported = 0;
    const uint8_t *first_output = NULL;
    uint32_t first_mark = 0;
    while (reported < 3) {
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.kind, WORKER_SHARD);
        if (reported++ == 0) {
            first_output = event.outputs[0].data;
            memcpy(&first_mark, first_output, 4);
        }
    }
    kill(worker_pid(worker), SIGKILL);
    for (;;) {
        const struct worker_event event = wait_event(worker);
        if (event.kind == WORKER_EXITED) {
            assert_int_equal(event.exit_signal, SIGKILL);
            break;
        }
        assert_int_equal(event.kind, WORKER_SHARD);
        reported++;
    }
    assert_in_range(reported, 3, 199);
    assert_memory_equal(first_output, &first_mark, 4); /* still borrowed */
    struct worker_event event;
    worker_next(worker, &event);
    assert_int_equal(event.kind, WORKER_NONE);
    assert_int_equal(submit_spin(worker, 2, 1, "us=0"), WORKER_GONE);
    worker_release(worker, 1);
    assert_int_equal(worker_bundles(worker), 0);
    worker_close(worker);
}

static void stopped_worker_looks_like_a_hang_and_can_be_killed(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    assert_int_equal(worker_stalled_ms(worker, now_ms() + 100000), 0); /* idle is no hang */
    assert_int_equal(submit_spin(worker, 1, 2, "us=1000000"), WORKER_OK);
    const int64_t begin = now_ms();
    while (now_ms() - begin < 1000) { /* a long shard shows progress all along */
        assert_true(worker_stalled_ms(worker, now_ms()) < 900);
        usleep(5000);
    }
    kill(worker_pid(worker), SIGSTOP);
    const int64_t deadline = now_ms() + DEADLINE_MS;
    while (worker_stalled_ms(worker, now_ms()) < 500) {
        assert_true(now_ms() < deadline);
        usleep(5000);
    }
    worker_kill(worker);
    struct worker_event event = wait_event(worker);
    if (event.kind == WORKER_SHARD) /* the first may have been finished before the stop */
        event = wait_event(worker);
    assert_int_equal(event.kind, WORKER_EXITED);
    assert_int_equal(event.exit_signal, SIGKILL);
    worker_close(worker);
}

static void cancelled_bundle_reports_every_shard_and_ends_early(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    assert_int_equal(submit_spin(worker, 1, 100, "us=100000"), WORKER_OK); /* 10 s of work */
    assert_int_equal(submit_spin(worker, 2, 1, "us=1000"), WORKER_OK);
    const struct worker_event first = wait_event(worker);
    assert_int_equal(first.outcome, WORKER_SHARD_OK);
    const int64_t begin = now_ms();
    worker_cancel(worker, 1);
    uint32_t cancelled = 0, good = 1;
    for (;;) {
        const struct worker_event event = wait_event(worker);
        if (event.kind == WORKER_DONE)
            break;
        cancelled += event.outcome == WORKER_SHARD_CANCELLED;
        good += event.outcome == WORKER_SHARD_OK;
    }
    assert_int_equal(cancelled + good, 100);
    assert_true(cancelled > 90);
    assert_true(now_ms() - begin < 3000);
    assert_int_equal(finish(worker, 2), 1); /* the waiting bundle is untouched */
    worker_close(worker);
}

static enum worker_error submit_knn(struct worker *worker, uint64_t id, const int8_t *query, uint64_t items,
                                    const struct worker_blob *base, char message[WORKER_MESSAGE_BYTES])
{
    const struct worker_shard shard = {
        .items = items,
        .rows = {[1] = {.data = query, .bytes = items * 8, .type = {ARRAY_INT8, 2, {items, 8}}}}};
    const struct worker_bundle bundle = {.id = id,
                                         .manifest = manifest_find("knn"),
                                         .params = params_of("knn", "k=1"),
                                         .roles = {MANIFEST_BROADCAST, MANIFEST_SPLIT},
                                         .blobs = {*base},
                                         .shards = &shard,
                                         .shard_count = 1};
    return worker_submit(worker, &bundle, message);
}

static void broadcast_input_is_passed_once_and_evicted_on_request(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    char message[WORKER_MESSAGE_BYTES];
    int8_t file[5000 + 4 * 8];
    memset(file, 99, sizeof file);
    for (int row = 0; row < 4; row++)
        memset(file + 5000 + 8 * row, 10 * row, 8);
    const int8_t query[8] = {21, 21, 21, 21, 21, 21, 21, 21};
    struct worker_blob base = {.id = {1}, .offset = 5000, .bytes = 32, .type = {ARRAY_INT8, 2, {4, 8}}};
    base.fd = worker_memfd(file, sizeof file);
    assert_true(base.fd >= 0);
    assert_false(worker_holds(worker, base.id));
    assert_int_equal(submit_knn(worker, 1, query, 1, &base, message), WORKER_OK);
    assert_true(worker_holds(worker, base.id));
    close(base.fd);
    base.fd = -1;
    wait_ready(worker);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id > 1)
            assert_int_equal(submit_knn(worker, id, query, 1, &base, message), WORKER_OK);
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.kind, WORKER_SHARD);
        assert_int_equal(event.outcome, WORKER_SHARD_OK);
        assert_int_equal(*(const int32_t *)event.outputs[0].data, 2);
        assert_int_equal(wait_event(worker).kind, WORKER_DONE);
        worker_release(worker, id);
    }
    worker_evict(worker, base.id);
    assert_false(worker_holds(worker, base.id));
    assert_int_equal(submit_knn(worker, 4, query, 1, &base, message), WORKER_BAD_BLOB);
    base.fd = worker_memfd(file, 5000 + 16); /* shorter than stated */
    assert_int_equal(submit_knn(worker, 4, query, 1, &base, message), WORKER_BAD_BLOB);
    close(base.fd);
    memset(file + 5000, 21, 8); /* the same id may come back with a fresh descriptor */
    base.fd = worker_memfd(file, sizeof file);
    assert_int_equal(submit_knn(worker, 4, query, 1, &base, message), WORKER_OK);
    close(base.fd);
    const struct worker_event event = wait_event(worker);
    assert_int_equal(*(const int32_t *)event.outputs[0].data, 0);
    worker_close(worker);
}

static void more_broadcast_inputs_than_fit_push_out_the_oldest(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    char message[WORKER_MESSAGE_BYTES];
    wait_ready(worker);
    const int8_t query[8] = {0};
    for (uint8_t i = 0; i < 3 * WORKER_RESIDENTS_MAX; i++) {
        int8_t rows[2 * 8];
        memset(rows, i % 2 ? 0 : 50, 8);
        memset(rows + 8, i % 2 ? 50 : 0, 8);
        struct worker_blob base = {.id = {i, 1}, .bytes = 16, .type = {ARRAY_INT8, 2, {2, 8}}};
        base.fd = worker_memfd(rows, sizeof rows);
        assert_int_equal(submit_knn(worker, i, query, 1, &base, message), WORKER_OK);
        close(base.fd);
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.outcome, WORKER_SHARD_OK);
        assert_int_equal(*(const int32_t *)event.outputs[0].data, i % 2 ? 0 : 1);
        assert_int_equal(wait_event(worker).kind, WORKER_DONE);
        worker_release(worker, i);
    }
    uint32_t held = 0;
    for (uint8_t i = 0; i < 3 * WORKER_RESIDENTS_MAX; i++)
        held += worker_holds(worker, (const uint8_t[WORKER_ID_BYTES]){i, 1});
    assert_int_equal(held, WORKER_RESIDENTS_MAX);
    assert_true(worker_holds(worker, (const uint8_t[WORKER_ID_BYTES]){3 * WORKER_RESIDENTS_MAX - 1, 1}));
    worker_close(worker);

    const struct worker_options small = {.path = WORKER_PATH, .device = "cpu:0", .resident_bytes_max = 31};
    assert_int_equal(worker_open(&worker, &small), WORKER_OK);
    struct worker_blob base = {.id = {9}, .bytes = 32, .type = {ARRAY_INT8, 2, {4, 8}}};
    const int8_t rows[32] = {0};
    base.fd = worker_memfd(rows, sizeof rows);
    assert_int_equal(submit_knn(worker, 1, query, 1, &base, message), WORKER_TOO_LARGE);
    assert_false(worker_holds(worker, base.id));
    close(base.fd);
    worker_close(worker);
}

static void bundle_larger_than_a_region_brings_its_own_memory(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    const uint64_t bytes = WORKER_REGION_BYTES + 4096;
    uint8_t *data = malloc(bytes);
    for (uint64_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    char message[WORKER_MESSAGE_BYTES];
    const struct worker_shard shard = {
        .items = 2, .rows = {{.data = data, .bytes = bytes, .type = {ARRAY_RAW, 2, {2, bytes / 2}}}}};
    const struct worker_bundle bundle = {.id = 1,
                                         .manifest = manifest_find("noop"),
                                         .roles = {MANIFEST_SPLIT},
                                         .shards = &shard,
                                         .shard_count = 1};
    for (int round = 0; round < 2; round++) {
        assert_int_equal(worker_submit(worker, &bundle, message), WORKER_OK);
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.outcome, WORKER_SHARD_OK);
        uint64_t sums[2];
        memcpy(sums, event.outputs[0].data, sizeof sums);
        assert_true(sums[0] == fnv(data, bytes / 2) && sums[1] == fnv(data + bytes / 2, bytes / 2));
        assert_int_equal(wait_event(worker).kind, WORKER_DONE);
        worker_release(worker, 1);
    }
    free(data);
    worker_close(worker);
}

static void bundle_that_does_not_fit_its_manifest_is_refused(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    char message[WORKER_MESSAGE_BYTES];
    const int8_t query[8] = {0};
    struct worker_blob base = {.id = {1}, .bytes = 32, .type = {ARRAY_INT8, 2, {4, 8}}};
    base.fd = worker_memfd((const int8_t[32]){0}, 32);
    base.type.shape[1] = 4; /* bytes and type differ */
    assert_int_equal(submit_knn(worker, 1, query, 1, &base, message), WORKER_BAD_BUNDLE);
    assert_true(strlen(message) > 10);
    base.type.shape[0] = 8; /* agree, but not with the query's axis */
    assert_int_equal(submit_knn(worker, 1, query, 1, &base, message), WORKER_BAD_BUNDLE);
    assert_int_equal(worker_bundles(worker), 0);
    close(base.fd);
    worker_close(worker);
}

static void text_with_too_few_lines_is_rejected_by_the_worker(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    struct worker_shard shards[3] = {0};
    const char *texts[3] = {"one\ntwo\n", "one\n", "uno\ndos"};
    for (int i = 0; i < 3; i++)
        shards[i] = (struct worker_shard){
            .items = 2,
            .rows = {{.data = texts[i], .bytes = strlen(texts[i]), .type = {ARRAY_TEXT, 1, {2}}}}};
    const struct worker_bundle bundle = {.id = 1,
                                         .manifest = manifest_find("embed"),
                                         .roles = {MANIFEST_SPLIT},
                                         .shards = shards,
                                         .shard_count = 3};
    char message[WORKER_MESSAGE_BYTES];
    assert_int_equal(worker_submit(worker, &bundle, message), WORKER_OK);
    for (int i = 0; i < 3; i++) {
        const struct worker_event event = wait_event(worker);
        assert_int_equal(event.kind, WORKER_SHARD);
        assert_int_equal(event.outcome, event.shard == 1 ? WORKER_SHARD_REJECTED : WORKER_SHARD_OK);
        if (event.shard == 1)
            assert_non_null(strstr(event.message, "lines"));
        else
            assert_int_equal(event.outputs[0].bytes, 512);
    }
    worker_close(worker);
}

static void worker_ends_when_the_node_closes(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    const pid_t pid = worker_pid(worker);
    worker_close(worker);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

/* A line of /proc/PID/status, without its name. */
static void status_of(pid_t pid, const char *name, char value[64])
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    value[0] = '\0';
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            sscanf(line + strlen(name), " %63s", value);
    fclose(file);
}

static void worker_is_boxed_before_it_is_ready_and_says_how(void **state)
{
    (void)state;
    struct worker *worker = NULL;
    const struct worker_options options = {.path = WORKER_PATH, .device = "cpu:0", .memory_bytes = 1u << 30};
    assert_int_equal(worker_open(&worker, &options), WORKER_OK);
    wait_ready(worker);
    const struct sandbox_report *report = worker_sandbox(worker);
    char value[64];
    status_of(worker_pid(worker), "NoNewPrivs:", value);
    assert_int_equal(report->layers[SANDBOX_PRIVILEGES].on, strcmp(value, "1") == 0);
    status_of(worker_pid(worker), "CapEff:", value);
    assert_string_equal(value, "0000000000000000");
    status_of(worker_pid(worker), "Seccomp:", value);
    assert_int_equal(report->layers[SANDBOX_SECCOMP].on, strcmp(value, "2") == 0);
    for (int i = 0; i < SANDBOX_LAYERS; i++)
        assert_true(report->layers[i].on || report->layers[i].detail[0]);
    worker_close(worker);
}

/* It takes its library and memory before the box is shut. */
static void float_matmul_runs_inside_the_box(void **state)
{
    (void)state;
    struct worker *worker = open_worker();
    wait_ready(worker);
    const float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
    struct worker_blob right = {.id = {3}, .bytes = sizeof b, .type = {ARRAY_FLOAT32, 2, {2, 2}}};
    right.fd = worker_memfd(b, sizeof b);
    const struct worker_shard shard = {
        .items = 2, .rows = {{.data = a, .bytes = sizeof a, .type = {ARRAY_FLOAT32, 2, {2, 2}}}}};
    const struct worker_bundle bundle = {.id = 1,
                                         .manifest = manifest_find("matmul"),
                                         .params = params_of("matmul", NULL),
                                         .roles = {MANIFEST_SPLIT, MANIFEST_BROADCAST},
                                         .blobs = {[1] = right},
                                         .shards = &shard,
                                         .shard_count = 1};
    char message[WORKER_MESSAGE_BYTES];
    assert_int_equal(worker_submit(worker, &bundle, message), WORKER_OK);
    close(right.fd);
    const struct worker_event event = wait_event(worker);
    assert_int_equal(event.kind, WORKER_SHARD);
    assert_int_equal(event.outcome, WORKER_SHARD_OK);
    assert_memory_equal(event.outputs[0].data, ((const float[4]){19, 22, 43, 50}), 16);
    worker_close(worker);
}

static void missing_program_and_missing_device_are_reported(void **state)
{
    (void)state;
    struct worker *worker = NULL;
    const struct worker_options absent = {.path = "/nonexistent/weir-worker", .device = "cpu:0"};
    assert_int_equal(worker_open(&worker, &absent), WORKER_SYSTEM);
    assert_int_equal(errno, ENOENT);
    const struct worker_options odd = {.path = WORKER_PATH, .device = "abacus:0"};
    assert_int_equal(worker_open(&worker, &odd), WORKER_OK);
    const struct worker_event event = wait_event(worker);
    assert_int_equal(event.kind, WORKER_EXITED);
    assert_int_equal(event.exit_status, 2);
    worker_close(worker);
}

/* This program again, as a worker that misbehaves: see main. */
static void impostor(const char *how)
{
    struct wire_hello hello = {.kind = WIRE_HELLO, .version = WIRE_VERSION, .device = {.kind = "cpu"}};
    wire_build(hello.build);
    if (strcmp(how, "lie:build") == 0)
        hello.build[0] ^= 1;
    if (send(WIRE_SOCKET_FD, &hello, sizeof hello, 0) != sizeof hello)
        _exit(9);
    struct wire_bundle bundle;
    if (recv(WIRE_SOCKET_FD, &bundle, sizeof bundle, 0) != sizeof bundle)
        _exit(8);
    struct wire_result result = {
        .kind = WIRE_RESULT, .region = bundle.region, .sequence = bundle.sequence, .count = 1};
    size_t bytes = offsetof(struct wire_result, outcomes) + sizeof(struct wire_outcome);
    if (strcmp(how, "lie:shard") == 0)
        result.outcomes[0].shard = 5000;
    else if (strcmp(how, "lie:outcome") == 0)
        result.outcomes[0].outcome = 77;
    else if (strcmp(how, "lie:region") == 0)
        result.region = 1;
    else if (strcmp(how, "lie:range") == 0)
        result.region = 0xffffffff;
    else if (strcmp(how, "lie:sequence") == 0)
        result.sequence += 1;
    else if (strcmp(how, "lie:count") == 0)
        result.count = 0xffffffff;
    else if (strcmp(how, "lie:text") == 0)
        result.message_bytes = 0xffffffff;
    else if (strcmp(how, "lie:short") == 0)
        bytes -= 3;
    else if (strcmp(how, "lie:empty") == 0)
        result.count = 0;
    else if (strcmp(how, "lie:twice") == 0) {
        result.count = 2;
        bytes += sizeof(struct wire_outcome);
    } else if (strcmp(how, "lie:hello") == 0) {
        send(WIRE_SOCKET_FD, &hello, sizeof hello, 0);
    } else if (strcmp(how, "lie:noise") == 0) {
        memset(&result, 0xa5, sizeof result);
        bytes = sizeof result;
    } else if (strcmp(how, "lie:long") == 0) {
        static char flood[60000];
        memset(flood, 3, sizeof flood);
        send(WIRE_SOCKET_FD, flood, sizeof flood, 0);
    } else if (strcmp(how, "lie:shrink") == 0) {
        if (ftruncate(WIRE_MEMORY_FD, 4096) == 0)
            _exit(7); /* sealed: it must not work */
        result.outcomes[0].shard = 5000;
    }
    send(WIRE_SOCKET_FD, &result, bytes, 0);
    pause();
}

static void worker_that_lies_fails_only_its_own_bundle(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie:build", "lie:shard", "lie:outcome",  "lie:region",
                                       "lie:range", "lie:count", "lie:sequence", "lie:text",
                                       "lie:short", "lie:empty", "lie:twice",    "lie:hello",
                                       "lie:noise", "lie:long",  "lie:shrink"};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct worker *worker = NULL;
        const struct worker_options options = {.path = self_path, .device = lies[i]};
        assert_int_equal(worker_open(&worker, &options), WORKER_OK);
        assert_int_equal(submit_spin(worker, 1, 4, "us=0"), WORKER_OK);
        uint32_t shards = 0;
        for (;;) {
            const struct worker_event event = wait_event(worker);
            assert_int_not_equal(event.kind, WORKER_DONE);
            shards += event.kind == WORKER_SHARD;
            if (event.kind != WORKER_EXITED)
                continue;
            assert_int_equal(event.exit_signal, SIGKILL);
            assert_true(strlen(event.message) > 10);
            break;
        }
        assert_true(shards <= 1);
        worker_close(worker);
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--device=lie:", 13) == 0)
            impostor(argv[i] + 9);
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    if (readlink("/proc/self/exe", self_path, sizeof self_path - 1) < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bundle_of_512_shards_gives_each_its_own_result),
        cmocka_unit_test(third_bundle_is_busy_until_one_is_released),
        cmocka_unit_test(killed_worker_keeps_reported_shards_and_loses_the_rest),
        cmocka_unit_test(stopped_worker_looks_like_a_hang_and_can_be_killed),
        cmocka_unit_test(cancelled_bundle_reports_every_shard_and_ends_early),
        cmocka_unit_test(broadcast_input_is_passed_once_and_evicted_on_request),
        cmocka_unit_test(more_broadcast_inputs_than_fit_push_out_the_oldest),
        cmocka_unit_test(bundle_larger_than_a_region_brings_its_own_memory),
        cmocka_unit_test(bundle_that_does_not_fit_its_manifest_is_refused),
        cmocka_unit_test(text_with_too_few_lines_is_rejected_by_the_worker),
        cmocka_unit_test(worker_ends_when_the_node_closes),
        cmocka_unit_test(worker_is_boxed_before_it_is_ready_and_says_how),
        cmocka_unit_test(float_matmul_runs_inside_the_box),
        cmocka_unit_test(missing_program_and_missing_device_are_reported),
        cmocka_unit_test(worker_that_lies_fails_only_its_own_bundle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
