#include "kernels/manifest_user.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 40 /* of a word from the text, in a sentence */

enum section { NOWHERE, KERNEL, INPUT, OUTPUT, PARAM };

/* A shape waits for the end of the text: its words may be parameters that come later. */
struct part {
    unsigned line; /* of its section; 0: there is none */
    unsigned shape_line;
    char *shape;
    bool type_given, combine_given;
};

struct reading {
    struct manifest_user *user;
    const char *file;
    char *error;
    unsigned line;
    enum section section;
    struct part *part; /* of the section */
    struct part kernel, inputs[MANIFEST_INPUTS_MAX], outputs[MANIFEST_OUTPUTS_MAX],
        params[MANIFEST_PARAMS_MAX];
    uint32_t param_bounds[MANIFEST_PARAMS_MAX]; /* bits of MIN, MAX, DEFAULT */
};
enum { BOUND_MIN = 1, BOUND_MAX = 2, BOUND_DEFAULT = 4, BOUND_ALL = 7 };

static bool finish(struct reading *reading);

__attribute__((format(printf, 3, 4))) static bool refuse(struct reading *reading, unsigned line,
                                                         const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int used = snprintf(reading->error, MANIFEST_ERROR_BYTES, "%.80s:%u: ", reading->file, line);
    vsnprintf(reading->error + used, (size_t)(MANIFEST_ERROR_BYTES - used), format, arguments);
    va_end(arguments);
    return false;
}

/* ---- Values */

/* A name becomes a C identifier in messages and an option on command lines. */
static bool is_name(const char *text)
{
    if (!isalpha((unsigned char)text[0]) || strlen(text) >= MANIFEST_NAME_BYTES)
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && *text != '_')
            return false;
    return true;
}

static bool read_number(struct reading *reading, const char *key, const char *value, double minimum,
                        double maximum, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(value, &end);
    if (*end || end == value || errno || !(*number >= minimum && *number <= maximum))
        return refuse(reading, reading->line, "%s must be a number from %.16g to %.16g; got '%.*s'", key,
                      minimum, maximum, SHOWN, value);
    return true;
}

static bool read_whole(struct reading *reading, const char *key, const char *value, double minimum,
                       double maximum, uint32_t *number)
{
    double real;
    if (!read_number(reading, key, value, minimum, maximum, &real))
        return false;
    if (real != floor(real))
        return refuse(reading, reading->line, "%s must be a whole number; got '%.*s'", key, SHOWN, value);
    *number = (uint32_t)real;
    return true;
}

/* The index of `value` among `words`, which ends with NULL. */
static bool read_word(struct reading *reading, const char *key, const char *value, const char *const *words,
                      unsigned *index)
{
    char list[120] = "";
    for (unsigned i = 0; words[i]; i++) {
        if (strcmp(words[i], value) == 0) {
            *index = i;
            return true;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? " or " : "", words[i]);
    }
    return refuse(reading, reading->line, "%s must be %s; got '%.*s'", key, list, SHOWN, value);
}

static bool read_flag(struct reading *reading, const char *key, const char *value, bool *flag)
{
    static const char *const words[] = {"no", "yes", NULL};
    unsigned index;
    if (!read_word(reading, key, value, words, &index))
        return false;
    *flag = index == 1;
    return true;
}

static bool read_dtype(struct reading *reading, const char *value, uint8_t *out)
{
    enum array_dtype dtype;
    if (!array_dtype_find(value, &dtype) || dtype == ARRAY_RAW || dtype == ARRAY_TEXT)
        return refuse(
            reading, reading->line,
            "type must be int8, uint8, int32, uint32, int64, uint64, float32 or float64; got '%.*s'", SHOWN,
            value);
    *out = (uint8_t)dtype;
    reading->part->type_given = true;
    return true;
}

/* ---- Keys: each section's */

static bool unknown_key(struct reading *reading, const char *key, const char *known)
{
    return refuse(reading, reading->line, "there is no '%.*s' here; this section takes %s", SHOWN, key,
                  known);
}

