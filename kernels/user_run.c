#include "kernels/user_run.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/gpu.h"
#include "kernels/user_compile.h"
#include "kernels/worker.h"

#define SEGMENTS_MAX 16
#define FAULT_STACK_BYTES (64u << 10)

/* As weir_kernel.h has it. */
struct weir_call {
    uint64_t first, count;
    void *buffers[MANIFEST_INPUTS_MAX + MANIFEST_OUTPUTS_MAX];
    uint64_t extents[MANIFEST_WORDS_MAX];
    const uint8_t *params;
    void *shared;
    uint8_t *stacks;
    uint64_t stack_bytes;
    _Atomic uint64_t *stamp;
    const _Atomic uint32_t *cancel;
    uint32_t every_thread;
};
typedef int entry_function(const struct weir_call *call);

/* Born by user_image_open. Variables of the code begin each shard as they were at first, so that no shard sees what
 * another left. */
struct user_image {
    struct gpu *gpu;
    void *module, *function; /* GPU */
    uint8_t *memory;
    uint64_t bytes;
    entry_function *entry;
    uint8_t *writable, *pristine; /* the one segment of variables, and what it held */
    uint64_t writable_bytes;
};

static struct {
    void (*tell)(const char *message);
    const struct kernel_call *call; /* being run; NULL: none, so that a fault is our own */
    uint8_t *stacks;                /* of fibres */
    uint32_t stack_count;
    uint8_t *shared;
} running;

/* ---- Rooms */

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + USER_PAGE_BYTES - 1) / USER_PAGE_BYTES * USER_PAGE_BYTES;
}

