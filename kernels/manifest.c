#include "kernels/manifest.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/builtin.h"
#include "kernels/manifest_user.h"

#define NAME_SHOWN 40 /* a user's word is cut to this in a sentence */

static const char *const error_texts[MANIFEST_ERRORS] = {
    [MANIFEST_OK] = "ok",
    [MANIFEST_UNKNOWN_KERNEL] = "unknown kernel",
    [MANIFEST_BAD_PARAM] = "bad parameter",
    [MANIFEST_BAD_INPUT] = "bad input",
    [MANIFEST_BAD_VALUE] = "bad value in an input",
    [MANIFEST_NO_ITEMS] = "nothing to compute",
    [MANIFEST_TOO_MANY] = "too many shards",
};

static enum manifest_error param_parse(const struct manifest *manifest, uint32_t index, const char *text,
                                       struct manifest_params *params, char error[MANIFEST_ERROR_BYTES]);
static enum manifest_error param_check(const struct manifest *manifest, uint32_t index,
                                       const struct manifest_params *params,
                                       char error[MANIFEST_ERROR_BYTES]);
static enum manifest_error input_check(const struct manifest *manifest, uint32_t input,
                                       const struct manifest_given *given, char error[MANIFEST_ERROR_BYTES]);
static enum manifest_error match_inputs(const struct manifest *manifest, const struct manifest_given *given,
                                        size_t given_count, struct manifest_plan *plan,
                                        char error[MANIFEST_ERROR_BYTES]);
static enum manifest_error count_items(const struct manifest *manifest, const struct manifest_params *params,
                                       const struct manifest_given *given, const struct manifest_wish *wish,
                                       struct manifest_plan *plan, struct manifest_shapes *shapes,
                                       char error[MANIFEST_ERROR_BYTES]);
static enum manifest_error check_finite(const struct manifest *manifest, uint32_t input,
                                        const struct array_type *type, const void *rows, uint64_t count,
                                        uint64_t first_row, char error[MANIFEST_ERROR_BYTES]);

const char *manifest_error_text(enum manifest_error error)
{
    return (unsigned)error < MANIFEST_ERRORS ? error_texts[error] : "unknown manifest error";
}

const struct manifest *manifest_find(const char *name)
{
    for (size_t i = 0; i < builtin_manifest_count; i++)
        if (strcmp(builtin_manifests[i]->name, name) == 0)
            return builtin_manifests[i];
    return NULL;
}

const struct manifest *manifest_each(size_t index)
{
    return index < builtin_manifest_count ? builtin_manifests[index] : NULL;
}

const uint8_t *manifest_source_digest(const struct manifest *manifest)
{
    for (size_t i = 0; i < builtin_manifest_count; i++)
        if (builtin_manifests[i] == manifest)
            return builtin_source_digests[i];
    return NULL;
}

/* Levenshtein distance of short names; anything longer than a kernel's name is far away. */
static unsigned name_distance(const char *a, const char *b)
{
    unsigned row[MANIFEST_NAME_BYTES + 1];
    const size_t a_bytes = strlen(a), b_bytes = strlen(b);
    if (a_bytes > MANIFEST_NAME_BYTES || b_bytes > MANIFEST_NAME_BYTES)
        return MANIFEST_NAME_BYTES;
    for (unsigned j = 0; j <= b_bytes; j++)
        row[j] = j;
    for (unsigned i = 1; i <= a_bytes; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b_bytes; j++) {
            const unsigned above = row[j];
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            best = above + 1 < best ? above + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[b_bytes];
}

void manifest_unknown_text(const char *name, char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest *nearest = NULL;
    unsigned best = 3;
    for (size_t i = 0; i < builtin_manifest_count; i++) {
        const unsigned distance = name_distance(name, builtin_manifests[i]->name);
        if (distance < best) {
            best = distance;
            nearest = builtin_manifests[i];
        }
    }
    if (nearest)
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "unknown kernel '%.*s'; did you mean '%s'? `weir kernels` lists them", NAME_SHOWN, name,
                 nearest->name);
    else
        snprintf(error, MANIFEST_ERROR_BYTES, "unknown kernel '%.*s'; `weir kernels` lists them", NAME_SHOWN,
                 name);
}

