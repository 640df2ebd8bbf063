/*
 * Transcripts: small stories with named nodes that say what happens and what is then expected.
 * tests/scenarios/README.md describes the language; the two tables below are all of it. Capital words in a
 * pattern stand for values.
 */
#include "node/sim/world.h"

#include <stdio.h>

#define WORDS_MAX 16
#define VALUES_MAX 6
#define NAMES_MAX 24
#define LINES_MAX 200

enum value_class {
    VALUE_NODE,
    VALUE_NEW,
    VALUE_JOB,
    VALUE_NEW_JOB,
    VALUE_TIME,
    VALUE_COUNT,
    VALUE_STATE,
    VALUE_END,
    VALUE_MESSAGE,
    VALUE_COUNTER,
    VALUE_WORD
};

static const char *const value_names[] = {"NODE",  "NEW",   "JOB", "NEWJOB",  "TIME",
                                          "COUNT", "STATE", "END", "MESSAGE", "COUNTER"};

enum verb {
    VERB_START,
    VERB_KILL,
    VERB_LOSE,
    VERB_RESTART,
    VERB_PAUSE,
    VERB_CUT,
    VERB_HEAL,
    VERB_SUBMIT,
    VERB_SUBMIT_KEPT,
    VERB_SUBMIT_SPOT,
    VERB_SUBMIT_KEPT_SPOT,
    VERB_SUBMIT_QUORUM,
    VERB_CANCEL,
    VERB_DRAIN,
    VERB_LEAVE,
    VERB_REVOKE,
    VERB_CLAIM,
    VERB_RETURN,
    VERB_CLONE,
    VERB_DEAFEN,
    VERB_SLOW,
    VERB_LIE,
    VERB_FORGIVE,
    VERB_END,
};

static const struct pattern {
    const char *words; /* "..." at the end takes one or more nodes */
    int verb;
} verbs[] = {
    {"start ...", VERB_START},
    {"kill NODE", VERB_KILL}, /* the process; its machine resets links */
    {"lose NODE", VERB_LOSE}, /* the machine; nothing is reset */
    {"restart NODE", VERB_RESTART},
    {"pause NODE for TIME", VERB_PAUSE},
    {"cut off ...", VERB_CUT},    /* these from all others */
    {"deafen NODE", VERB_DEAFEN}, /* nothing reaches it any more */
    {"heal", VERB_HEAL},
    {"submit NEWJOB at NODE shards COUNT of TIME", VERB_SUBMIT},
    {"submit NEWJOB at NODE shards COUNT of TIME copies COUNT", VERB_SUBMIT_KEPT},
    {"submit NEWJOB at NODE shards COUNT of TIME verify spot",
     VERB_SUBMIT_SPOT}, /* each result, or a fifth at least */
    {"submit NEWJOB at NODE shards COUNT of TIME copies COUNT verify spot", VERB_SUBMIT_KEPT_SPOT},
    {"submit NEWJOB at NODE shards COUNT of TIME verify quorum", VERB_SUBMIT_QUORUM},
    {"cancel JOB", VERB_CANCEL},
    {"drain NODE", VERB_DRAIN},
    {"leave NODE", VERB_LEAVE},
    {"revoke NODE", VERB_REVOKE},
    {"claim NODE", VERB_CLAIM},        /* its owner takes the devices */
    {"return NODE", VERB_RETURN},      /* and gives them back */
    {"clone NODE as NEW", VERB_CLONE}, /* a second process on a copy of its folder */
    {"slow NODE by COUNT", VERB_SLOW}, /* what its devices begin from now on takes so many times as long */
    {"lie NODE about COUNT",
     VERB_LIE}, /* so many of 1,000 results of its devices are wrong from now on; one node does */
    {"forgive NODE at NODE",
     VERB_FORGIVE}, /* an operator of the second lifts the first one's quarantine there */
    {"end", VERB_END},
};

enum expected {
    EXPECT_SEES,
    EXPECT_ALL_SEE,
    EXPECT_MESSAGE,
    EXPECT_JOB,
    EXPECT_RUNS,
    EXPECT_STOPS,
    EXPECT_DRAINED,
    EXPECT_COUNT,
    EXPECT_QUARANTINES,
};

