/* The config file: what is taken, and what is refused with which words. */
#include "node/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], main_path[96], extra_folder[96], error[1000];

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static bool load(struct config *config, const char *text)
{
    write_file(main_path, text);
    config_defaults(config);
    error[0] = '\0';
    return config_load(config, main_path, true, error, sizeof error);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/weir-config-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(main_path, sizeof main_path, "%s/weir.conf", folder);
    snprintf(extra_folder, sizeof extra_folder, "%s/conf.d", folder);
    return mkdir(extra_folder, 0700);
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static void every_type_is_read(void **state)
{
    (void)state;
    struct config config;
    assert_true(load(&config, "# a comment\n; another\n[network]\nbind = 10.0.0.1\ncontrol_port=7000\n"
                              "[http]\nport = off\n[work]\ncpu_slots = 3\ncuda_devices = auto\nhang = 2m\n"
                              "[store]\ncache = 512MiB\nkeep_jobs = 7d\n[log]\nlevel = debug\n"
                              "[tenants]\nuid-1000 = research\n"));
    assert_string_equal(config.bind, "10.0.0.1");
    assert_int_equal(config.control_port, 7000);
    assert_int_equal(config.http_port, CONFIG_HTTP_OFF);
    assert_int_equal(config.cpu_slots, 3);
    assert_int_equal(config.cuda_devices, -1);
    assert_int_equal(config.hang_s, 120);
    assert_int_equal(config.cache_bytes, 512u << 20);
    assert_int_equal(config.keep_jobs_s, 7 * 86400);
    assert_int_equal(config.log_level, 3);
    assert_int_equal(config.tenant_count, 1);
    assert_string_equal(config.tenant[0].tenant, "research");
    assert_int_equal(config.bulk_port, 7701); /* what is not named keeps its default */
}

static void indented_lines_are_keys_of_their_own(void **state)
{
    (void)state;
    struct config config;
    assert_true(load(&config, "[api]\n  group = staff\n\tadmin_group = wheel\n  [log]\n  level = warn\n"));
    assert_string_equal(config.group, "staff");
    assert_string_equal(config.admin_group, "wheel");
    assert_int_equal(config.log_level, 1);
}

static void what_is_wrong_is_said_with_file_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int line;
        const char *said;
    } cases[] = {
        {"[store]\ncach = 1GiB\n", 2, "unknown key 'cach' in [store]; did you mean 'cache' in [store]?"},
        {"[network]\n\ncahce = 1GiB\n", 3, "did you mean 'cache' in [store]?"},
        {"[sotre]\nxyzzyplugh = 1\n", 2, "unknown section [sotre]"},
        {"[store]\nxyzzyplugh = 1\n", 2, "weir config dump"},
        {"cache = 1GiB\n", 1, "did you mean 'cache' in [store]?"},
        {"root:x:0:0\n", 1, "'root' stands before any [section]"},
        {"[store]\ncache = 5 parsecs\n", 2, "it takes a size"},
        {"[store]\ncache = -1\n", 2, "it takes a size"},
        {"[store]\ncache =\n", 2, "it takes a size"},
        {"[store]\ncache = 99999999999999999999\n", 2, "it takes a size"},
        {"[store]\ncache = 18014398509481984KiB\n", 2, "it takes a size"},
        {"[store]\ncache = 1KiB\n", 2, "1MiB"},
        {"[work]\nhang = 0s\n", 2, "1s"},
        {"[node]\nstop_deadline = 0s\n", 2, "from 1s to 1d"},
        {"[node]\nstop_deadline = 25h\n", 2, "from 1s to 1d"},
        {"[node]\nstop_deadline = soon\n", 2, "a duration such as 30s"},
        {"[work]\ncpu_slots = 257\n", 2, "256"},
        {"[work]\n\nowner = mon-fry 08:00-18:00\n", 3, "mon-fri 08:00-18:00"},
        {"[work]\nowner = mon 08:00-25:00\n", 2, "'mon 08:00-25:00' is not good for owner in [work]"},
        {"[network]\ncontrol_port = 65536\n", 2, "a port"},
        {"[log]\nlevel = loud\n", 2, "error, warn, info or debug"},
        {"[tenants]\nbob = research\n", 2, "uid-NUMBER"},
        {"[tenants]\nuid-1 =\n", 2, "1 to 63 characters"},
        {"[tenants]\nuid-4294967296 = x\n", 2, "uid-NUMBER"},
        {"[store]\nwhat is this\n", 2, "neither [section], nor key = value"},
        {"[store\n", 1, "neither [section], nor key = value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config;
        char where[200];
        assert_false(load(&config, cases[i].text));
        snprintf(where, sizeof where, "%s:%d: ", main_path, cases[i].line);
        if (strncmp(error, where, strlen(where)) != 0 || !strstr(error, cases[i].said))
            fail_msg("'%s' of case %zu is not '%s... %s'", error, i, where, cases[i].said);
    }
}

