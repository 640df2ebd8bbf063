/* Users' manifests and sources: what is taken, and that each refusal says the line. */
#include "kernels/manifest_user.h"
#include "kernels/user_source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static char error[MANIFEST_ERROR_BYTES];
static struct manifest_user user;

static const char distances[] = "; comment\n"
                                "[kernel]\n"
                                "name = distances ; trailing\n"
                                "item = block\n"
                                "block = 128\n"
                                "shared = 512\n"
                                "cost = 2.5\n"
                                "[input base]\ntype = float32\nshape = n, d\n"
                                "[input query]\ntype = float32\nshape = items, d\nfinite = yes\n"
                                "[output best]\ntype = int32\nshape = items, k\n"
                                "[output total]\ntype = float64\nshape = 2\ncombine = sum\n"
                                "[param k]\ntype = integer\nmin = 1\nmax = 16\ndefault = 4\n"
                                "[param metric]\ntype = choice\nchoices = l1 l2\n";

static bool parse(const char *text)
{
    error[0] = '\0';
    return manifest_user_parse("k.ini", text, strlen(text), &user, error);
}

static struct manifest_given given_of(const char *name, uint8_t dtype, uint64_t rows, uint64_t columns,
                                      enum manifest_role role)
{
    struct manifest_given given = {
        .name = name, .type = {.dtype = dtype, .rank = 2, .shape = {rows, columns}}, .role = role};
    array_bytes(&given.type, &given.bytes);
    return given;
}

static void a_manifest_plans_a_job(void **state)
{
    (void)state;
    struct manifest_params params;
    struct manifest_plan plan;
    const struct manifest_wish wish = {0};
    const struct manifest_given given[] = {given_of("base", ARRAY_FLOAT32, 50, 3, MANIFEST_BROADCAST),
                                           given_of("query", ARRAY_FLOAT32, 1000, 3, MANIFEST_SPLIT)};
    assert_true(parse(distances));
    const struct manifest *manifest = &user.manifest;
    assert_ptr_equal(manifest->user, &user);
    assert_string_equal(manifest->name, "distances");
    assert_int_equal(user.item, MANIFEST_ITEM_BLOCK);
    assert_int_equal(user.block, 128);
    assert_int_equal(user.shared_bytes, 512);
    assert_string_equal(manifest->inputs[0].help, "float32 [n, d]");
    assert_string_equal(manifest->outputs[0].help, "int32 [items, k]");
    assert_string_equal(manifest->outputs[1].help, "float64 [2]");
    const char *k = "k=7";
    assert_int_equal(manifest_params_parse(manifest, &k, 1, &params, error), MANIFEST_OK);
    assert_int_equal(manifest_check(manifest, &params, given, 2, &wish, &plan, error), MANIFEST_OK);
    assert_int_equal(plan.items, 1000);
    assert_int_equal(plan.output_count, 2);
    assert_int_equal(plan.outputs[0].shape[0], 1000);
    assert_int_equal(plan.outputs[0].shape[1], 7);
    assert_int_equal(plan.outputs[1].rank, 1);
    assert_int_equal(plan.output_item_bytes[1], 16);
    assert_true(plan.item_cost.cpu_ns == 2.5);
    struct manifest_shapes shapes = {.items = 1000, .inputs = {given[0].type, given[1].type}};
    uint64_t words[MANIFEST_WORDS_MAX];
    manifest_user_words(&user, &shapes, words);
    assert_int_equal(words[0], 50);
    assert_int_equal(words[1], 3);
}

static void the_shape_stands_before_the_help(void **state)
{
    (void)state;
    char text[600];
    assert_true(parse("[kernel]\nname = k\n[input x]\ntype = int8\nshape = items, d\nhelp = the rows\n"
                      "[output y]\ntype = int32\nshape = items\nhelp = sums\n"));
    assert_string_equal(user.manifest.inputs[0].help, "int8 [items, d]: the rows");
    assert_string_equal(user.manifest.outputs[0].help, "int32 [items]: sums");
    snprintf(text, sizeof text, "[kernel]\nname = k\n[output y]\ntype = int32\nshape = items\nhelp = %0*d\n",
             (int)(2 * MANIFEST_SHAPE_BYTES), 7);
    assert_true(parse(text));
    assert_int_equal(strlen(user.manifest.outputs[0].help), MANIFEST_SHAPE_BYTES - 1); /* cut */
}

