#include "mesh/internal.h"

bool out_has_room(const struct mesh_out *out, uint32_t saves, uint32_t sends, uint32_t effects)
{
    return saves <= MESH_OUT_SAVES_MAX - out->save_count && sends <= MESH_OUT_SENDS_MAX - out->send_count &&
           effects <= MESH_OUT_EFFECTS_MAX - out->effect_count;
}

struct mesh_save *out_save(struct step *step, enum mesh_save_kind kind)
{
    struct mesh_out *const out = step->out;
    assert(out->save_count < MESH_OUT_SAVES_MAX);
    struct mesh_save *const save = &out->save[out->save_count++];
    /* Only a commit has a list, and the list is all of its bulk. */
    memset(save, 0, kind == MESH_SAVE_COMMIT ? offsetof(struct mesh_save, body.commit.shard) : sizeof *save);
    save->kind = kind;
    return save;
}

struct mesh_message *out_send(struct step *step, const struct mesh_id *to, enum mesh_message_kind kind)
{
    struct mesh_out *const out = step->out;
    assert(out->send_count < MESH_OUT_SENDS_MAX);
    struct mesh_send *const send = &out->send[out->send_count++];
    send->to = *to;
    send->early = false;
    struct mesh_message *const message = &send->message;
    /* The fixed parts are far shorter than the lists; a list's count lies before it, so that clearing it
     * first tells how long the fixed part is. */
    message->kind = kind;
    switch (kind) {
    case MESH_ENTRIES:
    case MESH_WANT:
        message->body.entries.count = 0;
        break;
    case MESH_HAVE:
    case MESH_GRAFT:
    case MESH_PRUNE:
        message->body.words.count = 0;
        break;
    case MESH_ASSIGN:
    case MESH_ASSIGN_KEPT:
        message->body.assign.count = 0;
        break;
    case MESH_RESULT:
        message->body.result.count = 0;
        break;
    case MESH_BEAT:
        message->body.beat.count = 0;
        break;
    case MESH_REPORT:
        message->body.report.count = 0;
        break;
    case MESH_RENEW:
    case MESH_RENEWED:
        message->body.renew.count = 0;
        break;
    default:
        break;
    }
    memset(message, 0, mesh_message_bytes(message));
    message->kind = kind;
    return message;
}

struct mesh_effect *out_effect(struct step *step, enum mesh_effect_kind kind)
{
    struct mesh_out *const out = step->out;
    assert(out->effect_count < MESH_OUT_EFFECTS_MAX);
    struct mesh_effect *const effect = &out->effect[out->effect_count++];
    /* Only a RUN has a list; all other bodies are no longer than what comes before it. */
    enum { FIXED = offsetof(struct mesh_effect, body.run.shard) };
    _Static_assert(sizeof effect->body.record <= FIXED - offsetof(struct mesh_effect, body) &&
                       sizeof effect->body.send_log <= FIXED - offsetof(struct mesh_effect, body),
                   "every body is cleared");
    memset(effect, 0, FIXED);
    effect->kind = kind;
    return effect;
}

void out_drop(struct step *step, uint64_t handle)
{
    if (handle != 0)
        out_effect(step, MESH_DROP)->body.handle = handle;
}

void out_wake(struct step *step, int64_t at_ms)
{
    if (at_ms < step->out->wake_at_ms)
        step->out->wake_at_ms = at_ms;
}