static bool kernel_key(struct reading *reading, const char *key, char *value)
{
    static const char *const classes[] = {"exact", "tolerant", NULL};
    static const char *const items[] = {"thread", "block", "shard", NULL};
    struct manifest_user *user = reading->user;
    struct manifest *manifest = &user->manifest;
    unsigned index;
    if (strcmp(key, "name") == 0) {
        if (!is_name(value))
            return refuse(reading, reading->line,
                          "name must be a letter, then letters, digits and _, at most %d in all; got '%.*s'",
                          MANIFEST_NAME_BYTES - 1, SHOWN, value);
        if (manifest_find(value))
            return refuse(reading, reading->line, "%s is a built-in kernel; choose another name", value);
        manifest->name = value;
        return true;
    }
    if (strcmp(key, "help") == 0) {
        manifest->help = value;
        return true;
    }
    if (strcmp(key, "class") == 0) {
        if (!read_word(reading, key, value, classes, &index))
            return false;
        manifest->class = (enum manifest_class)index;
        return true;
    }
    if (strcmp(key, "item") == 0) {
        if (!read_word(reading, key, value, items, &index))
            return false;
        user->item = (enum manifest_item)index;
        return true;
    }
    if (strcmp(key, "version") == 0)
        return read_whole(reading, key, value, 1, 1e9, &manifest->version);
    if (strcmp(key, "tolerance") == 0)
        return read_number(reading, key, value, 0, 1, &manifest->tolerance);
    if (strcmp(key, "positional") == 0)
        return read_flag(reading, key, value, &manifest->positional);
    if (strcmp(key, "block") == 0)
        return read_whole(reading, key, value, 1, MANIFEST_BLOCK_MAX, &user->block);
    if (strcmp(key, "shared") == 0)
        return read_whole(reading, key, value, 0, MANIFEST_SHARED_BYTES_MAX, &user->shared_bytes);
    if (strcmp(key, "cost") == 0)
        return read_number(reading, key, value, 0.01, 1e12, &user->cost_ns);
    return unknown_key(reading, key,
                       "name, help, version, class, tolerance, item, block, shared, cost and positional");
}

static bool take_shape(struct reading *reading, char *value)
{
    reading->part->shape = value;
    reading->part->shape_line = reading->line;
    return true;
}

static bool input_key(struct reading *reading, const char *key, char *value)
{
    const size_t index = reading->user->manifest.input_count - 1;
    struct manifest_input *input = &reading->user->manifest.inputs[index];
    if (strcmp(key, "help") == 0) {
        input->help = value;
        return true;
    }
    if (strcmp(key, "type") == 0)
        return read_dtype(reading, value, &reading->user->inputs[index].dtype);
    if (strcmp(key, "shape") == 0)
        return take_shape(reading, value);
    if (strcmp(key, "finite") == 0)
        return read_flag(reading, key, value, &input->finite);
    return unknown_key(reading, key, "type, shape, help and finite");
}

static bool output_key(struct reading *reading, const char *key, char *value)
{
    static const char *const combines[] = {"concat", "sum", "min", "max", NULL};
    const size_t index = reading->user->manifest.output_count - 1;
    struct manifest_output *output = &reading->user->manifest.outputs[index];
    unsigned word;
    if (strcmp(key, "help") == 0) {
        output->help = value;
        return true;
    }
    if (strcmp(key, "type") == 0)
        return read_dtype(reading, value, &reading->user->outputs[index].dtype);
    if (strcmp(key, "shape") == 0)
        return take_shape(reading, value);
    if (strcmp(key, "combine") == 0) {
        if (!read_word(reading, key, value, combines, &word))
            return false;
        output->combine = (enum manifest_combine)word;
        return true;
    }
    return unknown_key(reading, key, "type, shape, combine and help");
}