uint8_t *user_room_open(uint64_t bytes)
{
    uint8_t *all = mmap(NULL, page_up(bytes) + 2 * USER_APART_BYTES, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return all == MAP_FAILED ? NULL : all + USER_APART_BYTES;
}

void user_room_close(uint8_t *room, uint64_t bytes)
{
    if (room)
        munmap(room - USER_APART_BYTES, page_up(bytes) + 2 * USER_APART_BYTES);
}

bool user_access(const void *data, uint64_t bytes, int protection)
{
    uint8_t *begin = (uint8_t *)((uintptr_t)data / USER_PAGE_BYTES * USER_PAGE_BYTES);
    return bytes == 0 || mprotect(begin, (size_t)((const uint8_t *)data + bytes - begin), protection) == 0;
}

/* ---- Faults */

static bool within(const uint8_t *at, const void *begin, uint64_t bytes)
{
    return at >= (const uint8_t *)begin && at < (const uint8_t *)begin + bytes;
}

/* Whether the address lies in that buffer's room: then the kernel was on its way to that buffer. */
static bool describe_buffer(const uint8_t *at, const char *kind, const char *name, const void *data,
                            uint64_t bytes, char message[MANIFEST_ERROR_BYTES])
{
    const uint8_t *begin = data, *end = begin + bytes;
    const bool past = data && within(at, end, USER_APART_BYTES);
    if (!past && !(data && within(at, begin - USER_APART_BYTES, USER_APART_BYTES)))
        return false;
    const uint64_t away = (uint64_t)(past ? at - end : begin - at);
    const int used = snprintf(message, MANIFEST_ERROR_BYTES, "the kernel reached %s of %s %s",
                              past ? "past the end" : "before the beginning", kind, name);
    if (away >= USER_PAGE_BYTES)
        snprintf(message + used, (size_t)(MANIFEST_ERROR_BYTES - used), ", by %llu KiB",
                 (unsigned long long)(away >> 10));
    return true;
}

static bool describe_buffers(const uint8_t *at, char message[MANIFEST_ERROR_BYTES])
{
    const struct kernel_call *call = running.call;
    for (uint32_t i = 0; i < call->output_count; i++)
        if (describe_buffer(at, "output", call->manifest->outputs[i].name, call->outputs[i].data,
                            call->outputs[i].bytes, message))
            return true;
    for (uint32_t i = 0; i < call->manifest->input_count; i++)
        if (describe_buffer(at, "input", call->manifest->inputs[i].name, call->inputs[i].data,
                            call->inputs[i].bytes, message))
            return true;
    return false;
}

static void describe_address(const uint8_t *at, char message[MANIFEST_ERROR_BYTES])
{
    const struct kernel_call *call = running.call;
    for (uint32_t i = 0; i < call->manifest->input_count; i++)
        if (within(at, call->inputs[i].data, call->inputs[i].bytes)) {
            snprintf(message, MANIFEST_ERROR_BYTES, "the kernel wrote to input %s",
                     call->manifest->inputs[i].name);
            return;
        }
    if (describe_buffers(at, message))
        return;
    if (running.shared &&
        within(at, running.shared - USER_APART_BYTES, MANIFEST_SHARED_BYTES_MAX + 2 * USER_APART_BYTES))
        snprintf(message, MANIFEST_ERROR_BYTES, "the kernel reached outside its %u bytes of shared memory",
                 call->manifest->user->shared_bytes);
    else if (within(at, running.stacks, (uint64_t)running.stack_count * USER_STACK_BYTES))
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "a thread of the kernel used more than %u KiB of local variables, beside others that it "
                 "waits for",
                 (USER_STACK_BYTES - USER_PAGE_BYTES) >> 10);
    else
        snprintf(message, MANIFEST_ERROR_BYTES,
                 "the kernel reached for memory that is not its own (address %p), or used too much for local "
                 "variables",
                 (const void *)at);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    char message[MANIFEST_ERROR_BYTES];
    (void)context;
    if (!running.call || !running.tell) { /* our own mistake: die of it */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (number == SIGFPE)
        snprintf(message, sizeof message, "the kernel divided a whole number by zero");
    else if (number == SIGILL)
        snprintf(message, sizeof message, "the kernel came to an instruction that is none");
    else
        describe_address(info->si_addr, message);
    running.tell(message);
    _exit(WORKER_EXIT_SPOILED);
}

void user_faults(void (*tell)(const char *message))
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    static uint8_t stack[FAULT_STACK_BYTES];
    const stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    action.sa_sigaction = on_fault;
    running.tell = tell;
    sigaltstack(&own, NULL);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

/* ---- Loading */

/* The file as it was given; every number in it may be a lie. */
struct object {
    const uint8_t *bytes;
    uint64_t count;
    const Elf64_Ehdr *head;
    const Elf64_Phdr *segments;
    uint64_t span; /* of all segments, in whole pages */
};

__attribute__((format(printf, 2, 3))) static bool bad(char message[MANIFEST_ERROR_BYTES], const char *format,
                                                      ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, MANIFEST_ERROR_BYTES, format, arguments);
    va_end(arguments);
    return false;
}

