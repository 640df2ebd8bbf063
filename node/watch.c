#include "node/watch.h"

#include "node/log.h"
#include "node/process.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/wait.h>
#include <unistd.h>

#define SILENT_MS 3000
#define PAUSE_MS 1000
#define PAUSE_MS_MAX 60000
#define LINE_BYTES_MAX (64u * 1024u)
#define ANCESTORS_MAX 8

#define LISTENER_FD 3         /* the first one's number in the watcher */
#define LISTENER_FD_LEAST 100 /* here: out of the way of those */

extern char **environ;

struct watch {
    struct watch_options options;
    pid_t pid; /* 0 = none; not started anew before it was reaped */
    int in;    /* we hold it open; the watcher ends when we do */
    int out;
    int64_t heard_at_ms;
    int64_t start_at_ms;
    int64_t pause_ms;
    bool killed;
    bool running, opens;
    uint32_t devices;
    char driver[64];
    char why[256];
    char told[256]; /* the last line of the log, which is not repeated */
    size_t count;
    char line[LINE_BYTES_MAX];
};

/* ---- Whose a process is */

static bool parent_of(uint32_t pid, uint32_t *parent)
{
    char text[PROCESS_STAT_BYTES];
    const char *const stat = process_stat((pid_t)pid, text);
    return stat && sscanf(stat, " %*c %u", parent) == 1;
}

static bool is_ours(uint32_t pid, bool *known)
{
    *known = parent_of(pid, &(uint32_t){0});
    for (int i = 0; i < ANCESTORS_MAX && pid > 1; i++) {
        if (pid == (uint32_t)getpid())
            return true;
        if (!parent_of(pid, &pid))
            return false;
    }
    return false;
}

/* ---- What it says */

static void say(struct watch *watch, const char *why)
{
    snprintf(watch->why, sizeof watch->why, "%s", why);
    if (strcmp(watch->told, watch->why) == 0)
        return;
    snprintf(watch->told, sizeof watch->told, "%s", watch->why);
    char quoted[2 * sizeof watch->why + 2];
    log_warn("watch", "reason=%s", log_quote(watch->why, quoted, sizeof quoted));
}

static void on_hello(struct watch *watch, const json_t *line)
{
    const char *driver = json_string_value(json_object_get(line, "driver"));
    const char *why = json_string_value(json_object_get(line, "why"));
    watch->running = true;
    watch->opens = json_is_true(json_object_get(line, "opens"));
    watch->pause_ms = PAUSE_MS;
    snprintf(watch->driver, sizeof watch->driver, "%s", driver ? driver : "");
    watch->why[0] = '\0';
    const json_int_t devices = json_integer_value(json_object_get(line, "devices"));
    watch->devices = devices > 0 ? (uint32_t)devices : 0;
    char text[200];
    snprintf(text, sizeof text,
             "NVML shows %lld GPUs here and CUDA %u: those that it lacks are lent unwatched",
             (long long)devices, watch->options.devices);
    if (devices < (json_int_t)watch->options.devices)
        say(watch, text);
    else if (!watch->opens)
        say(watch, why ? why : "");
    log_info("watch", "state=up driver=%s opens=%s", watch->driver, watch->opens ? "heard" : "unheard");
}

static uint64_t bytes_of(const json_t *object, const char *name)
{
    const json_int_t value = json_integer_value(json_object_get(object, name));
    return value < 0 ? UINT64_MAX : (uint64_t)value;
}

static void read_processes(const json_t *list, struct sighting *sighting)
{
    size_t i;
    const json_t *row;
    json_array_foreach(list, i, row)
    {
        if (i == SIGHTING_PROCESSES_MAX)
            return;
        struct sighting_process *process = &sighting->process[sighting->process_count++];
        const char *name = json_string_value(json_object_get(row, "name"));
        *process = (struct sighting_process){.pid = (uint32_t)json_integer_value(json_object_get(row, "pid")),
                                             .memory_bytes = bytes_of(row, "memory")};
        snprintf(process->name, sizeof process->name, "%s", name ? name : "");
        process->ours = is_ours(process->pid, &process->known);
    }
}

static void on_device(struct watch *watch, uint32_t device, const json_t *line)
{
    const char *error = json_string_value(json_object_get(line, "error"));
    struct sighting sighting = {.memory_total = bytes_of(line, "memory_total"),
                                .memory_used = bytes_of(line, "memory_used"),
                                .utilisation_percent =
                                    (int32_t)json_integer_value(json_object_get(line, "utilisation")),
                                .xid = (uint32_t)json_integer_value(json_object_get(line, "xid"))};
    read_processes(json_object_get(line, "processes"), &sighting);
    watch->options.seen(watch->options.context, device, &sighting, error);
}

static void on_opened(struct watch *watch, uint32_t device, const json_t *line)
{
    bool known;
    const uint32_t pid = (uint32_t)json_integer_value(json_object_get(line, "pid"));
    if (!is_ours(pid, &known))
        watch->options.opened(watch->options.context, device);
}

static void on_line(struct watch *watch, const char *text)
{
    json_t *line = json_loads(text, 0, NULL);
    const json_t *device = json_object_get(line, "device"), *opened = json_object_get(line, "opened");
    const char *error = json_string_value(json_object_get(line, "error"));
    const json_int_t number = json_integer_value(device ? device : opened);
    const bool ours = number >= 0 && number < (json_int_t)watch->options.devices;
    if (json_object_get(line, "watch"))
        on_hello(watch, line);
    else if (device && ours)
        on_device(watch, (uint32_t)number, line);
    else if (opened && ours)
        on_opened(watch, (uint32_t)number, line);
    else if (error && !device)
        say(watch, error);
    json_decref(line);
}

