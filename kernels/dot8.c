#include "kernels/dot8.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef void product_function(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns,
                              size_t depth, int32_t *out, size_t out_stride);

size_t dot8_packed_bytes(size_t columns, size_t depth)
{
    return (columns + DOT8_PANEL - 1) / DOT8_PANEL * DOT8_PANEL * dot8_stride(depth);
}

size_t dot8_stride(size_t depth)
{
    return (depth + 3) / 4 * 4;
}

void *dot8_alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

void dot8_pack_rows(const int8_t *rows, size_t stride, size_t columns, size_t depth, uint8_t *packed)
{
    const size_t quads = dot8_stride(depth) / 4, whole = depth / 4;
    for (size_t first = 0; first < columns; first += DOT8_PANEL) {
        const size_t count = columns - first < DOT8_PANEL ? columns - first : DOT8_PANEL;
        uint32_t *panel = (uint32_t *)(void *)(packed + first * quads * 4);
        if (count < DOT8_PANEL)
            memset(panel, 0, DOT8_PANEL * quads * 4);
        for (size_t lane = 0; lane < count; lane++) {
            const int8_t *row = rows + (first + lane) * stride;
            for (size_t quad = 0; quad < whole; quad++) {
                uint32_t word;
                memcpy(&word, row + 4 * quad, 4);
                panel[quad * DOT8_PANEL + lane] = word ^ 0x80808080u;
            }
            if (whole < quads) {
                uint8_t bytes[4] = {0};
                for (size_t j = whole * 4; j < depth; j++)
                    bytes[j - whole * 4] = (uint8_t)((uint8_t)row[j] ^ 0x80u);
                memcpy(&panel[whole * DOT8_PANEL + lane], bytes, 4);
            }
        }
    }
}

void dot8_pack_columns(const int8_t *matrix, size_t stride, size_t columns, size_t depth, uint8_t *packed)
{
    const size_t padded = dot8_stride(depth);
    memset(packed, 0, dot8_packed_bytes(columns, depth));
    for (size_t first = 0; first < columns; first += DOT8_PANEL) {
        const size_t count = columns - first < DOT8_PANEL ? columns - first : DOT8_PANEL;
        uint8_t *panel = packed + first * padded;
        const int8_t *from = matrix + first;
        size_t j = 0;
        for (; count == DOT8_PANEL && j + 4 <= depth; j += 4) {
            uint32_t group[DOT8_PANEL];
            for (size_t lane = 0; lane < DOT8_PANEL; lane++)
                group[lane] = (uint32_t)(uint8_t)from[j * stride + lane] |
                              (uint32_t)(uint8_t)from[(j + 1) * stride + lane] << 8 |
                              (uint32_t)(uint8_t)from[(j + 2) * stride + lane] << 16 |
                              (uint32_t)(uint8_t)from[(j + 3) * stride + lane] << 24;
            for (size_t lane = 0; lane < DOT8_PANEL; lane++)
                group[lane] ^= 0x80808080u;
            memcpy(panel + j * DOT8_PANEL, group, sizeof group);
        }
        for (; j < depth; j++)
            for (size_t lane = 0; lane < count; lane++)
                panel[j / 4 * 64 + lane * 4 + j % 4] = (uint8_t)((uint8_t)from[j * stride + lane] ^ 0x80u);
    }
}

/* What the + 128 of the packed bytes adds to each product of this row. Padding of the row doesn't count. */
static uint32_t row_excess(const int8_t *row, size_t depth)
{
    int32_t sum = 0;
    for (size_t j = 0; j < depth; j++)
        sum += row[j];
    return 128u * (uint32_t)sum;
}

static void product_portable(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns,
                             size_t depth, int32_t *out, size_t out_stride)
{
    const size_t stride = dot8_stride(depth);
    for (size_t r = 0; r < row_count; r++) {
        const int8_t *row = rows + r * stride;
        const uint32_t excess = row_excess(row, depth);
        for (size_t first = 0; first < columns; first += DOT8_PANEL) {
            const uint8_t *panel = packed + first * stride;
            uint32_t sums[DOT8_PANEL] = {0};
            for (size_t quad = 0; quad < stride / 4; quad++)
                for (size_t lane = 0; lane < DOT8_PANEL; lane++) {
                    const uint8_t *group = panel + quad * 64 + lane * 4;
                    const int8_t *four = row + quad * 4;
                    sums[lane] += (uint32_t)(group[0] * four[0] + group[1] * four[1] + group[2] * four[2] +
                                             group[3] * four[3]);
                }
            for (size_t lane = 0; lane < DOT8_PANEL; lane++)
                out[r * out_stride + first + lane] = (int32_t)(sums[lane] - excess);
        }
    }
}

#if defined(__x86_64__)

#define ROWS_AT_ONCE 64
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define AVX2 __attribute__((target("avx2")))

