#include "node/cli/picture.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIDE_MAX 65535 /* of a picture, in pixels */

struct output {
    int fd;
    char *why;
};

bool picture_named(const char *path)
{
    const size_t bytes = strlen(path);
    return bytes > 4 && strcasecmp(path + bytes - 4, ".png") == 0;
}

/* libpng leaves an error by longjmp to where encode began. */
static void on_error(png_structp png, png_const_charp message)
{
    const struct output *output = png_get_error_ptr(png);
    snprintf(output->why, PICTURE_WHY_BYTES, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

static void on_write(png_structp png, png_bytep bytes, size_t count)
{
    const struct output *output = png_get_io_ptr(png);
    while (count > 0) {
        const ssize_t written = write(output->fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            png_error(png, strerror(errno));
        bytes += written;
        count -= (size_t)written;
    }
}

static void on_flush(png_structp png)
{
    (void)png;
}

static bool encode(const struct array_type *type, const uint8_t *rows, struct output *output)
{
    static const int colours[] = {
        [1] = PNG_COLOR_TYPE_GRAY, [3] = PNG_COLOR_TYPE_RGB, [4] = PNG_COLOR_TYPE_RGBA};
    const uint64_t channels = type->rank == 3 ? type->shape[2] : 1;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, output, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    volatile bool good = false;
    if (info && !setjmp(png_jmpbuf(png))) {
        png_set_write_fn(png, output, on_write, on_flush);
        png_set_IHDR(png, info, (png_uint_32)type->shape[1], (png_uint_32)type->shape[0], 8,
                     colours[channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                     PNG_FILTER_TYPE_DEFAULT);
        png_set_sRGB(png, info, PNG_sRGB_INTENT_PERCEPTUAL);
        png_write_info(png, info);
        for (uint64_t row = 0; row < type->shape[0]; row++)
            png_write_row(png, rows + row * type->shape[1] * channels);
        png_write_end(png, info);
        good = true;
    } else if (!info) {
        snprintf(output->why, PICTURE_WHY_BYTES, "out of memory");
    }
    png_destroy_write_struct(&png, &info);
    return good;
}

bool picture_fits(const struct array_type *type, char why[PICTURE_WHY_BYTES])
{
    char text[ARRAY_TYPE_TEXT_BYTES];
    const uint64_t channels = type->rank == 3 ? type->shape[2] : 1;
    const bool shaped = type->dtype == ARRAY_UINT8 && (type->rank == 2 || type->rank == 3) &&
                        (channels == 1 || channels == 3 || channels == 4);
    const bool fits = shaped && type->shape[0] > 0 && type->shape[0] <= SIDE_MAX && type->shape[1] > 0 &&
                      type->shape[1] <= SIDE_MAX;
    if (!shaped)
        snprintf(why, PICTURE_WHY_BYTES,
                 "a PNG is made of uint8 [height, width] or [height, width, 3], and this is %.100s; name a "
                 ".npy file",
                 array_type_text(type, text));
    else if (!fits)
        snprintf(why, PICTURE_WHY_BYTES,
                 "a PNG has sides of 1 to %d pixels, and this is %.100s; name a .npy file", SIDE_MAX,
                 array_type_text(type, text));
    return fits;
}

bool picture_write(int npy, int png, char why[PICTURE_WHY_BYTES])
{
    struct stat status;
    struct array_type type;
    uint64_t offset;
    if (fstat(npy, &status) != 0 || status.st_size <= 0) {
        snprintf(why, PICTURE_WHY_BYTES, "%s", strerror(errno));
        return false;
    }
    const size_t bytes = (size_t)status.st_size;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, npy, 0);
    if (map == MAP_FAILED) {
        snprintf(why, PICTURE_WHY_BYTES, "%s", strerror(errno));
        return false;
    }
    const enum array_error error = array_npy_decode(map, bytes, bytes, &type, &offset);
    bool good = false;
    if (error)
        snprintf(why, PICTURE_WHY_BYTES, "%s", array_error_text(error));
    else if (picture_fits(&type, why))
        good = encode(&type, (const uint8_t *)map + offset, &(struct output){.fd = png, .why = why});
    munmap(map, bytes);
    return good;
}
