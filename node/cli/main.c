/* The `weir` program: the table of commands, and how their command lines are read. */
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/join.h"
#include "node/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int join_child(int argc, char **argv)
{
    return join_child_main(argc, argv);
}

static const struct cli_command init = {
    .name = "init", .summary = "make a federation and its first node", .main = cli_init};
static const struct cli_command invite = {
    .name = "invite", .summary = "print a one-time token for a new site or user", .main = cli_invite};
static const struct cli_command join = {
    .name = "join", .summary = "become a member with a token", .main = cli_join};
static const struct cli_command revoke = {
    .name = "revoke", .summary = "shut a node or a site out for good", .main = cli_revoke};
static const struct cli_command key = {
    .name = "key", .summary = "show this node's identity and certificate", .main = cli_key};
static const struct cli_command sim = {
    .name = "sim", .summary = "run the protocol in a simulator", .main = sim_main};
static const struct cli_command child = {.name = JOIN_CHILD_COMMAND, .main = join_child, .hidden = true};

struct group {
    const char *title;
    const struct cli_command *commands[12];
};

static const struct group groups[] = {
    {"Set up", {&init, &invite, &join, &revoke, &key, &cli_node, &cli_dev, NULL}},
    {"The mesh", {&cli_nodes, &cli_gossip, &cli_ping, &cli_drain, NULL}},
    {"Work", {&cli_kernels, &cli_submit, &cli_jobs, &cli_logs, &cli_explain, &cli_cancel, NULL}},
    {"Data and the rest", {&cli_blob, &cli_cache, &cli_config, &sim, &cli_version, &child, NULL}},
};
#define GROUPS (sizeof groups / sizeof groups[0])

/* ---- Help */

static void show_overview(FILE *out)
{
    fputs("weir lends GPUs between data centres: every site runs the same node.\n\nusage: weir COMMAND "
          "[OPTION...] "
          "[ARGUMENT...]\n",
          out);
    for (size_t g = 0; g < GROUPS; g++) {
        fprintf(out, "\n%s\n", groups[g].title);
        for (const struct cli_command *const *c = groups[g].commands; *c; c++)
            if (!(*c)->hidden)
                fprintf(out, "  %-9s %s\n", (*c)->name, (*c)->summary);
    }
    fputs("\n'weir COMMAND --help' tells more. To try it out: weir dev\n"
          "Most commands ask a node: --node PATH, else $WEIR_NODE, else the one of this machine.\n",
          out);
}

static void show_help(const struct cli_command *command)
{
    printf("%s\n\nusage: weir %s%s%s%s\n", command->summary, command->name,
           command->options->name ? " [OPTION...]" : "", command->arguments[0] ? " " : "",
           command->arguments);
    for (const struct cli_option *option = command->options; option->name; option++) {
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
    const char *names[64];
    int count = 0;
    for (size_t g = 0; g < GROUPS; g++)
        for (const struct cli_command *const *c = groups[g].commands; *c; c++)
            if (!(*c)->hidden)
                names[count++] = (*c)->name;
    names[count] = NULL;
    const char *nearest = cli_nearest(name, names);
    if (nearest)
        return cli_fail(EXIT_USAGE, "unknown command '%s'; did you mean 'weir %s'?", name, nearest);
    return cli_fail(EXIT_USAGE, "unknown command '%s'; 'weir --help' lists them", name);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        show_overview(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        show_overview(stdout);
        return EXIT_DONE;
    }
    const char *name = strcmp(argv[1], "--version") == 0 ? "version" : argv[1];
    for (size_t g = 0; g < GROUPS; g++)
        for (const struct cli_command *const *c = groups[g].commands; *c; c++)
            if (strcmp((*c)->name, name) == 0)
                return run(*c, argc - 1, argv + 1);
    return unknown_command(name);
}
