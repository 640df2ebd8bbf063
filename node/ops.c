/* The local API: the table of calls, and those about this node itself: status, cache, invitations, draining. */
#include "node/ops.h"
#include "node/compile.h"

#include "node/http.h"
#include "node/log.h"
#include "node/user_kernels.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NODE_PREFIX_MIN 4      /* digits of a node's id: one typed by mistake must not revoke anybody */
#define BLOBS_COUNTED_MAX 1000 /* that a prefix fits, for the error that says so */

const struct api_op node_ops[] = {
    {"status", API_LOOK, op_status},
    {"doctor", API_LOOK, op_doctor},
    {"nodes", API_LOOK, op_nodes},
    {"forgive", API_OPERATE, op_forgive},
    {"gossip", API_LOOK, op_gossip},
    {"ping", API_LOOK, op_ping},
    {"kernels", API_LOOK, op_kernels},
    {"replicas", API_SUBMIT, op_replicas},
    {"submit", API_SUBMIT, op_submit},
    {"job", API_LOOK, op_job},
    {"jobs", API_LOOK, op_jobs},
    {"watch", API_LOOK, op_watch},
    {"logs", API_LOOK, op_logs},
    {"explain", API_LOOK, op_explain},
    {"cancel", API_SUBMIT, op_cancel},
    {"where", API_LOOK, op_where},
    {"accepted", API_SUBMIT, op_accepted},
    {"register", API_SUBMIT, op_register},
    {"kept", API_LOOK, op_kept},
    {"finished", API_LOOK, op_finished},
    {"keep", API_SUBMIT, op_keep},
    {"blob.put", API_SUBMIT, op_blob_put},
    {"blob.get", API_SUBMIT, op_blob_get},
    {"blob.stat", API_LOOK, op_blob_stat},
    {"blob.ls", API_LOOK, op_blob_list},
    {"blob.rm", API_OPERATE, op_blob_remove},
    {"cache.stat", API_LOOK, op_cache_stat},
    {"cache.clear", API_OPERATE, op_cache_clear},
    {"drain", API_OPERATE, op_drain},
    {"reclaim", API_OPERATE, op_reclaim},
    {"release", API_OPERATE, op_release},
    {"devices", API_LOOK, op_devices},
    {"config", API_LOOK, op_config},
    {"invite.create", API_OPERATE, op_invite_create},
    {"invite.list", API_OPERATE, op_invite_list},
    {"invite.cancel", API_OPERATE, op_invite_cancel},
    {"revoke", API_OPERATE, op_revoke},
    {"store.backup", API_OPERATE, op_store_backup},
    {0},
};

/* ---- Helpers */

json_t *json_hex(const void *bytes, size_t count)
{
    char text[2 * 64 + 1];
    hex_encode(bytes, count < 64 ? count : 64, text);
    return json_string(text);
}

bool id_from_hex(const char *text, struct mesh_id *id)
{
    struct digest digest;
    if (!text || digest_from_hex(text, &digest) != CRYPTO_OK)
        return false;
    memcpy(id->bytes, digest.bytes, sizeof id->bytes);
    return true;
}

void json_put(json_t *object, const char *name, json_t *value)
{
    json_object_set_new(object, name, value);
}

const char *body_text(const struct api_call *call, const char *name)
{
    return json_string_value(json_object_get(api_body(call), name));
}

