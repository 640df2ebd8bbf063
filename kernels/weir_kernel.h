/* What a user's kernel is compiled against: CUDA C on both sides, by NVRTC or nvcc for GPUs and by g++ for CPUs.
 *
 * It is put before the source, so that `#include "weir_kernel.h"` is allowed and needless. A kernel has one
 *
 *     extern "C" __global__ void NAME(weir_items items, pointers..., parameters..., extents...)
 *
 * whose arguments follow from its manifest (kernels/manifest_user.h). On a CPU the threads of a block are turns of
 * a loop, which the compiler vectorises; where the source waits for other threads (__syncthreads, __syncwarp, a
 * shuffle or a vote) they are fibres that take turns on one core. Blocks run one after the other on both
 * sides as far as a kernel can tell, so a kernel must not wait for another block.
 *
 * The bits: -ffp-contract=off and --fmad=false forbid contraction, so a * b + c rounds twice on both sides and
 * fmaf(a, b, c) once. Elementary functions are those of weir_math.h; the C library's aren't there. Outputs
 * begin as zeros. */
#ifndef KERNELS_WEIR_KERNEL_H
#define KERNELS_WEIR_KERNEL_H

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#elif defined(__CUDACC__)
#include <stdint.h>
#else
typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __SIZE_TYPE__ size_t;
#endif

/* The items of this shard: their number, and where the first stands in the job. Rows count from this shard's first. */
struct weir_items {
    uint64_t first, count;
};

#ifdef __CUDACC__

#define WEIR_INF_F __int_as_float(0x7f800000)
#define WEIR_INF __longlong_as_double(0x7ff0000000000000)

/* The shared memory that the manifest asks for with `shared = BYTES`. */
template <class T> static __device__ __forceinline__ T *weir_shared()
{
    extern __shared__ __align__(16) unsigned char weir_shared_memory[];
    return reinterpret_cast<T *>(weir_shared_memory);
}

/* The number of this thread's item, where `item = thread`; it may lie past the last one. */
static __device__ __forceinline__ uint64_t weir_item()
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* CUDA has an atomicAdd of floats, whose sum hangs on who comes first, and none of int64_t. */
template <class T> struct weir_whole {
    static_assert(((T)1) / 2 == 0,
                  "atomicAdd takes whole numbers: on floats the sum would hang on the order");
    typedef T type;
};
template <class T>
static __device__ __forceinline__ T weir_atomic_add(T *at, typename weir_whole<T>::type value)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomicAdd takes 4 or 8 bytes");
    return sizeof(T) == 8 ? (T)atomicAdd((unsigned long long *)at, (unsigned long long)value)
                          : (T)atomicAdd((unsigned int *)at, (unsigned int)value);
}
#define atomicAdd weir_atomic_add

#else /* g++ */

#define WEIR_INF_F __builtin_inff()
#define WEIR_INF __builtin_inf()

#pragma GCC diagnostic ignored "-Wattributes"
#define WEIR_HERE static inline __attribute__((always_inline))

#define __global__ inline __attribute__((always_inline))
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    uint32_t x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

/* What the worker hands over; the worker has the same struct in user_run.c. */
struct weir_call {
    uint64_t first, count;
    void *buffers[8];    /* inputs, then outputs */
    uint64_t extents[8]; /* in the manifest's order */
    const uint8_t *params;
    void *shared;
    uint8_t *stacks; /* of the block's fibres, one after the other, each stack_bytes long */
    uint64_t stack_bytes;
    uint64_t *stamp;        /* counted up while work moves */
    const uint32_t *cancel; /* nonzero: give up */
    uint32_t every_thread;  /* nonzero: those past the last item run too, as on a GPU */
};
static void *weir_shared_memory;
template <class T> WEIR_HERE T *weir_shared()
{
    return (T *)weir_shared_memory;
}
#ifdef WEIR_BY_NUMBER /* the source calls weir_item(), and no thread waits */
static uint64_t weir_number;
WEIR_HERE uint64_t weir_item()
{
    return weir_number;
}
#else
WEIR_HERE uint64_t weir_item()
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
#endif

/* ---- What the compiler calls, without a C library */

