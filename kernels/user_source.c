#include "kernels/user_source.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 40

/* What a kernel can't have, and what to do instead. */
static const struct {
    const char *word, *what;
} forbidden[] = {
    {"asm", "assembly isn't taken: a kernel runs on every kind of device"},
    {"__asm", "assembly isn't taken: a kernel runs on every kind of device"},
    {"__asm__", "assembly isn't taken: a kernel runs on every kind of device"},
    {"malloc", "a kernel has no memory of its own: give it an output or __shared__ memory"},
    {"free", "a kernel has no memory of its own: give it an output or __shared__ memory"},
    {"new", "a kernel has no memory of its own: give it an output or __shared__ memory"},
    {"delete", "a kernel has no memory of its own: give it an output or __shared__ memory"},
    {"printf", "a kernel can't print: write what you want to see to an output"},
    {"try", "a kernel has no exceptions"},
    {"throw", "a kernel has no exceptions"},
    {"thread_local", "a kernel has no thread_local variables: local variables belong to a thread"},
    {"__managed__", "there is no managed memory"},
    {"__attribute__", "attributes aren't taken, since they mean other things on a GPU"},
    {"gnu", "attributes aren't taken, since they mean other things on a GPU"}, /* [[gnu::...]] */
    {"__gnu__", "attributes aren't taken, since they mean other things on a GPU"},
    {"_Pragma", "_Pragma isn't taken"},
    {"__has_include", "a kernel is one file: there is nothing to include"},
    {"__nanosleep", "a kernel doesn't wait"},
    {"clock", "a kernel has no clock: its result would hang on it"},
    {"clock64", "a kernel has no clock: its result would hang on it"},
    {"__DATE__", "a kernel has no clock: its result would hang on it"},
    {"__TIME__", "a kernel has no clock: its result would hang on it"},
    {"__TIMESTAMP__", "a kernel has no clock: its result would hang on it"},
    {"__maxnreg__", "registers follow from the manifest's `block`"},
    {"__cluster_dims__", "blocks come in no clusters"},
    {"__block_size__", "the manifest's `block` is a block's size"},
    {"cudaLaunchDevice", "a kernel starts no kernels"},
};
/* Functions of the C library that GPUs have, with other bits than any CPU's: not to be called. */
static const char *const foreign[] = {
    "exp",    "log",     "sin",   "cos",   "tan",    "rsqrt",  "pow",    "exp2",   "log2",   "log10",
    "sincos", "expf",    "logf",  "sinf",  "cosf",   "tanf",   "rsqrtf", "powf",   "exp2f",  "log2f",
    "log10f", "sincosf", "asin",  "acos",  "atan",   "atan2",  "sinh",   "cosh",   "tanh",   "expm1",
    "log1p",  "cbrt",    "erf",   "asinf", "acosf",  "atanf",  "atan2f", "sinhf",  "coshf",  "tanhf",
    "expm1f", "log1pf",  "cbrtf", "erff",  "__expf", "__logf", "__sinf", "__cosf", "__powf", "__fdividef"};
