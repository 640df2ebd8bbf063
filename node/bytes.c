#include "node/bytes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct bytes *bytes_make(const void *data, size_t count)
{
    struct bytes *bytes = malloc(sizeof *bytes + count);
    if (!bytes)
        abort();
    bytes->references = 1;
    bytes->count = count;
    if (data && count > 0)
        memcpy(bytes->data, data, count);
    return bytes;
}

struct bytes *bytes_keep(struct bytes *bytes)
{
    bytes->references++;
    return bytes;
}

void bytes_drop(struct bytes *bytes)
{
    if (bytes && --bytes->references == 0)
        free(bytes);
}

void handles_deinit(struct handles *handles)
{
    for (uint32_t i = 0; i < handles->capacity; i++)
        bytes_drop(handles->slot[i]);
    free(handles->slot);
    free(handles->generation);
    free(handles->free);
    *handles = (struct handles){0};
}

static void grow(struct handles *handles)
{
    const uint32_t capacity = handles->capacity ? 2 * handles->capacity : 256;
    handles->slot = realloc(handles->slot, capacity * sizeof *handles->slot);
    handles->generation = realloc(handles->generation, capacity * sizeof *handles->generation);
    handles->free = realloc(handles->free, capacity * sizeof *handles->free);
    if (!handles->slot || !handles->generation || !handles->free)
        abort();
    for (uint32_t i = capacity; i-- > handles->capacity;) {
        handles->slot[i] = NULL;
        handles->generation[i] = 1;
        handles->free[handles->free_count++] = i;
    }
    handles->capacity = capacity;
}

uint64_t handles_put(struct handles *handles, struct bytes *bytes)
{
    if (handles->free_count == 0)
        grow(handles);
    const uint32_t i = handles->free[--handles->free_count];
    handles->slot[i] = bytes;
    handles->live++;
    return (uint64_t)handles->generation[i] << 32 | i;
}

static uint32_t find(const struct handles *handles, uint64_t handle)
{
    const uint32_t i = (uint32_t)handle;
    assert(i < handles->capacity && handles->slot[i] && handles->generation[i] == handle >> 32);
    return i;
}

struct bytes *handles_get(const struct handles *handles, uint64_t handle)
{
    return handles->slot[find(handles, handle)];
}

void handles_drop(struct handles *handles, uint64_t handle)
{
    const uint32_t i = find(handles, handle);
    bytes_drop(handles->slot[i]);
    handles->slot[i] = NULL;
    handles->generation[i]++;
    handles->free[handles->free_count++] = i;
    handles->live--;
}
