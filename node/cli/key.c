/* weir key: whose keys lie in a data folder. The node need not run. */
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/duration.h"

#include <stdio.h>
#include <string.h>

static const struct {
    enum right right;
    const char *name;
} rights[] = {{RIGHT_NODE, "node"},
              {RIGHT_SUBMIT, "submit"},
              {RIGHT_INVITE, "invite"},
              {RIGHT_REVOKE, "revoke"},
              {RIGHT_AUTHORITY, "authority"}};

static void show_json(const struct federation *federation)
{
    const struct genesis *genesis = federation_genesis(federation);
    const struct certificate *certificate = federation_certificate(federation);
    char id[DIGEST_HEX_BYTES], node[65], curve[65], serial[2 * CERTIFICATE_SERIAL_BYTES + 1];
    digest_to_hex(&genesis->federation, id);
    hex_encode(certificate->node.bytes, 32, node);
    hex_encode(certificate->curve.bytes, 32, curve);
    hex_encode(certificate->serial, sizeof certificate->serial, serial);
    json_t *names = json_array();
    for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++) {
        if (certificate->rights & rights[i].right)
            json_array_append_new(names, json_string(rights[i].name));
    }
    json_t *object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:b,s:I,s:I,s:I}", "federation", id,
                               "federation_name", genesis->name, "id", node, "name", certificate->name,
                               "site", certificate->site, "curve_key", curve, "serial", serial, "rights",
                               names, "authority_key_here", federation_has_authority(federation),
                               "certificate_begins_at", (json_int_t)certificate->not_before_s * 1000,
                               "certificate_ends_at", (json_int_t)certificate->not_after_s * 1000,
                               "renews_at", (json_int_t)certificate_renew_at_s(certificate) * 1000);
    cli_print_json(object);
    json_decref(object);
}

static void show_text(const struct federation *federation)
{
    const struct genesis *genesis = federation_genesis(federation);
    const struct certificate *certificate = federation_certificate(federation);
    char fingerprint[FEDERATION_FINGERPRINT_BYTES], node[65], until[MEMBER_TIME_BYTES], span[DURATION_BYTES];
    federation_fingerprint(&genesis->federation, fingerprint);
    hex_encode(certificate->node.bytes, 32, node);
    const int64_t left_s = certificate->not_after_s - clock_wall_ms() / 1000;
    printf("federation   %s (%s)\n", genesis->name, fingerprint);
    printf("node         %s at site %s\n", certificate->name, certificate->site);
    printf("id           %s\n", node);
    printf("rights      ");
    for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++) {
        if (certificate->rights & rights[i].right)
            printf(" %s", rights[i].name);
    }
    printf("\ncertificate  until %s (%s%s)\n", member_time(certificate->not_after_s, until),
           left_s < 0 ? "ended " : "", duration_text(left_s < 0 ? -left_s : left_s, span));
    printf("authority    %s\n", federation_has_authority(federation)
                                    ? "its key is here; keep a copy off this machine"
                                    : "its key is not here");
}

static int key(struct cli *cli)
{
    if (strcmp(cli->argv[0], "show") != 0)
        return cli_usage(cli, "'%s' is not show", cli->argv[0]);
    char path[FEDERATION_PATH_BYTES_MAX];
    const int found = member_data(cli, path, sizeof path);
    if (found != EXIT_DONE)
        return found;
    struct federation *federation;
    struct federation_failure failure;
    if (federation_look(path, &federation, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    if (cli->json)
        show_json(federation);
    else
        show_text(federation);
    federation_close(federation);
    return EXIT_DONE;
}

static const struct cli_option options[] = {MEMBER_DATA, CLI_JSON, {0}};

const struct cli_command cli_key = {
    .name = "key",
    .arguments = "show",
    .summary = "show this node's identity and certificate",
    .notes = "Whose keys lie in the data folder, of which federation, and until when they are\n"
             "certified. The node need not run. No secret is shown.\n",
    .example = "weir key show --data ~/weir",
    .options = options,
    .run = key,
    .positional_min = 1,
    .positional_max = 1,
};