/* One tile: ROWS rows by PANELS panels, all sums in registers (8 x 3 = 24 of 32). Unrolled by the compiler,
 * since both counts are constants at every call. */
AVX512 static inline __attribute__((always_inline)) void
tile_avx512(const int8_t *rows, const uint8_t *packed, size_t depth, const uint32_t *excess, int32_t *out,
            size_t out_stride, const size_t row_count, const size_t panels)
{
    const size_t stride = dot8_stride(depth);
    __m512i sums[8][3];
#pragma GCC unroll 8
    for (size_t r = 0; r < row_count; r++)
#pragma GCC unroll 3
        for (size_t p = 0; p < panels; p++)
            sums[r][p] = _mm512_setzero_si512();
    for (size_t quad = 0; quad < stride / 4; quad++) {
        __m512i group[3];
#pragma GCC unroll 3
        for (size_t p = 0; p < panels; p++)
            group[p] = _mm512_load_si512(packed + p * DOT8_PANEL * stride + quad * 64);
#pragma GCC unroll 8
        for (size_t r = 0; r < row_count; r++) {
            int32_t four;
            memcpy(&four, rows + r * stride + quad * 4, 4);
            const __m512i broadcast = _mm512_set1_epi32(four);
#pragma GCC unroll 3
            for (size_t p = 0; p < panels; p++)
                /* Not the intrinsic: GCC 12 copies and spills its sums, which costs half of the speed. */
                __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[r][p]) : "v"(group[p]), "v"(broadcast));
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < row_count; r++)
#pragma GCC unroll 3
        for (size_t p = 0; p < panels; p++)
            _mm512_storeu_si512(out + r * out_stride + p * DOT8_PANEL,
                                _mm512_sub_epi32(sums[r][p], _mm512_set1_epi32((int32_t)excess[r])));
}

/* The same 64 bytes at a time: where few columns are multiplied it is no small part. */
AVX512 static uint32_t row_excess_avx512(const int8_t *row, size_t depth)
{
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sums = _mm512_setzero_si512();
    for (size_t j = 0; j < depth; j += 64) {
        const size_t left = depth - j;
        const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        sums = _mm512_dpbusd_epi32(sums, ones, _mm512_maskz_loadu_epi8(mask, row + j));
    }
    return 128u * (uint32_t)_mm512_reduce_add_epi32(sums);
}

/* A few panels meet all rows before the next ones do, so that they stay in the first-level cache. */
AVX512 static void product_avx512(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns,
                                  size_t depth, int32_t *out, size_t out_stride)
{
    const size_t stride = dot8_stride(depth), panels = (columns + DOT8_PANEL - 1) / DOT8_PANEL;
    uint32_t excess[ROWS_AT_ONCE];
    for (size_t first = 0; first < row_count; first += ROWS_AT_ONCE) {
        const size_t rows_now = row_count - first < ROWS_AT_ONCE ? row_count - first : ROWS_AT_ONCE;
        for (size_t r = 0; r < rows_now; r++)
            excess[r] = row_excess_avx512(rows + (first + r) * stride, depth);
        for (size_t p = 0, width; p < panels; p += width) {
            const uint8_t *with = packed + p * DOT8_PANEL * stride;
            width = panels - p >= 3 ? 3 : 1;
            for (size_t r = 0, height; r < rows_now; r += height) {
                const int8_t *from = rows + (first + r) * stride;
                int32_t *to = out + (first + r) * out_stride + p * DOT8_PANEL;
                height = rows_now - r >= 8 ? 8 : rows_now - r >= 4 ? 4 : 1;
                if (height == 8 && width == 3)
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 8, 3);
                else if (height == 8)
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 8, 1);
                else if (height == 4 && width == 3)
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 4, 3);
                else if (height == 4)
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 4, 1);
                else if (width == 3)
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 1, 3);
                else
                    tile_avx512(from, with, depth, excess + r, to, out_stride, 1, 1);
            }
        }
    }
}

/* Without VNNI: 16-bit operands, since the 8-bit multiply saturates. They are widened beforehand, out of the inner loop,
 * where each instruction counts: a panel's slice of depth for all rows of a block, a row's slice for all panels. */
#define WIDE_DEPTH 512 /* a panel's slice, 16 KiB, stays in the first-level cache beside the rows that pass */
#define TILE_ROWS 6
#define WIDE_ROWS 66 /* whole tiles; a panel is widened once for so many, in the time of 2 of them; 66 KiB */

struct wide {
    int16_t panel[WIDE_DEPTH * DOT8_PANEL], rows[WIDE_ROWS * WIDE_DEPTH];
} __attribute__((aligned(64)));

