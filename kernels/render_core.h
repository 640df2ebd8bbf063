/* One pixel of a picture, shared by the CPU and the CUDA code so that both give the same bits.
 *
 * Paths from the camera, in float32: at a diffuse surface one light is chosen and a point of what is seen of it, so that
 * shadows are soft without much noise; then the path goes on in a direction drawn by the cosine. Metal and glass reflect
 * and refract (Schlick's approximation of Fresnel's law), and what they show of a light counts where they show it. A path
 * ends at the sky, in a light, by roulette from its fourth turn on, or after `depth` turns.
 *
 * Every number drawn is Philox's, by (pixel, sample, turn), so a pixel is the same whoever computes it; samples are added in
 * ascending order. The mean is brought to the screen by a fit of the ACES film curve (Narkowicz 2015) and the sRGB curve. */
#ifndef KERNELS_RENDER_CORE_H
#define KERNELS_RENDER_CORE_H

#include "kernels/render_scene.h"
#include "kernels/weir_math.h"

#define RENDER_NONE 0xffffffffu
#define RENDER_FAR 3e38f
#define RENDER_NEAR 1e-3f /* a path leaves a surface by more than this */
#define RENDER_ROULETTE 4

struct render_vector {
    float x, y, z;
};

struct render_settings {
    uint64_t seed;
    uint32_t width, height, samples, depth;
    float exposure, clamp;
};

struct render_hit {
    float distance;
    uint32_t object; /* a sphere, RENDER_SPHERES_MAX + a plane, or RENDER_NONE */
};

WEIR_INLINE struct render_vector render_make(float x, float y, float z)
{
    struct render_vector v;
    v.x = x;
    v.y = y;
    v.z = z;
    return v;
}

WEIR_INLINE struct render_vector render_add(struct render_vector a, struct render_vector b)
{
    return render_make(a.x + b.x, a.y + b.y, a.z + b.z);
}

WEIR_INLINE struct render_vector render_less(struct render_vector a, struct render_vector b)
{
    return render_make(a.x - b.x, a.y - b.y, a.z - b.z);
}

WEIR_INLINE struct render_vector render_times(struct render_vector a, float factor)
{
    return render_make(a.x * factor, a.y * factor, a.z * factor);
}

WEIR_INLINE struct render_vector render_tint(struct render_vector a, struct render_vector b)
{
    return render_make(a.x * b.x, a.y * b.y, a.z * b.z);
}

WEIR_INLINE float render_dot(struct render_vector a, struct render_vector b)
{
    return a.x * b.x + a.y * b.y + a.z * b.z;
}

WEIR_INLINE struct render_vector render_unit(struct render_vector a)
{
    return render_times(a, 1.0f / weir_sqrtf(render_dot(a, a)));
}

WEIR_INLINE struct render_vector render_load(const float v[3])
{
    return render_make(v[0], v[1], v[2]);
}

WEIR_INLINE float render_max(float a, float b)
{
    return a > b ? a : b;
}

WEIR_INLINE float render_min(float a, float b)
{
    return a < b ? a : b;
}

/* Distance to sphere n along a unit direction; RENDER_FAR if it is missed. Without branches, so that a CPU does 16 at
 * once. The half chord comes from the foot of the perpendicular, which keeps its digits for small and for far spheres. */
WEIR_INLINE float render_sphere(const struct render_scene *scene, uint32_t n, struct render_vector from,
                                struct render_vector to)
{
    const float x = from.x - scene->x[n], y = from.y - scene->y[n], z = from.z - scene->z[n];
    const float radius = scene->radius[n];
    const float b = -(x * to.x + y * to.y + z * to.z);
    const float foot_x = x + b * to.x, foot_y = y + b * to.y, foot_z = z + b * to.z;
    const float square = radius * radius - (foot_x * foot_x + foot_y * foot_y + foot_z * foot_z);
    const float half = weir_sqrtf(render_max(square, 0.0f));
    const float entry = b - half, exit = b + half;
    const float distance = entry > RENDER_NEAR ? entry : exit;
    return ((square > 0.0f) & (radius > 0.0f) & (distance > RENDER_NEAR)) ? distance : RENDER_FAR;
}

