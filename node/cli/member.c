#include "node/cli/member.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "node/config.h"
#include "node/duration.h"

#define CONFIG_FILE "/etc/weir/weir.conf"

int member_data(const struct cli *cli, char *path, size_t path_bytes)
{
    struct config config;
    char error[512];
    const char *data = cli_value(cli, "data", NULL), *file = cli_value(cli, "config", NULL);
    config_defaults(&config);
    if (!data && !config_load(&config, file ? file : CONFIG_FILE, file != NULL, error, sizeof error))
        return cli_fail(EXIT_USAGE, "%s", error);
    snprintf(path, path_bytes, "%s", data ? data : config.data);
    return EXIT_DONE;
}

bool member_span(const struct cli *cli, const char *option, int64_t *seconds)
{
    const char *text = cli_value(cli, option, NULL);
    if (!text || (duration_parse(text, seconds) && *seconds > 0))
        return true;
    cli_usage(cli, "--%s takes a span of time such as 90d, 24h or 30m, not '%s'", option, text);
    return false;
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

const char *member_time(int64_t seconds, char text[MEMBER_TIME_BYTES])
{
    const time_t when = (time_t)seconds;
    struct tm local;
    if (seconds <= 0 || !localtime_r(&when, &local) ||
        !strftime(text, MEMBER_TIME_BYTES, "%Y-%m-%d %H:%M", &local))
        snprintf(text, MEMBER_TIME_BYTES, "-");
    return text;
}
