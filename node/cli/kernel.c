/* weir kernel check: does a kernel of one's own compile, for CPUs and for GPUs, and does it run? Needs no node. */
#include "node/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* weir-worker, which does it, lies beside this program. */
static bool worker_path(char *path, size_t path_bytes)
{
    const ssize_t count = readlink("/proc/self/exe", path, path_bytes - sizeof "weir-worker");
    if (count <= 0)
        return false;
    path[count] = '\0';
    strcpy(strrchr(path, '/') + 1, "weir-worker");
    return true;
}

static int kernel_run(struct cli *cli)
{
    char path[4096], device[32];
    int64_t items = 0, gpu = -1;
    if (strcmp(cli->argv[0], "check") != 0)
        return cli_usage(cli, "'%s' is not check: write weir kernel check %s", cli->argv[0],
                         cli->argv[cli->argc - 1]);
    if (cli->argc < 2)
        return cli_usage(cli, "which one? write weir kernel check FILE.cu");
    if (!cli_number(cli, "items", 1, 100000000, &items) || !cli_number(cli, "gpu", 0, 4095, &gpu))
        return EXIT_USAGE;
    if (!worker_path(path, sizeof path))
        return cli_fail(EXIT_FAILED, "cannot tell where this program lies: %s", strerror(errno));
    char *argv[12];
    int argc = 0;
    argv[argc++] = path;
    argv[argc++] = "--check";
    argv[argc++] = cli->argv[1];
    if (cli_has(cli, "manifest")) {
        argv[argc++] = "--manifest";
        argv[argc++] = (char *)(uintptr_t)cli_value(cli, "manifest", "");
    }
    if (items > 0) {
        argv[argc++] = "--items";
        argv[argc++] = (char *)(uintptr_t)cli_value(cli, "items", "");
    }
    if (gpu >= 0) {
        snprintf(device, sizeof device, "cuda:%lld", (long long)gpu);
        argv[argc++] = "--device";
        argv[argc++] = device;
    }
    argv[argc] = NULL;
    fflush(NULL);
    execv(path, argv);
    return cli_fail(EXIT_FAILED, "cannot run %s: %s", path, strerror(errno));
}

static const struct cli_option options[] = {
    {'m', "manifest", "FILE.ini", "its manifest (FILE.ini beside it)"},
    {0, "items", "N", "how many random items to run it on (1000)"},
    {0, "gpu", "N", "run it on this GPU of the machine, too"},
    {0},
};

const struct cli_command cli_kernel = {
    .name = "kernel",
    .arguments = "check FILE.cu",
    .summary = "compile and try a kernel of your own, without a node",
    .notes = "Compiles for CPUs (g++) and for GPUs (NVRTC) as far as they are installed, runs\n"
             "the kernel on small random inputs between pages that can't be touched, and\n"
             "says what is wrong by file and line. What it gives is not shown.\n",
    .options = options,
    .run = kernel_run,
    .positional_min = 1,
    .positional_max = 2,
    .example = "weir kernel check saxpy.cu",
};