static const char *const ours[] = {"exp", "log", "sin", "cos", "rsqrt"}; /* weir_exp, weir_expf... */
static const char *const waits[] = {"__syncthreads",  "__syncwarp",       "__shfl_sync",
                                    "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                    "__ballot_sync",  "__any_sync",       "__all_sync"};

struct scan {
    struct user_source *source;
    char *error;
    const char *at;
    unsigned line;
    bool line_begins;      /* only white space so far: '#' begins a directive */
    char before[2][SHOWN]; /* the last two tokens; a string is "\"C\"" as it stands */
};

__attribute__((format(printf, 2, 3))) static bool refuse(struct scan *scan, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int used = snprintf(scan->error, MANIFEST_ERROR_BYTES, "%s:%u: ", scan->source->file, scan->line);
    vsnprintf(scan->error + used, (size_t)(MANIFEST_ERROR_BYTES - used), format, arguments);
    va_end(arguments);
    return false;
}

/* Copies the text with every backslash-newline taken out; the newlines come back at the end of that line. */
static char *splice(const char *text, size_t bytes)
{
    char *out = malloc(bytes + 2), *to = out;
    size_t owed = 0;
    if (!out)
        return NULL;
    for (size_t i = 0; i < bytes; i++) {
        size_t skip = text[i] == '\\' && i + 1 < bytes && text[i + 1] == '\n'                          ? 1
                      : text[i] == '\\' && i + 2 < bytes && text[i + 1] == '\r' && text[i + 2] == '\n' ? 2
                                                                                                       : 0;
        if (skip) {
            i += skip;
            owed++;
            continue;
        }
        *to++ = text[i];
        for (; text[i] == '\n' && owed > 0; owed--)
            *to++ = '\n';
    }
    *to++ = '\n';
    *to = '\0';
    return out;
}

static void push_token(struct scan *scan, const char *from, size_t bytes)
{
    memcpy(scan->before[0], scan->before[1], SHOWN);
    bytes = bytes < SHOWN - 1 ? bytes : SHOWN - 1;
    memcpy(scan->before[1], from, bytes);
    scan->before[1][bytes] = '\0';
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

/* Skips a comment or a literal; false with an error where it doesn't end. */
static bool skip_comment(struct scan *scan)
{
    if (scan->at[1] == '/') {
        scan->at += strcspn(scan->at, "\n");
        return true;
    }
    const unsigned begun = scan->line;
    for (scan->at += 2; *scan->at && strncmp(scan->at, "*/", 2) != 0; scan->at++)
        scan->line += *scan->at == '\n';
    if (!*scan->at) {
        scan->line = begun;
        return refuse(scan, "this comment does not end");
    }
    scan->at += 2;
    return true;
}

static bool skip_literal(struct scan *scan)
{
    const char *begin = scan->at, quote = *begin;
    for (scan->at++; *scan->at && *scan->at != quote && *scan->at != '\n'; scan->at++)
        if (*scan->at == '\\' && scan->at[1])
            scan->at++;
    if (*scan->at != quote)
        return refuse(scan, "this %s does not end", quote == '"' ? "string" : "character");
    scan->at++;
    push_token(scan, begin, (size_t)(scan->at - begin));
    return true;
}

/* A line that begins with '#'. Our own header may be included: it is there already. */
static bool read_directive(struct scan *scan)
{
    static const char *const allowed[] = {"define", "undef", "if",    "ifdef", "ifndef",
                                          "else",   "elif",  "endif", "error", "pragma"};
    char word[SHOWN] = "";
    const char *begin = scan->at;
    scan->at += *scan->at == '%' ? 2 : 1;
    scan->at += strspn(scan->at, " \t");
    if (*scan->at == '/')
        return refuse(scan, "a comment inside a directive isn't taken");
    size_t bytes = 0;
    while (is_word(scan->at[bytes]))
        bytes++;
    snprintf(word, sizeof word, "%.*s", (int)bytes, scan->at);
    scan->at += bytes;
    const char *rest = scan->at + strspn(scan->at, " \t");
    if (strcmp(word, "include") == 0) {
        if (strncmp(rest, "\"weir_kernel.h\"", 15) != 0 && strncmp(rest, "\"weir_math.h\"", 13) != 0)
            return refuse(scan,
                          "#include isn't taken: a kernel is one file, and weir_kernel.h is there already");
        memset((char *)(uintptr_t)begin, ' ', strcspn(begin, "\n"));
        scan->at = begin + strcspn(begin, "\n");
        return true;
    }
    if (strcmp(word, "pragma") == 0 && strncmp(rest, "unroll", 6) != 0 && strncmp(rest, "once", 4) != 0)
        return refuse(scan, "the only #pragma that is taken is unroll");
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (strcmp(word, allowed[i]) == 0)
            return true; /* what stands behind it is scanned like the rest */
    return bytes == 0 ? true : refuse(scan, "#%s isn't taken", word);
}

/* The source's own bound of the entry, at `at`. Its first argument is compared with the manifest's block by the compiler,
 * since it may be a macro. What follows it, or NULL with an error. */
static const char *read_bound(struct scan *scan, const char *at)
{
    struct user_source *source = scan->source;
    const char *begin = at + 17 + strspn(at + 17, " \t\r\n"), *end = NULL;
    unsigned depth = *begin == '(';
    for (at = begin; depth > 0 && *++at;) {
        end = depth == 1 && !end && (*at == ',' || *at == ')') ? at : end;
        depth += *at == '(';
        depth -= *at == ')';
        if (strchr("\"'#;{}/", *at)) /* nothing that could hide a bracket */
            break;
    }
    if (*begin != '(' || depth > 0 || end == begin + 1) {
        refuse(scan,
               "write __launch_bounds__(THREADS), or leave it out: it is set from the manifest's `block`");
        return NULL;
    }
    source->bound = begin + 1;
    source->bound_bytes = (size_t)(end - begin - 1);
    return at + 1 + strspn(at + 1, " \t\r\n");
}

/* extern "C" __global__ void [__launch_bounds__(...)] NAME( */
static bool read_entry(struct scan *scan)
{
    struct user_source *source = scan->source;
    if (source->entry[0])
        return refuse(scan,
                      "this is a second __global__ function (the first is %s, line %u); a kernel has one",
                      source->entry, source->entry_line);
    if (strcmp(scan->before[0], "extern") != 0 || strcmp(scan->before[1], "\"C\"") != 0)
        return refuse(scan, "write extern \"C\" __global__ void NAME(...), so that the entry can be found");
    const char *at = scan->at + strspn(scan->at, " \t\r\n");
    if (strncmp(at, "void", 4) != 0 || is_word(at[4]))
        return refuse(scan, "a __global__ function returns void");
    at += 4 + strspn(at + 4, " \t\r\n");
    source->bound_here = at;
    if (strncmp(at, "__launch_bounds__", 17) == 0 && !is_word(at[17]) && !(at = read_bound(scan, at)))
        return false;
    size_t bytes = 0;
    while (is_word(at[bytes]))
        bytes++;
    if (bytes == 0 || bytes >= USER_ENTRY_BYTES || at[bytes + strspn(at + bytes, " \t\r\n")] != '(')
        return refuse(scan, "the entry's name, of at most %d characters, and its arguments should stand here",
                      USER_ENTRY_BYTES - 1);
    memcpy(source->entry, at, bytes);
    source->entry_line = scan->line;
    return true;
}

/* A call of `word`, not of a member that has its name. */
static bool refuse_foreign(struct scan *scan, const char *word)
{
    const char *next = scan->at + strspn(scan->at, " \t\r\n"), *before = scan->before[1];
    if (*next != '(' || strcmp(before, ".") == 0 || strcmp(before, ">") == 0)
        return true;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (strcmp(word, foreign[i]) != 0)
            continue;
        for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
            if (strncmp(word, ours[k], strlen(ours[k])) == 0 &&
                (!word[strlen(ours[k])] || strcmp(word + strlen(ours[k]), "f") == 0))
                return refuse(scan, "'%s': its bits differ from device to device; call weir_%s", word, word);
        return refuse(scan, "'%s': its bits differ from device to device, and Weir has none of its own",
                      word);
    }
    return true;
}

static bool read_name(struct scan *scan)
{
    char word[SHOWN];
    size_t bytes = 0;
    while (is_word(scan->at[bytes]))
        bytes++;
    snprintf(word, sizeof word, "%.*s", (int)bytes, scan->at);
    if (strcmp(word, "__launch_bounds__") == 0 && scan->at != scan->source->bound_here)
        return refuse(scan, "__launch_bounds__ stands between void and the entry's name, and nowhere else");
    scan->at += bytes;
    if (*scan->at == '"' && bytes <= 3 && strchr("RLUu8", word[bytes - 1]))
        return refuse(scan, "only plain strings are taken");
    if (strncmp(word, "weir_", 5) == 0 && strcmp(scan->before[1], "define") == 0)
        return refuse(scan, "names that begin with weir_ are ours");
    if (strncmp(word, "__builtin_", 10) == 0) /* clocks, random numbers and rounding modes are among them */
        return refuse(scan,
                      "'%s': built-in functions of a compiler aren't taken; weir_kernel.h has what "
                      "every kind of device can do",
                      word);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        if (strcmp(word, forbidden[i].word) == 0)
            return refuse(scan, "'%s': %s", word, forbidden[i].what);
    if (!refuse_foreign(scan, word))
        return false;
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++)
        scan->source->fibres = scan->source->fibres || strcmp(word, waits[i]) == 0;
    scan->source->by_number = scan->source->by_number || strcmp(word, "weir_item") == 0;
    if (strcmp(word, "__shared__") == 0 && strcmp(scan->before[1], "extern") == 0)
        return refuse(scan, "extern __shared__ isn't taken: write `shared = BYTES` in the manifest and "
                            "weir_shared<float>() here");
    if (strcmp(word, "__global__") == 0 && !read_entry(scan))
        return false;
    push_token(scan, word, strlen(word));
    return true;
}

