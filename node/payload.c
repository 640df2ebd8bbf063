#include "node/payload.h"

#include "node/pack.h"

#include <stdlib.h>
#include <string.h>

#define PAYLOAD_VERSION 1

static bool next_is_bin(const struct pack_reader *reader)
{
    return reader->error == PACK_OK && reader->at < reader->end && *reader->at >= 0xc4 && *reader->at <= 0xc6;
}

/* ---- Entries: [output, ...], an output being bin, or [blob, bytes] */

size_t entry_encode(const struct entry *entry, uint8_t *out, size_t capacity)
{
    struct pack_writer writer;
    pack_init(&writer, out, capacity);
    pack_array(&writer, entry->output_count);
    for (uint32_t o = 0; o < entry->output_count; o++) {
        const struct entry_output *output = &entry->output[o];
        if (output->bytes) {
            pack_bin(&writer, output->bytes, output->count);
        } else {
            pack_array(&writer, 2);
            pack_bin(&writer, output->blob.bytes, sizeof output->blob.bytes);
            pack_uint(&writer, output->count);
        }
    }
    return writer.full ? 0 : writer.count;
}

bool entry_decode(const uint8_t *bytes, size_t count, struct entry *entry)
{
    struct pack_reader reader;
    unpack_init(&reader, bytes, count);
    *entry = (struct entry){.output_count = unpack_array(&reader, 0, MANIFEST_OUTPUTS_MAX)};
    for (uint32_t o = 0; o < entry->output_count; o++) {
        struct entry_output *output = &entry->output[o];
        if (next_is_bin(&reader)) {
            size_t inline_bytes;
            output->bytes = unpack_bin(&reader, 0, ENTRY_BYTES_MAX, &inline_bytes);
            output->count = inline_bytes;
        } else {
            unpack_array(&reader, 2, 2);
            unpack_fixed(&reader, output->blob.bytes, sizeof output->blob.bytes);
            output->count = unpack_uint(&reader, BLOB_BYTES_MAX);
        }
    }
    return unpack_end(&reader);
}

uint32_t entry_blobs(const struct entry *entry, uint8_t blobs[MANIFEST_OUTPUTS_MAX][32])
{
    uint32_t count = 0;
    for (uint32_t o = 0; o < entry->output_count; o++)
        if (!entry->output[o].bytes)
            memcpy(blobs[count++], entry->output[o].blob.bytes, 32);
    return count;
}

/* ---- Array types: [dtype, axis, ...] */

static void pack_type(struct pack_writer *writer, const struct array_type *type)
{
    pack_array(writer, 1u + type->rank);
    pack_uint(writer, type->dtype);
    for (uint32_t axis = 0; axis < type->rank; axis++)
        pack_uint(writer, type->shape[axis]);
}

static void unpack_type(struct pack_reader *reader, struct array_type *type)
{
    *type = (struct array_type){0};
    const uint32_t items = unpack_array(reader, 1, 1 + ARRAY_RANK_MAX);
    type->dtype = (uint8_t)unpack_uint(reader, ARRAY_DTYPES - 1);
    type->rank = items ? (uint8_t)(items - 1) : 0;
    for (uint32_t axis = 0; axis < type->rank; axis++)
        type->shape[axis] = unpack_uint(reader, INT64_MAX);
}

static void pack_input(struct pack_writer *writer, const struct job_input *input)
{
    pack_array(writer, input->role ? 5 : 0);
    if (!input->role)
        return;
    pack_uint(writer, input->role);
    pack_bin(writer, input->blob.bytes, sizeof input->blob.bytes);
    pack_type(writer, &input->type);
    pack_uint(writer, input->data_offset);
    pack_uint(writer, input->data_bytes);
}

