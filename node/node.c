/* `weir node`: opens the parts in order, runs the loop, closes them in reverse. */
#include "node/node.h"
#include "node/calls.h"
#include "node/compile.h"
#include "node/recheck.h"
#include "node/resync.h"
#include "node/store_digests.h"
#include "node/take.h"

#include "node/handover.h"
#include "node/http.h"
#include "node/keep.h"
#include "node/keys.h"
#include "node/log.h"
#include "node/process.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <zmq.h>

#define DRAIN_WAIT_MS 3000         /* longer than results are on their way to a home that lives */
#define LAST_WORDS_MS 200          /* for the good-bye, once it is on disk, to get out */
#define LAST_WORDS_MS_MAX 3000     /* with a slow disk */
#define STORE_NEW_BYTES (1u << 20) /* more than two empty databases take */
#define IO_THREADS 2               /* the first for control, the second for bulk */

/* ---- Names for the core */

uint64_t digest_hash(const struct digest *digest)
{
    uint64_t hash;
    memcpy(&hash, digest->bytes, sizeof hash);
    return hash;
}

uint64_t name_hash(const char *name)
{
    const struct digest digest = digest_of("weir name 1", name, strlen(name));
    return digest_hash(&digest);
}

/* ---- Commits */

struct node_commit {
    struct node_commit *next; /* in node->queued */
    struct store_batch *batch;
    node_committed *committed;
    void *context;
};

struct store_batch *node_batch(struct node *node)
{
    struct store_batch *batch = NULL;
    if (store_batch_open(node->store, &batch) != STORE_OK)
        abort();
    return batch;
}

static void fail_store(struct node *node)
{
    struct store_failure failure;
    store_health(node->store, &failure);
    char quoted[600];
    log_error("store",
              "error=%s reason=\"nothing can be acknowledged any more; mend the disk and start again\"",
              log_quote(failure.text, quoted, sizeof quoted));
    node_stop(node, EXIT_FAILED);
}

/* Returns false if the store's queue is full. */
static bool try_commit(struct node *node, struct node_commit *commit)
{
    const enum store_error error = store_commit(node->store, commit->batch, (uint64_t)(uintptr_t)commit);
    if (error == STORE_OK)
        return true;
    if (error == STORE_BUSY)
        return false;
    store_batch_close(commit->batch);
    if (error == STORE_FAILED)
        fail_store(node);
    else if (commit->committed)
        commit->committed(node, commit->context, error);
    free(commit);
    return true;
}

void node_commit(struct node *node, struct store_batch *batch, node_committed *committed, void *context)
{
    struct node_commit *commit = malloc(sizeof *commit);
    if (!commit)
        abort();
    *commit = (struct node_commit){.batch = batch, .committed = committed, .context = context};
    if (!node->queued && try_commit(node, commit))
        return;
    *node->queued_tail = commit;
    node->queued_tail = &commit->next;
}

static void on_store(void *context, uint32_t events)
{
    (void)events;
    struct node *node = context;
    struct store_completion done;
    while (store_next_completion(node->store, &done)) {
        struct node_commit *commit = (struct node_commit *)(uintptr_t)done.ticket;
        if (done.error == STORE_FAILED)
            fail_store(node);
        else if (commit->committed)
            commit->committed(node, commit->context, done.error);
        free(commit);
    }
    while (node->queued) {
        struct node_commit *commit = node->queued;
        struct node_commit *next = commit->next;
        if (!try_commit(node, commit))
            return;
        node->queued = next;
        if (!next)
            node->queued_tail = &node->queued;
    }
}

/* ---- Stopping */

void node_stop(struct node *node, int exit_code)
{
    if (exit_code != EXIT_DONE)
        node->exit_code = exit_code;
    node->stopping = true;
    loop_stop(node->loop);
}

void node_drain(struct node *node, bool stops)
{
    if (node->draining && !stops)
        return;
    if (!node->draining)
        log_info("drain", "state=begun");
    node->draining = true;
    host_post(node, &(struct mesh_event){.kind = MESH_DRAIN, .body.drain.stops = stops});
}