static bool read_token(struct scan *scan)
{
    const char c = *scan->at;
    if (c == '\n' || isspace((unsigned char)c)) {
        scan->line += c == '\n';
        scan->line_begins = scan->line_begins || c == '\n';
        scan->at++;
        return true;
    }
    if (c == '/' && (scan->at[1] == '/' || scan->at[1] == '*'))
        return skip_comment(scan);
    const bool begins = scan->line_begins;
    scan->line_begins = false;
    if (begins && (c == '#' || (c == '%' && scan->at[1] == ':')))
        return read_directive(scan);
    if (strncmp(scan->at, "##", 2) == 0 || strncmp(scan->at, "%:%:", 4) == 0) /* we would not see the name */
        return refuse(scan, "## isn't taken: every name of a kernel stands in its source");
    if (c == '"' || c == '\'')
        return skip_literal(scan);
    if (isdigit((unsigned char)c)) { /* a number, with digit separators and suffixes */
        const char *begin = scan->at;
        while (is_word(*scan->at) || (*scan->at == '\'' && is_word(scan->at[1])) || *scan->at == '.')
            scan->at++;
        push_token(scan, begin, (size_t)(scan->at - begin));
        return true;
    }
    if (is_word(c))
        return read_name(scan);
    push_token(scan, scan->at++, 1);
    return true;
}

