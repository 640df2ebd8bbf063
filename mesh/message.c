#include "mesh/message.h"

/* Bytes up to and including `field` of the message's body. */
#define THROUGH(field) (offsetof(struct mesh_message, field) + sizeof(((struct mesh_message *)NULL)->field))
/* Bytes before the list `list`, and of `count` of its elements. */
#define LIST(list, count)                                                                                    \
    (offsetof(struct mesh_message, list) + (size_t)(count) * sizeof(((struct mesh_message *)NULL)->list[0]))

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

size_t mesh_message_bytes(const struct mesh_message *message)
{
    switch (message->kind) {
    case MESH_PING:
    case MESH_PONG:
        return THROUGH(body.ping);
    case MESH_PUSH:
    case MESH_SPREAD:
        return THROUGH(body.push);
    case MESH_AWAIT:
    case MESH_ECHO:
        return THROUGH(body.echo);
    case MESH_SUMMARY:
        return THROUGH(body.summary);
    case MESH_ENTRIES:
    case MESH_WANT:
        return LIST(body.entries.entry, least(message->body.entries.count, MESH_ENTRIES_MAX));
    case MESH_RESERVE:
    case MESH_WISH:
        return THROUGH(body.reserve);
    case MESH_GRANT:
        return THROUGH(body.grant);
    case MESH_WAIT:
        return THROUGH(body.wait);
    case MESH_RELEASE:
        return THROUGH(body.release);
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        return LIST(body.assign.shard, least(message->body.assign.count, MESH_BUNDLE_SHARDS_MAX));
    case MESH_EXPIRED:
        return THROUGH(body.expired);
    case MESH_RESULT:
        return LIST(body.result.shard, least(message->body.result.count, MESH_BUNDLE_SHARDS_MAX));
    case MESH_RESULT_ACK:
        return THROUGH(body.result_ack);
    case MESH_RENEW:
    case MESH_RENEWED:
        return LIST(body.renew.name, least(message->body.renew.count, MESH_RENEW_MAX));
    case MESH_CANCEL:
        return THROUGH(body.cancel);
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        return LIST(body.words.word, least(message->body.words.count, MESH_WORDS_MAX));
    case MESH_APPEND:
        return THROUGH(body.append);
    case MESH_APPENDED:
        return THROUGH(body.appended);
    case MESH_VOTE:
        return THROUGH(body.vote);
    case MESH_VOTED:
        return THROUGH(body.voted);
    case MESH_BEAT:
        return LIST(body.beat.journal, least(message->body.beat.count, MESH_BEATS_MAX));
    case MESH_REPORT:
        return LIST(body.report.shard, least(message->body.report.count, MESH_BUNDLE_SHARDS_MAX));
    case MESH_ADOPTED:
        return THROUGH(body.adopted);
    case MESH_HAND_OVER:
        return THROUGH(body.hand_over);
    case MESH_DISK:
        return THROUGH(body.disk);
    case MESH_MESSAGE_KINDS:
        break;
    }
    return sizeof *message;
}

uint32_t mesh_message_since(enum mesh_message_kind kind)
{
    return kind <= MESH_CANCEL ? 1 : MESH_PROTOCOL_TREES;
}

const char *mesh_message_name(enum mesh_message_kind kind)
{
    static const char *const names[MESH_MESSAGE_KINDS] = {
        [MESH_PING] = "ping",       [MESH_PONG] = "pong",
        [MESH_PUSH] = "push",       [MESH_SUMMARY] = "summary",
        [MESH_ENTRIES] = "entries", [MESH_WANT] = "want",
        [MESH_RESERVE] = "reserve", [MESH_GRANT] = "grant",
        [MESH_WAIT] = "wait",       [MESH_RELEASE] = "release",
        [MESH_ASSIGN] = "assign",   [MESH_EXPIRED] = "expired",
        [MESH_RESULT] = "result",   [MESH_RESULT_ACK] = "result_ack",
        [MESH_RENEW] = "renew",     [MESH_RENEWED] = "renewed",
        [MESH_CANCEL] = "cancel",   [MESH_SPREAD] = "spread",
        [MESH_HAVE] = "have",       [MESH_GRAFT] = "graft",
        [MESH_PRUNE] = "prune",     [MESH_ASSIGN_KEPT] = "assign_kept",
        [MESH_APPEND] = "append",   [MESH_APPENDED] = "appended",
        [MESH_VOTE] = "vote",       [MESH_VOTED] = "voted",
        [MESH_BEAT] = "beat",       [MESH_REPORT] = "report",
        [MESH_ADOPTED] = "adopted", [MESH_AWAIT] = "await",
        [MESH_ECHO] = "echo",       [MESH_HAND_OVER] = "hand_over",
        [MESH_DISK] = "disk",       [MESH_WISH] = "wish",
    };
    if ((unsigned)kind >= MESH_MESSAGE_KINDS || !names[kind])
        return "unknown";
    return names[kind];
}
