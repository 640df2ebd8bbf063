#include "node/job.h"

#include "node/api.h"
#include "node/proof.h"
#include "node/user_kernels.h"

#include "kernels/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Large outputs of one bundle, which its executor stores in one batch: half of what a batch may hold. */
#define LARGE_BYTES_MAX (STORE_BATCH_BYTES_MAX / 2)

struct digest job_kernel_digest(const struct manifest *manifest)
{
    const struct user_kernel *user = user_kernel_of(manifest);
    if (user)
        return user->kernel;
    struct digest_stream stream;
    digest_init(&stream, "weir kernel 1");
    digest_update_u64(&stream, strlen(manifest->name));
    digest_update(&stream, manifest->name, strlen(manifest->name));
    digest_update_u64(&stream, manifest->version);
    digest_update(&stream, manifest_source_digest(manifest), MANIFEST_DIGEST_BYTES);
    return digest_final(&stream);
}

struct digest job_results_owner(const struct mesh_id *id)
{
    return digest_of("weir job results 1", id->bytes, sizeof id->bytes);
}

struct digest job_request(const struct job *job)
{
    const struct job_spec *spec = &job->spec;
    struct digest_stream stream;
    digest_init(&stream, "weir job request 1");
    digest_update(&stream, spec->kernel.bytes, sizeof spec->kernel.bytes);
    digest_update_u64(&stream, spec->params.bytes);
    digest_update(&stream, spec->params.data, spec->params.bytes);
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++) {
        digest_update_u64(&stream, spec->inputs[i].role);
        digest_update(&stream, spec->inputs[i].blob.bytes, sizeof spec->inputs[i].blob.bytes);
    }
    return digest_final(&stream);
}

struct digest job_rows(const struct job *job)
{
    struct digest_stream stream;
    digest_init(&stream, "weir job rows 1");
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        digest_update_u64(&stream, job->spec.inputs[i].row_bytes);
    return digest_final(&stream);
}

struct mesh_id job_id(const char *tenant, const char *key)
{
    struct digest_stream stream;
    digest_init(&stream, "weir job 1");
    digest_update_u64(&stream, strlen(tenant));
    digest_update(&stream, tenant, strlen(tenant));
    digest_update_u64(&stream, strlen(key));
    digest_update(&stream, key, strlen(key));
    const struct digest digest = digest_final(&stream);
    struct mesh_id id;
    memcpy(id.bytes, digest.bytes, sizeof id.bytes);
    return id;
}

struct digest job_rank(const char *what, const struct mesh_id *job, const struct mesh_id *member)
{
    uint8_t both[sizeof job->bytes + sizeof member->bytes];
    memcpy(both, job->bytes, sizeof job->bytes);
    memcpy(both + sizeof job->bytes, member->bytes, sizeof member->bytes);
    return digest_of(what, both, sizeof both);
}

struct job *job_make(void)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->state = JOB_PREPARING;
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        job->broadcast_fd[i] = -1;
    for (uint32_t o = 0; o < MANIFEST_OUTPUTS_MAX; o++)
        job->assembly_fd[o] = -1;
    return job;
}

/* ---- Preparation */

struct preparation {
    struct job *job;
    const struct job_wish *wish;
    struct store *store;
    int exit_code;
};

static bool refuse(struct preparation *preparation, int exit_code, const char *text)
{
    snprintf(preparation->job->error, JOB_ERROR_BYTES, "%s", text);
    preparation->exit_code = exit_code;
    return false;
}

static bool refuse_input(struct preparation *preparation, uint32_t i, int exit_code, const char *what)
{
    char text[JOB_ERROR_BYTES];
    snprintf(text, sizeof text, "input '%s': %s", preparation->job->spec.manifest->inputs[i].name, what);
    return refuse(preparation, exit_code, text);
}