static enum manifest_error shape_of(const struct manifest *manifest, const struct manifest_shapes *shapes,
                                    const struct manifest_params *params,
                                    struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                    char error[MANIFEST_ERROR_BYTES])
{
    return manifest->user ? manifest_user_shape(manifest, shapes, params, outputs, output_count, error)
                          : manifest->shape(shapes, params, outputs, output_count, error);
}

static void store_bits(struct manifest_params *params, uint32_t index, uint64_t bits)
{
    for (unsigned i = 0; i < 8; i++)
        params->data[8 * index + i] = (uint8_t)(bits >> (8 * i));
}

static uint64_t load_bits(const struct manifest_params *params, uint32_t index)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 8; i++)
        bits |= (uint64_t)params->data[8 * index + i] << (8 * i);
    return bits;
}

static void store_real(struct manifest_params *params, uint32_t index, double value)
{
    uint64_t bits;
    value += 0.0; /* -0 and 0 are one parameter, so they get one encoding */
    memcpy(&bits, &value, sizeof bits);
    store_bits(params, index, bits);
}

int64_t manifest_param_integer(const struct manifest_params *params, uint32_t index)
{
    return (int64_t)load_bits(params, index);
}

double manifest_param_real(const struct manifest_params *params, uint32_t index)
{
    const uint64_t bits = load_bits(params, index);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void manifest_param_text(const struct manifest *manifest, const struct manifest_params *params,
                         uint32_t index, char *out, size_t out_bytes)
{
    const struct manifest_param *param = &manifest->params[index];
    const int64_t integer = manifest_param_integer(params, index);
    if (param->type == MANIFEST_REAL)
        snprintf(out, out_bytes, "%.17g", manifest_param_real(params, index));
    else if (param->type == MANIFEST_INTEGER)
        snprintf(out, out_bytes, "%lld", (long long)integer);
    else
        snprintf(out, out_bytes, "%s",
                 integer >= 0 && integer < MANIFEST_CHOICES_MAX && param->choices[integer]
                     ? param->choices[integer]
                     : "?");
}

enum manifest_error manifest_params_parse(const struct manifest *manifest, const char *const *settings,
                                          size_t count, struct manifest_params *params,
                                          char error[MANIFEST_ERROR_BYTES])
{
    *params = (struct manifest_params){.bytes = 8 * manifest->param_count};
    for (uint32_t i = 0; i < manifest->param_count; i++) {
        const struct manifest_param *param = &manifest->params[i];
        if (param->type == MANIFEST_REAL)
            store_real(params, i, param->range.fallback);
        else
            store_bits(params, i,
                       param->type == MANIFEST_CHOICE ? 0 : (uint64_t)(int64_t)param->range.fallback);
    }
    uint32_t seen = 0;
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(settings[i], '=');
        if (!equals) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: parameter '%.*s' lacks a value; write NAME=VALUE",
                     manifest->name, NAME_SHOWN, settings[i]);
            return MANIFEST_BAD_PARAM;
        }
        const size_t name_bytes = (size_t)(equals - settings[i]);
        uint32_t index = 0;
        while (index < manifest->param_count &&
               (strlen(manifest->params[index].name) != name_bytes ||
                memcmp(manifest->params[index].name, settings[i], name_bytes) != 0))
            index++;
        if (index == manifest->param_count) {
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "%s has no parameter '%.*s'; `weir kernels %s` lists what it takes", manifest->name,
                     (int)(name_bytes < NAME_SHOWN ? name_bytes : NAME_SHOWN), settings[i], manifest->name);
            return MANIFEST_BAD_PARAM;
        }
        if (seen & 1u << index) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: parameter %s is given twice; give it once",
                     manifest->name, manifest->params[index].name);
            return MANIFEST_BAD_PARAM;
        }
        seen |= 1u << index;
        const enum manifest_error result = param_parse(manifest, index, equals + 1, params, error);
        if (result)
            return result;
    }
    return MANIFEST_OK;
}

enum manifest_error manifest_params_check(const struct manifest *manifest,
                                          const struct manifest_params *params,
                                          char error[MANIFEST_ERROR_BYTES])
{
    if (params->bytes != 8 * manifest->param_count) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "%s: parameters of %u bytes instead of %u; the sender's kernel differs", manifest->name,
                 params->bytes, 8 * manifest->param_count);
        return MANIFEST_BAD_PARAM;
    }
    for (uint32_t i = 0; i < manifest->param_count; i++) {
        const enum manifest_error result = param_check(manifest, i, params, error);
        if (result)
            return result;
    }
    return MANIFEST_OK;
}

