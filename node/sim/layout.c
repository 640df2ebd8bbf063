/*
 * Worlds that studies begin with.
 *
 * From disks: every node has on its disk whom it knew when the mesh was stopped, and all start. That is how a mesh comes back
 * after a power cut, and at a thousand nodes it costs more than most studies: every node's first record is flooded over every
 * link, which is what makes the trees.
 *
 * Laid out: nodes start alone; then each core is told of all members that concern it and of what these lend, its links come
 * up, and its neighbours tell it over which of them no copies need to go (PRUNE), as they would have after the first record
 * of each origin. All of that are events and messages of production, handed in at one moment instead of being waited for. The
 * tree of each origin is that of fewest links and, of those, of least latency, which is where the protocol's own trees tend; a
 * study of how trees are made has to make them anew (study_hops.c).
 */
#include "node/sim/world.h"

/* They start alone within this time, so that they do not ping all at once later. */
#define START_US (2 * SECOND_US)
/* And in this time more have said what they lend, too (MESH_CAPACITY_MIN_MS after they first said that it is nothing). */
#define ALONE_US (1100 * (SECOND_US / 1000))

/* ---- Disks. */

/* The record that a host would have signed in an earlier life, so that all can have it on their disks. */
static struct payload *record_of_earlier_life(const struct host *host)
{
    const struct mesh_record record = {
        .kind = MESH_RECORD_MEMBER,
        .origin = host->id,
        .incarnation = 1,
        .version = 1,
        .body.member = {.session = 1, .site = host->site, .region = host->region, .interior = host->interior},
    };
    return sim_payload_of_record(&record);
}

/* The first hosts of [first, end) in the order in which a large site chooses its reporters; all of a small site. */
static uint32_t choose_uppers(const struct world *world, uint32_t first, uint32_t end, uint32_t *upper)
{
    uint32_t count = 0;
    const uint32_t most = end - first > MESH_SITE_SPLIT ? MESH_REPORTERS : end - first;
    for (uint32_t i = first; i < end; i++) {
        uint32_t at = count < most ? count++ : most;
        for (; at > 0 && mesh_reports_before(&world->host[i].id, &world->host[upper[at - 1]].id); at--) {
            if (at < most) {
                upper[at] = upper[at - 1];
            }
        }
        if (at < most) {
            upper[at] = i;
        }
    }
    return count;
}

/* Hosts of one site stand side by side. */
static uint32_t site_end(const struct world *world, uint32_t first)
{
    uint32_t end = first;
    while (end < world->host_count && world->host[end].site == world->host[first].site) {
        end++;
    }
    return end;
}

/* Who is in which tier. */
struct tiers {
    uint32_t *upper; /* [uppers] hosts */
    uint32_t uppers;
};

static struct tiers lay_tiers(struct world *world)
{
    struct tiers tiers = {.upper = sim_alloc(world->host_count, sizeof *tiers.upper)};
    for (uint32_t i = 0; i < world->host_count; i++) {
        world->host[i].interior = true;
    }
    for (uint32_t first = 0, end; first < world->host_count; first = end) {
        end = site_end(world, first);
        const uint32_t more = choose_uppers(world, first, end, &tiers.upper[tiers.uppers]);
        for (uint32_t i = 0; i < more; i++) {
            world->host[tiers.upper[tiers.uppers + i]].interior = false;
        }
        tiers.uppers += more;
    }
    return tiers;
}

/* The host's disk has these records of its site, [first, end), and `far` of the upper tier, if it stands there. */
static void fill_disk(struct host *host, struct payload *const *record, uint32_t first, uint32_t end,
                      const struct tiers *far)
{
    const uint32_t uppers = far != NULL && !host->interior ? far->uppers : 0;
    struct disk *const disk = &host->disk;
    for (uint32_t i = 0; i < disk->record_count; i++) {
        sim_payload_drop(disk->record[i].payload);
    }
    disk->record_count = disk->found = 0;
    disk->record = sim_grow(disk->record, end - first + uppers, sizeof *disk->record);
    for (uint32_t i = first; i < end; i++) {
        disk->record[disk->record_count++].payload = sim_payload_keep(record[i]);
    }
    for (uint32_t i = 0; i < uppers; i++) {
        if (far->upper[i] < first || far->upper[i] >= end) {
            disk->record[disk->record_count++].payload = sim_payload_keep(record[far->upper[i]]);
        }
    }
}

