/*
 * The node's part of verification (mesh/verify.h tells the core's): what two equal results share, and who is in quarantine.
 *
 * A result's digest is taken over its outputs' blob ids, inline or not, with a key of this process: nobody can aim at one.
 * Where a kernel is tolerant, results that its certificate proves right all have the same digest, since their bits may
 * differ from device to device.
 */
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/proof.h"
#include "node/recheck.h"
#include "node/tolerance.h"

#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Before a member's id in STORE_META: who is in quarantine here. */
#define ROW_PREFIX "quarantine "
/* And before the id of one that ever was: since when its cached results are void. As long as the other. */
#define VOID_PREFIX "void cache "
/* And how often a member's results were confirmed; as long, too. Written at most so often: what a crash forgets costs checks. */
#define TRUST_PREFIX "confirmed  "
#define TRUST_EVERY_MS 30000
#define ROW_PREFIX_BYTES (sizeof ROW_PREFIX - 1)
#define ROW_KEY_BYTES (ROW_PREFIX_BYTES + 32)

/* ---- Digests */

static uint8_t digest_key[crypto_shorthash_KEYBYTES];

static void draw_key(void)
{
    crypto_shorthash_keygen(digest_key);
}

static uint32_t keyed(const uint8_t *bytes, size_t count)
{
    static pthread_once_t drawn = PTHREAD_ONCE_INIT;
    pthread_once(&drawn, draw_key);
    uint8_t hash[crypto_shorthash_BYTES];
    uint32_t word;
    crypto_shorthash(hash, bytes, count, digest_key);
    memcpy(&word, hash, sizeof word);
    return word == MESH_DIGEST_WRONG ? 1 : word;
}

static uint32_t digest_of_entry(const struct entry *entry)
{
    uint8_t ids[MANIFEST_OUTPUTS_MAX][32];
    for (uint32_t o = 0; o < entry->output_count; o++) {
        const struct entry_output *output = &entry->output[o];
        const struct digest id = output->bytes ? blob_id(output->bytes, output->count) : output->blob;
        memcpy(ids[o], id.bytes, sizeof id.bytes);
    }
    return keyed(ids[0], (size_t)entry->output_count * 32);
}

/* ---- Tolerant results */

/*
 * What differed from a committed result, for the third opinion to be compared with: that too may differ in its bits from
 * both. Where there is no room the third one agrees with the second in its bits or not at all.
 */
#define DISSENTS_MAX 32u
#define DISSENT_BYTES_MAX (1u << 20)
static struct dissent {
    struct mesh_id job;
    uint32_t shard;
    uint32_t digest;
    uint8_t *outputs; /* one behind the other; owned */
} dissents[DISSENTS_MAX];
static uint32_t next_dissent;

bool verify_compares(const struct job *job)
{
    return job->spec.verify == MESH_VERIFY_SPOT && job->spec.manifest->class == MANIFEST_TOLERANT &&
           !job->spec.manifest->certify;
}

static uint64_t outputs_bytes(const struct entry *entry)
{
    uint64_t bytes = 0;
    for (uint32_t o = 0; o < entry->output_count; o++)
        bytes += entry->output[o].count;
    return bytes;
}

/* The outputs of a result, one behind the other, the caller's to free; NULL: they can't be read. */
static uint8_t *read_outputs(struct node *node, const struct entry *entry)
{
    uint8_t *outputs = malloc(outputs_bytes(entry) + 1);
    uint64_t at = 0;
    must(outputs);
    for (uint32_t o = 0; outputs && o < entry->output_count; at += entry->output[o++].count) {
        const struct entry_output *output = &entry->output[o];
        if (output->bytes) {
            memcpy(outputs + at, output->bytes, output->count);
        } else if (store_blob_read(node->store, output->blob.bytes, 0, output->count, outputs + at) !=
                   STORE_OK) {
            free(outputs);
            outputs = NULL;
        }
    }
    return outputs;
}

/* Whether all outputs are within the tolerance of those that `other` has, or, if that is NULL, that were assembled. */
static bool agrees(const struct job *job, uint32_t shard, const struct entry *entry, const uint8_t *outputs,
                   const uint8_t *other)
{
    uint64_t at = 0;
    bool same = true;
    for (uint32_t o = 0; same && o < entry->output_count; at += entry->output[o++].count) {
        const uint8_t *with = other ? other + at : job_assembled(job, o, shard);
        same = tolerance_same(job->spec.outputs[o].dtype, outputs + at, with, entry->output[o].count,
                              job->spec.manifest->tolerance);
    }
    return same;
}

