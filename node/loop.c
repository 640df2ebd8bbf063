#include "node/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define TURNS_MAX 16
#define EVENTS_MAX 64

struct watch {
    loop_fn *fn;
    void *context;
};

struct turn {
    loop_turn_fn *fn;
    void *context;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    atomic_bool stop;      /* set by other threads and signal handlers too */
    struct watch *watches; /* by descriptor */
    int watch_capacity;
    struct turn turns[TURNS_MAX];
    int turn_count;
};

bool loop_open(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return false;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = loop->wake_fd};
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) != 0) {
        loop_close(loop);
        return false;
    }
    *out = loop;
    return true;
}

void loop_close(struct loop *loop)
{
    if (!loop)
        return;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop->watches);
    free(loop);
}

void loop_watch(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *context)
{
    assert(fd >= 0 && fn);
    if (fd >= loop->watch_capacity) {
        int capacity = loop->watch_capacity ? loop->watch_capacity : 64;
        while (capacity <= fd)
            capacity *= 2;
        struct watch *watches = realloc(loop->watches, (size_t)capacity * sizeof *watches);
        assert(watches);
        for (int i = loop->watch_capacity; i < capacity; i++)
            watches[i] = (struct watch){0};
        loop->watches = watches;
        loop->watch_capacity = capacity;
    }
    struct epoll_event event = {.events = events, .data.fd = fd};
    const int operation = loop->watches[fd].fn ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    const int result = epoll_ctl(loop->epoll_fd, operation, fd, &event);
    assert(result == 0);
    (void)result;
    loop->watches[fd] = (struct watch){.fn = fn, .context = context};
}

void loop_unwatch(struct loop *loop, int fd)
{
    if (fd < 0 || fd >= loop->watch_capacity || !loop->watches[fd].fn)
        return;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    loop->watches[fd] = (struct watch){0};
}

void loop_on_turn(struct loop *loop, loop_turn_fn *fn, void *context)
{
    assert(loop->turn_count < TURNS_MAX);
    loop->turns[loop->turn_count++] = (struct turn){.fn = fn, .context = context};
}

static int64_t run_turns(struct loop *loop)
{
    int64_t wake_at_ms = INT64_MAX;
    for (int i = 0; i < loop->turn_count; i++) {
        const int64_t at_ms = loop->turns[i].fn(loop->turns[i].context, clock_now_ms());
        if (at_ms < wake_at_ms)
            wake_at_ms = at_ms;
    }
    return wake_at_ms;
}

static int sleep_ms(int64_t wake_at_ms)
{
    if (wake_at_ms == INT64_MAX)
        return -1;
    const int64_t left_ms = wake_at_ms - clock_now_ms();
    if (left_ms <= 0)
        return 0;
    return left_ms < 60000 ? (int)left_ms : 60000;
}

void loop_run(struct loop *loop)
{
    while (!loop->stop) {
        const int64_t wake_at_ms = run_turns(loop);
        if (loop->stop)
            break;
        struct epoll_event events[EVENTS_MAX];
        const int count = epoll_wait(loop->epoll_fd, events, EVENTS_MAX, sleep_ms(wake_at_ms));
        for (int i = 0; i < count; i++) {
            const int fd = events[i].data.fd;
            if (fd == loop->wake_fd) {
                uint64_t ignored;
                while (read(fd, &ignored, sizeof ignored) > 0)
                    ;
            } else if (loop->watches[fd].fn) {
                loop->watches[fd].fn(loop->watches[fd].context, events[i].events);
            }
        }
    }
}

void loop_wake(struct loop *loop)
{
    const int saved = errno;
    const uint64_t one = 1;
    const ssize_t written = write(loop->wake_fd, &one, sizeof one);
    (void)written; /* a full counter wakes as well */
    errno = saved;
}

void loop_stop(struct loop *loop)
{
    loop->stop = true;
    loop_wake(loop);
}

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t clock_now_ms(void)
{
    return clock_now_us() / 1000;
}

int64_t clock_wall_ms(void)
{
    return clock_us(CLOCK_REALTIME) / 1000;
}
