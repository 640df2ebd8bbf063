/* The sandbox's two halves and their report; what it holds off is the matter of tests/escape. The test is its
 * own inmate: with an argument it enters a profile and sends the report. */
#include "kernels/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define OUT_FD 3

extern char **environ;
static char self_path[4096];

static _Noreturn void inmate(char **argv)
{
    const char *const readable[] = {"/usr", "/lib", "/lib64", "/nowhere", NULL};
    const struct sandbox_profile profile = {.kind = (enum sandbox_kind)atoi(argv[2]),
                                            .off = (uint32_t)atoi(argv[3]),
                                            .readable = atoi(argv[2]) == SANDBOX_COMPILE ? readable : NULL,
                                            .memory_bytes = 1u << 30,
                                            .processes = 16};
    struct sandbox_report report;
    sandbox_enter(&profile, &report);
    struct iovec part = {.iov_base = &report, .iov_len = sizeof report};
    const bool sent =
        sendmsg(OUT_FD, &(struct msghdr){.msg_iov = &part, .msg_iovlen = 1}, 0) == sizeof report;
    _exit(sent ? 0 : 1); /* a sanitizer's last look at the heap would find no /proc */
}

static struct sandbox_report report_of(enum sandbox_kind kind, uint32_t off)
{
    char kind_text[16], off_text[16];
    snprintf(kind_text, sizeof kind_text, "%d", kind);
    snprintf(off_text, sizeof off_text, "%u", off);
    char *argv[] = {"sandbox_test", "inmate", kind_text, off_text, NULL};
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    const struct sandbox_spawn spawn = {.path = self_path,
                                        .argv = argv,
                                        .envp = environ,
                                        .fds = &sockets[1],
                                        .fd_count = 1,
                                        .memory_bytes = 1u << 30,
                                        .processes = 16,
                                        .off = off};
    struct sandbox_process process;
    struct sandbox_report report, entered;
    assert_true(sandbox_spawn(&process, &spawn, &report));
    close(sockets[1]);
    assert_int_equal(recv(sockets[0], &entered, sizeof entered, 0), sizeof entered);
    close(sockets[0]);
    siginfo_t ended = {0};
    assert_int_equal(waitid(P_PIDFD, (id_t)process.pidfd, &ended, WEXITED), 0);
    assert_int_equal(ended.si_code, CLD_EXITED);
    assert_int_equal(ended.si_status, 0);
    for (int i = 0; i < 2; i++)
        assert_true(!process.cgroups[i][0] || access(process.cgroups[i], F_OK) == 0);
    char cgroup[SANDBOX_CGROUP_BYTES];
    memcpy(cgroup, process.cgroups[0], sizeof cgroup);
    sandbox_reaped(&process);
    assert_true(!cgroup[0] || access(cgroup, F_OK) != 0); /* removed */
    sandbox_merge(&report, &entered);
    return report;
}

/* What this machine has at its best: where a layer isn't there, its tests have nothing to say. */
static bool machine_has(enum sandbox_layer layer)
{
    static struct sandbox_report best;
    static bool known;
    if (!known)
        best = report_of(SANDBOX_COMPILE, 0);
    known = true;
    return best.layers[layer].on;
}

static void every_profile_has_all_layers_of_this_machine(void **state)
{
    (void)state;
    for (int kind = SANDBOX_CPU; kind <= SANDBOX_COMPILE; kind++) {
        const struct sandbox_report report = report_of((enum sandbox_kind)kind, 0);
        for (int layer = 0; layer < SANDBOX_LAYERS; layer++) {
            assert_int_equal(report.layers[layer].on, machine_has((enum sandbox_layer)layer));
            if (!report.layers[layer].on)
                assert_true(report.layers[layer].detail[0]); /* a reason */
        }
    }
}

static void a_layer_left_out_is_off_and_the_others_stay(void **state)
{
    (void)state;
    for (int left_out = 0; left_out < SANDBOX_LAYERS; left_out++) {
        const struct sandbox_report report = report_of(SANDBOX_CPU, 1u << left_out);
        assert_false(report.layers[left_out].on);
        assert_string_equal(report.layers[left_out].detail, "left out");
        assert_int_equal(sandbox_full(&report), false);
        for (int layer = 0; layer < SANDBOX_LAYERS; layer++) {
            const bool follows = (left_out == SANDBOX_MOUNT && layer == SANDBOX_DEV) ||
                                 (left_out == SANDBOX_USER && getuid() != 0);
            if (layer != left_out && !follows)
                assert_int_equal(report.layers[layer].on, machine_has((enum sandbox_layer)layer));
        }
    }
}

static void a_program_that_cannot_start_is_told_at_once(void **state)
{
    (void)state;
    char *argv[] = {"x", NULL};
    int fds[SANDBOX_FDS_MAX + 1] = {0};
    struct sandbox_process process;
    struct sandbox_report report;
    struct sandbox_spawn spawn = {.path = "/nowhere/program", .argv = argv, .envp = environ};
    assert_false(sandbox_spawn(&process, &spawn, &report));
    assert_int_equal(errno, ENOENT);
    sandbox_reaped(&process);
    spawn.path = "/etc/passwd";
    assert_false(sandbox_spawn(&process, &spawn, &report));
    assert_int_equal(errno, EACCES);
    spawn = (struct sandbox_spawn){
        .path = self_path, .argv = argv, .envp = environ, .fds = fds, .fd_count = SANDBOX_FDS_MAX + 1};
    assert_false(sandbox_spawn(&process, &spawn, &report));
    assert_int_equal(errno, E2BIG);
}

static void a_report_is_full_only_with_every_layer(void **state)
{
    (void)state;
    struct sandbox_report all = {0}, entered = {0};
    assert_int_equal(sandbox_missing(&all), SANDBOX_USER);
    for (int layer = 0; layer < SANDBOX_LAYERS; layer++) {
        assert_true(strlen(sandbox_layer_name((enum sandbox_layer)layer)) > 1);
        assert_true(strlen(sandbox_layer_help((enum sandbox_layer)layer)) > 1);
        assert_true(strlen(sandbox_layer_fix((enum sandbox_layer)layer)) > 1);
        (layer <= SANDBOX_PID ? &all : &entered)->layers[layer].on = true;
    }
    assert_int_equal(sandbox_missing(&all), SANDBOX_MEMORY);
    /* The worker's half is another process's word: it may not be a string, and speaks for its layers only. */
    memset(entered.layers[SANDBOX_NET].detail, 'x', SANDBOX_DETAIL_BYTES);
    entered.layers[SANDBOX_USER].on = false;
    sandbox_merge(&all, &entered);
    assert_true(sandbox_full(&all));
    assert_int_equal(strlen(all.layers[SANDBOX_NET].detail), SANDBOX_DETAIL_BYTES - 1);
    assert_string_equal(sandbox_layer_name(SANDBOX_LAYERS), "?");
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "inmate") == 0)
        inmate(argv);
    const ssize_t got = readlink("/proc/self/exe", self_path, sizeof self_path - 1);
    self_path[got > 0 ? got : 0] = '\0';
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_profile_has_all_layers_of_this_machine),
        cmocka_unit_test(a_layer_left_out_is_off_and_the_others_stay),
        cmocka_unit_test(a_program_that_cannot_start_is_told_at_once),
        cmocka_unit_test(a_report_is_full_only_with_every_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
