/* weir-worker: the program that runs kernels. The node starts it with --serve; people start it with --run and
 * --list. */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernels/canary.h"
#include "kernels/user_compile.h"
#include "kernels/watch.h"
#include "kernels/worker_check.h"
#include "kernels/worker_run.h"
#include "kernels/worker_serve.h"

#define SHOW_MS 10000

static const char usage[] =
    "usage: weir-worker --run KERNEL [--input NAME=FILE[:split]]... [--param NAME=VALUE]...\n"
    "                   [--items N] [--output NAME=FILE.npy]... [--device cpu:0|cuda:0]\n"
    "       weir-worker --list       the devices of this machine, as JSON lines\n"
    "       weir-worker --kernels    the kernels and what they take\n"
    "       weir-worker --check FILE.cu [--manifest FILE.ini] [--items N]    a kernel of your own\n"
    "       weir-worker --toolkit cpu|cuda    what compiles them here, as JSON\n"
    "       weir-worker --sandbox [--device D]  the layers of the sandbox on this machine\n"
    "       weir-worker --measure [--device D]  how long one takes to start, and an empty shard\n"
    "       weir-worker --serve --device D    for the node, which hands over a socket and memory\n"
    "       weir-worker --canary D   what device D can do now, as JSON\n"
    "       weir-worker --watch      what happens on the GPUs, as JSON lines, until its input ends\n"
    "       weir-worker --compile             for the node, which hands over three descriptors\n"
    "\n"
    "Files are .npy, lines of text, or raw bytes (NAME=FILE:row=BYTES makes rows of them).\n"
    "Example: weir-worker --run knn --input base=base.npy --input query=query.npy:split \\\n"
    "                     --param k=5 --output index=neighbours.npy\n";

/* JSON strings of ours are plain, but a device's name comes from outside. */
static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static int list_devices(void)
{
    struct worker_device device;
    for (uint32_t i = 0; worker_device_each(i, &device); i++) {
        printf("{\"device\":\"%s:%u\",\"kind\":\"%s\",\"name\":", device.kind, device.index, device.kind);
        print_string(device.name);
        printf(",\"memory_bytes\":%llu,\"compute\":\"%u.%u\",\"processors\":%u}\n",
               (unsigned long long)device.memory_bytes, device.compute_major, device.compute_minor,
               device.processors);
    }
    return 0;
}

/* What compiles users' kernels for such a device here, or why nothing does. */
static int show_toolkit(const char *kind)
{
    char name[USER_TOOLKIT_BYTES], options[2048], message[MANIFEST_ERROR_BYTES];
    struct gpu_info info = {0};
    const enum user_target target = strcmp(kind, "cuda") == 0 ? USER_CUDA : USER_CPU;
    const bool good = user_toolkit(target, name) && (target == USER_CPU || gpu_describe(0, &info, message));
    user_options(target, options, sizeof options);
    printf(good ? "{\"toolkit\":" : "{\"why\":");
    print_string(name);
    printf(",\"options\":");
    print_string(options);
    printf(",\"major\":%u,\"minor\":%u}\n", info.compute_major, info.compute_minor);
    return 0;
}

static int list_kernels(void)
{
    const struct manifest *manifest;
    for (size_t i = 0; (manifest = manifest_each(i)); i++) {
        printf("%s  %s\n", manifest->name, manifest->help);
        for (uint32_t j = 0; j < manifest->input_count; j++)
            printf("    input  %-10s %s\n", manifest->inputs[j].name, manifest->inputs[j].help);
        for (uint32_t j = 0; j < manifest->param_count; j++)
            printf("    param  %-10s %s\n", manifest->params[j].name, manifest->params[j].help);
        for (uint32_t j = 0; j < manifest->output_count; j++)
            printf("    output %-10s %s\n", manifest->outputs[j].name, manifest->outputs[j].help);
    }
    return 0;
}

static void confine(void)
{
    prctl(PR_SET_NAME, "weir-worker", 0, 0, 0); /* it was started by a descriptor, which would be its name */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is for the node, which ends its workers itself */
}

/* A CPU worker opens all it will need first, and then can open nothing; a GPU's driver starts threads, so it is
 * opened inside. */
