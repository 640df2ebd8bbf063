/*
 * weir submit: checks what can be checked here, sends the inputs, submits, waits, fetches the outputs.
 *
 * The job belongs to the node from the moment it has answered: nothing that happens to this command after
 * that, Ctrl-C included, touches it, and `--reattach` takes up the wait again.
 */
#include "kernels/user_source.h"
#include "mesh/limits.h"
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/picture.h"
#include "node/cli/progress.h"
#include "node/cli/source.h"
#include "node/cli/target.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct submit {
    struct cli *cli;
    const struct manifest *manifest; /* NULL with --reattach */
    struct source code;              /* with --kernel: its file, */
    struct manifest_user user;       /* its manifest, */
    char manifest_path[4096];        /* and where that lies */
    struct manifest_params params;
    struct manifest_wish wish;
    int64_t replicas;    /* 0 = not given */
    char verify[16];     /* "" = not given */
    int verify_permille; /* 0 = not given */
    struct manifest_plan
        plan; /* as far as it is known here; of the kernel's outputs the first so many come */
    struct source sources[MANIFEST_INPUTS_MAX];
    int source_count;
    struct target targets[MANIFEST_OUTPUTS_MAX];
    int target_count;
    char job[65];
    char scene[PATH_MAX + 8]; /* "scene=FILE" of --scene FILE */
};

/* ---- What was asked for */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Reads a small file whole into `text`; false after saying why. */
static bool read_small(const char *path, char *text, size_t capacity, size_t *bytes)
{
    FILE *file = fopen(path, "re");
    *bytes = file ? fread(text, 1, capacity, file) : 0;
    const bool good = file && !ferror(file);
    if (!good)
        cli_fail(EXIT_USAGE, "cannot read '%s': %s", path, strerror(errno));
    if (file)
        fclose(file);
    return good;
}

static bool ends_with_ptx(const char *path)
{
    const size_t bytes = strlen(path);
    return bytes > 4 && strcmp(path + bytes - 4, ".ptx") == 0;
}

/* A kernel of one's own: --kernel my.cu, and beside it my.ini unless --manifest names another. What can be said
 * without a compiler is said here. */
static int read_user_kernel(struct submit *submit)
{
    static char text[MANIFEST_TEXT_BYTES_MAX + 1], source[MANIFEST_SOURCE_BYTES_MAX + 1];
    char error[MANIFEST_ERROR_BYTES], given[4200];
    const char *path = cli_value(submit->cli, "kernel", ""), *dot = strrchr(path, '.');
    size_t text_bytes, source_bytes;
    const int stem = (int)(dot && !strchr(dot, '/') ? (size_t)(dot - path) : strlen(path));
    if (strlen(path) > 4000)
        return cli_usage(submit->cli, "--kernel %.60s...: the path is too long", path);
    if (cli_has(submit->cli, "manifest"))
        snprintf(submit->manifest_path, sizeof submit->manifest_path, "%s",
                 cli_value(submit->cli, "manifest", ""));
    else
        snprintf(submit->manifest_path, sizeof submit->manifest_path, "%.*s.ini", stem, path);
    if (!read_small(path, source, sizeof source, &source_bytes) ||
        !read_small(submit->manifest_path, text, sizeof text, &text_bytes))
        return EXIT_USAGE;
    struct user_source scanned = {0};
    bool good = manifest_user_parse(base_name(submit->manifest_path), text, text_bytes, &submit->user, error);
    if (good && !ends_with_ptx(path))
        good = user_source_open(&scanned, &submit->user, base_name(path), source, source_bytes, error);
    user_source_close(&scanned);
    if (!good)
        return cli_fail(EXIT_USAGE, "%s", error);
    submit->manifest = &submit->user.manifest;
    snprintf(given, sizeof given, "kernel=%s", path);
    const int code = source_parse(&submit->code, submit->cli, given);
    if (code != EXIT_DONE)
        return code;
    submit->code.text = path; /* `given` is gone soon */
    submit->code.kind = SOURCE_FILE;
    submit->code.format = SOURCE_RAW;
    return source_open(&submit->code);
}

