/* The compiled .cu files, as data inside the program. Empty where no CUDA compiler was found. */
#ifndef KERNELS_GPU_IMAGES_H
#define KERNELS_GPU_IMAGES_H

#include <stddef.h>

struct gpu_image {
    const char *name;  /* of the .cu file: "knn" */
    const void *image; /* a fatbin: sm_80, sm_90 and PTX */
};

extern const struct gpu_image gpu_images[];
extern const size_t gpu_image_count;

#endif
