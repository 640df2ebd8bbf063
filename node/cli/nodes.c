/* weir nodes: who is in the mesh, what is wrong, and what to do. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Something failed there, and it lends nothing for that. With some devices left it is up, with a note. */
static bool in_fault(const json_t *node)
{
    return json_is_string(json_object_get(node, "fault")) && client_number(node, "slots") == 0 &&
           !client_flag(node, "draining");
}

/* Bad rows first: what an operator must see stands at the top. */
static int badness(const json_t *node)
{
    static const char *const order[] = {"revoked", "down", "suspect", "left", "up"};
    int rank = 0;
    while (rank < 5 && strcmp(order[rank], client_text(node, "state")) != 0)
        rank++;
    const int worst_first[] = {2, 0, 1, 6, 5, 7};
    if (rank == 4 && in_fault(node))
        return 2;
    if (rank == 4 && client_flag(node, "draining"))
        return 3;
    if (rank == 4 && client_text(node, "note")[0])
        return 4;
    return worst_first[rank];
}

static int compare(const void *left, const void *right)
{
    const json_t *a = *(const json_t *const *)left, *b = *(const json_t *const *)right;
    const int order = badness(a) - badness(b);
    return order != 0 ? order : strcmp(client_text(a, "name"), client_text(b, "name"));
}

static enum table_colour colour_of(const char *state)
{
    if (strcmp(state, "up") == 0)
        return TABLE_GREEN;
    if (strcmp(state, "down") == 0 || strcmp(state, "revoked") == 0 || strcmp(state, "fault") == 0)
        return TABLE_RED;
    return strcmp(state, "left") == 0 ? TABLE_DIM : TABLE_YELLOW;
}

static const char *age_of(const json_t *node, const char *key, char text[FORMAT_BYTES])
{
    const json_t *value = json_object_get(node, key);
    return format_age(json_is_integer(value) ? json_integer_value(value) : -1, text);
}

/* Neighbours are heard all the time, others through the records that come from them. When one that is gone
 * went is all that is known of it. */
static const char *seen(const json_t *node, bool gone, char text[FORMAT_BYTES])
{
    if (gone)
        return age_of(node, "state_ms", text);
    const bool direct = client_flag(node, "neighbour") || client_flag(node, "self");
    return age_of(node, direct ? "heard_ms" : "capacity_age_ms", text);
}

/* The version spoken with it, in red its range where there is none in common; "-" if it never greeted this node. */
static void add_protocol(struct table *table, const json_t *node)
{
    if (json_is_integer(json_object_get(node, "protocol"))) {
        table_cell(table, "%lld", (long long)client_number(node, "protocol"));
    } else if (json_is_integer(json_object_get(node, "protocol_max"))) {
        table_cell(table, "none, it speaks %lld-%lld", (long long)client_number(node, "protocol_min"),
                   (long long)client_number(node, "protocol_max"));
        table_colour(table, TABLE_RED);
    } else {
        table_cell(table, "-");
    }
}

static void add_row(struct table *table, const json_t *node, bool wide)
{
    char text[FORMAT_BYTES];
    const bool up = strcmp(client_text(node, "state"), "up") == 0;
    const bool gone = !up && strcmp(client_text(node, "state"), "suspect") != 0;
    const char *state = up && client_flag(node, "draining") ? "draining" : client_text(node, "state");
    if (up && in_fault(node))
        state = "fault";
    table_cell(table, "%s", client_text(node, "name"));
    if (client_flag(node, "self"))
        table_mark(table, '*');
    table_cell(table, "%s", client_text(node, "site"));
    table_cell(table, "%s", state);
    table_colour(table, colour_of(state));
    const int64_t rtt_us = client_number(node, "rtt_us");
    if (gone) { /* its last words are no offer */
        table_cell(table, "-");
        table_cell(table, "-");
    } else {
        table_cell(table, "%lld/%lld", (long long)client_number(node, "free"),
                   (long long)client_number(node, "slots"));
        table_cell(table, "%lld", (long long)client_number(node, "queue"));
    }
    table_cell(table, "%s", format_rtt(rtt_us > 0 && !gone ? rtt_us : -1, text));
    table_cell(table, "%s", seen(node, gone, text));
    table_cell(table, "%s", client_text(node, "note"));
    if (!wide)
        return;
    const json_t *cuda = json_object_get(json_object_get(node, "classes"), "cuda");
    const json_t *cpu = json_object_get(json_object_get(node, "classes"), "cpu");
    const json_t *ends = json_object_get(node, "certificate_ends_at");
    table_cell(table, "%s", format_id(client_text(node, "id"), text));
    table_cell(table, "%s", client_text(node, "address"));
    table_cell(table, "%lld cpu, %lld cuda", (long long)client_number(cpu, "slots"),
               (long long)client_number(cuda, "slots"));
    table_cell(table, "%s", json_is_integer(ends) ? format_time(json_integer_value(ends), text) : "-");
    table_cell(table, "%s", client_text(node, "version"));
    add_protocol(table, node);
    table_cell(table, "%lld", (long long)client_number(node, "incarnation"));
}

