/* Manifests: what each kernel takes, gives and costs, built in or a user's own (kernels/manifest_user.h).
 *
 * The node plans jobs with this module alone: it finds the kernel, turns `--param` strings into canonical
 * bytes, checks the inputs, learns the output types and cuts the items into shards. No compute code hangs on
 * it.
 *
 *   const struct manifest *knn = manifest_find("knn");
 *   manifest_params_parse(knn, (const char *[]){"k=5"}, 1, &params, error);
 *   manifest_check(knn, &params, given, 2, &wish, &plan, error);      plan: items, outputs, shards
 *   manifest_check_values(knn, input, type, rows, bytes, count, 0, error) for each input
 *
 * Errors fill `error` with one sentence that says what is wrong, where, and what to do. All are the
 * submitter's. */
#ifndef KERNELS_MANIFEST_H
#define KERNELS_MANIFEST_H

#include "kernels/array.h"

#define MANIFEST_INPUTS_MAX 4
#define MANIFEST_OUTPUTS_MAX 4
#define MANIFEST_PARAMS_MAX 8
#define MANIFEST_CHOICES_MAX 8
#define MANIFEST_NAME_BYTES 32
#define MANIFEST_ERROR_BYTES 320
#define MANIFEST_SHARD_BYTES_MAX                                                                             \
    (16u << 20)                             /* split input, and output, of one shard: the cut stays below    \
                                             */
#define MANIFEST_SHARD_BYTES_AIM (1u << 20) /* and aims at this, the largest value kept inside LMDB */
#define MANIFEST_SHARD_NS_AIM 64000000u     /* nominal time of one CPU core for a shard */
#define MANIFEST_SHARDS_MAX 1000000u        /* of one job */
#define MANIFEST_DIGEST_BYTES 32

enum manifest_error {
    MANIFEST_OK,
    MANIFEST_UNKNOWN_KERNEL,
    MANIFEST_BAD_PARAM, /* unknown, given twice, not a number, out of range */
    MANIFEST_BAD_INPUT, /* unknown, missing, surplus, wrong dtype, rank, shape or role */
    MANIFEST_BAD_VALUE, /* NaN or infinity where only finite numbers are taken, or a number out of its range
                         */
    MANIFEST_NO_ITEMS,  /* nothing to compute */
    MANIFEST_TOO_MANY,  /* more than MANIFEST_SHARDS_MAX shards */
    MANIFEST_ERRORS     /* count */
};
const char *manifest_error_text(enum manifest_error error);

/* exact: the same bits on any CPU and any GPU. tolerant: equal within `tolerance`, relative to the size of
 * the sums. */
enum manifest_class { MANIFEST_EXACT, MANIFEST_TOLERANT };
enum manifest_role {
    MANIFEST_BROADCAST = 1,
    MANIFEST_SPLIT = 2
}; /* bits: what an input allows; one of them: what it is */
enum manifest_combine { MANIFEST_CONCAT, MANIFEST_SUM, MANIFEST_MIN, MANIFEST_MAX };
enum manifest_param_type { MANIFEST_INTEGER, MANIFEST_REAL, MANIFEST_CHOICE };

struct manifest_input {
    const char *name;
    const char *help;
    uint32_t dtypes; /* bit 1 << enum array_dtype for each accepted dtype */
    uint8_t rank_min, rank_max;
    uint8_t roles; /* bits of enum manifest_role */
    bool optional;
    bool finite; /* NaN and infinity are refused */
};

struct manifest_output {
    const char *name;
    const char *help;
    enum manifest_combine combine;
};

struct manifest_range {
    double minimum, maximum, fallback; /* integers too: all of ours are below 2^53 */
};

struct manifest_param {
    const char *name;
    const char *help;
    enum manifest_param_type type;
    struct manifest_range range;               /* unused for a choice, whose default is its first word */
    const char *choices[MANIFEST_CHOICES_MAX]; /* NULL-terminated when shorter; value = index */
};

