/*
 * The watcher of this machine's GPUs: `weir-worker --watch` (kernels/watch.h), a process of its own because the driver's
 * library may hang or crash. It is started where the node lends GPUs, and again when it ends; one that says nothing for
 * 3 s is killed.
 *
 * Where NVML is missing or too old, or the watcher can't go on, that is told in one line of the log, and devices are lent
 * as far as commands and hours of their owner allow.
 *
 * On the loop's thread.
 */
#ifndef NODE_WATCH_H
#define NODE_WATCH_H

#include "node/loop.h"
#include "node/sighting.h"

struct watch;

#define WATCH_LISTENERS_MAX 16 /* GPUs whose opens can be heard of */

/*
 * What hears of opens of device files, for every watcher to come: only its making needs a capability (CAP_SYS_ADMIN, to hear who it
 * was), so that a node does this first of all and gives the capability up. Owned by the caller; returns how many there are, 0 where
 * the system has none to give.
 */
uint32_t watch_listen(int listeners[WATCH_LISTENERS_MAX]);

struct watch_options {
    struct loop *loop;
    const char *path;     /* of weir-worker; borrowed */
    uint32_t devices;     /* in CUDA's order */
    const int *listeners; /* borrowed while the watch is open */
    uint32_t listener_count;
    /* One device as it is now; or why it can't be seen: it has vanished. Borrowed for the call. */
    void (*seen)(void *context, uint32_t device, const struct sighting *sighting, const char *error);
    void (*opened)(void *context, uint32_t device);
    void *context;
};

bool watch_open(struct watch **watch, const struct watch_options *options);
void watch_close(struct watch *watch);
/* Starts what is due and kills what is silent; the time of the next call. */
int64_t watch_turn(struct watch *watch, int64_t now_ms);

/* Asks for closer looks for half a second: a device was claimed, and somebody waits for its memory. */
void watch_hurry(struct watch *watch);

/* What the watcher is like, for listings. */
struct watch_view {
    bool running;     /* and has spoken */
    bool opens;       /* opens of device files are heard of */
    uint32_t devices; /* that it sees; fewer than were asked for: the rest is lent unwatched */
    const char *driver;
    const char *why; /* not running, or no opens; "" = nothing is wrong */
};
void watch_view(const struct watch *watch, struct watch_view *view);

#endif
