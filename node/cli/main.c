/* The `weir` program: the table of commands, and how their command lines are read. */
#include "node/cli/cli.h"
#include "node/join.h"
#include "node/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct cli_command sim = {.name = "sim", .main = sim_main};

struct entry {
    const struct cli_command *command;
    const char *what; /* in `weir --help`, at most 27 characters */
};

#define GROUP_ENTRIES 8
struct group {
    const char *title;
    struct entry entries[GROUP_ENTRIES]; /* those behind the last have no command */
};

static const struct group groups[] = {
    {"Set up",
     {{&cli_init, "found a federation"},
      {&cli_invite, "one-time token for a site"},
      {&cli_join, "become a member with a token"},
      {&cli_revoke, "shut a node or a site out"},
      {&cli_key, "this node's identity"},
      {&cli_node, "run this site's node"},
      {&cli_dev, "a whole mesh, to try it out"}}},
    {"Work",
     {{&cli_kernels, "what can be computed"},
      {&cli_kernel, "try a kernel of your own"},
      {&cli_submit, "run a kernel over inputs"},
      {&cli_jobs, "all jobs, or one in full"},
      {&cli_logs, "what happened to a job"},
      {&cli_explain, "why its shards wait or went"},
      {&cli_cancel, "end a job"}}},
    {"The mesh",
     {{&cli_nodes, "who is there, what is wrong"},
      {&cli_gossip, "links, suspicions, counters"},
      {&cli_ping, "measure the way to a node"},
      {&cli_doctor, "what is missing, and the fix"},
      {&cli_reclaim, "take a device back"},
      {&cli_release, "give it to the mesh again"},
      {&cli_drain, "let a node finish and leave"}}},
    {"Data and the rest",
     {{&cli_blob, "bytes by their digest"},
      {&cli_cache, "what the result cache holds"},
      {&cli_store, "verify, back up, restore"},
      {&cli_config, "check or show the settings"},
      {&sim, "the protocol, simulated"},
      {&cli_version, "of weir and its libraries"}}},
};
#define GROUPS (sizeof groups / sizeof groups[0])

/* ---- Help */

/* Two groups side by side, the longer one left, so that all fits a screen of 80 by 24. */
static void show_groups(FILE *out, const struct group *left, const struct group *right)
{
    fprintf(out, "\n%-41s%s\n", left->title, right->title);
    for (int i = 0; i < GROUP_ENTRIES && left->entries[i].command; i++) {
        const struct entry *l = &left->entries[i], *r = &right->entries[i];
        fprintf(out, r->command ? "  %-8s %-30s" : "  %-8s %s", l->command->name, l->what);
        if (r->command)
            fprintf(out, "  %-8s %s", r->command->name, r->what);
        fputc('\n', out);
    }
}

static void show_overview(FILE *out)
{
    fputs("weir lends GPUs between data centres: every site runs the same node.\n\n"
          "usage: weir COMMAND [OPTION...] [ARGUMENT...]\n",
          out);
    for (size_t g = 0; g < GROUPS; g += 2)
        show_groups(out, &groups[g], &groups[g + 1]);
    fputs("\n'weir COMMAND --help' tells more; --node PATH or $WEIR_NODE says whom to ask.\n"
          "example: weir dev --sites 3\n",
          out);
}

static void show_help(const struct cli_command *command)
{
    printf("%s\n\nusage: weir %s%s%s%s\n", command->summary, command->name,
           command->options->name ? " [OPTION...]" : "", command->arguments[0] ? " " : "",
           command->arguments);
    for (const struct cli_option *option = command->options; option->name; option++) {
        if (!option->help)
            continue;
        char text[64];
        snprintf(text, sizeof text, "--%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
        if (option->letter)
            printf("%s  -%c, %-24s %s\n", option == command->options ? "\n" : "", option->letter, text,
                   option->help);
        else
            printf("%s      %-24s %s\n", option == command->options ? "\n" : "", text, option->help);
    }
    if (command->notes)
        printf("\n%s", command->notes);
    if (command->example)
        printf("\nexample: %s\n", command->example);
}

/* ---- Reading the command line */

static const struct cli_option *find_long(const struct cli_command *command, const char *name, size_t count)
{
    for (const struct cli_option *option = command->options; option->name; option++)
        if (strlen(option->name) == count && strncmp(option->name, name, count) == 0)
            return option;
    return NULL;
}

static const struct cli_option *find_short(const struct cli_command *command, char letter)
{
    for (const struct cli_option *option = command->options; option->name; option++)
        if (option->letter == letter)
            return option;
    return NULL;
}

static int unknown_option(const struct cli *cli, const char *text)
{
    const char *names[CLI_OPTIONS_MAX + 1];
    int count = 0;
    for (const struct cli_option *option = cli->command->options; option->name && count < CLI_OPTIONS_MAX;
         option++)
        names[count++] = option->name;
    names[count] = NULL;
    const char *nearest = strncmp(text, "--", 2) == 0 ? cli_nearest(text + 2, names) : NULL;
    if (nearest)
        return cli_fail(EXIT_USAGE, "unknown option '%s'; did you mean 'weir %s --%s'?", text,
                        cli->command->name, nearest);
    return cli_usage(cli, "unknown option '%s'", text);
}

static int add_option(struct cli *cli, const struct cli_option *option, const char *value)
{
    if (cli->option_count == CLI_OPTIONS_MAX)
        return cli_usage(cli, "more than %d options", CLI_OPTIONS_MAX);
    cli->given[cli->option_count].option = option;
    cli->given[cli->option_count++].value = value;
    return EXIT_DONE;
}

/* Reads the option at argv[*i], and its value from the same or the next word. */
static int read_option(struct cli *cli, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    const struct cli_option *option;
    const char *value = NULL;
    if (word[1] == '-') {
        const char *equals = strchr(word, '=');
        option = find_long(cli->command, word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2));
        value = equals ? equals + 1 : NULL;
    } else {
        option = find_short(cli->command, word[1]);
        value = word[2] ? word + 2 : NULL;
    }
    if (!option)
        return unknown_option(cli, word);
    if (!option->argument)
        return value ? cli_usage(cli, "--%s takes no value", option->name) : add_option(cli, option, "");
    if (!value) {
        if (*i + 1 >= argc)
            return cli_usage(cli, "--%s needs a value, %s", option->name, option->argument);
        value = argv[++*i];
    }
    return add_option(cli, option, value);
}

