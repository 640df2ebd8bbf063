/* The data folder: what is refused and how it says so, what a crash leaves, what is revoked, who is believed.
 */
#include "join_fixture.h"

#include <fcntl.h>
#include <sodium.h>

struct folder {
    char path[64];
    char data[96];
};

static int setup(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    folder_make(folder->path);
    snprintf(folder->data, sizeof folder->data, "%s/data", folder->path);
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    struct folder *folder = *state;
    folder_remove(folder->path);
    free(folder);
    return 0;
}

/* `format` names the folder as %s or %1$s. */
static void run(const char *format, const char *data)
{
    char command[1024];
    snprintf(command, sizeof command, format, data);
    assert_int_equal(system(command), 0);
}

static enum federation_error try_init(const char *data, struct federation_failure *failure)
{
    const struct federation_new fields = {.federation = "rivers", .site = "ashburn", .node = "first"};
    return federation_init(data, &fields, wall_s(), failure);
}

/* `error`, and a text that names the remedy. */
static void assert_load_fails(const char *data, int64_t at_s, enum federation_error error, const char *remedy)
{
    struct federation *federation = NULL;
    struct federation_failure failure = {0};
    assert_int_equal(federation_load(data, at_s, &federation, &failure), error);
    assert_int_equal(failure.error, error);
    if (!strstr(failure.text, remedy))
        fail_msg("'%s' does not say '%s'", failure.text, remedy);
}

static void a_new_federation_loads(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    struct federation *federation = load(folder->data);
    assert_string_equal(federation_genesis(federation)->name, "rivers");
    assert_string_equal(federation_certificate(federation)->site, "ashburn");
    assert_int_equal(federation_certificate(federation)->rights, RIGHTS_ALL);
    assert_true(federation_has_authority(federation));
    struct stat found;
    char path[160];
    snprintf(path, sizeof path, "%s/keys/node.key", folder->data);
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    federation_close(federation);
    struct federation_failure failure;
    assert_int_equal(try_init(folder->data, &failure), FEDERATION_EXISTS);
    assert_non_null(strstr(failure.text, "rivers"));
}

static void bad_names_are_refused(void **state)
{
    const struct folder *folder = *state;
    struct federation_new fields = {.federation = "Rivers!", .site = "ashburn", .node = "first"};
    struct federation_failure failure;
    assert_int_equal(federation_init(folder->data, &fields, wall_s(), &failure), FEDERATION_INVALID);
    fields = (struct federation_new){.federation = "rivers", .site = "a", .node = "n", .lifetime_s = 1};
    assert_int_equal(federation_init(folder->data, &fields, wall_s(), &failure), FEDERATION_INVALID);
    assert_int_not_equal(access(folder->data, F_OK), 0); /* and nothing was made */
}

static void folders_that_are_not_ours_alone_are_refused(void **state)
{
    const struct folder *folder = *state;
    assert_load_fails(folder->data, wall_s(), FEDERATION_MISSING, "weir init");
    run("mkdir -m 755 %s", folder->data);
    struct federation_failure failure;
    char command[160];
    snprintf(command, sizeof command, "chmod 700 '%s'", folder->data);
    assert_int_equal(try_init(folder->data, &failure), FEDERATION_DENIED);
    assert_non_null(strstr(failure.text, command));
    assert_load_fails(folder->data, wall_s(), FEDERATION_DENIED, command);
    run("chmod 700 %s", folder->data);
    assert_load_fails(folder->data, wall_s(), FEDERATION_MISSING, "weir join");
    init(folder->data, "rivers");

    run("chmod 640 %s/keys/node.key", folder->data);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DENIED, "chmod 600");
    run("chmod 600 %s/keys/node.key", folder->data);
    federation_close(load(folder->data));

    run("ln -s data %s-link", folder->data);
    char link[128];
    snprintf(link, sizeof link, "%s-link", folder->data);
    assert_load_fails(link, wall_s(), FEDERATION_DENIED, "symbolic link");
    strcat(link, "/");
    assert_load_fails(link, wall_s(), FEDERATION_DENIED, "symbolic link");

    if (geteuid() == 0) {
        run("chown 12345 %s", folder->data);
        assert_load_fails(folder->data, wall_s(), FEDERATION_DENIED, "sudo -u");
    }
}