static int serve(const char *device_name, uint64_t memory_bytes, bool unboxed)
{
    struct worker_device device;
    struct sandbox_report report;
    struct gpu *gpu = NULL;
    char message[MANIFEST_ERROR_BYTES];
    confine();
    struct server *server = worker_serve_open();
    if (!server)
        return 2;
    const bool cuda = strncmp(device_name, "cuda:", 5) == 0;
    bool opened = cuda || worker_device_open(device_name, &device, &gpu, message);
    if (opened) {
        worker_box(&device_name, memory_bytes, unboxed, &report);
        opened = !cuda || worker_device_open(device_name, &device, &gpu, message);
    }
    if (!opened) {
        fprintf(stderr, "weir-worker: %s\n", message);
        return cuda && !unboxed ? WORKER_EXIT_DEVICE : 2;
    }
    const int status = worker_serve(server, &device, gpu, &report);
    gpu_close(gpu);
    return status;
}

/* Starts a worker as the node does and prints what it reports, one JSON line per layer. */
static int show_sandbox(const char *device_name)
{
    struct worker *worker;
    struct worker_event event = {0};
    const struct worker_options options = {
        .path = "/proc/self/exe", .device = device_name, .memory_bytes = 1u << 30};
    if (worker_open(&worker, &options)) {
        perror("weir-worker: can't start a worker");
        return 1;
    }
    struct pollfd wait = {.fd = worker_fd(worker), .events = POLLIN};
    while (event.kind == WORKER_NONE && poll(&wait, 1, SHOW_MS) > 0)
        worker_next(worker, &event);
    const struct sandbox_report *report = worker_sandbox(worker);
    for (int i = 0; event.kind == WORKER_READY && i < SANDBOX_LAYERS; i++) {
        printf("{\"layer\":\"%s\",\"on\":%s,\"detail\":", sandbox_layer_name((enum sandbox_layer)i),
               report->layers[i].on ? "true" : "false");
        print_string(report->layers[i].detail);
        printf(",\"fix\":");
        print_string(report->layers[i].on ? "" : sandbox_layer_fix((enum sandbox_layer)i));
        printf("}\n");
    }
    if (event.kind != WORKER_READY)
        fprintf(stderr, "weir-worker: the worker did not start: %s\n", event.message);
    worker_close(worker);
    return event.kind == WORKER_READY ? 0 : 1;
}

/* What the options ask for; getopt_long writes the mode. */
enum mode {
    NOTHING,
    LIST,
    KERNELS,
    SANDBOX,
    MEASURE,
    SERVE,
    COMPILE,
    WATCH,
    CANARY,
    TOOLKIT,
    RUN,
    CHECK,
    HELP
};
struct command {
    int mode;            /* enum mode */
    const char *device;  /* of all modes that have one */
    const char *toolkit; /* TOOLKIT: for which target */
    uint64_t memory_bytes;
    uint64_t listeners; /* WATCH: descriptors that are handed over */
    bool unboxed;
    struct worker_run run;
    struct worker_check check;
};
enum {
    DEVICE = 256,
    MEMORY,
    UNBOXED,
    REPEAT,
    MANIFEST,
    INPUT,
    PARAM,
    OUTPUT,
    ITEMS,
    TENANT,
    LISTENERS, /* and with a mode: */
    OF_CANARY,
    OF_TOOLKIT,
    OF_RUN,
    OF_CHECK
};

static bool take_number(const char *option, uint64_t *value)
{
    char *end;
    *value = strtoull(optarg, &end, 10);
    if (*optarg >= '0' && *optarg <= '9' && *end == '\0')
        return true;
    fprintf(stderr, "weir-worker: %s takes a number, not '%s'\n", option, optarg);
    return false;
}

static bool take_argument(const char **list, size_t *count)
{
    if (*count == RUN_ARGUMENTS_MAX) {
        fprintf(stderr, "weir-worker: more than %d of one option\n", RUN_ARGUMENTS_MAX);
        return false;
    }
    list[(*count)++] = optarg;
    return true;
}

static bool take_mode(struct command *command, int mode, const char **argument)
{
    command->mode = mode;
    *argument = optarg;
    return true;
}

static bool take_option(struct command *command, int option)
{
    struct worker_run *const run = &command->run;
    switch (option) {
    case 0:      /* a mode, which getopt_long has written */
    case TENANT: /* seen in the process list only */
        return true;
    case UNBOXED:
        return command->unboxed = true;
    case DEVICE:
        command->device = optarg;
        return true;
    case MANIFEST:
        command->check.manifest = optarg;
        return true;
    case MEMORY:
        return take_number("--memory", &command->memory_bytes);
    case REPEAT:
        return take_number("--repeat", &command->check.repeat);
    case LISTENERS:
        return take_number("--listeners", &command->listeners);
    case ITEMS:
        return take_number("--items", &run->items);
    case INPUT:
        return take_argument(run->inputs, &run->input_count);
    case PARAM:
        return take_argument(run->params, &run->param_count);
    case OUTPUT:
        return take_argument(run->outputs, &run->output_count);
    case OF_CANARY:
        return take_mode(command, CANARY, &command->device);
    case OF_TOOLKIT:
        return take_mode(command, TOOLKIT, &command->toolkit);
    case OF_RUN:
        return take_mode(command, RUN, &run->kernel);
    case OF_CHECK:
        return take_mode(command, CHECK, &command->check.source);
    default:
        fputs(usage, stderr);
        return false;
    }
}

