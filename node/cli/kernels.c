/* weir kernels: the list, or one kernel's manual page, from what the node says of its kernels. */
#include "node/cli/cli.h"
#include "node/cli/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PAGE_COLUMNS 79
#define DIGITS_MIN 6 /* of a digest: shorter ones are names */

/* "a, b or c" from an array of strings. */
static void print_words(const json_t *words, const char *last)
{
    size_t i;
    const json_t *word;
    json_array_foreach(words, i, word) printf("%s%s",
                                              i == 0                           ? ""
                                              : i + 1 < json_array_size(words) ? ", "
                                                                               : last,
                                              json_string_value(word));
}

static bool has_word(const json_t *words, const char *wanted)
{
    size_t i;
    const json_t *word;
    json_array_foreach(words, i, word) if (strcmp(json_string_value(word), wanted) == 0) return true;
    return false;
}

static int show_list(struct cli *cli, const json_t *reply)
{
    static const struct table_column columns[] = {
        {.title = "NAME"}, {.title = "CLASS"}, {.title = "WHAT IT DOES", .wrap = true}};
    struct table *table = table_open(columns, 3);
    size_t i;
    const json_t *kernel;
    json_array_foreach(client_member(reply, "kernels"), i, kernel)
    {
        if (cli->quiet) {
            printf("%s\n", client_text(kernel, "name"));
            continue;
        }
        table_cell(table, "%s", client_text(kernel, "name"));
        table_cell(table, "%s",
                   client_flag(kernel, "diagnostic") ? "diagnostic" : client_text(kernel, "class"));
        if (client_flag(kernel, "user") && *client_text(kernel, "refused"))
            table_cell(table, "a user's own (%.8s), does not compile: %s", client_text(kernel, "digest"),
                       client_text(kernel, "refused"));
        else if (client_flag(kernel, "user"))
            table_cell(table, "a user's own (%.8s)%s%s", client_text(kernel, "digest"),
                       *client_text(kernel, "help") ? ": " : "", client_text(kernel, "help"));
        else
            table_cell(table, "%s", client_text(kernel, "help"));
    }
    if (!cli->quiet)
        table_print(table, stdout);
    table_close(table);
    return EXIT_DONE;
}

/* ---- A manual page */

/* Prose that begins in this column and goes on there, broken between words. */
static void print_prose(int left, const char *text)
{
    int column = left;
    while (*text) {
        const int length = (int)strcspn(text, " ");
        if (column > left && column + 1 + length > PAGE_COLUMNS) {
            printf("\n%*s", left, "");
            column = left;
        } else if (column > left) {
            column += printf(" ");
        }
        column += printf("%.*s", length, text);
        text += length;
        text += strspn(text, " ");
    }
    printf("\n");
}

static void print_inputs(const json_t *inputs)
{
    size_t i;
    const json_t *input;
    printf("\ninputs:\n");
    json_array_foreach(inputs, i, input)
    {
        const int64_t low = client_number(input, "rank_min"), high = client_number(input, "rank_max");
        printf("  %-10s ", client_text(input, "name"));
        print_prose(13, client_text(input, "help"));
        printf("%13s", "");
        print_words(client_member(input, "dtypes"), " or ");
        if (low == high)
            printf("; %lld %s", (long long)low, low == 1 ? "axis" : "axes");
        else
            printf("; %lld to %lld axes", (long long)low, (long long)high);
        printf("; ");
        print_words(client_member(input, "roles"), " or ");
        printf("%s\n", client_flag(input, "optional") ? "; may be left out" : "");
    }
    if (json_array_size(inputs) == 0)
        printf("  none\n");
}

static void print_outputs(const json_t *outputs)
{
    size_t i;
    const json_t *output;
    printf("\noutputs:\n");
    json_array_foreach(outputs, i, output)
    {
        const char *combine = client_text(output, "combine");
        char help[512];
        printf("  %-10s ", client_text(output, "name"));
        if (strcmp(combine, "concat") == 0)
            snprintf(help, sizeof help, "%s", client_text(output, "help"));
        else
            snprintf(help, sizeof help, "%s (the shards' %s)", client_text(output, "help"), combine);
        print_prose(13, help);
    }
}

static void value_text(const json_t *param, const char *key, char *text, size_t bytes)
{
    const json_t *value = json_object_get(param, key);
    if (json_is_integer(value))
        snprintf(text, bytes, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, bytes, "%g", json_real_value(value));
    else
        snprintf(text, bytes, "%s", json_is_string(value) ? json_string_value(value) : "");
}

static void print_params(const json_t *params)
{
    size_t i;
    const json_t *param;
    printf("\nparameters:\n");
    json_array_foreach(params, i, param)
    {
        printf("  %-10s ", client_text(param, "name"));
        if (*client_text(param, "help")) {
            print_prose(13, client_text(param, "help"));
            printf("%13s", "");
        }
        printf("%s, ", client_text(param, "type"));
        if (strcmp(client_text(param, "type"), "choice") == 0) {
            print_words(client_member(param, "choices"), " or ");
        } else {
            char low[64], high[64];
            value_text(param, "min", low, sizeof low);
            value_text(param, "max", high, sizeof high);
            printf("%s to %s", low, high);
        }
        char usual[64];
        value_text(param, "default", usual, sizeof usual);
        printf("; default %s\n", usual);
    }
    if (json_array_size(params) == 0)
        printf("  none\n");
}

