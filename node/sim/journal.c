/*
 * A host's copies of journals: the log of each job that it keeps for its home, or as its home. The core says which entry
 * stands where; what an entry says is the host's: a submit's description, a commit's results, an end. A log is read back
 * when the process starts again, when a member lacks some of it, and when the host becomes the job's home.
 */
#include "node/sim/world.h"

/* Sent at a time, in words of eight bytes: a real host's queue for one peer is bounded in bytes. */
#define SEND_LOG_WORDS_MAX 24u
/* A job that its new home has no room for is tried again. */
#define TAKE_OVER_AGAIN_US SECOND_US

const struct mesh_place *sim_journal_place(const struct mesh_save *save)
{
    const struct mesh_place *place = NULL;
    if (save->kind == MESH_SAVE_JOB || save->kind == MESH_SAVE_JOB_STATE) {
        place = &save->body.job.place;
    } else if (save->kind == MESH_SAVE_COMMIT) {
        place = &save->body.commit.place;
    } else if (save->kind == MESH_SAVE_ENTRY) {
        place = &save->body.entry.place;
    } else if (save->kind == MESH_SAVE_DISPUTE) {
        place = &save->body.dispute.place;
    }
    return place != NULL && place->index != 0 ? place : NULL;
}

const struct mesh_id *sim_journal_job(const struct mesh_save *save)
{
    return save->kind == MESH_SAVE_COMMIT    ? &save->body.commit.job
           : save->kind == MESH_SAVE_ENTRY   ? &save->body.entry.job
           : save->kind == MESH_SAVE_PROMISE ? &save->body.promise.job
           : save->kind == MESH_SAVE_DISPUTE ? &save->body.dispute.job
                                             : &save->body.job.id;
}

enum mesh_entry_kind sim_journal_kind(const struct mesh_save *save)
{
    return save->kind == MESH_SAVE_JOB       ? MESH_ENTRY_SUBMIT
           : save->kind == MESH_SAVE_COMMIT  ? MESH_ENTRY_COMMIT
           : save->kind == MESH_SAVE_ENTRY   ? save->body.entry.kind
           : save->kind == MESH_SAVE_DISPUTE ? MESH_ENTRY_DISPUTE
                                             : MESH_ENTRY_END;
}

/* ---- What entries say. */

static struct payload *commit_bytes(struct world *world, struct host *host, const struct mesh_save *save)
{
    const struct payload *const results = sim_handle_see(&host->handles, save->body.commit.handle);
    const uint32_t number = sim_world_job(world, &save->body.commit.job);
    struct payload *const bytes = sim_payload_new(PAYLOAD_ENTRY, number, 1 + 2 * save->body.commit.count);
    bytes->value[0] = sim_world_identity(world, &save->body.commit.executor);
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t shard = save->body.commit.shard[i].shard;
        const uint32_t place = save->body.commit.shard[i].place;
        if (results == NULL || place >= results->count || shard >= world->job[number].spec.shard_count) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL,
                           "job %u: a commit names shard %u, place %u, which isn't there", number, shard,
                           place);
            break;
        }
        if (!sim_device_excused(world, save, number, shard, results->value[place])) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL,
                           "job %u: shard %u was committed with the wrong bytes", number, shard);
        }
        bytes->value[1 + 2 * i] = shard;
        bytes->value[2 + 2 * i] = results->value[place];
    }
    return bytes;
}

static struct payload *dispute_bytes(struct world *world, const struct mesh_save *save)
{
    struct payload *const bytes = sim_payload_new(
        PAYLOAD_ENTRY, sim_world_job(world, &save->body.dispute.job), save->body.dispute.count);
    for (uint32_t i = 0; i < save->body.dispute.count; i++) {
        bytes->value[i] = save->body.dispute.shard[i];
    }
    return bytes;
}