static void unpack_input(struct pack_reader *reader, struct job_input *input)
{
    *input = (struct job_input){0};
    const uint32_t items = unpack_array(reader, 0, 5);
    if (items == 0)
        return;
    if (items != 5)
        unpack_fail(reader, PACK_RANGE);
    input->role = (enum manifest_role)unpack_uint(reader, MANIFEST_SPLIT);
    if (input->role == 0)
        unpack_fail(reader, PACK_RANGE);
    unpack_fixed(reader, input->blob.bytes, sizeof input->blob.bytes);
    unpack_type(reader, &input->type);
    input->data_offset = unpack_uint(reader, BLOB_BYTES_MAX);
    input->data_bytes = unpack_uint(reader, BLOB_BYTES_MAX);
}

/* What a shard is computed with, whichever shard it is. */
static void pack_call(struct pack_writer *writer, const struct job_spec *spec)
{
    pack_text(writer, spec->manifest->name);
    pack_bin(writer, spec->kernel.bytes, sizeof spec->kernel.bytes);
    pack_text(writer, spec->tenant);
    pack_bin(writer, spec->params.data, spec->params.bytes);
    pack_array(writer, spec->manifest->input_count);
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        pack_input(writer, &spec->inputs[i]);
}

struct call {
    const struct manifest *manifest;
    struct digest kernel;
    char tenant[JOB_TENANT_BYTES];
    struct manifest_params params;
    struct job_input inputs[MANIFEST_INPUTS_MAX];
    uint32_t input_count;
};

static void unpack_call(struct pack_reader *reader, struct call *call)
{
    char name[MANIFEST_NAME_BYTES];
    unpack_text(reader, name, sizeof name);
    call->manifest = manifest_find(name);
    unpack_fixed(reader, call->kernel.bytes, sizeof call->kernel.bytes);
    unpack_text(reader, call->tenant, sizeof call->tenant);
    size_t count;
    const uint8_t *params = unpack_bin(reader, 0, sizeof call->params.data, &count);
    call->params = (struct manifest_params){.bytes = (uint32_t)count};
    if (count > 0)
        memcpy(call->params.data, params, count);
    call->input_count = unpack_array(reader, 0, MANIFEST_INPUTS_MAX);
    for (uint32_t i = 0; i < call->input_count; i++)
        unpack_input(reader, &call->inputs[i]);
}

/* Whether this node runs that very kernel with those parameters. */
static bool call_known(const struct call *call)
{
    if (!call->manifest || call->manifest->input_count != call->input_count)
        return false;
    const struct digest ours = job_kernel_digest(call->manifest);
    char error[MANIFEST_ERROR_BYTES];
    return digest_equal(&ours, &call->kernel) &&
           manifest_params_check(call->manifest, &call->params, error) == MANIFEST_OK;
}

/* ---- ASSIGN: [version, call..., [shard, ...]], a shard being [first item, items, rows, ...] */

static void pack_rows(struct pack_writer *writer, const struct job *job, uint32_t input, uint32_t shard)
{
    const struct job_slice slice = job_slice(job, input, shard);
    if (slice.bytes <= JOB_INLINE_BYTES_MAX) {
        pack_bin(writer, job->map[input] + slice.offset, slice.bytes);
        return;
    }
    pack_array(writer, 3);
    pack_uint(writer, slice.offset);
    pack_uint(writer, slice.bytes);
    pack_bin(writer, job->slices[input][shard].bytes, sizeof(struct digest));
}

struct bytes *assign_encode(const struct job *job, const uint32_t *shards, uint32_t count)
{
    static uint8_t buffer[WIRE_PAYLOAD_BYTES_MAX];
    const struct job_spec *spec = &job->spec;
    uint32_t split_count = 0;
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        split_count += spec->inputs[i].role == MANIFEST_SPLIT;

