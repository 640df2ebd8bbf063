#include "node/payload.h"

#include "node/field.h"
#include "node/user_kernels.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD_VERSION 1

static bool next_is_bin(const struct field_reader *reader)
{
    return reader->error == FIELD_OK && reader->at < reader->end && *reader->at >= 0xc4 &&
           *reader->at <= 0xc6;
}

/* ---- Entries: [output, ...], an output being bin, or [blob, bytes] */

size_t entry_encode(const struct entry *entry, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, entry->output_count);
    for (uint32_t o = 0; o < entry->output_count; o++) {
        const struct entry_output *output = &entry->output[o];
        if (output->bytes) {
            field_put_bin(&writer, output->bytes, output->count);
        } else {
            field_put_array(&writer, 2);
            field_put_bin(&writer, output->blob.bytes, sizeof output->blob.bytes);
            field_put_uint(&writer, output->count);
        }
    }
    return writer.full ? 0 : writer.count;
}

bool entry_decode(const uint8_t *bytes, size_t count, struct entry *entry)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    *entry = (struct entry){.output_count = field_get_array(&reader, 0, MANIFEST_OUTPUTS_MAX)};
    for (uint32_t o = 0; o < entry->output_count; o++) {
        struct entry_output *output = &entry->output[o];
        if (next_is_bin(&reader)) {
            size_t inline_bytes;
            output->bytes = field_get_bin(&reader, 0, ENTRY_BYTES_MAX, &inline_bytes);
            output->count = inline_bytes;
        } else {
            field_get_array(&reader, 2, 2);
            field_get_fixed(&reader, output->blob.bytes, sizeof output->blob.bytes);
            output->count = field_get_uint(&reader, BLOB_BYTES_MAX);
        }
    }
    return field_get_end(&reader);
}

uint32_t entry_blobs(const struct entry *entry, uint8_t blobs[MANIFEST_OUTPUTS_MAX][32])
{
    uint32_t count = 0;
    for (uint32_t o = 0; o < entry->output_count; o++)
        if (!entry->output[o].bytes)
            memcpy(blobs[count++], entry->output[o].blob.bytes, 32);
    return count;
}

/* A byte that begins no msgpack, so that no entry begins with it. */
#define PROVENANCE_MARK 0xc1

void provenance_encode(const struct provenance *provenance, const uint8_t *entry, size_t count, uint8_t *out)
{
    out[0] = PROVENANCE_MARK;
    out[1] = PAYLOAD_VERSION;
    out[2] = (uint8_t)provenance->level;
    out[3] = (uint8_t)((unsigned)provenance->class | (provenance->whole ? 0x80u : 0));
    memcpy(out + 4, provenance->executor.bytes, 32);
    for (int i = 0; i < 8; i++)
        out[36 + i] = (uint8_t)((uint64_t)provenance->at_ms >> 8 * i);
    memcpy(out + PROVENANCE_BYTES, entry, count);
}

size_t provenance_decode(const uint8_t *bytes, size_t count, struct provenance *provenance)
{
    *provenance = (struct provenance){0};
    if (count < PROVENANCE_BYTES || bytes[0] != PROVENANCE_MARK || bytes[1] != PAYLOAD_VERSION)
        return 0;
    provenance->level = (enum mesh_verify)bytes[2];
    provenance->class = (enum manifest_class)(bytes[3] & 0x7f);
    provenance->whole = bytes[3] & 0x80;
    memcpy(provenance->executor.bytes, bytes + 4, 32);
    uint64_t at_ms = 0;
    for (int i = 0; i < 8; i++)
        at_ms |= (uint64_t)bytes[36 + i] << 8 * i;
    provenance->at_ms = (int64_t)at_ms;
    return PROVENANCE_BYTES;
}

bool job_entry_fits(const struct job *job, uint32_t shard, const struct entry *entry)
{
    if (shard >= job->spec.shard_count || entry->output_count != job->spec.output_count)
        return false;
    for (uint32_t o = 0; o < entry->output_count; o++)
        if (entry->output[o].count != job_output_bytes(job, o, shard))
            return false;
    return true;
}

