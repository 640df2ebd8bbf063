/* weir store: verifies what a stopped node has on its disk, copies a running one's data folder, makes one of a copy. */
#include "node/backup.h"
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/config.h"
#include "node/job.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/store_digests.h"

#include "crypto/record.h"
#include "crypto/revocation.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct check {
    struct store *store;
    const struct federation *federation;
    int64_t wall_s;
    json_t *findings;
    uint64_t records, revocations, jobs, copies, entries; /* read */
    uint64_t expired; /* of the records and revocations: normal with time, not a finding */
};

static void found(void *context, const char *finding)
{
    json_array_append_new(((struct check *)context)->findings, json_string(finding));
}

/* One finding about the row under `key`, of which the first bytes tell it from others. */
static void found_in(struct check *check, const char *table, const void *key, size_t key_bytes,
                     const char *what)
{
    char name[17] = "", text[256];
    hex_encode(key, key_bytes < 8 ? key_bytes : 8, name);
    snprintf(text, sizeof text, "%s %s: %s", table, name, what);
    found(check, text);
}

/* A signature, or a chain of certificates, that doesn't hold. One that held and has expired is counted only. */
static void judge(struct check *check, const char *table, const void *key, size_t key_bytes,
                  enum crypto_error error)
{
    if (error == CRYPTO_EXPIRED)
        check->expired++;
    else if (error != CRYPTO_OK)
        found_in(check, table, key, key_bytes, crypto_error_text(error));
}

static bool check_record(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct check *check = context;
    struct record record;
    check->records++;
    judge(check, "record", key, key_bytes,
          record_verify(value, value_bytes, &federation_genesis(check->federation)->federation, check->wall_s,
                        &record));
    return true;
}

static bool check_revocation(void *context, const void *key, size_t key_bytes, const void *value,
                             size_t value_bytes)
{
    struct check *check = context;
    struct revocation revocation;
    check->revocations++;
    judge(check, "revocation", key, key_bytes,
          revocation_verify(federation_genesis(check->federation), value, value_bytes, check->wall_s,
                            &revocation));
    return true;
}

/* A job that is done pins its outputs for as long as it is kept. */
static void check_outputs(struct check *check, const struct job *job)
{
    struct store_blob_info info;
    char what[128];
    for (uint32_t o = 0; job->state == JOB_DONE && o < job->spec.output_count; o++) {
        if (store_blob_stat(check->store, job->output_blob[o].bytes, &info) == STORE_OK)
            continue;
        snprintf(what, sizeof what, "its output '%.64s' is missing", job->spec.manifest->outputs[o].name);
        found_in(check, "job", job->spec.id.bytes, sizeof job->spec.id.bytes, what);
    }
}

static bool check_job(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct check *check = context;
    check->jobs++;
    struct job *job = job_row_decode(value, value_bytes);
    if (!job)
        found_in(check, "job", key, key_bytes, "its row is damaged, or names a kernel that this build lacks");
    else if (key_bytes != sizeof job->spec.id.bytes || memcmp(key, job->spec.id.bytes, key_bytes) != 0)
        found_in(check, "job", key, key_bytes, "its row is about another job");
    else
        check_outputs(check, job);
    job_free(job);
    return true;
}

static bool check_entry(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    static struct journal_row row;
    struct check *check = context;
    check->entries++;
    if (!journal_row_decode(value, value_bytes, &row))
        found_in(check, "journal", key, key_bytes, "a row is damaged");
    return true;
}

static bool check_copy(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    struct check *check = context;
    check->copies++;
    if (!copies_head_is_sound(value, value_bytes))
        found_in(check, "copy of a journal", key, key_bytes, "its row is damaged");
    return true;
}

static bool check_copied_entry(void *context, const void *key, size_t key_bytes, const void *value,
                               size_t value_bytes)
{
    struct check *check = context;
    check->entries++;
    const char *const fault = copies_entry_fault(check->store, key, key_bytes, value, value_bytes);
    if (fault)
        found_in(check, "copy of a journal", key, key_bytes, fault);
    return true;
}

static void check_rows(struct store *store, struct check *check)
{
    store_each(store, STORE_RECORDS, NULL, check_record, check);
    store_each(store, STORE_REVOCATIONS, NULL, check_revocation, check);
    store_each(store, STORE_JOBS, NULL, check_job, check);
    store_each(store, STORE_JOURNAL, NULL, check_entry, check);
    store_each(store, STORE_COPIES, NULL, check_copy, check);
    store_each(store, STORE_ENTRIES, NULL, check_copied_entry, check);
}

static void show(const struct cli *cli, const struct check *check, const struct store_stats *stats)
{
    const size_t count = json_array_size(check->findings);
    if (cli->json) {
        json_t *object =
            json_pack("{s:b,s:O,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "sound", count == 0, "findings",
                      check->findings, "records", (json_int_t)check->records, "revocations",
                      (json_int_t)check->revocations, "expired", (json_int_t)check->expired, "jobs",
                      (json_int_t)check->jobs, "journals_kept", (json_int_t)check->copies, "journal_rows",
                      (json_int_t)check->entries, "blobs", (json_int_t)stats->blobs, "blob_bytes",
                      (json_int_t)stats->blob_bytes, "cached_results", (json_int_t)stats->entries);
        cli_print_json(object);
        json_decref(object);
        return;
    }
    for (size_t i = 0; i < count; i++)
        printf("%s\n", json_string_value(json_array_get(check->findings, i)));
    printf("%s: %" PRIu64 " records and %" PRIu64 " revocations (%" PRIu64 " expired), %" PRIu64
           " jobs, %" PRIu64 " journals of several copies, %" PRIu64 " journal rows,\n%" PRIu64
           " blobs of %.1f MB, %" PRIu64 " cached results\n",
           count == 0 ? "sound" : "NOT SOUND", check->records, check->revocations, check->expired,
           check->jobs, check->copies, check->entries, stats->blobs, (double)stats->blob_bytes / 1e6,
           stats->entries);
}

