#include <string.h>

#include "kernels/sandbox.h"

static const struct {
    const char *name, *help, *fix;
} layers[SANDBOX_LAYERS] = {
    [SANDBOX_USER] = {"user", "is a user that owns nothing outside",
                      "allow user namespaces: sysctl user.max_user_namespaces=10000 "
                      "kernel.unprivileged_userns_clone=1 (Debian) "
                      "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"},
    [SANDBOX_PID] =
        {"pid", "sees and signals no process outside",
         "allow user namespaces (layer user); in a container, run it with --privileged or a seccomp "
         "profile that allows clone"},
    [SANDBOX_MEMORY] =
        {"memory", "takes no more memory than its share",
         "run weir by systemd with Delegate=memory pids, or as root where cgroups are mounted"},
    [SANDBOX_PROCESSES] = {"processes", "starts no more processes than it was given",
                           "run weir by systemd with Delegate=memory pids, or allow user namespaces"},
    [SANDBOX_MOUNT] = {"mount", "sees none of this machine's files",
                       "allow user namespaces (layer user); under AppArmor, give weir-worker a profile with "
                       "userns and mount"},
    [SANDBOX_DEV] = {"dev", "sees no device but its own", "as for layer mount"},
    [SANDBOX_NET] = {"net", "reaches no network", "as for layer mount; the kernel needs CONFIG_NET_NS"},
    [SANDBOX_IPC] = {"ipc", "shares no IPC, host name or cgroup view", "as for layer mount"},
    [SANDBOX_PRIVILEGES] = {"privileges", "holds no capability and gains none", "needs Linux 4.3 or later"},
    [SANDBOX_LANDLOCK] = {"landlock", "opens only what its profile lists",
                          "boot with landlock in lsm= (Linux 5.13 or later)"},
    [SANDBOX_SECCOMP] =
        {"seccomp", "calls nothing of the kernel that it doesn't need",
         "build it with libseccomp, on a kernel with CONFIG_SECCOMP_FILTER; in a container, allow "
         "seccomp(2)"},
};

const char *sandbox_layer_name(enum sandbox_layer layer)
{
    return (unsigned)layer < SANDBOX_LAYERS ? layers[layer].name : "?";
}

const char *sandbox_layer_help(enum sandbox_layer layer)
{
    return (unsigned)layer < SANDBOX_LAYERS ? layers[layer].help : "?";
}

const char *sandbox_layer_fix(enum sandbox_layer layer)
{
    return (unsigned)layer < SANDBOX_LAYERS ? layers[layer].fix : "?";
}

enum sandbox_layer sandbox_missing(const struct sandbox_report *report)
{
    int layer = 0;
    while (layer < SANDBOX_LAYERS && report->layers[layer].on)
        layer++;
    return (enum sandbox_layer)layer;
}

bool sandbox_full(const struct sandbox_report *report)
{
    return sandbox_missing(report) == SANDBOX_LAYERS;
}

/* Memory and processes have two means, one in each half: the cgroup is said where both are on. */
void sandbox_merge(struct sandbox_report *report, const struct sandbox_report *entered)
{
    for (int i = 0; i < SANDBOX_LAYERS; i++) {
        struct sandbox_state *state = &report->layers[i];
        const struct sandbox_state *other = &entered->layers[i];
        if (!state->on && (other->on || other->detail[0]))
            *state = *other;
        state->detail[SANDBOX_DETAIL_BYTES - 1] = '\0';
    }
}