enum manifest_error manifest_outputs(const struct manifest *manifest, const struct manifest_params *params,
                                     const struct manifest_shapes *shapes,
                                     struct array_type outputs[MANIFEST_OUTPUTS_MAX], uint32_t *output_count,
                                     char error[MANIFEST_ERROR_BYTES])
{
    enum manifest_error result = manifest_params_check(manifest, params, error);
    for (uint32_t i = 0; !result && i < manifest->input_count; i++) {
        if (shapes->roles[i] == 0 && manifest->inputs[i].optional)
            continue;
        result = input_check(manifest, i,
                             &(struct manifest_given){.name = manifest->inputs[i].name,
                                                      .type = shapes->inputs[i],
                                                      .role = (enum manifest_role)shapes->roles[i]},
                             error);
        if (!result && shapes->roles[i] == MANIFEST_SPLIT && shapes->inputs[i].shape[0] != shapes->items) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s has %llu rows for %llu items", manifest->name,
                     manifest->inputs[i].name, (unsigned long long)shapes->inputs[i].shape[0],
                     (unsigned long long)shapes->items);
            result = MANIFEST_BAD_INPUT;
        }
    }
    if (!result && shapes->items == 0) {
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: no items", manifest->name);
        result = MANIFEST_NO_ITEMS;
    }
    if (!result)
        result = shape_of(manifest, shapes, params, outputs, output_count, error);
    for (uint32_t i = 0; !result && i < *output_count; i++) {
        uint64_t bytes;
        if (array_bytes(&outputs[i], &bytes)) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: output %s would pass 2^63 bytes; give fewer items",
                     manifest->name, manifest->outputs[i].name);
            result = MANIFEST_BAD_INPUT;
        }
    }
    return result;
}

struct manifest_cost manifest_item_cost(const struct manifest *manifest, const struct manifest_shapes *shapes,
                                        const struct manifest_params *params)
{
    return manifest->user ? manifest_user_cost(manifest, shapes) : manifest->cost(shapes, params);
}

uint64_t manifest_cut(const struct manifest *manifest, const struct manifest_params *params,
                      const struct manifest_shapes *shapes)
{
    struct array_type outputs[MANIFEST_OUTPUTS_MAX];
    uint32_t output_count = 0;
    char error[MANIFEST_ERROR_BYTES];
    const struct manifest_cost cost = manifest_item_cost(manifest, shapes, params);
    double items = cost.cpu_ns > 1 ? MANIFEST_SHARD_NS_AIM / cost.cpu_ns : MANIFEST_SHARD_NS_AIM;
    if (shapes->items > 0 && shapes->split_bytes > 0) {
        const double input = MANIFEST_SHARD_BYTES_AIM / ((double)shapes->split_bytes / (double)shapes->items);
        items = input < items ? input : items;
    }
    if (shape_of(manifest, shapes, params, outputs, &output_count, error) == MANIFEST_OK)
        for (uint32_t i = 0; i < output_count; i++) {
            uint64_t row_bytes;
            if (manifest->outputs[i].combine != MANIFEST_CONCAT || array_row_bytes(&outputs[i], &row_bytes) ||
                row_bytes == 0)
                continue;
            const double output = MANIFEST_SHARD_BYTES_AIM / (double)row_bytes;
            items = output < items ? output : items;
        }
    uint64_t cut = 1;
    while ((double)cut * 2 <= items)
        cut *= 2;
    return cut;
}

