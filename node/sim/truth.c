/*
 * What is true of each journal of several copies, whoever says what: who wrote which entry, which members' disks ever
 * held it, who voted for whom, and the one log that is agreed on. It is fed with what cores put out and what becomes
 * durable, and holds them to these, at each step:
 *
 *     an epoch has one home, and a member votes once in it, durably, before it says so;
 *     what a home says or shows to be settled was durable at a majority, and is the same for every home that comes after;
 *     a shard is committed once in what is settled, and nothing follows the end but takeovers;
 *     an executor is let go only when its results are settled, a user is told only what is.
 *
 * A disk that is wiped, rolled back or rotten forgets what it held and promised. A journal that this happened to is
 * `harmed`; if one of these is then broken the job is forgone, counted by the reason, and nothing more is claimed of it.
 */
#include "node/sim/world.h"

#include <stdarg.h>
#include <stdio.h>

/* Nodes that ever keep one job's journal. */
#define KEEPERS_MAX 32

struct truth_entry {
    uint32_t index;
    uint64_t epoch;
    enum mesh_entry_kind kind;
    struct payload *payload;
    struct mesh_bundle_name name; /* COMMIT: whose result it is */
    uint32_t held;                /* bit per keeper: its disk has held it */
    uint32_t next;                /* another one of that index: number + 1 */
};

struct vote {
    uint64_t epoch;
    uint32_t member;
    uint32_t candidate;
};

struct reign {
    uint64_t epoch;
    uint32_t host;
};

/* A node that is or was a member. */
struct keeper {
    uint32_t host;
    uint64_t whole_since; /* the incarnation that its disk had when it last forgot something, + 1 */
};

/* Members by an entry of the log. */
struct set {
    uint32_t index;
    uint64_t epoch;
    struct mesh_members members;
};

struct truth {
    struct keeper keeper[KEEPERS_MAX];
    uint32_t keepers;
    struct set *set;
    uint32_t set_count;
    struct truth_entry *entry;
    uint32_t entry_count;
    uint32_t *of_index; /* by index - 1: the newest of them, number + 1 */
    uint32_t index_count;
    uint32_t *agreed; /* by index - 1: what is settled there, number in `entry` */
    uint32_t settled;
    uint8_t *committed; /* bit per shard, by what is settled */
    enum mesh_job_state state;
    bool withdrawn; /* cancelled before anybody was told of it: nobody may go on with it */
    struct vote *vote;
    uint32_t vote_count;
    struct reign *reign;
    uint32_t reign_count;
    enum sim_harm harm;
    uint32_t harmed; /* bit per keeper */
};

static struct truth *truth_of(const struct world *world, uint32_t job)
{
    return job < world->job_count && !world->job[job].forgone ? world->job[job].truth : NULL;
}

static uint32_t member_of(const struct truth *truth, uint32_t host)
{
    for (uint32_t i = 0; i < truth->keepers; i++) {
        if (truth->keeper[i].host == host) {
            return i;
        }
    }
    return SIM_NONE;
}

/* Of an even number half will do where the others' disks have forgotten it. */
static bool is_enough(uint32_t size, uint32_t has, uint32_t lost)
{
    return 2 * has > size || (2 * has == size && has + lost == size);
}

/* Whether those are a majority of the set, or of both while one member is replaced: bits by the members' places. */
static bool is_majority_in(const struct mesh_members *members, uint32_t have, uint32_t are_lost)
{
    uint32_t size[2] = {0};
    uint32_t has[2] = {0};
    uint32_t lost[2] = {0};
    for (uint32_t i = 0; i < members->count; i++) {
        for (uint32_t after = 0; after < 2; after++) {
            if (i + 1 != (after ? members->leaving : members->joining)) {
                size[after]++;
                has[after] += have >> i & 1;
                lost[after] += are_lost >> i & 1;
            }
        }
    }
    return is_enough(size[0], has[0], lost[0]) && is_enough(size[1], has[1], lost[1]);
}

