#include "kernels/nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As the published header has them. */
typedef struct nvmlDevice_st *device_handle;
typedef struct nvmlEventSet_st *event_set_handle;
typedef struct nvmlGpmSample_st *gpm_sample_handle;

enum {
    RETURN_SUCCESS = 0,
    RETURN_NOT_SUPPORTED = 3,
    RETURN_NO_PERMISSION = 4,
    RETURN_INSUFFICIENT_SIZE = 7,
    RETURN_DRIVER_NOT_LOADED = 9,
    RETURN_GPU_IS_LOST = 15,
    RETURN_VERSION_MISMATCH = 18,
};
#define EVENT_XID_CRITICAL UINT64_C(0x8)
#define MEMORY_V2_VERSION ((unsigned)sizeof(struct memory_v2) | 2u << 24)
#define GPM_VERSION 1u
#define GPM_METRIC_SM_UTIL 2u
#define GPM_METRICS_ROOM 1024 /* the array grows with each driver; only one is asked for */

struct memory_v1 {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct utilisation {
    unsigned gpu, memory;
};
struct process_info {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};
struct event_data {
    device_handle device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};
struct gpm_support {
    unsigned version, supported;
};
struct gpm_metric {
    unsigned id;
    int result;
    double value;
    char *names[3];
};
struct gpm_metrics {
    unsigned version, count;
    gpm_sample_handle first, second;
    struct gpm_metric metric[GPM_METRICS_ROOM];
};

/* name, parameters; those behind OPTIONAL may be missing. */
#define NEEDED(X)                                                                                            \
    X(nvmlInit_v2, (void))                                                                                   \
    X(nvmlShutdown, (void))                                                                                  \
    X(nvmlSystemGetDriverVersion, (char *, unsigned))                                                        \
    X(nvmlDeviceGetCount_v2, (unsigned *))                                                                   \
    X(nvmlDeviceGetHandleByIndex_v2, (unsigned, device_handle *))                                            \
    X(nvmlDeviceGetMemoryInfo, (device_handle, struct memory_v1 *))                                          \
    X(nvmlDeviceGetComputeRunningProcesses_v3, (device_handle, unsigned *, struct process_info *))
#define OPTIONAL(X)                                                                                          \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3, (device_handle, unsigned *, struct process_info *))          \
    X(nvmlDeviceGetMemoryInfo_v2, (device_handle, struct memory_v2 *))                                       \
    X(nvmlDeviceGetUtilizationRates, (device_handle, struct utilisation *))                                  \
    X(nvmlDeviceGetUUID, (device_handle, char *, unsigned))                                                  \
    X(nvmlDeviceGetMinorNumber, (device_handle, unsigned *))                                                 \
    X(nvmlEventSetCreate, (event_set_handle *))                                                              \
    X(nvmlDeviceRegisterEvents, (device_handle, unsigned long long, event_set_handle))                       \
    X(nvmlEventSetWait_v2, (event_set_handle, struct event_data *, unsigned))                                \
    X(nvmlEventSetFree, (event_set_handle))                                                                  \
    X(nvmlGpmQueryDeviceSupport, (device_handle, struct gpm_support *))                                      \
    X(nvmlGpmSampleAlloc, (gpm_sample_handle *))                                                             \
    X(nvmlGpmSampleFree, (gpm_sample_handle))                                                                \
    X(nvmlGpmSampleGet, (device_handle, gpm_sample_handle))                                                  \
    X(nvmlGpmMetricsGet, (struct gpm_metrics *))

struct device {
    device_handle handle;
    char uuid[NVML_UUID_BYTES];
    int minor;
    gpm_sample_handle gpm[2]; /* the one before and the one to be taken; NULL: no GPM */
    bool gpm_begun;
    uint32_t xid;
};

struct nvml {
    void *library;
    char driver[96];
    unsigned count;
    struct device device[NVML_DEVICES_MAX];
    event_set_handle events;
    struct gpm_metrics metrics;
#define FIELD(name, parameters) int(*name) parameters;
    NEEDED(FIELD)
    OPTIONAL(FIELD)
#undef FIELD
    const char *(*nvmlErrorString)(int);
};

static bool fail(const struct nvml *nvml, const char *what, int code, char message[NVML_MESSAGE_BYTES])
{
    snprintf(message, NVML_MESSAGE_BYTES, "%s: %s", what,
             nvml->nvmlErrorString ? nvml->nvmlErrorString(code) : "an error of the NVIDIA driver");
    return false;
}

static bool load(struct nvml *nvml, char message[NVML_MESSAGE_BYTES])
{
    const char *named = getenv("WEIR_NVML");
    const char *name = named && named[0] ? named : "libnvidia-ml.so.1";
    nvml->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!nvml->library) {
        snprintf(message, NVML_MESSAGE_BYTES, "NVML is missing: %.180s", dlerror());
        return false;
    }
    const char *lacks = NULL;
#define FIND(name, parameters) *(void **)&nvml->name = dlsym(nvml->library, #name);
    NEEDED(FIND)
    OPTIONAL(FIND)
#undef FIND
    *(void **)&nvml->nvmlErrorString = dlsym(nvml->library, "nvmlErrorString");
#define CHECK(name, parameters)                                                                              \
    if (!nvml->name)                                                                                         \
        lacks = #name;
    NEEDED(CHECK)
#undef CHECK
    if (lacks)
        snprintf(message, NVML_MESSAGE_BYTES,
                 "the NVIDIA driver is too old: %s lacks %s; install 520 or later", name, lacks);
    return !lacks;
}