enum manifest_error manifest_check(const struct manifest *manifest, const struct manifest_params *params,
                                   const struct manifest_given *given, size_t given_count,
                                   const struct manifest_wish *wish, struct manifest_plan *plan,
                                   char error[MANIFEST_ERROR_BYTES])
{
    struct manifest_shapes shapes = {0};
    *plan = (struct manifest_plan){0};
    enum manifest_error result = manifest_params_check(manifest, params, error);
    if (!result)
        result = match_inputs(manifest, given, given_count, plan, error);
    if (!result)
        result = count_items(manifest, params, given, wish, plan, &shapes, error);
    if (!result)
        result = manifest_outputs(manifest, params, &shapes, plan->outputs, &plan->output_count, error);
    if (result)
        return result;

    for (uint32_t i = 0; i < plan->output_count; i++) {
        if (manifest->outputs[i].combine == MANIFEST_CONCAT)
            array_row_bytes(&plan->outputs[i], &plan->output_item_bytes[i]);
        else
            array_bytes(&plan->outputs[i], &plan->output_item_bytes[i]);
    }
    plan->item_cost = manifest_item_cost(manifest, &shapes, params);
    plan->shard_items = wish->shard_items ? wish->shard_items : manifest_cut(manifest, params, &shapes);
    plan->shard_count = (plan->items - 1) / plan->shard_items + 1;
    if (plan->shard_count > MANIFEST_SHARDS_MAX) {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "%s: %llu items in shards of %llu make %llu shards, more than %u; give larger shards or "
                 "less input",
                 manifest->name, (unsigned long long)plan->items, (unsigned long long)plan->shard_items,
                 (unsigned long long)plan->shard_count, MANIFEST_SHARDS_MAX);
        return MANIFEST_TOO_MANY;
    }
    const uint64_t shard_items = plan->shard_items < plan->items ? plan->shard_items : plan->items;
    for (uint32_t i = 0; i < plan->output_count; i++)
        if (wish->shard_items && manifest->outputs[i].combine == MANIFEST_CONCAT &&
            plan->output_item_bytes[i] * (__uint128_t)shard_items > MANIFEST_SHARD_BYTES_MAX &&
            shard_items > 1) {
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "%s: shards of %llu items give more than 16 MiB of %s each; take smaller shards",
                     manifest->name, (unsigned long long)shard_items, manifest->outputs[i].name);
            return MANIFEST_BAD_INPUT;
        }
    return MANIFEST_OK;
}

enum manifest_error manifest_check_values(const struct manifest *manifest, uint32_t input,
                                          const struct array_type *type, const void *rows, uint64_t bytes,
                                          uint64_t count, uint64_t first_row,
                                          char error[MANIFEST_ERROR_BYTES])
{
    enum manifest_error result = MANIFEST_OK;
    if (manifest->inputs[input].finite)
        result = check_finite(manifest, input, type, rows, count, first_row, error);
    if (!result && manifest->values)
        result = manifest->values(input, type, rows, bytes, count, first_row, error);
    return result;
}

/* "k must be a whole number from 1 to 1024; got 0" */
static enum manifest_error param_refuse(const struct manifest *manifest, uint32_t index, const char *got,
                                        char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest_param *param = &manifest->params[index];
    if (param->type == MANIFEST_CHOICE) {
        int used =
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: parameter %s must be", manifest->name, param->name);
        for (unsigned i = 0; i < MANIFEST_CHOICES_MAX && param->choices[i] && used < MANIFEST_ERROR_BYTES;
             i++)
            used += snprintf(error + used, MANIFEST_ERROR_BYTES - (size_t)used, "%s %s", i ? " or" : "",
                             param->choices[i]);
        if (used < MANIFEST_ERROR_BYTES)
            snprintf(error + used, MANIFEST_ERROR_BYTES - (size_t)used, "; got '%.*s'", NAME_SHOWN, got);
    } else {
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "%s: parameter %s must be a %snumber from %.16g to %.16g; got '%.*s'", manifest->name,
                 param->name, param->type == MANIFEST_INTEGER ? "whole " : "", param->range.minimum,
                 param->range.maximum, NAME_SHOWN, got);
    }
    return MANIFEST_BAD_PARAM;
}

static enum manifest_error param_parse(const struct manifest *manifest, uint32_t index, const char *text,
                                       struct manifest_params *params, char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest_param *param = &manifest->params[index];
    char *end = NULL;
    errno = 0;
    if (param->type == MANIFEST_CHOICE) {
        unsigned i = 0;
        while (i < MANIFEST_CHOICES_MAX && param->choices[i] && strcmp(param->choices[i], text) != 0)
            i++;
        if (i == MANIFEST_CHOICES_MAX || !param->choices[i])
            return param_refuse(manifest, index, text, error);
        store_bits(params, index, i);
        return MANIFEST_OK;
    }
    if (text[0] == '\0' || strchr(" \t\n", text[0]))
        return param_refuse(manifest, index, text, error);
    if (param->type == MANIFEST_INTEGER) {
        const long long value = strtoll(text, &end, 10);
        store_bits(params, index, (uint64_t)value);
    } else {
        store_real(params, index, strtod(text, &end));
    }
    if (errno || *end != '\0' || param_check(manifest, index, params, error))
        return param_refuse(manifest, index, text, error);
    return MANIFEST_OK;
}

