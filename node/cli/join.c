/* weir join: makes this machine a member, by a token of `weir invite`. */
#include "node/join.h"
#include "node/cli/cli.h"
#include "node/cli/member.h"
#include "node/duration.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- The token */

static int read_token_file(const char *path, char *text, size_t capacity, size_t *count)
{
    const bool standard = strcmp(path, "-") == 0;
    const int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cli_fail(EXIT_USAGE, "cannot read the token from %s: %s", path, strerror(errno));
    *count = 0;
    ssize_t piece = 1;
    while (piece > 0 && *count < capacity) {
        piece = read(fd, text + *count, capacity - *count);
        if (piece > 0)
            *count += (size_t)piece;
    }
    if (!standard)
        close(fd);
    return piece < 0 ? cli_fail(EXIT_USAGE, "cannot read the token from %s: %s", path, strerror(errno))
                     : EXIT_DONE;
}

static int parse_token(const char *text, size_t count, struct token *token)
{
    static const char space[] = " \t\r\n";
    while (count > 0 && memchr(space, text[0], 4)) {
        text++;
        count--;
    }
    while (count > 0 && memchr(space, text[count - 1], 4))
        count--;
    if (count == 0)
        return cli_fail(EXIT_USAGE, "the token is empty; give what weir invite printed");
    switch (token_parse(text, count, token)) {
    case CRYPTO_OK:
        return EXIT_DONE;
    case CRYPTO_WRONG_MAGIC:
        return cli_fail(EXIT_USAGE, "this is no token; one begins with " TOKEN_PREFIX);
    case CRYPTO_BAD_CHECKSUM:
    case CRYPTO_TRUNCATED:
    case CRYPTO_TRAILING:
        return cli_fail(EXIT_USAGE, "the token is mistyped or cut off; copy the whole line that weir invite "
                                    "printed");
    default:
        return cli_fail(EXIT_USAGE, "the token is damaged; copy the whole line that weir invite printed");
    }
}

/* ---- Saying what went wrong */

static int fail_refused(const struct join_result *result, const struct token *token)
{
    char span[DURATION_BYTES];
    const int64_t past_s = clock_wall_ms() / 1000 - result->when_s;
    switch (result->refusal) {
    case JOIN_REFUSED_EXPIRED:
        return cli_fail(EXIT_DENIED, "cannot join: the token expired %s ago; ask the inviter for a new one",
                        duration_text(past_s, span));
    case JOIN_REFUSED_USED:
        return cli_fail(
            EXIT_DENIED,
            "cannot join: the token was used by another node %s ago; ask the inviter for a new one, "
            "and whether it knows that node (weir invite --list)",
            duration_text(past_s, span));
    case JOIN_REFUSED_CANCELLED:
        return cli_fail(EXIT_DENIED, "cannot join: the inviter cancelled the token; ask for a new one");
    case JOIN_REFUSED_TOKEN:
        return cli_fail(EXIT_DENIED,
                        "cannot join: the inviter does not know this token (any more); ask for a "
                        "new one");
    case JOIN_REFUSED_FEDERATION:
    case JOIN_REFUSED_INVITER:
        return cli_fail(
            EXIT_DENIED,
            "cannot join: the node at %s belongs to another federation than the token, or was set "
            "up anew; ask for a new token",
            token->addresses[result->address]);
    case JOIN_REFUSED_MISMATCH:
        return cli_fail(EXIT_DENIED, "cannot join: a user's token needs --user, and a node's token must not "
                                     "have it");
    case JOIN_REFUSED_BUSY:
        return cli_fail(EXIT_PARTIAL, "cannot join: the inviter is busy; try again in a minute");
    default:
        return cli_fail(EXIT_DENIED, "cannot join: the inviter refused (%s); its log says why",
                        join_refusal_name(result->refusal));
    }
}

static int fail_join(const struct join_result *result, const struct token *token)
{
    char tried[TOKEN_ADDRESSES_MAX * (TOKEN_ADDRESS_BYTES_MAX + 2)] = "";
    switch (result->error) {
    case JOIN_UNREACHABLE:
        for (uint8_t i = 0; i < token->address_count; i++)
            snprintf(tried + strlen(tried), sizeof tried - strlen(tried), "%s%s", i ? ", " : "",
                     token->addresses[i]);
        return cli_fail(
            EXIT_UNREACHABLE,
            "cannot join: no answer from %s within %d s; is weir node running there, and does the "
            "firewall let TCP to that port through?",
            tried, JOIN_ADDRESS_MS / 1000);
    case JOIN_REFUSED:
        return fail_refused(result, token);
    case JOIN_BAD_ANSWER:
        return cli_fail(EXIT_FAILED,
                        "cannot join: the answer does not verify: %s; is this machine's clock right?",
                        crypto_error_text(result->crypto));
    default:
        return cli_fail(EXIT_FAILED, "cannot join: %s",
                        result->crypto == CRYPTO_MALFORMED ? "the node's name must be of a-z, 0-9 and '-'"
                                                           : "no memory or descriptors left");
    }
}

static void tell_progress(void *context, const char *address, bool failed)
{
    (void)context;
    fprintf(stderr, failed ? "no answer from %s\n" : "asking %s ...\n", address);
}

/* ---- Joining */