struct payload *sim_journal_bytes(struct world *world, struct host *host, const struct mesh_save *save)
{
    struct payload *bytes = NULL;
    if (save->kind == MESH_SAVE_JOB) {
        bytes = sim_payload_new(PAYLOAD_ENTRY, sim_world_job(world, &save->body.job.id), 0);
    } else if (save->kind == MESH_SAVE_JOB_STATE) {
        bytes = sim_payload_new(PAYLOAD_ENTRY, sim_world_job(world, &save->body.job.id), 2);
        bytes->value[0] = save->body.job.state;
        bytes->value[1] = save->body.job.failed_shard;
    } else if (save->kind == MESH_SAVE_COMMIT) {
        bytes = commit_bytes(world, host, save);
    } else if (save->kind == MESH_SAVE_DISPUTE) {
        bytes = dispute_bytes(world, save);
    } else if (save->body.entry.handle != 0) {
        struct payload *const given = sim_handle_see(&host->handles, save->body.entry.handle);
        if (given == NULL || given->kind != PAYLOAD_ENTRY) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "an entry is saved whose handle isn't live");
        } else {
            bytes = sim_payload_keep(given);
        }
    }
    return bytes;
}

/* Who keeps the journal from that entry on, as the save says; NULL: it doesn't. */
static const struct mesh_members *members_of(const struct mesh_save *save)
{
    const struct mesh_members *const members = save->kind == MESH_SAVE_JOB     ? &save->body.job.members
                                               : save->kind == MESH_SAVE_ENTRY ? &save->body.entry.members
                                                                               : NULL;
    return members != NULL && members->count != 0 ? members : NULL;
}

bool sim_journal_same(const struct payload *one, const struct payload *other)
{
    if (one == NULL || other == NULL) {
        return one == other;
    }
    return one == other || (one->job == other->job && one->count == other->count &&
                            memcmp(one->value, other->value, one->count * sizeof one->value[0]) == 0);
}

/* ---- The disk. */

/* The same, of a save that is on its way to the disk. */
static struct mesh_members *members_save(struct mesh_save *save)
{
    return members_of(save) == NULL      ? NULL
           : save->kind == MESH_SAVE_JOB ? &save->body.job.members
                                         : &save->body.entry.members;
}

bool sim_journal_entry(struct host *host, uint32_t job, const struct mesh_id *id, uint32_t index,
                       struct disk_entry *entry)
{
    const struct disk_job *const saved = sim_disk_find(host, job);
    bool found = saved != NULL && saved->log != NULL && index >= 1 && index <= saved->log->last;
    if (found) {
        *entry = saved->log->entry[index - 1];
    }
    for (const struct batch *batch = host->first_batch; batch != NULL; batch = batch->next) {
        for (uint32_t i = 0; i < batch->save_count; i++) {
            const struct mesh_save *const save = &batch->save[i];
            const struct mesh_place *const place = sim_journal_place(save);
            if (place != NULL && place->index == index &&
                memcmp(sim_journal_job(save), id, sizeof *id) == 0) {
                *entry = (struct disk_entry){.epoch = place->entry_epoch,
                                             .settled = place->settled,
                                             .kind = sim_journal_kind(save),
                                             .payload = batch->save_payload[i],
                                             .members = members_save(&batch->save[i])};
                found = true;
            }
        }
    }
    return found;
}

static void job_clear(const struct world *world, struct disk_job *job)
{
    memset(job->committed, 0, (world->job[job->job].spec.shard_count + 7) / 8);
    memset(job->by, 0, world->job[job->job].spec.shard_count * sizeof *job->by);
    job->committed_count = 0;
    job->state = MESH_JOB_RUNNING;
}