static enum manifest_error param_check(const struct manifest *manifest, uint32_t index,
                                       const struct manifest_params *params, char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest_param *param = &manifest->params[index];
    const int64_t integer = manifest_param_integer(params, index);
    char got[64];
    bool good;
    if (param->type == MANIFEST_CHOICE) {
        good = integer >= 0 && integer < MANIFEST_CHOICES_MAX && param->choices[integer];
    } else if (param->type == MANIFEST_INTEGER) {
        good = integer >= (int64_t)param->range.minimum && integer <= (int64_t)param->range.maximum;
    } else {
        const double real = manifest_param_real(params, index);
        good = real >= param->range.minimum && real <= param->range.maximum;
    }
    if (good)
        return MANIFEST_OK;
    manifest_param_text(manifest, params, index, got, sizeof got);
    return param_refuse(manifest, index, got, error);
}

static void list_dtypes(uint32_t mask, char out[96])
{
    size_t used = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < ARRAY_DTYPES && used < 80; i++)
        if (mask & 1u << i)
            used += (size_t)snprintf(out + used, 96 - used, "%s%s", used ? " or " : "",
                                     array_dtype_name((enum array_dtype)i));
}

static enum manifest_error input_check(const struct manifest *manifest, uint32_t input,
                                       const struct manifest_given *given, char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest_input *wanted = &manifest->inputs[input];
    char type[ARRAY_TYPE_TEXT_BYTES], list[96];
    uint64_t bytes;
    if (given->type.dtype >= ARRAY_DTYPES || !(wanted->dtypes & 1u << given->type.dtype)) {
        list_dtypes(wanted->dtypes, list);
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s is %s; it must be %s", manifest->name,
                 wanted->name, array_dtype_name((enum array_dtype)given->type.dtype), list);
        return MANIFEST_BAD_INPUT;
    }
    if (given->type.rank < wanted->rank_min || given->type.rank > wanted->rank_max) {
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s has %u ax%s; it must have %u%s; give %s",
                 manifest->name, wanted->name, given->type.rank, given->type.rank == 1 ? "is" : "es",
                 wanted->rank_min, wanted->rank_max > wanted->rank_min ? " or more" : "", wanted->help);
        return MANIFEST_BAD_INPUT;
    }
    if (!(wanted->roles & given->role)) {
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s can't be %s; %s", manifest->name, wanted->name,
                 given->role == MANIFEST_SPLIT ? "split" : "broadcast",
                 given->role == MANIFEST_SPLIT ? "leave out its --split" : "name it in --split");
        return MANIFEST_BAD_INPUT;
    }
    if (array_bytes(&given->type, &bytes)) {
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s is %s, more than 2^63 bytes", manifest->name,
                 wanted->name, array_type_text(&given->type, type));
        return MANIFEST_BAD_INPUT;
    }
    return MANIFEST_OK;
}

static enum manifest_error match_inputs(const struct manifest *manifest, const struct manifest_given *given,
                                        size_t given_count, struct manifest_plan *plan,
                                        char error[MANIFEST_ERROR_BYTES])
{
    for (uint32_t i = 0; i < MANIFEST_INPUTS_MAX; i++)
        plan->given_index[i] = -1;
    for (size_t g = 0; g < given_count; g++) {
        uint32_t input = 0;
        while (input < manifest->input_count && strcmp(manifest->inputs[input].name, given[g].name) != 0)
            input++;
        if (input == manifest->input_count) {
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "%s has no input '%.*s'; `weir kernels %s` lists what it takes", manifest->name,
                     NAME_SHOWN, given[g].name, manifest->name);
            return MANIFEST_BAD_INPUT;
        }
        if (plan->given_index[input] >= 0) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s is given twice; give it once", manifest->name,
                     manifest->inputs[input].name);
            return MANIFEST_BAD_INPUT;
        }
        plan->given_index[input] = (int)g;
        const enum manifest_error result = input_check(manifest, input, &given[g], error);
        if (result)
            return result;
    }
    for (uint32_t i = 0; i < manifest->input_count; i++)
        if (plan->given_index[i] < 0 && !manifest->inputs[i].optional) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s is missing; give --input %s=FILE (%s)",
                     manifest->name, manifest->inputs[i].name, manifest->inputs[i].name,
                     manifest->inputs[i].help);
            return MANIFEST_BAD_INPUT;
        }
    return MANIFEST_OK;
}