WEIR_INLINE struct render_hit render_nearest_sphere(const struct render_scene *scene,
                                                    struct render_vector from, struct render_vector to)
{
    struct render_hit hit = {RENDER_FAR, RENDER_NONE};
#ifdef __CUDACC__
    for (uint32_t n = 0; n < scene->sphere_count; n++) {
        const float distance = render_sphere(scene, n, from, to);
        if (distance < hit.distance) {
            hit.distance = distance;
            hit.object = n;
        }
    }
#else
    /* The same in loops that compilers vectorise: bits of positive floats are in order as integers are. */
    uint32_t distances[RENDER_SPHERES_MAX], least = weir_bitsf(RENDER_FAR);
    const uint32_t count = (scene->sphere_count + RENDER_LANES - 1) / RENDER_LANES * RENDER_LANES;
    for (uint32_t n = 0; n < count; n++)
        distances[n] = weir_bitsf(render_sphere(scene, n, from, to));
    for (uint32_t n = 0; n < count; n++)
        least = distances[n] < least ? distances[n] : least;
    if (least == weir_bitsf(RENDER_FAR))
        return hit;
    hit.distance = weir_floatf(least);
    hit.object = 0;
    while (distances[hit.object] != least)
        hit.object++;
#endif
    return hit;
}

WEIR_INLINE struct render_hit render_nearest(const struct render_scene *scene, struct render_vector from,
                                             struct render_vector to)
{
    struct render_hit hit = render_nearest_sphere(scene, from, to);
    for (uint32_t n = 0; n < scene->plane_count; n++) {
        const struct render_vector normal = render_load(scene->planes[n]);
        const float slope = render_dot(normal, to);
        const float distance = (scene->planes[n][3] - render_dot(normal, from)) / slope;
        if (slope != 0.0f && distance > RENDER_NEAR && distance < hit.distance) {
            hit.distance = distance;
            hit.object = RENDER_SPHERES_MAX + n;
        }
    }
    return hit;
}

/* Four numbers for one purpose (`use`) of one turn of one path. */
WEIR_INLINE void render_draw(const struct render_settings *settings, uint32_t pixel, uint32_t sample,
                             uint32_t turn, uint32_t use, float out[4])
{
    uint32_t words[4];
    weir_philox(pixel, sample, turn, use, (uint32_t)settings->seed, (uint32_t)(settings->seed >> 32), words);
    out[0] = weir_unitf(words[0]);
    out[1] = weir_unitf(words[1]);
    out[2] = weir_unitf(words[2]);
    out[3] = weir_unitf(words[3]);
}

/* Around `axis`: a direction whose cosine to it is `cosine`, turned by `turn` of a circle (Duff and others 2017). */
WEIR_INLINE struct render_vector render_around(struct render_vector axis, float cosine, float turn)
{
    float sine_turn, cosine_turn;
    weir_sincos_turnsf(turn, &sine_turn, &cosine_turn);
    const float sine = weir_sqrtf(render_max(1.0f - cosine * cosine, 0.0f));
    const float sign = axis.z < 0.0f ? -1.0f : 1.0f;
    const float a = -1.0f / (sign + axis.z), b = axis.x * axis.y * a;
    const struct render_vector first =
        render_make(1.0f + sign * axis.x * axis.x * a, sign * b, -sign * axis.x);
    const struct render_vector second = render_make(b, sign + axis.y * axis.y * a, -axis.y);
    return render_unit(render_add(
        render_add(render_times(first, sine * cosine_turn), render_times(second, sine * sine_turn)),
        render_times(axis, cosine)));
}

WEIR_INLINE struct render_vector render_sky(const struct render_scene *scene, struct render_vector to)
{
    const float height = render_max(to.y, 0.0f), share = weir_sqrtf(height);
    return render_add(render_times(render_load(scene->horizon), 1.0f - share),
                      render_times(render_load(scene->zenith), share));
}

