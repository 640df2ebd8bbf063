/*
 * What handles stand for. A payload is shared by all who hold it (a record travels through the whole mesh as
 * one), so it is counted; a handle is one host's name for a payload and is given out and dropped exactly
 * once.
 */
#include "node/sim/world.h"

struct payload *sim_payload_new(enum payload_kind kind, uint32_t job, uint32_t count)
{
    struct payload *const payload = sim_alloc(1, sizeof *payload + count * sizeof payload->value[0]);
    payload->references = 1;
    payload->kind = kind;
    payload->job = job;
    payload->count = count;
    return payload;
}

struct payload *sim_payload_of_record(const struct mesh_record *record)
{
    struct payload *const payload = sim_payload_new(PAYLOAD_RECORD, SIM_NONE, 0);
    payload->record = *record;
    payload->record.handle = 0;
    return payload;
}

struct payload *sim_payload_keep(struct payload *payload)
{
    payload->references++;
    return payload;
}

void sim_payload_drop(struct payload *payload)
{
    if (payload != NULL && --payload->references == 0) {
        free(payload);
    }
}

uint64_t sim_handle_give(struct handles *handles, struct payload *payload)
{
    uint32_t index = handles->count;
    if (handles->free_count != 0) {
        index = handles->free[--handles->free_count];
    } else {
        if (handles->count ==
            handles->room) { /* by a quarter: a large world has many tables that are nearly full */
            handles->room += 16 + handles->room / 4;
            handles->payload = sim_grow(handles->payload, handles->room, sizeof *handles->payload);
            handles->use = sim_grow(handles->use, handles->room, sizeof *handles->use);
        }
        handles->use[handles->count++] = 0;
    }
    handles->payload[index] = payload;
    handles->use[index]++;
    return (uint64_t)handles->use[index] << 32 | (index + 1);
}

static uint32_t handle_index(const struct handles *handles, uint64_t handle)
{
    const uint32_t index = (uint32_t)handle - 1;
    if (index >= handles->count || handles->use[index] != handle >> 32 || handles->payload[index] == NULL) {
        return SIM_NONE;
    }
    return index;
}

struct payload *sim_handle_see(const struct handles *handles, uint64_t handle)
{
    const uint32_t index = handle_index(handles, handle);
    return index == SIM_NONE ? NULL : handles->payload[index];
}

bool sim_handle_drop(struct handles *handles, uint64_t handle)
{
    const uint32_t index = handle_index(handles, handle);
    if (index == SIM_NONE) {
        return false;
    }
    sim_payload_drop(handles->payload[index]);
    handles->payload[index] = NULL;
    if (handles->free_count == handles->free_room) {
        handles->free_room += 16 + handles->free_room / 4;
        handles->free = sim_grow(handles->free, handles->free_room, sizeof *handles->free);
    }
    handles->free[handles->free_count++] = index;
    return true;
}

void sim_handles_clear(struct handles *handles)
{
    for (uint32_t i = 0; i < handles->count; i++) {
        sim_payload_drop(handles->payload[i]);
    }
    free(handles->payload);
    free(handles->use);
    free(handles->free);
    *handles = (struct handles){0};
}