/* What the entry says of the job. */
static void job_apply(struct world *world, struct host *host, struct disk_job *job,
                      const struct disk_entry *entry)
{
    if (job->state != MESH_JOB_RUNNING &&
        (entry->kind == MESH_ENTRY_COMMIT || entry->kind == MESH_ENTRY_END)) {
        sim_truth_broken(world, host, job->job, SIM_COMMIT_IS_FINAL, "its journal goes on after its end");
        return;
    }
    if (entry->kind == MESH_ENTRY_END) {
        job->state = (enum mesh_job_state)entry->payload->value[0];
        job->failed_shard = (uint32_t)entry->payload->value[1];
    }
    for (uint32_t i = 1; entry->kind == MESH_ENTRY_COMMIT && i < entry->payload->count; i += 2) {
        const uint32_t shard = (uint32_t)entry->payload->value[i];
        if (bit_get(job->committed, shard)) {
            sim_truth_broken(world, host, job->job, SIM_COMMIT_IS_FINAL,
                             "shard %u was committed a second time", shard);
            return;
        }
        bit_set(job->committed, shard);
        job->committed_count++;
        job->value[shard] = entry->payload->value[i + 1];
        job->by[shard] = (uint32_t)entry->payload->value[0] + 1;
    }
    for (uint32_t i = 0; entry->kind == MESH_ENTRY_DISPUTE && i < entry->payload->count; i++) {
        const uint32_t shard = (uint32_t)entry->payload->value[i];
        if (!bit_get(job->committed, shard)) {
            sim_truth_broken(world, host, job->job, SIM_COMMIT_IS_FINAL,
                             "shard %u is disputed and was never committed", shard);
            return;
        }
        job->by[shard] = 0;
    }
}

static void entry_free(struct disk_entry *entry)
{
    sim_payload_drop(entry->payload);
    free(entry->members);
}

static struct disk_entry entry_copy(const struct disk_entry *entry)
{
    struct disk_entry copy = *entry;
    if (entry->payload != NULL) {
        sim_payload_keep(entry->payload);
    }
    if (entry->members != NULL) {
        copy.members = sim_alloc(1, sizeof *copy.members);
        *copy.members = *entry->members;
    }
    return copy;
}

static void log_cut(struct world *world, struct host *host, struct disk_job *job, uint32_t last)
{
    struct disk_log *const log = job->log;
    sim_truth_cut(world, host, job->job, last);
    for (; log->last > last; log->last--) {
        entry_free(&log->entry[log->last - 1]);
    }
    job_clear(world, job);
    for (uint32_t i = 0; i < log->last; i++) {
        job_apply(world, host, job, &log->entry[i]);
    }
}

static void log_put(struct world *world, struct host *host, struct disk_job *job, uint32_t index,
                    struct disk_entry entry)
{
    struct disk_log *const log = job->log;
    if (index > log->last + 1) {
        sim_truth_broken(world, host, job->job, SIM_ACKED_IS_DURABLE, "entry %u is saved behind entry %u",
                         index, log->last);
        return;
    }
    if (index <= log->last) { /* once more */
        struct disk_entry *const old = &log->entry[index - 1];
        if (old->epoch != entry.epoch || old->kind != entry.kind ||
            !sim_journal_same(old->payload, entry.payload)) {
            sim_truth_broken(world, host, job->job, SIM_COMMIT_IS_FINAL,
                             "entry %u is overwritten by another one", index);
        }
        old->settled = entry.settled > old->settled ? entry.settled : old->settled;
        return;
    }
    if ((log->last & (log->last + 1)) == 0) {
        log->entry = sim_grow(log->entry, 2 * (size_t)log->last + 1, sizeof *log->entry);
    }
    log->entry[log->last++] = entry_copy(&entry);
    job->epoch = entry.epoch;
    job_apply(world, host, job, &entry);
    sim_truth_held(world, host, job->job, index, &entry);
}

static void save_promise(struct world *world, struct host *host, struct disk_job *job,
                         const struct mesh_save *save)
{
    struct disk_log *const log = job->log;
    if (save->body.promise.epoch < log->promised) {
        sim_truth_broken(world, host, job->job, SIM_EPOCHS_GROW, "epoch %llu is promised after epoch %llu",
                         (unsigned long long)save->body.promise.epoch, (unsigned long long)log->promised);
    }
    if (log->last == 0) {
        log->members = save->body.promise.members;
        world->result->world.promises_unheard++;
    }
    log->promised = save->body.promise.epoch;
    log->voted = save->body.promise.candidate;
    world->result->world.promises++;
    sim_truth_promised(world, host, job->job, log->promised, &log->voted);
}

