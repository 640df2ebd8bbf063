/*
 * Drives the core. Events wait in a queue, so that handling one output may cause the next event without
 * recursion. The saves of a step become one store batch; its sends and effects (a *release*) are let go when
 * that batch is durable, or at once when there was nothing to save.
 */
#include "node/calls.h"
#include "node/compile.h"
#include "node/handover.h"
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/resync.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define STALLED_RETRY_MS 1000

struct host_event {
    struct host_event *next;
    struct mesh_event event;
    struct mesh_message *message; /* a copy, for MESH_RECEIVED */
    uint32_t *digest;             /* owned; of a RESULT */
};

struct outgoing {
    struct mesh_id to;
    struct mesh_message *message;
    struct bytes *payload; /* NULL = none */
};

struct held_effect {
    struct mesh_effect effect;
    struct bytes *bytes; /* what the effect's handle named, kept until it is let go */
};

struct held_save {
    struct mesh_save save;
    struct bytes *bytes; /* the record or payload to be saved; NULL = none */
    struct bytes *entry; /* of a journal of several copies, as it is kept and sent; NULL = none */
};

/* Born in `take`, freed once let go. While the disk is full it waits in node->stalled, saved or not, and is tried again. */
struct host_release {
    uint32_t save_count;
    uint32_t send_count;
    uint32_t effect_count;
    struct held_save *saves;
    struct outgoing *sends;
    struct held_effect *effects;
    struct host_release *next; /* in node->stalled */
};

/* As jobs name them to the core. */
static uint64_t *list_kernels(uint32_t *count)
{
    *count = 0;
    while (manifest_each(*count))
        ++*count;
    uint64_t *kernels = must(calloc(*count, sizeof *kernels));
    for (uint32_t i = 0; i < *count; i++) {
        const struct digest digest = job_kernel_digest(manifest_each(i));
        kernels[i] = digest_hash(&digest);
    }
    return kernels;
}

bool host_open(struct node *node, uint64_t incarnation)
{
    struct host *host = &node->host;
    struct mesh_config config = {
        .limits = {.members = MESH_MEMBERS_MAX,
                   .jobs = MESH_JOBS_MAX,
                   .shards = MESH_SHARDS_MAX,
                   .bundles = MESH_BUNDLES_MAX,
                   .attempts = MESH_ATTEMPTS_MAX,
                   .demands = MESH_DEMANDS_MAX,
                   .journals = MESH_JOURNALS_MAX,
                   .waiters = MESH_WAITERS_MAX},
        .self = node->self,
        .incarnation = incarnation,
        .session = node->session,
        .now_ms = clock_now_ms(),
        .wall_ms = clock_wall_ms(),
    };
    size_t bytes;
    store_get(node->store, STORE_COUNTERS, "storage", 7, &config.storage, sizeof config.storage, &bytes);
    store_get(node->store, STORE_COUNTERS, "sequence", 8, &config.sequence, sizeof config.sequence, &bytes);
    config.kernels = host->kernels = list_kernels(&config.kernel_count);
    config.user_classes = compile_classes(node);
    const char *site = federation_certificate(node->federation)->site;
    const char *region = node->config.region[0] ? node->config.region : site;
    config.site = name_hash(site);
    config.region = name_hash(region);
    randombytes_buf(config.seed, sizeof config.seed);
    host->memory = calloc(1, mesh_size(&config.limits));
    host->out = calloc(1, sizeof *host->out);
    host->tail = &host->head;
    node->stalled_tail = &node->stalled;
    if (!host->memory || !host->out)
        return false;
    host->mesh = mesh_init(host->memory, &config);
    return true;
}

void host_close(struct node *node)
{
    struct host *host = &node->host;
    while (host->head) {
        struct host_event *event = host->head;
        host->head = event->next;
        free(event->message);
        free(event->digest);
        free(event);
    }
    handles_deinit(&host->handles);
    free(host->memory);
    free(host->kernels);
    free(host->out);
    *host = (struct host){0};
}

/* ---- Letting go */

static void loop_back(struct node *node, struct outgoing *send)
{
    host_on_own(node, send->message, send->payload);
    send->payload = NULL;
}

