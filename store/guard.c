/*
 * store/guard.c - says what is wrong where a damaged data file would only kill the process.
 *
 * LMDB reads through a map of its file and trusts what it finds there. A file that was cut short, or a disk that can't be read,
 * ends in SIGBUS; a page whose links are damaged may lead anywhere, to SIGSEGV, or to one of LMDB's own assertions.
 */
#include "store/internal.h"

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUARDED_MAX 8 /* maps at a time; further ones are not guarded */

/* One map. Written by open and close, read by the handler, which may run at any time: `begin` is set last and cleared first. */
struct guarded {
    _Atomic uintptr_t begin;
    uintptr_t end;
    char text[768];
};

static struct guarded guarded[GUARDED_MAX];
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local const char *marked; /* what this thread works on */
static struct sigaction before[2];       /* of SIGBUS, SIGSEGV */

static _Noreturn void give_up(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
    _exit(1);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    const uintptr_t at = (uintptr_t)info->si_addr;
    if (marked != NULL)
        give_up(marked);
    for (int i = 0; i < GUARDED_MAX; i++) {
        const uintptr_t begin = atomic_load(&guarded[i].begin);
        if (begin != 0 && at >= begin && at < guarded[i].end)
            give_up(guarded[i].text);
    }
    /* None of ours: as it would have been. The instruction is run again and faults again. */
    sigaction(number, &before[number == SIGSEGV], NULL);
}

static void on_assertion(MDB_env *lmdb, const char *text)
{
    (void)text;
    const char *const found = mdb_env_get_userctx(lmdb);
    if (found != NULL)
        give_up(found);
}

void store_guard_install(void)
{
    static bool installed;
    if (installed)
        return;
    installed = true;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before[0]);
    sigaction(SIGSEGV, &action, &before[1]);
}

/* Where the file is mapped, from the system's list; LMDB doesn't tell. */
static void find_map(const char *path, uintptr_t *begin, uintptr_t *end)
{
    char line[5000];
    *begin = *end = 0;
    FILE *const maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && *begin == 0 && fgets(line, sizeof line, maps) != NULL) {
        char *const name = strchr(line, '/');
        line[strcspn(line, "\n")] = '\0';
        if (name != NULL && strcmp(name, path) == 0)
            sscanf(line, "%" SCNxPTR "-%" SCNxPTR, begin, end);
    }
    if (maps != NULL)
        fclose(maps);
}

void store_guard_begin(struct environment *environment, const char *folder)
{
    char path[PATH_MAX + 16], real[PATH_MAX] = "";
    uintptr_t begin = 0, end = 0;
    snprintf(path, sizeof path, "%s/data.mdb", folder);
    pthread_mutex_lock(&gate);
    if (realpath(path, real) != NULL)
        find_map(real, &begin, &end);
    for (int i = 0; i < GUARDED_MAX && begin != 0 && environment->guarded == NULL; i++) {
        struct guarded *const slot = &guarded[i];
        if (atomic_load(&slot->begin) != 0)
            continue;
        snprintf(slot->text, sizeof slot->text,
                 "weir: %.500s is damaged or can't be read; look at the disk, then restore a backup (`weir "
                 "store restore`), "
                 "or move the store away and start without it\n",
                 real);
        slot->end = end;
        environment->guarded = slot;
        mdb_env_set_userctx(environment->lmdb, slot->text);
        mdb_env_set_assert(environment->lmdb, on_assertion);
        atomic_store(&slot->begin, begin);
    }
    pthread_mutex_unlock(&gate);
}

void store_guard_end(struct environment *environment)
{
    if (environment->guarded != NULL)
        atomic_store(&environment->guarded->begin, 0);
    environment->guarded = NULL;
}

void store_guard_mark(const struct environment *environment)
{
    marked = environment != NULL && environment->guarded != NULL ? environment->guarded->text : NULL;
}