/* Its disk forgot something else, or this before any of it came there: no home counts that copy any more. */
static bool is_given_up(const struct world *world, const struct truth *truth, uint32_t keeper,
                        uint64_t chosen)
{
    return world->host[truth->keeper[keeper].host].disk.storage > chosen;
}

/* Whether those whose disks have held it are a majority. */
static bool is_majority_of(const struct world *world, const struct truth *truth,
                           const struct mesh_members *members, uint32_t held)
{
    uint32_t have = 0;
    uint32_t lost = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t keeper = member_of(truth, sim_world_identity(world, &members->id[i]));
        const uint64_t chosen = members->storage[i];
        const bool forgot = chosen < truth->keeper[keeper].whole_since;
        const bool holds = !forgot && (held >> keeper & 1);
        have |= (uint32_t)holds << i;
        lost |= (uint32_t)(forgot || (is_given_up(world, truth, keeper, chosen) && !holds)) << i;
    }
    return is_majority_in(members, have, lost);
}

/* By some set that counted at some time: the home goes by the latest in its own log. */
static bool is_majority(const struct world *world, const struct truth *truth, uint32_t held)
{
    for (uint32_t i = truth->set_count; i-- > 0;) {
        if (is_majority_of(world, truth, &truth->set[i].members, held)) {
            return true;
        }
    }
    return false;
}

/* At most one disk of the three or more that keep it now has forgotten anything: that alone should lose nothing. */
static bool one_disk_alone(const struct truth *truth)
{
    return (truth->harmed & (truth->harmed - 1)) == 0 && truth->harm != SIM_HARM_CLONED &&
           truth->set[truth->set_count - 1].members.count >= 3;
}

static void forgo(struct world *world, struct sim_job *job)
{
    struct sim_counters *const count = &world->result->world;
    job->forgone = true;
    count->jobs_forgone++;
    count->forgone_one_disk += one_disk_alone(job->truth);
    count->forgone_wiped += job->truth->harm == SIM_HARM_WIPED;
    count->forgone_rolled_back += job->truth->harm == SIM_HARM_ROLLED_BACK;
    count->forgone_rotten += job->truth->harm == SIM_HARM_ROTTEN;
    count->forgone_cloned += job->truth->harm == SIM_HARM_CLONED;
}

/* Of a process and its clone nobody can tell which of them holds what was said to be held. */
static void note_clones(struct world *world, struct truth *truth)
{
    for (uint32_t i = 0; world->doubles != 0 && i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        const uint32_t member =
            host->identity != i && host->alive ? member_of(truth, host->identity) : SIM_NONE;
        if (member != SIM_NONE) {
            truth->harmed |= 1u << member;
            truth->harm = SIM_HARM_CLONED;
        }
    }
}

void sim_truth_broken(struct world *world, const struct host *host, uint32_t job, enum sim_claim claim,
                      const char *format, ...)
{
    if (world->job[job].forgone) {
        return;
    }
    if (world->job[job].truth != NULL && world->job[job].truth->harmed != 0) {
        forgo(world, &world->job[job]);
        return;
    }
    char words[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    sim_check_fail(world, host, claim, "job %u: %s", job, words);
}

static struct truth_entry *entry_find(const struct truth *truth, uint32_t index, uint64_t epoch)
{
    if (index == 0 || index > truth->index_count) {
        return NULL;
    }
    for (uint32_t at = truth->of_index[index - 1]; at != 0; at = truth->entry[at - 1].next) {
        if (truth->entry[at - 1].epoch == epoch) {
            return &truth->entry[at - 1];
        }
    }
    return NULL;
}

/* ---- What homes write. */

static struct truth *truth_begin(struct world *world, uint32_t job)
{
    struct truth *const truth = sim_alloc(1, sizeof *truth);
    truth->committed = sim_alloc((world->job[job].spec.shard_count + 7) / 8, 1);
    truth->state = MESH_JOB_RUNNING;
    world->job[job].truth = truth;
    return truth;
}

static void set_add(struct world *world, struct truth *truth, const struct mesh_place *place,
                    const struct mesh_members *members)
{
    truth->set = sim_grow(truth->set, truth->set_count + 1, sizeof *truth->set);
    truth->set[truth->set_count++] =
        (struct set){.index = place->index, .epoch = place->entry_epoch, .members = *members};
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t host = sim_world_identity(world, &members->id[i]);
        if (member_of(truth, host) == SIM_NONE && truth->keepers < KEEPERS_MAX) {
            truth->keeper[truth->keepers++] = (struct keeper){.host = host};
        }
    }
}