static void on_signal(void *context, uint32_t events)
{
    (void)events;
    struct node *node = context;
    struct signalfd_siginfo signal;
    if (read(node->signal_fd, &signal, sizeof signal) != sizeof signal)
        return;
    if (node->stop_at_ms || signal.ssi_signo == SIGINT) { /* impatient: twice, or from a terminal */
        node_stop(node, EXIT_DONE);
        return;
    }
    sd_notify(0, "STOPPING=1");
    node->stop_at_ms = clock_now_ms() + (int64_t)node->config.stop_deadline_s * 1000;
    node->stop_when_idle = true;
    node_drain(node, true);
}

/* Own jobs that go on, or whose end is not yet on the disks of most that keep their journals. */
static uint32_t live_jobs(const struct node *node)
{
    uint32_t live = 0;
    struct mesh_job_view job;
    struct mesh_journal_view journal;
    for (uint32_t i = 0; mesh_job_view(node->host.mesh, i, &job); i++)
        live += job.state == MESH_JOB_RUNNING || (mesh_journal_find(node->host.mesh, &job.id, &journal) &&
                                                  journal.leads && journal.settled < journal.last);
    return live;
}

static void tell_drainer(struct node *node, const struct mesh_executor_view *view, int64_t now_ms)
{
    if (!node->drain_call || now_ms < node->drain_told_at_ms + 200)
        return;
    node->drain_told_at_ms = now_ms;
    api_more(node->drain_call,
             json_pack("{s:i, s:i, s:i, s:i, s:i}", "running", (int)view->running, "waiting",
                       (int)view->waiting, "unacked", (int)view->unacked, "jobs", (int)live_jobs(node),
                       "finished", (int)(handover_left(node) + node->taking_count)));
}

/* Nothing runs here any more, and yet it doesn't end: the log says why, once. */
static void log_drain_wait(struct node *node, const struct mesh_executor_view *view, int64_t now_ms)
{
    if (view->running + view->waiting > 0 || view->unacked == 0) {
        node->drain_waits_at_ms = 0;
        return;
    }
    if (!node->drain_waits_at_ms)
        node->drain_waits_at_ms = now_ms;
    if (node->drain_wait_logged || now_ms < node->drain_waits_at_ms + DRAIN_WAIT_MS)
        return;
    node->drain_wait_logged = true;
    log_info("drain",
             "state=waiting unacked=%u reason=\"nothing runs any more, but the homes of results that were "
             "computed here do not take them; stop it twice to end it at once, they are computed again\"",
             view->unacked);
}

/* Whether a job of ours is on its way to another of those that keep its journal. */
static bool hands_over(const struct node *node)
{
    struct mesh_job_view job;
    for (uint32_t i = 0; mesh_job_view(node->host.mesh, i, &job); i++)
        if (job.state == MESH_JOB_RUNNING && job.copies > 1 && !job.stalled)
            return true;
    return false;
}

static void log_drained(const struct mesh_executor_view *view, bool forsaken)
{
    if (view->running + view->waiting + view->unacked == 0)
        log_info("drain", "state=empty");
    else if (forsaken)
        log_info(
            "drain",
            "state=forsaken unacked=%u reason=\"nobody is left to take these results: the homes of their "
            "jobs are down, and so are the others that keep their journals\"",
            view->unacked);
    else
        log_warn("drain",
                 "state=late running=%u waiting=%u unacked=%u reason=\"what is left runs elsewhere, or is "
                 "asked for again\"",
                 view->running, view->waiting, view->unacked);
}

/*
 * A node that was told to drain says good-bye and ends once nothing is left. One that was told to stop ends as soon as
 * nothing runs here and its jobs have found another home: those that it keeps alone are on disk and go on with its next
 * start. Neither waits for results to be taken by those that are lost.
 */
