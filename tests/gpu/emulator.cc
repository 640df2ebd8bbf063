// A CUDA driver without a GPU: the .cu sources compiled for the CPU, one fibre per CUDA thread, blocks one after another,
// behind the names that kernels/gpu.c looks up in libcuda.so.1. It shows that the CUDA code and its launches compute the
// right bits where no GPU can be had. It says nothing of a real GPU's arithmetic, races or speed; tests/gpu on a
// GPU does.
//
// What is queued in streams happens as late as anybody may expect, in an order drawn at random among what events allow:
// a wait that is missing shows as wrong bits. Memory comes full of canaries, with more of them behind it; each copy is
// checked against what was allocated; memory that is given back without being zeroed is counted. Failures are injected by
// emulator_fail. See emulator.h.
#include <time.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/gpu/emulator.h"

#define __CUDACC__ 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static

struct place {
    unsigned x, y, z;
};
static place threadIdx, blockIdx, blockDim;

// The threads of a block take turns: each runs until it meets a barrier, then the next one does.
enum { STACK_BYTES = 128 << 10, THREADS_MAX = 1024 };
static struct fibre {
    ucontext_t context;
    bool ended;
} fibres[THREADS_MAX];
static ucontext_t scheduler;

static void __syncthreads()
{
    const place thread = threadIdx, block = blockIdx;
    swapcontext(&fibres[thread.x].context, &scheduler);
    threadIdx = thread;
    blockIdx = block;
}

template <class T, class U> static T atomicAdd(T *to, U value)
{
    return __sync_fetch_and_add(to, (T)value);
}

