/* weir explain: why a job's shards wait, and where they went and why, from the home's own record. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>

static void print_waiting(const json_t *waiting)
{
    static const struct table_column columns[] = {
        {.title = "NODE"}, {.title = "SITE"}, {.title = "WHAT IT DOES FOR THE REST", .wrap = true}};
    struct table *table = table_open(columns, 3);
    size_t i;
    const json_t *row;
    json_array_foreach(waiting, i, row)
    {
        table_cell(table, "%s", client_text(row, "name"));
        table_cell(table, "%s", client_text(row, "site"));
        table_cell(table, "%s", client_text(row, "reason"));
    }
    printf("\n");
    table_print(table, stdout);
    table_close(table);
}

static void print_passed_over(const json_t *passed_over)
{
    size_t i;
    const json_t *row;
    json_array_foreach(passed_over, i, row)
    {
        printf("%s%s %s: it is not asked\n", i == 0 ? "\n" : "", client_text(row, "name"),
               client_text(row, "reason"));
    }
}

static void print_decisions(const json_t *decisions, int64_t forgotten, bool lost)
{
    static const struct table_column columns[] = {
        {.title = "TIME"}, {.title = "WHY"}, {.title = "WHAT", .wrap = true}};
    if (lost)
        printf("\nWhat was decided before the job's home was started, or became its home, is not kept.\n");
    if (json_array_size(decisions) == 0)
        return;
    struct table *table = table_open(columns, 3);
    size_t i;
    const json_t *row;
    json_array_foreach(decisions, i, row)
    {
        char at[FORMAT_BYTES];
        table_cell(table, "%s", format_time(client_number(row, "at"), at));
        table_cell(table, "%s", client_text(row, "why"));
        table_cell(table, "%s", client_text(row, "text"));
    }
    printf("\n");
    if (forgotten > 0)
        printf("(%lld older decisions are no longer kept)\n", (long long)forgotten);
    table_print(table, stdout);
    table_close(table);
}

static int explain_run(struct cli *cli)
{
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s, s:s}", "op", "explain", "job", cli->argv[0]), &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json) {
        cli_print_json(reply);
    } else {
        printf("%.16s  %s\n", client_text(reply, "job"), client_text(reply, "summary"));
        if (json_array_size(client_member(reply, "waiting")) > 0)
            print_waiting(client_member(reply, "waiting"));
        else
            print_passed_over(json_object_get(reply, "passed_over"));
        print_decisions(client_member(reply, "decisions"), client_number(reply, "forgotten"),
                        client_flag(reply, "lost_by_restart"));
    }
    json_decref(reply);
    return EXIT_DONE;
}

static const struct cli_option options[] = {CLI_JSON, CLI_NODE, {0}};

const struct cli_command cli_explain = {
    .name = "explain",
    .arguments = "ID",
    .summary = "why a job's shards wait, and where they went and why",
    .options = options,
    .run = explain_run,
    .positional_min = 1,
    .positional_max = 1,
    .example = "weir explain 1f3a9c02",
};