/* A manifest whose shapes do not fit what is given. */
static void axes_must_agree(void **state)
{
    (void)state;
    struct manifest_params params;
    struct manifest_plan plan;
    const struct manifest_wish wish = {0};
    struct manifest_given given[] = {given_of("base", ARRAY_FLOAT32, 50, 3, MANIFEST_BROADCAST),
                                     given_of("query", ARRAY_FLOAT32, 1000, 4, MANIFEST_SPLIT)};
    assert_true(parse(distances));
    assert_int_equal(manifest_params_parse(&user.manifest, NULL, 0, &params, error), MANIFEST_OK);
    assert_int_equal(manifest_check(&user.manifest, &params, given, 2, &wish, &plan, error),
                     MANIFEST_BAD_INPUT);
    assert_string_equal(error, "distances: input query is float32 [1000, 4]; its axis 2 must be 3");
    given[1] = given_of("query", ARRAY_FLOAT64, 1000, 3, MANIFEST_SPLIT);
    assert_int_equal(manifest_check(&user.manifest, &params, given, 2, &wish, &plan, error),
                     MANIFEST_BAD_INPUT);
    given[1] = given_of("query", ARRAY_FLOAT32, 1000, 3, MANIFEST_BROADCAST);
    assert_int_equal(manifest_check(&user.manifest, &params, given, 2, &wish, &plan, error),
                     MANIFEST_BAD_INPUT);
}

#define HEAD "[kernel]\nname = k\n"
#define OUT "[output y]\ntype = int32\nshape = items\n"