static bool param_key(struct reading *reading, const char *key, char *value)
{
    static const char *const types[] = {"integer", "real", "choice", NULL};
    const size_t index = reading->user->manifest.param_count - 1;
    struct manifest_param *param = &reading->user->manifest.params[index];
    const struct {
        const char *key;
        double *number;
        uint32_t bound;
    } bounds[] = {{"min", &param->range.minimum, BOUND_MIN},
                  {"max", &param->range.maximum, BOUND_MAX},
                  {"default", &param->range.fallback, BOUND_DEFAULT}};
    unsigned word;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (strcmp(key, bounds[i].key) == 0) {
            reading->param_bounds[index] |= bounds[i].bound;
            return read_number(reading, key, value, -1e300, 1e300, bounds[i].number);
        }
    if (strcmp(key, "help") == 0) {
        param->help = value;
        return true;
    }
    if (strcmp(key, "type") == 0) {
        if (!read_word(reading, key, value, types, &word))
            return false;
        param->type = (enum manifest_param_type)word;
        reading->part->type_given = true;
        return true;
    }
    if (strcmp(key, "choices") == 0) {
        char *rest = NULL;
        unsigned count = 0;
        for (char *each = strtok_r(value, " ", &rest); each; each = strtok_r(NULL, " ", &rest)) {
            if (count == MANIFEST_CHOICES_MAX)
                return refuse(reading, reading->line, "at most %d choices", MANIFEST_CHOICES_MAX);
            param->choices[count++] = each;
        }
        return true;
    }
    return unknown_key(reading, key, "type, min, max, default, choices and help");
}

/* ---- Sections */

static bool name_taken(const struct manifest *manifest, const char *name)
{
    bool taken = false;
    for (uint32_t i = 0; i < manifest->input_count; i++)
        taken = taken || strcmp(manifest->inputs[i].name, name) == 0;
    for (uint32_t i = 0; i < manifest->output_count; i++)
        taken = taken || strcmp(manifest->outputs[i].name, name) == 0;
    for (uint32_t i = 0; i < manifest->param_count; i++)
        taken = taken || strcmp(manifest->params[i].name, name) == 0;
    return taken;
}

/* Begins input, output or parameter `name`. */
static bool begin_part(struct reading *reading, enum section section, const char *name)
{
    static const char *const words[] = {[INPUT] = "inputs", [OUTPUT] = "outputs", [PARAM] = "parameters"};
    static const uint32_t most[] = {
        [INPUT] = MANIFEST_INPUTS_MAX, [OUTPUT] = MANIFEST_OUTPUTS_MAX, [PARAM] = MANIFEST_PARAMS_MAX};
    struct manifest *manifest = &reading->user->manifest;
    uint32_t *const count = section == INPUT    ? &manifest->input_count
                            : section == OUTPUT ? &manifest->output_count
                                                : &manifest->param_count;
    if (!is_name(name) || strcmp(name, "items") == 0)
        return refuse(reading, reading->line,
                      "'%.*s' can't be a name here: a letter, then letters, digits and _, and not 'items'",
                      SHOWN, name);
    if (name_taken(manifest, name))
        return refuse(reading, reading->line, "there are two of the name '%s'; give each its own", name);
    if (*count == most[section])
        return refuse(reading, reading->line, "a kernel has at most %u %s", most[section], words[section]);
    const uint32_t index = (*count)++;
    if (section == INPUT) {
        manifest->inputs[index] = (struct manifest_input){.name = name, .help = ""};
        reading->part = &reading->inputs[index];
    } else if (section == OUTPUT) {
        manifest->outputs[index] = (struct manifest_output){.name = name, .help = ""};
        reading->part = &reading->outputs[index];
    } else {
        manifest->params[index] = (struct manifest_param){.name = name, .help = ""};
        reading->part = &reading->params[index];
    }
    reading->part->line = reading->line;
    return true;
}

