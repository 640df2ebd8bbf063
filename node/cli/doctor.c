/* weir doctor: what a node has and lacks to lend safely, and what to do about it. */
#include "node/cli/cli.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <string.h>

static void add_row(struct table *table, const json_t *row)
{
    const char *state = client_text(row, "state"), *fix = client_text(row, "fix");
    const bool good = strcmp(state, "ok") == 0;
    table_cell(table, "%s", client_text(row, "check"));
    table_cell(table, "%s", state);
    table_colour(table, good ? TABLE_GREEN : strcmp(state, "bad") == 0 ? TABLE_RED : TABLE_YELLOW);
    table_cell(table, "%s%s%s", client_text(row, "detail"), good ? "" : ". To mend it: ", good ? "" : fix);
}

static int show(struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {
        {.title = "CHECK"}, {.title = "STATE"}, {.title = "DETAIL", .wrap = true}};
    const json_t *checks = client_member(reply, "checks"), *row;
    struct table *table = table_open(columns, 3);
    size_t i, wrong = 0;
    (void)cli;
    /* What is wrong comes first. */
    json_array_foreach(checks, i, row) if (strcmp(client_text(row, "state"), "ok") != 0)
    {
        add_row(table, row);
        wrong++;
    }
    json_array_foreach(checks, i, row) if (strcmp(client_text(row, "state"), "ok") == 0) add_row(table, row);
    table_print(table, stdout);
    table_close(table);
    if (wrong == 0)
        printf("\nAll %zu checks are well.\n", json_array_size(checks));
    else
        printf("\n%zu of %zu checks want a look.\n", wrong, json_array_size(checks));
    return EXIT_DONE;
}

static int doctor(struct cli *cli)
{
    json_t *reply = NULL;
    int code = cli_call(cli, json_pack("{s:s}", "op", "doctor"), &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json)
        cli_print_json(reply);
    else
        show(cli, reply);
    size_t i;
    const json_t *row;
    json_array_foreach(client_member(reply, "checks"), i,
                       row) if (strcmp(client_text(row, "state"), "bad") == 0) code = EXIT_FAILED;
    json_decref(reply);
    return code;
}

static const struct cli_option options[] = {CLI_NODE, CLI_JSON, {0}};

const struct cli_command cli_doctor = {
    .name = "doctor",
    .arguments = "",
    .summary = "what a node has and lacks to lend safely, and what to do",
    .notes = "STATE: ok; off, the node does without it (DETAIL says what that costs and what\n"
             "turns it on); bad, somebody must act. With a layer of the sandbox off, users'\n"
             "kernels are refused and built-in ones still run.\n"
             "The exit code is 1 if something is bad, else 0.\n",
    .example = "weir doctor",
    .options = options,
    .run = doctor,
};
