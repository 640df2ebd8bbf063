/* The GPU runtime on the emulated driver: what is queued when, what memory holds, what failures do. Ends with 77 elsewhere. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/builtin.h"
#include "kernels/gpu.h"
#include "kernels/gpu_state.h"
#include "kernels/kernel.h"
#include "kernels/user_compile.h"
#include "kernels/user_run.h"
#include "tests/gpu/emulator.h"

static struct emulator_report *(*look)(void);
static void (*inject)(const char *function, unsigned calls, int result);
static void (*revive)(void);

/* Shards of noop: rows of `row_bytes` random bytes. Each has its sums computed on the CPU, too. */
struct shards {
    struct kernel_call calls[GPU_BATCH_MAX + 8];
    uint32_t count;
    struct manifest_params params;
    uint64_t *sums[GPU_BATCH_MAX + 8], *expected[GPU_BATCH_MAX + 8];
};

static struct gpu *open_gpu(void)
{
    struct gpu *gpu;
    char message[MANIFEST_ERROR_BYTES];
    if (!gpu_open(&gpu, 0, message))
        fail_msg("%s", message);
    return gpu;
}

static struct shards *make_shards(uint32_t count, uint64_t items, uint64_t row_bytes)
{
    struct shards *shards = calloc(1, sizeof *shards);
    char error[MANIFEST_ERROR_BYTES];
    const struct manifest *manifest = manifest_find("noop");
    manifest_params_parse(manifest, NULL, 0, &shards->params, error);
    shards->count = count;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t mine = items + i % 3; /* of unlike sizes */
        uint8_t *rows = malloc(mine * row_bytes);
        for (uint64_t at = 0; at < mine * row_bytes; at++)
            rows[at] = (uint8_t)rand();
        shards->sums[i] = calloc(mine, 8);
        shards->expected[i] = calloc(mine, 8);
        shards->calls[i] = (struct kernel_call){.manifest = manifest,
                                                .params = &shards->params,
                                                .first_item = 1000 * i,
                                                .items = mine,
                                                .output_count = 1};
        shards->calls[i].inputs[0] = (struct kernel_input){
            .data = rows, .bytes = mine * row_bytes, .type = {ARRAY_RAW, 2, {mine, row_bytes}}};
        shards->calls[i].outputs[0] = (struct kernel_output){.data = shards->expected[i], .bytes = 8 * mine};
        assert_int_equal(kernel_run(&shards->calls[i], NULL), KERNEL_OK);
        shards->calls[i].outputs[0].data = shards->sums[i];
    }
    return shards;
}

static void check_shards(const struct shards *shards)
{
    for (uint32_t i = 0; i < shards->count; i++)
        assert_memory_equal(shards->sums[i], shards->expected[i], 8 * shards->calls[i].items);
}

static void free_shards(struct shards *shards)
{
    for (uint32_t i = 0; i < shards->count; i++) {
        free((void *)(uintptr_t)shards->calls[i].inputs[0].data);
        free(shards->sums[i]);
        free(shards->expected[i]);
    }
    free(shards);
}

/* As the worker does it; the number of batches. */
static uint32_t run_all(struct gpu *gpu, struct shards *shards)
{
    uint32_t submitted = 0, settled = 0, batches = 0;
    while (settled < shards->count) {
        while (submitted < shards->count && gpu_room(gpu)) {
            const uint32_t count = gpu_batch(gpu, &shards->calls[submitted], shards->count - submitted);
            assert_in_range(count, 1, GPU_BATCH_MAX);
            gpu_submit(gpu, &shards->calls[submitted], count);
            submitted += count;
            batches++;
        }
        struct kernel_call *calls;
        uint32_t count;
        uint64_t device_ns;
        assert_int_equal(gpu_collect(gpu, &calls, &count, &device_ns), KERNEL_OK);
        assert_ptr_equal(calls, &shards->calls[settled]); /* in order */
        settled += count;
    }
    return batches;
}

