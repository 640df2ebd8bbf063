/*
 * What moving bytes under CURVE and digesting them cost by themselves on this machine, with nothing of Weir around it.
 *
 *     bulk_floor MIB      prints {"curve_gbps": ..., "curve_cpu_s_per_gb": ..., "blake2b_cpu_s_per_gb": ...}
 *
 * CURVE: another process asks over a DEALER for messages of 1 MiB, eight of them unanswered at a time, and a ROUTER here
 * answers, over TCP on 127.0.0.1; the processor time is that of both processes. BLAKE2b: BLAKE2b-256 of 1 MiB pieces.
 */
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { PIECE_BYTES = 1 << 20, WINDOW = 8, KEY_BYTES = 32 };

struct keys {
    char public_text[41], secret_text[41];
};

static double now_s(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double cpu_s(int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "bulk_floor: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

static int receive(const char *endpoint, const struct keys *server, const struct keys *own, long mib)
{
    void *zmq = zmq_ctx_new(), *dealer = zmq_socket(zmq, ZMQ_DEALER);
    must(zmq_setsockopt(dealer, ZMQ_CURVE_SERVERKEY, server->public_text, 41) == 0, "server key");
    must(zmq_setsockopt(dealer, ZMQ_CURVE_PUBLICKEY, own->public_text, 41) == 0, "public key");
    must(zmq_setsockopt(dealer, ZMQ_CURVE_SECRETKEY, own->secret_text, 41) == 0, "secret key");
    must(zmq_connect(dealer, endpoint) == 0, "connect");
    long asked = 0;
    for (long got = 0; got < mib; got++) {
        while (asked < mib && asked - got < WINDOW) {
            must(zmq_send(dealer, "?", 1, 0) == 1, "ask");
            asked++;
        }
        zmq_msg_t message;
        zmq_msg_init(&message);
        must(zmq_msg_recv(&message, dealer, 0) == PIECE_BYTES, "receive");
        zmq_msg_close(&message);
    }
    zmq_close(dealer);
    zmq_ctx_term(zmq);
    return 0;
}

static void keep(void *data, void *hint)
{
    (void)data;
    (void)hint;
}

int main(int argc, char **argv)
{
    const long mib = argc > 1 ? atol(argv[1]) : 1024;
    must(mib > 0 && sodium_init() >= 0, "usage: bulk_floor MIB");
    struct keys server, client;
    must(zmq_curve_keypair(server.public_text, server.secret_text) == 0, "keys");
    must(zmq_curve_keypair(client.public_text, client.secret_text) == 0, "keys");
    int ends[2];
    must(pipe(ends) == 0, "pipe");
    const pid_t child = fork();
    if (child == 0) {
        char endpoint[256] = "";
        if (read(ends[0], endpoint, sizeof endpoint - 1) <= 0)
            _exit(1);
        _exit(receive(endpoint, &server, &client, mib));
    }
    void *zmq = zmq_ctx_new(), *router = zmq_socket(zmq, ZMQ_ROUTER);
    const int yes = 1;
    char endpoint[256];
    size_t endpoint_bytes = sizeof endpoint;
    must(zmq_setsockopt(router, ZMQ_CURVE_SERVER, &yes, sizeof yes) == 0, "server");
    must(zmq_setsockopt(router, ZMQ_CURVE_SECRETKEY, server.secret_text, 41) == 0, "secret key");
    must(zmq_bind(router, "tcp://127.0.0.1:*") == 0, "bind");
    must(zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &endpoint_bytes) == 0, "endpoint");
    unsigned char *piece = malloc(PIECE_BYTES);
    randombytes_buf(piece, PIECE_BYTES);
    const double cpu_before_s = cpu_s(RUSAGE_SELF), before_s = now_s(CLOCK_MONOTONIC);
    must(write(ends[1], endpoint, endpoint_bytes) == (ssize_t)endpoint_bytes, "tell");
    for (long sent = 0; sent < mib; sent++) {
        zmq_msg_t route, ask, answer;
        zmq_msg_init(&route);
        zmq_msg_init(&ask);
        must(zmq_msg_recv(&route, router, 0) >= 0 && zmq_msg_recv(&ask, router, 0) == 1, "request");
        must(zmq_msg_init_data(&answer, piece, PIECE_BYTES, keep, NULL) == 0, "answer");
        must(zmq_msg_send(&route, router, ZMQ_SNDMORE) >= 0 && zmq_msg_send(&answer, router, 0) >= 0, "send");
        zmq_msg_close(&ask);
    }
    int status;
    must(waitpid(child, &status, 0) == child && status == 0, "the receiver failed");
    const double gb = (double)mib * PIECE_BYTES / 1e9;
    const double curve_s = now_s(CLOCK_MONOTONIC) - before_s;
    const double curve_cpu_s = cpu_s(RUSAGE_SELF) - cpu_before_s + cpu_s(RUSAGE_CHILDREN);
    const double digest_before_s = now_s(CLOCK_THREAD_CPUTIME_ID);
    unsigned char digest[KEY_BYTES];
    for (long i = 0; i < mib; i++) {
        piece[0] = (unsigned char)i;
        crypto_generichash(digest, sizeof digest, piece, PIECE_BYTES, NULL, 0);
    }
    const double digest_s = now_s(CLOCK_THREAD_CPUTIME_ID) - digest_before_s;
    printf("{\"curve_gbps\": %.3f, \"curve_cpu_s_per_gb\": %.3f, \"blake2b_cpu_s_per_gb\": %.3f}\n",
           8 * gb / curve_s, curve_cpu_s / gb, digest_s / gb);
    return 0;
}