static const struct pattern expectations[] = {
    {"everyone sees NODE STATE", EXPECT_ALL_SEE},
    {"NODE sees NODE STATE", EXPECT_SEES},
    {"message MESSAGE NODE -> NODE", EXPECT_MESSAGE},
    {"job JOB END", EXPECT_JOB},
    {"NODE runs JOB", EXPECT_RUNS},
    {"NODE stops", EXPECT_STOPS},
    {"NODE drained", EXPECT_DRAINED},
    {"COUNTER at NODE reaches COUNT", EXPECT_COUNT},
    {"NODE quarantines NODE", EXPECT_QUARANTINES},
};

struct line {
    uint32_t number; /* in the file */
    bool act;
    bool never;
    int what; /* enum verb or enum expected */
    int64_t from_us;
    int64_t until_us;
    int64_t value[VALUES_MAX];
    uint32_t node[NAMES_MAX]; /* of "..." */
    uint32_t node_count;
    bool met;
    char text[160];
};

struct story {
    const char *path;
    FILE *out;
    struct line line[LINES_MAX];
    uint32_t line_count;
    char name[NAMES_MAX][16];
    uint32_t name_count;
    char job[NAMES_MAX][16];
    uint32_t job_number[NAMES_MAX];
    uint32_t job_count;
    int64_t now_us; /* of the last line that was read */
    struct sim_result *result;
};

/* ---- Reading. */

bool sim_read_time(const char *word, int64_t *us)
{
    char *end = NULL;
    const unsigned long whole = strtoul(word, &end, 10);
    if (end == word || *word < '0' || *word > '9' || whole > 1000000) {
        return false;
    }
    int64_t fraction = 0;
    int64_t unit = SECOND_US;
    if (*end == '.') {
        int64_t tenth = SECOND_US / 10;
        for (end++; *end >= '0' && *end <= '9'; end++, tenth /= 10) {
            fraction += (*end - '0') * tenth;
        }
    }
    if (strcmp(end, "ms") == 0) {
        unit = SECOND_US / 1000;
    } else if (strcmp(end, "m") == 0) {
        unit = 60 * SECOND_US;
    } else if (strcmp(end, "s") != 0) {
        return false;
    }
    *us = (int64_t)whole * unit + fraction * unit / SECOND_US;
    return true;
}

static uint32_t find_name(char table[][16], uint32_t count, const char *word)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(table[i], word) == 0) {
            return i;
        }
    }
    return SIM_NONE;
}

/* Names stand in what is printed, and between spaces. */
static bool is_name(const char *word)
{
    const size_t length = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    return word[length] == 0 && length < 16;
}

/* Returns NULL, or what is wrong with the word. */
static const char *add_name(char table[][16], uint32_t *count, const char *word, int64_t *value)
{
    if (!is_name(word)) {
        return "a name is 1 to 15 letters, digits, - and _, not";
    }
    if (find_name(table, *count, word) != SIM_NONE) {
        return "the name is taken already:";
    }
    if (*count == NAMES_MAX) {
        return "too many names at";
    }
    *value = *count;
    snprintf(table[(*count)++], 16, "%s", word);
    return NULL;
}

static const char *const counter_names[] = {
#define COUNTER_NAME(name) #name,
    MESH_COUNTERS(COUNTER_NAME)
#undef COUNTER_NAME
};

static bool read_listed(const char *word, const char *(*name)(int), int least, int most, int64_t *value)
{
    for (int i = least; i <= most; i++) {
        if (strcmp(name(i), word) == 0) {
            *value = i;
            return true;
        }
    }
    return false;
}

static const char *name_state(int i)
{
    return sim_trace_state((enum mesh_member_state)i);
}

static const char *name_end(int i)
{
    return sim_trace_job_state((enum mesh_job_state)i);
}

static const char *name_message(int i)
{
    return mesh_message_name((enum mesh_message_kind)i);
}

static const char *name_counter(int i)
{
    return counter_names[i];
}