static void open_gpm(struct nvml *nvml, struct device *device)
{
    struct gpm_support support = {.version = GPM_VERSION};
    if (!nvml->nvmlGpmQueryDeviceSupport || !nvml->nvmlGpmSampleAlloc || !nvml->nvmlGpmSampleGet ||
        !nvml->nvmlGpmMetricsGet || !nvml->nvmlGpmSampleFree ||
        nvml->nvmlGpmQueryDeviceSupport(device->handle, &support) != RETURN_SUCCESS || !support.supported)
        return;
    if (nvml->nvmlGpmSampleAlloc(&device->gpm[0]) != RETURN_SUCCESS)
        device->gpm[0] = NULL;
    else if (nvml->nvmlGpmSampleAlloc(&device->gpm[1]) != RETURN_SUCCESS) {
        nvml->nvmlGpmSampleFree(device->gpm[0]);
        device->gpm[0] = NULL;
    }
}

static bool open_device(struct nvml *nvml, unsigned index, char message[NVML_MESSAGE_BYTES])
{
    struct device *device = &nvml->device[index];
    unsigned minor = 0;
    const int code = nvml->nvmlDeviceGetHandleByIndex_v2(index, &device->handle);
    if (code != RETURN_SUCCESS)
        return fail(nvml, "a GPU can't be opened", code, message);
    if (!nvml->nvmlDeviceGetUUID ||
        nvml->nvmlDeviceGetUUID(device->handle, device->uuid, sizeof device->uuid) != RETURN_SUCCESS)
        device->uuid[0] = '\0';
    device->minor = nvml->nvmlDeviceGetMinorNumber &&
                            nvml->nvmlDeviceGetMinorNumber(device->handle, &minor) == RETURN_SUCCESS
                        ? (int)minor
                        : -1;
    open_gpm(nvml, device);
    if (nvml->events)
        nvml->nvmlDeviceRegisterEvents(device->handle, EVENT_XID_CRITICAL, nvml->events);
    return true;
}

static void open_events(struct nvml *nvml)
{
    if (!nvml->nvmlEventSetCreate || !nvml->nvmlDeviceRegisterEvents || !nvml->nvmlEventSetWait_v2 ||
        !nvml->nvmlEventSetFree || nvml->nvmlEventSetCreate(&nvml->events) != RETURN_SUCCESS)
        nvml->events = NULL;
}

