/*
 * The frame that every command of the `weir` program stands in: a row in the table of commands, its options
 * as a table from which both the parser and `--help` are made, and what all commands do alike.
 *
 *     static const struct cli_option options[] = {
 *         CLI_NODE,
 *         CLI_LISTING,
 *         {'c', "count", "N", "how many pings to send (5)"},
 *         {0},
 *     };
 *     const struct cli_command cli_ping = {
 *         .name = "ping", .arguments = "NODE", .summary = "measure the way to a node",
 *         .options = options, .run = ping_run, .positional_min = 1, .positional_max = 1,
 *         .example = "weir ping osaka -c 3",
 *     };
 *
 * and one `extern` line below, and one row in main.c. A command returns an enum exit_code. Standard output
 * carries results only; everything else goes to standard error.
 */
#ifndef NODE_CLI_CLI_H
#define NODE_CLI_CLI_H

#include "node/api.h"
#include "node/client.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLI_OPTIONS_MAX 64 /* given on one command line */

struct cli_option {
    char letter;          /* 0 = none */
    const char *name;     /* without "--"; NULL ends a table */
    const char *argument; /* what stands behind it, in capitals; NULL = it is a switch */
    const char *help;     /* one line of at most 49 characters; NULL: another option's line tells of it */
};

struct cli;
typedef int cli_run(struct cli *cli);

struct cli_command {
    const char *name;
    const char *arguments; /* as shown in the usage line, "" for none */
    const char *summary;   /* the first line of its --help */
    const char *notes;     /* lines below the options, each ended by a newline; may be NULL */
    const char *example;   /* one or more lines, no newline at the end */
    const struct cli_option *options;
    cli_run *run;
    int positional_min;
    int positional_max; /* -1 = any number */
    /* Instead of options and run: does its own parsing; argv[0] is the command's name. It must handle --help.
     */
    int (*main)(int argc, char **argv);
};

/* What was given on the command line, after checking: unknown options and wrong counts never reach `run`. */
struct cli {
    const struct cli_command *command;
    int argc;    /* what is left over: arguments that are not options */
    char **argv; /* borrowed from main */
    int option_count;
    struct {
        const struct cli_option *option;
        const char *value; /* "" for a switch */
    } given[CLI_OPTIONS_MAX];
    struct client *client; /* opened by the first cli_connect, closed by main */
    bool json, quiet, wide, watch;
    void (*warn)(const json_t *reply); /* of a listing, after it was printed; NULL = nothing */
};

#define CLI_NODE                                                                                             \
    {                                                                                                        \
        'n', "node", "PATH", "whom to ask: socket or data folder ($WEIR_NODE)"                               \
    }
#define CLI_JSON                                                                                             \
    {                                                                                                        \
        'j', "json", NULL, "print JSON"                                                                      \
    }
/* cli->json, ->quiet, ->wide and ->watch follow from these. */
#define CLI_LISTING                                                                                          \
    CLI_JSON, {'q', "quiet", NULL, "print ids only"}, {'o', "output", "wide", "more columns"},               \
    {                                                                                                        \
        'w', "watch", NULL, "show it again every second until interrupted"                                   \
    }

/* ---- Options */
bool cli_has(const struct cli *cli, const char *name);
const char *cli_value(const struct cli *cli, const char *name,
                      const char *otherwise); /* the last one given */
/* The index-th value of an option that may be repeated; NULL behind the last. */
const char *cli_value_at(const struct cli *cli, const char *name, int index);
/* A whole number within [min, max]; prints what is wrong and returns false otherwise. Unset: leaves *value.
 */
bool cli_number(const struct cli *cli, const char *name, int64_t min, int64_t max, int64_t *value);

/* ---- Saying what went wrong: "weir: what, where; what to do" on standard error. Returns `code`. */
__attribute__((format(printf, 2, 3))) int cli_fail(enum exit_code code, const char *format, ...);
/* The same, followed by where to read more: "try 'weir ping --help'". Returns EXIT_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const struct cli *cli, const char *format, ...);

/* ---- Asking the node. Each prints what is wrong and returns the exit code; EXIT_DONE is success. */
int cli_connect(struct cli *cli); /* to --node, $WEIR_NODE or the default; then cli->client is set */
int cli_call(struct cli *cli, json_t *request, json_t **reply); /* connects if need be; takes `request` */
/* A listing: calls `op`, prints JSON if --json, else calls `show`; with --watch again and again. */
typedef int cli_show(struct cli *cli, const json_t *reply);
int cli_list(struct cli *cli, json_t *request, cli_show *show); /* takes `request` */

void cli_print_json(const json_t *object); /* one line on standard output */

/* ---- Interrupts: after cli_catch_interrupts, Ctrl-C and SIGTERM no longer end the program but make this
 * descriptor readable; cli_connect hands it to the client, whose waits then end with EXIT_INTERRUPTED. */
int cli_catch_interrupts(void);
bool cli_interrupted(void);
/* Sleeps, but not past an interrupt; true if one came. */
bool cli_sleep_ms(int64_t ms);

/* ---- Small helps */
/* The word of `words` (ended by NULL) nearest to `word`, or NULL if none is near. */
const char *cli_nearest(const char *word, const char *const *words);
/* Connected to the node's operator? Colour and progress only then, and without NO_COLOR. */
bool cli_colour(int fd);
int cli_columns(int fd); /* width of the terminal; 80 if it is none */
int cli_lines(int fd);   /* its height; 24 if it is none */

/* ---- The commands, one file each */
extern const struct cli_command cli_blob, cli_cache, cli_cancel, cli_config, cli_dev, cli_doctor, cli_drain,
    cli_explain, cli_gossip, cli_init, cli_invite, cli_jobs, cli_join, cli_kernel, cli_kernels, cli_key,
    cli_logs, cli_node, cli_nodes, cli_ping, cli_reclaim, cli_release, cli_revoke, cli_store, cli_submit,
    cli_version;

#endif
