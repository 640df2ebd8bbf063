#include "mesh/internal.h"

/* Round trips beyond this are as bad as it gets, and keep the arithmetic far from its limits. */
#define RTT_US_MAX 60000000u

void links_init(struct mesh *mesh)
{
    mesh->links.ticked_at_ms = mesh->now_ms;
}

const struct link *links_view(const struct mesh *mesh, uint32_t member)
{
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        if (mesh->links.link[i].member == member)
            return &mesh->links.link[i];
    }
    return NULL;
}

struct link *links_find(struct mesh *mesh, uint32_t member)
{
    const struct link *const link = links_view(mesh, member);
    return link ? &mesh->links.link[link - mesh->links.link] : NULL;
}

void links_heard(struct step *step, uint32_t member)
{
    struct link *const link = links_find(step->mesh, member);
    if (link) {
        const bool unannounced = !link->up;
        link->up = link->greeted = true;
        link->heard_at_ms = step->now_ms;
        link->silent = link->reset = link->redialed = false;
        link->refuted = 0;
        link->accuse_after_ms = step->now_ms;
        if (unannounced) {
            link->capacity_next = 0;
            gossip_linked(step, &step->mesh->members.slot[member].id);
        }
    }
    if (tiers_guest(step->mesh, member))
        step->mesh->members.slot[member].state_at_ms = step->now_ms;
    detector_heard(step, member);
}

void links_ping(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    out_send(step, from, MESH_PONG)->body.ping.stamp_us = message->body.ping.stamp_us;
}

/* RFC 6298, 2.2 and 2.3, with alpha = 1/8 and beta = 1/4. */
void links_pong(struct step *step, uint32_t slot, uint32_t rtt_us)
{
    if (rtt_us == 0)
        return;
    struct member_notes *const notes = members_edit_notes(step->mesh, slot);
    const uint32_t sample = rtt_us < RTT_US_MAX ? rtt_us : RTT_US_MAX;
    if (notes->rtt_us == 0) {
        notes->rtt_us = sample;
        notes->rtt_var_us = sample / 2;
        return;
    }
    const uint32_t error = sample > notes->rtt_us ? sample - notes->rtt_us : notes->rtt_us - sample;
    notes->rtt_var_us = (3 * notes->rtt_var_us + error) / 4;
    notes->rtt_us = (7 * notes->rtt_us + sample) / 8;
    if (notes->rtt_us == 0)
        notes->rtt_us = 1;
}

void links_up(struct step *step, const struct mesh_event *event)
{
    const struct mesh_id *const peer = &event->body.link.peer;
    const uint32_t member = members_find(step->mesh, peer);
    if (id_equal(peer, &step->mesh->config.self) || gossip_revoked(step->mesh, peer))
        return;
    struct link *const link = member != MESH_NONE ? links_find(step->mesh, member) : NULL;
    if (member != MESH_NONE)
        step->mesh->members.slot[member].protocol = (uint8_t)event->body.link.protocol;
    if (link) {
        /* A session shows that the peer's machine lives; only its own words show that the peer does. */
        link->up = true;
        link->protocol = event->body.link.protocol;
        link->capacity_next = 0;
        link->pinged_at_ms = step->now_ms - MESH_PING_BUSY_MS;
    }
    gossip_linked(step, peer);
    if (member != MESH_NONE)
        disk_linked(step, member);
}

static void fall_silent(struct step *step, struct link *link, bool reset)
{
    link->silent = true;
    link->reset = reset;
    link->silent_at_ms = step->now_ms;
    detector_silent(step);
}

void links_down(struct step *step, const struct mesh_event *event)
{
    const uint32_t member = members_find(step->mesh, &event->body.link.peer);
    struct link *const link = member != MESH_NONE ? links_find(step->mesh, member) : NULL;
    if (!link)
        return;
    link->up = false;
    if (event->body.link.reset && link->greeted) {
        if (!link->silent)
            fall_silent(step, link, true);
        link->reset = true;
        detector_judge(step->mesh, member);
    }
}

static struct link new_link(struct step *step, uint32_t member, uint32_t *places)
{
    uint8_t place = 0;
    while (*places & (1u << place))
        place++;
    *places |= 1u << place;
    out_effect(step, MESH_LINK_KEEP)->body.peer = step->mesh->members.slot[member].id;
    return (struct link){
        .member = member,
        .place = place,
        .protocol = step->mesh->members.slot[member].protocol,
        .heard_at_ms = step->now_ms,
        .pinged_at_ms = step->now_ms - MESH_PING_BUSY_MS,
        .accuse_after_ms = step->now_ms,
        .capacity_next = MESH_NONE,
    };
}

/* Chooses the neighbours again; links that stay keep their state and their place. */
static void refresh(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct links *const links = &mesh->links;
    uint32_t neighbour[MESH_LINKS_MAX];
    const uint32_t count = overlay_links(mesh, mesh->members.self, neighbour);
    struct link chosen[MESH_LINKS_MAX];
    uint32_t places = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct link *const kept = links_find(mesh, neighbour[i]);
        if (!kept)
            continue;
        chosen[i] = *kept;
        places |= 1u << kept->place;
        kept->member = MESH_NONE;
        neighbour[i] = MESH_NONE;
    }
    for (uint32_t i = 0; i < links->count; i++) {
        const uint32_t gone = links->link[i].member;
        if (gone == MESH_NONE)
            continue;
        out_effect(step, MESH_LINK_RELEASE)->body.peer = mesh->members.slot[gone].id;
        detector_unlinked(step, gone);
        tree_unlinked(mesh, links->link[i].place);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (neighbour[i] != MESH_NONE)
            chosen[i] = new_link(step, neighbour[i], &places);
    }
    memcpy(links->link, chosen, count * sizeof *chosen);
    links->count = count;
    links->stale = false;
}