static void small_shards_share_launches_and_big_ones_are_split(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct shards *small = make_shards(60, 50, 16);
    assert_in_range(run_all(gpu, small), 2, 12); /* the first two batches are one shard each, to measure */
    check_shards(small);
    free_shards(small);
    /* As if an item took 50 ms / 200: a launch takes no more than its share of 5 ms. */
    look()->speed = 1;
    char error[MANIFEST_ERROR_BYTES];
    struct manifest_params params;
    uint32_t marks[200];
    manifest_params_parse(manifest_find("spin"), (const char *[]){"us=250"}, 1, &params, error);
    struct kernel_call call = {.manifest = manifest_find("spin"),
                               .params = &params,
                               .first_item = 7,
                               .items = 200,
                               .output_count = 1};
    call.outputs[0] = (struct kernel_output){.data = marks, .bytes = sizeof marks};
    const unsigned before = look()->launches;
    look()->launches_waiting_max = 0;
    assert_int_equal(kernel_run(&call, gpu), KERNEL_OK);
    assert_in_range(look()->launches - before, 3, 40); /* 20 ms at most, by the guess before it is measured */
    assert_in_range(look()->launches_waiting_max, 1, 2); /* what is queued when the owner comes */
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(marks[i], (uint32_t)((7 + i) * 0x9e3779b97f4a7c15u >> 32));
    look()->speed = 1000;
    gpu_close(gpu);
}

static void copies_larger_than_pinned_memory_go_in_pieces(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct shards *large = make_shards(2, 9, 8u << 20); /* 72 MiB and more, over two halves of 32 */
    run_all(gpu, large);
    check_shards(large);
    free_shards(large);
    struct shards *many = make_shards(3, 4500000, 1); /* 36 MB of sums */
    run_all(gpu, many);
    check_shards(many);
    free_shards(many);
    assert_true(look()->pinned_bytes <= GPU_PINNED_BYTES_MAX);
    gpu_close(gpu);
}

/* A mesh of points and a base: knn's, with `keep`. */
static struct kernel_call knn_call(struct kernel_keep *keep, const int8_t *base, uint64_t rows,
                                   const int8_t *query, int32_t *index, struct manifest_params *params)
{
    char error[MANIFEST_ERROR_BYTES];
    manifest_params_parse(manifest_find("knn"), (const char *[]){"k=2"}, 1, params, error);
    struct kernel_call call = {
        .manifest = manifest_find("knn"), .params = params, .items = 3, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = base,
                                           .bytes = rows * 16,
                                           .type = {ARRAY_INT8, 2, {rows, 16}},
                                           .broadcast = true,
                                           .keep = keep};
    call.inputs[1] = (struct kernel_input){.data = query, .bytes = 48, .type = {ARRAY_INT8, 2, {3, 16}}};
    call.outputs[0] = (struct kernel_output){.data = index, .bytes = 24};
    return call;
}

static void broadcasts_stay_until_memory_is_wanted_and_the_oldest_goes_first(void **state)
{
    (void)state;
    enum { INPUTS = 4, ROWS = 3000 };
    static int8_t bases[INPUTS][ROWS * 16], query[48];
    struct gpu *gpu = open_gpu();
    struct kernel_keep keeps[INPUTS] = {{0}};
    struct manifest_params params;
    int32_t first[6], index[6];
    for (int i = 0; i < INPUTS; i++)
        for (int at = 0; at < ROWS * 16; at++)
            bases[i][at] = (int8_t)rand();
    for (int i = 0; i < 48; i++)
        query[i] = (int8_t)rand();
    struct kernel_call call = knn_call(&keeps[0], bases[0], ROWS, query, first, &params);
    assert_int_equal(kernel_run(&call, gpu), KERNEL_OK);
    assert_true(gpu_holds(gpu, &keeps[0]) && !gpu_holds(gpu, &keeps[1]));
    const uint64_t before = look()->bytes_up;
    call.outputs[0].data = index;
    assert_int_equal(kernel_run(&call, gpu), KERNEL_OK);
    assert_int_equal(look()->bytes_up - before, 48); /* the query alone */
    assert_memory_equal(index, first, sizeof index);

    gpu_limit(gpu, 400000); /* each input takes its 48 KB, and 51 KB made of it; room for three */
    for (int i = 1; i < INPUTS; i++) {
        struct kernel_call again = knn_call(&keeps[0], bases[0], ROWS, query, index, &params);
        if (i < INPUTS - 1) /* the first is used all the time, until the last but one */
            assert_int_equal(kernel_run(&again, gpu), KERNEL_OK);
        struct kernel_call other = knn_call(&keeps[i], bases[i], ROWS, query, index, &params);
        assert_int_equal(kernel_run(&other, gpu), KERNEL_OK);
        assert_true(gpu_holds(gpu, &keeps[i]));
    }
    assert_false(gpu_holds(gpu, &keeps[1]) && gpu_holds(gpu, &keeps[0]) && gpu_holds(gpu, &keeps[2]));
    assert_true(gpu->held_bytes <= 400000);
    call.outputs[0].data = index;
    assert_int_equal(kernel_run(&call, gpu), KERNEL_OK); /* it comes back where it has gone */
    assert_memory_equal(index, first, sizeof index);
    for (int i = 0; i < INPUTS; i++) {
        kernel_keep_release(&keeps[i]);
        assert_false(gpu_holds(gpu, &keeps[i]));
    }
    gpu_close(gpu);
}