static struct disk_job *job_for(struct world *world, struct host *host, uint32_t number,
                                const struct mesh_save *save)
{
    struct disk_job *job = sim_disk_find(host, number);
    const struct mesh_place *const place = sim_journal_place(save);
    const bool promise = save->kind == MESH_SAVE_PROMISE && save->body.promise.members.count != 0;
    if (job == NULL && (promise || (place != NULL && place->index == 1))) {
        job = sim_disk_add_job(world, host, number);
        job->state = MESH_JOB_RUNNING;
        job->log = sim_alloc(1, sizeof *job->log);
    }
    return job;
}

void sim_journal_save(struct world *world, struct host *host, const struct mesh_save *save,
                      struct payload *payload)
{
    const uint32_t number = sim_world_job(world, sim_journal_job(save));
    if (number == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a journal of a job that nobody submitted");
        return;
    }
    if (save->kind == MESH_SAVE_JOB && sim_world_plant(world, SIM_PLANT_LOST_SAVE)) {
        return;
    }
    struct disk_job *const job = job_for(world, host, number, save);
    if (job == NULL || job->log == NULL) {
        sim_truth_broken(world, host, number, SIM_ACKED_IS_DURABLE,
                         "an entry is saved and its journal wasn't");
        return;
    }
    if (save->kind == MESH_SAVE_PROMISE) {
        save_promise(world, host, job, save);
        return;
    }
    const struct mesh_place *const place = sim_journal_place(save);
    if (save->kind == MESH_SAVE_ENTRY && save->body.entry.cut) {
        log_cut(world, host, job, place->index - 1);
    }
    log_put(world, host, job, place->index,
            (struct disk_entry){.epoch = place->entry_epoch,
                                .settled = place->settled,
                                .kind = sim_journal_kind(save),
                                .payload = payload,
                                .members = (struct mesh_members *)members_of(save)});
    job->log->own = save->kind != MESH_SAVE_ENTRY || save->body.entry.own;
}

void sim_journal_over(struct world *world, struct host *host, uint32_t number, bool whole)
{
    struct disk_job *const job = sim_disk_find(host, number);
    if (job == NULL || job->log == NULL) {
        return;
    }
    if (whole && job->state == MESH_JOB_RUNNING) {
        sim_truth_broken(world, host, number, SIM_ACKED_IS_DURABLE,
                         "its journal is said to be over and whole, and its end isn't there");
    }
    job->log->over = true;
    job->log->whole = whole;
    world->result->world.journals_over++;
}

struct disk_log *sim_journal_copy(const struct disk_log *log)
{
    if (log == NULL) {
        return NULL;
    }
    struct disk_log *const copy = sim_alloc(1, sizeof *copy);
    *copy = *log;
    size_t room = 1; /* as log_put grows it */
    while (room <= log->last) {
        room = 2 * room + 1;
    }
    copy->entry = sim_alloc(room, sizeof *copy->entry);
    for (uint32_t i = 0; i < log->last; i++) {
        copy->entry[i] = entry_copy(&log->entry[i]);
    }
    return copy;
}

void sim_journal_free(struct disk_log *log)
{
    if (log == NULL) {
        return;
    }
    for (uint32_t i = 0; i < log->last; i++) {
        entry_free(&log->entry[i]);
    }
    free(log->entry);
    free(log);
}

/* ---- What the core asks for. */

