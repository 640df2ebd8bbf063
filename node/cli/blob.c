/* weir blob: bytes under the name of their digest, on one node. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/progress.h"
#include "node/cli/table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- put */

struct sending {
    int fd;
    const char *name;
    uint64_t sent;
    uint64_t bytes;
    struct progress progress;
};

static ssize_t read_file(void *context, void *buffer, size_t capacity)
{
    struct sending *sending = context;
    const ssize_t got = read(sending->fd, buffer, capacity);
    if (got > 0)
        sending->sent += (uint64_t)got;
    progress_upload(&sending->progress, sending->name, sending->sent, sending->bytes);
    return got;
}

/* Standard input may be a pipe, and the node must know the length first: then it goes through an unnamed file. */
static int spool(int from)
{
    FILE *file = tmpfile();
    if (!file)
        return -1;
    const int fd = dup(fileno(file));
    fclose(file);
    char buffer[65536];
    ssize_t got = fd < 0 ? -1 : 1;
    while (got > 0) {
        got = read(from, buffer, sizeof buffer);
        if (got > 0 && write(fd, buffer, (size_t)got) != got)
            got = -1;
    }
    if (got == 0 && lseek(fd, 0, SEEK_SET) == 0)
        return fd;
    const int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static int put(struct cli *cli)
{
    const char *path = cli->argv[1];
    const bool input = strcmp(path, "-") == 0;
    struct stat status;
    int fd = input ? spool(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        return cli_fail(input ? EXIT_FAILED : EXIT_USAGE, "cannot read %s: %s",
                        input ? "standard input" : path, strerror(errno));
    if (!S_ISREG(status.st_mode)) {
        close(fd);
        return cli_fail(EXIT_USAGE, "%s is no file", path);
    }
    int code = cli_connect(cli);
    json_t *reply = NULL;
    struct client_failure failure;
    if (code == EXIT_DONE) {
        struct sending sending = {
            .fd = fd, .name = input ? "standard input" : path, .bytes = (uint64_t)status.st_size};
        progress_open(&sending.progress);
        code = (int)client_put(cli->client, json_pack("{s:s}", "op", "blob.put"), sending.bytes, read_file,
                               &sending, &reply, &failure);
        progress_close(&sending.progress);
        if (code != EXIT_DONE)
            cli_fail((enum exit_code)code, "%s", failure.text);
        else if (cli->json)
            cli_print_json(reply);
        else
            puts(client_text(reply, "blob"));
    }
    json_decref(reply);
    close(fd);
    return code;
}

/* ---- get */

struct getting {
    FILE *file;
    const char *name;
    uint64_t got;
    uint64_t bytes;
    struct progress progress;
};

static bool write_all(void *context, const void *bytes, size_t count)
{
    struct getting *getting = context;
    getting->got += count;
    progress_transfer(&getting->progress, "getting", getting->name, getting->got, getting->bytes);
    return fwrite(bytes, 1, count, getting->file) == count;
}

/* The node fetches the blob from another one first. */
static void on_fetching(void *context, const json_t *object)
{
    struct getting *getting = context;
    if (json_object_get(object, "fetched"))
        progress_transfer(&getting->progress, "fetching", getting->name,
                          (uint64_t)client_number(object, "fetched"),
                          (uint64_t)client_number(object, "bytes"));
    else
        getting->bytes = (uint64_t)client_number(object, "bytes");
}

/* Where a blob goes. A file appears under its name only when it is whole; a device or a pipe is written as it
 * is: a new file must not take its place. */
struct destination {
    const char *path;
    FILE *file;
    char temporary[PATH_MAX]; /* "" = none */
};

/* Found out before anything is asked of the node. */
static int destination_open(struct destination *to, const char *path)
{
    *to = (struct destination){.path = path};
    struct stat status;
    const bool exists = stat(path, &status) == 0;
    if (strcmp(path, "-") == 0) {
        to->file = stdout;
    } else if (exists && S_ISDIR(status.st_mode)) {
        return cli_fail(EXIT_USAGE, "cannot write '%s': it is a folder; name a file in it", path);
    } else if (exists && (!S_ISREG(status.st_mode) || access(path, W_OK) != 0)) {
        to->file = fopen(path, "wbe"); /* or the reason why not */
    } else if (snprintf(to->temporary, sizeof to->temporary, "%s.part-%d", path, (int)getpid()) >=
               (int)sizeof to->temporary) {
        errno = ENAMETOOLONG;
    } else {
        to->file = fopen(to->temporary, "wbxe");
    }
    if (to->file)
        return EXIT_DONE;
    return cli_fail(EXIT_USAGE, "cannot write '%s': %s", path, strerror(errno));
}

/* `code` is how the transfer ended; returns how the command ends. */
static int destination_close(struct destination *to, int code)
{
    const bool written = (to->file == stdout ? fflush(stdout) : fclose(to->file)) == 0;
    const bool whole = code == EXIT_DONE && written;
    const bool good = whole && (!to->temporary[0] || rename(to->temporary, to->path) == 0);
    if (code == EXIT_DONE && !good)
        code = cli_fail(EXIT_FAILED, "cannot write '%s': %s", to->path, strerror(errno));
    if (!good && to->temporary[0])
        unlink(to->temporary);
    return code;
}

static int get(struct cli *cli)
{
    struct destination to;
    int code = destination_open(&to, cli->argc > 2 ? cli->argv[2] : "-");
    if (code != EXIT_DONE)
        return code;
    if (to.temporary[0]) /* it must not stay behind */
        cli_catch_interrupts();
    code = cli_connect(cli);
    if (code == EXIT_DONE) {
        struct client_failure failure;
        char name[17];
        snprintf(name, sizeof name, "%s", cli->argv[1]);
        struct getting getting = {.file = to.file, .name = name};
        progress_open(&getting.progress);
        const struct client_receiver receiver = {
            .object = on_fetching, .data = write_all, .context = &getting};
        code = (int)client_get(cli->client, json_pack("{s:s, s:s}", "op", "blob.get", "blob", cli->argv[1]),
                               &receiver, NULL, &failure);
        progress_close(&getting.progress);
        if (code == EXIT_INTERRUPTED)
            cli_fail((enum exit_code)code, "interrupted; asked again, it goes on from what the node has");
        else if (code != EXIT_DONE)
            cli_fail((enum exit_code)code, "%s", failure.text);
    }
    return destination_close(&to, code);
}

/* ---- stat, ls, rm */

static void add_row(struct table *table, const json_t *blob)
{
    char text[FORMAT_BYTES];
    table_cell(table, "%s", client_text(blob, "blob"));
    if (client_flag(blob, "here"))
        table_cell(table, "%s", format_bytes((uint64_t)client_number(blob, "bytes"), text));
    else
        table_cell(table, "-");
    table_cell(table, "%s", client_flag(blob, "pinned") ? "yes" : "");
}

/* "berlin, cairo" */
static void print_holders(const json_t *blob)
{
    size_t i;
    const json_t *name;
    json_array_foreach(client_member(blob, "holders"), i, name)
        fprintf(stdout, "%s%s", i ? ", " : "not on this node; held by ", json_string_value(name));
    if (i > 0)
        fputs("\n", stdout);
}

static const struct table_column columns[] = {
    {.title = "BLOB"}, {.title = "SIZE", .right = true}, {.title = "PIN"}};

static int show_one(struct cli *cli, const json_t *reply)
{
    (void)cli;
    struct table *table = table_open(columns, 3);
    add_row(table, reply);
    table_print(table, stdout);
    table_close(table);
    print_holders(reply);
    return EXIT_DONE;
}

static int show_all(struct cli *cli, const json_t *reply)
{
    struct table *table = table_open(columns, 3);
    size_t i;
    const json_t *blob;
    json_array_foreach(client_member(reply, "blobs"), i, blob)
    {
        if (cli->quiet)
            puts(client_text(blob, "blob"));
        else
            add_row(table, blob);
    }
    if (!cli->quiet)
        table_print(table, stdout);
    if (client_text(reply, "next")[0])
        fprintf(stderr, "there are more: weir blob ls --after %s\n", client_text(reply, "next"));
    table_close(table);
    return EXIT_DONE;
}

static int list(struct cli *cli)
{
    json_t *request = json_pack("{s:s}", "op", "blob.ls");
    const char *after = cli_value(cli, "after", NULL);
    if (after)
        json_object_set_new(request, "after", json_string(after));
    return cli_list(cli, request, show_all);
}

static int remove_blob(struct cli *cli)
{
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s, s:s}", "op", "blob.rm", "blob", cli->argv[1]), &reply);
    if (code == EXIT_DONE && cli->json)
        cli_print_json(reply);
    json_decref(reply);
    return code;
}

static int stat_blob(struct cli *cli)
{
    return cli_list(cli, json_pack("{s:s, s:s}", "op", "blob.stat", "blob", cli->argv[1]), show_one);
}

static const struct verb {
    const char *name;
    const char *arguments;
    cli_run *run;
    int least; /* arguments */
    int most;
} verbs[] = {
    {"put", "FILE", put, 1, 1},        {"get", "BLOB and perhaps FILE", get, 1, 2},
    {"stat", "BLOB", stat_blob, 1, 1}, {"ls", "nothing", list, 0, 0},
    {"rm", "BLOB", remove_blob, 1, 1},
};

static int blob(struct cli *cli)
{
    const int arguments = cli->argc - 1;
    for (size_t v = 0; v < sizeof verbs / sizeof verbs[0]; v++) {
        if (strcmp(verbs[v].name, cli->argv[0]) != 0)
            continue;
        if (arguments < verbs[v].least || arguments > verbs[v].most)
            return cli_usage(cli, "blob %s takes %s", verbs[v].name, verbs[v].arguments);
        return verbs[v].run(cli);
    }
    return cli_usage(cli, "'%s' is none of put, get, stat, ls, rm", cli->argv[0]);
}

static const struct cli_option options[] = {
    CLI_NODE,
    CLI_JSON,
    {'q', "quiet", NULL, "ls: ids only"},
    {0, "after", "BLOB", "ls: go on behind this one"},
    {0},
};

const struct cli_command cli_blob = {
    .name = "blob",
    .arguments = "put FILE | get BLOB [FILE] | stat|rm BLOB | ls",
    .summary = "store, fetch and list bytes by their digest",
    .notes = "FILE - is standard input or output. A blob is named by 64 hex digits, or as\n"
             "many of the first as no other blob here begins with. With all 64, get and stat\n"
             "find it on other nodes, too; get has this node fetch it. Blobs that no job pins\n"
             "may be evicted once the cache is full.\n",
    .example = "weir blob get $(weir blob put words.txt) - | head",
    .options = options,
    .run = blob,
    .positional_min = 1,
    .positional_max = 3,
};
