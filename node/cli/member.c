#include "node/cli/member.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "node/cli/cli.h"
#include "node/client.h"
#include "node/config.h"

#define CONFIG_FILE "/etc/weir/weir.conf"

int member_data(const char *data, const char *config_path, char *path, size_t path_bytes)
{
    struct config config;
    char error[512];
    if (data) {
        snprintf(path, path_bytes, "%s", data);
        return EXIT_DONE;
    }
    config_defaults(&config);
    if (!config_load(&config, config_path ? config_path : CONFIG_FILE, config_path != NULL, error,
                     sizeof error))
        return cli_fail(EXIT_USAGE, "%s", error);
    snprintf(path, path_bytes, "%s", config.data);
    return EXIT_DONE;
}

void member_name(char name[NAME_BYTES_MAX + 1])
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    size_t count = 0;
    for (const char *at = host; *at && *at != '.' && count < NAME_BYTES_MAX; at++) {
        const char letter = (char)tolower((unsigned char)*at);
        const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9');
        if (plain || count > 0)
            name[count++] = plain ? letter : '-';
    }
    while (count > 0 && name[count - 1] == '-')
        count--;
    name[count] = '\0';
    if (count == 0)
        snprintf(name, NAME_BYTES_MAX + 1, "node");
}

int member_fail(const struct federation_failure *failure)
{
    enum exit_code code = EXIT_FAILED;
    if (failure->error == FEDERATION_INVALID)
        code = EXIT_USAGE;
    else if (failure->error == FEDERATION_DENIED)
        code = EXIT_DENIED;
    return cli_fail(code, "%s", failure->text);
}

int member_call(const char *node, json_t *request, json_t **reply)
{
    char path[512];
    struct client *client = NULL;
    struct client_failure failure;
    enum exit_code code = client_find(node, NULL, path, sizeof path, &failure);
    if (code == EXIT_DONE)
        code = client_open(&client, path, &failure);
    if (code == EXIT_DONE)
        code = client_call(client, request, reply, &failure);
    else
        json_decref(request);
    client_close(client);
    return code == EXIT_DONE ? EXIT_DONE : cli_fail(code, "%s", failure.text);
}

const char *member_time(int64_t seconds, char text[MEMBER_TIME_BYTES])
{
    const time_t when = (time_t)seconds;
    struct tm local;
    if (seconds <= 0 || !localtime_r(&when, &local) ||
        !strftime(text, MEMBER_TIME_BYTES, "%Y-%m-%d %H:%M", &local))
        snprintf(text, MEMBER_TIME_BYTES, "-");
    return text;
}
