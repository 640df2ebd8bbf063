/* weir jobs: the jobs whose home is this node, what is unfinished first, then the newest; or one of them in full. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROWS_SHOWN 18  /* with the title, what is said below and the prompt they fit a terminal of 24 lines */
#define ROWS_MAX 10000 /* the most that a node tells at once */

static const char *const states[] = {"preparing", "running", "done", "failed", "cancelled", NULL};

static enum table_colour state_colour(const char *state)
{
    if (strcmp(state, "failed") == 0 || strcmp(state, "stalled") == 0 || strcmp(state, "disputed") == 0)
        return TABLE_RED;
    if (strcmp(state, "cancelled") == 0)
        return TABLE_DIM;
    return strcmp(state, "done") == 0 ? TABLE_GREEN : TABLE_PLAIN;
}

/* "18 of 523 jobs of the mesh; 1 node did not answer": of those that match, if a state was asked for. */
static void print_mesh_counts(FILE *out, const json_t *reply)
{
    const long long silent = (long long)client_number(reply, "silent");
    const int64_t shown = (int64_t)json_array_size(client_member(reply, "jobs"));
    const int64_t left_out = client_number(reply, "left_out"), matching = client_number(reply, "matching");
    fprintf(out, "%lld of %s%lld jobs of the mesh", (long long)shown,
            matching < shown + left_out ? "more than " : "", (long long)client_number(reply, "total"));
    if (left_out > 0)
        fprintf(out, "; %lld%s left out", (long long)left_out, matching < shown + left_out ? " or more" : "");
    if (silent > 0)
        fprintf(out, "; %lld node%s did not answer", silent, silent == 1 ? "" : "s");
    fputc('\n', out);
}

/* On standard error, for those who read ids or JSON: a list that is not whole looks like one that is. */
static void warn_of_gaps(const json_t *reply)
{
    if (client_number(reply, "left_out") == 0 && client_number(reply, "silent") == 0)
        return;
    fflush(stdout);
    fputs("weir: ", stderr);
    print_mesh_counts(stderr, reply);
}

/* "508 jobs have their home at this node: 1 running, 507 done." and how many of them are not shown. */
static void print_counts(FILE *out, const json_t *reply)
{
    const json_t *counts = client_member(reply, "counts");
    const int64_t total = client_number(reply, "total");
    const int64_t matching = client_number(reply, "matching");
    const int64_t shown = (int64_t)json_array_size(client_member(reply, "jobs"));
    fprintf(out, "%lld %s at this node", (long long)total,
            total == 1 ? "job has its home" : "jobs have their home");
    const char *separator = ": ";
    for (int s = 0; states[s]; s++) {
        const int64_t count = client_number(counts, states[s]);
        if (count > 0) {
            fprintf(out, "%s%lld %s", separator, (long long)count, states[s]);
            separator = ", ";
        }
    }
    fputc('\n', out);
    if (shown < matching)
        fprintf(out, "%lld more %s not shown: --all, --limit N, --state STATE\n",
                (long long)(matching - shown), matching - shown == 1 ? "is" : "are");
}

static int show_ids(const json_t *reply)
{
    const json_t *jobs = client_member(reply, "jobs");
    size_t i;
    const json_t *job;
    json_array_foreach(jobs, i, job) printf("%s\n", client_text(job, "id"));
    if (!json_object_get(reply, "silent") && (int64_t)json_array_size(jobs) == ROWS_MAX &&
        client_number(reply, "matching") > ROWS_MAX)
        print_counts(stderr, reply);
    return EXIT_DONE;
}

/* A number that only the job's home knows: "-" while that is out of reach. */
static const char *known(const json_t *job, const char *name, char text[FORMAT_BYTES])
{
    if (json_is_null(json_object_get(job, name)))
        return "-";
    snprintf(text, FORMAT_BYTES, "%lld", (long long)client_number(job, name));
    return text;
}

