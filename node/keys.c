#include "node/keys.h"

#include "node/ops.h"

#include <stdlib.h>
#include <string.h>

#define ROW_PREFIX "key's home "
#define ROW_PREFIX_BYTES (sizeof ROW_PREFIX - 1)
#define ROW_KEY_BYTES (ROW_PREFIX_BYTES + 32)
#define PRUNE_EVERY_MS (60 * 60 * 1000)
#define KEPT_LONGER_MS (INT64_C(30) * 24 * 60 * 60 * 1000) /* a job may take so long */

/* Who, and when: little-endian as the machine is. */
struct row {
    uint8_t home[32];
    uint8_t at_ms[8];
};

/* A registration on its way to the disk, and what waits for it. */
struct key_pending {
    struct key_pending *next;
    struct mesh_id job;
    struct mesh_id home;
    struct api_call *call; /* NULL: nobody waits */
};

static void row_key(const struct mesh_id *job, uint8_t key[ROW_KEY_BYTES])
{
    memcpy(key, ROW_PREFIX, ROW_PREFIX_BYTES);
    memcpy(key + ROW_PREFIX_BYTES, job->bytes, sizeof job->bytes);
}

/* ---- Registrars */

static struct digest rank_of(const struct mesh_id *job, const struct mesh_id *member)
{
    uint8_t both[sizeof job->bytes + sizeof member->bytes];
    memcpy(both, job->bytes, sizeof job->bytes);
    memcpy(both + sizeof job->bytes, member->bytes, sizeof member->bytes);
    return digest_of("weir key registrar 1", both, sizeof both);
}

uint32_t keys_registrars(const struct node *node, const struct mesh_id *job,
                         struct mesh_id registrar[KEY_REGISTRARS_MAX])
{
    struct digest rank[KEY_REGISTRARS_MAX];
    struct mesh_member_view view;
    uint32_t count = 0;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (view.state > MESH_DOWN)
            continue;
        const struct digest its = rank_of(job, &view.id);
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

static bool find(const struct node *node, const struct mesh_id *job, struct mesh_id *home)
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
    memcpy(home->bytes, row.home, sizeof home->bytes);
    return true;
}

static void reply(struct api_call *call, const struct mesh_id *home)
{
    api_reply(call, json_pack("{s:o}", "home", json_hex(home->bytes, sizeof home->bytes)));
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

/* Newest first, so that the latest of two for one job counts. */
static struct key_pending *write_down(struct node *node, const struct mesh_id *job,
                                      const struct mesh_id *home)
{
    uint8_t key[ROW_KEY_BYTES];
    struct row row;
    const int64_t at_ms = clock_wall_ms();
    struct key_pending *const pending = calloc(1, sizeof *pending);
    must(pending);
    *pending = (struct key_pending){.next = node->keys, .job = *job, .home = *home};
    node->keys = pending;
    row_key(job, key);
    memcpy(row.home, home->bytes, sizeof row.home);
    memcpy(row.at_ms, &at_ms, sizeof row.at_ms);
    struct store_batch *const batch = node_batch(node);
    store_batch_put(batch, STORE_META, key, sizeof key, &row, sizeof row);
    node_commit(node, batch, on_written, pending);
    return pending;
}

static bool may_register(const struct node *node, const struct mesh_id *job, const struct mesh_id *claimant,
                         const struct mesh_id *instead, struct mesh_id *home)
{
    return !find(node, job, home) || memcmp(home, claimant, sizeof *home) == 0 ||
           (instead && memcmp(home, instead, sizeof *home) == 0);
}

struct mesh_id keys_register(struct node *node, const struct mesh_id *job, const struct mesh_id *claimant,
                             const struct mesh_id *instead)
{
    struct mesh_id home;
    if (!may_register(node, job, claimant, instead, &home))
        return home;
    write_down(node, job, claimant);
    return *claimant;
}

static void caller_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct key_pending *)context)->call = NULL;
}

/* Of another node alone: `from` is who asks, whatever it said itself (relay.c). */
void op_register(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *const texts[] = {body_text(call, "job"), body_text(call, "from"), body_text(call, "instead")};
    struct mesh_id named[3], home;
    struct digest id;
    for (uint32_t i = 0; i < 3; i++) {
        if (!(i == 2 && !texts[i]) && (!texts[i] || digest_from_hex(texts[i], &id) != CRYPTO_OK)) {
            api_error(call, EXIT_USAGE, "a job and nodes are named by 64 hex digits");
            return;
        }
        memcpy(named[i].bytes, id.bytes, sizeof named[i].bytes);
    }
    if (!api_remote_site(call)) {
        api_error(call, EXIT_USAGE, "keys are registered by nodes alone");
    } else if (!may_register(node, &named[0], &named[1], texts[2] ? &named[2] : NULL, &home)) {
        reply(call, &home);
    } else {
        struct key_pending *const pending = write_down(node, &named[0], &named[1]);
        pending->call = call;
        api_on_gone(call, caller_gone, pending);
    }
}

/* ---- Time */

struct pruning {
    struct store_batch *batch;
    int64_t before_ms;
};

static bool prune_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct pruning *const pruning = context;
    int64_t at_ms = 0;
    if (value_bytes == sizeof(struct row))
        memcpy(&at_ms, (const uint8_t *)value + offsetof(struct row, at_ms), sizeof at_ms);
    if (at_ms < pruning->before_ms)
        store_batch_delete(pruning->batch, STORE_META, key, key_bytes);
    return true;
}

void keys_prune(struct node *node, int64_t before_ms)
{
    const struct store_range range = {.prefix = ROW_PREFIX, .prefix_bytes = ROW_PREFIX_BYTES};
    if (clock_now_ms() < node->keys_prune_at_ms)
        return;
    node->keys_prune_at_ms = clock_now_ms() + PRUNE_EVERY_MS;
    struct pruning pruning = {.batch = node_batch(node), .before_ms = before_ms - KEPT_LONGER_MS};
    store_each(node->store, STORE_META, &range, prune_row, &pruning);
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
