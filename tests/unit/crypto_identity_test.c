// Key files: made whole, read only when nobody else can, and refused with the command that puts it right.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "crypto/identity.h"

// A fresh folder for each test; the data folder is FOLDER/data and does not exist yet.
struct place {
    char folder[64];
    char data[80];
    char path[160];
};

static const char *path_of(struct place *place, const char *name)
{
    snprintf(place->path, sizeof place->path, "%s/%s", place->data, name);
    return place->path;
}

static int set_up(void **state)
{
    static struct place place;
    snprintf(place.folder, sizeof place.folder, "/tmp/weir_identity_XXXXXX");
    if (mkdtemp(place.folder) == NULL) {
        return -1;
    }
    snprintf(place.data, sizeof place.data, "%s/data", place.folder);
    *state = &place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    static const char *names[] = {"node.key",     "join.key", "authority.key", "node.key.new-00000000",
                                  "node.key.old", "other"};
    chmod(place->data, 0700);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unlink(path_of(place, names[i]));
        rmdir(place->path);
    }
    rmdir(place->data); // fails, and shows, when a test leaves something behind
    return rmdir(place->folder);
}

static off_t size_of(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 ? found.st_size : -1;
}

static void a_new_identity_is_read_back_as_it_was(void **state)
{
    struct place *place = *state;
    struct identity made;
    struct identity loaded;
    struct join_identity join;
    struct crypto_advice advice;
    const mode_t mask = umask(0); // the modes must not depend on it
    assert_int_equal(identity_create(place->data, &made, &advice), CRYPTO_OK);
    umask(mask);
    assert_int_equal(identity_load(place->data, &loaded, &advice), CRYPTO_OK);
    assert_memory_equal(&made, &loaded, sizeof made);
    assert_int_equal(join_identity_load(place->data, &join, &advice), CRYPTO_OK);
    assert_true(curve_public_equal(&join.curve, &made.join_curve));

    struct stat found;
    assert_int_equal(stat(place->data, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0700);
    assert_int_equal(stat(path_of(place, "node.key"), &found), 0);
    assert_int_equal(found.st_mode & 07777, 0600);
    assert_int_equal(stat(path_of(place, "join.key"), &found), 0);
    assert_int_equal(found.st_mode & 07777, 0600);

    // Signing and both CURVE pairs work as pairs.
    uint8_t signature[64];
    crypto_sign_detached(signature, NULL, (const uint8_t *)"x", 1, loaded.node_secret.bytes);
    assert_int_equal(crypto_sign_verify_detached(signature, (const uint8_t *)"x", 1, made.node.bytes), 0);
    const struct curve_public again = curve_public_of(&loaded.curve_secret);
    assert_true(curve_public_equal(&again, &made.curve));
    identity_wipe(&made);
    identity_wipe(&loaded);
    const struct identity zero = {0};
    assert_memory_equal(&made, &zero, sizeof zero);
    join_identity_wipe(&join);
}

// The process behind the join socket may read join.key; nothing of node.key's secrets may be in it.
static void the_join_file_holds_no_secret_of_the_node(void **state)
{
    struct place *place = *state;
    struct identity identity;
    assert_int_equal(identity_create(place->data, &identity, NULL), CRYPTO_OK);
    uint8_t bytes[512];
    FILE *file = fopen(path_of(place, "join.key"), "rb");
    assert_non_null(file);
    const size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_int_equal(count, 16 + 32 + 32);
    assert_null(memmem(bytes, count, identity.curve_secret.bytes, 32));
    assert_null(memmem(bytes, count, identity.node_secret.bytes, 32));
}

static void a_second_create_keeps_the_first_identity(void **state)
{
    struct place *place = *state;
    struct identity first;
    struct identity second;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &first, &advice), CRYPTO_OK);
    assert_int_equal(identity_create(place->data, &second, &advice), CRYPTO_KEY_EXISTS);
    assert_non_null(strstr(advice.text, place->data));
    assert_int_equal(identity_load(place->data, &second, &advice), CRYPTO_OK);
    assert_memory_equal(&first, &second, sizeof first);
}

static void assert_advised(const struct crypto_advice *advice, const char *format, const char *path)
{
    char command[256];
    snprintf(command, sizeof command, format, path);
    if (strstr(advice->text, command) == NULL) {
        fail_msg("the advice \"%s\" lacks the command \"%s\"", advice->text, command);
    }
}