static int show_jobs(struct cli *cli, const json_t *reply)
{
    static const char *const numbers[] = {"cached", "running", "reassigned"};
    static const struct table_column columns[] = {
        {.title = "ID"},
        {.title = "KERNEL", .cut = true},
        {.title = "STATE"},
        {.title = "DONE", .right = true},
        {.title = "CACHED", .right = true},
        {.title = "RUNNING", .right = true},
        {.title = "MOVED", .right = true},
        {.title = "TIME", .right = true},
        {.title = "AGE", .right = true},
        {.title = "HOME", .cut = true},
        {.title = "COPIES", .right = true},
        {.title = "TENANT"},
        {.title = "ERROR"},
    };
    const json_t *jobs = client_member(reply, "jobs");
    if (cli->quiet)
        return show_ids(reply);
    const bool mesh = cli_has(cli, "mesh");
    struct table *table = table_open(columns, cli->wide ? 13 : mesh ? 10 : 9);
    size_t i;
    const json_t *job;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    json_array_foreach(jobs, i, job)
    {
        char id[FORMAT_BYTES], time[FORMAT_BYTES], age[FORMAT_BYTES];
        const bool stalled = *client_text(job, "stalled");
        const bool disputed = client_number(job, "disputed") > 0;
        const char *state = stalled ? "stalled" : disputed ? "disputed" : client_text(job, "state");
        table_cell(table, "%s", format_id(client_text(job, "id"), id));
        table_cell(table, "%s", client_text(job, "kernel"));
        table_cell(table, "%s", state);
        table_colour(table, state_colour(state));
        char done[FORMAT_BYTES];
        table_cell(table, "%s/%lld", known(job, "done", done), (long long)client_number(job, "shards"));
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
            table_cell(table, "%s", known(job, numbers[n], done));
        table_cell(table, "%s", format_elapsed(client_number(job, "elapsed_ms"), time));
        table_cell(table, "%s", format_age(now_ms - client_number(job, "created_at"), age));
        if (cli->wide || mesh)
            table_cell(table, "%s", *client_text(job, "home") ? client_text(job, "home") : "-");
        if (cli->wide) {
            table_cell(table, "%lld", (long long)client_number(job, "replicas"));
            table_cell(table, "%s", client_text(job, "tenant"));
            table_cell(table, "%s", client_text(job, stalled ? "stalled" : "error"));
        }
    }
    if (table_rows(table) > 0) {
        if (cli->wide)
            table_print_wide(table, stdout);
        else
            table_print(table, stdout);
        putchar('\n');
    }
    if (mesh)
        print_mesh_counts(stdout, reply);
    else
        print_counts(stdout, reply);
    table_close(table);
    return EXIT_DONE;
}

/* ---- One job */

static void print_arrays(const char *title, const json_t *arrays)
{
    size_t i;
    const json_t *array;
    json_array_foreach(arrays, i, array)
    {
        const char *blob = client_text(array, "blob"), *role = client_text(array, "role");
        printf("%-11s %s: %s [", i ? "" : title, client_text(array, "name"), client_text(array, "dtype"));
        size_t axis;
        const json_t *extent;
        json_array_foreach(client_member(array, "shape"), axis, extent)
            printf("%s%lld", axis ? ", " : "", (long long)json_integer_value(extent));
        printf("]%s%s%s%.16s\n", *role ? ", " : "", role, *blob ? "  blob:" : "",
               blob); /* as many digits do */
    }
}

static void print_shares(const json_t *nodes)
{
    static const struct table_column columns[] = {{.title = "NODE"},
                                                  {.title = "SITE"},
                                                  {.title = "SHARDS", .right = true},
                                                  {.title = "DEVICE TIME", .right = true}};
    if (json_array_size(nodes) == 0)
        return;
    struct table *table = table_open(columns, 4);
    size_t i;
    const json_t *node;
    json_array_foreach(nodes, i, node)
    {
        char time[FORMAT_BYTES];
        table_cell(table, "%s", client_text(node, "name"));
        table_cell(table, "%s", client_text(node, "site"));
        table_cell(table, "%lld", (long long)client_number(node, "shards"));
        table_cell(table, "%s", format_duration(client_number(node, "device_us") / 1000, time));
    }
    printf("\n");
    table_print(table, stdout);
    table_close(table);
}

