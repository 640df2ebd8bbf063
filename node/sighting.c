#include "node/sighting.h"

#include <stdio.h>
#include <string.h>

static bool is_listed(const char *name, const char *list)
{
    const size_t length = strlen(name);
    while (length > 0 && *list) {
        list += strspn(list, " ,");
        const size_t count = strcspn(list, " ,");
        /* The kernel keeps 15 characters of a program's name. */
        if (count >= length && (count == length || length == 15) && strncmp(list, name, length) == 0)
            return true;
        list += count;
    }
    return false;
}

static bool counts_as_ours(const struct sighting_process *process, bool present)
{
    return process->ours || (present && !process->known);
}

static const struct sighting_process *foreign_of(const struct sighting *sighting, bool present,
                                                 const char *ignore)
{
    for (uint32_t i = 0; i < sighting->process_count; i++)
        if (!counts_as_ours(&sighting->process[i], present) && !is_listed(sighting->process[i].name, ignore))
            return &sighting->process[i];
    return NULL;
}

/* In use by nobody that is known not to be ours. */
static uint64_t memory_left(const struct sighting *sighting, bool present)
{
    uint64_t left = sighting->memory_used;
    for (uint32_t i = 0; i < sighting->process_count; i++) {
        const struct sighting_process *process = &sighting->process[i];
        if (counts_as_ours(process, present))
            continue;
        if (process->memory_bytes == UINT64_MAX)
            return 0; /* all of it may be theirs */
        left -= process->memory_bytes < left ? process->memory_bytes : left;
    }
    return left;
}

static bool is_ours_there(const struct sighting *sighting, bool present)
{
    for (uint32_t i = 0; i < sighting->process_count; i++)
        if (counts_as_ours(&sighting->process[i], present))
            return true;
    return false;
}

static void say_who(struct witness *witness, const struct sighting_process *process)
{
    snprintf(witness->who, sizeof witness->who, "%s (%u)", process->name[0] ? process->name : "a process",
             process->pid);
}

void witness_see(struct witness *witness, const struct sighting *sighting, bool present, bool working,
                 const char *ignore, int64_t now_ms)
{
    if (working)
        witness->worked_at_ms = now_ms;
    const bool rested =
        !working && (!witness->worked_at_ms || now_ms - witness->worked_at_ms >= SIGHTING_REST_MS);
    const bool busy = rested && sighting->utilisation_percent >= SIGHTING_BUSY_PERCENT;
    const bool used = !present && rested && sighting->memory_used > SIGHTING_MEMORY_BYTES;
    witness->busy_seen = busy ? witness->busy_seen + 1 : 0;
    witness->memory_seen = used ? witness->memory_seen + 1 : 0;
    witness->memory_free =
        !is_ours_there(sighting, present) && memory_left(sighting, present) <= SIGHTING_MEMORY_BYTES;
    witness->who[0] = '\0';
    const struct sighting_process *foreign = foreign_of(sighting, present, ignore);
    if (foreign) {
        witness->cause = OWNER_PROCESS;
        say_who(witness, foreign);
    } else if (witness->memory_seen >= 2) {
        witness->cause = OWNER_MEMORY;
    } else if (witness->busy_seen >= 2) {
        witness->cause = OWNER_UTILISATION;
    } else if (!used && !busy) {
        witness->cause = OWNER_NONE;
    }
}