bool job_whole_fits(const struct job *job, const struct entry *entry)
{
    if (entry->output_count != job->spec.output_count)
        return false;
    for (uint32_t o = 0; o < entry->output_count; o++) {
        uint8_t head[ARRAY_NPY_WRITTEN_BYTES_MAX];
        size_t head_bytes;
        uint64_t data_bytes;
        if (entry->output[o].bytes || array_bytes(&job->spec.outputs[o], &data_bytes) != ARRAY_OK ||
            array_npy_encode(&job->spec.outputs[o], head, &head_bytes) != ARRAY_OK ||
            entry->output[o].count != head_bytes + data_bytes)
            return false;
    }
    return true;
}

bool job_ended_fits(const struct job *job)
{
    const struct job_spec *spec = &job->spec;
    struct entry outputs = {.output_count = spec->output_count};
    if (job->state < JOB_DONE || spec->shard_items == 0 || spec->shard_count == 0 ||
        spec->shard_count > MESH_SHARDS_MAX || job->committed > spec->shard_count ||
        spec->shard_count != spec->items / spec->shard_items + (spec->items % spec->shard_items != 0) ||
        spec->output_count == 0 || spec->output_count > spec->manifest->output_count) /* some are optional */
        return false;
    for (uint32_t o = 0; o < spec->output_count; o++) {
        if (spec->output_item_bytes[o] == 0)
            return false;
        outputs.output[o] = (struct entry_output){.count = job->output_bytes[o], .blob = job->output_blob[o]};
    }
    return job->state != JOB_DONE || job_whole_fits(job, &outputs);
}

/* ---- Array types: [dtype, axis, ...] */

static void pack_type(struct field_writer *writer, const struct array_type *type)
{
    field_put_array(writer, 1u + type->rank);
    field_put_uint(writer, type->dtype);
    for (uint32_t axis = 0; axis < type->rank; axis++)
        field_put_uint(writer, type->shape[axis]);
}

static void unpack_type(struct field_reader *reader, struct array_type *type)
{
    *type = (struct array_type){0};
    const uint32_t items = field_get_array(reader, 1, 1 + ARRAY_RANK_MAX);
    type->dtype = (uint8_t)field_get_uint(reader, ARRAY_DTYPES - 1);
    type->rank = items ? (uint8_t)(items - 1) : 0;
    for (uint32_t axis = 0; axis < type->rank; axis++)
        type->shape[axis] = field_get_uint(reader, INT64_MAX);
}

static void pack_input(struct field_writer *writer, const struct job_input *input)
{
    field_put_array(writer, input->role ? 5 : 0);
    if (!input->role)
        return;
    field_put_uint(writer, input->role);
    field_put_bin(writer, input->blob.bytes, sizeof input->blob.bytes);
    pack_type(writer, &input->type);
    field_put_uint(writer, input->data_offset);
    field_put_uint(writer, input->data_bytes);
}

static void unpack_input(struct field_reader *reader, struct job_input *input)
{
    *input = (struct job_input){0};
    const uint32_t items = field_get_array(reader, 0, 5);
    if (items == 0)
        return;
    if (items != 5)
        field_fail(reader, FIELD_RANGE);
    input->role = (enum manifest_role)field_get_uint(reader, MANIFEST_SPLIT);
    if (input->role == 0)
        field_fail(reader, FIELD_RANGE);
    field_get_fixed(reader, input->blob.bytes, sizeof input->blob.bytes);
    unpack_type(reader, &input->type);
    if (input->type.dtype == ARRAY_RAW && input->type.rank == 2)
        input->row_bytes = input->type.shape[1];
    input->data_offset = field_get_uint(reader, BLOB_BYTES_MAX);
    input->data_bytes = field_get_uint(reader, BLOB_BYTES_MAX);
}

/* A built-in kernel is its name; a user's is [manifest's text, source, its bytes, language]. */
static void pack_kernel(struct field_writer *writer, const struct manifest *manifest)
{
    const struct user_kernel *kernel = user_kernel_of(manifest);
    if (!kernel) {
        field_put_text(writer, manifest->name);
        return;
    }
    field_put_array(writer, 4);
    field_put_bin(writer, kernel->user.text, kernel->user.text_bytes);
    field_put_bin(writer, kernel->source.bytes, sizeof kernel->source.bytes);
    field_put_uint(writer, kernel->source_bytes);
    field_put_uint(writer, kernel->language);
}

