/*
 * What is tried once the mesh is calm: 62 s after the last fault, when everyone must see the same members.
 *
 *     at  0 s   a node announces a new version of its record
 *     at 20 s   a certificate is revoked, where the mesh can spare its node
 *
 * Each is news that everyone must have within 3 s. The announcement's pushes to one node, the unlucky, are lost: it must
 * have learned of it by the rounds of anti-entropy, which go every 5 s and now and then skip one.
 *
 *     at  0 s   an owner claims all devices of a node, and that node's capacity says so
 *     at 63 s   they are lent again
 *
 * Everyone must have seen the capacity without a slot by the 62nd second, and once more that with all of them after
 * another 62: a node that never hears of the claim, and still shows what there was before, fails at the first.
 */
#include "node/sim/world.h"

#define CALM_US (62 * SECOND_US)
#define STEP_US (20 * SECOND_US)
#define SPREAD_US (3 * SECOND_US)
/* Where a tree lacks a node, word of a capacity comes on another link once a minute. */
#define CAPACITY_US (62 * SECOND_US)
#define CLAIM_US (CAPACITY_US + SECOND_US)
#define UNLUCKY_US SECOND_US
#define ROUND_US (14 * SECOND_US)
/* Room behind the claim: to hear that it ended, in which what it took from jobs can be made up for, too. */
#define REST_US CLAIM_US
#define NODES_MIN 3
#define KEYS 4
/* In a large world owners are asked for once in so many seconds: everyone weighs everyone. */
#define OWNERS_EVERY_LARGE 10
/* By no clock has anybody been up for 10 min, so everyone who is up counts. */
#define OWNERS_ALIKE_UNTIL_US (540 * SECOND_US)

static bool in_mesh(const struct host *host)
{
    return host->alive && !host->revoked && !host->leaving;
}

/* A node that is in the mesh and none of two others, or NULL. */
static struct host *pick(struct world *world, const struct host *but, const struct host *nor)
{
    const uint32_t from = sim_below(&world->drill.random, world->host_count);
    for (uint32_t i = 0; i < world->host_count; i++) {
        struct host *const host = &world->host[(from + i) % world->host_count];
        if (in_mesh(host) && host != but && host != nor && host->identity == host->index) {
            return host;
        }
    }
    return NULL;
}

/* Whether a node is told of another: of its site, and in the upper tier of all others there, see mesh/tiers.h. */
static bool concerns(const struct host *host, const struct host *about)
{
    return host->site == about->site || (!host->interior && !about->interior);
}

static bool shows(const struct mesh_capacity *capacity, const uint16_t slots[MESH_DEVICE_CLASSES])
{
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        if (capacity->class[i].slots != slots[i]) {
            return false;
        }
    }
    return true;
}

/* Whether the node knows of what the step was about. */
static bool knows(const struct world *world, const struct host *host, const struct trial *trial)
{
    const struct drill *const drill = &world->drill;
    const struct host *const about = &world->host[trial->about];
    struct mesh_member_view view;
    if (!mesh_member_find(host->mesh, &about->id, &view)) {
        return false;
    }
    const struct payload *payload;
    switch (trial->step) {
    case DRILL_ANNOUNCED:
        payload = sim_handle_see(&host->handles, view.record_handle);
        return payload != NULL && (payload->record.incarnation > drill->incarnation ||
                                   payload->record.version >= drill->version);
    case DRILL_REVOKED:
        return view.state == MESH_REVOKED;
    case DRILL_CLAIMED:
        return shows(&view.capacity, (const uint16_t[MESH_DEVICE_CLASSES]){0});
    case DRILL_RETURNED:
        return shows(&view.capacity, about->slots);
    default:
        return true;
    }
}

static void check_known(struct world *world, const struct trial *trial)
{
    static const char *const news[] = {"", "the new record", "the revocation", "the claim", "the return"};
    const int64_t passed_us = world->now_us - trial->at_us;
    const int64_t usual_us = trial->step >= DRILL_CLAIMED ? CAPACITY_US : SPREAD_US;
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        const struct host *const host = &world->host[i];
        const bool unlucky = i == trial->unlucky;
        if (!in_mesh(host) || host->identity != i || i == trial->about ||
            !concerns(host, &world->host[trial->about]) || passed_us < (unlucky ? ROUND_US : usual_us) ||
            knows(world, host, trial)) {
            continue;
        }
        sim_check_fail(world, host, SIM_NEWS_SPREADS, "%s of %s has not come after %lld s%s",
                       news[trial->step], world->host[trial->about].name, (long long)(passed_us / SECOND_US),
                       unlucky ? ", which it can only hear in a round" : "");
    }
}

static void begin(struct world *world, struct trial *trial, enum drill_step step, const struct host *about)
{
    *trial = (struct trial){.step = step, .at_us = world->now_us, .about = about->index, .unlucky = SIM_NONE};
}

static void announce(struct world *world)
{
    struct drill *const drill = &world->drill;
    struct host *const about = pick(world, NULL, NULL);
    begin(world, &drill->news, DRILL_ANNOUNCED, about);
    const struct host *const unlucky = pick(world, about, NULL);
    drill->news.unlucky = unlucky != NULL ? unlucky->index : SIM_NONE;
    sim_host_simple(world, about, MESH_ANNOUNCE);
    drill->incarnation = about->signed_incarnation;
    drill->version = about->signed_version;
}

