/* weir drain: lets a node finish what it has, then ends it. */
#include "node/cli/cli.h"

#include <stdio.h>
#include <unistd.h>

static void show(const struct cli *cli, const json_t *reply)
{
    if (cli->json)
        cli_print_json(reply);
    else if (isatty(STDERR_FILENO))
        fprintf(stderr,
                "\r%lld running, %lld waiting, %lld unacknowledged, %lld jobs, %lld to hand over \033[K",
                (long long)client_number(reply, "running"), (long long)client_number(reply, "waiting"),
                (long long)client_number(reply, "unacked"), (long long)client_number(reply, "jobs"),
                (long long)client_number(reply, "finished"));
}

static int drain(struct cli *cli)
{
    cli_catch_interrupts();
    int code = cli_connect(cli);
    if (code != EXIT_DONE)
        return code;
    client_set_timeout(cli->client, 0);
    struct client_failure failure;
    code = (int)client_begin(cli->client, json_pack("{s:s}", "op", "drain"), &failure);
    bool final = false;
    long long handed = 0, alone = 0;
    while (code == EXIT_DONE && !final) {
        json_t *reply = NULL;
        code = (int)client_next(cli->client, &reply, &final, &failure);
        if (code == EXIT_DONE && (!final || cli->json))
            show(cli, reply);
        if (code == EXIT_DONE && final) {
            handed = client_number(reply, "handed_over");
            alone = client_number(reply, "kept_by_nobody_else");
        }
        json_decref(reply);
    }
    if (!cli->json && isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (code == EXIT_INTERRUPTED)
        return cli_fail(EXIT_INTERRUPTED, "the node goes on draining; `weir nodes` shows when it has left");
    if (code != EXIT_DONE)
        return cli_fail((enum exit_code)code, "%s", failure.text);
    if (alone > 0)
        fprintf(stderr, "weir: no other node took %lld finished job%s: %s on this node's disk alone\n", alone,
                alone == 1 ? "" : "s", alone == 1 ? "it is" : "they are");
    if (!cli->json && handed > 0)
        printf("drained: %lld finished job%s handed over, the node has left the mesh and ends\n", handed,
               handed == 1 ? " was" : "s were");
    else if (!cli->json)
        puts("drained: the node has left the mesh and ends");
    return EXIT_DONE;
}

static const struct cli_option options[] = {CLI_NODE, CLI_JSON, {0}};

const struct cli_command cli_drain = {
    .name = "drain",
    .arguments = "",
    .summary = "let a node finish what it has, leave and end",
    .notes = "It takes no new work, gives back what is not running, hands its own jobs over to\n"
             "others that keep them or finishes them, hands finished ones on that too few\n"
             "others keep, and ends once nothing is left, with exit code 0. Ctrl-C stops\n"
             "looking on, not the drain.\n",
    .example = "weir drain --node /run/weir/api.sock",
    .options = options,
    .run = drain,
};
