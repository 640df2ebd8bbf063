#include "kernels/worker_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernels/user_compile.h"
#include "kernels/user_run.h"

#define ITEMS 1000
#define EXTENT 7 /* of an axis that only has a name */
#define RUN_SECONDS 20
#define TEXT_BYTES (64u << 10)
#define REPEAT_MAX 1000
#define LINES_MAX 40    /* of what a compiler says */
#define COMPUTE_MAJOR 9 /* compiled for where there is no GPU: sm_90 */

/* An input or an output, in a room of its own as in a worker, shared with the process that runs the kernel. */
struct buffer {
    uint8_t *room, *data;
    uint64_t bytes;
};

struct checking {
    const struct worker_check *check;
    struct gpu *gpu;
    struct manifest_user user;
    struct user_source source;
    struct manifest_params params;
    struct manifest_shapes shapes;
    struct array_type outputs[MANIFEST_OUTPUTS_MAX];
    uint32_t output_count, compiled; /* for how many kinds of device */
    struct buffer inputs[MANIFEST_INPUTS_MAX], outs[MANIFEST_OUTPUTS_MAX];
    uint8_t *first[MANIFEST_OUTPUTS_MAX]; /* what they held after the run on the CPU; NULL: there was none */
    char text[TEXT_BYTES];
};

/* A line that quotes the source, which may be a stranger's: nothing of it moves the terminal. */
static void print_plain(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        fputc(text[i] < 0x20 || text[i] > 0x7e ? (text[i] == '\t' ? ' ' : '?') : text[i], stderr);
    fputc('\n', stderr);
}

static int complain(const char *text)
{
    fputs("weir: ", stderr);
    print_plain(text, strlen(text));
    return 1;
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static char *read_file(const char *path, size_t *bytes)
{
    struct stat status;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = NULL;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= 4 << 20) {
        text = malloc((size_t)status.st_size + 1);
        *bytes = (size_t)status.st_size;
        if (text && read(fd, text, *bytes) != (ssize_t)*bytes) {
            free(text);
            text = NULL;
        }
    }
    if (!text)
        fprintf(stderr, "weir: cannot read %s: %s\n", path,
                fd < 0 ? strerror(errno) : "it is no file, or too large");
    if (fd >= 0)
        close(fd);
    return text;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int open_kernel(struct checking *checking)
{
    char path[4096], error[MANIFEST_ERROR_BYTES];
    const char *source = checking->check->source, *dot = strrchr(source, '.');
    size_t manifest_bytes = 0, source_bytes = 0;
    if (dot && strcmp(dot, ".ptx") == 0) {
        complain(
            "PTX can't be checked here, a GPU's driver reads it first; give the CUDA C that it came from");
        return 2;
    }
    if (checking->check->manifest)
        snprintf(path, sizeof path, "%s", checking->check->manifest);
    else
        snprintf(path, sizeof path, "%.*s.ini", (int)(dot ? (size_t)(dot - source) : strlen(source)), source);
    char *text = read_file(source, &source_bytes);
    char *manifest = text ? read_file(path, &manifest_bytes) : NULL;
    int status = 2;
    if (manifest) {
        status = 0;
        if (!manifest_user_parse(base_name(path), manifest, manifest_bytes, &checking->user, error) ||
            !user_source_open(&checking->source, &checking->user, base_name(source), text, source_bytes,
                              error))
            status = complain(error);
    }
    free(manifest);
    free(text);
    return status;
}

/* ---- Random inputs */

/* Small, finite, of both signs where there is one: every type's. */
static void fill(uint8_t *data, const struct array_type *type, uint64_t bytes, uint64_t *state)
{
    const size_t element = array_dtype_bytes((enum array_dtype)type->dtype);
    for (uint64_t at = 0; at + element <= bytes; at += element) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        const uint32_t random = (uint32_t)(*state >> 33);
        const float single = (float)random * 4.656612873e-10f * 4 - 2;
        const double real = (double)random * 4.656612873077393e-10 * 4 - 2;
        const int64_t whole = (int64_t)(random % 201) - 100;
        const bool sign =
            type->dtype == ARRAY_INT8 || type->dtype == ARRAY_INT32 || type->dtype == ARRAY_INT64;
        const uint64_t natural = sign ? (uint64_t)whole : random % 256;
        if (type->dtype == ARRAY_FLOAT32)
            memcpy(data + at, &single, element);
        else if (type->dtype == ARRAY_FLOAT64)
            memcpy(data + at, &real, element);
        else
            memcpy(data + at, &natural, element); /* little-endian: the low bytes */
    }
}

