#include "kernels/sandbox_cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <threads.h>
#include <unistd.h>

enum { MEMORY, PROCESSES };

/* Where folders of ours are made: found once, for the life of this process. */
static struct {
    once_flag once;
    bool v2;
    char base[2][SANDBOX_CGROUP_BYTES / 2]; /* by controller, v2: both in the first; empty: no way */
} cgroups = {.once = ONCE_FLAG_INIT};
static _Atomic uint32_t made;

static const char *const controllers[2] = {"memory", "pids"};

static void find(void);

static bool put(const char *folder, const char *name, const char *text)
{
    char path[SANDBOX_CGROUP_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const bool good = write(file, text, strlen(text)) == (ssize_t)strlen(text);
    const int saved = errno;
    close(file);
    errno = saved;
    return good;
}

static bool put_number(const char *folder, const char *name, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return put(folder, name, text);
}

static void make_folder(struct cgroup_place *place, int which, uint64_t memory_bytes, uint32_t processes)
{
    char *folder = place->folders[which];
    snprintf(folder, SANDBOX_CGROUP_BYTES, "%s/" CGROUP_PREFIX "%d-%u", cgroups.base[which], getpid(),
             atomic_fetch_add(&made, 1));
    bool good = mkdir(folder, 0755) == 0;
    if (good && memory_bytes)
        good = put_number(folder, cgroups.v2 ? "memory.max" : "memory.limit_in_bytes", memory_bytes);
    if (good && memory_bytes) /* where swap is accounted: none of it on top */
        put_number(folder, cgroups.v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes",
                   cgroups.v2 ? 0 : memory_bytes);
    if (good && processes)
        good = put_number(folder, "pids.max", processes);
    if (good) {
        char path[SANDBOX_CGROUP_BYTES + 16];
        snprintf(path, sizeof path, "%s/cgroup.procs", folder);
        place->procs[which] = open(path, O_WRONLY | O_CLOEXEC);
    }
    if (place->procs[which] < 0) {
        rmdir(folder);
        folder[0] = '\0';
    }
}

void cgroup_make(struct cgroup_place *place, uint64_t memory_bytes, uint32_t processes)
{
    *place = (struct cgroup_place){.procs = {-1, -1}};
    call_once(&cgroups.once, find);
    if (cgroups.v2) {
        if (memory_bytes || processes)
            make_folder(place, MEMORY, memory_bytes, processes);
        return;
    }
    if (cgroups.base[MEMORY][0] && memory_bytes)
        make_folder(place, MEMORY, memory_bytes, 0);
    if (cgroups.base[PROCESSES][0] && processes)
        make_folder(place, PROCESSES, 0, processes);
}

void cgroup_close(struct cgroup_place *place)
{
    for (int i = 0; i < 2; i++)
        if (place->procs[i] >= 0)
            close(place->procs[i]);
}

void cgroup_remove(char folders[2][SANDBOX_CGROUP_BYTES])
{
    for (int i = 0; i < 2; i++)
        if (folders[i][0]) {
            rmdir(folders[i]);
            folders[i][0] = '\0';
        }
}

/* ---- Finding the place */

static bool has_word(const char *list, const char *word, const char *separators)
{
    const size_t length = strlen(word);
    while (*list) {
        const size_t next = strcspn(list, separators);
        if (next == length && strncmp(list, word, length) == 0)
            return true;
        list += next + (list[next] != '\0');
    }
    return false;
}

/* This process's path in the hierarchy of `controller`; NULL stands for version 2. */
static bool own_path(const char *controller, char *path, size_t path_bytes)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *where = names ? strchr(names + 1, ':') : NULL;
        if (!where)
            continue;
        *where++ = '\0';
        names++;
        found = controller ? has_word(names, controller, ",") : *names == '\0';
        if (found)
            snprintf(path, path_bytes, "%s", where);
    }
    fclose(file);
    return found;
}

