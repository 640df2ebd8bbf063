#include "kernels/render_scene.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/weir_math.h"

#define FAR 1e6f /* no number of a scene is larger */

/* A line that is being read: what is left of it, and what was wrong first. */
struct reader {
    char text[RENDER_LINE_BYTES_MAX + 1];
    char *at;
    const char *wanted; /* NULL: all is well */
    char found[40];
};

static void wrong(struct reader *reader, const char *wanted, const char *found)
{
    if (reader->wanted)
        return;
    reader->wanted = wanted;
    snprintf(reader->found, sizeof reader->found, "%s", found);
}

static char *next_word(struct reader *reader)
{
    reader->at += strspn(reader->at, " \t\r");
    char *word = reader->at;
    reader->at += strcspn(reader->at, " \t\r");
    if (*reader->at)
        *reader->at++ = '\0';
    return word;
}

static float number(struct reader *reader, const char *wanted, float low, float high)
{
    char *word = next_word(reader), *end;
    const float value = strtof(word, &end);
    if (end == word || *end || !(value >= low && value <= high))
        wrong(reader, wanted, *word ? word : "the end of the line");
    return value;
}

static void triple(struct reader *reader, const char *wanted, float low, float high, float out[3])
{
    for (int i = 0; i < 3; i++)
        out[i] = number(reader, wanted, low, high);
}

static float dot(const float a[3], const float b[3])
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* False for a vector too short to have a direction. */
static bool unit(float v[3])
{
    const float square = dot(v, v);
    if (!(square > 1e-12f))
        return false;
    const float length = weir_sqrtf(square);
    for (int i = 0; i < 3; i++)
        v[i] = v[i] / length;
    return true;
}

