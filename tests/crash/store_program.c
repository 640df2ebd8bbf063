/*
 * The two halves of the store's crash test, see replay.py.
 *     store_program write FOLDER BATCHES   works on the store in FOLDER; the recorder sees every acknowledgement
 *     store_program verify                 reads lines "FOLDER ACKNOWLEDGED"; answers each with "ok ROWS" or "bad WHY"
 */
#include "tests/unit/store_work.h"

#include <dlfcn.h>
#include <inttypes.h>

/* Tells the recorder, if it is there. */
static void acknowledged(uint64_t count)
{
    void (*note)(uint64_t count);
    *(void **)&note = dlsym(RTLD_DEFAULT, "crash_acknowledged");
    if (note != NULL)
        note(count);
}

static bool drain(struct store *store, uint64_t *drained)
{
    struct pollfd poll_fd = {.fd = store_fd(store), .events = POLLIN};
    if (poll(&poll_fd, 1, 10000) != 1)
        return false;
    struct store_completion completion;
    while (store_next_completion(store, &completion)) {
        if (completion.error != STORE_OK || completion.ticket != (*drained)++)
            return false;
        acknowledged(*drained);
    }
    return true;
}

static int write_batches(const char *folder, uint64_t batches)
{
    const struct store_options options = test_options();
    struct store_failure failure;
    struct store *store;
    if (store_open(folder, &options, &failure, &store) != STORE_OK) {
        fprintf(stderr, "%s\n", failure.text);
        return 1;
    }
    uint64_t drained = 0;
    for (uint64_t number = 0; number < batches; number++) {
        if (work_commit(store, number) != STORE_OK)
            return 1;
        while (number + 1 - drained > number % 7) {
            if (!drain(store, &drained))
                return 1;
        }
    }
    while (drained < batches) {
        if (!drain(store, &drained))
            return 1;
    }
    store_close(store);
    return 0;
}

static void report(void *context, const char *finding)
{
    char *text = context;
    if (text[0] == 0)
        snprintf(text, 160, "%s", finding);
}

static void verify(const char *folder, uint64_t committed)
{
    const struct store_options options = test_options();
    struct store_failure failure;
    struct store *store;
    if (store_open(folder, &options, &failure, &store) != STORE_OK) {
        printf("bad it does not open: %s\n", failure.text);
        return;
    }
    char why[160];
    const uint64_t rows = work_verify(store, committed, why);
    if (why[0] == 0)
        store_check(store, report, why);
    store_close(store);
    if (why[0] != 0)
        printf("bad %s\n", why);
    else
        printf("ok %" PRIu64 "\n", rows);
}

int main(int count, char **arguments)
{
    if (count == 4 && strcmp(arguments[1], "write") == 0)
        return write_batches(arguments[2], strtoull(arguments[3], NULL, 10));
    if (count != 2 || strcmp(arguments[1], "verify") != 0)
        return 2;
    char folder[512];
    uint64_t committed;
    while (scanf("%511s %" SCNu64, folder, &committed) == 2) {
        verify(folder, committed);
        fflush(stdout);
    }
    return 0;
}
