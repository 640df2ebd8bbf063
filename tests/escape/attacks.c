/* The attacks of a CPU kernel, as a stranger would write them: system calls, no courtesy. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/escape/escape.h"

#define L(layer) (1u << SANDBOX_##layer)
#define BOMB_PROCESSES 64
#define BOMB_BYTES (3ull * ESCAPE_MEMORY_BYTES)

/* ---- Files */

static bool read_a_file(const struct escape_world *world)
{
    char text[sizeof ESCAPE_SECRET] = "";
    const int file = open(world->secret_path, O_RDONLY);
    return file >= 0 && read(file, text, sizeof text - 1) > 0 && strcmp(text, ESCAPE_SECRET) == 0;
}

static bool write_a_file(const struct escape_world *world)
{
    char path[256];
    snprintf(path, sizeof path, "%s/left-by-the-inmate", world->writable_folder);
    return open(path, O_CREAT | O_WRONLY, 0644) >= 0;
}

static bool list_a_folder(const struct escape_world *world)
{
    char entries[4096];
    const int folder = open(world->writable_folder, O_RDONLY | O_DIRECTORY);
    return folder >= 0 && syscall(SYS_getdents64, folder, entries, sizeof entries) > 0;
}

static bool open_a_device(const struct escape_world *world)
{
    (void)world;
    return open("/dev/zero", O_RDWR) >= 0;
}

static bool start_a_program(const struct escape_world *world)
{
    /* What it says on descriptor 3 counts as an escape (escape_test.c). */
    char *const arguments[] = {"sh", "-c", "echo E >&3", NULL};
    (void)world;
    execv("/bin/sh", arguments);
    return false;
}

/* ---- Network and IPC */

static bool connect_by_tcp(const struct escape_world *world)
{
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)world->tcp_port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return connection >= 0 && connect(connection, (const struct sockaddr *)&to, sizeof to) == 0;
}

static bool connect_by_name(const struct escape_world *world)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(to.sun_path + 1, world->unix_name);
    const socklen_t bytes =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(world->unix_name));
    return connection >= 0 && connect(connection, (const struct sockaddr *)&to, bytes) == 0;
}

static bool read_shared_memory(const struct escape_world *world)
{
    const int segment = shmget(world->shared_key, 0, 0444);
    const char *text = segment >= 0 ? shmat(segment, NULL, SHM_RDONLY) : (void *)-1;
    return text != (void *)-1 && strcmp(text, ESCAPE_SECRET) == 0;
}

/* ---- Other processes */

static bool signal_the_outside(const struct escape_world *world)
{
    return kill(world->outside_pid, SIGURG) == 0; /* ignored there by default */
}

static bool read_anothers_memory(const struct escape_world *world)
{
    char text[sizeof ESCAPE_SECRET] = "";
    const struct iovec here = {.iov_base = text, .iov_len = sizeof text - 1};
    const struct iovec there = {.iov_base = (void *)(uintptr_t)world->secret_address,
                                .iov_len = sizeof text - 1};
    return process_vm_readv(world->outside_pid, &here, 1, &there, 1, 0) > 0 &&
           strcmp(text, ESCAPE_SECRET) == 0;
}

static bool trace_another(const struct escape_world *world)
{
    return ptrace(PTRACE_SEIZE, world->outside_pid, NULL, NULL) == 0;
}

/* ---- Bombs: bounded, so that the machine lives where the layer is left out */

static bool fork_bomb(const struct escape_world *world)
{
    const pid_t parent = getpid();
    (void)world;
    for (int i = 0; i < BOMB_PROCESSES; i++) {
        const pid_t child = fork();
        if (child < 0)
            return false;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (getppid() == parent) /* it may have died before */
                pause();
            _exit(0);
        }
    }
    return true;
}

static bool fill(uint8_t *memory, uint64_t bytes)
{
    if (memory == MAP_FAILED)
        return false;
    for (uint64_t at = 0; at < bytes; at += 4096)
        ((volatile uint8_t *)memory)[at] = 1;
    return true;
}

