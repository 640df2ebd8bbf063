#include "kernels/user_compile.h"

#include "kernels/sandbox.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CXX "/usr/bin/g++"
#define FOLDER_BYTES 64

/* The code owes nothing to a library, keeps the order of floating point, and lets signed numbers wrap as they do on a
 * GPU. It is the machine's own: -march=native. */
static const char *const options[] = {
    "-x",
    "c++",
    "-std=gnu++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    "-nostdlib",
    "-nostdinc",
    "-nostdinc++",
    "-fwhole-program",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fstack-clash-protection",
    "-fno-asynchronous-unwind-tables",
    "-fno-ident",
    "-fno-gnu-unique",
    "-w",
    "-fdiagnostics-plain-output",
    "-fmax-errors=10",
    "-Wl,-e,weir_entry",
    "-Wl,-Bsymbolic",
    "-Wl,-z,defs",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=none",
    "-s",
};

__attribute__((format(printf, 3, 4))) static void say(char *text, size_t text_bytes, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, text_bytes, format, arguments);
    va_end(arguments);
}

static bool write_all(int fd, const void *bytes, size_t count)
{
    for (size_t at = 0; at < count;) {
        const ssize_t written = write(fd, (const char *)bytes + at, count - at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += (size_t)written;
    }
    return true;
}

/* ---- g++ */

static bool host_can(const char **why)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2"))
        return true;
    *why = "this processor has no fused multiply-add (FMA3), which kernels may use";
#else
    *why = "users' kernels run on x86-64 processors only, so far";
#endif
    return false;
}

/* The version is in the compiler's own name for itself; its file's time and size tell builds of one version apart. */
static bool gxx_toolkit(char text[USER_TOOLKIT_BYTES])
{
    struct stat status;
    const char *why;
    if (!host_can(&why)) {
        say(text, USER_TOOLKIT_BYTES, "%s", why);
        return false;
    }
    if (stat(CXX, &status) != 0 || access(CXX, X_OK) != 0) {
        say(text, USER_TOOLKIT_BYTES, "there is no %s; install the package g++", CXX);
        return false;
    }
    char target[64] = "";
    const ssize_t bytes = readlink(CXX, target, sizeof target - 1);
    say(text, USER_TOOLKIT_BYTES, "%s %lld.%lld", bytes > 0 ? target : "g++", (long long)status.st_mtime,
        (long long)status.st_size);
    return true;
}

