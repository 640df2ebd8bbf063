/* Runs the escape suite: escape_test [--unprivileged] [PART OF A NAME]. Root's sandbox is made by other means than
 * that of others, so both are to be tried: --unprivileged runs as nobody. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/escape/escape.h"

#define NOBODY 65534
#define OUT_FD 3
#define WORLD_FD 4
#define PATIENCE_MS 60000 /* under load; what is held ends far earlier */
#define ENDLESS_MS 2000   /* what is not held is ended after this, or twice what holding it took */
#define TMP_BYTES (64u << 20)
#define COMPILER "/usr/bin/g++"

extern char **environ;
static char self_path[4096];
static struct escape_world world;
static const char secret[] = ESCAPE_SECRET;

/* ---- Inside */

static bool tell(const void *bytes, size_t count)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    return sendmsg(OUT_FD, &(struct msghdr){.msg_iov = &part, .msg_iovlen = 1}, 0) == (ssize_t)count;
}

static bool holds_secret(const char *path)
{
    static char bytes[1u << 20];
    const int file = open(path, O_RDONLY);
    const ssize_t count = file >= 0 ? read(file, bytes, sizeof bytes) : -1;
    return count > 0 && memmem(bytes, (size_t)count, secret, strlen(secret));
}

/* As a program that compiles for others does it: source to /tmp, compiler, result from /tmp. */
static bool compile(const struct escape_case *escape, const struct escape_world *outside)
{
    char folder[] = "/tmp/weir-escape-XXXXXX", source[64], object[64], text[64];
    if (!mkdtemp(folder))
        return false;
    snprintf(source, sizeof source, "%s/a.cc", folder);
    snprintf(object, sizeof object, "%s/a.o", folder);
    snprintf(text, sizeof text, "%s/text", folder);
    FILE *file = fopen(source, "w");
    const char *mark = strstr(escape->source, "@SECRET@");
    if (mark)
        fprintf(file, "%.*s%s%s", (int)(mark - escape->source), escape->source, outside->secret_path,
                mark + strlen("@SECRET@"));
    else
        fputs(escape->source, file);
    fclose(file);
    const pid_t compiler = fork();
    if (compiler == 0) {
        const int to = open(text, O_CREAT | O_WRONLY, 0600);
        dup2(to, 1);
        dup2(to, 2);
        execl(COMPILER, "g++", "-std=c++17", "-c", source, "-o", object, NULL);
        _exit(127);
    }
    int status = 1;
    while (waitpid(compiler, &status, 0) < 0 && errno == EINTR)
        ;
    const bool done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const bool out = mark ? holds_secret(object) || holds_secret(text) : done;
    unlink(source);
    unlink(object);
    unlink(text);
    rmdir(folder);
    return out;
}

static int inmate(char **argv)
{
    static const char *const compilers[] = {"/usr", "/lib", "/lib64", "/bin", NULL};
    static const char *const devices[] = {"/dev/null", NULL};
    const bool compiles = strcmp(argv[2], "compile") == 0;
    const struct escape_case *escape = &(compiles ? escape_compile_cases : escape_run_cases)[atoi(argv[3])];
    const uint32_t off = (uint32_t)strtoul(argv[4], NULL, 10);
    const bool limits = strcmp(argv[5], "limits") == 0;
    struct escape_world outside;
    if (pread(WORLD_FD, &outside, sizeof outside, 0) != sizeof outside)
        return 3;
    close(WORLD_FD);
    const struct sandbox_profile profile = {.kind = compiles ? SANDBOX_COMPILE : escape->kind,
                                            .readable = compiles ? compilers : NULL,
                                            .devices =
                                                escape->kind == SANDBOX_CPU && !compiles ? NULL : devices,
                                            .tmp_bytes = compiles ? TMP_BYTES : 0,
                                            .memory_bytes = ESCAPE_MEMORY_BYTES,
                                            .processes = ESCAPE_PROCESSES,
                                            .file_bytes = limits && escape->file_bytes ? escape->file_bytes
                                                          : compiles                   ? TMP_BYTES
                                                                                       : 0,
                                            .cpu_seconds = limits ? escape->cpu_seconds : 0,
                                            .off = off};
    struct sandbox_report report;
    sandbox_enter(&profile, &report);
    if (!tell(&report, sizeof report))
        return 3;
    const bool out = compiles ? compile(escape, &outside) : escape->attack(&outside);
    tell(out ? "E" : "H", 1);
    return 0;
}

