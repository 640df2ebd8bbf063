/* weir init: a new federation, and this machine as its first node. */
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/duration.h"

#include <stdio.h>

static int show(const char *data, bool json)
{
    struct federation *federation;
    struct federation_failure failure;
    if (federation_look(data, &federation, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    const struct genesis *genesis = federation_genesis(federation);
    const struct certificate *certificate = federation_certificate(federation);
    char hex[DIGEST_HEX_BYTES], node[65], fingerprint[FEDERATION_FINGERPRINT_BYTES];
    digest_to_hex(&genesis->federation, hex);
    hex_encode(certificate->node.bytes, sizeof certificate->node.bytes, node);
    federation_fingerprint(&genesis->federation, fingerprint);
    if (json) {
        json_t *object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "federation", hex, "federation_name",
                                   genesis->name, "id", node, "name", certificate->name, "site",
                                   certificate->site, "data", federation_data(federation));
        cli_print_json(object);
        json_decref(object);
    } else {
        printf("federation   %s (%s)\n", genesis->name, fingerprint);
        printf("node         %s at site %s, id %.8s\n", certificate->name, certificate->site, node);
        printf("data folder  %s\n", federation_data(federation));
        fprintf(stderr, "next: weir node --data %s, then weir invite --site NAME for each other site\n",
                federation_data(federation));
    }
    federation_close(federation);
    return EXIT_DONE;
}

static int init(struct cli *cli)
{
    char path[FEDERATION_PATH_BYTES_MAX], name[NAME_BYTES_MAX + 1];
    member_name(name);
    struct federation_new fields = {.federation = cli_value(cli, "federation", NULL),
                                    .site = cli_value(cli, "site", NULL),
                                    .node = cli_value(cli, "name", name)};
    if (!fields.federation || !fields.site)
        return cli_usage(cli, "--%s NAME is needed", fields.federation ? "site" : "federation");
    if (!member_span(cli, "lifetime", &fields.lifetime_s))
        return EXIT_USAGE;
    const int found = member_data(cli, path, sizeof path);
    if (found != EXIT_DONE)
        return found;
    struct federation_failure failure;
    if (federation_init(path, &fields, clock_wall_ms() / 1000, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    return show(path, cli->json);
}

static const struct cli_option options[] = {
    {'f', "federation", "NAME", "its name: a-z, 0-9 and '-'"},
    {'s', "site", "NAME", "the data centre or owner of this node"},
    {0, "name", "NAME", "this node's name (the host name)"},
    MEMBER_DATA,
    {0, "lifetime", "SPAN", "how long certificates live (90d)"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_init = {
    .name = "init",
    .arguments = "",
    .summary = "make a federation and its first node",
    .notes = "It can then invite others. keys/authority.key in the data folder can make any\n"
             "member: keep a copy of it off this machine.\n",
    .example = "weir init --federation rivers --site ashburn --data ~/weir",
    .options = options,
    .run = init,
};