    struct pack_writer writer;
    pack_init(&writer, buffer, sizeof buffer);
    pack_array(&writer, 7);
    pack_uint(&writer, PAYLOAD_VERSION);
    pack_call(&writer, spec);
    pack_array(&writer, count);
    for (uint32_t s = 0; s < count; s++) {
        pack_array(&writer, 2 + split_count);
        pack_uint(&writer, shards[s] * spec->shard_items);
        pack_uint(&writer, job_shard_items(job, shards[s]));
        for (uint32_t i = 0; i < spec->manifest->input_count; i++)
            if (spec->inputs[i].role == MANIFEST_SPLIT)
                pack_rows(&writer, job, i, shards[s]);
    }
    return writer.full ? NULL : bytes_make(buffer, writer.count);
}

static void unpack_rows(struct pack_reader *reader, const struct job_input *input, struct assign_shard *shard,
                        struct assign_rows *rows)
{
    rows->type = input->type;
    rows->type.shape[0] = shard->items;
    if (next_is_bin(reader)) {
        size_t count;
        rows->bytes = unpack_bin(reader, 0, JOB_INLINE_BYTES_MAX, &count);
        rows->count = count;
        return;
    }
    unpack_array(reader, 3, 3);
    rows->offset = unpack_uint(reader, BLOB_BYTES_MAX);
    rows->count = unpack_uint(reader, MANIFEST_SHARD_BYTES_MAX);
    unpack_fixed(reader, rows->digest.bytes, sizeof rows->digest.bytes);
}

