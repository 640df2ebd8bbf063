/*
 * A host's disk: what it finds again after its process died. Batches of saves become durable in their order. What was
 * under way when the process died may be there, in part (the torn tail of a store that doesn't write all of a batch or
 * none of it), or not at all. It may also rot, be lost, or be replaced by an old copy of itself.
 */
#include "node/sim/world.h"

struct disk_job *sim_disk_find(struct host *host, uint32_t job)
{
    for (uint32_t i = 0; i < host->disk.job_count; i++) {
        if (host->disk.job[i].job == job) {
            return &host->disk.job[i];
        }
    }
    return NULL;
}

struct disk_job *sim_disk_add_job(const struct world *world, struct host *host, uint32_t job)
{
    struct disk *const disk = &host->disk;
    disk->job = sim_grow(disk->job, disk->job_count + 1, sizeof *disk->job);
    const uint32_t shards = world->job[job].spec.shard_count;
    disk->job[disk->job_count] = (struct disk_job){.job = job,
                                                   .committed = sim_alloc((shards + 7) / 8, 1),
                                                   .value = sim_alloc(shards, sizeof(uint64_t)),
                                                   .by = sim_alloc(shards, sizeof(uint32_t))};
    return &disk->job[disk->job_count++];
}

static void disk_job_free(struct disk_job *job)
{
    free(job->committed);
    free(job->value);
    free(job->by);
    sim_journal_free(job->log);
}

void sim_disk_remove_job(struct host *host, struct disk_job *job)
{
    disk_job_free(job);
    *job = host->disk.job[--host->disk.job_count];
}

static const struct mesh_id *record_subject(const struct mesh_record *record)
{
    return record->kind == MESH_RECORD_REVOCATION ? &record->body.revocation.subject : &record->origin;
}

/*
 * Where the disk has a record of that kind about that subject, by any origin if none is named; SIM_NONE if nowhere. Records
 * come again in the order of the disk when a node starts, so the search begins where the latest was found, or where that
 * member's was in this life.
 */
static uint32_t disk_find_record(const struct world *world, struct host *host, enum mesh_record_kind kind,
                                 const struct mesh_id *subject, const struct mesh_id *origin)
{
    struct disk *const disk = &host->disk;
    const uint32_t member = kind == MESH_RECORD_MEMBER ? sim_world_identity(world, subject) : SIM_NONE;
    struct known_member *const known = member != SIM_NONE ? sim_known_meet(&host->known, member) : NULL;
    const uint32_t from = known != NULL && known->record != 0 ? known->record - 1 : disk->found;
    for (uint32_t i = 0; i < disk->record_count; i++) {
        const uint32_t place = (from + i) % disk->record_count;
        const struct mesh_record *const record = &disk->record[place].payload->record;
        if (record->kind == kind && memcmp(record_subject(record), subject, sizeof *subject) == 0 &&
            (origin == NULL || memcmp(&record->origin, origin, sizeof *origin) == 0)) {
            disk->found = place;
            if (known != NULL) {
                known->record = place + 1;
            }
            return place;
        }
    }
    return SIM_NONE;
}

bool sim_disk_has_record(const struct world *world, struct host *host, enum mesh_record_kind kind,
                         const struct mesh_id *subject)
{
    return disk_find_record(world, host, kind, subject, NULL) != SIM_NONE;
}

static bool record_newer(const struct mesh_record *a, const struct mesh_record *b)
{
    return a->incarnation != b->incarnation ? a->incarnation > b->incarnation : a->version > b->version;
}

static void disk_save_record(struct world *world, struct host *host, struct payload *payload)
{
    const struct mesh_record *const record = &payload->record;
    struct disk *const disk = &host->disk;
    const uint32_t place =
        disk_find_record(world, host, record->kind, record_subject(record), &record->origin);
    if (place == SIM_NONE) {
        disk->record = sim_grow(disk->record, disk->record_count + 1, sizeof *disk->record);
        disk->record[disk->record_count++].payload = sim_payload_keep(payload);
        return;
    }
    if (record_newer(&disk->record[place].payload->record, record)) {
        sim_check_fail(world, host, SIM_ORIGIN_ADVANCES, "an older record was saved over a newer one");
    }
    sim_payload_drop(disk->record[place].payload);
    disk->record[place].payload = sim_payload_keep(payload);
}