int64_t body_integer(const struct api_call *call, const char *name, int64_t otherwise)
{
    const json_t *value = json_object_get(api_body(call), name);
    return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

/* The first digits of an id, or all of them. */
static bool is_hex(const char *text)
{
    size_t count = 0;
    for (; text[count]; count++)
        if (!isxdigit((unsigned char)text[count]))
            return false;
    return count >= 1 && count <= 64;
}

static bool has_prefix(const uint8_t bytes[32], const char *prefix)
{
    char text[65];
    hex_encode(bytes, 32, text);
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

bool find_node(struct node *node, struct api_call *call, const char *text, struct mesh_id *id)
{
    if (!text || !text[0]) {
        api_error(call, EXIT_USAGE,
                  "name a node: its name, or the first digits of its id (see `weir nodes`)");
        return false;
    }
    const bool hex = is_hex(text), short_hex = hex && strlen(text) < NODE_PREFIX_MIN;
    uint32_t found = 0;
    /* By name, by id, and only then somebody who was revoked: its successor may go by the same name. */
    for (int pass = 0; pass < 4 && found == 0; pass++)
        for (uint32_t i = 0; i < node->peers.count; i++) {
            const struct peer *peer = &node->peers.peer[i];
            const bool by_name = pass % 2 == 0;
            if (peer_revoked(node, peer) != (pass >= 2))
                continue;
            const bool match = by_name ? strcmp(peer->name, text) == 0
                                       : hex && !short_hex && has_prefix(peer->id.bytes, text);
            if (!match)
                continue;
            *id = peer->id;
            found++;
        }
    if (found == 1)
        return true;
    if (found == 0 && short_hex)
        api_error(call, EXIT_NONE,
                  "no node is named '%s', and of an id at least the first %d digits are needed", text,
                  NODE_PREFIX_MIN);
    else if (found == 0)
        api_error(call, EXIT_NONE, "no node '%s' in this mesh; `weir nodes` lists them", text);
    else
        api_error(call, EXIT_USAGE, "'%s' fits %u nodes; give more of the id", text, found);
    return false;
}

bool away_may_have_it(struct node *node, char text[AWAY_TEXT_BYTES])
{
    struct mesh_member_view view;
    struct mesh_id first = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++)
        if (view.state == MESH_SUSPECT || view.state == MESH_DOWN || view.state == MESH_LEFT)
            first = count++ == 0 ? view.id : first;
    text[0] = '\0';
    if (count == 1)
        snprintf(text, AWAY_TEXT_BYTES, "; %s, which does not answer, may have it", peer_name(node, &first));
    else if (count > 1)
        snprintf(text, AWAY_TEXT_BYTES, "; %s and %u other members, which do not answer, may have it",
                 peer_name(node, &first), count - 1);
    return count > 0;
}

/* NULL: none here, or several or no name of one, and answered so. */
static struct job *search_job(struct node *node, struct api_call *call, const char *text, bool *answered)
{
    struct mesh_id id;
    struct job *job = NULL;
    uint32_t found = 0;
    *answered = true;
    if (id_from_hex(text, &id)) { /* as programs name it */
        if (json_is_true(json_object_get(api_body(call), "revive")))
            jobs_revive(node, &id);
        job = jobs_find(node, &id);
        found = job != NULL;
    } else if (text && is_hex(text)) {
        for (struct job *each = node->jobs.head; each; each = each->next)
            if (has_prefix(each->spec.id.bytes, text)) {
                job = each;
                found++;
            }
    }
    if (found == 1)
        return job;
    if (found > 1)
        api_error(call, EXIT_USAGE, "'%s' fits %u jobs; give more of the id", text, found);
    else if (!text || !is_hex(text) || strlen(text) > 64)
        api_error(call, EXIT_NONE,
                  "no job '%.80s': a job is named by its 64 hex digits, or the first of them",
                  text ? text : "");
    else
        *answered = false;
    return NULL;
}

struct job *find_job(struct node *node, struct api_call *call, const char *text)
{
    bool answered;
    struct job *const job = search_job(node, call, text, &answered);
    if (job || answered)
        return job;
    if (api_remote_site(call))
        api_error(call, EXIT_NONE, "no job '%s' at %s", text, peer_name(node, &node->self));
    else
        relay_job(node, call, text);
    return NULL;
}

struct job *find_own_job(struct node *node, struct api_call *call, const char *text)
{
    bool answered;
    struct job *const job = search_job(node, call, text, &answered);
    if (!job && !answered)
        api_error(call, EXIT_NONE,
                  "no job '%s' has its home at %s. If another node is its home, `weir submit --reattach %s` "
                  "names its outputs' blobs: bring one here with `weir blob get`, then give blob:DIGEST",
                  text, peer_name(node, &node->self), text);
    return job;
}

struct blob_search {
    const char *prefix;
    struct digest first; /* of those that begin so */
    uint32_t found;
};

/* Blobs come in order of id, from the first that may begin so. */
static bool search_blob(void *context, const uint8_t id[32], const struct store_blob_info *info)
{
    (void)info;
    struct blob_search *search = context;
    if (!has_prefix(id, search->prefix))
        return false;
    if (search->found++ == 0)
        memcpy(search->first.bytes, id, sizeof search->first.bytes);
    return search->found < BLOBS_COUNTED_MAX;
}

/* The id right before the first one that begins with `prefix`; false if there is none. */
static bool id_before(const char *prefix, uint8_t id[32])
{
    char text[65];
    struct digest first;
    snprintf(text, sizeof text, "%-64s", prefix);
    for (char *c = text; *c; c++)
        if (*c == ' ')
            *c = '0';
    if (digest_from_hex(text, &first) != CRYPTO_OK)
        return false;
    memcpy(id, first.bytes, sizeof first.bytes);
    for (int i = 31; i >= 0; i--)
        if (id[i]-- != 0)
            return true;
    return false;
}

bool find_blob(struct node *node, struct api_call *call, const char *text, struct digest *id)
{
    if (!text || !is_hex(text)) {
        api_error(call, EXIT_USAGE, "a blob is named by its 64 hex digits, or the first of them");
        return false;
    }
    struct store_blob_info info;
    struct blob_search search = {.prefix = text};
    enum store_error error;
    if (digest_from_hex(text, id) == CRYPTO_OK) {
        error = store_blob_stat(node->store, id->bytes, &info);
    } else {
        uint8_t before[32];
        error = store_blob_each(node->store, id_before(text, before) ? before : NULL, search_blob, &search);
        if (error == STORE_OK && search.found == 0)
            error = STORE_NONE;
        *id = search.first;
    }
    if (search.found > 1)
        api_error(call, EXIT_USAGE, "'%s' fits %u%s blobs here; give more of the id", text, search.found,
                  search.found == BLOBS_COUNTED_MAX ? " or more" : "");
    else if (error == STORE_OK)
        return true;
    else if (error == STORE_NONE)
        api_error(call, EXIT_NONE,
                  "blob %.16s: not on this node, %s; `weir blob put FILE` adds it, and with all 64 digits "
                  "`weir blob get` asks the others",
                  text, peer_name(node, &node->self));
    else
        api_error(call, EXIT_FAILED, "blob %.16s at %s: %s", text, peer_name(node, &node->self),
                  store_error_text(error));
    return false;
}

/* ---- status, config, kernels, drain */

/* The layers that CPU workers are in: {"user": true, ...}; null before a worker has started. */
static json_t *sandbox_json(const struct node *node)
{
    const struct sandbox_report *report = workers_sandbox(node->workers, 0);
    json_t *layers = report ? json_object() : json_null();
    for (int i = 0; report && i < SANDBOX_LAYERS; i++)
        json_put(layers, sandbox_layer_name((enum sandbox_layer)i), json_boolean(report->layers[i].on));
    return layers;
}

void op_status(void *context, struct api_call *call)
{
    struct node *node = context;
    const struct certificate *certificate = federation_certificate(node->federation);
    const struct genesis *genesis = federation_genesis(node->federation);
    json_t *rights = json_array();
    if (api_may(call, API_LOOK))
        json_array_append_new(rights, json_string("look"));
    if (api_may(call, API_SUBMIT))
        json_array_append_new(rights, json_string("submit"));
    if (api_may(call, API_OPERATE))
        json_array_append_new(rights, json_string("operate"));
    json_t *reply =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:b, s:s, s:s, s:s, s:i, s:s, s:I, s:s, s:o}", "name",
                  certificate->name, "site", certificate->site, "region",
                  node->config.region[0] ? node->config.region : certificate->site, "federation_name",
                  genesis->name, "version", NODE_SOFTWARE, "pid", (int)getpid(), "uptime_ms",
                  (json_int_t)(clock_now_ms() - node->started_at_ms), "draining", node->draining, "control",
                  node->control, "bulk", node->bulk_address, "join", node->join_address, "http",
                  (int)http_port(node->http), "data", node->config.data, "certificate_ends_at",
                  (json_int_t)certificate->not_after_s * 1000, "tenant", api_tenant(call), "rights", rights);
    json_put(reply, "id", json_hex(node->self.bytes, 32));
    json_put(reply, "federation", json_hex(genesis->federation.bytes, 32));
    json_t *devices = json_array();
    struct workers_view view;
    for (uint32_t i = 0; workers_view(node->workers, i, &view); i++)
        json_array_append_new(devices,
                              json_pack("{s:s, s:s, s:i, s:i, s:b, s:I, s:I, s:I}", "device", view.device,
                                        "name", view.name, "pid", view.pid, "in_hand", (int)view.in_hand,
                                        "fault", view.fault, "shards", (json_int_t)view.shards, "restarts",
                                        (json_int_t)view.restarts, "busy_us", (json_int_t)view.busy_us));
    json_put(reply, "devices", devices);
    json_put(reply, "sandbox", sandbox_json(node));
    json_put(reply, "worker_start_ms", json_real((double)workers_start_us(node->workers) / 1000));
    api_reply(call, reply);
}

