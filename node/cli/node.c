/* weir node: runs this site's node until it is told to stop. */
#include "node/node.h"
#include "node/cli/cli.h"
#include "node/config.h"
#include "node/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_PATH "/etc/weir/weir.conf"

/* Where the API socket goes when no setting says: see config.h. */
static void choose_socket(struct config *config)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char folder[CONFIG_TEXT_BYTES];
    if (config->socket[0])
        return;
    if (access("/run/weir", W_OK) == 0) {
        snprintf(config->socket, sizeof config->socket, "/run/weir/api.sock");
        return;
    }
    if (runtime && strlen(runtime) < sizeof folder - 16) {
        snprintf(folder, sizeof folder, "%s/weir", runtime);
        mkdir(folder, 0700);
        if (access(folder, W_OK) == 0) {
            snprintf(config->socket, sizeof config->socket, "%.230s/api.sock", folder);
            return;
        }
    }
    snprintf(config->socket, sizeof config->socket, "%.240s/api.sock", config->data);
}

/* The folder is shown to clients, who stand elsewhere. A relative one that does not fit stays as it is. */
static void make_absolute(struct config *config)
{
    char path[2 * CONFIG_TEXT_BYTES], here[CONFIG_TEXT_BYTES];
    if (config->data[0] == '/' || !getcwd(here, sizeof here))
        return;
    const int count = snprintf(path, sizeof path, "%s/%s", here, config->data);
    if (count < (int)sizeof config->data)
        memcpy(config->data, path, (size_t)count + 1);
}

static int node(struct cli *cli)
{
    struct config config;
    char error[1000];
    const char *path = cli_value(cli, "config", NULL);
    config_defaults(&config);
    if (!config_load(&config, path ? path : CONFIG_PATH, path != NULL, error, sizeof error))
        return cli_fail(EXIT_USAGE, "%s", error);
    const char *setting;
    for (int i = 0; (setting = cli_value_at(cli, "set", i)); i++)
        if (!config_set(&config, setting, error, sizeof error))
            return cli_fail(EXIT_USAGE, "--set %s: %s", setting, error);
    const char *data = cli_value(cli, "data", NULL);
    if (data && strlen(data) >= sizeof config.data)
        return cli_fail(EXIT_USAGE, "--data is longer than %zu characters", sizeof config.data - 1);
    if (data)
        snprintf(config.data, sizeof config.data, "%.*s", (int)sizeof config.data - 1, data);
    int64_t ready_fd = -1;
    if (!cli_number(cli, "ready-fd", 0, 65535, &ready_fd))
        return EXIT_USAGE;
    make_absolute(&config);
    choose_socket(&config);
    log_set_level((enum log_level)config.log_level);
    return node_run(&config, (int)ready_fd);
}

static const struct cli_option options[] = {
    {'c', "config", "FILE", "settings (" CONFIG_PATH ")"},
    {'d', "data", "DIR", "data folder, over the config's"},
    {0, "set", "SECTION.KEY=VALUE", "one setting, over the config's; may be repeated"},
    {0, "ready-fd", "N", "write a line of JSON there once it serves"},
    {0},
};

const struct cli_command cli_node = {
    .name = "node",
    .arguments = "",
    .summary = "run this site's node",
    .notes = "Logs to standard error. SIGTERM drains for node.stop_deadline (30 s), then\n"
             "ends; its own jobs go on with the next start. `weir config dump` lists the\n"
             "settings.\n",
    .example = "weir node --data /var/lib/weir",
    .options = options,
    .run = node,
};
