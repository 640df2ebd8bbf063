/* What must hold: after every step (check_step), once a second after the faults stopped (check_survey), at
 * the end. */
#include "node/sim/world.h"

#include <stdarg.h>
#include <stdio.h>

/* After everything healed: one view within 60 s; a slot that queued work could use stays empty for 5 s at most. */
#define ONE_VIEW_US (60 * SECOND_US)
#define IDLE_US (5 * SECOND_US)
/*
 * What is sent is counted from when everybody has joined until the first fault, and at the end, when no job is left that could
 * run. Per node and 1,000 s the second may be so much above the first. Over 20,800 seeds of all profiles it was never more than
 * that of gossip's words (200 over the 880 that were measured), and of all messages 15,700 at most, since jobs crowd pings out,
 * and journals without a majority go on asking for one; all but two seeds stayed below 8,000.
 * Each node's capacity comes on top, once a minute to everyone: by tree, or by each of ten neighbours.
 */
#define JOINED_US (12 * SECOND_US)
#define REST_US (30 * SECOND_US)
#define WORDS_MORE 1000
#define MESSAGES_MORE 20000
#define KNOWN_BY_TREE 34
#define KNOWN_BY_FLOOD 167
/* Sites that a quorum needs, when two of them differ. */
#define QUORUM_SITES 3
/* Handles of one record that a node may hold at rest. */
#define RECORDS_ALIKE_MAX 1

static const char *const claims[SIM_CLAIMS] = {
    [SIM_ACKED_IS_DURABLE] = "what is acknowledged is on a majority of its journal's disks and stays there",
    [SIM_COMMIT_IS_FINAL] = "one right result per shard is committed and never changes",
    [SIM_EPOCHS_GROW] = "epochs only grow, and an older one never commits",
    [SIM_SLOTS_HOLD] = "running <= slots, and running + waiting + granted <= 2 x slots",
    [SIM_SHARDS_ADD_UP] = "every shard is looked up, queued, assigned, held or committed; none vanishes",
    [SIM_ORIGIN_ADVANCES] =
        "only its origin advances a record, only with what it saved, never twice to one place",
    [SIM_DOWN_STAYS_DOWN] = "a member that is down comes up only with a higher incarnation",
    [SIM_BOUNDS_HOLD] = "every step's output is bounded and comes to rest",
    [SIM_HANDLES_RETURN] = "every handle is dropped exactly once",
    [SIM_ANSWERS_FIT] = "what the core asks for fits what the host told it",
    [SIM_VIEWS_AGREE] = "60 s after the last fault everyone sees the same members up",
    [SIM_NOBODY_FALSELY_DOWN] = "60 s after the last fault nobody who lives is accused",
    [SIM_JOBS_FINISH] = "every acknowledged job whose home lives comes to its right end",
    [SIM_NO_IDLE_DEVICE] = "no device idles while a shard that it could run waits",
    [SIM_RECORDS_KEPT] = "who is admitted or barred is still so after a restart",
    [SIM_NEWS_SPREADS] = "in a calm mesh news reaches everyone at once, and who missed it within a round",
    [SIM_OWNERS_LIVE] = "the owners of a key are two members that are up, the same for everyone",
    [SIM_PROMISES_HOLD] = "a place is granted, used once within its time, or given back",
    [SIM_LEASES_HOLD] = "what runs is wanted, renewed in time, and told until it is heard",
    [SIM_WORDS_COUNT] = "a member is accused by those whose latest word it is, and by nobody who went deaf",
    [SIM_WAKES_IN_TIME] = "the core asks to be called when something is due",
    [SIM_COUNTERS_GROW] = "what is counted for operators only grows",
    [SIM_WRONG_IS_CAUGHT] = "who was caught has no work and stays so, and nobody else is",
    [SIM_QUIET_AGAIN] = "once everything healed nodes send no more than before the first fault",
    [SIM_STORY_HOLDS] = "the story goes as told",
};

const char *sim_check_claim(enum sim_claim claim)
{
    return claim > 0 && claim < SIM_CLAIMS ? claims[claim] : "nothing";
}

static void append(struct sim_result *result, const char *format, ...)
{
    const size_t used = strlen(result->failure);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->failure + used, sizeof result->failure - used, format, arguments);
    va_end(arguments);
}

