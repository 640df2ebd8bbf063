#include "kernels/watch.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/fanotify.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "kernels/nvml.h"

#define LISTENER_FD 3 /* as node/watch.c hands them over */
#define LOOK_MS 250
#define LOOK_AFTER_OPEN_MS 50
#define AFTER_OPEN_MS 500

struct watched {
    unsigned index; /* of NVML */
    int events;     /* a fanotify group of its own device file, -1 = none */
};

struct watcher {
    struct nvml *nvml;
    struct watched device[NVML_DEVICES_MAX]; /* in CUDA's order */
    unsigned count;
    int64_t opened_at_ms; /* the latest open of any; below zero = none yet */
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void put_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\' || (unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
            putchar('?');
        else
            putchar(*text);
    putchar('"');
}

/* ---- Which devices */

/* One entry of CUDA_VISIBLE_DEVICES: a number, or the beginning of a unique id. -1 ends the list, as CUDA has it. */
static int index_of(const struct nvml *nvml, const char *entry, size_t count)
{
    char *end;
    if (count > 0 && isdigit((unsigned char)entry[0])) {
        const unsigned long index = strtoul(entry, &end, 10);
        return end == entry + count && index < nvml_count(nvml) ? (int)index : -1;
    }
    for (unsigned i = 0; count > 0 && i < nvml_count(nvml); i++)
        if (strncasecmp(nvml_uuid(nvml, i), entry, count) == 0)
            return (int)i;
    return -1;
}

static void choose_devices(struct watcher *watcher)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    while (!visible && watcher->count < nvml_count(watcher->nvml)) {
        watcher->device[watcher->count].index = watcher->count;
        watcher->count++;
    }
    while (visible && *visible && watcher->count < NVML_DEVICES_MAX) {
        const size_t count = strcspn(visible, ",");
        const int index = index_of(watcher->nvml, visible, count);
        if (index < 0)
            return;
        watcher->device[watcher->count++].index = (unsigned)index;
        visible += count + (visible[count] == ',');
    }
}

/* ---- Opens */

/* The group for device `number`, which may be handed over again and again. */
static int listener(unsigned number, uint32_t listeners)
{
    if (listeners == 0)
        return fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID, 0);
    errno = EMFILE;
    return number < listeners ? LISTENER_FD + (int)number : -1;
}

static bool watch_opens(struct watcher *watcher, uint32_t listeners, char *why, size_t why_bytes)
{
    bool all = watcher->count > 0;
    for (unsigned i = 0; i < watcher->count; i++) {
        struct watched *device = &watcher->device[i];
        char path[64];
        snprintf(path, sizeof path, "/dev/nvidia%d", nvml_minor(watcher->nvml, device->index));
        const char *named =
            getenv("WEIR_WATCH_FILE"); /* for tests: this file stands for the first device's */
        if (named && i == 0)
            snprintf(path, sizeof path, "%s", named);
        device->events = listener(i, listeners);
        if (device->events < 0 ||
            fanotify_mark(device->events, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, path) != 0) {
            if (all)
                snprintf(why, why_bytes, "opens of %s can't be watched: %s%s", path, strerror(errno),
                         errno == EPERM ? " (that needs CAP_SYS_ADMIN)" : "");
            all = false;
            if (device->events >= 0)
                close(device->events);
            device->events = -1;
        }
    }
    return all;
}

/* Whether anybody but this process opened it, and who was the last. The pid of a process of another container reads 0. */
static bool was_opened(int events, int *pid)
{
    _Alignas(struct fanotify_event_metadata) char buffer[4096];
    bool opened = false;
    for (ssize_t bytes; (bytes = read(events, buffer, sizeof buffer)) > 0;) {
        const struct fanotify_event_metadata *event = (const void *)buffer;
        for (ssize_t left = bytes; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left))
            if (event->pid != getpid()) {
                opened = true;
                *pid = event->pid;
            }
    }
    return opened;
}

/* ---- Looking */

