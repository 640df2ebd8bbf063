/* The local API: a backup of the data folder while the node works. */
#include "node/backup.h"
#include "node/ops.h"

#include "node/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One at a time, on a thread of its own, for it takes as long as the disk does. */
struct store_copy {
    struct background_task task;
    struct node *node;
    struct api_call *call; /* NULL once the client has gone; the backup goes on */
    int64_t began_ms;
    bool good;
    char error[512];
    char path[];
};

static void run(struct background_task *task)
{
    struct store_copy *const copy = (struct store_copy *)task;
    copy->good =
        backup_make(copy->node->config.data, copy->node->store, copy->path, copy->error, sizeof copy->error);
}

static void done(struct background_task *task)
{
    struct store_copy *const copy = (struct store_copy *)task;
    const int64_t took_ms = clock_now_ms() - copy->began_ms;
    if (copy->good)
        log_info("backup", "path=%s ms=%lld", copy->path, (long long)took_ms);
    else
        log_error("backup", "path=%s reason=\"%s\"", copy->path, copy->error);
    if (copy->call && copy->good)
        api_reply(copy->call, json_pack("{s:s,s:I}", "path", copy->path, "ms", (json_int_t)took_ms));
    else if (copy->call)
        api_error(copy->call, EXIT_FAILED, "%s", copy->error);
    copy->node->copy = NULL;
    free(copy);
}

static void gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct store_copy *)context)->call = NULL;
}

void op_store_backup(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *const path = body_text(call, "path");
    if (!path || path[0] != '/') {
        api_error(call, EXIT_USAGE, "the backup's path must begin with /");
        return;
    }
    if (node->copy) {
        api_error(call, EXIT_FAILED, "a backup to %s is being made already; wait for its end",
                  node->copy->path);
        return;
    }
    struct store_copy *const copy = calloc(1, sizeof *copy + strlen(path) + 1);
    if (!copy || (!node->copier && !background_open(&node->copier, node->loop))) {
        free(copy);
        api_error(call, EXIT_FAILED, "no memory or thread for a backup");
        return;
    }
    strcpy(copy->path, path);
    copy->task = (struct background_task){.run = run, .done = done};
    copy->node = node;
    copy->call = call;
    copy->began_ms = clock_now_ms();
    node->copy = copy;
    api_on_gone(call, gone, copy);
    background_add(node->copier, &copy->task);
}
