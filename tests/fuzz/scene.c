/* Scenes from strangers. What is accepted holds finite numbers within its counts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/render_scene.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void demand(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct render_scene scene;
    char error[200] = "";
    if (!render_parse(&scene, (const char *)bytes, count, error, sizeof error)) {
        demand(error[0] && strlen(error) < sizeof error);
        return 0;
    }
    demand(scene.sphere_count <= RENDER_SPHERES_MAX && scene.plane_count <= RENDER_PLANES_MAX &&
           scene.light_count <= RENDER_LIGHTS_MAX && scene.sphere_count + scene.plane_count > 0);
    for (uint32_t i = 0; i < scene.light_count; i++)
        demand(scene.lights[i] < scene.sphere_count && scene.materials[scene.lights[i]].kind == RENDER_LIGHT);
    for (uint32_t i = 0; i < scene.sphere_count; i++)
        demand(isfinite(scene.x[i]) && isfinite(scene.y[i]) && isfinite(scene.z[i]) && scene.radius[i] > 0);
    for (uint32_t i = 0; i < scene.plane_count; i++)
        for (int axis = 0; axis < 4; axis++)
            demand(isfinite(scene.planes[i][axis]));
    for (int axis = 0; axis < 3; axis++)
        demand(isfinite(scene.eye[axis]) && isfinite(scene.right[axis]) && isfinite(scene.up[axis]) &&
               isfinite(scene.forward[axis]));
    demand(isfinite(scene.tangent) && scene.tangent > 0);
    return 0;
}
