/* What people see of listings: alignment, cutting, and text from elsewhere that must not drive a terminal. */
#include "node/cli/cli.h"
#include "node/cli/format.h"
#include "node/cli/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const struct table_column columns[] = {
    {.title = "NAME", .cut = true}, {.title = "FREE", .right = true}, {.title = "NOTE", .cut = true}};

static struct table *table_of(const char *const *cells, size_t count)
{
    struct table *table = table_open(columns, 3);
    for (size_t i = 0; i < count; i++)
        table_cell(table, "%s", cells[i]);
    return table;
}

static void assert_prints(const struct table *table, int width, bool colour, const char *expected)
{
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    assert_non_null(out);
    table_print_as(table, out, width, colour);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

static void columns_align_by_characters_not_bytes(void **state)
{
    (void)state;
    static const char *const cells[] = {"z\u00fcrich", "7", "ok", "oslo", "104", "\u2014 quiet"};
    struct table *table = table_of(cells, 6);
    assert_int_equal(table_rows(table), 2);
    assert_prints(table, 0, false,
                  "NAME    FREE  NOTE\n"
                  "z\u00fcrich     7  ok\n"
                  "oslo     104  \u2014 quiet\n");
    table_close(table);
}

static void empty_table_prints_its_titles(void **state)
{
    (void)state;
    struct table *table = table_open(columns, 3);
    assert_int_equal(table_rows(table), 0);
    assert_prints(table, 80, false, "NAME  FREE  NOTE\n");
    table_close(table);
}

static void wide_rows_become_blocks_and_values_stay_whole(void **state)
{
    (void)state;
    static const char *const cells[] = {"ashburn", "7", "all is well here", "oslo", "104", ""};
    static const struct {
        int width;
        const char *expected;
    } cases[] = {
        {0, "NAME     FREE  NOTE\nashburn     7  all is well here\noslo      104\n"},
        {31, "NAME     FREE  NOTE\nashburn     7  all is well here\noslo      104\n"},
        {30, "ashburn  FREE 7\n    NOTE all is well here\noslo  FREE 104\n"},
        {18, "ashburn  FREE 7\n    NOTE all is\n         well here\noslo  FREE 104\n"},
    };
    struct table *table = table_of(cells, 6);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = NULL;
        size_t count = 0;
        FILE *out = open_memstream(&text, &count);
        assert_non_null(out);
        table_print_wide_as(table, out, cases[i].width, false);
        fclose(out);
        assert_string_equal(text, cases[i].expected);
        free(text);
    }
    table_close(table);
}

static void unfinished_row_is_not_printed(void **state)
{
    (void)state;
    static const char *const cells[] = {"oslo", "1", "ok", "lima"};
    struct table *table = table_of(cells, 4);
    assert_int_equal(table_rows(table), 1);
    assert_prints(table, 0, false, "NAME  FREE  NOTE\noslo     1  ok\n");
    table_close(table);
}

static void widest_column_is_cut_first_and_none_below_its_title(void **state)
{
    (void)state;
    static const char *const cells[] = {"long-node-name", "1", "a long note about it"};
    struct table *table = table_of(cells, 3);
    assert_prints(table, 32, false,
                  "NAME          FREE  NOTE\n"
                  "long-node-n\u2026     1  a long note\u2026\n");
    assert_prints(table, 22, false,
                  "NAME     FREE  NOTE\n"
                  "long-n\u2026     1  a long\u2026\n");
    assert_prints(table, 1, false,
                  "NAME  FREE  NOTE\n"
                  "lon\u2026     1  a l\u2026\n");
    table_close(table);
}

static void a_mark_stays_when_its_text_is_cut(void **state)
{
    (void)state;
    struct table *table = table_open(columns, 3);
    table_cell(table, "long-node-name");
    table_mark(table, '*');
    table_colour(table, TABLE_RED);
    table_cell(table, "1");
    table_cell(table, "ok");
    assert_prints(table, 0, false, "NAME             FREE  NOTE\nlong-node-name*     1  ok\n");
    assert_prints(table, 22, false, "NAME        FREE  NOTE\nlong-nod\u2026*     1  ok\n");
    assert_prints(table, 1, false, "NAME  FREE  NOTE\nlo\u2026*     1  ok\n");
    table_close(table);
}

