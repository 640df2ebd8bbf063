/* LD_PRELOAD: the wall clock WEIR_TEST_CLOCK_S seconds off, to see what time does to certificates and tokens. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    }
    const int result = real(clock, now);
    const char *const offset = getenv("WEIR_TEST_CLOCK_S");
    if (clock == CLOCK_REALTIME && offset != NULL) {
        now->tv_sec += atol(offset);
    }
    return result;
}