/* Somebody else than whose devices are claimed. */
static void revoke(struct world *world)
{
    struct drill *const drill = &world->drill;
    const struct host *const claimed = &world->host[drill->owner.about];
    struct host *const about = pick(world, claimed, NULL);
    struct host *const issuer = about != NULL ? pick(world, about, NULL) : NULL;
    if (issuer == NULL || (world->lost_for_good + 1) * 4 > world->host_count) {
        drill->news = (struct trial){.step = DRILL_REVOKED, .about = SIM_NONE};
        return;
    }
    world->lost_for_good++;
    world->result->world.revocations++;
    about->revoked = true;
    begin(world, &drill->news, DRILL_REVOKED, about);
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION,
                                 .origin = world->authority,
                                 .incarnation = 1,
                                 .version = ++world->revocations};
    record.body.revocation.subject = about->id;
    sim_host_record(world, issuer, &issuer->id, sim_payload_of_record(&record));
}

static void claim(struct world *world)
{
    struct host *const about = pick(world, NULL, NULL);
    begin(world, &world->drill.owner, DRILL_CLAIMED, about);
    if (sim_world_plant(world, SIM_PLANT_SECRET_CLAIM)) {
        return;
    }
    memset(about->lent, 0, sizeof about->lent);
    about->lent_less_at_us = world->now_us;
    sim_host_devices(world, about);
}

static void give_back(struct world *world)
{
    struct host *const about = &world->host[world->drill.owner.about];
    begin(world, &world->drill.owner, DRILL_RETURNED, about);
    memcpy(about->lent, about->slots, sizeof about->lent);
    sim_host_devices(world, about);
}

/* What the first one that was asked said of each key. */
struct answers {
    bool known;
    struct mesh_id owner[KEYS][2];
};

static void check_owners_at(struct world *world, const struct host *host, struct answers *first)
{
    for (uint32_t i = 0; i < KEYS && !world->failed; i++) {
        const struct mesh_id key = sim_id((uint64_t)(world->now_us / SECOND_US), i);
        struct mesh_id owner[2] = {0};
        const uint32_t count = mesh_owners(host->mesh, &key, owner);
        struct mesh_member_view view;
        for (uint32_t j = 0; j < count; j++) {
            if (!mesh_member_find(host->mesh, &owner[j], &view) || view.state != MESH_UP) {
                sim_check_fail(world, host, SIM_OWNERS_LIVE, "an owner of a key isn't up");
            }
        }
        if (count == 2 && memcmp(&owner[0], &owner[1], sizeof owner[0]) == 0) {
            sim_check_fail(world, host, SIM_OWNERS_LIVE, "both owners of a key are one");
        }
        if (first->known && memcmp(first->owner[i], owner, sizeof owner) != 0) {
            sim_check_fail(world, host, SIM_OWNERS_LIVE, "its owners of a key aren't those of others");
        }
        memcpy(first->owner[i], owner, sizeof owner);
    }
    first->known = true;
}

/*
 * Two members that are up own a key, or the one there is; which two, all say alike who choose among the same: nodes of an
 * interior among their site, whose hosts stand in a row, others in the upper tier.
 */
static void check_owners(struct world *world)
{
    struct answers upper = {0};
    struct answers site = {0};
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        const struct host *const host = &world->host[i];
        if (i == 0 || host->site != world->host[i - 1].site) {
            site.known = false;
        }
        if (in_mesh(host)) {
            check_owners_at(world, host, host->interior ? &site : &upper);
        }
    }
}

static uint32_t count_in_mesh(const struct world *world)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        count += in_mesh(&world->host[i]);
    }
    return count;
}

bool sim_drill_drops(const struct world *world, const struct flight *flight)
{
    const struct trial *const news = &world->drill.news;
    return news->step == DRILL_ANNOUNCED && flight->to == news->unlucky &&
           (flight->message->kind == MESH_PUSH || flight->message->kind == MESH_SPREAD) &&
           flight->message->body.push.record.kind == MESH_RECORD_MEMBER &&
           world->now_us <= news->at_us + UNLUCKY_US;
}

bool sim_drill_just_revoked(const struct world *world, const struct host *host)
{
    const struct trial *const news = &world->drill.news;
    return news->step == DRILL_REVOKED && news->about == host->index &&
           world->now_us < news->at_us + SPREAD_US;
}

void sim_drill_survey(struct world *world)
{
    struct drill *const drill = &world->drill;
    const int64_t calm_us = world->now_us - world->heal_at_us - CALM_US;
    if (calm_us < 0 || world->heal_at_us + CALM_US + CLAIM_US + REST_US > world->end_us) {
        return;
    }
    if (drill->news.step == DRILL_NONE && count_in_mesh(world) < NODES_MIN) {
        return;
    }
    if (drill->news.step == DRILL_NONE) {
        drill->random.state = sim_mix(world->options.seed, 0x6c6c697264);
        announce(world);
        claim(world);
    } else if (drill->news.step == DRILL_ANNOUNCED && calm_us >= STEP_US) {
        revoke(world);
    } else if (drill->news.about != SIM_NONE) {
        check_known(world, &drill->news);
    }
    check_known(world, &drill->owner);
    if (drill->owner.step == DRILL_CLAIMED && calm_us >= CLAIM_US) {
        give_back(world);
    }
    const bool asked =
        world->host_room <= SIM_NODES_SMALL || world->now_us / SECOND_US % OWNERS_EVERY_LARGE == 0;
    if (asked && world->now_us < OWNERS_ALIKE_UNTIL_US && world->now_us > drill->news.at_us + SPREAD_US) {
        check_owners(world);
    }
}