void op_config(void *context, struct api_call *call)
{
    const struct node *node = context;
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    if (!out) {
        api_error(call, EXIT_FAILED, "out of memory");
        return;
    }
    config_dump(&node->config, out);
    fclose(out);
    api_reply(call, json_pack("{s:s, s:o}", "text", text, "config", config_json(&node->config)));
    free(text);
}

static json_t *roles_of(uint8_t roles)
{
    json_t *list = json_array();
    if (roles & MANIFEST_SPLIT)
        json_array_append_new(list, json_string("split"));
    if (roles & MANIFEST_BROADCAST)
        json_array_append_new(list, json_string("broadcast"));
    return list;
}

static json_t *inputs_of(const struct manifest *manifest)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < manifest->input_count; i++) {
        const struct manifest_input *input = &manifest->inputs[i];
        json_t *dtypes = json_array();
        for (int d = 0; d < ARRAY_DTYPES; d++)
            if (input->dtypes & 1u << d)
                json_array_append_new(dtypes, json_string(array_dtype_name((enum array_dtype)d)));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:i, s:i, s:o, s:b}", "name", input->name,
                                              "help", input->help, "dtypes", dtypes, "rank_min",
                                              input->rank_min, "rank_max", input->rank_max, "roles",
                                              roles_of(input->roles), "optional", input->optional));
    }
    return list;
}