enum assign_error assign_decode(const struct bytes *bytes, struct assign *assign)
{
    *assign = (struct assign){0};
    struct pack_reader reader;
    unpack_init(&reader, bytes->data, bytes->count);
    unpack_array(&reader, 7, 7);
    if (unpack_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return ASSIGN_UNKNOWN_KERNEL;
    struct call call = {0};
    unpack_call(&reader, &call);
    const uint32_t count = unpack_array(&reader, 1, MESH_BUNDLE_SHARDS_MAX);
    if (reader.error != PACK_OK)
        return ASSIGN_MALFORMED;
    assign->manifest = call.manifest;
    assign->kernel = call.kernel;
    memcpy(assign->tenant, call.tenant, sizeof assign->tenant);
    assign->params = call.params;
    memcpy(assign->inputs, call.inputs, sizeof assign->inputs);
    if (!call_known(&call))
        return ASSIGN_UNKNOWN_KERNEL;

    uint32_t split_count = 0;
    for (uint32_t i = 0; i < call.input_count; i++)
        split_count += call.inputs[i].role == MANIFEST_SPLIT;
    assign->shard_count = count;
    assign->shards = calloc(count, sizeof *assign->shards);
    if (!assign->shards)
        abort();
    for (uint32_t s = 0; s < count; s++) {
        struct assign_shard *shard = &assign->shards[s];
        unpack_array(&reader, 2 + split_count, 2 + split_count);
        shard->first_item = unpack_uint(&reader, INT64_MAX);
        shard->items = unpack_uint(&reader, INT64_MAX);
        for (uint32_t i = 0; i < call.input_count; i++)
            if (call.inputs[i].role == MANIFEST_SPLIT)
                unpack_rows(&reader, &call.inputs[i], shard, &shard->rows[i]);
    }
    if (unpack_end(&reader))
        return ASSIGN_OK;
    assign_deinit(assign);
    return ASSIGN_MALFORMED;
}

void assign_deinit(struct assign *assign)
{
    free(assign->shards);
    assign->shards = NULL;
    assign->shard_count = 0;
}

/* ---- RESULT: [version, [entry or message as bin, ...]] */

struct bytes *result_encode(const struct result_item *items, uint32_t count)
{
    static uint8_t buffer[WIRE_PAYLOAD_BYTES_MAX];
    struct pack_writer writer;
    pack_init(&writer, buffer, sizeof buffer);
    pack_array(&writer, 2);
    pack_uint(&writer, PAYLOAD_VERSION);
    pack_array(&writer, count);
    for (uint32_t i = 0; i < count; i++)
        pack_bin(&writer, items[i].bytes, items[i].count);
    return writer.full ? NULL : bytes_make(buffer, writer.count);
}

int result_decode(const struct bytes *bytes, struct result_item *items, uint32_t capacity)
{
    struct pack_reader reader;
    unpack_init(&reader, bytes->data, bytes->count);
    unpack_array(&reader, 2, 2);
    if (unpack_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return -1;
    const uint32_t count = unpack_array(&reader, 0, capacity);
    for (uint32_t i = 0; i < count; i++)
        items[i].bytes = unpack_bin(&reader, 0, ENTRY_BYTES_MAX, &items[i].count);
    return unpack_end(&reader) ? (int)count : -1;
}

/* ---- Rows */

size_t job_row_encode(const struct job *job, uint8_t *out, size_t capacity)
{
    const struct job_spec *spec = &job->spec;
    struct pack_writer writer;
    pack_init(&writer, out, capacity);
    pack_array(&writer, 23);
    pack_uint(&writer, PAYLOAD_VERSION);
    pack_bin(&writer, spec->id.bytes, sizeof spec->id.bytes);
    pack_call(&writer, spec); /* five fields */
    pack_text(&writer, spec->key);
    pack_uint(&writer, spec->items);
    pack_uint(&writer, spec->shard_items);
    pack_uint(&writer, spec->shard_count);
    pack_uint(&writer, spec->cache);
    pack_bool(&writer, spec->local_only);
    pack_int(&writer, spec->created_at_ms);
    pack_array(&writer, spec->output_count);
    for (uint32_t o = 0; o < spec->output_count; o++) {
        pack_array(&writer, 4);
        pack_type(&writer, &spec->outputs[o]);
        pack_uint(&writer, spec->output_item_bytes[o]);
        pack_bin(&writer, job->output_blob[o].bytes, sizeof job->output_blob[o].bytes);
        pack_uint(&writer, job->output_bytes[o]);
    }
    pack_uint(&writer, job->state);
    pack_uint(&writer, job->epoch);
    pack_int(&writer, job->finished_at_ms);
    pack_bin(&writer, job->error, strlen(job->error));
    pack_uint(&writer, job->committed);
    pack_uint(&writer, job->cached);
    pack_uint(&writer, job->reassigned);
    pack_array(&writer, job->share_count);
    for (uint32_t i = 0; i < job->share_count; i++) {
        pack_array(&writer, 3);
        pack_bin(&writer, job->share[i].node.bytes, sizeof job->share[i].node.bytes);
        pack_uint(&writer, job->share[i].shards);
        pack_uint(&writer, job->share[i].device_us);
    }
    return writer.full ? 0 : writer.count;
}

static void unpack_outputs(struct pack_reader *reader, struct job *job)
{
    struct job_spec *spec = &job->spec;
    spec->output_count = unpack_array(reader, 0, MANIFEST_OUTPUTS_MAX);
    for (uint32_t o = 0; o < spec->output_count; o++) {
        unpack_array(reader, 4, 4);
        unpack_type(reader, &spec->outputs[o]);
        spec->output_item_bytes[o] = unpack_uint(reader, UINT64_MAX);
        unpack_fixed(reader, job->output_blob[o].bytes, sizeof job->output_blob[o].bytes);
        job->output_bytes[o] = unpack_uint(reader, UINT64_MAX);
    }
}

static void unpack_progress(struct pack_reader *reader, struct job *job)
{
    job->state = (enum job_state)unpack_uint(reader, JOB_CANCELLED);
    job->epoch = unpack_uint(reader, UINT64_MAX);
    job->finished_at_ms = unpack_int(reader, INT64_MIN, INT64_MAX);
    size_t count;
    const uint8_t *error = unpack_bin(reader, 0, JOB_ERROR_BYTES - 1, &count);
    if (count > 0)
        memcpy(job->error, error, count);
    job->committed = (uint32_t)unpack_uint(reader, UINT32_MAX);
    job->cached = (uint32_t)unpack_uint(reader, UINT32_MAX);
    job->reassigned = (uint32_t)unpack_uint(reader, UINT32_MAX);
    job->share_count = unpack_array(reader, 0, JOB_NODES_MAX);
    for (uint32_t i = 0; i < job->share_count; i++) {
        unpack_array(reader, 3, 3);
        unpack_fixed(reader, job->share[i].node.bytes, sizeof job->share[i].node.bytes);
        job->share[i].shards = (uint32_t)unpack_uint(reader, UINT32_MAX);
        job->share[i].device_us = unpack_uint(reader, UINT64_MAX);
    }
}

struct job *job_row_decode(const uint8_t *bytes, size_t count)
{
    struct job *job = job_make();
    if (!job)
        abort();
    struct job_spec *spec = &job->spec;
    struct pack_reader reader;
    unpack_init(&reader, bytes, count);
    unpack_array(&reader, 23, 23);
    if (unpack_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        unpack_fail(&reader, PACK_RANGE);
    unpack_fixed(&reader, spec->id.bytes, sizeof spec->id.bytes);
    struct call call = {0};
    unpack_call(&reader, &call);
    spec->manifest = call.manifest;
    spec->kernel = call.kernel;
    memcpy(spec->tenant, call.tenant, sizeof spec->tenant);
    spec->params = call.params;
    memcpy(spec->inputs, call.inputs, sizeof spec->inputs);
    unpack_text(&reader, spec->key, sizeof spec->key);
    spec->items = unpack_uint(&reader, INT64_MAX);
    spec->shard_items = unpack_uint(&reader, INT64_MAX);
    spec->shard_count = (uint32_t)unpack_uint(&reader, MESH_SHARDS_MAX);
    spec->cache = (enum job_cache)unpack_uint(&reader, JOB_CACHE_MESH);
    spec->local_only = unpack_bool(&reader);
    spec->created_at_ms = unpack_int(&reader, INT64_MIN, INT64_MAX);
    unpack_outputs(&reader, job);
    unpack_progress(&reader, job);
    if (unpack_end(&reader) && call.manifest)
        return job;
    job_free(job);
    return NULL;
}

size_t journal_row_encode(const struct journal_row *row, uint8_t *out, size_t capacity)
{
    struct pack_writer writer;
    pack_init(&writer, out, capacity);
    pack_array(&writer, 6);
    pack_uint(&writer, PAYLOAD_VERSION);
    pack_uint(&writer, row->epoch);
    pack_bin(&writer, row->executor.bytes, sizeof row->executor.bytes);
    pack_uint(&writer, row->device_us);
    pack_bool(&writer, row->cached);
    pack_array(&writer, 2 * row->count);
    for (uint32_t i = 0; i < row->count; i++) {
        pack_uint(&writer, row->item[i].shard);
        pack_bin(&writer, row->item[i].entry.bytes, row->item[i].entry.count);
    }
    return writer.full ? 0 : writer.count;
}

bool journal_row_decode(const uint8_t *bytes, size_t count, struct journal_row *row)
{
    struct pack_reader reader;
    unpack_init(&reader, bytes, count);
    unpack_array(&reader, 6, 6);
    if (unpack_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return false;
    row->epoch = unpack_uint(&reader, UINT64_MAX);
    unpack_fixed(&reader, row->executor.bytes, sizeof row->executor.bytes);
    row->device_us = unpack_uint(&reader, UINT64_MAX);
    row->cached = unpack_bool(&reader);
    row->count = unpack_array(&reader, 0, 2 * MESH_LOOKUP_SHARDS_MAX) / 2;
    for (uint32_t i = 0; i < row->count; i++) {
        row->item[i].shard = (uint32_t)unpack_uint(&reader, UINT32_MAX);
        row->item[i].entry.bytes = unpack_bin(&reader, 0, ENTRY_BYTES_MAX, &row->item[i].entry.count);
    }
    return unpack_end(&reader);
}
