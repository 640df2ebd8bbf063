/* weir jobs: the jobs whose home is this node, or one of them in full. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *const states[] = {"preparing", "running", "done", "failed", "cancelled", NULL};

static enum table_colour state_colour(const char *state)
{
    if (strcmp(state, "failed") == 0 || strcmp(state, "stalled") == 0)
        return TABLE_RED;
    if (strcmp(state, "cancelled") == 0)
        return TABLE_DIM;
    return strcmp(state, "done") == 0 ? TABLE_GREEN : TABLE_PLAIN;
}

static int show_ids(const json_t *jobs)
{
    size_t i;
    const json_t *job;
    json_array_foreach(jobs, i, job) printf("%s\n", client_text(job, "id"));
    return EXIT_DONE;
}

static int show_jobs(struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {
        {.title = "ID"},
        {.title = "KERNEL"},
        {.title = "STATE"},
        {.title = "DONE", .right = true},
        {.title = "CACHED", .right = true},
        {.title = "RUNNING", .right = true},
        {.title = "REASSIGNED", .right = true},
        {.title = "TIME", .right = true},
        {.title = "AGE", .right = true},
        {.title = "TENANT", .cut = true},
        {.title = "ERROR", .cut = true},
    };
    const json_t *jobs = client_member(reply, "jobs");
    if (cli->quiet)
        return show_ids(jobs);
    struct table *table = table_open(columns, cli->wide ? 11 : 9);
    size_t i;
    const json_t *job;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    json_array_foreach(jobs, i, job)
    {
        char id[FORMAT_BYTES], time[FORMAT_BYTES], age[FORMAT_BYTES];
        const bool stalled = *client_text(job, "stalled");
        const char *state = stalled ? "stalled" : client_text(job, "state");
        table_cell(table, "%s", format_id(client_text(job, "id"), id));
        table_cell(table, "%s", client_text(job, "kernel"));
        table_cell(table, "%s", state);
        table_colour(table, state_colour(state));
        table_cell(table, "%lld/%lld", (long long)client_number(job, "done"),
                   (long long)client_number(job, "shards"));
        table_cell(table, "%lld", (long long)client_number(job, "cached"));
        table_cell(table, "%lld", (long long)client_number(job, "running"));
        table_cell(table, "%lld", (long long)client_number(job, "reassigned"));
        table_cell(table, "%s", format_duration(client_number(job, "elapsed_ms"), time));
        table_cell(table, "%s", format_age(now_ms - client_number(job, "created_at"), age));
        if (cli->wide) {
            table_cell(table, "%s", client_text(job, "tenant"));
            table_cell(table, "%s", client_text(job, stalled ? "stalled" : "error"));
        }
    }
    table_print(table, stdout);
    printf("%d %s with %s home at this node\n", table_rows(table), table_rows(table) == 1 ? "job" : "jobs",
           table_rows(table) == 1 ? "its" : "their");
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
        printf("]%s%s%s%s\n", *role ? ", " : "", role, *blob ? "  blob:" : "", blob);
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
    printf("submitted   %s by %s, home %s\n", format_time(client_number(job, "created_at"), created),
           client_text(job, "tenant"), client_text(job, "home"));
    printf("time        %s\n", format_duration(client_number(job, "elapsed_ms"), took));
    printf(
        "shards      %lld of %lld done, %lld from the cache, %lld running, %lld waiting, %lld reassigned\n",
        (long long)client_number(job, "done"), (long long)client_number(job, "shards"),
        (long long)client_number(job, "cached"), (long long)client_number(job, "running"),
        (long long)(client_number(job, "queued") + client_number(job, "looking_up")),
        (long long)client_number(job, "reassigned"));
    print_arrays("inputs", client_member(job, "inputs"));
    print_arrays("outputs", client_member(job, "outputs"));
    print_shares(client_member(job, "by_node"));
    return EXIT_DONE;
}

static int jobs_run(struct cli *cli)
{
    const char *state = cli_value(cli, "state", NULL);
    if (cli->argc == 1) {
        if (state)
            return cli_usage(cli, "--state chooses from the list of jobs and does not go with an id");
        return cli_list(cli, json_pack("{s:s, s:s}", "op", "job", "job", cli->argv[0]), show_job);
    }
    json_t *request = json_pack("{s:s}", "op", "jobs");
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
    CLI_LISTING,
    CLI_NODE,
    {0},
};

const struct cli_command cli_jobs = {
    .name = "jobs",
    .arguments = "[ID]",
    .summary = "the jobs of this node, or one of them in full",
    .options = options,
    .run = jobs_run,
    .positional_min = 0,
    .positional_max = 1,
    .example = "weir jobs --state running\nweir jobs 1f3a9c02 --watch",
};