static json_t *params_of(const struct manifest *manifest)
{
    static const char *const types[] = {"integer", "real", "choice"};
    json_t *list = json_array();
    for (uint32_t i = 0; i < manifest->param_count; i++) {
        const struct manifest_param *param = &manifest->params[i];
        json_t *row = json_pack("{s:s, s:s, s:s}", "name", param->name, "type", types[param->type], "help",
                                param->help);
        if (param->type == MANIFEST_CHOICE) {
            json_t *choices = json_array();
            for (int c = 0; c < MANIFEST_CHOICES_MAX && param->choices[c]; c++)
                json_array_append_new(choices, json_string(param->choices[c]));
            json_put(row, "default", json_string(param->choices[0]));
            json_put(row, "choices", choices);
        } else {
            const bool whole = param->type == MANIFEST_INTEGER;
            const double values[] = {param->range.fallback, param->range.minimum, param->range.maximum};
            static const char *const names[] = {"default", "min", "max"};
            for (int v = 0; v < 3; v++)
                json_put(row, names[v], whole ? json_integer((json_int_t)values[v]) : json_real(values[v]));
        }
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *kernel_json(const struct manifest *manifest)
{
    static const char *const combines[] = {"concat", "sum", "min", "max"};
    json_t *outputs = json_array();
    for (uint32_t o = 0; o < manifest->output_count; o++)
        json_array_append_new(outputs, json_pack("{s:s, s:s, s:s}", "name", manifest->outputs[o].name, "help",
                                                 manifest->outputs[o].help, "combine",
                                                 combines[manifest->outputs[o].combine]));
    const struct digest digest = job_kernel_digest(manifest);
    json_t *row =
        json_pack("{s:s, s:i, s:s, s:f, s:b, s:b, s:s, s:o, s:o, s:o}", "name", manifest->name, "version",
                  (int)manifest->version, "class", manifest->class == MANIFEST_EXACT ? "exact" : "tolerant",
                  "tolerance", manifest->tolerance, "diagnostic", manifest->diagnostic, "user",
                  manifest->user != NULL, "help", manifest->help, "inputs", inputs_of(manifest), "outputs",
                  outputs, "params", params_of(manifest));
    json_put(row, "digest", json_hex(digest.bytes, 32));
    const struct user_kernel *user = user_kernel_of(manifest);
    char cost[64];
    if (user)
        snprintf(cost, sizeof cost, "%.6g ns of one core of a CPU", user->user.cost_ns);
    json_put(row, "positional", json_boolean(manifest->positional));
    json_put(row, "cost", json_string(user ? cost : manifest->cost_help));
    json_put(row, "targets",
             user && user->language == MANIFEST_PTX ? json_pack("[s]", "cuda")
                                                    : json_pack("[s, s]", "cpu", "cuda"));
    if (manifest->example)
        json_put(row, "example", json_string(manifest->example));
    if (user) {
        const char *refused = compile_refused(user);
        json_put(row, "source", json_hex(user->source.bytes, 32));
        if (refused)
            json_put(row, "refused", json_string(refused));
    }
    return row;
}

void op_kernels(void *context, struct api_call *call)
{
    (void)context;
    json_t *list = json_array();
    const struct manifest *manifest;
    for (size_t k = 0; (manifest = manifest_each(k)); k++)
        json_array_append_new(list, kernel_json(manifest));
    const struct user_kernel *user;
    for (uint32_t k = 0; (user = user_kernels_each(k)); k++)
        json_array_append_new(list, kernel_json(&user->user.manifest));
    api_reply(call, json_pack("{s:o}", "kernels", list));
}

static void drain_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct node *)context)->drain_call = NULL; /* it goes on draining */
}