static int64_t drain_turn(struct node *node, int64_t now_ms)
{
    if (!node->draining)
        return INT64_MAX;
    struct mesh_executor_view view;
    mesh_executor_view(node->host.mesh, &view);
    const bool idle = view.running + view.waiting + view.unacked == 0;
    if (node->leave_at_ms) {
        if (node->host.saving > 0 && now_ms < node->leave_latest_ms)
            node->leave_at_ms = now_ms + LAST_WORDS_MS;
        if (now_ms < node->leave_at_ms)
            return node->leave_at_ms;
        node_stop(node, EXIT_DONE);
        return INT64_MAX;
    }
    tell_drainer(node, &view, now_ms);
    log_drain_wait(node, &view, now_ms);
    const bool forsaken = !idle && view.running + view.waiting == 0 && !results_awaited(node);
    const bool over = idle || forsaken;
    const bool stop = node->stop_when_idle &&
                      ((over && !hands_over(node) && !keep_holds_up(node)) || now_ms >= node->stop_at_ms);
    const bool empty = (node->drained || (forsaken && live_jobs(node) == 0)) &&
                       (stop || (!node->stop_when_idle && handover_step(node) && !node->keepings &&
                                 node->taking_count == 0));
    if (!empty && !stop)
        return now_ms + 50;
    log_drained(&view, forsaken);
    if (node->drain_call)
        api_reply(node->drain_call, json_pack("{s:i, s:i}", "handed_over", (int)node->handed,
                                              "kept_by_nobody_else", (int)node->handed_to_nobody));
    node->drain_call = NULL;
    host_post(node, &(struct mesh_event){.kind = MESH_LEAVE});
    node->leave_at_ms = now_ms + LAST_WORDS_MS;
    node->leave_latest_ms = now_ms + LAST_WORDS_MS_MAX;
    return node->leave_at_ms;
}

static int64_t turn(void *context, int64_t now_ms)
{
    struct node *node = context;
    int64_t wake_at_ms = host_turn(node, now_ms);
    int64_t (*const parts[])(struct node *, int64_t) = {
        devices_turn, jobs_turn,    cache_turn,   execute_turn, disk_turn,         watches_turn,
        pings_turn,   records_turn, drain_turn,   holders_turn, blob_watches_turn, relays_turn,
        calls_turn,   trust_turn,   recheck_turn, resync_turn,  keep_turn,         handover_turn};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const int64_t at_ms = parts[i](node, now_ms);
        wake_at_ms = at_ms < wake_at_ms ? at_ms : wake_at_ms;
    }
    return node->host.head ? now_ms : wake_at_ms; /* a part posted an event: step it at once */
}

/* ---- Callbacks of the parts */

static void on_message(void *node, const struct mesh_id *peer, const struct wire_frame *frame)
{
    host_on_frame(node, peer, frame);
}

static void on_link_up(void *context, const struct mesh_id *peer, uint32_t protocol)
{
    struct node *node = context;
    log_debug("link", "peer=%s state=up protocol=%u", peer_name(node, peer), protocol);
    records_link_up(node, peer);
    host_post(node,
              &(struct mesh_event){.kind = MESH_LINK_UP, .body.link = {.peer = *peer, .protocol = protocol}});
}

static void on_link_down(void *context, const struct mesh_id *peer, bool reset)
{
    struct node *node = context;
    log_debug("link", "peer=%s state=down reset=%d", peer_name(node, peer), reset);
    host_post(node,
              &(struct mesh_event){.kind = MESH_LINK_DOWN, .body.link = {.peer = *peer, .reset = reset}});
    records_introduce(node, peer); /* perhaps it does not know our certificate */
}

/* A restart comes with a higher incarnation than we know; with a lower one, it is a copy or has lost its own. */
static bool on_hello(void *context, const struct mesh_id *peer, uint64_t incarnation, uint64_t process,
                     struct wire_frame *answer)
{
    struct node *node = context;
    struct mesh_member_view view;
    if (!mesh_member_find(node->host.mesh, peer, &view) || view.session == process ||
        view.incarnation < incarnation)
        return true;
    const struct bytes *record =
        view.record_handle ? handles_get(&node->host.handles, view.record_handle) : NULL;
    if (!record)
        return true;
    const struct mesh_message push = {.kind = MESH_PUSH};
    wire_message(answer, &push, (struct wire_bytes){.bytes = record->data, .count = record->count});
    return false;
}

