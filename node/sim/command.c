/* `weir sim`: the options, many seeds in a row, and the report. */
#include "node/sim/world.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

struct command {
    struct sim_options options;
    uint32_t said; /* a bit for each of option_uses */
    uint32_t seeds;
    uint32_t minutes;    /* 0: not said */
    uint32_t site_nodes; /* as well */
    const char *scenario;
    const char *study;
    const char *script;
    const char *minimise;
    const char *plan;
    const char *trace;
    bool json;
    bool hash_only;
    bool coverage;
    uint32_t samples;
    struct study_bounds bounds;
    bool from_disks;
    char source[SIM_REPLAY_BYTES]; /* see struct sim_options */
    bool help;
    bool profiles; /* list them, and no more */
};

/* What is done: what a seed draws, or what the option of that name says; minimising goes with a script, too. */
enum { DRAWN = 1, SCRIPT = 2, MINIMISE = 4, SCENARIO = 8, STUDY = 16 };

/* What each option means something to. What means nothing is refused: it would be believed to have counted. */
static const struct {
    const char *name;
    uint32_t with;
} option_uses[] = {
    {"--nodes", DRAWN | MINIMISE | STUDY},
    {"--site-nodes", DRAWN | MINIMISE | STUDY},
    {"--minutes", DRAWN | MINIMISE | STUDY},
    {"--seed", DRAWN | MINIMISE | SCENARIO | STUDY},
    {"--seeds", DRAWN | MINIMISE},
    {"--jobs", DRAWN | MINIMISE},
    {"--faults", DRAWN | MINIMISE},
    {"--plan", DRAWN | MINIMISE},
    {"--script", SCRIPT | MINIMISE},
    {"--minimise", SCRIPT | MINIMISE},
    {"--check-every", DRAWN | SCRIPT | MINIMISE},
    {"--scenario", SCENARIO},
    {"--study", STUDY},
    {"--samples", STUDY},
    {"--from-disks", STUDY},
    {"--at-most", STUDY},
    {"--at-least", STUDY},
    {"--trace", DRAWN | SCRIPT | SCENARIO},
    {"--coverage", DRAWN},
    {"--hash-only", DRAWN | SCRIPT | SCENARIO},
    {"--json", DRAWN | SCRIPT | STUDY},
};
#define OPTION_USES (sizeof option_uses / sizeof option_uses[0])

static const char help_text[] =
    "usage: weir sim [OPTION...] | weir sim --scenario FILE | weir sim --study NAME\n"
    "Runs the protocol of many nodes with virtual clock, network, disks and devices,\n"
    "under faults drawn from a seed, and checks what must hold. Same seed, same hash.\n"
    "  --nodes N        nodes (drawn from the seed, 3 to 60)\n"
    "  --site-nodes N   nodes in each site (3; 100 where there are more than 2,000)\n"
    "  --minutes M      virtual minutes (10); faults stop after two thirds, and calm\n"
    "                   follows for 200 s at least, 2 s per job where these are more\n"
    "  --seed S         the first seed (1); --seeds COUNT: how many (1)\n"
    "  --jobs N         jobs submitted (100)\n"
    "  --faults P[:N]   fault profile and how many faults (mixed:20); list tells them\n"
    "  --script FILE    exactly these faults, as --plan and --minimise write them\n"
    "  --plan FILE      write the faults that the seed draws, before the run\n"
    "  --minimise FILE  when a run fails, write the fewest faults that make it fail\n"
    "  --scenario FILE  play a transcript instead, see tests/scenarios/\n"
    "  --study NAME,... measure over --nodes, --seed, --minutes; list tells what\n"
    "  --samples N      a study takes so many at most (origins, deaths)\n"
    "  --at-most FIGURE=N,... a study fails if a figure is above, --at-least: below\n"
    "  --from-disks     a study begins with all nodes starting, not laid out\n"
    "  --trace FILE     write every event in words\n"
    "  --check-every N  steps between full checks of a core (by size)\n"
    "  --coverage       fail too if what must happen never did over all seeds\n"
    "  --hash-only, --json  print only seeds and hashes, or the report as JSON\n"
    "example: weir sim --nodes 50 --seed 7 --faults partition:30\n";

