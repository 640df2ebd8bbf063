/* weir ping: measures the way between the asked node and another, over their encrypted link. */
#include "node/cli/cli.h"
#include "node/cli/format.h"

#include <stdio.h>

/* What has come so far; it is all there is to sum up after an interrupt. */
struct tally {
    int64_t sent, received;
    int64_t min_us, sum_us, max_us;
};

static void count_one(struct tally *tally, const json_t *reply)
{
    tally->sent++;
    if (client_flag(reply, "lost"))
        return;
    const int64_t rtt_us = client_number(reply, "rtt_us");
    tally->min_us = tally->received == 0 || rtt_us < tally->min_us ? rtt_us : tally->min_us;
    tally->max_us = rtt_us > tally->max_us ? rtt_us : tally->max_us;
    tally->sum_us += rtt_us;
    tally->received++;
}

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

static void show_tally(const struct tally *tally)
{
    char low[FORMAT_BYTES], middle[FORMAT_BYTES], high[FORMAT_BYTES];
    if (tally->received > 0)
        printf("%lld sent, %lld answered; min/avg/max %s/%s/%s\n", (long long)tally->sent,
               (long long)tally->received, format_rtt(tally->min_us, low),
               format_rtt(tally->sum_us / tally->received, middle), format_rtt(tally->max_us, high));
    else
        printf("%lld sent, none answered\n", (long long)tally->sent);
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
    struct tally tally = {0};
    bool final = false;
    while (code == EXIT_DONE && !final) {
        json_t *reply = NULL;
        code = (int)client_next(cli->client, &reply, &final, &failure);
        if (code == EXIT_DONE && !final) {
            count_one(&tally, reply);
            show_one(cli, reply);
        } else if (code == EXIT_DONE && cli->json) {
            cli_print_json(reply);
        }
        json_decref(reply);
    }
    if (code != EXIT_DONE && code != EXIT_INTERRUPTED)
        return cli_fail((enum exit_code)code, "%s", failure.text);
    if (!cli->json && tally.sent > 0)
        show_tally(&tally);
    if (code == EXIT_INTERRUPTED || tally.received == tally.sent)
        return code;
    return tally.received > 0 ? EXIT_PARTIAL : EXIT_UNREACHABLE;
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
