/* Planning: parameters, inputs, cuts. Every refusal must say what is wrong. */
#include "kernels/manifest.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static char error[MANIFEST_ERROR_BYTES];

#define ROLE_B MANIFEST_BROADCAST
#define ROLE_S MANIFEST_SPLIT

static struct manifest_given given_of(const char *name, struct array_type type, enum manifest_role role)
{
    struct manifest_given given = {.name = name, .type = type, .role = role};
    array_bytes(&type, &given.bytes);
    return given;
}

static struct array_type matrix(enum array_dtype dtype, uint64_t rows, uint64_t columns)
{
    return (struct array_type){.dtype = (uint8_t)dtype, .rank = 2, .shape = {rows, columns}};
}

static enum manifest_error plan_knn(struct array_type base, struct array_type query, const char *k,
                                    struct manifest_plan *plan)
{
    const struct manifest *knn = manifest_find("knn");
    struct manifest_params params;
    const struct manifest_given given[] = {given_of("query", query, ROLE_S), given_of("base", base, ROLE_B)};
    const struct manifest_wish wish = {0};
    const enum manifest_error result = manifest_params_parse(knn, &k, 1, &params, error);
    return result ? result : manifest_check(knn, &params, given, 2, &wish, plan, error);
}

static void parameters_become_canonical_bytes(void **state)
{
    (void)state;
    const struct manifest *montecarlo = manifest_find("montecarlo");
    struct manifest_params defaults, stated;
    const char *settings[] = {"seed=1", "steps=64", "paths=65536", "side=call", "style=european", "book=no"};
    assert_int_equal(manifest_params_parse(montecarlo, NULL, 0, &defaults, error), MANIFEST_OK);
    assert_int_equal(manifest_params_parse(montecarlo, settings, 6, &stated, error), MANIFEST_OK);
    assert_int_equal(defaults.bytes, 48);
    assert_memory_equal(&defaults, &stated, sizeof defaults);
    static const uint8_t paths[8] = {0, 0, 1};
    assert_memory_equal(defaults.data + 16, paths, 8);
    char text[32];
    manifest_param_text(montecarlo, &stated, 0, text, sizeof text);
    assert_string_equal(text, "european");
}

static void bad_parameters_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *kernel, *setting, *says;
    } cases[] = {
        {"knn", "k=0", "from 1 to 1024"},
        {"knn", "k=1025", "from 1 to 1024"},
        {"knn", "k=-1", "from 1 to 1024"},
        {"knn", "k=", "whole number"},
        {"knn", "k=five", "got 'five'"},
        {"knn", "k=5x", "got '5x'"},
        {"knn", "k= 5", "got ' 5'"},
        {"knn", "k=99999999999999999999", "from 1 to 1024"},
        {"knn", "k", "NAME=VALUE"},
        {"knn", "j=5", "no parameter 'j'"},
        {"knn", "=5", "no parameter ''"},
        {"knn", "distances=maybe", "no or yes"},
        {"embed", "k=5", "no parameter 'k'"},
        {"montecarlo", "style=bermudan", "european or asian"},
        {"spin", "us=1000001", "0 to 1000000"},
        {"montecarlo", "seed=-1", "seed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct manifest_params params;
        assert_int_equal(
            manifest_params_parse(manifest_find(cases[i].kernel), &cases[i].setting, 1, &params, error),
            MANIFEST_BAD_PARAM);
        if (!strstr(error, cases[i].says))
            print_error("%s: %s\n", cases[i].setting, error);
        assert_non_null(strstr(error, cases[i].says));
    }
    struct manifest_params params;
    assert_int_equal(
        manifest_params_parse(manifest_find("knn"), (const char *[]){"k=5", "k=6"}, 2, &params, error),
        MANIFEST_BAD_PARAM);
    assert_non_null(strstr(error, "twice"));
}

static void parameters_of_a_peer_are_checked_again(void **state)
{
    (void)state;
    const struct manifest *knn = manifest_find("knn");
    struct manifest_params params;
    manifest_params_parse(knn, NULL, 0, &params, error);
    assert_int_equal(manifest_params_check(knn, &params, error), MANIFEST_OK);
    params.data[2] = 0xff;
    assert_int_equal(manifest_params_check(knn, &params, error), MANIFEST_BAD_PARAM);
    params.data[2] = 0;
    params.data[8] = 2;
    assert_int_equal(manifest_params_check(knn, &params, error), MANIFEST_BAD_PARAM);
    params.data[8] = 0;
    params.bytes = 8;
    assert_int_equal(manifest_params_check(knn, &params, error), MANIFEST_BAD_PARAM);
}

