/* The local API: a job's story, from the decisions that its home has kept: explain, logs, and watch while it goes on. */
#include "node/ops.h"
#include "node/user_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WATCH_EVERY_MS 100
#define DECISION_TEXT_BYTES (JOB_ERROR_BYTES + 200)

enum watch_kind { WATCH_STATE, WATCH_LINES };

/* A client that waits for news of a job. `kind` says what it is told. */
struct job_watch {
    struct job_watch *next;
    struct api_call *call;
    struct mesh_id job;
    enum watch_kind kind;
    uint64_t told;  /* WATCH_LINES: the number of the next decision to tell */
    uint32_t shown; /* WATCH_STATE: committed shards when it was last told */
    bool stalled;   /* WATCH_STATE: as it was last told */
    bool first;
};

/* ---- What happened, and why */

static const char *const why_words[] = {
    [0] = "",
    [MESH_WHY_RESERVED] = "asked",
    [MESH_WHY_GRANTED] = "granted",
    [MESH_WHY_WAITS] = "waits",
    [MESH_WHY_NOBODY] = "nobody",
    [MESH_WHY_ASSIGNED] = "assigned",
    [MESH_WHY_DONE] = "done",
    [MESH_WHY_CACHED] = "cached",
    [MESH_WHY_RETURNED] = "returned",
    [MESH_WHY_CRASHED] = "crashed",
    [MESH_WHY_REJECTED] = "rejected",
    [MESH_WHY_NO_KERNEL] = "no-kernel",
    [MESH_WHY_MEMBER_DOWN] = "member-down",
    [MESH_WHY_RESTARTED] = "restarted",
    [MESH_WHY_EXPIRED] = "expired",
    [MESH_WHY_LEASE_ENDED] = "lease-ended",
    [MESH_WHY_SPECULATED] = "speculated",
    [MESH_WHY_OVERTAKEN] = "overtaken",
    [MESH_WHY_CHECKING] = "checking",
    [MESH_WHY_AGREES] = "agrees",
    [MESH_WHY_DIFFERS] = "differs",
    [MESH_WHY_WRONG] = "wrong",
    [MESH_WHY_QUARANTINED] = "quarantined",
    [MESH_WHY_DOUBTED] = "doubted",
    [MESH_WHY_UNCHECKED] = "unchecked",
    [MESH_WHY_UNDECIDED] = "undecided",
};

/* "12 free slots, 3.1 ms away" */
static void choice_text(const struct node *node, const struct job_decision *decision, char *out,
                        size_t out_bytes)
{
    const char *s = decision->free_slots == 1 ? "" : "s";
    const char *holds = decision->holds ? ", holds its largest input" : "";
    if (memcmp(&decision->node, &node->self, sizeof node->self) == 0)
        snprintf(out, out_bytes, "%u free slot%s, here", decision->free_slots, s);
    else if (decision->rtt_us == 0)
        snprintf(out, out_bytes, "%u free slot%s by its last word%s", decision->free_slots, s, holds);
    else
        snprintf(out, out_bytes, "%u free slot%s by its last word, %u.%u ms away%s", decision->free_slots, s,
                 decision->rtt_us / 1000, decision->rtt_us / 100 % 10, holds);
}

static const char *no_kernel_text(const struct job *job)
{
    return job->spec.manifest->user ? "takes no users' kernels; its log tells why"
                                    : "has another version of this kernel, or none";
}

/* What being wrong led to. */
static const char *consequence_text(struct node *node, const struct job *job,
                                    const struct job_decision *decision)
{
    if (strcmp(peer_site(node, &decision->node), peer_site(node, &node->self)) == 0)
        return "but is of this site, whose devices are believed";
    return user_kernel_of(job->spec.manifest) ? "or the kernel gives what it likes: it gets no more of it"
                                              : "and is quarantined";
}

