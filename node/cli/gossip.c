/* weir gossip: what the asked node hears from its neighbours, who doubts whom, and every counter. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *age_of(const json_t *row, const char *key, char text[FORMAT_BYTES])
{
    const json_t *value = json_object_get(row, key);
    return format_age(json_is_integer(value) ? json_integer_value(value) : -1, text);
}

static const char *rtt_of(const json_t *row, const char *key, char text[FORMAT_BYTES])
{
    const json_t *value = json_object_get(row, key);
    return format_rtt(json_is_integer(value) ? json_integer_value(value) : -1, text);
}

static enum table_colour colour_of(const char *link)
{
    if (strcmp(link, "up") == 0)
        return TABLE_GREEN;
    return strcmp(link, "silent") == 0 ? TABLE_YELLOW : TABLE_RED;
}

static void add_wide(struct table *table, const json_t *row)
{
    char text[FORMAT_BYTES];
    table_cell(table, "%s", client_text(row, "site"));
    if (json_is_integer(json_object_get(row, "protocol")))
        table_cell(table, "%lld", (long long)client_number(row, "protocol"));
    else
        table_cell(table, "-");
    table_cell(table, "%lld", (long long)client_number(row, "rtt_samples"));
    table_cell(table, "%s", format_id(client_text(row, "id"), text));
}

static void show_neighbours(const struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {{.title = "NEIGHBOUR", .cut = true},
                                                  {.title = "STATE"},
                                                  {.title = "LINK"},
                                                  {.title = "TREE", .right = true},
                                                  {.title = "LAZY", .right = true},
                                                  {.title = "P50", .right = true},
                                                  {.title = "P99", .right = true},
                                                  {.title = "HEARD", .right = true},
                                                  {.title = "AGE", .right = true},
                                                  {.title = "GIVEN", .right = true},
                                                  {.title = "GOT", .right = true},
                                                  {.title = "SITE"},
                                                  {.title = "PROTOCOL", .right = true},
                                                  {.title = "PINGS", .right = true},
                                                  {.title = "ID"}};
    struct table *table = table_open(columns, cli->wide ? 15 : 11);
    size_t i;
    const json_t *row;
    json_array_foreach(client_member(reply, "neighbours"), i, row)
    {
        char text[FORMAT_BYTES];
        table_cell(table, "%s", client_text(row, "name"));
        table_cell(table, "%s", client_text(row, "state"));
        table_cell(table, "%s", client_text(row, "link"));
        table_colour(table, colour_of(client_text(row, "link")));
        table_cell(table, "%lld",
                   (long long)(client_number(row, "trees_from") + client_number(row, "trees_to")));
        table_cell(table, "%lld", (long long)client_number(row, "lazy"));
        table_cell(table, "%s", rtt_of(row, "rtt_p50_us", text));
        table_cell(table, "%s", rtt_of(row, "rtt_p99_us", text));
        table_cell(table, "%s", age_of(row, "heard_ms", text));
        table_cell(table, "%s", age_of(row, "record_age_ms", text));
        table_cell(table, "%lld", (long long)client_number(row, "accuses"));
        table_cell(table, "%lld", (long long)client_number(row, "accused_by"));
        if (cli->wide)
            add_wide(table, row);
    }
    if (cli->wide)
        table_print_as(table, stdout, 0, cli_colour(1));
    else
        table_print(table, stdout);
    table_close(table);
}

/* "dublin (3s), paris (2s, no observer)", of those who accuse or of those who do not. */
static void write_names(FILE *out, const json_t *opinions, bool accuse)
{
    const char *separator = "";
    size_t i;
    const json_t *row;
    json_array_foreach(opinions, i, row)
    {
        char text[FORMAT_BYTES];
        if (client_flag(row, "accuses") != accuse)
            continue;
        fprintf(out, "%s%s", separator, client_text(row, "name"));
        if (accuse)
            fprintf(out, " (%s%s)", age_of(row, "said_ms", text),
                    client_flag(row, "observer") ? "" : ", no observer");
        separator = ", ";
    }
}

