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
    if (rank >= 2 && client_flag(node, "quarantined"))
        return 0;
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
    if (strcmp(state, "down") == 0 || strcmp(state, "revoked") == 0 || strcmp(state, "fault") == 0 ||
        strcmp(state, "quarantined") == 0)
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

/* Whether users' kernels run there: "yes", or why not, of each kind of devices where they differ. */
static const char *users_kernels(const json_t *node, char *text, size_t text_bytes)
{
    const json_t *kinds = json_object_get(node, "users_kernels"), *word, *cpu = json_object_get(kinds, "cpu");
    const bool alike = !cpu || json_object_size(kinds) < 2 || json_equal(cpu, json_object_get(kinds, "cuda"));
    const char *kind;
    size_t used = 0;
    snprintf(text, text_bytes, "-");
    json_object_foreach((json_t *)(uintptr_t)kinds, kind, word)
    {
        if (used < text_bytes)
            used += (size_t)snprintf(text + used, text_bytes - used, "%s%s%s%s", used ? "; " : "",
                                     alike ? "" : kind, alike ? "" : " ", json_string_value(word));
        if (alike)
            break;
    }
    return text;
}

static void add_row(struct table *table, const json_t *node, bool wide)
{
    char text[FORMAT_BYTES];
    const bool up = strcmp(client_text(node, "state"), "up") == 0;
    const bool gone = !up && strcmp(client_text(node, "state"), "suspect") != 0;
    const char *state = up && client_flag(node, "draining") ? "draining" : client_text(node, "state");
    if (up && in_fault(node))
        state = "fault";
    if (!gone && client_flag(node, "quarantined"))
        state = "quarantined";
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
    const char *sandbox = client_text(node, "sandbox"); /* "" of a program before 0.2 */
    table_cell(table, "%s", sandbox[0] ? sandbox : "-");
    if (strncmp(sandbox, "no ", 3) == 0)
        table_colour(table, TABLE_YELLOW);
    char kernels[96];
    table_cell(table, "%s", users_kernels(node, kernels, sizeof kernels));
    if (strchr(kernels, ' '))
        table_colour(table, TABLE_YELLOW);
}