/* The store can't give it: says which, where and what to do. */
static bool refuse_blob(struct preparation *preparation, uint32_t i, enum store_error error)
{
    char what[JOB_ERROR_BYTES - 64], hex[65];
    const char *home = preparation->wish->home;
    hex_encode(preparation->job->spec.inputs[i].blob.bytes, 32, hex);
    if (error == STORE_CORRUPT)
        snprintf(what, sizeof what,
                 "the bytes of blob %.16s at %s do not match its name (a bad disk?) and were dropped; give "
                 "the file "
                 "itself, or `weir blob put` it there again",
                 hex, home);
    else if (error == STORE_NONE)
        snprintf(what, sizeof what,
                 "blob %.16s is not on %s any more; give the file itself, or `weir blob put` it there", hex,
                 home);
    else
        snprintf(what, sizeof what, "blob %.16s at %s: %s", hex, home, store_error_text(error));
    return refuse_input(preparation, i, error == STORE_NONE ? EXIT_NONE : EXIT_FAILED, what);
}

static bool open_input(struct preparation *preparation, uint32_t i)
{
    struct job *job = preparation->job;
    struct job_input *input = &job->spec.inputs[i];
    int fd;
    uint64_t bytes;
    const enum store_error error = store_blob_open(preparation->store, input->blob.bytes, true, &fd, &bytes);
    if (error != STORE_OK)
        return refuse_blob(preparation, i, error);
    const uint8_t *map = bytes ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : (const uint8_t *)"";
    if (map == MAP_FAILED) {
        close(fd);
        return refuse_input(preparation, i, EXIT_FAILED, strerror(errno));
    }
    job->map[i] = map;
    job->map_bytes[i] = bytes;
    if (input->role == MANIFEST_BROADCAST)
        job->broadcast_fd[i] = fd;
    else
        close(fd);

    enum array_error bad = ARRAY_OK;
    input->data_offset = 0;
    switch (preparation->wish->format[i]) {
    case JOB_FORMAT_NPY:
        bad = array_npy_decode(map, bytes, bytes, &input->type, &input->data_offset);
        break;
    case JOB_FORMAT_TEXT:
        input->type =
            (struct array_type){.dtype = ARRAY_TEXT, .rank = 1, .shape = {array_line_count(map, bytes)}};
        break;
    case JOB_FORMAT_RAW:
        bad = array_raw_type(bytes, preparation->wish->row_bytes[i], &input->type);
        break;
    }
    if (bad != ARRAY_OK)
        return refuse_input(preparation, i, EXIT_USAGE, array_error_text(bad));
    input->data_bytes = bytes - input->data_offset;
    return true;
}

