/*
 * A race of our own in the middle of honest use of ZeroMQ: what TSan must report in spite of the suppressions. Run
 * with "clean", the same program without the race must pass.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define ROUNDS 1000

struct shared {
    void *zmq;
    pthread_mutex_t lock;
    _Bool careful;
    long counted;
};

/* A function of its own, for the report names it. */
static __attribute__((noinline)) void count_one(struct shared *shared)
{
    if (shared->careful) {
        pthread_mutex_lock(&shared->lock);
    }
    shared->counted++;
    if (shared->careful) {
        pthread_mutex_unlock(&shared->lock);
    }
}

static void *send_all(void *context)
{
    struct shared *const shared = context;
    void *const socket = zmq_socket(shared->zmq, ZMQ_PAIR);
    zmq_connect(socket, "inproc://planted");
    for (int i = 0; i < ROUNDS; i++) {
        count_one(shared);
        zmq_send(socket, &i, sizeof i, 0);
    }
    zmq_close(socket);
    return NULL;
}

int main(int argc, char **argv)
{
    struct shared shared = {.zmq = zmq_ctx_new(), .lock = PTHREAD_MUTEX_INITIALIZER};
    shared.careful = argc > 1 && strcmp(argv[1], "clean") == 0;
    void *const socket = zmq_socket(shared.zmq, ZMQ_PAIR);
    zmq_bind(socket, "inproc://planted");
    pthread_t sender;
    pthread_create(&sender, NULL, send_all, &shared);
    for (int i = 0; i < ROUNDS; i++) {
        int number = 0;
        count_one(&shared);
        zmq_recv(socket, &number, sizeof number, 0);
    }
    pthread_join(sender, NULL);
    zmq_close(socket);
    zmq_ctx_term(shared.zmq);
    printf("%s\n", shared.counted > 0 ? "done" : "nothing happened");
    return 0;
}