void op_drain(void *context, struct api_call *call)
{
    struct node *node = context;
    if (node->drain_call) {
        api_error(call, EXIT_FAILED,
                  "somebody is draining this node already; `weir nodes` shows when it has left");
        return;
    }
    node_drain(node, false);
    node->drain_call = call;
    api_on_gone(call, drain_gone, node);
}

/* ---- Answers that wait for the disk */

struct waiting_reply {
    struct api_call *call;
    json_t *reply;
};

static void reply_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct waiting_reply *)context)->call = NULL;
}

static void reply_committed(struct node *node, void *context, enum store_error error)
{
    (void)node;
    struct waiting_reply *waiting = context;
    if (waiting->call && (error == STORE_OK || error == STORE_MORE))
        api_reply(waiting->call, json_incref(waiting->reply));
    else if (waiting->call)
        api_error(waiting->call, EXIT_FAILED, "not done: %s", store_error_text(error));
    json_decref(waiting->reply);
    free(waiting);
}

void reply_when_durable(struct node *node, struct api_call *call, struct store_batch *batch, json_t *reply)
{
    struct waiting_reply *waiting = malloc(sizeof *waiting);
    if (!waiting)
        abort();
    *waiting = (struct waiting_reply){.call = call, .reply = reply};
    api_on_gone(call, reply_gone, waiting);
    node_commit(node, batch, reply_committed, waiting);
}

/* ---- Cache */

void op_cache_stat(void *context, struct api_call *call)
{
    struct node *node = context;
    struct store_stats stats;
    store_stats(node->store, &stats);
    json_t *sites = json_array();
    for (uint32_t i = 0; i < node->cache.site_count; i++)
        json_array_append_new(sites, json_pack("{s:s, s:I}", "site", node->cache.site[i].name, "hits",
                                               (json_int_t)node->cache.site[i].hits));
    json_t *reply = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "entries", (json_int_t)stats.entries,
        "entry_bytes", (json_int_t)stats.entry_bytes, "blobs", (json_int_t)stats.blobs, "blob_bytes",
        (json_int_t)stats.blob_bytes, "pointers", (json_int_t)stats.pointers, "hits",
        (json_int_t)stats.cache_hits, "misses", (json_int_t)stats.cache_misses, "evictions",
        (json_int_t)stats.evictions, "budget_bytes", (json_int_t)node->config.cache_bytes, "leases",
        (json_int_t)leases_count(node->cache.leases, clock_now_ms()), "lies", (json_int_t)node->cache.lies,
        "by_site", sites);
    api_reply(call, reply);
}

