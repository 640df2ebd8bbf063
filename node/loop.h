/*
 * The node's event loop: one thread, epoll, callbacks, and nothing else.
 *
 *     loop_open(&loop);
 *     loop_watch(loop, fd, EPOLLIN, on_readable, context);
 *     loop_on_turn(loop, on_turn, context);       // runs before every sleep: drain queues, say when to wake
 *     loop_run(loop);                             // until loop_stop
 *
 * A turn function returns the latest monotonic time (ms) at which it must run again; INT64_MAX for no wish.
 * It is also where ZeroMQ sockets are drained: their descriptors are edge-triggered, so "readable" only means
 * "look".
 *
 * It never blocks but in epoll_wait. All functions belong to the loop's thread, except loop_wake and
 * loop_stop, which any thread and any signal handler may call.
 */
#ifndef NODE_LOOP_H
#define NODE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;

typedef void loop_fn(void *context, uint32_t events);
typedef int64_t loop_turn_fn(void *context, int64_t now_ms);

/* Returns false with errno set when the system refuses descriptors. The loop is freed by loop_close. */
bool loop_open(struct loop **loop);
void loop_close(struct loop *loop);

/* Calls `fn` whenever `fd` has one of `events`. One watch per descriptor; watching again replaces it. Asserts
 * that the system has room for a watch. A watch may be removed from inside any callback; it is then not
 * called any more. */
void loop_watch(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *context);
void loop_unwatch(struct loop *loop, int fd); /* before the descriptor is closed; unknown ones are ignored */

/* At most 16. In order of registration, before every sleep. */
void loop_on_turn(struct loop *loop, loop_turn_fn *fn, void *context);

void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
void loop_wake(struct loop *loop);

/* The clocks. Monotonic since boot, and wall since 1970. */
int64_t clock_now_ms(void);
int64_t clock_now_us(void);
int64_t clock_wall_ms(void);

#endif