static void on_log(void *node, const char *line)
{
    (void)node;
    char quoted[600];
    log_warn("transport", "reason=%s", log_quote(line, quoted, sizeof quoted));
}

static void on_join_committed(struct node *node, void *context, enum store_error error)
{
    (void)context;
    join_server_committed(node->join, error);
}

static void on_join_commit(void *context, struct store_batch *batch)
{
    node_commit(context, batch, on_join_committed, NULL);
}

static void on_join_admit(void *context, const struct certificate *leaf)
{
    records_presented(context, leaf);
}

static size_t on_join_peers(void *context, uint8_t *out, size_t capacity)
{
    return records_list(context, out, capacity);
}

static const char *on_tenant(void *context, uid_t uid)
{
    const struct node *node = context;
    for (uint32_t i = 0; i < node->config.tenant_count; i++)
        if (node->config.tenant[i].uid == uid)
            return node->config.tenant[i].tenant;
    return federation_certificate(node->federation)->site;
}

static void on_metrics(void *context, FILE *out)
{
    metrics_write(context, out);
}

static const char *on_ready(void *context)
{
    const struct node *node = context;
    if (!node->serving)
        return "starting\n";
    if (node->draining)
        return "draining\n";
    return node->disk.error ? "disk full or failing: see the log\n" : NULL;
}

/* ---- Opening, in order */

static bool complain(const char *text)
{
    fprintf(stderr, "weir: %s\n", text);
    return false;
}

static bool open_identity(struct node *node)
{
    if (crypto_init() != CRYPTO_OK)
        return complain("the system gives no random numbers");
    struct federation_failure failure;
    const enum federation_error error =
        federation_load(node->config.data, clock_wall_ms() / 1000, &node->federation, &failure);
    if (error != FEDERATION_OK) {
        node->exit_code = error == FEDERATION_DENIED ? EXIT_DENIED : EXIT_FAILED;
        return complain(failure.text);
    }
    memcpy(node->self.bytes, federation_identity(node->federation)->node.bytes, sizeof node->self.bytes);
    log_set_name(federation_certificate(node->federation)->name);
    node->session = (uint64_t)clock_wall_ms() << 20 | randombytes_uniform(1u << 20);
    return true;
}

static bool make_folder(const char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return true;
    fprintf(stderr, "weir: cannot make %s: %s\n", path, strerror(errno));
    return false;
}

/* The incarnation that this start announces: above every earlier one, and durable before anyone hears it. */
static bool next_incarnation(struct node *node)
{
    uint64_t last = 0;
    size_t bytes;
    store_get(node->store, STORE_COUNTERS, "incarnation", 11, &last, sizeof last, &bytes);
    node->incarnation = last + 1;
    struct store_batch *batch = node_batch(node);
    store_batch_put(batch, STORE_COUNTERS, "incarnation", 11, &node->incarnation, sizeof node->incarnation);
    /* What an earlier build forgot, it didn't count. */
    uint64_t forgotten = last;
    if (store_get(node->store, STORE_COUNTERS, "forgotten", 9, &forgotten, sizeof forgotten, &bytes) !=
        STORE_OK)
        store_batch_put(batch, STORE_COUNTERS, "forgotten", 9, &forgotten, sizeof forgotten);
    /* A folder made of a backup has a new id, and has forgotten what came after: its copies of journals are lost. */
    uint8_t id[STORE_STORAGE_ID_BYTES], id_before[STORE_STORAGE_ID_BYTES] = {0};
    store_storage_id(node->store, id);
    store_get(node->store, STORE_COUNTERS, "storage id", 10, id_before, sizeof id_before, &bytes);
    if (memcmp(id, id_before, sizeof id) != 0) {
        store_batch_put(batch, STORE_COUNTERS, "storage id", 10, id, sizeof id);
        store_batch_put(batch, STORE_COUNTERS, "storage", 7, &node->incarnation, sizeof node->incarnation);
        if (last > 0)
            resync_mark(batch);
    }
    const enum store_error error = store_commit_wait(node->store, batch);
    if (error == STORE_OK)
        return true;
    fprintf(stderr, "weir: cannot save this start in %s/store: %s\n", node->config.data,
            store_error_text(error));
    return false;
}