static void an_open_folder_is_refused_with_the_command(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct join_identity join;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_OK);
    static const mode_t modes[] = {0755, 0701, 0710, 0770, 0777, 0704};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        chmod(place->data, modes[i]);
        assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
        assert_advised(&advice, "chmod 700 %s", place->data);
        assert_int_equal(join_identity_load(place->data, &join, &advice), CRYPTO_KEY_EXPOSED);
        assert_int_equal(identity_save(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    }
    chmod(place->data, 0700);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_OK);
}

static void an_open_folder_is_refused_before_keys_are_made_in_it(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct authority authority;
    struct crypto_advice advice;
    mkdir(place->data, 0755);
    chmod(place->data, 0755);
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    assert_advised(&advice, "chmod 700 %s", place->data);
    assert_int_equal(authority_create(place->data, &authority, &advice), CRYPTO_KEY_EXPOSED);
    assert_int_equal(size_of(path_of(place, "join.key")), -1);
}

static void an_open_key_file_is_refused_with_the_command(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_OK);
    static const mode_t modes[] = {0644, 0640, 0660, 0604, 0666, 0601};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        chmod(path_of(place, "node.key"), modes[i]);
        assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
        assert_advised(&advice, "chmod 600 %s", place->path);
    }
    chmod(path_of(place, "node.key"), 0400); // tighter than ours is fine
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_OK);
}

static void somebody_elses_files_are_refused_with_the_command(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct crypto_advice advice;
    if (geteuid() != 0) {
        skip(); // only root can give files away
    }
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_OK);
    assert_int_equal(chown(path_of(place, "node.key"), 12345, (gid_t)-1), 0);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    assert_advised(&advice, "chown 0 %s", place->path);
    assert_int_equal(chown(place->path, 0, (gid_t)-1), 0);
    assert_int_equal(chown(place->data, 12345, (gid_t)-1), 0);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    assert_advised(&advice, "chown 0 %s", place->data);
    assert_int_equal(chown(place->data, 0, (gid_t)-1), 0);
}

static void the_command_quotes_what_a_shell_would_split(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct crypto_advice advice;
    snprintf(place->data, sizeof place->data, "%s/it's $HOME", place->folder);
    mkdir(place->data, 0755);
    chmod(place->data, 0755);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    char expected[128];
    snprintf(expected, sizeof expected, "'%s/it'\\''s $HOME'", place->folder);
    assert_advised(&advice, "chmod 700 %s", expected);
}

static void links_folders_and_pipes_are_not_key_files(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_OK);
    char other[160];
    snprintf(other, sizeof other, "%s/other", place->data);
    assert_int_equal(rename(path_of(place, "node.key"), other), 0);
    assert_int_equal(symlink(other, place->path), 0);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
    unlink(place->path);
    assert_int_equal(mkfifo(place->path, 0600), 0);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED); // and does not hang
    unlink(place->path);
    assert_int_equal(mkdir(place->path, 0700), 0);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_EXPOSED);
}

static void what_is_missing_is_said_to_be_missing(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct authority authority;
    struct crypto_advice advice;
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_MISSING);
    assert_non_null(strstr(advice.text, "weir init"));
    mkdir(place->data, 0700);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_KEY_MISSING);
    assert_int_equal(authority_load(place->data, &authority, &advice), CRYPTO_KEY_MISSING);
    char deep[128];
    snprintf(deep, sizeof deep, "%s/no/such", place->folder);
    assert_int_equal(identity_create(deep, &identity, &advice), CRYPTO_IO);
    assert_non_null(strstr(advice.text, deep));
}

static void rewrite(const char *path, const uint8_t *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void a_damaged_key_file_is_refused(void **state)
{
    struct place *place = *state;
    struct identity identity;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &identity, &advice), CRYPTO_OK);
    uint8_t bytes[512];
    FILE *file = fopen(path_of(place, "node.key"), "rb");
    assert_non_null(file);
    const size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_int_equal(count, 16 + 96 + 32);
    for (size_t cut = 0; cut < count; cut++) {
        rewrite(place->path, bytes, cut);
        assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_TRUNCATED);
    }
    for (size_t i = 0; i < count; i++) {
        bytes[i] ^= 0x10;
        rewrite(place->path, bytes, count);
        assert_int_equal(identity_load(place->data, &identity, &advice),
                         i < 16 ? CRYPTO_WRONG_MAGIC : CRYPTO_BAD_CHECKSUM);
        bytes[i] ^= 0x10;
    }
    rewrite(place->path, bytes, count + 1);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_TRAILING);
    rewrite(place->path, bytes, sizeof bytes);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_TRAILING);
    rewrite(place->path, bytes, count);
    assert_int_equal(identity_load(place->data, &identity, &advice), CRYPTO_OK);
}