/* Counters that a run of many seeds must have moved; otherwise the faults no longer reach what they are meant
 * to. */
/* clang-format off: it lays these lists out anew each time */
#define COVERED_CORE(X)                                                                                      \
    X(records_new)                                                                                           \
    X(records_old)                                                                                           \
    X(alerts_sent)                                                                                           \
    X(alerts_withheld)                                                                                       \
    X(suspects)                                                                                              \
    X(downs)                                                                                                 \
    X(refutations)                                                                                           \
    X(resurrections)                                                                                         \
    X(retries_down)                                                                                          \
    X(summaries)                                                                                             \
    X(repairs)                                                                                               \
    X(reserves)                                                                                              \
    X(grants)                                                                                                \
    X(grants_expired)                                                                                        \
    X(grants_released)                                                                                       \
    X(waits)                                                                                                 \
    X(assigns)                                                                                               \
    X(assigns_expired)                                                                                       \
    X(results)                                                                                               \
    X(results_stale)                                                                                         \
    X(results_duplicate)                                                                                     \
    X(commits)                                                                                               \
    X(cache_hits)                                                                                            \
    X(requeued_down)                                                                                         \
    X(requeued_restart)                                                                                      \
    X(requeued_expired)                                                                                      \
    X(requeued_lease)                                                                                        \
    X(requeued_returned)                                                                                     \
    X(requeued_crashed)                                                                                      \
    X(leases_lost)                                                                                           \
    X(copies)                                                                                                \
    X(copies_first)                                                                                          \
    X(copies_late)                                                                                           \
    X(copies_needed)                                                                                         \
    X(overtaken)                                                                                             \
    X(entries_resent)                                                                                        \
    X(entries_fenced)                                                                                        \
    X(entries_void)                                                                                          \
    X(elections)                                                                                             \
    X(votes)                                                                                                 \
    X(takeovers)                                                                                             \
    X(step_downs)                                                                                            \
    X(adoptions)                                                                                             \
    X(handovers)                                                                                             \
    X(changes)                                                                                               \
    X(stalls)                                                                                                \
    X(unheard)                                                                                               \
    X(cancels)                                                                                               \
    X(bound_demands)                                                                                         \
    X(bound_attempts)                                                                                        \
    X(bound_bundles)                                                                                         \
    X(bound_jobs)                                                                                            \
    X(bound_shards)                                                                                          \
    X(bound_out)
#define COVERED_WORLD(X)                                                                                     \
    X(crashes)                                                                                               \
    X(boundary_crashes)                                                                                      \
    X(silent_deaths)                                                                                         \
    X(restarts)                                                                                              \
    X(sites_lost)                                                                                            \
    X(tangles)                                                                                               \
    X(bandwidth_caps)                                                                                        \
    X(shut_outs)                                                                                             \
    X(replays)                                                                                               \
    X(clones)                                                                                                \
    X(liars)                                                                                                 \
    X(slow_devices)                                                                                          \
    X(lying_sites)                                                                                           \
    X(stuck_devices)                                                                                         \
    X(garbled_devices)                                                                                       \
    X(full_disks)                                                                                            \
    X(failed_syncs)                                                                                          \
    X(rotten_disks)                                                                                          \
    X(wiped_disks)                                                                                           \
    X(rollbacks)                                                                                             \
    X(saves_torn)                                                                                            \
    X(saves_stalled)                                                                                         \
    X(rows_rotten)                                                                                           \
    X(promises)                                                                                              \
    X(promises_unheard)                                                                                      \
    X(votes_refused)                                                                                         \
    X(tails_cut)                                                                                             \
    X(logs_sent)                                                                                             \
    X(logs_cut_short)                                                                                        \
    X(journals_restored)                                                                                     \
    X(journals_over)                                                                                         \
    X(jobs_restored)                                                                                         \
    X(jobs_forgone)                                                                                          \
    X(messages_corrupted)                                                                                    \
    X(messages_overflowed)                                                                                   \
    X(messages_replayed)                                                                                     \
    X(losses)                                                                                                \
    X(restarts_of_all)                                                                                       \
    X(pauses)                                                                                                \
    X(partitions)                                                                                            \
    X(one_ways)                                                                                              \
    X(flaps)                                                                                                 \
    X(delay_spikes)                                                                                          \
    X(clock_drifts)                                                                                          \
    X(wall_jumps)                                                                                            \
    X(link_resets)                                                                                           \
    X(drains)                                                                                                \
    X(leaves)                                                                                                \
    X(owner_claims)                                                                                          \
    X(revocations)                                                                                           \
    X(cancelled)                                                                                             \
    X(bad_devices)                                                                                           \
    X(slow_disks)                                                                                            \
    X(saves_lost)                                                                                            \
    X(saves_unsent)                                                                                          \
    X(messages_lost)                                                                                         \
    X(messages_doubled)                                                                                      \
    X(messages_reordered)                                                                                    \
    X(older_programs)                                                                                        \
    X(older_links)                                                                                           \
    X(messages_refused)                                                                                      \
    X(jobs_accepted)                                                                                         \
    X(jobs_refused)                                                                                          \
    X(jobs_done)                                                                                             \
    X(jobs_failed)                                                                                           \
    X(jobs_cancelled)                                                                                        \
    X(jobs_restored)                                                                                         \
    X(stops)