static void prose_goes_on_below_itself_and_loses_no_word(void **state)
{
    (void)state;
    static const struct table_column prose[] = {{.title = "NAME"}, {.title = "WHAT", .wrap = true}};
    struct table *table = table_open(prose, 2);
    table_cell(table, "knn");
    table_cell(table, "exact nearest neighbours, by\u00e9 distance");
    table_cell(table, "spin");
    table_cell(table, "unbreakable-word");
    table_cell(table, "noop");
    table_cell(table, "%s", "");
    assert_prints(table, 0, false,
                  "NAME  WHAT\n"
                  "knn   exact nearest neighbours, by\u00e9 distance\n"
                  "spin  unbreakable-word\n"
                  "noop\n");
    assert_prints(table, 20, false,
                  "NAME  WHAT\n"
                  "knn   exact nearest\n"
                  "      neighbours,\n"
                  "      by\u00e9 distance\n"
                  "spin  unbreakable-wo\n"
                  "      rd\n"
                  "noop\n");
    table_close(table);
}

static void nothing_is_printed_behind_the_last_text(void **state)
{
    (void)state;
    static const char *const cells[] = {"oslo", "1", "", "lima", "", ""};
    struct table *table = table_of(cells, 6);
    assert_prints(table, 0, false, "NAME  FREE  NOTE\noslo     1\nlima\n");
    table_close(table);
}

static void cut_never_splits_a_character(void **state)
{
    (void)state;
    static const char *const cells[] = {"a", "1", "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"};
    struct table *table = table_of(cells, 3);
    assert_prints(table, 17, false, "NAME  FREE  NOTE\na        1  \u00e9\u00e9\u00e9\u00e9\u2026\n");
    table_close(table);
}

/* A node's name comes from a peer. */
static void no_cell_can_drive_the_terminal(void **state)
{
    (void)state;
    static const char *const cells[] = {"\033[2Jx", "\t1", "a\xc2\x9b[2J\x7f\n"};
    struct table *table = table_of(cells, 3);
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    table_print_as(table, out, 0, false);
    fclose(out);
    assert_null(strpbrk(text, "\033\t\x7f"));
    assert_null(strstr(text, "\xc2\x9b"));
    size_t lines = 0;
    for (const char *c = text; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 2);
    free(text);
    table_close(table);
}

static void colours_take_no_room_and_end_with_the_cell(void **state)
{
    (void)state;
    struct table *table = table_open(columns, 3);
    table_cell(table, "oslo");
    table_colour(table, TABLE_RED);
    table_cell(table, "%d", 12345);
    table_colour(table, TABLE_GREEN);
    table_cell(table, "down");
    assert_prints(table, 80, false, "NAME   FREE  NOTE\noslo  12345  down\n");
    assert_prints(table, 80, true,
                  "\033[1mNAME\033[0m   \033[1mFREE\033[0m  \033[1mNOTE\033[0m\n"
                  "\033[31moslo\033[0m  \033[32m12345\033[0m  down\n");
    table_close(table);
}

static void a_file_gets_neither_colour_nor_cuts(void **state)
{
    (void)state;
    static const char long_note[] =
        "a note that is much longer than the eighty columns which a terminal is taken "
        "to have when nobody says";
    const char *const cells[] = {"oslo", "1", long_note};
    struct table *table = table_of(cells, 3);
    FILE *out = tmpfile();
    assert_non_null(out);
    table_colour(table, TABLE_RED);
    table_print(table, out);
    table_write(out, TABLE_RED, "end");
    rewind(out);
    char text[400] = "";
    assert_true(fread(text, 1, sizeof text - 1, out) > 0);
    fclose(out);
    assert_non_null(strstr(text, long_note));
    assert_non_null(strstr(text, "\nend"));
    assert_null(strchr(text, '\033'));
    table_close(table);
}

/* ---- Values */