static bool read_section(struct reading *reading, char *line)
{
    char *end = strchr(line, ']');
    if (!end || end[1])
        return refuse(reading, reading->line,
                      "a section is [kernel], [input NAME], [output NAME] or [param NAME]");
    *end = '\0';
    char *kind = line + 1, *name = strchr(kind, ' ');
    if (name) {
        *name++ = '\0';
        name += strspn(name, " ");
    }
    if (strcmp(kind, "kernel") == 0 && !name) {
        if (reading->kernel.line)
            return refuse(reading, reading->line, "there are two [kernel] sections");
        reading->kernel.line = reading->line;
        reading->part = &reading->kernel;
        reading->section = KERNEL;
        return true;
    }
    reading->section = strcmp(kind, "input") == 0    ? INPUT
                       : strcmp(kind, "output") == 0 ? OUTPUT
                       : strcmp(kind, "param") == 0  ? PARAM
                                                     : NOWHERE;
    if (reading->section == NOWHERE || !name)
        return refuse(
            reading, reading->line,
            "there is no section [%.*s]; there are [kernel], [input NAME], [output NAME] and [param NAME]",
            SHOWN, kind);
    return begin_part(reading, reading->section, name);
}

static char *trim(char *text)
{
    text += strspn(text, " \t");
    size_t bytes = strlen(text);
    while (bytes > 0 && strchr(" \t\r", text[bytes - 1]))
        text[--bytes] = '\0';
    return text;
}

static bool read_line(struct reading *reading, char *line)
{
    line = trim(line);
    if (!*line || *line == ';' || *line == '#')
        return true;
    if (*line == '[')
        return read_section(reading, line);
    char *equals = strchr(line, '=');
    if (!equals)
        return refuse(reading, reading->line, "neither [section], nor key = value, nor a comment");
    *equals = '\0';
    char *comment = strstr(equals + 1, " ;");
    if (comment)
        *comment = '\0';
    const char *key = trim(line);
    char *value = trim(equals + 1);
    if (!*value)
        return refuse(reading, reading->line, "'%.*s' has no value", SHOWN, key);
    switch (reading->section) {
    case KERNEL:
        return kernel_key(reading, key, value);
    case INPUT:
        return input_key(reading, key, value);
    case OUTPUT:
        return output_key(reading, key, value);
    case PARAM:
        return param_key(reading, key, value);
    case NOWHERE:
        break;
    }
    return refuse(reading, reading->line, "'%.*s' stands before the first section; begin with [kernel]",
                  SHOWN, key);
}

bool manifest_user_parse(const char *file, const char *text, size_t text_bytes, struct manifest_user *user,
                         char error[MANIFEST_ERROR_BYTES])
{
    *user = (struct manifest_user){.block = 256, .cost_ns = 100};
    user->manifest = (struct manifest){.help = "", .version = 1, .user = user};
    struct reading reading = {.user = user, .file = file, .error = error, .line = 1};
    if (text_bytes > MANIFEST_TEXT_BYTES_MAX)
        return refuse(&reading, 1, "a manifest has at most %u bytes; this one has more",
                      MANIFEST_TEXT_BYTES_MAX);
    memcpy(user->text, text, text_bytes);
    memcpy(user->words_text, text, text_bytes);
    user->text_bytes = (uint32_t)text_bytes;
    for (size_t i = 0; i < text_bytes; i++)
        if (((unsigned char)text[i] < 0x20 && !strchr("\n\r\t", text[i])) || text[i] == '\0' ||
            text[i] == 0x7f) {
            for (size_t k = 0; k < i; k++)
                reading.line += text[k] == '\n';
            return refuse(&reading, reading.line, "there is a control character here; a manifest is text");
        }
    char *line = user->words_text;
    for (;; reading.line++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        if (!read_line(&reading, line))
            return false;
        if (!end)
            return finish(&reading);
        line = end + 1;
    }
}

/* ---- What can only be checked once all is read */