static void fill_disks(struct world *world, const struct tiers *far)
{
    struct payload **const record = sim_alloc(world->host_count, sizeof(struct payload *));
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        host->disk.incarnation = 1;
        host->signed_incarnation = 1;
        host->signed_version = 1;
        host->joined = true;
        record[i] = record_of_earlier_life(host);
    }
    for (uint32_t first = 0, end; first < world->host_count; first = end) {
        end = site_end(world, first);
        for (uint32_t i = first; i < end; i++) {
            fill_disk(&world->host[i], record, first, end, far);
        }
    }
    for (uint32_t i = 0; i < world->host_count; i++) {
        sim_payload_drop(record[i]);
    }
    free(record);
}

static void start_within(struct world *world, int64_t spread_us)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct event event =
            sim_world_event(world, sim_between(&world->random, 0, spread_us), HAPPEN_START, SIM_NONE);
        event.a = i;
        sim_world_push(world, event);
    }
}

void sim_layout_disks(struct world *world, int64_t spread_us)
{
    const struct tiers tiers = lay_tiers(world);
    fill_disks(world, &tiers);
    free(tiers.upper);
    start_within(world, spread_us);
}

/* ---- Trees. */

/* One direction of a link that both ends keep, and whose origins do not need it. */
struct arc {
    uint32_t to;
    int64_t latency_us;
    uint32_t count; /* told of, and not yet said */
    uint32_t unneeded[MESH_WORDS_MAX];
};

struct graph {
    uint32_t *first; /* [hosts + 1] of a host's arcs */
    struct arc *arc;
    /* The tree of one origin. */
    uint32_t *parent; /* [hosts] SIM_NONE: not reached; its own: the origin */
    uint32_t *depth;
    int64_t *arrival_us;
    uint32_t *queue; /* [reached] hosts, by depth */
    uint32_t reached;
};

static uint32_t count_arcs(const struct world *world, const struct host *host, struct arc *arc)
{
    uint32_t count = 0;
    for (uint32_t number = host->first_link; number != 0;) {
        const struct link *const link = &world->network.link[number - 1];
        const uint32_t side = link->host[0] == host->index ? 0 : 1;
        number = link->next[side];
        if (!link->up || !link->side[0].kept || !link->side[1].kept) {
            continue;
        }
        if (arc != NULL) {
            arc[count].to = link->host[1 - side];
            arc[count].latency_us = link->latency_us;
        }
        count++;
    }
    return count;
}

static struct graph graph_of(const struct world *world)
{
    const uint32_t hosts = world->host_count;
    struct graph graph = {
        .first = sim_alloc(hosts + 1, sizeof *graph.first),
        .parent = sim_alloc(hosts, sizeof *graph.parent),
        .depth = sim_alloc(hosts, sizeof *graph.depth),
        .arrival_us = sim_alloc(hosts, sizeof *graph.arrival_us),
        .queue = sim_alloc(hosts, sizeof *graph.queue),
    };
    for (uint32_t i = 0; i < hosts; i++) {
        graph.first[i + 1] = graph.first[i] + count_arcs(world, &world->host[i], NULL);
        graph.parent[i] = SIM_NONE;
    }
    graph.arc = sim_alloc(graph.first[hosts], sizeof *graph.arc);
    for (uint32_t i = 0; i < hosts; i++) {
        count_arcs(world, &world->host[i], &graph.arc[graph.first[i]]);
    }
    return graph;
}

static void graph_free(struct graph *graph)
{
    free(graph->first);
    free(graph->arc);
    free(graph->parent);
    free(graph->depth);
    free(graph->arrival_us);
    free(graph->queue);
}