// A crash between writing the temporary file and renaming it: no key yet, and the next create cleans up.
static void a_create_cut_short_can_be_repeated(void **state)
{
    struct place *place = *state;
    struct identity first;
    struct identity second;
    struct join_identity join;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &first, &advice), CRYPTO_OK);
    char temporary[160];
    snprintf(temporary, sizeof temporary, "%s/node.key.new-00000000", place->data);
    assert_int_equal(rename(path_of(place, "node.key"), temporary), 0);

    assert_int_equal(identity_load(place->data, &second, &advice), CRYPTO_KEY_MISSING);
    assert_int_equal(identity_create(place->data, &second, &advice), CRYPTO_OK);
    assert_int_equal(size_of(temporary), -1);
    assert_false(public_key_equal(&first.node, &second.node));
    assert_true(curve_public_equal(&first.join_curve, &second.join_curve)); // join.key was whole: taken over
    assert_int_equal(join_identity_load(place->data, &join, &advice), CRYPTO_OK);
    assert_true(curve_public_equal(&join.curve, &second.join_curve));
}

static void a_save_cut_short_leaves_the_old_key(void **state)
{
    struct place *place = *state;
    struct identity first;
    struct identity loaded;
    struct crypto_advice advice;
    assert_int_equal(identity_create(place->data, &first, &advice), CRYPTO_OK);
    rewrite(path_of(place, "node.key.new-00000000"), (const uint8_t *)"half", 4);
    assert_int_equal(identity_load(place->data, &loaded, &advice), CRYPTO_OK);
    assert_memory_equal(&first, &loaded, sizeof first);

    curve_pair_create(&loaded.curve, &loaded.curve_secret);
    assert_int_equal(identity_save(place->data, &loaded, &advice), CRYPTO_OK);
    assert_int_equal(size_of(path_of(place, "node.key.new-00000000")), -1);
    struct identity again;
    assert_int_equal(identity_load(place->data, &again, &advice), CRYPTO_OK);
    assert_memory_equal(&again, &loaded, sizeof again);
    assert_true(public_key_equal(&again.node, &first.node));
}

static void an_authority_key_is_made_once(void **state)
{
    struct place *place = *state;
    struct authority made;
    struct authority loaded;
    struct crypto_advice advice;
    assert_int_equal(authority_create(place->data, &made, &advice), CRYPTO_OK);
    assert_int_equal(authority_load(place->data, &loaded, &advice), CRYPTO_OK);
    assert_memory_equal(&made, &loaded, sizeof made);
    assert_int_equal(authority_create(place->data, &made, &advice), CRYPTO_KEY_EXISTS);
    assert_non_null(strstr(advice.text, "authority.key"));
    assert_int_equal(authority_load(place->data, &loaded, &advice), CRYPTO_OK);
    chmod(path_of(place, "authority.key"), 0640);
    assert_int_equal(authority_load(place->data, &loaded, &advice), CRYPTO_KEY_EXPOSED);
    // Two files of one length are still told apart.
    chmod(place->path, 0600);
    char join[160];
    snprintf(join, sizeof join, "%s/join.key", place->data);
    assert_int_equal(rename(place->path, join), 0);
    struct join_identity taken;
    assert_int_equal(join_identity_load(place->data, &taken, &advice), CRYPTO_WRONG_MAGIC);
}

int main(void)
{
    if (crypto_init() != CRYPTO_OK) {
        return 1;
    }
#define PLACED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PLACED(a_new_identity_is_read_back_as_it_was),
        PLACED(the_join_file_holds_no_secret_of_the_node),
        PLACED(a_second_create_keeps_the_first_identity),
        PLACED(an_open_folder_is_refused_with_the_command),
        PLACED(an_open_folder_is_refused_before_keys_are_made_in_it),
        PLACED(an_open_key_file_is_refused_with_the_command),
        PLACED(somebody_elses_files_are_refused_with_the_command),
        PLACED(the_command_quotes_what_a_shell_would_split),
        PLACED(links_folders_and_pipes_are_not_key_files),
        PLACED(what_is_missing_is_said_to_be_missing),
        PLACED(a_damaged_key_file_is_refused),
        PLACED(a_create_cut_short_can_be_repeated),
        PLACED(a_save_cut_short_leaves_the_old_key),
        PLACED(an_authority_key_is_made_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