static bool finish_axis(struct reading *reading, unsigned line, const char *text, bool may_name,
                        struct manifest_axis *axis)
{
    struct manifest_user *user = reading->user;
    char *end;
    if (isdigit((unsigned char)*text)) {
        errno = 0;
        axis->value = strtoull(text, &end, 10);
        axis->kind = MANIFEST_AXIS_NUMBER;
        if (*end || errno || axis->value == 0 || axis->value > INT32_MAX)
            return refuse(reading, line, "an axis of '%.*s' can't be; give 1 to %d", SHOWN, text, INT32_MAX);
        return true;
    }
    for (uint32_t i = 0; i < user->manifest.param_count; i++)
        if (strcmp(user->manifest.params[i].name, text) == 0) {
            const struct manifest_param *param = &user->manifest.params[i];
            *axis = (struct manifest_axis){.kind = MANIFEST_AXIS_PARAM, .value = i};
            if (param->type != MANIFEST_INTEGER || param->range.minimum < 1 ||
                param->range.maximum > INT32_MAX)
                return refuse(
                    reading, line,
                    "parameter %s stands in a shape, so it must be an integer from 1 up, of at most %d", text,
                    INT32_MAX);
            return true;
        }
    for (uint32_t i = 0; i < user->word_count; i++)
        if (strcmp(user->words[i], text) == 0) {
            *axis = (struct manifest_axis){.kind = MANIFEST_AXIS_WORD, .value = i};
            return true;
        }
    if (!is_name(text) || name_taken(&user->manifest, text))
        return refuse(reading, line,
                      strchr(text, ' ')
                          ? "commas stand between axes: write shape = items, d; got '%.*s'"
                          : "'%.*s' is no axis: items, a number, a parameter or a name of its own",
                      SHOWN, text);
    if (!may_name)
        return refuse(reading, line,
                      "nothing says how long the axis %s is: it is no parameter, and no input has it", text);
    if (user->word_count == MANIFEST_WORDS_MAX)
        return refuse(reading, line, "at most %u axes have names", MANIFEST_WORDS_MAX);
    *axis = (struct manifest_axis){.kind = MANIFEST_AXIS_WORD, .value = user->word_count};
    user->words[user->word_count++] = text;
    return true;
}

static bool finish_shape(struct reading *reading, const struct part *part, const char *name, bool input,
                         struct manifest_axes *axes)
{
    char *rest = NULL;
    if (!part->type_given)
        return refuse(reading, part->line, "%s lacks its type; write type = float32, for one", name);
    if (!part->shape)
        return refuse(reading, part->line, "%s lacks its shape; write shape = items, for one", name);
    for (char *each = strtok_r(part->shape, ",", &rest); each; each = strtok_r(NULL, ",", &rest)) {
        each = trim(each);
        if (axes->rank == ARRAY_RANK_MAX)
            return refuse(reading, part->shape_line, "%s has more than %d axes", name, ARRAY_RANK_MAX);
        struct manifest_axis *axis = &axes->axis[axes->rank++];
        if (strcmp(each, "items") == 0) {
            if (axes->rank != 1)
                return refuse(reading, part->shape_line, "%s: only the first axis can be items", name);
            *axis = (struct manifest_axis){.kind = MANIFEST_AXIS_ITEMS};
        } else if (!finish_axis(reading, part->shape_line, each, input, axis)) {
            return false;
        }
    }
    if (axes->rank == 0)
        return refuse(reading, part->shape_line, "%s has no axis; write shape = items, for one", name);
    return true;
}

/* "float32 [items, d]: what its author says", cut where there is no room. */
static void shape_text(const struct manifest_user *user, const struct manifest_axes *axes, const char *help,
                       char out[MANIFEST_SHAPE_BYTES])
{
    size_t used =
        (size_t)snprintf(out, MANIFEST_SHAPE_BYTES, "%s [", array_dtype_name((enum array_dtype)axes->dtype));
    for (uint32_t i = 0; i < axes->rank && used < MANIFEST_SHAPE_BYTES - 1; i++) {
        const struct manifest_axis *axis = &axes->axis[i];
        char number[24];
        snprintf(number, sizeof number, "%llu", (unsigned long long)axis->value);
        const char *word = axis->kind == MANIFEST_AXIS_ITEMS   ? "items"
                           : axis->kind == MANIFEST_AXIS_PARAM ? user->manifest.params[axis->value].name
                           : axis->kind == MANIFEST_AXIS_WORD  ? user->words[axis->value]
                                                               : number;
        used += (size_t)snprintf(out + used, MANIFEST_SHAPE_BYTES - used, "%s%s", i ? ", " : "", word);
    }
    if (used < MANIFEST_SHAPE_BYTES - 1)
        snprintf(out + used, MANIFEST_SHAPE_BYTES - used, "]%s%s", *help ? ": " : "", help);
}