/* ---- Its life */

static void let_go(struct watch *watch)
{
    if (watch->out >= 0) {
        loop_unwatch(watch->options.loop, watch->out);
        close(watch->out);
        close(watch->in);
    }
    watch->out = watch->in = -1;
    watch->running = watch->opens = false;
}

static void on_readable(void *context, uint32_t events)
{
    struct watch *watch = context;
    (void)events;
    const ssize_t got = read(watch->out, watch->line + watch->count, sizeof watch->line - 1 - watch->count);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || watch->count + (size_t)got == sizeof watch->line - 1) { /* it ended, or talks nonsense */
        let_go(watch);
        kill(watch->pid, SIGKILL);
        return;
    }
    watch->heard_at_ms = clock_now_ms();
    watch->count += (size_t)got;
    watch->line[watch->count] = '\0';
    char *from = watch->line;
    for (char *end; (end = strchr(from, '\n')); from = end + 1) {
        *end = '\0';
        on_line(watch, from);
    }
    watch->count -= (size_t)(from - watch->line);
    memmove(watch->line, from, watch->count);
}

static bool start(struct watch *watch)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    bool good = pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    const struct watch_options *const options = &watch->options;
    char number[16];
    char *arguments[] = {"weir-worker", "--watch", options->listener_count ? "--listeners" : NULL, number,
                         NULL};
    snprintf(number, sizeof number, "%u", options->listener_count);
    for (uint32_t i = 0; i < options->listener_count; i++)
        good = good &&
               posix_spawn_file_actions_adddup2(&actions, options->listeners[i], LISTENER_FD + (int)i) == 0;
    good =
        good && posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO) == 0 &&
        posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO) == 0 &&
        posix_spawn_file_actions_addclosefrom_np(&actions, LISTENER_FD + (int)options->listener_count) == 0 &&
        posix_spawnattr_setsigmask(&attributes, &none) == 0 &&
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK) == 0 &&
        fcntl(out[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(in[1], F_SETFL, O_NONBLOCK) == 0 &&
        posix_spawn(&watch->pid, watch->options.path, &actions, &attributes, arguments, environ) == 0;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    const int unused[] = {in[0], out[1], good ? -1 : in[1], good ? -1 : out[0]};
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++)
        if (unused[i] >= 0)
            close(unused[i]);
    if (!good) {
        watch->pid = 0;
        return false;
    }
    watch->in = in[1];
    watch->out = out[0];
    watch->count = 0;
    watch->killed = false;
    watch->heard_at_ms = clock_now_ms();
    loop_watch(watch->options.loop, watch->out, EPOLLIN, on_readable, watch);
    return true;
}

/* Reports by file identifier: inside a container a group that hands out descriptors hears nothing of device files. */
uint32_t watch_listen(int listeners[WATCH_LISTENERS_MAX])
{
    uint32_t count = 0;
    while (count < WATCH_LISTENERS_MAX) {
        const int made = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID, 0);
        const int kept = made < 0 ? -1 : fcntl(made, F_DUPFD_CLOEXEC, LISTENER_FD_LEAST);
        if (made >= 0)
            close(made);
        if (kept < 0)
            break;
        listeners[count++] = kept;
    }
    return count;
}

bool watch_open(struct watch **out, const struct watch_options *options)
{
    struct watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return false;
    watch->options = *options;
    watch->in = watch->out = -1;
    watch->pause_ms = PAUSE_MS;
    *out = watch;
    return true;
}

void watch_close(struct watch *watch)
{
    if (!watch)
        return;
    let_go(watch);
    if (watch->pid > 0)
        process_end(watch->pid);
    free(watch);
}

static void reap(struct watch *watch, int64_t now_ms)
{
    int status;
    if (waitpid(watch->pid, &status, WNOHANG) == 0)
        return;
    watch->pid = 0;
    let_go(watch);
    if (!watch->killed && WIFSIGNALED(status)) {
        char text[120];
        snprintf(text, sizeof text, "the watcher of the GPUs died of signal %d (%s); it is started again",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
        say(watch, text);
    }
    watch->start_at_ms = now_ms + watch->pause_ms;
    watch->pause_ms = 2 * watch->pause_ms < PAUSE_MS_MAX ? 2 * watch->pause_ms : PAUSE_MS_MAX;
}

int64_t watch_turn(struct watch *watch, int64_t now_ms)
{
    if (watch->pid > 0 && watch->out >= 0 && now_ms - watch->heard_at_ms >= SILENT_MS) {
        say(watch, "the watcher of the GPUs said nothing for 3 s and was killed: look at the driver");
        watch->killed = true;
        let_go(watch);
        kill(watch->pid, SIGKILL);
    }
    if (watch->pid > 0 && watch->out < 0)
        reap(watch, now_ms);
    if (watch->pid == 0 && now_ms >= watch->start_at_ms && !start(watch)) {
        say(watch, "the watcher of the GPUs can't be started");
        watch->start_at_ms = now_ms + PAUSE_MS_MAX;
    }
    if (watch->pid == 0)
        return watch->start_at_ms;
    return watch->out < 0 ? now_ms + 100 : watch->heard_at_ms + SILENT_MS;
}

void watch_hurry(struct watch *watch)
{
    const ssize_t written = watch->in >= 0 ? write(watch->in, "", 1) : 0;
    (void)written; /* a pipe that is full has asked often enough */
}

void watch_view(const struct watch *watch, struct watch_view *view)
{
    *view = (struct watch_view){.running = watch->running,
                                .opens = watch->opens,
                                .devices = watch->devices,
                                .driver = watch->driver,
                                .why = watch->why};
}