static bool parse(int argc, char **argv, struct command *command)
{
    int *const mode = &command->mode;
    const struct option options[] = {
        {"list", no_argument, mode, LIST},
        {"kernels", no_argument, mode, KERNELS},
        {"sandbox", no_argument, mode, SANDBOX},
        {"measure", no_argument, mode, MEASURE},
        {"serve", no_argument, mode, SERVE},
        {"compile", no_argument, mode, COMPILE},
        {"watch", no_argument, mode, WATCH},
        {"help", no_argument, mode, HELP},
        {"canary", required_argument, NULL, OF_CANARY},
        {"toolkit", required_argument, NULL, OF_TOOLKIT},
        {"run", required_argument, NULL, OF_RUN},
        {"check", required_argument, NULL, OF_CHECK},
        {"device", required_argument, NULL, DEVICE},
        {"memory", required_argument, NULL, MEMORY},
        {"unboxed", no_argument, NULL, UNBOXED},
        {"repeat", required_argument, NULL, REPEAT},
        {"manifest", required_argument, NULL, MANIFEST},
        {"input", required_argument, NULL, INPUT},
        {"param", required_argument, NULL, PARAM},
        {"output", required_argument, NULL, OUTPUT},
        {"items", required_argument, NULL, ITEMS},
        {"tenant", required_argument, NULL, TENANT},
        {"listeners", required_argument, NULL, LISTENERS},
        {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (!take_option(command, option))
            return false;
    if (optind == argc && command->mode != NOTHING)
        return true;
    fputs(usage, stderr);
    return false;
}

/* --run and --check: in this process, on the device itself. */
static int run_here(struct command *command)
{
    struct worker_device device;
    struct gpu *gpu;
    char message[MANIFEST_ERROR_BYTES];
    if (!worker_device_open(command->device, &device, &gpu, message)) {
        fprintf(stderr, "weir-worker: %s\n", message);
        return 2;
    }
    command->check.items = command->run.items;
    command->check.compute_major = device.compute_major;
    command->check.compute_minor = device.compute_minor;
    const int status =
        command->mode == CHECK ? worker_check(&command->check, gpu) : worker_run(&command->run, gpu);
    gpu_close(gpu);
    return status;
}

/* What a node starts has no life after it, whatever it was doing: a driver's library may hang. False: the node was gone before
 * this, so that nobody reads the answer. */
static bool live_with_the_node(int mode)
{
    struct pollfd answer = {.fd = STDOUT_FILENO};
    const bool by_node = mode == LIST || mode == TOOLKIT || mode == CANARY || mode == WATCH ||
                         mode == SERVE || mode == COMPILE;
    if (by_node)
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* SERVE and COMPILE have their sockets to tell, and the node's own output. */
    const bool answers = by_node && mode != SERVE && mode != COMPILE;
    return !answers || poll(&answer, 1, 0) <= 0 || !(answer.revents & POLLERR);
}

int main(int argc, char **argv)
{
    struct command command = {.device = "cpu:0"};
    if (!parse(argc, argv, &command))
        return 2;
    if (!live_with_the_node(command.mode))
        return 1;
    /* One order of GPUs for the list, the watcher, the sandbox (worker_box.c) and people. */
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    switch ((enum mode)command.mode) {
    case LIST:
        return list_devices();
    case KERNELS:
        return list_kernels();
    case SANDBOX:
        return show_sandbox(command.device);
    case MEASURE:
        return worker_measure(command.device);
    case SERVE:
        return serve(command.device, command.memory_bytes, command.unboxed);
    case COMPILE:
        return user_compile_serve();
    case WATCH:
        return worker_watch((uint32_t)command.listeners);
    case CANARY:
        return worker_canary(command.device);
    case TOOLKIT:
        return show_toolkit(command.toolkit);
    case RUN:
    case CHECK:
        return run_here(&command);
    case NOTHING:
    case HELP:
        break;
    }
    fputs(usage, stdout);
    return 0;
}