static void bad_manifests_are_refused_by_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"", "k.ini:1: there is no [kernel] section"},
        {"name = k\n", "k.ini:1: 'name' stands before the first section; begin with [kernel]"},
        {"[kernel]\nname = knn\n", "k.ini:2: knn is a built-in kernel; choose another name"},
        {"[kernel]\nname = a-b\n",
         "k.ini:2: name must be a letter, then letters, digits and _, at most 31 in all; got 'a-b'"},
        {"[kernel]\nhelp = x\n" OUT, "k.ini:1: the kernel lacks its name"},
        {HEAD, "k.ini:1: the kernel has no output; add [output y]"},
        {HEAD "colour = red\n",
         "k.ini:3: there is no 'colour' here; this section takes name, help, version, class, "
         "tolerance, item, block, shared, cost and positional"},
        {HEAD "block = 1025\n", "k.ini:3: block must be a number from 1 to 1024; got '1025'"},
        {HEAD "block = 0\n", "k.ini:3: block must be a number from 1 to 1024; got '0'"},
        {HEAD "block = 1.5\n", "k.ini:3: block must be a whole number; got '1.5'"},
        {HEAD "cost = cheap\n", "k.ini:3: cost must be a number from 0.01 to 1000000000000; got 'cheap'"},
        {HEAD "class = fuzzy\n", "k.ini:3: class must be exact or tolerant; got 'fuzzy'"},
        {HEAD "class = tolerant\n" OUT, "k.ini:1: tolerance goes with class = tolerant, and only with it"},
        {HEAD "item\n", "k.ini:3: neither [section], nor key = value, nor a comment"},
        {HEAD "item =\n", "k.ini:3: 'item' has no value"},
        {HEAD "[thing x]\n",
         "k.ini:3: there is no section [thing]; there are [kernel], [input NAME], [output NAME] "
         "and [param NAME]"},
        {HEAD "[kernel]\n", "k.ini:3: there are two [kernel] sections"},
        {HEAD "[output y]\nshape = items\n", "k.ini:3: y lacks its type; write type = float32, for one"},
        {HEAD "[output y]\ntype = text\n",
         "k.ini:4: type must be int8, uint8, int32, uint32, int64, uint64, float32 or "
         "float64; got 'text'"},
        {HEAD OUT OUT, "k.ini:6: there are two of the name 'y'; give each its own"},
        {HEAD OUT "[input items]\n",
         "k.ini:6: 'items' can't be a name here: a letter, then letters, digits and _, and "
         "not 'items'"},
        {HEAD "[output y]\ntype = int32\nshape = 3, items\n", "k.ini:5: y: only the first axis can be items"},
        {HEAD "[output y]\ntype = int32\nshape = items, n\n",
         "k.ini:5: nothing says how long the axis n is: it is no parameter, and no input has it"},
        {HEAD "[output y]\ntype = int32\nshape = items, 0\n",
         "k.ini:5: an axis of '0' can't be; give 1 to 2147483647"},
        {HEAD "[output y]\ntype = int32\nshape = 4\n",
         "k.ini:5: y has no row per item, so it must be combined: write combine = sum, min or max"},
        {HEAD "[output y]\ntype = int8\nshape = 4\ncombine = max\n",
         "k.ini:3: y is combined, so its type must have 4 or 8 bytes"},
        {HEAD OUT "combine = sum\n",
         "k.ini:5: y has a row per item, so its rows are concatenated: leave out combine"},
        {HEAD OUT "[param p]\ntype = real\nmin = 1\nmax = 0\ndefault = 1\n",
         "k.ini:6: parameter p: min, default and max are not in that order"},
        {HEAD OUT "[param p]\ntype = integer\nmin = 0\ndefault = 1\n", "k.ini:6: parameter p lacks max"},
        {HEAD OUT "[param p]\ntype = choice\n", "k.ini:6: parameter p lacks its choices"},
        {HEAD "[param p]\ntype = integer\nmin = 0\nmax = 9\ndefault = 1\n[output y]\ntype = int32\nshape = "
              "items, p\n",
         "k.ini:10: parameter p stands in a shape, so it must be an integer from 1 up, of at most "
         "2147483647"},
        {HEAD "help = \x01\n", "k.ini:3: there is a control character here; a manifest is text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(parse(cases[i].text));
        assert_string_equal(error, cases[i].error);
    }
    static char large[MANIFEST_TEXT_BYTES_MAX + 2];
    memset(large, '\n', sizeof large - 1);
    memcpy(large, HEAD OUT, strlen(HEAD OUT));
    assert_false(parse(large));
    assert_string_equal(error, "k.ini:1: a manifest has at most 4096 bytes; this one has more");
    large[MANIFEST_TEXT_BYTES_MAX] = '\0';
    assert_true(parse(large));
    assert_false(manifest_user_parse("k.ini", "[ker\0nel]", 9, &user, error));
}

/* Every prefix, and every byte changed, is taken or refused, and nothing worse: run under a sanitizer to see more. */
static void broken_manifests_do_no_harm(void **state)
{
    (void)state;
    char text[sizeof distances];
    for (size_t bytes = 0; bytes < sizeof distances; bytes++)
        manifest_user_parse("k.ini", distances, bytes, &user, error);
    const unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    srand(seed);
    for (int i = 0; i < 20000; i++) {
        memcpy(text, distances, sizeof text);
        for (int k = 0; k <= i % 4; k++)
            text[(size_t)rand() % (sizeof text - 1)] =
                (char)(rand() % 5 ? "[]=,;\n 09azd_"[rand() % 13] : rand());
        manifest_user_parse("k.ini", text, sizeof text - 1, &user, error);
    }
}

static bool scan(const char *text, struct user_source *source)
{
    error[0] = '\0';
    assert_true(parse(HEAD "[input x]\ntype = float32\nshape = items, d\n" OUT
                           "[param p]\ntype = real\nmin = 0\nmax = 1\ndefault = 1\n"));
    return user_source_open(source, &user, "k.cu", text, strlen(text), error);
}

#define ENTRY "extern \"C\" __global__ void k(weir_items items)\n{\n}\n"

