/* The trace: every event and output goes into a hash, the last ones per node are kept, and all are written if
 * asked. */
#include "node/sim/world.h"

#include <stdio.h>

static const char *const event_names[] = {
    [MESH_TICK] = "tick",
    [MESH_RECEIVED] = "received",
    [MESH_RECORD] = "record",
    [MESH_LINK_UP] = "link up",
    [MESH_LINK_DOWN] = "link down",
    [MESH_DEVICES] = "devices",
    [MESH_DRAIN] = "drain",
    [MESH_LEAVE] = "leave",
    [MESH_SUBMIT] = "submit",
    [MESH_RESTORE] = "restore",
    [MESH_CANCEL_JOB] = "cancel",
    [MESH_LOOKED_UP] = "looked up",
    [MESH_RAN] = "ran",
    [MESH_FORGET_JOB] = "forget",
    [MESH_JOB_IS_OVER] = "job is over",
    [MESH_RESTORE_JOURNAL] = "restore journal",
    [MESH_LOG_SENT] = "log sent",
    [MESH_JOURNAL_NEW] = "journal new",
    [MESH_FORGOT] = "forgot",
    [MESH_QUARANTINE] = "quarantine",
    [MESH_TRUST] = "trust",
};
static const char *const save_names[] = {
    [MESH_SAVE_INCARNATION] = "incarnation",
    [MESH_SAVE_RECORD] = "record",
    [MESH_SAVE_JOB] = "job",
    [MESH_SAVE_COMMIT] = "commit",
    [MESH_SAVE_JOB_STATE] = "job state",
    [MESH_SAVE_ENTRY] = "entry",
    [MESH_SAVE_PROMISE] = "promise",
    [MESH_SAVE_STORAGE] = "storage",
    [MESH_SAVE_QUARANTINE] = "quarantine",
    [MESH_SAVE_DISPUTE] = "dispute",
};
static const char *const effect_names[] = {
    [MESH_DROP] = "drop",
    [MESH_SIGN] = "sign",
    [MESH_LINK_KEEP] = "keep link",
    [MESH_LINK_RELEASE] = "release link",
    [MESH_LINK_REDIAL] = "redial",
    [MESH_ADMIT] = "admit",
    [MESH_BAR] = "bar",
    [MESH_MEMBER] = "member",
    [MESH_CLONED] = "cloned",
    [MESH_LOOKUP] = "lookup",
    [MESH_RUN] = "run",
    [MESH_STOP] = "stop",
    [MESH_JOB] = "job",
    [MESH_QUARANTINED] = "quarantined",
    [MESH_DISPUTED] = "disputed",
    [MESH_DECISION] = "decision",
    [MESH_ECHOED] = "echoed",
    [MESH_DRAINED] = "drained",
    [MESH_TAKE_OVER] = "take over",
    [MESH_SEND_LOG] = "send log",
    [MESH_JOURNAL_OVER] = "journal over",
    [MESH_JOURNAL_ASKED] = "journal asked",
};
static const char *const life_names[] = {
    [LIFE_STARTS] = "starts",
    [LIFE_CRASHES] = "crashes",
    [LIFE_DIES_SILENTLY] = "dies silently",
    [LIFE_DONE] = "is done",
};
static const char *const member_states[] = {
    [MESH_UP] = "up",     [MESH_SUSPECT] = "suspect", [MESH_DOWN] = "down",
    [MESH_LEFT] = "left", [MESH_REVOKED] = "revoked",
};
static const char *const job_states[] = {
    [MESH_JOB_RUNNING] = "running",     [MESH_JOB_DONE] = "done",   [MESH_JOB_FAILED] = "failed",
    [MESH_JOB_CANCELLED] = "cancelled", [MESH_JOB_MOVED] = "moved",
};

#define NAME(table, index)                                                                                   \
    ((index) < sizeof(table) / sizeof *(table) && (table)[index] != NULL ? (table)[index] : "?")

const char *sim_trace_state(enum mesh_member_state state)
{
    return NAME(member_states, (size_t)state);
}

const char *sim_trace_effect(uint32_t kind)
{
    return NAME(effect_names, kind);
}

const char *sim_trace_job_state(enum mesh_job_state state)
{
    return NAME(job_states, (size_t)state);
}