/* decision_text of what verification decided. */
static void verdict_text(struct node *node, const struct job *job, const struct job_decision *decision,
                         char *out, size_t out_bytes)
{
    const char *name = peer_name(node, &decision->node);
    const unsigned n = decision->count, shard = decision->shard;
    const char *s = n == 1 ? "" : "s";
    char choice[112], times[32] = "";
    choice_text(node, decision, choice, sizeof choice);
    if (decision->times > 1)
        snprintf(times, sizeof times, " in %u bundles", decision->times);
    switch (decision->why) {
    case MESH_WHY_CHECKING:
        snprintf(out, out_bytes, "%s computes %u shard%s of another site again, to compare%s: %s", name, n, s,
                 times, choice);
        break;
    case MESH_WHY_AGREES:
        snprintf(out, out_bytes, "%s has the same result%s for %u shard%s", name, s, n, s);
        break;
    case MESH_WHY_DIFFERS:
        snprintf(out, out_bytes, "%s has another result for %u shard%s, from %u on: a third site decides",
                 name, n, s, shard);
        break;
    case MESH_WHY_WRONG:
        snprintf(out, out_bytes, "%s was wrong about %u shard%s, from %u on, %s", name, n, s, shard,
                 consequence_text(node, job, decision));
        break;
    case MESH_WHY_QUARANTINED:
        snprintf(out, out_bytes, "%s is quarantined: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_DOUBTED:
        snprintf(out, out_bytes, "%s gets no more of this kernel: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_UNCHECKED:
        snprintf(out, out_bytes, "no other site could check %u shard%s of %s in time", n, s, name);
        break;
    case MESH_WHY_UNDECIDED:
        snprintf(out, out_bytes, "no two sites agree about %u shard%s that %s brought, from %u on", n, s,
                 name, shard);
        break;
    default:
        break;
    }
}

static void decision_text(struct node *node, const struct job *job, const struct job_decision *decision,
                          char *out, size_t out_bytes)
{
    const char *name = peer_name(node, &decision->node);
    const unsigned n = decision->count, shard = decision->shard;
    const char *s = n == 1 ? "" : "s";
    const char *reason = decision->reason ? decision->reason : "no reason was given";
    char choice[112], times[32] = "";
    choice_text(node, decision, choice, sizeof choice);
    if (decision->times > 1)
        snprintf(times, sizeof times, " in %u bundles", decision->times);
    switch (decision->why) {
    case MESH_WHY_RESERVED:
        snprintf(out, out_bytes, "asked %s for %u place%s: %s", name, n, s, choice);
        break;
    case MESH_WHY_GRANTED:
        snprintf(out, out_bytes, "%s granted %u place%s", name, n, s);
        break;
    case MESH_WHY_WAITS:
        snprintf(out, out_bytes, "%s has no free place now and will offer one", name);
        break;
    case MESH_WHY_NOBODY:
        snprintf(out, out_bytes, "no node that is up lends a device for this kernel");
        break;
    case MESH_WHY_NO_KERNEL:
        snprintf(out, out_bytes, "%s %s", name, no_kernel_text(job));
        break;
    case MESH_WHY_ASSIGNED:
        snprintf(out, out_bytes, "assigned %u shard%s to %s%s: %s", n, s, name, times, choice);
        break;
    case MESH_WHY_DONE:
        snprintf(out, out_bytes, "%s finished %u shard%s%s", name, n, s, times);
        break;
    case MESH_WHY_CACHED:
        snprintf(out, out_bytes, "%u shard%s came from the cache", n, s);
        break;
    case MESH_WHY_RETURNED:
        snprintf(out, out_bytes, "%s gave %u shard%s back, queued again: %s", name, n, s, reason);
        break;
    case MESH_WHY_CRASHED:
        snprintf(out, out_bytes, "%u attempt%s failed at %s, queued again: %s", n, s, name, reason);
        break;
    case MESH_WHY_REJECTED:
        snprintf(out, out_bytes, "shard %u failed at %s, and would anywhere: %s", shard, name, reason);
        break;
    case MESH_WHY_MEMBER_DOWN:
        snprintf(out, out_bytes, "%s is down: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_RESTARTED:
        snprintf(out, out_bytes, "%s came back without its attempts: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_EXPIRED:
        snprintf(out, out_bytes, "%s no longer honoured its grant: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_LEASE_ENDED:
        snprintf(out, out_bytes, "%s did not renew its lease: %u shard%s queued again", name, n, s);
        break;
    case MESH_WHY_SPECULATED:
        snprintf(out, out_bytes, "%u shard%s that take%s unusually long elsewhere went to %s too: %s", n, s,
                 n == 1 ? "s" : "", name, choice);
        break;
    case MESH_WHY_OVERTAKEN:
        snprintf(out, out_bytes, "%s need not finish %u shard%s: another node was faster", name, n, s);
        break;
    default:
        verdict_text(node, job, decision, out, out_bytes);
        break;
    }
}

static json_t *decision_json(struct node *node, const struct job *job, const struct job_decision *decision)
{
    char text[DECISION_TEXT_BYTES] = "";
    decision_text(node, job, decision, text, sizeof text);
    json_t *row = json_pack("{s:I, s:s, s:s, s:i, s:i, s:s}", "at", (json_int_t)decision->at_ms, "why",
                            why_words[decision->why], "name", peer_name(node, &decision->node), "shard",
                            (int)decision->shard, "count", (int)decision->count, "text", text);
    json_put(row, "node", json_hex(decision->node.bytes, 32));
    json_put(row, "times", json_integer(decision->times));
    if (decision->reason)
        json_put(row, "reason", json_string(decision->reason));
    return row;
}

#define LACKS_REASON_BYTES (LACKS_TEXT_BYTES + 64)

static const char *const fault_words[] = {[MESH_FAULT_NONE] = "lends no device now",
                                          [MESH_FAULT_DEVICE] = "its workers fail: no device is lent",
                                          [MESH_FAULT_DISK] = "its disk is full or fails"};

static uint32_t shards_in_hand(const struct job *job, const struct mesh_id *member)
{
    for (uint32_t i = 0; i < job->share_count; i++)
        if (memcmp(&job->share[i].node, member, sizeof *member) == 0)
            return job->share[i].in_hand;
    return 0;
}

static bool owner_has(struct node *node, const struct mesh_member_view *view)
{
    struct capacity_devices own;
    const struct capacity_devices *devices = devices_of(node, view, &own);
    for (uint32_t i = 0; devices && i < devices->count; i++)
        if (devices->row[i].owned > 0)
            return true;
    return false;
}

/* Why no device of the member takes a job of that user's kernel, though it lends some; "" if one does. */
static const char *lacks_reason(struct node *node, const struct mesh_member_view *view,
                                const struct user_kernel *user, char words[LACKS_REASON_BYTES])
{
    struct capacity_devices own;
    const struct capacity_devices *devices = devices_of(node, view, &own);
    char layers[LACKS_TEXT_BYTES];
    uint16_t lacks = 0;
    words[0] = '\0';
    for (uint32_t c = user->language == MANIFEST_PTX ? 1 : 0; devices && c < MESH_DEVICE_CLASSES; c++) {
        if (view->capacity.class[c].slots > 0 && devices->lacks[c] == 0)
            return words;
        lacks |= view->capacity.class[c].slots > 0 ? devices->lacks[c] : 0;
    }
    if (lacks & CAPACITY_NO_COMPILER)
        snprintf(words, LACKS_REASON_BYTES, "has no compiler for users' kernels");
    else if (lacks)
        snprintf(words, LACKS_REASON_BYTES, "would refuse a user's kernel: its sandbox has %s",
                 layers_text(lacks, layers));
    return words;
}

/* For a job that waits: each member, and what it has of it or why it has nothing. */
static json_t *waiting_json(struct node *node, const struct job *job)
{
    json_t *list = json_array();
    struct mesh_member_view view;
    const struct user_kernel *user = user_kernel_of(job->spec.manifest);
    const bool no_cpu = user && user->language == MANIFEST_PTX;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        const char *reason = NULL;
        char words[LACKS_REASON_BYTES];
        struct mesh_ask_view ask = {0};
        mesh_job_ask(node->host.mesh, &job->spec.id, &view.id, &ask);
        const uint32_t in_hand = shards_in_hand(job, &view.id);
        int slots = 0, free_slots = 0, able = 0;
        for (int c = 0; c < MESH_DEVICE_CLASSES; c++) {
            slots += view.capacity.class[c].slots;
            able += c == 0 && no_cpu ? 0 : view.capacity.class[c].slots;
            free_slots += view.capacity.class[c].free;
        }
        if (view.state == MESH_DOWN)
            reason = "down";
        else if (view.state == MESH_SUSPECT)
            reason = "suspect: gets no new work until it is heard again";
        else if (view.state == MESH_LEFT || view.state == MESH_REVOKED)
            reason = "no longer a member";
        else if (in_hand > 0) {
            snprintf(words, sizeof words, "has %u shard%s of this job in hand", in_hand,
                     in_hand == 1 ? "" : "s");
            reason = words;
        } else if (view.capacity.draining || (view.self && node->draining))
            reason = "draining";
        else if (view.quarantined)
            reason = "quarantined: it brought a wrong result";
        else if (mesh_doubted(node->host.mesh, &job->spec.id, &view.id))
            reason = "two sites had another result of this kernel than it: it gets no more of it";
        else if (job->spec.local_only && strcmp(peer_site(node, &view.id), peer_site(node, &node->self)) != 0)
            reason = "another site, and the job is local";
        else if (!view.self && view.capacity_at_ms == 0)
            reason = "its capacity is not known yet";
        else if (slots == 0 && owner_has(node, &view))
            reason = "its owner has its devices";
        else if (slots == 0)
            reason = fault_words[view.self ? execute_fault(node) : view.capacity.fault];
        else if (able == 0)
            reason = "lends no GPU, and this kernel runs on no other device";
        else if (user && lacks_reason(node, &view, user, words)[0])
            reason = words;
        else if (ask.refused)
            reason = no_kernel_text(job);
        else if (ask.wanted > 0) {
            snprintf(words, sizeof words, "asked for %u place%s %lld s ago: %s", ask.wanted,
                     ask.wanted == 1 ? "" : "s", (long long)(ask.for_ms / 1000),
                     free_slots == 0 ? "every slot is taken by other work" : "no answer yet");
            reason = words;
        } else if (free_slots == 0)
            reason = "every slot is taken by other work, and enough places are asked for elsewhere";
        else
            reason = "has free slots by its last word, and enough places are asked for elsewhere";
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", peer_name(node, &view.id), "site",
                                              peer_site(node, &view.id), "reason", reason));
    }
    return list;
}

enum { NOTES_BYTES = 240 };

/* What keeps its shards from being handed out, and what verification has to say: ", 3 checks open; disputed: ...". */
static const char *notes_text(const struct job *job, const struct mesh_job_view *view, char text[NOTES_BYTES])
{
    int used = 0;
    text[0] = '\0';
    if (view->queued > 0 && view->bind_in_ms > 0)
        used += snprintf(text, NOTES_BYTES, ", none handed out for %lld s yet: others may still bring some",
                         (long long)(view->bind_in_ms + 999) / 1000);
    if (view->held > 0)
        used += snprintf(text + used, (size_t)(NOTES_BYTES - used), ", %u held for a second site's word",
                         view->held);
    if (view->checks > 0)
        used += snprintf(text + used, (size_t)(NOTES_BYTES - used), ", %u check%s open", view->checks,
                         view->checks == 1 ? "" : "s");
    if (job->disputed > 0)
        snprintf(text + used, (size_t)(NOTES_BYTES - used), "; disputed: %u committed result%s proved wrong",
                 job->disputed, job->disputed == 1 ? "" : "s");
    return text;
}

/* The members that it is not offered to for want of what users' kernels need. */
static json_t *passed_over_json(struct node *node, const struct job *job)
{
    json_t *list = json_array();
    struct mesh_member_view view;
    const struct user_kernel *user = user_kernel_of(job->spec.manifest);
    char words[LACKS_REASON_BYTES];
    for (uint32_t i = 0; user && mesh_member_view(node->host.mesh, i, &view); i++)
        if (view.state == MESH_UP && lacks_reason(node, &view, user, words)[0])
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", peer_name(node, &view.id),
                                                  "site", peer_site(node, &view.id), "reason", words));
    return list;
}