static void reign_over(struct world *world, const struct host *host, uint32_t job, uint64_t epoch)
{
    struct truth *const truth = world->job[job].truth;
    for (uint32_t i = 0; i < truth->reign_count; i++) {
        if (truth->reign[i].epoch == epoch) {
            if (truth->reign[i].host != host->index) {
                sim_truth_broken(world, host, job, SIM_EPOCHS_GROW, "it reigns in epoch %llu, as %s does",
                                 (unsigned long long)epoch, world->host[truth->reign[i].host].name);
            }
            return;
        }
    }
    truth->reign = sim_grow(truth->reign, truth->reign_count + 1, sizeof *truth->reign);
    truth->reign[truth->reign_count++] = (struct reign){.epoch = epoch, .host = host->index};
}

static struct mesh_bundle_name name_of(const struct mesh_event *event)
{
    const bool result = event->kind == MESH_RECEIVED && event->body.received.message->kind == MESH_RESULT;
    return result ? event->body.received.message->body.result.name : (struct mesh_bundle_name){0};
}

void sim_truth_written(struct world *world, struct host *host, const struct mesh_save *save,
                       struct payload *payload)
{
    const struct mesh_place *const place = sim_journal_place(save);
    const uint32_t job = sim_world_job(world, sim_journal_job(save));
    if (place == NULL || job == SIM_NONE || (save->kind == MESH_SAVE_ENTRY && !save->body.entry.own)) {
        return;
    }
    struct truth *truth = truth_of(world, job);
    if (truth == NULL && save->kind == MESH_SAVE_JOB && !world->job[job].forgone) {
        truth = truth_begin(world, job);
    }
    if (truth == NULL) {
        return;
    }
    if (save->kind == MESH_SAVE_JOB) {
        set_add(world, truth, place, &save->body.job.members);
    } else if (save->kind == MESH_SAVE_ENTRY && save->body.entry.members.count != 0) {
        set_add(world, truth, place, &save->body.entry.members);
    }
    note_clones(world, truth);
    reign_over(world, host, job, place->entry_epoch);
    if (entry_find(truth, place->index, place->entry_epoch) != NULL) {
        sim_truth_broken(world, host, job, SIM_EPOCHS_GROW, "entry %u of epoch %llu is written a second time",
                         place->index, (unsigned long long)place->entry_epoch);
        return;
    }
    if (place->index > truth->index_count) {
        truth->of_index = sim_grow(truth->of_index, place->index, sizeof *truth->of_index);
        truth->agreed = sim_grow(truth->agreed, place->index, sizeof *truth->agreed);
        for (; truth->index_count < place->index; truth->index_count++) {
            truth->of_index[truth->index_count] = 0;
        }
    }
    truth->entry = sim_grow(truth->entry, truth->entry_count + 1, sizeof *truth->entry);
    truth->entry[truth->entry_count] =
        (struct truth_entry){.index = place->index,
                             .epoch = place->entry_epoch,
                             .kind = sim_journal_kind(save),
                             .payload = payload != NULL ? sim_payload_keep(payload) : NULL,
                             .name = name_of(host->event),
                             .next = truth->of_index[place->index - 1]};
    truth->of_index[place->index - 1] = ++truth->entry_count;
    if (place->settled != 0) {
        sim_truth_settled(world, host, job, place->settled);
    }
}

/* ---- What disks hold. */