/* On any thread. */
static void on_damaged(void *context, const uint8_t id[STORE_ID_BYTES], bool pinned)
{
    const struct node *node = context;
    char hex[65];
    hex_encode(id, STORE_ID_BYTES, hex);
    log_error("blob",
              "blob=%s state=damaged pinned=%s data=%s reason=\"its stored bytes do not match its name: "
              "dropped. Look "
              "at the disk; `weir blob put FILE` brings it back\"",
              hex, pinned ? "yes" : "no", node->config.data);
}

/* A store says whose it is: promises of another node are none of ours. */
static bool store_is_ours(struct node *node)
{
    static const char key[] = "node";
    uint8_t id[32];
    size_t bytes;
    const enum store_error error =
        store_get(node->store, STORE_META, key, sizeof key - 1, id, sizeof id, &bytes);
    if (error == STORE_OK && (bytes != sizeof id || memcmp(id, node->self.bytes, sizeof id) != 0)) {
        fprintf(stderr,
                "weir: %s/store belongs to another node than the keys beside it; put the right one back, or "
                "move it "
                "away and start without it\n",
                node->config.data);
        return false;
    }
    if (error != STORE_NONE)
        return true; /* or damaged: that is seen next */
    struct store_batch *batch = node_batch(node);
    store_batch_put(batch, STORE_META, key, sizeof key - 1, node->self.bytes, sizeof id);
    return store_commit_wait(node->store, batch) == STORE_OK ||
           complain("cannot write the store: the disk is full, or it fails");
}

struct damage {
    char first[160];
    uint64_t rows;
};

static void on_damaged_row(void *context, const char *finding)
{
    struct damage *damage = context;
    if (damage->rows++ == 0)
        snprintf(damage->first, sizeof damage->first, "%s", finding);
}

/* What this node promised is in there; with a part of it gone it must not go on as if it knew. */
static bool store_is_whole(const struct node *node)
{
    struct damage damage = {0};
    if (store_verify_state(node->store, on_damaged_row, &damage) == STORE_OK)
        return true;
    fprintf(
        stderr,
        "weir: %s/store is damaged in %llu place%s, first: %s. Look at the disk (`weir store check` lists "
        "them all); restore a "
        "backup, or move the store away and start without it: jobs of several copies go on elsewhere\n",
        node->config.data, (unsigned long long)damage.rows, damage.rows == 1 ? "" : "s", damage.first);
    return false;
}

/* A new database maps files that have no bytes yet: where there are none to give, writing there is a fault of memory. */
static bool has_room_for_store(const struct node *node, const char *path)
{
    static const char *const files[] = {"state/lock.mdb", "blobs/lock.mdb"};
    char file[CONFIG_TEXT_BYTES + 48], text[CONFIG_TEXT_BYTES + 128];
    bool made = true;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        made = made && access(file, F_OK) == 0;
    }
    struct statvfs disk;
    if (made || statvfs(node->config.data, &disk) != 0 || disk.f_bavail >= STORE_NEW_BYTES / disk.f_frsize)
        return true;
    snprintf(text, sizeof text, "no room for a new store in %s: %llu KiB are free, it takes %u; make room",
             node->config.data, (unsigned long long)disk.f_bavail * disk.f_frsize / 1024,
             STORE_NEW_BYTES / 1024);
    return complain(text);
}