static int format_effect(const struct trace_line *line, char *text, size_t room)
{
    const uint32_t high = (uint32_t)(line->a >> 32);
    const uint32_t low = (uint32_t)line->a;
    const char *const name = NAME(effect_names, line->kind);
    switch (line->kind) {
    case MESH_MEMBER:
        return snprintf(text, room, "effect member %s, incarnation %u", NAME(member_states, high), low);
    case MESH_JOB:
        return snprintf(text, room, "effect job %u %s", high, NAME(job_states, low));
    case MESH_RUN:
        return snprintf(text, room, "effect run job %u, %u shards, for", high, low);
    case MESH_DECISION:
        return snprintf(text, room, "effect decision job %u, why %u, count %u", high, low >> 16,
                        low & 0xffff);
    case MESH_TAKE_OVER:
    case MESH_SEND_LOG:
    case MESH_JOURNAL_OVER:
    case MESH_JOURNAL_ASKED:
        return snprintf(text, room, "effect %s of job %u, %u", name, high, low);
    case MESH_SIGN:
        return snprintf(text, room, "effect sign record kind %u, version %u", high, low);
    default:
        return snprintf(text, room, "effect %s %llu", name, (unsigned long long)line->a);
    }
}

static void format_message(const struct world *world, const struct trace_line *line, char *text, size_t room)
{
    static const char *const records[] = {"?", "member", "capacity", "alert", "revocation"};
    const bool sent = line->what == TRACE_SENT;
    int used = snprintf(text, room, "%s %s", sent ? "sent" : "received",
                        mesh_message_name((enum mesh_message_kind)line->kind));
    if (line->kind == MESH_PUSH || line->kind == MESH_SPREAD) {
        const uint32_t origin = (uint32_t)(line->b >> 40) & 0xffff;
        used += snprintf(text + used, room - (size_t)used, " of %s by %s, version %u.%u",
                         NAME(records, line->b >> 56),
                         origin < world->host_count ? world->host[origin].name : "the authority",
                         (unsigned)(line->b >> 24) & 0xffff, (unsigned)line->b & 0xffffff);
    }
    if (line->kind == MESH_APPEND || line->kind == MESH_APPENDED) {
        used += snprintf(text + used, room - (size_t)used, " job %u entry %u%s", (unsigned)(line->b >> 32),
                         (unsigned)line->b & 0x7fffffff, (line->b >> 31 & 1) != 0 ? " held" : "");
    }
    snprintf(text + used, room - (size_t)used, " (%u B) %s", (unsigned)line->a, sent ? "to" : "from");
}

void sim_trace_format(const struct world *world, const struct host *host, const struct trace_line *line,
                      char *text, size_t room)
{
    char detail[120] = "";
    switch ((enum trace_what)line->what) {
    case TRACE_EVENT:
        snprintf(detail, sizeof detail, "event %s", NAME(event_names, line->kind));
        break;
    case TRACE_RECEIVED:
    case TRACE_SENT:
        format_message(world, line, detail, sizeof detail);
        break;
    case TRACE_SAVE:
        snprintf(detail, sizeof detail, "save %s %u/%u, entry %u.%u", NAME(save_names, line->kind),
                 (unsigned)(line->a >> 32), (unsigned)line->a, (unsigned)(line->b >> 32), (unsigned)line->b);
        break;
    case TRACE_EFFECT:
        format_effect(line, detail, sizeof detail);
        break;
    case TRACE_FAULT:
        snprintf(detail, sizeof detail, "fault: %s", sim_fault_name(line->kind));
        break;
    case TRACE_LIFE:
        snprintf(detail, sizeof detail, "%s, incarnation %u", NAME(life_names, line->kind),
                 (unsigned)line->a);
        break;
    }
    snprintf(text, room, "%5lld.%06lld  %-4s %s%s%s", (long long)(line->at_us / SECOND_US),
             (long long)(line->at_us % SECOND_US), host->name, detail, line->peer != SIM_NONE ? " " : "",
             line->peer != SIM_NONE ? world->host[line->peer].name : "");
}

void sim_trace(struct world *world, struct host *host, enum trace_what what, uint32_t kind, uint32_t peer,
               uint64_t a, uint64_t b)
{
    const struct trace_line line = {
        .at_us = world->now_us, .what = (uint8_t)what, .kind = (uint8_t)kind, .peer = peer, .a = a, .b = b};
    const uint64_t words[] = {(uint64_t)world->now_us, (uint64_t)host->index << 32 | peer,
                              (uint64_t)what << 32 | kind, a, b};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        world->hash = (world->hash ^ words[i]) * UINT64_C(0x100000001b3);
        world->hash ^= world->hash >> 29;
    }
    host->line[host->lines++ & (world->trace_lines - 1)] = line;
    if (world->options.trace != NULL) {
        char text[200];
        sim_trace_format(world, host, &line, text, sizeof text);
        fprintf(world->options.trace, "%s\n", text);
    }
}
