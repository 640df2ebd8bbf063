/* weir config: checks a config file, or shows every setting. */
#include "node/config.h"

#include "node/cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_PATH "/etc/weir/weir.conf"

static void print_object(json_t *object)
{
    cli_print_json(object);
    json_decref(object);
}

static int check(const struct cli *cli)
{
    struct config config;
    char error[1000];
    const char *path = cli->argc > 1 ? cli->argv[1] : CONFIG_PATH;
    config_defaults(&config);
    if (!config_load(&config, path, cli->argc > 1, error, sizeof error))
        return cli_fail(EXIT_USAGE, "%s", error);
    const bool there = access(path, F_OK) == 0;
    if (cli->json)
        print_object(json_pack("{s:b, s:s, s:b}", "ok", true, "file", path, "exists", there));
    else
        printf(there ? "%s is good\n" : "there is no %s; all settings are the defaults\n", path);
    return EXIT_DONE;
}

static int dump(struct cli *cli)
{
    struct config config;
    char error[1000];
    if (cli_has(cli, "node")) {
        json_t *reply = NULL;
        const int code = cli_call(cli, json_pack("{s:s}", "op", "config"), &reply);
        if (code == EXIT_DONE && cli->json)
            print_object(json_pack("{s:b, s:O}", "ok", true, "config", client_member(reply, "config")));
        else if (code == EXIT_DONE)
            fputs(client_text(reply, "text"), stdout);
        json_decref(reply);
        return code;
    }
    const char *path = cli->argc > 1 ? cli->argv[1] : CONFIG_PATH;
    config_defaults(&config);
    if (!config_load(&config, path, cli->argc > 1, error, sizeof error))
        return cli_fail(EXIT_USAGE, "%s", error);
    if (cli->json)
        print_object(json_pack("{s:b, s:o}", "ok", true, "config", config_json(&config)));
    else
        config_dump(&config, stdout);
    return EXIT_DONE;
}

static int config(struct cli *cli)
{
    if (strcmp(cli->argv[0], "check") == 0)
        return check(cli);
    if (strcmp(cli->argv[0], "dump") == 0)
        return dump(cli);
    return cli_usage(cli, "'%s' is neither check nor dump", cli->argv[0]);
}

static const struct cli_option options[] = {
    {'n', "node", "PATH", "dump: what this running node goes by"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_config = {
    .name = "config",
    .arguments = "check|dump [FILE]",
    .summary = "check a config file, or show every setting",
    .notes = "FILE is " CONFIG_PATH " unless given; files *.conf in conf.d beside it\n"
             "are read after it. An unknown key is an error.\n",
    .example = "weir config check ./weir.conf",
    .options = options,
    .run = config,
    .positional_min = 1,
    .positional_max = 2,
};
