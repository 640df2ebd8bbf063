/* weir revoke: shuts a node, or all nodes of a site, out of the federation. */
#include "node/cli/cli.h"

#include <stdio.h>

static int revoke(struct cli *cli)
{
    const char *reason = cli_value(cli, "reason", "");
    if (!reason[0])
        return cli_usage(cli, "--reason TEXT is needed, for the people of the other sites to read");
    json_t *request = json_pack("{s:s, s:s, s:s}", "op", "revoke", "target", cli->argv[0], "reason", reason);
    if (!request)
        return cli_usage(cli, "the node and the reason must be UTF-8 text");
    json_t *reply = NULL;
    const int code = cli_call(cli, request, &reply);
    if (code != EXIT_DONE)
        return code;
    size_t i;
    const json_t *revoked;
    if (cli->json) {
        cli_print_json(reply);
    } else {
        json_array_foreach(client_member(reply, "revoked"), i, revoked)
        {
            printf("revoked %.8s %s of site %s\n", client_text(revoked, "id"), client_text(revoked, "name"),
                   client_text(revoked, "site"));
        }
    }
    json_decref(reply);
    return EXIT_DONE;
}

static const struct cli_option options[] = {
    CLI_NODE,
    {'r', "reason", "TEXT", "why: others read it (up to 200 bytes)"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_revoke = {
    .name = "revoke",
    .arguments = "NODE|SITE",
    .summary = "shut a node or a site out for good",
    .notes = "The asked node signs it and tells the others, who close their links within\n"
             "seconds. Who was revoked can only come back with new keys and a new token.\n"
             "Revoking a node that may invite also cuts off those whom it invited, until\n"
             "another inviter renews them. No node revokes itself: ask another.\n",
    .example = "weir revoke 3fa94c02 --reason 'disk was stolen'",
    .options = options,
    .run = revoke,
    .positional_min = 1,
    .positional_max = 1,
};
