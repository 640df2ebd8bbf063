#include "node/cli/cli.h"
#include "node/cli/format.h"

#include <stdio.h>

static void print_line(const struct cli *cli, const json_t *object)
{
    char at[FORMAT_BYTES];
    if (cli->json)
        cli_print_json(object);
    else if (json_object_get(object, "note"))
        fprintf(stderr, "weir: %s\n", client_text(object, "note"));
    else
        printf("%s  %s\n", format_time(client_number(object, "at"), at), client_text(object, "line"));
    fflush(stdout);
}

static int logs_run(struct cli *cli)
{
    const bool follow = cli_has(cli, "follow");
    if (follow)
        cli_catch_interrupts();
    const int connected = cli_connect(cli);
    if (connected != EXIT_DONE)
        return connected;
    if (follow)
        client_set_timeout(cli->client, 0); /* a waiting job says nothing */
    struct client_failure failure;
    int code = (int)client_begin(
        cli->client, json_pack("{s:s, s:s, s:b}", "op", "logs", "job", cli->argv[0], "follow", follow),
        &failure);
    bool final = false;
    while (code == EXIT_DONE && !final) {
        json_t *object = NULL;
        code = (int)client_next(cli->client, &object, &final, &failure);
        if (code == EXIT_DONE && !final)
            print_line(cli, object);
        json_decref(object);
    }
    if (code == EXIT_DONE || code == EXIT_INTERRUPTED)
        return code;
    return cli_fail((enum exit_code)code, "%s", failure.text);
}

static const struct cli_option options[] = {
    {'f', "follow", NULL, "go on until the job is finished"},
    {'j', "json", NULL, "print JSON, one object per line"},
    CLI_NODE,
    {0},
};

const struct cli_command cli_logs = {
    .name = "logs",
    .arguments = "ID",
    .summary = "what happened to a job, line by line",
    .options = options,
    .run = logs_run,
    .positional_min = 1,
    .positional_max = 1,
    .example = "weir logs 1f3a9c02 -f",
};