static int read_line(struct cli *cli, int argc, char **argv)
{
    bool options = true;
    int left = 0;
    for (int i = 1; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            const int code = read_option(cli, argc, argv, &i);
            if (code != EXIT_DONE)
                return code;
        } else {
            argv[left++] = argv[i];
        }
    }
    cli->argc = left;
    cli->argv = argv;
    if (left < cli->command->positional_min)
        return cli_usage(cli, "%s is missing", cli->command->arguments);
    if (cli->command->positional_max >= 0 && left > cli->command->positional_max)
        return cli_usage(cli, "'%s' is one argument too many", argv[cli->command->positional_max]);
    const char *output = cli_value(cli, "output", NULL);
    const struct cli_option *wide = find_long(cli->command, "output", 6);
    if (output && wide && strcmp(wide->argument, "wide") == 0) {
        if (strcmp(output, "wide") != 0)
            return cli_usage(cli, "--output takes 'wide', not '%s'", output);
        cli->wide = true;
    }
    cli->json = cli_has(cli, "json");
    cli->quiet = cli_has(cli, "quiet");
    cli->watch = cli_has(cli, "watch");
    return EXIT_DONE;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    if (command->main)
        return command->main(argc, argv);
    if (wants_help(argc, argv)) {
        show_help(command);
        return EXIT_DONE;
    }
    struct cli cli = {.command = command};
    int code = read_line(&cli, argc, argv);
    if (code == EXIT_DONE)
        code = command->run(&cli);
    client_close(cli.client);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_DONE)
        code = cli_fail(EXIT_FAILED, "cannot write to standard output: %s", strerror(errno));
    return code;
}

static int unknown_command(const char *name)
{
    if (name[0] == '-')
        return cli_fail(EXIT_USAGE,
                        "a command comes first, then options: weir COMMAND %s ...; 'weir --help' lists them",
                        name);
    const char *names[GROUPS * GROUP_ENTRIES + 1];
    int count = 0;
    for (size_t g = 0; g < GROUPS; g++)
        for (const struct entry *entry = groups[g].entries; entry->command; entry++)
            names[count++] = entry->command->name;
    names[count] = NULL;
    const char *nearest = cli_nearest(name, names);
    if (nearest)
        return cli_fail(EXIT_USAGE, "unknown command '%s'; did you mean 'weir %s'?", name, nearest);
    return cli_fail(EXIT_USAGE, "unknown command '%s'; 'weir --help' lists them", name);
}

static int run_command(const char *name, int argc, char **argv)
{
    for (size_t g = 0; g < GROUPS; g++)
        for (const struct entry *entry = groups[g].entries; entry->command; entry++)
            if (strcmp(entry->command->name, name) == 0)
                return run(entry->command, argc, argv);
    return unknown_command(name);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        show_overview(stderr);
        return EXIT_USAGE;
    }
    const bool help = strcmp(argv[1], "help") == 0;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (help && argc == 2)) {
        show_overview(stdout);
        return EXIT_DONE;
    }
    if (help) { /* "help COMMAND" is "COMMAND --help" */
        static char option[] = "--help";
        return run_command(argv[2], 2, (char *[]){argv[2], option, NULL});
    }
    if (strcmp(argv[1], JOIN_CHILD_COMMAND) == 0)
        return join_child_main(argc - 1, argv + 1);
    return run_command(strcmp(argv[1], "--version") == 0 ? "version" : argv[1], argc - 1, argv + 1);
}
