/* Damage of a data file's structure: what is found sound can be worked with, and nothing ends by a signal.
 *
 *     store_pages_test [SEED [FLIPS]]
 */
#include "tests/unit/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { ROWS = 900, VALUE_BYTES_MAX = 9000, SOUND = 0, FOUND = 1, LIED = 3 };

static uint64_t seed = 1;
static unsigned flips = 80;

/* What row `number` holds after `turn` changes of it; 0 bytes: it is deleted. Some need pages of their own. */
static size_t row_make(uint32_t number, uint32_t turn, char key[16], uint8_t value[VALUE_BYTES_MAX])
{
    uint64_t draw = (uint64_t)number * 1000 + turn + 1;
    const uint64_t random = test_random(&draw) >> 20;
    const size_t bytes = random % 4 == 0 ? 0 : random % 7 == 0 ? 2000 + random % 7000 : 1 + random % 150;
    snprintf(key, 16, "%06u", number);
    test_fill(value, bytes, random);
    return bytes;
}

static enum store_table table_of(uint32_t number)
{
    return number % 3 ? STORE_JOURNAL : STORE_JOBS;
}

static bool turn_write(struct store *store, uint32_t turn)
{
    uint8_t value[VALUE_BYTES_MAX];
    char key[16];
    bool good = true;
    for (uint32_t number = 0; number < ROWS && good;) {
        struct store_batch *const batch = test_batch(store);
        for (const uint32_t end = number + 150; number < end; number++) {
            const size_t bytes = row_make(number, turn, key, value);
            if (bytes > 0)
                store_batch_put(batch, table_of(number), key, 6, value, bytes);
            else
                store_batch_delete(batch, table_of(number), key, 6);
        }
        store_batch_blob(batch, value, 1 + number % 5000, (uint8_t[STORE_ID_BYTES]){0});
        good = store_commit_wait(store, batch) == STORE_OK;
    }
    return good;
}

static bool turn_is_there(struct store *store, uint32_t turn)
{
    uint8_t value[VALUE_BYTES_MAX], got[VALUE_BYTES_MAX];
    char key[16];
    for (uint32_t number = 0; number < ROWS; number++) {
        size_t found;
        const size_t bytes = row_make(number, turn, key, value);
        const enum store_error error = store_get(store, table_of(number), key, 6, got, sizeof got, &found);
        if (bytes == 0 ? error != STORE_NONE
                       : error != STORE_OK || found != bytes || memcmp(got, value, bytes) != 0)
            return false;
    }
    return true;
}

static void a_healthy_file_is_never_refused(void **state)
{
    for (uint32_t turn = 0; turn < 25; turn++) {
        struct store *const store = test_open(*state, NULL);
        assert_true(turn == 0 || turn_is_there(store, turn - 1));
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
        assert_true(turn_write(store, turn));
        store_close(store);
    }
}

/* Opens, checks, and if nothing is found works with it. */
static int work(const char *path, uint32_t turn)
{
    const struct store_options options = test_options();
    struct store_failure failure;
    struct store *store;
    unsigned findings = 0;
    store_guard_install();
    if (store_open(path, &options, &failure, &store) != STORE_OK)
        return failure.text[0] != '\0' ? FOUND : LIED;
    if (store_check(store, test_quiet, &findings) != STORE_OK)
        return findings > 0 ? FOUND : LIED;
    if (!turn_is_there(store, turn))
        return LIED;
    for (uint32_t next = turn + 1; next < turn + 3; next++)
        if (!turn_write(store, next) || !turn_is_there(store, next) ||
            store_check(store, test_quiet, &findings) != STORE_OK)
            return LIED;
    store_close(store);
    return SOUND;
}

static int work_apart(const char *path, uint32_t turn)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        const int quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, STDERR_FILENO);
        _exit(work(path, turn));
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status))
        fail_msg("it died of signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

static void bytes_put(const char *path, const uint8_t *bytes, size_t count)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    close(fd);
}

/* Half of the flips hit the heads of pages, where the structure stands. */
static size_t place_draw(uint64_t *random, size_t count)
{
    const size_t at = (size_t)(test_random(random) >> 8) % count;
    return test_random(random) >> 20 & 1 ? at : at / 4096 * 4096 + at % 180;
}

static void what_is_found_sound_can_be_worked_with(void **state)
{
    enum { TURN = 6 };
    static uint8_t before[2][8 * TEST_MIB], bytes[8 * TEST_MIB];
    static const char *const sides[2] = {"state", "blobs"};
    char files[2][300];
    size_t counts[2];
    struct store *const store = test_open(*state, NULL);
    for (uint32_t turn = 0; turn <= TURN; turn++)
        assert_true(turn_write(store, turn));
    store_close(store);
    for (int side = 0; side < 2; side++) {
        snprintf(files[side], sizeof files[side], "%s/%s/data.mdb", (const char *)*state, sides[side]);
        const int fd = open(files[side], O_RDONLY);
        counts[side] = (size_t)read(fd, before[side], sizeof before[side]);
        assert_true(counts[side] > 16 * 4096 && counts[side] < sizeof before[side]);
        close(fd);
    }
    unsigned outcomes[2] = {0};
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned flip = 0; flip < flips; flip++) {
        const int side = flip % 4 == 0;
        const size_t at = place_draw(&random, counts[side]);
        memcpy(bytes, before[side], counts[side]);
        bytes[at] ^= (uint8_t)(1u << (test_random(&random) >> 20) % 8);
        bytes_put(files[!side], before[!side], counts[!side]);
        bytes_put(files[side], bytes, counts[side]);
        const int outcome = work_apart(*state, TURN);
        if (outcome != SOUND && outcome != FOUND)
            fail_msg("flip %u of seed %llu, byte %zu of %s: found sound, and was not (%d)", flip,
                     (unsigned long long)seed, at, sides[side], outcome);
        outcomes[outcome]++;
    }
    print_message("%u flips: %u found, %u did not matter\n", flips, outcomes[FOUND], outcomes[SOUND]);
    assert_true(outcomes[FOUND] > 0 && outcomes[SOUND] > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(int argc, char **argv)
{
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        flips = (unsigned)strtoul(argv[2], NULL, 10);
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        TEST(a_healthy_file_is_never_refused),
        TEST(what_is_found_sound_can_be_worked_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