/* The store clears so many entries at a time; each step orders the next. */
static void clear_more(struct node *node, void *context, enum store_error error)
{
    (void)context;
    if (error != STORE_MORE)
        return;
    struct store_batch *batch = node_batch(node);
    store_batch_cache_clear(batch);
    node_commit(node, batch, clear_more, NULL);
}

void op_cache_clear(void *context, struct api_call *call)
{
    struct node *node = context;
    struct store_stats stats;
    store_stats(node->store, &stats);
    clear_more(node, NULL, STORE_MORE);
    api_reply(call, json_pack("{s:I}", "removed", (json_int_t)stats.entries));
}

/* ---- Invitations and revocation */

static json_t *invite_json(const struct invite *invite)
{
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:I, s:I}", "site", invite->site, "user", invite->user, "state",
                  invite_state_name(invite->state), "created_at", (json_int_t)invite->created_s * 1000,
                  "expires_at", (json_int_t)invite->expires_s * 1000);
    json_put(row, "id", json_hex(invite->id.bytes, 32));
    if (invite->state == INVITE_IS_USED) {
        json_put(row, "used_by", json_string(invite->used_name));
        json_put(row, "used_at", json_integer((json_int_t)invite->used_s * 1000));
        json_put(row, "node", json_hex(invite->used_by.bytes, 32));
    }
    return row;
}

static enum exit_code invite_exit(enum invite_error error)
{
    switch (error) {
    case INVITE_INVALID:
    case INVITE_AMBIGUOUS:
        return EXIT_USAGE;
    case INVITE_UNKNOWN:
        return EXIT_NONE;
    case INVITE_FORBIDDEN:
        return EXIT_DENIED;
    default:
        return EXIT_FAILED;
    }
}

void op_invite_create(void *context, struct api_call *call)
{
    struct node *node = context;
    char addresses[1][TOKEN_ADDRESS_BYTES_MAX + 1];
    snprintf(addresses[0], sizeof addresses[0], "%s", node->join_address);
    const struct invite_request request = {
        .site = body_text(call, "site"),
        .user = body_text(call, "user"),
        .may_invite = json_is_true(json_object_get(api_body(call), "may_invite")),
        .expires_s = body_integer(call, "expires_s", 0),
        .lifetime_s = body_integer(call, "lifetime_s", 0),
        .addresses = (const char(*)[TOKEN_ADDRESS_BYTES_MAX + 1]) addresses,
        .address_count = 1};
    char text[TOKEN_TEXT_BYTES_MAX];
    struct invite invite;
    struct store_batch *batch = node_batch(node);
    const enum invite_error error =
        request.site ? invites_create(node->invites, &request, clock_wall_ms() / 1000, batch, text, &invite)
                     : INVITE_INVALID;
    if (error != INVITE_OK) {
        store_batch_close(batch);
        api_error(call, invite_exit(error), "%s", invite_error_text(error));
        return;
    }
    json_t *reply = invite_json(&invite);
    json_put(reply, "token", json_string(text));
    explicit_bzero(text, sizeof text);
    reply_when_durable(node, call, batch, reply);
}

void op_invite_list(void *context, struct api_call *call)
{
    struct node *node = context;
    json_t *list = json_array();
    for (uint32_t i = 0; i < invites_count(node->invites); i++) {
        struct invite invite;
        invites_at(node->invites, i, clock_wall_ms() / 1000, &invite);
        json_array_append_new(list, invite_json(&invite));
    }
    api_reply(call, json_pack("{s:o}", "invites", list));
}

