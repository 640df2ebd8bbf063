/*
 * A run's faults in words, so that they can be read, cut down and played again:
 *
 *     run seed 7 nodes 12 minutes 10 jobs 100 site-nodes 3
 *     network adversarial loss 13 double 30 reorder 100 corrupt 5
 *     at 43.120004s pause n4 for 12.5s
 *     at 61s partition n0 for 20s size 2 draw 2894061721
 *
 * `network` is `faithful` or `adversarial`, its figures are per mille of the messages; `join through n0` lets everybody
 * join through the first node at once. Times never go back. `for`, `size` and `draw` are zero where they are left out.
 */
#include "node/sim/faults.h"
#include "node/sim/world.h"

#include <stdio.h>

#define WORDS_MAX 16

static void write_time(FILE *out, int64_t us)
{
    fprintf(out, "%lld", (long long)(us / SECOND_US));
    int64_t rest = us % SECOND_US;
    for (int64_t unit = SECOND_US / 10; rest != 0; rest %= unit, unit /= 10) {
        fprintf(out, "%s%lld", unit == SECOND_US / 10 ? "." : "", (long long)(rest / unit));
    }
    fputs("s", out);
}

static void write_fault(FILE *out, const struct sim_fault *fault)
{
    fputs("at ", out);
    write_time(out, fault->at_us);
    fprintf(out, " %s n%u", sim_fault_info(fault->kind)->name, fault->node);
    if (fault->for_us != 0) {
        fputs(" for ", out);
        write_time(out, fault->for_us);
    }
    if (fault->size != 0) {
        fprintf(out, " size %d", fault->size);
    }
    if (fault->draw != 0) {
        fprintf(out, " draw %llu", (unsigned long long)fault->draw);
    }
    fputs("\n", out);
}

void sim_script_write(FILE *out, const struct sim_options *options, const struct sim_plan *plan)
{
    fprintf(out, "run seed %llu nodes %u minutes %u jobs %u site-nodes %u\n",
            (unsigned long long)options->seed, options->nodes, options->minutes, options->jobs,
            options->site_nodes);
    fprintf(out, "network %s loss %u double %u reorder %u corrupt %u\n",
            plan->adversarial ? "adversarial" : "faithful", plan->loss_permille, plan->double_permille,
            plan->reorder_permille, plan->corrupt_permille);
    if (plan->through_one) {
        fputs("join through n0\n", out);
    }
    for (uint32_t i = 0; i < plan->count; i++) {
        write_fault(out, &plan->fault[i]);
    }
}

/* ---- Reading. */

struct reader {
    const char *path;
    uint32_t line;
    struct sim_options *options;
    struct sim_plan *plan;
    struct sim_result *result;
    bool run; /* the run's line was there */
    char *word[WORDS_MAX];
    uint32_t count;
};

static bool mistake(struct reader *reader, const char *what, const char *word)
{
    return sim_mistake(reader->result, reader->path, reader->line, what, word);
}

static bool read_number(const char *word, int64_t least, int64_t most, int64_t *value)
{
    char *end = NULL;
    const long long number = strtoll(word, &end, 10);
    if (end == word || *end != 0 || number < least || number > most) {
        return false;
    }
    *value = number;
    return true;
}

/* Reads `name value` pairs from `word` on; every name must be one of `names`, and each value in its bounds. */
struct pair {
    const char *name;
    int64_t least;
    int64_t most;
    int64_t *to;
};

static bool read_pairs(struct reader *reader, uint32_t from, const struct pair *pair, size_t pairs)
{
    for (uint32_t i = from; i < reader->count; i += 2) {
        size_t which = 0;
        while (which < pairs && strcmp(pair[which].name, reader->word[i]) != 0) {
            which++;
        }
        if (which == pairs) {
            return mistake(reader, "unknown word", reader->word[i]);
        }
        if (i + 1 == reader->count) {
            return mistake(reader, "a value is missing after", reader->word[i]);
        }
        const char *const value = reader->word[i + 1];
        const bool is_time = strcmp(pair[which].name, "for") == 0;
        if (is_time ? !sim_read_time(value, pair[which].to) || *pair[which].to < pair[which].least ||
                          *pair[which].to > pair[which].most
                    : !read_number(value, pair[which].least, pair[which].most, pair[which].to)) {
            return mistake(reader, "out of range:", value);
        }
    }
    return true;
}

static bool read_run(struct reader *reader)
{
    int64_t seed = 0;
    int64_t nodes = 0;
    int64_t minutes = reader->options->minutes;
    int64_t jobs = reader->options->jobs;
    int64_t site_nodes = 0;
    const struct pair pairs[] = {{"seed", 0, INT64_MAX, &seed},
                                 {"nodes", 1, SIM_NODES_MAX, &nodes},
                                 {"minutes", 1, 100000, &minutes},
                                 {"jobs", 0, 100000, &jobs},
                                 {"site-nodes", 1, SIM_NODES_MAX, &site_nodes}};
    if (!read_pairs(reader, 1, pairs, sizeof pairs / sizeof pairs[0])) {
        return false;
    }
    if (nodes == 0) {
        return mistake(reader, "it must be said how many nodes:", reader->word[0]);
    }
    site_nodes = site_nodes != 0 ? site_nodes : sim_site_nodes((uint32_t)nodes);
    if (!sim_sites_fit((uint32_t)nodes, (uint32_t)site_nodes)) {
        return mistake(reader, SIM_UNFIT_TEXT " at", reader->word[0]);
    }
    reader->options->seed = (uint64_t)seed;
    reader->options->nodes = (uint32_t)nodes;
    reader->options->minutes = (uint32_t)minutes;
    reader->options->jobs = (uint32_t)jobs;
    reader->options->site_nodes = (uint32_t)site_nodes;
    reader->run = true;
    return true;
}