static int read_kernel(struct submit *submit)
{
    char error[MANIFEST_ERROR_BYTES];
    const char *name =
        cli_has(submit->cli, "kernel") ? cli_value(submit->cli, "kernel", "") : submit->cli->argv[0];
    if (cli_has(submit->cli, "kernel")) {
        const int code = read_user_kernel(submit);
        if (code != EXIT_DONE)
            return code;
    } else {
        submit->manifest = manifest_find(name);
    }
    if (!submit->manifest) {
        manifest_unknown_text(name, error);
        return cli_fail(EXIT_USAGE, "%s; your own are given with --kernel FILE.cu", error);
    }
    const char *settings[MANIFEST_PARAMS_MAX + 1];
    size_t count = 0;
    for (const char *each; (each = cli_value_at(submit->cli, "param", (int)count)); count++) {
        if (count == MANIFEST_PARAMS_MAX)
            return cli_fail(EXIT_USAGE, "kernel '%s' takes %u parameters; `weir kernels %s` lists them", name,
                            submit->manifest->param_count, name);
        settings[count] = each;
    }
    if (manifest_params_parse(submit->manifest, settings, count, &submit->params, error) != MANIFEST_OK)
        return cli_fail(EXIT_USAGE, "%s", error);
    return EXIT_DONE;
}

static int read_numbers(struct submit *submit)
{
    int64_t items = 0, shard_items = 0;
    if (!cli_number(submit->cli, "items", 1, INT64_MAX, &items) ||
        !cli_number(submit->cli, "shard-items", 1, INT64_MAX, &shard_items) ||
        !cli_number(submit->cli, "replicas", 1, MESH_COPIES_MAX, &submit->replicas))
        return EXIT_USAGE;
    submit->wish = (struct manifest_wish){.items = (uint64_t)items, .shard_items = (uint64_t)shard_items};
    const char *cache = cli_value(submit->cli, "cache", "mesh");
    if (strcmp(cache, "off") != 0 && strcmp(cache, "site") != 0 && strcmp(cache, "mesh") != 0)
        return cli_usage(submit->cli, "--cache %s: give off, site or mesh", cache);
    return EXIT_DONE;
}

/* The i-th input as NAME=SOURCE: the --input options, then that of --scene; NULL after the last. */
static const char *given_input(struct submit *submit, int i)
{
    const char *given = cli_value_at(submit->cli, "input", i), *scene = cli_value(submit->cli, "scene", NULL);
    if (given || !scene || (i > 0 && !cli_value_at(submit->cli, "input", i - 1)))
        return given;
    snprintf(submit->scene, sizeof submit->scene, "scene=%s", scene);
    return submit->scene;
}

/* none, spot, spot=SHARE (5% or 0.05), certificate or quorum. */
static int read_verify(struct submit *submit)
{
    const char *given = cli_value(submit->cli, "verify", "");
    const char *equals = strchr(given, '=');
    const size_t word = equals ? (size_t)(equals - given) : strlen(given);
    snprintf(submit->verify, sizeof submit->verify, "%.*s", (int)(word < 15 ? word : 15), given);
    static const char *const words[] = {"", "none", "spot", "certificate", "quorum"};
    size_t i = 0;
    while (i < sizeof words / sizeof *words && strcmp(words[i], submit->verify) != 0)
        i++;
    if (i == sizeof words / sizeof *words || (equals && strcmp(submit->verify, "spot") != 0) ||
        (cli_has(submit->cli, "verify") && !*given))
        return cli_usage(submit->cli, "--verify %s: give none, spot[=SHARE%%], certificate or quorum", given);
    if (!equals)
        return EXIT_DONE;
    char *end;
    const double share = strtod(equals + 1, &end), permille = *end == '%' ? share * 10 : share * 1000;
    if (end == equals + 1 || (*end && strcmp(end, "%") != 0) || !(permille >= 1 && permille <= 1000))
        return cli_usage(submit->cli, "--verify %s: the share is 0.1%% to 100%%, as in spot=5%% or spot=0.05",
                         given);
    submit->verify_permille = (int)(permille + 0.5);
    return EXIT_DONE;
}

