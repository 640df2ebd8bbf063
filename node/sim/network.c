/*
 * Links between hosts, in two models.
 *
 * The faithful one is TCP: what is sent on a session arrives in order or not at all; loss is a stall; a cut
 * stalls the queue until it heals or 15 s have passed, when the session is reset and its queue lost. A killed
 * process resets its sessions; a lost machine doesn't. A link is dialled because the core keeps it or because
 * something is to be sent.
 *
 * The adversarial one has the same sessions, but every message travels alone: it may be lost, come twice or
 * late, and be overtaken, or arrive with other bytes than were sent, which CURVE notices: then it is dropped and counted.
 */
#include "node/sim/world.h"

#include <stdio.h>

#define STALL_RESET_US (15 * SECOND_US)
#define DIAL_TIMEOUT_US (2 * SECOND_US)
#define REDIAL_LEAST_US (SECOND_US / 10)
#define REDIAL_MOST_US (10 * SECOND_US)
/* Messages that wait for a dial on one side of a link; beyond it the newest is lost, as with a full socket
 * queue. */
#define WAITING_MAX 1000
/* Bytes that wait for a narrow line; what comes then is dropped, as the transport does. */
#define QUEUE_BYTES_MAX (16 * 1024)
/* Every so many messages one is kept to be replayed. */
#define CAPTURE_EVERY 97

static uint32_t link_side_of(const struct link *link, uint32_t host)
{
    return link->host[0] == host ? 0 : 1;
}

static uint32_t network_find(const struct network *network, uint32_t low, uint32_t high, uint32_t *place)
{
    const uint32_t mask = network->table_size - 1;
    uint32_t at = (uint32_t)sim_mix(low, high) & mask;
    while (network->table[at] != 0) {
        const struct link *const link = &network->link[network->table[at] - 1];
        if (link->host[0] == low && link->host[1] == high) {
            return network->table[at] - 1;
        }
        at = (at + 1) & mask;
    }
    *place = at;
    return SIM_NONE;
}

static void network_widen(struct network *network)
{
    network->table_size = network->table_size != 0 ? network->table_size * 2 : 256;
    free(network->table);
    network->table = sim_alloc(network->table_size, sizeof *network->table);
    for (uint32_t i = 0; i < network->count; i++) {
        uint32_t place = 0;
        network_find(network, network->link[i].host[0], network->link[i].host[1], &place);
        network->table[place] = i + 1;
    }
}

/* Latency one way: by site, then region, then the width of an ocean; drawn once per pair. */
static int64_t link_latency(const struct world *world, uint32_t low, uint32_t high)
{
    const struct host *const a = &world->host[low];
    const struct host *const b = &world->host[high];
    struct sim_random random = {sim_mix(world->options.seed, sim_mix(low, high))};
    if (a->site == b->site) {
        return sim_between(&random, 100, 300);
    }
    return a->region == b->region ? sim_between(&random, 1000, 5000) : sim_between(&random, 10000, 80000);
}

static uint32_t network_link(struct world *world, uint32_t one, uint32_t other)
{
    struct network *const network = &world->network;
    const uint32_t low = one < other ? one : other;
    const uint32_t high = one < other ? other : one;
    uint32_t *const near = &world->host[one].near[other & (SIM_NEAR - 1)];
    if (*near != 0 && network->link[*near - 1].host[0] == low && network->link[*near - 1].host[1] == high) {
        return *near - 1;
    }
    if (network->count * 2 >= network->table_size) {
        network_widen(network);
    }
    uint32_t place = 0;
    const uint32_t found = network_find(network, low, high, &place);
    if (found != SIM_NONE) {
        *near = found + 1;
        return found;
    }
    if (network->count == network->room) {
        network->room = network->room != 0 ? network->room * 2 : 64;
        network->link = sim_grow(network->link, network->room, sizeof *network->link);
    }
    network->link[network->count] =
        (struct link){.host = {low, high}, .latency_us = link_latency(world, low, high)};
    network->link[network->count].next[0] = world->host[low].first_link;
    network->link[network->count].next[1] = world->host[high].first_link;
    network->table[place] = ++network->count;
    world->host[low].first_link = world->host[high].first_link = network->count;
    return network->count - 1;
}

