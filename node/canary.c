#include "node/canary.h"

#include "node/log.h"
#include "node/process.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LATEST_MS 60000

extern char **environ;

struct canary {
    struct loop *loop;
    const char *path;
    canary_measured *measured;
    void *context;
    pid_t pid; /* 0 = none runs */
    int out;
    uint32_t index;
    char device[24];
    int64_t latest_ms;
    size_t count;
    char text[512];
};

struct canary *canary_open(struct loop *loop, const char *path, canary_measured *measured, void *context)
{
    struct canary *canary = calloc(1, sizeof *canary);
    if (canary)
        *canary =
            (struct canary){.loop = loop, .path = path, .measured = measured, .context = context, .out = -1};
    return canary;
}

bool canary_busy(const struct canary *canary)
{
    return canary->pid > 0;
}

static void let_go(struct canary *canary)
{
    if (canary->out < 0)
        return;
    loop_unwatch(canary->loop, canary->out);
    close(canary->out);
    canary->out = -1;
}

void canary_close(struct canary *canary)
{
    if (!canary)
        return;
    let_go(canary);
    if (canary->pid > 0)
        process_end(canary->pid);
    free(canary);
}

static void on_readable(void *context, uint32_t events)
{
    struct canary *canary = context;
    (void)events;
    const ssize_t got =
        read(canary->out, canary->text + canary->count, sizeof canary->text - 1 - canary->count);
    if (got > 0)
        canary->count += (size_t)got;
    else if (got == 0 || (errno != EAGAIN && errno != EINTR) || canary->count == sizeof canary->text - 1)
        let_go(canary); /* the turn reaps it */
}

static bool spawn(struct canary *canary)
{
    int out[2] = {-1, -1};
    char *arguments[] = {"weir-worker", "--canary", canary->device, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    const bool good =
        pipe2(out, O_CLOEXEC) == 0 && fcntl(out[0], F_SETFL, O_NONBLOCK) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
        posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO) == 0 &&
        posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1) == 0 &&
        posix_spawnattr_setsigmask(&attributes, &none) == 0 &&
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK) == 0 &&
        posix_spawn(&canary->pid, canary->path, &actions, &attributes, arguments, environ) == 0;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (out[1] >= 0)
        close(out[1]);
    if (!good) {
        if (out[0] >= 0)
            close(out[0]);
        canary->pid = 0;
        return false;
    }
    canary->out = out[0];
    loop_watch(canary->loop, canary->out, EPOLLIN, on_readable, canary);
    return true;
}

static uint32_t number_of(const json_t *object, const char *name)
{
    const json_int_t value = json_integer_value(json_object_get(object, name));
    return value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static void end(struct canary *canary, bool good)
{
    canary->text[canary->count] = '\0';
    json_t *line = good ? json_loads(canary->text, 0, NULL) : NULL;
    const struct score score = {.mflops = number_of(line, "mflops"),
                                .memory_mbps = number_of(line, "memory_mbps"),
                                .link_mbps = number_of(line, "link_mbps")};
    if (line)
        log_info("canary", "device=%s mflops=%u memory_mbps=%u link_mbps=%u", canary->device, score.mflops,
                 score.memory_mbps, score.link_mbps);
    else
        log_warn("canary", "device=%s reason=\"it could not be measured; it is lent all the same\"",
                 canary->device);
    json_decref(line);
    canary->measured(canary->context, canary->index, &score);
}

void canary_start(struct canary *canary, const char *device, uint32_t index)
{
    snprintf(canary->device, sizeof canary->device, "%s", device);
    canary->index = index;
    canary->count = 0;
    canary->latest_ms = clock_now_ms() + LATEST_MS;
    if (!spawn(canary))
        end(canary, false);
}

int64_t canary_turn(struct canary *canary, int64_t now_ms)
{
    int status;
    if (canary->pid == 0)
        return INT64_MAX;
    if (now_ms >= canary->latest_ms) {
        kill(canary->pid, SIGKILL);
        let_go(canary);
    }
    if (canary->out >= 0)
        return canary->latest_ms;
    if (waitpid(canary->pid, &status, WNOHANG) == 0)
        return now_ms + 20;
    canary->pid = 0;
    end(canary, WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return now_ms;
}
