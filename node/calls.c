#include "node/calls.h"

#include "node/ops.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define REMOTES_MAX 512     /* calls of other nodes that are being answered */
#define LOOK_EVERY_MS 10000 /* whether those that asked are still there */

/* A question of our own. */
struct question {
    struct question *next;
    struct mesh_id to;
    uint64_t request;
    int64_t until_ms;
    calls_answered *answered;
    void *context;
};

/* A call of another node's client. */
struct remote {
    struct remote *next;
    struct node *node;
    struct mesh_id from;
    uint64_t session; /* of that node's process */
    uint64_t request;
    struct api_call *call;
    bool starting;
    bool done;
};

static bool same(const struct mesh_id *a, const struct mesh_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- Asking */

uint64_t calls_request(struct node *node)
{
    if (node->calls_request == 0) /* answers to an earlier life are no answers */
        randombytes_buf(&node->calls_request, sizeof node->calls_request);
    return ++node->calls_request;
}

bool calls_send(struct node *node, const struct mesh_id *to, uint64_t request, const json_t *body)
{
    static struct wire_frame frame;
    char *text = json_dumps(body, JSON_COMPACT);
    must(text);
    const size_t count = strlen(text);
    frame.kind = WIRE_ASK;
    frame.body.ask.request = request;
    frame.body.ask.body = (struct wire_bytes){.bytes = (const uint8_t *)text, .count = count};
    const bool sent = count <= WIRE_ASK_BYTES_MAX && transport_send(node->transport, to, &frame);
    free(text);
    return sent;
}

bool calls_ask(struct node *node, const struct mesh_id *to, const json_t *body, int64_t wait_ms,
               calls_answered *answered, void *context)
{
    const uint64_t request = calls_request(node);
    if (!calls_send(node, to, request, body))
        return false;
    struct question *question = calloc(1, sizeof *question);
    must(question);
    *question = (struct question){.next = node->questions,
                                  .to = *to,
                                  .request = request,
                                  .until_ms = clock_now_ms() + wait_ms,
                                  .answered = answered,
                                  .context = context};
    node->questions = question;
    return true;
}

bool calls_known(const struct node *node, const struct mesh_id *id)
{
    struct transport_protocol protocol;
    transport_protocol(node->transport, id, &protocol);
    return protocol.max == 0 || protocol.max >= wire_kind_since(WIRE_ASK);
}

/* `answer` NULL: none came. */
static void end_question(struct node *node, struct question *question, const json_t *answer)
{
    const struct question ended = *question;
    struct question **link = &node->questions;
    while (*link != question)
        link = &(*link)->next;
    *link = question->next;
    free(question);
    ended.answered(node, ended.context, answer);
}

/* ---- Answers */

static void on_answer(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    json_t *answer =
        json_loadb((const char *)frame->body.ask.body.bytes, frame->body.ask.body.count, 0, NULL);
    struct question *question = node->questions;
    while (question && !(question->request == frame->body.ask.request && same(&question->to, from)))
        question = question->next;
    if (!json_is_object(answer)) {
        json_decref(answer);
        return;
    }
    if (!question)
        relay_on_answer(node, from, frame->body.ask.request, answer, frame->body.ask.final);
    else if (frame->body.ask.final)
        end_question(node, question, answer);
    json_decref(answer);
}

/* ---- Calls of other nodes */

static void remote_free(struct remote *remote)
{
    struct remote **link = &remote->node->remotes;
    while (*link != remote)
        link = &(*link)->next;
    *link = remote->next;
    remote->node->remote_count--;
    free(remote);
}

static void send_answer(struct node *node, const struct mesh_id *to, uint64_t request, const char *text,
                        size_t bytes, bool final)
{
    static struct wire_frame frame;
    static const char large[] =
        "{\"ok\":false,\"error\":\"the answer is too large for another node\",\"exit\":1}";
    frame.kind = WIRE_ANSWER;
    frame.body.ask.request = request;
    frame.body.ask.final = final;
    frame.body.ask.body = (struct wire_bytes){.bytes = (const uint8_t *)text, .count = bytes};
    if (bytes > WIRE_PAYLOAD_BYTES_MAX) {
        frame.body.ask.final = true;
        frame.body.ask.body = (struct wire_bytes){.bytes = (const uint8_t *)large, .count = sizeof large - 1};
    }
    transport_send(node->transport, to, &frame);
}

static void remote_answer(void *context, const char *text, size_t bytes, bool final)
{
    struct remote *remote = context;
    send_answer(remote->node, &remote->from, remote->request, text, bytes, final);
    remote->done = final;
    if (final && !remote->starting)
        remote_free(remote);
}

static bool may_come_from_elsewhere(const char *op)
{
    static const char *const ops[] = {"where",  "job",      "jobs",     "watch", "logs",     "explain",
                                      "cancel", "accepted", "register", "kept",  "finished", "keep"};
    for (size_t i = 0; op && i < sizeof ops / sizeof ops[0]; i++)
        if (strcmp(op, ops[i]) == 0)
            return true;
    return false;
}

static void begin_remote(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    json_t *body = json_loadb((const char *)frame->body.ask.body.bytes, frame->body.ask.body.count,
                              JSON_REJECT_DUPLICATES, NULL);
    struct mesh_member_view view;
    static const char busy[] = "{\"ok\":false,\"error\":\"too many calls at once; try again\",\"exit\":1}";
    static const char none[] = "{\"ok\":false,\"error\":\"no such call for another node\",\"exit\":2}";
    static const char strange[] = "{\"ok\":false,\"error\":\"no member that is known here\",\"exit\":5}";
    const char *refusal = node->remote_count >= REMOTES_MAX                                          ? busy
                          : !mesh_member_find(node->host.mesh, from, &view)                          ? strange
                          : !may_come_from_elsewhere(json_string_value(json_object_get(body, "op"))) ? none
                                                                                                     : NULL;
    if (refusal) {
        json_decref(body);
        send_answer(node, from, frame->body.ask.request, refusal, strlen(refusal), true);
        return;
    }
    struct remote *remote = calloc(1, sizeof *remote);
    must(remote);
    *remote = (struct remote){.next = node->remotes,
                              .node = node,
                              .from = *from,
                              .session = view.session,
                              .request = frame->body.ask.request,
                              .starting = true};
    node->remotes = remote;
    node->remote_count++;
    struct api_remote options = {.answer = remote_answer,
                                 .context = remote,
                                 .rights =
                                     API_LOOK | API_SUBMIT |
                                     (json_is_true(json_object_get(body, "operate")) ? API_OPERATE : 0u)};
    const char *tenant = json_string_value(json_object_get(body, "tenant"));
    snprintf(options.tenant, sizeof options.tenant, "%s", tenant ? tenant : "");
    snprintf(options.site, sizeof options.site, "%s", peer_site(node, from));
    json_put(body, "from", json_hex(from->bytes, sizeof from->bytes)); /* whatever it said itself */
    api_begin(node->api, body, &options, &remote->call);
    remote->starting = false;
    if (remote->done)
        remote_free(remote);
}

bool calls_asker(const struct api_call *call, struct mesh_id *asker)
{
    return api_remote_site(call) && id_from_hex(body_text(call, "from"), asker);
}

static void end_remote(struct remote *remote)
{
    struct api_call *call = remote->call;
    remote_free(remote);
    api_leave(call);
}

void calls_on_frame(struct node *node, const struct mesh_id *from, const struct wire_frame *frame)
{
    if (!node->api)
        return;
    if (frame->kind == WIRE_ANSWER) {
        on_answer(node, from, frame);
    } else if (frame->kind == WIRE_ASK) {
        begin_remote(node, from, frame);
    } else {
        for (struct remote *remote = node->remotes; remote; remote = remote->next)
            if (remote->request == frame->body.ask.request && same(&remote->from, from)) {
                end_remote(remote);
                return;
            }
    }
}

/* ---- Time */

static bool is_there(struct node *node, const struct remote *remote)
{
    struct mesh_member_view view;
    return mesh_member_find(node->host.mesh, &remote->from, &view) && view.state <= MESH_SUSPECT &&
           view.session == remote->session;
}

int64_t calls_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct question *question = node->questions; question; question = question->next) {
        if (now_ms >= question->until_ms) {
            end_question(node, question, NULL);
            return now_ms; /* the list may be another now */
        }
        wake_at_ms = question->until_ms < wake_at_ms ? question->until_ms : wake_at_ms;
    }
    if (node->remotes && now_ms >= node->remotes_at_ms) {
        node->remotes_at_ms = now_ms + LOOK_EVERY_MS;
        for (struct remote *remote = node->remotes, *next; remote; remote = next) {
            next = remote->next;
            if (!is_there(node, remote))
                end_remote(remote);
        }
    }
    if (node->remotes && node->remotes_at_ms < wake_at_ms)
        wake_at_ms = node->remotes_at_ms;
    return wake_at_ms;
}

void calls_close(struct node *node)
{
    while (node->remotes)
        end_remote(node->remotes);
    while (node->questions) {
        struct question *question = node->questions;
        node->questions = question->next;
        free(question);
    }
}
