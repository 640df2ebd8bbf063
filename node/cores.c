#include "node/cores.h"

#include "node/process.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHILDREN_MAX 512

uint32_t cores_see(struct cores *cores, const struct cores_look *look, uint32_t ticks_per_s, uint32_t online)
{
    if (cores->count == CORES_LOOKS + 1) {
        memmove(&cores->look[0], &cores->look[1], CORES_LOOKS * sizeof cores->look[0]);
        cores->count--;
    }
    cores->look[cores->count++] = *look;
    const struct cores_look *first = &cores->look[0];
    const int64_t span_ms = look->at_ms - first->at_ms;
    if (cores->count <= CORES_LOOKS || span_ms <= 0 || look->busy < first->busy || look->own < first->own)
        return online;
    const uint64_t busy = look->busy - first->busy, own = look->own - first->own;
    const uint64_t others = busy > own ? busy - own : 0;
    cores->others_permille = (uint32_t)(others * 1000 * 1000 / ticks_per_s / (uint64_t)span_ms);
    const uint32_t used = (cores->others_permille + 999 - CORES_SPARE_PERMILLE) / 1000;
    return used < online ? online - used : 0;
}

/* ---- Reading */

/* User and system time of a process, and of its children that have ended. */
static bool add_process(int pid, uint64_t *ticks)
{
    char text[PROCESS_STAT_BYTES];
    const char *const stat = process_stat(pid, text);
    unsigned long long user, system;
    long long user_ended, system_ended;
    if (!stat || sscanf(stat, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld", &user,
                        &system, &user_ended, &system_ended) != 4)
        return false;
    *ticks += user + system + (uint64_t)user_ended + (uint64_t)system_ended;
    return true;
}

/* This process and all below it. */
static void add_family(uint64_t *ticks)
{
    int family[CHILDREN_MAX] = {(int)getpid()};
    for (int at = 0, count = 1; at < count; at++) {
        char path[64];
        add_process(family[at], ticks);
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", family[at], family[at]);
        FILE *file = fopen(path, "re");
        while (file && count < CHILDREN_MAX && fscanf(file, "%d", &family[count]) == 1)
            count++;
        if (file)
            fclose(file);
    }
}

bool cores_read(struct cores_look *look, uint32_t *online)
{
    cpu_set_t allowed;
    FILE *file = fopen("/proc/stat", "re");
    if (!file || sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        if (file)
            fclose(file);
        return false;
    }
    char line[512];
    *online = 0;
    look->busy = look->own = 0;
    while (fgets(line, sizeof line, file)) {
        unsigned core;
        unsigned long long user, nice, system, idle, wait, irq, soft_irq;
        if (sscanf(line, "cpu%u %llu %llu %llu %llu %llu %llu %llu", &core, &user, &nice, &system, &idle,
                   &wait, &irq, &soft_irq) != 8 ||
            core >= CPU_SETSIZE || !CPU_ISSET(core, &allowed))
            continue;
        look->busy += user + nice + system + irq + soft_irq;
        ++*online;
    }
    fclose(file);
    add_family(&look->own);
    return *online > 0;
}
