#include "mesh/internal.h"

/* What somebody saw can't be further ahead of us than this: nobody's word makes the numbers run out. */
#define AHEAD_MAX (UINT64_C(1) << 40)

void disk_init(struct mesh *mesh)
{
    mesh->disk.storage = mesh->config.storage;
    mesh->disk.sequence = mesh->disk.durable = mesh->config.sequence;
}

uint64_t disk_next(struct mesh *mesh)
{
    return ++mesh->disk.sequence;
}

uint64_t disk_saved(const struct step *step)
{
    for (uint32_t i = step->out->save_count; i-- > 0;) {
        if (step->out->save[i].sequence != 0)
            return step->out->save[i].sequence;
    }
    return 0;
}

bool disk_holds(const struct mesh *mesh, uint64_t storage)
{
    return storage >= mesh->disk.storage && storage <= mesh->incarnation;
}

/* What we say of our disk must be on it: what was saved in this life is saved with it once more. */
static void send_disk(struct step *step, uint32_t to, bool asks)
{
    struct mesh *const mesh = step->mesh;
    if (mesh->disk.sequence > mesh->config.sequence) {
        struct mesh_save *const save = out_save(step, MESH_SAVE_STORAGE);
        save->sequence = mesh->disk.sequence;
        save->body.storage = mesh->disk.storage;
    }
    struct mesh_message *const message = out_send(step, &mesh->members.slot[to].id, MESH_DISK);
    message->body.disk.sequence = mesh->disk.sequence;
    message->body.disk.seen = members_notes(&mesh->members, to)->disk_seen;
    message->body.disk.asks = asks;
}

/* Whether it has said how far it has seen our disk, or can't. */
static bool has_told(const struct step *step, uint32_t slot)
{
    const struct member *const member = &step->mesh->members.slot[slot];
    const struct member_notes *const notes = members_notes(&step->mesh->members, slot);
    return notes->disk_told || (member->protocol != 0 && member->protocol < mesh_message_since(MESH_DISK)) ||
           (notes->disk_asked && step->now_ms - notes->disk_asked_at_ms >= DISK_PROOF_MS);
}

static void ask(struct step *step, uint32_t slot)
{
    struct member_notes *const notes = members_edit_notes(step->mesh, slot);
    if (step->now_ms < notes->disk_ask_at_ms || !out_has_room(step->out, 2, MESH_OUT_SENDS_MAX / 8, 0))
        return;
    if (!notes->disk_asked)
        notes->disk_asked_at_ms = step->now_ms;
    notes->disk_asked = true;
    notes->disk_ask_at_ms = step->now_ms + DISK_ASK_MS;
    send_disk(step, slot, true);
}

bool disk_proven(struct step *step, const struct mesh_members *members)
{
    struct mesh *const mesh = step->mesh;
    bool proven = true;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t slot = members_find(mesh, &members->id[i]);
        if (slot == mesh->members.self)
            continue;
        if (slot == MESH_NONE) { /* we have just started, or it is long gone */
            proven = proven && step->now_ms - mesh->config.now_ms >= DISK_PROOF_MS;
        } else if (members_live(mesh, slot) && !has_told(step, slot)) {
            proven = false;
            ask(step, slot);
        }
    }
    return proven;
}

void disk_linked(struct step *step, uint32_t member)
{
    const struct mesh *const mesh = step->mesh;
    if (mesh->config.limits.journals > 0 && member != mesh->members.self && !has_told(step, member))
        ask(step, member);
}

void disk_seen(struct mesh *mesh, uint32_t member, uint64_t sequence)
{
    uint64_t *const seen =
        member == mesh->members.self ? &mesh->disk.durable : &members_edit_notes(mesh, member)->disk_seen;
    *seen = sequence > *seen ? sequence : *seen;
}

bool disk_trusted(struct step *step, uint32_t member, uint64_t sequence)
{
    const struct mesh *const mesh = step->mesh;
    if (sequence != 0 && member != mesh->members.self &&
        sequence < members_notes(&mesh->members, member)->disk_seen) {
        send_disk(step, member, false);
        return false;
    }
    disk_seen(step->mesh, member, sequence);
    return true;
}

void disk_forgot(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    mesh->disk.storage = mesh->incarnation;
    mesh->counters.disks_lost++;
    struct mesh_save *const save = out_save(step, MESH_SAVE_STORAGE);
    save->sequence = mesh->disk.sequence;
    save->body.storage = mesh->disk.storage;
    journals_hurry(step);
}

void disk_on_disk(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint64_t seen = message->body.disk.seen;
    if (from == mesh->members.self ||
        (seen > mesh->disk.sequence && seen - mesh->disk.sequence > AHEAD_MAX)) {
        mesh->counters.bad_messages++;
        return;
    }
    disk_seen(mesh, from, message->body.disk.sequence);
    members_edit_notes(mesh, from)->disk_told = true;
    if (seen > mesh->disk.sequence) {
        mesh->disk.sequence = seen;
        detector_raise(step);
        disk_forgot(step);
    }
    if (message->body.disk.asks)
        send_disk(step, from, false);
    journals_hurry(step);
}
