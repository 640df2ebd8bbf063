/* What a worker may see, by its device. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernel.h"
#include "kernels/worker_serve.h"

#define PATHS_MAX 48
#define PATH_BYTES 128
#define GPUS_MAX 64

/* A NULL-ended list with its strings. */
struct paths {
    const char *list[PATHS_MAX + 1];
    char text[PATHS_MAX][PATH_BYTES];
    size_t count;
};

static void add(struct paths *paths, const char *path)
{
    if (paths->count == PATHS_MAX || strlen(path) >= PATH_BYTES || path[0] != '/')
        return;
    strcpy(paths->text[paths->count], path);
    paths->list[paths->count] = paths->text[paths->count];
    paths->count++;
}

/* The libraries of the system and those that LD_LIBRARY_PATH names, and what a driver asks about the machine. */
static void add_libraries(struct paths *paths)
{
    static const char *const system[] = {
        "/usr",        "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
        "/etc/nvidia", "/sys"};
    for (size_t i = 0; i < sizeof system / sizeof *system; i++)
        add(paths, system[i]);
    const char *more = getenv("LD_LIBRARY_PATH");
    while (more && *more) {
        char path[PATH_BYTES];
        const size_t length = strcspn(more, ":");
        snprintf(path, sizeof path, "%.*s", (int)length, more);
        if (length < sizeof path)
            add(paths, path);
        more += length + (more[length] == ':');
    }
}

/* Which /dev/nvidiaN is the index-th GPU in PCI order, the order that main asks CUDA for; -1 where the driver
 * doesn't say. */
static int minor_of(unsigned index)
{
    static const char root[] = "/proc/driver/nvidia/gpus";
    struct dirent **entries;
    const int count = scandir(root, &entries, NULL, alphasort);
    int minor = -1;
    unsigned seen = 0;
    for (int i = 0; i < count; i++) {
        char path[PATH_BYTES], line[256];
        const bool right = entries[i]->d_name[0] != '.' && seen++ == index;
        snprintf(path, sizeof path, "%s/%.40s/information", root, entries[i]->d_name);
        FILE *file = right ? fopen(path, "re") : NULL;
        while (file && fgets(line, sizeof line, file))
            sscanf(line, "Device Minor: %d", &minor);
        if (file)
            fclose(file);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return minor;
}

/* The nodes that every GPU process needs, and the GPU's own. Where it isn't known which that is, all of them:
 * the device keeps its index then, otherwise it becomes the only one. */
static void add_gpu(struct paths *paths, const char **device_name)
{
    static const char *const common[] = {"/dev/null",           "/dev/zero",       "/dev/urandom",
                                         "/dev/nvidiactl",      "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools",
                                         "/dev/nvidia-modeset", "/dev/nvidia-caps"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        if (access(common[i], F_OK) == 0)
            add(paths, common[i]);
    const int minor =
        getenv("CUDA_VISIBLE_DEVICES") ? -1 : minor_of((unsigned)atoi(*device_name + strlen("cuda:")));
    for (int gpu = 0; gpu < GPUS_MAX; gpu++) {
        snprintf(path, sizeof path, "/dev/nvidia%d", gpu);
        if ((minor < 0 || gpu == minor) && access(path, F_OK) == 0)
            add(paths, path);
    }
    if (minor >= 0)
        *device_name = "cuda:0";
}

void worker_box(const char **device_name, uint64_t memory_bytes, bool unboxed, struct sandbox_report *report)
{
    static struct paths readable, devices; /* too large for a stack */
    struct sandbox_profile profile = {
        .kind = SANDBOX_CPU, .memory_bytes = memory_bytes, .processes = WORKER_PROCESSES};
    if (strncmp(*device_name, "cuda:", 5) == 0) {
        profile.kind = SANDBOX_GPU;
        add_libraries(&readable);
        if (unboxed)
            profile.off = 1u << SANDBOX_MOUNT | 1u << SANDBOX_LANDLOCK | 1u << SANDBOX_SECCOMP;
        else
            add_gpu(&devices, device_name);
        profile.readable = readable.list;
        profile.devices = devices.list;
        /* Nothing of a driver's cache would outlive the process. */
        setenv("CUDA_CACHE_DISABLE", "1", 1);
    } else {
        kernel_prepare();
    }
    sandbox_enter(&profile, report);
}