static void a_shard_without_room_fails_and_the_worker_lives(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct shards *shards = make_shards(1, 1000, 1000);
    gpu_limit(gpu, 500000);
    assert_int_equal(kernel_run(&shards->calls[0], gpu), KERNEL_FAILED);
    assert_non_null(strstr(shards->calls[0].message, "bytes free"));
    assert_false(gpu_broken(gpu));
    gpu_limit(gpu, 0);
    /* The driver says so by itself: what is idle is given back, and it is tried again. */
    struct shards *first = make_shards(2, 20, 8);
    run_all(gpu, first);
    inject("cuMemAlloc_v2", 1, 2);
    assert_int_equal(kernel_run(&shards->calls[0], gpu), KERNEL_OK);
    check_shards(shards);
    free_shards(first);
    free_shards(shards);
    gpu_close(gpu);
}

static void bad_rows_fail_their_batch_with_a_reason(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    int8_t vectors[3 * EMBED_DIMENSIONS];
    manifest_params_parse(manifest_find("embed"), NULL, 0, &params, error);
    struct kernel_call call = {
        .manifest = manifest_find("embed"), .params = &params, .items = 3, .output_count = 1};
    call.inputs[0] = (struct kernel_input){.data = "two\nlines\n", .bytes = 10, .type = {ARRAY_TEXT, 1, {3}}};
    call.outputs[0] = (struct kernel_output){.data = vectors, .bytes = sizeof vectors};
    assert_int_equal(kernel_run(&call, gpu), KERNEL_REJECTED);
    assert_non_null(strstr(call.message, "line"));
    call.inputs[0] = (struct kernel_input){.data = "a\nb\nc", .bytes = 5, .type = {ARRAY_TEXT, 1, {3}}};
    assert_int_equal(kernel_run(&call, gpu), KERNEL_OK);
    gpu_close(gpu);
}

/* A scene that can't be read leaves no half-made one behind for the next batch, which is on its way already. */
static void what_a_failed_batch_left_is_not_found_by_the_next(void **state)
{
    (void)state;
    static const char scene[] = "sphere 0 0 0 1 wood";
    struct gpu *gpu = open_gpu();
    struct manifest_params params;
    struct kernel_keep keep = {0};
    char error[MANIFEST_ERROR_BYTES];
    uint8_t pictures[2][48];
    struct kernel_call calls[2], *done;
    uint32_t count;
    uint64_t device_ns;
    manifest_params_parse(manifest_find("render"), (const char *[]){"width=4", "height=4"}, 2, &params,
                          error);
    for (int i = 0; i < 2; i++) {
        calls[i] = (struct kernel_call){
            .manifest = manifest_find("render"), .params = &params, .items = 4, .output_count = 1};
        calls[i].inputs[0] = (struct kernel_input){.data = scene,
                                                   .bytes = sizeof scene - 1,
                                                   .type = {ARRAY_TEXT, 1, {1}},
                                                   .broadcast = true,
                                                   .keep = &keep};
        calls[i].outputs[0] = (struct kernel_output){.data = pictures[i], .bytes = 48};
    }
    for (int i = 0; i < 2; i++)
        gpu_submit(gpu, &calls[i], 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(gpu_collect(gpu, &done, &count, &device_ns), KERNEL_REJECTED);
        assert_non_null(strstr(calls[i].message, "scene line 1"));
    }
    assert_false(gpu_holds(gpu, &keep) || gpu_broken(gpu));
    kernel_keep_release(&keep);
    gpu_close(gpu);
}

static void a_cancelled_bundle_launches_nothing_more(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct shards *shards = make_shards(1, 100, 8);
    _Atomic uint64_t stamp = 0;
    const _Atomic uint32_t cancel = 1;
    shards->calls[0].watch = (struct kernel_watch){.stamp = &stamp, .cancel = &cancel};
    const unsigned before = look()->launches;
    assert_int_equal(kernel_run(&shards->calls[0], gpu), KERNEL_CANCELLED);
    assert_int_equal(look()->launches, before);
    assert_true(atomic_load(&stamp) > 0);
    free_shards(shards);
    gpu_close(gpu);
}