static unsigned long long atomicMin(unsigned long long *to, unsigned long long value)
{
    unsigned long long seen = *to;
    while (value < seen &&
           !__atomic_compare_exchange_n(to, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return seen;
}

static int __dp4a(int a, int b, int sum)
{
    for (int i = 0; i < 4; i++)
        sum += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return sum;
}

static uint32_t __float_as_uint(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float __uint_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#include "kernels/embed.cu"
#undef CHUNK
#include "kernels/montecarlo.cu"
#undef COLUMNS
#include "kernels/nbody.cu"
#include "kernels/noop.cu"
#include "kernels/render.cu"
namespace knn
{
#include "kernels/knn.cu"
}
#undef TILE
#undef STEP
#undef THREADS
namespace matmul
{
#include "kernels/matmul.cu"
}
#undef TILE
#undef STEP
#undef THREADS
#include "kernels/kmeans.cu"

// spin.cu reads a GPU's clock in PTX; here its marks only, and the time.
static void spin_items(uint64_t ns, uint64_t first_item, uint64_t items, uint32_t *marks)
{
    timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((uint64_t)(now.tv_sec - begin.tv_sec) * 1000000000u + (uint64_t)(now.tv_nsec - begin.tv_nsec) <
           ns);
    for (uint64_t item = 0; threadIdx.x == 0 && item < items; item++)
        marks[item] = (uint32_t)((first_item + item) * 0x9e3779b97f4a7c15u >> 32);
}

// Users' kernels, as NVRTC would have compiled them: what weir_kernel.h declares for a GPU, and the examples. Their code comes
// as NVRTC's, which is only looked at; what runs is found by the entry's name.
#define KERNELS_WEIR_KERNEL_H
#define __constant__ static const
#define WEIR_INF_F __builtin_inff()
struct weir_items {
    uint64_t first, count;
};
static uint64_t weir_item()
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
template <class T> static T min(T a, T b)
{
    return b < a ? b : a;
}
#include "kernels/examples/gravity.cu"
#include "kernels/examples/histogram.cu"
#include "kernels/examples/mandelbrot.cu"
#include "kernels/examples/reduction.cu"
#include "kernels/examples/saxpy.cu"
#include "kernels/examples/sha256.cu"
#include "kernels/examples/stencil.cu"

// Of runtime_test.c: a user's kernel that leaves every other row as it was, if `step` is 2.
static void sparse(weir_items items, const float *x, float *y, int64_t step)
{
    const uint64_t i = weir_item();
    if (i < items.count && (items.first + i) % (uint64_t)step == (uint64_t)step - 1)
        y[i] = 2 * x[i];
}

// ---- Calls: a kernel with the values that cuLaunchKernel points to, copied when it is launched.

typedef std::function<void()> bound_function;
typedef bound_function bind_function(void **arguments);
template <class... T, size_t... I>
static bound_function spread(void (*kernel)(T...), void **arguments, std::index_sequence<I...>)
{
    return [kernel, values = std::make_tuple(*(T *)arguments[I]...)] { std::apply(kernel, values); };
}
template <class... T> static bound_function bind(void (*kernel)(T...), void **arguments)
{
    return spread(kernel, arguments, std::index_sequence_for<T...>());
}

static const struct {
    const char *name;
    bind_function *bind;
} functions[] = {
    {"embed_lines", [](void **a) { return bind(embed_lines, a); }},
    {"kmeans_centres", [](void **a) { return bind(kmeans_centres, a); }},
    {"kmeans_label", [](void **a) { return bind(kmeans_label, a); }},
    {"kmeans_add", [](void **a) { return bind(kmeans_add, a); }},
    {"knn_prepare", [](void **a) { return bind(knn::knn_prepare, a); }},
    {"knn_distances", [](void **a) { return bind(knn::knn_distances, a); }},
    {"knn_select", [](void **a) { return bind(knn::knn_select, a); }},
    {"matmul_int8", [](void **a) { return bind(matmul::matmul_int8, a); }},
    {"matmul_float", [](void **a) { return bind(matmul::matmul_float, a); }},
    {"matmul_narrow", [](void **a) { return bind(matmul::matmul_narrow, a); }},
    {"matmul_transpose", [](void **a) { return bind(matmul::matmul_transpose, a); }},
    {"montecarlo_price", [](void **a) { return bind(montecarlo_price, a); }},
    {"nbody_step", [](void **a) { return bind(nbody_step, a); }},
    {"noop_rows", [](void **a) { return bind(noop_rows, a); }},
    {"render_rows", [](void **a) { return bind(render_rows, a); }},
    {"spin_items", [](void **a) { return bind(spin_items, a); }},
    {"gravity", [](void **a) { return bind(gravity, a); }},
    {"histogram", [](void **a) { return bind(histogram, a); }},
    {"mandelbrot", [](void **a) { return bind(mandelbrot, a); }},
    {"reduction", [](void **a) { return bind(reduction, a); }},
    {"saxpy", [](void **a) { return bind(saxpy, a); }},
    {"sparse", [](void **a) { return bind(sparse, a); }},
    {"sha256", [](void **a) { return bind(sha256, a); }},
    {"stencil", [](void **a) { return bind(stencil, a); }},
};

static const bound_function *running;
static place running_grid;

static void run_thread(unsigned thread)
{
    threadIdx = {thread, 0, 0};
    for (unsigned z = 0; z < running_grid.z; z++)
        for (unsigned y = 0; y < running_grid.y; y++)
            for (unsigned x = 0; x < running_grid.x; x++) {
                blockIdx = {x, y, z};
                (*running)();
                __syncthreads();
            }
    fibres[thread].ended = true;
}

static void run_kernel(const bound_function &call, place grid, unsigned threads)
{
    static char *stacks;
    if (!stacks)
        stacks = (char *)malloc((size_t)THREADS_MAX * STACK_BYTES);
    blockDim = {threads, 1, 1};
    running = &call;
    running_grid = grid;
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&fibres[i].context);
        fibres[i].context.uc_stack.ss_sp = stacks + (size_t)i * STACK_BYTES;
        fibres[i].context.uc_stack.ss_size = STACK_BYTES;
        fibres[i].context.uc_link = &scheduler;
        fibres[i].ended = false;
        makecontext(&fibres[i].context, (void (*)())run_thread, 1, i);
    }
    for (unsigned left = threads; left > 0;) {
        left = 0;
        for (unsigned i = 0; i < threads; i++)
            if (!fibres[i].ended) {
                swapcontext(&scheduler, &fibres[i].context);
                left += !fibres[i].ended;
            }
    }
}

// ---- What tests see

static emulator_report report = {.speed = 1000};
static struct {
    char function[64];
    unsigned calls_left;
    int result;
} failure;
static int sticky;

extern "C" emulator_report *emulator_look()
{
    return &report;
}
extern "C" void emulator_fail(const char *function, unsigned calls, int result)
{
    snprintf(failure.function, sizeof failure.function, "%s", function);
    failure.calls_left = calls;
    failure.result = result;
}
extern "C" void emulator_revive()
{
    sticky = 0;
}

// Every function begins with this: an error is injected, or has been before.
static int trouble(const char *function)
{
    if (failure.calls_left && strcmp(function, failure.function) == 0 && --failure.calls_left == 0) {
        if (failure.result != 1 && failure.result != 2 && failure.result != 701) // these pass
            sticky = failure.result;
        return failure.result;
    }
    return sticky;
}
#define TROUBLE                                                                                              \
    do {                                                                                                     \
        const int result = trouble(__func__);                                                                \
        if (result)                                                                                          \
            return result;                                                                                   \
    } while (0)

// ---- Streams and events

struct event;
struct operation {
    std::function<void()> run; // empty for events
    event *waits = nullptr;
    uint64_t generation = 0;
    event *records = nullptr;
    bool launch = false;
};
struct event {
    uint64_t recorded = 0, done = 0; // generations
    timespec at;
};
typedef std::deque<operation> stream;
static std::vector<stream *> streams;
static uint64_t dice = 88172645463325252u;

static unsigned draw(size_t below)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (unsigned)(dice % below);
}