/* Not transitive: one node may reach two others that don't reach each other. */
static bool pair_cut(const struct network *network, uint32_t one, uint32_t other)
{
    const uint32_t low = one < other ? one : other;
    const uint32_t high = one < other ? other : one;
    return network->tangle_permille != 0 && low != high &&
           sim_mix(network->tangle, sim_mix(low, high)) % 1000 < network->tangle_permille;
}

static bool path_open(const struct world *world, uint32_t from, uint32_t to)
{
    const struct host *const a = &world->host[from];
    const struct host *const b = &world->host[to];
    return a->group == b->group && !a->mute && !b->deaf && !pair_cut(&world->network, from, to) &&
           (world->cut == NULL || !world->cut[(size_t)from * world->host_count + to]);
}

bool sim_network_shut_out(const struct world *world, const struct host *by, const struct host *whom)
{
    return by->shuts_out_until_us > world->now_us && by->shuts_out == whom->identity;
}

static bool host_answers(const struct world *world, const struct host *host)
{
    return host->alive && host->paused_until_us <= world->now_us;
}

/*
 * Messages come and go by the million, and in waves: small ones are kept for the next of their size. Not where a sanitizer
 * looks for those used after their end.
 */
#if defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
#define SPARE_STEP 64
#define SPARE_SIZES 16
static struct flight *spare[SPARE_SIZES];

static size_t flight_size(size_t message_bytes)
{
    return (sizeof(struct flight) + message_bytes + SPARE_STEP - 1) / SPARE_STEP;
}

static struct flight *flight_alloc(size_t size)
{
    if (size < SPARE_SIZES && spare[size] != NULL) {
        struct flight *const flight = spare[size];
        spare[size] = flight->next;
        return flight;
    }
    struct flight *const flight = malloc(size * SPARE_STEP);
    if (flight == NULL) {
        fprintf(stderr, "weir: sim: out of memory; try fewer --nodes\n");
        exit(1);
    }
    return flight;
}

void sim_flight_free(struct flight *flight)
{
    sim_payload_drop(flight->payload);
    const size_t size = flight_size(flight->bytes);
    if (SANITIZED || size >= SPARE_SIZES) {
        free(flight);
        return;
    }
    flight->next = spare[size];
    spare[size] = flight;
}

static void flights_free(struct world *world, struct flight **first, struct flight **last)
{
    while (*first != NULL) {
        struct flight *const flight = *first;
        *first = flight->next;
        sim_flight_free(flight);
        world->result->world.messages_lost++;
    }
    *last = NULL;
}

/* How long the sender's line is busy before this is sent; -1 if its queue is full. */
static int64_t line_wait_us(struct world *world, const struct flight *flight)
{
    struct host *const from = &world->host[flight->from];
    if (from->bytes_per_s == 0) {
        return 0;
    }
    const int64_t begins_us = from->sends_until_us > world->now_us ? from->sends_until_us : world->now_us;
    const int64_t waiting_bytes = (begins_us - world->now_us) * from->bytes_per_s / SECOND_US;
    if (waiting_bytes + (int64_t)flight->bytes > QUEUE_BYTES_MAX) {
        return -1;
    }
    from->sends_until_us = begins_us + (int64_t)flight->bytes * SECOND_US / from->bytes_per_s;
    return from->sends_until_us - world->now_us;
}

static int64_t travel_us(struct world *world, const struct link *link, const struct flight *flight)
{
    const int64_t extra_ms = (int64_t)world->host[flight->from].delay_ms + world->host[flight->to].delay_ms;
    const int64_t jitter = sim_between(&world->random, 0, link->latency_us / 10 + 20);
    return link->latency_us + jitter + extra_ms * 1000 + (int64_t)flight->bytes / 100;
}

