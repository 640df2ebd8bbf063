/* Exact int8 dot products: the inner loop of knn and of the int8 matmul.
 *
 * Columns are packed into panels of 16: for every 4 steps of depth, 16 groups of 4 bytes, each byte + 128 so
 * that it is unsigned, as the VNNI instruction wants; what that adds, 128 * sum(row), is taken off again.
 * Padding in depth is a packed 0, which nothing can make count. AVX-512 VNNI, AVX2 and portable C give the
 * same integers. */
#ifndef KERNELS_DOT8_H
#define KERNELS_DOT8_H

#include <stddef.h>
#include <stdint.h>

#define DOT8_PANEL 16

/* Bytes of `columns` packed columns (a multiple of 64; allocate with dot8_alloc for aligned loads). */
size_t dot8_packed_bytes(size_t columns, size_t depth);
/* Depth rounded up to 4: the stride that rows must have, with any bytes in the padding. */
size_t dot8_stride(size_t depth);
void *dot8_alloc(size_t bytes); /* 64-byte aligned, free with free(); NULL without memory */

/* Packs `columns` vectors that lie as rows of `stride` bytes (knn's base). */
void dot8_pack_rows(const int8_t *rows, size_t stride, size_t columns, size_t depth, uint8_t *packed);
/* Packs `columns` columns of a row-major matrix of `depth` rows (matmul's b). */
void dot8_pack_columns(const int8_t *matrix, size_t stride, size_t columns, size_t depth, uint8_t *packed);

/* out[r * out_stride + c] = sum over j < depth of rows[r * dot8_stride(depth) + j] * column c, for c below
 * `columns` rounded up to 16. Sums wrap modulo 2^32; the callers' limits keep them inside. */
void dot8_product(const int8_t *rows, size_t row_count, const uint8_t *packed, size_t columns, size_t depth,
                  int32_t *out, size_t out_stride);
/* What a call should get at least: then what is done once per row and once per column counts for little, and the products
 * of so many rows with a block of columns that fits the second-level cache do so too. */
struct dot8_batch {
    size_t rows, columns; /* columns: whole panels */
};
struct dot8_batch dot8_batch(void);
/* "avx512vnni", "avx2" or "portable". */
const char *dot8_variant(void);
/* Picks a variant by name for tests; 0 if this CPU can't run it. NULL: the best. */
int dot8_select(const char *name);

#endif