static bool check_object(struct object *object, char message[MANIFEST_ERROR_BYTES])
{
    const Elf64_Ehdr *head = object->head = (const Elf64_Ehdr *)(const void *)object->bytes;
    if (object->count < sizeof *head || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
        head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_type != ET_DYN || head->e_machine != EM_X86_64 ||
        head->e_phentsize != sizeof(Elf64_Phdr) || head->e_phnum == 0 || head->e_phnum > SEGMENTS_MAX ||
        head->e_phoff % 8 != 0 || head->e_phoff > object->count ||
        head->e_phnum * sizeof(Elf64_Phdr) > object->count - head->e_phoff)
        return bad(message, "the compiled kernel is no code for this processor");
    object->segments = (const Elf64_Phdr *)(const void *)(object->bytes + head->e_phoff);
    bool entered = false;
    uint32_t writable = 0;
    for (uint32_t i = 0; i < head->e_phnum; i++) {
        const Elf64_Phdr *segment = &object->segments[i];
        if (segment->p_type == PT_TLS || segment->p_type == PT_INTERP)
            return bad(message, "the kernel has thread_local variables, which can't be");
        if (segment->p_type != PT_LOAD)
            continue;
        if (segment->p_memsz > USER_CODE_BYTES_MAX || segment->p_vaddr > USER_CODE_BYTES_MAX)
            return bad(message, "the kernel's variables take more than %u MiB", USER_CODE_BYTES_MAX >> 20);
        if (segment->p_filesz > segment->p_memsz || segment->p_offset > object->count ||
            segment->p_filesz > object->count - segment->p_offset || segment->p_vaddr < object->span ||
            segment->p_vaddr % USER_PAGE_BYTES != segment->p_offset % USER_PAGE_BYTES ||
            (segment->p_flags & (PF_W | PF_X)) == (PF_W | PF_X))
            return bad(message, "the compiled kernel's segments make no sense");
        writable += (segment->p_flags & PF_W) != 0;
        entered |= (segment->p_flags & PF_X) && head->e_entry >= segment->p_vaddr &&
                   head->e_entry < segment->p_vaddr + segment->p_filesz;
        object->span = page_up(segment->p_vaddr + segment->p_memsz);
    }
    if (!entered || writable > 1 || object->span > USER_CODE_BYTES_MAX)
        return bad(message, "the compiled kernel has no entry, or more than %u MiB",
                   USER_CODE_BYTES_MAX >> 20);
    return true;
}