static void direction_schedule(struct world *world, uint32_t number, uint32_t way)
{
    struct link *const link = &world->network.link[number];
    struct link_direction *const direction = &link->direction[way];
    if (direction->scheduled || direction->first == NULL) {
        return;
    }
    direction->scheduled = true;
    int64_t in_us = direction->first->at_us - world->now_us;
    struct event event = sim_world_event(world, in_us > 0 ? in_us : 0, HAPPEN_DELIVER, SIM_NONE);
    event.a = number;
    event.b = way;
    event.life = link->session;
    sim_world_push(world, event);
}

/* In order: a message is never due before the one ahead of it. Loss costs retransmission time-outs, not the
 * message. */
static void direction_append(struct world *world, uint32_t number, struct flight *flight, int64_t wait_us)
{
    struct link *const link = &world->network.link[number];
    const uint32_t way = link_side_of(link, flight->from);
    struct link_direction *const direction = &link->direction[way];
    int64_t at_us = world->now_us + wait_us + travel_us(world, link, flight);
    int64_t timeout_us = SECOND_US / 5;
    while (timeout_us < 4 * SECOND_US && sim_chance(&world->random, world->network.loss_permille)) {
        at_us += timeout_us;
        timeout_us *= 2;
    }
    if (at_us < direction->last_at_us) {
        at_us = direction->last_at_us;
    }
    direction->last_at_us = at_us;
    flight->at_us = at_us;
    flight->next = NULL;
    if (direction->last != NULL) {
        direction->last->next = flight;
    } else {
        direction->first = flight;
    }
    direction->last = flight;
    if (!direction->stuck) {
        direction_schedule(world, number, way);
    }
}

static void flight_launch(struct world *world, struct flight *flight, int64_t in_us)
{
    struct event event = sim_world_event(world, in_us, HAPPEN_FLIGHT, SIM_NONE);
    event.item = flight;
    sim_world_push(world, event);
}

/* The message stands behind the flight, in one piece of memory. */
struct flight *sim_flight_new(const struct mesh_message *message)
{
    const size_t bytes = mesh_message_bytes(message);
    struct flight *const flight = flight_alloc(flight_size(bytes));
    *flight = (struct flight){.bytes = bytes, .message = (struct mesh_message *)(flight + 1)};
    memcpy(flight->message, message, bytes);
    return flight;
}

struct flight *sim_flight_copy(const struct flight *flight)
{
    struct flight *const copy = sim_flight_new(flight->message);
    copy->at_us = flight->at_us;
    copy->from = flight->from;
    copy->from_life = flight->from_life;
    copy->to = flight->to;
    copy->early = flight->early;
    copy->payload = flight->payload != NULL ? sim_payload_keep(flight->payload) : NULL;
    return copy;
}

/*
 * What is said of journals and of the disks that they are on comes in the order in which it was sent, here too: a member's
 * word that is older than what was seen of its disk counts for nothing, and the real transport keeps the order.
 */
static bool keeps_order(const struct flight *flight)
{
    switch (flight->message->kind) {
    case MESH_APPEND:
    case MESH_APPENDED:
    case MESH_VOTE:
    case MESH_VOTED:
    case MESH_BEAT:
    case MESH_HAND_OVER:
    case MESH_DISK:
        return true;
    default:
        return false;
    }
}

static void flight_launch_alone(struct world *world, struct link *link, struct flight *flight,
                                int64_t wait_us)
{
    struct network *const network = &world->network;
    if (!path_open(world, flight->from, flight->to) || sim_chance(&world->random, network->loss_permille)) {
        world->result->world.messages_lost++;
        sim_flight_free(flight);
        return;
    }
    if (sim_chance(&world->random, network->corrupt_permille)) {
        world->result->world.messages_corrupted++;
        sim_flight_free(flight);
        return;
    }
    if (sim_chance(&world->random, network->double_permille)) {
        world->result->world.messages_doubled++;
        const int64_t late_us = sim_between(&world->random, 0, 3 * SECOND_US);
        flight_launch(world, sim_flight_copy(flight), travel_us(world, link, flight) + late_us);
    }
    int64_t in_us = wait_us + travel_us(world, link, flight);
    if (sim_chance(&world->random, network->reorder_permille)) {
        in_us += sim_between(&world->random, 0, SECOND_US / 2);
        world->result->world.messages_reordered += !keeps_order(flight);
    }
    if (keeps_order(flight)) {
        int64_t *const latest_us = &link->ordered_at_us[link_side_of(link, flight->from)];
        in_us = world->now_us + in_us < *latest_us ? *latest_us - world->now_us : in_us;
        *latest_us = world->now_us + in_us;
    }
    flight_launch(world, flight, in_us);
}

