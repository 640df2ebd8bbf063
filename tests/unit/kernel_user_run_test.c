/* Compiling and running users' kernels on this CPU: right results, faults that are told, and code that lies. */
#include "kernels/user_compile.h"
#include "kernels/user_run.h"
#include "kernels/worker.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define ITEMS 1000

static char error[MANIFEST_ERROR_BYTES], text[16384];
static enum user_target target; /* what `compile` compiles for */
static struct manifest_user user;

#define HEAD "[kernel]\nname = k\n"
#define IN "[input x]\ntype = uint32\nshape = items\n"
#define OUT "[output y]\ntype = uint32\nshape = items\n"
#define ENTRY "extern \"C\" __global__ void k(weir_items items, const uint32_t *x, uint32_t *y)\n{\n"

/* A memfd with the code; its size in *bytes. */
static int compile(const char *manifest, const char *source, uint64_t *bytes)
{
    struct user_source scanned;
    const struct user_request request = {.target = target, .compute_major = 9};
    assert_true(manifest_user_parse("k.ini", manifest, strlen(manifest), &user, error));
    assert_true(user_source_open(&scanned, &user, "k.cu", source, strlen(source), error));
    char *trap =
        strstr(scanned.text, "ill_instruction()"); /* no source may name it, but code may come to one */
    if (trap)
        memcpy(trap, "__builtin_trap( )", strlen("ill_instruction()"));
    const int fd = memfd_create("code", MFD_CLOEXEC);
    const enum user_status status = user_compile(&scanned, &request, fd, text, sizeof text);
    if (status != USER_COMPILED)
        print_message("%s\n", text);
    assert_int_equal(status, USER_COMPILED);
    *bytes = (uint64_t)lseek(fd, 0, SEEK_END);
    user_source_close(&scanned);
    return fd;
}