static void let_send_go(struct node *node, struct outgoing *send)
{
    if (memcmp(&send->to, &node->self, sizeof send->to) == 0) {
        loop_back(node, send);
    } else {
        static struct wire_frame frame;
        if (send->message->kind == MESH_PING)
            send->message->body.ping.stamp_us = (uint64_t)clock_now_us();
        const struct wire_bytes payload = {.bytes = send->payload ? send->payload->data : NULL,
                                           .count = send->payload ? send->payload->count : 0};
        wire_message(&frame, send->message, payload);
        transport_send(node->transport, &send->to, &frame);
    }
    bytes_drop(send->payload);
    free(send->message);
}

static void on_member(struct node *node, const struct mesh_effect *effect)
{
    static const char *const words[] = {"", "up", "suspect", "down", "left", "revoked"};
    log_info("member", "node=%s site=%s state=%s incarnation=%llu accusers=%u",
             peer_name(node, &effect->body.member.id), peer_site(node, &effect->body.member.id),
             words[effect->body.member.state], (unsigned long long)effect->body.member.incarnation,
             effect->body.member.accusers);
    if (effect->body.member.state == MESH_DOWN || effect->body.member.state == MESH_LEFT)
        records_look_soon(node);
    if (effect->body.member.state == MESH_REVOKED)
        handover_look_soon(node);
}

static void on_cloned(struct node *node, const struct mesh_effect *effect)
{
    if (effect->body.cloned.fatal) {
        log_error(
            "clone",
            "reason=\"another process already runs with this node's identity; stop it, or give this one "
            "its own with `weir join` in another data folder\"");
        node_stop(node, EXIT_FAILED);
        return;
    }
    transport_greet(node->transport);
    if (effect->body.cloned.meetings == 1)
        log_warn("clone",
                 "reason=\"peers hold a newer record of this identity: the data folder is older than "
                 "its last run, or a copy of it runs\"");
    else
        log_error("clone", "reason=\"another process runs with this node's identity; find the copy of this "
                           "data folder: the younger one stops\"");
}

/* A link that is up already, on demand, has told the core so when the peer was no neighbour: it is told again. */
static void keep_link(struct node *node, const struct mesh_id *peer)
{
    struct transport_protocol protocol;
    transport_keep(node->transport, peer, true);
    if (!transport_link_is_up(node->transport, peer))
        return;
    transport_protocol(node->transport, peer, &protocol);
    host_post(node, &(struct mesh_event){.kind = MESH_LINK_UP,
                                         .body.link = {.peer = *peer, .protocol = protocol.agreed}});
}

static void on_run(struct node *node, const struct held_effect *held)
{
    const struct run_order order = {.attempt = held->effect.body.run.attempt,
                                    .home = held->effect.body.run.home,
                                    .job = held->effect.body.run.job,
                                    .others = held->effect.body.run.others,
                                    .class = held->effect.body.run.class,
                                    .count = held->effect.body.run.count,
                                    .payload = bytes_keep(held->bytes)};
    execute_run(node, &order);
}

