/* Plays NVML for the watcher: what the file named by WEIR_NVML_SCRIPT says, read anew at each look, so that a test changes
 * the GPUs by changing the file. One line per thing:
 *
 *     driver TEXT              open ERROR              (nvmlInit fails with that code)
 *     gpu N memory MIB utilisation PERCENT
 *     process N PID MIB        a process on GPU N
 *     holder N PID MIB         the same, while that process lives
 *     lost N                   GPU N doesn't answer any more
 *     xid N CODE               an error event of GPU N
 *     hang                     the next look never returns
 *     crash                    the next look kills the process
 *
 * Which functions it has is what a driver of the last years has; without graphics processes and GPM. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPUS 8
#define PROCESSES 16

struct nvmlDevice_st {
    unsigned number;
};
static struct nvmlDevice_st devices[GPUS];

struct gpu {
    unsigned present, lost, xid, utilisation, process_count;
    unsigned long long memory;
    struct {
        unsigned pid;
        unsigned long long memory;
    } process[PROCESSES];
};
static struct {
    struct gpu gpu[GPUS];
    int open_error;
    char driver[64];
} script;
static unsigned xid_told[GPUS];

static void read_script(int looking)
{
    const char *path = getenv("WEIR_NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[200];
    memset(&script, 0, sizeof script);
    strcpy(script.driver, "555.0-script");
    while (file && fgets(line, sizeof line, file)) {
        unsigned n = 0, a = 0, b = 0;
        if (sscanf(line, "gpu %u memory %u utilisation %u", &n, &a, &b) == 3 && n < GPUS) {
            script.gpu[n].present = 1;
            script.gpu[n].memory = (unsigned long long)a << 20;
            script.gpu[n].utilisation = b;
        } else if ((sscanf(line, "process %u %u %u", &n, &a, &b) == 3 ||
                    (sscanf(line, "holder %u %u %u", &n, &a, &b) == 3 && kill((pid_t)a, 0) == 0)) &&
                   n < GPUS) {
            struct gpu *gpu = &script.gpu[n];
            if (line[0] == 'h')
                gpu->memory += (unsigned long long)b << 20;
            if (gpu->process_count < PROCESSES) {
                gpu->process[gpu->process_count].pid = a;
                gpu->process[gpu->process_count++].memory = (unsigned long long)b << 20;
            }
        } else if (sscanf(line, "lost %u", &n) == 1 && n < GPUS) {
            script.gpu[n].lost = 1;
        } else if (sscanf(line, "xid %u %u", &n, &a) == 2 && n < GPUS) {
            script.gpu[n].xid = a;
        } else if (sscanf(line, "open %d", &script.open_error) == 1 ||
                   sscanf(line, "driver %63s", script.driver) == 1) {
            continue;
        } else if (looking && strncmp(line, "hang", 4) == 0) {
            for (;;)
                pause();
        } else if (looking && strncmp(line, "crash", 5) == 0) {
            raise(SIGSEGV);
        }
    }
    if (file)
        fclose(file);
}

int nvmlInit_v2(void);
int nvmlInit_v2(void)
{
    read_script(0);
    return script.open_error;
}

int nvmlShutdown(void);
int nvmlShutdown(void)
{
    return 0;
}

const char *nvmlErrorString(int code);
const char *nvmlErrorString(int code)
{
    return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *text, unsigned bytes);
int nvmlSystemGetDriverVersion(char *text, unsigned bytes)
{
    snprintf(text, bytes, "%s", script.driver);
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 0;
    while (*count < GPUS && script.gpu[*count].present)
        ++*count;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvmlDevice_st **handle);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvmlDevice_st **handle)
{
    if (index >= GPUS)
        return 2;
    devices[index].number = index;
    *handle = &devices[index];
    return 0;
}

int nvmlDeviceGetUUID(struct nvmlDevice_st *device, char *text, unsigned bytes);
int nvmlDeviceGetUUID(struct nvmlDevice_st *device, char *text, unsigned bytes)
{
    snprintf(text, bytes, "GPU-0000000%u-script", device->number);
    return 0;
}

int nvmlDeviceGetMinorNumber(struct nvmlDevice_st *device, unsigned *minor);
int nvmlDeviceGetMinorNumber(struct nvmlDevice_st *device, unsigned *minor)
{
    *minor = device->number;
    return 0;
}

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct memory_v1 {
    unsigned long long total, free, used;
};
#define TOTAL (80000ull << 20)
#define RESERVED (600ull << 20)

/* The first thing that is asked for in each look. */
int nvmlDeviceGetMemoryInfo_v2(struct nvmlDevice_st *device, struct memory_v2 *memory);
int nvmlDeviceGetMemoryInfo_v2(struct nvmlDevice_st *device, struct memory_v2 *memory)
{
    read_script(1);
    const struct gpu *gpu = &script.gpu[device->number];
    if (memory->version != (sizeof *memory | 2u << 24))
        return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
    if (gpu->lost)
        return 15;
    *memory =
        (struct memory_v2){memory->version, TOTAL, RESERVED, TOTAL - RESERVED - gpu->memory, gpu->memory};
    return 0;
}