/* A process that was stopped has not listened: what its neighbours said meanwhile is still on its way. */
static void forgive_pause(struct step *step)
{
    struct links *const links = &step->mesh->links;
    const int64_t pause_ms = step->now_ms - links->ticked_at_ms;
    links->ticked_at_ms = step->now_ms;
    if (pause_ms < MESH_PAUSE_MS)
        return;
    for (uint32_t i = 0; i < links->count; i++)
        links->link[i].heard_at_ms = step->now_ms;
}

static int64_t silent_after_ms(const struct link *link)
{
    return link->heard_at_ms + (link->greeted ? MESH_LINK_SILENT_MS : MESH_LINK_FIRST_MS);
}

static void tick_silence(struct step *step, struct link *link)
{
    if (link->silent)
        return;
    if (!link->redialed && step->now_ms >= link->heard_at_ms + MESH_LINK_REDIAL_MS) {
        link->redialed = true;
        out_effect(step, MESH_LINK_REDIAL)->body.peer = step->mesh->members.slot[link->member].id;
    }
    if (step->now_ms >= silent_after_ms(link))
        fall_silent(step, link, false);
    else
        out_wake(step, link->redialed ? silent_after_ms(link) : link->heard_at_ms + MESH_LINK_REDIAL_MS);
}

static int64_t ping_due_ms(const struct link *link)
{
    const int64_t quiet_since_ms =
        link->heard_at_ms > link->pinged_at_ms ? link->heard_at_ms : link->pinged_at_ms;
    const int64_t idle_due_ms = quiet_since_ms + MESH_PING_MS;
    const int64_t busy_due_ms = link->pinged_at_ms + MESH_PING_BUSY_MS;
    return idle_due_ms < busy_due_ms ? idle_due_ms : busy_due_ms;
}

static void tick_ping(struct step *step, struct link *link)
{
    if (step->now_ms >= ping_due_ms(link)) {
        link->pinged_at_ms = step->now_ms;
        out_send(step, &step->mesh->members.slot[link->member].id, MESH_PING);
    }
    out_wake(step, ping_due_ms(link));
}

/* Names what we hold of members from the link's place on, in one message; what is newer comes back. */
static void ask_for_capacities(struct step *step, struct link *link)
{
    const struct members *const members = &step->mesh->members;
    struct mesh_message *want = NULL;
    for (; link->capacity_next < members->used; link->capacity_next++) {
        const uint32_t slot = link->capacity_next;
        const struct member *const member = &members->slot[slot];
        if (slot == members->self || slot == link->member || !members_live(step->mesh, slot) ||
            !tiers_concerns(step->mesh, link->member, slot))
            continue;
        if (!want)
            want = out_send(step, &members->slot[link->member].id, MESH_WANT);
        else if (want->body.entries.count == MESH_ENTRIES_MAX)
            return;
        want->body.entries.entry[want->body.entries.count++] = rounds_capacity_held(member);
    }
    link->capacity_next = MESH_NONE;
}

/* The link whose peer is being asked, else one whose peer has yet to be; NULL if all have been. */
static struct link *link_to_ask(struct links *links)
{
    struct link *next = NULL;
    for (uint32_t i = 0; i < links->count; i++) {
        struct link *const link = &links->link[i];
        if (link->up && link->capacity_next != MESH_NONE &&
            (!next || link->capacity_next > next->capacity_next))
            next = link;
    }
    return next;
}

/*
 * Peers whose links came up are asked one after the other, so that each has only those capacities left to send that the
 * ones before it did not have.
 */
static void tick_capacities(struct step *step)
{
    struct links *const links = &step->mesh->links;
    struct link *const link = link_to_ask(links);
    if (!link)
        return;
    if (step->now_ms >= links->ask_at_ms) {
        ask_for_capacities(step, link);
        links->ask_at_ms =
            step->now_ms + (link->capacity_next != MESH_NONE ? MESH_BATCH_MS : MESH_ROUND_FAST_MS);
    }
    if (link_to_ask(links))
        out_wake(step, links->ask_at_ms);
}

void links_tick(struct step *step)
{
    struct links *const links = &step->mesh->links;
    forgive_pause(step);
    if (links->stale)
        refresh(step);
    for (uint32_t i = 0; i < links->count; i++) {
        struct link *const link = &links->link[i];
        tick_silence(step, link);
        tick_ping(step, link);
    }
    tick_capacities(step);
}

void links_check(const struct mesh *mesh)
{
    const struct links *const links = &mesh->links;
    assert(links->count <= MESH_LINKS_MAX);
    for (uint32_t i = 0; i < links->count; i++) {
        assert(links->link[i].member != mesh->members.self);
        if (!links->stale)
            assert(members_live(mesh, links->link[i].member));
        for (uint32_t j = 0; j < i; j++)
            assert(links->link[i].member != links->link[j].member);
    }
}
