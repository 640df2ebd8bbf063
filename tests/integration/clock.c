/*
 * LD_PRELOAD: a machine whose clock is off by as many seconds as the file named by WEIR_TEST_CLOCK says; it may be set
 * while the program runs. Durations are not touched. As many seconds as the file named by WEIR_TEST_PASSED says pass at
 * once, on both clocks: what a program does after minutes need not be waited for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long seconds_in(const char *variable)
{
    char text[32] = "";
    const char *const path = getenv(variable);
    const int file = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    const ssize_t count = read(file, text, sizeof text - 1);
    close(file);
    return count > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*next)(clockid_t, struct timespec *);
    if (next == NULL)
        *(void **)&next = dlsym(RTLD_NEXT, "clock_gettime");
    const int result = next(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME)
        time->tv_sec += seconds_in("WEIR_TEST_CLOCK");
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC))
        time->tv_sec += seconds_in("WEIR_TEST_PASSED");
    return result;
}