/* What ends the process in the middle of a run, an assertion of the core above all: say first which run it was. */
static struct sim_options under_way;
static bool under_way_json;

static void print_json_words(FILE *out, const char *words)
{
    for (; *words != 0; words++) {
        const unsigned char byte = (unsigned char)*words;
        fprintf(out, byte < ' ' ? "\\u%04x" : byte == '"' || byte == '\\' ? "\\%c" : "%c", byte);
    }
}

static void print_json_failed(FILE *out, const struct sim_options *options, const char *claim)
{
    char command[SIM_REPLAY_BYTES];
    sim_replay(options, command);
    fprintf(out, "\"failed\": {\"seed\": %llu, \"claim\": \"", (unsigned long long)options->seed);
    print_json_words(out, claim);
    fputs("\", \"replay\": \"", out);
    print_json_words(out, command);
    fputs("\"}", out);
}

static void tell_stop(const char *why)
{
    static bool told;
    if (told || under_way.profile == NULL) {
        return; /* the word of a sanitizer, which ends by a signal; or nothing runs */
    }
    told = true;
    static char command[SIM_REPLAY_BYTES];
    sim_replay(&under_way, command);
    fprintf(stderr, "seed %llu: %s\nreplay: %s\n", (unsigned long long)under_way.seed, why, command);
    if (under_way_json) {
        printf("{\"ok\": false, ");
        print_json_failed(stdout, &under_way, why);
        printf("}\n");
    }
    fflush(stdout);
}

static void on_signal(int signal_number)
{
    static char why[64];
    snprintf(why, sizeof why, "the core stopped on signal %d", signal_number);
    tell_stop(why);
    _exit(1);
}

static void on_sanitizer(void)
{
    tell_stop("the core stopped on a sanitizer's word");
}

/* Where no sanitizer is linked there is none. */
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

/* What a sanitizer watches for stays with it: it tells more of bad memory than a signal does, and then calls back. */
static void watch_for_stops(bool json)
{
    under_way_json = json;
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(on_sanitizer);
    }
    static char stack[1 << 16];
    stack_t usual;
    if (sigaltstack(NULL, &usual) == 0 && (usual.ss_flags & SS_DISABLE) != 0) {
        const stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
        sigaltstack(&own, NULL); /* the usual one may be what has run out */
    }
    const int stops[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        struct sigaction usual_action;
        const struct sigaction ours = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
        if (sigaction(stops[i], NULL, &usual_action) == 0 && usual_action.sa_handler == SIG_DFL) {
            sigaction(stops[i], &ours, NULL);
        }
    }
}

#define APOSTROPHE '\''
#define QUOTED_APOSTROPHE "'\\''"

