#include "kernels/dot8.h"

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

/* Without VNNI: bytes 0 and 2, then 1 and 3, of each group widened to 16 bits, since the 8-bit multiply
 * saturates. */
AVX2 static inline __attribute__((always_inline)) void tile_avx2(const int8_t *rows, const uint8_t *panel,
                                                                 size_t depth, const uint32_t *excess,
                                                                 int32_t *out, size_t out_stride,
                                                                 const size_t row_count)
{
    const size_t stride = dot8_stride(depth);
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    __m256i sums[4][2];
#pragma GCC unroll 4
    for (size_t r = 0; r < row_count; r++)
        sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (size_t quad = 0; quad < stride / 4; quad++) {
        const __m256i left = _mm256_load_si256((const __m256i *)(const void *)(panel + quad * 64));
        const __m256i right = _mm256_load_si256((const __m256i *)(const void *)(panel + quad * 64 + 32));
        const __m256i left_even = _mm256_and_si256(left, low_bytes), left_odd = _mm256_srli_epi16(left, 8);
        const __m256i right_even = _mm256_and_si256(right, low_bytes),
                      right_odd = _mm256_srli_epi16(right, 8);
#pragma GCC unroll 4
        for (size_t r = 0; r < row_count; r++) {
            int32_t four;
            memcpy(&four, rows + r * stride + quad * 4, 4);
            const __m256i all = _mm256_set1_epi32(four);
            const __m256i odd = _mm256_srai_epi16(all, 8),
                          even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_add_epi32(_mm256_madd_epi16(left_even, even),
                                                                       _mm256_madd_epi16(left_odd, odd)));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_add_epi32(_mm256_madd_epi16(right_even, even),
                                                                       _mm256_madd_epi16(right_odd, odd)));
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < row_count; r++)
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)(void *)(out + r * out_stride + 8 * half),
                                _mm256_sub_epi32(sums[r][half], _mm256_set1_epi32((int32_t)excess[r])));
}

AVX2 static void product_avx2(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns,
                              size_t depth, int32_t *out, size_t out_stride)
{
    const size_t stride = dot8_stride(depth);
    for (size_t r = 0; r < row_count;) {
        const size_t height = row_count - r >= 4 ? 4 : 1;
        uint32_t excess[4];
        for (size_t i = 0; i < height; i++)
            excess[i] = row_excess(rows + (r + i) * stride, depth);
        for (size_t first = 0; first < columns; first += DOT8_PANEL) {
            const uint8_t *panel = packed + first * stride;
            int32_t *to = out + r * out_stride + first;
            if (height == 4)
                tile_avx2(rows + r * stride, panel, depth, excess, to, out_stride, 4);
            else
                tile_avx2(rows + r * stride, panel, depth, excess, to, out_stride, 1);
        }
        r += height;
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
} variants[] = {
#if defined(__x86_64__)
    {"avx512vnni", have_avx512, product_avx512},
    {"avx2", have_avx2, product_avx2},
#endif
    {"portable", always, product_portable},
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

void dot8_product(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns, size_t depth,
                  int32_t *out, size_t out_stride)
{
    if (!selected)
        dot8_select(NULL);
    selected->product(rows, row_count, packed, columns, depth, out, out_stride);
}