static bool finish_param(struct reading *reading, uint32_t index)
{
    const struct manifest_param *param = &reading->user->manifest.params[index];
    const struct manifest_range *range = &param->range;
    const unsigned line = reading->params[index].line;
    if (!reading->params[index].type_given)
        return refuse(reading, line, "parameter %s lacks its type: integer, real or choice", param->name);
    if (param->type == MANIFEST_CHOICE)
        return param->choices[0] ? true
                                 : refuse(reading, line, "parameter %s lacks its choices", param->name);
    if (reading->param_bounds[index] != BOUND_ALL)
        return refuse(reading, line, "parameter %s lacks %s", param->name,
                      !(reading->param_bounds[index] & BOUND_MIN)   ? "min"
                      : !(reading->param_bounds[index] & BOUND_MAX) ? "max"
                                                                    : "default");
    if (!(range->minimum <= range->fallback && range->fallback <= range->maximum))
        return refuse(reading, line, "parameter %s: min, default and max are not in that order", param->name);
    const double whole_max = 9007199254740992.0; /* 2^53: a double holds every whole number below */
    if (param->type == MANIFEST_INTEGER &&
        (floor(range->minimum) != range->minimum || floor(range->maximum) != range->maximum ||
         floor(range->fallback) != range->fallback || range->minimum < -whole_max ||
         range->maximum > whole_max))
        return refuse(reading, line, "parameter %s: min, max and default must be whole numbers within 2^53",
                      param->name);
    return true;
}

static bool finish_input(struct reading *reading, uint32_t index)
{
    struct manifest_input *input = &reading->user->manifest.inputs[index];
    struct manifest_axes *axes = &reading->user->inputs[index];
    if (!finish_shape(reading, &reading->inputs[index], input->name, true, axes))
        return false;
    input->dtypes = 1u << axes->dtype;
    input->rank_min = input->rank_max = axes->rank;
    input->roles = axes->axis[0].kind == MANIFEST_AXIS_ITEMS ? MANIFEST_SPLIT : MANIFEST_BROADCAST;
    shape_text(reading->user, axes, input->help, reading->user->shapes[index]);
    input->help = reading->user->shapes[index];
    return true;
}

static bool finish_output(struct reading *reading, uint32_t index)
{
    struct manifest_output *output = &reading->user->manifest.outputs[index];
    struct manifest_axes *axes = &reading->user->outputs[index];
    const struct part *part = &reading->outputs[index];
    if (!finish_shape(reading, part, output->name, false, axes))
        return false;
    char *const shape = reading->user->shapes[MANIFEST_INPUTS_MAX + index];
    shape_text(reading->user, axes, output->help, shape);
    output->help = shape;
    const bool by_items = axes->axis[0].kind == MANIFEST_AXIS_ITEMS;
    if (by_items != (output->combine == MANIFEST_CONCAT))
        return refuse(reading, part->shape_line,
                      by_items
                          ? "%s has a row per item, so its rows are concatenated: leave out combine"
                          : "%s has no row per item, so it must be combined: write combine = sum, min or max",
                      output->name);
    if (!by_items && array_dtype_bytes((enum array_dtype)axes->dtype) < 4)
        return refuse(reading, part->line, "%s is combined, so its type must have 4 or 8 bytes",
                      output->name);
    return true;
}

