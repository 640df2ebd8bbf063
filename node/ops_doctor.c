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
        if (view.fault)
            add(rows, view.device, BAD, "mend it, then restart this node", "withdrawn: %s", view.reason);
        else
            add(rows, view.device, OK, "", "%s", view.name);
    }
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
    add_disk(rows, node);
    add_sandbox(rows, node);
    add_users_kernels(rows, node);
    api_reply(call, json_pack("{s:o}", "checks", rows));
}