void sim_truth_held(struct world *world, struct host *host, uint32_t job, uint32_t index,
                    const struct disk_entry *entry)
{
    struct truth *const truth = truth_of(world, job);
    const uint32_t member = truth != NULL ? member_of(truth, host->index) : SIM_NONE;
    if (member == SIM_NONE) {
        return; /* or a clone's */
    }
    struct truth_entry *const written = entry_find(truth, index, entry->epoch);
    if (written == NULL || written->kind != entry->kind ||
        !sim_journal_same(written->payload, entry->payload)) {
        sim_truth_broken(world, host, job, SIM_COMMIT_IS_FINAL,
                         "entry %u of epoch %llu is saved, which no home wrote", index,
                         (unsigned long long)entry->epoch);
        return;
    }
    written->held |= 1u << member;
}

void sim_truth_cut(struct world *world, struct host *host, uint32_t job, uint32_t last)
{
    const struct truth *const truth = truth_of(world, job);
    const struct disk_log *const log = sim_disk_find(host, job)->log;
    if (truth == NULL || member_of(truth, host->index) == SIM_NONE) {
        return;
    }
    world->result->world.tails_cut++;
    for (uint32_t index = last + 1; index <= log->last && index <= truth->settled; index++) {
        if (truth->entry[truth->agreed[index - 1]].epoch == log->entry[index - 1].epoch) {
            sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE, "entry %u is settled and is cut away",
                             index);
            return;
        }
    }
}

void sim_truth_promised(struct world *world, struct host *host, uint32_t job, uint64_t epoch,
                        const struct mesh_id *candidate)
{
    struct truth *const truth = truth_of(world, job);
    const uint32_t member = truth != NULL ? member_of(truth, host->index) : SIM_NONE;
    const uint32_t whom = sim_world_identity(world, candidate);
    if (member == SIM_NONE || whom == SIM_NONE) {
        return; /* or it follows the home of that epoch, and votes for nobody */
    }
    for (uint32_t i = 0; i < truth->vote_count; i++) {
        const struct vote *const vote = &truth->vote[i];
        if (vote->member == member && vote->epoch == epoch) {
            if (vote->candidate != whom) {
                sim_truth_broken(
                    world, host, job, SIM_EPOCHS_GROW, "it votes for %s and for %s in epoch %llu",
                    world->host[vote->candidate].name, world->host[whom].name, (unsigned long long)epoch);
            }
            return;
        }
    }
    truth->vote = sim_grow(truth->vote, truth->vote_count + 1, sizeof *truth->vote);
    truth->vote[truth->vote_count++] = (struct vote){.epoch = epoch, .member = member, .candidate = whom};
}

/* ---- What is settled. */

/* A job is done when all its shards are committed. */
static void check_whole(struct world *world, struct host *host, uint32_t job, const struct truth *truth)
{
    uint32_t committed = 0;
    for (uint32_t shard = 0; shard < world->job[job].spec.shard_count; shard++) {
        committed += bit_get(truth->committed, shard);
    }
    if (truth->state == MESH_JOB_DONE && committed != world->job[job].spec.shard_count) {
        sim_truth_broken(world, host, job, SIM_SHARDS_ADD_UP, "it is done with %u of %u shards committed",
                         committed, world->job[job].spec.shard_count);
    }
}