static int read_inputs(struct submit *submit)
{
    const char *given;
    for (; (given = given_input(submit, submit->source_count)); submit->source_count++) {
        if (submit->source_count == (int)submit->manifest->input_count)
            return cli_fail(EXIT_USAGE,
                            "kernel '%s' takes %u inputs, '%.*s' is one more; `weir kernels %s` lists them",
                            submit->manifest->name, submit->manifest->input_count, (int)strcspn(given, "="),
                            given, submit->manifest->name);
        const int code = source_parse(&submit->sources[submit->source_count], submit->cli, given);
        if (code != EXIT_DONE)
            return code;
    }
    for (int i = 0; (given = cli_value_at(submit->cli, "format", i)); i++) {
        const int code = source_set_format(submit->sources, submit->source_count, submit->cli, given);
        if (code != EXIT_DONE)
            return code;
    }
    int code = source_set_roles(submit->sources, submit->source_count, submit->cli, submit->manifest);
    for (int i = 0; code == EXIT_DONE && i < submit->source_count; i++)
        code = source_open(&submit->sources[i]);
    if (code != EXIT_DONE)
        return code;
    return sources_check(submit->sources, submit->source_count, submit->manifest, &submit->params,
                         &submit->wish, &submit->plan);
}

/* -1: the kernel has none of that name. */
static int find_output(const struct manifest *manifest, const char *name)
{
    for (uint32_t o = 0; o < manifest->output_count; o++)
        if (strcmp(manifest->outputs[o].name, name) == 0)
            return (int)o;
    return -1;
}

/* A FILE without a NAME is the output, where there is but one. */
static int name_output(const struct submit *submit, struct target *target)
{
    if (*target->name)
        return EXIT_DONE;
    if (!submit->manifest || submit->plan.output_count != 1)
        return cli_usage(submit->cli, "--output %s: write NAME=FILE%s", target->given,
                         submit->manifest ? "; the kernel gives more than one output" : "");
    snprintf(target->name, sizeof target->name, "%s", submit->manifest->outputs[0].name);
    return EXIT_DONE;
}

/* That the kernel gives it, and, where the inputs' types are known here, that it can be written as it is named. */
static int check_output(const struct submit *submit, const struct target *target)
{
    const struct manifest *manifest = submit->manifest;
    const char *const name = target->name;
    const int output = find_output(manifest, name);
    if (output < 0)
        return cli_fail(EXIT_USAGE, "kernel '%s' has no output '%s'; `weir kernels %s` lists them",
                        manifest->name, name, manifest->name);
    if ((uint32_t)output >= submit->plan.output_count)
        return cli_fail(EXIT_USAGE, "with these parameters kernel '%s' gives no output '%s': %s",
                        manifest->name, name, manifest->outputs[output].help);
    char why[PICTURE_WHY_BYTES];
    if (target->picture && submit->plan.items > 0 && !picture_fits(&submit->plan.outputs[output], why))
        return cli_fail(EXIT_USAGE, "--output %s: %s", target->given, why);
    return EXIT_DONE;
}

static int read_outputs(struct submit *submit)
{
    const char *given;
    for (; (given = cli_value_at(submit->cli, "output", submit->target_count)); submit->target_count++) {
        if (submit->target_count == MANIFEST_OUTPUTS_MAX)
            return cli_usage(submit->cli, "no kernel has more than %d outputs", MANIFEST_OUTPUTS_MAX);
        struct target *target = &submit->targets[submit->target_count];
        int code = target_parse(target, submit->cli, given);
        if (code != EXIT_DONE)
            return code;
        code = name_output(submit, target);
        if (code == EXIT_DONE && submit->manifest)
            code = check_output(submit, target);
        if (code != EXIT_DONE)
            return code;
        if (target->standard && submit->cli->json)
            return cli_usage(submit->cli, "--json and --output %s both write to standard output", given);
        if (cli_has(submit->cli, "detach"))
            return cli_usage(submit->cli,
                             "--detach does not wait for --output %s; fetch it later with "
                             "`weir submit --reattach ID --output %s`",
                             given, given);
        code =
            target_open(target, submit->targets, submit->target_count, submit->sources, submit->source_count);
        if (code != EXIT_DONE) {
            submit->target_count++; /* so that it is closed */
            return code;
        }
    }
    return EXIT_DONE;
}

/* ---- Submit */