static bool read_count(const char *word, int64_t *value)
{
    char *end = NULL;
    *value = strtol(word, &end, 10);
    return *word >= '0' && *word <= '9' && *end == 0 && *value > 0 && *value <= 100000;
}

/* Returns NULL, or what is wrong with the word. */
static const char *read_value(struct story *story, enum value_class class, const char *word, int64_t *value)
{
    switch (class) {
    case VALUE_NODE:
        *value = find_name(story->name, story->name_count, word);
        return *value != SIM_NONE ? NULL : "no such node:";
    case VALUE_NEW:
        return add_name(story->name, &story->name_count, word, value);
    case VALUE_JOB:
        *value = find_name(story->job, story->job_count, word);
        return *value != SIM_NONE ? NULL : "no such job:";
    case VALUE_NEW_JOB:
        return add_name(story->job, &story->job_count, word, value);
    case VALUE_TIME:
        return sim_read_time(word, value) ? NULL : "not a time:";
    case VALUE_COUNT:
        return read_count(word, value) ? NULL : "not a number from 1 to 100000:";
    case VALUE_STATE:
        return read_listed(word, name_state, MESH_UP, MESH_REVOKED, value) ? NULL
                                                                           : "no such state of a node:";
    case VALUE_END:
        return read_listed(word, name_end, MESH_JOB_RUNNING, MESH_JOB_CANCELLED, value)
                   ? NULL
                   : "no such state of a job:";
    case VALUE_MESSAGE:
        return read_listed(word, name_message, MESH_PING, MESH_MESSAGE_KINDS - 1, value)
                   ? NULL
                   : "no such kind of message:";
    case VALUE_COUNTER:
        return read_listed(word, name_counter, 0, (int)(sizeof counter_names / sizeof *counter_names) - 1,
                           value)
                   ? NULL
                   : "no such counter:";
    case VALUE_WORD:
        break;
    }
    return "no such word:";
}

static enum value_class class_of(const char *word)
{
    for (size_t i = 0; i < sizeof value_names / sizeof value_names[0]; i++) {
        if (strcmp(value_names[i], word) == 0) {
            return (enum value_class)i;
        }
    }
    return VALUE_WORD;
}

/* Whether the words have the pattern's shape: its own words in their places, and as many in all. */
static bool has_shape(const char *pattern, char **word, uint32_t count)
{
    char copy[100];
    snprintf(copy, sizeof copy, "%s", pattern);
    uint32_t at = 0;
    char *rest = NULL;
    for (char *part = strtok_r(copy, " ", &rest); part != NULL; part = strtok_r(NULL, " ", &rest), at++) {
        if (strcmp(part, "...") == 0) {
            return at < count;
        }
        if (at >= count || (class_of(part) == VALUE_WORD && strcmp(part, word[at]) != 0)) {
            return false;
        }
    }
    return at == count;
}

/* The nodes that stand for "...". Those that start are new: who ran before is restarted. */
static bool read_nodes(struct story *story, struct line *line, char **word, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        int64_t node = find_name(story->name, story->name_count, word[i]);
        const char *wrong = node == SIM_NONE ? "no such node:" : NULL;
        if (line->what == VERB_START) {
            wrong = node == SIM_NONE ? add_name(story->name, &story->name_count, word[i], &node)
                                     : "it was started before ('restart' starts it again):";
        }
        if (wrong != NULL) {
            return sim_mistake(story->result, story->path, line->number, wrong, word[i]);
        }
        line->node[line->node_count++] = (uint32_t)node;
    }
    return true;
}

static bool read_values(struct story *story, struct line *line, const char *pattern, char **word,
                        uint32_t count)
{
    char copy[100];
    snprintf(copy, sizeof copy, "%s", pattern);
    uint32_t at = 0;
    uint32_t values = 0;
    char *rest = NULL;
    for (char *part = strtok_r(copy, " ", &rest); part != NULL; part = strtok_r(NULL, " ", &rest), at++) {
        const enum value_class class = class_of(part);
        if (strcmp(part, "...") == 0) {
            return read_nodes(story, line, word + at, count - at);
        }
        const char *const wrong =
            class != VALUE_WORD ? read_value(story, class, word[at], &line->value[values++]) : NULL;
        if (wrong != NULL) {
            return sim_mistake(story->result, story->path, line->number, wrong, word[at]);
        }
    }
    return true;
}