/* The folder of this process's cgroup: the mount point and the path below the mount's root. */
static bool own_folder(const char *controller, char *folder, size_t folder_bytes)
{
    char path[256], line[1024];
    if (!own_path(controller, path, sizeof path))
        return false;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return false;
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        char root[256], point[256], type[32], options[256];
        const char *dash = strstr(line, " - ");
        if (!dash || sscanf(line, "%*s %*s %*s %255s %255s", root, point) != 2 ||
            sscanf(dash, " - %31s %*s %255s", type, options) != 2)
            continue;
        if (controller ? strcmp(type, "cgroup") != 0 || !has_word(options, controller, ",")
                       : strcmp(type, "cgroup2") != 0)
            continue;
        const size_t root_bytes = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(path, root, root_bytes) != 0)
            continue;
        const char *below = strcmp(path + root_bytes, "/") == 0 ? "" : path + root_bytes;
        found = (size_t)snprintf(folder, folder_bytes, "%s%s", point, below) < folder_bytes;
    }
    fclose(file);
    return found;
}

static bool read_text(const char *folder, const char *name, char *text, size_t text_bytes)
{
    char path[SANDBOX_CGROUP_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const ssize_t got = read(file, text, text_bytes - 1);
    close(file);
    text[got > 0 ? got : 0] = '\0';
    return got >= 0;
}

/* Folders of processes that are gone: those that were killed could not remove them. */
static void sweep(const char *folder)
{
    DIR *list = opendir(folder);
    if (!list)
        return;
    for (struct dirent *entry; (entry = readdir(list));) {
        int owner;
        if (sscanf(entry->d_name, CGROUP_PREFIX "%d-", &owner) == 1 && owner != getpid() &&
            kill(owner, 0) != 0 && errno == ESRCH)
            unlinkat(dirfd(list), entry->d_name, AT_REMOVEDIR);
    }
    closedir(list);
}

/* True if all processes of that cgroup are this one and its children: then it is ours to divide. */
static bool all_ours(char *pids)
{
    char *save = NULL;
    for (char *pid = strtok_r(pids, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save)) {
        char folder[40], text[512];
        snprintf(folder, sizeof folder, "/proc/%.16s", pid);
        if (atoi(pid) == getpid())
            continue;
        const char *after = read_text(folder, "stat", text, sizeof text) ? strrchr(text, ')') : NULL;
        int parent;
        if (!after || sscanf(after, ") %*c %d", &parent) != 1 || parent != getpid())
            return false;
    }
    return true;
}

/* In version 2 only a cgroup without processes hands controllers on, so this process and its children move
 * into a folder below: that is what a delegated cgroup is for. */
static bool divide(const char *folder)
{
    static const char both[] = "+memory +pids";
    if (put(folder, "cgroup.subtree_control", both))
        return true;
    char inner[SANDBOX_CGROUP_BYTES], pids[4096];
    snprintf(inner, sizeof inner, "%s/" CGROUP_PREFIX "%d-node", folder, getpid());
    if (errno != EBUSY || !read_text(folder, "cgroup.procs", pids, sizeof pids))
        return false;
    char again[sizeof pids];
    memcpy(again, pids, sizeof pids);
    if (!all_ours(again) || mkdir(inner, 0755) != 0)
        return false;
    memcpy(again, pids, sizeof pids);
    char *save = NULL;
    for (char *pid = strtok_r(again, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save))
        put(inner, "cgroup.procs", pid);
    if (put(folder, "cgroup.subtree_control", both))
        return true;
    for (char *pid = strtok_r(pids, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save))
        put(folder, "cgroup.procs", pid);
    rmdir(inner);
    return false;
}

static void find(void)
{
    char folder[sizeof cgroups.base[0]], text[256];
    if (own_folder(NULL, folder, sizeof folder) && access(folder, W_OK) == 0 &&
        read_text(folder, "cgroup.controllers", text, sizeof text) && has_word(text, "memory", " \n") &&
        has_word(text, "pids", " \n") &&
        ((read_text(folder, "cgroup.subtree_control", text, sizeof text) && has_word(text, "memory", " \n") &&
          has_word(text, "pids", " \n")) ||
         divide(folder))) {
        cgroups.v2 = true;
        memcpy(cgroups.base[0], folder, sizeof folder);
        sweep(folder);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (own_folder(controllers[i], folder, sizeof folder) && access(folder, W_OK) == 0) {
            memcpy(cgroups.base[i], folder, sizeof folder);
            sweep(folder);
        }
}