static const char *size_text(double bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit + 1 < sizeof units / sizeof *units; unit++)
        bytes /= 1024;
    snprintf(text, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

/* What one shard takes in a worker: its rows and its outputs. Lines differ in length: text counts where it is cut. */
static double shard_bytes(const struct job_spec *spec)
{
    const double items = (double)(spec->shard_items < spec->items ? spec->shard_items : spec->items);
    double bytes = 0;
    uint64_t row_bytes;
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        if (spec->inputs[i].role == MANIFEST_SPLIT &&
            array_row_bytes(&spec->inputs[i].type, &row_bytes) == ARRAY_OK)
            bytes += items * (double)row_bytes;
    for (uint32_t o = 0; o < spec->output_count; o++)
        bytes += (spec->manifest->outputs[o].combine == MANIFEST_CONCAT ? items : 1) *
                 (double)spec->output_item_bytes[o];
    return bytes;
}

/* What no worker would take, or no node keep, is refused before anything of it is done. */
static bool check_sizes(struct preparation *preparation)
{
    const struct job_spec *spec = &preparation->job->spec;
    const double shard = shard_bytes(spec);
    double whole = 0, outputs = 0;
    char text[JOB_ERROR_BYTES], size[32], most[32];
    for (uint32_t i = 0; i < spec->manifest->input_count; i++)
        whole += spec->inputs[i].role == MANIFEST_BROADCAST ? (double)spec->inputs[i].data_bytes : 0;
    for (uint32_t o = 0; o < spec->output_count; o++)
        outputs += (double)spec->output_item_bytes[o] *
                   (spec->manifest->outputs[o].combine == MANIFEST_CONCAT ? (double)spec->items : 1);
    if (shard > (double)WORKER_BUNDLE_BYTES_MAX)
        snprintf(text, sizeof text,
                 "a shard of %llu items is %s of rows and outputs, and a worker takes %s; %s",
                 (unsigned long long)spec->shard_items, size_text(shard, size),
                 size_text((double)WORKER_BUNDLE_BYTES_MAX, most),
                 spec->shard_items > 1 ? "give smaller shards (--shard-items)" : "make the items smaller");
    else if (whole > (double)WORKER_RESIDENT_BYTES)
        snprintf(
            text, sizeof text,
            "the inputs that each shard gets whole are %s together, and a worker takes %s; split one of them",
            size_text(whole, size), size_text((double)WORKER_RESIDENT_BYTES, most));
    else if (outputs > (double)preparation->wish->output_bytes_max)
        snprintf(text, sizeof text, "the outputs are %s, and %s takes %s of a job (work.job_output)",
                 size_text(outputs, size), preparation->wish->home,
                 size_text((double)preparation->wish->output_bytes_max, most));
    else
        return true;
    return refuse(preparation, EXIT_USAGE, text);
}

static bool plan(struct preparation *preparation)
{
    struct job_spec *spec = &preparation->job->spec;
    struct manifest_given given[MANIFEST_INPUTS_MAX];
    size_t count = 0;
    for (uint32_t i = 0; i < spec->manifest->input_count; i++) {
        const struct job_input *input = &spec->inputs[i];
        if (input->role == 0)
            continue;
        given[count++] = (struct manifest_given){.name = spec->manifest->inputs[i].name,
                                                 .type = input->type,
                                                 .role = input->role,
                                                 .bytes = input->data_bytes};
    }
    const struct manifest_wish wish = {.items = preparation->wish->items,
                                       .shard_items = preparation->wish->shard_items};
    struct manifest_plan planned;
    char error[MANIFEST_ERROR_BYTES];
    if (manifest_check(spec->manifest, &spec->params, given, count, &wish, &planned, error) != MANIFEST_OK)
        return refuse(preparation, EXIT_USAGE, error);
    if (planned.shard_count > MESH_SHARDS_MAX)
        return refuse(preparation, EXIT_USAGE,
                      "the job has more shards than a node takes; raise --shard-items");
    spec->items = planned.items;
    spec->shard_items = planned.shard_items;
    spec->shard_count = (uint32_t)planned.shard_count;
    spec->output_count = planned.output_count;
    memcpy(spec->outputs, planned.outputs, sizeof spec->outputs);
    memcpy(spec->output_item_bytes, planned.output_item_bytes, sizeof spec->output_item_bytes);
    const double guess_us = planned.item_cost.cpu_ns * (double)planned.shard_items / 1000;
    preparation->job->shard_us_guess = guess_us < 1 ? 1 : guess_us > 1e9 ? 1000000000 : (uint32_t)guess_us;
    return check_sizes(preparation);
}

static bool check_values(struct preparation *preparation)
{
    const struct job_spec *spec = &preparation->job->spec;
    for (uint32_t i = 0; i < spec->manifest->input_count; i++) {
        const struct job_input *input = &spec->inputs[i];
        if (input->role == 0)
            continue;
        char error[MANIFEST_ERROR_BYTES];
        const uint8_t *rows = preparation->job->map[i] + input->data_offset;
        if (manifest_check_values(spec->manifest, i, &input->type, rows, input->data_bytes,
                                  input->type.shape[0], 0, error) != MANIFEST_OK)
            return refuse(preparation, EXIT_USAGE, error);
    }
    return true;
}

/* Where each shard's first line begins. */
static bool index_lines(struct preparation *preparation, uint32_t i)
{
    struct job *job = preparation->job;
    const uint64_t lines = job->spec.inputs[i].type.shape[0];
    uint64_t *all = malloc((lines + 1) * sizeof *all);
    uint64_t *starts = malloc(((uint64_t)job->spec.shard_count + 1) * sizeof *starts);
    uint64_t found = 0;
    if (!all || !starts ||
        array_line_index(job->map[i], job->map_bytes[i], all, lines + 1, &found) != ARRAY_OK ||
        found != lines) {
        free(all);
        free(starts);
        return refuse_input(preparation, i, EXIT_FAILED, "out of memory while indexing its lines");
    }
    for (uint32_t s = 0; s < job->spec.shard_count; s++)
        starts[s] = all[s * job->spec.shard_items];
    starts[job->spec.shard_count] = all[lines];
    free(all);
    job->line_offset[i] = starts;
    return true;
}

/*
 * The key of a shard: what was computed and from what, and nothing about where or when. Broadcast inputs
 * count by their blob, split inputs by the shard's own rows, so that appending rows changes only the keys of
 * the new and the last shards.
 */
static struct digest shard_key(const struct job *job, uint32_t shard)
{
    const struct job_spec *spec = &job->spec;
    struct digest_stream stream;
    digest_init(&stream, "weir shard 1");
    digest_update(&stream, spec->kernel.bytes, sizeof spec->kernel.bytes);
    digest_update_u64(&stream, spec->params.bytes);
    digest_update(&stream, spec->params.data, spec->params.bytes);
    digest_update_u64(&stream, job_shard_items(job, shard));
    if (spec->manifest->positional)
        digest_update_u64(&stream, shard * spec->shard_items);
    for (uint32_t i = 0; i < spec->manifest->input_count; i++) {
        const struct job_input *input = &spec->inputs[i];
        digest_update_u64(&stream, input->role);
        if (input->role == 0)
            continue;
        digest_update_u64(&stream, input->type.dtype);
        digest_update_u64(&stream, input->type.rank);
        for (uint32_t axis = 1; axis < input->type.rank; axis++)
            digest_update_u64(&stream, input->type.shape[axis]);
        if (input->role == MANIFEST_BROADCAST) {
            digest_update_u64(&stream, input->type.shape[0]);
            digest_update(&stream, input->blob.bytes, sizeof input->blob.bytes);
        } else {
            const struct job_slice slice = job_slice(job, i, shard);
            const struct digest rows =
                job->slices[i] ? job->slices[i][shard] : blob_id(job->map[i] + slice.offset, slice.bytes);
            digest_update(&stream, rows.bytes, sizeof rows.bytes);
        }
    }
    return digest_final(&stream);
}

/* Names for the rows that are too large to ride inline, so that executors can check what they fetch. */
static bool name_slices(struct preparation *preparation, uint32_t i)
{
    struct job *job = preparation->job;
    uint64_t largest = 0;
    for (uint32_t s = 0; s < job->spec.shard_count; s++) {
        const uint64_t bytes = job_slice(job, i, s).bytes;
        largest = bytes > largest ? bytes : largest;
    }
    if (largest <= JOB_INLINE_BYTES_MAX)
        return true;
    job->slices[i] = malloc(job->spec.shard_count * sizeof *job->slices[i]);
    if (!job->slices[i])
        return refuse_input(preparation, i, EXIT_FAILED, "out of memory while hashing its rows");
    for (uint32_t s = 0; s < job->spec.shard_count; s++) {
        const struct job_slice slice = job_slice(job, i, s);
        job->slices[i][s] = blob_id(job->map[i] + slice.offset, slice.bytes);
    }
    return true;
}

static bool make_keys(struct preparation *preparation)
{
    struct job *job = preparation->job;
    if (job->spec.cache == JOB_CACHE_OFF)
        return true;
    job->keys = malloc(job->spec.shard_count * sizeof *job->keys);
    if (!job->keys)
        return refuse(preparation, EXIT_FAILED, "out of memory while computing the shards' keys");
    struct digest_stream whole;
    digest_init(&whole, "weir job outputs 1");
    for (uint32_t s = 0; s < job->spec.shard_count; s++) {
        job->keys[s] = shard_key(job, s);
        digest_update(&whole, job->keys[s].bytes, sizeof job->keys[s].bytes);
    }
    job->whole_key = digest_final(&whole);
    return true;
}

/* False if the file system says that it has less: to try would take all of it from everybody, if only for a moment. */
static bool has_room(int fd, uint64_t bytes, uint64_t *free_bytes)
{
    struct statvfs disk;
    *free_bytes = 0;
    if (fstatvfs(fd, &disk) != 0)
        return true; /* then the attempt tells */
    *free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    return bytes <= *free_bytes;
}

static bool open_assembly(struct preparation *preparation, uint32_t output, const char *scratch)
{
    struct job *job = preparation->job;
    uint64_t bytes = job->spec.output_item_bytes[output];
    if (job->spec.manifest->outputs[output].combine == MANIFEST_CONCAT)
        bytes *= job->spec.items;
    else
        bytes *= job->spec.shard_count; /* partial results, combined in a fixed order at the end */
    job->assembly_bytes[output] = bytes;
    if (bytes == 0)
        return true;
    const int fd = open(scratch, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    uint8_t *map = MAP_FAILED;
    uint64_t free_bytes = 0;
    /* Space is taken now, so that a full disk is an answer to the submitter and not a fault in the middle. */
    if (fd >= 0 && has_room(fd, bytes, &free_bytes) && posix_fallocate(fd, 0, (off_t)bytes) == 0)
        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        if (fd >= 0)
            close(fd);
        char text[JOB_ERROR_BYTES];
        snprintf(text, sizeof text,
                 "no room for %llu bytes of output '%s' in %s, which has %llu left; free some space",
                 (unsigned long long)bytes, job->spec.manifest->outputs[output].name, scratch,
                 (unsigned long long)free_bytes);
        return refuse(preparation, EXIT_FAILED, text);
    }
    job->assembly_fd[output] = fd;
    job->assembly[output] = map;
    return true;
}

bool job_prepare(struct job *job, const struct job_wish *wish, struct store *store, const char *scratch,
                 int *exit_code)
{
    struct preparation preparation = {.job = job, .wish = wish, .store = store, .exit_code = EXIT_FAILED};
    struct job_spec *spec = &job->spec;
    bool good = true;
    for (uint32_t i = 0; good && i < spec->manifest->input_count; i++)
        if (spec->inputs[i].role != 0)
            good = open_input(&preparation, i);
    good = good && plan(&preparation) && check_values(&preparation);
    for (uint32_t i = 0; good && i < spec->manifest->input_count; i++) {
        if (spec->inputs[i].role != MANIFEST_SPLIT)
            continue;
        if (spec->inputs[i].type.dtype == ARRAY_TEXT)
            good = index_lines(&preparation, i);
        good = good && name_slices(&preparation, i);
    }
    good = good && make_keys(&preparation);
    for (uint32_t o = 0; good && o < spec->output_count; o++)
        good = open_assembly(&preparation, o, scratch);
    *exit_code = preparation.exit_code;
    return good;
}

/* ---- Geometry */

uint64_t job_shard_items(const struct job *job, uint32_t shard)
{
    const uint64_t first = shard * job->spec.shard_items;
    const uint64_t left = job->spec.items - first;
    return left < job->spec.shard_items ? left : job->spec.shard_items;
}

struct job_slice job_slice(const struct job *job, uint32_t input, uint32_t shard)
{
    const struct job_input *in = &job->spec.inputs[input];
    if (job->line_offset[input]) {
        const uint64_t begin = job->line_offset[input][shard];
        return (struct job_slice){.offset = begin, .bytes = job->line_offset[input][shard + 1] - begin};
    }
    uint64_t row_bytes = 0;
    const enum array_error error = array_row_bytes(&in->type, &row_bytes);
    assert(error == ARRAY_OK);
    (void)error;
    return (struct job_slice){.offset = in->data_offset + shard * job->spec.shard_items * row_bytes,
                              .bytes = job_shard_items(job, shard) * row_bytes};
}

uint64_t job_output_bytes(const struct job *job, uint32_t output, uint32_t shard)
{
    const uint64_t item_bytes = job->spec.output_item_bytes[output];
    const bool concat = job->spec.manifest->outputs[output].combine == MANIFEST_CONCAT;
    return concat ? item_bytes * job_shard_items(job, shard) : item_bytes;
}

/* What one shard's outputs take in a message: inline, or as the names of blobs; and those in blobs. */
static uint64_t result_bytes(const struct job *job, uint64_t *large_bytes)
{
    uint64_t out_bytes = 32;
    *large_bytes = 0;
    for (uint32_t o = 0; o < job->spec.output_count; o++) {
        const uint64_t bytes = job_output_bytes(job, o, 0);
        out_bytes += bytes <= JOB_INLINE_BYTES_MAX ? bytes + 8 : 48;
        *large_bytes += bytes <= JOB_INLINE_BYTES_MAX ? 0 : bytes;
    }
    return out_bytes;
}

uint32_t job_lookup_shards(const struct job *job)
{
    uint64_t large_bytes;
    const uint64_t most = MESH_BUNDLE_BYTES_MAX / result_bytes(job, &large_bytes);
    return most < 1 ? 1 : most > MESH_LOOKUP_SHARDS_MAX ? MESH_LOOKUP_SHARDS_MAX : (uint32_t)most;
}

uint32_t job_bundle_shards(const struct job *job)
{
    const struct job_spec *spec = &job->spec;
    uint64_t in_bytes = 32; /* framing and the shard's numbers */
    for (uint32_t i = 0; i < spec->manifest->input_count; i++) {
        if (spec->inputs[i].role != MANIFEST_SPLIT)
            continue;
        uint64_t largest = 0;
        for (uint32_t s = 0; s < spec->shard_count; s++) {
            const uint64_t bytes = job_slice(job, i, s).bytes;
            largest = bytes > largest ? bytes : largest;
        }
        in_bytes += largest <= JOB_INLINE_BYTES_MAX ? largest + 8 : 96; /* or a blob, a range and a digest */
    }
    uint64_t large_bytes;
    const uint64_t out_bytes = result_bytes(job, &large_bytes);
    uint64_t most = MESH_BUNDLE_BYTES_MAX / (in_bytes > out_bytes ? in_bytes : out_bytes);
    if (large_bytes > 0 && most > LARGE_BYTES_MAX / large_bytes)
        most = LARGE_BYTES_MAX / large_bytes;
    if (job->bundle_shards > 0 && most > job->bundle_shards)
        most = job->bundle_shards;
    return most < 1 ? 1 : most > MESH_BUNDLE_SHARDS_MAX ? MESH_BUNDLE_SHARDS_MAX : (uint32_t)most;
}

static uint8_t *place_of(const struct job *job, uint32_t output, uint32_t shard)
{
    const bool concat = job->spec.manifest->outputs[output].combine == MANIFEST_CONCAT;
    const uint64_t rows_before = concat ? shard * job->spec.shard_items : shard;
    return job->assembly[output] + rows_before * job->spec.output_item_bytes[output];
}

const uint8_t *job_assembled(const struct job *job, uint32_t output, uint32_t shard)
{
    return place_of(job, output, shard);
}

bool job_assemble(struct job *job, uint32_t output, uint32_t shard, const void *bytes, uint64_t count)
{
    if (output >= job->spec.output_count || count != job_output_bytes(job, output, shard))
        return false;
    if (count > 0)
        memcpy(place_of(job, output, shard), bytes, count);
    return true;
}

/* ---- Reduction */

#define COMBINE(type)                                                                                        \
    static void combine_##type(type *into, const type *from, uint64_t count, enum manifest_combine how)      \
    {                                                                                                        \
        for (uint64_t i = 0; i < count; i++) {                                                               \
            if (how == MANIFEST_SUM)                                                                         \
                into[i] = (type)(into[i] + from[i]);                                                         \
            else if (how == MANIFEST_MIN ? from[i] < into[i] : from[i] > into[i])                            \
                into[i] = from[i];                                                                           \
        }                                                                                                    \
    }
COMBINE(int32_t)
COMBINE(uint32_t)
COMBINE(int64_t)
COMBINE(uint64_t)
COMBINE(float)
COMBINE(double)

static void combine(uint8_t dtype, uint8_t *into, const uint8_t *from, uint64_t bytes,
                    enum manifest_combine how)
{
    switch (dtype) {
    case ARRAY_INT32:
        combine_int32_t((int32_t *)into, (const int32_t *)from, bytes / 4, how);
        break;
    case ARRAY_UINT32:
        combine_uint32_t((uint32_t *)into, (const uint32_t *)from, bytes / 4, how);
        break;
    case ARRAY_INT64:
        combine_int64_t((int64_t *)into, (const int64_t *)from, bytes / 8, how);
        break;
    case ARRAY_UINT64:
        combine_uint64_t((uint64_t *)into, (const uint64_t *)from, bytes / 8, how);
        break;
    case ARRAY_FLOAT32:
        combine_float((float *)into, (const float *)from, bytes / 4, how);
        break;
    case ARRAY_FLOAT64:
        combine_double((double *)into, (const double *)from, bytes / 8, how);
        break;
    default:
        assert(false && "no manifest reduces such a dtype");
    }
}

/* Pairs of neighbours, then pairs of pairs: the shape depends on the number of shards only, so floats come
 * out the same. In place, so only once, however often the output is then tried to be stored. */
void job_combine(struct job *job, uint32_t output)
{
    if (job->combined[output])
        return;
    job->combined[output] = true;
    const uint64_t bytes = job->spec.output_item_bytes[output];
    const enum manifest_combine how = job->spec.manifest->outputs[output].combine;
    for (uint64_t step = 1; step < job->spec.shard_count; step *= 2)
        for (uint64_t s = 0; s + step < job->spec.shard_count; s += 2 * step)
            combine(job->spec.outputs[output].dtype, job->assembly[output] + s * bytes,
                    job->assembly[output] + (s + step) * bytes, bytes, how);
}

/* ---- End of life */

void job_release(struct job *job)
{
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++) {
        if (job->map[i] && job->map_bytes[i] > 0)
            munmap((void *)(uintptr_t)job->map[i], job->map_bytes[i]);
        job->map[i] = NULL;
        if (job->broadcast_fd[i] >= 0)
            close(job->broadcast_fd[i]);
        job->broadcast_fd[i] = -1;
        free(job->line_offset[i]);
        job->line_offset[i] = NULL;
        free(job->slices[i]);
        job->slices[i] = NULL;
    }
    proof_drop(job->proof);
    job->proof = NULL;
    free(job->keys);
    job->keys = NULL;
    free(job->committed_bits);
    job->committed_bits = NULL;
    free(job->brought);
    job->brought = NULL;
    free(job->bringer);
    job->bringer = NULL;
    free(job->opinion);
    job->opinion = NULL;
    for (uint32_t o = 0; o < MANIFEST_OUTPUTS_MAX; o++) {
        if (job->assembly[o])
            munmap(job->assembly[o], job->assembly_bytes[o]);
        job->assembly[o] = NULL;
        if (job->assembly_fd[o] >= 0)
            close(job->assembly_fd[o]);
        job->assembly_fd[o] = -1;
    }
}

void job_free(struct job *job)
{
    if (!job)
        return;
    job_release(job);
    user_kernels_drop(job->spec.manifest);
    while (job->submitters) {
        struct job_submitter *submitter = job->submitters;
        job->submitters = submitter->next;
        free(submitter);
    }
    for (uint32_t d = 0; d < job->decision_count; d++)
        free(job->decision[d].reason);
    free(job->decision);
    free(job);
}