/* Per two steps of depth both of each column side by side, as the multiplication adds them, and without the + 128. */
AVX2 static void widen_panel(const uint8_t *panel, size_t quads, int16_t *wide)
{
    const __m256i first = _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1,
                                           -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m256i second = _mm256_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, 2, -1,
                                            3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    const __m256i more = _mm256_set1_epi16(128);
    __m256i *to = (__m256i *)(void *)wide;
    for (size_t quad = 0; quad < quads; quad++, panel += 64, to += 4) {
        const __m256i left = _mm256_load_si256((const __m256i *)(const void *)panel);
        const __m256i right = _mm256_load_si256((const __m256i *)(const void *)(panel + 32));
        _mm256_store_si256(to, _mm256_sub_epi16(_mm256_shuffle_epi8(left, first), more));
        _mm256_store_si256(to + 1, _mm256_sub_epi16(_mm256_shuffle_epi8(right, first), more));
        _mm256_store_si256(to + 2, _mm256_sub_epi16(_mm256_shuffle_epi8(left, second), more));
        _mm256_store_si256(to + 3, _mm256_sub_epi16(_mm256_shuffle_epi8(right, second), more));
    }
}

/* Zeros follow, up to a whole turn of the tile's loop: what stands there in a panel counts for nothing. */
AVX2 static void widen_row(const int8_t *row, size_t depth, int16_t *wide)
{
    size_t j = 0;
    for (; j + 16 <= depth; j += 16)
        _mm256_store_si256((__m256i *)(void *)(wide + j),
                           _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + j))));
    for (; j < (depth + 7) / 8 * 8; j++)
        wide[j] = j < depth ? row[j] : 0;
}

/* 6 rows by a panel. For every two steps of depth: 2 loads of the panel and 6 broadcasts of rows (of 2 loads a cycle), 12
 * multiplications (of 2 a cycle) and 12 additions that share four ports with them (Zen 3; three on Intel), 32 instructions
 * to decode (of 6 a cycle). So multiplications and additions alone bound it: 6 cycles for 192 products, of which a loop of
 * nothing else takes 7.2.
 *
 * In assembler, since it needs all 16 registers: 12 sums, the panel's two, a row, a product. Compilers keep sums in memory. */
AVX2 static void tile_avx2(const int16_t *rows, const int16_t *panel, size_t quads,
                           __m256i sums[TILE_ROWS][2])
{
    size_t turns = (quads + 1) / 2;
#define ROW(number, depth, left, right)                                                                      \
    "vpbroadcastd " #number "*%c[pitch]+4*" #depth "(%[rows]), %%ymm14\n\t"                                  \
    "vpmaddwd %%ymm13, %%ymm14, %%ymm15\n\t"                                                                 \
    "vpmaddwd %%ymm12, %%ymm14, %%ymm14\n\t"                                                                 \
    "vpaddd %%ymm15, %%ymm" #right ", %%ymm" #right "\n\t"                                                   \
    "vpaddd %%ymm14, %%ymm" #left ", %%ymm" #left "\n\t"
#define TWO_STEPS(depth)                                                                                     \
    "vmovdqa 64*" #depth "(%[panel]), %%ymm12\n\t"                                                           \
    "vmovdqa 64*" #depth "+32(%[panel]), %%ymm13\n\t" ROW(0, depth, 0, 1) ROW(1, depth, 2, 3)                \
        ROW(2, depth, 4, 5) ROW(3, depth, 6, 7) ROW(4, depth, 8, 9) ROW(5, depth, 10, 11)
#define TWELVE(EACH)                                                                                         \
    EACH(0) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) EACH(7) EACH(8) EACH(9) EACH(10) EACH(11)
#define ZERO(number) "vpxor %%xmm" #number ", %%xmm" #number ", %%xmm" #number "\n\t"
#define STORE(number) "vmovdqa %%ymm" #number ", 32*" #number "(%[sums])\n\t"
#define ADVANCE "add $256, %[panel]\n\t add $16, %[rows]\n\t dec %[turns]\n\t"
    __asm__ volatile(TWELVE(ZERO) "1:\n\t" TWO_STEPS(0) TWO_STEPS(1) TWO_STEPS(2) TWO_STEPS(3) ADVANCE
                     "jnz 1b\n\t" TWELVE(STORE)
                     : [rows] "+r"(rows), [panel] "+r"(panel), [turns] "+r"(turns)
                     : [sums] "r"(sums), [pitch] "i"(WIDE_DEPTH * sizeof *rows)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef ROW
#undef TWO_STEPS
#undef TWELVE
#undef ZERO
#undef STORE
#undef ADVANCE
}