/* Canonical parameters: 8 little-endian bytes each (int64 or IEEE double) in the manifest's order, defaults
 * filled in. These bytes go into the shard key and to the worker. */
struct manifest_params {
    uint32_t bytes;
    uint8_t data[8 * MANIFEST_PARAMS_MAX];
};

/* Nominal work of one item, for cutting and for `weir explain`. */
struct manifest_cost {
    double operations; /* multiply-adds or their like */
    double bytes;      /* read and written */
    double cpu_ns;     /* nominal time on one CPU core with AVX-512 */
};

struct manifest;
struct manifest_user;

/* The inputs and outputs of one shard, as a certificate sees them: data in manifest order, types of whole inputs. */
struct manifest_evidence {
    const struct manifest_params *params;
    struct array_type types[MANIFEST_INPUTS_MAX];
    const void *inputs[MANIFEST_INPUTS_MAX]; /* SPLIT: the shard's rows; NULL = absent */
    const void *outputs[MANIFEST_OUTPUTS_MAX];
    uint64_t items;
    void **
        memo; /* what the calls with one seed and the same broadcast inputs share; NULL at first, the caller's to free */
};

/* What a kernel's shape function sees: types in manifest order, and which of them are there. */
struct manifest_shapes {
    struct array_type inputs[MANIFEST_INPUTS_MAX];
    uint8_t roles[MANIFEST_INPUTS_MAX]; /* enum manifest_role; 0 = absent */
    uint64_t items;
    uint64_t split_bytes; /* of all split inputs together */
};

struct manifest {
    const char *name; /* "knn" */
    uint32_t version;
    const char *help; /* one line */
    enum manifest_class class;
    double tolerance; /* 0 when exact */
    bool positional;  /* the result depends on the absolute item number, so the shard key must hold it */
    bool diagnostic;  /* measures the mesh; computes nothing anyone wants */
    uint32_t input_count, output_count, param_count;
    struct manifest_input inputs[MANIFEST_INPUTS_MAX];
    struct manifest_output outputs[MANIFEST_OUTPUTS_MAX];
    struct manifest_param params[MANIFEST_PARAMS_MAX];
    /* A user's kernel has no functions here but its shapes as data (kernels/manifest_user.h). NULL: built in. */
    const struct manifest_user *user;
    /* Checks what depends on several inputs and the parameters, and fills outputs[] for shapes->items items.
     * The first `output_count` outputs are produced; returning fewer means that the parameters switch the
     * last ones off. */
    enum manifest_error (*shape)(const struct manifest_shapes *shapes, const struct manifest_params *params,
                                 struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                 char error[MANIFEST_ERROR_BYTES]);
    struct manifest_cost (*cost)(const struct manifest_shapes *shapes, const struct manifest_params *params);
    /* Items of a kernel whose inputs are all broadcast, from their types and the parameters; NULL: the submitter
     * states them. */
    uint64_t (*items)(const struct manifest_shapes *shapes, const struct manifest_params *params);
    /* Checks single values of an input beyond NaN; NULL if any value will do. `bytes` are those of the rows. */
    enum manifest_error (*values)(uint32_t input, const struct array_type *type, const void *rows,
                                  uint64_t bytes, uint64_t count, uint64_t first_row,
                                  char error[MANIFEST_ERROR_BYTES]);
    /*
     * Proves a shard's outputs right in far less time than it takes to compute them, by what `seed` draws, which whoever
     * computed them must not know. What is within the tolerance always passes. NULL: there is no such proof.
     */
    bool (*certify)(const struct manifest_evidence *evidence, uint64_t seed);
    const char *cost_help; /* what `cost` counts as operations of one item */
    const char
        *example; /* a command line, where the one that follows from the manifest would not do; else NULL */
};

/* NULL if there is none. Manifests are static. */
const struct manifest *manifest_find(const char *name);
/* The i-th manifest in order of name, NULL after the last. */
const struct manifest *manifest_each(size_t index);
/* Identity of the code: SHA-256 over the sources (manifest, CPU, CUDA, shared headers), taken by
 * CMake at configure time. 32 bytes, static. The node derives its kernel digest from it. */