/* Adds a word of a command, in quotes where the shell would take it for something else. */
static void add_word(struct command *command, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+@%";
    char *to = command->source + strlen(command->source);
    char *const end = command->source + sizeof command->source - sizeof QUOTED_APOSTROPHE - 1;
    const bool quoted = *word == 0 || word[strspn(word, plain)] != 0;
    if (to != command->source && to < end) {
        *to++ = ' ';
    }
    if (quoted && to < end) {
        *to++ = '\'';
    }
    for (; *word != 0 && to < end; word++) {
        if (*word == APOSTROPHE) {
            to = stpcpy(to, QUOTED_APOSTROPHE);
        } else {
            *to++ = *word;
        }
    }
    strcpy(to, quoted ? "'" : "");
}

static void add_number(struct command *command, const char *option, uint64_t number)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    add_word(command, option);
    add_word(command, digits);
}

/* How a run that isn't drawn from its seed is played again. */
static void name_source(struct command *command, const char *option, const char *path)
{
    const struct sim_options *const options = &command->options;
    command->source[0] = 0;
    add_word(command, option);
    add_word(command, path);
    if (command->scenario != NULL) {
        add_number(command, "--seed", options->seed);
    } else if (options->check_every != 0) {
        add_number(command, "--check-every", options->check_every);
    }
    add_word(command, "--trace");
    add_word(command, "sim.trace");
    command->options.source = command->source;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *value)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long parsed = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 0 || errno != 0 || parsed > most) {
        return false;
    }
    *value = parsed;
    return true;
}

static int usage(const char *what, const char *value)
{
    fprintf(stderr, "weir: sim: %s%s%s; see weir sim --help\n", what, value != NULL ? ": " : "",
            value != NULL ? value : "");
    return 2;
}

static const char *find_profile(const char *text, size_t length)
{
    for (const struct sim_profile_name *known = sim_profiles; known->name != NULL; known++) {
        if (strlen(known->name) == length && memcmp(known->name, text, length) == 0) {
            return known->name;
        }
    }
    return NULL;
}

static int parse_faults(struct command *command, const char *text)
{
    const size_t length = strcspn(text, ":");
    const char *const profile = find_profile(text, length);
    uint64_t count = command->options.faults;
    if (profile == NULL) {
        return usage("no such fault profile", text);
    }
    if (text[length] == ':' && !parse_number(text + length + 1, SIM_FAULTS_MAX, &count)) {
        return usage("the faults after the profile are a number from 0 to 100000", text);
    }
    command->options.profile = profile;
    command->options.faults = (uint32_t)count;
    return 0;
}

/* Options with a number: name, bounds and where it goes. */
struct number_option {
    const char *name;
    uint64_t least;
    uint64_t most;
    uint32_t *to;
};

static int parse_numbered(struct command *command, const char *name, const char *value, bool *known)
{
    const struct number_option table[] = {
        {"--nodes", 1, SIM_NODES_MAX, &command->options.nodes},
        {"--site-nodes", 1, SIM_NODES_MAX, &command->site_nodes},
        {"--minutes", 1, 100000, &command->minutes},
        {"--seeds", 1, 1000000, &command->seeds},
        {"--samples", 1, 1000, &command->samples},
        {"--jobs", 0, 100000, &command->options.jobs},
        {"--check-every", 1, 1000000000, &command->options.check_every},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(name, table[i].name) != 0) {
            continue;
        }
        *known = true;
        uint64_t number = 0;
        if (value == NULL || !parse_number(value, table[i].most, &number) || number < table[i].least) {
            fprintf(stderr, "weir: sim: %s wants a number from %llu to %llu\n", name,
                    (unsigned long long)table[i].least, (unsigned long long)table[i].most);
            return 2;
        }
        *table[i].to = (uint32_t)number;
    }
    return 0;
}