static void show_summary(const json_t *reply)
{
    const json_t *summary = client_member(reply, "summary");
    static const char *const states[] = {"up", "suspect", "down", "left", "revoked"};
    char text[FORMAT_BYTES];
    const char *separator = "";
    putchar('\n');
    for (int i = 0; i < 5; i++) {
        const int64_t count = client_number(summary, states[i]);
        if (count == 0 && i > 0)
            continue;
        printf("%s%lld %s", separator, (long long)count, states[i]);
        separator = ", ";
    }
    const json_t *view = client_member(reply, "view");
    printf("; %lld of %lld slots free. As %s sees it, %s.\n", (long long)client_number(summary, "free"),
           (long long)client_number(summary, "slots"), client_text(view, "node"),
           client_number(view, "age_ms") < 1000 ? "now" : format_age(client_number(view, "age_ms"), text));
}

static int show(struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {{.title = "NAME", .cut = true},
                                                  {.title = "SITE", .cut = true},
                                                  {.title = "STATE"},
                                                  {.title = "FREE/SLOTS", .right = true},
                                                  {.title = "QUEUE", .right = true},
                                                  {.title = "RTT", .right = true},
                                                  {.title = "SEEN", .right = true},
                                                  {.title = "NOTE", .cut = true},
                                                  {.title = "ID"},
                                                  {.title = "ADDRESS"},
                                                  {.title = "DEVICES"},
                                                  {.title = "CERTIFICATE ENDS"},
                                                  {.title = "VERSION"},
                                                  {.title = "PROTOCOL", .right = true},
                                                  {.title = "INC", .right = true}};
    const json_t *nodes = client_member(reply, "nodes");
    const size_t count = json_array_size(nodes);
    const json_t **rows = calloc(count + 1, sizeof *rows);
    if (!rows)
        abort();
    for (size_t i = 0; i < count; i++)
        rows[i] = json_array_get(nodes, i);
    qsort(rows, count, sizeof *rows, compare);
    struct table *table = table_open(columns, cli->wide ? 15 : 8);
    for (size_t i = 0; i < count; i++) {
        if (cli->quiet)
            puts(client_text(rows[i], "id"));
        else
            add_row(table, rows[i], cli->wide);
    }
    if (!cli->quiet) {
        if (cli->wide)
            table_print_wide(table, stdout);
        else
            table_print(table, stdout);
        show_summary(reply);
    }
    table_close(table);
    free(rows);
    return EXIT_DONE;
}

static int nodes(struct cli *cli)
{
    return cli_list(cli, json_pack("{s:s}", "op", "nodes"), show);
}

static const struct cli_option options[] = {CLI_NODE, CLI_LISTING, {0}};

const struct cli_command cli_nodes = {
    .name = "nodes",
    .arguments = "",
    .summary = "the nodes of the mesh, what is wrong and what to do",
    .notes = "STATE: up, suspect (silent, gets no new work), down, fault (lends nothing, see\n"
             "NOTE), draining, left, revoked.\n"
             "FREE/SLOTS: shards it can take now, and at most. QUEUE: bundles waiting there.\n"
             "RTT: round trip. SEEN: when it was last heard, or since when it is gone.\n"
             "-o wide: PROTOCOL is the version spoken between it and the node asked.\n"
             "* is the node asked.\n",
    .example = "weir nodes --watch",
    .options = options,
    .run = nodes,
};