static void disk_save_job(struct world *world, struct host *host, const struct mesh_save *save)
{
    const uint32_t number = sim_world_job(world, &save->body.job.id);
    if (number == SIM_NONE) {
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a job was saved that nobody submitted");
        return;
    }
    struct disk_job *job = sim_disk_find(host, number);
    if (job == NULL && save->kind == MESH_SAVE_JOB_STATE) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE, "job %u changed its state and was never saved",
                       number);
        return;
    }
    if (job == NULL) {
        if (sim_world_plant(world, SIM_PLANT_LOST_SAVE)) {
            return;
        }
        job = sim_disk_add_job(world, host, number);
    }
    if (save->body.job.epoch < job->epoch) {
        sim_check_fail(world, host, SIM_EPOCHS_GROW, "job %u was saved with epoch %llu after epoch %llu",
                       number, (unsigned long long)save->body.job.epoch, (unsigned long long)job->epoch);
    }
    job->epoch = save->body.job.epoch;
    if (job->state > MESH_JOB_RUNNING && save->body.job.state != job->state) {
        sim_check_fail(world, host, SIM_COMMIT_IS_FINAL, "job %u went from %s to %s", number,
                       sim_trace_job_state(job->state), sim_trace_job_state(save->body.job.state));
    }
    job->state = save->body.job.state;
    job->failed_shard = save->body.job.failed_shard;
}

static void disk_commit(struct world *world, struct host *host, const struct mesh_save *save,
                        const struct payload *payload)
{
    const uint32_t number = sim_world_job(world, &save->body.commit.job);
    struct disk_job *const job = number == SIM_NONE ? NULL : sim_disk_find(host, number);
    if (job == NULL) {
        sim_check_fail(world, host, SIM_ACKED_IS_DURABLE,
                       "a result of job %u was committed before the job was", number);
        return;
    }
    if (save->body.commit.epoch != job->epoch) {
        sim_check_fail(world, host, SIM_EPOCHS_GROW, "epoch %llu committed to job %u, which is at epoch %llu",
                       (unsigned long long)save->body.commit.epoch, number, (unsigned long long)job->epoch);
    }
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t shard = save->body.commit.shard[i].shard;
        const uint32_t place = save->body.commit.shard[i].place;
        if (shard >= world->job[number].spec.shard_count || payload == NULL || place >= payload->count) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL,
                           "job %u: a commit names shard %u, place %u, which isn't there", number, shard,
                           place);
            return;
        }
        if (bit_get(job->committed, shard)) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL, "job %u: shard %u was committed a second time",
                           number, shard);
        }
        if (!sim_device_excused(world, save, number, shard, payload->value[place])) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL,
                           "job %u: shard %u was committed with the wrong bytes", number, shard);
        }
        bit_set(job->committed, shard);
        job->committed_count++;
        job->value[shard] = payload->value[place];
        job->by[shard] =
            save->body.commit.cached ? 0 : sim_world_identity(world, &save->body.commit.executor) + 1;
    }
}

static void disk_dispute(struct world *world, struct host *host, const struct mesh_save *save)
{
    const uint32_t number = sim_world_job(world, &save->body.dispute.job);
    struct disk_job *const job = number == SIM_NONE ? NULL : sim_disk_find(host, number);
    for (uint32_t i = 0; i < save->body.dispute.count; i++) {
        const uint32_t shard = save->body.dispute.shard[i];
        if (job == NULL || shard >= world->job[number].spec.shard_count || !bit_get(job->committed, shard)) {
            sim_check_fail(world, host, SIM_COMMIT_IS_FINAL,
                           "job %u: shard %u is disputed and was never committed", number, shard);
            return;
        }
        job->by[shard] = 0;
    }
}

bool sim_disk_quarantines(const struct host *host, uint32_t identity)
{
    for (uint32_t i = 0; i < host->disk.quarantined_count; i++) {
        if (host->disk.quarantined[i] == identity) {
            return true;
        }
    }
    return false;
}

static void disk_quarantine(struct world *world, struct host *host, const struct mesh_save *save)
{
    struct disk *const disk = &host->disk;
    const uint32_t whom = sim_world_identity(world, &save->body.quarantine.id);
    for (uint32_t i = disk->quarantined_count; i-- > 0;) {
        if (disk->quarantined[i] == whom) {
            disk->quarantined[i] = disk->quarantined[--disk->quarantined_count];
        }
    }
    if (save->body.quarantine.on) {
        disk->quarantined =
            sim_grow(disk->quarantined, disk->quarantined_count + 1, sizeof *disk->quarantined);
        disk->quarantined[disk->quarantined_count++] = whom;
    }
}

