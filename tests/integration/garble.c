/* LD_PRELOAD: a node that serves wrong bytes. One bit of every large message is turned over after the node has verified
 * it, right before it is encrypted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#define LARGE_BYTES (512 * 1024)

int zmq_msg_init_data(void *message, void *data, size_t count, void (*give_back)(void *, void *), void *hint)
{
    static int (*real)(void *, void *, size_t, void (*)(void *, void *), void *);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "zmq_msg_init_data");
    }
    if (count > LARGE_BYTES) {
        ((unsigned char *)data)[count / 2] ^= 1;
    }
    return real(message, data, count, give_back, hint);
}
