/* weir store: verifies what a stopped node has on its disk, copies a running one's data folder, makes one of a copy. */
#include "node/backup.h"
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/config.h"
#include "node/job.h"
#include "node/journal_check.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/record_body.h"
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
    struct journal_check *journals;
    int64_t wall_s;
    json_t *findings;
    uint64_t records, revocations, jobs, copies, entries; /* read */
    uint64_t expired;              /* of the records and revocations: normal with time, not a finding */
    uint64_t certificates_expired; /* members', and this node's: no finding either */
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

/* ---- Signatures, each judged as of a time when it was good: what has expired since is counted and no damage. */

static bool judge(struct check *check, const char *table, const void *key, size_t key_bytes,
                  enum crypto_error error)
{
    if (error != CRYPTO_OK)
        found_in(check, table, key, key_bytes, crypto_error_text(error));
    return error == CRYPTO_OK;
}

/* A chain of certificates as of the time when its first one began, for each lies within its issuer's. Who was revoked since
 * is no matter of the disk. */
static enum crypto_error verify_chain(const struct check *check, const uint8_t *chain, size_t chain_bytes,
                                      struct certificate *leaf)
{
    struct certificate certificates[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    const enum crypto_error error = chain_view(chain, chain_bytes, certificates, &count);
    return error != CRYPTO_OK ? error
                              : chain_verify(federation_genesis(check->federation), chain, chain_bytes,
                                             certificates[0].not_before_s, NULL, NULL, leaf);
}

/* As the node takes it from others: what it says of itself is what it was certified for. */
static void check_member(struct check *check, const void *key, size_t key_bytes, const struct record *record)
{
    struct member_body body;
    struct certificate leaf;
    if (member_body_decode(record->body, record->body_bytes, &body) != WIRE_OK) {
        found_in(check, "record", key, key_bytes, "what the member says of itself makes no sense");
        return;
    }
    const enum crypto_error error = verify_chain(check, body.chain.bytes, body.chain.count, &leaf);
    if (error != CRYPTO_OK) {
        char text[200];
        snprintf(text, sizeof text, "its certificate is not good: %s", crypto_error_text(error));
        found_in(check, "record", key, key_bytes, text);
    } else if (!public_key_equal(&leaf.node, &record->origin) || !(leaf.rights & RIGHT_NODE) ||
               strcmp(leaf.site, body.site) != 0)
        found_in(check, "record", key, key_bytes,
                 "its certificate is for another node, or site, or for none");
    else if (record_time_check(leaf.not_before_s, leaf.not_after_s, check->wall_s) == CRYPTO_EXPIRED)
        check->certificates_expired++;
}

static bool check_record(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct check *check = context;
    struct record record;
    check->records++;
    if (!judge(check, "record", key, key_bytes, record_view(value, value_bytes, &record)) ||
        !judge(check, "record", key, key_bytes,
               record_verify(value, value_bytes, &federation_genesis(check->federation)->federation,
                             record.not_before_s, &record)))
        return true;
    check->expired +=
        record_time_check(record.not_before_s, record.not_after_s, check->wall_s) == CRYPTO_EXPIRED;
    if (record.kind == RECORD_MEMBER)
        check_member(check, key, key_bytes, &record);
    return true;
}

static bool check_revocation(void *context, const void *key, size_t key_bytes, const void *value,
                             size_t value_bytes)
{
    struct check *check = context;
    struct record record;
    struct revocation revocation;
    check->revocations++;
    if (judge(check, "revocation", key, key_bytes, record_view(value, value_bytes, &record)) &&
        judge(check, "revocation", key, key_bytes,
              revocation_verify(federation_genesis(check->federation), value, value_bytes,
                                record.not_before_s, &revocation)))
        check->expired +=
            record_time_check(record.not_before_s, record.not_after_s, check->wall_s) == CRYPTO_EXPIRED;
    return true;
}

/* The node's own, which is no row but a file beside the store. */
static void check_own_chain(struct check *check)
{
    struct certificate leaf;
    size_t bytes;
    const uint8_t *const chain = federation_chain(check->federation, &bytes);
    const enum crypto_error error = verify_chain(check, chain, bytes, &leaf);
    char text[256];
    snprintf(text, sizeof text, "federation/chain, this node's certificate, is not good: %s",
             crypto_error_text(error));
    if (error != CRYPTO_OK)
        found(check, text);
    else
        check->certificates_expired +=
            record_time_check(leaf.not_before_s, leaf.not_after_s, check->wall_s) == CRYPTO_EXPIRED;
}

/* ---- Jobs */

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

static void check_counts(struct check *check, const struct job *job)
{
    char what[128];
    if (job->committed <= job->spec.shard_count && job->cached <= job->committed)
        return;
    snprintf(what, sizeof what, "of its %u shards %u are committed, %u of them from the cache",
             job->spec.shard_count, job->committed, job->cached);
    found_in(check, "job", job->spec.id.bytes, sizeof job->spec.id.bytes, what);
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
    else {
        check_outputs(check, job);
        check_counts(check, job);
    }
    job_free(job);
    return true;
}

/* ---- Journals */

static void found_in_journal(void *context, const struct mesh_id *job, const char *what)
{
    found_in(context, "journal", job->bytes, sizeof job->bytes, what);
}

static bool check_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    static struct journal_row row;
    struct check *check = context;
    struct mesh_id job;
    const uint8_t *const order = (const uint8_t *)key + sizeof job.bytes;
    check->entries++;
    if (key_bytes != sizeof job.bytes + 4 || !journal_row_decode(value, value_bytes, &row)) {
        found_in(check, "journal", key, key_bytes, "a row is damaged");
        return true;
    }
    memcpy(job.bytes, key, sizeof job.bytes);
    journal_check_row(
        check->journals, &job,
        (uint32_t)order[0] << 24 | (uint32_t)order[1] << 16 | (uint32_t)order[2] << 8 | order[3], &row);
    return true;
}