static void disk_save(struct world *world, struct host *host, const struct mesh_save *save,
                      struct payload *payload)
{
    host->disk.sequence = save->sequence > host->disk.sequence ? save->sequence : host->disk.sequence;
    if (sim_journal_place(save) != NULL || save->kind == MESH_SAVE_PROMISE) {
        sim_journal_save(world, host, save, payload);
        return;
    }
    switch (save->kind) {
    case MESH_SAVE_INCARNATION:
        if (!sim_world_plant(world, SIM_PLANT_LOST_INCARNATION) &&
            save->body.incarnation > host->disk.incarnation) {
            host->disk.incarnation = save->body.incarnation;
        }
        break;
    case MESH_SAVE_STORAGE:
        host->disk.storage = save->body.storage;
        break;
    case MESH_SAVE_QUARANTINE:
        disk_quarantine(world, host, save);
        break;
    case MESH_SAVE_DISPUTE:
        disk_dispute(world, host, save);
        break;
    case MESH_SAVE_RECORD:
        if (payload == NULL) {
            sim_check_fail(world, host, SIM_HANDLES_RETURN, "a record was saved whose handle isn't live");
        } else {
            disk_save_record(world, host, payload);
        }
        break;
    case MESH_SAVE_JOB:
    case MESH_SAVE_JOB_STATE:
        disk_save_job(world, host, save);
        break;
    case MESH_SAVE_COMMIT:
        disk_commit(world, host, save, payload);
        if (sim_world_plant(world, SIM_PLANT_SECOND_COMMIT)) {
            disk_commit(world, host, save, payload);
        }
        break;
    default:
        sim_check_fail(world, host, SIM_ANSWERS_FIT, "a save of kind %d is unknown", (int)save->kind);
    }
}

/* Makes the first `saves` of the batch durable. */
void sim_disk_apply(struct world *world, struct host *host, const struct batch *batch, uint32_t saves)
{
    for (uint32_t i = 0; i < saves; i++) {
        disk_save(world, host, &batch->save[i], batch->save_payload[i]);
    }
    if (batch->over.job != SIM_NONE) {
        sim_journal_over(world, host, batch->over.job, batch->over.whole);
    }
}

/* ---- Faults. */

void sim_disk_crash(struct world *world, struct host *host)
{
    struct sim_counters *const count = &world->result->world;
    const struct batch *batch = host->first_batch;
    while (batch != NULL && !world->failed && sim_chance(&world->random, 400)) {
        sim_disk_apply(world, host, batch, batch->save_count);
        count->saves_unsent++;
        batch = batch->next;
    }
    if (batch != NULL && batch->save_count != 0 &&
        sim_chance(&world->random, 500)) { /* the last of what is there is cut and left out */
        sim_disk_apply(world, host, batch, sim_below(&world->random, batch->save_count));
        count->saves_torn++;
        batch = batch->next;
    }
    for (; batch != NULL; batch = batch->next) {
        count->saves_lost++;
    }
}

/* A record is checked by its signature, a journal's row by its digest: what doesn't fit is left out. */
void sim_disk_rot(struct world *world, struct host *host, uint32_t permille, struct sim_random *random)
{
    struct disk *const disk = &host->disk;
    for (uint32_t i = disk->record_count; i-- > 0;) {
        if (sim_chance(random, permille)) {
            sim_payload_drop(disk->record[i].payload);
            disk->record[i] = disk->record[--disk->record_count];
            world->result->world.rows_rotten++;
        }
    }
    for (uint32_t i = disk->job_count; i-- > 0;) {
        struct disk_job *const job = &disk->job[i];
        if (job->log != NULL) { /* of a log with a hole nothing can be said: the copy is thrown away */
            if (!job->log->over && sim_chance(random, permille)) {
                sim_truth_harmed(world, host, job->job, SIM_HARM_ROTTEN);
                /* A node with a damaged row starts only with a disk that is told anew. */
                disk->storage = disk->incarnation + 1;
                sim_disk_remove_job(host, job);
                world->result->world.rows_rotten++;
            }
            continue;
        }
        for (uint32_t shard = 0;
             job->state == MESH_JOB_RUNNING && shard < world->job[job->job].spec.shard_count; shard++) {
            if (bit_get(job->committed, shard) && sim_chance(random, permille)) {
                job->committed[shard / 8] = (uint8_t)(job->committed[shard / 8] & ~(1u << (shard % 8)));
                job->committed_count--;
                world->result->world.rows_rotten++;
            }
        }
    }
}

