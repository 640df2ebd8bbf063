/* A scene as text, one thing a line, and as the renderer wants it.
 *
 *   # a comment
 *   camera EYE AT FIELD [APERTURE FOCUS]   where it stands and looks, the vertical field in degrees; with an aperture
 *                                          (diameter) it is sharp at the distance FOCUS only
 *   sky ZENITH HORIZON                     two colours; the sky is a light too
 *   sphere CENTRE RADIUS MATERIAL
 *   plane POINT NORMAL MATERIAL
 *
 * EYE, AT, CENTRE, POINT and NORMAL are three numbers, so are colours (red, green, blue; 0 to 1, lights brighter).
 *
 *   diffuse COLOUR                 chalk
 *   checker COLOUR COLOUR SIZE     chalk in two colours, in cubes of SIZE, one around the origin
 *   metal COLOUR ROUGHNESS         0 a mirror, 1 hardly one
 *   glass COLOUR INDEX             1.5 is window glass; COLOUR 1 1 1 is clear
 *   light COLOUR                   spheres only: shadows are soft as it is large
 *
 * Without a camera or a sky line there are sensible ones. */
#ifndef KERNELS_RENDER_SCENE_H
#define KERNELS_RENDER_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RENDER_SPHERES_MAX 512
#define RENDER_PLANES_MAX 8
#define RENDER_LIGHTS_MAX 16
#define RENDER_LINES_MAX 4096
#define RENDER_LINE_BYTES_MAX 255
#define RENDER_LANES 16 /* spheres are padded to a multiple of it, with such as nothing hits */

enum render_kind { RENDER_DIFFUSE, RENDER_CHECKER, RENDER_METAL, RENDER_GLASS, RENDER_LIGHT };

struct render_material {
    float red, green, blue;
    float other_red, other_green, other_blue; /* of a checker */
    float value;                              /* roughness, index, or one over the checker's size */
    uint32_t kind;
};

struct render_scene {
    float eye[3], right[3], up[3], forward[3]; /* of the camera; unit vectors */
    float tangent;                             /* of half the vertical field */
    float lens, focus;                         /* radius and distance; radius 0: all is sharp */
    float zenith[3], horizon[3];
    uint32_t sphere_count, plane_count, light_count;
    uint32_t lights[RENDER_LIGHTS_MAX]; /* numbers of spheres */
    float x[RENDER_SPHERES_MAX], y[RENDER_SPHERES_MAX], z[RENDER_SPHERES_MAX], radius[RENDER_SPHERES_MAX];
    float planes[RENDER_PLANES_MAX][4]; /* unit normal, and its product with a point of the plane */
    struct render_material materials[RENDER_SPHERES_MAX + RENDER_PLANES_MAX]; /* spheres', then planes' */
};

/* Reads all lines. False with one sentence about the first that is wrong: "scene line 7: ...". */
bool render_parse(struct render_scene *scene, const char *text, uint64_t bytes, char *error,
                  size_t error_bytes);

#endif