static json_t *request_json(const struct submit *submit)
{
    const struct cli *cli = submit->cli;
    json_t *inputs = json_array(), *params = json_array();
    for (int i = 0; i < submit->source_count; i++)
        json_array_append_new(inputs, source_json(&submit->sources[i]));
    const char *each;
    for (int i = 0; (each = cli_value_at(cli, "param", i)); i++)
        json_array_append_new(params, json_string(each));
    json_t *request = json_pack("{s:s, s:s, s:o, s:o, s:s}", "op", "submit", "kernel", submit->manifest->name,
                                "inputs", inputs, "params", params, "cache", cli_value(cli, "cache", "mesh"));
    if (submit->manifest->user) {
        json_object_set_new(request, "manifest", json_stringn(submit->user.text, submit->user.text_bytes));
        json_object_set_new(request, "manifest_name", json_string(base_name(submit->manifest_path)));
        json_object_set_new(request, "source", json_string(submit->code.blob));
        json_object_set_new(request, "language",
                            json_string(ends_with_ptx(cli_value(cli, "kernel", "")) ? "ptx" : "cuda"));
    }
    if (submit->wish.items)
        json_object_set_new(request, "items", json_integer((json_int_t)submit->wish.items));
    if (submit->wish.shard_items)
        json_object_set_new(request, "shard_items", json_integer((json_int_t)submit->wish.shard_items));
    if (submit->replicas)
        json_object_set_new(request, "replicas", json_integer(submit->replicas));
    if (*submit->verify)
        json_object_set_new(request, "verify", json_string(submit->verify));
    if (submit->verify_permille)
        json_object_set_new(request, "verify_permille", json_integer(submit->verify_permille));
    if (cli_has(cli, "key"))
        json_object_set_new(request, "key", json_string(cli_value(cli, "key", "")));
    if (cli_has(cli, "local"))
        json_object_set_new(request, "local", json_true());
    return request;
}

/* The command line that takes up the wait: on standard error, below what happened. */
static void say_how_to_reattach(const struct submit *submit)
{
    fprintf(stderr, "weir: reattach with: weir submit --reattach %.16s", submit->job);
    for (int i = 0; i < submit->target_count; i++)
        fprintf(stderr, " --output %s=%s", submit->targets[i].name, submit->targets[i].given);
    if (cli_has(submit->cli, "node"))
        fprintf(stderr, " --node %s", cli_value(submit->cli, "node", ""));
    fputc('\n', stderr);
}

/* What the asked node has to say meanwhile: while it looks for the job's home, or can't take it yet. */
static bool say_note(const json_t *object)
{
    const char *note = client_text(object, "note");
    if (*note)
        fprintf(stderr, "weir: %s\n", note);
    return *note != '\0';
}

/* Before anything is sent. A node that doesn't know the question answers it at the submit. */
static int check_replicas(const struct submit *submit)
{
    json_t *reply = NULL;
    struct client_failure failure;
    if (submit->replicas < 2 ||
        client_call(submit->cli->client,
                    json_pack("{s:s, s:I}", "op", "replicas", "replicas", (json_int_t)submit->replicas),
                    &reply, &failure) != EXIT_DONE)
        return EXIT_DONE;
    const int64_t got = client_number(reply, "replicas");
    json_decref(reply);
    if (got >= submit->replicas)
        return EXIT_DONE;
    return cli_fail(EXIT_FAILED,
                    "--replicas %lld: too few nodes are up for the copies that the job insists on, %lld with "
                    "this one; nothing was sent, start more or ask for fewer",
                    (long long)submit->replicas, (long long)got);
}

/* The answer to the submit. `job` gets the job's id if the node told it before that. */
static int await_answer(struct submit *submit, json_t **reply, struct client_failure *failure)
{
    int code = (int)client_begin(submit->cli->client, request_json(submit), failure);
    for (bool final = false; code == EXIT_DONE && !final;) {
        code = (int)client_next(submit->cli->client, reply, &final, failure);
        if (code != EXIT_DONE || final)
            break;
        if (say_note(*reply))
            snprintf(submit->job, sizeof submit->job, "%s", client_text(*reply, "job"));
        json_decref(*reply);
        *reply = NULL;
    }
    return code;
}