/* Whichever call of the driver fails, with two batches in hand: both come back, the second failed, and nothing works after. */
static void a_driver_error_breaks_the_device_for_good(void **state)
{
    (void)state;
    static const char *const functions[] = {
        "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuLaunchKernel",
        "cuEventRecord", "cuStreamWaitEvent",    "cuEventSynchronize"};
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
        for (unsigned nth = 1; nth <= 4; nth++) {
            struct gpu *gpu = open_gpu();
            struct shards *shards = make_shards(4, 30, 8);
            struct kernel_call *calls;
            uint32_t count, failed = 0;
            uint64_t device_ns;
            inject(functions[f], nth, 700);
            for (int round = 0; round < 2; round++) {
                gpu_submit(gpu, &shards->calls[2 * round], 1);
                gpu_submit(gpu, &shards->calls[2 * round + 1], 1);
                assert_false(gpu_room(gpu));
                for (int i = 0; i < 2; i++) {
                    const enum kernel_error error = gpu_collect(gpu, &calls, &count, &device_ns);
                    assert_int_equal(count, 1);
                    assert_true(error == KERNEL_OK || error == KERNEL_FAILED);
                    assert_true((error == KERNEL_OK) == (calls[0].message[0] == '\0'));
                    assert_false(error == KERNEL_OK && failed); /* never again */
                    failed += error != KERNEL_OK;
                }
            }
            if (failed) {
                assert_true(gpu_broken(gpu));
                assert_non_null(strstr(gpu_message(gpu), "CUDA error 700"));
            }
            gpu_close(gpu); /* a process would end: its driver takes everything back */
            inject("", 0, 0);
            revive();
            free_shards(shards);
        }
}

static void memory_is_zeroed_before_use_and_before_it_is_given_back(void **state)
{
    (void)state;
    struct emulator_report *report = look();
    const unsigned dirty = report->dirty, overruns = report->overruns, leaked = report->leaked;
    struct gpu *gpu = open_gpu();
    struct shards *shards = make_shards(20, 100, 32);
    run_all(gpu, shards);
    check_shards(shards);
    /* The driver's memory comes full of canaries; what is taken holds none. */
    const uint64_t fresh = gpu_take(gpu, 3u << 20);
    for (uint32_t i = 0; i < 3u << 20; i += 4099)
        assert_int_equal(((const uint8_t *)(uintptr_t)fresh)[i], 0);
    memset((void *)(uintptr_t)fresh, 0x77, 3u << 20);
    gpu_close(gpu);
    assert_int_equal(report->dirty, dirty);
    assert_int_equal(report->overruns, overruns);
    assert_int_equal(report->leaked, leaked);
    free_shards(shards);
}

/* A user's kernel that the emulator has: y = 2 x for each `step`-th row, the others untouched. */
static const char sparse_manifest[] =
    "[kernel]\nname = sparse\nclass = exact\nitem = thread\nblock = 32\ncost = 1\n"
    "[input x]\ntype = float32\nshape = items\n"
    "[output y]\ntype = float32\nshape = items\ncombine = concat\n"
    "[param step]\ntype = integer\nmin = 1\nmax = 9\ndefault = 1\n";

static void open_sparse(struct gpu *gpu, struct manifest_user *user, struct user_image **image)
{
    char error[MANIFEST_ERROR_BYTES];
    const struct user_gpu_code head = {.entry = "sparse"};
    const int fd = memfd_create("code", 0);
    if (!manifest_user_parse("sparse.ini", sparse_manifest, sizeof sparse_manifest - 1, user, error))
        fail_msg("%s", error);
    assert_int_equal(write(fd, &head, sizeof head), sizeof head);
    assert_int_equal(write(fd, "// PTX", 7), 7);
    *image = user_image_open(fd, sizeof head + 7, gpu, error);
    if (!*image)
        fail_msg("%s", error);
    close(fd);
}

static enum kernel_error run_sparse(struct gpu *gpu, const struct manifest_user *user,
                                    const struct user_image *image, const char *step, const float *x,
                                    float *y, uint64_t items, char message[MANIFEST_ERROR_BYTES])
{
    struct manifest_params params;
    assert_int_equal(manifest_params_parse(&user->manifest, &step, 1, &params, message), 0);
    struct kernel_call call = {
        .manifest = &user->manifest, .params = &params, .items = items, .output_count = 1, .image = image};
    call.inputs[0] =
        (struct kernel_input){.data = x, .bytes = 4 * items, .type = {ARRAY_FLOAT32, 1, {items}}};
    call.outputs[0] =
        (struct kernel_output){.data = y, .bytes = 4 * items, .type = {ARRAY_FLOAT32, 1, {items}}};
    const enum kernel_error error = kernel_run(&call, gpu);
    memcpy(message, call.message, MANIFEST_ERROR_BYTES);
    return error;
}

