#include "node/keys.h"

#include "node/calls.h"
#include "node/ops.h"

#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define ROW_PREFIX "key's home "
#define ROW_PREFIX_BYTES (sizeof ROW_PREFIX - 1)
#define ROW_KEY_BYTES (ROW_PREFIX_BYTES + 32)
#define PRUNE_EVERY_MS (60 * 60 * 1000)
#define PRUNED_MAX 256                                     /* at a time */
#define KEPT_LONGER_MS (INT64_C(30) * 24 * 60 * 60 * 1000) /* a job may take so long */

/* Who, by which claim, and when: little-endian as the machine is. */
struct row {
    uint8_t home[32];
    uint8_t claim[8];
    uint8_t at_ms[8];
};

/* A registration on its way to the disk, and what waits for it. */
struct key_pending {
    struct key_pending *next;
    struct mesh_id job;
    struct key_home home;
    struct api_call *call; /* NULL: nobody waits */
};

static void row_key(const struct mesh_id *job, uint8_t key[ROW_KEY_BYTES])
{
    memcpy(key, ROW_PREFIX, ROW_PREFIX_BYTES);
    memcpy(key + ROW_PREFIX_BYTES, job->bytes, sizeof job->bytes);
}

/* ---- Registrars */

uint32_t keys_registrars(const struct node *node, const struct mesh_id *job,
                         struct mesh_id registrar[KEY_REGISTRARS_MAX])
{
    struct digest rank[KEY_REGISTRARS_MAX];
    struct mesh_member_view view;
    uint32_t count = 0;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (view.state == MESH_REVOKED)
            continue;
        const struct digest its = job_rank("weir key registrar 1", job, &view.id);
        uint32_t at = count;
        while (at > 0 && digest_compare(&its, &rank[at - 1]) > 0)
            at--;
        if (at == KEY_REGISTRARS_MAX)
            continue;
        count += count < KEY_REGISTRARS_MAX;
        for (uint32_t k = count - 1; k > at; k--) {
            rank[k] = rank[k - 1];
            registrar[k] = registrar[k - 1];
        }
        rank[at] = its;
        registrar[at] = view.id;
    }
    return count;
}

/* ---- As a registrar */

bool keys_find(const struct node *node, const struct mesh_id *job, struct key_home *home)
{
    for (const struct key_pending *pending = node->keys; pending; pending = pending->next)
        if (memcmp(&pending->job, job, sizeof *job) == 0) {
            *home = pending->home;
            return true;
        }
    uint8_t key[ROW_KEY_BYTES];
    struct row row;
    size_t bytes;
    row_key(job, key);
    if (store_get(node->store, STORE_META, key, sizeof key, &row, sizeof row, &bytes) != STORE_OK ||
        bytes != sizeof row)
        return false;
    memcpy(home->node.bytes, row.home, sizeof row.home);
    memcpy(&home->claim, row.claim, sizeof row.claim);
    return true;
}

/* A claim is text: JSON's numbers are signed. */
void keys_put(json_t *object, const char *name, const struct key_home *home)
{
    json_t *const field = json_object();
    json_put(field, "node", json_hex(home->node.bytes, sizeof home->node.bytes));
    json_put(field, "claim", json_hex(&home->claim, sizeof home->claim));
    json_put(object, name, field);
}

bool keys_get(const json_t *object, const char *name, struct key_home *home)
{
    const json_t *const field = json_object_get(object, name);
    const char *const claim = json_string_value(json_object_get(field, "claim"));
    size_t bytes;
    return id_from_hex(json_string_value(json_object_get(field, "node")), &home->node) && claim &&
           sodium_hex2bin((uint8_t *)&home->claim, sizeof home->claim, claim, strlen(claim), NULL, &bytes,
                          NULL) == 0 &&
           bytes == sizeof home->claim;
}

static void reply(struct api_call *call, const struct key_home *home)
{
    json_t *const answer = json_object();
    keys_put(answer, "home", home);
    api_reply(call, answer);
}

static void on_written(struct node *node, void *context, enum store_error error)
{
    struct key_pending *const pending = context, **link = &node->keys;
    while (*link && *link != pending)
        link = &(*link)->next;
    if (*link)
        *link = pending->next;
    if (pending->call && (error == STORE_OK || error == STORE_MORE))
        reply(pending->call, &pending->home);
    else if (pending->call)
        api_error(pending->call, EXIT_FAILED, "not done: %s", store_error_text(error));
    free(pending);
}

