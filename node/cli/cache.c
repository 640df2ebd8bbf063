/* weir cache: the results that a node keeps. */
#include "node/cli/cli.h"
#include "node/cli/format.h"

#include <stdio.h>

static int show(struct cli *cli, const json_t *reply)
{
    (void)cli;
    char a[FORMAT_BYTES], b[FORMAT_BYTES];
    const int64_t hits = client_number(reply, "hits"), misses = client_number(reply, "misses");
    printf("results    %s, %s\n", format_count((uint64_t)client_number(reply, "entries"), a),
           format_bytes((uint64_t)client_number(reply, "entry_bytes"), b));
    printf("blobs      %s, %s\n", format_count((uint64_t)client_number(reply, "blobs"), a),
           format_bytes((uint64_t)client_number(reply, "blob_bytes"), b));
    printf("budget     %s; evicted so far: %lld\n",
           format_bytes((uint64_t)client_number(reply, "budget_bytes"), a),
           (long long)client_number(reply, "evictions"));
    printf("pointers   %s, to results on other nodes\n",
           format_count((uint64_t)client_number(reply, "pointers"), a));
    printf("leases     %s, of results that are being computed\n",
           format_count((uint64_t)client_number(reply, "leases"), a));
    printf("lookups    %lld found here, %lld not\n", (long long)hits, (long long)misses);
    size_t i;
    const json_t *site;
    json_array_foreach(client_member(reply, "by_site"), i, site)
        printf("%s%s %s", i == 0 ? "used from  " : ", ", client_text(site, "site"),
               format_count((uint64_t)client_number(site, "hits"), a));
    if (i > 0)
        puts("");
    if (client_number(reply, "lies") > 0)
        printf("refused    %lld results from others that could not be right; the log names them\n",
               (long long)client_number(reply, "lies"));
    return EXIT_DONE;
}

static int clear(struct cli *cli)
{
    json_t *reply = NULL;
    const int code = cli_call(cli, json_pack("{s:s}", "op", "cache.clear"), &reply);
    if (code == EXIT_DONE && cli->json)
        cli_print_json(reply);
    else if (code == EXIT_DONE)
        printf("removed %lld results\n", (long long)client_number(reply, "removed"));
    json_decref(reply);
    return code;
}

static int cache(struct cli *cli)
{
    if (cli_has(cli, "clear"))
        return clear(cli);
    return cli_list(cli, json_pack("{s:s}", "op", "cache.stat"), show);
}

static const struct cli_option options[] = {
    CLI_NODE,
    CLI_JSON,
    {'w', "watch", NULL, "show it again every second until interrupted"},
    {0, "clear", NULL, "forget all cached results of this node"},
    {0},
};

const struct cli_command cli_cache = {
    .name = "cache",
    .arguments = "",
    .summary = "what the result cache of a node holds",
    .notes = "Losing cached results costs work, never correctness. --clear needs an operator.\n",
    .example = "weir cache --json",
    .options = options,
    .run = cache,
};
