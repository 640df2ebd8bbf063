/* What all commands do alike: reading options, asking the node, interrupts, errors. */
#include "node/cli/cli.h"

#include "node/config.h"
#include "node/loop.h"
#include "node/word.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int interrupt_fd = -1;

/* ---- Errors */

static int say(enum exit_code code, const char *format, va_list arguments, const char *more)
{
    fflush(stdout);
    fputs("weir: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "%s\n", more);
    return (int)code;
}

int cli_fail(enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(code, format, arguments, "");
    va_end(arguments);
    return (int)code;
}

int cli_usage(const struct cli *cli, const char *format, ...)
{
    char more[100];
    snprintf(more, sizeof more, "; try 'weir %s --help'", cli->command->name);
    va_list arguments;
    va_start(arguments, format);
    say(EXIT_USAGE, format, arguments, more);
    va_end(arguments);
    return EXIT_USAGE;
}

/* ---- Options */

bool cli_has(const struct cli *cli, const char *name)
{
    return cli_value_at(cli, name, 0) != NULL;
}

const char *cli_value(const struct cli *cli, const char *name, const char *otherwise)
{
    const char *value = otherwise;
    for (int i = 0; i < cli->option_count; i++)
        if (strcmp(cli->given[i].option->name, name) == 0)
            value = cli->given[i].value;
    return value;
}

const char *cli_value_at(const struct cli *cli, const char *name, int index)
{
    for (int i = 0; i < cli->option_count; i++)
        if (strcmp(cli->given[i].option->name, name) == 0 && index-- == 0)
            return cli->given[i].value;
    return NULL;
}

bool cli_number(const struct cli *cli, const char *name, int64_t min, int64_t max, int64_t *value)
{
    const char *text = cli_value(cli, name, NULL);
    if (!text)
        return true;
    char *end;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno || number < min || number > max) {
        cli_usage(cli, "--%s takes a whole number from %lld to %lld, not '%s'", name, (long long)min,
                  (long long)max, text);
        return false;
    }
    *value = number;
    return true;
}

/* ---- Asking the node */

int cli_connect(struct cli *cli)
{
    if (cli->client)
        return EXIT_DONE;
    struct config config;
    char error[600], path[4096];
    config_defaults(&config);
    config_load(&config, "/etc/weir/weir.conf", false, error, sizeof error); /* only to find the socket */
    struct client_failure failure;
    enum exit_code code =
        client_find(cli_value(cli, "node", NULL), config.socket, path, sizeof path, &failure);
    if (code == EXIT_DONE)
        code = client_open(&cli->client, path, &failure);
    if (code != EXIT_DONE)
        return cli_fail(code, "%s", failure.text);
    client_wake_on(cli->client, interrupt_fd);
    return EXIT_DONE;
}

int cli_call(struct cli *cli, json_t *request, json_t **reply)
{
    const int connected = cli_connect(cli);
    if (connected != EXIT_DONE) {
        json_decref(request);
        return connected;
    }
    struct client_failure failure;
    const enum exit_code code = client_call(cli->client, request, reply, &failure);
    if (code != EXIT_DONE && code != EXIT_INTERRUPTED)
        cli_fail(code, "%s", failure.text);
    return (int)code;
}

static int list_once(struct cli *cli, const json_t *request, cli_show *show)
{
    json_t *reply = NULL;
    int code = cli_call(cli, json_deep_copy(request), &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->watch && !cli->json && isatty(STDOUT_FILENO))
        fputs("\033[H\033[2J", stdout);
    if (cli->json)
        cli_print_json(reply);
    else
        code = show(cli, reply);
    if (cli->warn)
        cli->warn(reply);
    fflush(stdout);
    json_decref(reply);
    return code;
}

int cli_list(struct cli *cli, json_t *request, cli_show *show)
{
    if (cli->watch)
        cli_catch_interrupts();
    int code = list_once(cli, request, show);
    while (cli->watch && (code == EXIT_DONE || code == EXIT_NONE)) {
        if (cli_sleep_ms(1000))
            break;
        code = list_once(cli, request, show);
    }
    json_decref(request);
    return cli->watch && code == EXIT_INTERRUPTED ? EXIT_DONE : code;
}

void cli_print_json(const json_t *object)
{
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
}

/* ---- Interrupts */

int cli_catch_interrupts(void)
{
    if (interrupt_fd >= 0)
        return interrupt_fd;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    interrupt_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return interrupt_fd;
}

bool cli_interrupted(void)
{
    struct pollfd fd = {.fd = interrupt_fd, .events = POLLIN};
    return interrupt_fd >= 0 && poll(&fd, 1, 0) == 1;
}

bool cli_sleep_ms(int64_t ms)
{
    struct pollfd fd = {.fd = interrupt_fd, .events = POLLIN};
    const int ready = poll(&fd, interrupt_fd >= 0 ? 1 : 0, (int)ms);
    return ready == 1;
}

/* ---- Small helps */

const char *cli_nearest(const char *word, const char *const *words)
{
    const char *nearest = NULL;
    size_t best = strlen(word) < 5 ? 2 : 3;
    for (; *words; words++) {
        const size_t far = word_distance(word, *words);
        const bool begins = strlen(word) >= 2 && strncmp(word, *words, strlen(word)) == 0;
        if (far < best || (begins && !nearest)) {
            best = far < best ? far : best;
            nearest = *words;
        }
    }
    return nearest;
}

bool cli_colour(int fd)
{
    const char *none = getenv("NO_COLOR");
    return isatty(fd) && !(none && none[0]);
}

int cli_columns(int fd)
{
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

int cli_lines(int fd)
{
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}