static bool check_head(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    struct check *check = context;
    struct copy head = {0};
    check->copies++;
    if (key_bytes != sizeof head.job.bytes || !copies_head_decode(value, value_bytes, &head)) {
        found_in(check, "journal", key, key_bytes, "its head row is damaged");
        return true;
    }
    memcpy(head.job.bytes, key, sizeof head.job.bytes);
    journal_check_head(check->journals, &head.job, &head);
    return true;
}

static bool check_entry(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    struct check *check = context;
    struct copies_entry_view entry;
    struct mesh_id job;
    check->entries++;
    if (!copies_entry_decode(key, key_bytes, value, value_bytes, &entry)) {
        found_in(check, "journal", key, key_bytes, "an entry is damaged");
        return true;
    }
    memcpy(job.bytes, key, sizeof job.bytes);
    const char *const fault = copies_entry_fault(check->store, &job, &entry);
    if (fault)
        found_in(check, "journal", key, key_bytes, fault);
    journal_check_entry(check->journals, &job, &entry);
    return true;
}

static void check_rows(struct store *store, struct check *check)
{
    store_each(store, STORE_RECORDS, NULL, check_record, check);
    store_each(store, STORE_REVOCATIONS, NULL, check_revocation, check);
    store_each(store, STORE_JOBS, NULL, check_job, check);
    check->journals = journal_check_open(store, found_in_journal, check);
    store_each(store, STORE_JOURNAL, NULL, check_row, check);
    journal_check_end(check->journals);
    store_each(store, STORE_COPIES, NULL, check_head, check);
    store_each(store, STORE_ENTRIES, NULL, check_entry, check);
    journal_check_end(check->journals);
    journal_check_close(check->journals);
}

static void show(const struct cli *cli, const struct check *check, const struct store_stats *stats)
{
    const size_t count = json_array_size(check->findings);
    if (cli->json) {
        json_t *object =
            json_pack("{s:b,s:O,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "sound", count == 0, "findings",
                      check->findings, "records", (json_int_t)check->records, "revocations",
                      (json_int_t)check->revocations, "expired", (json_int_t)check->expired,
                      "certificates_expired", (json_int_t)check->certificates_expired, "jobs",
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
    if (check->certificates_expired > 0)
        printf("%" PRIu64
               " certificates have expired: no damage, but whose they are can speak to nobody until "
               "they have new ones\n",
               check->certificates_expired);
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
    check_own_chain(&check);
    check_rows(store, &check);
    store_stats(store, &stats);
    store_close(store);
    show(cli, &check, &stats);
    const bool sound = json_array_size(check.findings) == 0;
    json_decref(check.findings);
    return sound ? EXIT_DONE : EXIT_FAILED;
}

static int not_of_a_node(struct cli *cli, const char *verb)
{
    return cli_has(cli, "node")
               ? cli_usage(cli, "--node does not go with %s: it is of a stopped node's folder (--data)", verb)
               : EXIT_DONE;
}

static int check(struct cli *cli)
{
    if (not_of_a_node(cli, "check") != EXIT_DONE)
        return EXIT_USAGE;
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
    if (cli_has(cli, "data"))
        return cli_usage(cli, "--data does not go with backup: it is made by the node that runs (--node)");
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
    if (not_of_a_node(cli, "restore") != EXIT_DONE)
        return EXIT_USAGE;
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
    .notes = "check: every row, blob and cached result against its digest, every record's\n"
             "  signature and chain of certificates, the jobs, their journals from entry to\n"
             "  entry, and the index of a stopped node or of a backup. Mends nothing. Exit\n"
             "  code 0: sound, 1: not. What has expired is no damage. A damaged blob is\n"
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
