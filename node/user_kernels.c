#include "node/user_kernels.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct user_kernel *known[USER_KERNELS_MAX];
    uint32_t count;
    uint64_t takes;
} table;

static struct digest name_of(const struct user_kernel_given *given)
{
    struct digest_stream stream;
    digest_init(&stream, "weir user kernel 1");
    digest_update_u64(&stream, given->text_bytes);
    digest_update(&stream, given->text, given->text_bytes);
    digest_update_u64(&stream, given->language);
    digest_update_u64(&stream, given->source_bytes);
    digest_update(&stream, given->source.bytes, sizeof given->source.bytes);
    return digest_final(&stream);
}

/* A place for one more: a new one, or that of the kernel which nobody holds and which was used longest ago. */
static struct user_kernel **make_room(void)
{
    struct user_kernel **oldest = NULL;
    if (table.count < USER_KERNELS_MAX)
        return &table.known[table.count++];
    for (uint32_t i = 0; i < table.count; i++)
        if (table.known[i]->holders == 0 && (!oldest || table.known[i]->used < (*oldest)->used))
            oldest = &table.known[i];
    if (oldest)
        free(*oldest);
    return oldest;
}

const struct manifest *user_kernels_take(const struct user_kernel_given *given, const char *file,
                                         char error[MANIFEST_ERROR_BYTES])
{
    const struct digest name = name_of(given);
    struct user_kernel *kernel = NULL;
    for (uint32_t i = 0; !kernel && i < table.count; i++)
        if (digest_equal(&table.known[i]->kernel, &name))
            kernel = table.known[i];
    if (!kernel) {
        kernel = malloc(sizeof *kernel);
        if (!kernel)
            abort();
        kernel->kernel = name;
        kernel->source = given->source;
        kernel->source_bytes = given->source_bytes;
        kernel->language = given->language;
        kernel->holders = 0;
        struct user_kernel **place = NULL;
        if (manifest_user_parse(file, given->text, given->text_bytes, &kernel->user, error) &&
            !(place = make_room()))
            snprintf(error, MANIFEST_ERROR_BYTES, "this node has jobs of %u users' kernels; try again later",
                     USER_KERNELS_MAX);
        if (!place) {
            free(kernel);
            return NULL;
        }
        *place = kernel;
    }
    kernel->holders++;
    kernel->used = ++table.takes;
    return &kernel->user.manifest;
}

const struct user_kernel *user_kernel_of(const struct manifest *manifest)
{
    return manifest->user ? (const struct user_kernel *)(const void *)manifest->user : NULL;
}

void user_kernels_drop(const struct manifest *manifest)
{
    for (uint32_t i = 0; manifest && manifest->user && i < table.count; i++)
        if (&table.known[i]->user == manifest->user)
            table.known[i]->holders--;
}

const struct user_kernel *user_kernels_each(uint32_t index)
{
    return index < table.count ? table.known[index] : NULL;
}