static void let_effect_go(struct node *node, struct held_effect *held)
{
    const struct mesh_effect *effect = &held->effect;
    switch (effect->kind) {
    case MESH_DROP:
        results_dropped(node, effect->body.handle);
        handles_drop(&node->host.handles, effect->body.handle);
        break;
    case MESH_SIGN:
        records_sign(node, &effect->body.record);
        break;
    case MESH_LINK_KEEP:
        keep_link(node, &effect->body.peer);
        break;
    case MESH_LINK_RELEASE:
        transport_keep(node->transport, &effect->body.peer, false);
        break;
    case MESH_LINK_REDIAL:
        transport_redial(node->transport, &effect->body.peer);
        break;
    case MESH_ADMIT:
        records_admit(node, &effect->body.admit.id, held->bytes);
        break;
    case MESH_BAR:
        records_bar(node, &effect->body.peer);
        break;
    case MESH_MEMBER:
        on_member(node, effect);
        break;
    case MESH_CLONED:
        on_cloned(node, effect);
        break;
    case MESH_LOOKUP:
        cache_lookup(node, &effect->body.lookup.job, effect->body.lookup.epoch, effect->body.lookup.first,
                     effect->body.lookup.count);
        break;
    case MESH_RUN:
        on_run(node, held);
        break;
    case MESH_STOP:
        execute_stop(node, effect->body.stop.attempt);
        break;
    case MESH_JOB:
        jobs_on_state(node, &effect->body.job.id, effect->body.job.refusal, effect->body.job.state);
        break;
    case MESH_QUARANTINED:
        quarantine_on(node, effect);
        break;
    case MESH_DISPUTED:
        jobs_on_disputed(node, &effect->body.disputed.job, effect->body.disputed.count);
        break;
    case MESH_DECISION:
        jobs_on_decision(node, &effect->body.decision.job, &effect->body.decision.member,
                         effect->body.decision.why, effect->body.decision.shard, effect->body.decision.count);
        break;
    case MESH_ECHOED:
        samples_add(&node->convergence, effect->body.echoed.after_ms);
        break;
    case MESH_DRAINED:
        node->drained = true;
        break;
    case MESH_JOURNAL_ASKED:
        copies_on_asked(node, effect);
        break;
    case MESH_TAKE_OVER:
        jobs_take_over(node, &effect->body.take_over.job, effect->body.take_over.epoch);
        break;
    case MESH_SEND_LOG:
        copies_send_log(node, effect);
        break;
    case MESH_JOURNAL_OVER:
        copies_on_over(node, &effect->body.over.job, effect->body.over.whole);
        copies_made_room(node);
        break;
    }
    bytes_drop(held->bytes);
}

/* The first disk that a node ever has is none that was lost, and it is said anew in what follows. */
static void on_storage(struct node *node)
{
    const uint64_t lost = mesh_counters(node->host.mesh)->disks_lost, before = node->disks_lost;
    if (lost == before)
        return;
    node->disks_lost = lost;
    resync_begin(node);
    if (before > 0)
        return; /* others say the same */
    log_warn("disk",
             "state=put_back data=%s reason=\"peers have seen this disk further than it is: data of an "
             "earlier time was put back, or data was lost; its copies of journals have no vote until they "
             "are brought up anew, finished jobs are asked back from those that keep them too, and jobs of "
             "a single copy that it forgot are lost\"",
             node->config.data);
}

static void let_go(struct node *node, struct host_release *release)
{
    for (uint32_t i = 0; i < release->save_count; i++) {
        if (release->saves[i].save.kind == MESH_SAVE_INCARNATION)
            transport_set_incarnation(node->transport, release->saves[i].save.body.incarnation);
        if (release->saves[i].save.kind == MESH_SAVE_STORAGE)
            on_storage(node);
    }
    for (uint32_t i = 0; i < release->save_count; i++) {
        jobs_saved(node, &release->saves[i].save, release->saves[i].bytes);
        bytes_drop(release->saves[i].bytes);
        bytes_drop(release->saves[i].entry);
    }
    for (uint32_t i = 0; i < release->send_count; i++)
        let_send_go(node, &release->sends[i]);
    for (uint32_t i = 0; i < release->effect_count; i++)
        let_effect_go(node, &release->effects[i]);
    free(release->saves);
    free(release->sends);
    free(release->effects);
    free(release);
}

/* ---- Taking one step's output */

static const struct mesh_place *place_of(const struct mesh_save *save, struct mesh_id *job)
{
    switch (save->kind) {
    case MESH_SAVE_JOB:
    case MESH_SAVE_JOB_STATE:
        *job = save->body.job.id;
        return &save->body.job.place;
    case MESH_SAVE_COMMIT:
        *job = save->body.commit.job;
        return &save->body.commit.place;
    case MESH_SAVE_DISPUTE:
        *job = save->body.dispute.job;
        return &save->body.dispute.place;
    case MESH_SAVE_ENTRY:
        *job = save->body.entry.job;
        return &save->body.entry.place;
    default:
        return NULL;
    }
}