/* What a shard is computed with, whichever shard it is. */
static void pack_call(struct field_writer *writer, const struct job_spec *spec)
{
    pack_kernel(writer, spec->manifest);
    field_put_bin(writer, spec->kernel.bytes, sizeof spec->kernel.bytes);
    field_put_text(writer, spec->tenant);
    field_put_bin(writer, spec->params.data, spec->params.bytes);
    field_put_array(writer, spec->manifest->input_count);
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

/* NULL if there is none of that name here, or the manifest is bad. A user's is held. */
static const struct manifest *unpack_kernel(struct field_reader *reader)
{
    if (reader->error != FIELD_OK || reader->at >= reader->end ||
        *reader->at != 0x94) { /* an array of four */
        char name[MANIFEST_NAME_BYTES];
        field_get_text(reader, name, sizeof name);
        return manifest_find(name);
    }
    char error[MANIFEST_ERROR_BYTES];
    struct user_kernel_given given = {0};
    field_get_array(reader, 4, 4);
    given.text = (const char *)field_get_bin(reader, 1, MANIFEST_TEXT_BYTES_MAX, &given.text_bytes);
    field_get_fixed(reader, given.source.bytes, sizeof given.source.bytes);
    given.source_bytes = (uint32_t)field_get_uint(reader, MANIFEST_SOURCE_BYTES_MAX);
    given.language = (enum manifest_language)field_get_uint(reader, MANIFEST_PTX);
    return reader->error == FIELD_OK ? user_kernels_take(&given, "manifest", error) : NULL;
}

/* Whoever reads a call has call->manifest to drop. */
static void unpack_call(struct field_reader *reader, struct call *call)
{
    call->manifest = unpack_kernel(reader);
    field_get_fixed(reader, call->kernel.bytes, sizeof call->kernel.bytes);
    field_get_text(reader, call->tenant, sizeof call->tenant);
    size_t count;
    const uint8_t *params = field_get_bin(reader, 0, sizeof call->params.data, &count);
    call->params = (struct manifest_params){.bytes = (uint32_t)count};
    if (count > 0)
        memcpy(call->params.data, params, count);
    call->input_count = field_get_array(reader, 0, MANIFEST_INPUTS_MAX);
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

static void pack_rows(struct field_writer *writer, const struct job *job, uint32_t input, uint32_t shard)
{
    const struct job_slice slice = job_slice(job, input, shard);
    if (slice.bytes <= JOB_INLINE_BYTES_MAX) {
        field_put_bin(writer, job->map[input] + slice.offset, slice.bytes);
        return;
    }
    field_put_array(writer, 3);
    field_put_uint(writer, slice.offset);
    field_put_uint(writer, slice.bytes);
    field_put_bin(writer, job->slices[input][shard].bytes, sizeof(struct digest));
}

struct bytes *assign_encode(const struct job *job, const uint32_t *shards, uint32_t count)
{
    static uint8_t buffer[WIRE_PAYLOAD_BYTES_MAX];
    const struct job_spec *spec = &job->spec;
    uint32_t split_count = 0;
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        split_count += spec->inputs[i].role == MANIFEST_SPLIT;

    struct field_writer writer;
    field_writer_init(&writer, buffer, sizeof buffer);
    field_put_array(&writer, 7);
    field_put_uint(&writer, PAYLOAD_VERSION);
    pack_call(&writer, spec);
    field_put_array(&writer, count);
    for (uint32_t s = 0; s < count; s++) {
        field_put_array(&writer, 2 + split_count);
        field_put_uint(&writer, shards[s] * spec->shard_items);
        field_put_uint(&writer, job_shard_items(job, shards[s]));
        for (uint32_t i = 0; i < spec->manifest->input_count; i++)
            if (spec->inputs[i].role == MANIFEST_SPLIT)
                pack_rows(&writer, job, i, shards[s]);
    }
    return writer.full ? NULL : bytes_make(buffer, writer.count);
}

static void unpack_rows(struct field_reader *reader, const struct job_input *input,
                        struct assign_shard *shard, struct assign_rows *rows)
{
    rows->type = input->type;
    rows->type.shape[0] = shard->items;
    if (next_is_bin(reader)) {
        size_t count;
        rows->bytes = field_get_bin(reader, 0, JOB_INLINE_BYTES_MAX, &count);
        rows->count = count;
        return;
    }
    field_get_array(reader, 3, 3);
    rows->offset = field_get_uint(reader, BLOB_BYTES_MAX);
    rows->count = field_get_uint(reader, MANIFEST_SHARD_BYTES_MAX);
    field_get_fixed(reader, rows->digest.bytes, sizeof rows->digest.bytes);
}

enum assign_error assign_decode(const struct bytes *bytes, struct assign *assign)
{
    *assign = (struct assign){0};
    struct field_reader reader;
    field_reader_init(&reader, bytes->data, bytes->count);
    field_get_array(&reader, 7, 7);
    if (field_get_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return ASSIGN_UNKNOWN_KERNEL;
    struct call call = {0};
    unpack_call(&reader, &call);
    const uint32_t count = field_get_array(&reader, 1, MESH_BUNDLE_SHARDS_MAX);
    assign->manifest = call.manifest; /* assign_deinit drops it */
    if (reader.error != FIELD_OK)
        return ASSIGN_MALFORMED;
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
        field_get_array(&reader, 2 + split_count, 2 + split_count);
        shard->first_item = field_get_uint(&reader, INT64_MAX);
        shard->items = field_get_uint(&reader, INT64_MAX);
        for (uint32_t i = 0; i < call.input_count; i++)
            if (call.inputs[i].role == MANIFEST_SPLIT)
                unpack_rows(&reader, &call.inputs[i], shard, &shard->rows[i]);
    }
    return field_get_end(&reader) ? ASSIGN_OK : ASSIGN_MALFORMED;
}

void assign_deinit(struct assign *assign)
{
    user_kernels_drop(assign->manifest);
    assign->manifest = NULL;
    free(assign->shards);
    assign->shards = NULL;
    assign->shard_count = 0;
}

/* ---- RESULT: [version, [entry or message as bin, ...]] */

struct bytes *result_encode(const struct result_item *items, uint32_t count)
{
    size_t capacity = 16;
    for (uint32_t i = 0; i < count; i++)
        capacity += items[i].count + 5;
    struct bytes *bytes = bytes_make(NULL, capacity);
    struct field_writer writer;
    field_writer_init(&writer, bytes->data, capacity);
    field_put_array(&writer, 2);
    field_put_uint(&writer, PAYLOAD_VERSION);
    field_put_array(&writer, count);
    for (uint32_t i = 0; i < count; i++)
        field_put_bin(&writer, items[i].bytes, items[i].count);
    assert(!writer.full);
    bytes->count = writer.count;
    return bytes;
}

int result_decode(const struct bytes *bytes, struct result_item *items, uint32_t capacity)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes->data, bytes->count);
    field_get_array(&reader, 2, 2);
    if (field_get_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return -1;
    const uint32_t count = field_get_array(&reader, 0, capacity);
    for (uint32_t i = 0; i < count; i++)
        items[i].bytes = field_get_bin(&reader, 0, ENTRY_BYTES_MAX, &items[i].count);
    return field_get_end(&reader) ? (int)count : -1;
}

/* ---- Rows */

/* A job's row; the first version had no word of copies and of where the job came from, the second none of verification.
 * Whom it is doubted for comes last, where it is: that row stays at home, and older programs read all others. */
enum { JOB_ROW_FIELDS_FIRST = 23, JOB_ROW_FIELDS_SECOND = 25, JOB_ROW_FIELDS = 28, JOB_ROW_FIELDS_DOUBTED };

size_t job_row_encode(const struct job *job, uint8_t *out, size_t capacity)
{
    const struct job_spec *spec = &job->spec;
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, job->doubted ? JOB_ROW_FIELDS_DOUBTED : JOB_ROW_FIELDS);
    field_put_uint(&writer, PAYLOAD_VERSION);
    field_put_bin(&writer, spec->id.bytes, sizeof spec->id.bytes);
    pack_call(&writer, spec); /* five fields */
    field_put_text(&writer, spec->key);
    field_put_uint(&writer, spec->items);
    field_put_uint(&writer, spec->shard_items);
    field_put_uint(&writer, spec->shard_count);
    field_put_uint(&writer, spec->cache);
    field_put_bool(&writer, spec->local_only);
    field_put_int(&writer, spec->created_at_ms);
    field_put_array(&writer, spec->output_count);
    for (uint32_t o = 0; o < spec->output_count; o++) {
        field_put_array(&writer, 4);
        pack_type(&writer, &spec->outputs[o]);
        field_put_uint(&writer, spec->output_item_bytes[o]);
        field_put_bin(&writer, job->output_blob[o].bytes, sizeof job->output_blob[o].bytes);
        field_put_uint(&writer, job->output_bytes[o]);
    }
    field_put_uint(&writer, job->state);
    field_put_uint(&writer, job->epoch);
    field_put_int(&writer, job->finished_at_ms);
    field_put_bin(&writer, job->error, strlen(job->error));
    field_put_uint(&writer, job->committed);
    field_put_uint(&writer, job->cached);
    field_put_uint(&writer, job->reassigned);
    field_put_array(&writer, job->share_count);
    for (uint32_t i = 0; i < job->share_count; i++) {
        field_put_array(&writer, 3);
        field_put_bin(&writer, job->share[i].node.bytes, sizeof job->share[i].node.bytes);
        field_put_uint(&writer, job->share[i].shards);
        field_put_uint(&writer, job->share[i].device_us);
    }
    field_put_uint(&writer, job->copies);
    field_put_text(&writer, spec->origin);
    field_put_uint(&writer, spec->verify);
    field_put_uint(&writer, spec->verify_permille);
    field_put_uint(&writer, job->disputed);
    if (job->doubted)
        field_put_bin(&writer, job->doubt.bytes, sizeof job->doubt.bytes);
    return writer.full ? 0 : writer.count;
}