static void log_sent(struct world *world, struct host *host, const struct mesh_effect *effect, uint32_t last)
{
    struct mesh_event *const sent = sim_alloc(1, sizeof *sent);
    sent->kind = MESH_LOG_SENT;
    sent->body.log_sent.job = effect->body.send_log.job;
    sent->body.log_sent.to = effect->body.send_log.to;
    sent->body.log_sent.epoch = effect->body.send_log.epoch;
    sent->body.log_sent.last = last;
    struct event event = sim_world_event(world, 0, HAPPEN_LOG_SENT, host->index);
    event.item = sent;
    sim_world_push(world, event);
    world->result->world.logs_cut_short++;
}

void sim_journal_send_log(struct world *world, struct host *host, const struct mesh_effect *effect)
{
    const struct mesh_id *const id = &effect->body.send_log.job;
    const uint32_t number = sim_world_job(world, id);
    struct disk_entry before = {0};
    struct disk_entry entry = {0};
    uint32_t words = 0;
    world->result->world.logs_sent++;
    if (effect->body.send_log.first > 1) {
        sim_journal_entry(host, number, id, effect->body.send_log.first - 1, &before);
    }
    for (uint32_t i = 0; i < effect->body.send_log.count; i++, before = entry) {
        const uint32_t index = effect->body.send_log.first + i;
        if (words >= SEND_LOG_WORDS_MAX) {
            log_sent(world, host, effect, index - 1);
            return;
        }
        if (number == SIM_NONE || !sim_journal_entry(host, number, id, index, &entry)) {
            sim_truth_broken(world, host, number, SIM_ANSWERS_FIT, "entry %u is to be sent and isn't here",
                             index);
            return;
        }
        struct mesh_send send = {.to = effect->body.send_log.to, .message.kind = MESH_APPEND};
        send.message.body.append.job = *id;
        send.message.body.append.epoch = effect->body.send_log.epoch;
        send.message.body.append.settled = effect->body.send_log.settled;
        send.message.body.append.index = index;
        send.message.body.append.entry_epoch = entry.epoch;
        send.message.body.append.before_epoch = before.epoch;
        send.message.body.append.kind = (uint32_t)entry.kind;
        if (entry.members != NULL) {
            send.message.body.append.members = *entry.members;
        }
        struct flight *const flight = sim_host_flight(
            world, host, &send, entry.payload != NULL ? sim_payload_keep(entry.payload) : NULL);
        if (flight != NULL && !sim_host_let_go(world, host, flight)) {
            return;
        }
        words += 1 + (entry.payload != NULL ? entry.payload->count : 0);
    }
}

void sim_journal_take_over(struct world *world, struct host *host, uint32_t number, uint64_t epoch)
{
    const struct disk_job *const job = sim_disk_find(host, number);
    if (job == NULL || job->log == NULL) {
        sim_truth_broken(world, host, number, SIM_ACKED_IS_DURABLE, "it is taken over and isn't on the disk");
        return;
    }
    if (job->state != MESH_JOB_RUNNING) {
        sim_host_told(world, host, number, job->state);
        return;
    }
    world->job[number].restore_refused = false;
    sim_host_restore(world, host, job, epoch);
    if (host->alive && world->job[number].restore_refused) {
        struct event again = sim_world_event(world, TAKE_OVER_AGAIN_US, HAPPEN_TAKE_OVER, host->index);
        again.a = number;
        again.b = (uint32_t)epoch;
        sim_world_push(world, again);
    }
}

bool sim_journal_is_over(struct host *host, uint32_t number)
{
    const struct disk_job *const job = number != SIM_NONE ? sim_disk_find(host, number) : NULL;
    return job != NULL && job->log != NULL && job->log->over;
}

/* Whether something of that journal is on its way to the disk, which may be full. */
static bool is_being_saved(const struct host *host, const struct mesh_id *job)
{
    for (const struct batch *batch = host->first_batch; batch != NULL; batch = batch->next) {
        for (uint32_t i = 0; i < batch->save_count; i++) {
            const struct mesh_save *const save = &batch->save[i];
            const struct mesh_id *const of = save->kind == MESH_SAVE_ENTRY     ? &save->body.entry.job
                                             : save->kind == MESH_SAVE_PROMISE ? &save->body.promise.job
                                             : save->kind == MESH_SAVE_JOB     ? &save->body.job.id
                                                                               : NULL;
            if (of != NULL && memcmp(of, job, sizeof *of) == 0) {
                return true;
            }
        }
    }
    return false;
}