void sim_check_fail(struct world *world, const struct host *host, enum sim_claim claim, const char *format,
                    ...)
{
    if (world->failed) {
        return;
    }
    world->failed = true;
    struct sim_result *const result = world->result;
    result->claim = claim;
    result->failure[0] = 0;
    char words[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    append(result, "seed %llu, %lld.%06lld s, node %s: %s\n  broken: %s\n",
           (unsigned long long)world->options.seed, (long long)(world->now_us / SECOND_US),
           (long long)(world->now_us % SECOND_US), host != NULL ? host->name : "-", words,
           sim_check_claim(claim));
    if (host != NULL) {
        const uint64_t from = host->lines > world->trace_lines ? host->lines - world->trace_lines : 0;
        for (uint64_t i = from; i < host->lines; i++) {
            char text[200];
            sim_trace_format(world, host, &host->line[i & (world->trace_lines - 1)], text, sizeof text);
            append(result, "  %s\n", text);
        }
    }
    if (world->options.source != NULL || world->options.plan == NULL) {
        char command[SIM_REPLAY_BYTES];
        sim_replay(&world->options, command);
        append(result, "replay: %s\n", command);
    }
}

void sim_replay(const struct sim_options *options, char command[SIM_REPLAY_BYTES])
{
    char nodes[32] = "";
    char site[32] = "";
    char every[32] = "";
    if (options->source != NULL) {
        snprintf(command, SIM_REPLAY_BYTES, "weir sim %s", options->source);
        return;
    }
    if (options->nodes != 0) {
        snprintf(nodes, sizeof nodes, " --nodes %u", options->nodes);
    }
    if (options->site_nodes != SIM_SITE_NODES) {
        snprintf(site, sizeof site, " --site-nodes %u", options->site_nodes);
    }
    if (options->check_every != 0) {
        snprintf(every, sizeof every, " --check-every %u", options->check_every);
    }
    snprintf(command, SIM_REPLAY_BYTES,
             "weir sim --seed %llu%s%s --minutes %u --jobs %u --faults %s:%u%s --trace sim.trace",
             (unsigned long long)options->seed, nodes, site, options->minutes, options->jobs,
             options->profile, options->faults, every);
}

/* ---- After every step. */

static void check_executor(struct world *world, struct host *host)
{
    struct mesh_executor_view view;
    mesh_executor_view(host->mesh, &view);
    uint32_t slots = 0;
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        slots += host->lent[i];
    }
    if (slots != 0 && sim_world_plant(world, SIM_PLANT_CROWDED_SLOTS)) {
        view.running = slots + 1;
    }
    if (world->now_us - host->lent_less_at_us < SHRINK_US) {
        return;
    }
    if (view.running > slots || view.running + view.waiting + view.granted > 2 * slots) {
        sim_check_fail(world, host, SIM_SLOTS_HOLD, "%u running, %u waiting, %u granted on %u slots",
                       view.running, view.waiting, view.granted, slots);
    }
}

static void check_jobs(struct world *world, struct host *host)
{
    struct mesh_job_view view;
    for (uint32_t i = 0; mesh_job_view(host->mesh, i, &view); i++) {
        if (view.state != MESH_JOB_RUNNING) {
            continue;
        }
        if (sim_world_plant(world, SIM_PLANT_LOST_SHARD)) {
            view.committed--;
        }
        if (view.looking_up + view.queued + view.assigned + view.held + view.committed != view.shards) {
            sim_check_fail(world, host, SIM_SHARDS_ADD_UP,
                           "job %u: %u looked up + %u queued + %u assigned + %u held + %u committed != %u",
                           sim_world_job(world, &view.id), view.looking_up, view.queued, view.assigned,
                           view.held, view.committed, view.shards);
            return;
        }
    }
}