static void damage_is_named(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    run("cp -a %1$s %1$s-copy", folder->data);
    run("printf x >> %s/federation/genesis", folder->data);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DAMAGED, "genesis");
    run("cd %s/federation && truncate -s -1 genesis && truncate -s 100 chain", folder->data);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DAMAGED, "chain");
    run("rm -rf %1$s && mv %1$s-copy %1$s", folder->data);
    federation_close(load(folder->data));
    run("rm %s/keys/node.key", folder->data);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DAMAGED, "backup");
}

/* Whatever init had written before it was cut short, a second try makes a whole folder of it. */
static void an_init_that_was_cut_short_is_finished_by_the_next(void **state)
{
    const struct folder *folder = *state;
    static const char *const cuts[] = {
        "rm %s/federation/chain",
        "cd %s/federation && rm chain genesis",
        "cd %s && rm federation/chain federation/genesis keys/node.key",
        "cd %s && rm federation/chain federation/genesis keys/node.key keys/join.key",
        "cd %s && rm -r federation keys/node.key keys/join.key",
        "cd %s && rm -r federation keys",
        "cd %s && mv federation/chain federation/chain.new && cp federation/genesis federation/genesis.new",
    };
    init(folder->data, "rivers");
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        run(cuts[i], folder->data);
        struct federation_failure failure;
        struct federation *federation = NULL;
        assert_int_equal(federation_load(folder->data, wall_s(), &federation, &failure), FEDERATION_MISSING);
        assert_int_equal(try_init(folder->data, &failure), FEDERATION_OK);
        federation_close(load(folder->data));
    }
}

static void a_join_that_was_cut_short_keeps_its_keys(void **state)
{
    const struct folder *folder = *state;
    struct federation_lock lock, other;
    struct federation_failure failure;
    struct identity first, second;
    assert_int_equal(federation_guest_open(folder->data, wall_s(), &first, &lock, &failure), FEDERATION_OK);
    assert_int_equal(federation_guest_open(folder->data, wall_s(), &second, &other, &failure),
                     FEDERATION_BUSY);
    federation_guest_close(&lock);
    assert_load_fails(folder->data, wall_s(), FEDERATION_MISSING, "again");
    assert_int_equal(federation_guest_open(folder->data, wall_s(), &second, &lock, &failure), FEDERATION_OK);
    assert_true(public_key_equal(&first.node, &second.node));
    federation_guest_close(&lock);

    /* A folder in which an init was begun is not joined by accident. */
    init(folder->data, "rivers");
    run("rm %s/federation/chain", folder->data);
    assert_int_equal(federation_guest_open(folder->data, wall_s(), &second, &lock, &failure),
                     FEDERATION_DAMAGED);
}

static void an_ended_certificate_is_explained_or_renewed(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    const int64_t later_s = wall_s() + FEDERATION_LIFETIME_S + 24 * 3600;
    run("mv %1$s/keys/authority.key %1$s-authority", folder->data);
    assert_load_fails(folder->data, later_s, FEDERATION_EXPIRED, "weir join");
    assert_load_fails(folder->data, wall_s() - 3600, FEDERATION_EXPIRED, "clock");
    run("mv %1$s-authority %1$s/keys/authority.key", folder->data);
    struct federation *federation = NULL;
    struct federation_failure failure;
    assert_int_equal(federation_load(folder->data, later_s, &federation, &failure), FEDERATION_OK);
    assert_true(federation_certificate(federation)->not_after_s > later_s);
    federation_close(federation);
}

static void keys_of_another_folder_do_not_fit(void **state)
{
    const struct folder *folder = *state;
    char command[1024];
    init(folder->data, "rivers");
    snprintf(command, sizeof command, "cp -a %s %s-2 && rm -r %s-2/keys %s-2/federation", folder->data,
             folder->data, folder->data, folder->data);
    assert_int_equal(system(command), 0);
    char other[128];
    snprintf(other, sizeof other, "%s-2", folder->data);
    init(other, "lakes");
    snprintf(command, sizeof command, "cp %s/keys/node.key %s/keys/node.key", other, folder->data);
    assert_int_equal(system(command), 0);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DAMAGED, "do not belong together");

    /* Nor does a chain of another federation. */
    snprintf(command, sizeof command, "cp %s/keys/* %s/keys/ && cp %s/federation/chain %s/federation/chain",
             other, folder->data, other, folder->data);
    assert_int_equal(system(command), 0);
    assert_load_fails(folder->data, wall_s(), FEDERATION_DAMAGED, "federation");
}

