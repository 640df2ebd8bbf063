/* weir invite: one-time tokens with which other machines join. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/member.h"
#include "node/cli/table.h"

#include <stdio.h>

static int create(struct cli *cli)
{
    const char *site = cli_value(cli, "site", NULL), *user = cli_value(cli, "user", NULL);
    int64_t expires_s = 0, lifetime_s = 0;
    if (!member_span(cli, "expires", &expires_s) || !member_span(cli, "lifetime", &lifetime_s))
        return EXIT_USAGE;
    json_t *request = json_pack("{s:s, s:s, s:s*}", "op", "invite.create", "site", site, "user", user);
    if (!request)
        return cli_usage(cli, "a name is of a-z, 0-9 and '-'");
    if (expires_s)
        json_object_set_new(request, "expires_s", json_integer(expires_s));
    if (lifetime_s)
        json_object_set_new(request, "lifetime_s", json_integer(lifetime_s));
    if (cli_has(cli, "may-invite"))
        json_object_set_new(request, "may_invite", json_true());
    json_t *reply = NULL;
    const int code = cli_call(cli, request, &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json) {
        cli_print_json(reply);
    } else {
        char until[MEMBER_TIME_BYTES];
        printf("%s\n", client_text(reply, "token"));
        fprintf(stderr,
                "invitation %.8s for site %s, good once until %s\n"
                "next, on the other machine: weir join --token-file -%s\n",
                client_text(reply, "id"), site, member_time(client_number(reply, "expires_at") / 1000, until),
                user ? " --user" : "");
    }
    json_decref(reply);
    return EXIT_DONE;
}

static int show(struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {
        {.title = "ID"},    {.title = "SITE", .cut = true}, {.title = "USER", .cut = true},
        {.title = "STATE"}, {.title = "EXPIRES"},           {.title = "USED BY", .cut = true}};
    struct table *table = table_open(columns, 6);
    size_t i;
    const json_t *invite;
    json_array_foreach(client_member(reply, "invites"), i, invite)
    {
        char id[FORMAT_BYTES], until[MEMBER_TIME_BYTES];
        const char *user = client_text(invite, "user"), *by = client_text(invite, "used_by");
        if (cli->quiet) {
            puts(client_text(invite, "id"));
            continue;
        }
        table_cell(table, "%s", format_id(client_text(invite, "id"), id));
        table_cell(table, "%s", client_text(invite, "site"));
        table_cell(table, "%s", user[0] ? user : "-");
        table_cell(table, "%s", client_text(invite, "state"));
        table_cell(table, "%s", member_time(client_number(invite, "expires_at") / 1000, until));
        table_cell(table, "%s", by[0] ? by : "-");
    }
    if (!cli->quiet)
        table_print(table, stdout);
    table_close(table);
    return EXIT_DONE;
}

static int cancel(struct cli *cli, const char *id)
{
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s, s:s}", "op", "invite.cancel", "id", id), &reply);
    if (code == EXIT_DONE && cli->json)
        cli_print_json(reply);
    else if (code == EXIT_DONE)
        puts("cancelled");
    json_decref(reply);
    return code;
}

static int invite(struct cli *cli)
{
    const bool list = cli_has(cli, "list");
    const char *id = cli_value(cli, "cancel", NULL);
    if (cli_has(cli, "site") + list + (id != NULL) != 1)
        return cli_usage(cli, "one of --site NAME, --list and --cancel ID is needed");
    if (list)
        return cli_list(cli, json_pack("{s:s}", "op", "invite.list"), show);
    return id ? cancel(cli, id) : create(cli);
}

static const struct cli_option options[] = {
    CLI_NODE,
    {'s', "site", "NAME", "the site that the guest will belong to"},
    {'u', "user", "NAME", "for a person who only submits, not for a node"},
    {'e', "expires", "SPAN", "how long it is good: 30m, 24h, 7d (24h)"},
    {0, "lifetime", "SPAN", "of the guest's certificate (as this node's)"},
    {0, "may-invite", NULL, "the guest may itself invite, renew and revoke"},
    {'l', "list", NULL, "show the invitations of this node"},
    {0, "cancel", "ID", "make an unused token useless"},
    CLI_JSON,
    {'q', "quiet", NULL, "--list: ids only"},
    {0},
};

const struct cli_command cli_invite = {
    .name = "invite",
    .arguments = "--site NAME | --list | --cancel ID",
    .summary = "print a one-time token for a new site or user",
    .notes = "The token alone goes to standard output. Whoever has it first, joins: hand it\n"
             "over privately. For an ID, its first digits will do.\n",
    .example = "weir invite --site berlin --expires 1h > token",
    .options = options,
    .run = invite,
};
