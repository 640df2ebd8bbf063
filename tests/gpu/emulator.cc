// A CUDA driver without a GPU: the .cu sources compiled for the CPU, one thread per CUDA thread, blocks one after another,
// behind the names that kernels/gpu.c looks up in libcuda.so.1. It shows that the CUDA code and its launches compute the
// right bits where no GPU can be had. It says nothing of a real GPU's arithmetic, races or speed; tests/gpu on a
// GPU does.
#include <pthread.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#define __CUDACC__ 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static

struct place {
    unsigned x, y, z;
};
static thread_local place threadIdx, blockIdx;
static place blockDim;
static pthread_barrier_t barrier;

static void __syncthreads()
{
    pthread_barrier_wait(&barrier);
}

template <class T, class U> static T atomicAdd(T *to, U value)
{
    return __sync_fetch_and_add(to, (T)value);
}

static int __dp4a(int a, int b, int sum)
{
    for (int i = 0; i < 4; i++)
        sum += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return sum;
}

#include "kernels/embed.cu"
#include "kernels/montecarlo.cu"
#include "kernels/noop.cu"
namespace knn {
#include "kernels/knn.cu"
}
#undef TILE
#undef STEP
#undef THREADS
namespace matmul {
#include "kernels/matmul.cu"
}

// spin.cu reads a GPU's clock in PTX; here its marks only.
static void spin_items(uint64_t, uint64_t first_item, uint64_t items, uint32_t *marks)
{
    for (uint64_t item = 0; threadIdx.x == 0 && item < items; item++)
        marks[item] = (uint32_t)((first_item + item) * 0x9e3779b97f4a7c15u >> 32);
}

// Calls a kernel with the arguments that cuLaunchKernel points to.
typedef void call_function(void **arguments);
template <class... T, size_t... I>
static void spread(void (*kernel)(T...), void **arguments, std::index_sequence<I...>)
{
    kernel(*(T *)arguments[I]...);
}
template <class... T> static void apply(void (*kernel)(T...), void **arguments)
{
    spread(kernel, arguments, std::index_sequence_for<T...>());
}

static const struct {
    const char *name;
    call_function *call;
} functions[] = {
    {"embed_lines", [](void **a) { apply(embed_lines, a); }},
    {"knn_prepare", [](void **a) { apply(knn::knn_prepare, a); }},
    {"knn_distances", [](void **a) { apply(knn::knn_distances, a); }},
    {"knn_select", [](void **a) { apply(knn::knn_select, a); }},
    {"matmul_int8", [](void **a) { apply(matmul::matmul_int8, a); }},
    {"matmul_float", [](void **a) { apply(matmul::matmul_float, a); }},
    {"montecarlo_price", [](void **a) { apply(montecarlo_price, a); }},
    {"noop_rows", [](void **a) { apply(noop_rows, a); }},
    {"spin_items", [](void **a) { apply(spin_items, a); }},
};

struct thread_work {
    call_function *call;
    void **arguments;
    unsigned thread;
    place grid;
};

static void *run_thread(void *argument)
{
    const thread_work *work = (const thread_work *)argument;
    threadIdx = {work->thread, 0, 0};
    for (unsigned z = 0; z < work->grid.z; z++)
        for (unsigned y = 0; y < work->grid.y; y++)
            for (unsigned x = 0; x < work->grid.x; x++) {
                blockIdx = {x, y, z};
                work->call(work->arguments);
                __syncthreads();
            }
    return nullptr;
}

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int index) { return *device = index, index ? 101 : 0; }
int cuDeviceGetName(char *name, int bytes, int) { return snprintf(name, bytes, "emulator (no GPU)"), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = 1 << 30, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) { return *value = attribute == 75 ? 9 : attribute == 16, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &barrier, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxSynchronize() { return 0; }
int cuModuleLoadData(void **module, const void *image)
{
    *module = (void *)image;
    return *(const uint32_t *)image == 0xba55ed50u ? 0 : 200; // a fatbin's magic number
}
int cuModuleGetFunction(void **function, void *, const char *name)
{
    for (auto &known : functions)
        if (strcmp(known.name, name) == 0)
            return *function = (void *)known.call, 0;
    return 500;
}
int cuMemAlloc_v2(uint64_t *memory, size_t bytes) { return *memory = (uint64_t)malloc(bytes), 0; }
int cuMemFree_v2(uint64_t memory) { return free((void *)memory), 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { return memcpy((void *)to, from, bytes), 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { return memcpy(to, (void *)from, bytes), 0; }
int cuGetErrorString(int, const char **text) { return *text = "emulated error", 0; }
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                   void *, void **arguments, void **)
{
    static pthread_t ids[1024];
    static thread_work works[1024];
    blockDim = {threads, 1, 1};
    pthread_barrier_init(&barrier, nullptr, threads);
    for (unsigned i = 0; i < threads; i++) {
        works[i] = {(call_function *)function, arguments, i, {x, y, z}};
        if (pthread_create(&ids[i], nullptr, run_thread, &works[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], nullptr);
    pthread_barrier_destroy(&barrier);
    return 0;
}
}