static void a_line_too_long_is_refused_not_cut(void **state)
{
    (void)state;
    struct config config;
    char text[1000];
    snprintf(text, sizeof text, "[network]\nadvertise = %0400d\n[log]\nlevel = warn\n", 0);
    assert_false(load(&config, text));
    assert_non_null(strstr(error, "weir.conf:2: "));
    assert_non_null(strstr(error, "longer than"));
    char long_comment[1000];
    snprintf(long_comment, sizeof long_comment, "# %0120d\n[log]\nlevel = warn", 0);
    assert_true(load(&config, long_comment)); /* also without an end of line */
    assert_int_equal(config.log_level, 1);
}

static void files_beside_it_follow_in_order_of_name(void **state)
{
    (void)state;
    struct config config;
    char path[128];
    snprintf(path, sizeof path, "%s/20-late.conf", extra_folder);
    write_file(path, "[log]\nlevel = debug\n");
    snprintf(path, sizeof path, "%s/10-early.conf", extra_folder);
    write_file(path, "[log]\nlevel = error\n[node]\nregion = eu\n");
    snprintf(path, sizeof path, "%s/30-other.txt", extra_folder);
    write_file(path, "nonsense");
    assert_true(load(&config, "[log]\nlevel = warn\n[node]\nregion = us\n"));
    assert_int_equal(config.log_level, 3);
    assert_string_equal(config.region, "eu");
    snprintf(path, sizeof path, "%s/20-late.conf", extra_folder);
    write_file(path, "[log]\nlevle = debug\n");
    assert_false(load(&config, ""));
    assert_non_null(strstr(error, "20-late.conf:2: unknown key 'levle'"));
    unlink(path);
}

static void a_missing_file_is_an_error_only_if_it_was_named(void **state)
{
    (void)state;
    struct config config;
    char path[128];
    snprintf(path, sizeof path, "%s/none/weir.conf", folder);
    config_defaults(&config);
    assert_true(config_load(&config, path, false, error, sizeof error));
    assert_false(config_load(&config, path, true, error, sizeof error));
    assert_non_null(strstr(error, path));
}

static void a_dump_reads_back_as_the_same(void **state)
{
    (void)state;
    struct config config, again;
    config_defaults(&config);
    static const char *const settings[] = {"store.cache=3GiB", "work.hang=90s",    "node.stop_deadline=2m",
                                           "http.port=off",    "work.cpu_slots=2", "tenants.uid-7=guests",
                                           "node.region=eu"};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        assert_true(config_set(&config, settings[i], error, sizeof error));
    FILE *file = fopen(main_path, "w");
    config_dump(&config, file);
    fclose(file);
    config_defaults(&again);
    unlink(extra_folder);
    if (!config_load(&again, main_path, true, error, sizeof error))
        fail_msg("%s", error);
    assert_memory_equal(&config, &again, sizeof config);
}

static void an_assignment_is_checked_like_a_file(void **state)
{
    (void)state;
    struct config config;
    config_defaults(&config);
    assert_true(config_set(&config, "network.bind=127.0.0.1", error, sizeof error));
    assert_string_equal(config.bind, "127.0.0.1");
    assert_true(config_set(&config, "node.data=/a=b.c", error, sizeof error)); /* only the first ones count */
    assert_string_equal(config.data, "/a=b.c");
    assert_false(config_set(&config, "bind=127.0.0.1", error, sizeof error));
    assert_non_null(strstr(error, "SECTION.KEY=VALUE"));
    assert_false(config_set(&config, "network.bind", error, sizeof error));
    assert_false(config_set(&config, "network.bnid=1", error, sizeof error));
    assert_non_null(strstr(error, "did you mean 'bind'"));
    char text[700];
    snprintf(text, sizeof text, "network.bind=%0600d", 0);
    assert_false(config_set(&config, text, error, sizeof error));
    for (int i = 0; i < CONFIG_TENANTS_MAX; i++) {
        snprintf(text, sizeof text, "tenants.uid-%d=t", i);
        assert_true(config_set(&config, text, error, sizeof error));
    }
    assert_false(config_set(&config, "tenants.uid-1000=t", error, sizeof error));
    assert_true(config_set(&config, "tenants.uid-5=other", error, sizeof error)); /* a known one may change */
    assert_string_equal(config.tenant[5].tenant, "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_is_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(indented_lines_are_keys_of_their_own, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_wrong_is_said_with_file_and_line, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_line_too_long_is_refused_not_cut, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_beside_it_follow_in_order_of_name, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_missing_file_is_an_error_only_if_it_was_named, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_dump_reads_back_as_the_same, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(an_assignment_is_checked_like_a_file, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