/* A verb that there is, with other words than it takes, is told what it takes. */
static bool wrong_verb(const struct story *story, uint32_t number, const char *verb)
{
    const size_t length = strlen(verb);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strncmp(verbs[i].words, verb, length) == 0 &&
            (verbs[i].words[length] == ' ' || verbs[i].words[length] == 0)) {
            return sim_mistake(story->result, story->path, number, "wrong words: it is", verbs[i].words);
        }
    }
    return sim_mistake(story->result, story->path, number, "unknown verb", verb);
}

static bool read_pattern(struct story *story, struct line *line, const struct pattern *table, size_t size,
                         char **word, uint32_t count)
{
    for (size_t i = 0; i < size; i++) {
        if (has_shape(table[i].words, word, count)) {
            line->what = table[i].verb;
            return read_values(story, line, table[i].words, word, count);
        }
    }
    return line->act
               ? wrong_verb(story, line->number, word[0])
               : sim_mistake(story->result, story->path, line->number, "unknown expectation at", word[0]);
}

static bool read_line(void *context, char *text, uint32_t number)
{
    struct story *const story = context;
    char *const comment = strchr(text, '#');
    if (comment != NULL) {
        *comment = 0;
    }
    text[strcspn(text, "\r\n")] = 0;
    struct line *const line = &story->line[story->line_count];
    *line = (struct line){.number = number};
    snprintf(line->text, sizeof line->text, "%s", text + strspn(text, " "));
    sim_make_printable(line->text);
    char *word[WORDS_MAX];
    uint32_t count = 0;
    char *rest = NULL;
    for (char *part = strtok_r(text, " \t", &rest); part != NULL; part = strtok_r(NULL, " \t", &rest)) {
        if (count == WORDS_MAX) {
            return sim_mistake(story->result, story->path, number, "too many words at", part);
        }
        word[count++] = part;
    }
    if (count == 0) {
        return true;
    }
    if (story->line_count + 1 == LINES_MAX) {
        return sim_mistake(story->result, story->path, number, "too many lines at", word[0]);
    }
    story->line_count++;
    if (strcmp(word[0], "at") == 0 && count >= 3) {
        line->act = true;
        if (!sim_read_time(word[1], &line->from_us)) {
            return sim_mistake(story->result, story->path, number, "not a time:", word[1]);
        }
        if (line->from_us < story->now_us) {
            return sim_mistake(story->result, story->path, number, "time goes back to", word[1]);
        }
        story->now_us = line->from_us;
        return read_pattern(story, line, verbs, sizeof verbs / sizeof verbs[0], word + 2, count - 2);
    }
    const bool within = count >= 4 && strcmp(word[1], "within") == 0;
    line->never = count >= 5 && strcmp(word[1], "never") == 0 && strcmp(word[2], "for") == 0;
    if (strcmp(word[0], "expect") != 0 || (!within && !line->never)) {
        return sim_mistake(
            story->result, story->path, number,
            "a line begins with 'at TIME', 'expect within TIME' or 'expect never for TIME', not with",
            word[0]);
    }
    const uint32_t skip = within ? 3 : 4;
    if (!sim_read_time(word[skip - 1], &line->until_us)) {
        return sim_mistake(story->result, story->path, number, "not a time:", word[skip - 1]);
    }
    line->from_us = story->now_us;
    line->until_us += story->now_us;
    return read_pattern(story, line, expectations, sizeof expectations / sizeof expectations[0], word + skip,
                        count - skip);
}

static bool read_story(struct story *story)
{
    if (!sim_read_lines(story->path, "scenario", story->result, read_line, story)) {
        return false;
    }
    return story->line_count != 0 || sim_mistake(story->result, story->path, 1, "no story in", story->path);
}

/* ---- Playing. */