static void unpack_outputs(struct field_reader *reader, struct job *job)
{
    struct job_spec *spec = &job->spec;
    spec->output_count = field_get_array(reader, 0, MANIFEST_OUTPUTS_MAX);
    for (uint32_t o = 0; o < spec->output_count; o++) {
        field_get_array(reader, 4, 4);
        unpack_type(reader, &spec->outputs[o]);
        spec->output_item_bytes[o] = field_get_uint(reader, UINT64_MAX);
        field_get_fixed(reader, job->output_blob[o].bytes, sizeof job->output_blob[o].bytes);
        job->output_bytes[o] = field_get_uint(reader, UINT64_MAX);
    }
}

static void unpack_progress(struct field_reader *reader, struct job *job)
{
    job->state = (enum job_state)field_get_uint(reader, JOB_CANCELLED);
    job->epoch = field_get_uint(reader, UINT64_MAX);
    job->finished_at_ms = field_get_int(reader, INT64_MIN, INT64_MAX);
    size_t count;
    const uint8_t *error = field_get_bin(reader, 0, JOB_ERROR_BYTES - 1, &count);
    if (count > 0)
        memcpy(job->error, error, count);
    job->committed = (uint32_t)field_get_uint(reader, UINT32_MAX);
    job->cached = (uint32_t)field_get_uint(reader, UINT32_MAX);
    job->reassigned = (uint32_t)field_get_uint(reader, UINT32_MAX);
    job->share_count = field_get_array(reader, 0, JOB_NODES_MAX);
    for (uint32_t i = 0; i < job->share_count; i++) {
        field_get_array(reader, 3, 3);
        field_get_fixed(reader, job->share[i].node.bytes, sizeof job->share[i].node.bytes);
        job->share[i].shards = (uint32_t)field_get_uint(reader, UINT32_MAX);
        job->share[i].device_us = field_get_uint(reader, UINT64_MAX);
    }
}