/* Of an earlier one that differed from what was assembled and that these agree with; 0: there is none. */
static uint32_t find_dissent(const struct job *job, uint32_t shard, const struct entry *entry,
                             const uint8_t *outputs)
{
    for (uint32_t i = 0; i < DISSENTS_MAX; i++) {
        const struct dissent *dissent = &dissents[i];
        if (dissent->outputs && dissent->shard == shard &&
            memcmp(&dissent->job, &job->spec.id, sizeof dissent->job) == 0 &&
            agrees(job, shard, entry, outputs, dissent->outputs))
            return dissent->digest;
    }
    return 0;
}

static void keep_dissent(const struct dissent *one)
{
    struct dissent *dissent = &dissents[next_dissent++ % DISSENTS_MAX];
    free(dissent->outputs);
    *dissent = *one;
}

/*
 * The digest of the first result that this one counts as equal to. The first of all is assembled when it comes, since a second
 * opinion may be here before it is durable; what is committed takes its place, and keeps its digest if it agrees.
 */
static uint32_t digest_by_tolerance(struct node *node, struct job *job, uint32_t shard,
                                    const struct entry *entry)
{
    const uint32_t own = digest_of_entry(entry);
    if (!job->opinion)
        job->opinion = calloc(job->spec.shard_count, sizeof *job->opinion);
    must(job->opinion);
    uint8_t *outputs = job->opinion[shard] == own ? NULL : read_outputs(node, entry);
    if (!outputs)
        return own;
    uint32_t digest = job->opinion[shard];
    if (digest == 0) {
        uint64_t at = 0;
        for (uint32_t o = 0; o < entry->output_count; at += entry->output[o++].count)
            job_assemble(job, o, shard, outputs + at, entry->output[o].count);
        job->opinion[shard] = digest = own;
    } else if (!agrees(job, shard, entry, outputs, NULL)) {
        digest = find_dissent(job, shard, entry, outputs);
        if (digest == 0 && outputs_bytes(entry) <= DISSENT_BYTES_MAX) {
            keep_dissent(
                &(struct dissent){.job = job->spec.id, .shard = shard, .digest = own, .outputs = outputs});
            outputs = NULL;
        }
        digest = digest ? digest : own;
    }
    free(outputs);
    return digest;
}

void verify_committed(struct node *node, struct job *job, uint32_t shard, const struct entry *entry)
{
    const uint32_t digest = digest_by_tolerance(node, job, shard, entry);
    job->opinion[shard] = digest;
}

/* ---- Certificates */

/* Whether equal results need not have equal bytes, or must be proved. */
static bool is_certified(const struct job *job)
{
    return job->spec.manifest->certify &&
           (job->spec.verify == MESH_VERIFY_CERTIFICATE || job->spec.manifest->class != MANIFEST_EXACT);
}

/* What the digest of a result that is to be proved hangs on; the job itself may be gone by then. */
struct judge {
    struct store *store;
    struct mesh_id job;
    bool must;           /* what is not proved is wrong */
    struct proof *proof; /* NULL: an input can't be read, so that nothing is proved */
};

static struct judge judge_of(struct node *node, struct job *job)
{
    if (!job->proof)
        job->proof = proof_open(job, node->store);
    return (struct judge){.store = node->store,
                          .job = job->spec.id,
                          .must = job->spec.verify == MESH_VERIFY_CERTIFICATE,
                          .proof = job->proof};
}

/* All results of a shard that are proved right have one digest. On any thread. */
static uint32_t digest_by_proof(const struct judge *judge, uint32_t shard, const struct entry *entry)
{
    uint8_t name[36];
    if (!judge->proof || !proof_holds(judge->proof, judge->store, shard, entry))
        return judge->must ? MESH_DIGEST_WRONG : digest_of_entry(entry);
    memcpy(name, judge->job.bytes, 32);
    memcpy(name + 32, &shard, sizeof shard);
    return keyed(name, sizeof name);
}

/* ---- Any result */

uint32_t verify_digest_of(struct node *node, struct job *job, uint32_t shard, const struct result_item *item)
{
    struct entry entry;
    if (!entry_decode(item->bytes, item->count, &entry) || !job_entry_fits(job, shard, &entry))
        return MESH_DIGEST_WRONG;
    if (verify_compares(job))
        return digest_by_tolerance(node, job, shard, &entry);
    if (!is_certified(job))
        return digest_of_entry(&entry);
    const struct judge judge = judge_of(node, job);
    return digest_by_proof(&judge, shard, &entry);
}