static int send_job(struct submit *submit)
{
    if (check_replicas(submit) != EXIT_DONE)
        return EXIT_FAILED;
    if (submit->manifest->user) {
        const int code = source_upload(&submit->code, 0, submit->cli);
        if (code != EXIT_DONE)
            return code;
    }
    for (int i = 0; i < submit->source_count; i++) {
        const int code = source_upload(submit->sources, i, submit->cli);
        if (code != EXIT_DONE)
            return code;
    }
    struct client_failure failure;
    json_t *reply = NULL;
    client_set_timeout(submit->cli->client, 0); /* a large input takes its time to be checked and cut */
    const int code = await_answer(submit, &reply, &failure);
    if (code == EXIT_INTERRUPTED && submit->job[0])
        return cli_fail(
            (enum exit_code)code,
            "interrupted before job %.8s was accepted; its node may take it yet: `weir jobs %.8s` "
            "shows whether it has, `weir cancel %.8s` ends it",
            submit->job, submit->job, submit->job);
    if (code == EXIT_INTERRUPTED)
        return cli_fail((enum exit_code)code,
                        "interrupted before the node answered; `weir jobs` shows whether it took the job");
    if (code == EXIT_UNREACHABLE)
        return cli_fail((enum exit_code)code,
                        "%s; it is not known whether the job was taken, `weir jobs` shows it", failure.text);
    if (code != EXIT_DONE)
        return cli_fail((enum exit_code)code, "%s", failure.text);
    const bool done = strcmp(client_text(reply, "state"), "done") == 0;
    snprintf(submit->job, sizeof submit->job, "%s", client_text(reply, "job"));
    if (client_flag(reply, "existing"))
        fprintf(stderr, "weir: the job with this key is there already: %.16s, %s\n", submit->job,
                client_text(reply, "state"));
    else if (client_flag(reply, "alone") && !submit->replicas)
        fprintf(stderr, "weir: no other node %s job %.8s, too: it %s\n",
                done ? "took the finished" : "was up to keep the journal of", submit->job,
                done ? "goes with this one's disk" : "waits for this one if that is lost");
    if (cli_has(submit->cli, "detach")) {
        if (submit->cli->json)
            cli_print_json(reply);
        else
            printf("%s\n", submit->job);
    }
    json_decref(reply);
    return EXIT_DONE;
}

/* With --reattach: the full id, and outputs that the job really has. */
static int find_job(struct submit *submit)
{
    json_t *reply = NULL;
    struct client_failure failure;
    client_set_timeout(submit->cli->client, 0); /* its home may be lost, and the next one not there yet */
    int code = (int)client_begin(
        submit->cli->client,
        json_pack("{s:s, s:s, s:b}", "op", "job", "job", cli_value(submit->cli, "reattach", ""), "wait", 1),
        &failure);
    for (bool final = false; code == EXIT_DONE && !final;) {
        json_decref(reply);
        reply = NULL;
        code = (int)client_next(submit->cli->client, &reply, &final, &failure);
        if (code == EXIT_DONE && !final)
            say_note(reply);
    }
    if (code != EXIT_DONE) {
        json_decref(reply);
        return cli_fail((enum exit_code)code, "%s", failure.text);
    }
    client_set_timeout(submit->cli->client, CLIENT_TIMEOUT_MS);
    const json_t *job = client_member(reply, "job");
    snprintf(submit->job, sizeof submit->job, "%s", client_text(job, "id"));
    const struct manifest *manifest = manifest_find(client_text(job, "kernel"));
    int result = EXIT_DONE;
    for (int i = 0; manifest && result == EXIT_DONE && i < submit->target_count; i++)
        if (find_output(manifest, submit->targets[i].name) < 0)
            result = cli_fail(EXIT_USAGE, "job %.8s (%s) has no output '%s'; `weir kernels %s` lists them",
                              submit->job, manifest->name, submit->targets[i].name, manifest->name);
    json_decref(reply);
    return result;
}

/* ---- Wait */

/* A job that waits for room at its home would look like one that is slow. */
static void say_stall(struct progress *progress, const json_t *job, bool *stalled)
{
    const char *why = client_text(job, "stalled");
    if (!*stalled && *why) {
        progress_close(progress);
        fprintf(stderr, "weir: job %.8s is stalled: %s\n", client_text(job, "id"), why);
    } else if (*stalled && !*why && strcmp(client_text(job, "state"), "cancelled") != 0) {
        progress_close(progress);
        fprintf(stderr, "weir: job %.8s goes on\n", client_text(job, "id"));
    }
    *stalled = *why != '\0';
}

