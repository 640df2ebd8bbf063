#include "node/cli/source.h"

#include "node/cli/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define SPLIT_SUFFIX ":split"

static const char *const format_words[] = {"npy", "text", "raw", NULL};

static bool ends_with(const char *text, const char *end)
{
    const size_t text_bytes = strlen(text), end_bytes = strlen(end);
    return text_bytes >= end_bytes && strcasecmp(text + text_bytes - end_bytes, end) == 0;
}

/* What the file's name says; false if nothing. */
static bool format_of(const char *path, enum source_format *format)
{
    static const char *const texts[] = {".txt", ".jsonl", ".csv"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (ends_with(path, texts[i])) {
            *format = SOURCE_TEXT;
            return true;
        }
    *format = SOURCE_NPY;
    return ends_with(path, ".npy");
}

int source_parse(struct source *source, const struct cli *cli, const char *given)
{
    *source = (struct source){.fd = -1};
    const char *equals = strchr(given, '=');
    if (!equals || equals == given || !equals[1])
        return cli_usage(cli, "--input %s: write NAME=FILE, NAME=job:ID/OUTPUT or NAME=blob:HEX", given);
    if ((size_t)(equals - given) >= sizeof source->name)
        return cli_usage(cli, "--input %s: the name is too long", given);
    memcpy(source->name, given, (size_t)(equals - given));
    source->text = equals + 1;
    if (ends_with(source->text, SPLIT_SUFFIX)) { /* x=x.npy:split is short for --split x */
        source->split = true;
        if (strlen(source->text) >= sizeof source->path)
            return cli_usage(cli, "--input %.60s...: the path is too long", given);
        snprintf(source->path, sizeof source->path, "%.*s",
                 (int)(strlen(source->text) - strlen(SPLIT_SUFFIX)), source->text);
        source->text = source->path;
    }
    if (strncmp(source->text, "job:", 4) == 0) {
        source->kind = SOURCE_JOB;
        source->text += 4;
        const char *slash = strchr(source->text, '/');
        if (!slash || slash == source->text || !slash[1])
            return cli_usage(cli, "--input %s: write job:ID/OUTPUT, for example job:1f3a9c02/vectors", given);
    } else if (strncmp(source->text, "blob:", 5) == 0) {
        source->kind = SOURCE_BLOB;
        source->text += 5;
        const size_t digits = strlen(source->text);
        if (digits == 0 || digits > 64 || strspn(source->text, "0123456789abcdefABCDEF") != digits)
            return cli_usage(cli, "--input %s: a blob is named by its 64 hex digits, or the first of them",
                             given);
        memcpy(source->blob, source->text, digits + 1);
    } else {
        source->format_known = format_of(source->text, &source->format);
    }
    return EXIT_DONE;
}

static struct source *find(struct source *sources, int count, const char *name, size_t name_bytes)
{
    for (int i = 0; i < count; i++)
        if (strlen(sources[i].name) == name_bytes && memcmp(sources[i].name, name, name_bytes) == 0)
            return &sources[i];
    return NULL;
}

int source_set_format(struct source *sources, int count, const struct cli *cli, const char *given)
{
    const char *equals = strchr(given, '=');
    if (!equals)
        return cli_usage(cli, "--format %s: write NAME=npy, NAME=text or NAME=raw:ROWBYTES", given);
    struct source *source = find(sources, count, given, (size_t)(equals - given));
    if (!source)
        return cli_usage(cli, "--format %s: there is no --input of that name", given);
    const char *word = equals + 1, *colon = strchr(word, ':');
    const size_t word_bytes = colon ? (size_t)(colon - word) : strlen(word);
    int format = 0;
    while (format_words[format] && (strlen(format_words[format]) != word_bytes ||
                                    memcmp(format_words[format], word, word_bytes) != 0))
        format++;
    if (!format_words[format] || (colon && format != SOURCE_RAW))
        return cli_usage(cli, "--format %s: a format is npy, text or raw[:ROWBYTES]", given);
    source->format = (enum source_format)format;
    source->format_known = true;
    if (colon) {
        char *end;
        errno = 0;
        source->row_bytes = strtoull(colon + 1, &end, 10);
        if (*end || end == colon + 1 || colon[1] == '-' || errno || source->row_bytes == 0 ||
            source->row_bytes > INT64_MAX)
            return cli_usage(cli, "--format %s: '%s' is no number of bytes of a row", given, colon + 1);
    }
    return EXIT_DONE;
}

int source_open(struct source *source)
{
    if (source->kind != SOURCE_FILE)
        return EXIT_DONE;
    source->fd = open(source->text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (source->fd < 0 || fstat(source->fd, &source->status) != 0)
        return cli_fail(EXIT_USAGE, "input %s: cannot read '%s': %s", source->name, source->text,
                        strerror(errno));
    if (!S_ISREG(source->status.st_mode))
        return cli_fail(EXIT_USAGE, "input %s: '%s' is a folder or a device, not a file; give a regular file",
                        source->name, source->text);
    const uint64_t bytes = (uint64_t)source->status.st_size;
    enum array_error error = bytes == 0 ? ARRAY_EMPTY : ARRAY_OK;
    if (!error && source->format == SOURCE_NPY) {
        static uint8_t head[ARRAY_NPY_HEADER_MAX + 12];
        const ssize_t count = pread(source->fd, head, sizeof head, 0);
        if (count < 0)
            return cli_fail(EXIT_FAILED, "input %s: cannot read '%s': %s", source->name, source->text,
                            strerror(errno));
        uint64_t offset;
        error = array_npy_decode(head, (size_t)count, bytes, &source->type, &offset);
    } else if (!error && source->format == SOURCE_RAW) {
        error = array_raw_type(bytes, source->row_bytes, &source->type);
    }
    source->typed = source->format != SOURCE_TEXT;
    if (error)
        return cli_fail(EXIT_USAGE, "input %s: '%s': %s", source->name, source->text,
                        array_error_text(error));
    return EXIT_DONE;
}

/* What the kernel's manifest leaves no choice about. An output of a job is always a .npy file. */
static void settle(struct source *source, const struct manifest_input *input)
{
    if (input->roles == MANIFEST_SPLIT)
        source->split = true;
    if (source->format_known || source->kind == SOURCE_JOB)
        return;
    if (input->dtypes == 1u << ARRAY_TEXT)
        source->format = SOURCE_TEXT;
    else if (source->kind == SOURCE_FILE || input->dtypes == 1u << ARRAY_RAW)
        source->format = SOURCE_RAW;
}

int source_set_roles(struct source *sources, int count, const struct cli *cli,
                     const struct manifest *manifest)
{
    const char *name;
    for (int i = 0; (name = cli_value_at(cli, "split", i)); i++) {
        struct source *source = find(sources, count, name, strlen(name));
        if (!source)
            return cli_usage(cli, "--split %s: there is no --input of that name", name);
        source->split = true;
    }
    for (int i = 0; i < count; i++)
        for (uint32_t m = 0; m < manifest->input_count; m++)
            if (strcmp(manifest->inputs[m].name, sources[i].name) == 0)
                settle(&sources[i], &manifest->inputs[m]);
    return EXIT_DONE;
}

int sources_check(const struct source *sources, int count, const struct manifest *manifest,
                  const struct manifest_params *params, const struct manifest_wish *wish,
                  struct manifest_plan *plan)
{
    struct manifest_given given[MANIFEST_INPUTS_MAX];
    *plan = (struct manifest_plan){.output_count = manifest->output_count};
    if (count > MANIFEST_INPUTS_MAX)
        return cli_fail(EXIT_USAGE, "kernel '%s' takes %u inputs, not %d; `weir kernels %s` lists them",
                        manifest->name, manifest->input_count, count, manifest->name);
    for (int i = 0; i < count; i++) {
        if (!sources[i].typed) /* only the node knows */
            return EXIT_DONE;
        given[i] = (struct manifest_given){
            .name = sources[i].name,
            .type = sources[i].type,
            .role = sources[i].split ? MANIFEST_SPLIT : MANIFEST_BROADCAST,
            .bytes = (uint64_t)sources[i].status.st_size,
        };
    }
    char error[MANIFEST_ERROR_BYTES];
    if (manifest_check(manifest, params, given, (size_t)count, wish, plan, error) != MANIFEST_OK)
        return cli_fail(EXIT_USAGE, "%s", error);
    return EXIT_DONE;
}

/* ---- Upload */

struct reader {
    const struct source *source;
    struct progress *progress;
    uint64_t at;
    bool shrunk;
};

static ssize_t read_piece(void *context, void *buffer, size_t capacity)
{
    struct reader *reader = context;
    const ssize_t count = pread(reader->source->fd, buffer, capacity, (off_t)reader->at);
    if (count <= 0) {
        reader->shrunk = count == 0;
        return -1;
    }
    reader->at += (uint64_t)count;
    progress_upload(reader->progress, reader->source->name, reader->at,
                    (uint64_t)reader->source->status.st_size);
    return count;
}

int source_upload(struct source *sources, int index, struct cli *cli)
{
    struct source *source = &sources[index];
    if (source->kind != SOURCE_FILE)
        return EXIT_DONE;
    for (int i = 0; i < index; i++)
        if (sources[i].kind == SOURCE_FILE && sources[i].status.st_dev == source->status.st_dev &&
            sources[i].status.st_ino == source->status.st_ino) {
            memcpy(source->blob, sources[i].blob, sizeof source->blob);
            return EXIT_DONE;
        }
    struct progress progress;
    progress_open(&progress);
    struct reader reader = {.source = source, .progress = &progress};
    struct client_failure failure;
    json_t *reply = NULL;
    errno = 0;
    const int code = (int)client_put(cli->client, json_pack("{s:s, s:b}", "op", "blob.put", "hold", 1),
                                     (uint64_t)source->status.st_size, read_piece, &reader, &reply, &failure);
    progress_close(&progress);
    if (code == EXIT_DONE) {
        snprintf(source->blob, sizeof source->blob, "%s", client_text(reply, "blob"));
        json_decref(reply);
        return EXIT_DONE;
    }
    if (reader.shrunk)
        return cli_fail(EXIT_FAILED, "input %s: '%s' became shorter while it was read", source->name,
                        source->text);
    if (code == EXIT_INTERRUPTED)
        return cli_fail((enum exit_code)code, "interrupted during the upload of '%s'; nothing was submitted",
                        source->text);
    return cli_fail((enum exit_code)code, "input %s: '%s': %s", source->name, source->text, failure.text);
}

json_t *source_json(const struct source *source)
{
    json_t *object = json_pack("{s:s, s:b}", "name", source->name, "split", source->split);
    if (source->kind == SOURCE_JOB)
        json_object_set_new(object, "job", json_string(source->text));
    else
        json_object_set_new(object, "blob", json_string(source->blob));
    json_object_set_new(object, "format", json_string(format_words[source->format]));
    if (source->row_bytes)
        json_object_set_new(object, "row_bytes", json_integer((json_int_t)source->row_bytes));
    return object;
}

void source_close(struct source *source)
{
    if (source->fd >= 0)
        close(source->fd);
    source->fd = -1;
}