/* An APPEND carries the bytes of the save of the same step that it stands for. */
static struct bytes *entry_of(const struct host_release *release, const struct mesh_message *message)
{
    for (uint32_t i = 0; i < release->save_count; i++) {
        struct mesh_id job;
        const struct mesh_place *place = place_of(&release->saves[i].save, &job);
        if (place && place->index == message->body.append.index &&
            memcmp(&job, &message->body.append.job, sizeof job) == 0)
            return release->saves[i].entry ? bytes_keep(release->saves[i].entry) : NULL;
    }
    return NULL;
}

static struct bytes *payload_of(struct node *node, const struct mesh_message *message)
{
    uint64_t handle = 0;
    switch (message->kind) {
    case MESH_PUSH:
    case MESH_SPREAD:
        handle = message->body.push.record.handle;
        break;
    case MESH_RESULT:
        handle = message->body.result.handle;
        break;
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        return jobs_assign_payload(node, message);
    default:
        break;
    }
    return handle ? bytes_keep(handles_get(&node->host.handles, handle)) : NULL;
}

static uint64_t save_handle(const struct mesh_save *save)
{
    switch (save->kind) {
    case MESH_SAVE_RECORD:
        return save->body.record.handle;
    case MESH_SAVE_COMMIT:
        return save->body.commit.handle;
    case MESH_SAVE_JOB_STATE:
        return save->body.job.handle;
    case MESH_SAVE_ENTRY:
        return save->body.entry.handle;
    default:
        return 0;
    }
}

static uint64_t effect_handle(const struct mesh_effect *effect)
{
    if (effect->kind == MESH_ADMIT)
        return effect->body.admit.handle;
    if (effect->kind == MESH_RUN)
        return effect->body.run.handle;
    return 0;
}

static struct host_release *take(struct node *node, const struct mesh_out *out)
{
    struct host_release *release = must(calloc(1, sizeof *release));
    release->saves = must(calloc(out->save_count + 1, sizeof *release->saves));
    for (uint32_t i = 0; i < out->save_count; i++) {
        struct held_save *held = &release->saves[release->save_count++];
        held->save = out->save[i];
        const uint64_t handle = save_handle(&out->save[i]);
        held->bytes = handle ? bytes_keep(handles_get(&node->host.handles, handle)) : NULL;
        held->entry = copies_entry(node, &held->save, held->bytes);
    }
    release->sends = must(calloc(out->send_count + 1, sizeof *release->sends));
    release->effects = must(calloc(out->effect_count + 1, sizeof *release->effects));
    for (uint32_t i = 0; i < out->send_count; i++) {
        const struct mesh_send *send = &out->send[i];
        const bool append = send->message.kind == MESH_APPEND;
        struct bytes *payload = append ? entry_of(release, &send->message) : payload_of(node, &send->message);
        if ((send->message.kind == MESH_ASSIGN || send->message.kind == MESH_ASSIGN_KEPT) && !payload)
            continue; /* the job ended in this very turn; the grant runs out */
        struct outgoing outgoing = {.to = send->to, .payload = payload};
        outgoing.message = must(calloc(1, sizeof *outgoing.message));
        memcpy(outgoing.message, &send->message, mesh_message_bytes(&send->message));
        if (send->early)
            let_send_go(node, &outgoing);
        else
            release->sends[release->send_count++] = outgoing;
    }
    for (uint32_t i = 0; i < out->effect_count; i++) {
        struct held_effect *held = &release->effects[release->effect_count++];
        held->effect = out->effect[i];
        const uint64_t handle = effect_handle(&out->effect[i]);
        held->bytes = handle ? bytes_keep(handles_get(&node->host.handles, handle)) : NULL;
    }
    return release;
}