static void link_carry(struct world *world, uint32_t number, struct flight *flight)
{
    const int64_t wait_us = line_wait_us(world, flight);
    if (wait_us < 0) {
        world->result->world.messages_overflowed++;
        sim_flight_free(flight);
    } else if (world->network.adversarial) {
        flight_launch_alone(world, &world->network.link[number], flight, wait_us);
    } else {
        direction_append(world, number, flight, wait_us);
    }
}

static void link_dial(struct world *world, uint32_t number, uint32_t side, int64_t in_us)
{
    struct link *const link = &world->network.link[number];
    struct host *const host = &world->host[link->host[side]];
    struct host *const peer = &world->host[link->host[1 - side]];
    link->side[side].dialing = true;
    link->side[side].dials++;
    const bool answers = host_answers(world, peer) && path_open(world, host->index, peer->index) &&
                         path_open(world, peer->index, host->index);
    const bool refuses = !peer->alive && !peer->silent && path_open(world, host->index, peer->index) &&
                         path_open(world, peer->index, host->index);
    const int64_t took_us = answers ? 4 * link->latency_us : refuses ? 2 * link->latency_us : DIAL_TIMEOUT_US;
    struct event event = sim_world_event(world, in_us + took_us, HAPPEN_DIAL, host->index);
    event.a = number;
    event.b = link->side[side].dials;
    sim_world_push(world, event);
}

static void side_send_waiting(struct world *world, uint32_t number, uint32_t which)
{
    struct link_side *const side = &world->network.link[number].side[which];
    while (side->first != NULL) {
        struct flight *const flight = side->first;
        side->first = flight->next;
        link_carry(world, number, flight);
    }
    side->last = NULL;
    side->waiting = 0;
}

static void network_send_on(struct world *world, struct flight *flight)
{
    sim_check_sent(world, flight);
    sim_network_capture(world, flight);
    const uint32_t number = network_link(world, flight->from, flight->to);
    struct link *const link = &world->network.link[number];
    if (link->up) {
        link_carry(world, number, flight);
        return;
    }
    const uint32_t which = link_side_of(link, flight->from);
    struct link_side *const side = &link->side[which];
    if (side->waiting == WAITING_MAX) {
        world->result->world.messages_lost++;
        sim_flight_free(flight);
        return;
    }
    flight->next = NULL;
    if (side->last != NULL) {
        side->last->next = flight;
    } else {
        side->first = flight;
    }
    side->last = flight;
    side->waiting++;
    if (!side->dialing) {
        side->tell_down = true;
        link_dial(world, number, which, 0);
    }
}

/* The plant's copies of each word. */
#define CHATTER 16

void sim_network_send(struct world *world, struct flight *flight)
{
    world->result->world.messages++;
    if (flight->from == flight->to) {
        flight_launch(world, flight, 0);
        return;
    }
    if (world->laying) { /* what it would say was told already */
        sim_flight_free(flight);
        return;
    }
    if (flight->message->kind == MESH_SUMMARY && world->healed && sim_world_plant(world, SIM_PLANT_CHATTER)) {
        for (uint32_t i = 0; i < CHATTER; i++) {
            network_send_on(world, sim_flight_copy(flight));
        }
    }
    network_send_on(world, flight);
}

static void link_drop_queues(struct world *world, struct link *link)
{
    for (uint32_t way = 0; way < 2; way++) {
        flights_free(world, &link->direction[way].first, &link->direction[way].last);
        link->direction[way].scheduled = false;
        link->direction[way].stuck = false;
        link->direction[way].last_at_us = 0;
    }
}

