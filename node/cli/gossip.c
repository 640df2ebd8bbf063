/* weir gossip: what the asked node hears from its neighbours, who doubts whom, and every counter. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <string.h>

static void show_neighbours(const json_t *reply)
{
    static const struct table_column columns[] = {{.title = "NEIGHBOUR", .cut = true},
                                                  {.title = "SITE", .cut = true},
                                                  {.title = "STATE"},
                                                  {.title = "LINK"},
                                                  {.title = "RTT", .right = true},
                                                  {.title = "HEARD", .right = true},
                                                  {.title = "RECORD", .right = true},
                                                  {.title = "ACCUSES", .right = true},
                                                  {.title = "ACCUSED", .right = true}};
    struct table *table = table_open(columns, 9);
    size_t i;
    const json_t *row;
    json_array_foreach(client_member(reply, "neighbours"), i, row)
    {
        char text[FORMAT_BYTES];
        const json_t *heard = json_object_get(row, "heard_ms"),
                     *record = json_object_get(row, "record_age_ms");
        const bool up = strcmp(client_text(row, "link"), "up") == 0;
        table_cell(table, "%s", client_text(row, "name"));
        table_cell(table, "%s", client_text(row, "site"));
        table_cell(table, "%s", client_text(row, "state"));
        table_cell(table, "%s", client_text(row, "link"));
        table_colour(table, up ? TABLE_GREEN : TABLE_RED);
        table_cell(table, "%s",
                   format_rtt(client_number(row, "rtt_us") > 0 ? client_number(row, "rtt_us") : -1, text));
        table_cell(table, "%s", format_age(json_is_integer(heard) ? json_integer_value(heard) : -1, text));
        table_cell(table, "%s", format_age(json_is_integer(record) ? json_integer_value(record) : -1, text));
        table_cell(table, "%lld", (long long)client_number(row, "accuses"));
        table_cell(table, "%lld", (long long)client_number(row, "accused_by"));
    }
    table_print(table, stdout);
    table_close(table);
}

static void show_suspicions(const json_t *reply)
{
    size_t i;
    const json_t *row;
    const json_t *suspicions = client_member(reply, "suspicions");
    if (json_array_size(suspicions) > 0)
        putchar('\n');
    json_array_foreach(suspicions, i, row)
    {
        printf("%s is %s: accused of silence by %lld of its observers\n", client_text(row, "name"),
               client_text(row, "state"), (long long)client_number(row, "accusers"));
    }
}

static void show_counters(const json_t *reply)
{
    static const char *const parts[] = {"core", "transport", "admission", "join", "bulk", "store", "api"};
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        const char *name;
        json_t *value;
        printf("%s%s\n", p ? "\n" : "", parts[p]);
        json_object_foreach((json_t *)(uintptr_t)client_member(reply, parts[p]), name, value)
        {
            printf("  %-26s %lld\n", name, (long long)json_integer_value(value));
        }
    }
}

static int show(struct cli *cli, const json_t *reply)
{
    if (cli_has(cli, "stats")) {
        show_counters(reply);
        return EXIT_DONE;
    }
    if (cli->quiet) {
        size_t i;
        const json_t *row;
        json_array_foreach(client_member(reply, "neighbours"), i, row)
        {
            puts(client_text(row, "id"));
        }
        return EXIT_DONE;
    }
    show_neighbours(reply);
    show_suspicions(reply);
    const json_t *core = client_member(reply, "core");
    printf("\n%s knows %lld members. Records: %lld new, %lld known before, %lld repaired.\n",
           client_text(client_member(reply, "view"), "node"), (long long)client_number(reply, "members"),
           (long long)client_number(core, "records_new"), (long long)client_number(core, "records_old"),
           (long long)client_number(core, "repairs"));
    return EXIT_DONE;
}

static int gossip(struct cli *cli)
{
    return cli_list(cli, json_pack("{s:s}", "op", "gossip"), show);
}

static const struct cli_option options[] = {
    CLI_NODE, CLI_LISTING, {'s', "stats", NULL, "every counter of the node, by part"}, {0}};

const struct cli_command cli_gossip = {
    .name = "gossip",
    .arguments = "",
    .summary = "links, round trips, suspicions and counters of a node",
    .notes = "HEARD: since the link last brought anything. RECORD: age of its capacity record.\n"
             "ACCUSES / ACCUSED: how many members it accuses of silence, and is accused by.\n",
    .example = "weir gossip --stats",
    .options = options,
    .run = gossip,
};