static struct job *verified_job(struct node *node, const struct mesh_message *message)
{
    struct job *job = jobs_find(node, &message->body.result.job);
    return job && job->spec.verify != MESH_VERIFY_NONE && job->state <= JOB_RUNNING ? job : NULL;
}

uint32_t *verify_digests(struct node *node, const struct mesh_message *message, const struct bytes *payload)
{
    struct job *job = verified_job(node, message);
    if (!job)
        return NULL;
    static struct result_item items[MESH_BUNDLE_SHARDS_MAX];
    const int count = payload ? result_decode(payload, items, MESH_BUNDLE_SHARDS_MAX) : -1;
    uint32_t *digests = calloc(message->body.result.count + 1, sizeof *digests);
    must(digests);
    for (uint32_t i = 0; count == (int)message->body.result.count && i < message->body.result.count; i++) {
        const uint32_t shard = message->body.result.shard[i].shard;
        if (message->body.result.shard[i].outcome == MESH_DONE && shard < job->spec.shard_count)
            digests[i] = verify_digest_of(node, job, shard, &items[i]);
    }
    return digests;
}

/* A result whose certificates the background thread computes. */
struct proving {
    struct background_task task;
    struct node *node;
    struct judge judge;
    uint32_t shard_count; /* of the job */
    const struct mesh_message *message;
    const struct bytes *payload;
    uint32_t *digests;
    verify_proved *done;
    void *context;
};

/* That the entries fit their shards was seen when the message came. */
static void run_proving(struct background_task *task)
{
    struct proving *const proving = (struct proving *)task;
    const struct mesh_message *const message = proving->message;
    struct result_item items[MESH_BUNDLE_SHARDS_MAX];
    const int count = result_decode(proving->payload, items, MESH_BUNDLE_SHARDS_MAX);
    for (uint32_t i = 0; count == (int)message->body.result.count && i < message->body.result.count; i++) {
        const uint32_t shard = message->body.result.shard[i].shard;
        struct entry entry;
        if (message->body.result.shard[i].outcome != MESH_DONE || shard >= proving->shard_count)
            continue;
        proving->digests[i] = entry_decode(items[i].bytes, items[i].count, &entry)
                                  ? digest_by_proof(&proving->judge, shard, &entry)
                                  : MESH_DIGEST_WRONG;
    }
}

static void on_proving(struct background_task *task)
{
    struct proving *const proving = (struct proving *)task;
    proof_drop(proving->judge.proof);
    proving->done(proving->node, proving->context, proving->digests);
    free(proving);
}

bool verify_prove(struct node *node, const struct mesh_message *message, const struct bytes *payload,
                  verify_proved *done, void *context)
{
    struct job *job = verified_job(node, message);
    const struct judge judge = job && is_certified(job) ? judge_of(node, job) : (struct judge){0};
    if (!judge.proof)
        return false;
    struct proving *proving = calloc(1, sizeof *proving);
    must(proving);
    *proving = (struct proving){.task = {.run = run_proving, .done = on_proving},
                                .node = node,
                                .judge = judge,
                                .shard_count = job->spec.shard_count,
                                .message = message,
                                .payload = payload,
                                .digests = calloc(message->body.result.count + 1, sizeof *proving->digests),
                                .done = done,
                                .context = context};
    must(proving->digests);
    proof_keep(judge.proof);
    background_add(node->background, &proving->task);
    return true;
}

/* ---- The cache */

bool verify_sound(const struct node *node, const struct provenance *provenance)
{
    static const struct mesh_id nobody;
    const bool unknown = memcmp(&provenance->executor, &nobody, sizeof nobody) == 0;
    for (uint32_t i = 0; i < node->voided_count; i++) {
        const struct voided *voided = &node->voided[i];
        const bool its = unknown || memcmp(&voided->id, &nobody, sizeof nobody) == 0 ||
                         memcmp(&voided->id, &provenance->executor, sizeof voided->id) == 0;
        if (its && provenance->at_ms <= voided->at_ms)
            return false;
    }
    return true;
}

static bool of_own_site(struct node *node, const struct mesh_id *id)
{
    return memcmp(id, &node->self, sizeof *id) == 0 ||
           strcmp(peer_site(node, id), peer_site(node, &node->self)) == 0;
}

