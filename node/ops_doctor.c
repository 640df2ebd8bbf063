/*
 * What `weir doctor` asks: each thing that this node needs to lend safely, whether it is there, and what to do
 * where it isn't. A row is {check, state: ok | off | bad, detail, fix}: `off` costs the node something that it can
 * live without, `bad` wants somebody to act.
 */
#include "node/compile.h"
#include "node/faulty.h"
#include "node/ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum state { OK, OFF, BAD };

__attribute__((format(printf, 5, 6))) static void add(json_t *rows, const char *check, enum state state,
                                                      const char *fix, const char *format, ...)
{
    static const char *const words[] = {[OK] = "ok", [OFF] = "off", [BAD] = "bad"};
    char detail[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s}", "check", check, "state", words[state],
                                          "detail", detail, "fix", state == OK ? "" : fix));
}

static void add_devices(json_t *rows, const struct node *node)
{
    struct workers_view view;
    for (uint32_t i = 0; workers_view(node->workers, i, &view); i++) {
        const struct device *device = &node->devices.device[i];
        const bool claimed = device->owner.state == OWNER_RECLAIM || device->owner.state == OWNER_OWNED;
        if (view.fault)
            add(rows, view.device, BAD, "mend it, then restart this node", "withdrawn: %s", view.reason);
        else if (device->vanished[0])
            add(rows, view.device, BAD,
                device->xid ? "reset the GPU, or the machine; restart this node once the GPU is well"
                            : "look at the driver and at the GPU; it is lent again by itself once it answers",
                "withdrawn: %s", device->vanished);
        else if (claimed && device->owner.cause == OWNER_ELSEWHERE)
            add(rows, view.device, OFF, "give each its own by work.cuda_devices, or CUDA_VISIBLE_DEVICES",
                "another node of this machine lends it");
        else if (claimed)
            add(rows, view.device, OK, "", "%s; its owner has it (%s)", view.name,
                owner_cause_word(device->owner.cause));
        else
            add(rows, view.device, OK, "", "%s", view.name);
    }
}

/* How many GPUs this node has, and whether one that was seen is no more: nothing new is started there. */
static uint32_t count_gpus(const struct node *node, bool *held)
{
    uint32_t count = 0;
    struct workers_view view;
    *held = false;
    for (uint32_t i = 0; workers_view(node->workers, i, &view); i++)
        if (view.class > 0) {
            count++;
            *held = *held || node->devices.device[i].held;
        }
    return count;
}

/* Who else uses a GPU is known from the watcher alone; without a GPU there is none. */
static void add_watcher(json_t *rows, const struct node *node)
{
    if (!node->devices.watch)
        return;
    bool held;
    const uint32_t gpus = count_gpus(node, &held);
    struct watch_view view;
    watch_view(node->devices.watch, &view);
    if (!view.running)
        add(rows, "GPU watcher", held ? BAD : OFF,
            "install the driver's libnvidia-ml.so.1, 520 or later; if it hangs or crashes, look at the "
            "driver",
            "%s; %s", view.why[0] ? view.why : "it has not spoken yet",
            held ? "until it does nothing new is started on GPUs"
                 : "GPUs are lent unwatched, as commands and hours allow");
    else if (view.devices < gpus)
        add(rows, "GPU watcher", OFF, "let NVML see the GPUs that CUDA sees: compare with nvidia-smi -L",
            "%s", view.why);
    else
        add(rows, "GPU watcher", OK, "", "sees who uses them, by driver %s", view.driver);
    if (view.running)
        add(rows, "GPU opens", view.opens ? OK : OFF,
            "do without, or give the node CAP_SYS_ADMIN at its start (operations.md, Watching GPUs)", "%s",
            view.opens ? "heard at once"
                       : "not heard of, so a program is seen up to a quarter of a second after it came");
}

static void add_disk(json_t *rows, const struct node *node)
{
    if (node->disk.error)
        add(rows, "disk", BAD, "make room, or mend it; the node tries again by itself", "%s",
            store_error_text(node->disk.error));
    else
        add(rows, "disk", OK, "", "takes writes");
}

/* Layers that differ by class are shown for each. */
static void add_sandbox(json_t *rows, const struct node *node)
{
    static const char *const names[] = {"cpu", "cuda"};
    const struct sandbox_report *first = workers_sandbox(node->workers, 0);
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
        const struct sandbox_report *report = workers_sandbox(node->workers, class);
        for (int i = 0; report && i < SANDBOX_LAYERS; i++) {
            const enum sandbox_layer layer = (enum sandbox_layer)i;
            const struct sandbox_state *state = &report->layers[i];
            char check[40];
            if (class > 0 && first && first->layers[i].on == state->on)
                continue;
            snprintf(check, sizeof check, "sandbox %s%s%s", sandbox_layer_name(layer), class > 0 ? " " : "",
                     class > 0 ? names[class] : "");
            if (state->on)
                add(rows, check, OK, "", "%s%s%s%s", sandbox_layer_help(layer), state->detail[0] ? " (" : "",
                    state->detail, state->detail[0] ? ")" : "");
            else
                add(rows, check, OFF, sandbox_layer_fix(layer), "%s; with it, a stranger %s", state->detail,
                    sandbox_layer_help(layer));
        }
    }
    if (!first)
        add(rows, "sandbox", BAD, "try `weir-worker --sandbox`", "no worker could be started");
    else
        add(rows, "worker", OK, "", "starts in %.1f ms, sandbox included",
            (double)workers_start_us(node->workers) / 1000);
}

static void add_users_kernels(json_t *rows, const struct node *node)
{
    static const char *const checks[] = {"users' kernels cpu", "users' kernels cuda"};
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
        const bool good = compile_classes(node) & 1u << class;
        if (workers_slots(node->workers, class) == 0)
            continue;
        add(rows, checks[class], good ? OK : OFF,
            class == 0 ? "install g++, and turn on every layer of the sandbox"
                       : "install the NVRTC library, and turn on every layer of the sandbox",
            "%s", good ? "compiled and run here" : compile_why_not(node, class));
    }
    const struct faulty_kernel *kernel;
    for (uint32_t i = 0; (kernel = faulty_each(workers_faulty(node->workers), i)); i++)
        add(rows, "quarantined kernel", OFF, "its author mends it; restart this node to let it try again",
            "%s failed its worker %u times, the last: %s", kernel->kernel, kernel->faults, kernel->reason);
}

void op_doctor(void *context, struct api_call *call)
{
    const struct node *node = context;
    json_t *rows = json_array();
    add_devices(rows, node);
    add_watcher(rows, node);
    add_disk(rows, node);
    add_sandbox(rows, node);
    add_users_kernels(rows, node);
    api_reply(call, json_pack("{s:o}", "checks", rows));
}