const uint8_t *manifest_source_digest(const struct manifest *manifest);
/* "unknown kernel 'knm'; did you mean 'knn'? `weir kernels` lists them" */
void manifest_unknown_text(const char *name, char error[MANIFEST_ERROR_BYTES]);

/* `settings` are "name=value" strings; a missing one takes its default. */
enum manifest_error manifest_params_parse(const struct manifest *manifest, const char *const *settings,
                                          size_t count, struct manifest_params *params,
                                          char error[MANIFEST_ERROR_BYTES]);
/* The same checks on canonical bytes that came from a peer. */
enum manifest_error manifest_params_check(const struct manifest *manifest,
                                          const struct manifest_params *params,
                                          char error[MANIFEST_ERROR_BYTES]);
int64_t manifest_param_integer(const struct manifest_params *params,
                               uint32_t index); /* and the index of a choice */
double manifest_param_real(const struct manifest_params *params, uint32_t index);
/* Writes the value of parameter `index` as the user would give it. */
void manifest_param_text(const struct manifest *manifest, const struct manifest_params *params,
                         uint32_t index, char *out, size_t out_bytes);

struct manifest_given {
    const char *name;
    struct array_type type; /* of the whole input */
    enum manifest_role role;
    uint64_t bytes; /* of the whole input: text has no other length */
};

struct manifest_wish {
    uint64_t items;       /* for a kernel without split inputs; else 0 or the number that follows anyway */
    uint64_t shard_items; /* 0: as manifest_cut says */
};

struct manifest_plan {
    uint64_t items;
    int given_index[MANIFEST_INPUTS_MAX]; /* manifest input i is given[given_index[i]]; -1: absent */
    uint32_t output_count;
    struct array_type outputs[MANIFEST_OUTPUTS_MAX]; /* of the whole job */
    uint64_t
        output_item_bytes[MANIFEST_OUTPUTS_MAX]; /* of a concatenated output; of the whole array if reduced */
    struct manifest_cost item_cost;
    uint64_t shard_items; /* the last shard may hold fewer */
    uint64_t shard_count;
};

/* Checks everything that can be known before a value is read, and plans the job. `plan` is undefined on
 * error. */
enum manifest_error manifest_check(const struct manifest *manifest, const struct manifest_params *params,
                                   const struct manifest_given *given, size_t given_count,
                                   const struct manifest_wish *wish, struct manifest_plan *plan,
                                   char error[MANIFEST_ERROR_BYTES]);
/* Types of one shard's outputs; `shapes` hold the shard's input types and items. The worker's view of the
 * same check. */
enum manifest_error manifest_outputs(const struct manifest *manifest, const struct manifest_params *params,
                                     const struct manifest_shapes *shapes,
                                     struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                     char error[MANIFEST_ERROR_BYTES]);
/* Of one item of a job with these inputs. */
struct manifest_cost manifest_item_cost(const struct manifest *manifest, const struct manifest_shapes *shapes,
                                        const struct manifest_params *params);
/* Items per shard: the power of two nearest below MANIFEST_SHARD_NS_AIM of nominal work, or fewer where input
 * or output would pass MANIFEST_SHARD_BYTES_AIM; at least 1. It depends on manifest, parameters and inputs
 * only, so that the same rows give the same shards, and it keeps still when rows are appended. */
uint64_t manifest_cut(const struct manifest *manifest, const struct manifest_params *params,
                      const struct manifest_shapes *shapes);
/* Checks the values of `count` rows (lines for text) of `bytes` that begin at row `first_row` of input `input`. */
enum manifest_error manifest_check_values(const struct manifest *manifest, uint32_t input,
                                          const struct array_type *type, const void *rows, uint64_t bytes,
                                          uint64_t count, uint64_t first_row,
                                          char error[MANIFEST_ERROR_BYTES]);

#endif