void op_explain(void *context, struct api_call *call)
{
    struct node *node = context;
    struct job *job = find_job(node, call, body_text(call, "job"));
    if (!job)
        return;
    struct mesh_job_view view = {0};
    mesh_job_find(node->host.mesh, &job->spec.id, &view);
    char summary[600], stall[JOB_STALL_BYTES], notes[NOTES_BYTES];
    if (job->state == JOB_FAILED)
        snprintf(summary, sizeof summary, "failed: %s", job->error);
    else if (job_stall_text(node, job, stall)[0])
        snprintf(summary, sizeof summary, "stalled: %u of %u shards done; %s", job->committed,
                 job->spec.shard_count, stall);
    else
        snprintf(summary, sizeof summary,
                 "%s: %u of %u shards done (%u from the cache), %u running, %u waiting, %u reassigned%s",
                 job_state_word(job->state), job->committed, job->spec.shard_count, job->cached,
                 view.assigned, view.queued + view.looking_up, job->reassigned,
                 notes_text(job, &view, notes));
    json_t *decisions = json_array();
    for (uint32_t d = 0; d < job->decision_count; d++)
        json_array_append_new(decisions, decision_json(node, job, &job->decision[d]));
    json_t *reply = json_pack("{s:s, s:o, s:o}", "summary", summary, "decisions", decisions, "waiting",
                              view.queued > 0 ? waiting_json(node, job) : json_array());
    json_put(reply, "passed_over", passed_over_json(node, job));
    json_put(reply, "job", json_hex(job->spec.id.bytes, 32));
    json_put(reply, "forgotten", json_integer((json_int_t)job->decisions_dropped));
    json_put(reply, "lost_by_restart", json_boolean(job->read_back));
    api_reply(call, reply);
}