static void inputs_are_matched_by_name_and_planned(void **state)
{
    (void)state;
    struct manifest_plan plan;
    assert_int_equal(plan_knn(matrix(ARRAY_INT8, 104334, 256), matrix(ARRAY_INT8, 10000, 256), "k=5", &plan),
                     MANIFEST_OK);
    assert_int_equal(plan.items, 10000);
    assert_int_equal(plan.given_index[0], 1);
    assert_int_equal(plan.given_index[1], 0);
    assert_int_equal(plan.output_count, 1);
    assert_int_equal(plan.outputs[0].dtype, ARRAY_INT32);
    assert_int_equal(plan.outputs[0].shape[0], 10000);
    assert_int_equal(plan.outputs[0].shape[1], 5);
    assert_int_equal(plan.output_item_bytes[0], 20);
    assert_int_equal(plan.shard_count, (10000 + plan.shard_items - 1) / plan.shard_items);
    assert_true(plan.shard_count > 20 && plan.shard_count < 1000);
}

static void bad_inputs_are_refused_with_a_sentence(void **state)
{
    (void)state;
    struct manifest_plan plan;
    const struct array_type good = matrix(ARRAY_INT8, 10, 256);
    assert_int_equal(plan_knn(good, matrix(ARRAY_INT8, 5, 255), "k=5", &plan), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "int8 [5, 255]"));
    assert_int_equal(plan_knn(good, matrix(ARRAY_FLOAT32, 5, 256), "k=5", &plan), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "query is float32; it must be int8"));
    assert_int_equal(plan_knn(good, good, "k=11", &plan), MANIFEST_BAD_PARAM);
    assert_non_null(strstr(error, "more than the 10 rows"));
    assert_int_equal(plan_knn(good, matrix(ARRAY_INT8, 0, 256), "k=5", &plan), MANIFEST_NO_ITEMS);
    assert_int_equal(plan_knn(matrix(ARRAY_INT8, 0, 256), good, "k=5", &plan), MANIFEST_NO_ITEMS);
    assert_int_equal(plan_knn(matrix(ARRAY_INT8, 9, 4097), matrix(ARRAY_INT8, 9, 4097), "k=5", &plan),
                     MANIFEST_BAD_INPUT);
    assert_int_equal(plan_knn(matrix(ARRAY_INT8, 9, 0), matrix(ARRAY_INT8, 9, 0), "k=5", &plan),
                     MANIFEST_BAD_INPUT);
    assert_int_equal(plan_knn((struct array_type){ARRAY_INT8, 1, {9}}, good, "k=5", &plan),
                     MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "has 1 axis; it must have 2"));
    assert_int_equal(plan_knn((struct array_type){ARRAY_INT8, 0, {0}}, good, "k=5", &plan),
                     MANIFEST_BAD_INPUT);

    const struct manifest *knn = manifest_find("knn");
    struct manifest_params params;
    manifest_params_parse(knn, NULL, 0, &params, error);
    const struct manifest_wish wish = {0};
    struct manifest_given given[3] = {given_of("base", good, ROLE_B), given_of("query", good, ROLE_S),
                                      given_of("extra", good, ROLE_S)};
    assert_int_equal(manifest_check(knn, &params, given, 1, &wish, &plan, error), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "query is missing"));
    assert_int_equal(manifest_check(knn, &params, given, 3, &wish, &plan, error), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "no input 'extra'"));
    given[2].name = "base";
    assert_int_equal(manifest_check(knn, &params, given, 3, &wish, &plan, error), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "twice"));
    given[0].role = ROLE_S;
    assert_int_equal(manifest_check(knn, &params, given, 2, &wish, &plan, error), MANIFEST_BAD_INPUT);
    assert_non_null(strstr(error, "can't be split"));
    given[0].role = ROLE_B;
    const struct manifest_wish odd = {.items = 11};
    assert_int_equal(manifest_check(knn, &params, given, 2, &odd, &plan, error), MANIFEST_BAD_INPUT);
    const struct manifest_wish tiny = {.shard_items = 1};
    given[1] = given_of("query", matrix(ARRAY_INT8, 1000001, 256), ROLE_S);
    assert_int_equal(manifest_check(knn, &params, given, 2, &tiny, &plan, error), MANIFEST_TOO_MANY);
}

