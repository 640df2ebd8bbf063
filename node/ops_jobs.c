/* The local API: jobs, told of, submitted, cancelled. ops_list.c lists them, ops_story.c tells what becomes of one. */
#include "node/keep.h"
#include "node/ops.h"
#include "node/payload.h"
#include "node/recheck.h"
#include "node/user_kernels.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY_STALLS_MS 3000 /* a node that has just come has not told its devices yet */

const char *job_state_word(enum job_state state)
{
    static const char *const words[] = {"", "preparing", "running", "running", "done", "failed", "cancelled"};
    return words[state];
}

/* ---- A job as JSON */

static json_t *type_json(const struct array_type *type)
{
    json_t *shape = json_array();
    for (uint32_t axis = 0; axis < type->rank; axis++)
        json_array_append_new(shape, json_integer((json_int_t)type->shape[axis]));
    return json_pack("{s:s, s:o}", "dtype", array_dtype_name((enum array_dtype)type->dtype), "shape", shape);
}

static json_t *outputs_json(const struct job *job)
{
    json_t *list = json_array();
    for (uint32_t o = 0; o < job->spec.output_count; o++) {
        json_t *row = type_json(&job->spec.outputs[o]);
        json_put(row, "name", json_string(job->spec.manifest->outputs[o].name));
        if (job->state == JOB_DONE) {
            json_put(row, "blob", json_hex(job->output_blob[o].bytes, 32));
            json_put(row, "bytes", json_integer((json_int_t)job->output_bytes[o]));
        }
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *inputs_json(const struct job *job)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < job->spec.manifest->input_count; i++) {
        const struct job_input *input = &job->spec.inputs[i];
        if (!input->role)
            continue;
        json_t *row = type_json(&input->type);
        json_put(row, "name", json_string(job->spec.manifest->inputs[i].name));
        json_put(row, "role", json_string(input->role == MANIFEST_SPLIT ? "split" : "broadcast"));
        json_put(row, "blob", json_hex(input->blob.bytes, 32));
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *params_json(const struct job *job)
{
    json_t *list = json_array();
    for (uint32_t p = 0; p < job->spec.manifest->param_count; p++) {
        char value[64], text[128];
        manifest_param_text(job->spec.manifest, &job->spec.params, p, value, sizeof value);
        snprintf(text, sizeof text, "%s=%s", job->spec.manifest->params[p].name, value);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

static json_t *shares_json(struct node *node, const struct job *job)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < job->share_count; i++) {
        const struct job_node_share *share = &job->share[i];
        if (share->shards == 0)
            continue;
        json_t *row = json_pack("{s:s, s:s, s:i, s:I}", "name", peer_name(node, &share->node), "site",
                                peer_site(node, &share->node), "shards", (int)share->shards, "device_us",
                                (json_int_t)share->device_us);
        json_put(row, "id", json_hex(share->node.bytes, 32));
        json_array_append_new(list, row);
    }
    return list;
}

/* For some seconds on end the latest that was decided is that nobody has a device for it. */
static bool nobody_can(const struct job *job)
{
    uint32_t from = job->decision_count;
    while (from > 0 && job->decision[from - 1].why == MESH_WHY_NOBODY)
        from--;
    return from < job->decision_count && clock_wall_ms() - job->decision[from].at_ms >= NOBODY_STALLS_MS;
}

const char *job_stall_text(struct node *node, const struct job *job, char text[JOB_STALL_BYTES])
{
    text[0] = '\0';
    const char *home = peer_name(node, &node->self);
    struct mesh_journal_view journal;
    const bool kept = mesh_journal_find(node->host.mesh, &job->spec.id, &journal);
    if (job->state == JOB_PREPARING && job->read_back && !job->preparing && job->last_error[0])
        snprintf(text, JOB_STALL_BYTES, "it cannot go on at %s: %.150s", home, job->last_error);
    else if (kept && journal.stalled && job->state < JOB_ASSEMBLING)
        snprintf(text, JOB_STALL_BYTES,
                 "too few of the %u nodes that keep its journal hold what is new; it goes on by itself once "
                 "a majority does",
                 journal.members.count);
    else if (job->state == JOB_ASSEMBLING && job->assemble_error)
        snprintf(text, JOB_STALL_BYTES,
                 "its outputs cannot be stored at %s: %s; make room there, it is tried again every 5 s", home,
                 store_error_text(job->assemble_error));
    else if (job->keep_error && job->state < JOB_DONE)
        snprintf(text, JOB_STALL_BYTES,
                 "results cannot be stored at %s: %s; make room there, the executors send them again", home,
                 store_error_text(job->keep_error));
    else if (node->stalled && job->state < JOB_DONE)
        snprintf(
            text, JOB_STALL_BYTES,
            "the disk of %s is full: results wait in memory; make room there, it is tried again every second",
            home);
    else if (job->state < JOB_ASSEMBLING && nobody_can(job))
        snprintf(text, JOB_STALL_BYTES,
                 "no node that is up lends a device for kernel %s; it goes on by itself once one does",
                 job->spec.manifest->name);
    return text;
}

static const char *const verify_words[] = {[MESH_VERIFY_NONE] = "none",
                                           [MESH_VERIFY_SPOT] = "spot",
                                           [MESH_VERIFY_QUORUM] = "quorum",
                                           [MESH_VERIFY_CERTIFICATE] = "certificate"};

/* Who keeps its journal, or once that is over the finished job. None: this node alone. */
static json_t *keepers_json(struct node *node, const struct job *job)
{
    json_t *list = json_array();
    struct mesh_journal_view view;
    struct copy *copy = copies_find(node, &job->spec.id);
    const struct mesh_members none = {0};
    const struct mesh_members *members = mesh_journal_find(node->host.mesh, &job->spec.id, &view)
                                             ? &view.members
                                         : copy && copy->over && job->copies > 1 ? copies_members(node, copy)
                                                                                 : &none;
    for (uint32_t i = 0; i < members->count; i++) {
        struct mesh_member_view member;
        const struct mesh_id *const id = &members->id[i];
        const bool up = mesh_member_find(node->host.mesh, id, &member) && member.state == MESH_UP;
        json_t *row =
            json_pack("{s:s, s:s, s:b}", "name", peer_name(node, id), "site", peer_site(node, id), "up", up);
        json_put(row, "id", json_hex(id->bytes, sizeof id->bytes));
        json_array_append_new(list, row);
    }
    return list;
}

static const char *home_name(struct node *node, const struct job *job)
{
    const struct mesh_id *home = keep_home(node, job);
    return peer_name(node, home ? home : &node->self);
}

json_t *job_json(struct node *node, const struct job *job, bool whole)
{
    struct mesh_job_view view = {0};
    const bool live = mesh_job_find(node->host.mesh, &job->spec.id, &view);
    const int64_t end_ms = job->state >= JOB_DONE ? job->finished_at_ms : clock_wall_ms();
    json_t *row = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "kernel",
        job->spec.manifest->name, "state", job_state_word(job->state), "tenant", job->spec.tenant, "home",
        home_name(node, job), "shards", (int)job->spec.shard_count, "items", (json_int_t)job->spec.items,
        "done", (int)job->committed, "cached", (int)job->cached, "queued", live ? (int)view.queued : 0,
        "looking_up", live ? (int)view.looking_up : 0, "running", live ? (int)view.assigned : 0, "reassigned",
        (int)(live && job->state < JOB_DONE ? view.reassigned : job->reassigned), "created_at",
        (json_int_t)job->spec.created_at_ms, "elapsed_ms", (json_int_t)(end_ms - job->spec.created_at_ms));
    json_put(row, "id", json_hex(job->spec.id.bytes, 32));
    json_put(row, "epoch", json_integer((json_int_t)job->epoch));
    json_put(row, "replicas", json_integer(job->copies));
    json_put(row, "verify", json_string(verify_words[job->spec.verify]));
    json_put(row, "disputed", json_integer(job->disputed));
    if (strncmp(job->spec.key, RECHECK_KEY, strlen(RECHECK_KEY)) == 0)
        json_put(row, "recheck_of", json_sprintf("%.16s", job->spec.key + strlen(RECHECK_KEY)));
    json_put(row, "held", json_integer(live ? view.held : 0));
    json_put(row, "checks", json_integer(live ? view.checks : 0));
    json_put(row, "finished_at", job->state >= JOB_DONE ? json_integer(job->finished_at_ms) : json_null());
    if (job->error[0])
        json_put(row, "error", json_string(job->error));
    char stall[JOB_STALL_BYTES];
    if (job_stall_text(node, job, stall)[0])
        json_put(row, "stalled", json_string(stall));
    if (whole) {
        json_put(row, "by_node", shares_json(node, job));
        json_put(row, "keepers", keepers_json(node, job));
        json_put(row, "inputs", inputs_json(job));
        json_put(row, "outputs", outputs_json(job));
        json_put(row, "params", params_json(job));
    }
    return row;
}

void op_job(void *context, struct api_call *call)
{
    struct job *job = find_job(context, call, body_text(call, "job"));
    if (job)
        api_reply(call, json_pack("{s:o}", "job", job_json(context, job, true)));
}

/* ---- submit */

static int find_input(const struct manifest *manifest, const char *name)
{
    for (uint32_t i = 0; i < manifest->input_count; i++)
        if (name && strcmp(manifest->inputs[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* "ID/NAME": an output of a job of this node. */
static bool find_output(struct node *node, struct api_call *call, const char *text, struct digest *blob)
{
    char id[65];
    const char *slash = strchr(text, '/');
    if (!slash || slash == text || (size_t)(slash - text) >= sizeof id) {
        api_error(call, EXIT_USAGE, "'job:%s' is not job:ID/OUTPUT", text);
        return false;
    }
    snprintf(id, sizeof id, "%.*s", (int)(slash - text), text);
    const struct job *job = find_own_job(node, call, id);
    if (!job)
        return false;
    if (job->state != JOB_DONE) {
        api_error(call, EXIT_FAILED, "job %.8s is %s; its outputs exist when it is done", id,
                  job_state_word(job->state));
        return false;
    }
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        if (strcmp(job->spec.manifest->outputs[o].name, slash + 1) == 0) {
            *blob = job->output_blob[o];
            return true;
        }
    api_error(call, EXIT_NONE, "job %.8s has no output '%s'; `weir jobs %.8s` lists them", id, slash + 1, id);
    return false;
}

static bool read_input(struct node *node, struct api_call *call, const json_t *given, struct job *job,
                       struct job_wish *wish)
{
    const struct manifest *manifest = job->spec.manifest;
    const char *name = json_string_value(json_object_get(given, "name"));
    const char *blob = json_string_value(json_object_get(given, "blob"));
    const char *from_job = json_string_value(json_object_get(given, "job"));
    const char *format = json_string_value(json_object_get(given, "format"));
    const int i = find_input(manifest, name);
    if (i < 0) {
        api_error(call, EXIT_USAGE, "kernel '%s' has no input '%s'; `weir kernels %s` lists its inputs",
                  manifest->name, name ? name : "", manifest->name);
        return false;
    }
    struct job_input *input = &job->spec.inputs[i];
    if (input->role) {
        api_error(call, EXIT_USAGE, "input '%s' is given twice", name);
        return false;
    }
    input->role = json_is_true(json_object_get(given, "split")) ? MANIFEST_SPLIT : MANIFEST_BROADCAST;
    if (from_job ? !find_output(node, call, from_job, &input->blob)
                 : !find_blob(node, call, blob, &input->blob))
        return false;
    if (!format || strcmp(format, "npy") == 0) {
        wish->format[i] = JOB_FORMAT_NPY;
    } else if (strcmp(format, "text") == 0) {
        wish->format[i] = JOB_FORMAT_TEXT;
    } else if (strcmp(format, "raw") == 0) {
        wish->format[i] = JOB_FORMAT_RAW;
        const json_t *row_bytes = json_object_get(given, "row_bytes");
        wish->row_bytes[i] = json_is_integer(row_bytes) && json_integer_value(row_bytes) > 0
                                 ? (uint64_t)json_integer_value(row_bytes)
                                 : 0;
        input->row_bytes = wish->row_bytes[i];
    } else {
        api_error(call, EXIT_USAGE, "format '%s' is not npy, text or raw", format);
        return false;
    }
    return true;
}

static bool read_params(struct api_call *call, struct job *job)
{
    const json_t *list = json_object_get(api_body(call), "params");
    const char *settings[MANIFEST_PARAMS_MAX + 1];
    size_t count = 0, i;
    const json_t *each;
    json_array_foreach(list, i, each)
    {
        if (!json_is_string(each) || count > MANIFEST_PARAMS_MAX) {
            api_error(call, EXIT_USAGE, "kernel '%s' takes no more than %u parameters, each as name=value",
                      job->spec.manifest->name, job->spec.manifest->param_count);
            return false;
        }
        settings[count++] = json_string_value(each);
    }
    char error[MANIFEST_ERROR_BYTES];
    if (manifest_params_parse(job->spec.manifest, settings, count, &job->spec.params, error) == MANIFEST_OK)
        return true;
    api_error(call, EXIT_USAGE, "%s", error);
    return false;
}

/* What its results must pass; whether the kernel and the other options allow that. */
static bool read_verify(struct node *node, struct api_call *call, struct job *job)
{
    const struct manifest *manifest = job->spec.manifest;
    const bool comparable = manifest->class == MANIFEST_EXACT || manifest->certify;
    const char *given = body_text(call, "verify");
    const bool checkable = comparable || manifest->tolerance > 0;
    const char *word = given ? given : node->config.verify && checkable ? "spot" : "none";
    const int64_t permille = body_integer(call, "verify_permille", 0);
    int verify = MESH_VERIFY_NONE;
    while (verify <= MESH_VERIFY_CERTIFICATE && strcmp(word, verify_words[verify]) != 0)
        verify++;
    if (verify > MESH_VERIFY_CERTIFICATE || permille < 0 || permille > 1000)
        api_error(call, EXIT_USAGE,
                  "'verify' is none, spot, certificate or quorum, 'verify_permille' 0 to 1000");
    else if (verify == MESH_VERIFY_CERTIFICATE && !manifest->certify)
        api_error(call, EXIT_USAGE,
                  "kernel '%s' has no certificate: only matmul's results can be proved; take --verify spot "
                  "or quorum",
                  manifest->name);
    else if ((verify == MESH_VERIFY_SPOT && !checkable) || (verify == MESH_VERIFY_QUORUM && !comparable))
        api_error(
            call, EXIT_USAGE,
            "kernel '%s' is tolerant: right results differ from device to device, and only checks by chance "
            "compare by its tolerance; take --verify spot or none",
            manifest->name);
    else if (verify == MESH_VERIFY_QUORUM && job->spec.local_only)
        api_error(call, EXIT_USAGE,
                  "--verify quorum asks other sites, and --local keeps the job on this one");
    else {
        job->spec.verify = (enum mesh_verify)verify;
        job->spec.verify_permille = (uint32_t)permille;
        return true;
    }
    return false;
}

static bool read_options(struct node *node, struct api_call *call, struct job *job, struct job_wish *wish)
{
    const char *cache = body_text(call, "cache");
    if (!cache || strcmp(cache, "mesh") == 0)
        job->spec.cache = JOB_CACHE_MESH;
    else if (strcmp(cache, "site") == 0)
        job->spec.cache = JOB_CACHE_SITE;
    else if (strcmp(cache, "off") == 0)
        job->spec.cache = JOB_CACHE_OFF;
    else {
        api_error(call, EXIT_USAGE, "cache '%s' is not off, site or mesh", cache);
        return false;
    }
    const int64_t items = body_integer(call, "items", 0);
    const int64_t shard_items = body_integer(call, "shard_items", 0);
    const int64_t bundle_shards = body_integer(call, "bundle_shards", 0);
    if (items < 0 || shard_items < 0 || bundle_shards < 0) {
        api_error(call, EXIT_USAGE, "'items', 'shard_items' and 'bundle_shards' are positive numbers");
        return false;
    }
    const int64_t replicas = body_integer(call, "replicas", 0);
    if (replicas < 0 || replicas > MESH_COPIES_MAX) {
        api_error(call, EXIT_USAGE, "'replicas' is 1 to %d", MESH_COPIES_MAX);
        return false;
    }
    job->copies = replicas ? (uint32_t)replicas : JOB_COPIES_DEFAULT;
    job->copies_min = (uint32_t)replicas;
    job->bundle_shards =
        bundle_shards < MESH_BUNDLE_SHARDS_MAX ? (uint32_t)bundle_shards : MESH_BUNDLE_SHARDS_MAX;
    job->spec.items = wish->items = (uint64_t)items;
    wish->shard_items = (uint64_t)shard_items;
    job->spec.local_only = json_is_true(json_object_get(api_body(call), "local"));
    return read_verify(node, call, job);
}

static bool read_identity(struct node *node, struct api_call *call, struct job *job)
{
    const char *key = body_text(call, "key");
    if (key && (!key[0] || strlen(key) >= sizeof job->spec.key)) {
        api_error(call, EXIT_USAGE, "a key has 1 to %zu characters", sizeof job->spec.key - 1);
        return false;
    }
    for (const char *c = key; c && *c; c++)
        if (*c < 0x20 || *c > 0x7e) {
            api_error(call, EXIT_USAGE, "a key is printable ASCII");
            return false;
        }
    job->keyed = key != NULL;
    if (key) {
        snprintf(job->spec.key, sizeof job->spec.key, "%s", key);
    } else {
        uint8_t random[16];
        randombytes_buf(random, sizeof random);
        hex_encode(random, sizeof random, job->spec.key);
    }
    snprintf(job->spec.tenant, sizeof job->spec.tenant, "%s", api_tenant(call));
    snprintf(job->spec.origin, sizeof job->spec.origin, "%s", peer_site(node, &node->self));
    job->spec.id = job_id(job->spec.tenant, job->spec.key);
    job->spec.created_at_ms = clock_wall_ms();
    return true;
}

/* So that a submit that insists on more need not send its inputs first. */
void op_replicas(void *context, struct api_call *call)
{
    const struct node *node = context;
    const int64_t replicas = body_integer(call, "replicas", JOB_COPIES_DEFAULT);
    if (replicas < 1 || replicas > MESH_COPIES_MAX)
        api_error(call, EXIT_USAGE, "'replicas' is 1 to %d", MESH_COPIES_MAX);
    else
        api_reply(call, json_pack("{s:i}", "replicas",
                                  (int)mesh_journal_copies(node->host.mesh, (uint32_t)replicas)));
}

static void submit_gone(void *context, struct api_call *call)
{
    jobs_submitter_gone(context, call);
}

/* A user's kernel: the manifest's text and the source, a blob. NULL when it was refused, and answered. */
static const struct manifest *read_user_kernel(struct node *node, struct api_call *call)
{
    char error[MANIFEST_ERROR_BYTES];
    const char *file = body_text(call, "manifest_name"), *language = body_text(call, "language");
    struct user_kernel_given given = {.text = body_text(call, "manifest")};
    struct store_blob_info info;
    given.text_bytes = strlen(given.text);
    given.language = language && strcmp(language, "ptx") == 0 ? MANIFEST_PTX : MANIFEST_CUDA;
    if (!find_blob(node, call, body_text(call, "source"), &given.source))
        return NULL;
    if (store_blob_stat(node->store, given.source.bytes, &info) != STORE_OK || info.bytes == 0 ||
        info.bytes > MANIFEST_SOURCE_BYTES_MAX) {
        api_error(call, EXIT_USAGE,
                  "a kernel's source has 1 to %u bytes, and is at this node when it is submitted",
                  MANIFEST_SOURCE_BYTES_MAX);
        return NULL;
    }
    given.source_bytes = (uint32_t)info.bytes;
    const struct manifest *manifest = user_kernels_take(&given, file ? file : "manifest", error);
    if (!manifest)
        api_error(call, EXIT_USAGE, "%s", error);
    return manifest;
}

static const struct manifest *read_kernel(struct node *node, struct api_call *call)
{
    const char *kernel = body_text(call, "kernel");
    if (body_text(call, "manifest"))
        return read_user_kernel(node, call);
    const struct manifest *manifest = kernel ? manifest_find(kernel) : NULL;
    if (!manifest) {
        char error[MANIFEST_ERROR_BYTES];
        manifest_unknown_text(kernel ? kernel : "", error);
        api_error(call, EXIT_USAGE, "%s", error);
    }
    return manifest;
}

void op_submit(void *context, struct api_call *call)
{
    struct node *node = context;
    struct uploads **uploads = (struct uploads **)api_state(call);
    if (uploads && *uploads)
        (*uploads)->submitted = true;
    const struct manifest *manifest = read_kernel(node, call);
    if (!manifest)
        return;
    struct job *job = job_make();
    if (!job)
        abort();
    struct job_wish wish = {.output_bytes_max = node->config.job_output_bytes};
    job->spec.manifest = manifest;
    job->spec.kernel = job_kernel_digest(manifest);
    /* Each step that refuses has answered, which ends the call and its body: nothing of them is touched after that. */
    const json_t *inputs = json_object_get(api_body(call), "inputs");
    bool good =
        read_params(call, job) && read_options(node, call, job, &wish) && read_identity(node, call, job);
    for (size_t i = 0; good && i < json_array_size(inputs); i++)
        good = read_input(node, call, json_array_get(inputs, i), job, &wish);
    if (!good) {
        job_free(job);
        return;
    }
    jobs_hold_inputs(node, job);
    if (uploads)
        uploads_release(node, *uploads);
    api_on_gone(call, submit_gone, node);
    jobs_submit(node, job, &wish, call);
}

void submit_accepted(struct node *node, struct api_call *call, const struct job *job, bool existing)
{
    struct mesh_member_view view;
    bool others = false;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++)
        others = others || (!view.self && view.state <= MESH_DOWN);
    json_t *reply = json_pack("{s:s, s:I, s:i, s:o, s:i, s:b}", "state", job_state_word(job->state), "items",
                              (json_int_t)job->spec.items, "shards", (int)job->spec.shard_count, "outputs",
                              outputs_json(job), "replicas", (int)job->copies, "existing", existing);
    json_put(reply, "job", json_hex(job->spec.id.bytes, 32));
    json_put(reply, "alone",
             json_boolean(others && job->copies == 1 && !(existing && job->state == JOB_DONE)));
    api_reply(call, reply);
}

/* "berlin, cairo": those that keep the journal and are out of our reach, at most. */
static void name_silent(struct node *node, const struct mesh_members *members, char *out, size_t out_bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < members->count; i++) {
        struct mesh_member_view member;
        const struct mesh_id *const id = &members->id[i];
        const bool up = mesh_member_find(node->host.mesh, id, &member) && member.state == MESH_UP &&
                        transport_link_is_up(node->transport, id);
        if (up || memcmp(id, &node->self, sizeof *id) == 0 || used >= out_bytes)
            continue;
        used +=
            (size_t)snprintf(out + used, out_bytes - used, "%s%s", used > 0 ? ", " : "", peer_name(node, id));
    }
}

bool submit_waits(struct node *node, struct api_call *call, const struct job *job)
{
    char why[2 * JOB_STALL_BYTES], names[JOB_STALL_BYTES], stall[JOB_STALL_BYTES];
    const char *id = peer_name(node, &job->spec.id);
    struct mesh_journal_view journal;
    if (mesh_journal_find(node->host.mesh, &job->spec.id, &journal)) {
        name_silent(node, &journal.members, names, sizeof names);
        snprintf(why, sizeof why, "%u of the %u nodes that keep its journal must have it on disk%s%s",
                 journal.members.count / 2 + 1, journal.members.count, names[0] ? "; out of reach: " : "",
                 names);
    } else if (job->undecided && !job->preparing) {
        snprintf(why, sizeof why, "the other nodes are asked whether one of them has a job of this key");
    } else if (job->is_handed_out) {
        keep_names(node, &job->spec.id, names, sizeof names);
        snprintf(why, sizeof why,
                 "it is done already, and most of the nodes that are to keep it must have it on disk%s%s",
                 names[0] ? "; not heard from yet: " : "", names);
    } else if (job->preparing) {
        snprintf(why, sizeof why, "its inputs are being checked and cut into shards");
    } else if (job_stall_text(node, job, stall)[0]) {
        snprintf(why, sizeof why, "%s", stall);
    } else {
        return false;
    }
    char text[3 * JOB_STALL_BYTES], cancels[64] = "";
    if (!job->is_handed_out)
        snprintf(cancels, sizeof cancels, "; `weir cancel %.8s` ends it", id);
    snprintf(text, sizeof text, "job %.8s is not accepted yet: %s. Ctrl-C leaves it waiting for that%s", id,
             why, cancels);
    json_t *note = json_pack("{s:s}", "note", text);
    json_put(note, "job", json_hex(job->spec.id.bytes, 32));
    api_more(call, note);
    return true;
}

/* A node of another site can't speak for the people of the one where the job was submitted. */
static bool may_cancel(const struct api_call *call, const struct job *job)
{
    const char *site = api_remote_site(call);
    if (site && strcmp(site, job->spec.origin) != 0)
        return false;
    return api_may(call, API_OPERATE) || strcmp(api_tenant(call), job->spec.tenant) == 0;
}

void op_accepted(void *context, struct api_call *call)
{
    struct node *node = context;
    struct job *job = find_job(node, call, body_text(call, "job"));
    if (job) {
        api_on_gone(call, submit_gone, node);
        jobs_accepted(node, job, body_text(call, "request"), body_text(call, "rows"),
                      (uint64_t)body_integer(call, "items", 0), call);
    }
}

void op_cancel(void *context, struct api_call *call)
{
    struct node *node = context;
    struct job *job = find_job(node, call, body_text(call, "job"));
    if (!job)
        return;
    if (!may_cancel(call, job)) {
        api_error(call, EXIT_DENIED,
                  "the job belongs to tenant '%s': cancel it at a node of site %s, or as an operator at its "
                  "home, %s",
                  job->spec.tenant, job->spec.origin, home_name(node, job));
        return;
    }
    if (job->state >= JOB_ASSEMBLING) {
        api_error(call, EXIT_FAILED, "the job is %s already",
                  job->state == JOB_ASSEMBLING ? "complete" : job_state_word(job->state));
        return;
    }
    if (!jobs_cancel(node, job)) {
        api_error(call, EXIT_PARTIAL, "the job can't go on at its home now (%s); cancel it once it does",
                  job->last_error);
        return;
    }
    json_t *reply = json_pack("{s:s}", "state", "cancelled");
    json_put(reply, "job", json_hex(job->spec.id.bytes, 32));
    api_reply(call, reply);
}
