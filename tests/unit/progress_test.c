#include "node/cli/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static json_t *job_of(int done, int shards, int cached)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:[{s:s, s:i}, {s:s, s:i}, {s:s, s:i}]}", "kernel", "knn", "done",
                     done, "shards", shards, "cached", cached, "by_node", "site", "ashburn", "shards", 3,
                     "site", "osaka", "shards", 2, "site", "ashburn", "shards", 4);
}

static void nodes_of_one_site_count_together(void **state)
{
    (void)state;
    char text[256];
    json_t *job = job_of(10, 1040, 1);
    progress_job_text(job, 4000, 200, text, sizeof text);
    json_decref(job);
    assert_string_equal(text, "knn  [>               ]  10/1,040  ETA 4.0 s  ashburn 7  osaka 2  cached 1");
}

static void a_finished_job_fills_the_bar_and_has_no_eta(void **state)
{
    (void)state;
    char text[256];
    json_t *job = job_of(8, 8, 0);
    progress_job_text(job, -1, 200, text, sizeof text);
    json_decref(job);
    assert_string_equal(text, "knn  [================]  8/8  ashburn 7  osaka 2");
}

static void a_job_without_shards_yet_is_no_division_by_zero(void **state)
{
    (void)state;
    char text[256];
    json_t *job = json_pack("{s:s}", "kernel", "embed");
    progress_job_text(job, -1, 200, text, sizeof text);
    json_decref(job);
    assert_string_equal(text, "embed  [>               ]  0/0");
}

static void no_line_is_as_wide_as_the_terminal(void **state)
{
    (void)state;
    for (int columns = 1; columns < 100; columns++) {
        char text[256];
        json_t *job = job_of(500, 1000, 20);
        progress_job_text(job, 100, columns, text, sizeof text);
        json_decref(job);
        assert_true(strlen(text) < (size_t)columns);
    }
}

static void many_sites_are_summed_up(void **state)
{
    (void)state;
    json_t *nodes = json_array();
    for (int i = 0; i < 40; i++) {
        char site[70];
        memset(site, 'a' + i % 26, sizeof site);
        site[60 + i / 26] = '\0';
        json_array_append_new(nodes, json_pack("{s:s, s:i}", "site", site, "shards", 1));
    }
    json_t *job =
        json_pack("{s:s, s:i, s:i, s:o}", "kernel", "knn", "done", 40, "shards", 40, "by_node", nodes);
    char text[1024];
    progress_job_text(job, -1, 0, text, sizeof text);
    json_decref(job);
    assert_non_null(strstr(text, "knn  [================]  40/40"));
    assert_true(strlen(text) < 512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_of_one_site_count_together),
        cmocka_unit_test(a_finished_job_fills_the_bar_and_has_no_eta),
        cmocka_unit_test(a_job_without_shards_yet_is_no_division_by_zero),
        cmocka_unit_test(no_line_is_as_wide_as_the_terminal),
        cmocka_unit_test(many_sites_are_summed_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