void sim_network_reset(struct world *world, uint32_t number)
{
    struct link *link = &world->network.link[number];
    if (!link->up) {
        return;
    }
    link->up = false;
    link->session++;
    link_drop_queues(world, link);
    for (uint32_t which = 0; which < 2; which++) {
        struct host *const host = &world->host[link->host[which]];
        if (host->alive && !link->side[which].dialing) {
            link->side[which].tell_down = true;
            link_dial(world, number, which, sim_between(&world->random, 1000, 20000));
        }
    }
}

/*
 * Whether that side admits the other, asked once in a session: whoever bars somebody ends it, and whoever starts anew. A clone's
 * session is not ended with its original's.
 */
static bool link_admits(const struct world *world, struct link *link, uint32_t which)
{
    struct link_side *const side = &link->side[which];
    const struct host *const from = &world->host[link->host[1 - which]];
    if (side->admitted_in != link->session && from->identity == from->index &&
        sim_known_see(&world->host[link->host[which]].known, from->identity).admission ==
            ADMISSION_ADMITTED) {
        side->admitted_in = link->session;
    }
    return side->admitted_in == link->session;
}

void sim_network_deliver(struct world *world, struct event *event)
{
    struct link *const link = &world->network.link[event->a];
    struct link_direction *const direction = &link->direction[event->b];
    if (event->life != link->session || !direction->scheduled) {
        return;
    }
    direction->scheduled = false;
    struct flight *const flight = direction->first;
    struct host *const to = &world->host[flight->to];
    if (!path_open(world, flight->from, flight->to) || (to->alive && to->paused_until_us > world->now_us)) {
        direction->stuck = true;
        struct event stall = sim_world_event(world, STALL_RESET_US, HAPPEN_STALL, SIM_NONE);
        stall.a = event->a;
        stall.b = event->b;
        stall.life = link->session;
        sim_world_push(world, stall);
        return;
    }
    direction->first = flight->next;
    if (direction->first == NULL) {
        direction->last = NULL;
    }
    direction_schedule(world, event->a, event->b);
    if (!to->alive) {
        sim_flight_free(flight);
        world->result->world.messages_lost++;
        return;
    }
    flight->admitted = link_admits(world, link, 1 - event->b);
    sim_host_receive(world, to, flight);
}

/* A sender's TCP gives up on what isn't acknowledged. A paused receiver's kernel does acknowledge: no reset
 * then. */
void sim_network_stalled(struct world *world, struct event *event)
{
    const struct link *const link = &world->network.link[event->a];
    const struct link_direction *const direction = &link->direction[event->b];
    if (event->life == link->session && direction->stuck &&
        !path_open(world, link->host[event->b], link->host[1 - event->b])) {
        sim_network_reset(world, event->a);
    }
}

/* A node that isn't admitted yet presents its certificate when it dials; a barred one is turned away. */
static bool link_introduce(struct world *world, struct host *newcomer, struct host *receiver)
{
    if (sim_network_shut_out(world, receiver, newcomer) || !receiver->alive) {
        return false;
    }
    if (sim_known_see(&receiver->known, newcomer->identity).admission == ADMISSION_NONE &&
        newcomer->own_record != NULL) {
        sim_host_record(world, receiver, &newcomer->id, sim_payload_keep(newcomer->own_record));
    }
    return sim_known_see(&receiver->known, newcomer->identity).admission == ADMISSION_ADMITTED;
}

/* Where a clone was, nobody is missed: its identity is somewhere else. */
static bool is_past_clone(const struct host *host)
{
    return host->gone && host->identity != host->index;
}

static void side_failed(struct world *world, uint32_t number, uint32_t which, bool refused)
{
    struct link_side *side = &world->network.link[number].side[which];
    struct host *const host = &world->host[world->network.link[number].host[which]];
    const struct host *const peer = &world->host[world->network.link[number].host[1 - which]];
    flights_free(world, &side->first, &side->last);
    side->waiting = 0;
    if (is_past_clone(peer)) {
        *side = (struct link_side){.dials = side->dials};
        return;
    }
    side->failures++;
    const bool tell = side->tell_down;
    side->tell_down = false;
    if (side->kept) {
        int64_t in_us = REDIAL_LEAST_US;
        for (uint32_t i = 0; i < side->failures && in_us < REDIAL_MOST_US; i++) {
            in_us *= 2;
        }
        in_us = in_us < REDIAL_MOST_US ? in_us : REDIAL_MOST_US;
        link_dial(world, number, which, sim_between(&world->random, in_us / 2, in_us));
    }
    if (tell) {
        sim_host_link(world, host, &peer->id, false, refused);
    }
}