static bool open_store(struct node *node)
{
    char path[CONFIG_TEXT_BYTES + 16];
    snprintf(path, sizeof path, "%s/store", node->config.data);
    snprintf(node->scratch, sizeof node->scratch, "%s/scratch", node->config.data);
    struct store_options options = {.digest = *store_digests(),
                                    .state_map_bytes = node->config.state_map_bytes,
                                    .blobs_map_bytes = node->config.blobs_map_bytes,
                                    .cache_budget_bytes = node->config.cache_bytes,
                                    .damaged = on_damaged,
                                    .context = node};
    randombytes_buf(options.storage_id, sizeof options.storage_id);
    struct store_failure failure;
    if (!make_folder(node->scratch) || !has_room_for_store(node, path))
        return false;
    if (store_open(path, &options, &failure, &node->store) != STORE_OK)
        return complain(failure.text);
    if (!store_is_whole(node) || !store_is_ours(node))
        return false;
    loop_watch(node->loop, store_fd(node->store), EPOLLIN, on_store, node);
    uint32_t dropped = 0;
    federation_revocations_load(node->federation, node->store, clock_wall_ms() / 1000, &dropped);
    if (dropped)
        log_warn("revocation", "dropped=%u reason=\"rows that do not verify\"", dropped);
    if (holds_open(node) != STORE_OK)
        return complain("cannot release in the store what clients held before");
    return next_incarnation(node);
}

static bool open_workers(struct node *node)
{
    char path[4096];
    if (node->config.worker[0]) {
        snprintf(path, sizeof path, "%s", node->config.worker);
    } else {
        const ssize_t count = readlink("/proc/self/exe", path, sizeof path - sizeof "weir-worker");
        if (count < 0)
            return complain("cannot tell where this program lies; set work.worker");
        path[count] = '\0';
        strcpy(strrchr(path, '/') + 1, "weir-worker");
    }
    const struct workers_options options = {.loop = node->loop,
                                            .path = path,
                                            .cpu_slots = node->config.cpu_slots,
                                            .cuda_devices = node->config.cuda_devices,
                                            .hang_ms = (int64_t)node->config.hang_s * 1000,
                                            .shard = execute_shard,
                                            .done = execute_done,
                                            .devices = devices_tell,
                                            .context = node};
    char error[512];
    if (!workers_open(&node->workers, &options, error, sizeof error))
        return complain(error);
    loop_on_turn(node->loop, workers_turn, node->workers);
    snprintf(node->worker_path, sizeof node->worker_path, "%.*s", (int)sizeof node->worker_path - 1, path);
    compile_open(node, execute_compiled);
    return true;
}

/* Where others reach a socket that is bound to `bound`: the advertised host, or the bound one, with the real
 * port. */
static void advertised(const struct node *node, const char *bound, char out[TRANSPORT_ADDRESS_BYTES_MAX + 1])
{
    const char *port = strrchr(bound, ':');
    char host[256];
    const int host_bytes = (int)(port - bound);
    snprintf(host, sizeof host, "%.*s", host_bytes, bound);
    if (node->config.advertise[0])
        snprintf(host, sizeof host, "%s", node->config.advertise);
    else if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0 || strcmp(host, "*") == 0)
        gethostname(host, sizeof host);
    snprintf(out, TRANSPORT_ADDRESS_BYTES_MAX + 1, "%s%s", host, port);
}

static void bind_text(const struct node *node, uint16_t port, char *out, size_t out_bytes)
{
    const bool v6 = strchr(node->config.bind, ':') && node->config.bind[0] != '[';
    if (port)
        snprintf(out, out_bytes, v6 ? "[%s]:%u" : "%s:%u", node->config.bind, port);
    else
        snprintf(out, out_bytes, v6 ? "[%s]:*" : "%s:*", node->config.bind);
}

