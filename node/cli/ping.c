/* weir ping: measures the way between the asked node and another, over their encrypted link. */
#include "node/cli/cli.h"
#include "node/cli/format.h"

#include <stdio.h>

static void show_one(const struct cli *cli, const json_t *reply)
{
    char text[FORMAT_BYTES];
    if (cli->json)
        cli_print_json(reply);
    else if (client_flag(reply, "lost"))
        printf("%s: seq=%lld no answer\n", cli->argv[0], (long long)client_number(reply, "seq"));
    else
        printf("%s: seq=%lld time=%s\n", cli->argv[0], (long long)client_number(reply, "seq"),
               format_rtt(client_number(reply, "rtt_us"), text));
    fflush(stdout);
}

static int show_all(const struct cli *cli, const json_t *reply)
{
    char low[FORMAT_BYTES], middle[FORMAT_BYTES], high[FORMAT_BYTES];
    const int64_t sent = client_number(reply, "sent"), received = client_number(reply, "received");
    if (cli->json)
        cli_print_json(reply);
    else if (received > 0)
        printf("%lld sent, %lld answered; min/avg/max %s/%s/%s\n", (long long)sent, (long long)received,
               format_rtt(client_number(reply, "min_us"), low),
               format_rtt(client_number(reply, "avg_us"), middle),
               format_rtt(client_number(reply, "max_us"), high));
    else
        printf("%lld sent, none answered\n", (long long)sent);
    return received == sent ? EXIT_DONE : received > 0 ? EXIT_PARTIAL : EXIT_UNREACHABLE;
}

static int ping(struct cli *cli)
{
    int64_t count = 4;
    if (!cli_number(cli, "count", 1, 1000, &count))
        return EXIT_USAGE;
    cli_catch_interrupts();
    int code = cli_connect(cli);
    if (code != EXIT_DONE)
        return code;
    struct client_failure failure;
    code = (int)client_begin(
        cli->client,
        json_pack("{s:s, s:s, s:I}", "op", "ping", "node", cli->argv[0], "count", (json_int_t)count),
        &failure);
    bool final = false;
    while (code == EXIT_DONE && !final) {
        json_t *reply = NULL;
        code = (int)client_next(cli->client, &reply, &final, &failure);
        if (code == EXIT_DONE && !final)
            show_one(cli, reply);
        else if (code == EXIT_DONE)
            code = show_all(cli, reply);
        else if (code != EXIT_INTERRUPTED)
            cli_fail((enum exit_code)code, "%s", failure.text);
        json_decref(reply);
    }
    return code;
}

static const struct cli_option options[] = {
    CLI_NODE, CLI_JSON, {'c', "count", "N", "how many pings, 1 to 1000 (4)"}, {0}};

const struct cli_command cli_ping = {
    .name = "ping",
    .arguments = "NODE",
    .summary = "measure the way from a node to another",
    .notes = "Exit code 6 when some pings were not answered, 4 when none was.\n",
    .example = "weir ping osaka -c 10",
    .options = options,
    .run = ping,
    .positional_min = 1,
    .positional_max = 1,
};