// Runs one operation of any stream that may go on; false if none may.
static bool advance()
{
    std::vector<stream *> able;
    for (stream *each : streams)
        if (!each->empty() && (!each->front().waits || each->front().waits->done >= each->front().generation))
            able.push_back(each);
    if (able.empty())
        return false;
    stream *chosen = able[draw(able.size())];
    operation next = std::move(chosen->front());
    chosen->pop_front();
    if (next.run)
        next.run();
    if (next.launch)
        report.launches_waiting--;
    if (next.records) {
        next.records->done = next.generation;
        clock_gettime(CLOCK_MONOTONIC, &next.records->at);
    }
    return true;
}

static void queue(void *to, operation &&next)
{
    if (next.launch) {
        report.launches++;
        if (++report.launches_waiting > report.launches_waiting_max)
            report.launches_waiting_max = report.launches_waiting;
    }
    ((stream *)to)->push_back(std::move(next));
}

// ---- Memory

enum { CANARY = 0xc5, GUARD_BYTES = 256 };
static std::map<uint64_t, size_t> allocations;
static std::map<uint8_t *, size_t> pinned;

static void check_range(uint64_t at, size_t bytes)
{
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin() || (--after, at + bytes > after->first + after->second)) {
        fprintf(stderr, "emulator: %zu bytes at %llx were never allocated\n", bytes, (unsigned long long)at);
        abort();
    }
}

static void check_pinned(const void *at, size_t bytes)
{
    for (auto &each : pinned)
        if ((const uint8_t *)at >= each.first && (const uint8_t *)at + bytes <= each.first + each.second)
            return;
    fprintf(stderr, "emulator: a copy of %zu bytes is not from pinned memory\n", bytes);
    abort();
}

