/* NVIDIA's management library as the watcher sees it: opened at run time, since neither its header nor the library is
 * there where no driver is.
 *
 * The few functions and structures used are declared in nvml.c after the published header; newer entry points are
 * preferred and older ones will do. Only `weir-worker --watch` calls this: a driver that hangs or crashes takes the watcher
 * along and not the node. WEIR_NVML in the environment names another library, which tests use. */
#ifndef KERNELS_NVML_H
#define KERNELS_NVML_H

#include <stdbool.h>
#include <stdint.h>

#define NVML_DEVICES_MAX 64
#define NVML_PROCESSES_MAX 64 /* more are cut off: one foreign process is enough for a claim */
#define NVML_MESSAGE_BYTES 256
#define NVML_UUID_BYTES 96
#define NVML_BYTES_UNKNOWN UINT64_MAX

struct nvml;

struct nvml_process {
    uint32_t pid;
    uint64_t memory_bytes; /* NVML_BYTES_UNKNOWN where the driver doesn't tell */
};

struct nvml_sample {
    uint64_t memory_total,
        memory_used;             /* what the driver keeps for itself is not used, where it tells them apart */
    int32_t utilisation_percent; /* of its processors where there is GPM, else of the time; -1 = not told */
    uint32_t process_count;
    struct nvml_process process[NVML_PROCESSES_MAX];
    uint32_t xid; /* the latest error event that blames the device since nvml_open; 0 = none */
};

/* False with one line in `message`: no library, a driver too old, one that doesn't answer. */
bool nvml_open(struct nvml **nvml, char message[NVML_MESSAGE_BYTES]);
void nvml_close(struct nvml *nvml);
const char *nvml_driver(const struct nvml *nvml);
unsigned nvml_count(const struct nvml *nvml);
/* Its unique id, and the N of its /dev/nvidiaN; "" and -1 where the driver doesn't tell. */
const char *nvml_uuid(const struct nvml *nvml, unsigned index);
int nvml_minor(const struct nvml *nvml, unsigned index);
bool nvml_gpm(const struct nvml *nvml, unsigned index);
/* False with one line in `message` if the device doesn't answer: it was lost, or can't be asked. */
bool nvml_look(struct nvml *nvml, unsigned index, struct nvml_sample *sample,
               char message[NVML_MESSAGE_BYTES]);

#endif
