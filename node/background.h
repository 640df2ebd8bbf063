/*
 * One thread for work that would hold up the loop: hashing inputs, checking values, proving results, putting outputs together.
 *
 * A task's `run` is called on that thread, then its `done` on the loop's. Tasks run one after another, in
 * order.
 */
#ifndef NODE_BACKGROUND_H
#define NODE_BACKGROUND_H

#include "node/loop.h"

struct background;

struct background_task {
    void (*run)(struct background_task *task);
    void (*done)(struct background_task *task); /* may free it */
    struct background_task *next;               /* the queue's */
};

bool background_open(struct background **background, struct loop *loop);
/* Waits for the running task; tasks that have not begun are never run: their memory goes with the process. */
void background_close(struct background *background);
/* The task stays with the caller until `done`. */
void background_add(struct background *background, struct background_task *task);

#endif