static void tell(const struct world *world, const char *mark, const char *text)
{
    if (world->story->out != NULL) {
        fprintf(world->story->out, "%6lld.%03lld s  %s%s\n", (long long)(world->now_us / SECOND_US),
                (long long)(world->now_us % SECOND_US / 1000), mark, text);
    }
}

static void act_start(struct world *world, const struct line *line)
{
    for (uint32_t i = 0; i < line->node_count; i++) {
        sim_host_start(world, &world->host[line->node[i]]);
    }
}

static void act_cut(struct world *world, const struct line *line)
{
    for (uint32_t i = 0; i < line->node_count; i++) {
        world->host[line->node[i]].group = 1;
    }
}

static void act_heal(struct world *world)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        world->host[i].group = 0;
        world->host[i].deaf = false;
    }
    sim_network_changed(world);
}

static void act_submit(struct world *world, const struct line *line)
{
    const uint32_t number = sim_world_new_job(world);
    struct sim_job *const job = &world->job[number];
    world->story->job_number[line->value[0]] = number;
    free(job->crashes);
    job->spec.shard_count = (uint32_t)line->value[2];
    job->crashes = sim_alloc(job->spec.shard_count, 1);
    job->shard_us = (uint32_t)line->value[3];
    job->rejects = SIM_NONE;
    job->spec.shard_us_guess = job->shard_us;
    job->spec.kernel = 1;
    job->spec.bundle_shards_max = 4;
    job->spec.classes = 1;
    job->spec.lookup = false;
    const bool kept = line->what == VERB_SUBMIT_KEPT || line->what == VERB_SUBMIT_KEPT_SPOT;
    const bool spot = line->what == VERB_SUBMIT_SPOT || line->what == VERB_SUBMIT_KEPT_SPOT;
    job->spec.copies = kept ? (uint8_t)line->value[4] : 1;
    job->spec.verify = spot                               ? MESH_VERIFY_SPOT
                       : line->what == VERB_SUBMIT_QUORUM ? MESH_VERIFY_QUORUM
                                                          : MESH_VERIFY_NONE;
    job->spec.verify_permille = 200;
    job->spec.copies_min = 0;
    job->spec.local_only = false;
    job->spec.speculate = true;
    job->spec.price_limit_micro = 0;
    sim_host_submit(world, &world->host[line->value[1]], number);
}

static void act_revoke(struct world *world, struct host *subject)
{
    struct mesh_record record = {.kind = MESH_RECORD_REVOCATION,
                                 .origin = world->authority,
                                 .incarnation = 1,
                                 .version = ++world->revocations};
    record.body.revocation.subject = subject->id;
    subject->revoked = true;
    struct host *issuer = &world->host[0];
    if (issuer == subject) {
        issuer = &world->host[1];
    }
    sim_host_record(world, issuer, &issuer->id, sim_payload_of_record(&record));
}

static void act_clone(struct world *world, const struct line *line)
{
    const struct host *const original = &world->host[line->value[0]];
    struct host *const clone = &world->host[line->value[1]];
    world->doubles++;
    clone->identity = original->index;
    clone->id = original->id;
    sim_disk_copy_records(&clone->disk, &original->disk);
    sim_host_start(world, clone);
}

static void act_lend(struct world *world, struct host *host, bool lend)
{
    for (uint32_t i = 0; i < MESH_DEVICE_CLASSES; i++) {
        host->lent[i] = lend ? host->slots[i] : 0;
    }
    if (!lend) {
        host->lent_less_at_us = world->now_us;
    }
    sim_host_devices(world, host);
}

