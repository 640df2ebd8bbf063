/* weir reclaim, weir release: a device goes to its owner, and back to the mesh. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/duration.h"

#include <stdio.h>
#include <string.h>

static json_t *request_of(const struct cli *cli, const char *op)
{
    return json_pack("{s:s, s:s, s:s}", "op", op, "device", cli->argc > 0 ? cli->argv[0] : "", "by",
                     cli_value(cli, "by", ""));
}

static void tell_reclaimed(const json_t *row)
{
    char text[FORMAT_BYTES];
    const json_t *until = json_object_get(row, "until");
    printf("%s is yours", client_text(row, "device"));
    if (json_is_integer(until))
        printf(" until %s", format_time(json_integer_value(until), text));
    if (client_number(row, "reclaim_ms") > 0)
        printf("; it was free after %lld ms", (long long)client_number(row, "reclaim_ms"));
    putchar('\n');
}

/* Sends the request and tells of each device of the reply, which the caller frees unless the code is another than EXIT_DONE. */
static int call_and_tell(struct cli *cli, json_t *request, void (*tell)(const json_t *row), json_t **reply)
{
    const int code = cli_call(cli, request, reply);
    if (code != EXIT_DONE)
        return code;
    size_t i;
    const json_t *row;
    if (cli->json)
        cli_print_json(*reply);
    else
        json_array_foreach(client_member(*reply, "devices"), i, row) tell(row);
    return EXIT_DONE;
}

static int reclaim(struct cli *cli)
{
    json_t *request = request_of(cli, "reclaim");
    const char *span = cli_value(cli, "for", "");
    int64_t seconds = 0;
    if (span[0] && (!duration_parse(span, &seconds) || seconds == 0)) {
        json_decref(request);
        return cli_usage(cli, "--for takes a duration such as 30m or 2h, not '%s'", span);
    }
    if (!request)
        return cli_usage(cli, "the device must be UTF-8 text");
    json_object_set_new(request, "for_s", json_integer(seconds));
    json_t *reply = NULL;
    const int code = call_and_tell(cli, request, tell_reclaimed, &reply);
    if (code != EXIT_DONE)
        return code;
    if (!cli->json && !client_flag(reply, "kept"))
        fputs("weir: the claim could not be saved: it ends if the node is restarted; mend its disk\n",
              stderr);
    json_decref(reply);
    return EXIT_DONE;
}

static void tell_released(const json_t *row)
{
    const char *device = client_text(row, "device"), *state = client_text(row, "state");
    const char *who = client_text(row, "who");
    if (json_is_string(json_object_get(row, "cause")))
        printf("%s stays its owner's: %s%s%s\n", device, client_text(row, "cause"), who[0] ? " of " : "",
               who);
    else if (strcmp(state, "cooling") == 0)
        printf("%s is lent again in %lld s\n", device,
               (long long)(client_number(row, "lent_in_ms") + 999) / 1000);
    else if (strcmp(state, "fault") == 0)
        printf("%s is not lent: it failed, see the node's log\n", device);
    else
        printf("%s is lent\n", device);
}

static int release(struct cli *cli)
{
    json_t *request = request_of(cli, "release");
    if (!request)
        return cli_usage(cli, "the device must be UTF-8 text");
    json_object_set_new(request, "now", json_boolean(cli_has(cli, "now")));
    json_t *reply = NULL;
    const int code = call_and_tell(cli, request, tell_released, &reply);
    if (code != EXIT_DONE)
        return code;
    json_decref(reply);
    return EXIT_DONE;
}

static const struct cli_option reclaim_options[] = {
    CLI_NODE,
    {'f', "for", "DURATION", "end by itself after so long, such as 2h"},
    {0, "by", "NAME", "for whom, such as slurm-17: a claim of its own"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_reclaim = {
    .name = "reclaim",
    .arguments = "[DEVICE]",
    .summary = "take a device of this node back for its owner",
    .notes = "DEVICE is cpu:0, cuda:1, ... as `weir doctor` lists them, or cpu or cuda for\n"
             "all of a kind; without it, all. Returns when it is free: what ran there was told\n"
             "to stop, killed if it did not within work.owner_grace_ms, and goes on elsewhere.\n"
             "The claim outlives a restart of the node and ends with `weir release`, or --for.\n"
             "A later claim of the same device takes the place of the earlier one, if it is by\n"
             "the same: claims by NAME stand beside yours, and end with `weir release --by`.\n",
    .example = "weir reclaim cuda:0 --for 2h",
    .options = reclaim_options,
    .run = reclaim,
    .positional_max = 1,
};

static const struct cli_option release_options[] = {
    CLI_NODE,
    {0, "now", NULL, "lend it at once, without the cool-down"},
    {0, "by", "NAME", "end the claim that was made for NAME, not yours"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_release = {
    .name = "release",
    .arguments = "[DEVICE]",
    .summary = "give a device back to the mesh",
    .notes = "Ends your claim of `weir reclaim`, or that by NAME. The device is lent again\n"
             "after a minute of quiet, later if it was taken back often; --now does not\n"
             "wait. Other claims stay: by others, hours of the settings, programs seen.\n",
    .example = "weir release cuda:0",
    .options = release_options,
    .run = release,
    .positional_max = 1,
};