static void check_member(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t peer = sim_world_identity(world, &effect->body.member.id);
    if (peer == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "somebody became a member who never was");
        return;
    }
    struct known_member *const seen = sim_known_meet(&host->known, peer);
    world->views_changed = true;
    enum mesh_member_state state = effect->body.member.state;
    uint64_t incarnation = effect->body.member.incarnation;
    if (seen->state == MESH_DOWN && sim_world_plant(world, SIM_PLANT_UNDEAD)) {
        state = MESH_UP;
        incarnation = seen->incarnation;
    }
    if (incarnation < seen->incarnation) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "%s went back from incarnation %llu to %llu",
                       world->host[peer].name, (unsigned long long)seen->incarnation,
                       (unsigned long long)incarnation);
    }
    /* After a day the tombstone may be gone, and with it what the incarnation must exceed. */
    if (seen->state == MESH_DOWN && world->now_us < 1000 * MESH_TOMBSTONE_MS &&
        (state == MESH_UP || state == MESH_SUSPECT) && incarnation <= seen->incarnation) {
        sim_check_fail(world, host, SIM_DOWN_STAYS_DOWN, "%s went from down to %s with incarnation %llu",
                       world->host[peer].name, sim_trace_state(state), (unsigned long long)incarnation);
    }
    if (seen->state == MESH_REVOKED && state != MESH_REVOKED) {
        sim_check_fail(world, host, SIM_DOWN_STAYS_DOWN, "%s was revoked and is %s", world->host[peer].name,
                       sim_trace_state(state));
    }
    seen->state = (uint32_t)state & 15;
    seen->incarnation = (uint32_t)incarnation;
    const struct host *const subject = &world->host[peer];
    const bool late = world->healed && world->now_us > world->heal_at_us + ONE_VIEW_US && subject->alive &&
                      !subject->revoked && !host->revoked && !subject->leaving;
    if (late && (state == MESH_SUSPECT || state == MESH_DOWN)) {
        sim_check_fail(world, host, SIM_NOBODY_FALSELY_DOWN, "%s, which lives, became %s", subject->name,
                       sim_trace_state(state));
    }
}

void sim_check_step(struct world *world, struct host *host, const struct mesh_event *event)
{
    for (uint32_t i = 0; i < world->out->effect_count; i++) {
        if (world->out->effect[i].kind == MESH_MEMBER) {
            check_member(world, host, &world->out->effect[i]);
        }
    }
    check_executor(world, host);
    sim_truth_step(world, host, world->out);
    const bool whole = host->steps_to_check-- == 0;
    sim_oracle_step(world, host, event, world->out, whole);
    if (whole) {
        host->steps_to_check = world->check_every - 1;
        check_jobs(world, host);
        mesh_check(host->mesh);
    }
}

/* No two member records of one identity, over all lives, clones and disks that forgot, claim one place in its order. */
static void check_place(struct world *world, struct host *host, const struct mesh_record *record)
{
    struct host *const identity = &world->host[host->identity];
    for (uint32_t i = 0; i < identity->place_count; i++) {
        if (identity->place[i].incarnation == record->incarnation &&
            identity->place[i].version == record->version) {
            sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "a second member record (%llu, %llu)",
                           (unsigned long long)record->incarnation, (unsigned long long)record->version);
        }
    }
    if ((identity->place_count & (identity->place_count - 1)) == 0) {
        const size_t room = identity->place_count != 0 ? 2 * (size_t)identity->place_count : 8;
        identity->place = sim_grow(identity->place, room, sizeof *identity->place);
    }
    identity->place[identity->place_count++] =
        (struct place){.incarnation = record->incarnation, .version = record->version};
}

/* Signed is announced: what it rests on must be durable, and it must go beyond all that was signed before. */
void sim_check_signed(struct world *world, struct host *host, const struct mesh_record *record)
{
    if (memcmp(&record->origin, &host->id, sizeof host->id) != 0) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "a record of somebody else was to be signed");
    }
    if (record->incarnation > host->disk.incarnation) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "incarnation %llu is announced; durable is %llu",
                       (unsigned long long)record->incarnation, (unsigned long long)host->disk.incarnation);
    }
    if (record->kind != MESH_RECORD_MEMBER) {
        return;
    }
    if (record->incarnation < host->signed_incarnation ||
        (record->incarnation == host->signed_incarnation && record->version <= host->signed_version)) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "member record (%llu, %llu) after (%llu, %llu)",
                       (unsigned long long)record->incarnation, (unsigned long long)record->version,
                       (unsigned long long)host->signed_incarnation,
                       (unsigned long long)host->signed_version);
    }
    host->signed_incarnation = record->incarnation;
    host->signed_version = record->version;
    check_place(world, host, record);
}

