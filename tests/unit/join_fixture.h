/*
 * A member for tests: its data folder, store, invitations and join socket, served by a thread while guests
 * run in threads of theirs.
 */
#ifndef JOIN_FIXTURE_H
#define JOIN_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/duration.h"
#include "node/join.h"
#include "node/log.h"

static inline int64_t wall_s(void)
{
    return clock_wall_ms() / 1000;
}

/* ---- Folders */

static inline void folder_make(char path[64])
{
    snprintf(path, 64, "/tmp/weir-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static inline void folder_remove(const char *path)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

static inline void init(const char *data, const char *name)
{
    const struct federation_new fields = {.federation = name, .site = "ashburn", .node = "first"};
    struct federation_failure failure = {0};
    if (federation_init(data, &fields, wall_s(), &failure) != FEDERATION_OK)
        fail_msg("%s", failure.text);
}

static inline struct federation *load(const char *data)
{
    struct federation *federation = NULL;
    struct federation_failure failure = {0};
    if (federation_load(data, wall_s(), &federation, &failure) != FEDERATION_OK)
        fail_msg("%s", failure.text);
    return federation;
}

/* ---- A member */

static inline void fixture_chunk(const void *bytes, size_t count, uint8_t digest[32])
{
    memcpy(digest, digest_of("test chunk", bytes, count).bytes, 32);
}

static inline void fixture_root(uint64_t bytes, const uint8_t (*chunks)[32], size_t count, uint8_t id[32])
{
    (void)bytes;
    memcpy(id, digest_of("test root", chunks, count * 32).bytes, 32);
}

static inline void fixture_sum(const void *key, size_t key_bytes, const void *value, size_t bytes,
                               uint8_t digest[32])
{
    (void)key;
    (void)key_bytes;
    memcpy(digest, digest_of("test sum", value, bytes).bytes, 32);
}

struct member {
    char folder[64];
    char data[96];
    struct federation *federation;
    struct store *store;
    struct invites *invites;
    struct loop *loop;
    struct join_server *server;
    /* The loop has a thread of its own, which stands still in the turn function unless `serving`; the test's
     * thread may then call everything that belongs to the loop's. */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool serving;
    bool closing;
    bool (*until)(void *context); /* serve until this holds, */
    void *until_context;
    int64_t until_ms; /* or this time comes */
    bool held;
    uint32_t admitted; /* by presentations, and with their certificates */
    struct certificate admitted_last;
    bool commit_fails; /* the store refuses the next commit */
};

static inline struct store *member_store(const char *data)
{
    char path[128];
    snprintf(path, sizeof path, "%s/store", data);
    const struct store_options options = {
        .digest = {.chunk = fixture_chunk, .root = fixture_root, .sum = fixture_sum},
        .storage_id = {1},
        .state_map_bytes = 64 << 20,
        .blobs_map_bytes = 64 << 20,
    };
    struct store *store = NULL;
    struct store_failure failure;
    if (store_open(path, &options, &failure, &store) != STORE_OK)
        fail_msg("%s", failure.text);
    return store;
}

static inline void member_commit(void *context, struct store_batch *batch)
{
    struct member *member = context;
    assert_int_equal(store_commit(member->store, batch, 1), STORE_OK);
}

static inline void member_committed(void *context, uint32_t events)
{
    (void)events;
    struct member *member = context;
    struct store_completion done;
    while (store_next_completion(member->store, &done)) {
        join_server_committed(member->server, member->commit_fails ? STORE_FULL : done.error);
        member->commit_fails = false;
    }
}

static inline void member_admit(void *context, const struct certificate *leaf)
{
    struct member *member = context;
    member->admitted++;
    member->admitted_last = *leaf;
}

static inline size_t member_peers(void *context, uint8_t *out, size_t capacity)
{
    (void)context;
    size_t count = federation_peers_begin(out, capacity);
    federation_peers_append(out, capacity, &count, (const uint8_t *)"a member record", 15);
    return count;
}

static inline int64_t member_turn(void *context, int64_t now_ms)
{
    struct member *member = context;
    pthread_mutex_lock(&member->mutex);
    if (member->serving) {
        member->held = member->until(member->until_context);
        if (member->held || now_ms >= member->until_ms)
            member->serving = false;
        pthread_cond_broadcast(&member->changed);
    }
    while (!member->serving && !member->closing)
        pthread_cond_wait(&member->changed, &member->mutex);
    pthread_mutex_unlock(&member->mutex);
    if (member->closing)
        loop_stop(member->loop);
    return clock_now_ms() + 10;
}

static inline void *member_main(void *context)
{
    loop_run(((struct member *)context)->loop);
    return NULL;
}

static inline void member_open(struct member *member, const char *federation)
{
    memset(member, 0, sizeof *member);
    folder_make(member->folder);
    snprintf(member->data, sizeof member->data, "%s/data", member->folder);
    init(member->data, federation);
    member->federation = load(member->data);
    member->store = member_store(member->data);
    assert_int_equal(invites_open(&member->invites, member->federation, member->store), STORE_OK);
    assert_true(loop_open(&member->loop));
    const struct join_options options = {
        .federation = member->federation,
        .invites = member->invites,
        .store = member->store,
        .bind = "127.0.0.1",
    };
    const struct join_callbacks callbacks = {
        .commit = member_commit, .admit = member_admit, .peers = member_peers, .context = member};
    char error[512];
    if (!join_server_open(member->loop, &options, &callbacks, &member->server, error, sizeof error))
        fail_msg("%s", error);
    loop_watch(member->loop, store_fd(member->store), EPOLLIN, member_committed, member);
    loop_on_turn(member->loop, member_turn, member);
    pthread_mutex_init(&member->mutex, NULL);
    pthread_cond_init(&member->changed, NULL);
    assert_int_equal(pthread_create(&member->thread, NULL, member_main, member), 0);
}

/* Ends the loop, after which its parts may be closed; nothing is served any more. */
static inline void member_stop(struct member *member)
{
    if (member->closing)
        return;
    pthread_mutex_lock(&member->mutex);
    member->closing = true;
    pthread_cond_broadcast(&member->changed);
    pthread_mutex_unlock(&member->mutex);
    pthread_join(member->thread, NULL);
}

static inline void member_close(struct member *member)
{
    member_stop(member);
    join_server_close(member->server);
    loop_unwatch(member->loop, store_fd(member->store));
    loop_close(member->loop);
    invites_close(member->invites);
    store_close(member->store);
    federation_close(member->federation);
    folder_remove(member->folder);
}

/* Serves until `until` holds; false when it did not within `ms`. */
static inline bool member_serve(struct member *member, bool (*until)(void *), void *context, int64_t ms)
{
    pthread_mutex_lock(&member->mutex);
    member->until = until;
    member->until_context = context;
    member->until_ms = clock_now_ms() + ms;
    member->serving = true;
    pthread_cond_broadcast(&member->changed);
    while (member->serving)
        pthread_cond_wait(&member->changed, &member->mutex);
    pthread_mutex_unlock(&member->mutex);
    return member->held;
}

/* Invites to site `site`; `change` (may be NULL) adjusts the request first. */
static inline struct invite member_invite(struct member *member, struct invite_request request,
                                          struct token *token)
{
    char addresses[1][TOKEN_ADDRESS_BYTES_MAX + 1];
    snprintf(addresses[0], sizeof addresses[0], "127.0.0.1:%u", join_server_port(member->server));
    if (!request.site)
        request.site = "berlin";
    request.addresses = (const char(*)[TOKEN_ADDRESS_BYTES_MAX + 1]) addresses;
    request.address_count = 1;
    char text[TOKEN_TEXT_BYTES_MAX];
    struct store_batch *batch;
    struct invite invite;
    assert_int_equal(store_batch_open(member->store, &batch), STORE_OK);
    assert_int_equal(invites_create(member->invites, &request, wall_s(), batch, text, &invite), INVITE_OK);
    assert_int_equal(store_commit_wait(member->store, batch), STORE_OK);
    assert_int_equal(token_parse(text, strlen(text), token), CRYPTO_OK);
    return invite;
}

/* ---- A guest, in a thread of its own */

struct guest {
    struct token token;
    struct identity identity;
    const char *name;
    struct join_result result;
    struct join_response response;
    uint8_t frame[JOIN_FRAME_BYTES_MAX];
    pthread_t thread;
    atomic_bool done;
};

static inline void *guest_main(void *context)
{
    struct guest *guest = context;
    join_ask(&guest->token, &guest->identity, guest->name, wall_s(), NULL, NULL, guest->frame,
             &guest->response, &guest->result);
    guest->done = true;
    return NULL;
}

static inline bool guest_done(void *guest)
{
    return ((struct guest *)guest)->done;
}

/* Fresh keys that are in no folder. */
static inline void guest_keys(struct identity *identity)
{
    struct curve_secret unused;
    key_pair_create(&identity->node, &identity->node_secret);
    curve_pair_create(&identity->curve, &identity->curve_secret);
    curve_pair_create(&identity->join_curve, &unused);
}

/* Joins while the member serves; the outcome is in guest->result. */
static inline enum join_error guest_join(struct guest *guest, struct member *member)
{
    guest->done = false;
    if (!guest->name)
        guest->name = "second";
    assert_int_equal(pthread_create(&guest->thread, NULL, guest_main, guest), 0);
    assert_true(member_serve(member, guest_done, guest, 60000));
    pthread_join(guest->thread, NULL);
    return guest->result.error;
}

#endif
