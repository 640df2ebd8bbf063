#include <getopt.h>
#include <stdio.h>

#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/duration.h"

static const char help[] =
    "usage: weir init --federation NAME --site NAME [options]\n"
    "\n"
    "Makes a federation and its first node in the data folder. It can then invite others.\n"
    "\n"
    "  --federation NAME   the federation's name: a-z, 0-9 and '-'\n"
    "  --site NAME         the data centre or owner of this node\n"
    "  --name NAME         this node's name (the host name)\n"
    "  --data FOLDER       where its keys and data live (/var/lib/weir)\n"
    "  --config FILE       the config that names the folder (/etc/weir/weir.conf)\n"
    "  --lifetime SPAN     how long certificates live, such as 90d (90d)\n"
    "  --json              print JSON\n"
    "\n"
    "keys/authority.key in the data folder can make any member: keep a copy of it off this machine.\n"
    "\n"
    "example:\n"
    "  weir init --federation rivers --site ashburn --data ~/weir\n";

static const struct option options[] = {
    {"federation", required_argument, NULL, 'f'},
    {"site", required_argument, NULL, 's'},
    {"name", required_argument, NULL, 'n'},
    {"data", required_argument, NULL, 'd'},
    {"config", required_argument, NULL, 'c'},
    {"lifetime", required_argument, NULL, 'l'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

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

int cli_init(int argc, char **argv)
{
    struct federation_new fields = {0};
    const char *data = NULL, *config = NULL;
    bool json = false;
    optind = 1;
    for (int letter; (letter = getopt_long(argc, argv, "hj", options, NULL)) != -1;) {
        switch (letter) {
        case 'f':
            fields.federation = optarg;
            break;
        case 's':
            fields.site = optarg;
            break;
        case 'n':
            fields.node = optarg;
            break;
        case 'd':
            data = optarg;
            break;
        case 'c':
            config = optarg;
            break;
        case 'l':
            if (!duration_parse(optarg, &fields.lifetime_s) || fields.lifetime_s == 0)
                return cli_fail(EXIT_USAGE, "'%s' is no span of time; write 90d, 24h or 30m", optarg);
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
    if (optind != argc || !fields.federation || !fields.site)
        return cli_fail(EXIT_USAGE, "--federation and --site are needed, and nothing else but options; try "
                                    "'weir init --help'");
    char path[FEDERATION_PATH_BYTES_MAX], name[NAME_BYTES_MAX + 1];
    const int found = member_data(data, config, path, sizeof path);
    if (found != EXIT_DONE)
        return found;
    member_name(name);
    if (!fields.node)
        fields.node = name;
    struct federation_failure failure;
    if (federation_init(path, &fields, clock_wall_ms() / 1000, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    return show(path, json);
}