static int parse_valued(struct command *command, const char *name, const char *value, bool *known)
{
    *known = true;
    if (strcmp(name, "--seed") == 0) {
        if (value == NULL || !parse_number(value, UINT64_MAX, &command->options.seed)) {
            return usage("--seed wants a number", value);
        }
    } else if (strcmp(name, "--faults") == 0) {
        command->profiles = value != NULL && strcmp(value, "list") == 0;
        if (value != NULL && !command->profiles) {
            return parse_faults(command, value);
        }
    } else if (strcmp(name, "--at-most") == 0 || strcmp(name, "--at-least") == 0) {
        if (value != NULL && !study_bounds_read(&command->bounds, value, strcmp(name, "--at-least") == 0)) {
            return usage("a bound is FIGURE=NUMBER, 32 of them at most", value);
        }
    } else if (strcmp(name, "--scenario") == 0) {
        command->scenario = value;
    } else if (strcmp(name, "--study") == 0) {
        command->study = value;
    } else if (strcmp(name, "--script") == 0) {
        command->script = value;
    } else if (strcmp(name, "--plan") == 0) {
        command->plan = value;
    } else if (strcmp(name, "--minimise") == 0) {
        command->minimise = value;
    } else if (strcmp(name, "--trace") == 0) {
        command->trace = value;
    } else {
        *known = false;
        return parse_numbered(command, name, value, known);
    }
    return value != NULL ? 0 : usage("a value is missing after", name);
}

static void note_said(struct command *command, const char *name)
{
    for (uint32_t i = 0; i < OPTION_USES; i++) {
        if (strcmp(option_uses[i].name, name) == 0) {
            command->said |= UINT32_C(1) << i;
        }
    }
}

/* Refuses options that mean nothing to what is done. */
static int refuse_mixed(const struct command *command)
{
    const struct {
        uint32_t with;
        const char *name;
        bool chosen;
    } modes[] = {{SCRIPT, "--script", command->script != NULL},
                 {MINIMISE, "--minimise", command->minimise != NULL},
                 {SCENARIO, "--scenario", command->scenario != NULL},
                 {STUDY, "--study", command->study != NULL}};
    bool drawn = true;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        drawn = drawn && !modes[i].chosen;
        for (uint32_t j = 0; modes[i].chosen && j < OPTION_USES; j++) {
            if ((command->said >> j & 1) != 0 && (option_uses[j].with & modes[i].with) == 0) {
                fprintf(stderr, "weir: sim: %s does not go with %s; see weir sim --help\n",
                        option_uses[j].name, modes[i].name);
                return 2;
            }
        }
    }
    for (uint32_t j = 0; drawn && j < OPTION_USES; j++) {
        if ((command->said >> j & 1) != 0 && (option_uses[j].with & DRAWN) == 0) {
            return usage("only for a --study", option_uses[j].name);
        }
    }
    if (command->json && command->hash_only) {
        return usage("--json does not go with --hash-only", NULL);
    }
    return command->plan != NULL && command->seeds > 1 ? usage("--plan writes the faults of one seed", NULL)
                                                       : 0;
}

static int parse(struct command *command, int argc, char **argv)
{
    struct {
        const char *name;
        bool *to;
    } const flags[] = {{"--json", &command->json},         {"--hash-only", &command->hash_only},
                       {"--coverage", &command->coverage}, {"--from-disks", &command->from_disks},
                       {"--help", &command->help},         {"-h", &command->help}};
    for (int i = 1; i < argc; i++) {
        bool known = false;
        note_said(command, argv[i]);
        for (size_t j = 0; j < sizeof flags / sizeof flags[0]; j++) {
            if (strcmp(argv[i], flags[j].name) == 0) {
                *flags[j].to = true;
                known = true;
            }
        }
        if (known) {
            continue;
        }
        const int code = parse_valued(command, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &known);
        if (code != 0) {
            return code;
        }
        if (!known) {
            return usage("unknown option", argv[i]);
        }
        i++;
    }
    return 0;
}

static void add_results(struct sim_result *sum, const struct sim_result *one)
{
#define ADD_CORE(name) sum->core.name += one->core.name;
#define ADD_WORLD(name) sum->world.name += one->world.name;
    MESH_COUNTERS(ADD_CORE)
    SIM_COUNTERS(ADD_WORLD)
    for (uint32_t i = 0; i < SIM_BOUNDARIES; i++) {
        sum->boundary[i] += one->boundary[i];
        sum->passed[i] += one->passed[i];
        sum->met[i] += one->passed[i] > 0;
    }
    sum->virtual_us += one->virtual_us;
    sum->hash = sim_mix(sum->hash, one->hash);
}