WEIR_INLINE struct render_vector render_colour(const struct render_material *material,
                                               struct render_vector at)
{
    if (material->kind == RENDER_CHECKER) {
        /* Rounded, so that the origin is in the middle of a cube: a floor at height 0 doesn't flicker between two. */
        const int32_t x = (int32_t)(at.x * material->value + 12582912.0f);
        const int32_t y = (int32_t)(at.y * material->value + 12582912.0f);
        const int32_t z = (int32_t)(at.z * material->value + 12582912.0f), sum = x + y + z;
        if (sum & 1)
            return render_make(material->other_red, material->other_green, material->other_blue);
    }
    return render_make(material->red, material->green, material->blue);
}

/* What one light, chosen at random, gives directly to a diffuse surface of white. */
WEIR_INLINE struct render_vector render_light(const struct render_scene *scene, struct render_vector at,
                                              struct render_vector normal, const float draw[4])
{
    const struct render_vector none = render_make(0.0f, 0.0f, 0.0f);
    if (scene->light_count == 0)
        return none;
    uint32_t chosen = (uint32_t)(int32_t)(draw[2] * (float)(int32_t)scene->light_count);
    chosen = scene->lights[chosen < scene->light_count ? chosen : scene->light_count - 1];
    const struct render_vector gap =
        render_less(render_make(scene->x[chosen], scene->y[chosen], scene->z[chosen]), at);
    const float square = render_dot(gap, gap), radius = scene->radius[chosen];
    const float sine2 = radius * radius / square;
    if (!(sine2 < 1.0f))
        return none;                                                                /* inside the light */
    const float least = weir_sqrtf(1.0f - sine2), opening = sine2 / (1.0f + least); /* 1 - least */
    const struct render_vector to =
        render_around(render_times(gap, 1.0f / weir_sqrtf(square)), 1.0f - draw[0] * opening, draw[1]);
    const float cosine = render_dot(normal, to);
    if (!(cosine > 0.0f) || render_nearest(scene, at, to).object != chosen)
        return none;
    const struct render_material *material = &scene->materials[chosen];
    return render_times(render_make(material->red, material->green, material->blue),
                        cosine * 2.0f * opening * (float)(int32_t)scene->light_count);
}

/* The direction in which glass sends a path on. */
WEIR_INLINE struct render_vector render_glass(struct render_vector to, struct render_vector normal,
                                              float index, int inside, float chance)
{
    const float ratio = inside ? index : 1.0f / index;
    const float cosine = render_min(-render_dot(to, normal), 1.0f);
    const float square = 1.0f - ratio * ratio * (1.0f - cosine * cosine);
    const float base = (1.0f - index) / (1.0f + index), r0 = base * base;
    const float cosine_out = weir_sqrtf(render_max(square, 0.0f));
    const float c = 1.0f - (inside ? cosine_out : cosine), c2 = c * c;
    const float mirrored = r0 + (1.0f - r0) * (c2 * c2 * c);
    if (!(square > 0.0f) || chance < mirrored)
        return render_unit(render_add(to, render_times(normal, 2.0f * cosine)));
    return render_unit(
        render_add(render_times(to, ratio), render_times(normal, ratio * cosine - cosine_out)));
}

