#include "mesh/internal.h"

static bool can_echo(struct mesh *mesh, uint32_t slot)
{
    const struct link *const link = links_find(mesh, slot);
    return slot != mesh->members.self && mesh->members.slot[slot].state == MESH_UP &&
           tiers_of(mesh, slot) != 0 && (!link || (link->up && link->protocol >= MESH_PROTOCOL_TREES));
}

/* Each in its turn, so that no generator is drawn from for the sake of a measurement. */
static uint32_t next_member(struct mesh *mesh)
{
    const struct members *const members = &mesh->members;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t slot = members->sorted[mesh->echo.turn++ % members->count];
        if (can_echo(mesh, slot))
            return slot;
    }
    return MESH_NONE;
}

static void send_stamp(struct step *step, uint32_t to, enum mesh_message_kind kind, struct stamp stamp)
{
    struct mesh_message *const message = out_send(step, &step->mesh->members.slot[to].id, kind);
    message->body.echo.incarnation = stamp.incarnation;
    message->body.echo.version = stamp.version;
}

void echo_announced(struct step *step, struct stamp stamp)
{
    struct echo *const echo = &step->mesh->echo;
    if (echo->asked || step->now_ms - echo->asked_at_ms < MESH_ECHO_MS)
        return;
    const uint32_t slot = next_member(step->mesh);
    if (slot == MESH_NONE)
        return;
    echo->asked = true;
    echo->who = step->mesh->members.slot[slot].id;
    echo->stamp = stamp;
    echo->asked_at_ms = step->now_ms;
    send_stamp(step, slot, MESH_AWAIT, stamp);
}

static bool holds(const struct mesh *mesh, uint32_t slot, struct stamp stamp)
{
    const struct member *const member = &mesh->members.slot[slot];
    return member->has_capacity && !stamp_newer(stamp, STAMP(&member->capacity));
}

static struct awaited *find_awaited(struct echo *echo, uint32_t origin)
{
    for (uint32_t i = 0; i < echo->awaited_count; i++) {
        if (echo->awaited[i].origin == origin)
            return &echo->awaited[i];
    }
    return NULL;
}

static void remove_awaited(struct echo *echo, struct awaited *awaited)
{
    *awaited = echo->awaited[--echo->awaited_count];
}

void echo_await(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct echo *const echo = &step->mesh->echo;
    const struct stamp stamp = STAMP(&message->body.echo);
    if (holds(step->mesh, from, stamp)) {
        send_stamp(step, from, MESH_ECHO, stamp);
        return;
    }
    struct awaited *awaited = find_awaited(echo, from);
    if (!awaited && echo->awaited_count == MESH_AWAITED_MAX) {
        step->mesh->counters.bound_awaited++;
        return;
    }
    if (!awaited)
        awaited = &echo->awaited[echo->awaited_count++];
    *awaited = (struct awaited){.origin = from, .stamp = stamp, .until_ms = step->now_ms + MESH_ECHO_LOST_MS};
}

void echo_arrived(struct step *step, uint32_t member)
{
    struct echo *const echo = &step->mesh->echo;
    struct awaited *const awaited = find_awaited(echo, member);
    if (!awaited || !holds(step->mesh, member, awaited->stamp))
        return;
    send_stamp(step, member, MESH_ECHO, awaited->stamp);
    remove_awaited(echo, awaited);
}

void echo_heard(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct echo *const echo = &step->mesh->echo;
    const struct member *const member = &step->mesh->members.slot[from];
    if (!echo->asked || !id_equal(&echo->who, &member->id) ||
        message->body.echo.incarnation != echo->stamp.incarnation ||
        message->body.echo.version != echo->stamp.version)
        return; /* too late, or of an earlier question */
    echo->asked = false;
    const int64_t back_ms = members_notes(&step->mesh->members, from)->rtt_us / 2000;
    const int64_t passed_ms = step->now_ms - echo->asked_at_ms;
    struct mesh_effect *const effect = out_effect(step, MESH_ECHOED);
    effect->body.echoed.id = member->id;
    effect->body.echoed.after_ms = (uint32_t)(passed_ms > back_ms ? passed_ms - back_ms : 0);
    step->mesh->counters.echoes++;
}

void echo_forget(struct mesh *mesh, uint32_t member)
{
    struct awaited *const awaited = find_awaited(&mesh->echo, member);
    if (awaited)
        remove_awaited(&mesh->echo, awaited);
}

void echo_tick(struct step *step)
{
    struct echo *const echo = &step->mesh->echo;
    if (echo->asked && step->now_ms - echo->asked_at_ms >= MESH_ECHO_LOST_MS) {
        echo->asked = false;
        step->mesh->counters.echoes_lost++;
    }
    for (uint32_t i = 0; i < echo->awaited_count; i++) {
        if (step->now_ms >= echo->awaited[i].until_ms)
            remove_awaited(echo, &echo->awaited[i--]);
    }
}

void echo_check(const struct mesh *mesh)
{
    const struct echo *const echo = &mesh->echo;
    assert(echo->awaited_count <= MESH_AWAITED_MAX);
    for (uint32_t i = 0; i < echo->awaited_count; i++) {
        assert(mesh->members.slot[echo->awaited[i].origin].state != 0);
        for (uint32_t j = 0; j < i; j++)
            assert(echo->awaited[j].origin != echo->awaited[i].origin);
    }
}