/* Of an input's axis. As many rows as items where nothing says otherwise: some kernels take an item for a row. */
static uint64_t extent(const struct checking *checking, const struct manifest_axis *axis, uint32_t number)
{
    switch (axis->kind) {
    case MANIFEST_AXIS_ITEMS:
        return checking->shapes.items;
    case MANIFEST_AXIS_NUMBER:
        return axis->value;
    case MANIFEST_AXIS_PARAM:
        return (uint64_t)manifest_param_integer(&checking->params, (uint32_t)axis->value);
    case MANIFEST_AXIS_WORD:
        break;
    }
    return number == 0 ? checking->shapes.items : EXTENT;
}

static int make_buffer(struct buffer *buffer, const struct array_type *type, const char *what)
{
    char message[128];
    uint64_t at = 0;
    if (array_bytes(type, &buffer->bytes) || buffer->bytes > (1u << 30)) {
        snprintf(message, sizeof message, "its %s would be larger than 1 GiB; give fewer --items", what);
        return complain(message);
    }
    const uint64_t offset = manifest_user_place(&at, buffer->bytes);
    buffer->room = user_room_open(at);
    if (!buffer->room ||
        (at > 0 && mmap(buffer->room, at, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED))
        return complain("out of memory");
    buffer->data = buffer->room + offset;
    return 0;
}

static int lay_out(struct checking *checking)
{
    const struct manifest_user *user = &checking->user;
    const struct manifest *manifest = &user->manifest;
    struct manifest_shapes *shapes = &checking->shapes;
    char error[MANIFEST_ERROR_BYTES];
    uint64_t random = 1;
    manifest_params_parse(manifest, NULL, 0, &checking->params, error);
    shapes->items = checking->check->items ? checking->check->items : ITEMS;
    for (uint32_t i = 0; i < manifest->input_count; i++) {
        const struct manifest_axes *axes = &user->inputs[i];
        struct array_type *type = &shapes->inputs[i];
        *type = (struct array_type){.dtype = axes->dtype, .rank = axes->rank};
        shapes->roles[i] = manifest->inputs[i].roles;
        for (uint32_t axis = 0; axis < axes->rank; axis++)
            type->shape[axis] = extent(checking, &axes->axis[axis], axis);
        struct buffer *buffer = &checking->inputs[i];
        if (make_buffer(buffer, type, "inputs"))
            return 1;
        fill(buffer->data, type, buffer->bytes, &random);
        user_access(buffer->data, buffer->bytes, PROT_READ);
    }
    if (manifest_outputs(manifest, &checking->params, shapes, checking->outputs, &checking->output_count,
                         error))
        return complain(error);
    for (uint32_t i = 0; i < checking->output_count; i++)
        if (make_buffer(&checking->outs[i], &checking->outputs[i], "outputs"))
            return 1;
    return 0;
}

/* ---- Running */

static bool line_open; /* "compiled in 108 ms" stands there, and what came of it shall follow */

static void end_line(void)
{
    if (line_open)
        printf("\n");
    line_open = false;
    fflush(stdout);
}

static void tell(const char *message)
{
    end_line();
    complain(message);
}

static int by_value(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static int run_once(struct checking *checking, const struct user_image *image, struct gpu *gpu,
                    bool every_thread)
{
    const struct manifest *manifest = &checking->user.manifest;
    struct kernel_call call = {.manifest = manifest,
                               .params = &checking->params,
                               .items = checking->shapes.items,
                               .output_count = checking->output_count,
                               .image = image,
                               .every_thread = every_thread};
    for (uint32_t i = 0; i < manifest->input_count; i++)
        call.inputs[i] = (struct kernel_input){.data = checking->inputs[i].data,
                                               .bytes = checking->inputs[i].bytes,
                                               .type = checking->shapes.inputs[i],
                                               .broadcast = checking->shapes.roles[i] == MANIFEST_BROADCAST};
    for (uint32_t i = 0; i < checking->output_count; i++)
        call.outputs[i] = (struct kernel_output){
            .data = checking->outs[i].data, .bytes = checking->outs[i].bytes, .type = checking->outputs[i]};
    if (!gpu)
        user_faults(tell);
    double times[REPEAT_MAX];
    const uint64_t wanted = checking->check->repeat, repeat = wanted < 1            ? 1
                                                              : wanted > REPEAT_MAX ? REPEAT_MAX
                                                                                    : wanted;
    for (uint64_t i = 0; i < repeat; i++) {
        const double begin = now_ms();
        if (kernel_run(&call, gpu)) {
            tell(call.message);
            return 1;
        }
        times[i] = now_ms() - begin;
    }
    if (every_thread)
        return 0;
    qsort(times, repeat, sizeof *times, by_value);
    printf("; ran %llu items in %.4g ms", (unsigned long long)call.items, times[repeat / 2]);
    end_line();
    return 0;
}

/* In a process of its own, so that whatever the kernel does ends there. */
static int run_apart(struct checking *checking, const struct user_image *image, bool every_thread)
{
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        alarm(RUN_SECONDS);
        _exit(run_once(checking, image, NULL, every_thread));
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return complain("the kernel can't be run: no process for it");
    if (WIFEXITED(status)) {
        line_open = false; /* the process ended it */
        return WEXITSTATUS(status) == 0 ? 0 : 1;
    }
    if (WTERMSIG(status) == SIGALRM) {
        tell("the kernel did not end within 20 s");
    } else {
        char message[64];
        snprintf(message, sizeof message, "the kernel died of %s", strsignal(WTERMSIG(status)));
        tell(message);
    }
    return 1;
}

/* A CPU leaves out the threads past the last item, a GPU doesn't: they must find out themselves. */
static int run_rest(struct checking *checking, const struct user_image *image)
{
    if (checking->user.item != MANIFEST_ITEM_THREAD || checking->source.fibres)
        return 0; /* all of them ran */
    if (!run_apart(checking, image, true))
        return 0;
    return complain("that was a thread past the last item, and a GPU has such: begin with "
                    "`if (weir_item() < items.count)`");
}

static void keep(struct checking *checking)
{
    for (uint32_t i = 0; i < checking->output_count; i++) {
        checking->first[i] = malloc(checking->outs[i].bytes);
        if (checking->first[i])
            memcpy(checking->first[i], checking->outs[i].data, checking->outs[i].bytes);
    }
}

/* After the run on the CPU: the outputs are kept. After that on a GPU: they are compared. */
static int compare(struct checking *checking)
{
    const struct manifest *manifest = &checking->user.manifest;
    if (!checking->first[0]) {
        keep(checking);
        return 0;
    }
    for (uint32_t i = 0; i < checking->output_count; i++) {
        const struct buffer *buffer = &checking->outs[i];
        const size_t element = array_dtype_bytes((enum array_dtype)checking->outputs[i].dtype);
        uint64_t same = 0;
        while (checking->first[i] && same < buffer->bytes && checking->first[i][same] == buffer->data[same])
            same++;
        if (same == buffer->bytes)
            continue;
        printf("output %s differs between CPU and GPU, first in element %llu\n", manifest->outputs[i].name,
               (unsigned long long)(same / element));
        return manifest->class == MANIFEST_EXACT
                   ? complain("its class is exact, but its bits are not the same")
                   : 0;
    }
    printf("the same bits on CPU and GPU\n");
    return 0;
}

/* What the compiler says, without the thousand lines that may follow the first error. */
static void print_lines(const char *text)
{
    unsigned left = 0;
    for (unsigned line = 0; *text; line++) {
        const size_t bytes = strcspn(text, "\n");
        if (line < LINES_MAX)
            print_plain(text, bytes);
        else
            left++;
        text += bytes + (text[bytes] == '\n');
    }
    if (left > 0)
        fprintf(stderr, "and %u lines more\n", left);
}

static int check_target(struct checking *checking, enum user_target target, struct gpu *gpu)
{
    static const char *const names[] = {"cpu", "cuda"};
    char toolkit[USER_TOOLKIT_BYTES], error[MANIFEST_ERROR_BYTES];
    struct user_request request = {.target = target,
                                   .compute_major = gpu ? checking->check->compute_major : COMPUTE_MAJOR,
                                   .compute_minor = gpu ? checking->check->compute_minor : 0};
    if (!user_toolkit(target, toolkit)) {
        printf("%-5s not compiled: %s\n", names[target], toolkit);
        return 0;
    }
    const int code = memfd_create("weir-kernel", MFD_CLOEXEC);
    const double begin = now_ms();
    const enum user_status status =
        code < 0 ? USER_UNABLE
                 : user_compile(&checking->source, &request, code, checking->text, sizeof checking->text);
    if (status != USER_COMPILED) {
        fflush(stdout);
        print_lines(checking->text);
        fprintf(stderr, "weir: %s does not compile for %s\n", checking->source.file,
                target == USER_CPU ? "CPUs" : "GPUs");
        if (code >= 0)
            close(code);
        return 1;
    }
    const size_t shown = target == USER_CPU ? strcspn(toolkit, " ") : strlen(toolkit);
    printf("%-5s compiled in %.0f ms (%.*s)", names[target], now_ms() - begin, (int)shown, toolkit);
    line_open = true;
    checking->compiled++;
    int result = 0;
    if (target == USER_CUDA && !gpu) {
        printf("; not run: there is no GPU here");
        end_line();
    } else {
        const off_t bytes = lseek(code, 0, SEEK_END);
        struct user_image *image = user_image_open(code, (uint64_t)bytes, gpu, error);
        if (!image) {
            tell(error);
            result = 1;
        } else {
            result = gpu ? run_once(checking, image, gpu, false) : run_apart(checking, image, false);
            if (!result)
                result = compare(checking);
            if (!result && !gpu)
                result = run_rest(checking, image);
        }
        user_image_close(image);
    }
    close(code);
    return result;
}

int worker_check(const struct worker_check *check, struct gpu *gpu)
{
    static const char *const items[] = {"an item per thread", "an item per block", "a block for all items"};
    struct checking *checking = calloc(1, sizeof *checking);
    char signature[1024];
    if (!checking)
        return 1;
    checking->check = check;
    int status = open_kernel(checking);
    if (!status)
        status = lay_out(checking);
    if (!status) {
        user_source_signature(&checking->source, signature, sizeof signature);
        printf("%s\n%s, blocks of %u threads%s\n", signature, items[checking->user.item],
               checking->user.block, checking->source.fibres ? " that wait for each other" : "");
        fflush(stdout);
        const int cpu = check_target(checking, USER_CPU, NULL);
        const int cuda = check_target(checking, USER_CUDA, gpu);
        status = cpu ? cpu : cuda;
        if (!status && checking->compiled == 0)
            status = complain("there is no compiler, so nothing was checked; install g++");
    }
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        user_room_close(checking->inputs[i].room, checking->inputs[i].bytes);
    for (uint32_t i = 0; i < MANIFEST_OUTPUTS_MAX; i++) {
        user_room_close(checking->outs[i].room, checking->outs[i].bytes);
        free(checking->first[i]);
    }
    user_source_close(&checking->source);
    free(checking);
    return status;
}