bool user_source_open(struct user_source *source, const struct manifest_user *user, const char *file,
                      const char *text, size_t text_bytes, char error[MANIFEST_ERROR_BYTES])
{
    *source = (struct user_source){.user = user};
    struct scan scan = {.source = source, .error = error, .line = 1, .line_begins = true};
    for (size_t i = 0; file[i] && i < sizeof source->file - 1;
         i++) /* it goes between quotes, and to terminals */
        source->file[i] = is_word(file[i]) || strchr(".-+", file[i]) ? file[i] : '_';
    if (text_bytes > MANIFEST_SOURCE_BYTES_MAX)
        return refuse(&scan, "a kernel's source has at most %u bytes; this one has more",
                      MANIFEST_SOURCE_BYTES_MAX);
    if (memchr(text, '\0', text_bytes))
        return refuse(&scan, "this is not text: it has a zero byte%s",
                      text_bytes > 4 && memcmp(text, "\177ELF", 4) == 0
                          ? "; compiled code (cubin) isn't taken, give the source or PTX"
                          : "");
    source->text = splice(text, text_bytes);
    if (!source->text)
        return refuse(&scan, "out of memory");
    scan.at = source->text;
    while (*scan.at)
        if (!read_token(&scan))
            return false;
    if (source->entry[0])
        return true;
    scan.line = 1;
    return refuse(&scan, "there is no entry: write extern \"C\" __global__ void NAME(...)");
}

void user_source_close(struct user_source *source)
{
    free(source->text);
    source->text = NULL;
}

/* ---- What compilers get */

static const char *c_type(uint8_t dtype)
{
    static const char *const names[ARRAY_DTYPES] = {
        [ARRAY_INT8] = "int8_t",     [ARRAY_UINT8] = "uint8_t",  [ARRAY_INT32] = "int32_t",
        [ARRAY_UINT32] = "uint32_t", [ARRAY_INT64] = "int64_t",  [ARRAY_UINT64] = "uint64_t",
        [ARRAY_FLOAT32] = "float",   [ARRAY_FLOAT64] = "double",
    };
    return names[dtype];
}

/* The arguments' types, with names or without. */
static void list_arguments(const struct manifest_user *user, bool names, FILE *out)
{
    const struct manifest *manifest = &user->manifest;
    fprintf(out, "weir_items%s", names ? " items" : "");
    for (uint32_t i = 0; i < manifest->input_count; i++)
        fprintf(out, ", const %s *%s", c_type(user->inputs[i].dtype), names ? manifest->inputs[i].name : "");
    for (uint32_t i = 0; i < manifest->output_count; i++)
        fprintf(out, ", %s *%s", c_type(user->outputs[i].dtype), names ? manifest->outputs[i].name : "");
    for (uint32_t i = 0; i < manifest->param_count; i++)
        fprintf(out, ", %s%s%s", manifest->params[i].type == MANIFEST_REAL ? "double" : "int64_t",
                names ? " " : "", names ? manifest->params[i].name : "");
    for (uint32_t i = 0; i < user->word_count; i++)
        fprintf(out, ", uint64_t%s%s", names ? " " : "", names ? user->words[i] : "");
}