/* ---- Liveness, once a second. */

static bool host_in_mesh(const struct host *host)
{
    return host->alive && !host->revoked && !host->leaving;
}

static bool check_view(struct world *world, struct host *host, const struct host *peer)
{
    enum mesh_member_state state = (enum mesh_member_state)sim_known_see(&host->known, peer->index).state;
    if (host_in_mesh(peer) && sim_world_plant(world, SIM_PLANT_LATE_ACCUSER)) {
        state = MESH_DOWN;
    }
    if (!host_in_mesh(peer) && sim_world_plant(world, SIM_PLANT_GHOST)) {
        state = MESH_UP;
    }
    if (host_in_mesh(peer) && state != MESH_UP) {
        sim_check_fail(world, host, SIM_VIEWS_AGREE, "%s lives and is seen as %s", peer->name,
                       sim_trace_state(state));
    } else if (!host_in_mesh(peer) && (state == MESH_UP || state == MESH_SUSPECT) &&
               !sim_drill_just_revoked(world, peer)) {
        sim_check_fail(world, host, SIM_VIEWS_AGREE, "%s is gone and is seen as %s", peer->name,
                       sim_trace_state(state));
    }
    return !world->failed;
}

static int by_site(const void *left, const void *right)
{
    const struct host *const a = *(struct host *const *)left;
    const struct host *const b = *(struct host *const *)right;
    return a->site != b->site ? (a->site > b->site) - (a->site < b->site)
                              : (a->index > b->index) - (a->index < b->index);
}

/* Everybody that a host ought to know is of its site or of the upper tier; sites are looked at one by one. */
static void check_views(struct world *world)
{
    const uint32_t count = world->host_count;
    struct host **const host = sim_alloc(count, sizeof(struct host *));
    struct host **const upper = sim_alloc(count, sizeof(struct host *));
    uint32_t uppers = 0;
    for (uint32_t i = 0; i < count; i++) {
        host[i] = &world->host[i];
        if (!host[i]->interior) {
            upper[uppers++] = host[i];
        }
    }
    qsort(host, count, sizeof(struct host *), by_site);
    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first; end < count && host[end]->site == host[first]->site; end++) {
        }
        for (uint32_t i = first; i < end && !world->failed; i++) {
            for (uint32_t j = first; j < end && host_in_mesh(host[i]); j++) {
                if (j != i && !check_view(world, host[i], host[j])) {
                    break;
                }
            }
        }
    }
    for (uint32_t i = 0; i < uppers && !world->failed; i++) {
        for (uint32_t j = 0; j < uppers && host_in_mesh(upper[i]); j++) {
            if (upper[j]->site != upper[i]->site && !check_view(world, upper[i], upper[j])) {
                break;
            }
        }
    }
    free(host);
    free(upper);
    world->views_changed = false;
}

static bool host_could_run(const struct host *home, const struct sim_job *job, const struct host *host)
{
    if (!sim_host_affordable(host, job)) {
        return false;
    }
    if (sim_disk_quarantines(home, host->identity) || mesh_doubted(home->mesh, &job->spec.id, &host->id)) {
        return false;
    }
    if (!host_in_mesh(host) || host->draining || (job->spec.local_only && host->site != home->site)) {
        return false;
    }
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        if ((job->spec.classes >> i & 1) != 0 && host->lent[i] != 0) {
            return true;
        }
    }
    return false;
}

/* Every bundle has at least one assigned shard, so a home with fewer of these than bundles can still bind some. */
static bool at_bundle_bound(const struct host *home)
{
    struct mesh_job_view view;
    uint32_t assigned = 0;
    for (uint32_t i = 0; mesh_job_view(home->mesh, i, &view); i++) {
        assigned += view.assigned + view.checks;
    }
    return assigned >= home->limits.bundles;
}

/* Jobs with queued shards whose homes could bind some, of which there are few. */
struct waiting {
    const struct host *home;
    uint32_t job;
};