int nvmlDeviceGetMemoryInfo(struct nvmlDevice_st *device, struct memory_v1 *memory);
int nvmlDeviceGetMemoryInfo(struct nvmlDevice_st *device, struct memory_v1 *memory)
{
    const struct gpu *gpu = &script.gpu[device->number];
    if (gpu->lost)
        return 15;
    *memory = (struct memory_v1){TOTAL, TOTAL - RESERVED - gpu->memory, RESERVED + gpu->memory};
    return 0;
}

struct utilisation {
    unsigned gpu, memory;
};
int nvmlDeviceGetUtilizationRates(struct nvmlDevice_st *device, struct utilisation *rates);
int nvmlDeviceGetUtilizationRates(struct nvmlDevice_st *device, struct utilisation *rates)
{
    *rates = (struct utilisation){script.gpu[device->number].utilisation, 0};
    return 0;
}

struct process_info {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};
int nvmlDeviceGetComputeRunningProcesses_v3(struct nvmlDevice_st *device, unsigned *count,
                                            struct process_info *info);
int nvmlDeviceGetComputeRunningProcesses_v3(struct nvmlDevice_st *device, unsigned *count,
                                            struct process_info *info)
{
    const struct gpu *gpu = &script.gpu[device->number];
    if (*count < gpu->process_count) {
        *count = gpu->process_count;
        return 7;
    }
    *count = gpu->process_count;
    for (unsigned i = 0; i < gpu->process_count; i++)
        info[i] = (struct process_info){gpu->process[i].pid, gpu->process[i].memory, ~0u, ~0u};
    return 0;
}

struct event_data {
    struct nvmlDevice_st *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};
int nvmlEventSetCreate(void **set);
int nvmlEventSetCreate(void **set)
{
    *set = &script;
    return 0;
}
int nvmlEventSetFree(void *set);
int nvmlEventSetFree(void *set)
{
    (void)set;
    return 0;
}
int nvmlDeviceRegisterEvents(struct nvmlDevice_st *device, unsigned long long types, void *set);
int nvmlDeviceRegisterEvents(struct nvmlDevice_st *device, unsigned long long types, void *set)
{
    (void)device;
    (void)set;
    return types == 8 ? 0 : 3;
}
int nvmlEventSetWait_v2(void *set, struct event_data *event, unsigned timeout_ms);
int nvmlEventSetWait_v2(void *set, struct event_data *event, unsigned timeout_ms)
{
    (void)set;
    (void)timeout_ms;
    for (unsigned n = 0; n < GPUS; n++)
        if (script.gpu[n].xid && script.gpu[n].xid != xid_told[n]) {
            xid_told[n] = script.gpu[n].xid;
            *event = (struct event_data){&devices[n], 8, xid_told[n], 0, 0};
            return 0;
        }
    return 10; /* NVML_ERROR_TIMEOUT */
}