void sim_network_dialed(struct world *world, struct event *event)
{
    const uint32_t number = event->a;
    struct link *link = &world->network.link[number];
    const uint32_t which = link_side_of(link, event->node);
    struct link_side *side = &link->side[which];
    if (side->dials != event->b) {
        return;
    }
    side->dialing = false;
    struct host *const host = &world->host[event->node];
    struct host *const peer = &world->host[link->host[1 - which]];
    if (link->up) {
        side->failures = 0;
        side_send_waiting(world, number, which);
        if (world->network.link[number].side[which].kept && world->network.link[number].up) {
            sim_host_link(world, host, &peer->id, true,
                          false); /* as a host that is asked to keep what it has */
        }
        return;
    }
    const bool open =
        path_open(world, host->index, peer->index) && path_open(world, peer->index, host->index);
    if (!open || !host_answers(world, peer)) {
        side_failed(world, number, which, open && !peer->alive && !peer->silent);
        return;
    }
    const bool admitted = link_introduce(world, host, peer) && link_introduce(world, peer, host);
    if (!host->alive) {
        return; /* it died of what it just learned */
    }
    if (!admitted || !peer->alive) {
        side_failed(world, number, which, !peer->alive);
        return;
    }
    link = &world->network.link[number];
    link->up = true;
    link->session++;
    for (uint32_t i = 0; i < 2; i++) {
        link->side[i].failures = 0;
        link->side[i].tell_down = false;
    }
    sim_host_link(world, host, &peer->id, true, false);
    sim_host_link(world, peer, &host->id, true, false);
    for (uint32_t i = 0; i < 2 && world->network.link[number].up; i++) {
        side_send_waiting(world, number, i);
    }
}

/* A clone shares its original's id: whoever keeps a link to that id keeps one to both. */
void sim_network_keep(struct world *world, struct host *host, const struct mesh_id *peer, bool keep)
{
    const uint32_t identity = sim_world_identity(world, peer);
    for (uint32_t i = sim_world_bearer(world, identity, SIM_NONE); i != SIM_NONE && !world->laying;
         i = sim_world_bearer(world, identity, i)) {
        if (i == host->index || is_past_clone(&world->host[i])) {
            continue;
        }
        const uint32_t number = network_link(world, host->index, i);
        struct link *const link = &world->network.link[number];
        struct link_side *const side = &link->side[link_side_of(link, host->index)];
        side->kept = keep;
        if (keep && !side->dialing) {
            side->tell_down = !link->up;
            side->failures = 0;
            link_dial(world, number, link_side_of(link, host->index), 0);
        }
    }
}

void sim_network_join(struct world *world, struct host *host, const struct mesh_id *peer)
{
    struct host *const other = &world->host[sim_world_identity(world, peer)];
    const uint32_t number = network_link(world, host->index, other->index);
    struct link *const link = &world->network.link[number];
    link->side[link_side_of(link, host->index)].kept = true;
    if (!link->up) {
        link->up = true;
        link->session++;
        sim_host_link(world, host, &other->id, true, false);
        sim_host_link(world, other, &host->id, true, false);
    }
}

void sim_network_redial(struct world *world, struct host *host, const struct mesh_id *peer)
{
    const uint32_t identity = sim_world_identity(world, peer);
    for (uint32_t i = sim_world_bearer(world, identity, SIM_NONE); i != SIM_NONE && !world->laying;
         i = sim_world_bearer(world, identity, i)) {
        if (i == host->index || is_past_clone(&world->host[i])) {
            continue;
        }
        const uint32_t number = network_link(world, host->index, i);
        struct link *const link = &world->network.link[number];
        if (link->up) {
            link->up = false;
            link->session++;
            link_drop_queues(world, link);
        }
        const uint32_t which = link_side_of(link, host->index);
        link->side[which].tell_down = true;
        link_dial(world, number, which, 0);
    }
}