static void agree(struct world *world, struct host *host, uint32_t job, struct truth *truth, uint32_t index,
                  uint64_t epoch)
{
    const struct truth_entry *const entry = entry_find(truth, index, epoch);
    if (entry == NULL || !is_majority(world, truth, entry->held)) {
        sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                         "entry %u of epoch %llu counts as settled and no majority ever held it", index,
                         (unsigned long long)epoch);
        return;
    }
    if (index > 1 && truth->entry[truth->agreed[index - 2]].epoch > epoch) {
        sim_truth_broken(world, host, job, SIM_EPOCHS_GROW,
                         "entry %u of epoch %llu is settled behind a later epoch's", index,
                         (unsigned long long)epoch);
        return;
    }
    if (truth->state != MESH_JOB_RUNNING &&
        (entry->kind == MESH_ENTRY_COMMIT || entry->kind == MESH_ENTRY_END)) {
        sim_truth_broken(world, host, job, SIM_COMMIT_IS_FINAL, "entry %u is settled behind the job's end",
                         index);
        return;
    }
    for (uint32_t i = 1; entry->kind == MESH_ENTRY_COMMIT && i < entry->payload->count; i += 2) {
        const uint32_t shard = (uint32_t)entry->payload->value[i];
        if (bit_get(truth->committed, shard)) {
            sim_truth_broken(world, host, job, SIM_COMMIT_IS_FINAL,
                             "shard %u is committed a second time, by entry %u", shard, index);
            return;
        }
        bit_set(truth->committed, shard);
    }
    if (truth->withdrawn && truth->state == MESH_JOB_RUNNING &&
        (entry->kind == MESH_ENTRY_COMMIT || entry->kind == MESH_ENTRY_TAKEOVER)) {
        sim_truth_broken(world, host, job, SIM_COMMIT_IS_FINAL,
                         "entry %u is settled, and the job was cancelled before anybody was told of it",
                         index);
        return;
    }
    if (entry->kind == MESH_ENTRY_END) {
        truth->state = (enum mesh_job_state)entry->payload->value[0];
        check_whole(world, host, job, truth);
    }
    truth->agreed[index - 1] = (uint32_t)(entry - truth->entry);
    truth->settled = index;
}

void sim_truth_settled(struct world *world, struct host *host, uint32_t job, uint32_t index)
{
    struct truth *const truth = truth_of(world, job);
    if (truth == NULL || member_of(truth, host->index) == SIM_NONE || index == 0) {
        return;
    }
    const struct mesh_id *const id = &world->job[job].spec.id;
    struct disk_entry entry;
    for (uint32_t at = index <= truth->settled ? index : truth->settled + 1;
         at <= index && !world->failed && truth_of(world, job) != NULL; at++) {
        if (!sim_journal_entry(host, job, id, at, &entry)) {
            sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                             "entry %u counts as settled and isn't here", at);
        } else if (at > truth->settled) {
            agree(world, host, job, truth, at, entry.epoch);
        } else if (truth->entry[truth->agreed[at - 1]].epoch != entry.epoch) {
            sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                             "entry %u, of epoch %llu, counts as settled; of epoch %llu it was", at,
                             (unsigned long long)entry.epoch,
                             (unsigned long long)truth->entry[truth->agreed[at - 1]].epoch);
        }
    }
}

/* A new home has all that was ever settled. */
static void check_takes_over(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const uint32_t job = sim_world_job(world, &effect->body.take_over.job);
    const struct disk_job *const saved = job != SIM_NONE ? sim_disk_find(host, job) : NULL;
    struct truth *const truth = truth_of(world, job);
    if (truth == NULL) {
        return;
    }
    const struct disk_log *const log = saved != NULL ? saved->log : NULL;
    for (uint32_t index = 1; index <= truth->settled; index++) {
        if (log == NULL || index > log->last ||
            log->entry[index - 1].epoch != truth->entry[truth->agreed[index - 1]].epoch) {
            sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                             "entry %u is settled, and who takes the job over lacks it", index);
            return;
        }
    }
    for (uint32_t i = 0; i < truth->entry_count; i++) {
        const struct truth_entry *const first = &truth->entry[i];
        if (first->kind == MESH_ENTRY_TAKEOVER && first->epoch == effect->body.take_over.epoch) {
            sim_truth_settled(world, host, job, first->index);
            return;
        }
    }
    sim_truth_broken(world, host, job, SIM_EPOCHS_GROW,
                     "it is taken over in epoch %llu, of which there is no entry",
                     (unsigned long long)effect->body.take_over.epoch);
}

void sim_truth_step(struct world *world, struct host *host, const struct mesh_out *out)
{
    if (host->identity != host->index) {
        return;
    }
    for (uint32_t i = 0; i < out->effect_count && !world->failed; i++) {
        if (out->effect[i].kind == MESH_TAKE_OVER) {
            check_takes_over(world, host, &out->effect[i]);
        }
    }
    for (uint32_t i = 0; i < out->send_count && !world->failed; i++) {
        const struct mesh_message *const message = &out->send[i].message;
        for (uint32_t j = 0; message->kind == MESH_BEAT && j < message->body.beat.count; j++) {
            sim_truth_settled(world, host, sim_world_job(world, &message->body.beat.journal[j].job),
                              message->body.beat.journal[j].settled);
        }
    }
}

