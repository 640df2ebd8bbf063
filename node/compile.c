#include "node/compile.h"

#include "kernels/sandbox.h"
#include "kernels/user_compile.h"
#include "node/log.h"
#include "node/node.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNABLE_AGAIN_MS                                                                                      \
    10000 /* what this node could not do, for want of memory perhaps, is tried again then */

/* A kernel's code for one class. Born when first asked for; its room is taken when 64 others were used later. */
struct code {
    struct node *node;
    struct digest key; /* valid unless state is NONE */
    enum { NONE, COMPILING, READY, REFUSED, UNABLE } state;
    int fd; /* READY: sealed; COMPILING: being filled */
    uint64_t bytes;
    int text_fd; /* COMPILING: what the compiler says */
    struct sandbox_process process;
    char name[MANIFEST_NAME_BYTES];
    char message[WORKER_MESSAGE_BYTES];
    int64_t began_ms, again_at_ms;
    uint64_t used;
};

/* What compiles for a class on this machine. */
struct toolkit {
    bool asked, good;
    uint16_t lacks; /* as struct capacity_devices says it */
    char name[USER_TOOLKIT_BYTES];
    char options[2048];
    uint32_t compute_major, compute_minor;
    char why[256];
};

static struct {
    void (*ready)(struct node *node);
    struct toolkit toolkits[MESH_DEVICE_CLASSES];
    struct code codes[COMPILE_KNOWN_MAX];
    uint32_t running;
    uint64_t uses;
} compile;

/* ---- Toolkits */

static const char *const targets[] = {"cpu", "cuda"}; /* by class */

/* A stranger's code runs behind every layer of the sandbox or not at all. */
static void ask_sandbox(struct node *node, uint32_t class)
{
    struct toolkit *toolkit = &compile.toolkits[class];
    char command[CONFIG_TEXT_BYTES + 64], line[1024];
    uint32_t layers = 0;
    snprintf(command, sizeof command, "'%s' --sandbox --device %s:0 2>/dev/null", node->worker_path,
             targets[class]);
    FILE *out = popen(command, "re");
    while (out && fgets(line, sizeof line, out)) {
        json_t *said = json_loads(line, 0, NULL);
        const char *name = json_string_value(json_object_get(said, "layer"));
        if (name && !json_is_true(json_object_get(said, "on")))
            toolkit->lacks |= (uint16_t)CAPACITY_NO_LAYER(layers);
        layers += name != NULL;
        if (name && toolkit->good && !json_is_true(json_object_get(said, "on"))) {
            const char *fix = json_string_value(json_object_get(said, "fix"));
            toolkit->good = false;
            snprintf(toolkit->why, sizeof toolkit->why, "the sandbox lacks its layer %s: %s", name,
                     fix ? fix : "");
        }
        json_decref(said);
    }
    if (out)
        pclose(out);
    if (layers != SANDBOX_LAYERS)
        toolkit->lacks |= (uint16_t)(CAPACITY_NO_LAYER(SANDBOX_LAYERS) - CAPACITY_NO_LAYER(0));
    if (toolkit->good && layers != SANDBOX_LAYERS) {
        toolkit->good = false;
        snprintf(toolkit->why, sizeof toolkit->why, "its worker does not say how it is sandboxed");
    }
}

static void ask_toolkit(struct node *node, uint32_t class)
{
    struct toolkit *toolkit = &compile.toolkits[class];
    char command[CONFIG_TEXT_BYTES + 64], line[4096] = "";
    *toolkit = (struct toolkit){.asked = true};
    snprintf(command, sizeof command, "'%s' --toolkit %s", node->worker_path, targets[class]);
    FILE *out = popen(command, "re");
    const bool told = out && fgets(line, sizeof line, out);
    if (out)
        pclose(out);
    json_t *said = told ? json_loads(line, 0, NULL) : NULL;
    const char *name = json_string_value(json_object_get(said, "toolkit"));
    const char *options = json_string_value(json_object_get(said, "options"));
    const char *why = json_string_value(json_object_get(said, "why"));
    toolkit->good = name && options;
    snprintf(toolkit->name, sizeof toolkit->name, "%s", name ? name : "");
    snprintf(toolkit->options, sizeof toolkit->options, "%s", options ? options : "");
    snprintf(toolkit->why, sizeof toolkit->why, "%s",
             why ? why : "weir-worker does not say what it compiles with");
    toolkit->compute_major = (uint32_t)json_integer_value(json_object_get(said, "major"));
    toolkit->compute_minor = (uint32_t)json_integer_value(json_object_get(said, "minor"));
    json_decref(said);
    toolkit->lacks = (uint16_t)(toolkit->good ? 0 : CAPACITY_NO_COMPILER);
    ask_sandbox(node, class);
    char quoted[2 * sizeof toolkit->why];
    log_info("kernels", "device=%s users=%s reason=%s", targets[class], toolkit->good ? "yes" : "no",
             log_quote(compile_why_not(node, class), quoted, sizeof quoted));
}