static int finish(const char *data, const struct token *token, const struct join_result *result,
                  const struct join_response *response)
{
    static struct federation_peers peers;
    static uint8_t file[FEDERATION_PEERS_FILE_BYTES_MAX];
    federation_peers_decode(result->peers, result->peers_count, &peers);
    peers.inviter = (struct federation_contact){
        .node = token->inviter, .join_curve = token->join_curve, .address_count = token->address_count};
    memcpy(peers.inviter.addresses, token->addresses, sizeof peers.inviter.addresses);
    const size_t bytes = federation_peers_encode(&peers, file, sizeof file);
    struct federation_failure failure;
    if (federation_guest_finish(data, response->genesis_bytes, response->genesis_count, file, bytes,
                                response->chain_bytes, response->chain_count, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    return EXIT_DONE;
}

static void show(const struct join_response *response, const char *data, bool json)
{
    const struct certificate *certificate = &response->certificate;
    char hex[DIGEST_HEX_BYTES], node[65], until[MEMBER_TIME_BYTES];
    digest_to_hex(&response->genesis.federation, hex);
    hex_encode(certificate->node.bytes, sizeof certificate->node.bytes, node);
    if (json) {
        json_t *object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "federation", hex, "federation_name",
                                   response->genesis.name, "id", node, "name", certificate->name, "site",
                                   certificate->site, "data", data, "certificate_ends_at",
                                   (json_int_t)certificate->not_after_s * 1000);
        cli_print_json(object);
        json_decref(object);
        return;
    }
    printf("joined %s as node %s of site %s, id %.8s, certificate until %s\n", response->genesis.name,
           certificate->name, certificate->site, node, member_time(certificate->not_after_s, until));
    if (certificate->rights & RIGHT_NODE)
        fprintf(stderr, "next: weir node --data %s\n", data);
}

/* A folder whose certificate ended may join again, but not another federation: its store is the first one's.
 */
static int check_same_federation(const char *data, const struct token *token)
{
    struct federation *before = NULL;
    if (federation_look(data, &before, NULL) != FEDERATION_OK)
        return EXIT_DONE;
    const bool same = digest_equal(&federation_genesis(before)->federation, &token->federation);
    federation_close(before);
    return same ? EXIT_DONE
                : cli_fail(EXIT_FAILED, "%s belongs to another federation; use another --data", data);
}

static int ask(const struct cli *cli, const char *data, const struct token *token)
{
    const int64_t wall_s = clock_wall_ms() / 1000;
    static uint8_t frame[JOIN_FRAME_BYTES_MAX];
    struct identity identity;
    struct federation_lock lock;
    struct federation_failure failure;
    struct join_response response;
    struct join_result result;
    char name[NAME_BYTES_MAX + 1];
    member_name(name);
    if (federation_guest_open(data, wall_s, &identity, &lock, &failure) != FEDERATION_OK)
        return member_fail(&failure);
    if (cli_has(cli, "user"))
        sodium_memzero(&identity.join_curve, sizeof identity.join_curve);
    int code = EXIT_DONE;
    if (join_ask(token, &identity, cli_value(cli, "name", name), wall_s, tell_progress, NULL, frame,
                 &response, &result) != JOIN_OK)
        code = fail_join(&result, token);
    if (code == EXIT_DONE)
        code = finish(data, token, &result, &response);
    if (code == EXIT_DONE)
        show(&response, data, cli->json);
    identity_wipe(&identity);
    federation_guest_close(&lock);
    return code;
}

static int join_with(const struct cli *cli, const char *text, size_t count)
{
    struct token token;
    char data[FEDERATION_PATH_BYTES_MAX], fingerprint[FEDERATION_FINGERPRINT_BYTES];
    if (crypto_init() != CRYPTO_OK)
        return cli_fail(EXIT_FAILED, "%s", crypto_error_text(CRYPTO_UNAVAILABLE));
    int code = parse_token(text, count, &token);
    if (code != EXIT_DONE)
        return code;
    const char *name = cli_value(cli, "name", NULL);
    if (name && !name_valid(name))
        code = cli_fail(EXIT_USAGE, "'%s' is no name for a node: 1 to %u of a-z, 0-9 and '-'", name,
                        NAME_BYTES_MAX);
    if (code == EXIT_DONE)
        code = member_data(cli, data, sizeof data);
    if (code == EXIT_DONE)
        code = check_same_federation(data, &token);
    if (code == EXIT_DONE) {
        federation_fingerprint(&token.federation, fingerprint);
        fprintf(stderr, "federation %s, site %s\n", fingerprint, token.site);
        if (token_time_check(&token, clock_wall_ms() / 1000) == CRYPTO_EXPIRED)
            fprintf(stderr, "by this machine's clock the token has expired; the inviter's decides\n");
        code = ask(cli, data, &token);
    }
    token_wipe(&token);
    return code;
}

static int join(struct cli *cli)
{
    const char *file = cli_value(cli, "token-file", NULL);
    if (cli->argc != (file ? 0 : 1))
        return cli_usage(cli, "one token is needed, or --token-file FILE");
    if (!file)
        return join_with(cli, cli->argv[0], strlen(cli->argv[0]));
    static char text[2 * TOKEN_TEXT_BYTES_MAX];
    size_t count = 0;
    const int read = read_token_file(file, text, sizeof text, &count);
    const int code = read == EXIT_DONE ? join_with(cli, text, count) : read;
    sodium_memzero(text, sizeof text);
    return code;
}

static const struct cli_option options[] = {
    {'t', "token-file", "FILE", "the token's file; - is standard input"},
    {0, "name", "NAME", "this node's name (the host name)"},
    {'u', "user", NULL, "a user's token: submits jobs, runs no node"},
    MEMBER_DATA,
    CLI_JSON,
    {0},
};

const struct cli_command cli_join = {
    .name = "join",
    .arguments = "TOKEN | --token-file FILE",
    .summary = "become a member with a token",
    .notes = "Compare the fingerprint it shows with that of 'weir key show' at the inviter.\n"
             "A token on the command line is seen by others on this machine: prefer a file.\n",
    .example = "weir join --token-file - --data ~/weir < token",
    .options = options,
    .run = join,
    .positional_max = 1,
};
