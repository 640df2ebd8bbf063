/*
 * The control transport between two processes on 127.0.0.1: 200-byte frames per second one way, and the round
 * trip.
 *
 *     transport_bench [frames]
 */
#include "../unit/transport_fixture.h"

#include <signal.h>
#include <sys/wait.h>

#define PAYLOAD_BYTES 200
#define ROUND_TRIPS 2000
#define WINDOW_FRAMES 8192 /* in flight; acknowledged by an echo of each window's last frame */

struct blast {
    struct mesh_id to;
    uint32_t count;
};

static void call_blast(struct node *node, void *argument)
{
    const struct blast *blast = argument;
    static uint8_t payload[PAYLOAD_BYTES];
    static struct wire_frame frame = {.kind = WIRE_PUSH};
    frame.body.mesh.message.kind = MESH_PUSH;
    frame.body.mesh.payload = (struct wire_bytes){payload, sizeof payload};
    for (uint32_t i = 0; i < blast->count; i++)
        transport_send(node->transport, &blast->to, &frame);
    struct wire_frame ping = {.kind = WIRE_PING};
    ping.body.mesh.message.kind = MESH_PING;
    transport_send(node->transport, &blast->to, &ping);
}

/* The other process: answers PINGs only. */
static void echo_pings(void *context, const struct mesh_id *peer, const struct wire_frame *frame)
{
    struct node *node = context;
    if (frame->kind == WIRE_PING)
        transport_send(node->transport, peer, frame);
}

static int compare(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a;
    const int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void wait_messages(const struct node *node, uint32_t count)
{
    while (node->messages < count)
        usleep(20);
}

int main(int argc, char **argv)
{
    const uint32_t frames = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1000000;
    if (crypto_init() != CRYPTO_OK)
        return 1;
    static struct node a, b;
    struct mesh_id id[2];
    struct curve_public curve[2];
    struct curve_secret secret[2];
    for (int i = 0; i < 2; i++) {
        randombytes_buf(&id[i], sizeof id[i]);
        curve_pair_create(&curve[i], &secret[i]);
    }
    const char *address[2] = {"127.0.0.1:47651", "127.0.0.1:47652"};
    const pid_t child = fork();
    const int self = child == 0;
    struct node *node = self ? &b : &a;
    struct transport_failure failure;
    fixture_prepare(node);
    node->id = id[self];
    node->curve = curve[self];
    node->curve_secret = secret[self];
    const struct transport_options options = {.zmq = node->zmq,
                                              .loop = node->loop,
                                              .admission = node->admission,
                                              .zap = node->zap,
                                              .bind = address[self],
                                              .bind_setting = "bind",
                                              .curve = node->curve,
                                              .curve_secret = node->curve_secret,
                                              .self = node->id,
                                              .on_message = self ? echo_pings : node_on_message,
                                              .on_link_up = node_on_link_up,
                                              .on_link_down = node_on_link_down,
                                              .on_hello = node_on_hello,
                                              .context = node};
    if (transport_open(&options, &failure, &node->transport)) {
        fprintf(stderr, "%s\n", failure.text);
        return 1;
    }
    admission_admit(node->admission, &curve[!self], &id[!self], FIXTURE_FAR_FUTURE_S);
    transport_peer_set(node->transport, &id[!self], &curve[!self], address[!self]);
    transport_keep(node->transport, &id[!self], true);
    if (self) {
        loop_run(node->loop);
        return 0;
    }
    fixture_start(node);
    while (node->ups == 0)
        usleep(1000);
    usleep(300000);
    struct blast blast = {id[1], WINDOW_FRAMES};
    const int64_t begun_us = clock_now_us();
    uint32_t windows = 0;
    for (uint32_t sent = 0; sent < frames; sent += WINDOW_FRAMES) {
        if (windows > 1)
            wait_messages(node, windows - 1);
        fixture_call(node, call_blast, &blast);
        windows++;
    }
    wait_messages(node, windows);
    const double seconds = (double)(clock_now_us() - begun_us) / 1e6;
    const struct transport_counters counters = fixture_counters(node);
    printf("one way: %.0f frames/s of %d B (%.1f MB/s), %.0f frames a message, %llu dropped\n",
           (double)(windows * (uint64_t)WINDOW_FRAMES) / seconds, PAYLOAD_BYTES,
           (double)counters.bytes_sent / seconds / 1e6,
           (double)counters.frames_sent / (double)counters.messages_sent,
           (unsigned long long)counters.dropped_queue_full);
    static int64_t took_us[ROUND_TRIPS];
    blast.count = 1;
    for (uint32_t i = 0; i < ROUND_TRIPS; i++) {
        const int64_t sent_us = clock_now_us();
        fixture_call(node, call_blast, &blast);
        while (node->messages < windows + i + 1)
            ;
        took_us[i] = clock_now_us() - sent_us;
    }
    qsort(took_us, ROUND_TRIPS, sizeof took_us[0], compare);
    printf("round trip: p50 %lld us, p99 %lld us\n", (long long)took_us[ROUND_TRIPS / 2],
           (long long)took_us[ROUND_TRIPS * 99 / 100]);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    fixture_close(node);
    return 0;
}