/* Breadth first over those whom the origin's records concern; whoever is reached at one depth twice is reached by the sooner. */
static void grow_tree(const struct world *world, struct graph *graph, uint32_t origin)
{
    for (uint32_t i = 0; i < graph->reached; i++) {
        graph->parent[graph->queue[i]] = SIM_NONE;
    }
    graph->parent[origin] = origin;
    graph->depth[origin] = 0;
    graph->arrival_us[origin] = 0;
    graph->queue[0] = origin;
    graph->reached = 1;
    for (uint32_t done = 0; done < graph->reached; done++) {
        const uint32_t from = graph->queue[done];
        for (uint32_t i = graph->first[from]; i < graph->first[from + 1]; i++) {
            const struct arc *const arc = &graph->arc[i];
            const bool first = graph->parent[arc->to] == SIM_NONE;
            const int64_t arrival_us = graph->arrival_us[from] + arc->latency_us;
            if (first && !study_concerns(&world->host[origin], &world->host[arc->to])) {
                continue;
            }
            if (!first && (graph->depth[arc->to] != graph->depth[from] + 1 ||
                           graph->arrival_us[arc->to] <= arrival_us)) {
                continue;
            }
            graph->parent[arc->to] = from;
            graph->depth[arc->to] = graph->depth[from] + 1;
            graph->arrival_us[arc->to] = arrival_us;
            if (first) {
                graph->queue[graph->reached++] = arc->to;
            }
        }
    }
}

/* As mesh/ names an origin in a word. */
static uint64_t id_prefix(const struct mesh_id *id)
{
    uint64_t prefix = 0;
    for (uint32_t i = 0; i < 8; i++) {
        prefix = prefix << 8 | id->bytes[i];
    }
    return prefix;
}

/* The arc's far end asks the near one for no more copies of what these origins say. */
static void prune(struct world *world, uint32_t near, struct arc *arc)
{
    static struct mesh_send send;
    send.to = world->host[near].id;
    send.message.kind = MESH_PRUNE;
    send.message.body.words.count = arc->count;
    for (uint32_t i = 0; i < arc->count; i++) {
        send.message.body.words.word[i] = (struct mesh_word){
            .origin = id_prefix(&world->host[arc->unneeded[i]].id), .kind = MESH_RECORD_MEMBER};
    }
    arc->count = 0;
    struct flight *const flight = sim_host_flight(world, &world->host[arc->to], &send, NULL);
    sim_host_receive(world, &world->host[near], flight);
}

static void prune_around_tree(struct world *world, struct graph *graph, uint32_t origin)
{
    for (uint32_t i = 0; i < graph->reached; i++) {
        const uint32_t near = graph->queue[i];
        for (uint32_t j = graph->first[near]; j < graph->first[near + 1]; j++) {
            struct arc *const arc = &graph->arc[j];
            if (graph->parent[arc->to] == SIM_NONE || graph->parent[arc->to] == near ||
                graph->parent[near] == arc->to || arc->to == origin) {
                continue;
            }
            arc->unneeded[arc->count++] = origin;
            if (arc->count == MESH_WORDS_MAX) {
                prune(world, near, arc);
            }
        }
    }
}

/* How an origin's records reach a host. */
struct way {
    uint32_t host;
    uint32_t origin;
    uint32_t parent;
    uint32_t depth;
};

/* Of so many origins at a time, so that what they do to one host finds its core in the processor's cache. */
#define ORIGINS_AT_ONCE 64

struct ways {
    struct way *way;
    uint32_t count, room;
};

static void note_ways(struct ways *ways, const struct graph *graph, uint32_t origin)
{
    if (ways->room < ways->count + graph->reached) {
        ways->room = 2 * (ways->count + graph->reached);
        ways->way = sim_grow(ways->way, ways->room, sizeof *ways->way);
    }
    for (uint32_t i = 1; i < graph->reached; i++) {
        const uint32_t host = graph->queue[i];
        ways->way[ways->count++] = (struct way){
            .host = host, .origin = origin, .parent = graph->parent[host], .depth = graph->depth[host]};
    }
}

