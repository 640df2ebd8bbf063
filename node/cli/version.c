/* weir version */
#include "node/cli/cli.h"
#include "node/node.h"
#include "node/wire.h"

#include <sodium.h>
#include <stdio.h>
#include <zmq.h>

static int version(struct cli *cli)
{
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    char zmq[32];
    snprintf(zmq, sizeof zmq, "%d.%d.%d", major, minor, patch);
    if (!cli->json) {
        printf("weir %s, protocol %u, libzmq %s, libsodium %s\n", NODE_SOFTWARE, WIRE_PROTOCOL_MAX, zmq,
               sodium_version_string());
        return EXIT_DONE;
    }
    json_t *object = json_pack("{s:s, s:i, s:i, s:s, s:s}", "version", NODE_SOFTWARE, "protocol_min",
                               (int)WIRE_PROTOCOL_MIN, "protocol_max", (int)WIRE_PROTOCOL_MAX, "libzmq", zmq,
                               "libsodium", sodium_version_string());
    cli_print_json(object);
    json_decref(object);
    return EXIT_DONE;
}

static const struct cli_option options[] = {CLI_JSON, {0}};

const struct cli_command cli_version = {
    .name = "version",
    .arguments = "",
    .summary = "the version of weir, its protocol and libraries",
    .example = "weir version --json",
    .options = options,
    .run = version,
};