struct figure {
    const char *name;
    uint64_t value;
};

static size_t figures(const struct sim_result *sum, struct figure *figure)
{
    size_t count = 0;
#define FIGURE_CORE(name_) figure[count++] = (struct figure){#name_, sum->core.name_};
#define FIGURE_WORLD(name_) figure[count++] = (struct figure){#name_, sum->world.name_};
    MESH_COUNTERS(FIGURE_CORE)
    SIM_COUNTERS(FIGURE_WORLD)
    return count;
}
#define FIGURES_MAX (sizeof(struct mesh_counters) / 8 + sizeof(struct sim_counters) / 8)

static const char *boundary_name(uint32_t boundary)
{
    if (boundary <= SIM_BOUNDARY_DURABLE) {
        return boundary == SIM_BOUNDARY_SAVES ? "a save was under way" : "a save was durable";
    }
    return boundary <= SIM_BOUNDARY_EFFECT
               ? mesh_message_name((enum mesh_message_kind)(boundary - SIM_BOUNDARY_SEND))
               : sim_trace_effect(boundary - SIM_BOUNDARY_EFFECT);
}

/* A boundary that was passed so often over all seeds, and in three of four seeds, must have been the end of somebody: what
 * comes in bursts in some seeds is seldom the next thing that happens once a death is due. */
#define BOUNDARY_OFTEN 10000