bool nvml_open(struct nvml **out, char message[NVML_MESSAGE_BYTES])
{
    struct nvml *nvml = calloc(1, sizeof *nvml);
    if (!nvml) {
        snprintf(message, NVML_MESSAGE_BYTES, "out of memory");
        return false;
    }
    int code = RETURN_SUCCESS;
    if (!load(nvml, message))
        goto fail_loading;
    code = nvml->nvmlInit_v2();
    if (code != RETURN_SUCCESS) {
        fail(nvml,
             code == RETURN_VERSION_MISMATCH
                 ? "NVML and the loaded driver differ: reboot, or reload the driver"
                 : "NVML can't be started",
             code, message);
        goto fail_loading;
    }
    if (nvml->nvmlSystemGetDriverVersion(nvml->driver, sizeof nvml->driver) != RETURN_SUCCESS)
        snprintf(nvml->driver, sizeof nvml->driver, "unknown");
    code = nvml->nvmlDeviceGetCount_v2(&nvml->count);
    if (code != RETURN_SUCCESS) {
        fail(nvml, "NVML can't count the GPUs", code, message);
        goto fail_started;
    }
    nvml->count = nvml->count < NVML_DEVICES_MAX ? nvml->count : NVML_DEVICES_MAX;
    open_events(nvml);
    for (unsigned i = 0; i < nvml->count; i++)
        if (!open_device(nvml, i, message))
            goto fail_started;
    *out = nvml;
    return true;

fail_started:
    nvml_close(nvml);
    return false;
fail_loading:
    if (nvml->library)
        dlclose(nvml->library);
    free(nvml);
    return false;
}

void nvml_close(struct nvml *nvml)
{
    for (unsigned i = 0; i < nvml->count; i++)
        for (int s = 0; s < 2; s++)
            if (nvml->device[i].gpm[s])
                nvml->nvmlGpmSampleFree(nvml->device[i].gpm[s]);
    if (nvml->events)
        nvml->nvmlEventSetFree(nvml->events);
    nvml->nvmlShutdown();
    dlclose(nvml->library);
    free(nvml);
}

const char *nvml_driver(const struct nvml *nvml)
{
    return nvml->driver;
}

unsigned nvml_count(const struct nvml *nvml)
{
    return nvml->count;
}

const char *nvml_uuid(const struct nvml *nvml, unsigned index)
{
    return nvml->device[index].uuid;
}

int nvml_minor(const struct nvml *nvml, unsigned index)
{
    return nvml->device[index].minor;
}

bool nvml_gpm(const struct nvml *nvml, unsigned index)
{
    return nvml->device[index].gpm[0] != NULL;
}

static int look_at_memory(const struct nvml *nvml, const struct device *device, struct nvml_sample *sample)
{
    struct memory_v2 two = {.version = MEMORY_V2_VERSION};
    if (nvml->nvmlDeviceGetMemoryInfo_v2 &&
        nvml->nvmlDeviceGetMemoryInfo_v2(device->handle, &two) == RETURN_SUCCESS) {
        sample->memory_total = two.total;
        sample->memory_used = two.used;
        return RETURN_SUCCESS;
    }
    struct memory_v1 one;
    const int code = nvml->nvmlDeviceGetMemoryInfo(device->handle, &one);
    if (code == RETURN_SUCCESS) {
        sample->memory_total = one.total;
        sample->memory_used = one.used;
    }
    return code;
}

typedef int list_fn(device_handle, unsigned *, struct process_info *);

static int look_at_processes(list_fn *list, device_handle handle, struct nvml_sample *sample)
{
    struct process_info info[NVML_PROCESSES_MAX];
    unsigned count = NVML_PROCESSES_MAX;
    const int code = list(handle, &count, info);
    if (code != RETURN_SUCCESS && code != RETURN_INSUFFICIENT_SIZE)
        return code;
    if (code == RETURN_INSUFFICIENT_SIZE)
        count = 0; /* nothing was filled in; so many can't all be ours, which the memory shows */
    for (unsigned i = 0; i < count && sample->process_count < NVML_PROCESSES_MAX; i++)
        sample->process[sample->process_count++] =
            (struct nvml_process){.pid = info[i].pid, .memory_bytes = info[i].memory};
    return RETURN_SUCCESS;
}