static void put_process(const struct nvml_process *process, const char *separator)
{
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%u/comm", process->pid);
    FILE *file = fopen(path, "re");
    if (file && fgets(name, sizeof name, file))
        name[strcspn(name, "\n")] = '\0';
    if (file)
        fclose(file);
    printf("%s{\"pid\":%u,\"name\":", separator, process->pid);
    put_text(name);
    printf(",\"memory\":%lld}",
           process->memory_bytes == NVML_BYTES_UNKNOWN ? -1 : (long long)process->memory_bytes);
}

static void look(struct watcher *watcher, unsigned number)
{
    const unsigned index = watcher->device[number].index;
    struct nvml_sample sample;
    char message[NVML_MESSAGE_BYTES];
    printf("{\"device\":%u,", number);
    if (!nvml_look(watcher->nvml, index, &sample, message)) {
        printf("\"error\":");
        put_text(message);
        puts("}");
        return;
    }
    printf("\"uuid\":");
    put_text(nvml_uuid(watcher->nvml, index));
    printf(",\"memory_total\":%llu,\"memory_used\":%llu,\"utilisation\":%d,\"xid\":%u,\"processes\":[",
           (unsigned long long)sample.memory_total, (unsigned long long)sample.memory_used,
           (int)sample.utilisation_percent, sample.xid);
    for (uint32_t i = 0; i < sample.process_count; i++)
        put_process(&sample.process[i], i ? "," : "");
    puts("]}");
}

/* Tells who opened a device file; what this process opened itself, to look, is nothing. */
static bool tell_opens(struct watcher *watcher, const struct pollfd *polled)
{
    bool any = false;
    for (unsigned i = 0; i < watcher->count; i++) {
        int pid = 0;
        if (!(polled[i].revents & POLLIN) || !was_opened(watcher->device[i].events, &pid))
            continue;
        printf("{\"opened\":%u,\"pid\":%d}\n", i, pid);
        watcher->opened_at_ms = now_ms();
        any = true;
    }
    return any;
}

/* Sleeps until the next look, or an open. False once the node has closed our standard input. */
static bool wait_for_more(struct watcher *watcher)
{
    struct pollfd polled[NVML_DEVICES_MAX + 1] = {{.fd = STDIN_FILENO, .events = POLLIN}};
    for (unsigned i = 0; i < watcher->count; i++)
        polled[i + 1] = (struct pollfd){.fd = watcher->device[i].events, .events = POLLIN};
    const bool close_look = watcher->opened_at_ms >= 0 && now_ms() - watcher->opened_at_ms < AFTER_OPEN_MS;
    const int64_t until_ms = now_ms() + (close_look ? LOOK_AFTER_OPEN_MS : LOOK_MS);
    for (int64_t left_ms; (left_ms = until_ms - now_ms()) > 0;) {
        char byte;
        if (poll(polled, watcher->count + 1, (int)left_ms) < 0 && errno != EINTR)
            return false;
        if (polled[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            if (read(STDIN_FILENO, &byte, 1) == 0)
                return false;
            watcher->opened_at_ms = now_ms(); /* the node wants to know soon */
            break;
        }
        if (tell_opens(watcher, polled + 1))
            break;
    }
    return true;
}

int worker_watch(uint32_t listeners)
{
    static struct watcher watcher = {.opened_at_ms = -1};
    char message[NVML_MESSAGE_BYTES], why[256] = "";
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_IGN);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (!nvml_open(&watcher.nvml, message)) {
        printf("{\"error\":");
        put_text(message);
        puts("}");
        return fflush(stdout) == 0 ? 3 : 1;
    }
    choose_devices(&watcher);
    const bool opens = watch_opens(&watcher, listeners, why, sizeof why);
    printf("{\"watch\":\"nvml\",\"driver\":");
    put_text(nvml_driver(watcher.nvml));
    printf(",\"devices\":%u,\"opens\":%s,\"why\":", watcher.count, opens ? "true" : "false");
    put_text(why);
    puts("}");
    do {
        for (unsigned i = 0; i < watcher.count; i++)
            look(&watcher, i);
        if (fflush(stdout) != 0)
            break;
    } while (wait_for_more(&watcher));
    nvml_close(watcher.nvml);
    return 0;
}