struct job *job_row_decode(const uint8_t *bytes, size_t count)
{
    struct job *job = job_make();
    if (!job)
        abort();
    struct job_spec *spec = &job->spec;
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    const uint32_t fields = field_get_array(&reader, JOB_ROW_FIELDS_FIRST, JOB_ROW_FIELDS_DOUBTED);
    if (field_get_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        field_fail(&reader, FIELD_RANGE);
    field_get_fixed(&reader, spec->id.bytes, sizeof spec->id.bytes);
    struct call call = {0};
    unpack_call(&reader, &call);
    spec->manifest = call.manifest;
    spec->kernel = call.kernel;
    memcpy(spec->tenant, call.tenant, sizeof spec->tenant);
    spec->params = call.params;
    memcpy(spec->inputs, call.inputs, sizeof spec->inputs);
    field_get_text(&reader, spec->key, sizeof spec->key);
    spec->items = field_get_uint(&reader, INT64_MAX);
    spec->shard_items = field_get_uint(&reader, INT64_MAX);
    spec->shard_count = (uint32_t)field_get_uint(&reader, MESH_SHARDS_MAX);
    spec->cache = (enum job_cache)field_get_uint(&reader, JOB_CACHE_MESH);
    spec->local_only = field_get_bool(&reader);
    spec->created_at_ms = field_get_int(&reader, INT64_MIN, INT64_MAX);
    unpack_outputs(&reader, job);
    unpack_progress(&reader, job);
    job->copies = 1;
    if (fields >= JOB_ROW_FIELDS_SECOND) {
        job->copies = (uint32_t)field_get_uint(&reader, MESH_COPIES_MAX);
        field_get_text(&reader, spec->origin, sizeof spec->origin);
    }
    if (fields >= JOB_ROW_FIELDS) {
        spec->verify = (enum mesh_verify)field_get_uint(&reader, MESH_VERIFY_CERTIFICATE);
        spec->verify_permille = (uint32_t)field_get_uint(&reader, 1000);
        job->disputed = (uint32_t)field_get_uint(&reader, MESH_SHARDS_MAX);
    }
    job->doubted = fields == JOB_ROW_FIELDS_DOUBTED;
    if (job->doubted)
        field_get_fixed(&reader, job->doubt.bytes, sizeof job->doubt.bytes);
    if (fields != JOB_ROW_FIELDS_FIRST && fields != JOB_ROW_FIELDS_SECOND && fields < JOB_ROW_FIELDS)
        field_fail(&reader, FIELD_RANGE);
    if (field_get_end(&reader) && call.manifest)
        return job;
    job_free(job);
    return NULL;
}

size_t first_entry_encode(const struct first_entry *entry, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, 1 + entry->input_count);
    field_put_bin(&writer, entry->row, entry->row_bytes);
    for (uint32_t i = 0; i < entry->input_count; i++)
        field_put_bin(&writer, entry->input[i].bytes, entry->input[i].count);
    return writer.full ? 0 : writer.count;
}