static bool covered(const struct sim_result *sum, uint32_t seeds)
{
    bool all = true;
#define COVER(part, name)                                                                                    \
    if (sum->part.name == 0) {                                                                               \
        fprintf(stderr, "weir: sim: %s never happened in any seed: the faults don't reach it\n", #name);     \
        all = false;                                                                                         \
    }
#define COVER_CORE(name) COVER(core, name)
#define COVER_WORLD(name) COVER(world, name)
    COVERED_CORE(COVER_CORE)
    COVERED_WORLD(COVER_WORLD)
    for (uint32_t i = 1; i < SIM_BOUNDARIES; i++) {
        if (sum->boundary[i] == 0 && sum->passed[i] >= BOUNDARY_OFTEN && 4 * sum->met[i] >= 3 * seeds) {
            fprintf(stderr, "weir: sim: no process died right after %s in any seed\n", boundary_name(i));
            all = false;
        }
    }
    return all;
}

static void print_virtual(int64_t virtual_s)
{
    const int64_t unit_s = virtual_s < 3600 ? 60 : 3600;
    printf("%lld.%lld virtual %s", (long long)(virtual_s / unit_s),
           (long long)(virtual_s % unit_s / (unit_s / 10)), virtual_s < 3600 ? "minutes" : "hours");
}

/* `failed` is the last run where that broke a claim, else NULL. */
static void print_report(const struct command *command, const struct sim_result *sum, uint32_t seeds,
                         const struct sim_options *failed, enum sim_claim claim, int64_t cpu_ms)
{
    struct figure figure[FIGURES_MAX];
    const size_t count = figures(sum, figure);
    const int64_t virtual_s = sum->virtual_us / SECOND_US;
    const int64_t speed = cpu_ms > 0 ? virtual_s * 1000 / cpu_ms : 0;
    if (command->json) {
        printf("{\"ok\": %s, \"seeds\": %u, \"virtual_s\": %lld, \"cpu_ms\": %lld, \"speed\": %lld, "
               "\"hash\": \"%016llx\", ",
               failed == NULL ? "true" : "false", seeds, (long long)virtual_s, (long long)cpu_ms,
               (long long)speed, (unsigned long long)sum->hash);
        if (failed != NULL) {
            print_json_failed(stdout, failed, sim_check_claim(claim));
            printf(", ");
        }
        printf("\"counters\": {");
        for (size_t i = 0; i < count; i++) {
            printf("%s\"%s\": %llu", i != 0 ? ", " : "", figure[i].name, (unsigned long long)figure[i].value);
        }
        printf("}}\n");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        printf("%-20s %12llu%s", figure[i].name, (unsigned long long)figure[i].value,
               i % 3 == 2 ? "\n" : "   ");
    }
    printf("%s%u seed%s, ", count % 3 != 0 ? "\n" : "", seeds, seeds == 1 ? "" : "s");
    print_virtual(virtual_s);
    printf(", %lld.%01lld s of processor time, %lld x real time: %s\n", (long long)(cpu_ms / 1000),
           (long long)(cpu_ms % 1000 / 100), (long long)speed,
           failed == NULL ? "everything held" : "a claim was broken");
}

static int64_t cpu_now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Returns true if the run holds; else writes the fewest faults with which it doesn't, and how to play them again. */
static bool minimise(struct command *command, uint64_t seed)
{
    struct sim_options options = command->options;
    options.seed = seed;
    struct sim_plan *const plan = sim_world_plan(&options);
    struct sim_plan *const small = sim_minimise(&options, plan, stderr);
    FILE *const out = small != NULL ? fopen(command->minimise, "w") : NULL;
    if (small != NULL && out == NULL) {
        fprintf(stderr, "weir: sim: cannot write %s: %s\n", command->minimise, strerror(errno));
    } else if (small != NULL) {
        sim_script_write(out, &options, small);
        sim_script_write(stdout, &options, small);
        if (fclose(out) == 0) {
            name_source(command, "--script", command->minimise);
            printf("replay: weir sim %s\n", command->source);
        }
    }
    const bool held = small == NULL;
    sim_plan_free(small);
    sim_plan_free(plan);
    return held;
}

static bool write_plan(const struct command *command)
{
    struct sim_options options = command->options;
    FILE *const out = fopen(command->plan, "w");
    if (out != NULL) {
        struct sim_plan *const plan = sim_world_plan(&options);
        sim_script_write(out, &options, plan);
        sim_plan_free(plan);
    }
    if (out == NULL || fclose(out) != 0) {
        fprintf(stderr, "weir: sim: cannot write %s: %s\n", command->plan, strerror(errno));
        return false;
    }
    return true;
}

/* A search may take hours: what it finds must have a place before it begins. Leaves what is there as it is. */
static bool can_write(const char *path)
{
    const bool there = access(path, F_OK) == 0;
    FILE *const file = fopen(path, "a");
    if (file == NULL) {
        fprintf(stderr, "weir: sim: cannot write %s: %s\n", path, strerror(errno));
        return false;
    }
    fclose(file);
    if (!there) {
        remove(path);
    }
    return true;
}

static int run_to_minimise(struct command *command)
{
    for (uint32_t i = 0; i < command->seeds; i++) {
        if (!minimise(command, command->options.seed + i)) {
            return 1;
        }
    }
    printf("%u seed%s, nothing to minimise: everything held\n", command->seeds,
           command->seeds == 1 ? "" : "s");
    return 0;
}

static int run_seeds(struct command *command)
{
    struct sim_result *const sum = sim_alloc(1, sizeof *sum);
    struct sim_result *const one = sim_alloc(1, sizeof *one);
    const int64_t began_ms = cpu_now_ms();
    const uint64_t first = command->options.seed;
    bool ok = true;
    uint32_t ran = 0;
    for (; ran < command->seeds && ok; ran++) {
        struct sim_options options = command->options;
        options.seed = first + ran;
        under_way = options;
        ok = sim_run(&options, one);
        add_results(sum, one);
        if (command->hash_only || (command->seeds == 1 && !command->json)) {
            printf("seed %llu nodes %u hash %016llx\n", (unsigned long long)options.seed, one->nodes,
                   (unsigned long long)one->hash);
        }
    }
    if (!ok) {
        fputs(one->failure, stderr);
    }
    if (!command->hash_only) {
        print_report(command, sum, ran, ok ? NULL : &under_way, one->claim, cpu_now_ms() - began_ms);
    }
    if (ok && command->coverage) {
        ok = covered(sum, ran);
    }
    free(sum);
    free(one);
    return ok ? 0 : 1;
}

static int run_script(struct command *command)
{
    struct sim_result *const result = sim_alloc(1, sizeof *result);
    struct sim_plan *const plan = sim_script_read(command->script, &command->options, result);
    int code = 2;
    if (plan == NULL) {
        fputs(result->failure, stderr);
    } else {
        command->seeds = 1;
        command->options.plan = plan;
        code = command->minimise != NULL ? run_to_minimise(command) : run_seeds(command);
    }
    sim_plan_free(plan);
    free(result);
    return code;
}

static int run_scenario(struct command *command)
{
    struct sim_result *const result = sim_alloc(1, sizeof *result);
    under_way = command->options;
    const bool ok =
        sim_scenario(&command->options, command->scenario, command->hash_only ? NULL : stdout, result);
    const int code = ok ? 0 : result->claim == 0 ? 2 : 1;
    if (!ok) {
        fputs(result->failure, stderr);
    } else {
        printf("%s: the story holds, hash %016llx\n", command->scenario, (unsigned long long)result->hash);
    }
    free(result);
    return code;
}

static int run_study(struct command *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        add_word(command, argv[i]);
    }
    command->options.source = command->source;
    under_way = command->options;
    watch_for_stops(false);
    const struct study_options options = {
        .nodes = command->options.nodes,
        .seed = command->options.seed,
        .site_nodes = command->site_nodes,
        .minutes = command->minutes,
        .json = command->json,
        .samples = command->samples,
        .bounds = &command->bounds,
        .source = command->source,
        .from_disks = command->from_disks,
    };
    return study_main(command->study, options);
}