/* ---- Trust */

static void make_node(const struct federation *federation, uint32_t rights, struct identity *identity,
                      uint8_t chain[CHAIN_BYTES_MAX], size_t *bytes)
{
    guest_keys(identity);
    const struct certificate fields = {.node = identity->node,
                                       .curve = identity->curve,
                                       .join_curve = identity->join_curve,
                                       .rights = rights,
                                       .site = "berlin",
                                       .name = "second"};
    assert_int_equal(federation_issue(federation, &fields, 3600, wall_s(), chain, CHAIN_BYTES_MAX, bytes),
                     CRYPTO_OK);
}

static void a_revocation_bars_a_node_and_survives_a_restart(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    struct federation *federation = load(folder->data);
    struct store *store = member_store(folder->data);
    struct identity identity;
    uint8_t chain[CHAIN_BYTES_MAX], record[REVOCATION_BYTES_MAX];
    size_t chain_bytes, bytes;
    struct certificate leaf;
    make_node(federation, RIGHT_NODE | RIGHT_SUBMIT, &identity, chain, &chain_bytes);
    assert_int_equal(federation_verify_chain(federation, chain, chain_bytes, wall_s(), &leaf), CRYPTO_OK);

    const struct federation_revoke revoke = {
        .nodes = &identity.node, .node_count = 1, .who = "ops", .reason = "stolen"};
    assert_int_equal(federation_revoke(federation, &revoke, wall_s(), record, sizeof record, &bytes),
                     CRYPTO_OK);
    struct federation_revocation added;
    record[bytes / 2] ^= 1;
    assert_int_not_equal(federation_revocation_add(federation, record, bytes, wall_s(), &added), CRYPTO_OK);
    record[bytes / 2] ^= 1;
    assert_int_equal(federation_verify_chain(federation, chain, chain_bytes, wall_s(), &leaf), CRYPTO_OK);
    assert_int_equal(federation_revocation_add(federation, record, bytes, wall_s(), &added), CRYPTO_OK);
    assert_int_equal(added.fresh_count, 1);
    assert_int_equal(federation_verify_chain(federation, chain, chain_bytes, wall_s(), &leaf),
                     CRYPTO_REVOKED);
    assert_int_equal(federation_revocation_add(federation, record, bytes, wall_s(), &added), CRYPTO_OK);
    assert_int_equal(added.fresh_count, 0);

    struct store_batch *batch;
    assert_int_equal(store_batch_open(store, &batch), STORE_OK);
    assert_int_equal(federation_revocation_save(batch, record, bytes), STORE_OK);
    assert_int_equal(store_commit_wait(store, batch), STORE_OK);
    federation_close(federation);
    federation = load(folder->data);
    uint32_t dropped;
    assert_int_equal(federation_revocations_load(federation, store, wall_s(), &dropped), STORE_OK);
    assert_int_equal(dropped, 0);
    assert_int_equal(federation_revocation_count(federation), 1);
    assert_int_equal(federation_verify_chain(federation, chain, chain_bytes, wall_s(), &leaf),
                     CRYPTO_REVOKED);
    store_close(store);
    federation_close(federation);
}

static void the_set_of_revocations_is_bounded(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    struct federation *federation = load(folder->data);
    struct public_key nodes[REVOCATION_TARGETS_MAX];
    uint8_t record[REVOCATION_BYTES_MAX];
    size_t bytes;
    struct federation_revocation added;
    const struct federation_revoke revoke = {
        .nodes = nodes, .node_count = REVOCATION_TARGETS_MAX, .who = "ops", .reason = "all"};
    for (uint32_t count = 0; count <= FEDERATION_REVOKED_MAX; count += REVOCATION_TARGETS_MAX) {
        randombytes_buf(nodes, sizeof nodes);
        assert_int_equal(federation_revoke(federation, &revoke, wall_s(), record, sizeof record, &bytes),
                         CRYPTO_OK);
        assert_int_equal(federation_revocation_add(federation, record, bytes, wall_s(), &added),
                         count < FEDERATION_REVOKED_MAX ? CRYPTO_OK : CRYPTO_NO_SPACE);
    }
    assert_int_equal(federation_revocation_count(federation), FEDERATION_REVOKED_MAX);
    federation_close(federation);
}

