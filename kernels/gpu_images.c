#include "kernels/gpu_images.h"

#ifdef WEIR_FATBIN_DIR
/* The assembler copies each fatbin into read-only data. */
#define IMAGE(name)                                                                                          \
    __asm__(".pushsection .rodata\n"                                                                         \
            ".balign 64\n"                                                                                   \
            "gpu_image_" #name ":\n"                                                                         \
            ".incbin \"" WEIR_FATBIN_DIR "/" #name ".fatbin\"\n"                                             \
            ".balign 8\n"                                                                                    \
            ".globl gpu_image_" #name "\n"                                                                   \
            ".hidden gpu_image_" #name "\n"                                                                  \
            ".popsection\n");                                                                                \
    extern const unsigned char gpu_image_##name[] __attribute__((visibility("hidden")));

IMAGE(embed)
IMAGE(kmeans)
IMAGE(knn)
IMAGE(matmul)
IMAGE(montecarlo)
IMAGE(nbody)
IMAGE(noop)
IMAGE(render)
IMAGE(spin)

#define ROW(name)                                                                                            \
    {                                                                                                        \
#name, gpu_image_##name                                                                              \
    }
const struct gpu_image gpu_images[] = {
    ROW(embed), ROW(kmeans), ROW(knn),    ROW(matmul), ROW(montecarlo),
    ROW(nbody), ROW(noop),   ROW(render), ROW(spin),
};
const size_t gpu_image_count = sizeof gpu_images / sizeof *gpu_images;
#else
const struct gpu_image gpu_images[] = {{NULL, NULL}};
const size_t gpu_image_count = 0;
#endif