/* On EXIT_DONE, *job is the job's last state. */
static int wait_for_job(struct submit *submit, json_t **job)
{
    struct client_failure failure;
    struct progress progress;
    progress_open(&progress);
    client_set_timeout(submit->cli->client, 0); /* nothing is said while nothing changes */
    int code = (int)client_begin(submit->cli->client,
                                 json_pack("{s:s, s:s}", "op", "watch", "job", submit->job), &failure);
    bool final = false, stalled = false;
    while (code == EXIT_DONE && !final) {
        json_t *object = NULL;
        code = (int)client_next(submit->cli->client, &object, &final, &failure);
        if (code != EXIT_DONE)
            break;
        if (json_object_get(object, "note")) {
            progress_close(&progress);
            say_note(object);
            json_decref(object);
            continue;
        }
        say_stall(&progress, client_member(object, "job"), &stalled);
        progress_job(&progress, client_member(object, "job"));
        if (final)
            *job = json_incref(json_object_get(object, "job"));
        json_decref(object);
    }
    progress_close(&progress);
    if (code == EXIT_DONE) {
        client_set_timeout(submit->cli->client, CLIENT_TIMEOUT_MS);
        return EXIT_DONE;
    }
    if (code == EXIT_INTERRUPTED)
        cli_fail((enum exit_code)code, "detached; job %.16s goes on", submit->job);
    else if (code == EXIT_UNREACHABLE)
        cli_fail((enum exit_code)code,
                 "lost the node while waiting for job %.16s, which goes on at another that keeps its "
                 "journal, or when "
                 "the node runs again: %s; any node of the mesh tells of it: --node SOCKET",
                 submit->job, failure.text);
    else
        cli_fail((enum exit_code)code, "%s", failure.text);
    say_how_to_reattach(submit);
    return code;
}

/* ---- Results */

static void print_outputs(const json_t *job)
{
    size_t i;
    const json_t *output;
    json_array_foreach(client_member(job, "outputs"), i, output)
    {
        printf("%s blob:%s %lld %s [", client_text(output, "name"), client_text(output, "blob"),
               (long long)client_number(output, "bytes"), client_text(output, "dtype"));
        size_t axis;
        const json_t *extent;
        json_array_foreach(client_member(output, "shape"), axis, extent)
            printf("%s%lld", axis ? "," : "", (long long)json_integer_value(extent));
        printf("]\n");
    }
}

static int fetch_outputs(struct submit *submit, const json_t *job)
{
    for (int t = 0; t < submit->target_count; t++) {
        const char *blob = NULL;
        size_t i;
        const json_t *output;
        json_array_foreach(client_member(job, "outputs"), i,
                           output) if (strcmp(client_text(output, "name"), submit->targets[t].name) == 0)
            blob = client_text(output, "blob");
        if (!blob) /* a parameter switches it off */
            return cli_fail(EXIT_USAGE, "job %.8s did not produce the output '%s'", submit->job,
                            submit->targets[t].name);
        const int code = target_fetch(&submit->targets[t], submit->cli, blob);
        if (code != EXIT_DONE) {
            if (code == EXIT_UNREACHABLE || code == EXIT_INTERRUPTED)
                say_how_to_reattach(submit);
            return code;
        }
    }
    return EXIT_DONE;
}

static int finish(struct submit *submit, const json_t *job)
{
    const char *state = client_text(job, "state"), *error = client_text(job, "error");
    if (strcmp(state, "done") != 0) {
        if (submit->cli->json)
            cli_print_json(job);
        return cli_fail(EXIT_FAILED, "job %.8s %s%s%s", submit->job,
                        strcmp(state, "failed") == 0 ? "failed" : "was cancelled", *error ? ": " : "", error);
    }
    const int code = fetch_outputs(submit, job);
    if (code != EXIT_DONE)
        return code;
    const long long disputed = (long long)client_number(job, "disputed");
    if (submit->cli->json)
        cli_print_json(job);
    else if (submit->target_count == 0)
        print_outputs(job);
    if (fflush(stdout) != 0)
        return cli_fail(EXIT_FAILED, "cannot write to standard output");
    if (disputed > 0)
        return cli_fail(EXIT_PARTIAL,
                        "job %.8s is disputed: %lld of its results proved wrong after they were committed; "
                        "`weir explain %.8s` tells whose. Submit it again with another --key",
                        submit->job, disputed, submit->job);
    return EXIT_DONE;
}