/* The instructions that -march=native is about. */
static void host_flags(char *out, size_t out_bytes)
{
    char line[8192] = "";
    FILE *file = fopen("/proc/cpuinfo", "re");
    uint64_t hash = 1469598103934665603u;
    while (file && fgets(line, sizeof line, file) && strncmp(line, "flags", 5) != 0)
        ;
    if (file)
        fclose(file);
    for (const char *at = line; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 1099511628211u;
    snprintf(out, out_bytes, "x86-64 %016llx", (unsigned long long)hash);
}

void user_options(enum user_target target, char *out, size_t out_bytes)
{
    if (target == USER_CUDA) {
        snprintf(out, out_bytes,
                 "--fmad=false -std=c++17 bounds=block,1"); /* user_source.c writes the bounds */
        return;
    }
    host_flags(out, out_bytes);
    for (size_t i = 0; i < sizeof options / sizeof *options && strlen(out) + 64 < out_bytes; i++)
        snprintf(out + strlen(out), out_bytes - strlen(out), " %s", options[i]);
}

static pid_t start_gxx(const char *folder, int text_fd)
{
    char *argv[sizeof options / sizeof *options + 5];
    char tmp[FOLDER_BYTES + 8], *envp[] = {tmp, "PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    size_t count = 0;
    argv[count++] = "g++";
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        argv[count++] = (char *)(uintptr_t)options[i];
    argv[count++] = "-o";
    argv[count++] = "kernel.so";
    argv[count++] = "kernel.cc";
    argv[count] = NULL;
    snprintf(tmp, sizeof tmp, "TMPDIR=%s", folder);
    const pid_t pid = fork();
    if (pid != 0)
        return pid;
    setpgid(0, 0);
    const struct rlimit processor = {USER_COMPILE_SECONDS, USER_COMPILE_SECONDS},
                        memory = {USER_COMPILE_BYTES, USER_COMPILE_BYTES},
                        file = {USER_CODE_BYTES_MAX, USER_CODE_BYTES_MAX};
    setrlimit(RLIMIT_CPU, &processor);
    setrlimit(RLIMIT_AS, &memory);
    setrlimit(RLIMIT_FSIZE, &file);
    signal(SIGPIPE, SIG_DFL);
    if (chdir(folder) == 0 && dup2(text_fd, 1) >= 0 && dup2(text_fd, 2) >= 0)
        execve(CXX, argv, envp);
    _exit(127);
}

/* Waits, but not for ever. 0: it ended well; 1: it found errors; else it was stopped, and `text` says by what. */
static int wait_for_gxx(pid_t pid, char *text, size_t text_bytes)
{
    const int pidfd = pidfd_open(pid, 0);
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    const bool late = pidfd >= 0 && poll(&wait, 1, 1000 * USER_COMPILE_SECONDS) == 0;
    int status = 0;
    if (late)
        kill(-pid, SIGKILL);
    waitpid(pid, &status, 0);
    kill(-pid, SIGKILL); /* what it may have left */
    if (pidfd >= 0)
        close(pidfd);
    if (!late && WIFEXITED(status) && WEXITSTATUS(status) <= 1)
        return WEXITSTATUS(status);
    if (late)
        say(text, text_bytes, "the compiler took longer than %d s and was stopped", USER_COMPILE_SECONDS);
    else if (WIFEXITED(status))
        say(text, text_bytes, "the compiler can't be started (%s)", CXX);
    else
        say(text, text_bytes, "the compiler was stopped by signal %d (%s)", WTERMSIG(status),
            strsignal(WTERMSIG(status)));
    return 2;
}

static size_t read_text(int fd, char *text, size_t text_bytes)
{
    const ssize_t got = pread(fd, text, text_bytes - 1, 0);
    const size_t bytes = got > 0 ? (size_t)got : 0;
    text[bytes] = '\0';
    for (size_t i = 0; i < bytes; i++)
        if (text[i] == '\0')
            text[i] = '?';
    return bytes;
}

static bool copy_code(const char *folder, int code_fd)
{
    char path[FOLDER_BYTES + 16];
    struct stat status;
    snprintf(path, sizeof path, "%s/kernel.so", folder);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good =
        fd >= 0 && fstat(fd, &status) == 0 && status.st_size > 0 && status.st_size <= USER_CODE_BYTES_MAX;
    void *map = good ? mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    good = map != MAP_FAILED && write_all(code_fd, map, (size_t)status.st_size);
    if (map != MAP_FAILED)
        munmap(map, (size_t)status.st_size);
    if (fd >= 0)
        close(fd);
    return good;
}

static void remove_folder(const char *folder)
{
    static const char *const names[] = {"kernel.cc", "kernel.so", "text"};
    char path[FOLDER_BYTES + 16];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static enum user_status run_gxx(const char *folder, const char *joined, int code_fd, char *text,
                                size_t text_bytes)
{
    char path[FOLDER_BYTES + 16];
    enum user_status result = USER_UNABLE;
    snprintf(path, sizeof path, "%s/kernel.cc", folder);
    const int source = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    snprintf(path, sizeof path, "%s/text", folder);
    const int said = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (source < 0 || said < 0 || !write_all(source, joined, strlen(joined))) {
        say(text, text_bytes, "the compiler's folder %s can't be written: %s", folder, strerror(errno));
        goto done;
    }
    const pid_t pid = start_gxx(folder, said);
    if (pid < 0) {
        say(text, text_bytes, "the compiler can't be started: %s", strerror(errno));
        goto done;
    }
    switch (wait_for_gxx(pid, text, text_bytes)) {
    case 0:
        if (copy_code(folder, code_fd))
            result = USER_COMPILED;
        else
            say(text, text_bytes, "the compiled kernel can't be read, or has more than %u MiB",
                USER_CODE_BYTES_MAX >> 20);
        break;
    case 1:
        if (read_text(said, text, text_bytes) == 0)
            say(text, text_bytes, "the compiler failed and didn't say why");
        result = USER_REFUSED;
        break;
    default:
        result = USER_REFUSED; /* by its limits: the same source meets them anywhere */
        break;
    }
done:
    if (source >= 0)
        close(source);
    if (said >= 0)
        close(said);
    return result;
}

static enum user_status compile_cpu(const struct user_source *source, int code_fd, char *text,
                                    size_t text_bytes)
{
    char toolkit[USER_TOOLKIT_BYTES], folder[FOLDER_BYTES] = "/tmp/weir-compile-XXXXXX";
    if (!user_toolkit(USER_CPU, toolkit)) {
        say(text, text_bytes, "%s", toolkit);
        return USER_UNABLE;
    }
    char *joined = user_source_join(source, USER_CPU);
    if (!joined || !mkdtemp(folder)) {
        say(text, text_bytes, "no room to compile in: %s", strerror(errno));
        free(joined);
        return USER_UNABLE;
    }
    const enum user_status result = run_gxx(folder, joined, code_fd, text, text_bytes);
    remove_folder(folder);
    free(joined);
    return result;
}

/* ---- NVRTC, as published in nvrtc.h; opened where it is used */

#define NVRTC_FUNCTIONS(F)                                                                                   \
    F(nvrtcVersion, (int *, int *))                                                                          \
    F(nvrtcCreateProgram,                                                                                    \
      (void **, const char *, const char *, int, const char *const *, const char *const *))                  \
    F(nvrtcCompileProgram, (void *, int, const char *const *))                                               \
    F(nvrtcGetProgramLogSize, (void *, size_t *))                                                            \
    F(nvrtcGetProgramLog, (void *, char *))                                                                  \
    F(nvrtcGetCUBINSize, (void *, size_t *))                                                                 \
    F(nvrtcGetCUBIN, (void *, char *))                                                                       \
    F(nvrtcDestroyProgram, (void **))

static struct {
    bool tried, loaded;
#define FIELD(name, parameters) int(*name) parameters;
    NVRTC_FUNCTIONS(FIELD)
#undef FIELD
} nvrtc;

static bool nvrtc_load(void)
{
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};
    if (nvrtc.tried)
        return nvrtc.loaded;
    nvrtc.tried = true;
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    bool complete = true;
#define FIND(name, parameters)                                                                               \
    *(void **)&nvrtc.name = dlsym(library, #name);                                                           \
    complete = complete && nvrtc.name;
    NVRTC_FUNCTIONS(FIND)
#undef FIND
    nvrtc.loaded = complete;
    return complete;
}

bool user_toolkit(enum user_target target, char text[USER_TOOLKIT_BYTES])
{
    int major = 0, minor = 0;
    if (target == USER_CPU)
        return gxx_toolkit(text);
    if (!nvrtc_load() || nvrtc.nvrtcVersion(&major, &minor) != 0) {
        say(text, USER_TOOLKIT_BYTES, "there is no NVRTC (libnvrtc.so); install the CUDA toolkit");
        return false;
    }
    say(text, USER_TOOLKIT_BYTES, "NVRTC %d.%d", major, minor);
    return true;
}

/* "saxpy.cu(12): error" becomes "saxpy.cu:12: error", as g++ has it. */
static void name_lines(char *text)
{
    for (char *open = strchr(text, '('); open; open = strchr(open + 1, '(')) {
        const size_t digits = strspn(open + 1, "0123456789");
        if (digits == 0 || strncmp(open + 1 + digits, "): ", 3) != 0)
            continue;
        *open = ':';
        memmove(open + 1 + digits, open + 2 + digits, strlen(open + 2 + digits) + 1);
    }
}

static void keep_log(void *program, char *text, size_t text_bytes)
{
    size_t bytes = 0;
    char *log = nvrtc.nvrtcGetProgramLogSize(program, &bytes) == 0 ? calloc(1, bytes + 1) : NULL;
    if (log && nvrtc.nvrtcGetProgramLog(program, log) == 0) {
        say(text, text_bytes, "%s", log);
        name_lines(text);
    }
    free(log);
}

static bool write_gpu_code(const char *entry, const char *code, size_t bytes, int code_fd)
{
    struct user_gpu_code head = {{0}};
    snprintf(head.entry, sizeof head.entry, "%s", entry);
    return write_all(code_fd, &head, sizeof head) && write_all(code_fd, code, bytes);
}

static enum user_status compile_cuda(const struct user_source *source, const struct user_request *request,
                                     int code_fd, char *text, size_t text_bytes)
{
    char toolkit[USER_TOOLKIT_BYTES], architecture[40];
    if (!user_toolkit(USER_CUDA, toolkit)) {
        say(text, text_bytes, "%s", toolkit);
        return USER_UNABLE;
    }
    char *joined = user_source_join(source, USER_CUDA), *code = NULL;
    void *program = NULL;
    size_t bytes = 0;
    enum user_status result = USER_UNABLE;
    snprintf(architecture, sizeof architecture, "--gpu-architecture=sm_%u%u", request->compute_major,
             request->compute_minor);
    const char *const arguments[] = {architecture, "--fmad=false", "-std=c++17", "-w"};
    if (!joined || nvrtc.nvrtcCreateProgram(&program, joined, source->file, 0, NULL, NULL) != 0) {
        say(text, text_bytes, "NVRTC takes no program: out of memory?");
        goto done;
    }
    if (nvrtc.nvrtcCompileProgram(program, sizeof arguments / sizeof *arguments, arguments) != 0) {
        keep_log(program, text, text_bytes);
        /* What isn't about a line of the source is about the toolkit here. */
        result = strstr(text, "error:") && !strstr(text, "nvrtc: error") ? USER_REFUSED : USER_UNABLE;
        goto done;
    }
    if (nvrtc.nvrtcGetCUBINSize(program, &bytes) == 0 && bytes > 0 && bytes <= USER_CODE_BYTES_MAX)
        code = malloc(bytes);
    if (code && nvrtc.nvrtcGetCUBIN(program, code) == 0 &&
        write_gpu_code(source->entry, code, bytes, code_fd))
        result = USER_COMPILED;
    else
        say(text, text_bytes, "NVRTC gave no code");
done:
    if (program)
        nvrtc.nvrtcDestroyProgram(&program);
    free(code);
    free(joined);
    return result;
}

enum user_status user_compile(const struct user_source *source, const struct user_request *request,
                              int code_fd, char *text, size_t text_bytes)
{
    text[0] = '\0';
    if (request->target == USER_CPU)
        return compile_cpu(source, code_fd, text, text_bytes);
    return compile_cuda(source, request, code_fd, text, text_bytes);
}

/* ---- PTX: the driver compiles it; here its entry is found */

static enum user_status take_ptx(const struct user_request *request, const char *ptx, int code_fd, char *text,
                                 size_t text_bytes)
{
    char entry[USER_ENTRY_BYTES] = "";
    unsigned line = 1;
    if (request->target != USER_CUDA) {
        say(text, text_bytes, "PTX runs on GPUs only");
        return USER_REFUSED;
    }
    if (strlen(ptx) != request->source_bytes) {
        say(text, text_bytes, "%s:1: this is not PTX: it has a zero byte", request->file);
        return USER_REFUSED;
    }
    for (const char *at = ptx; *at; at++) {
        line += *at == '\n';
        if (strncmp(at, ".entry", 6) != 0 || !isspace((unsigned char)at[6]))
            continue;
        const char *name = at + 6 + strspn(at + 6, " \t\r\n");
        const size_t bytes = strcspn(name, "( \t\r\n");
        if (entry[0] || bytes == 0 || bytes >= sizeof entry) {
            say(text, text_bytes, "%s:%u: %s", request->file, line,
                entry[0] ? "this is a second .entry; a kernel has one" : "the name of this .entry can't be");
            return USER_REFUSED;
        }
        memcpy(entry, name, bytes);
    }
    if (!entry[0]) {
        say(text, text_bytes, "%s:1: there is no .entry", request->file);
        return USER_REFUSED;
    }
    return write_gpu_code(entry, ptx, strlen(ptx) + 1, code_fd) ? USER_COMPILED : USER_UNABLE;
}

/* ---- The program's mode */

/* What a compiler needs to see: itself, and its libraries. */
static void enter_box(const struct user_request *request, struct sandbox_report *report)
{
    static const char *const readable[] = {"/usr/bin", "/usr/lib", "/usr/libexec", "/usr/lib64",
                                           "/bin",     "/lib",     "/lib64",       NULL};
    static const char *const cuda[] = {"/usr/lib", "/usr/lib64",       "/lib", "/lib64", "/usr/local",
                                       "/opt",     "/etc/ld.so.cache", NULL};
    const struct sandbox_profile profile = {.kind = SANDBOX_COMPILE,
                                            .readable = request->target == USER_CUDA ? cuda : readable,
                                            .tmp_bytes = USER_TMP_BYTES,
                                            .memory_bytes = USER_COMPILE_BYTES,
                                            .file_bytes = USER_CODE_BYTES_MAX,
                                            .cpu_seconds = 2 * USER_COMPILE_SECONDS,
                                            .processes = USER_COMPILE_PROCESSES};
    sandbox_enter(&profile, report);
}

/* The layers of our half of the sandbox; the other half is the node's to check. */
static bool boxed(const struct sandbox_report *report, char *text, size_t text_bytes)
{
    for (int i = SANDBOX_MOUNT; i < SANDBOX_LAYERS; i++)
        if (!report->layers[i].on) {
            say(text, text_bytes, "the compiler's sandbox lacks the layer %s (%s): %s",
                sandbox_layer_name((enum sandbox_layer)i), report->layers[i].detail,
                sandbox_layer_fix((enum sandbox_layer)i));
            return false;
        }
    return true;
}

static bool read_request(struct user_request *request, char **bytes)
{
    struct stat status;
    if (fstat(USER_REQUEST_FD, &status) != 0 || status.st_size < (off_t)sizeof *request ||
        pread(USER_REQUEST_FD, request, sizeof *request, 0) != sizeof *request)
        return false;
    const uint64_t total = (uint64_t)request->manifest_bytes + request->source_bytes;
    if (request->manifest_bytes > MANIFEST_TEXT_BYTES_MAX ||
        request->source_bytes > MANIFEST_SOURCE_BYTES_MAX ||
        (uint64_t)status.st_size != sizeof *request + total)
        return false;
    *bytes = malloc(total + 1);
    request->file[sizeof request->file - 1] = '\0';
    if (!*bytes || pread(USER_REQUEST_FD, *bytes, total, sizeof *request) != (ssize_t)total)
        return false;
    (*bytes)[total] = '\0';
    return true;
}

static const char *find_in_line(const char *line, const char *word)
{
    return memmem(line, strcspn(line, "\n"), word, strlen(word));
}

/* Where a line of the compiler's points in the author's file, as "k.cu:5:18:": it begins so, or it is NVRTC's "at line 5 of
 * k.cu". False where it points elsewhere. */
static bool place_in(const char *line, const char *file, char *place, size_t place_bytes)
{
    static const char at_line[] = " at line ";
    const size_t name = strlen(file);
    if (strncmp(line, file, name) == 0 && line[name] == ':' && isdigit((unsigned char)line[name + 1])) {
        say(place, place_bytes, "%.*s", (int)(name + strspn(line + name, ":0123456789")), line);
        return true;
    }
    const char *number = find_in_line(line, at_line);
    if (!number)
        return false;
    number += strlen(at_line);
    const size_t digits = strspn(number, "0123456789");
    if (strncmp(number + digits, " of ", 4) != 0 || strncmp(number + digits + 4, file, name) != 0)
        return false;
    say(place, place_bytes, "%s:%.*s:", file, (int)digits, number);
    return true;
}

/* An error inside our header is told at the author's line that led there: g++ names it before the error ("required from
 * here"), NVRTC behind it. False where no error comes from the author's file. */
static bool author_error(const char *text, const char *file, char *line, size_t line_bytes)
{
    char place[USER_FILE_BYTES + 32] = "", here[USER_FILE_BYTES + 32];
    const char *error = NULL;
    for (const char *at = text; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        const char *found = find_in_line(at, "error: ");
        if (place_in(at, file, here, sizeof here)) {
            if (error && !find_in_line(at, "note: ") && !find_in_line(at, " at line "))
                error = NULL; /* the way to the next error begins */
            if (found || !place[0])
                memcpy(place, here, sizeof place);
        }
        error = found ? found : error;
        if (error && place[0]) {
            say(line, line_bytes, "%s %.*s", place, (int)strcspn(error, "\n"), error);
            return true;
        }
    }
    return false;
}

void user_compile_headline(const char *text, const char *file, char *line, size_t line_bytes)
{
    static const char *const telling[] = {"relocation truncated", "undefined reference to ", "error: "};
    const char *at = NULL, *before = "";
    size_t kind = 0;
    while (kind < sizeof telling / sizeof *telling && !(at = strstr(text, telling[kind])))
        kind++;
    if (strstr(text, "virtual memory exhausted") || strstr(text, "out of memory"))
        before = "the compiler needs more memory for this source than it is given: ";
    else if (kind == 0)
        before = "the kernel's variables are too large: ";
    say(line, line_bytes, "%s", before);
    line += strlen(line);
    line_bytes -= strlen(before);
    if (kind == 2 && author_error(text, file, line, line_bytes))
        return;
    if (!at)
        at = text;
    while (at > text && at[-1] != '\n')
        at--;
    say(line, line_bytes, "%.*s", (int)strcspn(at, "\n"), at);
}

static void write_text(const char *text, const char *file)
{
    char line[1024];
    user_compile_headline(text, file, line, sizeof line);
    write_all(USER_TEXT_FD, line, strlen(line));
    write_all(USER_TEXT_FD, "\n", 1);
    write_all(USER_TEXT_FD, text, strlen(text));
}

int user_compile_serve(void)
{
    static char text[64 << 10];
    struct user_request request;
    struct user_source source = {0};
    struct sandbox_report report;
    char *bytes = NULL, error[MANIFEST_ERROR_BYTES];
    struct manifest_user *user = malloc(sizeof *user);
    int status = USER_UNABLE;
    if (!user || !read_request(&request, &bytes)) {
        fprintf(stderr, "weir-worker: --compile is for the node, which hands over three descriptors\n");
        free(user);
        free(bytes);
        return 2;
    }
    enter_box(&request, &report);
    if (!boxed(&report, text, sizeof text)) {
        status = USER_UNABLE;
    } else if (request.language == MANIFEST_PTX) {
        status = (int)take_ptx(&request, bytes + request.manifest_bytes, USER_CODE_FD, text, sizeof text);
    } else if (!manifest_user_parse("manifest", bytes, request.manifest_bytes, user, error) ||
               !user_source_open(&source, user, request.file, bytes + request.manifest_bytes,
                                 request.source_bytes, error)) {
        say(text, sizeof text, "%s", error);
        status = USER_REFUSED;
    } else {
        status = (int)user_compile(&source, &request, USER_CODE_FD, text, sizeof text);
    }
    if (status != USER_COMPILED)
        write_text(text, source.file[0] ? source.file : request.file);
    user_source_close(&source);
    free(user);
    free(bytes);
    return status;
}