/* Buffers as a worker lays them out: each at the end of a room of its own. */
static uint32_t *make_buffer(uint64_t items)
{
    uint64_t at = 0;
    const uint64_t offset = manifest_user_place(&at, 4 * items);
    uint8_t *room = user_room_open(at);
    assert_non_null(room);
    assert_true(mmap(room, at, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    assert_true(user_access(room + offset, 4 * items, PROT_READ | PROT_WRITE));
    return (uint32_t *)(void *)(room + offset);
}

static void lay_out(uint64_t items, uint32_t **x, uint32_t **y)
{
    *x = make_buffer(items);
    *y = make_buffer(items);
    for (uint32_t i = 0; i < items; i++) {
        (*x)[i] = i;
        (*y)[i] = 0xdeadbeef;
    }
    assert_true(user_access(*x, 4 * items, PROT_READ));
}

static enum kernel_error run(const struct user_image *image, uint64_t items, const uint32_t *x, uint32_t *y)
{
    const struct array_type type = {.dtype = ARRAY_UINT32, .rank = 1, .shape = {items}};
    struct manifest_params params = {0};
    struct kernel_call call = {.manifest = &user.manifest,
                               .params = &params,
                               .items = items,
                               .inputs = {{.data = x, .bytes = 4 * items, .type = type}},
                               .outputs = {{.data = y, .bytes = 4 * items, .type = type}},
                               .output_count = 1,
                               .image = image};
    return kernel_run(&call, NULL);
}

static void threads_blocks_and_shards_see_their_items(void **state)
{
    (void)state;
    static const struct {
        const char *item, *source;
    } cases[] = {
        {"thread",
         ENTRY "y[weir_item()] = x[weir_item()] * 3 + 1;\n}"}, /* no guard: no thread past the last item */
        {"thread",
         ENTRY "__syncthreads(); if (weir_item() < items.count) y[weir_item()] = x[weir_item()] * 3 + 1;\n}"},
        {"thread",
         ENTRY "if (weir_item() < items.count) y[blockIdx.x * 96 + threadIdx.x] = x[weir_item()] * 3 + "
               "1;\n}"},
        {"thread", ENTRY "const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n"
                         "if (i < items.count) y[i] = x[i] * 3 + 1;\n}"},
        {"block", ENTRY "if (threadIdx.x == 31) y[blockIdx.x] = x[blockIdx.x] * 3 + 1;\n}"},
        {"shard",
         ENTRY "for (uint64_t i = threadIdx.x; i < items.count; i += blockDim.x) y[i] = x[i] * 3 + 1;\n}"},
        /* What one thread left in shared memory before a barrier, others find behind it. */
        {"shard", ENTRY "__shared__ uint32_t s[96];\nfor (uint64_t b = 0; b < items.count; b += 96) {\n"
                        "const uint64_t i = b + threadIdx.x;\n__syncthreads();\ns[95 - threadIdx.x] = i < "
                        "items.count ? x[i] : 0;\n"
                        "__syncthreads();\nif (i < items.count) y[i] = s[95 - threadIdx.x] * 3 + 1;\n}\n}"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint64_t items = 1; items <= ITEMS; items = items < 95 ? items + 47 : items * 3) {
            char manifest[512];
            uint64_t bytes;
            uint32_t *x, *y;
            snprintf(manifest, sizeof manifest, HEAD "block = 96\nitem = %s\n" IN OUT, cases[c].item);
            const int fd = compile(manifest, cases[c].source, &bytes);
            struct user_image *image = user_image_open(fd, bytes, NULL, error);
            assert_non_null(image);
            lay_out(items, &x, &y);
            for (int again = 0; again < 2; again++)
                assert_int_equal(run(image, items, x, y), KERNEL_OK);
            for (uint32_t i = 0; i < items; i++)
                assert_int_equal(y[i], i * 3 + 1);
            user_image_close(image);
            close(fd);
            if (items > 300)
                break;
        }
}

/* Every shuffle and vote against what CUDA says of it; warps of a block take different numbers of turns. */
/* vpmaskmovd to memory, as AVX2 has it. */
static bool stores_behind_masks(const char *source)
{
    uint64_t bytes;
    const int fd = compile(HEAD "block = 96\nitem = thread\n" IN OUT, source, &bytes);
    const uint8_t *code = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    bool found = false;
    assert_true(code != MAP_FAILED);
    for (uint64_t i = 0; i + 4 <= bytes; i++)
        found |=
            code[i] == 0xc4 && (code[i + 1] & 0x1f) == 2 && (code[i + 2] & 0x83) == 1 && code[i + 3] == 0x8e;
    munmap((void *)(uintptr_t)code, bytes);
    close(fd);
    return found;
}

/* Some processors make such stores number by number: a loop took three times as long. */
static void to_ask_whether_there_is_an_item_costs_no_masks(void **state)
{
    (void)state;
    if (!stores_behind_masks(ENTRY "const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n"
                                   "if (i < items.count) y[i] = x[i] * 3 + 1;\n}"))
        skip(); /* this compiler makes none for this processor anyway */
    assert_false(stores_behind_masks(
        ENTRY "if (weir_item() < items.count) y[weir_item()] = x[weir_item()] * 3 + 1;\n}"));
    assert_false(stores_behind_masks(ENTRY "const uint64_t i = weir_item();\nif (i >= items.count) return;\n"
                                           "y[i] = x[i] * 3 + 1;\n}"));
}

static void warps_exchange_values(void **state)
{
    (void)state;
    uint64_t bytes;
    uint32_t *x, *y;
    const int fd =
        compile(HEAD "item = shard\nblock = 100\n" IN OUT,
                ENTRY "const uint32_t t = threadIdx.x, v = x[t] * 10;\nuint32_t sum = 0;\n"
                      "for (uint32_t turn = 0; turn <= t / 32; turn++) {\n"
                      "sum += __shfl_sync(~0u, v, (int)turn);\nsum += __shfl_up_sync(~0u, v, 1);\n"
                      "sum += __shfl_down_sync(~0u, v, 2);\nsum += __shfl_xor_sync(~0u, v, 1, 4);\n"
                      "sum += __ballot_sync(~0u, t % 3 == 0) % 1000;\nsum += __any_sync(~0u, t == 40);\n"
                      "sum += __all_sync(~0u, t < 64);\n__syncwarp();\n}\n__syncthreads();\ny[t] = sum;\n}",
                &bytes);
    struct user_image *image = user_image_open(fd, bytes, NULL, error);
    assert_non_null(image);
    lay_out(100, &x, &y);
    assert_int_equal(run(image, 100, x, y), KERNEL_OK);
    for (uint32_t t = 0; t < 96;
         t++) { /* the last warp has four lanes: what it reads of the others is nobody's */
        const uint32_t lane = t % 32, base = t - lane;
        uint32_t sum = 0, votes = 0;
        for (uint32_t i = 0; i < 32; i++)
            votes |= (uint32_t)((base + i) % 3 == 0) << i;
        for (uint32_t turn = 0; turn <= t / 32; turn++)
            sum += 10 * (base + turn) + 10 * (lane ? t - 1 : t) + 10 * (lane < 30 ? t + 2 : t) +
                   10 * (t ^ 1) + votes % 1000 + (base == 32) + (base < 64);
        assert_int_equal(y[t], sum);
    }
    user_image_close(image);
    close(fd);
}

/* Variables outside of functions are as new in every shard, and so are outputs. */
static void shards_leave_nothing_behind(void **state)
{
    (void)state;
    uint64_t bytes;
    uint32_t *x, *y;
    const int fd = compile(
        HEAD IN OUT, "__device__ uint32_t seen = 7;\n" ENTRY "y[weir_item()] += seen++ + 1;\n}", &bytes);
    struct user_image *image = user_image_open(fd, bytes, NULL, error);
    assert_non_null(image);
    lay_out(10, &x, &y);
    for (int shard = 0; shard < 3; shard++) {
        assert_int_equal(run(image, 10, x, y), KERNEL_OK);
        for (uint32_t i = 0; i < 10; i++)
            assert_int_equal(y[i], 8 + i);
    }
    user_image_close(image);
    close(fd);
}

static char *told; /* shared with the process that faults */

static void tell(const char *message)
{
    snprintf(told, MANIFEST_ERROR_BYTES, "%s", message);
}

static void faults_are_told_and_end_the_process(void **state)
{
    (void)state;
    static const struct {
        const char *body, *told;
    } cases[] = {
        {"y[0] = x[items.count];", "the kernel reached past the end of input x"},
        {"y[items.count] = 1;", "the kernel reached past the end of output y"},
        {"y[0] = x[-100];", "the kernel reached before the beginning of input x"},
        {"y[0] = x[items.count + (1 << 22)];", "the kernel reached past the end of input x, by 16384 KiB"},
        {"y[items.count + 4000000000] = 1;", "the kernel reached past the end of output y, by 15625000 KiB"},
        {"y[0] = x[-2147483648 + (int)weir_item()];",
         "the kernel reached before the beginning of input x, by 8388608 KiB"},
        {"const_cast<uint32_t *>(x)[weir_item()] = 1;", "the kernel wrote to input x"},
        {"y[0] = weir_shared<uint32_t>()[1 << 20];",
         "the kernel reached outside its 16 bytes of shared memory"},
        {"y[0] = 1000 / x[weir_item()];", "the kernel divided a whole number by zero"},
        {"weir_shared<uint32_t>()[4] = 1; y[0] = weir_shared<uint32_t>()[4];",
         "the kernel reached outside its 16 bytes of shared memory"},
        {"ill_instruction();", "the kernel came to an instruction that is none"},
    };
    told = mmap(NULL, MANIFEST_ERROR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[512];
        uint64_t bytes;
        uint32_t *x, *y;
        snprintf(source, sizeof source, ENTRY "%s\n}", cases[i].body);
        const int fd = compile(HEAD "shared = 16\n" IN OUT, source, &bytes);
        struct user_image *image = user_image_open(fd, bytes, NULL, error);
        assert_non_null(image);
        lay_out(ITEMS, &x, &y);
        told[0] = '\0';
        const pid_t pid = fork();
        if (pid == 0) {
            user_faults(tell);
            _exit(run(image, ITEMS, x, y) == KERNEL_OK ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), WORKER_EXIT_SPOILED);
        assert_string_equal(told, cases[i].told);
        user_image_close(image);
        close(fd);
    }
}

/* What g++ 12 and NVRTC 13 said, shortened. */
static void the_first_line_is_the_authors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *line;
    } cases[] = {
        {"k.cu: In function 'void k()':\nk.cu:3:10: error: 'z' was not declared\nk.cu:4:1: error: more\n",
         "k.cu:3:10: error: 'z' was not declared"},
        {"weir_kernel.h: In instantiation of 'T atomicAdd(T*) [with T = float]':\n"
         "k.cu:5:18:   required from 'void add(T*)'\nk.cu:9:3:   required from here\n"
         "weir_kernel.h:356:34: error: static assertion failed: atomicAdd takes whole numbers\n"
         "weir_kernel.h:363:1: note: in expansion of macro 'WEIR_ATOMIC'\n",
         "k.cu:5:18: error: static assertion failed: atomicAdd takes whole numbers"},
        {"weir_kernel.h:66: error: static assertion failed with \"whole numbers\"\n      static_assert(\n    "
         "  ^\n"
         "          detected during instantiation of class \"w<T> [with T=float]\" at line 5 of k.cu\n",
         "k.cu:5: error: static assertion failed with \"whole numbers\""},
        {"weir_kernel.h:9:1: error: ours alone\nk.cu:7:1:   required from here\nweir_math.h:8:1: error: "
         "yours\n",
         "k.cu:7:1: error: yours"},
        {"weir_kernel.h:9:1: error: ours alone\n", "weir_kernel.h:9:1: error: ours alone"},
        {"k.cu:1:1: error: a\ncc1plus: out of memory allocating 9 bytes\n",
         "the compiler needs more memory for this source than it is given: k.cu:1:1: error: a"},
        {"ld: k.cc:(.text+0x7): relocation truncated to fit\n",
         "the kernel's variables are too large: ld: k.cc:(.text+0x7): relocation truncated to fit"},
        {"the compiler took longer", "the compiler took longer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256];
        user_compile_headline(cases[i].text, "k.cu", line, sizeof line);
        assert_string_equal(line, cases[i].line);
    }
}

/* Code whose bytes were changed is refused or mapped, and nothing worse; it is not run. */
static unsigned seed;

static void lie(unsigned with)
{
    uint64_t bytes;
    const int fd =
        compile(HEAD IN OUT, "__device__ uint32_t *at;\n" ENTRY "at = y; y[weir_item()] = *x;\n}", &bytes);
    const uint8_t *code = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    uint8_t *changed = malloc(bytes);
    unsigned refused = 0;
    print_message("seed %u\n", with);
    srand(with);
    for (int i = 0; i < 3000; i++) {
        memcpy(changed, code, bytes);
        const uint64_t kept = i % 10 == 0 ? (uint64_t)rand() % bytes : bytes;
        for (int k = 0; k <= i % 3; k++) /* mostly in the headers, whose numbers are believed first */
            changed[(uint64_t)rand() % (i % 4 ? 0x300 : bytes)] = (uint8_t)rand();
        const int file = memfd_create("lie", MFD_CLOEXEC);
        assert_true(write(file, changed, kept) == (ssize_t)kept);
        struct user_image *image = user_image_open(file, kept, NULL, error);
        refused += image == NULL;
        user_image_close(image);
        close(file);
    }
    assert_true(refused > 300);
    assert_null(user_image_open(fd, 0, NULL, error));
    assert_null(user_image_open(fd, USER_CODE_BYTES_MAX + 1ull, NULL, error));
    free(changed);
    close(fd);
}

static void code_that_lies_is_refused_or_harmless(void **state)
{
    (void)state;
    lie(1795911775); /* a segment of zeroes that begins within a page was cleared to the end of the address space */
    lie(seed);
}

/* How many a thread has, by the one EIATTR_REGCOUNT record (format 4, attribute 0x2f, 8 bytes) of the code's .nv.info. */
static uint32_t registers_of(int fd, uint64_t bytes)
{
    static const uint8_t record[] = {4, 0x2f, 8, 0};
    uint32_t count = 0;
    const uint8_t *code = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(code != MAP_FAILED);
    const uint8_t *found = memmem(code, bytes, record, sizeof record);
    assert_non_null(found);
    memcpy(&count, found + 8, sizeof count); /* behind the function's number */
    munmap((void *)(uintptr_t)code, bytes);
    return count;
}

/* A processor of any GPU has 65536 registers, and a block stays on one. */
static void a_block_never_wants_more_registers_than_there_are(void **state)
{
    (void)state;
    static const char hungry[] = ENTRY
        "uint32_t a[96], s = 0;\nfor (int k = 0; k < 96; k++) a[k] = x[(weir_item() + 7 * k) % "
        "items.count];\n"
        "for (int r = 0; r < 50; r++) for (int k = 0; k < 96; k++) a[k] += a[(k + 1) % 96] * a[(k + 41) % "
        "96];\n"
        "for (int k = 0; k < 96; k++) s += a[k];\nif (weir_item() < items.count) y[weir_item()] = s;\n}";
    static const uint32_t blocks[] = {128, 1024};
    char toolkit[USER_TOOLKIT_BYTES], manifest[256];
    uint64_t bytes;
    if (!user_toolkit(USER_CUDA, toolkit)) {
        print_message("skipped: %s\n", toolkit);
        return;
    }
    uint32_t registers[2];
    for (int i = 0; i < 2; i++) {
        snprintf(manifest, sizeof manifest, HEAD "block = %u\n" IN OUT, blocks[i]);
        target = USER_CUDA;
        const int fd = compile(manifest, hungry, &bytes);
        target = USER_CPU;
        registers[i] = registers_of(fd, bytes);
        assert_in_range(registers[i] * blocks[i], 1, 65536);
        close(fd);
    }
    assert_true(registers[0] > 64); /* it would take more, if it could */
}

/* Without a compiler, or on another processor, there is nothing to test. */
static int may_compile(void **state)
{
    (void)state;
    char toolkit[USER_TOOLKIT_BYTES];
    if (user_toolkit(USER_CPU, toolkit))
        return 0;
    print_message("skipped: %s\n", toolkit);
    exit(77);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_blocks_and_shards_see_their_items),
        cmocka_unit_test(to_ask_whether_there_is_an_item_costs_no_masks),
        cmocka_unit_test(warps_exchange_values),
        cmocka_unit_test(shards_leave_nothing_behind),
        cmocka_unit_test(faults_are_told_and_end_the_process),
        cmocka_unit_test(the_first_line_is_the_authors),
        cmocka_unit_test(code_that_lies_is_refused_or_harmless),
        cmocka_unit_test(a_block_never_wants_more_registers_than_there_are),
    };
    return cmocka_run_group_tests(tests, may_compile, NULL);
}