WEIR_INLINE struct render_vector render_path(const struct render_scene *scene,
                                             const struct render_settings *settings, uint32_t pixel,
                                             uint32_t sample, struct render_vector from,
                                             struct render_vector to)
{
    struct render_vector sum = render_make(0.0f, 0.0f, 0.0f), weight = render_make(1.0f, 1.0f, 1.0f);
    int lights_count = 1; /* lights that are hit now were not asked for before */
    for (uint32_t turn = 0; turn < settings->depth; turn++) {
        const struct render_hit hit = render_nearest(scene, from, to);
        if (hit.object == RENDER_NONE)
            return render_add(sum, render_tint(weight, render_sky(scene, to)));
        const struct render_material *material = &scene->materials[hit.object];
        if (material->kind == RENDER_LIGHT) {
            if (lights_count)
                sum = render_add(
                    sum, render_tint(weight, render_make(material->red, material->green, material->blue)));
            return sum;
        }
        const struct render_vector at = render_add(from, render_times(to, hit.distance));
        struct render_vector normal;
        if (hit.object < RENDER_SPHERES_MAX)
            normal = render_unit(render_less(
                at, render_make(scene->x[hit.object], scene->y[hit.object], scene->z[hit.object])));
        else
            normal = render_load(scene->planes[hit.object - RENDER_SPHERES_MAX]);
        const int inside = render_dot(normal, to) > 0.0f;
        if (inside)
            normal = render_times(normal, -1.0f);
        float draw[4];
        render_draw(settings, pixel, sample, turn, 1, draw);
        weight = render_tint(weight, render_colour(material, at));
        if (turn >= RENDER_ROULETTE) {
            const float chance = render_min(render_max(weight.x, render_max(weight.y, weight.z)), 0.95f);
            if (!(draw[3] < chance))
                return sum;
            weight = render_times(weight, 1.0f / chance);
        }
        from = at;
        lights_count = 1;
        if (material->kind == RENDER_METAL) {
            to = render_add(to, render_times(normal, -2.0f * render_dot(normal, to)));
            if (material->value > 0.0f)
                to = render_add(
                    to, render_times(render_around(normal, 2.0f * draw[0] - 1.0f, draw[1]), material->value));
            to = render_unit(to);
            if (!(render_dot(to, normal) > 0.0f))
                return sum;
        } else if (material->kind == RENDER_GLASS) {
            to = render_glass(to, normal, material->value, inside, draw[2]);
        } else {
            float light[4];
            render_draw(settings, pixel, sample, turn, 2, light);
            sum = render_add(sum, render_tint(weight, render_light(scene, at, normal, light)));
            to = render_around(normal, weir_sqrtf(draw[0]), draw[1]);
            lights_count = 0;
        }
    }
    return sum;
}

WEIR_INLINE struct render_vector render_sample(const struct render_scene *scene,
                                               const struct render_settings *settings, uint32_t column,
                                               uint32_t row, uint32_t sample)
{
    const uint32_t pixel = row * settings->width + column;
    float draw[4];
    render_draw(settings, pixel, sample, 0, 0, draw);
    const float height = (float)(int32_t)settings->height;
    const float across =
        (2.0f * ((float)(int32_t)column + draw[0]) - (float)(int32_t)settings->width) / height;
    const float above = 1.0f - 2.0f * ((float)(int32_t)row + draw[1]) / height;
    struct render_vector from = render_load(scene->eye);
    struct render_vector to =
        render_add(render_load(scene->forward),
                   render_add(render_times(render_load(scene->right), across * scene->tangent),
                              render_times(render_load(scene->up), above * scene->tangent)));
    if (scene->lens > 0.0f) {
        float sine, cosine;
        weir_sincos_turnsf(draw[3], &sine, &cosine);
        const float radius = scene->lens * weir_sqrtf(draw[2]);
        const struct render_vector off = render_add(render_times(render_load(scene->right), radius * cosine),
                                                    render_times(render_load(scene->up), radius * sine));
        to = render_less(render_times(to, scene->focus), off);
        from = render_add(from, off);
    }
    const struct render_vector light = render_path(scene, settings, pixel, sample, from, render_unit(to));
    return render_make(render_min(light.x, settings->clamp), render_min(light.y, settings->clamp),
                       render_min(light.z, settings->clamp));
}

/* Light to one byte of the picture. */
WEIR_INLINE uint8_t render_screen(float sum, const struct render_settings *settings)
{
    const double x = (double)sum / (double)(int32_t)settings->samples * (double)settings->exposure;
    const double film = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14);
    const double light = film > 1.0 ? 1.0 : film;
    const double screen =
        light <= 0.0031308 ? 12.92 * light : 1.055 * weir_exp(weir_log(light) / 2.4) - 0.055;
    return (uint8_t)(int32_t)(screen * 255.0 + 0.5);
}

WEIR_INLINE void render_pixel(const struct render_scene *scene, const struct render_settings *settings,
                              uint32_t column, uint32_t row, uint8_t out[3])
{
    struct render_vector sum = render_make(0.0f, 0.0f, 0.0f);
    for (uint32_t sample = 0; sample < settings->samples; sample++)
        sum = render_add(sum, render_sample(scene, settings, column, row, sample));
    out[0] = render_screen(sum.x, settings);
    out[1] = render_screen(sum.y, settings);
    out[2] = render_screen(sum.z, settings);
}

#endif