/* What is said to be written must be writable before anything is done. */
static bool open_files(struct command *command)
{
    if (command->minimise != NULL && !can_write(command->minimise)) {
        return false;
    }
    if (command->trace != NULL) {
        command->options.trace = fopen(command->trace, "w");
        if (command->options.trace == NULL) {
            fprintf(stderr, "weir: sim: cannot write the trace %s: %s\n", command->trace, strerror(errno));
            return false;
        }
    }
    return command->plan == NULL || write_plan(command);
}

static int run_seeds_or_story(struct command *command)
{
    command->options.minutes = command->minutes != 0 ? command->minutes : command->options.minutes;
    command->options.site_nodes =
        command->site_nodes != 0 ? command->site_nodes : sim_site_nodes(command->options.nodes);
    if (!sim_sites_fit(command->options.nodes, command->options.site_nodes)) {
        return usage(SIM_UNFIT_TEXT, NULL);
    }
    if (!open_files(command)) {
        return 2;
    }
    if (command->scenario != NULL) {
        name_source(command, "--scenario", command->scenario);
    } else if (command->script != NULL) {
        name_source(command, "--script", command->script);
    }
    watch_for_stops(command->json);
    const int result = command->scenario != NULL   ? run_scenario(command)
                       : command->script != NULL   ? run_script(command)
                       : command->minimise != NULL ? run_to_minimise(command)
                                                   : run_seeds(command);
    if (command->options.trace != NULL && fclose(command->options.trace) != 0) {
        fprintf(stderr, "weir: sim: cannot write the trace %s: %s\n", command->trace, strerror(errno));
        return 1;
    }
    return result;
}

int sim_main(int argc, char **argv)
{
    const struct sim_options options = sim_options_default();
    return sim_main_with(&options, argc, argv);
}

int sim_main_with(const struct sim_options *options, int argc, char **argv)
{
    struct command command = {.options = *options, .seeds = 1};
    const int code = parse(&command, argc, argv);
    if (code != 0) {
        return code;
    }
    if (command.help) {
        fputs(help_text, stdout);
        return 0;
    }
    if (command.profiles) {
        for (const struct sim_profile_name *known = sim_profiles; known->name != NULL; known++) {
            printf("%-16s %s\n", known->name, known->meaning);
        }
        return 0;
    }
    if (refuse_mixed(&command) != 0) {
        return 2;
    }
    return command.study != NULL ? run_study(&command, argc, argv) : run_seeds_or_story(&command);
}