static void cross(const float a[3], const float b[3], float out[3])
{
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

static void place_camera(struct render_scene *scene, const float eye[3], const float at[3], float degrees)
{
    static const float upright[3] = {0, 1, 0}, ahead[3] = {0, 0, -1};
    double sine, cosine;
    for (int i = 0; i < 3; i++) {
        scene->eye[i] = eye[i];
        scene->forward[i] = at[i] - eye[i];
    }
    unit(scene->forward);
    cross(scene->forward, upright, scene->right);
    if (!unit(scene->right)) { /* straight up or down */
        cross(scene->forward, ahead, scene->right);
        unit(scene->right);
    }
    cross(scene->right, scene->forward, scene->up);
    weir_sincos_turns((double)degrees / 720.0, &sine, &cosine);
    scene->tangent = (float)(sine / cosine);
}

static void read_camera(struct reader *reader, struct render_scene *scene)
{
    float eye[3], at[3], gap[3];
    triple(reader, "three numbers for where the camera stands", -FAR, FAR, eye);
    triple(reader, "three numbers for what it looks at", -FAR, FAR, at);
    const float degrees = number(reader, "its field, 1 to 170 degrees", 1, 170);
    for (int i = 0; i < 3; i++)
        gap[i] = at[i] - eye[i];
    if (!unit(gap))
        wrong(reader, "two places that differ", "one place to stand and look at");
    scene->lens = 0;
    scene->focus = 1;
    reader->at += strspn(reader->at, " \t\r");
    if (*reader->at && !reader->wanted) {
        scene->lens = 0.5f * number(reader, "an aperture, 0 to 100", 0, 100);
        scene->focus = number(reader, "the distance that is sharp, 0.001 to 1000000", 1e-3f, FAR);
    }
    if (!reader->wanted)
        place_camera(scene, eye, at, degrees);
}

static void read_material(struct reader *reader, struct render_material *material, bool may_shine)
{
    static const char *const words[] = {"diffuse", "checker", "metal", "glass", "light"};
    const char *word = next_word(reader);
    uint32_t kind = 0;
    float colour[3], other[3] = {0, 0, 0};
    while (kind <= RENDER_LIGHT && strcmp(word, words[kind]) != 0)
        kind++;
    if (kind > RENDER_LIGHT || (kind == RENDER_LIGHT && !may_shine)) {
        wrong(reader,
              may_shine ? "diffuse, checker, metal, glass or light" : "diffuse, checker, metal or glass",
              *word ? word : "the end of the line");
        return;
    }
    *material = (struct render_material){.kind = kind};
    triple(reader,
           kind == RENDER_LIGHT ? "three numbers for its colour, 0 to 10000"
                                : "three numbers for its colour, 0 to 1",
           0, kind == RENDER_LIGHT ? 1e4f : 1, colour);
    if (kind == RENDER_CHECKER) {
        triple(reader, "three numbers for its other colour, 0 to 1", 0, 1, other);
        material->value = 1 / number(reader, "the size of its cubes, 0.001 to 1000000", 1e-3f, FAR);
    }
    if (kind == RENDER_METAL)
        material->value = number(reader, "its roughness, 0 to 1", 0, 1);
    if (kind == RENDER_GLASS)
        material->value = number(reader, "its index, 1 to 3", 1, 3);
    material->red = colour[0];
    material->green = colour[1];
    material->blue = colour[2];
    material->other_red = other[0];
    material->other_green = other[1];
    material->other_blue = other[2];
}

static void read_sphere(struct reader *reader, struct render_scene *scene)
{
    float centre[3];
    const uint32_t n = scene->sphere_count;
    triple(reader, "three numbers for its centre", -FAR, FAR, centre);
    const float radius = number(reader, "its radius, 0.0001 to 100000", 1e-4f, 1e5f);
    struct render_material material = {0};
    read_material(reader, &material, true);
    if (n == RENDER_SPHERES_MAX)
        wrong(reader, "512 spheres at most", "one more");
    if (material.kind == RENDER_LIGHT && scene->light_count == RENDER_LIGHTS_MAX)
        wrong(reader, "16 lights at most", "one more");
    if (reader->wanted)
        return;
    scene->x[n] = centre[0];
    scene->y[n] = centre[1];
    scene->z[n] = centre[2];
    scene->radius[n] = radius;
    scene->materials[n] = material;
    scene->sphere_count++;
    if (material.kind == RENDER_LIGHT)
        scene->lights[scene->light_count++] = n;
}

static void read_plane(struct reader *reader, struct render_scene *scene)
{
    float point[3], normal[3];
    const uint32_t n = scene->plane_count;
    triple(reader, "three numbers for a point of it", -FAR, FAR, point);
    triple(reader, "three numbers for its normal", -FAR, FAR, normal);
    if (!unit(normal))
        wrong(reader, "a normal that is not zero", "0 0 0");
    struct render_material material = {0};
    read_material(reader, &material, false);
    if (n == RENDER_PLANES_MAX)
        wrong(reader, "8 planes at most", "one more");
    if (reader->wanted)
        return;
    memcpy(scene->planes[n], normal, sizeof normal);
    scene->planes[n][3] = dot(normal, point);
    scene->materials[RENDER_SPHERES_MAX + n] = material;
    scene->plane_count++;
}

static void read_line(struct reader *reader, struct render_scene *scene)
{
    const char *word = next_word(reader);
    if (strcmp(word, "camera") == 0) {
        read_camera(reader, scene);
    } else if (strcmp(word, "sky") == 0) {
        triple(reader, "three numbers for the zenith's colour, 0 to 10000", 0, 1e4f, scene->zenith);
        triple(reader, "three numbers for the horizon's colour, 0 to 10000", 0, 1e4f, scene->horizon);
    } else if (strcmp(word, "sphere") == 0) {
        read_sphere(reader, scene);
    } else if (strcmp(word, "plane") == 0) {
        read_plane(reader, scene);
    } else if (*word) {
        wrong(reader, "camera, sky, sphere, plane or a # comment", word);
    }
    word = next_word(reader);
    if (*word)
        wrong(reader, "the end of the line", word);
}

/* Copies a line without its comment; false if it is too long or no text. */
static bool take_line(struct reader *reader, const char *line, uint64_t bytes)
{
    const char *comment = memchr(line, '#', bytes);
    bytes = comment ? (uint64_t)(comment - line) : bytes;
    if (bytes > RENDER_LINE_BYTES_MAX || memchr(line, '\0', bytes))
        return false;
    memcpy(reader->text, line, bytes);
    reader->text[bytes] = '\0';
    reader->at = reader->text;
    reader->wanted = NULL;
    return true;
}

bool render_parse(struct render_scene *scene, const char *text, uint64_t bytes, char *error,
                  size_t error_bytes)
{
    static const float eye[3] = {0, 1.5f, 6}, at[3] = {0, 1, 0};
    *scene = (struct render_scene){.zenith = {0.35f, 0.55f, 0.95f}, .horizon = {0.9f, 0.95f, 1}, .focus = 1};
    place_camera(scene, eye, at, 40);
    const char *const end = text + bytes;
    uint64_t number = 1;
    for (const char *line = text; line < end; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        struct reader reader;
        if (!take_line(&reader, line, (uint64_t)(stop - line))) {
            snprintf(error, error_bytes, "scene line %llu: it is longer than %d characters, or no text",
                     (unsigned long long)number, RENDER_LINE_BYTES_MAX);
            return false;
        }
        read_line(&reader, scene);
        if (reader.wanted) {
            snprintf(error, error_bytes, "scene line %llu: expected %s, found '%s'",
                     (unsigned long long)number, reader.wanted, reader.found);
            return false;
        }
        line = stop + 1;
    }
    for (uint32_t i = scene->sphere_count; i < RENDER_SPHERES_MAX; i++)
        scene->radius[i] = -1; /* its square is not: see render_core.h */
    if (scene->sphere_count + scene->plane_count == 0) {
        snprintf(error, error_bytes, "scene: there is no sphere and no plane in it");
        return false;
    }
    return true;
}