static bool finish(struct reading *reading)
{
    struct manifest_user *user = reading->user;
    struct manifest *manifest = &user->manifest;
    if (!reading->kernel.line)
        return refuse(reading, 1, "there is no [kernel] section");
    if (!manifest->name)
        return refuse(reading, reading->kernel.line, "the kernel lacks its name");
    if (manifest->output_count == 0)
        return refuse(reading, reading->kernel.line, "the kernel has no output; add [output y]");
    if ((manifest->class == MANIFEST_TOLERANT) != (manifest->tolerance > 0))
        return refuse(reading, reading->kernel.line,
                      "tolerance goes with class = tolerant, and only with it");
    for (uint32_t i = 0; i < manifest->param_count; i++)
        if (!finish_param(reading, i))
            return false;
    for (uint32_t i = 0; i < manifest->input_count; i++)
        if (!finish_input(reading, i))
            return false;
    for (uint32_t i = 0; i < manifest->output_count; i++)
        if (!finish_output(reading, i))
            return false;
    return true;
}

/* ---- Shapes of a job */

void manifest_user_words(const struct manifest_user *user, const struct manifest_shapes *shapes,
                         uint64_t words[MANIFEST_WORDS_MAX])
{
    memset(words, 0, MANIFEST_WORDS_MAX * sizeof *words);
    for (uint32_t i = user->manifest.input_count; i-- > 0;) /* the first input that has it gives it */
        for (uint32_t axis = 0; axis < user->inputs[i].rank; axis++)
            if (user->inputs[i].axis[axis].kind == MANIFEST_AXIS_WORD)
                words[user->inputs[i].axis[axis].value] = shapes->inputs[i].shape[axis];
}

static uint64_t extent(const struct manifest_axis *axis, const struct manifest_shapes *shapes,
                       const struct manifest_params *params, const uint64_t words[MANIFEST_WORDS_MAX])
{
    switch (axis->kind) {
    case MANIFEST_AXIS_ITEMS:
        return shapes->items;
    case MANIFEST_AXIS_NUMBER:
        return axis->value;
    case MANIFEST_AXIS_PARAM:
        return (uint64_t)manifest_param_integer(params, (uint32_t)axis->value);
    case MANIFEST_AXIS_WORD:
        break;
    }
    return words[axis->value];
}

enum manifest_error manifest_user_shape(const struct manifest *manifest, const struct manifest_shapes *shapes,
                                        const struct manifest_params *params,
                                        struct array_type outputs[MANIFEST_OUTPUTS_MAX],
                                        uint32_t *output_count, char error[MANIFEST_ERROR_BYTES])
{
    const struct manifest_user *user = manifest->user;
    uint64_t words[MANIFEST_WORDS_MAX];
    manifest_user_words(user, shapes, words);
    for (uint32_t i = 0; i < manifest->input_count; i++)
        for (uint32_t axis = 0; axis < user->inputs[i].rank; axis++) {
            const struct manifest_axis *wanted = &user->inputs[i].axis[axis];
            const uint64_t must = extent(wanted, shapes, params, words), is = shapes->inputs[i].shape[axis];
            if (wanted->kind == MANIFEST_AXIS_ITEMS || is == must)
                continue;
            char type[ARRAY_TYPE_TEXT_BYTES];
            snprintf(error, MANIFEST_ERROR_BYTES, "%s: input %s is %s; its axis %u must be %llu",
                     manifest->name, manifest->inputs[i].name, array_type_text(&shapes->inputs[i], type),
                     axis + 1, (unsigned long long)must);
            return MANIFEST_BAD_INPUT;
        }
    for (uint32_t i = 0; i < manifest->output_count; i++) {
        const struct manifest_axes *axes = &user->outputs[i];
        outputs[i] = (struct array_type){.dtype = axes->dtype, .rank = axes->rank};
        for (uint32_t axis = 0; axis < axes->rank; axis++)
            outputs[i].shape[axis] = extent(&axes->axis[axis], shapes, params, words);
    }
    *output_count = manifest->output_count;
    return MANIFEST_OK;
}

struct manifest_cost manifest_user_cost(const struct manifest *manifest, const struct manifest_shapes *shapes)
{
    return (struct manifest_cost){
        .operations = manifest->user->cost_ns, /* about one a nanosecond */
        .bytes = shapes->items ? (double)shapes->split_bytes / (double)shapes->items : 0,
        .cpu_ns = manifest->user->cost_ns,
    };
}