static bool read_network(struct reader *reader)
{
    int64_t permille[4] = {0};
    const struct pair pairs[] = {{"loss", 0, 1000, &permille[0]},
                                 {"double", 0, 1000, &permille[1]},
                                 {"reorder", 0, 1000, &permille[2]},
                                 {"corrupt", 0, 1000, &permille[3]}};
    const char *const model = reader->count > 1 ? reader->word[1] : "";
    if (strcmp(model, "faithful") != 0 && strcmp(model, "adversarial") != 0) {
        return mistake(reader, "a network is faithful or adversarial, not", model);
    }
    if (!read_pairs(reader, 2, pairs, sizeof pairs / sizeof pairs[0])) {
        return false;
    }
    reader->plan->adversarial = strcmp(model, "adversarial") == 0;
    reader->plan->loss_permille = (uint32_t)permille[0];
    reader->plan->double_permille = (uint32_t)permille[1];
    reader->plan->reorder_permille = (uint32_t)permille[2];
    reader->plan->corrupt_permille = (uint32_t)permille[3];
    return true;
}

static bool find_kind(const char *word, enum sim_fault_kind *kind)
{
    for (uint32_t i = 0; i < SIM_FAULT_KIND_COUNT; i++) {
        if (strcmp(sim_fault_info((enum sim_fault_kind)i)->name, word) == 0) {
            *kind = (enum sim_fault_kind)i;
            return true;
        }
    }
    return false;
}

static bool read_fault(struct reader *reader)
{
    struct sim_plan *const plan = reader->plan;
    struct sim_fault fault = {0};
    if (!reader->run) {
        return mistake(reader, "the line 'run seed S nodes N' must come before", reader->word[0]);
    }
    if (reader->count < 4 || !sim_read_time(reader->word[1], &fault.at_us)) {
        return mistake(reader, "a fault is 'at TIME KIND NODE ...', not", reader->word[0]);
    }
    if (plan->count != 0 && fault.at_us < plan->fault[plan->count - 1].at_us) {
        return mistake(reader, "time goes back to", reader->word[1]);
    }
    if (!find_kind(reader->word[2], &fault.kind)) {
        return mistake(reader, "no such kind of fault:", reader->word[2]);
    }
    int64_t node = 0;
    if (reader->word[3][0] != 'n' ||
        !read_number(reader->word[3] + 1, 0, (int64_t)reader->options->nodes - 1, &node)) {
        return mistake(reader, "no such node:", reader->word[3]);
    }
    const struct sim_fault_kind_info *const info = sim_fault_info(fault.kind);
    int64_t size = 0;
    int64_t draw = 0;
    const struct pair pairs[] = {{"for", 0, info->most_us, &fault.for_us},
                                 {"size", info->size_least, info->size_most, &size},
                                 {"draw", 0, INT64_MAX, &draw}};
    if (!read_pairs(reader, 4, pairs, sizeof pairs / sizeof pairs[0])) {
        return false;
    }
    if (fault.for_us < info->least_us) {
        return mistake(reader, "this kind of fault lasts for longer:", reader->word[2]);
    }
    if (size < info->size_least) {
        return mistake(reader, "this kind of fault needs a size:", reader->word[2]);
    }
    if (plan->count == SIM_FAULTS_MAX) {
        return mistake(reader, "too many faults at", reader->word[2]);
    }
    fault.node = (uint32_t)node;
    fault.size = (int32_t)size;
    fault.draw = (uint64_t)draw;
    plan->fault = sim_grow(plan->fault, plan->count + 1, sizeof *plan->fault);
    plan->fault[plan->count++] = fault;
    return true;
}

static bool read_line(void *context, char *text, uint32_t number)
{
    struct reader *const reader = context;
    reader->line = number;
    text[strcspn(text, "#\r\n")] = 0;
    reader->count = 0;
    char *rest = NULL;
    for (char *part = strtok_r(text, " \t", &rest); part != NULL; part = strtok_r(NULL, " \t", &rest)) {
        if (reader->count == WORDS_MAX) {
            return mistake(reader, "too many words at", part);
        }
        reader->word[reader->count++] = part;
    }
    if (reader->count == 0) {
        return true;
    }
    if (strcmp(reader->word[0], "run") == 0) {
        return read_run(reader);
    }
    if (strcmp(reader->word[0], "network") == 0) {
        return read_network(reader);
    }
    if (strcmp(reader->word[0], "join") == 0) {
        reader->plan->through_one = true;
        return (reader->count == 3 && strcmp(reader->word[1], "through") == 0 &&
                strcmp(reader->word[2], "n0") == 0) ||
               mistake(reader, "only 'join through n0' is understood after", reader->word[0]);
    }
    if (strcmp(reader->word[0], "at") == 0) {
        return read_fault(reader);
    }
    return mistake(reader, "a line begins with 'run', 'network', 'join' or 'at', not with", reader->word[0]);
}

struct sim_plan *sim_script_read(const char *path, struct sim_options *options, struct sim_result *failure)
{
    struct reader reader = {
        .path = path, .options = options, .plan = sim_alloc(1, sizeof *reader.plan), .result = failure};
    bool fine = sim_read_lines(path, "script", failure, read_line, &reader);
    if (fine && !reader.run) {
        reader.line = reader.line != 0 ? reader.line : 1;
        fine = mistake(&reader, "no line 'run seed S nodes N' in", path);
    }
    if (!fine) {
        sim_plan_free(reader.plan);
        return NULL;
    }
    return reader.plan;
}