static bool open_network(struct node *node)
{
    const struct identity *identity = federation_identity(node->federation);
    char bind[CONFIG_TEXT_BYTES + 16];
    struct transport_failure failure;
    node->zmq = zmq_ctx_new();
    if (!node->zmq || !admission_open(&node->admission))
        return complain("out of memory");
    zmq_ctx_set(node->zmq, ZMQ_IO_THREADS, IO_THREADS);
    zmq_ctx_set(node->zmq, ZMQ_MAX_SOCKETS, 4096);
    if (!zap_open(node->zmq, node->admission, &node->zap))
        return complain("cannot start the authentication handler");

    bind_text(node, node->config.control_port, bind, sizeof bind);
    struct transport_options transport = {.zmq = node->zmq,
                                          .loop = node->loop,
                                          .admission = node->admission,
                                          .zap = node->zap,
                                          .bind = bind,
                                          .bind_setting = "network.control_port",
                                          .curve = identity->curve,
                                          .curve_secret = identity->curve_secret,
                                          .self = node->self,
                                          .incarnation = node->incarnation,
                                          .process = node->session,
                                          .software = NODE_SOFTWARE,
                                          .on_message = on_message,
                                          .on_link_up = on_link_up,
                                          .on_link_down = on_link_down,
                                          .on_hello = on_hello,
                                          .on_log = on_log,
                                          .context = node};
    const enum transport_error error = transport_open(&transport, &failure, &node->transport);
    sodium_memzero(&transport.curve_secret, sizeof transport.curve_secret);
    if (error != TRANSPORT_OK)
        return complain(failure.text);

    bind_text(node, node->config.bulk_port, bind, sizeof bind);
    struct bulk_options bulk = {.zmq = node->zmq,
                                .loop = node->loop,
                                .admission = node->admission,
                                .zap = node->zap,
                                .store = node->store,
                                .bind = bind,
                                .bind_setting = "network.bulk_port",
                                .curve = identity->curve,
                                .curve_secret = identity->curve_secret,
                                .on_done = fetch_on_done,
                                .on_liar = fetch_on_liar,
                                .context = node};
    const enum transport_error bulk_error = bulk_open(&bulk, &failure, &node->bulk);
    sodium_memzero(&bulk.curve_secret, sizeof bulk.curve_secret);
    if (bulk_error != TRANSPORT_OK)
        return complain(failure.text);

    advertised(node, transport_bound(node->transport), node->control);
    advertised(node, bulk_bound(node->bulk), node->bulk_address);
    return true;
}

static bool open_join(struct node *node)
{
    if (invites_open(&node->invites, node->federation, node->store) != STORE_OK)
        return complain("cannot read the invitations from the store");
    const struct join_options options = {.federation = node->federation,
                                         .invites = node->invites,
                                         .store = node->store,
                                         .bind = node->config.bind,
                                         .port = node->config.join_port};
    const struct join_callbacks callbacks = {
        .commit = on_join_commit, .admit = on_join_admit, .peers = on_join_peers, .context = node};
    char error[512];
    if (!join_server_open(node->loop, &options, &callbacks, &node->join, error, sizeof error))
        return complain(error);
    if (!join_client_open(node->loop, node->zmq, node->federation, &node->join_client))
        return complain("out of memory");
    const struct renewal_callbacks renewal = {
        .issuer = records_issuer, .renewed = records_renewed, .context = node};
    if (!renewal_open(node->loop, node->federation, node->join_client, &renewal, &node->renewal))
        return complain("out of memory");
    char bound[CONFIG_TEXT_BYTES + 16];
    bind_text(node, join_server_port(node->join), bound, sizeof bound);
    advertised(node, bound, node->join_address);
    return true;
}

static void on_client_closed(void *context, void *state)
{
    uploads_release(context, state);
    free(state);
}

static bool open_local(struct node *node)
{
    const struct api_options options = {.loop = node->loop,
                                        .path = node->config.socket,
                                        .group = node->config.group,
                                        .admin_group = node->config.admin_group,
                                        .tenant = on_tenant,
                                        .closed = on_client_closed,
                                        .context = node};
    char error[512];
    if (!api_open(&node->api, &options, node_ops, node, error, sizeof error))
        return complain(error);
    if (node->config.http_port == CONFIG_HTTP_OFF)
        return true;
    const struct http_options http = {.loop = node->loop,
                                      .bind = node->config.http_bind,
                                      .port = (uint16_t)node->config.http_port,
                                      .metrics = on_metrics,
                                      .ready = on_ready,
                                      .context = node};
    return http_open(&node->http, &http, error, sizeof error) || complain(error);
}

static bool open_signals(struct node *node)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) != 0)
        return complain("cannot block signals");
    node->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (node->signal_fd < 0)
        return complain("cannot watch for signals");
    signal(SIGPIPE, SIG_IGN);
    loop_watch(node->loop, node->signal_fd, EPOLLIN, on_signal, node);
    return true;
}