static void spans_read_as_people_write_them(void **state)
{
    (void)state;
    char text[FORMAT_BYTES];
    static const struct {
        int64_t ms;
        const char *duration, *age;
    } cases[] = {
        {-1, "-", "-"},
        {0, "0 ms", "now"},
        {999, "999 ms", "now"},
        {3400, "3.4 s", "3s"},
        {59949, "59.9 s", "59s"},
        {59999, "59.9 s", "59s"},
        {130000, "2 m 10 s", "2m"},
        {19200000, "5 h 20 m", "5h"},
        {273600000, "3 d 4 h", "3d"},
        {INT64_MAX, "106751991167 d 7 h", "106751991167d"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(format_duration(cases[i].ms, text), cases[i].duration);
        assert_string_equal(format_age(cases[i].ms, text), cases[i].age);
    }
}

static void round_trips_keep_three_digits(void **state)
{
    (void)state;
    char text[FORMAT_BYTES];
    static const struct {
        int64_t us;
        const char *text;
    } cases[] = {{-1, "-"},         {310, "0.31ms"},   {12400, "12.4ms"},
                 {99999, "99.9ms"}, {181000, "181ms"}, {999999, "999ms"},
                 {1000000, "1.0s"}, {2300000, "2.3s"}, {9999, "9.99ms"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(format_rtt(cases[i].us, text), cases[i].text);
}

static void sizes_are_binary_and_counts_are_grouped(void **state)
{
    (void)state;
    char text[FORMAT_BYTES];
    static const struct {
        uint64_t value;
        const char *bytes;
        const char *count;
    } cases[] = {
        {0, "0 B", "0"},
        {817, "817 B", "817"},
        {1023, "1023 B", "1,023"},
        {1536, "1.5 KiB", "1,536"},
        {102399, "100 KiB", "102,399"},
        {104334, "102 KiB", "104,334"},
        {1048575, "1.0 MiB", "1,048,575"},
        {536870912, "512 MiB", "536,870,912"},
        {2469606195, "2.3 GiB", "2,469,606,195"},
        {UINT64_MAX, "16384 PiB", "18,446,744,073,709,551,615"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(format_bytes(cases[i].value, text), cases[i].bytes);
        assert_string_equal(format_count(cases[i].value, text), cases[i].count);
    }
}

static void times_are_local_and_absent_ones_are_a_dash(void **state)
{
    (void)state;
    char text[FORMAT_BYTES];
    setenv("TZ", "UTC", 1);
    tzset();
    assert_string_equal(format_time(1777636803000, text), "2026-05-01 12:00:03");
    assert_string_equal(format_time(0, text), "-");
    assert_string_equal(format_time(INT64_MIN, text), "-");
    assert_string_equal(format_id("0123456789abcdef", text), "01234567");
    assert_string_equal(format_id("", text), "");
}

/* ---- Words */

static void the_nearest_word_is_offered_only_when_it_is_near(void **state)
{
    (void)state;
    static const char *const words[] = {"node", "nodes", "submit", "version", NULL};
    assert_string_equal(cli_nearest("nodse", words), "node");
    assert_string_equal(cli_nearest("sumbit", words), "submit");
    assert_string_equal(cli_nearest("vers", words), "version");
    assert_null(cli_nearest("x", words));
    assert_null(cli_nearest("", words));
    assert_null(cli_nearest("something-else-entirely-that-is-longer-than-any-command-there-could-be", words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_align_by_characters_not_bytes),
        cmocka_unit_test(empty_table_prints_its_titles),
        cmocka_unit_test(wide_rows_become_blocks_and_values_stay_whole),
        cmocka_unit_test(unfinished_row_is_not_printed),
        cmocka_unit_test(widest_column_is_cut_first_and_none_below_its_title),
        cmocka_unit_test(nothing_is_printed_behind_the_last_text),
        cmocka_unit_test(cut_never_splits_a_character),
        cmocka_unit_test(a_mark_stays_when_its_text_is_cut),
        cmocka_unit_test(prose_goes_on_below_itself_and_loses_no_word),
        cmocka_unit_test(no_cell_can_drive_the_terminal),
        cmocka_unit_test(colours_take_no_room_and_end_with_the_cell),
        cmocka_unit_test(a_file_gets_neither_colour_nor_cuts),
        cmocka_unit_test(spans_read_as_people_write_them),
        cmocka_unit_test(round_trips_keep_three_digits),
        cmocka_unit_test(sizes_are_binary_and_counts_are_grouped),
        cmocka_unit_test(times_are_local_and_absent_ones_are_a_dash),
        cmocka_unit_test(the_nearest_word_is_offered_only_when_it_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