/* ---- What is said. */

void sim_truth_sent(struct world *world, struct host *host, const struct flight *flight)
{
    const struct mesh_message *const message = flight->message;
    if ((message->kind != MESH_VOTED && message->kind != MESH_APPENDED) || host->identity != host->index) {
        return;
    }
    const struct mesh_id *const id =
        message->kind == MESH_VOTED ? &message->body.voted.job : &message->body.appended.job;
    const uint32_t job = sim_world_job(world, id);
    const struct truth *const truth = truth_of(world, job);
    const struct disk_job *const saved = truth != NULL ? sim_disk_find(host, job) : NULL;
    const struct disk_log *const log = saved != NULL ? saved->log : NULL;
    if (truth == NULL || member_of(truth, host->index) == SIM_NONE) {
        return;
    }
    if (message->kind == MESH_VOTED && message->body.voted.asks) {
        return; /* nothing is promised */
    }
    if (message->kind == MESH_VOTED && !message->body.voted.granted) {
        world->result->world.votes_refused++;
    } else if (message->kind == MESH_VOTED &&
               (log == NULL || log->promised != message->body.voted.epoch ||
                sim_world_identity(world, &log->voted) != world->host[flight->to].identity)) {
        sim_truth_broken(world, host, job, SIM_EPOCHS_GROW,
                         "it says that it voted for %s in epoch %llu; on its disk it didn't",
                         world->host[flight->to].name, (unsigned long long)message->body.voted.epoch);
    } else if (message->kind == MESH_APPENDED && message->body.appended.held &&
               message->body.appended.last != 0 && (log == NULL || log->last < message->body.appended.last)) {
        sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                         "it says that it holds entry %u; its disk has %u", message->body.appended.last,
                         log != NULL ? log->last : 0);
    }
}

/* What the home itself believes now. */
static void hear_home(struct world *world, struct host *home, uint32_t job)
{
    struct mesh_journal_view view;
    if (home->alive && home->identity == home->index &&
        mesh_journal_find(home->mesh, &world->job[job].spec.id, &view) && view.leads) {
        sim_truth_settled(world, home, job, view.settled);
    }
}

/* A home whose own disk had nothing of the job yet knows nothing of it once it has restarted, and wants no result of it. */
static bool knows_of(const struct world *world, const struct host *home, uint32_t job)
{
    struct mesh_journal_view view;
    return home->alive && mesh_journal_find(home->mesh, &world->job[job].spec.id, &view);
}

static uint64_t reign_of(const struct truth *truth, const struct host *home)
{
    uint64_t epoch = 0;
    for (uint32_t i = 0; i < truth->reign_count; i++) {
        if (truth->reign[i].host == home->index && truth->reign[i].epoch > epoch) {
            epoch = truth->reign[i].epoch;
        }
    }
    return epoch;
}

/* What came of a bundle's result: whether the shard is settled or was committed, or the bundle had been forgotten. */
void sim_truth_acked(struct world *world, struct host *host, struct host *home, uint32_t job, uint32_t shard,
                     const struct mesh_bundle_name *name)
{
    const struct truth *const truth = truth_of(world, job);
    if (truth == NULL || bit_get(truth->committed, shard)) {
        return;
    }
    hear_home(world, home, job);
    if (truth_of(world, job) == NULL || bit_get(truth->committed, shard)) {
        return;
    }
    const struct truth_entry *commit = NULL;
    for (uint32_t i = 0; i < truth->entry_count; i++) {
        const struct truth_entry *const entry = &truth->entry[i];
        const bool its = entry->kind == MESH_ENTRY_COMMIT && entry->epoch == reign_of(truth, home) &&
                         entry->payload->value[0] == host->index && entry->name.token == name->token &&
                         entry->name.index == name->index;
        if (entry->kind == MESH_ENTRY_END || (its && is_majority(world, truth, entry->held))) {
            return; /* or nobody wants it any more */
        }
        commit = its ? entry : commit;
    }
    const uint32_t keeper = member_of(truth, home->index);
    const bool had = commit != NULL && keeper != SIM_NONE && (commit->held >> keeper & 1);
    if (commit != NULL && (had || knows_of(world, home, job))) {
        sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                         "a result is acknowledged, and no majority holds entry %u that commits it",
                         commit->index);
        return;
    }
    world->result->world.results_thrown++;
}