void op_invite_cancel(void *context, struct api_call *call)
{
    struct node *node = context;
    struct invite invite;
    struct store_batch *batch = node_batch(node);
    const char *id = body_text(call, "id");
    const enum invite_error error =
        invites_cancel(node->invites, id ? id : "", clock_wall_ms() / 1000, batch, &invite);
    if (error != INVITE_OK) {
        store_batch_close(batch);
        api_error(call, invite_exit(error), "%s", invite_error_text(error));
        return;
    }
    reply_when_durable(node, call, batch, invite_json(&invite));
}

static uint8_t add_target(json_t *rows, struct public_key *keys, uint8_t count, const struct peer *peer)
{
    memcpy(keys[count].bytes, peer->id.bytes, sizeof keys[count].bytes);
    json_t *row = json_pack("{s:s, s:s}", "name", peer->name, "site", peer->site);
    json_put(row, "id", json_hex(peer->id.bytes, 32));
    json_array_append_new(rows, row);
    return (uint8_t)(count + 1);
}

/*
 * Nobody can mean the asked node: it would bar those whom it invited, go on alone, and tell nobody. As who may revoke may
 * invite too, this also keeps the last inviter. Answers the call and returns false.
 */
static bool may_revoke(struct node *node, struct api_call *call, const struct public_key *keys, uint8_t count)
{
    for (uint8_t i = 0; i < count; i++)
        if (memcmp(keys[i].bytes, node->self.bytes, sizeof node->self.bytes) == 0) {
            api_error(
                call, EXIT_USAGE,
                "cannot revoke %s: it is the node that was asked; ask another one that may, or make one "
                "first with `weir invite --may-invite`",
                peer_name(node, &node->self));
            return false;
        }
    return true;
}

void op_revoke(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *target = body_text(call, "target");
    const char *reason = body_text(call, "reason");
    struct public_key keys[REVOCATION_TARGETS_MAX];
    uint8_t count = 0;
    int64_t ends_s = 0;
    json_t *rows = json_array();
    for (uint32_t i = 0; target && i < node->peers.count && count < REVOCATION_TARGETS_MAX; i++) {
        const struct peer *peer = &node->peers.peer[i];
        if (strcmp(peer->site, target) != 0)
            continue;
        count = add_target(rows, keys, count, peer);
        ends_s = peer->certificate_ends_s > ends_s ? peer->certificate_ends_s : ends_s;
    }
    struct mesh_id id;
    if (count == 0) {
        if (!find_node(node, call, target, &id)) {
            json_decref(rows);
            return;
        }
        const struct peer *peer = peers_find(node, &id);
        count = add_target(rows, keys, count, peer);
        ends_s = peer->certificate_ends_s;
    }
    if (!may_revoke(node, call, keys, count)) {
        json_decref(rows);
        return;
    }
    char who[NAME_BYTES_MAX + 1];
    snprintf(who, sizeof who, "%s", api_tenant(call));
    const struct federation_revoke fields = {.nodes = keys,
                                             .node_count = count,
                                             .who = who,
                                             .reason = reason ? reason : "",
                                             .certificates_end_s = ends_s};
    uint8_t record[REVOCATION_BYTES_MAX];
    size_t record_bytes = 0;
    const enum crypto_error error = federation_revoke(node->federation, &fields, clock_wall_ms() / 1000,
                                                      record, sizeof record, &record_bytes);
    if (error != CRYPTO_OK) {
        json_decref(rows);
        api_error(call, error == CRYPTO_ISSUER_RIGHT_LACKS ? EXIT_DENIED : EXIT_FAILED, "cannot revoke: %s",
                  error == CRYPTO_ISSUER_RIGHT_LACKS
                      ? "this node has no right to; ask an operator of the node that began the federation"
                      : crypto_error_text(error));
        return;
    }
    /* Durable first; then it is applied and passed on like any that comes from a peer. */
    struct store_batch *batch = node_batch(node);
    federation_revocation_save(batch, record, record_bytes);
    records_received(node, &node->self, record, record_bytes, 0);
    reply_when_durable(node, call, batch, json_pack("{s:o}", "revoked", rows));
}