bool verify_accepts(struct node *node, const struct job *job, const struct provenance *provenance)
{
    const enum mesh_verify level = provenance->level;
    if (!verify_sound(node, provenance))
        return false;
    switch (job->spec.verify) {
    case MESH_VERIFY_NONE:
        return true;
    case MESH_VERIFY_SPOT:
        if (level == MESH_VERIFY_QUORUM || level == MESH_VERIFY_CERTIFICATE || provenance->whole)
            return level != MESH_VERIFY_NONE;
        /* Which of them are computed anew is drawn as which results are checked. */
        return of_own_site(node, &provenance->executor) ||
               randombytes_uniform(1000) >=
                   mesh_verify_permille(node->host.mesh, &provenance->executor, job->spec.verify_permille);
    case MESH_VERIFY_QUORUM:
        return level == MESH_VERIFY_QUORUM;
    case MESH_VERIFY_CERTIFICATE:
        return level == MESH_VERIFY_QUORUM || level == MESH_VERIFY_CERTIFICATE;
    }
    return false;
}

/* ---- Quarantine */

static void row_key(const char *prefix, const struct mesh_id *id, uint8_t key[ROW_KEY_BYTES])
{
    memcpy(key, prefix, ROW_PREFIX_BYTES);
    memcpy(key + ROW_PREFIX_BYTES, id->bytes, 32);
}

/* job, shard, when: little-endian as the machine is. */
struct row {
    uint8_t job[32];
    uint8_t shard[4];
    uint8_t at_ms[8];
};

/* Which voids the table has room for: beyond it everybody's. */
static struct mesh_id void_name(const struct node *node, const struct mesh_id *id)
{
    bool known = node->voided_count < VOIDED_MAX - 1;
    for (uint32_t i = 0; !known && i < node->voided_count; i++)
        known = memcmp(&node->voided[i].id, id, sizeof *id) == 0;
    return known ? *id : (struct mesh_id){0};
}

static void note_void(struct node *node, const struct mesh_id *id, int64_t at_ms)
{
    uint32_t i = 0;
    while (i < node->voided_count && memcmp(&node->voided[i].id, id, sizeof *id) != 0)
        i++;
    if (i == VOIDED_MAX)
        return;
    node->voided_count += i == node->voided_count;
    node->voided[i] = (struct voided){.id = *id, .at_ms = at_ms};
}

void quarantine_save(struct node *node, struct store_batch *batch, const struct mesh_save *save)
{
    uint8_t key[ROW_KEY_BYTES];
    row_key(TRUST_PREFIX, &save->body.quarantine.id, key); /* caught or forgiven, it begins anew */
    store_batch_delete(batch, STORE_META, key, sizeof key);
    row_key(ROW_PREFIX, &save->body.quarantine.id, key);
    if (!save->body.quarantine.on) {
        store_batch_delete(batch, STORE_META, key, sizeof key);
        return;
    }
    struct row row;
    const int64_t at_ms = clock_wall_ms();
    memcpy(row.job, save->body.quarantine.job.bytes, sizeof row.job);
    memcpy(row.shard, &save->body.quarantine.shard, sizeof row.shard);
    memcpy(row.at_ms, &at_ms, sizeof row.at_ms);
    store_batch_put(batch, STORE_META, key, sizeof key, &row, sizeof row);
    const struct mesh_id name = void_name(node, &save->body.quarantine.id);
    note_void(node, &name, at_ms);
    row_key(VOID_PREFIX, &name, key);
    store_batch_put(batch, STORE_META, key, sizeof key, row.at_ms, sizeof row.at_ms);
    recheck_caught(node, batch, &save->body.quarantine.id);
}

const struct caught *quarantine_find(const struct node *node, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < node->caught_count; i++)
        if (memcmp(&node->caught[i].id, id, sizeof *id) == 0)
            return &node->caught[i];
    return NULL;
}

static void note(struct node *node, const struct caught *caught)
{
    if (quarantine_find(node, &caught->id) || node->caught_count == MESH_QUARANTINED_MAX)
        return;
    node->caught[node->caught_count++] = *caught;
}

static bool restore_row(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    struct node *node = context;
    struct caught caught = {0};
    struct row row;
    if (key_bytes != ROW_KEY_BYTES || value_bytes != sizeof row)
        return true;
    memcpy(&row, value, sizeof row);
    memcpy(caught.id.bytes, (const uint8_t *)key + ROW_PREFIX_BYTES, 32);
    memcpy(caught.job.bytes, row.job, sizeof row.job);
    memcpy(&caught.shard, row.shard, sizeof caught.shard);
    memcpy(&caught.at_ms, row.at_ms, sizeof caught.at_ms);
    note(node, &caught);
    host_post(node, &(struct mesh_event){.kind = MESH_QUARANTINE,
                                         .body.quarantine = {.id = caught.id, .on = true}});
    return true;
}