static void matmul_and_montecarlo_check_their_shapes(void **state)
{
    (void)state;
    struct manifest_plan plan;
    struct manifest_params params;
    const struct manifest_wish wish = {0};
    const struct manifest *matmul = manifest_find("matmul");
    manifest_params_parse(matmul, NULL, 0, &params, error);
    struct manifest_given given[2] = {given_of("a", matrix(ARRAY_FLOAT32, 10, 20), ROLE_S),
                                      given_of("b", matrix(ARRAY_FLOAT32, 20, 30), ROLE_B)};
    assert_int_equal(manifest_check(matmul, &params, given, 2, &wish, &plan, error), MANIFEST_OK);
    assert_int_equal(plan.outputs[0].dtype, ARRAY_FLOAT32);
    assert_int_equal(plan.outputs[0].shape[1], 30);
    given[1] = given_of("b", matrix(ARRAY_INT8, 20, 30), ROLE_B);
    assert_int_equal(manifest_check(matmul, &params, given, 2, &wish, &plan, error), MANIFEST_BAD_INPUT);
    given[0] = given_of("a", matrix(ARRAY_INT8, 10, 20), ROLE_S);
    assert_int_equal(manifest_check(matmul, &params, given, 2, &wish, &plan, error), MANIFEST_OK);
    assert_int_equal(plan.outputs[0].dtype, ARRAY_INT32);
    given[0] = given_of("a", matrix(ARRAY_INT8, 10, 21), ROLE_S);
    assert_int_equal(manifest_check(matmul, &params, given, 2, &wish, &plan, error), MANIFEST_BAD_INPUT);
    given[0] = given_of("a", matrix(ARRAY_INT8, 10, 131072), ROLE_S);
    given[1] = given_of("b", matrix(ARRAY_INT8, 131072, 2), ROLE_B);
    assert_int_equal(manifest_check(matmul, &params, given, 2, &wish, &plan, error), MANIFEST_BAD_INPUT);

    const struct manifest *montecarlo = manifest_find("montecarlo");
    given[0] = given_of("option", matrix(ARRAY_FLOAT64, 10, 4), ROLE_S);
    manifest_params_parse(montecarlo, NULL, 0, &params, error);
    assert_int_equal(manifest_check(montecarlo, &params, given, 1, &wish, &plan, error), MANIFEST_BAD_INPUT);
    given[0] = given_of("option", matrix(ARRAY_FLOAT64, 10, 5), ROLE_S);
    manifest_params_parse(montecarlo, (const char *[]){"paths=1000"}, 1, &params, error);
    assert_int_equal(manifest_check(montecarlo, &params, given, 1, &wish, &plan, error), MANIFEST_BAD_PARAM);
    assert_non_null(strstr(error, "give 1024"));
}

static void kernel_without_inputs_takes_items_from_the_job(void **state)
{
    (void)state;
    const struct manifest *spin = manifest_find("spin");
    struct manifest_params params;
    struct manifest_plan plan;
    manifest_params_parse(spin, (const char *[]){"us=10000"}, 1, &params, error);
    struct manifest_wish wish = {.items = 2000, .shard_items = 1};
    assert_true(spin->positional);
    assert_int_equal(manifest_check(spin, &params, NULL, 0, &wish, &plan, error), MANIFEST_OK);
    assert_int_equal(plan.shard_count, 2000);
    wish = (struct manifest_wish){0};
    assert_int_equal(manifest_check(spin, &params, NULL, 0, &wish, &plan, error), MANIFEST_NO_ITEMS);
}