/* Journals of which the older disk knows less than the host has said. */
static void harm_journals(struct world *world, struct host *host, const struct disk *older)
{
    for (uint32_t i = 0; i < host->disk.job_count; i++) {
        const struct disk_job *const now = &host->disk.job[i];
        const struct disk_job *then = NULL;
        for (uint32_t j = 0; j < older->job_count; j++) {
            then = older->job[j].job == now->job ? &older->job[j] : then;
        }
        if (now->log != NULL && (then == NULL || then->log->promised != now->log->promised ||
                                 then->log->last != now->log->last || then->epoch != now->epoch)) {
            sim_truth_harmed(world, host, now->job,
                             older->incarnation == 0 ? SIM_HARM_WIPED : SIM_HARM_ROLLED_BACK);
        }
    }
}

/* What was promised on the old disk and isn't on this one is gone, and the host's own past with it. */
void sim_disk_replace(struct world *world, struct host *host, const struct disk *older)
{
    harm_journals(world, host, older);
    struct disk *const copy = sim_disk_copy(world, older);
    sim_disk_free(&host->disk);
    host->disk = *copy;
    free(copy);
    host->rolled_back = true;
    host->signed_incarnation = 0;
    host->signed_version = 0;
    for (uint32_t i = 0; i < world->job_count; i++) {
        struct sim_job *const job = &world->job[i];
        if (job->home != host->index || job->truth != NULL) {
            continue;
        }
        const struct disk_job *const saved = sim_disk_find(host, i);
        job->epoch_used = saved != NULL ? saved->epoch : 0;
        if (saved == NULL && job->acknowledged && !job->forgone) {
            job->forgone = true;
            world->result->world.jobs_forgone++;
            world->result->world.forgone_single++;
        }
    }
}

void sim_disk_copy_records(struct disk *to, const struct disk *from)
{
    to->incarnation = from->incarnation;
    to->record_count = from->record_count;
    to->record = sim_alloc(from->record_count, sizeof *to->record);
    for (uint32_t i = 0; i < from->record_count; i++) {
        to->record[i].payload = sim_payload_keep(from->record[i].payload);
    }
}

struct disk *sim_disk_copy(const struct world *world, const struct disk *disk)
{
    struct disk *const copy = sim_alloc(1, sizeof *copy);
    sim_disk_copy_records(copy, disk);
    copy->storage = disk->storage;
    copy->sequence = disk->sequence;
    copy->quarantined_count = disk->quarantined_count;
    copy->quarantined = sim_alloc(disk->quarantined_count + 1, sizeof *copy->quarantined);
    for (uint32_t i = 0; i < disk->quarantined_count; i++) {
        copy->quarantined[i] = disk->quarantined[i];
    }
    copy->job_count = disk->job_count;
    copy->job = sim_alloc(disk->job_count, sizeof *copy->job);
    for (uint32_t i = 0; i < disk->job_count; i++) {
        const uint32_t shards = world->job[disk->job[i].job].spec.shard_count;
        copy->job[i] = disk->job[i];
        copy->job[i].committed = sim_alloc((shards + 7) / 8, 1);
        copy->job[i].value = sim_alloc(shards, sizeof(uint64_t));
        copy->job[i].by = sim_alloc(shards, sizeof(uint32_t));
        memcpy(copy->job[i].by, disk->job[i].by, shards * sizeof(uint32_t));
        copy->job[i].log = sim_journal_copy(disk->job[i].log);
        memcpy(copy->job[i].committed, disk->job[i].committed, (shards + 7) / 8);
        memcpy(copy->job[i].value, disk->job[i].value, shards * sizeof(uint64_t));
    }
    return copy;
}

void sim_disk_free(struct disk *disk)
{
    if (disk == NULL) {
        return;
    }
    for (uint32_t i = 0; i < disk->job_count; i++) {
        disk_job_free(&disk->job[i]);
    }
    for (uint32_t i = 0; i < disk->record_count; i++) {
        sim_payload_drop(disk->record[i].payload);
    }
    free(disk->job);
    free(disk->record);
    free(disk->quarantined);
    *disk = (struct disk){0};
}