static void a_source_is_tied_to_its_manifest(void **state)
{
    (void)state;
    struct user_source source;
    char signature[256];
    assert_true(
        scan("#include \"weir_kernel.h\"\n// asm, printf\n/* new */ const char *s = \"malloc\";\n" ENTRY,
             &source));
    assert_string_equal(source.entry, "k");
    assert_int_equal(source.entry_line, 4);
    assert_false(source.fibres);
    user_source_signature(&source, signature, sizeof signature);
    assert_string_equal(signature,
                        "void k(weir_items items, const float *x, int32_t *y, double p, uint64_t d)");
    char *joined = user_source_join(&source, USER_CPU);
    assert_non_null(strstr(joined, "#line 1 \"k.cu\"\n                        \n// asm"));
    free(joined);
    user_source_close(&source);
    assert_true(scan("#define A_WORD_THAT_IS_LONGER_THAN_ANY_THAT_IS_LOOKED_FOR\"string\"\n" ENTRY, &source));
    user_source_close(&source);
    assert_true(
        scan("#define NAME(a) #a\nconst char *s = \"a##b\"; // __builtin_ia32_rdtsc, a##b\n" ENTRY, &source));
    user_source_close(&source);
    assert_true(scan("__device__ void w() { __syncthreads(); } // weir_item\n" ENTRY, &source));
    assert_true(source.fibres && !source.by_number);
    user_source_close(&source);
    assert_true(scan(
        "// __syncthreads\n#define E(a) \\\n  a\nextern \"C\" __global__ void\n__launch_bounds__(64) k (",
        &source));
    assert_int_equal(source.entry_line, 4);
    assert_false(source.fibres);
    user_source_close(&source);
    assert_true(scan("__device__ uint64_t w() { return weir_item(); }\n" ENTRY, &source));
    assert_true(source.by_number);
    user_source_close(&source);
}

/* So that a compiler gives no thread more registers than a block of them can have. */
static void the_entry_is_bound_to_its_block(void **state)
{
    (void)state;
    struct user_source source;
    assert_true(scan("\n" ENTRY, &source));
    for (int target = USER_CPU; target <= USER_CUDA; target++) {
        char *joined = user_source_join(&source, (enum user_target)target);
        assert_non_null(strstr(
            joined,
            "#line 1 \"k.cu\"\n\nextern \"C\" __global__ void __launch_bounds__(256, 1) k(weir_items"));
        free(joined);
    }
    user_source_close(&source);
    /* One's own must be the same, which the compiler finds out. */
    assert_true(
        scan("extern \"C\" __global__ void\n__launch_bounds__ ( T(256, 1), 2 ) k(weir_items items) {}\n",
             &source));
    char *joined = user_source_join(&source, USER_CUDA);
    assert_non_null(strstr(
        joined, "#line 1 \"k.cu\"\nextern \"C\" __global__ void\n__launch_bounds__ ( T(256, 1), 2 ) k("));
    assert_non_null(strstr(joined,
                           "#line 1 \"k.cu\"\nstatic_assert(( T(256, 1)) == 256, \"its __launch_bounds__ is "
                           "not the manifest's block = 256\");\n#line 1 \"k.cu\"\n"));
    free(joined);
    user_source_close(&source);
}