/* The rows that are left over: one or two. */
AVX2 static inline __attribute__((always_inline)) void tile_rest_avx2(const int16_t *rows,
                                                                      const int16_t *panel, size_t quads,
                                                                      __m256i sums[2][2],
                                                                      const size_t row_count)
{
    for (size_t r = 0; r < row_count; r++)
        sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (size_t pair = 0; pair < 2 * quads; pair++) {
        const __m256i *from = (const __m256i *)(const void *)(panel + 32 * pair);
        const __m256i left = _mm256_load_si256(from), right = _mm256_load_si256(from + 1);
#pragma GCC unroll 2
        for (size_t r = 0; r < row_count; r++) {
            int32_t two;
            memcpy(&two, rows + r * WIDE_DEPTH + 2 * pair, 4);
            const __m256i all = _mm256_set1_epi32(two);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(left, all));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(right, all));
        }
    }
}

/* `first`: of the slices of depth; the others add to it. */
AVX2 static void put_sums(const __m256i sums[2], bool first, int32_t *out)
{
    __m256i *to = (__m256i *)(void *)out;
    for (size_t half = 0; half < 2; half++)
        _mm256_storeu_si256(to + half,
                            first ? sums[half] : _mm256_add_epi32(sums[half], _mm256_loadu_si256(to + half)));
}

/* A block of rows and a slice of depth, both wide by now, with all panels. `packed` is where the slice begins in the first.
 * The next panel is fetched meanwhile, a part with each tile: where it lies far away that is a tenth of the time. */
AVX2 static void block_avx2(struct wide *wide, size_t row_count, const uint8_t *packed, size_t stride,
                            size_t columns, size_t quads, bool first, int32_t *out, size_t out_stride)
{
    const size_t ahead = quads * TILE_ROWS / row_count + 1;
    for (size_t column = 0; column < columns; column += DOT8_PANEL) {
        const uint8_t *next = packed + (column + DOT8_PANEL) * stride, *end = next + quads * 64;
        widen_panel(packed + column * stride, quads, wide->panel);
        for (size_t r = 0, height; r < row_count; r += height) {
            const int16_t *rows = wide->rows + r * WIDE_DEPTH;
            __m256i sums[TILE_ROWS][2];
            for (size_t i = 0; i < ahead && next < end; i++, next += 64)
                _mm_prefetch((const char *)next, _MM_HINT_T0);
            height = row_count - r >= TILE_ROWS ? TILE_ROWS : row_count - r >= 2 ? 2 : 1;
            if (height == TILE_ROWS)
                tile_avx2(rows, wide->panel, quads, sums);
            else if (height == 2)
                tile_rest_avx2(rows, wide->panel, quads, sums, 2);
            else
                tile_rest_avx2(rows, wide->panel, quads, sums, 1);
            for (size_t i = 0; i < height; i++)
                put_sums(sums[i], first, out + (r + i) * out_stride + column);
        }
    }
}

AVX2 static void product_avx2(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns,
                              size_t depth, int32_t *out, size_t out_stride)
{
    const size_t stride = dot8_stride(depth);
    struct wide wide;
    for (size_t from = 0; from < row_count; from += WIDE_ROWS) {
        const size_t height = row_count - from < WIDE_ROWS ? row_count - from : WIDE_ROWS;
        for (size_t begin = 0; begin < depth; begin += WIDE_DEPTH) {
            const size_t part = depth - begin < WIDE_DEPTH ? depth - begin : WIDE_DEPTH;
            for (size_t r = 0; r < height; r++)
                widen_row(rows + (from + r) * stride + begin, part, wide.rows + r * WIDE_DEPTH);
            block_avx2(&wide, height, packed + begin * DOT8_PANEL, stride, columns, dot8_stride(part) / 4,
                       begin == 0, out + from * out_stride, out_stride);
        }
    }
}
#endif

static int always(void)
{
    return 1;
}

#if defined(__x86_64__)
static int have_avx512(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
}

static int have_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#endif

static const struct variant {
    const char *name;
    int (*supported)(void);
    product_function *product;
    struct dot8_batch batch;
} variants[] = {
#if defined(__x86_64__)
    {"avx512vnni", have_avx512, product_avx512, {8, 48}},
    {"avx2", have_avx2, product_avx2, {WIDE_ROWS, 384}},
#endif
    {"portable", always, product_portable, {8, 48}},
};

static const struct variant *selected;

int dot8_select(const char *name)
{
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if ((!name || strcmp(name, variants[i].name) == 0) && variants[i].supported()) {
            selected = &variants[i];
            return 1;
        }
    return 0;
}

const char *dot8_variant(void)
{
    if (!selected)
        dot8_select(NULL);
    return selected->name;
}

struct dot8_batch dot8_batch(void)
{
    if (!selected)
        dot8_select(NULL);
    return selected->batch;
}

void dot8_product(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns, size_t depth,
                  int32_t *out, size_t out_stride)
{
    if (!selected)
        dot8_select(NULL);
    selected->product(rows, row_count, packed, columns, depth, out, out_stride);
}