extern "C" {
__attribute__((externally_visible, used, visibility("hidden"))) void *memcpy(void *to, const void *from,
                                                                             size_t bytes)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}
__attribute__((externally_visible, used, visibility("hidden"))) void *memset(void *to, int value,
                                                                             size_t bytes)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
    return to;
}
__attribute__((externally_visible, used, visibility("hidden"))) void *memmove(void *to, const void *from,
                                                                              size_t bytes)
{
    volatile char *a = (volatile char *)to;
    const volatile char *b = (const volatile char *)from;
    if ((size_t)to - (size_t)from >= bytes)
        return memcpy(to, from, bytes);
    while (bytes-- > 0)
        a[bytes] = b[bytes];
    return to;
}
__attribute__((externally_visible, used, visibility("hidden"))) int memcmp(const void *left,
                                                                           const void *right, size_t bytes)
{
    const volatile uint8_t *a = (const volatile uint8_t *)left, *b = (const volatile uint8_t *)right;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}
}

/* ---- CUDA's own functions, with CUDA's results */

WEIR_HERE float fmaf(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
WEIR_HERE double fma(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}
WEIR_HERE float sqrtf(float x)
{
    return __builtin_sqrtf(x);
}
WEIR_HERE double sqrt(double x)
{
    return __builtin_sqrt(x);
}
WEIR_HERE float fabsf(float x)
{
    return __builtin_fabsf(x);
}
WEIR_HERE double fabs(double x)
{
    return __builtin_fabs(x);
}
WEIR_HERE float floorf(float x)
{
    return __builtin_floorf(x);
}
WEIR_HERE double floor(double x)
{
    return __builtin_floor(x);
}
WEIR_HERE float ceilf(float x)
{
    return __builtin_ceilf(x);
}
WEIR_HERE double ceil(double x)
{
    return __builtin_ceil(x);
}
WEIR_HERE float truncf(float x)
{
    return __builtin_truncf(x);
}
WEIR_HERE double trunc(double x)
{
    return __builtin_trunc(x);
}
WEIR_HERE float rintf(float x)
{
    return __builtin_rintf(x);
}
WEIR_HERE double rint(double x)
{
    return __builtin_rint(x);
}
WEIR_HERE float copysignf(float x, float y)
{
    return __builtin_copysignf(x, y);
}
WEIR_HERE double copysign(double x, double y)
{
    return __builtin_copysign(x, y);
}
/* A number wins over NaN. */
WEIR_HERE float fminf(float a, float b)
{
    return a < b || b != b ? a : b;
}
WEIR_HERE float fmaxf(float a, float b)
{
    return a > b || b != b ? a : b;
}
WEIR_HERE double fmin(double a, double b)
{
    return a < b || b != b ? a : b;
}
WEIR_HERE double fmax(double a, double b)
{
    return a > b || b != b ? a : b;
}
#define isnan(x) ((x) != (x))
#define isinf(x) __builtin_isinf(x)

template <class T> WEIR_HERE T min(T a, T b)
{
    return b < a ? b : a;
}
template <class T> WEIR_HERE T max(T a, T b)
{
    return a < b ? b : a;
}
WEIR_HERE int abs(int x)
{
    return x < 0 ? -x : x;
}
WEIR_HERE int64_t llabs(int64_t x)
{
    return x < 0 ? -x : x;
}

WEIR_HERE uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
WEIR_HERE int __float_as_int(float x)
{
    int bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
WEIR_HERE float __uint_as_float(uint32_t bits)
{
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
WEIR_HERE float __int_as_float(int bits)
{
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
WEIR_HERE int64_t __double_as_longlong(double x)
{
    int64_t bits;
    __builtin_memcpy(&bits, &x, 8);
    return bits;
}
WEIR_HERE double __longlong_as_double(int64_t bits)
{
    double x;
    __builtin_memcpy(&x, &bits, 8);
    return x;
}

WEIR_HERE int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}
WEIR_HERE int __popcll(uint64_t x)
{
    return __builtin_popcountll(x);
}
WEIR_HERE int __clz(int x)
{
    return x ? __builtin_clz((uint32_t)x) : 32;
}
WEIR_HERE int __clzll(int64_t x)
{
    return x ? __builtin_clzll((uint64_t)x) : 64;
}
WEIR_HERE int __ffs(int x)
{
    return __builtin_ffs(x);
}
WEIR_HERE uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}
WEIR_HERE uint64_t __umul64hi(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 64);
}
WEIR_HERE uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by)
{
    return (uint32_t)((((uint64_t)high << 32 | low) << (by & 31)) >> 32);
}
WEIR_HERE uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (by & 31));
}
template <class T> WEIR_HERE T __ldg(const T *at)
{
    return *at;
}

