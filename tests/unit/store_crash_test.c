/* A process that is killed while it commits: whatever it was told is durable must be there afterwards. */
#include "tests/unit/store_work.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 25 };

static uint64_t seed = 20260101;

/* Writes without end and reports every acknowledged number. */
static void write_until_killed(const char *path, uint64_t number, int report)
{
    struct store *store = test_open(path, NULL);
    for (uint64_t drained = number;; number++) {
        if (work_commit(store, number) != STORE_OK)
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
        char failure[160];
        next = work_verify(store, acknowledged, failure);
        assert_string_equal(failure, "");
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