static bool map_segment(struct user_image *image, const Elf64_Phdr *segment, int fd)
{
    const uint64_t slack = segment->p_vaddr % USER_PAGE_BYTES, begin = segment->p_vaddr - slack;
    const uint64_t in_file = segment->p_filesz ? page_up(slack + segment->p_filesz) : 0;
    const uint64_t in_memory = page_up(slack + segment->p_memsz);
    const int access =
        PROT_READ | (segment->p_flags & PF_W ? PROT_WRITE : 0) | (segment->p_flags & PF_X ? PROT_EXEC : 0);
    if (in_file && mmap(image->memory + begin, in_file, access, MAP_PRIVATE | MAP_FIXED, fd,
                        (off_t)(segment->p_offset - slack)) == MAP_FAILED)
        return false;
    if (in_memory > in_file && mmap(image->memory + begin + in_file, in_memory - in_file, access,
                                    MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        return false;
    if (segment->p_flags & PF_W) {
        if (in_file)
            memset(image->memory + segment->p_vaddr + segment->p_filesz, 0,
                   begin + in_file - segment->p_vaddr - segment->p_filesz);
        image->writable = image->memory + segment->p_vaddr;
        image->writable_bytes = segment->p_memsz;
    }
    return true;
}

/* Whether those bytes of the loaded code came from the file: between segments nothing can be read. */
static bool is_loaded(const struct object *object, uint64_t at, uint64_t bytes)
{
    for (uint32_t i = 0; i < object->head->e_phnum; i++) {
        const Elf64_Phdr *segment = &object->segments[i];
        if (segment->p_type == PT_LOAD && at >= segment->p_vaddr && bytes <= segment->p_filesz &&
            at - segment->p_vaddr <= segment->p_filesz - bytes)
            return true;
    }
    return false;
}

/* The only relocations of code without dependencies are addresses of its own. */
static bool relocate(struct user_image *image, const struct object *object)
{
    uint64_t rela = 0, rela_bytes = 0;
    for (uint32_t i = 0; i < object->head->e_phnum; i++) {
        const Elf64_Phdr *segment = &object->segments[i];
        if (segment->p_type != PT_DYNAMIC)
            continue;
        if (segment->p_offset % 8 || segment->p_offset > object->count ||
            segment->p_filesz > object->count - segment->p_offset)
            return false;
        const Elf64_Dyn *dynamic = (const Elf64_Dyn *)(const void *)(object->bytes + segment->p_offset);
        for (uint64_t k = 0; k < segment->p_filesz / sizeof *dynamic && dynamic[k].d_tag != DT_NULL; k++) {
            if (dynamic[k].d_tag == DT_NEEDED || dynamic[k].d_tag == DT_JMPREL ||
                dynamic[k].d_tag == DT_TEXTREL)
                return false;
            rela = dynamic[k].d_tag == DT_RELA ? dynamic[k].d_un.d_ptr : rela;
            rela_bytes = dynamic[k].d_tag == DT_RELASZ ? dynamic[k].d_un.d_val : rela_bytes;
        }
    }
    if (rela_bytes == 0)
        return true;
    if (rela % 8 || !is_loaded(object, rela, rela_bytes))
        return false;
    const Elf64_Rela *each = (const Elf64_Rela *)(const void *)(image->memory + rela);
    for (uint64_t k = 0; k < rela_bytes / sizeof *each; k++) {
        const uint64_t base = (uint64_t)(image->writable - image->memory);
        if (ELF64_R_TYPE(each[k].r_info) != R_X86_64_RELATIVE || !image->writable || each[k].r_offset % 8 ||
            each[k].r_offset < base || image->writable_bytes < 8 ||
            each[k].r_offset - base > image->writable_bytes - 8)
            return false;
        const uint64_t value = (uint64_t)(uintptr_t)image->memory + (uint64_t)each[k].r_addend;
        memcpy(image->memory + each[k].r_offset, &value, sizeof value);
    }
    return true;
}

static bool load(struct user_image *image, struct object *object, int fd, char message[MANIFEST_ERROR_BYTES])
{
    if (!check_object(object, message))
        return false;
    image->bytes = object->span;
    image->memory = user_room_open(image->bytes);
    if (!image->memory)
        return bad(message, "no memory for the kernel's code: %s", strerror(errno));
    for (uint32_t i = 0; i < object->head->e_phnum; i++)
        if (object->segments[i].p_type == PT_LOAD && !map_segment(image, &object->segments[i], fd))
            return bad(message, "the kernel's code can't be mapped: %s", strerror(errno));
    if (!relocate(image, object))
        return bad(message, "the compiled kernel needs a library");
    if (image->writable_bytes > 0 && !(image->pristine = malloc(image->writable_bytes)))
        return bad(message, "no memory for the kernel's variables");
    if (image->writable_bytes > 0)
        memcpy(image->pristine, image->writable, image->writable_bytes);
    *(void **)&image->entry = image->memory + object->head->e_entry;
    return true;
}

/* The driver checks the code; it ends with a zero byte if it is PTX, since we wrote it so. */
static bool load_gpu(struct user_image *image, const struct object *object,
                     char message[MANIFEST_ERROR_BYTES])
{
    struct user_gpu_code head;
    if (object->count <= sizeof head)
        return bad(message, "the compiled kernel is no code for a GPU");
    memcpy(&head, object->bytes, sizeof head);
    head.entry[sizeof head.entry - 1] = '\0';
    gpu_load(image->gpu, object->bytes + sizeof head, &image->module);
    if (!image->module)
        return bad(message, "the driver of this GPU refuses the kernel's code");
    image->function = gpu_function(image->gpu, image->module, head.entry);
    return image->function ? true : bad(message, "the kernel's code has no entry %s", head.entry);
}

struct user_image *user_image_open(int fd, uint64_t bytes, struct gpu *gpu,
                                   char message[MANIFEST_ERROR_BYTES])
{
    struct object object = {.count = bytes};
    struct user_image *image = calloc(1, sizeof *image);
    void *map = bytes > 0 && bytes <= USER_CODE_BYTES_MAX ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0)
                                                          : MAP_FAILED;
    if (!image || map == MAP_FAILED) {
        bad(message, "the kernel's code can't be mapped");
        free(image);
        return NULL;
    }
    image->gpu = gpu;
    object.bytes = map;
    const bool good = gpu ? load_gpu(image, &object, message) : load(image, &object, fd, message);
    munmap(map, bytes);
    if (good)
        return image;
    user_image_close(image);
    return NULL;
}

void user_image_close(struct user_image *image)
{
    if (!image)
        return;
    if (image->module)
        gpu_unload(image->gpu, image->module);
    user_room_close(image->memory, image->bytes);
    free(image->pristine);
    free(image);
}

/* ---- Running */

/* Shared memory ends as buffers do. */
static uint8_t *shared_memory(uint32_t bytes)
{
    if (!running.shared) {
        uint8_t *room = user_room_open(MANIFEST_SHARED_BYTES_MAX);
        if (!room || !user_access(room, MANIFEST_SHARED_BYTES_MAX, PROT_READ | PROT_WRITE)) {
            user_room_close(room, MANIFEST_SHARED_BYTES_MAX);
            return NULL;
        }
        running.shared = room;
    }
    return running.shared + MANIFEST_SHARED_BYTES_MAX - (bytes + 15) / 16 * 16;
}

static bool make_stacks(uint32_t count)
{
    if (running.stack_count >= count)
        return true;
    uint8_t *memory = mmap(NULL, (uint64_t)count * USER_STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    for (uint32_t i = 0; i < count; i++)
        mprotect(memory + (uint64_t)i * USER_STACK_BYTES, USER_PAGE_BYTES, PROT_NONE);
    if (running.stacks)
        munmap(running.stacks, (uint64_t)running.stack_count * USER_STACK_BYTES);
    running.stacks = memory;
    running.stack_count = count;
    return true;
}

static void fill_call(const struct kernel_call *call, struct weir_call *filled)
{
    const struct manifest_user *user = call->manifest->user;
    struct manifest_shapes shapes = {.items = call->items};
    uint32_t buffer = 0;
    for (uint32_t i = 0; i < call->manifest->input_count; i++) {
        shapes.inputs[i] = call->inputs[i].type;
        filled->buffers[buffer++] = (void *)(uintptr_t)call->inputs[i].data;
    }
    for (uint32_t i = 0; i < call->output_count; i++)
        filled->buffers[buffer++] = call->outputs[i].data;
    manifest_user_words(user, &shapes, filled->extents);
}

enum kernel_error user_run(struct kernel_call *call)
{
    static _Atomic uint64_t nobody_looks;
    static const _Atomic uint32_t never;
    const struct user_image *image = call->image;
    const struct manifest_user *user = call->manifest->user;
    if (!image)
        return kernel_fail(call, KERNEL_FAILED, "this worker has no code for kernel %s",
                           call->manifest->name);
    struct weir_call filled = {.first = call->first_item,
                               .count = call->items,
                               .params = call->params->data,
                               .shared = shared_memory(user->shared_bytes),
                               .stacks = running.stack_count >= user->block ? running.stacks : NULL,
                               .stack_bytes = USER_STACK_BYTES,
                               .stamp = call->watch.stamp ? call->watch.stamp : &nobody_looks,
                               .cancel = call->watch.cancel ? call->watch.cancel : &never,
                               .every_thread = call->every_thread};
    if (!filled.shared)
        return kernel_fail(call, KERNEL_FAILED, "no memory for the kernel's shared memory");
    fill_call(call, &filled);
    if (image->writable_bytes > 0)
        memcpy(image->writable, image->pristine, image->writable_bytes);
    for (uint32_t i = 0; i < call->output_count; i++)
        memset(call->outputs[i].data, 0, call->outputs[i].bytes);
    running.call = call;
    int result = image->entry(&filled);
    if (result < 0 && !filled.stacks) { /* its threads wait for each other */
        running.call = NULL;
        if (!make_stacks(user->block))
            return kernel_fail(call, KERNEL_FAILED, "no memory for the stacks of %u threads", user->block);
        filled.stacks = running.stacks;
        running.call = call;
        result = image->entry(&filled);
    }
    running.call = NULL;
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(0x1f80); /* whatever it did to rounding */
#endif
    if (result == 0)
        return KERNEL_OK;
    return kernel_fail(call, KERNEL_CANCELLED, "%s", "");
}

/* ---- On a GPU */

/* Whether a shard must be one launch: what it gives hangs on all of its items. */
static bool is_whole(const struct manifest *manifest)
{
    bool whole = manifest->user->item == MANIFEST_ITEM_SHARD;
    for (uint32_t i = 0; i < manifest->output_count; i++)
        whole = whole || manifest->outputs[i].combine != MANIFEST_CONCAT;
    return whole;
}

/* Items [first, first + count) of the batch; reduced outputs are those of call number `shard`. */
static bool launch_range(struct gpu_work *work, uint64_t first, uint64_t count, uint32_t shard)
{
    const struct kernel_call *call = &work->calls[shard];
    const struct manifest_user *user = call->manifest->user;
    struct manifest_shapes shapes = {.items = count};
    struct {
        uint64_t first, count;
    } items = {work->first_item + first, count};
    uint64_t pointers[MANIFEST_INPUTS_MAX + MANIFEST_OUTPUTS_MAX], extents[MANIFEST_WORDS_MAX],
        params[MANIFEST_PARAMS_MAX];
    void *arguments[MANIFEST_ARGUMENTS_MAX];
    uint32_t buffers = 0, argument = 0;
    arguments[argument++] = &items;
    for (uint32_t i = 0; i < user->manifest.input_count; i++) {
        uint64_t row_bytes = 0;
        const bool split = user->manifest.inputs[i].roles == MANIFEST_SPLIT;
        shapes.inputs[i] = call->inputs[i].type;
        array_row_bytes(&call->inputs[i].type, &row_bytes);
        pointers[buffers] = split ? work->inputs[i] + first * row_bytes : gpu_broadcast(work, i);
        if (!split && !pointers[buffers])
            return false;
        arguments[argument++] = &pointers[buffers++];
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        uint64_t row_bytes = 0;
        array_row_bytes(&call->outputs[i].type, &row_bytes);
        pointers[buffers] = work->outputs[i] + (user->manifest.outputs[i].combine == MANIFEST_CONCAT
                                                    ? first * row_bytes
                                                    : shard * call->outputs[i].bytes);
        arguments[argument++] = &pointers[buffers++];
    }
    memcpy(params, call->params->data, sizeof params);
    for (uint32_t i = 0; i < user->manifest.param_count; i++)
        arguments[argument++] = &params[i];
    manifest_user_words(user, &shapes, extents);
    for (uint32_t i = 0; i < user->word_count; i++)
        arguments[argument++] = &extents[i];
    const uint64_t blocks = user->item == MANIFEST_ITEM_THREAD  ? (count + user->block - 1) / user->block
                            : user->item == MANIFEST_ITEM_BLOCK ? count
                                                                : 1;
    if (blocks > INT32_MAX)
        return gpu_refuse(work, KERNEL_FAILED, "a launch of %llu blocks is more than a GPU takes",
                          (unsigned long long)blocks);
    const struct gpu_grid grid = {
        .x = (uint32_t)blocks, .threads = user->block, .shared_bytes = user->shared_bytes};
    return gpu_launch_function(work, call->image->function, grid, arguments);
}

bool user_launch(struct gpu_work *work, uint64_t first, uint64_t count)
{
    const struct kernel_call *calls = work->calls;
    if (!calls[0].image)
        return gpu_refuse(work, KERNEL_FAILED, "this worker has no code for kernel %s",
                          calls[0].manifest->name);
    if (!is_whole(calls[0].manifest))
        return launch_range(work, first, count, 0);
    uint64_t begin = 0; /* a shard is launched with the step that has its first item */
    for (uint32_t i = 0; i < work->count; begin += calls[i++].items)
        if (begin >= first && begin < first + count && !launch_range(work, begin, calls[i].items, i))
            return false;
    return true;
}
