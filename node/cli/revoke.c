#include <getopt.h>
#include <stdio.h>

#include "node/cli/cli.h"
#include "node/cli/member.h"

static const char help[] =
    "usage: weir revoke NODE|SITE --reason TEXT [options]\n"
    "\n"
    "Shuts a node, or all nodes of a site, out of the federation for good. The running node signs it\n"
    "and tells the others, who close their links within seconds. A node that was revoked can only\n"
    "come back with new keys and a new token. Revoking a node that may invite also cuts off those\n"
    "whom it invited, until another inviter renews them.\n"
    "\n"
    "  --reason TEXT   why, for the people of the other sites to read (up to 200 bytes)\n"
    "  --node PATH     the node to ask: its socket or data folder ($WEIR_NODE)\n"
    "  --json          print JSON\n"
    "\n"
    "example:\n"
    "  weir revoke 3fa94c02 --reason 'disk was stolen'\n";

static const struct option options[] = {
    {"reason", required_argument, NULL, 'r'},
    {"node", required_argument, NULL, 'n'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

int cli_revoke(int argc, char **argv)
{
    const char *reason = NULL, *node = NULL;
    bool json = false;
    optind = 1;
    for (int letter; (letter = getopt_long(argc, argv, "hj", options, NULL)) != -1;) {
        switch (letter) {
        case 'r':
            reason = optarg;
            break;
        case 'n':
            node = optarg;
            break;
        case 'j':
            json = true;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_DONE;
        default:
            return EXIT_USAGE;
        }
    }
    if (argc - optind != 1 || !reason || !*reason)
        return cli_fail(EXIT_USAGE, "a node or site and --reason are needed; try 'weir revoke --help'");
    json_t *request = json_pack("{s:s,s:s,s:s}", "op", "revoke", "target", argv[optind], "reason", reason);
    if (!request)
        return cli_fail(EXIT_USAGE, "the reason must be UTF-8 text");
    json_t *reply;
    const int code = member_call(node, request, &reply);
    if (code != EXIT_DONE)
        return code;
    if (json) {
        cli_print_json(reply);
    } else {
        size_t index;
        json_t *revoked;
        json_array_foreach(client_member(reply, "revoked"), index, revoked)
        {
            printf("revoked %.8s %s of site %s\n", client_text(revoked, "id"), client_text(revoked, "name"),
                   client_text(revoked, "site"));
        }
    }
    json_decref(reply);
    return EXIT_DONE;
}