void sim_network_host_died(struct world *world, struct host *host)
{
    for (uint32_t number = host->first_link, next; number != 0; number = next) {
        struct link *const link = &world->network.link[number - 1];
        const uint32_t which = link_side_of(link, host->index);
        next = link->next[which];
        struct link_side *const side = &link->side[which];
        flights_free(world, &side->first, &side->last);
        *side = (struct link_side){.dials = side->dials + 1};
        struct link_direction *const sent = &link->direction[which];
        if (!host->silent) {
            sim_network_reset(world, number - 1);
        } else {
            flights_free(world, &sent->first, &sent->last);
            sent->scheduled = false;
            sent->stuck = false;
        }
    }
}

void sim_network_bar(struct world *world, const struct host *host, uint32_t peer)
{
    const uint32_t low = host->index < peer ? host->index : peer;
    const uint32_t high = host->index < peer ? peer : host->index;
    uint32_t place = 0;
    const uint32_t number =
        world->network.table_size != 0 ? network_find(&world->network, low, high, &place) : SIM_NONE;
    if (number != SIM_NONE) {
        sim_network_reset(world, number);
    }
}

/* A machine that comes back answers what was sent on its old sessions with a reset. */
void sim_network_host_born(struct world *world, struct host *host)
{
    for (uint32_t number = host->first_link; number != 0;) {
        const struct link *const link = &world->network.link[number - 1];
        const uint32_t next = link->next[link_side_of(link, host->index)];
        sim_network_reset(world, number - 1);
        number = next;
    }
}

void sim_network_changed(struct world *world)
{
    for (uint32_t i = 0; i < world->network.count; i++) {
        for (uint32_t way = 0; way < 2; way++) {
            struct link_direction *const direction = &world->network.link[i].direction[way];
            if (direction->stuck) {
                direction->stuck = false;
                direction_schedule(world, i, way);
            }
        }
    }
}

/* ---- Replays. */

void sim_network_capture(struct world *world, const struct flight *flight)
{
    struct network *const network = &world->network;
    if (!world->captures || ++network->passed < CAPTURE_EVERY) {
        return;
    }
    network->passed = 0;
    struct flight **const place = &network->captured[network->captured_count++ % SIM_CAPTURED];
    if (*place != NULL) {
        sim_flight_free(*place);
    }
    *place = sim_flight_copy(flight);
}

static bool carries_record(const struct flight *flight)
{
    return flight->message->kind == MESH_PUSH || flight->message->kind == MESH_SPREAD;
}

/*
 * A member can only relay again what its peers signed, and to anybody. That a whole old conversation comes again on the
 * wire is excluded by CURVE; the adversarial network does it all the same.
 */
bool sim_network_replay(struct world *world, uint32_t place, const struct host *by, const struct host *to,
                        int64_t in_us)
{
    const struct flight *const old = world->network.captured[place];
    if (old == NULL || (!carries_record(old) && !world->network.adversarial)) {
        return false;
    }
    struct flight *const copy = sim_flight_copy(old);
    copy->next = NULL;
    if (carries_record(old)) {
        copy->from = by->index;
        copy->from_life = by->life;
        copy->to = to->index;
    }
    if (copy->from == copy->to) {
        sim_flight_free(copy);
        return false;
    }
    world->result->world.messages_replayed++;
    flight_launch(world, copy, in_us);
    return true;
}

void sim_network_free(struct network *network)
{
    for (uint32_t i = 0; i < SIM_CAPTURED; i++) {
        if (network->captured[i] != NULL) {
            sim_flight_free(network->captured[i]);
        }
    }
    for (uint32_t i = 0; i < network->count; i++) {
        for (uint32_t which = 0; which < 2; which++) {
            struct flight *lists[] = {network->link[i].side[which].first,
                                      network->link[i].direction[which].first};
            for (uint32_t list = 0; list < 2; list++) {
                while (lists[list] != NULL) {
                    struct flight *const flight = lists[list];
                    lists[list] = flight->next;
                    sim_flight_free(flight);
                }
            }
        }
    }
    free(network->link);
    free(network->table);
}