void sim_journal_tell_new(struct world *world, struct host *host, const struct mesh_effect *asked)
{
    const uint32_t number = sim_world_job(world, &asked->body.asked.job);
    if (asked->body.asked.members.count == 0 || number == SIM_NONE || sim_disk_find(host, number) != NULL ||
        is_being_saved(host, &asked->body.asked.job)) {
        return;
    }
    struct mesh_event event = {.kind = MESH_JOURNAL_NEW};
    event.body.fresh.job = asked->body.asked.job;
    event.body.fresh.from = asked->body.asked.from;
    event.body.fresh.epoch = asked->body.asked.epoch;
    event.body.fresh.members = asked->body.asked.members;
    sim_host_step(world, host, &event);
}

void sim_journal_tell_over(struct world *world, struct host *host, uint32_t number, const struct mesh_id *to)
{
    if (!sim_journal_is_over(host, number)) {
        return;
    }
    const struct disk_log *const log = sim_disk_find(host, number)->log;
    struct mesh_event event = {.kind = MESH_JOB_IS_OVER};
    event.body.is_over.job = world->job[number].spec.id;
    event.body.is_over.to = *to;
    event.body.is_over.last = log->whole ? log->last : 0;
    event.body.is_over.last_epoch = log->whole ? log->entry[log->last - 1].epoch : 0;
    sim_host_step(world, host, &event);
}

/* ---- At start. */

static void image_run(struct mesh_journal_image *image, uint64_t epoch, uint32_t first)
{
    if (image->run_count > 0 && image->run[image->run_count - 1].epoch == epoch) {
        return;
    }
    if (image->run_count == MESH_RUNS_MAX) {
        memmove(&image->run[0], &image->run[1], (MESH_RUNS_MAX - 1) * sizeof image->run[0]);
        image->run_count--;
    }
    image->run[image->run_count].epoch = epoch;
    image->run[image->run_count++].first = first;
}

static void image_of(struct mesh_journal_image *image, const struct disk_log *log)
{
    image->promised = log->promised;
    image->voted = log->voted;
    image->last = log->last;
    image->home = log->own;
    for (uint32_t index = 1; index <= log->last; index++) {
        const struct disk_entry *const entry = &log->entry[index - 1];
        image->settled = entry->settled > image->settled ? entry->settled : image->settled;
        image->end = entry->kind == MESH_ENTRY_END ? index : image->end;
        image_run(image, entry->epoch, index);
        if (entry->members != NULL) {
            image->before = image->members;
            image->before_at = image->members_at;
            image->members = *entry->members;
            image->members_at = index;
        }
    }
    if (log->last == 0) {
        image->members = log->members;
    }
}

/* As copies_restore() and copies_made_room() of the node: what finds no room comes again when a journal is over. */
void sim_journal_restore(struct world *world, struct host *host)
{
    host->left_out = false;
    for (uint32_t i = 0; i < host->disk.job_count && host->alive && !world->failed; i++) {
        const struct disk_log *const log = host->disk.job[i].log;
        struct mesh_event event = {.kind = MESH_RESTORE_JOURNAL};
        event.body.journal.job = world->job[host->disk.job[i].job].spec.id;
        struct mesh_journal_view view;
        if (log == NULL || log->over || mesh_journal_find(host->mesh, &event.body.journal.job, &view)) {
            continue;
        }
        image_of(&event.body.journal, log);
        sim_host_step(world, host, &event);
        world->result->world.journals_restored++;
        host->left_out =
            host->left_out || (host->alive && !mesh_journal_find(host->mesh, &event.body.journal.job, &view));
    }
}
