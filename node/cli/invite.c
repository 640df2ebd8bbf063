#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/duration.h"

static const char help[] =
    "usage: weir invite --site NAME [options] | --list | --cancel ID\n"
    "\n"
    "Asks the running node for a one-time token with which another machine joins. The token alone\n"
    "goes to standard output; whoever has it first, joins: hand it over privately.\n"
    "\n"
    "  --site NAME       the site that the guest will belong to\n"
    "  --user NAME       for a person who only submits jobs, not for a node\n"
    "  --expires SPAN    how long the token is good: 30m, 24h, 7d (24h)\n"
    "  --lifetime SPAN   how long the guest's certificate lives (as this node's)\n"
    "  --may-invite      the guest may itself invite, renew and revoke nodes\n"
    "  --list            show the invitations of this node\n"
    "  --cancel ID       make an unused token useless; a prefix of the id will do\n"
    "  --node PATH       the node to ask: its socket or data folder ($WEIR_NODE)\n"
    "  --json            print JSON\n"
    "\n"
    "example:\n"
    "  weir invite --site berlin --expires 1h > token\n";

static const struct option options[] = {
    {"site", required_argument, NULL, 's'},
    {"user", required_argument, NULL, 'u'},
    {"expires", required_argument, NULL, 'e'},
    {"lifetime", required_argument, NULL, 'l'},
    {"may-invite", no_argument, NULL, 'm'},
    {"list", no_argument, NULL, 'L'},
    {"cancel", required_argument, NULL, 'C'},
    {"node", required_argument, NULL, 'n'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

struct wish {
    const char *site;
    const char *user;
    const char *cancel;
    const char *node;
    int64_t expires_s;
    int64_t lifetime_s;
    bool may_invite;
    bool list;
    bool json;
};

static int create(const struct wish *wish)
{
    json_t *request = json_pack("{s:s,s:s}", "op", "invite.create", "site", wish->site);
    if (wish->expires_s)
        json_object_set_new(request, "expires_s", json_integer(wish->expires_s));
    if (wish->lifetime_s)
        json_object_set_new(request, "lifetime_s", json_integer(wish->lifetime_s));
    if (wish->user)
        json_object_set_new(request, "user", json_string(wish->user));
    if (wish->may_invite)
        json_object_set_new(request, "may_invite", json_true());
    json_t *reply;
    const int code = member_call(wish->node, request, &reply);
    if (code != EXIT_DONE)
        return code;
    if (wish->json) {
        cli_print_json(reply);
    } else {
        char until[MEMBER_TIME_BYTES];
        printf("%s\n", client_text(reply, "token"));
        fprintf(stderr,
                "invitation %.8s for site %s, good once until %s; on the other machine: weir join "
                "--token-file -%s\n",
                client_text(reply, "id"), wish->site,
                member_time(client_number(reply, "expires_at") / 1000, until), wish->user ? " --user" : "");
    }
    json_decref(reply);
    return EXIT_DONE;
}

static int list(const struct wish *wish)
{
    json_t *reply;
    const int code = member_call(wish->node, json_pack("{s:s}", "op", "invite.list"), &reply);
    if (code != EXIT_DONE)
        return code;
    const json_t *invites = client_member(reply, "invites");
    if (wish->json) {
        cli_print_json(reply);
    } else {
        printf("%-8s  %-16s  %-12s  %-9s  %-16s  %s\n", "ID", "SITE", "USER", "STATE", "EXPIRES", "USED BY");
        size_t index;
        json_t *invite;
        json_array_foreach(invites, index, invite)
        {
            char until[MEMBER_TIME_BYTES];
            const char *user = client_text(invite, "user");
            const char *by = client_text(invite, "used_by");
            printf("%-8.8s  %-16.16s  %-12.12s  %-9s  %-16s  %.8s\n", client_text(invite, "id"),
                   client_text(invite, "site"), *user ? user : "-", client_text(invite, "state"),
                   member_time(client_number(invite, "expires_at") / 1000, until), *by ? by : "-");
        }
    }
    json_decref(reply);
    return EXIT_DONE;
}

static int cancel(const struct wish *wish)
{
    json_t *reply;
    const int code =
        member_call(wish->node, json_pack("{s:s,s:s}", "op", "invite.cancel", "id", wish->cancel), &reply);
    if (code != EXIT_DONE)
        return code;
    if (wish->json)
        cli_print_json(reply);
    else
        printf("cancelled\n");
    json_decref(reply);
    return EXIT_DONE;
}

int cli_invite(int argc, char **argv)
{
    struct wish wish = {0};
    optind = 1;
    for (int letter; (letter = getopt_long(argc, argv, "hj", options, NULL)) != -1;) {
        switch (letter) {
        case 's':
            wish.site = optarg;
            break;
        case 'u':
            wish.user = optarg;
            break;
        case 'e':
        case 'l':
            if (!duration_parse(optarg, letter == 'e' ? &wish.expires_s : &wish.lifetime_s))
                return cli_fail(EXIT_USAGE, "'%s' is no span of time; write 90d, 24h or 30m", optarg);
            break;
        case 'm':
            wish.may_invite = true;
            break;
        case 'L':
            wish.list = true;
            break;
        case 'C':
            wish.cancel = optarg;
            break;
        case 'n':
            wish.node = optarg;
            break;
        case 'j':
            wish.json = true;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_DONE;
        default:
            return EXIT_USAGE;
        }
    }
    if (optind != argc || (wish.site != NULL) + wish.list + (wish.cancel != NULL) != 1)
        return cli_fail(EXIT_USAGE, "one of --site, --list and --cancel is needed; try 'weir invite --help'");
    if (wish.list)
        return list(&wish);
    return wish.cancel ? cancel(&wish) : create(&wish);
}
