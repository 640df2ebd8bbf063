#include "node/background.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct queue {
    struct background_task *head;
    struct background_task **tail;
};

struct background {
    struct loop *loop;
    int done_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool stop;
    struct queue waiting;
    struct queue finished;
};

static void push(struct queue *queue, struct background_task *task)
{
    task->next = NULL;
    *queue->tail = task;
    queue->tail = &task->next;
}

static struct background_task *pop(struct queue *queue)
{
    struct background_task *task = queue->head;
    if (task) {
        queue->head = task->next;
        if (!queue->head)
            queue->tail = &queue->head;
    }
    return task;
}

static void *work(void *context)
{
    struct background *background = context;
    pthread_mutex_lock(&background->lock);
    while (!background->stop) {
        struct background_task *task = pop(&background->waiting);
        if (!task) {
            pthread_cond_wait(&background->work, &background->lock);
            continue;
        }
        pthread_mutex_unlock(&background->lock);
        task->run(task);
        pthread_mutex_lock(&background->lock);
        push(&background->finished, task);
        const uint64_t one = 1;
        const ssize_t written = write(background->done_fd, &one, sizeof one);
        (void)written; /* a full counter is readable as well */
    }
    pthread_mutex_unlock(&background->lock);
    return NULL;
}

static void on_done(void *context, uint32_t events)
{
    (void)events;
    struct background *background = context;
    uint64_t ignored;
    const ssize_t got = read(background->done_fd, &ignored, sizeof ignored);
    (void)got;
    for (;;) {
        pthread_mutex_lock(&background->lock);
        struct background_task *task = pop(&background->finished);
        pthread_mutex_unlock(&background->lock);
        if (!task)
            return;
        task->done(task);
    }
}

bool background_open(struct background **out, struct loop *loop)
{
    struct background *background = calloc(1, sizeof *background);
    if (!background)
        return false;
    background->loop = loop;
    background->waiting.tail = &background->waiting.head;
    background->finished.tail = &background->finished.head;
    pthread_mutex_init(&background->lock, NULL);
    pthread_cond_init(&background->work, NULL);
    background->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (background->done_fd < 0 || pthread_create(&background->thread, NULL, work, background) != 0) {
        if (background->done_fd >= 0)
            close(background->done_fd);
        free(background);
        return false;
    }
    loop_watch(loop, background->done_fd, EPOLLIN, on_done, background);
    *out = background;
    return true;
}

void background_close(struct background *background)
{
    if (!background)
        return;
    pthread_mutex_lock(&background->lock);
    background->stop = true;
    pthread_cond_signal(&background->work);
    pthread_mutex_unlock(&background->lock);
    pthread_join(background->thread, NULL);
    loop_unwatch(background->loop, background->done_fd);
    close(background->done_fd);
    pthread_mutex_destroy(&background->lock);
    pthread_cond_destroy(&background->work);
    free(background);
}

void background_add(struct background *background, struct background_task *task)
{
    pthread_mutex_lock(&background->lock);
    push(&background->waiting, task);
    pthread_cond_signal(&background->work);
    pthread_mutex_unlock(&background->lock);
}