static void a_renewed_chain_must_be_ours(void **state)
{
    const struct folder *folder = *state;
    init(folder->data, "rivers");
    struct federation *federation = load(folder->data);
    struct identity identity;
    uint8_t chain[CHAIN_BYTES_MAX], renewed[CHAIN_BYTES_MAX];
    size_t chain_bytes, bytes;
    make_node(federation, RIGHT_NODE, &identity, chain, &chain_bytes);
    assert_int_equal(federation_adopt(federation, chain, chain_bytes, wall_s(), NULL), CRYPTO_NOT_OURS);
    assert_int_equal(
        federation_renew(federation, chain, chain_bytes, wall_s() + 60, renewed, sizeof renewed, &bytes),
        CRYPTO_OK);
    struct certificate leaf;
    assert_int_equal(federation_verify_chain(federation, renewed, bytes, wall_s() + 60, &leaf), CRYPTO_OK);
    assert_true(public_key_equal(&leaf.node, &identity.node));

    const int64_t before_s = federation_certificate(federation)->not_after_s;
    assert_int_equal(federation_renew_self(federation, wall_s() + 60, NULL), CRYPTO_OK);
    assert_true(federation_certificate(federation)->not_after_s > before_s);
    federation_close(federation);
}

/* ---- Small formats */

static void lists_of_peers_are_bounded_and_exact(void **state)
{
    (void)state;
    static uint8_t list[FEDERATION_PEERS_BYTES_MAX], record[1500];
    static struct federation_peers peers;
    size_t bytes = federation_peers_begin(list, sizeof list);
    uint32_t added = 0;
    while (federation_peers_append(list, sizeof list, &bytes, record, sizeof record))
        added++;
    assert_int_equal(added, FEDERATION_PEERS_MAX);
    assert_true(federation_peers_decode(list, bytes, &peers));
    assert_int_equal(peers.count, added);
    for (size_t cut = 0; cut < bytes; cut++)
        assert_false(federation_peers_decode(list, cut, &peers));
    assert_int_equal(peers.count, 0);
    list[0] = FEDERATION_PEERS_MAX + 1;
    assert_false(federation_peers_decode(list, bytes, &peers));
}

static void spans_of_time_are_read_and_written(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seconds; /* -1: refused */
    } cases[] = {{"90", 90},     {"90s", 90},
                 {"30m", 1800},  {"24h", 86400},
                 {"7d", 604800}, {"2w", 1209600},
                 {"", -1},       {"h", -1},
                 {"-3h", -1},    {"1.5h", -1},
                 {"3hh", -1},    {"3 h", -1},
                 {"0", 0},       {"36525d", 36525 * INT64_C(86400)},
                 {"36526d", -1}, {"99999999999999999999", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t seconds = -1;
        assert_int_equal(duration_parse(cases[i].text, &seconds), cases[i].seconds >= 0);
        assert_int_equal(seconds, cases[i].seconds);
    }
    char text[DURATION_BYTES];
    assert_string_equal(duration_text(45, text), "45 s");
    assert_string_equal(duration_text(3 * 3600, text), "3 h");
    assert_string_equal(duration_text(5 * 86400 + 10, text), "5 days");
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK)
        return 1;
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_federation_loads),
        TEST(bad_names_are_refused),
        TEST(folders_that_are_not_ours_alone_are_refused),
        TEST(damage_is_named),
        TEST(an_init_that_was_cut_short_is_finished_by_the_next),
        TEST(a_join_that_was_cut_short_keeps_its_keys),
        TEST(an_ended_certificate_is_explained_or_renewed),
        TEST(keys_of_another_folder_do_not_fit),
        TEST(a_revocation_bars_a_node_and_survives_a_restart),
        TEST(the_set_of_revocations_is_bounded),
        TEST(a_renewed_chain_must_be_ours),
        cmocka_unit_test(lists_of_peers_are_bounded_and_exact),
        cmocka_unit_test(spans_of_time_are_read_and_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