/*
 * A job of two copies that is cancelled before its first entry is settled, and so before anybody was told of it, ends by the word of
 * its home alone: the other can't be its home without it.
 */
static bool is_withdrawn(const struct truth *truth, const struct truth_entry *end, const struct host *host)
{
    const uint32_t keeper = member_of(truth, host->index);
    return end->payload->value[0] == MESH_JOB_CANCELLED && end->epoch == 1 && truth->settled == 0 &&
           truth->set_count == 1 && truth->set[0].members.count == 2 && keeper != SIM_NONE &&
           (end->held >> keeper & 1);
}

void sim_truth_told(struct world *world, struct host *host, uint32_t job, enum mesh_job_state state)
{
    struct truth *const truth = truth_of(world, job);
    if (truth == NULL) {
        return;
    }
    if (state == MESH_JOB_RUNNING) {
        sim_truth_settled(world, host, job, 1);
        return;
    }
    for (uint32_t i = 0; i < truth->entry_count; i++) {
        const struct truth_entry *const entry = &truth->entry[i];
        if (entry->kind != MESH_ENTRY_END || entry->payload->value[0] != state) {
            continue;
        }
        if (is_withdrawn(truth, entry, host)) {
            world->result->world.withdrawn += !truth->withdrawn;
            truth->withdrawn = true;
            return;
        }
        if (is_majority(world, truth, entry->held)) {
            sim_truth_settled(world, host, job, entry->index);
            return;
        }
    }
    sim_truth_broken(world, host, job, SIM_ACKED_IS_DURABLE,
                     "its user is told that it is %s, and no majority holds that",
                     sim_trace_job_state(state));
}

/* ---- Harm. */

void sim_truth_harmed(struct world *world, const struct host *host, uint32_t job, enum sim_harm harm)
{
    struct truth *const truth = truth_of(world, job);
    const uint32_t keeper = truth != NULL ? member_of(truth, host->identity) : SIM_NONE;
    if (keeper == SIM_NONE) {
        return;
    }
    truth->harmed |= 1u << keeper;
    truth->harm = harm;
    truth->keeper[keeper].whole_since = host->signed_incarnation + 1;
    for (uint32_t i = 0; i < truth->entry_count; i++) {
        truth->entry[i].held &= ~(1u << keeper);
    }
}

void sim_truth_cloned(struct world *world)
{
    for (uint32_t i = 0; i < world->job_count; i++) {
        if (world->job[i].truth != NULL) {
            note_clones(world, world->job[i].truth);
        }
    }
}

static bool in_mesh(const struct host *host)
{
    return host->alive && !host->revoked && !host->leaving;
}

static bool all_in_mesh(const struct world *world, const struct mesh_members *members)
{
    for (uint32_t i = 0; i < members->count; i++) {
        if (!in_mesh(&world->host[sim_world_identity(world, &members->id[i])])) {
            return false;
        }
    }
    return true;
}

/*
 * A member whose table is full of journals of jobs that can't end takes no other: that is the bound. Of each of these it is
 * asked by itself why it hasn't ended. Journals of jobs that did end stay while one of their members is gone; and one of
 * which nothing ever came asks whether it is over every ten minutes only.
 */
static bool has_no_room(const struct world *world, const struct host *host)
{
    struct mesh_journal_view view;
    uint32_t used = 0;
    for (uint32_t i = 0; i < world->job_count; i++) {
        used += mesh_journal_find(host->mesh, &world->job[i].spec.id, &view) &&
                (!world->job[i].finished || view.last == 0 || !all_in_mesh(world, &view.members));
    }
    return used == host->limits.journals;
}

