#include "node/cli/cli.h"

#include <stdio.h>

static int cancel_run(struct cli *cli)
{
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s, s:s}", "op", "cancel", "job", cli->argv[0]), &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json)
        cli_print_json(reply);
    else
        printf("%.16s %s\n", client_text(reply, "job"), client_text(reply, "state"));
    json_decref(reply);
    return EXIT_DONE;
}

static const struct cli_option options[] = {CLI_JSON, CLI_NODE, {0}};

const struct cli_command cli_cancel = {
    .name = "cancel",
    .arguments = "ID",
    .summary = "end a job; its shards stop wherever they run",
    .options = options,
    .run = cancel_run,
    .positional_min = 1,
    .positional_max = 1,
    .example = "weir cancel 1f3a9c02",
};