static bool is_input(const struct result_item *riding, const struct job_input *input)
{
    const struct digest id = blob_id(riding->bytes, riding->count);
    return input->role && digest_equal(&id, &input->blob);
}

struct job *first_entry_decode(const uint8_t *bytes, size_t count, struct first_entry *entry)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    *entry = (struct first_entry){.row = bytes, .row_bytes = count};
    const uint32_t items = field_get_array(&reader, 2, JOB_ROW_FIELDS);
    if (items <= 1 + MANIFEST_INPUTS_MAX) {
        entry->row = field_get_bin(&reader, 0, JOB_ROW_BYTES_MAX, &entry->row_bytes);
        entry->input_count = items ? items - 1 : 0;
        for (uint32_t i = 0; i < entry->input_count; i++) {
            struct result_item *riding = &entry->input[i];
            riding->bytes = field_get_bin(&reader, 0, JOB_INLINE_BYTES_MAX, &riding->count);
            if (riding->count == 0)
                riding->bytes = NULL;
        }
        if (!field_get_end(&reader))
            return NULL;
    }
    struct job *job = job_row_decode(entry->row, entry->row_bytes);
    bool good = job != NULL;
    for (uint32_t i = 0; good && i < entry->input_count; i++)
        good = !entry->input[i].bytes || is_input(&entry->input[i], &job->spec.inputs[i]);
    if (good)
        return job;
    if (job)
        job_free(job);
    return NULL;
}