/* ---- watch and logs */

static void watch_gone(void *context, struct api_call *call)
{
    struct node *node = context;
    for (struct job_watch **link = &node->watches; *link; link = &(*link)->next)
        if ((*link)->call == call) {
            struct job_watch *watch = *link;
            *link = watch->next;
            free(watch);
            return;
        }
}

static void watch_add(struct node *node, struct api_call *call, const struct job *job, enum watch_kind kind)
{
    struct job_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        abort();
    *watch = (struct job_watch){
        .next = node->watches, .call = call, .job = job->spec.id, .kind = kind, .first = true};
    node->watches = watch;
    api_on_gone(call, watch_gone, node);
    loop_wake(node->loop);
}

void op_watch(void *context, struct api_call *call)
{
    struct job *job = find_job(context, call, body_text(call, "job"));
    if (!job)
        return;
    if (job->state >= JOB_DONE)
        api_reply(call, json_pack("{s:o}", "job", job_json(context, job, true)));
    else
        watch_add(context, call, job, WATCH_STATE);
}

/* Tells the rows from number `from` on that can't grow any more; returns the number to go on from. */
static uint64_t tell_lines(struct node *node, struct api_call *call, const struct job *job, uint64_t from,
                           bool first)
{
    const int64_t grown_ms = clock_wall_ms() - JOB_DECISION_GROUP_MS;
    if (first && job->read_back)
        api_more(call,
                 json_pack(
                     "{s:I, s:s}", "at", (json_int_t)job->spec.created_at_ms, "line",
                     "what was decided before this node was started, or became the job's home, is not kept"));
    for (uint32_t d = 0; d < job->decision_count; d++) {
        const struct job_decision *decision = &job->decision[d];
        if (decision->number < from)
            continue;
        if (decision->at_ms > grown_ms && job->state < JOB_DONE)
            return decision->number;
        char text[DECISION_TEXT_BYTES] = "";
        decision_text(node, job, decision, text, sizeof text);
        api_more(call, json_pack("{s:I, s:s}", "at", (json_int_t)decision->at_ms, "line", text));
        from = decision->number + 1;
    }
    return from;
}

