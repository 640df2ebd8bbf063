/* Manifests of users' kernels: an INI text that says what the CUDA C source beside it takes, gives and costs.
 *
 *     [kernel]                          [input x]                 [param a]
 *     name = saxpy                      type = float32            type = real
 *     help = a x + y                    shape = items             min = -1000
 *     class = exact                     [output y]                max = 1000
 *     item = thread                     type = float32            default = 1
 *     block = 256                       shape = items
 *     cost = 1                          combine = concat
 *
 * A shape is a list of axes: `items` (only the first axis: such an input is split, any other is broadcast), a
 * number, the name of a whole-number parameter, or a word that stands for an extent: the first input that has
 * it gives it, the others must agree. The entry's arguments follow from it, in this order: weir_items; a
 * pointer per input; a pointer per output; a value per parameter (int64_t or double); a uint64_t per word.
 *
 * The text is read by the submitter, by the job's home and by each executor, and every byte may be hostile.
 * What comes of it is a struct manifest like a built-in kernel's, for all that plans and checks jobs.
 * docs/kernels.md is the manual for whoever writes one. */
#ifndef KERNELS_MANIFEST_USER_H
#define KERNELS_MANIFEST_USER_H

#include "kernels/manifest.h"

#define MANIFEST_TEXT_BYTES_MAX 4096u          /* of the INI text: it rides in messages and in a job's row */
#define MANIFEST_SOURCE_BYTES_MAX (256u << 10) /* of the CUDA C source */
#define MANIFEST_BLOCK_MAX 1024u               /* threads of a block, as on every GPU */
#define MANIFEST_SHARED_BYTES_MAX                                                                            \
    (48u << 10)                  /* of shared memory that the manifest asks for: every GPU has so much */
#define MANIFEST_SHAPE_BYTES 256 /* with the help behind it; longer ones are cut */
#define MANIFEST_WORDS_MAX 8u    /* extents with a name */
#define MANIFEST_ARGUMENTS_MAX                                                                               \
    (1 + MANIFEST_INPUTS_MAX + MANIFEST_OUTPUTS_MAX + MANIFEST_PARAMS_MAX + MANIFEST_WORDS_MAX)

#define MANIFEST_PAGE_BYTES 4096u

/* Where a buffer of a user's kernel goes: on pages of its own, ending at a page's end; moves *at behind it. */
static inline uint64_t manifest_user_place(uint64_t *at, uint64_t bytes)
{
    const uint64_t page = MANIFEST_PAGE_BYTES, begin = (*at + page - 1) / page * page,
                   end = begin + (bytes + page - 1) / page * page;
    *at = end;
    return end - bytes;
}

/* Who computes an item. */
enum manifest_item {
    MANIFEST_ITEM_THREAD, /* a thread: ceil(items / block) blocks */
    MANIFEST_ITEM_BLOCK,  /* a block: as many blocks as items */
    MANIFEST_ITEM_SHARD,  /* one block computes all items of a shard */
};

enum manifest_language { MANIFEST_CUDA, MANIFEST_PTX }; /* PTX runs on GPUs only */

enum manifest_axis_kind {
    MANIFEST_AXIS_ITEMS,
    MANIFEST_AXIS_NUMBER,
    MANIFEST_AXIS_PARAM,
    MANIFEST_AXIS_WORD
};
struct manifest_axis {
    enum manifest_axis_kind kind;
    uint64_t value; /* the number, or the index of the parameter or word */
};
struct manifest_axes {
    uint8_t dtype; /* enum array_dtype */
    uint8_t rank;
    struct manifest_axis axis[ARRAY_RANK_MAX];
};

struct manifest_user {
    struct manifest manifest; /* manifest.user points back here; its names lie in `words_text` */
    enum manifest_item item;
    uint32_t block;        /* threads */
    uint32_t shared_bytes; /* what weir_shared() points to */
    double cost_ns;        /* of an item, on one CPU core */
    struct manifest_axes inputs[MANIFEST_INPUTS_MAX], outputs[MANIFEST_OUTPUTS_MAX];
    /* "[items, 3]": what an input or output is helped by where its section has no help */
    char shapes[MANIFEST_INPUTS_MAX + MANIFEST_OUTPUTS_MAX][MANIFEST_SHAPE_BYTES];
    uint32_t word_count;
    const char *words[MANIFEST_WORDS_MAX];
    uint32_t text_bytes;
    char text[MANIFEST_TEXT_BYTES_MAX];           /* as it was given */
    char words_text[MANIFEST_TEXT_BYTES_MAX + 1]; /* the same, cut into strings */
};

/* Fills `user` from the text, which is copied; `user` may not be moved afterwards. On failure `error` begins
 * with "file:line: ". */
bool manifest_user_parse(const char *file, const char *text, size_t text_bytes, struct manifest_user *user,
                         char error[MANIFEST_ERROR_BYTES]);

/* The extents behind the words for these inputs, which have passed the manifest's check. */
void manifest_user_words(const struct manifest_user *user, const struct manifest_shapes *shapes,
                         uint64_t words[MANIFEST_WORDS_MAX]);

/* What manifest.c asks instead of a built-in kernel's functions. */
enum manifest_error manifest_user_shape(const struct manifest *manifest, const struct manifest_shapes *shapes,
                                        const struct manifest_params *params,
                                        struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                        uint32_t *output_count, char error[MANIFEST_ERROR_BYTES]);
struct manifest_cost manifest_user_cost(const struct manifest *manifest,
                                        const struct manifest_shapes *shapes);

#endif
