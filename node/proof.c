#include "node/proof.h"

#include "node/payload.h"

#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct proof {
    uint32_t holders;
    const struct manifest *manifest; /* a built-in one: users' kernels have no certificate */
    struct manifest_params params;
    uint64_t items, shard_items;
    struct job_input inputs[MANIFEST_INPUTS_MAX];
    const uint8_t *map[MANIFEST_INPUTS_MAX];
    uint64_t map_bytes[MANIFEST_INPUTS_MAX];
    uint64_t seed;        /* of this process's certificates for the job */
    pthread_mutex_t gate; /* guards the memo */
    void *memo;           /* see struct manifest_evidence */
};

static bool map_input(struct proof *proof, uint32_t i, struct store *store)
{
    int fd;
    if (store_blob_open(store, proof->inputs[i].blob.bytes, false, &fd, &proof->map_bytes[i]) != STORE_OK)
        return false;
    void *const map = mmap(NULL, proof->map_bytes[i], PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    proof->map[i] = map == MAP_FAILED ? NULL : map;
    return map != MAP_FAILED;
}

struct proof *proof_open(const struct job *job, struct store *store)
{
    struct proof *proof = calloc(1, sizeof *proof);
    if (!proof)
        return NULL;
    *proof = (struct proof){.holders = 1,
                            .manifest = job->spec.manifest,
                            .params = job->spec.params,
                            .items = job->spec.items,
                            .shard_items = job->spec.shard_items};
    pthread_mutex_init(&proof->gate, NULL);
    randombytes_buf(&proof->seed, sizeof proof->seed);
    memcpy(proof->inputs, job->spec.inputs, sizeof proof->inputs);
    bool good = true;
    for (uint32_t i = 0; good && i < proof->manifest->input_count; i++)
        good = proof->inputs[i].role == 0 || map_input(proof, i, store);
    if (good)
        return proof;
    proof_drop(proof);
    return NULL;
}

struct proof *proof_keep(struct proof *proof)
{
    proof->holders++;
    return proof;
}

void proof_drop(struct proof *proof)
{
    if (!proof || --proof->holders > 0)
        return;
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        if (proof->map[i])
            munmap((void *)(uintptr_t)proof->map[i], proof->map_bytes[i]);
    pthread_mutex_destroy(&proof->gate);
    free(proof->memo);
    free(proof);
}

/* Where the shard's rows of a split input begin; all of a broadcast one. Kernels with a certificate take no lines of text. */
static const void *rows_of(const struct proof *proof, uint32_t input, uint32_t shard)
{
    const struct job_input *given = &proof->inputs[input];
    uint64_t row_bytes = 0;
    if (given->role == 0)
        return NULL;
    if (given->role == MANIFEST_SPLIT && array_row_bytes(&given->type, &row_bytes) != ARRAY_OK)
        return NULL;
    return proof->map[input] + given->data_offset + shard * proof->shard_items * row_bytes;
}

bool proof_holds(struct proof *proof, struct store *store, uint32_t shard, const struct entry *entry)
{
    const uint64_t left = proof->items - shard * proof->shard_items;
    struct manifest_evidence evidence = {.params = &proof->params,
                                         .items = left < proof->shard_items ? left : proof->shard_items,
                                         .memo = &proof->memo};
    uint8_t *fetched[MANIFEST_OUTPUTS_MAX] = {0};
    bool good = true;
    for (uint32_t i = 0; i < proof->manifest->input_count; i++) {
        evidence.types[i] = proof->inputs[i].type;
        evidence.inputs[i] = rows_of(proof, i, shard);
    }
    for (uint32_t o = 0; good && o < entry->output_count; o++) {
        const struct entry_output *output = &entry->output[o];
        evidence.outputs[o] = output->bytes;
        if (output->bytes)
            continue;
        evidence.outputs[o] = fetched[o] = malloc(output->count);
        good = fetched[o] &&
               store_blob_read(store, output->blob.bytes, 0, output->count, fetched[o]) == STORE_OK;
    }
    if (good) {
        pthread_mutex_lock(&proof->gate);
        good = proof->manifest->certify(&evidence, proof->seed);
        pthread_mutex_unlock(&proof->gate);
    }
    for (uint32_t o = 0; o < entry->output_count; o++)
        free(fetched[o]);
    return good;
}