static void tell_end(struct api_call *call, const struct job *job)
{
    char text[JOB_ERROR_BYTES + 64];
    snprintf(text, sizeof text, "%s%s%s", job_state_word(job->state), job->error[0] ? ": " : "", job->error);
    api_more(call, json_pack("{s:I, s:s}", "at", (json_int_t)job->finished_at_ms, "line", text));
}

void op_logs(void *context, struct api_call *call)
{
    struct node *node = context;
    struct job *job = find_job(node, call, body_text(call, "job"));
    if (!job)
        return;
    char text[200];
    snprintf(text, sizeof text, "submitted by tenant %s: kernel %s, %llu items in %u shards",
             job->spec.tenant, job->spec.manifest->name, (unsigned long long)job->spec.items,
             job->spec.shard_count);
    api_more(call, json_pack("{s:I, s:s}", "at", (json_int_t)job->spec.created_at_ms, "line", text));
    if (json_is_true(json_object_get(api_body(call), "follow")) && job->state < JOB_DONE) {
        watch_add(node, call, job, WATCH_LINES);
        return;
    }
    tell_lines(node, call, job, 0, true);
    if (job->state >= JOB_DONE)
        tell_end(call, job);
    api_reply(call, NULL);
}

/* Returns true when the watch has had its final answer. */
static bool tell(struct node *node, struct job_watch *watch)
{
    const struct job *job = jobs_find(node, &watch->job);
    if (!job && !copies_find(node, &watch->job)) {
        api_error(watch->call, EXIT_FAILED, "the job was not taken");
        return true;
    }
    if (!job || job->moved) {
        if (api_remote_site(watch->call))
            api_error(watch->call, EXIT_UNREACHABLE, "the job has moved to another home");
        else
            relay_moved(node, watch->call, &watch->job);
        return true;
    }
    const bool final = job->state >= JOB_DONE;
    if (watch->kind == WATCH_LINES) {
        watch->told = tell_lines(node, watch->call, job, watch->told, watch->first);
        watch->first = false;
        if (final) {
            tell_end(watch->call, job);
            api_reply(watch->call, NULL);
        }
    } else if (final) {
        api_reply(watch->call, json_pack("{s:o}", "job", job_json(node, job, true)));
    } else {
        char stall[JOB_STALL_BYTES];
        const bool stalled = job_stall_text(node, job, stall)[0];
        if (watch->first || watch->shown != job->committed || watch->stalled != stalled)
            api_more(watch->call, json_pack("{s:o}", "job", job_json(node, job, true)));
        watch->shown = job->committed;
        watch->stalled = stalled;
        watch->first = false;
    }
    return final;
}

int64_t watches_turn(struct node *node, int64_t now_ms)
{
    if (!node->watches)
        return INT64_MAX;
    const bool due = now_ms >= node->watches_at_ms + WATCH_EVERY_MS;
    struct job_watch **link = &node->watches;
    while (*link) {
        struct job_watch *watch = *link;
        const struct job *job = jobs_find(node, &watch->job);
        /* A job's end is told at once; progress at most ten times a second. */
        if ((due || watch->first || !job || job->moved || job->state >= JOB_DONE) && tell(node, watch)) {
            *link = watch->next;
            free(watch);
        } else {
            link = &watch->next;
        }
    }
    if (due)
        node->watches_at_ms = now_ms;
    return node->watches ? node->watches_at_ms + WATCH_EVERY_MS : INT64_MAX;
}