static void add_save(struct node *node, struct store_batch *batch, const struct held_save *held)
{
    const struct mesh_save *save = &held->save;
    switch (save->kind) {
    case MESH_SAVE_INCARNATION:
        store_batch_put(batch, STORE_COUNTERS, "incarnation", 11, &save->body.incarnation, 8);
        break;
    case MESH_SAVE_RECORD:
        records_save(node, batch, save->body.record.kind, &save->body.record.origin, held->bytes);
        break;
    case MESH_SAVE_JOB:
    case MESH_SAVE_COMMIT:
    case MESH_SAVE_DISPUTE:
    case MESH_SAVE_JOB_STATE:
        jobs_save(node, batch, save, held->bytes);
        if (held->entry)
            copies_save(node, batch, save, held->entry);
        break;
    case MESH_SAVE_QUARANTINE:
        quarantine_save(node, batch, save);
        break;
    case MESH_SAVE_STORAGE:
        store_batch_put(batch, STORE_COUNTERS, "storage", 7, &save->body.storage, 8);
        resync_save(node, batch);
        break;
    case MESH_SAVE_ENTRY:
    case MESH_SAVE_PROMISE:
        copies_save(node, batch, save, held->entry);
        break;
    }
    if (save->sequence > 0)
        store_batch_put(batch, STORE_COUNTERS, "sequence", 8, &save->sequence, 8);
}

/*
 * No room on the disk. A job that was being submitted is refused to its submitter; anything else waits until
 * there is room, unacknowledged, which stalls the jobs concerned and loses nothing.
 */
static void on_saved(struct node *node, void *context, enum store_error error)
{
    struct host_release *release = context;
    node->host.saving--;
    if (error == STORE_OK && !node->stalled) {
        let_go(node, release);
        return;
    }
    /* A job of several copies may be settled without ours: others have been sent it. */
    for (uint32_t i = 0; error != STORE_OK && i < release->save_count; i++)
        if (release->saves[i].save.kind == MESH_SAVE_JOB && release->saves[i].save.body.job.place.index == 0)
            jobs_refuse(node, &release->saves[i].save.body.job.id, error);
    if (error != STORE_OK)
        disk_failed(node, error);
    if (!node->stalled) {
        log_error("store", "error=\"%s\" reason=\"results wait in memory until there is room\"",
                  store_error_text(error));
        node->stalled_at_ms = clock_now_ms();
    }
    release->next = NULL;
    *node->stalled_tail = release;
    node->stalled_tail = &release->next;
}

static void commit(struct node *node, struct host_release *release)
{
    struct store_batch *batch = node_batch(node);
    for (uint32_t i = 0; i < release->save_count; i++)
        add_save(node, batch, &release->saves[i]);
    node->host.saving++;
    node_commit(node, batch, on_saved, release);
}

static void retry_stalled(struct node *node)
{
    struct host_release *release = node->stalled;
    node->stalled = NULL;
    node->stalled_tail = &node->stalled;
    while (release) {
        struct host_release *next = release->next;
        commit(node, release);
        release = next;
    }
}

static void apply(struct node *node, const struct mesh_out *out)
{
    struct host_release *release = take(node, out);
    if (out->save_count == 0)
        let_go(node, release);
    else
        commit(node, release);
}

/* ---- Events */

/* `digests`: of a RESULT, owned, if they are there already. */
static void post(struct node *node, const struct mesh_event *event, uint32_t *digests)
{
    struct host *host = &node->host;
    struct host_event *queued = must(calloc(1, sizeof *queued));
    queued->event = *event;
    if (event->kind == MESH_RECEIVED) {
        const struct mesh_message *message = event->body.received.message;
        queued->message = must(calloc(1, sizeof *queued->message));
        memcpy(queued->message, message, mesh_message_bytes(message));
        queued->event.body.received.message = queued->message;
        if (message->kind == MESH_RESULT) {
            const uint64_t handle = message->body.result.handle;
            const struct bytes *payload = handle ? handles_get(&host->handles, handle) : NULL;
            queued->digest = digests ? digests : verify_digests(node, message, payload);
            queued->event.body.received.digest = queued->digest;
        }
    }
    *host->tail = queued;
    host->tail = &queued->next;
}

void host_post(struct node *node, const struct mesh_event *event)
{
    post(node, event, NULL);
}

void host_received(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                   struct bytes *payload)
{
    host_result(node, from, message, payload, NULL);
}