void sim_story_line(struct world *world, uint32_t number)
{
    const struct line *const line = &world->story->line[number];
    tell(world, "", line->text);
    struct host *const host = &world->host[line->value[0] < NAMES_MAX ? line->value[0] : 0];
    const bool needs_life = line->what == VERB_DRAIN || line->what == VERB_LEAVE ||
                            line->what == VERB_CLAIM || line->what == VERB_RETURN;
    if (needs_life && !host->alive) {
        sim_check_fail(world, host, SIM_STORY_HOLDS, "%s:%u: %s isn't running", world->story->path,
                       line->number, host->name);
        return;
    }
    switch ((enum verb)line->what) {
    case VERB_START:
        act_start(world, line);
        break;
    case VERB_KILL:
        sim_host_crash(world, host, false);
        break;
    case VERB_LOSE:
        sim_host_crash(world, host, true);
        break;
    case VERB_RESTART:
        sim_host_start(world, host);
        break;
    case VERB_PAUSE:
        host->paused_until_us = world->now_us + line->value[1];
        struct event resume = sim_world_event(world, line->value[1], HAPPEN_FAULT_END, SIM_NONE);
        resume.a = SIM_NONE;
        resume.b = host->index;
        sim_world_push(world, resume);
        break;
    case VERB_CUT:
        act_cut(world, line);
        break;
    case VERB_DEAFEN:
        host->deaf = true;
        break;
    case VERB_HEAL:
        act_heal(world);
        break;
    case VERB_SUBMIT:
    case VERB_SUBMIT_KEPT:
    case VERB_SUBMIT_SPOT:
    case VERB_SUBMIT_KEPT_SPOT:
    case VERB_SUBMIT_QUORUM:
        act_submit(world, line);
        break;
    case VERB_CANCEL:
        sim_host_cancel(world, &world->host[world->job[world->story->job_number[line->value[0]]].home],
                        world->story->job_number[line->value[0]]);
        break;
    case VERB_DRAIN:
        host->lent_less_at_us = world->now_us;
        host->draining = true;
        sim_host_simple(world, host, MESH_DRAIN);
        break;
    case VERB_LEAVE:
        host->leaving = true;
        sim_host_simple(world, host, MESH_LEAVE);
        break;
    case VERB_REVOKE:
        act_revoke(world, host);
        break;
    case VERB_CLAIM:
        act_lend(world, host, false);
        break;
    case VERB_RETURN:
        act_lend(world, host, true);
        break;
    case VERB_CLONE:
        act_clone(world, line);
        break;
    case VERB_SLOW:
        host->device_fault = DEVICE_SLOW;
        host->device_slowness = (uint32_t)line->value[1];
        break;
    case VERB_LIE:
        world->lying_site = host->site;
        host->device_fault = DEVICE_LIES;
        host->lie_permille = (uint32_t)line->value[1];
        break;
    case VERB_FORGIVE: {
        struct mesh_event event = {.kind = MESH_QUARANTINE};
        event.body.quarantine.id = host->id;
        sim_host_step(world, &world->host[line->value[1]], &event);
        break;
    }
    case VERB_END:
        break;
    }
}

static bool all_see(const struct world *world, uint32_t peer, enum mesh_member_state state)
{
    for (uint32_t i = 0; i < world->host_count; i++) {
        const struct host *const host = &world->host[i];
        if (host->alive && i != peer && !host->revoked && sim_known_see(&host->known, peer).state != state) {
            return false;
        }
    }
    return true;
}

static bool runs_job(const struct host *host, uint32_t job)
{
    for (uint32_t i = 0; i < host->attempt_count; i++) {
        if (host->attempt[i].used && host->attempt[i].started && host->attempt[i].job == job) {
            return true;
        }
    }
    return false;
}

static bool holds(const struct world *world, const struct line *line)
{
    const struct story *const story = world->story;
    const struct host *const host = &world->host[line->value[0] < NAMES_MAX ? line->value[0] : 0];
    switch ((enum expected)line->what) {
    case EXPECT_SEES:
        return host->alive && sim_known_see(&host->known, (uint32_t)line->value[1]).state ==
                                  (enum mesh_member_state)line->value[2];
    case EXPECT_ALL_SEE:
        return all_see(world, (uint32_t)line->value[0], (enum mesh_member_state)line->value[1]);
    case EXPECT_JOB:
        return world->job_count != 0 &&
               world->job[story->job_number[line->value[0]]].told == (enum mesh_job_state)line->value[1];
    case EXPECT_RUNS:
        return world->job_count != 0 && runs_job(host, story->job_number[line->value[1]]);
    case EXPECT_STOPS:
        return !host->alive && host->gone;
    case EXPECT_DRAINED:
        return host->drained;
    case EXPECT_COUNT: {
        const struct host *const at = &world->host[line->value[1]];
        uint64_t value = 0;
        if (at->alive) {
            memcpy(&value, (const char *)mesh_counters(at->mesh) + (size_t)line->value[0] * sizeof value,
                   sizeof value);
        }
        return value >= (uint64_t)line->value[2];
    }
    case EXPECT_QUARANTINES: {
        struct mesh_member_view view;
        return host->alive && mesh_member_find(host->mesh, &world->host[line->value[1]].id, &view) &&
               view.quarantined;
    }
    case EXPECT_MESSAGE:
        return false;
    }
    return false;
}