static int prepare(struct submit *submit)
{
    static const char *const alone[] = {"input",       "scene",  "split",  "param", "items",
                                        "shard-items", "cache",  "key",    "local", "format",
                                        "replicas",    "verify", "detach", NULL};
    struct cli *cli = submit->cli;
    const bool reattach = cli_has(cli, "reattach");
    const bool own = cli_has(cli, "kernel");
    if (own && cli->argc > 0)
        return cli_usage(cli, "--kernel gives a kernel of your own; '%s' cannot be named as well",
                         cli->argv[0]);
    if (cli_has(cli, "manifest") && !own)
        return cli_usage(cli, "--manifest goes with --kernel FILE");
    if (reattach != (cli->argc == 0 && !own))
        return reattach
                   ? cli_usage(cli, "--reattach names a job; a kernel cannot be given as well")
                   : cli_usage(cli,
                               "name a kernel, or give your own with --kernel; `weir kernels` lists them");
    for (int i = 0; reattach && alone[i]; i++)
        if (cli_has(cli, alone[i]))
            return cli_usage(cli, "--%s is for a new job and does not go with --reattach", alone[i]);
    int code = reattach ? EXIT_DONE : read_kernel(submit);
    if (code == EXIT_DONE && !reattach)
        code = read_numbers(submit);
    if (code == EXIT_DONE && !reattach)
        code = read_verify(submit);
    if (code == EXIT_DONE && !reattach)
        code = read_inputs(submit);
    if (code == EXIT_DONE)
        code = read_outputs(submit);
    return code;
}

static int submit_run(struct cli *cli)
{
    static struct submit submit;
    submit = (struct submit){.cli = cli, .code = {.fd = -1}};
    json_t *job = NULL;
    cli_catch_interrupts();
    int code = prepare(&submit);
    if (code == EXIT_DONE)
        code = cli_connect(cli);
    if (code == EXIT_DONE)
        code = submit.manifest ? send_job(&submit) : find_job(&submit);
    if (code == EXIT_DONE && !cli_has(cli, "detach")) {
        code = wait_for_job(&submit, &job);
        if (code == EXIT_DONE)
            code = finish(&submit, job);
    }
    json_decref(job);
    for (int i = 0; i < submit.target_count; i++)
        target_close(&submit.targets[i]);
    for (int i = 0; i < submit.source_count; i++)
        source_close(&submit.sources[i]);
    source_close(&submit.code);
    return code;
}

static const struct cli_option options[] = {
    {'i', "input", "NAME=SOURCE", "a file, job:ID/OUTPUT or blob:HEX (--scene FILE)"},
    {0, "scene", "FILE", NULL},
    {'s', "split", "NAME", "cut this input by rows (or NAME=FILE:split)"},
    {'k', "kernel", "FILE.cu", "your own, CUDA C or PTX (--manifest FILE.ini)"},
    {0, "manifest", "FILE.ini", NULL},
    {'p', "param", "NAME=VALUE", "a parameter of the kernel; may be repeated"},
    {'O', "output", "[NAME=]FILE", "as .npy or .png (-: stdout); without, blobs' ids"},
    {0, "format", "NAME=FORMAT", "npy, text or raw[:ROWBYTES]; else by name"},
    {0, "items", "N", "items, for a kernel that cuts no input"},
    {0, "shard-items", "N", "items per shard, instead of the kernel's own cut"},
    {0, "cache", "WHERE", "reuse results from: off, site or mesh (mesh)"},
    {0, "key", "KEY", "one job per key and tenant (by default the site)"},
    {0, "local", NULL, "run on this site's nodes only"},
    {0, "replicas", "N", "nodes that keep its journal, no fewer (3, if up)"},
    {0, "verify", "HOW", "none, spot[=5% or 0.05], certificate or quorum"},
    {'d', "detach", NULL, "print the job's id and do not wait (as on Ctrl-C)"},
    {0, "reattach", "ID", "wait for a job that was submitted before"},
    CLI_JSON,
    CLI_NODE,
    {0},
};

const struct cli_command cli_submit = {
    .name = "submit",
    .arguments = "KERNEL | --kernel FILE.cu",
    .summary = "run a kernel over inputs on the mesh and wait for it",
    .options = options,
    .run = submit_run,
    .positional_min = 0,
    .positional_max = 1,
    .example = "weir submit embed --input text=w.txt --split text -O vectors=v.npy",
};