/* Items are the rows of the split inputs, which must agree; without a split input the kernel knows them, or the
 * submitter states them. */
static enum manifest_error count_items(const struct manifest *manifest, const struct manifest_params *params,
                                       const struct manifest_given *given, const struct manifest_wish *wish,
                                       struct manifest_plan *plan, struct manifest_shapes *shapes,
                                       char error[MANIFEST_ERROR_BYTES])
{
    const char *counted = NULL;
    uint64_t items = wish->items;
    for (uint32_t i = 0; i < manifest->input_count; i++) {
        if (plan->given_index[i] < 0)
            continue;
        const struct manifest_given *input = &given[plan->given_index[i]];
        shapes->inputs[i] = input->type;
        shapes->roles[i] = (uint8_t)input->role;
        if (input->role != MANIFEST_SPLIT) {
            if (input->type.shape[0] == 0) {
                snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s has no rows; give at least one",
                         manifest->name, manifest->inputs[i].name);
                return MANIFEST_NO_ITEMS;
            }
            continue;
        }
        const uint64_t rows = input->type.shape[0];
        if (rows == 0) {
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s has no %s; there is nothing to compute",
                     manifest->name, manifest->inputs[i].name,
                     input->type.dtype == ARRAY_TEXT ? "lines" : "rows");
            return MANIFEST_NO_ITEMS;
        }
        if (counted && rows != items) {
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "%s: inputs %s and %s are both split but have %llu and %llu rows; give them as many",
                     manifest->name, counted, manifest->inputs[i].name, (unsigned long long)items,
                     (unsigned long long)rows);
            return MANIFEST_BAD_INPUT;
        }
        if (!counted && wish->items && wish->items != rows) {
            snprintf(error, MANIFEST_ERROR_BYTES,
                     "%s: %llu items are asked for but input %s has %llu rows; leave out --items",
                     manifest->name, (unsigned long long)wish->items, manifest->inputs[i].name,
                     (unsigned long long)rows);
            return MANIFEST_BAD_INPUT;
        }
        counted = manifest->inputs[i].name;
        items = rows;
        shapes->split_bytes += input->bytes;
    }
    if (!counted && manifest->items) {
        items = manifest->items(shapes, params);
        if (wish->items && wish->items != items) {
            snprintf(
                error, MANIFEST_ERROR_BYTES,
                "%s: %llu items are asked for but its inputs and parameters make %llu; leave out --items",
                manifest->name, (unsigned long long)wish->items, (unsigned long long)items);
            return MANIFEST_BAD_INPUT;
        }
    }
    if (items == 0) {
        snprintf(error, MANIFEST_ERROR_BYTES, "%s: nothing to compute; give --items N, at least 1",
                 manifest->name);
        return MANIFEST_NO_ITEMS;
    }
    plan->items = shapes->items = items;
    return MANIFEST_OK;
}

static enum manifest_error check_finite(const struct manifest *manifest, uint32_t input,
                                        const struct array_type *type, const void *rows, uint64_t count,
                                        uint64_t first_row, char error[MANIFEST_ERROR_BYTES])
{
    if (type->dtype != ARRAY_FLOAT32 && type->dtype != ARRAY_FLOAT64)
        return MANIFEST_OK;
    uint64_t row_bytes;
    if (array_row_bytes(type, &row_bytes))
        return MANIFEST_BAD_INPUT;
    const uint64_t element = array_dtype_bytes((enum array_dtype)type->dtype);
    for (uint64_t at = 0; at < count * row_bytes; at += element) {
        /* All exponent bits set is infinity or NaN. */
        uint64_t bits = 0;
        memcpy(&bits, (const char *)rows + at, element);
        const uint64_t exponent = element == 4 ? 0x7f800000u : 0x7ff0000000000000u;
        if ((bits & exponent) != exponent)
            continue;
        snprintf(error, MANIFEST_ERROR_BYTES,
                 "%s: input %s holds NaN or infinity in row %llu, element %llu; give finite numbers",
                 manifest->name, manifest->inputs[input].name,
                 (unsigned long long)(first_row + at / row_bytes),
                 (unsigned long long)(at % row_bytes / element));
        return MANIFEST_BAD_VALUE;
    }
    return MANIFEST_OK;
}