static struct waiting *find_waiting(struct world *world, uint32_t *count)
{
    struct waiting *waiting = NULL;
    uint32_t room = 0;
    *count = 0;
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const home = &world->host[i];
        struct mesh_job_view view;
        if (!host_in_mesh(home) || !mesh_job_view(home->mesh, 0, &view) || at_bundle_bound(home)) {
            continue;
        }
        for (uint32_t j = 0; mesh_job_view(home->mesh, j, &view); j++) {
            const uint32_t number = sim_world_job(world, &view.id);
            /* Too few copies of its journal answer: nothing is begun that could not be settled. */
            const bool stalled =
                view.stalled || !world->job[number].acknowledged ||
                world->job[number].spec.verify == MESH_VERIFY_QUORUM; /* which checks bound */
            if (view.state != MESH_JOB_RUNNING || view.queued == 0 || stalled || view.bind_in_ms > 0) {
                continue;
            }
            if (*count == room) {
                room = room != 0 ? room * 2 : 16;
                waiting = sim_grow(waiting, room, sizeof *waiting);
            }
            waiting[(*count)++] = (struct waiting){.home = home, .job = number};
        }
    }
    return waiting;
}

/* One of them that this host could do now on one of the classes in `free`, or SIM_NONE. */
static uint32_t queued_for(const struct world *world, const struct waiting *waiting, uint32_t count,
                           const struct host *host, uint16_t free)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct sim_job *const job = &world->job[waiting[i].job];
        if ((job->spec.classes & free) != 0 && host_could_run(waiting[i].home, job, host)) {
            return waiting[i].job;
        }
    }
    return SIM_NONE;
}

static void check_idle(struct world *world, const struct waiting *waiting, uint32_t count, struct host *host)
{
    struct mesh_executor_view view;
    mesh_executor_view(host->mesh, &view);
    uint16_t free = 0;
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        uint32_t running = 0;
        for (uint32_t j = 0; j < host->attempt_count; j++) {
            running += host->attempt[j].used && host->attempt[j].started && host->attempt[j].class == i;
        }
        if (running < host->lent[i]) {
            free = (uint16_t)(free | 1u << i);
        }
    }
    /* Results of stalled jobs are kept, and may fill its table. */
    if (view.running + view.waiting + view.granted + view.unacked >= host->limits.attempts) {
        free = 0;
    }
    const uint32_t job = free != 0 ? queued_for(world, waiting, count, host, free) : SIM_NONE;
    if (job == SIM_NONE) {
        host->idle_since_us = -1;
    } else if (host->idle_since_us < 0) {
        host->idle_since_us = world->now_us;
    } else if (world->now_us - host->idle_since_us > IDLE_US) {
        sim_check_fail(world, host, SIM_NO_IDLE_DEVICE,
                       "a slot of classes %x was free for %lld s while shards waited, now of job %u of %s",
                       free, (long long)((world->now_us - host->idle_since_us) / SECOND_US), job,
                       world->host[world->job[job].home].name);
    }
}

/* ---- What is sent. */

static bool is_word(enum mesh_message_kind kind)
{
    return kind == MESH_PUSH || kind == MESH_SUMMARY || kind == MESH_ENTRIES || kind == MESH_WANT ||
           (kind >= MESH_SPREAD && kind <= MESH_PRUNE);
}

/* The spell that it is now, or NULL. */
static struct spell *spell_now(struct world *world)
{
    const int64_t first_us = world->plan->count != 0 ? world->plan->fault[0].at_us : world->heal_at_us;
    if (world->now_us >= JOINED_US && world->now_us < first_us) {
        return &world->before;
    }
    return world->healed && world->now_us >= world->end_us - REST_US ? &world->after : NULL;
}

void sim_check_sent(struct world *world, const struct flight *flight)
{
    struct spell *const spell = spell_now(world);
    if (spell != NULL) {
        spell->words += is_word(flight->message->kind);
        spell->messages++;
    }
}

static void count_nodes(struct world *world)
{
    struct spell *const spell = spell_now(world);
    for (uint32_t i = 0; spell != NULL && i < world->host_count; i++) {
        spell->node_seconds += world->host[i].alive;
    }
}