/* A member whose table, or room for shards, is taken by jobs that can't run anywhere can't be another's home. */
static bool can_be_home(const struct world *world, const struct host *host, const struct sim_job *job)
{
    struct mesh_job_view view;
    uint32_t stuck = 0;
    uint32_t shards = 0;
    for (uint32_t i = 0; mesh_job_view(host->mesh, i, &view); i++) {
        const struct sim_job *const other = &world->job[sim_world_job(world, &view.id)];
        if (other != job && view.state == MESH_JOB_RUNNING && !sim_check_can_run(world, other)) {
            stuck++;
            shards += view.shards;
        }
    }
    return stuck < host->limits.jobs && shards + job->spec.shard_count <= host->limits.shards;
}

/*
 * At the end. What a majority of the members that are left holds has come to its end, or can't run anywhere; what too few
 * are left of is forgone.
 */
void sim_truth_end(struct world *world, uint32_t number)
{
    struct sim_job *const job = &world->job[number];
    const struct truth *const truth = truth_of(world, number);
    if (truth == NULL || job->finished || truth->state != MESH_JOB_RUNNING) {
        return;
    }
    const struct mesh_members *const members = &truth->set[truth->set_count - 1].members;
    uint32_t left = 0;
    uint32_t hold = 0;
    uint32_t lost = 0;
    uint32_t full = 0;
    bool homeless = true;
    for (uint32_t i = 0; i < members->count; i++) {
        const uint32_t keeper = member_of(truth, sim_world_identity(world, &members->id[i]));
        struct host *const host = &world->host[truth->keeper[keeper].host];
        const struct disk_job *const saved = in_mesh(host) ? sim_disk_find(host, number) : NULL;
        const bool given_up = is_given_up(world, truth, keeper, members->storage[i]);
        const bool counts = in_mesh(host) && !given_up;
        const bool holds = counts && saved != NULL && saved->log != NULL && saved->log->last > 0;
        left |= (uint32_t)counts << i;
        hold |= (uint32_t)holds << i;
        lost |= (uint32_t)given_up << i;
        homeless = homeless && !(holds && can_be_home(world, host, job));
        full |= (uint32_t)(counts && !holds && has_no_room(world, host)) << i;
    }
    if (!is_majority_in(members, left & ~full, lost)) {
        world->result->world.forgone_minority += job->acknowledged;
        world->result->world.jobs_forgone += job->acknowledged;
        job->forgone = true;
    } else if (truth->harmed != 0 && !one_disk_alone(truth)) {
        forgo(world, job);
    } else if (is_majority_in(members, hold, lost) && !homeless && sim_check_can_run(world, job)) {
        uint32_t committed = 0;
        for (uint32_t shard = 0; shard < job->spec.shard_count; shard++) {
            committed += bit_get(truth->committed, shard);
        }
        sim_check_fail(world, &world->host[job->home], SIM_JOBS_FINISH,
                       "job %u isn't finished: %u of %u committed, %u entries settled, %u reigns", number,
                       committed, job->spec.shard_count, truth->settled, truth->reign_count);
    } else if (job->acknowledged && !is_majority_in(members, hold, lost)) {
        sim_check_fail(world, &world->host[job->home], SIM_ACKED_IS_DURABLE,
                       "job %u was acknowledged and is on too few disks", number);
    }
}

uint32_t sim_truth_failed_shard(const struct truth *truth)
{
    for (uint32_t i = truth->entry_count; i-- > 0;) {
        if (truth->entry[i].kind == MESH_ENTRY_END) {
            return (uint32_t)truth->entry[i].payload->value[1];
        }
    }
    return SIM_NONE;
}

void sim_truth_free(struct truth *truth)
{
    if (truth == NULL) {
        return;
    }
    for (uint32_t i = 0; i < truth->entry_count; i++) {
        sim_payload_drop(truth->entry[i].payload);
    }
    free(truth->entry);
    free(truth->of_index);
    free(truth->agreed);
    free(truth->committed);
    free(truth->vote);
    free(truth->set);
    free(truth->reign);
    free(truth);
}