static bool memory_bomb(const struct escape_world *world)
{
    (void)world;
    return fill(mmap(NULL, BOMB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                BOMB_BYTES);
}

/* RLIMIT_DATA does not count such memory; the filter knows. */
static bool shared_memory_bomb(const struct escape_world *world)
{
    (void)world;
    return fill(mmap(NULL, BOMB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                BOMB_BYTES);
}

static bool brk_bomb(const struct escape_world *world)
{
    (void)world;
    uint8_t *memory = sbrk((intptr_t)BOMB_BYTES);
    return memory != (void *)-1 && fill(memory, BOMB_BYTES);
}

/* Ends only by being ended; the outside calls three seconds of it an escape. */
static bool endless_loop(const struct escape_world *world)
{
    (void)world;
    volatile bool on = true;
    while (on)
        ;
    return false;
}

/* ---- Taking the program over */

static const struct escape_world *smash_world;

__attribute__((force_align_arg_pointer)) static void landed(void)
{
    if (read_a_file(smash_world)) {
        struct iovec part = {.iov_base = "E", .iov_len = 1};
        sendmsg(3, &(struct msghdr){.msg_iov = &part, .msg_iovlen = 1}, 0);
    }
    _exit(0);
}

/* Writes over its frame, so that it returns to where the attacker wants. */
__attribute__((noinline, no_stack_protector)) static void smash(void)
{
    volatile uintptr_t *frame = __builtin_frame_address(0);
    for (int i = 0; i < 2; i++)
        frame[i] = (uintptr_t)landed;
}

static bool smash_the_stack(const struct escape_world *world)
{
    smash_world = world;
    smash();
    return false;
}

/* ---- Privileges and system calls */

static bool mount_something(const struct escape_world *world)
{
    (void)world;
    return mount("tmpfs", "/", "tmpfs", 0, "size=4k") == 0;
}

static bool make_a_namespace(const struct escape_world *world)
{
    (void)world;
    return syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */) == 0;
}

static bool call_userfaultfd(const struct escape_world *world)
{
    (void)world;
    return syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */) >= 0;
}

static bool call_io_uring(const struct escape_world *world)
{
    uint8_t params[120] = {0};
    (void)world;
    return syscall(SYS_io_uring_setup, 1, params) >= 0;
}

static bool call_perf(const struct escape_world *world)
{
    struct {
        uint32_t type, size;
        uint64_t config, rest[14];
    } event = {.type = 1 /* software */, .size = sizeof event, .rest = {[4] = 0x60 /* user only */}};
    (void)world;
    return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0) >= 0;
}

static bool call_bpf(const struct escape_world *world)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    (void)world;
    return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map) >= 0;
}

static bool ask_to_be_traced(const struct escape_world *world)
{
    (void)world;
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}

static bool make_a_socket_pair(const struct escape_world *world)
{
    int pair[2];
    (void)world;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0;
}

#define FILES (L(MOUNT) | L(LANDLOCK) | L(SECCOMP))
#define PROCESSES (L(PID) | L(USER) | L(SECCOMP))
/* Without its privileges root may not look into a process that has them, whatever the other layers do. */
#define ROOT L(PRIVILEGES)