static int show_job(struct cli *cli, const json_t *reply)
{
    const json_t *job = client_member(reply, "job");
    char created[FORMAT_BYTES], took[FORMAT_BYTES];
    if (cli->quiet) {
        printf("%s\n", client_text(job, "id"));
        return EXIT_DONE;
    }
    printf("job         %s\n", client_text(job, "id"));
    printf("kernel      %s", client_text(job, "kernel"));
    size_t i;
    const json_t *param;
    json_array_foreach(client_member(job, "params"), i, param) printf(" %s", json_string_value(param));
    printf("\nstate       ");
    table_write(stdout, state_colour(client_text(job, "state")), client_text(job, "state"));
    printf("%s%s\n", *client_text(job, "error") ? ": " : "", client_text(job, "error"));
    if (*client_text(job, "stalled"))
        printf("stalled     %s\n", client_text(job, "stalled"));
    printf("submitted   %s by %s, home %s", format_time(client_number(job, "created_at"), created),
           client_text(job, "tenant"), client_text(job, "home"));
    const long long copies = (long long)client_number(job, "replicas");
    if (copies > 1)
        printf(", %s at %lld nodes", client_number(job, "finished_at") > 0 ? "kept" : "its journal", copies);
    putchar('\n');
    if (client_text(job, "recheck_of")[0])
        printf("recheck of  %s: its results by a node that was caught later, computed again\n",
               client_text(job, "recheck_of"));
    if (client_number(job, "disputed") > 0)
        printf("disputed    %lld committed result%s proved wrong; `weir explain` tells whose\n",
               (long long)client_number(job, "disputed"), client_number(job, "disputed") == 1 ? "" : "s");
    if (strcmp(client_text(job, "verify"), "none") != 0)
        printf("verify      %s, %lld checks open, %lld results held\n", client_text(job, "verify"),
               (long long)client_number(job, "checks"), (long long)client_number(job, "held"));
    printf("time        %s\n", format_duration(client_number(job, "elapsed_ms"), took));
    printf("shards      %lld/%lld done, %lld cached, %lld running, %lld waiting, %lld moved\n",
           (long long)client_number(job, "done"), (long long)client_number(job, "shards"),
           (long long)client_number(job, "cached"), (long long)client_number(job, "running"),
           (long long)(client_number(job, "queued") + client_number(job, "looking_up")),
           (long long)client_number(job, "reassigned"));
    print_arrays("inputs", client_member(job, "inputs"));
    print_arrays("outputs", client_member(job, "outputs"));
    print_shares(client_member(job, "by_node"));
    return EXIT_DONE;
}

/* How many jobs to ask for: all that a node tells at once for programs, what fits the screen for people. */
static bool rows_wanted(struct cli *cli, int64_t *rows)
{
    const bool terminal = isatty(STDOUT_FILENO);
    *rows = cli->json || cli->quiet || cli_has(cli, "all") ? ROWS_MAX : ROWS_SHOWN;
    if (!cli_number(cli, "limit", 1, ROWS_MAX, rows))
        return false;
    const int room = cli_lines(STDOUT_FILENO) - 5; /* the title, two lines below, one between, the cursor's */
    if (cli->watch && terminal && !cli->json && *rows > room)
        *rows = room > 1 ? room : 1;
    return true;
}

static int jobs_run(struct cli *cli)
{
    const char *state = cli_value(cli, "state", NULL);
    int64_t rows = 0;
    if (cli->argc == 1) {
        if (state || cli_has(cli, "limit") || cli_has(cli, "all"))
            return cli_usage(cli, "--%s chooses from the list of jobs and does not go with an id",
                             state                   ? "state"
                             : cli_has(cli, "limit") ? "limit"
                                                     : "all");
        return cli_list(cli, json_pack("{s:s, s:s}", "op", "job", "job", cli->argv[0]), show_job);
    }
    if (cli_has(cli, "limit") && cli_has(cli, "all"))
        return cli_usage(cli, "give --limit or --all, not both");
    if (!rows_wanted(cli, &rows))
        return EXIT_USAGE;
    json_t *request = json_pack("{s:s, s:I}", "op", "jobs", "limit", (json_int_t)rows);
    if (cli_has(cli, "mesh")) {
        json_object_set_new(request, "mesh", json_true());
        cli->warn = cli->json || cli->quiet ? warn_of_gaps : NULL;
    }
    if (state) {
        int s = 0;
        while (states[s] && strcmp(states[s], state) != 0)
            s++;
        if (!states[s]) {
            json_decref(request);
            return cli_usage(cli, "--state %s: give preparing, running, done, failed or cancelled", state);
        }
        json_object_set_new(request, "state", json_string(state));
    }
    return cli_list(cli, request, show_jobs);
}

static const struct cli_option options[] = {
    {'s', "state", "STATE", "preparing, running, done, failed or cancelled"},
    {'l', "limit", "N", "how many (18; with --json or --quiet 10000)"},
    {'a', "all", NULL, "no such limit, up to 10000"},
    {'m', "mesh", NULL, "those of all nodes, up to 10000 in all"},
    CLI_LISTING,
    CLI_NODE,
    {0},
};

const struct cli_command cli_jobs = {
    .name = "jobs",
    .arguments = "[ID]",
    .summary = "the jobs of this node, or one of them in full",
    .notes = "Unfinished jobs come first, then the newest. MOVED: shards queued again after\n"
             "they had gone to a node. -o wide adds the tenant and what went wrong.\n",
    .options = options,
    .run = jobs_run,
    .positional_min = 0,
    .positional_max = 1,
    .example = "weir jobs --state failed --limit 5 -o wide\nweir jobs 1f3a9c02 --watch",
};