/* ---- Atomics on whole numbers. One core runs a block, so they need only be kept in order: by volatile, which no compiler
 * vectorises. On floats they would give what order gives, so there are none. */

template <class T> struct weir_same_type {
    using type = T;
};
#define WEIR_ATOMIC(name, expression)                                                                        \
    template <class T> WEIR_HERE T name(T *at, typename weir_same_type<T>::type value)                       \
    {                                                                                                        \
        static_assert(((T)1) / 2 == 0,                                                                       \
                      #name " takes whole numbers: on floats the sum would hang on the order");              \
        volatile T *place = at;                                                                              \
        const T old = *place;                                                                                \
        *place = (T)(expression);                                                                            \
        return old;                                                                                          \
    }
WEIR_ATOMIC(atomicAdd, old + value)
WEIR_ATOMIC(atomicSub, old - value)
WEIR_ATOMIC(atomicMin, value < old ? value : old)
WEIR_ATOMIC(atomicMax, old < value ? value : old)
WEIR_ATOMIC(atomicAnd, old &value)
WEIR_ATOMIC(atomicOr, old | value)
WEIR_ATOMIC(atomicXor, old ^ value)
WEIR_ATOMIC(atomicExch, value)
template <class T>
WEIR_HERE T atomicCAS(T *at, typename weir_same_type<T>::type expected,
                      typename weir_same_type<T>::type value)
{
    volatile T *place = at;
    const T old = *place;
    if (old == expected)
        *place = value;
    return old;
}
WEIR_HERE void __threadfence()
{
}
WEIR_HERE void __threadfence_block()
{
}

/* ---- Launch: all items of a shard */

enum { WEIR_ITEM_THREAD, WEIR_ITEM_BLOCK, WEIR_ITEM_SHARD };

#ifndef WEIR_FIBRES

/* Threads `first` to `last` - 1 of the grid, all of one block. */
#ifdef WEIR_BY_NUMBER
template <class Body> WEIR_HERE void weir_block(const Body &body, uint64_t first, uint64_t last)
{
    uint32_t thread = 0;
#pragma GCC ivdep
    for (uint64_t number = first; number < last; number++) {
        weir_number = number;
        threadIdx.x = thread++;
        body();
    }
}
#else
template <class Body> WEIR_HERE void weir_block(const Body &body, uint64_t first, uint64_t last)
{
    const uint32_t threads = (uint32_t)(last - first);
#pragma GCC ivdep
    for (uint32_t thread = 0; thread < threads; thread++) {
        threadIdx.x = thread;
        body();
    }
}
#endif

#else

/* Fibres: each thread of a block has a stack and runs until it waits, then gives way to the next one of its warp that
 * can run, then to the next warp. When all wait for the block, all go on. */
struct weir_fibre {
    void *stack_pointer;
};
struct weir_warp {
    uint32_t ready, waits_warp, waits_block; /* bit per lane */
    uint32_t round;                          /* counts how often those that waited for the warp went on */
};
static weir_fibre weir_fibres[1024];
static weir_warp weir_warps[32];
static uint32_t weir_warp_count, weir_thread;
static void *weir_main_stack;
static void (*weir_body)(const void *), *weir_unused;
static const void *weir_body_data;
static uint64_t
    weir_lanes[1024][2]; /* what a shuffle hands over, by round: the next may begin before all have read */

extern "C" __attribute__((naked, noinline, noipa, used)) void weir_switch(void **save, void *load)
{
    __asm__ volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
                     "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
                     "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

/* Which thread runs next; -1: all are done. */
WEIR_HERE int weir_next(uint32_t warp, uint32_t lane)
{
    const uint32_t after = weir_warps[warp].ready & (lane == 31 ? 0 : ~((2u << lane) - 1));
    if (after)
        return (int)(32 * warp + (uint32_t)__builtin_ctz(after));
    for (uint32_t step = 0; step <= weir_warp_count; step++) {
        weir_warp *at = &weir_warps[warp];
        if (!at->ready && at->waits_warp) {
            at->ready = at->waits_warp;
            at->waits_warp = 0;
            at->round++;
        }
        if (at->ready)
            return (int)(32 * warp + (uint32_t)__builtin_ctz(at->ready));
        warp = warp + 1 == weir_warp_count ? 0 : warp + 1;
    }
    int first = -1;
    for (uint32_t w = weir_warp_count; w-- > 0;) {
        weir_warps[w].ready = weir_warps[w].waits_block;
        weir_warps[w].waits_block = 0;
        if (weir_warps[w].ready)
            first = (int)(32 * w + (uint32_t)__builtin_ctz(weir_warps[w].ready));
    }
    return first;
}

static __attribute__((noinline)) void weir_give_way(bool block)
{
    const uint32_t self = weir_thread, warp = self / 32, lane = self % 32;
    weir_warps[warp].ready &= ~(1u << lane);
    (block ? weir_warps[warp].waits_block : weir_warps[warp].waits_warp) |= 1u << lane;
    const uint32_t next = (uint32_t)weir_next(warp, lane);
    if (next != self) {
        weir_thread = threadIdx.x = next;
        weir_switch(&weir_fibres[self].stack_pointer, weir_fibres[next].stack_pointer);
    }
}

static __attribute__((noinline, used)) void weir_fibre_main()
{
    weir_body(weir_body_data);
    const uint32_t self = weir_thread, warp = self / 32, lane = self % 32;
    weir_warps[warp].ready &= ~(1u << lane);
    const int next = weir_next(warp, lane);
    void *scratch;
    if (next >= 0) {
        weir_thread = threadIdx.x = (uint32_t)next;
        weir_switch(&scratch, weir_fibres[next].stack_pointer);
    }
    weir_switch(&scratch, weir_main_stack);
    __builtin_unreachable();
}

static uint8_t *weir_stacks;
static uint64_t weir_stack_bytes;

template <class Body> static __attribute__((noinline)) void weir_run_body(const void *body)
{
    (*(const Body *)body)();
}

template <class Body> WEIR_HERE void weir_block(const Body &body, uint64_t first, uint64_t last)
{
    const uint32_t threads = (uint32_t)(last - first);
    weir_warp_count = (threads + 31) / 32;
    for (uint32_t warp = 0; warp < weir_warp_count; warp++) {
        const uint32_t lanes = threads - 32 * warp;
        weir_warps[warp] = {lanes >= 32 ? ~0u : (1u << lanes) - 1, 0, 0, 0};
    }
    for (uint32_t thread = 0; thread < threads; thread++) {
        void **top = (void **)(weir_stacks + (thread + 1) * weir_stack_bytes);
        top[-1] = nullptr;
        top[-2] = (void *)
            weir_fibre_main; /* where the first switch returns to, with a stack aligned as after a call */
        weir_fibres[thread].stack_pointer = top - 8;
    }
    weir_body = weir_run_body<Body>;
    weir_body_data = &body;
    weir_thread = threadIdx.x = 0;
    weir_switch(&weir_main_stack, weir_fibres[0].stack_pointer);
}

WEIR_HERE void __syncthreads()
{
    weir_give_way(true);
}
WEIR_HERE void __syncwarp(uint32_t = ~0u)
{
    weir_give_way(false);
}

/* Hands `bits` to the other lanes of the warp and waits for theirs; then weir_lane reads. */
WEIR_HERE uint32_t weir_hand_over(uint64_t bits)
{
    const uint32_t turn = weir_warps[weir_thread / 32].round & 1;
    weir_lanes[weir_thread][turn] = bits;
    weir_give_way(false);
    return turn;
}
WEIR_HERE uint64_t weir_lane(uint32_t lane, uint32_t turn)
{
    return weir_lanes[(weir_thread & ~31u) + lane][turn];
}

template <class T> WEIR_HERE T weir_shuffle(T value, int from, bool good)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes values of 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    const uint32_t turn = weir_hand_over(bits);
    const uint64_t got = weir_lane((uint32_t)(good ? from : (int)(weir_thread & 31)), turn);
    __builtin_memcpy(&value, &got, sizeof value);
    return value;
}
template <class T> WEIR_HERE T __shfl_sync(uint32_t, T value, int lane, int width = 32)
{
    const int self = (int)(weir_thread & 31);
    return weir_shuffle(value, (self & ~(width - 1)) | (lane & (width - 1)), true);
}
template <class T> WEIR_HERE T __shfl_up_sync(uint32_t, T value, uint32_t by, int width = 32)
{
    const int self = (int)(weir_thread & 31), from = self - (int)by;
    return weir_shuffle(value, from, from >= (self & ~(width - 1)));
}
template <class T> WEIR_HERE T __shfl_down_sync(uint32_t, T value, uint32_t by, int width = 32)
{
    const int self = (int)(weir_thread & 31), from = self + (int)by;
    return weir_shuffle(value, from, from < (self & ~(width - 1)) + width);
}
template <class T> WEIR_HERE T __shfl_xor_sync(uint32_t, T value, int mask, int width = 32)
{
    const int self = (int)(weir_thread & 31), from = self ^ mask;
    return weir_shuffle(value, from, from < (self & ~(width - 1)) + width);
}
WEIR_HERE uint32_t __ballot_sync(uint32_t mask, int vote)
{
    const uint32_t turn = weir_hand_over((uint64_t)(vote != 0));
    uint32_t votes = 0;
    for (uint32_t lane = 0; lane < 32; lane++)
        if (mask & 1u << lane)
            votes |= (uint32_t)weir_lane(lane, turn) << lane;
    return votes;
}
WEIR_HERE int __any_sync(uint32_t mask, int vote)
{
    return __ballot_sync(mask, vote) != 0;
}
WEIR_HERE int __all_sync(uint32_t mask, int vote)
{
    return __ballot_sync(mask, !vote) == 0;
}

#endif

template <int item, uint32_t block, class Body>
WEIR_HERE int weir_launch(const weir_call *call, const Body &body)
{
    const uint64_t count = call->count;
    const uint64_t blocks = item == WEIR_ITEM_THREAD  ? (count + block - 1) / block
                            : item == WEIR_ITEM_BLOCK ? count
                                                      : 1;
    blockDim = {block, 1, 1};
    gridDim = {(uint32_t)blocks, 1, 1};
    threadIdx = blockIdx = {0, 0, 0};
    weir_shared_memory = call->shared;
#ifdef WEIR_FIBRES
    if (!call->stacks)
        return -1; /* come again with some */
    weir_stacks = call->stacks;
    weir_stack_bytes = call->stack_bytes;
#endif
    for (uint32_t at = 0; at < (uint32_t)blocks; at++) {
        const uint64_t first = (uint64_t)at * block;
        blockIdx.x = at;
#ifndef WEIR_FIBRES
        /* Threads past the last item could only find that out; `weir kernel check` sees whether they do. */
        if (item == WEIR_ITEM_THREAD && !call->every_thread) {
            const uint64_t left = count - first, last = first + (left < block ? left : block);
            /* So that the compiler drops the source's question whether a thread has an item, where it is weir_item() that is
             * asked for. With it, it stores behind a mask, which many processors without AVX-512 do number by number. */
            if (last > count)
                __builtin_unreachable();
            weir_block(body, first, last);
        } else
#endif
            weir_block(body, first, first + block);
        if ((at & 15) == 15) {
            __atomic_fetch_add(call->stamp, 1, __ATOMIC_RELAXED);
            if (__atomic_load_n(call->cancel, __ATOMIC_RELAXED))
                return 1;
        }
    }
    return 0;
}

#endif /* g++ */

template <class A, class B> struct weir_same {
    static const bool value = false;
};
template <class A> struct weir_same<A, A> {
    static const bool value = true;
};

#endif