static void caller_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct key_pending *)context)->call = NULL;
}

/* Newest first, so that the latest of two for one job counts. The call, if there is one, is answered once it is durable. */
static void write_down(struct node *node, const struct mesh_id *job, const struct key_home *home,
                       struct api_call *call)
{
    uint8_t key[ROW_KEY_BYTES];
    struct row row;
    const int64_t at_ms = clock_wall_ms();
    struct key_pending *const pending = calloc(1, sizeof *pending);
    must(pending);
    *pending = (struct key_pending){.next = node->keys, .job = *job, .home = *home, .call = call};
    node->keys = pending;
    if (call)
        api_on_gone(call, caller_gone, pending);
    row_key(job, key);
    memcpy(row.home, home->node.bytes, sizeof row.home);
    memcpy(row.claim, &home->claim, sizeof row.claim);
    memcpy(row.at_ms, &at_ms, sizeof row.at_ms);
    struct store_batch *const batch = node_batch(node);
    store_batch_put(batch, STORE_META, key, sizeof key, &row, sizeof row);
    node_commit(node, batch, on_written, pending);
}

static bool may_register(const struct node *node, const struct mesh_id *job, const struct key_home *claimant,
                         const struct key_home *instead, struct key_home *home)
{
    if (!keys_find(node, job, home) || memcmp(&home->node, &claimant->node, sizeof home->node) == 0)
        return true;
    return instead && memcmp(&home->node, &instead->node, sizeof home->node) == 0 &&
           home->claim == instead->claim;
}

struct key_home keys_register(struct node *node, const struct mesh_id *job, const struct key_home *claimant,
                              const struct key_home *instead)
{
    struct key_home home;
    if (!may_register(node, job, claimant, instead, &home))
        return home;
    write_down(node, job, claimant, NULL);
    return *claimant;
}

/* Of another node alone, and for itself. */
void op_register(void *context, struct api_call *call)
{
    struct node *node = context;
    struct key_home claimant, instead, home;
    struct mesh_id job, from;
    if (!calls_asker(call, &from) || !id_from_hex(body_text(call, "job"), &job) ||
        !keys_get(api_body(call), "home", &claimant)) {
        api_error(call, EXIT_FAILED, "a node registers with a job's 64 hex digits, and as its home");
        return;
    }
    claimant.node = from;
    const bool replaces = keys_get(api_body(call), "instead", &instead);
    if (may_register(node, &job, &claimant, replaces ? &instead : NULL, &home))
        write_down(node, &job, &claimant, call);
    else
        reply(call, &home);
}

/* ---- Time */

struct pruning {
    struct store_batch *batch;
    int64_t before_ms;
    uint32_t pruned;
};

static bool prune_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct pruning *const pruning = context;
    int64_t at_ms = 0;
    if (value_bytes == sizeof(struct row))
        memcpy(&at_ms, (const uint8_t *)value + offsetof(struct row, at_ms), sizeof at_ms);
    if (at_ms < pruning->before_ms) {
        store_batch_delete(pruning->batch, STORE_META, key, key_bytes);
        pruning->pruned++;
    }
    return pruning->pruned < PRUNED_MAX;
}

void keys_prune(struct node *node, int64_t before_ms)
{
    const struct store_range range = {.prefix = ROW_PREFIX, .prefix_bytes = ROW_PREFIX_BYTES};
    if (clock_now_ms() < node->keys_prune_at_ms)
        return;
    struct pruning pruning = {.batch = node_batch(node), .before_ms = before_ms - KEPT_LONGER_MS};
    store_each(node->store, STORE_META, &range, prune_row, &pruning);
    node->keys_prune_at_ms = pruning.pruned < PRUNED_MAX ? clock_now_ms() + PRUNE_EVERY_MS : 0;
    node_commit(node, pruning.batch, NULL, NULL);
}

/* The store is closed: nothing is written any more. */
void keys_close(struct node *node)
{
    while (node->keys) {
        struct key_pending *const pending = node->keys;
        node->keys = pending->next;
        free(pending);
    }
}