/* What keeps every capacity known, per node and 1,000 s: in the first spell there is none of it yet. */
static uint64_t keeping_known(const struct world *world)
{
    uint64_t each = KNOWN_BY_TREE;
    for (uint32_t i = 0; i < world->host_count; i++) {
        if (sim_host_program(world, &world->host[i]) < mesh_message_since(MESH_SPREAD)) {
            each = KNOWN_BY_FLOOD;
        }
    }
    return each * world->host_count;
}

static void check_quiet(struct world *world)
{
    const struct spell *const before = &world->before;
    const struct spell *const after = &world->after;
    if (before->node_seconds == 0 || after->node_seconds == 0) {
        return;
    }
    const uint64_t known = keeping_known(world);
    const struct {
        const char *what;
        uint64_t before;
        uint64_t after;
        uint64_t more;
    } rates[] = {
        {"words of gossip", before->words, after->words, WORDS_MORE},
        {"messages", before->messages, after->messages, MESSAGES_MORE},
    };
    for (uint32_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        const uint64_t was = rates[i].before * 1000 / before->node_seconds;
        const uint64_t is = rates[i].after * 1000 / after->node_seconds;
        if (is > was + rates[i].more + known) {
            sim_check_fail(world, NULL, SIM_QUIET_AGAIN,
                           "each node sends %llu %s in 1,000 s at rest, and sent %llu before the first fault",
                           (unsigned long long)is, rates[i].what, (unsigned long long)was);
        }
    }
}

void sim_check_survey(struct world *world)
{
    count_nodes(world);
    if (!world->healed) {
        return;
    }
    const int64_t since_us = world->now_us - world->heal_at_us - ONE_VIEW_US;
    if (since_us > 0 && (world->views_changed || since_us <= SECOND_US)) {
        check_views(world);
    }
    sim_drill_survey(world);
    if (world->now_us < world->heal_at_us + 20 * SECOND_US) {
        return;
    }
    uint32_t count = 0;
    struct waiting *const waiting = find_waiting(world, &count);
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        if (count == 0) {
            world->host[i].idle_since_us = -1;
        } else if (host_in_mesh(&world->host[i])) {
            check_idle(world, waiting, count, &world->host[i]);
        }
    }
    free(waiting);
}

/* ---- At the end. */

bool sim_check_can_run(const struct world *world, const struct sim_job *job)
{
    const uint32_t sites_needed = job->spec.verify == MESH_VERIFY_QUORUM ? QUORUM_SITES : 1;
    uint64_t site[QUORUM_SITES];
    uint32_t sites = 0;
    for (uint32_t i = 0; i < world->host_count && sites < sites_needed; i++) {
        const struct host *const host = &world->host[i];
        bool met = false;
        for (uint32_t j = 0; j < sites; j++) {
            met = met || site[j] == host->site;
        }
        if (!met && host_could_run(&world->host[job->home], job, host)) {
            site[sites++] = host->site;
        }
    }
    return sites == sites_needed;
}

static void check_job_end(struct world *world, uint32_t number)
{
    const struct sim_job *const job = &world->job[number];
    struct host *const home = &world->host[job->home];
    struct disk_job *const saved = sim_disk_find(home, number);
    if (job->truth != NULL) {
        sim_truth_end(world, number);
        return;
    }
    if (job->forgone && saved == NULL) {
        return;
    }
    if (job->acknowledged && saved == NULL) {
        sim_check_fail(world, home, SIM_ACKED_IS_DURABLE,
                       "job %u was acknowledged and isn't on its home's disk", number);
        return;
    }
    if (saved == NULL || !host_in_mesh(home) || saved->state != MESH_JOB_RUNNING ||
        !sim_check_can_run(world, job)) {
        return;
    }
    struct mesh_job_view view = {0};
    mesh_job_find(home->mesh, &job->spec.id, &view);
    sim_check_fail(world, home, SIM_JOBS_FINISH,
                   "job %u isn't finished: %u of %u committed, %u looked up, %u queued, %u assigned", number,
                   saved->committed_count, job->spec.shard_count, view.looking_up, view.queued,
                   view.assigned);
}