static bool anybody(const json_t *opinions, bool accuse)
{
    size_t i;
    const json_t *row;
    json_array_foreach(opinions, i, row)
    {
        if (client_flag(row, "accuses") == accuse)
            return true;
    }
    return false;
}

static void show_suspicions(const json_t *reply)
{
    static const struct table_column columns[] = {
        {.title = "ABOUT", .cut = true}, {.title = "STATE"}, {.title = "WHO SAYS SO", .wrap = true}};
    const json_t *suspicions = client_member(reply, "suspicions");
    if (json_array_size(suspicions) == 0)
        return;
    struct table *table = table_open(columns, 3);
    size_t i;
    const json_t *row;
    json_array_foreach(suspicions, i, row)
    {
        const json_t *opinions = client_member(row, "opinions");
        char *text = NULL;
        size_t bytes = 0;
        FILE *out = open_memstream(&text, &bytes);
        if (!out)
            abort();
        fputs("accused by ", out);
        write_names(out, opinions, true);
        if (anybody(opinions, false)) {
            fputs("; not by ", out);
            write_names(out, opinions, false);
        }
        fclose(out);
        table_cell(table, "%s", client_text(row, "name"));
        table_cell(table, "%s", client_text(row, "state"));
        table_cell(table, "%s", text);
        free(text);
    }
    putchar('\n');
    table_print(table, stdout);
    table_close(table);
}

static void show_counters(const json_t *reply)
{
    static const char *const parts[] = {"core", "records", "transport", "admission",
                                        "join", "bulk",    "store",     "api"};
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

static void show_convergence(const json_t *reply)
{
    const json_t *convergence = client_member(reply, "convergence");
    char p50[FORMAT_BYTES], p99[FORMAT_BYTES];
    const int64_t samples = client_number(convergence, "samples"), lost = client_number(convergence, "lost");
    if (samples == 0 && lost == 0)
        return;
    printf("Convergence: ");
    if (samples > 0)
        printf("p50 %s, p99 %s, by %lld echo%s of members in turn",
               format_duration(client_number(convergence, "p50_ms"), p50),
               format_duration(client_number(convergence, "p99_ms"), p99), (long long)samples,
               samples == 1 ? "" : "es");
    printf("%s%lld never came.\n", samples > 0 ? "; " : "", (long long)lost);
}

static void show_summary(const json_t *reply)
{
    static const char *const states[] = {"up", "suspect", "down", "left", "revoked"};
    const char *node = client_text(client_member(reply, "view"), "node");
    const json_t *core = client_member(reply, "core"), *summary = client_member(reply, "summary");
    printf("\n%s knows %lld members", node, (long long)client_number(reply, "members"));
    for (int i = 0; i < 5; i++) {
        const int64_t count = client_number(summary, states[i]);
        if (count > 0)
            printf("%s %lld %s", i == 0 ? ":" : ",", (long long)count, states[i]);
    }
    printf(".\nRecords: %lld new, %lld known before, %lld repaired.\n",
           (long long)client_number(core, "records_new"), (long long)client_number(core, "records_old"),
           (long long)client_number(core, "repairs"));
    show_convergence(reply);
    if (client_flag(reply, "doubts_itself"))
        printf("%s doubts itself: most of its own links fail, so it accuses nobody for now.\n", node);
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
    show_neighbours(cli, reply);
    show_suspicions(reply);
    show_summary(reply);
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
    .notes = "LINK: up, silent (nothing for 6 s), down (reset, unreached), refused (protocol).\n"
             "TREE, LAZY: for how many origins it carries records, and word of them only.\n"
             "P50, P99: round trips of the last 128 pings. HEARD: since it brought anything.\n"
             "AGE: of its capacity record. GIVEN, GOT: how many members it accuses of\n"
             "silence, and how many accuse it. Below: who accuses whom, and who does not.\n"
             "Convergence: from an announcement of ours until a member, in turn, has it.\n"
             "-o wide: PROTOCOL is the version spoken on the link, PINGS what P50 is of.\n",
    .example = "weir gossip --watch",
    .options = options,
    .run = gossip,
};