/* Every link takes descriptors, and libzmq spins when there are none left. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    const rlim_t wanted = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool open_all(struct node *node)
{
    raise_descriptor_limit();
    if (!loop_open(&node->loop) || !open_signals(node) || !open_identity(node) || !open_store(node) ||
        !background_open(&node->background, node->loop) || !open_workers(node) || !devices_open(node) ||
        !open_network(node) || !open_join(node))
        return false;
    if (!host_open(node, node->incarnation))
        return complain("out of memory");
    return open_local(node);
}

static void close_all(struct node *node)
{
    http_close(node->http);
    if (node->api) {
        relays_close(node);
        calls_close(node);
    }
    api_close(node->api);
    join_client_close(node->join_client);
    renewal_close(node->renewal);
    join_server_close(node->join);
    if (node->bulk)
        bulk_close(node->bulk);
    if (node->transport)
        transport_close(node->transport);
    if (node->zap)
        zap_close(node->zap);
    devices_close(node);
    workers_close(node->workers);
    compile_close(node);
    background_close(node->background);
    recheck_close(node);
    background_close(node->copier);
    execute_close(node);
    if (node->store)
        loop_unwatch(node->loop, store_fd(node->store));
    invites_close(node->invites);
    store_close(node->store);
    resync_close(node);
    take_close(node);
    keep_close(node);
    handover_close(node);
    keys_close(node);
    host_close(node);
    jobs_close(node);
    cache_close(node);
    copies_close(node);
    holds_close(node);
    if (node->zmq)
        zmq_ctx_term(node->zmq);
    if (node->admission)
        admission_close(node->admission);
    federation_close(node->federation);
    peers_close(node);
    if (node->signal_fd >= 0)
        close(node->signal_fd);
    loop_close(node->loop);
}

static void announce_ready(struct node *node, int ready_fd)
{
    char id[65];
    hex_encode(node->self.bytes, 32, id);
    const struct certificate *certificate = federation_certificate(node->federation);
    log_info("ready",
             "node=%.8s site=%s control=%s bulk=%s join=%s http=%u socket=%s incarnation=%llu slots=%u", id,
             certificate->site, node->control, node->bulk_address, node->join_address, http_port(node->http),
             node->config.socket, (unsigned long long)node->incarnation,
             workers_slots(node->workers, 0) + workers_slots(node->workers, 1));
    if (ready_fd >= 0) {
        dprintf(
            ready_fd,
            "{\"id\": \"%s\", \"name\": \"%s\", \"site\": \"%s\", \"socket\": \"%s\", \"control\": \"%s\", "
            "\"bulk\": \"%s\", \"join\": \"%s\", \"http\": %u, \"pid\": %d}\n",
            id, certificate->name, certificate->site, node->config.socket, node->control, node->bulk_address,
            node->join_address, http_port(node->http), (int)getpid());
        close(ready_fd);
    }
    sd_notify(0, "READY=1");
}

int node_run(const struct config *config, int ready_fd)
{
    struct node *node = calloc(1, sizeof *node);
    if (!node)
        return EXIT_FAILED;
    store_guard_install();
    node->config = *config;
    if (config->cuda_devices != 0)
        node->devices.listener_count = watch_listen(node->devices.listeners);
    process_give_up_power();
    node->signal_fd = -1;
    node->queued_tail = &node->queued;
    node->started_at_ms = clock_now_ms();
    jobs_open(node);
    cache_open(node);
    if (!open_all(node)) {
        const int code = node->exit_code ? node->exit_code : EXIT_FAILED;
        close_all(node);
        free(node);
        return code;
    }
    loop_on_turn(node->loop, turn, node);
    devices_tell(node);
    records_restore(node);
    quarantine_restore(node);
    copies_restore(node);
    jobs_restore(node);
    copies_sweep_rests(node);
    take_restore(node);
    resync_restore(node);
    node->serving = true;
    announce_ready(node, ready_fd);
    loop_run(node->loop);
    trust_last(node);
    log_info("stop", "exit=%d", node->exit_code);
    const int code = node->exit_code;
    close_all(node);
    free(node);
    return code;
}
