#include "node/faulty.h"

#include <stdio.h>
#include <string.h>

static const struct faulty_kernel *find(const struct faulty *faulty, const uint8_t *code)
{
    for (int i = 0; i < FAULTY_MAX; i++) {
        const struct faulty_kernel *entry = &faulty->entries[i];
        if (entry->faults > 0 && memcmp(entry->code, code, WORKER_ID_BYTES) == 0)
            return entry;
    }
    return NULL;
}

bool faulty_add(struct faulty *faulty, const uint8_t code[WORKER_ID_BYTES], const char *kernel,
                const char *reason, int64_t now_ms)
{
    const struct faulty_kernel *known = find(faulty, code);
    struct faulty_kernel *entry = &faulty->entries[known ? known - faulty->entries : 0];
    for (int i = 0; i < FAULTY_MAX && !known; i++) {
        struct faulty_kernel *other = &faulty->entries[i];
        if (other->faults == 0 || (entry->faults > 0 && other->last_ms < entry->last_ms))
            entry = other;
    }
    if (!known) {
        *entry = (struct faulty_kernel){0};
        memcpy(entry->code, code, WORKER_ID_BYTES);
        snprintf(entry->kernel, sizeof entry->kernel, "%s", kernel);
    }
    entry->faults++;
    entry->last_ms = now_ms;
    snprintf(entry->reason, sizeof entry->reason, "%s", reason);
    return entry->faults == FAULTY_LIMIT;
}

const struct faulty_kernel *faulty_find(const struct faulty *faulty, const uint8_t code[WORKER_ID_BYTES])
{
    const struct faulty_kernel *entry = find(faulty, code);
    return entry && entry->faults >= FAULTY_LIMIT ? entry : NULL;
}

const struct faulty_kernel *faulty_each(const struct faulty *faulty, uint32_t index)
{
    for (int i = 0; i < FAULTY_MAX; i++)
        if (faulty->entries[i].faults >= FAULTY_LIMIT && index-- == 0)
            return &faulty->entries[i];
    return NULL;
}
