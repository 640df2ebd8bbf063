#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/worker_serve.h"

static void describe_cpu(uint32_t index, struct worker_device *device)
{
    *device = (struct worker_device){.kind = "cpu", .index = index, .processors = 1, .name = "CPU"};
    device->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon[1 + strcspn(colon + 1, "\n")] = '\0';
        snprintf(device->name, sizeof device->name, "%.*s", (int)sizeof device->name - 1, colon + 2);
        break;
    }
    fclose(file);
}

static bool describe_gpu(uint32_t index, struct worker_device *device, char message[MANIFEST_ERROR_BYTES])
{
    struct gpu_info info;
    if (!gpu_describe(index, &info, message))
        return false;
    *device = (struct worker_device){.kind = "cuda",
                                     .index = index,
                                     .memory_bytes = info.memory_bytes,
                                     .compute_major = info.compute_major,
                                     .compute_minor = info.compute_minor,
                                     .processors = info.processors};
    snprintf(device->name, sizeof device->name, "%.*s", (int)sizeof device->name - 1, info.name);
    return true;
}

static bool allowed_core(uint32_t core)
{
    cpu_set_t allowed;
    return core < CPU_SETSIZE && sched_getaffinity(0, sizeof allowed, &allowed) == 0 &&
           CPU_ISSET(core, &allowed);
}

bool worker_device_each(uint32_t index, struct worker_device *device)
{
    char message[MANIFEST_ERROR_BYTES];
    uint32_t seen = 0;
    for (uint32_t core = 0; core < CPU_SETSIZE; core++)
        if (allowed_core(core) && seen++ == index) {
            describe_cpu(core, device);
            return true;
        }
    for (uint32_t gpu = index - seen; gpu < gpu_count(); gpu++)
        return describe_gpu(gpu, device, message);
    return false;
}

bool worker_device_open(const char *name, struct worker_device *device, struct gpu **gpu,
                        char message[MANIFEST_ERROR_BYTES])
{
    const char *colon = strchr(name, ':');
    char *end = NULL;
    errno = 0;
    const unsigned long index =
        colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 0;
    *gpu = NULL;
    if (!end || *end != '\0' || errno || index > 4095) {
        snprintf(message, MANIFEST_ERROR_BYTES, "device '%.40s' is no device; write cpu:N or cuda:N", name);
        return false;
    }
    if (strncmp(name, "cpu:", 4) == 0) {
        /* Not bound to that core: other nodes of this machine begin to count at 0 as well. */
        describe_cpu((uint32_t)index, device);
        return true;
    }
    if (strncmp(name, "cuda:", 5) == 0)
        return describe_gpu((uint32_t)index, device, message) && gpu_open(gpu, (unsigned)index, message);
    snprintf(message, MANIFEST_ERROR_BYTES, "device '%.40s' is no device; write cpu:N or cuda:N", name);
    return false;
}
