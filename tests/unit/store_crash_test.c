/* A process that is killed while it commits: whatever it was told is durable must be there afterwards. */
#include "tests/unit/store_fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 25, LARGE_BYTES = (1 << 20) + 1000 };

static uint64_t seed = 20260101;

/* Writes rows without end, each with a small blob that it pins, at times a large one, and reports every
 * acknowledged number. The row names the blob, so that a row without its blob shows a wrong order of commits.
 */
static void write_until_killed(const char *path, uint64_t number, int report)
{
    struct store *store = test_open(path, NULL);
    static uint8_t bytes[LARGE_BYTES];
    const uint8_t owner[STORE_ID_BYTES] = {1};
    for (uint64_t drained = number;; number++) {
        uint8_t id[STORE_ID_BYTES];
        struct store_batch *batch = test_batch(store);
        const bool large = number % 40 == 39;
        test_fill(bytes, large ? LARGE_BYTES : 300, number);
        if (large) {
            struct store_upload *upload;
            store_upload_open(store, &upload);
            store_upload_append(upload, bytes, LARGE_BYTES);
            if (store_upload_finish(upload, NULL, batch, id) != STORE_OK)
                _exit(3);
        } else {
            store_batch_blob(batch, bytes, 300, id);
        }
        store_batch_pin(batch, id, owner);
        const struct store_entry entry = {
            .bytes = bytes, .count = 100, .blobs = (const uint8_t(*)[STORE_ID_BYTES]) & id, .blob_count = 1};
        store_batch_cache(batch, id, &entry);
        store_batch_put_absent(batch, STORE_SHARDS, &number, sizeof number, id, sizeof id);
        if (store_commit(store, batch, number) != STORE_OK)
            _exit(4);
        /* Between 0 and 30 batches are on their way. */
        while (number + 1 - drained > number % 31) {
            const struct store_completion completion = test_completion(store);
            if (completion.error != STORE_OK || completion.ticket != drained++)
                _exit(5);
            if (write(report, &completion.ticket, sizeof completion.ticket) != sizeof completion.ticket)
                _exit(6);
        }
    }
}

/* Each row up to `acknowledged` is there with its blob; so is every later row that happens to be there. */
static uint64_t verify(struct store *store, uint64_t acknowledged)
{
    static uint8_t bytes[LARGE_BYTES], copy[LARGE_BYTES];
    for (uint64_t number = 0;; number++) {
        uint8_t id[STORE_ID_BYTES];
        size_t got;
        const enum store_error error =
            store_get(store, STORE_SHARDS, &number, sizeof number, id, sizeof id, &got);
        if (error == STORE_NONE && number >= acknowledged)
            return number;
        if (error != STORE_OK)
            fail_msg("row %llu of %llu acknowledged is lost", (unsigned long long)number,
                     (unsigned long long)acknowledged);
        const size_t count = number % 40 == 39 ? LARGE_BYTES : 300;
        test_fill(bytes, count, number);
        assert_int_equal(store_blob_get(store, id, copy, sizeof copy, &got), STORE_OK);
        assert_int_equal(got, count);
        assert_memory_equal(copy, bytes, count);
    }
}

static void what_was_acknowledged_survives_sigkill(void **state)
{
    uint64_t next = 0;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < ROUNDS; round++) {
        int report[2];
        assert_int_equal(pipe(report), 0);
        const pid_t child = fork();
        if (child == 0) {
            close(report[0]);
            write_until_killed(*state, next, report[1]);
        }
        assert_true(child > 0);
        close(report[1]);
        /* Dies after a random number of acknowledgements and a random bit of time, anywhere in a commit. */
        const uint64_t target = next + test_random(&seed) % 120;
        const struct timespec pause = {.tv_nsec = (long)(test_random(&seed) % 2000000)};
        uint64_t acknowledged = next, ticket;
        while (acknowledged < target && read(report[0], &ticket, sizeof ticket) == sizeof ticket)
            acknowledged = ticket + 1;
        nanosleep(&pause, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        while (read(report[0], &ticket, sizeof ticket) == sizeof ticket)
            acknowledged = ticket + 1;
        close(report[0]);
        struct store *store = test_open(*state, NULL);
        next = verify(store, acknowledged);
        assert_int_equal(store_check(store, test_report, NULL), STORE_OK);
        store_close(store);
    }
    assert_true(next > 100);
    print_message("%llu rows after %d kills\n", (unsigned long long)next, ROUNDS);
}

int main(int count, char **arguments)
{
    if (count > 1)
        seed = strtoull(arguments[1], NULL, 0) | 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_acknowledged_survives_sigkill, test_setup, test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