/* How many live handles stand for a record by the same origin about the same thing as handle `index` does. */
static uint32_t handles_alike(const struct handles *handles, uint32_t index)
{
    const struct payload *const one = handles->payload[index];
    if (one == NULL || one->kind != PAYLOAD_RECORD || one->record.kind == MESH_RECORD_REVOCATION) {
        return 0;
    }
    uint32_t alike = 0;
    for (uint32_t i = 0; i < handles->count; i++) {
        const struct payload *const other = handles->payload[i];
        if (other == NULL || other->kind != PAYLOAD_RECORD || other->record.kind != one->record.kind ||
            memcmp(&other->record.origin, &one->record.origin, sizeof one->record.origin) != 0) {
            continue;
        }
        alike += one->record.kind != MESH_RECORD_ALERT ||
                 memcmp(&other->record.body.alert.subject, &one->record.body.alert.subject,
                        sizeof one->record.origin) == 0;
    }
    return alike;
}

/* A record of somebody who is no member (any more), or whom the core can't have a use for: alerts at rest. */
static bool is_stray(const struct host *host, const struct payload *payload)
{
    if (payload == NULL || payload->kind != PAYLOAD_RECORD ||
        payload->record.kind == MESH_RECORD_REVOCATION) {
        return false;
    }
    struct mesh_member_view view;
    return payload->record.kind == MESH_RECORD_ALERT ||
           !mesh_member_find(host->mesh, &payload->record.origin, &view);
}

static void check_handles(struct world *world, struct host *host)
{
    struct mesh_executor_view view;
    mesh_executor_view(host->mesh, &view);
    struct mesh_job_view job;
    const bool working =
        view.running + view.waiting + view.unacked != 0 || mesh_job_view(host->mesh, 0, &job);
    for (uint32_t i = 0; i < host->handles.count; i++) {
        const struct payload *const payload = host->handles.payload[i];
        if (payload == NULL) {
            continue;
        }
        if (payload->kind != PAYLOAD_RECORD && !working) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "at rest it still holds a payload of job %u",
                           payload->job);
            return;
        }
    }
    for (uint32_t i = 0; i < host->handles.count; i++) {
        if (is_stray(host, host->handles.payload[i])) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "it holds a record that it has no use for");
            return;
        }
        if (handles_alike(&host->handles, i) > RECORDS_ALIKE_MAX) {
            const struct payload *const payload = host->handles.payload[i];
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "it holds record kind %d of %s more than once",
                           (int)payload->record.kind,
                           world->host[sim_world_identity(world, &payload->record.origin)].name);
            return;
        }
    }
}

static void check_quarantined(struct world *world, struct host *host)
{
    struct mesh_id id;
    uint32_t count = 0;
    for (; mesh_quarantined(host->mesh, count, &id); count++) {
        if (!sim_disk_quarantines(host, sim_world_identity(world, &id))) {
            sim_check_fail(world, host, SIM_WRONG_IS_CAUGHT, "it quarantines one that its disk doesn't");
        }
    }
    if (count != host->disk.quarantined_count) {
        sim_check_fail(world, host, SIM_WRONG_IS_CAUGHT, "%u are quarantined, %u on its disk", count,
                       host->disk.quarantined_count);
    }
}

/* One that was ever counted down is beyond all that a run can count, microseconds among it. */
static void check_counters(struct world *world, const struct host *host)
{
    struct mesh_counters counters = *mesh_counters(host->mesh);
    if (world->options.plant == SIM_PLANT_COUNTS_DOWN) {
        counters.records_new = -counters.records_new;
    }
#define GROWS(name)                                                                                          \
    if (counters.name > INT64_MAX) {                                                                         \
        sim_check_fail(world, host, SIM_COUNTERS_GROW, "%s went below zero", #name);                         \
    }
    MESH_COUNTERS(GROWS)
#undef GROWS
}

void sim_check_end(struct world *world)
{
    check_views(world);
    for (uint32_t i = 0; i < world->job_count && !world->failed; i++) {
        if (!world->job[i].refused) {
            check_job_end(world, i);
        }
    }
    if (!world->failed) {
        check_quiet(world);
    }
    for (uint32_t i = 0; i < world->host_count && !world->failed; i++) {
        struct host *const host = &world->host[i];
        if (host->alive) {
            mesh_check(host->mesh);
            check_handles(world, host);
            if (host->first_batch == NULL) {
                check_quarantined(world, host);
            }
            check_counters(world, host);
        }
    }
}