/* ---- Outside */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct verdict {
    bool escaped, entered;
    int64_t ms;
    struct sandbox_report report;
};

/* Waits for the inmate's word or end. What goes on for longer than `patience_ms` got away. */
static void await(int socket, int64_t patience_ms, struct verdict *verdict)
{
    const int64_t began_ms = now_ms();
    struct sandbox_report entered;
    char word;
    if (recv(socket, &entered, sizeof entered, 0) == sizeof entered) {
        verdict->entered = true;
        sandbox_merge(&verdict->report, &entered);
        struct pollfd wait = {.fd = socket, .events = POLLIN};
        const int ready = poll(&wait, 1, (int)patience_ms);
        verdict->escaped = ready == 0 || (recv(socket, &word, 1, 0) == 1 && word == 'E');
    }
    verdict->ms = now_ms() - began_ms;
}

static struct verdict run(const struct escape_case *escape, uint32_t off, bool limits, int64_t patience_ms)
{
    char number[16], off_text[16];
    const struct escape_case *first = escape->source ? escape_compile_cases : escape_run_cases;
    snprintf(number, sizeof number, "%d", (int)(escape - first));
    snprintf(off_text, sizeof off_text, "%u", off);
    char *argv[] = {"escape_test", "inmate", escape->source ? "compile" : "run",
                    number,        off_text, limits ? "limits" : "free",
                    NULL};
    FILE *file = tmpfile();
    int sockets[2];
    assert_non_null(file);
    assert_int_equal(fwrite(&world, sizeof world, 1, file), 1);
    fflush(file);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    const int fds[] = {sockets[1], fileno(file)};
    const struct sandbox_spawn spawn = {.path = self_path,
                                        .argv = argv,
                                        .envp = environ,
                                        .fds = fds,
                                        .fd_count = 2,
                                        .memory_bytes = ESCAPE_MEMORY_BYTES,
                                        .processes = ESCAPE_PROCESSES,
                                        .off = off};
    struct sandbox_process process;
    struct verdict verdict = {0};
    assert_true(sandbox_spawn(&process, &spawn, &verdict.report));
    close(sockets[1]);
    await(sockets[0], patience_ms, &verdict);
    kill(process.pid, SIGKILL); /* its children go with it */
    siginfo_t ended;
    waitid(P_PIDFD, (id_t)process.pidfd, &ended, WEXITED);
    close(sockets[0]);
    fclose(file);
    sandbox_reaped(&process);
    return verdict;
}

/* Of the layers of a case, those that this machine has. */
static uint32_t layers_here(const struct escape_case *escape, const struct sandbox_report *report)
{
    uint32_t layers = 0;
    for (int i = 0; i < SANDBOX_LAYERS; i++)
        if (escape->layers & 1u << i && report->layers[i].on)
            layers |= 1u << i;
    int abi = 0;
    sscanf(report->layers[SANDBOX_LANDLOCK].detail, "ABI %d", &abi);
    if (abi < escape->landlock_abi)
        layers &= ~(1u << SANDBOX_LANDLOCK);
    if (escape->cgroup && !strstr(report->layers[SANDBOX_MEMORY].detail, "cgroup"))
        layers &= ~(1u << SANDBOX_MEMORY);
    return layers;
}

static void an_attack_is_held_by_each_layer_and_by_nothing_else(void **state)
{
    const struct escape_case *escape = *state;
    if (escape->source && access(COMPILER, X_OK) != 0)
        skip();
    const struct verdict all = run(escape, 0, true, PATIENCE_MS);
    assert_true(all.entered);
    if (all.escaped)
        fail_msg("%s: got out with every layer on", escape->name);
    /* Where layers are missing for want of privileges, those fail an attack too: it shows nothing. And without a PID
     * namespace a compiler could not be ended with all its passes. */
    const bool by_chance = escape->by_chance || !sandbox_full(&all.report);
    if (escape->source && !all.report.layers[SANDBOX_PID].on)
        skip();
    if (!escape->layers) {
        const int64_t patience_ms = 2 * all.ms > ENDLESS_MS ? 2 * all.ms : ENDLESS_MS;
        if (!run(escape, 0, false, patience_ms).escaped)
            fail_msg("%s: does not get out without the limit, so it proves nothing", escape->name);
        return;
    }
    const uint32_t layers = layers_here(escape, &all.report), off = escape->layers | escape->besides;
    const bool free_escapes = run(escape, off, true, PATIENCE_MS).escaped;
    if (!free_escapes && by_chance)
        skip();
    if (!free_escapes)
        fail_msg("%s: does not get out without its layers, so it proves nothing", escape->name);
    if (!layers) /* this machine has none of them: nothing to be proven but that it is reported */
        skip();
    for (int i = 0; i < SANDBOX_LAYERS; i++) {
        if (!(layers & 1u << i))
            continue;
        const struct verdict alone = run(escape, off & ~(1u << i), true, PATIENCE_MS);
        /* A layer may need one of those left out: who isn't root has a PID namespace by a user namespace only. */
        if (alone.report.layers[i].on && alone.escaped)
            fail_msg("%s: layer %s alone does not hold it", escape->name,
                     sandbox_layer_name((enum sandbox_layer)i));
    }
}