static void values_out_of_range_are_found_with_their_row(void **state)
{
    (void)state;
    const struct manifest *montecarlo = manifest_find("montecarlo"), *matmul = manifest_find("matmul");
    double rows[3][5] = {{100, 100, 0, 0.2, 1}, {100, 100, 0, 0.2, 1}, {100, 100, 0, 0.2, 1}};
    const struct array_type type = matrix(ARRAY_FLOAT64, 3, 5);
    assert_int_equal(manifest_check_values(montecarlo, 0, &type, rows, sizeof rows, 3, 0, error),
                     MANIFEST_OK);
    rows[1][3] = NAN;
    assert_int_equal(manifest_check_values(montecarlo, 0, &type, rows, sizeof rows, 3, 1000, error),
                     MANIFEST_BAD_VALUE);
    assert_non_null(strstr(error, "row 1001, element 3"));
    rows[1][3] = -0.1;
    assert_int_equal(manifest_check_values(montecarlo, 0, &type, rows, sizeof rows, 3, 0, error),
                     MANIFEST_BAD_VALUE);
    assert_non_null(strstr(error, "row 1 has volatility"));
    float values[2] = {1, -INFINITY};
    const struct array_type small = matrix(ARRAY_FLOAT32, 1, 2);
    assert_int_equal(manifest_check_values(matmul, 0, &small, values, sizeof values, 1, 0, error),
                     MANIFEST_BAD_VALUE);
    const int8_t bytes[2] = {-1, -1}; /* integers are always finite */
    const struct array_type integers = matrix(ARRAY_INT8, 1, 2);
    assert_int_equal(manifest_check_values(matmul, 0, &integers, bytes, sizeof bytes, 1, 0, error),
                     MANIFEST_OK);
}

static void cut_keeps_still_when_rows_are_appended(void **state)
{
    (void)state;
    struct manifest_plan plan, more;
    const struct array_type base = matrix(ARRAY_INT8, 50000, 128);
    assert_int_equal(plan_knn(base, matrix(ARRAY_INT8, 5000, 128), "k=5", &plan), MANIFEST_OK);
    assert_int_equal(plan_knn(base, matrix(ARRAY_INT8, 999999, 128), "k=5", &more), MANIFEST_OK);
    assert_int_equal(plan.shard_items, more.shard_items);
}

static void cut_stays_within_its_bytes(void **state)
{
    (void)state;
    struct manifest_plan plan;
    assert_int_equal(plan_knn(matrix(ARRAY_INT8, 2000, 1), matrix(ARRAY_INT8, 1000000, 1), "k=1024", &plan),
                     MANIFEST_OK);
    assert_true(plan.shard_items * plan.output_item_bytes[0] <= MANIFEST_SHARD_BYTES_AIM);
    const struct manifest *embed = manifest_find("embed");
    struct manifest_params params;
    manifest_params_parse(embed, NULL, 0, &params, error);
    const struct manifest_given text = {
        .name = "text", .type = {ARRAY_TEXT, 1, {1000}}, .role = MANIFEST_SPLIT, .bytes = 100u << 20};
    const struct manifest_wish wish = {0};
    assert_int_equal(manifest_check(embed, &params, &text, 1, &wish, &plan, error), MANIFEST_OK);
    assert_true(plan.shard_items * ((100u << 20) / 1000) <= MANIFEST_SHARD_BYTES_AIM);
}

static void kernels_are_listed_found_and_digested(void **state)
{
    (void)state;
    const struct manifest *manifest;
    size_t count = 0;
    for (; (manifest = manifest_each(count)); count++) {
        assert_ptr_equal(manifest_find(manifest->name), manifest);
        assert_true(strlen(manifest->name) < MANIFEST_NAME_BYTES);
        for (size_t other = 0; other < count; other++) {
            assert_true(strcmp(manifest_each(other)->name, manifest->name) < 0);
            assert_memory_not_equal(manifest_source_digest(manifest_each(other)),
                                    manifest_source_digest(manifest), 32);
        }
    }
    assert_int_equal(count, 9);
    assert_null(manifest_find("knm"));
    manifest_unknown_text("knm", error);
    assert_non_null(strstr(error, "did you mean 'knn'"));
    manifest_unknown_text("a name that is longer than any kernel's name could ever be", error);
    assert_null(strstr(error, "did you mean"));
    for (unsigned i = 0; i < MANIFEST_ERRORS; i++)
        assert_non_null(manifest_error_text((enum manifest_error)i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_become_canonical_bytes),
        cmocka_unit_test(bad_parameters_are_refused_by_name),
        cmocka_unit_test(parameters_of_a_peer_are_checked_again),
        cmocka_unit_test(inputs_are_matched_by_name_and_planned),
        cmocka_unit_test(bad_inputs_are_refused_with_a_sentence),
        cmocka_unit_test(matmul_and_montecarlo_check_their_shapes),
        cmocka_unit_test(kernel_without_inputs_takes_items_from_the_job),
        cmocka_unit_test(values_out_of_range_are_found_with_their_row),
        cmocka_unit_test(cut_keeps_still_when_rows_are_appended),
        cmocka_unit_test(cut_stays_within_its_bytes),
        cmocka_unit_test(kernels_are_listed_found_and_digested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