static void bad_sources_are_refused_by_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"", "k.cu:1: there is no entry: write extern \"C\" __global__ void NAME(...)"},
        {ENTRY "\n" ENTRY,
         "k.cu:5: this is a second __global__ function (the first is k, line 1); a kernel has one"},
        {"__global__ void k() {}",
         "k.cu:1: write extern \"C\" __global__ void NAME(...), so that the entry can be found"},
        {"extern \"C\" __global__ int k() {}", "k.cu:1: a __global__ function returns void"},
        {"\n#include <stdio.h>\n" ENTRY,
         "k.cu:2: #include isn't taken: a kernel is one file, and weir_kernel.h is there already"},
        {"\n%:include \"/etc/passwd\"\n" ENTRY,
         "k.cu:2: #include isn't taken: a kernel is one file, and weir_kernel.h is there already"},
        {"#inc\\\nlude \"/etc/passwd\"\n" ENTRY,
         "k.cu:1: #include isn't taken: a kernel is one file, and weir_kernel.h is there already"},
        {"# /**/ include \"/etc/passwd\"\n" ENTRY, "k.cu:1: a comment inside a directive isn't taken"},
        {"#line 7\n" ENTRY, "k.cu:1: #line isn't taken"},
        {"#pragma GCC optimize 3\n" ENTRY, "k.cu:1: the only #pragma that is taken is unroll"},
        {ENTRY "void f() { as\\\nm(\"nop\"); }\n",
         "k.cu:4: 'asm': assembly isn't taken: a kernel runs on every kind of device"},
        {ENTRY "uint64_t f() { return __builtin_ia32_rdtsc(); }\n",
         "k.cu:4: '__builtin_ia32_rdtsc': built-in functions of a compiler aren't taken; weir_kernel.h has "
         "what every "
         "kind of device can do"},
        {"#define J(a, b) a##b\n" ENTRY "uint64_t f() { return J(__buil, tin_ia32_rdtsc)(); }\n",
         "k.cu:1: ## isn't taken: every name of a kernel stands in its source"},
        {"\n#define J(a, b) a %:%: b\nJ(as, m)(\".incbin\");\n" ENTRY,
         "k.cu:2: ## isn't taken: every name of a kernel stands in its source"},
        {"[[gnu::optimize(\"fast-math\")]]\n" ENTRY,
         "k.cu:1: 'gnu': attributes aren't taken, since they mean other things on a GPU"},
        {"const char *at = __TIME__;\n" ENTRY,
         "k.cu:1: '__TIME__': a kernel has no clock: its result would hang on it"},
        {"int *p = new int;\n" ENTRY,
         "k.cu:1: 'new': a kernel has no memory of its own: give it an output or __shared__ memory"},
        {"extern __shared__ float s[];\n" ENTRY, "k.cu:1: extern __shared__ isn't taken: write `shared = "
                                                 "BYTES` in the manifest and weir_shared<float>() here"},
        {"extern \"C\" __global__ void __launch_bounds__(64 k(weir_items items) {}",
         "k.cu:1: write __launch_bounds__(THREADS), or leave it out: it is set from the manifest's `block`"},
        {"#define BOUND __launch_bounds__(64)\n" ENTRY,
         "k.cu:1: __launch_bounds__ stands between void and the entry's name, and nowhere else"},
        {"__launch_bounds__(64) " ENTRY,
         "k.cu:1: __launch_bounds__ stands between void and the entry's name, and nowhere else"},
        {ENTRY "__maxnreg__(16)", "k.cu:4: '__maxnreg__': registers follow from the manifest's `block`"},
        {"/* open\n" ENTRY, "k.cu:1: this comment does not end"},
        {"const char *s = \"open;\n" ENTRY, "k.cu:1: this string does not end"},
        {"const char *s = R\"(\n)\";\n" ENTRY, "k.cu:1: only plain strings are taken"},
    };
    struct user_source source;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(scan(cases[i].text, &source));
        assert_string_equal(error, cases[i].error);
        user_source_close(&source);
    }
    assert_false(user_source_open(&source, &user, "k.cu", "\177ELF\0", 5, error));
    assert_string_equal(
        error, "k.cu:1: this is not text: it has a zero byte; compiled code (cubin) isn't taken, give the "
               "source or PTX");
    user_source_close(&source);
    char *large = calloc(1, MANIFEST_SOURCE_BYTES_MAX + 1);
    memset(large, '\n', MANIFEST_SOURCE_BYTES_MAX + 1);
    assert_false(user_source_open(&source, &user, "k.cu", large, MANIFEST_SOURCE_BYTES_MAX + 1, error));
    assert_string_equal(error, "k.cu:1: a kernel's source has at most 262144 bytes; this one has more");
    user_source_close(&source);
    memcpy(large, ENTRY, strlen(ENTRY));
    assert_true(user_source_open(&source, &user, "k.cu", large, MANIFEST_SOURCE_BYTES_MAX, error));
    user_source_close(&source);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_manifest_plans_a_job),
        cmocka_unit_test(the_shape_stands_before_the_help),
        cmocka_unit_test(axes_must_agree),
        cmocka_unit_test(bad_manifests_are_refused_by_line),
        cmocka_unit_test(broken_manifests_do_no_harm),
        cmocka_unit_test(a_source_is_tied_to_its_manifest),
        cmocka_unit_test(the_entry_is_bound_to_its_block),
        cmocka_unit_test(bad_sources_are_refused_by_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
