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

/* Life after the node is what a worker must not have. */
static void confine(void)
{
    prctl(PR_SET_NAME, "weir-worker", 0, 0, 0); /* it was started by a descriptor, which would be its name */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
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

int main(int argc, char **argv)
{
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0); /* the numbers that the watcher and people know them by */
    if (argc == 2 && strcmp(argv[1], "--watch") == 0)
        return worker_watch();
    if (argc == 3 && strcmp(argv[1], "--canary") == 0)
        return worker_canary(argv[2]);
    enum {
        LIST = 256,
        KERNELS,
        SANDBOX,
        MEASURE,
        SERVE,
        RUN,
        INPUT,
        PARAM,
        OUTPUT,
        ITEMS,
        DEVICE,
        TENANT,
        CHECK,
        MANIFEST,
        COMPILE,
        TOOLKIT,
        REPEAT,
        MEMORY,
        UNBOXED,
        HELP
    };
    static const struct option options[] = {
        {"list", no_argument, NULL, LIST},
        {"kernels", no_argument, NULL, KERNELS},
        {"sandbox", no_argument, NULL, SANDBOX},
        {"measure", no_argument, NULL, MEASURE},
        {"memory", required_argument, NULL, MEMORY},
        {"unboxed", no_argument, NULL, UNBOXED},
        {"serve", no_argument, NULL, SERVE},
        {"run", required_argument, NULL, RUN},
        {"input", required_argument, NULL, INPUT},
        {"param", required_argument, NULL, PARAM},
        {"output", required_argument, NULL, OUTPUT},
        {"items", required_argument, NULL, ITEMS},
        {"device", required_argument, NULL, DEVICE},
        {"tenant", required_argument, NULL, TENANT},
        {"check", required_argument, NULL, CHECK},
        {"manifest", required_argument, NULL, MANIFEST},
        {"compile", no_argument, NULL, COMPILE},
        {"toolkit", required_argument, NULL, TOOLKIT},
        {"repeat", required_argument, NULL, REPEAT},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    struct worker_run run = {0};
    struct worker_check check = {0};
    const char *device_name = "cpu:0";
    uint64_t memory_bytes = 0;
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID",
           1); /* one order for --list and for the sandbox (worker_box.c) */
    enum { NOTHING, SERVING, SHOWING, MEASURING } mode = NOTHING;
    bool unboxed = false;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        char *end = NULL;
        if ((option == INPUT && run.input_count == RUN_ARGUMENTS_MAX) ||
            (option == PARAM && run.param_count == RUN_ARGUMENTS_MAX) ||
            (option == OUTPUT && run.output_count == RUN_ARGUMENTS_MAX)) {
            fprintf(stderr, "weir-worker: more than %d of one option\n", RUN_ARGUMENTS_MAX);
            return 2;
        }
        switch (option) {
        case LIST:
            return list_devices();
        case KERNELS:
            return list_kernels();
        case SERVE:
            mode = SERVING;
            break;
        case SANDBOX:
            mode = SHOWING;
            break;
        case MEASURE:
            mode = MEASURING;
            break;
        case MEMORY:
            memory_bytes = strtoull(optarg, &end, 10);
            break;
        case UNBOXED:
            unboxed = true;
            break;
        case RUN:
            run.kernel = optarg;
            break;
        case INPUT:
            run.inputs[run.input_count++] = optarg;
            break;
        case PARAM:
            run.params[run.param_count++] = optarg;
            break;
        case OUTPUT:
            run.outputs[run.output_count++] = optarg;
            break;
        case ITEMS:
            run.items = strtoull(optarg, &end, 10);
            if (*end != '\0') {
                fprintf(stderr, "weir-worker: --items takes a number, not '%s'\n", optarg);
                return 2;
            }
            break;
        case DEVICE:
            device_name = optarg;
            break;
        case CHECK:
            check.source = optarg;
            break;
        case MANIFEST:
            check.manifest = optarg;
            break;
        case COMPILE:
            return user_compile_serve();
        case REPEAT:
            check.repeat = strtoull(optarg, NULL, 10);
            break;
        case TOOLKIT:
            return show_toolkit(optarg);
        case TENANT:
            break; /* seen in the process list only */
        case HELP:
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind != argc || (mode == NOTHING && !run.kernel && !check.source)) {
        fputs(usage, stderr);
        return 2;
    }
    if (mode == SERVING)
        return serve(device_name, memory_bytes, unboxed);
    if (mode == SHOWING)
        return show_sandbox(device_name);
    if (mode == MEASURING)
        return worker_measure(device_name);
    struct worker_device device;
    struct gpu *gpu;
    char message[MANIFEST_ERROR_BYTES];
    if (!worker_device_open(device_name, &device, &gpu, message)) {
        fprintf(stderr, "weir-worker: %s\n", message);
        return 2;
    }
    check.items = run.items;
    check.compute_major = device.compute_major;
    check.compute_minor = device.compute_minor;
    const int status = check.source ? worker_check(&check, gpu) : worker_run(&run, gpu);
    gpu_close(gpu);
    return status;
}