enum { COMMIT_FIELDS = 6, DISPUTE_FIELDS = 2 };

size_t journal_row_encode(const struct journal_row *row, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    if (row->disputes) {
        field_put_array(&writer, DISPUTE_FIELDS);
        field_put_uint(&writer, PAYLOAD_VERSION);
        field_put_array(&writer, row->count);
        for (uint32_t i = 0; i < row->count; i++)
            field_put_uint(&writer, row->item[i].shard);
        return writer.full ? 0 : writer.count;
    }
    field_put_array(&writer, COMMIT_FIELDS);
    field_put_uint(&writer, PAYLOAD_VERSION);
    field_put_uint(&writer, row->epoch);
    field_put_bin(&writer, row->executor.bytes, sizeof row->executor.bytes);
    field_put_uint(&writer, row->device_us);
    field_put_bool(&writer, row->cached);
    field_put_array(&writer, 2 * row->count);
    for (uint32_t i = 0; i < row->count; i++) {
        field_put_uint(&writer, row->item[i].shard);
        field_put_bin(&writer, row->item[i].entry.bytes, row->item[i].entry.count);
    }
    return writer.full ? 0 : writer.count;
}

bool journal_row_decode(const uint8_t *bytes, size_t count, struct journal_row *row)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    const uint32_t fields = field_get_array(&reader, DISPUTE_FIELDS, COMMIT_FIELDS);
    if (field_get_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION ||
        (fields != DISPUTE_FIELDS && fields != COMMIT_FIELDS))
        return false;
    *row = (struct journal_row){.disputes = fields == DISPUTE_FIELDS};
    if (row->disputes) {
        row->count = field_get_array(&reader, 1, MESH_BUNDLE_SHARDS_MAX);
        for (uint32_t i = 0; i < row->count; i++)
            row->item[i].shard = (uint32_t)field_get_uint(&reader, UINT32_MAX);
        return field_get_end(&reader);
    }
    row->epoch = field_get_uint(&reader, UINT64_MAX);
    field_get_fixed(&reader, row->executor.bytes, sizeof row->executor.bytes);
    row->device_us = field_get_uint(&reader, UINT64_MAX);
    row->cached = field_get_bool(&reader);
    row->count = field_get_array(&reader, 0, 2 * MESH_LOOKUP_SHARDS_MAX) / 2;
    for (uint32_t i = 0; i < row->count; i++) {
        row->item[i].shard = (uint32_t)field_get_uint(&reader, UINT32_MAX);
        row->item[i].entry.bytes = field_get_bin(&reader, 0, ENTRY_BYTES_MAX, &row->item[i].entry.count);
    }
    return field_get_end(&reader);
}

size_t journal_end_encode(const struct journal_end *end, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, 4);
    field_put_uint(&writer, PAYLOAD_VERSION);
    field_put_uint(&writer, end->state);
    field_put_int(&writer, end->at_ms);
    field_put_bin(&writer, end->error, strlen(end->error));
    return writer.full ? 0 : writer.count;
}

bool journal_end_decode(const uint8_t *bytes, size_t count, struct journal_end *end)
{
    *end = (struct journal_end){0};
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    field_get_array(&reader, 4, 4);
    if (field_get_uint(&reader, UINT32_MAX) != PAYLOAD_VERSION)
        return false;
    end->state = (enum mesh_job_state)field_get_uint(&reader, MESH_JOB_CANCELLED);
    end->at_ms = field_get_int(&reader, INT64_MIN, INT64_MAX);
    size_t error_bytes;
    const uint8_t *error = field_get_bin(&reader, 0, JOB_ERROR_BYTES - 1, &error_bytes);
    if (error_bytes > 0)
        memcpy(end->error, error, error_bytes);
    return field_get_end(&reader) && end->state >= MESH_JOB_DONE;
}