static void line_holds(struct world *world, struct line *line)
{
    if (line->never) {
        sim_check_fail(world, &world->host[0], SIM_STORY_HOLDS, "%s:%u: it happened: %s", world->story->path,
                       line->number, line->text);
        return;
    }
    line->met = true;
    tell(world, "    ", line->text);
}

void sim_story_look(struct world *world)
{
    for (uint32_t i = 0; i < world->story->line_count && !world->failed; i++) {
        struct line *const line = &world->story->line[i];
        if (line->act || line->met || world->now_us < line->from_us) {
            continue;
        }
        if (world->now_us <= line->until_us) {
            if (holds(world, line)) {
                line_holds(world, line);
            }
        } else if (!line->never) {
            sim_check_fail(world, &world->host[0], SIM_STORY_HOLDS, "%s:%u: it didn't happen: %s",
                           world->story->path, line->number, line->text);
        }
    }
}

void sim_story_message(struct world *world, uint32_t from, uint32_t to, enum mesh_message_kind kind)
{
    for (uint32_t i = 0; i < world->story->line_count && !world->failed; i++) {
        struct line *const line = &world->story->line[i];
        if (!line->act && !line->met && line->what == EXPECT_MESSAGE && world->now_us >= line->from_us &&
            world->now_us <= line->until_us && line->value[0] == (int64_t)kind && line->value[1] == from &&
            line->value[2] == to) {
            line_holds(world, line);
        }
    }
}

bool sim_scenario(const struct sim_options *options, const char *path, FILE *out, struct sim_result *result)
{
    *result = (struct sim_result){0};
    struct story *const story = sim_alloc(1, sizeof *story);
    story->path = path;
    story->result = result;
    if (!read_story(story)) {
        free(story);
        return false;
    }
    struct sim_options own = *options;
    own.nodes = story->name_count != 0 ? story->name_count : 1;
    own.check_every = 1;
    own.faults = 0;
    struct world world;
    sim_world_init(&world, &own, result);
    story->out = out;
    world.story = story;
    for (uint32_t i = 0; i < story->name_count; i++) {
        struct host *const host = sim_world_add_host(&world, story->name[i], i);
        host->slots[0] = 2;
        host->slots[1] = 0;
        memcpy(host->lent, host->slots, sizeof host->lent);
        host->site = sim_mix(1, i);
        host->limits = (struct mesh_limits){.members = 64,
                                            .jobs = 16,
                                            .shards = 4096,
                                            .bundles = 64,
                                            .attempts = 64,
                                            .demands = 16,
                                            .journals = 16,
                                            .waiters = 32};
    }
    world.end_us = 0;
    for (uint32_t i = 0; i < story->line_count; i++) {
        const struct line *const line = &story->line[i];
        if (line->act) {
            struct event event = sim_world_event(&world, line->from_us, HAPPEN_STORY, SIM_NONE);
            event.a = i;
            sim_world_push(&world, event);
        }
        const int64_t last_us = line->act ? line->from_us : line->until_us;
        world.end_us = last_us > world.end_us ? last_us : world.end_us;
    }
    world.heal_at_us = INT64_MAX;
    sim_world_loop(&world);
    world.now_us++;
    sim_story_look(&world);
    sim_world_finish(&world);
    free(story);
    return result->ok;
}