uint16_t compile_classes(const struct node *node)
{
    uint16_t classes = 0;
    (void)node;
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++)
        classes |= (uint16_t)(compile.toolkits[class].good << class);
    return classes;
}

uint16_t compile_lacks(uint32_t class)
{
    return compile.toolkits[class].lacks;
}

const char *compile_why_not(const struct node *node, uint32_t class)
{
    (void)node;
    const struct toolkit *toolkit = &compile.toolkits[class];
    return !toolkit->asked ? "there is no such device" : toolkit->good ? "" : toolkit->why;
}

/* ---- Files */

static void folder_of(const struct node *node, char path[CONFIG_TEXT_BYTES + 16])
{
    snprintf(path, CONFIG_TEXT_BYTES + 16, "%s/compiled", node->config.data);
}

static void path_of(const struct node *node, const struct digest *key, char *path, size_t path_bytes)
{
    char folder[CONFIG_TEXT_BYTES + 16], hex[65];
    folder_of(node, folder);
    hex_encode(key->bytes, sizeof key->bytes, hex);
    snprintf(path, path_bytes, "%s/%s", folder, hex);
}

/* The oldest files go where there are too many, and what a crash left half written. */
static void tidy(const struct node *node)
{
    char folder[CONFIG_TEXT_BYTES + 16];
    folder_of(node, folder);
    for (;;) {
        DIR *list = opendir(folder);
        char oldest[NAME_MAX + 1] = "";
        time_t oldest_at = 0;
        uint32_t count = 0;
        const struct dirent *each;
        while (list && (each = readdir(list))) {
            struct stat status;
            if (each->d_name[0] == '.' ||
                fstatat(dirfd(list), each->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
                continue;
            if (strlen(each->d_name) != 64) {
                unlinkat(dirfd(list), each->d_name, 0);
                continue;
            }
            count++;
            if (!oldest[0] || status.st_mtime < oldest_at) {
                oldest_at = status.st_mtime;
                snprintf(oldest, sizeof oldest, "%s", each->d_name);
            }
        }
        const bool gone = list && count > COMPILE_FILES_MAX && unlinkat(dirfd(list), oldest, 0) == 0;
        if (list)
            closedir(list);
        if (!gone)
            return;
    }
}

/* A file is the code and its digest: a disk that changed a bit must not have it run. */
static bool read_code(const struct node *node, struct code *code)
{
    char path[CONFIG_TEXT_BYTES + 96];
    struct stat status;
    path_of(node, &code->key, path, sizeof path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    const bool sized = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                       status.st_size > (off_t)sizeof(struct digest) &&
                       status.st_size <= (off_t)(USER_CODE_BYTES_MAX + sizeof(struct digest));
    const size_t all = sized ? (size_t)status.st_size : 0, bytes = all - sizeof(struct digest);
    uint8_t *read_bytes = sized ? malloc(all) : NULL;
    bool good = read_bytes && read(fd, read_bytes, all) == (ssize_t)all;
    if (good) {
        const struct digest digest = digest_of("weir code 1", read_bytes, bytes);
        good = memcmp(digest.bytes, read_bytes + bytes, sizeof digest.bytes) == 0;
    }
    if (good && (code->fd = worker_memfd(read_bytes, bytes)) >= 0) {
        code->bytes = bytes;
        code->state = READY;
        futimens(fd, NULL); /* used now: it stays when the oldest go */
    }
    free(read_bytes);
    close(fd);
    return code->state == READY;
}

static void write_code(const struct node *node, const struct code *code)
{
    char path[CONFIG_TEXT_BYTES + 96], half[CONFIG_TEXT_BYTES + 104];
    path_of(node, &code->key, path, sizeof path);
    snprintf(half, sizeof half, "%s.new", path);
    const uint8_t *map = mmap(NULL, code->bytes, PROT_READ, MAP_SHARED, code->fd, 0);
    const int fd =
        map != MAP_FAILED ? open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (fd >= 0) {
        const struct digest digest = digest_of("weir code 1", map, code->bytes);
        const bool good = write(fd, map, code->bytes) == (ssize_t)code->bytes &&
                          write(fd, digest.bytes, sizeof digest.bytes) == sizeof digest.bytes;
        if (close(fd) != 0 || !good || rename(half, path) != 0)
            unlink(half); /* it will be compiled again */
    }
    if (map != MAP_FAILED)
        munmap((void *)(uintptr_t)map, code->bytes);
}

/* ---- The table */

static void forget(struct code *code)
{
    if (code->fd >= 0)
        close(code->fd);
    if (code->text_fd >= 0)
        close(code->text_fd);
    *code = (struct code){.fd = -1, .text_fd = -1};
}

static struct code *find_code(const struct digest *key)
{
    for (uint32_t i = 0; i < COMPILE_KNOWN_MAX; i++)
        if (compile.codes[i].state != NONE && digest_equal(&compile.codes[i].key, key))
            return &compile.codes[i];
    return NULL;
}

static struct code *make_room(void)
{
    struct code *oldest = NULL;
    for (uint32_t i = 0; i < COMPILE_KNOWN_MAX; i++) {
        struct code *code = &compile.codes[i];
        if (code->state != COMPILING && (!oldest || code->used < oldest->used))
            oldest = code;
    }
    assert(oldest); /* few compile at a time */
    forget(oldest);
    return oldest;
}

static struct digest key_of(const struct user_kernel *kernel, uint32_t class)
{
    const struct toolkit *toolkit = &compile.toolkits[class];
    struct digest_stream stream;
    digest_init(&stream, "weir code key 1");
    digest_update(&stream, kernel->kernel.bytes, sizeof kernel->kernel.bytes);
    digest_update_u64(&stream, class);
    digest_update_u64(&stream, toolkit->compute_major);
    digest_update_u64(&stream, toolkit->compute_minor);
    digest_update_u64(&stream, strlen(toolkit->name));
    digest_update(&stream, toolkit->name, strlen(toolkit->name));
    digest_update_u64(&stream, strlen(toolkit->options));
    digest_update(&stream, toolkit->options, strlen(toolkit->options));
    digest_update(&stream, user_headers_digest, sizeof user_headers_digest);
    return digest_final(&stream);
}

const char *compile_refused(const struct user_kernel *kernel)
{
    const char *refused = NULL;
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
        const struct digest key = key_of(kernel, class);
        const struct code *code = find_code(&key);
        if (code && code->state == READY)
            return NULL;
        if (code && code->state == REFUSED)
            refused = code->message;
    }
    return refused;
}

/* ---- The compiler's process */

/* The compiler's first line, which is the first error. */
static void read_message(struct code *code, const char *otherwise)
{
    const ssize_t got = pread(code->text_fd, code->message, sizeof code->message - 1, 0);
    code->message[got > 0 ? got : 0] = '\0';
    code->message[strcspn(code->message, "\n")] = '\0';
    if (!code->message[0])
        snprintf(code->message, sizeof code->message, "%s", otherwise);
}

static void ended(struct code *code, int status)
{
    struct stat filled;
    code->state = UNABLE;
    if (WIFEXITED(status) && WEXITSTATUS(status) == USER_COMPILED && fstat(code->fd, &filled) == 0 &&
        filled.st_size > 0 && filled.st_size <= USER_CODE_BYTES_MAX &&
        fcntl(code->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0) {
        code->state = READY;
        code->bytes = (uint64_t)filled.st_size;
        write_code(code->node, code);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == USER_REFUSED) {
        code->state = REFUSED;
        read_message(code, "the kernel does not compile");
    } else {
        read_message(code, "the compiler's process was killed: out of memory, or out of time");
    }
    code->again_at_ms = clock_now_ms() + UNABLE_AGAIN_MS;
    close(code->text_fd);
    code->text_fd = -1;
    char quoted[2 * WORKER_MESSAGE_BYTES];
    log_info("compile", "kernel=%s state=%s ms=%lld error=%s", code->name,
             code->state == READY     ? "done"
             : code->state == REFUSED ? "refused"
                                      : "failed",
             (long long)(clock_now_ms() - code->began_ms), log_quote(code->message, quoted, sizeof quoted));
}

static void on_ended(void *context, uint32_t events)
{
    (void)events;
    struct code *code = context;
    int status = 0;
    if (waitpid(code->process.pid, &status, WNOHANG) != code->process.pid)
        return;
    loop_unwatch(code->node->loop, code->process.pidfd);
    sandbox_reaped(&code->process);
    compile.running--;
    ended(code, status);
    compile.ready(code->node);
}

static int64_t on_turn(void *context, int64_t now_ms)
{
    (void)context;
    int64_t wake_at_ms = INT64_MAX;
    for (uint32_t i = 0; compile.running > 0 && i < COMPILE_KNOWN_MAX; i++) {
        const struct code *code = &compile.codes[i];
        if (code->state != COMPILING)
            continue;
        const int64_t late_at_ms = code->began_ms + COMPILE_DEADLINE_MS;
        if (now_ms >= late_at_ms)
            kill(code->process.pid, SIGKILL);
        else
            wake_at_ms = late_at_ms < wake_at_ms ? late_at_ms : wake_at_ms;
    }
    return wake_at_ms;
}

/* The request as the process reads it. -1 without memory. */
static int request_fd(const struct user_kernel *kernel, uint32_t class, const uint8_t *source)
{
    const struct toolkit *toolkit = &compile.toolkits[class];
    struct user_request head = {.target = class == 0 ? USER_CPU : USER_CUDA,
                                .language = kernel->language,
                                .compute_major = toolkit->compute_major,
                                .compute_minor = toolkit->compute_minor,
                                .manifest_bytes = kernel->user.text_bytes,
                                .source_bytes = kernel->source_bytes};
    snprintf(head.file, sizeof head.file, "%s.%s", kernel->user.manifest.name,
             kernel->language == MANIFEST_PTX ? "ptx" : "cu");
    const size_t bytes = sizeof head + kernel->user.text_bytes + kernel->source_bytes;
    uint8_t *all = malloc(bytes);
    if (!all)
        return -1;
    memcpy(all, &head, sizeof head);
    memcpy(all + sizeof head, kernel->user.text, kernel->user.text_bytes);
    memcpy(all + sizeof head + kernel->user.text_bytes, source, kernel->source_bytes);
    const int fd = worker_memfd(all, bytes);
    free(all);
    return fd;
}

static bool start(struct code *code, const struct user_kernel *kernel, uint32_t class, const uint8_t *source)
{
    static char *const argv[] = {"weir-worker", "--compile", NULL};
    static char *const envp[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    struct node *node = code->node;
    struct sandbox_report report = {0};
    const int request = request_fd(kernel, class, source);
    code->fd = memfd_create("weir-code", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    code->text_fd = memfd_create("weir-compiler", MFD_CLOEXEC);
    const int fds[] = {request, code->fd, code->text_fd};
    const struct sandbox_spawn spawn = {.path = node->worker_path,
                                        .argv = argv,
                                        .envp = envp,
                                        .fds = fds,
                                        .fd_count = 3,
                                        .memory_bytes = COMPILE_MEMORY_BYTES,
                                        .processes = USER_COMPILE_PROCESSES};
    const bool started =
        request >= 0 && code->fd >= 0 && code->text_fd >= 0 && sandbox_spawn(&code->process, &spawn, &report);
    if (!started)
        snprintf(code->message, sizeof code->message, "the compiler can't be started: %s", strerror(errno));
    if (request >= 0)
        close(request);
    if (!started)
        return false;
    code->state = COMPILING;
    code->began_ms = clock_now_ms();
    snprintf(code->name, sizeof code->name, "%s", kernel->user.manifest.name);
    compile.running++;
    loop_watch(node->loop, code->process.pidfd, EPOLLIN, on_ended, code);
    return true;
}

/* ---- For those who run kernels */

static enum compile_state tell(struct code *code, struct worker_blob *out, char message[WORKER_MESSAGE_BYTES])
{
    code->used = ++compile.uses;
    switch (code->state) {
    case READY:
        *out = (struct worker_blob){.fd = code->fd, .bytes = code->bytes};
        memcpy(out->id, code->key.bytes, sizeof out->id);
        return COMPILE_READY;
    case REFUSED:
        snprintf(message, WORKER_MESSAGE_BYTES, "%s", code->message);
        return COMPILE_REFUSED;
    case UNABLE:
        snprintf(message, WORKER_MESSAGE_BYTES, "%s", code->message);
        return COMPILE_UNABLE;
    case NONE:
    case COMPILING:
        break;
    }
    return COMPILE_WAITS;
}

enum compile_state compile_want(struct node *node, const struct user_kernel *kernel, uint32_t class,
                                struct worker_blob *out, char message[WORKER_MESSAGE_BYTES])
{
    if (!compile.toolkits[class].good) {
        snprintf(message, WORKER_MESSAGE_BYTES, "this node takes no users' kernels: %s",
                 compile_why_not(node, class));
        return COMPILE_UNABLE;
    }
    const struct digest key = key_of(kernel, class);
    struct code *code = find_code(&key);
    if (code && code->state == UNABLE && clock_now_ms() >= code->again_at_ms)
        forget(code);
    else if (code)
        return tell(code, out, message);
    code = make_room();
    code->node = node;
    code->key = key;
    const int64_t began_us = clock_now_us();
    if (read_code(node, code)) {
        log_debug("compile", "kernel=%s state=kept bytes=%llu us=%lld", kernel->user.manifest.name,
                  (unsigned long long)code->bytes, (long long)(clock_now_us() - began_us));
        return tell(code, out, message);
    }
    if (compile.running >= COMPILE_PROCESSES)
        return COMPILE_WAITS;
    uint8_t *source = malloc((size_t)kernel->source_bytes + 1);
    struct store_blob_info info;
    enum compile_state state = COMPILE_NO_SOURCE;
    if (source && store_blob_stat(node->store, kernel->source.bytes, &info) == STORE_OK &&
        info.bytes == kernel->source_bytes &&
        store_blob_read(node->store, kernel->source.bytes, 0, kernel->source_bytes, source) == STORE_OK) {
        state = start(code, kernel, class, source) ? COMPILE_WAITS : COMPILE_UNABLE;
        if (state == COMPILE_UNABLE) {
            snprintf(message, WORKER_MESSAGE_BYTES, "%s", code->message);
            forget(code);
        }
    }
    free(source);
    return state;
}

void compile_open(struct node *node, void (*ready)(struct node *node))
{
    char folder[CONFIG_TEXT_BYTES + 16];
    compile.ready = ready;
    for (uint32_t i = 0; i < COMPILE_KNOWN_MAX; i++)
        compile.codes[i] = (struct code){.fd = -1, .text_fd = -1};
    folder_of(node, folder);
    mkdir(folder, 0700);
    tidy(node);
    for (uint32_t class = 0; class < MESH_DEVICE_CLASSES; class ++) {
        compile.toolkits[class] = (struct toolkit){0};
        if (workers_slots(node->workers, class) > 0)
            ask_toolkit(node, class);
    }
    loop_on_turn(node->loop, on_turn, node);
}

void compile_close(struct node *node)
{
    for (uint32_t i = 0; i < COMPILE_KNOWN_MAX; i++) {
        struct code *code = &compile.codes[i];
        if (code->state == COMPILING) {
            kill(code->process.pid, SIGKILL);
            waitpid(code->process.pid, NULL, 0);
            loop_unwatch(node->loop, code->process.pidfd);
            sandbox_reaped(&code->process);
        }
        forget(code);
    }
    compile.running = 0;
}