extern "C" {
int cuInit(unsigned)
{
    return 0;
}
int cuDeviceGetCount(int *count)
{
    return *count = 1, 0;
}
int cuDeviceGet(int *device, int index)
{
    return *device = index, index ? 101 : 0;
}
int cuDeviceGetName(char *name, int bytes, int)
{
    return snprintf(name, (size_t)bytes, "emulator (no GPU)"), 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int)
{
    return *bytes = 1 << 30, 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int)
{
    return *value = attribute == 75 ? 9 : attribute == 16, 0;
}
int cuDevicePrimaryCtxRetain(void **context, int)
{
    return *context = &report, 0;
}
int cuDevicePrimaryCtxRelease_v2(int)
{
    report.leaked += (unsigned)allocations.size() + (unsigned)pinned.size() + (unsigned)streams.size();
    return 0;
}
int cuCtxSetCurrent(void *)
{
    return 0;
}
int cuCtxSynchronize()
{
    TROUBLE;
    while (advance())
        ;
    return 0;
}
int cuModuleLoadData(void **module, const void *image)
{
    *module = (void *)image;
    const uint32_t magic = *(const uint32_t *)image;
    return magic == 0xba55ed50u || magic == 0x464c457fu || memcmp(image, "//", 2) == 0
               ? 0
               : 200; // fatbin, cubin, PTX
}
int cuModuleUnload(void *)
{
    return 0;
}
int cuModuleGetFunction(void **function, void *, const char *name)
{
    for (auto &known : functions)
        if (strcmp(known.name, name) == 0)
            return *function = (void *)known.bind, 0;
    return 500;
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    return *free_bytes = *total = 1 << 30, 0;
}
int cuMemAlloc_v2(uint64_t *memory, size_t bytes)
{
    TROUBLE;
    uint8_t *place = (uint8_t *)aligned_alloc(512, (bytes + GUARD_BYTES + 511) / 512 * 512);
    memset(place, CANARY, bytes + GUARD_BYTES);
    *memory = (uint64_t)place;
    allocations[*memory] = bytes;
    report.allocations++;
    return 0;
}
int cuMemFree_v2(uint64_t memory)
{
    TROUBLE;
    while (advance())
        ;
    const uint8_t *place = (const uint8_t *)memory;
    const size_t bytes = allocations.at(memory);
    bool dirty = false, overrun = false;
    for (size_t i = 0; i < bytes; i++)
        dirty |= place[i] != 0;
    for (size_t i = 0; i < GUARD_BYTES; i++)
        overrun |= place[bytes + i] != CANARY;
    report.dirty += dirty;
    report.overruns += overrun;
    allocations.erase(memory);
    free((void *)memory);
    return 0;
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned)
{
    TROUBLE;
    *memory = calloc(1, bytes);
    pinned[(uint8_t *)*memory] = bytes;
    report.pinned_bytes += bytes;
    return 0;
}
int cuMemFreeHost(void *memory)
{
    const size_t bytes = pinned.at((uint8_t *)memory);
    bool dirty = false;
    for (size_t i = 0; i < bytes; i++)
        dirty |= ((uint8_t *)memory)[i] != 0;
    report.dirty += dirty;
    pinned.erase((uint8_t *)memory);
    free(memory);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream)
{
    TROUBLE;
    check_range(to, bytes);
    check_pinned(from, bytes);
    report.bytes_up += bytes;
    operation copy;
    copy.run = [=] { memcpy((void *)to, from, bytes); };
    return queue(stream, std::move(copy)), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream)
{
    TROUBLE;
    check_range(from, bytes);
    check_pinned(to, bytes);
    operation copy;
    copy.run = [=] { memcpy(to, (const void *)from, bytes); };
    return queue(stream, std::move(copy)), 0;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream)
{
    TROUBLE;
    check_range(to, bytes);
    operation set;
    set.run = [=] { memset((void *)to, value, bytes); };
    return queue(stream, std::move(set)), 0;
}
int cuStreamCreate(void **out, unsigned)
{
    *out = new stream;
    streams.push_back((stream *)*out);
    return 0;
}
int cuStreamDestroy_v2(void *old)
{
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == old)
            streams.erase(streams.begin() + (long)i);
    delete (stream *)old;
    return 0;
}
int cuStreamSynchronize(void *which)
{
    TROUBLE;
    while (!((stream *)which)->empty())
        if (!advance())
            abort(); // waits for what nobody records
    return 0;
}
int cuEventCreate(void **out, unsigned)
{
    return *out = new event, 0;
}
int cuEventDestroy_v2(void *old)
{
    while (advance()) // it may still be named in a queue
        ;
    delete (event *)old;
    return 0;
}
int cuEventRecord(void *which, void *stream)
{
    TROUBLE;
    operation record;
    record.records = (event *)which;
    record.generation = ++record.records->recorded;
    return queue(stream, std::move(record)), 0;
}
int cuStreamWaitEvent(void *stream, void *which, unsigned)
{
    TROUBLE;
    operation wait;
    wait.waits = (event *)which;
    wait.generation = wait.waits->recorded;
    return queue(stream, std::move(wait)), 0;
}
int cuEventSynchronize(void *which)
{
    TROUBLE;
    event *awaited = (event *)which;
    while (awaited->done < awaited->recorded)
        if (!advance())
            abort();
    return 0;
}
int cuEventElapsedTime(float *ms, void *begin, void *end)
{
    TROUBLE;
    const timespec a = ((event *)begin)->at, b = ((event *)end)->at;
    *ms = (float)(((double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) * 1e-6) /
                  report.speed);
    return 0;
}
int cuGetErrorString(int, const char **text)
{
    return *text = "emulated error", 0;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned, void *stream, void **arguments, void **)
{
    TROUBLE;
    operation launch;
    launch.launch = true;
    launch.run = [call = ((bind_function *)function)(arguments), grid = place{x, y, z}, threads] {
        run_kernel(call, grid, threads);
    };
    return queue(stream, std::move(launch)), 0;
}
}