/* An option of the example; one that no longer fits 80 columns begins the next line. */
__attribute__((format(printf, 2, 3))) static void print_option(int *column, const char *format, ...)
{
    char option[160];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(option, sizeof option, format, arguments);
    va_end(arguments);
    if (*column + 1 + length > PAGE_COLUMNS - 2) { /* room for the backslash */
        printf(" \\\n     ");
        *column = 5;
    }
    printf(" %s", option);
    *column += 1 + length;
}

static void print_example(const json_t *kernel)
{
    size_t i;
    if (json_object_get(kernel, "example")) {
        printf("\nexample:\n  %s\n", client_text(kernel, "example"));
        return;
    }
    const json_t *row;
    int column = printf("\nexample:\n  weir submit %s%s%s", client_flag(kernel, "user") ? "--kernel " : "",
                        client_text(kernel, "name"), client_flag(kernel, "user") ? ".cu" : "") -
                 (int)strlen("\nexample:\n");
    const json_t *inputs = client_member(kernel, "inputs");
    if (json_array_size(inputs) == 0)
        print_option(&column, "--items 1000");
    json_array_foreach(inputs, i, row)
    {
        const char *name = client_text(row, "name");
        if (client_flag(row, "optional"))
            continue;
        const json_t *dtypes = client_member(row, "dtypes");
        const char *suffix = has_word(dtypes, "text") ? "txt" : has_word(dtypes, "raw") ? "bin" : "npy";
        print_option(&column, "--input %s=%s.%s", name, name, suffix);
        if (has_word(client_member(row, "roles"), "split"))
            print_option(&column, "--split %s", name);
    }
    const json_t *param = json_array_get(client_member(kernel, "params"), 0);
    if (param) {
        char value[64];
        value_text(param, "default", value, sizeof value);
        print_option(&column, "--param %s=%s", client_text(param, "name"), value);
    }
    const json_t *output = json_array_get(client_member(kernel, "outputs"), 0);
    if (output)
        print_option(&column, "--output %s=%s.npy", client_text(output, "name"), client_text(output, "name"));
    printf("\n");
}

static void print_page(const json_t *kernel)
{
    const int left =
        printf("%s %lld: ", client_text(kernel, "name"), (long long)client_number(kernel, "version"));
    print_prose(left, *client_text(kernel, "help") ? client_text(kernel, "help") : "a user's kernel");
    if (strcmp(client_text(kernel, "class"), "exact") == 0)
        printf("exact: the same bits on any CPU and any GPU\n");
    else
        printf("tolerant: equal within %g of the size of the sums, between CPUs and GPUs\n",
               json_real_value(json_object_get(kernel, "tolerance")));
    if (*client_text(kernel, "refused"))
        printf("it does not compile: %s\n", client_text(kernel, "refused"));
    if (client_flag(kernel, "diagnostic"))
        printf("diagnostic: it measures the mesh\n");
    printf("targets: ");
    print_words(client_member(kernel, "targets"), " and ");
    print_prose(printf("\ncost of an item: ") - 1, client_text(kernel, "cost"));
    print_inputs(client_member(kernel, "inputs"));
    print_outputs(client_member(kernel, "outputs"));
    print_params(client_member(kernel, "params"));
    print_example(kernel);
    printf("\ndigest %s\n", client_text(kernel, "digest"));
}

/* Two users' kernels may have one name: then the digest's first digits tell them apart. */
static bool is_meant(const json_t *kernel, const char *given)
{
    const size_t digits = strlen(given);
    return strcmp(client_text(kernel, "name"), given) == 0 ||
           (digits >= DIGITS_MIN && strncmp(client_text(kernel, "digest"), given, digits) == 0);
}

static int show_page(struct cli *cli, const json_t *reply)
{
    size_t i;
    const json_t *kernel, *meant = NULL;
    const char *names[64] = {NULL};
    unsigned count = 0;
    json_array_foreach(client_member(reply, "kernels"), i, kernel)
    {
        if (is_meant(kernel, cli->argv[0]) && count++ == 0)
            meant = kernel;
        if (i < 63)
            names[i] = client_text(kernel, "name");
    }
    if (count > 1)
        return cli_fail(EXIT_USAGE, "%u kernels are '%s': name one by its digest, as `weir kernels` shows it",
                        count, cli->argv[0]);
    if (meant) {
        if (cli->json)
            cli_print_json(meant);
        else if (cli->quiet)
            printf("%s\n", client_text(meant, "name"));
        else
            print_page(meant);
        return EXIT_DONE;
    }
    const char *near = cli_nearest(cli->argv[0], names);
    return near ? cli_fail(EXIT_NONE, "no kernel '%s'; did you mean '%s'?", cli->argv[0], near)
                : cli_fail(EXIT_NONE, "no kernel '%s'; `weir kernels` lists them", cli->argv[0]);
}

static int kernels_run(struct cli *cli)
{
    if (cli->argc == 0)
        return cli_list(cli, json_pack("{s:s}", "op", "kernels"), show_list);
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s}", "op", "kernels"), &reply);
    if (code != EXIT_DONE)
        return code;
    const int shown = show_page(cli, reply);
    json_decref(reply);
    return shown;
}

static const struct cli_option options[] = {
    CLI_JSON,
    {'q', "quiet", NULL, "print names only"},
    CLI_NODE,
    {0},
};

const struct cli_command cli_kernels = {
    .name = "kernels",
    .arguments = "[NAME | DIGEST]",
    .summary = "what can be computed, or the manual page of a kernel",
    .options = options,
    .run = kernels_run,
    .positional_min = 0,
    .positional_max = 1,
    .example = "weir kernels knn",
};