void user_source_signature(const struct user_source *source, char *out, size_t out_bytes)
{
    FILE *stream = fmemopen(out, out_bytes, "w");
    *out = '\0';
    if (!stream)
        return;
    fprintf(stream, "void %s(", source->entry);
    list_arguments(source->user, true, stream);
    fputc(')', stream);
    fclose(stream);
    out[out_bytes - 1] = '\0';
}

/* The function that the worker calls: it gives the entry its arguments, for every thread. */
static void write_launcher(const struct user_source *source, FILE *out)
{
    static const char *const items[] = {"THREAD", "BLOCK", "SHARD"};
    const struct manifest_user *user = source->user;
    const struct manifest *manifest = &user->manifest;
    uint32_t buffer = 0;
    fprintf(
        out,
        "extern \"C\" __attribute__((externally_visible, used)) int weir_entry(const weir_call *call)\n{\n"
        "const weir_items a0 = {call->first, call->count};\n");
    for (uint32_t i = 0; i < manifest->input_count; i++, buffer++)
        fprintf(out, "const auto *i%u = (const %s *)call->buffers[%u];\n", i, c_type(user->inputs[i].dtype),
                buffer);
    for (uint32_t i = 0; i < manifest->output_count; i++, buffer++)
        fprintf(out, "auto *o%u = (%s *)call->buffers[%u];\n", i, c_type(user->outputs[i].dtype), buffer);
    for (uint32_t i = 0; i < manifest->param_count; i++)
        fprintf(out, "const auto p%u = ((const %s *)call->params)[%u];\n", i,
                manifest->params[i].type == MANIFEST_REAL ? "double" : "int64_t", i);
    for (uint32_t i = 0; i < user->word_count; i++)
        fprintf(out, "const uint64_t w%u = call->extents[%u];\n", i, i);
    fprintf(out, "return weir_launch<WEIR_ITEM_%s, %u>(call, [=]() __attribute__((always_inline)) { %s(a0",
            items[user->item], user->block, source->entry);
    for (uint32_t i = 0; i < manifest->input_count; i++)
        fprintf(out, ", i%u", i);
    for (uint32_t i = 0; i < manifest->output_count; i++)
        fprintf(out, ", o%u", i);
    for (uint32_t i = 0; i < manifest->param_count; i++)
        fprintf(out, ", p%u", i);
    for (uint32_t i = 0; i < user->word_count; i++)
        fprintf(out, ", w%u", i);
    fprintf(out, "); });\n}\n");
}

/* The source, its entry bound to the manifest's block: a compiler that knows how many threads share a processor's registers
 * gives none too many. Without the 1 it halves them once more where that lets two blocks in, and spills (CUDA 13). */
static void write_source(const struct user_source *source, FILE *out)
{
    const uint32_t block = source->user->block;
    const int before = (int)(source->bound_here - source->text);
    fprintf(out, "#line 1 \"%s\"\n%.*s", source->file, before, source->text);
    if (!source->bound)
        fprintf(out, "__launch_bounds__(%u, 1) ", block);
    fprintf(out, "%s\n#line %u \"%s\"\n", source->bound_here, source->entry_line, source->file);
    if (source->bound)
        fprintf(out,
                "static_assert((%.*s) == %u, \"its __launch_bounds__ is not the manifest's block = "
                "%u\");\n#line %u \"%s\"\n",
                (int)source->bound_bytes, source->bound, block, block, source->entry_line, source->file);
}

char *user_source_join(const struct user_source *source, enum user_target target)
{
    char *text = NULL, signature[1024];
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return NULL;
    user_source_signature(source, signature, sizeof signature);
    if (source->fibres)
        fprintf(out, "#define WEIR_FIBRES 1\n");
    else if (source->by_number)
        fprintf(out, "#define WEIR_BY_NUMBER 1\n");
    fprintf(out, "#line 1 \"weir_kernel.h\"\n%s\n#line 1 \"weir_math.h\"\n%s\n", user_kernel_header,
            user_math_header);
    write_source(source, out);
    fprintf(out, "static_assert(weir_same<decltype(&%s), void (*)(", source->entry);
    list_arguments(source->user, false, out);
    fprintf(out, ")>::value, \"the entry does not fit its manifest, which wants: %s\");\n", signature);
    if (target == USER_CPU) {
        fprintf(out, "#line 1 \"weir_entry\"\n");
        write_launcher(source, out);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