/* ---- The world */

static char folder[] = "/var/tmp/weir-escape-XXXXXX";
static int listeners[2] = {-1, -1}, segment = -1;

static void make_files(void)
{
    assert_non_null(mkdtemp(folder));
    chmod(folder, 0755);
    snprintf(world.secret_path, sizeof world.secret_path, "%s/secret", folder);
    snprintf(world.writable_folder, sizeof world.writable_folder, "%s/open", folder);
    FILE *file = fopen(world.secret_path, "w");
    assert_non_null(file);
    fputs(secret, file);
    fclose(file);
    chmod(world.secret_path, 0644);
    assert_int_equal(mkdir(world.writable_folder, 0777), 0);
    chmod(world.writable_folder, 0777);
}

static void listen_to_all(void)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof tcp;
    listeners[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listeners[0], (struct sockaddr *)&tcp, bytes), 0);
    assert_int_equal(listen(listeners[0], 64), 0);
    getsockname(listeners[0], (struct sockaddr *)&tcp, &bytes);
    world.tcp_port = ntohs(tcp.sin_port);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(world.unix_name, sizeof world.unix_name, "weir-escape-%d", getpid());
    strcpy(name.sun_path + 1, world.unix_name);
    bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(world.unix_name));
    listeners[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listeners[1], (struct sockaddr *)&name, bytes), 0);
    assert_int_equal(listen(listeners[1], 64), 0);
}

static int make_world(void **state)
{
    (void)state;
    make_files();
    listen_to_all();
    world.outside_pid = getpid();
    world.secret_address = (uint64_t)(uintptr_t)secret;
    world.shared_key = 0x77000000 | (getpid() & 0xffffff);
    segment = shmget(world.shared_key, 4096, IPC_CREAT | IPC_EXCL | 0644);
    char *text = segment >= 0 ? shmat(segment, NULL, 0) : (void *)-1;
    assert_true(text != (void *)-1);
    strcpy(text, secret);
    shmdt(text);
    return 0;
}

static int end_world(void **state)
{
    char path[300];
    (void)state;
    snprintf(path, sizeof path, "%s/left-by-the-inmate", world.writable_folder);
    unlink(path);
    rmdir(world.writable_folder);
    unlink(world.secret_path);
    rmdir(folder);
    shmctl(segment, IPC_RMID, NULL);
    close(listeners[0]);
    close(listeners[1]);
    return 0;
}

static size_t add_cases(struct CMUnitTest *tests, const struct escape_case *cases, unsigned count,
                        const char *part)
{
    size_t added = 0;
    for (unsigned i = 0; i < count; i++)
        if (!part || strstr(cases[i].name, part))
            tests[added++] =
                (struct CMUnitTest){.name = cases[i].name,
                                    .test_func = an_attack_is_held_by_each_layer_and_by_nothing_else,
                                    .initial_state = (void *)(uintptr_t)&cases[i]};
    return added;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "inmate") == 0)
        return inmate(argv);
    const ssize_t got = readlink("/proc/self/exe", self_path, sizeof self_path - 1);
    self_path[got > 0 ? got : 0] = '\0';
    if (argc > 1 && strcmp(argv[1], "--unprivileged") == 0) {
        const bool changed = geteuid() == 0 && setgroups(0, NULL) == 0 &&
                             setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0;
        argv[1] = argv[0];
        if (changed) /* or it may not even see this program: then there is nothing to be tried */
            execv(self_path, argv + 1);
        return 77;
    }
    struct CMUnitTest tests[64];
    const char *part = argc > 1 ? argv[1] : NULL;
    size_t count = add_cases(tests, escape_run_cases, escape_run_count, part);
    count += add_cases(tests + count, escape_compile_cases, escape_compile_count, part);
    return _cmocka_run_group_tests("escape", tests, count, make_world, end_world);
}