const struct escape_case escape_run_cases[] = {
    {.name = "read a file", .attack = read_a_file, .layers = FILES},
    {.name = "write a file", .attack = write_a_file, .layers = FILES},
    {.name = "list a folder", .attack = list_a_folder, .layers = FILES},
    {.name = "open a device", .attack = open_a_device, .layers = L(DEV) | L(LANDLOCK) | L(SECCOMP)},
    {.name = "start a program", .attack = start_a_program, .layers = FILES},
    {.name = "stack smashing", .attack = smash_the_stack, .layers = FILES},
    {.name = "connect by TCP",
     .attack = connect_by_tcp,
     .layers = L(NET) | L(LANDLOCK) | L(SECCOMP),
     .landlock_abi = 4},
    {.name = "connect by name",
     .attack = connect_by_name,
     .layers = L(NET) | L(LANDLOCK) | L(SECCOMP),
     .landlock_abi = 6},
    {.name = "a socket pair of its own", .attack = make_a_socket_pair, .layers = L(SECCOMP)},
    {.name = "read shared memory", .attack = read_shared_memory, .layers = L(IPC) | L(SECCOMP)},
    {.name = "signal another process",
     .attack = signal_the_outside,
     .layers = L(PID) | L(LANDLOCK) | L(SECCOMP),
     .besides = L(USER) | ROOT,
     .landlock_abi = 6},
    {.name = "read another tenant's memory",
     .attack = read_anothers_memory,
     .layers = PROCESSES,
     .besides = ROOT | L(LANDLOCK)},
    {.name = "trace another tenant's process",
     .attack = trace_another,
     .layers = PROCESSES,
     .besides = ROOT | L(LANDLOCK)},
    {.name = "fork bomb", .attack = fork_bomb, .layers = L(PROCESSES) | L(SECCOMP)},
    {.name = "memory bomb", .attack = memory_bomb, .layers = L(MEMORY)},
    {.name = "memory bomb by brk", .attack = brk_bomb, .layers = L(MEMORY)},
    {.name = "memory bomb in shared memory",
     .attack = shared_memory_bomb,
     .layers = L(MEMORY) | L(SECCOMP),
     .cgroup = true},
    {.name = "endless loop", .attack = endless_loop, .cpu_seconds = 1},
    {.name = "mount a file system",
     .attack = mount_something,
     .layers = L(PRIVILEGES) | L(LANDLOCK) | L(SECCOMP)},
    {.name = "make a namespace", .attack = make_a_namespace, .layers = L(SECCOMP)},
    {.name = "be traced", .attack = ask_to_be_traced, .layers = L(SECCOMP)},
    {.name = "userfaultfd", .attack = call_userfaultfd, .layers = L(SECCOMP), .by_chance = true},
    {.name = "io_uring", .attack = call_io_uring, .layers = L(SECCOMP), .by_chance = true},
    {.name = "perf_event_open", .attack = call_perf, .layers = L(SECCOMP), .by_chance = true},
    {.name = "bpf", .attack = call_bpf, .layers = L(SECCOMP), .besides = L(USER) | ROOT, .by_chance = true},
    {.name = "GPU worker: read a file",
     .kind = SANDBOX_GPU,
     .attack = read_a_file,
     .layers = L(MOUNT) | L(LANDLOCK)},
    {.name = "GPU worker: open a device", /* what the profile didn't list */
     .kind = SANDBOX_GPU,
     .attack = open_a_device,
     .layers = L(DEV) | L(LANDLOCK)},
    {.name = "GPU worker: start a program", .kind = SANDBOX_GPU, .attack = start_a_program, .layers = FILES},
    {.name = "GPU worker: connect by TCP",
     .kind = SANDBOX_GPU,
     .attack = connect_by_tcp,
     .layers = L(NET) | L(LANDLOCK) | L(SECCOMP),
     .landlock_abi = 4},
    {.name = "GPU worker: read another tenant's memory",
     .kind = SANDBOX_GPU,
     .attack = read_anothers_memory,
     .layers = PROCESSES,
     .besides = ROOT | L(LANDLOCK)},
    {.name = "GPU worker: fork bomb",
     .kind = SANDBOX_GPU,
     .attack = fork_bomb,
     .layers = L(PROCESSES) | L(SECCOMP)},
    {.name = "GPU worker: make a namespace",
     .kind = SANDBOX_GPU,
     .attack = make_a_namespace,
     .layers = L(SECCOMP)},
};
const unsigned escape_run_count = sizeof escape_run_cases / sizeof *escape_run_cases;

/* `@SECRET@` becomes the path of the host's file. */
const struct escape_case escape_compile_cases[] = {
    {.name = "compile: .incbin of a host file",
     .layers = L(MOUNT) | L(LANDLOCK),
     .source = "asm(\".data\\nincluded: .incbin \\\"@SECRET@\\\"\\n.text\");\n"},
    {.name = "compile: #include of a host file", /* the error message quotes it */
     .layers = L(MOUNT) | L(LANDLOCK),
     .source = "#include \"@SECRET@\"\n"},
    {.name = "compile: template bomb",
     .layers = L(MEMORY),
     .source = "template <int N, int M> struct two {\n"
               "    enum { n = two<N - 1, 2 * M>::n + two<N - 1, 2 * M + 1>::n };\n"
               "};\n"
               "template <int M> struct two<0, M> { enum { n = M & 1 }; };\n"
               "int n = two<14, 1>::n;\n"},
    {.name = "compile: without end",
     .cpu_seconds = 1,
     .source = "template <int N> constexpr int turns() {\n"
               "    int sum = N;\n"
               "    for (int i = 0; i < 100; i++)\n"
               "        for (int j = 0; j < 10000; j++)\n"
               "            sum ^= i + j;\n"
               "    return sum;\n"
               "}\n"
               "template <int N> struct many { enum { n = turns<N>() ^ many<N - 1>::n }; };\n"
               "template <> struct many<0> { enum { n = 0 }; };\n"
               "int n = many<800>::n;\n"},
    {.name = "compile: an output without end",
     .file_bytes = 16u << 20,
     .source = "asm(\".data\\n.fill 50000000, 1, 69\\n.text\");\n"},
};
const unsigned escape_compile_count = sizeof escape_compile_cases / sizeof *escape_compile_cases;