static void show_summary(const json_t *reply)
{
    const json_t *summary = client_member(reply, "summary");
    static const char *const states[] = {"up", "suspect", "down", "left", "revoked", "quarantined"};
    char text[FORMAT_BYTES];
    const char *separator = "";
    putchar('\n');
    for (int i = 0; i < 6; i++) {
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

/* ---- -v: the devices */

/* "31.2 GFLOP/s" */
static const char *rate(int64_t millions, const char *unit, char text[FORMAT_BYTES])
{
    static const char *const prefixes[] = {"M", "G", "T", "P"};
    double value = (double)millions;
    int prefix = 0;
    for (; value >= 1000 && prefix < 3; prefix++)
        value /= 1000;
    if (millions <= 0)
        snprintf(text, FORMAT_BYTES, "-");
    else
        snprintf(text, FORMAT_BYTES, value < 100 ? "%.1f %s%s" : "%.0f %s%s", value, prefixes[prefix], unit);
    return text;
}

static void add_part(char *text, size_t text_bytes, int64_t count, const char *word)
{
    const size_t used = strlen(text);
    if (count > 0)
        snprintf(text + used, text_bytes - used, "%s%lld %s", used ? ", " : "", (long long)count, word);
}

static void add_kind(struct table *table, const json_t *node, const json_t *kind, int64_t now_ms)
{
    char state[96] = "", text[FORMAT_BYTES];
    const int64_t measured_at = client_number(kind, "measured_at"),
                  memory = client_number(kind, "memory_bytes");
    const json_t *reclaim = json_object_get(node, "reclaim_p99_ms");
    add_part(state, sizeof state, client_number(kind, "spare"), "spare");
    add_part(state, sizeof state, client_number(kind, "owned"), "owned");
    add_part(state, sizeof state, client_number(kind, "cooling"), "cooling");
    add_part(state, sizeof state, client_number(kind, "fault"), "fault");
    table_cell(table, "%s", client_text(node, "name"));
    char devices[64];
    snprintf(devices, sizeof devices, "%lld %s", (long long)client_number(kind, "count"),
             client_text(kind, "kind"));
    if (client_text(kind, "compute")[0])
        snprintf(devices + strlen(devices), sizeof devices - strlen(devices), " %s",
                 client_text(kind, "compute"));
    if (memory > 0)
        snprintf(devices + strlen(devices), sizeof devices - strlen(devices), ", %s",
                 format_bytes((uint64_t)memory, text));
    table_cell(table, "%s", devices);
    table_cell(table, "%s", state);
    if (client_number(kind, "fault") > 0)
        table_colour(table, TABLE_RED);
    table_cell(table, "%s", rate(client_number(kind, "mflops"), "FLOP/s", text));
    table_cell(table, "%s", rate(client_number(kind, "memory_mbps"), "B/s", text));
    table_cell(table, "%s", rate(client_number(kind, "link_mbps"), "B/s", text));
    table_cell(table, "%s", format_age(measured_at > 0 ? now_ms - measured_at : -1, text));
    table_cell(table, "%s",
               json_is_integer(reclaim) ? format_elapsed(json_integer_value(reclaim), text) : "-");
}

/* Of the node asked more is known: each device that isn't simply to be lent, and why. */
static void show_own(const json_t *node)
{
    size_t i;
    const json_t *device;
    json_array_foreach(json_object_get(node, "own_devices"), i, device)
    {
        const char *state = client_text(device, "state"), *cause = client_text(device, "cause");
        const char *who = client_text(device, "who"), *reason = client_text(device, "reason");
        char text[FORMAT_BYTES];
        if (strcmp(state, "spare") == 0 || strcmp(state, "lent") == 0)
            continue;
        printf("%s %s: %s", client_text(node, "name"), client_text(device, "device"),
               strcmp(state, "owned") == 0     ? "its owner has it"
               : strcmp(state, "reclaim") == 0 ? "goes to its owner"
               : strcmp(state, "fault") != 0   ? "cools down"
               : reason[0]                     ? reason
                                               : "at fault, see its log");
        if (cause[0])
            printf(" (%s%s%s)", cause, who[0] ? ": " : "", who);
        if (json_is_integer(json_object_get(device, "until")))
            printf(" until %s", format_time(client_number(device, "until"), text));
        if (json_is_integer(json_object_get(device, "lent_in_ms")))
            printf(", lent again in %s", format_duration(client_number(device, "lent_in_ms"), text));
        putchar('\n');
    }
}

/* Blobs that its workers hold: a job that needs one costs less to place there. */
static void show_residents(const json_t *node)
{
    size_t i;
    const json_t *name;
    json_array_foreach(json_object_get(node, "residents"), i, name)
        printf("%s%s%s", i == 0 ? client_text(node, "name") : "", i == 0 ? " holds blobs " : ", ",
               json_string_value(name));
    if (i > 0)
        putchar('\n');
}

static void show_devices(const json_t **rows, size_t count, int64_t now_ms)
{
    static const struct table_column columns[] = {
        {.title = "NAME", .cut = true},     {.title = "DEVICES"},
        {.title = "STATE", .cut = true},    {.title = "DOES", .right = true},
        {.title = "MEMORY", .right = true}, {.title = "LINK", .right = true},
        {.title = "AGE", .right = true},    {.title = "RECLAIM", .right = true}};
    struct table *table = table_open(columns, 8);
    for (size_t i = 0; i < count; i++) {
        size_t k;
        const json_t *kind;
        json_array_foreach(json_object_get(rows[i], "devices"), k, kind)
            add_kind(table, rows[i], kind, now_ms);
    }
    putchar('\n');
    if (table_rows(table) > 0)
        table_print_wide(table, stdout);
    table_close(table);
    for (size_t i = 0; i < count; i++)
        if (client_flag(rows[i], "self"))
            show_own(rows[i]);
    for (size_t i = 0; i < count; i++)
        show_residents(rows[i]);
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
                                                  {.title = "INC", .right = true},
                                                  {.title = "SANDBOX"},
                                                  {.title = "USERS' KERNELS"}};
    const json_t *nodes = client_member(reply, "nodes");
    const size_t count = json_array_size(nodes);
    const json_t **rows = calloc(count + 1, sizeof *rows);
    if (!rows)
        abort();
    for (size_t i = 0; i < count; i++)
        rows[i] = json_array_get(nodes, i);
    qsort(rows, count, sizeof *rows, compare);
    struct table *table = table_open(columns, cli->wide ? 17 : 8);
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
        if (cli_has(cli, "verbose"))
            show_devices(rows, count, client_number(client_member(reply, "view"), "at"));
        show_summary(reply);
    }
    table_close(table);
    free(rows);
    return EXIT_DONE;
}

static int forgive(struct cli *cli, const char *name)
{
    json_t *request = json_pack("{s:s, s:s}", "op", "forgive", "node", name);
    json_t *reply = NULL;
    if (!request)
        return cli_usage(cli, "the node must be UTF-8 text");
    const int code = cli_call(cli, request, &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json)
        cli_print_json(reply);
    else
        printf("%s gets work of %s's jobs again, and is checked as a new node is\n",
               client_text(reply, "node"), client_text(reply, "at"));
    json_decref(reply);
    return EXIT_DONE;
}

static int nodes(struct cli *cli)
{
    if (cli_has(cli, "forgive"))
        return forgive(cli, cli_value(cli, "forgive", ""));
    return cli_list(cli, json_pack("{s:s}", "op", "nodes"), show);
}

static const struct cli_option options[] = {
    CLI_NODE,
    CLI_LISTING,
    {'v', "verbose", NULL, "the devices too: who has them, what they do"},
    {0, "forgive", "NAME", "lift this node's quarantine at the node asked"},
    {0}};

const struct cli_command cli_nodes = {
    .name = "nodes",
    .arguments = "",
    .summary = "the nodes of the mesh, what is wrong and what to do",
    .notes = "STATE: up, suspect (silent, gets no new work), down, fault (lends nothing, see\n"
             "NOTE), draining, left, revoked, quarantined (brought a wrong result: no work of\n"
             "the jobs of the node asked, until --forgive).\n"
             "FREE/SLOTS: shards it can take now, and at most. QUEUE: bundles waiting there.\n"
             "RTT: round trip. SEEN: when it was last heard, or since when it is gone.\n"
             "-v: DOES, MEMORY, LINK: what a canary measured AGE ago, float32 products and\n"
             "bytes in memory and from the host. RECLAIM: how long owners waited (p99).\n"
             "-o wide: PROTOCOL is spoken with the node asked, SANDBOX its own (weir doctor).\n"
             "* is the node asked.\n",
    .example = "weir nodes --watch",
    .options = options,
    .run = nodes,
};