static bool restore_void(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct mesh_id id;
    int64_t at_ms;
    if (key_bytes != ROW_KEY_BYTES || value_bytes != sizeof at_ms)
        return true;
    memcpy(id.bytes, (const uint8_t *)key + ROW_PREFIX_BYTES, sizeof id.bytes);
    memcpy(&at_ms, value, sizeof at_ms);
    note_void(context, &id, at_ms);
    return true;
}

/* ---- Trust: how many results of a member were confirmed in a row, as the core counts it */

static bool restore_trust(void *context, const void *key, size_t key_bytes, const void *value,
                          size_t value_bytes)
{
    struct node *node = context;
    struct mesh_event event = {.kind = MESH_TRUST};
    if (key_bytes != ROW_KEY_BYTES || value_bytes != sizeof event.body.trust.confirmed)
        return true;
    memcpy(event.body.trust.id.bytes, (const uint8_t *)key + ROW_PREFIX_BYTES, 32);
    memcpy(&event.body.trust.confirmed, value, sizeof event.body.trust.confirmed);
    host_post(node, &event);
    return true;
}

/* The rows that are to be written; NULL: none. */
static struct store_batch *trust_rows(struct node *node)
{
    struct store_batch *batch = NULL;
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        uint8_t key[ROW_KEY_BYTES];
        uint32_t saved = 0;
        size_t bytes;
        row_key(TRUST_PREFIX, &view.id, key);
        if (view.self || view.confirmed < MESH_TRUSTED_RESULTS ||
            (store_get(node->store, STORE_META, key, sizeof key, &saved, sizeof saved, &bytes) == STORE_OK &&
             saved == view.confirmed))
            continue;
        batch = batch ? batch : node_batch(node);
        store_batch_put(batch, STORE_META, key, sizeof key, &view.confirmed, sizeof view.confirmed);
    }
    return batch;
}

int64_t trust_turn(struct node *node, int64_t now_ms)
{
    if (now_ms < node->trust_at_ms)
        return node->trust_at_ms;
    node->trust_at_ms = now_ms + TRUST_EVERY_MS;
    struct store_batch *batch = trust_rows(node);
    if (batch)
        node_commit(node, batch, NULL, NULL);
    return node->trust_at_ms;
}

void trust_last(struct node *node)
{
    struct store_batch *batch = trust_rows(node);
    if (batch)
        store_commit_wait(node->store, batch);
}

void quarantine_restore(struct node *node)
{
    const struct store_range trusted = {.prefix = TRUST_PREFIX, .prefix_bytes = ROW_PREFIX_BYTES};
    store_each(node->store, STORE_META, &trusted, restore_trust, node);
    const struct store_range voids = {.prefix = VOID_PREFIX, .prefix_bytes = ROW_PREFIX_BYTES};
    store_each(node->store, STORE_META, &voids, restore_void, node);
    const struct store_range range = {.prefix = ROW_PREFIX, .prefix_bytes = ROW_PREFIX_BYTES};
    store_each(node->store, STORE_META, &range, restore_row, node);
}

static void forget(struct node *node, const struct mesh_id *id)
{
    for (uint32_t i = node->caught_count; i-- > 0;)
        if (memcmp(&node->caught[i].id, id, sizeof *id) == 0)
            node->caught[i] = node->caught[--node->caught_count];
}

void quarantine_on(struct node *node, const struct mesh_effect *effect)
{
    const struct mesh_id *id = &effect->body.quarantined.id;
    if (!effect->body.quarantined.on) {
        forget(node, id);
        log_info("quarantine", "node=%s state=forgiven", peer_name(node, id));
        return;
    }
    note(node, &(struct caught){.id = *id,
                                .job = effect->body.quarantined.job,
                                .shard = effect->body.quarantined.shard,
                                .at_ms = clock_wall_ms()});
    char job[9];
    snprintf(job, sizeof job, "%.8s", peer_name(node, &effect->body.quarantined.job));
    log_warn("quarantine",
             "node=%s site=%s job=%s shard=%u reason=\"two other sites have another result: it gets no more "
             "work of this node's jobs. `weir nodes --forgive %s` lifts that\"",
             peer_name(node, id), peer_site(node, id), job, effect->body.quarantined.shard,
             peer_name(node, id));
    cache_void(node, id);
}
