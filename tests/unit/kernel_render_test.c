/* Scenes, good and bad, and what of a picture can be known beforehand. tests/integration/kernels_test.py compares whole
 * pictures with those of another path tracer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/builtin.h"
#include "kernels/kernel.h"
#include "kernels/render_scene.h"

kernel_function render_run_portable;

static bool parse(const char *text, char *error)
{
    static struct render_scene scene;
    error[0] = '\0';
    return render_parse(&scene, text, strlen(text), error, MANIFEST_ERROR_BYTES);
}

static void good_scenes_are_read(void **state)
{
    (void)state;
    static const char *const scenes[] = {
        "sphere 0 0 0 1 diffuse 1 1 1",
        "\n  # nothing\r\n\tplane 0 0 0 0 3 0 checker 1 1 1 0 0 0 2 # a floor\n",
        "camera 0 0 5 0 0 0 170 100 1e6\nsphere 1 2 3 1e5 metal 1 0 .5 1\nsphere 0 0 0 1e-4 light 9999 0 0",
        "camera 0 5 0 0 0 0 30\nsky 1 1 1 0 0 0\nplane 0 0 0 1 1 1 glass 1 1 1 3\n\n\n",
    };
    char error[MANIFEST_ERROR_BYTES];
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        if (!parse(scenes[i], error))
            fail_msg("%s: %s", scenes[i], error);
}

static void bad_scenes_are_refused_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } scenes[] = {
        {"# nothing\n", "no sphere"},
        {"sphere 0 0 0 1 diffuse 1 1 1\nspere 0 0 0 1 diffuse 1 1 1", "line 2: expected camera, sky, sphere"},
        {"sphere 0 0 0", "expected its radius"},
        {"sphere 0 0 zero 1 diffuse 1 1 1", "found 'zero'"},
        {"sphere 0 0 0 -1 diffuse 1 1 1", "found '-1'"},
        {"sphere 0 0 0 nan diffuse 1 1 1", "found 'nan'"},
        {"sphere 0 0 1e7 1 diffuse 1 1 1", "found '1e7'"},
        {"sphere 0 0 0 1", "diffuse, checker, metal, glass or light"},
        {"sphere 0 0 0 1 wood 1 1 1", "found 'wood'"},
        {"sphere 0 0 0 1 diffuse 1 1", "colour"},
        {"sphere 0 0 0 1 diffuse 1 1 2", "found '2'"},
        {"sphere 0 0 0 1 diffuse 1 1 1 1", "expected the end of the line"},
        {"sphere 0 0 0 1 glass 1 1 1 4", "index"},
        {"plane 0 0 0 0 0 0 diffuse 1 1 1", "normal"},
        {"plane 0 0 0 0 1 0 light 1 1 1", "found 'light'"},
        {"camera 0 0 0 0 0 0 40", "two places"},
        {"camera 0 0 1 0 0 0 171", "field"},
        {"camera 0 0 1 0 0 0 40 1", "sharp"},
        {"sphere 0 0 0 1 diffuse 1 1 1\n\001", "line 2"},
    };
    char error[MANIFEST_ERROR_BYTES];
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        if (parse(scenes[i].text, error) || !strstr(error, scenes[i].says))
            fail_msg("%s: '%s'", scenes[i].text, error);
    }
    static struct render_scene scene;
    assert_false(render_parse(&scene, "sphere\0 0", 9, error, sizeof error));
}

static void limits_hold_and_one_more_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int most;
    } cases[] = {{"sphere 0 0 0 1 diffuse 1 1 1\n", RENDER_SPHERES_MAX},
                 {"plane 0 0 0 0 1 0 diffuse 1 1 1\n", RENDER_PLANES_MAX},
                 {"sphere 0 0 0 1 light 1 1 1\n", RENDER_LIGHTS_MAX}};
    static char text[(RENDER_SPHERES_MAX + 1) * 40];
    char error[MANIFEST_ERROR_BYTES];
    for (int i = 0; i < 3; i++) {
        text[0] = '\0';
        for (int line = 0; line < cases[i].most; line++)
            strcat(text, cases[i].line);
        assert_true(parse(text, error));
        strcat(text, cases[i].line);
        assert_false(parse(text, error));
        assert_non_null(strstr(error, "at most"));
    }
    char line[RENDER_LINE_BYTES_MAX + 40];
    memset(line, ' ', sizeof line);
    strcpy(line + RENDER_LINE_BYTES_MAX - 28, "sphere 0 0 0 1 diffuse 1 1 1");
    assert_true(parse(line, error));
    memset(line, ' ', sizeof line - 1);
    strcpy(line + RENDER_LINE_BYTES_MAX - 27, "sphere 0 0 0 1 diffuse 1 1 1");
    assert_false(parse(line, error));
}

static void render(kernel_function *run, const char *scene, const char *const *settings, size_t count,
                   uint64_t first, uint64_t rows, uint8_t *picture)
{
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    assert_int_equal(manifest_params_parse(manifest_find("render"), settings, count, &params, error),
                     MANIFEST_OK);
    struct kernel_call call = {.manifest = manifest_find("render"),
                               .params = &params,
                               .first_item = first,
                               .items = rows,
                               .output_count = 1};
    call.inputs[0] =
        (struct kernel_input){.data = scene, .bytes = strlen(scene), .type = {ARRAY_TEXT, 1, {1}}};
    call.outputs[0].data = picture;
    assert_int_equal(run(&call), KERNEL_OK);
}

static const char everything[] = "camera 0 1 6 0 0.5 0 45 0.1 6\n"
                                 "plane 0 -1 0 0 1 0 checker .9 .9 .9 .2 .2 .2 1\n"
                                 "sphere -1.2 0 0 1 metal .9 .7 .4 .2\nsphere 1.2 0 0 1 glass 1 1 1 1.5\n"
                                 "sphere 0 0 -2 1 diffuse .8 .2 .2\nsphere 3 4 3 1 light 12 12 12\n";

static void pictures_have_the_same_bits_from_every_variant_and_cut(void **state)
{
    (void)state;
    enum { W = 40, H = 24 };
    char seed[32];
    snprintf(seed, sizeof seed, "seed=%d", rand());
    const char *const settings[] = {"width=40", "height=24", "samples=9", seed};
    static uint8_t whole[H * W * 3], portable[H * W * 3], part[5 * W * 3];
    render(render_run, everything, settings, 4, 0, H, whole);
    render(render_run_portable, everything, settings, 4, 0, H, portable);
    assert_memory_equal(whole, portable, sizeof whole);
    render(render_run, everything, settings, 4, 7, 5, part);
    assert_memory_equal(whole + 7 * W * 3, part, sizeof part);
}

/* In a white sky whatever takes no light away can't be seen: each pixel has the sky's brightness, 1 before the film curve. */
static void what_keeps_all_light_is_invisible_in_a_white_sky(void **state)
{
    (void)state;
    static const char *const materials[] = {"diffuse 1 1 1", "metal 1 1 1 0", "glass 1 1 1 1.5"};
    uint8_t picture[6 * 8 * 3];
    for (int i = 0; i < 3; i++) {
        char scene[200];
        snprintf(scene, sizeof scene, "camera 0 0 4 0 0 0 35\nsky 1 1 1 1 1 1\nsphere 0 0 0 1 %s",
                 materials[i]);
        render(render_run, scene,
               (const char *[]){"width=8", "height=6", "samples=400", "depth=64", "clamp=1000"}, 5, 0, 6,
               picture);
        for (size_t at = 0; at < sizeof picture; at++)
            assert_in_range(picture[at], 229, 233); /* 0.8038 by the film curve, 231 by that of sRGB */
    }
}

static void rows_beyond_the_picture_are_refused(void **state)
{
    (void)state;
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    uint8_t row[640 * 3];
    manifest_params_parse(manifest_find("render"), NULL, 0, &params, error);
    struct kernel_call call = {.manifest = manifest_find("render"),
                               .params = &params,
                               .first_item = 360,
                               .items = 1,
                               .output_count = 1};
    call.inputs[0] = (struct kernel_input){
        .data = everything, .bytes = sizeof everything - 1, .type = {ARRAY_TEXT, 1, {6}}};
    call.outputs[0].data = row;
    assert_int_equal(kernel_run(&call, NULL), KERNEL_REJECTED);
}

int main(int argc, char **argv)
{
    const unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_scenes_are_read),
        cmocka_unit_test(bad_scenes_are_refused_with_their_line),
        cmocka_unit_test(limits_hold_and_one_more_is_refused),
        cmocka_unit_test(pictures_have_the_same_bits_from_every_variant_and_cut),
        cmocka_unit_test(what_keeps_all_light_is_invisible_in_a_white_sky),
        cmocka_unit_test(rows_beyond_the_picture_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