static int check_store(struct cli *cli, const char *data, const struct federation *federation)
{
    store_guard_install();
    char path[FEDERATION_PATH_BYTES_MAX + 8];
    snprintf(path, sizeof path, "%s/store", data);
    if (access(path, F_OK) != 0)
        return cli_fail(EXIT_NONE, "%s holds no store yet; its node has never run", data);
    const struct store_options options = {.digest = *store_digests(), .backup = true};
    struct store_failure failure;
    struct store *store;
    if (store_open(path, &options, &failure, &store) != STORE_OK)
        return cli_fail(EXIT_FAILED, "%s", failure.text);
    struct check check = {
        .store = store, .federation = federation, .wall_s = clock_wall_ms() / 1000, .findings = json_array()};
    struct store_stats stats;
    uint8_t id[32];
    size_t bytes;
    if (store_get(store, STORE_META, "node", 4, id, sizeof id, &bytes) == STORE_OK &&
        memcmp(id, federation_identity(federation)->node.bytes, sizeof id) != 0)
        found(&check, "the store belongs to another node than the keys beside it");
    store_check(store, found, &check);
    check_rows(store, &check);
    store_stats(store, &stats);
    store_close(store);
    show(cli, &check, &stats);
    const bool sound = json_array_size(check.findings) == 0;
    json_decref(check.findings);
    return sound ? EXIT_DONE : EXIT_FAILED;
}

static int check(struct cli *cli)
{
    char data[FEDERATION_PATH_BYTES_MAX];
    const int code = member_data(cli, data, sizeof data);
    if (code != EXIT_DONE)
        return code;
    struct federation *federation;
    struct federation_failure failure;
    if (federation_look(data, &federation, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    const int result = check_store(cli, data, federation);
    federation_close(federation);
    return result;
}

/* The node has a working folder of its own: what it is asked to write must be told from the root on. */
static bool absolute(const char *path, char out[FEDERATION_PATH_BYTES_MAX])
{
    char here[FEDERATION_PATH_BYTES_MAX] = "";
    if (path[0] != '/' && !getcwd(here, sizeof here - 1))
        return false;
    return snprintf(out, FEDERATION_PATH_BYTES_MAX, "%s%s%s", here, here[0] ? "/" : "", path) <
           (int)FEDERATION_PATH_BYTES_MAX;
}

static int backup(struct cli *cli)
{
    char path[FEDERATION_PATH_BYTES_MAX];
    json_t *reply;
    if (!absolute(cli->argv[1], path))
        return cli_fail(EXIT_USAGE, "the path %s is too long", cli->argv[1]);
    const int connected = cli_connect(cli);
    if (connected != EXIT_DONE)
        return connected;
    client_set_timeout(cli->client, 0); /* as long as the disk takes */
    const int code = cli_call(cli, json_pack("{s:s,s:s}", "op", "store.backup", "path", path), &reply);
    if (code != EXIT_DONE)
        return code;
    if (cli->json)
        cli_print_json(reply);
    else
        printf("%s holds the keys and the store as of now; keep it as secret as the data folder\n", path);
    json_decref(reply);
    return EXIT_DONE;
}

static int restore(struct cli *cli)
{
    char data[FEDERATION_PATH_BYTES_MAX], error[512];
    const int code = member_data(cli, data, sizeof data);
    if (code != EXIT_DONE)
        return code;
    if (!backup_restore(cli->argv[1], data, error, sizeof error))
        return cli_fail(EXIT_FAILED, "cannot restore: %s", error);
    if (cli->json) {
        json_t *const said = json_pack("{s:s}", "data", data);
        cli_print_json(said);
        json_decref(said);
    } else
        printf("%s is a data folder again, under a new storage id; `weir store check` verifies it, `weir "
               "node` runs it\n",
               data);
    return EXIT_DONE;
}

static int store(struct cli *cli)
{
    static const struct {
        const char *name;
        int arguments;
        int (*run)(struct cli *cli);
    } verbs[] = {{"check", 1, check}, {"backup", 2, backup}, {"restore", 2, restore}};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(cli->argv[0], verbs[i].name) == 0) {
            if (cli->argc != verbs[i].arguments)
                return cli_usage(
                    cli, cli->argc < verbs[i].arguments ? "%s needs a path" : "%s takes no further argument",
                    verbs[i].name);
            return verbs[i].run(cli);
        }
    return cli_usage(cli, "'%s' is not check, backup or restore", cli->argv[0]);
}

static const struct cli_option options[] = {CLI_NODE, MEMBER_DATA, CLI_JSON, {0}};

const struct cli_command cli_store = {
    .name = "store",
    .arguments = "check | backup PATH | restore PATH",
    .summary = "verify, back up or restore what a node has on its disk",
    .notes = "check: every blob and cached result against its digest, every record's\n"
             "  signature, the jobs and their journals, and the index of a stopped node or\n"
             "  of a backup. Mends nothing. Exit code 0: sound, 1: not. A damaged blob is\n"
             "  fetched or computed anew when it is needed; a damaged job is submitted again.\n"
             "backup: the running node copies its keys and its store, as of one moment,\n"
             "  to PATH, which it makes. It works on meanwhile.\n"
             "restore: makes the folder --data of a backup, under a new storage id.\n",
    .example = "weir store backup /backup/weir-monday",
    .options = options,
    .run = store,
    .positional_min = 1,
    .positional_max = 2,
};