void host_result(struct node *node, const struct mesh_id *from, const struct mesh_message *message,
                 struct bytes *payload, uint32_t *digests)
{
    struct mesh_message *copy = must(calloc(1, sizeof *copy));
    memcpy(copy, message, mesh_message_bytes(message));
    const uint64_t handle = payload ? handles_put(&node->host.handles, payload) : 0;
    if (copy->kind == MESH_ASSIGN || copy->kind == MESH_ASSIGN_KEPT)
        copy->body.assign.handle = handle;
    if (copy->kind == MESH_APPEND)
        copy->body.append.handle = handle;
    if (copy->kind == MESH_RESULT)
        copy->body.result.handle = handle;
    struct mesh_event event = {.kind = MESH_RECEIVED, .body.received = {.from = *from, .message = copy}};
    if (copy->kind == MESH_PONG) {
        const int64_t rtt_us = clock_now_us() - (int64_t)copy->body.ping.stamp_us;
        event.body.received.rtt_us = rtt_us < 1 ? 1 : rtt_us > 60000000 ? 60000000 : (uint32_t)rtt_us;
        peers_measured(node, from, event.body.received.rtt_us);
    }
    post(node, &event, digests);
    free(copy);
}

void host_on_own(struct node *node, const struct mesh_message *message, struct bytes *payload)
{
    if (message->kind == MESH_RESULT)
        jobs_on_result(node, &node->self, message, payload);
    else
        host_received(node, &node->self, message, payload);
}

void host_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    const struct wire_bytes payload = frame->body.mesh.payload;
    switch (frame->kind) {
    case WIRE_CACHE_PUBLISH:
    case WIRE_CACHE_FIND:
    case WIRE_CACHE_FOUND:
    case WIRE_CACHE_GET:
    case WIRE_CACHE_ENTRIES:
    case WIRE_CACHE_CLAIM:
    case WIRE_CACHE_CLAIMED:
    case WIRE_CACHE_GONE:
    case WIRE_CACHE_OVER:
        cache_on_frame(node, from, frame);
        break;
    case WIRE_ASK:
    case WIRE_ANSWER:
    case WIRE_UNASK:
        calls_on_frame(node, from, frame);
        break;
    case WIRE_PUSH:
    case WIRE_SPREAD:
        if (!records_received(node, from, payload.bytes, payload.count,
                              frame->body.mesh.message.body.push.hops))
            node->records_refused++;
        break;
    case WIRE_RESULT:
        jobs_on_result(node, from, &frame->body.mesh.message, bytes_make(payload.bytes, payload.count));
        break;
    case WIRE_ASSIGN:
    case WIRE_ASSIGN_KEPT:
        host_received(node, from, &frame->body.mesh.message, bytes_make(payload.bytes, payload.count));
        break;
    case WIRE_APPEND:
        copies_on_append(node, from, &frame->body.mesh.message, bytes_make(payload.bytes, payload.count));
        break;
    case WIRE_PONG:
        if (!pings_on_pong(node, from, frame->body.mesh.message.body.ping.stamp_us))
            host_received(node, from, &frame->body.mesh.message, NULL);
        break;
    default:
        host_received(node, from, &frame->body.mesh.message, NULL);
        break;
    }
}

/* Callbacks only queue events; they are stepped here, in the turn, so that no output is handled inside
 * another. */
static void step(struct node *node)
{
    struct host *host = &node->host;
    while (host->head) {
        struct host_event *queued = host->head;
        host->head = queued->next;
        if (!host->head)
            host->tail = &host->head;
        queued->event.now_ms = clock_now_ms();
        queued->event.wall_ms = clock_wall_ms();
        mesh_step(host->mesh, &queued->event, host->out);
        host->wake_at_ms = host->out->wake_at_ms;
        free(queued->message);
        free(queued->digest);
        free(queued);
        apply(node, host->out);
    }
}

int64_t host_turn(void *context, int64_t now_ms)
{
    struct node *node = context;
    if (now_ms >= node->host.wake_at_ms)
        host_post(node, &(struct mesh_event){.kind = MESH_TICK});
    step(node);
    if (!node->stalled)
        return node->host.wake_at_ms;
    if (now_ms >= node->stalled_at_ms + STALLED_RETRY_MS)
        retry_stalled(node);
    const int64_t retry_at_ms = node->stalled_at_ms + STALLED_RETRY_MS;
    return retry_at_ms < node->host.wake_at_ms ? retry_at_ms : node->host.wake_at_ms;
}