/* The share of its processors that were busy since the look before; needs two looks. */
static bool look_at_gpm(struct nvml *nvml, struct device *device, int32_t *percent)
{
    if (!device->gpm[0] || nvml->nvmlGpmSampleGet(device->handle, device->gpm[1]) != RETURN_SUCCESS)
        return false;
    bool good = false;
    if (device->gpm_begun) {
        struct gpm_metrics *metrics = &nvml->metrics;
        metrics->version = GPM_VERSION;
        metrics->count = 1;
        metrics->first = device->gpm[0];
        metrics->second = device->gpm[1];
        metrics->metric[0] = (struct gpm_metric){.id = GPM_METRIC_SM_UTIL};
        good = nvml->nvmlGpmMetricsGet(metrics) == RETURN_SUCCESS &&
               metrics->metric[0].result == RETURN_SUCCESS && metrics->metric[0].value >= 0 &&
               metrics->metric[0].value <= 100;
        if (good)
            *percent = (int32_t)metrics->metric[0].value;
    }
    const gpm_sample_handle taken = device->gpm[1];
    device->gpm[1] = device->gpm[0];
    device->gpm[0] = taken;
    device->gpm_begun = true;
    return good;
}

static void look_at_utilisation(struct nvml *nvml, struct device *device, struct nvml_sample *sample)
{
    struct utilisation rates;
    sample->utilisation_percent = -1;
    if (look_at_gpm(nvml, device, &sample->utilisation_percent) || !nvml->nvmlDeviceGetUtilizationRates)
        return;
    if (nvml->nvmlDeviceGetUtilizationRates(device->handle, &rates) == RETURN_SUCCESS && rates.gpu <= 100)
        sample->utilisation_percent = (int32_t)rates.gpu;
}

/* What a program did wrong (13, 31), what hit one program alone (94: a contained memory error) and what the GPU mended by
 * itself (63: a row remapped, 92: single bits) is no fault of the device. These are: by NVIDIA's catalog of Xid errors
 * (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html) only a reset of the GPU or of the machine helps, or, for 48
 * and 74, may be needed. Of NVLink, which Weir doesn't use, 74 alone is here, since it can mean the GPU itself. */
static bool blames_device(uint64_t xid)
{
    static const uint16_t errors[] = {46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 140, 143, 156, 158};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i] == xid)
            return true;
    return false;
}

static void look_at_events(struct nvml *nvml)
{
    struct event_data event;
    for (int i = 0; nvml->events && i < 64; i++) {
        if (nvml->nvmlEventSetWait_v2(nvml->events, &event, 0) != RETURN_SUCCESS)
            return;
        for (unsigned d = 0; d < nvml->count; d++)
            if (nvml->device[d].handle == event.device && event.type == EVENT_XID_CRITICAL &&
                blames_device(event.data))
                nvml->device[d].xid = (uint32_t)event.data;
    }
}

bool nvml_look(struct nvml *nvml, unsigned index, struct nvml_sample *sample,
               char message[NVML_MESSAGE_BYTES])
{
    struct device *device = &nvml->device[index];
    *sample = (struct nvml_sample){0};
    int code = look_at_memory(nvml, device, sample);
    if (code == RETURN_SUCCESS)
        code = look_at_processes(nvml->nvmlDeviceGetComputeRunningProcesses_v3, device->handle, sample);
    if (code == RETURN_SUCCESS && nvml->nvmlDeviceGetGraphicsRunningProcesses_v3)
        look_at_processes(nvml->nvmlDeviceGetGraphicsRunningProcesses_v3, device->handle, sample);
    if (code != RETURN_SUCCESS)
        return fail(nvml, code == RETURN_GPU_IS_LOST ? "the GPU has vanished" : "the GPU doesn't answer",
                    code, message);
    look_at_utilisation(nvml, device, sample);
    look_at_events(nvml);
    sample->xid = device->xid;
    return true;
}