/* Outputs come from memory that shards before have filled. */
static void what_a_users_kernel_does_not_write_is_zero(void **state)
{
    (void)state;
    static struct manifest_user user;
    struct user_image *image;
    char message[MANIFEST_ERROR_BYTES];
    float x[200], y[200];
    struct gpu *gpu = open_gpu();
    open_sparse(gpu, &user, &image);
    for (int i = 0; i < 200; i++)
        x[i] = (float)(1 + rand() % 1000);
    for (int round = 0; round < 3; round++) {
        const int step = 1 + round;
        assert_int_equal(run_sparse(gpu, &user, image, (const char *[]){"step=1", "step=2", "step=3"}[round],
                                    x, y, 200, message),
                         KERNEL_OK);
        for (int i = 0; i < 200; i++)
            assert_true(y[i] == (i % step == step - 1 ? 2 * x[i] : 0));
    }
    user_image_close(image);
    gpu_close(gpu);
}

/* More threads than its registers allow: the kernel's fault. The device goes on. */
static void a_launch_that_asks_for_too_much_fails_its_shard_alone(void **state)
{
    (void)state;
    static const int refusals[] = {701, 1};
    static struct manifest_user user;
    struct user_image *image;
    char message[MANIFEST_ERROR_BYTES];
    float x[50], y[50];
    struct gpu *gpu = open_gpu();
    open_sparse(gpu, &user, &image);
    for (int i = 0; i < 50; i++)
        x[i] = (float)rand();
    for (int i = 0; i < 2; i++) {
        inject("cuLaunchKernel", 1, refusals[i]);
        assert_int_equal(run_sparse(gpu, &user, image, "step=1", x, y, 50, message), KERNEL_FAILED);
        assert_non_null(strstr(message, "sparse: a block of 32 threads asks for more registers"));
        assert_false(gpu_broken(gpu));
        assert_int_equal(run_sparse(gpu, &user, image, "step=1", x, y, 50, message), KERNEL_OK);
        for (int k = 0; k < 50; k++)
            assert_true(y[k] == 2 * x[k]);
    }
    user_image_close(image);
    gpu_close(gpu);
}

/* The tests above prove nothing if the emulator would not notice. */
static void the_emulator_notices_memory_that_was_not_zeroed(void **state)
{
    (void)state;
    const struct gpu_driver *driver = gpu_driver();
    const unsigned dirty = look()->dirty;
    uint64_t memory;
    assert_int_equal(driver->cuMemAlloc_v2(&memory, 1000), 0);
    assert_int_equal(*(const uint8_t *)(uintptr_t)memory, 0xc5);
    assert_int_equal(driver->cuMemFree_v2(memory), 0);
    assert_int_equal(look()->dirty, dirty + 1);
}

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    *(void **)&look = library ? dlsym(library, "emulator_look") : NULL;
    *(void **)&inject = library ? dlsym(library, "emulator_fail") : NULL;
    *(void **)&revive = library ? dlsym(library, "emulator_revive") : NULL;
    if (!gpu_built() || !look || !inject || !revive) {
        printf("skipped: the emulated driver is not there\n");
        return 77;
    }
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_emulator_notices_memory_that_was_not_zeroed),
        cmocka_unit_test(small_shards_share_launches_and_big_ones_are_split),
        cmocka_unit_test(copies_larger_than_pinned_memory_go_in_pieces),
        cmocka_unit_test(broadcasts_stay_until_memory_is_wanted_and_the_oldest_goes_first),
        cmocka_unit_test(a_shard_without_room_fails_and_the_worker_lives),
        cmocka_unit_test(bad_rows_fail_their_batch_with_a_reason),
        cmocka_unit_test(what_a_failed_batch_left_is_not_found_by_the_next),
        cmocka_unit_test(a_cancelled_bundle_launches_nothing_more),
        cmocka_unit_test(memory_is_zeroed_before_use_and_before_it_is_given_back),
        cmocka_unit_test(what_a_users_kernel_does_not_write_is_zero),
        cmocka_unit_test(a_launch_that_asks_for_too_much_fails_its_shard_alone),
        cmocka_unit_test(a_driver_error_breaks_the_device_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