static int compare_ways(const void *a, const void *b)
{
    const struct way *const x = a;
    const struct way *const y = b;
    return x->host != y->host ? (x->host > y->host) - (x->host < y->host)
                              : (x->origin > y->origin) - (x->origin < y->origin);
}

/* Everybody gets the origins' records once more, over the links by which the trees reach it, and so knows its ways. */
static void show_ways(struct world *world, struct ways *ways)
{
    static struct mesh_send send;
    send.message.kind = MESH_SPREAD;
    qsort(ways->way, ways->count, sizeof *ways->way, compare_ways);
    for (uint32_t i = 0; i < ways->count; i++) {
        const struct way *const way = &ways->way[i];
        struct host *const host = &world->host[way->host];
        struct payload *const record = world->host[way->origin].own_record;
        send.to = host->id;
        send.message.body.push.record = record->record;
        send.message.body.push.hops = (uint8_t)way->depth;
        sim_host_receive(world, host,
                         sim_host_flight(world, &world->host[way->parent], &send, sim_payload_keep(record)));
    }
    ways->count = 0;
}

static void lay_trees(struct world *world)
{
    struct graph graph = graph_of(world);
    struct ways ways = {0};
    for (uint32_t origin = 0; origin < world->host_count; origin++) {
        grow_tree(world, &graph, origin);
        prune_around_tree(world, &graph, origin);
        note_ways(&ways, &graph, origin);
        if ((origin + 1) % ORIGINS_AT_ONCE == 0 || origin + 1 == world->host_count) {
            show_ways(world, &ways);
        }
    }
    for (uint32_t i = 0; i < world->host_count; i++) {
        for (uint32_t j = graph.first[i]; j < graph.first[i + 1]; j++) {
            if (graph.arc[j].count != 0) {
                prune(world, i, &graph.arc[j]);
            }
        }
    }
    free(ways.way);
    graph_free(&graph);
}

/* ---- Members and links. */

/* As one has just said of itself. */
static void tell_of(struct world *world, struct host *host, const struct host *other)
{
    sim_host_record(world, host, &other->id, sim_payload_keep(other->own_record));
    sim_host_record(world, host, &other->id, sim_payload_keep(other->own_capacity));
}

/* Each core is told of all who concern it, whose records are on its disk already. */
static void tell_members(struct world *world, const struct tiers *tiers)
{
    struct payload **const record = sim_alloc(world->host_count, sizeof(struct payload *));
    for (uint32_t i = 0; i < world->host_count; i++) {
        record[i] = world->host[i].own_record;
    }
    for (uint32_t first = 0, end; first < world->host_count; first = end) {
        end = site_end(world, first);
        for (uint32_t i = first; i < end; i++) {
            struct host *const host = &world->host[i];
            fill_disk(host, record, first, end, tiers);
            for (uint32_t j = 0; j < host->disk.record_count; j++) {
                struct payload *const theirs = host->disk.record[j].payload;
                if (theirs != host->own_record) {
                    tell_of(world, host, &world->host[sim_world_identity(world, &theirs->record.origin)]);
                }
            }
        }
    }
    free(record);
}

static void join_neighbours(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[i];
        struct mesh_member_view view;
        for (uint32_t index = 0; mesh_member_view(host->mesh, index, &view); index++) {
            if (view.neighbour) {
                sim_network_join(world, host, &view.id);
            }
        }
    }
}

bool sim_layout(struct world *world)
{
    const struct tiers tiers = lay_tiers(world);
    fill_disks(world, NULL);
    world->laying = true;
    start_within(world, START_US);
    world->end_us = START_US + ALONE_US;
    sim_world_loop(world);
    if (!world->failed) {
        tell_members(world, &tiers);
        join_neighbours(world);
        lay_trees(world);
        world->end_us += 4 * 1000 * MESH_BATCH_MS; /* what they would say of all that is said */
        sim_world_loop(world);
    }
    world->laying = false;
    free(tiers.upper);
    return !world->failed;
}
